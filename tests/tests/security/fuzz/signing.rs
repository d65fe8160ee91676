//! Requests that are written oddly and signed as the documentation says: the signature is accepted, and what is meant is what is done.
//!
//! Source: "Create a signed AWS API request" (IAM User Guide), "Signature calculations" (Amazon S3 API Reference): what is signed is
//! made of what a request means, however that is encoded on its way.

use super::super::store::Store;
use super::{Fuzz, sha256};
use std::fmt::Write as _;
use tests::sigv4::{Key, Scope, ask, encoded, exchange, mac, signing_key, stamp};

/// A request by what it means and by what goes over the wire.
struct Odd {
    method: &'static str,
    /// The key, decoded.
    key: String,
    /// The path on the wire.
    path: String,
    /// Names and values, decoded, and each pair as it is on the wire.
    query: Vec<(String, String, String)>,
    /// Names in lower case, values as they are on the wire, and whether they are signed.
    headers: Vec<(String, String, bool)>,
    body: Vec<u8>,
}

/// What keys, names and values are made of.
const PIECES: [&str; 32] = [
    "a",
    "B",
    "0",
    "-",
    "_",
    ".",
    "~",
    "/",
    "//",
    "..",
    "/./",
    " ",
    "  ",
    "+",
    "%",
    "%41",
    "%2F",
    "&",
    "=",
    "?",
    "#",
    ";",
    ":",
    "@",
    "$",
    ",",
    "!",
    "'",
    "(*)",
    "\u{e9}",
    "\u{1f4a5}",
    "[|^`\\\"<{}>]",
];

/// What RFC 3986 lets stand in a path, besides what is never encoded.
const PLAIN_IN_PATHS: &str = "/!$&'()*+,;=:@";
/// And in a query, without what separates there, and without `+`, which stands for a space.
const PLAIN_IN_QUERIES: &str = "/!$'()*,:@?";

impl Fuzz {
    fn text(&mut self, pieces: u64) -> String {
        (0..self.random.below(pieces + 1)).map(|_| self.one(&PIECES)).collect()
    }

    /// The text as it may be written where the bytes of `plain` need no encoding.
    fn written(&mut self, text: &str, plain: &str, space: &str) -> String {
        let mut out = String::new();
        for byte in text.bytes() {
            let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            let may_stay = unreserved || plain.as_bytes().contains(&byte);
            match self.random.below(8) {
                0 => drop(write!(out, "%{byte:02x}")),
                1 => drop(write!(out, "%{byte:02X}")),
                _ if may_stay => out.push(char::from(byte)),
                _ if byte == b' ' => out.push_str(space),
                _ => drop(write!(out, "%{byte:02X}")),
            }
        }
        out
    }

    fn odd(&mut self, number: u64) -> Odd {
        let method = self.one(&["PUT", "PUT", "GET", "HEAD", "DELETE"]);
        let key = format!("{}k{number}", self.text(6));
        let path = format!("/vault/{}", self.written(&key, PLAIN_IN_PATHS, "%20"));
        let mut query = Vec::new();
        for _ in 0..self.random.below(4) {
            // None that means anything, and the same one often. A value may be none at all.
            let name = format!("x-{}", self.one(&["a", "a", "B", " ", "\u{e9}", "a+", "a/b"]));
            let value = self.text(3);
            let equals = if value.is_empty() && self.random.below(2) == 0 { "" } else { "=" };
            let space = self.one(&["+", "%20"]).to_owned();
            let wire = [self.written(&name, PLAIN_IN_QUERIES, &space), self.written(&value, PLAIN_IN_QUERIES, &space)];
            query.push((name, value, wire.join(equals)));
        }
        let mut headers = Vec::new();
        for _ in 0..self.random.below(4) {
            let name = self.one(&["x-amz-meta-a", "x-amz-meta-b_c", "x-other", "accept", "user-agent"]).to_owned();
            let words = ["a", "b,c", "\"d  e\"", "", "=?utf-8?q?f?=", "g;h", "i  j", "  k", "\u{e9}", "%20", "+"];
            let value: Vec<String> = (0..self.random.below(4)).map(|_| self.one(&words).to_owned()).collect();
            let value = value.join(self.one(&[" ", "  ", ", "]));
            let signed = name.starts_with("x-amz-") || self.random.below(2) == 0;
            // What is there twice is signed twice or not at all.
            let signed =
                headers.iter().find(|(other, ..): &&(String, String, bool)| *other == name).map_or(signed, |h| h.2);
            headers.push((name, value, signed));
        }
        let body = if method == "PUT" { number.to_string().into_bytes() } else { Vec::new() };
        Odd { method, key, path, query, headers, body }
    }
}

fn one_space(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

impl Odd {
    fn canonical(&self, query: &[(String, String)], headers: &[(String, String)], payload: &str) -> (String, String) {
        let path: Vec<String> = self.key.split('/').map(encoded).collect();
        let mut pairs: Vec<(String, String)> =
            query.iter().map(|(name, value)| (encoded(name), encoded(value))).collect();
        pairs.sort_unstable();
        let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let mut text = format!("{}\n/vault/{}\n{}\n", self.method, path.join("/"), pairs.join("&"));
        for name in &names {
            let values = headers.iter().filter(|(other, _)| other == name).map(|(_, value)| one_space(value));
            let _ = writeln!(text, "{name}:{}", values.collect::<Vec<_>>().join(","));
        }
        let names = names.join(";");
        let _ = write!(text, "\n{names}\n{payload}");
        (text, names)
    }

    /// The bytes that go over the wire, signed in the headers or in the query.
    fn bytes(&self, host: &str, key: &Key, presigned: bool, odd_names: bool) -> Vec<u8> {
        let (time, scope) = (stamp(0), Scope::default());
        let of = format!("{}/{}/{}/aws4_request", &time[..8], scope.region, scope.service);
        let payload = if presigned { "UNSIGNED-PAYLOAD".to_owned() } else { sha256(&self.body) };
        let mut headers: Vec<(String, String)> = self
            .headers
            .iter()
            .filter(|(.., signed)| *signed)
            .map(|(name, value, _)| (name.clone(), value.clone()))
            .collect();
        headers.push(("host".to_owned(), host.to_owned()));
        let mut more = Vec::new();
        if !presigned {
            more = vec![("x-amz-date".to_owned(), time.clone()), ("x-amz-content-sha256".to_owned(), payload.clone())];
            headers.extend(more.iter().cloned());
        }
        let mut query: Vec<(String, String)> = self.query.iter().map(|(n, v, _)| (n.clone(), v.clone())).collect();
        let mut wire: Vec<String> = self.query.iter().map(|(.., wire)| wire.clone()).collect();
        if presigned {
            let names: std::collections::BTreeSet<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
            let signed = names.into_iter().collect::<Vec<_>>().join(";");
            for (name, value) in [
                ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
                ("X-Amz-Credential", &format!("{}/{of}", key.id)),
                ("X-Amz-Date", &time),
                ("X-Amz-Expires", "600"),
                ("X-Amz-SignedHeaders", &signed),
            ] {
                query.push((name.to_owned(), value.to_owned()));
                wire.push(format!("{name}={}", encoded(value)));
            }
        }
        let (canonical, names) = self.canonical(&query, &headers, &payload);
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{of}\n{}", sha256(canonical.as_bytes()));
        let signature = hex::encode(mac(&signing_key(&key.secret, &time[..8], &scope), to_sign.as_bytes()));
        if presigned {
            wire.push(format!("X-Amz-Signature={signature}"));
        } else {
            let said =
                format!("AWS4-HMAC-SHA256 Credential={}/{of}, SignedHeaders={names}, Signature={signature}", key.id);
            more.push(("authorization".to_owned(), said));
        }
        let target = if wire.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, wire.join("&")) };
        let mut text = format!("{} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n", self.method);
        let all = self.headers.iter().map(|(name, value, _)| (name, value));
        for (name, value) in all.chain(more.iter().map(|(name, value)| (name, value))) {
            let name = if odd_names { name.to_ascii_uppercase() } else { name.clone() };
            let _ = write!(text, "{name}: {value}\r\n");
        }
        let _ = write!(text, "content-length: {}\r\n\r\n", self.body.len());
        [text.as_bytes(), &self.body].concat()
    }
}

pub(super) async fn odd_requests(mut fuzz: Fuzz) {
    let store = Store::start().await;
    store.bucket("vault").await;
    let (host, mut number) = (store.config.s3().to_string(), 0);
    while fuzz.goes_on_until(number > 10) {
        number += 1;
        let odd = fuzz.odd(number);
        let (presigned, odd_names) = (fuzz.random.below(3) == 0, fuzz.random.below(2) == 0);
        let bytes = odd.bytes(&host, &store.office, presigned, odd_names);
        let shown = || format!("seed {}: {}", fuzz.seed, String::from_utf8_lossy(&bytes));
        let answer = exchange(store.config.s3(), None, &bytes).await;
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", shown()));
        // Its owner may do all of that, so a refusal is one of the signature.
        assert!(answer.status < 500 && answer.status != 403, "{}: {} {}", shown(), answer.status, answer.text());
        if odd.method == "PUT" && answer.status == 200 {
            let path: Vec<String> = odd.key.split('/').map(encoded).collect();
            let read = ask("GET", &format!("/vault/{}", path.join("/"))).signed(store.config.s3(), &store.office);
            let read = read.send(store.config.s3()).await.unwrap();
            assert_eq!((read.status, read.body), (200, odd.body.clone()), "{}", shown());
        } else if odd.method == "PUT" {
            assert_eq!(answer.status, 400, "{}: {}", shown(), answer.text());
        }
    }
    assert!(number > 10, "{number} requests were tried");
    store.end().await;
}
