//! Drives that the system does not let a start look at.

use super::world::{World, run};
use crate::client::{MetadataClient, Mode};
use crate::start::StartError;
use rustix::io::Errno;
use storage_node::disk::DiskOp;
use storage_node::disk::faulty::Fault;

/// A start that ran out of descriptors took the drives for absent, served reads only, and advised to accept their loss.
#[test]
fn a_start_that_runs_out_of_something_ends_with_that() {
    run(async {
        let world = World::new(6, "2+2");
        let (metadata, client) = world.filled(0..5, 1000).await;
        metadata.shutdown().await;
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            // While it is looked at, and while it is opened: the identity, its lock, a segment.
            for fault in [
                Fault::error(errno).on(DiskOp::Open).path("identity").drive(3),
                Fault::error(errno).on(DiskOp::Lock).drive(3),
                Fault::error(errno).on(DiskOp::Open).path("journal").drive(3),
                Fault::error(errno).on(DiskOp::List).drive(3),
            ] {
                let fault = world.trace.inject(fault);
                let error = world.try_start().await.map(drop).unwrap_err();
                assert!(!error.to_string().contains("accept-loss"), "{error}");
                assert!(error.to_string().contains("fault-disk/3"), "{error}");
                let accepted = world.accept_loss().await.map(drop).unwrap_err();
                assert!(!matches!(accepted, StartError::NoLoss), "{accepted}");
                world.trace.heal(fault);
            }
        }
        let metadata = world.serving().await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// One drive that this user may not read is missed like any other; where it is needed the start ends, and says what to do.
#[test]
fn a_drive_that_may_not_be_read_is_not_given_up() {
    run(async {
        let world = World::new(5, "2+1");
        let (metadata, client) = world.filled(0..5, 1000).await;
        metadata.shutdown().await;
        let deny = |drive| Fault::error(Errno::ACCESS).on(DiskOp::Open).path("identity").drive(drive);
        world.trace.inject(deny(4));
        let metadata = world.start().await;
        assert_eq!(metadata.status().mode, Mode::Serving, "{}", metadata.status().reason);
        client.check(&metadata).await;
        metadata.shutdown().await;
        world.trace.inject(deny(0));
        world.trace.inject(deny(1));
        let error = world.try_start().await.map(drop).unwrap_err();
        assert!(matches!(error, StartError::Refused { .. }) && error.to_string().contains("read and write"), "{error}");
        let accepted = world.accept_loss().await.map(drop).unwrap_err();
        assert!(matches!(accepted, StartError::Refused { .. }), "{accepted}");
        world.trace.heal_all();
        let metadata = world.serving().await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}
