//! Tests of the node as a whole, over the fault disk and over real directories.
#![allow(clippy::unwrap_used)]

mod crash;
mod damage;
mod faults;
mod free;
mod hanging;
mod hostile;
mod journal;
mod newer;
mod piled;
mod rebuild;
mod reopen;
mod sabotage;
mod scrub;
mod shards;
mod stripes;

use crate::client::{NodeClient, ReadError, Reserve, WriteError};
use crate::clock::{Clock, SystemClock};
use crate::disk::Disk;
use crate::disk::faulty::Trace;
use crate::drive::{format, probe};
use crate::index::FAMILIES;
use crate::kv::{Kv, MemoryKv};
use crate::node::{NodeConfig, StorageNode};
use bytes::Bytes;
use codec::effect::Effects;
use codec::erasure::Geometry;
use codec::id::{ClusterId, DriveId, Epoch, Lsn, StripeId};
use codec::journal::{BatchHeader, NO_ENTRY, encode_batch, encode_entry};
use codec::shard::ShardHeader;
use codec::stripe::{StripeClass, StripeDescriptor};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const CLUSTER: ClusterId = ClusterId([7; 16]);
pub const EPOCH: Epoch = Epoch(1 << 32 | 5);
/// Longer than a busy machine takes for what does not wait for a disk that hangs, and shorter than such a disk hangs (120 s).
pub const NOT_WAITED_FOR: Duration = Duration::from_secs(60);
/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn drive_id(i: usize) -> DriveId {
    DriveId([i as u8 + 1; 16])
}

pub fn config() -> NodeConfig {
    NodeConfig {
        data_segment: 256 << 10,
        journal_segment: 128 << 10,
        preallocate_step: 32 << 10,
        scrub: crate::scrub::ScrubConfig::on_order(),
        ..NodeConfig::new(CLUSTER)
    }
}

/// A steady clock that stands still until it is told to go on.
#[derive(Debug)]
pub struct Hands(Mutex<Instant>);

impl Default for Hands {
    fn default() -> Hands {
        Hands(Mutex::new(Instant::now()))
    }
}

impl Hands {
    pub fn pass(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for Hands {
    fn wall_ms(&self) -> u64 {
        SystemClock.wall_ms()
    }

    fn steady(&self) -> Instant {
        *self.0.lock().unwrap()
    }
}

pub fn memory_kv() -> Arc<MemoryKv> {
    Arc::new(MemoryKv::new(&FAMILIES))
}

/// Formats every drive of a trace.
pub fn format_all(trace: &Trace) {
    for (i, disk) in trace.disks().iter().enumerate() {
        format(&**disk, CLUSTER, drive_id(i), None).unwrap();
    }
}

/// Opens all drives of a trace that are ours, without beginning.
pub async fn open_with(trace: &Trace, kv: Arc<dyn Kv>, config: NodeConfig) -> Arc<StorageNode> {
    let probed = trace.disks().into_iter().map(|disk| probe(disk as Arc<dyn Disk>, Some(CLUSTER)));
    let ours = probed.filter(|drive| drive.identity.is_some()).collect();
    StorageNode::open(config, ours, kv).await.unwrap()
}

/// Opens and begins.
pub async fn start(trace: &Trace, kv: Arc<dyn Kv>) -> Arc<StorageNode> {
    let node = open_with(trace, kv, config()).await;
    node.begin(EPOCH).await.unwrap();
    node
}

/// One formatted drive and a node on it.
pub async fn one_drive() -> (Trace, Arc<StorageNode>, DriveId) {
    let trace = Trace::new(1);
    format_all(&trace);
    let node = start(&trace, memory_kv()).await;
    (trace, node, drive_id(0))
}

/// Bytes that differ everywhere, the same for the same arguments.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new_derive_key("stele test noise").update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    Bytes::from(out)
}

/// A shard of a stripe of one shard.
pub fn shard(counter: u64, len: usize) -> (ShardHeader, Bytes) {
    let payload = noise(counter, len);
    let descriptor = StripeDescriptor {
        id: StripeId { epoch: EPOCH, counter },
        class: StripeClass::Data,
        geometry: Geometry::new(1, 0).unwrap(),
        present: 1,
        lengths: vec![len as u32],
        hashes: vec![*blake3::hash(&payload).as_bytes()],
        lsn_range: None,
        cluster: CLUSTER,
    };
    (ShardHeader { descriptor, index: 0 }, payload)
}

pub async fn put(node: &StorageNode, drive: DriveId, counter: u64, len: usize) -> Result<(), WriteError> {
    let (header, payload) = shard(counter, len);
    node.write_shard(drive, header, payload, Reserve::Client).await
}

pub async fn get(node: &StorageNode, drive: DriveId, counter: u64, len: usize) -> Result<Bytes, ReadError> {
    let (header, _) = shard(counter, len);
    node.read_shard(drive, header.id(), header.descriptor.root(), 0..len as u32).await
}

/// The shard is there and its bytes are right.
pub async fn assert_readable(node: &StorageNode, drive: DriveId, counter: u64, len: usize) {
    assert_eq!(get(node, drive, counter, len).await, Ok(noise(counter, len)), "shard {counter}");
}

/// Either an error or the right bytes: never wrong ones. `true`: the bytes.
pub async fn never_wrong(node: &StorageNode, drive: DriveId, counter: u64, len: usize) -> bool {
    match get(node, drive, counter, len).await {
        Ok(bytes) => {
            assert_eq!(bytes, noise(counter, len), "wrong bytes of shard {counter}");
            true
        }
        Err(_) => false,
    }
}

/// The entries of LSN 1 to `count`, each with one frame of noise.
pub fn entries(count: u64, frame_len: usize) -> Vec<Bytes> {
    let mut prev = NO_ENTRY;
    let mut out = Vec::new();
    for lsn in 1..=count {
        let effects = Effects { effects: Vec::new(), wall_ms: lsn };
        let entry = encode_entry(Lsn(lsn), EPOCH, prev, &effects, &[noise(lsn, frame_len)]).unwrap();
        prev = entry.hash;
        out.push(entry.bytes);
    }
    out
}

pub fn batch(entries: &[Bytes]) -> (BatchHeader, Bytes) {
    encode_batch(entries).unwrap()
}
