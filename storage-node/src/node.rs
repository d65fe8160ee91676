//! The in-process node: its drives, their threads, and [`NodeClient`] over them.
//!
//! A node is opened first (reads only: recovery reads the journal before anything may be written) and then begun in an
//! epoch; how it gets its drives is in `node/opening.rs`. Blocking reads run on tokio's blocking threads, bounded per
//! drive; writes run on the drive's own thread.

use crate::client::{
    Damage, DriveHealth, DriveStatus, JournalScan, JournalSegmentInfo, Lost, NodeClient, ReadError, Reserve, WriteError,
};
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, Space};
use crate::drive::{DriveError, ProbedDrive, check_held_identity, read_register};
use crate::free::SHARDS_PER_JOB;
use crate::keep::{
    Authority, Finding, Freed, RebuildError, RebuildOrder, Rebuilt, ScrubOrder, ScrubStatus, ShardRef, Subject,
    Verified,
};
use crate::kv::{Kv, KvError};
use crate::open::{OpenDrive, add_scanned, costs_one_file};
use crate::reserve::Tally;
use crate::sabotage::Sabotage;
use crate::scrub::{DriveScrub, ScrubConfig, ScrubShared};
use crate::segment::{ScanFrom, is_freed, scan};
use crate::write::{Append, Body, Job, Reply};
use async_trait::async_trait;
use bytes::Bytes;
use codec::id::{ClusterId, DriveId, Epoch, Lsn, ShardId};
use codec::journal::BatchHeader;
use codec::segment::{JournalHead, SegmentClass};
use codec::shard::ShardHeader;
use codec::stripe::StripeClass;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot};

mod opening;

use opening::Opening;

/// Jobs that wait for a drive's thread; whoever comes then waits to be let in.
const QUEUE: usize = 1024;

/// How long the drives are given to say how much space they have. A drive that hangs is described by its last answer.
const SPACE_DEADLINE: Duration = Duration::from_secs(1);

/// How long a drive's scrub is waited for when its node stops.
const SCRUB_DEADLINE: Duration = Duration::from_secs(5);

/// How a node works.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster that its drives must belong to.
    pub cluster: ClusterId,
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
    /// How long a drive's threads may take to end before it is left to itself.
    pub close_deadline: Duration,
    /// When and how fast its drives are scrubbed.
    pub scrub: ScrubConfig,
    /// Says when that is.
    pub clock: Arc<dyn Clock>,
}

/// The most that is preallocated at a time, in bytes: what a crash can leave unused per open segment.
pub const MAX_PREALLOCATE_STEP: u64 = 64 << 20;

impl NodeConfig {
    /// The defaults: data segments of 1 GiB, journal segments of 256 MiB, no reserve (its size depends on the machine).
    pub fn new(cluster: ClusterId) -> NodeConfig {
        NodeConfig {
            cluster,
            data_segment: 1 << 30,
            journal_segment: 256 << 20,
            preallocate_step: MAX_PREALLOCATE_STEP,
            reserve: 0,
            reads_per_drive: 16,
            software: format!("stele {}", env!("CARGO_PKG_VERSION")),
            open_deadline: Duration::from_secs(60),
            close_deadline: Duration::from_secs(10),
            scrub: ScrubConfig::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

struct DriveHandle {
    open: Arc<OpenDrive>,
    jobs: mpsc::Sender<Job>,
    /// Its part of the reserve, in bytes.
    reserve: u64,
    /// How often it was opened, this time included.
    opened: u32,
    reads: Arc<Semaphore>,
    space: Arc<LastSpace>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The thread that scrubs the drive, once the node has begun.
    scrub: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for DriveHandle {
    fn drop(&mut self) {
        self.open.scrub.stop();
    }
}

/// The last answer to how much space a drive has, and whether another one is being waited for.
#[derive(Debug, Default)]
struct LastSpace {
    answer: Mutex<Option<Space>>,
    asking: AtomicBool,
}

impl LastSpace {
    fn get(&self) -> Option<Space> {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, answer: Option<Space>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

/// A drive that could not be opened: known, and not usable.
#[derive(Clone, Debug)]
struct FailedDrive {
    path: String,
    reason: String,
    disk: Arc<dyn Disk>,
    /// Its part of the reserve, in bytes.
    reserve: u64,
}

#[derive(Default)]
struct Drives {
    open: BTreeMap<DriveId, Arc<DriveHandle>>,
    failed: BTreeMap<DriveId, FailedDrive>,
    /// How often each drive was opened.
    opened: HashMap<DriveId, u32>,
    /// Drives whose directory was looked at again and has not answered.
    asked: HashSet<DriveId>,
    epoch: Option<Epoch>,
    /// The reserves, by file system.
    tallies: HashMap<u64, Arc<Tally>>,
}

/// A node and its drives.
pub struct StorageNode {
    config: NodeConfig,
    index: Arc<dyn Kv>,
    drives: Arc<Mutex<Drives>>,
    scrub: ScrubShared,
    reopening: tokio::sync::Mutex<()>,
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
        let node =
            Arc::new(StorageNode { config, index, drives: Default::default(), scrub, reopening: Default::default() });
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
        let handles = {
            let mut drives = self.lock();
            drives.epoch = Some(epoch);
            drives.open.values().cloned().collect::<Vec<_>>()
        };
        let begun = futures::future::join_all(handles.iter().map(|handle| handle.begin(epoch))).await;
        for (handle, result) in handles.iter().zip(begun) {
            let drive = handle.open.identity.drive;
            match result {
                Ok(()) => {}
                Err(error @ DriveError::Index(_)) => return Err(error),
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
        handle.read(|open| verify(&open)).await
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
        let handle = self.handle(drive)?;
        let (reply, answer) = oneshot::channel();
        handle.jobs.send(job(reply)).await.map_err(|_| WriteError::Unreachable)?;
        answer.await.map_err(|_| WriteError::Unreachable)?
    }
}

fn verify(open: &OpenDrive) -> Result<Vec<Damage>, ReadError> {
    let failed = |reason: String| ReadError::DriveFailed { drive: open.identity.drive, reason };
    let metas: Vec<_> = open.segments.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
    for (i, meta) in metas.iter().enumerate() {
        let number = meta.header.number;
        let next = metas[i + 1..].iter().find(|next| next.class() == meta.class());
        let said = next.and_then(|next| next.header.previous).filter(|closed| closed.number == number);
        let closed = said.or_else(|| open.closed_length(number));
        let row = open.index.segment(number).map_err(|error| failed(error.to_string()))?;
        let barrier = row.filter(|row| row.header == meta.header).map_or(0, |row| row.chain.block);
        let file = match open.files.get(&*open.disk, meta.class(), number) {
            Ok(file) => file,
            // A journal segment that was freed meanwhile.
            Err(_) if open.segment(number).is_none() => continue,
            Err(error) if costs_one_file(&error) || error.is_not_found() => {
                let lost = Damage { segment: number, block: 0, end_block: 1, what: Lost::Segment };
                open.set_damage(number, vec![lost]);
                continue;
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let from = ScanFrom { chain: meta.start(), barrier, closed, deep: true };
        let mut scanned = scan(&*file, meta, from, open.disk.sabotage()).map_err(|error| failed(error.to_string()))?;
        match (meta.class(), closed) {
            // What is behind the barrier of an open segment may be a group that is being written right now.
            (SegmentClass::Data, Some(_)) => {
                let _placing = open.placing();
                if open.segment(number).is_none() {
                    continue;
                }
                // What was freed since the scan passed by must not come back.
                scanned.records.retain(|found| !is_freed(&*file, found.block + 1).unwrap_or(false));
                add_scanned(open, meta, true, scanned).map_err(|error| failed(error.to_string()))?;
            }
            (SegmentClass::Data, None) => open.set_damage(number, scanned.damage),
            (SegmentClass::Journal, _) => {
                if let Some(segment) = open.journal().get_mut(number) {
                    segment.damage = scanned.damage;
                }
            }
        }
    }
    Ok(open.damaged())
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

impl DriveHandle {
    fn is_healthy(&self) -> bool {
        matches!(self.open.health.get(), DriveHealth::Healthy)
    }

    async fn begin(&self, epoch: Epoch) -> Result<(), DriveError> {
        let gone = || DriveError::Thread { drive: self.open.identity.drive };
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Begin { epoch, reply }).await.map_err(|_| gone())?;
        let begun = answer.await.map_err(|_| gone())?;
        // Also a drive that takes no writes is scrubbed: what it holds may be all that is left.
        self.begin_scrub();
        begun
    }

    /// Not before what the start found has been synced: until then the medium need not have it.
    fn begin_scrub(&self) {
        let mut scrub = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        if scrub.is_none() {
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

    /// Runs a blocking look into the index.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&OpenDrive) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let open = Arc::clone(&self.open);
        tokio::task::spawn_blocking(move || look(&open)).await.map_err(|_| ReadError::Unreachable)?
    }

    /// Runs a blocking question about what is on the medium. Not among the reads of clients: it may take long.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(Arc<OpenDrive>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let asks = Arc::clone(&self.open.scrub.asks);
        let permit = asks.acquire_owned().await.map_err(|_| ReadError::Unreachable)?;
        let open = Arc::clone(&self.open);
        let asking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            ask(open)
        });
        asking.await.map_err(|_| ReadError::Unreachable)?
    }

    /// Runs a blocking read, when one of the drive's places for readers is free.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(Arc<OpenDrive>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|_| ReadError::Unreachable)?;
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
    async fn ask_space(&self) {
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

    fn status(&self) -> DriveStatus {
        let open = &self.open;
        let space = self.space.get();
        // One after the other: both look into the journal's map, and a guard in the expression below would live too long.
        let journal_segments = open.journal().len();
        let damaged = open.damaged().len() as u64;
        DriveStatus {
            id: open.identity.drive,
            path: open.disk.path_hint(),
            health: open.health.get(),
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
            statuses.push(DriveStatus {
                id: *id,
                path: failed.path.clone(),
                health: DriveHealth::Failed { reason: failed.reason.clone() },
                total: 0,
                free: 0,
                filesystem_id: 0,
                reserve: 0,
                data_segments: 0,
                journal_segments: 0,
                damaged: 0,
                p99_ms: None,
                errors: 0,
                opened: drives.opened.get(id).copied().unwrap_or(0),
            });
        }
        drop(drives);
        statuses
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
        self.write(drive, |reply| Job::BeginJournal { head, reply }).await
    }

    async fn journal_append(
        &self,
        drive: DriveId,
        header: BatchHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError> {
        let body = Body::Batch(header);
        self.write(drive, |reply| Job::Append(Append { body, payload, reserve, reply })).await
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
        self.write(drive, |reply| Job::FreeJournal { number, reply }).await
    }

    async fn read_register(&self, drive: DriveId) -> Result<Bytes, ReadError> {
        let failed = move |error: crate::disk::DiskError| ReadError::DriveFailed { drive, reason: error.to_string() };
        self.handle(drive)?.read(move |open| read_register(&*open.disk).map_err(failed)).await
    }

    async fn write_register(&self, drive: DriveId, bytes: Bytes) -> Result<(), WriteError> {
        self.write(drive, |reply| Job::Register { bytes, reply }).await
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
            let some = self.write(drive, |reply| Job::Free { authority, shards, reply }).await?;
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
        self.write(drive, |reply| Job::RenewFrees { authority, reply }).await
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
