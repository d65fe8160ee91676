//! Keys that could not be copied: why, and when they are tried again. Pure: whoever asks says what time it is.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Failing keys that are remembered. One more is tried again without a pause of its own.
pub(super) const FAILING: usize = 4096;
/// The first pause of a key; each one is twice as long as the one before.
const FIRST: Duration = Duration::from_secs(2);
/// The longest pause of a key.
const MOST: Duration = Duration::from_secs(600);
/// The first pause of all keys.
const ALL_FIRST: Duration = Duration::from_secs(1);
/// The longest pause of all keys.
const ALL_MOST: Duration = Duration::from_secs(60);

/// Why a key is not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The other endpoint does not answer.
    Unreachable,
    /// It does not let us.
    Denied,
    /// It can't at present.
    Busy,
    /// The bucket is not there.
    NoBucket,
    /// The bucket there keeps no versions, and the rule copies them.
    Unversioned,
    /// It has more versions than can be copied.
    TooMany,
    /// It refuses this object.
    Refused,
    /// What is there was not what had been found there.
    Changed,
    /// The object can't be read here.
    Unreadable,
    /// It is under a client's key, or under a key of the key store that is out of use. Nothing says that it is damaged.
    NoKey,
    /// Something is in the way on this side.
    Here,
    /// What is there may be newer than what is here, and an operator has not released reclaim yet.
    Held,
}

impl Reason {
    /// For statuses and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::Unreachable => "unreachable",
            Reason::Denied => "denied",
            Reason::Busy => "busy",
            Reason::NoBucket => "no-bucket",
            Reason::Unversioned => "unversioned",
            Reason::TooMany => "too-many-versions",
            Reason::Refused => "refused",
            Reason::Changed => "changed",
            Reason::Unreadable => "unreadable",
            Reason::NoKey => "no-key",
            Reason::Here => "here",
            Reason::Held => "held",
        }
    }

    /// What is true of every other key as well, most likely.
    fn is_general(self) -> bool {
        match self {
            Reason::Unreachable | Reason::Denied | Reason::Busy | Reason::NoBucket => true,
            Reason::Unversioned | Reason::Here => true,
            Reason::TooMany | Reason::Refused | Reason::Changed | Reason::Unreadable | Reason::NoKey | Reason::Held => {
                false
            }
        }
    }
}

struct Failure {
    reason: Reason,
    tries: u32,
    until: Instant,
}

/// What failed.
#[derive(Default)]
pub(super) struct Failing {
    keys: HashMap<String, Failure>,
    /// Failures of the general kind since the last success, and until when all keys wait for it.
    all: Option<(u32, Instant)>,
}

fn pause(first: Duration, most: Duration, tries: u32) -> Duration {
    first.saturating_mul(1u32.checked_shl(tries.min(16)).unwrap_or(u32::MAX)).min(most)
}

impl Failing {
    /// A key was copied, or has nothing to be copied.
    pub(super) fn succeeded(&mut self, key: &str) {
        self.keys.remove(key);
        self.all = None;
    }

    /// A key failed. `own`: for this reason it does so alone, whatever the reason says of others in general.
    pub(super) fn failed(&mut self, key: String, reason: Reason, own: bool, now: Instant) {
        let general = reason.is_general() && !own;
        if general {
            let (tries, until) = self.all.unwrap_or((0, now));
            // Those that were under way together count once.
            if until <= now {
                self.all = Some((tries.saturating_add(1), now + pause(ALL_FIRST, ALL_MOST, tries)));
            }
        }
        let tries = self.keys.get(&key).map_or(0, |failure| failure.tries.saturating_add(1));
        if tries > 0 || self.keys.len() < FAILING {
            // For what is not its own fault it waits no longer than all do.
            let most = if general { ALL_MOST } else { MOST };
            self.keys.insert(key, Failure { reason, tries, until: now + pause(FIRST, most, tries) });
        }
    }

    /// Whether a key is not to be tried yet.
    pub(super) fn waits(&self, key: &str, now: Instant) -> bool {
        self.keys.get(key).is_some_and(|failure| failure.until > now)
    }

    /// Whether no key is to be tried yet.
    pub(super) fn all_wait(&self, now: Instant) -> bool {
        self.all.is_some_and(|(_, until)| until > now)
    }

    /// How many keys fail, by reason.
    pub(super) fn by_reason(&self) -> BTreeMap<Reason, u64> {
        let mut counts = BTreeMap::new();
        for failure in self.keys.values() {
            *counts.entry(failure.reason).or_default() += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses: Vec<u64> = (0..12).map(|tries| pause(FIRST, MOST, tries).as_secs()).collect();
        assert_eq!(pauses[..5], [2, 4, 8, 16, 32]);
        assert_eq!(pauses[11], 600);
        assert_eq!(pause(FIRST, MOST, u32::MAX), MOST);
    }

    #[test]
    fn what_is_true_of_all_keys_makes_all_wait_until_one_succeeds() {
        let (mut failing, now) = (Failing::default(), Instant::now());
        failing.failed("a".to_owned(), Reason::Refused, false, now);
        assert!(failing.waits("a", now) && !failing.waits("b", now) && !failing.all_wait(now));
        for key in ["b", "c", "d"] {
            failing.failed(key.to_owned(), Reason::Unreachable, false, now);
        }
        assert!(failing.all_wait(now) && !failing.all_wait(now + ALL_FIRST), "together they count once");
        failing.failed("b".to_owned(), Reason::Unreachable, false, now + ALL_FIRST);
        assert!(failing.all_wait(now + 2 * ALL_FIRST));
        assert_eq!(failing.by_reason(), BTreeMap::from([(Reason::Refused, 1), (Reason::Unreachable, 3)]));
        failing.succeeded("b");
        assert!(!failing.all_wait(now + 2 * ALL_FIRST) && failing.waits("a", now));
    }

    /// Else some keys that are denied for ever would keep all others back.
    #[test]
    fn for_what_is_refused_of_one_key_no_other_waits() {
        let (mut failing, now) = (Failing::default(), Instant::now());
        failing.failed("a".to_owned(), Reason::Denied, true, now);
        assert!(failing.waits("a", now) && !failing.all_wait(now));
        failing.failed("b".to_owned(), Reason::Denied, false, now);
        assert!(failing.all_wait(now));
    }

    #[test]
    fn remembered_failures_are_bounded() {
        let (mut failing, now) = (Failing::default(), Instant::now());
        for n in 0..2 * FAILING {
            failing.failed(n.to_string(), Reason::Refused, false, now);
        }
        assert_eq!(failing.keys.len(), FAILING);
    }
}
