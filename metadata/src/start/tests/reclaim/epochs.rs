//! Epochs that are renewed while a service runs: what it leaves behind goes, what is under way is accepted, and a start finds
//! what was granted.

use super::super::drives::{copy_of, put_back, returned};
use super::super::failures::numbers;
use super::*;
use crate::client::CommitError;
use crate::command::{Condition, EPOCH_HOLD_MS, REQUEST_LIFE_MS, Refusal};
use crate::index::reclaim::Hold;

const HOUR: u64 = 3600 * 1000;

/// A request's life goes by, with the renewals that come meanwhile.
async fn requests_end(store: &Store) {
    store.metadata.renew_epoch().await.unwrap();
    store.pass(REQUEST_LIFE_MS).await;
    store.metadata.renew_epoch().await.unwrap();
}

#[test]
fn r9_what_a_running_service_left_behind_goes_after_renewal_and_fencing() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let begun = store.metadata.epoch();
        let left = orphan(&store, begun, 1000).await;
        store.round().await;
        store.pass(3 * DAY).await;
        assert_eq!(store.round().await.orphans, 0, "its age says nothing: the epoch is held");
        let renewed = store.metadata.renew_epoch().await.unwrap();
        assert_eq!((store.metadata.epoch(), store.metadata.status().epoch), (renewed, renewed));
        let young = orphan(&store, renewed, 1000).await;
        store.put(2, &[2], How::Striped).await;
        let epochs: BTreeSet<Epoch> = store.stripes(StripeClass::Data).keys().map(|id| id.epoch).collect();
        assert_eq!(epochs, [begun, renewed].into(), "stripes are numbered in the new one");
        // Requests that began before are still there.
        store.pass(REQUEST_LIFE_MS - 11 * rows::TICK_STEP_MS).await;
        store.metadata.renew_epoch().await.unwrap();
        store.pass(DAY).await;
        assert_eq!(store.round().await.orphans, 0);
        assert_eq!(rows::open_from(&store.view()).unwrap(), begun);
        store.metadata.renew_epoch().await.unwrap();
        assert!(rows::open_from(&store.view()).unwrap() > renewed);
        store.pass(DAY).await;
        assert!(store.round().await.orphans > 0);
        let there = store.on_drives().await;
        assert!(!there.contains(&left) && !there.contains(&young));
        assert_eq!(rows::hold(&store.view()).unwrap(), None);
        store.check().await;
        // And after a restart, and for an index that is made anew, all of that is as it was.
        let mut store = store.restart().await;
        store.quiet().await;
        store.metadata = store.world.rebuilt(store.metadata).await;
        store.quiet().await;
        assert_eq!(rows::hold(&store.view()).unwrap(), None, "no epoch of these is another history's");
        assert_eq!(store.on_drives().await.len(), 2);
        store.check().await;
    });
}

/// A node that was deposed applies the start of the service that leads now. Were that one's epoch taken up here, two would number
/// stripes in it.
#[test]
fn r1_a_service_takes_up_no_epoch_that_it_did_not_ask_for() {
    run(async {
        let store = Store::new(3, "1+1").await;
        let held = store.metadata.epoch();
        let successor = held.next(1).unwrap();
        let start = Command::StartEpoch { epoch: successor, journal: held };
        store.metadata.commit(held, start).await.unwrap();
        let renewed = store.metadata.renew_epoch().await;
        assert!(renewed.is_err(), "{renewed:?}");
        assert_eq!(store.metadata.epoch(), held);
    });
}

#[test]
fn r9_a_request_commits_under_its_epoch_until_it_is_fenced() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let entry = Entry { id: store.chunk(1).await.unwrap().chunk_id().unwrap(), len: CHUNK as u64, leaf: true };
        let began = store.metadata.epoch();
        store.metadata.renew_epoch().await.unwrap();
        store.pass(2 * HOUR).await;
        let object = store.object(2, vec![entry], Vec::new()).await;
        store.metadata.commit(began, object).await.unwrap();
        store.objects.insert(2, vec![1]);
        // So does the stripe that it has written meanwhile: numbered in the new epoch, committed under its own.
        let (chunk, frame) = store.new_chunk(&noise(7, CHUNK), &[], false).await;
        store.metadata.store_stripe(began, vec![striped((chunk, frame))]).await.unwrap();
        requests_end(&store).await;
        let late = store.object(3, vec![entry], Vec::new()).await;
        let refused = store.metadata.commit(began, late.clone()).await;
        let current = store.metadata.epoch();
        let Err(CommitError::Refused(refused)) = refused else { panic!("{refused:?}") };
        assert_eq!(refused, Refusal::Fenced { writer: began, current });
        let (chunk, frame) = store.new_chunk(&noise(8, CHUNK), &[], false).await;
        let refused = store.metadata.store_stripe(began, vec![striped((chunk.clone(), frame.clone()))]).await;
        assert!(matches!(refused, Err(CommitError::Refused(Refusal::Fenced { .. }))), "{refused:?}");
        // Sent again, it holds the new one.
        store.metadata.store_stripe(current, vec![striped((chunk, frame))]).await.unwrap();
        store.commit(late).await;
        store.objects.insert(3, vec![1]);
        store.check().await;
        // Nothing that serves in the background holds the first one for ever.
        for _ in 0..3 {
            requests_end(&store).await;
        }
        store.metadata.seal_now().await.unwrap();
        store.metadata.checkpoint_now().await.unwrap();
        store.delete(3).await;
        store.quiet().await;
        store.metadata.keeper().unwrap().run_once().await.unwrap();
        store.check().await;
    });
}

/// A checkpoint of a large index takes longer than a request may live: what it wrote first is committed with the rest.
#[test]
fn r9_a_gateway_writes_on_over_a_start_and_what_it_left_goes_when_its_epoch_is_fenced() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let epoch = store.metadata.grant_epoch("g1".to_owned()).await.unwrap();
        assert!(epoch > store.metadata.epoch(), "it is the gateway's alone");
        let left = orphan(&store, epoch, 1000).await;
        // Without what keeps its epoch open, every start would refuse what gateways are storing.
        store = store.restart().await;
        assert_eq!(rows::open_from(&store.view()).unwrap(), epoch);
        let (bucket, key) = (store.bucket, "k".to_owned());
        let delete = Command::DeleteObject { bucket, key, condition: Condition::None };
        store.metadata.commit(epoch, delete.clone()).await.unwrap();
        store.round().await;
        store.pass(REQUEST_LIFE_MS).await;
        store.metadata.renew_epoch().await.unwrap();
        assert_eq!(store.round().await.orphans, 0, "it may be under way still");
        store.pass(EPOCH_HOLD_MS).await;
        store.metadata.renew_epoch().await.unwrap();
        assert!(rows::open_from(&store.view()).unwrap() > epoch);
        let fenced = store.metadata.commit(epoch, delete).await;
        assert!(matches!(fenced, Err(CommitError::Refused(Refusal::Fenced { .. }))), "{fenced:?}");
        store.pass(DAY).await;
        assert!(store.round().await.orphans > 0);
        assert!(!store.on_drives().await.contains(&left));
        // An index that is made anew knows whose it was.
        store.metadata = store.world.rebuilt(store.metadata).await;
        store.quiet().await;
        assert_eq!(rows::hold(&store.view()).unwrap(), None);
        store.check().await;
    });
}

#[test]
fn r9_a_checkpoint_that_takes_longer_than_requests_live_keeps_its_epoch_open() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let begun = store.metadata.epoch();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (reached, mut at) = tokio::sync::mpsc::unbounded_channel();
        let mut first = true;
        store.world.home.meanwhile.set(move |families| {
            if families.len() > 1 && std::mem::take(&mut first) {
                reached.send(()).unwrap();
                wait.recv().unwrap();
            }
        });
        let writing = async { store.metadata.checkpoint_now().await.unwrap().unwrap() };
        let meanwhile = async {
            at.recv().await.unwrap();
            for _ in 0..3 {
                requests_end(&store).await;
            }
            assert_eq!(rows::open_from(&store.view()).unwrap(), begun);
            go_on.send(()).unwrap();
        };
        tokio::join!(writing, meanwhile);
        store.metadata.renew_epoch().await.unwrap();
        assert!(rows::open_from(&store.view()).unwrap() > begun);
        store.check().await;
    });
}

/// Nobody heard that it was granted, and those that follow fence the one that is still held.
#[test]
fn r9_a_renewal_that_came_true_unheard_is_taken_up() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let held = store.metadata.epoch();
        for n in 1..3 {
            let epoch = Epoch(held.0 + n);
            store.metadata.proposed(epoch);
            store.commit(Command::RenewEpoch { epoch, unfinished: epoch }).await;
            if n == 1 {
                store.pass(REQUEST_LIFE_MS).await;
            }
        }
        assert!(rows::open_from(&store.view()).unwrap() > held);
        assert!(store.metadata.renew_epoch().await.unwrap() > Epoch(held.0 + 2));
        store.put(2, &[2], How::Striped).await;
        store.check().await;
    });
}

/// However many writes failed meanwhile: the index lacks nothing of what was committed since its start.
#[test]
fn r9_what_a_running_service_left_behind_holds_nothing() {
    run(async {
        let limits = crate::keep::mark::Limits { orphans: 3, ..Default::default() };
        let mut store = Store::with(3, "1+1", |world| world.config.reclaim.limits = limits).await;
        store.put(1, &[1], How::Striped).await;
        for counter in 1000..1010 {
            orphan(&store, store.metadata.epoch(), counter).await;
        }
        requests_end(&store).await;
        let report = store.round().await;
        assert_eq!((report.held, report.orphans), (None, 20), "two shards of each of ten stripes");
        assert_eq!(rows::hold(&store.view()).unwrap(), None);
        store.check().await;
    });
}

/// The index is gone, the entry that granted the epoch lies in the journal, and no segment or register names it. The journal's
/// own epoch is taken before that entry is read, and may turn out to be lower.
#[test]
fn r1_a_start_finds_an_epoch_that_was_granted_and_never_used() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let mut above = 0;
        for n in 0..8 {
            let granted = store.metadata.renew_epoch().await.unwrap();
            store.metadata = store.world.rebuilt(store.metadata).await;
            let epoch = store.metadata.epoch();
            assert!(epoch > granted);
            let held = index::applied(&store.view()).unwrap().0;
            let journal = store.metadata.journal_entry(held).unwrap().epoch;
            above += u32::from(journal < granted);
            store.put(10 + n, &[10 + n], How::Striped).await;
            // Its journal is its own, whichever of the two numbers it has.
            let before =
                store.metadata.node().journal_segments(store.metadata.status().ensemble[0]).await.unwrap().len();
            assert!(store.metadata.seal_now().await.unwrap().freed > 0);
            let after =
                store.metadata.node().journal_segments(store.metadata.status().ensemble[0]).await.unwrap().len();
            assert!(after < before && after <= 2, "{before} segments, {after} after they were sealed");
        }
        assert!(above > 0, "the journal's epoch was never the lower one");
        store.quiet().await;
        assert_eq!(rows::hold(&store.view()).unwrap(), None);
        store.check().await;
    });
}

/// Reclaim works while a drive of another history comes back: what would go next may be what that one still names.
#[test]
fn r10_a_drive_of_another_history_that_comes_back_holds_reclaim_before_the_next_delete() {
    run(async {
        let mut store = Store::new(4, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        store.put(2, &[2], How::Striped).await;
        store.delete(2).await;
        store.round().await;
        // Written by a later state than this one; nobody looks at a drive again that was there all the time, but once a day.
        let later = Epoch(store.metadata.epoch().0 + 1);
        orphan(&store, later, 1000).await;
        let drive = store.metadata.node().drives().await[0].id;
        let (_, number) =
            numbers(&store.world, &store.metadata).await.into_iter().find(|(id, _)| *id == drive).unwrap();
        let witness = copy_of(&store.world, number);
        store.world.trace.remove_drive(number);
        store.metadata.check_drives().await;
        assert_eq!(rows::hold(&store.view()).unwrap(), None);
        put_back(&store.world, number, &witness);
        returned(&store.metadata, drive).await;
        assert!(matches!(rows::hold(&store.view()).unwrap(), Some(Hold::Held(_))), "before anybody counts on it");
        store.pass(8 * DAY).await;
        let report = store.round().await;
        assert_eq!((report.deleted, report.dropped, report.freed, report.orphans), (0, 0, 0, 0));
        assert!(store.chunk(2).await.is_some());
        store.metadata.reclaimer().unwrap().release().await.unwrap();
        assert_eq!(store.round().await.deleted, 1);
        store.check().await;
    });
}
