//! Writes that were given up without an answer: the other endpoint may have them still, and carry them out later.
//!
//! Invariants:
//! * A key one of whose writes was given up is looked at once more when that write can't come any more, whatever was found or written
//!   there meanwhile. Until then it stays in the queue: nobody would look at it again once it is gone from there, and what was
//!   deleted here would be there for ever, or an object would lack there that a late delete has found as it was to be.
//! * What another process had begun before this one is not known here, and was lost with it. So for a while after a process has begun to
//!   copy every key counts as having such a write, but only where the key is to be nothing there: objects have the conditions of
//!   their writes, and there are many of them.
//! * Memory is bounded, and what is forgotten for that counts as what is not known.

use codec::id::{BucketId, Lsn};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So long after a write was given up it may still arrive.
const LATE: Duration = Duration::from_secs(60);
/// Given up writes that are remembered.
const MOST_LATE: usize = 4096;
/// Keys that are remembered as looked at.
const MOST_SEEN: usize = 16_384;

/// When this process began to copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub at: Instant,
    /// What had been journaled then; nothing where that can't be read.
    pub applied: Option<Lsn>,
}

impl Begun {
    /// When a process before this one may have been writing to the copy of a bucket; `None` if none ever did, since it is younger.
    pub(super) fn may_come(&self, bucket: BucketId) -> Option<Instant> {
        // A bucket's id is the LSN of the entry that made it.
        Some(self.at).filter(|_| self.applied.is_none_or(|applied| bucket.0 <= applied.0))
    }
}

#[derive(Default)]
struct Known {
    /// When there may have been writes of any key.
    any: Option<Instant>,
    /// Keys whose last write got no answer, and since when.
    keys: HashMap<String, Instant>,
}

/// What may still arrive of one bucket. It outlives the rule: what was begun under the one before comes under the next one.
pub(super) struct Late(Mutex<Known>);

impl Late {
    /// `any`: when a process before this one may still have been writing; `None` if none ever did.
    pub(super) fn new(any: Option<Instant>) -> Late {
        Late(Mutex::new(Known { any, keys: HashMap::new() }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, key: &str, now: Instant) {
        let mut known = self.known();
        known.keys.retain(|_, since| now < *since + LATE);
        if known.keys.len() >= MOST_LATE
            && let Some((oldest, since)) = known.keys.iter().min_by_key(|(_, since)| **since)
        {
            let (oldest, since) = (oldest.clone(), *since);
            known.keys.remove(&oldest);
            known.any = known.any.max(Some(since));
        }
        known.keys.insert(key.to_owned(), now);
    }

    /// Until when a write of this key may still arrive, for one that was looked at there at `looked` or later. `gone`: it is to be nothing
    /// there.
    pub(super) fn until(&self, key: &str, gone: bool, looked: Instant) -> Option<Instant> {
        let known = self.known();
        let since = known.keys.get(key).copied().max(known.any.filter(|_| gone));
        since.map(|since| since + LATE).filter(|until| looked < *until)
    }

    /// Whether nothing can arrive any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let known = self.known();
        known.keys.values().copied().chain(known.any).all(|since| now >= since + LATE)
    }

    /// To be held while a key is written there.
    pub(super) fn writing<'a>(&'a self, key: &'a str) -> Unanswered<'a> {
        Unanswered { late: self, key, answered: false }
    }
}

/// A write that is under way. One that is dropped without [`Unanswered::answered`], also because its task was aborted, was given up.
pub(super) struct Unanswered<'a> {
    late: &'a Late,
    key: &'a str,
    answered: bool,
}

impl Unanswered<'_> {
    /// It was done, or never will be.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.late.note(self.key, Instant::now());
        }
    }
}

/// Keys that are to be looked at once more, and are not asked for until then. Without this each of them would be asked for over and
/// over, in the way of all others. One that does not fit is looked at more often than it need be.
#[derive(Default)]
pub(super) struct Seen(HashMap<String, (u64, Instant)>);

impl Seen {
    /// `lsn`: the key's last change that was looked at.
    pub(super) fn note(&mut self, key: String, lsn: u64, until: Instant, now: Instant) {
        if self.0.len() >= MOST_SEEN {
            self.0.retain(|_, (_, until)| now < *until);
        }
        if self.0.len() < MOST_SEEN || self.0.contains_key(&key) {
            self.0.insert(key, (lsn, until));
        }
    }

    /// The change of a key after which nothing is to be done now; a later one is another matter.
    pub(super) fn waits(&mut self, key: &str, now: Instant) -> Option<u64> {
        let (lsn, until) = *self.0.get(key)?;
        if now < until {
            return Some(lsn);
        }
        self.0.remove(key);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    /// A leader before this one may have sent a write that the endpoint has and has not done yet. Without this the delete that came
    /// after it would leave the queue, and the object would be there for ever.
    #[test]
    fn what_is_to_be_gone_is_not_settled_before_the_writes_of_an_earlier_process_have_come() {
        let begun = Instant::now();
        let process = Begun { at: begun, applied: Some(Lsn(7)) };
        let late = Late::new(process.may_come(BucketId(7)));
        assert_eq!(late.until("k", true, begun), Some(begun + LATE));
        assert_eq!(late.until("k", true, begun + LATE - MOMENT), Some(begun + LATE));
        assert_eq!(late.until("k", true, begun + LATE), None);
        assert_eq!(late.until("k", false, begun), None, "objects don't wait for it");
        assert!(!late.is_over(begun) && late.is_over(begun + LATE));
        assert_eq!(Begun { applied: None, ..process }.may_come(BucketId(8)), Some(begun));
        let first = Late::new(process.may_come(BucketId(8)));
        assert!(first.until("k", true, begun).is_none() && first.is_over(begun));
    }

    #[test]
    fn a_write_without_an_answer_may_come_for_a_while() {
        let late = Late::new(None);
        late.writing("done").answered();
        drop(late.writing("k"));
        let now = Instant::now();
        assert_eq!(late.until("done", true, now), None);
        assert!(late.until("k", true, now).is_some() && late.until("k", false, now).is_some());
        assert!(late.until("k", true, now + LATE).is_none() && !late.is_over(now) && late.is_over(now + LATE));
    }

    /// Else a busy endpoint would make this forget.
    #[test]
    fn what_is_forgotten_counts_for_every_key() {
        let (late, now) = (Late::new(None), Instant::now());
        (0..=MOST_LATE as u64).for_each(|n| late.note(&n.to_string(), now + Duration::from_millis(n)));
        assert_eq!(late.known().keys.len(), MOST_LATE);
        assert_eq!(late.until("0", true, now), Some(now + LATE));
        assert_eq!((late.until("0", false, now), late.until("0", true, now + LATE)), (None, None));
        let last = MOST_LATE.to_string();
        assert!(late.until(&last, false, now + LATE).is_some());
    }

    #[test]
    fn a_key_is_looked_at_again_in_time_or_when_it_changes() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        seen.note("k".to_owned(), 7, now + LATE, now);
        assert_eq!((seen.waits("k", now), seen.waits("other", now)), (Some(7), None));
        assert_eq!(seen.waits("k", now + LATE), None);
        (0..2 * MOST_SEEN).for_each(|n| seen.note(n.to_string(), 1, now + LATE, now));
        assert_eq!(seen.0.len(), MOST_SEEN);
        seen.note("new".to_owned(), 1, now + 2 * LATE, now + LATE);
        assert_eq!(seen.0.len(), 1);
    }
}
