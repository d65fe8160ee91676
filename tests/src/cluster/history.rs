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
    /// Versions of the keys of buckets that keep them.
    versions: BTreeMap<String, Vec<Version>>,
}

/// A version that was acknowledged or seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its id.
    pub id: String,
    /// The number of its content.
    pub content: u64,
    /// When its put was begun, and by when it was there.
    begun: u64,
    there: u64,
}

impl Version {
    /// Clients remove only some by their ids, so that there are others which are above them for ever.
    fn is_removed(&self) -> bool {
        !self.content.is_multiple_of(2)
    }
}

impl Known {
    /// Notes that there is a version: each content is in one, since each was sent once.
    fn version(&mut self, key: &str, id: &str, content: u64, now: u64) {
        let all = self.versions.entry(key.to_owned()).or_default();
        let like = all.iter().find(|version| version.id == id || version.content == content);
        if let Some(like) = like {
            if like.id != id || like.content != content {
                self.wrong.push(format!("{key}: version {id} has content {content}, and there is {like:?}"));
            }
            return;
        }
        let put = self.keys.get(key).and_then(|ops| ops.iter().find(|op| op.act == Act::Put(content)));
        let Some(begun) = put.map(|put| put.begun) else {
            self.wrong.push(format!("{key}: version {id} has content {content}, which was put elsewhere"));
            return;
        };
        all.push(Version { id: id.to_owned(), content, begun, there: now });
        let made = Op { act: Act::Put(content), begun, ended: None };
        self.keys.entry(format!("{key}|{id}")).or_default().push(made);
    }
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
    /// Versions that were acknowledged or seen in buckets that keep them.
    pub versions: usize,
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

    /// The put was answered with the id of the version that it made.
    pub fn version_made(&self, ticket: &Ticket, id: &str, content: u64) {
        let now = self.tick();
        let mut known = self.known();
        known.version(&ticket.key, id, content, now);
        let ops = known.keys.get_mut(&format!("{}|{id}", ticket.key));
        let put = ops.and_then(|ops| ops.iter_mut().find(|op| op.act == Act::Put(content)));
        if let Some(put) = put {
            put.ended.get_or_insert(now);
        }
    }

    /// A version of a key was seen with a content, by an observation that was begun at `begun`. Its put may never have been answered.
    pub fn version_seen(&self, key: &str, id: &str, begun: u64, content: u64) {
        let now = self.tick();
        self.known().version(key, id, content, now);
        self.seen(&format!("{key}|{id}"), begun, Some(content));
    }

    /// The versions of a key.
    pub fn versions(&self, key: &str) -> Vec<Version> {
        self.known().versions.get(key).cloned().unwrap_or_default()
    }

    /// Those that may be removed by their ids without a change of what the key shows: a later one is there for ever.
    pub fn removable(&self, key: &str) -> Vec<Version> {
        let all = self.versions(key);
        let last = all.iter().filter(|version| !version.is_removed()).map(|version| version.begun).max();
        all.into_iter().filter(|version| version.is_removed() && last > Some(version.there)).collect()
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
            versions: known.versions.values().map(Vec::len).sum(),
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
    fn a_version_that_was_acknowledged_or_seen_stays() {
        let history = History::default();
        let contents: Vec<u64> = (0..3).map(|_| history.content(10, false).id).collect();
        let tickets: Vec<Ticket> = contents.iter().map(|&id| history.begin("b|k", Act::Put(id))).collect();
        history.version_made(&tickets[0], "v1", contents[0]);
        // Nobody answered the second, but it is there; the third may never have been.
        history.version_seen("b|k", "v2", history.tick(), contents[1]);
        assert_eq!(history.judge(), Vec::<String>::new());
        assert_eq!(history.figures().versions, 2);
        history.seen("b|k|v1", history.tick(), None);
        assert_eq!(history.judge().len(), 1, "an acknowledged version is gone");
        history.seen("b|k|v2", history.tick(), None);
        assert_eq!(history.judge().len(), 2, "a version that was seen is gone");
        history.version_seen("b|k", "v3", history.tick(), contents[0]);
        assert_eq!(history.judge().len(), 4, "one put made two versions");
    }

    #[test]
    fn what_is_removed_is_never_what_the_key_shows() {
        let history = History::default();
        let put = |id: &str| {
            let content = history.content(10, false).id;
            let ticket = history.begin("b|k", Act::Put(content));
            history.version_made(&ticket, id, content);
        };
        ["1", "2", "3"].into_iter().for_each(put);
        let removable: Vec<String> = history.removable("b|k").into_iter().map(|version| version.id).collect();
        assert_eq!(removable, ["1"], "the second one is kept, and nothing is above the third");
    }

    #[test]
    fn contents_in_parts_are_their_parts() {
        let history = History::default();
        let content = history.content(PART + 100, true);
        assert_eq!(content.parts, [PART, 100]);
        assert_eq!(content.bytes().slice(PART..), content.part(1));
    }
}
