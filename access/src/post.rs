//! Policies of browser uploads: what a form that somebody else sends may say.
//!
//! Source: Amazon S3 API Reference, "Creating a POST policy" (Signature Version 4) and "POST Object".
//!
//! Invariant: a form says nothing that its policy does not speak of. A field without a condition is refused, so whoever holds a signed
//! form can't add metadata, an ACL, encryption or another key to it. Nor is a policy one for every bucket: it names its own.

use crate::json::{self, Json, JsonError, Limits};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// What a policy may be at most, decoded.
const LIMITS: Limits = Limits { bytes: 20 * 1024, depth: 4 };
/// Most conditions.
const MAX_CONDITIONS: usize = 200;

/// What must hold of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A field is this.
    Equals {
        /// In lower case, without `$`.
        field: String,
        /// As written.
        value: String,
    },
    /// A field begins so. An empty start lets it be anything.
    StartsWith {
        /// In lower case, without `$`.
        field: String,
        /// As written.
        start: String,
    },
    /// The file has so many bytes, both ends included.
    Length {
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostPolicy {
    /// Milliseconds since the Unix epoch from which on it is worth nothing.
    pub expires_ms: i64,
    /// All of them must hold.
    pub conditions: Vec<Condition>,
}

/// Why a text is no policy. S3: InvalidPolicyDocument, 400.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not base64 of UTF-8.
    #[error("Invalid Policy: it is not base64-encoded UTF-8")]
    Encoding,
    /// No JSON.
    #[error("Invalid Policy: {0}")]
    Json(#[from] JsonError),
    /// An element is missing, or of another type. Names have no other case than this.
    #[error("Invalid Policy: {0} is missing or of the wrong type")]
    Element(&'static str),
    /// No date in ISO 8601, in UTC.
    #[error("Invalid Policy: Invalid 'expiration' value: {0:?}")]
    Expiration(String),
    /// A condition that is none.
    #[error("Invalid Policy: Invalid condition {0}")]
    Condition(String),
}

/// Why a form is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// S3: AccessDenied, 403.
    #[error("Invalid according to Policy: Policy expired.")]
    Expired,
    /// S3: AccessDenied, 403.
    #[error("Invalid according to Policy: Policy Condition failed: [{operator:?}, \"${field}\", {wanted:?}]")]
    Failed {
        /// `eq` or `starts-with`.
        operator: &'static str,
        /// The field.
        field: String,
        /// What it should be or begin with.
        wanted: String,
    },
    /// S3: AccessDenied, 403.
    #[error("Invalid according to Policy: Extra input fields: {0}")]
    Extra(String),
    /// S3: EntityTooSmall, 400.
    #[error("Your proposed upload is smaller than the minimum allowed size")]
    TooSmall,
    /// S3: EntityTooLarge, 400.
    #[error("Your proposed upload exceeds the maximum allowed size")]
    TooLarge,
}

/// A form, apart from its file.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    /// The bucket that the URL names, which counts and not a field.
    pub bucket: &'a str,
    /// Name and value of each field before the file, in order; `${filename}` in the key is already replaced.
    pub fields: &'a [(String, String)],
    /// Length of the file, in bytes.
    pub length: u64,
}

impl PostPolicy {
    /// Reads the field `policy`.
    pub fn from_base64(text: &str) -> Result<PostPolicy, PolicyError> {
        // A third more than the document, and what editors break lines with.
        if text.len() > LIMITS.bytes * 2 {
            return Err(JsonError::TooLong { len: text.len(), limit: LIMITS.bytes * 2 }.into());
        }
        let packed: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let bytes = BASE64.decode(packed).map_err(|_| PolicyError::Encoding)?;
        PostPolicy::parse(std::str::from_utf8(&bytes).map_err(|_| PolicyError::Encoding)?)
    }

    /// Reads the document.
    pub fn parse(text: &str) -> Result<PostPolicy, PolicyError> {
        let Json::Object(elements) = json::parse(text, LIMITS)? else {
            return Err(PolicyError::Element("the document"));
        };
        let (mut expires_ms, mut conditions) = (None, None);
        for (name, value) in elements {
            match (name.as_str(), value) {
                ("expiration", Json::Text(text)) => expires_ms = Some(expiration(&text)?),
                ("conditions", Json::List(list)) => conditions = Some(read(list)?),
                ("expiration", _) => return Err(PolicyError::Element("expiration")),
                ("conditions", _) => return Err(PolicyError::Element("conditions")),
                // S3 ignores others; one that somebody took for a condition would not be one.
                _ => return Err(PolicyError::Condition(format!("{name:?}: there is no such element"))),
            }
        }
        let expires_ms = expires_ms.ok_or(PolicyError::Element("expiration"))?;
        Ok(PostPolicy { expires_ms, conditions: conditions.ok_or(PolicyError::Element("conditions"))? })
    }

    /// Least and most bytes that the file may have, both included: known before any of them is read.
    pub fn lengths(&self) -> (u64, u64) {
        self.conditions.iter().fold((0, u64::MAX), |(least, most), condition| match condition {
            Condition::Length { min, max } => (least.max(*min), most.min(*max)),
            _ => (least, most),
        })
    }

    /// Whether the form is what the policy allows at a moment, in milliseconds since the Unix epoch. The signature is somebody else's
    /// business.
    pub fn check(&self, form: &Form<'_>, now_ms: i64) -> Result<(), FormError> {
        self.check_fields(form, now_ms)?;
        match self.lengths() {
            (least, _) if form.length < least => Err(FormError::TooSmall),
            (_, most) if form.length > most => Err(FormError::TooLarge),
            _ => Ok(()),
        }
    }

    /// Like [`PostPolicy::check`], but for the length of the file, which may not be known yet ([`PostPolicy::lengths`]).
    pub fn check_fields(&self, form: &Form<'_>, now_ms: i64) -> Result<(), FormError> {
        if now_ms >= self.expires_ms {
            return Err(FormError::Expired);
        }
        if !self.conditions.iter().any(|condition| speaks_of(condition, "bucket")) {
            let (field, wanted) = ("bucket".to_owned(), form.bucket.to_owned());
            return Err(FormError::Failed { operator: "eq", field, wanted });
        }
        for condition in &self.conditions {
            holds(condition, form)?;
        }
        for (name, _) in form.fields {
            let name = name.to_ascii_lowercase();
            if !is_exempt(&name) && !self.conditions.iter().any(|condition| speaks_of(condition, &name)) {
                return Err(FormError::Extra(name));
            }
        }
        Ok(())
    }
}

/// Fields that need no condition: the signature, the policy itself, what the service ignores, and digests, which say nothing but what
/// the file has to be. The bucket is in the URL; a field of that name is compared with it.
fn is_exempt(name: &str) -> bool {
    matches!(name, "x-amz-signature" | "policy" | "file" | "submit" | "bucket")
        || name.starts_with("x-ignore-")
        || name.starts_with("x-amz-checksum-")
}

fn speaks_of(condition: &Condition, name: &str) -> bool {
    match condition {
        Condition::Equals { field, .. } | Condition::StartsWith { field, .. } => field == name,
        Condition::Length { .. } => false,
    }
}

fn holds(condition: &Condition, form: &Form<'_>) -> Result<(), FormError> {
    let (operator, field, wanted) = match condition {
        Condition::Equals { field, value } => ("eq", field, value),
        Condition::StartsWith { field, start } => ("starts-with", field, start),
        Condition::Length { .. } => return Ok(()),
    };
    let fits = |value: &str| match operator {
        "eq" => value == wanted,
        // A list of content types: each of them (API Reference, "Creating a POST policy", "starts-with").
        _ if field == "content-type" => value.split(',').all(|part| part.trim_start().starts_with(wanted.as_str())),
        _ => value.starts_with(wanted.as_str()),
    };
    let failed = || FormError::Failed { operator, field: field.clone(), wanted: wanted.clone() };
    let named = |(name, _): &&(String, String)| name.eq_ignore_ascii_case(field);
    let mut values: Vec<&str> = form.fields.iter().filter(named).map(|(_, value)| value.as_str()).collect();
    if field == "bucket" {
        values.push(form.bucket);
    }
    // One that is there twice: the handler may take the other one. One that is not there is not even empty.
    if values.is_empty() || !values.iter().all(|value| fits(value)) { Err(failed()) } else { Ok(()) }
}

fn expiration(text: &str) -> Result<i64, PolicyError> {
    let wrong = || PolicyError::Expiration(text.to_owned());
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    if !text.contains('T') || !text.ends_with('Z') {
        return Err(wrong());
    }
    Ok(timestamp.as_millisecond())
}

fn read(list: Vec<Json>) -> Result<Vec<Condition>, PolicyError> {
    let mut conditions = Vec::with_capacity(list.len().min(MAX_CONDITIONS));
    for item in list {
        match item {
            Json::Object(pairs) if pairs.len() == 1 => {
                for (field, value) in pairs {
                    let Json::Text(value) = value else { return Err(PolicyError::Condition(field)) };
                    conditions.push(Condition::Equals { field: field.to_ascii_lowercase(), value });
                }
            }
            Json::Object(pairs) => return Err(PolicyError::Condition(format!("of {} fields", pairs.len()))),
            Json::List(parts) => conditions.push(of_list(&parts)?),
            other => return Err(PolicyError::Condition(format!("{other:?}"))),
        }
        if conditions.len() > MAX_CONDITIONS {
            return Err(PolicyError::Condition(format!("number {MAX_CONDITIONS}: there are too many")));
        }
    }
    Ok(conditions)
}

fn of_list(parts: &[Json]) -> Result<Condition, PolicyError> {
    let wrong = || PolicyError::Condition(format!("{parts:?}"));
    let [Json::Text(operator), second, third] = parts else { return Err(wrong()) };
    // S3 takes the operators in any case.
    match (operator.to_ascii_lowercase().as_str(), second, third) {
        ("eq", Json::Text(field), Json::Text(value)) => {
            let field = field.strip_prefix('$').ok_or_else(wrong)?.to_ascii_lowercase();
            Ok(Condition::Equals { field, value: value.clone() })
        }
        ("starts-with", Json::Text(field), Json::Text(start)) => {
            let field = field.strip_prefix('$').ok_or_else(wrong)?.to_ascii_lowercase();
            Ok(Condition::StartsWith { field, start: start.clone() })
        }
        ("content-length-range", min, max) => {
            let (min, max) = (bytes(min).ok_or_else(wrong)?, bytes(max).ok_or_else(wrong)?);
            Ok(Condition::Length { min, max })
        }
        _ => Err(wrong()),
    }
}

/// A number, also as a text.
fn bytes(value: &Json) -> Option<u64> {
    match value {
        Json::Number(text) | Json::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = r#"{"expiration":"2026-11-22T12:00:00Z","conditions":[
        {"bucket":"b"},["starts-with","$key","up/"],{"acl":"private"},["starts-with","$Content-Type","text/"],
        ["content-length-range",1,10],["eq","$x-amz-meta-a","1"]]}"#;
    const NOW: i64 = 1_795_348_799_000;

    fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const GOOD: [(&str, &str); 6] = [
        ("key", "up/x"),
        ("acl", "private"),
        ("Content-Type", "text/plain"),
        ("X-Amz-Meta-A", "1"),
        ("policy", "..."),
        ("x-ignore-this", "x"),
    ];

    fn check(pairs: &[(&str, &str)], length: u64, now_ms: i64) -> Result<(), FormError> {
        let policy = PostPolicy::parse(TEXT).expect("a policy");
        policy.check(&Form { bucket: "b", fields: &fields(pairs), length }, now_ms)
    }

    #[test]
    fn a_form_that_fits() {
        assert_eq!(check(&GOOD, 5, NOW), Ok(()));
        assert_eq!((check(&GOOD, 1, NOW), check(&GOOD, 10, NOW)), (Ok(()), Ok(())));
        assert_eq!(check(&GOOD, 0, NOW), Err(FormError::TooSmall));
        assert_eq!(check(&GOOD, 11, NOW), Err(FormError::TooLarge));
        assert_eq!(check(&GOOD, 5, NOW + 1000), Err(FormError::Expired), "from that second on");
        assert_eq!(PostPolicy::parse(TEXT).expect("a policy").lengths(), (1, 10));
        let two = r#"{"expiration":"2026-11-22T12:00:00Z","conditions":[["content-length-range",1,10],["content-length-range",5,20]]}"#;
        assert_eq!(PostPolicy::parse(two).expect("a policy").lengths(), (5, 10), "all of them hold");
        let policy = PostPolicy::parse(TEXT).expect("a policy");
        let unknown = Form { bucket: "b", fields: &fields(&GOOD), length: 0 };
        assert_eq!(policy.check_fields(&unknown, NOW), Ok(()), "the length is somebody else's business");
    }

    #[test]
    fn forms_that_don_t_fit() {
        for (name, value) in
            [("key", "down/x"), ("key", ""), ("acl", "public-read"), ("Content-Type", "text/a,image/b")]
        {
            let mut pairs = GOOD.to_vec();
            pairs.retain(|(other, _)| *other != name);
            assert!(matches!(check(&pairs, 5, NOW), Err(FormError::Failed { .. })), "without {name}");
            pairs.push((name, value));
            assert!(matches!(check(&pairs, 5, NOW), Err(FormError::Failed { .. })), "{name}={value}");
            let mut twice = GOOD.to_vec();
            twice.push((name, value));
            assert!(matches!(check(&twice, 5, NOW), Err(FormError::Failed { .. })), "{name} twice");
        }
        for extra in
            ["x-amz-meta-b", "tagging", "success_action_redirect", "x-amz-server-side-encryption", "x-amz-credential"]
        {
            let mut pairs = GOOD.to_vec();
            pairs.push((extra, "x"));
            assert_eq!(check(&pairs, 5, NOW), Err(FormError::Extra(extra.to_owned())));
        }
        let mut other = GOOD.to_vec();
        other.push(("bucket", "c"));
        assert!(check(&other, 5, NOW).is_err(), "a field can't name another bucket");
        let policy = PostPolicy::parse(TEXT).expect("a policy");
        assert!(policy.check(&Form { bucket: "c", fields: &fields(&GOOD), length: 5 }, NOW).is_err());
    }

    #[test]
    fn what_is_no_policy() {
        let with = |from: &str, to: &str| {
            let text = TEXT.replacen(from, to, 1);
            assert_ne!(text, TEXT);
            PostPolicy::parse(&text)
        };
        assert!(matches!(with("expiration", "Expiration"), Err(PolicyError::Condition(_))));
        assert!(matches!(with(r#""expiration":"2026-11-22T12:00:00Z","#, ""), Err(PolicyError::Element("expiration"))));
        assert!(matches!(with("2026-11-22T12:00:00Z", "2026-11-22 12:00:00"), Err(PolicyError::Expiration(_))));
        assert!(matches!(with("2026-11-22T12:00:00Z", "tomorrow"), Err(PolicyError::Expiration(_))));
        assert!(matches!(PostPolicy::parse(r#"{"expiration":"2026-11-22T12:00:00Z"}"#), Err(PolicyError::Element(_))));
        assert!(with("content-length-range\",1,10", "content-length-range\",1").is_err());
        assert!(with("content-length-range\",1,10", "content-length-range\",-1,10").is_err());
        assert!(with("content-length-range\",1,10", "content-length-range\",1.5,10").is_err());
        assert!(with("\"$key\"", "\"key\"").is_err() && with("starts-with", "ends-with").is_err());
        assert!(with("{\"acl\":\"private\"}", "{\"acl\":1}").is_err() && with("{\"acl\":\"private\"}", "{}").is_err());
        assert!(with("{\"acl\":\"private\"}", "{\"acl\":\"private\",\"acl\":\"public-read\"}").is_err());
        assert!(with("starts-with", "Starts-With").is_ok() && with("1,10", "\"1\",\"10\"").is_ok());
        assert!(PostPolicy::parse(r#"{"expiration":"2026-11-22T12:00:00.000Z","conditions":[]}"#).is_ok());
        for bad in ["", "!", "e30", &"A".repeat(50_000)] {
            assert!(PostPolicy::from_base64(bad).is_err());
        }
        assert!(PostPolicy::from_base64(&BASE64.encode(TEXT)).is_ok());
    }

    #[test]
    fn no_conditions_allow_no_fields() {
        let of = |text: &str, pairs: &[(&str, &str)]| {
            let policy = PostPolicy::parse(text).expect("a policy");
            policy.check(&Form { bucket: "b", fields: &fields(pairs), length: 1 }, NOW)
        };
        let none = r#"{"expiration":"2026-11-22T12:00:00Z","conditions":[{"bucket":"b"}]}"#;
        assert!(of(none, &[]).is_ok() && of(none, &[("x-amz-checksum-sha256", "x")]).is_ok());
        assert!(of(none, &[("key", "x")]).is_err());
        let nowhere = r#"{"expiration":"2026-11-22T12:00:00Z","conditions":[]}"#;
        assert!(matches!(of(nowhere, &[]), Err(FormError::Failed { .. })), "a policy names its bucket");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,200}") {
            let _ = (PostPolicy::parse(&text), PostPolicy::from_base64(&text));
        }

        /// Whatever a form says besides, it is refused.
        #[test]
        fn extra_fields(name in "[a-z-]{1,12}", value in "[a-z]{0,4}") {
            let mut pairs = GOOD.to_vec();
            pairs.push((&name, &value));
            let known = GOOD.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name));
            prop_assert!(known || is_exempt(&name) || check(&pairs, 5, NOW).is_err());
        }
    }
}
