//! A leader that ends has another node lead first, so that nobody has to notice that it is gone.
//!
//! Raft as it is here has no such call. But a node may stand for election when it is asked to, and a leader that has led for the
//! time of an election votes for whoever has all its entries, as any node does that has heard of no leader for that long. So the
//! leader asks one that has them to stand, and votes for it: with three voters that is a majority. With more, another one has to
//! vote, and does so only when it has heard nothing for the time of an election; the pause is shorter then, and not gone.
//!
//! Only liveness rests on this. An election that is asked for is one like any other: who lacks an entry that counts does not win it,
//! and who asks may go before it is over. Whoever could have many elections held would keep the cluster from serving, so a node
//! stands only for the leader that it follows.

use super::part::{AnswerKind, PartKind, STAND, StandQuestion};
use super::way::{Purpose, WayError, Ways};
use super::{Member, Peer, RaftTypes, network};
use futures::stream;
use openraft::{Raft, RaftMetrics, ServerState, Vote};
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a leader that ends waits for a successor in all.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long for one that it has asked; then it asks another.
const EACH: Duration = Duration::from_secs(1);
/// A leader that gives way waits for so many of the longest times after which a node that hears of no leader stands.
const ELECTIONS: u32 = 6;

type Metrics = RaftMetrics<u64, Peer>;

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HandedOver {
    /// This node does not lead, or nobody else votes.
    Nothing,
    /// This one leads now.
    To(Peer),
    /// Nobody did in time: the others elect one when they notice.
    Nobody,
}

/// Asks a node to stand for election in the place of the leader whose vote this is.
pub async fn ask_to_stand(ways: &dyn Ways, id: u64, peer: &Peer, vote: Vote<u64>) -> Result<(), WayError> {
    let question = PartKind::Stand(StandQuestion { to: id, vote: Some(vote.into()) });
    let parts = network::encoded(stream::iter([question.into()]));
    match network::value(ways.to(peer, Purpose::Orders)?.ask(STAND, parts, EACH).await)? {
        AnswerKind::Stands(_) => Ok(()),
        _ => Err(network::unexpected()),
    }
}

impl Member {
    /// If this node leads, has another one lead in its place: `ask` asks one of this number to stand. Nothing may be proposed
    /// any more. Takes a few seconds at most.
    pub async fn hand_over<F, A>(&self, ask: F) -> HandedOver
    where
        F: Fn(u64, Peer, Vote<u64>) -> A,
        A: Future<Output = Result<(), WayError>>,
    {
        if !may_ask(&self.raft().metrics().borrow()) {
            return HandedOver::Nothing;
        }
        let (until, mut asked) = (Instant::now() + PATIENCE, BTreeMap::new());
        loop {
            let ready = |now: &Metrics| !may_ask(now) || successor(now, &asked).is_some();
            let Some(now) = self.until(until, ready).await else { return HandedOver::Nobody };
            if !may_ask(&now) {
                return led_by(&now).map_or(HandedOver::Nothing, HandedOver::To);
            }
            let Some((id, peer)) = successor(&now, &asked) else { return HandedOver::Nobody };
            if let Err(error) = ask(id, peer.clone(), now.vote).await {
                tracing::info!(%peer, %error, "a metadata node does not stand for election");
            }
            asked.insert(id, peer);
            let elected = self.until(Instant::now() + EACH, |now| led_by(now).is_some()).await;
            if let Some(leader) = elected.as_ref().and_then(led_by) {
                return HandedOver::To(leader);
            }
        }
    }

    /// If this node leads, has the others elect another one: it sends no sign of life until another leads, or until they had the
    /// time for it. For a leader that can't serve, and that nobody would miss. Nothing may be proposed meanwhile. Returns whether
    /// this node leads no more.
    pub(crate) async fn give_way(&self) -> bool {
        if !may_ask(&self.raft().metrics().borrow()) {
            return false;
        }
        let _quiet = Quiet::keep(self.raft());
        let until = Instant::now() + ELECTIONS * self.timings().election_max;
        self.until(until, |now| !may_ask(now)).await.is_some()
    }

    /// What Raft says of itself as soon as it is so; `None` when it is not in time.
    async fn until(&self, until: Instant, is_so: impl Fn(&Metrics) -> bool) -> Option<Metrics> {
        let mut metrics = self.raft().metrics();
        let seen = timeout_at(until, metrics.wait_for(|now| is_so(now))).await;
        seen.ok()?.ok().map(|now| now.clone())
    }
}

/// A Raft that sends no heartbeats for as long as this lives: one that did so for longer could never lead again.
struct Quiet(Raft<RaftTypes>);

impl Quiet {
    fn keep(raft: &Raft<RaftTypes>) -> Quiet {
        raft.runtime_config().heartbeat(false);
        Quiet(raft.clone())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.0.runtime_config().heartbeat(true);
    }
}

/// Leads, and is not the only one that votes.
fn may_ask(now: &Metrics) -> bool {
    let others = now.membership_config.membership().voter_ids().any(|id| id != now.id);
    now.state == ServerState::Leader && now.running_state.is_ok() && others
}

/// Another node that leads.
fn led_by(now: &Metrics) -> Option<Peer> {
    let leader = now.current_leader.filter(|id| *id != now.id)?;
    now.membership_config.membership().get_node(&leader).cloned()
}

/// A voter with all entries that was not asked yet.
fn successor(now: &Metrics, asked: &BTreeMap<u64, Peer>) -> Option<(u64, Peer)> {
    let members = now.membership_config.membership();
    let known = now.replication.as_ref()?;
    let has_all = |id: &u64| known.get(id).copied().flatten().map(|at| at.index) >= now.last_log_index;
    let id = members.voter_ids().find(|id| *id != now.id && !asked.contains_key(id) && has_all(id))?;
    Some((id, members.get_node(&id)?.clone()))
}
