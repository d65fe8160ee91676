//! Scrub: every byte that was acknowledged is read again from the medium, in order and at a pace, and what does not
//! verify becomes a finding.
//!
//! Invariants:
//! * What is read is what was acknowledged: closed segments up to their closed length, open ones up to the last sync that
//!   returned. Whatever lies behind that is being written, or was never promised.
//! * Reads go past the page cache ([`crate::disk::Disk::open_medium`]).
//! * Scrub holds no lock while it reads, and takes none of the places for readers: a write or a read never waits for it.
//! * A finding is something that is wrong *now*: before it is noted, the segment must still be there and the index must
//!   still say that the shard lies at this place. So nothing is reported that was freed, written again or removed while
//!   it was read. The finding goes when the place verifies again, the shard is written again or freed, or its segment goes.
//! * Scrub changes nothing on the medium. Only the header of a segment, which nobody but its node knows, is written again
//!   ([`crate::mend`]): by the drive's thread, when the pass after the one that found it broken begins.
//!
//! One thread per drive ([`worker`]) runs the passes and the early checks of new shards. What it knows survives restarts
//! ([`rows`]) and is lost with the node's index, which costs a pass.
//!
//! A pass covers the segments that were there when it began. It is spread over five sixths of the period, and the next
//! one begins when that time is over, so that a shard is read once within the period even if the drive fills up or the
//! node was off for a few days. A shard that is newer than the pass is checked when it is an hour and a day old.

mod ask;
mod check;
mod findings;
mod origin;
mod reader;
mod rows;
mod walk;
mod worker;

use crate::clock::Clock;
use crate::disk::DiskError;
use crate::index::ShardPlace;
use crate::keep::{Finding, FindingKind, Medium, ScrubOrder, ScrubState, Subject};
use crate::kv::{Kv, KvBatch, KvError};
use crate::open::OpenDrive;
use crate::segment::SegmentMeta;
use codec::id::{DriveId, ShardId};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use self::check::Bad;
use self::findings::{Findings, Noted};
use self::origin::Searcher;
use self::rows::{Checks, Pass, ScrubRows, Young};

pub(crate) use self::worker::spawn;

/// When and how fast a node scrubs its drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubConfig {
    /// Every shard is verified at least once in this time.
    pub period: Duration,
    /// Bytes per second that a pass reads at least, so that a small drive is done early; 0: as many as the period asks for.
    pub min_rate: u64,
    /// Bytes per second that scrub reads from one drive at most; 0: no limit, and no regard for others either.
    pub max_rate: u64,
    /// How old a new shard is when it is verified again, ascending; at most 255 of them.
    pub young: Vec<Duration>,
    /// Passes and early checks begin by themselves. Otherwise only an order begins a pass.
    pub by_itself: bool,
    /// How long after a start nothing begins by itself: others have more to do then.
    pub settle: Duration,
    /// How often to look whether something is due.
    pub look_every: Duration,
}

impl Default for ScrubConfig {
    /// 30 days, between 4 and 64 MiB per second, new shards after an hour and a day.
    fn default() -> ScrubConfig {
        ScrubConfig {
            period: Duration::from_secs(30 * 86_400),
            min_rate: 4 << 20,
            max_rate: 64 << 20,
            young: vec![Duration::from_secs(3600), Duration::from_secs(86_400)],
            by_itself: true,
            settle: Duration::from_secs(60),
            look_every: Duration::from_secs(10),
        }
    }
}

impl ScrubConfig {
    /// Nothing begins by itself, and what is ordered is done as fast as it can be. For tests.
    pub fn on_order() -> ScrubConfig {
        ScrubConfig { max_rate: 0, by_itself: false, ..ScrubConfig::default() }
    }
}

/// Why scrub does not go on.
#[derive(Debug)]
pub(crate) enum Halt {
    /// There is something else to do: a stop, a pause, an order.
    Interrupted,
    /// The drive is not there any more.
    Gone(String),
    /// Not possible now, for a reason that says nothing about the medium.
    NotNow(String),
}

impl From<DiskError> for Halt {
    fn from(error: DiskError) -> Halt {
        match error {
            DiskError::Gone { .. } => Halt::Gone(error.to_string()),
            other => Halt::NotNow(other.to_string()),
        }
    }
}

impl From<KvError> for Halt {
    fn from(error: KvError) -> Halt {
        Halt::NotNow(error.to_string())
    }
}

/// What the drives of a node share for scrub.
#[derive(Clone, Debug)]
pub(crate) struct ScrubShared {
    pub config: Arc<ScrubConfig>,
    pub clock: Arc<dyn Clock>,
    /// The open drives: whose seeds a misdirected block may carry.
    drives: Arc<Mutex<Vec<Weak<OpenDrive>>>>,
    /// Blocks of the longest segment that this node writes.
    segment_blocks: u64,
}

impl ScrubShared {
    pub fn new(config: ScrubConfig, clock: Arc<dyn Clock>, segment_blocks: u64) -> ScrubShared {
        ScrubShared { config: Arc::new(config), clock, drives: Arc::default(), segment_blocks }
    }

    fn searcher(&self) -> Searcher {
        Searcher::new(self.segment_blocks)
    }

    /// A drive was opened.
    pub fn add(&self, drive: &Arc<OpenDrive>) {
        let mut drives = self.drives.lock().unwrap_or_else(PoisonError::into_inner);
        drives.retain(|drive| drive.strong_count() > 0);
        drives.push(Arc::downgrade(drive));
    }

    /// The segments of all drives.
    fn segments(&self) -> Vec<Arc<SegmentMeta>> {
        let drives = self.drives.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = Vec::new();
        for drive in drives.iter().filter_map(Weak::upgrade) {
            all.extend(drive.segments.read().unwrap_or_else(PoisonError::into_inner).values().cloned());
        }
        all
    }
}

/// What the worker of a drive is told.
#[derive(Debug, Default)]
struct Control {
    stop: bool,
    paused: bool,
    ordered: bool,
}

/// What the worker of a drive says about itself.
#[derive(Clone, Copy, Debug)]
struct Progress {
    state: ScrubState,
    medium: Medium,
    pass: Pass,
}

/// The scrub of one drive: what its worker, its writer and those who ask share.
#[derive(Debug)]
pub(crate) struct DriveScrub {
    pub shared: ScrubShared,
    pub findings: Findings,
    rows: ScrubRows,
    control: Mutex<Control>,
    wake: Condvar,
    progress: Mutex<Progress>,
    tally: Mutex<ask::Tallies>,
    /// Held while a shard's row of checks is written and compared with its place, and while a row without a place is
    /// judged. Only those who scrub take it.
    settling: Mutex<()>,
    /// Questions that read the medium at the same time. Not the places of readers: those are for clients.
    pub asks: Arc<tokio::sync::Semaphore>,
}

/// Questions to one drive that read its medium at the same time.
const ASKS: usize = 2;

impl DriveScrub {
    pub fn open(drive: DriveId, kv: Arc<dyn Kv>, shared: ScrubShared) -> Result<DriveScrub, KvError> {
        let rows = ScrubRows::new(kv, drive);
        let control = Control { stop: false, paused: rows.is_paused()?, ordered: rows.is_ordered()? };
        let progress = Progress { state: ScrubState::Waiting, medium: Medium::Direct, pass: rows.pass()? };
        Ok(DriveScrub {
            shared,
            findings: Findings::load(drive, rows.clone())?,
            rows,
            control: Mutex::new(control),
            wake: Condvar::new(),
            progress: Mutex::new(progress),
            tally: Mutex::default(),
            settling: Mutex::default(),
            asks: Arc::new(tokio::sync::Semaphore::new(ASKS)),
        })
    }

    fn now(&self) -> u64 {
        self.shared.clock.wall_ms()
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settling(&self) -> MutexGuard<'_, ()> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard was written: adds its rows to the batch that makes it known, and forgets what was wrong with it. `before`:
    /// where an older copy of it lies.
    pub fn written(&self, batch: &mut KvBatch, shard: ShardId, before: Option<ShardPlace>) {
        let now = self.now();
        before.into_iter().for_each(|place| self.rows.put_dead(batch, place));
        self.rows.put_checks(batch, shard, &Checks { written_ms: now, ..Checks::default() });
        self.schedule(batch, shard, now, 0);
        self.findings.clear_shard(batch, shard);
    }

    /// A shard was found on the drive that the index did not know: as old as nobody knows, so the time counts from now.
    pub fn indexed(&self, batch: &mut KvBatch, shard: ShardId) -> Result<(), KvError> {
        if self.rows.checks(shard)?.is_none() {
            self.rows.put_checks(batch, shard, &Checks { written_ms: self.now(), ..Checks::default() });
        }
        Ok(())
    }

    /// A shard was freed, which lay at this place: to be put into the batch that removes its place from the index.
    /// Without this a row that vanished could not be told from a shard that was freed, and rot in what is left of one
    /// would be reported as damage to nobody knows what.
    pub fn freed(&self, batch: &mut KvBatch, shard: ShardId, place: Option<ShardPlace>) {
        place.into_iter().for_each(|place| self.rows.put_dead(batch, place));
        self.rows.delete_checks(batch, shard);
        self.findings.clear_shard(batch, shard);
    }

    /// A segment was removed: what was found about places in it is over.
    pub fn segment_gone(&self, number: u64) {
        let mut batch = KvBatch::new();
        self.findings.clear_places(&mut batch, number, 0..u64::MAX);
        if let Err(error) = self.rows.write(batch) {
            tracing::warn!(number, %error, "findings of a segment that is gone come back with the next start");
        }
    }

    fn schedule(&self, batch: &mut KvBatch, shard: ShardId, written_ms: u64, stage: u8) {
        let Some(age) = self.shared.config.young.get(usize::from(stage)) else { return };
        let due_ms = written_ms.saturating_add(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        self.rows.put_young(batch, &Young { due_ms, shard, stage });
    }

    /// What an operator says. Durable with the node's index, and in force when it returns.
    pub fn order(&self, order: ScrubOrder) -> Result<(), KvError> {
        let mut batch = KvBatch::new();
        self.rows.put_paused(&mut batch, order == ScrubOrder::Pause);
        if order == ScrubOrder::Start {
            self.rows.put_ordered(&mut batch, true);
        }
        self.rows.write(batch)?;
        let mut control = self.control();
        control.paused = order == ScrubOrder::Pause;
        control.ordered |= order == ScrubOrder::Start;
        drop(control);
        self.wake.notify_all();
        Ok(())
    }

    /// Ends the worker, soon.
    pub fn stop(&self) {
        self.control().stop = true;
        self.wake.notify_all();
    }
}

impl OpenDrive {
    /// Notes that something is wrong with a shard, if the index still says that it lies there.
    fn note_shard(&self, shard: ShardId, place: (u64, u64), bad: &Bad) -> Result<(), KvError> {
        let subject = Subject::Shard(shard);
        self.scrub.findings.note(self.noted(subject, Some(place), bad))?;
        // It may have been freed or written again since that was asked for the last time.
        let there = self.index.place(shard)?.is_some_and(|p| (p.segment, p.block) == place);
        if !there {
            let mut batch = KvBatch::new();
            self.scrub.findings.clear_shard(&mut batch, shard);
            self.scrub.rows.write(batch)?;
        }
        Ok(())
    }

    fn noted(&self, subject: Subject, place: Option<(u64, u64)>, bad: &Bad) -> Noted {
        let (kind, detail) = (bad.kind, bad.detail.clone());
        let finding = Finding { drive: self.identity.drive, subject, kind, found_ms: self.scrub.now(), detail };
        Noted { finding, place }
    }

    /// Whether the drive is still the drive; asked before something is called missing.
    fn vouch(&self) -> Result<(), Halt> {
        if let Some(reason) = self.health.failed() {
            return Err(Halt::Gone(reason));
        }
        crate::drive::check_held_identity(&*self.disk, &*self.identity_file, &self.identity).map_err(Halt::Gone)
    }

    /// Whether anything can be read from the drive's medium; asked before a place is called unreadable.
    fn vouch_medium(&self, kind: FindingKind) -> Result<(), Halt> {
        self.vouch()?;
        if kind != FindingKind::Unreadable {
            return Ok(());
        }
        let (file, _) = self.disk.open_medium(crate::drive::IDENTITY_FILE)?;
        let read = file.read_at(&mut [0; 16], 0);
        read.map(|_| ()).map_err(|error| Halt::Gone(format!("nothing can be read from it: {error}")))
    }
}
