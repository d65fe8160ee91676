//! Journal segments: appended, read by LSN, scanned, followed by the next, freed.
use super::*;
use crate::client::ScanEnd;
use crate::segment::BLOCK_BYTES;
use codec::segment::JournalHead;

const HEAD: JournalHead = JournalHead { ensemble: 3, first_lsn: Lsn(1) };

async fn append(node: &StorageNode, drive: DriveId, entries: &[Bytes]) -> Result<(), WriteError> {
    let (header, payload) = batch(entries);
    node.journal_append(drive, header, payload, Reserve::Client).await
}

async fn scan_all(node: &StorageNode, drive: DriveId, number: u64) -> (Vec<Bytes>, ScanEnd) {
    let (mut found, mut from) = (Vec::new(), Lsn(1));
    loop {
        let scan = node.journal_scan(drive, number, from).await.unwrap();
        found.extend(scan.entries.into_iter().map(|e| e.bytes));
        match scan.end {
            ScanEnd::More(next) => from = next,
            end => return (found, end),
        }
    }
}

async fn read_all(node: &StorageNode, drive: DriveId, all: &[Bytes]) {
    for (lsn, entry) in (1..).zip(all) {
        let len = entry.len() as u32;
        for range in [0..len, 0..1, len - 1..len, len / 3..len / 2] {
            let bytes = node.journal_read(drive, Lsn(lsn), range.clone()).await.unwrap();
            assert_eq!(bytes, entry.slice(range.start as usize..range.end as usize));
        }
        let beyond = node.journal_read(drive, Lsn(lsn), 0..len + 1).await;
        assert!(matches!(beyond, Err(ReadError::OutOfRange { .. })));
    }
}

#[tokio::test]
async fn entries_are_read_by_lsn_before_and_after_a_restart() {
    let (trace, node, drive) = one_drive().await;
    let all = entries(40, 9000);
    assert!(matches!(append(&node, drive, &all[..1]).await, Err(WriteError::OutOfOrder { expected: None, .. })));
    assert_eq!(node.journal_begin(drive, HEAD).await, Ok(1));
    for batch in all.chunks(3) {
        append(&node, drive, batch).await.unwrap();
    }
    let gap = append(&node, drive, &entries(50, 10)[45..46]).await;
    assert_eq!(gap, Err(WriteError::OutOfOrder { expected: Some(Lsn(41)), got: Lsn(46) }));
    read_all(&node, drive, &all).await;
    assert_eq!(node.journal_read(drive, Lsn(41), 0..1).await, Err(ReadError::NotFound));
    let infos = node.journal_segments(drive).await.unwrap();
    assert!(infos.len() > 2, "segments of 128 KiB are followed by new ones");
    assert!(infos.iter().all(|i| i.head.ensemble == 3 && i.epoch == EPOCH && i.first == Some(i.head.first_lsn)));
    assert!(infos.iter().rev().skip(1).all(|i| i.closed) && !infos.last().unwrap().closed);
    node.stop().await;
    let node = open_with(&trace, memory_kv(), config()).await;
    read_all(&node, drive, &all).await;
    let mut found = Vec::new();
    for info in node.journal_segments(drive).await.unwrap() {
        assert!(info.closed);
        let (entries, end) = scan_all(&node, drive, info.number).await;
        assert_eq!(end, ScanEnd::Clean);
        found.extend(entries);
    }
    assert_eq!(found, all);
    assert!(matches!(append(&node, drive, &all[..1]).await, Err(WriteError::ReadOnly { .. })));
    node.begin(EPOCH).await.unwrap();
    assert!(matches!(append(&node, drive, &all[..1]).await, Err(WriteError::OutOfOrder { .. })));
}

#[tokio::test]
async fn a_closed_segment_is_freed_and_an_open_one_is_not() {
    let (trace, node, drive) = one_drive().await;
    let all = entries(4, 100);
    node.journal_begin(drive, HEAD).await.unwrap();
    append(&node, drive, &all[..2]).await.unwrap();
    assert_eq!(node.journal_free(drive, 1).await, Err(WriteError::NotFreeable(1)));
    assert_eq!(node.journal_begin(drive, JournalHead { ensemble: 4, first_lsn: Lsn(3) }).await, Ok(2));
    append(&node, drive, &all[2..]).await.unwrap();
    node.journal_free(drive, 1).await.unwrap();
    assert_eq!(node.journal_free(drive, 1).await, Err(WriteError::NotFreeable(1)));
    assert_eq!(node.journal_read(drive, Lsn(1), 0..1).await, Err(ReadError::NotFound));
    assert!(node.journal_read(drive, Lsn(3), 0..1).await.is_ok());
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    assert_eq!(node.journal_segments(drive).await.unwrap().len(), 1);
    assert_eq!(node.journal_begin(drive, HEAD).await, Ok(3), "numbers are not used again");
}

#[tokio::test]
async fn r7_damage_in_the_middle_is_reported_and_later_entries_are_still_found() {
    let (trace, node, drive) = one_drive().await;
    let all = entries(6, 100);
    node.journal_begin(drive, HEAD).await.unwrap();
    for entry in &all {
        append(&node, drive, std::slice::from_ref(entry)).await.unwrap();
    }
    node.stop().await;
    let path = "journal/0000000000000001.seg";
    // Records take two blocks each: the header of LSN 3 is block 5, its payload block 6.
    for block in [5, 6] {
        trace.flip(0, path, block * BLOCK_BYTES + 50, 4).unwrap();
        let node = open_with(&trace, memory_kv(), config()).await;
        let (found, end) = scan_all(&node, drive, 1).await;
        assert_eq!(found, [&all[..2], &all[3..]].concat());
        assert_eq!(end, ScanEnd::Damaged { block: 5, barrier: 11 });
        assert!(node.journal_read(drive, Lsn(3), 0..1).await.is_err());
        assert!(node.journal_read(drive, Lsn(4), 0..1).await.is_ok());
        assert_eq!(node.damage(drive).unwrap().len(), 1);
        node.stop().await;
        trace.flip(0, path, block * BLOCK_BYTES + 50, 4).unwrap();
    }
}

#[tokio::test]
async fn an_entry_that_failed_is_appended_again_in_a_new_segment() {
    let (trace, node, drive) = one_drive().await;
    let all = entries(3, 100);
    node.journal_begin(drive, HEAD).await.unwrap();
    append(&node, drive, &all[..1]).await.unwrap();
    let fault = crate::disk::faulty::Fault::error(rustix::io::Errno::IO);
    trace.inject(fault.on(crate::disk::DiskOp::SyncData).path("journal/").nth(1));
    assert!(matches!(append(&node, drive, &all[1..2]).await, Err(WriteError::DriveFailed { .. })));
    append(&node, drive, &all[1..2]).await.unwrap();
    append(&node, drive, &all[2..]).await.unwrap();
    read_all(&node, drive, &all).await;
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    read_all(&node, drive, &all).await;
    let (found, _) = scan_all(&node, drive, 1).await;
    assert_eq!(found, all[..1]);
}
