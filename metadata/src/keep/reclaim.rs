//! Reclaim: giving back the space of what nobody needs, and never that of anything else.
//!
//! One round at a time:
//! 1. Is anything held? A switch, a hold, or a loss that was accepted and not released (R10). Then nothing happens.
//! 2. Does a drive remember a delete that a later state of metadata than this one ordered, or has one that was opened since it
//!    was last looked at stripes of an epoch that this journal never granted? Then this state came back from the past: reclaim
//!    is held, journaled, until an operator has looked (R10).
//! 3. A mark pass ([`super::mark`]). One that is not complete ends the round: unknown is not unreferenced (R11, R13).
//! 4. Chunks that were condemned before the pass, for longer than the grace, and that it did not see, are deleted; those that it
//!    did see are Live again. Live chunks without a reference are condemned: their grace begins.
//! 5. Stripes in which the pass counted no chunk are read: what their frames' headers name is compared with the rows once more
//!    in the commit that drops them. So two looks that share nothing agree before a stripe goes.
//! 6. Stripes that were dropped longer ago than a request can live are freed on their drives ([`READERS_GRACE_MS`], R12): whoever
//!    looked a place up before the drop has ended. Drives read each header again and refuse what they don't recognise.
//! 7. After a start, and each day: shards of stripes that nobody knows are freed if their epoch is fenced, never by age (R9): a stripe of
//!    a fenced epoch can't become known any more, since its commit is refused. Epochs are renewed each hour ([`crate::epochs`]), so
//!    that this comes to what this start itself has left behind. One drive that can't be listed, one frame whose place is lost, or too many orphans at
//!    once (an index that lacks what it should know) that no operator has seen, and none is freed.
//! 8. Once a day: copies of shards that repair has moved elsewhere (`reclaim/strays.rs`), if the shard verifies where it belongs.
//! 9. Once a day: stripes that only archived versions need are rewritten ([`super::archive`]), before step 10 puts their frames
//!    together with those that others need.
//! 10. Stripes that are half dead or narrow are rewritten ([`super::restripe`]).
//!
//! Steps 4 to 8 share an allowance of bytes per day that begins with nothing at each start: a mistake shows before it is
//! everything, and a program that restarts again and again frees no faster. Reading and writing of steps 5 and 8 to 10 takes a
//! share of the drives' time. A round that came to a limit of its own is followed by the next at once, so that what is not
//! given back does not grow with what is deleted.

use super::mark::{Cursor, Limits, MarkError, Marks, Usage, mark};
use super::pace::Pace;
use super::recompress::Recompressor;
use super::restripe::{self, RestripePolicy, Restriper};
use crate::client::CommitError;
use crate::command::{Command, DeleteChunks, MIN_GRACE_MS, Outcome, UnmarkedChunk};
use crate::commit::Request;
use crate::index::reclaim::{self, MAX_GRACE_MS, RECOUNT_SETTING, SEEN_SETTING};
use crate::index::{self, IndexError, Overlay};
use crate::journal::{Patience, read_in_time};
use crate::keys::Keys;
use crate::seal::Sealer;
use crate::service::{Alarm, Shared};
use crate::stripe_writer::{StoreError, StripeWriter};
use bytes::Bytes;
use codec::effect::{SettingRow, StripeRow};
use codec::id::{ChunkId, DomainId, DriveId, Epoch, Lsn, StripeId};
use codec::stripe::StripeDescriptor;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage_node::client::{DriveHealth, NodeClient, ReadError, WRITE_DEADLINE, in_time};
use storage_node::keep::Authority;
use storage_node::sabotage::Sabotage;
use tokio::sync::{Notify, mpsc, oneshot};

mod archive;
mod drops;
pub(crate) mod orphans;
mod report;
mod run;
mod strays;

pub use drops::READERS_GRACE_MS;
pub use report::{Allowance, ReclaimReport, ReclaimStatus};

/// Chunks of one commit, their children counted.
const COMMIT_ROWS: usize = 50_000;
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
    /// Bytes per second that a drive gives when nobody else asks it, and the percentage of it that reclaim reads and writes
    /// at; a rate of 0: no limit.
    pub drive_rate: u64,
    /// See there.
    pub drive_percent: u8,
    /// So often a new epoch is taken (R9); `None`: only when it is asked for.
    pub renew_every: Option<Duration>,
}

impl Default for ReclaimConfig {
    fn default() -> ReclaimConfig {
        ReclaimConfig {
            every: Some(Duration::from_secs(6 * 3600)),
            grace_ms: 7 * DAY_MS,
            daily_percent: 10,
            limits: Limits::default(),
            restripe: RestripePolicy::default(),
            drive_rate: 100_000_000,
            drive_percent: 10,
            renew_every: Some(Duration::from_secs(3600)),
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
    /// A drive has stripes of a later state than this one.
    #[error(
        "drive {drive} has stripes of epoch {epoch}, which this journal has never granted: drives or index were put back from \
         the past, and what was written since is on that drive at most"
    )]
    Foreign {
        /// The drive.
        drive: DriveId,
        /// The epoch.
        epoch: Epoch,
    },
    /// A drive has the ledger of a later state than this one.
    #[error(
        "drive {drive} has entries up to LSN {lsn} in stripes, which this journal has never reached: drives or index were put \
         back from the past, and what was written since is on that drive at most"
    )]
    Later {
        /// The drive.
        drive: DriveId,
        /// The last of those entries.
        lsn: Lsn,
    },
    /// A drive that takes part does not say which stripes it has: one of them may say that nothing may be deleted.
    #[error("drive {drive} can't be listed: {error}")]
    Unlisted {
        /// The drive.
        drive: DriveId,
        /// Why.
        error: ReadError,
    },
    /// The committer has ended.
    #[error("the service is stopping")]
    Stopping,
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
    /// The epoch that this start took: as whom it orders frees. Renewals don't change that: one number for each start is
    /// enough to tell it from the others.
    pub epoch: Epoch,
    /// The last LSN that was applied before this start committed anything.
    pub started_at: Lsn,
    /// The epoch that was held at that entry.
    pub before: Epoch,
    /// How it works.
    pub config: ReclaimConfig,
}

/// Gives space back.
pub struct Reclaimer {
    parts: ReclaimParts,
    work: tokio::sync::Mutex<Work>,
    shown: Mutex<ReclaimStatus>,
    wake: Notify,
    narrower: tokio::sync::Mutex<()>,
    /// How often each drive had been opened when it was last looked at for stripes of another history.
    looked: tokio::sync::Mutex<BTreeMap<DriveId, u32>>,
}

#[derive(Default)]
struct Work {
    cursor: Cursor,
    allowance: Allowance,
    unlimited: bool,
    /// When orphans were last looked for, and all of them freed.
    orphans_since: Option<Lsn>,
    /// Rows that have not changed since this entry are looked at for strays when a day has passed.
    strays_since: Option<Lsn>,
    /// Manifest chunks that the last pass could not read.
    unread: Vec<ChunkId>,
    /// Domains that could be read in every pass since the recount began.
    recount: BTreeSet<DomainId>,
    /// The journal was sealed, or that was tried, in this round.
    sealing: bool,
    archiving: archive::Archiving,
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
        let (narrower, looked) = Default::default();
        Arc::new(Reclaimer { parts, work, shown, wake, narrower, looked })
    }

    fn shown(&self) -> MutexGuard<'_, ReclaimStatus> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> Overlay<'_> {
        Overlay::new(&*self.parts.shared.kv)
    }

    /// Lets reclaim go on after a hold: an operator has looked (R10). With that, the operator also vouches for drives whose
    /// own memory of frees does not verify: it is begun anew with the highest that any drive remembers, or this state knows.
    /// By itself Stele does not do that: such a drive may have been the only one to know of a later state.
    pub async fn release(&self) -> Result<(), ReclaimError> {
        let node = &self.parts.shared.node;
        let (mut floor, mut forgetful) = (Lsn(0), Vec::new());
        for drive in node.drives().await {
            // One that does not answer now, and remembers more, holds reclaim again when it is back.
            match authority_of(&**node, drive.id).await {
                Ok(seen) => floor = floor.max(seen.lsn),
                Err(_) if drive.health == DriveHealth::Healthy => forgetful.push(drive.id),
                Err(_) => {}
            }
        }
        for drive in node.drives().await.into_iter().filter(|drive| drive.health == DriveHealth::Healthy) {
            // One that can't be listed now holds reclaim again when it can.
            let later = self.look_for_later(drive.id, floor).await.ok().flatten();
            floor = floor.max(later.unwrap_or_default());
        }
        let mut seen = reclaim::seen_epochs(&self.view())?;
        seen.extend(
            orphans::foreign(&**node, &*self.parts.shared.kv, Epoch(0)).await.into_iter().map(|(_, epoch)| epoch),
        );
        let seen: Vec<String> = seen.into_iter().map(|epoch| epoch.0.to_string()).collect();
        self.set(SEEN_SETTING, seen.join(" ")).await?;
        self.commit(Command::ReleaseReclaim { floor }).await?;
        let authority = self.authority()?;
        for drive in forgetful {
            match in_time(drive, WRITE_DEADLINE, node.renew_frees(drive, authority)).await {
                Ok(()) => tracing::warn!(%drive, "its memory of frees was begun anew, as an operator wants it"),
                Err(error) => tracing::warn!(%drive, %error, "its memory of frees could not be begun anew"),
            }
        }
        self.check_authority().await?;
        self.wake.notify_one();
        Ok(())
    }

    /// As whom this start orders frees.
    fn authority(&self) -> Result<Authority, ReclaimError> {
        Ok(Authority { epoch: self.parts.epoch, lsn: index::applied(&self.view())?.0.max(self.known()?) })
    }

    /// Holds reclaim until it is released.
    pub async fn hold(&self, reason: &str) -> Result<(), ReclaimError> {
        self.commit(Command::HoldReclaim { reason: reason.to_owned() }).await.map(drop)
    }

    /// One round.
    pub async fn round(&self) -> Result<ReclaimReport, ReclaimError> {
        let mut work = self.work.lock().await;
        work.report = ReclaimReport::default();
        work.sealing = false;
        let result = self.steps(&mut work).await;
        self.show(&work, result.as_ref().err());
        result.map(|()| work.report.clone())
    }

    fn is_held(&self, work: &mut Work) -> Result<bool, ReclaimError> {
        work.report.held = reclaim::hold(&self.view())?;
        Ok(work.report.held.is_some() && !self.parts.shared.sabotage.is(Sabotage::ReclaimHold))
    }

    /// Whether anything may be deleted now: asked again before every order and every commit that deletes, since a round takes
    /// hours and a hold, or a drive that says why there must be one, may come at any moment.
    async fn may_delete(&self, work: &mut Work) -> Result<bool, ReclaimError> {
        self.check_opened().await?;
        Ok(!self.is_held(work)?)
    }

    async fn steps(&self, work: &mut Work) -> Result<(), ReclaimError> {
        if self.is_held(work)? || !self.may_delete(work).await? {
            return Ok(());
        }
        self.check_authority().await?;
        let drives = self.fill_allowance(work).await;
        let pace = self.pace(drives);
        let (shared, keys, grace) = (&self.parts.shared, &self.parts.keys, self.parts.config.grace());
        let limits = self.parts.config.limits.scaled(shared.kv.stats().rows);
        let (from, began) = (work.cursor, shared.clock.monotonic_ms());
        let mut marks = mark(shared, keys, from, &work.unread, limits, grace).await?;
        work.cursor = marks.next;
        if marks.looked {
            work.unread = marks.unread.iter().map(|unread| unread.id).collect();
        }
        self.show_pass(&marks, shared.clock.monotonic_ms().saturating_sub(began));
        self.recount(work, from, &marks).await?;
        self.chunks(work, &marks).await?;
        self.drop_stripes(work, &marks, &pace).await?;
        self.free_stripes(work).await?;
        // Not only after a start: what a drive that comes back has of stripes that went meanwhile is found later.
        let due = work.orphans_since.map_or(Ok(true), |since| reclaim::is_over(&self.view(), since, DAY_MS))?;
        if due && !marks.lost && self.orphans(work, limits).await? {
            work.orphans_since = Some(index::applied(&self.view())?.0);
        }
        self.strays(work, limits, &pace).await?;
        let archiving = self.archive(work, &mut marks.usage, limits, &pace).await?;
        let restriped = self.restripe(work, &marks.usage, &pace).await?;
        let report = &mut work.report;
        let gained = report.deleted + report.spared + report.condemned > 0;
        report.at_once = marks.next.stripe != StripeId::default()
            || marks.next.recount != Cursor::default().recount
            || (marks.more && gained)
            || restriped
            || archiving;
        Ok(())
    }

    /// What reclaim may read and write, as the share of `drives` drives' time that it has.
    fn pace(&self, drives: usize) -> Pace {
        let ReclaimConfig { drive_rate, drive_percent, .. } = self.parts.config;
        let rate = drive_rate.saturating_mul(drives.max(1) as u64);
        Pace::new(match rate {
            0 => 0,
            rate => (rate / 100).saturating_mul(u64::from(drive_percent)).max(1),
        })
    }

    /// Step 2. Also says which drives free nothing because they can't tell for whom they have freed.
    async fn check_authority(&self) -> Result<(), ReclaimError> {
        let (epoch, started_at) = (self.parts.epoch, self.known()?);
        let node = &self.parts.shared.node;
        let mut forgetful = Vec::new();
        for drive in node.drives().await {
            match authority_of(&**node, drive.id).await {
                Ok(seen) if is_behind(seen, epoch, started_at) => {
                    let error = ReclaimError::Behind { drive: drive.id, seen };
                    self.hold(&error.to_string()).await?;
                    return Err(error);
                }
                Err(error) if drive.health == DriveHealth::Healthy => {
                    forgetful.push(format!("{}: {error}", drive.path))
                }
                // One that does not answer is asked again before anything is freed on it.
                Ok(_) | Err(_) => {}
            }
        }
        let words = (!forgetful.is_empty()).then(|| {
            let drives = forgetful.join("; ");
            format!(
                "nothing is freed on drives that can't tell for whom they have freed ({drives}). If neither the index nor a \
                 drive was put back from a copy since, stele reclaim release begins that memory anew"
            )
        });
        self.parts.shared.set_alarm(Alarm::Frees, words);
        Ok(())
    }

    /// Up to where this state, or an operator, knows what was deleted.
    fn known(&self) -> Result<Lsn, ReclaimError> {
        Ok(self.parts.started_at.max(reclaim::floor(&self.view())?))
    }

    /// Returns how many drives there are.
    async fn fill_allowance(&self, work: &mut Work) -> usize {
        let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
        let drives = self.parts.shared.node.drives().await;
        for drive in &drives {
            sizes.insert(drive.filesystem_id, drive.total);
        }
        let percent = self.parts.config.daily_percent;
        let total = sizes.values().fold(0u64, |sum, size| sum.saturating_add(*size));
        work.unlimited = percent >= 100;
        work.allowance.fill(total / 100 * u64::from(percent), self.parts.shared.clock.monotonic_ms());
        drives.len()
    }

    pub(super) async fn commit(&self, command: Command) -> Result<Outcome, ReclaimError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit(self.parts.stripes.epoch(), Box::new(command), reply);
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

    /// Counts again what a manifest chunk that went unread may have listed, and says of which objects nothing is known. A
    /// domain is remembered, durably, before the first delete that may need it, and until a whole cycle could read all of it.
    async fn recount(&self, work: &mut Work, from: Cursor, marks: &Marks) -> Result<(), ReclaimError> {
        let known = reclaim::recounted_domains(&self.view())?;
        for chunks in marks.recounted.chunks(COMMIT_ROWS) {
            work.report.recounted += self.done(Command::RecountChunks(chunks.to_vec())).await?;
        }
        if from.recount == Cursor::default().recount {
            work.recount = known.clone();
        }
        work.recount.retain(|domain| !marks.unsure.contains(domain));
        let mut wanted: BTreeSet<DomainId> = known.union(&marks.unsure).copied().collect();
        if marks.next.recount == Cursor::default().recount {
            wanted.retain(|domain| !work.recount.contains(domain));
        }
        if wanted != known {
            let value: Vec<String> = wanted.iter().map(|domain| domain.0.to_string()).collect();
            self.set(RECOUNT_SETTING, value.join(" ")).await?;
        }
        (work.report.unread_manifests, work.report.kept) = (marks.unread.len() as u64, marks.kept);
        // A pass without anything to look for reads no manifest, and knows nothing new of them.
        if marks.looked {
            self.parts.shared.set_alarm(Alarm::Manifests, report::unread_words(&marks.unread));
        }
        Ok(())
    }

    async fn set(&self, name: &str, value: String) -> Result<(), ReclaimError> {
        let row = SettingRow { name: name.to_owned(), value: Bytes::from(value) };
        self.commit(Command::PutSetting(row)).await.map(drop)
    }

    async fn delete(&self, work: &mut Work, began: Lsn, chunks: Vec<UnmarkedChunk>) -> Result<(), ReclaimError> {
        if !chunks.is_empty() && self.may_delete(work).await? {
            let delete = DeleteChunks { marked_from: began, grace_ms: self.parts.config.grace(), chunks };
            work.report.deleted += self.done(Command::DeleteChunks(delete)).await?;
        }
        Ok(())
    }

    /// Rewrites stripes that are half dead or narrow. They are dropped by a later round, when nothing is placed in them. Whether
    /// some were left for the next round.
    async fn restripe(
        &self,
        work: &mut Work,
        usage: &BTreeMap<StripeId, Usage>,
        pace: &Pace,
    ) -> Result<bool, ReclaimError> {
        let parts = &self.parts;
        let level = parts.config.restripe.recompress_level;
        let recompress = Recompressor::new(level, parts.shared.level.versions().frame, &self.view(), &parts.keys)?;
        let restriper = Restriper { recompress, ..self.restriper(pace) };
        let (done, error) = match restriper.restripe(usage, &parts.config.restripe).await {
            Ok(done) => (done, None),
            Err((done, error)) => (done, Some(error)),
        };
        let report = &mut work.report;
        report.moved += done.moved;
        report.moved_bytes += done.bytes;
        report.saved += done.saved;
        report.unread += done.unread;
        (report.backlog_stripes, report.backlog_bytes) = (done.left + done.beyond, done.left_bytes);
        match error {
            // No room, or too few drives: no mistake, and nothing was changed.
            Some(ReclaimError::Store(error)) => {
                tracing::debug!(%error, "stripes are rewritten later");
                Ok(false)
            }
            Some(error) => Err(error),
            None => Ok(done.beyond > 0 && done.moved > 0),
        }
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
    fn r10_a_drive_that_knows_a_later_state_is_recognised() {
        let seen = |epoch, lsn| Authority { epoch: Epoch(epoch), lsn: Lsn(lsn) };
        assert!(!is_behind(Authority::default(), Epoch(5), Lsn(100)));
        assert!(!is_behind(seen(4, 100), Epoch(5), Lsn(100)));
        assert!(is_behind(seen(4, 101), Epoch(5), Lsn(100)), "an earlier start knew more");
        assert!(is_behind(seen(6, 1), Epoch(5), Lsn(100)));
        assert!(!is_behind(seen(5, 500), Epoch(5), Lsn(100)), "this start's own");
    }
}
