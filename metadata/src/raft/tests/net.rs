//! Metadata nodes of one process, and a network between them that can be cut.

use super::super::{Machine, Peer, RaftTypes, SnapshotDir};
use openraft::error::{NetworkError, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{OptionalSend, Raft, Snapshot, Vote};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};

/// What a call arrives at.
pub type Reached = (Raft<RaftTypes>, Machine);

/// Who can reach whom.
#[derive(Clone, Default)]
pub struct Net {
    pub nodes: Arc<Mutex<BTreeMap<u64, Reached>>>,
    pub cut: Arc<Mutex<BTreeSet<u64>>>,
    /// These are heard, and hear nothing: no call and no answer.
    pub deaf: Arc<Mutex<BTreeSet<u64>>>,
}

pub struct Link {
    net: Net,
    from: u64,
    to: u64,
}

impl Net {
    fn reach(&self, from: u64, to: u64) -> Result<Reached, Unreachable> {
        self.is_heard_by(to)?;
        let cut = self.cut.lock().unwrap();
        let node = self.nodes.lock().unwrap().get(&to).cloned();
        let apart = cut.contains(&from) || cut.contains(&to);
        node.filter(|_| !apart).ok_or_else(|| Unreachable::new(&std::io::Error::other("cut off")))
    }

    fn is_heard_by(&self, id: u64) -> Result<(), Unreachable> {
        let deaf = self.deaf.lock().unwrap().contains(&id);
        if deaf { Err(Unreachable::new(&std::io::Error::other("deaf"))) } else { Ok(()) }
    }
}

impl RaftNetworkFactory<RaftTypes> for (Net, u64) {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _peer: &Peer) -> Link {
        Link { net: self.0.clone(), from: self.1, to: target }
    }
}

type Remote<E> = RPCError<u64, Peer, E>;

impl RaftNetwork<RaftTypes> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<RaftTypes>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Remote<RaftError<u64>>> {
        let (raft, _) = self.net.reach(self.from, self.to)?;
        let answer = raft.append_entries(rpc).await.map_err(|e| RemoteError::new(self.to, e))?;
        self.net.reach(self.from, self.to)?;
        self.net.is_heard_by(self.from)?;
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, Remote<RaftError<u64>>> {
        let (raft, _) = self.net.reach(self.from, self.to)?;
        let answer = raft.vote(rpc).await.map_err(|e| RemoteError::new(self.to, e))?;
        self.net.is_heard_by(self.from)?;
        Ok(answer)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<RaftTypes>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<RaftTypes, openraft::error::Fatal<u64>>> {
        let (raft, machine) = self.net.reach(self.from, self.to)?;
        let incoming = machine.incoming().map_err(|e| NetworkError::new(&e))?;
        copy(&snapshot.snapshot, &incoming);
        let snapshot = Snapshot { meta: snapshot.meta, snapshot: Box::new(incoming) };
        let answer = raft.install_full_snapshot(vote, snapshot).await;
        self.net.is_heard_by(self.from)?;
        Ok(answer.map_err(|e| RemoteError::new(self.to, e))?)
    }
}

fn copy(from: &SnapshotDir, to: &SnapshotDir) {
    for file in std::fs::read_dir(from.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
}
