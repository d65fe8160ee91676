//! The S3 namespace against a model: random operations, restarts, crashes, lost indexes and seals, on the real stack.
//!
//! [`ops`] generates, [`reference`] is the model, this file is the harness. After each operation its answer is compared; after
//! each restart, and at the end, everything is.
#![allow(clippy::unwrap_used, missing_docs)]

mod ops;
mod reference;

use bytes::Bytes;
use codec::effect::UploadName;
use futures::future::FutureExt;
use gateway::error::{GetError, PutError};
use metadata::client::{CommitError, MetadataClient, Mode};
use metadata::command::{Condition, Outcome};
use metadata::listing::{ListRequest, VersionsRequest};
use ops::{Op, When, ops};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use reference::{Reference, Refused};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage_node::disk::Disk;
use storage_node::disk::faulty::{CrashChoice, Trace};
use storage_node::disk::real::RealDisk;
use storage_node::kv::{RocksKv, RocksOptions};
use storage_node::sabotage::SabotageSet;
use tests::crash::seed;
use tests::world::{Indexes, Shape, World, disks, meta_families, node_families};

const BUCKET: &str = "model";

/// What the store stands on.
enum Ground {
    Memory { trace: Trace, indexes: Indexes },
    Real { root: tempfile::TempDir, drives: usize, life: usize },
}

impl Ground {
    fn memory(drives: usize) -> Ground {
        Ground::Memory { trace: Trace::new(drives), indexes: Indexes::lost() }
    }

    fn real(drives: usize) -> Ground {
        let root = tempfile::tempdir().unwrap();
        (0..drives).for_each(|i| std::fs::create_dir(root.path().join(i.to_string())).unwrap());
        Ground::Real { root, drives, life: 0 }
    }

    fn disks(&self) -> Vec<Arc<dyn Disk>> {
        match self {
            Ground::Memory { trace, .. } => disks(trace),
            Ground::Real { root, drives, .. } => {
                let path = |i: usize| root.path().join(i.to_string());
                (0..*drives)
                    .map(|i| Arc::new(RealDisk::new(path(i), SabotageSet::default())) as Arc<dyn Disk>)
                    .collect()
            }
        }
    }

    async fn indexes(&self) -> Indexes {
        match self {
            Ground::Memory { indexes, .. } => indexes.clone(),
            Ground::Real { root, life, .. } => {
                let options = RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, open_files: 32 };
                let path = |name: &str| -> PathBuf { root.path().join(format!("{name}-{life}")) };
                // What ended a moment ago may hold its lock a moment longer.
                let open = async |name, families| {
                    let began = Instant::now();
                    loop {
                        match RocksKv::open(&path(name), families, options) {
                            Ok(kv) => return Arc::new(kv),
                            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{name}: {error}"),
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                Indexes { node: open("node", node_families()).await, meta: open("meta", meta_families()).await }
            }
        }
    }

    /// After a stop: what a crash would have left, if there was one, and whether the indexes are lost.
    fn restart(&mut self, lost_index: bool, crash: Option<u64>) {
        match self {
            Ground::Memory { trace, indexes } => {
                let choice = crash.map_or(CrashChoice::Everything, CrashChoice::Random);
                let image = trace.image(trace.position(), &choice);
                *trace = image.trace().clone();
                if lost_index {
                    *indexes = Indexes::lost();
                }
            }
            // Another name is a lost index.
            Ground::Real { life, .. } => *life += usize::from(lost_index),
        }
    }
}

struct Harness {
    ground: Ground,
    shape: Shape,
    world: Option<World>,
    reference: Reference,
    /// Open uploads by the order in which they were opened; none is forgotten, so that ended ones are tried too.
    uploads: Vec<UploadName>,
}

impl Harness {
    async fn new(ground: Ground, geometry: &str) -> Harness {
        let shape = Shape::small(geometry);
        let world = World::start(ground.disks(), &ground.indexes().await, &shape).await.unwrap();
        world.create_bucket(BUCKET).await.unwrap();
        Harness { ground, shape, world: Some(world), reference: Reference::default(), uploads: Vec::new() }
    }

    fn world(&self) -> &World {
        self.world.as_ref().unwrap()
    }

    async fn play(&mut self, ops: &[Op]) {
        for op in ops {
            self.run(op).await;
        }
        self.check().await;
        self.restart(true, Some(7)).await;
    }

    async fn run(&mut self, op: &Op) {
        match op {
            Op::Put { key, body, encrypt, when } => self.put(key, &body.bytes(), *encrypt, *when).await,
            Op::Delete { key, when } => self.delete(key, *when).await,
            Op::DeleteMany { keys } => {
                let outcome = self.world().delete_many(BUCKET, keys).await.unwrap();
                assert!(matches!(&outcome, Outcome::DeletedMany(each) if each.len() == keys.len()), "{outcome:?}");
                keys.iter().for_each(|key| self.reference.delete(key));
            }
            Op::Copy { from, to, encrypt } => {
                let copied = self.world().copy(BUCKET, from, to, *encrypt).await;
                match self.reference.copy(from, to) {
                    true => drop(copied.unwrap()),
                    false => assert!(matches!(copied, Err(PutError::NoSuchKey)), "{copied:?}"),
                }
                self.reference.note_etag(to, &self.etag(to).await);
            }
            Op::Get { key, start, len } => self.get(key, *start, *len).await,
            Op::List { prefix, delimiter, max } => self.list(prefix, delimiter, *max).await,
            Op::CreateUpload { key } => {
                let name = self.world().create_upload(BUCKET, key).await.unwrap();
                self.reference.open(&name.upload_id, key);
                self.uploads.push(name);
            }
            Op::PutPart { upload, number, body } => self.put_part(*upload, *number, &body.bytes()).await,
            Op::Complete { upload } => self.complete(*upload).await,
            Op::Abort { upload } => {
                let Some(name) = self.nth(*upload) else { return };
                let aborted = self.world().abort(&name).await;
                assert_eq!(aborted.is_ok(), self.reference.abort(&name.upload_id), "{aborted:?}");
            }
            Op::Seal => drop(self.world().metadata.seal_now().await.unwrap()),
            Op::Restart { lost_index } => self.restart(*lost_index, None).await,
            Op::Crash { lost_index, seed } => self.restart(*lost_index, Some(*seed)).await,
        }
    }

    fn nth(&self, upload: usize) -> Option<UploadName> {
        self.uploads.get(upload % self.uploads.len().max(1)).cloned()
    }

    async fn etag(&self, key: &str) -> Option<String> {
        let version = self.world().version(BUCKET, key).await.unwrap();
        version.and_then(|version| version.content).map(|content| content.etag)
    }

    fn condition(&self, key: &str, when: When) -> Condition {
        match when {
            When::Always => Condition::None,
            When::Absent => Condition::IfNoneMatchAny,
            When::Present => Condition::IfMatchAny,
            When::Same => Condition::IfMatch(self.reference.etag(key).unwrap_or_else(|| "none".to_owned())),
            When::Other => Condition::IfMatch("0123".to_owned()),
        }
    }

    async fn put(&mut self, key: &str, bytes: &Bytes, encrypt: bool, when: When) {
        let condition = self.condition(key, when);
        let put = self.world().put_with(BUCKET, key, bytes, encrypt, condition).await;
        match (self.reference.allows(key, when), put) {
            (Ok(()), Ok(done)) => {
                assert_eq!(done.size, bytes.len() as u64);
                self.reference.put(key, bytes.clone(), done.etag);
            }
            (Err(Refused::NoSuchKey), Err(PutError::NoSuchKey)) => {}
            (Err(Refused::Precondition), Err(PutError::PreconditionFailed)) => {}
            (expected, got) => panic!("put {key} {when:?}: {got:?}, expected {expected:?}"),
        }
    }

    async fn delete(&mut self, key: &str, when: When) {
        let condition = self.condition(key, when);
        let deleted = self.world().delete_if(BUCKET, key, condition).await;
        match (self.reference.allows_delete(key, when), deleted) {
            (Ok(()), Ok(Outcome::Deleted(version))) => {
                assert_eq!(version.is_some(), self.reference.get(key).is_some());
                self.reference.delete(key);
            }
            (Err(_), Err(CommitError::Refused(_))) => {}
            (expected, got) => panic!("delete {key} {when:?}: {got:?}, expected {expected:?}"),
        }
    }

    async fn get(&self, key: &str, start: u64, len: u64) {
        let Some(bytes) = self.reference.get(key) else {
            return assert_eq!(self.world().get(BUCKET, key).await.unwrap(), None, "{key}");
        };
        let size = bytes.len() as u64;
        let range = start..start.saturating_add(len);
        let got = self.world().get_range(BUCKET, key, Some(range.clone())).await;
        if range == (0..size) || (!range.is_empty() && range.end <= size) {
            let expected = bytes.slice(range.start as usize..range.end as usize);
            assert_eq!(got.unwrap(), Some(expected), "{key} {range:?} of {size}");
        } else {
            assert!(matches!(got, Err(GetError::Range { .. })), "{key} {range:?} of {size}: {got:?}");
        }
    }

    async fn list(&self, prefix: &str, delimiter: &str, max: usize) {
        let bucket = self.world().bucket(BUCKET).await.unwrap().bucket_id();
        let (expected_keys, expected_prefixes) = self.reference.list(prefix, delimiter);
        let (mut keys, mut prefixes, mut after) = (Vec::new(), Vec::new(), String::new());
        loop {
            let (prefix, delimiter) = (prefix.to_owned(), delimiter.to_owned());
            let page = self.world().metadata.list(ListRequest { bucket, prefix, delimiter, after, max }).await.unwrap();
            assert!(page.objects.len() + page.prefixes.len() <= max);
            assert!(
                page.next.is_none() || page.objects.len() + page.prefixes.len() == max,
                "a short page in the middle"
            );
            keys.extend(page.objects.into_iter().map(|version| version.key));
            prefixes.extend(page.prefixes);
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(
            (keys, prefixes),
            (expected_keys, expected_prefixes),
            "prefix {prefix:?} delimiter {delimiter:?} {max}"
        );
        self.list_versions(bucket, prefix, max).await;
    }

    async fn list_versions(&self, bucket: codec::id::BucketId, prefix: &str, max: usize) {
        let mut request = VersionsRequest { bucket, prefix: prefix.to_owned(), max, ..VersionsRequest::default() };
        let mut keys = Vec::new();
        loop {
            let page = self.world().metadata.list_versions(request.clone()).await.unwrap();
            assert!(page.versions.iter().all(|(version, latest)| *latest && !version.delete_marker));
            keys.extend(page.versions.into_iter().map(|(version, _)| version.key));
            let Some((key, version)) = page.next else { break };
            (request.key_marker, request.version_marker) = (key, version);
        }
        assert_eq!(keys, self.reference.list(prefix, "").0);
    }

    async fn put_part(&mut self, upload: usize, number: u32, bytes: &Bytes) {
        let Some(name) = self.nth(upload) else { return };
        let put = self.world().put_part(&name, number, bytes).await;
        match self.reference.is_open(&name.upload_id) {
            true => self.reference.put_part(&name.upload_id, number, bytes.clone(), put.unwrap().etag),
            false => assert!(matches!(put, Err(PutError::NoSuchUpload)), "{put:?}"),
        }
    }

    async fn complete(&mut self, upload: usize) {
        let Some(name) = self.nth(upload) else { return };
        let parts = self.reference.parts(&name.upload_id);
        let completed = self.world().complete(&name, &parts).await;
        match (self.reference.complete(&name.upload_id), completed) {
            (Ok(key), Ok(done)) => self.reference.note_etag(&key, &Some(done.etag)),
            (Err(Refused::NoSuchUpload), Err(PutError::NoSuchUpload)) => {}
            (Err(Refused::NoParts), Err(PutError::InvalidPartOrder)) => {}
            (Err(Refused::PartTooSmall), Err(PutError::PartTooSmall { .. })) => {}
            (expected, got) => panic!("complete: {got:?}, expected {expected:?}"),
        }
    }

    async fn restart(&mut self, lost_index: bool, crash: Option<u64>) {
        self.world.take().unwrap().stop().await;
        self.ground.restart(lost_index, crash);
        let world = World::start(self.ground.disks(), &self.ground.indexes().await, &self.shape).await.unwrap();
        let status = world.metadata.status();
        assert_eq!(status.mode, Mode::Serving, "{}", status.reason);
        self.world = Some(world);
        self.check().await;
    }

    /// Compares everything.
    async fn check(&self) {
        self.list("", "", 1000).await;
        for (key, bytes, etag) in self.reference.objects() {
            assert_eq!(self.world().get(BUCKET, key).await.unwrap().as_ref(), Some(bytes), "{key}");
            assert_eq!(self.etag(key).await.as_ref(), Some(etag), "{key}");
        }
        let bucket = self.world().bucket(BUCKET).await.unwrap().bucket_id();
        let uploads = self.world().uploads(bucket).await.unwrap();
        let mut found: Vec<_> = Vec::new();
        for (upload, parts) in uploads {
            let id = upload.name.unwrap().upload_id;
            let mut stored = Vec::new();
            for part in parts {
                let content = part.content.unwrap();
                stored.push((part.number, content.etag.clone(), self.world().read(&content, None).await.unwrap()));
            }
            found.push((id, stored));
        }
        found.sort();
        assert_eq!(found, self.reference.uploads());
    }
}

fn play(ground: Ground, geometry: &str, ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut harness = Harness::new(ground, geometry).await;
        let played = AssertUnwindSafe(harness.play(ops)).catch_unwind().await;
        // After a failure as well: a process that ends while another thread closes RocksDB aborts, and hides what failed.
        if let Some(world) = harness.world.take() {
            world.stop().await;
        }
        played.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

fn model(seed: u64, cases: u32, length: usize, ground: impl Fn() -> Ground, geometry: &str) {
    // Found sequences are shrunk and printed; a regression test is written from what is printed.
    let rng_seed = RngSeed::Fixed(seed);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 400, rng_seed, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let played = runner.run(&proptest::collection::vec(ops(), 1..length), |ops| {
        play(ground(), geometry, &ops);
        Ok(())
    });
    if let Err(error) = played {
        panic!("{error}");
    }
}

#[test]
fn in_memory_with_one_parity_shard() {
    model(seed(), 64, 60, || Ground::memory(3), "1+1");
}

#[test]
fn in_memory_with_two_parity_shards() {
    model(seed(), 32, 60, || Ground::memory(5), "2+2");
}

#[test]
fn on_real_disks_with_rocksdb() {
    model(seed(), 5, 40, || Ground::real(3), "1+1");
}

#[test]
#[ignore = "make soak"]
fn soak_the_model() {
    let minutes: u64 = std::env::var("STELE_SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    // Others each time: the sequences of `make test` are always the same.
    let mut seed = seed() + 1000 * u64::from(std::process::id());
    while Instant::now() < end {
        seed += 1;
        println!("seed {seed}");
        model(seed, 50, 120, || Ground::memory(4), "2+1");
        model(seed, 3, 80, || Ground::real(4), "2+1");
    }
}
