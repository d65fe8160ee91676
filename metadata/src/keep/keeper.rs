//! The keeper: looks, plans, mends, and says how things are.
//!
//! Invariants
//! * Nothing that the keeper remembers is needed after a restart: the next one finds it again.
//! * One round at a time, and one inventory; both may run beside each other.
//! * Whatever it does may be ended anywhere: what is half done is an orphan, or is done again.

mod back;
mod narrow;
mod round;
mod spread;

use self::narrow::Tried;
use super::config::KeepConfig;
use super::inventory::{InventoryReport, Met, Pass, unnamed};
use super::lanes::Lanes;
use super::plan::{Plan, Wait, Waiting, count_waits};
use super::rows::{RowsReport, Slice, scrub_rows};
use super::status::{Alarm, KeepStatus, Totals, WalkStatus};
use super::watch::{Drives, Sight};
use super::wounds::{Findings, Queue};
use crate::commit::Request;
use crate::index::IndexError;
use crate::journal::read_in_time;
use crate::keep::LONG_WORK;
use crate::seal::Sealer;
use crate::service::Shared;
use crate::stripe_writer::StripeWriter;
use codec::erasure::Geometry;
use codec::id::{DriveId, Lsn, StripeId};
use codec::stripe::StripeClass;
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage_node::keep::Subject;
use storage_node::kv::KvError;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet};

/// While there is work, rounds follow each other after this.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Stripes that wait, and those that are to be narrower, of which a plan that is shown lists so many; the rest is counted.
const LISTED: usize = 1000;
/// Rows of the index that one slice of the reference counts may take.
const SLICE_ROWS: u64 = 4 << 20;

/// Why a round, an inventory or a check of the rows ended early. The next one begins where it has to.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The thread that did it has ended.
    #[error("the service is stopping")]
    Stopping,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Stripes that were mended.
    pub mended: u64,
    /// Items that came to nothing.
    pub failed: u64,
    /// Stripes that something can be done about, and was not yet.
    pub left: usize,
    /// The walk over all stripes is not over, or a drive that is back is not verified.
    pub looking: bool,
    /// Stripes were brought further apart, and others could be.
    pub spreading: bool,
}

impl Round {
    /// Whether the next round has something to do at once.
    pub fn is_busy(&self) -> bool {
        self.left > 0 || self.looking || self.spreading
    }
}

/// What a keeper is made of.
pub struct KeeperParts {
    /// Drives, index, clock.
    pub(crate) shared: Arc<Shared>,
    /// Mends journal copies by sealing what they hold.
    pub(crate) sealer: Arc<Sealer>,
    /// Writes ledger stripes that are to be narrower.
    pub(crate) stripes: Arc<StripeWriter>,
    /// The committer.
    pub(crate) requests: mpsc::Sender<Request>,
    /// The cluster's geometry.
    pub geometry: Geometry,
    /// How it works.
    pub config: KeepConfig,
}

/// Keeps what is stored whole.
pub struct Keeper {
    parts: KeeperParts,
    /// The keeper's clock is the wall clock as it was at the start, and runs with monotonic time from there.
    base_ms: (u64, u64),
    work: tokio::sync::Mutex<Work>,
    shown: Mutex<Shown>,
    /// What the inventory found since the last round.
    inbox: Mutex<Vec<Met>>,
    inventory: tokio::sync::Mutex<()>,
    slice: AtomicU32,
    paused: AtomicBool,
    wake: Notify,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("config", &self.parts.config).finish_non_exhaustive()
    }
}

/// What others may see without waiting for a round to end.
#[derive(Debug, Default)]
struct Shown {
    status: KeepStatus,
    plan: Plan,
    narrower: Vec<StripeId>,
    /// The index's store said that it is damaged; so it is until the restart that rebuilds it.
    damaged: Option<String>,
}

/// The walk over all stripes.
#[derive(Debug, Default)]
struct Walk {
    next: Vec<u8>,
    stripes: u64,
    /// Of these, how many have more shards on one node, in one rack, at one site than they may lose.
    crowded: [u64; 3],
}

/// What rounds remember of each other.
struct Work {
    drives: Drives,
    findings: Findings,
    queue: Queue,
    lanes: Lanes,
    /// Drives that are back and just being verified.
    verifying: back::Verifying,
    walk: Option<Walk>,
    walked: u64,
    /// What the last whole walk found crowded.
    crowded: [u64; 3],
    /// Of these, those that could be further apart.
    spread: spread::Spread,
    /// A whole walk has ended since a drive last changed.
    walked_all: bool,
    walk_at_ms: u64,
    /// When those who wait are looked at again.
    wake_at_ms: u64,
    usable: Vec<DriveId>,
    /// Drives that did not take a shard, and until when they are left alone.
    avoid: BTreeMap<DriveId, u64>,
    waits: HashMap<StripeId, Wait>,
    /// Stripes that are to be made narrower, and what they hold.
    narrower: BTreeMap<StripeId, StripeClass>,
    /// Ledger and checkpoint stripes among these that were tried.
    narrowed: BTreeMap<StripeId, Tried>,
    /// A checkpoint that is being written in place of one that is to be narrower; ends with the keeper.
    checkpoint: JoinSet<()>,
    inconsistent: BTreeSet<StripeId>,
    /// Drives that are back: how often they had been opened then, and the last stripe that was begun before that was noticed.
    returned: BTreeMap<DriveId, (u32, StripeId)>,
    /// Drives with damaged journal entries: when sealing was last tried for them, and why it failed.
    journal: BTreeMap<DriveId, Journal>,
    /// The entries that are damaged, and where.
    damaged: Vec<(DriveId, RangeInclusive<Lsn>)>,
    totals: Totals,
    plan: Plan,
}

#[derive(Debug, Default)]
struct Journal {
    tried_ms: Option<u64>,
    failed: Option<String>,
}

impl Work {
    /// Stripes that wait for such a reason.
    fn count_waits(&self, is: impl Fn(&Wait) -> bool) -> u64 {
        self.waits.values().filter(|wait| is(wait)).count() as u64
    }

    /// The plan as an operator wants to see it: what is still to be done of the last one, and all that it had no room for. The
    /// last plan alone is empty as soon as nothing is left but what waits.
    fn outlook(&self) -> Plan {
        let items: Vec<_> = self.plan.items.iter().filter(|item| self.queue.is_ready(item.stripe)).cloned().collect();
        let ready = self.queue.len().saturating_sub(self.queue.waiting());
        let waiting = self.queue.those_waiting().filter_map(|(stripe, slack, since_ms)| {
            let why = *self.waits.get(&stripe)?;
            Some(Waiting { stripe, slack, since_ms, why })
        });
        Plan {
            later: ready.saturating_sub(items.len()),
            items,
            narrower: self.narrower.keys().copied().take(LISTED).collect(),
            waiting: waiting.take(LISTED).collect(),
            oldest_ms: self.queue.oldest_ms(),
        }
    }
}

impl Keeper {
    /// A keeper that has not looked yet.
    pub fn new(parts: KeeperParts) -> Arc<Keeper> {
        let clock = &parts.shared.clock;
        let base_ms = (clock.wall_ms(), clock.monotonic_ms());
        let KeepConfig { drive_rate, per_drive, .. } = parts.config;
        let work = Work {
            drives: Drives::since(&parts.shared.seen_drives()),
            findings: Findings::default(),
            queue: Queue::default(),
            lanes: Lanes::new(drive_rate, per_drive),
            verifying: back::Verifying::new(),
            walk: Some(Walk::default()),
            walked: 0,
            crowded: [0; 3],
            spread: spread::Spread::default(),
            walked_all: false,
            walk_at_ms: 0,
            wake_at_ms: 0,
            usable: Vec::new(),
            avoid: BTreeMap::new(),
            waits: HashMap::new(),
            narrower: BTreeMap::new(),
            narrowed: BTreeMap::new(),
            checkpoint: JoinSet::new(),
            inconsistent: BTreeSet::new(),
            returned: BTreeMap::new(),
            journal: BTreeMap::new(),
            damaged: Vec::new(),
            totals: Totals::default(),
            plan: Plan::default(),
        };
        // Nothing was counted yet: an operator who asks now is not told that all is well.
        let unseen = Shown {
            status: KeepStatus { walk: WalkStatus { running: true, ..WalkStatus::default() }, ..KeepStatus::default() },
            ..Shown::default()
        };
        Arc::new(Keeper {
            parts,
            base_ms,
            work: tokio::sync::Mutex::new(work),
            shown: Mutex::new(unseen),
            inbox: Mutex::default(),
            inventory: tokio::sync::Mutex::default(),
            slice: AtomicU32::new(0),
            paused: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    /// Milliseconds since the Unix epoch, as the wall clock was at the start and monotonic time has gone on since.
    pub fn now_ms(&self) -> u64 {
        let (wall, monotonic) = self.base_ms;
        wall.saturating_add(self.parts.shared.clock.monotonic_ms().saturating_sub(monotonic))
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How things were at the end of the last round.
    pub fn status(&self) -> KeepStatus {
        let mut status = self.shown().status.clone();
        status.repair_paused = self.is_paused();
        status
    }

    /// What is to be done as of the last round, and what waits: of each list the first [`LISTED`], the most endangered first.
    pub fn plan(&self) -> Plan {
        self.shown().plan.clone()
    }

    /// Data stripes that are to be made narrower, because no spare drive is left for their lost shards: work for restriping. One
    /// stays in the list until its row is gone, or it is whole.
    pub fn narrower(&self) -> Vec<StripeId> {
        self.shown().narrower.clone()
    }

    /// Stops repair, or lets it go on. Looking goes on in any case.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Whether an operator has paused repair.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Begins a round soon.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Takes up what the drives list, before anybody is served: findings survive a restart, and without them a chunk in a
    /// stripe that is known to be rotten would be a dedup hit until the first round. A drive that takes longer than `limit`
    /// to answer is asked by the first round.
    ///
    /// # Errors
    /// The index failed.
    pub async fn begin(&self, limit: Duration) -> Result<(), KeepError> {
        let mut work = self.work.lock().await;
        let now = self.look(&mut work).await?;
        self.poll(&mut work, &now, limit).await?;
        self.publish(&mut work);
        Ok(())
    }

    /// One round: looks at the drives and their findings, walks and verifies a little, plans, and mends.
    ///
    /// # Errors
    /// The index failed.
    pub async fn run_once(&self) -> Result<Round, KeepError> {
        let mut work = self.work.lock().await;
        let round = self.note_damage(self.round(&mut work).await);
        self.publish(&mut work);
        self.show(&work).await;
        round
    }

    /// Takes the inventory of all drives that can be asked.
    ///
    /// # Errors
    /// The index failed.
    pub async fn take_inventory(&self) -> Result<InventoryReport, KeepError> {
        self.note_damage(self.inventory_pass().await)
    }

    async fn inventory_pass(&self) -> Result<InventoryReport, KeepError> {
        let _one_at_a_time = self.inventory.lock().await;
        let shared = &self.parts.shared;
        let drives: Vec<DriveId> = shared.node.drives().await.into_iter().map(|drive| drive.id).collect();
        // Before the pass: what is damaged while it goes by is for the next one to settle.
        let unnamed = join_all(drives.iter().map(|drive| unnamed(&*shared.node, *drive))).await;
        let unnamed: BTreeMap<DriveId, Vec<Subject>> = drives.iter().copied().zip(unnamed).collect();
        let mut pass = Pass::new(drives, self.now_ms());
        loop {
            let (met, last) =
                pass.step(&*shared.node, &*shared.kv, self.parts.config.pause_rows, self.now_ms()).await?;
            let found = !met.is_empty();
            self.inbox.lock().unwrap_or_else(PoisonError::into_inner).extend(met);
            if found {
                self.wake.notify_one();
            }
            if last {
                break;
            }
            tokio::time::sleep(self.parts.config.pause).await;
        }
        for drive in pass.whole() {
            let Some(unnamed) = unnamed.get(&drive).filter(|unnamed| !unnamed.is_empty()) else { continue };
            match read_in_time(drive, LONG_WORK, shared.node.settle_unnamed(drive, unnamed.clone())).await {
                Ok(settled) => pass.report.settled += settled,
                Err(error) => tracing::warn!(%drive, %error, "what is damaged on a drive and nobody's stays listed"),
            }
        }
        pass.report.ended_ms = self.now_ms();
        self.shown().status.inventory = Some(pass.report.clone());
        Ok(pass.report)
    }

    /// Checks the rows of the index as of now.
    ///
    /// # Errors
    /// The index failed, or can't be read as of one moment.
    pub async fn scrub_rows(&self) -> Result<RowsReport, KeepError> {
        self.note_damage(self.rows_pass().await)
    }

    /// A damaged store is an alarm, whoever met it: a warning in the log is seen by nobody.
    fn note_damage<T>(&self, result: Result<T, KeepError>) -> Result<T, KeepError> {
        if let Err(KeepError::Index(IndexError::Store(error @ KvError::Corrupt { .. }))) = &result {
            self.shown().damaged.get_or_insert_with(|| error.to_string());
        }
        result
    }

    async fn rows_pass(&self) -> Result<RowsReport, KeepError> {
        let kv = self.parts.shared.kv.clone();
        let KeepConfig { pause_rows, pause, .. } = self.parts.config;
        let of = u32::try_from(kv.stats().rows / SLICE_ROWS + 1).unwrap_or(u32::MAX);
        let slice = Slice { number: self.slice.fetch_add(1, Ordering::Relaxed) % of, of };
        // When this future is dropped the thread ends at its next pause.
        let alive = Arc::new(());
        let watched = Arc::downgrade(&alive);
        let scrub = tokio::task::spawn_blocking(move || {
            let mut rows = 0usize;
            scrub_rows(&*kv, slice, &mut || {
                rows += 1;
                if rows.is_multiple_of(pause_rows.max(1)) {
                    std::thread::sleep(pause);
                    return watched.strong_count() > 0;
                }
                true
            })
        });
        let report = scrub.await.map_err(|_| KeepError::Stopping)??;
        drop(alive);
        self.shown().status.rows = Some((self.now_ms(), report.clone()));
        Ok(report)
    }

    async fn show(&self, work: &Work) {
        let scrub = self.parts.shared.node.scrub_status().await;
        let now_ms = self.now_ms();
        let mut shown = self.shown();
        let before = &shown.status;
        let mut status = KeepStatus {
            now_ms,
            repair_paused: self.is_paused(),
            wounded: work.queue.by_slack(),
            waiting: work.queue.waiting() as u64,
            waits: count_waits(work.waits.values().copied()),
            beyond: work.count_waits(|wait| matches!(wait, Wait::Beyond { .. })),
            overflowed: work.queue.overflowed,
            oldest_repair_ms: work.queue.oldest_ms().map(|since_ms| now_ms.saturating_sub(since_ms)),
            walk: WalkStatus { running: work.walk.is_some(), stripes: work.walked, whole: work.walked_all },
            totals: work.totals,
            crowded: work.crowded,
            narrower: work.narrower.len() as u64,
            drives: work.drives.iter().collect(),
            inventory: before.inventory.clone(),
            rows: before.rows.clone(),
            scrub,
            alarms: Vec::new(),
        };
        status.alarms = alarms(work, &status, self.parts.config.repair.grace_ms);
        status.alarms.extend(shown.damaged.clone().map(|reason| Alarm::Index { reason }));
        status.alarms.sort();
        shown.status = status;
        shown.plan = work.outlook();
        let data = work.narrower.iter().filter(|(_, class)| **class == StripeClass::Data);
        shown.narrower = data.map(|(id, _)| *id).collect();
    }

    /// The background tasks.
    pub fn tasks(self: &Arc<Keeper>) -> Vec<JoinHandle<()>> {
        let Some(every) = self.parts.config.every else { return Vec::new() };
        let KeepConfig { first_after_ms, inventory_every_ms, rows_every_ms, .. } = self.parts.config;
        let first = Duration::from_millis(first_after_ms);
        let (rounds, inventory, rows) = (self.clone(), self.clone(), self.clone());
        vec![
            tokio::spawn(async move { rounds.rounds(every).await }),
            tokio::spawn(async move {
                tokio::time::sleep(first).await;
                loop {
                    if let Err(error) = inventory.take_inventory().await {
                        tracing::warn!(%error, "the inventory was not taken");
                    }
                    tokio::time::sleep(Duration::from_millis(inventory_every_ms)).await;
                }
            }),
            tokio::spawn(async move {
                tokio::time::sleep(first).await;
                loop {
                    if let Err(error) = rows.scrub_rows().await {
                        tracing::warn!(%error, "the rows of the index were not checked");
                    }
                    tokio::time::sleep(Duration::from_millis(rows_every_ms)).await;
                }
            }),
        ]
    }

    async fn rounds(&self, every: Duration) {
        loop {
            let pause = match self.run_once().await {
                Ok(round) if round.is_busy() && !self.is_paused() => BUSY_PAUSE,
                Ok(_) => every,
                Err(error) => {
                    tracing::warn!(%error, "a round of repair ended early");
                    every
                }
            };
            // Woken or not: the next round looks at everything.
            let _ = tokio::time::timeout(pause, self.wake.notified()).await;
        }
    }
}

fn alarms(work: &Work, status: &KeepStatus, grace_ms: u64) -> Vec<Alarm> {
    let mut alarms: Vec<Alarm> = work.inconsistent.iter().map(|stripe| Alarm::Inconsistent(*stripe)).collect();
    let mut waits = |stripes: u64, alarm: fn(u64) -> Alarm| {
        if stripes > 0 {
            alarms.push(alarm(stripes));
        }
    };
    waits(status.beyond, |stripes| Alarm::Beyond { stripes });
    waits(work.count_waits(|wait| *wait == Wait::NoRoom), |stripes| Alarm::NoRoom { stripes });
    waits(work.count_waits(|wait| *wait == Wait::TooFewDrives), |stripes| Alarm::TooFewDrives { stripes });
    let spare = |wait: &Wait| matches!(wait, Wait::Replacement { .. } | Wait::NoSpare);
    waits(work.count_waits(spare), |stripes| Alarm::NoSpare { stripes });
    for (drive, seen) in &status.drives {
        if let Sight::Silent { since_ms } = seen.sight {
            let for_ms = status.now_ms.saturating_sub(since_ms);
            alarms.extend((for_ms >= grace_ms).then_some(Alarm::Silent { drive: *drive, for_ms }));
        }
    }
    let journal = |(drive, journal): (&DriveId, &Journal)| {
        Some(Alarm::Journal { drive: *drive, reason: journal.failed.clone()? })
    };
    alarms.extend(work.journal.iter().filter_map(journal));
    let faults = status.rows.as_ref().map_or(0, |(_, report)| report.faults);
    let faults = faults.max(status.inventory.as_ref().map_or(0, |report| report.bad_rows));
    alarms.extend((faults > 0).then_some(Alarm::Rows { faults }));
    alarms.extend(status.overflowed.then_some(Alarm::Overflowed));
    alarms
}
