//! A cluster in real processes, under load, with everything going wrong that machines and networks have: what clients saw must be
//! what one copy of each object could have shown them, every acknowledged object is there in the end, and the namespace comes back
//! from the storage nodes alone.
//!
//! `STELE_FAULTS_SEED` repeats a run's faults, `STELE_FAULTS` says how many, `STELE_FAULTS_ONLY` of which kinds (such as
//! `PowerCut,KillLeader`), `STELE_FAULTS_KEEP` keeps what a failure leaves. A seed does not repeat an outcome: how fast each process gets on is chance.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tests::cluster::faults::Deck;
use tests::cluster::load::{Shared, Worker};
use tests::cluster::site::{Layout, Site};
use tests::s3::Random;

const LAYOUT: Layout = Layout { nodes: 6, drives: 2, metadata: 3, gateways: 2 };
const WORKERS: u64 = 8;
/// Bytes that a run puts into larger objects: the tests must not fill a disk.
const BUDGET: i64 = 500 << 20;
/// Within this time of the end of a fault every S3 port serves again, on a busy machine.
const RECOVERED: Duration = Duration::from_secs(120);
/// Within this time all is whole that was out of order.
const WHOLE: Duration = Duration::from_secs(240);
/// How long nothing must be out of order: longer than metadata takes to look at the drives.
const QUIET: Duration = Duration::from_secs(6);
/// Load between two faults.
const BETWEEN: Duration = Duration::from_millis(1500);

/// One cluster at a time: two of them would wait for each other's processors.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What one fault came to.
struct Outcome {
    what: String,
    /// The longest time without an acknowledged change while it lasted.
    gap: Duration,
    /// From its end until every port served.
    recovered: Duration,
}

struct Run {
    site: Site,
    shared: Arc<Shared>,
    probes: u64,
}

impl Run {
    /// Puts and gets through every port, until all have succeeded.
    async fn recovered(&mut self) -> Duration {
        let begun = Instant::now();
        let mut probes = tokio::task::JoinSet::new();
        for endpoint in self.site.endpoints() {
            self.probes += 1;
            let mut probe = Worker::probe(self.probes, &endpoint, &self.shared);
            probes.spawn(async move { (probe.served(RECOVERED).await, endpoint) });
        }
        while let Some(served) = probes.join_next().await {
            let (served, endpoint) = served.unwrap();
            assert!(served.is_some(), "{endpoint} does not serve {RECOVERED:?} after a fault\n{}", self.last_words());
        }
        begun.elapsed()
    }

    fn last_words(&self) -> String {
        let names = self.site.supervisor.names();
        names.iter().map(|name| format!("--- {name}\n{}\n", self.site.supervisor.last_words(name, 25))).collect()
    }

    /// Draws, inflicts and relieves faults until `more` says no.
    async fn faults(&mut self, seed: u64, mut more: impl FnMut(usize) -> bool) -> Vec<Outcome> {
        let mut deck = Deck::new(seed, self.site.layout, self.site.small().is_some(), self.site.clocks().is_some());
        let mut outcomes = Vec::new();
        while more(outcomes.len()) {
            tokio::time::sleep(BETWEEN).await;
            let faults = deck.draw();
            let what = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let begun = Instant::now();
            let mut ongoing = Vec::new();
            for fault in &faults {
                ongoing.push((begun + fault.lasts, self.site.inflict(fault).await));
            }
            ongoing.sort_by_key(|(until, _)| *until);
            for (until, fault) in ongoing {
                tokio::time::sleep_until(until.into()).await;
                self.site.relieve(&fault).await;
            }
            let ended = Instant::now();
            let recovered = self.recovered().await;
            let gap = self.shared.history.longest_gap(begun, ended);
            println!("{:3} {what}: {gap:.1?} without an answer, {recovered:.1?} to recover", outcomes.len() + 1);
            for surprise in self.site.supervisor.surprises() {
                println!("      {surprise}");
            }
            outcomes.push(Outcome { what, gap, recovered });
        }
        outcomes
    }

    /// Waits until no stripe is short of a shard, that is known of all of them, and has been so for a while: what has just happened
    /// may not have been noticed yet.
    async fn whole(&self) {
        let begun = Instant::now();
        let mut since = None;
        loop {
            let answer = self.repair_status().await;
            let is_empty = answer["by_slack"].as_array().is_some_and(|lines| lines.is_empty());
            let is_whole = is_empty && answer["whole_walk"] == true;
            since = since.filter(|_| is_whole).or(is_whole.then(Instant::now));
            if since.is_some_and(|since: Instant| since.elapsed() >= QUIET) {
                return println!("      whole after {:.1?}", begun.elapsed());
            }
            assert!(begun.elapsed() < WHOLE, "not whole: {answer:#}\n{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// What the first metadata process that knows says of repair.
    async fn repair_status(&self) -> serde_json::Value {
        let mut answer = serde_json::Value::Null;
        for name in self.site.layout.metadata_names() {
            let data = self.site.root().join(name);
            let arguments = ["repair", "status", "--json", "--data", data.to_str().unwrap()];
            let output = self.site.stele(&arguments).await;
            answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if answer["whole_walk"].is_boolean() {
                break;
            }
        }
        answer
    }

    /// Reads every key that was ever written.
    async fn read_all(&self) {
        let endpoints = self.site.endpoints();
        let keys = Arc::new(std::sync::Mutex::new(self.shared.history.keys()));
        let mut readers = tokio::task::JoinSet::new();
        for number in 0..WORKERS {
            let mut reader = Worker::new(number, &endpoints, Random::new(number), &self.shared);
            let keys = Arc::clone(&keys);
            readers.spawn(async move {
                loop {
                    let Some(key) = keys.lock().unwrap().pop() else { return };
                    let begun = Instant::now();
                    while reader.read_first(&key, None).await.is_err() {
                        assert!(begun.elapsed() < RECOVERED, "{key} can't be read");
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                }
            });
        }
        while let Some(done) = readers.join_next().await {
            done.unwrap_or_else(|error| panic!("{error}\n{}", self.last_words()));
        }
    }

    /// Every key with its size and ETag.
    async fn namespace(&self) -> BTreeMap<String, (usize, String)> {
        let lister = Worker::new(0, &self.site.endpoints(), Random::new(0), &self.shared);
        let begun = Instant::now();
        loop {
            if let Ok(listed) = lister.listed("").await {
                return listed;
            }
            assert!(begun.elapsed() < RECOVERED, "no listing\n{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    fn judge(&self, when: &str) {
        let wrong = self.shared.history.judge();
        assert!(
            wrong.is_empty(),
            "{when}: {} things are wrong:\n{}\n{}",
            wrong.len(),
            wrong.join("\n"),
            self.last_words()
        );
        let panics: Vec<String> = self
            .site
            .supervisor
            .names()
            .into_iter()
            .filter(|name| self.site.supervisor.said(name).contains("panicked at"))
            .collect();
        assert!(panics.is_empty(), "{when}: panics in {panics:?}\n{}", self.last_words());
    }
}

impl Run {
    /// A cluster that serves, with a bucket.
    async fn start(layout: Layout) -> Run {
        let begun = Instant::now();
        let site = Site::start(layout).await.unwrap_or_else(|failed| panic!("{failed}"));
        println!("set up in {:.1?}", begun.elapsed());
        let run = Run { site, shared: Shared::new(BUDGET), probes: 0 };
        let mut first = Worker::new(0, &run.site.endpoints(), Random::new(0), &run.shared);
        assert!(first.make_bucket().await.is_ok(), "no bucket: {:?}", run.shared.history.figures());
        run
    }
}

async fn befall(seed: u64, more: impl FnMut(usize) -> bool) {
    let _turn = TURN.lock().await;
    println!("seed {seed}");
    let begun = Instant::now();
    let mut run = Run::start(LAYOUT).await;
    let endpoints = run.site.endpoints();
    let mut random = Random::new(seed.wrapping_add(1));
    let load: Vec<_> = (1..=WORKERS)
        .map(|number| tokio::spawn(Worker::new(number, &endpoints, Random::new(random.next()), &run.shared).run()))
        .collect();
    let outcomes = run.faults(seed, more).await;
    run.shared.stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
    println!("the load has ended after {:.1?}", begun.elapsed());
    run.read_all().await;
    run.judge("after the faults");
    run.whole().await;

    // All of metadata is lost. What storage nodes hold brings it back.
    let before = run.namespace().await;
    for name in run.site.layout.metadata_names() {
        run.site.supervisor.kill(&name);
    }
    run.site.wipe_metadata();
    let wiped = Instant::now();
    run.site.rebuild_metadata().await.unwrap_or_else(|failed| panic!("{failed}"));
    println!("metadata rebuilt in {:.1?}", wiped.elapsed());
    assert!(run.namespace().await == before, "the namespace is another one after metadata was wiped");
    run.read_all().await;
    run.judge("after metadata was wiped");
    report(&run, &outcomes, begun.elapsed());
}

fn report(run: &Run, outcomes: &[Outcome], took: Duration) {
    let figures = run.shared.history.figures();
    let mut times: Vec<Duration> = outcomes.iter().map(|outcome| outcome.recovered).collect();
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!(
        "{} faults in {took:.0?}: recovered within {:.1?} (half), {:.1?} (nine of ten), {:.1?} (all)",
        outcomes.len(),
        at(50),
        at(90),
        times.last().copied().unwrap_or_default()
    );
    if let Some(slowest) = outcomes.iter().max_by_key(|outcome| outcome.gap) {
        println!("the longest time without an acknowledged change: {:.1?}, while {}", slowest.gap, slowest.what);
    }
    println!(
        "{} operations on {} keys, {} changes acknowledged, {} open, {} MiB sent; failures: {:?}",
        figures.operations,
        figures.keys,
        run.shared.history.acknowledged(),
        figures.open,
        figures.written >> 20,
        figures.failures
    );
    assert!(run.shared.history.acknowledged() > 10 * outcomes.len(), "too little was done to mean anything");
}

/// Every process is restarted, one after the other, as for an upgrade. No request of a client with its usual retries fails.
async fn rolling() {
    let _turn = TURN.lock().await;
    let mut run = Run::start(LAYOUT).await;
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
async fn a_rolling_restart_fails_no_request() {
    rolling().await;
}

/// As many faults as `STELE_SOAK_MINUTES` has room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: some minutes"]
async fn a_cluster_under_load_survives_faults_for_long() {
    let end = Instant::now() + Duration::from_secs(60 * number("STELE_SOAK_MINUTES").unwrap_or(10));
    befall(seed(), |done| done < 30 || Instant::now() < end).await;
}
