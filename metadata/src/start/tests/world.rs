//! A service over fault disks and an index in memory, and a client that remembers what was acknowledged.

use crate::client::{CommitError, MetadataClient, Mode};
use crate::clock::{Clock, Entropy};
use crate::command::{Command, CommitObject, Condition, CreateBucket, NewChunk, NewFrame, Outcome};
use crate::index::{self, FAMILIES, Overlay};
use crate::keys::{KeyError, Keys};
use crate::service::Metadata;
use crate::start::{Config, IndexHome, KeySource, NodeParts, Parts, PutAside, StartError, accept_loss, start};
use bytes::Bytes;
use codec::effect::{Content, ObjectMeta};
use codec::encrypt::KeyEncryptionKey;
use codec::erasure::Geometry;
use codec::frame::{Expect, FIRST_VERSION, FrameSpec, chunk_id, decode, encode};
use codec::id::{BucketId, ClusterId};
use codec::manifest::{Entry, Manifest};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage_node::disk::Disk;
use storage_node::disk::faulty::{CrashImage, Trace};
use storage_node::host::NodeHost;
use storage_node::kv::{Direction, Family, Kv, KvBatch, KvError, KvIterator, KvStats, MemoryKv};
use storage_node::sabotage::SabotageSet;

/// The index, and what became of it.
#[derive(Debug)]
pub struct Home {
    pub kv: Mutex<Arc<MemoryKv>>,
    pub aside: Mutex<Vec<Arc<MemoryKv>>>,
    /// Writes to the index fail.
    pub failing: Arc<AtomicBool>,
    /// Whoever scans the stripes panics.
    pub panicking: Arc<AtomicBool>,
    /// What happens meanwhile.
    pub meanwhile: Meanwhile,
}

/// Called with the families before they are scanned, and with an empty list after several were opened together.
type Hook = Box<dyn FnMut(&[Family]) + Send>;

/// What a test lets happen while the index is read.
#[derive(Clone, Default)]
pub struct Meanwhile(Arc<Mutex<Option<Hook>>>);

impl Meanwhile {
    pub fn set(&self, hook: impl FnMut(&[Family]) + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(hook));
    }
    fn happens(&self, families: &[Family]) {
        // Taken out while it runs, so that it may read the index itself.
        let hook = self.0.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook(families);
            self.0.lock().unwrap().get_or_insert(hook);
        }
    }
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

/// An index whose writes fail for as long as a test says so.
#[derive(Debug)]
struct Failing(Arc<MemoryKv>, Arc<AtomicBool>, Arc<AtomicBool>, Meanwhile);

impl Kv for Failing {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.0.get(family, key)
    }
    fn multi_get(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, KvError> {
        self.0.multi_get(family, keys)
    }
    fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        if self.1.load(Ordering::Relaxed) {
            return Err(KvError::Full { path: "index".to_owned(), detail: "as the test wants it".to_owned() });
        }
        self.0.write(batch)
    }
    fn scan(&self, family: Family, start: &[u8], way: Direction) -> Result<Box<dyn KvIterator + '_>, KvError> {
        assert!(family != index::STRIPES || !self.2.load(Ordering::Relaxed), "as the test wants it");
        self.3.happens(&[family]);
        self.0.scan(family, start, way)
    }
    fn scan_together(&self, families: &[Family]) -> Result<Vec<Box<dyn KvIterator + '_>>, KvError> {
        self.3.happens(families);
        let scans = self.0.scan_together(families);
        self.3.happens(&[]);
        scans
    }
    fn flush(&self) -> Result<(), KvError> {
        self.0.flush()
    }
    fn clear(&self) -> Result<(), KvError> {
        self.0.clear()
    }
    fn stats(&self) -> KvStats {
        self.0.stats()
    }
}

impl Home {
    pub fn new(kv: MemoryKv) -> Arc<Home> {
        let (failing, panicking, meanwhile) = Default::default();
        Arc::new(Home { kv: Mutex::new(Arc::new(kv)), aside: Mutex::default(), failing, panicking, meanwhile })
    }
}

impl IndexHome for Home {
    fn open(&self) -> Result<Arc<dyn Kv>, KvError> {
        let (failing, panicking) = (self.failing.clone(), self.panicking.clone());
        Ok(Arc::new(Failing(self.kv.lock().unwrap().clone(), failing, panicking, self.meanwhile.clone())))
    }
    fn destroy(&self) -> Result<(), KvError> {
        *self.kv.lock().unwrap() = Arc::new(MemoryKv::new(&FAMILIES));
        Ok(())
    }
    fn set_aside(&self, _: PutAside) -> Result<String, KvError> {
        let mut kv = self.kv.lock().unwrap();
        let old = std::mem::replace(&mut *kv, Arc::new(MemoryKv::new(&FAMILIES)));
        self.aside.lock().unwrap().push(old);
        Ok("aside".to_owned())
    }
}

/// A clock that stands still until it is told to go on.
#[derive(Debug, Default)]
pub struct Still {
    /// Whoever looks at it panics.
    pub broken: AtomicBool,
    /// Milliseconds that have passed.
    pub passed: AtomicU64,
    /// Milliseconds that the machine's clock is ahead besides: it was off.
    pub off: AtomicU64,
}

impl Clock for Still {
    fn wall_ms(&self) -> u64 {
        assert!(!self.broken.load(Ordering::Relaxed), "as the test wants it");
        1_700_000_000_000 + self.passed.load(Ordering::Relaxed) + self.off.load(Ordering::Relaxed)
    }
    fn monotonic_ms(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) -> bool {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(out);
        true
    }
}

/// A node's index in which nothing is.
pub fn new_node_index() -> Arc<MemoryKv> {
    Arc::new(MemoryKv::new(&storage_node::index::FAMILIES))
}

/// What a test has: drives, an index, and how to serve.
pub struct World {
    pub trace: Trace,
    pub home: Arc<Home>,
    pub config: Config,
    /// The key-encryption key; `None` when it can't be had.
    pub kek: Option<[u8; 32]>,
    /// The file of the first key, beside which the others are, for a cluster with two.
    pub key_file: Option<std::path::PathBuf>,
    /// Which drives are given to the service.
    pub given: Vec<usize>,
    pub clock: Arc<Still>,
    /// What the node remembers from start to start; `None`: every start has to look for itself.
    pub node_index: Option<Arc<MemoryKv>>,
    entropy: Arc<Counting>,
}

impl World {
    pub fn new(drives: usize, geometry: &str) -> World {
        Self::over(Trace::new(drives), Home::new(MemoryKv::new(&FAMILIES)), geometry, SabotageSet::default())
    }

    pub fn over(trace: Trace, home: Arc<Home>, geometry: &str, sabotage: SabotageSet) -> World {
        let config = Config {
            geometry: Some(geometry.parse::<Geometry>().unwrap()),
            data_segment: 1 << 20,
            journal_segment: 256 << 10,
            preallocate_step: 64 << 10,
            shard_target: 64 << 10,
            max_batch: 64 << 10,
            seal_after: None,
            check_every: None,
            keep: crate::keep::KeepConfig { every: None, drive_rate: 0, ..crate::keep::KeepConfig::default() },
            tick_every: None,
            sabotage,
            ..Config::default()
        };
        let given = (0..trace.disks().len()).collect();
        let (clock, entropy) = (Arc::default(), Arc::default());
        World { trace, home, config, kek: Some([7; 32]), key_file: None, given, clock, node_index: None, entropy }
    }

    /// Takes other random numbers from here on.
    pub fn entropy_from(&mut self, n: u64) {
        self.entropy = Arc::new(Counting(AtomicU64::new(n)));
    }

    fn keys(&self) -> KeySource {
        if let Some(path) = self.key_file.clone() {
            return Box::new(move |first| Keys::open(&path, first).map(|(keys, _)| keys));
        }
        let kek = self.kek;
        let missing = || KeyError::Secret("the key, as the test wants it".to_owned());
        Box::new(move |_| Ok(Keys::new(KeyEncryptionKey::new(kek.ok_or_else(missing)?))))
    }

    fn parts(&self) -> Parts {
        Parts {
            disks: self.given.iter().map(|drive| self.trace.disk(*drive) as Arc<dyn Disk>).collect(),
            node_index: self.node_index.clone().unwrap_or_else(new_node_index),
            index: self.home.clone(),
            keys: self.keys(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
        }
    }

    /// The same index, key and clock for a service over these nodes.
    pub fn node_parts(&self, nodes: Arc<dyn NodeHost>, cluster: ClusterId) -> NodeParts {
        let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
        NodeParts { nodes, cluster, index: self.home.clone(), keys: self.keys(), clock, entropy }
    }

    pub async fn try_start(&self) -> Result<Metadata, StartError> {
        start(self.parts(), self.config.clone()).await
    }

    pub async fn start(&self) -> Metadata {
        self.try_start().await.unwrap()
    }

    /// Starts, and writes are served.
    pub async fn serving(&self) -> Metadata {
        let metadata = self.start().await;
        assert_eq!(metadata.status().mode, Mode::Serving, "{}", metadata.status().reason);
        metadata
    }

    /// Starts, and a client has stored these keys, `len` bytes each, in a bucket of its own.
    pub async fn filled(&self, keys: std::ops::Range<u64>, len: usize) -> (Metadata, Client) {
        let (metadata, mut client) = (self.serving().await, Client::default());
        client.create_bucket(&metadata).await;
        client.puts(&metadata, keys, len).await;
        (metadata, client)
    }

    /// Stops the service, takes its index away, and starts it again: writes are served.
    pub async fn rebuilt(&self, metadata: Metadata) -> Metadata {
        metadata.shutdown().await;
        self.lose_index();
        self.serving().await
    }

    pub async fn accept_loss(&self) -> Result<(Metadata, crate::loss::LossReport), StartError> {
        accept_loss(self.parts(), self.config.clone()).await
    }

    pub fn lose_index(&self) {
        self.home.destroy().unwrap();
    }

    /// The same cluster over the drives of a crash image.
    pub fn after(&self, image: &CrashImage, home: Arc<Home>) -> World {
        let mut config = self.config.clone();
        config.geometry = None;
        World {
            trace: image.trace().clone(),
            home,
            config,
            kek: self.kek,
            key_file: self.key_file.clone(),
            given: self.given.clone(),
            clock: Arc::default(),
            node_index: None,
            entropy: Arc::new(Counting(AtomicU64::new(self.entropy.0.load(Ordering::Relaxed)))),
        }
    }
}

pub fn digest(metadata: &Metadata) -> [u8; 32] {
    index::digest(&**metadata.kv()).unwrap()
}

/// Bytes that are different for each seed and do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A client of one account that remembers what was acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Client {
    pub bucket: Option<BucketId>,
    pub acked: BTreeMap<String, Vec<u8>>,
    /// What was asked and not acknowledged: there or not there.
    pub doubtful: BTreeMap<String, Vec<u8>>,
}

impl Client {
    pub async fn create_bucket(&mut self, metadata: &Metadata) {
        let create = CreateBucket {
            name: "bucket".to_owned(),
            owner: "alice".to_owned(),
            location: String::new(),
            encrypt: false,
            zstd_level: 0,
            now_ms: 1,
            with: Default::default(),
        };
        match metadata.commit(metadata.epoch(), Command::CreateBucket(create)).await.unwrap() {
            Outcome::BucketCreated(row) => self.bucket = Some(row.bucket_id()),
            other => panic!("{other:?}"),
        }
    }

    /// Stores an object whose one frame rides in the journal.
    pub async fn put(&mut self, metadata: &Metadata, key: &str, bytes: Vec<u8>) -> Result<(), CommitError> {
        self.doubtful.insert(key.to_owned(), bytes.clone());
        let domain = metadata.domain("alice", &crate::keys::Purpose::Plain).await?;
        let id = chunk_id(&domain.chunk_key, &bytes);
        let frame =
            encode(&FrameSpec { version: FIRST_VERSION, domain: domain.id, id, level: 1, data_key: None }, &bytes)
                .unwrap();
        let plain_len = bytes.len() as u32;
        let manifest = Manifest::new(vec![Entry { id, len: u64::from(plain_len), leaf: true }]).unwrap();
        let content = Content {
            size: u64::from(plain_len),
            etag: hex::encode(blake3::hash(&bytes).as_bytes()),
            domain: domain.id.0,
            manifest: manifest.encode(),
            ..Content::default()
        };
        let frame = NewFrame::Inline(frame.into());
        let chunk = NewChunk { id, domain: domain.id, plain_len, frame, is_manifest: false, children: Vec::new() };
        let commit = CommitObject {
            bucket: self.bucket.unwrap(),
            key: key.to_owned(),
            condition: Condition::None,
            meta: ObjectMeta::default(),
            content,
            chunks: vec![chunk],
            now_ms: 1,
            attached: Default::default(),
        };
        metadata.commit(metadata.epoch(), Command::CommitObject(commit)).await?;
        self.acked.insert(key.to_owned(), bytes);
        self.doubtful.remove(key);
        Ok(())
    }

    pub async fn puts(&mut self, metadata: &Metadata, keys: std::ops::Range<u64>, len: usize) {
        for n in keys {
            self.put(metadata, &format!("key-{n}"), noise(n, len)).await.unwrap();
        }
    }

    /// Reads an object as a gateway does.
    pub async fn get(&self, metadata: &Metadata, key: &str) -> Option<Vec<u8>> {
        let version = metadata.current_version(self.bucket.unwrap(), key).await.unwrap()?;
        let content = version.content.unwrap();
        let domain = metadata.domain_by_id(content.domain_id()).await.unwrap();
        let mut out = Vec::new();
        for entry in Manifest::parse(&content.manifest).unwrap().entries() {
            let located = metadata.locate(&[entry.id]).await.unwrap().pop().unwrap().unwrap();
            let frame = metadata.read_frame(&located).await.unwrap();
            let expect = Expect {
                id: entry.id,
                domain: domain.id,
                plain_len: located.plain_len,
                chunk_key: &domain.chunk_key,
                data_key: None,
            };
            out.extend(decode(&frame, &expect).unwrap());
        }
        Some(out)
    }

    /// Everything acknowledged is there; what is there besides was asked for.
    pub async fn check(&self, metadata: &Metadata) {
        for (key, bytes) in &self.acked {
            let got = self.get(metadata, key).await;
            let doubtful = self.doubtful.get(key);
            assert!(got.as_ref() == Some(bytes) || (got.is_some() && got.as_ref() == doubtful), "{key} was lost");
        }
        for (key, bytes) in self.doubtful.iter().filter(|(key, _)| !self.acked.contains_key(*key)) {
            if let (Some(_), Some(got)) = (self.bucket, self.get(metadata, key).await) {
                assert_eq!(&got, bytes, "{key}");
            }
        }
    }
}

/// How many frames still lie in the journal.
pub fn frames_in_journal(metadata: &Metadata) -> usize {
    let view = Overlay::new(&**metadata.kv());
    let rows = index::View::rows(&view, index::CHUNKS, &[], &[0xff; 40], usize::MAX).unwrap();
    let row =
        |(key, value): (Bytes, Bytes)| index::decode::<codec::effect::ChunkRow>(index::CHUNKS, &key, value).unwrap();
    rows.into_iter().map(row).filter(|row| row.place.unwrap().lsn().is_some()).count()
}

/// Longer than any test takes on a busy machine.
const HANGS: Duration = Duration::from_secs(300);

/// Runs a test's future on one thread.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = runtime.block_on(async { tokio::time::timeout(HANGS, test).await });
    done.expect("the test hangs")
}
