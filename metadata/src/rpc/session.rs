//! What a gateway needs to know to place and to write stripes by itself, and to say how the cluster is.

use super::message::SessionMessage;
use crate::index::{self, IndexError, Overlay};
use crate::nodes::{self, address, row};
use crate::service::Metadata;
use crate::topology::{Level, Topology};
use bytes::Bytes;
use codec::effect::{DriveRow, NodeState};
use codec::erasure::Geometry;
use codec::id::{DriveId, Lsn};
use codec::level::FormatLevel;
use std::collections::BTreeSet;
use storage_node::client::DriveStatus;
use storage_node::remote::NodeAddress;

/// A state of the cluster, some seconds old at most. It steers where new stripes go; what is true only the commit says.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// The cluster's geometry.
    pub geometry: Geometry,
    /// The target for a shard's payload, in bytes.
    pub shard_target: u32,
    /// Why only reads are served; `None` while writes are.
    pub read_only: Option<String>,
    /// The last entry that is applied.
    pub applied: Lsn,
    /// The last entry that is sealed.
    pub sealed: Lsn,
    /// The journal's ensemble.
    pub ensemble: Vec<DriveId>,
    /// All registered drives.
    pub drives: Vec<DriveRow>,
    /// Drives that are slow and get no new shards.
    pub spared: BTreeSet<DriveId>,
    /// The storage nodes; none where the drives are directories of metadata's own machine.
    pub nodes: Vec<NodeAddress>,
    /// What new stripes have to survive the loss of.
    pub survive: Level,
    /// What the placement survives, for people.
    pub survives: String,
    /// What it does not, for people.
    pub warnings: Vec<String>,
    /// The last entry that was lost where the loss was accepted; 0 where none was. What was known before another one is
    /// perhaps not so any more.
    pub lost: Lsn,
    /// The format level. A gateway that has not heard of a raise yet writes what the level before it allowed, which everybody reads.
    pub level: FormatLevel,
}

impl Session {
    /// The drives as placement sees them, where the storage nodes say this of them.
    pub(crate) fn topology(&self, status: &[DriveStatus]) -> Topology {
        let full = usize::from(self.geometry.k()) + usize::from(self.geometry.m());
        Topology::new(&self.drives, status).surviving(self.survive).without(&self.spared).without_stalled(
            status,
            self.ensemble.len().max(1),
            full,
        )
    }

    pub(crate) fn to_message(&self) -> SessionMessage {
        let bytes = |id: &DriveId| Bytes::copy_from_slice(id.as_bytes());
        SessionMessage {
            geometry: self.geometry.to_string(),
            shard_target: self.shard_target,
            read_only: self.read_only.clone(),
            applied: self.applied.0,
            sealed: self.sealed.0,
            ensemble: self.ensemble.iter().map(bytes).collect(),
            drives: self.drives.clone(),
            spared: self.spared.iter().map(bytes).collect(),
            nodes: self.nodes.iter().map(|at| row(at, NodeState::Active)).collect(),
            survive: self.survive.to_string(),
            warnings: self.warnings.clone(),
            survives: self.survives.clone(),
            lost: self.lost.0,
            level: self.level.0,
            ..SessionMessage::default()
        }
    }

    /// What an answer says to one that knew `before`, of this mark; `None`: nothing that this version understands.
    pub(crate) fn of_answer(message: SessionMessage, before: Option<(&Session, &Bytes)>) -> Option<Session> {
        if !message.same {
            return Session::of_message(message);
        }
        let (before, _) = before.filter(|(_, mark)| !mark.is_empty() && **mark == message.mark)?;
        Some(Session { applied: Lsn(message.applied), sealed: Lsn(message.sealed), ..before.clone() })
    }

    /// `None`: no session that this version understands.
    pub(crate) fn of_message(message: SessionMessage) -> Option<Session> {
        let drives = |ids: &[Bytes]| ids.iter().map(|id| DriveId::from_slice(id)).collect::<Option<Vec<_>>>();
        Some(Session {
            geometry: message.geometry.parse().ok()?,
            shard_target: message.shard_target,
            read_only: message.read_only,
            applied: Lsn(message.applied),
            sealed: Lsn(message.sealed),
            ensemble: drives(&message.ensemble)?,
            spared: drives(&message.spared)?.into_iter().collect(),
            drives: message.drives,
            nodes: message.nodes.iter().map(address).collect::<Option<_>>()?,
            survive: message.survive.parse().ok()?,
            survives: message.survives,
            warnings: message.warnings,
            lost: Lsn(message.lost),
            // A metadata node from before there were levels says none.
            level: FormatLevel(message.level).max(FormatLevel::BEFORE),
        })
    }
}

impl Metadata {
    /// What a gateway needs to know now.
    pub(crate) fn session(&self) -> Result<Session, IndexError> {
        let view = Overlay::new(&**self.kv());
        let status = crate::client::MetadataClient::status(self);
        let read_only = (status.mode != crate::client::Mode::Serving).then_some(status.reason);
        Ok(Session {
            geometry: status.geometry,
            shard_target: self.shard_target(),
            read_only,
            applied: status.applied,
            sealed: status.sealed,
            ensemble: status.ensemble,
            drives: index::drives(&view)?,
            spared: self.spared(),
            nodes: nodes::list(&view)?,
            survive: index::survive(&view)?,
            survives: status.survives,
            warnings: status.warnings,
            lost: Lsn(index::accepted_losses(&view)?.iter().map(|loss| loss.known).max().unwrap_or(0)),
            level: self.format_level(),
        })
    }
}
