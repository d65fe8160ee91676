//! A leader's entries go to the others while its own disk still syncs them.
//!
//! Raft hands entries to the log one proposal at a time and does nothing else until the log calls them flushed; only then are they
//! sent. So many small commits cost a sync each, one after the other, and each commit the leader's sync and then a follower's. A
//! leader's log therefore calls its own entries flushed as soon as they are written, and what has to wait for the sync waits elsewhere:
//! a follower's word that it has an entry is kept back until the leader's disk has it too ([`Ahead::until_synced`], asked by
//! `gate.rs`). Then what the followers are known to have never runs ahead of the leader's disk, and neither does what is
//! committed, for that is what a majority has, and a majority of two or more voters takes a follower. (The Raft thesis, 10.2.1,
//! has the leader write in parallel with its followers.)
//!
//! Invariants
//! * Ahead of its sync goes only what this node appends as the leader of the vote that it has saved. What a follower appends is
//!   promised to another node by the answer, and nothing keeps that answer back.
//! * Not where one voter alone would be a majority, in either half of a joint configuration: its own word would commit, unsynced.
//!   Where it is not known who votes, nothing goes ahead. A new vote makes it unknown: what was known before may be of a log that
//!   another leader has cut.
//! * A leader that starts again does not lead in its old term ([`super::LogStore`]'s `read_vote`). A power cut may have taken entries
//!   from it that a follower has; in the same term it would give their positions to other entries, and nobody could tell them apart.
//! * A node that follows again has saved a vote before it answers anybody, and that sync covers all that it wrote as a leader: the log
//!   is one store with one write-ahead log. So it never says to a new leader that it has what its disk lacks.
//! * After a failed sync nothing is called synced any more, and the node says nothing as a leader.
//! * A leader whose syncs do not end, without an error, says nothing either, once they have not for longer than it takes the others
//!   to elect another: it would be followed for ever otherwise, and nothing would be committed. Only liveness rests on that.
//!
//! What a power cut of a leader leaves: entries that others have and it has not, none of which counted. As with any entry that was
//! not committed, the next leader keeps them or not.

use super::{Peer, RaftTypes};
use openraft::{Entry, EntryPayload, LogId, Membership, RaftMetrics, ServerState, Vote};
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// This node can't sync its log.
#[derive(Debug, thiserror::Error)]
#[error("the Raft log of this node can't be synced")]
pub(super) struct Unsyncable;

/// This node's disk does not end a sync.
#[derive(Debug, thiserror::Error)]
#[error("this node leads and keeps silent: its disk has not ended a sync of the Raft log for the time of an election")]
pub(super) struct Hangs;

/// What a log knows about going ahead of its syncs.
#[derive(Debug)]
pub(super) struct Ahead {
    node: u64,
    known: Mutex<Known>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Known {
    /// Whoever carries the answers of followers keeps them back; then also after how long a sync hangs.
    allowed: Option<Duration>,
    /// The last vote that was saved by this process.
    vote: Option<Vote<u64>>,
    /// A majority takes another node; `None` while it is not known who votes.
    shared: Option<bool>,
}

/// Of the entries that went ahead; these come in the order of their positions.
#[derive(Debug, Default)]
struct Progress {
    /// The last one.
    written: Option<LogId<u64>>,
    /// The last one that a sync covers.
    synced: Option<LogId<u64>>,
    /// While entries wait for a sync: since when, or since when the last sync ended, if that is later.
    since: Option<Instant>,
    /// Why a write or a sync failed, for people.
    failed: Option<String>,
}

impl Progress {
    fn covers(&self, at: LogId<u64>) -> bool {
        self.synced == self.written || Some(at) <= self.synced
    }
}

impl Ahead {
    /// Of the log of this node, which goes nowhere ahead yet.
    pub(super) fn new(node: u64) -> Ahead {
        Ahead { node, known: Mutex::default(), progress: watch::Sender::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the answers of followers are kept back by [`Self::until_synced`].
    /// A sync that takes longer than `patience` hangs.
    pub(super) fn allow(&self, patience: Duration) {
        self.known().allowed = Some(patience);
    }

    /// A vote is about to be saved.
    pub(super) fn vote(&self, vote: &Vote<u64>) {
        let mut known = self.known();
        if known.vote.is_none_or(|before| before.leader_id != vote.leader_id) {
            known.shared = None;
        }
        known.vote = Some(*vote);
    }

    /// What Raft says of itself. Who votes is known from it while this node leads by the vote that it has saved: whatever changes
    /// that in this term comes by [`Self::appends`].
    pub(super) fn learn(&self, metrics: &RaftMetrics<u64, Peer>) {
        let mut known = self.known();
        let leads = metrics.state == ServerState::Leader
            && known.vote.is_some_and(|vote| vote.leader_id == metrics.vote.leader_id);
        if leads && known.shared.is_none() {
            known.shared = Some(is_shared(metrics.membership_config.membership()));
        }
    }

    /// The last of these entries, which are about to be written, if they may be called flushed before they are synced.
    pub(super) fn appends(&self, entries: &[Entry<RaftTypes>]) -> Option<LogId<u64>> {
        let mut known = self.known();
        for entry in entries {
            if let EntryPayload::Membership(members) = &entry.payload {
                known.shared = Some(is_shared(members));
            }
        }
        let leader = known.vote.filter(|vote| vote.leader_id.node_id == self.node)?.leader_id;
        let own = entries.iter().all(|entry| entry.log_id.leader_id == leader);
        let last = entries.last()?.log_id;
        (own && known.allowed.is_some() && known.shared == Some(true)).then(|| {
            self.progress.send_modify(|progress| {
                progress.since.get_or_insert_with(Instant::now);
                progress.written = progress.written.max(Some(last));
            });
            last
        })
    }

    /// A sync that began after everything up to here was written is over.
    pub(super) fn synced(&self, upto: LogId<u64>) {
        self.progress.send_modify(|progress| {
            progress.synced = progress.synced.max(Some(upto));
            progress.since = (progress.synced < progress.written).then(Instant::now);
        });
    }

    /// A sync, or a write, has failed.
    pub(super) fn fail(&self, error: &impl Display) {
        self.progress.send_modify(|progress| {
            progress.failed.get_or_insert_with(|| error.to_string());
        });
    }

    /// Whether a sync has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.progress.borrow().failed.is_some()
    }

    /// Whether entries that went ahead have waited too long for a sync to end.
    pub(super) fn hangs(&self) -> bool {
        let since = self.progress.borrow().since;
        let patience = self.known().allowed;
        patience.is_some_and(|patience| since.is_some_and(|since| since.elapsed() > patience))
    }

    /// Returns when a write or a sync has failed, with why.
    pub(super) async fn failure(&self) -> String {
        let mut progress = self.progress.subscribe();
        // The sender is in `self`: it is never gone.
        let failed = progress.wait_for(|progress| progress.failed.is_some()).await;
        failed.ok().and_then(|progress| progress.failed.clone()).unwrap_or_default()
    }

    /// Whether this disk has all up to an entry that another node has.
    pub(super) fn is_synced(&self, at: LogId<u64>) -> bool {
        self.progress.borrow().covers(at)
    }

    /// Waits until this disk has all up to an entry that another node has.
    pub(super) async fn until_synced(&self, at: LogId<u64>) -> Result<(), Unsyncable> {
        let mut progress = self.progress.subscribe();
        // The sender is in `self`: it is never gone.
        let now = progress
            .wait_for(|progress| progress.failed.is_some() || progress.covers(at))
            .await
            .map_err(|_| Unsyncable)?;
        if now.failed.is_some() { Err(Unsyncable) } else { Ok(()) }
    }
}

/// Every majority takes two nodes.
fn is_shared(members: &Membership<u64, Peer>) -> bool {
    members.get_joint_config().iter().all(|voters| voters.len() > 1)
}
