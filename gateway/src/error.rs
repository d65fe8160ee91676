//! What can go wrong in the engine, one enum per group of operations. The variant says what the caller can do; the text
//! is for the operator's log, and nothing in it is meant for an S3 client.

use crate::cpu::NotDone;
use crate::protect::WrongKey;
use codec::effect::ChecksumAlgorithm;
use codec::id::ChunkId;
use metadata::client::{CommitError, FrameReadError, LookupError};
use metadata::command::Refusal;
use metadata::kms::KmsFault;
use std::sync::Arc;

/// Why a request body ended before its end. Nothing of such a request is ever visible.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection ended, or sent fewer bytes than it had announced.
    #[error("the body ended early: {0}")]
    Truncated(String),
    /// The framing, a chunk signature or a trailer of the body is wrong: the client's fault, and not worth a retry.
    #[error("the body is malformed: {0}")]
    Malformed(String),
    /// A signature inside the body does not match.
    #[error("a signature in the body does not match: {0}")]
    Signature(String),
    /// The bytes are not those that `x-amz-content-sha256` names.
    #[error("the body does not have the announced SHA-256")]
    PayloadHash,
    /// No byte came for too long.
    #[error("no byte of the body came for {seconds} s")]
    Idle {
        /// How long was waited.
        seconds: u64,
    },
}

/// Why an object could not be read. An error after the first byte ends the connection: never a short success.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The range begins at or after the end of the object, or is empty: 416.
    #[error("range {start}..{end} of an object of {size} bytes")]
    Range {
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// Length of the object.
        size: u64,
    },
    /// What is stored does not verify, and neither could it be rebuilt: 500, and an alarm.
    #[error("chunk {chunk} can't be read: {reason}")]
    Damaged {
        /// The chunk.
        chunk: ChunkId,
        /// What failed.
        reason: String,
    },
    /// The row's manifest is not one: 500, and an alarm.
    #[error("manifest: {0}")]
    Manifest(String),
    /// Too few shards or journal copies of a chunk can be reached: 503, until drives come back. Trying again at once is of
    /// no use.
    #[error("{0}")]
    Unreachable(String),
    /// Too many read at once, and the wait was too long. 503; the client may try again later.
    #[error("too many reads at once")]
    Busy,
    /// 400 or 403: under a client's key that the request does not have.
    #[error(transparent)]
    Key(WrongKey),
    /// 400: under a key of the key store that can't be used.
    #[error("key {key} {fault}")]
    Kms {
        /// Its name.
        key: String,
        /// Why.
        fault: KmsFault,
    },
    /// Not now: the index does not answer, or the store is closing. 503; the client may try again.
    #[error("not available now: {0}")]
    Unavailable(String),
}

/// Why an object or part was not stored. In every case nothing of it is visible.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// 404 NoSuchBucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// 404 NoSuchUpload.
    #[error("no such upload")]
    NoSuchUpload,
    /// 404 NoSuchKey: If-Match on a key that has no version.
    #[error("no such key")]
    NoSuchKey,
    /// 400 KeyTooLongError, or an empty key.
    #[error("the key is empty or too long")]
    BadKey,
    /// 412.
    #[error("a condition of the request does not hold")]
    PreconditionFailed,
    /// 400 or 408, by the body's error.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// 400 IncompleteBody: fewer or more bytes than announced.
    #[error("the body has {got} bytes, {announced} were announced")]
    Length {
        /// Content-Length, or x-amz-decoded-content-length.
        announced: u64,
        /// What came (at least).
        got: u64,
    },
    /// 400 EntityTooLarge.
    #[error("larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// 400 BadDigest: Content-MD5 differs.
    #[error("Content-MD5 does not match the body")]
    Md5Mismatch,
    /// 400 BadDigest: x-amz-checksum-* (header or trailer) differs.
    #[error("the {algorithm:?} checksum does not match the body")]
    ChecksumMismatch {
        /// Its algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// 400 InvalidRequest or MalformedTrailerError: an announced trailer did not come, or is no digest.
    #[error("the announced {algorithm:?} trailer is missing or malformed")]
    TrailerMissing {
        /// The announced algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// 400 InvalidPart.
    #[error("part {number} is not there, or its entity tag or checksum differs")]
    InvalidPart {
        /// Its number.
        number: u32,
    },
    /// 400 InvalidPartOrder.
    #[error("parts are not in ascending order")]
    InvalidPartOrder,
    /// 400 EntityTooSmall: a part other than the last one is below 5 MiB.
    #[error("part {number} is too small")]
    PartTooSmall {
        /// Its number.
        number: u32,
    },
    /// 400 InvalidRequest: the request contradicts itself or the upload.
    #[error("invalid request: {0}")]
    Invalid(&'static str),
    /// 400 or 403: the upload is under a client's key that the request does not have.
    #[error(transparent)]
    Key(WrongKey),
    /// 400: under a key of the key store that can't be used.
    #[error("key {key} {fault}")]
    Kms {
        /// Its name.
        key: String,
        /// Why.
        fault: KmsFault,
    },
    /// Refused for what the request asks of the object besides its bytes, or by what is there: a lock, a quota, a version.
    #[error(transparent)]
    Refused(Refusal),
    /// The source of a copy can't be read.
    #[error("source of the copy: {0}")]
    Source(#[from] GetError),
    /// 507.
    #[error("the store is full")]
    Full,
    /// 503 until an operator acts.
    #[error("read only: {0}")]
    ReadOnly(String),
    /// Too many write at once, and the wait was too long: nothing was read of the body. 503; the client may try again later.
    #[error("too many writes at once")]
    Busy,
    /// 503; the client may try again at once.
    #[error("not available now: {0}")]
    Unavailable(String),
    /// 500: an encoded frame did not decode to what it was made from (R4), or a bug.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<WrongKey> for GetError {
    fn from(error: WrongKey) -> GetError {
        GetError::Key(error)
    }
}

impl From<WrongKey> for PutError {
    fn from(error: WrongKey) -> PutError {
        PutError::Key(error)
    }
}

impl From<LookupError> for GetError {
    fn from(error: LookupError) -> GetError {
        match error {
            LookupError::Kms { key, fault } => GetError::Kms { key, fault },
            LookupError::Unavailable { reason } => GetError::Unavailable(reason),
            LookupError::Damaged { .. } | LookupError::Unknown { .. } => GetError::Manifest(error.to_string()),
        }
    }
}

impl From<FrameReadError> for GetError {
    fn from(error: FrameReadError) -> GetError {
        match error {
            FrameReadError::Unreachable { .. } => GetError::Unreachable(error.to_string()),
            FrameReadError::Unknown(chunk) => GetError::Damaged { chunk, reason: "not known".to_owned() },
            FrameReadError::Lookup(error) => error.into(),
        }
    }
}

impl From<NotDone> for PutError {
    fn from(error: NotDone) -> PutError {
        PutError::Internal(error.to_string())
    }
}

impl From<NotDone> for GetError {
    fn from(error: NotDone) -> GetError {
        GetError::Unavailable(error.to_string())
    }
}

impl From<LookupError> for PutError {
    fn from(error: LookupError) -> PutError {
        match error {
            LookupError::Kms { key, fault } => PutError::Kms { key, fault },
            LookupError::Unavailable { reason } => PutError::Unavailable(reason),
            LookupError::Damaged { .. } | LookupError::Unknown { .. } => PutError::Internal(error.to_string()),
        }
    }
}

impl From<Refusal> for PutError {
    fn from(refusal: Refusal) -> PutError {
        match refusal {
            Refusal::NoSuchBucket => PutError::NoSuchBucket,
            Refusal::NoSuchUpload => PutError::NoSuchUpload,
            Refusal::NoSuchKey => PutError::NoSuchKey,
            Refusal::PreconditionFailed => PutError::PreconditionFailed,
            Refusal::BadKey => PutError::BadKey,
            Refusal::InvalidPart { number } => PutError::InvalidPart { number },
            Refusal::InvalidPartOrder => PutError::InvalidPartOrder,
            Refusal::PartTooSmall { number, .. } => PutError::PartTooSmall { number },
            Refusal::Kms { key, fault } => PutError::Kms { key, fault },
            // The client's repetition begins with a new epoch and the domain as it is, and finds no hit for a chunk that is gone.
            Refusal::MissingChunks(_) | Refusal::Fenced { .. } | Refusal::NoSuchDomain(_) => {
                PutError::Unavailable(refusal.to_string())
            }
            Refusal::Locked(_)
            | Refusal::Retention(_)
            | Refusal::NoLock
            | Refusal::QuotaExceeded { .. }
            | Refusal::TooLarge
            | Refusal::NeedsLevel { .. } => PutError::Refused(refusal),
            other => PutError::Internal(other.to_string()),
        }
    }
}

impl From<&CommitError> for PutError {
    fn from(error: &CommitError) -> PutError {
        match error {
            CommitError::Refused(refusal) => refusal.clone().into(),
            CommitError::ReadOnly { reason } => PutError::ReadOnly(reason.clone()),
            CommitError::Full => PutError::Full,
            CommitError::Unavailable { reason } => PutError::Unavailable(reason.clone()),
        }
    }
}

impl From<CommitError> for PutError {
    fn from(error: CommitError) -> PutError {
        PutError::from(&error)
    }
}

impl From<Arc<CommitError>> for PutError {
    fn from(error: Arc<CommitError>) -> PutError {
        PutError::from(error.as_ref())
    }
}
