//! Effects and rows: what the journal says happened, and what the index holds because of it.
//!
//! Encoded as Protocol Buffers (proto3 wire format); docs/FORMAT.md lists every message and tag. An effect carries the
//! whole new row, never a difference and never a command, so applying it twice, or with newer code, gives the same state.
//! A tag is never used again; an effect whose kind a reader does not know is an error, not something to skip.

use crate::id::{BucketId, ChunkId, DomainId, DriveId, Epoch, Lsn, StripeId};
use bytes::Bytes;
use prost::Message;

/// The newest version of the effects that this code writes. A reader refuses a newer one by name.
pub const EFFECT_VERSION: u16 = 2;

/// All the effects of one committed command: the body of one journal entry.
#[derive(Clone, PartialEq, Message)]
pub struct Effects {
    /// In the order in which they are applied.
    #[prost(message, repeated, tag = "1")]
    pub effects: Vec<Effect>,
    /// Milliseconds since the Unix epoch when the command was decided; informational, never an order (R15).
    #[prost(uint64, tag = "2")]
    pub wall_ms: u64,
}

/// One change of one row.
#[derive(Clone, PartialEq, Message)]
pub struct Effect {
    /// What changed. `None` is an effect that this code does not know: an error.
    #[prost(
        oneof = "EffectKind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28"
    )]
    pub kind: Option<EffectKind>,
}

/// The kinds of effect.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum EffectKind {
    /// A bucket exists with this row.
    #[prost(message, tag = "1")]
    PutBucket(BucketRow),
    /// The bucket of this row's name and id is gone.
    #[prost(message, tag = "2")]
    DeleteBucket(BucketRow),
    /// An object version is visible.
    #[prost(message, tag = "3")]
    PutVersion(VersionRow),
    /// An object version is gone.
    #[prost(message, tag = "4")]
    DeleteVersion(VersionName),
    /// A multipart upload is open.
    #[prost(message, tag = "5")]
    PutUpload(UploadRow),
    /// An upload and all its parts are gone.
    #[prost(message, tag = "6")]
    DeleteUpload(UploadName),
    /// A part of an upload is stored.
    #[prost(message, tag = "7")]
    PutPart(PartRow),
    /// A chunk has this state, count and place.
    #[prost(message, tag = "8")]
    PutChunk(ChunkRow),
    /// A chunk is gone (only after Condemned, R11).
    #[prost(message, tag = "9")]
    DeleteChunk(ChunkName),
    /// A stripe lies on these drives.
    #[prost(message, tag = "10")]
    PutStripe(StripeRow),
    /// A stripe is gone.
    #[prost(message, tag = "11")]
    DeleteStripe(StripeName),
    /// A drive is registered, or its state changed.
    #[prost(message, tag = "12")]
    PutDrive(DriveRow),
    /// An account has this row.
    #[prost(message, tag = "13")]
    PutAccount(AccountRow),
    /// The account with this row's id is gone.
    #[prost(message, tag = "14")]
    DeleteAccount(AccountRow),
    /// A dedup domain and its wrapped keys.
    #[prost(message, tag = "15")]
    PutDomain(DomainRow),
    /// A journaled setting, such as the geometry.
    #[prost(message, tag = "16")]
    PutSetting(SettingRow),
    /// A start (or leader) took this epoch, or an hourly renewal did; earlier ones than the row says are fenced (R9).
    #[prost(message, tag = "17")]
    StartEpoch(EpochRow),
    /// The retention clock advanced (R15).
    #[prost(message, tag = "18")]
    ClockTick(ClockTick),
    /// The entries of this range are sealed in these ledger stripes; their journal segments may be freed.
    #[prost(message, tag = "19")]
    Sealed(SealedRow),
    /// An accepted loss (`stele journal accept-loss`): a restore in the sense of R10.
    #[prost(message, tag = "20")]
    AcceptedLoss(AcceptedLossRow),
    /// A checkpoint of the index lies in these stripes.
    #[prost(message, tag = "21")]
    PutCheckpoint(CheckpointRow),
    /// The checkpoint at this row's LSN is superseded: no rebuild needs it.
    #[prost(message, tag = "22")]
    DeleteCheckpoint(CheckpointRow),
    /// The shards of a stripe that is gone were freed on their drives.
    #[prost(message, tag = "23")]
    StripeFreed(StripeName),
    /// A storage node belongs to the cluster, or its address or state changed.
    #[prost(message, tag = "24")]
    PutNode(NodeRow),
    /// A bucket is copied to another endpoint by this rule.
    #[prost(message, tag = "25")]
    PutReplication(ReplicationRow),
    /// A bucket is no longer copied.
    #[prost(message, tag = "26")]
    DeleteReplication(ReplicationName),
    /// Keys of a copied bucket wait to be copied, and others need no longer wait.
    #[prost(message, tag = "27")]
    ReplicationQueue(ReplicationQueueRow),
    /// A gateway was granted an epoch of its own; earlier ones than the row says are fenced (R9).
    #[prost(message, tag = "28")]
    GrantEpoch(GrantRow),
}

/// A bucket.
#[derive(Clone, PartialEq, Message)]
pub struct BucketRow {
    /// [`BucketId`]: the LSN of the creating entry.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The S3 name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Id of the account that owns it.
    #[prost(string, tag = "3")]
    pub owner: String,
    /// Milliseconds since the Unix epoch, for display.
    #[prost(uint64, tag = "4")]
    pub created_ms: u64,
    /// The location constraint that the client asked for; empty for the default region.
    #[prost(string, tag = "5")]
    pub location: String,
    /// New objects are encrypted (SSE-S3) unless the request says otherwise.
    #[prost(bool, tag = "6")]
    pub encrypt: bool,
    /// zstd level for new frames; 0 means the default.
    #[prost(int32, tag = "7")]
    pub zstd_level: i32,
}

/// Names one object version.
#[derive(Clone, PartialEq, Message)]
pub struct VersionName {
    /// The bucket.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// The object key, UTF-8.
    #[prost(string, tag = "2")]
    pub key: String,
    /// [`VersionRow::seq`].
    #[prost(uint64, tag = "3")]
    pub seq: u64,
}

/// An object version.
#[derive(Clone, PartialEq, Message)]
pub struct VersionRow {
    /// The bucket.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// The object key, UTF-8, at most 1024 bytes.
    #[prost(string, tag = "2")]
    pub key: String,
    /// The LSN of the committing entry: later versions have higher ones (R15: no order by wall clock).
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    /// The S3 version id; empty for the null version.
    #[prost(string, tag = "4")]
    pub version_id: String,
    /// Milliseconds since the Unix epoch: Last-Modified.
    #[prost(uint64, tag = "5")]
    pub modified_ms: u64,
    /// What the client may see of it.
    #[prost(message, optional, tag = "6")]
    pub meta: Option<ObjectMeta>,
    /// Where its bytes are.
    #[prost(message, optional, tag = "7")]
    pub content: Option<Content>,
    /// A delete marker (later: versioning). Has neither meta nor content.
    #[prost(bool, tag = "8")]
    pub delete_marker: bool,
}

/// The headers of an object that go in with PUT and come out with GET and HEAD.
#[derive(Clone, PartialEq, Message)]
pub struct ObjectMeta {
    /// Content-Type; empty when none was given.
    #[prost(string, tag = "1")]
    pub content_type: String,
    /// Cache-Control.
    #[prost(string, tag = "2")]
    pub cache_control: String,
    /// Content-Disposition.
    #[prost(string, tag = "3")]
    pub content_disposition: String,
    /// Content-Encoding, without `aws-chunked`.
    #[prost(string, tag = "4")]
    pub content_encoding: String,
    /// Content-Language.
    #[prost(string, tag = "5")]
    pub content_language: String,
    /// Expires, as sent.
    #[prost(string, tag = "6")]
    pub expires: String,
    /// x-amz-meta-*: name (lower case, without the prefix) and value, sorted by name.
    #[prost(message, repeated, tag = "7")]
    pub user: Vec<UserMeta>,
    /// x-amz-storage-class as asked for; empty means STANDARD.
    #[prost(string, tag = "8")]
    pub storage_class: String,
    /// x-amz-website-redirect-location.
    #[prost(string, tag = "9")]
    pub website_redirect: String,
}

/// One x-amz-meta-* header.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UserMeta {
    /// Lower case, without `x-amz-meta-`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// As sent.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// The bytes of an object version or of a part.
#[derive(Clone, PartialEq, Message)]
pub struct Content {
    /// Length of the object, in bytes.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// The entity tag without quotes: hex MD5, or `<hex>-<parts>` for multipart.
    #[prost(string, tag = "2")]
    pub etag: String,
    /// Checksums that were verified or computed at upload.
    #[prost(message, repeated, tag = "3")]
    pub checksums: Vec<Checksum>,
    /// The dedup domain that all its chunks belong to.
    #[prost(uint64, tag = "4")]
    pub domain: u64,
    /// Its root manifest: `codec::manifest` bytes.
    #[prost(bytes = "bytes", tag = "5")]
    pub manifest: Bytes,
    /// Lengths of the parts, in order, for objects that came by multipart; empty otherwise.
    #[prost(uint64, repeated, tag = "6")]
    pub part_sizes: Vec<u64>,
    /// Stored under SSE-S3.
    #[prost(bool, tag = "7")]
    pub encrypted: bool,
    /// The id of the upload that was completed to this; empty for a part, a copy, and an object that came in one piece.
    #[prost(string, tag = "8")]
    pub upload_id: String,
}

/// A checksum of an object or part.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Checksum {
    /// The algorithm.
    #[prost(enumeration = "ChecksumAlgorithm", tag = "1")]
    pub algorithm: i32,
    /// The raw digest, big endian for CRCs as S3 has them.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// A checksum of the parts' checksums (`COMPOSITE`) instead of one of the bytes (`FULL_OBJECT`).
    #[prost(bool, tag = "3")]
    pub composite: bool,
}

/// The S3 checksum algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ChecksumAlgorithm {
    /// Not a checksum.
    Unspecified = 0,
    /// CRC-32 (ISO-HDLC).
    Crc32 = 1,
    /// CRC-32C (Castagnoli).
    Crc32c = 2,
    /// CRC-64/NVME.
    Crc64Nvme = 3,
    /// SHA-1.
    Sha1 = 4,
    /// SHA-256.
    Sha256 = 5,
}

/// Names an upload.
#[derive(Clone, PartialEq, Message)]
pub struct UploadName {
    /// The bucket.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// The object key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// The upload id.
    #[prost(string, tag = "3")]
    pub upload_id: String,
}

/// An open multipart upload.
#[derive(Clone, PartialEq, Message)]
pub struct UploadRow {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub name: Option<UploadName>,
    /// The LSN of the creating entry.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, tag = "3")]
    pub initiated_ms: u64,
    /// Id of the account that opened it.
    #[prost(string, tag = "4")]
    pub initiator: String,
    /// What the object will carry.
    #[prost(message, optional, tag = "5")]
    pub meta: Option<ObjectMeta>,
    /// The checksum algorithm that the client announced; Unspecified if none.
    #[prost(enumeration = "ChecksumAlgorithm", tag = "6")]
    pub checksum: i32,
    /// The announced checksum type is FULL_OBJECT.
    #[prost(bool, tag = "7")]
    pub full_object_checksum: bool,
    /// The dedup domain of all its parts.
    #[prost(uint64, tag = "8")]
    pub domain: u64,
    /// The parts are stored under SSE-S3.
    #[prost(bool, tag = "9")]
    pub encrypted: bool,
}

/// A stored part.
#[derive(Clone, PartialEq, Message)]
pub struct PartRow {
    /// The upload.
    #[prost(message, optional, tag = "1")]
    pub upload: Option<UploadName>,
    /// 1 to 10,000.
    #[prost(uint32, tag = "2")]
    pub number: u32,
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, tag = "3")]
    pub modified_ms: u64,
    /// Its bytes.
    #[prost(message, optional, tag = "4")]
    pub content: Option<Content>,
}

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

impl DriveRow {
    /// Whether it says what programs before effect version 2 would drop.
    fn says_more_than_version_1(&self) -> bool {
        !self.rack.is_empty() || !self.site.is_empty() || self.cell != 0
    }
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

/// An account.
#[derive(Clone, PartialEq, Message)]
pub struct AccountRow {
    /// The canonical id, as S3 shows it in Owner.
    #[prost(string, tag = "1")]
    pub id: String,
    /// A unique name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Shown in Owner.
    #[prost(string, tag = "3")]
    pub display_name: String,
    /// The access key.
    #[prost(string, tag = "4")]
    pub access_key: String,
    /// The secret key, wrapped by the key-encryption key (`codec::encrypt::wrap`).
    #[prost(bytes = "bytes", tag = "5")]
    pub wrapped_secret: Bytes,
}

/// Who may share chunks: everything inside one domain, nothing across two.
#[derive(Clone, PartialEq, Message)]
pub struct DomainRow {
    /// [`DomainId`].
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The account.
    #[prost(string, tag = "2")]
    pub account: String,
    /// Objects are encrypted under `wrapped_data_key` (protection class SSE-S3).
    #[prost(bool, tag = "3")]
    pub encrypted: bool,
    /// The key of the chunk hash, wrapped.
    #[prost(bytes = "bytes", tag = "4")]
    pub wrapped_chunk_key: Bytes,
    /// The data key, wrapped; empty for plaintext domains.
    #[prost(bytes = "bytes", tag = "5")]
    pub wrapped_data_key: Bytes,
}

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

/// How a bucket is copied to another S3 endpoint.
#[derive(Clone, PartialEq, Message)]
pub struct ReplicationRow {
    /// The bucket that is copied.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// The LSN of the entry that set the rule: another one for each time that it is set.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// Milliseconds since the Unix epoch when it was set, for people.
    #[prost(uint64, tag = "3")]
    pub set_ms: u64,
    /// `http://` or `https://`, host and port of the other endpoint.
    #[prost(string, tag = "4")]
    pub endpoint: String,
    /// The region that requests are signed for.
    #[prost(string, tag = "5")]
    pub region: String,
    /// The bucket there.
    #[prost(string, tag = "6")]
    pub target: String,
    /// The access key there.
    #[prost(string, tag = "7")]
    pub access_key: String,
    /// The secret key there, wrapped by the key-encryption key (`codec::encrypt::wrap`).
    #[prost(bytes = "bytes", tag = "8")]
    pub wrapped_secret: Bytes,
    /// Buckets are host names there (`bucket.host`) and not the first part of the path.
    #[prost(bool, tag = "9")]
    pub virtual_host: bool,
    /// What is deleted here is deleted there.
    #[prost(bool, tag = "10")]
    pub deletes: bool,
    /// An operator has paused it: what changes waits.
    #[prost(bool, tag = "11")]
    pub paused: bool,
    /// All keys that the bucket had when the rule was set are in the queue, or were copied.
    #[prost(bool, tag = "12")]
    pub walked: bool,
    /// Until then: the last key that is.
    #[prost(string, tag = "13")]
    pub walked_to: String,
}

/// Names the rule of a bucket.
#[derive(Clone, PartialEq, Message)]
pub struct ReplicationName {
    /// The bucket.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
}

/// Changes of the queue of a copied bucket, besides those that follow from its versions.
#[derive(Clone, PartialEq, Message)]
pub struct ReplicationQueueRow {
    /// The bucket.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// Keys that wait from this entry on.
    #[prost(string, repeated, tag = "2")]
    pub queued: Vec<String>,
    /// Keys that need no longer wait, unless they changed after the LSN that is named.
    #[prost(message, repeated, tag = "3")]
    pub done: Vec<ReplicatedKey>,
}

/// A key whose copy is as it was here at an entry, or later.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReplicatedKey {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The LSN of the last change that the copy is known to have.
    #[prost(uint64, tag = "2")]
    pub lsn: u64,
}

/// A key that waits to be copied. No effect: a row of the index that follows from PutVersion, DeleteVersion and ReplicationQueue.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WaitingKeyRow {
    /// The LSN of its last change.
    #[prost(uint64, tag = "1")]
    pub changed: u64,
    /// Milliseconds since the Unix epoch when that was decided.
    #[prost(uint64, tag = "2")]
    pub changed_ms: u64,
    /// The LSN from which on it waits.
    #[prost(uint64, tag = "3")]
    pub since: u64,
    /// Milliseconds since the Unix epoch when that was decided.
    #[prost(uint64, tag = "4")]
    pub since_ms: u64,
}

/// An effect body that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// Not Protocol Buffers, or a field out of range.
    #[error("effects do not decode: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// An effect that this version does not know.
    #[error("an effect of a kind unknown to this version: written by a newer Stele")]
    Unknown,
}

impl Effects {
    /// Decodes the body of a journal entry. Refuses effects of an unknown kind: skipping one would give another state.
    pub fn parse(bytes: &[u8]) -> Result<Effects, EffectError> {
        let effects = Effects::decode(bytes)?;
        if effects.effects.iter().any(|e| e.kind.is_none()) {
            return Err(EffectError::Unknown);
        }
        Ok(effects)
    }
}

impl Effects {
    /// The first version that has all of these kinds. An entry says no more than it needs: programs of two versions that run side
    /// by side read each other's entries for as long as neither writes a kind that the other does not know.
    pub fn version(&self) -> u16 {
        self.effects.iter().filter_map(|effect| effect.kind.as_ref()).map(EffectKind::version).max().unwrap_or(1)
    }
}

impl EffectKind {
    /// The version of the effects that brought this kind.
    fn version(&self) -> u16 {
        match self {
            EffectKind::PutNode(_) | EffectKind::GrantEpoch(_) => 2,
            EffectKind::PutReplication(_) | EffectKind::DeleteReplication(_) | EffectKind::ReplicationQueue(_) => 2,
            EffectKind::PutDrive(row) if row.says_more_than_version_1() => 2,
            _ => 1,
        }
    }
}

impl From<EffectKind> for Effect {
    fn from(kind: EffectKind) -> Effect {
        Effect { kind: Some(kind) }
    }
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

impl BucketRow {
    /// The id.
    pub fn bucket_id(&self) -> BucketId {
        BucketId(self.id)
    }
}

impl Content {
    /// The dedup domain.
    pub fn domain_id(&self) -> DomainId {
        DomainId(self.domain)
    }
}
