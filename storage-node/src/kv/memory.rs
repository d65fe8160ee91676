//! An index store in memory, for tests: quick to create, and able to bring back an older state.
//!
//! A family is an ordered map behind an `Arc`: snapshots and scans hold the `Arc`, and a write copies a map only
//! while somebody still holds it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::{Direction, Family, Kv, KvBatch, KvError, KvIterator, KvStats};

type Rows = BTreeMap<Bytes, Bytes>;
type Families = Vec<(Family, Arc<Rows>)>;

/// An index store in memory.
#[derive(Debug)]
pub struct MemoryKv {
    families: RwLock<Families>,
}

/// The state of a [`MemoryKv`] at one moment.
#[derive(Clone, Debug)]
pub struct MemorySnapshot(Families);

impl MemoryKv {
    /// An empty store with these families.
    pub fn new(families: &[Family]) -> Self {
        let families = families.iter().map(|&name| (name, Arc::default())).collect();
        Self { families: RwLock::new(families) }
    }

    /// A store that begins with the state of a snapshot.
    pub fn from_snapshot(snapshot: &MemorySnapshot) -> Self {
        Self { families: RwLock::new(snapshot.0.clone()) }
    }

    /// The state now; cheap.
    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.read().clone())
    }

    /// Goes back (or on) to the state of a snapshot, families included.
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        *self.write_lock() = snapshot.0.clone();
    }

    fn read(&self) -> RwLockReadGuard<'_, Families> {
        self.families.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Families> {
        self.families.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn family_rows(families: &Families, family: Family) -> Result<&Arc<Rows>, KvError> {
    families.iter().find(|(name, _)| *name == family).map(|(_, rows)| rows).ok_or(KvError::UnknownFamily(family))
}

impl Kv for MemoryKv {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(family_rows(&self.read(), family)?.get(key).cloned())
    }

    fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        let mut families = self.write_lock();
        for change in batch.changes() {
            family_rows(&families, change.family)?; // all or nothing: look before anything is changed
        }
        for change in batch.changes {
            let Some((_, rows)) = families.iter_mut().find(|(name, _)| *name == change.family) else { continue };
            let rows = Arc::make_mut(rows);
            match change.value {
                Some(value) => rows.insert(change.key, value),
                None => rows.remove(&change.key),
            };
        }
        Ok(())
    }

    fn scan(&self, family: Family, start: &[u8], direction: Direction) -> Result<Box<dyn KvIterator + '_>, KvError> {
        let rows = Arc::clone(family_rows(&self.read(), family)?);
        Ok(Box::new(MemoryScan { rows, direction, bound: first_bound(start, direction) }))
    }

    fn scan_together(&self, families: &[Family]) -> Result<Vec<Box<dyn KvIterator + '_>>, KvError> {
        let state = self.read();
        let scan = |family: &Family| {
            let rows = Arc::clone(family_rows(&state, family)?);
            let scan = MemoryScan { rows, direction: Direction::Forward, bound: Bound::Unbounded };
            Ok(Box::new(scan) as Box<dyn KvIterator>)
        };
        families.iter().map(scan).collect()
    }

    fn flush(&self) -> Result<(), KvError> {
        Ok(())
    }

    fn clear(&self) -> Result<(), KvError> {
        self.write_lock().iter_mut().for_each(|(_, rows)| *rows = Arc::default());
        Ok(())
    }

    fn stats(&self) -> KvStats {
        let families = self.read();
        let rows = families.iter().map(|(_, rows)| rows.len() as u64).sum();
        let bytes = families.iter().flat_map(|(_, rows)| rows.iter()).map(|(k, v)| (k.len() + v.len()) as u64).sum();
        KvStats { rows, disk_bytes: 0, memory_bytes: bytes }
    }
}

struct MemoryScan {
    rows: Arc<Rows>,
    direction: Direction,
    /// Where the rest of the scan begins (forward) or ends (backward).
    bound: Bound<Bytes>,
}

fn first_bound(start: &[u8], direction: Direction) -> Bound<Bytes> {
    match direction {
        Direction::Backward if start.is_empty() => Bound::Unbounded,
        _ => Bound::Included(Bytes::copy_from_slice(start)),
    }
}

impl KvIterator for MemoryScan {
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, KvError> {
        let bound = self.bound.clone();
        let row = match self.direction {
            Direction::Forward => self.rows.range((bound, Bound::Unbounded)).next(),
            Direction::Backward => self.rows.range((Bound::Unbounded, bound)).next_back(),
        };
        let row = row.map(|(key, value)| (key.clone(), value.clone()));
        if let Some((key, _)) = &row {
            self.bound = Bound::Excluded(key.clone());
        }
        Ok(row)
    }

    fn seek(&mut self, key: &[u8]) {
        self.bound = first_bound(key, self.direction);
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, FAMILIES};
    use super::*;

    #[test]
    fn conforms() {
        conformance::run(&|| Box::new(MemoryKv::new(FAMILIES)));
    }

    #[test]
    fn snapshots_bring_an_older_state_back() {
        let kv = MemoryKv::new(&["a"]);
        let put = |value: &'static str| {
            let mut batch = KvBatch::new();
            batch.put("a", "key", value);
            kv.write(batch).unwrap();
        };
        put("old");
        let old = kv.snapshot();
        put("new");
        assert_eq!(kv.get("a", b"key").unwrap().unwrap(), "new");
        assert_eq!(MemoryKv::from_snapshot(&old).get("a", b"key").unwrap().unwrap(), "old");
        kv.restore(&old);
        assert_eq!(kv.get("a", b"key").unwrap().unwrap(), "old");
        put("newer");
        kv.restore(&old);
        assert_eq!(kv.get("a", b"key").unwrap().unwrap(), "old", "a snapshot does not change");
    }
}
