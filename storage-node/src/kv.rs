//! The index store: ordered rows in families, batches that are atomic, scans that see one moment.
//!
//! Whatever is stored here can be rebuilt from media, so it is written without syncs: after a crash the newest
//! batches may be missing, but only from the end and never in part (point-in-time recovery). A store that is damaged
//! says [`KvError::Corrupt`], and its owner throws it away and rebuilds it: by [`Kv::clear`] while it is open, or by
//! destroying it. A store on disk that said so once says it again when it is opened, until one of the two was done.

pub mod memory;
pub mod rocks;

use std::fmt::Debug;
use std::path::Path;

use bytes::Bytes;

pub use memory::MemoryKv;
pub use rocks::{RocksKv, RocksOptions};

/// The name of one family of rows; the families of a store are given when it is opened.
pub type Family = &'static str;

/// Why the index store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The store is damaged: destroy it and rebuild it from media.
    #[error("the index at {path} is damaged: {detail}")]
    Corrupt {
        /// Where the store is.
        path: String,
        /// The store's own words.
        detail: String,
    },
    /// No room. Nothing of the batch is visible.
    #[error("the index at {path} has no space left: {detail}")]
    Full {
        /// Where the store is.
        path: String,
        /// The store's own words.
        detail: String,
    },
    /// Another process has the store open.
    #[error("the index at {path} is in use by another process")]
    Locked {
        /// Where the store is.
        path: String,
    },
    /// A family that was not named when the store was opened: an error in the program.
    #[error("the index has no family {0:?}")]
    UnknownFamily(Family),
    /// Everything else; the store should be closed and opened again.
    #[error("the index at {path} failed: {detail}")]
    Io {
        /// Where the store is.
        path: String,
        /// The store's own words.
        detail: String,
    },
}

/// One change to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvChange {
    /// The row's family.
    pub family: Family,
    /// The row's key.
    pub key: Bytes,
    /// The new value, or `None` to delete the row.
    pub value: Option<Bytes>,
}

/// Changes that become visible, and survive a crash, together or not at all; in order, so the last one to a key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvBatch {
    changes: Vec<KvChange>,
}

impl KvBatch {
    /// A batch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a row.
    pub fn put(&mut self, family: Family, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push(KvChange { family, key: key.into(), value: Some(value.into()) });
    }

    /// Deletes a row; one that does not exist is fine.
    pub fn delete(&mut self, family: Family, key: impl Into<Bytes>) {
        self.changes.push(KvChange { family, key: key.into(), value: None });
    }

    /// The changes, in order.
    pub fn changes(&self) -> &[KvChange] {
        &self.changes
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds the changes of another batch after these.
    pub fn append(&mut self, mut other: KvBatch) {
        self.changes.append(&mut other.changes);
    }
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first key at or after the start upwards.
    Forward,
    /// From the last key at or before the start downwards; an empty start is the end of the family.
    Backward,
}

/// Sizes of a store, for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvStats {
    /// Rows, estimated.
    pub rows: u64,
    /// Bytes on disk, estimated.
    pub disk_bytes: u64,
    /// Bytes of memory for buffers and caches.
    pub memory_bytes: u64,
}

/// A store of ordered rows.
pub trait Kv: Send + Sync + Debug {
    /// The row with this key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    /// The rows with these keys, in the order asked for.
    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, KvError> {
        keys.iter().map(|key| self.get(family, key)).collect()
    }

    /// Makes a batch's changes visible, all at once.
    fn write(&self, batch: KvBatch) -> Result<(), KvError>;

    /// Scans a family as it is at this moment; later writes are not seen.
    fn scan(&self, family: Family, start: &[u8], direction: Direction) -> Result<Box<dyn KvIterator + '_>, KvError>;

    /// Scans of several families, each forward from its first row, all as they are at one and the same moment: what a copy of
    /// the whole store is made of. A store that can't, says so.
    fn scan_together(&self, families: &[Family]) -> Result<Vec<Box<dyn KvIterator + '_>>, KvError> {
        let _unused = families;
        Err(KvError::Io { path: String::new(), detail: "the store can't be scanned as a whole".to_owned() })
    }

    /// Makes everything written so far durable.
    fn flush(&self) -> Result<(), KvError>;

    /// Makes a copy of the whole store as of now in a directory that does not exist yet, on the same file system: a store of
    /// its own, made of links as far as its files never change. A store that can't, says so.
    fn checkpoint(&self, path: &Path) -> Result<(), KvError> {
        Err(KvError::Io { path: path.display().to_string(), detail: "the store can't be copied as a whole".to_owned() })
    }

    /// Sizes, estimated.
    fn stats(&self) -> KvStats;

    /// Removes every row without reading any, so that a damaged store can be rebuilt while it is open. A store that
    /// can't, says so: it must be destroyed instead.
    fn clear(&self) -> Result<(), KvError> {
        Err(KvError::Io { path: String::new(), detail: "the store can't be emptied while it is open".to_owned() })
    }
}

/// A scan in progress.
pub trait KvIterator: Send {
    /// The next row (key, value) in the scan's direction; `None` at the end.
    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, KvError>;

    /// Goes on from another key, as if the scan had been started there; may jump either way.
    fn seek(&mut self, key: &[u8]);
}

#[cfg(test)]
mod conformance;
