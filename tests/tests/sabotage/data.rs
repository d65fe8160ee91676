//! Stripes and sealing.

use crate::Switch;
use crate::drives::{ensemble, failed, missed, serves, store};
use bytes::Bytes;
use codec::erasure::Erasure;
use codec::id::DriveId;
use codec::manifest::Manifest;
use codec::shard::ShardHeader;
use codec::stripe::StripePacker;
use metadata::client::MetadataClient;
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::Reserve;
use storage_node::disk::faulty::{Fault, Trace};
use storage_node::disk::{Access, Disk, DiskFile, DiskOp};
use storage_node::drive;
use storage_node::sabotage::Defect;
use storage_node::stripe_io::StripeLayout;
use tests::oracle::Wrong;
use tests::world::{Indexes, Shape, World, disks, noise};

const LEN: usize = 30_000;

/// A store of 2+3 on five drives with one large object, and the layout of its first stripe.
async fn one_stripe(switch: &Switch) -> Result<(Trace, World, StripeLayout, Shape), Wrong> {
    let shape = Shape::small("2+3").sabotaged(switch.set.clone());
    let (trace, world) = store(5, &shape).await?;
    world.put("b", "large", &noise(5, LEN)).await.map_err(failed)?;
    let layout = layout_of(&world, "large").await?;
    Ok((trace, world, layout, shape))
}

/// The layout of the first stripe of an object.
pub async fn layout_of(world: &World, key: &str) -> Result<StripeLayout, Wrong> {
    let version = world.version("b", key).await.map_err(failed)?.ok_or_else(|| failed("no version"))?;
    let manifest = Manifest::parse(&version.content.unwrap_or_default().manifest).map_err(failed)?;
    let ids: Vec<_> = manifest.entries().iter().map(|entry| entry.id).collect();
    let located = world.metadata.locate(&ids).await.map_err(failed)?;
    let layout = located.into_iter().flatten().find_map(|chunk| chunk.stripe).ok_or_else(|| failed("no stripe"))?;
    Ok(StripeLayout::clone(&layout))
}

pub fn number_of(trace: &Trace, id: Option<DriveId>) -> usize {
    let is = |disk: &Arc<dyn Disk>| drive::probe(Arc::clone(disk), None).identity.map(|i| i.drive) == id;
    disks(trace).iter().position(is).unwrap_or(usize::MAX)
}

fn segment(trace: &Trace, drive: usize, access: Access) -> Result<Arc<dyn DiskFile>, Wrong> {
    let disk = trace.disk(drive);
    let name = disk.list("segments").map_err(failed)?.into_iter().next().ok_or_else(|| failed("no segment"))?;
    disk.open(&format!("segments/{name}"), access).map_err(failed)
}

/// Takes the drive of shard 0 away and reads: the object must come out as it went in, from shards 3 and 4 if need be.
async fn reads(trace: &Trace, world: World, layout: &StripeLayout) -> Result<(), Wrong> {
    trace.remove_drive(number_of(trace, layout.drives[0]));
    let got = world.get("b", "large").await;
    world.stop().await;
    match got {
        Ok(Some(bytes)) if bytes == noise(5, LEN) => Ok(()),
        Ok(_) => Err(Wrong::new("wrong bytes", "large")),
        Err(error) => Err(Wrong::new("an object can't be read", error.to_string())),
    }
}

/// R8: two shards' blocks are those of two other shards: good blocks at the right offset, on the wrong drive.
pub async fn misdirected_blocks(switch: Switch) -> Result<(), Wrong> {
    switch.on();
    let (trace, world, layout, _) = one_stripe(&switch).await?;
    for (from, to) in [(3, 1), (4, 2)] {
        let source = segment(&trace, number_of(&trace, layout.drives[from]), Access::Read)?;
        let target = segment(&trace, number_of(&trace, layout.drives[to]), Access::ReadWrite)?;
        // Behind the segment's header and the record's.
        let mut blocks = vec![0; 5 * 4096];
        source.read_at(&mut blocks, 2 * 4096).map_err(failed)?;
        target.write_at(&blocks, 2 * 4096).map_err(failed)?;
    }
    reads(&trace, world, &layout).await
}

/// R2: two shards have rotten bytes.
pub async fn rotten_blocks(switch: Switch) -> Result<(), Wrong> {
    let (trace, world, layout, _) = one_stripe(&switch).await?;
    switch.on();
    for shard in [1, 2] {
        let drive = number_of(&trace, layout.drives[shard]);
        let name = trace.disk(drive).list("segments").map_err(failed)?.into_iter().next().unwrap_or_default();
        for block in 2..7 {
            trace.flip(drive, &format!("segments/{name}"), block * 4096 + 1000, 0x40).map_err(failed)?;
        }
    }
    reads(&trace, world, &layout).await
}

/// R7: the header of the first record of a segment rots, and what lies behind it is read after the loss of another drive.
pub async fn rot_before_good_records(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (trace, world) = store(3, &shape).await?;
    let keys: Vec<String> = (0..9).map(|i| format!("large{i}")).collect();
    let mut layouts = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        world.put("b", key, &noise(10 + i as u64, 9_000)).await.map_err(failed)?;
        layouts.push(layout_of(&world, key).await?);
    }
    world.stop().await;
    switch.on();
    let rotten = layouts[0].drives[0];
    let drive = number_of(&trace, rotten);
    let name = trace.disk(drive).list("segments").map_err(failed)?.into_iter().next().unwrap_or_default();
    trace.flip(drive, &format!("segments/{name}"), 4096 + 500, 4).map_err(failed)?;
    let after = trace.restart();
    let lost = layouts.iter().skip(1).find_map(|layout| {
        let others = layout.drives.iter().flatten().filter(|other| Some(**other) != rotten);
        layout.drives.contains(&rotten).then(|| others.copied().next()).flatten()
    });
    if lost.is_none() {
        return Err(missed("no other stripe on the rotten drive"));
    }
    after.trace().remove_drive(number_of(&trace, lost));
    let world = World::start(disks(after.trace()), &Indexes::lost(), &shape).await.map_err(failed)?;
    let mut result = Ok(());
    let mut read = 0;
    for (i, key) in keys.iter().enumerate().skip(1) {
        read += usize::from(layouts[i].drives.contains(&rotten) && layouts[i].drives.contains(&lost));
        match world.get("b", key).await {
            Ok(Some(bytes)) if bytes == noise(10 + i as u64, 9_000) => {}
            Ok(_) => result = Err(Wrong::new("wrong bytes", key.clone())),
            Err(error) => result = Err(Wrong::new("a good record behind rot is lost", format!("{key}: {error}"))),
        }
    }
    world.stop().await;
    if read == 0 { Err(failed("no stripe on both drives")) } else { result }
}

/// R1: two shards are of another stripe that once had the same id.
pub async fn shards_of_another_generation(switch: Switch) -> Result<(), Wrong> {
    let (trace, world, layout, _) = one_stripe(&switch).await?;
    switch.on();
    let old = &layout.descriptor;
    let mut packer = StripePacker::new(2, 3, 1 << 20);
    [101, 102].into_iter().for_each(|seed| packer.add(noise(seed, 20_000)));
    let erasure = Erasure::new(old.geometry);
    let other = packer.finish(old.id, old.class, old.geometry, old.cluster, None, &erasure).map_err(failed)?;
    // A drive refuses them; one that was given them by an earlier version, or by mistake, did not.
    switch.set.inflict(Defect::AnotherRoot, true);
    for index in [1u8, 2] {
        let drive = layout.drives[usize::from(index)].ok_or_else(|| failed("no drive"))?;
        let payload = other.shards[usize::from(index)].clone().unwrap_or_default();
        let header = ShardHeader { descriptor: other.descriptor.clone(), index };
        world.metadata.node().write_shard(drive, header, payload, Reserve::Client).await.map_err(failed)?;
    }
    switch.set.inflict(Defect::AnotherRoot, false);
    reads(&trace, world, &layout).await
}

/// R12: the drives accept the writes of a seal and store nothing.
pub async fn writes_lost_while_sealing(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (trace, world) = store(3, &shape).await?;
    switch.on();
    trace.inject(Fault::lost_write().path("segments/"));
    let sealed = world.metadata.seal_now().await;
    trace.heal_all();
    world.stop().await;
    if sealed.is_ok() != switch.set.is(storage_node::sabotage::Sabotage::SealVerify) {
        return Err(Wrong::new("a seal succeeded that stored nothing", format!("{sealed:?}")));
    }
    let after = trace.restart();
    serves(disks(after.trace()), &shape, &[("a", 1)]).await
}

/// How long a seal that waits for nobody may take on a busy machine; shorter than a reader waits for a disk that hangs (20 s).
const SEALED_WITHIN: Duration = Duration::from_secs(18);

/// A reader that began before a seal ends before its segment is freed. Read errors alone would not show it: a reader whose
/// segment is gone looks up again and finds the stripe; so this looks at the order itself.
pub async fn segments_freed_under_a_reader(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (trace, world) = store(3, &shape).await?;
    switch.on();
    let world = Arc::new(world);
    // Its read hangs on each drive that has the entry; what else is read there does not.
    let members = ensemble(&world, &disks(&trace));
    let hang = |drive: &usize| Fault::hang().on(DiskOp::Read).drive(*drive).path("journal/").times(1);
    let hangs: Vec<_> = members.iter().map(|drive| trace.inject(hang(drive))).collect();
    let reader = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.get("b", "a").await }
    });
    while hangs.iter().any(|hang| trace.hits(*hang) == 0) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut sealing = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.metadata.seal_now().await.map(drop) }
    });
    // With the step it waits for the reader, however long: a second is enough to look at that.
    let within = if switch.armed { SEALED_WITHIN } else { Duration::from_secs(1) };
    let under_a_reader = tokio::time::timeout(within, &mut sealing).await.ok();
    trace.heal_all();
    let freed = under_a_reader.is_some();
    let sealed = match under_a_reader {
        Some(sealed) => sealed,
        None => sealing.await,
    };
    sealed.map_err(failed)?.map_err(failed)?;
    let read: Option<Bytes> = reader.await.map_err(failed)?.map_err(failed)?;
    world.metadata.shutdown().await;
    if read != Some(noise(1, 700)) || members.len() != 2 {
        return Err(Wrong::new("wrong bytes", "while sealing"));
    }
    if freed { Err(Wrong::new("segments were freed under a reader", "")) } else { Ok(()) }
}
