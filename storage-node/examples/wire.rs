//! What shards cost over the wire, against the same node in process: MB/s and CPU seconds per GB, for each end.
//!
//! `cargo run -p storage-node --example wire [DIR]`. The node is a second process of this program, reached over loopback with
//! mutual TLS; its drive is a directory, on a memory file system unless DIR says otherwise. CPU time is that of the whole
//! process, from /proc, so whatever else a process does in a phase counts as well.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use bytes::Bytes;
use codec::erasure::Geometry;
use codec::id::{ClusterId, DriveId, Epoch, StripeId};
use codec::shard::ShardHeader;
use codec::stripe::{StripeClass, StripeDescriptor};
use futures::stream::{self, StreamExt};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage_node::client::{NodeClient, Reserve};
use storage_node::disk::Disk;
use storage_node::disk::real::RealDisk;
use storage_node::drive::{format, probe};
use storage_node::index::FAMILIES;
use storage_node::kv::MemoryKv;
use storage_node::node::{NodeConfig, StorageNode};
use storage_node::remote::{RemoteConfig, RemoteNode};
use storage_node::sabotage::SabotageSet;
use storage_node::service::identity::{Identity, NodeName, Role};
use storage_node::service::issue::ClusterCa;
use storage_node::service::tls::Credentials;
use storage_node::service::{Server, ServiceConfig};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const DRIVE: DriveId = DriveId([1; 16]);
const EPOCH: Epoch = Epoch(1 << 32);
const SHARD: usize = 8 << 20;
const SHARDS: u64 = 96;
const AT_ONCE: usize = 4;
const ROUNDS: u64 = 4;
/// Clock ticks per second in /proc: the same on every Linux.
const TICKS: f64 = 100.0;

async fn node(dir: &Path) -> Arc<StorageNode> {
    std::fs::create_dir_all(dir).unwrap();
    let disk = RealDisk::new(dir, SabotageSet::default());
    format(&disk, CLUSTER, DRIVE, None).unwrap();
    let disk = Arc::new(RealDisk::new(dir, SabotageSet::default())) as Arc<dyn Disk>;
    let index = Arc::new(MemoryKv::new(&FAMILIES));
    let node = StorageNode::open(NodeConfig::new(CLUSTER), vec![probe(disk, Some(CLUSTER))], index).await.unwrap();
    node.begin(EPOCH).await.unwrap();
    node
}

/// CPU seconds of a process so far.
fn cpu(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS
}

fn shard(counter: u64, payload: &Bytes, hash: [u8; 32]) -> ShardHeader {
    let descriptor = StripeDescriptor {
        id: StripeId { epoch: EPOCH, counter },
        class: StripeClass::Data,
        geometry: Geometry::new(1, 0).unwrap(),
        present: 1,
        lengths: vec![payload.len() as u32],
        hashes: vec![hash],
        lsn_range: None,
        cluster: CLUSTER,
    };
    ShardHeader { descriptor, index: 0 }
}

struct Phase {
    began: Instant,
    client: f64,
    node: f64,
}

impl Phase {
    fn begin(other: Option<&str>) -> Phase {
        Phase { began: Instant::now(), client: cpu("self"), node: other.map_or(0.0, cpu) }
    }

    fn end(self, what: &str, bytes: u64, other: Option<&str>) {
        let (seconds, gb) = (self.began.elapsed().as_secs_f64(), bytes as f64 / 1e9);
        let (client, node) = (cpu("self") - self.client, other.map_or(0.0, cpu) - self.node);
        println!(
            "{what:<28} {:>7.0} MB/s   CPU s/GB: client {:.2}, node {:.2}, both {:.2}",
            gb * 1000.0 / seconds,
            client / gb,
            node / gb,
            (client + node) / gb
        );
    }
}

async fn measure(name: &str, client: Arc<dyn NodeClient>, other: Option<&str>) {
    let mut payload = vec![0; SHARD];
    blake3::Hasher::new().update(b"wire").finalize_xof().fill(&mut payload);
    let payload = Bytes::from(payload);
    let hash = *blake3::hash(&payload).as_bytes();
    let phase = Phase::begin(other);
    stream::iter(0..SHARDS)
        .for_each_concurrent(AT_ONCE, |counter| {
            let (client, payload) = (&client, payload.clone());
            async move {
                let header = shard(counter, &payload, hash);
                client.write_shard(DRIVE, header, payload, Reserve::Client).await.unwrap();
            }
        })
        .await;
    phase.end(&format!("{name}: write 8 MiB shards"), SHARDS * SHARD as u64, other);
    for (what, len) in [("read 8 MiB", SHARD), ("read 1 MiB", 1 << 20), ("read 64 KiB", 64 << 10)] {
        let phase = Phase::begin(other);
        let count = if len == SHARD { ROUNDS * SHARDS } else { (512 << 20) / len as u64 };
        stream::iter(0..count)
            .for_each_concurrent(AT_ONCE, |n| {
                let (client, payload) = (&client, &payload);
                async move {
                    let header = shard(n % SHARDS, payload, hash);
                    let start = (n as usize).wrapping_mul(7919 * 4096) % (SHARD - len + 1);
                    let range = start as u32..(start + len) as u32;
                    let (id, root) = (header.id(), header.descriptor.root());
                    let bytes = client.read_shard(DRIVE, id, root, range).await.unwrap();
                    assert_eq!(bytes.len(), len);
                }
            })
            .await;
        phase.end(&format!("{name}: {what}"), count * len as u64, other);
    }
}

fn credentials(ca: &ClusterCa, role: Role, name: &str) -> storage_node::service::issue::Issued {
    let identity = Identity { cluster: CLUSTER, role, name: NodeName::new(name).unwrap() };
    ca.issue(&identity, Duration::from_secs(24 * 3600)).unwrap()
}

async fn serve(dir: &Path) {
    let node = node(&dir.join("far")).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let credentials = Credentials::load(&dir.join("n1")).unwrap();
    let server = Server::start(listener, &credentials, node.clone(), node, ServiceConfig::default()).unwrap();
    println!("{}", server.address());
    // Until the other end goes.
    let _ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
}

fn spawn(dir: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--serve".as_ref(), dir.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
    (child, address.trim().to_owned())
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [serving, dir] = args.as_slice()
        && serving == "--serve"
    {
        return serve(Path::new(dir)).await;
    }
    let base = args.first().map_or("/dev/shm", String::as_str);
    let dir = Path::new(base).join(format!("stele-wire-{}", std::process::id()));
    let ca = ClusterCa::create(CLUSTER).unwrap();
    std::fs::create_dir_all(dir.join("n1")).unwrap();
    credentials(&ca, Role::StorageNode, "n1").save(&dir.join("n1")).unwrap();
    {
        let near = node(&dir.join("near")).await;
        measure("in process", near.clone(), None).await;
        near.stop().await;
    }
    std::fs::remove_dir_all(dir.join("near")).unwrap();
    let (mut child, address) = spawn(&dir);
    let issued = credentials(&ca, Role::Gateway, "g1");
    let credentials = Credentials::from_pem(&issued.ca, &issued.certificate, &issued.key).unwrap();
    let config = RemoteConfig::new(address, NodeName::new("n1").unwrap());
    let far = RemoteNode::new(&credentials, config).unwrap();
    far.connect().await.unwrap();
    let process = child.id().to_string();
    measure("over the wire", far, Some(&process)).await;
    drop(child.stdin.take());
    let _ended = child.wait();
    std::fs::remove_dir_all(&dir).unwrap();
}
