//! The thread that scrubs one drive: early checks of new shards first, then a slice of the pass, then a wait.

use super::ask::ShardReader;
use super::origin::Searcher;
use super::reader::Pace;
use super::rows::{Pass, Young};
use super::walk::{Tools, Walk};
use super::{DriveScrub, Halt};
use crate::keep::ScrubState;
use crate::kv::KvBatch;
use crate::open::OpenDrive;
use crate::sabotage::Sabotage;
use crate::segment::{BLOCK_BYTES, SegmentMeta};
use crate::write::Job;
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// The pass is saved, and looks whether something else is due, when it has read so many bytes.
const SLICE: u64 = 32 << 20;
/// Rows of dead records that are looked at in one step.
const DEAD_STEP: usize = 4096;
/// Early checks between two looks at the rest.
const YOUNG_STEP: usize = 64;
/// The part of a drive's time that scrub leaves to others: after a read it waits three times as long as that took.
const REST: u32 = 3;
/// How much nicer than the rest of the process the thread is, in the steps of `nice(2)`.
const NICE: i32 = 10;

/// Starts a drive's scrub; it ends with [`DriveScrub::stop`] or when the drive is gone.
pub(crate) fn spawn(drive: Arc<OpenDrive>, jobs: mpsc::WeakSender<Job>) -> std::io::Result<JoinHandle<()>> {
    let name = format!("scrub-{}", &drive.identity.drive.to_string()[..8]);
    let searcher = drive.scrub.shared.searcher();
    std::thread::Builder::new().name(name).spawn(move || Worker { drive, jobs, searcher }.run())
}

struct Worker {
    drive: Arc<OpenDrive>,
    /// Orders to the drive's own thread, as long as somebody else holds it.
    jobs: mpsc::WeakSender<Job>,
    searcher: Searcher,
}

/// What a look at what is due led to.
enum Turn {
    Worked,
    Idle,
}

/// Waits between reads; interruptible.
struct Paced<'a> {
    scrub: &'a DriveScrub,
    /// Bytes per second; 0: no limit.
    rate: u64,
}

impl Pace for Paced<'_> {
    fn spend(&mut self, bytes: u64, took: Duration) -> Result<(), Halt> {
        let due = match self.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64).saturating_sub(took).max(took * REST),
        };
        if self.scrub.wait(due, |c| c.stop || c.paused || c.ordered) { Err(Halt::Interrupted) } else { Ok(()) }
    }
}

impl DriveScrub {
    /// Waits, at most for so long, until something is true of the orders; says whether it is.
    fn wait(&self, most: Duration, until: impl Fn(&super::Control) -> bool) -> bool {
        let control = self.control();
        if most.is_zero() || until(&control) {
            return until(&control);
        }
        let waited = self.wake.wait_timeout_while(control, most, |control| !until(control));
        until(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn set_state(&self, state: ScrubState) {
        self.progress().state = state;
    }
}

impl Worker {
    fn run(mut self) {
        // Some systems tie a thread's share of the drive to it as well. Without it scrub only sleeps.
        let _nicer = rustix::process::nice(NICE);
        let drive = Arc::clone(&self.drive);
        let scrub = &drive.scrub;
        if drive.disk.sabotage().is(Sabotage::ScrubCursor) {
            self.forget_cursor();
        }
        scrub.wait(scrub.shared.config.settle, |c| c.stop || c.ordered);
        loop {
            let wait = match self.turn() {
                Ok(Turn::Worked) | Err(Halt::Interrupted) => Duration::ZERO,
                Ok(Turn::Idle) => scrub.shared.config.look_every,
                Err(Halt::NotNow(reason)) => {
                    tracing::warn!(drive = %drive.identity.drive, reason, "scrub waits: it can't read now");
                    scrub.shared.config.look_every
                }
                Err(Halt::Gone(reason)) => {
                    tracing::warn!(drive = %drive.identity.drive, reason, "scrub of a drive ends: it is gone");
                    return scrub.set_state(ScrubState::Stopped);
                }
            };
            // An order or the end of a pause wakes it; so does nothing else that it must not miss.
            scrub.wait(wait, |c| c.stop || (c.ordered && !c.paused));
            if scrub.control().stop {
                return;
            }
        }
    }

    /// What is left of a pass without [`Sabotage::ScrubCursor`]: its beginning.
    fn forget_cursor(&self) {
        if let Ok(pass) = self.drive.scrub.rows.pass() {
            let _saved = self.save(KvBatch::new(), &Pass { segment: 0, chain: None, bytes: 0, ..pass });
        }
    }

    fn turn(&mut self) -> Result<Turn, Halt> {
        let drive = Arc::clone(&self.drive);
        let scrub = &drive.scrub;
        if let Some(reason) = drive.health.failed() {
            return Err(Halt::Gone(reason));
        }
        if scrub.control().paused {
            scrub.set_state(ScrubState::Paused);
            scrub.wait(Duration::from_secs(3600), |c| c.stop || !c.paused);
            return Ok(Turn::Worked);
        }
        let mut pass = scrub.rows.pass()?;
        let config = Arc::clone(&scrub.shared.config);
        if scrub.control().ordered {
            pass = self.begin(&pass, true)?;
        }
        if config.by_itself && self.check_young()? {
            return Ok(Turn::Worked);
        }
        let age = u128::from(scrub.now().saturating_sub(pass.began_ms));
        let due = pass.began_ms == 0 || age >= spread(config.period).as_millis();
        if !pass.active && due && config.by_itself {
            pass = self.begin(&pass, false)?;
        }
        if !pass.active {
            scrub.set_state(ScrubState::Waiting);
            return Ok(Turn::Idle);
        }
        scrub.set_state(ScrubState::Running);
        self.slice(pass).map(|()| Turn::Worked)
    }

    fn begin(&mut self, before: &Pass, ordered: bool) -> Result<Pass, Halt> {
        let scrub = &self.drive.scrub;
        let last = self.drive.segments.read().unwrap_or_else(PoisonError::into_inner).keys().next_back().copied();
        let pass = Pass {
            active: true,
            ordered,
            began_ms: scrub.now().max(1),
            ended_ms: before.ended_ms,
            last_segment: last.unwrap_or(0),
            ..Pass::NONE
        };
        self.mend_headers();
        scrub.findings.count_anew();
        let mut batch = KvBatch::new();
        scrub.rows.put_ordered(&mut batch, false);
        self.save(batch, &pass)?;
        scrub.control().ordered = false;
        Ok(pass)
    }

    /// Has segment headers restored that an earlier pass found broken; this one sees whether it helped.
    fn mend_headers(&self) {
        for number in self.drive.scrub.findings.broken_headers() {
            let Some(jobs) = self.jobs.upgrade() else { return };
            let (reply, answer) = oneshot::channel();
            if jobs.blocking_send(Job::MendHeader { number, reply }).is_ok()
                && let Ok(Err(error)) = answer.blocking_recv()
            {
                tracing::warn!(drive = %self.drive.identity.drive, number, %error, "a segment's header can't be mended");
            }
        }
    }

    fn save(&self, mut batch: KvBatch, pass: &Pass) -> Result<(), Halt> {
        let scrub = &self.drive.scrub;
        scrub.rows.put_pass(&mut batch, pass);
        scrub.rows.write(batch)?;
        scrub.progress().pass = *pass;
        Ok(())
    }

    /// Reads on where the pass stands, for a slice or to the end of a segment.
    fn slice(&mut self, mut pass: Pass) -> Result<(), Halt> {
        let next = {
            let segments = self.drive.segments.read().unwrap_or_else(PoisonError::into_inner);
            segments.range(pass.segment..).next().map(|(_, meta)| Arc::clone(meta))
        };
        let Some(meta) = next.filter(|meta| meta.header.number <= pass.last_segment) else {
            return self.finish(pass);
        };
        if meta.header.number != pass.segment {
            (pass.segment, pass.chain) = (meta.header.number, None);
        }
        let mut batch = KvBatch::new();
        let walked = self.walk(&mut pass, &meta, &mut batch);
        // Also what an interrupted slice has found is kept.
        self.save(batch, &pass)?;
        walked
    }

    fn walk(&mut self, pass: &mut Pass, meta: &Arc<SegmentMeta>, batch: &mut KvBatch) -> Result<(), Halt> {
        let drive = Arc::clone(&self.drive);
        let mut paced = Paced { scrub: &drive.scrub, rate: self.rate(pass)? };
        let mut tools = Tools { pace: &mut paced, searcher: &mut self.searcher, batch };
        let done = pass.chain.map_or(0, |chain| chain.block);
        let bytes = pass.bytes;
        if let Some(mut walk) = Walk::begin(&drive, Arc::clone(meta), pass.chain, &mut tools)? {
            drive.scrub.progress().medium = walk.medium();
            while walk.step(&mut tools)? {
                pass.chain = Some(walk.chain());
                pass.bytes = bytes + walk.chain().block.saturating_sub(done) * BLOCK_BYTES;
                if pass.bytes - bytes >= SLICE {
                    return Ok(());
                }
            }
        }
        (pass.segment, pass.chain) = (meta.header.number + 1, None);
        Ok(())
    }

    /// The end of a pass: forgets findings of segments that are gone, and notes those that nobody could read.
    fn finish(&mut self, pass: Pass) -> Result<(), Halt> {
        let drive = &self.drive;
        let mut batch = KvBatch::new();
        let mut lost = drive.lost_segments();
        lost.extend(drive.segments_astray()?);
        for &segment in &lost {
            drive.note_lost(segment)?;
        }
        let is_there = |number| drive.segment(number).is_some() || lost.contains(&number);
        drive.scrub.findings.clear_gone(&mut batch, is_there);
        drive.note_unindexed(None, None)?;
        self.forget_dead(&lost)?;
        let ended_ms = drive.scrub.now().max(1);
        let pass = Pass { active: false, ordered: false, ended_ms, chain: None, ..pass };
        self.save(batch, &pass)?;
        // Who waits for the end of a pass wants to see what it did.
        drive.scrub.forget_tally();
        drive.scrub.set_state(ScrubState::Waiting);
        Ok(())
    }

    /// What was freed in segments that are not there any more need not be remembered.
    fn forget_dead(&self, lost: &BTreeSet<u64>) -> Result<(), Halt> {
        let rows = &self.drive.scrub.rows;
        let mut from = 0;
        loop {
            let dead = rows.list_dead(from, DEAD_STEP)?;
            let Some(last) = dead.last().map(|place| place.segment) else { return Ok(()) };
            let mut batch = KvBatch::new();
            // A segment that is missed may still be asked about: as long as a header names it.
            let gone = |number| self.drive.segment(number).is_none() && !lost.contains(&number);
            for place in dead.iter().filter(|place| gone(place.segment)) {
                rows.delete_dead(&mut batch, *place);
            }
            // A segment with more of them than one step takes is there, or is seen again.
            from = if batch.is_empty() { last + 1 } else { last };
            rows.write(batch)?;
        }
    }

    /// Bytes per second that bring the pass to its end in time; 0: no limit.
    fn rate(&self, pass: &Pass) -> Result<u64, Halt> {
        let scrub = &self.drive.scrub;
        let config = &scrub.shared.config;
        if config.max_rate == 0 || pass.ordered {
            return Ok(config.max_rate);
        }
        let left = self.drive.scrub_bytes()?.saturating_sub(pass.bytes);
        let time =
            spread(config.period).saturating_sub(Duration::from_millis(scrub.now().saturating_sub(pass.began_ms)));
        let needed = left / time.as_secs().max(1);
        Ok(needed.max(config.min_rate).clamp(1, config.max_rate))
    }

    /// Verifies new shards whose time has come. `true`: there may be more.
    fn check_young(&mut self) -> Result<bool, Halt> {
        let drive = Arc::clone(&self.drive);
        let scrub = &drive.scrub;
        let now = scrub.now();
        let mut due = scrub.rows.list_young(YOUNG_STEP)?;
        due.retain(|young| young.due_ms <= now);
        if due.is_empty() {
            return Ok(false);
        }
        scrub.set_state(ScrubState::Running);
        let mut paced = Paced { scrub, rate: scrub.shared.config.max_rate };
        let mut reader = ShardReader::new(&drive);
        for young in due {
            let began = Instant::now();
            self.check_one(&mut reader, &young, &mut paced)?;
            tracing::trace!(shard = %young.shard, took = ?began.elapsed(), "a new shard was verified");
        }
        Ok(true)
    }

    fn check_one(&self, reader: &mut ShardReader<'_>, young: &Young, pace: &mut dyn Pace) -> Result<(), Halt> {
        let scrub = &self.drive.scrub;
        let checks = scrub.rows.checks(young.shard)?;
        // A pass may have been there since it was due.
        if checks.is_some_and(|checks| checks.good_ms < young.due_ms) {
            let outcome = reader.check(young.shard, None, pace)?;
            reader.record(young.shard, &outcome)?;
        }
        let mut batch = KvBatch::new();
        scrub.rows.delete_young(&mut batch, young);
        if let Some(checks) = checks {
            scrub.schedule(&mut batch, young.shard, checks.written_ms, young.stage.saturating_add(1));
        }
        Ok(scrub.rows.write(batch)?)
    }
}

/// The part of a period over which a pass is spread, and after which the next one begins.
fn spread(period: Duration) -> Duration {
    period.mul_f64(5.0 / 6.0)
}
