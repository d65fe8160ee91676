//! Why stripes wait, counted: of what waits there may be a million, and an operator wants to know until when.

use super::Wait;
use std::collections::BTreeMap;

/// Stripes that wait for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// The reason; of its times the first.
    pub why: Wait,
    /// How many they are.
    pub stripes: u64,
    /// Until when the last of them waits, on the keeper's clock in milliseconds; `None`: until something changes.
    pub until_ms: Option<u64>,
}

impl Wait {
    /// Until when it waits, on the keeper's clock in milliseconds; `None`: until something changes.
    pub fn until_ms(self) -> Option<u64> {
        match self {
            Wait::Grace { until_ms } | Wait::Replacement { until_ms } | Wait::Again { until_ms } => Some(until_ms),
            Wait::Verify | Wait::TooFewDrives | Wait::NoRoom | Wait::NoSpare | Wait::Beyond { .. } => None,
        }
    }

    /// The same, whatever its time.
    fn reason(self) -> Wait {
        match self {
            Wait::Grace { .. } => Wait::Grace { until_ms: 0 },
            Wait::Replacement { .. } => Wait::Replacement { until_ms: 0 },
            Wait::Again { .. } => Wait::Again { until_ms: 0 },
            other => other,
        }
    }
}

/// Counts stripes by what they wait for, those that are worst off last.
pub fn count_waits(waits: impl Iterator<Item = Wait>) -> Vec<Waits> {
    let mut counted: BTreeMap<Wait, Waits> = BTreeMap::new();
    for why in waits {
        let entry = counted.entry(why.reason()).or_insert(Waits { why, stripes: 0, until_ms: why.until_ms() });
        entry.why = entry.why.min(why);
        entry.stripes += 1;
        entry.until_ms = entry.until_ms.max(why.until_ms());
    }
    counted.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_by_reason_with_its_last_time() {
        let beyond = Wait::Beyond { lacking: 1, may_return: true };
        let all = [Wait::Grace { until_ms: 30 }, beyond, Wait::Grace { until_ms: 50 }, Wait::Grace { until_ms: 10 }];
        let counted = count_waits(all.into_iter());
        let grace = Waits { why: Wait::Grace { until_ms: 10 }, stripes: 3, until_ms: Some(50) };
        assert_eq!(counted, [grace, Waits { why: beyond, stripes: 1, until_ms: None }]);
    }
}
