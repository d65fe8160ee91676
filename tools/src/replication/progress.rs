//! What a rule's work has come to since the start: for statuses and metrics.

use super::copy::Copied;
use super::failing::Reason;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the log is told of failures of one rule.
const TOLD: Duration = Duration::from_secs(600);

/// Counts since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub copied: u64,
    pub bytes: u64,
    pub deleted: u64,
    pub same: u64,
    /// Keys that fail now.
    pub failing: BTreeMap<Reason, u64>,
    /// What failed last; empty once nothing fails.
    pub error: String,
    told: Option<Instant>,
}

/// One rule's.
#[derive(Debug)]
pub(super) struct Progress {
    bucket: u64,
    counts: Mutex<Counts>,
}

impl Progress {
    pub(super) fn new(bucket: u64) -> Progress {
        Progress { bucket, counts: Mutex::default() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Counts {
        self.counts().clone()
    }

    pub(super) fn copied(&self, copied: Copied) {
        let mut counts = self.counts();
        match copied {
            Copied::Put { bytes } => {
                counts.copied += 1;
                counts.bytes = counts.bytes.saturating_add(bytes);
            }
            Copied::Versions { put, bytes, deleted } => {
                counts.copied += put;
                counts.bytes = counts.bytes.saturating_add(bytes);
                counts.deleted += deleted;
            }
            Copied::Deleted => counts.deleted += 1,
            Copied::Same => counts.same += 1,
        }
    }

    /// Told to the log once in a while: the queue may be long.
    pub(super) fn failed(&self, reason: Reason, error: &str) {
        let mut counts = self.counts();
        counts.error = format!("{}: {error}", reason.name());
        if counts.told.is_none_or(|told| told.elapsed() >= TOLD) {
            counts.told = Some(Instant::now());
            tracing::warn!(
                bucket = self.bucket,
                reason = reason.name(),
                error,
                "an object is not replicated, and is tried again"
            );
        }
    }

    pub(super) fn failing(&self, failing: BTreeMap<Reason, u64>) {
        let mut counts = self.counts();
        if failing.is_empty() {
            counts.error.clear();
            counts.told = None;
        }
        counts.failing = failing;
    }
}
