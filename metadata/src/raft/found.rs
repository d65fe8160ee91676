//! Beginning a cluster of one metadata node from an index that is there: LSN = Raft index goes on where the index ends.
//!
//! Everything is made beside the member's directory and becomes it by one rename. What a crash leaves: before the rename no
//! member, and the next attempt begins anew; after it a member.
//!
//! The log is one whose entries up to the index's last LSN were purged, the state machine is a copy of the index with Raft's
//! position and a membership of this node alone. The term begins at 0, as in any new cluster: a member of an earlier one must
//! not run any more. Should one do so all the same and lead, its index ends before the drives' journal does, and it serves no
//! writes (`start/lead.rs`).

use super::log::{FAMILIES, LogStore};
use super::machine::{Machine, MachineError};
use super::member::MemberConfig;
use super::{Peer, Tail};
use crate::index::{self, IndexError, Overlay};
use codec::id::Epoch;
use openraft::{CommittedLeaderId, LogId, Membership, StoredMembership};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};
use storage_node::kv::{Kv, KvError, RocksKv};

/// Why a cluster of one was not begun.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// There is a member already, or the remains of one.
    #[error("{0} is a metadata node's already; it is not written over")]
    There(PathBuf),
    /// Nothing was ever applied to the index: a first start comes before.
    #[error("the index in {0} is empty; a cluster of metadata nodes begins from one that has served")]
    Empty(PathBuf),
    /// The index fails.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The state machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A directory.
    #[error("{path}: {error}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
}

impl From<KvError> for FoundError {
    fn from(error: KvError) -> Self {
        FoundError::Index(error.into())
    }
}

/// Where the member is made.
fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    dir.with_file_name(name)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FoundError {
    let path = path.to_owned();
    move |error| FoundError::Directory { path, error }
}

/// Removes what an attempt that was interrupted has left. Blocks.
pub(super) fn finish(dir: &Path) -> Result<(), FoundError> {
    let new = beside(dir);
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&new)(error)),
        _ => Ok(()),
    }
}

/// Makes the member's directory from the index in `index`. Blocks.
pub(super) fn found(config: &MemberConfig, me: &Peer, index: &Path, epoch: Epoch) -> Result<(), FoundError> {
    finish(&config.dir)?;
    // A directory that is there and empty may be replaced; RENAME does so.
    let full = match fs::read_dir(&config.dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(at(&config.dir)(error)),
    };
    if full {
        return Err(FoundError::There(config.dir.clone()));
    }
    let new = beside(&config.dir);
    fs::create_dir_all(&new).map_err(at(&new))?;
    let tail = {
        let from = RocksKv::open(index, &index::FAMILIES, config.rocks)?;
        let tail =
            tail_of(&from, epoch).map_err(FoundError::Index)?.ok_or_else(|| FoundError::Empty(index.to_owned()))?;
        Machine::adopt(&new.join("index"), |to| from.checkpoint(to))?;
        tail
    };
    let last = LogId::new(CommittedLeaderId::new(0, config.identity.node), tail.lsn.0);
    let voters = vec![BTreeSet::from([config.identity.node])];
    let members = Membership::new(voters, BTreeMap::from([(config.identity.node, me.clone())]));
    Machine::open(&new.join("index"), config.rocks)?.begin(
        last,
        tail.epoch,
        &StoredMembership::new(Some(last), members),
    )?;
    let log = RocksKv::open_promised(&new.join("log"), &FAMILIES, config.rocks)?;
    LogStore::begin_after(&log, config.identity, last)?;
    drop(log);
    fs::rename(&new, &config.dir).map_err(at(&config.dir))?;
    let parent = config.dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(at(parent))
}

/// The end of an index of a process that was all of metadata; `None` where nothing was applied. The epoch of its last entry is
/// not in it. The empty entries that follow are hashed with it: with any other, the drives' journal and the Raft log would not
/// meet, and no leader could ever write.
fn tail_of(index: &dyn Kv, epoch: Epoch) -> Result<Option<Tail>, IndexError> {
    let (lsn, hash) = index::applied(&Overlay::new(index))?;
    Ok((lsn.0 > 0).then_some(Tail { lsn, epoch, hash }))
}
