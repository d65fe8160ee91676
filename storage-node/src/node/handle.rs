//! An open drive as the node holds it: its threads, the questions that it is asked, and when it counts as failed because it
//! does not answer them.
//!
//! Invariants
//! * A drive that lets an operation wait for [`NodeConfig::hung_after`](super::NodeConfig::hung_after) has failed, as one whose
//!   cable was pulled. It is a drive again only when all of it has returned and it was opened anew.
//! * Whoever waits for a drive is answered when the drive fails, whether or not it ever answers; nothing is asked of a failed
//!   drive. So one that hangs holds a bounded number of threads, and nobody.

use crate::client::{DriveHealth, DriveStatus, Labels, ReadError, STALLED_AFTER, WriteError};
use crate::disk::Space;
use crate::drive::{DriveError, check_held_identity};
use crate::leader::Leader;
use crate::open::OpenDrive;
use crate::write::{Job, Reply};
use codec::id::Epoch;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How long the drives are given to say how much space they have. A drive that hangs is described by its last answer.
const SPACE_DEADLINE: Duration = Duration::from_secs(1);
/// How long a drive's scrub is waited for when its node stops.
const SCRUB_DEADLINE: Duration = Duration::from_secs(5);
/// How often whoever waits for a drive looks whether it hangs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct DriveHandle {
    pub open: Arc<OpenDrive>,
    pub jobs: mpsc::Sender<Job>,
    /// Its part of the reserve, in bytes; `None`: what it has.
    pub reserve: Option<u64>,
    /// How often it was opened, this time included.
    pub opened: u32,
    /// It has failed when an operation waits for so long.
    pub hung_after: Duration,
    pub reads: Arc<Semaphore>,
    pub space: Arc<LastSpace>,
    pub thread: Mutex<Option<JoinHandle<()>>>,
    /// The thread that scrubs the drive, once the node has begun.
    pub scrub: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for DriveHandle {
    fn drop(&mut self) {
        self.open.scrub.stop();
    }
}

/// The last answer to how much space a drive has, and whether another one is being waited for.
#[derive(Debug, Default)]
pub(super) struct LastSpace {
    answer: Mutex<Option<Space>>,
    asking: AtomicBool,
}

impl LastSpace {
    pub fn get(&self) -> Option<Space> {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, answer: Option<Space>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

/// What is said of a drive that hangs.
fn no_answer(waited: Duration) -> String {
    format!("no answer for {} s", waited.as_secs())
}

impl DriveHandle {
    pub fn is_healthy(&self) -> bool {
        matches!(self.open.health.get(), DriveHealth::Healthy)
    }

    /// How long an operation has waited, if that is longer than a drive that works lets anything wait.
    pub fn stalled(&self) -> Option<Duration> {
        Some(self.open.unanswered.longest()).filter(|waited| *waited >= STALLED_AFTER)
    }

    /// Fails the drive if it hangs.
    fn look_for_hang(&self) {
        let waited = self.open.unanswered.longest();
        if waited >= self.hung_after && self.open.health.failed().is_none() {
            let reason = no_answer(waited);
            tracing::error!(drive = %self.open.identity.drive, reason, "a drive hangs; it has failed until it answers");
            self.open.health.fail(reason);
        }
    }

    /// Waits for an answer of the drive, until it has failed: then `Err` is why.
    async fn answered<T>(&self, answer: impl Future<Output = T>) -> Result<T, String> {
        let (mut answer, mut failed) = (pin!(answer), pin!(self.open.health.until_failed()));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer),
                reason = &mut failed => return Err(reason),
                () = tokio::time::sleep(LOOK_EVERY) => self.look_for_hang(),
            }
        }
    }

    /// The same for an answer that may fail in its own way. Nothing is asked of a drive that has failed.
    async fn reading<T>(&self, answer: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
        let failed = |reason| ReadError::DriveFailed { drive: self.open.identity.drive, reason };
        if let Some(reason) = self.open.health.failed() {
            return Err(failed(reason));
        }
        self.answered(answer).await.unwrap_or_else(|reason| Err(failed(reason)))
    }

    pub async fn begin(&self, epoch: Epoch, leader: Option<Leader>) -> Result<(), DriveError> {
        let drive = self.open.identity.drive;
        let gone = || DriveError::Thread { drive };
        let begin = async {
            let (reply, answer) = oneshot::channel();
            self.jobs.send(Job::Begin { epoch, leader, reply }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        let begun = self.answered(begin).await.unwrap_or_else(|reason| Err(DriveError::Failed { drive, reason }));
        // Also a drive that takes no writes is scrubbed: what it holds may be all that is left.
        self.begin_scrub();
        begun
    }

    /// Not before what the start found has been synced: until then the medium need not have it.
    fn begin_scrub(&self) {
        let mut scrub = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        if scrub.is_none() && self.open.health.failed().is_none() {
            match crate::scrub::spawn(Arc::clone(&self.open), self.jobs.downgrade()) {
                Ok(thread) => *scrub = Some(thread),
                Err(error) => tracing::error!(drive = %self.open.identity.drive, %error, "the drive is not scrubbed"),
            }
        }
    }

    async fn scrub_ended(&self) {
        let thread = self.scrub.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            // One that waits for a drive that hangs reads nothing that anybody still wants.
            let _in_time = tokio::time::timeout(SCRUB_DEADLINE, joined).await;
        }
    }

    /// [`Self::end`], for no longer than `limit`: one drive that hangs must not keep a node from stopping.
    pub async fn end_in_time(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.end()).await.is_err() {
            tracing::warn!(drive = %self.open.identity.drive, "a drive does not let go of its thread");
        }
    }

    /// Answers what is queued, ends the drive's threads and releases its lock.
    async fn end(&self) {
        self.open.scrub.stop();
        // First: what it found last is flushed with the rest of the index.
        self.scrub_ended().await;
        let _ended = self.jobs.send(Job::Stop).await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _joined = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// Gives the drive's thread a job and waits for what comes of it. A job that is answered too late was not done, as far as
    /// anybody knows: the drive has failed, and what its thread still does is never acknowledged.
    pub async fn write<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, WriteError> {
        let failed = |reason| WriteError::DriveFailed { drive: self.open.identity.drive, reason };
        // A queue that nobody works off would fill up with payloads.
        if let Some(reason) = self.open.health.failed() {
            return Err(failed(reason));
        }
        let done = async {
            let (reply, answer) = oneshot::channel();
            self.jobs.send(job(reply)).await.map_err(|_| WriteError::Unreachable)?;
            answer.await.map_err(|_| WriteError::Unreachable)?
        };
        self.answered(done).await.unwrap_or_else(|reason| Err(failed(reason)))
    }

    /// Runs a blocking look into the index.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&OpenDrive) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let open = Arc::clone(&self.open);
        tokio::task::spawn_blocking(move || look(&open)).await.map_err(|_| ReadError::Unreachable)?
    }

    /// Runs a blocking question about what is on the medium. Not among the reads of clients: it may take long.
    pub async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(Arc<OpenDrive>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        self.reading(self.run(&self.open.scrub.asks, ask)).await
    }

    /// Runs a blocking read, when one of the drive's places for readers is free.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(Arc<OpenDrive>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        self.reading(self.run(&self.reads, read)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        places: &Arc<Semaphore>,
        read: impl FnOnce(Arc<OpenDrive>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit = Arc::clone(places).acquire_owned().await.map_err(|_| ReadError::Unreachable)?;
        let open = Arc::clone(&self.open);
        let reading = tokio::task::spawn_blocking(move || {
            // Given back when the read ends, also if nobody waits for it any more.
            let _permit = permit;
            read(open)
        });
        reading.await.map_err(|_| ReadError::Unreachable)?
    }

    /// Asks how much space there is, and whether the drive is still the drive (a directory that was removed or replaced
    /// would look healthy until the next write), for as long as the others are given. A question that hangs stays the
    /// only one: until it is answered the last answer stands, and no more threads wait.
    pub async fn ask_space(&self) {
        self.look_for_hang();
        if self.space.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (open, space) = (Arc::clone(&self.open), Arc::clone(&self.space));
        let asking = tokio::task::spawn_blocking(move || {
            space.set(open.disk.space().ok());
            if open.health.failed().is_none()
                && let Err(reason) = check_held_identity(&*open.disk, &*open.identity_file, &open.identity)
            {
                tracing::error!(drive = %open.identity.drive, reason, "the drive is gone");
                open.health.fail(reason);
            }
            space.asking.store(false, Ordering::Release);
        });
        let _in_time = tokio::time::timeout(SPACE_DEADLINE, asking).await;
    }

    pub fn status(&self) -> DriveStatus {
        let open = &self.open;
        let space = self.space.get();
        // One after the other: both look into the journal's map, and a guard in the expression below would live too long.
        let journal_segments = open.journal().len();
        let damaged = open.damaged().len() as u64;
        let waited = open.unanswered.longest();
        let health = match open.health.get() {
            DriveHealth::Failed { .. } if waited >= self.hung_after => {
                DriveHealth::Failed { reason: no_answer(waited) }
            }
            health => health,
        };
        DriveStatus {
            id: open.identity.drive,
            // The node says both of all its drives.
            node: 0,
            labels: Labels::default(),
            path: open.disk.path_hint(),
            health,
            total: space.map_or(0, |s| s.total),
            free: space.map_or(0, |s| s.free.saturating_sub(open.reserve.missing())),
            filesystem_id: space.map_or(0, |s| s.filesystem_id),
            reserve: open.reserve.left(),
            data_segments: open.data_segments(),
            journal_segments,
            damaged,
            p99_ms: open.latency.p99_ms(),
            errors: open.latency.errors(),
            opened: self.opened,
            unanswered_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
