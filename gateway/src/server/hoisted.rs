//! Headers in the query of a presigned URL.
//!
//! Whoever opens a presigned URL has nothing but it: a browser sends no header of S3's. So SDKs move the `x-amz-*` headers of what they
//! presign into the query (the SDK for JavaScript does it by default), and S3 takes such a parameter for the header of its name.
//!
//! A header could not be added before the signature was verified: `s3s` refuses `x-amz-*` headers that the signature does not name, and
//! it must go on to do so. So such a request goes through `s3s` twice ([`super::lenient`]): as it came, which verifies the signature over
//! the query with all its parameters; and then with headers in their place, for everybody who reads headers: the routing of `s3s`, the
//! decision of [`crate::auth`], the refusals of [`crate::s3::support`], and the handlers.
//!
//! Invariants:
//! * A parameter becomes a header only where the query has the signature that covers it, and it is gone from the query then: nobody can
//!   read it there and another one the header.
//! * What is said twice, of a header and a parameter or of two parameters, is the same or it is refused.

use crate::s3::request::query_pairs;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use s3s::{S3Error, S3Result, s3_error};
use std::borrow::Cow;

/// What S3 itself has in the query of a presigned URL, in lower case: the signature, and [`PAYLOAD`].
const STAYS: [&str; 8] = [
    "x-amz-algorithm",
    PAYLOAD,
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
];
/// The digest of the body, or that there is none: see [`tell`].
const PAYLOAD: &str = "x-amz-content-sha256";
/// What says that the body is covered by no digest.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// The algorithm of the checksum that an SDK adds.
const NAMED: &str = "x-amz-sdk-checksum-algorithm";

fn is_presigned(query: &[(String, String)]) -> bool {
    query.iter().any(|(name, _)| name == "X-Amz-Signature")
}

fn is_digest(name: &str) -> bool {
    name == "x-amz-trailer"
        || name.strip_prefix("x-amz-checksum-").is_some_and(|rest| !matches!(rest, "algorithm" | "mode" | "type"))
}

/// Which parameters of a request count as headers.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    presigned: bool,
    /// Whether there is a checksum. SDKs say the algorithm of one that they would add, also where they presign and there is no body to
    /// compute it of: then it claims nothing of the body of whoever opens the URL. A header that names an algorithm for no checksum is
    /// refused.
    has_digest: bool,
    /// Whether there is a body. SDKs add the checksum of none where they presign (the one for JavaScript does, `AAAAAA==`), for there is
    /// none yet: then it is not of the body that comes.
    has_body: bool,
}

/// The checksums of nothing.
const OF_NOTHING: [(&str, &str); 5] = [
    ("x-amz-checksum-crc32", "AAAAAA=="),
    ("x-amz-checksum-crc32c", "AAAAAA=="),
    ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
    ("x-amz-checksum-sha1", "2jmj7l5rSw0yVb/vlWAYkK/YBwk="),
    ("x-amz-checksum-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
];

impl Rule {
    /// Of the request with these headers and this query.
    pub fn of(headers: &HeaderMap, query: &[(String, String)]) -> Rule {
        let has_body = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        let mut rule = Rule { presigned: is_presigned(query), has_digest: false, has_body };
        let in_query = || {
            query.iter().any(|(name, value)| is_digest(&name.to_ascii_lowercase()) && !rule.is_of_nothing(name, value))
        };
        rule.has_digest = rule.presigned && (headers.keys().any(|name| is_digest(name.as_str())) || in_query());
        rule
    }

    /// Whether a parameter is the checksum of no body, and there is one: it is no header then, and nobody reads it elsewhere.
    fn is_of_nothing(self, name: &str, value: &str) -> bool {
        self.has_body && OF_NOTHING.iter().any(|(of, nothing)| name.eq_ignore_ascii_case(of) && value == *nothing)
    }

    /// Whether any parameter is one.
    pub fn is_any(self, query: &[(String, String)]) -> bool {
        query.iter().any(|(name, _)| self.is_header(name))
    }

    /// Whether the parameter `name` is one.
    pub fn is_header(self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.presigned
            && name.starts_with("x-amz-")
            && !STAYS.contains(&name.as_str())
            && (self.has_digest || name != NAMED)
    }
}

/// Whether any parameter of a request counts as a header.
pub fn any(headers: &HeaderMap, uri: &Uri) -> bool {
    let query = query_pairs(uri.query().unwrap_or_default());
    Rule::of(headers, &query).is_any(&query)
}

/// Says in headers what the query says in their stead.
pub fn say(headers: &mut HeaderMap, query: &[(String, String)]) -> S3Result<()> {
    let rule = Rule::of(headers, query);
    for (name, value) in query.iter().filter(|(name, value)| rule.is_header(name) && !rule.is_of_nothing(name, value)) {
        // As HTTP takes the value of a header.
        let value = value.trim_matches([' ', '\t']);
        let (Ok(header), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        else {
            return Err(s3_error!(InvalidArgument, "The query parameter {name} is no header that there could be."));
        };
        if headers.get_all(&header).iter().any(|said| *said != value) {
            return Err(two_things(name));
        }
        if !headers.contains_key(&header) {
            let added = headers.try_insert(header, value);
            added
                .map_err(|_| s3_error!(InvalidArgument, "The query has too many parameters that count as headers."))?;
        }
    }
    Ok(())
}

/// The headers of a request with what its query says in their stead, for those who look at it before its signature was verified. Of one
/// that says what can't be, its own headers: it goes no further than that.
pub fn said<'a>(headers: &'a HeaderMap, uri: &Uri) -> Cow<'a, HeaderMap> {
    let query = query_pairs(uri.query().unwrap_or_default());
    if !Rule::of(headers, &query).is_any(&query) {
        return Cow::Borrowed(headers);
    }
    let mut all = headers.clone();
    say(&mut all, &query).map_or(Cow::Borrowed(headers), |()| Cow::Owned(all))
}

/// Says the digest of the body in the header that `s3s` reads, if a presigned URL has it: the signature covers the query, and `s3s` holds
/// the body against that header, which need not be signed. A URL that leaves the body open may be opened with a header that says more.
pub fn tell(headers: &mut HeaderMap, uri: &Uri) -> S3Result<()> {
    let query = query_pairs(uri.query().unwrap_or_default());
    if !is_presigned(&query) {
        return Ok(());
    }
    let parameters = query.iter().filter(|(name, _)| name.eq_ignore_ascii_case(PAYLOAD));
    let values: Vec<&str> = parameters.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty()).collect();
    let Some(first) = values.first() else { return Ok(()) };
    let differs = |said: &[u8]| *first != UNSIGNED && !said.eq_ignore_ascii_case(first.as_bytes());
    if values.iter().any(|value| value != first) || headers.get_all(PAYLOAD).iter().any(|v| differs(v.as_bytes())) {
        return Err(two_things(PAYLOAD));
    }
    if !headers.contains_key(PAYLOAD) {
        let value = HeaderValue::from_str(first);
        headers.insert(PAYLOAD, value.map_err(|_| s3_error!(InvalidArgument, "{PAYLOAD} is not text."))?);
    }
    Ok(())
}

fn two_things(name: &str) -> S3Error {
    s3_error!(InvalidArgument, "The request says two things of {name}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRESIGNED: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a&X-Amz-Date=d&X-Amz-Expires=5\
        &X-Amz-SignedHeaders=host&X-Amz-Security-Token=t&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&X-Amz-Signature=00";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    /// What `query` adds to these headers, sorted.
    fn says(own: &[(&'static str, &'static str)], query: &str) -> Result<Vec<String>, String> {
        let mut all = headers(own);
        say(&mut all, &query_pairs(query)).map_err(|refused| refused.code().as_str().to_owned())?;
        let mut lines: Vec<String> =
            all.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))).collect();
        lines.sort_unstable();
        Ok(lines)
    }

    #[test]
    fn parameters_of_a_presigned_url_are_headers() {
        let nothing = Ok(Vec::new());
        assert_eq!(says(&[], PRESIGNED), nothing, "what the signature has in the query is no header");
        let more = "x-id=PutObject&X-Amz-Meta-A=%20b%20&x%2Damz-acl=private&x-amz-tagging=a%3Db%26c&prefix=x";
        assert_eq!(says(&[], more), nothing, "no signature covers it");
        assert_eq!(
            says(&[("range", "x")], &format!("{more}&{PRESIGNED}")).expect("headers"),
            ["range: x", "x-amz-acl: private", "x-amz-meta-a: b", "x-amz-tagging: a=b&c"]
        );
        // `s3s` looks for the signature under this very name.
        assert_eq!(says(&[], "x-amz-acl=private&x-amz-signature=00"), nothing);
    }

    #[test]
    fn what_can_be_no_header_or_two_is_refused() {
        for query in
            ["x-amz-meta-a=%0d%0ahost:x", "x-amz-meta-a=%00", "x-amz-meta-a=%7f", "x-amz-meta-a%20=b", "x-amz-%c3%a9=b"]
        {
            assert_eq!(says(&[], &format!("{query}&{PRESIGNED}")).expect_err(query), "InvalidArgument");
        }
        let acl = format!("x-amz-acl=private&{PRESIGNED}");
        assert_eq!(says(&[("x-amz-acl", "public-read")], &acl).expect_err("two"), "InvalidArgument");
        assert_eq!(says(&[], &format!("X-Amz-ACL=public-read&{acl}")).expect_err("two"), "InvalidArgument");
        for same in [says(&[("x-amz-acl", "private")], &acl), says(&[], &format!("X-Amz-ACL=private&{acl}"))] {
            assert_eq!(same.expect("one"), ["x-amz-acl: private"]);
        }
    }

    #[test]
    fn an_algorithm_is_for_a_checksum() {
        let named = format!("x-amz-sdk-checksum-algorithm=CRC32&{PRESIGNED}");
        assert_eq!(says(&[], &named), Ok(Vec::new()));
        assert_eq!(says(&[], &format!("x-amz-checksum-mode=ENABLED&{named}")).expect("headers").len(), 1);
        assert_eq!(says(&[], &format!("X-Amz-Checksum-Sha1=x&{named}")).expect("headers").len(), 2);
        assert_eq!(says(&[("x-amz-checksum-crc32", "x")], &named).expect("headers").len(), 2);
    }

    /// What the SDK for JavaScript presigns by default, for a body that it has not seen.
    #[test]
    fn a_checksum_of_nothing_is_not_of_a_body() {
        let presigned = format!("x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32&{PRESIGNED}");
        assert_eq!(says(&[("content-length", "5")], &presigned).expect("headers"), ["content-length: 5"]);
        assert_eq!(says(&[("content-length", "0")], &presigned).expect("headers").len(), 3, "of no body it is");
        let other = format!("x-amz-checksum-crc32=AAAAAQ%3D%3D&{PRESIGNED}");
        assert_eq!(says(&[("content-length", "5")], &other).expect("headers").len(), 2);
        let all = OF_NOTHING.map(|(name, value)| format!("{name}={}", value.replace('+', "%2B")));
        assert_eq!(
            says(&[("content-length", "5")], &format!("{}&{PRESIGNED}", all.join("&"))).expect("headers").len(),
            1
        );
    }

    #[test]
    fn the_digest_of_the_body_is_told_once() {
        let told = |own: &[(&'static str, &'static str)], query: &str| {
            let mut all = headers(own);
            let uri: Uri = format!("/b/k?{query}").parse().expect("a URL");
            tell(&mut all, &uri).map_err(|refused| refused.code().as_str().to_owned())?;
            Ok::<_, String>(all.get(PAYLOAD).map(|value| value.to_str().expect("text").to_owned()))
        };
        assert_eq!(told(&[], "X-Amz-Content-Sha256=ab"), Ok(None), "nobody has signed it");
        assert_eq!(told(&[], "X-Amz-Signature=00&X-Amz-Content-Sha256="), Ok(None));
        let hash = "X-Amz-Signature=00&X-Amz-Content-Sha256=ab";
        assert_eq!(told(&[], hash).expect("told").as_deref(), Some("ab"));
        assert_eq!(told(&[(PAYLOAD, "AB")], hash).expect("told").as_deref(), Some("AB"));
        assert!(
            told(&[(PAYLOAD, UNSIGNED)], hash).is_err()
                && told(&[], &format!("{hash}&x-amz-content-sha256=ac")).is_err()
        );
        assert_eq!(told(&[(PAYLOAD, "ab")], PRESIGNED).expect("told").as_deref(), Some("ab"), "a header may say more");
    }
}
