//! Members of the ensemble that fail while running and while stopped, and damage in copies.

use super::world::{Client, World, digest, noise, run};
use crate::client::{CommitError, MetadataClient, Mode};
use crate::seal::SealError;
use codec::id::{DriveId, Lsn};
use rustix::io::Errno;
use storage_node::disk::faulty::Fault;

/// The number of each drive in the trace.
pub(super) async fn numbers(world: &World, metadata: &crate::service::Metadata) -> Vec<(DriveId, usize)> {
    let drives = metadata.node().drives().await;
    let hint = |n: usize| storage_node::disk::Disk::path_hint(&*world.trace.disk(n));
    let number = |path: &str| world.given.iter().copied().find(|n| hint(*n) == path).unwrap();
    drives.iter().map(|d| (d.id, number(&d.path))).collect()
}

pub(super) async fn member(world: &World, metadata: &crate::service::Metadata, nth: usize) -> usize {
    let id = metadata.status().ensemble[nth];
    numbers(world, metadata).await.into_iter().find(|(d, _)| *d == id).unwrap().1
}

#[test]
fn a_member_that_fails_is_replaced_and_nothing_is_lost_with_the_rest() {
    run(async {
        let mut world = World::new(5, "2+1");
        let (metadata, mut client) = world.filled(0..10, 2000).await;
        let first = member(&world, &metadata, 0).await;
        let ensemble = metadata.status().ensemble;
        world.trace.inject(Fault::error(Errno::IO).drive(first));
        client.puts(&metadata, 10..20, 2000).await;
        assert_ne!(metadata.status().ensemble, ensemble);
        client.check(&metadata).await;
        // The other old member goes, too: the new one got the whole tail.
        let second = member(&world, &metadata, 0).await;
        world.trace.inject(Fault::error(Errno::IO).drive(second));
        client.puts(&metadata, 20..30, 2000).await;
        client.check(&metadata).await;
        let before = digest(&metadata);
        metadata.shutdown().await;

        let image = world.trace.restart();
        world.given.retain(|n| *n != first && *n != second);
        let later = world.after(&image, world.home.clone());
        later.lose_index();
        let metadata = later.serving().await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_failed_drive_is_noticed_by_the_check_alone() {
    run(async {
        let world = World::new(4, "2+1");
        let metadata = world.start().await;
        let ensemble = metadata.status().ensemble;
        let first = member(&world, &metadata, 0).await;
        world.trace.remove_drive(first);
        let mut client = Client::default();
        client.create_bucket(&metadata).await;
        metadata.check_drives().await;
        client.put(&metadata, "after", noise(1, 100)).await.unwrap();
        assert!(!metadata.status().ensemble.contains(&ensemble[0]));
        metadata.shutdown().await;
    });
}

#[test]
fn m_absent_members_are_replaced_at_a_start_and_more_stop_writes() {
    run(async {
        let mut world = World::new(7, "3+2");
        let (metadata, mut client) = world.filled(0..10, 2000).await;
        let members = [
            member(&world, &metadata, 0).await,
            member(&world, &metadata, 1).await,
            member(&world, &metadata, 2).await,
        ];
        metadata.shutdown().await;

        world.given.retain(|n| !members.contains(n));
        let metadata = world.start().await;
        let status = metadata.status();
        assert_eq!(status.mode, Mode::ReadOnly);
        assert!(status.reason.contains("3 of the journal's 3 drives"), "{}", status.reason);
        assert!(matches!(client.clone().put(&metadata, "x", vec![1]).await, Err(CommitError::ReadOnly { .. })));
        metadata.shutdown().await;

        world.given.push(members[2]);
        let metadata = world.serving().await;
        client.check(&metadata).await;
        client.puts(&metadata, 10..20, 2000).await;
        metadata.shutdown().await;

        // The last old member goes, the two absent ones come back with their old tail: the new tail wins.
        world.given = (0..7).filter(|n| *n != members[2]).collect();
        world.lose_index();
        let metadata = world.serving().await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn without_a_majority_nothing_is_written() {
    run(async {
        let mut world = World::new(4, "2+1");
        let (metadata, client) = world.filled(0..3, 100).await;
        metadata.shutdown().await;
        world.given.truncate(2);
        let position = world.trace.position();
        let metadata = world.start().await;
        assert_eq!(metadata.status().mode, Mode::ReadOnly);
        assert!(metadata.status().reason.contains("more than half"), "{}", metadata.status().reason);
        let help = metadata.status().warnings.remove(0);
        assert!(help.contains("a restart with 1 or more of these drives") && help.contains("fault-disk/3"), "{help}");
        client.check(&metadata).await;
        metadata.shutdown().await;
        assert_eq!(world.trace.position(), position, "a read-only start wrote to the media");
        world.given = vec![0, 1, 2, 3];
        let metadata = world.start().await;
        assert_eq!(metadata.status().mode, Mode::Serving);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn with_too_few_drives_commits_are_unavailable_and_then_read_only() {
    run(async {
        let world = World::new(2, "1+1");
        let (metadata, mut client) = world.filled(0..3, 100).await;
        world.trace.inject(Fault::error(Errno::IO).drive(1));
        let failed = client.put(&metadata, "doubtful", noise(5, 100)).await;
        assert!(matches!(failed, Err(CommitError::Unavailable { .. })), "{failed:?}");
        let failed = client.put(&metadata, "refused", noise(6, 100)).await;
        assert!(matches!(failed, Err(CommitError::ReadOnly { .. })), "{failed:?}");
        client.check(&metadata).await;
        metadata.shutdown().await;
        world.trace.heal_all();
        let metadata = world.serving().await;
        client.check(&metadata).await;
        client.puts(&metadata, 10..12, 100).await;
        metadata.shutdown().await;
    });
}

#[test]
fn rot_in_one_copy_is_taken_from_another() {
    run(async {
        let world = World::new(4, "2+1");
        let (metadata, client) = world.filled(0..30, 2000).await;
        let before = digest(&metadata);
        let first = member(&world, &metadata, 0).await;
        metadata.shutdown().await;
        let disk = world.trace.disk(first);
        let name = storage_node::disk::Disk::list(&*disk, "journal").unwrap().remove(0);
        // Into the middle of the entries.
        for block in 9..14 {
            world.trace.flip(first, &format!("journal/{name}"), block * 4096 + 100, 0x40).unwrap();
        }
        world.lose_index();
        let metadata = world.serving().await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.seal_now().await.unwrap();
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_first_write_error_with_no_spare_goes_on_in_a_new_segment() {
    run(async {
        let world = World::new(2, "1+1");
        let (metadata, mut client) = world.filled(0..3, 100).await;
        world
            .trace
            .inject(Fault::error(Errno::IO).drive(1).path("journal").on(storage_node::disk::DiskOp::SyncData).times(1));
        client.puts(&metadata, 3..10, 100).await;
        client.check(&metadata).await;
        let before = digest(&metadata);
        metadata.shutdown().await;
        world.lose_index();
        let metadata = world.start().await;
        assert_eq!(digest(&metadata), before);
        metadata.shutdown().await;
    });
}

/// One entry that rotted on all members kept everything from being sealed, without end and without a word in the status.
#[test]
fn an_entry_that_rotted_everywhere_is_sealed_up_to_and_kept() {
    run(async {
        let world = World::new(4, "2+1");
        let (metadata, client) = world.filled(0..40, 3000).await;
        let members = [member(&world, &metadata, 0).await, member(&world, &metadata, 1).await];
        let flip = || {
            for drive in members {
                let name = storage_node::disk::Disk::list(&*world.trace.disk(drive), "journal").unwrap().remove(0);
                world.trace.flip(drive, &format!("journal/{name}"), 40 * 4096 + 100, 0x40).unwrap();
                world.trace.flip(drive, &format!("journal/{name}"), 41 * 4096 + 100, 0x40).unwrap();
            }
        };
        flip();
        for _ in 0..2 {
            let stuck = metadata.seal_now().await;
            assert!(matches!(stuck, Err(SealError::Read(_))), "{stuck:?}");
        }
        let status = metadata.status();
        assert!(status.sealed > Lsn(10) && status.sealed < status.applied, "{status:?}");
        assert!(status.warnings[0].contains("can't be sealed"), "{:?}", status.warnings);
        let mut lost = 0;
        for key in client.acked.keys() {
            let version = metadata.current_version(client.bucket.unwrap(), key).await.unwrap().unwrap();
            let manifest = codec::manifest::Manifest::parse(&version.content.unwrap().manifest).unwrap();
            let located = metadata.locate(&[manifest.entries()[0].id]).await.unwrap().remove(0).unwrap();
            lost += usize::from(metadata.read_frame(&located).await.is_err());
        }
        assert!(lost <= 2, "{lost} objects can't be read");
        // A good copy comes back: nothing was dropped meanwhile.
        flip();
        metadata.seal_now().await.unwrap();
        assert!(!metadata.status().warnings.iter().any(|warning| warning.contains("can't be sealed")));
        client.check(&metadata).await;
        let before = digest(&metadata);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// A committer that panicked left a service that called itself ready and refused every write.
#[test]
fn a_committer_that_panics_leaves_a_service_that_reads_and_says_why() {
    run(async {
        let world = World::new(4, "2+1");
        let (metadata, client) = world.filled(0..3, 100).await;
        world.clock.broken.store(true, std::sync::atomic::Ordering::Relaxed);
        let failed = client.clone().put(&metadata, "doubtful", noise(5, 100)).await;
        assert!(matches!(failed, Err(CommitError::Unavailable { .. })), "{failed:?}");
        while metadata.status().mode == Mode::Serving {
            tokio::task::yield_now().await;
        }
        assert!(metadata.status().reason.contains("restart"), "{}", metadata.status().reason);
        let refused = client.clone().put(&metadata, "refused", noise(6, 100)).await;
        assert!(matches!(refused, Err(CommitError::ReadOnly { .. })), "{refused:?}");
        client.check(&metadata).await;
        metadata.shutdown().await;
        world.clock.broken.store(false, std::sync::atomic::Ordering::Relaxed);
        let metadata = world.serving().await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}
