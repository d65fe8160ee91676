//! Stripes: written with replacements, read with any m shards lost or wrong.
use super::*;
use crate::disk::DiskOp;
use crate::disk::faulty::Fault;
use crate::stripe_io::{
    ReadOptions, StripeLayout, StripeReadError, StripeWriteError, TargetsWanted, read_frame, read_range, write_stripe,
};
use codec::erasure::Erasure;
use codec::frame::{ChunkKey, FIRST_VERSION, FrameSpec, chunk_id, encode};
use codec::id::DomainId;
use codec::stripe::{PackedStripe, StripePacker};
use rustix::io::Errno;
use std::time::Duration;

const OPTIONS: ReadOptions = ReadOptions { hedge_after: Duration::from_secs(5), deadline: Duration::from_secs(20) };

fn frame(seed: u64, len: usize) -> Bytes {
    let plain = noise(seed, len);
    let id = chunk_id(&ChunkKey::new([3; 32]), &plain);
    Bytes::from(
        encode(&FrameSpec { version: FIRST_VERSION, domain: DomainId(1), id, level: 3, data_key: None }, &plain)
            .unwrap(),
    )
}

/// A stripe of `frames` frames, packed into up to k data shards.
pub fn packed(k: u8, m: u8, frames: u64) -> (PackedStripe, Vec<Bytes>) {
    let frames: Vec<(u64, usize)> = (0..frames).map(|i| (i, 3000 + 1777 * i as usize)).collect();
    packed_of(k, m, &frames)
}

/// A stripe of frames of these seeds and lengths.
pub fn packed_of(k: u8, m: u8, frames: &[(u64, usize)]) -> (PackedStripe, Vec<Bytes>) {
    let geometry = Geometry::new(k, m).unwrap();
    let frames: Vec<Bytes> = frames.iter().map(|(seed, len)| frame(*seed, *len)).collect();
    let mut packer = StripePacker::new(k, m, 1 << 20);
    frames.iter().for_each(|frame| packer.add(frame.clone()));
    let id = StripeId { epoch: EPOCH, counter: 1 };
    let stripe = packer.finish(id, StripeClass::Data, geometry, CLUSTER, None, &Erasure::new(geometry)).unwrap();
    (stripe, frames)
}

pub async fn nodes(drives: usize) -> (Trace, Arc<StorageNode>) {
    let trace = Trace::new(drives);
    format_all(&trace);
    let node = start(&trace, memory_kv()).await;
    (trace, node)
}

fn placement(drives: usize) -> impl FnMut(TargetsWanted<'_>) -> Vec<DriveId> {
    move |wanted| {
        let free = (0..drives).map(drive_id).filter(|d| !wanted.used.contains(d) && !wanted.failed.contains(d));
        free.take(wanted.count).collect()
    }
}

pub async fn write(node: &StorageNode, stripe: &PackedStripe, drives: usize) -> StripeLayout {
    let drives = write_stripe(node, stripe, Reserve::Client, &mut placement(drives)).await.unwrap();
    StripeLayout { descriptor: stripe.descriptor.clone(), drives }
}

/// Flips a byte in the payload of a shard on its drive; the same again puts it back.
pub fn flip_shard(trace: &Trace, layout: &StripeLayout, index: u8) {
    let drive = layout.drives[usize::from(index)].unwrap();
    let number = (0..8).find(|i| drive_id(*i) == drive).unwrap();
    let blocks = codec::block::blocks_for(u64::from(layout.descriptor.shard_len(index)));
    for block in 0..blocks {
        trace.flip(number, "segments/0000000000000001.seg", (2 + block) * 4096 + 17, 1).unwrap();
    }
}

pub async fn assert_all_read(node: &StorageNode, layout: &StripeLayout, stripe: &PackedStripe, frames: &[Bytes]) {
    for (place, frame) in stripe.places.iter().zip(frames) {
        let read = read_frame(node, layout, *place, frame.len() as u32, OPTIONS).await;
        assert_eq!(read.as_ref(), Ok(frame));
        let start = place.offset + 100;
        let part = read_range(node, layout, place.shard, start..start + 50, OPTIONS).await;
        assert_eq!(part, Ok(frame.slice(100..150)));
    }
    for (index, shard) in (0u8..).zip(&stripe.shards) {
        let Some(shard) = shard else { continue };
        assert_eq!(read_range(node, layout, index, 0..shard.len() as u32, OPTIONS).await.as_ref(), Ok(shard));
    }
}

#[tokio::test]
async fn r2_any_m_shards_may_be_lost_or_wrong() {
    for (k, m, frames) in [(1, 0, 2), (1, 1, 1), (1, 2, 3), (2, 2, 4), (4, 2, 9), (4, 2, 2), (3, 3, 5), (5, 0, 7)] {
        let width = usize::from(k + m);
        let (trace, node) = nodes(width).await;
        let (stripe, all) = packed(k, m, frames);
        let layout = write(&node, &stripe, width).await;
        let present: Vec<u8> = (0..k + m).filter(|i| stripe.descriptor.is_present(*i)).collect();
        for lost in 0u32..1 << width {
            let lost: Vec<u8> = present.iter().copied().filter(|i| lost >> i & 1 == 1).collect();
            if lost.len() > usize::from(m) {
                continue;
            }
            let mut wounded = layout.clone();
            // The first of them is missing from the layout, the others rot on their drives.
            for (n, index) in lost.iter().enumerate() {
                match n {
                    0 => wounded.drives[usize::from(*index)] = None,
                    _ => flip_shard(&trace, &layout, *index),
                }
            }
            assert_all_read(&node, &wounded, &stripe, &all).await;
            lost.iter().skip(1).for_each(|index| flip_shard(&trace, &layout, *index));
        }
        // One more than m: an error, never bytes.
        let mut wounded = layout.clone();
        present.iter().take(usize::from(m) + 1).for_each(|i| wounded.drives[usize::from(*i)] = None);
        let gone = read_range(&*node, &wounded, present[0], 0..10, OPTIONS).await;
        assert!(matches!(gone, Err(StripeReadError::TooFewShards { .. })));
        node.stop().await;
    }
}

#[tokio::test]
async fn a_failed_or_full_drive_is_replaced_before_the_answer() {
    let (trace, node) = nodes(8).await;
    trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncData).drive(1).path(".seg"));
    trace.set_room(3, 0);
    trace.remove_drive(0);
    let (stripe, frames) = packed(3, 2, 7);
    let layout = write(&node, &stripe, 8).await;
    let drives: std::collections::BTreeSet<_> = layout.drives.iter().flatten().copied().collect();
    assert_eq!(drives.len(), 5);
    assert!(![0, 1, 3].iter().any(|i| drives.contains(&drive_id(*i))));
    assert_all_read(&node, &layout, &stripe, &frames).await;
    // Five usable drives; one less and the stripe is refused.
    trace.remove_drive(2);
    let refused = write_stripe(&*node, &stripe, Reserve::Client, &mut placement(8)).await;
    assert!(matches!(refused, Err(StripeWriteError::NoDrives { .. } | StripeWriteError::Full { .. })));
}

#[tokio::test]
async fn placement_that_gives_a_drive_twice_is_not_followed() {
    let (_trace, node) = nodes(2).await;
    let (stripe, _) = packed(1, 1, 1);
    let twice = write_stripe(&*node, &stripe, Reserve::Client, &mut |_| vec![drive_id(0), drive_id(0)]).await;
    assert!(matches!(twice, Err(StripeWriteError::NoDrives { .. })));
}

#[tokio::test]
async fn r1_a_shard_of_another_stripe_of_that_id_is_not_decoded() {
    let (_trace, node) = nodes(4).await;
    let (stripe, frames) = packed(2, 1, 4);
    let mut layout = write(&node, &stripe, 3).await;
    let (mut other, _) = packed(2, 1, 5);
    other.descriptor.id = stripe.descriptor.id;
    let header = ShardHeader { descriptor: other.descriptor.clone(), index: 1 };
    // On a drive that has none of that id: one that has does not take it.
    let drive = drive_id(3);
    layout.drives[1] = Some(drive);
    node.write_shard(drive, header, other.shards[1].clone().unwrap(), Reserve::Client).await.unwrap();
    assert_all_read(&node, &layout, &stripe, &frames).await;
}

#[tokio::test]
async fn a_shard_that_was_sealed_with_wrong_bytes_is_decoded_around() {
    let (_trace, node) = nodes(6).await;
    let (mut stripe, frames) = packed(4, 2, 8);
    let good = stripe.shards.clone();
    let mut bad = good[1].clone().unwrap().to_vec();
    bad.iter_mut().for_each(|b| *b ^= 0x55);
    stripe.shards[1] = Some(Bytes::from(bad));
    let layout = write(&node, &stripe, 6).await;
    for (place, frame) in stripe.places.iter().zip(&frames) {
        let mut wounded = layout.clone();
        assert_eq!(read_frame(&*node, &wounded, *place, frame.len() as u32, OPTIONS).await.as_ref(), Ok(frame));
        if place.shard == 0 {
            // Shard 0 is gone and the bad shard is an input of its reconstruction: others are tried.
            wounded.drives[0] = None;
            assert_eq!(read_frame(&*node, &wounded, *place, frame.len() as u32, OPTIONS).await.as_ref(), Ok(frame));
        }
    }
}

#[tokio::test]
async fn a_slow_drive_is_raced_by_a_reconstruction() {
    let (trace, node) = nodes(3).await;
    let (stripe, frames) = packed(2, 1, 2);
    let layout = write(&node, &stripe, 3).await;
    let drive = (0..3).find(|i| layout.drives[0] == Some(drive_id(*i))).unwrap();
    trace.inject(Fault::hang().on(DiskOp::Read).drive(drive));
    let begun = std::time::Instant::now();
    let options = ReadOptions { hedge_after: Duration::from_millis(20), ..ReadOptions::default() };
    let place = stripe.places.iter().position(|p| p.shard == 0).unwrap();
    let read = read_frame(&*node, &layout, stripe.places[place], frames[place].len() as u32, options).await;
    assert_eq!(read.as_ref(), Ok(&frames[place]));
    assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
    trace.heal_all();
}

/// Where the drive that was to be read around hung as well, the read waited for it without end.
#[tokio::test]
async fn of_two_drives_that_hang_neither_is_waited_for() {
    let (trace, node) = nodes(4).await;
    let (stripe, frames) = packed(2, 2, 6);
    let layout = write(&node, &stripe, 4).await;
    let number = |index: usize| (0..4).find(|i| layout.drives[index] == Some(drive_id(*i))).unwrap();
    let hangs: Vec<_> = (0..2)
        .map(|index| trace.inject(Fault::hang().on(DiskOp::Read).drive(number(index)).path("segments")))
        .collect();
    let options = ReadOptions { hedge_after: Duration::from_millis(20), ..ReadOptions::default() };
    for (place, bytes) in stripe.places.iter().zip(&frames) {
        assert_eq!(read_frame(&*node, &layout, *place, bytes.len() as u32, options).await.as_ref(), Ok(bytes));
    }
    assert!(hangs.iter().all(|hang| trace.hits(*hang) > 0));
    // Nothing is left to read from: an error, and not a wait.
    trace.inject(Fault::hang().on(DiskOp::Read).path("segments"));
    let options = ReadOptions { deadline: Duration::from_millis(100), ..options };
    let read = read_frame(&*node, &layout, stripe.places[0], frames[0].len() as u32, options).await;
    assert!(matches!(read, Err(StripeReadError::TooFewShards { .. })), "{read:?}");
    trace.heal_all();
}
