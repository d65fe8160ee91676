//! Without a spare drive: what becomes of ledger and checkpoint stripes, and of findings that speak of nothing any more.

use super::failures::numbers;
use super::keeping::{bad_shards, keeper, pass, settle, striped, stripes};
use super::world::{World, digest, new_node_index, run};
use crate::index::{self, Overlay};
use crate::keep::wounds;
use crate::lookup;
use crate::service::Metadata;
use codec::id::{DriveId, Epoch, StripeId};
use codec::stripe::StripeClass;
use std::collections::BTreeSet;
use storage_node::disk::Disk;

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
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_secs(60) {
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

#[test]
fn findings_that_speak_of_nothing_any_more_go_away() {
    run(async {
        let mut world = World::new(6, "2+2");
        world.node_index = Some(new_node_index());
        let (metadata, mut client) = striped(&world, 20).await;
        let (drive, number) = numbers(&world, &metadata).await[1];
        metadata.shutdown().await;
        // A start begins new segments, whose headers name those before them.
        let metadata = world.serving().await;
        client.puts(&metadata, 200..215, 4000).await;
        metadata.seal_now().await.unwrap();
        metadata.shutdown().await;

        // A segment is gone, and with it what the node knew: nobody can say what was in it.
        let name = world.trace.disk(number).list("segments").unwrap().into_iter().min().unwrap();
        world.trace.disk(number).remove(&format!("segments/{name}")).unwrap();
        world.node_index = Some(new_node_index());
        let metadata = world.serving().await;
        client.puts(&metadata, 100..103, 3000).await;
        super::keeping::scrub(&metadata, drive).await;
        let found = metadata.node().findings(drive).await.unwrap();
        assert!(!found.is_empty(), "a segment that a header names is missed");
        let report = keeper(&metadata).take_inventory().await.unwrap();
        assert_eq!(report.settled, 1, "{report:?} {found:?}");
        // By name it is known all the same, and mended.
        settle(&metadata).await;
        assert_eq!(bad_shards(&metadata).await, []);
        for _ in 0..2 {
            super::keeping::scrub(&metadata, drive).await;
            assert_eq!(metadata.node().findings(drive).await.unwrap(), []);
        }
        metadata.shutdown().await;
        let metadata = world.serving().await;
        super::keeping::scrub(&metadata, drive).await;
        assert_eq!(metadata.node().findings(drive).await.unwrap(), []);

        // A copy that a move has left behind is not what an operator has to look at.
        let view = Overlay::new(&**metadata.kv());
        let (id, row) = stripes(&metadata).into_iter().next().unwrap();
        let elsewhere =
            numbers(&world, &metadata).await.into_iter().find(|(drive, _)| Some(*drive) != row.drive(0)).unwrap();
        let finding = |drive| storage_node::keep::Finding {
            drive,
            subject: storage_node::keep::Subject::Shard(codec::id::ShardId { stripe: id, index: 0 }),
            kind: storage_node::keep::FindingKind::Damaged,
            found_ms: 0,
            detail: String::new(),
        };
        assert!(wounds::is_current(&view, &finding(row.drive(0).unwrap())).unwrap());
        assert!(!wounds::is_current(&view, &finding(elsewhere.0)).unwrap());
        metadata.shutdown().await;
    });
}
