//! Stripes, sealing, drives, accounts, domains, settings, epochs and the retention clock.

use super::chunks::fits;
use super::{DecideError, Draft, check_open, iam};
use crate::command::{GEOMETRY_SETTING, MAX_ROWS, NewChunk, Outcome, REQUEST_LIFE_MS, Refusal, SURVIVE_SETTING, Seal};
use crate::index::{self, access_key_key, account_name_key, reclaim};
use crate::keys::Purpose;
use crate::placement::cells;
use crate::topology::Level;
use codec::effect::{
    AccountRow, CheckpointRow, ClockTick, DomainRow, DriveRow, DriveState, EffectKind, EpochRow, GrantRow, LevelRow,
    NodeRow, NodeState, SettingRow, StripeRow,
};
use codec::id::{DriveId, Epoch, Lsn, StripeId};
use codec::level::{FormatLevel, SOFTWARE};
use codec::stripe::{StripeClass, StripeDescriptor};
use std::collections::{BTreeMap, BTreeSet};
use storage_node::sabotage::Sabotage;

/// A stripe whose row is known already is accepted when the row is the same: so a stripe with more chunks than one entry
/// may carry is committed in several.
pub(super) fn commit_stripe(
    draft: &mut Draft<'_>,
    stripe: &StripeRow,
    chunks: &[NewChunk],
) -> Result<Outcome, DecideError> {
    let descriptor = check_stripe(draft, stripe)?;
    if descriptor.class != StripeClass::Data {
        return Err(Refusal::BadStripe(descriptor.id).into());
    }
    // R9: orphan shards are collected by fenced epoch, so a stripe of a fenced one may be half gone already.
    check_open(draft.view, descriptor.id.epoch, draft.at)?;
    let safety = draft.at.losses.of_stripe(&descriptor, stripe);
    draft.chunks.add_striped(descriptor.id, &descriptor, safety, chunks)?;
    put_stripe(draft, descriptor.id, stripe)?;
    Ok(Outcome::Done)
}

/// The descriptor of a new stripe whose shards lie on distinct registered drives that are not removed, exactly those that exist on one each.
pub(super) fn check_stripe(draft: &Draft<'_>, stripe: &StripeRow) -> Result<StripeDescriptor, DecideError> {
    let parsed = StripeDescriptor::parse(&stripe.descriptor);
    let descriptor = parsed.map_err(|_| Refusal::BadStripe(StripeId::default()))?;
    let bad = || DecideError::from(Refusal::BadStripe(descriptor.id));
    if stripe.drives.len() != usize::from(descriptor.width()) {
        return Err(bad());
    }
    let mut seen = BTreeSet::new();
    for (index, drive) in (0..descriptor.width()).zip(&stripe.drives) {
        if !descriptor.is_present(index) {
            if !drive.is_empty() {
                return Err(bad());
            }
            continue;
        }
        let id = DriveId::from_slice(drive).ok_or_else(bad)?;
        // One that was removed while the stripe was being written is no place: nobody would ever look there again.
        let there = index::drive(draft.view, id)?.is_some_and(|row| row.state != DriveState::Removed as i32);
        if !seen.insert(id) || !there {
            return Err(bad());
        }
    }
    Ok(descriptor)
}

/// R1: a stripe id means one stripe for ever, also when it was dropped: its shards are freed, or are about to be. R9: one that
/// is not known yet is of an epoch that is not fenced, since unknown shards of fenced epochs are collected.
pub(super) fn put_stripe(draft: &mut Draft<'_>, id: StripeId, stripe: &StripeRow) -> Result<(), DecideError> {
    match index::stripe(draft.view, id)? {
        None if index::reclaim::was_dropped(draft.view, id)? => return Err(Refusal::BadStripe(id).into()),
        None => {
            check_open(draft.view, id.epoch, draft.at)?;
            draft.rows.push(EffectKind::PutStripe(stripe.clone()));
        }
        // Repair may have moved a shard since the first piece of a commit: where it is now is what counts.
        Some(known) if known.descriptor == stripe.descriptor => {}
        Some(_) => return Err(Refusal::BadStripe(id).into()),
    }
    Ok(())
}

pub(super) fn seal(draft: &mut Draft<'_>, seal: &Seal) -> Result<Outcome, DecideError> {
    if seal.moves.len() > MAX_ROWS {
        return Err(Refusal::TooLarge.into());
    }
    let range = &seal.sealed;
    let before = index::last_sealed(draft.view)?.map_or(0, |row| row.last);
    let fits_ledger = before < range.first && range.first <= range.last && range.last < draft.at.lsn.0;
    if !fits_ledger || range.last_hash.len() != 32 {
        return Err(Refusal::BadSeal.into());
    }
    let mut stripes = BTreeMap::new();
    for stripe in &seal.stripes {
        let descriptor = check_stripe(draft, stripe)?;
        put_stripe(draft, descriptor.id, stripe)?;
        stripes.insert(descriptor.id, descriptor);
    }
    let ledger = |id| stripes.get(&id).is_some_and(|stripe: &StripeDescriptor| stripe.class == StripeClass::Ledger);
    let named = range.stripes.iter().map(|name| StripeId { epoch: Epoch(name.epoch), counter: name.counter });
    if range.stripes.is_empty() || !named.into_iter().all(ledger) {
        return Err(Refusal::BadSeal.into());
    }
    let (mut moved, mut skipped) = (0, 0);
    for step in &seal.moves {
        let target = step.to.stripe().and_then(|id| stripes.get(&id));
        if !target.is_some_and(|stripe| stripe.class == StripeClass::Data && fits(stripe, &step.to)) {
            return Err(Refusal::BadSeal.into());
        }
        match draft.chunks.move_frame(step.id, &step.from, &step.to)? {
            true => moved += 1,
            false => skipped += 1,
        }
    }
    draft.rows.push(EffectKind::Sealed(seal.sealed.clone()));
    Ok(Outcome::Sealed { moved, skipped })
}

/// The checkpoint before the new one stays, for a rebuild that can't read this one; those before it go.
pub(super) fn put_checkpoint(
    draft: &mut Draft<'_>,
    row: &CheckpointRow,
    stripes: &[StripeRow],
) -> Result<Outcome, DecideError> {
    let known = index::checkpoints(draft.view)?;
    let newest = known.last().map_or(0, |known| known.lsn);
    if row.lsn <= newest || row.lsn >= draft.at.lsn.0 || stripes.is_empty() || stripes.len() != row.stripes.len() {
        return Err(Refusal::BadCheckpoint.into());
    }
    for (name, stripe) in row.stripes.iter().zip(stripes) {
        let descriptor = check_stripe(draft, stripe)?;
        let named = descriptor.id == StripeId { epoch: Epoch(name.epoch), counter: name.counter };
        let range = Some((Lsn(row.lsn), Lsn(row.lsn)));
        if !named || descriptor.class != StripeClass::Checkpoint || descriptor.lsn_range != range {
            return Err(Refusal::BadCheckpoint.into());
        }
        put_stripe(draft, descriptor.id, stripe)?;
    }
    draft.rows.push(EffectKind::PutCheckpoint(row.clone()));
    for old in known.into_iter().rev().skip(1) {
        draft.rows.extend(old.stripes.iter().map(|name| EffectKind::DeleteStripe(name.clone())));
        draft.rows.push(EffectKind::DeleteCheckpoint(old));
    }
    Ok(Outcome::Done)
}

pub(super) fn put_account(draft: &mut Draft<'_>, row: &AccountRow) -> Result<Outcome, DecideError> {
    for pointer in [access_key_key(&row.access_key), account_name_key(&row.name)] {
        if index::account_at(draft.view, &pointer)?.is_some_and(|holder| holder.id != row.id) {
            return Err(Refusal::AccountTaken.into());
        }
    }
    // An access key belongs to one only, or who signs with it would be whoever is looked for first.
    if index::access::access_key(draft.view, &row.access_key)?.is_some() {
        return Err(Refusal::AccountTaken.into());
    }
    if index::account(draft.view, &row.id)?.as_ref() != Some(row) {
        draft.rows.push(EffectKind::PutAccount(row.clone()));
    }
    Ok(Outcome::Done)
}

/// Decided here and not by whoever asks: of two who make the same account at once the second would take the first one's keys away,
/// and both would be told that theirs count.
pub(super) fn create_account(draft: &mut Draft<'_>, row: &AccountRow) -> Result<Outcome, DecideError> {
    match index::account(draft.view, &row.id)? {
        Some(_) => Err(Refusal::AccountExists.into()),
        None => put_account(draft, row),
    }
}

/// Only one that is there: whoever replaces keys that others know must not be told that he has when the id was a wrong one.
pub(super) fn replace_account(draft: &mut Draft<'_>, row: &AccountRow) -> Result<Outcome, DecideError> {
    let known = index::account(draft.view, &row.id)?.ok_or(Refusal::NoSuchAccount)?;
    let or = |given: &String, known: String| if given.is_empty() { known } else { given.clone() };
    let (name, display_name) = (or(&row.name, known.name), or(&row.display_name, known.display_name));
    let email = or(&row.email, known.email);
    let (access_key, wrapped_secret) = (row.access_key.clone(), row.wrapped_secret.clone());
    // What is set by other commands stays as it is.
    put_account(draft, &AccountRow { name, display_name, email, access_key, wrapped_secret, ..known })
}

/// What is counted before the commit may be another number by then, and a bucket without an owner is out of everybody's reach.
pub(super) fn delete_account(draft: &mut Draft<'_>, id: &str) -> Result<Outcome, DecideError> {
    let row = index::account(draft.view, id)?.ok_or(Refusal::NoSuchAccount)?;
    let buckets = index::buckets_of(draft.view, id)?.len();
    if buckets > 0 {
        return Err(Refusal::AccountOwns { buckets }.into());
    }
    iam::forget(draft, id)?;
    draft.rows.push(EffectKind::DeleteAccount(row));
    Ok(Outcome::Done)
}

/// The first one to ask makes the domain; everybody after gets the same.
pub(super) fn put_domain(draft: &mut Draft<'_>, row: &DomainRow) -> Result<Outcome, DecideError> {
    if let Some(known) = index::domain_of(draft.view, &row.account, &Purpose::of_row(row))? {
        return Ok(Outcome::Domain(known));
    }
    let row = DomainRow { id: draft.at.lsn.0, ..row.clone() };
    draft.rows.push(EffectKind::PutDomain(row.clone()));
    Ok(Outcome::Domain(row))
}

pub(super) fn put_setting(draft: &mut Draft<'_>, row: &SettingRow) -> Result<Outcome, DecideError> {
    let known = index::setting(draft.view, &row.name)?;
    if known.as_ref() == Some(row) {
        return Ok(Outcome::Done);
    }
    if row.name == SURVIVE_SETTING
        && std::str::from_utf8(&row.value).ok().and_then(|name| name.parse::<Level>().ok()).is_none()
    {
        return Err(Refusal::BadSetting { name: row.name.clone() }.into());
    }
    if let Some(known) = known.filter(|_| row.name == GEOMETRY_SETTING) {
        let journaled = String::from_utf8_lossy(&known.value).into_owned();
        return Err(Refusal::GeometryDiffers { journaled }.into());
    }
    draft.rows.push(EffectKind::PutSetting(row.clone()));
    Ok(Outcome::Done)
}

/// Refuses an epoch that is not above all that were granted.
fn check_higher(draft: &Draft<'_>, epoch: Epoch) -> Result<(), DecideError> {
    let current = reclaim::last_granted(draft.view)?;
    if epoch > current { Ok(()) } else { Err(Refusal::Fenced { writer: epoch, current }.into()) }
}

pub(super) fn start_epoch(draft: &mut Draft<'_>, epoch: Epoch, journal: Epoch) -> Result<Outcome, DecideError> {
    check_higher(draft, epoch)?;
    let journal = if journal == epoch { 0 } else { journal.0 };
    // Gateways write on while the service starts again, or another one takes over.
    let open_from = reclaim::oldest_of_gateways(draft.view, REQUEST_LIFE_MS)?.map_or(0, |oldest| oldest.0);
    draft.rows.push(EffectKind::StartEpoch(EpochRow { epoch: epoch.0, open_from, journal }));
    Ok(Outcome::Done)
}

/// What is fenced is decided here and not by whoever asks: an epoch that is fenced too early takes a stripe from a request that
/// still writes it.
pub(super) fn renew_epoch(draft: &mut Draft<'_>, epoch: Epoch, unfinished: Epoch) -> Result<Outcome, DecideError> {
    check_higher(draft, epoch)?;
    let open_from = open_from(draft, unfinished)?.0;
    draft.rows.push(EffectKind::StartEpoch(EpochRow { epoch: epoch.0, open_from, journal: 0 }));
    Ok(Outcome::Done)
}

/// The same, for an epoch of a gateway.
pub(super) fn grant_epoch(
    draft: &mut Draft<'_>,
    epoch: Epoch,
    holder: &str,
    unfinished: Epoch,
) -> Result<Outcome, DecideError> {
    check_higher(draft, epoch)?;
    let open_from = open_from(draft, unfinished)?.0;
    draft.rows.push(EffectKind::GrantEpoch(GrantRow { epoch: epoch.0, holder: holder.to_owned(), open_from }));
    Ok(Outcome::Done)
}

/// The oldest epoch that stays open, while work that began in `unfinished` is not committed.
fn open_from(draft: &Draft<'_>, unfinished: Epoch) -> Result<Epoch, DecideError> {
    // What is fenced stays fenced: its orphans may be gone already.
    let unfinished = unfinished.max(reclaim::open_from(draft.view)?);
    Ok(reclaim::oldest_to_stay_open(draft.view, REQUEST_LIFE_MS)?.min(unfinished))
}

pub(super) fn register_drive(draft: &mut Draft<'_>, row: &DriveRow) -> Result<Outcome, DecideError> {
    let id = DriveId::from_slice(&row.id).ok_or(Refusal::BadDrive)?;
    let known = index::drive(draft.view, id)?;
    let mut rows = index::drives(draft.view)?;
    // Nobody else says in which cell a drive is: who changes a row has read it before the cells were settled last.
    let cell = known.as_ref().map_or_else(|| cells::cell_for(&rows, row), |known| known.cell);
    let row = DriveRow { cell, ..row.clone() };
    let is_removed = known.as_ref().is_some_and(|known| known.state == DriveState::Removed as i32);
    let stated = DriveState::try_from(row.state).is_ok_and(|state| state != DriveState::Unspecified);
    if !stated || (is_removed && known.as_ref() != Some(&row)) {
        return Err(Refusal::BadDrive.into());
    }
    rows.retain(|other| other.id != row.id);
    rows.push(row);
    let moved = cells::settle(&rows);
    for row in rows {
        let this = DriveId::from_slice(&row.id);
        let cell = this.and_then(|this| moved.get(&this)).copied();
        if cell.is_some() || (this == Some(id) && known.as_ref() != Some(&row)) {
            draft.rows.push(EffectKind::PutDrive(DriveRow { cell: cell.unwrap_or(row.cell), ..row }));
        }
    }
    Ok(Outcome::Done)
}

/// A drive that was removed meanwhile is at no place that counts.
pub(super) fn see_drive(draft: &mut Draft<'_>, seen: &DriveRow) -> Result<Outcome, DecideError> {
    let id = DriveId::from_slice(&seen.id).ok_or(Refusal::BadDrive)?;
    let known = index::drive(draft.view, id)?.ok_or(Refusal::BadDrive)?;
    match known.state == DriveState::Removed as i32 {
        true => Ok(Outcome::Done),
        false => register_drive(draft, &DriveRow { state: known.state, ..seen.clone() }),
    }
}

pub(super) fn settle_cells(draft: &mut Draft<'_>) -> Result<Outcome, DecideError> {
    let rows = index::drives(draft.view)?;
    let moved = cells::settle(&rows);
    for row in rows {
        if let Some(cell) = DriveId::from_slice(&row.id).and_then(|id| moved.get(&id)) {
            draft.rows.push(EffectKind::PutDrive(DriveRow { cell: *cell, ..row }));
        }
    }
    Ok(Outcome::Done)
}

/// Names and addresses are short and of few letters, or whoever lists them could be made to show anything.
pub(super) fn put_node(draft: &mut Draft<'_>, row: &NodeRow) -> Result<Outcome, DecideError> {
    let stated = NodeState::try_from(row.state).is_ok_and(|state| state != NodeState::Unspecified);
    let plain = |text: &str| !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic());
    if !stated || !plain(&row.name) || !plain(&row.address) {
        return Err(Refusal::BadNode.into());
    }
    if index::node(draft.view, &row.name)?.as_ref() != Some(row) {
        draft.rows.push(EffectKind::PutNode(row.clone()));
    }
    Ok(Outcome::Done)
}

/// One journaled entry, so a crash leaves the old level or the new one.
pub(super) fn raise_level(draft: &mut Draft<'_>, level: FormatLevel) -> Result<Outcome, DecideError> {
    let at = FormatLevel(index::level(draft.view)?.level);
    if level > at {
        draft.rows.push(EffectKind::PutLevel(LevelRow { level: level.0, by: SOFTWARE.to_owned() }));
    }
    Ok(Outcome::Done)
}

/// R15: the retention clock never runs backwards.
pub(super) fn clock_tick(draft: &mut Draft<'_>, tick: &ClockTick) -> Result<Outcome, DecideError> {
    let last = index::clock(draft.view)?.unwrap_or_default();
    if (tick.retention_ms < last.retention_ms || tick.steady_ms < last.steady_ms)
        && !draft.at.sabotage.is(Sabotage::ClockMonotonic)
    {
        return Err(Refusal::ClockBackwards.into());
    }
    draft.rows.push(EffectKind::ClockTick(tick.clone()));
    Ok(Outcome::Done)
}
