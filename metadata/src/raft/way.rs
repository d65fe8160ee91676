//! How Raft's calls travel: what [`Network`](super::Network) needs of whatever carries them.

use super::Peer;
use super::part::Refused;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;

/// What a way is for. Each purpose has its own: an order must not wait behind megabytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// Votes, heartbeats, and questions.
    Orders,
    /// Entries.
    Entries,
    /// Snapshots.
    Snapshots,
}

/// Why a call has no answer. What was asked may have been done all the same.
#[derive(Debug, thiserror::Error)]
pub enum WayError {
    /// The node does nothing with it, and says why.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// Nobody answers, or not in time.
    #[error("{0}")]
    Unreachable(String),
    /// The answer can't be read.
    #[error("{0}")]
    Unreadable(String),
}

/// A way to one node.
#[async_trait]
pub trait Way: Send + Sync {
    /// Makes the call `name` with these pieces, and returns its answer; no later than after `time`.
    async fn ask(
        &self,
        name: &'static str,
        pieces: BoxStream<'static, Bytes>,
        time: Duration,
    ) -> Result<Bytes, WayError>;
}

/// The ways to all nodes.
pub trait Ways: Send + Sync + 'static {
    /// The way to a node, which need not be there: whether it is shows when it is asked.
    fn to(&self, peer: &Peer, purpose: Purpose) -> Result<Arc<dyn Way>, WayError>;
}
