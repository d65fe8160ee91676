//! Webhooks that are told what happens in buckets, by a running server: what they are told, in which order, and that nothing is lost
//! while one of them fails, is away, or the server is killed.
#![allow(clippy::unwrap_used, missing_docs)]

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig as TlsConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tests::process::{ACCESS_KEY, SECRET_KEY, ServerConfig, ServerProcess, reserve_port};
use tests::s3::Answer;
use tests::sigv4::{Ask, Key, ask, mac};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// How long a notice may take on a busy machine: longer than the server's longest pause before it tells again.
const PATIENCE: Duration = Duration::from_secs(400);
/// What the webhooks' bodies are signed with.
const SECRET: &str = "the-secret-of-a-webhook";

/// A request that a webhook got.
#[derive(Clone, Debug)]
struct Told {
    head: String,
    body: Vec<u8>,
    /// What it was answered with.
    status: u16,
}

impl Told {
    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).unwrap_or_default()
    }

    /// Its only record.
    fn record(&self) -> Value {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        let records = body["Records"].as_array().unwrap();
        assert_eq!(records.len(), 1, "{body}");
        records[0].clone()
    }

    fn text(&self, pointer: &str) -> String {
        self.record().pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    fn key(&self) -> String {
        self.text("/s3/object/key")
    }
}

/// What the requests of a webhook come to.
#[derive(Debug, Default)]
struct Seen {
    told: Mutex<Vec<Told>>,
    /// Connections on which there was no request.
    broken: AtomicUsize,
    /// What is answered.
    status: AtomicU16,
}

/// A webhook at a port of its own.
struct Hook {
    address: SocketAddr,
    seen: Arc<Seen>,
    tls: Option<TlsAcceptor>,
    listening: Option<JoinHandle<()>>,
    _reserved: TcpSocket,
}

impl Hook {
    async fn start(tls: Option<TlsAcceptor>) -> Hook {
        let reserved = reserve_port();
        let address = reserved.local_addr().unwrap();
        let seen = Arc::new(Seen { status: AtomicU16::new(200), ..Seen::default() });
        let mut hook = Hook { address, seen, tls, listening: None, _reserved: reserved };
        hook.back().await;
        hook
    }

    /// Nobody listens.
    async fn away(&mut self) {
        let listening = self.listening.take().unwrap();
        listening.abort();
        assert!(listening.await.unwrap_err().is_cancelled());
    }

    /// It listens again.
    async fn back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let (seen, tls) = (Arc::clone(&self.seen), self.tls.clone());
        self.listening = Some(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // One after the other: an order of requests is one of answers.
                let done = match &tls {
                    None => take(stream, &seen).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => take(stream, &seen).await,
                        Err(error) => Err(error),
                    },
                };
                if done.is_err() {
                    seen.broken.fetch_add(1, Ordering::SeqCst);
                }
            }
        }));
    }

    /// From now on it answers with this.
    fn answers(&self, status: u16) {
        self.seen.status.store(status, Ordering::SeqCst);
    }

    fn told(&self) -> Vec<Told> {
        self.seen.told.lock().unwrap().clone()
    }

    /// What it took.
    fn taken(&self) -> Vec<Told> {
        self.told().into_iter().filter(|told| told.status == 200).collect()
    }

    /// Waits until so much is so.
    async fn until(&self, what: &str, holds: impl Fn(&Hook) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "{what}: {:?}", self.told());
    }

    /// Waits until it has taken a notice of this key.
    async fn has(&self, key: &str) {
        self.until(key, |hook| hook.taken().iter().any(|told| told.key() == key)).await;
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
    }
}

/// Takes a request and answers it.
async fn take(mut stream: impl AsyncRead + AsyncWrite + Unpin, seen: &Seen) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let mut told = Told { head: String::from_utf8(head).unwrap(), body: Vec::new(), status: 0 };
    told.body.resize(told.header("content-length").parse().unwrap(), 0);
    stream.read_exact(&mut told.body).await?;
    told.status = seen.status.load(Ordering::SeqCst);
    let answer = format!("HTTP/1.1 {} So\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", told.status);
    // Before its sender knows: who was told and does not know it tells again.
    seen.told.lock().unwrap().push(told);
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// A CA's certificate in PEM, and a server on this machine that has one of it.
fn identity() -> (String, TlsAcceptor) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Who has the name of what it signs is taken for one that signed itself.
    params.distinguished_name.push(DnType::CommonName, "the tests' CA");
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&own, &issuer).unwrap();
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let secret = PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).unwrap();
    let config = TlsConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    (ca, TlsAcceptor::from(Arc::new(config.with_single_cert(chain, secret).unwrap())))
}

/// A server that knows webhooks.
struct Store {
    config: ServerConfig,
    server: ServerProcess,
    office: Key,
    dir: tempfile::TempDir,
}

impl Store {
    /// With webhooks by their names and URLs, and the certificates that the machine is to trust.
    async fn start(hooks: &[(&str, String)], trusted: Option<&str>) -> Store {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("webhooks.toml");
        let lines = hooks.iter().map(|(name, url)| {
            format!("[[webhook]]\nname = \"{name}\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\nprivate = true\n")
        });
        write(&file, &lines.collect::<String>());
        let arguments = ["--drives", "3", "--webhooks", file.to_str().unwrap()];
        let mut config = ServerConfig::new(dir.path().join("data"), 3).arguments(&arguments);
        if let Some(trusted) = trusted {
            let path = dir.path().join("trusted.pem");
            write(&path, trusted);
            config = config.env("SSL_CERT_FILE", path.to_str().unwrap());
        }
        let server = config.start().await;
        Store { config, server, office: Key::new(ACCESS_KEY, SECRET_KEY), dir }
    }

    async fn office(&self, request: Ask) -> Answer {
        let what = format!("{} {}", request.method, request.path);
        let answer = request.signed(self.config.s3(), &self.office).send(self.config.s3()).await.unwrap();
        assert!(answer.status < 300, "{what}: {} {}", answer.status, answer.text());
        answer
    }

    async fn put(&self, path: &str, body: &str) -> Answer {
        self.office(ask("PUT", path).body(body)).await
    }

    /// A bucket of which a webhook is told what is made and removed, of keys that begin and end so.
    async fn bucket(&self, name: &str, hook: &str, prefix: &str, suffix: &str) {
        self.office(ask("PUT", &format!("/{name}"))).await;
        self.rules(name, &rule(hook, prefix, suffix)).await;
    }

    async fn rules(&self, bucket: &str, rules: &str) {
        let body = format!("<NotificationConfiguration>{rules}</NotificationConfiguration>");
        self.office(ask("PUT", &format!("/{bucket}")).query("notification", "").body(body)).await;
    }

    /// `kill -9`, and whatever is done before the next start.
    async fn killed(self, meanwhile: impl Future<Output = ()>) -> Store {
        let Store { config, server, office, dir } = self;
        server.kill().await;
        meanwhile.await;
        let server = config.start().await;
        Store { config, server, office, dir }
    }

    async fn end(self) {
        let output = self.server.output();
        assert!(self.server.stop().await.success(), "the server ends cleanly:\n{output}");
        assert!(!output.contains("panicked") && !output.contains(SECRET), "{output}");
    }
}

fn rule(hook: &str, prefix: &str, suffix: &str) -> String {
    let filter =
        |name: &str, value: &str| format!("<FilterRule><Name>{name}</Name><Value>{value}</Value></FilterRule>");
    format!(
        "<QueueConfiguration><Id>of-{hook}</Id><Queue>arn:stele:webhook:::{hook}</Queue><Event>s3:ObjectCreated:*</Event>\
         <Event>s3:ObjectRemoved:*</Event><Filter><S3Key>{}{}</S3Key></Filter></QueueConfiguration>",
        filter("prefix", prefix),
        filter("suffix", suffix)
    )
}

fn write(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn md5(text: &str) -> String {
    hex::encode(<md5::Md5 as md5::Digest>::digest(text.as_bytes()))
}

/// Name of the event, key, size, entity tag and version.
type Line = (String, String, Option<u64>, String, String);

fn line(told: &Told) -> Line {
    let size = told.record().pointer("/s3/object/size").and_then(Value::as_u64);
    (told.text("/eventName"), told.key(), size, told.text("/s3/object/eTag"), told.text("/s3/object/versionId"))
}

/// Of each key the sequencers rise from notice to notice.
fn rises(told: &[Told]) {
    let mut last = BTreeMap::new();
    for told in told {
        let (at, sequencer) = ((told.text("/s3/bucket/name"), told.key()), told.text("/s3/object/sequencer"));
        assert_eq!((sequencer.len(), told.header("x-stele-notice")), (24, sequencer.as_str()));
        let before = last.insert(at.clone(), sequencer.clone());
        assert!(before.as_ref().is_none_or(|before| *before < sequencer), "{at:?}: {before:?}, then {sequencer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told_and_nothing_else() {
    let hook = Hook::start(None).await;
    let store = Store::start(&[("audit", format!("http://{}/stele?a=b", hook.address))], None).await;
    store.bucket("plain", "audit", "in/", ".txt").await;
    let odd = "/plain/in/a%20b%2B%C3%A9%22.txt";
    store.put(odd, "hello").await;
    for out in ["/plain/out/a.txt", "/plain/in/a.bin", "/plain/in", "/plain/in/a.txt.gz", "/plain/IN/a.txt"] {
        store.put(out, "what is left out").await;
    }
    let begun = store.office(ask("POST", "/plain/in/parts.txt").query("uploads", "")).await.text();
    let id = begun.split_once("<UploadId>").unwrap().1.split_once('<').unwrap().0.to_owned();
    let part = ask("PUT", "/plain/in/parts.txt").query("partNumber", "1").query("uploadId", &id).body("a part");
    let of_part = store.office(part).await.header("etag").unwrap().to_owned();
    let parts = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{of_part}</ETag></Part></CompleteMultipartUpload>"
    );
    store.office(ask("POST", "/plain/in/parts.txt").query("uploadId", &id).body(parts)).await;
    let of_parts = store.office(ask("HEAD", "/plain/in/parts.txt")).await.header("etag").unwrap().replace('"', "");
    assert!(of_parts.ends_with("-1"), "{of_parts}");
    let source = odd.trim_start_matches('/');
    store.office(ask("PUT", "/plain/in/copy.txt").header("x-amz-copy-source", source)).await;
    store.office(ask("PUT", "/plain/out/copy.txt").header("x-amz-copy-source", source)).await;
    store.office(ask("DELETE", "/plain/out/copy.txt")).await;
    store.office(ask("DELETE", "/plain/in/copy.txt")).await;
    let delete = "<Delete><Object><Key>in/parts.txt</Key></Object><Object><Key>in/a.bin</Key></Object></Delete>";
    store.office(ask("POST", "/plain").query("delete", "").body(delete)).await;
    // What is refused did not happen.
    let bad = ask("PUT", "/plain/in/bad.txt").header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==").body("x");
    let bad = bad.signed(store.config.s3(), &store.office).send(store.config.s3()).await.unwrap();
    assert_eq!(bad.status, 400, "{}", bad.text());

    store.bucket("kept", "audit", "", "").await;
    let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    store.office(ask("PUT", "/kept").query("versioning", "").body(on)).await;
    let version = |answer: &Answer| answer.header("x-amz-version-id").unwrap_or_default().to_owned();
    let (one, two) = (version(&store.put("/kept/k", "one").await), version(&store.put("/kept/k", "two!").await));
    let marker = version(&store.office(ask("DELETE", "/kept/k")).await);
    store.office(ask("DELETE", "/kept/k").query("versionId", &one)).await;
    store.office(ask("DELETE", "/kept/k").query("versionId", &marker)).await;
    assert!(!one.is_empty() && one != two && !marker.is_empty());
    store.rules("kept", "").await;
    store.put("/kept/told-nobody", "x").await;
    store.put("/plain/in/last.txt", "").await;
    hook.has("in/last.txt").await;

    let told = hook.told();
    let made = |event: &str, key: &str, text: &str, version: &str| {
        (format!("ObjectCreated:{event}"), key.to_owned(), Some(text.len() as u64), md5(text), version.to_owned())
    };
    let gone = |event: &str, key: &str, version: &str| {
        (format!("ObjectRemoved:{event}"), key.to_owned(), None, String::new(), version.to_owned())
    };
    let key = "in/a+b%2B%C3%A9%22.txt";
    let mut parts = made("CompleteMultipartUpload", "in/parts.txt", "a part", "");
    parts.3 = of_parts;
    let expected = vec![
        made("Put", key, "hello", ""),
        parts,
        made("Copy", "in/copy.txt", "hello", ""),
        gone("Delete", "in/copy.txt", ""),
        gone("Delete", "in/parts.txt", ""),
        made("Put", "k", "one", &one),
        made("Put", "k", "two!", &two),
        gone("DeleteMarkerCreated", "k", &marker),
        gone("Delete", "k", &one),
        gone("Delete", "k", &marker),
        made("Put", "in/last.txt", "", ""),
    ];
    assert_eq!(told.iter().map(line).collect::<Vec<_>>(), expected);
    rises(&told);
    for told in &told {
        assert!(told.head.starts_with("POST /stele?a=b HTTP/1.1\r\n"), "{}", told.head);
        assert_eq!(told.header("host"), hook.address.to_string());
        assert_eq!(told.header("content-type"), "application/json");
        let signature = format!("sha256={}", hex::encode(mac(SECRET.as_bytes(), &told.body)));
        assert_eq!(told.header("x-stele-signature"), signature);
        let said = (told.text("/s3/configurationId"), told.text("/eventSource"), told.text("/awsRegion"));
        assert_eq!(said, ("of-audit".to_owned(), "aws:s3".to_owned(), "us-east-1".to_owned()));
    }
    store.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_fails_or_is_away_is_told_later_and_in_order() {
    let (mut hook, other) = (Hook::start(None).await, Hook::start(None).await);
    let hooks = [("audit", format!("http://{}/", hook.address)), ("other", format!("http://{}/", other.address))];
    let store = Store::start(&hooks, None).await;
    store.bucket("plain", "audit", "", "").await;
    store.bucket("beside", "other", "", "").await;
    hook.answers(500);
    for n in 0..5 {
        store.put(&format!("/plain/k{n}"), "x").await;
    }
    hook.until("it was told, and did not take it", |hook| !hook.told().is_empty()).await;
    // Nobody else waits for that.
    store.put("/beside/k", "x").await;
    other.has("k").await;
    hook.away().await;
    assert!(hook.told().iter().all(|told| told.key() == "k0"), "what comes after it waits: {:?}", hook.told());
    for n in 5..10 {
        store.put(&format!("/plain/k{n}"), "x").await;
    }
    hook.answers(200);
    hook.back().await;
    hook.has("k9").await;
    let keys: Vec<String> = hook.taken().iter().map(Told::key).collect();
    assert_eq!(keys, (0..10).map(|n| format!("k{n}")).collect::<Vec<_>>());
    rises(&hook.taken());
    assert_eq!(other.told().len(), 1);
    store.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_the_server_is_killed_is_told_by_the_next_start() {
    let mut hook = Hook::start(None).await;
    let store = Store::start(&[("audit", format!("http://{}/", hook.address))], None).await;
    store.bucket("plain", "audit", "", "").await;
    store.put("/plain/before", "x").await;
    hook.has("before").await;
    hook.away().await;
    let waiting: Vec<String> = (0..7).map(|n| format!("k{n}")).collect();
    for key in &waiting {
        store.put(&format!("/plain/{key}"), "x").await;
    }
    store.office(ask("DELETE", "/plain/k3")).await;
    let store = store.killed(hook.back()).await;
    store.put("/plain/after", "x").await;
    hook.has("after").await;
    // Each at least once: what was taken just before the end may come again, in its place.
    let mut seen = BTreeSet::new();
    let mut told = hook.taken();
    told.retain(|told| seen.insert(told.text("/s3/object/sequencer")));
    let keys: Vec<String> = told.iter().map(|told| format!("{} {}", told.text("/eventName"), told.key())).collect();
    let mut expected: Vec<String> = waiting.iter().map(|key| format!("ObjectCreated:Put {key}")).collect();
    expected.insert(0, "ObjectCreated:Put before".to_owned());
    expected.extend(["ObjectRemoved:Delete k3".to_owned(), "ObjectCreated:Put after".to_owned()]);
    assert_eq!(keys, expected);
    rises(&told);
    store.end().await;
}

/// What the operating system trusts is what `SSL_CERT_FILE` names, if it is set.
#[tokio::test(flavor = "multi_thread")]
async fn https_to_whom_the_machine_trusts() {
    let ((ca, acceptor), (_, others)) = (identity(), identity());
    let (hook, impostor) = (Hook::start(Some(acceptor)).await, Hook::start(Some(others)).await);
    let hooks = [
        ("by-name", format!("https://localhost:{}/", hook.address.port())),
        ("by-address", format!("https://{}/", hook.address)),
        ("impostor", format!("https://{}/", impostor.address)),
    ];
    let store = Store::start(&hooks, Some(&ca)).await;
    for (name, _) in &hooks {
        store.bucket(&format!("of-{name}"), name, "", "").await;
        store.put(&format!("/of-{name}/{name}"), "hello").await;
    }
    hook.has("by-name").await;
    hook.has("by-address").await;
    impostor.until("it was met", |hook| hook.seen.broken.load(Ordering::SeqCst) > 0).await;
    assert!(impostor.told().is_empty(), "{:?}", impostor.told());
    assert_eq!(hook.told().len(), 2);
    assert!(hook.told().iter().all(|told| line(told).3 == md5("hello")));
    store.end().await;
}

/// Without an address that it may have, a webhook is not connected to.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_wants_a_word() {
    let hook = Hook::start(None).await;
    assert!(hook.address.ip() == Ipv4Addr::LOCALHOST);
    let store = Store::start(&[("audit", format!("http://{}/", hook.address))], None).await;
    store.bucket("plain", "audit", "", "").await;
    let file = store.dir.path().join("webhooks.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("private = true", "private = false");
    let store = store.killed(async { std::fs::write(&file, &text).unwrap() }).await;
    store.put("/plain/k", "x").await;
    let warned = async {
        while !store.server.output().contains("a webhook is not told what happened") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, warned).await.expect("the log says so");
    assert!(hook.told().is_empty() && hook.seen.broken.load(Ordering::SeqCst) == 0);
    // It waits for the operator.
    let store =
        store.killed(async { std::fs::write(&file, text.replace("private = false", "private = true")).unwrap() }).await;
    hook.has("k").await;
    store.end().await;
}
