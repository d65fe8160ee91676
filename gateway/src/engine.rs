//! The engine behind the S3 front end: its configuration, its requests and its answers.
//!
//! Whoever calls has already authenticated and authorised the request, and looked up the bucket, version or upload row
//! through [`Gateway::metadata`]. The engine moves bytes and commits.
//!
//! Invariants:
//! * Nothing of a request is visible before its commit, and the commit comes after every digest was verified and every
//!   chunk is durable.
//! * Memory of requests in flight is bounded by [`Config::memory`]; see [`crate::budget`] for why that can't deadlock.

use crate::budget::Budget;
use crate::configs::Remembered;
use crate::cpu::Cpu;
use crate::error::{BodyError, GetError, PutError};
use crate::noted::{Noted, ReadAlarm};
use crate::protect::{CustomerKey, Protection};
use crate::stripe_pool::StripePool;
use access::lifecycle::rule::Rule;
use bytes::Bytes;
use codec::effect::{
    BucketRow, Checksum, ChecksumAlgorithm, ConfigKind, Content, ObjectMeta, UploadName, UploadRow, VersionRow,
};
use futures::Stream;
use metadata::client::MetadataClient;
use metadata::command::{Attached, Condition};
use metadata::keys::Purpose;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use storage_node::sabotage::SabotageSet;

/// The decoded bytes of a request body, in order. An error ends it.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// S3's limit for one PUT, one part and one copy: 5 GiB.
pub const MAX_SINGLE: u64 = 5 << 30;
/// S3's highest part number.
pub const MAX_PARTS: u32 = 10_000;

/// Limits of one gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of bodies, chunks and frames in flight, of all requests together; at least 64 MiB. The default admits 17
    /// large uploads at once. A stripe that is being written needs about its own size again, for parity and the
    /// drives' copies, on top of this.
    pub memory: usize,
    /// An object whose frames are together at most this long rides in its journal entry. Bytes. The default leaves room for
    /// the frame headers of 64 KiB of data that do not compress.
    pub inline_limit: usize,
    /// Data bytes of a full stripe; the pool takes the smaller of this and what the geometry allows.
    pub stripe_bytes: usize,
    /// A body that sends nothing for so long is ended.
    pub body_idle: Duration,
    /// For how long a request waits to be admitted when the memory is in use; then it is refused (503), undone. A client
    /// that reads nothing of its GET for three times as long is ended if others wait for its place.
    pub patience: Duration,
    /// GETs that run at once, copies included. Each has up to about 200 KiB of its own on its way to the client, on top of
    /// `memory`.
    pub gets: usize,
    /// A request that stores something is ended after so long (R9: what it wrote and never committed can be collected
    /// once its epoch is fenced, and epochs are renewed by the hour).
    pub request_limit: Duration,
    /// Threads that chunk, hash, compress and decode at once.
    pub cpu_threads: usize,
    /// zstd level where the bucket names none.
    pub zstd_level: i32,
    /// Chunk sizes for every object, instead of those by the object's length: for tests of long manifests.
    pub chunk_sizes: Option<codec::chunk::ChunkSizes>,
    /// One of so many compressed or encrypted frames is decoded again before the ack (R4); at most 64.
    pub verify_every: u64,
    /// Chunks that one GET fetches ahead of the client.
    pub read_ahead: usize,
    /// Clients' own keys (SSE-C) are taken over plain HTTP from other machines, too, and not over TLS and from this machine only.
    pub sse_c_without_tls: bool,
    /// New buckets let nobody in by lists and can't be made public, as those of AWS: ownership `BucketOwnerEnforced` and all of the
    /// public access block. Otherwise neither is set.
    pub enforced_buckets: bool,
    /// How long a day of lifecycle is: 24 hours, but in tests.
    pub lifecycle_day: Duration,
    /// A line of a bucket's access log is delivered at the latest after so long.
    pub access_log_every: Duration,
    /// Safety steps that a test takes away.
    pub sabotage: SabotageSet,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            memory: 352 << 20,
            inline_limit: (64 << 10) + (4 << 10),
            stripe_bytes: 24 << 20,
            body_idle: Duration::from_secs(60),
            patience: Duration::from_secs(20),
            gets: 512,
            request_limit: Duration::from_secs(12 * 3600),
            cpu_threads: std::thread::available_parallelism().map_or(2, usize::from),
            zstd_level: 3,
            chunk_sizes: None,
            verify_every: 64,
            read_ahead: 4,
            sse_c_without_tls: false,
            enforced_buckets: false,
            lifecycle_day: Duration::from_secs(24 * 3600),
            access_log_every: Duration::from_secs(300),
            sabotage: SabotageSet::default(),
        }
    }
}

/// The engine. One per process; cheap to share behind an [`Arc`].
pub struct Gateway {
    pub(crate) meta: Arc<dyn MetadataClient>,
    pub(crate) config: Config,
    pub(crate) budget: Arc<Budget>,
    pub(crate) cpu: Cpu,
    pub(crate) pool: Arc<StripePool>,
    noted: Arc<Noted>,
    lifecycles: Remembered<Vec<Rule>>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Gateway {
    /// An engine over `meta`. Call inside a tokio runtime.
    pub fn new(meta: Arc<dyn MetadataClient>, config: Config) -> Arc<Gateway> {
        let budget = Arc::new(Budget::new(config.memory, config.gets));
        let target = config.stripe_bytes.min(budget.largest_stripe());
        let pool = StripePool::new(Arc::clone(&meta), budget.room().clone(), target);
        let cpu = Cpu::new(config.cpu_threads, config.verify_every);
        let lifecycles = Remembered::new(ConfigKind::Lifecycle, crate::s3::lifecycle::kept);
        Arc::new(Gateway { meta, config, budget, cpu, pool, noted: Arc::default(), lifecycles })
    }

    /// The namespace: buckets, versions, uploads, listings.
    pub fn metadata(&self) -> &Arc<dyn MetadataClient> {
        &self.meta
    }

    /// To be raised when a read of this object fails.
    pub fn read_alarm(&self, bucket: &str, key: &str) -> ReadAlarm {
        ReadAlarm::new(&self.noted, bucket, key)
    }

    /// The rules of buckets.
    pub fn lifecycles(&self) -> &Remembered<Vec<Rule>> {
        &self.lifecycles
    }

    /// The limits.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// How the value of a checksum comes.
pub enum Claim {
    /// The client only named the algorithm: compute it.
    Compute,
    /// In a header: the raw digest.
    Value(Bytes),
    /// In a trailer, which is there once the body has ended: called once, after that. `None` when it did not come or is
    /// no digest of this algorithm.
    Trailer(Box<dyn FnOnce() -> Option<Bytes> + Send>),
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Claim::Compute => f.write_str("Compute"),
            Claim::Value(value) => write!(f, "Value({})", hex::encode(value)),
            Claim::Trailer(_) => f.write_str("Trailer"),
        }
    }
}

/// What the client said about the digests of its body. Every value is verified before the commit.
#[derive(Debug, Default)]
pub struct Claims {
    /// Content-MD5.
    pub md5: Option<[u8; 16]>,
    /// x-amz-checksum-* and x-amz-sdk-checksum-algorithm. When empty, CRC-64/NVME is computed, as AWS does.
    pub checksums: Vec<(ChecksumAlgorithm, Claim)>,
}

/// A PUT of an object.
#[derive(Debug)]
pub struct PutRequest {
    /// The bucket; its owner's dedup domain takes the chunks.
    pub bucket: BucketRow,
    /// The key.
    pub key: String,
    /// Headers to keep.
    pub meta: ObjectMeta,
    /// Decoded length, if announced; the body must have exactly this length.
    pub length: Option<u64>,
    /// How it is protected (as the request asks for it, or the bucket's default does).
    pub encrypt: Protection,
    /// If-None-Match, If-Match.
    pub condition: Condition,
    /// Digests to verify or compute.
    pub claims: Claims,
    /// What it carries besides. The engine fills the nonce.
    pub attached: Attached,
}

/// A stored object or part.
#[derive(Clone, Debug)]
pub struct PutDone {
    /// Entity tag without quotes.
    pub etag: String,
    /// Verified or computed checksums.
    pub checksums: Vec<Checksum>,
    /// Length in bytes.
    pub size: u64,
    /// Stored encrypted.
    pub encrypted: bool,
    /// Under what.
    pub purpose: Purpose,
    /// Last-Modified, milliseconds since the Unix epoch.
    pub modified_ms: u64,
    /// S3 version id; empty for the null version and for parts.
    pub version_id: String,
    /// Number of parts of a multipart object (for the suffix of composite checksums); 0 otherwise.
    pub parts: u32,
}

/// A part of an upload.
#[derive(Debug)]
pub struct PartRequest {
    /// The upload.
    pub upload: UploadRow,
    /// 1 to [`MAX_PARTS`].
    pub number: u32,
    /// Decoded length, if announced.
    pub length: Option<u64>,
    /// The bucket's zstd level ([`BucketRow::zstd_level`]); 0 means the default.
    pub zstd_level: i32,
    /// The client's key, if the upload is under it.
    pub key: Option<CustomerKey>,
    /// Digests to verify or compute; the upload's algorithm is added when it is not named.
    pub claims: Claims,
}

/// A new multipart upload.
#[derive(Debug)]
pub struct CreateUploadRequest {
    /// The bucket.
    pub bucket: BucketRow,
    /// The key.
    pub key: String,
    /// Id of the account that asks.
    pub initiator: String,
    /// Headers to keep.
    pub meta: ObjectMeta,
    /// How it is protected.
    pub encrypt: Protection,
    /// x-amz-checksum-algorithm.
    pub checksum: Option<ChecksumAlgorithm>,
    /// x-amz-checksum-type: `Some(true)` FULL_OBJECT, `Some(false)` COMPOSITE; `None` takes S3's default for the algorithm.
    pub full_object: Option<bool>,
    /// What the object will carry besides.
    pub attached: Attached,
}

/// A part as the client lists it in CompleteMultipartUpload.
#[derive(Clone, Debug)]
pub struct ListedPart {
    /// Its number.
    pub number: u32,
    /// Its entity tag, without quotes.
    pub etag: String,
    /// Its checksums, if listed: each must be the stored one.
    pub checksums: Vec<(ChecksumAlgorithm, Bytes)>,
}

/// A CompleteMultipartUpload.
#[derive(Debug)]
pub struct CompleteRequest {
    /// The upload.
    pub upload: UploadRow,
    /// The parts in the order in which they are listed.
    pub parts: Vec<ListedPart>,
    /// If-None-Match, If-Match.
    pub condition: Condition,
    /// Checksums of the whole object that the client expects: raw digest, and whether it is a composite one.
    pub checksums: Vec<Checksum>,
    /// x-amz-mp-object-size.
    pub size: Option<u64>,
}

/// A CopyObject.
#[derive(Debug)]
pub struct CopyRequest {
    /// The version to copy, already authorised.
    pub source: VersionRow,
    /// Destination bucket.
    pub bucket: BucketRow,
    /// Destination key.
    pub key: String,
    /// Headers of the copy: `None` takes the source's.
    pub meta: Option<ObjectMeta>,
    /// How the copy is protected.
    pub encrypt: Protection,
    /// The client's key of the source, if it is under one.
    pub source_key: Option<CustomerKey>,
    /// Conditions on the destination.
    pub condition: Condition,
    /// x-amz-checksum-algorithm: compute it if the source does not have it.
    pub checksum: Option<ChecksumAlgorithm>,
    /// What it carries besides. The engine fills the nonce.
    pub attached: Attached,
}

/// An UploadPartCopy.
#[derive(Debug)]
pub struct CopyPartRequest {
    /// The version to copy from, already authorised.
    pub source: VersionRow,
    /// Which bytes; `None` for all.
    pub range: Option<Range<u64>>,
    /// The upload.
    pub upload: UploadRow,
    /// 1 to [`MAX_PARTS`].
    pub number: u32,
    /// The bucket's zstd level ([`BucketRow::zstd_level`]); 0 means the default.
    pub zstd_level: i32,
    /// The client's key, if the upload is under it.
    pub key: Option<CustomerKey>,
    /// The client's key of the source, if that is under one.
    pub source_key: Option<CustomerKey>,
}

/// The bytes of an object: each was verified against its chunk's id before it came out (R2). An error ends the stream.
pub struct ObjectStream {
    /// Which bytes of the object these are.
    pub range: Range<u64>,
    /// Length of the whole object.
    pub size: u64,
    /// The bytes. `Sync`, so that it can become an s3s or hyper body.
    pub bytes: crate::get::ByteStream,
}

impl fmt::Debug for ObjectStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStream").field("range", &self.range).field("size", &self.size).finish_non_exhaustive()
    }
}

impl Gateway {
    async fn limited<T>(&self, work: impl Future<Output = Result<T, PutError>>) -> Result<T, PutError> {
        let late = |_| Err(PutError::Unavailable("the request took longer than a request may".to_owned()));
        tokio::time::timeout(self.config.request_limit, work).await.unwrap_or_else(late)
    }

    /// Stores an object. Returns once it is durable and visible; dropping the future stores nothing that is visible.
    pub async fn put_object(&self, request: PutRequest, body: Body) -> Result<PutDone, PutError> {
        self.limited(crate::put::put_object(self, request, body)).await
    }

    /// Copies an object: inside one dedup domain without touching its bytes, otherwise chunked again.
    pub async fn copy_object(&self, request: CopyRequest) -> Result<PutDone, PutError> {
        self.limited(crate::copy::copy_object(self, request)).await
    }

    /// Opens an upload and returns its name, with the id that was made for it.
    pub async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadName, PutError> {
        crate::multipart::create_upload(self, request).await
    }

    /// Stores a part; one that has this number already is replaced.
    pub async fn put_part(&self, request: PartRequest, body: Body) -> Result<PutDone, PutError> {
        self.limited(crate::multipart::put_part(self, request, body)).await
    }

    /// Stores bytes of an object as a part.
    pub async fn copy_part(&self, request: CopyPartRequest) -> Result<PutDone, PutError> {
        self.limited(crate::copy::copy_part(self, request)).await
    }

    /// Makes an object of the listed parts.
    pub async fn complete_upload(&self, request: CompleteRequest) -> Result<PutDone, PutError> {
        self.limited(crate::multipart::complete_upload(self, request)).await
    }

    /// What completing the upload came to, if the current version of its key is what it came to by these parts:
    /// [`PutError::NoSuchUpload`] otherwise. For a client that asks again because the answer was lost.
    pub async fn completed_upload(&self, name: &UploadName, parts: &[ListedPart]) -> Result<PutDone, PutError> {
        crate::multipart::completed_upload(self, name, parts).await
    }

    /// Forgets an upload and its parts.
    pub async fn abort_upload(&self, name: UploadName) -> Result<(), PutError> {
        crate::multipart::abort_upload(self, name).await
    }

    /// Reads `range` (default: all) of an object or part. The first bytes are fetched and verified before this returns,
    /// so that an unreadable object is an error and not a broken success.
    pub async fn get(&self, content: &Content, range: Option<Range<u64>>) -> Result<ObjectStream, GetError> {
        self.get_with(content, range, None).await
    }

    /// [`Self::get`] with a client's key, which an object under it takes.
    pub async fn get_with(
        &self,
        content: &Content,
        range: Option<Range<u64>>,
        key: Option<&CustomerKey>,
    ) -> Result<ObjectStream, GetError> {
        crate::get::open(self, content, range, key).await
    }
}

/// Random bits for the ids of versions.
pub(crate) fn random_bits<const N: usize>() -> Result<[u8; N], PutError> {
    let mut bits = [0; N];
    getrandom::fill(&mut bits).map_err(|error| PutError::Internal(error.to_string()))?;
    Ok(bits)
}

/// The bytes of a part of an object, by the number that it was uploaded with, as GET and HEAD with `partNumber` want them. An
/// object that did not come by multipart has one part. `None` when there is no such part.
pub fn part_range(content: &Content, number: u32) -> Option<Range<u64>> {
    if content.part_sizes.is_empty() {
        return (number == 1).then_some(0..content.size);
    }
    let index = match content.parts.is_empty() {
        true => usize::try_from(number.checked_sub(1)?).ok()?,
        false => content.parts.iter().position(|part| part.number == number)?,
    };
    let len = *content.part_sizes.get(index)?;
    let start = content.part_sizes.iter().take(index).try_fold(0u64, |sum, len| sum.checked_add(*len))?;
    Some(start..start.checked_add(len)?)
}
