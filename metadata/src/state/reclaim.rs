//! Deletes: chunks, stripes, and the moves of frames that make stripes empty (R10, R11, R12).
//!
//! Every condition is looked at here, in the commit, whatever was looked at before it was asked for: what lies between may
//! have changed it. Each condition and what goes wrong without it:
//! * nothing is held (R10): a state from the past deletes what the lost entries referenced;
//! * still Condemned, by the same entry, without references: a commit has revived the chunk since it was marked;
//! * condemned before the mark pass began: the pass may have looked at a root before the reference was put there;
//! * the grace is over, at least [`MIN_GRACE_MS`]: a request that found the chunk Live has not committed yet, and an operator
//!   has no time to undo a mistake;
//! * no chunk's place is in a stripe that is dropped: its bytes would go. The stripe's frames name all chunks that can be
//!   placed in it, since a stripe is immutable; that they are as long as its data shards shows that none is left out.

use super::chunks::{fits, revive};
use super::cluster::{check_stripe, put_stripe};
use super::{DecideError, Draft};
use crate::command::{
    DeleteChunks, DroppedStripe, MAX_ROWS, MIN_GRACE_MS, Move, Outcome, RecountedChunk, Refusal, SparedChunk,
    UnmarkedChunk,
};
use crate::index::reclaim::{self, FLOOR_SETTING, HOLD_SETTING, RELEASED_SETTING};
use crate::index::{self, View};
use crate::lookup;
use bytes::Bytes;
use codec::effect::{ChunkName, ChunkRow, ChunkState, EffectKind, SettingRow, StripeName, StripeRow};
use codec::id::{ChunkId, Lsn, StripeId};
use codec::stripe::StripeClass;
use std::collections::{BTreeMap, BTreeSet};
use storage_node::sabotage::Sabotage;

/// R10.
fn check_hold(draft: &Draft<'_>) -> Result<(), DecideError> {
    if draft.at.sabotage.is(Sabotage::ReclaimHold) {
        return Ok(());
    }
    reclaim::hold(draft.view)?.map_or(Ok(()), |hold| Err(Refusal::ReclaimHeld(hold).into()))
}

fn outcome(done: u64, asked: usize) -> Outcome {
    Outcome::Reclaimed { done, skipped: (asked as u64).saturating_sub(done) }
}

pub(super) fn delete_chunks(draft: &mut Draft<'_>, delete: &DeleteChunks) -> Result<Outcome, DecideError> {
    check_hold(draft)?;
    let rows: usize = delete.chunks.iter().map(|chunk| 1 + chunk.children.len()).sum();
    if rows > MAX_ROWS {
        return Err(Refusal::TooLarge.into());
    }
    // What a node lists stays until the node is gone: a mark pass that saw the node saw its children.
    let listed: BTreeSet<ChunkId> = delete.chunks.iter().flat_map(|chunk| chunk.children.iter().copied()).collect();
    let mut done = 0;
    for chunk in delete.chunks.iter().filter(|chunk| !listed.contains(&chunk.id)) {
        if !is_due(draft, delete, chunk)? {
            continue;
        }
        draft.chunks.delete(chunk.id);
        draft.rows.push(EffectKind::DeleteChunk(ChunkName { id: Bytes::copy_from_slice(chunk.id.as_bytes()) }));
        for &child in &chunk.children {
            draft.chunks.release(child)?;
        }
        done += 1;
    }
    Ok(outcome(done, delete.chunks.len()))
}

fn is_due(draft: &mut Draft<'_>, delete: &DeleteChunks, chunk: &UnmarkedChunk) -> Result<bool, DecideError> {
    let sabotage = &draft.at.sabotage;
    let Some(row) = draft.chunks.row(chunk.id)? else { return Ok(false) };
    let same = condemned_by(row, chunk.condemned_lsn) && row.refs == 0;
    // Without its children their references would never go, but by a recount.
    let children_known = row.is_manifest != chunk.children.is_empty();
    let shape = if chunk.unread { row.is_manifest && chunk.children.is_empty() } else { children_known };
    if (!same && !sabotage.is(Sabotage::ReclaimState)) || !shape {
        return Ok(false);
    }
    if chunk.condemned_lsn > delete.marked_from && !sabotage.is(Sabotage::ReclaimMark) {
        return Ok(false);
    }
    let grace = delete.grace_ms.max(MIN_GRACE_MS).saturating_mul(if chunk.unread { 2 } else { 1 });
    Ok(sabotage.is(Sabotage::ReclaimGrace) || reclaim::is_over(draft.view, chunk.condemned_lsn, grace)?)
}

fn condemned_by(row: &ChunkRow, lsn: Lsn) -> bool {
    row.state == ChunkState::Condemned as i32 && row.condemned_lsn == lsn.0
}

/// The counts are exact: between the condemnation and now nothing took or dropped a reference, or it would be another
/// condemnation.
pub(super) fn spare_chunks(draft: &mut Draft<'_>, chunks: &[SparedChunk]) -> Result<Outcome, DecideError> {
    if chunks.len() > MAX_ROWS {
        return Err(Refusal::TooLarge.into());
    }
    let mut done = 0;
    for chunk in chunks.iter().filter(|chunk| chunk.refs > 0) {
        if let Some(row) = draft.chunks.row(chunk.id)?.filter(|row| condemned_by(row, chunk.condemned_lsn)) {
            revive(row);
            row.refs = chunk.refs;
            done += 1;
        }
    }
    Ok(outcome(done, chunks.len()))
}

pub(super) fn recount_chunks(draft: &mut Draft<'_>, chunks: &[RecountedChunk]) -> Result<Outcome, DecideError> {
    if chunks.len() > MAX_ROWS {
        return Err(Refusal::TooLarge.into());
    }
    let (mut done, lsn) = (0, draft.at.lsn);
    for chunk in chunks {
        let row = draft.chunks.row(chunk.id)?;
        if let Some(row) = row.filter(|row| row.state == ChunkState::Live as i32 && row.refs == chunk.was) {
            row.refs = chunk.refs;
            if chunk.refs == 0 {
                row.state = ChunkState::Condemned as i32;
                row.condemned_lsn = lsn.0;
            }
            done += 1;
        }
    }
    Ok(outcome(done, chunks.len()))
}

pub(super) fn condemn_chunks(draft: &mut Draft<'_>, chunks: &[ChunkId]) -> Result<Outcome, DecideError> {
    if chunks.len() > MAX_ROWS {
        return Err(Refusal::TooLarge.into());
    }
    let (mut done, lsn) = (0, draft.at.lsn);
    for &id in chunks {
        let row = draft.chunks.row(id)?;
        if let Some(row) = row.filter(|row| row.state == ChunkState::Live as i32 && row.refs == 0) {
            row.state = ChunkState::Condemned as i32;
            row.condemned_lsn = lsn.0;
            done += 1;
        }
    }
    Ok(outcome(done, chunks.len()))
}

pub(super) fn move_frames(
    draft: &mut Draft<'_>,
    stripes: &[StripeRow],
    moves: &[Move],
) -> Result<Outcome, DecideError> {
    if moves.len() + stripes.len() > MAX_ROWS {
        return Err(Refusal::TooLarge.into());
    }
    let mut targets = BTreeMap::new();
    for row in stripes {
        let descriptor = check_stripe(draft, row)?;
        if descriptor.class != StripeClass::Data {
            return Err(Refusal::BadStripe(descriptor.id).into());
        }
        targets.insert(descriptor.id, (descriptor, row, false));
    }
    let (mut moved, mut skipped) = (0, 0);
    for step in moves {
        let target = step.to.stripe().and_then(|id| targets.get_mut(&id));
        let target = target.filter(|(descriptor, ..)| fits(descriptor, &step.to)).ok_or(Refusal::BadMove)?;
        match draft.chunks.move_frame(step.id, &step.from, &step.to)? {
            true => (moved, target.2) = (moved + 1, true),
            false => skipped += 1,
        }
    }
    for (id, (_, row, used)) in targets {
        if used {
            put_stripe(draft, id, row)?;
        }
    }
    Ok(Outcome::Sealed { moved, skipped })
}

pub(super) fn drop_stripes(draft: &mut Draft<'_>, stripes: &[DroppedStripe]) -> Result<Outcome, DecideError> {
    check_hold(draft)?;
    if stripes.iter().map(|stripe| 1 + stripe.frames.len()).sum::<usize>() > MAX_ROWS {
        return Err(Refusal::TooLarge.into());
    }
    let mut done = 0;
    let mut seen = BTreeSet::new();
    for stripe in stripes {
        if seen.insert(stripe.id) && is_unused(draft, stripe)? {
            let name = StripeName { epoch: stripe.id.epoch.0, counter: stripe.id.counter };
            draft.rows.push(EffectKind::DeleteStripe(name));
            done += 1;
        }
    }
    Ok(outcome(done, stripes.len()))
}

fn is_unused(draft: &Draft<'_>, stripe: &DroppedStripe) -> Result<bool, DecideError> {
    let Some(row) = index::stripe(draft.view, stripe.id)? else { return Ok(false) };
    let descriptor = lookup::descriptor(stripe.id, &row)?;
    if descriptor.class != StripeClass::Data {
        return Ok(false);
    }
    if draft.at.sabotage.is(Sabotage::DropCheck) {
        return Ok(true);
    }
    let frames: u64 = stripe.frames.iter().map(|(_, len)| u64::from(*len)).sum();
    let shards: u64 = descriptor.data_present().into_iter().map(|index| u64::from(descriptor.shard_len(index))).sum();
    if frames != shards {
        return Ok(false);
    }
    for (id, _) in &stripe.frames {
        if is_placed_in(draft.view, *id, stripe.id)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_placed_in(view: &dyn View, id: ChunkId, stripe: StripeId) -> Result<bool, DecideError> {
    let place = index::chunk(view, id)?.and_then(|row| row.place);
    Ok(place.and_then(|place| place.stripe()) == Some(stripe))
}

/// A fact, not a wish: not refused while reclaim is held.
pub(super) fn stripes_freed(draft: &mut Draft<'_>, stripes: &[StripeId]) -> Result<Outcome, DecideError> {
    if stripes.len() > MAX_ROWS {
        return Err(Refusal::TooLarge.into());
    }
    let mut done = 0;
    for id in stripes.iter().copied().collect::<BTreeSet<_>>() {
        if reclaim::dropped_stripe(draft.view, id)?.is_some() {
            draft.rows.push(EffectKind::StripeFreed(StripeName { epoch: id.epoch.0, counter: id.counter }));
            done += 1;
        }
    }
    Ok(outcome(done, stripes.len()))
}

fn put(draft: &mut Draft<'_>, name: &str, value: String) -> Result<(), DecideError> {
    let row = SettingRow { name: name.to_owned(), value: Bytes::from(value) };
    if index::setting(draft.view, name)?.as_ref() != Some(&row) {
        draft.rows.push(EffectKind::PutSetting(row));
    }
    Ok(())
}

/// The first reason stays: an operator has to see it.
pub(super) fn hold(draft: &mut Draft<'_>, reason: &str) -> Result<Outcome, DecideError> {
    let held = index::setting(draft.view, HOLD_SETTING)?.is_some_and(|row| !row.value.is_empty());
    if !held {
        put(draft, HOLD_SETTING, if reason.is_empty() { "no reason given".to_owned() } else { reason.to_owned() })?;
    }
    Ok(Outcome::Done)
}

pub(super) fn release(draft: &mut Draft<'_>, floor: Lsn) -> Result<Outcome, DecideError> {
    put(draft, HOLD_SETTING, String::new())?;
    if floor > reclaim::floor(draft.view)? {
        put(draft, FLOOR_SETTING, floor.0.to_string())?;
    }
    let lsn = draft.at.lsn.0.to_string();
    put(draft, RELEASED_SETTING, lsn)?;
    Ok(Outcome::Done)
}
