//! What leaves this node by way of Raft: nothing but questions for votes while it is to be silent ([`Silence`]), and a snapshot only
//! when the drives have every entry in it.
//!
//! A follower that takes a snapshot drops its log up to there. Were the snapshot ahead of the drives, and this node lost before
//! it had journaled the rest, the follower could be elected with an index that names entries which neither its log nor the
//! drives have: it would serve no writes, although nothing was lost.
//!
//! Nor does anything but such questions leave a leader whose disk has failed, or hangs.
//!
//! And what comes back: a follower's word that it has entries is kept until this node's disk has them too, because they were sent
//! before that (`ahead.rs`).

use super::ahead::{Hangs, Unsyncable};
use super::heard::Heard;
use super::log::LogStore;
use super::silence::{Silence, Silent};
use super::{Machine, Peer, RaftTypes};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{LogId, OptionalSend, Snapshot, Vote};
use std::future::Future;
use tokio::time::{Instant, timeout, timeout_at};

/// The network of one member.
pub(super) struct Gated<N> {
    pub network: N,
    pub machine: Machine,
    pub log: LogStore,
    pub silence: Silence,
    pub heard: Heard,
}

/// The calls to one other member.
pub(super) struct GatedLink<N> {
    to: u64,
    network: N,
    machine: Machine,
    log: LogStore,
    silence: Silence,
    heard: Heard,
}

/// The drives do not have it yet.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot up to entry {0} waits until the drives have the entries in it")]
struct NotJournaled(u64);

/// This node's disk does not have it yet.
#[derive(Debug, thiserror::Error)]
#[error("entry {0} of another metadata node does not count yet: this one's disk does not have it")]
struct NotSynced(u64);

impl<N: RaftNetworkFactory<RaftTypes>> RaftNetworkFactory<RaftTypes> for Gated<N> {
    type Network = GatedLink<N::Network>;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Self::Network {
        let network = self.network.new_client(target, peer).await;
        let (machine, silence, heard) = (self.machine.clone(), self.silence.clone(), self.heard.clone());
        GatedLink { to: target, network, machine, log: self.log.clone(), silence, heard }
    }
}

impl<N> GatedLink<N> {
    fn may_speak(&self) -> Result<(), Unreachable> {
        if self.log.has_failed() {
            // It could commit nothing, and would be followed for ever.
            return Err(Unreachable::new(&Unsyncable));
        }
        if self.log.hangs() {
            return Err(Unreachable::new(&Hangs));
        }
        if self.silence.is_kept() { Err(Unreachable::new(&Silent)) } else { Ok(()) }
    }

    /// What may be said now of a follower's answer to a call for the entries behind `before` up to `last`.
    async fn counted(
        &self,
        answer: AppendEntriesResponse<u64>,
        before: Option<LogId<u64>>,
        last: Option<LogId<u64>>,
        until: Instant,
    ) -> Result<AppendEntriesResponse<u64>, Unreachable> {
        let matched = match &answer {
            AppendEntriesResponse::Success => last,
            AppendEntriesResponse::PartialSuccess(upto) => *upto,
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => None,
        };
        let Some(matched) = matched else { return Ok(answer) };
        match timeout_at(until, self.log.until_synced(matched)).await {
            Ok(Ok(())) => Ok(answer),
            Ok(Err(error)) => Err(Unreachable::new(&error)),
            // It follows; what it has besides is asked for again.
            Err(_) if before < Some(matched) && before.is_none_or(|before| self.log.is_synced(before)) => {
                Ok(AppendEntriesResponse::PartialSuccess(before))
            }
            Err(_) => Err(Unreachable::new(&NotSynced(matched.index))),
        }
    }
}

type Remote = RPCError<u64, Peer, RaftError<u64>>;

impl<N: RaftNetwork<RaftTypes>> RaftNetwork<RaftTypes> for GatedLink<N> {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Remote> {
        self.may_speak()?;
        // Raft gives a call up after its time, and would take the answer for none.
        let until = Instant::now() + option.hard_ttl() * 9 / 10;
        let before = rpc.prev_log_id;
        let last = rpc.entries.last().map_or(before, |entry| Some(entry.log_id));
        let answer = self.network.append_entries(rpc, option).await?;
        self.heard.answered(self.to);
        Ok(self.counted(answer, before, last, until).await?)
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
