//! Rows of the cluster itself: its settings, epochs, format level and clock, and how far its journal is sealed.

use super::StripeName;
use bytes::Bytes;
use prost::Message;

/// A journaled setting.
#[derive(Clone, PartialEq, Message)]
pub struct SettingRow {
    /// Its name, such as `geometry`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// A granted epoch.
#[derive(Clone, PartialEq, Message)]
pub struct EpochRow {
    /// The epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Every earlier epoch than this one is fenced. 0: every earlier one than `epoch`.
    #[prost(uint64, tag = "2")]
    pub open_from: u64,
    /// The epoch of the journal that this start writes, when it is not `epoch` itself: granted, and nobody writes stripes in it.
    /// 0: it is, or this is no start.
    #[prost(uint64, tag = "3")]
    pub journal: u64,
}

/// An epoch that was granted to a gateway, which numbers its stripes in it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GrantRow {
    /// The epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// The gateway's name, for people.
    #[prost(string, tag = "2")]
    pub holder: String,
    /// Every earlier epoch than this one is fenced.
    #[prost(uint64, tag = "3")]
    pub open_from: u64,
}

/// The cluster's format level.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LevelRow {
    /// [`FormatLevel`](crate::level::FormatLevel).
    #[prost(uint32, tag = "1")]
    pub level: u32,
    /// The release that raised it, which is the oldest that is known to serve at it; for people.
    #[prost(string, tag = "2")]
    pub by: String,
}

/// A tick of the retention clock (R15).
#[derive(Clone, PartialEq, Message)]
pub struct ClockTick {
    /// Milliseconds since the Unix epoch by the retention clock.
    #[prost(uint64, tag = "1")]
    pub retention_ms: u64,
    /// Milliseconds of catch-up after time off that were used in this year of the retention clock.
    #[prost(uint64, tag = "2")]
    pub caught_up_ms: u64,
    /// Milliseconds that the cluster has served since its first start: no time off, no catch-up. Graces before a delete are
    /// counted on it (R11). 0 in ticks from before there was this count.
    #[prost(uint64, tag = "3")]
    pub steady_ms: u64,
}

/// Entries that were sealed.
#[derive(Clone, PartialEq, Message)]
pub struct SealedRow {
    /// The first LSN.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// The last LSN.
    #[prost(uint64, tag = "2")]
    pub last: u64,
    /// The ledger stripes that hold them, in LSN order.
    #[prost(message, repeated, tag = "3")]
    pub stripes: Vec<StripeName>,
    /// The hash of entry `last`, which the next entry names as its predecessor.
    #[prost(bytes = "bytes", tag = "4")]
    pub last_hash: Bytes,
}

/// A loss that an operator accepted.
#[derive(Clone, PartialEq, Message)]
pub struct AcceptedLossRow {
    /// The last LSN that was kept.
    #[prost(uint64, tag = "1")]
    pub kept: u64,
    /// The last LSN that is known to have existed.
    #[prost(uint64, tag = "2")]
    pub known: u64,
}

/// A checkpoint of the index.
#[derive(Clone, PartialEq, Message)]
pub struct CheckpointRow {
    /// The last entry that it reflects.
    #[prost(uint64, tag = "1")]
    pub lsn: u64,
    /// How many rows it has.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// The stripes that hold it, in order.
    #[prost(message, repeated, tag = "3")]
    pub stripes: Vec<StripeName>,
}
