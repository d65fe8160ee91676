//! The engine over the real metadata and storage node, on fault disks: what was acknowledged comes back after restarts,
//! seals and lost drives.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use codec::chunk::ChunkSizes;
use codec::effect::{BucketRow, Content, ObjectMeta};
use codec::encrypt::KeyEncryptionKey;
use codec::erasure::Geometry;
use codec::id::BucketId;
use futures::{TryStreamExt, stream};
use gateway::engine::{
    Claims, CompleteRequest, Config, CopyRequest, CreateUploadRequest, Gateway, ListedPart, PartRequest, PutRequest,
};
use gateway::error::PutError;
use metadata::client::MetadataClient;
use metadata::clock::{SystemClock, SystemEntropy};
use metadata::command::{Command, Condition, CreateBucket, Outcome};
use metadata::index::FAMILIES;
use metadata::keys::Keys;
use metadata::service::Metadata;
use metadata::start::{IndexHome, Parts, start};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage_node::disk::Disk;
use storage_node::disk::faulty::Trace;
use storage_node::kv::{Kv, KvError, MemoryKv};

struct Home(Mutex<Arc<MemoryKv>>);

impl IndexHome for Home {
    fn open(&self) -> Result<Arc<dyn Kv>, KvError> {
        Ok(self.0.lock().unwrap().clone())
    }
    fn destroy(&self) -> Result<(), KvError> {
        *self.0.lock().unwrap() = Arc::new(MemoryKv::new(&FAMILIES));
        Ok(())
    }
    fn set_aside(&self, _: metadata::start::PutAside) -> Result<String, KvError> {
        self.destroy()?;
        Ok("aside".to_owned())
    }
}

/// Drives, an index, and an engine that runs on them.
struct World {
    trace: Trace,
    home: Arc<Home>,
    metadata: Arc<Metadata>,
    gateway: Arc<Gateway>,
    config: Config,
    bucket: BucketRow,
}

impl World {
    async fn new(drives: usize, geometry: &str, config: Config) -> World {
        let (trace, home) = (Trace::new(drives), Arc::new(Home(Mutex::new(Arc::new(MemoryKv::new(&FAMILIES))))));
        let metadata = serve(&trace, &home, Some(geometry.parse().unwrap())).await;
        let create = CreateBucket {
            name: "bucket".to_owned(),
            owner: "alice".to_owned(),
            location: String::new(),
            encrypt: false,
            zstd_level: 0,
            now_ms: 1,
            with: Default::default(),
        };
        let Outcome::BucketCreated(bucket) =
            metadata.commit(metadata.epoch(), Command::CreateBucket(create)).await.unwrap()
        else {
            panic!("no bucket")
        };
        let gateway = Gateway::new(metadata.clone(), config.clone());
        World { trace, home, metadata, gateway, config, bucket }
    }

    async fn restart(&mut self) {
        self.metadata.shutdown().await;
        self.metadata = serve(&self.trace, &self.home, None).await;
        self.gateway = Gateway::new(self.metadata.clone(), self.config.clone());
    }

    async fn put(&self, key: &str, bytes: &Bytes, encrypt: bool) {
        let request = PutRequest {
            attached: Default::default(),
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            meta: ObjectMeta::default(),
            length: Some(bytes.len() as u64),
            encrypt: encrypt.into(),
            condition: Condition::None,
            claims: Claims::default(),
        };
        self.gateway.put_object(request, body(bytes)).await.unwrap();
    }

    async fn content(&self, key: &str) -> Content {
        let version = self.metadata.current_version(BucketId(self.bucket.id), key).await.unwrap();
        version.unwrap_or_else(|| panic!("{key} is not there")).content.unwrap()
    }

    async fn check(&self, key: &str, bytes: &Bytes) {
        let stream = self.gateway.get(&self.content(key).await, None).await.unwrap();
        let got: Vec<Bytes> = stream.bytes.try_collect().await.unwrap();
        assert!(got.concat() == *bytes, "{key} differs");
    }
}

async fn serve(trace: &Trace, home: &Arc<Home>, geometry: Option<Geometry>) -> Arc<Metadata> {
    let parts = Parts {
        disks: trace.disks().into_iter().map(|disk| disk as Arc<dyn Disk>).collect(),
        node_index: Arc::new(MemoryKv::new(&storage_node::index::FAMILIES)),
        index: home.clone(),
        keys: Box::new(|_| Ok(Keys::new(KeyEncryptionKey::new([7; 32])))),
        clock: Arc::new(SystemClock::default()),
        entropy: Arc::new(SystemEntropy),
    };
    let config = metadata::start::Config {
        geometry,
        data_segment: 16 << 20,
        journal_segment: 4 << 20,
        preallocate_step: 1 << 20,
        shard_target: 1 << 20,
        seal_after: None,
        check_every: Some(Duration::from_millis(100)),
        tick_every: None,
        ..metadata::start::Config::default()
    };
    Arc::new(start(parts, config).await.unwrap())
}

fn body(bytes: &Bytes) -> gateway::engine::Body {
    let pieces: Vec<_> = bytes.chunks(100_003).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(stream::iter(pieces))
}

fn noise(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

/// A set of objects of every kind: empty, inline, in stripes, encrypted, compressible.
async fn fill(world: &World) -> Vec<(String, Bytes)> {
    let mut objects = Vec::new();
    for (seed, len) in [0, 1, 4096, 65_000, 70_000, 1 << 20, (1 << 20) + 1, 9 << 20].into_iter().enumerate() {
        objects.push((format!("noise {len}"), noise(seed as u64, len), false));
        objects.push((format!("zeros {len}"), Bytes::from(vec![0; len]), false));
        objects.push((format!("sealed {len}"), noise(seed as u64, len), true));
    }
    for (key, bytes, encrypt) in &objects {
        world.put(key, bytes, *encrypt).await;
    }
    objects.into_iter().map(|(key, bytes, _)| (key, bytes)).collect()
}

async fn check_all(world: &World, objects: &[(String, Bytes)]) {
    for (key, bytes) in objects {
        world.check(key, bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_seal_restart_and_lost_drives() {
    let mut world = World::new(6, "3+2", Config::default()).await;
    let objects = fill(&world).await;
    check_all(&world, &objects).await;
    world.restart().await;
    check_all(&world, &objects).await;
    world.metadata.seal_now().await.unwrap();
    check_all(&world, &objects).await;
    world.trace.remove_drive(1);
    world.trace.remove_drive(4);
    check_all(&world, &objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_index_is_rebuilt_with_every_object() {
    let mut world = World::new(4, "2+1", Config::default()).await;
    let objects = fill(&world).await;
    world.metadata.seal_now().await.unwrap();
    world.put("after the seal", &noise(77, 300_000), false).await;
    world.home.destroy().unwrap();
    world.restart().await;
    check_all(&world, &objects).await;
    world.check("after the seal", &noise(77, 300_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_manifests_go_through_the_real_commit() {
    let sizes = ChunkSizes::new(64, 256, 1024).unwrap();
    let world = World::new(3, "1+1", Config { chunk_sizes: Some(sizes), ..Config::default() }).await;
    for (key, len) in [("one level", 200_000), ("two levels", 3 << 20)] {
        world.put(key, &noise(len as u64, len), false).await;
        world.check(key, &noise(len as u64, len)).await;
        world.put(key, &noise(len as u64, len), false).await;
    }
    world.metadata.seal_now().await.unwrap();
    world.check("two levels", &noise(3 << 20, 3 << 20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multipart_and_copy_go_through_the_real_commit() {
    let world = World::new(4, "2+1", Config::default()).await;
    let create = CreateUploadRequest {
        attached: Default::default(),
        bucket: world.bucket.clone(),
        key: "parts".to_owned(),
        initiator: "alice".to_owned(),
        meta: ObjectMeta::default(),
        encrypt: gateway::protect::Protection::Managed,
        checksum: None,
        full_object: None,
    };
    let name = world.gateway.create_upload(create).await.unwrap();
    let upload = world.metadata.upload(&name).await.unwrap().unwrap();
    let bytes = [noise(1, 5 << 20), noise(2, 5 << 20), noise(3, 10)];
    let mut parts = Vec::new();
    for (number, part) in (1..).zip(&bytes) {
        let length = Some(part.len() as u64);
        let request =
            PartRequest { upload: upload.clone(), number, length, zstd_level: 0, key: None, claims: Claims::default() };
        let done = world.gateway.put_part(request, body(part)).await.unwrap();
        parts.push(ListedPart { number, etag: done.etag, checksums: Vec::new() });
    }
    let complete = |parts: Vec<ListedPart>| CompleteRequest {
        upload: upload.clone(),
        parts,
        condition: Condition::None,
        checksums: Vec::new(),
        size: None,
    };
    let mut turned = parts.clone();
    turned.swap(1, 2);
    turned[1].number = 2;
    turned[2].number = 3;
    assert!(matches!(world.gateway.complete_upload(complete(turned)).await, Err(PutError::InvalidPart { .. })));
    let done = world.gateway.complete_upload(complete(parts)).await.unwrap();
    assert!(done.encrypted && done.etag.ends_with("-3"));
    let whole = Bytes::from(bytes.concat());
    world.check("parts", &whole).await;

    let source = world.metadata.current_version(BucketId(world.bucket.id), "parts").await.unwrap().unwrap();
    for (key, encrypt) in [("same domain", true), ("other domain", false)] {
        let request = CopyRequest {
            attached: Default::default(),
            source: source.clone(),
            bucket: world.bucket.clone(),
            key: key.to_owned(),
            meta: None,
            encrypt: encrypt.into(),
            source_key: None,
            condition: Condition::None,
            checksum: None,
        };
        world.gateway.copy_object(request).await.unwrap();
    }
    let delete = Command::DeleteObject {
        bucket: BucketId(world.bucket.id),
        key: "parts".to_owned(),
        condition: Condition::None,
    };
    world.metadata.commit(world.metadata.epoch(), delete).await.unwrap();
    world.check("same domain", &whole).await;
    world.check("other domain", &whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_with_little_memory() {
    let world = World::new(6, "4+2", Config { memory: 64 << 20, ..Config::default() }).await;
    let objects: Vec<_> = (0..24).map(|n| (format!("{n}"), noise(n, 1000 << (n % 13)))).collect();
    let puts = objects.iter().map(|(key, bytes)| world.put(key, bytes, key.ends_with('3')));
    tokio::time::timeout(Duration::from_secs(400), futures::future::join_all(puts)).await.expect("no deadlock");
    check_all(&world, &objects).await;
}
