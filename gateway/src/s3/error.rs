//! Errors of the engine and of metadata as S3 codes: the only place where that happens.
//!
//! Two texts are kept apart. The client gets a code and a sentence that names nothing of the inside; what an operator
//! needs is logged here, where the error is consumed, and only when it is ours: a 4xx is the client's and is not logged.

use super::encryption;
use super::request::is_sayable;
use crate::error::{BodyError, GetError, PutError};
use crate::protect::WrongKey;
use access::acl::AclError;
use access::lock::RetentionError;
use http::StatusCode;
use metadata::client::{CommitError, LookupError};
use metadata::command::Refusal;
use metadata::kms::KmsFault;
use s3s::stream::aws_chunked_stream::AwsChunkedStreamError;
use s3s::stream::upload_stream::UploadStreamError;
use s3s::{BodySizeLimitExceeded, S3Error, S3ErrorCode, StdError, s3_error};

/// A code that `s3s` has no word for.
pub fn custom(code: &'static str, status: StatusCode, message: &'static str) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(status);
    error
}

/// `error` with a message that XML can say. What repeats a part of the request may have any character, and `s3s` would make a failure
/// of the server's own of it.
pub fn sayable(mut error: S3Error) -> S3Error {
    if let Some(message) = error.message().filter(|message| !message.chars().all(is_sayable)) {
        let message: String = message.chars().map(|c| if is_sayable(c) { c } else { '\u{fffd}' }).collect();
        error.set_message(message);
    }
    error
}

/// 501: an operation or protection that is not given.
pub fn not_implemented(what: &str) -> S3Error {
    s3_error!(NotImplemented, "{what} is not implemented")
}

/// 507: no room for client data. Reads and deletes still work.
pub fn full() -> S3Error {
    custom("InsufficientStorage", StatusCode::INSUFFICIENT_STORAGE, "The store is full. Reads and deletes still work.")
}

fn read_only(reason: &str) -> S3Error {
    tracing::warn!(reason, "a write was refused: read-only");
    s3_error!(ServiceUnavailable, "Writes are not accepted at present; reads are.")
}

fn unavailable(reason: &str) -> S3Error {
    tracing::warn!(reason, "a request was refused: not available now");
    s3_error!(SlowDown, "Please try again.")
}

/// 503 for a request that waited too long for its turn. SDKs wait longer with each try after this code.
pub fn slow_down() -> S3Error {
    tracing::warn!("a request was refused: too many at once");
    s3_error!(SlowDown, "Please reduce your request rate.")
}

/// 503 for a connection that there is no descriptor for. Whoever meets it logs it, once for many.
pub fn out_of_descriptors() -> S3Error {
    s3_error!(SlowDown, "Please reduce your request rate.")
}

/// 503 that stays until drives come back. The operator's line comes from where it is known what was asked for
/// ([`crate::noted::ReadAlarm`]): an SDK repeats the request for a while, and each time would be a line.
fn unreachable() -> S3Error {
    s3_error!(ServiceUnavailable, "This object can't be read at present. Try again later.")
}

/// 500, with the reason in the log only.
pub fn internal(reason: &dyn std::fmt::Display) -> S3Error {
    tracing::error!(%reason, "internal error");
    internal_error()
}

fn internal_error() -> S3Error {
    s3_error!(InternalError, "We encountered an internal error. Please try again.")
}

/// 411.
pub fn missing_length() -> S3Error {
    s3_error!(MissingContentLength, "You must provide the Content-Length HTTP header.")
}

/// 412.
pub fn precondition_failed() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

/// A list that is not taken.
pub fn acl(error: &AclError) -> S3Error {
    match error {
        AclError::TooMany => {
            custom("MalformedACLError", StatusCode::BAD_REQUEST, "The list has more grants than a list may have.")
        }
        AclError::Owner => s3_error!(AccessDenied, "Access Denied"),
        AclError::Both => {
            s3_error!(InvalidRequest, "Specifying both Canned ACLs and Header Grants is not allowed")
        }
        AclError::Unknown(_) => s3_error!(InvalidArgument, "Invalid id"),
        AclError::Canned(_) | AclError::Header(_) | AclError::Group(_) => s3_error!(InvalidArgument, "{error}"),
    }
}

/// 400 for a policy that is none, or that is not understood.
pub fn policy(fault: &dyn std::fmt::Display) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom("MalformedPolicy".into()), fault.to_string());
    error.set_status_code(StatusCode::BAD_REQUEST);
    error
}

/// 400 for a grant to an address that no account has.
pub fn unresolvable_email() -> S3Error {
    custom(
        "UnresolvableGrantByEmailAddress",
        StatusCode::BAD_REQUEST,
        "The email address you provided does not match any account on record.",
    )
}

/// 400 for a list where lists count for nothing.
pub fn lists_disabled() -> S3Error {
    custom("AccessControlListNotSupported", StatusCode::BAD_REQUEST, "The bucket does not allow ACLs")
}

/// 400 for a list of a new bucket in which lists are to count for nothing.
pub fn lists_with_ownership() -> S3Error {
    custom(
        "InvalidBucketAclWithObjectOwnership",
        StatusCode::BAD_REQUEST,
        "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
    )
}

/// 404 for a key.
pub fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

/// 404 for a version.
pub fn no_such_version() -> S3Error {
    s3_error!(NoSuchVersion, "The specified version does not exist.")
}

/// 405 for whoever asks for a delete marker as if it were an object.
pub fn is_delete_marker() -> S3Error {
    s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource.")
}

/// 404 for a bucket.
pub fn no_such_bucket() -> S3Error {
    s3_error!(NoSuchBucket, "The specified bucket does not exist")
}

/// 404 for an upload.
pub fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    )
}

fn invalid_part() -> S3Error {
    s3_error!(
        InvalidPart,
        "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified \
         entity tag may not match the part's entity tag."
    )
}

fn invalid_part_order() -> S3Error {
    s3_error!(InvalidPartOrder, "The list of parts was not in ascending order. Parts must be ordered by part number.")
}

fn part_too_small() -> S3Error {
    s3_error!(EntityTooSmall, "Your proposed upload is smaller than the minimum allowed size")
}

/// A request body as the engine wants its errors.
pub fn body(source: StdError) -> BodyError {
    let text = source.to_string();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(source.as_ref());
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<AwsChunkedStreamError>() {
            match error {
                AwsChunkedStreamError::SignatureMismatch => return BodyError::Signature(text),
                AwsChunkedStreamError::Incomplete => return BodyError::Truncated(text),
                AwsChunkedStreamError::Underlying(_) => {}
                _ => return BodyError::Malformed(text),
            }
        } else if let Some(error) = error.downcast_ref::<UploadStreamError>() {
            match error {
                UploadStreamError::Sha256Mismatch => return BodyError::PayloadHash,
                UploadStreamError::Incomplete | UploadStreamError::LengthMismatch => return BodyError::Truncated(text),
                UploadStreamError::Underlying(_) => {}
            }
        } else if error.is::<BodySizeLimitExceeded>() {
            return BodyError::Malformed(text);
        }
        next = error.source();
    }
    BodyError::Truncated(text)
}

/// 400: the payload is not what `x-amz-content-sha256` says.
pub fn payload_hash() -> S3Error {
    custom(
        "XAmzContentSHA256Mismatch",
        StatusCode::BAD_REQUEST,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    )
}

fn body_answer(error: &BodyError) -> S3Error {
    match error {
        BodyError::Truncated(_) => {
            s3_error!(
                IncompleteBody,
                "You did not provide the number of bytes specified by the Content-Length HTTP header"
            )
        }
        BodyError::Malformed(_) => s3_error!(InvalidRequest, "The request body is malformed."),
        BodyError::Signature(_) => s3_error!(SignatureDoesNotMatch),
        BodyError::PayloadHash => payload_hash(),
        BodyError::Idle { .. } => too_slow(),
    }
}

/// 400: the body did not come in time.
pub fn too_slow() -> S3Error {
    s3_error!(
        RequestTimeout,
        "Your socket connection to the server was not read from or written to within the timeout period."
    )
}

/// A write that did not happen.
pub fn put(error: PutError) -> S3Error {
    match error {
        PutError::NoSuchBucket => no_such_bucket(),
        PutError::NoSuchUpload => no_such_upload(),
        PutError::NoSuchKey => no_such_key(),
        PutError::PreconditionFailed => precondition_failed(),
        PutError::BadKey => s3_error!(KeyTooLongError, "Your key is too long"),
        PutError::Body(error) => body_answer(&error),
        PutError::Length { .. } => {
            s3_error!(
                IncompleteBody,
                "You did not provide the number of bytes specified by the Content-Length HTTP header"
            )
        }
        PutError::TooLarge { .. } => {
            s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed object size.")
        }
        PutError::Md5Mismatch => bad_digest("Content-MD5"),
        PutError::ChecksumMismatch { algorithm } => bad_digest(crate::s3::request::algorithm_name(algorithm)),
        PutError::TrailerMissing { .. } => custom(
            "MalformedTrailerError",
            StatusCode::BAD_REQUEST,
            "The request contained trailing data that was not well-formed.",
        ),
        PutError::InvalidPart { .. } => invalid_part(),
        PutError::InvalidPartOrder => invalid_part_order(),
        PutError::PartTooSmall { .. } => part_too_small(),
        PutError::Invalid(what) => s3_error!(InvalidRequest, "{what}"),
        PutError::Key(WrongKey::Missing) => encryption::key_missing(),
        PutError::Key(WrongKey::Other) => encryption::wrong_key(),
        PutError::Kms { key, fault } => kms(&key, fault),
        PutError::Refused(refusal) => refused(refusal),
        PutError::Source(error) => get(error),
        PutError::Full => full(),
        PutError::ReadOnly(reason) => read_only(&reason),
        PutError::Busy => slow_down(),
        PutError::Unavailable(reason) => unavailable(&reason),
        PutError::Internal(reason) => internal(&reason),
    }
}

/// 400: a digest that the client sent differs from the body's.
pub fn bad_digest(which: &str) -> S3Error {
    s3_error!(BadDigest, "The {which} you specified did not match the calculated checksum.")
}

/// A read that did not happen. What is wrong with the object is logged by [`crate::noted::ReadAlarm`].
pub fn get(error: GetError) -> S3Error {
    match error {
        GetError::Range { .. } => invalid_range(),
        GetError::Unreachable(_) => unreachable(),
        GetError::Busy => slow_down(),
        GetError::Unavailable(reason) => unavailable(&reason),
        GetError::Key(WrongKey::Missing) => encryption::key_missing(),
        GetError::Key(WrongKey::Other) => encryption::wrong_key(),
        GetError::Kms { key, fault } => kms(&key, fault),
        GetError::Damaged { .. } | GetError::Manifest(_) => internal_error(),
    }
}

/// 400: a key of the key store can't be used.
pub fn kms(key: &str, fault: KmsFault) -> S3Error {
    let code = match fault {
        KmsFault::Unknown => "KMS.NotFoundException",
        KmsFault::Disabled => "KMS.DisabledException",
        KmsFault::Leaving | KmsFault::Destroyed => "KMS.KMSInvalidStateException",
    };
    // Whoever names one may name it with megabytes.
    let key: String = key.chars().take(256).collect();
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), format!("The key {key} {fault}."));
    error.set_status_code(StatusCode::BAD_REQUEST);
    error
}

/// 416.
pub fn invalid_range() -> S3Error {
    s3_error!(InvalidRange, "The requested range is not satisfiable")
}

/// A commit that did not happen.
pub fn commit(error: CommitError) -> S3Error {
    match error {
        CommitError::Refused(refusal) => refused(refusal),
        CommitError::ReadOnly { reason } => read_only(&reason),
        CommitError::Full => full(),
        CommitError::Unavailable { reason } => unavailable(&reason),
    }
}

/// A refused command.
pub fn refused(refusal: Refusal) -> S3Error {
    match refusal {
        Refusal::NoSuchBucket => no_such_bucket(),
        Refusal::BucketExists => s3_error!(
            BucketAlreadyExists,
            "The requested bucket name is not available. The bucket namespace is shared by all users of the system. \
             Please select a different name and try again."
        ),
        Refusal::BucketOwnedByYou => s3_error!(
            BucketAlreadyOwnedByYou,
            "Your previous request to create the named bucket succeeded and you already own it."
        ),
        Refusal::BucketNotEmpty => s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty"),
        Refusal::NoSuchKey => no_such_key(),
        Refusal::PreconditionFailed => precondition_failed(),
        Refusal::BadKey => s3_error!(KeyTooLongError, "Your key is too long"),
        Refusal::NoSuchUpload => no_such_upload(),
        Refusal::InvalidPart { .. } => invalid_part(),
        Refusal::InvalidPartOrder => invalid_part_order(),
        Refusal::PartTooSmall { .. } => part_too_small(),
        Refusal::Fenced { .. } => unavailable("the epoch changed while the request ran"),
        Refusal::Kms { key, fault } => kms(&key, fault),
        Refusal::NoSuchDomain(_) => unavailable("the account's dedup domain was lost"),
        Refusal::NoSuchReplication => s3_error!(InvalidRequest, "The bucket has no replication."),
        Refusal::ReplicationTargetTaken => s3_error!(InvalidRequest, "Another bucket is copied there."),
        Refusal::NoSuchVersion => no_such_version(),
        Refusal::IsDeleteMarker => is_delete_marker(),
        Refusal::Locked(_) => s3_error!(AccessDenied, "Access Denied because object protected by object lock."),
        Refusal::Retention(RetentionError::Locked(_)) => {
            s3_error!(AccessDenied, "Access Denied because object protected by object lock.")
        }
        Refusal::Retention(error) => s3_error!(InvalidArgument, "{error}"),
        Refusal::NoLock => s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"),
        Refusal::VersioningLocked => s3_error!(
            InvalidBucketState,
            "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed."
        ),
        Refusal::NotVersioned => s3_error!(
            InvalidBucketState,
            "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration"
        ),
        Refusal::NoSuchWebhook(name) => s3_error!(
            InvalidArgument,
            "Unable to validate the following destination configurations: there is no webhook {name}"
        ),
        Refusal::QuotaExceeded { .. } => custom(
            "QuotaExceeded",
            StatusCode::FORBIDDEN,
            "The quota of the bucket or of its account would be exceeded.",
        ),
        error @ Refusal::NeedsLevel { .. } => {
            tracing::warn!(%error, "a request needs a later format level");
            s3_error!(NotImplemented, "This is not available until the upgrade of the store is finished.")
        }
        Refusal::TooLarge => s3_error!(InvalidRequest, "The request is larger than one request may be."),
        other => internal(&other),
    }
}

/// A lookup that has no answer.
pub fn lookup(error: LookupError) -> S3Error {
    match error {
        LookupError::Unavailable { reason } => unavailable(&reason),
        LookupError::Kms { key, fault } => kms(&key, fault),
        error @ (LookupError::Damaged { .. } | LookupError::Unknown { .. }) => internal(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r14_full_is_507_and_read_only_is_503() {
        assert_eq!(put(PutError::Full).status_code(), Some(StatusCode::INSUFFICIENT_STORAGE));
        assert_eq!(commit(CommitError::Full).code().as_str(), "InsufficientStorage");
        let error = put(PutError::ReadOnly("drive /secret/path".into()));
        assert_eq!(error.status_code(), Some(StatusCode::SERVICE_UNAVAILABLE));
        assert!(!error.message().unwrap_or_default().contains("secret"), "nothing of the inside reaches a client");
    }

    #[test]
    fn what_drives_have_to_come_back_for_is_no_reason_to_hurry() {
        let of = |error| (get(error), StatusCode::SERVICE_UNAVAILABLE);
        for (error, code) in [
            (GetError::Unreachable("drive /secret".into()), "ServiceUnavailable"),
            (GetError::Busy, "SlowDown"),
            (GetError::Unavailable(String::new()), "SlowDown"),
        ] {
            let (answer, status) = of(error);
            assert_eq!((answer.code().as_str(), answer.status_code()), (code, Some(status)));
            assert!(!answer.message().unwrap_or_default().contains("secret"));
        }
        assert_eq!(put(PutError::Busy).code().as_str(), "SlowDown");
    }

    #[test]
    fn faults_of_a_body_are_the_clients() {
        let wrapped = |error: AwsChunkedStreamError| body(Box::new(AwsChunkedStreamError::Underlying(Box::new(error))));
        for (error, code) in [
            (wrapped(AwsChunkedStreamError::SignatureMismatch), "SignatureDoesNotMatch"),
            (wrapped(AwsChunkedStreamError::Incomplete), "IncompleteBody"),
            (wrapped(AwsChunkedStreamError::FormatError), "InvalidRequest"),
            (body(Box::new(UploadStreamError::Sha256Mismatch)), "XAmzContentSHA256Mismatch"),
            (body(Box::new(std::io::Error::other("reset"))), "IncompleteBody"),
            (BodyError::Idle { seconds: 60 }, "RequestTimeout"),
        ] {
            let answer = put(PutError::Body(error));
            assert_eq!(answer.code().as_str(), code);
            assert!(answer.status_code().is_some_and(|status| status.is_client_error()));
        }
    }

    #[test]
    fn the_inside_is_not_shown() {
        let error = put(PutError::Internal("/data/drives/3".into()));
        assert!(!error.message().unwrap_or_default().contains("drives"));
        assert!(error.source().is_none());
    }
}
