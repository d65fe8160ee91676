//! Deletes: of the current version, which in a bucket that keeps versions means a delete marker on top, and of versions by their ids.
//!
//! What a delete comes to is [`access::versions`]' to say, from the few versions that its rules look at: the newest one, the null one
//! and the one that is named. A key with 100,000 versions costs no more than one with two.
//!
//! Invariant: an entry may delete many keys, and one of them more than once, while the index shows none of it yet. What the entry has
//! done so far is in [`Done`], and each look at a key goes through it: or a version that was named twice would be released twice, and
//! chunks that something else still needs would be counted away.

use super::object::{said_clock, said_owner};
use super::removal::{Why, remove};
use super::{DecideError, Draft, bucket};
use crate::command::{
    Condition, DeleteCondition, DeleteVersion, DeleteVersions, Gone, MAX_DELETE_KEYS, Named, Outcome, Refusal,
};
use crate::index::{self, IndexError, versions};
use access::lifecycle::plan::Versioning;
use access::versions::{self as rules, Added};
use codec::effect::{BucketRow, EffectKind, VersionRow};
use codec::id::{BucketId, Lsn};
use std::collections::{BTreeMap, BTreeSet};
use storage_node::sabotage::Sabotage;

/// What the entry has done to keys so far.
#[derive(Default)]
pub(super) struct Done {
    removed: BTreeMap<String, BTreeSet<u64>>,
    markers: BTreeMap<String, VersionRow>,
    /// Of a key, the newest version that is still there, or was when it was looked for: none above it is.
    newest: BTreeMap<String, u64>,
}

impl Done {
    /// The entry has removed it.
    pub(super) fn has_removed(&self, version: &VersionRow) -> bool {
        self.removed.get(&version.key).is_some_and(|removed| removed.contains(&version.seq))
    }

    /// The versions of a key that the rules look at, newest first.
    fn known(
        &mut self,
        draft: &Draft<'_>,
        bucket: BucketId,
        key: &str,
        named: &Named,
    ) -> Result<Vec<VersionRow>, IndexError> {
        let mut found: Vec<VersionRow> = self.markers.get(key).cloned().into_iter().collect();
        // Of whoever says which one goes no other is looked at.
        match named {
            Named::Id(id) => found.extend(versions::version(draft.view, bucket, key, id)?),
            Named::Null => found.extend(index::null_version(draft.view, bucket, key)?),
            Named::Current => {
                found.extend(self.newest(draft, bucket, key)?);
                found.extend(index::null_version(draft.view, bucket, key)?);
            }
        }
        found.retain(|version| !self.has_removed(version));
        found.sort_by_key(|version| std::cmp::Reverse(version.seq));
        found.dedup_by_key(|version| version.seq);
        Ok(found)
    }

    /// The newest version of a key that is still there. Whoever empties a bucket names a thousand versions of one key, the newest first:
    /// were the search to begin at the top each time, the committer would stand still.
    fn newest(&mut self, draft: &Draft<'_>, bucket: BucketId, key: &str) -> Result<Option<VersionRow>, IndexError> {
        let mut below = self.newest.get(key).copied().unwrap_or(u64::MAX);
        loop {
            let Some(newest) = versions::newest_from(draft.view, bucket, key, Lsn(below))? else { return Ok(None) };
            below = newest.seq;
            self.newest.insert(key.to_owned(), below);
            if !self.has_removed(&newest) {
                return Ok(Some(newest));
            }
            let Some(next) = below.checked_sub(1) else { return Ok(None) };
            below = next;
        }
    }

    /// Takes a version away.
    pub(super) fn remove(&mut self, draft: &mut Draft<'_>, version: &VersionRow, why: Why) -> Result<(), DecideError> {
        remove(draft, version, why)?;
        let key = &version.key;
        match self.markers.get(key).is_some_and(|marker| marker.seq == version.seq) {
            true => drop(self.markers.remove(key)),
            false => drop(self.removed.entry(key.clone()).or_default().insert(version.seq)),
        }
        Ok(())
    }
}

/// What a delete needs besides the version that it is about.
pub(super) struct Order<'a> {
    pub bucket: &'a BucketRow,
    /// Of delete markers; empty: the bucket's.
    pub owner: &'a str,
    pub nonce: [u8; 8],
    pub now_ms: u64,
}

/// [`Command::DeleteVersions`](crate::command::Command::DeleteVersions). A refusal concerns one version, unless it is the only one.
pub(super) fn versions(draft: &mut Draft<'_>, delete: &DeleteVersions) -> Result<Outcome, DecideError> {
    let bucket = bucket::existing(draft, delete.bucket)?;
    if delete.versions.len() > MAX_DELETE_KEYS {
        return Err(Refusal::TooLarge.into());
    }
    let order = Order { bucket: &bucket, owner: &delete.owner, nonce: delete.nonce, now_ms: delete.now_ms };
    let mut done = Done::default();
    let mut results = Vec::with_capacity(delete.versions.len());
    for version in &delete.versions {
        results.push(match one(draft, &mut done, &order, version) {
            Ok((gone, _)) => Ok(gone),
            Err(DecideError::Refused(refusal)) => Err(refusal),
            Err(error) => return Err(error),
        });
    }
    match results.pop() {
        Some(Err(refusal)) if results.is_empty() => Err(refusal.into()),
        last => Ok(Outcome::VersionsDeleted(results.into_iter().chain(last).collect())),
    }
}

/// [`Command::DeleteObject`](crate::command::Command::DeleteObject), of gateways from before there were versions.
pub(super) fn object(
    draft: &mut Draft<'_>,
    bucket: BucketId,
    key: &str,
    condition: &Condition,
) -> Result<Outcome, DecideError> {
    let row = bucket::existing(draft, bucket)?;
    let (_, removed) = one(draft, &mut Done::default(), &simple(draft, &row), &current(key, condition))?;
    Ok(Outcome::Deleted(removed.map(Box::new)))
}

/// [`Command::DeleteObjects`](crate::command::Command::DeleteObjects), likewise.
pub(super) fn objects(
    draft: &mut Draft<'_>,
    bucket: BucketId,
    keys: &[(String, Condition)],
) -> Result<Outcome, DecideError> {
    let row = bucket::existing(draft, bucket)?;
    if keys.len() > MAX_DELETE_KEYS {
        return Err(Refusal::TooLarge.into());
    }
    let mut done = Done::default();
    let mut results = Vec::with_capacity(keys.len());
    for (key, condition) in keys {
        results.push(match one(draft, &mut done, &simple(draft, &row), &current(key, condition)) {
            Ok((gone, _)) => Ok(gone.removed.is_some()),
            Err(DecideError::Refused(refusal)) => Err(refusal),
            Err(error) => return Err(error),
        });
    }
    Ok(Outcome::DeletedMany(results))
}

fn current(key: &str, condition: &Condition) -> DeleteVersion {
    let condition = DeleteCondition { etag: condition.clone(), ..DeleteCondition::default() };
    DeleteVersion { key: key.to_owned(), named: Named::Current, condition, bypass: false }
}

/// What a DELETE without a version does to a key, asked for by a rule.
pub(super) fn expire(draft: &mut Draft<'_>, done: &mut Done, order: &Order<'_>, key: &str) -> Result<(), DecideError> {
    one(draft, done, order, &current(key, &Condition::None)).map(drop)
}

/// Who asks like that has no random bits for the id of a marker: it comes of a bucket that began to keep versions meanwhile.
fn simple<'a>(draft: &Draft<'_>, bucket: &'a BucketRow) -> Order<'a> {
    let mut nonce = [0; 8];
    let hash = blake3::hash(&[bucket.id.to_be_bytes(), draft.at.lsn.0.to_be_bytes()].concat());
    nonce.copy_from_slice(&hash.as_bytes()[..8]);
    Order { bucket, owner: "", nonce, now_ms: draft.at.wall_ms }
}

/// Deletes one version, or puts a marker on top: what became of it, and the row that went.
fn one(
    draft: &mut Draft<'_>,
    done: &mut Done,
    order: &Order<'_>,
    delete: &DeleteVersion,
) -> Result<(Gone, Option<VersionRow>), DecideError> {
    let known = done.known(draft, order.bucket.bucket_id(), &delete.key, &delete.named)?;
    let versions: Vec<rules::Version> = known.iter().map(seen).collect();
    let named = named(&delete.named);
    check(draft, &versions, named, &delete.condition)?;
    // A key that is listed twice has one marker.
    if let Some(marker) = done.markers.get(&delete.key).filter(|_| delete.named == Named::Current) {
        return Ok((Gone { removed: None, marker: Some(marker.version_id.clone()) }, None));
    }
    let change = rules::delete(&versions, versioning(order.bucket), named);
    let removed = change.removes.and_then(|at| known.into_iter().nth(at));
    if let Some(version) = &removed {
        // Who names no version asks for a delete marker, and bypasses nothing for the null version that it takes the place of.
        let bypass = delete.bypass && delete.named != Named::Current;
        done.remove(draft, version, Why::Request { bypass })?;
    }
    let marker = change.adds.map(|added| marker(draft, done, order, &delete.key, added)).transpose()?;
    let gone = removed.as_ref().map(|row| (row.version_id.clone(), row.delete_marker));
    Ok((Gone { removed: gone, marker }, removed))
}

/// Puts a delete marker on top of a key; its id.
fn marker(
    draft: &mut Draft<'_>,
    done: &mut Done,
    order: &Order<'_>,
    key: &str,
    added: Added,
) -> Result<String, DecideError> {
    super::object::check_key(key)?;
    let version_id = match added {
        Added::WithId => versions::version_id(draft.at.lsn, order.nonce),
        Added::Null => String::new(),
    };
    let row = VersionRow {
        bucket: order.bucket.id,
        key: key.to_owned(),
        seq: draft.at.lsn.0,
        version_id: version_id.clone(),
        modified_ms: order.now_ms,
        delete_marker: true,
        owner: said_owner(draft, order.bucket, order.owner),
        clock_ms: said_clock(draft)?,
        #[cfg(feature = "next-release")]
        level: super::object::said_level(draft.at.level),
        ..VersionRow::default()
    };
    done.markers.insert(key.to_owned(), row.clone());
    draft.rows.push(EffectKind::PutVersion(row));
    Ok(version_id)
}

/// How a bucket keeps versions.
pub(super) fn versioning(bucket: &BucketRow) -> Versioning {
    match bucket.versioning() {
        codec::effect::Versioning::Never => Versioning::Never,
        codec::effect::Versioning::Enabled => Versioning::Enabled,
        codec::effect::Versioning::Suspended => Versioning::Suspended,
    }
}

/// A version as the rules see it.
pub(super) fn seen(row: &VersionRow) -> rules::Version {
    let content = row.content.as_ref();
    rules::Version {
        id: row.version_id.clone(),
        delete_marker: row.delete_marker,
        etag: content.map_or_else(String::new, |content| content.etag.clone()),
        size: content.map_or(0, |content| content.size),
        modified_s: row.modified_ms / 1000,
    }
}

fn named(named: &Named) -> rules::Named<'_> {
    match named {
        Named::Current => rules::Named::Current,
        Named::Null => rules::Named::Null,
        Named::Id(id) => rules::Named::Id(id),
    }
}

fn check(
    draft: &Draft<'_>,
    versions: &[rules::Version],
    named: rules::Named<'_>,
    condition: &DeleteCondition,
) -> Result<(), DecideError> {
    if draft.at.sabotage.is(Sabotage::CommitCondition) {
        return Ok(());
    }
    let etag = match &condition.etag {
        Condition::None => None,
        Condition::IfMatchAny => Some("*"),
        Condition::IfMatch(etag) => Some(etag.as_str()),
        // Nobody asks for a delete of what is not there.
        Condition::IfNoneMatchAny | Condition::IfNoneMatch(_) => return Err(Refusal::PreconditionFailed.into()),
    };
    let asked = rules::Condition { etag, modified_s: condition.modified_s, size: condition.size };
    Ok(rules::check_delete(versions, named, asked).map_err(|_| Refusal::PreconditionFailed)?)
}
