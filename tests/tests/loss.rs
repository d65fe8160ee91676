//! Every loss of up to m drives, in every way a drive can be lost, running and stopped; and what is left after more than m.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use codec::erasure::{Erasure, Geometry};
use codec::id::{ClusterId, DriveId, Epoch, StripeId};
use codec::manifest::Manifest;
use codec::stripe::{FramePlace, StripeClass, StripePacker};
use futures::future::join_all;
use metadata::client::{MetadataClient, Mode};
use std::sync::Arc;
use storage_node::client::Reserve;
use storage_node::disk::Disk;
use storage_node::disk::faulty::Trace;
use storage_node::drive;
use storage_node::kv::{Kv, MemoryKv};
use storage_node::node::{NodeConfig, StorageNode};
use storage_node::stripe_io::{ReadOptions, StripeLayout, TargetsWanted, read_range, write_stripe};
use tests::crash::mix;
use tests::world::{Indexes, Rest, World, disks, node_families, noise, text};

/// How a drive is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Gone,
    Emptied,
    Foreign,
    Noise,
    Flipped,
}

const WAYS: [Way; 5] = [Way::Gone, Way::Emptied, Way::Foreign, Way::Noise, Way::Flipped];

fn lose(trace: &Trace, drive: usize, way: Way, seed: u64) {
    match way {
        Way::Gone => trace.remove_drive(drive),
        Way::Emptied => trace.replace_drive(drive, &[]).unwrap(),
        Way::Foreign => {
            let foreign = drive::Identity { cluster: ClusterId([0xee; 16]), drive: DriveId([drive as u8; 16]) };
            trace.replace_drive(drive, &[("identity", &foreign.encode())]).unwrap();
        }
        Way::Noise => trace.noise(drive, seed),
        Way::Flipped => flip_some(trace, drive, seed),
    }
}

/// Flips a byte in every third block or so of every segment.
fn flip_some(trace: &Trace, drive: usize, seed: u64) {
    let disk = trace.disk(drive);
    for dir in ["segments", "journal"] {
        for name in disk.list(dir).unwrap() {
            let path = format!("{dir}/{name}");
            let blocks = disk.open(&path, storage_node::disk::Access::Read).unwrap().len().unwrap() / 4096;
            for block in (0..blocks).filter(|block| mix(seed, *block).is_multiple_of(3)) {
                let offset = block * 4096 + mix(seed, block + 7) % 4096;
                trace.flip(drive, &path, offset, 1 << (block % 8)).unwrap();
            }
        }
    }
}

/// A store at rest, with objects in the journal, in stripes and in sealed stripes.
async fn rest(n: usize, geometry: &str) -> Rest {
    let rest = Rest::new(n, geometry, async |_, world| {
        world.create_bucket("b").await.unwrap();
        let mut objects = Vec::new();
        for i in 0..4u64 {
            objects.push((format!("sealed{i}"), if i == 1 { text(i, 1500) } else { noise(i, 900 + 100 * i as usize) }));
        }
        objects.push(("large0".to_owned(), noise(50, 60_000)));
        for (i, (key, bytes)) in objects.iter().enumerate() {
            world.put_with("b", key, bytes, i == 2, Default::default()).await.unwrap();
        }
        world.metadata.seal_now().await.unwrap();
        let after = [("journal0", noise(60, 1000)), ("large1", text(61, 90_000)), ("large2", noise(62, 20_000))];
        for (key, bytes) in after.iter().chain(&[("journal1", noise(63, 10)), ("empty", Bytes::new())]) {
            world.put("b", key, bytes).await.unwrap();
            objects.push(((*key).to_owned(), bytes.clone()));
        }
        objects
    });
    let mut rest = rest.await.unwrap();
    let identity = drive::probe(disks(&rest.trace).remove(0), None).identity;
    rest.shape.cluster = identity.map(|identity| identity.cluster);
    rest
}

async fn reads(rest: &Rest, world: &World, how: &str) {
    for (key, bytes) in &rest.objects {
        let got = world.get("b", key).await;
        let got = got.unwrap_or_else(|error| panic!("{how}: {key}: {error}"));
        assert_eq!(got.as_ref(), Some(bytes), "{how}: {key}");
    }
    let (key, bytes) = &rest.objects[4];
    let part = world.get_range("b", key, Some(7_001..33_333)).await.unwrap().unwrap();
    assert_eq!(part, bytes.slice(7_001..33_333), "{how}: a range of {key}");
}

/// Writes go on, and what is written is there.
async fn writes(world: &World, how: &str) {
    for (key, bytes) in [("new-small", noise(80, 500)), ("new-large", noise(81, 40_000))] {
        world.put("b", key, &bytes).await.unwrap_or_else(|error| panic!("{how}: put {key}: {error}"));
        assert_eq!(world.get("b", key).await.unwrap(), Some(bytes), "{how}");
    }
}

/// All subsets of 1 to `most` of `n` drives.
fn subsets(n: usize, most: usize) -> Vec<Vec<usize>> {
    let bits = (1u32..1 << n).filter(|bits| bits.count_ones() as usize <= most);
    bits.map(|bits| (0..n).filter(|i| bits & (1 << i) != 0).collect()).collect()
}

/// The ways in which the drives of a subset are lost: all in one way, and each in another.
fn ways(lost: &[usize]) -> Vec<Vec<Way>> {
    let mut all: Vec<Vec<Way>> = WAYS.iter().map(|way| vec![*way; lost.len()]).collect();
    if lost.len() > 1 {
        all.extend((0..WAYS.len()).map(|first| (0..lost.len()).map(|i| WAYS[(first + i + 1) % WAYS.len()]).collect()));
    }
    all
}

async fn stopped(rest: &Rest, n: usize, m: usize, lost: &[usize], ways: &[Way]) {
    let how = format!("{n} drives, stopped, lost {lost:?} {ways:?}");
    let image = rest.trace.restart();
    lost.iter().zip(ways).for_each(|(drive, way)| lose(image.trace(), *drive, *way, *drive as u64 + 3));
    let goes_on = n > 2 * m;
    // Where writes can't go on, a start does not bring the index up to date: the one that there was is needed.
    let indexes = if goes_on { Indexes::lost() } else { rest.indexes() };
    let world = World::start(disks(image.trace()), &indexes, &rest.shape).await;
    let world = world.unwrap_or_else(|error| panic!("{how}: {error}"));
    let status = world.metadata.status();
    assert!(!goes_on || status.mode == Mode::Serving, "{how}: {}", status.reason);
    reads(rest, &world, &how).await;
    if goes_on {
        writes(&world, &how).await;
    }
    world.stop().await;
}

async fn running(rest: &Rest, n: usize, m: usize, lost: &[usize], ways: &[Way]) {
    let how = format!("{n} drives, running, lost {lost:?} {ways:?}");
    let image = rest.trace.restart();
    let world = World::start(disks(image.trace()), &rest.indexes(), &rest.shape).await.unwrap();
    lost.iter().zip(ways).for_each(|(drive, way)| lose(image.trace(), *drive, *way, *drive as u64 + 3));
    reads(rest, &world, &how).await;
    if n > 2 * m {
        writes(&world, &how).await;
        reads(rest, &world, &how).await;
    }
    world.stop().await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn every_pattern(n: usize, geometry: &str) {
    let m = usize::from(geometry.parse::<Geometry>().unwrap().m());
    runtime().block_on(async {
        let rest = rest(n, geometry).await;
        let mut patterns = 0;
        for lost in subsets(n, m) {
            for ways in ways(&lost) {
                stopped(&rest, n, m, &lost, &ways).await;
                running(&rest, n, m, &lost, &ways).await;
                patterns += 2;
            }
        }
        println!("{geometry} on {n} drives: {patterns} losses of up to {m} drives, nothing lost");
    });
}

#[test]
fn one_parity_shard() {
    every_pattern(2, "1+1");
    every_pattern(3, "1+1");
    every_pattern(4, "2+1");
}

#[test]
fn two_parity_shards_on_few_drives() {
    every_pattern(3, "1+2");
    every_pattern(4, "2+2");
}

#[test]
fn two_parity_shards_on_five_drives() {
    every_pattern(5, "2+2");
    every_pattern(5, "1+2");
}

#[test]
fn three_and_four_data_shards() {
    every_pattern(6, "3+2");
    every_pattern(7, "4+2");
}

/// More than m: what has enough shards or copies left is read, anything else is an error, and nothing is wrong bytes.
async fn too_many(n: usize, geometry: &str, lost: &[usize], way: Way) -> (usize, usize) {
    let rest = rest(n, geometry).await;
    let image = rest.trace.restart();
    let world = World::start(disks(image.trace()), &rest.indexes(), &rest.shape).await.unwrap();
    let ids: Vec<_> =
        disks(image.trace()).iter().map(|disk| drive::probe(Arc::clone(disk), None).identity.unwrap().drive).collect();
    let dead: Vec<DriveId> = lost.iter().map(|drive| ids[*drive]).collect();
    let ensemble = world.metadata.status().ensemble;
    lost.iter().for_each(|drive| lose(image.trace(), *drive, way, *drive as u64 + 3));
    let (mut read, mut refused) = (0, 0);
    for (key, bytes) in &rest.objects {
        let content = world.version("b", key).await.unwrap().unwrap().content.unwrap();
        let chunks: Vec<_> =
            Manifest::parse(&content.manifest).unwrap().entries().iter().map(|entry| entry.id).collect();
        let readable =
            world.metadata.locate(&chunks).await.unwrap().into_iter().flatten().all(|chunk| match chunk.stripe {
                Some(stripe) => {
                    let gone = stripe.drives.iter().flatten().filter(|drive| dead.contains(drive)).count();
                    let own = stripe.drives.get(chunk.place.shard as usize).copied().flatten();
                    gone <= usize::from(stripe.descriptor.geometry.m()) || own.is_some_and(|own| !dead.contains(&own))
                }
                None => ensemble.iter().any(|drive| !dead.contains(drive)),
            });
        match world.get("b", key).await {
            Ok(got) => assert_eq!(got.as_ref(), Some(bytes), "{key} with {lost:?} {way:?} lost"),
            Err(error) => {
                assert!(!readable, "{key} with {lost:?} {way:?} lost: {error}");
                assert!(!error.to_string().is_empty());
                refused += 1;
                continue;
            }
        }
        read += 1;
    }
    world.stop().await;
    (read, refused)
}

#[test]
fn more_than_m_lost_is_an_error_and_never_wrong_bytes() {
    for (n, geometry) in [(3, "1+1"), (4, "2+1"), (5, "2+2"), (6, "3+2")] {
        let m = usize::from(geometry.parse::<Geometry>().unwrap().m());
        let (mut read, mut refused) = (0, 0);
        for lost in subsets(n, m + 1).into_iter().filter(|lost| lost.len() == m + 1) {
            for way in [Way::Gone, Way::Noise, Way::Flipped] {
                let (r, e) = runtime().block_on(too_many(n, geometry, &lost, way));
                (read, refused) = (read + r, refused + e);
            }
        }
        println!("{geometry} on {n} drives, {} lost: {read} reads identical, {refused} refused", m + 1);
        assert!(read > 0 && refused > 0);
    }
}

/// Stripes of up to 16 shards, through the node alone.
#[test]
fn large_geometries() {
    for geometry in ["6+4", "8+3", "10+4", "12+4", "4+12"] {
        runtime().block_on(large_geometry(geometry.parse().unwrap()));
    }
}

async fn large_geometry(geometry: Geometry) {
    let n = usize::from(geometry.total());
    let trace = Trace::new(n);
    let cluster = ClusterId([5; 16]);
    let id = |i: usize| DriveId([i as u8 + 1; 16]);
    for (i, disk) in disks(&trace).iter().enumerate() {
        drive::format(&**disk, cluster, id(i), None).unwrap();
    }
    let (layout, frames, places) = write_one(&trace, cluster, geometry).await;
    let m = usize::from(geometry.m());
    for round in 0..60u64 {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|drive| mix(round, *drive as u64));
        // The first rounds lose the drives of the data shards first, and one in ten loses one too many.
        if round < 4 {
            let first: Vec<usize> = layout.drives.iter().flatten().map(|drive| usize::from(drive.0[0]) - 1).collect();
            order.sort_by_key(|drive| first.iter().position(|other| other == drive).unwrap_or(n));
        }
        let too_many = round % 10 == 9;
        let lost = &order[..m + usize::from(too_many)];
        let image = trace.restart();
        let node = open(image.trace(), cluster).await;
        lost.iter().for_each(|drive| lose(image.trace(), *drive, WAYS[(round % 4) as usize], round));
        let mut refused = 0;
        for (frame, place) in frames.iter().zip(&places) {
            let range = place.offset..place.offset + frame.len() as u32;
            match read_range(&*node, &layout, place.shard, range, ReadOptions::default()).await {
                Ok(bytes) => assert_eq!(bytes, frame, "{geometry} with {lost:?} lost"),
                Err(error) => {
                    assert!(too_many, "{geometry} with {lost:?} lost: {error}");
                    refused += 1;
                }
            }
        }
        assert!(round != 9 || refused <= frames.len());
        node.stop().await;
    }
    println!("{geometry}: 60 losses");
}

async fn open(trace: &Trace, cluster: ClusterId) -> Arc<StorageNode> {
    let probed = disks(trace).into_iter().map(|disk: Arc<dyn Disk>| drive::probe(disk, Some(cluster))).collect();
    let index: Arc<dyn Kv> = Arc::new(MemoryKv::new(node_families()));
    let config = NodeConfig { data_segment: 1 << 20, preallocate_step: 256 << 10, ..NodeConfig::new(cluster) };
    StorageNode::open(config, probed, index).await.unwrap()
}

async fn write_one(
    trace: &Trace,
    cluster: ClusterId,
    geometry: Geometry,
) -> (StripeLayout, Vec<Bytes>, Vec<FramePlace>) {
    let node = open(trace, cluster).await;
    node.begin(Epoch(1 << 32)).await.unwrap();
    let mut packer = StripePacker::new(geometry.k(), geometry.m(), 64 << 10);
    let frames: Vec<Bytes> = (0..u64::from(geometry.k()) * 3).map(|i| noise(i, 9_000 + 100 * i as usize)).collect();
    frames.iter().for_each(|frame| packer.add(frame.clone()));
    let (id, erasure) = (StripeId { epoch: Epoch(1 << 32), counter: 1 }, Erasure::new(geometry));
    let packed = packer.finish(id, StripeClass::Data, geometry, cluster, None, &erasure).unwrap();
    let all: Vec<DriveId> = (0..geometry.total()).map(|i| DriveId([i + 1; 16])).collect();
    let mut targets = |wanted: TargetsWanted<'_>| -> Vec<DriveId> {
        let free = all.iter().filter(|drive| !wanted.used.contains(drive) && !wanted.failed.contains(drive));
        free.take(wanted.count).copied().collect()
    };
    let drives = write_stripe(&*node, &packed, Reserve::Client, &mut targets).await.unwrap();
    node.stop().await;
    (StripeLayout { descriptor: packed.descriptor, drives }, frames, packed.places)
}

/// Many readers at once while drives go.
#[test]
fn readers_do_not_notice_a_loss_in_the_middle() {
    runtime().block_on(async {
        let rest = rest(5, "2+2").await;
        let world = World::start(disks(&rest.trace), &rest.indexes(), &rest.shape).await.unwrap();
        for drive in [3, 1] {
            let reads = (0..4).map(|_| reads(&rest, &world, "in the middle"));
            let lost = async { rest.trace.remove_drive(drive) };
            futures::future::join(join_all(reads), lost).await;
        }
        writes(&world, "after two").await;
        world.stop().await;
    });
}
