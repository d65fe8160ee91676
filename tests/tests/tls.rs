//! S3 over TLS, with a CA of the tests' own: what holds over plain HTTP holds here, and what is said of addresses says https.
#![allow(clippy::unwrap_used, missing_docs)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tests::process::{ACCESS_KEY, SECRET_KEY, ServerConfig, ServerProcess};
use tests::s3::{Answer, document};
use tests::sigv4::{Ask, Key, Scope, ask, encoded, mac, signing_key, stamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A CA, and a certificate that it gave a server on this machine.
struct Identity {
    ca: CertificateDer<'static>,
    ca_pem: String,
    certificate: String,
    key: String,
}

fn identity() -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Who has the name of what it signs is taken for one that signed itself.
    params.distinguished_name.push(DnType::CommonName, "the tests' CA");
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&own, &issuer).unwrap();
    Identity { ca: ca.der().clone(), ca_pem: ca.pem(), certificate: certificate.pem(), key: own.serialize_pem() }
}

/// Puts a text in the place of a file, as those do who renew certificates.
fn replace(path: &Path, text: &str) {
    use std::io::Write as _;
    let aside = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::fs::rename(aside, path).unwrap();
}

/// A server whose S3 port speaks TLS.
struct Secure {
    config: ServerConfig,
    server: ServerProcess,
    office: Key,
    certificate: PathBuf,
    key: PathBuf,
    dir: tempfile::TempDir,
}

impl Secure {
    async fn start(identity: &Identity) -> Secure {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("s3.pem"), dir.path().join("s3.key"));
        replace(&certificate, &identity.certificate);
        replace(&key, &identity.key);
        let (shown, secret) = (certificate.to_str().unwrap(), key.to_str().unwrap());
        let arguments = ["--drives", "3", "--tls-cert", shown, "--tls-key", secret];
        let config = ServerConfig::new(dir.path().join("data"), 3).arguments(&arguments);
        let server = config.start().await;
        Secure { config, server, office: Key::new(ACCESS_KEY, SECRET_KEY), certificate, key, dir }
    }

    /// A connection of somebody who trusts this CA and nobody else.
    async fn connect(&self, ca: &CertificateDer<'static>) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
        let stream = TcpStream::connect(self.config.s3()).await?;
        connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    async fn send(&self, identity: &Identity, request: &Ask) -> Answer {
        let mut stream = self.connect(&identity.ca).await.unwrap();
        stream.write_all(&request.bytes(self.config.s3())).await.unwrap();
        answer(stream).await
    }

    async fn by(&self, identity: &Identity, request: Ask) -> Answer {
        self.send(identity, &request.signed(self.config.s3(), &self.office)).await
    }

    async fn office(&self, identity: &Identity, request: Ask) -> Answer {
        let what = format!("{} {}", request.method, request.path);
        let answer = self.by(identity, request).await;
        assert!(answer.status < 300, "{what}: {} {}", answer.status, answer.text());
        answer
    }

    async fn end(self) {
        let output = self.server.output();
        assert!(self.server.stop().await.success(), "the server ends cleanly:\n{output}");
        assert!(!output.contains("panicked"), "something panicked:\n{output}");
    }
}

/// All that comes until the connection ends, which it does cleanly.
async fn answer(mut stream: TlsStream<TcpStream>) -> Answer {
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an answer").unwrap();
    Answer::parse(&bytes).unwrap()
}

/// The text of an element.
fn element(text: &str, name: &str) -> String {
    let (_, rest) = text.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {text}"));
    rest.split_once('<').unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_keys_and_policies_know_that_it_is_tls() {
    let identity = identity();
    let store = Secure::start(&identity).await;
    store.office(&identity, ask("PUT", "/vault")).await;
    let body = document(1, 300_000);
    store.office(&identity, ask("PUT", "/vault/k").body(&body)).await;
    assert_eq!(store.office(&identity, ask("GET", "/vault/k")).await.body, body);

    // A key of a client's own.
    let (key, md5) = ([7; 32], BASE64.encode(<md5::Md5 as md5::Digest>::digest([7; 32])));
    let own = |request: Ask| {
        request
            .header("x-amz-server-side-encryption-customer-algorithm", "AES256")
            .header("x-amz-server-side-encryption-customer-key", &BASE64.encode(key))
            .header("x-amz-server-side-encryption-customer-key-md5", &md5)
    };
    store.office(&identity, own(ask("PUT", "/vault/own").body(&body))).await;
    assert_eq!(store.office(&identity, own(ask("GET", "/vault/own"))).await.body, body);
    assert_eq!(store.by(&identity, ask("GET", "/vault/own")).await.status, 400, "without its key");

    // aws:SecureTransport.
    let allow = "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"s3:GetObject\",\
        \"Resource\":\"arn:aws:s3:::vault/k\",\"Condition\":{\"Bool\":{\"aws:SecureTransport\":\"true\"}}}]}";
    store.office(&identity, ask("PUT", "/vault").query("policy", "").body(allow)).await;
    assert_eq!(store.send(&identity, &ask("GET", "/vault/k")).await.status, 200);
    store
        .office(&identity, ask("PUT", "/vault").query("policy", "").body(allow.replace("\"true\"", "\"false\"")))
        .await;
    assert_eq!(store.send(&identity, &ask("GET", "/vault/k")).await.status, 403);

    // URLs that were signed, and programs that speak HTTP/2.
    let presigned = ask("GET", "/vault/k").presigned(store.config.s3(), &store.office, 60, &Scope::default());
    assert_eq!(store.send(&identity, &presigned).await.body, body);
    let ca = store.dir.path().join("ca.pem");
    std::fs::write(&ca, &identity.ca_pem).unwrap();
    let query: Vec<String> = presigned.query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let url = format!("https://{}{}?{}", store.config.s3(), presigned.path, query.join("&"));
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--http2", "--noproxy", "*", "--cacert"]).arg(&ca).arg(url);
    curl.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, curl.output()).await.unwrap() {
        Ok(done) => {
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            assert_eq!(done.stdout, body, "over HTTP/2");
        }
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "there is no curl on this machine"),
    }
    store.end().await;
}

/// A completed upload was said to lie at http://, whatever its client had come over, and under a key that was not encoded.
#[tokio::test(flavor = "multi_thread")]
async fn locations_say_https() {
    let identity = identity();
    let store = Secure::start(&identity).await;
    let at = format!("https://{}", store.config.s3());
    store.office(&identity, ask("PUT", "/vault")).await;

    let path = "/vault/large%20and%20%C3%A9";
    let begun = store.office(&identity, ask("POST", path).query("uploads", "")).await.text();
    let id = element(&begun, "UploadId");
    let part = ask("PUT", path).query("partNumber", "1").query("uploadId", &id).body("a part");
    let etag = store.office(&identity, part).await.header("etag").unwrap().to_owned();
    let parts = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    let done = store.office(&identity, ask("POST", path).query("uploadId", &id).body(parts)).await.text();
    assert_eq!(element(&done, "Location"), format!("{at}{path}"));

    let (time, scope) = (stamp(0), Scope::default());
    let credential = format!("{ACCESS_KEY}/{}/us-east-1/s3/aws4_request", &time[..8]);
    let policy = BASE64.encode(format!(
        "{{\"expiration\":\"2099-01-01T00:00:00Z\",\"conditions\":[{{\"bucket\":\"vault\"}},{{\"key\":\"form\"}},\
         [\"starts-with\",\"$success_action_redirect\",\"\"],[\"starts-with\",\"$success_action_status\",\"\"],\
         {{\"x-amz-algorithm\":\"AWS4-HMAC-SHA256\"}},{{\"x-amz-credential\":\"{credential}\"}},{{\"x-amz-date\":\"{time}\"}}]}}"
    ));
    let signature = hex::encode(mac(&signing_key(SECRET_KEY, &time[..8], &scope), policy.as_bytes()));
    let post = async |status: &str, redirect: &str| {
        let fields = [
            ("key", "form"),
            ("success_action_status", status),
            ("success_action_redirect", redirect),
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", credential.as_str()),
            ("x-amz-date", time.as_str()),
            ("policy", policy.as_str()),
            ("x-amz-signature", signature.as_str()),
        ];
        let mut body = String::new();
        for (name, value) in fields {
            body.push_str(&format!("--e\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"));
        }
        body.push_str("--e\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nx\r\n--e--\r\n");
        let form = ask("POST", "/vault").header("content-type", "multipart/form-data; boundary=e").body(body);
        store.send(&identity, &form).await
    };
    let made = post("201", "").await;
    assert_eq!(
        (made.status, made.header("location")),
        (201, Some(format!("{at}/vault/form").as_str())),
        "{}",
        made.text()
    );
    assert_eq!(element(&made.text(), "Location"), format!("{at}/vault/form"));
    let sent_on = post("", &format!("{at}/done?a=b")).await;
    let there = sent_on.header("location").unwrap_or_default();
    assert!(
        sent_on.status == 303 && there.starts_with(&format!("{at}/done?a=b&bucket=vault&key=form&etag=")),
        "{there}"
    );
    store.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_cuts_no_upload() {
    let (first, second) = (identity(), identity());
    let mut store = Secure::start(&first).await;
    store.office(&first, ask("PUT", "/vault")).await;
    let body = document(2, 8 << 20);
    let (before, after) = body.split_at(3 << 20);
    let request = ask("PUT", "/vault/long").body(&body).signed(store.config.s3(), &store.office);
    let bytes = request.bytes(store.config.s3());
    let head = &bytes[..bytes.len() - body.len()];
    let mut upload = store.connect(&first.ca).await.unwrap();
    upload.write_all(head).await.unwrap();
    upload.write_all(before).await.unwrap();
    upload.flush().await.unwrap();

    // Half of the pair: who comes now is shown the old one.
    replace(&store.certificate, &second.certificate);
    store.server.signal("HUP");
    assert_eq!(store.by(&first, ask("HEAD", "/vault")).await.status, 200);
    assert!(store.connect(&second.ca).await.is_err());
    replace(&store.key, &second.key);
    store.server.signal("HUP");
    let shown = async {
        while store.connect(&second.ca).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.expect("the new certificate is shown");
    assert!(store.connect(&first.ca).await.is_err(), "the old one is shown no more");

    upload.write_all(after).await.unwrap();
    let put = answer(upload).await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(store.office(&second, ask("GET", "/vault/long")).await.body, body);
    store.end().await;
}

/// Who speaks HTTP where TLS is spoken is told by the end of the connection, and holds up nobody; nor does who says nothing at all.
#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_ended() {
    let identity = identity();
    let store = Secure::start(&identity).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(store.config.s3()).await.unwrap());
    }
    let request = ask("GET", "/").signed(store.config.s3(), &store.office).bytes(store.config.s3());
    for bytes in
        [request.as_slice(), b"PUT /vault HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\r\n", b"\0\0\0\0\0\0\0\0"]
    {
        let mut plain = TcpStream::connect(store.config.s3()).await.unwrap();
        plain.write_all(bytes).await.unwrap();
        let mut told = Vec::new();
        // A reset is an end, too.
        let _ended = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut told)).await.expect("the connection ends");
        assert!(!told.starts_with(b"HTTP/1.1 2") && told.len() < 1024, "{}", String::from_utf8_lossy(&told));
    }
    store.office(&identity, ask("PUT", "/vault")).await;
    drop(silent);
    store.end().await;
}
