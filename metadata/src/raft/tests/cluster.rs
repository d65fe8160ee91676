//! Three nodes in one process, with a network that can be cut. What is stated: an entry that was acknowledged is in every index
//! in the end, at its LSN, and all nodes make the same journal of it; one that was not is nowhere or everywhere.

use super::super::log::{FAMILIES, Identity, LogStore};
use super::super::{Applied, Machine, Peer, RaftTypes, Record, Tail, record};
use super::machine::{proposal, value_in};
use super::net::{Net, Reached};
use codec::effect::Effects;
use codec::id::ClusterId;
use openraft::{Config, Raft, RaftLogReader, SnapshotPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage_node::kv::{RocksKv, RocksOptions};

const SMALL: RocksOptions = RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, open_files: 64 };
const PATIENCE: Duration = Duration::from_secs(60);
/// For one question; a client would ask again.
const DEADLINE: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Node {
    raft: Raft<RaftTypes>,
    machine: Machine,
    log: LogStore,
}

struct Cluster {
    net: Net,
    dir: tempfile::TempDir,
    /// A node that is started again finds what it had. The stores stay open: a leader that was shut down while it could not
    /// reach a follower leaves the task that tries to, and with it a reader of the log, behind until the process ends.
    homes: Mutex<BTreeMap<u64, (LogStore, Machine)>>,
}

impl Cluster {
    fn home(&self, id: u64) -> (LogStore, Machine) {
        let make = || {
            let home = self.dir.path().join(id.to_string());
            let identity = Identity { cluster: ClusterId([1; 16]), node: id };
            let kv = RocksKv::open(&home.join("log"), &FAMILIES, SMALL).unwrap();
            (LogStore::open(Arc::new(kv), identity).unwrap(), Machine::open(&home.join("index"), SMALL).unwrap())
        };
        self.homes.lock().unwrap().entry(id).or_insert_with(make).clone()
    }

    async fn start(&self, id: u64) {
        let (log, machine) = self.home(id);
        let config = Config {
            heartbeat_interval: 150,
            // Longer than a slow disk's sync keeps a node from hearing its leader.
            election_timeout_min: 600,
            election_timeout_max: 1200,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: 0,
            ..Config::default()
        };
        let network = (self.net.clone(), id);
        let config = Arc::new(config.validate().unwrap());
        let raft = Raft::new(id, config, network, log, machine.clone()).await.unwrap();
        self.net.nodes.lock().unwrap().insert(id, (raft, machine));
    }

    async fn stop(&self, id: u64) {
        let (raft, _) = self.net.nodes.lock().unwrap().remove(&id).unwrap();
        raft.shutdown().await.unwrap();
    }

    fn node(&self, id: u64) -> Node {
        let reached = self.net.nodes.lock().unwrap()[&id].clone();
        self.whole(id, reached)
    }

    fn whole(&self, id: u64, (raft, machine): Reached) -> Node {
        Node { raft, machine, log: self.home(id).0 }
    }

    fn cut(&self, ids: &[u64]) {
        *self.net.cut.lock().unwrap() = ids.iter().copied().collect();
    }

    /// The leader that the nodes which are not cut off agree on.
    async fn leader(&self) -> Node {
        loop {
            let cut = self.net.cut.lock().unwrap().clone();
            let nodes = self.net.nodes.lock().unwrap().clone();
            for (id, reached) in nodes {
                let node = self.whole(id, reached);
                let asked = tokio::time::timeout(DEADLINE, node.raft.ensure_linearizable());
                if !cut.contains(&id) && matches!(asked.await, Ok(Ok(_))) {
                    return node;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Decides on what the leader has applied, and proposes until it counts. Returns the LSN. What was tried before may count
    /// as well, where the answer was lost.
    async fn write(&self, value: u64) -> u64 {
        loop {
            let leader = self.leader().await;
            let before = leader.machine.tail().unwrap();
            let asked = tokio::time::timeout(DEADLINE, leader.raft.client_write(proposal(&before, 1, value)));
            if let Ok(Ok(done)) = asked.await
                && done.data == Applied::Done
            {
                return done.log_id.index;
            }
        }
    }

    /// Waits until all these nodes have applied the same, and returns its end.
    async fn settle(&self, ids: &[u64]) -> Tail {
        let settled = async {
            loop {
                let tails: Vec<Tail> = ids.iter().map(|id| self.node(*id).machine.tail().unwrap()).collect();
                if tails.iter().all(|tail| *tail == tails[0]) {
                    return tails[0];
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("the nodes do not agree")
    }
}

/// The journal that a node would write from its log up to an end that counts; what is behind it may be at one node only.
async fn journal_of(mut log: LogStore, end: &Tail) -> Vec<Record> {
    let mut tail = Tail::default();
    let mut journal = Vec::new();
    for entry in log.try_get_log_entries(..).await.unwrap() {
        if entry.log_id.index > end.lsn.0 {
            break;
        }
        let Some(record) = record(&entry, &tail).unwrap() else { continue };
        tail = record.tail();
        journal.push(record);
    }
    journal
}

async fn three() -> Cluster {
    let cluster = Cluster { net: Net::default(), dir: tempfile::tempdir().unwrap(), homes: Mutex::default() };
    for id in 1..=3 {
        cluster.start(id).await;
    }
    let peers: BTreeMap<u64, Peer> = (1..=3).map(|id| (id, Peer::default())).collect();
    cluster.node(1).raft.initialize(peers).await.unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_leaders_and_restarts() {
    let cluster = three().await;
    let mut acknowledged = BTreeMap::new();
    for value in 1..=20 {
        acknowledged.insert(cluster.write(value).await, value);
    }
    for round in 0..3 {
        let leader = cluster.leader().await.raft.metrics().borrow().id;
        cluster.cut(&[leader]);
        // The leader that is cut off takes a proposal that it can't have committed.
        let alone = cluster.node(leader);
        let lost = proposal(&alone.machine.tail().unwrap(), 1, 1_000 + round);
        let asked = tokio::spawn(async move { alone.raft.client_write(lost).await });
        for value in 0..5 {
            let value = 100 * (round + 1) + value;
            acknowledged.insert(cluster.write(value).await, value);
        }
        if round == 1 {
            cluster.stop(leader).await;
            cluster.start(leader).await;
        }
        cluster.cut(&[]);
        let answer = tokio::time::timeout(PATIENCE, asked).await.expect("an answer").unwrap();
        assert!(!matches!(answer, Ok(done) if done.data == Applied::Done), "nobody but the cut off leader had it");
    }
    let last = cluster.write(7).await;
    acknowledged.insert(last, 7);
    let tail = cluster.settle(&[1, 2, 3]).await;
    assert!(tail.lsn.0 >= last, "{tail:?}");
    let first = journal_of(cluster.node(1).log, &tail).await;
    // A leader that was elected since has written that it leads.
    let mut behind = first.iter().filter(|record| record.entry.lsn.0 > last);
    assert!(behind.all(|record| record.effects == Effects::default()));
    for id in 1..=3 {
        let node = cluster.node(id);
        assert_eq!(value_in(&node.machine), Some(7));
        let journal = journal_of(node.log, &tail).await;
        assert!(journal.iter().map(|r| &r.entry.bytes).eq(first.iter().map(|r| &r.entry.bytes)), "node {id}");
    }
    let effects: BTreeMap<u64, _> = first.iter().map(|r| (r.entry.lsn.0, r.effects.clone())).collect();
    for (lsn, value) in &acknowledged {
        assert_eq!(effects.get(lsn), Some(&super::machine::setting(*value)), "LSN {lsn}");
    }
    for lost in 1_000..1_003 {
        assert!(!effects.values().any(|effects| *effects == super::machine::setting(lost)), "{lost} came back");
    }
}

/// A node that joins gets a snapshot where the log no longer begins at the beginning, and then votes: 3 -> 4, and 1 leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_begins_with_a_snapshot() {
    let cluster = three().await;
    for value in 1..=30 {
        cluster.write(value).await;
    }
    let leader = cluster.leader().await;
    let upto = leader.machine.tail().unwrap().lsn.0;
    leader.raft.trigger().snapshot().await.unwrap();
    leader.raft.wait(Some(PATIENCE)).metrics(|m| m.snapshot.map(|id| id.index) >= Some(upto), "built").await.unwrap();
    leader.raft.trigger().purge_log(upto).await.unwrap();
    leader.raft.wait(Some(PATIENCE)).metrics(|m| m.purged.map(|id| id.index) >= Some(upto), "purged").await.unwrap();
    cluster.write(31).await;

    cluster.start(4).await;
    // By whoever leads, until it is so: a busy machine may have had another leader elected in the middle.
    let joined = async {
        loop {
            let raft = cluster.leader().await.raft;
            let added = raft.add_learner(4, Peer::default(), true).await;
            if added.is_ok() && raft.change_membership(BTreeSet::from([2, 3, 4]), false).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, joined).await.expect("it joins");
    cluster.stop(1).await;
    let last = cluster.write(32).await;
    let tail = cluster.settle(&[2, 3, 4]).await;
    assert!(tail.lsn.0 >= last, "{tail:?}");
    assert_eq!(value_in(&cluster.node(4).machine), Some(32));
    // With one of the three gone it is the new one's vote that counts.
    cluster.stop(2).await;
    cluster.write(33).await;
    let tail = cluster.settle(&[3, 4]).await;
    assert!(cluster.node(4).machine.tail().unwrap().lsn >= tail.lsn);
    assert_eq!(value_in(&cluster.node(4).machine), Some(33));
}
