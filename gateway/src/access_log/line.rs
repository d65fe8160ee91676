//! A line of the access log.
//!
//! Invariant: a line has less than 16 KiB, whatever was asked: no field takes more than [`LONGEST`] bytes, and the key [`KEY`].

use std::fmt;

/// What is said of a request. Empty text and `None` are written as `-`.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Canonical id of the bucket's owner.
    pub owner: String,
    /// The bucket.
    pub bucket: String,
    /// When it came, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// From where.
    pub address: String,
    /// Who asked: a canonical id or an ARN.
    pub requester: String,
    /// The id in its answer.
    pub request_id: String,
    /// Such as `REST.GET.OBJECT`.
    pub operation: String,
    /// The key, as in the URL.
    pub key: String,
    /// Method, target and protocol.
    pub request: String,
    /// The answer's status.
    pub status: u16,
    /// S3's error code.
    pub error: String,
    /// Bytes of the answer's body that were handed to the connection.
    pub sent: Option<u64>,
    /// Length of the object.
    pub size: Option<u64>,
    /// Milliseconds until the last byte of the answer.
    pub total_ms: u64,
    /// Milliseconds until the first one.
    pub turnaround_ms: u64,
    /// Referer.
    pub referer: String,
    /// User-Agent.
    pub agent: String,
    /// The version that was asked for.
    pub version: String,
    /// `AuthHeader`, `QueryString`; empty for an unsigned request.
    pub authentication: &'static str,
    /// Host.
    pub host: String,
    /// `TLSv1.2`, `TLSv1.3`; empty without.
    pub tls: String,
}

/// Bytes that a field takes at most, after what is escaped in it. What is longer is cut, and ends in `...`.
const LONGEST: usize = 2048;
/// The same of a key, which is escaped already as it comes: the longest has 1024 bytes.
const KEY: usize = 3 * 1024;
/// What comes behind text that was cut.
const CUT: &str = "...";

/// Adds text that can't end its field or its line, whoever wrote it. `false`: it does not fit into `most` bytes, and was cut.
fn add(out: &mut String, text: &str, most: usize) -> bool {
    for c in text.chars() {
        let whole = out.len();
        match c {
            ' ' => out.push_str("%20"),
            '"' => out.push_str("%22"),
            c if c.is_control() || c.is_whitespace() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    out.push_str(&format!("%{byte:02X}"));
                }
            }
            c => out.push(c),
        }
        if out.len() > most {
            out.truncate(whole);
            out.push_str(CUT);
            return false;
        }
    }
    true
}

/// A field of at most `most` bytes.
fn field(text: &str, most: usize) -> String {
    let mut out = String::new();
    if text.is_empty() {
        out.push('-');
    }
    add(&mut out, text, most);
    out
}

/// The same between quotes, where there may be spaces.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for (n, word) in text.split(' ').enumerate() {
        if n > 0 {
            out.push(' ');
        }
        if text.is_empty() {
            out.push('-');
        }
        if !add(&mut out, word, LONGEST) {
            break;
        }
        // Spaces alone are no words.
        if out.len() > LONGEST {
            out.push_str(CUT);
            break;
        }
    }
    out.push('"');
    out
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = jiff::Timestamp::from_millisecond(self.at_ms).unwrap_or_default().strftime("%d/%b/%Y:%H:%M:%S +0000");
        let signature = if self.authentication.is_empty() { "-" } else { "SigV4" };
        writeln!(
            f,
            "{} {} [{at}] {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} - {signature} - {} {} {} - -",
            field(&self.owner, LONGEST),
            field(&self.bucket, LONGEST),
            field(&self.address, LONGEST),
            field(&self.requester, LONGEST),
            field(&self.request_id, LONGEST),
            field(&self.operation, LONGEST),
            field(&self.key, KEY),
            quoted(&self.request),
            self.status,
            field(&self.error, LONGEST),
            number(self.sent),
            number(self.size),
            self.total_ms,
            self.turnaround_ms,
            quoted(&self.referer),
            quoted(&self.agent),
            field(&self.version, LONGEST),
            field(self.authentication, LONGEST),
            field(&self.host, LONGEST),
            field(&self.tls, LONGEST),
        )
    }
}

/// Parts of a bucket or object that have a name of their own in the log, by their parameter in the query.
const PARTS: [(&str, &str); 26] = [
    ("acl", "ACL"),
    ("accelerate", "ACCELERATE"),
    ("attributes", "OBJECT_ATTRIBUTES"),
    ("cors", "CORS"),
    ("delete", "MULTI_OBJECT_DELETE"),
    ("encryption", "ENCRYPTION"),
    ("inventory", "INVENTORY"),
    ("legal-hold", "OBJECT_LOCK_LEGALHOLD"),
    ("lifecycle", "LIFECYCLE"),
    ("location", "LOCATION"),
    ("logging", "LOGGING_STATUS"),
    ("notification", "NOTIFICATION"),
    ("object-lock", "OBJECT_LOCK"),
    ("ownershipControls", "OWNERSHIP_CONTROLS"),
    ("partNumber", "PART"),
    ("policy", "BUCKETPOLICY"),
    ("policyStatus", "BUCKETPOLICYSTATUS"),
    ("publicAccessBlock", "PUBLIC_ACCESS_BLOCK"),
    ("requestPayment", "REQUEST_PAYMENT"),
    ("restore", "OBJECT"),
    ("retention", "OBJECT_LOCK_RETENTION"),
    ("tagging", "TAGGING"),
    ("uploadId", "UPLOAD"),
    ("uploads", "UPLOADS"),
    ("versioning", "VERSIONING"),
    ("versions", "BUCKETVERSIONS"),
];

/// The name of what a request asks for.
pub fn operation(method: &str, query: &[(String, String)], copies: bool, of_object: bool) -> String {
    let has = |wanted: &str| query.iter().any(|(name, _)| name == wanted);
    let part = PARTS.iter().find(|(name, _)| has(name)).map(|(_, part)| *part);
    let part = match (part, of_object) {
        (Some("TAGGING"), true) => "OBJECT_TAGGING",
        (Some(part), _) => part,
        (None, true) => "OBJECT",
        (None, false) => "BUCKET",
    };
    match method {
        "OPTIONS" => "REST.OPTIONS.PREFLIGHT".to_owned(),
        "PUT" if copies => format!("REST.COPY.{part}"),
        "POST" if !of_object && part == "BUCKET" => "REST.POST.OBJECT".to_owned(),
        method => format!("REST.{method}.{part}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::request::query_pairs;
    use proptest::prelude::*;

    #[test]
    fn operations() {
        let of = |method: &str, query: &str, object| operation(method, &query_pairs(query), false, object);
        assert_eq!(of("PUT", "", true), "REST.PUT.OBJECT");
        assert_eq!(of("GET", "list-type=2&prefix=a", false), "REST.GET.BUCKET");
        assert_eq!(of("PUT", "partNumber=1&uploadId=x", true), "REST.PUT.PART");
        assert_eq!(of("POST", "delete=", false), "REST.POST.MULTI_OBJECT_DELETE");
        assert_eq!(of("GET", "tagging=", true), "REST.GET.OBJECT_TAGGING");
        assert_eq!(of("POST", "", false), "REST.POST.OBJECT");
        assert_eq!(operation("PUT", &[], true, true), "REST.COPY.OBJECT");
    }

    #[test]
    fn a_line() {
        let line = Line {
            owner: "me".into(),
            bucket: "b".into(),
            request: "GET /b/a%20b HTTP/1.1".into(),
            key: "a%20b".into(),
            agent: "x \"y\"".into(),
            status: 200,
            sent: Some(5),
            authentication: "AuthHeader",
            ..Line::default()
        };
        assert_eq!(
            line.to_string(),
            "me b [01/Jan/1970:00:00:00 +0000] - - - - a%20b \"GET /b/a%20b HTTP/1.1\" 200 - 5 - 0 0 \"-\" \"x %22y%22\" - - \
             SigV4 - AuthHeader - - - -\n"
        );
    }

    /// Whoever sends 60 KB of User-Agent with each request fills what waits for everybody's logs.
    #[test]
    fn a_line_is_short_whatever_was_asked() {
        for text in
            ["x".repeat(60_000), "\"".repeat(60_000), "\u{85}".repeat(60_000), " x".repeat(30_000), " ".repeat(60_000)]
        {
            let line = Line {
                key: text.clone(),
                request: text.clone(),
                agent: text.clone(),
                referer: text.clone(),
                host: text.clone(),
                version: text.clone(),
                ..Line::default()
            };
            let line = line.to_string();
            assert!(line.len() < 16 << 10, "{}", line.len());
            assert_eq!((line.matches('"').count(), line.matches('\n').count()), (6, 1));
        }
        let longest = "%E2%82%AC".repeat(341);
        assert!(Line { key: longest.clone(), ..Line::default() }.to_string().contains(&longest), "a key is whole");
    }

    proptest! {
        /// Nobody writes a line of somebody else's.
        #[test]
        fn a_line_is_one_line(text in ".{0,40}", agent in "[ -~\\r\\n\"]{0,40}") {
            let line = Line { key: text.clone(), request: agent.clone(), agent, referer: text, ..Line::default() }.to_string();
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.ends_with('\n') && !line.contains('\r'));
            prop_assert_eq!(line.matches('"').count(), 6);
        }
    }
}
