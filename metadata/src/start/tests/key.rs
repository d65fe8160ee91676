//! The wrong key, or none: found out before anything is written.

use super::world::{World, run};
use crate::client::{MetadataClient, Mode};
use crate::start::StartError;
use codec::id::DriveId;
use storage_node::disk::Disk;
use storage_node::disk::faulty::Trace;
use storage_node::drive::{Identity, format};

/// Starts with another key, and then accepts a loss with it: both are refused, and the drives are as they were.
async fn refused(world: &mut World) {
    let position = world.trace.position();
    let right = world.kek.replace([8; 32]);
    match world.try_start().await {
        Err(StartError::Key(_)) => {}
        // With no index and no journal nobody can say before the ledger is read; reading does no harm.
        Ok(metadata) if metadata.status().mode == Mode::ReadOnly => metadata.shutdown().await,
        other => panic!("{other:?}"),
    }
    let accepted = world.accept_loss().await.map(|(metadata, _)| metadata);
    assert!(matches!(accepted, Err(StartError::Key(_) | StartError::NoLoss)), "{accepted:?}");
    assert_eq!(world.trace.position(), position, "something was written with the wrong key");
    assert!(world.home.aside.lock().unwrap().is_empty());
    world.kek = right;
}

/// The key was checked when the start had taken an epoch and begun new segments on all members.
#[test]
fn a_start_with_the_wrong_key_writes_nothing() {
    run(async {
        for (seal, rebuild) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut world = World::new(4, "2+1");
            let (metadata, client) = world.filled(0..20, 3000).await;
            if seal {
                metadata.seal_now().await.unwrap();
            }
            metadata.shutdown().await;
            if rebuild {
                world.lose_index();
            }
            refused(&mut world).await;
            let metadata = world.serving().await;
            client.check(&metadata).await;
            metadata.shutdown().await;
        }
    });
}

#[test]
fn a_loss_is_not_accepted_with_the_wrong_key() {
    run(async {
        for rebuild in [false, true] {
            let mut world = World::new(7, "3+2");
            let (metadata, _client) = world.filled(0..20, 3000).await;
            metadata.seal_now().await.unwrap();
            let members = metadata.status().ensemble;
            let drives = super::failures::numbers(&world, &metadata).await;
            metadata.shutdown().await;
            let member = |n: &usize| drives.iter().any(|(id, at)| at == n && members.contains(id));
            world.given.retain(|n| !member(n));
            if rebuild {
                world.lose_index();
            }
            refused(&mut world).await;
            let (metadata, _) = world.accept_loss().await.unwrap();
            assert_eq!(metadata.status().mode, Mode::Serving, "{}", metadata.status().reason);
            metadata.shutdown().await;
        }
    });
}

#[test]
fn a_first_start_without_a_key_formats_nothing() {
    run(async {
        let mut world = World::new(3, "1+1");
        let right = world.kek.take();
        let started = world.try_start().await;
        assert!(matches!(started, Err(StartError::Key(_))), "{started:?}");
        assert_eq!(world.trace.position(), 0);
        world.kek = right;
        world.serving().await.shutdown().await;
    });
}

/// A drive that was formatted and not yet registered when the machine went down was taken, at a start before the other file
/// systems were mounted, for an interrupted first start: their mount points were formatted.
#[test]
fn r18_a_drive_that_was_being_added_makes_no_first_start_of_a_known_cluster() {
    run(async {
        let mut world = World::new(4, "1+1");
        world.given = vec![0, 1, 2];
        let metadata = world.serving().await;
        let cluster = Identity::parse(&world.trace.disk(0).read_small("identity").unwrap()).unwrap().cluster;
        metadata.shutdown().await;
        let unmounted = || {
            let trace = Trace::new(4);
            format(&*trace.disk(3), cluster, DriveId([9; 16]), None).unwrap();
            trace
        };
        world.given = vec![0, 1, 2, 3];
        let mounted = std::mem::replace(&mut world.trace, unmounted());
        // The configuration knows the cluster, or the index, or both.
        for (config, index) in [(false, true), (true, true), (true, false)] {
            world.config.cluster = config.then_some(cluster);
            if !index {
                world.lose_index();
            }
            let started = world.try_start().await;
            assert!(matches!(started, Err(StartError::DrivesGone { .. })), "{started:?}");
            assert!((0..3).all(|drive| world.trace.disk(drive).is_empty().unwrap()));
        }
        // They are mounted: it starts with them, and the one that was being added is completed by whoever adds it.
        world.trace = mounted;
        world.serving().await.shutdown().await;
        // Nothing was ever served: an interrupted first start, which goes on.
        world.trace = unmounted();
        world.config.cluster = None;
        world.lose_index();
        let metadata = world.serving().await;
        assert_eq!(metadata.node().drives().await.len(), 4);
        metadata.shutdown().await;
    });
}
