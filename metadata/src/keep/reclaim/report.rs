//! What a round did, what may still be freed, and how reclaim is, for operators.

use super::{DAY_MS, ReclaimError, Reclaimer, Work, parse};
use crate::index::reclaim::{self, Hold};
use crate::keep::mark::{Marks, Total, Unread};
use codec::id::StripeId;

/// Dropped stripes that are counted.
const COUNTED: usize = 10_000;
/// Objects that an alarm names.
const NAMED: usize = 5;

/// What a round did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReclaimReport {
    /// Why nothing was done, if something holds reclaim.
    pub held: Option<Hold>,
    /// Chunks that were condemned because nothing refers to them.
    pub condemned: u64,
    /// Chunks that were deleted.
    pub deleted: u64,
    /// Condemned chunks that turned out to be referenced.
    pub spared: u64,
    /// Stripes that were dropped.
    pub dropped: u64,
    /// Stripes whose shards were freed.
    pub freed: u64,
    /// Shards of stripes that nobody knows, freed.
    pub orphans: u64,
    /// Bytes given back.
    pub bytes: u64,
    /// Frames that were moved into fuller stripes.
    pub moved: u64,
    /// Those of them that were moved into stripes of the archive class.
    pub archived: u64,
    /// Stripes that were left as they are, because not all of their frames could be read.
    pub unread: u64,
    /// Shards that were left alone, since something else, or nothing that can be read, lies in their place.
    pub refused: u64,
    /// Copies of shards that had moved elsewhere, freed.
    pub strays: u64,
    /// Bytes of the frames that were moved.
    pub moved_bytes: u64,
    /// Bytes that compressing frames again saved.
    pub saved: u64,
    /// Stripes that are worth rewriting and were not, as far as this round counted.
    pub backlog_stripes: u64,
    /// Bytes in use in those of them that this round meant to rewrite.
    pub backlog_bytes: u64,
    /// Manifest chunks that could not be read.
    pub unread_manifests: u64,
    /// Chunks that were kept because of these.
    pub kept: u64,
    /// Chunks whose wrong counts were mended.
    pub recounted: u64,
    /// Something was left for the next day.
    pub allowance_used: bool,
    /// A limit of the round was reached: the next one begins at once.
    pub at_once: bool,
}

/// How reclaim is, for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReclaimStatus {
    /// What holds it.
    pub held: Option<Hold>,
    /// Rounds since the start.
    pub rounds: u64,
    /// The last round.
    pub last: ReclaimReport,
    /// Why the last round ended early; empty when it did not.
    pub error: String,
    /// Everything that was freed since the start, in bytes.
    pub bytes: u64,
    /// Shards that could not be matched and were left alone since the start: their space does not come back.
    pub refused: u64,
    /// Bytes that compressing frames again has saved since the start.
    pub saved: u64,
    /// Dropped stripes that wait to be freed; at most 10,000 are counted.
    pub waiting: usize,
    /// Bytes of their shards.
    pub waiting_bytes: u64,
    /// When the last mark pass ended, in milliseconds since the Unix epoch; 0: none since the start.
    pub pass_ms: u64,
    /// How long it took, in milliseconds.
    pub pass_took_ms: u64,
    /// Condemned chunks that it counted: they wait for their grace, or for a pass.
    pub condemned: Total,
    /// How long ago, in milliseconds of the steady count, the oldest of them was condemned; 0 when there is none.
    pub oldest_condemned_ms: u64,
    /// Bytes that may be freed in a day; `u64::MAX`: no limit.
    pub day_bytes: u64,
    /// Bytes of them that may be freed now.
    pub day_left: u64,
}

/// What may still be freed: fills up evenly, to a day's worth at most, and begins with nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    left: u64,
    per_day: u64,
    at_ms: u64,
}

impl Allowance {
    /// Adds what has come up since the last time.
    pub fn fill(&mut self, per_day: u64, now_ms: u64) {
        let passed = u128::from(now_ms.saturating_sub(self.at_ms));
        let more = u64::try_from(u128::from(per_day) * passed / u128::from(DAY_MS)).unwrap_or(u64::MAX);
        // What a short time adds is not rounded away again and again.
        if more > 0 || per_day == 0 {
            self.at_ms = now_ms;
        }
        self.per_day = per_day;
        self.left = self.left.saturating_add(more).min(per_day);
    }

    /// Takes `bytes` off, if there are as many.
    pub fn take(&mut self, bytes: u64) -> bool {
        self.left.checked_sub(bytes).map(|left| self.left = left).is_some()
    }
}

/// What the operator is told of manifest chunks that can't be read.
pub(super) fn unread_words(unread: &[Unread]) -> Option<String> {
    let unread: Vec<&Unread> = unread.iter().filter(|unread| unread.holds).collect();
    let mut objects: Vec<String> = unread.iter().take(NAMED).map(|unread| name(unread)).collect();
    if objects.is_empty() {
        return None;
    }
    if unread.len() > NAMED {
        objects.push(format!("and {} more", unread.len() - NAMED));
    }
    Some(format!(
        "manifests can't be read, so that nothing of their dedup domains gives space back: {}. Bring back what is missing, or \
         delete the objects: the others' space then comes back half a day later, and their own after twice the grace",
        objects.join("; ")
    ))
}

fn name(unread: &Unread) -> String {
    match unread.object.is_empty() {
        true => format!("manifest chunk {} ({})", unread.id, unread.reason),
        false => format!("{} ({})", unread.object, unread.reason),
    }
}

impl Reclaimer {
    /// How reclaim is.
    pub fn status(&self) -> ReclaimStatus {
        let mut status = self.shown().clone();
        status.held = reclaim::hold(&self.view()).ok().flatten();
        let rows = reclaim::dropped(&self.view(), StripeId::default(), COUNTED).unwrap_or_default();
        status.waiting = rows.len();
        let shards =
            |row| parse(row).map_or(0, |descriptor| descriptor.lengths.iter().map(|len| u64::from(*len)).sum());
        status.waiting_bytes = rows.iter().map(|(_, row)| shards(row)).fold(0, u64::saturating_add);
        status
    }

    pub(super) fn show(&self, work: &Work, error: Option<&ReclaimError>) {
        let mut shown = self.shown();
        shown.rounds += 1;
        shown.bytes = shown.bytes.saturating_add(work.report.bytes);
        shown.saved = shown.saved.saturating_add(work.report.saved);
        shown.refused = shown.refused.saturating_add(work.report.refused);
        shown.error = error.map(ToString::to_string).unwrap_or_default();
        shown.last = work.report.clone();
        (shown.day_bytes, shown.day_left) = match work.unlimited {
            true => (u64::MAX, u64::MAX),
            false => (work.allowance.per_day, work.allowance.left),
        };
    }

    pub(super) fn show_pass(&self, marks: &Marks, took_ms: u64) {
        let age = marks.oldest.and_then(|lsn| reclaim::age(&self.view(), lsn).ok().flatten());
        let mut shown = self.shown();
        (shown.pass_ms, shown.pass_took_ms) = (self.parts.shared.clock.wall_ms(), took_ms);
        (shown.condemned, shown.oldest_condemned_ms) = (marks.condemned, age.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_begins_with_nothing_and_holds_a_day() {
        let mut allowance = Allowance::default();
        allowance.fill(1000, 0);
        assert!(allowance.take(0) && !allowance.take(1));
        allowance.fill(1000, DAY_MS / 2);
        assert!(!allowance.take(501) && allowance.take(500) && !allowance.take(1));
        allowance.fill(1000, 30 * DAY_MS);
        assert!(allowance.take(1000) && !allowance.take(1), "days in which nothing was freed are not saved up");
        // Small steps add up.
        let mut allowance = Allowance::default();
        for ms in 0..=DAY_MS / 1000 {
            allowance.fill(1000, ms * 1000);
        }
        assert!(allowance.take(990));
    }
}
