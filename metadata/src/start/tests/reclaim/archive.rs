//! What only archived versions need moves into wide stripes, and nothing else does.

use super::super::failures::numbers;
use super::super::keeping::{bad_shards, keeper, pass, settle, shards};
use super::manifests::{node_of, spoil};
use super::*;
use crate::keep::frames::frames_of;
use crate::keep::mark::Limits;
use crate::lookup::{self, Wounds};
use codec::effect::Place;
use codec::frame::{FIRST_VERSION, FrameSpec, encode};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Store {
    /// An object of the archive.
    async fn archive(&mut self, key: u8, numbers: &[u8], how: How) {
        self.put(key, numbers, how).await;
        let row = self.metadata.current_version(self.bucket, &format!("key-{key}")).await.unwrap().unwrap();
        let entries = codec::manifest::Manifest::parse(&row.content.unwrap().manifest).unwrap().entries().to_vec();
        self.commit(archived(self.object(key, entries, Vec::new()).await)).await;
    }

    async fn place(&self, number: u8) -> Place {
        self.chunk(number).await.unwrap().place.unwrap()
    }

    /// The full geometry, and the data shards that are there, of the stripe in which a chunk lies.
    async fn lies_in(&self, number: u8) -> (String, usize) {
        let id = self.place(number).await.stripe().unwrap();
        let row = index::stripe(&self.view(), id).unwrap().unwrap();
        let descriptor = StripeDescriptor::parse(&row.descriptor).unwrap();
        (descriptor.geometry.to_string(), descriptor.data_present().len())
    }
}

/// A store whose archive is to be moved.
async fn with_archive(objects: u8) -> Store {
    limited(objects, Limits::default()).await
}

async fn limited(objects: u8, limits: Limits) -> Store {
    let mut store = Store::with(6, "2+1", |world| world.config.reclaim.limits = limits).await;
    for key in 0..objects {
        store.archive(key, &[4 * key, 4 * key + 1, 4 * key + 2, 4 * key + 3], How::Striped).await;
    }
    store
}

fn archived(command: Command) -> Command {
    let Command::CommitObject(mut commit) = command else { unreachable!() };
    commit.meta.storage_class = "GLACIER".to_owned();
    Command::CommitObject(commit)
}

#[test]
fn what_only_archived_versions_need_moves_into_wide_stripes_once() {
    run(async {
        let mut store = with_archive(12).await;
        store.archive(20, &[60, 61], How::Node).await;
        // Needed by others as well: named by a version, by way of a manifest chunk, or lying beside what is.
        store.put(30, &[100, 101], How::Striped).await;
        store.archive(31, &[100], How::Striped).await;
        store.put(32, &[110, 111], How::Node).await;
        store.archive(33, &[110], How::Striped).await;
        store.pass(DAY).await;
        let report = store.round().await;
        assert_eq!(report.archived, 48 + 3, "the manifest chunk as well: {report:?}");
        for number in [0, 17, 47, 60, 61] {
            assert_eq!(store.lies_in(number).await.0, "20+1", "{number}");
        }
        assert_eq!(store.lies_in(17).await.1, 4, "six drives, one of them to spare");
        for number in [100, 101, 110, 111] {
            assert_eq!(store.lies_in(number).await.0, "2+1", "{number}");
        }
        store.check().await;

        // Any shard of a wide stripe may be lost, and each frame is read all the same.
        let id = store.place(17).await.stripe().unwrap();
        let layout = lookup::layout(&store.view(), id).unwrap().unwrap();
        let all = frames_of(&**store.metadata.node(), &layout).await.unwrap();
        for lost in 0..layout.drives.len() {
            let mut layout = layout.clone();
            layout.drives[lost] = None;
            let read = frames_of(&**store.metadata.node(), &layout).await.unwrap();
            assert!(read.iter().map(|laid| &laid.frame).eq(all.iter().map(|laid| &laid.frame)), "without {lost}");
        }

        // The old stripes go in their time, and what was moved stays where it is.
        let (place, before) = (store.place(17).await, store.stripes(StripeClass::Data).len());
        let mut dropped = 0;
        for _ in 0..3 {
            store.pass(2 * DAY).await;
            let report = store.round().await;
            assert_eq!(report.archived, 0);
            dropped += report.dropped;
        }
        assert!(dropped >= 12 && store.stripes(StripeClass::Data).len() < before, "{dropped}");
        let store = store.restart().await;
        assert_eq!((store.round().await.archived, store.place(17).await), (0, place));
        store.check().await;
    });
}

#[test]
fn archiving_waits_for_holds_and_for_repair_and_goes_on() {
    run(async {
        let mut store = Store::new(6, "2+1").await;
        store.archive(1, &[1, 2, 3, 4], How::Striped).await;
        let reclaimer = store.metadata.reclaimer().unwrap().clone();
        reclaimer.hold("somebody looks").await.unwrap();
        assert_eq!(store.round().await.archived, 0);
        reclaimer.release().await.unwrap();
        let (id, drive) = (store.place(1).await.stripe().unwrap(), store.metadata.node().drives().await[0].id);
        let bad = Arc::new([(id, vec![(0, drive)])].into_iter().collect());
        store.metadata.shared().set_wounds(Wounds { shards: bad, ..Wounds::default() });
        assert_eq!(store.round().await.archived, 0, "repair comes first");
        store.metadata.shared().set_wounds(Wounds { unverified: BTreeMap::from([(drive, None)]), ..Wounds::default() });
        assert_eq!(store.round().await.archived, 0);
        store.metadata.shared().set_wounds(Wounds::default());
        assert_eq!(store.round().await.archived, 4);
        store.check().await;
    });
}

#[test]
fn a_shard_that_does_not_read_back_leaves_archived_frames_where_they_are() {
    run(async {
        let mut store = Store::new(6, "2+1").await;
        store.archive(1, &[1, 2, 3, 4], How::Striped).await;
        let before = store.place(1).await;
        // Whatever is written next is lost on every drive, though it is acknowledged.
        for drive in 0..6 {
            store.world.trace.inject(Fault::lost_write().drive(drive).path("segments"));
        }
        let report = store.round().await;
        assert_eq!((report.archived, store.place(1).await), (0, before));
    });
}

#[test]
fn archived_frames_are_compressed_as_well_as_can_be() {
    run(async {
        let store = Store::new(6, "2+1").await;
        let words = noise(7, 400 * 6);
        let word = |n: usize| &words[6 * (n * n * 31 % 397)..][..6];
        let plain: Vec<u8> = (0..6000).flat_map(word).copied().collect();
        let (text, frame) = store.new_chunk(&plain, &[], false).await;
        let domain = store.domain().await;
        let spec = FrameSpec { version: FIRST_VERSION, domain: domain.id, id: text.id, level: 19, data_key: None };
        let best = encode(&spec, &plain).unwrap().len();
        assert!(best < frame.len());
        let (id, entry) = (text.id, Entry { id: text.id, len: plain.len() as u64, leaf: true });
        store.store(vec![(text, frame.clone())]).await;
        store.commit(archived(store.object(1, vec![entry], Vec::new()).await)).await;
        let report = store.round().await;
        assert_eq!((report.archived, report.saved), (1, (frame.len() - best) as u64));
        assert!(store.read(id).await == Ok(plain));
    });
}

#[test]
fn a_lost_shard_of_a_wide_stripe_is_rebuilt_on_the_spare_drive() {
    run(async {
        let store = with_archive(12).await;
        assert_eq!(store.round().await.archived, 48);
        settle(&store.metadata).await;
        let id = store.place(17).await.stripe().unwrap();
        let row = index::stripe(&store.view(), id).unwrap().unwrap();
        let lost = numbers(&store.world, &store.metadata).await;
        let (lost, number) = *lost.iter().find(|(id, _)| row.drive(0) == Some(*id)).unwrap();
        store.world.trace.remove_drive(number);
        store.metadata.check_drives().await;
        settle(&store.metadata).await;
        pass(&store.world, 16 * 60_000);
        settle(&store.metadata).await;
        assert!(keeper(&store.metadata).status().wounded.is_empty());
        assert!(shards(&store.metadata).iter().all(|(drive, _)| *drive != lost));
        assert_eq!(bad_shards(&store.metadata).await, []);
        assert_eq!(store.lies_in(17).await, ("20+1".to_owned(), 4), "as wide as before");
        store.check().await;
    });
}

#[test]
fn a_rebuilt_index_knows_wide_stripes() {
    run(async {
        let mut store = with_archive(4).await;
        assert_eq!(store.round().await.archived, 16);
        store.metadata.seal_now().await.unwrap();
        store.metadata = store.world.rebuilt(store.metadata).await;
        assert_eq!(store.lies_in(3).await.0, "20+1");
        store.check().await;
    });
}

/// At each moment a frame lies in its old stripe or in its new one, and that one is whole.
#[test]
fn r12_a_crash_at_any_moment_of_archiving_loses_nothing() {
    run(async {
        let store = with_archive(6).await;
        let begin = store.world.trace.position();
        assert_eq!(store.round().await.archived, 24);
        let end = store.world.trace.position();
        let step = ((end - begin) / 12).max(1);
        let mut geometries = BTreeSet::new();
        for position in (begin..=end).step_by(step as usize).chain([end]) {
            let point = store.world.trace.point(position);
            for choice in point.choices(1, position) {
                let image = point.image(&choice);
                let world = store.world.after(&image, Home::new(MemoryKv::new(&FAMILIES)));
                let (metadata, objects) = (world.serving().await, store.objects.clone());
                let later = Store { world, metadata, bucket: store.bucket, account: store.account, objects };
                geometries.insert(later.lies_in(17).await.0);
                later.check().await;
                later.metadata.shutdown().await;
            }
        }
        assert_eq!(geometries, BTreeSet::from(["2+1".to_owned(), "20+1".to_owned()]));
    });
}

#[test]
fn what_a_look_has_no_room_for_is_moved_by_the_next_ones() {
    for limits in [Limits { stripes: 2, ..Limits::default() }, Limits { chunks: 9, ..Limits::default() }] {
        run(async {
            let mut store = limited(10, limits).await;
            // In front of all others, and with more stripes than one look takes on.
            let all: Vec<u8> = (60..88).collect();
            for (key, some) in (200..).zip(all.chunks(4)) {
                store.put(key, some, How::Striped).await;
            }
            store.archive(0, &all, How::Striped).await;
            for key in 200..207 {
                store.delete(key).await;
            }
            let (mut archived, mut rounds) = (0, 0);
            loop {
                let report = store.round().await;
                (archived, rounds) = (archived + report.archived, rounds + 1);
                assert!(report.archived < 60 && rounds < 60, "{report:?}");
                if !report.at_once {
                    break;
                }
            }
            for number in (4..40).chain(60..88) {
                assert_eq!(store.lies_in(number).await.0, "20+1", "{number} after {rounds} rounds, {archived} moves");
            }
            store.check().await;
        });
    }
}

/// It may list any chunk of its domain, and whoever lists them is no archived version.
#[test]
fn r13_while_a_manifest_can_t_be_read_nothing_of_its_domain_is_cold() {
    run(async {
        let mut store = Store::new(3, "1+0").await;
        store.archive(1, &[1, 2], How::Striped).await;
        store.put(2, &[1, 9], How::Node).await;
        store.objects.remove(&2);
        spoil(&store, node_of(&store, 2).await).await;
        store.account = "bob";
        store.archive(3, &[4], How::Striped).await;
        assert_eq!(store.round().await.archived, 1);
        assert_eq!(store.lies_in(4).await.0, "20+0");
        store.account = "alice";
        assert_eq!(store.lies_in(1).await.0, "1+0");
    });
}
