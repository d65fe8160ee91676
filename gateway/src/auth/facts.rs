//! What a request says, as far as the decision asks for it: which actions it needs, and the condition keys of policies.
//!
//! Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3"; Amazon S3 User Guide, "Bucket
//! policy examples using condition keys"; IAM User Guide, "AWS global condition context keys".
//!
//! Invariants:
//! * A key is there if, and only if, the request says it and its operation does it: what a bucket adds by itself (its default
//!   encryption, its default retention) is not said by the request, and a header or a parameter that the operation does not have
//!   fulfils no condition. The keys of an operation are among those of its actions ([`access::policy::keys`]).
//! * Whence a request comes is what the socket says, never a header of the client.

use crate::s3::bucket::now_ms;
use crate::s3::request;
use crate::s3::tags::MOST_OF_OBJECT;
use crate::server::Peer;
use access::policy::Context;
use access::policy::action::Extras;
use http::{HeaderMap, header};
use s3s::dto::CopySource;

/// How a request was signed, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// `REST-HEADER`, `REST-QUERY-STRING` or `POST`, as S3 calls them.
    pub kind: &'static str,
    /// When, in milliseconds since the Unix epoch; `None` where it does not say so in a form that is known.
    pub at_ms: Option<u64>,
}

/// What a request says.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The operation, by its S3 name.
    pub operation: &'a str,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Names and values of its query, decoded.
    pub query: &'a [(String, String)],
    /// Where it comes from.
    pub peer: Option<Peer>,
    /// Its signature; `None` of an anonymous one.
    pub signed: Option<&'a Signed>,
}

const COPY_SOURCE: &str = "x-amz-copy-source";

/// The list that is asked for.
const LIST: &[&str] = &[
    "x-amz-acl",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
];
/// What a new object is to be.
const OBJECT: &[&str] = &[
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
];
const OWNERSHIP: &[&str] = &["x-amz-object-ownership"];
const CUSTOMER: &[&str] = &["x-amz-server-side-encryption-customer-algorithm"];
const METADATA: &[&str] = &["x-amz-metadata-directive"];
const CONDITIONS: &[&str] = &["if-match", "if-none-match"];
const IF_MATCH: &[&str] = &["if-match"];

/// The headers of an operation that are condition keys of the same name, with `s3:` before it. What else a request says is nothing
/// that the operation does, and fulfils no condition.
fn headers(operation: &str) -> &'static [&'static [&'static str]] {
    match operation {
        "CreateBucket" => &[LIST, OWNERSHIP],
        "PutBucketAcl" | "PutObjectAcl" => &[LIST],
        "PutObject" | "PostObject" => &[LIST, OBJECT, CONDITIONS],
        "CopyObject" => &[LIST, OBJECT, CONDITIONS, METADATA],
        "CreateMultipartUpload" => &[LIST, OBJECT],
        "UploadPart" | "UploadPartCopy" => &[CUSTOMER],
        "CompleteMultipartUpload" => &[CONDITIONS, CUSTOMER],
        "DeleteObject" => &[IF_MATCH],
        _ => &[],
    }
}

/// The parameters of listings that are condition keys.
fn parameters(operation: &str) -> &'static [(&'static str, &'static str)] {
    match operation {
        "ListObjects" | "ListObjectsV2" | "ListObjectVersions" => {
            &[("prefix", "s3:prefix"), ("delimiter", "s3:delimiter"), ("max-keys", "s3:max-keys")]
        }
        "ListMultipartUploads" => {
            &[("prefix", "s3:prefix"), ("delimiter", "s3:delimiter"), ("max-uploads", "s3:max-keys")]
        }
        _ => &[],
    }
}

/// Operations that say what a new object is to be.
const MAKES_AN_OBJECT: [&str; 4] = ["CopyObject", "CreateMultipartUpload", "PostObject", "PutObject"];
/// More tags than an object may have: who sends as many is refused, whatever he may do.
const MANY_TAGS: usize = MOST_OF_OBJECT + 1;

impl Facts<'_> {
    /// A header, or the parameter into which an SDK moved it when it signed a URL.
    pub fn amz(&self, name: &str) -> Option<&str> {
        request::header(self.headers, name).or_else(|| {
            let moved = self.query.iter().find(|(parameter, _)| parameter.eq_ignore_ascii_case(name));
            moved.map(|(_, value)| value.as_str()).filter(|_| name.starts_with("x-amz-"))
        })
    }

    /// The version that it names.
    pub fn version_id(&self) -> Option<&str> {
        self.query.iter().find(|(name, _)| name == "versionId").map(|(_, value)| value.as_str())
    }

    /// What decides which actions it needs.
    pub fn extras(&self) -> Extras {
        let says = |name: &str| self.amz(name).is_some();
        let says_true = |name: &str| self.amz(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let grants = ["full-control", "read", "read-acp", "write", "write-acp"];
        Extras {
            version: self.version_id().is_some(),
            tags: says("x-amz-tagging"),
            acl: says("x-amz-acl") || grants.iter().any(|what| says(&format!("x-amz-grant-{what}"))),
            retention: says("x-amz-object-lock-mode") || says("x-amz-object-lock-retain-until-date"),
            hold: says("x-amz-object-lock-legal-hold"),
            bypass: says_true("x-amz-bypass-governance-retention"),
            object_lock: says_true("x-amz-bucket-object-lock-enabled"),
            ownership: says("x-amz-object-ownership"),
        }
    }

    /// The condition keys of any request: who, when, whence.
    pub fn whence(&self) -> Context {
        let mut context = Context::default();
        self.fill_whence(&mut context);
        for (name, key) in [("referer", "aws:Referer"), ("user-agent", "aws:UserAgent")] {
            if let Some(value) = request::header(self.headers, name) {
                context.add(key, value);
            }
        }
        if let Some(value) = self.content_sha256() {
            context.add("s3:x-amz-content-sha256", value);
        }
        context
    }

    /// What the signature says of the body. That of a URL covers none: the header alone is held against the body, and what a signed
    /// query has under this name is in the header, too (Amazon S3 API Reference, "Amazon S3 Signature Version 4 Authentication
    /// Specific Policy Keys").
    fn content_sha256(&self) -> Option<&str> {
        let by_url = self.signed.is_some_and(|signed| signed.kind == "REST-QUERY-STRING");
        request::header(self.headers, "x-amz-content-sha256").or(by_url.then_some("UNSIGNED-PAYLOAD"))
    }

    /// Adds the condition keys of the operation: what it is asked to do, and nothing else that the request says.
    pub fn fill_asked(&self, context: &mut Context) {
        for name in headers(self.operation).iter().copied().flatten() {
            if let Some(value) = self.amz(name) {
                context.add(&format!("s3:{name}"), value);
            }
        }
        for (name, key) in parameters(self.operation) {
            if let Some((_, value)) = self.query.iter().find(|(parameter, _)| parameter == name) {
                context.add(key, value.as_str());
            }
        }
        match self.operation {
            "PutObject" | "PostObject" | "CopyObject" | "CompleteMultipartUpload" => {
                context.add("s3:ObjectCreationOperation", "true");
            }
            "CreateMultipartUpload" | "UploadPart" | "UploadPartCopy" => {
                context.add("s3:ObjectCreationOperation", "false");
            }
            _ => {}
        }
        if matches!(self.operation, "CopyObject" | "UploadPartCopy")
            && let Some(Ok(CopySource::Bucket { bucket, key, .. })) = self.amz(COPY_SOURCE).map(CopySource::parse)
        {
            context.add("s3:x-amz-copy-source", format!("{bucket}/{key}"));
        }
        if MAKES_AN_OBJECT.contains(&self.operation) {
            self.fill_object(context);
        }
    }

    fn fill_object(&self, context: &mut Context) {
        for name in ["mode", "retain-until-date", "legal-hold"] {
            if let Some(value) = self.amz(&format!("x-amz-object-lock-{name}")) {
                context.add(&format!("s3:object-lock-{name}"), value);
            }
        }
        if let Some(until) = self.amz("x-amz-object-lock-retain-until-date") {
            add_remaining_days(context, until, now_ms());
        }
        // The tags in the header are those of a copy only if it says so: otherwise they are the source's.
        let are_its = self.operation != "CopyObject" || self.amz("x-amz-tagging-directive") == Some("REPLACE");
        if let Some(tags) = self.amz("x-amz-tagging").filter(|_| are_its) {
            let tags = request::query_pairs(tags);
            add_tags(context, tags.iter().take(MANY_TAGS).map(|(key, value)| (key.as_str(), value.as_str())));
        }
    }

    fn fill_whence(&self, context: &mut Context) {
        let now = now_ms();
        context.add("aws:PrincipalIsAWSService", "false");
        context.add("aws:ViaAWSService", "false");
        context.add("aws:EpochTime", (now / 1000).to_string());
        if let Some(text) = i64::try_from(now / 1000).ok().and_then(|s| jiff::Timestamp::from_second(s).ok()) {
            context.add("aws:CurrentTime", text.to_string());
        }
        if let Some(peer) = self.peer {
            context.add("aws:SourceIp", peer.address.ip().to_canonical().to_string());
            context.add("aws:SecureTransport", if peer.tls.is_some() { "true" } else { "false" });
            if let Some(version) = peer.tls {
                context.add("s3:TlsVersion", version);
            }
        }
        if let Some(signed) = self.signed {
            context.add("s3:authType", signed.kind);
            context.add("s3:signatureversion", "AWS4-HMAC-SHA256");
            if let Some(at) = signed.at_ms {
                context.add("s3:signatureAge", now.saturating_sub(at).to_string());
            }
        }
    }
}

impl Signed {
    /// How the request with these headers and this query says that it is signed.
    pub fn of(headers: &HeaderMap, query: &[(String, String)]) -> Signed {
        let parameter = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        if parameter("X-Amz-Signature").is_some() {
            return Signed { kind: "REST-QUERY-STRING", at_ms: parameter("X-Amz-Date").and_then(amz_date) };
        }
        let date = request::header(headers, "x-amz-date").and_then(amz_date);
        let date = date.or_else(|| {
            let at = request::header(headers, header::DATE.as_str())?;
            let at = jiff::fmt::rfc2822::parse(at).ok()?.timestamp();
            u64::try_from(at.as_millisecond()).ok()
        });
        Signed { kind: "REST-HEADER", at_ms: date }
    }
}

/// `20260101T000000Z`, in milliseconds since the Unix epoch.
fn amz_date(text: &str) -> Option<u64> {
    let at = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let at = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    u64::try_from(at.as_millisecond()).ok()
}

/// `s3:object-lock-remaining-retention-days` of a date until which a version is to be kept. `from_ms`: when that was asked for, in
/// milliseconds since the Unix epoch.
pub fn add_remaining_days(context: &mut Context, until: &str, from_ms: u64) {
    let Ok(until) = until.parse::<jiff::Timestamp>() else { return };
    let left = u64::try_from(until.as_millisecond()).unwrap_or_default().saturating_sub(from_ms);
    // A day that has begun counts: what is to be kept for 10 days and a second is kept for more than 10.
    context.add("s3:object-lock-remaining-retention-days", left.div_ceil(86_400_000).to_string());
}

/// `s3:RequestObjectTag/...` and `s3:RequestObjectTagKeys`.
pub fn add_tags<'a>(context: &mut Context, tags: impl IntoIterator<Item = (&'a str, &'a str)>) {
    context.add_empty("s3:RequestObjectTagKeys");
    for (key, value) in tags {
        context.add(&format!("s3:RequestObjectTag/{key}"), value);
        context.add("s3:RequestObjectTagKeys", key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use access::policy::{action, keys};
    use http::{HeaderName, HeaderValue};
    use std::sync::Arc;

    fn facts(operation: &str, headers: &[(&'static str, &'static str)], query: &str) -> (Extras, Context) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let query = request::query_pairs(query);
        let peer = Peer { address: "[::ffff:10.1.2.3]:5".parse().expect("an address"), tls: None };
        let signed = Signed::of(&headers, &query);
        let facts = Facts { operation, headers: &headers, query: &query, peer: Some(peer), signed: Some(&signed) };
        let mut context = Context::over(Arc::new(facts.whence()));
        facts.fill_asked(&mut context);
        (facts.extras(), context)
    }

    #[test]
    fn what_is_not_said_is_absent() {
        let (extras, context) = facts("PutObject", &[], "");
        assert_eq!(extras, Extras::default());
        for key in ["s3:x-amz-server-side-encryption", "s3:x-amz-acl", "s3:prefix", "s3:RequestObjectTagKeys"] {
            assert!(context.values(key).is_empty(), "{key}");
        }
        assert_eq!(context.single("aws:SecureTransport"), Some("false"));
    }

    #[test]
    fn a_signed_url_covers_no_body() {
        let said = |headers: &[(&'static str, &'static str)], query: &str| {
            facts("PutObject", headers, query).1.single("s3:x-amz-content-sha256").map(str::to_owned)
        };
        let url = "X-Amz-Signature=00&X-Amz-Content-Sha256=abc";
        assert_eq!(said(&[], url).as_deref(), Some("UNSIGNED-PAYLOAD"));
        assert_eq!(said(&[("x-amz-content-sha256", "abc")], url).as_deref(), Some("abc"));
        assert_eq!(said(&[], "X-Amz-Content-Sha256=abc"), None);
    }

    /// All that a request can say.
    const ALL: [(&str, &str); 22] = [
        ("if-match", "\"x\""),
        ("if-none-match", "*"),
        ("x-amz-acl", "private"),
        ("x-amz-copy-source", "b/k"),
        ("x-amz-grant-full-control", "id=1"),
        ("x-amz-grant-read", "id=1"),
        ("x-amz-grant-read-acp", "id=1"),
        ("x-amz-grant-write", "id=1"),
        ("x-amz-grant-write-acp", "id=1"),
        ("x-amz-metadata-directive", "COPY"),
        ("x-amz-object-lock-legal-hold", "ON"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-object-lock-retain-until-date", "2099-01-01T00:00:00Z"),
        ("x-amz-object-ownership", "ObjectWriter"),
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "k"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-storage-class", "STANDARD"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-tagging-directive", "REPLACE"),
        ("x-amz-website-redirect-location", "/x"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
    ];

    #[test]
    fn an_operation_has_only_the_keys_of_its_actions() {
        let query = "prefix=p&delimiter=%2F&max-keys=1&max-uploads=2&versionId=v";
        for operation in crate::s3::support::supported() {
            let (extras, context) = facts(operation, &ALL, query);
            let actions = action::of_operation(operation, extras);
            for key in context.keys().filter(|key| !keys::is_global(key)) {
                assert!(actions.iter().any(|action| keys::has(action, key)), "{operation} {key}");
            }
        }
        let (_, read) = facts("GetObject", &ALL, query);
        let (_, listing) = facts("ListObjectsV2", &ALL, query);
        let (_, put) = facts("PutObject", &ALL, query);
        let (_, tagging) = facts("PutObjectTagging", &ALL, query);
        let (_, retention) = facts("PutObjectRetention", &ALL, query);
        assert!(read.values("s3:prefix").is_empty() && listing.single("s3:prefix") == Some("p"));
        assert_eq!(put.single("s3:RequestObjectTag/a"), Some("b"));
        assert!(tagging.values("s3:RequestObjectTag/a").is_empty(), "the body says it");
        assert!(retention.values("s3:object-lock-mode").is_empty(), "the body says it");
    }

    #[test]
    fn tags_of_a_copy() {
        let tags = |headers: &[(&'static str, &'static str)]| {
            let (_, context) = facts("CopyObject", headers, "");
            context.single("s3:RequestObjectTag/a").is_some()
        };
        assert!(!tags(&[("x-amz-tagging", "a=b")]) && !tags(&[("x-amz-tagging", "a=b"), DIRECTIVE_COPY]));
        assert!(tags(&[("x-amz-tagging", "a=b"), ("x-amz-tagging-directive", "REPLACE")]));
    }

    const DIRECTIVE_COPY: (&str, &str) = ("x-amz-tagging-directive", "COPY");

    #[test]
    fn cve_2026_21862_whence_it_comes_says_the_socket() {
        let (_, context) = facts("PutObject", &[("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "192.0.2.1")], "");
        assert_eq!(context.single("aws:SourceIp"), Some("10.1.2.3"));
    }

    #[test]
    fn headers_and_what_became_of_them_in_urls() {
        let (extras, context) = facts(
            "CopyObject",
            &[
                ("x-amz-tagging", "security=public&a+b=%26"),
                ("x-amz-tagging-directive", "REPLACE"),
                ("x-amz-copy-source", "/src/a%20b?versionId=null"),
            ],
            "x-amz-acl=public-read&X-Amz-Signature=00&X-Amz-Date=20260101T000000Z&prefix=p",
        );
        assert!(extras.tags && extras.acl && !extras.version && !extras.bypass);
        assert_eq!(context.single("s3:x-amz-acl"), Some("public-read"));
        assert_eq!(context.single("s3:RequestObjectTag/security"), Some("public"));
        assert_eq!(context.single("s3:RequestObjectTag/a b"), Some("&"));
        assert_eq!(context.single("s3:x-amz-copy-source"), Some("src/a b"));
        assert!(context.values("s3:prefix").is_empty(), "it is no listing");
        assert_eq!(context.single("s3:authType"), Some("REST-QUERY-STRING"));
        assert!(context.single("s3:signatureAge").is_some_and(|age| age.len() > 9), "old");
    }

    #[test]
    fn dates_of_signatures() {
        assert_eq!(amz_date("20260101T000000Z"), Some(1_767_225_600_000));
        assert_eq!(amz_date("2026-01-01"), None);
        let header = |name, value| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
            Signed::of(&headers, &[]).at_ms
        };
        assert_eq!(header("x-amz-date", "20260101T000000Z"), Some(1_767_225_600_000));
        assert_eq!(header("date", "Thu, 01 Jan 2026 00:00:00 GMT"), Some(1_767_225_600_000));
        assert_eq!(header("date", "yesterday"), None);
    }

    #[test]
    fn days_that_are_left() {
        let mut context = Context::default();
        let at = (now_ms() + 10 * 86_400_000 + 1000) / 1000;
        let at = jiff::Timestamp::from_second(i64::try_from(at).expect("a time")).expect("a time");
        add_remaining_days(&mut context, &at.to_string(), now_ms());
        assert_eq!(context.single("s3:object-lock-remaining-retention-days"), Some("11"));
        add_remaining_days(&mut context, "soon", 0);
        assert_eq!(context.values("s3:object-lock-remaining-retention-days").len(), 1);
    }
}
