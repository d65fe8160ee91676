//! The background tasks of a service: looking at the drives, sealing, and the retention clock's ticks.

use crate::clock::RetentionClock;
use crate::command::Command;
use crate::commit::Request;
use crate::seal::Sealer;
use crate::service::Shared;
use crate::start::Config;
use codec::id::Epoch;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// An idle cluster journals its clock once in this many ticks: time that is not journaled is lost to the retention clock when
/// the process ends, up to what the yearly catch-up makes good.
const IDLE_TICKS: u32 = 60;
/// Sealing that failed waits this long: nothing is lost by waiting, and each attempt leaves orphan stripes.
const SEAL_PAUSE: Duration = Duration::from_secs(60);

/// Tasks of every service.
pub fn reading(shared: &Arc<Shared>, config: &Config) -> Vec<JoinHandle<()>> {
    // A service that reads only still shows how its drives are; one that writes looks at them in `writing`.
    match config.check_every.filter(|_| shared.read_only().is_some()) {
        Some(every) => vec![tokio::spawn(watch_drives(shared.clone(), every, None))],
        None => Vec::new(),
    }
}

/// Tasks of a service that writes.
pub fn writing(
    shared: &Arc<Shared>,
    config: &Config,
    sealer: &Arc<Sealer>,
    requests: &mpsc::Sender<Request>,
    retention: RetentionClock,
    epoch: Epoch,
) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    if let Some(every) = config.check_every {
        tasks.push(tokio::spawn(watch_drives(shared.clone(), every, Some(requests.clone()))));
    }
    if let Some(bytes) = config.seal_after {
        tasks.push(tokio::spawn(seal_when_full(shared.clone(), sealer.clone(), bytes)));
    }
    if let Some(every) = config.tick_every {
        tasks.push(tokio::spawn(tick(shared.clone(), requests.clone(), retention, epoch, every)));
    }
    tasks
}

async fn watch_drives(shared: Arc<Shared>, every: Duration, requests: Option<mpsc::Sender<Request>>) {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let drives = shared.node.drives().await;
        shared.set_drives(drives.clone());
        if let Some(requests) = &requests
            && requests.send(Request::Check(drives)).await.is_err()
        {
            return;
        }
    }
}

/// Waits until a segment's worth of the journal is unsealed: small left-overs of starts and changes of the ensemble stay in
/// the journal, on 1+m drives, until they fill stripes together.
async fn seal_when_full(shared: Arc<Shared>, sealer: Arc<Sealer>, bytes: u64) {
    loop {
        if shared.unsealed.load(Ordering::Relaxed) < bytes {
            shared.wake_sealer.notified().await;
            continue;
        }
        if let Err(error) = sealer.seal_now().await {
            tracing::warn!(%error, "sealing failed; the journal keeps what was not sealed");
            sleep(SEAL_PAUSE).await;
        }
    }
}

async fn tick(
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    retention: RetentionClock,
    epoch: Epoch,
    every: Duration,
) {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut idle, mut seen) = (IDLE_TICKS, 0);
    loop {
        timer.tick().await;
        let batches = shared.batches.load(Ordering::Relaxed);
        if batches == seen && idle < IDLE_TICKS {
            idle += 1;
            continue;
        }
        let (reply, answer) = oneshot::channel();
        let command = Box::new(Command::ClockTick(retention.tick(&*shared.clock)));
        if requests.send(Request::Commit(epoch, command, reply)).await.is_err() {
            return;
        }
        match answer.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the retention clock's tick was not journaled"),
            Err(_) => return,
        }
        // The tick itself is no activity.
        (idle, seen) = (0, shared.batches.load(Ordering::Relaxed));
    }
}
