//! Crashes at every position of a small workload: everything acknowledged by then is there afterwards.

use super::failures::member;
use super::world::{Client, Home, World, noise, run};
use crate::client::{MetadataClient, Mode};
use crate::index::FAMILIES;
use crate::service::Metadata;
use rustix::io::Errno;
use storage_node::disk::faulty::Fault;
use storage_node::kv::MemoryKv;
use storage_node::kv::memory::MemorySnapshot;
use storage_node::sabotage::{Sabotage, SabotageSet};

/// What is true from a position on.
struct Moment {
    position: u64,
    client: Client,
    index: MemorySnapshot,
}

fn note(world: &World, client: &Client, moments: &mut Vec<Moment>) {
    let index = world.home.kv.lock().unwrap().snapshot();
    moments.push(Moment { position: world.trace.position(), client: client.clone(), index });
}

/// A first start and a bucket, noted.
async fn begun(world: &World) -> (Metadata, Client, Vec<Moment>) {
    let mut moments = Vec::new();
    note(world, &Client::default(), &mut moments);
    let (metadata, client) = world.filled(0..0, 0).await;
    note(world, &client, &mut moments);
    (metadata, client, moments)
}

async fn workload(world: &World, seal: bool) -> Result<Vec<Moment>, String> {
    let (metadata, mut client, mut moments) = begun(world).await;
    for n in 0..4 {
        client.put(&metadata, &format!("key-{n}"), noise(n, 500 + 3000 * n as usize)).await.unwrap();
        note(world, &client, &mut moments);
        if n == 2 && seal {
            metadata.seal_now().await.unwrap();
            note(world, &client, &mut moments);
        }
    }
    metadata.shutdown().await;
    note(world, &client, &mut moments);
    let metadata = world.start().await;
    client.put(&metadata, "last", noise(9, 700)).await.map_err(|e| e.to_string())?;
    note(world, &client, &mut moments);
    metadata.shutdown().await;
    Ok(moments)
}

/// Crashes at every `step`-th position; returns how many images were started.
async fn crash_everywhere(world: &World, moments: &[Moment], step: u64, random: usize) -> Result<usize, String> {
    let mut images = 0;
    let end = world.trace.position();
    for position in (0..=end).step_by(step as usize) {
        let moment = moments.iter().rev().find(|m| m.position <= position).unwrap();
        let next = moments.iter().find(|m| m.position > position);
        let point = world.trace.point(position);
        for (n, choice) in point.choices(random, position).enumerate() {
            let image = point.image(&choice);
            // The index is lost, or as old as the last acknowledgement.
            let kv = if n % 2 == 0 { MemoryKv::new(&FAMILIES) } else { MemoryKv::from_snapshot(&moment.index) };
            let mut later = world.after(&image, Home::new(kv));
            later.config.geometry = world.config.geometry;
            later.config.sabotage = SabotageSet::default();
            let metadata = later.try_start().await.map_err(|e| format!("position {position}, {choice:?}: {e}"))?;
            let status = metadata.status();
            if status.mode != Mode::Serving {
                return Err(format!("position {position}, {choice:?}: {}", status.reason));
            }
            let mut client = moment.client.clone();
            if let Some(next) = next {
                client.doubtful.extend(next.client.acked.clone());
            }
            for (key, bytes) in &client.acked {
                if client.get(&metadata, key).await.as_ref() != Some(bytes) {
                    return Err(format!("position {position}, {choice:?}: {key} was lost"));
                }
            }
            if client.bucket.is_some() {
                client.check(&metadata).await;
                client.put(&metadata, "new", vec![1, 2, 3]).await.map_err(|e| e.to_string())?;
            }
            metadata.shutdown().await;
            images += 1;
        }
    }
    Ok(images)
}

#[test]
fn nothing_acknowledged_is_lost_in_a_crash() {
    run(async {
        let world = World::new(3, "1+1");
        let moments = workload(&world, false).await.unwrap();
        let images = crash_everywhere(&world, &moments, 1, 2).await.unwrap();
        println!("{images} images over {} positions", world.trace.position());
    });
}

#[test]
fn a_crash_inside_sealing_is_harmless() {
    run(async {
        let world = World::new(3, "1+1");
        let moments = workload(&world, true).await.unwrap();
        let images = crash_everywhere(&world, &moments, 1, 2).await.unwrap();
        println!("{images} images over {} positions", world.trace.position());
    });
}

/// Without the step, some crash loses something: so the step is needed, and the enumeration would notice.
fn needed(step: Sabotage, seal: bool) {
    run(async {
        let world = World::over(
            storage_node::disk::faulty::Trace::new(3),
            Home::new(MemoryKv::new(&FAMILIES)),
            "1+1",
            SabotageSet::only(step),
        );
        let found = match workload(&world, seal).await {
            Ok(moments) => crash_everywhere(&world, &moments, 1, 1).await,
            Err(noticed) => Err(noticed),
        };
        assert!(found.is_err(), "{step:?} is not noticed");
    });
}

#[test]
fn journal_before_ack_is_needed() {
    needed(Sabotage::JournalBeforeAck, false);
}

#[test]
fn seal_commit_first_is_needed() {
    needed(Sabotage::SealCommitFirst, true);
}

/// A workload in which `count` members of the ensemble fail a write at the same time.
async fn changes(world: &World, count: usize) -> Vec<Moment> {
    let (metadata, mut client, mut moments) = begun(world).await;
    for n in 0..3 {
        client.put(&metadata, &format!("key-{n}"), noise(n, 2000)).await.unwrap();
        note(world, &client, &mut moments);
    }
    for nth in 0..count {
        let drive = member(world, &metadata, nth).await;
        let sync = storage_node::disk::DiskOp::SyncData;
        world.trace.inject(Fault::error(Errno::IO).drive(drive).path("journal").on(sync).times(1));
    }
    for n in 3..5 {
        client.put(&metadata, &format!("key-{n}"), noise(n, 2000)).await.unwrap();
        note(world, &client, &mut moments);
    }
    metadata.shutdown().await;
    moments
}

#[test]
fn a_crash_while_a_member_is_replaced_is_harmless() {
    run(async {
        let world = World::new(4, "1+1");
        let moments = changes(&world, 1).await;
        crash_everywhere(&world, &moments, 1, 1).await.unwrap();
    });
}

/// All members failed a write at once. The register named the new ones before these had the tail, so that a crash in between
/// left an ensemble of which nobody was complete, and the next start served reads only although every entry was there.
#[test]
fn a_crash_while_all_members_are_replaced_is_harmless() {
    run(async {
        let world = World::new(4, "1+1");
        let moments = changes(&world, 2).await;
        crash_everywhere(&world, &moments, 1, 1).await.unwrap();
    });
}
