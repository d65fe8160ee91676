//! Replication: buckets are copied to other S3 endpoints, behind the acknowledgement and in no client's way.
//!
//! Which buckets, and what of them waits, is in the index ([`metadata::index::replication`]); one process works on it, the one
//! that commits. [`Replicator`] begins a [`lane`] for each rule; a lane takes keys from the queue and makes them the same there
//! ([`copy`], [`target`]): their current versions, or all of them ([`history`], [`versions`]). [`verify`] compares both sides.
//!
//! Invariants:
//! * Nothing is acknowledged to a client because of it, and nothing waits for it.
//! * Secrets are wrapped by the key-encryption key in the index and on media, and are in no log, status or error.
//! * What is there is deleted only for a delete that was journaled here, under a rule that says so.

pub mod answers;
mod copy;
mod failing;
mod follow;
mod history;
mod lane;
mod late;
mod progress;
mod routes;
mod same;
mod target;
mod verify;
mod verify_versions;
mod versions;

pub use follow::Following;
pub(crate) use routes::routes;

use answers::{ReplicationAnswer, RuleAnswer, SetQuestion, VerifyAnswer};
use codec::effect::{ReplicatedKey, ReplicationRow};
use codec::id::BucketId;
use copy::{Copier, Room};
use gateway::engine::Gateway;
use gateway::noted::Noted;
use history::Known;
use lane::Lane;
use late::{Begun, Late};
use metadata::client::{CommitError, LookupError, MetadataClient};
use metadata::clock::{Clock, SystemClock};
use metadata::command::{Command, MAX_REPLICATION_KEYS};
use metadata::index::{self, IndexError, Overlay, replication};
use metadata::keys::{KeyError, Secret};
use metadata::replica::Leading;
use metadata::service::Metadata;
use progress::Progress;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use target::{Target, TargetError};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use verify::{How, VerifyError};

/// How often the rules are looked at.
const RULES: Duration = Duration::from_secs(1);
/// Keys that are copied at once, of all rules.
const KEYS: usize = 16;
// One rule takes no more than half of the turns.
const _: () = assert!(2 * lane::KEYS <= KEYS);
/// Bytes of objects in memory, of all rules.
const MEMORY: u64 = 128 << 20;
/// A copy that is behind for longer is an alarm.
pub(crate) const BEHIND: u64 = 3600;

/// Why a rule was not set, changed or verified.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicationError {
    /// No such bucket here.
    #[error("there is no bucket {0}")]
    NoBucket(String),
    /// The bucket is not copied anywhere.
    #[error("bucket {0} has no replication")]
    NoRule(String),
    /// The question can't be meant so.
    #[error("{0}")]
    Wrong(&'static str),
    /// The other endpoint does not do what it must.
    #[error("the other endpoint: {0}")]
    Target(#[from] TargetError),
    /// The secret.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A lookup.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Comparing.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

/// A rule's work.
struct Working {
    /// [`ReplicationRow::seq`].
    rule: u64,
    task: JoinHandle<()>,
    progress: Arc<Progress>,
}

/// Copies buckets for as long as it lives.
pub struct Replicator {
    meta: Arc<Metadata>,
    leading: Arc<dyn Leading>,
    engine: Arc<Gateway>,
    room: Arc<Room>,
    begun: Begun,
    /// What may still arrive, of rules that were, too.
    late: Mutex<HashMap<BucketId, Arc<Late>>>,
    /// What versions there are, of each rule by its [`ReplicationRow::seq`].
    known: Mutex<HashMap<BucketId, (u64, Arc<Known>)>>,
    working: Mutex<HashMap<BucketId, Working>>,
    looking: Mutex<Option<JoinHandle<()>>>,
    noted: Noted,
}

impl std::fmt::Debug for Replicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Replicator")
    }
}

impl Replicator {
    /// Begins. `leading` knows whether `meta` still serves, `engine` reads the objects. To be ended by [`Replicator::stop`] before
    /// `meta` is shut down.
    pub fn start(meta: Arc<Metadata>, leading: Arc<dyn Leading>, engine: Arc<Gateway>) -> Arc<Replicator> {
        let room = Arc::new(Room::new(KEYS, MEMORY));
        let applied = index::applied(&Overlay::new(&**meta.kv())).ok().map(|(lsn, _)| lsn);
        let begun = Begun { at: Instant::now(), applied };
        let (late, known, working, looking, noted) = Default::default();
        let replicator =
            Arc::new(Replicator { meta, leading, engine, room, begun, late, known, working, looking, noted });
        let weak = Arc::downgrade(&replicator);
        let task = tokio::spawn(async move {
            while let Some(replicator) = weak.upgrade() {
                if let Err(error) = replicator.look().await
                    && replicator.noted.is_news("rules")
                {
                    tracing::warn!(%error, "replication: the rules can't be looked at");
                }
                drop(replicator);
                sleep(RULES).await;
            }
        });
        *replicator.looking.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        replicator
    }

    /// Whether it copies what this service has.
    fn is_of(&self, meta: &Arc<Metadata>) -> bool {
        Arc::ptr_eq(&self.meta, meta)
    }

    /// Ends all work. What is being written is given up; the next start looks at what is there.
    pub async fn stop(&self) {
        let looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner).take();
        let working: Vec<Working> = self.working().drain().map(|(_, working)| working).collect();
        for task in looking.into_iter().chain(working.into_iter().map(|working| working.task)) {
            task.abort();
            // Aborted: there is no result.
            let _ended = task.await;
        }
    }

    fn working(&self) -> MutexGuard<'_, HashMap<BucketId, Working>> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> Overlay<'_> {
        Overlay::new(&**self.meta.kv())
    }

    /// Begins the work of new rules, and forgets that of old ones.
    async fn look(&self) -> Result<(), ReplicationError> {
        let rules = replication::rules(&self.view())?;
        for row in &rules {
            let bucket = BucketId(row.bucket);
            let at_work = self.working().get(&bucket).is_some_and(|at| at.rule == row.seq && !at.task.is_finished());
            if at_work {
                continue;
            }
            let before = self.working().remove(&bucket);
            if let Some(before) = before {
                before.task.abort();
                let _ended = before.task.await;
            }
            let copier = match self.copier(row.clone()) {
                Ok(copier) => copier,
                Err(error) => {
                    if self.noted.is_news(&row.bucket.to_string()) {
                        tracing::warn!(%error, bucket = row.bucket, "a bucket can't be replicated");
                    }
                    continue;
                }
            };
            let progress = Arc::new(Progress::new(row.bucket));
            let task = tokio::spawn(Lane::new(copier, Arc::clone(&progress)).run());
            self.working().insert(bucket, Working { rule: row.seq, task, progress });
        }
        let ended: Vec<Working> = {
            let mut working = self.working();
            let gone = |bucket: &BucketId| !rules.iter().any(|row| row.bucket == bucket.0);
            let buckets: Vec<BucketId> = working.keys().copied().filter(gone).collect();
            buckets.iter().filter_map(|bucket| working.remove(bucket)).collect()
        };
        ended.iter().for_each(|working| working.task.abort());
        let (now, ruled) = (Instant::now(), |bucket: &BucketId| rules.iter().any(|row| row.bucket == bucket.0));
        // What is being ended still holds it, and notes in it what it gives up.
        let held = |late: &Arc<Late>| Arc::strong_count(late) > 1;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|bucket, _| ruled(bucket));
        self.late().retain(|bucket, late| ruled(bucket) || held(late) || !late.is_over(now));
        self.sweep().await
    }

    /// Takes what is left of the queues of rules that are gone, a batch of each.
    async fn sweep(&self) -> Result<(), ReplicationError> {
        for bucket in replication::left_over(&self.view())? {
            let left = replication::queue(&self.view(), bucket, None, MAX_REPLICATION_KEYS)?;
            // Whatever changed last: without a rule nothing is copied.
            let done = left.into_iter().map(|(_, key)| ReplicatedKey { key, lsn: u64::MAX }).collect();
            self.commit(Command::Replicated { bucket, rule: None, done }).await?;
        }
        Ok(())
    }

    fn copier(&self, rule: ReplicationRow) -> Result<Copier, KeyError> {
        let secret = self.meta.keys().unwrap_replication(&rule)?;
        let target = Arc::new(Target::new(&rule, &secret));
        let (meta, leading) = (Arc::clone(&self.meta), Arc::clone(&self.leading));
        let (engine, room) = (Arc::clone(&self.engine), self.room.share());
        let (late, known) = (self.late_of(BucketId(rule.bucket)), self.known_of(&rule));
        Ok(Copier { meta, leading, engine, target, room, late, known, rule })
    }

    fn late(&self) -> MutexGuard<'_, HashMap<BucketId, Arc<Late>>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn late_of(&self, bucket: BucketId) -> Arc<Late> {
        Arc::clone(self.late().entry(bucket).or_insert_with(|| Arc::new(Late::new(self.begun.may_come(bucket)))))
    }

    /// Another rule may be about another bucket there.
    fn known_of(&self, rule: &ReplicationRow) -> Arc<Known> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(BucketId(rule.bucket)).or_default();
        if known.0 != rule.seq {
            *known = (rule.seq, Arc::default());
        }
        Arc::clone(&known.1)
    }

    async fn commit(&self, command: Command) -> Result<(), CommitError> {
        self.meta.commit(self.meta.epoch(), command).await.map(drop)
    }

    /// Copies a bucket from now on.
    pub(crate) async fn set(&self, question: SetQuestion) -> Result<(), ReplicationError> {
        let SetQuestion { bucket, endpoint, region, target, access_key, secret_key, .. } = question;
        let secret = Secret::new(secret_key);
        let address = endpoint.strip_prefix("https://").or(endpoint.strip_prefix("http://"));
        if address.is_none_or(|host| host.is_empty() || host.contains(['/', '?', '#', '@', ' '])) {
            return Err(ReplicationError::Wrong(
                "the endpoint must be http:// or https://, a host, and a port if wanted",
            ));
        }
        let named =
            |text: &str| !text.is_empty() && text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if ![region.as_str(), &target, &access_key, secret.expose()].into_iter().all(named) {
            return Err(ReplicationError::Wrong(
                "region, target, access key and secret key must each have 1 to 256 printable characters",
            ));
        }
        let row = index::bucket(&self.view(), &bucket)?.ok_or(ReplicationError::NoBucket(bucket))?;
        let (deletes, versions, virtual_host) = (question.deletes, question.versions, question.virtual_host);
        let mut rule = ReplicationRow {
            bucket: row.id,
            endpoint,
            region,
            target,
            access_key,
            deletes,
            versions,
            virtual_host,
            ..ReplicationRow::default()
        };
        rule.wrapped_secret = self.meta.keys().wrap_replication(&rule, &secret)?;
        if !question.unchecked {
            let target = Target::new(&rule, &secret);
            target.look().await?;
            if versions {
                target.keeps_versions().await?;
            }
        }
        Ok(self.commit(Command::SetReplication(rule)).await?)
    }

    /// The rule of a bucket; by its number, if it was deleted.
    fn rule(&self, bucket: &str) -> Result<ReplicationRow, ReplicationError> {
        let view = self.view();
        let id = match index::bucket(&view, bucket)? {
            Some(row) => Some(row.bucket_id()),
            None => bucket.parse().ok().map(BucketId),
        };
        let id = id.ok_or_else(|| ReplicationError::NoBucket(bucket.to_owned()))?;
        replication::rule(&view, id)?.ok_or_else(|| ReplicationError::NoRule(bucket.to_owned()))
    }

    /// Copies a bucket no more.
    pub(crate) async fn unset(&self, bucket: &str) -> Result<(), ReplicationError> {
        let bucket = BucketId(self.rule(bucket)?.bucket);
        Ok(self.commit(Command::UnsetReplication { bucket }).await?)
    }

    /// Lets changes of a bucket wait, or go on.
    pub(crate) async fn pause(&self, bucket: &str, paused: bool) -> Result<(), ReplicationError> {
        let bucket = BucketId(self.rule(bucket)?.bucket);
        Ok(self.commit(Command::PauseReplication { bucket, paused }).await?)
    }

    /// Compares a page of both sides.
    pub(crate) async fn verify(&self, bucket: &str, after: &str, how: How) -> Result<VerifyAnswer, ReplicationError> {
        let copier = self.copier(self.rule(bucket)?)?;
        let page = match copier.rule.versions {
            true => verify_versions::page(&copier, after, how).await,
            false => verify::page(&copier, after, how).await,
        };
        Ok(page?)
    }

    /// How it is with each rule.
    pub(crate) fn status(&self) -> Result<ReplicationAnswer, IndexError> {
        let now_ms = SystemClock::default().wall_ms();
        let mut rules = Vec::new();
        for row in replication::rules(&self.view())? {
            rules.push(self.describe(row, now_ms)?);
        }
        rules.sort_by(|a, b| a.bucket.cmp(&b.bucket));
        Ok(ReplicationAnswer { rules })
    }

    fn describe(&self, row: ReplicationRow, now_ms: u64) -> Result<RuleAnswer, IndexError> {
        let (view, bucket) = (self.view(), BucketId(row.bucket));
        let name = index::bucket_by_id(&view, bucket)?.map_or_else(|| row.bucket.to_string(), |row| row.name);
        let oldest = match replication::queue(&view, bucket, None, 1)?.pop() {
            Some((_, key)) => replication::waiting(&view, bucket, &key)?.map(|row| row.since_ms),
            None => None,
        };
        // What the bucket held when the rule was set lacks since then.
        let since = oldest.into_iter().chain(Some(row.set_ms).filter(|_| !row.walked)).min();
        let counts = self.working().get(&bucket).map(|working| working.progress.now()).unwrap_or_default();
        let waiting = replication::length(&view, bucket)?;
        let state = match (row.paused, counts.failing.is_empty(), waiting > 0 || !row.walked) {
            (true, _, _) => "paused",
            (false, false, _) => "failing",
            (false, true, true) => "copying",
            (false, true, false) => "idle",
        };
        Ok(RuleAnswer {
            bucket: name,
            endpoint: row.endpoint,
            region: row.region,
            target: row.target,
            access_key: row.access_key,
            deletes: row.deletes,
            versions: row.versions,
            state: state.to_owned(),
            walked: row.walked,
            waiting,
            lag_seconds: since.map_or(0, |since| now_ms.saturating_sub(since) / 1000),
            failing: counts.failing.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect(),
            error: counts.error,
            copied: counts.copied,
            copied_bytes: counts.bytes,
            deleted: counts.deleted,
            same: counts.same,
        })
    }
}

/// What somebody should look at.
pub(crate) fn warnings(answer: &ReplicationAnswer) -> Vec<String> {
    let line = |rule: &RuleAnswer| {
        let RuleAnswer { bucket, waiting, lag_seconds, error, .. } = rule;
        let why = if error.is_empty() { String::new() } else { format!("; last: {error}") };
        format!("the copy of bucket {bucket} is {} min behind, {waiting} keys wait{why}", lag_seconds / 60)
    };
    answer.rules.iter().filter(|rule| rule.state != "paused" && rule.lag_seconds > BEHIND).map(line).collect()
}
