//! Shards of stripes that nobody knows: what writers of fenced epochs left behind (R9). See the order in the parent.
//!
//! All drives are listed twice, page by page, so that memory is bounded however many orphans there are. First they are only
//! counted: every drive must answer, and more stripes than [`Limits::orphans`], or than a tenth of those that the index has,
//! are more likely missing from the index than left over. Then reclaim is held. An operator who releases it has seen that, and
//! what was there by then is not counted again, or it would be held again after each release; the setting
//! [`ORPHANS_SETTING`] says so until they are freed.
//!
//! A shard of an epoch that this journal never granted is no orphan but a witness: its service went on where this one knows of
//! nothing, so this state was put back from the past (R10). One is enough to hold reclaim, and it is looked for at the start too,
//! before anything is deleted ([`foreign`]).

use super::{ReclaimError, Reclaimer, Work};
use crate::index::reclaim::{self, Hold, ORPHANS_SETTING};
use crate::index::{self, Overlay, View};
use crate::journal::read_in_time;
use crate::keep::LONG_WORK;
use crate::keep::mark::Limits;
use codec::effect::DriveState;
use codec::id::{DriveId, Epoch, ShardId, StripeId};
use codec::stripe::StripeClass;
use std::collections::BTreeSet;
use storage_node::client::{NodeClient, ReadError};
use storage_node::keep::ShardRef;
use storage_node::kv::Kv;
use storage_node::sabotage::Sabotage;

/// A shard whose header was listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    /// The shard.
    pub shard: ShardRef,
    /// What its stripe holds.
    pub class: StripeClass,
    /// Bytes of its payload.
    pub bytes: u64,
}

/// What counting came to.
enum Count {
    /// A drive can't be listed (R13).
    Unknown,
    /// There are none.
    None,
    /// There are some that may be freed.
    Some,
    /// There are more than anybody expected.
    TooMany(usize),
    /// A drive has what a later state than this one wrote.
    Foreign(DriveId, Epoch),
}

impl Reclaimer {
    /// Step 7. Whether it is done for this start.
    pub(super) async fn orphans(&self, work: &mut Work, limits: Limits) -> Result<bool, ReclaimError> {
        match self.count_orphans(limits).await? {
            Count::Unknown => return Ok(false),
            Count::None => {}
            Count::Some => {
                if !self.free_orphans(work, limits).await? {
                    return Ok(false);
                }
            }
            Count::TooMany(known) => {
                self.hold_orphans(limits, known).await?;
                return Ok(false);
            }
            Count::Foreign(drive, epoch) => {
                self.hold(&ReclaimError::Foreign { drive, epoch }.to_string()).await?;
                return Ok(false);
            }
        }
        if reclaim::accepted_orphans(&self.view())? > Epoch(0) {
            self.set(ORPHANS_SETTING, "0".to_owned()).await?;
        }
        Ok(true)
    }

    /// Holds reclaim, and remembers what an operator is shown by it.
    async fn hold_orphans(&self, limits: Limits, known: usize) -> Result<(), ReclaimError> {
        let reason = format!(
            "more than {} stripes on the drives are not in the index, which has {known}{}: if it lacks what it should have, \
             rebuild it; if they are left over, release reclaim",
            limits.orphans.max(known / 10),
            if known >= most_known(limits) { " or more" } else { "" }
        );
        self.hold(&reason).await?;
        // Only when this is what the operator sees. A crash in between shows it once more.
        if reclaim::hold(&self.view())? == Some(Hold::Held(reason)) {
            self.set(ORPHANS_SETTING, self.parts.epoch.0.to_string()).await?;
        }
        Ok(())
    }

    /// Drives whose shards count: an index that names a removed one is not asked for it.
    fn listed_drives(&self) -> Result<Vec<DriveId>, ReclaimError> {
        let rows = index::drives(&self.view())?;
        let there = rows.iter().filter(|row| row.state != DriveState::Removed as i32);
        Ok(there.filter_map(|row| DriveId::from_slice(&row.id)).collect())
    }

    /// The next shards of a drive; fewer than a page is the end.
    pub(super) async fn list(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        page: usize,
    ) -> Result<Vec<Listed>, ReadError> {
        let listed = self.parts.shared.node.list_shards(drive, None, after, page);
        let headers = read_in_time(drive, LONG_WORK, listed).await?;
        let listed = headers.into_iter().map(|header| Listed {
            shard: ShardRef { id: header.id(), root: header.descriptor.root() },
            class: header.descriptor.class,
            bytes: u64::from(header.payload_len()),
        });
        Ok(listed.collect())
    }

    async fn count_orphans(&self, limits: Limits) -> Result<Count, ReclaimError> {
        let unknown_is_absent = self.parts.shared.sabotage.is(Sabotage::UnknownIsAbsent);
        let known = self.view().rows(index::STRIPES, &[], &[0xff; 17], most_known(limits))?.len();
        let (accepted, most) = (reclaim::accepted_orphans(&self.view())?, limits.orphans.max(known / 10));
        let (mut new, mut some) = (BTreeSet::new(), false);
        for drive in self.listed_drives()? {
            let (mut after, mut granted) = (None, None);
            loop {
                let listed = match self.list(drive, after, limits.page).await {
                    Ok(listed) => listed,
                    Err(_) if unknown_is_absent => break,
                    Err(error) => {
                        tracing::debug!(%drive, %error, "orphans are looked for when every drive can be listed");
                        return Ok(Count::Unknown);
                    }
                };
                after = listed.last().map(|last| last.shard.id);
                for found in &listed {
                    let stripe = found.shard.id.stripe;
                    if granted != Some(stripe.epoch) && !unknown_is_absent {
                        if reclaim::is_foreign(&self.view(), stripe.epoch)? {
                            return Ok(Count::Foreign(drive, stripe.epoch));
                        }
                        granted = Some(stripe.epoch);
                    }
                    if self.is_orphan(found)? {
                        some = true;
                        new.extend((stripe.epoch >= accepted).then_some(stripe));
                    }
                }
                if new.len() > most {
                    return Ok(Count::TooMany(known));
                }
                if listed.len() < limits.page {
                    break;
                }
            }
        }
        Ok(if some { Count::Some } else { Count::None })
    }

    /// Whether all of them were freed.
    async fn free_orphans(&self, work: &mut Work, limits: Limits) -> Result<bool, ReclaimError> {
        let mut all = true;
        for drive in self.listed_drives()? {
            let mut after = None;
            loop {
                let Ok(listed) = self.list(drive, after, limits.page).await else {
                    all = false;
                    break;
                };
                after = listed.last().map(|last| last.shard.id);
                let mut some = Vec::new();
                for found in &listed {
                    if self.is_orphan(found)? {
                        if !work.may_free(found.bytes) {
                            all = false;
                            break;
                        }
                        some.push(found.shard);
                    }
                }
                let count = some.len() as u64;
                if count > 0 {
                    match self.free_on(work, drive, some).await? {
                        true => work.report.orphans += count,
                        false => all = false,
                    }
                }
                if listed.len() < limits.page || work.report.allowance_used {
                    break;
                }
            }
        }
        Ok(all)
    }

    /// No row, not on its way out, and of an epoch whose commits are refused. What sealing left behind holds entries, and helps
    /// where the ledger is damaged; what is left of a checkpoint that was not finished helps nobody.
    fn is_orphan(&self, found: &Listed) -> Result<bool, ReclaimError> {
        Ok(found.class != StripeClass::Ledger && self.is_unknown(found.shard.id.stripe)?)
    }

    /// Whether nobody knows the stripe, and nobody can make it known any more.
    pub(super) fn is_unknown(&self, stripe: StripeId) -> Result<bool, ReclaimError> {
        let fenced = stripe.epoch < self.parts.epoch || self.parts.shared.sabotage.is(Sabotage::OrphanEpoch);
        let view = self.view();
        Ok(fenced && index::stripe(&view, stripe)?.is_none() && !reclaim::was_dropped(&view, stripe)?)
    }
}

/// The first drive with a shard of a later epoch than the last that the journal had granted before this start took its own. No
/// crash leaves that: an epoch is journaled before a stripe is written in it. A drive that can't be asked now is asked when
/// orphans are counted.
pub(crate) async fn foreign(node: &dyn NodeClient, kv: &dyn Kv, last: Epoch) -> Vec<(DriveId, Epoch)> {
    let mut found = Vec::new();
    for drive in node.drives().await {
        let mut epoch = last;
        // One seek for each epoch that has shards there.
        loop {
            let after = ShardId { stripe: StripeId { epoch, counter: u64::MAX }, index: u8::MAX };
            let listed = read_in_time(drive.id, LONG_WORK, node.list_shards(drive.id, None, Some(after), 1)).await;
            let Some(next) = listed.ok().and_then(|mut listed| listed.pop()) else { break };
            epoch = next.id().stripe.epoch;
            if reclaim::is_foreign(&Overlay::new(kv), epoch).unwrap_or(false) {
                found.push((drive.id, epoch));
            }
        }
    }
    found
}

/// How many of the index's stripes are counted: no more than matter here.
fn most_known(limits: Limits) -> usize {
    limits.orphans.saturating_mul(20)
}
