//! Starts, recoveries, failures and seals of a whole service over fault disks.

mod audit;
mod checkpoint;
mod crash;
mod drives;
mod failures;
mod format;
mod hanging;
mod hung;
mod keeping;
mod key;
mod kms;
mod levels;
mod lifecycle;
mod loss;
mod narrow;
mod newer;
mod reclaim;
mod refused;
mod register;
mod removal;
mod returning;
mod throttle;
mod transient;
mod two_keys;
mod webhooks;
pub(crate) mod world;
mod wounded;

use self::world::{Client, Home, World, digest, frames_in_journal, noise, run};
use crate::client::{CommitError, MetadataClient, Mode};
use crate::command::{Command, CreateUpload, Outcome};
use crate::index::{self, FAMILIES, Overlay};
use crate::start::StartError;
use codec::effect::ObjectMeta;
use codec::id::Lsn;
use storage_node::kv::MemoryKv;

#[test]
fn what_was_committed_is_there_after_a_restart() {
    run(async {
        let world = World::new(4, "2+1");
        let metadata = world.start().await;
        assert_eq!(metadata.status().mode, Mode::Serving, "{:?}", metadata.status());
        let mut client = Client::default();
        client.create_bucket(&metadata).await;
        client.puts(&metadata, 0..20, 3000).await;
        client.check(&metadata).await;
        let (before, epoch) = (digest(&metadata), metadata.epoch());
        metadata.shutdown().await;

        let metadata = world.serving().await;
        assert_eq!(digest(&metadata), before);
        assert!(metadata.epoch().0 >> 32 > epoch.0 >> 32);
        client.check(&metadata).await;
        client.puts(&metadata, 20..30, 3000).await;
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn a_lost_index_is_rebuilt_from_the_journal() {
    run(async {
        let world = World::new(4, "2+1");
        let (metadata, client) = world.filled(0..200, 3000).await;
        let before = digest(&metadata);
        metadata.shutdown().await;
        world.lose_index();
        let metadata = world.start().await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn sealing_moves_frames_frees_segments_and_a_rebuild_reads_the_ledger() {
    run(async {
        let world = World::new(4, "2+1");
        let (metadata, mut client) = world.filled(0..200, 3000).await;
        let sealed = metadata.seal_now().await.unwrap();
        assert!(sealed.moved == 200 && sealed.freed > 4, "{sealed:?}");
        assert_eq!(frames_in_journal(&metadata), 0);
        client.check(&metadata).await;
        client.puts(&metadata, 200..260, 2000).await;
        metadata.seal_now().await.unwrap();
        client.puts(&metadata, 260..280, 2000).await;
        let before = digest(&metadata);
        assert!(metadata.status().sealed > Lsn(260));
        metadata.shutdown().await;

        world.lose_index();
        let metadata = world.serving().await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        for drive in metadata.node().drives().await {
            for segment in metadata.node().journal_segments(drive.id).await.unwrap() {
                assert!(segment.last.is_none_or(|last| last > Lsn(260)), "{segment:?}");
            }
        }
        metadata.shutdown().await;
    });
}

#[test]
fn an_old_index_is_caught_up_even_over_what_was_sealed_meanwhile() {
    run(async {
        let world = World::new(4, "2+1");
        let (metadata, mut client) = world.filled(0..50, 3000).await;
        let old = world.home.kv.lock().unwrap().snapshot();
        client.puts(&metadata, 50..100, 3000).await;
        metadata.seal_now().await.unwrap();
        client.puts(&metadata, 100..120, 3000).await;
        let before = digest(&metadata);
        metadata.shutdown().await;
        *world.home.kv.lock().unwrap() = std::sync::Arc::new(MemoryKv::from_snapshot(&old));
        let metadata = world.start().await;
        assert_eq!(digest(&metadata), before);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

#[test]
fn an_index_ahead_of_the_media_stops_writes_until_the_loss_is_accepted() {
    run(async {
        let mut world = World::new(4, "2+1");
        let (metadata, mut client) = world.filled(0..10, 3000).await;
        let early = world.trace.restart();
        let kept = client.clone();
        client.puts(&metadata, 10..20, 3000).await;
        metadata.shutdown().await;

        // The drives go back to an earlier state; the index does not.
        world = world.after(&early, world.home.clone());
        let metadata = world.start().await;
        let status = metadata.status();
        assert_eq!(status.mode, Mode::ReadOnly);
        assert!(status.reason.contains("the index has applied"), "{}", status.reason);
        let refused = client.clone().put(&metadata, "more", noise(99, 10)).await;
        assert!(matches!(refused, Err(CommitError::ReadOnly { .. })), "{refused:?}");
        kept.check(&metadata).await;
        metadata.shutdown().await;

        let (metadata, report) = world.accept_loss().await.unwrap();
        assert_eq!(report.lost.len(), 10, "{report:?}");
        assert_eq!(report.known.0 - report.kept.0, 10);
        assert_eq!(world.home.aside.lock().unwrap().len(), 1);
        assert_eq!(metadata.status().mode, Mode::Serving, "{}", metadata.status().reason);
        let mut kept = kept;
        kept.check(&metadata).await;
        kept.puts(&metadata, 30..35, 3000).await;
        let before = digest(&metadata);
        metadata.seal_now().await.unwrap();
        let metadata = world.rebuilt(metadata).await;
        assert_ne!(digest(&metadata), before, "frames were moved");
        kept.check(&metadata).await;
        assert!(matches!(world.accept_loss().await, Err(StartError::DriveUnusable { .. })), "served already");
        metadata.shutdown().await;
        assert!(matches!(world.accept_loss().await, Err(StartError::NoLoss)));
    });
}

#[test]
fn r18_empty_directories_of_a_known_cluster_are_not_formatted() {
    run(async {
        let mut world = World::new(3, "1+1");
        let metadata = world.start().await;
        metadata.shutdown().await;
        world.trace = storage_node::disk::faulty::Trace::new(3);
        assert!(matches!(world.try_start().await, Err(StartError::DrivesGone { .. })));
        // Neither is one drive of several.
        let whole = World::new(3, "1+1");
        let metadata = whole.start().await;
        metadata.shutdown().await;
        whole.trace.replace_drive(1, &[]).unwrap();
        let metadata = whole.start().await;
        assert_eq!(metadata.node().drives().await.len(), 2);
        metadata.shutdown().await;
        assert!(storage_node::disk::Disk::is_empty(&*whole.trace.disk(1)).unwrap());
    });
}

#[test]
fn r18_a_drive_of_another_cluster_is_refused_by_name() {
    run(async {
        let mut ours = World::new(3, "1+1");
        ours.start().await.shutdown().await;
        // The other cluster is made with other random numbers.
        let mut other = World::new(3, "1+1");
        other.entropy_from(1000);
        other.start().await.shutdown().await;
        let identity = storage_node::disk::Disk::read_small(&*other.trace.disk(0), "identity").unwrap();
        ours.trace.replace_drive(2, &[("identity", &identity)]).unwrap();
        assert!(matches!(ours.try_start().await, Err(StartError::ForeignDrive { .. })));
        // Where the configuration says which cluster is ours, it is left alone and ours counts as absent.
        let mine = storage_node::disk::Disk::read_small(&*ours.trace.disk(0), "identity").unwrap();
        ours.config.cluster = Some(storage_node::drive::Identity::parse(&mine).unwrap().cluster);
        let metadata = ours.start().await;
        assert_eq!(metadata.node().drives().await.len(), 2);
        metadata.shutdown().await;
        assert_eq!(storage_node::disk::Disk::read_small(&*ours.trace.disk(2), "identity").unwrap(), identity);
    });
}

#[test]
fn the_geometry_is_fixed_at_first_start() {
    run(async {
        let mut world = World::new(4, "2+1");
        world.start().await.shutdown().await;
        world.config.geometry = Some("1+2".parse().unwrap());
        assert!(matches!(world.try_start().await, Err(StartError::GeometryDiffers { .. })));
        world.config.geometry = None;
        let metadata = world.start().await;
        assert_eq!(metadata.status().geometry.to_string(), "2+1");
        metadata.shutdown().await;
    });
}

#[test]
fn an_index_of_another_cluster_is_put_aside() {
    run(async {
        let mut other = World::new(3, "1+1");
        other.entropy_from(1000);
        other.start().await.shutdown().await;
        let mut ours = World::new(3, "1+1");
        let (metadata, client) = ours.filled(0..5, 100).await;
        metadata.shutdown().await;
        ours.home = other.home.clone();
        let metadata = ours.start().await;
        client.check(&metadata).await;
        metadata.shutdown().await;
        assert_eq!(ours.home.aside.lock().unwrap().len(), 1);
    });
}

/// A start of a few drives that waits for nothing takes less than this.
const QUICK: std::time::Duration = std::time::Duration::from_millis(150);

#[test]
fn a_start_is_quick() {
    run(async {
        let world = World::new(6, "3+2");
        let (metadata, _client) = world.filled(0..10, 1000).await;
        metadata.shutdown().await;
        let mut least = std::time::Duration::MAX;
        let tried = std::time::Instant::now();
        while least >= QUICK && tried.elapsed() < std::time::Duration::from_secs(120) {
            let image = world.trace.restart();
            let begun = std::time::Instant::now();
            let metadata = world.after(&image, Home::new(MemoryKv::new(&FAMILIES))).start().await;
            assert_eq!(metadata.status().mode, Mode::Serving);
            metadata.shutdown().await;
            least = least.min(begun.elapsed());
        }
        println!("one start and stop: {least:?}");
        // One that waits for anything, such as a timer, waits each time; a busy machine has quieter moments.
        assert!(least < QUICK, "{least:?}");
    });
}

/// A bucket with more open uploads than its deletion may drop in one entry left the rest behind, with references that
/// nobody would ever release.
#[test]
fn uploads_that_a_deleted_bucket_left_behind_are_aborted() {
    run(async {
        let world = World::new(4, "2+1");
        let metadata = world.start().await;
        let mut client = Client::default();
        client.create_bucket(&metadata).await;
        let bucket = client.bucket.unwrap();
        let domain = metadata.domain("alice", &crate::keys::Purpose::Plain).await.unwrap().id;
        let open = |n: u16| CreateUpload {
            bucket,
            key: format!("key-{n}"),
            nonce: u128::from(n).to_be_bytes(),
            initiator: "alice".to_owned(),
            meta: ObjectMeta::default(),
            checksum: 0,
            full_object_checksum: false,
            domain,
            encrypted: false,
            now_ms: 0,
            attached: Default::default(),
            sealed: None,
        };
        for n in 0..1100 {
            metadata.commit(metadata.epoch(), Command::CreateUpload(open(n))).await.unwrap();
        }
        let outcome = metadata.commit(metadata.epoch(), Command::DeleteBucket { bucket }).await.unwrap();
        assert_eq!(outcome, Outcome::BucketDeleted { uploads_left: true });
        // Bounded by the runner's own limit: the sweep has been woken and needs no further event.
        while !index::orphan_uploads(&Overlay::new(&**metadata.kv()), 1).unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        metadata.shutdown().await;
    });
}

/// A server that is killed and started in a loop, with little to do in between, had one more journal segment to scan at
/// every start.
#[test]
fn starts_do_not_pile_up_journal_segments() {
    run(async {
        let mut world = World::new(4, "2+1");
        world.config.seal_after = Some(1 << 30);
        let (metadata, client) = world.filled(0..3, 3000).await;
        metadata.shutdown().await;
        for _ in 0..70 {
            world.start().await.shutdown().await;
        }
        let metadata = world.start().await;
        client.check(&metadata).await;
        let sealed = async {
            while metadata.node().drives().await.iter().any(|drive| drive.journal_segments > 40) {
                tokio::task::yield_now().await;
            }
        };
        // The seal runs in the background; far less than this is enough.
        tokio::time::timeout(std::time::Duration::from_secs(60), sealed).await.unwrap();
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}
