//! Requests written by hand and signed with version 4 ("Signature Version 4 signing process", AWS General Reference), well or, where
//! a test wants that, badly: for another service, with headers left out, with a time of its own.

use crate::s3::Answer;
use aws_lc_rs::{digest, hmac};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Somebody who signs.
#[derive(Clone, Debug)]
pub struct Key {
    /// The access key.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// The token of temporary credentials.
    pub token: Option<String>,
}

impl Key {
    /// Permanent credentials.
    pub fn new(id: &str, secret: &str) -> Key {
        Key { id: id.to_owned(), secret: secret.to_owned(), token: None }
    }
}

/// What a signature is made for, and when.
#[derive(Clone, Debug)]
pub struct Scope {
    /// `s3`, unless a test wants another.
    pub service: String,
    /// `us-east-1`.
    pub region: String,
    /// Seconds from now, for times that are past or to come.
    pub shift: i64,
}

impl Default for Scope {
    fn default() -> Scope {
        Scope { service: "s3".to_owned(), region: "us-east-1".to_owned(), shift: 0 }
    }
}

/// A request before it is sent. Names of headers are in lower case.
#[derive(Clone, Debug)]
pub struct Ask {
    /// `PUT` and the like.
    pub method: String,
    /// Path, encoded as it goes over the wire.
    pub path: String,
    /// Query, decoded.
    pub query: Vec<(String, String)>,
    /// Headers in the order they are sent.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// Where it comes from; the system chooses if that is none.
    pub from: Option<IpAddr>,
}

/// A request without headers.
pub fn ask(method: &str, path: &str) -> Ask {
    Ask {
        method: method.to_owned(),
        path: path.to_owned(),
        query: Vec::new(),
        headers: Vec::new(),
        body: Vec::new(),
        from: None,
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// HMAC-SHA256.
pub fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

/// A time as `YYYYMMDDTHHMMSSZ`, this many seconds from now.
pub fn stamp(shift: i64) -> String {
    let now = SystemTime::now();
    let step = Duration::from_secs(shift.unsigned_abs());
    let time = if shift < 0 { now - step } else { now + step };
    let text = DateTime::from(time).fmt(DateTimeFormat::DateTime).expect("now can be written");
    let digits: String = text.chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{digits}Z")
}

/// Percent-encoding of a query's names and values.
pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// The key that signs in a scope on a day.
pub fn signing_key(secret: &str, day: &str, scope: &Scope) -> Vec<u8> {
    let parts = [day, &scope.region, &scope.service, "aws4_request"];
    parts.iter().fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part.as_bytes()))
}

impl Ask {
    /// With a parameter in the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Ask {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Ask {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Ask {
        self.body = body.as_ref().to_vec();
        self
    }

    /// From this address of our own.
    #[must_use]
    pub fn from(mut self, address: IpAddr) -> Ask {
        self.from = Some(address);
        self
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn canonical_query(&self) -> String {
        let mut pairs: Vec<String> = self.query.iter().map(|(n, v)| format!("{}={}", encoded(n), encoded(v))).collect();
        pairs.sort_unstable();
        pairs.join("&")
    }

    fn canonical(&self, signed: &[String], payload: &str) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.method, self.path, self.canonical_query());
        for name in signed {
            let _ = writeln!(text, "{name}:{}", self.value(name).unwrap_or_default().trim());
        }
        let _ = write!(text, "\n{}\n{payload}", signed.join(";"));
        text
    }

    fn signature(&self, key: &Key, scope: &Scope, time: &str, signed: &[String], payload: &str) -> String {
        let (day, of) = (&time[..8], format!("{}/{}/{}/aws4_request", &time[..8], scope.region, scope.service));
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{of}\n{}", sha256(self.canonical(signed, payload).as_bytes()));
        hex::encode(mac(&signing_key(&key.secret, day, scope), to_sign.as_bytes()))
    }

    /// Signed in its headers: all there are now, its host, its time and its body. A header that is added later is not signed.
    #[must_use]
    pub fn signed(self, address: SocketAddr, key: &Key) -> Ask {
        self.signed_for(address, key, &Scope::default())
    }

    /// [`Ask::signed`] for another scope.
    #[must_use]
    pub fn signed_for(mut self, address: SocketAddr, key: &Key, scope: &Scope) -> Ask {
        let time = stamp(scope.shift);
        if self.value("host").is_none() {
            self.headers.push(("host".to_owned(), address.to_string()));
        }
        if self.value("x-amz-content-sha256").is_none() {
            self.headers.push(("x-amz-content-sha256".to_owned(), sha256(&self.body)));
        }
        if let Some(token) = &key.token {
            self.headers.push(("x-amz-security-token".to_owned(), token.clone()));
        }
        self.headers.push(("x-amz-date".to_owned(), time.clone()));
        let mut signed: Vec<String> = self.headers.iter().map(|(name, _)| name.clone()).collect();
        signed.sort_unstable();
        signed.dedup();
        let payload = self.value("x-amz-content-sha256").unwrap_or_default().to_owned();
        let signature = self.signature(key, scope, &time, &signed, &payload);
        let credential = format!("{}/{}/{}/{}/aws4_request", key.id, &time[..8], scope.region, scope.service);
        self.header(
            "authorization",
            &format!(
                "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={}, Signature={signature}",
                signed.join(";")
            ),
        )
    }

    /// Signed in its query, for this many seconds.
    #[must_use]
    pub fn presigned(mut self, address: SocketAddr, key: &Key, expires: i64, scope: &Scope) -> Ask {
        let time = stamp(scope.shift);
        self.headers.push(("host".to_owned(), address.to_string()));
        let mut signed: Vec<String> = self.headers.iter().map(|(name, _)| name.clone()).collect();
        signed.sort_unstable();
        let credential = format!("{}/{}/{}/{}/aws4_request", key.id, &time[..8], scope.region, scope.service);
        for (name, value) in [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", credential),
            ("X-Amz-Date", time.clone()),
            ("X-Amz-Expires", expires.to_string()),
            ("X-Amz-SignedHeaders", signed.join(";")),
        ] {
            self = self.query(name, &value);
        }
        if let Some(token) = &key.token {
            self = self.query("X-Amz-Security-Token", token);
        }
        let signature = self.signature(key, scope, &time, &signed, "UNSIGNED-PAYLOAD");
        self.query("X-Amz-Signature", &signature)
    }

    /// The bytes that go over the wire.
    pub fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let query = self.canonical_query();
        let target = if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) };
        let mut text = format!("{} {target} HTTP/1.1\r\n", self.method);
        if self.value("host").is_none() {
            let _ = write!(text, "host: {address}\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if self.value("content-length").is_none() && self.value("transfer-encoding").is_none() {
            let _ = write!(text, "content-length: {}\r\n", self.body.len());
        }
        text.push_str("connection: close\r\n\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it, and reads the whole answer.
    pub async fn send(&self, address: SocketAddr) -> std::io::Result<Answer> {
        exchange(address, self.from, &self.bytes(address)).await
    }
}

/// Sends bytes and reads the whole answer.
pub async fn exchange(address: SocketAddr, from: Option<IpAddr>, bytes: &[u8]) -> std::io::Result<Answer> {
    let talk = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(from) = from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        let mut stream = socket.connect(address).await?;
        // A server that has answered may close before it has read all of it.
        let sent = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        if answer.is_empty() {
            sent?;
            read?;
        }
        Answer::parse(&answer)
    };
    tokio::time::timeout(PATIENCE, talk).await.map_err(|_| std::io::Error::other("no answer in time"))?
}
