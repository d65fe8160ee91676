//! Repair's one change: shards of a stripe lie on other drives from now on.
//!
//! Conditional on the row, so that of two repairs of one shard, or of a repair and a restripe, one wins and the other learns
//! of it: what it wrote is an orphan. Unconditional, the loser would point the row at a drive whose copy the winner's
//! successors no longer count on, or bring back a stripe that is gone.

use super::{DecideError, Draft};
use crate::command::{Outcome, Refusal, ShardMove};
use crate::{index, lookup};
use bytes::Bytes;
use codec::effect::{DriveState, EffectKind};
use codec::id::{DriveId, StripeId};
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
