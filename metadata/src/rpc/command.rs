//! The commands that a gateway may ask for, what comes of them, and why they are refused, as messages.
//!
//! What has no message here a gateway can't say: whatever decides over drives, settings, accounts, epochs or the life of data.

use super::message::{pack_chunks, unpack_chunks};
use crate::audit::{self, AskedBy};
use crate::command::{
    Command, CommitObject, CompleteUpload, Condition, CreateBucket, CreateUpload, ManifestFault, NewChunk, NewFrame,
    Outcome, Refusal, Replaced,
};
use crate::kms::KmsFault;
use access::lock::{Locked, RetentionError};
use bytes::Bytes;
use codec::effect::{BucketRow, Content, ObjectKeyRow, ObjectMeta, PartRow, StripeRow, UploadName, VersionRow};
use codec::id::{BucketId, ChunkId, DomainId, Epoch, Lsn, StripeId};
use codec::level::FormatLevel;
use prost::{Message, Oneof};

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Message)]
            pub(crate) struct $name { $($(#[$attribute])* pub $field: $kind),* }
        )*
    };
}

mod s3;

/// What a gateway asks for.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CommitMessage {
    /// The epoch that the request began in.
    #[prost(uint64, tag = "1")]
    pub writer: u64,
    #[prost(oneof = "Asked", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 18")]
    pub command: Option<Asked>,
    /// Who asks for it, as far as the gateway knows.
    #[prost(message, optional, tag = "35")]
    pub by: Option<AskerMessage>,
}

/// Who asks a gateway for something.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AskerMessage {
    #[prost(string, tag = "1")]
    pub by: String,
    #[prost(string, tag = "2")]
    pub access_key: String,
    #[prost(string, tag = "3")]
    pub from: String,
}

impl From<AskedBy> for AskerMessage {
    fn from(AskedBy { by, access_key, from }: AskedBy) -> AskerMessage {
        AskerMessage { by, access_key, from }
    }
}

impl From<AskerMessage> for AskedBy {
    fn from(AskerMessage { by, access_key, from }: AskerMessage) -> AskedBy {
        AskedBy { by, access_key, from }
    }
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Asked {
    #[prost(message, tag = "2")]
    CreateBucket(CreateBucketMessage),
    #[prost(uint64, tag = "3")]
    DeleteBucket(u64),
    #[prost(message, tag = "4")]
    ConfigureBucket(ConfigureBucketMessage),
    #[prost(message, tag = "5")]
    CommitStripe(CommitStripeMessage),
    #[prost(message, tag = "6")]
    CommitObject(ObjectMessage),
    #[prost(message, tag = "7")]
    DeleteObject(KeysMessage),
    #[prost(message, tag = "8")]
    DeleteObjects(KeysMessage),
    #[prost(message, tag = "9")]
    CreateUpload(CreateUploadMessage),
    #[prost(message, tag = "10")]
    CommitPart(PartMessage),
    #[prost(message, tag = "11")]
    CompleteUpload(CompleteMessage),
    #[prost(message, tag = "12")]
    AbortUpload(UploadName),
    #[prost(message, tag = "13")]
    ChangeBucket(s3::ChangeBucketMessage),
    #[prost(message, tag = "14")]
    PutBucketConfig(s3::BucketConfigMessage),
    #[prost(message, tag = "17")]
    DeleteVersions(s3::VersionsMessage),
    #[prost(message, tag = "18")]
    ChangeVersion(s3::ChangeVersionMessage),
}

messages! {
    CreateBucketMessage {
        #[prost(string, tag = "1")] name: String,
        #[prost(string, tag = "2")] owner: String,
        #[prost(string, tag = "3")] location: String,
        #[prost(bool, tag = "4")] encrypt: bool,
        #[prost(int32, tag = "5")] zstd_level: i32,
        #[prost(uint64, tag = "6")] now_ms: u64,
        #[prost(message, optional, tag = "7")] with: Option<s3::BucketWithMessage>,
    }
    ConfigureBucketMessage {
        #[prost(uint64, tag = "1")] bucket: u64,
        #[prost(bool, tag = "2")] encrypt: bool,
        #[prost(int32, tag = "3")] zstd_level: i32,
    }
    CommitStripeMessage {
        #[prost(message, optional, tag = "1")] stripe: Option<StripeRow>,
        #[prost(message, repeated, tag = "2")] chunks: Vec<ChunkMessage>,
    }
    /// A new chunk.
    ChunkMessage {
        #[prost(bytes = "bytes", tag = "1")] id: Bytes,
        #[prost(uint64, tag = "2")] domain: u64,
        #[prost(uint32, tag = "3")] plain_len: u32,
        #[prost(bool, tag = "4")] is_manifest: bool,
        #[prost(bytes = "bytes", tag = "5")] children: Bytes,
        /// The frame, if it is to ride in the journal.
        #[prost(bytes = "bytes", optional, tag = "6")] inline: Option<Bytes>,
        #[prost(uint32, tag = "7")] shard: u32,
        #[prost(uint32, tag = "8")] offset: u32,
        #[prost(uint32, tag = "9")] len: u32,
    }
    ConditionMessage {
        /// 0 none, 1 If-None-Match: *, 2 If-None-Match, 3 If-Match: *, 4 If-Match.
        #[prost(uint32, tag = "1")] kind: u32,
        #[prost(string, tag = "2")] etag: String,
    }
    ObjectMessage {
        #[prost(uint64, tag = "1")] bucket: u64,
        #[prost(string, tag = "2")] key: String,
        #[prost(message, optional, tag = "3")] condition: Option<ConditionMessage>,
        #[prost(message, optional, tag = "4")] meta: Option<ObjectMeta>,
        #[prost(message, optional, tag = "5")] content: Option<Content>,
        #[prost(message, repeated, tag = "6")] chunks: Vec<ChunkMessage>,
        #[prost(uint64, tag = "7")] now_ms: u64,
        #[prost(message, optional, tag = "8")] attached: Option<s3::AttachedMessage>,
    }
    KeyMessage {
        #[prost(string, tag = "1")] key: String,
        #[prost(message, optional, tag = "2")] condition: Option<ConditionMessage>,
    }
    KeysMessage {
        #[prost(uint64, tag = "1")] bucket: u64,
        #[prost(message, repeated, tag = "2")] keys: Vec<KeyMessage>,
    }
    CreateUploadMessage {
        #[prost(uint64, tag = "1")] bucket: u64,
        #[prost(string, tag = "2")] key: String,
        #[prost(bytes = "bytes", tag = "3")] nonce: Bytes,
        #[prost(string, tag = "4")] initiator: String,
        #[prost(message, optional, tag = "5")] meta: Option<ObjectMeta>,
        #[prost(int32, tag = "6")] checksum: i32,
        #[prost(bool, tag = "7")] full_object_checksum: bool,
        #[prost(uint64, tag = "8")] domain: u64,
        #[prost(bool, tag = "9")] encrypted: bool,
        #[prost(uint64, tag = "10")] now_ms: u64,
        #[prost(message, optional, tag = "11")] attached: Option<s3::AttachedMessage>,
        #[prost(message, optional, tag = "12")] sealed: Option<ObjectKeyRow>,
    }
    PartMessage {
        #[prost(message, optional, tag = "1")] upload: Option<UploadName>,
        #[prost(uint32, tag = "2")] number: u32,
        #[prost(message, optional, tag = "3")] content: Option<Content>,
        #[prost(message, repeated, tag = "4")] chunks: Vec<ChunkMessage>,
        #[prost(uint64, tag = "5")] now_ms: u64,
    }
    ListedPart {
        #[prost(uint32, tag = "1")] number: u32,
        #[prost(string, tag = "2")] etag: String,
    }
    CompleteMessage {
        #[prost(message, optional, tag = "1")] upload: Option<UploadName>,
        #[prost(message, repeated, tag = "2")] parts: Vec<ListedPart>,
        #[prost(message, optional, tag = "3")] content: Option<Content>,
        #[prost(message, repeated, tag = "4")] chunks: Vec<ChunkMessage>,
        #[prost(message, optional, tag = "5")] condition: Option<ConditionMessage>,
        #[prost(uint64, tag = "6")] now_ms: u64,
        /// 8 bytes.
        #[prost(bytes = "bytes", tag = "7")] nonce: Bytes,
    }
    OutcomeMessage {
        #[prost(oneof = "Came", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")] came: Option<Came>,
        /// Of `Committed`. Releases before this field do not say it.
        #[prost(message, optional, tag = "10")] replaced: Option<ReplacedMessage>,
    }
    ReplacedMessage {
        #[prost(uint64, tag = "1")] lsn: u64,
        #[prost(string, tag = "2")] etag: String,
        #[prost(uint64, tag = "3")] size: u64,
        #[prost(bool, tag = "4")] delete_marker: bool,
    }
    DeletedMessage { #[prost(message, optional, tag = "1")] row: Option<VersionRow> }
    DeletedKey {
        /// There was a version, and it was deleted.
        #[prost(bool, tag = "1")] deleted: bool,
        #[prost(message, optional, tag = "2")] refusal: Option<RefusalMessage>,
    }
    DeletedKeys { #[prost(message, repeated, tag = "1")] keys: Vec<DeletedKey> }
    /// Why a command was refused; what the numbers mean depends on the kind.
    RefusalMessage {
        #[prost(uint32, tag = "1")] kind: u32,
        #[prost(uint64, tag = "2")] a: u64,
        #[prost(uint64, tag = "3")] b: u64,
        #[prost(string, tag = "4")] text: String,
        #[prost(bytes = "bytes", tag = "5")] chunks: Bytes,
    }
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Came {
    #[prost(bool, tag = "1")]
    Done(bool),
    #[prost(message, tag = "2")]
    BucketCreated(BucketRow),
    /// Whether uploads are left.
    #[prost(bool, tag = "3")]
    BucketDeleted(bool),
    #[prost(message, tag = "4")]
    Committed(VersionRow),
    #[prost(message, tag = "5")]
    Deleted(DeletedMessage),
    #[prost(message, tag = "6")]
    DeletedMany(DeletedKeys),
    #[prost(message, tag = "7")]
    UploadCreated(UploadName),
    #[prost(message, tag = "8")]
    PartCommitted(PartRow),
    #[prost(message, tag = "9")]
    VersionsDeleted(s3::GoneMessages),
}

fn condition_message(condition: &Condition) -> Option<ConditionMessage> {
    let (kind, etag) = match condition {
        Condition::None => (0, ""),
        Condition::IfNoneMatchAny => (1, ""),
        Condition::IfNoneMatch(etag) => (2, etag.as_str()),
        Condition::IfMatchAny => (3, ""),
        Condition::IfMatch(etag) => (4, etag.as_str()),
    };
    Some(ConditionMessage { kind, etag: etag.to_owned() })
}

/// A condition that this version does not know must not count as none.
fn condition_of(message: Option<ConditionMessage>) -> Option<Condition> {
    let ConditionMessage { kind, etag } = message?;
    Some(match kind {
        0 => Condition::None,
        1 => Condition::IfNoneMatchAny,
        2 => Condition::IfNoneMatch(etag),
        3 => Condition::IfMatchAny,
        4 => Condition::IfMatch(etag),
        _ => return None,
    })
}

fn chunk_message(chunk: NewChunk) -> ChunkMessage {
    let NewChunk { id, domain, plain_len, frame, is_manifest, children } = chunk;
    let (inline, shard, offset, len) = match frame {
        NewFrame::Inline(frame) => (Some(frame), 0, 0, 0),
        NewFrame::InStripe { shard, offset, len } => (None, shard.into(), offset, len),
    };
    let (id, children) = (pack_chunks([&id]), pack_chunks(&children));
    ChunkMessage { id, domain: domain.0, plain_len, is_manifest, children, inline, shard, offset, len }
}

fn chunk_of(message: ChunkMessage) -> Option<NewChunk> {
    let ChunkMessage { id, domain, plain_len, is_manifest, children, inline, shard, offset, len } = message;
    let frame = match inline {
        Some(frame) => NewFrame::Inline(frame),
        None => NewFrame::InStripe { shard: shard.try_into().ok()?, offset, len },
    };
    let (id, children) = (ChunkId::from_slice(&id)?, unpack_chunks(&children)?);
    Some(NewChunk { id, domain: DomainId(domain), plain_len, frame, is_manifest, children })
}

fn chunk_messages(chunks: Vec<NewChunk>) -> Vec<ChunkMessage> {
    chunks.into_iter().map(chunk_message).collect()
}

fn chunks_of(chunks: Vec<ChunkMessage>) -> Option<Vec<NewChunk>> {
    chunks.into_iter().map(chunk_of).collect()
}

fn keys_message(bucket: BucketId, keys: Vec<(String, Condition)>) -> KeysMessage {
    let key = |(key, condition): (String, Condition)| KeyMessage { key, condition: condition_message(&condition) };
    KeysMessage { bucket: bucket.0, keys: keys.into_iter().map(key).collect() }
}

impl CommitMessage {
    /// `None`: no command of a gateway.
    pub fn new(writer: Epoch, command: Command) -> Option<CommitMessage> {
        let asked = match command {
            Command::CreateBucket(CreateBucket { name, owner, location, encrypt, zstd_level, now_ms, with }) => {
                let with = s3::with_message(with);
                Asked::CreateBucket(CreateBucketMessage { name, owner, location, encrypt, zstd_level, now_ms, with })
            }
            Command::DeleteBucket { bucket } => Asked::DeleteBucket(bucket.0),
            Command::ConfigureBucket { bucket: BucketId(bucket), encrypt, zstd_level } => {
                Asked::ConfigureBucket(ConfigureBucketMessage { bucket, encrypt, zstd_level })
            }
            Command::CommitStripe { stripe, chunks } => {
                let (stripe, chunks) = (Some(stripe), chunk_messages(chunks));
                Asked::CommitStripe(CommitStripeMessage { stripe, chunks })
            }
            Command::CommitObject(object) => Asked::CommitObject(object_message(object)),
            Command::DeleteObject { bucket, key, condition } => {
                Asked::DeleteObject(keys_message(bucket, vec![(key, condition)]))
            }
            Command::DeleteObjects { bucket, keys } => Asked::DeleteObjects(keys_message(bucket, keys)),
            Command::CreateUpload(upload) => Asked::CreateUpload(upload_message(upload)),
            Command::CommitPart { upload, number, content, chunks, now_ms } => {
                let (upload, content, chunks) = (Some(upload), Some(content), chunk_messages(chunks));
                Asked::CommitPart(PartMessage { upload, number, content, chunks, now_ms })
            }
            Command::CompleteUpload(complete) => Asked::CompleteUpload(complete_message(complete)),
            Command::AbortUpload { upload } => Asked::AbortUpload(upload),
            Command::ChangeBucket { bucket, change } => Asked::ChangeBucket(s3::change_bucket_message(bucket, change)),
            Command::PutBucketConfig(put) => Asked::PutBucketConfig(s3::config_message(put)),
            Command::DeleteVersions(delete) => Asked::DeleteVersions(s3::versions_message(delete)),
            Command::ChangeVersion(change) => Asked::ChangeVersion(s3::change_message(change)),
            _ => return None,
        };
        let by = audit::asker().map(AskerMessage::from);
        Some(CommitMessage { writer: writer.0, command: Some(asked), by })
    }

    /// `None`: nothing that this version understands.
    pub fn value(self) -> Option<(Epoch, Command)> {
        let command = match self.command? {
            Asked::CreateBucket(CreateBucketMessage { name, owner, location, encrypt, zstd_level, now_ms, with }) => {
                let with = s3::with_of(with)?;
                Command::CreateBucket(CreateBucket { name, owner, location, encrypt, zstd_level, now_ms, with })
            }
            Asked::DeleteBucket(bucket) => Command::DeleteBucket { bucket: BucketId(bucket) },
            Asked::ConfigureBucket(ConfigureBucketMessage { bucket, encrypt, zstd_level }) => {
                Command::ConfigureBucket { bucket: BucketId(bucket), encrypt, zstd_level }
            }
            Asked::CommitStripe(CommitStripeMessage { stripe, chunks }) => {
                Command::CommitStripe { stripe: stripe?, chunks: chunks_of(chunks)? }
            }
            Asked::CommitObject(object) => Command::CommitObject(object_of(object)?),
            Asked::DeleteObject(KeysMessage { bucket, mut keys }) => {
                let KeyMessage { key, condition } = keys.pop().filter(|_| keys.is_empty())?;
                Command::DeleteObject { bucket: BucketId(bucket), key, condition: condition_of(condition)? }
            }
            Asked::DeleteObjects(KeysMessage { bucket, keys }) => {
                let key = |key: KeyMessage| Some((key.key, condition_of(key.condition)?));
                let keys = keys.into_iter().map(key).collect::<Option<_>>()?;
                Command::DeleteObjects { bucket: BucketId(bucket), keys }
            }
            Asked::CreateUpload(upload) => Command::CreateUpload(upload_of(upload)?),
            Asked::CommitPart(PartMessage { upload, number, content, chunks, now_ms }) => {
                let (upload, content, chunks) = (upload?, content?, chunks_of(chunks)?);
                Command::CommitPart { upload, number, content, chunks, now_ms }
            }
            Asked::CompleteUpload(complete) => Command::CompleteUpload(complete_of(complete)?),
            Asked::AbortUpload(upload) => Command::AbortUpload { upload },
            Asked::ChangeBucket(message) => {
                let (bucket, change) = s3::change_bucket_of(message)?;
                Command::ChangeBucket { bucket, change }
            }
            Asked::PutBucketConfig(message) => Command::PutBucketConfig(s3::config_of(message)?),
            Asked::DeleteVersions(message) => Command::DeleteVersions(s3::versions_of(message)?),
            Asked::ChangeVersion(message) => Command::ChangeVersion(s3::change_of(message)?),
        };
        Some((Epoch(self.writer), command))
    }
}

fn object_message(object: CommitObject) -> ObjectMessage {
    let CommitObject { bucket: BucketId(bucket), key, condition, meta, content, chunks, now_ms, attached } = object;
    let (condition, chunks) = (condition_message(&condition), chunk_messages(chunks));
    let (meta, content, attached) = (Some(meta), Some(content), s3::attached_message(attached));
    ObjectMessage { bucket, key, condition, meta, content, chunks, now_ms, attached }
}

fn object_of(message: ObjectMessage) -> Option<CommitObject> {
    let ObjectMessage { bucket, key, condition, meta, content, chunks, now_ms, attached } = message;
    let (condition, chunks) = (condition_of(condition)?, chunks_of(chunks)?);
    let (bucket, meta, content, attached) = (BucketId(bucket), meta?, content?, s3::attached_of(attached)?);
    Some(CommitObject { bucket, key, condition, meta, content, chunks, now_ms, attached })
}

fn upload_message(upload: CreateUpload) -> CreateUploadMessage {
    CreateUploadMessage {
        bucket: upload.bucket.0,
        key: upload.key,
        nonce: Bytes::copy_from_slice(&upload.nonce),
        initiator: upload.initiator,
        meta: Some(upload.meta),
        checksum: upload.checksum,
        full_object_checksum: upload.full_object_checksum,
        domain: upload.domain.0,
        encrypted: upload.encrypted,
        now_ms: upload.now_ms,
        attached: s3::attached_message(upload.attached),
        sealed: upload.sealed,
    }
}

fn upload_of(message: CreateUploadMessage) -> Option<CreateUpload> {
    Some(CreateUpload {
        bucket: BucketId(message.bucket),
        key: message.key,
        nonce: (*message.nonce).try_into().ok()?,
        initiator: message.initiator,
        meta: message.meta?,
        checksum: message.checksum,
        full_object_checksum: message.full_object_checksum,
        domain: DomainId(message.domain),
        encrypted: message.encrypted,
        now_ms: message.now_ms,
        attached: s3::attached_of(message.attached)?,
        sealed: message.sealed,
    })
}

fn complete_message(complete: CompleteUpload) -> CompleteMessage {
    let CompleteUpload { upload, parts, content, chunks, condition, now_ms, nonce } = complete;
    let parts = parts.into_iter().map(|(number, etag)| ListedPart { number, etag }).collect();
    let (chunks, condition) = (chunk_messages(chunks), condition_message(&condition));
    let (upload, content, nonce) = (Some(upload), Some(content), s3::nonce_message(nonce));
    CompleteMessage { upload, parts, content, chunks, condition, now_ms, nonce }
}

fn complete_of(message: CompleteMessage) -> Option<CompleteUpload> {
    let CompleteMessage { upload, parts, content, chunks, condition, now_ms, nonce } = message;
    let parts = parts.into_iter().map(|part| (part.number, part.etag)).collect();
    let (chunks, condition) = (chunks_of(chunks)?, condition_of(condition)?);
    let (upload, content, nonce) = (upload?, content?, s3::nonce_of(&nonce)?);
    Some(CompleteUpload { upload, parts, content, chunks, condition, now_ms, nonce })
}

fn replaced_message(of: Replaced) -> ReplacedMessage {
    ReplacedMessage { lsn: of.lsn.0, etag: of.etag, size: of.size, delete_marker: of.delete_marker }
}

fn replaced_of(of: ReplacedMessage) -> Replaced {
    Replaced { lsn: Lsn(of.lsn), etag: of.etag, size: of.size, delete_marker: of.delete_marker }
}

impl OutcomeMessage {
    /// `None`: of no command of a gateway.
    pub fn new(outcome: Outcome) -> Option<OutcomeMessage> {
        let mut of_commit = None;
        let came = match outcome {
            Outcome::Done => Came::Done(true),
            Outcome::BucketCreated(row) => Came::BucketCreated(row),
            Outcome::BucketDeleted { uploads_left } => Came::BucketDeleted(uploads_left),
            Outcome::Committed(row, replaced) => {
                of_commit = replaced.map(|replaced| replaced_message(*replaced));
                Came::Committed(*row)
            }
            Outcome::Deleted(row) => Came::Deleted(DeletedMessage { row: row.map(|row| *row) }),
            Outcome::DeletedMany(keys) => {
                let key = |key: Result<bool, Refusal>| match key {
                    Ok(deleted) => Some(DeletedKey { deleted, refusal: None }),
                    Err(refusal) => Some(DeletedKey { deleted: false, refusal: Some(refusal_message(&refusal)?) }),
                };
                Came::DeletedMany(DeletedKeys { keys: keys.into_iter().map(key).collect::<Option<_>>()? })
            }
            Outcome::UploadCreated(name) => Came::UploadCreated(name),
            Outcome::PartCommitted(row) => Came::PartCommitted(*row),
            Outcome::VersionsDeleted(versions) => Came::VersionsDeleted(s3::gone_messages(versions)?),
            _ => return None,
        };
        Some(OutcomeMessage { came: Some(came), replaced: of_commit })
    }

    pub fn value(self) -> Option<Outcome> {
        let OutcomeMessage { came, replaced } = self;
        Some(match came? {
            Came::Done(_) => Outcome::Done,
            Came::BucketCreated(row) => Outcome::BucketCreated(row),
            Came::BucketDeleted(uploads_left) => Outcome::BucketDeleted { uploads_left },
            Came::Committed(row) => Outcome::Committed(Box::new(row), replaced.map(|of| Box::new(replaced_of(of)))),
            Came::Deleted(DeletedMessage { row }) => Outcome::Deleted(row.map(Box::new)),
            Came::DeletedMany(DeletedKeys { keys }) => {
                let key = |key: DeletedKey| match key.refusal {
                    None => Some(Ok(key.deleted)),
                    Some(refusal) => Some(Err(refusal_of(&refusal)?)),
                };
                Outcome::DeletedMany(keys.into_iter().map(key).collect::<Option<_>>()?)
            }
            Came::UploadCreated(name) => Outcome::UploadCreated(name),
            Came::PartCommitted(row) => Outcome::PartCommitted(Box::new(row)),
            Came::VersionsDeleted(versions) => Outcome::VersionsDeleted(s3::gone_of(versions)?),
        })
    }
}

fn plain(kind: u32) -> RefusalMessage {
    RefusalMessage { kind, ..RefusalMessage::default() }
}

fn of_stripe(kind: u32, id: StripeId) -> RefusalMessage {
    RefusalMessage { a: id.epoch.0, b: id.counter, ..plain(kind) }
}

/// `None`: no refusal of a gateway's command. Its words go along in any case.
pub(crate) fn refusal_message(refusal: &Refusal) -> Option<RefusalMessage> {
    Some(match refusal {
        Refusal::NoSuchBucket => plain(1),
        Refusal::BucketExists => plain(2),
        Refusal::BucketOwnedByYou => plain(3),
        Refusal::BucketNotEmpty => plain(4),
        Refusal::NoSuchKey => plain(5),
        Refusal::PreconditionFailed => plain(6),
        Refusal::BadKey => plain(7),
        Refusal::NoSuchUpload => plain(8),
        Refusal::InvalidPart { number } => RefusalMessage { a: u64::from(*number), ..plain(9) },
        Refusal::InvalidPartOrder => plain(10),
        Refusal::PartTooSmall { number, size, etag } => {
            RefusalMessage { a: u64::from(*number), b: *size, text: etag.clone(), ..plain(11) }
        }
        Refusal::MissingChunks(ids) => RefusalMessage { chunks: pack_chunks(ids), ..plain(12) },
        Refusal::BadManifest(fault) => RefusalMessage { a: fault_number(*fault), ..plain(13) },
        Refusal::Fenced { writer, current } => RefusalMessage { a: writer.0, b: current.0, ..plain(14) },
        Refusal::BadStripe(id) => of_stripe(15, *id),
        Refusal::NoSuchAccount => plain(16),
        Refusal::TooLarge => plain(17),
        Refusal::NoSuchDomain(id) => RefusalMessage { a: id.0, ..plain(18) },
        Refusal::NeedsLevel { needs, at } => RefusalMessage { a: needs.0.into(), b: at.0.into(), ..plain(19) },
        Refusal::NoSuchVersion => plain(20),
        Refusal::Locked(locked) => RefusalMessage { a: locked_number(*locked), ..plain(21) },
        Refusal::VersioningLocked => plain(22),
        Refusal::IsDeleteMarker => plain(23),
        Refusal::NotVersioned => plain(24),
        Refusal::QuotaExceeded { account } => RefusalMessage { a: (*account).into(), ..plain(25) },
        Refusal::NoLock => plain(26),
        Refusal::Retention(error) => RefusalMessage { a: retention_number(*error), ..plain(27) },
        Refusal::Kms { key, fault } => RefusalMessage { a: kms_number(*fault), text: key.clone(), ..plain(45) },
        Refusal::NoSuchWebhook(name) => RefusalMessage { text: name.clone(), ..plain(50) },
        _ => return None,
    })
}

pub(crate) fn refusal_of(message: &RefusalMessage) -> Option<Refusal> {
    let part = || u32::try_from(message.a).ok();
    Some(match message.kind {
        1 => Refusal::NoSuchBucket,
        2 => Refusal::BucketExists,
        3 => Refusal::BucketOwnedByYou,
        4 => Refusal::BucketNotEmpty,
        5 => Refusal::NoSuchKey,
        6 => Refusal::PreconditionFailed,
        7 => Refusal::BadKey,
        8 => Refusal::NoSuchUpload,
        9 => Refusal::InvalidPart { number: part()? },
        10 => Refusal::InvalidPartOrder,
        11 => Refusal::PartTooSmall { number: part()?, size: message.b, etag: message.text.clone() },
        12 => Refusal::MissingChunks(unpack_chunks(&message.chunks)?),
        13 => Refusal::BadManifest(fault_of(message.a)?),
        14 => Refusal::Fenced { writer: Epoch(message.a), current: Epoch(message.b) },
        15 => Refusal::BadStripe(StripeId { epoch: Epoch(message.a), counter: message.b }),
        16 => Refusal::NoSuchAccount,
        17 => Refusal::TooLarge,
        18 => Refusal::NoSuchDomain(DomainId(message.a)),
        19 => Refusal::NeedsLevel { needs: level_of(message.a)?, at: level_of(message.b)? },
        20 => Refusal::NoSuchVersion,
        21 => Refusal::Locked(locked_of(message.a)?),
        22 => Refusal::VersioningLocked,
        23 => Refusal::IsDeleteMarker,
        24 => Refusal::NotVersioned,
        25 => Refusal::QuotaExceeded { account: message.a == 1 },
        26 => Refusal::NoLock,
        27 => Refusal::Retention(retention_of(message.a)?),
        50 => Refusal::NoSuchWebhook(message.text.clone()),
        45 => Refusal::Kms { key: message.text.clone(), fault: kms_of(message.a)? },
        _ => return None,
    })
}

fn kms_number(fault: KmsFault) -> u64 {
    match fault {
        KmsFault::Unknown => 1,
        KmsFault::Disabled => 2,
        KmsFault::Leaving => 3,
        KmsFault::Destroyed => 4,
    }
}

fn kms_of(number: u64) -> Option<KmsFault> {
    Some(match number {
        1 => KmsFault::Unknown,
        2 => KmsFault::Disabled,
        3 => KmsFault::Leaving,
        4 => KmsFault::Destroyed,
        _ => return None,
    })
}

fn level_of(number: u64) -> Option<FormatLevel> {
    u32::try_from(number).ok().map(FormatLevel)
}

fn locked_number(locked: Locked) -> u64 {
    match locked {
        Locked::Hold => 1,
        Locked::Compliance => 2,
        Locked::Governance => 3,
    }
}

fn locked_of(number: u64) -> Option<Locked> {
    Some(match number {
        1 => Locked::Hold,
        2 => Locked::Compliance,
        3 => Locked::Governance,
        _ => return None,
    })
}

fn retention_number(error: RetentionError) -> u64 {
    match error {
        RetentionError::Locked(locked) => locked_number(locked),
        RetentionError::Past => 10,
        RetentionError::TooFar => 11,
    }
}

fn retention_of(number: u64) -> Option<RetentionError> {
    Some(match number {
        10 => RetentionError::Past,
        11 => RetentionError::TooFar,
        locked => RetentionError::Locked(locked_of(locked)?),
    })
}

fn fault_number(fault: ManifestFault) -> u64 {
    match fault {
        ManifestFault::Malformed => 1,
        ManifestFault::Length => 2,
        ManifestFault::Chunk => 3,
        ManifestFault::Frame => 4,
    }
}

fn fault_of(number: u64) -> Option<ManifestFault> {
    Some(match number {
        1 => ManifestFault::Malformed,
        2 => ManifestFault::Length,
        3 => ManifestFault::Chunk,
        4 => ManifestFault::Frame,
        _ => return None,
    })
}
