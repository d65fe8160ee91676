//! A process of its own, so that what it measures is its own memory.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

#[path = "../engine/fake.rs"]
mod fake;

use bytes::Bytes;
use codec::effect::{BucketRow, ObjectMeta};
use fake::Fake;
use futures::{StreamExt, stream};
use gateway::engine::{Body, Claims, Config, Gateway, PutRequest};
use metadata::client::MetadataClient;
use metadata::command::Condition;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The most memory that this process ever had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

fn body(seed: u64, mib: u64) -> Body {
    Box::pin(stream::iter(0..4 * mib).map(move |piece| {
        let mut bytes = vec![0; 256 << 10];
        blake3::Hasher::new().update(&[seed, piece].map(u64::to_le_bytes).concat()).finalize_xof().fill(&mut bytes);
        Ok(Bytes::from(bytes))
    }))
}

fn request(key: String, mib: u64) -> PutRequest {
    PutRequest {
        attached: Default::default(),
        bucket: BucketRow { id: 1, owner: "alice".to_owned(), ..BucketRow::default() },
        key,
        meta: ObjectMeta::default(),
        length: Some(mib << 20),
        encrypt: gateway::protect::Protection::Plain,
        condition: Condition::None,
        claims: Claims::default(),
    }
}

/// The readers alone took six gigabytes: each held several chunks that nobody had counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_large_uploads_and_five_hundred_slow_readers_stay_below_a_gibibyte() {
    const MIB: u64 = 96;
    let fake = Arc::new(Fake::default());
    let gateway = Gateway::new(Arc::clone(&fake) as Arc<dyn MetadataClient>, Config::default());
    gateway.put_object(request("read".to_owned(), 32), body(100, 32)).await.unwrap();
    let content = fake.version(1, "read").unwrap().content.unwrap();
    fake.forget.store(true, Ordering::SeqCst);
    // As slow as drives are: the pool fills, and everybody waits for room.
    *fake.stripe_delay.lock().unwrap() = Duration::from_millis(50);
    let readers = (0..500).map(|_| {
        let (gateway, content) = (Arc::clone(&gateway), content.clone());
        tokio::spawn(async move {
            let mut bytes = gateway.get(&content, None).await.unwrap().bytes;
            // A piece now and then: what it holds is held for as long as the uploads run.
            loop {
                bytes.next().await.unwrap().unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("500 slow readers, peak {} MiB", peak());
    let before = Instant::now();
    let puts = (0..16).map(|seed| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { gateway.put_object(request(format!("{seed}"), MIB), body(seed, MIB)).await })
    });
    for done in futures::future::join_all(puts).await {
        done.unwrap().unwrap();
    }
    println!("{} MiB in {:?}, peak {} MiB", 16 * MIB, before.elapsed(), peak());
    assert!(readers.iter().all(|reader| !reader.is_finished()), "slow readers are served on");
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(peak() < 1024, "{} MiB", peak());
    let before = Instant::now();
    gateway.put_object(request("one".to_owned(), 4 * MIB), body(99, 4 * MIB)).await.unwrap();
    println!("one of {} MiB in {:?}", 4 * MIB, before.elapsed());
}
