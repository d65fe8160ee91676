//! S3 clients of the process tests: the AWS SDK, and requests written by hand where an SDK would not send them.

use crate::process::{ACCESS_KEY, SECRET_KEY, ServerConfig};
use aws_lc_rs::{digest, hmac};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use bytes::Bytes;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The region that requests are signed for.
const REGION: &str = "us-east-1";

/// An SDK client that tries everything once: a test must see each failure.
pub fn client(config: &ServerConfig) -> Client {
    client_of(config, ACCESS_KEY, SECRET_KEY)
}

/// [`client`] with other credentials.
pub fn client_of(config: &ServerConfig, access_key: &str, secret_key: &str) -> Client {
    client_with(&config.endpoint(), access_key, secret_key, Duration::from_secs(120))
}

/// A client of any server, `http://host:port`, that gives each request this long, and tries everything once.
pub fn client_at(endpoint: &str, time: Duration) -> Client {
    client_with(endpoint, ACCESS_KEY, SECRET_KEY, time)
}

/// [`client_at`] with other credentials.
pub fn client_with(endpoint: &str, access_key: &str, secret_key: &str, time: Duration) -> Client {
    let timeouts =
        TimeoutConfig::builder().connect_timeout(Duration::from_secs(10).min(time)).operation_timeout(time).build();
    let settings = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(access_key, secret_key, None, None, "tests"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .build();
    Client::from_conf(settings)
}

/// An error that the server answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// S3 code.
    pub code: String,
    /// The sentence for the client.
    pub message: String,
}

/// What the server said; `None` when it said nothing: no connection, or one that broke.
pub fn refused<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<Refused> {
    let SdkError::ServiceError(answer) = error else { return None };
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    Some(Refused {
        status: answer.raw().status().as_u16(),
        code: text(answer.err().code()),
        message: text(answer.err().message()),
    })
}

/// A content that nobody has to keep: the same for the same `seed` and length. Half of it compresses, and every fourth
/// shares its first part with others, so that chunks are found again.
pub fn document(seed: u64, len: usize) -> Bytes {
    let mut out = Vec::with_capacity(len + 8);
    let shared = if seed.is_multiple_of(4) { (len / 2).min(3 << 20) } else { 0 };
    fill(&mut out, seed % 16, shared, seed.is_multiple_of(2));
    fill(&mut out, seed.wrapping_add(1 << 32), len - shared, seed.is_multiple_of(2));
    out.into()
}

fn fill(out: &mut Vec<u8>, seed: u64, len: usize, words: bool) {
    const WORDS: [&str; 8] = ["stone ", "record ", "office ", "seal ", "ledger ", "drive ", "archive ", "keep "];
    let end = out.len() + len;
    let mut random = Random::new(seed);
    while out.len() < end {
        let word = random.next();
        if words && !word.is_multiple_of(16) {
            out.extend_from_slice(WORDS[(word >> 32) as usize % WORDS.len()].as_bytes());
        } else {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    out.truncate(end);
}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators"): repeatable chance.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// A length between 1 and 2^`bits`, where each power of two is as likely as the next.
    pub fn length(&mut self, bits: u64) -> usize {
        let top = 1u64 << self.below(bits + 1);
        usize::try_from(top / 2 + 1 + self.below(top - top / 2)).unwrap_or(1).min(1 << bits)
    }
}

/// The head of a request that is written by hand.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// `PUT` and the like.
    pub method: &'a str,
    /// Path, encoded.
    pub path: &'a str,
    /// The value of x-amz-content-sha256, such as `UNSIGNED-PAYLOAD`.
    pub payload: &'a str,
    /// Further headers. Names in lower case; those that begin with `x-amz-` are signed.
    pub headers: &'a [(&'a str, String)],
}

/// A connection after a request's head.
#[derive(Debug)]
pub struct RawRequest {
    stream: TcpStream,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// All that came over a connection.
    pub fn parse(bytes: &[u8]) -> std::io::Result<Answer> {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| std::io::Error::other("no answer"))?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other("not HTTP"))?;
        Ok(Answer { status, head, body: bytes[end + 4..].to_vec() })
    }

    /// A header's value; its name is looked for in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The S3 code of an error.
    pub fn code(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map(|(code, _)| code.to_owned()).unwrap_or_default()
    }
}

impl RawRequest {
    /// Connects and sends a signed head ("Signature Version 4 signing process", AWS General Reference).
    pub async fn open(config: &ServerConfig, head: &Head<'_>) -> std::io::Result<RawRequest> {
        let mut stream = TcpStream::connect(config.s3()).await?;
        stream.set_nodelay(true)?;
        stream.write_all(signed(&config.s3().to_string(), head).as_bytes()).await?;
        Ok(RawRequest { stream })
    }

    /// Waits until the server asks for the body, which the head has announced with `expect: 100-continue`: from then on the
    /// request is being worked on.
    pub async fn continued(&mut self) -> std::io::Result<()> {
        let mut said = Vec::new();
        while !said.ends_with(b"\r\n\r\n") {
            said.push(self.stream.read_u8().await?);
        }
        match said.starts_with(b"HTTP/1.1 100 ") {
            true => Ok(()),
            false => Err(std::io::Error::other(String::from_utf8_lossy(&said).into_owned())),
        }
    }

    /// Sends bytes of the body.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Says that no more bytes follow.
    pub async fn half_close(&mut self) -> std::io::Result<()> {
        self.stream.shutdown().await
    }

    /// Reads the whole answer.
    pub async fn answer(mut self) -> std::io::Result<Answer> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).await?;
        Answer::parse(&bytes)
    }
}

fn signed(host: &str, head: &Head<'_>) -> String {
    let stamp = stamp();
    let day = &stamp[..8];
    let mut names: Vec<(&str, &str)> =
        vec![("host", host), ("x-amz-content-sha256", head.payload), ("x-amz-date", &stamp)];
    names.extend(head.headers.iter().filter(|(n, _)| n.starts_with("x-amz-")).map(|(n, v)| (*n, v.as_str())));
    names.sort_unstable();
    let list = names.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(";");
    let mut canonical = format!("{}\n{}\n\n", head.method, head.path);
    for (name, value) in &names {
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{list}\n{}", head.payload);
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let hash = hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}");
    let mac =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let key = [day, REGION, "s3", "aws4_request"]
        .iter()
        .fold(format!("AWS4{SECRET_KEY}").into_bytes(), |key, part| mac(&key, part));
    let signature = hex::encode(mac(&key, &to_sign));
    let mut out = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", head.method, head.path);
    for (name, value) in &names {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    for (name, value) in head.headers.iter().filter(|(n, _)| !n.starts_with("x-amz-")) {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    let _ = write!(
        out,
        "authorization: AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={list}, Signature={signature}\r\n\r\n"
    );
    out
}

/// Now, as `YYYYMMDDTHHMMSSZ`.
fn stamp() -> String {
    use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
    let text = DateTime::from(SystemTime::now()).fmt(DateTimeFormat::DateTime).expect("now can be written");
    // 2026-11-21T22:08:37.123Z without its punctuation and fraction.
    let digits: String = text.chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{digits}Z")
}
