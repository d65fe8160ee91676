//! Which version of a key a request is about, and what is answered where there is none.

use super::{answer, error};
use crate::auth::door::Found;
use crate::engine::Gateway;
use access::versions::Named;
use codec::effect::{BucketRow, Content, VersionRow};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use metadata::command;
use s3s::{S3Error, S3Result, s3_error};
use std::sync::Arc;

const DELETE_MARKER: HeaderName = HeaderName::from_static("x-amz-delete-marker");
const VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");
/// What S3 calls the version without an id.
pub const NULL: &str = "null";

/// The parameter `versionId`.
pub fn named(version_id: Option<&str>) -> S3Result<Named<'_>> {
    Named::parse(version_id).map_err(|error| s3_error!(InvalidArgument, "{error}"))
}

/// The same, for a command.
pub fn command_named(version_id: Option<&str>) -> S3Result<command::Named> {
    Ok(match named(version_id)? {
        Named::Current => command::Named::Current,
        Named::Null => command::Named::Null,
        Named::Id(id) => command::Named::Id(id.to_owned()),
    })
}

/// A version's id as answers name it.
pub fn name(version_id: &str) -> &str {
    if version_id.is_empty() { NULL } else { version_id }
}

/// x-amz-version-id: nothing in a bucket that never kept versions.
pub fn shown(bucket: &BucketRow, version_id: &str) -> Option<String> {
    let never = bucket.versioning() == codec::effect::Versioning::Never;
    if never && version_id.is_empty() { None } else { Some(name(version_id).to_owned()) }
}

/// A version that can be read.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its row.
    pub row: Arc<VersionRow>,
    /// Where its bytes are.
    pub content: Content,
}

/// The version that a read is about, which must be an object. `found`: what the decision about the request has looked up already.
pub async fn find(
    gateway: &Gateway,
    bucket: &BucketRow,
    key: &str,
    version_id: Option<&str>,
    found: &Found,
) -> S3Result<Version> {
    let named = named(version_id)?;
    let row = match found {
        Found::Version(row) => Some(Arc::clone(row)),
        Found::Absent => None,
        Found::NotLooked => look(gateway, bucket, key, named).await?.map(Arc::new),
    };
    let row = row.ok_or_else(|| missing(named))?;
    if row.delete_marker {
        return Err(marker(&row, named));
    }
    let content = row.content.clone().ok_or_else(|| error::internal(&"a version without content"))?;
    Ok(Version { row, content })
}

async fn look(gateway: &Gateway, bucket: &BucketRow, key: &str, named: Named<'_>) -> S3Result<Option<VersionRow>> {
    let (meta, id) = (gateway.metadata(), bucket.bucket_id());
    let found = match named {
        Named::Current => meta.current_version(id, key).await,
        Named::Null => meta.version(id, key, "").await,
        Named::Id(version) => meta.version(id, key, version).await,
    };
    found.map_err(error::lookup)
}

/// 404.
fn missing(named: Named<'_>) -> S3Error {
    if named != Named::Current {
        return error::no_such_version();
    }
    let mut refused = error::no_such_key();
    // S3 does not say it; those who ask whether a marker hides the key have an answer.
    refused.set_headers(HeaderMap::from_iter([(DELETE_MARKER, HeaderValue::from_static("false"))]));
    refused
}

/// A delete marker: 404 as for a key that is not there, and 405 for whoever named it.
fn marker(row: &VersionRow, named: Named<'_>) -> S3Error {
    let mut headers = HeaderMap::from_iter([(DELETE_MARKER, HeaderValue::from_static("true"))]);
    if let Ok(id) = name(&row.version_id).parse() {
        headers.insert(VERSION_ID, id);
    }
    if named == Named::Current {
        let mut refused = error::no_such_key();
        refused.set_headers(headers);
        return refused;
    }
    headers.insert(header::ALLOW, HeaderValue::from_static("DELETE"));
    if let Some(modified) = answer::http_date(row.modified_ms) {
        headers.insert(header::LAST_MODIFIED, modified);
    }
    let mut refused = error::is_delete_marker();
    refused.set_headers(headers);
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    const ID: &str = "00000000000000190123456789abcdef";

    #[test]
    fn ids_of_versions() {
        let of = |id| named(id).map_err(|error| (error.code().as_str().to_owned(), error.status_code()));
        let bad = Err(("InvalidArgument".to_owned(), Some(StatusCode::BAD_REQUEST)));
        assert_eq!(of(None), Ok(Named::Current));
        assert_eq!(of(Some(NULL)), Ok(Named::Null));
        assert_eq!(of(Some(ID)), Ok(Named::Id(ID)));
        assert_eq!(of(Some("")), bad);
        assert_eq!(of(Some("3HL4kqtJvjVBH40Nrjfkd")), bad);
    }

    #[test]
    fn a_version_has_a_name_where_versions_were_ever_kept() {
        let never = BucketRow::default();
        let suspended = BucketRow { versioning: codec::effect::Versioning::Suspended.into(), ..BucketRow::default() };
        assert_eq!((shown(&never, ""), shown(&suspended, "").as_deref()), (None, Some(NULL)));
        assert_eq!(shown(&suspended, ID).as_deref(), Some(ID));
    }

    #[test]
    fn what_is_said_of_a_delete_marker() {
        let row = VersionRow { version_id: ID.into(), delete_marker: true, ..VersionRow::default() };
        let header = |error: &S3Error, name: HeaderName| {
            error.headers().and_then(|headers| headers.get(name)).map(|value| value.as_bytes().to_vec())
        };
        let hidden = marker(&row, Named::Current);
        assert_eq!(hidden.status_code(), Some(StatusCode::NOT_FOUND));
        assert_eq!(header(&hidden, DELETE_MARKER).as_deref(), Some(&b"true"[..]));
        assert_eq!(header(&hidden, VERSION_ID).as_deref(), Some(ID.as_bytes()));
        let asked = marker(&row, Named::Id(ID));
        assert_eq!(asked.status_code(), Some(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(header(&asked, header::ALLOW).as_deref(), Some(&b"DELETE"[..]));
        assert!(header(&asked, header::LAST_MODIFIED).is_some());
        assert_eq!(missing(Named::Id(ID)).code().as_str(), "NoSuchVersion");
        assert_eq!(header(&missing(Named::Current), DELETE_MARKER).as_deref(), Some(&b"false"[..]));
    }
}
