//! A server on a free port over drives in memory, and a client that signs what it is told to.

use aws_lc_rs::{digest, hmac};
use codec::effect::AccountRow;
use codec::encrypt::KeyEncryptionKey;
use gateway::engine::{Config, Gateway};
use gateway::inventory::Inventories;
use gateway::server::{Domains, Limits, serve, service};
use metadata::client::MetadataClient;
use metadata::clock::{SystemClock, SystemEntropy};
use metadata::command::Command;
use metadata::index::FAMILIES;
use metadata::keys::{Keys, Secret};
use metadata::service::Metadata;
use metadata::start::{IndexHome, Parts, start};
use std::net::SocketAddr;
use std::sync::Arc;
use storage_node::disk::Disk;
use storage_node::disk::faulty::Trace;
use storage_node::kv::{Kv, KvError, MemoryKv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// SHA-256 of nothing.
pub const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct Home(Arc<MemoryKv>);

impl IndexHome for Home {
    fn open(&self) -> Result<Arc<dyn Kv>, KvError> {
        Ok(self.0.clone())
    }
    fn destroy(&self) -> Result<(), KvError> {
        Ok(())
    }
    fn set_aside(&self, _: metadata::start::PutAside) -> Result<String, KvError> {
        Ok("aside".to_owned())
    }
}

pub struct Server {
    pub address: SocketAddr,
    /// The drives, to take some away.
    pub trace: Trace,
    pub metadata: Arc<Metadata>,
    pub inventories: Inventories,
    _stop: watch::Sender<bool>,
}

/// An answer, read to the end of its connection.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of the first error in the body.
    pub fn code(&self) -> String {
        let text = self.text();
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map(|(code, _)| code.to_owned()).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// One aws-chunked chunk, unsigned, and a trailer.
pub fn chunks(body: &[u8], trailer: &str) -> Vec<u8> {
    [format!("{:x}\r\n", body.len()).as_bytes(), body, format!("\r\n0\r\n{trailer}\r\n\r\n").as_bytes()].concat()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn signature(account: &str, stamp: &str, service: &str, canonical: &str) -> String {
    signature_for("us-east-1", account, stamp, service, canonical)
}

/// "Signature Version 4 signing process", AWS General Reference.
fn signature_for(region: &str, account: &str, stamp: &str, service: &str, canonical: &str) -> String {
    let day = &stamp[..8];
    let key = [day, region, service, "aws4_request"]
        .iter()
        .fold(format!("AWS4secret-of-{account}").into_bytes(), |key, part| mac(&key, part));
    let hash = sha256(canonical.as_bytes());
    hex::encode(mac(&key, &format!("AWS4-HMAC-SHA256\n{stamp}\n{day}/{region}/{service}/aws4_request\n{hash}")))
}

/// The signature over the policy of a form.
pub fn policy_signature(account: &str, stamp: &str, policy: &str) -> String {
    let key = [&stamp[..8], "us-east-1", "s3", "aws4_request"]
        .iter()
        .fold(format!("AWS4secret-of-{account}").into_bytes(), |key, part| mac(&key, part));
    hex::encode(mac(&key, policy))
}

/// Now, as `YYYYMMDDTHHMMSSZ`.
pub fn stamp() -> String {
    jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Pairs in the order of their names, each with its `=`.
fn canonical_query(query: &str) -> String {
    let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    pairs.sort_unstable_by_key(|pair| pair.split_once('='));
    pairs.join("&")
}

impl Server {
    /// With the accounts alice and bob, and a user of the first, carol, who has no policy.
    pub async fn start() -> Server {
        Server::start_with(Limits::default()).await
    }

    pub async fn start_with(limits: Limits) -> Server {
        Server::start_in(limits, Domains::default()).await
    }

    pub async fn start_in(limits: Limits, domains: Domains) -> Server {
        let trace = Trace::new(3);
        let kek = || Keys::new(KeyEncryptionKey::new([7; 32]));
        let parts = Parts {
            disks: trace.disks().into_iter().map(|disk| disk as Arc<dyn Disk>).collect(),
            node_index: Arc::new(MemoryKv::new(&storage_node::index::FAMILIES)),
            index: Arc::new(Home(Arc::new(MemoryKv::new(&FAMILIES)))),
            keys: Box::new(move |_| Ok(kek())),
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(SystemEntropy),
        };
        let config = metadata::start::Config {
            geometry: Some("1+2".parse().unwrap()),
            data_segment: 16 << 20,
            journal_segment: 4 << 20,
            preallocate_step: 1 << 20,
            shard_target: 1 << 20,
            seal_after: None,
            tick_every: None,
            ..metadata::start::Config::default()
        };
        let metadata = Arc::new(start(parts, config).await.unwrap());
        for name in ["alice", "bob"] {
            let secret = Secret::new(format!("secret-of-{name}"));
            let row = AccountRow {
                id: name.to_owned(),
                name: name.to_owned(),
                display_name: name.to_owned(),
                access_key: format!("AK{name}"),
                wrapped_secret: kek().wrap_account(name, &secret).unwrap(),
                ..AccountRow::default()
            };
            metadata.commit(metadata.epoch(), Command::PutAccount(row)).await.unwrap();
        }
        let user = [("UserName".to_owned(), "carol".to_owned())];
        metadata.iam_as_operator("alice", "CreateUser", &user, None).await.unwrap();
        let key = ("AKcarol".to_owned(), Secret::new("secret-of-carol".to_owned()));
        metadata.iam_as_operator("alice", "CreateAccessKey", &user, Some(key)).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let address = listener.local_addr().unwrap();
        let config = Config { access_log_every: std::time::Duration::from_millis(100), ..Config::default() };
        let gateway = Gateway::new(Arc::clone(&metadata) as Arc<dyn MetadataClient>, config);
        let inventories = Inventories::new(Arc::clone(&metadata), Arc::clone(&gateway));
        let service = service(&gateway, domains);
        tokio::spawn(serve(listener, service, limits, stopped));
        Server { address, trace, metadata, inventories, _stop: stop }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The head of a request signed for another region, without its end. For requests without a query and a body.
    pub fn signed_for(&self, region: &str, account: &str, method: &str, path: &str) -> String {
        let (stamp, host) = (stamp(), self.host());
        let names = "host;x-amz-content-sha256;x-amz-date";
        let lines = format!("host:{host}\nx-amz-content-sha256:{EMPTY}\nx-amz-date:{stamp}\n");
        let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{EMPTY}");
        let signature = signature_for(region, account, &stamp, "s3", &canonical);
        let scope = format!("{}/{region}/s3/aws4_request", &stamp[..8]);
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nx-amz-content-sha256: {EMPTY}\r\nx-amz-date: {stamp}\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=AK{account}/{scope}, SignedHeaders={names}, \
             Signature={signature}\r\n"
        )
    }

    /// The head of a signed request, without its end.
    pub fn signed(
        &self,
        account: &str,
        method: &str,
        path: &str,
        query: &str,
        payload: &str,
        headers: &[(&str, &str)],
    ) -> String {
        self.signed_with(account, method, path, query, payload, headers, "s3", true)
    }

    #[allow(clippy::too_many_arguments)]
    pub fn signed_with(
        &self,
        account: &str,
        method: &str,
        path: &str,
        query: &str,
        payload: &str,
        headers: &[(&str, &str)],
        service: &str,
        sign_host: bool,
    ) -> String {
        let (stamp, host) = (stamp(), self.host());
        let mut all = vec![("host", host.as_str()), ("x-amz-content-sha256", payload), ("x-amz-date", stamp.as_str())];
        all.extend_from_slice(headers);
        all.sort_unstable();
        let signed: Vec<_> = all.iter().filter(|(name, _)| sign_host || *name != "host").collect();
        let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("{method}\n{path}\n{}\n{lines}\n{names}\n{payload}", canonical_query(query));
        let scope = format!("{}/us-east-1/{service}/aws4_request", &stamp[..8]);
        let signature = signature(account, &stamp, service, &canonical);
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let lines: String = all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!(
            "{method} {target} HTTP/1.1\r\n{lines}authorization: AWS4-HMAC-SHA256 Credential=AK{account}/{scope}, \
             SignedHeaders={names}, Signature={signature}\r\n"
        )
    }

    /// Sends a head, ends it, sends the body, and reads the answer.
    pub async fn send(&self, head: &str, body: &[u8]) -> Answer {
        let head = format!("{head}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        self.exchange(&[head.as_bytes(), body].concat()).await
    }

    /// Sends bytes and reads the answer, to the end of the connection.
    pub async fn exchange(&self, request: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub async fn query(
        &self,
        account: &str,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.send(&self.signed(account, method, path, query, &sha256(body), headers), body).await
    }

    /// A form for IAM or STS.
    pub async fn form(&self, account: &str, service: &str, form: &str) -> Answer {
        let payload = sha256(form.as_bytes());
        let kind = [("content-type", "application/x-www-form-urlencoded")];
        let head = self.signed_with(account, "POST", "/", "", &payload, &kind, service, true);
        self.send(&head, form.as_bytes()).await
    }

    pub async fn request(
        &self,
        account: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.query(account, method, path, "", headers, body).await
    }

    /// With this value of x-amz-content-sha256.
    pub async fn payload(
        &self,
        account: &str,
        method: &str,
        path: &str,
        payload: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.send(&self.signed(account, method, path, "", payload, headers), body).await
    }

    /// With its signature, and `query`, in the URL.
    pub async fn presigned(&self, account: &str, method: &str, path: &str, query: &str, body: &[u8]) -> Answer {
        self.send(&self.presigned_with(account, method, path, query, &[]), body).await
    }

    /// The head of such a request, without its end. The headers are signed, too, and come after the host by their names.
    pub fn presigned_with(
        &self,
        account: &str,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
    ) -> String {
        let (stamp, host) = (stamp(), self.host());
        let all = [&[("host", host.as_str())], headers].concat();
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        let query = format!(
            "{query}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK{account}%2F{}%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date={stamp}&X-Amz-Expires=60&X-Amz-SignedHeaders={}",
            &stamp[..8],
            names.join("%3B")
        );
        let lines: String = all.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names = names.join(";");
        let canonical = format!("{method}\n{path}\n{}\n{lines}\n{names}\nUNSIGNED-PAYLOAD", canonical_query(&query));
        let signature = signature(account, &stamp, "s3", &canonical);
        let lines: String = all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{method} {path}?{query}&X-Amz-Signature={signature} HTTP/1.1\r\n{lines}")
    }
}
