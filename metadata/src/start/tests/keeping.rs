//! The keeper over fault disks: drives lost and back, shards rotten and gone, journal copies damaged, crashes in between.

use super::failures::{member, numbers};
use super::world::{Client, World, noise, run};
use crate::client::MetadataClient;
use crate::command::Command;
use crate::index::{self, CHUNKS, OBJECTS, Overlay, STRIPES, View};
use crate::keep::plan::{Wait, Waits};
use crate::keep::rows::{Fault, Slice, scrub_rows};
use crate::keep::watch::Sight;
use crate::keep::{Alarm, Keeper};
use crate::lookup;
use crate::service::Metadata;
use bytes::Bytes;
use codec::effect::{ChunkRow, DriveState, StripeRow};
use codec::id::{DriveId, ShardId, StripeId};
use codec::segment::SegmentClass;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage_node::disk::{Access, Disk};
use storage_node::keep::{RebuildOrder, ScrubOrder, ScrubState, ScrubStatus, ShardRef, Subject};
use storage_node::kv::{Kv, KvBatch};
use storage_node::segment::segment_path;

const GRACE_MS: u64 = 15 * 60_000;

pub(super) fn keeper(metadata: &Metadata) -> &Arc<Keeper> {
    metadata.keeper().unwrap()
}

/// Objects, sealed into many small stripes.
pub(super) async fn striped(world: &World, objects: u64) -> (Metadata, Client) {
    let (metadata, mut client) = world.filled(0..1, 100).await;
    for from in (0..objects).step_by(5) {
        client.puts(&metadata, from..from + 5, 4000).await;
        metadata.seal_now().await.unwrap();
    }
    (metadata, client)
}

pub(super) fn stripes(metadata: &Metadata) -> Vec<(StripeId, StripeRow)> {
    let rows = Overlay::new(&**metadata.kv()).rows(STRIPES, &[], &[0xff; 17], usize::MAX).unwrap();
    rows.into_iter()
        .map(|(key, value)| (StripeId::from_slice(&key).unwrap(), index::decode(STRIPES, &key, value).unwrap()))
        .collect()
}

/// The shards that rows name, with their drives.
pub(super) fn shards(metadata: &Metadata) -> Vec<(DriveId, ShardRef)> {
    let mut all = Vec::new();
    for (stripe, row) in stripes(metadata) {
        let descriptor = lookup::descriptor(stripe, &row).unwrap();
        for index in (0..descriptor.width()).filter(|index| descriptor.is_present(*index)) {
            let id = ShardId { stripe, index };
            all.push((row.drive(index).unwrap(), ShardRef { id, root: descriptor.root() }));
        }
    }
    all
}

/// Shards that do not verify from the medium where the rows say that they are.
pub(super) async fn bad_shards(metadata: &Metadata) -> Vec<(DriveId, ShardId)> {
    let mut bad = Vec::new();
    for (drive, shard) in shards(metadata) {
        let answers = metadata.node().verify_shards(drive, vec![shard]).await;
        if !answers.is_ok_and(|answers| answers[0].is_ok()) {
            bad.push((drive, shard.id));
        }
    }
    bad
}

/// Rounds until nothing is left to be done.
pub(super) async fn settle(metadata: &Metadata) {
    for round in 0..300 {
        if !keeper(metadata).run_once().await.unwrap().is_busy() {
            return;
        }
        // A round does not wait for what an earlier one has begun: a busy machine gets time for it.
        if round > 50 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    panic!("the keeper does not come to rest: {:?}\n{}", keeper(metadata).status(), keeper(metadata).plan());
}

/// A whole pass of scrub over a drive.
pub(super) async fn scrub(metadata: &Metadata, drive: DriveId) {
    let status = async || {
        let all = metadata.node().scrub_status().await;
        all.into_iter().find(|status| status.drive == drive).unwrap()
    };
    let before = status().await.last_pass_ms;
    // A pass is known by when it ended, in milliseconds of the machine's clock.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    metadata.node().scrub_order(drive, ScrubOrder::Start).await.unwrap();
    let is_done = |now: &ScrubStatus| now.last_pass_ms > before && now.state == ScrubState::Waiting;
    let done = async {
        while !is_done(&status().await) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(40), done).await.unwrap();
}

pub(super) fn pass(world: &World, ms: u64) {
    world.clock.passed.fetch_add(ms, Ordering::Relaxed);
}

#[test]
fn a_lost_drive_is_made_good_on_the_others_after_the_grace() {
    run(async {
        let world = World::new(7, "3+2");
        let (metadata, client) = striped(&world, 60).await;
        assert!(!keeper(&metadata).status().walk.whole, "nobody has looked yet");
        settle(&metadata).await;
        let status = keeper(&metadata).status();
        assert!(status.walk.whole);
        assert_eq!((status.wounded.len(), status.oldest_repair_ms, &status.alarms[..]), (0, None, &[][..]));
        assert_eq!(status.walk.stripes, stripes(&metadata).len() as u64);

        let lost = numbers(&world, &metadata).await[0];
        world.trace.remove_drive(lost.1);
        metadata.check_drives().await;
        settle(&metadata).await;
        let status = keeper(&metadata).status();
        let wounded: u64 = status.wounded.values().sum();
        assert!(wounded > 10 && status.waiting == wounded, "{status:?}");
        // Also when there was nothing to plan in the last round: what waits, and until when, is shown.
        let plan = keeper(&metadata).plan();
        assert_eq!((plan.waiting.len() as u64, plan.items.len(), plan.later), (wounded, 0, 0), "{plan}");
        assert!(plan.waiting.iter().all(|w| matches!(w.why, Wait::Grace { .. })), "{plan}");
        let until_ms = keeper(&metadata).now_ms() + GRACE_MS;
        assert!(
            matches!(status.waits[..], [Waits { stripes, until_ms: Some(until), .. }]
            if stripes == wounded && until <= until_ms && until > until_ms - GRACE_MS),
            "{:?}",
            status.waits
        );
        assert_eq!(status.totals.shards, 0, "nothing within the grace");

        pass(&world, GRACE_MS + 1000);
        settle(&metadata).await;
        let status = keeper(&metadata).status();
        assert_eq!((status.totals.stripes, status.totals.shards, status.wounded.len()), (wounded, wounded, 0));
        assert!(status.alarms.iter().all(|alarm| matches!(alarm, Alarm::Silent { .. })), "{:?}", status.alarms);
        assert!(shards(&metadata).iter().all(|(drive, _)| *drive != lost.0));
        assert_eq!(bad_shards(&metadata).await, []);

        // At full strength: any m more can go.
        for (_, number) in &numbers(&world, &metadata).await[1..3] {
            world.trace.remove_drive(*number);
        }
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn rotten_and_missing_shards_are_mended_where_they_were() {
    run(async {
        let world = World::new(5, "3+2");
        let (metadata, client) = striped(&world, 40).await;
        // A flipped byte in every data segment of one drive, and a segment of another gone.
        let numbers = numbers(&world, &metadata).await;
        let disk = world.trace.disk(numbers[0].1);
        for name in disk.list("segments").unwrap() {
            let path = format!("segments/{name}");
            let len = disk.open(&path, Access::Read).unwrap().len().unwrap();
            for at in (4096 * 2 + 100..len).step_by(4096 * 3) {
                world.trace.flip(numbers[0].1, &path, at, 0x10).unwrap();
            }
        }
        let mut bad = bad_shards(&metadata).await;
        assert!(bad.len() > 5 && bad.iter().all(|(drive, _)| *drive == numbers[0].0), "{}", bad.len());
        settle(&metadata).await;
        assert_eq!(bad_shards(&metadata).await, []);
        let status = keeper(&metadata).status();
        assert_eq!((status.totals.shards, status.totals.failed), (bad.len() as u64, 0));

        // What is gone without a trace is found by the inventory.
        let named: BTreeSet<ShardId> =
            shards(&metadata).iter().filter(|(drive, _)| *drive == numbers[1].0).map(|(_, shard)| shard.id).collect();
        let disk = world.trace.disk(numbers[1].1);
        for name in disk.list("segments").unwrap() {
            let file = disk.open(&format!("segments/{name}"), Access::ReadWrite).unwrap();
            let len = usize::try_from(file.len().unwrap()).unwrap();
            file.write_at(&vec![0; len - 4096], 4096).unwrap();
        }
        let report = keeper(&metadata).take_inventory().await.unwrap();
        assert_eq!(report.stripes, stripes(&metadata).len() as u64);
        let found: u64 = report.found.iter().sum();
        assert_eq!(found, named.len() as u64, "{report:?}");
        settle(&metadata).await;
        bad = bad_shards(&metadata).await;
        assert_eq!(bad, []);
        let again = keeper(&metadata).take_inventory().await.unwrap();
        assert_eq!((again.found, again.unasked, again.bad_rows), ([0; 7], 0, 0));
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn more_than_m_lost_is_reported_nothing_is_deleted_and_the_others_are_mended() {
    run(async {
        let mut world = World::new(10, "2+2");
        let (metadata, mut client) = striped(&world, 100).await;
        let before = stripes(&metadata);
        let members = metadata.status().ensemble;
        let numbers = numbers(&world, &metadata).await;
        let lost: Vec<_> = numbers.iter().filter(|(id, _)| !members.contains(id)).take(3).copied().collect();
        for (_, number) in &lost {
            world.trace.remove_drive(*number);
        }
        metadata.check_drives().await;
        settle(&metadata).await;
        pass(&world, GRACE_MS + 1000);
        settle(&metadata).await;
        let is_lost = |drive: &DriveId| lost.iter().any(|(id, _)| id == drive);
        let beyond: BTreeSet<StripeId> = before
            .iter()
            .filter(|(_, row)| {
                row.drives.iter().filter(|d| DriveId::from_slice(d).is_some_and(|d| is_lost(&d))).count() > 2
            })
            .map(|(id, _)| *id)
            .collect();
        assert!(!beyond.is_empty(), "the test needs a stripe with three shards on the lost drives");
        let status = keeper(&metadata).status();
        assert_eq!(status.beyond, beyond.len() as u64, "{status:?}");
        assert!(status.alarms.contains(&Alarm::Beyond { stripes: status.beyond }));
        assert_eq!(stripes(&metadata).len(), before.len(), "no row was dropped");
        let bad: BTreeSet<StripeId> = bad_shards(&metadata).await.into_iter().map(|(_, shard)| shard.stripe).collect();
        assert_eq!(bad, beyond, "all others are whole again");
        metadata.shutdown().await;

        // The drives come back: nothing was lost for good. What was moved meanwhile are orphans.
        let image = world.trace.restart();
        let given = (0..10).filter(|n| !lost.iter().any(|(_, lost)| lost == n)).collect();
        world.given = given;
        let without = world.after(&image, world.home.clone());
        let metadata = without.serving().await;
        client.puts(&metadata, 1000..1010, 3000).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_drive_that_comes_back_is_verified_before_it_counts() {
    run(async {
        let mut world = World::new(8, "3+2");
        let (metadata, mut client) = striped(&world, 40).await;
        let members = metadata.status().ensemble;
        let away = *numbers(&world, &metadata).await.iter().find(|(id, _)| !members.contains(id)).unwrap();
        metadata.shutdown().await;

        world.given.retain(|n| *n != away.1);
        let metadata = world.serving().await;
        settle(&metadata).await;
        pass(&world, GRACE_MS + 1000);
        // Only a few are mended before the drive comes back.
        for _ in 0..2 {
            keeper(&metadata).run_once().await.unwrap();
        }
        client.puts(&metadata, 500..510, 3000).await;
        metadata.seal_now().await.unwrap();
        metadata.shutdown().await;

        // While it was away one of its shards rotted.
        let disk = world.trace.disk(away.1);
        let name = disk.list("segments").unwrap().into_iter().next().unwrap();
        world.trace.flip(away.1, &format!("segments/{name}"), 3 * 4096 + 7, 1).unwrap();
        world.given.push(away.1);
        let metadata = world.serving().await;
        let named: Vec<_> = shards(&metadata).into_iter().filter(|(drive, _)| *drive == away.0).collect();
        keeper(&metadata).run_once().await.unwrap();
        let seen = keeper(&metadata).status().drives[&away.0];
        assert!(named.is_empty() || matches!(seen.sight, Sight::Back { .. } | Sight::There), "{seen:?}");
        settle(&metadata).await;
        let seen = keeper(&metadata).status().drives[&away.0];
        assert_eq!(seen.sight, Sight::There);
        assert_eq!(bad_shards(&metadata).await, []);
        let report = keeper(&metadata).take_inventory().await.unwrap();
        assert!(report.orphans > 0, "what was moved away meanwhile is left alone: {report:?}");
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_crash_in_the_middle_of_a_repair_leaves_orphans_and_repair_goes_on() {
    run(async {
        let mut world = World::new(7, "3+2");
        world.config.keep.repair.items = 4;
        let (metadata, client) = striped(&world, 60).await;
        let lost = numbers(&world, &metadata).await[2];
        world.trace.remove_drive(lost.1);
        metadata.check_drives().await;
        settle(&metadata).await;
        pass(&world, GRACE_MS + 1000);
        keeper(&metadata).run_once().await.unwrap();
        let mended = keeper(&metadata).status().totals.stripes;
        assert!((1..=4).contains(&mended), "{mended}");
        // One more is rebuilt, and the crash comes before the row is changed.
        keeper(&metadata).pause(true);
        keeper(&metadata).run_once().await.unwrap();
        let item = keeper(&metadata).plan().items.remove(0);
        let row = index::stripe(&Overlay::new(&**metadata.kv()), item.stripe).unwrap().unwrap();
        let order = RebuildOrder {
            descriptor: lookup::descriptor(item.stripe, &row).unwrap(),
            sources: item.sources.clone(),
            targets: item.targets.iter().map(|target| (target.index, target.to)).collect(),
            bytes_per_second: 0,
            at: Vec::new(),
        };
        metadata.node().rebuild(order).await.unwrap();
        let image = world.trace.restart();
        let later = world.after(&image, world.home.clone());
        metadata.shutdown().await;
        later.clock.passed.store(world.clock.passed.load(Ordering::Relaxed), Ordering::Relaxed);

        let metadata = later.serving().await;
        settle(&metadata).await;
        // Since when it is silent was journaled: the grace does not begin again.
        assert_eq!(bad_shards(&metadata).await, []);
        let status = keeper(&metadata).status();
        assert!(status.wounded.is_empty() && status.totals.stripes > mended, "{status:?}");
        let report = keeper(&metadata).take_inventory().await.unwrap();
        assert_eq!((report.found, report.unasked), ([0; 7], 0), "{report:?}");
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_draining_drive_is_emptied_and_without_a_spare_one_stripes_are_made_narrower() {
    run(async {
        let world = World::new(6, "3+2");
        let (metadata, client) = striped(&world, 40).await;
        let drain = numbers(&world, &metadata).await[1];
        let set = |state: DriveState, id: DriveId| {
            let mut row = index::drive(&Overlay::new(&**metadata.kv()), id).unwrap().unwrap();
            row.state = state as i32;
            metadata.commit(metadata.epoch(), Command::RegisterDrive(row))
        };
        set(DriveState::Draining, drain.0).await.unwrap();
        settle(&metadata).await;
        assert!(shards(&metadata).iter().all(|(drive, _)| *drive != drain.0));
        assert_eq!(bad_shards(&metadata).await, []);
        let totals = keeper(&metadata).status().totals;
        assert!(totals.read <= totals.written * 2, "copied, not decoded: {totals:?}");

        // Five drives, five shards: a lost one has no spare. One is waited for, and then stripes are to be made narrower.
        let lost = numbers(&world, &metadata).await.into_iter().find(|drive| *drive != drain).unwrap();
        world.trace.remove_drive(lost.1);
        metadata.check_drives().await;
        pass(&world, GRACE_MS + 1000);
        settle(&metadata).await;
        pass(&world, GRACE_MS + 1000);
        settle(&metadata).await;
        let status = keeper(&metadata).status();
        let wide = stripes(&metadata).iter().filter(|(_, row)| row.drives.iter().any(|d| d[..] == lost.0.0)).count();
        assert_eq!(status.wounded.values().sum::<u64>(), wide as u64);
        assert!(status.alarms.iter().any(|alarm| matches!(alarm, Alarm::NoSpare { .. })), "{:?}", status.alarms);
        pass(&world, 24 * 3_600_000);
        settle(&metadata).await;
        let status = keeper(&metadata).status();
        let narrow = keeper(&metadata).narrower().len();
        assert!(narrow > 0 && narrow == status.narrower as usize, "{status:?}");
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_damaged_copy_of_the_journal_is_sealed_away() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, client) = world.filled(0..10, 3000).await;
        // The segment is closed, so that scrub reads it, and not sealed.
        let hurt = metadata.status().ensemble[0];
        let number = member(&world, &metadata, 0).await;
        let segments = metadata.node().journal_segments(hurt).await.unwrap();
        let segment = segments.iter().max_by_key(|segment| segment.bytes).unwrap();
        let path = segment_path(SegmentClass::Journal, segment.number);
        world.trace.flip(number, &path, 2 * 4096 + 50, 4).unwrap();
        scrub(&metadata, hurt).await;
        let found = metadata.node().findings(hurt).await.unwrap();
        assert!(found.iter().any(|finding| matches!(finding.subject, Subject::Entries(..))), "{found:?}");
        let sealed = metadata.status().sealed;
        settle(&metadata).await;
        assert!(metadata.status().sealed > sealed);
        let left = metadata.node().journal_segments(hurt).await.unwrap();
        assert!(left.iter().all(|left| left.number != segment.number), "{left:?}");
        let sealed = metadata.status().sealed;
        pass(&world, 24 * 3_600_000);
        settle(&metadata).await;
        assert_eq!(metadata.status().sealed, sealed, "once");
        assert_eq!(keeper(&metadata).status().alarms, []);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn rows_that_are_wrong_are_found_and_right_ones_are_not() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, mut client) = striped(&world, 20).await;
        client.puts(&metadata, 100..110, 500).await;
        client.put(&metadata, "twice", noise(1, 4000)).await.unwrap();
        let report = keeper(&metadata).scrub_rows().await.unwrap();
        assert_eq!((report.faults, report.stopped), (0, false), "{report:?}");
        assert!(report.counted > 25 && report.references > report.counted, "{report:?}");
        metadata.shutdown().await;

        let kv = world.home.kv.lock().unwrap().clone();
        let first = |family| Overlay::new(&*kv).rows(family, &[], &[0xff; 40], 1).unwrap().remove(0);
        let check = |wanted: usize| {
            let mut all = Vec::new();
            for number in 0..3 {
                let report = scrub_rows(&*kv, Slice { number, of: 3 }, &mut || true).unwrap();
                all.extend(report.list);
            }
            all.sort_by(|a, b| (a.family, &a.key).cmp(&(b.family, &b.key)));
            all.dedup();
            assert_eq!(all.len(), wanted, "{all:?}");
            all
        };
        assert!(check(0).is_empty());
        // A count that is too high.
        let rows = Overlay::new(&*kv).rows(CHUNKS, &[], &[0xff; 40], usize::MAX).unwrap();
        let decoded = |(key, value): (Bytes, Bytes)| {
            let row = index::decode::<ChunkRow>(CHUNKS, &key, value.clone()).unwrap();
            (key, value, row)
        };
        let (key, value, mut chunk) = rows.into_iter().map(decoded).find(|(.., row)| row.refs == 1).unwrap();
        chunk.refs += 1;
        let mut overlay = Overlay::new(&*kv);
        overlay.put(CHUNKS, key.clone(), &chunk);
        kv.write(overlay.into_batch()).unwrap();
        assert!(matches!(check(1)[0].fault, Fault::Count { .. }));
        // A chunk that is gone: whoever names it is found.
        let mut batch = KvBatch::new();
        batch.delete(CHUNKS, key.clone());
        kv.write(batch).unwrap();
        assert!(check(1)[0].family == OBJECTS);
        let mut batch = KvBatch::new();
        batch.put(CHUNKS, key, value);
        // A stripe that is gone, and a row of noise.
        let (stripe, row) = first(STRIPES);
        batch.delete(STRIPES, stripe.clone());
        kv.write(batch).unwrap();
        let dangling = scrub_rows(&*kv, Slice::ALL, &mut || true).unwrap();
        assert!(dangling.faults > 0);
        let mut batch = KvBatch::new();
        batch.put(STRIPES, stripe, row);
        batch.put(OBJECTS, vec![1, 2, 3], vec![9, 9]);
        kv.write(batch).unwrap();
        assert_eq!(check(1)[0].family, OBJECTS);
        let mut left = 3;
        let stopped = scrub_rows(&*kv, Slice::ALL, &mut || {
            left -= 1;
            left > 0
        });
        assert!(stopped.unwrap().stopped);
    });
}
