//! Rows of what S3 shows: buckets, versions, uploads and parts.

use super::{AclRow, OwnershipRule, PublicAccessBlockRow, Tag};
use crate::id::{BucketId, DomainId};
use bytes::Bytes;
use prost::Message;

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
    /// Whether it keeps versions.
    #[prost(enumeration = "Versioning", tag = "8")]
    pub versioning: i32,
    /// It has Object Lock, for ever.
    #[prost(bool, tag = "9")]
    pub lock: bool,
    /// How long it keeps new versions.
    #[prost(message, optional, tag = "10")]
    pub default_retention: Option<DefaultRetentionRow>,
    /// Whether lists count.
    #[prost(enumeration = "OwnershipRule", tag = "11")]
    pub ownership: i32,
    /// The public access block; absent when none was set.
    #[prost(message, optional, tag = "12")]
    pub block: Option<PublicAccessBlockRow>,
    /// Its list; absent: the owner alone.
    #[prost(message, optional, tag = "13")]
    pub acl: Option<AclRow>,
    /// Its default encryption where that is not SSE-S3.
    #[prost(message, optional, tag = "14")]
    pub encryption: Option<DefaultEncryptionRow>,
    /// Its tags.
    #[prost(message, repeated, tag = "15")]
    pub tags: Vec<Tag>,
    /// Most bytes of all its versions; 0: no limit.
    #[prost(uint64, tag = "16")]
    pub max_bytes: u64,
    /// Most versions; 0: no limit.
    #[prost(uint64, tag = "17")]
    pub max_objects: u64,
    /// The LSN of the last change of a configuration of it: a parsed one that is remembered is of this LSN, or of the past.
    #[prost(uint64, tag = "18")]
    pub config_seq: u64,
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
    /// A delete marker. Has neither meta nor content.
    #[prost(bool, tag = "8")]
    pub delete_marker: bool,
    /// Its tags.
    #[prost(message, repeated, tag = "9")]
    pub tags: Vec<Tag>,
    /// Its list; absent: the owner alone.
    #[prost(message, optional, tag = "10")]
    pub acl: Option<AclRow>,
    /// Canonical id of its owner; empty: the bucket's.
    #[prost(string, tag = "11")]
    pub owner: String,
    /// Until when it is kept.
    #[prost(message, optional, tag = "12")]
    pub retention: Option<RetentionRow>,
    /// It is under a legal hold.
    #[prost(bool, tag = "13")]
    pub hold: bool,
    /// The retention clock when it was committed, in milliseconds since the Unix epoch. Its age is counted from the later of this
    /// and `modified_ms`, which is what some gateway's clock said.
    #[prost(uint64, tag = "14")]
    pub clock_ms: u64,
    /// What has become of the wish to read it, if it is archived.
    #[prost(message, optional, tag = "15")]
    pub restore: Option<RestoreRow>,
    /// The format level at which it was committed, from level 5 on; 0 before.
    #[cfg(feature = "next-release")]
    #[prost(uint32, tag = "100")]
    pub level: u32,
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
    /// Stored encrypted: as its dedup domain is for.
    #[prost(bool, tag = "7")]
    pub encrypted: bool,
    /// The id of the upload that was completed to this; empty for a part, a copy, and an object that came in one piece.
    #[prost(string, tag = "8")]
    pub upload_id: String,
    /// Its parts, where `part_sizes` does not say it all: with checksums of their own, or numbers other than 1, 2, 3.
    #[prost(message, repeated, tag = "9")]
    pub parts: Vec<PartInfo>,
    /// Its keys, under SSE-C.
    #[prost(message, optional, tag = "10")]
    pub sealed: Option<ObjectKeyRow>,
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

/// How much a bucket or an account holds. No effect: a row of family 1 or 7 that follows from PutVersion, DeleteVersion, PutPart and
/// DeleteUpload.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct UsageRow {
    /// Versions; delete markers do not count.
    #[prost(uint64, tag = "1")]
    pub objects: u64,
    /// Their bytes.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Bytes of parts of open uploads.
    #[prost(uint64, tag = "3")]
    pub part_bytes: u64,
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
    /// The parts are stored encrypted: as the dedup domain is for.
    #[prost(bool, tag = "9")]
    pub encrypted: bool,
    /// What the object will carry.
    #[prost(message, repeated, tag = "10")]
    pub tags: Vec<Tag>,
    /// Its list.
    #[prost(message, optional, tag = "11")]
    pub acl: Option<AclRow>,
    /// Canonical id of the object's owner; empty: the bucket's.
    #[prost(string, tag = "12")]
    pub owner: String,
    /// Until when it is to be kept, if the client said so. A bucket's default is looked up when the upload is completed.
    #[prost(message, optional, tag = "13")]
    pub retention: Option<RetentionRow>,
    /// It is to be under a legal hold.
    #[prost(bool, tag = "14")]
    pub hold: bool,
    /// Its keys, under SSE-C.
    #[prost(message, optional, tag = "15")]
    pub sealed: Option<ObjectKeyRow>,
    /// The retention clock when it was opened, in milliseconds since the Unix epoch: its age is counted from the later of this and
    /// `initiated_ms`, which is what some gateway's clock said.
    #[prost(uint64, tag = "16")]
    pub clock_ms: u64,
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

/// Whether a bucket keeps versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Versioning {
    /// It never did.
    Never = 0,
    /// It does.
    Enabled = 1,
    /// It did: what is put replaces the null version.
    Suspended = 2,
}

/// How strictly a version is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum RetentionMode {
    /// Not a mode: a row that says so is damaged.
    Unspecified = 0,
    /// Those with the permission may change it.
    Governance = 1,
    /// Nobody may.
    Compliance = 2,
}

/// Until when a version is kept.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RetentionRow {
    /// How strictly.
    #[prost(enumeration = "RetentionMode", tag = "1")]
    pub mode: i32,
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, tag = "2")]
    pub until_ms: u64,
}

/// How long a bucket keeps new versions unless they say otherwise. Days or years, never both.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct DefaultRetentionRow {
    /// How strictly.
    #[prost(enumeration = "RetentionMode", tag = "1")]
    pub mode: i32,
    /// Of 24 hours each.
    #[prost(uint32, tag = "2")]
    pub days: u32,
    /// Of 365 days each.
    #[prost(uint32, tag = "3")]
    pub years: u32,
}

/// How objects are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ProtectionClass {
    /// Not at all, or as the older field `encrypted` says.
    Unspecified = 0,
    /// SSE-S3.
    Managed = 1,
    /// SSE-C: under a key that the client keeps.
    Customer = 2,
    /// SSE-KMS: under a key of the key store.
    Kms = 3,
}

/// A bucket's default encryption, where it is another one than SSE-S3.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DefaultEncryptionRow {
    /// [`ProtectionClass`].
    #[prost(enumeration = "ProtectionClass", tag = "1")]
    pub class: i32,
    /// Of [`ProtectionClass::Kms`]: [`KmsKeyRow::id`]; empty for the account's default key.
    #[prost(string, tag = "2")]
    pub key: String,
}

/// The keys of one object under SSE-C.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ObjectKeyRow {
    /// Chunk key and data key of this object alone, 64 bytes, wrapped by the client's key, which is kept nowhere: another one does
    /// not unwrap them.
    #[prost(bytes = "bytes", tag = "1")]
    pub wrapped: Bytes,
}

/// A part of an object, as GetObjectAttributes shows it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PartInfo {
    /// Its number in the upload.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Its bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Its checksum, raw; empty without one.
    #[prost(bytes = "bytes", tag = "3")]
    pub checksum: Bytes,
}

/// What has become of the wish to read an archived version.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RestoreRow {
    /// It is being made, to be kept for so many days; 0 when it is there.
    #[prost(uint32, tag = "1")]
    pub days: u32,
    /// It can be read until then, in milliseconds since the Unix epoch; 0 while it is being made.
    #[prost(uint64, tag = "2")]
    pub until_ms: u64,
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
