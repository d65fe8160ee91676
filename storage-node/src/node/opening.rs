//! How a node gets its drives: when it starts, while it runs, and again after one has failed.
//!
//! Invariants:
//! * No drive keeps the others from starting. One that does not answer, can't be read, or whose contents make the code
//!   panic counts as failed, with the reason in its status.
//! * A drive is in the hands of one opener, by its lock (R18). An opener that was given up keeps the lock until the drive
//!   answers, and gives it back then; meanwhile the drive is not opened again, and not even looked at: it costs one thread,
//!   and not one for each time that somebody hopes for it.
//! * No lock that others need is held while a drive is waited for, and no drive is waited for without end.
//! * A drive that is opened again goes through all that a start does: its identity, the scan of its segments from the
//!   medium, new segments. Nothing is believed of what the node knew of it before.

use super::handle::DriveHandle;
use super::{Drives, MAX_PREALLOCATE_STEP, QUEUE, StorageNode};
use crate::client::{DriveHealth, DriveStatus, Labels};
use crate::disk::Disk;
use crate::disk::watched::WatchedDisk;
use crate::drive::{DriveError, ProbedDrive, ProbedState, probe};
use crate::index::ShardIndex;
use crate::open::{OpenDrive, Progress, Recovered, open_drive};
use crate::reserve::Tally;
use crate::unanswered::Unanswered;
use crate::write::{WriteConfig, Writer};
use codec::id::DriveId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc};

/// How long a drive may take to say which file system it is on, before it is opened.
const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// A drive that could not be opened: known, and not usable.
#[derive(Clone, Debug)]
pub(super) struct FailedDrive {
    pub path: String,
    pub reason: String,
    pub disk: Arc<dyn Disk>,
    /// Its part of the reserve, in bytes; `None`: what it has.
    pub reserve: Option<u64>,
}

impl FailedDrive {
    pub fn status(&self, id: DriveId, opened: u32) -> DriveStatus {
        DriveStatus {
            id,
            // The node says both of all its drives.
            node: 0,
            labels: Labels::default(),
            path: self.path.clone(),
            health: DriveHealth::Failed { reason: self.reason.clone() },
            total: 0,
            free: 0,
            filesystem_id: 0,
            reserve: 0,
            data_segments: 0,
            journal_segments: 0,
            damaged: 0,
            p99_ms: None,
            errors: 0,
            opened,
            unanswered_ms: 0,
        }
    }
}

/// A thread is looking at a drive or opening it; dropped by that thread when the drive has answered.
struct AtWork {
    drives: Arc<Mutex<Drives>>,
    at: (DriveId, String),
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.drives.lock().unwrap_or_else(PoisonError::into_inner).asked.remove(&self.at);
    }
}

/// A drive to be opened.
pub(super) struct Opening {
    probed: ProbedDrive,
    /// Its file system, if it said.
    filesystem: Option<u64>,
    /// Its part of the reserve, in bytes. `None`: what it has, since a share of an unknown file system can't be computed; as a
    /// share of nothing it was given to clients (R14).
    reserve: Option<u64>,
}

impl Opening {
    /// All of these, asked at the same time; the reserve of a file system is shared by the drives on it.
    pub async fn all(drives: Vec<ProbedDrive>, reserve: u64) -> Vec<Opening> {
        let asked = drives.iter().map(|drive| filesystem(Arc::clone(&drive.disk)));
        let filesystems = futures::future::join_all(asked).await;
        let mut count: HashMap<u64, u64> = HashMap::new();
        for id in filesystems.iter().flatten() {
            *count.entry(*id).or_default() += 1;
        }
        let share = |id: &Option<u64>| id.and_then(|id| count.get(&id)).map(|n| reserve / n);
        let with = |(probed, filesystem)| Opening { probed, filesystem, reserve: share(&filesystem) };
        drives.into_iter().zip(filesystems).map(with).collect()
    }
}

/// Which file system a drive is on; `None` if it does not say in time.
async fn filesystem(disk: Arc<dyn Disk>) -> Option<u64> {
    let asking = tokio::task::spawn_blocking(move || disk.space().ok());
    tokio::time::timeout(ASK_DEADLINE, asking).await.ok()?.ok()?.map(|space| space.filesystem_id)
}

impl StorageNode {
    /// The work at a drive in a directory; `None` while a thread is at it and has not been answered.
    fn at_work(&self, drive: DriveId, path: String) -> Option<AtWork> {
        let at = (drive, path);
        let began = self.lock().asked.insert(at.clone());
        began.then(|| AtWork { drives: Arc::clone(&self.drives), at })
    }

    /// The turn to open, close or forget a drive.
    async fn turn(&self, drive: DriveId) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(self.lock().turns.entry(drive).or_default());
        turn.lock_owned().await
    }

    pub(super) async fn open_one(&self, opening: Opening) -> Result<(), DriveError> {
        let Opening { probed, filesystem, reserve } = opening;
        let (disk, path) = (Arc::clone(&probed.disk), probed.disk.path_hint());
        let identity = match probed.identity {
            Some(identity) if identity.cluster == self.config.cluster => identity,
            Some(identity) => {
                return Err(DriveError::NotOurs { path, state: ProbedState::Foreign { cluster: identity.cluster } });
            }
            None => return Err(DriveError::NotOurs { path, state: probed.state }),
        };
        let failed = FailedDrive { path, reason: String::new(), disk: Arc::clone(&disk), reserve };
        let Some(at_work) = self.at_work(identity.drive, failed.path.clone()) else {
            self.set_failed(identity.drive, failed, "it does not answer".to_owned());
            return Ok(());
        };
        let unanswered = Unanswered::new(Arc::clone(&self.config.clock));
        let probed = ProbedDrive { disk: WatchedDisk::over(disk, Arc::clone(&unanswered)), ..probed };
        let (kv, tally, scrub) = (Arc::clone(&self.index), self.tally(filesystem), self.scrub.clone());
        let progress = Progress::default();
        let seen = progress.clone();
        let mut opening = tokio::task::spawn_blocking(move || {
            let opened = open_drive(&probed, kv, tally, scrub, unanswered, &progress);
            // Whoever is told may open it again.
            drop(at_work);
            opened
        });
        let opened = loop {
            let before = seen.steps();
            match tokio::time::timeout(self.config.open_deadline, &mut opening).await {
                Ok(opened) => break opened,
                // A drive that is indexed anew takes its time, and shows that it is at work.
                Err(_) if seen.steps() != before => {}
                Err(_) => {
                    let reason = format!("no answer within {} s", self.config.open_deadline.as_secs_f32());
                    self.set_failed(identity.drive, failed, reason);
                    return Ok(());
                }
            }
        };
        let added = match opened {
            Ok(Ok((open, recovered))) => self.add_open(open, recovered, reserve),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(DriveError::Thread { drive: identity.drive }),
        };
        match added {
            // Probed as ours, and not that any more: it died, or was swapped, meanwhile. The others start without it.
            Err(error @ (DriveError::Disk(_) | DriveError::NotOurs { .. } | DriveError::Thread { .. })) => {
                self.set_failed(identity.drive, failed, error.to_string());
                // Nobody was let look, which says nothing of the drive: a start that went on would take it for gone.
                match error {
                    DriveError::Disk(refused) if refused.is_refusal() => Err(refused.into()),
                    _ => Ok(()),
                }
            }
            other => other,
        }
    }

    /// Notes that a drive can't be used, unless somebody has opened it meanwhile.
    fn set_failed(&self, drive: DriveId, failed: FailedDrive, reason: String) {
        tracing::error!(%drive, path = failed.path, reason, "a drive can't be opened");
        let mut drives = self.lock();
        if !drives.open.contains_key(&drive) {
            drives.failed.insert(drive, FailedDrive { reason, ..failed });
        }
    }

    fn add_open(&self, open: Arc<OpenDrive>, recovered: Recovered, reserve: Option<u64>) -> Result<(), DriveError> {
        let id = open.identity.drive;
        let mut drives = self.lock();
        if drives.open.contains_key(&id) {
            return Err(DriveError::Twice { path: open.disk.path_hint(), drive: id });
        }
        let config = WriteConfig {
            data_segment: self.config.data_segment,
            journal_segment: self.config.journal_segment,
            preallocate_step: self.config.preallocate_step.min(MAX_PREALLOCATE_STEP),
            reserve,
            software: self.config.software.clone(),
        };
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(Arc::clone(&open), config, recovered);
        let thread = std::thread::Builder::new()
            .name(format!("drive-{}", &id.to_string()[..8]))
            .spawn(move || writer.run(queue))
            .map_err(|_| DriveError::Thread { drive: id })?;
        let opened = drives.opened.entry(id).or_default();
        *opened = opened.saturating_add(1);
        let opened = *opened;
        let handle = DriveHandle {
            open,
            jobs,
            reserve,
            opened,
            hung_after: self.config.hung_after,
            reads: Arc::new(Semaphore::new(self.config.reads_per_drive.max(1))),
            space: Arc::default(),
            thread: Mutex::new(Some(thread)),
            scrub: Mutex::default(),
        };
        drives.failed.remove(&id);
        drives.open.insert(id, Arc::new(handle));
        Ok(())
    }

    /// The tally of a file system; of a drive's own where the file system is not known.
    fn tally(&self, filesystem: Option<u64>) -> Arc<Tally> {
        let Some(id) = filesystem else { return Arc::default() };
        Arc::clone(self.lock().tallies.entry(id).or_default())
    }

    /// Adds a drive while the node runs.
    pub async fn add_drive(&self, probed: ProbedDrive) -> Result<(), DriveError> {
        let identity = probed.identity;
        let _turn = match identity {
            Some(identity) => Some(self.turn(identity.drive).await),
            None => None,
        };
        let filesystem = filesystem(Arc::clone(&probed.disk)).await;
        // Its share of the reserve is what its file system does not hold yet; the other drives keep theirs.
        let known = |handle: &Arc<DriveHandle>| handle.space.get().map(|space| space.filesystem_id);
        futures::future::join_all(self.handles().iter().map(|handle| handle.ask_space())).await;
        let shared = self.handles().iter().any(|handle| filesystem.is_some() && known(handle) == filesystem);
        let reserve = if shared { 0 } else { self.config.reserve };
        self.open_one(Opening { probed, filesystem, reserve: Some(reserve) }).await?;
        match identity {
            Some(identity) => self.begin_one(identity.drive).await,
            None => Ok(()),
        }
    }

    /// Begins an open drive in the node's epoch, if the node has begun.
    async fn begin_one(&self, drive: DriveId) -> Result<(), DriveError> {
        let (handle, epoch, leader) = {
            let drives = self.lock();
            (drives.open.get(&drive).cloned(), drives.epoch, drives.leader.clone())
        };
        match (handle, epoch) {
            (Some(handle), Some(epoch)) => {
                let begun = handle.begin(epoch, leader).await;
                // The node was told a higher epoch meanwhile, and has begun this drive in it.
                let superseded = matches!(begun, Err(DriveError::Superseded { .. })) && self.lock().epoch > Some(epoch);
                if let (Err(error), false) = (&begun, superseded) {
                    handle.open.health.read_only(error.to_string());
                }
                begun
            }
            _ => Ok(()),
        }
    }

    /// Opens a drive again that has failed, or takes no writes any more, while the node runs: its directory is back, or
    /// its cable is. What it holds is scanned as at a start; a drive that is not at its path, or another one that is
    /// there, stays failed and is the error. A healthy drive is left as it is. What happened to its shards meanwhile
    /// is for an inventory to find out.
    pub async fn reopen(&self, drive: DriveId) -> Result<(), DriveError> {
        let _turn = self.turn(drive).await;
        let (disk, reserve) = {
            let drives = self.lock();
            match (drives.open.get(&drive), drives.failed.get(&drive)) {
                (Some(handle), _) if handle.is_healthy() => return Ok(()),
                (Some(handle), _) => {
                    // What hangs has its lock, and closing it would wait for nothing.
                    if let Some(waited) = handle.stalled() {
                        let reason = format!("no answer for {} s", waited.as_secs());
                        return Err(DriveError::Failed { drive, reason });
                    }
                    (handle.open.disk.again(), handle.reserve)
                }
                (None, Some(failed)) => (failed.disk.again(), failed.reserve),
                (None, None) => return Err(DriveError::Unknown { drive }),
            }
        };
        let path = disk.path_hint();
        let looked = self.look_again(drive, disk).await;
        let looked = looked.filter(|(probed, _)| probed.identity.is_none_or(|identity| identity.drive == drive));
        let not_ours = |reason: &str| DriveError::NotOurs {
            path: path.clone(),
            state: ProbedState::Damaged { reason: reason.to_owned() },
        };
        let (probed, filesystem) = looked.ok_or_else(|| not_ours("it does not answer, or another drive is there"))?;
        if probed.state != ProbedState::Ours {
            return Err(DriveError::NotOurs { path, state: probed.state });
        }
        self.close_drive(drive).await;
        self.open_one(Opening { probed, filesystem, reserve }).await?;
        let failed = self.lock().failed.get(&drive).map(|failed| failed.reason.clone());
        if let Some(reason) = failed {
            return Err(not_ours(&reason));
        }
        tracing::info!(%drive, path, "a drive was opened again");
        self.begin_one(drive).await
    }

    /// Looks at a drive's directory: what it is, and on which file system. `None`: it does not answer, or has not yet answered
    /// whoever asked it before.
    async fn look_again(&self, drive: DriveId, disk: Arc<dyn Disk>) -> Option<(ProbedDrive, Option<u64>)> {
        let at_work = self.at_work(drive, disk.path_hint())?;
        let cluster = self.config.cluster;
        let looking = tokio::task::spawn_blocking(move || {
            let filesystem = disk.space().ok().map(|space| space.filesystem_id);
            let probed = probe(disk, Some(cluster));
            drop(at_work);
            (probed, filesystem)
        });
        tokio::time::timeout(ASK_DEADLINE, looking).await.ok()?.ok()
    }

    /// Answers what is queued for a drive, ends its threads and gives its lock back; the drive then counts as failed until
    /// [`Self::reopen`]. A drive that hangs keeps its thread, and with it its lock, until it answers.
    pub async fn close_drive(&self, drive: DriveId) {
        let handle = {
            let mut drives = self.lock();
            let Some(handle) = drives.open.remove(&drive) else { return };
            let (path, disk) = (handle.open.disk.path_hint(), Arc::clone(&handle.open.disk));
            let reason = "it was closed".to_owned();
            drives.failed.insert(drive, FailedDrive { path, reason, disk, reserve: handle.reserve });
            handle
        };
        handle.end_in_time(self.config.close_deadline).await;
        // Who still reads from it is told to look elsewhere.
        handle.open.health.fail("it was closed".to_owned());
    }

    /// Closes a drive that is no drive of the cluster any more and forgets what the node's index has of it. Nothing is written
    /// to the drive, and it is no drive of this node from now on.
    pub async fn forget_drive(&self, drive: DriveId) -> Result<(), DriveError> {
        let _turn = self.turn(drive).await;
        self.close_drive(drive).await;
        self.lock().failed.remove(&drive);
        let index = ShardIndex::new(Arc::clone(&self.index), drive);
        let forgotten = tokio::task::spawn_blocking(move || index.forget_all()).await;
        Ok(forgotten.map_err(|_| DriveError::Thread { drive })??)
    }
}
