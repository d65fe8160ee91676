//! When an archived version can be read.
//!
//! Source: Amazon S3 User Guide, "Restoring an archived object", "Checking restore status"; API Reference, RestoreObject, HeadObject
//! (`x-amz-restore`).

use super::plan::Calendar;
use super::rule::Class;

/// Most days that a copy may be asked for.
pub const MAX_DAYS: u32 = 36_500;

/// What has become of the wish to read an archived version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restore {
    /// Nobody asked.
    #[default]
    No,
    /// It is being made, to be kept for so many days.
    Ongoing {
        /// Days.
        days: u32,
    },
    /// It can be read.
    Until {
        /// Milliseconds since the Unix epoch: a midnight.
        ms: u64,
    },
}

/// The version lies in the archive. S3: InvalidObjectState, 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The operation is not valid for the object's storage class")]
pub struct Archived(pub Class);

/// Why a restore is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It is no archived version. S3: InvalidObjectState, 403.
    #[error("Restore is not allowed for the object's current storage class")]
    NotArchived,
    /// S3: RestoreAlreadyInProgress, 409.
    #[error("Object restore is already in progress")]
    Ongoing,
    /// S3: InvalidArgument.
    #[error("the number of days must be 1 to {MAX_DAYS}")]
    Days,
}

/// What comes of asking for a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It begins. S3: 202.
    Begins(Restore),
    /// It can be read already, and now until then. S3: 200.
    Prolonged(Restore),
}

/// Whether a version can be read, or copied. At the end of a copy's time it can't, whether somebody has taken it away or not.
pub fn may_read(class: Class, restore: Restore, now_ms: u64) -> Result<(), Archived> {
    match restore {
        _ if class == Class::Standard => Ok(()),
        Restore::Until { ms } if now_ms < ms => Ok(()),
        _ => Err(Archived(class)),
    }
}

/// Asks for a copy that can be read for so many days.
pub fn ask(class: Class, restore: Restore, days: u32, calendar: Calendar, now_ms: u64) -> Result<Asked, RestoreError> {
    if class == Class::Standard {
        return Err(RestoreError::NotArchived);
    }
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(RestoreError::Days);
    }
    match restore {
        Restore::Ongoing { .. } => Err(RestoreError::Ongoing),
        // The time counts from the new wish, as in S3, also where that is shorter.
        Restore::Until { ms } if now_ms < ms => {
            Ok(Asked::Prolonged(Restore::Until { ms: calendar.after(now_ms, days) }))
        }
        _ => Ok(Asked::Begins(Restore::Ongoing { days })),
    }
}

/// The copy is there.
pub fn done(restore: Restore, calendar: Calendar, now_ms: u64) -> Restore {
    match restore {
        Restore::Ongoing { days } => Restore::Until { ms: calendar.after(now_ms, days) },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    #[test]
    fn a_life() {
        let (glacier, calendar) = (Class::Glacier, Calendar::default());
        assert_eq!(may_read(Class::Standard, Restore::No, 0), Ok(()));
        assert_eq!(may_read(glacier, Restore::No, 0), Err(Archived(glacier)));
        let Ok(Asked::Begins(ongoing)) = ask(glacier, Restore::No, 2, calendar, DAY) else { panic!("refused") };
        assert!(may_read(glacier, ongoing, DAY).is_err());
        assert_eq!(ask(glacier, ongoing, 2, calendar, DAY), Err(RestoreError::Ongoing));
        let there = done(ongoing, calendar, DAY + 1);
        assert_eq!(there, Restore::Until { ms: 4 * DAY });
        assert!(may_read(glacier, there, 4 * DAY - 1).is_ok() && may_read(glacier, there, 4 * DAY).is_err());
        let longer = ask(glacier, there, 9, calendar, 2 * DAY);
        assert_eq!(longer, Ok(Asked::Prolonged(Restore::Until { ms: 11 * DAY })));
        assert!(matches!(ask(glacier, there, 1, calendar, 4 * DAY), Ok(Asked::Begins(_))), "it is over");
        assert_eq!(done(there, calendar, 9 * DAY), there);
    }

    #[test]
    fn what_can_t_be_restored() {
        let calendar = Calendar::default();
        assert_eq!(ask(Class::Standard, Restore::No, 1, calendar, 0), Err(RestoreError::NotArchived));
        for days in [0, MAX_DAYS + 1] {
            assert_eq!(ask(Class::DeepArchive, Restore::No, days, calendar, 0), Err(RestoreError::Days));
        }
    }
}
