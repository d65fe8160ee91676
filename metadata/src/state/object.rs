//! Object versions, and the conditions on them.

use super::{DecideError, Draft, bucket};
use crate::command::{CommitObject, Condition, MAX_DELETE_KEYS, MAX_KEY, Outcome, Refusal};
use crate::index;
use codec::effect::{Content, EffectKind, ObjectMeta, VersionName, VersionRow};
use codec::id::{BucketId, Lsn};
use std::collections::BTreeSet;
use storage_node::sabotage::Sabotage;

pub(super) fn commit(draft: &mut Draft<'_>, commit: &CommitObject) -> Result<Outcome, DecideError> {
    bucket::existing(draft, commit.bucket)?;
    check_key(&commit.key)?;
    check_write(draft, commit.bucket, &commit.key, &commit.condition)?;
    draft.chunks.add_inline(&commit.chunks)?;
    draft.hold(&commit.content)?;
    let new = New { meta: commit.meta.clone(), content: commit.content.clone(), now_ms: commit.now_ms };
    put_version(draft, commit.bucket, &commit.key, new)
}

pub(super) fn check_key(key: &str) -> Result<(), Refusal> {
    if key.is_empty() || key.len() > MAX_KEY { Err(Refusal::BadKey) } else { Ok(()) }
}

/// What a new version consists of.
pub(super) struct New {
    pub meta: ObjectMeta,
    pub content: Content,
    pub now_ms: u64,
}

/// Makes the new null version visible in place of the old one, in one entry. The new content's chunks are held already, so
/// chunks that both have stay Live.
pub(super) fn put_version(
    draft: &mut Draft<'_>,
    bucket: BucketId,
    key: &str,
    new: New,
) -> Result<Outcome, DecideError> {
    if let Some(old) = index::null_version(draft.view, bucket, key)? {
        drop_version(draft, &old)?;
    }
    let row = VersionRow {
        bucket: bucket.0,
        key: key.to_owned(),
        seq: draft.at.lsn.0,
        version_id: String::new(),
        modified_ms: new.now_ms,
        meta: Some(new.meta),
        content: Some(new.content),
        delete_marker: false,
    };
    draft.rows.push(EffectKind::PutVersion(row.clone()));
    Ok(Outcome::Committed(Box::new(row)))
}

fn drop_version(draft: &mut Draft<'_>, old: &VersionRow) -> Result<(), DecideError> {
    draft.release(old.content.as_ref())?;
    let name = VersionName { bucket: old.bucket, key: old.key.clone(), seq: Lsn(old.seq).0 };
    draft.rows.push(EffectKind::DeleteVersion(name));
    Ok(())
}

pub(super) fn delete(
    draft: &mut Draft<'_>,
    bucket: BucketId,
    key: &str,
    condition: &Condition,
) -> Result<Outcome, DecideError> {
    bucket::existing(draft, bucket)?;
    let old = delete_one(draft, bucket, key, condition)?;
    Ok(Outcome::Deleted(old.map(Box::new)))
}

pub(super) fn delete_many(
    draft: &mut Draft<'_>,
    bucket: BucketId,
    keys: &[(String, Condition)],
) -> Result<Outcome, DecideError> {
    bucket::existing(draft, bucket)?;
    if keys.len() > MAX_DELETE_KEYS {
        return Err(Refusal::TooLarge.into());
    }
    let mut done = BTreeSet::new();
    let mut results = Vec::with_capacity(keys.len());
    for (key, condition) in keys {
        // A key that is listed twice is gone the second time.
        let result = match done.contains(key.as_str()) {
            true => check_delete(draft, None, condition).map(|()| None).map_err(DecideError::from),
            false => delete_one(draft, bucket, key, condition),
        };
        results.push(match result {
            Ok(old) => {
                done.insert(key.as_str());
                Ok(old.is_some())
            }
            Err(DecideError::Refused(refusal)) => Err(refusal),
            Err(error) => return Err(error),
        });
    }
    Ok(Outcome::DeletedMany(results))
}

fn delete_one(
    draft: &mut Draft<'_>,
    bucket: BucketId,
    key: &str,
    condition: &Condition,
) -> Result<Option<VersionRow>, DecideError> {
    let current = index::current_version(draft.view, bucket, key)?.filter(|version| !version.delete_marker);
    check_delete(draft, current.as_ref(), condition)?;
    let old = index::null_version(draft.view, bucket, key)?;
    if let Some(old) = &old {
        drop_version(draft, old)?;
    }
    Ok(old)
}

/// The condition of a PUT, copy or completion, on the key's current version. A delete marker is no version.
pub(super) fn check_write(
    draft: &Draft<'_>,
    bucket: BucketId,
    key: &str,
    condition: &Condition,
) -> Result<(), DecideError> {
    if *condition == Condition::None || draft.at.sabotage.is(Sabotage::CommitCondition) {
        return Ok(());
    }
    let current = index::current_version(draft.view, bucket, key)?.filter(|version| !version.delete_marker);
    // S3 says 404 for If-Match on a key that has no version, and 412 for everything else.
    match (condition, &current) {
        (Condition::IfMatch(_) | Condition::IfMatchAny, None) => Err(Refusal::NoSuchKey.into()),
        _ if holds(condition, current.as_ref()) => Ok(()),
        _ => Err(Refusal::PreconditionFailed.into()),
    }
}

fn check_delete(draft: &Draft<'_>, current: Option<&VersionRow>, condition: &Condition) -> Result<(), Refusal> {
    if holds(condition, current) || draft.at.sabotage.is(Sabotage::CommitCondition) {
        return Ok(());
    }
    Err(Refusal::PreconditionFailed)
}

fn holds(condition: &Condition, current: Option<&VersionRow>) -> bool {
    let etag = current.map(|version| version.content.as_ref().map_or("", |content| content.etag.as_str()));
    match condition {
        Condition::None => true,
        Condition::IfNoneMatchAny => etag.is_none(),
        Condition::IfNoneMatch(other) => etag != Some(other.as_str()),
        Condition::IfMatchAny => etag.is_some(),
        Condition::IfMatch(wanted) => etag == Some(wanted.as_str()),
    }
}
