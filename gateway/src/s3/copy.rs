//! CopyObject and UploadPartCopy. The source is authorised here as strictly as a read of it would be.

use super::answer::{self, set_checksums};
use super::archive;
use super::conditions::{self, ReadConditions, Verdict};
use super::encryption;
use super::error;
use super::lifecycle;
use super::multipart;
use super::object::attached;
use super::request::{self, object_meta};
use super::version::{self, Version};
use crate::auth;
use crate::auth::door::{Authorised, Object};
use crate::engine::{CopyPartRequest, CopyRequest, Gateway, MAX_SINGLE};
use crate::error::PutError;
use crate::noted::ReadAlarm;
use codec::effect::{BucketRow, Content, ObjectMeta, VersionRow};
use metadata::command::Made;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, MetadataDirective,
    TaggingDirective, UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};
use std::sync::Arc;

/// What a copy reads.
struct Source {
    bucket: Arc<BucketRow>,
    row: Arc<VersionRow>,
    content: Content,
}

impl Source {
    /// x-amz-copy-source-version-id.
    fn version_id(&self) -> Option<String> {
        version::shown(&self.bucket, &self.row.version_id)
    }
}

/// The source, if the caller may read it, and its tags if they are copied and there are any.
async fn source(
    gateway: &Gateway,
    authorised: &Authorised,
    source: &CopySource,
    copies_tags: bool,
    expected_owner: Option<&str>,
) -> S3Result<Source> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(error::not_implemented("Copying from an access point"));
    };
    let object = Object { key, version_id: version_id.as_deref() };
    let source = authorised.source(bucket, object, false, expected_owner).await?;
    let found = version::find(gateway, &source.bucket, key, version_id.as_deref(), &source.found).await;
    let Version { row, content } = found.map_err(|failed| source.shield(failed))?;
    archive::check_read(&row)?;
    if copies_tags && !row.tags.is_empty() {
        authorised.source(bucket, object, true, expected_owner).await?;
    }
    Ok(Source { bucket: source.bucket, row, content })
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
    let (bucket, authorised) = (auth::bucket(&req)?, auth::authorised(&req)?);
    let protected = encryption::asked(gateway, &req)?;
    let mut input = req.input;
    request::check_new_key(&input.key)?;
    let replace = replaces(input.metadata_directive.as_ref().map(MetadataDirective::as_str), "metadata")?;
    let replace_tags = replaces(input.tagging_directive.as_ref().map(TaggingDirective::as_str), "tagging")?;
    let expected_owner = input.expected_source_bucket_owner.as_deref();
    let source = source(gateway, &authorised, &input.copy_source, !replace_tags, expected_owner).await?;
    let conditions = ReadConditions {
        if_match: input.copy_source_if_match.take().into_iter().collect(),
        if_none_match: input.copy_source_if_none_match.take().into_iter().collect(),
        if_modified_since: input.copy_source_if_modified_since.take(),
        if_unmodified_since: input.copy_source_if_unmodified_since.take(),
    };
    judge(&conditions, &source.row)?;
    let changes = replace
        || replace_tags
        || names_a_version(&input.copy_source)
        || input.storage_class.is_some()
        || protected.changes()
        || input.website_redirect_location.is_some();
    if source.bucket.id == bucket.id && source.row.key == input.key && !changes {
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
    let mut attached = attached!(authorised, input);
    attached.made = Made::Copy;
    if !replace_tags {
        attached.tags.clone_from(&source.row.tags);
        if !attached.tags.is_empty() {
            authorised.may(&["s3:PutObjectTagging"], Object { key: &input.key, version_id: None }).await?;
        }
    }
    let condition = request::write_condition(input.if_match, input.if_none_match)?;
    conditions::may_compare(&authorised, &condition, Object { key: &input.key, version_id: None }).await?;
    let copy = CopyRequest {
        attached,
        encrypt: protected.protection_of_copy(&bucket, &source.content)?,
        source_key: protected.of_source(&source.content)?,
        meta: Some(if replace { asked } else { copied_meta(source.row.meta.clone().unwrap_or_default(), asked) }),
        source: VersionRow::clone(&source.row),
        bucket: BucketRow::clone(&bucket),
        key: input.key,
        condition,
        checksum: input.checksum_algorithm.as_ref().map(|name| request::algorithm(name.as_str())).transpose()?,
    };
    let (key, tags) = (copy.key.clone(), copy.attached.tags.clone());
    let alarm = gateway.read_alarm(&source.bucket.name, &copy.source.key);
    let done = gateway.copy_object(copy).await.map_err(|failed| copy_failed(&alarm, failed))?;
    let mut result = CopyObjectResult {
        checksum_type: answer::checksum_type(&done.checksums),
        e_tag: Some(answer::etag(&done.etag)),
        last_modified: Some(answer::timestamp(done.modified_ms)),
        ..CopyObjectResult::default()
    };
    set_checksums!(result, &done.checksums, source.content.part_sizes.len().max(1));
    let put = (done.modified_ms, done.size);
    let output = CopyObjectOutput {
        copy_object_result: Some(result),
        expiration: lifecycle::expiration_of_new(gateway, &bucket, &key, put, &tags).await.unwrap_or_default(),
        copy_source_version_id: source.version_id(),
        version_id: version::shown(&bucket, &done.version_id),
        ..CopyObjectOutput::default()
    };
    Ok(encryption::said(S3Response::new(output), &done.purpose, &protected))
}

/// x-amz-metadata-directive, x-amz-tagging-directive.
fn replaces(directive: Option<&str>, of: &str) -> S3Result<bool> {
    match directive {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "Unknown {of} directive.")),
    }
}

/// To copy a version by its id onto its own key puts it back on top.
fn names_a_version(source: &CopySource) -> bool {
    matches!(source, CopySource::Bucket { version_id: Some(_), .. })
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
    let (bucket, authorised) = (auth::bucket(&req)?, auth::authorised(&req)?);
    let protected = encryption::asked(gateway, &req)?;
    let input = req.input;
    let number = multipart::part_number(input.part_number)?;
    let expected_owner = input.expected_source_bucket_owner.as_deref();
    let source = source(gateway, &authorised, &input.copy_source, false, expected_owner).await?;
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
    let copy = CopyPartRequest {
        key: protected.of_part(gateway, &upload).await?,
        source_key: protected.of_source(&source.content)?,
        source: VersionRow::clone(&source.row),
        range,
        upload,
        number,
        zstd_level: bucket.zstd_level,
    };
    let alarm = gateway.read_alarm(&source.bucket.name, &copy.source.key);
    let done = gateway.copy_part(copy).await.map_err(|failed| copy_failed(&alarm, failed))?;
    let mut result = CopyPartResult {
        e_tag: Some(answer::etag(&done.etag)),
        last_modified: Some(answer::timestamp(done.modified_ms)),
        ..CopyPartResult::default()
    };
    set_checksums!(result, &done.checksums, 1);
    let output = UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: source.version_id(),
        ..UploadPartCopyOutput::default()
    };
    Ok(encryption::said(S3Response::new(output), &done.purpose, &protected))
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
    fn directives() {
        assert_eq!(replaces(None, "tagging").ok(), Some(false));
        assert_eq!(replaces(Some("COPY"), "tagging").ok(), Some(false));
        assert_eq!(replaces(Some("REPLACE"), "tagging").ok(), Some(true));
        assert!(replaces(Some("MERGE"), "tagging").is_err());
    }

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
