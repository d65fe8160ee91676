//! Drives that take an operation and never return from it, while the service runs: nobody waits for them, they are reported,
//! made good like others that are silent, and verified when they answer again.

use super::failures::{member, numbers};
use super::keeping::{keeper, pass, settle, striped, stripes};
use super::world::{World, noise, run};
use crate::client::{MetadataClient, StripeFrame};
use crate::keep::watch::Sight;
use crate::service::Metadata;
use codec::frame::{FIRST_VERSION, FrameSpec, chunk_id, encode};
use codec::id::DriveId;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use storage_node::client::{DriveHealth, DriveStatus, STALLED_AFTER};
use storage_node::clock::Clock;
use storage_node::disk::DiskOp;
use storage_node::disk::faulty::{Fault, FaultId};
use storage_node::node::HUNG_AFTER;

const GRACE_MS: u64 = 15 * 60_000;

/// The drives' steady clock: it stands still until it is told to go on.
#[derive(Debug)]
struct Hands(Mutex<Instant>);

impl Clock for Hands {
    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn steady(&self) -> Instant {
        *self.0.lock().unwrap()
    }
}

fn world(drives: usize, geometry: &str) -> (World, Arc<Hands>) {
    let mut world = World::new(drives, geometry);
    let hands = Arc::new(Hands(Mutex::new(Instant::now())));
    world.config.node_clock = hands.clone();
    (world, hands)
}

/// Seconds pass, and somebody looks at the drives in each.
async fn tick(metadata: &Metadata, hands: &Hands, seconds: u64) {
    for _ in 0..seconds {
        *hands.0.lock().unwrap() += Duration::from_secs(1);
        metadata.node().drives().await;
    }
}

async fn met(world: &World, fault: FaultId) {
    while world.trace.hits(fault) == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A drive that does not return from the question for its space, which it has been asked.
async fn hangs_when_asked(world: &World, metadata: &Metadata, number: usize) {
    let hang = world.trace.inject(Fault::hang().on(DiskOp::Space).drive(number));
    tokio::join!(metadata.node().drives(), met(world, hang));
}

/// Stripes that have a shard on a drive.
fn named(metadata: &Metadata, drive: DriveId) -> usize {
    stripes(metadata).iter().filter(|(_, row)| (0..8).any(|index| row.drive(index) == Some(drive))).count()
}

async fn status(metadata: &Metadata, drive: DriveId) -> DriveStatus {
    metadata.node().drives().await.into_iter().find(|status| status.id == drive).unwrap()
}

/// A drive that keeps no journal, and its number.
async fn bystander(world: &World, metadata: &Metadata) -> (DriveId, usize) {
    let members = metadata.status().ensemble;
    *numbers(world, metadata).await.iter().find(|(id, _)| !members.contains(id)).unwrap()
}

/// What hung is over, and the drive has answered all that it was asked.
async fn answers(world: &World, metadata: &Metadata, drive: DriveId) {
    world.trace.heal_all();
    while status(metadata, drive).await.unanswered_ms > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The same, and it is opened again.
async fn comes_back(world: &World, metadata: &Metadata, drive: DriveId) {
    answers(world, metadata, drive).await;
    let begun = Instant::now();
    loop {
        metadata.check_drives().await;
        let health = status(metadata, drive).await.health;
        if health == DriveHealth::Healthy {
            return;
        }
        // A look waits for a few seconds only, and the next one is some seconds later.
        assert!(begun.elapsed() < Duration::from_secs(60), "{health:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn store(metadata: &Metadata, seed: u64) {
    let domain = metadata.domain("alice", &crate::keys::Purpose::Plain).await.unwrap();
    let bytes = noise(seed, 30_000);
    let id = chunk_id(&domain.chunk_key, &bytes);
    let frame = encode(&FrameSpec { version: FIRST_VERSION, domain: domain.id, id, level: 1, data_key: None }, &bytes)
        .unwrap()
        .into();
    let (plain_len, is_manifest, children) = (30_000, false, Vec::new());
    let frame = StripeFrame { id, domain: domain.id, plain_len, is_manifest, children, frame };
    metadata.store_stripe(metadata.epoch(), vec![frame]).await.unwrap();
}

#[test]
fn a_stripe_is_written_elsewhere_and_the_drive_is_reported_made_good_and_verified_when_it_answers() {
    run(async {
        let (world, hands) = world(7, "3+2");
        let (metadata, client) = striped(&world, 20).await;
        let (drive, number) = bystander(&world, &metadata).await;
        settle(&metadata).await;
        let hang = world.trace.inject(Fault::hang().on(DiskOp::SyncData).drive(number));
        // All but two drives are in a stripe; one write or another meets it.
        let write = async {
            for seed in 100..104 {
                store(&metadata, seed).await;
            }
        };
        let wait = async {
            met(&world, hang).await;
            tick(&metadata, &hands, HUNG_AFTER.as_secs() + 1).await;
        };
        tokio::join!(write, wait);
        let failed = DriveHealth::Failed { reason: "no answer for 181 s".to_owned() };
        assert_eq!(status(&metadata, drive).await.health, failed);
        let details = metadata.drive_details().await.unwrap();
        let detail = details.iter().find(|detail| detail.id == drive).unwrap();
        assert_eq!((detail.state, detail.reason.as_str()), ("failed", "no answer for 181 s"));
        client.check(&metadata).await;
        // Silent as one whose cable was pulled: within the grace it is waited for, and then it is made good.
        let before = named(&metadata, drive);
        settle(&metadata).await;
        assert!(matches!(keeper(&metadata).status().drives[&drive].sight, Sight::Silent { .. }));
        assert_eq!(named(&metadata, drive), before);
        assert!(before > 0);
        pass(&world, GRACE_MS + 1000);
        settle(&metadata).await;
        assert_eq!(named(&metadata, drive), 0);

        comes_back(&world, &metadata, drive).await;
        assert!(metadata.wounds().unverified.contains_key(&drive), "nothing there counts before it was verified");
        settle(&metadata).await;
        assert_eq!(keeper(&metadata).status().drives[&drive].sight, Sight::There);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_drive_that_lets_an_operation_wait_gets_no_new_shards_at_once() {
    run(async {
        let (world, hands) = world(7, "3+2");
        let (metadata, client) = striped(&world, 5).await;
        let (drive, number) = bystander(&world, &metadata).await;
        hangs_when_asked(&world, &metadata, number).await;
        let writes = || {
            let events = world.trace.events();
            let of = |event: &&storage_node::disk::faulty::Event| {
                let what = event.to_string();
                what.contains(&format!("drive {number} write ")) && what.contains("segments")
            };
            events.iter().filter(of).count()
        };
        tick(&metadata, &hands, STALLED_AFTER.as_secs()).await;
        metadata.check_drives().await;
        let before = writes();
        for seed in 100..110 {
            store(&metadata, seed).await;
        }
        assert_eq!(writes(), before);
        assert_eq!(status(&metadata, drive).await.health, DriveHealth::Healthy);
        let details = metadata.drive_details().await.unwrap();
        let detail = details.iter().find(|detail| detail.id == drive).unwrap();
        assert_eq!((detail.state, detail.reason.as_str()), ("serving", "no answer for 5 s"));
        let warnings = metadata.status().warnings;
        assert!(warnings.iter().any(|warning| warning.contains("has not answered for 5 s")), "{warnings:?}");
        world.trace.heal_all();
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn reads_go_around_a_drive_that_hangs_and_later_ones_do_not_ask_it() {
    run(async {
        let (world, hands) = world(6, "3+2");
        let (metadata, client) = striped(&world, 30).await;
        let (drive, number) = bystander(&world, &metadata).await;
        let hang = world.trace.inject(Fault::hang().on(DiskOp::Read).drive(number).path("segments"));
        let stalls = async {
            met(&world, hang).await;
            tick(&metadata, &hands, STALLED_AFTER.as_secs()).await;
        };
        tokio::join!(client.check(&metadata), stalls);
        tick(&metadata, &hands, HUNG_AFTER.as_secs()).await;
        assert!(matches!(status(&metadata, drive).await.health, DriveHealth::Failed { .. }));
        let asked = world.trace.hits(hang);
        client.check(&metadata).await;
        assert_eq!(world.trace.hits(hang), asked);
        comes_back(&world, &metadata, drive).await;
        settle(&metadata).await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn commits_go_on_when_a_member_of_the_ensemble_hangs() {
    run(async {
        let (world, hands) = world(5, "2+1");
        let (metadata, mut client) = world.filled(0..20, 2000).await;
        let first = member(&world, &metadata, 0).await;
        let members = metadata.status().ensemble;
        let hang = world.trace.inject(Fault::hang().on(DiskOp::SyncData).drive(first));
        let wait = async {
            met(&world, hang).await;
            tick(&metadata, &hands, HUNG_AFTER.as_secs() + 1).await;
        };
        tokio::join!(client.puts(&metadata, 20..40, 2000), wait);
        assert!(!metadata.status().ensemble.contains(&members[0]));
        client.puts(&metadata, 40..50, 2000).await;
        client.check(&metadata).await;
        // It has what it held, and counts again when that was read.
        comes_back(&world, &metadata, members[0]).await;
        client.puts(&metadata, 50..60, 2000).await;
        metadata.seal_now().await.unwrap();
        settle(&metadata).await;
        client.check(&metadata).await;
        metadata.shutdown().await;
        let metadata = world.serving().await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// Repair began when all drives that were back had been verified, one after the other, for up to five minutes each.
#[test]
fn a_drive_that_is_back_and_hangs_holds_up_no_repair_and_is_silent_again() {
    run(async {
        let (world, hands) = world(9, "3+2");
        let (metadata, client) = striped(&world, 60).await;
        settle(&metadata).await;
        let members = metadata.status().ensemble;
        let numbers = numbers(&world, &metadata).await;
        let others: Vec<_> = numbers.iter().filter(|(id, _)| !members.contains(id)).copied().collect();
        let [(back, number), (lost, gone), ..] = others[..] else { panic!("too few drives") };
        // One drive hangs, is back, and hangs again over its verification; meanwhile another is lost.
        hangs_when_asked(&world, &metadata, number).await;
        tick(&metadata, &hands, HUNG_AFTER.as_secs() + 1).await;
        keeper(&metadata).run_once().await.unwrap();
        comes_back(&world, &metadata, back).await;
        let hang = world.trace.inject(Fault::hang().on(DiskOp::Read).drive(number).path("segments"));
        world.trace.remove_drive(gone);
        metadata.check_drives().await;
        assert!(named(&metadata, lost) > 0 && named(&metadata, back) > 0);
        keeper(&metadata).run_once().await.unwrap();
        assert!(world.trace.hits(hang) > 0);
        tick(&metadata, &hands, STALLED_AFTER.as_secs()).await;
        pass(&world, GRACE_MS + 1000);
        for _ in 0..40 {
            keeper(&metadata).run_once().await.unwrap();
        }
        assert!(matches!(keeper(&metadata).status().drives[&back].sight, Sight::Back { .. }));
        assert_eq!(named(&metadata, lost), 0, "{}", keeper(&metadata).plan());
        tick(&metadata, &hands, HUNG_AFTER.as_secs() + 1).await;
        settle(&metadata).await;
        assert!(matches!(keeper(&metadata).status().drives[&back].sight, Sight::Silent { .. }));
        // By the node: the service looks for it again only some seconds after the last time.
        answers(&world, &metadata, back).await;
        metadata.node().reopen(back).await.unwrap();
        settle(&metadata).await;
        assert_eq!(keeper(&metadata).status().drives[&back].sight, Sight::There);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// A drive that is being opened again has its turn for as long as it takes, which is hours for one that is indexed anew. A
/// removal waited for it with the lock that every other change of the drives waits for.
#[test]
fn a_drive_that_is_being_opened_holds_up_no_change_of_the_drives() {
    run(async {
        let (world, hands) = world(7, "3+2");
        let (metadata, client) = striped(&world, 5).await;
        let (drive, number) = bystander(&world, &metadata).await;
        hangs_when_asked(&world, &metadata, number).await;
        tick(&metadata, &hands, HUNG_AFTER.as_secs() + 1).await;
        answers(&world, &metadata, drive).await;
        let hang = world.trace.inject(Fault::hang().on(DiskOp::Lock).drive(number));
        let node = metadata.node().clone();
        let opening = tokio::spawn(async move { node.reopen(drive).await });
        met(&world, hang).await;
        let begun = Instant::now();
        metadata.remove_drive(drive, true).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert!(!opening.is_finished());
        // What was left is done when the drive has answered.
        world.trace.heal_all();
        let _opened_or_not = opening.await.unwrap();
        while metadata.node().drives().await.iter().any(|status| status.id == drive) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        settle(&metadata).await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}
