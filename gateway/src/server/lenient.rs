//! Headers of a read that HTTP says to ignore, or to take in more forms than one, and that `s3s` refuses.
//!
//! A range that is none, or several ranges, are ignored, and the answer is the whole (RFC 9110, section 14.2); so are dates
//! that are none (13.1.3); a condition may list entity tags (13.1.2). The headers can't be changed before `s3s` has them:
//! they are signed. So such a request is a custom route of it: `s3s` verifies the signature over the headers as they came,
//! and what is left of them goes through a second service, in the name of whoever signed, or of nobody. So do requests that have
//! headers in the query of their URL ([`hoisted`]), whatever they ask for.
//!
//! Invariant: [`Verified`] is inserted here and nowhere else, after the signature was verified and covered the host.

use super::hoisted;
use crate::auth::{self, Verified};
use crate::s3::conditions::EntityTags;
use crate::s3::error;
use crate::s3::request::query_pairs;
use async_trait::async_trait;
use http::header::{AUTHORIZATION, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE};
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Uri};
use s3s::dto::{ETagCondition, Range, Timestamp, TimestampFormat};
use s3s::route::S3Route;
use s3s::service::S3Service;
use s3s::{Body, S3Request, S3Response, S3Result, s3_error};

/// What makes a URL a presigned one.
const SIGNATURE: [&str; 6] =
    ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature", "X-Amz-SignedHeaders"];

/// See the module.
pub struct Lenient {
    inner: S3Service,
}

impl Lenient {
    /// Mended requests go to `inner`.
    pub fn new(inner: S3Service) -> Lenient {
        Lenient { inner }
    }
}

/// A header to be replaced, or taken out.
type Change = (HeaderName, Option<HeaderValue>);

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// What is to become of a range that `s3s` would refuse.
fn range(headers: &HeaderMap) -> Option<Change> {
    let value = text(headers, &RANGE)?;
    // `s3s` takes the last for the last no bytes.
    if Range::parse(&value).is_ok() && value != "bytes=-" {
        return None;
    }
    Some((RANGE, clamped(&value).and_then(|value| value.parse().ok())))
}

/// A range whose numbers are larger than any object is one all the same.
fn clamped(value: &str) -> Option<String> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let number = |digits: &str| -> Option<String> {
        let most = i64::MAX.to_string();
        match digits.bytes().all(|b| b.is_ascii_digit()) {
            true if digits.is_empty() => Some(String::new()),
            true => Some(digits.parse::<i64>().map_or(most, |number| number.to_string())),
            false => None,
        }
    };
    let clamped = format!("bytes={}-{}", number(first)?, number(last)?);
    (Range::parse(&clamped).is_ok() && clamped != "bytes=-").then_some(clamped)
}

/// A date that is none.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<Change> {
    let value = text(headers, &name)?;
    Timestamp::parse(TimestampFormat::HttpDate, &value).is_err().then_some((name, None))
}

/// The entity tags of a condition, if it has several.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<ETagCondition>> {
    let value = text(headers, name)?;
    let mut quoted = false;
    let apart = |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    let parts: Vec<&str> = value.split(apart).map(str::trim).filter(|part| !part.is_empty()).collect();
    let parsed: Option<Vec<_>> = parts.iter().map(|p| ETagCondition::parse_http_header(p.as_bytes()).ok()).collect();
    parsed.filter(|tags| tags.len() > 1)
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// What has to be changed before `s3s` takes the headers; and the conditions that it can't express.
fn mended(headers: &HeaderMap) -> Option<(Vec<Change>, EntityTags)> {
    let mut changes: Vec<Change> = range(headers)
        .into_iter()
        .chain(date(headers, IF_MODIFIED_SINCE))
        .chain(date(headers, IF_UNMODIFIED_SINCE))
        .collect();
    let listed = EntityTags {
        if_match: tags(headers, &IF_MATCH).unwrap_or_default(),
        if_none_match: tags(headers, &IF_NONE_MATCH).unwrap_or_default(),
    };
    changes.extend((!listed.if_match.is_empty()).then_some((IF_MATCH, None)));
    changes.extend((!listed.if_none_match.is_empty()).then_some((IF_NONE_MATCH, None)));
    (!changes.is_empty()).then_some((changes, listed))
}

/// The URL without its signature, and without what counts as headers of it.
fn unsigned(uri: &Uri, headers: hoisted::Rule) -> Option<Uri> {
    let goes = |name: &str| SIGNATURE.contains(&name) || headers.is_header(name);
    let stays = |pair: &&str| !query_pairs(pair).iter().any(|(name, _)| goes(name));
    let query: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(stays).collect();
    let path = uri.path();
    let target = if query.concat().is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
    target.parse().ok()
}

#[async_trait]
impl S3Route for Lenient {
    fn is_match(&self, method: &Method, uri: &Uri, headers: &HeaderMap, _extensions: &mut Extensions) -> bool {
        (is_read(method) && mended(headers).is_some()) || hoisted::any(headers, uri)
    }

    /// Who did not sign is no exception: what he may do is decided when the request has been mended.
    async fn check_access(&self, _req: &mut S3Request<Body>) -> S3Result<()> {
        Ok(())
    }

    async fn call(&self, req: S3Request<Body>) -> S3Result<S3Response<Body>> {
        self.again(req).await.map_err(error::sayable)
    }
}

impl Lenient {
    /// Sends a request, of which the signature was verified, through the second service.
    async fn again(&self, req: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let query = query_pairs(req.uri.query().unwrap_or_default());
        let access_key = req.credentials.as_ref().map(|credentials| credentials.access_key.as_str());
        let verified = Verified::new(access_key, &req.headers, &query)?;
        let mut headers = req.headers;
        let rule = hoisted::Rule::of(&headers, &query);
        if rule.is_any(&query) && verified.by.is_none() {
            // What is in the query has been signed, or it is no header.
            return Err(auth::denied());
        }
        hoisted::say(&mut headers, &query)?;
        // A write is not done because its condition was not understood.
        let (changes, listed) = Some(&headers).filter(|_| is_read(&req.method)).and_then(mended).unwrap_or_default();
        for (name, value) in changes {
            match value {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
        headers.remove(AUTHORIZATION);
        let mut again = Request::new(req.input);
        *again.method_mut() = req.method;
        *again.uri_mut() =
            unsigned(&req.uri, rule).ok_or_else(|| s3_error!(InvalidURI, "Couldn't parse the specified URI."))?;
        *again.headers_mut() = headers;
        *again.extensions_mut() = req.extensions;
        again.extensions_mut().insert(verified);
        again.extensions_mut().insert(listed);
        let answered = self.inner.call(again).await.map_err(|failed| error::internal(&failed))?;
        let (parts, body) = answered.into_parts();
        let mut response = S3Response::with_status(body, parts.status);
        (response.headers, response.extensions) = (parts.headers, parts.extensions);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn ranges_that_are_none_are_ignored() {
        let of = |values: &[&'static str]| range(&headers(RANGE, values)).map(|(_, value)| value);
        for good in ["bytes=0-4", "bytes=3-", "bytes=-5"] {
            assert_eq!(of(&[good]), None, "{good}");
        }
        for none in ["bytes=abc", "bytes=0-1,3-4", "bytes=5-2", "bytes=-", "bytes=", "lines=1-2", "bytes=1-2x", ""] {
            assert_eq!(of(&[none]), Some(None), "{none}");
        }
        assert_eq!(of(&["bytes=0-1", "bytes=3-4"]), Some(None));
        let beyond = Some(Some(HeaderValue::from_static("bytes=2-9223372036854775807")));
        assert_eq!(of(&["bytes=2-99999999999999999999"]), beyond);
    }

    #[test]
    fn entity_tags_may_be_listed() {
        let of = |values: &[&'static str]| {
            let tags = tags(&headers(IF_NONE_MATCH, values), &IF_NONE_MATCH).unwrap_or_default();
            tags.iter().filter_map(ETagCondition::as_etag).map(|tag| tag.value().to_owned()).collect::<Vec<_>>()
        };
        assert!(of(&["\"a\""]).is_empty() && of(&["*"]).is_empty() && of(&["\"a,b\""]).is_empty());
        assert_eq!(of(&["\"a\", W/\"b\" ,\"c,d\""]), ["a", "b", "c,d"]);
        assert_eq!(of(&["\"a\"", "\"b\""]), ["a", "b"]);
    }

    #[test]
    fn the_signature_is_taken_out_of_the_url() {
        let uri = Uri::from_static("/b/k?X-Amz-Signature=00&x-id=GetObject&X-Amz-SignedHeaders=host&versionId=null");
        let unsigned = |uri: Uri| {
            let rule = hoisted::Rule::of(&HeaderMap::new(), &query_pairs(uri.query().unwrap_or_default()));
            unsigned(&uri, rule).map(|uri| uri.to_string())
        };
        assert_eq!(unsigned(uri).as_deref(), Some("/b/k?x-id=GetObject&versionId=null"));
        let only = Uri::from_static("http://host/b/k?X-Amz-Signature=00");
        assert_eq!(unsigned(only).as_deref(), Some("/b/k"));
        let hoisted = Uri::from_static("/b/k?X-Amz-Signature=00&x%2Damz-acl=private&a=b&X-Amz-Meta-A=c");
        assert_eq!(unsigned(hoisted).as_deref(), Some("/b/k?a=b"));
        let signed_elsewhere = Uri::from_static("/b/k?x-amz-acl=private");
        assert_eq!(unsigned(signed_elsewhere).as_deref(), Some("/b/k?x-amz-acl=private"));
    }
}
