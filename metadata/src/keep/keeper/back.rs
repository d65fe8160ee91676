//! Drives that are back: what they hold is verified before it counts again, beside everything else that the keeper does.
//!
//! Invariants
//! * One step at a time for each drive, and of [`AT_ONCE`] drives at most: its answers count only if the drive is still as it was
//!   when they were asked for.
//! * A step that does not end holds up no round, and no other drive. A drive of which nothing could be verified for
//!   [`VERIFY_WITHIN_MS`] counts as silent, and what it should hold is rebuilt elsewhere.
//!
//! [`VERIFY_WITHIN_MS`]: crate::keep::watch::VERIFY_WITHIN_MS

use super::round::{Now, STRIPES_END, WALK_STEP};
use super::{KeepError, Keeper, Work};
use crate::index::{self, Overlay, STRIPES, View};
use crate::journal::read_in_time;
use crate::keep::LONG_WORK;
use crate::keep::wounds::Wrong;
use crate::lookup;
use codec::effect::StripeRow;
use codec::id::{DriveId, ShardId, StripeId};
use std::collections::BTreeMap;
use std::time::Duration;
use storage_node::client::ReadError;
use storage_node::keep::{Finding, ShardRef};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// Percent of its time that a drive which is back gives to being verified.
const VERIFY_SHARE: u8 = 40;
/// Drives that are verified at a time.
const AT_ONCE: usize = 8;
/// How long a round waits for the steps that it has begun; later rounds take up what came of the others.
const WAIT: Duration = Duration::from_millis(500);

type Answers = Result<Vec<Result<(), Finding>>, ReadError>;

/// The drives that are being verified.
pub(super) type Verifying = BTreeMap<DriveId, Step>;

/// Some shards of a drive.
#[derive(Debug)]
struct Part {
    shards: Vec<ShardRef>,
    bytes: u64,
    /// The last stripe that was looked at.
    upto: Option<StripeId>,
    /// That was all.
    ended: bool,
}

/// The verification of some shards of a drive; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Step {
    part: Part,
    /// How often the drive had been opened, and up to where it was verified.
    from: (u32, Option<StripeId>),
    began_ms: u64,
    task: JoinHandle<Answers>,
}

impl Drop for Step {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Goes on verifying the drives that are back.
    pub(super) async fn verify_back(&self, work: &mut Work, now: &Now) -> Result<(), KeepError> {
        let back: BTreeMap<DriveId, Option<StripeId>> = work.drives.back().into_iter().collect();
        let drives = &work.drives;
        let is_same = |drive: DriveId, step: &Step| {
            back.get(&drive).is_some_and(|verified| step.from == (drives.opened(drive), *verified))
        };
        // It went again meanwhile: what it says now is of no interest.
        let over = work.verifying.iter().filter(|(drive, step)| !is_same(**drive, step));
        let over: Vec<DriveId> = over.map(|(drive, _)| *drive).collect();
        for drive in over {
            self.end_step(work, drive);
        }
        let until = Instant::now() + WAIT;
        let mut begun = Vec::new();
        for (drive, verified) in back {
            if work.verifying.len() < AT_ONCE && !work.verifying.contains_key(&drive) {
                begun.extend(self.begin_step(work, drive, verified, now.ms)?);
            }
        }
        let mut ended = BTreeMap::new();
        for drive in begun {
            if let Some(step) = work.verifying.get_mut(&drive)
                && let Ok(answers) = timeout_at(until, &mut step.task).await
            {
                ended.insert(drive, answers.unwrap_or(Err(ReadError::Unreachable)));
            }
        }
        for (drive, step) in work.verifying.iter_mut().filter(|(_, step)| step.task.is_finished()) {
            if !ended.contains_key(drive) {
                ended.insert(*drive, (&mut step.task).await.unwrap_or(Err(ReadError::Unreachable)));
            }
        }
        for (drive, answers) in ended {
            if let Some(step) = self.end_step(work, drive) {
                self.take_up(work, drive, &step, answers)?;
            }
        }
        Ok(())
    }

    /// Begins with the next shards of a drive, if it has time for them now.
    fn begin_step(
        &self,
        work: &mut Work,
        drive: DriveId,
        verified: Option<StripeId>,
        now_ms: u64,
    ) -> Result<Option<DriveId>, KeepError> {
        let part = self.next_on(drive, verified)?;
        if !work.lanes.start(&[(drive, part.bytes)], VERIFY_SHARE, now_ms) {
            return Ok(None);
        }
        let (node, shards) = (self.parts.shared.node.clone(), part.shards.clone());
        let task = tokio::spawn(async move {
            match shards.is_empty() {
                true => Ok(Vec::new()),
                false => read_in_time(drive, LONG_WORK, node.verify_shards(drive, shards)).await,
            }
        });
        let from = (work.drives.opened(drive), verified);
        work.verifying.insert(drive, Step { part, from, began_ms: now_ms, task });
        Ok(Some(drive))
    }

    fn end_step(&self, work: &mut Work, drive: DriveId) -> Option<Step> {
        let step = work.verifying.remove(&drive)?;
        work.lanes.finish(&[(drive, step.part.bytes)]);
        Some(step)
    }

    /// Takes in what came of a step.
    fn take_up(&self, work: &mut Work, drive: DriveId, step: &Step, answers: Answers) -> Result<(), KeepError> {
        let now_ms = self.now_ms();
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                tracing::warn!(%drive, %error, "a drive that is back could not be verified");
                work.drives.not_verified(drive, step.began_ms, now_ms);
                return Ok(());
            }
        };
        for (shard, answer) in step.part.shards.iter().zip(answers) {
            match answer {
                Ok(()) => work.findings.mended(drive, shard.id),
                Err(finding) => {
                    let wrong = Wrong { kind: finding.kind, since_ms: finding.found_ms.min(now_ms) };
                    work.findings.met(drive, shard.id, wrong);
                }
            }
        }
        if let Some(upto) = step.part.upto {
            work.drives.verified(drive, Some(upto));
        }
        if step.part.ended {
            tracing::info!(%drive, "a drive that was silent is back, and verified");
            work.drives.verified(drive, None);
            work.queue.wake();
        }
        for shard in &step.part.shards {
            self.judge(work, shard.id.stripe, now_ms)?;
        }
        Ok(())
    }

    /// The next shards that rows name on a drive.
    fn next_on(&self, drive: DriveId, after: Option<StripeId>) -> Result<Part, KeepError> {
        let start = after.map_or_else(Vec::new, |id| [&id.to_bytes()[..], &[0]].concat());
        let count = self.parts.config.walk_rows.clamp(1, 16 * WALK_STEP);
        let rows = Overlay::new(&*self.parts.shared.kv).rows(STRIPES, &start, &STRIPES_END, count)?;
        let mut part = Part { shards: Vec::new(), bytes: 0, upto: after, ended: rows.len() < count };
        for (key, value) in rows {
            if part.shards.len() >= self.parts.config.verify_shards.max(1) {
                return Ok(Part { ended: false, ..part });
            }
            let Some(id) = StripeId::from_slice(&key) else { continue };
            part.upto = Some(id);
            let Ok(row) = index::decode::<StripeRow>(STRIPES, &key, value) else { continue };
            let Ok(descriptor) = lookup::descriptor(id, &row) else { continue };
            for index in (0..descriptor.width()).filter(|&index| row.drive(index) == Some(drive)) {
                part.shards.push(ShardRef { id: ShardId { stripe: id, index }, root: descriptor.root() });
                part.bytes += u64::from(descriptor.shard_len(index));
            }
        }
        Ok(part)
    }
}
