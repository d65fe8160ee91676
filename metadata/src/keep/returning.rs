//! Drives that come back while the service runs: a directory that is mounted again, a cable that was put back.
//!
//! Invariants
//! * Nothing that such a drive holds counts before it was looked at again: its shards are unverified from before it is opened
//!   until the keeper has verified them, and the journal reads its entries before it counts on them.
//! * A drive that was removed is not opened, whatever its directory says.
//! * A directory that hangs costs one thread, not one for each time it is asked.

use crate::index::{self, Overlay};
use crate::service::Shared;
use codec::effect::DriveState;
use codec::id::{ClusterId, DriveId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage_node::client::{DriveHealth, DriveStatus, NodeClient};
use storage_node::disk::Disk;
use storage_node::drive::{ProbedDrive, ProbedState, probe};
use storage_node::node::StorageNode;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// How long a directory is waited for at a time.
const ASK: Duration = Duration::from_secs(2);
/// A drive that could not be opened is tried again after this, and after twice as long each time.
const PAUSE: Duration = Duration::from_secs(3);
/// At the latest after this.
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// Looks for drives that are back.
pub struct Returning {
    shared: Arc<Shared>,
    node: Arc<StorageNode>,
    cluster: ClusterId,
    /// The directories of this start: a drive that was not there then is none of the node's.
    disks: Vec<Arc<dyn Disk>>,
    asking: Mutex<BTreeMap<String, JoinHandle<ProbedDrive>>>,
    tries: Mutex<BTreeMap<DriveId, (Instant, Duration)>>,
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
        node: Arc<StorageNode>,
        cluster: ClusterId,
        disks: Vec<Arc<dyn Disk>>,
    ) -> Returning {
        let (asking, tries, turn) = Default::default();
        Returning { shared, node, cluster, disks, asking, tries, turn }
    }

    /// Opens the drives that are back; how many they are.
    pub async fn look(&self) -> usize {
        let _turn = self.turn.lock().await;
        let drives = self.node.drives().await;
        let mut back = 0;
        for drive in drives.iter().filter(|drive| matches!(drive.health, DriveHealth::Failed { .. })) {
            if self.is_member(drive.id) && self.is_due(drive.id) {
                self.shared.doubt(drive.id, drive.opened.saturating_add(1));
                let opened = self.node.reopen(drive.id).await;
                back += self.note(drive.id, opened.map_err(|error| error.to_string()));
            }
        }
        for disk in self.disks.iter().filter(|disk| !drives.iter().any(|drive| drive.path == disk.path_hint())) {
            if let Some(probed) = self.ask(disk).await
                && let Some(drive) = self.wanted(&probed, &drives)
                && self.is_due(drive)
            {
                self.shared.doubt(drive, 1);
                let opened = self.node.add_drive(probed).await;
                back += self.note(drive, opened.map_err(|error| error.to_string()));
            }
        }
        back
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
        tries.get(&drive).is_none_or(|(due, _)| *due <= Instant::now())
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
