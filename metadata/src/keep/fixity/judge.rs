//! From the shards of an object to one outcome. Pure.

use super::stripes::ShardState;

/// What the shards of an object come to, the best first: of several stripes, the worst counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Every shard verified from its medium since it was written.
    #[default]
    Ok,
    /// Nothing is known to be wrong, but not every shard has been verified since it was written.
    Unverified,
    /// Shards are bad or can't be asked, and the others are enough to read it.
    Degraded,
    /// Shards are bad, the others are just enough to read it, and not one more may be lost.
    Damaged,
    /// Too few shards can be asked to say whether it can be read.
    Unknown,
    /// Too few shards are left, those included that can't be asked.
    Lost,
}

impl Outcome {
    /// All of them, the best first.
    pub const ALL: [Outcome; 6] =
        [Outcome::Ok, Outcome::Unverified, Outcome::Degraded, Outcome::Damaged, Outcome::Unknown, Outcome::Lost];

    /// The name in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Unverified => "unverified",
            Outcome::Degraded => "degraded",
            Outcome::Damaged => "damaged",
            Outcome::Unknown => "unknown",
            Outcome::Lost => "lost",
        }
    }
}

/// Counts over the shards (and journal copies) of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// The worst of its stripes and journal entries.
    pub outcome: Outcome,
    /// How many more shards each of its stripes can lose at least; `None` when there are none, and negative when some can't be
    /// read now.
    pub slack: Option<i32>,
    /// Chunks, those of its manifest included.
    pub chunks: u64,
    /// Stripes.
    pub stripes: u64,
    /// Journal entries.
    pub entries: u64,
    /// Shards and journal copies in all.
    pub shards: u64,
    /// Verified from the medium since they were written.
    pub verified: u64,
    /// Not verified since they were written, and not known to be bad.
    pub unverified: u64,
    /// Missing or damaged.
    pub bad: u64,
    /// On drives that can't be asked.
    pub unreachable: u64,
    /// When the shard that was verified longest ago was: milliseconds since the Unix epoch. `None` unless every shard that can
    /// be asked was verified, because then there is no such time.
    pub oldest_ms: Option<u64>,
    /// Shards that are counted here and not listed.
    pub unlisted: u64,
}

/// What the copies of one thing, of which any `needed` are enough, come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What it comes to.
    pub outcome: Outcome,
    /// How many more may be lost; negative: so many are lacking.
    pub slack: i32,
}

/// Judges shards of which any `needed` are enough.
pub fn judge(needed: usize, states: impl IntoIterator<Item = ShardState>) -> Judged {
    let (mut good, mut unverified, mut bad, mut unknown) = (0usize, 0usize, 0usize, 0usize);
    for state in states {
        match state {
            ShardState::Good => good += 1,
            ShardState::Unverified => unverified += 1,
            ShardState::Bad(_) => bad += 1,
            ShardState::Unreachable => unknown += 1,
        }
    }
    let usable = good + unverified;
    let slack = i32::try_from(usable).unwrap_or(i32::MAX) - i32::try_from(needed).unwrap_or(i32::MAX);
    let outcome = match () {
        () if usable + unknown < needed => Outcome::Lost,
        () if usable < needed => Outcome::Unknown,
        () if bad > 0 && slack == 0 => Outcome::Damaged,
        () if bad > 0 || unknown > 0 => Outcome::Degraded,
        () if unverified > 0 => Outcome::Unverified,
        () => Outcome::Ok,
    };
    Judged { outcome, slack }
}

impl Sum {
    /// Adds the copies of one thing.
    pub(super) fn add(&mut self, judged: Judged, shards: impl IntoIterator<Item = (ShardState, u64)>) {
        self.outcome = self.outcome.max(judged.outcome);
        self.slack = Some(self.slack.map_or(judged.slack, |slack| slack.min(judged.slack)));
        for (state, verified_ms) in shards {
            self.shards += 1;
            match state {
                ShardState::Good => {
                    self.verified += 1;
                    self.oldest_ms = Some(self.oldest_ms.map_or(verified_ms, |oldest| oldest.min(verified_ms)));
                }
                ShardState::Unverified => self.unverified += 1,
                ShardState::Bad(_) => self.bad += 1,
                ShardState::Unreachable => self.unreachable += 1,
            }
        }
    }

    /// Once everything is added: what was never verified has no oldest verification.
    pub(super) fn finish(&mut self) {
        if self.unverified > 0 {
            self.oldest_ms = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ShardState::{Good, Unreachable, Unverified};
    use storage_node::keep::FindingKind;

    const BAD: ShardState = ShardState::Bad(FindingKind::Damaged);

    fn outcome(needed: usize, states: &[ShardState]) -> (Outcome, i32) {
        let judged = judge(needed, states.iter().copied());
        (judged.outcome, judged.slack)
    }

    #[test]
    fn good_shards_are_ok_and_unverified_ones_are_told() {
        assert_eq!(outcome(2, &[Good; 4]), (Outcome::Ok, 2));
        assert_eq!(outcome(2, &[Good, Good, Good, Unverified]), (Outcome::Unverified, 2));
    }

    #[test]
    fn what_is_left_decides_between_degraded_damaged_and_lost() {
        assert_eq!(outcome(2, &[Good, Good, Good, BAD]), (Outcome::Degraded, 1));
        assert_eq!(outcome(2, &[Good, Good, BAD, BAD]), (Outcome::Damaged, 0));
        assert_eq!(outcome(2, &[Good, BAD, BAD, BAD]), (Outcome::Lost, -1));
        assert_eq!(outcome(1, &[BAD]), (Outcome::Lost, -1), "no parity");
    }

    #[test]
    fn a_drive_that_is_gone_is_never_ok_and_never_a_loss() {
        assert_eq!(outcome(2, &[Good, Good, Good, Unreachable]), (Outcome::Degraded, 1));
        assert_eq!(outcome(2, &[Good, Good, Unreachable, Unreachable]), (Outcome::Degraded, 0));
        assert_eq!(outcome(2, &[Good, Unreachable, Unreachable, Unreachable]), (Outcome::Unknown, -1));
        assert_eq!(outcome(2, &[Unreachable; 4]), (Outcome::Unknown, -2));
        assert_eq!(outcome(2, &[Good, BAD, BAD, Unreachable]), (Outcome::Unknown, -1));
        assert_eq!(outcome(3, &[Good, BAD, BAD, Unreachable]), (Outcome::Lost, -2));
    }

    #[test]
    fn the_worst_stripe_counts_and_an_unverified_shard_leaves_no_oldest_time() {
        let mut sum = Sum::default();
        sum.add(judge(1, [Good, Good]), [(Good, 50), (Good, 40)]);
        assert_eq!((sum.outcome, sum.slack, sum.oldest_ms), (Outcome::Ok, Some(1), Some(40)));
        sum.add(judge(1, [Good, BAD]), [(Good, 60), (BAD, 0)]);
        assert_eq!((sum.outcome, sum.slack, sum.verified, sum.bad), (Outcome::Damaged, Some(0), 3, 1));
        sum.add(judge(1, [Unverified, Good]), [(Unverified, 0), (Good, 70)]);
        sum.finish();
        assert_eq!((sum.outcome, sum.oldest_ms, sum.shards), (Outcome::Damaged, None, 6));
    }
}
