//! PutBucketLogging and GetBucketLogging. What becomes of the lines is [`crate::access_log`]'s business.
//!
//! Invariant: logging is turned on only into a bucket whose policy lets the logging service in, for this source, and it is asked again
//! at each delivery: nobody writes into another one's bucket by logging his own.

use super::{bucket, error, policy};
use crate::access_log::Target;
use crate::auth;
use crate::configs;
use crate::engine::Gateway;
use access::policy::Context;
use codec::effect::{BucketRow, ConfigKind};
use metadata::client::MetadataClient;
use s3s::dto::{
    BucketLoggingStatus, GetBucketLoggingInput, GetBucketLoggingOutput, LoggingEnabled, PartitionDateSource,
    PutBucketLoggingInput, PutBucketLoggingOutput,
};
use s3s::{S3Request, S3Response, S3Result, StdError, s3_error};

/// Who delivers, as policies name it.
const SERVICE: &str = "logging.s3.amazonaws.com";
/// Longest prefix, in bytes: the rest of the key has room behind it.
const MAX_PREFIX: usize = 800;

/// PutBucketLogging.
pub async fn put(
    gateway: &Gateway,
    req: S3Request<PutBucketLoggingInput>,
) -> S3Result<S3Response<PutBucketLoggingOutput>> {
    let source = auth::bucket(&req)?;
    let status = req.input.bucket_logging_status;
    let meta = gateway.metadata().as_ref();
    match &status.logging_enabled {
        None => configs::delete(meta, &source, ConfigKind::Logging, "").await?,
        Some(enabled) => {
            check(meta, &source, enabled).await?;
            configs::put(meta, &source, ConfigKind::Logging, "", configs::to_xml(&status)?).await?;
        }
    }
    Ok(S3Response::new(PutBucketLoggingOutput {}))
}

/// GetBucketLogging.
pub async fn get(
    gateway: &Gateway,
    req: S3Request<GetBucketLoggingInput>,
) -> S3Result<S3Response<GetBucketLoggingOutput>> {
    let bucket = auth::bucket(&req)?;
    let kept = configs::read(gateway.metadata().as_ref(), &bucket, ConfigKind::Logging, "").await?;
    let status = match kept {
        None => BucketLoggingStatus::default(),
        Some(kept) => configs::of_xml(&kept).map_err(|fault| error::internal(&fault))?,
    };
    Ok(S3Response::new(GetBucketLoggingOutput { logging_enabled: status.logging_enabled }))
}

/// Refuses a target that can't be one.
async fn check(meta: &dyn MetadataClient, source: &BucketRow, enabled: &LoggingEnabled) -> S3Result<()> {
    if enabled.target_grants.as_ref().is_some_and(|grants| !grants.is_empty()) {
        return Err(error::not_implemented("TargetGrants"));
    }
    let partitioned = enabled.target_object_key_format.as_ref().and_then(|format| format.partitioned_prefix.as_ref());
    let date = partitioned.and_then(|prefix| prefix.partition_date_source.as_ref()).map(PartitionDateSource::as_str);
    if !matches!(date, None | Some("DeliveryTime" | "EventTime")) {
        return Err(s3_error!(MalformedXML));
    }
    if enabled.target_prefix.len() > MAX_PREFIX || enabled.target_prefix.chars().any(char::is_control) {
        return Err(s3_error!(InvalidArgument, "The target prefix is too long, or has control characters."));
    }
    let target = meta.bucket(&enabled.target_bucket).await.map_err(error::lookup)?;
    // The conformance suite's code; AWS says InvalidTargetBucketForLogging, and means the same.
    let target = target.ok_or_else(|| s3_error!(NoSuchKey, "The target bucket for logging does not exist."))?;
    let wrong = |why: &str| Err(s3_error!(InvalidArgument, "{why}"));
    if target.id == source.id {
        return wrong("A bucket can't be logged into itself.");
    }
    // First of all: what a bucket is like, its policy's reader may know, and not whoever can name it.
    if !lets_in(meta, &target, &enabled.target_prefix, &source.name, &source.owner).await? {
        return Err(s3_error!(AccessDenied, "Access Denied"));
    }
    if target.encrypt || target.encryption.is_some() {
        return wrong("The target bucket for logging has default encryption.");
    }
    if meta.bucket_config(target.bucket_id(), ConfigKind::Logging, "").await.map_err(error::lookup)?.is_some() {
        return wrong("The target bucket for logging is logged itself.");
    }
    if bucket::region(&target) != bucket::region(source) {
        return wrong("The target bucket for logging is in another region.");
    }
    Ok(())
}

/// Whether a bucket's policy lets the logging service put a key there, on behalf of a source. Before there is a key its prefix is
/// asked about.
pub async fn lets_in(
    meta: &dyn MetadataClient,
    target: &BucketRow,
    key: &str,
    source: &str,
    owner: &str,
) -> S3Result<bool> {
    let mut context = Context::default();
    context.set("aws:SourceArn", format!("arn:aws:s3:::{source}"));
    context.set("aws:SourceAccount", owner);
    policy::lets_service_put(meta, target, SERVICE, key, &context).await
}

/// The target that is kept.
pub fn kept(text: &[u8]) -> Result<Target, StdError> {
    let status: BucketLoggingStatus = configs::of_xml(text)?;
    let enabled = status.logging_enabled.ok_or("a target without a bucket")?;
    let format = enabled.target_object_key_format;
    Ok(Target {
        bucket: enabled.target_bucket,
        prefix: enabled.target_prefix,
        partitioned: format.is_some_and(|format| format.partitioned_prefix.is_some()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::dto::{PartitionedPrefix, TargetObjectKeyFormat};

    #[test]
    fn what_is_kept_is_what_was_sent() {
        let enabled = |format| LoggingEnabled {
            target_bucket: "logs".to_owned(),
            target_grants: None,
            target_object_key_format: format,
            target_prefix: "a&b/".to_owned(),
        };
        let text =
            |format| configs::to_xml(&BucketLoggingStatus { logging_enabled: Some(enabled(format)) }).expect("XML");
        let of = |partitioned| Target { bucket: "logs".to_owned(), prefix: "a&b/".to_owned(), partitioned };
        assert_eq!(kept(&text(None)).expect("a target"), of(false));
        let partitioned = TargetObjectKeyFormat {
            partitioned_prefix: Some(PartitionedPrefix::default()),
            ..TargetObjectKeyFormat::default()
        };
        assert_eq!(kept(&text(Some(partitioned))).expect("a target"), of(true));
        assert!(kept(b"<BucketLoggingStatus/>").is_err());
    }
}
