//! What must be there: the model that a store is compared with.

use crate::ops::Body;
use std::collections::BTreeMap;

/// A change of one key that was asked for: when, and when it was acknowledged.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: String,
    /// `None`: the key is deleted.
    pub body: Option<Body>,
    /// The position of the trace before it was asked for.
    pub asked: u64,
    /// The position at which it was acknowledged; `None`: it was refused.
    pub done: Option<u64>,
}

/// Objects by key: each has one body, or, after a crash and until it is looked at, one of several or none.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    objects: BTreeMap<String, Vec<Option<Body>>>,
    /// Parts of open uploads.
    pub parts: BTreeMap<u8, Body>,
}

impl Reference {
    /// Takes in changes that were all answered.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes.into_iter().filter(|change| change.done.is_some()) {
            self.objects.insert(change.key, vec![change.body]);
        }
    }

    /// Takes in changes of which a crash at `position` may have let some happen.
    pub fn crashed(&mut self, changes: Vec<Change>, position: u64) {
        for Change { key, body, asked, done } in changes {
            let possible = self.objects.entry(key).or_insert_with(|| vec![None]);
            match done {
                Some(done) if done <= position => *possible = vec![body],
                _ if asked >= position => {}
                _ => possible.push(body),
            }
        }
    }

    /// What each key may hold.
    pub fn possible(&self) -> impl Iterator<Item = (&str, &[Option<Body>])> {
        self.objects.iter().map(|(key, possible)| (key.as_str(), possible.as_slice()))
    }

    /// What a key was found to hold.
    pub fn settle(&mut self, key: &str, body: Option<Body>) {
        self.objects.insert(key.to_owned(), vec![body]);
    }

    /// What a key holds.
    pub fn get(&self, key: &str) -> Option<&Body> {
        self.objects.get(key).and_then(|possible| possible.last()).and_then(Option::as_ref)
    }

    /// The keys that are there.
    pub fn keys(&self) -> Vec<String> {
        self.objects
            .iter()
            .filter(|(_, possible)| possible.last().is_some_and(Option::is_some))
            .map(|(key, _)| key.clone())
            .collect()
    }
}
