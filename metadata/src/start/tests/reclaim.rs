//! Reclaim over fault disks: the classic races, what came back from the past, each step taken away, and random histories
//! against a model of what was acknowledged.

use super::world::*;
use crate::client::MetadataClient;
use crate::command::{Command, MIN_GRACE_MS};
use crate::index::reclaim::{self as rows, Hold};
use crate::index::{self, FAMILIES};
use crate::keep::reclaim::READERS_GRACE_MS;
use codec::effect::{AcceptedLossRow, ChunkState};
use codec::erasure::Erasure;
use codec::id::{Epoch, Lsn, StripeId};
use codec::manifest::Entry;
use codec::stripe::{StripeClass, StripeDescriptor, StripePacker};
use proptest::prelude::*;
use std::collections::BTreeSet;
use storage_node::client::Reserve;
use storage_node::disk::faulty::Fault;
use storage_node::keep::Authority;
use storage_node::kv::MemoryKv;
use storage_node::sabotage::Sabotage;
use storage_node::stripe_io::{TargetsWanted, write_stripe};
use store::*;

mod archive;
mod depend;
mod epochs;
mod ledger;
mod manifests;
mod restored;
mod since;
mod space;
mod store;
mod strays;

#[test]
fn what_nobody_needs_goes_in_its_time_and_the_space_comes_back() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        store.put(1, &[1, 2, 3, 4], How::Striped).await;
        store.put(2, &[5, 6], How::Node).await;
        store.put(3, &[7], How::Inline).await;
        store.put(4, &[1, 7], How::Inline).await;
        let before = store.on_drives().await.len();
        store.delete(1).await;
        store.delete(2).await;
        assert_eq!(store.round().await.deleted, 0, "no grace is over");
        store.pass(7 * DAY).await;
        let report = store.round().await;
        assert_eq!(
            (report.deleted, report.freed),
            (4, 0),
            "three leaves and a node; its children are condemned only now"
        );
        store.check().await;
        store.quiet().await;
        store.check().await;
        assert_eq!(store.chunks().len(), 2);
        assert!(store.on_drives().await.len() < before);
        let mut store = store.restart().await;
        store.check().await;
        store.delete(3).await;
        store.delete(4).await;
        store.quiet().await;
        assert_eq!((store.chunks().len(), store.stripes(StripeClass::Data).len()), (0, 0));
        assert_eq!(store.on_drives().await, BTreeSet::new());
        assert_eq!(store.metadata.reclaimer().unwrap().status().waiting, 0);
    });
}

#[test]
fn r11_a_dedup_hit_against_reclaim() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let row = store.chunk(1).await.unwrap();
        let entry = Entry { id: row.chunk_id().unwrap(), len: CHUNK as u64, leaf: true };
        // A gateway found the chunk; the object that held it is deleted; its own commit comes when the chunk is about to go.
        let late = store.object(2, vec![entry], Vec::new()).await;
        store.delete(1).await;
        store.pass(8 * DAY).await;
        store.commit(late.clone()).await;
        store.objects.insert(2, vec![1]);
        let report = store.round().await;
        assert_eq!((report.deleted, report.dropped), (0, 0));
        store.check().await;
        // Later still: the chunk is gone, and the commit is told to store it again.
        store.delete(2).await;
        store.pass(8 * DAY).await;
        assert_eq!(store.round().await.deleted, 1);
        assert!(store.metadata.commit(store.metadata.epoch(), late).await.is_err());
        store.put(2, &[1], How::Striped).await;
        store.quiet().await;
        store.check().await;
    });
}

#[test]
fn r11_marks_are_the_authority_and_counts_are_mended() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1, 2], How::Striped).await;
        store.put(2, &[1, 3], How::Node).await;
        let lsn = index::applied(&store.view()).unwrap().0;
        for number in [1, 2, 3] {
            store.miscount(number, lsn).await;
        }
        store.pass(8 * DAY).await;
        let report = store.round().await;
        assert_eq!((report.spared, report.deleted), (3, 0));
        let (one, two) = (store.chunk(1).await.unwrap(), store.chunk(2).await.unwrap());
        assert_eq!((one.state(), one.refs, two.refs), (ChunkState::Live, 2, 1));
        store.check().await;
        // Without the marks.
        store.miscount(2, lsn).await;
        store.world.config.sabotage.set(Sabotage::ReclaimMark, true);
        assert_eq!(store.round().await.deleted, 1);
        assert!(store.get(1).await.is_err(), "an object without its chunk");
    });
}

#[test]
fn r10_a_state_from_the_past_deletes_nothing_until_it_is_released() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        store.delete(1).await;
        store.pass(8 * DAY).await;
        // A later state has freed something on a drive, and then this one came back from a backup.
        let drive = store.metadata.node().drives().await[1].id;
        let later = Authority { epoch: store.metadata.epoch(), lsn: Lsn(1_000_000) };
        store.metadata.node().free_shards(drive, later, Vec::new()).await.unwrap();
        let store = store.restart().await;
        let held = store.round().await;
        assert!(matches!(held.held, Some(Hold::Held(_))), "{held:?}");
        assert_eq!((held.deleted, held.condemned), (0, 0));
        let store = store.restart().await;
        assert!(store.round().await.held.is_some(), "a restart is no release");
        store.metadata.reclaimer().unwrap().release().await.unwrap();
        let store = store.restart().await;
        let report = store.round().await;
        assert_eq!((report.held, report.deleted), (None, 1), "released for good");
        store.pass(8 * DAY).await;
        store.round().await;
        store.pass(DAY).await;
        assert!(store.round().await.freed > 0, "and the drive takes orders again");
    });
}

#[test]
fn r10_an_accepted_loss_holds_reclaim() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        store.delete(1).await;
        store.pass(8 * DAY).await;
        let last = index::applied(&store.view()).unwrap().0.0;
        let loss = AcceptedLossRow { kept: last, known: last };
        store.commit(Command::AcceptLoss { loss, sealed: None }).await;
        let report = store.round().await;
        assert!(matches!(report.held, Some(Hold::AcceptedLoss(_))), "{report:?}");
        store.metadata.reclaimer().unwrap().release().await.unwrap();
        let report = store.round().await;
        assert_eq!((report.held, report.deleted), (None, 1));
    });
}

#[test]
fn r12_readers_that_began_before_a_restripe_read_on() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        store.put(1, &[1, 2, 3, 4, 5, 6], How::Striped).await;
        store.put(2, &[1], How::Inline).await;
        let id = store.chunk(1).await.unwrap().chunk_id().unwrap();
        let located = store.metadata.locate(&[id]).await.unwrap().pop().flatten().unwrap();
        store.delete(1).await;
        store.pass(8 * DAY).await;
        let report = store.round().await;
        assert_eq!((report.deleted, report.moved), (5, 0), "the use was counted before the deletes");
        assert_eq!(store.round().await.moved, 1);
        let now = store.metadata.locate(&[id]).await.unwrap().pop().flatten().unwrap();
        assert_ne!(now.place, located.place);
        let report = store.round().await;
        assert_eq!((report.dropped, report.freed), (1, 0));
        let shared = |located: &crate::lookup::Located| located.stripe.clone().unwrap().descriptor.id;
        assert!(
            store.on_drives().await.contains(&shared(&located)),
            "the old shards are there for those who read them"
        );
        store.check().await;
        let store = store.restart().await;
        store.pass(READERS_GRACE_MS - 2).await;
        assert_eq!(store.round().await.freed, 0);
        store.pass(MIN_GRACE_MS).await;
        assert_eq!(store.round().await.freed, 1);
        assert!(!store.on_drives().await.contains(&shared(&located)));
        store.check().await;
    });
}

#[test]
fn r12_without_the_grace_a_reader_loses_its_stripe() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        store.put(1, &[1, 2, 3], How::Striped).await;
        store.delete(1).await;
        store.pass(8 * DAY).await;
        store.round().await;
        store.world.config.sabotage.set(Sabotage::FreeGrace, true);
        let report = store.round().await;
        assert_eq!((report.dropped, report.freed), (1, 1), "at once");
    });
}

#[test]
fn r12_nothing_is_freed_before_what_emptied_it_is_sealed() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        store.put(1, &[1, 2, 3], How::Striped).await;
        store.delete(1).await;
        store.pass(8 * DAY).await;
        store.round().await;
        store.round().await;
        let dropped = rows::dropped(&store.view(), StripeId::default(), 10).unwrap();
        assert_eq!(dropped.len(), 1);
        let sealed = || index::last_sealed(&store.view()).unwrap().map_or(0, |row| row.last);
        assert!(sealed() < dropped[0].0.0, "the entry that dropped it lies in the journal alone");
        store.pass(DAY).await;
        assert_eq!(store.round().await.freed, 1);
        assert!(sealed() >= dropped[0].0.0, "an accepted loss would bring the stripe back without its bytes");
    });
}

#[test]
fn r12_nothing_is_freed_while_what_emptied_it_can_t_be_sealed() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        store.put(1, &[1, 2, 3], How::Striped).await;
        store.delete(1).await;
        store.pass(8 * DAY).await;
        store.round().await;
        store.round().await;
        store.pass(DAY).await;
        // A ledger that does not read back is none.
        for drive in 0..4 {
            store.world.trace.inject(Fault::lost_write().drive(drive).path("segments"));
        }
        for _ in 0..2 {
            assert_eq!(store.round().await.freed, 0, "a loss that is accepted would bring the stripe back");
        }
        store.world.trace.heal_all();
        assert_eq!(store.round().await.freed, 1);
        store.check().await;
    });
}

#[test]
fn what_lay_on_drives_that_were_given_up_is_no_dedup_hit() {
    run(async {
        let mut store = Store::new(5, "2+2").await;
        store.put(1, &[1, 2, 3], How::Striped).await;
        let id = store.new_chunk(&noise(1, CHUNK), &[], false).await.0.id;
        let hit = async |store: &Store| store.metadata.find_chunks(store.domain().await.id, &[id]).await.unwrap()[0];
        assert!(hit(&store).await.is_some());
        let place = store.chunk(1).await.unwrap().place.unwrap();
        let row = index::stripe(&store.view(), place.stripe().unwrap()).unwrap().unwrap();
        for index in 0..3 {
            let mut drive = index::drive(&store.view(), row.drive(index).unwrap()).unwrap().unwrap();
            drive.state = codec::effect::DriveState::Removed as i32;
            store.commit(Command::RegisterDrive(drive)).await;
        }
        store.metadata.check_drives().await;
        // The committer has looked at them when it has answered what came after.
        store.pass(1).await;
        assert!(hit(&store).await.is_none(), "three of four shards are gone for good: it has to be stored again");
    });
}

#[test]
fn r12_what_does_not_read_back_is_not_moved_to() {
    for sabotage in [false, true] {
        run(async {
            let mut store = Store::new(4, "2+1").await;
            store.put(1, &[1, 2, 3, 4, 5, 6], How::Striped).await;
            store.put(2, &[1], How::Inline).await;
            store.delete(1).await;
            store.pass(8 * DAY).await;
            store.round().await;
            store.world.config.sabotage.set(Sabotage::RestripeVerify, sabotage);
            for drive in 0..4 {
                store.world.trace.inject(Fault::lost_write().drive(drive).path("segments"));
            }
            let report = store.metadata.reclaimer().unwrap().round().await;
            let moved = report.map_or(0, |report| report.moved);
            store.world.trace.heal_all();
            assert_eq!(moved > 0, sabotage, "with {sabotage}");
            match sabotage {
                false => store.check().await,
                true => assert!(store.get(2).await.is_err(), "moved to bytes that never reached a medium"),
            }
        });
    }
}

#[test]
fn stripes_that_find_no_drive_are_rewritten_as_wide_as_there_are_drives() {
    run(async {
        let mut store = Store::new(5, "3+2").await;
        store.put(1, &[1, 2, 3, 4, 5, 6], How::Striped).await;
        let wide = store.stripes(StripeClass::Data);
        store.world.trace.remove_drive(4);
        for _ in 0..2 {
            store.metadata.check_drives().await;
        }
        let ids: Vec<StripeId> = wide.keys().copied().collect();
        store.metadata.reclaimer().unwrap().hold("restriping is no delete").await.unwrap();
        assert_eq!(store.metadata.reclaimer().unwrap().rewrite(&ids).await.unwrap().moved, 6);
        for row in store.stripes(StripeClass::Data).values().filter(|row| !wide.values().any(|old| old == *row)) {
            let descriptor = StripeDescriptor::parse(&row.descriptor).unwrap();
            assert_eq!(descriptor.parity_present().len(), 2, "k shrinks, never m");
            assert!(descriptor.data_present().len() <= 2);
        }
        store.check().await;
    });
}

#[test]
fn two_commits_of_one_chunk_leave_one_place_and_the_other_stripe_goes() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        let (chunk, frame) = store.new_chunk(&noise(1, CHUNK), &[], false).await;
        // Both looked before either committed.
        store.store(vec![(chunk.clone(), frame.clone())]).await;
        store.store(vec![(chunk, frame)]).await;
        assert_eq!(store.stripes(StripeClass::Data).len(), 2);
        store.put(1, &[1], How::Striped).await;
        store.quiet().await;
        assert_eq!(store.stripes(StripeClass::Data).len(), 1);
        store.check().await;
        assert_eq!(store.on_drives().await.len(), 1);
    });
}

/// Writes a stripe of one frame and commits nothing.
async fn orphan(store: &Store, epoch: Epoch, counter: u64) -> StripeId {
    left_behind(store, epoch, counter, StripeClass::Data, None).await
}

async fn left_behind(
    store: &Store,
    epoch: Epoch,
    counter: u64,
    class: StripeClass,
    entries: Option<(Lsn, Lsn)>,
) -> StripeId {
    let id = StripeId { epoch, counter };
    let (_, frame) = store.new_chunk(&noise(counter, CHUNK), &[], false).await;
    let geometry = "1+1".parse().unwrap();
    let mut packer = StripePacker::new(1, 1, 64 << 10);
    packer.add(frame);
    let known = store.stripes(StripeClass::Data).into_values().next().unwrap();
    let cluster = StripeDescriptor::parse(&known.descriptor).unwrap().cluster;
    let packed = packer.finish(id, class, geometry, cluster, entries, &Erasure::new(geometry)).unwrap();
    let drives: Vec<_> = store.metadata.node().drives().await.iter().map(|drive| drive.id).collect();
    let mut targets = |wanted: TargetsWanted<'_>| drives[..wanted.count].to_vec();
    write_stripe(&**store.metadata.node(), &packed, Reserve::Client, &mut targets).await.unwrap();
    id
}

#[test]
fn r9_orphans_go_by_epoch_and_only_when_every_drive_was_listed() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let left = orphan(&store, store.metadata.epoch(), 1000).await;
        assert_eq!(store.round().await.orphans, 0, "its writer may still commit it");
        let mut store = store.restart().await;
        let young = orphan(&store, store.metadata.epoch(), 1001).await;
        store.world.trace.remove_drive(2);
        store.metadata.check_drives().await;
        let report = store.round().await;
        assert!(store.on_drives().await.contains(&left), "a drive that is not there may say otherwise: {report:?}");
        store.world.config.sabotage.set(Sabotage::UnknownIsAbsent, true);
        assert!(store.round().await.orphans > 0, "though the third drive may hold what says otherwise");
        store.world.config.sabotage.set(Sabotage::UnknownIsAbsent, false);
        let there = store.on_drives().await;
        assert!(!there.contains(&left) && there.contains(&young));
        store.objects.clear();
    });
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let young = orphan(&store, store.metadata.epoch(), 1001).await;
        store.world.config.sabotage.set(Sabotage::OrphanEpoch, true);
        store.round().await;
        assert!(!store.on_drives().await.contains(&young), "a stripe that its writer is about to commit");
        store.check().await;
    });
}

#[test]
fn a_stripe_is_dropped_only_when_its_frames_say_so_too() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1, 2], How::Striped).await;
        store.round().await;
        assert_eq!(store.stripes(StripeClass::Data).len(), 1);
        store.world.config.sabotage.set(Sabotage::DropCheck, true);
        store.round().await;
        assert!(store.get(1).await.is_err(), "its stripe is gone");
    });
}

#[test]
fn r12_a_crash_anywhere_in_reclaim_loses_nothing() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        store.put(1, &[1, 2, 3, 4, 5, 6], How::Striped).await;
        store.put(2, &[1], How::Inline).await;
        store.put(3, &[7, 8], How::Node).await;
        store.put(4, &[9, 7], How::Inline).await;
        store.delete(1).await;
        let begin = store.world.trace.position();
        let (mut moved, mut freed) = (0, 0);
        for _ in 0..4 {
            store.pass(8 * DAY).await;
            let report = store.round().await;
            (moved, freed) = (moved + report.moved, freed + report.freed);
        }
        assert!(moved > 0 && freed > 0);
        store.metadata.seal_now().await.unwrap();
        let store = store.restart().await;
        store.round().await;
        let end = store.world.trace.position();
        let step = usize::try_from((end - begin) / 25).unwrap().max(1);
        for position in (begin..=end).step_by(step) {
            let point = store.world.trace.point(position);
            for choice in point.choices(1, position).take(3) {
                let image = point.image(&choice);
                let mut world = store.world.after(&image, Home::new(MemoryKv::new(&FAMILIES)));
                world.config.geometry = store.world.config.geometry;
                let metadata = world.serving().await;
                let later =
                    Store { world, metadata, bucket: store.bucket, account: "alice", objects: store.objects.clone() };
                later.check().await;
                for days in [8, 1] {
                    later.pass(days * DAY).await;
                    later.round().await;
                    later.check().await;
                }
                later.metadata.shutdown().await;
            }
        }
    });
}

#[derive(Clone, Debug)]
enum Op {
    Put { key: u8, chunks: Vec<u8>, how: How },
    Delete(u8),
    Days(u8),
    Round,
    Seal,
    Restart,
    Rebuild,
    Lose,
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop::sample::select(vec![How::Inline, How::Striped, How::Striped, How::Node]);
    prop_oneof![
        8 => (0u8..4, prop::collection::vec(1u8..9, 1..5), how).prop_map(|(key, chunks, how)| Op::Put { key, chunks, how }),
        6 => (0u8..4).prop_map(Op::Delete),
        5 => (1u8..9).prop_map(Op::Days),
        8 => Just(Op::Round),
        2 => Just(Op::Seal),
        2 => Just(Op::Restart),
        1 => Just(Op::Rebuild),
        1 => Just(Op::Lose),
    ]
}

async fn history(ops: Vec<Op>) {
    let mut store = Store::new(5, "2+1").await;
    let mut lost = false;
    for op in ops {
        match op {
            Op::Put { key, chunks, how } => store.put(key, &chunks, how).await,
            Op::Delete(key) => store.delete(key).await,
            Op::Days(days) => store.pass(u64::from(days) * DAY).await,
            Op::Round => drop(store.round().await),
            Op::Seal => drop(store.metadata.seal_now().await.unwrap()),
            Op::Restart => store = store.restart().await,
            Op::Rebuild => store.metadata = store.world.rebuilt(store.metadata).await,
            Op::Lose if lost => {}
            Op::Lose => {
                lost = true;
                store.world.trace.remove_drive(4);
                store.world.given.retain(|drive| *drive != 4);
                // Once to replace it in the ensemble, and once to see how much room the new one has.
                store.metadata.check_drives().await;
                store.metadata.check_drives().await;
            }
        }
        store.check().await;
    }
    store.metadata.seal_now().await.unwrap();
    store.quiet().await;
    let mut store = store.restart().await;
    store.quiet().await;
    store.check().await;
    let reachable: BTreeSet<u8> = store.objects.values().flatten().copied().collect();
    let nodes = store.chunks().iter().filter(|row| row.is_manifest).count();
    assert!(nodes <= store.objects.len());
    assert_eq!(store.chunks().len() - nodes, reachable.len(), "garbage");
    let placed: BTreeSet<_> = store.chunks().iter().filter_map(|row| row.place.unwrap().stripe()).collect();
    assert_eq!(store.stripes(StripeClass::Data).into_keys().collect::<BTreeSet<_>>(), placed);
    if !lost {
        assert_eq!(rows::dropped(&store.view(), StripeId::default(), 10).unwrap(), []);
        assert_eq!(store.on_drives().await, placed);
    }
    store.objects.clear();
    store.metadata.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_that_can_be_read_is_freed_and_garbage_is_bounded(ops in prop::collection::vec(op(), 1..25)) {
        run(history(ops));
    }
}
