//! Objects: put, get, head. Deletes are in [`super::delete`].

use super::answer::{self, set_checksums};
use super::conditions::{self, EntityTags, ReadConditions, Verdict};
use super::encryption;
use super::request::{self, object_meta, sent_checksums};
use super::version::{self, Version};
use super::{archive, error, lifecycle, lock};
use crate::auth;
use crate::auth::door::{Authorised, Object};
use crate::engine::{Body, Gateway, MAX_PARTS, MAX_SINGLE, PutRequest, part_range};
use crate::server::Status;
use crate::server::form::OfForm;
use codec::effect::{BucketRow, Content, VersionRow};
use futures::TryStreamExt;
use http::StatusCode;
use metadata::command::Made;
use s3s::dto::{
    ChecksumMode, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, PutObjectInput, PutObjectOutput,
    Range, StorageClass, StreamingBlob,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

/// What S3 says an object is when nobody said.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// PutObject.
pub async fn put(gateway: &Gateway, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
    let authorised = auth::authorised(&req)?;
    let bucket = authorised.bucket()?;
    // The file of a form ends where it ends.
    let of_form = req.extensions.get::<OfForm>().is_some();
    let endless = of_form && req.input.content_length.is_none();
    let asked = encryption::asked(gateway, &req)?;
    let S3Request { mut input, headers, trailing_headers, .. } = req;
    request::check_new_key(&input.key)?;
    let length = if endless { None } else { Some(body_length(input.content_length)?) };
    if let Some(length) = length {
        check_decoded_length(&headers, length)?;
    }
    let claims = request::claims(&headers, input.content_md5.as_deref(), sent_checksums!(input), trailing_headers)?;
    let body = engine_body(input.body.take());
    let mut attached = attached!(authorised, input);
    if of_form {
        attached.made = Made::Post;
    }
    let tags = attached.tags.clone();
    let condition = request::write_condition(input.if_match.take(), input.if_none_match.take())?;
    conditions::may_compare(&authorised, &condition, Object { key: &input.key, version_id: None }).await?;
    let put = PutRequest {
        encrypt: asked.protection(&bucket)?,
        bucket: BucketRow::clone(&bucket),
        key: input.key.clone(),
        meta: object_meta!(input)?,
        attached,
        length,
        condition,
        claims,
    };
    let done = gateway.put_object(put, body).await.map_err(error::put)?;
    let put = (done.modified_ms, done.size);
    let mut output = PutObjectOutput {
        expiration: lifecycle::expiration_of_new(gateway, &bucket, &input.key, put, &tags).await.unwrap_or_default(),
        checksum_type: answer::checksum_type(&done.checksums),
        e_tag: Some(answer::etag(&done.etag)),
        version_id: version::shown(&bucket, &done.version_id),
        ..PutObjectOutput::default()
    };
    set_checksums!(output, &done.checksums, 1);
    Ok(encryption::said(S3Response::new(output), &done.purpose, &asked))
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
    s3_error!(InvalidPart, "The object has no part of this number.")
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

/// x-amz-tagging-count: how many tags there are, for whoever may see them.
fn tag_count(authorised: &Authorised, object: Object<'_>, row: &VersionRow) -> Option<i32> {
    let count = i32::try_from(row.tags.len()).ok().filter(|&count| count > 0)?;
    authorised.would("s3:GetObjectTagging", object, Some(row)).then_some(count)
}

/// What a new object carries besides headers and bytes: tags, owner and list, lock.
macro_rules! attached {
    ($authorised:expr, $input:expr) => {{
        let (authorised, input) = (&$authorised, &$input);
        let tags = $crate::s3::tags::of_request(input.tagging.as_deref())?;
        let (retention, hold) = $crate::s3::lock::asked(
            input.object_lock_mode.as_ref(),
            input.object_lock_retain_until_date.clone(),
            input.object_lock_legal_hold_status.as_ref(),
        )?;
        let new = authorised.new_object().await?;
        let made = metadata::command::Made::default();
        metadata::command::Attached { tags, acl: new.acl, owner: new.owner, retention, hold, nonce: [0; 8], made }
    }};
}
pub(crate) use attached;

/// Everything but the body: GetObject and HeadObject answer with the same headers.
macro_rules! describe {
    ($output:ident, $about:expr, $row:expr, $content:expr, $selection:expr, $checksums:expr) => {{
        let (row, content, selection) = ($row, $content, $selection);
        let (authorised, object): (&Authorised, Object<'_>) = $about;
        let lock = lock::shown(authorised, object, row);
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
            object_lock_legal_hold_status: lock.hold,
            object_lock_mode: lock.mode,
            object_lock_retain_until_date: lock.until,
            parts_count: selection.parts_count,
            storage_class: answer::text(&meta.storage_class).map(StorageClass::from),
            tag_count: tag_count(authorised, object, row),
            version_id: version::shown(authorised.bucket()?.as_ref(), &row.version_id),
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

/// Refuses to replace headers of an answer for somebody who has not signed: by a link alone, what was uploaded as text would be a page
/// with scripts of the bucket's origin (S3 API Reference, GetObject, "Overriding response header values through the request").
macro_rules! check_replaced {
    ($authorised:expr, $input:expr) => {
        let replaces = $input.response_cache_control.is_some()
            || $input.response_content_disposition.is_some()
            || $input.response_content_encoding.is_some()
            || $input.response_content_language.is_some()
            || $input.response_content_type.is_some()
            || $input.response_expires.is_some();
        if replaces && $authorised.caller().account().is_none() {
            return Err(s3_error!(
                InvalidRequest,
                "Request specific response headers cannot be used for anonymous GET requests."
            ));
        }
    };
}

/// GetObject.
pub async fn get(gateway: &Gateway, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
    let authorised = auth::authorised(&req)?;
    let bucket = authorised.bucket()?;
    let listed = req.extensions.get::<EntityTags>().cloned().unwrap_or_default();
    let asked = encryption::asked(gateway, &req)?;
    let (mut input, headers) = (req.input, req.headers);
    check_replaced!(authorised, input);
    let object = Object { key: &input.key, version_id: input.version_id.as_deref() };
    let Version { row, content } =
        version::find(gateway, &bucket, object.key, object.version_id, authorised.found()).await?;
    let key = asked.of_read(&content)?;
    let conditions = ReadConditions {
        if_match: input.if_match.into_iter().chain(listed.if_match).collect(),
        if_none_match: input.if_none_match.into_iter().chain(listed.if_none_match).collect(),
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    judge(&conditions, &row)?;
    archive::check_read(&row)?;
    input.range = input.range.filter(|_| conditions::range_applies(&headers, &row));
    let selection = Selection::new(&content, input.range, input.part_number)?;
    let (about, whole) = ((authorised.as_ref(), object), wants_checksums(input.checksum_mode.as_ref()));
    let mut output = describe!(GetObjectOutput, about, &row, &content, &selection, whole);
    output.expiration = lifecycle::expiration(gateway, &bucket, &row).await.unwrap_or_default();
    output.restore = archive::shown(&row);
    output.body = Some(if selection.range.is_empty() {
        StreamingBlob::from(bytes::Bytes::new())
    } else {
        let alarm = gateway.read_alarm(&bucket.name, &row.key);
        let opened = gateway.get_with(&content, Some(selection.range.clone()), key).await;
        let opened = opened.inspect_err(|error| alarm.raise(error));
        // After the first byte an error can only end the connection.
        StreamingBlob::wrap(opened.map_err(error::get)?.bytes.inspect_err(move |error| alarm.broke_off(error)))
    });
    let purpose = encryption::purpose_of(gateway, &content).await?;
    Ok(encryption::said(S3Response::new(output), &purpose, &asked))
}

/// HeadObject.
pub async fn head(gateway: &Gateway, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
    let authorised = auth::authorised(&req)?;
    let bucket = authorised.bucket()?;
    let listed = req.extensions.get::<EntityTags>().cloned().unwrap_or_default();
    let asked = encryption::asked(gateway, &req)?;
    let (mut input, headers) = (req.input, req.headers);
    check_replaced!(authorised, input);
    let object = Object { key: &input.key, version_id: input.version_id.as_deref() };
    let Version { row, content } =
        version::find(gateway, &bucket, object.key, object.version_id, authorised.found()).await?;
    asked.of_read(&content)?;
    let conditions = ReadConditions {
        if_match: input.if_match.into_iter().chain(listed.if_match).collect(),
        if_none_match: input.if_none_match.into_iter().chain(listed.if_none_match).collect(),
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    judge(&conditions, &row)?;
    input.range = input.range.filter(|_| conditions::range_applies(&headers, &row));
    let selection = Selection::new(&content, input.range, input.part_number)?;
    let (about, whole) = ((authorised.as_ref(), object), wants_checksums(input.checksum_mode.as_ref()));
    let mut output = describe!(HeadObjectOutput, about, &row, &content, &selection, whole);
    output.expiration = lifecycle::expiration(gateway, &bucket, &row).await.unwrap_or_default();
    output.restore = archive::shown(&row);
    // `s3s` does this for GetObject only.
    replace(&mut output.cache_control, input.response_cache_control)?;
    replace(&mut output.content_disposition, input.response_content_disposition)?;
    replace(&mut output.content_encoding, input.response_content_encoding)?;
    replace(&mut output.content_language, input.response_content_language)?;
    replace(&mut output.content_type, input.response_content_type)?;
    replace(&mut output.expires, input.response_expires.as_ref().and_then(answer::http_date_of))?;
    let status = if selection.partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let purpose = encryption::purpose_of(gateway, &content).await?;
    let mut answer = S3Response::new(output);
    // `s3s` asks no handler of HeadObject for its status.
    answer.extensions.insert(Status(status));
    Ok(encryption::said(answer, &purpose, &asked))
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
}
