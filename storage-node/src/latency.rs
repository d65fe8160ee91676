//! How long a drive takes: the slowest of its recent reads and writes, so that a drive that is failing slowly is seen.
//!
//! Reads and writes are counted apart: reads that the page cache answers would hide the slow writes among them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Samples that are kept of each kind.
const SAMPLES: usize = 512;
/// Fewer than this say nothing.
const ENOUGH: usize = 32;
/// Older ones are no longer recent.
const RECENT: Duration = Duration::from_secs(600);

/// The times and errors of one drive.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    reads: Ring,
    writes: Ring,
    errors: AtomicU64,
}

impl Latency {
    /// A read of a shard took so long.
    pub fn read(&self, took: Duration) {
        self.reads.add(took);
    }

    /// A group of writes, its sync included, took so long.
    pub fn wrote(&self, took: Duration) {
        self.writes.add(took);
    }

    /// The drive answered with an error, or with bytes that do not verify.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Errors since the drive was opened.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// What 99 of 100 recent reads, or of 100 recent writes, did not exceed, whichever is worse; in milliseconds.
    pub fn p99_ms(&self) -> Option<u32> {
        let now = Instant::now();
        self.reads.p99(now).max(self.writes.p99(now))
    }
}

#[derive(Debug, Default)]
struct Ring(Mutex<Samples>);

#[derive(Debug, Default)]
struct Samples {
    next: usize,
    all: Vec<(Instant, u32)>,
}

impl Ring {
    fn lock(&self) -> MutexGuard<'_, Samples> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, took: Duration) {
        let sample = (Instant::now(), u32::try_from(took.as_millis()).unwrap_or(u32::MAX));
        let mut samples = self.lock();
        let next = samples.next;
        match samples.all.get_mut(next) {
            Some(slot) => *slot = sample,
            None => samples.all.push(sample),
        }
        samples.next = (next + 1) % SAMPLES;
    }

    fn p99(&self, now: Instant) -> Option<u32> {
        let recent = |(at, _): &&(Instant, u32)| now.saturating_duration_since(*at) < RECENT;
        let mut times: Vec<u32> = self.lock().all.iter().filter(recent).map(|(_, ms)| *ms).collect();
        if times.len() < ENOUGH {
            return None;
        }
        times.sort_unstable();
        times.get((times.len() * 99).div_ceil(100) - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_worse_of_reads_and_writes_counts_once_there_are_enough() {
        let latency = Latency::default();
        for ms in 0..ENOUGH as u64 - 1 {
            latency.wrote(Duration::from_millis(ms));
        }
        assert_eq!(latency.p99_ms(), None);
        (0..1000).for_each(|_| latency.read(Duration::ZERO));
        assert_eq!(latency.p99_ms(), Some(0));
        latency.wrote(Duration::from_millis(500));
        assert_eq!(latency.p99_ms(), Some(500));
    }

    #[test]
    fn one_slow_one_in_two_hundred_is_not_the_p99_and_old_samples_go() {
        let latency = Latency::default();
        latency.wrote(Duration::from_secs(9));
        (0..200).for_each(|_| latency.wrote(Duration::from_millis(3)));
        assert_eq!(latency.p99_ms(), Some(3));
        (0..SAMPLES).for_each(|_| latency.wrote(Duration::from_millis(70)));
        assert_eq!(latency.p99_ms(), Some(70));
        assert_eq!(latency.writes.p99(Instant::now() + RECENT), None);
    }
}
