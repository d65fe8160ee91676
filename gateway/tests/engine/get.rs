//! GET: ranges, and nothing but verified bytes.

use crate::{World, noise, world};
use bytes::Bytes;
use codec::effect::Content;
use codec::id::ChunkId;
use codec::manifest::Manifest;
use futures::StreamExt;
use gateway::engine::{Config, CopyRequest, part_range};
use gateway::error::GetError;
use metadata::command::Condition;
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Damages the stored frame of one chunk.
fn damage(world: &World, id: ChunkId) {
    let mut rows = world.fake.rows.lock().unwrap();
    let chunk = rows.chunks.get_mut(&id).unwrap();
    let mut frame = chunk.frame.to_vec();
    let last = frame.len() - 1;
    frame[last] ^= 1;
    chunk.frame = frame.into();
}

fn chunks(content: &Content) -> Vec<ChunkId> {
    Manifest::parse(&content.manifest).unwrap().entries().iter().map(|entry| entry.id).collect()
}

#[tokio::test]
async fn ranges_out_of_bounds_are_refused() {
    let world = world();
    world.put("key", &noise(1, 1000)).await.unwrap();
    for range in [1000..1001, 0..1001, 500..500, 2000..3000] {
        assert!(matches!(world.get("key", Some(range)).await, Err(GetError::Range { size: 1000, .. })));
    }
    world.put("empty", &Bytes::new()).await.unwrap();
    assert!(world.get("empty", None).await.unwrap().is_empty());
    assert!(world.get("empty", Some(0..1)).await.is_err());
}

#[test]
fn any_range_is_the_slice_of_the_object() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (world, bytes) = runtime.block_on(async {
        let (world, bytes) = (world(), noise(5, 900_000));
        world.put("key", &bytes).await.unwrap();
        (world, bytes)
    });
    proptest!(ProptestConfig::with_cases(200), |(start in 0u64..900_000, len in 1u64..900_000)| {
        let end = (start + len).min(900_000);
        let got = runtime.block_on(world.get("key", Some(start..end))).unwrap();
        prop_assert_eq!(got, bytes.slice(start as usize..end as usize));
    });
}

#[tokio::test]
async fn r2_a_damaged_first_chunk_is_an_error_before_any_byte() {
    let world = world();
    world.put("key", &noise(1, 900_000)).await.unwrap();
    let content = world.version("key").content.unwrap();
    damage(&world, chunks(&content)[0]);
    assert!(matches!(world.gateway.get(&content, None).await, Err(GetError::Damaged { .. })));
}

#[tokio::test]
async fn r2_a_damaged_later_chunk_ends_the_stream_with_an_error() {
    let world = world();
    let bytes = noise(1, 900_000);
    world.put("key", &bytes).await.unwrap();
    let content = world.version("key").content.unwrap();
    let ids = chunks(&content);
    damage(&world, *ids.last().unwrap());
    let mut stream = world.gateway.get(&content, None).await.unwrap().bytes;
    let mut got = Vec::new();
    let error = loop {
        match stream.next().await.expect("an error comes before the end") {
            Ok(piece) => got.extend_from_slice(&piece),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, GetError::Damaged { .. }));
    assert!(bytes.starts_with(&got) && got.len() < bytes.len());
    assert!(stream.next().await.is_none());
    // A range that needs only good chunks is served.
    assert_eq!(world.get("key", Some(0..1000)).await.unwrap(), bytes.slice(..1000));
}

#[tokio::test]
async fn a_client_that_does_not_read_makes_nothing_run_ahead_for_long() {
    let world = crate::world_with(Config { read_ahead: 2, ..Config::default() });
    world.put("key", &noise(1, 20 << 20)).await.unwrap();
    let content = world.version("key").content.unwrap();
    let stream = world.gateway.get(&content, None).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let reads = world.fake.reads.load(Ordering::SeqCst);
    assert!(reads <= 5, "{reads} chunks were read for a client that took none");
    drop(stream);
}

/// Each held several chunks outside every limit, and those that found no room kept others from having any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_keep_nobody_from_reading() {
    let world = crate::world_with(Config { memory: 64 << 20, ..Config::default() });
    let bytes = noise(1, 20 << 20);
    world.put("key", &bytes).await.unwrap();
    let content = world.version("key").content.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..100 {
        stalled.push(world.gateway.get(&content, None).await.unwrap());
    }
    let read = tokio::time::timeout(Duration::from_secs(400), world.get("key", None)).await;
    assert_eq!(read.expect("a turn").unwrap(), bytes);
    // What was dropped for others is read again, from where it was.
    let all = stalled.into_iter().map(|stream| async {
        let mut stream = stream.bytes;
        let mut hash = blake3::Hasher::new();
        while let Some(piece) = stream.next().await {
            hash.update(&piece.unwrap());
        }
        hash.finalize()
    });
    let all = tokio::time::timeout(Duration::from_secs(400), futures::future::join_all(all)).await;
    let whole = blake3::hash(&bytes);
    assert!(all.expect("everybody has a turn").iter().all(|hash| *hash == whole));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_ends_while_readers_and_writers_fill_the_memory() {
    let world = crate::world_with(Config { memory: 64 << 20, ..Config::default() });
    let bytes = noise(1, 20 << 20);
    world.put("key", &bytes).await.unwrap();
    let content = world.version("key").content.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..50 {
        stalled.push(world.gateway.get(&content, None).await.unwrap());
    }
    let copies = (0..6).map(|to| {
        let request = CopyRequest {
            attached: Default::default(),
            source: world.version("key"),
            bucket: crate::bucket(),
            key: format!("copy {to}"),
            meta: None,
            encrypt: gateway::protect::Protection::Managed,
            source_key: None,
            condition: Condition::None,
            checksum: None,
        };
        world.gateway.copy_object(request)
    });
    let copies = tokio::time::timeout(Duration::from_secs(400), futures::future::join_all(copies)).await;
    assert!(copies.expect("no deadlock").iter().all(Result::is_ok));
    assert_eq!(world.get("copy 5", None).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_reads_wait_and_then_are_told_to_slow_down() {
    let patience = Duration::from_millis(300);
    let world = crate::world_with(Config { gets: 4, patience, ..Config::default() });
    let bytes = noise(1, 20 << 20);
    world.put("key", &bytes).await.unwrap();
    let content = world.version("key").content.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(world.gateway.get(&content, None).await.unwrap());
    }
    let started = Instant::now();
    assert!(matches!(world.gateway.get(&content, None).await, Err(GetError::Busy)));
    // As long as its patience lasts, and not for as long as a body may stand still, which is a minute.
    assert!((patience..100 * patience).contains(&started.elapsed()));
    // Those that take nothing lose their places to those who wait, and hear of it: no short success.
    let mut waited = 0;
    while matches!(world.gateway.get(&content, None).await, Err(GetError::Busy)) {
        waited += 1;
        assert!(waited < 10, "stalled readers keep their places for ever");
    }
    let mut ended = 0;
    for stream in stalled {
        let read: Vec<_> = stream.bytes.collect().await;
        ended += usize::from(read.last().is_some_and(Result::is_err));
    }
    assert!(ended > 0);
}

#[test]
fn parts_are_ranges() {
    let content = Content { size: 60, part_sizes: vec![10, 20, 30], ..Content::default() };
    let ranges: Vec<_> = (0..5).map(|number| part_range(&content, number)).collect();
    assert_eq!(ranges, [None, Some(0..10), Some(10..30), Some(30..60), None]);
    let single = Content { size: 60, ..Content::default() };
    assert_eq!((part_range(&single, 1), part_range(&single, 2)), (Some(0..60), None));
}
