//! The background tasks of a service: looking at the drives, sealing, the retention clock's ticks, and the uploads that a
//! deleted bucket left behind.

use crate::client::CommitError;
use crate::clock::RetentionClock;
use crate::command::Command;
use crate::commit::Request;
use crate::index::usage::{self, Counted};
use crate::index::{self, Overlay};
use crate::keep::Keeper;
use crate::keep::reclaim::Reclaimer;
use crate::keep::returning::Returning;
use crate::seal::Sealer;
use crate::service::Shared;
use crate::start::Config;
use crate::stripe_writer::StripeWriter;
use codec::erasure::Geometry;
use codec::id::Epoch;
use codec::level::FormatLevel;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// An idle cluster journals its clock once in this many ticks: time that is not journaled is lost to the retention clock when
/// the process ends, up to what the yearly catch-up makes good.
const IDLE_TICKS: u32 = 60;
/// More journal segments than this on one drive are sealed at the start, however little they hold.
const CROWDED_SEGMENTS: u64 = 32;
/// Sealing that failed waits this long: nothing is lost by waiting, and each attempt leaves orphan stripes.
const SEAL_PAUSE: Duration = Duration::from_secs(60);
/// The pause doubles up to this while sealing goes on failing.
const SEAL_PAUSE_MOST: Duration = Duration::from_secs(3600);
/// Seals after which a checkpoint that failed is not tried again.
const CHECKPOINT_SKIPS: u32 = 64;

/// Uploads that are looked for at a time.
const SWEEP_UPLOADS: usize = 100;
/// How often a raise of the format level is looked for that lets buckets be counted.
const COUNT_LOOK: Duration = Duration::from_secs(5);
/// Between two steps of the count, which each hold up commits for some milliseconds.
const COUNT_PAUSE: Duration = Duration::from_millis(50);
/// A sweep that failed waits this long.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// Tasks of every service.
pub fn reading(shared: &Arc<Shared>, config: &Config, geometry: Geometry) -> Vec<JoinHandle<()>> {
    // A service that reads only still shows how its drives are; one that writes looks at them in `writing`.
    match config.check_every.filter(|_| shared.read_only().is_some()) {
        Some(every) => vec![tokio::spawn(watch_drives(shared.clone(), every, full(geometry), None))],
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
    stripes: &Arc<StripeWriter>,
) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    if let Some(every) = config.check_every {
        tasks.push(tokio::spawn(watch_drives(shared.clone(), every, full(stripes.geometry()), Some(requests.clone()))));
    }
    if let Some(bytes) = config.seal_after {
        tasks.push(tokio::spawn(seal_when_full(shared.clone(), sealer.clone(), bytes, config.checkpoint_after)));
    }
    tasks.push(tokio::spawn(count_usage(shared.clone(), requests.clone(), stripes.clone())));
    tasks.push(tokio::spawn(sweep_uploads(shared.clone(), requests.clone(), stripes.clone())));
    if let Some(every) = config.tick_every {
        tasks.push(tokio::spawn(tick(shared.clone(), requests.clone(), retention, stripes.clone(), every)));
    }
    tasks
}

fn full(geometry: Geometry) -> usize {
    usize::from(geometry.k()) + usize::from(geometry.m())
}

/// Opens drives that are back, and tells reclaim and repair.
pub async fn open_returning(
    returning: Arc<Returning>,
    keeper: Arc<Keeper>,
    reclaimer: Arc<Reclaimer>,
    every: Duration,
) {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Beside the opening: it takes a call for every epoch that a drive has stripes of, and the next drive that is back would
    // wait for it. Nothing is deleted meanwhile: whoever deletes looks first. Ends with this task.
    let mut looks = JoinSet::new();
    loop {
        timer.tick().await;
        while looks.try_join_next().is_some() {}
        if returning.look().await > 0 {
            let reclaimer = reclaimer.clone();
            looks.spawn(async move { reclaimer.look_at_returned().await });
            keeper.wake();
        }
    }
}

/// `full`: drives that a full stripe needs.
async fn watch_drives(shared: Arc<Shared>, every: Duration, full: usize, requests: Option<mpsc::Sender<Request>>) {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let drives = shared.node.drives().await;
        shared.set_drives(drives.clone());
        if let Err(error) = shared.look_for_slow(&drives, full) {
            tracing::warn!(%error, "how fast the drives are is not known");
        }
        if let Some(requests) = &requests
            && requests.send(Request::Check(drives)).await.is_err()
        {
            return;
        }
    }
}

/// Waits until a segment's worth of the journal is unsealed: small left-overs of starts and changes of the ensemble stay in
/// the journal, on 1+m drives, until they fill stripes together, or until a start finds so many that scanning them is what
/// starts spend their time on.
async fn seal_when_full(shared: Arc<Shared>, sealer: Arc<Sealer>, bytes: u64, checkpoint_after: Option<u64>) {
    // Asked once: were it asked again and again, a drive that can't free its segments would be sealed into for ever.
    let mut crowded = shared.node.drives().await.iter().any(|drive| drive.journal_segments > CROWDED_SEGMENTS);
    let (mut pause, mut skip) = (SEAL_PAUSE, 0);
    loop {
        if !std::mem::take(&mut crowded) && shared.unsealed.load(Ordering::Relaxed) < bytes {
            shared.wake_sealer.notified().await;
            continue;
        }
        if let Err(error) = sealer.seal_now().await {
            tracing::warn!(%error, "sealing failed; the journal keeps what was not sealed");
            sleep(pause).await;
            pause = (2 * pause).min(SEAL_PAUSE_MOST);
            continue;
        }
        pause = SEAL_PAUSE;
        if skip > 0 {
            skip -= 1;
        } else if let Some(entries) = checkpoint_after
            && let Err(error) = sealer.checkpoint_if_due(entries).await
        {
            tracing::warn!(%error, "no checkpoint of the index was written; a rebuild would take longer");
            // What a failed one wrote stays until the next start.
            skip = CHECKPOINT_SKIPS;
        }
    }
}

/// Aborts uploads whose bucket is gone: a bucket may have had more of them than the entry that deleted it could drop. Their
/// parts would hold references for ever. Looks once at the start, since a crash may have come between the two.
async fn sweep_uploads(shared: Arc<Shared>, requests: mpsc::Sender<Request>, stripes: Arc<StripeWriter>) {
    loop {
        match sweep_once(&shared, &requests, stripes.epoch()).await {
            Ok(0) => shared.wake_sweeper.notified().await,
            Ok(aborted) => tracing::info!(aborted, "uploads of deleted buckets were aborted"),
            Err(error) => {
                tracing::warn!(%error, "uploads of deleted buckets were not aborted");
                sleep(SWEEP_PAUSE).await;
            }
        }
    }
}

async fn sweep_once(shared: &Shared, requests: &mpsc::Sender<Request>, epoch: Epoch) -> Result<usize, CommitError> {
    let unavailable = |reason: String| CommitError::Unavailable { reason };
    let found = index::orphan_uploads(&Overlay::new(&*shared.kv), SWEEP_UPLOADS);
    let found = found.map_err(|error| unavailable(error.to_string()))?;
    let count = found.len();
    for upload in found {
        let (reply, answer) = oneshot::channel();
        let command = Box::new(Command::AbortUpload { upload });
        let stopping = || unavailable("the service is stopping".to_owned());
        requests.send(Request::Commit(epoch, command, reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())??;
    }
    Ok(count)
}

/// Counts what buckets hold, where the index was begun before that was counted. A step at a time, and clients between them.
async fn count_usage(shared: Arc<Shared>, requests: mpsc::Sender<Request>, stripes: Arc<StripeWriter>) {
    loop {
        let counted = usage::counted(&Overlay::new(&*shared.kv));
        if counted.is_ok_and(|counted| counted == Counted::All) {
            return;
        }
        // Before the level that brings the count there is none: a raise is looked for now and then.
        if shared.level() < FormatLevel::VERSIONS {
            sleep(COUNT_LOOK).await;
            continue;
        }
        let (reply, answer) = oneshot::channel();
        if requests.send(Request::Commit(stripes.epoch(), Box::new(Command::CountUsage), reply)).await.is_err() {
            return;
        }
        match answer.await {
            Ok(Ok(_)) => sleep(COUNT_PAUSE).await,
            Ok(Err(error)) => {
                tracing::warn!(%error, "what buckets hold was not counted on");
                sleep(SWEEP_PAUSE).await;
            }
            Err(_) => return,
        }
    }
}

async fn tick(
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    retention: RetentionClock,
    stripes: Arc<StripeWriter>,
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
        if requests.send(Request::Commit(stripes.epoch(), command, reply)).await.is_err() {
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
