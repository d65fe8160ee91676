//! Rules by which buckets are copied elsewhere, and their queues ([`index::replication`]).

use super::{DecideError, Draft, bucket, object};
use crate::command::{MAX_REPLICATION_KEYS, Outcome, Refusal, WalkReplication};
use crate::index::replication;
use codec::effect::{EffectKind, ReplicatedKey, ReplicationName, ReplicationQueueRow, ReplicationRow};
use codec::id::BucketId;

fn rule(draft: &Draft<'_>, bucket: BucketId) -> Result<ReplicationRow, DecideError> {
    Ok(replication::rule(draft.view, bucket)?.ok_or(Refusal::NoSuchReplication)?)
}

/// What the bucket holds already is walked over from its first key, also when there was a rule: the target may be another one.
pub(super) fn set(draft: &mut Draft<'_>, row: &ReplicationRow) -> Result<Outcome, DecideError> {
    bucket::existing(draft, BucketId(row.bucket))?;
    // Two buckets that are copied into the same one would replace each other's objects for ever, and delete them.
    let same = |other: &ReplicationRow| {
        other.bucket != row.bucket && other.target == row.target && other.endpoint.eq_ignore_ascii_case(&row.endpoint)
    };
    if replication::rules(draft.view)?.iter().any(same) {
        return Err(Refusal::ReplicationTargetTaken.into());
    }
    let row = ReplicationRow {
        seq: draft.at.lsn.0,
        set_ms: draft.at.wall_ms,
        paused: false,
        walked: false,
        walked_to: String::new(),
        ..row.clone()
    };
    draft.rows.push(EffectKind::PutReplication(row));
    Ok(Outcome::Done)
}

/// The bucket may be gone.
pub(super) fn unset(draft: &mut Draft<'_>, bucket: BucketId) -> Result<Outcome, DecideError> {
    rule(draft, bucket)?;
    draft.rows.push(EffectKind::DeleteReplication(ReplicationName { bucket: bucket.0 }));
    Ok(Outcome::Done)
}

pub(super) fn pause(draft: &mut Draft<'_>, bucket: BucketId, paused: bool) -> Result<Outcome, DecideError> {
    let row = rule(draft, bucket)?;
    if row.paused != paused {
        draft.rows.push(EffectKind::PutReplication(ReplicationRow { paused, ..row }));
    }
    Ok(Outcome::Done)
}

/// A step that was planned for another rule, or from where the walk no longer is, changes nothing.
pub(super) fn walk(draft: &mut Draft<'_>, step: &WalkReplication) -> Result<Outcome, DecideError> {
    let row = rule(draft, step.bucket)?;
    if row.seq != step.rule || row.walked || row.walked_to != step.from {
        return Ok(Outcome::Done);
    }
    check_keys(step.keys.iter())?;
    let moved = ReplicationRow { walked: step.last, walked_to: step.to.clone(), ..row };
    draft.rows.push(EffectKind::PutReplication(moved));
    push(draft, step.bucket, step.keys.clone(), Vec::new());
    Ok(Outcome::Done)
}

pub(super) fn queue(draft: &mut Draft<'_>, bucket: BucketId, keys: &[String]) -> Result<Outcome, DecideError> {
    rule(draft, bucket)?;
    check_keys(keys.iter())?;
    push(draft, bucket, keys.to_vec(), Vec::new());
    Ok(Outcome::Done)
}

/// Without a rule, too: then the queue is being emptied. What was done by another rule was done at another target, or not at all: it
/// would take off what waits for this one.
pub(super) fn replicated(
    draft: &mut Draft<'_>,
    bucket: BucketId,
    rule: Option<u64>,
    done: &[ReplicatedKey],
) -> Result<Outcome, DecideError> {
    check_keys(done.iter().map(|done| &done.key))?;
    if replication::rule(draft.view, bucket)?.map(|row| row.seq) != rule {
        return Ok(Outcome::Done);
    }
    let mut waited = Vec::new();
    for done in done {
        if replication::waiting(draft.view, bucket, &done.key)?.is_some() {
            waited.push(done.clone());
        }
    }
    push(draft, bucket, Vec::new(), waited);
    Ok(Outcome::Done)
}

fn check_keys<'a>(keys: impl ExactSizeIterator<Item = &'a String>) -> Result<(), Refusal> {
    if keys.len() > MAX_REPLICATION_KEYS {
        return Err(Refusal::TooLarge);
    }
    keys.into_iter().try_for_each(|key| object::check_key(key))
}

fn push(draft: &mut Draft<'_>, bucket: BucketId, queued: Vec<String>, done: Vec<ReplicatedKey>) {
    if !queued.is_empty() || !done.is_empty() {
        draft.rows.push(EffectKind::ReplicationQueue(ReplicationQueueRow { bucket: bucket.0, queued, done }));
    }
}
