//! What clients did and saw, key by key, and the contents that they wrote.
//!
//! Every attempt writes a content of its own, so a retry is an operation like any other: the attempt before it, if nobody answered,
//! may still happen after it. Contents have numbers, which are in the user metadata too, and no two have the same length, so that a
//! listing says which one it has seen.

use crate::cluster::linear::{self, Act, Op};
use crate::s3::document;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Length of each part of a content that is uploaded in parts, but the last.
pub const PART: usize = 5 << 20;

/// A content: its number, and the lengths of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Unique in a test.
    pub id: u64,
    /// Lengths of its parts; one, unless it is uploaded in parts.
    pub parts: Vec<usize>,
}

impl Content {
    /// Length in bytes; no other content has it.
    pub fn len(&self) -> usize {
        self.parts.iter().sum()
    }

    /// Never: a content has bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of a part, from 0.
    pub fn part(&self, number: usize) -> Bytes {
        let seed = self.id * 16 + number as u64;
        self.parts.get(number).map(|len| document(seed, *len)).unwrap_or_default()
    }

    /// All bytes.
    pub fn bytes(&self) -> Bytes {
        match self.parts.len() {
            1 => self.part(0),
            count => (0..count).flat_map(|number| self.part(number)).collect(),
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    keys: BTreeMap<String, Vec<Op>>,
    contents: HashMap<u64, Content>,
    by_len: HashMap<usize, u64>,
    acks: Vec<Instant>,
    /// Answers that were no success, by what they said.
    failures: BTreeMap<String, u64>,
    /// What was seen that no order of operations explains: wrong bytes, a code that may not be.
    wrong: Vec<String>,
    written: u64,
}

/// The history of a test.
#[derive(Debug, Default)]
pub struct History {
    clock: AtomicU64,
    known: Mutex<Known>,
}

/// A change that was begun.
#[derive(Clone, Debug)]
pub struct Ticket {
    key: String,
    at: usize,
}

/// What there was, in figures.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Keys that were ever used.
    pub keys: usize,
    /// Operations, answered or not.
    pub operations: usize,
    /// Changes that nobody answered.
    pub open: usize,
    /// Bytes of all contents that were sent.
    pub written: u64,
    /// Answers that were no success, by what they said.
    pub failures: BTreeMap<String, u64>,
}

impl History {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, later than everything before.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A new content of about this length, in parts of [`PART`] if it is to be uploaded in parts.
    pub fn content(&self, len: usize, in_parts: bool) -> Content {
        let mut known = self.known();
        let mut len = len.max(1);
        while known.by_len.contains_key(&len) {
            len += 1;
        }
        let id = known.contents.len() as u64 + 1;
        let parts = if in_parts && len > PART { vec![PART, len - PART] } else { vec![len] };
        let content = Content { id, parts };
        known.by_len.insert(len, id);
        known.contents.insert(id, content.clone());
        known.written += len as u64;
        content
    }

    /// The content with this number.
    pub fn content_of(&self, id: u64) -> Option<Content> {
        self.known().contents.get(&id).cloned()
    }

    /// The number of the content with this length.
    pub fn of_len(&self, len: usize) -> Option<u64> {
        self.known().by_len.get(&len).copied()
    }

    /// A change is about to be asked for.
    pub fn begin(&self, key: &str, act: Act) -> Ticket {
        let begun = self.tick();
        let mut known = self.known();
        let ops = known.keys.entry(key.to_owned()).or_default();
        ops.push(Op { act, begun, ended: None });
        Ticket { key: key.to_owned(), at: ops.len() - 1 }
    }

    /// It was answered with success.
    pub fn done(&self, ticket: &Ticket) {
        self.answered(ticket, None);
        self.known().acks.push(Instant::now());
    }

    /// It was answered that it did something else: it was refused.
    pub fn refused(&self, ticket: &Ticket, act: Act) {
        self.answered(ticket, Some(act));
    }

    fn answered(&self, ticket: &Ticket, act: Option<Act>) {
        let now = self.tick();
        let mut known = self.known();
        if let Some(op) = known.keys.get_mut(&ticket.key).and_then(|ops| ops.get_mut(ticket.at)) {
            op.ended = Some(now);
            op.act = act.unwrap_or(op.act);
        }
    }

    /// A key was seen to hold a content, or nothing, by an observation that was begun at `begun`.
    pub fn seen(&self, key: &str, begun: u64, id: Option<u64>) {
        let ended = Some(self.tick());
        self.known().keys.entry(key.to_owned()).or_default().push(Op { act: Act::Read(id), begun, ended });
    }

    /// An answer that was no success.
    pub fn failed(&self, what: String) {
        *self.known().failures.entry(what).or_default() += 1;
    }

    /// Something was seen that may not be.
    pub fn wrong(&self, what: String) {
        self.known().wrong.push(what);
    }

    /// Every key that was ever used.
    pub fn keys(&self) -> Vec<String> {
        self.known().keys.keys().cloned().collect()
    }

    /// Keys below a prefix.
    pub fn below(&self, prefix: &str) -> Vec<String> {
        let known = self.known();
        known
            .keys
            .range(prefix.to_owned()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// The longest time between `from` and `to` without an acknowledged change.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let known = self.known();
        let mut last = from;
        let mut longest = Duration::ZERO;
        let inside = known.acks.iter().filter(|&&at| at > from && at < to);
        for &at in inside.chain([&to]) {
            longest = longest.max(at.saturating_duration_since(last));
            last = at;
        }
        longest
    }

    /// Acknowledged changes.
    pub fn acknowledged(&self) -> usize {
        self.known().acks.len()
    }

    /// All in figures.
    pub fn figures(&self) -> Figures {
        let known = self.known();
        let all = || known.keys.values().flatten();
        Figures {
            keys: known.keys.len(),
            operations: all().count(),
            open: all().filter(|op| op.ended.is_none()).count(),
            written: known.written,
            failures: known.failures.clone(),
        }
    }

    /// Judges it: every key by itself. Returns all that is wrong.
    pub fn judge(&self) -> Vec<String> {
        let known = self.known();
        let mut wrong = known.wrong.clone();
        for (key, ops) in &known.keys {
            if let Err(why) = linear::check(ops) {
                let mut ops = ops.clone();
                ops.sort_unstable_by_key(|op| op.begun);
                wrong.push(format!("{key}: {why}\n  all of it: {ops:?}"));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_and_is_gone_is_wrong() {
        let history = History::default();
        let content = history.content(10, false);
        assert_ne!(history.content(10, false).len(), 10, "each has its own length");
        let put = history.begin("k", Act::Put(content.id));
        history.seen("k", history.tick(), None);
        assert_eq!(history.judge(), Vec::<String>::new());
        history.done(&put);
        history.seen("k", history.tick(), history.of_len(10));
        assert_eq!(history.judge(), Vec::<String>::new());
        history.seen("k", history.tick(), None);
        assert_eq!(history.judge().len(), 1);
        assert_eq!(history.figures().operations, 4);
    }

    #[test]
    fn contents_in_parts_are_their_parts() {
        let history = History::default();
        let content = history.content(PART + 100, true);
        assert_eq!(content.parts, [PART, 100]);
        assert_eq!(content.bytes().slice(PART..), content.part(1));
    }
}
