//! Room in the file system of a metadata node's data directory: without any, Raft stops on it.

use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Free bytes that a metadata node wants beside those for another copy of its index: for the log, which is shortened when its
/// entries are sealed, and for RocksDB, which rewrites what it has.
const BESIDE: u64 = 1 << 30;

/// Room in the file system of a data directory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Free.
    pub free: u64,
    /// Free bytes that are wanted: a snapshot that comes from the leader is as large as the index.
    pub wanted: u64,
}

impl Room {
    /// That at `path`, for an index of so many bytes. `None`: the system does not say.
    pub(super) fn at(path: &Path, index: u64) -> Option<Room> {
        let space = statvfs(path).ok()?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        Some(Room { free, wanted: index.saturating_add(BESIDE) })
    }

    /// Whether there is less than is wanted.
    pub fn is_short(&self) -> bool {
        self.free < self.wanted
    }
}
