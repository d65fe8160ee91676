//! Carrying out a plan: an order to the node, and the row changed once every target is durable and was read back.
//!
//! Order, and what a crash between two steps leaves:
//! 1. what is said to be missing or damaged is looked at once more, from the medium: nothing;
//! 2. the node rebuilds the shards, writes them, and reads them back: orphans, which reclaim collects;
//! 3. the row is changed, if it is still the one that the plan was made from: the stripe is at full strength.
//!
//! Nothing is deleted (R13): the copy that a shard leaves behind stays where it is, and so does what a failed order wrote.

use super::plan::{RepairItem, Target};
use crate::client::CommitError;
use crate::command::{Command, Refusal, ShardMove};
use crate::commit::Request;
use crate::index::{self, IndexError, Overlay};
use crate::journal::read_in_time;
use crate::keep::LONG_WORK;
use crate::lookup;
use crate::service::Shared;
use crate::stripe_writer::StripeWriter;
use codec::effect::StripeRow;
use codec::id::{DriveId, Epoch, ShardId};
use codec::stripe::StripeDescriptor;
use storage_node::client::{ReadError, WriteError};
use storage_node::keep::{FindingKind, RebuildError, RebuildOrder, Rebuilt, ShardRef};
use storage_node::sabotage::Sabotage;
use tokio::sync::{mpsc, oneshot};

/// What came of one item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    /// What was read and written.
    pub rebuilt: Rebuilt,
    /// Shards that are good where the row now names them: rebuilt, or found to be good after all.
    pub good: Vec<(DriveId, ShardId)>,
    /// Shards that were rebuilt.
    pub shards: u64,
    /// Sources that turned out to be bad.
    pub bad: Vec<(DriveId, ShardId, FindingKind)>,
    /// A drive that did not take its shard, or did not give it back.
    pub avoid: Option<DriveId>,
    /// Why nothing was changed.
    pub failed: Option<Failure>,
}

/// Why an item came to nothing. The stripe is planned again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The row changed since it was planned.
    #[error("the stripe was changed meanwhile")]
    Changed,
    /// The node could not rebuild.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// The shards are there, and the row was not changed.
    #[error("the move was not committed: {0}")]
    Commit(String),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Carries out items.
pub struct Executor<'a> {
    /// Drives and index.
    pub shared: &'a Shared,
    /// The committer.
    pub requests: &'a mpsc::Sender<Request>,
    /// Knows the epoch that is held.
    pub stripes: &'a StripeWriter,
}

impl Executor<'_> {
    /// Carries out one item.
    pub async fn carry_out(&self, item: &RepairItem) -> Done {
        let mut done = Done::default();
        if let Err(failure) = self.steps(item, &mut done).await {
            done.failed = Some(failure);
        }
        done
    }

    async fn steps(&self, item: &RepairItem, done: &mut Done) -> Result<(), Failure> {
        // Until the commit is answered: what is written by this order is of nobody till then, and must not be collected.
        let _claim = self.shared.claims.claim(item.stripe).ok_or(Failure::Changed)?;
        let descriptor = self.descriptor(item)?;
        let mut targets = item.targets.clone();
        self.look_again(item, &descriptor, &mut targets, done).await;
        if targets.is_empty() {
            return Ok(());
        }
        let order = RebuildOrder {
            descriptor,
            sources: item.sources.clone(),
            targets: targets.iter().map(|target| (target.index, target.to)).collect(),
            bytes_per_second: 0,
            at: Vec::new(),
        };
        done.rebuilt = match self.shared.node.rebuild(order).await {
            Ok(rebuilt) => rebuilt,
            Err(error) => {
                learn(item, &error, done);
                return Err(error.into());
            }
        };
        self.commit(item, &targets).await?;
        done.shards = targets.len() as u64;
        done.good.extend(targets.iter().map(|target| (target.to, shard(item, target))));
        Ok(())
    }

    /// The stripe's descriptor, if its shards still lie where the plan has them.
    fn descriptor(&self, item: &RepairItem) -> Result<StripeDescriptor, Failure> {
        let row: StripeRow = index::stripe(&Overlay::new(&*self.shared.kv), item.stripe)?.ok_or(Failure::Changed)?;
        let mut as_planned = item.targets.iter().all(|target| row.drive(target.index) == target.from);
        as_planned &= item.sources.iter().all(|(index, drive)| row.drive(*index) == Some(*drive));
        if !as_planned {
            return Err(Failure::Changed);
        }
        Ok(lookup::descriptor(item.stripe, &row)?)
    }

    /// Step 1. A shard that verifies from the medium needs nothing: the finding was old, or the drive has come back.
    async fn look_again(
        &self,
        item: &RepairItem,
        descriptor: &StripeDescriptor,
        targets: &mut Vec<Target>,
        done: &mut Done,
    ) {
        let blind = self.shared.sabotage.is(Sabotage::SuspectCheck);
        let mut left = Vec::with_capacity(targets.len());
        for target in targets.drain(..) {
            let id = shard(item, &target);
            if let Some(drive) = target.from.filter(|_| target.suspect && !blind) {
                let asked = vec![ShardRef { id, root: descriptor.root() }];
                let answer = read_in_time(drive, LONG_WORK, self.shared.node.verify_shards(drive, asked)).await;
                if answer.is_ok_and(|answers| answers.first().is_some_and(Result::is_ok)) {
                    done.good.push((drive, id));
                    continue;
                }
            }
            left.push(target);
        }
        *targets = left;
    }

    /// Step 3.
    async fn commit(&self, item: &RepairItem, targets: &[Target]) -> Result<(), Failure> {
        let moved = targets.iter().filter(|target| target.from != Some(target.to));
        let moves: Vec<ShardMove> =
            moved.map(|target| ShardMove { index: target.index, from: target.from, to: target.to }).collect();
        if moves.is_empty() {
            return Ok(());
        }
        let command = Command::MoveShards { stripe: item.stripe, moves };
        match commit(self.requests, self.stripes.epoch(), command).await {
            Ok(()) => Ok(()),
            Err(CommitError::Refused(Refusal::StripeChanged(_))) => Err(Failure::Changed),
            Err(error) => Err(Failure::Commit(error.to_string())),
        }
    }
}

/// Commits a command of this start.
pub(super) async fn commit(
    requests: &mpsc::Sender<Request>,
    epoch: Epoch,
    command: Command,
) -> Result<(), CommitError> {
    let stopping = || CommitError::Unavailable { reason: "the service is stopping".to_owned() };
    let (reply, answer) = oneshot::channel();
    requests.send(Request::Commit(epoch, Box::new(command), reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?.map(drop)
}

fn shard(item: &RepairItem, target: &Target) -> ShardId {
    ShardId { stripe: item.stripe, index: target.index }
}

/// What an order that failed says about drives and shards.
fn learn(item: &RepairItem, error: &RebuildError, done: &mut Done) {
    match error {
        RebuildError::TooFewSources { bad, .. } => {
            for (index, drive, error) in bad {
                let id = ShardId { stripe: item.stripe, index: *index };
                done.bad.extend(kind_of(error).map(|kind| (*drive, id, kind)));
            }
        }
        // A full drive is seen as such with the next look.
        RebuildError::Target { error: WriteError::Full { .. }, .. } => {}
        RebuildError::Target { drive, .. } | RebuildError::ReadBack { drive, .. } => done.avoid = Some(*drive),
        RebuildError::Inconsistent(_) | RebuildError::Malformed(_) => {}
    }
}

/// What is wrong with a shard that was not read so; `None` when it is the drive that can't be asked.
fn kind_of(error: &ReadError) -> Option<FindingKind> {
    match error {
        ReadError::NotFound => Some(FindingKind::Missing),
        ReadError::Damaged { .. } | ReadError::OutOfRange { .. } => Some(FindingKind::Damaged),
        ReadError::WrongStripe => Some(FindingKind::WrongGeneration),
        ReadError::DriveFailed { .. } | ReadError::UnknownDrive(_) | ReadError::Unreachable | ReadError::Later(_) => {
            None
        }
    }
}
