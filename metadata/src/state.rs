//! The state machine: [`decide`] turns a command into effects, [`apply`] turns effects into index rows.
//!
//! Invariants:
//! * Both are pure: no clock, no randomness, no I/O but reads of the view. What `decide` needs of the world is in [`At`].
//! * `apply` looks at effects and rows only, never at [`At`]: the same entries over the same index give the same bytes.
//! * Entries are applied in LSN order without gaps.
//! * A chunk's `refs` is the number of manifest entries that name it: in versions, in parts, and in manifest chunks from
//!   their commit to their deletion. A commit holds before it releases, so nothing is condemned in passing.
//! * Whatever an object needs is known before the object is visible: its chunks' rows, their places, their stripes.

mod apply;
mod bucket;
mod change;
mod chunks;
mod cluster;
mod delete;
mod iam;
mod kms;
mod lifecycle;
mod notices;
mod object;
mod protect;
mod quota;
mod reclaim;
mod removal;
mod repair;
mod replication;
mod rewrap;
#[cfg(test)]
mod tests;
mod upload;

pub use apply::{ApplyError, apply};

use crate::command::{Command, Outcome, Refusal};
use crate::index::{self, IndexError, View};
use crate::lookup::Losses;
use bytes::Bytes;
use chunks::ChunkChanges;
use codec::effect::{Content, Effect, EffectKind, Effects};
use codec::id::{Epoch, Lsn};
use codec::level::FormatLevel;
pub(crate) use iam::rehearse;
use storage_node::sabotage::{Sabotage, SabotageSet};

/// What a decision may know besides the index.
#[derive(Clone, Debug)]
pub struct At {
    /// The LSN that the entry will have.
    pub lsn: Lsn,
    /// Milliseconds since the Unix epoch, for people (R15: never an order).
    pub wall_ms: u64,
    /// The cluster's format level, or an earlier one.
    pub level: FormatLevel,
    /// What can't be read at present: which of two places of one chunk is kept depends on it.
    pub losses: Losses,
    /// Safety steps that a test takes away.
    pub sabotage: SabotageSet,
}

/// What a command comes to.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The body of the entry.
    pub effects: Effects,
    /// The frames that ride in it, in the order that the effects' offsets count on.
    pub frames: Vec<Bytes>,
    /// The answer, once the entry is durable and applied.
    pub outcome: Outcome,
}

impl Decided {
    /// Nothing changes: the answer needs no entry.
    pub fn is_noop(&self) -> bool {
        self.effects.effects.is_empty()
    }
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// Refused: an answer for the one who asked.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The index failed: nothing can be decided.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Decides a command of a writer that holds `writer`.
pub fn decide(view: &dyn View, writer: Epoch, command: &Command, at: &At) -> Result<Decided, DecideError> {
    check_epoch(view, writer, command, at)?;
    if command.is_archived() && at.level < FormatLevel::VERSIONS {
        return Err(Refusal::NeedsLevel { needs: FormatLevel::VERSIONS, at: at.level }.into());
    }
    let mut draft = Draft { view, at, chunks: ChunkChanges::new(view, at), rows: Vec::new() };
    let outcome = match command {
        Command::CreateBucket(create) => bucket::create(&mut draft, create),
        Command::DeleteBucket { bucket } => bucket::delete(&mut draft, *bucket),
        Command::ConfigureBucket { bucket, encrypt, zstd_level } => {
            bucket::configure(&mut draft, *bucket, *encrypt, *zstd_level)
        }
        Command::ChangeBucket { bucket, change } => bucket::change(&mut draft, *bucket, change),
        Command::PutBucketConfig(put) => bucket::put_config(&mut draft, put),
        Command::DeleteVersions(delete) => delete::versions(&mut draft, delete),
        Command::ChangeVersion(change) => change::version(&mut draft, change),
        Command::FollowRules(follow) => lifecycle::follow(&mut draft, follow),
        Command::SetQuota { of, quota } => quota::set(&mut draft, of, *quota),
        Command::CountUsage => quota::count(&mut draft),
        Command::CommitStripe { stripe, chunks } => cluster::commit_stripe(&mut draft, stripe, chunks),
        Command::CommitObject(commit) => object::commit(&mut draft, commit),
        Command::DeleteObject { bucket, key, condition } => delete::object(&mut draft, *bucket, key, condition),
        Command::DeleteObjects { bucket, keys } => delete::objects(&mut draft, *bucket, keys),
        Command::CreateUpload(create) => upload::create(&mut draft, create),
        Command::CommitPart { upload, number, content, chunks, now_ms } => {
            upload::commit_part(&mut draft, upload, *number, content, chunks, *now_ms)
        }
        Command::CompleteUpload(complete) => upload::complete(&mut draft, complete),
        Command::AbortUpload { upload } => upload::abort(&mut draft, upload),
        Command::PutAccount(row) => cluster::put_account(&mut draft, row),
        Command::CreateAccount(row) => cluster::create_account(&mut draft, row),
        Command::ReplaceAccount(row) => cluster::replace_account(&mut draft, row),
        Command::DeleteAccount { id } => cluster::delete_account(&mut draft, id),
        Command::PutDomain(row) => cluster::put_domain(&mut draft, row),
        Command::CreateKmsKey(row) => kms::create(&mut draft, row),
        Command::SetKmsKey(set) => kms::set(&mut draft, set),
        Command::Rewrap(secrets) => rewrap::rewrap(&mut draft, secrets),
        Command::PutSetting(row) => cluster::put_setting(&mut draft, row),
        Command::StartEpoch { epoch, journal } => cluster::start_epoch(&mut draft, *epoch, *journal),
        Command::RenewEpoch { epoch, unfinished } => cluster::renew_epoch(&mut draft, *epoch, *unfinished),
        Command::GrantEpoch { epoch, holder, unfinished } => {
            cluster::grant_epoch(&mut draft, *epoch, holder, *unfinished)
        }
        Command::RegisterDrive(row) => cluster::register_drive(&mut draft, row),
        Command::SeeDrive(row) => cluster::see_drive(&mut draft, row),
        Command::SettleCells => cluster::settle_cells(&mut draft),
        Command::PutNode(row) => cluster::put_node(&mut draft, row),
        Command::RaiseLevel(level) => cluster::raise_level(&mut draft, *level),
        Command::ClockTick(tick) => cluster::clock_tick(&mut draft, tick),
        Command::Seal(seal) => cluster::seal(&mut draft, seal),
        Command::MoveShards { stripe, moves } => repair::move_shards(&mut draft, *stripe, moves),
        Command::ReplaceLedger(replace) => repair::replace_ledger(&mut draft, replace),
        Command::MoveFrames { stripes, moves } => reclaim::move_frames(&mut draft, stripes, moves),
        Command::DeleteChunks(delete) => reclaim::delete_chunks(&mut draft, delete),
        Command::SpareChunks(chunks) => reclaim::spare_chunks(&mut draft, chunks),
        Command::RecountChunks(chunks) => reclaim::recount_chunks(&mut draft, chunks),
        Command::CondemnChunks(chunks) => reclaim::condemn_chunks(&mut draft, chunks),
        Command::DropStripes(stripes) => reclaim::drop_stripes(&mut draft, stripes),
        Command::StripesFreed(stripes) => reclaim::stripes_freed(&mut draft, stripes),
        Command::HoldReclaim { reason } => reclaim::hold(&mut draft, reason),
        Command::ReleaseReclaim { floor } => reclaim::release(&mut draft, *floor),
        Command::PutCheckpoint { row, stripes } => cluster::put_checkpoint(&mut draft, row, stripes),
        Command::SetReplication(row) => replication::set(&mut draft, row),
        Command::UnsetReplication { bucket } => replication::unset(&mut draft, *bucket),
        Command::PauseReplication { bucket, paused } => replication::pause(&mut draft, *bucket, *paused),
        Command::WalkReplication(step) => replication::walk(&mut draft, step),
        Command::QueueReplication { bucket, keys } => replication::queue(&mut draft, *bucket, keys),
        Command::Replicated { bucket, rule, done } => replication::replicated(&mut draft, *bucket, *rule, done),
        Command::Iam(command) => iam::change(&mut draft, command),
        Command::NoticesDone(names) => notices::done(&mut draft, names),
        Command::LostNoticesSeen { webhook } => notices::seen(&mut draft, webhook),
        Command::AcceptLoss { loss, sealed } => {
            draft.rows.push(EffectKind::AcceptedLoss(loss.clone()));
            draft.rows.extend(sealed.clone().map(EffectKind::Sealed));
            Ok(Outcome::Done)
        }
    }?;
    notices::note(&mut draft, command)?;
    draft.finish(outcome)
}

/// R9: only the holder of an epoch that is not fenced writes. One that was never granted is as bad as a fenced one.
fn check_epoch(view: &dyn View, writer: Epoch, command: &Command, at: &At) -> Result<(), DecideError> {
    if matches!(command, Command::StartEpoch { .. }) {
        return Ok(());
    }
    check_open(view, writer, at)
}

/// Refuses an epoch that is fenced, or was never granted.
fn check_open(view: &dyn View, epoch: Epoch, at: &At) -> Result<(), DecideError> {
    if at.sabotage.is(Sabotage::EpochFence) || index::reclaim::is_open(view, epoch)? {
        return Ok(());
    }
    Err(Refusal::Fenced { writer: epoch, current: index::epoch(view)? }.into())
}

/// Refuses effects that a process which knows the format level could not read. An entry that raises it is of the new one.
fn check_level(effects: &Effects, at: FormatLevel) -> Result<(), Refusal> {
    let raised = effects.effects.iter().filter_map(|effect| match &effect.kind {
        Some(EffectKind::PutLevel(row)) => Some(FormatLevel(row.level)),
        _ => None,
    });
    let level = raised.max().map_or(at, |raised| raised.max(at));
    let version = effects.version();
    match level.versions() {
        Some(versions) if version <= versions.effects => Ok(()),
        _ => Err(Refusal::NeedsLevel { needs: FormatLevel::for_effects(version).unwrap_or(level), at }),
    }
}

/// A decision in the making.
struct Draft<'a> {
    view: &'a dyn View,
    at: &'a At,
    chunks: ChunkChanges<'a>,
    /// Effects other than on chunks.
    rows: Vec<EffectKind>,
}

impl Draft<'_> {
    /// References every entry of a content's manifest, after checking it.
    fn hold(&mut self, content: &Content) -> Result<(), DecideError> {
        if content.encrypted {
            kms::check_usable(self, content.domain_id())?;
        }
        self.chunks.hold_content(content)
    }

    /// Drops the references of a content that goes away.
    fn release(&mut self, content: Option<&Content>) -> Result<(), DecideError> {
        content.map_or(Ok(()), |content| self.chunks.release_content(content))
    }

    fn finish(self, outcome: Outcome) -> Result<Decided, DecideError> {
        quota::check(self.view, &self.rows)?;
        let (chunks, frames) = self.chunks.finish()?;
        let kinds = chunks.into_iter().map(EffectKind::PutChunk).chain(self.rows);
        let effects = Effects { effects: kinds.map(Effect::from).collect(), wall_ms: self.at.wall_ms };
        check_level(&effects, self.at.level)?;
        Ok(Decided { effects, frames, outcome })
    }
}
