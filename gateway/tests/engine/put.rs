//! PUT: what is stored, what is shared, and what leaves no trace.

use crate::{body, broken, bucket, noise, request, text, world, world_with};
use bytes::Bytes;
use codec::chunk::ChunkSizes;
use codec::effect::ChecksumAlgorithm;
use codec::manifest::Manifest;
use futures::{StreamExt, stream};
use gateway::engine::{Claim, Claims, Config, PutRequest};
use gateway::error::{BodyError, PutError};
use metadata::command::Condition;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test]
async fn every_size_comes_back() {
    let world = world();
    let sizes = [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 20 << 20];
    for (seed, size) in sizes.into_iter().enumerate() {
        for bytes in [noise(seed as u64, size), text(size)] {
            let done = world.put("key", &bytes).await.unwrap();
            assert_eq!(done.size, size as u64);
            assert_eq!(world.get("key", None).await.unwrap(), bytes, "{size} bytes");
        }
    }
}

#[tokio::test]
async fn an_unknown_length_and_a_declared_one_come_back() {
    let world = world();
    for size in [0, 100, 3 << 20] {
        let bytes = noise(1, size);
        world.gateway.put_object(request("key", None), body(&bytes)).await.unwrap();
        assert_eq!(world.get("key", None).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_small_object_is_one_commit_and_no_stripe() {
    let world = world();
    world.put("small", &noise(1, 60_000)).await.unwrap();
    assert_eq!((world.fake.stripe_count(), world.fake.inline_frames.load(Ordering::SeqCst)), (0, 1));
    world.put("large frames", &noise(2, 70_000)).await.unwrap();
    assert_eq!(world.fake.stripe_count(), 1, "more than 64 KiB of frames go into a stripe");
    world.put("text", &text(600_000)).await.unwrap();
    assert_eq!(world.fake.stripe_count(), 1, "what counts is the length of the frames");
}

#[tokio::test]
async fn a_chunk_is_stored_once() {
    let world = world();
    let bytes = noise(1, 3 << 20);
    world.put("one", &bytes).await.unwrap();
    let chunks = world.fake.chunk_count();
    let stripes = world.fake.stripe_count();
    world.put("two", &bytes).await.unwrap();
    assert_eq!((world.fake.chunk_count(), world.fake.stripe_count()), (chunks, stripes), "nothing new was stored");

    // Twelve megabytes of zeros are cut into chunks of the largest size, all alike.
    world.put("zeros", &Bytes::from(vec![0; 12 << 20])).await.unwrap();
    assert_eq!(world.fake.chunk_count(), chunks + 1, "the same chunk within an object is stored once");
    assert_eq!(world.get("zeros", None).await.unwrap(), vec![0; 12 << 20]);
}

#[tokio::test]
async fn a_chunk_in_a_stripe_on_its_way_is_stored_once() {
    let world = world();
    *world.fake.stripe_delay.lock().unwrap() = Duration::from_secs(2);
    let bytes = noise(1, 200_000);
    let (one, two) = tokio::join!(world.put("one", &bytes), async {
        while world.fake.most_in_flight.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.put("two", &bytes).await
    });
    assert_eq!(one.unwrap().etag, two.unwrap().etag);
    assert_eq!(world.fake.stripe_count(), 1);
    assert_eq!(world.get("two", None).await.unwrap(), bytes);
}

#[tokio::test]
async fn accounts_and_protection_classes_share_nothing() {
    let world = world();
    let bytes = noise(1, 10_000);
    world.put("plain", &bytes).await.unwrap();
    let sealed = PutRequest { encrypt: gateway::protect::Protection::Managed, ..request("sealed", Some(10_000)) };
    assert!(world.gateway.put_object(sealed, body(&bytes)).await.unwrap().encrypted);
    let mut bob = request("bob", Some(10_000));
    bob.bucket.owner = "bob".to_owned();
    world.gateway.put_object(bob, body(&bytes)).await.unwrap();
    assert_eq!(world.fake.chunk_count(), 3);
    assert_eq!(world.get("sealed", None).await.unwrap(), bytes);
    let encrypted = world.version("sealed").content.unwrap();
    let id = Manifest::parse(&encrypted.manifest).unwrap().entries()[0].id;
    let frame = world.fake.rows.lock().unwrap().chunks[&id].frame.clone();
    assert!(codec::frame::parse_header(&frame).unwrap().encrypted());
}

#[tokio::test]
async fn long_manifests_are_trees() {
    let sizes = ChunkSizes::new(64, 256, 1024).unwrap();
    let world = world_with(Config { chunk_sizes: Some(sizes), ..Config::default() });
    for (key, len) in [("flat", 4_000), ("one level", 200_000), ("two levels", 3 << 20)] {
        let bytes = noise(len as u64, len);
        world.put(key, &bytes).await.unwrap();
        assert_eq!(world.get(key, None).await.unwrap(), bytes, "{key}");
        let content = world.version(key).content.unwrap();
        let root = Manifest::parse(&content.manifest).unwrap();
        assert_eq!(root.entries().iter().all(|entry| entry.leaf), key == "flat", "{key}");
        for range in
            [0..1, 3999..4000, 1000..3000, (len as u64 - 1)..len as u64, (len as u64 / 2)..(len as u64 / 2 + 500)]
        {
            let wanted = bytes.slice(range.start as usize..range.end as usize);
            assert_eq!(world.get(key, Some(range)).await.unwrap(), wanted, "{key}");
        }
        let before = world.fake.chunk_count();
        world.put("again", &bytes).await.unwrap();
        assert_eq!(world.fake.chunk_count(), before, "nodes are shared, too");
    }
    let nodes = world.fake.rows.lock().unwrap().chunks.values().filter(|chunk| chunk.is_manifest).count();
    assert!(nodes >= 4, "{nodes} nodes");
}

async fn refused(claims: Claims, length: Option<u64>, of: gateway::engine::Body) -> PutError {
    let world = world();
    let request = PutRequest { claims, ..request("key", length) };
    let error = world.gateway.put_object(request, of).await.expect_err("refused");
    assert!(world.fake.version(1, "key").is_none(), "nothing is visible");
    assert_eq!(world.fake.inline_frames.load(Ordering::SeqCst), 0, "nothing was committed");
    error
}

#[tokio::test]
async fn r17_a_body_that_is_not_what_was_announced_is_never_visible() {
    let none = Claims::default;
    for len in [100, 90_000, 3 << 20] {
        let (bytes, length) = (noise(1, len), len as u64);
        assert!(matches!(
            refused(none(), Some(length), broken(&bytes.slice(1..))).await,
            PutError::Body(BodyError::Truncated(_))
        ));
        assert!(matches!(refused(none(), None, broken(&bytes)).await, PutError::Body(_)));
        let short = refused(none(), Some(length + 1), body(&bytes)).await;
        assert!(matches!(short, PutError::Length { announced, got } if announced == length + 1 && got == length));
        let long = refused(none(), Some(length - 1), body(&bytes)).await;
        assert!(matches!(long, PutError::Length { announced, .. } if announced == length - 1));
        let md5 = Claims { md5: Some([1; 16]), checksums: Vec::new() };
        assert!(matches!(refused(md5, Some(length), body(&bytes)).await, PutError::Md5Mismatch));
        for algorithm in [ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Sha256] {
            let header = Claims { md5: None, checksums: vec![(algorithm, Claim::Value(vec![7; 4].into()))] };
            let error = refused(header, Some(length), body(&bytes)).await;
            assert!(matches!(error, PutError::ChecksumMismatch { algorithm: of } if of == algorithm));
            let trailer: Claim = Claim::Trailer(Box::new(|| None));
            let error =
                refused(Claims { md5: None, checksums: vec![(algorithm, trailer)] }, Some(length), body(&bytes)).await;
            assert!(matches!(error, PutError::TrailerMissing { .. }));
        }
    }
    let huge = refused(none(), Some(6 << 30), body(&Bytes::new())).await;
    assert!(matches!(huge, PutError::TooLarge { .. }));
}

#[tokio::test]
async fn a_trailer_is_read_after_the_body() {
    let world = world();
    let bytes = noise(1, 500_000);
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (at_end, in_trailer) = (ended.clone(), ended.clone());
    let end = stream::poll_fn(move |_| {
        at_end.store(true, Ordering::SeqCst);
        std::task::Poll::Ready(None)
    });
    let trailer: Claim = Claim::Trailer(Box::new(move || {
        assert!(in_trailer.load(Ordering::SeqCst));
        Some(vec![0; 8].into())
    }));
    let claims = Claims { md5: None, checksums: vec![(ChecksumAlgorithm::Crc64Nvme, trailer)] };
    let request = PutRequest { claims, ..request("key", Some(500_000)) };
    let error = world.gateway.put_object(request, Box::pin(body(&bytes).chain(end))).await.expect_err("wrong trailer");
    assert!(matches!(error, PutError::ChecksumMismatch { .. }));
}

#[tokio::test]
async fn a_silent_client_is_ended() {
    let world = world_with(Config { body_idle: Duration::from_millis(50), ..Config::default() });
    let silent = Box::pin(body(&noise(1, 1000)).chain(stream::pending()));
    let error = world.gateway.put_object(request("key", Some(2000)), silent).await.expect_err("ended");
    assert!(matches!(error, PutError::Body(BodyError::Idle { .. })));
    assert!(world.fake.version(1, "key").is_none());
}

#[tokio::test]
async fn checksums_default_to_crc64nvme() {
    let world = world();
    let done = world.put("key", &Bytes::from_static(b"123456789")).await.unwrap();
    assert_eq!(done.etag, "25f9e794323b453885f5181f1b624d0b");
    assert_eq!(done.checksums.len(), 1);
    assert_eq!(done.checksums[0].algorithm, ChecksumAlgorithm::Crc64Nvme as i32);
    assert_eq!(hex::encode(&done.checksums[0].value), "ae8b14860a799888");
}

#[tokio::test]
async fn of_racing_puts_one_is_the_object() {
    let world = world();
    let bodies: Vec<Bytes> = (0..8).map(|seed| noise(seed, 100_000 + seed as usize)).collect();
    let puts = bodies.iter().map(|bytes| world.put("key", bytes));
    let done = futures::future::join_all(puts).await;
    assert!(done.iter().all(Result::is_ok));
    assert!(bodies.contains(&world.get("key", None).await.unwrap()));

    let only = |bytes: Bytes| {
        let request = PutRequest { condition: Condition::IfNoneMatchAny, ..request("new", Some(bytes.len() as u64)) };
        world.gateway.put_object(request, body(&bytes))
    };
    let done = futures::future::join_all(bodies.iter().cloned().map(only)).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1);
    assert!(done.iter().flat_map(|done| done.as_ref().err()).all(|e| matches!(e, PutError::PreconditionFailed)));
}

/// The first chunk's id of what is stored under a key.
fn first_chunk(world: &crate::World, key: &str) -> codec::id::ChunkId {
    Manifest::parse(&world.version(key).content.unwrap().manifest).unwrap().entries()[0].id
}

#[tokio::test]
async fn r11_chunks_that_went_before_the_commit_are_stored_again() {
    let world = world();
    for len in [10_000, 200_000] {
        let bytes = noise(len as u64, len);
        world.put("first", &bytes).await.unwrap();
        let id = first_chunk(&world, "first");
        world.fake.reclaim.lock().unwrap().push(id);
        world.put("second", &bytes).await.unwrap();
        assert_eq!(world.get("second", None).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn r11_a_large_object_whose_chunks_went_is_asked_for_again_and_then_stored() {
    let world = world();
    let bytes = noise(1, 3 << 20);
    world.put("first", &bytes).await.unwrap();
    world.fake.reclaim.lock().unwrap().push(first_chunk(&world, "first"));
    assert!(matches!(world.put("second", &bytes).await, Err(PutError::Unavailable(_))));
    assert!(world.fake.version(1, "second").is_none());
    world.put("second", &bytes).await.unwrap();
    assert_eq!(world.get("second", None).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_manifest_node_that_went_is_stored_again() {
    let sizes = ChunkSizes::new(64, 256, 1024).unwrap();
    let world = world_with(Config { chunk_sizes: Some(sizes), ..Config::default() });
    let bytes = noise(1, 100_000);
    world.put("first", &bytes).await.unwrap();
    world.fake.reclaim.lock().unwrap().push(first_chunk(&world, "first"));
    world.put("second", &bytes).await.unwrap();
    assert_eq!(world.get("second", None).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_full_store_is_said_to_be_full() {
    let world = world();
    world.fake.fail_stripes.store(true, Ordering::SeqCst);
    assert!(matches!(world.put("key", &noise(1, 2 << 20)).await, Err(PutError::Full)));
    assert!(world.fake.version(1, "key").is_none());
    world.fake.fail_stripes.store(false, Ordering::SeqCst);
    world.put("key", &noise(1, 2 << 20)).await.unwrap();
}

#[tokio::test]
async fn the_bucket_s_level_is_used() {
    let world = world();
    let bytes = text(60_000);
    let mut lengths = Vec::new();
    for zstd_level in [1, 19] {
        let mut request = request("key", Some(60_000));
        request.bucket = codec::effect::BucketRow { zstd_level, owner: format!("level {zstd_level}"), ..bucket() };
        world.gateway.put_object(request, body(&bytes)).await.unwrap();
        let ids = Manifest::parse(&world.version("key").content.unwrap().manifest).unwrap();
        let rows = world.fake.rows.lock().unwrap();
        lengths.push(ids.entries().iter().map(|entry| rows.chunks[&entry.id].frame.len()).sum::<usize>());
    }
    assert!(lengths[1] < lengths[0], "{lengths:?}");
}
