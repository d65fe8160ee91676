//! Shards are rebuilt from others: with any m lost or wrong, never from a wrong one, never to a wrong one.
use super::stripes::{flip_shard, nodes, packed, write};
use super::*;
use crate::disk::DiskOp;
use crate::disk::faulty::Fault;
use crate::keep::{RebuildError, RebuildOrder, Rebuilt, ShardRef};
use crate::sabotage::Sabotage;
use crate::stripe_io::StripeLayout;
use codec::id::ShardId;
use codec::stripe::PackedStripe;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// An order that rebuilds `lost` of a stripe, each to a drive of its own behind those of the stripe.
fn order(layout: &StripeLayout, lost: &[u8]) -> RebuildOrder {
    let width = layout.drives.len();
    let placed = (0u8..).zip(&layout.drives).filter_map(|(index, drive)| Some((index, (*drive)?)));
    RebuildOrder {
        descriptor: layout.descriptor.clone(),
        sources: placed.filter(|(index, _)| !lost.contains(index)).collect(),
        targets: lost.iter().enumerate().map(|(n, index)| (*index, drive_id(width + n))).collect(),
        bytes_per_second: 0,
        at: Vec::new(),
    }
}

/// Every target holds exactly the shard that was lost.
async fn assert_rebuilt(node: &StorageNode, order: &RebuildOrder, stripe: &PackedStripe) {
    for (index, drive) in &order.targets {
        let id = ShardId { stripe: stripe.descriptor.id, index: *index };
        let expected = stripe.shards[usize::from(*index)].clone().unwrap();
        let read = node.read_shard(*drive, id, stripe.descriptor.root(), 0..expected.len() as u32).await;
        assert_eq!(read, Ok(expected), "shard {index}");
    }
}

#[tokio::test]
async fn r2_any_m_shards_are_rebuilt_with_one_read() {
    for (k, m, frames) in [(1, 1, 1), (1, 2, 3), (2, 2, 4), (4, 2, 9), (4, 2, 2), (3, 3, 5)] {
        let width = usize::from(k + m);
        let (_trace, node) = nodes(width + usize::from(m)).await;
        let (stripe, _) = packed(k, m, frames);
        let layout = write(&node, &stripe, width).await;
        let present: Vec<u8> = (0..k + m).filter(|i| stripe.descriptor.is_present(*i)).collect();
        for lost in 1u32..1 << width {
            let lost: Vec<u8> = present.iter().copied().filter(|i| lost >> i & 1 == 1).collect();
            if lost.is_empty() || lost.len() > usize::from(m) {
                continue;
            }
            let order = order(&layout, &lost);
            let done = node.rebuild(order.clone()).await.unwrap();
            let sources = order.sources.iter().take(stripe.descriptor.data_present().len());
            let read: u64 = sources.map(|(index, _)| u64::from(stripe.descriptor.shard_len(*index))).sum();
            let written = lost.iter().map(|index| u64::from(stripe.descriptor.shard_len(*index))).sum();
            assert_eq!(done, Rebuilt { read, written });
            assert_rebuilt(&node, &order, &stripe).await;
        }
        node.stop().await;
    }
}

#[tokio::test]
async fn a_shard_of_many_pieces_is_rebuilt() {
    let trace = Trace::new(5);
    format_all(&trace);
    let node = open_with(&trace, memory_kv(), NodeConfig::new(CLUSTER)).await;
    node.begin(EPOCH).await.unwrap();
    let (stripe, _) = stripes::packed_of(2, 2, &[(1, 3 << 20), (2, (2 << 20) + 12_345), (3, 700)]);
    assert!(stripe.descriptor.shard_len(0) != stripe.descriptor.shard_len(1));
    let layout = write(&node, &stripe, 4).await;
    for lost in 0..4 {
        let order = order(&layout, &[lost]);
        node.rebuild(order.clone()).await.unwrap();
        assert_rebuilt(&node, &order, &stripe).await;
    }
}

#[tokio::test]
async fn a_drained_drive_costs_one_read_of_its_shard_while_it_is_good() {
    let (trace, node) = nodes(6).await;
    let (stripe, _) = packed(3, 2, 7);
    let layout = write(&node, &stripe, 5).await;
    let mut order = order(&layout, &[1]);
    order.sources.push((1, layout.drives[1].unwrap()));
    let len = u64::from(stripe.descriptor.shard_len(1));
    assert_eq!(node.rebuild(order.clone()).await, Ok(Rebuilt { read: len, written: len }));
    assert_rebuilt(&node, &order, &stripe).await;
    flip_shard(&trace, &layout, 1);
    assert!(node.rebuild(order.clone()).await.unwrap().read > len, "from the others, once it is not");
    assert_rebuilt(&node, &order, &stripe).await;
}

#[tokio::test]
async fn r1_r2_a_source_that_is_not_good_is_replaced_and_named() {
    let (trace, node) = nodes(8).await;
    let (mut stripe, _) = packed(3, 3, 7);
    let good = stripe.clone();
    // Shard 1 was wrong before it was sealed, so that every block of it verifies; shard 2 rots.
    let wrong: Vec<u8> = good.shards[1].iter().flatten().map(|b| b ^ 0x55).collect();
    stripe.shards[1] = Some(Bytes::from(wrong));
    let layout = write(&node, &stripe, 6).await;
    flip_shard(&trace, &layout, 2);
    let mut order_0 = order(&layout, &[0]);
    node.rebuild(order_0.clone()).await.unwrap();
    assert_rebuilt(&node, &order_0, &good).await;
    // One bad source more, a shard of another stripe of that id, and there are too few.
    let (mut other, _) = packed(3, 3, 8);
    other.descriptor.id = stripe.descriptor.id;
    let header = ShardHeader { descriptor: other.descriptor.clone(), index: 3 };
    let drive = drive_id(7);
    order_0.sources.iter_mut().filter(|(index, _)| *index == 3).for_each(|place| place.1 = drive);
    node.write_shard(drive, header, other.shards[3].clone().unwrap(), Reserve::Client).await.unwrap();
    let Err(RebuildError::TooFewSources { good: 2, needed: 3, bad, .. }) = node.rebuild(order_0).await else {
        panic!("rebuilt from two of three");
    };
    let of = |index| bad.iter().find(|(i, ..)| *i == index).map(|(_, _, error)| error.clone()).unwrap();
    assert_eq!(of(1), ReadError::Damaged { segment: 0, block: 0 });
    assert!(matches!(of(2), ReadError::Damaged { segment: 1, .. }));
    assert_eq!(of(3), ReadError::WrongStripe);
}

#[tokio::test]
async fn a_target_that_does_not_take_its_shard_is_named_and_nothing_else_changes() {
    let (trace, node) = nodes(5).await;
    let (stripe, frames) = packed(2, 2, 4);
    let layout = write(&node, &stripe, 4).await;
    trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncData).drive(4).path(".seg").times(1));
    let order = order(&layout, &[3]);
    let failed = node.rebuild(order.clone()).await;
    assert!(matches!(failed, Err(RebuildError::Target { index: 3, error: WriteError::DriveFailed { .. }, .. })));
    stripes::assert_all_read(&node, &layout, &stripe, &frames).await;
    node.rebuild(order.clone()).await.unwrap();
    assert_rebuilt(&node, &order, &stripe).await;
}

#[tokio::test]
async fn a_target_that_loses_what_it_acknowledged_is_found_before_the_answer() {
    let (trace, node) = nodes(5).await;
    let (stripe, _) = packed(2, 2, 4);
    let layout = write(&node, &stripe, 4).await;
    put(&node, drive_id(4), 99, 100).await.unwrap();
    trace.inject(Fault::lost_write().drive(4).path(".seg"));
    let failed = node.rebuild(order(&layout, &[3])).await;
    assert!(matches!(failed, Err(RebuildError::ReadBack { index: 3, error: Some(_), .. })), "{failed:?}");
}

#[tokio::test]
async fn a_target_whose_cache_hides_what_its_medium_lost_is_found_before_the_answer() {
    let (trace, node) = nodes(5).await;
    let (stripe, _) = packed(2, 2, 4);
    let layout = write(&node, &stripe, 4).await;
    put(&node, drive_id(4), 99, 100).await.unwrap();
    trace.inject(Fault::lost_write().under_cache().drive(4).path(".seg"));
    let failed = node.rebuild(order(&layout, &[3])).await;
    assert!(matches!(failed, Err(RebuildError::ReadBack { index: 3, error: Some(_), .. })), "{failed:?}");
}

/// The step that the test above is about: without it a shard that the medium lost is called rebuilt.
#[tokio::test]
async fn without_the_verification_a_shard_that_is_lost_is_called_rebuilt() {
    let (trace, node) = nodes(5).await;
    let (stripe, _) = packed(2, 2, 4);
    let layout = write(&node, &stripe, 4).await;
    trace.disk(0).sabotage().set(Sabotage::RebuildVerify, true);
    trace.inject(Fault::lost_write().under_cache().drive(4).path(".seg"));
    node.rebuild(order(&layout, &[3])).await.unwrap();
    let lost = ShardRef { id: ShardId { stripe: stripe.descriptor.id, index: 3 }, root: stripe.descriptor.root() };
    assert!(node.verify_shards(drive_id(4), vec![lost]).await.unwrap()[0].is_err());
}

#[tokio::test]
async fn r2_what_does_not_decode_to_its_hash_is_never_written() {
    let (_trace, node) = nodes(5).await;
    let (mut stripe, _) = packed(2, 2, 4);
    // A descriptor that promises another shard 3, and that everybody agrees on.
    stripe.descriptor.hashes[3] = [9; 32];
    let layout = write(&node, &stripe, 4).await;
    let order = order(&layout, &[3]);
    assert_eq!(node.rebuild(order.clone()).await, Err(RebuildError::Inconsistent(stripe.descriptor.id)));
    assert_eq!(node.list_shards(drive_id(4), None, None, 10).await, Ok(vec![]));
}

#[tokio::test]
async fn r17_a_malformed_order_is_refused() {
    let (_trace, node) = nodes(6).await;
    let (stripe, _) = packed(2, 2, 4);
    let layout = write(&node, &stripe, 4).await;
    let good = order(&layout, &[3]);
    let spoil: [fn(&mut RebuildOrder); 7] = [
        |order| order.targets.clear(),
        |order| order.targets = vec![(4, drive_id(5))],
        |order| order.sources.push((200, drive_id(5))),
        |order| order.targets.push((3, drive_id(5))),
        |order| order.targets = vec![(3, order.sources[0].1)],
        |order| order.descriptor.hashes = vec![[0; 32]; 1000],
        |order| order.descriptor.present = u32::MAX,
    ];
    for spoil in spoil {
        let mut order = good.clone();
        spoil(&mut order);
        assert!(matches!(node.rebuild(order).await, Err(RebuildError::Malformed(_))));
    }
}

#[tokio::test]
async fn the_rate_is_kept() {
    let (_trace, node) = nodes(5).await;
    let (stripe, _) = packed(2, 2, 4);
    let layout = write(&node, &stripe, 4).await;
    let mut order = order(&layout, &[3]);
    order.bytes_per_second = u64::from(stripe.descriptor.code_len()) * 4;
    let begun = Instant::now();
    node.rebuild(order).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(240));
}
