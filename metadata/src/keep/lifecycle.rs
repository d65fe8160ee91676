//! Lifecycle: what the rules of buckets say is done, by the leader, once in each day.
//!
//! Invariants:
//! * A rule deletes what the one who set it could have deleted, and nothing more: each step is a command like a client's, so a lock
//!   keeps a version from it (no rule bypasses governance), and a replica, an audit and a rebuild see what they see of any delete.
//! * A page is a plan, and each step of it is judged again when it is decided ([`Command::FollowRules`]). What changed since it was looked
//!   at, the rules included, is left out, and looked at again a day later.
//! * The time is the earlier of the retention clock and the machine's (R15): a clock that was set forward, on a gateway or here,
//!   expires nothing.
//! * Nothing is done by rules while reclaim is held (R10): they must not go over a state that somebody may still put right. Restores are
//!   finished then, too: they delete nothing, and after a disaster somebody wants to look at what is archived.
//! * A restore counts its days from the later of the two clocks, for gateways judge by the machine's whether it is over: with a retention
//!   clock that lags for good it would be over before it began.
//! * How far a pass is survives a restart to the minute; a pass that is done again does nothing twice.

mod place;
mod status;
mod walk;

use self::place::{Pass, SETTING, Stage};
use self::status::Shown;
pub use self::status::{LISTED, LifecycleStatus, Unfollowed};
use self::walk::{Cursor, Judge, Page};
use crate::audit::AskedBy;
use crate::client::CommitError;
use crate::clock::{Entropy, RetentionClock, random};
use crate::command::{ChangeVersion, Command, FollowRules, Named, Outcome, Refusal, RuleStep, VersionChange};
use crate::commit::Request;
use crate::index::access::buckets_with;
use crate::index::versions::{restoring, version_at};
use crate::index::{self, IndexError, Overlay};
use crate::lifecycle::{LifecycleError, calendar, restore_of, restore_row, rules_of};
use crate::service::Shared;
use crate::stripe_writer::StripeWriter;
use access::lifecycle::plan::{Action, Calendar};
use access::lifecycle::restore;
use bytes::Bytes;
use codec::effect::{BucketConfigRow, ConfigKind, SettingRow, UploadName};
use codec::id::{BucketId, Lsn};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// Rows of one page.
const PAGE: usize = 1000;
/// Versions that one command deletes.
const BATCH: usize = 500;
/// Restores that are read at a time.
const RESTORES: usize = 1000;
/// How far a pass is is journaled so often.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// Between two pages: as long as the one before took, within this.
const REST: Duration = Duration::from_millis(200);
/// A round works on a pass for as long, and then looks after restores.
const ROUND: Duration = Duration::from_secs(10);
/// Buckets whose rules are compared with what the last pass knew, at a time.
const BUCKETS_PAGE: usize = 1000;

/// How the lane works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifecycleConfig {
    /// It looks this often whether a pass is due and a restore was asked for; `None`: only when it is asked to. With short days more often.
    pub every: Option<Duration>,
    /// How long a day is: 24 hours, but in tests.
    pub day: Duration,
}

impl Default for LifecycleConfig {
    fn default() -> LifecycleConfig {
        LifecycleConfig { every: Some(Duration::from_secs(60)), day: Duration::from_secs(24 * 3600) }
    }
}

impl LifecycleConfig {
    /// How rules count days.
    pub fn calendar(&self) -> Calendar {
        calendar(self.day)
    }

    fn pause(&self) -> Option<Duration> {
        self.every.map(|every| every.min(self.day / 10).max(Duration::from_millis(100)))
    }
}

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifecycleReport {
    /// Current versions that expired, under a delete marker or for good.
    pub expired: u64,
    /// Versions and delete markers that were deleted for good besides.
    pub deleted: u64,
    /// Versions that moved to another storage class.
    pub moved: u64,
    /// Uploads that were dropped.
    pub aborted: u64,
    /// Versions that a lock keeps, though a rule would have them gone.
    pub locked: u64,
    /// What had changed meanwhile: looked at again by the next pass.
    pub skipped: u64,
    /// Restores that were finished.
    pub restored: u64,
    /// Versions that were looked at.
    pub looked: u64,
    /// Nothing was done, because reclaim is held.
    pub held: bool,
    /// The pass is not over.
    pub more: bool,
}

impl LifecycleReport {
    fn count(&mut self, step: &RuleStep, result: Result<&(), &Refusal>) {
        match (result, step.action) {
            (Ok(()), Action::Expire) => self.expired += 1,
            (Ok(()), Action::Delete) if step.noncurrent_ms.is_none() => self.expired += 1,
            (Ok(()), Action::Delete) => self.deleted += 1,
            (Ok(()), Action::Move(_)) => self.moved += 1,
            (Err(Refusal::Locked(_)), _) => self.locked += 1,
            (Err(_), _) => self.skipped += 1,
        }
    }

    fn changed(&self) -> bool {
        self.expired + self.deleted + self.moved + self.aborted + self.restored > 0
    }
}

/// Why a round ended early. The next one goes on where it was.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleFailure {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A change was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The system has no random numbers, which ids of delete markers need.
    #[error("the system has no random numbers")]
    Entropy,
    /// Reclaim is held since.
    #[error("reclaim is held")]
    Held,
    /// The committer has ended, or a thread.
    #[error("the service is stopping")]
    Stopping,
}

/// What the lane is made of.
pub struct LifecycleParts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) stripes: Arc<StripeWriter>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) retention: RetentionClock,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// How it works.
    pub config: LifecycleConfig,
}

/// Follows the rules of buckets.
pub struct Lifecycle {
    parts: LifecycleParts,
    work: tokio::sync::Mutex<Option<Pass>>,
    shown: Mutex<Shown>,
}

impl fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifecycle").field("config", &self.parts.config).finish_non_exhaustive()
    }
}

impl Lifecycle {
    /// A lane that has not looked yet.
    pub fn new(parts: LifecycleParts) -> Arc<Lifecycle> {
        Arc::new(Lifecycle { parts, work: tokio::sync::Mutex::new(None), shown: Mutex::default() })
    }

    /// How it is, and what was done since the start.
    pub fn status(&self) -> LifecycleStatus {
        self.shown().status()
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How days are counted.
    pub fn calendar(&self) -> Calendar {
        self.parts.config.calendar()
    }

    /// Rounds, one after the other, until the task is ended.
    pub async fn run(self: Arc<Self>) {
        let Some(pause) = self.parts.config.pause() else { return };
        loop {
            sleep(pause).await;
            while match self.round().await {
                Ok(report) => report.more,
                Err(error) => {
                    tracing::warn!(%error, "lifecycle ended early, and goes on later");
                    false
                }
            } {}
        }
    }

    /// One round: finishes restores, and works on a pass if one is due.
    pub async fn round(&self) -> Result<LifecycleReport, LifecycleFailure> {
        let mut work = self.work.lock().await;
        let mut report = LifecycleReport::default();
        let result = self.steps(&mut work, &mut report).await;
        if report.changed() {
            tracing::info!(?report, "lifecycle");
        }
        self.shown().end_round(&report, result.as_ref().err().map(ToString::to_string));
        result.map(|()| report)
    }

    /// The earlier of the two clocks, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        let clock = &*self.parts.shared.clock;
        self.parts.retention.tick(clock).retention_ms.min(clock.wall_ms())
    }

    /// The later of the two clocks, in milliseconds since the Unix epoch.
    fn later_ms(&self) -> u64 {
        let clock = &*self.parts.shared.clock;
        self.parts.retention.tick(clock).retention_ms.max(clock.wall_ms())
    }

    fn view(&self) -> Overlay<'_> {
        Overlay::new(&*self.parts.shared.kv)
    }

    async fn steps(&self, work: &mut Option<Pass>, report: &mut LifecycleReport) -> Result<(), LifecycleFailure> {
        self.restores(report).await?;
        if index::reclaim::hold(&self.view())?.is_some() {
            report.held = true;
            return Ok(());
        }
        let pass = match work.take() {
            Some(pass) => pass,
            None => Pass::load(&self.view())?,
        };
        let day_ms = self.parts.config.calendar().day_ms;
        self.shown().see_pass(pass.day.saturating_mul(day_ms), pass.is_open());
        let Some(mut pass) = self.due(pass)? else { return Ok(()) };
        self.shown().see_pass(pass.day.saturating_mul(day_ms), true);
        let result = self.work_on(&mut pass, report).await;
        report.held = matches!(result, Err(LifecycleFailure::Held));
        report.more = pass.is_open() && result.is_ok();
        self.shown().worked(report, pass.is_open(), self.parts.shared.clock.wall_ms());
        *work = Some(pass);
        if report.held { Ok(()) } else { result }
    }

    /// The pass to work on: the one that is open, or a new one if there is a new day or a new rule. `None`: nothing is due.
    fn due(&self, pass: Pass) -> Result<Option<Pass>, LifecycleFailure> {
        if pass.is_open() {
            return Ok(Some(pass));
        }
        let day = self.now_ms() / self.parts.config.calendar().day_ms;
        self.look_again()?;
        let view = self.view();
        let began = index::applied(&view)?.0;
        let look = !self.shown().looked;
        let mut after = None;
        loop {
            let configs = buckets_with(&view, ConfigKind::Lifecycle, after, BUCKETS_PAGE)?;
            if day > pass.day && !configs.is_empty() || configs.iter().any(|config| Lsn(config.seq) > pass.began) {
                self.shown().begin_pass();
                return Ok(Some(Pass::begin(day, began)));
            }
            // A pass meets all of them, but after a start there may be none for a day.
            if look {
                configs.iter().try_for_each(|config| self.judge(config).map(drop))?;
            }
            match configs.last().and_then(|config| config.name.as_ref()) {
                Some(name) if configs.len() == BUCKETS_PAGE => after = Some(BucketId(name.bucket)),
                _ => break,
            }
        }
        self.shown().looked = true;
        Ok(None)
    }

    /// Looks at the rules that could not be followed: they may have been changed, or be gone, and their buckets with them.
    fn look_again(&self) -> Result<(), LifecycleFailure> {
        let listed = self.shown().unfollowed();
        for bucket in listed {
            match index::access::bucket_config(&self.view(), bucket, ConfigKind::Lifecycle, "")? {
                Some(config) => drop(self.judge(&config)?),
                None => self.shown().can_follow(bucket),
            }
        }
        Ok(())
    }

    async fn work_on(&self, pass: &mut Pass, report: &mut LifecycleReport) -> Result<(), LifecycleFailure> {
        let (began, mut noted) = (Instant::now(), Instant::now());
        while pass.is_open() && began.elapsed() < ROUND {
            let page_began = Instant::now();
            let rows = self.page(pass, report).await?;
            if noted.elapsed() >= NOTE_EVERY || !pass.is_open() {
                self.note(pass).await?;
                noted = Instant::now();
            }
            // Buckets with little in them cost little: with rests between all of them a pass over many would take its day.
            if rows >= PAGE / 10 {
                sleep(page_began.elapsed().min(REST)).await;
            }
        }
        if pass.is_open() && pass.noted.elapsed() >= NOTE_EVERY {
            self.note(pass).await?;
        }
        Ok(())
    }

    async fn note(&self, pass: &mut Pass) -> Result<(), LifecycleFailure> {
        let row = SettingRow { name: SETTING.to_owned(), value: Bytes::from(pass.to_string()) };
        self.commit(Command::PutSetting(row)).await?;
        pass.noted = Instant::now();
        Ok(())
    }

    /// A page of versions or uploads of the pass's bucket; goes to the next bucket after the last. How many rows it had.
    async fn page(&self, pass: &mut Pass, report: &mut LifecycleReport) -> Result<usize, LifecycleFailure> {
        let config = match pass.bucket.filter(|_| pass.stage != Stage::Done) {
            Some(bucket) => index::access::bucket_config(&self.view(), bucket, ConfigKind::Lifecycle, "")?,
            None => None,
        };
        let Some(judge) = config.map(|config| self.judge(&config)).transpose()?.flatten() else {
            let next = buckets_with(&self.view(), ConfigKind::Lifecycle, pass.bucket, 1)?.pop();
            pass.go_to(next.and_then(|config| config.name).map(|name| BucketId(name.bucket)));
            return Ok(0);
        };
        let (kv, cursor, stage) = (self.parts.shared.kv.clone(), pass.cursor.clone(), pass.stage);
        let bucket = judge.bucket.bucket_id();
        let read = tokio::task::spawn_blocking(move || {
            let view = Overlay::new(&*kv);
            match stage {
                Stage::Versions => judge.versions(&view, cursor, PAGE).map(Found::Versions),
                Stage::Uploads | Stage::Done => judge.uploads(&view, cursor, PAGE).map(Found::Uploads),
            }
        });
        let rows;
        match read.await.map_err(|_| LifecycleFailure::Stopping)?? {
            Found::Versions(page) => {
                rows = page.rows;
                report.looked += page.rows as u64;
                self.carry_out(bucket, page.found, report).await?;
                pass.advance(page.next);
            }
            Found::Uploads(page) => {
                rows = page.rows;
                self.abort(bucket, &page.found, report).await?;
                pass.advance(page.next);
            }
        }
        Ok(rows)
    }

    /// `None`: the bucket is gone, or its rules can't be followed.
    fn judge(&self, config: &BucketConfigRow) -> Result<Option<Judge>, LifecycleFailure> {
        let id = config.name.as_ref().map_or(BucketId(0), |name| BucketId(name.bucket));
        let Some(bucket) = index::bucket_by_id(&self.view(), id)? else {
            self.shown().can_follow(id);
            return Ok(None);
        };
        match rules_of(&config.body) {
            Ok(rules) => {
                self.shown().can_follow(id);
                Ok(Some(Judge { bucket, rules, calendar: self.parts.config.calendar(), now_ms: self.now_ms() }))
            }
            Err(error) => {
                self.warn(id, &bucket.name, &error);
                Ok(None)
            }
        }
    }

    fn warn(&self, id: BucketId, bucket: &str, error: &LifecycleError) {
        if self.shown().cannot_follow(id, bucket, error.to_string()) {
            tracing::error!(bucket, %error, "the lifecycle of a bucket can't be followed");
        }
    }

    async fn carry_out(
        &self,
        bucket: BucketId,
        found: Vec<RuleStep>,
        report: &mut LifecycleReport,
    ) -> Result<(), LifecycleFailure> {
        let (moves, deletes): (Vec<RuleStep>, Vec<RuleStep>) =
            found.into_iter().partition(|step| matches!(step.action, Action::Move(_)));
        for batch in deletes.chunks(BATCH).chain(moves.chunks(BATCH)) {
            self.follow(bucket, batch, report).await?;
        }
        Ok(())
    }

    /// Asks for steps. What is too much for one entry is halved.
    async fn follow(
        &self,
        bucket: BucketId,
        steps: &[RuleStep],
        report: &mut LifecycleReport,
    ) -> Result<(), LifecycleFailure> {
        let mut waiting = vec![steps];
        while let Some(batch) = waiting.pop() {
            match self.ask(bucket, batch.to_vec(), Vec::new()).await? {
                Asked::Each(results) => {
                    batch.iter().zip(&results).for_each(|(step, result)| report.count(step, result.as_ref()));
                }
                Asked::TooLarge if batch.len() > 1 => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    waiting.extend([second, first]);
                }
                // The bucket is gone, or its rules are.
                Asked::TooLarge | Asked::Refused => report.skipped += batch.len() as u64,
            }
        }
        Ok(())
    }

    async fn abort(
        &self,
        bucket: BucketId,
        uploads: &[UploadName],
        report: &mut LifecycleReport,
    ) -> Result<(), LifecycleFailure> {
        let mut waiting: Vec<&[UploadName]> = uploads.chunks(BATCH).collect();
        while let Some(batch) = waiting.pop() {
            match self.ask(bucket, Vec::new(), batch.to_vec()).await? {
                Asked::Each(results) => {
                    let aborted = results.iter().filter(|result| result.is_ok()).count() as u64;
                    report.aborted += aborted;
                    report.skipped += batch.len() as u64 - aborted;
                }
                Asked::TooLarge if batch.len() > 1 => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    waiting.extend([second, first]);
                }
                Asked::TooLarge | Asked::Refused => report.skipped += batch.len() as u64,
            }
        }
        Ok(())
    }

    async fn ask(
        &self,
        bucket: BucketId,
        steps: Vec<RuleStep>,
        uploads: Vec<UploadName>,
    ) -> Result<Asked, LifecycleFailure> {
        let nonce = random(&*self.parts.entropy).ok_or(LifecycleFailure::Entropy)?;
        let (now_ms, due_ms) = (self.parts.shared.clock.wall_ms(), self.now_ms());
        let calendar = self.parts.config.calendar();
        let follow = FollowRules { bucket, steps, uploads, nonce, now_ms, due_ms, calendar };
        match self.commit(Command::FollowRules(follow)).await {
            Ok(Outcome::RulesFollowed(results)) => Ok(Asked::Each(results)),
            Ok(_) => Ok(Asked::Refused),
            Err(LifecycleFailure::Commit(CommitError::Refused(refusal))) => match refusal {
                Refusal::TooLarge => Ok(Asked::TooLarge),
                Refusal::ReclaimHeld(_) => Err(LifecycleFailure::Held),
                _ => Ok(Asked::Refused),
            },
            Err(error) => Err(error),
        }
    }

    /// Finishes restores: what is archived is on the drives like everything else, so all that a restore waits for is this round.
    async fn restores(&self, report: &mut LifecycleReport) -> Result<(), LifecycleFailure> {
        let (began, mut after) = (Instant::now(), None);
        while began.elapsed() < ROUND {
            let page = restoring(&self.view(), after.as_ref(), RESTORES)?;
            let Some(last) = page.last().cloned() else { break };
            for (bucket, key, seq) in page {
                self.restore(bucket, key, seq, report).await?;
            }
            after = Some(last);
        }
        Ok(())
    }

    async fn restore(
        &self,
        bucket: BucketId,
        key: String,
        seq: Lsn,
        report: &mut LifecycleReport,
    ) -> Result<(), LifecycleFailure> {
        let Some(row) = version_at(&self.view(), bucket, &key, seq)? else { return Ok(()) };
        let to = restore_row(restore::done(restore_of(&row), self.parts.config.calendar(), self.later_ms()));
        let change = VersionChange::Restore { from: row.restore, to };
        let named = named(&row.version_id);
        let change = ChangeVersion { bucket, key, named, change, bypass: false, seq: Some(seq) };
        match self.commit(Command::ChangeVersion(change)).await {
            Ok(_) => report.restored += 1,
            Err(LifecycleFailure::Commit(CommitError::Refused(_))) => report.skipped += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn commit(&self, command: Command) -> Result<Outcome, LifecycleFailure> {
        let shared = &self.parts.shared;
        let told = shared.audit.about(&command, &self.view());
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit(self.parts.stripes.epoch(), Box::new(command), reply);
        self.parts.requests.send(request).await.map_err(|_| LifecycleFailure::Stopping)?;
        let answer = answer.await.map_err(|_| LifecycleFailure::Stopping)?;
        let by = AskedBy { by: "the bucket's rules".to_owned(), ..AskedBy::default() };
        shared.note(told, &by, answer.as_ref().map_err(ToString::to_string));
        Ok(answer?)
    }
}

/// What came of asking for steps.
enum Asked {
    /// Of each.
    Each(Vec<Result<(), Refusal>>),
    /// Half of them may be asked for.
    TooLarge,
    /// None of them can be done: the bucket is gone, or its rules are.
    Refused,
}

/// What a page found.
enum Found {
    Versions(Page<RuleStep>),
    Uploads(Page<UploadName>),
}

fn named(version_id: &str) -> Named {
    if version_id.is_empty() { Named::Null } else { Named::Id(version_id.to_owned()) }
}

/// What a pass over a bucket would ask for, page by page.
#[cfg(test)]
pub(crate) fn commands(
    view: &dyn index::View,
    bucket: codec::effect::BucketRow,
    rules: Vec<access::lifecycle::rule::Rule>,
    now_ms: u64,
) -> Result<Vec<Command>, IndexError> {
    let id = bucket.bucket_id();
    let judge = Judge { bucket, rules, calendar: Calendar::default(), now_ms };
    let (mut commands, mut cursor) = (Vec::new(), Some(Cursor::default()));
    while let Some(from) = cursor {
        let page = judge.versions(view, from, 4)?;
        let (uploads, calendar) = (Vec::new(), Calendar::default());
        let (bucket, steps, nonce) = (id, page.found, [3; 8]);
        commands.push(Command::FollowRules(FollowRules {
            bucket,
            steps,
            uploads,
            nonce,
            now_ms,
            due_ms: now_ms,
            calendar,
        }));
        cursor = page.next;
    }
    Ok(commands)
}

impl LifecycleReport {
    fn add(&mut self, round: &LifecycleReport) {
        self.expired += round.expired;
        self.deleted += round.deleted;
        self.moved += round.moved;
        self.aborted += round.aborted;
        self.locked += round.locked;
        self.skipped += round.skipped;
        self.restored += round.restored;
        self.looked += round.looked;
        (self.held, self.more) = (round.held, round.more);
    }
}
