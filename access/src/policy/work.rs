//! How much may be compared for one policy side of one decision.
//!
//! Patterns come from tenants and so do the texts that they are held against. Without a bound a few long patterns and a long header keep a
//! thread busy for seconds. Who asks within a bound has to look at [`Work::is_spent`] afterwards: what was answered from then on is
//! worth nothing, and the decision has to be a denial.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest text that a request brings to a comparison, in bytes. The longest ARN of an object has about 1100.
pub const MAX_TEXT: usize = 4096;

/// The most steps for the policies of one side, such as the caller's. A step compares a character.
pub const MAX_STEPS: u64 = 1 << 19;

/// The most steps for all decisions of one request: as many as a delete of 1000 keys, whose policies are as long as they can be and
/// compared to their ends for each of them, needs.
pub const MAX_STEPS_OF_REQUEST: u64 = 1 << 26;

/// Steps that are left for the decisions of one request. Without a bound over all of them a delete of many keys could keep a
/// processor busy for minutes.
#[derive(Debug)]
pub struct Budget {
    left: AtomicU64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new(MAX_STEPS_OF_REQUEST)
    }
}

impl Budget {
    /// With this many steps.
    pub fn new(steps: u64) -> Budget {
        Budget { left: AtomicU64::new(steps) }
    }

    /// What one side of a decision may take of it.
    pub fn work(&self) -> Work {
        Work::new(self.left.load(Ordering::Relaxed).min(MAX_STEPS))
    }

    /// Takes what was used.
    pub fn used(&self, work: &Work) {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(work.used()), Ordering::Relaxed);
    }
}

/// Steps that are left.
#[derive(Debug)]
pub struct Work {
    steps: u64,
    left: Cell<u64>,
    spent: Cell<bool>,
}

impl Default for Work {
    fn default() -> Work {
        Work::new(MAX_STEPS)
    }
}

impl Work {
    /// With this many steps.
    pub fn new(steps: u64) -> Work {
        Work { steps, left: Cell::new(steps), spent: Cell::new(false) }
    }

    /// Takes steps; false when there are no more.
    pub fn take(&self, steps: usize) -> bool {
        match self.left.get().checked_sub(steps as u64) {
            Some(left) if !self.spent.get() => {
                self.left.set(left);
                true
            }
            _ => {
                self.spent.set(true);
                false
            }
        }
    }

    /// Whether a text is short enough to be looked at. If not, nothing more is.
    pub fn takes_text(&self, text: &str) -> bool {
        let fits = text.len() <= MAX_TEXT;
        if !fits {
            self.spent.set(true);
        }
        fits && self.take(1)
    }

    /// Whether more was asked for than there was.
    pub fn is_spent(&self) -> bool {
        self.spent.get()
    }

    /// How many steps were taken; all of them when it is spent, so that what can't be judged is not tried for ever.
    pub fn used(&self) -> u64 {
        if self.is_spent() { self.steps } else { self.steps - self.left.get() }
    }

    /// How many steps are left.
    pub fn left(&self) -> u64 {
        self.left.get()
    }
}
