//! Objects: put, get, head, delete.

use super::answer::{self, set_checksums};
use super::conditions::{self, EntityTags, ReadConditions, Verdict};
use super::error;
use super::request::{self, object_meta, sent_checksums};
use crate::auth;
use crate::engine::{Body, Gateway, MAX_PARTS, MAX_SINGLE, PutRequest, part_range};
use codec::effect::{BucketRow, Content, VersionRow};
use futures::TryStreamExt;
use http::StatusCode;
use metadata::command::{Command, Condition, MAX_DELETE_KEYS, MAX_KEY, Outcome, Refusal};
use s3s::dto::{
    ChecksumMode, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, Error,
    GetObjectInput, GetObjectOutput, GetObjectTaggingInput, GetObjectTaggingOutput, HeadObjectInput, HeadObjectOutput,
    ObjectIdentifier, PutObjectInput, PutObjectOutput, Range, StorageClass, StreamingBlob,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

/// What S3 says an object is when nobody said.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// PutObject.
pub async fn put(gateway: &Gateway, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
    let bucket = auth::bucket(&req)?;
    let S3Request { mut input, headers, trailing_headers, .. } = req;
    request::check_new_key(&input.key)?;
    let length = body_length(input.content_length)?;
    check_decoded_length(&headers, length)?;
    let claims = request::claims(&headers, input.content_md5.as_deref(), sent_checksums!(input), trailing_headers)?;
    let body = engine_body(input.body.take());
    let put = PutRequest {
        encrypt: request::encrypt(&bucket, input.server_side_encryption.as_ref()),
        bucket: BucketRow::clone(&bucket),
        key: input.key.clone(),
        meta: object_meta!(input)?,
        length: Some(length),
        condition: request::write_condition(input.if_match, input.if_none_match)?,
        claims,
    };
    let done = gateway.put_object(put, body).await.map_err(error::put)?;
    let mut output = PutObjectOutput {
        checksum_type: answer::checksum_type(&done.checksums),
        e_tag: Some(answer::etag(&done.etag)),
        server_side_encryption: answer::encryption(done.encrypted),
        version_id: answer::text(&done.version_id),
        ..PutObjectOutput::default()
    };
    set_checksums!(output, &done.checksums, 1);
    Ok(S3Response::new(output))
}

/// The announced length of a streamed body: S3 takes none without it.
pub fn body_length(announced: Option<i64>) -> S3Result<u64> {
    let announced = announced.ok_or_else(error::missing_length)?;
    let length = u64::try_from(announced)
        .map_err(|_| s3_error!(InvalidArgument, "The value of the Content-Length header is invalid."))?;
    if length > MAX_SINGLE {
        return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed object size."));
    }
    Ok(length)
}

/// An aws-chunked body comes decoded, with its decoded length. Where the two differ, the client has framed a body without
/// signing it as framed: stored as it is, the frame headers would become part of the object.
pub fn check_decoded_length(headers: &http::HeaderMap, length: u64) -> S3Result<()> {
    match request::header(headers, request::DECODED_LENGTH) {
        Some(decoded) if decoded.parse() != Ok(length) => Err(s3_error!(
            InvalidRequest,
            "x-amz-decoded-content-length differs from the body's length: an aws-chunked body needs a STREAMING- value in \
             x-amz-content-sha256."
        )),
        _ => Ok(()),
    }
}

/// A body as the engine reads it.
pub fn engine_body(blob: Option<StreamingBlob>) -> Body {
    match blob {
        Some(blob) => Box::pin(blob.map_err(error::body)),
        None => Box::pin(futures::stream::empty()),
    }
}

/// The current version of a key, which must be an object.
pub async fn current(
    gateway: &Gateway,
    bucket: &BucketRow,
    key: &str,
    version_id: Option<&str>,
) -> S3Result<(VersionRow, Content)> {
    check_version_id(version_id)?;
    let row = gateway.metadata().current_version(bucket.bucket_id(), key).await.map_err(error::lookup)?;
    let row = row.filter(|row| !row.delete_marker).ok_or_else(error::no_such_key)?;
    let content = row.content.clone().ok_or_else(|| error::internal(&"a version without content"))?;
    Ok((row, content))
}

/// Buckets have no versioning yet: a key has the null version only.
pub fn check_version_id(version_id: Option<&str>) -> S3Result<()> {
    match version_id {
        None | Some("null") => Ok(()),
        Some("") => Err(s3_error!(InvalidArgument, "Version id cannot be the empty string")),
        Some(_) => Err(s3_error!(NoSuchVersion, "The specified version does not exist.")),
    }
}

/// The bytes that a read is about.
#[derive(Debug)]
struct Selection {
    range: std::ops::Range<u64>,
    /// 206, with Content-Range.
    partial: bool,
    parts_count: Option<i32>,
}

impl Selection {
    fn new(content: &Content, range: Option<Range>, part_number: Option<i32>) -> S3Result<Selection> {
        let parts_count = i32::try_from(content.part_sizes.len()).ok().filter(|&n| n > 0);
        match (range, part_number) {
            (None, None) => Ok(Selection { range: 0..content.size, partial: false, parts_count: None }),
            (Some(range), None) => {
                let range = range.check(content.size).map_err(|_| range_refused(content.size))?;
                // The last bytes of an empty object: `check` lets them pass, but no Content-Range can name them.
                if range.is_empty() {
                    return Err(range_refused(content.size));
                }
                Ok(Selection { range, partial: true, parts_count: None })
            }
            (None, Some(number)) => {
                let number = u32::try_from(number).ok().filter(|n| (1..=MAX_PARTS).contains(n)).ok_or_else(|| {
                    s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")
                })?;
                let range = part_range(content, number).ok_or_else(no_such_part)?;
                // Content-Range can't express an empty range.
                let partial = !range.is_empty();
                Ok(Selection { range, partial, parts_count })
            }
            (Some(_), Some(_)) => {
                Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber query parameter"))
            }
        }
    }

    fn content_range(&self, size: u64) -> Option<String> {
        self.partial.then(|| format!("bytes {}-{}/{size}", self.range.start, self.range.end - 1))
    }

    fn length(&self) -> i64 {
        answer::length(self.range.end - self.range.start)
    }

    /// A checksum of the whole object says nothing about a piece of it, and SDKs would compare the two.
    fn is_whole(&self, size: u64) -> bool {
        self.range == (0..size)
    }
}

fn range_refused(size: u64) -> S3Error {
    let mut refused = error::invalid_range();
    let mut headers = http::HeaderMap::new();
    if let Ok(value) = format!("bytes */{size}").parse() {
        headers.insert(http::header::CONTENT_RANGE, value);
    }
    refused.set_headers(headers);
    refused
}

fn no_such_part() -> S3Error {
    error::custom("InvalidPartNumber", StatusCode::RANGE_NOT_SATISFIABLE, "The requested partnumber is not satisfiable")
}

fn judge(conditions: &ReadConditions, version: &VersionRow) -> S3Result<()> {
    match conditions.judge(version) {
        Verdict::Proceed => Ok(()),
        Verdict::NotModified => Err(conditions::not_modified(version)),
        Verdict::Failed => Err(error::precondition_failed()),
    }
}

fn wants_checksums(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str().eq_ignore_ascii_case(ChecksumMode::ENABLED))
}

/// Everything but the body: GetObject and HeadObject answer with the same headers.
macro_rules! describe {
    ($output:ident, $row:expr, $content:expr, $selection:expr, $checksums:expr) => {{
        let (row, content, selection) = ($row, $content, $selection);
        let meta = row.meta.clone().unwrap_or_default();
        let mut output = $output {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: answer::text(&meta.cache_control),
            content_disposition: answer::text(&meta.content_disposition),
            content_encoding: answer::text(&meta.content_encoding),
            content_language: answer::text(&meta.content_language),
            content_length: Some(selection.length()),
            content_range: selection.content_range(content.size),
            content_type: answer::text(&meta.content_type).or_else(|| Some(DEFAULT_CONTENT_TYPE.to_owned())),
            e_tag: Some(answer::etag(&content.etag)),
            expires: answer::text(&meta.expires),
            last_modified: Some(answer::timestamp(row.modified_ms)),
            metadata: answer::metadata(&meta),
            parts_count: selection.parts_count,
            server_side_encryption: answer::encryption(content.encrypted),
            storage_class: answer::text(&meta.storage_class).map(StorageClass::from),
            version_id: answer::text(&row.version_id),
            website_redirect_location: answer::text(&meta.website_redirect),
            ..$output::default()
        };
        if $checksums && selection.is_whole(content.size) {
            set_checksums!(output, &content.checksums, content.part_sizes.len().max(1));
            output.checksum_type = answer::checksum_type(&content.checksums);
        }
        output
    }};
}

/// GetObject.
pub async fn get(gateway: &Gateway, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
    let bucket = auth::bucket(&req)?;
    let listed = req.extensions.get::<EntityTags>().cloned().unwrap_or_default();
    let (mut input, headers) = (req.input, req.headers);
    let (row, content) = current(gateway, &bucket, &input.key, input.version_id.as_deref()).await?;
    let conditions = ReadConditions {
        if_match: input.if_match.into_iter().chain(listed.if_match).collect(),
        if_none_match: input.if_none_match.into_iter().chain(listed.if_none_match).collect(),
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    judge(&conditions, &row)?;
    input.range = input.range.filter(|_| conditions::range_applies(&headers, &row));
    let selection = Selection::new(&content, input.range, input.part_number)?;
    let mut output =
        describe!(GetObjectOutput, &row, &content, &selection, wants_checksums(input.checksum_mode.as_ref()));
    output.body = Some(if selection.range.is_empty() {
        StreamingBlob::from(bytes::Bytes::new())
    } else {
        let alarm = gateway.read_alarm(&bucket.name, &row.key);
        let opened = gateway.get(&content, Some(selection.range.clone())).await.inspect_err(|error| alarm.raise(error));
        // After the first byte an error can only end the connection.
        StreamingBlob::wrap(opened.map_err(error::get)?.bytes.inspect_err(move |error| alarm.broke_off(error)))
    });
    Ok(S3Response::new(output))
}

/// HeadObject.
pub async fn head(gateway: &Gateway, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
    let bucket = auth::bucket(&req)?;
    let listed = req.extensions.get::<EntityTags>().cloned().unwrap_or_default();
    let input = req.input;
    let (row, content) = current(gateway, &bucket, &input.key, input.version_id.as_deref()).await?;
    let conditions = ReadConditions {
        if_match: input.if_match.into_iter().chain(listed.if_match).collect(),
        if_none_match: input.if_none_match.into_iter().chain(listed.if_none_match).collect(),
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    judge(&conditions, &row)?;
    let selection = Selection::new(&content, input.range, input.part_number)?;
    let mut output =
        describe!(HeadObjectOutput, &row, &content, &selection, wants_checksums(input.checksum_mode.as_ref()));
    // `s3s` does this for GetObject only.
    replace(&mut output.cache_control, input.response_cache_control)?;
    replace(&mut output.content_disposition, input.response_content_disposition)?;
    replace(&mut output.content_encoding, input.response_content_encoding)?;
    replace(&mut output.content_language, input.response_content_language)?;
    replace(&mut output.content_type, input.response_content_type)?;
    replace(&mut output.expires, input.response_expires.as_ref().and_then(answer::http_date_of))?;
    let status = if selection.partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    Ok(S3Response::with_status(output, status))
}

/// A header as a `response-*` parameter of the query asks for it.
fn replace(header: &mut Option<String>, asked: Option<String>) -> S3Result<()> {
    let Some(asked) = asked else { return Ok(()) };
    if http::HeaderValue::from_str(&asked).is_err() {
        return Err(s3_error!(InvalidRequest, "A response- parameter is no value of a header."));
    }
    *header = Some(asked);
    Ok(())
}

/// GetObjectTagging. Tags are refused wherever they could be set, so an object has none; clients that copy by parts ask.
pub async fn tagging(
    gateway: &Gateway,
    req: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let bucket = auth::bucket(&req)?;
    current(gateway, &bucket, &req.input.key, req.input.version_id.as_deref()).await?;
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None }))
}

/// DeleteObject. A key that is not there is no error.
pub async fn delete(gateway: &Gateway, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
    let bucket = auth::bucket(&req)?;
    let input = req.input;
    check_version_id(input.version_id.as_deref())?;
    if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
        return Err(error::not_implemented("A condition on time or size"));
    }
    let condition = request::write_condition(input.if_match, None)?;
    let meta = gateway.metadata();
    let command = Command::DeleteObject { bucket: bucket.bucket_id(), key: input.key, condition };
    meta.commit(meta.epoch(), command).await.map_err(error::commit)?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

/// DeleteObjects: up to 1000 keys, each with its own outcome.
pub async fn delete_many(
    gateway: &Gateway,
    req: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let bucket = auth::bucket(&req)?;
    let input = req.input;
    if input.delete.objects.is_empty() || input.delete.objects.len() > MAX_DELETE_KEYS {
        return Err(s3_error!(MalformedXML));
    }
    let (mut keys, mut versions, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for object in input.delete.objects {
        match deletable(&object) {
            Ok(condition) => {
                keys.push((object.key, condition));
                versions.push(object.version_id);
            }
            Err(refused) => errors.push(key_error(object.key, object.version_id, &refused)),
        }
    }
    let outcomes = if keys.is_empty() {
        Vec::new()
    } else {
        let meta = gateway.metadata();
        let command = Command::DeleteObjects { bucket: bucket.bucket_id(), keys: keys.clone() };
        match meta.commit(meta.epoch(), command).await.map_err(error::commit)? {
            Outcome::DeletedMany(outcomes) => outcomes,
            other => return Err(error::internal(&format!("an unexpected outcome of DeleteObjects: {other:?}"))),
        }
    };
    let quiet = input.delete.quiet.unwrap_or(false);
    let mut deleted = Vec::new();
    for (((key, _), version_id), outcome) in keys.into_iter().zip(versions).zip(outcomes) {
        match outcome {
            // As with DeleteObject, a key that is not there counts as deleted, unless a condition wanted it.
            Ok(_) if quiet => {}
            Ok(_) => deleted.push(DeletedObject { key: Some(key), version_id, ..DeletedObject::default() }),
            Err(refusal) => errors.push(key_error(key, version_id, &error::refused(Refusal::clone(&refusal)))),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: (!deleted.is_empty()).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        request_charged: None,
    }))
}

fn deletable(object: &ObjectIdentifier) -> S3Result<Condition> {
    if object.key.is_empty() {
        return Err(s3_error!(UserKeyMustBeSpecified, "The key must be specified."));
    }
    if object.key.len() > MAX_KEY {
        return Err(s3_error!(KeyTooLongError, "Your key is too long"));
    }
    check_version_id(object.version_id.as_deref())?;
    if object.last_modified_time.is_some() || object.size.is_some() {
        return Err(error::not_implemented("A condition on time or size"));
    }
    Ok(match &object.e_tag {
        None => Condition::None,
        Some(etag) if etag.value() == "*" => Condition::IfMatchAny,
        Some(etag) => Condition::IfMatch(etag.value().to_owned()),
    })
}

fn key_error(key: String, version_id: Option<String>, refused: &S3Error) -> Error {
    Error {
        code: Some(refused.code().as_str().to_owned()),
        key: Some(key),
        message: refused.message().map(str::to_owned),
        version_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: u64, part_sizes: &[u64]) -> Content {
        Content { size, part_sizes: part_sizes.to_vec(), ..Content::default() }
    }

    #[test]
    fn selections() {
        let ten = content(10, &[]);
        let range = |text| Range::parse(text).ok();
        let of = |range, part| Selection::new(&ten, range, part);
        let whole = of(None, None).expect("whole");
        assert!(whole.is_whole(10) && whole.content_range(10).is_none());
        let some = of(range("bytes=3-100"), None).expect("clamped");
        assert_eq!(some.content_range(10).as_deref(), Some("bytes 3-9/10"));
        assert_eq!(of(range("bytes=-4"), None).expect("suffix").range, 6..10);
        for bad in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            let refused = of(range(bad), None).expect_err(bad);
            assert_eq!(refused.status_code(), Some(StatusCode::RANGE_NOT_SATISFIABLE));
        }
        assert!(of(range("bytes=0-"), Some(1)).is_err());
        assert_eq!(of(None, Some(1)).expect("the only part").range, 0..10);
        assert!(of(None, Some(2)).is_err());
        assert!(of(None, Some(0)).is_err());
        let parts = content(15, &[10, 5]);
        let second = Selection::new(&parts, None, Some(2)).expect("part 2");
        assert_eq!((second.range.clone(), second.parts_count), (10..15, Some(2)));
        for none in ["bytes=0-", "bytes=-5"] {
            let refused = Selection::new(&content(0, &[]), range(none), None).expect_err(none);
            assert_eq!(refused.status_code(), Some(StatusCode::RANGE_NOT_SATISFIABLE), "{none}");
        }
    }

    #[test]
    fn lengths() {
        assert_eq!(body_length(None).expect_err("none").status_code(), Some(StatusCode::LENGTH_REQUIRED));
        assert!(body_length(Some(-1)).is_err());
        assert_eq!(body_length(Some(5 << 30)).ok(), Some(5 << 30));
        assert_eq!(body_length(Some((5 << 30) + 1)).expect_err("too large").code().as_str(), "EntityTooLarge");
    }

    #[test]
    fn the_framing_of_a_body_is_not_stored() {
        let of = |value| {
            let header = (http::HeaderName::from_static("x-amz-decoded-content-length"), value);
            check_decoded_length(&http::HeaderMap::from_iter([header]), 5).is_ok()
        };
        assert!(check_decoded_length(&http::HeaderMap::new(), 5).is_ok());
        assert!(of(http::HeaderValue::from_static("5")));
        assert!(!of(http::HeaderValue::from_static("36")) && !of(http::HeaderValue::from_static("5x")));
    }

    #[test]
    fn only_the_null_version_exists() {
        assert!(check_version_id(Some("null")).is_ok());
        let unknown = check_version_id(Some("3HL4kqtJvjVBH40Nrjfkd")).expect_err("unknown");
        assert_eq!(unknown.status_code(), Some(StatusCode::NOT_FOUND));
        assert!(check_version_id(Some("")).is_err());
    }
}
