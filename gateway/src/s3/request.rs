//! Request headers in the engine's words: digests, conditions, object headers, encryption.

use crate::digest::digest_len;
use crate::engine::{Claim, Claims};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use codec::effect::{ChecksumAlgorithm, ObjectMeta, UserMeta};
use http::{HeaderMap, StatusCode};
use metadata::command::Condition;
use s3s::dto::{ETagCondition, Metadata, StorageClass};
use s3s::{S3Error, S3Result, TrailingHeaders, s3_error};

use super::{error, support};

/// S3's limit for all user metadata of an object: names and values, in bytes of UTF-8.
const USER_METADATA_LIMIT: usize = 2048;

/// Of an aws-chunked body: its length without the framing.
pub const DECODED_LENGTH: &str = "x-amz-decoded-content-length";

/// The algorithms that are computed and verified.
pub const ALGORITHMS: [ChecksumAlgorithm; 5] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32c,
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
];

/// The name that S3 gives an algorithm.
pub fn algorithm_name(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Unspecified => "NONE",
        ChecksumAlgorithm::Crc32 => "CRC32",
        ChecksumAlgorithm::Crc32c => "CRC32C",
        ChecksumAlgorithm::Crc64Nvme => "CRC64NVME",
        ChecksumAlgorithm::Sha1 => "SHA1",
        ChecksumAlgorithm::Sha256 => "SHA256",
    }
}

/// The header (or trailer) that carries a checksum.
pub fn checksum_header(algorithm: ChecksumAlgorithm) -> String {
    format!("x-amz-checksum-{}", algorithm_name(algorithm).to_ascii_lowercase())
}

/// An algorithm by its S3 name.
pub fn algorithm(name: &str) -> S3Result<ChecksumAlgorithm> {
    if let Some(found) = ALGORITHMS.into_iter().find(|a| algorithm_name(*a).eq_ignore_ascii_case(name)) {
        return Ok(found);
    }
    match name.to_ascii_uppercase().as_str() {
        "SHA512" | "MD5" | "XXHASH64" | "XXHASH3" | "XXHASH128" => {
            Err(error::not_implemented(&format!("The checksum algorithm {name}")))
        }
        _ => Err(s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported.")),
    }
}

fn decode_digest(algorithm: ChecksumAlgorithm, value: &str) -> Option<Bytes> {
    BASE64.decode(value.trim()).ok().filter(|raw| digest_len(algorithm) == Some(raw.len())).map(Bytes::from)
}

/// The raw digest of an `x-amz-checksum-*` value.
pub fn checksum_value(algorithm: ChecksumAlgorithm, value: &str) -> S3Result<Bytes> {
    decode_digest(algorithm, value)
        .ok_or_else(|| s3_error!(InvalidRequest, "Value for {} header is invalid.", checksum_header(algorithm)))
}

/// The checksum fields that an s3s input (or a part listed in one) has set, as they were sent.
macro_rules! sent_checksums {
    ($from:expr) => {{
        use codec::effect::ChecksumAlgorithm as A;
        [
            (A::Crc32, $from.checksum_crc32.as_deref()),
            (A::Crc32c, $from.checksum_crc32c.as_deref()),
            (A::Crc64Nvme, $from.checksum_crc64nvme.as_deref()),
            (A::Sha1, $from.checksum_sha1.as_deref()),
            (A::Sha256, $from.checksum_sha256.as_deref()),
        ]
        .into_iter()
        .filter_map(|(algorithm, value)| Some((algorithm, value?.to_owned())))
        .collect::<Vec<_>>()
    }};
}
pub(crate) use sent_checksums;

/// What the request says about the digests of its body: `sent` are the `x-amz-checksum-*` headers, `trailing` the
/// trailers that an aws-chunked body will bring.
pub fn claims(
    headers: &HeaderMap,
    content_md5: Option<&str>,
    sent: Vec<(ChecksumAlgorithm, String)>,
    trailing: Option<TrailingHeaders>,
) -> S3Result<Claims> {
    // s3s takes an empty header for an absent one. A client that sent one believes that its body is being checked.
    let md5 = content_md5.or_else(|| digest_header(headers, "content-md5")).map(md5_value).transpose()?;
    for algorithm in ALGORITHMS.into_iter().filter(|a| sent.iter().all(|(named, _)| named != a)) {
        if let Some(value) = digest_header(headers, &checksum_header(algorithm)) {
            checksum_value(algorithm, value)?;
        }
    }
    if sent.len() > 1 {
        return Err(multiple_checksums());
    }
    let mut checksums = Vec::new();
    for (algorithm, value) in sent {
        checksums.push((algorithm, Claim::Value(checksum_value(algorithm, &value)?)));
    }
    if let Some(algorithm) = announced_trailer(headers)? {
        if !checksums.is_empty() {
            return Err(multiple_checksums());
        }
        let Some(trailing) = trailing else {
            return Err(s3_error!(InvalidRequest, "x-amz-trailer needs an aws-chunked body with trailers."));
        };
        checksums.push((algorithm, Claim::Trailer(Box::new(move || trailer_value(&trailing, algorithm)))));
    }
    if let Some(named) = header(headers, "x-amz-sdk-checksum-algorithm") {
        let named = algorithm(named)?;
        match checksums.first() {
            None => {
                return Err(s3_error!(
                    InvalidRequest,
                    "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
                ));
            }
            Some((sent, _)) if *sent != named => {
                return Err(s3_error!(InvalidRequest, "Value for x-amz-sdk-checksum-algorithm header is invalid."));
            }
            Some(_) => {}
        }
    }
    Ok(Claims { md5, checksums })
}

/// The digest of a Content-MD5 value.
pub fn md5_value(value: &str) -> S3Result<[u8; 16]> {
    BASE64
        .decode(value.trim())
        .ok()
        .and_then(|raw| <[u8; 16]>::try_from(raw).ok())
        .ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid."))
}

fn multiple_checksums() -> S3Error {
    s3_error!(InvalidRequest, "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
}

fn announced_trailer(headers: &HeaderMap) -> S3Result<Option<ChecksumAlgorithm>> {
    let mut found = None;
    for value in headers.get_all("x-amz-trailer") {
        let value = value.to_str().map_err(|_| s3_error!(InvalidRequest, "The value of x-amz-trailer is invalid."))?;
        for name in value.split(',').map(str::trim) {
            let lower = name.to_ascii_lowercase();
            let Some(name) = lower.strip_prefix("x-amz-checksum-") else { continue };
            if found.replace(algorithm(name)?).is_some() {
                return Err(multiple_checksums());
            }
        }
    }
    Ok(found)
}

fn trailer_value(trailing: &TrailingHeaders, algorithm: ChecksumAlgorithm) -> Option<Bytes> {
    trailing
        .read(|map| {
            let mut sent = map.get_all(checksum_header(algorithm)).iter();
            // Two of them can't both be meant.
            let (Some(value), None) = (sent.next(), sent.next()) else { return None };
            value.to_str().ok().and_then(|value| decode_digest(algorithm, value))
        })
        .flatten()
}

/// A header's text; `None` when it is absent, empty or not text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim).filter(|value| !value.is_empty())
}

/// The value of a header that holds a digest: empty, and so no digest, when it is there but not text.
pub fn digest_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default().trim())
}

/// `x-amz-*` headers that may be empty: they ask for nothing, or for nothing when they are.
const MAY_BE_EMPTY: [&str; 5] =
    ["user-agent", "security-token", "website-redirect-location", "request-payer", "content-sha256"];
/// `x-amz-*` headers that list things, on as many lines as they like.
const MAY_REPEAT: [&str; 3] = ["trailer", "object-attributes", "optional-object-attributes"];

/// Refuses a header that says nothing, or two things. `s3s` takes an empty one for none, so the condition, the owner or the
/// range that its client meant and did not fill in would not be looked at; and of two lines the one that is read may be the
/// other.
fn refuse_unclear(headers: &HeaderMap, name: &str, rest: &str) -> S3Result<()> {
    let mut values = headers.get_all(name).iter();
    let (value, more) = (values.next(), values.next().is_some());
    if more && !MAY_REPEAT.contains(&rest) {
        return Err(s3_error!(InvalidArgument, "The header {name} is there more than once."));
    }
    let text = value.and_then(|value| value.to_str().ok()).map(str::trim);
    match text {
        None => Err(s3_error!(InvalidArgument, "The header {name} is not text.")),
        Some("") if !MAY_BE_EMPTY.contains(&rest) => Err(s3_error!(InvalidArgument, "The header {name} is empty.")),
        Some(_) => Ok(()),
    }
}

/// Refuses every request header that asks for something that is not given, by the table of [`support::HEADERS`]. Ignoring
/// one of these would make the client believe in a protection (a lock, its own key, a grant) that its object does not have.
pub fn refuse_headers(headers: &HeaderMap) -> S3Result<()> {
    for name in headers.keys() {
        let name = name.as_str();
        let Some(rest) = name.strip_prefix("x-amz-") else { continue };
        if rest.starts_with("meta-") {
            continue;
        }
        // Of digests, those who compare them say what is wrong with them.
        if !rest.starts_with("checksum-") {
            refuse_unclear(headers, name, rest)?;
        }
        support::check_header(name, header(headers, name).unwrap_or_default())?;
    }
    Ok(())
}

/// Refuses what the query of a URL asks for in vain: `x-amz-*` headers are read, and such parameters are not. Those of a presigned URL
/// have become headers before; those that no signature in the query covers have not, and ignoring them would store plaintext where
/// encryption was asked for.
pub fn refuse_query(query: &[(String, String)]) -> S3Result<()> {
    for (name, value) in query {
        let name = name.to_ascii_lowercase();
        if name.starts_with("x-amz-")
            && let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(name.as_bytes()), value.parse())
        {
            refuse_headers(&HeaderMap::from_iter([(name, value)]))?;
        }
        support::check_parameter(&name, value)?;
    }
    Ok(())
}

/// Names and values of a query, decoded as `s3s` decodes them for the signature and for handlers: a plus is a space. What is decided
/// here must be of the very text that is carried out; otherwise a prefix that is denied is listed with a plus in it.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect()
}

/// Text of a form with its percent-encoded bytes decoded, and its pluses. What is no encoding stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let mut byte = [*first];
        rest = after;
        if let (b'%', Some((digits, after))) = (*first, after.split_at_checked(2))
            && hex::decode_to_slice(digits, &mut byte).is_ok()
        {
            rest = after;
        } else {
            byte = [if *first == b'+' { b' ' } else { *first }];
        }
        bytes.extend_from_slice(&byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Parts of an object that have operations of their own.
const SUBRESOURCES: [&str; 15] = [
    "acl",
    "annotation",
    "append",
    "attributes",
    "encryption",
    "legal-hold",
    "partNumber",
    "renameObject",
    "restore",
    "retention",
    "select",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
];

/// Refuses a request that would replace or delete the object itself though its query or headers name something else: a
/// part without its number or its upload's id, tags behind an `x-id` of another operation, a copy behind one.
pub fn refuse_mistaken(operation: &str, query: &[(String, String)], headers: &HeaderMap) -> S3Result<()> {
    let whole = matches!(operation, "PutObject" | "CopyObject" | "DeleteObject");
    if whole && let Some((name, _)) = query.iter().find(|(name, _)| SUBRESOURCES.contains(&name.as_str())) {
        return Err(s3_error!(InvalidArgument, "The query parameter {name} does not fit this request."));
    }
    if operation == "CopyObject" && headers.contains_key("x-amz-copy-source-range") {
        return Err(s3_error!(InvalidArgument, "x-amz-copy-source-range is for parts: this copies the whole object."));
    }
    if matches!(operation, "PutObject" | "UploadPart") && headers.contains_key("x-amz-copy-source") {
        return Err(s3_error!(InvalidRequest, "x-amz-copy-source does not fit this request."));
    }
    Ok(())
}

/// Refuses an upload that says nothing of the length of its body. HTTP reads that as no body, and `s3s` passes it on as one of
/// length 0; but whoever forgot to say, or whose proxy did, would have an empty object for what was there.
pub fn refuse_unsized(operation: &str, headers: &HeaderMap) -> S3Result<()> {
    let said = headers.contains_key(http::header::CONTENT_LENGTH) || headers.contains_key(DECODED_LENGTH);
    if matches!(operation, "PutObject" | "UploadPart") && !said { Err(error::missing_length()) } else { Ok(()) }
}

/// x-amz-checksum-algorithm.
pub fn check_algorithm(value: &str) -> S3Result<()> {
    algorithm(value).map(drop)
}

/// The object headers of an input that has them (PutObject, CopyObject, CreateMultipartUpload).
macro_rules! object_meta {
    ($input:expr) => {{
        let input = &$input;
        $crate::s3::request::ObjectHeaders {
            content_type: input.content_type.as_deref(),
            cache_control: input.cache_control.as_deref(),
            content_disposition: input.content_disposition.as_deref(),
            content_encoding: input.content_encoding.as_deref(),
            content_language: input.content_language.as_deref(),
            expires: input.expires.as_deref(),
            metadata: input.metadata.as_ref(),
            storage_class: input.storage_class.as_ref(),
            website_redirect: input.website_redirect_location.as_deref(),
        }
        .into_meta()
    }};
}
pub(crate) use object_meta;

/// The headers of a request that are kept with the object.
#[derive(Debug, Default)]
pub struct ObjectHeaders<'a> {
    /// Content-Type.
    pub content_type: Option<&'a str>,
    /// Cache-Control.
    pub cache_control: Option<&'a str>,
    /// Content-Disposition.
    pub content_disposition: Option<&'a str>,
    /// Content-Encoding as sent.
    pub content_encoding: Option<&'a str>,
    /// Content-Language.
    pub content_language: Option<&'a str>,
    /// Expires, as sent.
    pub expires: Option<&'a str>,
    /// x-amz-meta-*, names without the prefix.
    pub metadata: Option<&'a Metadata>,
    /// x-amz-storage-class.
    pub storage_class: Option<&'a StorageClass>,
    /// x-amz-website-redirect-location.
    pub website_redirect: Option<&'a str>,
}

impl ObjectHeaders<'_> {
    /// As the row keeps them.
    pub fn into_meta(self) -> S3Result<ObjectMeta> {
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        Ok(ObjectMeta {
            content_type: text(self.content_type),
            cache_control: text(self.cache_control),
            content_disposition: text(self.content_disposition),
            content_encoding: without_aws_chunked(self.content_encoding.unwrap_or_default()),
            content_language: text(self.content_language),
            expires: text(self.expires),
            user: user_metadata(self.metadata)?,
            storage_class: storage_class(self.storage_class.map(StorageClass::as_str))?,
            website_redirect: website_redirect(self.website_redirect)?,
        })
    }
}

/// `aws-chunked` describes the transfer, not the object: it must not come back with GET. What has none comes back as it was sent.
fn without_aws_chunked(value: &str) -> String {
    let is_transfer = |coding: &str| coding.trim().eq_ignore_ascii_case("aws-chunked");
    if !value.split(',').any(is_transfer) {
        return value.to_owned();
    }
    let kept: Vec<&str> = value.split(',').filter(|coding| !is_transfer(coding)).map(str::trim).collect();
    kept.into_iter().filter(|coding| !coding.is_empty()).collect::<Vec<_>>().join(", ")
}

fn user_metadata(metadata: Option<&Metadata>) -> S3Result<Vec<UserMeta>> {
    let mut user: Vec<UserMeta> = metadata
        .into_iter()
        .flatten()
        .map(|(name, value)| UserMeta { name: name.to_ascii_lowercase(), value: value.clone() })
        .collect();
    user.sort_by(|a, b| a.name.cmp(&b.name));
    let bytes: usize = user.iter().map(|m| m.name.len() + m.value.len()).sum();
    if bytes > USER_METADATA_LIMIT {
        return Err(s3_error!(MetadataTooLarge, "Your metadata headers exceed the maximum allowed metadata size"));
    }
    Ok(user)
}

/// Storage classes are labels here, except those of the archive ([`super::archive`]).
fn storage_class(asked: Option<&str>) -> S3Result<String> {
    match asked {
        None | Some("STANDARD") => Ok(String::new()),
        Some(
            label @ ("STANDARD_IA"
            | "ONEZONE_IA"
            | "REDUCED_REDUNDANCY"
            | "INTELLIGENT_TIERING"
            | "GLACIER_IR"
            | "GLACIER"
            | "DEEP_ARCHIVE"),
        ) => Ok(label.to_owned()),
        Some(_) => Err(s3_error!(InvalidStorageClass, "The storage class you specified is not valid")),
    }
}

fn website_redirect(value: Option<&str>) -> S3Result<String> {
    let value = value.unwrap_or_default();
    let valid =
        value.is_empty() || value.starts_with('/') || value.starts_with("http://") || value.starts_with("https://");
    if !valid {
        return Err(error::custom(
            "InvalidRedirectLocation",
            StatusCode::BAD_REQUEST,
            "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
        ));
    }
    Ok(value.to_owned())
}

/// Whether XML 1.0 has a way to write a character (its section 2.2, `Char`).
pub fn is_sayable(c: char) -> bool {
    (c >= ' ' || matches!(c, '\t' | '\n' | '\r')) && !matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Refuses a key that could be stored but never listed.
pub fn check_new_key(key: &str) -> S3Result<()> {
    if key.len() > metadata::command::MAX_KEY {
        return Err(s3_error!(KeyTooLongError, "Your key is too long"));
    }
    if !key.chars().all(is_sayable) {
        return Err(s3_error!(InvalidArgument, "Object keys with control characters are not supported."));
    }
    Ok(())
}

/// If-Match and If-None-Match of a write.
pub fn write_condition(if_match: Option<ETagCondition>, if_none_match: Option<ETagCondition>) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::None),
        (None, Some(ETagCondition::Any)) => Ok(Condition::IfNoneMatchAny),
        (None, Some(ETagCondition::ETag(etag))) => Ok(Condition::IfNoneMatch(etag.value().to_owned())),
        (Some(ETagCondition::Any), None) => Ok(Condition::IfMatchAny),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Condition::IfMatch(etag.value().to_owned())),
        (Some(_), Some(_)) => Err(error::not_implemented("If-Match together with If-None-Match on a write")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), http::HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn headers_that_ask_for_more_than_is_given_are_refused() {
        for (name, value, code) in [
            ("x-amz-server-side-encryption-customer-next", "AES256", "NotImplemented"),
            ("x-amz-copy-source-server-side-encryption-customer-next", "k", "NotImplemented"),
            ("x-amz-server-side-encryption", "aws:kms:dsse", "NotImplemented"),
            ("x-amz-server-side-encryption", "rot13", "InvalidArgument"),
            ("x-amz-object-lock-next", "COMPLIANCE", "NotImplemented"),
            ("x-amz-bucket-object-lock-token", "true", "NotImplemented"),
            ("x-amz-grant-next", "id=x", "NotImplemented"),
            ("x-amz-checksum-sha512", "x", "NotImplemented"),
            ("x-amz-checksum-crc16", "x", "NotImplemented"),
            ("x-amz-checksum-algorithm", "XXHASH3", "NotImplemented"),
        ] {
            let refused = refuse_headers(&headers(&[(name, value)])).expect_err(name);
            assert_eq!(refused.code().as_str(), code, "{name}");
        }
        let fine = [
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-acl", "private"),
            ("x-amz-meta-tagging", "x"),
            ("x-amz-meta-empty", ""),
            ("x-amz-meta-twice", "a"),
            ("x-amz-meta-twice", "b"),
            ("x-amz-website-redirect-location", ""),
            ("x-amz-object-attributes", "ETag"),
            ("x-amz-object-attributes", "ObjectSize"),
        ];
        assert!(refuse_headers(&headers(&fine)).is_ok());
    }

    /// An empty x-amz-copy-source-if-match was none, and of two owners the first one counted.
    #[test]
    fn what_asks_for_nothing_or_for_two_things_is_refused() {
        let refused = |pairs: &[(&'static str, &'static str)]| {
            refuse_headers(&headers(pairs)).err().map(|error| error.code().as_str().to_owned())
        };
        for name in [
            "x-amz-copy-source-if-match",
            "x-amz-copy-source-if-none-match",
            "x-amz-copy-source-if-unmodified-since",
            "x-amz-copy-source-range",
            "x-amz-if-match-size",
            "x-amz-if-match-last-modified-time",
            "x-amz-expected-bucket-owner",
            "x-amz-source-expected-bucket-owner",
            "x-amz-metadata-directive",
            "x-amz-storage-class",
            "x-amz-sdk-checksum-algorithm",
            "x-amz-what-is-next",
        ] {
            for value in ["", " "] {
                assert_eq!(refused(&[(name, value)]).as_deref(), Some("InvalidArgument"), "{name}");
            }
            assert_eq!(refused(&[(name, "a"), (name, "a")]).as_deref(), Some("InvalidArgument"), "{name}");
        }
        let mut binary = HeaderMap::new();
        binary.insert("x-amz-copy-source-if-match", http::HeaderValue::from_bytes(b"\xe9").expect("a value"));
        assert!(refuse_headers(&binary).is_err());
    }

    #[test]
    fn a_query_asks_for_nothing_in_vain() {
        let refused = |query| refuse_query(&query_pairs(query)).err().map(|error| error.code().as_str().to_owned());
        let presigned = "x-id=PutObject&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2Fb&X-Amz-Date=d&X-Amz-Expires=5\
            &X-Amz-SignedHeaders=host&X-Amz-Signature=00&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&x-amz-checksum-mode=ENABLED\
            &x-amz-acl=private&x-amz-sdk-checksum-algorithm=CRC32";
        assert_eq!(refused(presigned), None);
        for query in [
            "x-amz-server-side-encryption=AES256",
            "x%2Damz-server-side-encryption=AES256",
            "X-Amz-Server-Side-Encryption=aws%3Akms",
            "X-Amz-Object-Lock-Mode=COMPLIANCE",
            "x-amz-grant-read=id%3Db",
            "x-amz-tagging=a%3Db",
            "x-amz-meta-a=b",
            "x-amz-checksum-crc32=AAAAAA%3D%3D",
            "x-amz-storage-class=GLACIER",
            "x-amz-copy-source=%2Fb%2Fk",
            "x-amz-what-is-next=1",
        ] {
            assert_eq!(refused(query).as_deref(), Some("NotImplemented"), "{query}");
        }
        assert_eq!(refused("x-amz-expected-bucket-owner=").as_deref(), Some("InvalidArgument"));
        assert_eq!(
            query_pairs("a%2=%zz&b&=c&%41=%e4"),
            [("a%2", "%zz"), ("b", ""), ("", "c"), ("A", "\u{fffd}")].map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
    }

    proptest::proptest! {
        /// MinIO CVE-2026-42882's class: two readings of one text.
        #[test]
        fn queries_are_read_as_s3s_reads_them(query in "([a-c%+=&;/ \u{e9}]|%[0-9a-fA-F]{2}|%2[bB0]){0,24}") {
            // What `s3s` reads them with.
            let theirs = serde_urlencoded::from_str::<Vec<(String, String)>>(&query);
            proptest::prop_assert_eq!(theirs.ok(), Some(query_pairs(&query)));
        }
    }

    #[test]
    fn an_object_is_not_replaced_by_what_was_meant_for_a_part_of_it() {
        let none = HeaderMap::new();
        let mistaken = |operation, query| refuse_mistaken(operation, &query_pairs(query), &none).is_err();
        for query in ["uploadId=x", "partNumber=1", "x-id=PutObject&tagging", "append&position=0", "torrent="] {
            assert!(mistaken("PutObject", query) && mistaken("DeleteObject", query), "{query}");
        }
        assert!(
            !mistaken("PutObject", "x-id=PutObject&versionId=null&custom=1") && !mistaken("GetObject", "partNumber=1")
        );
        assert!(!mistaken("UploadPart", "partNumber=1&uploadId=x"));
        let copy = headers(&[("x-amz-copy-source", "/b/k")]);
        assert!(refuse_mistaken("PutObject", &[], &copy).is_err() && refuse_mistaken("CopyObject", &[], &copy).is_ok());
        let ranged = headers(&[("x-amz-copy-source", "/b/k"), ("x-amz-copy-source-range", "bytes=0-1")]);
        assert!(refuse_mistaken("CopyObject", &[], &ranged).is_err());
        assert!(refuse_mistaken("UploadPartCopy", &[], &ranged).is_ok());
    }

    #[test]
    fn an_upload_says_how_long_it_is() {
        let (none, length) = (HeaderMap::new(), headers(&[("content-length", "0")]));
        let decoded = headers(&[("transfer-encoding", "chunked"), (DECODED_LENGTH, "0")]);
        for operation in ["PutObject", "UploadPart"] {
            let refused = refuse_unsized(operation, &none).expect_err(operation);
            assert_eq!(refused.status_code(), Some(StatusCode::LENGTH_REQUIRED));
            assert!(refuse_unsized(operation, &length).is_ok() && refuse_unsized(operation, &decoded).is_ok());
        }
        assert!(refuse_unsized("CopyObject", &none).is_ok() && refuse_unsized("CreateBucket", &none).is_ok());
    }

    #[test]
    fn digests_must_be_well_formed_and_alone() {
        assert!(md5_value("XrY7u+Ae7tCTyyK7j1rNww==").is_ok());
        assert!(md5_value("XrY7u+Ae7tCTyyK7j1rN").is_err());
        let none = HeaderMap::new();
        let sent = |a, v: &str| vec![(a, v.to_owned())];
        assert!(claims(&none, None, sent(ChecksumAlgorithm::Crc32, "AAAAAA=="), None).is_ok());
        assert!(claims(&none, None, sent(ChecksumAlgorithm::Crc32, "AAAA"), None).is_err());
        let two =
            vec![(ChecksumAlgorithm::Crc32, "AAAAAA==".to_owned()), (ChecksumAlgorithm::Crc32c, "AAAAAA==".to_owned())];
        assert!(claims(&none, None, two, None).is_err());
        for (name, code) in [("content-md5", "InvalidDigest"), ("x-amz-checksum-crc32", "InvalidRequest")] {
            let refused = claims(&headers(&[(name, "")]), None, Vec::new(), None).expect_err(name);
            assert_eq!(refused.code().as_str(), code, "an empty digest is none, and not no claim");
        }
        let trailer = headers(&[("x-amz-trailer", "x-amz-checksum-crc32")]);
        assert!(claims(&trailer, None, Vec::new(), None).is_err(), "a trailer needs a body that can have one");
        let named = headers(&[("x-amz-sdk-checksum-algorithm", "CRC32")]);
        assert!(claims(&named, None, Vec::new(), None).is_err());
        assert!(claims(&named, None, sent(ChecksumAlgorithm::Crc32c, "AAAAAA=="), None).is_err());
    }

    #[test]
    fn metadata_limits() {
        let of = |len: usize| Metadata::from([("n".to_owned(), "v".repeat(len))]);
        assert!(user_metadata(Some(&of(2047))).is_ok());
        assert_eq!(user_metadata(Some(&of(2048))).expect_err("too large").code().as_str(), "MetadataTooLarge");
        assert_eq!(without_aws_chunked("aws-chunked,gzip"), "gzip");
        assert_eq!(without_aws_chunked("deflate, AWS-chunked ,gzip"), "deflate, gzip");
        assert_eq!(without_aws_chunked("deflate, gzip"), "deflate, gzip");
        assert!(check_new_key("a/../b").is_ok());
        assert!(check_new_key("a\u{1}").is_err());
        assert!(check_new_key(&"k".repeat(1025)).is_err());
    }
}
