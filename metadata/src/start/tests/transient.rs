//! Conditions that pass: what was refused meanwhile is served again without anybody's help.

use super::failures::member;
use super::world::{Client, World, digest, noise, run};
use crate::client::{CommitError, MetadataClient, Mode};
use crate::command::{Command, Condition};
use crate::service::Metadata;
use std::time::Duration;
use storage_node::disk::faulty::Fault;

/// Looks at the drives until writes are served, or so often.
async fn recovers(metadata: &Metadata, looks: usize) -> bool {
    for _ in 0..looks {
        metadata.check_drives().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        if metadata.status().mode == Mode::Serving {
            return true;
        }
    }
    false
}

/// Looks that are enough for what should happen on a busy machine, and those after which it should have been seen.
const ENOUGH: usize = 2000;
const SOME: usize = 50;

/// Waits until a put is refused because there is no room: the committer takes in a moment later what a look has found.
async fn is_full(metadata: &Metadata, client: &Client) {
    for _ in 0..ENOUGH {
        metadata.check_drives().await;
        match client.clone().put(metadata, "more", noise(99, 3000)).await {
            Err(CommitError::Full) => return,
            Ok(()) | Err(CommitError::Unavailable { .. } | CommitError::ReadOnly { .. }) => {}
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never said to be full");
}

/// The end of a service that reads only waited for the first of its tasks as if it were the committer; that task was the
/// drives' watch, which never ends.
#[test]
fn a_service_that_reads_only_ends_when_it_is_told() {
    run(async {
        let mut world = World::new(4, "2+1");
        world.start().await.shutdown().await;
        world.given.truncate(2);
        world.config.check_every = Some(Duration::from_millis(20));
        let metadata = world.start().await;
        assert_eq!(metadata.status().mode, Mode::ReadOnly);
        tokio::time::timeout(Duration::from_secs(30), metadata.shutdown()).await.expect("it ends");
    });
}

/// All drives were full for a moment. The journal stopped for good, although there was room again a second later.
#[test]
fn full_drives_stop_writes_only_as_long_as_they_are_full() {
    run(async {
        let world = World::new(3, "1+1");
        let (metadata, mut client) = world.filled(0..3, 3000).await;
        for drive in 0..3 {
            world.trace.set_room(drive, 0);
        }
        let mut failed = 0;
        for n in 10..30 {
            match client.put(&metadata, &format!("key-{n}"), noise(n, 40_000)).await {
                Ok(()) => assert_eq!(failed, 0, "served while stopped"),
                Err(CommitError::Unavailable { .. } | CommitError::ReadOnly { .. }) => failed += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(failed > 1 && metadata.status().mode == Mode::ReadOnly);
        client.check(&metadata).await;
        assert!(!recovers(&metadata, SOME).await, "still full");
        for drive in 0..3 {
            world.trace.set_room(drive, 1 << 30);
        }
        assert!(recovers(&metadata, ENOUGH).await, "{}", metadata.status().reason);
        client.check(&metadata).await;
        client.puts(&metadata, 40..50, 3000).await;
        metadata.seal_now().await.unwrap();
        client.check(&metadata).await;
        client.puts(&metadata, 50..60, 3000).await;
        let before = digest(&metadata);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// A start that wins over an index that is full of errors for a moment: the entry is in the journal, and must come to the
/// index before anything that is decided later.
#[test]
fn an_index_that_fails_for_a_moment_is_caught_up_and_goes_on() {
    run(async {
        let world = World::new(3, "1+1");
        let (metadata, mut client) = world.filled(0..3, 3000).await;
        world.home.failing.store(true, std::sync::atomic::Ordering::Relaxed);
        let failed = client.put(&metadata, "doubtful", noise(5, 100)).await;
        assert!(matches!(failed, Err(CommitError::Unavailable { .. })), "{failed:?}");
        assert!(!recovers(&metadata, SOME).await);
        world.home.failing.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(recovers(&metadata, ENOUGH).await, "{}", metadata.status().reason);
        assert_eq!(client.get(&metadata, "doubtful").await, Some(noise(5, 100)), "it was in the journal");
        client.puts(&metadata, 10..20, 3000).await;
        let before = digest(&metadata);
        metadata.shutdown().await;
        world.lose_index();
        let metadata = world.start().await;
        assert_eq!(digest(&metadata), before);
        metadata.shutdown().await;
    });
}

#[test]
fn r14_a_delete_works_on_full_drives() {
    run(async {
        let mut world = World::new(3, "1+1");
        world.config.reserve = 80 << 20;
        let (metadata, client) = world.filled(0..40, 3000).await;
        for drive in 0..3 {
            world.trace.set_room(drive, 0);
        }
        is_full(&metadata, &client).await;
        let bucket = client.bucket.unwrap();
        for n in 0..40 {
            let delete = Command::DeleteObject { bucket, key: format!("key-{n}"), condition: Condition::None };
            metadata.commit(metadata.epoch(), delete).await.unwrap();
            assert_eq!(client.get(&metadata, &format!("key-{n}")).await, None);
        }
        metadata.seal_now().await.unwrap();
        assert_eq!(metadata.status().mode, Mode::Serving);
        metadata.shutdown().await;
        let metadata = world.serving().await;
        metadata.shutdown().await;
    });
}

/// Who had made room was told that the store is full until the next look at the drives, whenever that was.
#[test]
fn room_that_is_back_is_found_when_it_is_asked_for() {
    run(async {
        let mut world = World::new(3, "1+1");
        world.config.reserve = 80 << 20;
        let (metadata, client) = world.filled(0..4, 3000).await;
        (0..3).for_each(|drive| world.trace.set_room(drive, 0));
        is_full(&metadata, &client).await;
        (0..3).for_each(|drive| world.trace.set_room(drive, 1 << 30));
        world.clock.passed.fetch_add(2000, std::sync::atomic::Ordering::Relaxed);
        client.clone().put(&metadata, "more", noise(99, 3000)).await.unwrap();
        metadata.shutdown().await;
    });
}

/// A drive that takes writes and does not give them back failed every attempt to seal, each of which left stripes behind that
/// nothing refers to, once a minute for as long as it lasted.
#[test]
fn a_drive_that_does_not_give_back_is_left_out_of_the_next_seal() {
    run(async {
        let world = World::new(4, "1+1");
        let (metadata, client) = world.filled(0..200, 3000).await;
        let drive = member(&world, &metadata, 0).await;
        world.trace.inject(Fault::lost_write().drive(drive).path("data"));
        let mut attempts = 0;
        while metadata.seal_now().await.is_err() {
            attempts += 1;
            assert!(attempts < 3, "sealing goes on failing");
        }
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn sealing_begins_by_itself_and_the_clock_ticks() {
    run(async {
        let mut world = World::new(4, "2+1");
        world.config.seal_after = Some(100_000);
        world.config.check_every = Some(Duration::from_millis(20));
        world.config.tick_every = Some(Duration::from_millis(20));
        let (metadata, mut client) = world.filled(0..100, 3000).await;
        while metadata.status().sealed.0 < 60 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.check(&metadata).await;
        assert!(crate::index::clock(&crate::index::Overlay::new(&**metadata.kv())).unwrap().is_some());
        // A member goes while sealing goes on by itself; the check notices.
        let ensemble = metadata.status().ensemble;
        world.trace.remove_drive(member(&world, &metadata, 0).await);
        client.puts(&metadata, 100..200, 3000).await;
        while metadata.status().ensemble == ensemble {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.check(&metadata).await;
        let metadata = world.rebuilt(metadata).await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}
