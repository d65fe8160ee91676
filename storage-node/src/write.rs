//! One drive's writer: a thread that takes everything that is queued, writes it, syncs each touched file once, looks
//! whether the drive is still the drive, and only then answers (group commit without a timer).
//!
//! Invariants:
//! * A record is acknowledged only after: the header of its segment and the segment's name were synced (before the
//!   record's first byte was written); its own bytes were covered by an fdatasync that returned; and after that the file
//!   still had its name, the path still named the same directory, and the identity file still said the same (R5).
//! * The two classes are written, synced and answered apart: a failure of one file fails the records staged for that
//!   file and no others.
//! * After a failed write or sync of a segment, that file is not written, synced or truncated again by this start (R6).
//!   Its closed length, as the next segment records it, ends behind the last acknowledged record. The second such
//!   failure makes the drive read-only.
//! * A full disk is found out while space is preallocated, before any byte of the record is written: the segment is then
//!   exactly as if the record had never come, and goes on. (Where the file system does not honour a preallocation and a
//!   write itself says "full", the segment is closed as after a failure, but that is no strike.)
//! * The index is written after the sync, never before, so its barrier is never ahead of the medium.

use crate::client::{DriveHealth, Reserve, WriteError};
use crate::disk::{Access, DiskError};
use crate::drive::{DriveError, IDENTITY_FILE, REGISTER_FILE, check_held_identity, sealed_register};
use crate::free::FreeWork;
use crate::keep::{Authority, Freed, ShardRef};
use crate::kv::KvBatch;
use crate::lane::{Failure, Lane};
use crate::leader::{LEADER_FILE, Leader};
use crate::open::{OpenDrive, Recovered, release_tail};
use crate::reserve::ReserveFile;
use crate::segment::class_dir;
use bytes::Bytes;
use codec::id::Epoch;
use codec::journal::BatchHeader;
use codec::segment::{JournalHead, MAX_RECORD_PAYLOAD, SegmentClass};
use codec::shard::ShardHeader;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// A group is written out when it has this many bytes of payload, even if more is queued.
const GROUP_BYTES: u64 = 64 << 20;

/// Where an answer goes.
pub(crate) type Reply<T, E = WriteError> = oneshot::Sender<Result<T, E>>;

/// What the writer of a drive is told once.
#[derive(Clone, Debug)]
pub(crate) struct WriteConfig {
    pub data_segment: u64,
    pub journal_segment: u64,
    pub preallocate_step: u64,
    /// Its part of the reserve, in bytes; `None`: what it has.
    pub reserve: Option<u64>,
    pub software: String,
}

/// What a record carries besides its payload.
#[derive(Debug)]
pub(crate) enum Body {
    Shard(ShardHeader),
    Batch(BatchHeader),
}

impl Body {
    pub fn class(&self) -> SegmentClass {
        match self {
            Body::Shard(_) => SegmentClass::Data,
            Body::Batch(_) => SegmentClass::Journal,
        }
    }
}

/// A record to be appended.
#[derive(Debug)]
pub(crate) struct Append {
    pub body: Body,
    pub payload: Bytes,
    pub reserve: Reserve,
    pub reply: Reply<()>,
}

/// What a drive's thread is asked to do.
pub(crate) enum Job {
    Append(Append),
    BeginJournal {
        head: JournalHead,
        reply: Reply<u64>,
    },
    FreeJournal {
        number: u64,
        reply: Reply<()>,
    },
    Free {
        authority: Authority,
        shards: Vec<ShardRef>,
        reply: Reply<Freed>,
    },
    RenewFrees {
        authority: Authority,
        reply: Reply<()>,
    },
    MendHeader {
        number: u64,
        reply: Reply<bool>,
    },
    Register {
        bytes: Bytes,
        reply: Reply<()>,
    },
    Begin {
        epoch: Epoch,
        /// Who leads in it; `None`: this process itself.
        leader: Option<Leader>,
        reply: Reply<(), DriveError>,
    },
    #[cfg(test)]
    Panic,
    Stop,
}

/// The state of a drive's thread.
pub(crate) struct Writer {
    pub(crate) drive: Arc<OpenDrive>,
    pub(crate) config: WriteConfig,
    pub(crate) epoch: Epoch,
    pub(crate) next_number: u64,
    pub(crate) reserve: ReserveFile,
    pub(crate) free_work: FreeWork,
    data: Option<Lane>,
    journal: Option<Lane>,
    recovered: Recovered,
    /// Why what the start found could not be synced: then it never can be by this start (R6).
    unsynced: Option<DiskError>,
    strikes: u32,
}

impl Writer {
    pub fn new(drive: Arc<OpenDrive>, config: WriteConfig, mut recovered: Recovered) -> Writer {
        let [data, journal] = std::mem::take(&mut recovered.previous);
        Writer {
            data: Some(Lane::new(SegmentClass::Data, data)),
            journal: Some(Lane::new(SegmentClass::Journal, journal)),
            reserve: ReserveFile::new(config.reserve),
            free_work: FreeWork::default(),
            drive,
            config,
            epoch: Epoch(0),
            next_number: recovered.next_number,
            recovered,
            unsynced: None,
            strikes: 0,
        }
    }

    /// The thread's loop: ends when the node stops or is dropped.
    pub fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let _last = LastWords(Arc::clone(&self.drive));
        while let Some(job) = jobs.blocking_recv() {
            let mut staged = 0;
            let mut next = Some(job);
            while let Some(job) = next.take() {
                if let Job::Append(append) = &job {
                    staged += append.payload.len() as u64;
                }
                if matches!(job, Job::Stop) {
                    self.commit_all();
                    return self.stop();
                }
                self.handle(job);
                if staged < GROUP_BYTES {
                    next = jobs.try_recv().ok();
                }
            }
            self.commit_all();
        }
        self.stop();
    }

    fn stop(mut self) {
        self.settle_frees();
        if let Err(error) = self.drive.index.flush() {
            tracing::warn!(%error, "the node's index could not be flushed; it is caught up at the next start");
        }
    }

    fn handle(&mut self, job: Job) {
        if let Job::Append(append) = job {
            return self.append(append);
        }
        // Everything else stands between groups: what came before it is answered first.
        self.commit_all();
        match job {
            Job::BeginJournal { head, reply } => answer(reply, self.begin_journal(head)),
            Job::FreeJournal { number, reply } => answer(reply, self.free_journal(number)),
            Job::Free { authority, shards, reply } => answer(reply, self.free(authority, &shards)),
            Job::RenewFrees { authority, reply } => answer(reply, self.renew_frees(authority)),
            Job::MendHeader { number, reply } => answer(reply, self.mend_header(number)),
            Job::Register { bytes, reply } => answer(reply, self.register(&bytes)),
            Job::Begin { epoch, leader, reply } => answer(reply, self.begin(epoch, leader)),
            #[cfg(test)]
            Job::Panic => std::panic::resume_unwind(Box::new("a test's")),
            Job::Append(_) | Job::Stop => {}
        }
    }

    /// Why writes are refused, if they are.
    pub fn check_writable(&self) -> Result<(), WriteError> {
        let drive = self.drive.identity.drive;
        match self.drive.health.get() {
            DriveHealth::Healthy => Ok(()),
            DriveHealth::ReadOnly { reason } => Err(WriteError::ReadOnly { drive, reason }),
            DriveHealth::Failed { reason } => Err(WriteError::DriveFailed { drive, reason }),
        }
    }

    /// Runs `f` on the lane of a class. The lane is taken out meanwhile so that both can be borrowed.
    fn with_lane<T>(&mut self, class: SegmentClass, f: impl FnOnce(&mut Lane, &mut Writer) -> T) -> T {
        let mut lane = self.slot(class).take().unwrap_or_else(|| Lane::new(class, None));
        let result = f(&mut lane, self);
        *self.slot(class) = Some(lane);
        result
    }

    fn slot(&mut self, class: SegmentClass) -> &mut Option<Lane> {
        match class {
            SegmentClass::Data => &mut self.data,
            SegmentClass::Journal => &mut self.journal,
        }
    }

    fn append(&mut self, append: Append) {
        let checked = self.check_writable().and_then(|()| check_record(&append));
        if let Err(error) = checked {
            return answer(append.reply, Err(error));
        }
        self.with_lane(append.body.class(), |lane, writer| lane.stage(append, writer));
    }

    fn commit_all(&mut self) {
        for class in [SegmentClass::Data, SegmentClass::Journal] {
            self.with_lane(class, |lane, writer| lane.commit(writer));
        }
    }

    fn begin_journal(&mut self, head: JournalHead) -> Result<u64, WriteError> {
        self.check_writable()?;
        self.with_lane(SegmentClass::Journal, |lane, writer| lane.begin_journal(head, writer))
    }

    /// Whether the drive is still the drive (R5); one that is not has failed for good.
    pub fn vouch(&self) -> Result<(), Failure> {
        let drive = &self.drive;
        check_held_identity(&*drive.disk, &*drive.identity_file, &drive.identity).map_err(Failure::Gone)
    }

    /// Counts a failure against the drive and says what to answer.
    pub fn judge(&mut self, failure: Failure) -> WriteError {
        let drive = self.drive.identity.drive;
        if matches!(failure, Failure::Gone(_) | Failure::Strike(_)) {
            self.drive.latency.failed();
        }
        match failure {
            Failure::Full => WriteError::Full { drive },
            Failure::NotNow(reason) => {
                tracing::warn!(%drive, reason, "a write was not possible now");
                WriteError::DriveFailed { drive, reason }
            }
            Failure::Gone(reason) => {
                tracing::error!(%drive, reason, "the drive is gone");
                self.drive.health.fail(reason.clone());
                WriteError::DriveFailed { drive, reason }
            }
            Failure::Strike(reason) => {
                self.strikes += 1;
                tracing::error!(%drive, reason, strikes = self.strikes, "a write or sync failed");
                if self.strikes >= 2 {
                    self.drive.health.read_only(format!("a second write or sync failed: {reason}"));
                }
                WriteError::DriveFailed { drive, reason }
            }
        }
    }

    fn free_journal(&mut self, number: u64) -> Result<(), WriteError> {
        self.check_writable()?;
        let path = {
            let journal = self.drive.journal();
            let segment = journal.get(number).filter(|s| s.closed).ok_or(WriteError::NotFreeable(number))?;
            segment.meta.path()
        };
        let dir = class_dir(SegmentClass::Journal);
        let removed = match self.drive.disk.remove(&path) {
            Err(DiskError::NotFound { .. }) => Ok(()),
            other => other,
        };
        let done = removed.and_then(|()| self.drive.disk.sync_dir(dir));
        done.map_err(Failure::from).map_err(|failure| self.judge(failure))?;
        self.drive.journal().remove(number);
        self.drive.remove_segment(number);
        let mut batch = KvBatch::new();
        self.drive.index.delete_segment(&mut batch, number);
        self.index_write(batch);
        Ok(())
    }

    /// [`Lane::follow`] on the data lane.
    pub fn follow(&mut self, number: u64) -> Result<(), WriteError> {
        self.with_lane(SegmentClass::Data, |lane, writer| lane.follow(number, writer))
    }

    fn register(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.check_writable()?;
        if bytes.len() > crate::drive::MAX_REGISTER {
            let (len, limit) = (bytes.len() as u64, crate::drive::MAX_REGISTER as u64);
            return Err(WriteError::TooLarge { len, limit });
        }
        self.write_small(REGISTER_FILE, &sealed_register(bytes))
    }

    /// Replaces a small file of metadata's, from the reserve if need be, and looks whether the drive is still the drive.
    pub fn write_small(&mut self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let written = loop {
            match self.drive.disk.write_durably(name, bytes) {
                // A new file each time, so nothing that failed is tried again on the same file (R6).
                Err(DiskError::Full { .. }) if self.reserve.give_up(&self.drive).unwrap_or(false) => {}
                other => break other.map_err(Failure::from),
            }
        };
        written.and_then(|()| self.vouch()).map_err(|failure| self.judge(failure))
    }

    /// Writes rows that only say what the medium says too: losing them costs a scan.
    pub fn index_write(&self, batch: KvBatch) {
        if let Err(error) = self.drive.index.write(batch) {
            tracing::warn!(%error, "the node's index could not be written; it is caught up at the next start");
        }
    }

    /// Allows writes: makes durable what the scan found, gives tails back, fills the reserve.
    fn begin(&mut self, epoch: Epoch, leader: Option<Leader>) -> Result<(), DriveError> {
        let drive = self.drive.identity.drive;
        let followed = self.drive.leader().clone();
        // Of a leader without a name only other processes are kept out: in a single one nobody else can lead, and a drive that was
        // away while it began in vain is taken back.
        let keeps_out = |followed: &&Leader| followed.epoch > epoch && (followed.is_named() || leader.is_some());
        if let Some(leader) = followed.as_ref().filter(keeps_out) {
            return Err(DriveError::Superseded { drive, epoch, leader: leader.clone() });
        }
        let leader = leader.filter(|leader| followed.as_ref() != Some(leader));
        if self.epoch >= epoch && self.epoch != Epoch(0) {
            return self.follow_leader(leader);
        }
        if let Some(error) = &self.unsynced {
            return Err(error.clone().into());
        }
        // Its lock stays where it is: it must outlive the thread, not this function.
        let lock = self.recovered.lock.take();
        let recovered = std::mem::take(&mut self.recovered);
        let begun = self.make_begun(&recovered);
        // What was not done is still to be done, should the node begin again.
        self.recovered = if begun.is_ok() { Recovered::default() } else { recovered };
        self.recovered.lock = lock;
        begun?;
        self.follow_leader(leader)?;
        self.epoch = epoch;
        self.drive.health.begin();
        Ok(())
    }

    /// Before the drive takes any write of a new leader.
    fn follow_leader(&mut self, leader: Option<Leader>) -> Result<(), DriveError> {
        let Some(leader) = leader else { return Ok(()) };
        let drive = self.drive.identity.drive;
        let failed = |error: WriteError| DriveError::Failed { drive, reason: error.to_string() };
        self.write_small(LEADER_FILE, &leader.encode()).map_err(failed)?;
        *self.drive.leader() = Some(leader);
        Ok(())
    }

    fn make_begun(&mut self, recovered: &Recovered) -> Result<(), DriveError> {
        // A file system that the kernel has made read-only must be found out now, and not by the first write.
        self.drive.disk.open(IDENTITY_FILE, Access::ReadWrite)?;
        let mut batch = KvBatch::new();
        for (row, whole) in &recovered.unsynced {
            let path = crate::segment::segment_path(row.header.class, row.header.number);
            let file = self.drive.disk.open(&path, Access::ReadWrite)?;
            if let Err(error) = file.sync_data() {
                // A second sync of the file would say yes without having written what the first one lost (R6).
                self.unsynced = Some(error.clone());
                return Err(error.into());
            }
            if *whole {
                self.drive.index.put_segment(&mut batch, row);
            }
        }
        self.drive.index.write(batch)?;
        for path in &recovered.never_begun {
            match self.drive.disk.remove(path) {
                // Removed by a begin that failed later.
                Ok(()) | Err(DiskError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for (path, closed_blocks) in &recovered.tails {
            if let Err(error) = release_tail(&self.drive, path, *closed_blocks) {
                tracing::warn!(%error, "a preallocated tail could not be released");
            }
        }
        self.reserve.open(&self.drive)?;
        self.resume_frees();
        Ok(())
    }
}

/// Fails the drive when its thread ends by a panic: nobody would answer its writes any more, and a drive that is called
/// healthy is given more of them.
struct LastWords(Arc<OpenDrive>);

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(drive = %self.0.identity.drive, "the drive's thread panicked");
            self.0.health.fail("its thread panicked; a start brings it back".to_owned());
        }
    }
}

fn check_record(append: &Append) -> Result<(), WriteError> {
    let len = append.payload.len() as u64;
    if len > MAX_RECORD_PAYLOAD {
        return Err(WriteError::TooLarge { len, limit: MAX_RECORD_PAYLOAD });
    }
    let matches = match &append.body {
        Body::Shard(header) => header.descriptor.is_present(header.index) && u64::from(header.payload_len()) == len,
        Body::Batch(batch) => *blake3::hash(&append.payload).as_bytes() == batch.hash,
    };
    if matches { Ok(()) } else { Err(WriteError::Malformed("the header does not describe the payload")) }
}

/// Nobody waits any more: fine.
pub(crate) fn answer<T, E>(reply: Reply<T, E>, result: Result<T, E>) {
    let _unheard = reply.send(result);
}
