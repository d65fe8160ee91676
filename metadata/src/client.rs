//! What a gateway sees of metadata: commits, lookups, listings, and the way to chunks.
//!
//! One trait for all of it, so that the metadata service in the same process and a network client can stand in for each other.

use crate::command::{Command, Outcome, Refusal};
use crate::iam::{IamCall, IamFailure, Signing, Value};
use crate::keys::{Account, Domain, Purpose};
use crate::kms::KmsFault;
use crate::listing::{
    ListPage, ListRequest, PartsPage, PartsRequest, UploadsPage, UploadsRequest, VersionsPage, VersionsRequest,
};
use crate::lookup::{Hit, Located};
use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::{AccountRow, BucketConfigRow, BucketRow, ConfigKind, PartRow, UploadName, UploadRow, VersionRow};
use codec::erasure::Geometry;
use codec::id::{BucketId, ChunkId, DomainId, DriveId, Epoch, Lsn};
use codec::level::FormatLevel;
use std::sync::Arc;

/// Most versions of one key in one answer of [`MetadataClient::newest_versions`].
pub const MAX_NEWEST: usize = 100;

/// The metadata service as its clients see it.
#[async_trait]
pub trait MetadataClient: Send + Sync {
    /// The epoch that this client may write under. A request takes it once, when it begins, and commits under it (R9).
    fn epoch(&self) -> Epoch;

    /// The version in which frames are written now, as the cluster's format level says. Who has not heard of a raise yet goes by the
    /// level before it.
    fn frame_version(&self) -> u8;

    /// The cluster's format level. Who has not heard of a raise yet goes by the level before it.
    fn level(&self) -> FormatLevel;

    /// Commits a command of a writer that held `writer` when it began. `Ok` means: durable on 1+m drives, and visible.
    async fn commit(&self, writer: Epoch, command: Command) -> Result<Outcome, CommitError>;

    /// The bucket of a name.
    async fn bucket(&self, name: &str) -> Result<Option<BucketRow>, LookupError>;

    /// An account's buckets, by name.
    async fn buckets(&self, owner: &str) -> Result<Vec<BucketRow>, LookupError>;

    /// The newest version of a key. A delete marker is returned as it is.
    async fn current_version(&self, bucket: BucketId, key: &str) -> Result<Option<VersionRow>, LookupError>;

    /// The version of a key that has this id, be it a delete marker; an empty id is the null version's.
    async fn version(&self, bucket: BucketId, key: &str, id: &str) -> Result<Option<VersionRow>, LookupError>;

    /// Up to `limit` versions of a key (at most [`MAX_NEWEST`]), delete markers included, newest first.
    async fn newest_versions(&self, bucket: BucketId, key: &str, limit: usize) -> Result<Vec<VersionRow>, LookupError>;

    /// A configuration of a bucket. `id`: an inventory's; empty for others.
    async fn bucket_config(
        &self,
        bucket: BucketId,
        kind: ConfigKind,
        id: &str,
    ) -> Result<Option<BucketConfigRow>, LookupError>;

    /// All configurations of a kind that a bucket has, by id.
    async fn bucket_configs(&self, bucket: BucketId, kind: ConfigKind) -> Result<Vec<BucketConfigRow>, LookupError>;

    /// A page of keys.
    async fn list(&self, request: ListRequest) -> Result<ListPage, LookupError>;

    /// A page of versions.
    async fn list_versions(&self, request: VersionsRequest) -> Result<VersionsPage, LookupError>;

    /// A page of open uploads.
    async fn list_uploads(&self, request: UploadsRequest) -> Result<UploadsPage, LookupError>;

    /// A page of an upload's parts; `None` when there is no such upload.
    async fn list_parts(&self, request: PartsRequest) -> Result<Option<PartsPage>, LookupError>;

    /// An open upload.
    async fn upload(&self, name: &UploadName) -> Result<Option<UploadRow>, LookupError>;

    /// Parts by number, in the order asked for; `None` where there is none.
    async fn parts(&self, upload: &UploadName, numbers: &[u32]) -> Result<Vec<Option<PartRow>>, LookupError>;

    /// The account of an access key, with its secret.
    async fn account_by_access_key(&self, access_key: &str) -> Result<Option<Arc<Account>>, LookupError>;

    /// Who signs with an access key, and `token` if the request has one. Not to be believed before the signature is verified.
    async fn signer(&self, access_key: &str, token: Option<&str>) -> Result<Signing, LookupError>;

    /// Carries out what somebody asks of IAM or STS, whose signature was verified.
    async fn iam(&self, call: IamCall) -> Result<Value, IamFailure>;

    /// An account by its canonical id (for the names in Owner).
    async fn account(&self, id: &str) -> Result<Option<AccountRow>, LookupError>;

    /// The account of an e-mail address, whatever its case; `None` also where several have it: nobody can say which one is meant.
    async fn account_by_email(&self, address: &str) -> Result<Option<AccountRow>, LookupError>;

    /// The dedup domain that an account has for a purpose, made on first use. Refused with [`Refusal::Kms`] if its key of the key
    /// store can't be used.
    async fn domain(&self, account: &str, purpose: &Purpose) -> Result<Arc<Domain>, CommitError>;

    /// A dedup domain that exists.
    async fn domain_by_id(&self, id: DomainId) -> Result<Arc<Domain>, LookupError>;

    /// For each id a dedup hit, or `None`: store that chunk. Hits are Live and safe (see [`crate::lookup::is_hit`]).
    async fn find_chunks(&self, domain: DomainId, ids: &[ChunkId]) -> Result<Vec<Option<Hit>>, LookupError>;

    /// Where chunks lie, in the order asked for; `None` where a chunk is unknown.
    async fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, LookupError>;

    /// A chunk's frame, from its stripe or from the journal. Looks the place up again, once, when a seal has moved it.
    async fn read_frame(&self, chunk: &Located) -> Result<Bytes, FrameReadError>;

    /// What a stripe that is opened now should look like.
    fn stripe_shape(&self) -> Result<StripeShape, CommitError>;

    /// Packs frames into stripes, places and writes them, and commits them: `Ok` means that all of them are known.
    /// Frames that fill one stripe of [`Self::stripe_shape`] normally make one stripe.
    async fn store_stripe(&self, writer: Epoch, frames: Vec<StripeFrame>) -> Result<(), CommitError>;

    /// What the service can do at present.
    fn status(&self) -> Status;
}

/// A frame on its way into a stripe.
#[derive(Clone, Debug)]
pub struct StripeFrame {
    /// The chunk's name.
    pub id: ChunkId,
    /// Its dedup domain.
    pub domain: DomainId,
    /// Plaintext length, in bytes.
    pub plain_len: u32,
    /// Its plaintext is a manifest node.
    pub is_manifest: bool,
    /// What the node lists, one per entry.
    pub children: Vec<ChunkId>,
    /// The encoded frame.
    pub frame: Bytes,
}

/// The measure of a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripeShape {
    /// The cluster's geometry.
    pub geometry: Geometry,
    /// How many data shards there are drives for at present: 1 to k.
    pub max_data_shards: u8,
    /// The target for a shard's payload, in bytes.
    pub shard_target: u32,
}

/// Why a commit did not happen, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Refused; nothing changed. Not to be repeated as it is.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Reads only for now (503).
    #[error("writes are not served: {reason}")]
    ReadOnly {
        /// For the operator.
        reason: String,
    },
    /// The cluster is full (507). Deletes still work.
    #[error("the cluster is full")]
    Full,
    /// Not durable, or not known to be: the caller does not acknowledge; repeating is safe (503).
    #[error("the commit could not be made durable: {reason}")]
    Unavailable {
        /// For the operator.
        reason: String,
    },
}

/// Why a lookup has no answer. An absent row is an answer; this is not.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// Try again later (503).
    #[error("the index is not available: {reason}")]
    Unavailable {
        /// For the operator.
        reason: String,
    },
    /// The index is damaged: it has to be rebuilt (500).
    #[error("the index is damaged: {reason}")]
    Damaged {
        /// For the operator.
        reason: String,
    },
    /// What is asked for is under a key of the key store that can't be used (400).
    #[error("key {key} {fault}")]
    Kms {
        /// Its name.
        key: String,
        /// Why.
        fault: KmsFault,
    },
    /// There is no such thing, though a row names it.
    #[error("{what} is not known")]
    Unknown {
        /// What was asked for.
        what: String,
    },
}

/// Why a frame could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FrameReadError {
    /// No k' good shards, or no good journal copy, can be reached at present (503).
    #[error("chunk {id} can't be read at present: {reason}")]
    Unreachable {
        /// The chunk.
        id: ChunkId,
        /// For the operator.
        reason: String,
    },
    /// The chunk is no longer known.
    #[error("chunk {0} is not known")]
    Unknown(ChunkId),
    /// The lookup failed.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// What the service can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reads and writes.
    Serving,
    /// Reads only.
    ReadOnly,
}

/// The service's condition, for `stele status` and the readiness check.
#[derive(Clone, Debug)]
pub struct Status {
    /// What it can do.
    pub mode: Mode,
    /// Why it is read-only; empty while serving.
    pub reason: String,
    /// The geometry.
    pub geometry: Geometry,
    /// The current epoch.
    pub epoch: Epoch,
    /// The last entry that is applied.
    pub applied: Lsn,
    /// The last entry that is sealed.
    pub sealed: Lsn,
    /// The journal's ensemble.
    pub ensemble: Vec<DriveId>,
    /// All registered drives.
    pub drives: Vec<DriveLine>,
    /// What may be lost at once with nothing lost that is written now, for people; empty when nothing can be written.
    pub survives: String,
    /// What the placement does not survive, for people; empty when everything promised holds.
    pub warnings: Vec<String>,
}

/// A drive, as status shows it.
#[derive(Clone, Debug)]
pub struct DriveLine {
    /// Its identity.
    pub id: DriveId,
    /// Where it is.
    pub path: String,
    /// `healthy`, `draining`, `read-only`, `failed`, `absent` or `removed`.
    pub state: &'static str,
    /// Bytes in all.
    pub total: u64,
    /// Bytes free.
    pub free: u64,
    /// Tells which drives share a file system.
    pub filesystem_id: u64,
}
