//! What a hostile review found: each test is the story of a failure.
use super::*;
use crate::kv::{RocksKv, RocksOptions};
use std::path::Path;

/// Turns a byte of the first block of rows in each table of a store.
fn spoil_tables(path: &Path) {
    let mut tables = 0;
    for entry in std::fs::read_dir(path).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|e| e == "sst") {
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[20] ^= 0xff;
            std::fs::write(&file, bytes).unwrap();
            tables += 1;
        }
    }
    assert!(tables > 0);
}

/// One bad block in the node's index ended every start, until somebody removed the index by hand.
#[tokio::test]
async fn a_start_that_meets_a_damaged_index_rebuilds_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let open = || Arc::new(RocksKv::open(&path, &FAMILIES, RocksOptions::default()).unwrap());
    let trace = Trace::new(3);
    format_all(&trace);
    let node = start(&trace, open()).await;
    for drive in 0..3 {
        put(&node, drive_id(drive), drive as u64, 5000).await.unwrap();
    }
    node.stop().await;
    drop(node);
    // Opening replays the log into tables.
    drop(open());
    spoil_tables(&path);
    for _ in 0..2 {
        let node = start(&trace, open()).await;
        for drive in 0..3 {
            assert_readable(&node, drive_id(drive), drive as u64, 5000).await;
        }
        node.stop().await;
    }
}

/// Two drives shared a file system. The journal took from the first one's reserve, sealing gave the space back, and
/// clients took it by way of the second drive, whose own reserve was whole: the first was never filled up again.
#[tokio::test]
async fn r14_what_is_missing_on_one_drive_is_kept_from_clients_of_its_whole_file_system() {
    for shared in [true, false] {
        let trace = Trace::new(2);
        format_all(&trace);
        if shared {
            (0..2).for_each(|drive| trace.set_filesystem(drive, 77));
        }
        let reserve = if shared { 3 << 20 } else { 3 << 19 };
        trace.set_room(0, 512 << 10);
        trace.set_room(1, 2 << 20);
        let node = open_with(&trace, memory_kv(), NodeConfig { reserve, ..config() }).await;
        node.begin(EPOCH).await.unwrap();
        let drives = node.drives().await;
        assert!(drives[0].reserve < 3 << 19, "{drives:?}");
        assert_eq!(drives[1].reserve, 3 << 19, "{drives:?}");
        let second = put(&node, drive_id(1), 1, 10_000).await;
        if shared {
            assert_eq!(second, Err(WriteError::Full { drive: drive_id(1) }));
            assert_eq!(drives[1].free, 0);
            trace.set_room(1, 4 << 20);
            put(&node, drive_id(1), 1, 10_000).await.unwrap();
        } else {
            assert_eq!(second, Ok(()));
        }
    }
}
