//! What a hostile review found: each test is the story of a failure.
use super::*;
use crate::client::{DriveHealth, ScanEnd, in_time};
use crate::disk::DiskOp;
use crate::disk::faulty::{Event, Fault, What};
use crate::kv::{RocksKv, RocksOptions};
use crate::stripe_io::{TargetsWanted, write_stripe_within};
use codec::segment::JournalHead;
use codec::stripe::PackedStripe;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

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

/// A begin failed before it had synced what the start had found; the next one found nothing left to sync and called the
/// drive healthy. After a failed sync there is no next one: it would say yes without having written anything (R6).
#[tokio::test]
async fn r6_a_second_begin_does_what_the_first_one_did_not() {
    for op in [DiskOp::Open, DiskOp::SyncData] {
        let (trace, node, drive) = one_drive().await;
        put(&node, drive, 1, 5000).await.unwrap();
        node.stop().await;
        let node = open_with(&trace, memory_kv(), config()).await;
        let before = trace.position();
        let fault = trace.inject(Fault::error(Errno::IO).on(op).path(".seg").nth(1));
        node.begin(EPOCH).await.unwrap();
        assert_eq!(trace.hits(fault), 1);
        assert!(matches!(node.drives().await[0].health, DriveHealth::ReadOnly { .. }), "{op}");
        node.begin(EPOCH).await.unwrap();
        let synced = |event: &Event| {
            event.position >= before
                && matches!(&event.what, What::Op { op: DiskOp::SyncData, path, ok: true, .. } if path.ends_with(".seg"))
        };
        assert_eq!(
            trace.events().iter().filter(|event| synced(event)).count(),
            usize::from(op == DiskOp::Open),
            "{op}"
        );
        let healthy = node.drives().await[0].health == DriveHealth::Healthy;
        assert_eq!(healthy, op == DiskOp::Open, "{op}");
        assert_readable(&node, drive, 1, 5000).await;
    }
}

/// A drive's thread panicked. Every write to the drive was unreachable from then on, and its health was good, so
/// placement chose it again and again.
#[tokio::test]
async fn a_drive_whose_thread_panicked_has_failed() {
    let (_trace, node, drive) = one_drive().await;
    put(&node, drive, 1, 5000).await.unwrap();
    node.panic(drive).await;
    assert!(put(&node, drive, 2, 5000).await.is_err());
    for _ in 0..500 {
        if matches!(node.drives().await[0].health, DriveHealth::Failed { .. }) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the drive is still called {:?}", node.drives().await[0].health);
}

/// The header of a journal segment rotted and the index was new. The segment was left out of the list, as if the drive
/// had never had it: a recovery took the rest of that copy for complete.
#[tokio::test]
async fn r7_a_journal_segment_without_a_header_is_listed_as_damaged() {
    let (trace, node, drive) = one_drive().await;
    let all = entries(4, 100);
    for (ensemble, first) in [(1, 0), (2, 2)] {
        let head = JournalHead { ensemble, first_lsn: Lsn(first as u64 + 1) };
        node.journal_begin(drive, head).await.unwrap();
        let (header, payload) = batch(&all[first..first + 2]);
        node.journal_append(drive, header, payload, Reserve::Client).await.unwrap();
    }
    node.stop().await;
    for (number, other) in [(1, 2), (2, 1)] {
        let path = format!("journal/{number:016x}.seg");
        trace.flip(0, &path, 50, 4).unwrap();
        let node = start(&trace, memory_kv()).await;
        let infos = node.journal_segments(drive).await.unwrap();
        assert_eq!(
            infos.iter().map(|i| (i.number, i.damaged)).collect::<BTreeMap<_, _>>(),
            [(number, 1), (other, 0)].into()
        );
        let scan = node.journal_scan(drive, number, Lsn(0)).await.unwrap();
        assert!(scan.entries.is_empty());
        assert_eq!(scan.end, ScanEnd::Damaged { block: 0, barrier: 1 });
        assert_eq!(node.damage(drive).unwrap().len(), 1);
        assert_eq!(
            node.journal_free(drive, number).await,
            Err(WriteError::NotFreeable(number)),
            "sealed or not: unknown"
        );
        node.stop().await;
        trace.flip(0, &path, 50, 4).unwrap();
    }
}

#[tokio::test]
async fn a_write_that_is_never_answered_fails_in_time() {
    let never = in_time::<()>(drive_id(0), Duration::from_millis(50), std::future::pending()).await;
    assert!(matches!(never, Err(WriteError::DriveFailed { .. })), "{never:?}");
}

/// One drive hung. A stripe with a shard on it was never finished nor moved elsewhere, and neither was anything that
/// asked for the state of the drives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_that_hangs_is_replaced_and_holds_nobody_up() {
    let trace = Trace::new(3);
    format_all(&trace);
    let node = start(&trace, memory_kv()).await;
    let before = node.drives().await;
    trace.inject(Fault::hang().on(DiskOp::SyncData).drive(0));
    trace.inject(Fault::hang().on(DiskOp::Space).drive(0).nth(1));
    let begun = std::time::Instant::now();
    let during = node.drives().await;
    assert_eq!(during.len(), 3);
    assert_eq!(during[0].free, before[0].free, "its last answer");
    node.drives().await;
    assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
    let (header, payload) = shard(1, 5000);
    let packed = PackedStripe { descriptor: header.descriptor, shards: vec![Some(payload)], places: Vec::new() };
    let mut placement = |wanted: TargetsWanted<'_>| {
        (0..3)
            .map(drive_id)
            .filter(|d| !wanted.failed.contains(d) && !wanted.used.contains(d))
            .take(wanted.count)
            .collect()
    };
    // A drive that is merely busy gets no second chance either.
    let limit = Duration::from_secs(6);
    let drives = write_stripe_within(&*node, &packed, Reserve::Client, &mut placement, limit).await.unwrap();
    assert_eq!(drives, [Some(drive_id(1))]);
    assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
    assert_readable(&node, drive_id(1), 1, 5000).await;
    trace.heal_all();
}
