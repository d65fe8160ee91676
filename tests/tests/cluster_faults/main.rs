//! A cluster in real processes, under load, with everything going wrong that machines and networks have: what clients saw must be
//! what one copy of each object could have shown them, every acknowledged object is there in the end, and the namespace comes back
//! from the storage nodes alone.
//!
//! `STELE_FAULTS_SEED` repeats a run's faults, `STELE_FAULTS` says how many, `STELE_FAULTS_ONLY` of which kinds (such as
//! `PowerCut,KillLeader`), `STELE_FAULTS_KEEP` keeps what a failure leaves. A seed does not repeat an outcome: how fast each process gets on is chance.
//!
//! Kinds of faults that this machine can't bring about are left out, and the summary names them; with `CI=true` they fail the test.

#![allow(clippy::unwrap_used, missing_docs)]

mod wide;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tests::cluster::faults::Deck;
use tests::cluster::load::Worker;
use tests::cluster::run::Run;
use tests::cluster::site::{Layout, Shape};
use tests::s3::Random;

const LAYOUT: Layout = Layout { nodes: 6, drives: 2, metadata: 3, gateways: 2 };
const WORKERS: u64 = 8;

/// One cluster at a time: two of them would wait for each other's processors.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn befall(seed: u64, more: impl FnMut(usize) -> bool) {
    let _turn = TURN.lock().await;
    // What the cluster is besides, by chance, too.
    let mut random = Random::new(seed.wrapping_add(2));
    let shape =
        Shape { racks: [0, 3][usize::from(random.below(2) == 1)], s3_everywhere: random.below(2) == 1, founders: 0 };
    println!("seed {seed}, {shape:?}");
    let begun = Instant::now();
    let mut run = Run::start(LAYOUT, shape).await;
    let load = run.load(WORKERS, seed.wrapping_add(1));
    let deck = Deck::new(seed, run.means(false));
    let outcomes = run.faults(deck, more).await;
    run.end(load).await;
    println!("the load has ended after {:.1?}", begun.elapsed());
    run.read_all().await;
    run.judge("after the faults");
    run.whole().await;
    run.metadata_is_lost().await;
    run.report(&outcomes, begun.elapsed());
}

/// Every process is restarted, one after the other, as for an upgrade. No request of a client with its usual retries fails.
async fn rolling() {
    let _turn = TURN.lock().await;
    let mut run = Run::start(LAYOUT, Shape::default()).await;
    let endpoints = run.site.endpoints();
    let load: Vec<_> = (1..=WORKERS / 2)
        .map(|number| tokio::spawn(Worker::new(number, &endpoints, Random::new(number), &run.shared).persist()))
        .collect();
    for name in run.site.layout.names() {
        let begun = Instant::now();
        let ended = run.site.supervisor.stop(&name, Duration::from_secs(100)).await;
        assert!(ended, "{name} does not end well: {}", run.site.supervisor.last_words(&name, 40));
        run.site.supervisor.start(&name);
        let ready = run.site.all_ready(std::slice::from_ref(&name)).await;
        ready.unwrap_or_else(|failed| panic!("{failed}"));
        println!(
            "{name} restarted in {:.1?}, {} changes acknowledged",
            begun.elapsed(),
            run.shared.history.acknowledged()
        );
        let served = run.recovered().await;
        println!("      served after {served:.1?}");
        run.whole().await;
    }
    run.shared.stop.store(true, Ordering::Relaxed);
    let mut failed = 0;
    for worker in load {
        failed += worker.await.unwrap();
    }
    let failures = run.shared.history.figures().failures;
    println!("attempts that failed: {failures:?}");
    assert_eq!(failed, 0, "requests that failed with their retries: {failures:?}\n{}", run.last_words());
    run.read_all().await;
    run.judge("after every process was restarted");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn seed() -> u64 {
    number("STELE_FAULTS_SEED").unwrap_or_else(|| u64::from(std::process::id()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_under_load_survives_thirty_faults() {
    let count = number("STELE_FAULTS").and_then(|count| usize::try_from(count).ok()).unwrap_or(30);
    befall(seed(), |done| done < count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: the upgrade test restarts every process under load, too"]
async fn a_rolling_restart_fails_no_request() {
    rolling().await;
}
