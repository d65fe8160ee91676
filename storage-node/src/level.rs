//! The format level by which a process writes, as it stands now.
//!
//! Invariant: where metadata keeps it, it only goes up. A process that has not heard of a raise yet writes what the level before allowed,
//! which everybody reads. So a gateway and a storage node follow whoever leads also downwards: the entry that raised it may be lost, and
//! the loss accepted, and what is written above the journaled level nobody could read who is put back to the release before.

use codec::level::{FormatLevel, Versions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// One for a process: whoever learns of a raise says so here, and all its writers and connections go by it. Clones are the same.
#[derive(Clone, Debug)]
pub struct CurrentLevel(Arc<AtomicU32>);

impl Default for CurrentLevel {
    /// That of a process which has heard of none yet: what every release reads that knows of levels.
    fn default() -> CurrentLevel {
        CurrentLevel(Arc::new(AtomicU32::new(FormatLevel::BEFORE.0)))
    }
}

impl CurrentLevel {
    /// The level.
    pub fn get(&self) -> FormatLevel {
        FormatLevel(self.0.load(Ordering::Acquire))
    }

    /// What may be written. For a level that this program does not know, and so never writes at, what the newest that it knows says.
    pub fn versions(&self) -> Versions {
        self.get().min(FormatLevel::NEWEST).versions().unwrap_or(Versions::FIRST)
    }

    /// The cluster is at this level, as who leads says now.
    pub fn follow(&self, level: FormatLevel) {
        self.0.store(level.0, Ordering::Release);
    }

    /// The cluster is at this level, or above it.
    pub fn raise(&self, level: FormatLevel) {
        self.0.fetch_max(level.0, Ordering::AcqRel);
    }
}
