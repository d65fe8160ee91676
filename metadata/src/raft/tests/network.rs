//! Raft's calls as they travel: three nodes whose calls are turned into pieces and back, a way that is slow, one that breaks, and
//! calls that are meant for somebody else.

use super::super::log::{FAMILIES, Identity, LogStore};
use super::super::part::{AnswerKind, FileHead, Part, PartKind, Refused, SnapshotHead};
use super::super::{
    Applied, Inbox, Machine, Network, Peer, Purpose, RaftTypes, Way, WayError, Ways, encode_entry, network, part,
};
use super::machine::{proposal, value_in};
use async_trait::async_trait;
use bytes::Bytes;
use codec::id::ClusterId;
use futures::stream::{self, BoxStream, StreamExt};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::{CommittedLeaderId, Config, Entry, EntryPayload, LogId, Raft, SnapshotPolicy, Vote};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage_node::kv::{RocksKv, RocksOptions};

const SMALL: RocksOptions = RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, open_files: 64 };
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The inboxes of all nodes by name, and what is wrong with the ways to them.
#[derive(Default)]
pub struct Site {
    inboxes: Mutex<BTreeMap<String, Arc<Inbox>>>,
    /// Milliseconds that each call with entries takes longer.
    slow: AtomicU64,
    /// So many snapshots break off in the middle.
    broken: AtomicUsize,
    /// Calls with entries.
    sent: AtomicUsize,
    from: Mutex<BTreeMap<u64, String>>,
}

struct To {
    site: Arc<Site>,
    from: String,
    inbox: Option<Arc<Inbox>>,
}

struct From {
    site: Arc<Site>,
    name: String,
}

impl Ways for From {
    fn to(&self, peer: &Peer, _purpose: Purpose) -> Result<Arc<dyn Way>, WayError> {
        let inbox = self.site.inboxes.lock().unwrap().get(&peer.name).cloned();
        Ok(Arc::new(To { site: self.site.clone(), from: self.name.clone(), inbox }))
    }
}

#[async_trait]
impl Way for To {
    async fn ask(
        &self,
        name: &'static str,
        pieces: BoxStream<'static, Bytes>,
        time: Duration,
    ) -> Result<Bytes, WayError> {
        let gone = || WayError::Unreachable("gone".to_owned());
        let inbox = self.inbox.as_ref().ok_or_else(gone)?;
        let pieces: Vec<Bytes> = pieces.collect().await;
        let mut end = pieces.len();
        if name == part::APPEND && end > 1 {
            self.site.sent.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(self.site.slow.load(Ordering::Relaxed))).await;
        }
        let breaks = |left: usize| left.checked_sub(1);
        if name == part::SNAPSHOT && self.site.broken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, breaks).is_ok()
        {
            end /= 2;
        }
        let whole = end == pieces.len();
        let pieces = stream::iter(pieces.into_iter().take(end).map(Ok));
        let broken = stream::iter((!whole).then(|| Err("the connection broke".to_owned())));
        let answered = inbox.answer(&self.from, pieces.chain(broken).boxed());
        tokio::time::timeout(time, answered).await.map_err(|_| gone())
    }
}

struct Node {
    raft: Raft<RaftTypes>,
    machine: Machine,
}

impl Site {
    fn ways(self: &Arc<Site>, id: u64) -> Arc<dyn Ways> {
        Arc::new(From { site: self.clone(), name: name(id) })
    }

    async fn start(self: &Arc<Site>, dir: &tempfile::TempDir, id: u64, heartbeat: u64) -> Node {
        let (raft, machine) = open(dir, id, heartbeat, Network::new(self.ways(id))).await;
        let inbox = Arc::new(Inbox::default());
        inbox.seat(id, raft.clone(), machine.clone());
        self.inboxes.lock().unwrap().insert(name(id), inbox);
        self.from.lock().unwrap().insert(id, name(id));
        Node { raft, machine }
    }
}

/// A node's Raft over its stores.
pub async fn open(dir: &tempfile::TempDir, id: u64, heartbeat: u64, network: Network) -> (Raft<RaftTypes>, Machine) {
    let home = dir.path().join(id.to_string());
    let identity = Identity { cluster: ClusterId([1; 16]), node: id };
    let kv = RocksKv::open(&home.join("log"), &FAMILIES, SMALL).unwrap();
    let log = LogStore::open(Arc::new(kv), identity).unwrap();
    let machine = Machine::open(&home.join("index"), SMALL).unwrap();
    let config = Config {
        heartbeat_interval: heartbeat,
        election_timeout_min: 10 * heartbeat,
        election_timeout_max: 20 * heartbeat,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    };
    let config = Arc::new(config.validate().unwrap());
    let raft = Raft::new(id, config, network, log, machine.clone()).await.unwrap();
    (raft, machine)
}

fn name(id: u64) -> String {
    format!("m{id}")
}

fn peer(id: u64) -> Peer {
    Peer { address: format!("m{id}:1"), name: name(id) }
}

async fn write(node: &Node, value: u64) -> u64 {
    let before = node.machine.tail().unwrap();
    let wrote = tokio::time::timeout(PATIENCE, node.raft.client_write(proposal(&before, 1, value))).await;
    let wrote = wrote.expect("in time").unwrap();
    assert_eq!(wrote.data, Applied::Done);
    wrote.log_id.index
}

async fn applied(node: &Node, index: u64) {
    let applied = |m: &openraft::RaftMetrics<u64, Peer>| m.last_applied.map(|id| id.index) >= Some(index);
    node.raft.wait(Some(PATIENCE)).metrics(applied, "applied").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_and_snapshots_come_over_in_pieces() {
    let (site, dir) = (Arc::new(Site::default()), tempfile::tempdir().unwrap());
    let one = site.start(&dir, 1, 300).await;
    let two = site.start(&dir, 2, 300).await;
    one.raft.initialize(BTreeMap::from([(1, peer(1))])).await.unwrap();
    one.raft.wait(Some(PATIENCE)).metrics(|m| m.current_leader == Some(1), "leads").await.unwrap();
    one.raft.add_learner(2, peer(2), true).await.unwrap();
    for value in 1..=20 {
        write(&one, value).await;
    }
    one.raft.change_membership(BTreeSet::from([1, 2]), false).await.unwrap();
    let last = write(&one, 21).await;
    applied(&two, last).await;
    assert_eq!(value_in(&two.machine), Some(21));
    // The third begins with a snapshot, and the first that is sent to it breaks off.
    let upto = one.machine.tail().unwrap().lsn.0;
    one.raft.trigger().snapshot().await.unwrap();
    one.raft.wait(Some(PATIENCE)).metrics(|m| m.snapshot.map(|id| id.index) >= Some(upto), "built").await.unwrap();
    one.raft.trigger().purge_log(upto).await.unwrap();
    one.raft.wait(Some(PATIENCE)).metrics(|m| m.purged.map(|id| id.index) >= Some(upto), "purged").await.unwrap();
    let three = site.start(&dir, 3, 300).await;
    site.broken.store(1, Ordering::Relaxed);
    tokio::time::timeout(PATIENCE, one.raft.add_learner(3, peer(3), true)).await.expect("in time").unwrap();
    let last = write(&one, 22).await;
    applied(&three, last).await;
    assert_eq!(site.broken.load(Ordering::Relaxed), 0, "none was sent");
    assert_eq!(value_in(&three.machine), Some(22));
    let left = std::fs::read_dir(dir.path().join("3/index/snapshots")).unwrap().count();
    assert_eq!(left, 1, "what broke off is gone; what was installed is kept to be sent on");
    for node in [one, two, three] {
        node.raft.shutdown().await.unwrap();
    }
}

/// Entries that take longer than Raft waits are sent once, and no election disturbs them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_way_is_slow_and_not_endless() {
    let (site, dir) = (Arc::new(Site::default()), tempfile::tempdir().unwrap());
    let one = site.start(&dir, 1, 200).await;
    let two = site.start(&dir, 2, 200).await;
    one.raft.initialize(BTreeMap::from([(1, peer(1))])).await.unwrap();
    one.raft.wait(Some(PATIENCE)).metrics(|m| m.current_leader == Some(1), "leads").await.unwrap();
    one.raft.add_learner(2, peer(2), true).await.unwrap();
    one.raft.change_membership(BTreeSet::from([1, 2]), false).await.unwrap();
    applied(&two, write(&one, 1).await).await;
    let term = one.raft.metrics().borrow().current_term;
    let before = site.sent.load(Ordering::Relaxed);
    // Forty heartbeats, and the longest time after which a follower that hears nothing stands for election.
    site.slow.store(8000, Ordering::Relaxed);
    write(&one, 2).await;
    site.slow.store(0, Ordering::Relaxed);
    assert!(site.sent.load(Ordering::Relaxed) - before <= 2, "sent again while they were under way");
    assert_eq!(two.raft.metrics().borrow().current_term, term, "the follower called an election");
    applied(&two, write(&one, 3).await).await;
    for node in [one, two] {
        node.raft.shutdown().await.unwrap();
    }
}

async fn asked(inbox: &Inbox, from: &str, parts: Vec<PartKind>) -> Result<AnswerKind, WayError> {
    let parts = parts.into_iter().map(|kind| Ok(Part::from(kind).encode_to_vec().into()));
    network::value(Ok(inbox.answer(from, stream::iter(parts).boxed()).await))
}

fn refused(answer: Result<AnswerKind, WayError>) -> Refused {
    match answer {
        Err(WayError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_another_node_or_from_another_is_refused() {
    let (site, dir) = (Arc::new(Site::default()), tempfile::tempdir().unwrap());
    let one = site.start(&dir, 1, 100).await;
    one.raft.initialize(BTreeMap::from([(1, peer(1)), (2, peer(2))])).await.unwrap();
    let known = |m: &openraft::RaftMetrics<u64, Peer>| m.membership_config.membership().nodes().count() == 2;
    one.raft.wait(Some(PATIENCE)).metrics(known, "knows the members").await.unwrap();
    let option = RPCOption::new(Duration::from_secs(5));
    let vote = |by: u64| VoteRequest::new(Vote::new(1000, by), None);
    let inbox = site.inboxes.lock().unwrap()["m1"].clone();
    // The node at this address has another number: it lost its state, and must not vote again.
    let mut link = Network::new(site.ways(2)).new_client(7, &peer(1)).await;
    let error = link.vote(vote(2), option.clone()).await.unwrap_err().to_string();
    assert!(error.contains("not the node that is meant"), "{error}");
    // Who has this number is called otherwise.
    let mut link = Network::new(site.ways(3)).new_client(1, &peer(1)).await;
    let error = link.vote(vote(2), option.clone()).await.unwrap_err().to_string();
    assert!(error.contains("is m2, not m3"), "{error}");
    assert!(one.raft.metrics().borrow().current_term < 1000);
    // Nobody is there yet.
    let waiting = Inbox::default();
    let question = || PartKind::Vote(super::super::part::VoteQuestion::new(1, &vote(2)));
    assert_eq!(refused(asked(&waiting, "m2", vec![question()]).await), Refused::Waiting);
    inbox.unseat();
    let ends = refused(asked(&inbox, "m2", vec![question()]).await);
    assert!(matches!(ends, Refused::Stopped(_)), "it does not wait to be added: {ends}");
    one.raft.shutdown().await.unwrap();
}

/// Who is asked whether it is there does nothing, and who has no state for the number says so at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_whether_it_is_the_one_of_a_number() {
    let (site, dir) = (Arc::new(Site::default()), tempfile::tempdir().unwrap());
    let one = site.start(&dir, 1, 100).await;
    let ways = site.ways(2);
    let is_there = async |id| network::ask_if_there(&*ways, id, &peer(1)).await;
    is_there(1).await.unwrap();
    one.raft.initialize(BTreeMap::from([(1, peer(1))])).await.unwrap();
    one.raft.wait(Some(PATIENCE)).metrics(|m| m.current_leader == Some(1), "leads").await.unwrap();
    let term = one.raft.metrics().borrow().current_term;
    is_there(1).await.unwrap();
    assert!(matches!(is_there(7).await, Err(WayError::Refused(Refused::OtherNode(_)))));
    let now = one.raft.metrics().borrow().clone();
    assert_eq!((now.current_term, now.current_leader), (term, Some(1)), "it stood for election");
    let inbox = site.inboxes.lock().unwrap()["m1"].clone();
    inbox.waits();
    assert!(matches!(is_there(1).await, Err(WayError::Refused(Refused::Waiting))));
    inbox.unseat();
    assert!(matches!(is_there(1).await, Err(WayError::Refused(Refused::Stopped(_)))), "it may have its state");
    site.inboxes.lock().unwrap().clear();
    assert!(matches!(is_there(1).await, Err(WayError::Unreachable(_))));
    one.raft.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_verify_leaves_nothing_behind() {
    let (site, dir) = (Arc::new(Site::default()), tempfile::tempdir().unwrap());
    let one = site.start(&dir, 1, 100).await;
    let inbox = site.inboxes.lock().unwrap()["m1"].clone();
    let vote = Vote::new_committed(5, 2);
    let head = || {
        let meta = openraft::SnapshotMeta {
            last_log_id: Some(LogId::new(CommittedLeaderId::new(4, 2), 9)),
            ..openraft::SnapshotMeta::default()
        };
        PartKind::Snapshot(SnapshotHead::new(1, vote.into(), &meta))
    };
    let file = |name: &str, len| PartKind::File(FileHead { name: name.to_owned(), len });
    let data = || PartKind::Data(Bytes::from_static(b"abc"));
    let hash = || PartKind::FileEnd(Bytes::copy_from_slice(blake3::hash(b"abc").as_bytes()));
    for (what, parts) in [
        ("a name that leads elsewhere", vec![head(), file("../x", 3), data(), hash(), PartKind::End(1)]),
        ("a name twice", vec![head(), file("x", 3), data(), hash(), file("x", 3), data(), hash(), PartKind::End(2)]),
        ("too long", vec![head(), file("x", 2), data(), hash(), PartKind::End(1)]),
        ("too short", vec![head(), file("x", 4), data(), hash(), PartKind::End(1)]),
        ("other bytes", vec![head(), file("x", 3), data(), PartKind::FileEnd(Bytes::new()), PartKind::End(1)]),
        ("no end", vec![head(), file("x", 3), data(), hash()]),
        ("a file less", vec![head(), file("x", 3), data(), hash(), PartKind::End(2)]),
        ("behind the end", vec![head(), file("x", 3), data(), hash(), PartKind::End(1), data()]),
        ("in the middle of a file", vec![head(), file("x", 3), PartKind::End(1)]),
    ] {
        let why = refused(asked(&inbox, "m2", parts).await);
        assert!(matches!(why, Refused::Malformed(_)), "{what}: {why}");
        assert_eq!(std::fs::read_dir(dir.path().join("1/index/snapshots")).unwrap().count(), 0, "{what}");
    }
    let entry = Entry { log_id: LogId::new(CommittedLeaderId::new(4, 2), 9), payload: EntryPayload::Blank };
    let body = Bytes::from(encode_entry(&entry));
    let rpc = AppendEntriesRequest { vote, prev_log_id: None, entries: vec![entry], leader_commit: None };
    for len in [body.len() as u64 - 1, body.len() as u64 + 1, u64::MAX] {
        let head = PartKind::Append(network::append_head(1, &rpc, len));
        let why = refused(asked(&inbox, "m2", vec![head, PartKind::Data(body.clone())]).await);
        assert!(matches!(why, Refused::Malformed(_)), "{len}: {why}");
    }
    assert_eq!(one.raft.metrics().borrow().last_log_index, None);
    // The same node takes what is as it should be.
    let mut link = Network::new(site.ways(2)).new_client(1, &peer(1)).await;
    let first = Entry { log_id: LogId::new(CommittedLeaderId::new(4, 2), 0), payload: EntryPayload::Blank };
    let rpc = AppendEntriesRequest { entries: vec![first], ..rpc };
    let answer = link.append_entries(rpc, RPCOption::new(PATIENCE)).await.unwrap();
    assert_eq!(answer, AppendEntriesResponse::Success);
    one.raft.shutdown().await.unwrap();
}
