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

/// For how many seconds a signed URL may be good: a week.
const LONGEST_LIFE: u64 = 7 * 24 * 3600;

/// The answer to a request whose signature can't be one for this service.
pub fn refused(headers: &HeaderMap, uri: &Uri) -> Option<HttpResponse> {
    if unclear(headers) {
        return Some(error_response(s3_error!(AccessDenied, "Access Denied")));
    }
    let pairs = query_pairs(uri.query().unwrap_or_default());
    if header(headers, "authorization").is_some_and(|value| value.starts_with("AWS "))
        || pairs.iter().any(|(name, _)| name == "AWSAccessKeyId")
    {
        return Some(error_response(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
        )));
    }
    // Of two signatures one would not be looked at.
    let in_url = |name: &str| matches!(name, "X-Amz-Algorithm" | "X-Amz-Credential" | "X-Amz-Signature");
    if headers.contains_key(http::header::AUTHORIZATION) && pairs.iter().any(|(name, _)| in_url(name)) {
        return Some(error_response(s3_error!(
            InvalidArgument,
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified"
        )));
    }
    // Nobody has signed this; taken for nobody's, it would be in the logs under the name of whom it mentions.
    let says = |wanted: &str| pairs.iter().any(|(name, _)| name == wanted);
    if says("X-Amz-Credential") && !says("X-Amz-Signature") {
        return Some(error_response(s3_error!(
            AuthorizationQueryParametersError,
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        )));
    }
    // A URL whose life is none that one can have was changed since it was signed, or never worth anything: nobody comes in by it.
    if pairs.iter().any(|(name, value)| name == "X-Amz-Expires" && !is_life(value)) {
        return Some(error_response(s3_error!(
            AccessDenied,
            "X-Amz-Expires must be a number of seconds up to {LONGEST_LIFE}"
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

fn is_life(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
        && text.parse::<u64>().is_ok_and(|seconds| (1..=LONGEST_LIFE).contains(&seconds))
}

/// Whoever says that he signs, and then does not, or twice, or in what is no text, is not taken for nobody: he believes that he is
/// somebody.
fn unclear(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let first = values.next();
    values.next().is_some() || first.is_some_and(|value| value.to_str().map_or(true, |text| text.trim().is_empty()))
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

    #[test]
    fn who_mentions_a_key_signs() {
        for (query, ok) in [
            ("/b/k?X-Amz-Credential=a%2F20260101%2Fus-east-1%2Fs3%2Faws4_request", false),
            ("/b/k?X-Amz-%43redential=a", false),
            ("/b/k?X-Amz-Credential=a%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Signature=00", true),
        ] {
            assert_eq!(refused(&HeaderMap::new(), &Uri::from_static(query)).is_none(), ok, "{query}");
        }
    }

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
    fn a_signature_is_there_once() {
        let of = |values: &[&'static str]| {
            let headers = values.iter().map(|value| (http::header::AUTHORIZATION, HeaderValue::from_static(value)));
            refused(&headers.collect(), &Uri::from_static("/")).map(|response| response.status())
        };
        assert_eq!(of(&[""]), Some(http::StatusCode::FORBIDDEN));
        assert_eq!(of(&["a", "b"]), Some(http::StatusCode::FORBIDDEN));
        assert_eq!(of(&[]), None);
        let odd = HeaderValue::from_bytes(b"AWS4-HMAC-SHA256 Credential=\xff").expect("a value");
        let odd = HeaderMap::from_iter([(http::header::AUTHORIZATION, odd)]);
        let told = refused(&odd, &Uri::from_static("/")).map(|response| response.status());
        assert_eq!(told, Some(http::StatusCode::FORBIDDEN));
        let presigned = Uri::from_static("/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00");
        let header =
            HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_static("AWS4-HMAC-SHA256 x"))]);
        assert!(text(refused(&header, &presigned).expect("two forms")).contains("Only one auth mechanism"));
    }

    #[test]
    fn lives_of_urls() {
        let of = |seconds: &str| {
            let uri: Uri = format!("/b/k?X-Amz-Expires={seconds}").parse().expect("a URI");
            refused(&HeaderMap::new(), &uri).map(|response| response.status())
        };
        for none in ["0", "-7", "609901", "x", "", "%2B5"] {
            assert_eq!(of(none), Some(http::StatusCode::FORBIDDEN), "{none}");
        }
        assert!(of("1").is_none() && of("604800").is_none());
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
