//! Golden files: the bytes that a layout had when its version was fixed (R3). Whatever changes, they must still be read, and
//! still be what the newest version writes until there is a newer one.
// Several test programs include this file, and none of them needs all of it.
#![allow(dead_code)]

use std::path::PathBuf;

/// The directory of this package. Cargo says it when it runs a test; what was compiled in is where the program was built, which
/// is another clone's directory when two of them share their target directory.
pub fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Reads `testdata/<name>`. Writes `written` there first when STELE_WRITE_GOLDEN is set: for a new layout only, never to make a
/// changed one pass.
pub fn read(name: &str, written: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = package().join("testdata").join(name);
    if std::env::var_os("STELE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, written()).expect("write the golden file");
    }
    std::fs::read(&path).expect("read the golden file")
}

/// Compares `bytes` with `testdata/<name>`.
pub fn check(name: &str, bytes: &[u8]) {
    let golden = read(name, || bytes.to_vec());
    assert!(golden == bytes, "{name}: what this code writes is not what drives hold");
}
