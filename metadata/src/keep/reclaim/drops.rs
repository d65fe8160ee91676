//! Stripes of no use: dropped from the index, and later freed on their drives. See the order in the parent.

use super::{Marks, Pace, ReclaimError, Reclaimer, Work, authority_of, is_behind, parse};
use crate::command::{Command, DroppedStripe, REQUEST_LIFE_MS};
use crate::index::{self, reclaim};
use crate::keep::LONG_WORK;
use crate::keep::frames::frames_of;
use crate::lookup;
use codec::effect::{DriveState, StripeRow};
use codec::id::{DriveId, Lsn, ShardId, StripeId};
use codec::stripe::StripeDescriptor;
use std::collections::{BTreeMap, HashSet};
use storage_node::client::{WriteError, in_time};
use storage_node::keep::ShardRef;
use storage_node::sabotage::Sabotage;

/// How long a dropped stripe's shards stay: as long as a request lives (R9).
pub const READERS_GRACE_MS: u64 = REQUEST_LIFE_MS;
/// Stripes that are freed before the next commit that says so.
const FREE_STRIPES: usize = 256;

impl Reclaimer {
    /// Step 5.
    pub(super) async fn drop_stripes(&self, work: &mut Work, marks: &Marks, pace: &Pace) -> Result<(), ReclaimError> {
        let everything = self.parts.shared.sabotage.is(Sabotage::DropCheck);
        for (id, usage) in marks.usage.iter().filter(|(_, usage)| usage.frames == 0 || everything) {
            let Some(layout) = lookup::layout(&self.view(), *id)? else { continue };
            pace.spend(usage.stored).await;
            let frames = match frames_of(&*self.parts.shared.node, &layout).await {
                Ok(laid) => laid.into_iter().map(|laid| (laid.id, laid.place.len)).collect(),
                Err(error) => {
                    tracing::warn!(stripe = %id, %error, "a stripe of no use is kept, since nobody can say what is in it");
                    work.report.unread += 1;
                    continue;
                }
            };
            // Not before: those that can't be read would use up the allowance in every round, and nothing else would ever go.
            if !work.may_free(usage.stored) {
                break;
            }
            if !self.may_delete(work).await? {
                break;
            }
            let dropped = Command::DropStripes(vec![DroppedStripe { id: *id, frames }]);
            work.report.dropped += self.done(dropped).await?;
        }
        Ok(())
    }

    /// Step 6. A stripe is freed only when the entry that dropped it is sealed, and so is everything that moved its frames
    /// elsewhere. While these entries lie in the journal alone, a loss that is accepted there takes them back: the chunks would
    /// be in this stripe again, and the one that they were moved to would be of nobody.
    pub(super) async fn free_stripes(&self, work: &mut Work) -> Result<(), ReclaimError> {
        let mut sealed = self.sealed()?;
        let mut from = StripeId::default();
        loop {
            let rows = reclaim::dropped(&self.view(), from, FREE_STRIPES)?;
            let last = rows.len() < FREE_STRIPES;
            let mut due = Vec::new();
            for (lsn, row) in rows {
                let descriptor = parse(&row)?;
                from = StripeId { counter: descriptor.id.counter.saturating_add(1), ..descriptor.id };
                if self.parts.shared.sabotage.is(Sabotage::FreeGrace)
                    || reclaim::is_over(&self.view(), lsn, READERS_GRACE_MS)?
                {
                    if lsn > sealed && !work.sealing {
                        work.sealing = true;
                        if let Err(error) = self.parts.sealer.seal_now().await {
                            tracing::warn!(%error, "dropped stripes are freed when the journal can be sealed");
                        }
                        sealed = self.sealed()?;
                    }
                    if lsn <= sealed {
                        due.push((descriptor, row));
                    }
                }
            }
            self.free(work, due).await?;
            if last {
                return Ok(());
            }
        }
    }

    fn sealed(&self) -> Result<Lsn, ReclaimError> {
        Ok(index::last_sealed(&self.view())?.map_or(Lsn(0), |row| Lsn(row.last)))
    }

    /// Frees the shards of dropped stripes. A stripe some of whose drives can't be reached waits for them; a drive that was
    /// removed is not waited for, since what comes back with it are orphans.
    async fn free(&self, work: &mut Work, due: Vec<(StripeDescriptor, StripeRow)>) -> Result<(), ReclaimError> {
        // Again, just before: what was dropped before a hold is not freed under it.
        if due.is_empty() || !self.may_delete(work).await? {
            return Ok(());
        }
        let mut by_drive: BTreeMap<DriveId, Vec<ShardRef>> = BTreeMap::new();
        for (descriptor, row) in &due {
            let root = descriptor.root();
            for index in 0..descriptor.width() {
                if let Some(drive) = row.drive(index).filter(|_| descriptor.is_present(index)) {
                    let id = ShardId { stripe: descriptor.id, index };
                    by_drive.entry(drive).or_default().push(ShardRef { id, root });
                }
            }
        }
        let mut waiting: HashSet<StripeId> = HashSet::new();
        for (drive, shards) in by_drive {
            let stripes: Vec<StripeId> = shards.iter().map(|shard| shard.id.stripe).collect();
            if !self.free_on(work, drive, shards).await? {
                waiting.extend(stripes);
            }
        }
        let freed: Vec<StripeId> =
            due.iter().map(|(descriptor, _)| descriptor.id).filter(|id| !waiting.contains(id)).collect();
        if !freed.is_empty() {
            work.report.freed += self.done(Command::StripesFreed(freed)).await?;
        }
        Ok(())
    }

    /// Whether the shards are gone from this drive for good.
    pub(super) async fn free_on(
        &self,
        work: &mut Work,
        drive: DriveId,
        shards: Vec<ShardRef>,
    ) -> Result<bool, ReclaimError> {
        let gone = index::drive(&self.view(), drive)?.is_none_or(|row| row.state == DriveState::Removed as i32);
        if gone {
            return Ok(true);
        }
        let node = &self.parts.shared.node;
        let Ok(seen) = authority_of(&**node, drive).await else { return Ok(false) };
        if is_behind(seen, self.parts.epoch, self.known()?) {
            let error = ReclaimError::Behind { drive, seen };
            self.hold(&error.to_string()).await?;
            return Err(error);
        }
        // Again, just before: what was found before a hold is not freed under it.
        if !self.may_delete(work).await? {
            return Ok(false);
        }
        let authority = self.authority()?;
        match in_time(drive, LONG_WORK, node.free_shards(drive, authority, shards)).await {
            Ok(freed) => {
                work.report.bytes = work.report.bytes.saturating_add(freed.bytes);
                work.report.refused += freed.refused.len() as u64;
                for shard in &freed.refused {
                    tracing::warn!(%drive, %shard, "something else lies where a shard was to be freed: it is left alone");
                }
                Ok(true)
            }
            Err(WriteError::OldAuthority { drive, seen }) => {
                let error = ReclaimError::Behind { drive, seen };
                self.hold(&error.to_string()).await?;
                Err(error)
            }
            Err(error) => {
                tracing::debug!(%drive, %error, "shards are freed later");
                Ok(false)
            }
        }
    }
}
