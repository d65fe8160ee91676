//! What a node's drives are taken in by, while the node itself is changed.

use super::*;
use crate::start::tests::world::{World, run};
use std::sync::Arc;
use storage_node::disk::Disk;
use storage_node::drive::{DriveError, format, probe};

const NEW: DriveId = DriveId([0xaa; 16]);

fn name() -> NodeName {
    NodeName::new("n1").unwrap()
}

async fn put(metadata: &Metadata, state: NodeState) {
    let at = NodeAddress { name: name(), address: "127.0.0.1:1".to_owned() };
    metadata.put_node(nodes::row(&at, state)).await.unwrap();
}

/// A service over five drives, and a sixth that its node has opened and nobody has registered.
async fn with_a_spare_drive() -> Metadata {
    let mut world = World::new(6, "2+2");
    world.given.retain(|n| *n != 5);
    let metadata = world.serving().await;
    let cluster = probe(world.trace.disk(0), None).identity.unwrap().cluster;
    let disk = world.trace.disk(5) as Arc<dyn Disk>;
    format(&*disk, cluster, NEW, None).unwrap();
    metadata.node.add_drive(probe(disk, Some(cluster))).await.unwrap();
    metadata
}

/// Opening a drive may take an hour. Its node was drained or removed meanwhile, and the drive became a row that takes new shards:
/// on a node that is to be switched off, or that nobody asks any more.
#[test]
fn a_drive_is_not_taken_in_when_its_node_takes_none_any_more() {
    run(async {
        let metadata = with_a_spare_drive().await;
        for state in [NodeState::Draining, NodeState::Removed] {
            put(&metadata, state).await;
            let refused = metadata.register_on(&name(), NEW).await;
            assert!(matches!(refused, Err(NodeChangeError::Draining(_) | NodeChangeError::Unknown(_))), "{refused:?}");
            assert_eq!(metadata.drive_row(NEW).unwrap(), None);
        }
        put(&metadata, NodeState::Active).await;
        assert_eq!(metadata.register_on(&name(), NEW).await.unwrap(), NEW);
        metadata.shutdown().await;
    });
}

/// It became a row of no node and no place, which no removal of its node would have looked at.
#[test]
fn a_drive_that_nobody_has_any_more_is_not_taken_in() {
    run(async {
        let metadata = with_a_spare_drive().await;
        put(&metadata, NodeState::Active).await;
        metadata.node.forget_drive(NEW).await.unwrap();
        let refused = metadata.register_on(&name(), NEW).await;
        let unusable = |error: &NodeChangeError| matches!(error, NodeChangeError::Drive(DriveChangeError::Unusable { drive, .. }) if *drive == NEW);
        assert!(refused.as_ref().is_err_and(unusable), "{refused:?}");
        assert_eq!(metadata.drive_row(NEW).unwrap(), None);
        metadata.shutdown().await;
    });
}

/// A drive that came while a node's drives were gone through would have stayed behind.
#[test]
fn a_node_is_not_emptied_or_removed_while_a_drive_comes() {
    run(async {
        let metadata = with_a_spare_drive().await;
        put(&metadata, NodeState::Active).await;
        let coming = metadata.turn().await;
        let wait = || sleep(Duration::from_millis(200));
        let name = name();
        tokio::select! {
            removed = metadata.remove_node(&name, true) => panic!("{removed:?}"),
            drained = metadata.drain_node(&name, false) => panic!("{drained:?}"),
            () = wait() => {}
        }
        drop(coming);
        assert_eq!(metadata.remove_node(&name, true).await.unwrap(), []);
        metadata.shutdown().await;
    });
}

/// A node that has lost what it knew of its drives formatted the directory on which one of them should have been mounted (R18).
#[test]
fn the_place_of_a_drive_is_not_given_away() {
    run(async {
        let metadata = with_a_spare_drive().await;
        put(&metadata, NodeState::Active).await;
        let [old, there] = [DriveId([0xbb; 16]), DriveId([0xcc; 16])].map(|id| id.as_bytes().to_vec());
        let (path, state) = ("n1:/mnt/a".to_owned(), DriveState::Active as i32);
        let old = DriveRow { id: old.into(), path, state, ..DriveRow::default() };
        metadata.commit(metadata.epoch(), Command::RegisterDrive(old.clone())).await.unwrap();
        let (name, lost) = (name(), DriveId([0xbb; 16]));
        let refused = metadata.add_drive_on(&name, "/mnt/a", None).await;
        let place = |error: &NodeChangeError| matches!(error, NodeChangeError::Drive(DriveChangeError::PlaceOf { drive, .. }) if *drive == lost);
        assert!(refused.as_ref().is_err_and(place), "{refused:?}");
        for (path, replaces) in [("/mnt/a", Some(lost)), ("/mnt/b", None)] {
            let asked = metadata.add_drive_on(&name, path, replaces).await;
            let elsewhere = |error: &NodeChangeError| {
                matches!(error, NodeChangeError::Drive(DriveChangeError::Drive(DriveError::Elsewhere { .. })))
            };
            assert!(asked.as_ref().is_err_and(elsewhere), "the node was not asked: {asked:?}");
        }

        // One that answers is where it is now, and one that was removed has no place.
        let mut status = metadata.node.drives().await;
        let at =
            |status: &[DriveStatus], row: &DriveRow| whose_place(std::slice::from_ref(row), status, "n1:/mnt/a", None);
        assert_eq!(at(&status, &DriveRow { id: there.into(), ..old.clone() }), Some(DriveId([0xcc; 16])));
        status[0].id = lost;
        assert_eq!(at(&status, &old), None);
        status[0].path = "n1:/mnt/a".to_owned();
        assert_eq!(at(&status, &DriveRow { path: String::new(), ..old.clone() }), Some(lost));
        assert_eq!(at(&status, &DriveRow { state: DriveState::Removed as i32, ..old }), None);
        metadata.shutdown().await;
    });
}
