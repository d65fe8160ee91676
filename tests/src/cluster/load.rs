//! Clients that use the cluster through any of its S3 ports, as an application does: what fails is tried again through another
//! port, and all that was asked and answered goes into the [`History`].

pub mod versions;

use crate::cluster::history::{Content, History, Ticket};
use crate::cluster::linear::Act;
use crate::s3::{Random, client_at, refused};
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// The bucket that keeps no versions.
pub const BUCKET: &str = "archive";
/// Keys that all clients write, read and delete.
const HOT: u64 = 16;
/// How long a request of the load may take, and one that only asks whether the cluster serves.
const TIME: Duration = Duration::from_secs(12);
pub(super) const PROBE_TIME: Duration = Duration::from_secs(10);
/// How often a part of an upload is tried.
const TRIES: usize = 5;

/// What all clients share.
#[derive(Debug)]
pub struct Shared {
    /// What was done and seen.
    pub history: History,
    /// Ends the load.
    pub stop: AtomicBool,
    /// Bytes that may still be written in large objects.
    pub budget: AtomicI64,
}

impl Shared {
    /// Nothing has happened.
    pub fn new(budget: i64) -> Arc<Shared> {
        Arc::new(Shared { history: History::default(), stop: AtomicBool::new(false), budget: AtomicI64::new(budget) })
    }

    fn content(&self, len: usize, in_parts: bool) -> Content {
        let content = self.history.content(len, in_parts);
        self.budget.fetch_sub(i64::try_from(content.len()).unwrap_or(i64::MAX), Ordering::Relaxed);
        content
    }
}

/// Size and ETag by key.
pub type Listed = BTreeMap<String, (usize, String)>;

/// One client.
#[derive(Debug)]
pub struct Worker {
    number: u64,
    clients: Vec<Client>,
    /// Which port it uses now.
    at: usize,
    random: Random,
    shared: Arc<Shared>,
    /// Objects that are put once.
    kept: u64,
}

/// The request brought no success.
pub struct Failed;

impl Worker {
    /// A client of the load.
    pub fn new(number: u64, endpoints: &[String], random: Random, shared: &Arc<Shared>) -> Worker {
        Worker::with(number, endpoints, random, shared, TIME)
    }

    /// One that asks whether the cluster serves, through one port.
    pub fn probe(number: u64, endpoint: &str, shared: &Arc<Shared>) -> Worker {
        Worker::with(1000 + number, &[endpoint.to_owned()], Random::new(number), shared, PROBE_TIME)
    }

    /// One that gives each request so long.
    pub(super) fn with(
        number: u64,
        endpoints: &[String],
        random: Random,
        shared: &Arc<Shared>,
        time: Duration,
    ) -> Worker {
        let clients: Vec<Client> = endpoints.iter().map(|endpoint| client_at(endpoint, time)).collect();
        let at = usize::try_from(number).unwrap_or(0) % clients.len().max(1);
        Worker { number, clients, at, random, shared: Arc::clone(shared), kept: 0 }
    }

    fn client(&self) -> Client {
        self.clients[self.at].clone()
    }

    /// Makes the bucket, unless it is there: an attempt that nobody answered may have made it.
    pub async fn make_bucket(&mut self) -> Result<(), Failed> {
        self.made(self.client().create_bucket().bucket(BUCKET).send().await)
    }

    fn made<T, E: ProvideErrorMetadata + Debug>(&self, sent: Result<T, SdkError<E>>) -> Result<(), Failed> {
        match sent {
            Err(error) if refused(&error).is_some_and(|refused| refused.code == "BucketAlreadyOwnedByYou") => Ok(()),
            sent => sent.map(drop).map_err(|error| self.failed("create bucket", &error)),
        }
    }

    /// Uses the cluster until told to stop.
    pub async fn run(mut self) -> Worker {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let key = format!("hot/{:02}", self.random.below(HOT));
            let done = match self.random.below(140) {
                100.. => self.use_versions().await,
                0..=27 => self.put(&key).await,
                28..=39 => self.put_kept().await,
                40..=48 => self.delete(&key).await,
                49..=55 => self.create(&key).await,
                56..=76 => self.read(&key).await,
                77..=87 => self.read_kept().await,
                88..=96 => self.list("hot/").await,
                _ => self.upload(&key).await,
            };
            let pause = match done {
                Ok(()) => self.random.below(120),
                Err(Failed) => {
                    self.at = (self.at + 1) % self.clients.len();
                    100 + self.random.below(400)
                }
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self
    }

    /// Puts an object that nobody changes again.
    pub async fn put_kept(&mut self) -> Result<(), Failed> {
        self.kept += 1;
        let key = format!("kept/{}/{:06}", self.number, self.kept);
        self.put(&key).await
    }

    /// Puts objects and reads them back until told to stop, and tries what fails again as clients do by themselves: five times, with
    /// pauses that double, each time through the next port. Returns how many requests failed all the same.
    pub async fn persist(mut self) -> u64 {
        let mut failed = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            failed += u64::from(self.persists(async |worker| worker.put_kept().await).await.is_err());
            failed += u64::from(self.persists(async |worker| worker.read_kept().await).await.is_err());
            tokio::time::sleep(Duration::from_millis(self.random.below(60))).await;
        }
        failed
    }

    async fn persists(&mut self, ask: impl AsyncFn(&mut Worker) -> Result<(), Failed>) -> Result<(), Failed> {
        let mut pause = Duration::from_millis(200);
        for attempt in 1.. {
            match ask(self).await {
                Err(Failed) if attempt < TRIES => {}
                end => return end,
            }
            self.at = (self.at + 1) % self.clients.len();
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Failed)
    }

    /// A length of an object: mostly that of a document, seldom more.
    fn length(&mut self) -> usize {
        let large = self.shared.budget.load(Ordering::Relaxed) > 0;
        let bits = match self.random.below(20) {
            0 if large => 22,
            1..=4 if large => 19,
            _ => 16,
        };
        self.random.length(bits)
    }

    async fn put(&mut self, key: &str) -> Result<(), Failed> {
        let len = self.length();
        let content = self.shared.content(len, false);
        let ticket = self.shared.history.begin(key, Act::Put(content.id));
        let put = self.client().put_object().bucket(BUCKET).key(key).metadata("content", content.id.to_string());
        let sent = put.body(ByteStream::from(content.bytes())).send().await;
        self.changed(&ticket, "put", sent)
    }

    /// A put that only the first may do.
    async fn create(&mut self, key: &str) -> Result<(), Failed> {
        let len = self.length();
        let content = self.shared.content(len, false);
        let ticket = self.shared.history.begin(key, Act::Create(content.id));
        let put = self.client().put_object().bucket(BUCKET).key(key).metadata("content", content.id.to_string());
        let sent = put.if_none_match("*").body(ByteStream::from(content.bytes())).send().await;
        if let Err(error) = &sent
            && refused(error).is_some_and(|refused| refused.status == 412)
        {
            self.shared.history.refused(&ticket, Act::Refused);
            return Ok(());
        }
        self.changed(&ticket, "create", sent)
    }

    async fn delete(&mut self, key: &str) -> Result<(), Failed> {
        let ticket = self.shared.history.begin(key, Act::Delete);
        let sent = self.client().delete_object().bucket(BUCKET).key(key).send().await;
        self.changed(&ticket, "delete", sent)
    }

    fn changed<T, E: ProvideErrorMetadata + Debug>(
        &self,
        ticket: &Ticket,
        what: &str,
        sent: Result<T, SdkError<E>>,
    ) -> Result<(), Failed> {
        match sent {
            Ok(_) => {
                self.shared.history.done(ticket);
                Ok(())
            }
            Err(error) => Err(self.failed(what, &error)),
        }
    }

    /// Notes a failure. An answer that no fault explains is wrong.
    fn failed<E: ProvideErrorMetadata + Debug>(&self, what: &str, error: &SdkError<E>) -> Failed {
        match refused(error) {
            None => self.shared.history.failed(format!("{what}: no answer")),
            Some(answer) => {
                self.shared.history.failed(format!("{what}: {} {}: {}", answer.status, answer.code, answer.message));
                // A body that stopped is one of ours, cut off.
                let is_ours = ["RequestTimeout", "IncompleteBody"].contains(&answer.code.as_str());
                // 409: another request changes the same thing at this moment.
                if answer.status < 500 && answer.status != 409 && !is_ours {
                    self.shared.history.wrong(format!("{what} through port {}: {answer:?}", self.at));
                }
            }
        }
        Failed
    }

    async fn upload(&mut self, key: &str) -> Result<(), Failed> {
        if self.shared.budget.load(Ordering::Relaxed) <= 0 {
            return self.put(key).await;
        }
        let len = super::history::PART + self.random.length(20);
        let content = self.shared.content(len, true);
        let create = self.client().create_multipart_upload().bucket(BUCKET).key(key);
        let created = create.metadata("content", content.id.to_string()).send().await;
        let created = created.map_err(|error| self.failed("begin upload", &error))?;
        let id = created.upload_id().unwrap_or_default();
        let mut parts = Vec::new();
        for (number, at) in (1..).zip(0..content.parts.len()) {
            let etag = self.part(key, id, number, &content, at).await?;
            parts.push(CompletedPart::builder().part_number(number).e_tag(etag).build());
        }
        let ticket = self.shared.history.begin(key, Act::Put(content.id));
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        // Often through two ports at once: it happens once, and the first success says by when.
        let others = if self.random.below(2) == 0 { 1 } else { self.clients.len() };
        let is_done = AtomicBool::new(false);
        let complete = async |client: &Client| {
            let complete = client.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id);
            match complete.multipart_upload(parts.clone()).send().await {
                Ok(_) if is_done.swap(true, Ordering::SeqCst) => Ok(()),
                // Whoever comes second may be told that there is no such upload any more.
                Err(error) if others > 1 && refused(&error).is_some_and(|refused| refused.code == "NoSuchUpload") => {
                    Ok(())
                }
                sent => self.changed(&ticket, "complete upload", sent),
            }
        };
        let ports = self.clients.iter().cycle().skip(self.at).take(others);
        let ended = futures::future::join_all(ports.map(complete)).await;
        ended.into_iter().collect()
    }

    /// A part may be sent again: it is the same.
    async fn part(&mut self, key: &str, id: &str, number: i32, content: &Content, at: usize) -> Result<String, Failed> {
        let mut failed = Failed;
        for _ in 0..TRIES {
            let part = self.client().upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(number);
            match part.body(ByteStream::from(content.part(at))).send().await {
                Ok(sent) => return Ok(sent.e_tag().unwrap_or_default().to_owned()),
                Err(error) => failed = self.failed("part", &error),
            }
            self.at = (self.at + 1) % self.clients.len();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Err(failed)
    }

    /// Reads an object that was put once by some client.
    async fn read_kept(&mut self) -> Result<(), Failed> {
        let prefix = format!("kept/{}/", self.number);
        let keys = self.shared.history.below(&prefix);
        let at = usize::try_from(self.random.below(keys.len() as u64)).unwrap_or(0);
        match keys.get(at) {
            Some(key) => self.read(key).await,
            None => Ok(()),
        }
    }

    /// Reads a key, whole or its first bytes.
    pub async fn read(&mut self, key: &str) -> Result<(), Failed> {
        let first = (self.random.below(4) == 0).then(|| self.random.length(18));
        self.read_first(key, first).await
    }

    /// Reads a key; `first`: only so many bytes. Keys of buckets that keep versions are read whole.
    pub async fn read_first(&mut self, key: &str, first: Option<usize>) -> Result<(), Failed> {
        if versions::Register::of(key).is_some() {
            return self.read_register(key).await;
        }
        let history = &self.shared.history;
        let begun = history.tick();
        let range = first.map(|count| format!("bytes=0-{}", count.max(1) - 1));
        let got = match self.client().get_object().bucket(BUCKET).key(key).set_range(range).send().await {
            Ok(got) => got,
            Err(error) => {
                if refused(&error).is_some_and(|refused| refused.code == "NoSuchKey") {
                    history.seen(key, begun, None);
                    return Ok(());
                }
                return Err(self.failed("get", &error));
            }
        };
        let id = got.metadata().and_then(|named| named.get("content")).and_then(|id| id.parse().ok());
        let Some(content) = id.and_then(|id| history.content_of(id)) else {
            history.wrong(format!("{key}: user metadata that nobody sent: {:?}", got.metadata()));
            return Ok(());
        };
        // The client's own limit ends with the head of the answer.
        let Ok(Ok(body)) = tokio::time::timeout(TIME, got.body.collect()).await else {
            history.failed("get: the body broke off".to_owned());
            return Err(Failed);
        };
        let (body, mut expected) = (body.into_bytes(), content.bytes());
        if let Some(count) = first {
            expected.truncate(count);
        }
        if body != expected {
            history.wrong(format!("{key}: {} bytes that are not the {} of {content:?}", body.len(), expected.len()));
        }
        history.seen(key, begun, Some(content.id));
        Ok(())
    }

    /// Lists what lies below a prefix, which is an observation of each key there.
    async fn list(&mut self, prefix: &str) -> Result<(), Failed> {
        let keys = self.shared.history.below(prefix);
        let begun = self.shared.history.tick();
        let listed = self.listed(prefix).await?;
        let history = &self.shared.history;
        for (key, (size, _)) in &listed {
            match history.of_len(*size) {
                Some(id) => history.seen(key, begun, Some(id)),
                None => history.wrong(format!("{key} is listed with {size} bytes, which nobody wrote")),
            }
        }
        for key in keys.iter().filter(|key| !listed.contains_key(*key)) {
            history.seen(key, begun, None);
        }
        Ok(())
    }

    /// Size and ETag of every key below a prefix.
    pub async fn listed(&self, prefix: &str) -> Result<Listed, Failed> {
        let mut listed = BTreeMap::new();
        let mut token = None;
        loop {
            let page = self.client().list_objects_v2().bucket(BUCKET).prefix(prefix).set_continuation_token(token);
            let page = page.send().await.map_err(|error| self.failed("list", &error))?;
            for object in page.contents() {
                let size = object.size().and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
                let etag = object.e_tag().unwrap_or_default().to_owned();
                listed.insert(object.key().unwrap_or_default().to_owned(), (size, etag));
            }
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                return Ok(listed);
            }
        }
    }

    /// Waits until an object can be put and read through this client's port. `None`: not within `within`.
    pub async fn served(&mut self, within: Duration) -> Option<Duration> {
        let begun = Instant::now();
        loop {
            if self.put_kept().await.is_ok() {
                let key = format!("kept/{}/{:06}", self.number, self.kept);
                if self.read_first(&key, None).await.is_ok() {
                    return Some(begun.elapsed());
                }
            }
            if begun.elapsed() > within {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
