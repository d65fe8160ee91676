//! Drives added, emptied, removed and back, over fault disks.

use super::failures::numbers;
use super::keeping::{bad_shards, keeper, settle, shards, striped};
use super::world::{Client, World, digest, noise, run};
use crate::client::MetadataClient;
use crate::command::{Command, Refusal};
use crate::index::{self, Overlay};
use crate::keep::watch::Sight;
use crate::service::{DriveChangeError, Metadata};
use codec::effect::DriveState;
use codec::id::DriveId;
use codec::register::Register;
use std::collections::BTreeSet;
use std::sync::Arc;
use storage_node::client::DriveHealth;
use storage_node::disk::faulty::Fault;
use storage_node::disk::{Access, Disk, DiskOp};
use storage_node::drive::{ProbedDrive, format, probe};

/// What the rows place on drives is not counted for every question anew.
const COUNTED_AGAIN: std::time::Duration = std::time::Duration::from_millis(1100);

/// Formats a directory that the service does not know.
pub(super) fn formatted(world: &World, number: usize, drive: DriveId) -> ProbedDrive {
    let cluster = probe(world.trace.disk(0), None).identity.unwrap().cluster;
    format(&*world.trace.disk(number), cluster, drive, None).unwrap();
    probe(world.trace.disk(number), Some(cluster))
}

async fn state(metadata: &Metadata, drive: DriveId) -> &'static str {
    let details = metadata.drive_details().await.unwrap();
    details.into_iter().find(|detail| detail.id == drive).map_or("unknown", |detail| detail.state)
}

/// The newest register that any drive has.
async fn register(metadata: &Metadata) -> Register {
    let mut newest: Option<Register> = None;
    for drive in metadata.node().drives().await {
        // One that was formatted and not registered has none.
        if let Ok(bytes) = metadata.node().read_register(drive.id).await
            && let Ok(register) = Register::parse(&bytes)
        {
            newest = Some(newest.filter(|newest| newest.age() >= register.age()).unwrap_or(register));
        }
    }
    newest.unwrap()
}

/// Everything on a drive but its lock.
pub fn copy_of(world: &World, number: usize) -> Vec<(String, Vec<u8>)> {
    let disk = world.trace.disk(number);
    let mut files = Vec::new();
    for directory in ["", "segments", "journal"] {
        for name in disk.list(directory).unwrap() {
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            if ["segments", "journal", "lock"].contains(&path.as_str()) {
                continue;
            }
            let file = disk.open(&path, Access::Read).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            let read = file.read_at(&mut bytes, 0).unwrap();
            bytes.truncate(read);
            files.push((path, bytes));
        }
    }
    files
}

pub fn put_back(world: &World, number: usize, files: &[(String, Vec<u8>)]) {
    let mut files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    files.extend([("segments/", &[][..]), ("journal/", &[])]);
    world.trace.replace_drive(number, &files).unwrap();
}

/// Waits until a drive that was put back serves: one that was not back when it was looked for is looked for again seconds later.
pub async fn returned(metadata: &Metadata, drive: DriveId) {
    for _ in 0..200 {
        metadata.check_drives().await;
        if state(metadata, drive).await == "serving" {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the drive is still {}", state(metadata, drive).await);
}

async fn more(metadata: &Metadata, client: &mut Client, keys: std::ops::Range<u64>) {
    for from in keys.step_by(5) {
        client.puts(metadata, from..from + 5, 4000).await;
        metadata.seal_now().await.unwrap();
    }
}

#[test]
fn a_drive_is_added_emptied_and_removed_while_serving() {
    run(async {
        let mut world = World::new(6, "2+2");
        world.given.retain(|n| *n != 5);
        let (metadata, mut client) = striped(&world, 20).await;
        let new = DriveId([0xaa; 16]);
        let probed = formatted(&world, 5, new);
        world.given.push(5);
        assert_eq!(metadata.add_drive(probed.clone()).await.unwrap(), new);
        assert_eq!(metadata.add_drive(probed).await.unwrap(), new, "again: nothing");
        assert_eq!(state(&metadata, new).await, "serving");
        let registered = register(&metadata).await.registered;
        assert_eq!((registered.len(), registered.contains(&new)), (6, true));
        more(&metadata, &mut client, 20..60).await;
        assert!(shards(&metadata).iter().any(|(drive, _)| *drive == new), "new stripes use it");

        // It and the next start know of it, also without an index.
        let before = digest(&metadata);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;

        // A member of the ensemble is emptied: the journal goes elsewhere at once.
        let old = metadata.status().ensemble[0];
        assert!(matches!(metadata.remove_drive(old, false).await, Err(DriveChangeError::InUse(_))));
        assert!(matches!(metadata.remove_drive(old, true).await, Err(DriveChangeError::NotLost(_))));
        metadata.drain_drive(old).await.unwrap();
        assert!(!metadata.status().ensemble.contains(&old));
        assert_eq!(state(&metadata, old).await, "draining");
        let early = metadata.remove_drive(old, false).await;
        assert!(matches!(early, Err(DriveChangeError::NotEmpty { shards: 1.., .. })), "{early:?}");
        client.puts(&metadata, 60..70, 3000).await;
        settle(&metadata).await;
        tokio::time::sleep(COUNTED_AGAIN).await;
        assert_eq!(state(&metadata, old).await, "drained");
        assert!(shards(&metadata).iter().all(|(drive, _)| *drive != old));
        metadata.remove_drive(old, false).await.unwrap();
        assert_eq!(state(&metadata, old).await, "removed");
        let registered = register(&metadata).await.registered;
        assert_eq!((registered.len(), registered.contains(&old)), (5, false));
        assert!(metadata.node().drives().await.iter().all(|drive| drive.id != old));
        assert_eq!(bad_shards(&metadata).await, []);
        more(&metadata, &mut client, 70..80).await;
        client.check(&metadata).await;

        // Brought again, it is left alone; taken in, it is refused.
        let before = digest(&metadata);
        let metadata = world.rebuilt(metadata).await;
        assert_eq!(digest(&metadata), before);
        assert!(metadata.node().drives().await.iter().all(|drive| drive.id != old));
        assert_eq!(state(&metadata, old).await, "removed");
        let number =
            (0..6).find(|n| probe(world.trace.disk(*n), None).identity.is_some_and(|i| i.drive == old)).unwrap();
        let again = metadata.add_drive(probe(world.trace.disk(number), None)).await;
        assert!(matches!(again, Err(DriveChangeError::Removed(_))), "{again:?}");
        more(&metadata, &mut client, 80..90).await;
        assert!(shards(&metadata).iter().all(|(drive, _)| *drive != old));
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_drive_is_not_emptied_where_the_others_could_not_take_it() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, client) = striped(&world, 20).await;
        let drives = numbers(&world, &metadata).await;
        let unknown = metadata.drain_drive(DriveId([9; 16])).await;
        assert!(matches!(unknown, Err(DriveChangeError::Unknown(_))));
        metadata.drain_drive(drives[0].0).await.unwrap();
        let few = metadata.drain_drive(drives[1].0).await;
        assert!(matches!(few, Err(DriveChangeError::TooFewDrives { left: 3, needed: 4 })), "{few:?}");
        // Taken back, it gets new shards again, and another one may go.
        metadata.cancel_drain(drives[0].0).await.unwrap();
        assert_eq!(state(&metadata, drives[0].0).await, "serving");
        for (_, number) in &drives[1..] {
            world.trace.set_room(*number, crate::topology::MIN_FREE);
        }
        let full = metadata.drain_drive(drives[0].0).await;
        assert!(matches!(full, Err(DriveChangeError::NoRoom { bytes: 1.., room: 0, .. })), "{full:?}");
        assert_eq!(state(&metadata, drives[0].0).await, "serving");
        world.trace.remove_drive(drives[2].1);
        metadata.check_drives().await;
        let silent = metadata.drain_drive(drives[2].0).await;
        assert!(matches!(silent, Err(DriveChangeError::Silent(_))), "{silent:?}");
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_lost_drive_that_is_removed_is_made_good_at_once_and_one_that_is_needed_is_not_given_up() {
    run(async {
        let mut world = World::new(8, "2+2");
        world.given.retain(|n| *n != 7);
        let (metadata, client) = striped(&world, 80).await;
        let drives = numbers(&world, &metadata).await;
        let lost = drives[1];
        world.trace.remove_drive(lost.1);
        metadata.check_drives().await;
        let new = DriveId([0xaa; 16]);
        metadata.add_drive(formatted(&world, 7, new)).await.unwrap();
        world.given.push(7);
        settle(&metadata).await;
        assert_eq!(keeper(&metadata).status().totals.shards, 0, "the grace");
        metadata.check_lost(lost.0).await.unwrap();
        metadata.remove_drive(lost.0, true).await.unwrap();
        assert!(!register(&metadata).await.registered.contains(&lost.0));
        // No time has passed.
        settle(&metadata).await;
        assert_eq!(bad_shards(&metadata).await, []);
        assert!(shards(&metadata).iter().all(|(drive, _)| *drive != lost.0));
        tokio::time::sleep(COUNTED_AGAIN).await;
        let detail = metadata.drive_details().await.unwrap().into_iter().find(|d| d.id == lost.0).unwrap();
        assert_eq!(detail.left.unwrap().shards, 0);

        // More than m are lost: stripes wait for them, and none is given up.
        let there = numbers(&world, &metadata).await;
        let members = metadata.status().ensemble;
        let whole = super::keeping::stripes(&metadata).into_iter().find(|(_, row)| row.drives.len() == 4).unwrap().1;
        let mut on: Vec<DriveId> = (0..4).filter_map(|index| whole.drive(index)).collect();
        on.sort_by_key(|drive| members.contains(drive));
        for (_, number) in there.iter().filter(|(drive, _)| on[..3].contains(drive)) {
            world.trace.remove_drive(*number);
        }
        metadata.check_drives().await;
        let needed = metadata.remove_drive(on[0], true).await;
        assert!(matches!(needed, Err(DriveChangeError::LastHope { stripes: 1.., .. })), "{needed:?}");
        assert_eq!(state(&metadata, on[0]).await, "failed");
        drop(client);
        metadata.shutdown().await;
    });
}

/// The row is there and the register is not changed yet, and the other way about: the next start goes on with both.
#[test]
fn a_crash_anywhere_in_an_addition_or_a_removal_is_completed() {
    run(async {
        let mut world = World::new(6, "2+2");
        world.given.retain(|n| *n != 5);
        let (metadata, mut client) = striped(&world, 10).await;
        let new = DriveId([0xaa; 16]);
        let begin = world.trace.position();
        metadata.add_drive(formatted(&world, 5, new)).await.unwrap();
        world.given.push(5);
        let added = world.trace.position();
        let old = metadata.status().ensemble[0];
        metadata.drain_drive(old).await.unwrap();
        settle(&metadata).await;
        let drained = world.trace.position();
        metadata.remove_drive(old, false).await.unwrap();
        let removed = world.trace.position();
        more(&metadata, &mut client, 10..15).await;
        let early = Client {
            acked: client.acked.iter().take(1).map(|(k, v)| (k.clone(), v.clone())).collect(),
            ..client.clone()
        };
        metadata.shutdown().await;
        let _all_of_them = client;

        let step = |from: u64, to: u64| (1..=6).map(move |n| from + (to - from) * n / 6);
        for at in step(begin, added).chain(step(drained, removed)) {
            for choice in
                [storage_node::disk::faulty::CrashChoice::Nothing, storage_node::disk::faulty::CrashChoice::Everything]
            {
                let image = world.trace.image(at, &choice);
                let mut later =
                    world.after(&image, super::world::Home::new(storage_node::kv::MemoryKv::new(&index::FAMILIES)));
                if probe(image.trace().disk(5), None).identity.is_none() {
                    later.given.retain(|n| *n != 5);
                }
                let metadata = later.serving().await;
                let rows = index::drives(&Overlay::new(&**metadata.kv())).unwrap();
                let of = |state: DriveState| -> BTreeSet<DriveId> {
                    rows.iter()
                        .filter(|row| row.state == state as i32)
                        .map(|row| DriveId::from_slice(&row.id).unwrap())
                        .collect()
                };
                metadata.check_drives().await;
                // Any later commit waits for what the check has begun.
                metadata
                    .commit(
                        metadata.epoch(),
                        Command::StartEpoch { epoch: metadata.epoch(), journal: metadata.epoch() },
                    )
                    .await
                    .unwrap_err();
                let registered: BTreeSet<DriveId> = register(&metadata).await.registered.into_iter().collect();
                let known: BTreeSet<DriveId> =
                    of(DriveState::Active).union(&of(DriveState::Draining)).copied().collect();
                assert_eq!(registered, known, "at {at}, {choice:?}");
                // The same command again completes an addition that was not registered.
                if !known.contains(&new) && later.given.contains(&5) {
                    metadata.add_drive(probe(image.trace().disk(5), None)).await.unwrap();
                    assert!(register(&metadata).await.registered.contains(&new));
                }
                early.check(&metadata).await;
                metadata.shutdown().await;
            }
        }
    });
}

#[test]
fn a_drive_that_is_back_is_opened_by_itself_and_verified_before_it_counts() {
    run(async {
        let world = World::new(6, "3+2");
        let (metadata, mut client) = striped(&world, 30).await;
        settle(&metadata).await;
        let (drive, number) = numbers(&world, &metadata).await[2];
        let old = copy_of(&world, number);
        more(&metadata, &mut client, 30..40).await;
        let mine = shards(&metadata).iter().filter(|(at, _)| *at == drive).count();
        world.trace.remove_drive(number);
        metadata.check_drives().await;
        assert_eq!(state(&metadata, drive).await, "failed");
        // An older copy of it is put back before repair has looked: it answers as if nothing had happened.
        put_back(&world, number, &old);
        returned(&metadata, drive).await;
        let health = metadata.node().drives().await.into_iter().find(|d| d.id == drive).unwrap();
        assert_eq!((health.health, health.opened), (DriveHealth::Healthy, 2));
        keeper(&metadata).pause(true);
        keeper(&metadata).run_once().await.unwrap();
        keeper(&metadata).pause(false);
        let seen = keeper(&metadata).status().drives[&drive];
        assert!(matches!(seen.sight, Sight::Back { .. } | Sight::There), "{seen:?}");
        let bad = bad_shards(&metadata).await;
        assert!(!bad.is_empty() && bad.len() < mine, "{} of {mine}", bad.len());
        settle(&metadata).await;
        assert_eq!(bad_shards(&metadata).await, [], "what the old copy lacks was found and written again");
        assert_eq!(keeper(&metadata).status().drives[&drive].sight, Sight::There);
        more(&metadata, &mut client, 40..50).await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// The journal went on naming a member as the holder of entries that the copy which was put back does not have: with the
/// other member gone as well they were lost.
#[test]
fn a_member_that_is_back_with_less_gets_what_it_lacks() {
    run(async {
        let mut world = World::new(3, "1+2");
        let (metadata, mut client) = world.filled(0..10, 2000).await;
        let drives = numbers(&world, &metadata).await;
        let old = copy_of(&world, drives[0].1);
        client.puts(&metadata, 10..20, 2000).await;
        world.trace.remove_drive(drives[0].1);
        let failed = client.put(&metadata, "in-between", noise(1, 2000)).await;
        assert!(failed.is_err(), "1+m drives are needed");
        put_back(&world, drives[0].1, &old);
        returned(&metadata, drives[0].0).await;
        for again in 0.. {
            // The committer takes it in when it has seen the last look.
            metadata.check_drives().await;
            match client.put(&metadata, "writes-go-on", noise(2, 2000)).await {
                Ok(_) => break,
                Err(error) if again == 600 => panic!("{error}"),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
        client.puts(&metadata, 20..30, 2000).await;
        metadata.shutdown().await;
        world.given = vec![drives[0].1];
        // Alone it is no majority; what it holds is what matters.
        world.lose_index();
        let copies = {
            let metadata = world.start().await;
            let survey = crate::survey::survey(
                &**metadata.node(),
                codec::id::Lsn(0),
                world.config.patience.deadline,
                &world.config.sabotage,
            );
            let copies = survey.await.unwrap();
            metadata.shutdown().await;
            copies
        };
        let held: BTreeSet<_> = copies[0].segments.iter().flat_map(|s| &s.marks).map(|mark| mark.lsn).collect();
        let last = held.last().unwrap().0;
        assert_eq!(held.len() as u64, last, "from the first to the last, without a gap");
        drop(client);
    });
}

#[test]
fn a_directory_that_was_not_there_at_the_start_is_opened_when_it_is() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, client) = striped(&world, 20).await;
        let (drive, number) = numbers(&world, &metadata).await[4];
        metadata.shutdown().await;
        let files = copy_of(&world, number);
        world.trace.remove_drive(number);
        let metadata = world.serving().await;
        assert_eq!(state(&metadata, drive).await, "absent");
        put_back(&world, number, &files);
        returned(&metadata, drive).await;
        settle(&metadata).await;
        assert_eq!(bad_shards(&metadata).await, []);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// The room of the journal was that of the members before the failed one was replaced: none, and every PUT was answered 507
/// until the next look.
#[test]
fn the_room_of_a_member_that_is_gone_does_not_count() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, mut client) = world.filled(0..5, 2000).await;
        let member = metadata.status().ensemble[0];
        let (_, number) = numbers(&world, &metadata).await.into_iter().find(|(id, _)| *id == member).unwrap();
        world.trace.remove_drive(number);
        metadata.check_drives().await;
        client.puts(&metadata, 5..10, 2000).await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn no_stripe_is_committed_on_a_drive_that_was_removed_meanwhile() {
    run(async {
        let world = World::new(6, "2+2");
        let (metadata, client) = striped(&world, 10).await;
        let (id, row) = super::keeping::stripes(&metadata).remove(0);
        let drive = row.drive(0).unwrap();
        let mut removed = index::drive(&Overlay::new(&**metadata.kv()), drive).unwrap().unwrap();
        removed.state = DriveState::Removed as i32;
        metadata.commit(metadata.epoch(), Command::RegisterDrive(removed)).await.unwrap();
        let late = metadata.commit(metadata.epoch(), Command::CommitStripe { stripe: row, chunks: Vec::new() }).await;
        let Err(crate::client::CommitError::Refused(refusal)) = late else { panic!("{late:?}") };
        assert_eq!(refusal, Refusal::BadStripe(id));
        drop(client);
        metadata.shutdown().await;
    });
}

/// A drive whose look hangs while it is asked whether it is back costs nobody anything.
#[test]
fn a_directory_that_hangs_is_not_waited_for() {
    run(async {
        let world = World::new(5, "2+2");
        let (metadata, client) = striped(&world, 10).await;
        let (drive, number) = numbers(&world, &metadata).await[4];
        metadata.shutdown().await;
        let files = copy_of(&world, number);
        world.trace.remove_drive(number);
        let metadata = world.serving().await;
        put_back(&world, number, &files);
        let hung = world.trace.inject(Fault::hang().on(DiskOp::Open).drive(number).path("identity").times(1));
        let begun = std::time::Instant::now();
        metadata.check_drives().await;
        // It hangs for two minutes.
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
        assert_eq!(state(&metadata, drive).await, "absent");
        client.check(&metadata).await;
        world.trace.heal(hung);
        returned(&metadata, drive).await;
        metadata.shutdown().await;
        let _kept = Arc::new(drive);
    });
}
