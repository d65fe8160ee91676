//! Drives that fail while they are written: poison (R6), a full disk (R14), and drives that vanish (R5).
use super::*;
use crate::client::DriveHealth;
use crate::disk::DiskOp;
use crate::disk::faulty::Fault;
use codec::id::ShardId;
use rustix::io::Errno;

async fn health(node: &StorageNode) -> DriveHealth {
    node.drives().await[0].health.clone()
}

#[tokio::test]
async fn r6_a_failed_sync_or_write_poisons_the_segment_and_a_second_one_the_drive() {
    for op in [DiskOp::SyncData, DiskOp::Write] {
        let (trace, node, drive) = one_drive().await;
        put(&node, drive, 1, 5000).await.unwrap();
        trace.inject(Fault::error(Errno::IO).on(op).path(".seg").nth(1));
        assert!(matches!(put(&node, drive, 2, 5000).await, Err(WriteError::DriveFailed { .. })));
        assert_eq!(health(&node).await, DriveHealth::Healthy);
        let writes_before = trace.position();
        put(&node, drive, 3, 5000).await.unwrap();
        assert!(trace.disk(0).open("segments/0000000000000002.seg", crate::disk::Access::Read).is_ok());
        let events = trace.events();
        let to_poisoned = |event: &crate::disk::faulty::Event| {
            event.position >= writes_before && format!("{:?}", event.what).contains("0000000000000001.seg")
        };
        assert!(!events.iter().any(to_poisoned), "the poisoned segment was touched again");
        assert_readable(&node, drive, 1, 5000).await;
        assert_readable(&node, drive, 3, 5000).await;
        assert_eq!(get(&node, drive, 2, 5000).await, Err(ReadError::NotFound));
        trace.inject(Fault::error(Errno::IO).on(op).path(".seg").nth(1));
        assert!(matches!(put(&node, drive, 4, 5000).await, Err(WriteError::DriveFailed { .. })));
        assert!(matches!(health(&node).await, DriveHealth::ReadOnly { .. }));
        assert!(matches!(put(&node, drive, 5, 5000).await, Err(WriteError::ReadOnly { .. })));
        assert_readable(&node, drive, 3, 5000).await;
        node.stop().await;
        // The bytes of the failed group are on the medium; the next segment's header says that they do not count.
        let node = start(&trace, memory_kv()).await;
        assert_eq!(get(&node, drive, 2, 5000).await, Err(ReadError::NotFound));
        assert_readable(&node, drive, 1, 5000).await;
        assert_readable(&node, drive, 3, 5000).await;
        assert_eq!(node.verify(drive).await.unwrap(), vec![]);
    }
}

#[tokio::test]
async fn a_new_segment_that_can_not_be_made_durable_takes_no_record() {
    for (op, path) in [(DiskOp::SyncDir, "segments"), (DiskOp::SyncData, ".seg"), (DiskOp::Create, ".seg")] {
        let (trace, node, drive) = one_drive().await;
        trace.inject(Fault::error(Errno::IO).on(op).path(path).nth(1));
        assert!(matches!(put(&node, drive, 1, 5000).await, Err(WriteError::DriveFailed { .. })), "{op}");
        put(&node, drive, 1, 5000).await.unwrap();
        assert_readable(&node, drive, 1, 5000).await;
        node.stop().await;
        let node = start(&trace, memory_kv()).await;
        assert_readable(&node, drive, 1, 5000).await;
        assert_eq!(node.verify(drive).await.unwrap(), vec![]);
    }
}

#[tokio::test]
async fn r14_a_full_disk_is_no_strike_and_the_reserve_is_kept_for_deletes() {
    let trace = Trace::new(1);
    format_all(&trace);
    let config = NodeConfig { reserve: 2 << 20, ..config() };
    trace.set_room(0, 4 << 20);
    let node = open_with(&trace, memory_kv(), config.clone()).await;
    node.begin(EPOCH).await.unwrap();
    let drive = drive_id(0);
    let head = codec::segment::JournalHead { ensemble: 1, first_lsn: Lsn(1) };
    node.journal_begin(drive, head).await.unwrap();
    let mut written = Vec::new();
    for i in 0.. {
        match put(&node, drive, i, 60_000).await {
            Ok(()) => written.push(i),
            Err(error) => {
                assert_eq!(error, WriteError::Full { drive });
                break;
            }
        }
    }
    assert!(written.len() > 20 && written.len() < 40, "{}", written.len());
    for i in 1000..1010 {
        assert_eq!(put(&node, drive, i, 60_000).await, Err(WriteError::Full { drive }));
    }
    assert_eq!(node.drives().await[0].reserve, 2 << 20);
    // The journal goes on, out of the reserve.
    let all = entries(30, 40_000);
    for (i, entry) in all.iter().enumerate() {
        let (header, payload) = batch(std::slice::from_ref(entry));
        node.journal_append(drive, header, payload, Reserve::Metadata).await.unwrap();
        assert_eq!(node.journal_read(drive, Lsn(i as u64 + 1), 0..entry.len() as u32).await.unwrap(), *entry);
    }
    assert!(node.drives().await[0].reserve < 2 << 20);
    assert_eq!(put(&node, drive, 2000, 60_000).await, Err(WriteError::Full { drive }));
    assert_eq!(health(&node).await, DriveHealth::Healthy);
    for i in &written {
        assert_readable(&node, drive, *i, 60_000).await;
    }
    trace.set_room(0, 8 << 20);
    put(&node, drive, 3000, 60_000).await.unwrap();
    node.stop().await;
    let node = open_with(&trace, memory_kv(), config).await;
    node.begin(EPOCH).await.unwrap();
    for i in written.iter().chain([&3000]) {
        assert_readable(&node, drive, *i, 60_000).await;
    }
    assert_eq!(get(&node, drive, 1000, 60_000).await, Err(ReadError::NotFound));
    assert_eq!(node.verify(drive).await.unwrap(), vec![]);
    assert_eq!(node.drives().await[0].reserve, 2 << 20, "filled up again");
}

/// Restriping is what gives space back on a full cluster, so it has to get space there; and it must not take what repair is
/// to find.
#[tokio::test]
async fn r14_restriping_has_a_part_of_the_reserve_and_leaves_the_rest() {
    let trace = Trace::new(1);
    format_all(&trace);
    let (reserve, drive) = (2 << 20, drive_id(0));
    trace.set_room(0, 4 << 20);
    let node = open_with(&trace, memory_kv(), NodeConfig { reserve, ..config() }).await;
    node.begin(EPOCH).await.unwrap();
    let fill = async |counters: std::ops::Range<u64>, who: Reserve| {
        let mut written = 0u64;
        for counter in counters {
            let (header, payload) = shard(counter, 60_000);
            match node.write_shard(drive, header, payload, who).await {
                Ok(()) => written += 1,
                Err(error) => {
                    assert_eq!(error, WriteError::Full { drive });
                    break;
                }
            }
        }
        written
    };
    assert!(fill(0..100, Reserve::Client).await > 20);
    let rewritten = fill(100..200, Reserve::Restripe).await;
    assert!(rewritten * 60_000 > reserve / 4, "{rewritten}");
    let left = node.drives().await[0].reserve;
    assert!(left >= reserve / 5 * 3, "{left}");
    assert!(fill(200..300, Reserve::Metadata).await > 10, "repair and the journal go on");
    assert_eq!(fill(300..400, Reserve::Restripe).await, 0);
}

#[tokio::test]
async fn a_write_that_finds_the_disk_full_closes_the_segment_without_a_strike() {
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 1, 5000).await.unwrap();
    for i in 0..4 {
        trace.inject(Fault::partial_write(4096, Errno::NOSPC).path(".seg").nth(1));
        assert_eq!(put(&node, drive, 10 + i, 5000).await, Err(WriteError::Full { drive }));
        put(&node, drive, 20 + i, 5000).await.unwrap();
    }
    assert_eq!(health(&node).await, DriveHealth::Healthy);
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    for i in 0..4 {
        assert_readable(&node, drive, 20 + i, 5000).await;
        assert_eq!(get(&node, drive, 10 + i, 5000).await, Err(ReadError::NotFound));
    }
    assert_eq!(node.verify(drive).await.unwrap(), vec![]);
}

#[tokio::test]
async fn r5_a_directory_that_was_deleted_or_replaced_is_not_acknowledged() {
    for replace in [false, true] {
        let (trace, node, drive) = one_drive().await;
        put(&node, drive, 1, 5000).await.unwrap();
        if replace {
            let other = crate::drive::Identity { cluster: CLUSTER, drive: drive_id(7) }.encode();
            trace.replace_drive(0, &[("identity", &other)]).unwrap();
        } else {
            trace.remove_drive(0);
        }
        assert!(matches!(put(&node, drive, 2, 5000).await, Err(WriteError::DriveFailed { .. })));
        assert!(matches!(health(&node).await, DriveHealth::Failed { .. }));
        assert!(matches!(get(&node, drive, 1, 5000).await, Err(ReadError::DriveFailed { .. })));
        assert!(matches!(node.write_register(drive, Bytes::new()).await, Err(WriteError::DriveFailed { .. })));
    }
}

#[tokio::test]
async fn r5_a_segment_that_lost_its_name_or_an_identity_that_changed_is_not_acknowledged() {
    for path in ["segments/0000000000000001.seg", "identity"] {
        let (trace, node, drive) = one_drive().await;
        put(&node, drive, 1, 5000).await.unwrap();
        trace.disk(0).remove(path).unwrap();
        assert!(matches!(put(&node, drive, 2, 5000).await, Err(WriteError::DriveFailed { .. })), "{path}");
        assert!(matches!(health(&node).await, DriveHealth::Failed { .. }));
    }
}

#[tokio::test]
async fn a_lost_or_misdirected_write_is_seen_when_it_is_read() {
    for fault in [Fault::lost_write(), Fault::shifted_write(4096), Fault::shifted_write(-4096)] {
        let (trace, node, drive) = one_drive().await;
        put(&node, drive, 1, 5000).await.unwrap();
        trace.inject(fault.path(".seg").nth(1));
        put(&node, drive, 2, 5000).await.unwrap();
        put(&node, drive, 3, 5000).await.unwrap();
        assert!(matches!(get(&node, drive, 2, 5000).await, Err(ReadError::Damaged { .. })));
        never_wrong(&node, drive, 1, 5000).await;
        assert_readable(&node, drive, 3, 5000).await;
        assert!(!node.verify(drive).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_register_is_replaced_whole_and_a_damaged_one_is_not_an_empty_one() {
    let (trace, node, drive) = one_drive().await;
    assert_eq!(node.read_register(drive).await.unwrap(), Bytes::new());
    node.write_register(drive, Bytes::from_static(b"one")).await.unwrap();
    node.write_register(drive, Bytes::from_static(b"two")).await.unwrap();
    assert_eq!(node.read_register(drive).await.unwrap(), &b"two"[..]);
    node.stop().await;
    let probed = probe(trace.disk(0) as Arc<dyn Disk>, Some(CLUSTER));
    assert_eq!((probed.register, probed.register_damaged), (Bytes::from_static(b"two"), false));
    trace.flip(0, "register", 9, 1).unwrap();
    let probed = probe(trace.disk(0) as Arc<dyn Disk>, Some(CLUSTER));
    assert_eq!((probed.register, probed.register_damaged), (Bytes::new(), true));
}

#[tokio::test]
async fn many_writers_share_few_syncs_and_are_all_answered() {
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 0, 10).await.unwrap();
    let before = trace.position();
    let writes = (1..200).map(|i| put(&node, drive, i, 300));
    assert!(futures::future::join_all(writes).await.into_iter().all(|r| r == Ok(())));
    let syncs =
        trace.events().into_iter().filter(|e| e.position >= before && format!("{:?}", e.what).contains("SyncData"));
    assert!(syncs.count() < 60, "group commit");
    for i in 1..200 {
        assert_readable(&node, drive, i, 300).await;
    }
    let shard = ShardId { stripe: shard(5, 1).0.descriptor.id, index: 0 };
    assert_eq!(node.read_shard_header(drive, shard).await.unwrap().id(), shard);
}
