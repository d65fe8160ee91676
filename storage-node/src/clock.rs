//! The time of day, behind a trait, so that a test can let a month pass.
//!
//! A node orders nothing by it and deletes nothing by it (R15): it says when something is due to be looked at again, and
//! tells people when something was found.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the time of day comes from.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch, as the machine believes.
    fn wall_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
}
