//! Each safety step is taken away once, and something must go wrong: a rule whose absence nobody notices is not tested.
use super::crash::{explore, workload};
use super::*;
use crate::disk::DiskOp;
use crate::disk::faulty::Fault;
use crate::drive::DriveError;
use crate::sabotage::{Sabotage, SabotageSet};
use crate::segment::BLOCK_BYTES;
use rustix::io::Errno;

async fn crash_finds(step: Sabotage) {
    let (trace, acks) = workload(SabotageSet::only(step)).await;
    assert!(explore(&trace, &acks, 4).await.is_some(), "{step:?} taken away, and no crash lost anything");
}

#[tokio::test]
async fn r5_without_the_sync_of_records() {
    crash_finds(Sabotage::RecordSync).await;
}

#[tokio::test]
async fn r7_without_the_sync_of_the_directory() {
    crash_finds(Sabotage::SegmentDirSync).await;
}

#[tokio::test]
async fn r7_without_the_sync_of_the_segment_header() {
    crash_finds(Sabotage::SegmentHeaderSync).await;
}

/// A node on one drive with a step taken away, with one shard in it.
async fn sabotaged(step: Sabotage) -> (Trace, Arc<StorageNode>, DriveId) {
    let trace = Trace::with_sabotage(1, SabotageSet::only(step));
    format_all(&trace);
    let node = start(&trace, memory_kv()).await;
    put(&node, drive_id(0), 1, 5000).await.unwrap();
    (trace, node, drive_id(0))
}

#[tokio::test]
async fn r5_without_the_identity_check() {
    let (trace, node, drive) = sabotaged(Sabotage::IdentityCheck).await;
    trace.remove_drive(0);
    assert_eq!(put(&node, drive, 2, 5000).await, Ok(()), "acknowledged into a directory that is gone");
}

#[tokio::test]
async fn r6_without_poison() {
    let (trace, node, drive) = sabotaged(Sabotage::Poison).await;
    trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncData).path(".seg").nth(1));
    assert_eq!(put(&node, drive, 2, 5000).await, Ok(()), "the second sync was believed");
    let point = trace.point(trace.position());
    let mut lost = false;
    for choice in point.choices(4, 3) {
        let image = point.image(&choice);
        let node = open_with(image.trace(), memory_kv(), config()).await;
        lost |= get(&node, drive, 2, 5000).await.is_err();
        node.stop().await;
    }
    assert!(lost);
}

#[tokio::test]
async fn r7_without_barriers() {
    let (trace, node, drive) = sabotaged(Sabotage::Barriers).await;
    put(&node, drive, 2, 5000).await.unwrap();
    node.stop().await;
    trace.flip(0, "segments/0000000000000001.seg", BLOCK_BYTES, 1).unwrap();
    let node = open_with(&trace, memory_kv(), config()).await;
    assert_eq!(get(&node, drive, 2, 5000).await, Err(ReadError::NotFound), "one rotten header took the rest along");
}

#[tokio::test]
async fn r8_without_seeds() {
    let (trace, node, drive) = sabotaged(Sabotage::BlockSeeds).await;
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    put(&node, drive, 2, 5000).await.unwrap();
    node.stop().await;
    // A payload block of one segment at the same place of the other: believed.
    let open = |n| trace.disk(0).open(&format!("segments/{n:016x}.seg"), crate::disk::Access::ReadWrite).unwrap();
    let mut block = vec![0; BLOCK_BYTES as usize];
    open(1).read_at(&mut block, 2 * BLOCK_BYTES).unwrap();
    open(2).write_at(&block, 2 * BLOCK_BYTES).unwrap();
    let node = open_with(&trace, memory_kv(), config()).await;
    assert_ne!(get(&node, drive, 2, 5000).await.unwrap(), noise(2, 5000));
}

#[tokio::test]
async fn r2_without_verified_blocks() {
    let (trace, node, drive) = sabotaged(Sabotage::VerifyBlocks).await;
    trace.flip(0, "segments/0000000000000001.seg", 2 * BLOCK_BYTES, 1).unwrap();
    assert_ne!(get(&node, drive, 1, 5000).await.unwrap(), noise(1, 5000));
}

#[tokio::test]
async fn r1_without_the_root() {
    let (_trace, node, drive) = sabotaged(Sabotage::StripeRoot).await;
    let (header, _) = shard(1, 5000);
    assert!(node.read_shard(drive, header.id(), [9; 32], 0..10).await.is_ok());
}

#[tokio::test]
async fn r14_without_the_reserve() {
    let trace = Trace::with_sabotage(1, SabotageSet::only(Sabotage::Reserve));
    format_all(&trace);
    trace.set_room(0, 2 << 20);
    let node = open_with(&trace, memory_kv(), NodeConfig { reserve: 1 << 20, ..config() }).await;
    node.begin(EPOCH).await.unwrap();
    for i in 0..26 {
        put(&node, drive_id(0), i, 60_000).await.unwrap();
    }
    assert!(node.drives().await[0].reserve < 1 << 20);
}

#[tokio::test]
async fn r18_without_the_refusal_of_an_empty_known_drive() {
    let trace = Trace::new(1);
    let refused = format(&*trace.disk(0), CLUSTER, drive_id(1), Some(drive_id(0)));
    assert!(matches!(refused, Err(DriveError::KnownDriveEmpty { .. })));
    let trace = Trace::with_sabotage(1, SabotageSet::only(Sabotage::FormatKnown));
    assert!(format(&*trace.disk(0), CLUSTER, drive_id(1), Some(drive_id(0))).is_ok());
}
