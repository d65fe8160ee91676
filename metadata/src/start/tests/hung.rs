//! Drives that neither answer nor fail.

use super::failures::member;
use super::world::{World, run};
use crate::client::{MetadataClient, Mode};
use crate::journal::Patience;
use crate::survey::survey;
use codec::id::Lsn;
use std::time::{Duration, Instant};
use storage_node::disk::DiskOp;
use storage_node::disk::faulty::Fault;
use storage_node::sabotage::SabotageSet;

/// Longer than a busy machine takes for what does not wait for a disk that hangs, and shorter than such a disk hangs (120 s).
const NOT_WAITED_FOR: Duration = Duration::from_secs(60);

fn impatient(drives: usize, geometry: &str) -> World {
    let mut world = World::new(drives, geometry);
    // Longer than drives take on a busy machine that do not hang.
    world.config.patience = Patience { hedge_after: Duration::from_millis(30), deadline: Duration::from_secs(4) };
    world
}

/// A small object lies in the journal, and was asked of the first member that holds it: while that one hung, so did the GET,
/// and sealing, and the copy of the tail to a new member.
#[test]
fn a_member_that_hangs_is_read_around() {
    run(async {
        let world = impatient(4, "2+1");
        let (metadata, client) = world.filled(0..20, 2000).await;
        let first = member(&world, &metadata, 0).await;
        let hung = world.trace.inject(Fault::hang().on(DiskOp::Read).drive(first).path("journal"));
        let begun = Instant::now();
        client.check(&metadata).await;
        // One reader waits for the hung member; the rest know better.
        assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
        assert!(world.trace.hits(hung) > 0);
        metadata.seal_now().await.unwrap();
        client.check(&metadata).await;
        assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
        world.trace.heal_all();
        metadata.shutdown().await;
    });
}

#[test]
fn with_all_members_hung_a_read_ends_all_the_same() {
    run(async {
        let world = impatient(4, "2+1");
        let (metadata, client) = world.filled(0..1, 2000).await;
        world.trace.inject(Fault::hang().on(DiskOp::Read).path("journal"));
        let content =
            metadata.current_version(client.bucket.unwrap(), "key-0").await.unwrap().unwrap().content.unwrap();
        let id = codec::manifest::Manifest::parse(&content.manifest).unwrap().entries()[0].id;
        let located = metadata.locate(&[id]).await.unwrap().remove(0).unwrap();
        let begun = Instant::now();
        assert!(metadata.read_frame(&located).await.is_err());
        assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
        world.trace.heal_all();
        metadata.shutdown().await;
    });
}

/// Recovery scanned the drives together and waited for the last of them, for ever.
#[test]
fn a_drive_that_hangs_is_left_out_of_the_survey() {
    run(async {
        let world = impatient(4, "2+1");
        let (metadata, _client) = world.filled(0..20, 2000).await;
        let first = member(&world, &metadata, 0).await;
        world.trace.inject(Fault::hang().on(DiskOp::Read).drive(first).path("journal"));
        let begun = Instant::now();
        let limit = world.config.patience.deadline;
        let copies = survey(&**metadata.node(), Lsn(0), limit, &SabotageSet::default()).await.unwrap();
        assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
        assert_eq!(copies.len(), 3);
        assert!(copies.iter().all(|copy| copy.drive != metadata.status().ensemble[0]));
        world.trace.heal_all();
        metadata.shutdown().await;
    });
}

#[test]
fn a_directory_that_hangs_is_no_drive_for_this_start() {
    run(async {
        let world = impatient(4, "2+1");
        let (metadata, client) = world.filled(0..5, 2000).await;
        metadata.shutdown().await;
        world.trace.inject(Fault::hang().on(DiskOp::Read).drive(0).path("identity").times(1));
        let begun = Instant::now();
        let metadata = world.start().await;
        assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
        assert_eq!(metadata.status().mode, Mode::Serving, "{}", metadata.status().reason);
        assert_eq!(metadata.node().drives().await.len(), 3);
        client.check(&metadata).await;
        world.trace.heal_all();
        metadata.shutdown().await;
    });
}

/// A start waited until the last drive had synced what the start before had left.
#[test]
fn a_drive_that_hangs_over_its_first_sync_is_replaced() {
    run(async {
        let world = impatient(4, "2+1");
        let (metadata, client) = world.filled(0..5, 2000).await;
        let first = member(&world, &metadata, 0).await;
        let members = metadata.status().ensemble;
        metadata.shutdown().await;
        let hung = world.trace.inject(Fault::hang().on(DiskOp::SyncData).drive(first).times(1));
        let begun = Instant::now();
        let metadata = world.serving().await;
        assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
        assert_eq!(world.trace.hits(hung), 1);
        assert!(!metadata.status().ensemble.contains(&members[0]));
        client.check(&metadata).await;
        world.trace.heal_all();
        metadata.shutdown().await;
    });
}
