//! Shards of stripes that nobody knows: what writers of fenced epochs left behind (R9). See the order in the parent.
//!
//! All drives are listed twice, page by page, so that memory is bounded however many orphans there are. First they are only
//! counted: every drive must answer, and more stripes than [`Limits::orphans`], or than a tenth of those that the index has,
//! are more likely missing from the index than left over. Then reclaim is held. An operator who releases it has seen that, and
//! what was there by then is not counted again, or it would be held again after each release; the setting
//! [`ORPHANS_SETTING`] says so until they are freed. Nor is what this start itself has left behind: its index has every commit
//! since, so it lacks none of them, and a day of writes that failed would stop all reclaim until somebody comes.
//!
//! A shard of an epoch that this journal never granted is no orphan but a witness: its service went on where this one knows of
//! nothing, so this state was put back from the past (R10). One is enough to hold reclaim. It is looked for at the start
//! ([`foreign`]), and on each drive before anything is deleted after it was opened ([`Reclaimer::check_opened`]): found only
//! by the next count, a day's deletes would have come before it.
//!
//! A state that was put back to a moment of the same epoch has no such witness. But what sealed the journal or wrote a
//! checkpoint after that moment left stripes that name entries beyond those that this start found, in the epoch that was
//! held then. Entries are in the journal, applied, before they are sealed, so no crash leaves that either; one is enough, too
//! ([`Reclaimer::look_for_later`]).
//!
//! A ledger shard of nobody is an orphan only when the ledger has all its entries elsewhere, in stripes that are whole
//! ([`Cover`]): a seal that wrote it and failed is repeated, and so is a stripe that was to be made narrower. Until then it may be
//! the only copy outside the journal. Were it never one, every such attempt would leave its stripes for good.

use super::{ReclaimError, Reclaimer, Work};
use crate::index::reclaim::{self, Hold, ORPHANS_SETTING};
use crate::index::{self, Overlay, View};
use crate::journal::read_in_time;
use crate::keep::LONG_WORK;
use crate::keep::mark::Limits;
use crate::lookup::{self, Safety};
use crate::seal::accepted_with_epochs;
use codec::effect::{AcceptedLossRow, DriveState};
use codec::id::{DriveId, Epoch, Lsn, ShardId, StripeId};
use codec::stripe::StripeClass;
use futures::future::join_all;
use std::collections::BTreeSet;
use storage_node::client::{DriveHealth, NodeClient, ReadError};
use storage_node::keep::ShardRef;
use storage_node::kv::Kv;
use storage_node::sabotage::Sabotage;

/// Drives that are looked at for another history at a time.
const LOOKS: usize = 16;

/// A shard whose header was listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    /// The shard.
    pub shard: ShardRef,
    /// What its stripe holds.
    pub class: StripeClass,
    /// The entries that it holds, if any.
    pub range: Option<(Lsn, Lsn)>,
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
    Witness(ReclaimError),
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
            Count::Witness(what) => {
                self.hold(&what.to_string()).await?;
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
            self.set(ORPHANS_SETTING, reclaim::open_from(&self.view())?.0.to_string()).await?;
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
            range: header.descriptor.lsn_range,
            bytes: u64::from(header.payload_len()),
        });
        Ok(listed.collect())
    }

    async fn count_orphans(&self, limits: Limits) -> Result<Count, ReclaimError> {
        let unknown_is_absent = self.parts.shared.sabotage.is(Sabotage::UnknownIsAbsent);
        let known = self.view().rows(index::STRIPES, &[], &[0xff; 17], most_known(limits))?.len();
        let (accepted, most) = (reclaim::accepted_orphans(&self.view())?, limits.orphans.max(known / 10));
        // An index can't lack a stripe of this start: whatever was committed since is in it.
        let older = accepted..self.parts.epoch;
        let (mut new, mut some, mut cover) = (BTreeSet::new(), false, None);
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
                            return Ok(Count::Witness(ReclaimError::Foreign { drive, epoch: stripe.epoch }));
                        }
                        granted = Some(stripe.epoch);
                    }
                    if self.is_orphan(found, &mut cover)? {
                        some = true;
                        new.extend(older.contains(&stripe.epoch).then_some(stripe));
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
        let (mut all, mut cover) = (true, None);
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
                    if self.is_orphan(found, &mut cover)? {
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

    /// No row, not on its way out, and of an epoch whose commits are refused. What sealing left behind holds entries: they have to
    /// be elsewhere as well.
    fn is_orphan(&self, found: &Listed, cover: &mut Option<Cover>) -> Result<bool, ReclaimError> {
        if !self.is_unknown(found.shard.id.stripe)? {
            return Ok(false);
        }
        if found.class != StripeClass::Ledger {
            return Ok(true);
        }
        let known = match cover.take() {
            Some(known) => known,
            None => self.cover()?,
        };
        let has = found.range.is_some_and(|range| known.has(found.shard.id.stripe.epoch, range));
        *cover = Some(known);
        Ok(has)
    }

    /// What the ledger has for certain.
    fn cover(&self) -> Result<Cover, ReclaimError> {
        let (view, losses) = (self.view(), self.parts.shared.losses());
        let mut ranges: Vec<(Lsn, Lsn)> = Vec::new();
        for range in index::sealed_ranges(&view)? {
            let mut whole = !range.stripes.is_empty();
            for name in &range.stripes {
                let id = StripeId { epoch: Epoch(name.epoch), counter: name.counter };
                let row = index::stripe(&view, id)?;
                let safety =
                    row.map(|row| Ok::<_, ReclaimError>(losses.of_stripe(&lookup::descriptor(id, &row)?, &row)));
                whole &= safety.transpose()? == Some(Safety::Whole);
            }
            match ranges.last_mut() {
                Some(last) if whole && last.1.next() == Lsn(range.first) => last.1 = Lsn(range.last),
                _ if whole => ranges.push((Lsn(range.first), Lsn(range.last))),
                _ => {}
            }
        }
        Ok(Cover { ranges, losses: accepted_with_epochs(&view)? })
    }

    /// Whether nobody knows the stripe, and nobody can make it known any more. In this order: what is not known after its epoch was
    /// seen to be fenced stays unknown; the other way round a commit may have come in between.
    pub(super) fn is_unknown(&self, stripe: StripeId) -> Result<bool, ReclaimError> {
        let view = self.view();
        let fenced = stripe.epoch < reclaim::open_from(&view)? || self.parts.shared.sabotage.is(Sabotage::OrphanEpoch);
        Ok(fenced && index::stripe(&view, stripe)?.is_none() && !reclaim::was_dropped(&view, stripe)?)
    }
}

/// The first drive with a shard of a later epoch than the last that the journal had granted before this start took its own. No
/// crash leaves that: an epoch is journaled before a stripe is written in it. A drive that can't be asked now is asked when
/// orphans are counted.
pub(crate) async fn foreign(node: &dyn NodeClient, kv: &dyn Kv, last: Epoch) -> Vec<(DriveId, Epoch)> {
    let mut found = Vec::new();
    for drive in node.drives().await {
        if let Err(error) = foreign_on(node, kv, drive.id, last, &mut found).await {
            tracing::debug!(drive = %drive.id, %error, "which epochs a drive has stripes of is asked again before anything is deleted");
        }
    }
    found
}

/// Adds the epochs behind `last` that one drive has shards of and that the journal never granted.
async fn foreign_on(
    node: &dyn NodeClient,
    kv: &dyn Kv,
    drive: DriveId,
    last: Epoch,
    found: &mut Vec<(DriveId, Epoch)>,
) -> Result<(), ReclaimError> {
    let mut epoch = last;
    // One seek for each epoch that has shards there.
    loop {
        let after = ShardId { stripe: StripeId { epoch, counter: u64::MAX }, index: u8::MAX };
        let listed = read_in_time(drive, LONG_WORK, node.list_shards(drive, None, Some(after), 1)).await;
        let mut listed = listed.map_err(|error| ReclaimError::Unlisted { drive, error })?;
        let Some(next) = listed.pop() else { return Ok(()) };
        epoch = next.id().stripe.epoch;
        if reclaim::is_foreign(&Overlay::new(kv), epoch)? {
            found.push((drive, epoch));
        }
    }
}

impl Reclaimer {
    /// Looks at what came back, before anybody counts on it.
    pub async fn look_at_returned(&self) {
        if let Err(error) = self.check_opened().await {
            tracing::warn!(%error, "nothing is deleted before a drive that is back was looked at");
        }
    }

    /// Holds reclaim when a drive that was opened since it was last looked at has stripes of another history. A drive that takes
    /// no part is none of those: it counts as away, and is looked at when it is opened again.
    pub(super) async fn check_opened(&self) -> Result<(), ReclaimError> {
        if self.parts.shared.sabotage.is(Sabotage::UnknownIsAbsent) {
            return Ok(());
        }
        let mut drives = self.parts.shared.node.drives().await;
        {
            let looked = self.looked.lock().await;
            drives.retain(|drive| {
                let known = looked.get(&drive.id).is_some_and(|opened| *opened >= drive.opened);
                !known && !matches!(drive.health, DriveHealth::Failed { .. })
            });
        }
        // Side by side, and all of them whatever comes of one: each takes a call for every epoch that it has stripes of.
        let mut result = Ok(());
        for some in drives.chunks(LOOKS) {
            let looks = join_all(some.iter().map(|drive| self.look_at(drive.id, drive.opened))).await;
            result = looks.into_iter().fold(result, Result::and);
        }
        result
    }

    /// Looks at one drive that was opened for the `opened`th time. It counts as looked at once what it says is committed.
    async fn look_at(&self, drive: DriveId, opened: u32) -> Result<(), ReclaimError> {
        let (node, kv) = (&self.parts.shared.node, &self.parts.shared.kv);
        let mut found = Vec::new();
        foreign_on(&**node, &**kv, drive, Epoch(0), &mut found).await?;
        if let Some((drive, epoch)) = found.pop() {
            self.hold(&ReclaimError::Foreign { drive, epoch }.to_string()).await?;
        } else if let Some(lsn) = self.look_for_later(drive, self.last_known()?).await? {
            self.hold(&ReclaimError::Later { drive, lsn }.to_string()).await?;
        }
        let mut looked = self.looked.lock().await;
        let known = looked.entry(drive).or_default();
        *known = (*known).max(opened);
        Ok(())
    }
}

impl Reclaimer {
    /// The last entry that this state may know of: what the start found, and what was seen and released, or given up.
    fn last_known(&self) -> Result<Lsn, ReclaimError> {
        let given_up = index::accepted_losses(&self.view())?.into_iter().map(|loss| Lsn(loss.known)).max();
        Ok(self.known()?.max(given_up.unwrap_or_default()))
    }

    /// The highest entry beyond `known` that a stripe of the epoch which was held before this start names on a drive. Only
    /// that epoch: of a later one it would be foreign, and an earlier one was no longer numbered in.
    pub(super) async fn look_for_later(&self, drive: DriveId, known: Lsn) -> Result<Option<Lsn>, ReclaimError> {
        let epoch = self.parts.before;
        let page = self.parts.config.limits.page;
        let (mut after, mut later) = (ShardId { stripe: StripeId { epoch, counter: 0 }, index: 0 }, None);
        loop {
            let listed = self.list(drive, Some(after), page).await;
            let listed = listed.map_err(|error| ReclaimError::Unlisted { drive, error })?;
            let of_epoch = listed.iter().take_while(|found| found.shard.id.stripe.epoch == epoch);
            let ends = of_epoch.filter_map(|found| found.range.map(|(_, end)| end));
            later = ends.filter(|end| *end > known).chain(later).max();
            match listed.last().filter(|last| last.shard.id.stripe.epoch == epoch && listed.len() >= page) {
                Some(last) => after = last.shard.id,
                None => return Ok(later),
            }
        }
    }
}

/// The entries that the ledger has in stripes without a wound.
struct Cover {
    /// Consecutive ones, in order.
    ranges: Vec<(Lsn, Lsn)>,
    losses: Vec<(AcceptedLossRow, Option<Epoch>)>,
}

impl Cover {
    /// Whether the entries of a stripe of this epoch are all in the ledger. Those that were given up with an accepted loss are not,
    /// though others may have their LSNs by now.
    fn has(&self, epoch: Epoch, (first, last): (Lsn, Lsn)) -> bool {
        let given_up = |(loss, accepted): &(AcceptedLossRow, Option<Epoch>)| {
            last.0 > loss.kept && accepted.is_none_or(|accepted| epoch < accepted)
        };
        let inside = |range: &(Lsn, Lsn)| range.0 <= first && last <= range.1;
        self.ranges.iter().any(inside) && !self.losses.iter().any(given_up)
    }
}

/// How many of the index's stripes are counted: no more than matter here.
fn most_known(limits: Limits) -> usize {
    limits.orphans.saturating_mul(20)
}
