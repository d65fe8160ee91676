//! One metadata node's Raft: its log, its state machine, and what it knows of the others.
//!
//! Invariants
//! * [`Member::read_index`] answers `Ok` only after a majority has confirmed, in a round that began after the question, that
//!   this node leads, and after everything that was committed before that is applied here.
//! * The log loses an entry only when a sealed LSN that this node has applied covers it: what is sealed was read back from 1+m
//!   drives and more before the seal was committed. So a new leader always has the entries that the drives may still lack, and
//!   losing every metadata node loses nothing that was acknowledged. Snapshots and purges happen by [`Member::shorten_log`] only.
//! * A member votes when it has every entry that the leader had when it was added. Were it made a voter before, what the leader
//!   commits would wait for a node that has nothing, and that may wait for the leader.
//! * A leader that a majority has not answered for the time of an election falls silent ([`Silence`]): those who hear it while it
//!   hears nobody would follow it for ever.
//! * A member's number is never given twice. A node whose log is gone joins under a new one: under the old one it could vote
//!   for a leader that lacks what it has promised to keep.

use super::found::{self, FoundError};
use super::gate::Gated;
use super::heard::Heard;
use super::log::{FAMILIES, Identity, LogStore, OpenError};
use super::machine::{Machine, MachineError};
use super::silence::Silence;
use super::{Peer, RaftTypes};
use crate::index::{self, Overlay};
use crate::replica::NotLeading;
use codec::id::Epoch;
use openraft::error::{ChangeMembershipError, CheckIsLeaderError, ClientWriteError, Fatal, ForwardToLeader, RaftError};
use openraft::{
    ChangeMembers, Config, ConfigError, Raft, RaftMetrics, RaftNetworkFactory, ServerState, SnapshotPolicy,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use storage_node::kv::{KvError, RocksKv, RocksOptions};
use storage_node::level::CurrentLevel;
use storage_node::sabotage::{Sabotage, SabotageSet};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};

/// Questions that wait for the next round of [`Member::read_index`].
const READS: usize = 4096;
/// Entries that stay in the log for followers that are a little behind: a snapshot is the whole index.
const KEEP_ENTRIES: u64 = 1000;
/// A majority that did not answer is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// A snapshot is made for this many entries that the log can do without, not for fewer.
const WORTH_A_SNAPSHOT: u64 = 1000;

/// How patient a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// A leader is heard of so often; Raft gives up a call to another node that takes longer, and makes it again.
    pub heartbeat: Duration,
    /// A node that hears of no leader for a time between this ...
    pub election_min: Duration,
    /// ... and this, after the longer of the two has passed once, stands for election. A leader that a majority has not answered for so long is none any more.
    pub election_max: Duration,
    /// A snapshot reaches a follower within this, or is begun anew.
    pub snapshot: Duration,
    /// A change of the members, and a question whether this node leads, have failed after this.
    pub deadline: Duration,
    /// A new member has caught up within this, or is not made a voter.
    pub catch_up: Duration,
    /// The log is looked at so often for what it can do without; `None` never.
    pub shorten_every: Option<Duration>,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            heartbeat: Duration::from_millis(300),
            election_min: Duration::from_millis(1000),
            election_max: Duration::from_millis(2000),
            snapshot: Duration::from_secs(600),
            deadline: Duration::from_secs(10),
            catch_up: Duration::from_secs(900),
            shorten_every: Some(Duration::from_secs(30)),
        }
    }
}

/// What a member is opened with.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// Whose it is.
    pub identity: Identity,
    /// Holds `log/` and `index/`.
    pub dir: PathBuf,
    /// Memory for each of the two stores.
    pub rocks: RocksOptions,
    /// How patient it is.
    pub timings: Timings,
    /// By which this process writes; raised to that of the index.
    pub level: CurrentLevel,
    /// Safety steps that a test takes away.
    pub sabotage: SabotageSet,
}

/// Who leads, as one member knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft's term.
    pub term: u64,
    /// This node does, and a majority has answered it lately.
    pub leading: bool,
    /// The leader; `None` while there is none, or this node is one that nobody answers.
    pub leader: Option<(u64, Peer)>,
}

/// A metadata node of the cluster, as the leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberLine {
    /// Its number.
    pub id: u64,
    /// Where it is.
    pub peer: Peer,
    /// It votes; one that does not is catching up.
    pub voter: bool,
    /// It leads.
    pub leader: bool,
    /// The last entry that it is known to have; known to the leader only.
    pub matched: Option<u64>,
    /// How long it has not answered the leader, who asks with every heartbeat; known to the leader only.
    pub silent: Option<Duration>,
}

/// Why a member can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The log.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The state machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A store can't be opened: in use, damaged, or of a newer version.
    #[error(transparent)]
    Store(#[from] KvError),
    /// The timings contradict each other.
    #[error("Raft's timings can't be used: {0}")]
    Timings(Box<ConfigError>),
    /// Raft did not start.
    #[error("Raft does not start: {0}")]
    Raft(Box<Fatal<u64>>),
    /// A cluster of one can't be begun.
    #[error(transparent)]
    Found(#[from] FoundError),
}

impl From<ConfigError> for MemberError {
    fn from(error: ConfigError) -> Self {
        MemberError::Timings(Box::new(error))
    }
}

impl From<Fatal<u64>> for MemberError {
    fn from(error: Fatal<u64>) -> Self {
        MemberError::Raft(Box::new(error))
    }
}

/// Why the members are as they were, or may be.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Another node has to be asked.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The number is another node's, or was.
    #[error("metadata node {id} is {there}; a number is never given twice")]
    Taken {
        /// The number.
        id: u64,
        /// Whose it is.
        there: Peer,
    },
    /// There is no such member.
    #[error("there is no metadata node {0}")]
    Unknown(u64),
    /// It is the only one that votes.
    #[error("metadata node {0} is the only one that votes; add another first")]
    Last(u64),
    /// This node leads, and its start is not over: try again.
    #[error("this metadata node leads and is not serving yet; try again in a moment")]
    NotServing,
    /// The new member takes part and does not vote: asked again, it goes on from there; it may be removed, too.
    #[error(
        "metadata node {id} does not vote yet: it has {} and needs entry {needed}; add it again to go on, or remove it",
        .matched.map_or_else(|| "none of the entries".to_owned(), |at| format!("the entries up to {at}"))
    )]
    Behind {
        /// Its number.
        id: u64,
        /// The last entry that it is known to have.
        matched: Option<u64>,
        /// The last one that there was when it was added.
        needed: u64,
    },
    /// A change is not over yet: try again.
    #[error("the members are being changed; try again in a moment")]
    InProgress,
    /// Not known to have happened within the time: ask for the members, and try again.
    #[error("the change was not confirmed in time; the list of members says what became of it")]
    Late,
    /// Raft has stopped: the process has to be started again.
    #[error("Raft has stopped: {0}")]
    Stopped(Box<Fatal<u64>>),
}

type Question = oneshot::Sender<Result<(), NotLeading>>;

/// One metadata node's Raft.
pub struct Member {
    id: u64,
    raft: Raft<RaftTypes>,
    machine: Machine,
    log: LogStore,
    timings: Timings,
    sabotage: SabotageSet,
    leadership: watch::Receiver<Leadership>,
    heard: Heard,
    reads: mpsc::Sender<Question>,
    serving: AtomicBool,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("id", &self.id).field("leadership", &*self.leadership.borrow()).finish()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Member {
    /// Opens what is below `config.dir`, made if there is nothing: such a node waits until a leader adds it.
    pub async fn open<N: RaftNetworkFactory<RaftTypes>>(
        config: MemberConfig,
        network: N,
    ) -> Result<Member, MemberError> {
        let MemberConfig { identity, dir, rocks, timings, level, sabotage } = config;
        let opened = tokio::task::spawn_blocking(move || {
            found::finish(&dir)?;
            let log = RocksKv::open_promised(&dir.join("log"), &FAMILIES, rocks)?;
            let log = LogStore::open(Arc::new(log), identity)?;
            Ok::<_, MemberError>((log, Machine::open_at(&dir.join("index"), rocks, level)?))
        });
        let (log, machine) = opened.await.map_err(|_| Fatal::Panicked)??;
        let config = Arc::new(raft_config(&timings).validate()?);
        let silence = Silence::default();
        let heard = Heard::default();
        let (gated, told) = (machine.clone(), heard.clone());
        let network = Gated { network, machine: gated, log: log.clone(), silence: silence.clone(), heard: told };
        // Only with the gate before the network: it keeps back what may not count yet.
        log.let_ahead(timings.election_min + timings.election_max);
        let raft = Raft::new(identity.node, config, network, log.clone(), machine.clone()).await;
        // Raft applies what is committed before it begins, and says of an entry of a later release that the store failed.
        let raft = raft.map_err(|fatal| {
            let later = machine.later().borrow().clone();
            later.map_or(MemberError::from(fatal), |later| MachineError::Later(later).into())
        })?;
        let mut metrics = raft.metrics();
        // What Raft says first, it says from a task of its own; before, it knows no members, not even this one.
        if tokio::time::timeout(timings.deadline, metrics.changed()).await.is_err() {
            tracing::warn!("Raft does not say who its members are yet");
        }
        // A cluster of one has nobody to wait for.
        if is_alone(&metrics.borrow()) {
            raft.trigger().elect().await?;
        }
        let (tell, leadership) = watch::channel(Leadership::default());
        let (reads, questions) = mpsc::channel(READS);
        let mut tasks = vec![
            tokio::spawn(silence.keep(metrics.clone(), timings)),
            tokio::spawn(watch_leadership(metrics, timings, tell, log.clone(), heard.clone())),
            tokio::spawn(answer_reads(raft.clone(), questions, timings)),
        ];
        if let Some(every) = timings.shorten_every {
            tasks.push(tokio::spawn(shorten(raft.clone(), machine.clone(), sabotage.clone(), every, timings.deadline)));
        }
        let id = identity.node;
        let serving = AtomicBool::new(false);
        Ok(Member { id, raft, machine, log, timings, sabotage, leadership, heard, reads, serving, tasks })
    }

    /// Begins a cluster of one: this node, under `config.identity`, from the index in `index`, which nobody has open and which
    /// stays as it is. Raft goes on after the last LSN that the index has applied, an entry of `epoch` (as the drives have it, which
    /// is not always the epoch that stripes were numbered in). `config.dir` must not hold a member.
    ///
    /// For a cluster whose metadata was one process, and where all metadata nodes are lost and the index was rebuilt from the
    /// drives. Never while any node of an earlier cluster of metadata nodes may still run.
    pub async fn found<N: RaftNetworkFactory<RaftTypes>>(
        config: MemberConfig,
        me: Peer,
        index: PathBuf,
        epoch: Epoch,
        network: N,
    ) -> Result<Member, MemberError> {
        let plan = config.clone();
        let found = tokio::task::spawn_blocking(move || found::found(&plan, &me, &index, epoch));
        found.await.map_err(|_| Fatal::Panicked)??;
        Member::open(config, network).await
    }

    /// The number of this node.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Raft itself, for the transport.
    pub fn raft(&self) -> &Raft<RaftTypes> {
        &self.raft
    }

    /// The state machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The log, for reading.
    pub(crate) fn log(&self) -> &LogStore {
        &self.log
    }

    /// How patient this member is.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Who leads, as it changes.
    pub fn watch(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// What a caller who wanted the leader is told.
    pub fn not_leading(&self) -> NotLeading {
        let known = self.leadership.borrow();
        let leader = known.leader.as_ref().filter(|(id, _)| *id != self.id);
        NotLeading { leader: leader.map(|(_, peer)| peer.clone()) }
    }

    /// Raft's term, as this node knows it.
    pub(crate) fn term(&self) -> u64 {
        self.raft.metrics().borrow().current_term
    }

    /// [`Self::read_index`], of a node that led in `term` before. One that leads in another one may have followed in between.
    pub(crate) async fn leads_in(&self, term: u64) -> Result<(), NotLeading> {
        self.read_index().await?;
        if self.term() == term { Ok(()) } else { Err(self.not_leading()) }
    }

    /// Confirms with a majority that this node leads, after the call. Whoever asks while a round is running shares the next.
    pub async fn read_index(&self) -> Result<(), NotLeading> {
        let (question, answer) = oneshot::channel();
        let asked = async {
            self.reads.send(question).await.ok()?;
            answer.await.ok()
        };
        let answered = timeout(self.timings.deadline, asked).await;
        answered.ok().flatten().unwrap_or_else(|| Err(self.not_leading()))
    }

    /// The members, as this node knows them.
    pub fn members(&self) -> Vec<MemberLine> {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let line = |(id, peer): (&u64, &Peer)| MemberLine {
            id: *id,
            peer: peer.clone(),
            voter: voters.contains(id),
            leader: metrics.current_leader == Some(*id),
            matched: match metrics.replication.as_ref().and_then(|known| known.get(id)) {
                Some(at) => at.map(|at| at.index),
                None if *id == self.id => metrics.last_log_index,
                None => None,
            },
            silent: self.heard.silent(*id).map(|silent| if *id == self.id { Duration::ZERO } else { silent }),
        };
        membership.nodes().map(line).collect()
    }

    /// Adds a member: it catches up first and votes then. Asked again after a failure it goes on where it was; one that has not
    /// caught up does not vote, and can be removed.
    ///
    /// Only while this node serves. A leader that starts may have entries that the drives lack, and can't send a snapshot until
    /// they have them; a new member that votes and has nothing would keep it from committing what it starts with, so that
    /// neither ever went on.
    pub async fn add(&self, id: u64, peer: Peer) -> Result<(), ChangeError> {
        if !self.serving.load(Ordering::Acquire) {
            let leading = self.leadership.borrow().leading;
            return Err(if leading { ChangeError::NotServing } else { self.not_leading().into() });
        }
        let there = self.members().into_iter().find(|member| member.id == id);
        match there {
            Some(there) if there.peer != peer => return Err(ChangeError::Taken { id, there: there.peer }),
            Some(there) if there.voter => return Ok(()),
            _ => {}
        }
        let adding = self.raft.add_learner(id, peer, false);
        let added = timeout(self.timings.deadline, adding).await.map_err(|_| ChangeError::Late)?;
        let added = added.map_err(|error| self.change_error(error))?;
        self.caught_up(id, added.log_id.index).await?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await
    }

    /// Waits until a learner that entry `added` made one has every entry that is in this leader's log now. Raft itself takes one
    /// that lacks a few thousand for one that has caught up, that is, any in a short log.
    async fn caught_up(&self, id: u64, added: u64) -> Result<(), ChangeError> {
        let mut metrics = self.raft.metrics();
        let needed = metrics.borrow().last_log_index.map_or(added, |last| last.max(added));
        let matched = |now: &RaftMetrics<u64, Peer>| now.replication.as_ref()?.get(&id).copied().flatten();
        let has_it = |now: &RaftMetrics<u64, Peer>| matched(now).is_some_and(|at| at.index >= needed);
        // What is known of the members may be older than the entry.
        let is_removed = |now: &RaftMetrics<u64, Peer>| {
            let members = &now.membership_config;
            let known = members.log_id().is_some_and(|at| at.index >= added);
            known && members.membership().get_node(&id).is_none()
        };
        let is_over = |now: &RaftMetrics<u64, Peer>| {
            now.state != ServerState::Leader || now.running_state.is_err() || is_removed(now)
        };
        // Waiting for more than that ends with what there is: the sender is gone when Raft is.
        let _ = timeout(self.timings.catch_up, metrics.wait_for(|now| has_it(now) || is_over(now))).await;
        let now = metrics.borrow();
        if let Err(fatal) = &now.running_state {
            return Err(ChangeError::Stopped(Box::new(fatal.clone())));
        }
        if now.state != ServerState::Leader {
            return Err(self.not_leading().into());
        }
        if is_removed(&now) {
            return Err(ChangeError::Unknown(id));
        }
        if has_it(&now) {
            return Ok(());
        }
        Err(ChangeError::Behind { id, matched: matched(&now).map(|at| at.index), needed })
    }

    /// The service that this node leads with takes writes, or is taken away.
    pub(crate) fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    /// Removes a member; its number is not given again.
    pub async fn remove(&self, id: u64) -> Result<(), ChangeError> {
        let members = self.members();
        let found = members.iter().find(|member| member.id == id).ok_or(ChangeError::Unknown(id))?;
        if !found.voter {
            return self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])), false).await;
        }
        if members.iter().filter(|member| member.voter).count() == 1 {
            return Err(ChangeError::Last(id));
        }
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id])), false).await
    }

    /// A member is reached at another address from now on. It is the same node with the same log: anything else would be a
    /// number given twice.
    pub async fn change_address(&self, id: u64, peer: Peer) -> Result<(), ChangeError> {
        if !self.members().iter().any(|member| member.id == id) {
            return Err(ChangeError::Unknown(id));
        }
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])), true).await
    }

    async fn change(&self, change: ChangeMembers<u64, Peer>, retain: bool) -> Result<(), ChangeError> {
        let changed = timeout(self.timings.deadline, self.raft.change_membership(change, retain)).await;
        changed.map_err(|_| ChangeError::Late)?.map_err(|error| self.change_error(error))?;
        Ok(())
    }

    fn change_error(&self, error: RaftError<u64, ClientWriteError<u64, Peer>>) -> ChangeError {
        match error {
            RaftError::Fatal(fatal) => ChangeError::Stopped(Box::new(fatal)),
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => ChangeError::NotLeading(elsewhere(to)),
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
                ChangeMembershipError::InProgress(_) => ChangeError::InProgress,
                ChangeMembershipError::EmptyMembership(_) => ChangeError::Last(self.id),
                ChangeMembershipError::LearnerNotFound(missing) => ChangeError::Unknown(missing.node_id),
            },
        }
    }

    /// Takes out of the log what the drives have in sealed form, behind a new snapshot; a no-op where that is little. Returns
    /// the entry up to which it was purged.
    pub async fn shorten_log(&self) -> Option<u64> {
        shorten_log(&self.raft, &self.machine, &self.sabotage, self.timings.deadline, 1, 0).await
    }

    /// Ends Raft on this node. The others go on without it.
    pub async fn shutdown(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not end as it should");
        }
    }
}

fn raft_config(timings: &Timings) -> Config {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "stele".to_owned(),
        heartbeat_interval: ms(timings.heartbeat),
        election_timeout_min: ms(timings.election_min),
        election_timeout_max: ms(timings.election_max),
        install_snapshot_timeout: ms(timings.snapshot),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    }
}

fn is_alone(metrics: &RaftMetrics<u64, Peer>) -> bool {
    metrics.membership_config.membership().voter_ids().eq([metrics.id])
}

fn elsewhere(to: ForwardToLeader<u64, Peer>) -> NotLeading {
    NotLeading { leader: to.leader_node }
}

async fn watch_leadership(
    mut metrics: watch::Receiver<RaftMetrics<u64, Peer>>,
    timings: Timings,
    tell: watch::Sender<Leadership>,
    log: LogStore,
    heard: Heard,
) {
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            log.learn(&metrics);
            leadership(&metrics, timings.election_max)
        };
        heard.leads(now.leading.then_some(now.term));
        tell.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        if metrics.changed().await.is_err() {
            tell.send_replace(Leadership::default());
            return;
        }
    }
}

fn leadership(metrics: &RaftMetrics<u64, Peer>, lease: Duration) -> Leadership {
    let leads = metrics.state == ServerState::Leader && metrics.running_state.is_ok();
    let answered = metrics.millis_since_quorum_ack.is_some_and(|ms| u128::from(ms) <= lease.as_millis());
    let peer = |id: u64| metrics.membership_config.membership().get_node(&id).map(|peer| (id, peer.clone()));
    let leader = metrics.current_leader.filter(|id| *id != metrics.id || (leads && answered)).and_then(peer);
    Leadership { term: metrics.current_term, leading: leads && answered, leader }
}

async fn answer_reads(raft: Raft<RaftTypes>, mut questions: mpsc::Receiver<Question>, timings: Timings) {
    while let Some(first) = questions.recv().await {
        // All that are here asked before the round begins; those that come later did not, and wait for the next.
        let mut asked = vec![first];
        while let Ok(question) = questions.try_recv() {
            asked.push(question);
        }
        let confirmed = match timeout(timings.deadline, confirm(&raft)).await {
            Ok(confirmed) => confirmed,
            Err(_) => Err(NotLeading::default()),
        };
        for question in asked {
            // Whoever is gone does not want to know.
            let _ = question.send(confirmed.clone());
        }
    }
}

/// A majority that does not answer within a heartbeat may only be slow: it is asked again for as long as this node leads.
async fn confirm(raft: &Raft<RaftTypes>) -> Result<(), NotLeading> {
    loop {
        match raft.ensure_linearizable().await {
            Ok(_) => return Ok(()),
            // A refusal may come at once, and must not be asked for in a circle.
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => sleep(ASK_AGAIN).await,
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => return Err(elsewhere(to)),
            Err(RaftError::Fatal(_)) => return Err(NotLeading::default()),
        }
    }
}

async fn shorten(raft: Raft<RaftTypes>, machine: Machine, sabotage: SabotageSet, every: Duration, deadline: Duration) {
    let mut timer = interval(every);
    loop {
        timer.tick().await;
        shorten_log(&raft, &machine, &sabotage, deadline, WORTH_A_SNAPSHOT, KEEP_ENTRIES).await;
    }
}

async fn shorten_log(
    raft: &Raft<RaftTypes>,
    machine: &Machine,
    sabotage: &SabotageSet,
    deadline: Duration,
    worth: u64,
    keep: u64,
) -> Option<u64> {
    let of = machine.clone();
    let read = tokio::task::spawn_blocking(move || {
        let kv = of.kv();
        let view = Overlay::new(&*kv);
        Ok::<_, index::IndexError>((index::applied(&view)?.0.0, index::last_sealed(&view)?.map_or(0, |row| row.last)))
    });
    let (applied, sealed) = match read.await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the Raft log stays as long as it is");
            return None;
        }
        Err(_) => return None,
    };
    let spare = if sabotage.is(Sabotage::PurgeSealed) { applied } else { sealed.min(applied) };
    let upto = spare.min(applied.saturating_sub(keep));
    let purged = raft.metrics().borrow().purged.map_or(0, |at| at.index);
    if upto < purged.saturating_add(worth) {
        return None;
    }
    let wait = || raft.wait(Some(deadline));
    raft.trigger().snapshot().await.ok()?;
    wait().metrics(|m| m.snapshot.is_some_and(|at| at.index >= upto), "a snapshot").await.ok()?;
    raft.trigger().purge_log(upto).await.ok()?;
    wait().metrics(|m| m.purged.is_some_and(|at| at.index >= upto), "a shorter log").await.ok()?;
    tracing::info!(upto, "the Raft log was shortened to what is not sealed");
    Some(upto)
}
