//! Shards of stripes that nobody knows: what writers of fenced epochs left behind (R9). See the order in the parent.

use super::{BTreeMap, BTreeSet, LONG_WORK, ReclaimError, Reclaimer, Sabotage, Work, index, reclaim};
use crate::journal::read_in_time;
use codec::effect::DriveState;
use codec::id::{DriveId, ShardId, StripeId};
use codec::stripe::StripeClass;
use storage_node::keep::ShardRef;

/// Headers that are read at a time.
const PAGE: usize = 4096;
/// Orphans of one round.
const MOST: usize = 100_000;
/// As many stripes of no row, or as many as a tenth of those with one, are not left over by crashes: an index that lacks them
/// is more likely.
const PLAUSIBLE: usize = 10_000;

/// What is to be freed on each drive.
type Orphans = BTreeMap<DriveId, Vec<(ShardRef, u64)>>;

impl Reclaimer {
    /// Step 7. Whether it is done for this start.
    pub(super) async fn orphans(&self, work: &mut Work) -> Result<bool, ReclaimError> {
        let Some((orphans, stripes)) = self.find_orphans().await? else { return Ok(false) };
        let known = reclaim_known(self)?;
        if stripes > PLAUSIBLE.max(known / 10) {
            let reason = format!("{stripes} stripes on the drives are not in the index, which has {known}");
            self.hold(&reason).await?;
            return Ok(false);
        }
        // Again, just before: it has taken a while.
        if self.is_held(work)? {
            return Ok(false);
        }
        let mut all = true;
        for (drive, shards) in orphans {
            let mut some = Vec::new();
            for (shard, bytes) in shards {
                if !work.may_free(bytes) {
                    all = false;
                    break;
                }
                some.push(shard);
            }
            let count = some.len() as u64;
            if count > 0 {
                match self.free_on(work, drive, some).await? {
                    true => work.report.orphans += count,
                    false => all = false,
                }
            }
        }
        Ok(all)
    }

    /// Orphans by drive, and of how many stripes they are; `None` when a drive can't be listed (R13), or there are more than
    /// one round takes on.
    async fn find_orphans(&self) -> Result<Option<(Orphans, usize)>, ReclaimError> {
        let unknown_is_absent = self.parts.shared.sabotage.is(Sabotage::UnknownIsAbsent);
        let (mut found, mut stripes, mut count) = (Orphans::new(), BTreeSet::new(), 0);
        for row in index::drives(&self.view())? {
            let Some(drive) = DriveId::from_slice(&row.id).filter(|_| row.state != DriveState::Removed as i32) else {
                continue;
            };
            let mut after: Option<ShardId> = None;
            loop {
                let listed = self.parts.shared.node.list_shards(drive, None, after, PAGE);
                let listed = read_in_time(drive, LONG_WORK, listed).await;
                let headers = match listed {
                    Ok(headers) => headers,
                    Err(_) if unknown_is_absent => break,
                    Err(error) => {
                        tracing::debug!(%drive, %error, "orphans are looked for when every drive can be listed");
                        return Ok(None);
                    }
                };
                let last = headers.len() < PAGE;
                for header in headers {
                    let (id, root) = (header.id(), header.descriptor.root());
                    after = Some(id);
                    // What sealing left behind holds entries, and helps where the ledger is damaged. What is left of a
                    // checkpoint that was not finished helps nobody.
                    if header.descriptor.class != StripeClass::Ledger && self.is_orphan(id.stripe)? {
                        count += 1;
                        stripes.insert(id.stripe);
                        let bytes = u64::from(header.payload_len());
                        found.entry(drive).or_default().push((ShardRef { id, root }, bytes));
                    }
                }
                if count > MOST {
                    tracing::warn!(count, "more orphan shards than one start should leave behind");
                    return Ok(Some((Orphans::new(), usize::MAX)));
                }
                if last {
                    break;
                }
            }
        }
        Ok(Some((found, stripes.len())))
    }

    /// No row, not on its way out, and of an epoch whose commits are refused.
    fn is_orphan(&self, stripe: StripeId) -> Result<bool, ReclaimError> {
        let fenced = stripe.epoch < self.parts.epoch || self.parts.shared.sabotage.is(Sabotage::OrphanEpoch);
        let view = self.view();
        Ok(fenced && index::stripe(&view, stripe)?.is_none() && !reclaim::was_dropped(&view, stripe)?)
    }
}

/// How many stripes the index has; no more than matter here are counted.
fn reclaim_known(reclaimer: &Reclaimer) -> Result<usize, ReclaimError> {
    let rows = index::View::rows(&reclaimer.view(), index::STRIPES, &[], &[0xff; 17], 20 * super::orphans::PLAUSIBLE)?;
    Ok(rows.len())
}
