//! What a drive took after it came back is as good as what others took.

use super::super::drives::{copy_of, put_back, returned};
use super::super::failures::numbers;
use super::super::keeping::{keeper, striped, stripes};
use super::*;
use crate::lookup::{self, Safety};
use crate::service::Metadata;
use codec::id::DriveId;

/// How safe the stripes are that have a shard on this drive, by whether they were there before.
fn safeties(metadata: &Metadata, drive: DriveId, before: &BTreeSet<StripeId>) -> [BTreeSet<Safety>; 2] {
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    for (id, row) in stripes(metadata) {
        let descriptor = lookup::descriptor(id, &row).unwrap();
        if (0..descriptor.width()).any(|index| row.drive(index) == Some(drive)) {
            let safety = metadata.shared().losses().of_stripe(&descriptor, &row);
            found[usize::from(!before.contains(&id))].insert(safety);
        }
    }
    found
}

#[test]
fn what_a_drive_took_after_it_came_back_needs_no_verification() {
    run(async {
        let mut world = World::new(5, "3+2");
        world.config.keep.verify_shards = 1;
        let (metadata, mut client) = striped(&world, 30).await;
        let (drive, number) = numbers(&world, &metadata).await[2];
        let copy = copy_of(&world, number);
        world.trace.remove_drive(number);
        metadata.check_drives().await;
        put_back(&world, number, &copy);
        returned(&metadata, drive).await;
        let before: BTreeSet<StripeId> = stripes(&metadata).into_iter().map(|(id, _)| id).collect();
        assert_eq!(safeties(&metadata, drive, &before)[0], [Safety::Safe].into(), "not one of them counts");
        keeper(&metadata).pause(true);
        keeper(&metadata).run_once().await.unwrap();
        for from in [100, 105, 110] {
            client.puts(&metadata, from..from + 5, 4000).await;
            metadata.seal_now().await.unwrap();
        }
        let [old, new] = safeties(&metadata, drive, &before);
        assert!(old.contains(&Safety::Safe), "most are not verified yet");
        assert_eq!(new, [Safety::Whole].into(), "what it has of these it took after it was back");
        // It goes again: what it took in between may be lost.
        let opened = metadata.node().drives().await.into_iter().find(|status| status.id == drive).unwrap().opened;
        metadata.shared().doubt(drive, opened + 1);
        assert_eq!(safeties(&metadata, drive, &before)[1], [Safety::Safe].into());
        keeper(&metadata).run_once().await.unwrap();
        assert_eq!(
            safeties(&metadata, drive, &before)[1],
            [Safety::Safe].into(),
            "nor after a look that came too early"
        );
        metadata.shutdown().await;
    });
}
