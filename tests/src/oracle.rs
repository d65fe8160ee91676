//! What a store may hold after a crash, given which operations had begun and which were acknowledged by then.
//!
//! An operation is atomic: it changes one or more things (keys, uploads, parts, buckets), all or none. It is *begun* at one
//! position of the trace and *acknowledged* at a later one, or never. After a crash at position p the last value of a thing
//! must be that of an operation that had begun before p, and after whose acknowledgement no other operation on the same
//! thing both began and was acknowledged before p. So an acknowledged operation is there, and one that was in flight is
//! there or not; and of one that was in flight either every change is there or none.

use crate::world::{OWNER, World};
use bytes::Bytes;
use metadata::client::MetadataClient;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// Something that has a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Thing {
    /// A bucket: there or not.
    Bucket(String),
    /// An object's bytes.
    Object(String, String),
    /// An upload: open or not. The workloads open one upload for each key at a time.
    Upload(String, String),
    /// A part's bytes.
    Part(String, String, u32),
}

/// The name of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u32);

/// The value of a thing that is there and has no bytes.
pub const THERE: Value = Value(u32::MAX);

/// An atomic operation.
#[derive(Clone, Debug)]
pub struct Op {
    /// For messages.
    pub name: String,
    /// The position of its begin mark.
    pub begin: u64,
    /// The position of its acknowledgement mark.
    pub ack: Option<u64>,
    /// From this position on its outcome is decided, and another operation ([`Oracle::observed`]) says how.
    pub until: Option<u64>,
    /// What it changes; `None` takes the thing away.
    pub changes: Vec<(Thing, Option<Value>)>,
}

/// Everything that a store holds.
pub type State = BTreeMap<Thing, Value>;

/// The contents that a workload uses, and its operations.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    contents: Vec<Bytes>,
    known: HashMap<Bytes, Value>,
    ops: Vec<Op>,
}

/// What is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which check failed.
    pub check: &'static str,
    /// What was found.
    pub detail: String,
}

impl Wrong {
    /// A failed check.
    pub fn new(check: &'static str, detail: impl Into<String>) -> Wrong {
        Wrong { check, detail: detail.into() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.detail)
    }
}

impl Oracle {
    /// The name of a content.
    pub fn content(&mut self, bytes: &Bytes) -> Value {
        if let Some(value) = self.known.get(bytes) {
            return *value;
        }
        let value = Value(self.contents.len() as u32);
        self.contents.push(bytes.clone());
        self.known.insert(bytes.clone(), value);
        value
    }

    /// Notes that an operation begins; gives its number.
    pub fn begin(&mut self, name: impl Into<String>, at: u64, changes: Vec<(Thing, Option<Value>)>) -> usize {
        self.ops.push(Op { name: name.into(), begin: at, ack: None, until: None, changes });
        self.ops.len() - 1
    }

    /// Notes that an operation was acknowledged.
    pub fn ack(&mut self, op: usize, at: u64) {
        if let Some(op) = self.ops.get_mut(op) {
            op.ack = Some(at);
        }
    }

    /// The operations.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// What is known after a crash at `position`: what had not begun never was, what was not acknowledged is in flight.
    /// Positions of the trace that the crash left count on from `position`.
    pub fn crashed(&self, position: u64) -> Oracle {
        let mut next = self.clone();
        next.ops.retain(|op| op.begin < position && op.until.is_none_or(|until| until >= position));
        for op in &mut next.ops {
            op.ack = op.ack.filter(|ack| *ack < position);
        }
        next
    }

    /// Notes what a start found: whatever was in flight is decided now, at this position.
    pub fn observed(&mut self, at: u64, state: &State) {
        let things: BTreeSet<Thing> =
            self.ops.iter().flat_map(|op| op.changes.iter().map(|(t, _)| t.clone())).collect();
        let changes = things.into_iter().map(|thing| (thing.clone(), state.get(&thing).copied())).collect();
        for op in self.ops.iter_mut().filter(|op| op.ack.is_none()) {
            op.until = Some(at);
        }
        self.ops.push(Op { name: "what a start showed".to_owned(), begin: at, ack: Some(at), until: None, changes });
    }

    /// Whether the store may hold `state` after a crash at `position`.
    pub fn check(&self, position: u64, state: &State) -> Result<(), Wrong> {
        let counts = |op: &&Op| op.begin < position && op.until.is_none_or(|until| until >= position);
        let begun: Vec<&Op> = self.ops.iter().filter(counts).collect();
        let mut by_thing: BTreeMap<&Thing, Vec<(&Op, Option<Value>)>> = BTreeMap::new();
        for op in &begun {
            for (thing, value) in &op.changes {
                by_thing.entry(thing).or_default().push((op, *value));
            }
        }
        if let Some((thing, value)) = state.iter().find(|(thing, _)| !by_thing.contains_key(thing)) {
            return Err(Wrong::new("something that was never put", format!("{thing:?} = {value:?}")));
        }
        let acked = |op: &Op| op.ack.filter(|ack| *ack < position);
        for (thing, ops) in &by_thing {
            let current = state.get(thing).copied();
            let overtaken = |ack: u64| ops.iter().any(|(later, _)| later.begin > ack && acked(later).is_some());
            let from_start = !ops.iter().any(|(op, _)| acked(op).is_some());
            let mut allowed: Vec<Option<Value>> = Vec::new();
            allowed.extend(from_start.then_some(None));
            allowed.extend(ops.iter().filter(|(op, _)| acked(op).is_none_or(|ack| !overtaken(ack))).map(|(_, v)| *v));
            if !allowed.contains(&current) {
                let check = match (current, from_start) {
                    (None, _) => "an acknowledged change is lost",
                    (Some(_), false) if allowed == [None] => "a deleted thing is back",
                    _ => "an older or newer value than it may be",
                };
                let names: Vec<&str> = ops.iter().map(|(op, _)| op.name.as_str()).collect();
                return Err(Wrong::new(check, format!("{thing:?} is {current:?}, may be {allowed:?} ({names:?})")));
            }
        }
        self.check_whole(position, &begun, &by_thing, state)
    }

    /// Of an operation in flight every change is there or none; judged where nothing else was in flight on its things.
    fn check_whole(
        &self,
        position: u64,
        begun: &[&Op],
        by_thing: &BTreeMap<&Thing, Vec<(&Op, Option<Value>)>>,
        state: &State,
    ) -> Result<(), Wrong> {
        let in_flight = |op: &Op| op.ack.is_none_or(|ack| ack >= position);
        for op in begun.iter().filter(|op| in_flight(op) && op.changes.len() > 1) {
            let mut before_and_after = (true, true);
            let mut alone = true;
            for (thing, new) in &op.changes {
                let others = by_thing.get(thing).into_iter().flatten().filter(|(other, _)| !std::ptr::eq(*other, *op));
                let before: Vec<_> = others.collect();
                alone &= before.iter().all(|(other, _)| other.ack.is_some_and(|ack| ack < op.begin));
                let old = before.iter().max_by_key(|(other, _)| other.ack).and_then(|(_, value)| *value);
                let current = state.get(thing).copied();
                before_and_after.0 &= current == old;
                before_and_after.1 &= current == *new;
            }
            if alone && before_and_after == (false, false) {
                return Err(Wrong::new("half of an operation", format!("{} {:?}", op.name, op.changes)));
            }
        }
        Ok(())
    }

    fn value(&self, bytes: &Bytes, what: &Thing) -> Result<Value, Wrong> {
        let known = self.known.get(bytes).copied();
        known.ok_or_else(|| Wrong::new("wrong bytes", format!("{what:?}: {} bytes that nobody put", bytes.len())))
    }

    /// Reads everything that a store holds, and checks that listings, lookups and reads agree.
    pub async fn read(&self, world: &World) -> Result<State, Wrong> {
        let mut state = State::new();
        let buckets = world.metadata.buckets(OWNER).await.map_err(|e| Wrong::new("buckets", e.to_string()))?;
        for bucket in buckets {
            let name = bucket.name.clone();
            self.read_objects(world, &bucket, &mut state).await?;
            self.read_uploads(world, &bucket, &mut state).await?;
            state.insert(Thing::Bucket(name), THERE);
        }
        Ok(state)
    }

    async fn read_objects(
        &self,
        world: &World,
        bucket: &codec::effect::BucketRow,
        state: &mut State,
    ) -> Result<(), Wrong> {
        let rows = world.list(bucket.bucket_id()).await.map_err(|e| Wrong::new("listing", e.to_string()))?;
        for row in rows {
            let thing = Thing::Object(bucket.name.clone(), row.key.clone());
            let current = world.metadata.current_version(bucket.bucket_id(), &row.key).await;
            if current.ok().flatten().as_ref() != Some(&row) {
                return Err(Wrong::new("listing and lookup differ", format!("{thing:?}")));
            }
            let Some(content) = &row.content else {
                return Err(Wrong::new("a version without content", format!("{thing:?}")));
            };
            let bytes = world.read(content, None).await;
            let bytes = bytes.map_err(|e| Wrong::new("an object can't be read", format!("{thing:?}: {e}")))?;
            if bytes.len() as u64 != content.size {
                return Err(Wrong::new("wrong bytes", format!("{thing:?}: {} of {}", bytes.len(), content.size)));
            }
            let value = self.value(&bytes, &thing)?;
            if state.insert(thing.clone(), value).is_some() {
                return Err(Wrong::new("listed twice", format!("{thing:?}")));
            }
        }
        Ok(())
    }

    async fn read_uploads(
        &self,
        world: &World,
        bucket: &codec::effect::BucketRow,
        state: &mut State,
    ) -> Result<(), Wrong> {
        let uploads = world.uploads(bucket.bucket_id()).await.map_err(|e| Wrong::new("uploads", e.to_string()))?;
        for (upload, parts) in uploads {
            let key = upload.name.map(|name| name.key).unwrap_or_default();
            let thing = Thing::Upload(bucket.name.clone(), key.clone());
            if state.insert(thing.clone(), THERE).is_some() {
                return Err(Wrong::new("an upload that was never opened", format!("{thing:?}")));
            }
            for part in parts {
                let thing = Thing::Part(bucket.name.clone(), key.clone(), part.number);
                let content = part.content.unwrap_or_default();
                let bytes = world.read(&content, None).await;
                let bytes = bytes.map_err(|e| Wrong::new("a part can't be read", format!("{thing:?}: {e}")))?;
                state.insert(thing.clone(), self.value(&bytes, &thing)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str) -> Thing {
        Thing::Object("b".to_owned(), key.to_owned())
    }

    fn state(values: &[(&str, u32)]) -> State {
        values.iter().map(|(key, value)| (object(key), Value(*value))).collect()
    }

    #[test]
    fn acknowledged_is_there_and_in_flight_is_whole_or_absent() {
        let mut oracle = Oracle::default();
        let first = oracle.begin("put", 10, vec![(object("a"), Some(Value(1)))]);
        oracle.ack(first, 20);
        let second = oracle.begin("put", 30, vec![(object("a"), Some(Value(2))), (object("c"), Some(Value(3)))]);
        oracle.ack(second, 40);
        assert!(oracle.check(10, &state(&[])).is_ok());
        assert!(oracle.check(10, &state(&[("a", 1)])).is_err(), "not even begun");
        assert!(oracle.check(15, &state(&[])).is_ok() && oracle.check(15, &state(&[("a", 1)])).is_ok());
        assert!(oracle.check(21, &state(&[])).is_err(), "lost");
        assert!(oracle.check(21, &state(&[("a", 1)])).is_ok());
        assert!(oracle.check(35, &state(&[("a", 1)])).is_ok());
        assert!(oracle.check(35, &state(&[("a", 2), ("c", 3)])).is_ok());
        assert!(oracle.check(35, &state(&[("a", 2)])).is_err(), "half");
        assert!(oracle.check(41, &state(&[("a", 1)])).is_err(), "old");
        assert!(oracle.check(41, &state(&[("a", 2), ("c", 3)])).is_ok());
        assert!(oracle.check(41, &state(&[("a", 2), ("c", 3), ("d", 1)])).is_err(), "from nowhere");
    }
}
