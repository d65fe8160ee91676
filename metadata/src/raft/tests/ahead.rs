//! A leader whose entries go to the others before its own disk has them: what counts meanwhile, and what a power cut leaves.

use super::super::gate::Gated;
use super::super::heard::Heard;
use super::super::log::{FAMILIES, Identity, LogStore};
use super::super::silence::Silence;
use super::super::{Applied, Machine, Peer, RaftTypes};
use super::machine::{proposal, value_in};
use super::net::Net;
use bytes::Bytes;
use codec::id::ClusterId;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{
    CommittedLeaderId, Config, Entry, EntryPayload, LogId, Membership, Raft, RaftLogReader, SnapshotPolicy, Vote,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use storage_node::kv::{Direction, Family, Kv, KvBatch, KvError, KvIterator, KvStats, MemoryKv, RocksOptions};

const SMALL: RocksOptions = RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, open_files: 64 };
const PATIENCE: Duration = Duration::from_secs(60);

/// A disk whose syncs can be held up, and that forgets what was not synced when its power goes.
#[derive(Debug)]
struct Disk {
    seen: MemoryKv,
    synced: MemoryKv,
    unsynced: Mutex<Vec<KvBatch>>,
    held: Mutex<bool>,
    released: Condvar,
}

impl Disk {
    fn new() -> Arc<Disk> {
        let (seen, synced) = (MemoryKv::new(&FAMILIES), MemoryKv::new(&FAMILIES));
        Arc::new(Disk { seen, synced, unsynced: Mutex::default(), held: Mutex::default(), released: Condvar::new() })
    }

    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.released.notify_all();
    }

    /// What is there when the power is back. A sync that is held up never ends.
    fn after_power_cut(&self) -> Arc<Disk> {
        let after = Disk::new();
        for family in FAMILIES {
            let mut rows = self.synced.scan(family, &[], Direction::Forward).unwrap();
            let mut batch = KvBatch::new();
            while let Some((key, value)) = rows.next().unwrap() {
                batch.put(family, key, value);
            }
            after.seen.write(batch.clone()).unwrap();
            after.synced.write(batch).unwrap();
        }
        after
    }
}

impl Kv for Disk {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.seen.get(family, key)
    }
    fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        self.unsynced.lock().unwrap().push(batch.clone());
        self.seen.write(batch)
    }
    fn scan(&self, f: Family, start: &[u8], d: Direction) -> Result<Box<dyn KvIterator + '_>, KvError> {
        self.seen.scan(f, start, d)
    }
    fn flush(&self) -> Result<(), KvError> {
        let written = std::mem::take(&mut *self.unsynced.lock().unwrap());
        let held = self.held.lock().unwrap();
        drop(self.released.wait_while(held, |held| *held).unwrap());
        written.into_iter().try_for_each(|batch| self.synced.write(batch))
    }
    fn stats(&self) -> KvStats {
        self.seen.stats()
    }
}

fn log_of(node: u64, disk: &Arc<Disk>) -> LogStore {
    let log = LogStore::open(disk.clone(), Identity { cluster: ClusterId([1; 16]), node }).unwrap();
    log.let_ahead(PATIENCE);
    log
}

fn entry(term: u64, leader: u64, index: u64, payload: EntryPayload<RaftTypes>) -> Entry<RaftTypes> {
    Entry { log_id: LogId::new(CommittedLeaderId::new(term, leader), index), payload }
}

fn members(voters: &[&[u64]]) -> EntryPayload<RaftTypes> {
    let nodes: BTreeMap<u64, Peer> =
        voters.iter().flat_map(|ids| ids.iter()).map(|id| (*id, Peer::default())).collect();
    let voters = voters.iter().map(|ids| ids.iter().copied().collect::<BTreeSet<u64>>()).collect();
    EntryPayload::Membership(Membership::new(voters, nodes))
}

/// Whether the log says that an entry is flushed while its disk can sync nothing. What is `expected` says how long it is given.
async fn goes_ahead(log: &mut LogStore, disk: &Disk, expected: bool, entry: Entry<RaftTypes>) -> bool {
    disk.hold(true);
    let at = entry.log_id;
    let mut appending = log.clone();
    let appended = tokio::spawn(async move { appending.blocking_append([entry]).await });
    // The sync of one that waits has begun when it is seen in the log; one that goes ahead is answered before or after that.
    while log.get_log_state().await.unwrap().last_log_id != Some(at) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let begun = Instant::now();
    let given = if expected { PATIENCE } else { Duration::from_millis(200) };
    while !appended.is_finished() && begun.elapsed() < given {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ahead = appended.is_finished();
    assert!(!ahead || !log.is_synced(at), "it is not");
    disk.hold(false);
    appended.await.unwrap().unwrap();
    log.until_synced(at).await.unwrap();
    assert!(log.is_synced(at));
    ahead
}

/// Only a leader's own entries, and only where another node's word is needed as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_leaders_own_entries_go_ahead_of_their_sync() {
    let disk = Disk::new();
    let mut log = log_of(3, &disk);
    let blank = || EntryPayload::Blank;
    assert!(!goes_ahead(&mut log, &disk, false, entry(1, 2, 0, members(&[&[1, 2, 3]]))).await, "another's entry");
    log.save_vote(&Vote::new(2, 3)).await.unwrap();
    assert!(!goes_ahead(&mut log, &disk, false, entry(2, 3, 1, blank())).await, "who votes may have changed since");
    assert!(goes_ahead(&mut log, &disk, true, entry(2, 3, 2, members(&[&[1, 2, 3]]))).await);
    assert!(goes_ahead(&mut log, &disk, true, entry(2, 3, 3, blank())).await);
    assert!(
        !goes_ahead(&mut log, &disk, false, entry(2, 3, 4, members(&[&[1, 2, 3], &[3]]))).await,
        "on its way to one"
    );
    assert!(!goes_ahead(&mut log, &disk, false, entry(2, 3, 5, blank())).await);
    assert!(!goes_ahead(&mut log, &disk, false, entry(2, 3, 6, members(&[&[3]]))).await, "one voter commits by itself");
    assert!(goes_ahead(&mut log, &disk, true, entry(2, 3, 7, members(&[&[2, 3]]))).await);
    log.save_vote(&Vote::new_committed(2, 3)).await.unwrap();
    assert!(goes_ahead(&mut log, &disk, true, entry(2, 3, 8, blank())).await, "the same vote");
    log.save_vote(&Vote::new_committed(3, 2)).await.unwrap();
    assert!(!goes_ahead(&mut log, &disk, false, entry(2, 3, 9, blank())).await, "sent by another leader");
    log.save_vote(&Vote::new(4, 3)).await.unwrap();
    assert!(!goes_ahead(&mut log, &disk, false, entry(4, 3, 10, blank())).await, "a snapshot may have come meanwhile");
}

/// What a node said as a leader it must not say again after it may have forgotten what it said it of.
#[tokio::test]
async fn a_leader_does_not_lead_on_after_a_start() {
    let disk = Disk::new();
    let mut log = log_of(3, &disk);
    log.save_vote(&Vote::new_committed(4, 3)).await.unwrap();
    assert_eq!(log_of(3, &disk).read_vote().await.unwrap(), Some(Vote::new(4, 3)));
    log.save_vote(&Vote::new_committed(5, 2)).await.unwrap();
    assert_eq!(
        log_of(3, &disk).read_vote().await.unwrap(),
        Some(Vote::new_committed(5, 2)),
        "another's is what it was"
    );
}

struct Node {
    raft: Raft<RaftTypes>,
    machine: Machine,
    log: LogStore,
    disk: Arc<Disk>,
}

async fn start(net: &Net, id: u64, disk: Arc<Disk>, machine: Machine) -> Node {
    let log = log_of(id, &disk);
    let config = Config {
        heartbeat_interval: 150,
        // Longer than a busy machine keeps a leader from being heard: its successor would write where these tests look.
        election_timeout_min: 2500,
        election_timeout_max: 4000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    };
    let (silence, heard) = (Silence::default(), Heard::default());
    let network = Gated { network: (net.clone(), id), machine: machine.clone(), log: log.clone(), silence, heard };
    let config = Arc::new(config.validate().unwrap());
    let raft = Raft::new(id, config, network, log.clone(), machine.clone()).await.unwrap();
    let (learning, mut metrics) = (log.clone(), raft.metrics());
    tokio::spawn(async move {
        while metrics.changed().await.is_ok() {
            learning.learn(&metrics.borrow_and_update());
        }
    });
    net.nodes.lock().unwrap().insert(id, (raft.clone(), machine.clone()));
    Node { raft, machine, log, disk }
}

impl Node {
    fn last(&self) -> Option<LogId<u64>> {
        self.raft.metrics().borrow().last_log_index.map(|_| ()).and(self.raft.metrics().borrow().last_applied)
    }

    /// Whether it stands for election when it hears of no leader.
    fn may_stand(&self, may: bool) {
        self.raft.runtime_config().elect(may);
    }

    /// Proposes until it counts, by whoever leads.
    async fn write(nodes: &[&Node], value: u64) {
        loop {
            for node in nodes {
                let before = node.machine.tail().unwrap();
                let asked = node.raft.client_write(proposal(&before, 1, value));
                if let Ok(Ok(done)) = tokio::time::timeout(Duration::from_secs(2), asked).await
                    && done.data == Applied::Done
                {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn entries(&self) -> Vec<(LogId<u64>, String)> {
        let entries = self.log.clone().try_get_log_entries(..).await.unwrap();
        entries.into_iter().map(|entry| (entry.log_id, format!("{:?}", entry.payload))).collect()
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.unwrap_or_else(|_| panic!("{what}"));
}

/// A leader of three sends an entry that its disk does not get. It counts for nobody, though a follower has it; the power goes,
/// and the leader, back at once, gives the entry's place to another one only under a new term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_has_not_synced_counts_nowhere_and_is_not_written_over_in_its_term() {
    let (net, dir) = (Net::default(), tempfile::tempdir().unwrap());
    let home = |id: u64| Machine::open(&dir.path().join(id.to_string()), SMALL).unwrap();
    let leader = start(&net, 1, Disk::new(), home(1)).await;
    let second = start(&net, 2, Disk::new(), home(2)).await;
    let third = start(&net, 3, Disk::new(), home(3)).await;
    let peers: BTreeMap<u64, Peer> = (1..=3).map(|id| (id, Peer::default())).collect();
    leader.raft.initialize(peers).await.unwrap();
    Node::write(&[&leader, &second, &third], 7).await;
    // No successor writes where this test looks, however long a busy machine keeps the leader from being heard.
    [&leader, &second, &third].into_iter().for_each(|node| node.may_stand(false));
    let lead = |node: &Node| node.raft.metrics().borrow().current_leader;
    until("one leader", || lead(&leader).is_some() && lead(&leader) == lead(&second) && lead(&second) == lead(&third))
        .await;
    let mut nodes = vec![leader, second, third];
    let at = lead(&nodes[0]).unwrap() as usize - 1;
    let leader = nodes.remove(at);
    let (id, term) = (at as u64 + 1, leader.raft.metrics().borrow().current_term);
    // What Raft says of itself comes later than what it did.
    let before = leader.log.clone().get_log_state().await.unwrap().last_log_id.unwrap();
    let all = || nodes.iter().chain([&leader]).all(|node| node.last() == Some(before));
    until("all have applied the same", all).await;

    leader.disk.hold(true);
    let asked = {
        let (raft, unsynced) = (leader.raft.clone(), proposal(&leader.machine.tail().unwrap(), 1, 8));
        tokio::spawn(async move { raft.client_write(unsynced).await })
    };
    let has_it = |node: &Node| node.raft.metrics().borrow().last_log_index == Some(before.index + 1);
    until("the others have the entry", || nodes.iter().all(has_it)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asked.is_finished(), "it was acknowledged, and its disk does not have it");
    assert!(
        nodes.iter().all(|node| value_in(&node.machine) == Some(7)),
        "it was applied, and the leader's disk does not have it"
    );

    // The others are cut off before the leader goes, so that it is back before they elect anybody.
    let others: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
    *net.cut.lock().unwrap() = others.iter().copied().collect();
    net.nodes.lock().unwrap().remove(&id);
    let disk = leader.disk.after_power_cut();
    let machine = leader.machine.clone();
    // Before its sync ends: the others' answers wait for that, and it would count and apply the entry on a machine that knows of no
    // power cut.
    leader.raft.shutdown().await.unwrap();
    let _never_counted = asked.await;
    assert_eq!(value_in(&machine), Some(7), "it was applied, and the leader's disk does not have it");
    leader.disk.hold(false);
    let back = start(&net, id, disk, machine).await;
    let kept = back.log.clone().get_log_state().await.unwrap().last_log_id.map(|at| at.index);
    let (left, had) = (back.entries().await, leader.entries().await);
    assert_eq!(kept, Some(before.index), "the power cut took it: {left:?} of {had:?}, {before} was before");
    let other = proposal(&back.machine.tail().unwrap(), 1, 9);
    let alone = {
        let raft = back.raft.clone();
        tokio::spawn(async move { raft.client_write(other).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    let in_term =
        back.entries().await.into_iter().filter(|(at, _)| at.index > before.index && at.leader_id.term == term);
    assert_eq!(in_term.count(), 0, "another entry at the place of one that others have");
    nodes.iter().for_each(|node| node.may_stand(true));
    net.cut.lock().unwrap().clear();
    let _may_count = tokio::time::timeout(PATIENCE, alone).await.expect("an answer");

    let all = [&nodes[0], &nodes[1], &back];
    Node::write(&all, 10).await;
    until("all have applied the same", || {
        all.iter().all(|node| node.last() == back.last() && value_in(&node.machine) == Some(10))
    })
    .await;
    // What the leader writes after that, as the first of a term, is at the others a moment later.
    let begun = Instant::now();
    loop {
        let wanted = back.entries().await;
        let mut found = Vec::new();
        for node in &nodes {
            found.push(node.entries().await);
        }
        if found.iter().all(|found| *found == wanted) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{found:?} and {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A leader whose disk takes entries and never ends a sync, without an error, is not followed for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_syncs_hang_is_followed_no_more() {
    let (net, dir) = (Net::default(), tempfile::tempdir().unwrap());
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let machine = Machine::open(&dir.path().join(id.to_string()), SMALL).unwrap();
        nodes.push(start(&net, id, Disk::new(), machine).await);
    }
    let peers: BTreeMap<u64, Peer> = (1..=3).map(|id| (id, Peer::default())).collect();
    nodes[0].raft.initialize(peers).await.unwrap();
    Node::write(&[&nodes[0], &nodes[1], &nodes[2]], 7).await;
    let lead = |node: &Node| node.raft.metrics().borrow().current_leader;
    until("one leader", || lead(&nodes[0]).is_some() && nodes.iter().all(|node| lead(node) == lead(&nodes[0]))).await;
    let id = lead(&nodes[0]).unwrap();
    let leader = nodes.remove(id as usize - 1);
    leader.log.let_ahead(Duration::from_millis(1200));
    leader.disk.hold(true);
    let asked = {
        let (raft, unsynced) = (leader.raft.clone(), proposal(&leader.machine.tail().unwrap(), 1, 8));
        tokio::spawn(async move { raft.client_write(unsynced).await })
    };
    until("another leader", || nodes.iter().all(|node| lead(node).is_some_and(|by| by != id))).await;
    Node::write(&[&nodes[0], &nodes[1]], 9).await;
    leader.disk.hold(false);
    until("it follows", || lead(&leader).is_some_and(|by| by != id) && value_in(&leader.machine) == Some(9)).await;
    let _either = asked.await.unwrap();
    assert!(!leader.log.hangs());
}
