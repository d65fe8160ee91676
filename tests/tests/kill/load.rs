//! Workers that use a server until it goes away, and write down what they did.

use crate::history::{Document, History};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tests::s3::{Random, refused};

/// The one bucket.
pub const BUCKET: &str = "kill";
/// Keys that only one worker writes, and overwrites.
const OWN_KEYS: u64 = 10;
/// Keys that all of them write.
const SHARED_KEYS: u64 = 6;
const PART: usize = 5 << 20;

/// An upload whose completion was not tried. Its acknowledged parts must stay.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Its key: no other operation has it.
    pub key: String,
    /// Its id.
    pub id: String,
    /// Acknowledged parts, in order: ETag and content.
    pub parts: Vec<(String, Document)>,
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    pub history: Mutex<History>,
    /// Uploads that a kill interrupted.
    pub uploads: Mutex<Vec<Upload>>,
    /// Says that the server is gone.
    pub stop: AtomicBool,
    /// Bytes that this round may still write: the tests must not fill a disk.
    pub budget: AtomicI64,
    documents: AtomicU64,
    /// What the objects of parts are made of.
    parts: Mutex<HashMap<u64, Vec<Document>>>,
}

/// A list or a read, in the middle of the load, that does not say what it has to.
pub type Wrong = String;

impl Shared {
    pub fn new() -> Arc<Shared> {
        Arc::new(Shared {
            history: Mutex::default(),
            uploads: Mutex::default(),
            stop: AtomicBool::new(false),
            budget: AtomicI64::new(0),
            documents: AtomicU64::new(1),
            parts: Mutex::default(),
        })
    }

    pub fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn uploads(&self) -> std::sync::MutexGuard<'_, Vec<Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes_of(&self, document: Document) -> Bytes {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).get(&document.id).cloned();
        match parts {
            Some(parts) => parts.iter().flat_map(|part| part.bytes()).collect(),
            None => document.bytes(),
        }
    }

    fn document(&self, len: usize) -> Document {
        self.budget.fetch_sub(i64::try_from(len).unwrap_or(i64::MAX), Ordering::Relaxed);
        Document { id: self.documents.fetch_add(1, Ordering::Relaxed), len }
    }
}

/// One of them.
pub struct Worker {
    pub number: usize,
    pub client: Client,
    pub random: Random,
    pub shared: Arc<Shared>,
}

/// The connection is gone, or the server said that it can't now.
struct Interrupted;

impl Worker {
    /// Works until told to stop, or until the server is gone.
    pub async fn run(mut self) -> Result<(), Wrong> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let done = match self.random.below(100) {
                0..=59 => self.put().await,
                60..=71 => self.delete().await,
                72..=75 => self.delete_many().await,
                76..=78 => self.multipart().await,
                79..=91 => self.read().await?,
                _ => self.list().await?,
            };
            if done.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One of its own keys.
    fn own(&mut self) -> String {
        format!("w{}/{}", self.number, self.random.below(OWN_KEYS))
    }

    fn length(&mut self) -> usize {
        if self.shared.budget.load(Ordering::Relaxed) < 0 {
            return self.random.length(16);
        }
        match self.random.below(40) {
            0 => (12 << 20) + self.random.length(23), // up to 20 MiB
            1..=9 => self.random.length(22),
            _ => self.random.length(17),
        }
    }

    async fn put(&mut self) -> Result<(), Interrupted> {
        let len = self.length();
        let document = self.shared.document(len);
        let key = match self.random.below(10) {
            0 => format!("kept/{:08}", document.id),
            1 | 2 => format!("shared/{}", self.random.below(SHARED_KEYS)),
            _ => self.own(),
        };
        let ticket = self.shared.history().begin(&key, Some(document));
        let put = self.client.put_object().bucket(BUCKET).key(&key).metadata("document", document.id.to_string());
        put.body(ByteStream::from(document.bytes())).send().await.map_err(|_| Interrupted)?;
        self.shared.history().acknowledge(&ticket);
        Ok(())
    }

    async fn delete(&mut self) -> Result<(), Interrupted> {
        let key =
            if self.random.below(5) == 0 { format!("shared/{}", self.random.below(SHARED_KEYS)) } else { self.own() };
        let ticket = self.shared.history().begin(&key, None);
        self.client.delete_object().bucket(BUCKET).key(&key).send().await.map_err(|_| Interrupted)?;
        self.shared.history().acknowledge(&ticket);
        Ok(())
    }

    async fn delete_many(&mut self) -> Result<(), Interrupted> {
        let keys: std::collections::BTreeSet<String> = (0..3).map(|_| self.own()).collect();
        let tickets: BTreeMap<String, _> =
            keys.iter().map(|key| (key.clone(), self.shared.history().begin(key, None))).collect();
        let objects =
            keys.iter().map(|key| ObjectIdentifier::builder().key(key).build().expect("a key is there")).collect();
        let delete = Delete::builder().set_objects(Some(objects)).build().expect("objects are there");
        let done = self.client.delete_objects().bucket(BUCKET).delete(delete).send().await.map_err(|_| Interrupted)?;
        for deleted in done.deleted() {
            if let Some(ticket) = deleted.key().and_then(|key| tickets.get(key)) {
                self.shared.history().acknowledge(ticket);
            }
        }
        Ok(())
    }

    async fn multipart(&mut self) -> Result<(), Interrupted> {
        if self.shared.budget.load(Ordering::Relaxed) < 0 {
            return Ok(());
        }
        let whole = self.shared.document(0);
        let key = format!("parts/{:08}", whole.id);
        let create = self.client.create_multipart_upload().bucket(BUCKET).key(&key);
        let created = create.metadata("document", whole.id.to_string()).send().await.map_err(|_| Interrupted)?;
        let id = created.upload_id().unwrap_or_default().to_owned();
        let mut upload = Upload { key, id, parts: Vec::new() };
        let last = 1 + self.random.length(20);
        for (number, len) in (1..).zip([PART, last]) {
            let part = self.shared.document(len);
            let put =
                self.client.upload_part().bucket(BUCKET).key(&upload.key).upload_id(&upload.id).part_number(number);
            match put.body(ByteStream::from(part.bytes())).send().await {
                Ok(done) => upload.parts.push((done.e_tag().unwrap_or_default().to_owned(), part)),
                Err(_) => {
                    self.shared.uploads().push(upload);
                    return Err(Interrupted);
                }
            }
        }
        if self.random.below(3) == 0 {
            // Left for a later start to complete.
            self.shared.uploads().push(upload);
            return Ok(());
        }
        complete(&self.client, &self.shared, &upload).await.map_err(|_| Interrupted)
    }

    /// Reads one of its own keys, which nobody else changes meanwhile.
    async fn read(&mut self) -> Result<Result<(), Interrupted>, Wrong> {
        let key = self.own();
        let possible = self.shared.history().possible(&key);
        match read(&self.client, &self.shared, &key).await {
            Read::Value(value) if possible.contains(&value) => Ok(Ok(())),
            Read::Value(value) => {
                Err(format!("{key}: read {value:?} while the server ran, expected one of {possible:?}"))
            }
            Read::Interrupted => Ok(Err(Interrupted)),
            Read::Wrong(wrong) => Err(wrong),
        }
    }

    /// Lists its own keys.
    async fn list(&mut self) -> Result<Result<(), Interrupted>, Wrong> {
        let prefix = format!("w{}/", self.number);
        let keys: Vec<String> = (0..OWN_KEYS).map(|n| format!("{prefix}{n}")).collect();
        match list(&self.client, &prefix).await {
            Some(listed) => compare(&self.shared.history(), &keys, &listed).map(Ok),
            None => Ok(Err(Interrupted)),
        }
    }
}

/// Completes an upload whose parts are all there.
pub async fn complete(client: &Client, shared: &Shared, upload: &Upload) -> Result<(), String> {
    let numbered = (1..).zip(&upload.parts);
    let parts = numbered.map(|(n, (etag, _))| CompletedPart::builder().part_number(n).e_tag(etag).build()).collect();
    let whole = joined(upload);
    let parts_of = upload.parts.iter().map(|(_, part)| *part).collect();
    shared.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(whole.id, parts_of);
    let ticket = shared.history().begin(&upload.key, Some(whole));
    let complete = client.complete_multipart_upload().bucket(BUCKET).key(&upload.key).upload_id(&upload.id);
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    complete.multipart_upload(parts).send().await.map_err(|error| format!("{:?}", refused(&error)))?;
    shared.history().acknowledge(&ticket);
    Ok(())
}

/// An object of parts is known by its key; its bytes are those of its parts.
fn joined(upload: &Upload) -> Document {
    let id = upload.key.rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or_default();
    Document { id, len: upload.parts.iter().map(|(_, part)| part.len).sum() }
}

/// What a GET brought.
pub enum Read {
    /// An object, byte for byte, or that there is none.
    Value(Option<Document>),
    /// No answer, or one that asks to come again.
    Interrupted,
    /// Bytes that are not those of the document that the object's metadata names, or an error that may not be.
    Wrong(String),
}

/// Reads a key whole.
pub async fn read(client: &Client, shared: &Shared, key: &str) -> Read {
    let got = match client.get_object().bucket(BUCKET).key(key).send().await {
        Ok(got) => got,
        Err(error) => {
            return match refused(&error) {
                None => Read::Interrupted,
                Some(refused) if refused.code == "NoSuchKey" => Read::Value(None),
                Some(refused) => Read::Wrong(format!("{key}: {refused:?}")),
            };
        }
    };
    let id = got.metadata().and_then(|m| m.get("document")).and_then(|id| id.parse().ok());
    let Some(id) = id else { return Read::Wrong(format!("{key}: no user metadata")) };
    let Ok(body) = got.body.collect().await else { return Read::Interrupted };
    let body = body.into_bytes();
    let document = Document { id, len: body.len() };
    if shared.bytes_of(document) != body {
        return Read::Wrong(format!("{key}: {} bytes that are not those of document {id}", body.len()));
    }
    Read::Value(Some(document))
}

/// Keys and sizes below a prefix; `None` without an answer.
pub async fn list(client: &Client, prefix: &str) -> Option<BTreeMap<String, usize>> {
    let mut listed = BTreeMap::new();
    let mut token = None;
    loop {
        let page = client.list_objects_v2().bucket(BUCKET).prefix(prefix).max_keys(100).set_continuation_token(token);
        let page = page.send().await.ok()?;
        for object in page.contents() {
            let size = usize::try_from(object.size().unwrap_or(-1)).unwrap_or(usize::MAX);
            listed.insert(object.key().unwrap_or_default().to_owned(), size);
        }
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return Some(listed);
        }
    }
}

/// A listing holds what reads would find: of `keys`, and nothing else.
pub fn compare(history: &History, keys: &[String], listed: &BTreeMap<String, usize>) -> Result<(), Wrong> {
    for key in keys {
        let possible = history.possible(key);
        let fits = |value: &Option<Document>| value.map(|document| document.len) == listed.get(key).copied();
        if !possible.iter().any(fits) {
            return Err(format!("{key} is listed as {:?}, expected one of {possible:?}", listed.get(key)));
        }
    }
    match listed.keys().find(|key| !keys.contains(key)) {
        Some(unknown) => Err(format!("{unknown} is listed, but nobody wrote it")),
        None => Ok(()),
    }
}
