//! Drives that are not what they were.

use crate::Switch;
use codec::erasure::{Erasure, Geometry};
use codec::id::{ClusterId, DriveId, Epoch, StripeId};
use codec::shard::ShardHeader;
use codec::stripe::{StripeClass, StripePacker};
use metadata::client::{MetadataClient, Mode};
use std::path::Path;
use std::sync::Arc;
use storage_node::client::{NodeClient, Reserve, WriteError};
use storage_node::disk::Disk;
use storage_node::disk::faulty::Trace;
use storage_node::disk::real::RealDisk;
use storage_node::drive;
use storage_node::kv::MemoryKv;
use storage_node::node::{NodeConfig, StorageNode};
use tests::oracle::Wrong;
use tests::world::{Indexes, Shape, World, disks, node_families, noise};

/// What a story says that could not be told.
pub const FAILED: &str = "the story failed";

pub fn failed(error: impl std::fmt::Display) -> Wrong {
    Wrong::new(FAILED, error.to_string())
}

/// What a story says that did not meet the moment, or the draw of drives, that it is about.
pub const MISSED: &str = "the story missed its moment";

pub fn missed(what: impl std::fmt::Display) -> Wrong {
    Wrong::new(MISSED, what.to_string())
}

/// The numbers of the drives that keep the journal.
pub fn ensemble(world: &World, disks: &[Arc<dyn Disk>]) -> Vec<usize> {
    let ids: Vec<_> =
        disks.iter().map(|disk| drive::probe(Arc::clone(disk), None).identity.map(|identity| identity.drive)).collect();
    let find = |member| ids.iter().position(|id| *id == Some(member));
    world.metadata.status().ensemble.into_iter().filter_map(find).collect()
}

/// A store over `n` fault disks with a bucket `b` that holds `a`.
pub async fn store(n: usize, shape: &Shape) -> Result<(Trace, World), Wrong> {
    let trace = Trace::with_sabotage(n, shape.sabotage.clone());
    let world = World::start(disks(&trace), &Indexes::lost(), shape).await.map_err(failed)?;
    world.create_bucket("b").await.map_err(failed)?;
    world.put("b", "a", &noise(1, 700)).await.map_err(failed)?;
    Ok((trace, world))
}

/// Whether a store that serves has these objects (key, seed), each of 700 bytes.
pub async fn holds(world: &World, objects: &[(&str, u64)]) -> Result<(), Wrong> {
    for (key, seed) in objects {
        let got = world.get("b", key).await;
        let got = got.map_err(|error| Wrong::new("an object can't be read", format!("{key}: {error}")))?;
        match got {
            None => return Err(Wrong::new("an acknowledged change is lost", *key)),
            Some(bytes) if bytes != noise(*seed, 700) => return Err(Wrong::new("wrong bytes", *key)),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Starts again with lost indexes; must serve and hold these objects.
pub async fn serves(disks: Vec<Arc<dyn Disk>>, shape: &Shape, objects: &[(&str, u64)]) -> Result<(), Wrong> {
    let world =
        World::start(disks, &Indexes::lost(), shape).await.map_err(|e| Wrong::new("no start", e.to_string()))?;
    let status = world.metadata.status();
    let result = match status.mode {
        Mode::Serving => holds(&world, objects).await,
        Mode::ReadOnly => Err(Wrong::new("not serving", status.reason)),
    };
    world.stop().await;
    result
}

/// Starts again with these indexes; must not serve, unless it holds these objects. One that only reads has written nothing.
pub async fn serves_not_or_holds(
    trace: &Trace,
    indexes: &Indexes,
    shape: &Shape,
    objects: &[(&str, u64)],
) -> Result<(), Wrong> {
    let before = trace.position();
    let world = match World::start(disks(trace), indexes, shape).await {
        // A later release can, and this one has changed nothing.
        Err(error) if error.is_too_old() && trace.position() == before => return Ok(()),
        world => world.map_err(|error| Wrong::new("no start, not even to read", error.to_string()))?,
    };
    let result = match world.metadata.status().mode {
        Mode::Serving => holds(&world, objects).await,
        Mode::ReadOnly => Ok(()),
    };
    let read_only = world.metadata.status().mode == Mode::ReadOnly;
    world.stop().await;
    if read_only && trace.position() > before {
        let events: Vec<String> =
            trace.events().iter().skip(before as usize).take(3).map(ToString::to_string).collect();
        return Err(Wrong::new("drives that may not be the newest were written to", format!("{events:?}")));
    }
    result
}

/// R5: the journal's file loses its name while it is written. Syncs of it go on to succeed.
pub async fn unlinked_segment(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let (trace, world) = store(3, &shape).await?;
    let members = ensemble(&world, &disks(&trace));
    switch.on();
    let disk = trace.disk(members[0]);
    for name in disk.list("journal").map_err(failed)? {
        disk.remove(&format!("journal/{name}")).map_err(failed)?;
    }
    world.put("b", "b", &noise(2, 700)).await.map_err(failed)?;
    world.stop().await;
    let after = trace.restart();
    after.trace().remove_drive(members[1]);
    serves(disks(after.trace()), &shape, &[("a", 1), ("b", 2)]).await
}

/// R5, R18: another directory takes the place of a drive's (a restored copy); the open one goes on to accept everything.
pub async fn exchanged_directory(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    let root = tempfile::tempdir().map_err(failed)?;
    let paths: Vec<_> = (0..3).map(|i| root.path().join(i.to_string())).collect();
    let open = || -> Vec<Arc<dyn Disk>> {
        paths.iter().map(|path| Arc::new(RealDisk::new(path, switch.set.clone())) as Arc<dyn Disk>).collect()
    };
    for path in &paths {
        std::fs::create_dir(path).map_err(failed)?;
    }
    let world = World::start(open(), &Indexes::lost(), &shape).await.map_err(failed)?;
    world.create_bucket("b").await.map_err(failed)?;
    world.put("b", "a", &noise(1, 700)).await.map_err(failed)?;
    let members = ensemble(&world, &open());
    switch.on();
    let copy = root.path().join("copy");
    copy_tree(&paths[members[0]], &copy).map_err(failed)?;
    std::fs::rename(&paths[members[0]], root.path().join("moved away")).map_err(failed)?;
    std::fs::rename(&copy, &paths[members[0]]).map_err(failed)?;
    world.put("b", "b", &noise(2, 700)).await.map_err(failed)?;
    world.stop().await;
    std::fs::rename(&paths[members[1]], root.path().join("lost")).map_err(failed)?;
    serves(open(), &shape, &[("a", 1), ("b", 2)]).await
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// R18: a second server on the same drives.
pub async fn two_servers(switch: Switch) -> Result<(), Wrong> {
    let shape = Shape::small("1+1").sabotaged(switch.set.clone());
    switch.on();
    let (trace, world) = store(3, &shape).await?;
    let second = World::start(disks(&trace), &Indexes::lost(), &shape).await;
    let serving = second.as_ref().is_ok_and(|second| second.metadata.status().mode == Mode::Serving);
    if let Ok(second) = second {
        second.stop().await;
    }
    world.stop().await;
    if serving { Err(Wrong::new("two servers on the same drives", "")) } else { Ok(()) }
}

/// R18: the mount point of a known drive is empty. A start never formats one that it knows ([`metadata::start`] formats
/// nothing unless all drives are empty and no index knows a cluster), so this is the second line, asked directly.
pub async fn empty_directory_of_a_known_drive(switch: Switch) -> Result<(), Wrong> {
    let trace = Trace::with_sabotage(1, switch.set.clone());
    switch.on();
    let (cluster, known) = (codec::id::ClusterId([1; 16]), codec::id::DriveId([2; 16]));
    let new = codec::id::DriveId([3; 16]);
    match drive::format(&*trace.disk(0), cluster, new, Some(known)) {
        Err(_) if trace.disk(0).list("").map_err(failed)?.is_empty() => Ok(()),
        _ => Err(Wrong::new("a known drive's empty directory was formatted", "")),
    }
}

/// R14: clients fill a drive, and the journal still has room, so that everything can be deleted. Metadata keeps clients away
/// from nearly full drives long before ([`metadata::topology::MIN_FREE`]); what is left to the node is a file system that
/// something else fills. So this asks the node itself.
pub async fn full_drives(switch: Switch) -> Result<(), Wrong> {
    let trace = Trace::with_sabotage(1, switch.set.clone());
    let (cluster, id) = (ClusterId([1; 16]), DriveId([2; 16]));
    let disk: Arc<dyn Disk> = trace.disk(0);
    drive::format(&*disk, cluster, id, None).map_err(failed)?;
    trace.set_room(0, 4 << 20);
    let config = NodeConfig { data_segment: 256 << 10, reserve: 1 << 20, ..NodeConfig::new(cluster) };
    let probed = vec![drive::probe(disk, Some(cluster))];
    let node = StorageNode::open(config, probed, Arc::new(MemoryKv::new(node_families()))).await.map_err(failed)?;
    node.begin(Epoch(1 << 32)).await.map_err(failed)?;
    switch.on();
    let (mut counter, mut result) = (0, Ok(()));
    while result.is_ok() && counter < 500 {
        counter += 1;
        result = write_shard(&node, id, cluster, counter, Reserve::Client).await;
    }
    let filled = result == Err(WriteError::Full { drive: id });
    let mut after = Ok(());
    for i in 1..6 {
        after = after.and(write_shard(&node, id, cluster, counter + i, Reserve::Metadata).await);
    }
    node.stop().await;
    match (filled, counter > 10, after) {
        (true, true, Ok(())) => Ok(()),
        (true, true, Err(error)) => Err(Wrong::new("clients took the reserve", error.to_string())),
        (_, _, after) => Err(failed(format!("{counter} shards: {result:?}, {after:?}"))),
    }
}

async fn write_shard(
    node: &StorageNode,
    drive: DriveId,
    cluster: ClusterId,
    counter: u64,
    reserve: Reserve,
) -> Result<(), WriteError> {
    let malformed = |_| WriteError::Malformed("test");
    let geometry = Geometry::new(1, 0).map_err(|_| WriteError::Malformed("test"))?;
    let mut packer = StripePacker::new(1, 0, 1 << 20);
    packer.add(noise(counter, 50_000));
    let id = StripeId { epoch: Epoch(1 << 32), counter };
    let packed = packer.finish(id, StripeClass::Data, geometry, cluster, None, &Erasure::new(geometry));
    let packed = packed.map_err(malformed)?;
    let payload = packed.shards[0].clone().unwrap_or_default();
    node.write_shard(drive, ShardHeader { descriptor: packed.descriptor, index: 0 }, payload, reserve).await
}
