//! Rows of Object Lock as [`access::lock`] judges them, and the clocks that it judges by.
//!
//! Invariant: what a row does not say clearly locks as strictly as possible. A mode that no release wrote is a damaged row, and a
//! version whose lock can't be read must not go because of that.

use crate::index::{self, IndexError, View};
use access::lock::{DefaultRetention, Mode, Now, Period, Protection, Retention, may_delete};
use codec::effect::{DefaultRetentionRow, RetentionMode, RetentionRow, VersionRow};

/// The clocks of a decision. Before the first tick is journaled the retention clock stands at the epoch: nothing is past any date.
pub fn now(view: &dyn View, wall_ms: u64) -> Result<Now, IndexError> {
    Ok(Now { retention_ms: index::clock(view)?.map_or(0, |tick| tick.retention_ms), wall_ms })
}

/// Whether a version may not be deleted at present by somebody who bypasses nothing.
pub fn is_kept(view: &dyn View, row: &VersionRow, wall_ms: u64) -> Result<bool, IndexError> {
    let protection = protection_of(row);
    Ok(protection != Protection::default() && may_delete(&protection, false, now(view, wall_ms)?).is_err())
}

/// What protects a version.
pub fn protection_of(row: &VersionRow) -> Protection {
    Protection { retention: row.retention.as_ref().map(retention_of), hold: row.hold }
}

/// A retention.
pub fn retention_of(row: &RetentionRow) -> Retention {
    Retention { mode: mode_of(row.mode()), until_ms: row.until_ms }
}

/// Its row.
pub fn retention_row(retention: Retention) -> RetentionRow {
    RetentionRow { mode: mode_row(retention.mode) as i32, until_ms: retention.until_ms }
}

/// A bucket's default. One that says both days and years, or neither, says the longer of what it does say, and at least a day.
pub fn default_of(row: &DefaultRetentionRow) -> DefaultRetention {
    let period = match (row.days, row.years) {
        (days, years) if u64::from(years) * 365 >= u64::from(days).max(1) => Period::Years(years.into()),
        (days, _) => Period::Days(u64::from(days).max(1)),
    };
    DefaultRetention { mode: mode_of(row.mode()), period }
}

/// Its row.
pub fn default_row(default: DefaultRetention) -> DefaultRetentionRow {
    let mode = mode_row(default.mode) as i32;
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    match default.period {
        Period::Days(days) => DefaultRetentionRow { mode, days: number(days), years: 0 },
        Period::Years(years) => DefaultRetentionRow { mode, days: 0, years: number(years) },
    }
}

fn mode_of(mode: RetentionMode) -> Mode {
    match mode {
        RetentionMode::Governance => Mode::Governance,
        RetentionMode::Compliance | RetentionMode::Unspecified => Mode::Compliance,
    }
}

fn mode_row(mode: Mode) -> RetentionMode {
    match mode {
        Mode::Governance => RetentionMode::Governance,
        Mode::Compliance => RetentionMode::Compliance,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_mode_locks_as_strictly_as_possible() {
        for mode in [0, 7, -1] {
            assert_eq!(retention_of(&RetentionRow { mode, until_ms: 9 }).mode, Mode::Compliance);
            assert_eq!(default_of(&DefaultRetentionRow { mode, days: 1, years: 0 }).mode, Mode::Compliance);
        }
        for (days, years, period) in
            [(0, 0, Period::Days(1)), (400, 1, Period::Days(400)), (364, 1, Period::Years(1)), (0, 1, Period::Years(1))]
        {
            assert_eq!(default_of(&DefaultRetentionRow { mode: 1, days, years }).period, period, "{days} {years}");
        }
    }

    #[test]
    fn rows_say_what_they_were_made_of() {
        for mode in [Mode::Governance, Mode::Compliance] {
            let retention = Retention { mode, until_ms: 77 };
            assert_eq!(retention_of(&retention_row(retention)), retention);
            for period in [Period::Days(1), Period::Days(36_500), Period::Years(100)] {
                let default = DefaultRetention { mode, period };
                assert_eq!(default_of(&default_row(default)), default);
            }
        }
    }
}
