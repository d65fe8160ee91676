//! Repair's share of the drives' time, in a whole service on a clock that the test moves.

use super::failures::numbers;
use super::keeping::{bad_shards, keeper, pass, striped};
use super::world::{World, run};
use crate::client::MetadataClient;

/// Bytes per second that a drive gives.
const RATE: u64 = 20_000;

/// `lost` drives of a 2+4 cluster are gone, so that all that are wounded have a slack of `4 - lost` at least. The share of the
/// time of the drives that are left which repair took until it was done, in percent.
async fn share_with(lost: usize) -> f64 {
    let mut world = World::new(10, "2+4");
    world.config.keep.drive_rate = RATE;
    // The clock stands still while a round runs: what can't begin now waits for the next one.
    world.config.keep.round_ms = 40;
    let (metadata, client) = striped(&world, 250).await;
    let members = metadata.status().ensemble;
    let all = numbers(&world, &metadata).await;
    // With every stripe on all drives but few, the lost ones are taken from those that hold the journal last.
    let mut drives: Vec<_> = all.clone();
    drives.sort_by_key(|(id, _)| members.contains(id));
    drives[..lost].iter().for_each(|(_, number)| world.trace.remove_drive(*number));
    metadata.check_drives().await;
    keeper(&metadata).run_once().await.unwrap();
    pass(&world, 16 * 60_000);
    let (mut ms, mut worst) = (0u64, 0);
    loop {
        let round = keeper(&metadata).run_once().await.unwrap();
        assert_eq!(round.failed, 0);
        if !round.is_busy() {
            break;
        }
        worst = worst.max(round.left);
        pass(&world, 500);
        ms += 500;
        assert!(ms < 3_600_000, "{:?}", keeper(&metadata).status());
    }
    assert!(worst > 20, "there is something to throttle");
    assert_eq!(bad_shards(&metadata).await, []);
    let totals = keeper(&metadata).status().totals;
    let work = totals.read + 2 * totals.written;
    let drives = (10 - lost) as u64;
    client.check(&metadata).await;
    metadata.shutdown().await;
    work as f64 * 100_000.0 / (drives * RATE * ms) as f64
}

#[test]
fn repair_takes_the_share_of_the_drives_time_that_the_slack_allows_and_uses_it() {
    run(async {
        for (lost, share) in [(1, 10.0), (2, 40.0), (3, 70.0)] {
            let took = share_with(lost).await;
            println!("{lost} lost: {took:.1} % of the drives' time");
            // A few orders may begin ahead of their time, and not all stripes have lost as many shards.
            assert!(took < share * 1.25, "{lost} drives lost: {took} %");
            assert!(took > share * 0.25, "{lost} drives lost: {took} %");
        }
    });
}
