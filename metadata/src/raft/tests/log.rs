//! The log against Raft's own conformance suite, on both stores, and what the suite does not ask: damage, owners, failed syncs.

use super::super::log::{FAMILIES, Identity, LogStore, OpenError};
use super::super::message::{decode_entry, encode_entry};
use super::super::{Applied, Peer, Proposal, RaftTypes, SnapshotDir};
use crate::index::IndexError;
use bytes::Bytes;
use codec::id::ClusterId;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{
    CommittedLeaderId, Entry, EntryPayload, LogId, Membership, OptionalSend, RaftLogReader, RaftSnapshotBuilder,
    Snapshot, SnapshotMeta, StorageError, StoredMembership, Vote,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage_node::kv::{Direction, Family, Kv, KvBatch, KvError, KvIterator, KvStats, MemoryKv, RocksKv, RocksOptions};

const ME: Identity = Identity { cluster: ClusterId([7; 16]), node: 3 };

/// Applies nothing; keeps what the suite asks a state machine for.
#[derive(Clone, Default)]
struct Counting {
    applied: Option<LogId<u64>>,
    members: StoredMembership<u64, Peer>,
    snapshot: Option<SnapshotMeta<u64, Peer>>,
}

impl RaftSnapshotBuilder<RaftTypes> for Arc<std::sync::Mutex<Counting>> {
    async fn build_snapshot(&mut self) -> Result<Snapshot<RaftTypes>, StorageError<u64>> {
        let mut state = self.lock().unwrap();
        let meta = SnapshotMeta {
            last_log_id: state.applied,
            last_membership: state.members.clone(),
            snapshot_id: "one".to_owned(),
        };
        state.snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: Box::new(SnapshotDir::new(PathBuf::new())) })
    }
}

impl RaftStateMachine<RaftTypes> for Arc<std::sync::Mutex<Counting>> {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Peer>), StorageError<u64>> {
        let state = self.lock().unwrap();
        Ok((state.applied, state.members.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<RaftTypes>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.lock().unwrap();
        let apply = |entry: Entry<RaftTypes>| {
            state.applied = Some(entry.log_id);
            if let EntryPayload::Membership(members) = entry.payload {
                state.members = StoredMembership::new(Some(entry.log_id), members);
            }
            Applied::Done
        };
        Ok(entries.into_iter().map(apply).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotDir>, StorageError<u64>> {
        Ok(Box::new(SnapshotDir::new(PathBuf::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Peer>,
        _snapshot: Box<SnapshotDir>,
    ) -> Result<(), StorageError<u64>> {
        let mut state = self.lock().unwrap();
        state.applied = meta.last_log_id;
        state.members = meta.last_membership.clone();
        state.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<RaftTypes>>, StorageError<u64>> {
        let meta = self.lock().unwrap().snapshot.clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: Box::new(SnapshotDir::new(PathBuf::new())) }))
    }
}

struct InMemory;
struct OnDisk;

type Machine = Arc<std::sync::Mutex<Counting>>;

impl StoreBuilder<RaftTypes, LogStore, Machine> for InMemory {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<u64>> {
        let log = LogStore::open(Arc::new(MemoryKv::new(&FAMILIES)), ME).unwrap();
        Ok(((), log, Machine::default()))
    }
}

impl StoreBuilder<RaftTypes, LogStore, Machine, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        Ok((dir.path().into(), dir)).map(|(path, dir): (PathBuf, _)| (dir, on_disk(&path), Machine::default()))
    }
}

fn on_disk(path: &std::path::Path) -> LogStore {
    LogStore::open(Arc::new(RocksKv::open(path, &FAMILIES, RocksOptions::default()).unwrap()), ME).unwrap()
}

#[test]
fn the_log_is_what_raft_asks_for() {
    Suite::test_all(InMemory).unwrap();
    Suite::test_all(OnDisk).unwrap();
}

fn proposal(term: u64, index: u64, bytes: &'static [u8]) -> Entry<RaftTypes> {
    let payload = EntryPayload::Normal(Proposal { entry: Bytes::from_static(bytes) });
    Entry { log_id: LogId::new(CommittedLeaderId::new(term, 3), index), payload }
}

#[test]
fn entries_keep_what_they_are() {
    let peer = |n: u64| Peer { address: format!("10.0.0.{n}:9100"), name: format!("meta-{n}") };
    let sets = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])];
    let nodes: BTreeMap<u64, Peer> = (1..=5).map(|n| (n, peer(n))).collect();
    let log_id = LogId::new(CommittedLeaderId::new(9, 2), u64::MAX - 1);
    for payload in [
        EntryPayload::Blank,
        EntryPayload::Normal(Proposal { entry: Bytes::from_static(b"\0an entry") }),
        EntryPayload::Membership(Membership::new(sets, nodes)),
    ] {
        let entry = Entry::<RaftTypes> { log_id, payload };
        let back = decode_entry(encode_entry(&entry).into()).unwrap();
        assert_eq!((back.log_id, back.payload), (entry.log_id, entry.payload));
    }
    assert!(decode_entry(Bytes::from_static(b"")).is_none(), "an entry without a payload");
    assert!(decode_entry(Bytes::from_static(b"\xff\xff")).is_none());
}

/// What was flushed is there after the store was opened again, votes and cuts included.
#[tokio::test]
async fn what_was_flushed_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = on_disk(dir.path());
    let vote = Vote::new_committed(4, 2);
    log.save_vote(&vote).await.unwrap();
    log.blocking_append((1..=9).map(|index| proposal(1, index, b"old"))).await.unwrap();
    log.truncate(LogId::new(CommittedLeaderId::new(1, 3), 6)).await.unwrap();
    log.blocking_append([proposal(4, 6, b"new")]).await.unwrap();
    log.purge(LogId::new(CommittedLeaderId::new(1, 3), 2)).await.unwrap();
    drop(log);
    // At once: the thread that synced has let go of the store before the log was gone.
    let mut log = on_disk(dir.path());
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id.map(|id| id.index), Some(2));
    assert_eq!(state.last_log_id, Some(LogId::new(CommittedLeaderId::new(4, 3), 6)));
    let indexes: Vec<u64> = log.try_get_log_entries(..).await.unwrap().iter().map(|e| e.log_id.index).collect();
    assert_eq!(indexes, [3, 4, 5, 6]);
}

/// Damage in the middle of the write-ahead log ends an index there, which is made anew; a Raft log that did so would have
/// forgotten votes and entries that it has promised to keep.
#[tokio::test]
async fn a_log_that_lost_what_it_synced_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    {
        let kv = Arc::new(RocksKv::open_promised(dir.path(), &FAMILIES, RocksOptions::default()).unwrap());
        let mut batch = KvBatch::new();
        batch.put("raft-state", b"first".to_vec(), vec![1; 100_000]);
        kv.write(batch).unwrap();
        kv.flush().unwrap();
        for n in 0..50u64 {
            let mut batch = KvBatch::new();
            batch.put("raft-log", n.to_be_bytes().to_vec(), vec![2; 4_000]);
            kv.write(batch).unwrap();
        }
        kv.flush().unwrap();
    }
    let files = || std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    let log = files().filter(|path| path.extension().is_some_and(|e| e == "log"));
    let log = log.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    assert!(bytes.len() > 250_000, "{}", bytes.len());
    bytes[150_000] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    // Whoever looks whose log it is must leave it as damaged as it was.
    let looked = LogStore::is_owned(dir.path(), RocksOptions::default());
    let corrupt = matches!(&looked, Err(OpenError::Index(IndexError::Store(KvError::Corrupt { .. }))));
    assert!(corrupt, "{looked:?}");
    let opened = RocksKv::open_promised(dir.path(), &FAMILIES, RocksOptions::default());
    assert!(matches!(opened, Err(KvError::Corrupt { .. })), "{opened:?}");
    let shorter = RocksKv::open(dir.path(), &FAMILIES, RocksOptions::default()).unwrap();
    assert!(shorter.get("raft-log", &49u64.to_be_bytes()).unwrap().is_none(), "the other mode forgets");
}

/// Behind a snapshot that was installed: entries that another leader has replaced, of which the cut was lost with the power.
#[tokio::test]
async fn nothing_of_a_lower_term_is_left_behind_what_was_purged() {
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new(&FAMILIES));
    let mut log = LogStore::open(kv, ME).unwrap();
    log.blocking_append((1..=6).map(|index| proposal(1, index, b"x"))).await.unwrap();
    log.blocking_append((7..=9).map(|index| proposal(2, index, b"x"))).await.unwrap();
    log.purge(LogId::new(CommittedLeaderId::new(1, 3), 4)).await.unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 5, "of its term, or a higher one");
    let upto = LogId::new(CommittedLeaderId::new(3, 3), 7);
    log.purge(upto).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(upto));
    assert!(log.try_get_log_entries(..).await.unwrap().is_empty());
}

/// A snapshot that follows a cut is in another store: the cut must not be lost where the snapshot is kept.
#[tokio::test]
async fn a_cut_is_synced() {
    let kv = Arc::new(Unsyncable(MemoryKv::new(&FAMILIES), AtomicBool::new(false)));
    let mut log = LogStore::open(kv.clone(), ME).unwrap();
    log.blocking_append((1..=3).map(|index| proposal(1, index, b"x"))).await.unwrap();
    kv.1.store(true, Ordering::Release);
    assert!(log.truncate(LogId::new(CommittedLeaderId::new(1, 3), 2)).await.is_err());
}

/// A node that is given another one's log would answer with that one's votes and entries.
#[tokio::test]
async fn a_log_has_one_owner() {
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new(&FAMILIES));
    drop(LogStore::open(kv.clone(), ME).unwrap());
    for other in [Identity { node: 4, ..ME }, Identity { cluster: ClusterId([8; 16]), ..ME }] {
        let refused = LogStore::open(kv.clone(), other);
        assert!(matches!(refused, Err(OpenError::Foreign { found_node: 3, .. })), "{refused:?}");
    }
    LogStore::open(kv, ME).unwrap();
}

/// A row that is gone, or lies in another's place, must not read as a log that is shorter or other.
#[tokio::test]
async fn a_log_with_a_hole_is_damaged() {
    let damage: [fn(&dyn Kv); 3] = [
        |kv| change(kv, 4, None),
        |kv| change(kv, 4, kv.get("raft-log", &5u64.to_be_bytes()).unwrap()),
        |kv| change(kv, 4, Some(Bytes::from_static(b"\x02nothing"))),
    ];
    for damage in damage {
        let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new(&FAMILIES));
        let mut log = LogStore::open(kv.clone(), ME).unwrap();
        log.blocking_append((1..=9).map(|index| proposal(1, index, b"x"))).await.unwrap();
        damage(&*kv);
        assert!(log.try_get_log_entries(1..).await.is_err());
        assert_eq!(log.try_get_log_entries(5..).await.unwrap().len(), 5);
    }
    // The first row after what was purged.
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new(&FAMILIES));
    let mut log = LogStore::open(kv.clone(), ME).unwrap();
    log.blocking_append((1..=9).map(|index| proposal(1, index, b"x"))).await.unwrap();
    log.purge(LogId::new(CommittedLeaderId::new(1, 3), 3)).await.unwrap();
    let row_of_4 = kv.get("raft-log", &4u64.to_be_bytes()).unwrap().unwrap();
    change(&*kv, 4, None);
    assert!(matches!(LogStore::open(kv.clone(), ME), Err(OpenError::Gap { wanted: 4, found: 5 })));
    // And one in the middle, as a power cut leaves it: such a node must not vote by what is behind it.
    change(&*kv, 4, Some(row_of_4));
    drop(LogStore::open(kv.clone(), ME).unwrap());
    change(&*kv, 7, None);
    let refused = LogStore::open(kv, ME);
    assert!(matches!(refused, Err(OpenError::Gap { wanted: 7, found: 8 })), "{refused:?}");
}

fn change(kv: &dyn Kv, index: u64, value: Option<Bytes>) {
    let mut batch = KvBatch::new();
    match value {
        Some(value) => batch.put("raft-log", index.to_be_bytes().to_vec(), value),
        None => batch.delete("raft-log", index.to_be_bytes().to_vec()),
    }
    kv.write(batch).unwrap();
}

/// A store whose syncs can be made to fail once.
#[derive(Debug)]
struct Unsyncable(MemoryKv, AtomicBool);

impl Kv for Unsyncable {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.0.get(family, key)
    }
    fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        self.0.write(batch)
    }
    fn scan(&self, f: Family, start: &[u8], d: Direction) -> Result<Box<dyn KvIterator + '_>, KvError> {
        self.0.scan(f, start, d)
    }
    fn flush(&self) -> Result<(), KvError> {
        let fails = self.1.swap(false, Ordering::AcqRel);
        if fails { Err(KvError::Io { path: "x".into(), detail: "no".into() }) } else { Ok(()) }
    }
    fn stats(&self) -> KvStats {
        self.0.stats()
    }
}

/// After a failed sync the pages may be gone from memory: a second one that succeeds says nothing about the first.
#[tokio::test]
async fn r6_a_failed_sync_is_not_tried_again() {
    let kv = Arc::new(Unsyncable(MemoryKv::new(&FAMILIES), AtomicBool::new(false)));
    let mut log = LogStore::open(kv.clone(), ME).unwrap();
    log.blocking_append([proposal(1, 1, b"x")]).await.unwrap();
    kv.1.store(true, Ordering::Release);
    assert!(log.blocking_append([proposal(1, 2, b"x")]).await.is_err());
    assert!(log.blocking_append([proposal(1, 3, b"x")]).await.is_err(), "the sync would succeed now");
    assert!(log.save_vote(&Vote::new(2, 3)).await.is_err());
    assert!(log.clone().append_one_more().await.is_err());
}

impl LogStore {
    async fn append_one_more(mut self) -> Result<(), StorageError<u64>> {
        self.blocking_append([proposal(1, 4, b"x")]).await
    }
}
