//! The store that is damaged: fault disks, indexes in memory, objects of all sizes, and a clock that can be moved on.

use bytes::Bytes;
use codec::chunk::ChunkSizes;
use futures::{StreamExt, stream};
use gateway::engine::Gateway;
use metadata::client::MetadataClient;
use metadata::clock::{Clock, SystemClock};
use metadata::keep::{KeepConfig, Keeper};
use metadata::start::{self, Config};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use storage_node::disk::faulty::Trace;
use storage_node::sabotage::SabotageSet;
use tests::crash::mix;
use tests::world::{INLINE, Indexes, World, disks, noise, parts, text};

pub const DRIVES: usize = 8;
pub const BUCKET: &str = "b";

/// The machine's clock, and what a test adds to it.
#[derive(Debug, Default)]
pub struct Moved {
    system: SystemClock,
    by_ms: AtomicU64,
}

impl Clock for Moved {
    fn wall_ms(&self) -> u64 {
        self.system.wall_ms() + self.by_ms.load(Ordering::Relaxed)
    }

    fn monotonic_ms(&self) -> u64 {
        self.system.monotonic_ms() + self.by_ms.load(Ordering::Relaxed)
    }
}

pub struct Store {
    pub trace: Trace,
    pub world: World,
    pub clock: Arc<Moved>,
    /// What the drives do wrong.
    pub broken: SabotageSet,
    /// How many objects there are; the bytes of each follow from its number.
    pub objects: u64,
}

impl Store {
    /// 3+2 on eight drives, with small segments and smaller shards.
    pub async fn start() -> Store {
        let broken = SabotageSet::default();
        let (trace, clock) = (Trace::with_sabotage(DRIVES, broken.clone()), Arc::new(Moved::default()));
        let mut parts = parts(disks(&trace), &Indexes::lost());
        parts.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let keep = KeepConfig {
            every: None,
            drive_rate: 0,
            pause: Duration::ZERO,
            verify_shards: 10_000,
            ..KeepConfig::default()
        };
        let config = Config {
            geometry: "3+2".parse().ok(),
            data_segment: 128 << 10,
            journal_segment: 128 << 10,
            preallocate_step: 64 << 10,
            shard_target: 8 << 10,
            max_batch: 32 << 10,
            seal_after: None,
            checkpoint_after: None,
            check_every: None,
            tick_every: None,
            keep,
            software: "tests".to_owned(),
            ..Config::default()
        };
        let metadata = Arc::new(start::start(parts, config).await.unwrap());
        let engine = gateway::engine::Config {
            memory: 64 << 20,
            inline_limit: INLINE,
            stripe_bytes: 32 << 10,
            cpu_threads: 2,
            chunk_sizes: ChunkSizes::new(1 << 10, 4 << 10, 16 << 10).ok(),
            ..gateway::engine::Config::default()
        };
        let gateway = Gateway::new(Arc::clone(&metadata) as Arc<dyn MetadataClient>, engine);
        let world = World { metadata, gateway };
        world.create_bucket(BUCKET).await.unwrap();
        Store { trace, world, clock, broken, objects: 0 }
    }

    pub fn keeper(&self) -> &Arc<Keeper> {
        self.world.metadata.keeper().unwrap()
    }

    pub fn pass(&self, ms: u64) {
        self.clock.by_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Stores so many objects more: of four, three ride in the journal and one goes into stripes at once.
    pub async fn put(&mut self, count: u64, only_small: bool) {
        let numbers = self.objects..self.objects + count;
        self.objects += count;
        let world = &self.world;
        let puts = stream::iter(numbers).map(|number| async move {
            let bytes = if only_small { small(number) } else { object(number) };
            let key = key(number, only_small);
            world.put(BUCKET, &key, &bytes).await.unwrap();
        });
        puts.buffer_unordered(if only_small { 1 } else { 16 }).collect::<()>().await;
    }

    /// Reads every object, and compares.
    pub async fn check_objects(&self) {
        let all: Vec<String> = {
            let bucket = self.world.bucket(BUCKET).await.unwrap().bucket_id();
            self.world.list(bucket).await.unwrap().into_iter().map(|version| version.key).collect()
        };
        assert_eq!(all.len() as u64, self.objects);
        let reads = stream::iter(all).map(|key| async move {
            let number: u64 = key[1..].parse().unwrap();
            let expected = if key.starts_with('s') { small(number) } else { object(number) };
            let got = self.world.get(BUCKET, &key).await.unwrap_or_else(|error| panic!("{key}: {error}"));
            assert!(got == Some(expected), "{key} is not what was stored");
        });
        reads.buffer_unordered(16).collect::<()>().await;
    }

    /// What a drive's directory holds; what can't be read is zeros.
    pub fn files(&self, drive: usize, dirs: &[&str]) -> Vec<(String, Vec<u8>)> {
        use storage_node::disk::{Access, Disk};
        let disk = self.trace.disk(drive);
        let mut found = Vec::new();
        for dir in dirs {
            for name in disk.list(dir).unwrap_or_default() {
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                let Ok(file) = disk.open(&path, Access::Read) else { continue };
                let mut bytes = vec![0; file.len().unwrap_or(0) as usize];
                if file.read_at(&mut bytes, 0).is_err() {
                    for (n, block) in bytes.chunks_mut(4096).enumerate() {
                        if file.read_at(block, n as u64 * 4096).is_err() {
                            block.fill(0);
                        }
                    }
                }
                found.push((path, bytes));
            }
        }
        found
    }
}

fn key(number: u64, small: bool) -> String {
    format!("{}{number:07}", if small { 's' } else { 'o' })
}

fn small(number: u64) -> Bytes {
    noise(number, 1000 + (mix(number, 3) % 3000) as usize)
}

fn object(number: u64) -> Bytes {
    let random = mix(number, 1);
    match number % 4 {
        0 => noise(number, 5_000 + (random % 25_000) as usize),
        1 => text(number, 100 + (random % 30_000) as usize),
        _ => noise(number, (random % 3_500) as usize),
    }
}
