//! What metadata asks of those who serve drives, beside [`NodeClient`]: to begin, and to take drives up and put them down.
//!
//! [`StorageNode`] is such a host in the same process, [`RemoteNode`](crate::remote::RemoteNode) one in another, and
//! [`Nodes`](crate::remote::Nodes) many of them.

use crate::client::NodeClient;
use crate::drive::{DriveError, ProbedDrive};
use crate::leader::Leader;
use crate::node::StorageNode;
use crate::remote::{NodeAddress, RemoteError};
use crate::service::Release;
use crate::service::identity::NodeName;
use async_trait::async_trait;
use codec::id::{DriveId, Epoch};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

/// A node of another process, as it is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSight {
    /// Where it is reached.
    pub at: NodeAddress,
    /// Its number, as in [`DriveStatus::node`](crate::client::DriveStatus::node).
    pub number: u32,
    /// It did not answer when it was last asked, or was never asked.
    pub silent: bool,
    /// Why not, or what it refused, for people; empty otherwise.
    pub problem: String,
    /// Whoever is there has answered, and is not this node or can't be worked with: asking again changes nothing. `problem` says what.
    pub other: bool,
    /// When the latest question for its drives was asked that it has answered.
    pub answered: Option<Instant>,
    /// What program it runs; `None` while there is no connection to it.
    pub release: Option<Release>,
}

/// Epochs of one gateway that nodes are told, at most: several times what one has open that renews each hour. One that goes astray, or
/// whose certificate was stolen, and asks again and again, closes its own older ones and nobody else's: were they all told, it would
/// fill the list, and then nodes are told nothing.
const MOST_OF_ONE: usize = 64;

/// Which gateway may write in which epochs: those that were granted and are not fenced, of each gateway the newest 64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    epochs: Vec<(Epoch, String)>,
    version: u64,
    as_of: Epoch,
}

impl Grants {
    /// Epochs, each with the name of the gateway that it was granted to. `as_of`: the last epoch that had been granted to anybody
    /// before they were read. Each grant has a higher one, so it says which of two lists is older.
    pub fn new(mut epochs: Vec<(Epoch, String)>, as_of: Epoch) -> Grants {
        epochs.sort();
        let mut of_one: HashMap<String, usize> = HashMap::new();
        let mut newest: Vec<_> = epochs
            .into_iter()
            .rev()
            .filter(|(_, holder)| {
                let count = of_one.entry(holder.clone()).or_default();
                *count += 1;
                *count <= MOST_OF_ONE
            })
            .collect();
        newest.reverse();
        let epochs = newest;
        let mut hasher = blake3::Hasher::new();
        for (epoch, holder) in &epochs {
            hasher.update(&epoch.0.to_le_bytes()).update(holder.as_bytes()).update(&[0]);
        }
        let version = hasher.finalize().as_bytes().first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes)).max(1);
        Grants { epochs, version, as_of }
    }

    /// The epochs and their holders.
    pub fn epochs(&self) -> &[(Epoch, String)] {
        &self.epochs
    }

    /// The last epoch that had been granted to anybody before they were read.
    pub fn as_of(&self) -> Epoch {
        self.as_of
    }

    /// Another one for other epochs; never 0.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }
}

/// Serves drives, near or far.
#[async_trait]
pub trait NodeHost: NodeClient {
    /// Allows writes, in `epoch`. A drive that can't do this stays read-only, and a node that does not answer is told when it
    /// does; neither is an error. A node that follows a higher epoch is one ([`DriveError::NotBegun`]).
    async fn begin(&self, epoch: Epoch) -> Result<(), DriveError>;

    /// [`Self::begin`] by order of a metadata process, which the drives remember: none that was superseded leads them again.
    async fn begin_for(&self, leader: Leader) -> Result<(), DriveError> {
        self.begin(leader.epoch).await
    }

    /// A metadata process leads from now on: no drive takes orders of a leader before it has begun under this one
    /// ([`Self::begin_for`], which has to follow). An error: a process with a higher epoch leads ([`DriveError::NotBegun`]).
    fn led_by(&self, _leader: &Leader) -> Result<(), DriveError> {
        Ok(())
    }

    /// The leader with the highest epoch that any drive of this process follows.
    fn leader(&self) -> Option<Leader> {
        None
    }

    /// This process leads no more: no node is told to begin from now on, until [`Self::begin`]. Orders that are given all the same
    /// go out in the epoch that was begun, and are refused where another has begun.
    fn leave(&self) {}

    /// Tells who may write in which epochs, by order of the process that the node has begun for; nodes that don't answer within
    /// seconds are told when they do. Where the gateways are in this process there is nobody to tell.
    async fn granted(&self, _grants: Arc<Grants>) {}

    /// The highest epoch that any drive which answers has seen (R1), or in which its node was told to begin.
    async fn highest_epoch(&self) -> Option<Epoch>;

    /// Opens a drive again that has failed or takes no writes any more.
    async fn reopen(&self, drive: DriveId) -> Result<(), DriveError>;

    /// Adds a drive whose directory is on this machine; [`DriveError::Elsewhere`] where it is for another process to do.
    async fn add_drive(&self, probed: ProbedDrive) -> Result<(), DriveError>;

    /// A drive that is no drive of the cluster any more is not among [`drives`](NodeClient::drives) from now on.
    async fn forget_drive(&self, drive: DriveId) -> Result<(), DriveError>;

    /// Nothing more is asked: drives of this process are released, others stay as they are.
    async fn stop(&self);

    /// The nodes that did not answer when they were last asked for their drives: what they have is not known.
    fn silent(&self) -> Vec<String>;

    /// The nodes of other processes.
    fn nodes(&self) -> Vec<NodeSight> {
        Vec::new()
    }

    /// Speaks to exactly these nodes from now on. A node that serves its own drives, and a list that was given ready made, stay
    /// as they are.
    fn follow(&self, _list: &[NodeAddress]) -> Result<(), RemoteError> {
        Ok(())
    }

    /// These drives are on these nodes, as who gave an order knows; all others stay where they were.
    fn meet(&self, _at: &[(DriveId, NodeAddress)]) -> Result<(), RemoteError> {
        Ok(())
    }

    /// Has a node make a directory of its machine one of its drives, or open the drive that is there, in the place of
    /// `replaces` where one was. It has to be a directory that its own configuration names (R18). The drive is none of the
    /// cluster's before metadata registers it.
    async fn take_drive(
        &self,
        _node: &NodeName,
        path: &str,
        _replaces: Option<DriveId>,
    ) -> Result<DriveId, DriveError> {
        Err(DriveError::Elsewhere { path: path.to_owned() })
    }

    /// A node that has said, at any time since it was told to begin, that it follows a higher epoch
    /// ([`DriveError::NotBegun`]): another metadata process has taken over.
    fn superseded(&self) -> Option<DriveError> {
        None
    }
}

/// Which directories of a machine its node may make drives of.
#[async_trait]
pub trait DriveSource: Send + Sync + std::fmt::Debug {
    /// Looks at a directory that the node's configuration names, and formats it if it is empty and no drive was ever seen there
    /// but `replaces` (R18). `open`: the drives that are in use at other paths; a copy of one of them is refused.
    async fn take(&self, path: &str, replaces: Option<DriveId>, open: &[DriveId]) -> Result<ProbedDrive, DriveError>;
}

#[async_trait]
impl NodeHost for StorageNode {
    async fn begin(&self, epoch: Epoch) -> Result<(), DriveError> {
        StorageNode::begin(self, epoch).await
    }

    async fn begin_for(&self, leader: Leader) -> Result<(), DriveError> {
        StorageNode::begin_for(self, leader).await
    }

    fn led_by(&self, leader: &Leader) -> Result<(), DriveError> {
        StorageNode::led_by(self, leader)
    }

    fn leader(&self) -> Option<Leader> {
        StorageNode::leader(self)
    }

    async fn highest_epoch(&self) -> Option<Epoch> {
        StorageNode::highest_epoch(self)
    }

    async fn reopen(&self, drive: DriveId) -> Result<(), DriveError> {
        StorageNode::reopen(self, drive).await
    }

    async fn add_drive(&self, probed: ProbedDrive) -> Result<(), DriveError> {
        StorageNode::add_drive(self, probed).await
    }

    async fn forget_drive(&self, drive: DriveId) -> Result<(), DriveError> {
        StorageNode::forget_drive(self, drive).await
    }

    async fn stop(&self) {
        StorageNode::stop(self).await;
    }

    fn silent(&self) -> Vec<String> {
        Vec::new()
    }
}
