//! What metadata asks of those who serve drives, beside [`NodeClient`]: to begin, and to take drives up and put them down.
//!
//! [`StorageNode`] is such a host in the same process, [`RemoteNode`](crate::remote::RemoteNode) one in another, and
//! [`Nodes`](crate::remote::Nodes) many of them.

use crate::client::NodeClient;
use crate::drive::{DriveError, ProbedDrive};
use crate::node::StorageNode;
use async_trait::async_trait;
use codec::id::{DriveId, Epoch};

/// Serves drives, near or far.
#[async_trait]
pub trait NodeHost: NodeClient {
    /// Allows writes, in `epoch`. A drive that can't do this stays read-only, and a node that does not answer is told when it
    /// does; neither is an error. A node that follows a higher epoch is one ([`DriveError::NotBegun`]).
    async fn begin(&self, epoch: Epoch) -> Result<(), DriveError>;

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
}

#[async_trait]
impl NodeHost for StorageNode {
    async fn begin(&self, epoch: Epoch) -> Result<(), DriveError> {
        StorageNode::begin(self, epoch).await
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
