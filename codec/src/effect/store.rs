//! Rows of what is stored and where: chunks, stripes, drives and nodes.

use crate::id::{ChunkId, DriveId, Epoch, Lsn, StripeId};
use bytes::Bytes;
use prost::Message;

/// Names a chunk.
#[derive(Clone, PartialEq, Message)]
pub struct ChunkName {
    /// [`ChunkId`].
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
}

/// A chunk's state (R11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ChunkState {
    /// Not a state: a row that says so is damaged.
    Unspecified = 0,
    /// May be referenced; a dedup hit.
    Live = 1,
    /// Unreferenced by count. A commit that needs it revives it.
    Condemned = 2,
}

/// A chunk.
#[derive(Clone, PartialEq, Message)]
pub struct ChunkRow {
    /// [`ChunkId`].
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// The dedup domain.
    #[prost(uint64, tag = "2")]
    pub domain: u64,
    /// Plaintext length, in bytes.
    #[prost(uint32, tag = "3")]
    pub plain_len: u32,
    /// Where the frame is.
    #[prost(message, optional, tag = "4")]
    pub place: Option<Place>,
    /// Live or Condemned.
    #[prost(enumeration = "ChunkState", tag = "5")]
    pub state: i32,
    /// How many manifests (of versions, parts and manifest chunks) name it: a hint, marks are the authority (R11).
    #[prost(uint64, tag = "6")]
    pub refs: u64,
    /// The LSN of the condemnation; 0 while Live.
    #[prost(uint64, tag = "7")]
    pub condemned_lsn: u64,
    /// A manifest chunk: its plaintext lists other chunks, each of which it holds one reference to.
    #[prost(bool, tag = "8")]
    pub is_manifest: bool,
}

/// Where a frame lies.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Place {
    /// Stripe: [`StripeId`] epoch. Zero (with `counter` zero) when the frame rides in the journal.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Stripe: counter.
    #[prost(uint64, tag = "2")]
    pub counter: u64,
    /// Stripe: index of the data shard.
    #[prost(uint32, tag = "3")]
    pub shard: u32,
    /// Journal: the LSN of the entry. Zero when the frame lies in a stripe.
    #[prost(uint64, tag = "4")]
    pub lsn: u64,
    /// Offset in the shard's payload, or in the entry's bytes, of the frame's first byte.
    #[prost(uint32, tag = "5")]
    pub offset: u32,
    /// Length of the frame, header included.
    #[prost(uint32, tag = "6")]
    pub len: u32,
}

impl Place {
    /// A place in a stripe.
    pub fn in_stripe(stripe: StripeId, shard: u8, offset: u32, len: u32) -> Place {
        Place { epoch: stripe.epoch.0, counter: stripe.counter, shard: u32::from(shard), lsn: 0, offset, len }
    }

    /// A place in the journal.
    pub fn in_journal(lsn: Lsn, offset: u32, len: u32) -> Place {
        Place { epoch: 0, counter: 0, shard: 0, lsn: lsn.0, offset, len }
    }

    /// The stripe, unless the frame rides in the journal.
    pub fn stripe(&self) -> Option<StripeId> {
        (self.lsn == 0).then_some(StripeId { epoch: Epoch(self.epoch), counter: self.counter })
    }

    /// The journal LSN, if the frame rides there.
    pub fn lsn(&self) -> Option<Lsn> {
        (self.lsn != 0).then_some(Lsn(self.lsn))
    }
}

/// Names a stripe.
#[derive(Clone, PartialEq, Message)]
pub struct StripeName {
    /// The epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// The counter.
    #[prost(uint64, tag = "2")]
    pub counter: u64,
}

/// A stripe and the drives that its shards lie on.
#[derive(Clone, PartialEq, Message)]
pub struct StripeRow {
    /// `codec::stripe::StripeDescriptor` bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub descriptor: Bytes,
    /// For each shard index `0..k+m` the 16 bytes of a [`DriveId`]; empty where the descriptor's presence bit is 0.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub drives: Vec<Bytes>,
}

/// A stripe that is gone from the index, and whose shards are still to be freed. No effect: a row that follows from
/// [`EffectKind::DeleteStripe`].
#[derive(Clone, PartialEq, Message)]
pub struct DroppedRow {
    /// The LSN of the entry that dropped it.
    #[prost(uint64, tag = "1")]
    pub lsn: u64,
    /// Its row, as it was.
    #[prost(message, optional, tag = "2")]
    pub stripe: Option<StripeRow>,
}

/// A drive's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum DriveState {
    /// Not a state.
    Unspecified = 0,
    /// Takes new shards.
    Active = 1,
    /// Is being emptied.
    Draining = 2,
    /// Will not come back.
    Removed = 3,
}

/// A registered drive.
#[derive(Clone, PartialEq, Message)]
pub struct DriveRow {
    /// [`DriveId`].
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// Its state.
    #[prost(enumeration = "DriveState", tag = "2")]
    pub state: i32,
    /// The node that serves it; 0 on a single machine.
    #[prost(uint32, tag = "3")]
    pub node: u32,
    /// Where it was last seen, for people.
    #[prost(string, tag = "4")]
    pub path: String,
    /// The rack that its node stands in, as the node's configuration says; empty: it does not say.
    #[prost(string, tag = "5")]
    pub rack: String,
    /// The site of that rack; empty: it does not say.
    #[prost(string, tag = "6")]
    pub site: String,
    /// The placement cell that it belongs to: the shards of a stripe lie in one cell.
    #[prost(uint32, tag = "7")]
    pub cell: u32,
}

/// A storage node's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum NodeState {
    /// Not a state.
    Unspecified = 0,
    /// Its drives take new shards, each as its own row says.
    Active = 1,
    /// Its drives are being emptied, and no drive of it is taken in.
    Draining = 2,
    /// It does not belong to the cluster any more. One that is added again is the same node.
    Removed = 3,
}

/// A storage node. Its drives are known by themselves, wherever they are.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NodeRow {
    /// Its name, as in its certificate.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where it is reached, `host:port`.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Its state.
    #[prost(enumeration = "NodeState", tag = "3")]
    pub state: i32,
}

impl ChunkRow {
    /// The id; `None` when the row is damaged.
    pub fn chunk_id(&self) -> Option<ChunkId> {
        ChunkId::from_slice(&self.id)
    }
}

impl StripeRow {
    /// The drive of shard `index`; `None` where the stripe has no such shard or the row is damaged.
    pub fn drive(&self, index: u8) -> Option<DriveId> {
        DriveId::from_slice(self.drives.get(usize::from(index))?)
    }
}
