//! Shards go in and come out, before and after a restart, with a good index, an old one and none.
use super::*;
use crate::client::DriveHealth;
use crate::disk::real::RealDisk;
use crate::drive::{DriveError, ProbedState};
use crate::index::{SHARDS, ShardIndex, ShardPlace};
use crate::kv::KvBatch;
use crate::sabotage::SabotageSet;
use crate::segment::BLOCK_BYTES;
use codec::id::ShardId;

const SIZES: [usize; 9] = [1, 4087, 4088, 4089, 10_000, 50_000, 3, 100_000, 300_000];

async fn put_all(node: &StorageNode, drive: DriveId) {
    let writes = SIZES.iter().enumerate().map(|(i, len)| put(node, drive, i as u64, *len));
    for result in futures::future::join_all(writes).await {
        assert_eq!(result, Ok(()));
    }
}

async fn assert_all(node: &StorageNode, drive: DriveId) {
    for (i, len) in SIZES.iter().enumerate() {
        assert_readable(node, drive, i as u64, *len).await;
        let (header, payload) = shard(i as u64, *len);
        for range in [0..1, (*len / 2)..*len, (*len - 1)..*len, *len..*len] {
            let bytes = node
                .read_shard(drive, header.id(), header.descriptor.root(), range.start as u32..range.end as u32)
                .await
                .unwrap();
            assert_eq!(bytes, payload.slice(range));
        }
    }
}

#[tokio::test]
async fn what_is_written_is_read_also_after_a_restart() {
    let (trace, node, drive) = one_drive().await;
    put_all(&node, drive).await;
    assert_all(&node, drive).await;
    node.stop().await;
    // With no index: rebuilt from headers. Twice: every start closes segments and begins new ones.
    for _ in 0..2 {
        let node = start(&trace, memory_kv()).await;
        assert_all(&node, drive).await;
        assert_eq!(node.verify(drive).await.unwrap(), vec![]);
        put(&node, drive, 100, 5000).await.unwrap();
        assert_readable(&node, drive, 100, 5000).await;
        node.stop().await;
    }
}

#[tokio::test]
async fn a_read_of_another_root_or_range_is_refused() {
    let (_trace, node, drive) = one_drive().await;
    put(&node, drive, 1, 5000).await.unwrap();
    let (header, _) = shard(1, 5000);
    let root = header.descriptor.root();
    assert_eq!(node.read_shard(drive, header.id(), [9; 32], 0..1).await, Err(ReadError::WrongStripe));
    assert_eq!(
        node.read_shard(drive, header.id(), root, 0..5001).await,
        Err(ReadError::OutOfRange { start: 0, end: 5001, len: 5000 })
    );
    let other = ShardId { index: 1, ..header.id() };
    assert_eq!(node.read_shard(drive, other, root, 0..1).await, Err(ReadError::NotFound));
    assert_eq!(get(&node, drive_id(9), 1, 5000).await, Err(ReadError::UnknownDrive(drive_id(9))));
}

/// Only the service looked, and a rebuild on the drive's own node replaced a good shard.
#[tokio::test]
async fn r1_a_shard_of_another_stripe_of_that_id_is_not_replaced_and_one_of_the_same_is() {
    let (_trace, node, drive) = one_drive().await;
    put(&node, drive, 1, 5000).await.unwrap();
    let (mut other, payload) = shard(2, 5000);
    other.descriptor.id = shard(1, 5000).0.descriptor.id;
    let write = |header: &ShardHeader| node.write_shard(drive, header.clone(), payload.clone(), Reserve::Client);
    assert_eq!(write(&other).await, Err(WriteError::WrongStripe));
    assert_readable(&node, drive, 1, 5000).await;
    put(&node, drive, 1, 5000).await.unwrap();
    assert_readable(&node, drive, 1, 5000).await;
    // In one group, where the index knows of neither: one of the two is taken, and is the one that is read.
    for counter in 10..20 {
        other.descriptor.id = shard(counter, 5000).0.descriptor.id;
        let (first, second) = tokio::join!(put(&node, drive, counter, 5000), write(&other));
        assert_eq!((first, second), (Ok(()), Err(WriteError::WrongStripe)));
        assert_readable(&node, drive, counter, 5000).await;
    }
    // What can't be read may be written again.
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 1, 5000).await.unwrap();
    trace.flip(0, "segments/0000000000000001.seg", BLOCK_BYTES, 1).unwrap();
    assert!(matches!(get(&node, drive, 1, 5000).await, Err(ReadError::Damaged { .. })));
    put(&node, drive, 1, 5000).await.unwrap();
    assert_readable(&node, drive, 1, 5000).await;
}

#[tokio::test]
async fn a_payload_that_its_header_does_not_describe_is_refused() {
    let (_trace, node, drive) = one_drive().await;
    let (header, _) = shard(1, 5000);
    let refused = node.write_shard(drive, header, noise(1, 4999), Reserve::Client).await;
    assert!(matches!(refused, Err(WriteError::Malformed(_))));
}

#[tokio::test]
async fn an_old_index_is_caught_up_and_a_wrong_one_is_found_out_and_rebuilt() {
    let (trace, node, drive) = one_drive().await;
    node.stop().await;
    let kv = memory_kv();
    let node = start(&trace, kv.clone()).await;
    put(&node, drive, 1, 5000).await.unwrap();
    let old = kv.snapshot();
    for i in 2..40 {
        put(&node, drive, i, 20_000).await.unwrap();
    }
    node.stop().await;
    let node = start(&trace, Arc::new(MemoryKv::from_snapshot(&old))).await;
    assert_readable(&node, drive, 1, 5000).await;
    for i in 2..40 {
        assert_readable(&node, drive, i, 20_000).await;
    }
    node.stop().await;
    // Two places swapped, one pointing into a payload, one to a segment that does not exist, one row of rubbish.
    let index = ShardIndex::new(kv.clone(), drive);
    let places: Vec<_> = index.list(None, 100).unwrap();
    let mut batch = KvBatch::new();
    index.put_place(&mut batch, places[3].0, places[4].1);
    index.put_place(&mut batch, places[4].0, places[3].1);
    index.put_place(&mut batch, places[5].0, ShardPlace { block: places[5].1.block + 1, ..places[5].1 });
    index.put_place(&mut batch, places[6].0, ShardPlace { segment: 999, block: 1 });
    batch.put(SHARDS, drive.as_bytes().to_vec(), b"rubbish".to_vec());
    kv.write(batch).unwrap();
    let node = start(&trace, kv.clone()).await;
    for i in 2..40 {
        never_wrong(&node, drive, i, 20_000).await;
    }
    node.stop().await;
    let node = start(&trace, kv).await;
    for i in 2..40 {
        assert_readable(&node, drive, i, 20_000).await;
    }
    assert_eq!(node.list_shards(drive, None, None, 1000).await.unwrap().len(), 39);
}

#[tokio::test]
async fn shards_are_listed_in_order_page_by_page() {
    let (_trace, node, drive) = one_drive().await;
    for i in [5, 3, 9, 1, 7] {
        put(&node, drive, i, 100).await.unwrap();
    }
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let page = node.list_shards(drive, Some(StripeClass::Data), after, 2).await.unwrap();
        seen.extend(page.iter().map(|h| h.descriptor.id.counter));
        after = page.last().map(ShardHeader::id);
        if page.len() < 2 {
            break;
        }
    }
    assert_eq!(seen, [1, 3, 5, 7, 9]);
    assert_eq!(node.list_shards(drive, Some(StripeClass::Ledger), None, 2).await.unwrap(), vec![]);
    assert_eq!(node.highest_epoch(), Some(EPOCH));
}

#[tokio::test]
async fn a_shard_written_again_is_read_from_its_newer_copy() {
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 1, 9000).await.unwrap();
    node.stop().await;
    trace.flip(0, "segments/0000000000000001.seg", 3 * 4096, 1).unwrap();
    let kv = memory_kv();
    let node = start(&trace, kv.clone()).await;
    assert!(get(&node, drive, 1, 9000).await.is_err());
    put(&node, drive, 1, 9000).await.unwrap();
    assert_readable(&node, drive, 1, 9000).await;
    node.stop().await;
    for kv in [kv, memory_kv()] {
        let node = start(&trace, kv).await;
        assert_readable(&node, drive, 1, 9000).await;
        node.stop().await;
    }
}

#[tokio::test]
async fn r18_empty_foreign_missing_copied_and_half_formatted_directories() {
    let trace = Trace::new(3);
    let probed = |i: usize| probe(trace.disk(i) as Arc<dyn Disk>, Some(CLUSTER));
    assert_eq!(probed(0).state, ProbedState::Empty);
    let expected = format(&*trace.disk(0), CLUSTER, drive_id(0), Some(drive_id(0)));
    assert!(matches!(expected, Err(DriveError::KnownDriveEmpty { .. })));
    assert_eq!(probed(0).state, ProbedState::Empty);
    // A format that a crash interrupted can be done again.
    trace.disk(0).create_dir("segments").unwrap();
    assert_eq!(probed(0).state, ProbedState::Empty);
    format(&*trace.disk(0), CLUSTER, drive_id(0), None).unwrap();
    assert_eq!(probed(0).state, ProbedState::Ours);
    assert!(matches!(format(&*trace.disk(0), CLUSTER, drive_id(5), None), Err(DriveError::NotEmpty { .. })));
    format(&*trace.disk(1), ClusterId([8; 16]), drive_id(1), None).unwrap();
    assert_eq!(probed(1).state, ProbedState::Foreign { cluster: ClusterId([8; 16]) });
    let refused = StorageNode::open(config(), vec![probed(1)], memory_kv()).await;
    assert!(matches!(refused, Err(DriveError::NotOurs { state: ProbedState::Foreign { .. }, .. })));
    let any_cluster = probe(trace.disk(1) as Arc<dyn Disk>, None);
    assert!(StorageNode::open(config(), vec![any_cluster], memory_kv()).await.is_err());
    trace.replace_drive(2, &[("letters.txt", b"not ours")]).unwrap();
    assert!(matches!(probed(2).state, ProbedState::Damaged { .. }));
    assert!(matches!(format(&*trace.disk(2), CLUSTER, drive_id(2), None), Err(DriveError::NotEmpty { .. })));
    trace.remove_drive(2);
    assert_eq!(probed(2).state, ProbedState::Missing);
    let identity = crate::drive::Identity { cluster: CLUSTER, drive: drive_id(0) }.encode();
    trace.replace_drive(1, &[("identity", &identity), ("segments/x", b""), ("journal/x", b"")]).unwrap();
    let twice = StorageNode::open(config(), vec![probed(0), probed(1)], memory_kv()).await;
    assert!(matches!(twice, Err(DriveError::Twice { .. })));
}

#[tokio::test]
async fn a_drive_is_locked_while_in_use() {
    let (trace, node, drive) = one_drive().await;
    let second = open_with(&trace, memory_kv(), config()).await;
    let status = second.drives().await;
    assert!(matches!(&status[0].health, DriveHealth::Failed { reason } if reason.contains("in use")));
    assert!(matches!(put(&second, drive, 1, 10).await, Err(WriteError::DriveFailed { .. })));
    node.stop().await;
    drop(node);
    let third = start(&trace, memory_kv()).await;
    put(&third, drive, 1, 10).await.unwrap();
}

#[tokio::test]
async fn nothing_is_written_before_the_node_begins() {
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 1, 10_000).await.unwrap();
    node.stop().await;
    let before = trace.position();
    let node = open_with(&trace, memory_kv(), config()).await;
    assert_readable(&node, drive, 1, 10_000).await;
    assert!(matches!(put(&node, drive, 2, 10).await, Err(WriteError::ReadOnly { .. })));
    assert!(matches!(node.write_register(drive, Bytes::new()).await, Err(WriteError::ReadOnly { .. })));
    assert_eq!(trace.position(), before);
}

#[tokio::test]
async fn real_directories_hold_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let disk = || Arc::new(RealDisk::new(dir.path(), SabotageSet::default())) as Arc<dyn Disk>;
    format(&*disk(), CLUSTER, drive_id(0), None).unwrap();
    for round in 0..3 {
        let config = NodeConfig { reserve: 1 << 20, ..config() };
        let node = StorageNode::open(config, vec![probe(disk(), Some(CLUSTER))], memory_kv()).await.unwrap();
        node.begin(EPOCH).await.unwrap();
        if round == 0 {
            put_all(&node, drive_id(0)).await;
            node.write_register(drive_id(0), Bytes::from_static(b"members")).await.unwrap();
        }
        put(&node, drive_id(0), 50 + round, 70_000).await.unwrap();
        assert_all(&node, drive_id(0)).await;
        assert_eq!(node.read_register(drive_id(0)).await.unwrap(), &b"members"[..]);
        assert_eq!(node.verify(drive_id(0)).await.unwrap(), vec![]);
        assert_eq!(node.drives().await[0].reserve, 1 << 20);
        node.stop().await;
    }
}
