//! What a node says about shards when it is asked.
use super::*;
use crate::disk::real::RealDisk;
use crate::index::SCRUB;
use crate::keep::Medium;
use crate::sabotage::SabotageSet;

const FIRST: &str = "segments/0000000000000001.seg";
const LEN: usize = 9000;
/// Blocks of a record of that length.
const RECORD: u64 = 4;

/// A node with shards 0 to 9 of [`LEN`] bytes on one drive, at blocks 1, 5, 9 and so on.
async fn ten_shards() -> (Trace, Arc<MemoryKv>, Arc<ManualClock>, Arc<StorageNode>) {
    let trace = Trace::new(1);
    format_all(&trace);
    let (kv, clock) = (memory_kv(), ManualClock::new());
    let node = start_scrubbing(&trace, kv.clone(), scrubbing(&clock, false)).await;
    for i in 0..10 {
        put(&node, drive_id(0), i, LEN).await.unwrap();
    }
    (trace, kv, clock, node)
}

fn flip(trace: &Trace, shard: u64, block: u64) {
    trace.flip(0, FIRST, (1 + RECORD * shard + block) * BLOCK_BYTES + 5, 1).unwrap();
}

fn shard_id(counter: u64) -> ShardId {
    shard(counter, LEN).0.id()
}

fn shard_key(counter: u64) -> Vec<u8> {
    [drive_id(0).as_bytes(), &shard_id(counter).stripe.to_bytes(), &[0]].concat()
}

fn delete(kv: &MemoryKv, family: &'static str, key: Vec<u8>) {
    let mut batch = KvBatch::new();
    batch.delete(family, key);
    kv.write(batch).unwrap();
}

#[tokio::test]
async fn shards_are_verified_on_demand_and_the_answer_is_kept() {
    let (trace, _kv, clock, node) = ten_shards().await;
    let drive = drive_id(0);
    flip(&trace, 2, 3);
    let wrong = ShardRef { root: [9; 32], ..shard_ref(4, LEN) };
    let asked = vec![shard_ref(1, LEN), shard_ref(2, LEN), wrong, shard_ref(77, LEN)];
    clock.pass(Duration::from_secs(5));
    let answers = node.verify_shards(drive, asked).await.unwrap();
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(|finding| finding.kind)).collect();
    let (damaged, generation, missing) = (FindingKind::Damaged, FindingKind::WrongGeneration, FindingKind::Missing);
    assert_eq!(kinds, [None, Some(damaged), Some(generation), Some(missing)]);
    // Of a shard that was never here nothing is remembered.
    assert_found(&node.findings(drive).await.unwrap(), &[(subject(2), damaged), (subject(4), generation)]);
    let verified = node.verified(drive, vec![shard_id(1), shard_id(2), shard_id(3), shard_id(77)]).await.unwrap();
    let [Some(good), Some(bad), Some(new), None] = &verified[..] else { panic!("{verified:?}") };
    assert_eq!((good.good_ms, good.written_ms), (clock.now(), clock.now() - 5000));
    assert_eq!((bad.good_ms, bad.finding.as_ref().map(|f| f.kind)), (0, Some(damaged)));
    assert_eq!((new.good_ms, &new.finding), (0, &None));
    // A pass can't say whose shard it is, so only the right question takes that back.
    assert_found(&pass(&node, &clock, drive).await, &[(subject(2), damaged), (subject(4), generation)]);
    flip(&trace, 2, 3);
    let answers = node.verify_shards(drive, vec![shard_ref(2, LEN), shard_ref(4, LEN)]).await.unwrap();
    assert_eq!(answers, [Ok(()), Ok(())]);
    assert_found(&node.findings(drive).await.unwrap(), &[]);
    assert_eq!(node.verify_shards(drive_id(9), vec![]).await, Err(ReadError::UnknownDrive(drive_id(9))));
    node.stop().await;
}

#[tokio::test]
async fn the_inventory_is_what_the_medium_has() {
    let (trace, kv, _clock, node) = ten_shards().await;
    let drive = drive_id(0);
    // A header is gone, another one can't be read, a payload begins with zeros, a row has vanished, payload has rotted.
    flip(&trace, 1, 0);
    let at = (1 + RECORD * 3) * BLOCK_BYTES;
    trace.make_unreadable(0, FIRST, at..at + 512).unwrap();
    open_file(&trace, 0, FIRST).write_at(&[0; 4096], (1 + RECORD * 5 + 1) * BLOCK_BYTES).unwrap();
    delete(&kv, SHARDS, shard_key(7));
    flip(&trace, 8, 1);
    for step in [1, 3, 100] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = node.inventory(drive, after, step).await.unwrap();
            seen.extend(page.iter().copied());
            after = page.last().map(|shard| shard.id);
            if page.len() < step {
                break;
            }
        }
        let expected: Vec<_> = [0, 2, 4, 6, 8, 9].map(|i| shard_ref(i, LEN)).to_vec();
        assert_eq!(seen, expected, "in pages of {step}");
    }
    let expected = [
        (subject(1), FindingKind::Damaged),
        (subject(3), FindingKind::Unreadable),
        (subject(5), FindingKind::Missing),
        (subject(7), FindingKind::Missing),
    ];
    assert_found(&node.findings(drive).await.unwrap(), &expected);
    node.stop().await;
}

#[tokio::test]
async fn what_is_freed_is_no_finding_whatever_becomes_of_it() {
    let (trace, kv, clock, node) = ten_shards().await;
    let drive = drive_id(0);
    let handle = node.open_drive_of(drive);
    for i in [2, 3] {
        let place = handle.index.place(shard_id(i)).unwrap();
        let mut batch = KvBatch::new();
        handle.index.delete_place(&mut batch, shard_id(i));
        handle.scrub.freed(&mut batch, shard_id(i), place);
        kv.write(batch).unwrap();
        open_file(&trace, 0, FIRST).write_at(&[0; 4096], (1 + RECORD * i + 1) * BLOCK_BYTES).unwrap();
    }
    // What is left of the second one goes bad: its header, and a block behind the first.
    flip(&trace, 3, 0);
    flip(&trace, 3, 2);
    assert_found(&pass(&node, &clock, drive).await, &[]);
    assert_eq!(node.inventory(drive, None, 100).await.unwrap().len(), 8);
    assert_eq!(node.verified(drive, vec![shard_id(2)]).await.unwrap(), [None]);
    assert_found(&node.findings(drive).await.unwrap(), &[]);
    node.stop().await;
}

#[tokio::test]
async fn a_shard_that_is_written_again_is_good_and_its_old_place_of_no_interest() {
    let (trace, _kv, clock, node) = ten_shards().await;
    let drive = drive_id(0);
    flip(&trace, 2, 0);
    flip(&trace, 4, 1);
    let damaged = FindingKind::Damaged;
    assert_found(&pass(&node, &clock, drive).await, &[(subject(2), damaged), (subject(4), damaged)]);
    put(&node, drive, 2, LEN).await.unwrap();
    put(&node, drive, 4, LEN).await.unwrap();
    assert_found(&node.findings(drive).await.unwrap(), &[]);
    assert_found(&pass(&node, &clock, drive).await, &[]);
    node.stop().await;
}

#[tokio::test]
async fn an_index_that_is_lost_costs_what_was_known_and_nothing_else() {
    let (trace, kv, clock, node) = ten_shards().await;
    let drive = drive_id(0);
    flip(&trace, 2, 1);
    pass(&node, &clock, drive).await;
    node.stop().await;
    let node = start_scrubbing(&trace, memory_kv(), scrubbing(&clock, false)).await;
    assert_found(&node.findings(drive).await.unwrap(), &[]);
    let known = node.verified(drive, vec![shard_id(1)]).await.unwrap();
    assert!(known[0].as_ref().is_some_and(|v| (v.good_ms, v.written_ms) == (0, clock.now())), "{known:?}");
    assert_found(&pass(&node, &clock, drive).await, &[(subject(2), FindingKind::Damaged)]);
    node.stop().await;
    // Rows that can't be read are no rows.
    let mut batch = KvBatch::new();
    let rows: Vec<_> = {
        let mut scan = kv.scan(SCRUB, &[], Direction::Forward).unwrap();
        std::iter::from_fn(|| scan.next().unwrap()).collect()
    };
    rows.into_iter().for_each(|(key, _)| batch.put(SCRUB, key, vec![77; 3]));
    kv.write(batch).unwrap();
    let node = start_scrubbing(&trace, kv, scrubbing(&clock, false)).await;
    assert_found(&node.findings(drive).await.unwrap(), &[]);
    node.scrub_order(drive, ScrubOrder::Resume).await.unwrap();
    assert_found(&pass(&node, &clock, drive).await, &[(subject(2), FindingKind::Damaged)]);
    node.stop().await;
}

/// On a real file system: whatever it can do, a byte that changes in a file that everybody has in the cache is seen.
#[tokio::test]
async fn on_a_real_file_system_rot_is_seen() {
    for parent in ["/tmp", "/dev/shm"] {
        let Ok(dir) = tempfile::tempdir_in(parent) else { continue };
        let disk = || Arc::new(RealDisk::new(dir.path(), SabotageSet::default())) as Arc<dyn Disk>;
        format(&*disk(), CLUSTER, drive_id(0), None).unwrap();
        let clock = ManualClock::new();
        let config = scrubbing(&clock, false);
        let node = StorageNode::open(config, vec![probe(disk(), Some(CLUSTER))], memory_kv()).await.unwrap();
        node.begin(EPOCH).await.unwrap();
        for i in 0..20 {
            put(&node, drive_id(0), i, 20_000 + 333 * i as usize).await.unwrap();
        }
        assert_found(&pass(&node, &clock, drive_id(0)).await, &[]);
        let direct = disk().capabilities().direct_io;
        let medium = status(&node, drive_id(0)).await.medium;
        assert_eq!(medium, if direct { Medium::Direct } else { Medium::Dropped }, "{parent}");
        let path = dir.path().join(FIRST);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3 * 4096 + 9] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_found(&pass(&node, &clock, drive_id(0)).await, &[(subject(0), FindingKind::Damaged)]);
        assert_eq!(node.inventory(drive_id(0), None, 100).await.unwrap().len(), 20);
        node.stop().await;
    }
}
