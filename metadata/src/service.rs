//! The metadata service: what a start leaves behind, as gateways and operators see it.
//!
//! Reads go to the index directly; every change goes through the one committer ([`crate::commit`]). Three background tasks
//! look after drives, sealing and the retention clock; none of them is needed for an acknowledgement to be true.

use crate::client::{
    CommitError, DriveLine, FrameReadError, LookupError, MetadataClient, Mode, Status, StripeFrame, StripeShape,
};
use crate::clock::Clock;
use crate::command::{Command, NewChunk, NewFrame, Outcome};
use crate::commit::Request;
use crate::fail_slow::{FailSlow, Sample};
use crate::index::{self, IndexError, Overlay};
use crate::journal::{Held, JournalMap, JournalReadError};
use crate::keep::Keeper;
use crate::keep::claims::Claims;
use crate::keep::reclaim::Reclaimer;
use crate::keep::returning::Returning;
use crate::keys::{Account, Domain, KeyError, Keys};
use crate::listing::{
    self, ListPage, ListRequest, PartsPage, PartsRequest, UploadsPage, UploadsRequest, VersionsPage, VersionsRequest,
};
use crate::lookup::{self, Hit, Located, Losses, Wounds};
use crate::seal::{CheckpointReport, SealError, SealReport, Sealer};
use crate::stripe_writer::{StoreError, Stored, StripeWriter};
use crate::topology::{self, Topology};
use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::{AccountRow, BucketRow, DomainRow, DriveState, PartRow, UploadName, UploadRow, VersionRow};
use codec::erasure::Geometry;
use codec::frame::verify_stored;
use codec::id::{BucketId, ChunkId, DomainId, DriveId, Epoch, Lsn};
use codec::register::Register;
use codec::stripe::{FramePlace, StripeClass};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use storage_node::client::{DriveHealth, DriveStatus, NodeClient, Reserve};
use storage_node::kv::{Kv, KvStats};
use storage_node::node::StorageNode;
use storage_node::sabotage::{Sabotage, SabotageSet};
use storage_node::stripe_io::{ReadOptions, StripeWriteError, read_frame};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

mod drives;

pub use drives::{DriveChangeError, DriveDetail, DriveUse};

/// So many rows are looked up where they are asked for: at some 5 microseconds each that is shorter than the way to another
/// thread and back is worth.
const FEW_ROWS: usize = 32;

/// What the service's parts share.
pub struct Shared {
    /// The drives.
    pub node: Arc<dyn NodeClient>,
    /// The index.
    pub kv: Arc<dyn Kv>,
    /// Where unsealed entries lie.
    pub map: Arc<JournalMap>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Safety steps that a test takes away.
    pub sabotage: SabotageSet,
    /// The longest entry that a journal segment can take.
    pub max_entry: usize,
    /// Held by whoever reads a frame from the journal; sealing waits for them before it frees segments.
    pub readers: tokio::sync::RwLock<()>,
    /// Wakes the sealing task.
    pub wake_sealer: Notify,
    /// A deleted bucket left uploads behind.
    pub wake_sweeper: Notify,
    /// What the entries that are not sealed count for, in bytes ([`JournalMap::weight_upto`]).
    pub unsealed: AtomicU64,
    /// Batches committed since the start; only grows.
    pub batches: AtomicU64,
    /// Stripes whose shards are being moved or collected.
    pub claims: Claims,
    volatile: RwLock<Volatile>,
}

/// Something that lasts until somebody does something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// What would let writes be served again.
    ReadOnly,
    /// An entry that can't be sealed, and with it all that follow.
    Seal,
    /// Manifest chunks that can't be read, so that a dedup domain gives no space back.
    Manifests,
    /// A drive that frees nothing.
    Frees,
}

/// What changes while the service runs. Nothing of it is needed after a restart.
#[derive(Debug, Default)]
struct Volatile {
    read_only: Option<String>,
    alarms: BTreeMap<Alarm, String>,
    register: Option<Register>,
    losses: Losses,
    drives: Vec<DriveStatus>,
    slow: FailSlow,
    /// Drives that are being opened again, and how often they will have been: not verified, whoever looked before.
    doubted: BTreeMap<DriveId, u32>,
    applied: Lsn,
    sealed: Lsn,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("volatile", &self.volatile).finish_non_exhaustive()
    }
}

/// What [`Shared::new`] takes.
pub struct SharedParts {
    /// The drives.
    pub node: Arc<dyn NodeClient>,
    /// The index.
    pub kv: Arc<dyn Kv>,
    /// Where unsealed entries lie.
    pub map: Arc<JournalMap>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Safety steps that a test takes away.
    pub sabotage: SabotageSet,
    /// The longest entry that a journal segment can take.
    pub max_entry: usize,
}

impl Shared {
    /// Shared state before anything was committed.
    pub fn new(parts: SharedParts, applied: Lsn, sealed: Lsn) -> Shared {
        let unsealed = parts.map.weight_upto(Lsn(u64::MAX));
        Shared {
            node: parts.node,
            kv: parts.kv,
            map: parts.map,
            clock: parts.clock,
            sabotage: parts.sabotage,
            max_entry: parts.max_entry,
            readers: tokio::sync::RwLock::new(()),
            wake_sealer: Notify::new(),
            wake_sweeper: Notify::new(),
            unsealed: AtomicU64::new(unsealed),
            batches: AtomicU64::new(0),
            claims: Claims::default(),
            volatile: RwLock::new(Volatile { applied, sealed, ..Volatile::default() }),
        }
    }

    fn volatile(&self) -> RwLockReadGuard<'_, Volatile> {
        self.volatile.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn volatile_mut(&self) -> RwLockWriteGuard<'_, Volatile> {
        self.volatile.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes are not served from now on. The first reason stays: the others follow from it.
    pub fn set_read_only(&self, reason: String) {
        self.volatile_mut().read_only.get_or_insert(reason);
    }

    /// Writes are served again.
    pub fn set_writable(&self) {
        self.volatile_mut().read_only = None;
    }

    /// Raises an alarm, in words, or ends it: the first thing among [`Status::warnings`].
    pub fn set_alarm(&self, alarm: Alarm, words: Option<String>) {
        let mut volatile = self.volatile_mut();
        match words {
            Some(words) => volatile.alarms.insert(alarm, words),
            None => volatile.alarms.remove(&alarm),
        };
    }

    /// Why writes are not served, if they are not.
    pub fn read_only(&self) -> Option<String> {
        self.volatile().read_only.clone()
    }

    /// The ensemble as it is now.
    pub fn set_register(&self, register: Register) {
        self.volatile_mut().register = Some(register);
    }

    /// What can't be read at present. What keeping knows to be wrong stays ([`Shared::set_wounds`]).
    pub fn set_losses(&self, losses: Losses) {
        let mut volatile = self.volatile_mut();
        volatile.losses = Losses { wounds: volatile.losses.wounds.clone(), ..losses };
    }

    /// What is wrong on drives that answer: refused as dedup hits from now on.
    pub fn set_wounds(&self, wounds: Wounds) {
        self.volatile_mut().losses.wounds = Arc::new(wounds);
    }

    /// What is known to be wrong on drives that answer.
    pub fn wounds(&self) -> Arc<Wounds> {
        self.volatile().losses.wounds.clone()
    }

    /// A drive is about to be opened for the `opened`th time: what it holds is not known to be good from now on.
    pub fn doubt(&self, drive: DriveId, opened: u32) {
        let mut volatile = self.volatile_mut();
        volatile.doubted.insert(drive, opened);
        let mut wounds = Wounds::clone(&volatile.losses.wounds);
        wounds.unverified.insert(drive, None);
        volatile.losses.wounds = Arc::new(wounds);
    }

    /// The doubted drives for which `is_new` says that nobody has looked at them since; the others are forgotten.
    pub fn doubted(&self, is_new: impl Fn(DriveId, u32) -> bool) -> Vec<DriveId> {
        let mut volatile = self.volatile_mut();
        volatile.doubted.retain(|drive, opened| is_new(*drive, *opened));
        volatile.doubted.keys().copied().collect()
    }

    /// Drives that take far longer than the others.
    pub fn slow(&self) -> FailSlow {
        self.volatile().slow.clone()
    }

    /// Looks how fast the drives are. `full`: drives that a full stripe needs.
    pub fn look_for_slow(&self, drives: &[DriveStatus], full: usize) -> Result<(), IndexError> {
        let topology = Topology::new(&index::drives(&Overlay::new(&*self.kv))?, drives);
        let usable = |id: DriveId| topology.usable().any(|drive| drive.id == id);
        let sample = |d: &DriveStatus| Sample { drive: d.id, p99_ms: d.p99_ms, usable: usable(d.id) };
        let samples: Vec<Sample> = drives.iter().map(sample).collect();
        let now_ms = self.clock.monotonic_ms();
        self.volatile_mut().slow.look(&samples, full, now_ms);
        Ok(())
    }

    /// What can't be read at present, and what keeping knows to be wrong.
    pub fn losses(&self) -> Losses {
        self.volatile().losses.clone()
    }

    /// How the drives were when they were last looked at.
    pub fn set_drives(&self, drives: Vec<DriveStatus>) {
        self.volatile_mut().drives = drives;
    }

    /// A batch is durable and applied.
    pub fn committed(&self, last: Lsn, bytes: u64) {
        self.volatile_mut().applied = last;
        self.unsealed.fetch_add(bytes, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.wake_sealer.notify_one();
    }

    /// Everything up to `last` is sealed, and the map has forgotten it.
    pub fn sealed(&self, last: Lsn) {
        self.volatile_mut().sealed = last;
        self.unsealed.store(self.map.weight_upto(Lsn(u64::MAX)), Ordering::Relaxed);
    }

    /// Reads a frame where `chunk` says that it is.
    pub(crate) async fn read_at(&self, chunk: &Located) -> Result<Bytes, String> {
        let place = &chunk.place;
        if let Some(layout) = &chunk.stripe {
            let at = FramePlace { shard: u8::try_from(place.shard).map_err(|e| e.to_string())?, offset: place.offset };
            let read = read_frame(&*self.node, layout, at, place.len, ReadOptions::default()).await;
            return read.map_err(|error| error.to_string());
        }
        let lsn = place.lsn().ok_or("a place that is neither in a stripe nor in the journal")?;
        let end = place.offset.checked_add(place.len).ok_or("a place beyond its entry")?;
        let _reading = self.readers.read().await;
        let good = |bytes: Bytes| verify_stored(&bytes).is_ok_and(|header| header.id == chunk.id).then_some(bytes);
        let read = self.map.read_checked(&*self.node, lsn, place.offset..end, good).await;
        read.map_err(|error: JournalReadError| error.to_string())
    }

    /// The drives as placement sees them, asked now. For others than clients the reserve counts as free.
    pub async fn topology(&self, reserve: Reserve) -> Result<Topology, IndexError> {
        let drives = self.node.drives().await;
        self.set_drives(drives.clone());
        self.topology_of(drives, reserve)
    }

    fn topology_of(&self, mut drives: Vec<DriveStatus>, reserve: Reserve) -> Result<Topology, IndexError> {
        if reserve != Reserve::Client {
            for drive in &mut drives {
                drive.free = drive.free.saturating_add(drive.reserve);
            }
        }
        let spared = self.volatile().slow.spared();
        Ok(Topology::new(&index::drives(&Overlay::new(&*self.kv))?, &drives).without(&spared))
    }

    fn cached_topology(&self, reserve: Reserve) -> Result<Topology, IndexError> {
        let drives = self.volatile().drives.clone();
        self.topology_of(drives, reserve)
    }
}

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
    /// Drives that are back.
    pub returning: Arc<Returning>,
}

/// The metadata service.
pub struct Metadata {
    shared: Arc<Shared>,
    node: Arc<StorageNode>,
    keys: Keys,
    geometry: Geometry,
    epoch: Epoch,
    writing: Option<Writing>,
    domains: RwLock<HashMap<DomainId, Arc<Domain>>>,
    /// One change of the set of drives at a time.
    changes: tokio::sync::Mutex<()>,
    counted: tokio::sync::Mutex<drives::LastCount>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata").field("epoch", &self.epoch).field("shared", &self.shared).finish_non_exhaustive()
    }
}

fn lookup_error(error: IndexError) -> LookupError {
    match error {
        IndexError::Store(error) => LookupError::Unavailable { reason: error.to_string() },
        error @ IndexError::Damaged { .. } => LookupError::Damaged { reason: error.to_string() },
    }
}

fn unavailable(error: impl fmt::Display) -> CommitError {
    CommitError::Unavailable { reason: error.to_string() }
}

fn key_error(error: KeyError) -> LookupError {
    LookupError::Damaged { reason: error.to_string() }
}

fn store_error(error: StoreError) -> CommitError {
    match error {
        StoreError::Full => CommitError::Full,
        StoreError::TooFewDrives { .. } => CommitError::ReadOnly { reason: error.to_string() },
        error => unavailable(error),
    }
}

impl Metadata {
    /// Puts a service together; [`crate::start`] does.
    pub(crate) fn new(
        shared: Arc<Shared>,
        node: Arc<StorageNode>,
        keys: Keys,
        geometry: Geometry,
        epoch: Epoch,
        writing: Option<Writing>,
        tasks: Vec<JoinHandle<()>>,
    ) -> Metadata {
        let (domains, changes, counted) = Default::default();
        let tasks = Mutex::new(tasks);
        Metadata { shared, node, keys, geometry, epoch, writing, domains, changes, counted, tasks }
    }

    /// Commits what is queued, ends the tasks, makes the index durable and releases the drives. Requests that come later are
    /// answered Unavailable.
    pub async fn shutdown(&self) {
        if let Some(writing) = &self.writing {
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

    /// Looks at the drives now: what the periodic checks do.
    pub async fn check_drives(&self) {
        if let Some(writing) = &self.writing
            && writing.returning.look().await > 0
        {
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

    /// The node, for status and tests.
    pub fn node(&self) -> &Arc<StorageNode> {
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

    /// Reads what may take many rows, and so many waits for the drive below the index, on a thread that may wait: on one of the
    /// runtime's it would hold up every request that is served there.
    async fn apart<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Kv) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, LookupError> {
        let kv = self.shared.kv.clone();
        let reading = tokio::task::spawn_blocking(move || read(&*kv));
        match reading.await {
            Ok(result) => result.map_err(lookup_error),
            Err(error) => Err(LookupError::Unavailable { reason: error.to_string() }),
        }
    }

    fn writing(&self) -> Result<&Writing, CommitError> {
        if let Some(reason) = self.shared.read_only() {
            return Err(CommitError::ReadOnly { reason });
        }
        self.writing.as_ref().ok_or_else(|| CommitError::ReadOnly { reason: "the service is read-only".to_owned() })
    }

    fn cached_domain(&self, row: &DomainRow) -> Result<Arc<Domain>, LookupError> {
        let id = DomainId(row.id);
        if let Some(domain) = self.domains.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(domain.clone());
        }
        let domain = Arc::new(self.keys.unwrap_domain(row).map_err(key_error)?);
        self.domains.write().unwrap_or_else(PoisonError::into_inner).insert(id, domain.clone());
        Ok(domain)
    }

    /// Makes the chunks of a stored stripe known.
    async fn commit_stripe(&self, writer: Epoch, stored: Stored, frames: Vec<StripeFrame>) -> Result<(), CommitError> {
        let chunk = |(frame, place): (StripeFrame, &codec::effect::Place)| NewChunk {
            id: frame.id,
            domain: frame.domain,
            plain_len: frame.plain_len,
            frame: NewFrame::InStripe {
                shard: u8::try_from(place.shard).unwrap_or(u8::MAX),
                offset: place.offset,
                len: place.len,
            },
            is_manifest: frame.is_manifest,
            children: frame.children,
        };
        let chunks = frames.into_iter().zip(&stored.places).map(chunk).collect();
        self.commit(writer, Command::CommitStripe { stripe: stored.row, chunks }).await.map(drop)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.shared.volatile().alarms.values().cloned().collect();
        if let Ok(topology) = self.shared.cached_topology(Reserve::Client) {
            warnings.extend(topology.warnings(self.geometry).iter().map(ToString::to_string));
        }
        for (drive, slow) in self.shared.slow().slow() {
            let spared = if slow.spared { "it gets no new shards" } else { "it can't be spared" };
            let (p99, median) = (slow.p99_ms, slow.median_ms);
            warnings
                .push(format!("drive {drive} is slow: its p99 is {p99} ms, that of the others {median} ms; {spared}"));
        }
        let drives = self.shared.volatile().drives.clone();
        warnings.extend(topology::shared_file_systems(&drives).map(|warning| warning.to_string()));
        warnings
    }

    fn drive_lines(&self, drives: &[DriveStatus]) -> Vec<DriveLine> {
        let rows = index::drives(&self.view()).unwrap_or_default();
        let line = |row: &codec::effect::DriveRow| {
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
}

#[async_trait]
impl MetadataClient for Metadata {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    async fn commit(&self, writer: Epoch, command: Command) -> Result<Outcome, CommitError> {
        let writing = self.writing()?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit(writer, Box::new(command), reply);
        writing.requests.send(request).await.map_err(|_| unavailable("the service is stopping"))?;
        let outcome = answer.await.map_err(|_| unavailable("the service is stopping"))??;
        if outcome == (Outcome::BucketDeleted { uploads_left: true }) {
            self.shared.wake_sweeper.notify_one();
        }
        Ok(outcome)
    }

    async fn bucket(&self, name: &str) -> Result<Option<BucketRow>, LookupError> {
        index::bucket(&self.view(), name).map_err(lookup_error)
    }

    async fn buckets(&self, owner: &str) -> Result<Vec<BucketRow>, LookupError> {
        let owner = owner.to_owned();
        self.apart(move |kv| index::buckets_of(&Overlay::new(kv), &owner)).await
    }

    async fn current_version(&self, bucket: BucketId, key: &str) -> Result<Option<VersionRow>, LookupError> {
        index::current_version(&self.view(), bucket, key).map_err(lookup_error)
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, LookupError> {
        self.apart(move |kv| listing::list(kv, &request)).await
    }

    async fn list_versions(&self, request: VersionsRequest) -> Result<VersionsPage, LookupError> {
        self.apart(move |kv| listing::list_versions(kv, &request)).await
    }

    async fn list_uploads(&self, request: UploadsRequest) -> Result<UploadsPage, LookupError> {
        self.apart(move |kv| listing::list_uploads(kv, &request)).await
    }

    async fn list_parts(&self, request: PartsRequest) -> Result<Option<PartsPage>, LookupError> {
        self.apart(move |kv| listing::list_parts(kv, &request)).await
    }

    async fn upload(&self, name: &UploadName) -> Result<Option<UploadRow>, LookupError> {
        index::upload(&self.view(), name).map_err(lookup_error)
    }

    async fn parts(&self, upload: &UploadName, numbers: &[u32]) -> Result<Vec<Option<PartRow>>, LookupError> {
        let (upload, numbers) = (upload.clone(), numbers.to_vec());
        let read = move |kv: &dyn Kv| {
            let view = Overlay::new(kv);
            numbers.iter().map(|number| index::part(&view, &upload, *number)).collect()
        };
        self.apart(read).await
    }

    async fn account_by_access_key(&self, access_key: &str) -> Result<Option<Arc<Account>>, LookupError> {
        let row = index::account_by_access_key(&self.view(), access_key).map_err(lookup_error)?;
        row.map(|row| self.keys.unwrap_account(row).map(Arc::new).map_err(key_error)).transpose()
    }

    async fn account(&self, id: &str) -> Result<Option<AccountRow>, LookupError> {
        index::account(&self.view(), id).map_err(lookup_error)
    }

    async fn domain(&self, account: &str, encrypted: bool) -> Result<Arc<Domain>, CommitError> {
        let known = index::domain_of(&self.view(), account, encrypted).map_err(unavailable)?;
        let row = match known {
            Some(row) => row,
            None => {
                let new = self.keys.new_domain(account, encrypted).map_err(unavailable)?;
                if self.shared.sabotage.is(Sabotage::DomainKeysFirst) {
                    return self.cached_domain(&DomainRow { id: u64::MAX, ..new }).map_err(unavailable);
                }
                match self.commit(self.epoch, Command::PutDomain(new)).await? {
                    Outcome::Domain(row) => row,
                    other => return Err(unavailable(format!("PutDomain came to {other:?}"))),
                }
            }
        };
        self.cached_domain(&row).map_err(unavailable)
    }

    async fn domain_by_id(&self, id: DomainId) -> Result<Arc<Domain>, LookupError> {
        let row = index::domain(&self.view(), id).map_err(lookup_error)?;
        let row = row.ok_or_else(|| LookupError::Unknown { what: format!("dedup domain {id}") })?;
        self.cached_domain(&row)
    }

    async fn find_chunks(&self, domain: DomainId, ids: &[ChunkId]) -> Result<Vec<Option<Hit>>, LookupError> {
        let losses = self.shared.volatile().losses.clone();
        if ids.len() <= FEW_ROWS {
            return lookup::find_chunks(&self.view(), domain, ids, &losses).map_err(lookup_error);
        }
        let ids = ids.to_vec();
        self.apart(move |kv| lookup::find_chunks(&Overlay::new(kv), domain, &ids, &losses)).await
    }

    async fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, LookupError> {
        if ids.len() <= FEW_ROWS {
            return lookup::locate(&self.view(), ids).map_err(lookup_error);
        }
        let ids = ids.to_vec();
        self.apart(move |kv| lookup::locate(&Overlay::new(kv), &ids)).await
    }

    async fn read_frame(&self, chunk: &Located) -> Result<Bytes, FrameReadError> {
        let reason = match self.shared.read_at(chunk).await {
            Ok(bytes) => return Ok(bytes),
            Err(reason) => reason,
        };
        // A seal may have moved it between the lookup and the read.
        let again = self.locate(&[chunk.id]).await?.pop().flatten().ok_or(FrameReadError::Unknown(chunk.id))?;
        let reason = match again.place == chunk.place {
            true => reason,
            false => match self.shared.read_at(&again).await {
                Ok(bytes) => return Ok(bytes),
                Err(reason) => reason,
            },
        };
        Err(FrameReadError::Unreachable { id: chunk.id, reason })
    }

    fn stripe_shape(&self) -> Result<StripeShape, CommitError> {
        let writing = self.writing()?;
        let topology = self.shared.cached_topology(Reserve::Client).map_err(unavailable)?;
        let max_data_shards = writing.stripes.width(&topology).map_err(store_error)?;
        Ok(StripeShape { geometry: self.geometry, max_data_shards, shard_target: writing.stripes.shard_target() })
    }

    async fn store_stripe(&self, writer: Epoch, mut frames: Vec<StripeFrame>) -> Result<(), CommitError> {
        let writing = self.writing()?;
        let mut failed: Option<(u8, StoreError)> = None;
        while !frames.is_empty() {
            let topology = self.shared.topology(Reserve::Client).await.map_err(unavailable)?;
            let width = writing.stripes.width(&topology).map_err(store_error)?;
            // Drives that turned out to have failed while a stripe was written leave too few for its width: shrink k, never m.
            if let Some((before, error)) = failed.take_if(|(before, _)| width >= *before) {
                tracing::warn!(before, width, "no narrower stripe is left to try");
                return Err(store_error(error));
            }
            let mut stripe = writing.stripes.open(width, false);
            let mut inside = 0;
            while let Some(frame) = frames.get(inside).filter(|frame| stripe.fits(&frame.frame)) {
                stripe.add(frame.frame.clone());
                inside += 1;
            }
            match writing.stripes.store(stripe, StripeClass::Data, None, &topology, Reserve::Client).await {
                Ok(stored) => {
                    let rest = frames.split_off(inside);
                    self.commit_stripe(writer, stored, std::mem::replace(&mut frames, rest)).await?;
                    failed = None;
                }
                Err(error @ StoreError::Write(StripeWriteError::NoDrives { .. })) => failed = Some((width, error)),
                Err(error) => return Err(store_error(error)),
            }
        }
        Ok(())
    }

    fn status(&self) -> Status {
        let (reason, ensemble, applied, sealed, drives) = {
            let volatile = self.shared.volatile();
            let ensemble = volatile.register.as_ref().map(|r| r.members.clone()).unwrap_or_default();
            (volatile.read_only.clone(), ensemble, volatile.applied, volatile.sealed, volatile.drives.clone())
        };
        Status {
            mode: if reason.is_none() { Mode::Serving } else { Mode::ReadOnly },
            reason: reason.unwrap_or_default(),
            geometry: self.geometry,
            epoch: self.epoch,
            applied,
            sealed,
            ensemble,
            drives: self.drive_lines(&drives),
            warnings: self.warnings(),
        }
    }
}
