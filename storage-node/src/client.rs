//! What a node does for others: the [`NodeClient`] trait, its values and its errors.
//!
//! The in-process implementation is [`crate::node::StorageNode`]; a network client implements the same trait.
//! A node plans nothing: it writes what it is given, reads what it is asked for, and verifies both.

use crate::keep::{
    Authority, Finding, Freed, RebuildError, RebuildOrder, Rebuilt, ScrubOrder, ScrubStatus, ShardRef, Subject,
    Verified,
};
use async_trait::async_trait;
use bytes::Bytes;
use codec::id::{DriveId, Epoch, Lsn, ShardId};
use codec::journal::{BatchHeader, Entry};
use codec::segment::JournalHead;
use codec::shard::ShardHeader;
use codec::stripe::StripeClass;
use std::ops::Range;
use std::time::Duration;

/// Who may use the space that is kept back (R14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reserve {
    /// A client's bytes: refused with [`WriteError::Full`] rather than eat into the reserve.
    Client,
    /// Rewriting stripes to get space back: may take the reserve down to what repair and the journal are to find there.
    Restripe,
    /// The journal, the ledger, repair and sealing: may use the reserve, so that deletes work on a full cluster.
    Metadata,
}

/// Whether a drive takes writes and answers reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DriveHealth {
    /// Reads and writes.
    Healthy,
    /// Reads only (R6: a second failed write or sync; or the node was opened without [`begin`](crate::node::StorageNode::begin)).
    ReadOnly {
        /// Why, for the operator.
        reason: String,
    },
    /// Neither: the directory is gone, replaced, or the drive could not be opened.
    Failed {
        /// Why, for the operator.
        reason: String,
    },
}

/// Longest name of a rack or a site, in bytes.
const MAX_LABEL: usize = 63;

/// What is no name of a rack or a site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rack or a site has a name of at most {MAX_LABEL} letters, digits, '-', '_' and '.'")]
pub struct LabelError;

/// Where a node stands: what its drives fail together with, beside itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    rack: String,
    site: String,
}

impl Labels {
    /// Labels of a node; an empty name says nothing.
    ///
    /// # Errors
    /// A name that can't be shown, or is long.
    pub fn new(rack: impl Into<String>, site: impl Into<String>) -> Result<Labels, LabelError> {
        let (rack, site) = (rack.into(), site.into());
        let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        let shown = [&rack, &site].into_iter().all(|name| name.len() <= MAX_LABEL && name.bytes().all(good));
        if shown { Ok(Labels { rack, site }) } else { Err(LabelError) }
    }

    /// The rack, which is one of its site; empty: not said.
    pub fn rack(&self) -> &str {
        &self.rack
    }

    /// The site; empty: not said.
    pub fn site(&self) -> &str {
        &self.site
    }
}

/// A drive as its node sees it now.
#[derive(Clone, Debug)]
pub struct DriveStatus {
    /// Its identity.
    pub id: DriveId,
    /// Its node, among those of the cluster: what fails together. 0 where there is one node, in the same process.
    pub node: u32,
    /// Where its node stands.
    pub labels: Labels,
    /// Where it is, for people.
    pub path: String,
    /// Whether it can be used.
    pub health: DriveHealth,
    /// Size of its file system, in bytes; 0 when it can't be asked.
    pub total: u64,
    /// Bytes that a client's frames may still take: free bytes without what is missing in the reserve (R14).
    pub free: u64,
    /// Tells which drives share a file system.
    pub filesystem_id: u64,
    /// Bytes of the physically allocated reserve that are left (R14).
    pub reserve: u64,
    /// Data segments on the drive.
    pub data_segments: u64,
    /// Journal segments on the drive.
    pub journal_segments: u64,
    /// Records or runs of blocks that are known to be damaged.
    pub damaged: u64,
    /// What 99 of 100 recent reads of shards, or of 100 recent groups of writes, did not exceed, whichever is worse, in
    /// milliseconds; `None` while there were too few.
    pub p99_ms: Option<u32>,
    /// Failed reads and writes, and reads of bytes that did not verify, since the drive was opened.
    pub errors: u64,
    /// How often the node has opened the drive since it started. One that was away and is back has a higher number than
    /// before, also for those who did not look while it was away: what it holds may have changed meanwhile.
    pub opened: u32,
    /// How long the oldest of the operations that the drive was asked for has waited, in milliseconds; 0: none waits.
    pub unanswered_ms: u64,
}

/// A drive that lets an operation wait for so long is stalled: none that works does, but one that tries hard to read a bad
/// sector may. It is no place for new shards as far as others will do, and is not waited for by who can read elsewhere.
pub const STALLED_AFTER: Duration = Duration::from_secs(5);

impl DriveStatus {
    /// Whether the drive lets an operation wait for longer than `limit`.
    pub fn waits(&self, limit: Duration) -> bool {
        u128::from(self.unanswered_ms) >= limit.as_millis()
    }
}

/// A journal segment, as found on a drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalSegmentInfo {
    /// Its number on the drive.
    pub number: u64,
    /// Its ensemble and first LSN.
    pub head: JournalHead,
    /// The epoch in which the segment was begun.
    pub epoch: Epoch,
    /// The LSN of the first entry that it holds; `None` while it is empty.
    pub first: Option<Lsn>,
    /// The LSN of the last entry that it holds.
    pub last: Option<Lsn>,
    /// The epoch of the last entry.
    pub last_epoch: Option<Epoch>,
    /// Nothing will be appended to it any more.
    pub closed: bool,
    /// Bytes up to its logical end, headers included.
    pub bytes: u64,
    /// Damaged places below the known barrier.
    pub damaged: u64,
}

/// A place in a segment whose bytes can't be believed although they had been synced: bit rot, never a torn tail (R7).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The segment's number on the drive.
    pub segment: u64,
    /// The first damaged block.
    pub block: u64,
    /// One past the last block that is lost with it.
    pub end_block: u64,
    /// What lay there, as far as a header still says.
    pub what: Lost,
}

/// What a damaged place held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lost {
    /// The header is gone: one record or more, nobody knows which.
    Unknown,
    /// This shard.
    Shard(ShardId),
    /// Journal entries of this range, inclusive.
    Entries(Lsn, Lsn),
    /// The segment's own header: the whole segment can't be read.
    Segment,
}

/// How a scan of a journal segment ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScanEnd {
    /// There is more: scan again from this LSN.
    More(Lsn),
    /// The last record was followed by nothing.
    Clean,
    /// Bytes after the last record are no record: writes that were never acknowledged.
    TornTail {
        /// The first block of the torn tail.
        block: u64,
    },
    /// Damage below the known barrier was met; entries after it, if any, were still returned.
    Damaged {
        /// The first damaged place.
        block: u64,
        /// The known barrier: everything below had been synced.
        barrier: u64,
    },
}

/// Entries of a journal segment.
#[derive(Clone, Debug)]
pub struct JournalScan {
    /// In LSN order, each verified. After a damaged place their LSNs have a gap.
    pub entries: Vec<Entry>,
    /// Where the scan stopped, and why.
    pub end: ScanEnd,
}

/// Why a write was not done. After any of these, nothing was acknowledged and nothing counts as written.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WriteError {
    /// The write or its sync failed, or the drive is gone. Choose another drive.
    #[error("drive {drive} failed: {reason}")]
    DriveFailed {
        /// The drive.
        drive: DriveId,
        /// What happened, for the operator.
        reason: String,
    },
    /// The drive takes no writes any more (R6), or the node has not begun. Choose another drive.
    #[error("drive {drive} is read-only: {reason}")]
    ReadOnly {
        /// The drive.
        drive: DriveId,
        /// Why.
        reason: String,
    },
    /// No space outside the reserve (R14), or none at all. Choose another drive; no fault of the drive.
    #[error("drive {drive} is full")]
    Full {
        /// The drive.
        drive: DriveId,
    },
    /// The writer's epoch is fenced.
    #[error("the writer's epoch is fenced")]
    Fenced,
    /// This node has no such drive.
    #[error("no drive {0} here")]
    UnknownDrive(DriveId),
    /// The record is larger than a segment can take.
    #[error("a record of {len} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// The payload's length.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// A journal batch that does not continue its segment, or one without an open segment: a mistake of the caller.
    #[error("journal batch begins at LSN {got}, expected {expected:?}")]
    OutOfOrder {
        /// The LSN that the open segment continues with; `None` without an open segment.
        expected: Option<Lsn>,
        /// The batch's first LSN.
        got: Lsn,
    },
    /// A shard of that name is there, or is just being written, and it belongs to a stripe with another root: an id that was
    /// used twice (R1). What is there stays.
    #[error("the shard's id belongs to another stripe")]
    WrongStripe,
    /// The header and the payload do not belong together: a mistake of the caller.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    /// A delete that comes from an older state of metadata than one that was carried out before (R10).
    #[error("drive {drive} has freed for epoch {} and LSN {}, and this order is older", seen.epoch, seen.lsn)]
    OldAuthority {
        /// The drive.
        drive: DriveId,
        /// The highest epoch and the highest LSN that were seen.
        seen: Authority,
    },
    /// There is no such journal segment, or it is still open.
    #[error("journal segment {0} can't be freed")]
    NotFreeable(u64),
    /// The node can't be reached, or is stopping.
    #[error("the node is not reachable")]
    Unreachable,
}

/// Why bytes were not returned. Never wrong bytes instead (R2, R17).
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// The node does not hold it, as far as its index and maps say.
    #[error("not found")]
    NotFound,
    /// The range is outside the shard's or the entry's bytes.
    #[error("range {start}..{end} is outside {len} bytes")]
    OutOfRange {
        /// First byte asked for.
        start: u32,
        /// One past the last byte asked for.
        end: u32,
        /// What there is.
        len: u64,
    },
    /// It is there, and its bytes do not verify.
    #[error("damaged: segment {segment}, block {block}")]
    Damaged {
        /// The segment's number.
        segment: u64,
        /// The first block that does not verify.
        block: u64,
    },
    /// A shard of that name is there, but it belongs to a stripe with another root (R1).
    #[error("the shard belongs to another stripe of that id")]
    WrongStripe,
    /// The drive is gone or does not answer.
    #[error("drive {drive} failed: {reason}")]
    DriveFailed {
        /// The drive.
        drive: DriveId,
        /// What happened.
        reason: String,
    },
    /// This node has no such drive.
    #[error("no drive {0} here")]
    UnknownDrive(DriveId),
    /// The node can't be reached, or is stopping.
    #[error("the node is not reachable")]
    Unreachable,
    /// It is there and as good as ever, and a later release wrote it. To take it for damage would lose it (R16).
    #[error("{0}")]
    Later(String),
}

/// How long one write to one drive may take before the drive counts as failed for it. A drive that is retrying a bad
/// sector answers within some ten seconds, if at all (consumer drives take up to seven, and then try again), and a
/// full group of writes on a slow disk with a deep queue takes a few; a client waits for a minute.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(20);

/// Waits for a write to a drive, but no longer than `limit`: then the drive has failed for this write. The write itself
/// is not taken back and may still be done later, so the caller must be one to whom that does no harm.
pub async fn in_time<T>(
    drive: DriveId,
    limit: Duration,
    write: impl Future<Output = Result<T, WriteError>>,
) -> Result<T, WriteError> {
    tokio::time::timeout(limit, write).await.unwrap_or_else(|_| {
        Err(WriteError::DriveFailed { drive, reason: format!("no answer within {} ms", limit.as_millis()) })
    })
}

/// A node, near or far. Every method names the drive; a drive belongs to one node.
#[async_trait]
pub trait NodeClient: Send + Sync {
    /// The drives and how they are.
    async fn drives(&self) -> Vec<DriveStatus>;

    /// Whether a drive is known to let an operation wait for [`STALLED_AFTER`] or longer just now: others are asked first, or
    /// at the same time. A hint, answered at once from what is known; `false` where nothing is.
    fn is_stalled(&self, drive: DriveId) -> bool {
        let _not_known = drive;
        false
    }

    /// Appends a shard. `Ok` means durable: synced, on a file that still has its name, on a drive that is still the
    /// same (R5). Writing the same shard again is allowed; the newer copy is the one that is read.
    async fn write_shard(
        &self,
        drive: DriveId,
        header: ShardHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError>;

    /// Reads `range` of the payload of a shard whose header carries `root` (R1). The bytes are verified block by block.
    async fn read_shard(
        &self,
        drive: DriveId,
        shard: ShardId,
        root: [u8; 32],
        range: Range<u32>,
    ) -> Result<Bytes, ReadError>;

    /// Reads the header of a shard.
    async fn read_shard_header(&self, drive: DriveId, shard: ShardId) -> Result<ShardHeader, ReadError>;

    /// The headers of up to `limit` shards in id order, those after `after`, of one class or of all. A shard whose
    /// header does not verify is left out (it is in the damage report). Fewer than `limit` means the end.
    async fn list_shards(
        &self,
        drive: DriveId,
        class: Option<StripeClass>,
        after: Option<ShardId>,
        limit: usize,
    ) -> Result<Vec<ShardHeader>, ReadError>;

    /// Closes the drive's open journal segment, if there is one, and begins another. `Ok(number)` means that the file
    /// and its name are durable.
    async fn journal_begin(&self, drive: DriveId, head: JournalHead) -> Result<u64, WriteError>;

    /// Appends a batch (`codec::journal::encode_batch`) to the open journal segment; `Ok` means durable as for
    /// [`Self::write_shard`]. A segment that is full, or was closed after a failed write, is followed by a new one of
    /// the same ensemble. After an error the caller either appends *the same bytes* again or never uses these LSNs
    /// again in this epoch: a failed write may still have reached the medium.
    async fn journal_append(
        &self,
        drive: DriveId,
        header: BatchHeader,
        payload: Bytes,
        reserve: Reserve,
    ) -> Result<(), WriteError>;

    /// Reads `range` of the bytes of the entry at `lsn`, verified block by block.
    async fn journal_read(&self, drive: DriveId, lsn: Lsn, range: Range<u32>) -> Result<Bytes, ReadError>;

    /// The drive's journal segments, by number. One whose own header is damaged is listed as well: closed, damaged,
    /// without entries, of ensemble, epoch and LSN 0, because nobody knows what they were.
    async fn journal_segments(&self, drive: DriveId) -> Result<Vec<JournalSegmentInfo>, ReadError>;

    /// Reads entries of one segment from LSN `from` on: whole records, until about 8 MiB are read (at least one
    /// record). [`ScanEnd::More`] says where to go on.
    async fn journal_scan(&self, drive: DriveId, number: u64, from: Lsn) -> Result<JournalScan, ReadError>;

    /// Removes a closed journal segment, once its entries are sealed. Durable when `Ok`.
    async fn journal_free(&self, drive: DriveId, number: u64) -> Result<(), WriteError>;

    /// The drive's ensemble register; empty if it was never written.
    async fn read_register(&self, drive: DriveId) -> Result<Bytes, ReadError>;

    /// Replaces the drive's ensemble register; durable when `Ok`.
    async fn write_register(&self, drive: DriveId, bytes: Bytes) -> Result<(), WriteError>;

    /// Tells a drive's scrub what to do; in force, and remembered across restarts, when `Ok`.
    async fn scrub_order(&self, drive: DriveId, order: ScrubOrder) -> Result<(), ReadError>;

    /// How far scrub is, for every drive of the node.
    async fn scrub_status(&self) -> Vec<ScrubStatus>;

    /// What is known to be wrong on a drive: 100,000 findings at most, and then one of unknown blocks that says how many
    /// more there are.
    async fn findings(&self, drive: DriveId) -> Result<Vec<Finding>, ReadError>;

    /// Verifies shards from the medium now: header, every block, and the content against the stripe's descriptor. The
    /// answers are in the order of the question; each is kept as scrub would keep it.
    async fn verify_shards(&self, drive: DriveId, shards: Vec<ShardRef>)
    -> Result<Vec<Result<(), Finding>>, ReadError>;

    /// When shards were last verified, in the order of the question; `None` for one that the node's index does not have.
    async fn verified(&self, drive: DriveId, shards: Vec<ShardId>) -> Result<Vec<Option<Verified>>, ReadError>;

    /// Up to `limit` shards after `after`, in id order: those whose header verifies on the medium and whose payload was
    /// not freed. Payloads are not read. What the index names and the medium does not have, and what was written here and
    /// is in neither, becomes a finding. Fewer than `limit` means the end.
    async fn inventory(&self, drive: DriveId, after: Option<ShardId>, limit: usize)
    -> Result<Vec<ShardRef>, ReadError>;

    /// Takes damage to nobody knows what ([`FindingKind::Unknown`](crate::keep::FindingKind::Unknown), subjects as they were
    /// listed) off the drive's list, and does not list it again: the caller has compared every shard that should be on the
    /// drive with those that are, and knows what is missing by name. How many there were.
    async fn settle_unnamed(&self, drive: DriveId, unnamed: Vec<Subject>) -> Result<u64, ReadError>;

    /// Rebuilds shards of a stripe from others and writes them to drives of this node; see [`crate::rebuild::rebuild`].
    async fn rebuild(&self, order: RebuildOrder) -> Result<Rebuilt, RebuildError>;

    /// Frees shards: they are not listed any more, and their space is given back, at once or with their segment. `Ok`
    /// means durable. A shard that is not there counts as freed; one in whose place something else lies, or nothing that
    /// verifies, is left alone and named. Refused with [`WriteError::OldAuthority`] when the node has freed for a higher
    /// epoch, or a higher LSN, on any of its drives (R10). After an error, some of the shards may have been freed.
    async fn free_shards(
        &self,
        drive: DriveId,
        authority: Authority,
        shards: Vec<ShardRef>,
    ) -> Result<Freed, WriteError>;

    /// The highest epoch and the highest LSN for which the drive has freed; durable on the drive.
    async fn authority(&self, drive: DriveId) -> Result<Authority, ReadError>;

    /// Begins the drive's memory of frees anew, if it does not verify; otherwise nothing is changed. What the drive has freed
    /// for is lost, so whoever orders this vouches for `authority`: that no later state of metadata has freed anything there
    /// (R10). Durable when `Ok`.
    async fn renew_frees(&self, drive: DriveId, authority: Authority) -> Result<(), WriteError>;
}
