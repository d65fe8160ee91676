//! The metadata service: what a start leaves behind, as gateways and operators see it.
//!
//! Reads go to the index directly; every change goes through the one committer ([`crate::commit`]). Three background tasks
//! look after drives, sealing and the retention clock; none of them is needed for an acknowledgement to be true.

use crate::client::{CommitError, DriveLine};
use crate::commit::Request;
use crate::epochs::{EpochError, Epochs};
use crate::iam::lately::SignedLately;
use crate::index::{self, Overlay};
use crate::journal::Held;
use crate::keep::Keeper;
use crate::keep::lifecycle::Lifecycle;
use crate::keep::reclaim::Reclaimer;
use crate::keep::returning::Returning;
use crate::keys::{Domain, Keys};
use crate::kms::{Destroying, KeyStore, LocalKeys};
use crate::lookup::Wounds;
use crate::seal::{CheckpointReport, SealError, SealReport, Sealer};
use crate::stripe_writer::StripeWriter;
use crate::topology;
use codec::effect::{DriveRow, DriveState};
use codec::erasure::Geometry;
use codec::id::{DomainId, DriveId, Epoch, Lsn};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use storage_node::client::{DriveHealth, DriveStatus, Reserve, STALLED_AFTER};
use storage_node::host::NodeHost;
use storage_node::kv::{Kv, KvStats};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

mod accounts;
mod drives;
mod gateways;
mod iam;
mod keys;
mod kms;
mod nodes;
mod quota;
mod rule;
mod shared;
mod telling;
mod upgrade;
mod webhooks;

pub use accounts::AccountError;
pub use drives::{DriveChangeError, DriveDetail, DriveUse};
pub use keys::KeysStatus;
pub use kms::KmsChangeError;
pub use nodes::{NodeAdded, NodeChangeError, NodeDetail};
pub use quota::{Holding, QuotaError};
pub use rule::RuleError;
pub use shared::{Alarm, Shared, SharedParts};
pub use upgrade::NodeRelease;
pub use webhooks::WebhookError;

/// The writing half of a service that serves writes.
pub struct Writing {
    /// The committer's queue.
    pub requests: mpsc::Sender<Request>,
    /// Stripes.
    pub stripes: Arc<StripeWriter>,
    /// Sealing.
    pub sealer: Arc<Sealer>,
    /// Keeping.
    pub keeper: Arc<Keeper>,
    /// Giving space back.
    pub reclaimer: Arc<Reclaimer>,
    /// Following the rules of buckets.
    pub lifecycle: Arc<Lifecycle>,
    /// Destroying keys of the key store.
    pub destroying: Arc<Destroying>,
    /// Drives that are back.
    pub returning: Arc<Returning>,
    /// Renewing the epoch.
    pub epochs: Arc<Epochs>,
}

/// The metadata service.
pub struct Metadata {
    shared: Arc<Shared>,
    node: Arc<dyn NodeHost>,
    keys: Keys,
    kms: Arc<dyn KeyStore>,
    /// Who has signed lately.
    lately: SignedLately,
    geometry: Geometry,
    /// That of the last start whose entries are here, while only reads are served.
    epoch: Epoch,
    writing: Option<Writing>,
    domains: RwLock<HashMap<DomainId, Arc<Domain>>>,
    /// One change of the set of drives at a time.
    changes: tokio::sync::Mutex<()>,
    counted: tokio::sync::Mutex<drives::LastCount>,
    /// Those that there are, once somebody has said so.
    webhooks: OnceLock<BTreeSet<String>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata").field("epoch", &self.epoch).field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Metadata {
    /// Puts a service together; [`crate::start`] does.
    pub(crate) fn new(
        shared: Arc<Shared>,
        node: Arc<dyn NodeHost>,
        keys: Keys,
        geometry: Geometry,
        epoch: Epoch,
        writing: Option<Writing>,
        tasks: Vec<JoinHandle<()>>,
    ) -> Metadata {
        let (domains, changes, counted, lately) = Default::default();
        let tasks = Mutex::new(tasks);
        let kms: Arc<dyn KeyStore> = Arc::new(LocalKeys::new(keys.clone(), shared.kv.clone()));
        shared.set_full(usize::from(geometry.k()) + usize::from(geometry.m()));
        let webhooks = OnceLock::new();
        Metadata {
            shared,
            node,
            keys,
            kms,
            lately,
            geometry,
            epoch,
            writing,
            domains,
            changes,
            counted,
            webhooks,
            tasks,
        }
    }

    /// Commits what is queued, ends the tasks, makes the index durable and releases the drives. Requests that come later are
    /// answered Unavailable.
    pub async fn shutdown(&self) {
        if let Some(writing) = &self.writing {
            writing.returning.stop();
            // A committer that has ended needs no telling.
            let _ = writing.requests.send(Request::Stop).await;
        }
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let mut tasks = tasks.into_iter();
        // The first task is the committer, which ends by itself, only where there is one: the others never do.
        if self.writing.is_some()
            && let Some(committer) = tasks.next()
        {
            let _ = committer.await;
        }
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        if let Err(error) = self.shared.kv.flush() {
            tracing::warn!(%error, "the index was not flushed; the next start catches it up");
        }
        self.node.stop().await;
    }

    /// Tells the tasks to end at once; [`Self::ended`] waits for it. The drives are left as they are, and whoever waits for an answer
    /// gets none that says yes: this node leads no more, and another one serves.
    pub(crate) fn abandon(&self) {
        self.shared.set_read_only("this metadata node does not lead any more".to_owned());
        if let Some(writing) = &self.writing {
            writing.returning.stop();
        }
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(JoinHandle::abort);
    }

    /// Waits until the tasks of a service that was abandoned are gone. One that is in the midst of something ends only after that,
    /// and an order that it gives then would go out under the epoch of the service that comes next, which has the same drives.
    pub(crate) async fn ended(&self) {
        self.abandon();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // However it ends.
            let _ = task.await;
        }
    }

    /// Whether it could serve writes again by itself, if it does not now.
    pub(crate) fn may_write(&self) -> bool {
        self.writing.as_ref().is_some_and(|writing| !writing.requests.is_closed())
    }

    /// Whether it began to write, and only another start can go on: its journal has stopped for a reason that no drive can end,
    /// or its committer is gone.
    pub(crate) fn has_failed(&self) -> bool {
        self.is_writer() && (self.shared.is_for_good() || !self.may_write())
    }

    /// Whether it began to write.
    pub(crate) fn is_writer(&self) -> bool {
        self.writing.is_some()
    }

    /// Writes a checkpoint of the index now; `None` when nothing has changed since the last one.
    pub async fn checkpoint_now(&self) -> Result<Option<CheckpointReport>, SealError> {
        match &self.writing {
            Some(writing) => writing.sealer.checkpoint().await,
            None => Err(SealError::ReadOnly(self.shared.read_only().unwrap_or_default())),
        }
    }

    /// Closes the open journal segments and seals everything committed so far.
    pub async fn seal_now(&self) -> Result<SealReport, SealError> {
        match &self.writing {
            Some(writing) => writing.sealer.seal_now().await,
            None => Err(SealError::ReadOnly(self.shared.read_only().unwrap_or_default())),
        }
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes a new epoch now, as is done every hour; stripes are numbered in it from now on.
    ///
    /// # Errors
    /// Writes are not served, or the new epoch was not committed. The old one goes on.
    pub async fn renew_epoch(&self) -> Result<Epoch, EpochError> {
        self.writing().map_err(EpochError::Commit)?.epochs.renew().await
    }

    /// Looks at the drives now: what the periodic checks do.
    pub async fn check_drives(&self) {
        if let Some(writing) = &self.writing
            && writing.returning.look().await > 0
        {
            writing.reclaimer.look_at_returned().await;
            writing.keeper.wake();
        }
        let drives = self.shared.node.drives().await;
        self.shared.set_drives(drives.clone());
        if let Some(writing) = &self.writing {
            let _ = writing.requests.send(Request::Check(drives)).await;
        }
    }

    /// What keeps the store whole; `None` for a service that only reads.
    pub fn keeper(&self) -> Option<&Arc<Keeper>> {
        self.writing.as_ref().map(|writing| &writing.keeper)
    }

    /// What gives space back; `None` while only reads are served.
    pub fn reclaimer(&self) -> Option<&Arc<Reclaimer>> {
        self.writing.as_ref().map(|writing| &writing.reclaimer)
    }

    /// What follows the rules of buckets; `None` while only reads are served.
    pub fn lifecycle(&self) -> Option<&Arc<Lifecycle>> {
        self.writing.as_ref().map(|writing| &writing.lifecycle)
    }

    /// The node, for status and tests.
    pub fn node(&self) -> &Arc<dyn NodeHost> {
        &self.node
    }

    /// What keeping knows to be wrong on drives that answer.
    pub(crate) fn wounds(&self) -> Arc<Wounds> {
        self.shared.wounds()
    }

    /// Where a journal entry lies; `None` when it is not in the journal (any more).
    pub(crate) fn journal_entry(&self, lsn: Lsn) -> Option<Held> {
        self.shared.map.get(lsn)
    }

    /// The index, for status and tests.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.shared.kv
    }

    /// The epoch of the last entry that this service has journaled; `None` where it does not know of one.
    pub fn last_entry_epoch(&self) -> Option<Epoch> {
        let applied = self.shared.volatile().applied;
        self.shared.map.get(applied).map(|held| held.epoch)
    }

    /// The keys, for `stele key export`.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Sizes of the index.
    pub fn index_stats(&self) -> KvStats {
        self.shared.kv.stats()
    }

    fn view(&self) -> Overlay<'_> {
        Overlay::new(&*self.shared.kv)
    }

    fn writing(&self) -> Result<&Writing, CommitError> {
        if let Some(reason) = self.shared.read_only() {
            return Err(CommitError::ReadOnly { reason });
        }
        self.writing.as_ref().ok_or_else(|| CommitError::ReadOnly { reason: "the service is read-only".to_owned() })
    }

    /// What may be lost at once of the drives that were there a moment ago.
    fn survives(&self, journal: &[DriveId]) -> String {
        let topology = self.shared.cached_topology(Reserve::Client).ok();
        let survives = topology.and_then(|topology| self.shared.sampled.survives(&topology, self.geometry, journal));
        survives.map_or_else(String::new, |survives| survives.to_string())
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.shared.volatile().alarms.values().cloned().collect();
        if let Ok(topology) = self.shared.cached_topology(Reserve::Client) {
            let found = self.shared.sampled.warnings(&topology, self.geometry);
            warnings.extend(found.iter().map(ToString::to_string));
            let crowded = self.keeper().map_or([0; 3], |keeper| keeper.status().crowded);
            warnings.extend(topology::older_stripes(&found, crowded).map(|warning| warning.to_string()));
        }
        let drives = self.shared.volatile().drives.clone();
        let failed = |status: &DriveStatus| matches!(status.health, DriveHealth::Failed { .. });
        // Of a drive that has failed there is more to say than that it is slow.
        let is_failed = |drive| drives.iter().any(|status| status.id == drive && failed(status));
        for (drive, slow) in self.shared.slow().slow().iter().filter(|(drive, _)| !is_failed(**drive)) {
            let spared = if slow.spared { "it gets no new shards" } else { "it can't be spared" };
            let (p99, median) = (slow.p99_ms, slow.median_ms);
            warnings
                .push(format!("drive {drive} is slow: its p99 is {p99} ms, that of the others {median} ms; {spared}"));
        }
        for status in drives.iter().filter(|status| status.waits(STALLED_AFTER) && !failed(status)) {
            let (drive, waits) = (status.id, status.unanswered_ms / 1000);
            warnings.push(format!(
                "drive {drive} has not answered for {waits} s; it gets no new shards while others will do"
            ));
        }
        warnings.extend(topology::shared_file_systems(&drives).map(|warning| warning.to_string()));
        warnings
    }

    fn drive_lines(&self, drives: &[DriveStatus]) -> Vec<DriveLine> {
        drive_lines(&index::drives(&self.view()).unwrap_or_default(), drives)
    }
}

/// Registered drives, where their nodes say this of them.
pub(crate) fn drive_lines(rows: &[DriveRow], drives: &[DriveStatus]) -> Vec<DriveLine> {
    let line = |row: &DriveRow| {
        let id = DriveId::from_slice(&row.id)?;
        let status = drives.iter().find(|status| status.id == id);
        let state = match status.map(|status| &status.health) {
            _ if row.state == DriveState::Removed as i32 => "removed",
            None => "absent",
            Some(DriveHealth::Healthy) if row.state == DriveState::Draining as i32 => "draining",
            Some(DriveHealth::Healthy) => "healthy",
            Some(DriveHealth::ReadOnly { .. }) => "read-only",
            Some(DriveHealth::Failed { .. }) => "failed",
        };
        let path = status.map_or_else(|| row.path.clone(), |status| status.path.clone());
        let (total, free) = status.map_or((0, 0), |status| (status.total, status.free));
        let filesystem_id = status.map_or(0, |status| status.filesystem_id);
        Some(DriveLine { id, path, state, total, free, filesystem_id })
    };
    rows.iter().filter_map(line).collect()
}
