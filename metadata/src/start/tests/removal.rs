//! What is not given up: a drive that is needed as far as anybody knows, and the majority of the next start.

use super::failures::numbers;
use super::keeping::{striped, stripes};
use super::world::{World, run};
use crate::client::MetadataClient;
use crate::lookup::Wounds;
use crate::service::{DriveChangeError, Metadata};
use codec::effect::StripeRow;
use codec::id::{DriveId, Lsn, StripeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A whole stripe of two data shards and two parity shards, and its drives; none of them keeps the journal first.
fn whole(metadata: &Metadata) -> (StripeId, Vec<DriveId>) {
    let is_whole = |row: &StripeRow| (0..4).all(|index| row.drive(index).is_some());
    let (id, row) = stripes(metadata).into_iter().find(|(_, row)| is_whole(row)).unwrap();
    (id, (0..4).filter_map(|index| row.drive(index)).collect())
}

async fn lose(world: &World, metadata: &Metadata, drive: DriveId) {
    let (_, number) = numbers(world, metadata).await.into_iter().find(|(id, _)| *id == drive).unwrap();
    world.trace.remove_drive(number);
    metadata.check_drives().await;
}

/// Shards that scrub knew to be rotten, or that lie on drives which are back and not verified, counted as the stripe's rest: the
/// drive that held one of the last two good ones was given up.
#[test]
fn rotten_and_unverified_shards_are_no_reason_to_give_up_a_drive() {
    run(async {
        let world = World::new(8, "2+2");
        let (metadata, client) = striped(&world, 40).await;
        let (id, on) = whole(&metadata);
        lose(&world, &metadata, on[0]).await;
        metadata.check_lost(on[0]).await.unwrap();
        let rotten = Wounds { shards: Arc::new([(id, vec![(1, on[1]), (2, on[2])])].into()), ..Wounds::default() };
        let unverified = Wounds { unverified: [(on[1], None), (on[2], None)].into(), ..Wounds::default() };
        for wounds in [rotten, unverified] {
            metadata.shared().set_wounds(wounds);
            let needed = metadata.remove_drive(on[0], true).await;
            assert!(matches!(needed, Err(DriveChangeError::LastHope { stripes: 1.., .. })), "{needed:?}");
        }
        metadata.shared().set_wounds(Wounds::default());
        metadata.remove_drive(on[0], true).await.unwrap();
        drop(client);
        metadata.shutdown().await;
    });
}

/// The same for the journal: copies that are damaged, or on a drive that is back and was not looked at.
#[test]
fn damaged_journal_copies_are_no_reason_to_give_up_a_drive() {
    run(async {
        let world = World::new(5, "2+1");
        let (metadata, client) = world.filled(0..5, 1000).await;
        let members = metadata.status().ensemble;
        lose(&world, &metadata, members[0]).await;
        metadata.check_lost(members[0]).await.unwrap();
        let thin = Wounds { thin_entries: vec![Lsn(2)..=Lsn(2)], ..Wounds::default() };
        let all: BTreeMap<DriveId, Option<StripeId>> =
            numbers(&world, &metadata).await.into_iter().map(|(id, _)| (id, None)).collect();
        let unverified = Wounds { unverified: all, ..Wounds::default() };
        for wounds in [thin, unverified] {
            metadata.shared().set_wounds(wounds);
            let needed = metadata.remove_drive(members[0], true).await;
            assert!(matches!(needed, Err(DriveChangeError::LastJournal(_))), "{needed:?}");
        }
        metadata.shared().set_wounds(Wounds::default());
        metadata.remove_drive(members[0], true).await.unwrap();
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// A count that did not come to an end was one of nothing: whatever lay on the drive was given up.
#[test]
fn a_drive_of_which_nobody_knows_what_it_holds_is_not_given_up() {
    run(async {
        let world = World::new(8, "2+2");
        let (metadata, client) = striped(&world, 10).await;
        let (_, on) = whole(&metadata);
        lose(&world, &metadata, on[0]).await;
        world.home.panicking.store(true, Ordering::Relaxed);
        let refused = metadata.remove_drive(on[0], true).await;
        assert!(matches!(refused, Err(DriveChangeError::NotCounted)), "{refused:?}");
        let refused = metadata.drain_drive(on[1]).await;
        assert!(matches!(refused, Err(DriveChangeError::NotCounted)), "{refused:?}");
        world.home.panicking.store(false, Ordering::Relaxed);
        metadata.remove_drive(on[0], true).await.unwrap();
        // What is left there is not said to be nothing.
        world.home.panicking.store(true, Ordering::Relaxed);
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        assert!(metadata.drive_details().await.unwrap().iter().all(|drive| drive.left.is_none()));
        world.home.panicking.store(false, Ordering::Relaxed);
        drop(client);
        metadata.shutdown().await;
    });
}

/// Three of seven drives are dead and registered. With one more gone for good the next start found no majority.
#[test]
fn a_removal_does_not_cost_the_next_start_its_majority() {
    run(async {
        let mut world = World::new(7, "2+1");
        let metadata = world.serving().await;
        let members = metadata.status().ensemble;
        let drives = numbers(&world, &metadata).await;
        let others: Vec<_> = drives.into_iter().filter(|(id, _)| !members.contains(id)).collect();
        let (dead, leaving) = (&others[..3], others[3]);
        for (id, _) in dead {
            lose(&world, &metadata, *id).await;
        }
        metadata.drain_drive(leaving.0).await.unwrap();
        let refused = metadata.remove_drive(leaving.0, false).await;
        let Err(DriveChangeError::Majority { left: 3, registered: 6, dead: named, .. }) = &refused else {
            panic!("{refused:?}")
        };
        assert!(dead.iter().all(|(id, _)| named.contains(id)) && named.len() == 3, "{named:?}");
        let words = refused.as_ref().unwrap_err().to_string();
        assert!(words.contains("--lost") && words.contains(&dead[0].0.to_string()), "{words}");

        metadata.remove_drive(dead[0].0, true).await.unwrap();
        metadata.remove_drive(leaving.0, false).await.unwrap();
        metadata.shutdown().await;
        world.given.retain(|n| *n != leaving.1 && dead.iter().all(|(_, dead)| dead != n));
        let metadata = world.serving().await;
        metadata.shutdown().await;
    });
}
