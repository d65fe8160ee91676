//! What the lane shows of itself.
//!
//! Invariant: a bucket whose rules can't be followed is shown for as long as that is so, also after a restart, and no longer: nothing in it
//! expires, and whoever set the rules believes that it does.

use super::LifecycleReport;
use codec::id::BucketId;
use std::collections::BTreeMap;

/// Buckets whose rules can't be followed that are shown; beyond those there is only a line in the log for each.
pub const LISTED: usize = 100;
/// Bytes that are shown of the reason why.
const LONGEST: usize = 256;

/// How the lane is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LifecycleStatus {
    /// What was done since the start.
    pub done: LifecycleReport,
    /// What the pass in progress has done; without one, the last. Of one that began before the start: what it did since.
    pub pass: LifecycleReport,
    /// A pass is in progress.
    pub running: bool,
    /// The day of that pass, in milliseconds since the Unix epoch; 0: there was none, or it was not looked yet.
    pub day_ms: u64,
    /// When the last pass ended, in milliseconds since the Unix epoch; 0: none has since the start.
    pub ended_ms: u64,
    /// Nothing is done by rules, because reclaim is held.
    pub held: bool,
    /// Why the last round ended early; empty if it did not.
    pub error: String,
    /// Buckets whose rules can't be followed, and why; [`LISTED`] at most.
    pub unfollowed: Vec<Unfollowed>,
}

/// A bucket whose rules can't be followed: nothing is done in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfollowed {
    /// Its name.
    pub bucket: String,
    /// What is wrong with them.
    pub why: String,
}

/// What the lane keeps to be shown.
#[derive(Debug, Default)]
pub(super) struct Shown {
    status: LifecycleStatus,
    unfollowed: BTreeMap<BucketId, Unfollowed>,
    /// All buckets' rules were looked at since the start.
    pub looked: bool,
}

impl Shown {
    pub(super) fn status(&self) -> LifecycleStatus {
        LifecycleStatus { unfollowed: self.unfollowed.values().cloned().collect(), ..self.status.clone() }
    }

    /// The pass that is worked on next, or was the last.
    pub(super) fn see_pass(&mut self, day_ms: u64, is_open: bool) {
        (self.status.day_ms, self.status.running) = (day_ms, is_open);
    }

    /// A new pass begins.
    pub(super) fn begin_pass(&mut self) {
        self.status.pass = LifecycleReport::default();
    }

    /// A pass was worked on. `now_ms`: milliseconds since the Unix epoch.
    pub(super) fn worked(&mut self, round: &LifecycleReport, is_open: bool, now_ms: u64) {
        // Restores are no part of it.
        self.status.pass.add(&LifecycleReport { restored: 0, ..*round });
        self.status.running = is_open;
        if !is_open {
            self.status.ended_ms = now_ms;
        }
    }

    /// A round is over.
    pub(super) fn end_round(&mut self, round: &LifecycleReport, error: Option<String>) {
        self.status.done.add(round);
        self.status.held = round.held;
        self.status.error = error.unwrap_or_default();
    }

    /// The rules of a bucket can't be followed. Whether that was not shown yet.
    pub(super) fn cannot_follow(&mut self, id: BucketId, bucket: &str, why: String) -> bool {
        let is_new = !self.unfollowed.contains_key(&id);
        if !is_new || self.unfollowed.len() < LISTED {
            self.unfollowed.insert(id, Unfollowed { bucket: bucket.to_owned(), why: cut(why) });
        }
        is_new
    }

    /// The rules of a bucket can be followed, or are gone.
    pub(super) fn can_follow(&mut self, id: BucketId) {
        self.unfollowed.remove(&id);
    }

    /// Buckets whose rules could not be followed when they were looked at.
    pub(super) fn unfollowed(&self) -> Vec<BucketId> {
        self.unfollowed.keys().copied().collect()
    }
}

fn cut(mut why: String) -> String {
    if let Some(end) = (0..=LONGEST).rev().find(|at| why.is_char_boundary(*at)).filter(|_| why.len() > LONGEST) {
        why.truncate(end);
    }
    why
}
