//! The region in a signature's scope.
//!
//! There is one place here, and any name of it will do: clients are configured for the region of whatever they talked to
//! before. But `s3s` takes only names of lower case letters, and s3cmd signs for `US`, the name that S3's first region had
//! in 2006, unless it is told otherwise. S3 answers it with the name of the region that is meant, and s3cmd then signs
//! again for that one; so do we.

use super::{add_to_error, error_response};
use crate::s3::request::{header, query_pairs};
use http::{HeaderMap, HeaderValue, Uri};
use s3s::{HttpResponse, s3_error};

/// The region that a client is sent to.
const REGION: &str = "us-east-1";

/// The answer to a request whose region is no name that could be verified.
pub fn refused(headers: &HeaderMap, uri: &Uri) -> Option<HttpResponse> {
    let pairs = query_pairs(uri.query().unwrap_or_default());
    let in_query = pairs.iter().find(|(name, _)| name == "X-Amz-Credential").map(|(_, value)| value.as_str());
    let in_header = header(headers, "authorization").and_then(|value| {
        let (_, credential) = value.split_once("Credential=")?;
        credential.split([',', ' ']).next()
    });
    // From the end: an access key may contain a slash.
    let region = in_header.or(in_query)?.rsplit('/').nth(2)?;
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if region.bytes().all(known) {
        return None;
    }
    let mut response = error_response(s3_error!(
        AuthorizationHeaderMalformed,
        "The authorization header is malformed; the region '{region}' is wrong; expecting '{REGION}'"
    ));
    response.headers_mut().insert("x-amz-bucket-region", HeaderValue::from_static(REGION));
    add_to_error(&mut response, &format!("<Region>{REGION}</Region>"));
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions() {
        let uri = Uri::from_static("/");
        let refused_for = |region: &str| {
            let value =
                format!("AWS4-HMAC-SHA256 Credential=a/b/20260101/{region}/s3/aws4_request, SignedHeaders=host");
            let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value.parse().expect("a value"))]);
            refused(&headers, &uri)
        };
        assert!(refused_for("us-east-1").is_none() && refused_for("eu-central-1").is_none());
        let refusal = refused_for("US<").expect("refused");
        assert_eq!(refusal.status(), http::StatusCode::BAD_REQUEST);
        let text = String::from_utf8_lossy(&refusal.body().bytes().expect("a body")).into_owned();
        assert!(text.contains("<Region>us-east-1</Region></Error>") && !text.contains("US<"), "{text}");
        let query = Uri::from_static("/?X-Amz-Credential=a%2F20260101%2FUS%2Fs3%2Faws4_request");
        assert!(refused(&HeaderMap::new(), &query).is_some());
        assert!(refused(&HeaderMap::new(), &uri).is_none());
    }
}
