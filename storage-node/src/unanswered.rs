//! What a drive was asked and has not answered yet, and for how long.
//!
//! The times of answers ([`crate::latency`]) say nothing of a drive that gives none: a disk that hangs is quick by all that
//! can be measured of it. So each operation is noted before it begins, and struck out when it returns.
//!
//! Invariants
//! * An operation counts from before it was given to the drive until it returned, with whatever.
//! * Only time in which this process ran counts: between two looks at most [`STEP`] is added, so that a process that was
//!   stopped for an hour, or a machine that slept, finds its drives as they were and not all of them failed.

use crate::clock::Clock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most by which a wait grows between two looks at it.
const STEP: Duration = Duration::from_secs(10);

/// The operations of one drive that have not returned.
#[derive(Debug)]
pub(crate) struct Unanswered {
    clock: Arc<dyn Clock>,
    asked: Mutex<AllAsked>,
}

#[derive(Debug, Default)]
struct AllAsked {
    next: u64,
    waits: BTreeMap<u64, Wait>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    waited: Duration,
    /// When that was counted.
    at: Instant,
}

/// An operation that has not returned; dropped when it has.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    all: &'a Unanswered,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.all.lock().waits.remove(&self.id);
    }
}

impl Unanswered {
    /// Nothing was asked yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Unanswered> {
        Arc::new(Unanswered { clock, asked: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, AllAsked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation begins.
    pub fn ask(&self) -> Asked<'_> {
        let at = self.clock.steady();
        let mut asked = self.lock();
        let id = asked.next;
        asked.next += 1;
        asked.waits.insert(id, Wait { waited: Duration::ZERO, at });
        Asked { all: self, id }
    }

    /// How long the operation that waits longest has waited; zero when none does.
    pub fn longest(&self) -> Duration {
        let now = self.clock.steady();
        let mut asked = self.lock();
        for wait in asked.waits.values_mut() {
            wait.waited += now.saturating_duration_since(wait.at).min(STEP);
            wait.at = wait.at.max(now);
        }
        asked.waits.values().map(|wait| wait.waited).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Hands;

    #[test]
    fn what_returned_does_not_count_and_a_process_that_was_stopped_blames_nobody() {
        let clock = Arc::new(Hands::default());
        let unanswered = Unanswered::new(clock.clone());
        assert_eq!(unanswered.longest(), Duration::ZERO);
        let first = unanswered.ask();
        clock.pass(Duration::from_secs(4));
        let second = unanswered.ask();
        clock.pass(Duration::from_secs(3));
        assert_eq!(unanswered.longest(), Duration::from_secs(7));
        drop(first);
        assert_eq!(unanswered.longest(), Duration::from_secs(3));
        // Stopped, and going on an hour later.
        clock.pass(Duration::from_secs(3600));
        assert_eq!(unanswered.longest(), Duration::from_secs(3) + STEP);
        assert_eq!(unanswered.longest(), Duration::from_secs(3) + STEP);
        drop(second);
        assert_eq!(unanswered.longest(), Duration::ZERO);
    }
}
