//! CopyObject and UploadPartCopy. The source is authorised here as strictly as a read of it would be.

use super::answer::{self, set_checksums};
use super::conditions::{ReadConditions, Verdict};
use super::error;
use super::multipart;
use super::object::current;
use super::request::{self, object_meta};
use crate::auth;
use crate::engine::{CopyPartRequest, CopyRequest, Gateway, MAX_SINGLE};
use crate::error::PutError;
use crate::noted::ReadAlarm;
use codec::effect::{BucketRow, Content, ObjectMeta, VersionRow};
use metadata::keys::Account;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, MetadataDirective,
    UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

/// What a copy reads.
struct Source {
    bucket: String,
    row: VersionRow,
    content: Content,
}

async fn source(
    gateway: &Gateway,
    caller: &Account,
    source: &CopySource,
    expected_owner: Option<&str>,
) -> S3Result<Source> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(error::not_implemented("Copying from an access point"));
    };
    let bucket: BucketRow = auth::authorise(gateway.metadata().as_ref(), caller, bucket).await?;
    auth::check_expected_owner(&bucket, expected_owner)?;
    let (row, content) = current(gateway, &bucket, key, version_id.as_deref()).await?;
    Ok(Source { bucket: bucket.name, row, content })
}

/// The answer to a copy that failed; whoever operates this hears of a source that can't be read.
fn copy_failed(alarm: &ReadAlarm, failed: PutError) -> S3Error {
    if let PutError::Source(error) = &failed {
        alarm.raise(error);
    }
    error::put(failed)
}

/// Conditions on the source: whatever does not hold is 412, also where a read would be 304.
fn judge(conditions: &ReadConditions, version: &VersionRow) -> S3Result<()> {
    match conditions.judge(version) {
        Verdict::Proceed => Ok(()),
        Verdict::NotModified | Verdict::Failed => Err(error::precondition_failed()),
    }
}

/// CopyObject.
pub async fn object(gateway: &Gateway, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
    let (bucket, caller) = (auth::bucket(&req)?, auth::caller(&req)?);
    let mut input = req.input;
    request::check_new_key(&input.key)?;
    let replace = replaces_metadata(input.metadata_directive.as_ref())?;
    let source = source(gateway, &caller, &input.copy_source, input.expected_source_bucket_owner.as_deref()).await?;
    let conditions = ReadConditions {
        if_match: input.copy_source_if_match.take().into_iter().collect(),
        if_none_match: input.copy_source_if_none_match.take().into_iter().collect(),
        if_modified_since: input.copy_source_if_modified_since.take(),
        if_unmodified_since: input.copy_source_if_unmodified_since.take(),
    };
    judge(&conditions, &source.row)?;
    let changes = replace
        || input.storage_class.is_some()
        || input.server_side_encryption.is_some()
        || input.website_redirect_location.is_some();
    if source.bucket == bucket.name && source.row.key == input.key && !changes {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's \
             metadata, storage class, website redirect location or encryption attributes."
        ));
    }
    if source.content.size > MAX_SINGLE {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy source: {MAX_SINGLE}"
        ));
    }
    let asked = object_meta!(input)?;
    let copy = CopyRequest {
        // An encrypted source stays encrypted: a copy must not be the way to lose that.
        encrypt: request::encrypt(&bucket, input.server_side_encryption.as_ref()) || source.content.encrypted,
        meta: Some(if replace { asked } else { copied_meta(source.row.meta.clone().unwrap_or_default(), asked) }),
        source: source.row,
        bucket: BucketRow::clone(&bucket),
        key: input.key,
        condition: request::write_condition(input.if_match, input.if_none_match)?,
        checksum: input.checksum_algorithm.as_ref().map(|name| request::algorithm(name.as_str())).transpose()?,
    };
    let alarm = gateway.read_alarm(&source.bucket, &copy.source.key);
    let done = gateway.copy_object(copy).await.map_err(|failed| copy_failed(&alarm, failed))?;
    let mut result = CopyObjectResult {
        checksum_type: answer::checksum_type(&done.checksums),
        e_tag: Some(answer::etag(&done.etag)),
        last_modified: Some(answer::timestamp(done.modified_ms)),
        ..CopyObjectResult::default()
    };
    set_checksums!(result, &done.checksums, source.content.part_sizes.len().max(1));
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(result),
        server_side_encryption: answer::encryption(done.encrypted),
        version_id: answer::text(&done.version_id),
        ..CopyObjectOutput::default()
    }))
}

fn replaces_metadata(directive: Option<&MetadataDirective>) -> S3Result<bool> {
    match directive.map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => Ok(false),
        Some(MetadataDirective::REPLACE) => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "Unknown metadata directive.")),
    }
}

/// The source's headers; storage class and redirect are never copied but asked for anew, as in S3.
fn copied_meta(source: ObjectMeta, asked: ObjectMeta) -> ObjectMeta {
    ObjectMeta { storage_class: asked.storage_class, website_redirect: asked.website_redirect, ..source }
}

/// UploadPartCopy.
pub async fn part(
    gateway: &Gateway,
    req: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let (bucket, caller) = (auth::bucket(&req)?, auth::caller(&req)?);
    let input = req.input;
    let number = multipart::part_number(input.part_number)?;
    let source = source(gateway, &caller, &input.copy_source, input.expected_source_bucket_owner.as_deref()).await?;
    let conditions = ReadConditions {
        if_match: input.copy_source_if_match.into_iter().collect(),
        if_none_match: input.copy_source_if_none_match.into_iter().collect(),
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    judge(&conditions, &source.row)?;
    let range = input.copy_source_range.as_deref().map(|text| copy_range(text, source.content.size)).transpose()?;
    let length = range.as_ref().map_or(source.content.size, |range| range.end - range.start);
    if length > MAX_SINGLE {
        return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed object size."));
    }
    let upload = multipart::upload(gateway, &bucket, &input.key, &input.upload_id).await?;
    let encrypted = upload.encrypted;
    let copy = CopyPartRequest { source: source.row, range, upload, number, zstd_level: bucket.zstd_level };
    let alarm = gateway.read_alarm(&source.bucket, &copy.source.key);
    let done = gateway.copy_part(copy).await.map_err(|failed| copy_failed(&alarm, failed))?;
    let mut result = CopyPartResult {
        e_tag: Some(answer::etag(&done.etag)),
        last_modified: Some(answer::timestamp(done.modified_ms)),
        ..CopyPartResult::default()
    };
    set_checksums!(result, &done.checksums, 1);
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        server_side_encryption: answer::encryption(encrypted),
        ..UploadPartCopyOutput::default()
    }))
}

/// `bytes=first-last`, both given, both inside the source: unlike a read's range it is never clamped.
fn copy_range(text: &str, size: u64) -> S3Result<std::ops::Range<u64>> {
    let number = |digits: &str| -> Option<u64> {
        (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
    };
    let parsed = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .and_then(|(first, last)| Some((number(first)?, number(last)?)))
        .filter(|(first, last)| first <= last);
    let Some((first, last)) = parsed else {
        return Err(s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy"
        ));
    };
    if last >= size {
        return Err(error::invalid_range());
    }
    Ok(first..last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_copies_are_exact() {
        assert_eq!(copy_range("bytes=0-9", 10).ok(), Some(0..10));
        assert_eq!(copy_range("bytes=0-10", 10).expect_err("beyond").code().as_str(), "InvalidRange");
        let huge = format!("bytes=0-{}", u64::MAX);
        assert_eq!(copy_range(&huge, 10).expect_err("beyond").code().as_str(), "InvalidRange");
        for bad in ["0-9", "bytes=9-0", "bytes=0-", "bytes=-9", "bytes=0-9,11-12", "bytes=+1-2", "bytes=a-b", ""] {
            assert_eq!(copy_range(bad, 10).expect_err(bad).code().as_str(), "InvalidArgument", "{bad}");
        }
    }
}
