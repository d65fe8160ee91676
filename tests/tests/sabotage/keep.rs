//! Scrub, and the clock by which graces are judged.

use crate::Switch;
use crate::data::{layout_of, number_of};
use crate::drives::{failed, missed, store};
use codec::id::DriveId;
use metadata::index::{self, Overlay};
use metadata::start::Config;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage_node::disk::faulty::{Fault, Trace};
use storage_node::disk::{Disk, DiskOp};
use storage_node::keep::{ScrubOrder, ScrubState, ScrubStatus};
use tests::keeping::{self, DAY, Still};
use tests::oracle::Wrong;
use tests::world::{Indexes, Shape, World, disks, noise};

const PATIENCE: Duration = Duration::from_secs(120);

async fn scrub_of(world: &World, drive: DriveId) -> Result<ScrubStatus, Wrong> {
    let status = world.metadata.node().scrub_status().await;
    status.into_iter().find(|status| status.drive == drive).ok_or_else(|| failed("the drive is not scrubbed"))
}

/// Waits until something is true of a drive's scrub.
async fn until(world: &World, drive: DriveId, is: impl Fn(&ScrubStatus) -> bool) -> Result<ScrubStatus, Wrong> {
    let began = Instant::now();
    loop {
        let status = scrub_of(world, drive).await?;
        if is(&status) {
            return Ok(status);
        }
        if began.elapsed() > PATIENCE {
            return Err(failed(format!("scrub does not get there: {status:?}")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Rot below the page cache, which still has the bytes as they were written.
pub async fn rot_below_the_cache(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (trace, world) = store(3, &shape).await?;
    world.put("b", "large", &noise(7, 9_000)).await.map_err(failed)?;
    let drive = layout_of(&world, "large").await?.drives[0].ok_or_else(|| failed("no drive"))?;
    world.stop().await;
    // A start closes the segments.
    let world = World::start(disks(&trace), &Indexes::lost(), &shape).await.map_err(failed)?;
    switch.on();
    let number = number_of(&trace, Some(drive));
    for name in trace.disk(number).list("segments").map_err(failed)? {
        // Behind the segment's header and the record's; a segment that ends before has nothing to rot.
        let _short = trace.flip_under_cache(number, &format!("segments/{name}"), 2 * 4096 + 100, 8);
    }
    world.metadata.node().scrub_order(drive, ScrubOrder::Start).await.map_err(failed)?;
    until(&world, drive, |status| status.state == ScrubState::Waiting && status.last_pass_ms > 0).await?;
    let found = world.metadata.node().findings(drive).await.map_err(failed)?;
    world.stop().await;
    if found.is_empty() { Err(Wrong::new("rot on the medium is not found", "")) } else { Ok(()) }
}

/// A pass that a restart interrupts goes on where it was: one that began anew each time would come to no end.
pub async fn restart_during_a_pass(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let trace = Trace::with_sabotage(3, shape.sabotage.clone());
    let indexes = Indexes::lost();
    let world = World::start(disks(&trace), &indexes, &shape).await.map_err(failed)?;
    world.create_bucket("b").await.map_err(failed)?;
    for n in 0..24 {
        world.put("b", &format!("{n}"), &noise(n, 40_000)).await.map_err(failed)?;
    }
    let drive = world.metadata.node().drives().await.first().map(|drive| drive.id).ok_or_else(|| failed("no drive"))?;
    // The pass must not be over before it is interrupted, also where this thread waits for its turn.
    let slow = Fault::slow(Duration::from_millis(400)).drive(number_of(&trace, Some(drive)));
    trace.inject(slow.on(DiskOp::Read).path("segments/"));
    world.metadata.node().scrub_order(drive, ScrubOrder::Start).await.map_err(failed)?;
    let before = until(&world, drive, |status| status.pass_bytes > 0).await?;
    if before.state != ScrubState::Running {
        return Err(missed("the pass was over before it could be interrupted"));
    }
    world.stop().await;
    trace.heal_all();
    switch.on();
    let world = World::start(disks(&trace), &indexes, &shape).await.map_err(failed)?;
    // Nothing goes on by itself for a while after a start.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let after = scrub_of(&world, drive).await?;
    world.stop().await;
    match after.pass_began_ms == before.pass_began_ms && after.pass_bytes >= before.pass_bytes {
        true => Ok(()),
        false => Err(Wrong::new("a pass begins anew", format!("{} after {}", after.pass_bytes, before.pass_bytes))),
    }
}

/// A store whose clock a story sets, and which journals ticks of it.
struct Ticking {
    trace: Trace,
    clock: Arc<Still>,
    indexes: Indexes,
}

impl Ticking {
    fn new() -> Ticking {
        Ticking { trace: Trace::new(3), clock: Arc::new(Still::default()), indexes: Indexes::lost() }
    }

    async fn serve(&self, switch: &Switch) -> Result<World, Wrong> {
        let tick_every = Some(Duration::from_millis(5));
        let config = Config { tick_every, sabotage: switch.set.clone(), ..keeping::config("1+1".parse().ok()) };
        keeping::serve(keeping::parts_of(&self.trace, &self.indexes, &self.clock), config).await.map_err(failed)
    }

    /// A tick that is journaled, and another after the minutes for which one stands.
    async fn ticks(&self, world: &World) -> Result<(), Wrong> {
        let tick = || index::clock(&Overlay::new(&**world.metadata.kv())).map_err(failed);
        for n in 0..2 {
            let before = tick()?;
            self.clock.pass(11 * 60_000);
            world.put("b", "tick", &noise(n, 100)).await.map_err(failed)?;
            let began = Instant::now();
            while tick()? == before {
                if began.elapsed() > PATIENCE {
                    return Err(failed("no tick is journaled"));
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        Ok(())
    }
}

/// R15: what was deleted the day before a cluster was off for a week is still there on the day when it is on again.
pub async fn a_week_off(switch: Switch) -> Result<(), Wrong> {
    let store = Ticking::new();
    let world = store.serve(&switch).await?;
    world.create_bucket("b").await.map_err(failed)?;
    world.put("b", "a", &noise(1, 700)).await.map_err(failed)?;
    store.ticks(&world).await?;
    world.delete("b", "a").await.map_err(failed)?;
    store.ticks(&world).await?;
    world.stop().await;
    store.clock.pass(8 * DAY);
    switch.on();
    let world = store.serve(&switch).await?;
    store.ticks(&world).await?;
    let reclaimer = world.metadata.reclaimer().ok_or_else(|| failed("reads only"))?;
    let report = reclaimer.round().await.map_err(failed)?;
    world.stop().await;
    match report.deleted {
        0 => Ok(()),
        deleted => Err(Wrong::new("deleted after a week in which nobody had a day to miss it", deleted.to_string())),
    }
}

/// R15: what is to be kept for months is not released because the machine says, when it is switched on, that a year is over.
pub async fn a_year_off(switch: Switch) -> Result<(), Wrong> {
    let store = Ticking::new();
    let retention_ms = |world: &World| {
        let row = index::clock(&Overlay::new(&**world.metadata.kv())).map_err(failed)?;
        row.map(|row| row.retention_ms).ok_or_else(|| failed("no tick"))
    };
    let world = store.serve(&switch).await?;
    world.create_bucket("b").await.map_err(failed)?;
    store.ticks(&world).await?;
    let before = retention_ms(&world)?;
    world.stop().await;
    store.clock.pass(365 * DAY);
    switch.on();
    let world = store.serve(&switch).await?;
    store.ticks(&world).await?;
    let passed = retention_ms(&world)?.saturating_sub(before);
    world.stop().await;
    match passed / DAY {
        0..=7 => Ok(()),
        days => Err(Wrong::new("retention ends with the wall clock", format!("{days} days at once"))),
    }
}
