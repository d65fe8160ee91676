//! Strays: copies of shards that repair has moved to another drive, on a drive that was away and is back, say, or that a write
//! left on a drive which was replaced before the stripe was whole. The row names another drive for the shard.
//!
//! One is freed when all of this holds, while the stripe is taken ([`crate::keep::claims`]), so that repair does not move the
//! shard back meanwhile:
//! * the row names another drive, and has not changed for a day: whoever looked the old place up has ended (R12);
//! * nothing is known to be wrong with any shard of the stripe, on any drive;
//! * the shard has just verified, from the medium, on the drive that the row names. Without that, the copy that is freed could
//!   be the last good one.
//!
//! A finding about a shard that is of no use where it was found (its header rotted, so nothing lists it) would stay for ever:
//! it is freed in the same way. Ledger shards are left where they are, and so is everything on a drive that is being emptied.

use super::orphans::Listed;
use super::{Pace, ReclaimError, Reclaimer, Work};
use crate::index::{self, reclaim};
use crate::journal::read_in_time;
use crate::keep::LONG_WORK;
use crate::keep::claims::Claim;
use crate::keep::mark::Limits;
use crate::lookup::{self, Safety};
use codec::effect::DriveState;
use codec::id::DriveId;
use codec::stripe::StripeClass;
use storage_node::keep::{ShardRef, Subject};
use storage_node::sabotage::Sabotage;

/// Rows have to stay unchanged for so long, and drives are listed no more often. Longer than a request lives (R9).
const AFTER_MS: u64 = 24 * 3600 * 1000;
/// Strays that are verified and freed with one order.
const BATCH: usize = 64;

impl Reclaimer {
    /// Step 8.
    pub(super) async fn strays(&self, work: &mut Work, limits: Limits, pace: &Pace) -> Result<(), ReclaimError> {
        if let Some(since) = work.strays_since {
            let grace = !self.parts.shared.sabotage.is(Sabotage::FreeGrace);
            if grace && !reclaim::is_over(&self.view(), since, AFTER_MS)? {
                return Ok(());
            }
            for row in index::drives(&self.view())? {
                let Some(drive) = DriveId::from_slice(&row.id).filter(|_| row.state == DriveState::Active as i32)
                else {
                    continue;
                };
                if !self.strays_on(work, drive, limits, pace).await? {
                    return Ok(());
                }
            }
        }
        self.parts.shared.claims.begin();
        work.strays_since = Some(index::applied(&self.view())?.0);
        Ok(())
    }

    /// `false` when the allowance was used up, or reclaim is held. A drive that can't be asked is left for another day.
    async fn strays_on(
        &self,
        work: &mut Work,
        drive: DriveId,
        limits: Limits,
        pace: &Pace,
    ) -> Result<bool, ReclaimError> {
        let mut after = None;
        loop {
            let Ok(listed) = self.list(drive, after, limits.page).await else { return Ok(true) };
            after = listed.last().map(|last| last.shard.id);
            if !self.collect(work, drive, &listed, pace).await? {
                return Ok(false);
            }
            if listed.len() < limits.page {
                break;
            }
        }
        let (found, useless) = self.findings(drive).await?;
        if !useless.is_empty() && !self.free_on(work, drive, useless).await? {
            return Ok(false);
        }
        self.collect(work, drive, &found, pace).await
    }

    /// Findings about shards whose row names another drive, and about shards of stripes that nobody knows.
    async fn findings(&self, drive: DriveId) -> Result<(Vec<Listed>, Vec<ShardRef>), ReclaimError> {
        let asked = read_in_time(drive, LONG_WORK, self.parts.shared.node.findings(drive)).await;
        let (mut strays, mut useless) = (Vec::new(), Vec::new());
        for finding in asked.unwrap_or_default() {
            let Subject::Shard(id) = finding.subject else { continue };
            match lookup::layout(&self.view(), id.stripe)? {
                Some(layout) => {
                    let shard = ShardRef { id, root: layout.descriptor.root() };
                    let (class, range) = (layout.descriptor.class, layout.descriptor.lsn_range);
                    strays.push(Listed { shard, class, range, bytes: 0 });
                }
                // No root is all zeros, so nothing but a shard whose header can't be read is forgotten by it.
                None if self.is_unknown(id.stripe)? => useless.push(ShardRef { id, root: [0; 32] }),
                None => {}
            }
        }
        Ok((strays, useless))
    }

    /// Frees those of `listed` that are strays; `false` when no more may be freed now.
    async fn collect(
        &self,
        work: &mut Work,
        drive: DriveId,
        listed: &[Listed],
        pace: &Pace,
    ) -> Result<bool, ReclaimError> {
        for some in listed.chunks(BATCH) {
            let mut free: Vec<(Claim<'_>, ShardRef)> = Vec::new();
            for found in some.iter().filter(|found| found.class != StripeClass::Ledger) {
                // Most are where they belong, and not worth being taken.
                if self.place_of(found.shard)?.is_none_or(|place| place == drive) {
                    continue;
                }
                let Some(claim) = self.parts.shared.claims.look(found.shard.id.stripe) else { continue };
                if !self.is_needless(drive, found, pace).await? {
                    continue;
                }
                if !work.may_free(found.bytes) {
                    return Ok(false);
                }
                free.push((claim, found.shard));
            }
            if free.is_empty() {
                continue;
            }
            let shards: Vec<ShardRef> = free.iter().map(|(_, shard)| *shard).collect();
            let count = shards.len() as u64;
            if !self.free_on(work, drive, shards).await? {
                return Ok(false);
            }
            work.report.strays += count;
        }
        Ok(true)
    }

    /// The drive that the row names for a shard, if it is one of that very stripe.
    fn place_of(&self, shard: ShardRef) -> Result<Option<DriveId>, ReclaimError> {
        let layout = lookup::layout(&self.view(), shard.id.stripe)?;
        let layout = layout.filter(|layout| layout.descriptor.root() == shard.root);
        Ok(layout.and_then(|layout| layout.drives.get(usize::from(shard.id.index)).copied().flatten()))
    }

    /// Everything of the list above, the stripe being taken.
    async fn is_needless(&self, drive: DriveId, found: &Listed, pace: &Pace) -> Result<bool, ReclaimError> {
        let (shared, id) = (&self.parts.shared, found.shard.id);
        if shared.claims.has_changed(id.stripe) {
            return Ok(false);
        }
        let Some(row) = index::stripe(&self.view(), id.stripe)? else { return Ok(false) };
        let descriptor = lookup::descriptor(id.stripe, &row)?;
        let Some(right) = row.drive(id.index).filter(|right| *right != drive) else { return Ok(false) };
        if shared.losses().of_stripe(&descriptor, &row) != Safety::Whole {
            return Ok(false);
        }
        pace.spend(u64::from(descriptor.shard_len(id.index))).await;
        self.verifies(right, found.shard).await
    }

    async fn verifies(&self, drive: DriveId, shard: ShardRef) -> Result<bool, ReclaimError> {
        let asked = self.parts.shared.node.verify_shards(drive, vec![shard]);
        let answer = read_in_time(drive, LONG_WORK, asked).await;
        Ok(answer.is_ok_and(|answers| answers.first().is_some_and(Result::is_ok)))
    }
}
