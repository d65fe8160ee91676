//! Signatures of version 4 over a form.
//!
//! Source: IAM User Guide, "Create a signed AWS API request". `s3s` verifies those of S3; these are of other services, whose bodies
//! are hashed whole and whose paths are always `/`.
//!
//! Invariants
//! * One way to be signed: one Authorization header. A query, a second header, or a part of the header that is there twice is refused.
//! * The host and every `x-amz-` header are signed, and the date is of the last fifteen minutes, or the next.
//! * Signatures are compared in constant time.

use super::answer::{Api, refusal};
use crate::s3::request::header;
use aws_lc_rs::{digest, hmac};
use http::HeaderMap;
use http::request::Parts;
use metadata::client::LookupError;
use metadata::keys::Secret;
use s3s::HttpResponse;
use zeroize::Zeroizing;

/// How far a client's clock may be off, in seconds.
const SKEW: u64 = 15 * 60;
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Why a request is not carried out.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    status: u16,
    code: &'static str,
    message: String,
}

impl Refused {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Refused {
        Refused { status, code, message: message.into() }
    }

    pub fn unavailable(error: &LookupError) -> Refused {
        tracing::warn!(%error, "who signs is not known");
        Refused::new(503, "ServiceUnavailable", "The service is not available. Try again.")
    }

    pub fn response(self, api: Api) -> HttpResponse {
        refusal(api, self.status, self.code, &self.message)
    }
}

pub fn invalid_token() -> Refused {
    Refused::new(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
}

fn incomplete(what: &str) -> Refused {
    Refused::new(400, "IncompleteSignature", format!("{what} is missing, malformed or there twice."))
}

/// The service that a header is signed for.
pub fn service(authorization: &str) -> Option<&str> {
    let credential = part(authorization.strip_prefix(ALGORITHM)?, "Credential")?;
    credential.rsplit('/').nth(1)
}

/// A part of the header; `None` where it is missing or there twice.
fn part<'a>(authorization: &'a str, name: &str) -> Option<&'a str> {
    let value = |part: &'a str| part.trim().strip_prefix(name)?.strip_prefix('=');
    let mut found = authorization.split(',').filter_map(value);
    found.next().filter(|_| found.next().is_none())
}

/// A request that says that it is signed.
#[derive(Debug)]
pub struct Signed {
    access_key: String,
    /// Date, region and service.
    scope: [String; 3],
    to_sign: String,
    signature: Vec<u8>,
}

impl Signed {
    /// Reads the signature of a request. `now`: seconds since the Unix epoch.
    pub fn read(parts: &Parts, service: &str, body: &[u8], now: u64) -> Result<Signed, Refused> {
        if parts.uri.query().is_some_and(|query| !query.is_empty()) {
            return Err(Refused::new(400, "MalformedQueryString", "Parameters belong into the form."));
        }
        let authorization = one(&parts.headers, "authorization")?;
        let authorization = authorization.strip_prefix(ALGORITHM).ok_or_else(|| incomplete("The algorithm"))?;
        let of = |name: &'static str| part(authorization, name).ok_or_else(|| incomplete(name));
        let (credential, names) = (of("Credential")?, of("SignedHeaders")?);
        let signature = hex::decode(of("Signature")?).map_err(|_| incomplete("Signature"))?;
        let mut scope = credential.rsplitn(5, '/');
        let mut next = || scope.next().filter(|part| !part.is_empty()).ok_or_else(|| incomplete("Credential"));
        let (end, of_service, region, date) = (next()?, next()?, next()?, next()?);
        let access_key = next()?.to_owned();
        if end != "aws4_request" || of_service != service {
            return Err(incomplete("Credential"));
        }
        let at = one(&parts.headers, "x-amz-date")?;
        check_time(at, date, now)?;
        let body_hash = hex::encode(digest::digest(&digest::SHA256, body));
        if let Some(said) = header(&parts.headers, "x-amz-content-sha256")
            && said != body_hash
        {
            return Err(mismatch());
        }
        let canonical = canonical(parts, names, &body_hash)?;
        let hash = hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        let to_sign = format!("{ALGORITHM}\n{at}\n{date}/{region}/{service}/aws4_request\n{hash}");
        let scope = [date, region, service].map(str::to_owned);
        Ok(Signed { access_key, scope, to_sign, signature })
    }

    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// Refuses a signature that was not made with the secret.
    pub fn verify(&self, secret: &Secret) -> Result<(), Refused> {
        let mut key = Zeroizing::new(format!("AWS4{}", secret.expose()).into_bytes());
        for part in self.scope.iter().map(String::as_str).chain(["aws4_request"]) {
            key =
                Zeroizing::new(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec());
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        hmac::verify(&key, self.to_sign.as_bytes(), &self.signature).map_err(|_| mismatch())
    }
}

fn mismatch() -> Refused {
    let text = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key \
                and signing method.";
    Refused::new(403, "SignatureDoesNotMatch", text)
}

/// The value of a header that is there once.
fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Refused> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| incomplete(name)),
        _ => Err(incomplete(name)),
    }
}

fn check_time(at: &str, date: &str, now: u64) -> Result<(), Refused> {
    let plain = at.len() == 16 && at.ends_with('Z') && at.get(..8) == Some(date);
    let parsed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", at).ok().filter(|_| plain);
    let parsed = parsed.and_then(|time| jiff::tz::TimeZone::UTC.to_timestamp(time).ok());
    let seconds = parsed.and_then(|time| u64::try_from(time.as_second()).ok());
    let seconds = seconds.ok_or_else(|| incomplete("x-amz-date"))?;
    if seconds.abs_diff(now) > SKEW {
        let text = format!("Signature expired or not yet current: {at} is more than 15 minutes from the server's time");
        return Err(Refused::new(403, "SignatureDoesNotMatch", text));
    }
    Ok(())
}

/// The canonical request.
fn canonical(parts: &Parts, names: &str, body_hash: &str) -> Result<String, Refused> {
    let listed: Vec<&str> = names.split(';').collect();
    if !listed.is_sorted_by(|a, b| a < b) || listed.iter().any(|name| name.to_ascii_lowercase() != **name) {
        return Err(incomplete("SignedHeaders"));
    }
    let must = |name: &str| name == "host" || name.starts_with("x-amz-");
    let all_signed =
        parts.headers.keys().map(http::HeaderName::as_str).filter(|name| must(name)).all(|name| listed.contains(&name));
    if !all_signed || !listed.contains(&"host") {
        return Err(Refused::new(
            403,
            "AccessDenied",
            "There were headers present in the request which were not signed",
        ));
    }
    let mut lines = String::new();
    for name in &listed {
        let values: Option<Vec<String>> =
            parts.headers.get_all(*name).iter().map(|value| Some(single_spaced(value.to_str().ok()?))).collect();
        let mut value = values.ok_or_else(|| incomplete("A signed header"))?.join(",");
        if value.is_empty() && *name == "host" {
            value = parts.uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        }
        lines.push_str(&format!("{name}:{value}\n"));
    }
    Ok(format!("POST\n/\n\n{lines}\n{names}\n{body_hash}"))
}

fn single_spaced(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    const NOW: u64 = 1_440_938_160;

    fn signed(change: impl FnOnce(&mut HeaderMap), body: &[u8], secret: &str) -> Result<(), Refused> {
        let mut req = Request::post("https://iam.amazonaws.com/").body(()).expect("a request");
        let headers = [
            ("host", "iam.amazonaws.com"),
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("x-amz-date", "20150830T123600Z"),
        ];
        for (name, value) in headers {
            req.headers_mut().insert(name, value.parse().expect("a value"));
        }
        let authorization = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
                             SignedHeaders=content-type;host;x-amz-date, \
                             Signature=SIGNATURE";
        req.headers_mut()
            .insert("authorization", authorization.replace("SIGNATURE", SIGNATURE).parse().expect("a value"));
        change(req.headers_mut());
        let (parts, ()) = req.into_parts();
        Signed::read(&parts, "iam", body, NOW)?.verify(&Secret::new(secret.to_owned()))
    }

    const BODY: &[u8] = b"Action=ListUsers&Version=2010-05-08";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    /// Made with botocore's SigV4Auth for the request above.
    const SIGNATURE: &str = "5d76d0de3e0ffe5a7a23cfce21b99d6f4e5060aad86bd9dc7c617f224e5b492a";

    #[test]
    fn what_botocore_signs_is_verified_and_nothing_else() {
        let same = |_: &mut HeaderMap| {};
        assert_eq!(signed(same, BODY, SECRET), Ok(()));
        assert_eq!(signed(same, BODY, "another secret"), Err(mismatch()));
        assert_eq!(signed(same, b"Action=DeleteUser", SECRET), Err(mismatch()));
        let set = |name: &'static str, value: &'static str| {
            move |headers: &mut HeaderMap| drop(headers.insert(name, value.parse().expect("a value")))
        };
        assert_eq!(signed(set("host", "other"), BODY, SECRET), Err(mismatch()));
        assert_eq!(signed(set("x-amz-date", "20150830T123601Z"), BODY, SECRET), Err(mismatch()));
        assert_eq!(signed(set("x-amz-date", "20150830T130000Z"), BODY, SECRET).unwrap_err().status, 403);
        assert_eq!(signed(set("x-amz-date", "20150831T123600Z"), BODY, SECRET), Err(incomplete("x-amz-date")));
        assert_eq!(signed(set("x-amz-security-token", "t"), BODY, SECRET).unwrap_err().code, "AccessDenied");
        assert_eq!(signed(set("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), BODY, SECRET).unwrap_err().status, 403);
        let twice = |headers: &mut HeaderMap| {
            let value = headers.get("authorization").cloned().expect("there");
            headers.append("authorization", value);
        };
        assert_eq!(signed(twice, BODY, SECRET), Err(incomplete("authorization")));
    }

    #[test]
    fn a_signature_for_another_service_is_refused() {
        let credential = "AWS4-HMAC-SHA256 Credential=A/20150830/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=00";
        let req = Request::post("/")
            .header("host", "h")
            .header("x-amz-date", "20150830T123600Z")
            .header("authorization", credential);
        let (parts, ()) = req.body(()).expect("a request").into_parts();
        assert_eq!(Signed::read(&parts, "iam", b"", NOW).unwrap_err(), incomplete("Credential"));
        assert_eq!(service(credential), Some("s3"));
        assert_eq!(
            service("AWS4-HMAC-SHA256 Credential=A/d/r/iam/aws4_request, Credential=A/d/r/s3/aws4_request"),
            None
        );
    }
}
