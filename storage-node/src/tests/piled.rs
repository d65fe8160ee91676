//! Failures that come one on top of the other: no file descriptors, no space for the index, a start that is cut off.
use super::*;
use crate::client::{DriveHealth, Lost};
use crate::disk::faulty::Fault;
use crate::disk::{Access, DiskOp};
use crate::index::{SEGMENTS, ShardIndex};
use crate::kv::{Direction, Family, KvBatch, KvError, KvIterator, KvStats};
use crate::segment::BLOCK_BYTES;
use codec::segment::JournalHead;
use rustix::io::Errno;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const FIRST: &str = "segments/0000000000000001.seg";

async fn healths(node: &StorageNode) -> Vec<DriveHealth> {
    node.drives().await.into_iter().map(|drive| drive.health).collect()
}

/// A store that refuses writes after so many.
#[derive(Debug)]
struct Refusing {
    kv: MemoryKv,
    left: AtomicU64,
}

impl Refusing {
    fn after(writes: u64) -> Arc<Refusing> {
        Arc::new(Refusing { kv: MemoryKv::new(&FAMILIES), left: AtomicU64::new(writes) })
    }
}

impl Kv for Refusing {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.kv.get(family, key)
    }
    fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        let take = |left: u64| left.checked_sub(1);
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(_) => self.kv.write(batch),
            Err(_) => Err(KvError::Full { path: "index".to_owned(), detail: "no room".to_owned() }),
        }
    }
    fn scan(&self, f: Family, start: &[u8], d: Direction) -> Result<Box<dyn KvIterator + '_>, KvError> {
        self.kv.scan(f, start, d)
    }
    fn flush(&self) -> Result<(), KvError> {
        self.kv.flush()
    }
    fn stats(&self) -> KvStats {
        self.kv.stats()
    }
}

/// A burst of connections used up the process's file descriptors. Each commit opened the identity file again, found
/// that it could not, and declared the drive gone: all drives failed at once, and stayed so until a restart.
#[tokio::test]
async fn r5_running_out_of_file_descriptors_fails_no_drive() {
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 1, 5000).await.unwrap();
    for op in [DiskOp::Open, DiskOp::Create] {
        trace.inject(Fault::error(Errno::MFILE).on(op));
    }
    put(&node, drive, 2, 5000).await.unwrap();
    let mut refused = 0;
    for i in 10..40 {
        // Segments of 256 KiB: some of these need a new one, and can't have it.
        refused += u32::from(put(&node, drive, i, 20_000).await.is_err());
    }
    assert!(refused > 2, "{refused}");
    assert_eq!(healths(&node).await, [DriveHealth::Healthy]);
    trace.heal_all();
    put(&node, drive, 50, 20_000).await.unwrap();
    assert_readable(&node, drive, 2, 5000).await;
    assert_readable(&node, drive, 50, 20_000).await;
}

/// Files that are kept open for the next read kept others from being opened, and each failed open counted against a drive that
/// was well.
#[tokio::test]
async fn reads_go_on_with_the_file_descriptors_that_there_are() {
    let (trace, node, drive) = one_drive().await;
    for i in 0..40 {
        put(&node, drive, i, 20_000).await.unwrap();
    }
    assert_readable(&node, drive, 0, 20_000).await;
    trace.inject(Fault::error(Errno::MFILE).on(DiskOp::Open).times(1));
    assert_readable(&node, drive, 39, 20_000).await;
    let fault = trace.inject(Fault::error(Errno::MFILE).on(DiskOp::Open));
    assert!(get(&node, drive, 0, 20_000).await.is_err(), "its file was closed, and can't be opened");
    trace.heal(fault);
    assert_readable(&node, drive, 0, 20_000).await;
    let status = node.drives().await.remove(0);
    assert_eq!((status.errors, status.health), (0, DriveHealth::Healthy));
}

/// Rows that led astray are deleted in steps, and the mark that says so was among the first to go. A start that was
/// killed between two steps left a drive without shard rows and without the mark, but with rows that called its
/// segments indexed: the next start skipped them, and every shard in them was "not found" from then on.
#[test]
fn forgetting_a_drive_is_begun_again_when_it_was_cut_off() {
    for writes in 0..6 {
        let kv = Refusing::after(u64::MAX);
        let index = ShardIndex::new(kv.clone(), drive_id(0));
        let mut batch = KvBatch::new();
        for n in 0..6000u64 {
            let key = [drive_id(0).as_bytes(), &n.to_be_bytes()[..]].concat();
            batch.put(SEGMENTS, key, b"row".to_vec());
        }
        let place = crate::index::ShardPlace { segment: 1, block: 1 };
        index.put_place(&mut batch, shard(1, 1).0.id(), place);
        index.write(batch).unwrap();
        index.suspect().unwrap();
        kv.left.store(writes, Ordering::SeqCst);
        let cut_off = index.forget().is_err();
        let rows = kv.scan(SEGMENTS, &[], Direction::Forward).unwrap().next().unwrap().is_some();
        assert_eq!(
            rows,
            index.is_suspect().unwrap(),
            "{writes}: rows remain without the mark, or the mark without rows"
        );
        assert_eq!(cut_off, rows, "{writes}");
    }
}

/// The first megabyte of a segment was lost (read as zeros), the index as well. The start took the file for one that was
/// never begun, because nothing was in its first megabyte, and deleted the shards behind it.
#[tokio::test]
async fn r7_a_segment_with_zeros_at_its_beginning_is_damaged_and_is_not_removed() {
    let trace = Trace::new(1);
    format_all(&trace);
    let config = NodeConfig { data_segment: 8 << 20, ..config() };
    let node = open_with(&trace, memory_kv(), config.clone()).await;
    node.begin(EPOCH).await.unwrap();
    put(&node, drive_id(0), 1, 3 << 20).await.unwrap();
    node.stop().await;
    let file = trace.disk(0).open(FIRST, Access::ReadWrite).unwrap();
    file.write_at(&vec![0; 300 * BLOCK_BYTES as usize], 0).unwrap();
    let node = open_with(&trace, memory_kv(), config).await;
    node.begin(EPOCH).await.unwrap();
    assert!(trace.disk(0).open(FIRST, Access::Read).is_ok(), "the start removed it");
    assert_eq!(node.damage(drive_id(0)).unwrap()[0].what, Lost::Segment);
}

/// A verification passed over segments whose files it could not open, and reported a drive without damage.
#[tokio::test]
async fn a_verification_reports_a_segment_that_vanished_since_the_start() {
    let (trace, node, drive) = one_drive().await;
    for i in 0..20 {
        put(&node, drive, i, 50_000).await.unwrap();
    }
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    trace.disk(0).remove(FIRST).unwrap();
    trace.inject(Fault::error(Errno::IO).on(DiskOp::Open).path("0002.seg"));
    node.read_files_anew(drive);
    let damage = node.verify(drive).await.unwrap();
    assert_eq!(
        damage.iter().map(|d| (d.segment, d.what.clone())).collect::<Vec<_>>(),
        [(1, Lost::Segment), (2, Lost::Segment)]
    );
}

/// A drive died between the look at its identity and its opening; the start of all others was refused for it.
#[tokio::test]
async fn a_drive_that_dies_while_it_is_opened_does_not_hold_up_the_others() {
    let trace = Trace::new(2);
    format_all(&trace);
    trace.inject(Fault::error(Errno::IO).on(DiskOp::Open).drive(0).path("identity").from(2));
    let node = open_with(&trace, memory_kv(), config()).await;
    node.begin(EPOCH).await.unwrap();
    put(&node, drive_id(1), 1, 5000).await.unwrap();
    assert!(matches!(put(&node, drive_id(0), 1, 5000).await, Err(WriteError::DriveFailed { .. })));
}

/// A start on a nearly full file system filled the reserve up with the last free byte, and the index beside it could
/// write nothing any more.
#[tokio::test]
async fn r14_the_reserve_leaves_room_for_the_index() {
    let trace = Trace::new(1);
    format_all(&trace);
    trace.set_room(0, 1 << 20);
    let node = open_with(&trace, memory_kv(), NodeConfig { reserve: 2 << 20, ..config() }).await;
    node.begin(EPOCH).await.unwrap();
    let free = trace.disk(0).space().unwrap().free;
    assert!((256 << 10..512 << 10).contains(&free), "{free}");
    assert!(node.drives().await[0].reserve >= 512 << 10);
}

/// The index shares a file system with the drives, and that was full: each drive was called failed, and the client was
/// told to come again (503) instead of that there is no space (507).
#[tokio::test]
async fn r14_a_full_index_is_full_and_no_failed_drive() {
    let trace = Trace::new(1);
    format_all(&trace);
    let kv = Refusing::after(u64::MAX);
    let node = start(&trace, kv.clone()).await;
    put(&node, drive_id(0), 1, 5000).await.unwrap();
    kv.left.store(0, Ordering::SeqCst);
    assert_eq!(put(&node, drive_id(0), 2, 5000).await, Err(WriteError::Full { drive: drive_id(0) }));
    kv.left.store(u64::MAX, Ordering::SeqCst);
    put(&node, drive_id(0), 2, 5000).await.unwrap();
    assert_readable(&node, drive_id(0), 2, 5000).await;
}

/// Two batches were staged; the second needed a new segment, so the first was synced, which failed. The second was then
/// written all the same and acknowledged: a journal with a hole, and the first could not be appended again.
#[tokio::test]
async fn a_batch_behind_one_that_failed_is_refused() {
    let (trace, node, drive) = one_drive().await;
    node.journal_begin(drive, JournalHead { ensemble: 1, first_lsn: Lsn(1) }).await.unwrap();
    let all = entries(2, 70_000);
    let hang = trace.inject(Fault::hang().on(DiskOp::SyncData).path("segments/").nth(1));
    trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncData).path("journal/").nth(1));
    let append = |i: usize| {
        let (header, payload) = batch(&all[i..=i]);
        node.journal_append(drive, header, payload, Reserve::Client)
    };
    // The sync of a shard's segment ends when both have queued up for one group.
    let later = async {
        while trace.hits(hang) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let heal = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            trace.heal(hang);
        };
        let (first, second, ()) = futures::future::join3(append(0), append(1), heal).await;
        (first, second)
    };
    let (_, (first, second)) = futures::future::join(put(&node, drive, 1, 10), later).await;
    assert!(matches!(first, Err(WriteError::DriveFailed { .. })), "{first:?}");
    assert_eq!(second, Err(WriteError::OutOfOrder { expected: Some(Lsn(1)), got: Lsn(2) }));
    append(0).await.unwrap();
    append(1).await.unwrap();
}

/// One file whose inode could not be read made a drive of thousands of good segments unusable at the next start.
#[tokio::test]
async fn a_segment_that_can_not_be_opened_costs_that_segment_and_not_the_drive() {
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 1, 5000).await.unwrap();
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    put(&node, drive, 2, 5000).await.unwrap();
    node.stop().await;
    trace.inject(Fault::error(Errno::IO).on(DiskOp::Open).path(FIRST));
    // Neither does a file that only looks like a segment.
    trace.disk(0).create("segments/+00000000000000f.seg").unwrap();
    trace.disk(0).create("segments/000000000000000F.seg").unwrap();
    let node = start(&trace, memory_kv()).await;
    assert_eq!(healths(&node).await, [DriveHealth::Healthy]);
    assert_eq!(node.damage(drive).unwrap().iter().map(|d| d.what.clone()).collect::<Vec<_>>(), [Lost::Segment]);
    assert_readable(&node, drive, 2, 5000).await;
    assert!(get(&node, drive, 1, 5000).await.is_err());
}

/// On a drive filled to the last byte the journal went on, out of the reserve, but the register could not be written, so
/// the first failure of a member stopped all writes for want of a few hundred bytes.
#[tokio::test]
async fn r14_the_register_takes_from_the_reserve_on_a_full_drive() {
    let trace = Trace::new(1);
    format_all(&trace);
    trace.set_room(0, 8 << 20);
    let node = open_with(&trace, memory_kv(), NodeConfig { reserve: 2 << 20, ..config() }).await;
    node.begin(EPOCH).await.unwrap();
    trace.set_room(0, 0);
    node.write_register(drive_id(0), Bytes::from_static(b"members")).await.unwrap();
    assert_eq!(node.read_register(drive_id(0)).await.unwrap(), &b"members"[..]);
    assert_eq!(healths(&node).await, [DriveHealth::Healthy]);
}

/// A drive that did not say at a start which file system it is on had its reserve cut to nothing, for clients to fill.
#[tokio::test]
async fn r14_a_drive_of_an_unknown_file_system_keeps_the_reserve_that_it_has() {
    let trace = Trace::new(1);
    format_all(&trace);
    let config = NodeConfig { reserve: 1 << 20, ..config() };
    let node = open_with(&trace, memory_kv(), config.clone()).await;
    node.begin(EPOCH).await.unwrap();
    node.stop().await;
    for start in 0..2 {
        let silent = trace.inject(Fault::error(Errno::IO).on(DiskOp::Space));
        let node = open_with(&trace, memory_kv(), config.clone()).await;
        assert!(trace.hits(silent) > 0);
        trace.heal(silent);
        node.begin(EPOCH).await.unwrap();
        // Also when it was opened again: what its part is was not known then either.
        if start == 1 {
            node.close_drive(drive_id(0)).await;
            node.reopen(drive_id(0)).await.unwrap();
        }
        assert_eq!(node.drives().await[0].reserve, 1 << 20);
        node.stop().await;
    }
}
