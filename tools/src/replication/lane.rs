//! The work of one rule: keys come from its queue, longest waiting first, are copied, and go from the queue in batches.
//!
//! Invariants:
//! * A key is worked on once at a time: it is busy from when it is taken until the entry that takes it from the queue is committed.
//! * A key that fails waits longer each time, and keeps no other back; what fails for all keys (no answer, no access) makes all
//!   of them wait.
//! * A key that is the same and has to be looked at once more ([`Seen`]) waits in the queue, and is copied at once if it changes.
//! * Memory is bounded: [`PAGE`] keys are taken from the queue at once, [`KEYS`] are worked on, [`FAILING`] failures remembered.
//! * Nothing is remembered that a restart needs: the queue and how far the walk is are in the index.

use super::copy::{Copier, CopyError, Done};
use super::failing::{Failing, Reason};
use super::late::Seen;
use super::progress::Progress;
use super::target::TargetError;
use codec::effect::{ReplicatedKey, ReplicationRow};
use codec::id::BucketId;
use gateway::error::GetError;
use metadata::client::{CommitError, LookupError, MetadataClient};
use metadata::command::{Command, WalkReplication};
use metadata::index::{self, IndexError, Overlay, replication};
use metadata::listing::{ListPage, ListRequest, VersionsPage, VersionsRequest};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Keys of one rule that are worked on at once.
pub(super) const KEYS: usize = 8;
/// Keys that are taken from the queue at once.
const PAGE: usize = 256;
/// So many copied keys are taken from the queue in one entry.
const BATCH: usize = 200;
/// A copied key stays in the queue for no longer, unless the entry can't be committed.
const FLUSH: Duration = Duration::from_millis(300);
/// Copied keys that wait for their entry; with so many nothing new is begun.
const UNFLUSHED: usize = 1000;
/// How often an empty queue is looked at, and one in which all keys fail.
const LOOK: Duration = Duration::from_millis(500);
/// Keys that a step of the walk queues.
const WALK: usize = 500;
/// The walk waits while more keys than this wait to be copied, though all of them fail.
const WALK_BELOW: u64 = 100_000;
/// Pause after a commit or a read here that failed.
const HERE: Duration = Duration::from_secs(1);

/// Why a rule's work can't go on at present.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// One rule's work.
pub(super) struct Lane {
    copier: Arc<Copier>,
    progress: Arc<Progress>,
    failing: Failing,
    seen: Seen,
    running: JoinSet<Ended>,
    /// Taken from the queue and not begun.
    taken: VecDeque<(u64, String)>,
    /// What was taken last.
    at: Option<(u64, String)>,
    busy: HashSet<String>,
    done: Vec<ReplicatedKey>,
    flushed: Instant,
}

struct Ended {
    key: String,
    result: Result<Option<Done>, CopyError>,
}

impl Lane {
    pub(super) fn new(copier: Copier, progress: Arc<Progress>) -> Lane {
        Lane {
            copier: Arc::new(copier),
            progress,
            failing: Failing::default(),
            seen: Seen::default(),
            running: JoinSet::new(),
            taken: VecDeque::new(),
            at: None,
            busy: HashSet::new(),
            done: Vec::new(),
            flushed: Instant::now(),
        }
    }

    /// Works until the rule is another one, or none. Dropped, it leaves what is being written half done: the next one looks at
    /// what is there.
    pub(super) async fn run(mut self) {
        loop {
            match self.step().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(stuck) => {
                    tracing::debug!(bucket = self.copier.rule.bucket, %stuck, "replication waits");
                    sleep(HERE).await;
                }
            }
        }
    }

    fn bucket(&self) -> BucketId {
        BucketId(self.copier.rule.bucket)
    }

    fn rule(&self) -> Result<Option<ReplicationRow>, IndexError> {
        let rule = replication::rule(&Overlay::new(&**self.copier.meta.kv()), self.bucket())?;
        Ok(rule.filter(|rule| rule.seq == self.copier.rule.seq))
    }

    /// `false`: there is nothing to do any more.
    async fn step(&mut self) -> Result<bool, Stuck> {
        let Some(rule) = self.rule()? else { return Ok(false) };
        let mut idle = rule.paused || self.failing.all_wait(Instant::now());
        if !idle && self.done.len() < UNFLUSHED {
            idle = !self.begin()?;
        }
        if !rule.paused && !rule.walked && self.length()? < if idle { WALK_BELOW } else { WALK as u64 } {
            self.walk(&rule).await?;
            idle = false;
        }
        self.collect(idle).await;
        let due = self.done.len() >= BATCH || self.running.is_empty() || self.flushed.elapsed() >= FLUSH;
        if due && !self.done.is_empty() {
            self.flush().await?;
        }
        if idle && !rule.paused { self.go_on(&rule).await } else { Ok(true) }
    }

    /// Begins what can be; `false` when all that waits is being worked on or has failed lately.
    fn begin(&mut self) -> Result<bool, Stuck> {
        let now = Instant::now();
        while self.running.len() < KEYS {
            let Some((_, key)) = self.taken.pop_front() else {
                if !self.take()? {
                    return Ok(!self.running.is_empty());
                }
                continue;
            };
            if self.busy.contains(&key) || self.failing.waits(&key, now) {
                continue;
            }
            if let Some(lsn) = self.seen.waits(&key, now)
                && self.copier.changed(&key)? == Some(lsn)
            {
                continue;
            }
            self.busy.insert(key.clone());
            let copier = Arc::clone(&self.copier);
            self.running.spawn(async move {
                let _turn = copier.room.key().await;
                Ended { result: copier.copy(&key).await, key }
            });
        }
        Ok(true)
    }

    /// Takes more from the queue; `false` at its end. Only from there it goes back to the front: were it earlier, keys at the front
    /// that fail for ever and slowly would keep all others back.
    fn take(&mut self) -> Result<bool, Stuck> {
        let view = Overlay::new(&**self.copier.meta.kv());
        let page = replication::queue(&view, self.bucket(), self.at.as_ref(), PAGE)?;
        self.at = page.last().cloned();
        self.taken = page.into();
        Ok(!self.taken.is_empty())
    }

    /// Waits a moment for a key to end, and takes all that have.
    async fn collect(&mut self, idle: bool) {
        if self.running.is_empty() {
            if idle && self.done.is_empty() {
                sleep(LOOK).await;
            }
            return;
        }
        let first = tokio::time::timeout(FLUSH, self.running.join_next()).await;
        let mut next = first.ok().flatten();
        while let Some(ended) = next {
            match ended {
                Ok(ended) => self.ended(ended),
                // A panic: its key stays busy and is tried again after a restart.
                Err(error) => tracing::error!(%error, "a copy ended without a result"),
            }
            next = self.running.try_join_next();
        }
    }

    fn ended(&mut self, Ended { key, result }: Ended) {
        match result {
            Ok(done) => {
                self.failing.succeeded(&key);
                if let Some(Done { copied, .. }) = &done {
                    self.progress.copied(*copied);
                }
                match done {
                    None => _ = self.busy.remove(&key),
                    Some(Done { lsn, again: None, .. }) => self.done.push(ReplicatedKey { key, lsn }),
                    // It stays in the queue until then, and has not failed.
                    Some(Done { lsn, again: Some(until), .. }) => {
                        self.busy.remove(&key);
                        self.seen.note(key, lsn, until, Instant::now());
                    }
                }
            }
            Err(error) => {
                self.busy.remove(&key);
                if let Some(reason) = reason(&error) {
                    let own = matches!(error, CopyError::OfThisKey(_));
                    self.failing.failed(key, reason, own, Instant::now());
                    self.progress.failed(reason, &error.to_string());
                }
            }
        }
        self.progress.failing(self.failing.by_reason());
    }

    /// Takes what was copied from the queue.
    async fn flush(&mut self) -> Result<(), Stuck> {
        self.flushed = Instant::now();
        while !self.done.is_empty() {
            let batch: Vec<ReplicatedKey> = self.done.iter().take(BATCH).cloned().collect();
            let count = batch.len();
            let rule = Some(self.copier.rule.seq);
            self.commit(Command::Replicated { bucket: self.bucket(), rule, done: batch }).await?;
            for done in self.done.drain(..count) {
                self.busy.remove(&done.key);
            }
        }
        Ok(())
    }

    async fn commit(&self, command: Command) -> Result<(), CommitError> {
        let meta = &self.copier.meta;
        meta.commit(meta.epoch(), command).await.map(drop)
    }

    /// Queues more of what the bucket had when the rule was set.
    async fn walk(&mut self, rule: &ReplicationRow) -> Result<(), Stuck> {
        let bucket = self.bucket();
        if rule.versions {
            let key_marker = rule.walked_to.clone();
            let request = VersionsRequest { bucket, key_marker, max: WALK, ..VersionsRequest::default() };
            let page = self.copier.meta.list_versions(request).await?;
            return Ok(self.commit(Command::WalkReplication(step_of_versions(rule, page))).await?);
        }
        let request = ListRequest { bucket, after: rule.walked_to.clone(), max: WALK, ..ListRequest::default() };
        let page = self.copier.meta.list(request).await?;
        Ok(self.commit(Command::WalkReplication(step(rule, page))).await?)
    }

    fn length(&self) -> Result<u64, IndexError> {
        replication::length(&Overlay::new(&**self.copier.meta.kv()), self.bucket())
    }

    /// A bucket that is gone keeps its rule until what was deleted in it is deleted there, too.
    async fn go_on(&mut self, rule: &ReplicationRow) -> Result<bool, Stuck> {
        let over = rule.walked && self.length()? == 0;
        if over && index::bucket_by_id(&Overlay::new(&**self.copier.meta.kv()), self.bucket())?.is_none() {
            self.commit(Command::UnsetReplication { bucket: self.bucket() }).await?;
            return Ok(false);
        }
        Ok(true)
    }
}

/// A page of the walk. It goes on where the page says, which may be behind its last key, or have none: below 100,000 delete markers a
/// page ends without a key, and a walk that stayed where it was would meet the same markers for ever, and journal each time.
fn step(rule: &ReplicationRow, page: ListPage) -> WalkReplication {
    let keys: Vec<String> = page.objects.into_iter().map(|version| version.key).collect();
    let last = page.next.is_none();
    let to = page.next.or_else(|| keys.last().cloned()).unwrap_or_else(|| rule.walked_to.clone());
    WalkReplication { bucket: BucketId(rule.bucket), rule: rule.seq, from: rule.walked_to.clone(), to, keys, last }
}

/// A page of a walk over versions: also keys whose newest version is a delete marker. Of a key with which the page ends there may be
/// more, which is of no matter: it is the key that is queued.
fn step_of_versions(rule: &ReplicationRow, page: VersionsPage) -> WalkReplication {
    let mut keys: Vec<String> = page.versions.into_iter().map(|(version, _)| version.key).collect();
    keys.dedup();
    let last = page.next.is_none();
    let to = keys.last().cloned().unwrap_or_else(|| rule.walked_to.clone());
    WalkReplication { bucket: BucketId(rule.bucket), rule: rule.seq, from: rule.walked_to.clone(), to, keys, last }
}

/// Why a key failed; `None` when it is to be tried again at once.
fn reason(error: &CopyError) -> Option<Reason> {
    Some(match error {
        CopyError::Superseded => return None,
        CopyError::Target(error) | CopyError::OfThisKey(error) => match error {
            TargetError::Unreachable(_) => Reason::Unreachable,
            TargetError::Denied(_) => Reason::Denied,
            TargetError::Busy(_) => Reason::Busy,
            TargetError::NoBucket => Reason::NoBucket,
            TargetError::Unversioned => Reason::Unversioned,
            // With a pause of its own: an endpoint may judge conditions in a way that none ever holds.
            TargetError::Changed => Reason::Changed,
            TargetError::Unknown(_) | TargetError::Refused(_) => Reason::Refused,
        },
        CopyError::Unreadable(GetError::Key(_) | GetError::Kms { .. }) => Reason::NoKey,
        CopyError::Unreadable(_) => Reason::Unreadable,
        CopyError::TooMany => Reason::TooMany,
        CopyError::Here(_) => Reason::Here,
        CopyError::Held(_) => Reason::Held,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::effect::VersionRow;

    #[test]
    fn a_walk_passes_deleted_keys_over() {
        let rule = ReplicationRow { bucket: 7, seq: 3, walked_to: "a".to_owned(), ..ReplicationRow::default() };
        let page = |keys: &[&str], next: Option<&str>| ListPage {
            objects: keys.iter().map(|&key| VersionRow { key: key.to_owned(), ..VersionRow::default() }).collect(),
            next: next.map(str::to_owned),
            ..ListPage::default()
        };
        let to = |keys: &[&str], next| {
            let step = step(&rule, page(keys, next));
            assert_eq!((step.from.as_str(), step.keys.len(), step.last), ("a", keys.len(), next.is_none()));
            step.to
        };
        assert_eq!(to(&["b", "c"], Some("c")), "c");
        assert_eq!(to(&["b"], Some("m")), "m", "a deleted key after the last one");
        assert_eq!(to(&[], Some("m")), "m", "deleted keys only");
        assert_eq!(to(&["b"], None), "b");
        assert_eq!(to(&[], None), "a");
    }

    #[test]
    fn a_walk_over_versions_queues_each_key_once() {
        let rule = ReplicationRow { walked_to: "a".to_owned(), versions: true, ..ReplicationRow::default() };
        let page = |keys: &[&str], next: Option<&str>| {
            let line = |key: &&str| (VersionRow { key: (*key).to_owned(), ..VersionRow::default() }, false);
            let next = next.map(|key| (key.to_owned(), Some("id".to_owned())));
            step_of_versions(
                &rule,
                VersionsPage { versions: keys.iter().map(line).collect(), next, ..Default::default() },
            )
        };
        let first = page(&["b", "b", "c", "c"], Some("c"));
        assert_eq!((first.keys, first.to, first.last), (vec!["b".to_owned(), "c".to_owned()], "c".to_owned(), false));
        let none = page(&[], None);
        assert_eq!((none.keys.len(), none.to, none.last), (0, "a".to_owned(), true));
    }
}
