//! Without a spare drive: what becomes of ledger and checkpoint stripes.

use super::failures::numbers;
use super::keeping::{bad_shards, keeper, pass, settle, striped, stripes};
use super::world::{World, digest, run};
use crate::index::{self, Overlay};
use crate::lookup;
use crate::service::Metadata;
use codec::id::{DriveId, Epoch, StripeId};
use codec::stripe::StripeClass;
use std::collections::BTreeSet;

const GRACE_MS: u64 = 15 * 60_000;
const DAY_MS: u64 = 24 * 3_600_000;

/// Stripes of a class, with the drives of each.
fn of_class(metadata: &Metadata, class: StripeClass) -> Vec<(StripeId, Vec<DriveId>)> {
    let of = |(id, row): (StripeId, codec::effect::StripeRow)| {
        let descriptor = lookup::descriptor(id, &row).unwrap();
        let drives = (0..descriptor.width()).filter_map(|index| row.drive(index)).collect();
        (descriptor.class == class).then_some((id, drives))
    };
    stripes(metadata).into_iter().filter_map(of).collect()
}

#[test]
fn ledger_and_checkpoint_stripes_are_made_narrower_when_no_spare_drive_is_left() {
    run(async {
        let mut world = World::new(5, "3+2");
        let (metadata, mut client) = striped(&world, 20).await;
        metadata.checkpoint_now().await.unwrap();
        settle(&metadata).await;
        let lost = numbers(&world, &metadata).await[4];
        let wide: BTreeSet<StripeId> = of_class(&metadata, StripeClass::Ledger).into_iter().map(|(id, _)| id).collect();
        assert!(wide.len() > 3);
        world.trace.remove_drive(lost.1);
        metadata.check_drives().await;
        for ms in [0, GRACE_MS + 1000, DAY_MS - GRACE_MS - 10_000] {
            pass(&world, ms);
            settle(&metadata).await;
            assert_eq!(of_class(&metadata, StripeClass::Ledger).len(), wide.len(), "one lost drive is waited for");
            assert!(
                wide.iter().all(|id| of_class(&metadata, StripeClass::Ledger).iter().any(|(ledger, _)| ledger == id))
            );
        }
        for _ in 0..wide.len() {
            pass(&world, DAY_MS / 20);
            client.puts(&metadata, 900..901, 100).await;
            settle(&metadata).await;
        }
        let is_lost = |(_, drives): &(StripeId, Vec<DriveId>)| drives.contains(&lost.0);
        for _ in 0..200 {
            // Two more checkpoints: the one before the newest is kept.
            if !of_class(&metadata, StripeClass::Checkpoint).iter().any(is_lost) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            pass(&world, DAY_MS / 20);
            client.puts(&metadata, 900..901, 100).await;
            settle(&metadata).await;
        }
        for class in [StripeClass::Ledger, StripeClass::Checkpoint] {
            let all = of_class(&metadata, class);
            assert!(!all.is_empty());
            for (id, drives) in all {
                assert!(
                    !drives.contains(&lost.0) && drives.len() <= 4,
                    "{class:?} stripe {id} still is on a lost drive"
                );
            }
        }
        // Every range names stripes that are there, and a scan of the rows agrees.
        for range in index::sealed_ranges(&Overlay::new(&**metadata.kv())).unwrap() {
            for name in range.stripes {
                let id = StripeId { epoch: Epoch(name.epoch), counter: name.counter };
                assert!(index::stripe(&Overlay::new(&**metadata.kv()), id).unwrap().is_some());
            }
        }
        assert_eq!(keeper(&metadata).scrub_rows().await.unwrap().faults, 0);
        let bad: Vec<_> = bad_shards(&metadata).await;
        assert!(bad.iter().all(|(drive, _)| *drive == lost.0), "{bad:?}");
        let before = digest(&metadata);

        // The index is made anew from what is left.
        world.given.retain(|n| *n != lost.1);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}
