//! Raft's types as Protocol Buffers: the rows of the log on disk, and the messages between metadata nodes.
//!
//! Field numbers are never used again for something else. A message that does not make a value is refused, never guessed (R17).

use super::{Peer, Proposal, RaftTypes};
use bytes::Bytes;
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Membership, Vote};
use prost::{Message, Oneof};
use std::collections::{BTreeMap, BTreeSet};

/// A position in the log, and which leader wrote it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogIdMessage {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub node: u64,
    #[prost(uint64, tag = "3")]
    pub index: u64,
}

/// Whom a node voted for, and whether a majority did.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoteMessage {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub node: u64,
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

/// Who votes: one set, or two while it changes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MembershipMessage {
    #[prost(message, repeated, tag = "1")]
    pub voters: Vec<VoterSet>,
    #[prost(message, repeated, tag = "2")]
    pub nodes: Vec<NodeMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoterSet {
    #[prost(uint64, repeated, tag = "1")]
    pub ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeMessage {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(string, tag = "3")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EntryMessage {
    #[prost(message, optional, tag = "1")]
    pub at: Option<LogIdMessage>,
    #[prost(oneof = "PayloadMessage", tags = "2, 3, 4")]
    pub payload: Option<PayloadMessage>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum PayloadMessage {
    /// A new leader's first entry; the value says nothing.
    #[prost(bool, tag = "2")]
    Blank(bool),
    #[prost(bytes = "bytes", tag = "3")]
    Proposal(Bytes),
    #[prost(message, tag = "4")]
    Membership(MembershipMessage),
}

impl From<LogId<u64>> for LogIdMessage {
    fn from(id: LogId<u64>) -> Self {
        LogIdMessage { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<LogIdMessage> for LogId<u64> {
    fn from(id: LogIdMessage) -> Self {
        LogId::new(CommittedLeaderId::new(id.term, id.node), id.index)
    }
}

impl From<Vote<u64>> for VoteMessage {
    fn from(vote: Vote<u64>) -> Self {
        VoteMessage { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<VoteMessage> for Vote<u64> {
    fn from(vote: VoteMessage) -> Self {
        let VoteMessage { term, node, committed } = vote;
        if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) }
    }
}

impl From<&Membership<u64, Peer>> for MembershipMessage {
    fn from(membership: &Membership<u64, Peer>) -> Self {
        let set = |ids: &BTreeSet<u64>| VoterSet { ids: ids.iter().copied().collect() };
        let node =
            |(id, peer): (&u64, &Peer)| NodeMessage { id: *id, address: peer.address.clone(), name: peer.name.clone() };
        MembershipMessage {
            voters: membership.get_joint_config().iter().map(set).collect(),
            nodes: membership.nodes().map(node).collect(),
        }
    }
}

impl MembershipMessage {
    /// `None` when a voter is not among the nodes: nobody could reach it.
    pub fn into_membership(self) -> Option<Membership<u64, Peer>> {
        let peer = |node: NodeMessage| (node.id, Peer { address: node.address, name: node.name });
        let nodes: BTreeMap<u64, Peer> = self.nodes.into_iter().map(peer).collect();
        let voters: Vec<BTreeSet<u64>> = self.voters.into_iter().map(|set| set.ids.into_iter().collect()).collect();
        let known = voters.iter().flatten().all(|id| nodes.contains_key(id));
        known.then(|| Membership::new(voters, nodes))
    }
}

impl From<&Entry<RaftTypes>> for EntryMessage {
    fn from(entry: &Entry<RaftTypes>) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => PayloadMessage::Blank(true),
            EntryPayload::Normal(proposal) => PayloadMessage::Proposal(proposal.entry.clone()),
            EntryPayload::Membership(membership) => PayloadMessage::Membership(membership.into()),
        };
        EntryMessage { at: Some(entry.log_id.into()), payload: Some(payload) }
    }
}

impl EntryMessage {
    /// `None` when a field is missing.
    pub fn into_entry(self) -> Option<Entry<RaftTypes>> {
        let payload = match self.payload? {
            PayloadMessage::Blank(_) => EntryPayload::Blank,
            PayloadMessage::Proposal(entry) => EntryPayload::Normal(Proposal { entry }),
            PayloadMessage::Membership(membership) => EntryPayload::Membership(membership.into_membership()?),
        };
        Some(Entry { log_id: self.at?.into(), payload })
    }
}

/// An entry of the Raft log as bytes.
pub fn encode_entry(entry: &Entry<RaftTypes>) -> Vec<u8> {
    EntryMessage::from(entry).encode_to_vec()
}

/// An entry of the Raft log from bytes of [`encode_entry`]; `None` if they are not such bytes.
pub fn decode_entry(bytes: Bytes) -> Option<Entry<RaftTypes>> {
    EntryMessage::decode(bytes).ok()?.into_entry()
}
