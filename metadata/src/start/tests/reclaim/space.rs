//! Space: that it comes back on full drives, as fast as it is given up, and within bounds.

use super::*;
use crate::client::CommitError;
use crate::command::Condition;
use crate::keep::mark::Limits;
use crate::keep::pace::Pace;
use crate::keep::restripe::{Group, RestripePolicy};
use crate::seal::SealError;
use crate::stripe_writer::StoreError;

/// Chunks of one stripe of the tests with full drives.
const EACH: u64 = 4;

impl Store {
    /// Stores a stripe of four chunks, of which one object names the first and another one the rest.
    async fn try_fill(&self, n: u64) -> Result<(), CommitError> {
        self.metadata.check_drives().await;
        let mut frames = Vec::new();
        let mut entries = Vec::new();
        for seed in 1000 + EACH * n..1000 + EACH * (n + 1) {
            let (chunk, frame) = self.new_chunk(&noise(seed, CHUNK), &[], false).await;
            entries.push(Entry { id: chunk.id, len: CHUNK as u64, leaf: true });
            frames.push(striped((chunk, frame)));
        }
        self.metadata.store_stripe(self.metadata.epoch(), frames).await?;
        for (name, entries) in [("first", &entries[..1]), ("rest", &entries[1..])] {
            let mut command = self.object(0, entries.to_vec(), Vec::new()).await;
            if let Command::CommitObject(commit) = &mut command {
                commit.key = format!("{name}-{n}");
            }
            self.metadata.commit(self.metadata.epoch(), command).await?;
        }
        Ok(())
    }

    async fn drop_filled(&self, name: &str, count: u64) {
        for n in 0..count {
            let (bucket, key, condition) = (self.bucket, format!("{name}-{n}"), Condition::None);
            self.commit(Command::DeleteObject { bucket, key, condition }).await;
        }
    }

    /// The first chunk of each stripe that [`Self::try_fill`] stored is what it was.
    async fn check_filled(&self, count: u64) {
        for n in 0..count {
            let plain = noise(1000 + EACH * n, CHUNK);
            let id = codec::frame::chunk_id(&self.domain().await.chunk_key, &plain);
            assert!(self.read(id).await == Ok(plain), "{n}");
        }
    }

    /// Fills the drives up; how many stripes went in.
    async fn fill(&self) -> u64 {
        for n in 0.. {
            match self.try_fill(n).await {
                Ok(()) => {}
                Err(CommitError::Full) => return n,
                Err(error) => panic!("{error:?}"),
            }
        }
        unreachable!()
    }

    async fn on_full_drives() -> (Store, u64) {
        let room = |world: &mut World| {
            world.config.reserve = 40 << 20;
            for drive in 0..3 {
                world.trace.set_room(drive, (64 << 20) + (42 << 20));
            }
        };
        let store = Store::with(3, "1+1", room).await;
        let count = store.fill().await;
        assert!(count > 10, "{count}");
        assert!(matches!(store.try_fill(count).await, Err(CommitError::Full)));
        (store, count)
    }
}

#[test]
fn r14_deletes_on_full_drives_give_space_back() {
    run(async {
        let (store, count) = Store::on_full_drives().await;
        for name in ["first", "rest"] {
            store.drop_filled(name, count).await;
        }
        store.pass(8 * DAY).await;
        for _ in 0..3 {
            store.round().await;
        }
        assert!(matches!(store.try_fill(count).await, Err(CommitError::Full)), "the readers' grace is not over");
        store.pass(DAY).await;
        let report = store.round().await;
        assert!(report.freed > 0 && report.bytes > 0, "{report:?}");
        for n in count..count + count / 2 {
            store.try_fill(n).await.unwrap();
        }
    });
}

/// Three quarters of every stripe were deleted, and none is empty: without a part of the reserve for rewriting them a full
/// cluster stays full whatever is deleted.
#[test]
fn r14_half_dead_stripes_on_full_drives_give_space_back() {
    run(async {
        let (store, count) = Store::on_full_drives().await;
        store.drop_filled("rest", count).await;
        store.pass(8 * DAY).await;
        let mut moved = 0;
        for _ in 0..4 {
            moved += store.round().await.moved;
        }
        assert_eq!(moved, count);
        store.check_filled(count).await;
        store.pass(DAY).await;
        assert!(store.round().await.freed > 0);
        store.check_filled(count).await;
        for n in count..count + count / 3 {
            store.try_fill(n).await.unwrap();
        }
    });
}

/// A checkpoint can be done without, and the journal can't.
#[test]
fn r14_a_checkpoint_takes_nothing_of_the_reserve() {
    run(async {
        let (store, _) = Store::on_full_drives().await;
        let reserve =
            async |store: &Store| store.metadata.node().drives().await.iter().map(|drive| drive.reserve).sum::<u64>();
        store.metadata.check_drives().await;
        let before = reserve(&store).await;
        let refused = store.metadata.checkpoint_now().await;
        assert!(matches!(refused, Err(SealError::Store(StoreError::Full))), "{refused:?}");
        assert_eq!(reserve(&store).await, before);
        for drive in 0..3 {
            store.world.trace.set_room(drive, 200 << 20);
        }
        assert!(store.metadata.checkpoint_now().await.unwrap().is_some());
    });
}

#[test]
fn rounds_that_come_to_a_limit_follow_each_other_until_nothing_is_left() {
    run(async {
        let limits = Limits { chunks: 3, stripes: 2, ..Limits::default() };
        let mut store = Store::with(4, "2+1", |world| world.config.reclaim.limits = limits).await;
        for key in 0..10 {
            store.put(key, &[2 * key, 2 * key + 1], How::Striped).await;
        }
        for key in 0..9 {
            store.delete(key).await;
        }
        store.pass(8 * DAY).await;
        let (mut rounds, mut deleted, mut dropped) = (0, 0, 0);
        loop {
            let report = store.round().await;
            (rounds, deleted, dropped) = (rounds + 1, deleted + report.deleted, dropped + report.dropped);
            if !report.at_once {
                break;
            }
            assert!(rounds < 100, "this has no end: {report:?}");
        }
        assert_eq!(deleted, 18, "after {rounds} rounds");
        assert!(rounds > 6 && dropped > 0, "{rounds} {dropped}");
        assert!(!store.round().await.at_once || limits.stripes < store.stripes(StripeClass::Data).len());
        store.check().await;
    });
}

#[test]
fn restriping_that_comes_to_its_limit_goes_on_at_once() {
    run(async {
        let restripe = RestripePolicy { narrow: false, round_bytes: 25_000, ..RestripePolicy::default() };
        let mut store = Store::with(4, "2+1", |world| world.config.reclaim.restripe = restripe).await;
        for key in 0..6 {
            store.put(key, &[10 * key, 10 * key + 1, 10 * key + 2, 10 * key + 3], How::Striped).await;
            store.put(100 + key, &[10 * key], How::Inline).await;
            store.delete(key).await;
        }
        store.pass(8 * DAY).await;
        store.round().await;
        let (mut moved, mut rounds) = (0, 0);
        loop {
            let report = store.round().await;
            (moved, rounds) = (moved + report.moved, rounds + 1);
            assert!(report.moved <= 2 && rounds < 20, "{report:?}");
            assert_eq!(report.backlog_stripes > 0, report.at_once, "{report:?}");
            if !report.at_once {
                break;
            }
        }
        assert_eq!(moved, 6);
        store.check().await;
    });
}

/// Stripes are read shard by shard and written as soon as one is full, however many go together.
#[test]
fn a_rewrite_holds_one_stripe_and_one_shard() {
    run(async {
        let mut store = Store::new(4, "2+1").await;
        for key in 0..8 {
            let numbers: Vec<u8> = (0..10).map(|n| 10 * key + n).collect();
            store.put(key, &numbers, How::Striped).await;
        }
        let stripes: Vec<StripeId> = store.stripes(StripeClass::Data).into_keys().collect();
        assert!(stripes.len() >= 8);
        let pace = Pace::new(0);
        let reclaimer = store.metadata.reclaimer().unwrap().clone();
        let done = reclaimer.restriper(&pace).rewrite(&Group { stripes, gains: true }).await.unwrap();
        let shard = 64 << 10;
        assert_eq!(done.moved, 80);
        assert!(done.held > shard && done.held <= 2 * shard + shard, "{done:?}");
        store.check().await;
    });
}

/// More than a round lists at a time, and more than crashes explain: held once, and freed when an operator has looked.
#[test]
fn r9_many_orphans_are_held_until_they_were_seen_and_then_freed_page_by_page() {
    run(async {
        let limits = Limits { orphans: 3, page: 2, ..Limits::default() };
        let mut store = Store::with(3, "1+1", |world| world.config.reclaim.limits = limits).await;
        store.put(1, &[1], How::Striped).await;
        let mut left = Vec::new();
        for counter in 1000..1010 {
            left.push(orphan(&store, store.metadata.epoch(), counter).await);
        }
        let store = store.restart().await;
        store.round().await;
        let held = store.round().await.held;
        assert!(matches!(&held, Some(Hold::Held(reason)) if reason.contains("more than 3 stripes")), "{held:?}");
        assert_eq!(store.on_drives().await.len(), 1 + left.len(), "nothing was freed");
        let store = store.restart().await;
        store.metadata.reclaimer().unwrap().release().await.unwrap();
        let report = store.round().await;
        assert_eq!((report.held, report.orphans), (None, 20), "two shards of each of ten stripes");
        assert_eq!(store.on_drives().await.len(), 1);
        store.check().await;
        // What is left over later was not seen.
        for counter in 2000..2010 {
            orphan(&store, store.metadata.epoch(), counter).await;
        }
        let store = store.restart().await;
        store.round().await;
        assert!(store.round().await.held.is_some());
        store.check().await;
    });
}

/// Frames that are rewritten anyway are compressed better, and encrypted ones and what gets no smaller stay as they are.
#[test]
fn r4_frames_are_compressed_again_while_they_are_rewritten() {
    run(async {
        let restripe = RestripePolicy { recompress_level: 19, ..RestripePolicy::default() };
        let mut store = Store::with(4, "2+1", |world| world.config.reclaim.restripe = restripe).await;
        // Words that zstd finds more in the longer it looks, stored as level 1 has them.
        let words = noise(7, 400 * 6);
        let word = |n: usize| &words[6 * (n * n * 31 % 397)..][..6];
        let plain: Vec<u8> = (0..6000).flat_map(word).copied().collect();
        let (text, frame) = store.new_chunk(&plain, &[], false).await;
        let entry = Entry { id: text.id, len: plain.len() as u64, leaf: true };
        let (dead, dead_frame) = store.new_chunk(&noise(8, 2 * frame.len()), &[], false).await;
        let dead_entry = Entry { id: dead.id, len: 2 * frame.len() as u64, leaf: true };
        let id = text.id;
        store.store(vec![(text, frame.clone()), (dead, dead_frame)]).await;
        store.commit(store.object(1, vec![entry], Vec::new()).await).await;
        store.commit(store.object(2, vec![dead_entry], Vec::new()).await).await;
        store.delete(2).await;
        store.pass(8 * DAY).await;
        store.round().await;
        let report = store.round().await;
        assert_eq!(report.moved, 1);
        let len = index::chunk(&store.view(), id).unwrap().unwrap().place.unwrap().len as usize;
        assert!(len < frame.len(), "{len} of {}", frame.len());
        assert_eq!(report.saved, (frame.len() - len) as u64);
        assert!(store.read(id).await == Ok(plain));
    });
}
