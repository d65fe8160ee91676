//! The scope of a signature: which region and which service it was made for.
//!
//! There is one place here, and any name of it will do: clients are configured for the region of whatever they talked to
//! before. But `s3s` takes only names of lower case letters, and s3cmd signs for `US`, the name that S3's first region had
//! in 2006, unless it is told otherwise. S3 answers it with the name of the region that is meant, and s3cmd then signs
//! again for that one; so do we. No region at all is none: S3 refuses it, and `s3s` lets it pass.
//!
//! A signature for another service opens nothing (`s3s` sees to that, too), but `s3s` calls it not implemented, and a client
//! takes a 501 for a server that might come to its senses.
//!
//! Signatures of version 2 open nothing, and count as none. boto3 presigns with them unless it is told otherwise, and whoever
//! sees "Access Denied" looks for the mistake in the keys.

use super::{add_to_error, error_response};
use crate::s3::request::{header, query_pairs};
use http::{HeaderMap, HeaderValue, Uri};
use s3s::{HttpResponse, S3Error, s3_error};

/// The region that a client is sent to.
const REGION: &str = "us-east-1";
/// What signatures are made for here.
const SERVICE: &str = "s3";

/// The answer to a request whose signature can't be one for this service.
pub fn refused(headers: &HeaderMap, uri: &Uri) -> Option<HttpResponse> {
    let pairs = query_pairs(uri.query().unwrap_or_default());
    if header(headers, "authorization").is_some_and(|value| value.starts_with("AWS "))
        || pairs.iter().any(|(name, _)| name == "AWSAccessKeyId")
    {
        return Some(error_response(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
        )));
    }
    let in_query = pairs.iter().find(|(name, _)| name == "X-Amz-Credential").map(|(_, value)| value.as_str());
    let in_header = header(headers, "authorization").and_then(|value| {
        let (_, credential) = value.split_once("Credential=")?;
        credential.split([',', ' ']).next()
    });
    // From the end: an access key may contain a slash.
    let mut scope = in_header.or(in_query)?.rsplit('/').skip(1);
    let (service, region) = (scope.next()?, scope.next()?);
    // Of whatever is no scope at all, the signature check tells what is wrong.
    scope.next()?;
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if region.is_empty() {
        return Some(error_response(malformed(in_header, "a non-empty region must be provided in the credential")));
    }
    if !region.bytes().all(known) {
        let text = format!("the region '{region}' is wrong; expecting '{REGION}'");
        let mut response =
            error_response(s3_error!(AuthorizationHeaderMalformed, "The authorization header is malformed; {text}"));
        response.headers_mut().insert("x-amz-bucket-region", HeaderValue::from_static(REGION));
        add_to_error(&mut response, &format!("<Region>{REGION}</Region>"));
        return Some(response);
    }
    (service != SERVICE)
        .then(|| error_response(malformed(in_header, "incorrect service. This endpoint belongs to \"s3\"")))
}

fn malformed(in_header: Option<&str>, what: &str) -> S3Error {
    match in_header {
        Some(_) => s3_error!(AuthorizationHeaderMalformed, "The authorization header is malformed; {what}."),
        None => s3_error!(AuthorizationQueryParametersError, "Error parsing the X-Amz-Credential parameter; {what}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_header(scope: &str) -> Option<HttpResponse> {
        let value = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host");
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value.parse().expect("a value"))]);
        refused(&headers, &Uri::from_static("/"))
    }

    fn text(response: HttpResponse) -> String {
        assert_eq!(response.status(), http::StatusCode::BAD_REQUEST);
        String::from_utf8_lossy(&response.body().bytes().expect("a body")).into_owned()
    }

    #[test]
    fn regions() {
        let refused_for = |region: &str| in_header(&format!("a/b/20260101/{region}/s3/aws4_request"));
        assert!(refused_for("us-east-1").is_none() && refused_for("eu-central-1").is_none());
        let told = text(refused_for("US<").expect("refused"));
        assert!(told.contains("<Region>us-east-1</Region></Error>") && !told.contains("US<"), "{told}");
        let told = text(refused_for("").expect("refused"));
        assert!(told.contains("AuthorizationHeaderMalformed") && told.contains("non-empty region"), "{told}");
        let query = Uri::from_static("/?X-Amz-Credential=a%2F20260101%2FUS%2Fs3%2Faws4_request");
        assert!(refused(&HeaderMap::new(), &query).is_some());
        assert!(refused(&HeaderMap::new(), &Uri::from_static("/")).is_none());
    }

    #[test]
    fn version_2_is_called_by_its_name() {
        let old = Uri::from_static("/b/k?AWSAccessKeyId=a&Signature=b%3D&Expires=1");
        let told = text(refused(&HeaderMap::new(), &old).expect("refused"));
        assert!(told.contains("InvalidRequest") && told.contains("AWS4-HMAC-SHA256"), "{told}");
        let value = http::HeaderValue::from_static("AWS a:b=");
        let old = HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
        assert!(refused(&old, &Uri::from_static("/")).is_some());
    }

    #[test]
    fn services() {
        for service in ["iam", "s3express", ""] {
            let told = text(in_header(&format!("a/20260101/us-east-1/{service}/aws4_request")).expect(service));
            assert!(told.contains("AuthorizationHeaderMalformed"), "{told}");
        }
        let query = Uri::from_static("/?X-Amz-Credential=a%2F20260101%2Fus-east-1%2Fiam%2Faws4_request");
        assert!(
            text(refused(&HeaderMap::new(), &query).expect("refused")).contains("AuthorizationQueryParametersError")
        );
        assert!(in_header("a").is_none() && in_header("a/b/c").is_none(), "no scope: for the signature check");
    }
}
