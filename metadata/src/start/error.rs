//! Why a start comes to nothing.

use crate::index::IndexError;
use crate::keys::KeyError;
use crate::raft::{MachineError, RecordError};
use crate::replay::ReplayError;
use crate::replica::NotLeading;
use crate::state::ApplyError;
use crate::topology::RuleUnmet;
use codec::erasure::{ErasureError, Geometry};
use codec::id::{ClusterId, DriveId, Epoch, Lsn};
use codec::level::TooNew;
use storage_node::client::ReadError;
use storage_node::disk::DiskError;
use storage_node::drive::{DriveError, ProbedState};
use storage_node::kv::KvError;
use storage_node::remote::RemoteError;

/// Why there is no service at all, not even a reading one.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No directory was given.
    #[error("no drive was given")]
    NoDrives,
    /// R18: a drive of another cluster.
    #[error("the drive at {path} belongs to cluster {cluster}, not to {ours}")]
    ForeignDrive {
        /// Where it is.
        path: String,
        /// Its cluster.
        cluster: ClusterId,
        /// The cluster of this service.
        ours: ClusterId,
    },
    /// One drive at two paths: a copied directory.
    #[error("the drives at {first} and {second} have the same identity {drive}")]
    SameDrive {
        /// The identity.
        drive: DriveId,
        /// One path.
        first: String,
        /// The other one.
        second: String,
    },
    /// R18: an index or a configuration knows the cluster, and no drive has ever been written to: they are not mounted, or were
    /// exchanged.
    #[error(
        "cluster {cluster} is known here, but no drive that has served it is there ({path}: {state}); nothing is formatted"
    )]
    DrivesGone {
        /// The cluster.
        cluster: ClusterId,
        /// One of the directories.
        path: String,
        /// What it is.
        state: ProbedState,
    },
    /// What is here was raised to a format level that this program does not know. Nothing was changed.
    #[error(transparent)]
    TooNew(#[from] TooNew),
    /// The metadata nodes are of an older state than the drives: restored from a copy, or others were begun from the drives since.
    #[error(
        "the drives' journal goes on to LSN {drives}, these metadata nodes end at LSN {index}: they are of an older state. \
         Nothing is served; begin the metadata nodes anew from the drives"
    )]
    DrivesAhead {
        /// The last entry that was applied here.
        index: Lsn,
        /// The last entry of the drives.
        drives: Lsn,
    },
    /// The metadata nodes' history and that of the drives are not the same any more: others were begun from the drives since.
    #[error(
        "the drives' journal has another entry at LSN {0} than these metadata nodes have agreed on: other metadata nodes were \
         begun from the drives since. Nothing is served; remove this one"
    )]
    DrivesDiffer(Lsn),
    /// This metadata node does not lead.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The state machine fails: the metadata node has to join anew.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The Raft log is damaged: the metadata node has to join anew.
    #[error(transparent)]
    Log(RecordError),
    /// The certificates are of another cluster than the set-up.
    #[error("this set-up is that of cluster {ours}, and the certificate is of cluster {theirs}")]
    OtherCluster {
        /// The cluster of the set-up.
        ours: ClusterId,
        /// The certificate's.
        theirs: ClusterId,
    },
    /// A first start needs every node: one that is silent may have the drives that hold everything.
    #[error(
        "no drive has a register yet, and these storage nodes do not answer: {nodes}; a first start needs all of them"
    )]
    NodesSilent {
        /// Their names.
        nodes: String,
    },
    /// R18: the cluster is known here, every node answers, and their drives are fresh: they are others than they were.
    #[error("cluster {cluster} is known here, but none of the {drives} drives of its nodes has ever been written to")]
    RegistersGone {
        /// The cluster.
        cluster: ClusterId,
        /// How many drives the nodes have.
        drives: usize,
    },
    /// A first start needs every directory to be there and empty.
    #[error("first start: {path}: {state}")]
    NotEmpty {
        /// The directory.
        path: String,
        /// What it is.
        state: ProbedState,
    },
    /// The system did not let this process look at a drive. What is there is not known, and must not be taken for lost.
    #[error(
        "the drive at {path} can't be looked at: {source}; that says nothing of what it holds: {}, and start again",
        if .source.is_exhaustion() { "raise the limit of open files, or free memory" } else { "let this user read and write it" }
    )]
    Refused {
        /// Where it is.
        path: String,
        /// What the system said.
        source: DiskError,
    },
    /// No register on any drive, although the drives are not fresh.
    #[error("no drive has a readable ensemble register")]
    NoRegister,
    /// No drive can be opened.
    #[error("the drive at {path} can't be used: {reason}")]
    DriveUnusable {
        /// Where it is.
        path: String,
        /// Why.
        reason: String,
    },
    /// Too few drives for the geometry.
    #[error("geometry {geometry} needs at least {needed} drives, {drives} were given")]
    TooFewDrives {
        /// The geometry.
        geometry: Geometry,
        /// 1+m.
        needed: usize,
        /// Drives.
        drives: usize,
    },
    /// Another geometry than the one that was fixed at first start.
    #[error("the geometry was fixed as {fixed} at first start; {asked} was asked for")]
    GeometryDiffers {
        /// The fixed one.
        fixed: Geometry,
        /// What was asked for.
        asked: Geometry,
    },
    /// The drives of a first start can't keep the rule that is asked for.
    #[error(transparent)]
    Rule(#[from] RuleUnmet),
    /// No geometry can be had: its numbers, or the CPU, or the self-test.
    #[error(transparent)]
    Erasure(#[from] ErasureError),
    /// A connection to a storage node can't be made.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A drive can't be opened.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// A directory can't be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The drives can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The index can't be opened or rebuilt.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The index can't be brought up to the media.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The key does not unwrap this cluster's secrets, or can't be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The random source failed.
    #[error("the random source failed")]
    Random,
    /// R1: nothing can be numbered above it, and what is numbered below ranks as older than what is there.
    #[error(
        "epoch {highest} is named by a drive or the index, and no epoch follows it: it is forged or rotten; start without the \
         drive that names it"
    )]
    LastEpoch {
        /// The highest that was found.
        highest: Epoch,
    },
    /// The first entries of this start were refused or not made durable.
    #[error("the start could not be journaled: {0}")]
    Journal(String),
    /// There is nothing to accept: the service can start as it is.
    #[error("there is no loss to accept")]
    NoLoss,
}

impl StartError {
    /// Whether it is this node's own state that can't be used (its index, its Raft log, its key): another metadata node, with
    /// its own, may be able to lead. What the drives lack every leader would lack.
    pub(crate) fn is_of_this_node(&self) -> bool {
        use StartError::{Index, Key, Log, Machine, Random, Replay};
        !self.is_too_old() && matches!(self, Machine(_) | Log(_) | Index(_) | Replay(_) | Key(_) | Random)
    }

    /// Whether this program is too old for what is there: a later release is to be started, and nothing else is wrong.
    pub fn is_too_old(&self) -> bool {
        let of_media = matches!(
            self,
            StartError::Read(ReadError::Later(_))
                | StartError::Replay(ReplayError::Later(_) | ReplayError::Unlisted(ReadError::Later(_)))
        );
        let of_drive = match self {
            StartError::Refused { source, .. }
            | StartError::Disk(source)
            | StartError::Drive(DriveError::Disk(source)) => source.is_newer(),
            _ => false,
        };
        let of_raft = matches!(self, StartError::Machine(MachineError::Later(_)));
        let of_entry = matches!(self, StartError::Replay(ReplayError::Apply(ApplyError::TooNew(_))));
        of_media || of_drive || of_raft || of_entry || matches!(self, StartError::TooNew(_))
    }
}

impl From<KvError> for StartError {
    fn from(error: KvError) -> Self {
        StartError::Index(error.into())
    }
}
