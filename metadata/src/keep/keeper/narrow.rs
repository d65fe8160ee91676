//! Ledger and checkpoint stripes that find no drive for a lost shard are written again narrower (section "repair" of
//! docs/ARCHITECTURE.md); those of data are restriped by frames ([`crate::keep::restripe`]).
//!
//! A ledger stripe: read and verified down to each entry's hash, written again with the width that the drives of today allow,
//! verified from the medium shard by shard, and only then does one commit put the new stripes in the place of the old one, if
//! that is still named there. The old one is dropped by the same commit, and freed after the readers' grace. A crash before the
//! commit leaves ledger stripes that nobody names; their entries are the ledger's own, so a rebuild that finds both is none the
//! worse, and they are collected as orphans when their epoch is fenced ([`crate::keep::reclaim`]).
//!
//! An attempt that fails leaves as much behind. So a drive that did not give back what it took is left out of the next one, as
//! sealing does, and each failure doubles the time until the next, up to a day: otherwise one bad drive would have a ledger's
//! worth of stripes written every hour for as long as nobody looks.
//!
//! A checkpoint needs nothing of the kind: the next one is written with the width of today, and the one after that drops the
//! wounded one. Nothing depends on it but the time that a rebuild takes.

use super::{Keeper, Work};
use crate::client::CommitError;
use crate::command::{Command, ReplaceLedger};
use crate::index::{self, IndexError, Overlay};
use crate::journal::read_in_time;
use crate::keep::LONG_WORK;
use crate::keep::repair::commit;
use crate::ledger::{self, LedgerError};
use crate::lookup;
use crate::stripe_writer::{OpenStripe, StoreError, Stored};
use crate::topology::Topology;
use codec::id::{DriveId, Lsn, ShardId, StripeId};
use codec::journal::{JournalError, length_prefixed};
use codec::stripe::StripeClass;
use storage_node::client::Reserve;
use storage_node::keep::ShardRef;
use storage_node::sabotage::Sabotage;

/// Ledger stripes that one round writes again.
const PER_ROUND: usize = 4;
/// What came to nothing is tried again after this time, and after twice as long each time; a checkpoint is written at most so
/// often.
const AGAIN_MS: u64 = 3_600_000;
/// The longest time between two attempts.
const AGAIN_MOST_MS: u64 = 24 * 3_600_000;

/// A stripe that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tried {
    /// Not again before this.
    due_ms: u64,
    /// How long it waits now.
    pause_ms: u64,
}

impl Tried {
    /// One more attempt, which is not known to have done it.
    fn again(before: Option<Tried>, now_ms: u64) -> Tried {
        let pause_ms = before.map_or(AGAIN_MS, |before| before.pause_ms.saturating_mul(2).min(AGAIN_MOST_MS));
        Tried { due_ms: now_ms.saturating_add(pause_ms), pause_ms }
    }
}

/// Why a stripe was not made narrower. What was written for it is an orphan; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum NarrowError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The stripe can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An entry does not encode.
    #[error(transparent)]
    Encode(#[from] JournalError),
    /// No room outside the reserve, or too few drives.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A drive does not give back what it took.
    #[error("shard {shard} does not verify on drive {drive}")]
    NotReadBack {
        /// The shard.
        shard: ShardId,
        /// The drive.
        drive: DriveId,
    },
    /// The stripe was changed meanwhile, or writes are not served.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Keeper {
    /// Writes some of the ledger stripes again that are to be narrower, and begins a checkpoint in place of one that is.
    pub(super) async fn narrow(&self, work: &mut Work, now_ms: u64) {
        if self.is_paused() {
            return;
        }
        let Work { narrower, narrowed, .. } = work;
        narrowed.retain(|id, _| narrower.contains_key(id));
        let waits = |id: &StripeId| narrowed.get(id).is_some_and(|tried: &Tried| tried.due_ms > now_ms);
        let due = |of: StripeClass| {
            let due = narrower.iter().filter(|(id, class)| **class == of && !waits(id));
            due.map(|(id, _)| *id).collect::<Vec<StripeId>>()
        };
        let mut ledger = due(StripeClass::Ledger);
        ledger.truncate(PER_ROUND);
        let checkpoints = due(StripeClass::Checkpoint);
        for id in ledger.iter().chain(&checkpoints) {
            let tried = Tried::again(narrowed.get(id).copied(), now_ms);
            narrowed.insert(*id, tried);
        }
        while work.checkpoint.try_join_next().is_some() {}
        if !checkpoints.is_empty() && work.checkpoint.is_empty() {
            let sealer = self.parts.sealer.clone();
            // Beside the rounds: a large index takes hours, and repair does not wait for it.
            work.checkpoint.spawn(async move {
                if let Err(error) = sealer.checkpoint().await {
                    tracing::warn!(%error, "no checkpoint was written in place of one without a spare drive");
                }
            });
        }
        for id in ledger {
            match self.narrow_ledger(id).await {
                Ok(()) => tracing::info!(stripe = %id, "a ledger stripe without a spare drive was written again"),
                Err(error) => {
                    tracing::warn!(stripe = %id, %error, "a ledger stripe without a spare drive stays as it is")
                }
            }
            if let Err(error) = self.judge(work, id, now_ms) {
                tracing::warn!(stripe = %id, %error, "a stripe's row can't be read");
            }
        }
    }

    async fn narrow_ledger(&self, id: StripeId) -> Result<(), NarrowError> {
        let shared = &self.parts.shared;
        let view = Overlay::new(&*shared.kv);
        let names = |row: &codec::effect::SealedRow| {
            row.stripes.iter().any(|n| (n.epoch, n.counter) == (id.epoch.0, id.counter))
        };
        let Some(range) = index::sealed_ranges(&view)?.into_iter().find(names) else { return Ok(()) };
        let Some(layout) = lookup::layout(&view, id)? else { return Ok(()) };
        let topology = shared.topology(Reserve::Client).await?;
        let mut topology = topology.rule_if_kept(self.parts.geometry);
        self.parts.sealer.leave_out_distrusted(&mut topology);
        let width = self.parts.stripes.width(&topology)?;
        let _unfinished = self.parts.stripes.begin_work();
        let entries = ledger::read(&*shared.node, &layout).await?;
        let mut stored = Vec::new();
        let mut open = self.parts.stripes.open(width, true);
        let (mut first, mut last) = (entries.first().map_or(Lsn(0), |entry| entry.lsn), Lsn(0));
        for entry in entries {
            let bytes = length_prefixed(&entry.ledger_form())?;
            if !open.fits(&bytes) {
                let full = std::mem::replace(&mut open, self.parts.stripes.open(width, true));
                stored.push(self.store_ledger(full, (first, last), &topology).await?);
                first = entry.lsn;
            }
            open.add(bytes);
            last = entry.lsn;
        }
        if !open.is_empty() {
            stored.push(self.store_ledger(open, (first, last), &topology).await?);
        }
        let stripes = stored.into_iter().map(|stored| stored.row).collect();
        let replace = ReplaceLedger { first: Lsn(range.first), old: id, stripes };
        Ok(commit(&self.parts.requests, self.parts.stripes.epoch(), Command::ReplaceLedger(replace)).await?)
    }

    async fn store_ledger(
        &self,
        stripe: OpenStripe,
        range: (Lsn, Lsn),
        topology: &Topology,
    ) -> Result<Stored, NarrowError> {
        let class = StripeClass::Ledger;
        let stored = self.parts.stripes.store(stripe, class, Some(range), topology, Reserve::Client).await?;
        if self.parts.shared.sabotage.is(Sabotage::RestripeVerify) {
            return Ok(stored);
        }
        let descriptor = &stored.layout.descriptor;
        for (index, drive) in (0u8..).zip(&stored.layout.drives) {
            let Some(drive) = *drive else { continue };
            let shard = ShardId { stripe: descriptor.id, index };
            let asked = vec![ShardRef { id: shard, root: descriptor.root() }];
            let answer = read_in_time(drive, LONG_WORK, self.parts.shared.node.verify_shards(drive, asked)).await;
            if !answer.is_ok_and(|answers| answers.first().is_some_and(Result::is_ok)) {
                self.parts.sealer.distrust(drive);
                return Err(NarrowError::NotReadBack { shard, drive });
            }
        }
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_to_nothing_is_tried_ever_more_seldom_and_at_least_daily() {
        let (mut tried, mut now_ms, mut pauses) = (None, 0, Vec::new());
        for _ in 0..7 {
            let next = Tried::again(tried, now_ms);
            pauses.push((next.due_ms - now_ms) / AGAIN_MS);
            (tried, now_ms) = (Some(next), next.due_ms);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 24, 24]);
    }
}
