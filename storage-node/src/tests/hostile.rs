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
