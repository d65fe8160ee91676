//! Drives that fall silent and come back: whom repair waits for, what it believes, and what it never does. Each rule also with
//! its step taken away, to see that the test would notice.

use super::failures::numbers;
use super::keeping::{bad_shards, keeper, pass, settle, striped, stripes};
use super::world::{World, run};
use crate::client::MetadataClient;
use crate::keep::Alarm;
use crate::keep::plan::Wait;
use crate::keep::watch::Sight;
use crate::lookup;
use crate::service::Metadata;
use codec::effect::StripeRow;
use codec::id::{DriveId, StripeId};
use codec::segment::SegmentClass;
use storage_node::disk::{Access, Disk};
use storage_node::keep::ShardRef;
use storage_node::sabotage::{Sabotage, SabotageSet};
use storage_node::segment::segment_path;

const GRACE_MS: u64 = 15 * 60_000;
const DAY_MS: u64 = 24 * 3_600_000;
const BLOCK: u64 = 4096;

fn sabotaged(drives: usize, geometry: &str, step: Option<Sabotage>) -> World {
    let mut world = World::new(drives, geometry);
    world.config.sabotage = step.map(SabotageSet::only).unwrap_or_default();
    world
}

/// How many shards of each stripe lie on some drives.
fn shards_on(metadata: &Metadata, drives: &[DriveId]) -> Vec<usize> {
    let on = |row: &StripeRow| {
        row.drives.iter().filter(|d| DriveId::from_slice(d).is_some_and(|d| drives.contains(&d))).count()
    };
    stripes(metadata).iter().map(|(_, row)| on(row)).collect()
}

/// Flips a bit in every third block of a drive's data segments; the headers of segments are left alone.
fn rot(world: &World, number: usize) {
    let disk = world.trace.disk(number);
    for name in disk.list("segments").unwrap() {
        let path = format!("segments/{name}");
        let len = disk.open(&path, Access::Read).unwrap().len().unwrap();
        for at in (2 * BLOCK + 100..len).step_by(3 * BLOCK as usize) {
            world.trace.flip(number, &path, at, 0x10).unwrap();
        }
    }
}

/// Two drives fall silent at once. Within the grace a stripe that lacks one shard waits, and one that lacks two does not.
async fn two_silent(step: Option<Sabotage>) -> (usize, usize, usize) {
    let world = sabotaged(9, "3+2", step);
    let (metadata, _) = striped(&world, 60).await;
    settle(&metadata).await;
    let members = metadata.status().ensemble;
    let numbers = numbers(&world, &metadata).await;
    let silent: Vec<_> = numbers.iter().filter(|(id, _)| !members.contains(id)).take(2).copied().collect();
    let ids: Vec<DriveId> = silent.iter().map(|(id, _)| *id).collect();
    let before = shards_on(&metadata, &ids);
    silent.iter().for_each(|(_, number)| world.trace.remove_drive(*number));
    metadata.check_drives().await;
    pass(&world, 1000);
    settle(&metadata).await;
    let after = shards_on(&metadata, &ids);
    let left = |of: usize| before.iter().zip(&after).filter(|(before, after)| **before == of && **after > 0).count();
    let result = (before.iter().filter(|count| **count == 2).count(), left(2), left(1));
    metadata.shutdown().await;
    result
}

#[test]
fn r13_one_silent_drive_has_its_grace_and_two_have_none() {
    run(async {
        let (twice, left_of_two, left_of_one) = two_silent(None).await;
        assert!(twice > 0 && left_of_two == 0 && left_of_one > 5, "{twice} {left_of_two} {left_of_one}");
        let (.., hasty) = two_silent(Some(Sabotage::RepairGrace)).await;
        assert_eq!(hasty, 0, "without the grace nothing waits");
    });
}

/// A drive comes back with rot on it. Gives the shards that are bad when repair has nothing to do any more.
async fn comes_back_rotten(step: Option<Sabotage>) -> usize {
    let mut world = sabotaged(7, "3+2", step);
    let (metadata, client) = striped(&world, 40).await;
    let members = metadata.status().ensemble;
    let away = *numbers(&world, &metadata).await.iter().find(|(id, _)| !members.contains(id)).unwrap();
    metadata.shutdown().await;
    world.given.retain(|n| *n != away.1);
    let metadata = world.serving().await;
    keeper(&metadata).pause(true);
    settle_paused(&metadata).await;
    pass(&world, GRACE_MS + 1000);
    settle_paused(&metadata).await;
    metadata.shutdown().await;
    rot(&world, away.1);
    world.given.push(away.1);
    let metadata = world.serving().await;
    // Not one of its shards counts for a dedup hit, or as a source, before it was verified.
    if step.is_none() {
        assert!(metadata.wounds().unverified.contains_key(&away.0));
    }
    settle(&metadata).await;
    assert_eq!(keeper(&metadata).status().drives[&away.0].sight, Sight::There);
    let bad = bad_shards(&metadata).await.len();
    client.check(&metadata).await;
    metadata.shutdown().await;
    bad
}

async fn settle_paused(metadata: &Metadata) {
    for _ in 0..3 {
        keeper(metadata).run_once().await.unwrap();
    }
}

#[test]
fn r13_a_drive_that_is_back_is_verified_before_it_counts() {
    run(async {
        assert_eq!(comes_back_rotten(None).await, 0);
        let unseen = comes_back_rotten(Some(Sabotage::ReturnVerify)).await;
        assert!(unseen > 0, "without verification the rot waits for scrub");
    });
}

/// A finding whose cause is gone: bytes rebuilt for it, and shards that were found good.
async fn healed_by_itself(step: Option<Sabotage>) -> (u64, u64) {
    let world = sabotaged(5, "3+2", step);
    let (metadata, client) = striped(&world, 20).await;
    settle(&metadata).await;
    let number = numbers(&world, &metadata).await[1].1;
    rot(&world, number);
    assert!(!bad_shards(&metadata).await.is_empty());
    rot(&world, number);
    settle(&metadata).await;
    let totals = keeper(&metadata).status().totals;
    client.check(&metadata).await;
    metadata.shutdown().await;
    (totals.written, totals.found_good)
}

#[test]
fn r13_what_is_said_to_be_damaged_is_looked_at_once_more() {
    run(async {
        let (written, found_good) = healed_by_itself(None).await;
        assert!(written == 0 && found_good > 0, "{written} {found_good}");
        let (written, _) = healed_by_itself(Some(Sabotage::SuspectCheck)).await;
        assert!(written > 0, "good shards are written again");
    });
}

#[test]
fn two_drives_that_claim_a_shard_are_told_apart_by_the_row() {
    run(async {
        let mut world = World::new(8, "3+2");
        let (metadata, client) = striped(&world, 40).await;
        let members = metadata.status().ensemble;
        let away = *numbers(&world, &metadata).await.iter().find(|(id, _)| !members.contains(id)).unwrap();
        let had: Vec<(StripeId, u8)> = indexes_on(&metadata, away.0);
        metadata.shutdown().await;
        world.given.retain(|n| *n != away.1);
        let metadata = world.serving().await;
        settle(&metadata).await;
        pass(&world, GRACE_MS + 1000);
        settle(&metadata).await;
        assert!(indexes_on(&metadata, away.0).is_empty());
        metadata.shutdown().await;

        // It is back with its old copies, all of them rotten; and a new copy rots as well.
        rot(&world, away.1);
        world.given.push(away.1);
        let metadata = world.serving().await;
        settle(&metadata).await;
        let report = keeper(&metadata).take_inventory().await.unwrap();
        assert!(report.orphans > 0 && report.found == [0; 7], "{report:?}");
        let (stripe, index) =
            *had.iter().find(|(stripe, _)| stripes(&metadata).iter().any(|(id, _)| id == stripe)).unwrap();
        let row = |metadata: &Metadata| stripes(metadata).into_iter().find(|(id, _)| *id == stripe).unwrap().1;
        let present = row(&metadata).drive(index).unwrap();
        let number = numbers(&world, &metadata).await.into_iter().find(|(id, _)| *id == present).unwrap().1;
        rot(&world, number);
        let root = lookup::descriptor(stripe, &row(&metadata)).unwrap().root();
        let asked = vec![ShardRef { id: codec::id::ShardId { stripe, index }, root }];
        let old = metadata.node().verify_shards(away.0, asked.clone()).await.unwrap();
        assert!(bad_shards(&metadata).await.iter().all(|(drive, _)| *drive == present));
        let before = keeper(&metadata).status().totals.shards;
        settle(&metadata).await;
        assert_eq!(bad_shards(&metadata).await, []);
        assert_eq!(row(&metadata).drive(index), Some(present), "mended where the row has it");
        assert!(keeper(&metadata).status().totals.shards > before);
        assert_eq!(metadata.node().verify_shards(away.0, asked).await.unwrap(), old, "the other copy is left as it is");
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

fn indexes_on(metadata: &Metadata, drive: DriveId) -> Vec<(StripeId, u8)> {
    let of = |(id, row): (StripeId, StripeRow)| {
        (0..row.drives.len() as u8).find(|index| row.drive(*index) == Some(drive)).map(|index| (id, index))
    };
    stripes(metadata).into_iter().filter_map(of).collect()
}

#[test]
fn without_a_spare_drive_one_is_waited_for_and_its_return_needs_no_rebuild() {
    run(async {
        let mut world = World::new(5, "3+2");
        let (metadata, client) = striped(&world, 30).await;
        let members = metadata.status().ensemble;
        let away = *numbers(&world, &metadata).await.iter().find(|(id, _)| !members.contains(id)).unwrap();
        metadata.shutdown().await;
        world.given.retain(|n| *n != away.1);
        let metadata = world.serving().await;
        settle(&metadata).await;
        for ms in [GRACE_MS + 1000, DAY_MS - 2 * GRACE_MS] {
            pass(&world, ms);
            settle(&metadata).await;
            let status = keeper(&metadata).status();
            assert!(status.alarms.iter().any(|alarm| matches!(alarm, Alarm::NoSpare { .. })), "{:?}", status.alarms);
            assert_eq!(status.narrower, 0);
            // Short stripes find a place; those as wide as the cluster wait.
            assert!(shards_on(&metadata, &[away.0]).iter().sum::<usize>() > 0);
        }
        metadata.shutdown().await;
        world.given.push(away.1);
        let metadata = world.serving().await;
        settle(&metadata).await;
        let status = keeper(&metadata).status();
        assert!(status.wounded.is_empty() && status.alarms.is_empty() && status.totals.shards == 0, "{status:?}");
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn without_a_spare_drive_two_are_not_waited_for_and_the_reserve_is_left_alone() {
    run(async {
        let world = World::new(5, "3+2");
        let (metadata, client) = striped(&world, 40).await;
        settle(&metadata).await;
        let members = metadata.status().ensemble;
        let lost: Vec<_> =
            numbers(&world, &metadata).await.into_iter().filter(|(id, _)| !members.contains(id)).take(2).collect();
        for (_, number) in &lost {
            world.trace.remove_drive(*number);
        }
        // What is left is full up to the reserve: narrower stripes find no room.
        for number in 0..5 {
            world.trace.set_room(number, 0);
        }
        metadata.check_drives().await;
        keeper(&metadata).run_once().await.unwrap();
        let waiting = keeper(&metadata).plan().waiting;
        // Those with a shard on one of the two only may wait for it.
        let short: Vec<_> = waiting.iter().filter(|w| w.slack <= 0).collect();
        assert!(!short.is_empty(), "{waiting:?}");
        assert!(!short.iter().any(|w| matches!(w.why, Wait::Grace { .. } | Wait::Replacement { .. })), "{short:?}");
        let status = keeper(&metadata).status();
        assert_eq!(status.narrower, 0);
        let full = |alarm: &Alarm| matches!(alarm, Alarm::NoRoom { .. } | Alarm::TooFewDrives { .. });
        assert!(status.alarms.iter().any(full), "{:?}", status.alarms);
        // With room again they are made narrower, and nobody waits a day for that.
        for number in 0..5 {
            world.trace.set_room(number, 1 << 40);
        }
        metadata.check_drives().await;
        pass(&world, GRACE_MS + 1000);
        settle(&metadata).await;
        let status = keeper(&metadata).status();
        assert!(status.narrower > 0, "{status:?}");
        assert!(!keeper(&metadata).narrower().is_empty());
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_truncated_segment_and_a_lost_row_of_the_node_are_known_with_the_next_inventory() {
    run(async {
        let mut world = World::new(6, "2+2");
        world.node_index = Some(super::world::new_node_index());
        let (metadata, client) = striped(&world, 30).await;
        settle(&metadata).await;
        let numbers = numbers(&world, &metadata).await;
        // One drive's segment ends early, of another the node forgets a shard, a third holds a shard of another stripe.
        let disk = world.trace.disk(numbers[0].1);
        let name = disk.list("segments").unwrap().into_iter().min().unwrap();
        let path = format!("segments/{name}");
        assert_eq!(path, segment_path(SegmentClass::Data, name.trim_end_matches(".seg").parse().unwrap()));
        disk.open(&path, Access::ReadWrite).unwrap().truncate(3 * BLOCK).unwrap();
        let (forgotten, index) = indexes_on(&metadata, numbers[1].0)[0];
        let key = [numbers[1].0.as_bytes(), &forgotten.to_bytes()[..], &[index]].concat();
        let mut batch = storage_node::kv::KvBatch::new();
        batch.delete(storage_node::index::SHARDS, key);
        storage_node::kv::Kv::write(&**world.node_index.as_ref().unwrap(), batch).unwrap();
        let report = keeper(&metadata).take_inventory().await.unwrap();
        let found: u64 = report.found.iter().sum();
        assert!(report.found[0] >= 2 && found >= 2, "{report:?}");
        settle(&metadata).await;
        // Of the shard that was cut in two its header is there: what it has lost is seen when it is read.
        assert!(bad_shards(&metadata).await.len() <= 1);
        settle(&metadata).await;
        assert_eq!(bad_shards(&metadata).await, []);
        let again = keeper(&metadata).take_inventory().await.unwrap();
        assert_eq!((again.found, again.unasked, again.bad_rows), ([0; 7], 0, 0), "{again:?}");
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// A machine is out of reach for a while: its drives were to be opened again, and never were. What they hold is what it was, and
/// a doubt that only another opening ends would keep it from being a dedup hit until the next start.
#[test]
fn a_drive_that_was_not_opened_after_all_is_not_doubted_for_ever() {
    run(async {
        let world = World::new(6, "3+2");
        let (metadata, _) = striped(&world, 20).await;
        let shared = metadata.shared().clone();
        let drive = shared.node.drives().await[0].clone();
        let doubted = || shared.doubted(|_, _| true).contains(&drive.id);
        shared.doubt(drive.id, drive.opened + 1);
        assert!(doubted());
        metadata.check_drives().await;
        assert!(!doubted());
        // One that was opened since its last look stays doubted until the keeper has seen that.
        shared.doubt(drive.id, drive.opened);
        metadata.check_drives().await;
        assert!(doubted());
        metadata.shutdown().await;
    });
}
