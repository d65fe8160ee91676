//! Metadata on several machines: the Raft types, what they look like on disk and on the wire, and the log.
//!
//! One entry of the Raft log carries one entry of the journal, already encoded, so that every node applies the same bytes and
//! every copy of one LSN on the drives is the same. The LSN is the Raft index: a proposal names the LSN that it was decided
//! for, and one that Raft gave another index changes nothing, anywhere ([`Applied::Misplaced`]).
//!
//! [`Network`] and [`Inbox`] are the calls between them, [`TlsWays`] and [`Service`] how these travel.

mod ahead;
mod found;
mod gate;
mod handover;
mod heard;
mod inbox;
mod log;
mod machine;
mod member;
mod message;
mod network;
mod part;
mod record;
mod silence;
mod stopped;
#[cfg(test)]
pub(crate) mod tests;
mod way;
mod wire;

pub use self::found::FoundError;
pub use self::handover::{HandedOver, ask_to_stand};
pub use self::inbox::{Inbox, Joins, Pieces};
pub use self::log::{FAMILIES, Identity, LogStore, OpenError};
pub use self::machine::{Machine, MachineError};
pub use self::member::{ChangeError, Leadership, Member, MemberConfig, MemberError, MemberLine, Timings};
pub use self::message::{decode_entry, encode_entry};
pub use self::network::{Link, Network, ask_if_there, ask_to_join};
pub use self::part::Refused;
pub use self::record::{Record, RecordError, Tail, proposed, record};
pub use self::stopped::Stopped;
pub use self::way::{Purpose, Way, WayError, Ways};
pub use self::wire::{Service, TlsWays};

use bytes::Bytes;
use openraft::AnyError;
use std::path::{Path, PathBuf};
use std::sync::Arc;

openraft::declare_raft_types!(
    /// The types that Raft is used with.
    pub RaftTypes:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = Peer,
        Entry = openraft::Entry<RaftTypes>,
        SnapshotData = SnapshotDir,
        AsyncRuntime = openraft::TokioRuntime
);

/// A metadata node, as the others reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Host and port of its metadata service.
    pub address: String,
    /// The name in its certificate: an answer from anybody else at this address is not its answer.
    pub name: String,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// One entry of the journal, encoded ([`codec::journal`]).
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The entry, frames included.
    pub entry: Bytes,
}

impl std::fmt::Debug for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proposal({} bytes)", self.entry.len())
    }
}

/// What became of a committed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Its effects are in the index.
    Done,
    /// It was decided for another LSN, or after another entry: it counts as an empty one.
    Misplaced,
}

/// Runs what may block on a thread of its own, and makes its error one of Raft's.
async fn on_thread<T: Send + 'static, E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, AnyError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| AnyError::new(&error))?.map_err(|error| AnyError::new(&error))
}

/// A copy of the index: a directory that is sent file by file, never a database in memory. It is removed with its last owner.
#[derive(Clone, Debug)]
pub struct SnapshotDir(Arc<OwnedDir>);

#[derive(Debug)]
struct OwnedDir(PathBuf);

impl SnapshotDir {
    /// Owns a directory from now on.
    pub fn new(path: PathBuf) -> SnapshotDir {
        SnapshotDir(Arc::new(OwnedDir(path)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.0
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a snapshot that nobody needs can't be removed; the next start does it");
        }
    }
}
