//! What leaves this node by way of Raft: nothing but questions for votes while it is to be silent ([`Silence`]), and a snapshot only
//! when the drives have every entry in it.
//!
//! A follower that takes a snapshot drops its log up to there. Were the snapshot ahead of the drives, and this node lost before
//! it had journaled the rest, the follower could be elected with an index that names entries which neither its log nor the
//! drives have: it would serve no writes, although nothing was lost.

use super::silence::{Silence, Silent};
use super::{Machine, Peer, RaftTypes};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{OptionalSend, Snapshot, Vote};
use std::future::Future;
use tokio::time::timeout;

/// The network of one member.
pub(super) struct Gated<N> {
    pub network: N,
    pub machine: Machine,
    pub silence: Silence,
}

/// The drives do not have it yet.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot up to entry {0} waits until the drives have the entries in it")]
struct NotJournaled(u64);

impl<N: RaftNetworkFactory<RaftTypes>> RaftNetworkFactory<RaftTypes> for Gated<N> {
    type Network = Gated<N::Network>;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Self::Network {
        let network = self.network.new_client(target, peer).await;
        Gated { network, machine: self.machine.clone(), silence: self.silence.clone() }
    }
}

impl<N> Gated<N> {
    fn may_speak(&self) -> Result<(), Unreachable> {
        if self.silence.is_kept() { Err(Unreachable::new(&Silent)) } else { Ok(()) }
    }
}

type Remote = RPCError<u64, Peer, RaftError<u64>>;

impl<N: RaftNetwork<RaftTypes>> RaftNetwork<RaftTypes> for Gated<N> {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Remote> {
        self.may_speak()?;
        self.network.append_entries(rpc, option).await
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Remote> {
        self.network.vote(rpc, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<RaftTypes>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<RaftTypes, Fatal<u64>>> {
        self.may_speak()?;
        let last = snapshot.meta.last_log_id.map_or(0, |at| at.index);
        if timeout(option.hard_ttl(), self.machine.until_journaled(last)).await.is_err() {
            return Err(Unreachable::new(&NotJournaled(last)).into());
        }
        self.network.full_snapshot(vote, snapshot, cancel, option).await
    }

    fn backoff(&self) -> Backoff {
        self.network.backoff()
    }
}
