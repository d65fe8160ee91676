//! How much buckets and accounts may hold.
//!
//! Invariants:
//! * Looked at once, when all that a command does is known: so whatever adds to a bucket is refused alike, and an overwrite that makes
//!   less of it is not.
//! * What only takes away is never refused, however much there is.

use super::{DecideError, Draft};
use crate::command::{Outcome, Quota, QuotaOf, Refusal};
use crate::index::usage::{self, Change};
use crate::index::{self, View};
use codec::effect::{AccountRow, BucketRow, EffectKind, UsageRow};
use codec::id::BucketId;
use codec::level::FormatLevel;
use std::collections::{BTreeMap, BTreeSet};

/// Refuses what would be more than a bucket, or its account, may hold.
pub(super) fn check(view: &dyn View, rows: &[EffectKind]) -> Result<(), DecideError> {
    let adds = |kind: &EffectKind| match kind {
        EffectKind::PutVersion(row) => Some(row.bucket),
        EffectKind::PutPart(row) => row.upload.as_ref().map(|upload| upload.bucket),
        _ => None,
    };
    let buckets: BTreeSet<u64> = rows.iter().filter_map(adds).collect();
    let mut limited = Vec::new();
    for id in buckets {
        let Some(bucket) = index::bucket_by_id(view, BucketId(id))? else { continue };
        let account = index::account(view, &bucket.owner)?.unwrap_or_default();
        if of_bucket(&bucket) != Quota::default() || of_account(&account) != Quota::default() {
            limited.push((bucket, account));
        }
    }
    if limited.is_empty() {
        return Ok(());
    }
    let changes = usage::changes_of(view, rows)?;
    let mut accounts: BTreeMap<&str, (Quota, Change)> = BTreeMap::new();
    for (bucket, account) in &limited {
        let change = changes.get(&bucket.bucket_id()).copied().unwrap_or_default();
        if exceeds(of_bucket(bucket), &usage::of_bucket(view, bucket.bucket_id())?, change) {
            return Err(Refusal::QuotaExceeded { account: false }.into());
        }
        let sum = accounts.entry(&bucket.owner).or_insert((of_account(account), Change::default()));
        sum.1 = sum.1.plus(change);
    }
    for (account, (quota, change)) in accounts {
        if exceeds(quota, &usage::of_account(view, account)?, change) {
            return Err(Refusal::QuotaExceeded { account: true }.into());
        }
    }
    Ok(())
}

fn of_bucket(row: &BucketRow) -> Quota {
    Quota { max_bytes: row.max_bytes, max_objects: row.max_objects }
}

fn of_account(row: &AccountRow) -> Quota {
    Quota { max_bytes: row.max_bytes, max_objects: row.max_objects }
}

fn exceeds(quota: Quota, held: &UsageRow, change: Change) -> bool {
    let after = usage::after(held, change);
    let bytes = after.bytes.saturating_add(after.part_bytes);
    let more_bytes = change.bytes + change.part_bytes > 0 && quota.max_bytes != 0 && bytes > quota.max_bytes;
    more_bytes || (change.objects > 0 && quota.max_objects != 0 && after.objects > quota.max_objects)
}

pub(super) fn set(draft: &mut Draft<'_>, of: &QuotaOf, quota: Quota) -> Result<Outcome, DecideError> {
    let Quota { max_bytes, max_objects } = quota;
    match of {
        QuotaOf::Bucket(id) => {
            let row = super::bucket::existing(draft, *id)?;
            let changed = BucketRow { max_bytes, max_objects, ..row.clone() };
            draft.rows.extend((changed != row).then_some(EffectKind::PutBucket(changed)));
        }
        QuotaOf::Account(id) => {
            let row = index::account(draft.view, id)?.ok_or(Refusal::NoSuchAccount)?;
            let changed = AccountRow { max_bytes, max_objects, ..row.clone() };
            draft.rows.extend((changed != row).then_some(EffectKind::PutAccount(changed)));
        }
    }
    Ok(Outcome::Done)
}

/// Goes on with the count. Not before the level of these rows: a process of an earlier release would not follow it.
pub(super) fn count(draft: &mut Draft<'_>) -> Result<Outcome, DecideError> {
    if draft.at.level < FormatLevel::VERSIONS {
        return Ok(Outcome::Counted(true));
    }
    let step = usage::next_step(draft.view)?;
    let done = step.is_none();
    draft.rows.extend(step.map(EffectKind::PutSetting));
    Ok(Outcome::Counted(done))
}
