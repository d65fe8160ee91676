//! Copies of shards where no row names them: freed when the shard is good where it belongs, and not before.

use super::*;
use codec::id::{DriveId, ShardId};
use storage_node::disk::Disk;
use storage_node::keep::{RebuildOrder, ShardRef};

struct Stray {
    store: Store,
    shard: ShardRef,
    right: DriveId,
    /// The drive with the copy that no row names.
    other: DriveId,
}

impl Stray {
    /// An object, one shard of which is on another drive as well.
    async fn new() -> Stray {
        let mut store = Store::new(3, "1+1").await;
        store.put(1, &[1], How::Striped).await;
        let (id, row) = store.stripes(StripeClass::Data).into_iter().next().unwrap();
        let descriptor = StripeDescriptor::parse(&row.descriptor).unwrap();
        let shard = ShardRef { id: ShardId { stripe: id, index: 0 }, root: descriptor.root() };
        let drives = store.metadata.node().drives().await;
        let named: Vec<DriveId> = (0..descriptor.width()).filter_map(|index| row.drive(index)).collect();
        let other = drives.iter().map(|drive| drive.id).find(|drive| !named.contains(drive)).unwrap();
        let right = row.drive(0).unwrap();
        let parity = (1..descriptor.width()).find(|index| descriptor.is_present(*index)).unwrap();
        let sources = vec![(parity, row.drive(parity).unwrap())];
        let order =
            RebuildOrder { descriptor, sources, targets: vec![(0, other)], bytes_per_second: 0, at: Vec::new() };
        store.metadata.node().rebuild(order).await.unwrap();
        Stray { store, shard, right, other }
    }

    async fn is_there(&self) -> bool {
        let listed = self.store.metadata.node().list_shards(self.other, None, None, 100).await.unwrap();
        listed.iter().any(|header| header.id() == self.shard.id)
    }
}

#[test]
fn r12_a_stray_goes_when_its_readers_have_ended_and_the_right_place_verifies() {
    run(async {
        let stray = Stray::new().await;
        stray.store.round().await;
        stray.store.pass(DAY / 2).await;
        assert_eq!(stray.store.round().await.strays, 0, "whoever looked the old place up may still read there");
        stray.store.pass(DAY).await;
        assert!(stray.is_there().await);
        let report = stray.store.round().await;
        assert_eq!(report.strays, 1);
        assert!(report.bytes > 0 && !stray.is_there().await);
        stray.store.check().await;
    });
}

#[test]
fn r13_a_stray_stays_while_the_right_place_is_not_good() {
    run(async {
        let stray = Stray::new().await;
        stray.store.round().await;
        stray.store.pass(2 * DAY).await;
        // The named copy rots, and nobody has noticed yet.
        let drives = stray.store.metadata.node().drives().await;
        let right = drives.iter().find(|drive| drive.id == stray.right).unwrap();
        let number = (0..3).find(|n| right.path == stray.store.world.trace.disk(*n).path_hint()).unwrap();
        let trace = &stray.store.world.trace;
        let name = trace.disk(number).list("segments").unwrap().remove(0);
        trace.flip(number, &format!("segments/{name}"), 2 * 4096 + 100, 1).unwrap();
        assert_eq!(stray.store.round().await.strays, 0);
        assert!(stray.is_there().await, "it may be the last good copy");
        stray.store.check().await;
    });
}

#[test]
fn r13_a_stray_of_a_stripe_that_repair_has_taken_stays() {
    run(async {
        let stray = Stray::new().await;
        stray.store.round().await;
        stray.store.pass(2 * DAY).await;
        let shared = stray.store.metadata.shared().clone();
        let claim = shared.claims.claim(stray.shard.id.stripe).unwrap();
        assert_eq!(stray.store.round().await.strays, 0, "repair is about to make it the named one");
        drop(claim);
        stray.store.pass(2 * DAY).await;
        // The row may have changed since the readers' time began; by the next time it has not.
        stray.store.round().await;
        stray.store.pass(2 * DAY).await;
        stray.store.round().await;
        assert!(!stray.is_there().await);
        stray.store.check().await;
    });
}
