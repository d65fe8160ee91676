//! Time and chance, behind traits, and the retention clock (R15).
//!
//! Invariants of [`RetentionClock`]: it never runs backwards; while the process lives it advances with monotonic time and
//! with nothing else; after time off it catches up with the wall clock by at most [`CATCH_UP_PER_YEAR_MS`] in each year of
//! its own count. So a wall clock that was set forward, once or a thousand times, releases nothing early by more than that.
//!
//! Beside it goes the *steady* count, by which graces before a delete are judged (R11): monotonic time while the process
//! lives, and nothing else. With catch-up a cluster that was off for a week would delete on its first day what nobody had a
//! day to miss.

use codec::effect::ClockTick;
use std::fmt::Debug;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use storage_node::sabotage::{Sabotage, SabotageSet};

/// Where the time comes from.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch, as the machine believes.
    fn wall_ms(&self) -> u64;
    /// Milliseconds since some moment before now; never goes back while the process lives.
    fn monotonic_ms(&self) -> u64;
}

/// Where random bits come from.
pub trait Entropy: Send + Sync + Debug {
    /// Fills `out` with random bytes; `false` when the source failed.
    #[must_use]
    fn fill(&self, out: &mut [u8]) -> bool;
}

/// `N` random bytes; `None` when the source failed.
pub(crate) fn random<const N: usize>(entropy: &dyn Entropy) -> Option<[u8; N]> {
    let mut out = [0; N];
    entropy.fill(&mut out).then_some(out)
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The machine's random source.
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) -> bool {
        getrandom::fill(out).is_ok()
    }
}

/// How much time off the retention clock makes good in one year of its own count: 7 days.
pub const CATCH_UP_PER_YEAR_MS: u64 = 7 * 24 * 3600 * 1000;
const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;

/// The clock that retention is judged by.
#[derive(Clone, Debug)]
pub struct RetentionClock {
    base_ms: u64,
    base_monotonic_ms: u64,
    caught_up_ms: u64,
    base_steady_ms: u64,
    /// The wall clock then.
    base_wall_ms: u64,
}

impl RetentionClock {
    /// Goes on from the last journaled tick; `None` is a first start, which believes the wall clock.
    pub fn resume(last: Option<ClockTick>, clock: &dyn Clock) -> RetentionClock {
        let (wall, base_monotonic_ms) = (clock.wall_ms(), clock.monotonic_ms());
        let Some(last) = last else {
            let (caught_up_ms, base_steady_ms) = (0, 0);
            return RetentionClock {
                base_ms: wall,
                base_monotonic_ms,
                caught_up_ms,
                base_steady_ms,
                base_wall_ms: wall,
            };
        };
        let budget = CATCH_UP_PER_YEAR_MS.saturating_sub(last.caught_up_ms);
        let step = wall.saturating_sub(last.retention_ms).min(budget);
        let base_ms = last.retention_ms.saturating_add(step);
        let used = last.caught_up_ms.saturating_add(step);
        let same_year = base_ms / YEAR_MS == last.retention_ms / YEAR_MS;
        let caught_up_ms = if same_year { used } else { step };
        let base_steady_ms = last.steady_ms;
        RetentionClock { base_ms, base_monotonic_ms, caught_up_ms, base_steady_ms, base_wall_ms: wall }
    }

    /// The same clock; or, without [`Sabotage::SteadyCatchUp`], one whose steady count has caught up as well; without
    /// [`Sabotage::CatchUpBound`], one that believes the wall clock.
    #[must_use]
    pub fn sabotaged(self, last: Option<&ClockTick>, sabotage: &SabotageSet) -> RetentionClock {
        let caught_up = last.map_or(0, |last| self.base_ms.saturating_sub(last.retention_ms));
        let more = if sabotage.is(Sabotage::SteadyCatchUp) { caught_up } else { 0 };
        let unbounded = sabotage.is(Sabotage::CatchUpBound);
        let base_ms = if unbounded { self.base_ms.max(self.base_wall_ms) } else { self.base_ms };
        RetentionClock { base_ms, base_steady_ms: self.base_steady_ms.saturating_add(more), ..self }
    }

    /// Now, as a tick to be journaled.
    pub fn tick(&self, clock: &dyn Clock) -> ClockTick {
        let passed = clock.monotonic_ms().saturating_sub(self.base_monotonic_ms);
        let retention_ms = self.base_ms.saturating_add(passed);
        let same_year = retention_ms / YEAR_MS == self.base_ms / YEAR_MS;
        ClockTick {
            retention_ms,
            caught_up_ms: if same_year { self.caught_up_ms } else { 0 },
            steady_ms: self.base_steady_ms.saturating_add(passed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    struct Hands {
        wall: AtomicU64,
        monotonic: AtomicU64,
    }

    impl Clock for Hands {
        fn wall_ms(&self) -> u64 {
            self.wall.load(Ordering::Relaxed)
        }
        fn monotonic_ms(&self) -> u64 {
            self.monotonic.load(Ordering::Relaxed)
        }
    }

    const DAY: u64 = 24 * 3600 * 1000;

    #[test]
    fn r15_a_wall_clock_set_forward_releases_nothing() {
        let hands = Hands::default();
        hands.wall.store(50 * YEAR_MS + DAY, Ordering::Relaxed);
        let clock = RetentionClock::resume(None, &hands);
        let first = clock.tick(&hands);
        hands.wall.store(90 * YEAR_MS, Ordering::Relaxed);
        hands.monotonic.store(5000, Ordering::Relaxed);
        assert_eq!(clock.tick(&hands).retention_ms, first.retention_ms + 5000);

        let mut last = clock.tick(&hands);
        for _ in 0..1000 {
            last = RetentionClock::resume(Some(last), &hands).tick(&hands);
        }
        assert_eq!(last.retention_ms, first.retention_ms + 5000 + CATCH_UP_PER_YEAR_MS);
        assert_eq!(last.caught_up_ms, CATCH_UP_PER_YEAR_MS);
    }

    #[test]
    fn r15_a_wall_clock_set_back_stops_nothing() {
        let hands = Hands::default();
        hands.wall.store(50 * YEAR_MS, Ordering::Relaxed);
        let last = RetentionClock::resume(None, &hands).tick(&hands);
        hands.wall.store(0, Ordering::Relaxed);
        let clock = RetentionClock::resume(Some(last.clone()), &hands);
        assert_eq!(clock.tick(&hands).retention_ms, last.retention_ms);
        hands.monotonic.store(DAY, Ordering::Relaxed);
        assert_eq!(clock.tick(&hands).retention_ms, last.retention_ms + DAY);
    }

    #[test]
    fn r15_the_budget_is_new_in_a_new_year_of_its_own_count() {
        let hands = Hands::default();
        let last = ClockTick { retention_ms: 51 * YEAR_MS - 1, caught_up_ms: CATCH_UP_PER_YEAR_MS, steady_ms: 7 };
        hands.wall.store(60 * YEAR_MS, Ordering::Relaxed);
        let clock = RetentionClock::resume(Some(last.clone()), &hands);
        assert_eq!(clock.tick(&hands).retention_ms, last.retention_ms);
        hands.monotonic.store(1, Ordering::Relaxed);
        assert_eq!(clock.tick(&hands), ClockTick { retention_ms: 51 * YEAR_MS, caught_up_ms: 0, steady_ms: 8 });
    }

    #[test]
    fn r15_the_steady_count_has_no_catch_up_and_no_time_off() {
        let hands = Hands::default();
        hands.wall.store(50 * YEAR_MS, Ordering::Relaxed);
        let first = RetentionClock::resume(None, &hands);
        assert_eq!(first.tick(&hands).steady_ms, 0);
        hands.monotonic.store(DAY, Ordering::Relaxed);
        let last = first.tick(&hands);
        assert_eq!(last.steady_ms, DAY);
        // Off for three days: the retention clock catches up, the steady count does not.
        hands.wall.store(50 * YEAR_MS + 4 * DAY, Ordering::Relaxed);
        hands.monotonic.store(0, Ordering::Relaxed);
        let again = RetentionClock::resume(Some(last.clone()), &hands);
        assert_eq!(again.tick(&hands).retention_ms, last.retention_ms + 3 * DAY);
        assert_eq!(again.tick(&hands).steady_ms, DAY);
        hands.monotonic.store(5, Ordering::Relaxed);
        assert_eq!(again.tick(&hands).steady_ms, DAY + 5);
    }
}
