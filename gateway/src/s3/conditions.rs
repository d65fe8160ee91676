//! Conditions of reads, Range behind If-Range, and conditions of writes that are not judged.

use super::error;
use crate::auth::door::{Authorised, Object};
use codec::effect::VersionRow;
use http::header::{CONTENT_RANGE, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, Method, StatusCode};
use metadata::command::Condition;
use s3s::dto::{ETagCondition, Timestamp};
use s3s::{S3Error, S3Result, s3_error};

/// An extension of a request: conditions that list several entity tags, which `s3s` can't express.
#[derive(Clone, Debug, Default)]
pub(crate) struct EntityTags {
    /// Of If-Match.
    pub(crate) if_match: Vec<ETagCondition>,
    /// Of If-None-Match.
    pub(crate) if_none_match: Vec<ETagCondition>,
}

/// The conditions of a read, or of the source of a copy.
#[derive(Debug, Default)]
pub struct ReadConditions {
    /// If-Match: one of these.
    pub if_match: Vec<ETagCondition>,
    /// If-None-Match: none of these.
    pub if_none_match: Vec<ETagCondition>,
    /// If-Modified-Since.
    pub if_modified_since: Option<Timestamp>,
    /// If-Unmodified-Since.
    pub if_unmodified_since: Option<Timestamp>,
}

/// Which answer the conditions ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Proceed,
    /// 304 on a read.
    NotModified,
    /// 412.
    Failed,
}

impl ReadConditions {
    /// RFC 9110, section 13.2.2: an entity tag condition makes the date condition of the same sense void. HTTP dates have
    /// whole seconds, so Last-Modified is compared without its fraction.
    pub fn judge(&self, version: &VersionRow) -> Verdict {
        let etag = version.content.as_ref().map_or("", |content| content.etag.as_str());
        let modified = super::answer::timestamp(version.modified_ms / 1000 * 1000);
        let matches = |condition: &ETagCondition| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(wanted) => wanted.value() == etag,
        };
        let holds = match (self.if_match.as_slice(), &self.if_unmodified_since) {
            ([], Some(since)) => modified <= *since,
            ([], None) => true,
            (conditions, _) => conditions.iter().any(matches),
        };
        if !holds {
            return Verdict::Failed;
        }
        let changed = match (self.if_none_match.as_slice(), &self.if_modified_since) {
            ([], Some(since)) => modified > *since,
            ([], None) => true,
            (conditions, _) => !conditions.iter().any(matches),
        };
        if changed { Verdict::Proceed } else { Verdict::NotModified }
    }
}

/// Whether a Range counts, by If-Range (RFC 9110, section 13.1.5). A client that resumes a download of what has changed
/// meanwhile must get the whole: with a range it would join bytes of two objects.
pub fn range_applies(headers: &HeaderMap, version: &VersionRow) -> bool {
    let Some(validator) = headers.get(http::header::IF_RANGE) else { return true };
    let etag = version.content.as_ref().map_or("", |content| content.etag.as_str());
    let is_tag = |value: &str| value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) == Some(etag);
    validator.to_str().is_ok_and(is_tag) || super::answer::http_date(version.modified_ms).as_ref() == Some(validator)
}

/// 304 with the headers that RFC 9110 wants on it.
pub fn not_modified(version: &VersionRow) -> S3Error {
    let mut error = s3_error!(NotModified);
    error.set_status_code(StatusCode::NOT_MODIFIED);
    let mut headers = HeaderMap::new();
    if let Some(content) = &version.content
        && let Ok(value) = format!("\"{}\"", content.etag).parse()
    {
        headers.insert(http::header::ETAG, value);
    }
    if let Some(value) = super::answer::http_date(version.modified_ms) {
        headers.insert(http::header::LAST_MODIFIED, value);
    }
    error.set_headers(headers);
    error
}

/// Refuses a condition of a write that nobody here would judge. The client sent it so that something is not overwritten or
/// deleted; ignored, it would be. An empty one names no object, and `s3s` takes it for none. `Content-Range` asks for a piece
/// of an object to be replaced (`curl -C` resumes an upload like that): ignored, the piece would replace the whole.
pub fn refuse_unjudged(operation: &str, method: &Method, headers: &HeaderMap) -> S3Result<()> {
    if method == Method::GET || method == Method::HEAD {
        return Ok(());
    }
    let writes = matches!(operation, "PutObject" | "CopyObject" | "CompleteMultipartUpload");
    let judged = |name: &HeaderName| match *name {
        IF_NONE_MATCH => writes,
        IF_MATCH => writes || operation == "DeleteObject",
        _ => false,
    };
    for name in [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, CONTENT_RANGE] {
        let mut values = headers.get_all(&name).iter();
        let Some(value) = values.next() else { continue };
        if !judged(&name) {
            return Err(error::not_implemented(&format!("{name} on this request")));
        }
        if value.as_bytes().trim_ascii().is_empty() {
            return Err(s3_error!(InvalidArgument, "The header {name} is empty."));
        }
        if values.next().is_some() {
            return Err(s3_error!(InvalidArgument, "The header {name} is there more than once."));
        }
    }
    Ok(())
}

/// Refuses to compare what is there for whom may not read it: by its entity tag, which is a hash of it, a write or a delete would
/// tell whether it is what somebody guesses (Amazon S3 User Guide, "Add preconditions to S3 operations": If-Match needs
/// `s3:GetObject`, too).
pub async fn may_compare(authorised: &Authorised, condition: &Condition, object: Object<'_>) -> S3Result<()> {
    let action = if object.version_id.is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
    match condition {
        Condition::None | Condition::IfNoneMatchAny | Condition::IfMatchAny => Ok(()),
        Condition::IfMatch(_) | Condition::IfNoneMatch(_) => authorised.may_besides(&[action], object).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::effect::Content;
    use s3s::dto::ETag;

    #[test]
    fn entity_tag_conditions_win_over_dates() {
        let version = VersionRow {
            modified_ms: 1_700_000_000_500,
            content: Some(Content { etag: "abc".into(), ..Content::default() }),
            ..VersionRow::default()
        };
        let tag = |value: &str| vec![ETagCondition::ETag(ETag::Strong(value.into()))];
        let at = |ms| Some(super::super::answer::timestamp(ms));
        let judge = |conditions: ReadConditions| conditions.judge(&version);
        let none = ReadConditions::default;
        assert_eq!(judge(none()), Verdict::Proceed);
        assert_eq!(judge(ReadConditions { if_match: tag("x"), ..none() }), Verdict::Failed);
        assert_eq!(
            judge(ReadConditions { if_match: tag("abc"), if_unmodified_since: at(0), ..none() }),
            Verdict::Proceed
        );
        assert_eq!(judge(ReadConditions { if_none_match: tag("abc"), ..none() }), Verdict::NotModified);
        let either = || [tag("x"), tag("abc")].concat();
        assert_eq!(judge(ReadConditions { if_none_match: either(), ..none() }), Verdict::NotModified);
        assert_eq!(judge(ReadConditions { if_match: either(), ..none() }), Verdict::Proceed);
        assert_eq!(
            judge(ReadConditions { if_none_match: tag("x"), if_modified_since: at(1_800_000_000_000), ..none() }),
            Verdict::Proceed
        );
        assert_eq!(judge(ReadConditions { if_modified_since: at(1_700_000_000_000), ..none() }), Verdict::NotModified);
        assert_eq!(judge(ReadConditions { if_unmodified_since: at(1_700_000_000_000), ..none() }), Verdict::Proceed);
        assert_eq!(judge(ReadConditions { if_unmodified_since: at(1_699_999_999_000), ..none() }), Verdict::Failed);
    }

    #[test]
    fn a_write_is_not_done_in_spite_of_a_condition() {
        let judge = |operation, method, name: HeaderName, value| {
            let headers = HeaderMap::from_iter([(name, http::HeaderValue::from_static(value))]);
            refuse_unjudged(operation, &method, &headers).err().map(|error| error.code().as_str().to_owned())
        };
        for operation in ["PutObject", "CopyObject", "CompleteMultipartUpload"] {
            assert_eq!(judge(operation, Method::PUT, IF_NONE_MATCH, "*"), None);
            assert_eq!(judge(operation, Method::PUT, IF_MATCH, "\"a\""), None);
            assert_eq!(judge(operation, Method::PUT, IF_MATCH, " ").as_deref(), Some("InvalidArgument"));
            for name in [IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, CONTENT_RANGE] {
                assert_eq!(judge(operation, Method::PUT, name, "x").as_deref(), Some("NotImplemented"));
            }
        }
        let two = HeaderMap::from_iter(["\"a\"", "*"].map(|v| (IF_MATCH, http::HeaderValue::from_static(v))));
        assert!(refuse_unjudged("PutObject", &Method::PUT, &two).is_err(), "only one of them would be judged");
        assert_eq!(judge("DeleteObject", Method::DELETE, IF_MATCH, "*"), None);
        assert_eq!(judge("DeleteObject", Method::DELETE, IF_NONE_MATCH, "*").as_deref(), Some("NotImplemented"));
        assert_eq!(judge("UploadPart", Method::PUT, IF_NONE_MATCH, "*").as_deref(), Some("NotImplemented"));
        assert_eq!(judge("DeleteObjects", Method::POST, IF_MATCH, "*").as_deref(), Some("NotImplemented"));
        assert_eq!(judge("GetObject", Method::GET, IF_UNMODIFIED_SINCE, "x"), None);
    }

    #[test]
    fn a_range_counts_only_of_what_if_range_names() {
        let version = VersionRow {
            modified_ms: 1_445_412_480_500,
            content: Some(Content { etag: "abc".into(), ..Content::default() }),
            ..VersionRow::default()
        };
        let applies = |value| {
            let value = http::HeaderValue::from_static(value);
            range_applies(&HeaderMap::from_iter([(http::header::IF_RANGE, value)]), &version)
        };
        assert!(range_applies(&HeaderMap::new(), &version));
        assert!(applies("\"abc\"") && applies("Wed, 21 Oct 2015 07:28:00 GMT"));
        for other in ["\"old\"", "W/\"abc\"", "Wed, 21 Oct 2015 07:27:59 GMT", "garbage", "\""] {
            assert!(!applies(other), "{other}");
        }
    }
}
