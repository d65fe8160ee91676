//! Drives that hang, die, come back, are read-only, or lost a segment: the others serve, and what is left is served.
use super::*;
use crate::client::{DriveHealth, Lost};
use crate::disk::DiskOp;
use crate::disk::faulty::Fault;
use crate::disk::real::RealDisk;
use crate::drive::{DriveError, ProbedDrive, ProbedState};
use crate::keep::{Authority, ShardRef};
use crate::kv::{Direction, KvBatch, KvError, KvIterator, KvStats};
use crate::sabotage::SabotageSet;
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LEN: usize = 20_000;

async fn health(node: &StorageNode, drive: DriveId) -> DriveHealth {
    node.drives().await.into_iter().find(|status| status.id == drive).unwrap().health
}

fn has_failed(health: &DriveHealth) -> bool {
    matches!(health, DriveHealth::Failed { .. })
}

/// Two drives on real directories.
async fn real_drives(root: &Path) -> (Arc<StorageNode>, [PathBuf; 2]) {
    let paths = [root.join("a"), root.join("b")];
    for (i, path) in paths.iter().enumerate() {
        std::fs::create_dir(path).unwrap();
        format(&RealDisk::new(path, SabotageSet::default()), CLUSTER, drive_id(i), None).unwrap();
    }
    let probed = paths.iter().map(|path| probed(path)).collect();
    let node = StorageNode::open(config(), probed, memory_kv()).await.unwrap();
    node.begin(EPOCH).await.unwrap();
    (node, paths)
}

fn probed(path: &Path) -> ProbedDrive {
    probe(Arc::new(RealDisk::new(path, SabotageSet::default())), Some(CLUSTER))
}

#[tokio::test]
async fn r18_a_drive_that_failed_is_used_again_when_it_is_back_and_not_when_another_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (node, [a, b]) = real_drives(dir.path()).await;
    let aside = dir.path().join("aside");
    for i in 0..20 {
        put(&node, drive_id(0), i, LEN).await.unwrap();
    }
    std::fs::rename(&a, &aside).unwrap();
    // Noticed by who asks for the status, before anything is written.
    assert!(has_failed(&health(&node, drive_id(0)).await));
    assert_eq!(health(&node, drive_id(1)).await, DriveHealth::Healthy);
    assert!(put(&node, drive_id(0), 20, LEN).await.is_err());
    let gone = node.reopen(drive_id(0)).await;
    assert!(matches!(gone, Err(DriveError::NotOurs { state: ProbedState::Missing, .. })), "{gone:?}");
    // Another drive at its path, or an empty directory: a forgotten mount.
    std::fs::create_dir(&a).unwrap();
    let empty = node.reopen(drive_id(0)).await;
    assert!(matches!(empty, Err(DriveError::NotOurs { state: ProbedState::Empty, .. })), "{empty:?}");
    std::fs::copy(b.join("identity"), a.join("identity")).unwrap();
    assert!(node.reopen(drive_id(0)).await.is_err());
    assert!(has_failed(&health(&node, drive_id(0)).await));
    std::fs::remove_dir_all(&a).unwrap();
    std::fs::rename(&aside, &a).unwrap();
    node.reopen(drive_id(0)).await.unwrap();
    assert_eq!(health(&node, drive_id(0)).await, DriveHealth::Healthy);
    for i in 0..20 {
        assert_readable(&node, drive_id(0), i, LEN).await;
    }
    put(&node, drive_id(0), 20, LEN).await.unwrap();
    // A healthy one is left as it is, and one that nobody knows is refused.
    node.reopen(drive_id(0)).await.unwrap();
    assert!(matches!(node.reopen(drive_id(7)).await, Err(DriveError::Unknown { .. })));
    assert_eq!(node.drives().await.len(), 2);
    node.stop().await;
}

#[tokio::test]
async fn r6_a_drive_that_was_struck_read_only_begins_new_segments_when_it_is_opened_again() {
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 0, LEN).await.unwrap();
    for i in 1..3 {
        trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncData).path(".seg").times(1));
        assert!(put(&node, drive, i, LEN).await.is_err());
    }
    assert!(matches!(health(&node, drive).await, DriveHealth::ReadOnly { .. }));
    assert!(node.drives().await[0].errors >= 2);
    let struck = trace.disk(0).list("segments").unwrap();
    let before = trace.events().len();
    node.reopen(drive).await.unwrap();
    put(&node, drive, 3, LEN).await.unwrap();
    assert_readable(&node, drive, 0, LEN).await;
    assert_readable(&node, drive, 3, LEN).await;
    let written = |e: &crate::disk::faulty::Event| {
        struck.iter().any(|s| format!("{e}").contains(&format!("write \"segments/{s}")))
    };
    assert!(!trace.events()[before..].iter().any(written));
}

#[tokio::test]
async fn a_drive_that_was_closed_is_failed_until_it_is_opened_again() {
    let (_trace, node, drive) = one_drive().await;
    put(&node, drive, 0, LEN).await.unwrap();
    node.close_drive(drive).await;
    assert!(has_failed(&health(&node, drive).await));
    assert!(matches!(get(&node, drive, 0, LEN).await, Err(ReadError::DriveFailed { .. })));
    node.reopen(drive).await.unwrap();
    assert_readable(&node, drive, 0, LEN).await;
    put(&node, drive, 1, LEN).await.unwrap();
}

#[tokio::test]
async fn a_drive_that_hangs_does_not_hold_up_the_start_and_is_used_when_it_answers() {
    let trace = Trace::new(2);
    format_all(&trace);
    let node = start(&trace, memory_kv()).await;
    put(&node, drive_id(0), 0, LEN).await.unwrap();
    put(&node, drive_id(1), 1, LEN).await.unwrap();
    node.stop().await;
    let probed = trace.disks().into_iter().map(|disk| probe(disk as Arc<dyn Disk>, Some(CLUSTER))).collect();
    let hang = trace.inject(Fault::hang().on(DiskOp::List).drive(1).times(1));
    let begun = Instant::now();
    let config = NodeConfig { open_deadline: Duration::from_secs(5), ..config() };
    let node = StorageNode::open(config, probed, memory_kv()).await.unwrap();
    assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
    assert_eq!(trace.hits(hang), 1);
    node.begin(EPOCH).await.unwrap();
    assert!(has_failed(&health(&node, drive_id(1)).await));
    assert_readable(&node, drive_id(0), 0, LEN).await;
    // Whoever hangs still holds its lock.
    assert!(node.reopen(drive_id(1)).await.is_err());
    trace.heal(hang);
    let answered = async {
        while node.reopen(drive_id(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("it is used when it answers");
    assert_readable(&node, drive_id(1), 1, LEN).await;
}

#[tokio::test]
async fn a_drive_that_takes_long_and_goes_on_is_waited_for() {
    let (trace, node, drive) = one_drive().await;
    for i in 0..60 {
        put(&node, drive, i, LEN).await.unwrap();
    }
    node.stop().await;
    // Each step is below the deadline, all of them are not.
    let step = Duration::from_millis(300);
    trace.inject(Fault::slow(step).on(DiskOp::Open).path(".seg"));
    let deadline = 5 * step;
    let config = NodeConfig { open_deadline: deadline, ..config() };
    let begun = Instant::now();
    let node = open_with(&trace, memory_kv(), config).await;
    assert!(begun.elapsed() > deadline, "{:?}", begun.elapsed());
    assert_readable(&node, drive, 59, LEN).await;
}

/// A store that panics when it is asked for a row of one drive.
#[derive(Debug)]
struct Panics(Arc<MemoryKv>, DriveId);

impl Kv for Panics {
    fn get(&self, family: crate::kv::Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        assert!(!key.starts_with(self.1.as_bytes()), "a test's panic");
        self.0.get(family, key)
    }
    fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        self.0.write(batch)
    }
    fn scan(
        &self,
        family: crate::kv::Family,
        start: &[u8],
        direction: Direction,
    ) -> Result<Box<dyn KvIterator + '_>, KvError> {
        self.0.scan(family, start, direction)
    }
    fn flush(&self) -> Result<(), KvError> {
        self.0.flush()
    }
    fn stats(&self) -> KvStats {
        self.0.stats()
    }
}

#[tokio::test]
async fn r17_a_drive_whose_contents_make_the_code_panic_does_not_refuse_the_start() {
    let trace = Trace::new(2);
    format_all(&trace);
    let node = start(&trace, memory_kv()).await;
    put(&node, drive_id(0), 0, LEN).await.unwrap();
    node.stop().await;
    let node = start(&trace, Arc::new(Panics(memory_kv(), drive_id(1)))).await;
    assert!(has_failed(&health(&node, drive_id(1)).await));
    assert_readable(&node, drive_id(0), 0, LEN).await;
    put(&node, drive_id(0), 1, LEN).await.unwrap();
}

#[tokio::test]
async fn r6_what_only_the_page_cache_has_is_not_believed_by_the_next_start() {
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 0, LEN).await.unwrap();
    trace.inject(Fault::lost_write().under_cache().path(".seg").times(1));
    trace.inject(Fault::error(Errno::IO).on(DiskOp::SyncData).path(".seg").times(1));
    assert!(put(&node, drive, 1, LEN).await.is_err());
    node.stop().await;
    // The process starts again; the machine, and with it the cache, has lived on.
    let node = start(&trace, memory_kv()).await;
    assert_eq!(get(&node, drive, 1, LEN).await, Err(ReadError::NotFound));
    assert_readable(&node, drive, 0, LEN).await;
    put(&node, drive, 2, LEN).await.unwrap();
    assert_eq!(node.verify(drive).await.unwrap(), vec![]);
}

#[tokio::test]
async fn r7_a_segment_that_was_deleted_by_hand_is_missed_and_its_number_is_not_used_again() {
    let (trace, node, drive) = one_drive().await;
    for i in 0..60 {
        put(&node, drive, i, LEN).await.unwrap();
    }
    node.stop().await;
    let all = trace.disk(0).list("segments").unwrap();
    let (second, last) = (&all[1], &all[all.len() - 1]);
    let number = |name: &str| crate::segment::parse_segment_name(name).unwrap();
    let kv = memory_kv();
    start(&trace, kv.clone()).await.stop().await;
    for name in [second, last] {
        trace.disk(0).remove(&format!("segments/{name}")).unwrap();
    }
    let lost = |node: &StorageNode| -> Vec<u64> {
        let damage = node.damage(drive).unwrap();
        damage.iter().filter(|d| d.what == Lost::Segment).map(|d| d.segment).collect()
    };
    for (kv, expected) in [(kv, vec![number(second), number(last)]), (memory_kv(), vec![number(second)])] {
        let node = start(&trace, kv.clone()).await;
        for name in expected.iter() {
            assert!(lost(&node).contains(name), "{:?} {expected:?}", lost(&node));
        }
        let listed = node.list_shards(drive, None, None, 100).await.unwrap().len();
        assert!(listed < 60 && listed > 20);
        put(&node, drive, 1000 + listed as u64, LEN).await.unwrap();
        if expected.len() == 2 {
            let newest = trace.disk(0).list("segments").unwrap().iter().map(|n| number(n)).max().unwrap();
            assert!(newest > number(last));
            // Its shards are damaged, the index is not, and whoever frees them finds them gone.
            let gone = (0..60).map(|i| (i, shard(i, LEN).0));
            for (i, header) in gone {
                if let Err(error) = get(&node, drive, i, LEN).await {
                    assert!(matches!(error, ReadError::Damaged { block: 0, .. }), "{error}");
                    let shards = vec![ShardRef { id: header.id(), root: header.descriptor.root() }];
                    let freed = node.free_shards(drive, Authority::default(), shards).await.unwrap();
                    assert_eq!((freed.shards, freed.bytes), (1, 0));
                    assert_eq!(get(&node, drive, i, LEN).await, Err(ReadError::NotFound));
                }
            }
        }
        node.stop().await;
    }
}

#[tokio::test]
async fn a_file_system_that_was_made_read_only_is_found_out_when_the_node_begins() {
    let (trace, node, drive) = one_drive().await;
    put(&node, drive, 0, LEN).await.unwrap();
    node.stop().await;
    let node = open_with(&trace, memory_kv(), config()).await;
    trace.inject(Fault::error(Errno::ROFS).on(DiskOp::Open).on(DiskOp::Create).on(DiskOp::Write));
    node.begin(EPOCH).await.unwrap();
    assert!(matches!(health(&node, drive).await, DriveHealth::ReadOnly { .. }));
    assert!(matches!(put(&node, drive, 1, LEN).await, Err(WriteError::ReadOnly { .. })));
    trace.heal_all();
    assert_readable(&node, drive, 0, LEN).await;
}

/// The drive of the test below, for the process that it starts.
const READ_ONLY: &str = "STELE_TEST_READ_ONLY";

#[tokio::test]
async fn a_drive_on_a_read_only_file_system_is_read() {
    if let Some(path) = std::env::var_os(READ_ONLY) {
        let path = PathBuf::from(path);
        assert!(std::fs::write(path.join("x"), b"x").is_err(), "it is read-only");
        let node = StorageNode::open(config(), vec![probed(&path)], memory_kv()).await.unwrap();
        node.begin(EPOCH).await.unwrap();
        assert!(matches!(health(&node, drive_id(0)).await, DriveHealth::ReadOnly { .. }));
        assert_readable(&node, drive_id(0), 0, LEN).await;
        assert!(RealDisk::new(&path, SabotageSet::default()).lock().is_err(), "and locked all the same");
        println!("was read");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (node, [path, _]) = real_drives(dir.path()).await;
    put(&node, drive_id(0), 0, LEN).await.unwrap();
    node.stop().await;
    // A mount of its own, in a namespace of its own; not everybody may do that.
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" || exit 77; shift; exec \"$@\"";
    let name = "tests::reopen::a_drive_on_a_read_only_file_system_is_read";
    let ran = std::process::Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .arg(&path)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(READ_ONLY, &path)
        .output();
    match ran {
        Ok(ran) if ran.status.success() => assert!(String::from_utf8_lossy(&ran.stdout).contains("was read")),
        Ok(ran) if ran.status.code() == Some(101) => panic!("{}", String::from_utf8_lossy(&ran.stderr)),
        other => eprintln!("no read-only mount can be had here: {other:?}"),
    }
}

#[tokio::test]
async fn a_slow_drive_shows_in_its_p99() {
    let trace = Trace::new(2);
    format_all(&trace);
    let node = start(&trace, memory_kv()).await;
    // One of its writes, for longer than a busy machine delays the other one.
    trace.inject(Fault::slow(Duration::from_secs(3)).on(DiskOp::SyncData).drive(1).nth(20));
    // A 99th percentile is said of 32 operations and more, and is the slowest of less than a hundred.
    for i in 0..40 {
        put(&node, drive_id(0), i, 100).await.unwrap();
        put(&node, drive_id(1), i, 100).await.unwrap();
    }
    let of = |drives: &[crate::client::DriveStatus], i| drives.iter().find(|d| d.id == drive_id(i)).unwrap().p99_ms;
    let drives = node.drives().await;
    let (quick, slow) = (of(&drives, 0).unwrap(), of(&drives, 1).unwrap());
    assert!(slow >= 3000 && quick < slow, "{quick} {slow}");
}

/// A server that was told to stop waited for the drive that hung until somebody killed it.
#[tokio::test]
async fn a_drive_that_hangs_does_not_hold_up_the_end() {
    let trace = Trace::new(2);
    format_all(&trace);
    let config = NodeConfig { close_deadline: Duration::from_millis(200), ..config() };
    let node = open_with(&trace, memory_kv(), config).await;
    node.begin(EPOCH).await.unwrap();
    put(&node, drive_id(0), 0, LEN).await.unwrap();
    let hang = trace.inject(Fault::hang().on(DiskOp::SyncData).drive(0).times(1));
    let late = tokio::spawn({
        let node = node.clone();
        async move { put(&node, drive_id(0), 1, LEN).await }
    });
    while trace.hits(hang) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    node.stop().await;
    assert!(begun.elapsed() < NOT_WAITED_FOR && !late.is_finished(), "{:?}", begun.elapsed());
    assert_eq!(node.drives().await.len(), 0);
    trace.heal(hang);
    late.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_did_not_see_a_drive_go_sees_that_it_was_opened_again_and_a_forgotten_one_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (node, [a, _]) = real_drives(dir.path()).await;
    put(&node, drive_id(0), 0, LEN).await.unwrap();
    let opened = async |drive| node.drives().await.into_iter().find(|d| d.id == drive).map(|d| d.opened);
    assert_eq!(opened(drive_id(0)).await, Some(1));
    let aside = dir.path().join("aside");
    std::fs::rename(&a, &aside).unwrap();
    assert!(has_failed(&health(&node, drive_id(0)).await));
    assert_eq!(opened(drive_id(0)).await, Some(1));
    std::fs::rename(&aside, &a).unwrap();
    node.reopen(drive_id(0)).await.unwrap();
    assert_eq!((opened(drive_id(0)).await, opened(drive_id(1)).await), (Some(2), Some(1)));

    node.forget_drive(drive_id(0)).await.unwrap();
    assert_eq!(opened(drive_id(0)).await, None);
    assert!(matches!(node.reopen(drive_id(0)).await, Err(DriveError::Unknown { .. })));
    assert!(matches!(get(&node, drive_id(0), 0, LEN).await, Err(ReadError::UnknownDrive(_))));
    // Nothing was done to the drive, and its lock is free again.
    node.add_drive(probed(&a)).await.unwrap();
    assert_readable(&node, drive_id(0), 0, LEN).await;
    node.stop().await;
}
