//! Reclaim: giving back the space of what nobody needs, and never that of anything else.
//!
//! One round at a time:
//! 1. Is anything held? A switch, a hold, or a loss that was accepted and not released (R10). Then nothing happens.
//! 2. Does a drive remember a delete that a later state of metadata than this one ordered? Then this state came back from the
//!    past: reclaim is held, journaled, until an operator has looked (R10).
//! 3. A mark pass ([`super::mark`]). One that is not complete ends the round: unknown is not unreferenced (R11, R13).
//! 4. Chunks that were condemned before the pass, for longer than the grace, and that it did not see, are deleted; those that it
//!    did see are Live again. Live chunks without a reference are condemned: their grace begins.
//! 5. Stripes in which the pass counted no chunk are read: what their frames' headers name is compared with the rows once more
//!    in the commit that drops them. So two looks that share nothing agree before a stripe goes.
//! 6. Stripes that were dropped longer ago than a request can live are freed on their drives ([`READERS_GRACE_MS`], R12): whoever
//!    looked a place up before the drop has ended. Drives read each header again and refuse what they don't recognise.
//! 7. Once after a start: shards of stripes that nobody knows are freed if their epoch is fenced, never by age (R9): a stripe of
//!    a fenced epoch can't become known any more, since its commit is refused. A repair may be writing a shard of a stripe that
//!    is known, so those are left alone whatever drive they are on. Ledger and checkpoint shards are never orphans: a lost
//!    index is rebuilt from them. One drive that can't be listed, one frame whose place is lost, or too many orphans at once
//!    (an index that lacks what it should know), and none is freed.
//!
//! Steps 4 to 7 share an allowance of bytes per day that begins with nothing at each start: a mistake shows before it is
//! everything, and a program that restarts again and again frees no faster.

use super::LONG_WORK;
use super::frames::frames_of;
use super::keeper::Keeper;
use super::mark::{Cursor, Limits, MarkError, Marks, Usage, mark};
use super::restripe::{self, RestripePolicy};
use crate::client::CommitError;
use crate::command::{Command, DeleteChunks, DroppedStripe, MIN_GRACE_MS, Outcome, UnmarkedChunk};
use crate::commit::Request;
use crate::index::reclaim::{self, Hold, MAX_GRACE_MS};
use crate::index::{self, IndexError, Overlay};
use crate::journal::{Patience, read_in_time};
use crate::keys::Keys;
use crate::lookup;
use crate::seal::Sealer;
use crate::service::Shared;
use crate::stripe_writer::{StoreError, StripeWriter};
use codec::effect::{DriveState, StripeRow};
use codec::id::{DriveId, Epoch, Lsn, ShardId, StripeId};
use codec::stripe::StripeDescriptor;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage_node::client::{NodeClient, ReadError, WriteError, in_time};
use storage_node::keep::{Authority, ShardRef};
use storage_node::sabotage::Sabotage;
use tokio::sync::{Notify, mpsc, oneshot};

mod orphans;

/// How long a dropped stripe's shards stay: as long as a request lives (R9).
pub const READERS_GRACE_MS: u64 = 12 * 3600 * 1000;
/// Chunks of one commit, their children counted.
const COMMIT_ROWS: usize = 50_000;
/// Stripes that are freed before the next commit that says so.
const FREE_STRIPES: usize = 256;
/// How often the keeper is asked for stripes that find no drive.
const NARROWER_EVERY: Duration = Duration::from_secs(60);
/// One that was rewritten, or could not be, is looked at again after this.
const NARROWER_AGAIN: Duration = Duration::from_secs(3600);
/// The first round after a start begins after this.
const FIRST_AFTER: Duration = Duration::from_secs(15 * 60);
const DAY_MS: u64 = 24 * 3600 * 1000;

/// How reclaim works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReclaimConfig {
    /// A round begins this long after the one before; `None`: only when it is asked for.
    pub every: Option<Duration>,
    /// How long a chunk stays condemned, in milliseconds of the steady count; 24 hours at least, 90 days at most.
    pub grace_ms: u64,
    /// Bytes that may be freed in a day, in percent of all drives; 100 or more: no limit.
    pub daily_percent: u8,
    /// How much one pass takes on.
    pub limits: Limits,
    /// Which stripes are rewritten.
    pub restripe: RestripePolicy,
}

impl Default for ReclaimConfig {
    fn default() -> ReclaimConfig {
        ReclaimConfig {
            every: Some(Duration::from_secs(6 * 3600)),
            grace_ms: 7 * DAY_MS,
            daily_percent: 10,
            limits: Limits::default(),
            restripe: RestripePolicy::default(),
        }
    }
}

impl ReclaimConfig {
    /// The grace that counts.
    pub fn grace(&self) -> u64 {
        self.grace_ms.clamp(MIN_GRACE_MS, MAX_GRACE_MS)
    }
}

/// Why a round ended early. What was done until then is done, and the next round begins again.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// The pass was not complete: nothing was deleted.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A change was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A stripe could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A drive has freed for a later state than this one.
    #[error("drive {drive} has freed for epoch {} and LSN {}, which this index knows nothing of", seen.epoch, seen.lsn)]
    Behind {
        /// The drive.
        drive: DriveId,
        /// What it remembers.
        seen: Authority,
    },
    /// The committer has ended.
    #[error("the service is stopping")]
    Stopping,
}

/// What a round did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReclaimReport {
    /// Why nothing was done, if something holds reclaim.
    pub held: Option<Hold>,
    /// Chunks that were condemned because nothing refers to them.
    pub condemned: u64,
    /// Chunks that were deleted.
    pub deleted: u64,
    /// Condemned chunks that turned out to be referenced.
    pub spared: u64,
    /// Stripes that were dropped.
    pub dropped: u64,
    /// Stripes whose shards were freed.
    pub freed: u64,
    /// Shards of stripes that nobody knows, freed.
    pub orphans: u64,
    /// Bytes given back.
    pub bytes: u64,
    /// Frames that were moved into fuller stripes.
    pub moved: u64,
    /// Stripes that were left as they are, because not all of their frames could be read.
    pub unread: u64,
    /// Something was left for the next day.
    pub allowance_used: bool,
}

/// How reclaim is, for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReclaimStatus {
    /// What holds it.
    pub held: Option<Hold>,
    /// Rounds since the start.
    pub rounds: u64,
    /// The last round.
    pub last: ReclaimReport,
    /// Why the last round ended early; empty when it did not.
    pub error: String,
    /// Everything that was freed since the start, in bytes.
    pub bytes: u64,
    /// Dropped stripes that wait to be freed; at most 10,000 are counted.
    pub waiting: usize,
}

/// What may still be freed: fills up evenly, to a day's worth at most, and begins with nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    left: u64,
    at_ms: u64,
}

impl Allowance {
    /// Adds what has come up since the last time.
    pub fn fill(&mut self, per_day: u64, now_ms: u64) {
        let passed = u128::from(now_ms.saturating_sub(self.at_ms));
        let more = u64::try_from(u128::from(per_day) * passed / u128::from(DAY_MS)).unwrap_or(u64::MAX);
        // What a short time adds is not rounded away again and again.
        if more > 0 || per_day == 0 {
            self.at_ms = now_ms;
        }
        self.left = self.left.saturating_add(more).min(per_day);
    }

    /// Takes `bytes` off, if there are as many.
    pub fn take(&mut self, bytes: u64) -> bool {
        self.left.checked_sub(bytes).map(|left| self.left = left).is_some()
    }
}

/// What a reclaimer is made of.
pub struct ReclaimParts {
    /// Drives, index, clock.
    pub(crate) shared: Arc<Shared>,
    /// Opens the keys of manifest chunks.
    pub(crate) keys: Keys,
    /// Writes stripes.
    pub(crate) stripes: Arc<StripeWriter>,
    /// Makes the moves that emptied a stripe as durable as what it held.
    pub(crate) sealer: Arc<Sealer>,
    /// The committer.
    pub(crate) requests: mpsc::Sender<Request>,
    /// The epoch of this start.
    pub epoch: Epoch,
    /// The last LSN that was applied before this start committed anything.
    pub started_at: Lsn,
    /// How it works.
    pub config: ReclaimConfig,
}

/// Gives space back.
pub struct Reclaimer {
    parts: ReclaimParts,
    work: tokio::sync::Mutex<Work>,
    shown: Mutex<ReclaimStatus>,
    wake: Notify,
}

#[derive(Default)]
struct Work {
    cursor: Cursor,
    allowance: Allowance,
    unlimited: bool,
    orphans_done: bool,
    /// The journal was sealed, or that was tried, in this round.
    sealing: bool,
    report: ReclaimReport,
}

impl Work {
    fn may_free(&mut self, bytes: u64) -> bool {
        let may = self.unlimited || self.allowance.take(bytes);
        self.report.allowance_used |= !may;
        may
    }
}

impl fmt::Debug for Reclaimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reclaimer").field("config", &self.parts.config).finish_non_exhaustive()
    }
}

/// Whether a drive has freed for a state of metadata that this one, which began with `started_at`, does not continue (R10).
pub fn is_behind(seen: Authority, epoch: Epoch, started_at: Lsn) -> bool {
    seen.epoch > epoch || (seen.epoch < epoch && seen.lsn > started_at)
}

/// The first drive that has freed for a later state than this start's, if there is one.
pub(crate) async fn behind(node: &dyn NodeClient, epoch: Epoch, started_at: Lsn) -> Option<(DriveId, Authority)> {
    for drive in node.drives().await {
        // One that does not answer is asked again before anything is freed on it.
        if let Ok(seen) = authority_of(node, drive.id).await
            && is_behind(seen, epoch, started_at)
        {
            return Some((drive.id, seen));
        }
    }
    None
}

impl Reclaimer {
    /// A reclaimer that has done nothing yet.
    pub fn new(parts: ReclaimParts) -> Arc<Reclaimer> {
        let (work, shown, wake) = (tokio::sync::Mutex::default(), Mutex::default(), Notify::new());
        Arc::new(Reclaimer { parts, work, shown, wake })
    }

    fn shown(&self) -> MutexGuard<'_, ReclaimStatus> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> Overlay<'_> {
        Overlay::new(&*self.parts.shared.kv)
    }

    /// How reclaim is.
    pub fn status(&self) -> ReclaimStatus {
        let mut status = self.shown().clone();
        status.held = reclaim::hold(&self.view()).ok().flatten();
        status.waiting = reclaim::dropped(&self.view(), StripeId::default(), 10_000).map_or(0, |rows| rows.len());
        status
    }

    /// Lets reclaim go on after a hold: an operator has looked (R10).
    pub async fn release(&self) -> Result<(), ReclaimError> {
        let node = &self.parts.shared.node;
        let mut floor = Lsn(0);
        for drive in node.drives().await {
            // One that does not answer now, and remembers more, holds reclaim again when it is back.
            floor = floor.max(authority_of(&**node, drive.id).await.map_or(Lsn(0), |seen| seen.lsn));
        }
        self.commit(Command::ReleaseReclaim { floor }).await?;
        self.wake.notify_one();
        Ok(())
    }

    /// Holds reclaim until it is released.
    pub async fn hold(&self, reason: &str) -> Result<(), ReclaimError> {
        self.commit(Command::HoldReclaim { reason: reason.to_owned() }).await.map(drop)
    }

    /// Rounds, one after the other, until the task is ended.
    pub async fn run(self: Arc<Self>) {
        let Some(every) = self.parts.config.every else { return };
        // The first round waits too, since a start has better things to do, but not for as long: a machine that is off every
        // night would never come to it.
        let mut wait = every.min(FIRST_AFTER);
        loop {
            // Woken early by a release, or not: the round is the same.
            let _ = tokio::time::timeout(wait, self.wake.notified()).await;
            wait = every;
            match self.round().await {
                Ok(report) if report == ReclaimReport::default() => {}
                Ok(report) => tracing::info!(?report, "reclaim"),
                Err(error) => {
                    tracing::warn!(%error, "reclaim ended early; nothing that it was not sure of was deleted")
                }
            }
        }
    }

    /// One round.
    pub async fn round(&self) -> Result<ReclaimReport, ReclaimError> {
        let mut work = self.work.lock().await;
        work.report = ReclaimReport::default();
        work.sealing = false;
        let result = self.steps(&mut work).await;
        let report = work.report.clone();
        let mut shown = self.shown();
        shown.rounds += 1;
        shown.bytes = shown.bytes.saturating_add(report.bytes);
        shown.error = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        shown.last = report.clone();
        result.map(|()| report)
    }

    fn is_held(&self, work: &mut Work) -> Result<bool, ReclaimError> {
        work.report.held = reclaim::hold(&self.view())?;
        Ok(work.report.held.is_some() && !self.parts.shared.sabotage.is(Sabotage::ReclaimHold))
    }

    async fn steps(&self, work: &mut Work) -> Result<(), ReclaimError> {
        if self.is_held(work)? {
            return Ok(());
        }
        self.check_authority().await?;
        self.fill_allowance(work).await;
        let ReclaimConfig { limits, .. } = self.parts.config;
        let (shared, keys, grace) = (&self.parts.shared, &self.parts.keys, self.parts.config.grace());
        let marks = mark(shared, keys, work.cursor, limits, grace).await?;
        work.cursor = marks.next;
        self.chunks(work, &marks).await?;
        self.drop_stripes(work, &marks).await?;
        self.free_stripes(work).await?;
        if !work.orphans_done && !marks.lost {
            work.orphans_done = self.orphans(work).await?;
        }
        self.restripe(work, &marks.usage).await
    }

    /// Step 2.
    async fn check_authority(&self) -> Result<(), ReclaimError> {
        let (epoch, started_at) = (self.parts.epoch, self.known()?);
        let Some((drive, seen)) = behind(&*self.parts.shared.node, epoch, started_at).await else { return Ok(()) };
        let error = ReclaimError::Behind { drive, seen };
        self.hold(&error.to_string()).await?;
        Err(error)
    }

    /// Up to where this state, or an operator, knows what was deleted.
    fn known(&self) -> Result<Lsn, ReclaimError> {
        Ok(self.parts.started_at.max(reclaim::floor(&self.view())?))
    }

    async fn fill_allowance(&self, work: &mut Work) {
        let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
        for drive in self.parts.shared.node.drives().await {
            sizes.insert(drive.filesystem_id, drive.total);
        }
        let percent = self.parts.config.daily_percent;
        let total = sizes.values().fold(0u64, |sum, size| sum.saturating_add(*size));
        work.unlimited = percent >= 100;
        work.allowance.fill(total / 100 * u64::from(percent), self.parts.shared.clock.monotonic_ms());
    }

    pub(super) async fn commit(&self, command: Command) -> Result<Outcome, ReclaimError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit(self.parts.epoch, Box::new(command), reply);
        self.parts.requests.send(request).await.map_err(|_| ReclaimError::Stopping)?;
        Ok(answer.await.map_err(|_| ReclaimError::Stopping)??)
    }

    /// Commits items, and says how many took place.
    async fn done(&self, command: Command) -> Result<u64, ReclaimError> {
        match self.commit(command).await? {
            Outcome::Reclaimed { done, .. } => Ok(done),
            _ => Ok(0),
        }
    }

    /// Step 4.
    async fn chunks(&self, work: &mut Work, marks: &Marks) -> Result<(), ReclaimError> {
        for chunks in marks.marked.chunks(COMMIT_ROWS) {
            tracing::warn!(chunks = chunks.len(), "chunks without references by count are named after all");
            work.report.spared += self.done(Command::SpareChunks(chunks.to_vec())).await?;
        }
        let mut batch: Vec<UnmarkedChunk> = Vec::new();
        let mut rows = 0;
        for (chunk, bytes) in &marks.unmarked {
            if !work.may_free(*bytes) {
                break;
            }
            rows += 1 + chunk.children.len();
            batch.push(chunk.clone());
            if rows >= COMMIT_ROWS {
                rows = 0;
                self.delete(work, marks.began, std::mem::take(&mut batch)).await?;
            }
        }
        self.delete(work, marks.began, batch).await?;
        for chunks in marks.idle.chunks(COMMIT_ROWS) {
            work.report.condemned += self.done(Command::CondemnChunks(chunks.to_vec())).await?;
        }
        Ok(())
    }

    async fn delete(&self, work: &mut Work, began: Lsn, chunks: Vec<UnmarkedChunk>) -> Result<(), ReclaimError> {
        if !chunks.is_empty() {
            let delete = DeleteChunks { marked_from: began, grace_ms: self.parts.config.grace(), chunks };
            work.report.deleted += self.done(Command::DeleteChunks(delete)).await?;
        }
        Ok(())
    }

    /// Step 5.
    async fn drop_stripes(&self, work: &mut Work, marks: &Marks) -> Result<(), ReclaimError> {
        let everything = self.parts.shared.sabotage.is(Sabotage::DropCheck);
        for (id, usage) in marks.usage.iter().filter(|(_, usage)| usage.frames == 0 || everything) {
            let Some(layout) = lookup::layout(&self.view(), *id)? else { continue };
            if !work.may_free(usage.stored) {
                break;
            }
            let frames = match frames_of(&*self.parts.shared.node, &layout).await {
                Ok(laid) => laid.into_iter().map(|laid| (laid.id, laid.place.len)).collect(),
                Err(error) => {
                    tracing::warn!(stripe = %id, %error, "a stripe of no use is kept, since nobody can say what is in it");
                    work.report.unread += 1;
                    continue;
                }
            };
            let dropped = Command::DropStripes(vec![DroppedStripe { id: *id, frames }]);
            work.report.dropped += self.done(dropped).await?;
        }
        Ok(())
    }

    /// Step 6. A stripe is freed only when the entry that dropped it is sealed, and so is everything that moved its frames
    /// elsewhere. While these entries lie in the journal alone, a loss that is accepted there takes them back: the chunks would
    /// be in this stripe again, and the one that they were moved to would be of nobody.
    async fn free_stripes(&self, work: &mut Work) -> Result<(), ReclaimError> {
        let mut sealed = self.sealed()?;
        let mut from = StripeId::default();
        loop {
            let rows = reclaim::dropped(&self.view(), from, FREE_STRIPES)?;
            let last = rows.len() < FREE_STRIPES;
            let mut due = Vec::new();
            for (lsn, row) in rows {
                let descriptor = parse(&row)?;
                from = StripeId { counter: descriptor.id.counter.saturating_add(1), ..descriptor.id };
                if self.parts.shared.sabotage.is(Sabotage::FreeGrace)
                    || reclaim::is_over(&self.view(), lsn, READERS_GRACE_MS)?
                {
                    if lsn > sealed && !work.sealing {
                        work.sealing = true;
                        if let Err(error) = self.parts.sealer.seal_now().await {
                            tracing::warn!(%error, "dropped stripes are freed when the journal can be sealed");
                        }
                        sealed = self.sealed()?;
                    }
                    if lsn <= sealed {
                        due.push((descriptor, row));
                    }
                }
            }
            self.free(work, due).await?;
            if last {
                return Ok(());
            }
        }
    }

    fn sealed(&self) -> Result<Lsn, ReclaimError> {
        Ok(index::last_sealed(&self.view())?.map_or(Lsn(0), |row| Lsn(row.last)))
    }

    /// Frees the shards of dropped stripes. A stripe some of whose drives can't be reached waits for them; a drive that was
    /// removed is not waited for, since what comes back with it are orphans.
    async fn free(&self, work: &mut Work, due: Vec<(StripeDescriptor, StripeRow)>) -> Result<(), ReclaimError> {
        // Again, just before: what was dropped before a hold is not freed under it.
        if due.is_empty() || self.is_held(work)? {
            return Ok(());
        }
        let mut by_drive: BTreeMap<DriveId, Vec<ShardRef>> = BTreeMap::new();
        for (descriptor, row) in &due {
            let root = descriptor.root();
            for index in 0..descriptor.width() {
                if let Some(drive) = row.drive(index).filter(|_| descriptor.is_present(index)) {
                    let id = ShardId { stripe: descriptor.id, index };
                    by_drive.entry(drive).or_default().push(ShardRef { id, root });
                }
            }
        }
        let mut waiting: HashSet<StripeId> = HashSet::new();
        for (drive, shards) in by_drive {
            let stripes: Vec<StripeId> = shards.iter().map(|shard| shard.id.stripe).collect();
            if !self.free_on(work, drive, shards).await? {
                waiting.extend(stripes);
            }
        }
        let freed: Vec<StripeId> =
            due.iter().map(|(descriptor, _)| descriptor.id).filter(|id| !waiting.contains(id)).collect();
        if !freed.is_empty() {
            work.report.freed += self.done(Command::StripesFreed(freed)).await?;
        }
        Ok(())
    }

    /// Whether the shards are gone from this drive for good.
    async fn free_on(&self, work: &mut Work, drive: DriveId, shards: Vec<ShardRef>) -> Result<bool, ReclaimError> {
        let gone = index::drive(&self.view(), drive)?.is_none_or(|row| row.state == DriveState::Removed as i32);
        if gone {
            return Ok(true);
        }
        let node = &self.parts.shared.node;
        let Ok(seen) = authority_of(&**node, drive).await else { return Ok(false) };
        if is_behind(seen, self.parts.epoch, self.known()?) {
            let error = ReclaimError::Behind { drive, seen };
            self.hold(&error.to_string()).await?;
            return Err(error);
        }
        let authority = Authority { epoch: self.parts.epoch, lsn: index::applied(&self.view())?.0.max(self.known()?) };
        match in_time(drive, LONG_WORK, node.free_shards(drive, authority, shards)).await {
            Ok(freed) => {
                work.report.bytes = work.report.bytes.saturating_add(freed.bytes);
                for shard in &freed.refused {
                    tracing::warn!(%drive, %shard, "something else lies where a shard was to be freed: it is left alone");
                }
                Ok(true)
            }
            Err(WriteError::OldAuthority { drive, seen }) => {
                let error = ReclaimError::Behind { drive, seen };
                self.hold(&error.to_string()).await?;
                Err(error)
            }
            Err(error) => {
                tracing::debug!(%drive, %error, "shards are freed later");
                Ok(false)
            }
        }
    }

    /// Rewrites these stripes, each for itself, as wide as the drives of now allow: for those that have lost shards and find no
    /// drive for them. Nothing is deleted by it, so it works while reclaim is held. Returns how many frames moved.
    pub async fn rewrite(&self, stripes: &[StripeId]) -> Result<u64, ReclaimError> {
        let _one_at_a_time = self.work.lock().await;
        let mut done = restripe::Restriped::default();
        for id in stripes {
            let group = restripe::Group { stripes: vec![*id], gains: true };
            restripe::rewrite(self, &self.parts.shared, &self.parts.stripes, &group, &mut done).await?;
        }
        Ok(done.moved)
    }

    /// Rewrites what the keeper finds no drive for, as soon as it says so: those stripes are short of shards.
    pub async fn run_narrower(self: Arc<Self>, keeper: Arc<Keeper>) {
        if self.parts.config.every.is_none() {
            return;
        }
        // They stay in the keeper's list until they are dropped, which takes until the next round.
        let mut tried: HashMap<StripeId, tokio::time::Instant> = HashMap::new();
        loop {
            tokio::time::sleep(NARROWER_EVERY).await;
            tried.retain(|_, at| at.elapsed() < NARROWER_AGAIN);
            let stripes: Vec<_> = keeper.narrower().into_iter().filter(|id| !tried.contains_key(id)).collect();
            if stripes.is_empty() {
                continue;
            }
            tried.extend(stripes.iter().map(|id| (*id, tokio::time::Instant::now())));
            match self.rewrite(&stripes).await {
                Ok(moved) => {
                    tracing::info!(stripes = stripes.len(), moved, "stripes without a spare drive were rewritten")
                }
                Err(error) => tracing::warn!(%error, "stripes without a spare drive were not rewritten"),
            }
        }
    }

    /// Rewrites stripes that are half dead or narrow. They are dropped by a later round, when nothing is placed in them.
    async fn restripe(&self, work: &mut Work, usage: &BTreeMap<StripeId, Usage>) -> Result<(), ReclaimError> {
        let parts = &self.parts;
        let done = restripe::restripe(self, &parts.shared, &parts.stripes, usage, &parts.config.restripe).await;
        let done = match done {
            Ok(done) => done,
            // No room, or too few drives: no mistake, and nothing was changed.
            Err(ReclaimError::Store(error)) => {
                tracing::debug!(%error, "stripes are rewritten later");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        work.report.moved += done.moved;
        work.report.unread += done.unread;
        Ok(())
    }
}

/// Asks a drive what it remembers. One that hangs is not waited for: nothing is freed on it meanwhile.
async fn authority_of(node: &dyn NodeClient, drive: DriveId) -> Result<Authority, ReadError> {
    read_in_time(drive, Patience::default().deadline, node.authority(drive)).await
}

fn parse(row: &StripeRow) -> Result<StripeDescriptor, ReclaimError> {
    let parsed = StripeDescriptor::parse(&row.descriptor);
    Ok(parsed.map_err(|_| index::damaged(index::RECLAIM, &[], index::RowFault::Malformed))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_begins_with_nothing_and_holds_a_day() {
        let mut allowance = Allowance::default();
        allowance.fill(1000, 0);
        assert!(allowance.take(0) && !allowance.take(1));
        allowance.fill(1000, DAY_MS / 2);
        assert!(!allowance.take(501) && allowance.take(500) && !allowance.take(1));
        allowance.fill(1000, 30 * DAY_MS);
        assert!(allowance.take(1000) && !allowance.take(1), "days in which nothing was freed are not saved up");
        // Small steps add up.
        let mut allowance = Allowance::default();
        for ms in 0..=DAY_MS / 1000 {
            allowance.fill(1000, ms * 1000);
        }
        assert!(allowance.take(990));
    }

    #[test]
    fn r10_a_drive_that_knows_a_later_state_is_recognised() {
        let seen = |epoch, lsn| Authority { epoch: Epoch(epoch), lsn: Lsn(lsn) };
        assert!(!is_behind(Authority::default(), Epoch(5), Lsn(100)));
        assert!(!is_behind(seen(4, 100), Epoch(5), Lsn(100)));
        assert!(is_behind(seen(4, 101), Epoch(5), Lsn(100)), "an earlier start knew more");
        assert!(is_behind(seen(6, 1), Epoch(5), Lsn(100)));
        assert!(!is_behind(seen(5, 500), Epoch(5), Lsn(100)), "this start's own");
    }
}
