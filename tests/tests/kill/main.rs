//! `kill -9` at any moment: nothing acknowledged is lost, nothing is half there, and no hand is needed to start again.
#![allow(clippy::unwrap_used, missing_docs)]

mod history;
mod load;

use aws_sdk_s3::Client;
use history::Document;
use load::{BUCKET, Read, Shared, Upload, Worker, compare, complete, list, read};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tests::process::{ServerConfig, ServerProcess};
use tests::s3::{Random, client};

const WORKERS: usize = 8;
/// Bytes that one round may write before only small objects follow.
const ROUND_BYTES: i64 = 48 << 20;
/// Changes that are acknowledged before a kill, so that it means something, unless the machine takes longer than
/// [`FEW_WITHIN`] over them.
const FEW: u64 = 25;
const FEW_WITHIN: Duration = Duration::from_secs(120);
/// Objects that are never overwritten are read again in each round, this many of them by chance, and all at the end.
const KEPT_SAMPLE: usize = 40;

/// When the server is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Under load.
    Load,
    /// Under load, and then again and again while it starts.
    StartUp,
    /// Under load, while the journal is being sealed.
    Sealing,
    /// Under load; the index is gone afterwards.
    IndexGone,
    /// As in `StartUp`, and the index is gone before each start.
    StartUpIndexGone,
    /// After everything was answered.
    Quiet,
    /// While the journal is being sealed; and the index is gone afterwards.
    SealingIndexGone,
}

const MOMENTS: [Moment; 8] = [
    Moment::Load,
    Moment::Sealing,
    Moment::StartUp,
    Moment::IndexGone,
    Moment::Load,
    Moment::SealingIndexGone,
    Moment::StartUpIndexGone,
    Moment::Quiet,
];

struct Test {
    config: ServerConfig,
    client: Client,
    shared: Arc<Shared>,
    random: Random,
    /// How long the last start took.
    start_time: Duration,
    _directory: tempfile::TempDir,
}

impl Test {
    fn new(seed: u64) -> Test {
        let directory = tempfile::tempdir().unwrap();
        let config = ServerConfig::new(directory.path().join("data"), 6);
        let client = client(&config);
        let start_time = Duration::from_secs(1);
        Test { config, client, shared: Shared::new(), random: Random::new(seed), start_time, _directory: directory }
    }

    async fn start(&mut self) -> ServerProcess {
        let began = Instant::now();
        let server = self.config.start().await;
        self.start_time = began.elapsed();
        server
    }

    fn pause(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.random.below(to - from))
    }

    /// Load, until the server is killed; `sealing`: while it seals.
    async fn load_and_kill(&mut self, server: ServerProcess, moment: Moment) {
        self.shared.stop.store(false, Ordering::Relaxed);
        self.shared.budget.store(ROUND_BYTES, Ordering::Relaxed);
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let random = Random::new(self.random.next());
                let (client, shared) = (self.client.clone(), Arc::clone(&self.shared));
                tokio::spawn(Worker { number, client, random, shared }.run())
            })
            .collect();
        let (began, before) = (Instant::now(), self.shared.history().answered);
        tokio::time::sleep(self.pause(300, 1500)).await;
        while self.shared.history().answered < before + FEW && began.elapsed() < FEW_WITHIN {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut sealing = None;
        if matches!(moment, Moment::Sealing | Moment::SealingIndexGone) {
            sealing = Some(self.config.command(&["journal", "seal", "--wait"]).spawn().unwrap());
            tokio::time::sleep(self.pause(0, 700)).await;
        }
        if moment == Moment::Quiet {
            self.shared.stop.store(true, Ordering::Relaxed);
            for worker in workers {
                worker.await.unwrap().unwrap_or_else(|wrong| panic!("{wrong}\n{}", server.output()));
            }
            server.kill().await;
            return;
        }
        let output = server.output();
        server.kill().await;
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.await.unwrap().unwrap_or_else(|wrong| panic!("{wrong}\n{output}"));
        }
        if let Some(mut sealing) = sealing {
            tokio::task::spawn_blocking(move || sealing.wait()).await.unwrap().unwrap();
        }
    }

    /// Kills `times` starts, each at another point of it.
    async fn kill_starts(&mut self, times: usize, without_index: bool) {
        for _ in 0..times {
            if without_index {
                self.remove_index();
            }
            let server = self.config.spawn();
            let micros = u64::try_from(self.start_time.as_micros()).unwrap();
            tokio::time::sleep(Duration::from_micros(self.random.below(micros * 5 / 4))).await;
            let status = server.kill().await;
            assert_eq!(status.code(), None, "it was killed, it did not end by itself: {status}");
        }
    }

    fn remove_index(&self) {
        match std::fs::remove_dir_all(self.config.index()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    async fn round(&mut self, server: ServerProcess, moment: Moment) -> ServerProcess {
        self.load_and_kill(server, moment).await;
        match moment {
            Moment::StartUp => self.kill_starts(4, false).await,
            Moment::StartUpIndexGone => self.kill_starts(3, true).await,
            Moment::IndexGone | Moment::SealingIndexGone => self.remove_index(),
            Moment::Load | Moment::Sealing | Moment::Quiet => {}
        }
        self.start().await
    }

    /// Everything that must be there is there, and nothing else.
    async fn verify(&mut self, server: &ServerProcess, all: bool) -> usize {
        let uploads = std::mem::take(&mut *self.shared.uploads());
        for upload in uploads {
            self.finish(&upload).await.unwrap_or_else(|wrong| panic!("{}: {wrong}\n{}", upload.key, server.output()));
        }
        let every = self.shared.history().keys();
        let (mut kept, mut keys): (Vec<_>, Vec<_>) = every.iter().cloned().partition(|key| key.starts_with("kept/"));
        while !all && kept.len() > KEPT_SAMPLE {
            let victim = usize::try_from(self.random.below(kept.len() as u64)).unwrap();
            kept.swap_remove(victim);
        }
        keys.append(&mut kept);
        let mut seen = BTreeMap::new();
        let mut readers = tokio::task::JoinSet::new();
        let mut left = keys.iter();
        loop {
            while readers.len() < WORKERS
                && let Some(key) = left.next().cloned()
            {
                let (client, shared) = (self.client.clone(), Arc::clone(&self.shared));
                readers.spawn(async move { (read(&client, &shared, &key).await, key) });
            }
            let Some(done) = readers.join_next().await else { break };
            let (read, key) = done.unwrap();
            let value: Option<Document> = match read {
                Read::Value(value) => value,
                Read::Interrupted => panic!("{key}: no answer\n{}", server.output()),
                Read::Wrong(wrong) => panic!("{wrong}\n{}", server.output()),
            };
            let possible = self.shared.history().possible(&key);
            assert!(possible.contains(&value), "{key}: {value:?} instead of one of {possible:?}\n{}", server.output());
            seen.insert(key, value);
        }
        for (key, value) in &seen {
            self.shared.history().settle(key, *value);
        }
        let listed = list(&self.client, "").await.expect("a listing");
        let same = compare(&self.shared.history(), &every, &listed);
        same.unwrap_or_else(|wrong| panic!("{wrong}\n{}", server.output()));
        seen.len()
    }

    /// Acknowledged parts of an upload are there after a kill, and can be completed.
    async fn finish(&self, upload: &Upload) -> Result<(), String> {
        let parts = self.client.list_parts().bucket(BUCKET).key(&upload.key).upload_id(&upload.id).send().await;
        let parts = parts.map_err(|error| format!("the upload is gone: {:?}", tests::s3::refused(&error)))?;
        for (number, (etag, part)) in (1..).zip(&upload.parts) {
            let there = parts.parts().iter().find(|there| there.part_number() == Some(number));
            let Some(there) = there else { return Err(format!("part {number} is gone")) };
            if there.e_tag() != Some(etag) || there.size() != i64::try_from(part.len).ok() {
                return Err(format!("part {number} is {there:?}"));
            }
        }
        if upload.parts.is_empty() {
            return Ok(());
        }
        complete(&self.client, &self.shared, upload).await
    }
}

async fn kill(seed: u64, mut more: impl FnMut(usize) -> bool) {
    println!("seed {seed}");
    let began = Instant::now();
    let mut test = Test::new(seed);
    let mut server = test.start().await;
    test.client.create_bucket().bucket(BUCKET).send().await.unwrap();
    let mut round = 0;
    while more(round) {
        let moment = MOMENTS[round % MOMENTS.len()];
        let (round_began, before) = (Instant::now(), test.shared.history().answered);
        server = test.round(server, moment).await;
        let answered = test.shared.history().answered - before;
        let started = test.start_time;
        let read = test.verify(&server, false).await;
        println!(
            "round {round} ({moment:?}): {answered} changes acknowledged, started in {started:?}, {read} keys verified, {:?}",
            round_began.elapsed()
        );
        round += 1;
    }
    test.verify(&server, true).await;
    let status = server.stop().await;
    assert_eq!(status.code(), Some(0), "SIGTERM ends cleanly");
    test.remove_index();
    let server = test.start().await;
    let read = test.verify(&server, true).await;
    let history = test.shared.history();
    println!(
        "{round} rounds, {} changes acknowledged, {} interrupted, {read} keys at the end, {:?}",
        history.answered,
        history.open,
        began.elapsed()
    );
    assert!(history.answered > 20 * round as u64, "too few operations to mean anything");
}

/// STELE_KILL_SEED, or `otherwise`.
fn seed(otherwise: u64) -> u64 {
    std::env::var("STELE_KILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_acknowledged() {
    // Always the same, so that what fails is what was changed; the soak has another each time.
    kill(seed(20_261_123), |round| round < MOMENTS.len()).await;
}

/// At least 100 rounds, and as many as `STELE_SOAK_MINUTES` has room for.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: some minutes"]
async fn kill_9_a_hundred_times() {
    let minutes = std::env::var("STELE_SOAK_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(0);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    kill(seed(u64::from(std::process::id())), |round| round < 100 || Instant::now() < end).await;
}
