//! What rot has eaten is no dedup hit: a client's copy of it is stored again.

use super::failures::numbers;
use super::keeping::{bad_shards, keeper, scrub, settle, striped, stripes};
use super::world::{World, new_node_index, noise, run};
use crate::client::MetadataClient;
use crate::index::{self, Overlay};
use crate::lookup::{self, Losses, Safety, Wounds};
use crate::service::Metadata;
use codec::frame::chunk_id;
use codec::id::{ChunkId, DriveId, ShardId, StripeId};
use codec::segment::SegmentClass;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage_node::disk::{Access, Disk};
use storage_node::segment::segment_path;

const BLOCK: u64 = 4096;

async fn id_of(metadata: &Metadata, seed: u64, len: usize) -> ChunkId {
    chunk_id(&metadata.domain("alice", &crate::keys::Purpose::Plain).await.unwrap().chunk_key, &noise(seed, len))
}

async fn is_hit(metadata: &Metadata, id: ChunkId) -> bool {
    let domain = metadata.domain("alice", &crate::keys::Purpose::Plain).await.unwrap().id;
    metadata.find_chunks(domain, &[id]).await.unwrap()[0].is_some()
}

fn stripe_of(metadata: &Metadata, id: ChunkId) -> Option<StripeId> {
    index::chunk(&Overlay::new(&**metadata.kv()), id).unwrap().unwrap().place.unwrap().stripe()
}

/// Flips a bit in every block that `path` uses, its header left out.
fn rot(world: &World, number: usize, path: &str, bytes: u64) {
    for at in (BLOCK..bytes).step_by(BLOCK as usize) {
        world.trace.flip(number, path, at + 77, 0x10).unwrap();
    }
}

fn rot_data(world: &World, number: usize) {
    let disk = world.trace.disk(number);
    for name in disk.list("segments").unwrap() {
        let path = format!("segments/{name}");
        let len = disk.open(&path, Access::Read).unwrap().len().unwrap();
        rot(world, number, &path, len);
    }
}

#[test]
fn a_chunk_in_a_stripe_that_rot_has_worn_out_is_no_dedup_hit_until_it_is_mended() {
    run(async {
        let mut world = World::new(6, "2+2");
        world.node_index = Some(new_node_index());
        let (metadata, mut client) = striped(&world, 30).await;
        for (_, number) in &numbers(&world, &metadata).await[..2] {
            rot_data(&world, *number);
        }
        let mut ids = Vec::new();
        for seed in 0..30 {
            ids.push(id_of(&metadata, seed, 4000).await);
        }
        // What scrub has not come by is not known.
        for id in &ids {
            assert!(is_hit(&metadata, *id).await);
        }
        let mut lost: BTreeMap<StripeId, usize> = BTreeMap::new();
        for (_, shard) in bad_shards(&metadata).await {
            *lost.entry(shard.stripe).or_default() += 1;
        }
        let is_worn =
            |metadata: &Metadata, id: ChunkId| stripe_of(metadata, id).is_some_and(|id| lost.get(&id) == Some(&2));
        let worn: Vec<usize> = (0..30).filter(|n| is_worn(&metadata, ids[*n])).collect();
        assert!(worn.len() > 2 && worn.len() < 30, "{worn:?}");
        keeper(&metadata).pause(true);
        keeper(&metadata).run_once().await.unwrap();
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(is_hit(&metadata, *id).await, !worn.contains(&n), "object {n}");
        }
        // The client's copy is taken, and counts.
        client.put(&metadata, "again", noise(worn[0] as u64, 4000)).await.unwrap();
        assert_eq!(stripe_of(&metadata, ids[worn[0]]), None);
        assert!(is_hit(&metadata, ids[worn[0]]).await);
        metadata.shutdown().await;

        // What was found is known from the first moment of the next start.
        let metadata = world.serving().await;
        for n in &worn[1..] {
            assert!(!is_hit(&metadata, ids[*n]).await, "object {n}");
        }
        settle(&metadata).await;
        assert_eq!(bad_shards(&metadata).await, []);
        for id in &ids {
            assert!(is_hit(&metadata, *id).await);
        }
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_chunk_of_which_one_good_journal_copy_is_left_is_no_dedup_hit_until_it_is_sealed() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, client) = world.filled(0..10, 3000).await;
        keeper(&metadata).pause(true);
        let id = id_of(&metadata, 3, 3000).await;
        let members = metadata.status().ensemble;
        let numbers: BTreeMap<DriveId, usize> = numbers(&world, &metadata).await.into_iter().collect();
        for (nth, member) in members[..2].iter().enumerate() {
            for segment in metadata.node().journal_segments(*member).await.unwrap() {
                rot(&world, numbers[member], &segment_path(SegmentClass::Journal, segment.number), segment.bytes);
            }
            scrub(&metadata, *member).await;
            keeper(&metadata).run_once().await.unwrap();
            // Three copies; two good ones will do.
            assert_eq!(is_hit(&metadata, id).await, nth == 0);
        }
        keeper(&metadata).pause(false);
        settle(&metadata).await;
        assert!(stripe_of(&metadata, id).is_some());
        assert!(is_hit(&metadata, id).await);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn shards_of_a_drive_that_is_back_count_once_they_are_verified() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, _) = striped(&world, 5).await;
        let (id, row) = stripes(&metadata).into_iter().next().unwrap();
        let descriptor = lookup::descriptor(id, &row).unwrap();
        let drives: BTreeSet<DriveId> = (0..descriptor.width()).filter_map(|index| row.drive(index)).collect();
        let safety = |unverified: &[Option<StripeId>], bad: &[ShardId]| {
            let unverified = drives.iter().copied().zip(unverified.iter().copied()).collect();
            let mut wounds = Wounds { unverified, ..Wounds::default() };
            let shards = Arc::make_mut(&mut wounds.shards);
            for shard in bad {
                shards.entry(shard.stripe).or_default().push((shard.index, row.drive(shard.index).unwrap()));
            }
            Losses { wounds: Arc::new(wounds), ..Losses::default() }.of_stripe(&descriptor, &row)
        };
        let before = StripeId { counter: id.counter - 1, ..id };
        assert_eq!(safety(&[], &[]), Safety::Whole);
        assert_eq!(safety(&[None], &[]), Safety::Safe);
        assert_eq!(safety(&[None, None], &[]), Safety::AtRisk);
        assert_eq!(safety(&[Some(id), Some(before)], &[]), Safety::Safe);
        let last = descriptor.width() - 1;
        let bad = ShardId { stripe: id, index: last };
        assert_eq!(safety(&[], &[bad]), Safety::Safe);
        let other = ShardId { stripe: before, index: last };
        assert_eq!(safety(&[], &[other]), Safety::Whole);
        metadata.shutdown().await;
    });
}
