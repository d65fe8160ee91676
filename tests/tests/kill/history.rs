//! What a key may hold, given which operations on it were begun and which were answered.
//!
//! Operations on one key may overlap. The last value is that of an operation after whose answer no other one both began
//! and was answered. So an acknowledged value is there unless a later one came, and one without an answer is there or not.
//! Once it was looked at, a value is settled: it is the only possible one until the next operation.

use std::collections::BTreeMap;
use tests::s3::document;

/// A content. Its number is in the object's user metadata too, so that metadata of one version and bytes of another
/// would be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document {
    /// Unique in a test.
    pub id: u64,
    /// Bytes.
    pub len: usize,
}

impl Document {
    /// The bytes.
    pub fn bytes(&self) -> bytes::Bytes {
        document(self.id, self.len)
    }
}

#[derive(Clone, Debug)]
struct Attempt {
    value: Option<Document>,
    begun: u64,
    answered: Option<u64>,
}

/// Names one attempt.
#[derive(Clone, Debug)]
pub struct Ticket {
    key: String,
    begun: u64,
}

/// The attempts on all keys.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<String, Vec<Attempt>>,
    clock: u64,
    /// Operations that were answered.
    pub answered: u64,
    /// Operations that were not.
    pub open: u64,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// An operation begins that gives `key` this value; `None` deletes it.
    pub fn begin(&mut self, key: &str, value: Option<Document>) -> Ticket {
        let begun = self.tick();
        let attempts = self
            .keys
            .entry(key.to_owned())
            .or_insert_with(|| vec![Attempt { value: None, begun: 0, answered: Some(0) }]);
        attempts.push(Attempt { value, begun, answered: None });
        self.open += 1;
        Ticket { key: key.to_owned(), begun }
    }

    /// It was answered with success.
    pub fn acknowledge(&mut self, ticket: &Ticket) {
        let now = self.tick();
        self.open -= 1;
        self.answered += 1;
        let attempts = self.keys.get_mut(&ticket.key).expect("begun");
        attempts.iter_mut().find(|a| a.begun == ticket.begun).expect("begun").answered = Some(now);
        // What this one has certainly replaced is of no more interest.
        let first = attempts.iter().filter(|a| a.answered.is_some()).map(|a| a.begun).max().unwrap_or_default();
        attempts.retain(|a| a.answered.is_none_or(|answered| answered >= first) || a.begun == first);
    }

    /// What the key may hold now.
    pub fn possible(&self, key: &str) -> Vec<Option<Document>> {
        let Some(attempts) = self.keys.get(key) else { return vec![None] };
        let replaced =
            |a: &Attempt| a.answered.is_some_and(|end| attempts.iter().any(|b| b.answered.is_some() && b.begun > end));
        attempts.iter().filter(|a| !replaced(a)).map(|a| a.value).collect()
    }

    /// The key was seen to hold this, with nothing going on.
    pub fn settle(&mut self, key: &str, value: Option<Document>) {
        let now = self.tick();
        self.keys.insert(key.to_owned(), vec![Attempt { value, begun: now, answered: Some(now) }]);
    }

    /// Every key that was ever tried.
    pub fn keys(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }
}

#[test]
fn an_answered_operation_replaces_what_was_answered_before_it_began() {
    let mut history = History::default();
    let document = |id| Some(Document { id, len: 1 });
    let a = history.begin("k", document(1));
    assert_eq!(history.possible("k"), [None, document(1)]);
    history.acknowledge(&a);
    assert_eq!(history.possible("k"), [document(1)]);
    let (b, c) = (history.begin("k", document(2)), history.begin("k", None));
    history.acknowledge(&c);
    assert_eq!(history.possible("k"), [document(2), None]);
    history.acknowledge(&b);
    assert_eq!(history.possible("k"), [document(2), None], "they overlapped: either may be the last");
    history.settle("k", None);
    assert_eq!(history.possible("k"), [None]);
}
