//! What becomes of committed entries, and of snapshots.

use super::super::{Applied, Machine, MachineError, Proposal, RaftTypes, Record, Tail, record};
use crate::index::{self, Overlay};
use bytes::Bytes;
use codec::effect::{Effect, EffectKind, Effects, LevelRow, SettingRow};
use codec::id::{Epoch, Lsn};
use codec::journal::{encode_entry, parse_entry};
use codec::level::{FormatLevel, Later};
use openraft::storage::RaftStateMachine;
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Membership, RaftSnapshotBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage_node::kv::{Kv, RocksOptions};

const SMALL: RocksOptions = RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, open_files: 64 };

/// The effects of a setting with this value.
pub(super) fn setting(value: u64) -> Effects {
    let row = SettingRow { name: "test".to_owned(), value: Bytes::copy_from_slice(&value.to_be_bytes()) };
    Effects { effects: vec![Effect { kind: Some(EffectKind::PutSetting(row)) }], ..Effects::default() }
}

/// A setting's value in an index.
pub(super) fn value_in(machine: &Machine) -> Option<u64> {
    let row = index::setting(&Overlay::new(&*machine.kv()), "test").unwrap()?;
    Some(u64::from_be_bytes(row.value[..].try_into().unwrap()))
}

/// A proposal decided after `before`.
pub(super) fn proposal(before: &Tail, epoch: u64, value: u64) -> Proposal {
    let encoded = encode_entry(before.lsn.next(), Epoch(epoch), before.hash, &setting(value), &[]).unwrap();
    Proposal { entry: encoded.bytes }
}

fn at(term: u64, index: u64, payload: EntryPayload<RaftTypes>) -> Entry<RaftTypes> {
    Entry { log_id: LogId::new(CommittedLeaderId::new(term, 1), index), payload }
}

fn recorded(entry: &Entry<RaftTypes>, before: &Tail) -> Record {
    record(entry, before).unwrap().unwrap()
}

/// Two proposals for one LSN, by a leader that was cut off and by its successor: the later one counts, if it was decided after
/// what is there. The other must not change anything: its effects rest on entries that never happened.
#[test]
fn a_proposal_counts_only_in_the_place_that_it_was_decided_for() {
    let start = Tail::default();
    let first = recorded(&at(1, 1, EntryPayload::Normal(proposal(&start, 5, 10))), &start);
    assert_eq!((first.applied, first.tail().lsn, first.tail().epoch), (Applied::Done, Lsn(1), Epoch(5)));
    let late = proposal(&start, 5, 11);
    for (entry, why) in [
        (at(2, 2, EntryPayload::Normal(late)), "decided for LSN 1"),
        (
            at(2, 2, EntryPayload::Normal(proposal(&Tail { hash: [9; 32], ..first.tail() }, 5, 12))),
            "after another entry",
        ),
        (at(2, 2, EntryPayload::Normal(proposal(&first.tail(), 4, 13))), "of an older epoch"),
    ] {
        let misplaced = recorded(&entry, &first.tail());
        assert_eq!(misplaced.applied, Applied::Misplaced, "{why}");
        assert_eq!(misplaced.effects, Effects::default(), "{why}");
    }
    let good = recorded(&at(2, 2, EntryPayload::Normal(proposal(&first.tail(), 6, 14))), &first.tail());
    assert_eq!(good.applied, Applied::Done);
    assert!(record(&at(2, 4, EntryPayload::Blank), &good.tail()).is_err(), "a gap");
    assert!(record(&at(2, 2, EntryPayload::Blank), &good.tail()).is_err(), "twice");
    let rotten = EntryPayload::Normal(Proposal { entry: Bytes::from_static(b"nothing") });
    assert!(record(&at(2, 3, rotten), &good.tail()).is_err());
}

/// Every version of the program has to make these bytes of an LSN that Raft used for itself.
#[test]
fn what_raft_used_for_itself_is_an_empty_entry_of_the_epoch_before() {
    let start = Tail::default();
    let first = recorded(&at(1, 1, EntryPayload::Normal(proposal(&start, 5, 10))), &start).tail();
    let members = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, super::super::Peer::default())]));
    let blank = recorded(&at(3, 2, EntryPayload::Blank), &first);
    let other = recorded(&at(9, 2, EntryPayload::Membership(members.clone())), &first);
    assert_eq!(blank.entry.bytes, other.entry.bytes);
    let entry = parse_entry(blank.entry.bytes.clone()).unwrap();
    assert_eq!((entry.lsn, entry.epoch, entry.prev_hash, entry.hash), (Lsn(2), Epoch(5), first.hash, blank.entry.hash));
    assert_eq!(
        hex::encode(blake3::hash(&blank.entry.bytes).as_bytes()),
        "87678ce41c2b70eaa0d6f7c2e14968b4951fa173349b499d97f5df3c2a3538f0"
    );
    assert!(record(&at(1, 0, EntryPayload::Membership(members)), &start).unwrap().is_none(), "index 0 is no LSN");
}

pub async fn filled(dir: &std::path::Path, settings: u64) -> Machine {
    let mut machine = Machine::open(dir, SMALL).unwrap();
    for value in 1..=settings {
        let entry = at(1, value, EntryPayload::Normal(proposal(&machine.tail().unwrap(), 5, value)));
        assert_eq!(machine.apply([entry]).await.unwrap(), [Applied::Done]);
    }
    machine
}

/// A snapshot that is installed replaces the index, whole, and is there after a restart; one that is not what it was announced
/// as changes nothing.
#[tokio::test]
async fn a_snapshot_becomes_the_index_or_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut leader = filled(from.path(), 40).await;
    let snapshot = leader.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id.map(|id| id.index), Some(40));
    let entry = at(1, 41, EntryPayload::Normal(proposal(&leader.tail().unwrap(), 5, 41)));
    leader.apply([entry]).await.unwrap();
    let mut follower = filled(to.path(), 3).await;

    let mut wrong = snapshot.meta.clone();
    wrong.last_log_id = Some(LogId::new(CommittedLeaderId::new(1, 1), 39));
    assert!(follower.install_snapshot(&wrong, snapshot.snapshot.clone()).await.is_err());
    assert_eq!(value_in(&follower), Some(3));

    let old = follower.kv();
    follower.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await.unwrap();
    assert_eq!((value_in(&follower), value_in(&leader)), (Some(40), Some(41)));
    assert_eq!(follower.applied_state().await.unwrap().0, snapshot.meta.last_log_id);
    // It goes on from there.
    let entry = at(1, 41, EntryPayload::Normal(proposal(&follower.tail().unwrap(), 5, 41)));
    follower.apply([entry]).await.unwrap();
    assert_eq!(follower.tail().unwrap(), leader.tail().unwrap());
    drop((follower, old));
    let follower = Machine::open(to.path(), SMALL).unwrap();
    assert_eq!(value_in(&follower), Some(41));
    let mut left: Vec<_> = std::fs::read_dir(to.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left.len(), 3, "the index before it and its pieces are gone: {left:?}");
}

/// A follower that went on would have another state than the others, and nobody would see it.
#[tokio::test]
async fn an_entry_of_a_later_release_ends_the_node_and_is_not_applied() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = filled(dir.path(), 2).await;
    let raise = |machine: &Machine, level: u32| {
        let before = machine.tail().unwrap();
        let row = LevelRow { level, by: "stele 9.9".to_owned() };
        let effects = Effects { effects: vec![Effect::from(EffectKind::PutLevel(row))], wall_ms: 1 };
        let entry = encode_entry(before.lsn.next(), Epoch(5), before.hash, &effects, &[]).unwrap().bytes;
        at(1, before.lsn.next().0, EntryPayload::Normal(Proposal { entry }))
    };
    let known = FormatLevel::NEWEST.0;
    machine.apply([raise(&machine, known)]).await.unwrap();
    let (tail, later) = (machine.tail().unwrap(), machine.later());
    assert_eq!(*later.borrow(), None);
    assert!(machine.apply([raise(&machine, known + 1)]).await.is_err());
    assert_eq!(machine.tail().unwrap(), tail, "nothing of it was applied");
    let said = later.borrow().as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(said.contains(&format!("format level {}, raised by stele 9.9", known + 1)), "{said}");
    // An index that a later release has left, after a restart.
    let kv = machine.kv();
    let mut overlay = Overlay::new(&*kv);
    index::put_level(&mut overlay, &LevelRow { level: known + 1, by: "stele 9.9".to_owned() });
    kv.write(overlay.into_batch()).unwrap();
    drop((machine, kv));
    std::fs::create_dir_all(dir.path().join("index-7")).unwrap();
    let refused = Machine::open(dir.path(), SMALL).unwrap_err();
    assert!(matches!(refused, MachineError::Later(Later::Level(_))), "{refused}");
    assert!(dir.path().join("index-7").exists(), "nothing is tidied up there");
}

/// A snapshot may be built while a newer one is installed.
#[tokio::test]
async fn the_newer_snapshot_is_kept() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let newer = filled(from.path(), 40).await.build_snapshot().await.unwrap();
    let mut machine = filled(to.path(), 3).await;
    let older = machine.build_snapshot().await.unwrap();
    machine.install_snapshot(&newer.meta, newer.snapshot.clone()).await.unwrap();
    machine.keep(&older.meta, &older.snapshot);
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta.last_log_id, newer.meta.last_log_id);
}

/// A follower that falls behind the log again and again would fill its disk with copies of the index.
#[tokio::test]
async fn an_index_that_was_replaced_goes_with_its_last_reader() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut leader, mut follower) = (filled(from.path(), 5).await, filled(to.path(), 1).await);
    let indexes = || {
        let entries = std::fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter(|name| name.to_string_lossy().starts_with("index-")).count()
    };
    let reader = follower.kv();
    for value in 6..=7 {
        let entry = at(1, value, EntryPayload::Normal(proposal(&leader.tail().unwrap(), 5, value)));
        leader.apply([entry]).await.unwrap();
        let snapshot = leader.build_snapshot().await.unwrap();
        follower.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
        assert_eq!(value_in(&follower), Some(value));
        assert_eq!(indexes(), 2, "that of today, and the one that is read");
    }
    let row = index::setting(&Overlay::new(&*reader), "test").unwrap().unwrap();
    assert_eq!(row.value[..], 1_u64.to_be_bytes());
    drop(reader);
    assert_eq!(indexes(), 1);
    drop(follower);
    assert_eq!(value_in(&Machine::open(to.path(), SMALL).unwrap()), Some(7));
}

/// What a crash leaves of an installation: the index before it, until the pointer was replaced.
#[tokio::test]
async fn an_interrupted_installation_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 3).await);
    std::fs::create_dir_all(dir.path().join("index-7")).unwrap();
    std::fs::create_dir_all(dir.path().join("snapshots/in-6")).unwrap();
    std::fs::write(dir.path().join("current.new"), "index-7").unwrap();
    let machine = Machine::open(dir.path(), SMALL).unwrap();
    assert_eq!(value_in(&machine), Some(3));
    assert!(!dir.path().join("index-7").exists());
    assert!(!dir.path().join("snapshots/in-6").exists());
    drop(machine);
    for name in ["../index-0", "", "index-x"] {
        std::fs::write(dir.path().join("current"), name).unwrap();
        assert!(Machine::open(dir.path(), SMALL).is_err(), "{name:?}");
    }
}

/// The bytes of a snapshot stay for as long as somebody sends them, and go with the last one.
#[tokio::test]
async fn a_snapshot_goes_with_its_last_owner() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = filled(dir.path(), 2).await;
    let first = machine.build_snapshot().await.unwrap().snapshot;
    let path = first.path().to_owned();
    let second = Arc::new(machine.build_snapshot().await.unwrap());
    assert!(path.exists());
    drop(first);
    assert!(!path.exists());
    assert!(second.snapshot.path().exists());
}
