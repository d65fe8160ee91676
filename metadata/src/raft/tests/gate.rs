//! A snapshot leaves a node only when the drives have every entry in it.

use super::super::gate::Gated;
use super::super::log::{FAMILIES, Identity, LogStore};
use super::super::silence::Silence;
use super::super::{Machine, Peer, RaftTypes};
use super::machine::filled;
use codec::id::{ClusterId, Lsn};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::RaftSnapshotBuilder;
use openraft::{OptionalSend, Snapshot, Vote};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use storage_node::kv::{RocksKv, RocksOptions};

const SMALL: RocksOptions = RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, open_files: 64 };
const LAST: u64 = 20;

/// Counts the snapshots that leave.
#[derive(Clone, Default)]
struct Sent(Arc<AtomicUsize>);

impl Sent {
    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl RaftNetworkFactory<RaftTypes> for Sent {
    type Network = Sent;

    async fn new_client(&mut self, _target: u64, _peer: &Peer) -> Sent {
        self.clone()
    }
}

type Remote = RPCError<u64, Peer, RaftError<u64>>;

impl RaftNetwork<RaftTypes> for Sent {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Remote> {
        Ok(AppendEntriesResponse::Success)
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, _option: RPCOption) -> Result<VoteResponse<u64>, Remote> {
        Ok(VoteResponse { vote: rpc.vote, vote_granted: true, last_log_id: None })
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        _snapshot: Snapshot<RaftTypes>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<RaftTypes, Fatal<u64>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(SnapshotResponse::new(vote))
    }
}

struct World {
    machine: Machine,
    sent: Sent,
    gated: Gated<Sent>,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let machine = filled(&dir.path().join("index"), LAST).await;
    let kv = RocksKv::open(&dir.path().join("log"), &FAMILIES, SMALL).unwrap();
    let log = LogStore::open(Arc::new(kv), Identity { cluster: ClusterId([1; 16]), node: 1 }).unwrap();
    let sent = Sent::default();
    let (silence, heard) = (Silence::default(), super::super::heard::Heard::default());
    let gated = Gated { network: sent.clone(), machine: machine.clone(), log, silence, heard };
    World { machine, sent, gated, _dir: dir }
}

impl World {
    async fn send(&mut self, patience: Duration) -> Result<(), StreamingError<RaftTypes, Fatal<u64>>> {
        let snapshot = self.machine.clone().build_snapshot().await.unwrap();
        assert_eq!(snapshot.meta.last_log_id.map(|at| at.index), Some(LAST));
        let mut link = self.gated.new_client(2, &Peer::default()).await;
        let never = std::future::pending();
        link.full_snapshot(Vote::new(1, 1), snapshot, never, RPCOption::new(patience)).await.map(drop)
    }
}

/// A follower that took it, and dropped its log for it, could be elected with an index that names entries which nobody has.
#[tokio::test]
async fn a_snapshot_waits_until_the_drives_have_every_entry_in_it() {
    let mut world = world().await;
    let soon = Duration::from_millis(200);
    for journaled in [0, LAST - 1] {
        world.machine.set_journaled(Lsn(journaled));
        let refused = world.send(soon).await;
        assert!(matches!(&refused, Err(StreamingError::Unreachable(_))), "{refused:?}");
        assert!(refused.unwrap_err().to_string().contains("waits until the drives have the entries in it"));
        assert_eq!(world.sent.get(), 0);
    }
    world.machine.set_journaled(Lsn(LAST));
    world.send(soon).await.unwrap();
    assert_eq!(world.sent.get(), 1);
}

#[tokio::test]
async fn a_snapshot_that_waits_goes_out_as_soon_as_they_have() {
    let mut world = world().await;
    let machine = world.machine.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        machine.set_journaled(Lsn(LAST));
    });
    world.send(Duration::from_secs(120)).await.unwrap();
    assert_eq!(world.sent.get(), 1);
}

/// What the drives have is never taken back: a late word of an earlier moment holds up nothing.
#[tokio::test]
async fn what_the_drives_have_only_grows() {
    let mut world = world().await;
    world.machine.set_journaled(Lsn(LAST));
    world.machine.set_journaled(Lsn(1));
    world.send(Duration::from_secs(120)).await.unwrap();
}
