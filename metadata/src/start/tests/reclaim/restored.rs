//! What came back from the past (R10), and the switch that stops all deletion.

use super::*;
use crate::index::reclaim::RECLAIM_SETTING;
use codec::effect::SettingRow;
use storage_node::disk::Disk;

/// The file on a drive that says for whom it has freed.
const FREES_FILE: &str = "frees";

/// The index from a backup, over drives as they are: it is caught up from them before anything is decided by it.
#[test]
fn r10_an_index_from_the_past_deletes_nothing_that_is_newer() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        store.put(1, &[1, 2, 3], How::Striped).await;
        store.put(2, &[4, 5], How::Node).await;
        store.put(3, &[6], How::Inline).await;
        store.delete(1).await;
        store.pass(8 * DAY).await;
        let past = store.world.home.kv.lock().unwrap().snapshot();
        // By that index chunks 1 to 3 are condemned and due. Later two of them are wanted again, and other things go and come.
        store.put(4, &[2, 3], How::Striped).await;
        store.delete(2).await;
        store.put(5, &[7, 8], How::Node).await;
        store.quiet().await;
        store.metadata.seal_now().await.unwrap();
        store.put(6, &[9, 5], How::Striped).await;
        store.check().await;
        store.metadata.shutdown().await;
        *store.world.home.kv.lock().unwrap() = std::sync::Arc::new(MemoryKv::from_snapshot(&past));
        store.metadata = store.world.serving().await;
        store.check().await;
        store.quiet().await;
        store.check().await;
        assert_eq!(store.chunks().len(), 7 + 1, "leaves 2, 3, 5 to 9 and a node");
    });
}

/// Index and drives from the past, all but one: it remembers deletes of the later state.
#[test]
fn r10_drives_from_the_past_delete_nothing_until_they_are_released() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        store.put(2, &[2], How::Striped).await;
        store.delete(2).await;
        store.pass(8 * DAY).await;
        store.metadata.seal_now().await.unwrap();
        let store = store.restart().await;
        let (past, position) = (store.world.home.kv.lock().unwrap().snapshot(), store.world.trace.position());
        let objects = store.objects.clone();
        store.quiet().await;
        let later = store.world.trace.disks().iter().map(|disk| disk.read_small(FREES_FILE)).collect::<Vec<_>>();
        let (number, frees) = later.into_iter().enumerate().find_map(|(n, file)| Some((n, file.ok()?))).unwrap();
        store.metadata.shutdown().await;
        let point = store.world.trace.point(position);
        let image = point.image(&point.choices(1, 1).next().unwrap());
        let world = store.world.after(&image, Home::new(MemoryKv::from_snapshot(&past)));
        world.trace.disk(number).write_durably(FREES_FILE, &frees).unwrap();
        let metadata = world.serving().await;
        let store = Store { world, metadata, bucket: store.bucket, account: "alice", objects };
        let before = store.on_drives().await;
        for _ in 0..3 {
            store.pass(8 * DAY).await;
            let report = store.round().await;
            assert!(matches!(report.held, Some(Hold::Held(_))), "{report:?}");
            assert_eq!((report.deleted, report.dropped, report.freed, report.orphans), (0, 0, 0, 0));
        }
        assert_eq!(store.on_drives().await, before);
        store.metadata.reclaimer().unwrap().release().await.unwrap();
        store.quiet().await;
        assert_eq!(store.on_drives().await.len(), 1);
        store.check().await;
    });
}

/// Everything from the past but one drive, which never freed anything: it has stripes of an epoch that nobody remembers. What it
/// holds would be collected as orphans, and it may be all that is left of what was written since.
#[test]
fn r10_a_drive_with_a_later_epoch_holds_reclaim_until_it_is_released() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let later = Epoch(store.metadata.epoch().0 + 1);
        let witness = orphan(&store, later, 1000).await;
        // A drive that comes back while it serves.
        assert_eq!(store.round().await.orphans, 0);
        assert!(matches!(rows::hold(&store.view()).unwrap(), Some(Hold::Held(_))));
        store.metadata.reclaimer().unwrap().release().await.unwrap();
        // One that is there at the start: nothing is deleted before it was looked at.
        let later = Epoch(store.metadata.epoch().0 + 2);
        let second = orphan(&store, later, 1001).await;
        let store = store.restart().await;
        assert!(matches!(rows::hold(&store.view()).unwrap(), Some(Hold::Held(_))));
        for _ in 0..2 {
            store.pass(8 * DAY).await;
            let report = store.round().await;
            assert!(matches!(report.held, Some(Hold::Held(_))) && report.orphans == 0, "{report:?}");
        }
        let there = store.on_drives().await;
        assert!(there.contains(&witness) && there.contains(&second));
        store.check().await;
        store.metadata.reclaimer().unwrap().release().await.unwrap();
        store.quiet().await;
        assert_eq!(rows::hold(&store.view()).unwrap(), None, "an operator has seen it");
        store.check().await;
        // Epochs that were granted hold nothing.
        let store = store.restart().await.restart().await;
        store.quiet().await;
        assert_eq!(rows::hold(&store.view()).unwrap(), None);
        store.check().await;
    });
}

/// Everything from the past but one drive, to a moment of the epoch that was still held later: no epoch tells, but what was
/// sealed after that moment names entries that this state never had.
#[test]
fn r10_a_drive_with_later_entries_holds_reclaim_until_it_is_released() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let (epoch, applied) = (store.metadata.epoch(), store.metadata.status().applied);
        left_behind(&store, epoch, 999, StripeClass::Ledger, Some((Lsn(1), applied))).await;
        let store = store.restart().await;
        store.round().await;
        assert_eq!(rows::hold(&store.view()).unwrap(), None, "a seal that failed: its entries are the journal's");
        let (epoch, applied) = (store.metadata.epoch(), store.metadata.status().applied);
        let later = Some((applied.next(), Lsn(applied.0 + 10_000)));
        let witness = left_behind(&store, epoch, 1000, StripeClass::Ledger, later).await;
        let store = store.restart().await;
        for _ in 0..2 {
            store.pass(8 * DAY).await;
            let report = store.round().await;
            assert!(matches!(report.held, Some(Hold::Held(_))) && report.orphans == 0, "{report:?}");
        }
        assert!(ledger::unknown(&store.metadata).await.contains(&witness));
        store.metadata.reclaimer().unwrap().release().await.unwrap();
        store.quiet().await;
        assert_eq!(rows::hold(&store.view()).unwrap(), None, "an operator has seen it");
        let store = store.restart().await;
        store.quiet().await;
        assert_eq!(rows::hold(&store.view()).unwrap(), None);
        store.check().await;
    });
}

/// Everything that can be freed waits for it: condemned chunks, dropped stripes, orphans.
#[test]
fn the_switch_stops_every_delete_and_survives_restarts() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        store.put(1, &[1, 2, 3], How::Striped).await;
        store.put(2, &[4, 5, 6], How::Striped).await;
        store.put(3, &[7], How::Striped).await;
        store.delete(1).await;
        store.pass(8 * DAY).await;
        for _ in 0..2 {
            store.round().await;
        }
        assert_eq!(store.metadata.reclaimer().unwrap().status().waiting, 1);
        store.delete(2).await;
        orphan(&store, store.metadata.epoch(), 1000).await;
        let switch = |value: &str| {
            let value = bytes::Bytes::from(value.to_owned());
            Command::PutSetting(SettingRow { name: RECLAIM_SETTING.to_owned(), value })
        };
        store.commit(switch("off")).await;
        let before = store.on_drives().await;
        for _ in 0..3 {
            store.pass(8 * DAY).await;
            let report = store.round().await;
            assert_eq!(report.held, Some(Hold::Off));
            assert_eq!((report.deleted, report.dropped, report.freed, report.orphans, report.strays), (0, 0, 0, 0, 0));
            // Sealing copies what it frees of the journal into stripes first: no delete, so it goes on.
            store.metadata.seal_now().await.unwrap();
            store.metadata.checkpoint_now().await.unwrap();
            assert!(before.is_subset(&store.on_drives().await));
            store = store.restart().await;
        }
        store.commit(switch("on")).await;
        store.quiet().await;
        assert_eq!(store.on_drives().await.len(), 1);
        store.check().await;
    });
}

#[test]
fn r10_a_drive_that_forgot_for_whom_it_freed_frees_nothing_until_an_operator_vouches() {
    run(async {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        store.put(2, &[2], How::Striped).await;
        store.delete(1).await;
        store.quiet().await;
        store.metadata.shutdown().await;
        let mut spoiled = 0;
        for (drive, disk) in store.world.trace.disks().iter().enumerate() {
            if disk.read_small(FREES_FILE).is_ok() {
                store.world.trace.flip(drive, FREES_FILE, 20, 1).unwrap();
                spoiled += 1;
            }
        }
        assert!(spoiled > 0);
        store.metadata = store.world.serving().await;
        store.delete(2).await;
        store.quiet().await;
        assert!(!store.on_drives().await.is_empty(), "its shards wait");
        let warned =
            |store: &Store| store.metadata.status().warnings.iter().any(|w| w.contains("stele reclaim release"));
        assert!(warned(&store));
        store.metadata.reclaimer().unwrap().release().await.unwrap();
        assert!(!warned(&store));
        store.quiet().await;
        assert_eq!(store.on_drives().await, BTreeSet::new());
    });
}
