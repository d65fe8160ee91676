//! Bit rot and truncation, everywhere: each byte of a data segment and of a journal segment, one at a time.
//!
//! With redundancy everything is served as it was. Without it (m = 0) what lies on the rotten byte is an error, and
//! everything else is served. Never wrong bytes, never a panic, never a neighbour that is lost with it.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use metadata::client::{MetadataClient, Mode};
use std::collections::BTreeSet;
use storage_node::disk::faulty::{CrashImage, What};
use storage_node::disk::{Access, Disk, DiskOp};
use tests::crash::mix;
use tests::world::{Indexes, Rest, World, disks, noise, text};

/// A small store at rest: three objects in the journal, two in stripes.
async fn rest(n: usize, geometry: &str) -> Rest {
    let rest = Rest::new(n, geometry, async |trace, world| {
        world.create_bucket("b").await.unwrap();
        let objects = [("j0", noise(1, 400)), ("l0", noise(2, 9_000)), ("j1", text(3, 900)), ("l1", noise(4, 6_000))];
        let mut objects: Vec<(String, Bytes)> = objects.into_iter().map(|(key, b)| (key.to_owned(), b)).collect();
        objects.push(("j2".to_owned(), noise(5, 300)));
        for (key, bytes) in &objects {
            trace.mark(format!("put {key}"));
            world.put("b", key, bytes).await.unwrap();
        }
        objects
    });
    rest.await.unwrap()
}

fn indexes(rest: &Rest, lost: bool) -> Indexes {
    if lost { Indexes::lost() } else { rest.indexes() }
}

/// The only segment of a class on a drive, and the bytes of it that were written.
fn segment(rest: &Rest, drive: usize, dir: &str) -> Option<(String, u64)> {
    let disk = rest.trace.disk(drive);
    let name = disk.list(dir).unwrap().pop()?;
    let path = format!("{dir}/{name}");
    let file = disk.open(&path, Access::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    Some((path, used.next_multiple_of(4096)))
}

/// A drive with a segment of this class.
fn some_segment(rest: &Rest, dir: &str) -> (usize, String, u64) {
    let drives = 0..rest.trace.disks().len();
    drives
        .filter_map(|i| segment(rest, i, dir).map(|(path, used)| (i, path, used)))
        .max_by_key(|found| found.2)
        .unwrap()
}

/// Reads everything: identical, or an error for the keys in `may_fail`.
async fn reads(
    rest: &Rest,
    world: &World,
    may_fail: &BTreeSet<String>,
    lost_index: bool,
    how: &dyn Fn() -> String,
) -> usize {
    let mut failed = 0;
    for (i, (key, bytes)) in rest.objects.iter().enumerate() {
        // Without another copy, without the index, and with nothing written after it, the last record can't be told
        // from a torn tail (R7: the barrier is what somebody still says).
        let may_vanish = lost_index && i + 1 == rest.objects.len();
        match world.get("b", key).await {
            Ok(None) if may_vanish && may_fail.contains(key) => failed += 1,
            Ok(got) => assert_eq!(got.as_ref(), Some(bytes), "{}: {key}", how()),
            Err(error) => {
                assert!(may_fail.contains(key), "{}: {key}: {error}", how());
                failed += 1;
            }
        }
    }
    failed
}

/// Starts from an image; gives what could not be read. A start that refuses is fine only where `may_refuse`.
async fn mount(
    rest: &Rest,
    image: &CrashImage,
    lost_index: bool,
    may_fail: &BTreeSet<String>,
    must_serve: bool,
    how: &dyn Fn() -> String,
) -> usize {
    let world = World::start(disks(image.trace()), &indexes(rest, lost_index), &rest.shape).await;
    let world = match world {
        Ok(world) => world,
        Err(error) if must_serve => panic!("{}: {error}", how()),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return rest.objects.len();
        }
    };
    let status = world.metadata.status();
    assert!(!must_serve || status.mode == Mode::Serving, "{}: {}", how(), status.reason);
    // Without its index a service that may only read knows of nothing, and says why it may only read.
    let knows = !lost_index || status.mode == Mode::Serving;
    let failed = if knows { reads(rest, &world, may_fail, lost_index, how).await } else { 0 };
    assert!(knows || !status.reason.is_empty());
    world.stop().await;
    failed
}

/// The keys whose records of a segment of drive 0 have this block: what was written to it between their marks.
fn touched(rest: &Rest, path: &str, block: u64) -> BTreeSet<String> {
    let (mut key, mut touched) = (String::new(), BTreeSet::new());
    for event in rest.trace.events() {
        match event.what {
            What::Mark(text) => key = text.trim_start_matches("put ").to_owned(),
            What::Op { drive: 0, op: DiskOp::Write, path: at, offset, len, .. }
                if &*at == path
                    && !key.is_empty()
                    && (offset / 4096..(offset + len).div_ceil(4096)).contains(&block) =>
            {
                touched.insert(key.clone());
            }
            _ => {}
        }
    }
    touched
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Flips each byte while the store runs, reads everything, and flips it back.
async fn every_byte_running(dir: &str) {
    let rest = rest(3, "1+1").await;
    let (drive, path, used) = some_segment(&rest, dir);
    let image = rest.trace.restart();
    let world = World::start(disks(image.trace()), &rest.indexes(), &rest.shape).await.unwrap();
    let none = BTreeSet::new();
    for offset in 0..used {
        let mask = 1 << (offset % 8);
        image.trace().flip(drive, &path, offset, mask).unwrap();
        reads(&rest, &world, &none, false, &|| format!("{path}: byte {offset} flipped")).await;
        image.trace().flip(drive, &path, offset, mask).unwrap();
    }
    world.stop().await;
    println!("{used} bytes of {path} flipped under a running store");
}

/// Flips bytes of a stopped store: a share of the bytes of each block. Starts without and with its index.
async fn bytes_stopped(n: usize, geometry: &str, dir: &str, every: u64) {
    let rest = rest(n, geometry).await;
    let (drive, path, used) = some_segment(&rest, dir);
    let redundant = n > 1;
    let (mut starts, mut failed) = (0, 0);
    for offset in (0..used).step_by(every as usize) {
        let offset = offset + mix(offset, 5) % every;
        let may_fail = match redundant {
            true => BTreeSet::new(),
            // Without a copy and without the index nobody has the segment's seed any more: all of it is gone with its header.
            false if offset < 4096 => rest.objects.iter().map(|(key, _)| key.clone()).collect(),
            false => touched(&rest, &path, offset / 4096),
        };
        let image = rest.trace.restart();
        image.trace().flip(drive, &path, offset, 1 << (offset % 8)).unwrap();
        let lost_index = (offset / every).is_multiple_of(2);
        let how = || format!("{geometry}, {path}: byte {offset} flipped while stopped, index lost: {lost_index}");
        failed += mount(&rest, &image, lost_index, &may_fail, redundant, &how).await;
        starts += 1;
    }
    println!("{geometry}, {path}: {starts} starts with a flipped byte, {failed} reads refused");
}

async fn truncations(n: usize, geometry: &str, dir: &str) {
    let rest = rest(n, geometry).await;
    let (drive, path, used) = some_segment(&rest, dir);
    let redundant = n > 1;
    let all: BTreeSet<String> = rest.objects.iter().map(|(key, _)| key.clone()).collect();
    let may_fail = if redundant { BTreeSet::new() } else { all };
    let (mut starts, mut failed) = (0, 0);
    for block in 0..=used / 4096 {
        for odd in [0, 1, 511, 512, 4000, 4095] {
            let len = block * 4096 + odd;
            for lost_index in [true, false] {
                let image = rest.trace.restart();
                let file = image.disks()[drive].clone();
                let file = file.open(&path, Access::ReadWrite).unwrap();
                file.truncate(len).unwrap();
                file.sync_data().unwrap();
                let how = || format!("{geometry}, {path}: truncated to {len}, index lost: {lost_index}");
                failed += match redundant {
                    true => mount(&rest, &image, lost_index, &may_fail, true, &how).await,
                    false => mount_without_redundancy(&rest, &image, lost_index, &how).await,
                };
                starts += 1;
            }
        }
    }
    println!("{geometry}, {path}: {starts} starts with a truncated segment, {failed} reads refused");
}

/// One drive, no copies: a cut-off tail takes what was in it, and nothing is wrong bytes.
async fn mount_without_redundancy(
    rest: &Rest,
    image: &CrashImage,
    lost_index: bool,
    how: &dyn Fn() -> String,
) -> usize {
    let Ok(world) = World::start(disks(image.trace()), &indexes(rest, lost_index), &rest.shape).await else {
        return rest.objects.len();
    };
    let mut missing = 0;
    for (key, bytes) in &rest.objects {
        match world.get("b", key).await {
            Ok(Some(got)) => assert_eq!(&got, bytes, "{}: {key}", how()),
            Ok(None) | Err(_) => missing += 1,
        }
    }
    world.stop().await;
    missing
}

#[test]
fn every_byte_of_a_data_segment() {
    runtime().block_on(every_byte_running("segments"));
}

#[test]
fn every_byte_of_a_journal_segment() {
    runtime().block_on(every_byte_running("journal"));
}

#[test]
fn bytes_of_a_stopped_store() {
    runtime().block_on(async {
        bytes_stopped(3, "1+1", "segments", 64).await;
        bytes_stopped(3, "1+1", "journal", 64).await;
    });
}

#[test]
fn bytes_of_a_store_without_redundancy() {
    runtime().block_on(async {
        bytes_stopped(1, "1+0", "segments", 128).await;
        bytes_stopped(1, "1+0", "journal", 128).await;
    });
}

#[test]
fn every_truncation() {
    runtime().block_on(async {
        for dir in ["segments", "journal"] {
            truncations(3, "1+1", dir).await;
            truncations(1, "1+0", dir).await;
        }
    });
}
