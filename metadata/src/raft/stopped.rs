//! When Raft has stopped on this node by itself.
//!
//! It does when its log or its index can't be written: on a full disk, for one. It stays so until the process is started again,
//! whatever becomes of the disk. What was promised is in what is there: an entry or a vote that could not be written and synced
//! was not promised to anybody.

use super::machine::MachineError;
use super::member::{Member, MemberError};
use super::{FoundError, OpenError};
use crate::index::IndexError;
use openraft::error::Fatal;
use std::io;
use storage_node::kv::KvError;

/// Why Raft has stopped on this node by itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stopped {
    /// The log could not be written or synced. Raft may be told of it only with the next entry: it is said here at once.
    #[error("the Raft log can't be written: {0}")]
    Log(String),
    /// The log or the index failed, as Raft says it.
    #[error(transparent)]
    Raft(Box<Fatal<u64>>),
}

impl Member {
    /// Why Raft has stopped by itself, if it has; not where it was shut down.
    pub fn why_stopped(&self) -> Option<Stopped> {
        let running = self.raft().metrics().borrow().running_state.clone();
        running.err().filter(|fatal| *fatal != Fatal::Stopped).map(|fatal| Stopped::Raft(Box::new(fatal)))
    }

    /// Returns when Raft has stopped by itself; never where it is shut down.
    pub async fn stopped(&self) -> Stopped {
        let mut metrics = self.raft().metrics();
        tokio::select! {
            why = self.log().failure() => Stopped::Log(why),
            ended = metrics.wait_for(|now| now.running_state.is_err()) => {
                // The sender is gone without a word where Raft's task was.
                let why = ended.map_or(Some(Fatal::Panicked), |now| now.running_state.clone().err());
                match why.filter(|fatal| *fatal != Fatal::Stopped) {
                    Some(fatal) => Stopped::Raft(Box::new(fatal)),
                    None => std::future::pending().await,
                }
            }
        }
    }
}

impl MemberError {
    /// Whether there was no room to open what is there. Then nothing is known to be wrong with it.
    pub fn is_full(&self) -> bool {
        match self {
            MemberError::Log(OpenError::Index(error)) => index_is_full(error),
            MemberError::Machine(error) => machine_is_full(error),
            MemberError::Store(error) => matches!(error, KvError::Full { .. }),
            MemberError::Found(FoundError::Index(error)) => index_is_full(error),
            MemberError::Found(FoundError::Machine(error)) => machine_is_full(error),
            MemberError::Found(FoundError::Directory { error, .. }) => no_room(error),
            MemberError::Found(FoundError::There(_) | FoundError::Empty(_))
            | MemberError::Log(_)
            | MemberError::Timings(_)
            | MemberError::Raft(_) => false,
        }
    }
}

fn machine_is_full(error: &MachineError) -> bool {
    match error {
        MachineError::Index(error) => index_is_full(error),
        MachineError::Directory { error, .. } => no_room(error),
        _ => false,
    }
}

fn index_is_full(error: &IndexError) -> bool {
    matches!(error, IndexError::Store(KvError::Full { .. }))
}

fn no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
