//! Many at once: memory stays bounded, and nobody waits for ever.

use crate::{noise, request, world_with};
use bytes::Bytes;
use futures::{StreamExt, stream};
use gateway::engine::{Body, Config};
use gateway::error::PutError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A body made as it is read; counts the bytes taken.
fn counted(seed: u64, pieces: u64, taken: &Arc<AtomicUsize>) -> Body {
    let taken = Arc::clone(taken);
    Box::pin(stream::iter(0..pieces).map(move |piece| {
        let bytes = noise(seed << 32 | piece, 256 << 10);
        taken.fetch_add(bytes.len(), Ordering::SeqCst);
        Ok(bytes)
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_large_puts_with_the_least_memory_all_end() {
    let world = world_with(Config { memory: 64 << 20, ..Config::default() });
    *world.fake.stripe_delay.lock().unwrap() = Duration::from_millis(20);
    let taken = Arc::default();
    let puts = (0..16).map(|seed| {
        let length = (seed % 2 == 0).then_some(24 << 20);
        world.gateway.put_object(request(&format!("{seed}"), length), counted(seed, 96, &taken))
    });
    let all = tokio::time::timeout(Duration::from_secs(400), futures::future::join_all(puts)).await;
    assert!(all.expect("no deadlock").iter().all(Result::is_ok));
    let most = world.fake.most_in_flight.load(Ordering::SeqCst);
    assert!(most <= 16 << 20, "{most} bytes in stripes at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_takes_no_more_than_its_budget() {
    let world = world_with(Config { memory: 64 << 20, ..Config::default() });
    *world.fake.stripe_delay.lock().unwrap() = Duration::from_secs(3600);
    let taken = Arc::default();
    let puts =
        (0..16).map(|seed| world.gateway.put_object(request(&format!("{seed}"), None), counted(seed, 400, &taken)));
    let stuck = tokio::time::timeout(Duration::from_secs(5), futures::future::join_all(puts)).await;
    assert!(stuck.is_err());
    let taken = taken.load(Ordering::SeqCst);
    assert!(taken <= 64 << 20, "{taken} bytes were taken from clients");
}

/// Who found no place waited for as long as its client did, or for twelve hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_too_long_to_be_admitted_is_refused_undone() {
    let patience = Duration::from_millis(300);
    let world = world_with(Config { memory: 64 << 20, patience, ..Config::default() });
    *world.fake.stripe_delay.lock().unwrap() = Duration::from_secs(3600);
    let (taken, refused) = (Arc::default(), Arc::default());
    let first =
        (0..3).map(|seed| world.gateway.put_object(request(&format!("{seed}"), None), counted(seed, 400, &taken)));
    let late = async {
        // The others have all that they get.
        let mut before = usize::MAX;
        while before != taken.load(Ordering::SeqCst) {
            before = taken.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let started = std::time::Instant::now();
        let refused = world.gateway.put_object(request("late", None), counted(9, 400, &refused)).await;
        (refused, started.elapsed())
    };
    let (outcome, took) = tokio::select! {
        late = late => late,
        _ = futures::future::join_all(first) => panic!("the store does not answer"),
    };
    assert!(matches!(outcome, Err(PutError::Busy)), "{outcome:?}");
    assert!((patience..100 * patience).contains(&took), "{took:?}");
    assert_eq!(refused.load(Ordering::SeqCst), 0, "nothing was read of its body");
    assert!(world.fake.version(1, "late").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_requests_give_everything_back() {
    let world = world_with(Config { memory: 64 << 20, ..Config::default() });
    *world.fake.stripe_delay.lock().unwrap() = Duration::from_millis(50);
    let taken = Arc::default();
    for round in 0..6 {
        let puts = (0..8)
            .map(|seed| world.gateway.put_object(request("dropped", None), counted(round * 8 + seed, 64, &taken)));
        let _dropped = tokio::time::timeout(Duration::from_millis(60), futures::future::join_all(puts)).await;
    }
    let bytes = noise(99, 20 << 20);
    tokio::time::timeout(Duration::from_secs(60), world.put("kept", &bytes)).await.expect("no leak").unwrap();
    assert_eq!(world.get("kept", None).await.unwrap(), bytes);
}

/// A laptop that is closed during its upload, a few times: the admissions were gone for a minute, and everybody else waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_clients_do_not_hold_everybody_up() {
    let idle = Duration::from_secs(12);
    let world = Arc::new(world_with(Config { memory: 64 << 20, body_idle: idle, ..Config::default() }));
    for length in [1 << 20, 1 << 30] {
        let stalled = |drips: bool| {
            let world = Arc::clone(&world);
            let body: Body = Box::pin(stream::unfold(0, move |sent| async move {
                if sent > 0 {
                    tokio::time::sleep(if drips { Duration::from_millis(500) } else { 2 * idle }).await;
                }
                Some((Ok(Bytes::from_static(b"x")), sent + 1))
            }));
            tokio::spawn(async move { world.gateway.put_object(request("stalled", Some(length)), body).await })
        };
        let stalled: Vec<_> = [false, true].into_iter().cycle().take(3).map(stalled).collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let bytes = noise(7, if length > 1 << 20 { 2 << 20 } else { 1 << 20 });
        tokio::time::timeout(idle - Duration::from_secs(2), world.put("urgent", &bytes))
            .await
            .expect("admitted")
            .unwrap();
        stalled.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_and_backups_share_the_pool() {
    let world = Arc::new(world_with(Config { memory: 64 << 20, ..Config::default() }));
    *world.fake.stripe_delay.lock().unwrap() = Duration::from_millis(5);
    let taken = Arc::default();
    let large =
        (0..4).map(|seed| world.gateway.put_object(request(&format!("large {seed}"), None), counted(seed, 64, &taken)));
    let small = (0..200u64).map(|seed| {
        let world = Arc::clone(&world);
        async move {
            let bytes: Bytes = noise(1000 + seed, 1000 * (seed as usize % 300));
            world.put(&format!("small {seed}"), &bytes).await.unwrap();
            assert_eq!(world.get(&format!("small {seed}"), None).await.unwrap(), bytes);
        }
    });
    let both = futures::future::join(futures::future::join_all(large), futures::future::join_all(small));
    let (large, _) = tokio::time::timeout(Duration::from_secs(400), both).await.expect("no deadlock");
    assert!(large.iter().all(Result::is_ok));
}
