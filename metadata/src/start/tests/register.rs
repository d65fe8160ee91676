//! Changes of the ensemble's register that come to nothing, and the starts after them.

use super::drives::formatted;
use super::failures::numbers;
use super::world::{Client, Home, World, noise, run};
use crate::client::{MetadataClient, Mode};
use crate::index::FAMILIES;
use crate::service::Metadata;
use codec::id::DriveId;
use codec::register::Register;
use rustix::io::Errno;
use std::collections::BTreeSet;
use storage_node::disk::DiskOp;
use storage_node::disk::faulty::{CrashChoice, Fault, Trace};
use storage_node::drive::probe;
use storage_node::kv::MemoryKv;
use storage_node::sabotage::{Sabotage, SabotageSet};

/// The trace's numbers of the ensemble's members, and of the other drives.
async fn split(world: &World, metadata: &Metadata) -> (Vec<usize>, Vec<usize>) {
    let members = metadata.status().ensemble;
    let all = numbers(world, metadata).await;
    let of = |is_member: bool| {
        all.iter().filter(|(id, _)| members.contains(id) == is_member).map(|(_, number)| *number).collect()
    };
    (of(true), of(false))
}

/// A full drive takes no register, and is otherwise as good as before.
fn takes_no_register(world: &World, drives: &[usize]) {
    for drive in drives {
        world.trace.inject(Fault::error(Errno::NOSPC).on(DiskOp::Create).drive(*drive).path("register"));
    }
}

fn register_of(world: &World, drive: usize) -> Option<Register> {
    Register::parse(&probe(world.trace.disk(drive), None).register).ok()
}

/// One member fails a write, and the register that replaces it reaches two of five drives: nothing is acknowledged.
async fn failed_change(world: &World) -> (Metadata, Client, Vec<usize>, Vec<usize>) {
    let (metadata, mut client) = world.filled(0..5, 1000).await;
    let (members, others) = split(world, &metadata).await;
    takes_no_register(world, &[members[0], members[1], others[2]]);
    let journal = Fault::error(Errno::IO).drive(members[0]).path("journal");
    world.trace.inject(journal.on(DiskOp::SyncData).times(1));
    let failed = client.put(&metadata, "in-between", noise(77, 1000)).await;
    assert!(failed.is_err() && metadata.status().mode == Mode::ReadOnly, "{failed:?}");
    assert!(metadata.status().reason.contains("reached 2 drives"), "{}", metadata.status().reason);
    let names = |drive: usize| register_of(world, drive).unwrap().members.into_iter().collect::<BTreeSet<DriveId>>();
    assert_ne!(names(others[0]), names(members[0]));
    (metadata, client, members, others)
}

/// The committer takes it up when it has seen the look; the test's own limit is the patience.
async fn resumed(metadata: &Metadata) {
    metadata.check_drives().await;
    while metadata.status().mode != Mode::Serving {
        tokio::task::yield_now().await;
    }
}

/// Whether a start with these drives and without an index, which lack what was acknowledged last, serves writes all the same.
/// Where it does not, everything is there with the other drives.
async fn is_forgotten(world: &mut World, client: &Client, given: &[usize]) -> bool {
    world.trace.heal_all();
    world.given = given.to_vec();
    world.lose_index();
    let metadata = world.start().await;
    let status = metadata.status();
    metadata.shutdown().await;
    if status.mode == Mode::Serving {
        return true;
    }
    assert!(status.reason.contains("accept-loss"), "{}", status.reason);
    world.given = (0..5).collect();
    let metadata = world.serving().await;
    client.check(&metadata).await;
    metadata.shutdown().await;
    false
}

/// Five drives, of which a journal entry may lose one; with a safety step, and without it.
fn worlds(drives: usize, step: Sabotage) -> [(World, bool); 2] {
    let world = |sabotage| World::over(Trace::new(drives), Home::new(MemoryKv::new(&FAMILIES)), "2+1", sabotage);
    [(world(SabotageSet::default()), false), (world(SabotageSet::only(step)), true)]
}

/// The journal went on under the old members, and the register that had come to nothing was the newest: a start that found it
/// missed one drive where two were missing.
#[test]
fn a_register_that_came_to_nothing_is_not_adopted_after_the_journal_has_gone_on() {
    run(async {
        for (mut world, sabotaged) in worlds(5, Sabotage::RegisterSettle) {
            let (metadata, mut client, members, others) = failed_change(&world).await;
            world.trace.heal_all();
            resumed(&metadata).await;
            client.puts(&metadata, 5..15, 1000).await;
            let found: Vec<Register> = (0..5).filter_map(|drive| register_of(&world, drive)).collect();
            let same = found.iter().all(|register| *register == found[0]);
            assert_eq!(same, !sabotaged, "the same everywhere: {found:#?}");
            let (again, _) = split(&world, &metadata).await;
            assert_eq!(again, members, "both are well again");
            metadata.shutdown().await;
            assert_eq!(is_forgotten(&mut world, &client, &others).await, sabotaged);
        }
    });
}

/// The same, over a crash: the next start does not meet the drives that have the failed register.
#[test]
fn a_start_is_newer_than_what_an_earlier_one_has_left_elsewhere() {
    run(async {
        for (mut world, sabotaged) in worlds(5, Sabotage::RegisterClaim) {
            let (metadata, mut client, members, others) = failed_change(&world).await;
            metadata.shutdown().await;
            world.trace.heal_all();
            world.given = vec![members[0], members[1], others[2]];
            world.lose_index();
            let metadata = world.serving().await;
            client.puts(&metadata, 5..15, 1000).await;
            assert_eq!(split(&world, &metadata).await.0, members);
            metadata.shutdown().await;
            assert_eq!(is_forgotten(&mut world, &client, &others).await, sabotaged);
        }
    });
}

/// Whatever a crash leaves between the failed change and the end of the next start: all drives together have everything.
#[test]
fn a_crash_anywhere_around_a_failed_change_loses_nothing() {
    run(async {
        let world = World::new(5, "2+1");
        let before = world.trace.position();
        let (metadata, mut client, ..) = failed_change(&world).await;
        let acked = client.clone();
        let failed = world.trace.position();
        world.trace.heal_all();
        resumed(&metadata).await;
        client.puts(&metadata, 5..6, 1000).await;
        let resumed = world.trace.position();
        metadata.shutdown().await;
        assert!(before < failed && failed < resumed);
        for at in failed..=resumed {
            let client = if at == resumed { &client } else { &acked };
            for choice in [CrashChoice::Nothing, CrashChoice::Everything] {
                let later = world.after(&world.trace.image(at, &choice), world.home.clone());
                later.lose_index();
                let metadata = later.serving().await;
                client.check(&metadata).await;
                metadata.shutdown().await;
            }
        }
    });
}

/// Two additions that came to nothing, each on another half of the drives: each half was a majority of its own, and both served.
#[test]
fn two_additions_that_came_to_nothing_leave_no_two_majorities() {
    run(async {
        for (mut world, sabotaged) in worlds(6, Sabotage::RegisterSettle) {
            world.given.truncate(4);
            let (metadata, mut client) = world.filled(0..5, 1000).await;
            let (members, others) = split(&world, &metadata).await;
            let (one, two) = ([members[0], others[0]], [members[1], others[1]]);
            takes_no_register(&world, &two);
            metadata.add_drive(formatted(&world, 4, DriveId([0xaa; 16]))).await.unwrap_err();
            world.trace.heal_all();
            takes_no_register(&world, &one);
            metadata.add_drive(formatted(&world, 5, DriveId([0xbb; 16]))).await.unwrap_err();
            world.trace.heal_all();
            metadata.shutdown().await;

            let mut served = 0;
            for (half, new) in [(one, 4), (two, 5)] {
                world.given = vec![half[0], half[1], new];
                world.lose_index();
                let metadata = world.start().await;
                if metadata.status().mode == Mode::Serving {
                    served += 1;
                    client.put(&metadata, &format!("half-{new}"), noise(new as u64, 1000)).await.unwrap();
                }
                metadata.shutdown().await;
            }
            assert_eq!(served == 2, sabotaged, "two halves have served writes, and know nothing of each other");
            if !sabotaged {
                world.given = (0..6).collect();
                let metadata = world.serving().await;
                client.check(&metadata).await;
                metadata.shutdown().await;
            }
        }
    });
}

/// An addition for which too few drives take writes changes nothing, and the journal goes on.
#[test]
fn an_addition_that_would_come_to_nothing_is_not_begun() {
    run(async {
        let mut world = World::new(6, "2+1");
        world.given.truncate(5);
        let (metadata, mut client) = world.filled(0..5, 1000).await;
        let (_, others) = split(&world, &metadata).await;
        for drive in &others {
            world.trace.remove_drive(*drive);
        }
        metadata.check_drives().await;
        let (members, _) = split(&world, &metadata).await;
        let before = register_of(&world, members[0]).unwrap();
        let refused = metadata.add_drive(formatted(&world, 5, DriveId([0xaa; 16]))).await;
        assert!(refused.unwrap_err().to_string().contains("reached 2 drives"));
        assert!(members.iter().all(|drive| register_of(&world, *drive).as_ref() == Some(&before)));
        client.puts(&metadata, 5..10, 1000).await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}
