//! Repair's changes: shards of a stripe lie on other drives from now on; narrower stripes stand for one of the ledger.
//!
//! Conditional on the row, so that of two repairs of one shard, or of a repair and a restripe, one wins and the other learns
//! of it: what it wrote is an orphan. Unconditional, the loser would point the row at a drive whose copy the winner's
//! successors no longer count on, or bring back a stripe that is gone.

use super::{DecideError, Draft, cluster};
use crate::command::{Outcome, Refusal, ReplaceLedger, ShardMove};
use crate::{index, lookup};
use bytes::Bytes;
use codec::effect::{DriveState, EffectKind, StripeName};
use codec::id::{DriveId, StripeId};
use codec::stripe::StripeClass;
use std::collections::BTreeSet;
use storage_node::sabotage::Sabotage;

pub(super) fn move_shards(draft: &mut Draft<'_>, id: StripeId, moves: &[ShardMove]) -> Result<Outcome, DecideError> {
    let changed = || DecideError::from(Refusal::StripeChanged(id));
    let before = index::stripe(draft.view, id)?.ok_or_else(changed)?;
    let descriptor = lookup::descriptor(id, &before)?;
    let mut row = before.clone();
    let mut moved = BTreeSet::new();
    for step in moves {
        let there = descriptor.is_present(step.index) && moved.insert(step.index);
        let as_planned = row.drive(step.index) == step.from || draft.at.sabotage.is(Sabotage::RepairCondition);
        let target = index::drive(draft.view, step.to)?;
        let active = target.is_some_and(|drive| drive.state == DriveState::Active as i32);
        let place = row.drives.get_mut(usize::from(step.index)).filter(|_| there && as_planned && active);
        *place.ok_or_else(changed)? = Bytes::copy_from_slice(step.to.as_bytes());
    }
    let drives: Vec<DriveId> = (0..descriptor.width()).filter_map(|index| row.drive(index)).collect();
    if drives.iter().collect::<BTreeSet<_>>().len() != drives.len() {
        return Err(changed());
    }
    if row != before {
        draft.rows.push(EffectKind::PutStripe(row));
    }
    Ok(Outcome::Done)
}

/// The new stripes hold the entries of the old one, no more and no fewer: their ranges follow each other from its first entry
/// to its last. Otherwise a rebuild of the index would end at the gap.
pub(super) fn replace_ledger(draft: &mut Draft<'_>, replace: &ReplaceLedger) -> Result<Outcome, DecideError> {
    let old = replace.old;
    let changed = || DecideError::from(Refusal::StripeChanged(old));
    let mut range = index::sealed_range(draft.view, replace.first)?.ok_or_else(changed)?;
    let is_old = |name: &StripeName| (name.epoch, name.counter) == (old.epoch.0, old.counter);
    let at = range.stripes.iter().position(is_old).ok_or_else(changed)?;
    let before = index::stripe(draft.view, old)?.ok_or_else(changed)?;
    let entries = lookup::descriptor(old, &before)?.lsn_range;
    let mut next = entries.map(|(first, _)| first);
    let mut names = Vec::with_capacity(replace.stripes.len());
    for stripe in &replace.stripes {
        let descriptor = cluster::check_stripe(draft, stripe)?;
        let follows = descriptor.lsn_range.filter(|(first, last)| Some(*first) == next && first <= last);
        let (_, last) = follows.filter(|_| descriptor.class == StripeClass::Ledger).ok_or(Refusal::BadSeal)?;
        cluster::put_stripe(draft, descriptor.id, stripe)?;
        names.push(StripeName { epoch: descriptor.id.epoch.0, counter: descriptor.id.counter });
        next = Some(last.next());
    }
    if names.is_empty() || next != entries.map(|(_, last)| last.next()) {
        return Err(Refusal::BadSeal.into());
    }
    let dropped: Vec<StripeName> = range.stripes.splice(at..=at, names).collect();
    draft.rows.push(EffectKind::Sealed(range));
    draft.rows.extend(dropped.into_iter().map(EffectKind::DeleteStripe));
    Ok(Outcome::Done)
}
