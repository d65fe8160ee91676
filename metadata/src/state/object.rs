//! Object versions, and the conditions on them.

use super::removal::{Why, remove};
use super::{DecideError, Draft, bucket, delete, protect};
use crate::command::{Attached, CommitObject, Condition, MAX_KEY, Outcome, Refusal, Replaced};
use crate::index;
use access::versions::{self, Added};
use codec::effect::{BucketRow, Content, EffectKind, ObjectMeta, RetentionRow, VersionRow};
use codec::id::{BucketId, Lsn};
use codec::level::FormatLevel;
use storage_node::sabotage::Sabotage;

pub(super) fn commit(draft: &mut Draft<'_>, commit: &CommitObject) -> Result<Outcome, DecideError> {
    let bucket = bucket::existing(draft, commit.bucket)?;
    check_key(&commit.key)?;
    check_write(draft, commit.bucket, &commit.key, &commit.condition)?;
    draft.chunks.add_inline(&commit.chunks)?;
    draft.hold(&commit.content)?;
    let (meta, content, attached) = (commit.meta.clone(), commit.content.clone(), commit.attached.clone());
    let lock = protect::of_new(draft, &bucket, attached.retention.as_ref(), attached.hold)?;
    put_version(draft, &bucket, &commit.key, New { meta, content, attached, lock, now_ms: commit.now_ms })
}

pub(super) fn check_key(key: &str) -> Result<(), Refusal> {
    if key.is_empty() || key.len() > MAX_KEY { Err(Refusal::BadKey) } else { Ok(()) }
}

/// What a new version consists of.
pub(super) struct New {
    pub meta: ObjectMeta,
    pub content: Content,
    pub attached: Attached,
    /// What keeps it, as [`protect`] has decided.
    pub lock: (Option<RetentionRow>, bool),
    pub now_ms: u64,
}

/// Makes a new version visible, in one entry: on top of the others where the bucket keeps versions, and in place of the null version
/// where it does not. The new content's chunks are held already, so chunks that both have stay Live.
pub(super) fn put_version(
    draft: &mut Draft<'_>,
    bucket: &BucketRow,
    key: &str,
    new: New,
) -> Result<Outcome, DecideError> {
    let New { meta, mut content, attached, lock: (retention, hold), now_ms } = new;
    let old = index::null_version(draft.view, bucket.bucket_id(), key)?;
    let seen: Vec<_> = old.iter().map(delete::seen).collect();
    let change = versions::put(&seen, delete::versioning(bucket));
    let replaced = match (change.removes, &old) {
        (Some(_), Some(old)) => {
            remove(draft, old, Why::Overwrite)?;
            Some(Box::new(replaced(old)))
        }
        _ => None,
    };
    let version_id = match change.adds {
        Some(Added::WithId) => index::versions::version_id(draft.at.lsn, attached.nonce),
        Some(Added::Null) | None => String::new(),
    };
    if draft.at.level < FormatLevel::VERSIONS {
        content.parts.clear();
    }
    let row = VersionRow {
        bucket: bucket.id,
        key: key.to_owned(),
        seq: draft.at.lsn.0,
        version_id,
        modified_ms: now_ms,
        meta: Some(meta),
        content: Some(content),
        tags: attached.tags,
        acl: attached.acl,
        owner: said_owner(draft, bucket, &attached.owner),
        retention,
        hold,
        clock_ms: said_clock(draft)?,
        #[cfg(feature = "next-release")]
        level: said_level(draft.at.level),
        ..VersionRow::default()
    };
    draft.rows.push(EffectKind::PutVersion(row.clone()));
    Ok(Outcome::Committed(Box::new(row), replaced))
}

fn replaced(old: &VersionRow) -> Replaced {
    let of = delete::seen(old);
    Replaced { lsn: Lsn(old.seq), etag: of.etag, size: of.size, delete_marker: of.delete_marker }
}

/// Whose a new version is: nobody's, which is its bucket's owner's, where it is that account's or could not be said yet.
pub(super) fn said_owner(draft: &Draft<'_>, bucket: &BucketRow, owner: &str) -> String {
    let same = owner == bucket.owner || draft.at.level < FormatLevel::VERSIONS;
    if same { String::new() } else { owner.to_owned() }
}

/// The retention clock for a new version: nothing before the level that brought the field, nor before the first tick.
pub(super) fn said_clock(draft: &Draft<'_>) -> Result<u64, DecideError> {
    if draft.at.level < FormatLevel::VERSIONS {
        return Ok(0);
    }
    Ok(index::clock(draft.view)?.map_or(0, |tick| tick.retention_ms))
}

/// What a version says of the level that it was committed at: nothing before the level that brought the field.
#[cfg(feature = "next-release")]
pub(super) fn said_level(level: FormatLevel) -> u32 {
    if level >= FormatLevel(5) { level.0 } else { 0 }
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
