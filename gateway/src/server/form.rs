//! Browser uploads: a form (`multipart/form-data`) that a page sends, with a policy that somebody signed, or without one.
//!
//! Source: Amazon S3 API Reference, "POST Object" and "Creating a POST policy" (Signature Version 4).
//!
//! `s3s` has such forms, too, but holds them to fifteen minutes from their date and keeps them in memory. So a form is read here,
//! up to its file. Its signature and its policy are checked, and what is left of it is a PutObject that goes through the service
//! like any other, in the name of who signed: one decision, one set of headers, one way to store.
//!
//! Invariants:
//! * Nothing of the file is read before the signature, the policy and every field before it were checked, and no more than its
//!   beginning ([`file::SHORT`]) before [`crate::auth`] has let the PutObject through.
//! * Fields are bounded ([`fields::MAX_FIELDS`], [`fields::MAX_FIELD_BYTES`]), and the file is never held but for its beginning.
//! * A field that becomes a header is one that POST Object has. What else asks for something (`x-amz-*`) is refused, and no field
//!   can make another operation of the request than PutObject.
//! * The PutObject names the bucket and the key that the policy was held against, by path and whatever the form's host was: bytes
//!   that are read a second time, as another host or with another decoding, would be stored where nobody has looked. [`crate::auth`]
//!   compares both ([`OfForm`]).
//! * [`Verified`] is inserted only after the signature over the policy was compared.

mod fields;
mod file;

use super::location::{Address, path};
use super::{Front, error_response, method_not_allowed};
use crate::auth::facts::Signed;
use crate::auth::{Authenticator, By, Verified};
use crate::percent;
use crate::s3::error;
use access::post::{Form as Said, FormError, PolicyError, PostPolicy};
use bytes::Bytes;
use fields::Fields;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION, REFERER, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use hyper::body::Body as HttpBody;
use s3s::auth::S3Auth as _;
use s3s::dto::PostResponse;
use s3s::path::{S3Path, check_bucket_name};
use s3s::xml::{Serialize as _, Serializer};
use s3s::{Body, HttpResponse, S3Error, S3Result, StdError, s3_error};
use s3s_sigv4::{AmzDate, CredentialV4};
use std::time::Duration;
use subtle::ConstantTimeEq as _;

/// An extension of a request that was made of a form: its file's length may not be known.
#[derive(Clone, Debug)]
pub(crate) struct OfForm {
    bucket: String,
    key: String,
}

impl OfForm {
    /// Whether a request is the one that the form is for.
    pub(crate) fn is_for(&self, operation: &str, path: &S3Path) -> bool {
        operation == "PutObject" && path.as_object() == Some((self.bucket.as_str(), self.key.as_str()))
    }
}

/// What a policy demands of the length of the file.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    min: u64,
    max: u64,
}

/// Whether a request is one of these.
pub(super) fn is_form<B>(req: &Request<B>) -> bool {
    let kind = req.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    req.method() == Method::POST && kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data")
}

/// Answers a form. `patience` is for its fields.
pub(super) async fn upload<B>(service: &Front, patience: Duration, req: Request<B>) -> HttpResponse
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<StdError>,
{
    match stored(service, patience, req).await {
        Ok(response) => response,
        Err(refused) => error_response(refused),
    }
}

async fn stored<B>(service: &Front, patience: Duration, req: Request<B>) -> S3Result<HttpResponse>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<StdError>,
{
    let Some((bucket, None)) = service.domains.target(&req) else {
        return Ok(method_not_allowed("GET, HEAD, PUT, DELETE"));
    };
    if !check_bucket_name(&bucket) {
        // Also one whose name is encoded: `docs%2Fa` would be the bucket `docs` for who decodes it.
        return Err(s3_error!(InvalidBucketName, "The specified bucket is not valid."));
    }
    if !req.headers().contains_key(CONTENT_LENGTH) {
        return Err(error::missing_length());
    }
    let (parts, body) = req.into_parts();
    let read = tokio::time::timeout(patience, fields::read(&parts.headers, body)).await;
    let (fields, file) = read.unwrap_or_else(|_| Err(error::too_slow()))?;
    fields.key()?;
    let (signer, lengths) = check(service, &bucket, &fields).await?;
    let file = file::File::new(file, lengths).begin(patience).await?;

    let uri = path(&bucket, fields.key()?);
    let uri = uri.parse::<Uri>().map_err(|_| s3_error!(InvalidURI, "Couldn't parse the specified URI."))?;
    let mut headers = fields.headers()?;
    // What policies may ask for. No host: it may name a bucket.
    for name in [REFERER, USER_AGENT] {
        headers.extend(parts.headers.get(&name).map(|value| (name, value.clone())));
    }
    if let Some(length) = file.length() {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let fault = file.fault();
    let at = Address::of(&parts.headers, &parts.uri, &parts.extensions).in_bucket(&bucket, fields.key()?);
    let mut put = Request::new(file.into_body());
    (*put.method_mut(), *put.uri_mut(), *put.headers_mut()) = (Method::PUT, uri, headers);
    *put.extensions_mut() = parts.extensions;
    put.extensions_mut().insert(OfForm { bucket: bucket.clone(), key: fields.key()?.to_owned() });
    put.extensions_mut().insert(Verified { by: signer });
    let answered = service.mended.call(put).await.map_err(|failed| error::internal(&failed))?;
    if let Some(refused) = fault.take() {
        // The service knows only that the body ended early.
        return Err(form_error(&refused));
    }
    if !answered.status().is_success() {
        return Ok(answered);
    }
    Ok(success(answered, &at, &bucket, &fields))
}

/// Whom the form is from, and how long its file may be.
async fn check(service: &Front, bucket: &str, fields: &Fields) -> S3Result<(Option<By>, Lengths)> {
    let all = Lengths { min: 0, max: u64::MAX };
    if fields.get("awsaccesskeyid").is_some() || fields.get("signature").is_some() {
        return Err(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
        ));
    }
    let Some(policy) = fields.get("policy") else {
        if fields.get("x-amz-signature").is_some() || fields.get("x-amz-credential").is_some() {
            return Err(missing("policy"));
        }
        return Ok((None, all));
    };
    let signer = verify(service, policy, fields).await?;
    let policy = PostPolicy::from_base64(policy).map_err(|refused| policy_error(&refused))?;
    let said = Said { bucket, fields: fields.all(), length: 0 };
    policy.check_fields(&said, jiff::Timestamp::now().as_millisecond()).map_err(|refused| form_error(&refused))?;
    let (min, max) = policy.lengths();
    Ok((Some(signer), Lengths { min, max }))
}

/// Compares the signature over the policy, and tells whose it is.
async fn verify(service: &Front, policy: &str, fields: &Fields) -> S3Result<By> {
    let field = |name: &'static str| fields.get(name).ok_or_else(|| missing(name));
    let (algorithm, credential) = (field("x-amz-algorithm")?, field("x-amz-credential")?);
    let (date, signature) = (field("x-amz-date")?, field("x-amz-signature")?);
    let wrong = |what: &str| s3_error!(InvalidArgument, "{what} is wrong.");
    if algorithm != "AWS4-HMAC-SHA256" {
        return Err(wrong("X-Amz-Algorithm"));
    }
    let scope = CredentialV4::parse(credential).map_err(|_| wrong("X-Amz-Credential"))?;
    let date = AmzDate::parse(date).map_err(|_| wrong("X-Amz-Date"))?;
    if scope.aws_service != "s3" || scope.aws_region.is_empty() || scope.date != date.fmt_date().as_str() {
        return Err(wrong("The scope of X-Amz-Credential"));
    }
    let secret = Authenticator::new(std::sync::Arc::clone(&service.meta)).get_secret_key(scope.access_key_id).await?;
    let ours = s3s_sigv4::calculate_signature(policy, secret.expose(), &date, scope.aws_region, scope.aws_service);
    if !bool::from(ours.as_bytes().ct_eq(signature.as_bytes())) {
        return Err(s3_error!(
            SignatureDoesNotMatch,
            "The request signature we calculated does not match the signature you provided. Check your key and signing method."
        ));
    }
    let at_ms = date.to_time().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    Ok(By {
        access_key: scope.access_key_id.to_owned(),
        token: fields.get("x-amz-security-token").map(str::to_owned),
        signed: Signed { kind: "POST", at_ms },
    })
}

fn missing(name: &str) -> S3Error {
    s3_error!(
        InvalidArgument,
        "Bucket POST must contain a field named '{name}'. If it is specified, please check the order of the fields."
    )
}

fn policy_error(refused: &PolicyError) -> S3Error {
    s3_error!(InvalidPolicyDocument, "{refused}")
}

fn form_error(refused: &FormError) -> S3Error {
    match refused {
        FormError::Expired | FormError::Failed { .. } | FormError::Extra(_) => s3_error!(AccessDenied, "{refused}"),
        FormError::TooSmall => s3_error!(EntityTooSmall, "{refused}"),
        FormError::TooLarge => s3_error!(EntityTooLarge, "{refused}"),
    }
}

/// What POST Object answers when the object is stored.
fn success(mut stored: HttpResponse, at: &str, bucket: &str, fields: &Fields) -> HttpResponse {
    let key = fields.key().unwrap_or_default();
    let etag = stored.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
    if let Some(location) = redirect(fields, bucket, key, &etag) {
        *stored.status_mut() = StatusCode::SEE_OTHER;
        stored.headers_mut().insert(LOCATION, location);
        return stored;
    }
    if let Ok(location) = HeaderValue::from_str(at) {
        stored.headers_mut().insert(LOCATION, location);
    }
    match fields.get("success_action_status") {
        Some("200") => *stored.status_mut() = StatusCode::OK,
        Some("201") => {
            let mut text = br#"<?xml version="1.0" encoding="UTF-8"?>"#.to_vec();
            let told = PostResponse { location: at, bucket, key, etag: &etag };
            if told.serialize(&mut Serializer::new(&mut text)).is_ok() {
                stored.headers_mut().remove(CONTENT_LENGTH);
                stored.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
                *stored.body_mut() = Body::from(Bytes::from(text));
            }
            *stored.status_mut() = StatusCode::CREATED;
        }
        // As S3 does for anything else.
        _ => *stored.status_mut() = StatusCode::NO_CONTENT,
    }
    stored
}

/// Where the browser is sent, if the form says so. What is no URL of a page is as if it were not there.
fn redirect(fields: &Fields, bucket: &str, key: &str, etag: &str) -> Option<HeaderValue> {
    let wanted = fields.get("success_action_redirect").or_else(|| fields.get("redirect"))?;
    let uri: Uri = wanted.parse().ok()?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return None;
    }
    let (before, fragment) = wanted.split_once('#').map_or((wanted, None), |(before, after)| (before, Some(after)));
    let mut location = format!("{before}{}", if before.contains('?') { '&' } else { '?' });
    for (name, value) in [("bucket", bucket), ("&key", key), ("&etag", etag)] {
        location.push_str(name);
        location.push('=');
        percent::push_path(&mut location, value);
    }
    if let Some(fragment) = fragment {
        location.push('#');
        location.push_str(fragment);
    }
    HeaderValue::from_str(&location).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What the form says and what is stored are one reading.
        #[test]
        fn the_put_is_read_as_what_was_checked(key in "[a-c%/+. ?#\\u{e9}]{1,24}") {
            let uri: Uri = path("docs", &key).parse().expect("a URI");
            let decoded = query_free(uri.path());
            let read = s3s::path::parse_path_style(&decoded).expect("a path");
            let form = OfForm { bucket: "docs".to_owned(), key };
            prop_assert!(form.is_for("PutObject", &read) && !form.is_for("CopyObject", &read));
        }
    }

    /// A path, decoded: a plus is a plus.
    fn query_free(path: &str) -> String {
        let pairs = crate::s3::request::query_pairs(&path.replace('+', "%2B"));
        pairs.into_iter().map(|(name, _)| name).collect()
    }
}
