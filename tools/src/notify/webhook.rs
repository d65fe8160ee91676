//! Webhooks: the file that names them, and the one request that is ever made to one.
//!
//! Invariants:
//! * A webhook is what an operator wrote: no client and no answer names an address.
//! * A connection goes to an address that was resolved for it and looked at: none of this machine or of private networks, unless the
//!   operator says so for this webhook. Names are resolved once per connection, so what was looked at is what is connected to.
//! * Every request has [`PATIENCE`], and at most [`MAX_ANSWER`] bytes of its answer are read. Its connection ends with it, however it ends.
//! * What counts is the status of the answer: a body that does not end keeps no notice waiting, and makes none be sent twice.

use aws_lc_rs::hmac;
use bytes::Bytes;
use codec::effect::NoticeName;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// For one request, from the first look at its name to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// For the rest of an answer whose status is known.
const REST: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;
/// Longest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The webhooks that there are.
pub type Webhooks = Arc<[Arc<Webhook>]>;

/// Why a file of webhooks can't be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhooksError {
    /// It can't be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or says something that there is not.
    #[error("{path}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It holds secrets, and others than its owner and its group may read it.
    #[error("{path} has mode {mode:o} and holds secrets, which everybody may read (chmod 640)")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A webhook that can't be.
    #[error("{path}: webhook {name:?}: {reason}")]
    Webhook {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The certificates that the operating system trusts can't be read.
    #[error("{path}: no certificate that the operating system trusts was found, and webhook {name:?} is https")]
    Roots {
        /// The file.
        path: PathBuf,
        /// The webhook.
        name: String,
    },
}

/// Why a webhook was not told.
#[derive(Debug, thiserror::Error)]
pub(super) enum TellError {
    #[error("no answer within {} seconds", PATIENCE.as_secs())]
    Late,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("its name stands for no address that it may have (private ones need `private = true`)")]
    Address,
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("it answered {0}")]
    Status(u16),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    webhook: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    url: String,
    secret: Option<String>,
    #[serde(default)]
    private: bool,
}

/// A webhook.
pub struct Webhook {
    /// By which clients name it.
    pub name: String,
    host: String,
    port: u16,
    /// What the request names: path and query.
    target: String,
    tls: Option<Arc<ClientConfig>>,
    key: Option<hmac::Key>,
    private: bool,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads a file of webhooks; without one there are none.
pub fn from_file(path: Option<&Path>) -> Result<Webhooks, WebhooksError> {
    let Some(path) = path else { return Ok(Arc::from([])) };
    let io = |source| WebhooksError::Io { path: path.to_owned(), source };
    let is = std::fs::metadata(path).map_err(io)?;
    if is.len() > MAX_FILE {
        return Err(io(std::io::Error::other("the file is too long")));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(io)?);
    let file: File = toml::from_str(&text).map_err(|error| WebhooksError::Syntax {
        path: path.to_owned(),
        // Its own words repeat the line, and a line may hold a secret.
        reason: error.message().to_owned(),
    })?;
    let mode = is.permissions().mode() & 0o777;
    if mode & 0o007 != 0 && file.webhook.iter().any(|line| line.secret.is_some()) {
        return Err(WebhooksError::TooOpen { path: path.to_owned(), mode });
    }
    let mut names = HashSet::new();
    let mut roots = None;
    let mut webhooks = Vec::with_capacity(file.webhook.len());
    for line in file.webhook {
        if !names.insert(line.name.clone()) {
            return Err(refused(path, &line.name, "there are two of that name"));
        }
        webhooks.push(Arc::new(webhook(path, line, &mut roots)?));
    }
    Ok(webhooks.into())
}

fn refused(path: &Path, name: &str, reason: &'static str) -> WebhooksError {
    WebhooksError::Webhook { path: path.to_owned(), name: name.to_owned(), reason }
}

fn webhook(path: &Path, mut line: Line, roots: &mut Option<Arc<ClientConfig>>) -> Result<Webhook, WebhooksError> {
    let secret = line.secret.take().map(Zeroizing::new);
    let wrong = |reason| refused(path, &line.name, reason);
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if line.name.is_empty() || line.name.len() > 64 || !line.name.bytes().all(named) {
        return Err(wrong("a name is 1 to 64 of a-z, A-Z, 0-9, -, _ and ."));
    }
    let uri: Uri = line.url.parse().map_err(|_| wrong("url is no URL"))?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("url has no host"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong("url has a user: secrets belong into `secret`"));
    }
    let (port, tls) = match uri.scheme_str() {
        Some("https") => {
            let known = match roots.take() {
                Some(known) => known,
                None => trusted(path, &line.name)?,
            };
            (443, Some(roots.insert(known).clone()))
        }
        Some("http") => (80, None),
        _ => return Err(wrong("url is neither http nor https")),
    };
    Ok(Webhook {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: uri.port_u16().unwrap_or(port),
        target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        tls,
        key: secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())),
        private: line.private,
        name: line.name,
    })
}

fn trusted(path: &Path, name: &str) -> Result<Arc<ClientConfig>, WebhooksError> {
    let none = || WebhooksError::Roots { path: path.to_owned(), name: name.to_owned() };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(none());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(Arc::new(config.map_err(|_| none())?.with_root_certificates(roots).with_no_client_auth()))
}

/// Whether an address is one that anybody may have in the internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let testing = a == 198 && (18..20).contains(&b);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_documentation()
                || shared
                || testing
                || a == 0
                || a >= 240
                || v4.octets()[..3] == [192, 0, 0])
        }
        IpAddr::V6(v6) => {
            // An IPv4 address in an IPv6 one is the IPv4 one: mapped, and by NAT64.
            let [a, b, ..] = v6.segments();
            if let Some(v4) = v6.to_ipv4_mapped() {
                return is_public(IpAddr::V4(v4));
            }
            // What is given out: 2000::/3, but for 6to4 and Teredo, which carry IPv4 addresses, and documentation.
            (a & 0xe000) == 0x2000 && a != 0x2002 && !(a == 0x2001 && (b == 0 || b == 0xdb8))
        }
    }
}

impl Webhook {
    /// Sends one request. `Ok`: it answered 2xx.
    pub(super) async fn tell(&self, name: &NoticeName, body: &[u8]) -> Result<(), TellError> {
        timeout(PATIENCE, self.ask(name, body)).await.unwrap_or(Err(TellError::Late))
    }

    async fn ask(&self, name: &NoticeName, body: &[u8]) -> Result<(), TellError> {
        let stream = self.connect().await?;
        match &self.tls {
            None => self.exchange(stream, name, body).await,
            Some(tls) => {
                let host = ServerName::try_from(self.host.clone()).map_err(|_| TellError::Address)?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(host, stream).await?;
                self.exchange(stream, name, body).await
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, TellError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        let may: Vec<SocketAddr> = found.filter(|address| self.private || is_public(address.ip())).collect();
        let mut failed = TellError::Address;
        for address in may {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error.into(),
            }
        }
        Err(failed)
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        name: &NoticeName,
        body: &[u8],
    ) -> Result<(), TellError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Dropped with this: a request that is given up would leave its connection to the webhook's patience.
        let mut driven = JoinSet::new();
        driven.spawn(connection);
        let response = sender.send_request(self.request(name, body)?).await?;
        let status = response.status();
        // The end of the answer, so that the webhook sees a connection that ended well; its words are nobody's business.
        let _rest = timeout(REST, Limited::new(response.into_body(), MAX_ANSWER).collect()).await;
        if status.is_success() { Ok(()) } else { Err(TellError::Status(status.as_u16())) }
    }

    fn request(&self, name: &NoticeName, body: &[u8]) -> Result<Request<Full<Bytes>>, TellError> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let mut request = Request::post(self.target.as_str())
            .header(HOST, format!("{host}:{}", self.port))
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, "Stele")
            .header("x-stele-notice", format!("{:016X}{:08X}", name.seq, name.number));
        if let Some(key) = &self.key {
            request = request.header("x-stele-signature", format!("sha256={}", hex::encode(hmac::sign(key, body))));
        }
        // The parts were checked when the file was read.
        request.body(Full::new(Bytes::copy_from_slice(body))).map_err(|_| TellError::Address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn file(text: &str) -> Result<Webhooks, WebhooksError> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        from_file(Some(file.path()))
    }

    #[test]
    fn files_of_webhooks() {
        let one =
            file("[[webhook]]\nname = \"a\"\nurl = \"http://h.example:81/x?y\"\nsecret = \"s\"\n").expect("a webhook");
        assert_eq!((one[0].host.as_str(), one[0].port, one[0].target.as_str()), ("h.example", 81, "/x?y"));
        assert!(!one[0].private && one[0].key.is_some() && !format!("{one:?}").contains('s'));
        for bad in [
            "[[webhook]]\nname = \"a b\"\nurl = \"http://h\"",
            "[[webhook]]\nname = \"a\"\nurl = \"ftp://h\"",
            "[[webhook]]\nname = \"a\"\nurl = \"/h\"",
            "[[webhook]]\nname = \"a\"\nurl = \"http://u:p@h\"",
            "[[webhook]]\nname = \"a\"\nurl = \"http://h\"\nurll = \"x\"",
            "[[webhook]]\nname = \"a\"\nurl = \"http://h\"\n[[webhook]]\nname = \"a\"\nurl = \"http://h\"",
        ] {
            assert!(file(bad).is_err(), "{bad}");
        }
        assert!(from_file(None).expect("none").is_empty());
    }

    #[test]
    fn a_secret_that_everybody_may_read_is_refused() {
        let text = "[[webhook]]\nname = \"a\"\nurl = \"http://h\"\n";
        for (more, refused) in [("secret = \"s\"\n", true), ("", false)] {
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            file.write_all(format!("{text}{more}").as_bytes()).expect("written");
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).expect("a mode");
            assert_eq!(matches!(from_file(Some(file.path())), Err(WebhooksError::TooOpen { .. })), refused);
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).expect("a mode");
            assert!(from_file(Some(file.path())).is_ok());
        }
    }

    /// A webhook at a listener of this test.
    async fn webhook() -> (TcpListener, Arc<Webhook>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let text = format!("[[webhook]]\nname = \"a\"\nurl = \"http://127.0.0.1:{port}/\"\nprivate = true\n");
        (listener, Arc::clone(&file(&text).expect("a webhook")[0]))
    }

    fn notice() -> NoticeName {
        NoticeName { webhook: "a".into(), seq: 1, number: 0 }
    }

    /// The same notice went out every half minute, and nothing after it.
    #[tokio::test]
    async fn a_body_that_does_not_end_keeps_nothing_waiting() {
        let (listener, webhook) = webhook().await;
        let hook = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab").await.expect("written");
            // Until the other side ends it.
            let mut rest = Vec::new();
            let _ended = stream.read_to_end(&mut rest).await;
        });
        webhook.tell(&notice(), b"{}").await.expect("it answered 200");
        timeout(10 * PATIENCE, hook).await.expect("the connection ends").expect("the webhook's end");
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_ends_its_connection() {
        let (listener, webhook) = webhook().await;
        let told = tokio::spawn(async move { webhook.tell(&notice(), b"{}").await });
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut byte = [0];
        stream.read_exact(&mut byte).await.expect("the request begins");
        told.abort();
        let mut rest = Vec::new();
        let ended = timeout(10 * PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection is open");
    }

    /// SeaweedFS GHSA-87fv: a webhook reached what only the server could reach.
    #[test]
    fn ghsa_87fv_webhook_ssrf() {
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "ff02::1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(inside.parse().expect(inside)), "{inside}");
        }
        for outside in ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"] {
            assert!(is_public(outside.parse().expect(outside)), "{outside}");
        }
    }
}
