//! The in-process node: its drives, their threads, and [`NodeClient`] over them.
//!
//! A node is opened first (reads only: recovery reads the journal before anything may be written) and then begun in an
//! epoch; how it gets its drives is in `node/opening.rs`. Blocking reads run on tokio's blocking threads, bounded per
//! drive; writes run on the drive's own thread.

use crate::client::{
    Damage, DriveStatus, JournalScan, JournalSegmentInfo, Labels, NodeClient, ReadError, Reserve, WriteError,
};
use crate::clock::{Clock, SystemClock};
use crate::drive::{DriveError, ProbedDrive, read_register};
use crate::free::SHARDS_PER_JOB;
use crate::keep::{
    Authority, Finding, Freed, RebuildError, RebuildOrder, Rebuilt, ScrubOrder, ScrubStatus, ShardRef, Subject,
    Verified,
};
use crate::kv::{Kv, KvError};
use crate::leader::Leader;
use crate::open::OpenDrive;
use crate::reserve::Tally;
use crate::sabotage::Sabotage;
use crate::scrub::{DriveScrub, ScrubConfig, ScrubShared};
use crate::write::{Append, Body, Job, Reply};
use async_trait::async_trait;
use bytes::Bytes;
use codec::id::{ClusterId, DriveId, Epoch, Lsn, ShardId};
use codec::journal::BatchHeader;
use codec::segment::JournalHead;
use codec::shard::ShardHeader;
use codec::stripe::StripeClass;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

mod handle;
mod opening;
mod verify;

use handle::DriveHandle;
use opening::{FailedDrive, Opening};

/// Jobs that wait for a drive's thread; whoever comes then waits to be let in.
const QUEUE: usize = 1024;

/// How a node works.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster that its drives must belong to.
    pub cluster: ClusterId,
    /// Where it stands.
    pub labels: Labels,
    /// Size of a data segment, in bytes.
    pub data_segment: u64,
    /// Size of a journal segment, in bytes.
    pub journal_segment: u64,
    /// Segments are preallocated in steps of this many bytes, at most [`MAX_PREALLOCATE_STEP`].
    pub preallocate_step: u64,
    /// Reserve per file system, in bytes, shared evenly by the drives on it (R14).
    pub reserve: u64,
    /// Reads that one drive serves at the same time.
    pub reads_per_drive: usize,
    /// Written into segment headers, for people; at most 32 bytes.
    pub software: String,
    /// How long a drive that is being opened may show no progress before it counts as failed and the others go on.
    pub open_deadline: Duration,
    /// A drive that lets an operation wait for so long has failed; [`HUNG_AFTER`] by default.
    pub hung_after: Duration,
    /// How long a drive's threads may take to end before it is left to itself.
    pub close_deadline: Duration,
    /// When and how fast its drives are scrubbed.
    pub scrub: ScrubConfig,
    /// Says when that is.
    pub clock: Arc<dyn Clock>,
}

/// How long a drive may take for an operation. Drives that work have been seen to take more than a minute for a sync (shingled
/// ones, and all behind an expander that is reset), and one that is called failed for it begins to be rebuilt. Clients are not
/// made to wait for so long: they go around it after [`STALLED_AFTER`](crate::client::STALLED_AFTER), and a write gives it up
/// after [`WRITE_DEADLINE`](crate::client::WRITE_DEADLINE).
pub const HUNG_AFTER: Duration = Duration::from_secs(180);

/// The most that is preallocated at a time, in bytes: what a crash can leave unused per open segment.
pub const MAX_PREALLOCATE_STEP: u64 = 64 << 20;

impl NodeConfig {
    /// The defaults: data segments of 1 GiB, journal segments of 256 MiB, no reserve (its size depends on the machine).
    pub fn new(cluster: ClusterId) -> NodeConfig {
        NodeConfig {
            cluster,
            labels: Labels::default(),
            data_segment: 1 << 30,
            journal_segment: 256 << 20,
            preallocate_step: MAX_PREALLOCATE_STEP,
            reserve: 0,
            reads_per_drive: 16,
            software: codec::level::SOFTWARE.to_owned(),
            open_deadline: Duration::from_secs(60),
            hung_after: HUNG_AFTER,
            close_deadline: Duration::from_secs(10),
            scrub: ScrubConfig::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

#[derive(Default)]
struct Drives {
    open: BTreeMap<DriveId, Arc<DriveHandle>>,
    failed: BTreeMap<DriveId, FailedDrive>,
    /// How often each drive was opened.
    opened: HashMap<DriveId, u32>,
    /// Drives that a thread is looking at or opening, and that have not answered; a copy in another directory is another one.
    asked: HashSet<(DriveId, String)>,
    /// Who opens, closes or forgets a drive has its turn: two of them would each find the drive locked by the other. A turn
    /// for each, so that a drive that hangs keeps nobody from the others.
    turns: HashMap<DriveId, Arc<tokio::sync::Mutex<()>>>,
    epoch: Option<Epoch>,
    /// Who leads in it, if that is another process.
    leader: Option<Leader>,
    /// The reserves, by file system.
    tallies: HashMap<u64, Arc<Tally>>,
}

impl Drives {
    /// Notes in which epoch drives are to begin. It only grows: one that is told late would make all drives read-only.
    fn set_epoch(&mut self, epoch: Epoch, leader: Option<Leader>) -> Result<(), DriveError> {
        if let Some(newer) = self.epoch.filter(|begun| *begun > epoch) {
            let reason = format!("it was told to begin in epoch {newer}");
            return Err(DriveError::NotBegun { node: "of these drives".to_owned(), epoch, reason });
        }
        (self.epoch, self.leader) = (Some(epoch), leader);
        Ok(())
    }
}

/// A node and its drives.
pub struct StorageNode {
    config: NodeConfig,
    index: Arc<dyn Kv>,
    drives: Arc<Mutex<Drives>>,
    scrub: ScrubShared,
}

impl StorageNode {
    /// Opens drives that [`crate::drive::probe`] found to be ours; anything else is refused by name. Reads, scans and
    /// indexes; writes nothing to media, and no write is accepted before [`Self::begin`]. A drive that is ours but can't
    /// be read is kept as failed. `index` is a store opened with [`crate::index::FAMILIES`].
    pub async fn open(
        config: NodeConfig,
        drives: Vec<ProbedDrive>,
        index: Arc<dyn Kv>,
    ) -> Result<Arc<StorageNode>, DriveError> {
        match Self::try_open(config.clone(), drives.clone(), Arc::clone(&index)).await {
            Err(DriveError::Index(error @ KvError::Corrupt { .. })) => {
                tracing::warn!(%error, "the node's index is damaged; it is rebuilt from the drives");
                let emptied = Arc::clone(&index);
                let cleared = tokio::task::spawn_blocking(move || emptied.clear()).await;
                cleared.unwrap_or_else(|_| Err(error.clone()))?;
                Self::try_open(config, drives, index).await
            }
            opened => opened,
        }
    }

    async fn try_open(
        config: NodeConfig,
        drives: Vec<ProbedDrive>,
        index: Arc<dyn Kv>,
    ) -> Result<Arc<StorageNode>, DriveError> {
        let blocks = config.data_segment.max(config.journal_segment) / crate::segment::BLOCK_BYTES;
        let scrub = ScrubShared::new(config.scrub.clone(), Arc::clone(&config.clock), blocks);
        let node = Arc::new(StorageNode { config, index, drives: Default::default(), scrub });
        let drives = Opening::all(drives, node.config.reserve).await;
        let opening = drives.into_iter().map(|opening| node.open_one(opening));
        // All of them to their end: one that went on by itself would hold its drive's lock against the next attempt.
        let opened: Result<(), DriveError> = futures::future::join_all(opening).await.into_iter().collect();
        match opened {
            Ok(()) => Ok(node),
            Err(error) => {
                node.stop().await;
                Err(error)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Drives> {
        self.drives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> Vec<Arc<DriveHandle>> {
        self.lock().open.values().cloned().collect()
    }

    /// Allows writes, in `epoch`: syncs what was found behind the barriers, releases tails, fills the reserve. A drive
    /// that can't do this stays read-only; the error of the first such drive is logged, not returned.
    pub async fn begin(&self, epoch: Epoch) -> Result<(), DriveError> {
        self.begin_under(epoch, None).await
    }

    /// [`Self::begin`] by order of a process that leads. Which one that is, is on each drive before the drive takes a write; one
    /// that follows a leader with a higher epoch stays read-only.
    pub async fn begin_for(&self, leader: Leader) -> Result<(), DriveError> {
        self.begin_under(leader.epoch, Some(leader)).await
    }

    /// The leader with the highest epoch that any open drive follows.
    pub fn leader(&self) -> Option<Leader> {
        let followed = self.handles().into_iter().filter_map(|handle| handle.open.leader().clone());
        followed.max_by_key(|leader| leader.epoch)
    }

    /// A process leads from now on. A drive that was begun under another takes no orders before it has begun under this one: what
    /// it took in between it would have taken for a leader that its file does not name.
    pub fn led_by(&self, leader: &Leader) -> Result<(), DriveError> {
        self.lock().set_epoch(leader.epoch, Some(leader.clone()))
    }

    async fn begin_under(&self, epoch: Epoch, leader: Option<Leader>) -> Result<(), DriveError> {
        let handles = {
            let mut drives = self.lock();
            drives.set_epoch(epoch, leader.clone())?;
            drives.open.values().cloned().collect::<Vec<_>>()
        };
        let begun = handles.iter().map(|handle| handle.begin(epoch, leader.clone()));
        let begun = futures::future::join_all(begun).await;
        for (handle, result) in handles.iter().zip(begun) {
            let drive = handle.open.identity.drive;
            match result {
                Ok(()) => {}
                Err(error @ DriveError::Index(_)) => return Err(error),
                // Begun in a higher epoch while it waited for its turn: it takes writes, of somebody else.
                Err(DriveError::Superseded { .. }) if self.lock().epoch > Some(epoch) => {}
                Err(error) => {
                    tracing::error!(%drive, %error, "a drive could not begin and stays read-only");
                    handle.open.health.read_only(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// Refuses an order that is older than what any drive of this node has seen (R10): a drive that has freed nothing
    /// lately would not know by itself.
    fn check_authority(&self, drive: DriveId, authority: Authority) -> Result<(), WriteError> {
        for handle in self.handles() {
            let frees = handle.open.frees();
            let seen = frees.as_ref().filter(|log| log.is_too_old(authority)).map(|log| log.authority);
            if let Some(seen) = seen.filter(|_| !handle.open.disk.sabotage().is(Sabotage::FreeAuthority)) {
                return Err(WriteError::OldAuthority { drive, seen });
            }
        }
        Ok(())
    }

    /// The highest epoch that any open drive has seen (R1).
    pub fn highest_epoch(&self) -> Option<Epoch> {
        self.handles().iter().filter_map(|handle| handle.open.highest_epoch()).max()
    }

    /// What is known to be damaged on a drive.
    pub fn damage(&self, drive: DriveId) -> Result<Vec<Damage>, ReadError> {
        let handle = self.handle(drive).map_err(ReadError::from)?;
        Ok(handle.open.damaged())
    }

    /// Reads every block of every segment of a drive from its beginning, and returns what is damaged; the index is
    /// brought in line with what was found.
    pub async fn verify(&self, drive: DriveId) -> Result<Vec<Damage>, ReadError> {
        let handle = self.handle(drive).map_err(ReadError::from)?;
        handle.read(|open| verify::verify(&open)).await
    }

    /// Closes the files that are open for reading, as if others had pushed them out.
    #[cfg(test)]
    pub(crate) fn read_files_anew(&self, drive: DriveId) {
        let Ok(handle) = self.handle(drive) else { return };
        let numbers: Vec<u64> =
            handle.open.segments.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        numbers.into_iter().for_each(|number| handle.open.files.forget(number));
    }

    /// A drive as its threads share it.
    #[cfg(test)]
    pub(crate) fn open_drive_of(&self, drive: DriveId) -> Arc<OpenDrive> {
        let handle = self.lock().open.get(&drive).cloned();
        Arc::clone(&handle.unwrap_or_else(|| panic!("no drive {drive}")).open)
    }

    /// Makes a drive's thread panic.
    #[cfg(test)]
    pub(crate) async fn panic(&self, drive: DriveId) {
        let Ok(handle) = self.handle(drive) else { return };
        let _sent = handle.jobs.send(Job::Panic).await;
    }

    /// Answers what is queued, ends the drive threads and releases the locks. A drive that hangs is not waited for: it keeps
    /// its thread, and with it its lock, until it answers or the process ends, and the others end all the same.
    pub async fn stop(&self) {
        let handles = self.handles();
        handles.iter().for_each(|handle| handle.open.scrub.stop());
        futures::future::join_all(handles.iter().map(|handle| handle.end_in_time(self.config.close_deadline))).await;
        self.lock().open.clear();
    }

    fn handle(&self, drive: DriveId) -> Result<Arc<DriveHandle>, Unavailable> {
        let drives = self.lock();
        match (drives.open.get(&drive), drives.failed.get(&drive)) {
            (Some(handle), _) => Ok(Arc::clone(handle)),
            (None, Some(failed)) => Err(Unavailable::Failed(drive, failed.reason.clone())),
            (None, None) => Err(Unavailable::Unknown(drive)),
        }
    }

    async fn write<T>(&self, drive: DriveId, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, WriteError> {
        self.handle(drive)?.write(job).await
    }

    /// What only a leader orders: of a drive that has begun under the one that leads now, if one does.
    async fn order<T>(&self, drive: DriveId, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, WriteError> {
        let handle = self.handle(drive)?;
        let leads = self.lock().leader.as_ref().map(|leader| leader.epoch);
        let follows = handle.open.leader().as_ref().map(|leader| leader.epoch);
        if leads > follows {
            let reason = "it has not begun under the metadata process that leads".to_owned();
            return Err(WriteError::ReadOnly { drive, reason });
        }
        handle.write(job).await
    }
}

enum Unavailable {
    Unknown(DriveId),
    Failed(DriveId, String),
}

impl From<Unavailable> for WriteError {
    fn from(reason: Unavailable) -> WriteError {
        match reason {
            Unavailable::Unknown(drive) => WriteError::UnknownDrive(drive),
            Unavailable::Failed(drive, reason) => WriteError::DriveFailed { drive, reason },
        }
    }
}

impl From<Unavailable> for ReadError {
    fn from(reason: Unavailable) -> ReadError {
        match reason {
            Unavailable::Unknown(drive) => ReadError::UnknownDrive(drive),
            Unavailable::Failed(drive, reason) => ReadError::DriveFailed { drive, reason },
        }
    }
}

#[async_trait]
impl NodeClient for StorageNode {
    async fn drives(&self) -> Vec<DriveStatus> {
        let handles = self.handles();
        // All at once: one that hangs must not keep the others' answers back.
        futures::future::join_all(handles.iter().map(|handle| handle.ask_space())).await;
        let mut statuses: Vec<_> = handles.iter().map(|handle| handle.status()).collect();
        let drives = self.lock();
        for (id, failed) in &drives.failed {
            statuses.push(failed.status(*id, drives.opened.get(id).copied().unwrap_or(0)));
        }
        drop(drives);
        statuses.iter_mut().for_each(|status| status.labels = self.config.labels.clone());
        statuses
    }

    fn is_stalled(&self, drive: DriveId) -> bool {
        self.handle(drive).is_ok_and(|handle| handle.stalled().is_some())
    }

    async fn write_shard(
        &self,
        drive: DriveId,
        header: ShardHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError> {
        let body = Body::Shard(header);
        self.write(drive, |reply| Job::Append(Append { body, payload, reserve, reply })).await
    }

    async fn read_shard(
        &self,
        drive: DriveId,
        shard: ShardId,
        root: [u8; 32],
        range: Range<u32>,
    ) -> Result<Bytes, ReadError> {
        let read = move |open: Arc<OpenDrive>| {
            let began = Instant::now();
            let bytes = open.read_shard(shard, root, range);
            open.latency.read(began.elapsed());
            bytes
        };
        self.handle(drive)?.read(read).await
    }

    async fn read_shard_header(&self, drive: DriveId, shard: ShardId) -> Result<ShardHeader, ReadError> {
        self.handle(drive)?.read(move |open| open.read_shard_header(shard)).await
    }

    async fn list_shards(
        &self,
        drive: DriveId,
        class: Option<StripeClass>,
        after: Option<ShardId>,
        limit: usize,
    ) -> Result<Vec<ShardHeader>, ReadError> {
        self.handle(drive)?.read(move |open| open.list_shards(class, after, limit)).await
    }

    async fn journal_begin(&self, drive: DriveId, head: JournalHead) -> Result<u64, WriteError> {
        self.order(drive, |reply| Job::BeginJournal { head, reply }).await
    }

    async fn journal_append(
        &self,
        drive: DriveId,
        header: BatchHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError> {
        let body = Body::Batch(header);
        self.order(drive, |reply| Job::Append(Append { body, payload, reserve, reply })).await
    }

    async fn journal_read(&self, drive: DriveId, lsn: Lsn, range: Range<u32>) -> Result<Bytes, ReadError> {
        self.handle(drive)?.read(move |open| open.journal_read(lsn, range)).await
    }

    async fn journal_segments(&self, drive: DriveId) -> Result<Vec<JournalSegmentInfo>, ReadError> {
        self.handle(drive)?.read(|open| Ok(open.journal().infos())).await
    }

    async fn journal_scan(&self, drive: DriveId, number: u64, from: Lsn) -> Result<JournalScan, ReadError> {
        self.handle(drive)?.read(move |open| open.journal_scan(number, from)).await
    }

    async fn journal_free(&self, drive: DriveId, number: u64) -> Result<(), WriteError> {
        self.order(drive, |reply| Job::FreeJournal { number, reply }).await
    }

    async fn read_register(&self, drive: DriveId) -> Result<Bytes, ReadError> {
        let failed = move |error: crate::disk::DiskError| ReadError::DriveFailed { drive, reason: error.to_string() };
        self.handle(drive)?.read(move |open| read_register(&*open.disk).map_err(failed)).await
    }

    async fn write_register(&self, drive: DriveId, bytes: Bytes) -> Result<(), WriteError> {
        self.order(drive, |reply| Job::Register { bytes, reply }).await
    }

    async fn rebuild(&self, order: RebuildOrder) -> Result<Rebuilt, RebuildError> {
        let sabotage = self.handles().first().map(|handle| handle.open.disk.sabotage().clone()).unwrap_or_default();
        crate::rebuild::rebuild_under(self, &order, &sabotage).await
    }

    async fn free_shards(
        &self,
        drive: DriveId,
        authority: Authority,
        shards: Vec<ShardRef>,
    ) -> Result<Freed, WriteError> {
        self.check_authority(drive, authority)?;
        let handle = self.handle(drive)?;
        // By place, so that a job touches few files; where the places can't be had now, any order will do.
        let unordered = shards.clone();
        let ordered = handle.read(move |open| Ok(open.by_place(shards))).await.unwrap_or(unordered);
        let mut freed = Freed::default();
        let none: &[ShardRef] = &[];
        let empty = ordered.is_empty().then_some(none);
        for shards in ordered.chunks(SHARDS_PER_JOB).chain(empty) {
            let shards = shards.to_vec();
            let some = self.order(drive, |reply| Job::Free { authority, shards, reply }).await?;
            freed.shards += some.shards;
            freed.bytes += some.bytes;
            freed.refused.extend(some.refused);
        }
        Ok(freed)
    }

    async fn authority(&self, drive: DriveId) -> Result<Authority, ReadError> {
        self.handle(drive)?.read(|open| open.authority()).await
    }

    async fn renew_frees(&self, drive: DriveId, authority: Authority) -> Result<(), WriteError> {
        self.check_authority(drive, authority)?;
        self.order(drive, |reply| Job::RenewFrees { authority, reply }).await
    }

    async fn scrub_order(&self, drive: DriveId, order: ScrubOrder) -> Result<(), ReadError> {
        let failed = move |error: KvError| ReadError::DriveFailed { drive, reason: error.to_string() };
        self.handle(drive)?.look(move |open| open.scrub.order(order).map_err(failed)).await
    }

    async fn scrub_status(&self) -> Vec<ScrubStatus> {
        let mut all = Vec::new();
        for handle in self.handles() {
            let drive = handle.open.identity.drive;
            let status = handle.look(|open| Ok(open.scrub_status())).await;
            all.push(status.ok().and_then(Result::ok).unwrap_or_else(|| DriveScrub::stopped(drive)));
        }
        all.extend(self.lock().failed.keys().map(|drive| DriveScrub::stopped(*drive)));
        all
    }

    async fn findings(&self, drive: DriveId) -> Result<Vec<Finding>, ReadError> {
        Ok(self.handle(drive)?.open.scrub.findings.all())
    }

    async fn verify_shards(
        &self,
        drive: DriveId,
        shards: Vec<ShardRef>,
    ) -> Result<Vec<Result<(), Finding>>, ReadError> {
        self.handle(drive)?.ask(move |open| open.verify_shards(&shards)).await
    }

    async fn verified(&self, drive: DriveId, shards: Vec<ShardId>) -> Result<Vec<Option<Verified>>, ReadError> {
        self.handle(drive)?.look(move |open| open.verified(&shards)).await
    }

    async fn inventory(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        limit: usize,
    ) -> Result<Vec<ShardRef>, ReadError> {
        self.handle(drive)?.ask(move |open| open.inventory(after, limit)).await
    }

    async fn settle_unnamed(&self, drive: DriveId, unnamed: Vec<Subject>) -> Result<u64, ReadError> {
        self.handle(drive)?.look(move |open| open.settle_unnamed(&unnamed)).await
    }
}
