//! A metadata node that leads when it is elected.
//!
//! Invariants
//! * One service at a time, and one start: the next one begins when the one before has ended, whatever it came to. Two would each
//!   begin the drives in a higher epoch than the other.
//! * A service that is not known to lead is not shown to anybody. It is taken away when another node leads, and when a majority
//!   has not answered for the time of an election: by then another may lead, and this one could only keep callers waiting.
//!   That is not what safety rests on: a commit needs a majority, a read asks one first, and the drives refuse whom a
//!   successor has superseded.
//! * A leader whose service has failed for a reason that no drive can end starts another one, and when that fails, too, it gives way
//!   to another node, whose index and log are its own. It would lead on otherwise, and refuse every write, until somebody
//!   ended it. What the drives lack is no such reason: every leader would lack it, and they would only take turns.
//! * What was taken away does nothing more: its tasks are aborted, and the next start waits until they are gone. A commit that was
//!   on its way may still happen. And no storage node is told any more to begin in an epoch of it.

use super::{Leading, NotLeading};
use crate::client::{MetadataClient, Mode};
use crate::raft::{HandedOver, Leadership, Member, Peer, WayError};
use crate::service::Metadata;
use crate::start::{Config, LeaderParts, StartError, lead};
use async_trait::async_trait;
use openraft::Vote;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// A start that came to nothing, or to a service that only reads, is tried again after this.
const RETRY: Duration = Duration::from_secs(3);
/// A service that takes no writes, and has not found its way back by itself, is started again after this.
const STUCK: Duration = Duration::from_secs(20);
/// A service that fails sooner than this, counted from its start, has failed again, and so has a start that does.
const WELL: Duration = Duration::from_secs(60);
/// So often on end this node fails to serve before it gives way to another.
const FAILURES: u32 = 2;
/// It gives way no more often than this: a fault that all nodes have must not have them take turns all the time.
const GIVES_WAY_EVERY: Duration = Duration::from_secs(120);
/// The longest pause between two starts that fail.
const RETRY_MOST: Duration = Duration::from_secs(48);
/// How long a node that ends, and leads, waits for what is under way before it has another one lead: a service ends at once, a
/// start may wait for storage nodes for minutes, and is not cancelled.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// How often a service is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What is shown of a replica.
struct State {
    member: Arc<Member>,
    serving: RwLock<Option<Arc<Metadata>>>,
    /// Why this node leads and serves nothing.
    problem: Mutex<Option<String>>,
}

impl State {
    fn show(&self, metadata: Option<Arc<Metadata>>) -> Option<Arc<Metadata>> {
        // The drives have what the log had when a service that may write began: from now on members can be added.
        self.member.set_serving(metadata.as_ref().is_some_and(|metadata| metadata.may_write()));
        let mut serving = self.serving.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *serving, metadata)
    }

    fn has_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Takes the service away, if there is one; its tasks are told to end.
    fn end(&self) -> Option<Arc<Metadata>> {
        self.show(None).inspect(|metadata| metadata.abandon())
    }

    /// The same, and waits until they have.
    async fn ended(&self) {
        if let Some(metadata) = self.end() {
            metadata.ended().await;
        }
    }
}

/// One metadata node: follows while another leads, and serves while it leads.
pub struct Replica {
    member: Arc<Member>,
    state: Arc<State>,
    leadership: watch::Receiver<Leadership>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("member", &self.member).field("problem", &self.problem()).finish()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.state.end();
    }
}

impl Replica {
    /// A replica over a member that is open. It serves, with `parts` and as `config` says, whenever it is elected.
    pub fn new(member: Arc<Member>, parts: LeaderParts, config: Config) -> Replica {
        let (serving, problem) = Default::default();
        let state = Arc::new(State { member: member.clone(), serving, problem });
        let stop = watch::Sender::new(false);
        let running = Running {
            member: member.clone(),
            state: state.clone(),
            parts,
            config,
            stopping: stop.subscribe(),
            gave_way: None,
        };
        let task = Mutex::new(Some(tokio::spawn(running.run())));
        let leadership = member.watch();
        Replica { member, state, leadership, stop, task }
    }

    /// Why this node leads and does not serve, if that is so.
    pub fn problem(&self) -> Option<String> {
        self.state.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the service, if there is one, and Raft on this node: the others elect another leader when they notice.
    pub async fn shutdown(&self) {
        self.end().await;
        self.member.shutdown().await;
    }

    /// Before [`Self::shutdown`]: ends the service, and has another node lead if this one does ([`Member::hand_over`]). A start that is
    /// under way does not keep it: were it waited for, the process would be cut off before another node leads. It finds that
    /// this node leads no more, like any start that loses its leadership.
    pub async fn hand_over<F, A>(&self, ask: F) -> HandedOver
    where
        F: Fn(u64, Peer, Vote<u64>) -> A,
        A: Future<Output = Result<(), WayError>>,
    {
        self.end_within(UNDER_WAY).await;
        self.member.hand_over(ask).await
    }

    /// Ends the service for good, and waits until nothing of it is under way.
    async fn end(&self) {
        self.end_within(Duration::MAX).await;
    }

    /// The same, and waits no longer than this.
    async fn end_within(&self, limit: Duration) {
        self.stop.send_replace(true);
        self.state.end();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        // It ends when a start that is under way does; it can't fail.
        if timeout(limit, &mut task).await.is_err() {
            *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        }
    }
}

#[async_trait]
impl Leading for Replica {
    fn serving(&self) -> Result<Arc<Metadata>, NotLeading> {
        let serving = self.state.serving.read().unwrap_or_else(PoisonError::into_inner).clone();
        // One whose index a snapshot has replaced is from before this node followed another: it is about to be taken away.
        let index = Arc::as_ptr(&self.member.machine().kv()).cast::<()>();
        let current = |metadata: &Arc<Metadata>| Arc::as_ptr(metadata.kv()).cast::<()>() == index;
        let serving = serving.filter(|metadata| self.leadership.borrow().leading && current(metadata));
        serving.ok_or_else(|| self.member.not_leading())
    }

    async fn linearizable(&self) -> Result<(), NotLeading> {
        self.member.read_index().await
    }

    fn member(&self) -> Option<Arc<Member>> {
        Some(self.member.clone())
    }
}

struct Running {
    member: Arc<Member>,
    state: Arc<State>,
    parts: LeaderParts,
    config: Config,
    stopping: watch::Receiver<bool>,
    /// When this node last gave way to others.
    gave_way: Option<Instant>,
}

impl Running {
    async fn run(mut self) {
        let mut leadership = self.member.watch();
        loop {
            let elected = tokio::select! {
                // First: a node that is to stop may still lead, and a start would have to be waited for.
                biased;
                _ = self.stopping.wait_for(|stop| *stop) => None,
                elected = leadership.wait_for(|now| now.leading) => elected.ok().map(|now| now.term),
            };
            let Some(term) = elected else { return };
            tracing::info!(term, "this metadata node leads");
            self.lead(term).await;
            self.state.ended().await;
            self.parts.nodes.leave();
            self.state.has_problem(None);
        }
    }

    /// Serves until this node does not lead any more in `term`, and nothing of it is under way.
    async fn lead(&mut self, term: u64) {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            // Not cancelled: what a start has begun must be ended with it.
            let mut starting = tokio::spawn(lead(self.parts.clone(), self.config.clone(), self.member.clone()));
            let started = tokio::select! {
                started = &mut starting => started,
                () = self.over(term) => {
                    self.state.ended().await;
                    if let Ok(Ok(metadata)) = starting.await {
                        metadata.ended().await;
                    }
                    return;
                }
            };
            let failed = match started {
                Ok(Ok(metadata)) => self.serve(Arc::new(metadata), term).await,
                Ok(Err(StartError::NotLeading(_))) => false,
                Ok(Err(error)) => self.failed(&error.to_string(), error.is_of_this_node()),
                Err(panicked) => self.failed(&panicked.to_string(), true),
            };
            if self.is_over(term) {
                return;
            }
            failures = failures_after(failures, failed, began.elapsed());
            if failures >= FAILURES && self.gives_way().await {
                return;
            }
            tokio::select! {
                () = sleep(pause_after(failures)) => {}
                () = self.over(term) => return,
            }
        }
    }

    /// A start came to nothing; whether that is this node's own fault.
    fn failed(&self, error: &str, own: bool) -> bool {
        tracing::error!(error, "this metadata node leads and can't serve; it tries again");
        self.state.has_problem(Some(error.to_owned()));
        own
    }

    /// Has another node lead, if there is one and it is not too soon. The service is gone by now, and writes are refused anyway.
    async fn gives_way(&mut self) -> bool {
        if self.gave_way.is_some_and(|at| at.elapsed() < GIVES_WAY_EVERY) {
            return false;
        }
        self.gave_way = Some(Instant::now());
        tracing::error!("this metadata node leads and fails again and again: it gives way to another, if there is one");
        self.state.ended().await;
        let mut stopping = self.stopping.clone();
        tokio::select! {
            gone = self.member.give_way() => gone,
            _ = stopping.wait_for(|stop| *stop) => true,
        }
    }

    /// Shows a service until leadership is over, or the service has to be started again. Whether it has failed by itself.
    async fn serve(&mut self, metadata: Arc<Metadata>, term: u64) -> bool {
        if self.is_over(term) {
            metadata.ended().await;
            return false;
        }
        self.state.has_problem(None);
        let before = self.state.show(Some(metadata.clone()));
        if let Some(before) = before {
            before.ended().await;
        }
        tokio::select! {
            () = self.over(term) => {
                self.state.end();
                metadata.ended().await;
                return false;
            }
            () = stuck(&metadata) => {}
        }
        let failed = metadata.has_failed();
        let reason = metadata.status().reason;
        tracing::warn!(reason, "this metadata node leads and takes no writes; its service is started again");
        self.state.has_problem(Some(reason));
        // One that never wrote goes on reading until the next one is there; one that did may not write beside it.
        if metadata.is_writer() {
            self.state.end();
            metadata.ended().await;
        }
        failed
    }

    fn is_over(&self, term: u64) -> bool {
        let watching = self.member.watch();
        let now = watching.borrow();
        !now.leading || now.term != term || *self.stopping.borrow()
    }

    /// Returns when this node does not lead in `term` any more, or is to stop.
    async fn over(&self, term: u64) {
        let (mut leadership, mut stopping) = (self.member.watch(), self.stopping.clone());
        // Either sender is gone only with what it told of.
        tokio::select! {
            _ = leadership.wait_for(|now| !now.leading || now.term != term) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    }
}

/// How often this node has failed on end, after something that has failed or not, and lasted so long.
fn failures_after(before: u32, failed: bool, lasted: Duration) -> u32 {
    match failed {
        true if lasted < WELL => before.saturating_add(1),
        true => 1,
        false => 0,
    }
}

/// How long until the next start.
fn pause_after(failures: u32) -> Duration {
    let doubled = failures.saturating_sub(1).min(8);
    RETRY.saturating_mul(1 << doubled).min(RETRY_MOST)
}

/// Returns when a service is not going to take writes again by itself.
async fn stuck(metadata: &Metadata) {
    let mut since = None;
    loop {
        sleep(LOOK).await;
        if metadata.has_failed() {
            return;
        }
        if metadata.status().mode == Mode::Serving {
            since = None;
            continue;
        }
        let since = *since.get_or_insert_with(Instant::now);
        // Drives that follow a higher epoch do not come back by themselves.
        let patience = if metadata.may_write() && metadata.node().superseded().is_none() { STUCK } else { RETRY };
        if since.elapsed() >= patience {
            return;
        }
    }
}
