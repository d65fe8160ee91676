//! A whole store in one process: fault disks (or any others), indexes in memory (or any others), node, metadata, gateway.
//!
//! Everything is small, so that some dozens of operations fill several segments, stripes and manifests. No background task
//! runs: what a workload does to the drives is what the test asked for.

use bytes::Bytes;
use codec::chunk::ChunkSizes;
use codec::effect::{BucketRow, ObjectMeta, PartRow, UploadName, UploadRow, VersionRow};
use codec::encrypt::KeyEncryptionKey;
use codec::erasure::Geometry;
use codec::id::{BucketId, ClusterId};
use futures::{StreamExt, TryStreamExt, stream};
use gateway::engine::{
    Body, Claims, CompleteRequest, CopyRequest, CreateUploadRequest, Gateway, ListedPart, PartRequest, PutDone,
    PutRequest,
};
use gateway::error::{BodyError, GetError, PutError};
use metadata::client::{CommitError, LookupError, MetadataClient};
use metadata::clock::{SystemClock, SystemEntropy};
use metadata::command::{Command, Condition, CreateBucket, Outcome, Refusal};
use metadata::keys::Keys;
use metadata::listing::{ListRequest, PartsRequest, UploadsRequest};
use metadata::service::Metadata;
use metadata::start::{self, Config, IndexHome, Parts, StartError};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage_node::disk::Disk;
use storage_node::disk::faulty::Trace;
use storage_node::kv::memory::MemorySnapshot;
use storage_node::kv::{Direction, Family, Kv, KvBatch, KvError, KvIterator, KvStats, MemoryKv};
use storage_node::sabotage::SabotageSet;

/// The account that owns every bucket of the tests.
pub const OWNER: &str = "owner";
/// Objects up to this many bytes (as frames) ride in the journal.
pub const INLINE: usize = 4 << 10;

/// How a store is made.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The geometry asked for at first start; `None` takes the default for the number of drives.
    pub geometry: Option<Geometry>,
    /// Size of a data segment, in bytes.
    pub data_segment: u64,
    /// Size of a journal segment, in bytes.
    pub journal_segment: u64,
    /// Target for a shard's payload, in bytes.
    pub shard_target: u32,
    /// Chunk sizes; `None` takes those of the product.
    pub chunk_sizes: Option<ChunkSizes>,
    /// Reserve per file system, in bytes.
    pub reserve: u64,
    /// The cluster that the drives must be of, as the configuration of a server has it after its first start.
    pub cluster: Option<ClusterId>,
    /// Safety steps taken away.
    pub sabotage: SabotageSet,
}

impl Shape {
    /// Small segments and shards, with this geometry.
    pub fn small(geometry: &str) -> Shape {
        Shape {
            geometry: geometry.parse().ok(),
            data_segment: 128 << 10,
            journal_segment: 128 << 10,
            shard_target: 32 << 10,
            chunk_sizes: ChunkSizes::new(1 << 10, 4 << 10, 16 << 10).ok(),
            reserve: 0,
            cluster: None,
            sabotage: SabotageSet::default(),
        }
    }

    /// The same with these steps taken away.
    pub fn sabotaged(mut self, sabotage: SabotageSet) -> Shape {
        self.sabotage = sabotage;
        self
    }

    fn metadata(&self) -> Config {
        Config {
            cluster: self.cluster,
            geometry: self.geometry,
            data_segment: self.data_segment,
            journal_segment: self.journal_segment,
            preallocate_step: 64 << 10,
            reserve: self.reserve,
            reads_per_drive: 4,
            shard_target: self.shard_target,
            max_batch: 32 << 10,
            seal_after: None,
            check_every: None,
            keep: metadata::keep::KeepConfig { every: None, drive_rate: 0, ..metadata::keep::KeepConfig::default() },
            tick_every: None,
            software: "tests".to_owned(),
            sabotage: self.sabotage.clone(),
            ..Config::default()
        }
    }

    fn gateway(&self) -> gateway::engine::Config {
        gateway::engine::Config {
            memory: 64 << 20,
            inline_limit: INLINE,
            stripe_bytes: 128 << 10,
            body_idle: Duration::from_secs(30),
            cpu_threads: 2,
            chunk_sizes: self.chunk_sizes,
            verify_every: 1,
            sabotage: self.sabotage.clone(),
            ..gateway::engine::Config::default()
        }
    }
}

/// An index in memory that remembers each state it was in, and when: any of them can be what is left after a crash.
#[derive(Debug)]
pub struct RecordedKv {
    inner: MemoryKv,
    trace: Option<Trace>,
    history: Mutex<Vec<(u64, MemorySnapshot)>>,
    paused: AtomicBool,
}

impl RecordedKv {
    /// An empty store. With a trace, states are remembered under its positions.
    pub fn new(families: &[Family], trace: Option<Trace>) -> Arc<RecordedKv> {
        Self::over(MemoryKv::new(families), trace)
    }

    /// A store that begins with an older one's state.
    pub fn from_snapshot(snapshot: &MemorySnapshot, trace: Option<Trace>) -> Arc<RecordedKv> {
        Self::over(MemoryKv::from_snapshot(snapshot), trace)
    }

    fn over(inner: MemoryKv, trace: Option<Trace>) -> Arc<RecordedKv> {
        let first = (trace.as_ref().map_or(0, Trace::position), inner.snapshot());
        Arc::new(RecordedKv { inner, trace, history: Mutex::new(vec![first]), paused: AtomicBool::new(false) })
    }

    /// Forgets the states so far, and remembers those that come, or none.
    pub fn record(&self, on: bool) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        self.paused.store(!on, Ordering::Relaxed);
        *history = vec![(self.trace.as_ref().map_or(0, Trace::position), self.inner.snapshot())];
    }

    /// The state now.
    pub fn snapshot(&self) -> MemorySnapshot {
        self.inner.snapshot()
    }

    /// The states so far, each with the position from which on a crash can leave it.
    pub fn history(&self) -> Vec<(u64, MemorySnapshot)> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Kv for RecordedKv {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.get(family, key)
    }

    fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        let Some(trace) = &self.trace else { return self.inner.write(batch) };
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.write(batch)?;
        if self.paused.load(Ordering::Relaxed) {
            history.clear();
            return Ok(());
        }
        // Everything that led to this write lies before this position.
        history.push((trace.position(), self.inner.snapshot()));
        Ok(())
    }

    fn scan(&self, family: Family, start: &[u8], direction: Direction) -> Result<Box<dyn KvIterator + '_>, KvError> {
        self.inner.scan(family, start, direction)
    }

    fn scan_together(&self, families: &[Family]) -> Result<Vec<Box<dyn KvIterator + '_>>, KvError> {
        self.inner.scan_together(families)
    }

    fn flush(&self) -> Result<(), KvError> {
        self.inner.flush()
    }

    fn stats(&self) -> KvStats {
        self.inner.stats()
    }
}

/// The families of metadata's index.
pub fn meta_families() -> &'static [Family] {
    &metadata::index::FAMILIES
}

/// The families of a node's index.
pub fn node_families() -> &'static [Family] {
    &storage_node::index::FAMILIES
}

/// Metadata's index in memory, which can be thrown away and put aside.
struct MemoryHome(Mutex<Arc<dyn Kv>>);

/// Deletes every row, so that whoever holds the store sees the new one grow in it.
fn clear(kv: &dyn Kv) -> Result<(), KvError> {
    for family in meta_families() {
        let mut batch = KvBatch::new();
        let mut rows = kv.scan(family, &[], Direction::Forward)?;
        while let Some((key, _)) = rows.next()? {
            batch.delete(family, key);
        }
        drop(rows);
        kv.write(batch)?;
    }
    Ok(())
}

impl IndexHome for MemoryHome {
    fn open(&self) -> Result<Arc<dyn Kv>, KvError> {
        Ok(Arc::clone(&*self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn destroy(&self) -> Result<(), KvError> {
        clear(&**self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_aside(&self, _: metadata::start::PutAside) -> Result<String, KvError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(MemoryKv::new(meta_families()));
        Ok("aside".to_owned())
    }
}

/// The two indexes of a store.
#[derive(Clone)]
pub struct Indexes {
    /// The node's.
    pub node: Arc<dyn Kv>,
    /// Metadata's.
    pub meta: Arc<dyn Kv>,
}

impl Indexes {
    /// Lost indexes.
    pub fn lost() -> Indexes {
        Indexes { node: Arc::new(MemoryKv::new(node_families())), meta: Arc::new(MemoryKv::new(meta_families())) }
    }
}

/// Disks as metadata takes them.
pub fn disks(trace: &Trace) -> Vec<Arc<dyn Disk>> {
    trace.disks().into_iter().map(|disk| disk as Arc<dyn Disk>).collect()
}

/// What a store is started from.
pub fn parts(disks: Vec<Arc<dyn Disk>>, indexes: &Indexes) -> Parts {
    Parts {
        disks,
        node_index: Arc::clone(&indexes.node),
        index: Arc::new(MemoryHome(Mutex::new(Arc::clone(&indexes.meta)))),
        keys: Box::new(|_| Ok(Keys::new(KeyEncryptionKey::new([7; 32])))),
        clock: Arc::new(SystemClock::default()),
        entropy: Arc::new(SystemEntropy),
    }
}

/// A running store.
pub struct World {
    /// Metadata.
    pub metadata: Arc<Metadata>,
    /// The engine.
    pub gateway: Arc<Gateway>,
}

impl World {
    /// Starts a store, first start or not.
    pub async fn start(disks: Vec<Arc<dyn Disk>>, indexes: &Indexes, shape: &Shape) -> Result<World, StartError> {
        Ok(World::over(start::start(parts(disks, indexes), shape.metadata()).await?, shape))
    }

    /// Accepts a loss and starts.
    pub async fn accept_loss(
        disks: Vec<Arc<dyn Disk>>,
        indexes: &Indexes,
        shape: &Shape,
    ) -> Result<(World, metadata::loss::LossReport), StartError> {
        let (metadata, report) = start::accept_loss(parts(disks, indexes), shape.metadata()).await?;
        Ok((World::over(metadata, shape), report))
    }

    /// Starts a store from parts of the caller's choice.
    pub async fn start_parts(parts: Parts, shape: &Shape) -> Result<World, StartError> {
        Ok(World::over(start::start(parts, shape.metadata()).await?, shape))
    }

    fn over(metadata: Metadata, shape: &Shape) -> World {
        let metadata = Arc::new(metadata);
        let client: Arc<dyn MetadataClient> = Arc::clone(&metadata) as Arc<dyn MetadataClient>;
        World { metadata, gateway: Gateway::new(client, shape.gateway()) }
    }

    /// Ends it in order.
    pub async fn stop(self) {
        self.metadata.shutdown().await;
    }

    /// Creates a bucket. One that exists already is an error.
    pub async fn create_bucket(&self, name: &str) -> Result<(), CommitError> {
        let command = Command::CreateBucket(CreateBucket {
            name: name.to_owned(),
            owner: OWNER.to_owned(),
            location: String::new(),
            encrypt: false,
            zstd_level: 0,
            now_ms: 1,
            with: Default::default(),
        });
        self.metadata.commit(self.metadata.epoch(), command).await.map(drop)
    }

    /// Deletes a bucket.
    pub async fn delete_bucket(&self, name: &str) -> Result<(), CommitError> {
        let bucket = self.bucket_id(name).await?;
        self.metadata.commit(self.metadata.epoch(), Command::DeleteBucket { bucket }).await.map(drop)
    }

    /// A bucket's row.
    pub async fn bucket(&self, name: &str) -> Result<BucketRow, PutError> {
        self.metadata.bucket(name).await?.ok_or(PutError::NoSuchBucket)
    }

    async fn bucket_id(&self, name: &str) -> Result<BucketId, CommitError> {
        let row = self.metadata.bucket(name).await;
        let row = row.map_err(|error| CommitError::Unavailable { reason: error.to_string() })?;
        row.map(|row| row.bucket_id()).ok_or(CommitError::Refused(Refusal::NoSuchBucket))
    }

    /// Stores an object.
    pub async fn put(&self, bucket: &str, key: &str, bytes: &Bytes) -> Result<PutDone, PutError> {
        self.put_with(bucket, key, bytes, false, Condition::None).await
    }

    /// Stores an object, encrypted or on a condition.
    pub async fn put_with(
        &self,
        bucket: &str,
        key: &str,
        bytes: &Bytes,
        encrypt: bool,
        condition: Condition,
    ) -> Result<PutDone, PutError> {
        let request = PutRequest {
            attached: Default::default(),
            bucket: self.bucket(bucket).await?,
            key: key.to_owned(),
            meta: ObjectMeta { content_type: format!("test/{}", bytes.len()), ..ObjectMeta::default() },
            length: Some(bytes.len() as u64),
            encrypt: encrypt.into(),
            condition,
            claims: Claims::default(),
        };
        self.gateway.put_object(request, body(bytes)).await
    }

    /// Copies an object.
    pub async fn copy(&self, bucket: &str, from: &str, to: &str, encrypt: bool) -> Result<PutDone, PutError> {
        let bucket = self.bucket(bucket).await?;
        let source = self.metadata.current_version(bucket.bucket_id(), from).await?.ok_or(PutError::NoSuchKey)?;
        let (key, condition) = (to.to_owned(), Condition::None);
        let encrypt = encrypt.into();
        let request = CopyRequest {
            source,
            bucket,
            key,
            meta: None,
            attached: Default::default(),
            encrypt,
            source_key: None,
            condition,
            checksum: None,
        };
        self.gateway.copy_object(request).await
    }

    /// The current version of a key.
    pub async fn version(&self, bucket: &str, key: &str) -> Result<Option<VersionRow>, LookupError> {
        match self.metadata.bucket(bucket).await? {
            Some(bucket) => self.metadata.current_version(bucket.bucket_id(), key).await,
            None => Ok(None),
        }
    }

    /// An object's bytes; `None` when there is no such key.
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Option<Bytes>, GetError> {
        self.get_range(bucket, key, None).await
    }

    /// A range of an object's bytes.
    pub async fn get_range(
        &self,
        bucket: &str,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, GetError> {
        let version = self.version(bucket, key).await?;
        let Some(content) = version.and_then(|version| version.content) else { return Ok(None) };
        self.read(&content, range).await.map(Some)
    }

    /// The bytes of an object or part.
    pub async fn read(&self, content: &codec::effect::Content, range: Option<Range<u64>>) -> Result<Bytes, GetError> {
        let stream = self.gateway.get(content, range).await?;
        let pieces: Vec<Bytes> = stream.bytes.try_collect().await?;
        Ok(match <[Bytes; 1]>::try_from(pieces) {
            Ok([whole]) => whole,
            Err(pieces) => pieces.concat().into(),
        })
    }

    /// Deletes a key.
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<Outcome, CommitError> {
        self.delete_if(bucket, key, Condition::None).await
    }

    /// Deletes a key on a condition.
    pub async fn delete_if(&self, bucket: &str, key: &str, condition: Condition) -> Result<Outcome, CommitError> {
        let bucket = self.bucket_id(bucket).await?;
        let command = Command::DeleteObject { bucket, key: key.to_owned(), condition };
        self.metadata.commit(self.metadata.epoch(), command).await
    }

    /// Deletes keys in one entry.
    pub async fn delete_many(&self, bucket: &str, keys: &[String]) -> Result<Outcome, CommitError> {
        let bucket = self.bucket_id(bucket).await?;
        let keys = keys.iter().map(|key| (key.clone(), Condition::None)).collect();
        self.metadata.commit(self.metadata.epoch(), Command::DeleteObjects { bucket, keys }).await
    }

    /// Opens an upload.
    pub async fn create_upload(&self, bucket: &str, key: &str) -> Result<UploadName, PutError> {
        let request = CreateUploadRequest {
            attached: Default::default(),
            bucket: self.bucket(bucket).await?,
            key: key.to_owned(),
            initiator: OWNER.to_owned(),
            meta: ObjectMeta::default(),
            encrypt: gateway::protect::Protection::Plain,
            checksum: None,
            full_object: None,
        };
        self.gateway.create_upload(request).await
    }

    async fn upload(&self, name: &UploadName) -> Result<UploadRow, PutError> {
        self.metadata.upload(name).await?.ok_or(PutError::NoSuchUpload)
    }

    /// Stores a part.
    pub async fn put_part(&self, name: &UploadName, number: u32, bytes: &Bytes) -> Result<PutDone, PutError> {
        let upload = self.upload(name).await?;
        let length = Some(bytes.len() as u64);
        let request = PartRequest { upload, number, length, zstd_level: 0, key: None, claims: Claims::default() };
        self.gateway.put_part(request, body(bytes)).await
    }

    /// Makes an object of these parts (number, etag).
    pub async fn complete(&self, name: &UploadName, parts: &[(u32, String)]) -> Result<PutDone, PutError> {
        let upload = self.upload(name).await?;
        let listed =
            |(number, etag): &(u32, String)| ListedPart { number: *number, etag: etag.clone(), checksums: Vec::new() };
        let parts = parts.iter().map(listed).collect();
        let request = CompleteRequest { upload, parts, condition: Condition::None, checksums: Vec::new(), size: None };
        self.gateway.complete_upload(request).await
    }

    /// Drops an upload.
    pub async fn abort(&self, name: &UploadName) -> Result<(), PutError> {
        self.gateway.abort_upload(name.clone()).await
    }

    /// All current versions of a bucket, page by page.
    pub async fn list(&self, bucket: BucketId) -> Result<Vec<VersionRow>, LookupError> {
        let mut all: Vec<VersionRow> = Vec::new();
        let mut after = String::new();
        loop {
            let request = ListRequest { bucket, after, max: 9, ..ListRequest::default() };
            let page = self.metadata.list(request).await?;
            all.extend(page.objects);
            match page.next {
                Some(next) => after = next,
                None => return Ok(all),
            }
        }
    }

    /// All open uploads of a bucket, each with its parts.
    pub async fn uploads(&self, bucket: BucketId) -> Result<Vec<(UploadRow, Vec<PartRow>)>, LookupError> {
        let request = UploadsRequest { bucket, max: 1000, ..UploadsRequest::default() };
        let mut all = Vec::new();
        for upload in self.metadata.list_uploads(request).await?.uploads {
            let name = upload.name.clone().unwrap_or_default();
            let page = self.metadata.list_parts(PartsRequest { upload: name, after: 0, max: 1000 }).await?;
            all.push((upload, page.map(|page| page.parts).unwrap_or_default()));
        }
        Ok(all)
    }
}

/// A store at rest: what its drives and its indexes held when it stopped, and what it must give back.
pub struct Rest {
    /// The drives.
    pub trace: Trace,
    /// How it was made.
    pub shape: Shape,
    /// The objects of its bucket, `b`: keys and bytes.
    pub objects: Vec<(String, Bytes)>,
    node_index: MemorySnapshot,
    meta_index: MemorySnapshot,
}

impl Rest {
    /// A store on `n` fault disks that `fill` put these objects into.
    pub async fn new(
        n: usize,
        geometry: &str,
        fill: impl AsyncFnOnce(&Trace, &World) -> Vec<(String, Bytes)>,
    ) -> Result<Rest, StartError> {
        let shape = Shape::small(geometry);
        let trace = Trace::new(n);
        let node = RecordedKv::new(node_families(), None);
        let meta = RecordedKv::new(meta_families(), None);
        let indexes = Indexes { node: Arc::clone(&node) as Arc<dyn Kv>, meta: Arc::clone(&meta) as Arc<dyn Kv> };
        let world = World::start(disks(&trace), &indexes, &shape).await?;
        let objects = fill(&trace, &world).await;
        world.stop().await;
        Ok(Rest { trace, shape, objects, node_index: node.snapshot(), meta_index: meta.snapshot() })
    }

    /// The indexes as they were.
    pub fn indexes(&self) -> Indexes {
        Indexes {
            node: RecordedKv::from_snapshot(&self.node_index, None),
            meta: RecordedKv::from_snapshot(&self.meta_index, None),
        }
    }
}

/// A body in two pieces.
pub fn body(bytes: &Bytes) -> Body {
    let half = bytes.len() / 2;
    let pieces = [bytes.slice(..half), bytes.slice(half..)];
    Box::pin(stream::iter(pieces).filter(|piece| futures::future::ready(!piece.is_empty())).map(Ok::<_, BodyError>))
}

/// Bytes that don't compress, by seed.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

/// Bytes that compress, by seed.
pub fn text(seed: u64, len: usize) -> Bytes {
    let mut out = Vec::with_capacity(len + 64);
    let mut line = 0u64;
    while out.len() < len {
        out.extend_from_slice(format!("line {line} of document {seed}, and so on and so forth\n").as_bytes());
        line += 1;
    }
    out.truncate(len);
    out.into()
}
