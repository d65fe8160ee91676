//! Gateways as processes of their own: engines over loopback, with metadata and storage nodes behind mutual TLS and drives that
//! are fault disks. Two of them work on the same chunks, keys and uploads; one ends in the middle of a write.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use codec::effect::{BucketRow, Content, ObjectMeta, UploadRow};
use codec::encrypt::KeyEncryptionKey;
use codec::id::{BucketId, ClusterId, DriveId, StripeId};
use futures::{StreamExt, TryStreamExt, stream};
use gateway::engine::{
    Body, Claims, CompleteRequest, Config, CreateUploadRequest, Gateway, ListedPart, PartRequest, PutDone, PutRequest,
};
use gateway::error::PutError;
use metadata::client::MetadataClient;
use metadata::clock::{SystemClock, SystemEntropy};
use metadata::command::{Command, Condition, CreateBucket, Outcome};
use metadata::index::FAMILIES;
use metadata::keys::Keys;
use metadata::listing::ListRequest;
use metadata::remote::{RemoteMetadata, RemoteMetadataConfig};
use metadata::replica::Alone;
use metadata::rpc::Service;
use metadata::service::Metadata;
use metadata::start::{IndexHome, NodeParts, start};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use storage_node::disk::Disk;
use storage_node::disk::faulty::Trace;
use storage_node::drive::{format, probe};
use storage_node::kv::{Kv, KvError, MemoryKv};
use storage_node::node::{NodeConfig, StorageNode};
use storage_node::remote::{NodeAddress, Nodes};
use storage_node::rpc;
use storage_node::service::identity::{Identity, NodeName, Role};
use storage_node::service::issue::ClusterCa;
use storage_node::service::tls::Credentials;
use storage_node::service::{Server, ServiceConfig};
use tokio::net::TcpListener;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const NODES: usize = 3;
const DRIVES: usize = 2;

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

/// Storage nodes, metadata, and what it takes to make gateways.
struct Site {
    ca: ClusterCa,
    meta: Arc<Metadata>,
    at: NodeAddress,
    bucket: BucketRow,
    _servers: (Vec<Server>, rpc::Server),
}

fn name(of: &str) -> NodeName {
    NodeName::new(of).unwrap()
}

impl Site {
    async fn new() -> Site {
        let ca = ClusterCa::create(CLUSTER).unwrap();
        let (mut servers, mut nodes) = (Vec::new(), Vec::new());
        for n in 0..NODES {
            let server = storage_node(&ca, n).await;
            nodes.push(NodeAddress { name: name(&format!("n{n}")), address: server.address().to_string() });
            servers.push(server);
        }
        let meta = metadata(&ca, &nodes).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service: Arc<dyn rpc::Handler> = Arc::new(Service::new(Arc::new(Alone(meta.clone()))));
        let own = credentials(&ca, Role::Metadata, "m1");
        let server = rpc::Server::start(listener, &own, vec![service], rpc::RpcConfig::default()).unwrap();
        let at = NodeAddress { name: name("m1"), address: server.address().to_string() };
        let create = CreateBucket {
            name: "bucket".to_owned(),
            owner: "alice".to_owned(),
            location: String::new(),
            encrypt: false,
            zstd_level: 0,
            now_ms: 1,
            with: Default::default(),
        };
        let created = meta.commit(meta.epoch(), Command::CreateBucket(create)).await.unwrap();
        let Outcome::BucketCreated(bucket) = created else { panic!("no bucket") };
        Site { ca, meta, at, bucket, _servers: (servers, server) }
    }

    async fn gateway(&self, of: &str) -> Process {
        // The storage nodes come from metadata.
        let nodes = Nodes::connecting(credentials(&self.ca, Role::Gateway, of), &[]).unwrap();
        let credentials = Arc::new(credentials(&self.ca, Role::Gateway, of));
        let config = RemoteMetadataConfig::new(vec![self.at.clone()]);
        let meta = loop {
            // A gateway that was granted an epoch a moment ago is asked to wait for another one.
            match RemoteMetadata::connect(credentials.clone(), nodes.clone(), config.clone()).await {
                Ok(meta) => break Arc::new(meta),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let engine = Gateway::new(meta.clone(), Config { stripe_bytes: 1 << 20, ..Config::default() });
        Process { engine, meta, bucket: self.bucket.clone() }
    }

    /// The stripes of which the drives have shards.
    async fn on_drives(&self) -> BTreeSet<StripeId> {
        let node = self.meta.node();
        let drives: Vec<DriveId> = node.drives().await.into_iter().map(|drive| drive.id).collect();
        let mut found = BTreeSet::new();
        for drive in drives {
            let listed = node.list_shards(drive, None, None, 10_000).await.unwrap();
            found.extend(listed.iter().map(|header| header.id().stripe));
        }
        found
    }
}

fn credentials(ca: &ClusterCa, role: Role, of: &str) -> Credentials {
    let issued = ca.issue(&Identity { cluster: CLUSTER, role, name: name(of) }, YEAR).unwrap();
    Credentials::from_pem(&issued.ca, &issued.certificate, &issued.key).unwrap()
}

async fn storage_node(ca: &ClusterCa, n: usize) -> Server {
    let trace = Trace::new(DRIVES);
    for (drive, disk) in trace.disks().iter().enumerate() {
        format(&**disk, CLUSTER, DriveId([(n * DRIVES + drive + 1) as u8; 16]), None).unwrap();
    }
    let probed = trace.disks().into_iter().map(|disk| probe(disk as Arc<dyn Disk>, Some(CLUSTER))).collect();
    let config = NodeConfig {
        data_segment: 16 << 20,
        journal_segment: 4 << 20,
        preallocate_step: 1 << 20,
        ..NodeConfig::new(CLUSTER)
    };
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new(&storage_node::index::FAMILIES));
    let node = StorageNode::open(config, probed, kv).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = credentials(ca, Role::StorageNode, &format!("n{n}"));
    Server::start(listener, &own, node.clone(), node, ServiceConfig::default()).unwrap()
}

async fn metadata(ca: &ClusterCa, nodes: &[NodeAddress]) -> Arc<Metadata> {
    let parts = NodeParts {
        nodes: Nodes::connecting(credentials(ca, Role::Metadata, "m1"), nodes).unwrap(),
        cluster: CLUSTER,
        index: Arc::new(Home(Mutex::new(Arc::new(MemoryKv::new(&FAMILIES))))),
        keys: Box::new(|_| Ok(Keys::new(KeyEncryptionKey::new([7; 32])))),
        clock: Arc::new(SystemClock::default()),
        entropy: Arc::new(SystemEntropy),
    };
    let config = metadata::start::Config {
        geometry: Some("2+1".parse().unwrap()),
        shard_target: 1 << 20,
        seal_after: None,
        check_every: Some(Duration::from_millis(200)),
        tick_every: None,
        ..metadata::start::Config::default()
    };
    Arc::new(start(parts, config).await.unwrap())
}

/// A gateway. Dropped, it is gone, as if it were killed.
struct Process {
    engine: Arc<Gateway>,
    meta: Arc<RemoteMetadata>,
    bucket: BucketRow,
}

impl Process {
    fn put_request(&self, key: &str, len: usize, condition: Condition) -> PutRequest {
        PutRequest {
            attached: Default::default(),
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            meta: ObjectMeta::default(),
            length: Some(len as u64),
            encrypt: key.contains("sealed").into(),
            condition,
            claims: Claims::default(),
        }
    }

    async fn put(&self, key: &str, bytes: &Bytes, condition: Condition) -> Result<PutDone, PutError> {
        self.engine.put_object(self.put_request(key, bytes.len(), condition), body(bytes)).await
    }

    async fn content(&self, key: &str) -> Option<Content> {
        let version = self.meta.current_version(BucketId(self.bucket.id), key).await.unwrap();
        version.map(|version| version.content.unwrap())
    }

    async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let stream = self.engine.get(&self.content(key).await?, None).await.unwrap();
        let got: Vec<Bytes> = stream.bytes.try_collect().await.unwrap();
        Some(got.concat())
    }

    async fn keys(&self) -> Vec<String> {
        let request = ListRequest { bucket: BucketId(self.bucket.id), max: 1000, ..ListRequest::default() };
        self.meta.list(request).await.unwrap().objects.into_iter().map(|row| row.key).collect()
    }
}

fn body(bytes: &Bytes) -> Body {
    let pieces: Vec<_> = bytes.chunks(100_003).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(stream::iter(pieces))
}

fn noise(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("the test hangs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_gateway_stores_the_other_reads_and_does_not_store_again() {
    in_time(async {
        let site = Site::new().await;
        let (one, two) = (site.gateway("g1").await, site.gateway("g2").await);
        let mut objects = Vec::new();
        for (seed, len) in [0, 1, 4096, 65_000, 70_000, 1 << 20, 5 << 20].into_iter().enumerate() {
            objects.push((format!("noise {len}"), noise(seed as u64, len)));
            objects.push((format!("sealed {len}"), noise(seed as u64, len)));
        }
        for (key, bytes) in &objects {
            one.put(key, bytes, Condition::None).await.unwrap();
        }
        for (key, bytes) in &objects {
            assert!(two.get(key).await.unwrap() == *bytes, "{key}");
        }
        let before = site.on_drives().await;
        assert!(before.iter().all(|stripe| stripe.epoch == one.meta.epoch()));
        two.put("copy", &objects[12].1, Condition::None).await.unwrap();
        assert_eq!(site.on_drives().await, before, "all its chunks were known");
        assert!(one.get("copy").await.unwrap() == objects[12].1);
        // Moved from the journal to stripes by metadata, read by gateways.
        site.meta.seal_now().await.unwrap();
        for (key, bytes) in &objects {
            assert!(one.get(key).await.unwrap() == *bytes, "{key}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_at_the_same_chunk_key_and_upload_come_to_one_outcome() {
    in_time(async {
        let site = Site::new().await;
        let (one, two) = (site.gateway("g1").await, site.gateway("g2").await);
        let same = noise(5, 3 << 20);
        let (a, b) = tokio::join!(one.put("k", &same, Condition::None), two.put("k", &same, Condition::None));
        assert_eq!(a.unwrap().etag, b.unwrap().etag);
        assert!(one.get("k").await.unwrap() == same && two.get("k").await.unwrap() == same);
        for round in 0..4 {
            let (key, ours, theirs) = (format!("only {round}"), noise(10 + round, 70_000), noise(20 + round, 70_000));
            let first = Condition::IfNoneMatchAny;
            let (a, b) = tokio::join!(one.put(&key, &ours, first.clone()), two.put(&key, &theirs, first.clone()));
            let stored = match (&a, &b) {
                (Ok(_), Err(PutError::PreconditionFailed)) => ours,
                (Err(PutError::PreconditionFailed), Ok(_)) => theirs,
                other => panic!("{other:?}"),
            };
            assert!(one.get(&key).await.unwrap() == stored && two.get(&key).await.unwrap() == stored);
        }
        let create = CreateUploadRequest {
            attached: Default::default(),
            bucket: site.bucket.clone(),
            key: "parts".to_owned(),
            initiator: "alice".to_owned(),
            meta: ObjectMeta::default(),
            encrypt: gateway::protect::Protection::Plain,
            checksum: None,
            full_object: None,
        };
        let upload = one.engine.create_upload(create).await.unwrap();
        let upload = two.meta.upload(&upload).await.unwrap().unwrap();
        let bytes = [noise(31, 5 << 20), noise(32, 5 << 20), noise(33, 100_000)];
        let (first, second) = tokio::join!(part(&one, &upload, 1, &bytes[0]), part(&two, &upload, 2, &bytes[1]));
        // One part number by both: one of them stays.
        let (third, _) = tokio::join!(part(&one, &upload, 3, &bytes[2]), part(&two, &upload, 3, &bytes[2]));
        let complete = || CompleteRequest {
            upload: upload.clone(),
            parts: vec![first.clone(), second.clone(), third.clone()],
            condition: Condition::None,
            checksums: Vec::new(),
            size: None,
        };
        let (a, b) = tokio::join!(one.engine.complete_upload(complete()), two.engine.complete_upload(complete()));
        assert!(a.is_ok() || b.is_ok(), "{a:?} {b:?}");
        for result in [&a, &b] {
            assert!(matches!(result, Ok(_) | Err(PutError::NoSuchUpload)), "{result:?}");
        }
        let whole = bytes.concat();
        assert!(one.get("parts").await.unwrap() == whole && two.get("parts").await.unwrap() == whole);
        assert!(two.meta.upload(upload.name.as_ref().unwrap()).await.unwrap().is_none());
    })
    .await;
}

async fn part(gateway: &Process, upload: &UploadRow, number: u32, bytes: &Bytes) -> ListedPart {
    let length = Some(bytes.len() as u64);
    let request =
        PartRequest { upload: upload.clone(), number, length, zstd_level: 0, key: None, claims: Claims::default() };
    let done = gateway.engine.put_part(request, body(bytes)).await.unwrap();
    ListedPart { number, etag: done.etag, checksums: Vec::new() }
}

/// Its stripes are on the drives, and nobody sees anything of it; what it had acknowledged stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_ends_in_the_middle_of_a_write_leaves_nothing_visible() {
    in_time(async {
        let site = Site::new().await;
        let (one, two) = (site.gateway("g1").await, site.gateway("g2").await);
        let kept = noise(1, 200_000);
        one.put("kept", &kept, Condition::None).await.unwrap();
        let before = site.on_drives().await;
        let (epoch, half) = (one.meta.epoch(), noise(2, 6 << 20));
        let pieces: Vec<_> = half.chunks(1 << 20).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let stalling: Body = Box::pin(stream::iter(pieces).chain(stream::pending()));
        let request = one.put_request("half", half.len() + 1, Condition::None);
        let engine = one.engine.clone();
        let writing = tokio::spawn(async move { engine.put_object(request, stalling).await });
        let begun = Instant::now();
        while site.on_drives().await.len() <= before.len() {
            assert!(begun.elapsed() < PATIENCE && !writing.is_finished());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        writing.abort();
        drop(one);
        assert!(writing.await.is_err());
        assert_eq!(two.keys().await, ["kept"]);
        assert!(two.get("kept").await.unwrap() == kept);
        let left: Vec<StripeId> = site.on_drives().await.difference(&before).copied().collect();
        assert!(!left.is_empty() && left.iter().all(|stripe| stripe.epoch == epoch), "{left:?}");
        // The next one of its name has another epoch, and stores the same bytes under the same key.
        let again = site.gateway("g1").await;
        assert!(again.meta.epoch() > epoch);
        again.put("half", &half, Condition::None).await.unwrap();
        assert!(two.get("half").await.unwrap() == half);
        // Reclaim takes none of it while a request of the old epoch may be under way.
        let report = site.meta.reclaimer().unwrap().round().await.unwrap();
        assert_eq!(report.orphans, 0);
        assert!(two.get("half").await.unwrap() == half);
    })
    .await;
}
