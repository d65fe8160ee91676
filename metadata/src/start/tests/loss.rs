//! Accepting a loss: what is left goes on, and goes on to be recoverable.

use super::failures::{member, numbers};
use super::world::{World, digest, frames_in_journal, run};
use crate::client::{MetadataClient, Mode};
use codec::id::Lsn;
use rustix::io::Errno;
use storage_node::client::JournalSegmentInfo;
use storage_node::disk::faulty::Fault;
use storage_node::disk::{Disk, DiskOp};

/// Removes every journal segment.
fn lose_journal(world: &World) {
    for disk in world.trace.disks() {
        for name in Disk::list(&*disk, "journal").unwrap() {
            disk.remove(&format!("journal/{name}")).unwrap();
        }
        disk.sync_dir("journal").unwrap();
    }
}

/// The journal was gone and the ledger was not. What was accepted named LSN 0 as the last entry kept, so the ledger and the
/// journal never joined again: the first lost index after that was the end.
#[test]
fn with_the_journal_gone_the_ledger_is_kept_and_joined() {
    run(async {
        let world = World::new(5, "2+1");
        let (metadata, mut client) = world.filled(0..20, 3000).await;
        let sealed = metadata.seal_now().await.unwrap().upto;
        let mut kept = client.clone();
        client.puts(&metadata, 20..30, 3000).await;
        metadata.shutdown().await;
        lose_journal(&world);
        let metadata = world.start().await;
        assert_eq!(metadata.status().mode, Mode::ReadOnly);
        metadata.shutdown().await;

        let (metadata, report) = world.accept_loss().await.unwrap();
        assert_eq!((report.kept, report.lost.len()), (sealed, 10));
        assert_eq!(metadata.status().mode, Mode::Serving, "{}", metadata.status().reason);
        kept.bucket = client.bucket;
        // The only entry that said so is gone: that these frames were moved into stripes before their segments were freed.
        kept.check(&metadata).await;
        metadata.shutdown().await;
        let metadata = world.serving().await;
        kept.puts(&metadata, 40..50, 3000).await;
        let before = digest(&metadata);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        kept.check(&metadata).await;
        kept.puts(&metadata, 50..60, 3000).await;
        metadata.seal_now().await.unwrap();
        let before = digest(&metadata);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        kept.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// The drives went back to before a seal, the index did not. What the index said to be sealed was not on the drives, and what
/// was on the drives was passed over for it: accepting the loss put the index aside and then came to nothing.
#[test]
fn an_index_that_says_more_is_sealed_than_the_drives_know_is_not_believed() {
    run(async {
        let world = World::new(4, "2+1");
        let (metadata, mut client) = world.filled(0..10, 3000).await;
        let (early, mut kept) = (world.trace.restart(), client.clone());
        client.puts(&metadata, 10..20, 3000).await;
        metadata.seal_now().await.unwrap();
        let epoch = metadata.epoch();
        metadata.shutdown().await;
        let world = world.after(&early, world.home.clone());
        let (metadata, report) = world.accept_loss().await.unwrap();
        assert!(report.kept > Lsn(10) && report.known > report.kept, "{report:?}");
        assert_eq!(metadata.status().mode, Mode::Serving, "{}", metadata.status().reason);
        assert!(metadata.epoch().0 >> 32 > (epoch.0 >> 32) + 1, "lost drives may have seen later epochs");
        kept.check(&metadata).await;
        kept.puts(&metadata, 30..35, 3000).await;
        let before = digest(&metadata);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        metadata.shutdown().await;
    });
}

/// A crash after the old index was put aside and before the loss was journaled: the next start saw nothing wrong, and served
/// with LSNs that the lost entries had had.
#[test]
fn a_crash_inside_an_accepted_loss_does_not_hide_it() {
    run(async {
        let world = World::new(4, "2+1");
        let (metadata, mut client) = world.filled(0..5, 1000).await;
        let (early, kept) = (world.trace.restart(), client.clone());
        client.puts(&metadata, 5..10, 1000).await;
        let known = metadata.status().applied;
        metadata.shutdown().await;
        let old = world.home.kv.lock().unwrap().snapshot();
        let mut later = world.after(&early, world.home.clone());
        later.config.geometry = world.config.geometry;
        let begun = later.trace.position();
        let (metadata, _) = later.accept_loss().await.unwrap();
        metadata.shutdown().await;
        let mut served = 0;
        for position in begun..=later.trace.position() {
            let point = later.trace.point(position);
            for choice in point.choices(1, position) {
                let image = point.image(&choice);
                // Before the first step for all to see the old index is still there; afterwards it may be gone.
                let aside = has_new_register(&image);
                let index = storage_node::kv::MemoryKv::from_snapshot(&old);
                let empty = storage_node::kv::MemoryKv::new(&crate::index::FAMILIES);
                let home = super::world::Home::new(if aside { empty } else { index });
                let crashed = later.after(&image, home);
                let metadata = crashed.start().await;
                if metadata.status().mode == Mode::Serving {
                    served += 1;
                    assert!(metadata.status().applied > known, "position {position}: the loss is not journaled");
                    kept.check(&metadata).await;
                    metadata.shutdown().await;
                    continue;
                }
                metadata.shutdown().await;
                let (metadata, _) = crashed.accept_loss().await.unwrap();
                assert_eq!(metadata.status().mode, Mode::Serving, "{}", metadata.status().reason);
                assert!(metadata.status().applied > known, "position {position}: lost LSNs are given again");
                kept.check(&metadata).await;
                metadata.shutdown().await;
            }
        }
        assert!(served > 0);
    });
}

/// Whether a register with a jumped sequence is on a majority: only then may the old index be aside.
fn has_new_register(image: &storage_node::disk::faulty::CrashImage) -> bool {
    let disks = image.disks();
    let new = disks.iter().filter(|disk| {
        let bytes = storage_node::drive::read_register(&***disk).unwrap_or_default();
        codec::register::Register::parse(&bytes).is_ok_and(|register| register.sequence > 1 << 16)
    });
    new.count() >= 3
}

/// The stripes that the last seal wrote are looked for wherever the start that accepted the loss ended, and also where a drive
/// is missing, and what is found has all its shards again.
#[test]
fn frames_that_only_a_lost_seal_named_are_found_again() {
    run(async {
        let mut world = World::new(5, "2+1");
        let (metadata, client) = world.filled(0..20, 3000).await;
        metadata.seal_now().await.unwrap();
        metadata.shutdown().await;
        lose_journal(&world);
        world.given.remove(0);
        // No stripe can be written at first: the loss is accepted all the same, and the frames wait.
        let full = world.trace.inject(Fault::error(Errno::NOSPC).on(DiskOp::Preallocate).path("segments"));
        let (metadata, _) = world.accept_loss().await.unwrap();
        assert_eq!(metadata.status().mode, Mode::Serving, "{}", metadata.status().reason);
        assert!(world.trace.hits(full) > 0);
        assert_eq!(frames_in_journal(&metadata), 20, "their places are still those of the lost entries");
        metadata.shutdown().await;
        world.trace.heal_all();
        let metadata = world.serving().await;
        client.check(&metadata).await;
        assert_eq!(frames_in_journal(&metadata), 0);
        let before = digest(&metadata);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.shutdown().await;
        // Another drive goes, which the new stripes can do without.
        world.given.remove(0);
        let metadata = world.start().await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// The journal's members are away and the loss of what only they had is accepted; then they come back, with the last copies of
/// it. Later seals pass its LSNs, and must leave it where it is.
#[test]
fn r10_what_comes_back_of_an_accepted_loss_is_not_freed_by_sealing() {
    what_comes_back_stays(false);
}

/// Without the index nobody knows how much there was: the first LSN that is given again may be that of a lost entry.
#[test]
fn r10_what_comes_back_of_a_loss_that_nobody_could_measure_is_not_freed_by_sealing() {
    what_comes_back_stays(true);
}

fn what_comes_back_stays(index_is_lost: bool) {
    run(async move {
        let mut world = World::new(7, "3+2");
        let (metadata, mut client) = world.filled(0..10, 2000).await;
        metadata.seal_now().await.unwrap();
        let kept = client.clone();
        let members = [
            member(&world, &metadata, 0).await,
            member(&world, &metadata, 1).await,
            member(&world, &metadata, 2).await,
        ];
        client.puts(&metadata, 10..20, 2000).await;
        let before = metadata.epoch();
        metadata.shutdown().await;
        let all = world.given.clone();
        world.given.retain(|n| !members.contains(n));
        if index_is_lost {
            world.lose_index();
        }
        let (metadata, report) = world.accept_loss().await.unwrap();
        assert_eq!(report.kept < report.known, !index_is_lost);
        kept.check(&metadata).await;
        metadata.shutdown().await;

        world.given = all;
        let metadata = world.serving().await;
        let mut client = kept;
        client.puts(&metadata, 20..40, 2000).await;
        metadata.seal_now().await.unwrap();
        assert!(metadata.status().sealed > report.known);
        let mut holding = 0;
        for (drive, number) in numbers(&world, &metadata).await {
            let segments = metadata.node().journal_segments(drive).await.unwrap();
            let holds = |segment: &JournalSegmentInfo| {
                let mine = segment.last_epoch.is_some_and(|epoch| epoch <= before);
                mine && segment.last.is_some_and(|last| last > report.kept)
            };
            holding += usize::from(members.contains(&number) && segments.iter().any(holds));
        }
        assert_eq!(holding, members.len(), "the last copies of what was given up are gone");
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}
