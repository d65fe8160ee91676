//! Golden files: the bytes that a layout had when its version was fixed (R3). Whatever changes, they must still be read, and
//! still be what the newest version writes until there is a newer one.

use std::path::Path;

/// Compares `bytes` with `testdata/<name>`. Writes the file instead when STELE_WRITE_GOLDEN is set: for a new layout only,
/// never to make a changed one pass.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    if std::env::var_os("STELE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).expect("write the golden file");
    }
    let golden = std::fs::read(&path).expect("read the golden file");
    assert!(golden == bytes, "{name}: what this code writes is not what drives hold");
}
