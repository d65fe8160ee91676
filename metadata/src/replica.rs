//! One metadata node as those who ask it see it: whether it leads, and the service that it leads with.
//!
//! Who asks a node that does not lead is told so, with the leader's address where it is known ([`NotLeading`]), and asks there.

use crate::raft::{Member, Peer};
use crate::service::Metadata;
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;

mod run;
#[cfg(test)]
mod tests;

pub use run::Replica;

/// This node does not lead, or can't show that it still does. Nothing was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct NotLeading {
    /// Who does, as far as this node knows.
    pub leader: Option<Peer>,
}

impl fmt::Display for NotLeading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.leader {
            Some(leader) => write!(f, "this metadata node does not lead; {leader} does"),
            None => f.write_str("no metadata node leads at present, as far as this one knows"),
        }
    }
}

/// A metadata node that may or may not lead.
#[async_trait]
pub trait Leading: Send + Sync {
    /// The service, while this node leads and has begun it.
    fn serving(&self) -> Result<Arc<Metadata>, NotLeading>;

    /// Returns once this node is known to have led after the call: a read of the service's index that begins after that sees
    /// all that was acknowledged before the call.
    async fn linearizable(&self) -> Result<(), NotLeading>;

    /// This node's Raft; `None` where the process is all of metadata.
    fn member(&self) -> Option<Arc<Member>>;
}

/// A process that is all of metadata: it always leads.
#[derive(Debug)]
pub struct Alone(pub Arc<Metadata>);

#[async_trait]
impl Leading for Alone {
    fn serving(&self) -> Result<Arc<Metadata>, NotLeading> {
        Ok(self.0.clone())
    }

    async fn linearizable(&self) -> Result<(), NotLeading> {
        Ok(())
    }

    fn member(&self) -> Option<Arc<Member>> {
        None
    }
}
