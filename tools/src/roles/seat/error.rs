//! Why a process has no other place among the metadata nodes than it had.

use crate::data_dir::DataDirError;
use crate::roles::metadata::MetadataError;
use codec::level::Later;
use metadata::index::IndexError;
use metadata::keys::KeyError;
use metadata::raft::{ChangeError, MachineError, MemberError, Peer, Refused, Stopped, WayError};
use metadata::replica::NotLeading;
use std::path::PathBuf;

/// A data directory and a certificate that are not of the same metadata node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the data directory {path} is that of metadata node {of}, and the certificate names {me}: the others refuse this process. Give \
     it its own of both; where {of} runs elsewhere this is a copy, which must not be used (--rejoin puts it aside)"
)]
pub(super) struct Mixed {
    /// The data directory.
    pub path: PathBuf,
    /// Whose it is.
    pub of: String,
    /// Whose certificate it is.
    pub me: String,
}

/// Why this node's place is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// The start over the drives.
    #[error(transparent)]
    Start(Box<MetadataError>),
    /// The state of this member.
    #[error(
        "the state of this metadata node in {path} can't be used: {error}. If it is lost: stele metadata --config FILE --rejoin \
         puts it aside, and the node waits to be added anew (stele member remove, then add)"
    )]
    State {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        error: Box<MemberError>,
    },
    /// There is no room to open the state of this member.
    #[error(
        "there is no room to open the state of this metadata node in {path}: {error}. Nothing is wrong with it: make room there, \
         and start it again"
    )]
    Full {
        /// Where it is.
        path: PathBuf,
        /// What had no room.
        error: Box<MemberError>,
    },
    /// Raft has stopped on this node.
    #[error(
        "this metadata node ends: its state in {path} can't be written: {error}. It has what it promised to the others, and goes \
         on from there when it is started again; a full disk needs room first"
    )]
    Stopped {
        /// Where its state is.
        path: PathBuf,
        /// What happened.
        error: Stopped,
    },
    /// The state of this member, or what it is to apply, is of a later release. Nothing is wrong with it, and nothing was changed.
    #[error(transparent)]
    Later(#[from] Later),
    /// The key file.
    #[error("{path}: {source}. All metadata nodes have the same key file: copy it from another")]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
    /// The index of this member.
    #[error("the index of this metadata node: {0}")]
    Index(#[from] IndexError),
    /// It is a member.
    #[error("this node is a metadata node of the cluster already")]
    Taken,
    /// It is none.
    #[error("this node waits to be added: stele member add on a metadata node of the cluster, or stele cluster init")]
    Waiting,
    /// There is data.
    #[error(
        "the drives hold a cluster's data. If its metadata nodes run, add this one there (stele member add). If all of them are \
         lost, or its metadata was one process until now, say --existing"
    )]
    Existing,
    /// The start reads only.
    #[error("the drives can't be written to: {0}")]
    ReadOnly(String),
    /// Storage nodes refuse or fail.
    #[error("the storage nodes: {0}")]
    Nodes(String),
    /// The node that was to be added.
    #[error("{peer} does not take part: {error}")]
    Join {
        /// Which.
        peer: Peer,
        /// Why.
        error: WayError,
    },
    /// The members.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// There is a member of this name.
    #[error("{0} is a metadata node already; one that has lost its state is removed first, and then added")]
    Known(Peer),
    /// One that was added before and did not come to vote has lost its state.
    #[error(
        "{peer} was added as metadata node {number:016x}, and has no state of that node any more: {why}. It gets another number: \
         stele member remove {name}, and then stele member add {name} {address}",
        name = .peer.name,
        address = .peer.address
    )]
    Lost {
        /// The number that nobody has now.
        number: u64,
        /// Which.
        peer: Peer,
        /// Its answer.
        why: Refused,
    },
    /// There is none.
    #[error("no metadata node is called {0}")]
    Unknown(String),
    /// The cluster is begun, and its only metadata node does not serve yet.
    #[error("the cluster is begun, and does not serve yet: {0}")]
    Silent(String),
    /// Not a name or an address.
    #[error("{0}")]
    Malformed(String),
}

impl From<MetadataError> for SeatError {
    fn from(error: MetadataError) -> SeatError {
        SeatError::Start(Box::new(error))
    }
}

impl From<NotLeading> for SeatError {
    fn from(error: NotLeading) -> SeatError {
        SeatError::Change(ChangeError::NotLeading(error))
    }
}

impl SeatError {
    /// What opening the member's state came to.
    pub(super) fn state(path: PathBuf, error: MemberError) -> SeatError {
        match error {
            MemberError::Machine(MachineError::Later(later)) => SeatError::Later(later),
            error if error.is_full() => SeatError::Full { path, error: Box::new(error) },
            error => SeatError::State { path, error: Box::new(error) },
        }
    }

    /// Whether this program is too old for what is there.
    pub fn is_too_old(&self) -> bool {
        match self {
            SeatError::Later(_) => true,
            SeatError::Start(error) => error.is_too_old(),
            _ => false,
        }
    }
}
