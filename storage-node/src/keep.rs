//! What keeping data asks of a node: checking what it stores, rebuilding what is lost, and giving space back. The values
//! and errors of the second half of [`NodeClient`](crate::client::NodeClient).
//!
//! A node reports what it found and does what it is told; which shards matter, and in which order, metadata decides.

use crate::client::{ReadError, WriteError};
use crate::remote::NodeAddress;
use codec::id::{DriveId, Epoch, Lsn, ShardId, StripeId};
use codec::stripe::StripeDescriptor;

/// What is wrong with a shard or a journal copy, as far as one node can tell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum FindingKind {
    /// It should be there, and is not.
    Missing,
    /// It is there, and its bytes do not verify.
    Damaged,
    /// The bytes verify, but as those of another place: a misdirected or swapped write.
    Misplaced,
    /// A shard of that name is there that belongs to another stripe of that id (R1).
    WrongGeneration,
    /// The drive answers with an error where it lies.
    Unreadable,
    /// The drive can't be asked at present. Not a loss: repair takes it for one only after a grace.
    Unreachable,
    /// Damage to something that nobody can name, because its header is gone with it.
    Unknown,
}

impl FindingKind {
    /// All kinds, for reports that list those that did not occur as well.
    pub const ALL: [FindingKind; 7] = [
        FindingKind::Missing,
        FindingKind::Damaged,
        FindingKind::Misplaced,
        FindingKind::WrongGeneration,
        FindingKind::Unreadable,
        FindingKind::Unreachable,
        FindingKind::Unknown,
    ];

    /// The name in reports, metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Missing => "missing",
            FindingKind::Damaged => "damaged",
            FindingKind::Misplaced => "misplaced",
            FindingKind::WrongGeneration => "wrong-generation",
            FindingKind::Unreadable => "unreadable",
            FindingKind::Unreachable => "unreachable",
            FindingKind::Unknown => "unknown",
        }
    }
}

/// What a finding is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Subject {
    /// A shard.
    Shard(ShardId),
    /// Journal entries of this range, inclusive.
    Entries(Lsn, Lsn),
    /// Blocks `start..end` of a segment whose records nobody can name.
    Blocks {
        /// The segment's number on the drive.
        segment: u64,
        /// The first block.
        start: u64,
        /// One past the last block.
        end: u64,
    },
}

/// Something that is not as it should be on one drive. It stays in the node's list until the same place verifies, the
/// shard is written again or freed, or its segment goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The drive.
    pub drive: DriveId,
    /// What it is about.
    pub subject: Subject,
    /// What is wrong.
    pub kind: FindingKind,
    /// When it was first found, in milliseconds since the Unix epoch; for people.
    pub found_ms: u64,
    /// More for the operator; never an object's content.
    pub detail: String,
}

/// How scrub reads what it verifies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Medium {
    /// O_DIRECT: from the drive.
    Direct,
    /// Cached pages are dropped before the read (`POSIX_FADV_DONTNEED`): from the drive as far as the system complies.
    Dropped,
}

/// What a drive's scrub is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubState {
    /// Nothing is due.
    Waiting,
    /// A pass, or a check of young shards, is under way.
    Running,
    /// An operator has paused it.
    Paused,
    /// The drive can't be read.
    Stopped,
}

/// A drive's scrub. Times are milliseconds since the Unix epoch; 0: never.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubStatus {
    /// The drive.
    pub drive: DriveId,
    /// What it does now.
    pub state: ScrubState,
    /// How it reads.
    pub medium: Medium,
    /// When the pass in progress, or the last one, began.
    pub pass_began_ms: u64,
    /// When the last whole pass ended.
    pub last_pass_ms: u64,
    /// Bytes of segments that the pass in progress has behind it.
    pub pass_bytes: u64,
    /// Bytes of segments on the drive.
    pub total_bytes: u64,
    /// Shards on the drive that were verified from the medium at least once.
    pub verified_shards: u64,
    /// Shards on the drive.
    pub shards: u64,
    /// When the shard that has waited longest was last verified, or written.
    pub oldest_ms: u64,
    /// Findings in the list, by kind, in the order of [`FindingKind::ALL`].
    pub findings: [u64; 7],
}

/// What an operator may tell scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubOrder {
    /// Begin a whole pass now, without waiting for the period; ends a pause.
    Start,
    /// Read nothing until told otherwise; survives restarts.
    Pause,
    /// End a pause.
    Resume,
}

/// When and with what result a shard was last verified from the medium.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// When it last verified, in milliseconds since the Unix epoch; 0: not since it was written.
    pub good_ms: u64,
    /// When it was written, or first indexed; 0 if that is not known.
    pub written_ms: u64,
    /// What is wrong with it, if something is.
    pub finding: Option<Finding>,
}

/// A shard of one stripe, and no other of that id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ShardRef {
    /// Its name.
    pub id: ShardId,
    /// `stripe_root` (R1).
    pub root: [u8; 32],
}

/// Rebuild shards of one stripe from the others. Executed by the node that takes them.
#[derive(Clone, PartialEq, Debug)]
pub struct RebuildOrder {
    /// The stripe.
    pub descriptor: StripeDescriptor,
    /// Where the shards that may be read lie, by index.
    pub sources: Vec<(u8, DriveId)>,
    /// Which shards are wanted, and where they are to be written. All with one read of the sources.
    pub targets: Vec<(u8, DriveId)>,
    /// Bytes per second that the order may read from one drive; 0: no limit.
    pub bytes_per_second: u64,
    /// Where the nodes of these drives are reached, as far as that is for who carries it out to be told: filled in on the way.
    pub at: Vec<(DriveId, NodeAddress)>,
}

/// What came of a [`RebuildOrder`] that succeeded: every target is durable and was read back from its medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rebuilt {
    /// Bytes read from sources.
    pub read: u64,
    /// Bytes written to targets.
    pub written: u64,
}

/// Why shards were not rebuilt. What was written of them is an orphan, and nothing else changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RebuildError {
    /// Fewer good sources than the code needs; `bad` are those that did not give verified bytes.
    #[error("stripe {stripe}: {good} of {needed} shards that are needed could be read")]
    TooFewSources {
        /// The stripe.
        stripe: StripeId,
        /// Shards that could be read and verified.
        good: usize,
        /// Shards that are needed.
        needed: usize,
        /// What was wrong with the others.
        bad: Vec<(u8, DriveId, ReadError)>,
    },
    /// A target did not take its shard: choose another drive.
    #[error("drive {drive} did not take shard {index}: {error}")]
    Target {
        /// The shard's index.
        index: u8,
        /// The drive.
        drive: DriveId,
        /// Why.
        error: WriteError,
    },
    /// A target took its shard and did not give it back: choose another drive, and look at this one.
    #[error("shard {index} did not read back from drive {drive}: {error:?}")]
    ReadBack {
        /// The shard's index.
        index: u8,
        /// The drive.
        drive: DriveId,
        /// What came instead; `None` for other bytes.
        error: Option<ReadError>,
    },
    /// What was decoded is not what the descriptor promises, although every source was verified: never written.
    #[error("stripe {0} decodes to other bytes than its descriptor names")]
    Inconsistent(StripeId),
    /// The order does not fit the stripe: a mistake of the caller.
    #[error("malformed order: {0}")]
    Malformed(&'static str),
}

/// Who orders a delete (R10): a node refuses one that comes from an older incarnation of metadata, or from one that
/// knows less, than the highest that it has seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Authority {
    /// The epoch of the start (or leader).
    pub epoch: Epoch,
    /// The last LSN that it had applied when it decided.
    pub lsn: Lsn,
}

/// What was freed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Freed {
    /// Shards that are gone now, those included that were not there.
    pub shards: u64,
    /// Bytes given back to the file system, or free once their segment goes.
    pub bytes: u64,
    /// Shards that were left alone, because what lies there is not what was named.
    pub refused: Vec<ShardId>,
}
