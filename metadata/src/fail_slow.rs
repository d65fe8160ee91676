//! Drives that still answer and take far longer than the others: they get no new shards until they are quick again.
//!
//! Pure: the time is an argument. Nothing is kept over a restart.
//!
//! Invariants
//! * A drive is called slow only after it was slow for [`SLOW_FOR_MS`] without a break, and quick again only after it was
//!   well below that for [`QUICK_FOR_MS`]: one full group of writes, or one idle hour, decides nothing.
//! * Slow drives are kept from new shards only as far as the drives that are left make full stripes: a slow drive is better
//!   than a narrower stripe.

use codec::id::DriveId;
use std::collections::{BTreeMap, BTreeSet};

/// Slow: so many times the median of the others.
pub const SLOW_TIMES: u32 = 5;
/// Quick again: below half of that.
const QUICK_TIMES_HALVES: u32 = SLOW_TIMES;
/// A drive that answers within this time is not slow, whatever the others do; in milliseconds.
pub const SLOW_LEAST_MS: u32 = 50;
/// A drive is called slow after this time.
pub const SLOW_FOR_MS: u64 = 60_000;
/// A slow drive is called quick again after this time.
pub const QUICK_FOR_MS: u64 = 300_000;
/// Fewer others than this have no median that says anything.
const LEAST_OTHERS: usize = 2;

/// A drive, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The drive.
    pub drive: DriveId,
    /// What 99 of 100 recent reads or writes did not exceed, in milliseconds; `None`: too few to say.
    pub p99_ms: Option<u32>,
    /// It takes new shards, as far as everything else goes.
    pub usable: bool,
}

/// A slow drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Its p99, in milliseconds; 0: not known any more.
    pub p99_ms: u32,
    /// The median of the others, in milliseconds.
    pub median_ms: u32,
    /// It gets no new shards. A drive that can't be spared does.
    pub spared: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Suspect {
    slow: bool,
    /// Since when it is on the other side of the line than `slow` says.
    since_ms: Option<u64>,
}

/// What is known of all drives.
#[derive(Clone, Debug, Default)]
pub struct FailSlow {
    suspects: BTreeMap<DriveId, Suspect>,
    slow: BTreeMap<DriveId, Slow>,
}

impl FailSlow {
    /// Takes in how the drives are now. `full`: drives that a full stripe needs (k+m).
    pub fn look(&mut self, samples: &[Sample], full: usize, now_ms: u64) {
        self.suspects.retain(|drive, _| samples.iter().any(|sample| sample.drive == *drive));
        self.slow.clear();
        for sample in samples {
            let median_ms = median_of_others(samples, sample.drive);
            let suspect = self.suspects.entry(sample.drive).or_default();
            let times = |halves: u32| median_ms.map(|median| (median.saturating_mul(halves) / 2).max(SLOW_LEAST_MS));
            let above = |line: Option<u32>| sample.p99_ms.zip(line).is_some_and(|(p99, line)| p99 >= line);
            let crossed = match suspect.slow {
                false => above(times(2 * SLOW_TIMES)),
                true => !above(times(QUICK_TIMES_HALVES)),
            };
            let after_ms = if suspect.slow { QUICK_FOR_MS } else { SLOW_FOR_MS };
            match (crossed, suspect.since_ms) {
                (false, _) => suspect.since_ms = None,
                (true, None) => suspect.since_ms = Some(now_ms),
                (true, Some(since_ms)) if now_ms.saturating_sub(since_ms) >= after_ms => {
                    *suspect = Suspect { slow: !suspect.slow, since_ms: None };
                    tracing::warn!(drive = %sample.drive, slow = suspect.slow, p99_ms = sample.p99_ms, median_ms, "how fast a drive is");
                }
                (true, Some(_)) => {}
            }
            if suspect.slow {
                let (p99_ms, median_ms) = (sample.p99_ms.unwrap_or(0), median_ms.unwrap_or(0));
                self.slow.insert(sample.drive, Slow { p99_ms, median_ms, spared: false });
            }
        }
        self.spare(samples, full);
    }

    /// The slowest first, as many as can be spared.
    fn spare(&mut self, samples: &[Sample], full: usize) {
        let usable: BTreeSet<DriveId> = samples.iter().filter(|s| s.usable).map(|s| s.drive).collect();
        let mut slowest: Vec<&mut Slow> =
            self.slow.iter_mut().filter(|(drive, _)| usable.contains(drive)).map(|(_, slow)| slow).collect();
        slowest.sort_by_key(|slow| std::cmp::Reverse(slow.p99_ms));
        slowest.into_iter().take(usable.len().saturating_sub(full)).for_each(|slow| slow.spared = true);
    }

    /// The slow drives.
    pub fn slow(&self) -> &BTreeMap<DriveId, Slow> {
        &self.slow
    }

    /// Those that get no new shards.
    pub fn spared(&self) -> BTreeSet<DriveId> {
        self.slow.iter().filter(|(_, slow)| slow.spared).map(|(drive, _)| *drive).collect()
    }
}

/// The lower median of what the other drives take; `None` when too few of them say.
fn median_of_others(samples: &[Sample], drive: DriveId) -> Option<u32> {
    let mut others: Vec<u32> = samples.iter().filter(|s| s.drive != drive).filter_map(|s| s.p99_ms).collect();
    others.sort_unstable();
    let middle = others.len().checked_sub(1)? / 2;
    others.get(middle).copied().filter(|_| others.len() >= LEAST_OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(times: &[u32]) -> Vec<Sample> {
        let all = (1..).zip(times);
        all.map(|(n, ms)| Sample { drive: DriveId([n; 16]), p99_ms: Some(*ms), usable: true }).collect()
    }

    fn ids(numbers: &[u8]) -> BTreeSet<DriveId> {
        numbers.iter().map(|n| DriveId([*n; 16])).collect()
    }

    #[test]
    fn five_times_the_median_for_a_minute_and_half_of_that_for_five() {
        let mut watch = FailSlow::default();
        let slow = samples(&[20, 20, 25, 30, 100]);
        watch.look(&slow, 4, 0);
        watch.look(&slow, 4, SLOW_FOR_MS - 1);
        assert!(watch.slow().is_empty(), "not yet");
        watch.look(&slow, 4, SLOW_FOR_MS);
        assert_eq!(watch.spared(), ids(&[5]));
        assert_eq!(watch.slow()[&DriveId([5; 16])], Slow { p99_ms: 100, median_ms: 20, spared: true });
        // Between the lines it stays what it is, in either direction.
        let between = samples(&[20, 20, 25, 30, 60]);
        for now_ms in [SLOW_FOR_MS + 1, SLOW_FOR_MS + 10 * QUICK_FOR_MS] {
            watch.look(&between, 4, now_ms);
            assert_eq!(watch.spared(), ids(&[5]));
        }
        let (quick, from) = (samples(&[20, 20, 25, 30, 40]), SLOW_FOR_MS + 20 * QUICK_FOR_MS);
        watch.look(&quick, 4, from);
        watch.look(&between, 4, from + QUICK_FOR_MS - 1);
        watch.look(&quick, 4, from + QUICK_FOR_MS);
        assert_eq!(watch.spared(), ids(&[5]), "the break began it anew");
        watch.look(&quick, 4, from + 2 * QUICK_FOR_MS);
        assert!(watch.slow().is_empty());
        // It is not called slow again for less than the first time.
        watch.look(&between, 4, from + 9 * QUICK_FOR_MS);
        watch.look(&between, 4, from + 10 * QUICK_FOR_MS);
        assert!(watch.slow().is_empty());
    }

    #[test]
    fn no_more_drives_are_spared_than_a_full_stripe_leaves() {
        let slow = samples(&[900, 10, 10, 10, 10, 10, 600, 700]);
        for (full, spared) in [(4, ids(&[1, 7, 8])), (6, ids(&[1, 8])), (7, ids(&[1])), (8, ids(&[])), (12, ids(&[]))] {
            let mut watch = FailSlow::default();
            watch.look(&slow, full, 0);
            watch.look(&slow, full, SLOW_FOR_MS);
            assert_eq!(watch.slow().len(), 3, "all are shown");
            assert_eq!(watch.spared(), spared, "{full} are needed");
        }
        // Drives that take no shards anyway leave fewer to be spared.
        let mut fewer = slow.clone();
        fewer[1].usable = false;
        let mut watch = FailSlow::default();
        watch.look(&fewer, 6, 0);
        watch.look(&fewer, 6, SLOW_FOR_MS);
        assert_eq!(watch.spared(), ids(&[1]));
    }

    #[test]
    fn quick_drives_and_few_drives_say_nothing() {
        for times in [&[1, 1, 1, 49][..], &[10, 900], &[900]] {
            let mut watch = FailSlow::default();
            watch.look(&samples(times), 1, 0);
            watch.look(&samples(times), 1, 10 * SLOW_FOR_MS);
            assert!(watch.slow().is_empty(), "{times:?}");
        }
        // One that says nothing any more is not slow for ever.
        let mut watch = FailSlow::default();
        let mut slow = samples(&[10, 10, 10, 900]);
        watch.look(&slow, 2, 0);
        watch.look(&slow, 2, SLOW_FOR_MS);
        slow[3].p99_ms = None;
        watch.look(&slow, 2, SLOW_FOR_MS + 1);
        assert_eq!(watch.spared(), ids(&[4]));
        watch.look(&slow, 2, SLOW_FOR_MS + 1 + QUICK_FOR_MS);
        assert!(watch.slow().is_empty());
    }
}
