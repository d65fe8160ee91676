//! Drives that come back while the service runs: a directory that is mounted again, a cable that was put back.
//!
//! Invariants
//! * Nothing that such a drive holds counts before it was looked at again: its shards are unverified from before it is opened
//!   until the keeper has verified them, and the journal reads its entries before it counts on them.
//! * A drive that was removed is not opened, whatever its directory says.
//! * A directory that hangs costs one thread, not one for each time it is asked, and keeps nobody from the others: drives are
//!   asked and opened beside each other, and what takes longer than [`WAIT`] is taken up by a later look.

use crate::index::{self, Overlay};
use crate::service::Shared;
use codec::effect::DriveState;
use codec::id::{ClusterId, DriveId};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage_node::client::{DriveHealth, DriveStatus};
use storage_node::disk::Disk;
use storage_node::drive::{DriveError, ProbedDrive, ProbedState, probe};
use storage_node::host::NodeHost;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a directory is waited for at a time.
const ASK: Duration = Duration::from_secs(2);
/// How long a look waits for drives that are being opened.
const WAIT: Duration = Duration::from_secs(3);
/// A drive that could not be opened is tried again after this, and after twice as long each time.
const PAUSE: Duration = Duration::from_secs(3);
/// At the latest after this.
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// Looks for drives that are back.
pub struct Returning {
    shared: Arc<Shared>,
    node: Arc<dyn NodeHost>,
    cluster: ClusterId,
    /// The directories of this start: a drive that was not there then is none of the node's.
    disks: Vec<Arc<dyn Disk>>,
    asking: Mutex<BTreeMap<String, JoinHandle<ProbedDrive>>>,
    tries: Mutex<BTreeMap<DriveId, (Instant, Duration)>>,
    opening: Mutex<BTreeMap<DriveId, JoinHandle<Result<(), DriveError>>>>,
    /// One look at a time.
    turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Returning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Returning").field("disks", &self.disks).finish_non_exhaustive()
    }
}

impl Returning {
    pub(crate) fn new(
        shared: Arc<Shared>,
        node: Arc<dyn NodeHost>,
        cluster: ClusterId,
        disks: Vec<Arc<dyn Disk>>,
    ) -> Returning {
        let (asking, tries, opening, turn) = Default::default();
        Returning { shared, node, cluster, disks, asking, tries, opening, turn }
    }

    /// Opens the drives that are back; how many have been opened.
    pub async fn look(&self) -> usize {
        let _turn = self.turn.lock().await;
        let drives = self.node.drives().await;
        for drive in drives.iter().filter(|drive| matches!(drive.health, DriveHealth::Failed { .. })) {
            if self.is_member(drive.id) && self.is_due(drive.id) {
                let (node, id) = (self.node.clone(), drive.id);
                self.open(id, drive.opened.saturating_add(1), async move { node.reopen(id).await });
            }
        }
        let opening: Vec<DriveId> = self.opening().keys().copied().collect();
        let as_before = |drive: &&DriveStatus| drive.health == DriveHealth::Healthy && !opening.contains(&drive.id);
        drives.iter().filter(as_before).for_each(|drive| self.shared.undoubt(drive.id, drive.opened));
        let unknown = self.disks.iter().filter(|disk| !drives.iter().any(|drive| drive.path == disk.path_hint()));
        for probed in join_all(unknown.map(|disk| self.ask(disk))).await.into_iter().flatten() {
            if let Some(drive) = self.wanted(&probed, &drives).filter(|drive| self.is_due(*drive)) {
                let node = self.node.clone();
                self.open(drive, 1, async move { node.add_drive(probed).await });
            }
        }
        self.opened().await
    }

    /// Nothing more is opened.
    pub fn stop(&self) {
        self.opening().values().for_each(JoinHandle::abort);
    }

    /// Begins to open a drive for the `opened`th time. What it holds is not known to be good from now on.
    fn open(&self, drive: DriveId, opened: u32, open: impl Future<Output = Result<(), DriveError>> + Send + 'static) {
        self.shared.doubt(drive, opened);
        self.opening().insert(drive, tokio::spawn(open));
    }

    /// Takes up what came of the openings that have ended, or end soon; how many drives are open.
    async fn opened(&self) -> usize {
        let until = Instant::now() + WAIT;
        let mut back = 0;
        let drives: Vec<DriveId> = self.opening().keys().copied().collect();
        for drive in drives {
            let opening = self.opening().remove(&drive);
            let Some(mut opening) = opening else { continue };
            match timeout_at(until, &mut opening).await {
                Ok(Ok(opened)) => back += self.note(drive, opened.map_err(|error| error.to_string())),
                Ok(Err(stopped)) => back += self.note(drive, Err(stopped.to_string())),
                Err(_) => drop(self.opening().insert(drive, opening)),
            }
        }
        back
    }

    fn opening(&self) -> std::sync::MutexGuard<'_, BTreeMap<DriveId, JoinHandle<Result<(), DriveError>>>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registered, and not removed.
    fn is_member(&self, drive: DriveId) -> bool {
        let row = index::drive(&Overlay::new(&*self.shared.kv), drive);
        row.is_ok_and(|row| row.is_some_and(|row| row.state != DriveState::Removed as i32))
    }

    /// A drive of ours that the node does not have.
    fn wanted(&self, probed: &ProbedDrive, drives: &[DriveStatus]) -> Option<DriveId> {
        let identity = probed.identity.filter(|_| probed.state == ProbedState::Ours)?;
        let unknown = !drives.iter().any(|drive| drive.id == identity.drive);
        (unknown && self.is_member(identity.drive)).then_some(identity.drive)
    }

    async fn ask(&self, disk: &Arc<dyn Disk>) -> Option<ProbedDrive> {
        let path = disk.path_hint();
        let asked = self.asking().remove(&path);
        let mut asking = asked.unwrap_or_else(|| {
            let (disk, cluster) = (disk.again(), self.cluster);
            tokio::task::spawn_blocking(move || probe(disk, Some(cluster)))
        });
        match timeout(ASK, &mut asking).await {
            Ok(probed) => probed.ok(),
            Err(_) => {
                self.asking().insert(path, asking);
                None
            }
        }
    }

    fn asking(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, JoinHandle<ProbedDrive>>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_due(&self, drive: DriveId) -> bool {
        let tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        tries.get(&drive).is_none_or(|(due, _)| *due <= Instant::now()) && !self.opening().contains_key(&drive)
    }

    fn note(&self, drive: DriveId, opened: Result<(), String>) -> usize {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, reason) = (opened.is_ok(), opened.err().unwrap_or_default());
        match done {
            true => tracing::info!(%drive, "a drive is back; what it holds is verified before it counts"),
            false => tracing::debug!(%drive, reason, "a drive is not back"),
        }
        // Also after a success: one that fails again at once is not opened for ever as fast as it fails.
        let pause = match tries.get(&drive) {
            Some((due, pause)) if due.elapsed() < PAUSE_MOST => (2 * *pause).min(PAUSE_MOST),
            _ => PAUSE,
        };
        let pause = if done { pause } else { pause.min(4 * PAUSE) };
        tries.insert(drive, (Instant::now() + pause, pause));
        usize::from(done)
    }
}
