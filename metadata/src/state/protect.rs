//! The one place where the lock of a version begins and changes.
//!
//! Invariants:
//! * What a version is kept by is decided here, in the entry that commits or changes it, by the bucket's row and the version's as they
//!   are then: a default that a gateway had read before may have become longer.
//! * A date is judged by two clocks (R15), see [`crate::lock::now`].

use super::{DecideError, Draft};
use crate::command::{Refusal, VersionChange};
use crate::lock::{default_of, now, protection_of, retention_of, retention_row};
use access::lock::{Asked, AskedError, Period, RetentionError, may_retain, of_new_version};
use codec::effect::{BucketRow, DefaultRetentionRow, RetentionMode, RetentionRow, VersionRow};

/// The lock of a version that is committed now: what its request asked for, or else its bucket's default.
pub(super) fn of_new(
    draft: &Draft<'_>,
    bucket: &BucketRow,
    asked: Option<&RetentionRow>,
    hold: bool,
) -> Result<(Option<RetentionRow>, bool), DecideError> {
    if !bucket.lock && asked.is_none() && !hold {
        return Ok((None, false));
    }
    let retention = asked.map(retention_of);
    let asked = Asked {
        mode: retention.map(|retention| retention.mode),
        until_ms: retention.map(|retention| retention.until_ms),
        hold: Some(hold),
    };
    let default = bucket.default_retention.as_ref().map(default_of);
    let clocks = now(draft.view, draft.at.wall_ms)?;
    let protection = of_new_version(asked, bucket.lock.then_some(default), clocks).map_err(|error| match error {
        AskedError::NoLock | AskedError::Half => Refusal::NoLock,
        AskedError::Retention(error) => refused(error),
    })?;
    Ok((protection.retention.map(retention_row), protection.hold))
}

/// The lock of a version that an upload becomes. What its request asked for was judged when the upload was opened: a date that has
/// passed since keeps nothing, and is no reason to refuse what was sent for days; nor does the default take its place.
pub(super) fn of_upload(
    draft: &Draft<'_>,
    bucket: &BucketRow,
    asked: Option<&RetentionRow>,
    hold: bool,
) -> Result<(Option<RetentionRow>, bool), DecideError> {
    match asked {
        Some(asked) => Ok((Some(*asked), hold)),
        None => of_new(draft, bucket, None, hold),
    }
}

/// Refuses a default that says nothing clear: rows may be damaged, commands may not.
pub(super) fn check_default(default: Option<&DefaultRetentionRow>) -> Result<(), Refusal> {
    let is_clear = |row: &DefaultRetentionRow| {
        let number = |n: u32| (n > 0).then_some(i64::from(n));
        row.mode() != RetentionMode::Unspecified && Period::new(number(row.days), number(row.years)).is_ok()
    };
    match default.is_none_or(is_clear) {
        true => Ok(()),
        false => Err(Refusal::BadSetting { name: "default retention".to_owned() }),
    }
}

/// Changes the lock of a version's row, if what locks it lets it.
pub(super) fn change(
    draft: &Draft<'_>,
    bucket: &BucketRow,
    row: &mut VersionRow,
    change: &VersionChange,
    bypass: bool,
) -> Result<(), DecideError> {
    if !bucket.lock {
        return Err(Refusal::NoLock.into());
    }
    match change {
        VersionChange::Retention(new) => {
            let clocks = now(draft.view, draft.at.wall_ms)?;
            let asked = new.as_ref().map(retention_of);
            may_retain(&protection_of(row), asked, bypass, clocks).map_err(refused)?;
            row.retention = *new;
        }
        VersionChange::Hold(hold) => row.hold = *hold,
        VersionChange::Tags(_) | VersionChange::Acl(_) | VersionChange::Restore { .. } => {}
    }
    Ok(())
}

fn refused(error: RetentionError) -> Refusal {
    match error {
        RetentionError::Locked(locked) => Refusal::Locked(locked),
        error => Refusal::Retention(error),
    }
}
