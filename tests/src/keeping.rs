//! A store in which nothing is kept by itself: tests order each round, and move the clock.

use crate::world::{INLINE, Indexes, World, disks, parts};
use codec::chunk::ChunkSizes;
use codec::effect::ClockTick;
use codec::erasure::Geometry;
use gateway::engine::Gateway;
use metadata::client::{CommitError, MetadataClient};
use metadata::clock::Clock;
use metadata::command::Command;
use metadata::index::reclaim::TICK_STEP_MS;
use metadata::index::{self, Overlay};
use metadata::keep::KeepConfig;
use metadata::keep::reclaim::ReclaimConfig;
use metadata::start::{self, Config, Parts, StartError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use storage_node::disk::faulty::Trace;

/// An hour, in milliseconds.
pub const HOUR: u64 = 3_600_000;
/// A day, in milliseconds.
pub const DAY: u64 = 24 * HOUR;

/// Stands still until it is told to go on, and goes on over restarts.
#[derive(Debug, Default)]
pub struct Still(AtomicU64);

impl Still {
    /// So many milliseconds pass.
    pub fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for Still {
    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.load(Ordering::Relaxed)
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Small segments and stripes, no background task, no limit to what may be freed.
pub fn config(geometry: Option<Geometry>) -> Config {
    Config {
        geometry,
        data_segment: 128 << 10,
        journal_segment: 128 << 10,
        preallocate_step: 64 << 10,
        shard_target: 16 << 10,
        max_batch: 32 << 10,
        seal_after: None,
        checkpoint_after: None,
        check_every: None,
        tick_every: None,
        keep: KeepConfig {
            every: None,
            drive_rate: 0,
            pause: Duration::ZERO,
            verify_shards: 1000,
            ..KeepConfig::default()
        },
        reclaim: ReclaimConfig { every: None, daily_percent: 100, ..ReclaimConfig::default() },
        software: "tests".to_owned(),
        ..Config::default()
    }
}

/// What such a store is started from.
pub fn parts_of(trace: &Trace, indexes: &Indexes, clock: &Arc<Still>) -> Parts {
    let mut parts = parts(disks(trace), indexes);
    parts.clock = Arc::clone(clock) as Arc<dyn Clock>;
    parts
}

/// Starts such a store.
pub async fn serve(parts: Parts, config: Config) -> Result<World, StartError> {
    let metadata = Arc::new(start::start(parts, config).await?);
    let engine = gateway::engine::Config {
        memory: 64 << 20,
        inline_limit: INLINE,
        stripe_bytes: 48 << 10,
        cpu_threads: 2,
        chunk_sizes: ChunkSizes::new(1 << 10, 4 << 10, 16 << 10).ok(),
        verify_every: 8,
        ..gateway::engine::Config::default()
    };
    let gateway = Gateway::new(Arc::clone(&metadata) as Arc<dyn MetadataClient>, engine);
    Ok(World { metadata, gateway })
}

/// Lets time pass, for the drives' keeper and for the steady count.
pub async fn pass(world: &World, clock: &Still, ms: u64) -> Result<(), CommitError> {
    let unavailable = |error: index::IndexError| CommitError::Unavailable { reason: error.to_string() };
    // The first is noted, so that nothing is lost to the step between notes.
    for ms in [TICK_STEP_MS, ms] {
        clock.pass(ms);
        let last = index::clock(&Overlay::new(&**world.metadata.kv())).map_err(unavailable)?.unwrap_or_default();
        let (retention_ms, steady_ms) = (last.retention_ms + ms, last.steady_ms + ms);
        let tick = Command::ClockTick(ClockTick { retention_ms, steady_ms, ..last });
        world.metadata.commit(world.metadata.epoch(), tick).await?;
    }
    Ok(())
}
