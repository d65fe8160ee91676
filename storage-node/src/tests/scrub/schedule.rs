//! When scrub reads what.
use super::*;
use crate::index::{FAMILIES, SEGMENTS};
use crate::keep::Authority;
use crate::kv::{RocksKv, RocksOptions};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

async fn good_ms(node: &StorageNode, drive: DriveId, counter: u64) -> u64 {
    let verified = node.verified(drive, vec![shard(counter, 1).0.id()]).await.unwrap();
    verified[0].as_ref().map_or(0, |verified| verified.good_ms)
}

async fn verified_at(node: &StorageNode, drive: DriveId, counter: u64, at: u64) {
    let begun = std::time::Instant::now();
    loop {
        let good = good_ms(node, drive, counter).await;
        if good == at {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "shard {counter} was not verified at {at} but at {good}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Long enough for a worker that looks every two milliseconds to do what it should not.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(60)).await;
}

fn one_formatted() -> Trace {
    let trace = Trace::new(1);
    format_all(&trace);
    trace
}

#[tokio::test]
async fn a_new_shard_is_verified_after_an_hour_and_a_day_and_then_once_in_each_period() {
    let (trace, clock, drive) = (one_formatted(), ManualClock::new(), drive_id(0));
    let kv = memory_kv();
    let node = start_scrubbing(&trace, kv.clone(), scrubbing(&clock, true)).await;
    until(&node, drive, "a pass over nothing", |s| s.last_pass_ms > 0).await;
    clock.pass(Duration::from_secs(60));
    put(&node, drive, 1, 9000).await.unwrap();
    put(&node, drive, 2, 9000).await.unwrap();
    clock.pass(HOUR - Duration::from_secs(1));
    a_while().await;
    assert_eq!(good_ms(&node, drive, 1).await, 0, "not before its time");
    // What rots in its first hour is found then, without an order.
    trace.flip(0, "segments/0000000000000001.seg", 7 * BLOCK_BYTES, 1).unwrap();
    clock.pass(Duration::from_secs(1));
    verified_at(&node, drive, 1, clock.now()).await;
    until(&node, drive, "a finding", |s| s.findings[1] == 1).await;
    assert_found(&node.findings(drive).await.unwrap(), &[(subject(2), FindingKind::Damaged)]);
    clock.pass(22 * HOUR);
    a_while().await;
    assert_eq!(good_ms(&node, drive, 1).await, clock.now() - 22 * 3_600_000);
    // The schedule outlives a restart.
    node.stop().await;
    let node = start_scrubbing(&trace, kv, scrubbing(&clock, true)).await;
    a_while().await;
    assert!(good_ms(&node, drive, 1).await < clock.now());
    clock.pass(HOUR);
    verified_at(&node, drive, 1, clock.now()).await;
    clock.pass(23 * DAY);
    a_while().await;
    assert!(good_ms(&node, drive, 1).await < clock.now());
    clock.pass(DAY);
    verified_at(&node, drive, 1, clock.now()).await;
    clock.pass(25 * DAY);
    verified_at(&node, drive, 1, clock.now()).await;
    node.stop().await;
}

#[tokio::test]
async fn the_place_of_a_pass_survives_a_restart() {
    let (trace, clock, drive) = (one_formatted(), ManualClock::new(), drive_id(0));
    let kv = memory_kv();
    let mut slow = scrubbing(&clock, false);
    // Half of it takes seconds: whoever looks how far it is may be late.
    slow.scrub.max_rate = 1 << 20;
    let node = start_scrubbing(&trace, kv.clone(), slow).await;
    for i in 0..60 {
        put(&node, drive, i, 120_000).await.unwrap();
    }
    node.scrub_order(drive, ScrubOrder::Start).await.unwrap();
    let before = until(&node, drive, "a part of a pass", |s| s.pass_bytes > 1 << 20).await;
    node.stop().await;
    assert!(before.pass_bytes < before.total_bytes / 2, "{before:?}");
    // One that the pass has behind it, and one that it has not.
    for (segment, block) in [(1, 5), (25, 5)] {
        trace.flip(0, &format!("segments/{segment:016x}.seg"), block * BLOCK_BYTES, 1).unwrap();
    }
    clock.pass(Duration::from_secs(10));
    let node = start_scrubbing(&trace, kv, scrubbing(&clock, false)).await;
    let after = until(&node, drive, "the rest of the pass", |s| s.last_pass_ms == clock.now()).await;
    assert_eq!(after.pass_began_ms, before.pass_began_ms);
    assert!(after.pass_bytes >= before.pass_bytes);
    let found = node.findings(drive).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(pass(&node, &clock, drive).await.len(), 2);
    node.stop().await;
}

#[tokio::test]
async fn a_pause_holds_until_it_is_ended_and_survives_a_restart() {
    let (trace, clock, drive) = (one_formatted(), ManualClock::new(), drive_id(0));
    let kv = memory_kv();
    let node = start_scrubbing(&trace, kv.clone(), scrubbing(&clock, true)).await;
    node.scrub_order(drive, ScrubOrder::Pause).await.unwrap();
    put(&node, drive, 1, 9000).await.unwrap();
    clock.pass(40 * DAY);
    until(&node, drive, "paused", |s| s.state == ScrubState::Paused).await;
    a_while().await;
    assert_eq!(status(&node, drive).await.state, ScrubState::Paused);
    node.stop().await;
    let node = start_scrubbing(&trace, kv.clone(), scrubbing(&clock, true)).await;
    clock.pass(40 * DAY);
    until(&node, drive, "paused", |s| s.state == ScrubState::Paused).await;
    a_while().await;
    assert_eq!(status(&node, drive).await.state, ScrubState::Paused);
    assert_eq!(good_ms(&node, drive, 1).await, 0);
    node.scrub_order(drive, ScrubOrder::Resume).await.unwrap();
    verified_at(&node, drive, 1, clock.now()).await;
    node.stop().await;
    // An order that a stop came before is carried out by the next start.
    let mut never = scrubbing(&clock, false);
    never.scrub.settle = DAY;
    let node = open_with(&trace, kv.clone(), never).await;
    node.scrub_order(drive, ScrubOrder::Start).await.unwrap();
    node.stop().await;
    clock.pass(DAY);
    let node = start_scrubbing(&trace, kv, scrubbing(&clock, false)).await;
    verified_at(&node, drive, 1, clock.now()).await;
    node.stop().await;
}

/// Whatever is written, written again and freed while it is read: nothing is wrong, so nothing is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_concurrent_writes_nothing_is_found() {
    let (trace, clock, drive) = (one_formatted(), ManualClock::new(), drive_id(0));
    let kv = memory_kv();
    let node = start_scrubbing(&trace, kv.clone(), scrubbing(&clock, false)).await;
    let writers = (0..4u64).map(|writer| {
        let node = node.clone();
        tokio::spawn(async move {
            for i in 0..150u64 {
                let counter = writer * 1000 + i % 100;
                put(&node, drive, counter, 3000 * (1 + (counter % 7) as usize)).await.unwrap();
            }
        })
    });
    let journal = tokio::spawn({
        let node = node.clone();
        async move {
            let entries = entries(300, 2000);
            let mut last = None;
            for (i, some) in entries.chunks(3).enumerate() {
                if i % 10 == 0 {
                    let head = JournalHead { ensemble: 1, first_lsn: Lsn(3 * i as u64 + 1) };
                    let number = node.journal_begin(drive, head).await.unwrap();
                    if let Some(before) = last.replace(number) {
                        node.journal_free(drive, before).await.unwrap();
                    }
                }
                let (header, payload) = batch(some);
                node.journal_append(drive, header, payload, Reserve::Metadata).await.unwrap();
            }
        }
    });
    let writers: Vec<_> = writers.collect();
    loop {
        assert_found(&pass(&node, &clock, drive).await, &[]);
        node.inventory(drive, None, 1000).await.unwrap();
        assert_found(&node.findings(drive).await.unwrap(), &[]);
        if writers.iter().all(|writer| writer.is_finished()) && journal.is_finished() {
            break;
        }
    }
    for writer in writers.into_iter().chain([journal]) {
        writer.await.unwrap();
    }
    assert_found(&pass(&node, &clock, drive).await, &[]);
    let status = status(&node, drive).await;
    assert_eq!((status.shards, status.verified_shards), (400, 400));
    node.stop().await;
    // Nor did it make the next start doubt its index.
    assert!(!crate::index::ShardIndex::new(kv, drive).is_suspect().unwrap());
}

/// Freed while it is read, header by header and segment by segment: neither a finding nor a reason to doubt the index.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_concurrent_frees_nothing_is_found() {
    let (trace, clock, drive) = (one_formatted(), ManualClock::new(), drive_id(0));
    let kv = memory_kv();
    let node = start_scrubbing(&trace, kv.clone(), scrubbing(&clock, false)).await;
    const LEN: usize = 12_000;
    for i in 0..200 {
        put(&node, drive, i, LEN).await.unwrap();
    }
    let freeing = tokio::spawn({
        let node = node.clone();
        async move {
            // All but every tenth, in an order that leaves gaps first and empties segments last.
            for step in (0..9u64).map(|i| i * 4 % 9) {
                for ten in 0..20u64 {
                    let authority = Authority { epoch: EPOCH, lsn: Lsn(1) };
                    let freed =
                        node.free_shards(drive, authority, vec![shard_ref(10 * ten + step, LEN)]).await.unwrap();
                    assert_eq!((freed.shards, freed.refused.len()), (1, 0));
                }
                put(&node, drive, 1000 + step, LEN).await.unwrap();
            }
        }
    });
    while !freeing.is_finished() {
        assert_found(&pass(&node, &clock, drive).await, &[]);
        node.inventory(drive, None, 1000).await.unwrap();
        assert_found(&node.findings(drive).await.unwrap(), &[]);
    }
    freeing.await.unwrap();
    assert_found(&pass(&node, &clock, drive).await, &[]);
    assert_eq!(node.inventory(drive, None, 1000).await.unwrap().len(), 29);
    assert_eq!(status(&node, drive).await.shards, 29);
    node.stop().await;
    assert!(!crate::index::ShardIndex::new(kv, drive).is_suspect().unwrap());
}

/// A store that an earlier version made has no family for scrub: it gets one, and keeps the rest.
#[tokio::test]
async fn a_store_of_an_earlier_version_gets_the_family_that_it_lacks() {
    let (trace, clock, drive) = (one_formatted(), ManualClock::new(), drive_id(0));
    let dir = tempfile::tempdir().unwrap();
    let options = RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, open_files: 32 };
    drop(RocksKv::open(dir.path(), &[SHARDS, SEGMENTS], options).unwrap());
    for round in 0..2 {
        let kv = Arc::new(RocksKv::open(dir.path(), &FAMILIES, options).unwrap());
        let node = start_scrubbing(&trace, kv, scrubbing(&clock, false)).await;
        put(&node, drive, round, 9000).await.unwrap();
        assert_found(&pass(&node, &clock, drive).await, &[]);
        assert_eq!(status(&node, drive).await.verified_shards, round + 1);
        node.stop().await;
    }
}
