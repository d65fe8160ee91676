//! The commands' end of the admin port: where it is, the token, and the answers.

use crate::admin_webhooks::WebhookInfo;
use crate::data_dir::{DataDirError, admin_address, read_private, token_path};
use crate::keep_answers::{LifecycleAnswer, ReclaimAnswer, RepairAnswer};
use crate::member_answers::MembersAnswer;
use crate::replication::answers::ReplicationAnswer;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use metadata::client::DriveLine;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// For a request that does not wait for work.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Why a command got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a directory nor an address.
    #[error("say which server: --data DIR or --admin URL")]
    NoServer,
    /// The server's data directory.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// No token for an address.
    #[error("STELE_ADMIN_TOKEN is not set: it is in the file admin-token of the server's data directory")]
    NoToken,
    /// A token that can't be sent.
    #[error("the admin token has characters in it that no token of Stele has")]
    Token,
    /// The secret key of another endpoint can't be read.
    #[error("{path}: {source}")]
    Secret {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no secret key.
    #[error("{0} is not set, and there is no --secret-file")]
    NoSecret(&'static str),
    /// There is no randomness.
    #[error("the system has no random numbers")]
    Random,
    /// Not an address.
    #[error("{0} is not an address like http://host:9001")]
    Address(String),
    /// Nobody answers.
    #[error("no server answers at {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// The server refused or failed.
    #[error("the server answered {status}: {message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its line.
        message: String,
    },
    /// Something else answers there.
    #[error("the answer of {0} is not understood: is it the admin port of a Stele server?")]
    Answer(String),
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// `serving` or `read-only`.
    pub mode: String,
    /// Why it is read-only; empty while serving.
    pub reason: String,
    /// `K+M`.
    pub geometry: String,
    /// The format level that is written.
    #[serde(default)]
    pub format_level: u32,
    /// The current epoch.
    pub epoch: u64,
    /// The last journal entry.
    pub applied: u64,
    /// The last sealed journal entry.
    pub sealed: u64,
    /// All registered drives.
    pub drives: Vec<DriveAnswer>,
    /// Room on all of them.
    #[serde(default)]
    pub capacity: CapacityAnswer,
    /// What may be lost at once with nothing lost that is written now, for people; empty when nothing can be written.
    #[serde(default)]
    pub survives: String,
    /// What is not survived, for people.
    pub warnings: Vec<String>,
    /// Repair and what it knows of the stripes; absent while only reads are served.
    #[serde(default)]
    pub repair: Option<RepairAnswer>,
    /// What is given back; absent while only reads are served.
    #[serde(default)]
    pub reclaim: Option<ReclaimAnswer>,
    /// What the rules of buckets come to; absent while only reads are served.
    #[serde(default)]
    pub lifecycle: Option<LifecycleAnswer>,
    /// Buckets that are copied elsewhere; absent while only reads are served, and where another process does it.
    #[serde(default)]
    pub replication: Option<ReplicationAnswer>,
    /// Webhooks that buckets may have told what happens in them; empty while only reads are served.
    #[serde(default)]
    pub webhooks: Vec<WebhookInfo>,
    /// The key-encryption keys.
    #[serde(default)]
    pub keys: KeysAnswer,
    /// Indexes that were put aside and are kept until somebody removes them.
    #[serde(default)]
    pub old_indexes: Vec<OldIndexAnswer>,
    /// The metadata nodes and who serves S3; absent where one process is all of metadata.
    #[serde(default)]
    pub metadata: Option<MembersAnswer>,
}

/// The key-encryption keys, in [`StatusAnswer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysAnswer {
    /// Key files that are there: one or two; 0 where nobody has said.
    pub there: u32,
    /// Everything was under two keys, and one of them is not there.
    pub one_is_missing: bool,
    /// Secrets that no key opens that is there.
    pub closed: u64,
}

impl KeysAnswer {
    pub(crate) fn new(keys: metadata::service::KeysStatus) -> KeysAnswer {
        KeysAnswer { there: keys.there, one_is_missing: keys.one_is_missing, closed: keys.closed }
    }
}

/// An index that was put aside, in [`StatusAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldIndexAnswer {
    /// Its directory.
    pub path: String,
    /// What its files take.
    pub bytes: u64,
    /// `accepted loss`, `rebuild-index` or `another cluster's`; empty when its name does not say.
    pub why: String,
}

/// Room on the drives that answer, each file system counted once. Parity and copies are part of what is stored, so of the free
/// bytes about k/(k+m) are room for what clients send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityAnswer {
    /// Bytes of their file systems.
    pub total: u64,
    /// Bytes that clients' data may still take, parity included.
    pub free: u64,
}

impl CapacityAnswer {
    /// Of these drives.
    pub fn of(drives: &[DriveLine]) -> CapacityAnswer {
        let mut file_systems: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let gone = |drive: &&DriveLine| matches!(drive.state, "removed" | "failed" | "absent");
        for drive in drives.iter().filter(|drive| drive.total > 0 && !gone(drive)) {
            let (total, free) = file_systems.entry(drive.filesystem_id).or_default();
            // One that is being emptied, or only read, takes nothing.
            let takes = if drive.state == "healthy" { drive.free } else { 0 };
            (*total, *free) = ((*total).max(drive.total), (*free).max(takes));
        }
        let sum = |of: fn(&(u64, u64)) -> u64| file_systems.values().map(of).sum();
        CapacityAnswer { total: sum(|(total, _)| *total), free: sum(|(_, free)| *free) }
    }
}

/// A drive in [`StatusAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveAnswer {
    /// Its identity, in hex.
    pub id: String,
    /// Where it is.
    pub path: String,
    /// `healthy`, `draining`, `read-only`, `failed`, `absent` or `removed`.
    pub state: String,
    /// Bytes in all.
    pub total: u64,
    /// Bytes free.
    pub free: u64,
    /// It carries the journal at present.
    pub journal: bool,
}

/// `POST /v1/journal/seal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealAnswer {
    /// What was done; absent when the server was not asked to wait.
    pub report: Option<SealedAnswer>,
}

/// What a seal has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedAnswer {
    /// The last sealed journal entry.
    pub upto: u64,
    /// Frames moved into data stripes.
    pub moved: u64,
    /// Stripes written.
    pub stripes: u64,
    /// Journal segments freed.
    pub freed: u64,
}

/// Talks to one server.
#[derive(Debug)]
pub struct AdminClient {
    base: String,
    token: Zeroizing<String>,
}

impl AdminClient {
    /// The server that runs on a data directory of this machine.
    pub fn for_data_dir(root: &Path) -> Result<AdminClient, ClientError> {
        let base = format!("http://{}", admin_address(root)?);
        let token = Zeroizing::new(read_private(&token_path(root))?);
        Ok(AdminClient { base, token: Zeroizing::new(token.trim().to_owned()) })
    }

    /// A server elsewhere.
    pub fn for_url(url: &str) -> Result<AdminClient, ClientError> {
        let base = url.trim_end_matches('/');
        if !base.starts_with("http://") {
            return Err(ClientError::Address(url.to_owned()));
        }
        let token = Zeroizing::new(std::env::var("STELE_ADMIN_TOKEN").map_err(|_| ClientError::NoToken)?);
        let token = Zeroizing::new(token.trim().to_owned());
        match token.is_empty() {
            true => Err(ClientError::NoToken),
            false => Ok(AdminClient { base: base.to_owned(), token }),
        }
    }

    /// The server's condition.
    pub async fn status(&self) -> Result<StatusAnswer, ClientError> {
        self.ask(Method::GET, "/v1/status").await
    }

    /// Asks for what is answered at once.
    pub async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        let answer = self.request(method, path);
        tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| self.unreachable("it takes too long"))?
    }

    /// The same, waiting as long as the answer takes.
    pub async fn ask_patiently<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        self.request(method, path).await
    }

    /// Seals the journal. With `wait` this takes as long as it takes.
    pub async fn seal(&self, wait: bool) -> Result<SealAnswer, ClientError> {
        if wait {
            return self.request(Method::POST, "/v1/journal/seal?wait=true").await;
        }
        self.ask(Method::POST, "/v1/journal/seal").await
    }

    fn unreachable(&self, reason: impl ToString) -> ClientError {
        ClientError::Unreachable { url: self.base.clone(), reason: reason.to_string() }
    }

    /// Sends a question as JSON, and waits as long as the answer takes.
    pub async fn send<T: DeserializeOwned>(&self, path: &str, question: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(question).map_err(|_| ClientError::Answer(self.base.clone()))?;
        self.exchange(Method::POST, path, Bytes::from(body)).await
    }

    async fn request<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        self.exchange(method, path, Bytes::new()).await
    }

    async fn exchange<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let address = format!("{}{path}", self.base);
        let authorization = Zeroizing::new(format!("Bearer {}", self.token.as_str()));
        let mut authorization = HeaderValue::from_str(&authorization).map_err(|_| ClientError::Token)?;
        authorization.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(&address)
            .header(hyper::header::AUTHORIZATION, authorization)
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|_| ClientError::Address(self.base.clone()))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.map_err(|error| {
            // The innermost says what happened ("Connection refused"), those around it only where.
            let mut cause: &dyn std::error::Error = &error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            self.unreachable(cause)
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.unreachable(error))?.to_bytes();
        if !status.is_success() {
            let message = String::from_utf8_lossy(&body).lines().next().unwrap_or_default().to_owned();
            return Err(ClientError::Refused { status, message });
        }
        serde_json::from_slice(&body).map_err(|_| ClientError::Answer(self.base.clone()))
    }
}
