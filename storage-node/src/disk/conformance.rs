//! What every disk must do; the real one and the fault disk (without faults) run it.

use super::{Access, Disk, DiskError, DiskFile};

/// Runs the suite on an empty drive; `other` is the same drive as another process would open it.
pub(crate) fn run(disk: &dyn Disk, other: &dyn Disk) {
    locks(disk, other);
    files_hold_what_is_written(disk);
    the_medium_has_what_was_synced(disk);
    names(disk);
    directories(disk);
    paths_stay_inside(disk);
    durable_replacement(disk);
    names_are_checked(disk, other);
    allocation(disk);
    let space = disk.space().unwrap();
    assert!(space.free <= space.total);
    disk.capabilities();
}

fn locks(disk: &dyn Disk, other: &dyn Disk) {
    assert!(disk.exists().unwrap() && disk.is_empty().unwrap() && disk.same_directory().unwrap());
    let guard = disk.lock().unwrap();
    assert!(matches!(other.lock(), Err(DiskError::Locked { .. })));
    drop(guard);
    drop(other.lock().unwrap());
    assert!(disk.is_empty().unwrap(), "the lock is no content");
}

fn read_all(file: &dyn DiskFile) -> Vec<u8> {
    let mut bytes = vec![0xee; file.len().unwrap() as usize + 100];
    let n = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(n);
    bytes
}

fn files_hold_what_is_written(disk: &dyn Disk) {
    let file = disk.create("file").unwrap();
    assert!(!disk.is_empty().unwrap());
    assert_eq!(read_all(&*file), b"");
    file.write_at(b"hello", 4094).unwrap();
    file.write_at(b"HE", 4095).unwrap();
    file.write_at(b"", 1 << 20).unwrap();
    file.sync_data().unwrap();
    let mut expected = vec![0; 4094];
    expected.extend(b"hHElo");
    assert_eq!(read_all(&*file), expected);
    let mut some = [0; 3];
    assert_eq!(file.read_at(&mut some, 4095).unwrap(), 3);
    assert_eq!(&some, b"HEl");
    assert_eq!(file.read_at(&mut some, 4097).unwrap(), 2, "short at the end");
    assert_eq!(file.read_at(&mut some, 9999).unwrap(), 0);
    let reader = disk.open("file", Access::Read).unwrap();
    assert_eq!(read_all(&*reader), expected);
    assert!(reader.write_at(b"x", 0).is_err(), "opened for reading only");
    let writer = disk.open("file", Access::ReadWrite).unwrap();
    writer.write_at(b"x", 0).unwrap();
    assert_eq!(read_all(&*reader)[0], b'x');
}

fn the_medium_has_what_was_synced(disk: &dyn Disk) {
    let file = disk.create("medium").unwrap();
    let expected: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
    file.write_at(&expected, 0).unwrap();
    file.sync_data().unwrap();
    let (medium, _) = disk.open_medium("medium").unwrap();
    assert_eq!(read_all(&*medium), expected);
    for (offset, len) in [(0, 1), (1, 4095), (4096, 4096), (4095, 8194), (19_999, 5), (20_000, 5), (30_000, 5)] {
        let mut bytes = vec![0xee; len];
        let n = medium.read_at(&mut bytes, offset as u64).unwrap();
        let there = &expected[offset.min(20_000)..(offset + len).min(20_000)];
        assert_eq!(&bytes[..n], there, "{len} bytes at {offset}");
    }
    assert!(medium.write_at(b"x", 0).is_err(), "scrub never writes");
    file.write_at(b"changed", 5000).unwrap();
    file.sync_data().unwrap();
    let mut bytes = [0; 7];
    medium.read_at(&mut bytes, 5000).unwrap();
    assert_eq!(&bytes, b"changed");
    assert!(disk.open_medium("nothing").is_err_and(|error| error.is_not_found()));
    disk.remove("medium").unwrap();
}

fn names(disk: &dyn Disk) {
    assert!(matches!(disk.create("file"), Err(DiskError::AlreadyExists { .. })));
    assert!(matches!(disk.open("none", Access::Read), Err(DiskError::NotFound { .. })));
    assert!(matches!(disk.remove("none"), Err(DiskError::NotFound { .. })));
    assert!(matches!(disk.rename("none", "file"), Err(DiskError::NotFound { .. })));
    disk.create("other").unwrap().write_at(b"other", 0).unwrap();
    disk.rename("other", "file").unwrap();
    assert_eq!(disk.read_small("file").unwrap(), b"other");
    disk.rename("file", "file").unwrap();
    assert!(matches!(disk.open("other", Access::Read), Err(DiskError::NotFound { .. })));
    disk.remove("file").unwrap();
    assert!(disk.is_empty().unwrap());
}

fn directories(disk: &dyn Disk) {
    disk.create_dir("dir").unwrap();
    disk.create_dir("dir").unwrap();
    disk.create("plain").unwrap();
    assert!(disk.create_dir("plain").is_err());
    assert!(disk.create("plain/inside").is_err());
    assert!(matches!(disk.list("none"), Err(DiskError::NotFound { .. })));
    assert!(matches!(disk.create("none/file"), Err(DiskError::NotFound { .. })));
    disk.create("dir/b").unwrap();
    disk.create("dir/a").unwrap();
    assert_eq!(disk.list("dir").unwrap(), ["a", "b"]);
    assert!(disk.list("").unwrap().contains(&"dir".to_owned()));
    disk.sync_dir("dir").unwrap();
    disk.sync_dir("").unwrap();
    assert!(disk.sync_dir("none").is_err());
    assert!(disk.rename("dir/a", "a").is_err(), "not across directories");
    assert!(disk.remove("dir").is_err(), "a directory is not a file");
    assert!(disk.open("dir", Access::Read).is_err());
    disk.remove("plain").unwrap();
}

fn paths_stay_inside(disk: &dyn Disk) {
    for path in ["", ".", "..", "../x", "/x", "a//b", "dir/../x", "x\0"] {
        assert!(disk.create(path).is_err(), "{path:?}");
        assert!(disk.remove(path).is_err(), "{path:?}");
        assert!(disk.rename("dir", path).is_err(), "{path:?}");
    }
}

fn durable_replacement(disk: &dyn Disk) {
    for content in [&b"first"[..], b"second, longer", b"3", b""] {
        disk.write_durably("dir/durable", content).unwrap();
        assert_eq!(disk.read_small("dir/durable").unwrap(), content);
    }
    disk.create("dir/.durable.new").unwrap().write_at(b"left behind by a crash", 0).unwrap();
    disk.write_durably("dir/durable", b"after").unwrap();
    assert_eq!(disk.read_small("dir/durable").unwrap(), b"after");
    assert_eq!(disk.list("dir").unwrap(), ["a", "b", "durable"]);
}

fn names_are_checked(disk: &dyn Disk, other: &dyn Disk) {
    let file = disk.create("named").unwrap();
    assert!(file.still_named().unwrap());
    other.rename("named", "renamed").unwrap();
    assert!(!file.still_named().unwrap());
    other.create("named").unwrap();
    assert!(!file.still_named().unwrap(), "another file under the same name");
    other.rename("renamed", "named").unwrap();
    assert!(file.still_named().unwrap());
    other.remove("named").unwrap();
    assert!(!file.still_named().unwrap());
    file.write_at(b"accepted", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(read_all(&*file), b"accepted");
}

fn allocation(disk: &dyn Disk) {
    let file = disk.create("allocated").unwrap();
    file.preallocate(0, 1 << 20).unwrap();
    assert_eq!(file.len().unwrap(), 1 << 20);
    file.write_at(&[7; 12288], 4096).unwrap();
    file.preallocate(0, 8192).unwrap();
    assert_eq!(file.len().unwrap(), 1 << 20);
    if disk.capabilities().punch {
        file.punch(8192, 4096).unwrap();
        let bytes = read_all(&*file);
        assert!(bytes[4096..8192].iter().all(|b| *b == 7) && bytes[8192..12288].iter().all(|b| *b == 0));
        assert!(bytes[12288..16384].iter().all(|b| *b == 7));
        file.punch((1 << 20) - 100, 4096).unwrap();
    }
    assert_eq!(file.len().unwrap(), 1 << 20, "a hole does not change the length");
    file.truncate(5000).unwrap();
    assert_eq!(file.len().unwrap(), 5000);
    file.truncate(6000).unwrap();
    assert_eq!(read_all(&*file)[4990..5010], [[7; 10], [0; 10]].concat(), "cut bytes do not come back");
    disk.remove("allocated").unwrap();
}
