//! Time, behind a trait, so that a test can let a month pass.
//!
//! A node orders nothing by the time of day and deletes nothing by it (R15): it says when something is due to be looked at
//! again, and tells people when something was found. How long a drive has not answered is judged by steady time.

use std::fmt::Debug;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where the time comes from.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch, as the machine believes.
    fn wall_ms(&self) -> u64;

    /// Time that only goes forward, whatever becomes of the time of day.
    fn steady(&self) -> Instant {
        Instant::now()
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
}
