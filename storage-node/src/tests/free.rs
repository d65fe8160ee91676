//! Freed shards are gone and stay gone, nothing else is, and nobody from the past may free (R10).
use super::*;
use crate::disk::faulty::Fault;
use crate::disk::{Access, DiskOp};
use crate::free_log::FREES_FILE;
use crate::index::{SHARDS, ShardIndex, ShardPlace};
use crate::keep::{Authority, ShardRef};
use crate::kv::{Direction, KvBatch};
use crate::sabotage::{Sabotage, SabotageSet};
use rustix::io::Errno;
use std::collections::HashSet;

const LEN: usize = 20_000;

fn authority(epoch: u64, lsn: u64) -> Authority {
    Authority { epoch: Epoch(epoch), lsn: Lsn(lsn) }
}

fn shard_ref(counter: u64, len: usize) -> ShardRef {
    let (header, _) = shard(counter, len);
    ShardRef { id: header.id(), root: header.descriptor.root() }
}

fn refs(counters: impl IntoIterator<Item = u64>) -> Vec<ShardRef> {
    counters.into_iter().map(|counter| shard_ref(counter, LEN)).collect()
}

async fn put_all(node: &StorageNode, drive: DriveId, counters: std::ops::Range<u64>) {
    for counter in counters {
        put(node, drive, counter, LEN).await.unwrap();
    }
}

async fn listed(node: &StorageNode, drive: DriveId) -> Vec<u64> {
    let headers = node.list_shards(drive, None, None, 1000).await.unwrap();
    headers.iter().map(|header| header.descriptor.id.counter).collect()
}

fn segments(trace: &Trace) -> Vec<String> {
    trace.disk(0).list("segments").unwrap()
}

/// A copy of an index, as it is now.
fn copy(kv: &dyn Kv) -> Arc<MemoryKv> {
    let copy = memory_kv();
    let mut batch = KvBatch::new();
    for family in FAMILIES {
        let mut rows = kv.scan(family, &[], Direction::Forward).unwrap();
        while let Some((key, value)) = rows.next().unwrap() {
            batch.put(family, key, value);
        }
    }
    copy.write(batch).unwrap();
    copy
}

#[tokio::test]
async fn a_freed_shard_is_gone_and_stays_gone_and_its_neighbours_stay() {
    let (trace, node, drive) = one_drive().await;
    put_all(&node, drive, 0..30).await;
    let before = trace.disk(0).space().unwrap().free;
    let odd = || (0..30).filter(|i| i % 2 == 1);
    let freed = node.free_shards(drive, authority(1, 1), refs(odd())).await.unwrap();
    assert_eq!((freed.shards, freed.refused), (15, vec![]));
    assert_eq!(freed.bytes, 15 * 4096 * codec::block::blocks_for(LEN as u64));
    assert!(trace.disk(0).space().unwrap().free > before);
    let even: Vec<u64> = (0..30).filter(|i| i % 2 == 0).collect();
    let mut kv = memory_kv();
    let mut node = node;
    for start_again in 0..3 {
        assert_eq!(listed(&node, drive).await, even);
        for i in 0..30 {
            match i % 2 {
                0 => assert_readable(&node, drive, i, LEN).await,
                _ => assert_eq!(get(&node, drive, i, LEN).await, Err(ReadError::NotFound)),
            }
        }
        assert_eq!(node.verify(drive).await.unwrap(), vec![], "{start_again}");
        node.stop().await;
        // Once with an index that is rebuilt from headers, once with what came of that.
        kv = if start_again == 0 { memory_kv() } else { kv };
        node = start(&trace, kv.clone()).await;
    }
    // What is not there any more counts as freed; and a shard may come again.
    let again = node.free_shards(drive, authority(1, 1), refs(odd())).await.unwrap();
    assert_eq!((again.shards, again.bytes), (15, 0));
    put(&node, drive, 1, LEN).await.unwrap();
    assert_readable(&node, drive, 1, LEN).await;
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    assert_readable(&node, drive, 1, LEN).await;
}

#[tokio::test]
async fn r10_an_order_from_the_past_is_refused_by_every_drive_and_after_a_restart() {
    let trace = Trace::new(2);
    format_all(&trace);
    let node = start(&trace, memory_kv()).await;
    put_all(&node, drive_id(0), 0..4).await;
    put_all(&node, drive_id(1), 0..4).await;
    let drive = drive_id(0);
    node.free_shards(drive, authority(7, 100), refs([0])).await.unwrap();
    let seen = authority(7, 100);
    assert_eq!(node.authority(drive).await, Ok(seen));
    // A higher epoch that knows less is what a restored state has.
    let old = [authority(6, 100), authority(7, 99), authority(8, 99)];
    for drive in [drive_id(0), drive_id(1)] {
        for old in old {
            let refused = node.free_shards(drive, old, refs([1])).await;
            assert_eq!(refused, Err(WriteError::OldAuthority { drive, seen }));
        }
    }
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    assert_eq!(node.authority(drive).await, Ok(seen));
    for old in old {
        assert!(matches!(node.free_shards(drive, old, refs([1])).await, Err(WriteError::OldAuthority { .. })));
    }
    assert_readable(&node, drive, 1, LEN).await;
    // Seen also when there was nothing to free.
    node.free_shards(drive, authority(8, 200), vec![]).await.unwrap();
    assert_eq!(node.authority(drive).await, Ok(authority(8, 200)));
    assert!(node.free_shards(drive, authority(8, 199), refs([1])).await.is_err());
}

#[tokio::test]
async fn r1_what_is_not_the_shard_that_is_meant_is_left_alone() {
    let trace = Trace::new(1);
    format_all(&trace);
    let (kv, drive) = (memory_kv(), drive_id(0));
    let node = start(&trace, kv.clone()).await;
    put_all(&node, drive, 0..3).await;
    // A stripe of that id that is another one.
    let other = ShardRef { root: [9; 32], ..shard_ref(0, LEN) };
    let freed = node.free_shards(drive, authority(1, 1), vec![other]).await.unwrap();
    assert_eq!((freed.shards, freed.refused), (0, vec![other.id]));
    // An index that leads astray, and a header that rots.
    let index = ShardIndex::new(kv.clone(), drive);
    let place = index.place(shard_ref(1, LEN).id).unwrap().unwrap();
    let mut batch = KvBatch::new();
    index.put_place(&mut batch, shard_ref(7, LEN).id, place);
    index.write(batch).unwrap();
    let rotten = index.place(shard_ref(2, LEN).id).unwrap().unwrap().block;
    trace.flip(0, "segments/0000000000000001.seg", rotten * 4096 + 9, 1).unwrap();
    let freed = node.free_shards(drive, authority(1, 1), refs([7, 2])).await.unwrap();
    assert_eq!((freed.shards, freed.bytes, freed.refused), (1, 0, vec![shard_ref(7, LEN).id]));
    // The rotten one is forgotten, and so is what scrub found of it; nothing on the medium was touched.
    assert_eq!(index.place(shard_ref(2, LEN).id).unwrap(), None);
    let payload = trace.disk(0).open("segments/0000000000000001.seg", Access::Read).unwrap();
    let mut block = vec![0; 4096];
    payload.read_at(&mut block, (rotten + 1) * 4096).unwrap();
    assert!(block.iter().any(|byte| *byte != 0));
    assert_readable(&node, drive, 0, LEN).await;
    assert_readable(&node, drive, 1, LEN).await;
}

#[tokio::test]
async fn a_segment_of_freed_shards_goes_and_the_length_of_the_one_before_stays_known() {
    let (trace, node, drive) = one_drive().await;
    put_all(&node, drive, 0..60).await;
    let all = segments(&trace);
    assert!(all.len() >= 4);
    let index_less = |kv| start(&trace, kv);
    // All of segment 2 and 3, by what the headers say.
    let per_segment = 60 / all.len() as u64 + 1;
    let gone: Vec<u64> = (0..60).filter(|i| (per_segment - 1..3 * per_segment - 1).contains(i)).collect();
    let freed = node.free_shards(drive, authority(1, 1), refs(gone.clone())).await.unwrap();
    assert_eq!(freed.shards, gone.len() as u64);
    let left = segments(&trace);
    assert!(left.len() < all.len(), "{left:?}");
    for round in 0..2 {
        let kept: Vec<u64> = (0..60).filter(|i| !gone.contains(i)).collect();
        assert_eq!(node.damage(drive).unwrap(), vec![]);
        assert_eq!(listed(&node, drive).await, kept, "{round}");
    }
    node.stop().await;
    // The segment before the gap: its last record rots, and nobody but the removed header knew how long it was.
    let node = index_less(memory_kv()).await;
    assert_eq!(node.damage(drive).unwrap(), vec![]);
    assert_eq!(node.verify(drive).await.unwrap(), vec![]);
    let kept: Vec<u64> = (0..60).filter(|i| !gone.contains(i)).collect();
    assert_eq!(listed(&node, drive).await, kept);
    node.stop().await;
    let last = trace.disk(0).open(&format!("segments/{}", all[0]), Access::Read).unwrap().len().unwrap();
    let payload = codec::block::blocks_for(LEN as u64) * 4096;
    trace.flip(0, &format!("segments/{}", all[0]), last - payload - 4096 + 5, 1).unwrap();
    let node = index_less(memory_kv()).await;
    assert_eq!(node.damage(drive).unwrap().len(), 1, "rot, not a torn tail");
    // Everything goes, and with it every segment that is not the last.
    let rest = node.free_shards(drive, authority(1, 1), refs(0..60)).await.unwrap();
    assert_eq!(rest.refused, vec![]);
    assert!(segments(&trace).len() <= 2, "{:?}", segments(&trace));
    put_all(&node, drive, 100..110).await;
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    assert_eq!(listed(&node, drive).await, (100..110).collect::<Vec<_>>());
}

#[tokio::test]
async fn zeros_that_nobody_ordered_are_never_a_reason_to_remove_a_segment() {
    let (trace, node, drive) = one_drive().await;
    put_all(&node, drive, 0..40).await;
    let all = segments(&trace);
    let file = trace.disk(0).open(&format!("segments/{}", all[0]), Access::ReadWrite).unwrap();
    file.write_at(&[0; 4096], 2 * 4096).unwrap();
    node.free_shards(drive, authority(1, 1), refs(1..40)).await.unwrap();
    assert!(segments(&trace).contains(&all[0]), "shard 0 is still wanted");
}

#[tokio::test]
async fn a_shard_of_the_open_segment_is_freed_in_a_segment_that_is_closed_first() {
    let (trace, node, drive) = one_drive().await;
    put_all(&node, drive, 0..2).await;
    assert_eq!(segments(&trace).len(), 1);
    node.free_shards(drive, authority(1, 1), refs([1])).await.unwrap();
    assert_eq!(segments(&trace).len(), 2);
    put_all(&node, drive, 2..4).await;
    assert_eq!(segments(&trace).len(), 2);
    // Nothing was synced since: the header of the second segment alone says how long the first one is.
    let image = trace.image(trace.position(), &crate::disk::faulty::CrashChoice::Nothing);
    let node = open_with(image.trace(), memory_kv(), config()).await;
    assert_eq!(listed(&node, drive).await, vec![0, 2, 3]);
}

#[tokio::test]
async fn r6_a_failed_sync_of_a_free_is_a_strike_and_the_next_start_goes_on() {
    let (trace, node, drive) = one_drive().await;
    put_all(&node, drive, 0..30).await;
    trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncData).path("0001.seg").times(1));
    let failed = node.free_shards(drive, authority(1, 1), refs([1, 2])).await;
    assert!(matches!(failed, Err(WriteError::DriveFailed { .. })));
    let syncs = trace.events().len();
    assert_eq!(get(&node, drive, 1, LEN).await, Err(ReadError::NotFound));
    // Another shard of that segment: freed as far as anybody can tell, and the file is not touched again.
    node.free_shards(drive, authority(1, 1), refs([3])).await.unwrap();
    let touched = trace.events()[syncs..].iter().any(|e| format!("{e}").contains("0001.seg"));
    assert!(!touched, "R6");
    node.stop().await;
    let node = start(&trace, memory_kv()).await;
    assert_eq!(listed(&node, drive).await, std::iter::once(0).chain(4..30).collect::<Vec<_>>());
    node.stop().await;
    trace.disk(0).remove(FREES_FILE).unwrap();
    let node = start(&trace, memory_kv()).await;
    assert_eq!(listed(&node, drive).await.len(), 27, "overwritten by the start after");
}

#[tokio::test]
async fn a_free_log_that_does_not_verify_costs_frees_and_nothing_else() {
    let (trace, node, drive) = one_drive().await;
    put_all(&node, drive, 0..3).await;
    node.free_shards(drive, authority(1, 1), refs([1])).await.unwrap();
    node.stop().await;
    trace.flip(0, FREES_FILE, 20, 1).unwrap();
    let node = start(&trace, memory_kv()).await;
    assert!(matches!(node.free_shards(drive, authority(9, 9), refs([0])).await, Err(WriteError::DriveFailed { .. })));
    assert!(matches!(node.authority(drive).await, Err(ReadError::DriveFailed { .. })));
    assert_eq!(listed(&node, drive).await, vec![0, 2]);
    put(&node, drive, 4, LEN).await.unwrap();
}

#[tokio::test]
async fn r10_a_free_log_that_does_not_verify_is_begun_anew_by_whoever_vouches_for_it() {
    let trace = Trace::new(2);
    format_all(&trace);
    let (kv, drive) = (memory_kv(), drive_id(0));
    let node = start(&trace, kv.clone()).await;
    // The first segments of the drive are emptied and removed, and the free log is what says so.
    put_all(&node, drive, 0..40).await;
    put_all(&node, drive_id(1), 0..2).await;
    node.free_shards(drive, authority(5, 50), refs(0..20)).await.unwrap();
    node.free_shards(drive_id(1), authority(5, 50), refs([0])).await.unwrap();
    assert!(!segments(&trace).contains(&"0000000000000001.seg".to_owned()), "{:?}", segments(&trace));
    node.stop().await;
    trace.flip(0, FREES_FILE, 20, 1).unwrap();
    let node = start(&trace, kv.clone()).await;
    assert!(node.free_shards(drive, authority(6, 60), refs([21])).await.is_err());
    // Not for less than another drive of the node remembers.
    let old = node.renew_frees(drive, authority(4, 50)).await;
    assert!(matches!(old, Err(WriteError::OldAuthority { .. })), "{old:?}");
    node.renew_frees(drive, authority(6, 60)).await.unwrap();
    assert_eq!(node.authority(drive).await, Ok(authority(6, 60)));
    node.renew_frees(drive, authority(7, 70)).await.unwrap();
    assert_eq!(node.authority(drive).await, Ok(authority(6, 60)), "one that verifies stays as it is");
    assert!(matches!(
        node.free_shards(drive, authority(6, 59), refs([21])).await,
        Err(WriteError::OldAuthority { .. })
    ));
    node.free_shards(drive, authority(6, 60), refs([21])).await.unwrap();
    node.stop().await;
    for kv in [kv, memory_kv()] {
        let node = start(&trace, kv).await;
        assert_eq!(node.authority(drive).await, Ok(authority(6, 60)));
        assert_eq!(node.damage(drive).unwrap(), vec![], "a segment that was removed is not missed");
        assert_readable(&node, drive, 39, LEN).await;
        assert_eq!(listed(&node, drive).await, std::iter::once(20).chain(22..40).collect::<Vec<_>>());
        node.stop().await;
    }
}

/// A start that ended between the last free in a segment and its removal left the empty file for ever.
#[tokio::test]
async fn a_segment_that_was_emptied_before_a_restart_is_removed_after_it() {
    let (trace, node, drive) = one_drive().await;
    put_all(&node, drive, 0..40).await;
    let first = "0000000000000001.seg".to_owned();
    // The file can't be removed now; what was freed is freed all the same.
    trace.inject(Fault::error(Errno::IO).on(DiskOp::Remove).path("0001.seg"));
    let _failed = node.free_shards(drive, authority(1, 1), refs(0..20)).await;
    assert!(segments(&trace).contains(&first));
    node.stop().await;
    trace.heal_all();
    trace.disk(0).remove(FREES_FILE).unwrap();
    let node = start(&trace, memory_kv()).await;
    node.free_shards(drive, authority(1, 1), refs([39])).await.unwrap();
    assert!(!segments(&trace).contains(&first), "{:?}", segments(&trace));
    assert_readable(&node, drive, 38, LEN).await;
}

/// What was acknowledged, and at which position it was begun and answered.
struct Freeing {
    trace: Trace,
    puts: Vec<(u64, u64)>,
    frees: Vec<(u64, u64, u64)>,
    /// Authorities and when they were answered.
    authorities: Vec<(Authority, u64)>,
    /// The index before the first free.
    old_index: Arc<MemoryKv>,
}

async fn freeing(sabotage: SabotageSet) -> Freeing {
    let trace = Trace::with_sabotage(1, sabotage);
    format_all(&trace);
    let (drive, kv) = (drive_id(0), memory_kv());
    let small = NodeConfig { data_segment: 64 << 10, preallocate_step: 16 << 10, ..config() };
    let node = open_with(&trace, kv.clone(), small).await;
    node.begin(EPOCH).await.unwrap();
    let (mut puts, mut frees, mut authorities) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..5 {
        put(&node, drive, i, LEN).await.unwrap();
        puts.push((i, trace.mark(format!("put {i}")) + 1));
    }
    let old_index = copy(&*kv);
    // One in a closed segment, then what is left of that segment, then one in the open one.
    for (n, gone) in [vec![1], vec![0, 2], vec![4]].into_iter().enumerate() {
        let begun = trace.mark(format!("free {gone:?}"));
        let authority = authority(EPOCH.0, 10 + n as u64);
        node.free_shards(drive, authority, refs(gone.clone())).await.unwrap();
        let done = trace.mark("freed") + 1;
        authorities.push((authority, done));
        frees.extend(gone.into_iter().map(|i| (i, begun, done)));
    }
    put(&node, drive, 9, LEN).await.unwrap();
    puts.push((9, trace.mark("put 9") + 1));
    node.stop().await;
    Freeing { trace, puts, frees, authorities, old_index }
}

impl Freeing {
    /// What is wrong with an image of a crash at `position`.
    async fn judge(&self, image: &Trace, position: u64, kv: Arc<MemoryKv>) -> Option<String> {
        let drive = drive_id(0);
        let node = open_with(image, kv, config()).await;
        let mut wrong = self.shards_wrong(&node, position).await;
        node.begin(Epoch(EPOCH.0 + 1)).await.unwrap();
        let seen = self.authorities.iter().filter(|(_, done)| *done <= position).map(|(authority, _)| *authority).max();
        if let Some(seen) = seen {
            let old = Authority { lsn: Lsn(seen.lsn.0 - 1), ..seen };
            if node.free_shards(drive, old, refs([3])).await.is_ok() {
                return Some("an order from the past was obeyed".to_owned());
            }
        }
        wrong = wrong.or(self.shards_wrong(&node, position).await);
        node.stop().await;
        // Again, with an index from headers alone: what was half done is done now.
        let node = open_with(image, memory_kv(), config()).await;
        wrong = wrong.or(self.shards_wrong(&node, position).await);
        node.stop().await;
        wrong
    }

    async fn shards_wrong(&self, node: &StorageNode, position: u64) -> Option<String> {
        let drive = drive_id(0);
        let listed = node.list_shards(drive, None, None, 100).await.unwrap_or_default();
        for (i, put) in &self.puts {
            let read = get(node, drive, *i, LEN).await;
            let is_listed = listed.iter().any(|header| header.descriptor.id.counter == *i);
            let free = self.frees.iter().find(|(freed, ..)| freed == i);
            let must_be_there = *put <= position && free.is_none_or(|(_, begun, _)| position <= *begun);
            let must_be_gone = free.is_some_and(|(.., done)| *done <= position);
            match read {
                Ok(_) if must_be_gone => return Some(format!("shard {i} is back")),
                Ok(bytes) if bytes != noise(*i, LEN) => return Some(format!("wrong bytes of shard {i}")),
                Ok(_) => {}
                Err(error) if must_be_there => return Some(format!("shard {i} is lost: {error}")),
                Err(ReadError::NotFound | ReadError::UnknownDrive(_)) if !is_listed => {}
                Err(error) => return Some(format!("shard {i} is neither live nor freed: {error}, {is_listed}")),
            }
        }
        match node.verify(drive).await {
            Ok(damage) if !damage.is_empty() => Some(format!("a free was called damage: {damage:?}")),
            _ => None,
        }
    }

    async fn explore(&self, random: usize) -> Option<String> {
        let mut seen = HashSet::new();
        for position in 0..=self.trace.position() {
            let point = self.trace.point(position);
            for choice in point.choices(random, 3) {
                let image = point.image(&choice);
                let acked = (
                    self.puts.iter().filter(|(_, done)| *done <= position).count(),
                    self.frees.iter().filter(|(_, begun, _)| *begun < position).count(),
                    self.authorities.iter().filter(|(_, done)| *done <= position).count(),
                );
                if !seen.insert((image.fingerprint(), acked)) {
                    continue;
                }
                if let Some(wrong) = self.judge(image.trace(), position, memory_kv()).await {
                    return Some(format!("position {position}, {choice:?}: {wrong}"));
                }
            }
        }
        None
    }
}

#[tokio::test]
async fn r10_a_crash_anywhere_in_a_free_leaves_a_shard_live_or_freed() {
    let freeing = freeing(SabotageSet::default()).await;
    assert_eq!(freeing.explore(6).await, None);
}

#[tokio::test]
async fn r10_index_rows_that_a_crash_brings_back_name_no_freed_shard() {
    let freeing = freeing(SabotageSet::default()).await;
    // From the first free on until its rows are flushed, the index may come back as it was before.
    let (_, begun, done) = freeing.frees[0];
    for position in begun..done {
        let point = freeing.trace.point(position);
        for choice in point.choices(4, 5) {
            let image = point.image(&choice);
            let wrong = freeing.judge(image.trace(), position, copy(&*freeing.old_index)).await;
            assert_eq!(wrong, None, "{position} {choice:?}");
        }
    }
}

#[tokio::test]
async fn r10_without_the_free_log() {
    let freeing = freeing(SabotageSet::only(Sabotage::FreeLog)).await;
    let wrong = freeing.explore(4).await;
    assert!(wrong.is_some(), "the free log taken away, and no crash showed it");
}

#[tokio::test]
async fn r10_without_the_authority() {
    let trace = Trace::with_sabotage(1, SabotageSet::only(Sabotage::FreeAuthority));
    format_all(&trace);
    let node = start(&trace, memory_kv()).await;
    put_all(&node, drive_id(0), 0..2).await;
    node.free_shards(drive_id(0), authority(7, 100), refs([0])).await.unwrap();
    node.free_shards(drive_id(0), authority(8, 50), refs([1])).await.unwrap();
    assert_eq!(get(&node, drive_id(0), 1, LEN).await, Err(ReadError::NotFound), "freed by a state from the past");
}

#[tokio::test]
async fn r1_without_reading_the_header_again() {
    let trace = Trace::with_sabotage(1, SabotageSet::only(Sabotage::FreeHeaderCheck));
    format_all(&trace);
    let (kv, drive) = (memory_kv(), drive_id(0));
    let node = start(&trace, kv.clone()).await;
    put_all(&node, drive, 0..3).await;
    let index = ShardIndex::new(kv.clone(), drive);
    let row = kv.get(SHARDS, &[drive.as_bytes(), &shard_ref(1, LEN).id.stripe.to_bytes()[..], &[0]].concat()).unwrap();
    assert!(row.is_some());
    let place: ShardPlace = index.place(shard_ref(1, LEN).id).unwrap().unwrap();
    let mut batch = KvBatch::new();
    index.put_place(&mut batch, shard_ref(0, LEN).id, place);
    index.write(batch).unwrap();
    node.free_shards(drive, authority(1, 1), refs([0])).await.unwrap();
    assert!(get(&node, drive, 1, LEN).await.is_err(), "another shard was freed");
}
