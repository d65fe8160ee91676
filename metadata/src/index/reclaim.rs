//! Rows of the family `reclaim`. All of them follow from effects; none is an effect of its own.
//!
//! Invariants:
//! * `t` and an LSN: the tick that was journaled there, with its steady count. What happened at an LSN happened before the
//!   first tick behind it; so a grace that is counted from that tick is never too short. A tick that is left out (there is
//!   one in [`TICK_STEP_MS`]) or pruned makes it longer. `n`: the last tick that was noted.
//! * `d` and a stripe's id: the stripe is gone from the index, its shards are not freed yet.
//! * `x` and a stripe's id: its shards are freed, and its epoch is not fenced yet. A stripe may be committed in several
//!   entries; one that came late would bring back a stripe whose shards are gone (R1).
//! * `e` and an epoch: the LSN at which it was granted. `f`: the oldest epoch that is not fenced; without it, the last one. It
//!   never goes back. A stripe of an epoch that was not granted was written by a service whose journal this is not, or no longer: it is evidence that this state was put back from the past, and no orphan (R10). An index that an older Stele made
//!   has these rows from some epoch on; earlier ones count as granted.
//! * `g` and an epoch: it was granted to a gateway, and to which. Only while it is not fenced.

use super::{IndexError, Overlay, RECLAIM, RowFault, View, clock, damaged, decode, epoch, setting, tagged};
use crate::command::EPOCH_HOLD_MS;
use codec::effect::{ClockTick, DroppedRow, EpochRow, GrantRow, StripeRow};
use codec::id::{DomainId, Epoch, Lsn, StripeId};
use std::collections::BTreeSet;
use std::str::FromStr;

/// The steady count is noted once in this many milliseconds.
pub const TICK_STEP_MS: u64 = 10 * 60 * 1000;
/// The longest grace that can be asked for.
pub const MAX_GRACE_MS: u64 = 90 * 24 * 3600 * 1000;
/// What is older is not told apart. What can't be read waits for twice the grace: were ticks forgotten before that, it would
/// never be over.
const REMEMBERED_MS: u64 = 2 * MAX_GRACE_MS;

/// Name of the setting that switches all deletion: `on` (also when it was never set) or anything else for off.
pub const RECLAIM_SETTING: &str = "reclaim";
/// Name of the setting that says why nothing is deleted until an operator releases it (R10); empty when nothing holds it.
pub const HOLD_SETTING: &str = "reclaim-hold";
/// Name of the setting that holds the LSN of the last release, in ASCII.
pub const RELEASED_SETTING: &str = "reclaim-released";

/// Name of the setting that holds the LSN, in ASCII, that deletes are ordered for at least: that of the latest state that a
/// drive remembered when an operator released reclaim.
pub const FLOOR_SETTING: &str = "reclaim-floor";

/// Name of the setting that holds an epoch, in ASCII: an operator has seen that the drives have stripes of earlier epochs which
/// the index lacks, and has released reclaim all the same; 0 when there is nothing to be seen.
pub const ORPHANS_SETTING: &str = "reclaim-orphans";
/// Name of the setting that lists, in ASCII, the epochs that this journal never granted and of which a drive had stripes when an
/// operator released reclaim. A drive that was away then may bring others: nobody has seen those.
pub const SEEN_SETTING: &str = "reclaim-seen";
/// Name of the setting that lists, in ASCII, the dedup domains whose chunks are to be counted again: a manifest chunk of them
/// could not be read once, and may have gone without its children.
pub const RECOUNT_SETTING: &str = "reclaim-recount";

/// Why nothing is deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hold {
    /// An operator switched it off.
    #[error("an operator switched it off")]
    Off,
    /// Something that only an operator can judge happened.
    #[error("{0}")]
    Held(String),
    /// A loss was accepted and not released since: what looks unreferenced may be what the lost entries referenced (R10).
    #[error("entries up to {0} were lost and that loss was accepted")]
    AcceptedLoss(Lsn),
}

const OPEN_KEY: &[u8] = b"f";

fn tick_key(lsn: Lsn) -> Vec<u8> {
    tagged(b't', &lsn.0.to_be_bytes())
}

fn epoch_key(epoch: Epoch) -> Vec<u8> {
    tagged(b'e', &epoch.0.to_be_bytes())
}

fn gateway_key(epoch: Epoch) -> Vec<u8> {
    tagged(b'g', &epoch.0.to_be_bytes())
}

fn stripe_key(tag: u8, id: StripeId) -> Vec<u8> {
    tagged(tag, &id.to_bytes())
}

/// Notes a tick's steady count, and forgets what lies behind twice the longest grace.
pub(crate) fn note_tick(overlay: &mut Overlay<'_>, lsn: Lsn, tick: &ClockTick) -> Result<(), IndexError> {
    let last = clock(overlay)?.map(|last| last.steady_ms);
    let noted = overlay.row(RECLAIM, b"n")?;
    let noted = noted.map(|value| decode::<ClockTick>(RECLAIM, b"n", value)).transpose()?.map(|tick| tick.steady_ms);
    // A count that ran backwards (an older Stele wrote ticks without it) begins anew.
    let backwards = last.is_some_and(|last| tick.steady_ms < last);
    if !backwards && noted.is_some_and(|noted| tick.steady_ms < noted.saturating_add(TICK_STEP_MS)) {
        return Ok(());
    }
    overlay.put(RECLAIM, tick_key(lsn), tick);
    overlay.put(RECLAIM, b"n".to_vec(), tick);
    // The newest of those that are old enough stays: it stands for all before it.
    loop {
        let mut oldest = ticks_from(overlay, Lsn(0), 2)?.into_iter();
        let (Some((first, _)), Some((_, second))) = (oldest.next(), oldest.next()) else { return Ok(()) };
        if second.steady_ms.saturating_add(REMEMBERED_MS) > tick.steady_ms {
            return Ok(());
        }
        overlay.delete(RECLAIM, tick_key(first));
    }
}

fn ticks_from(view: &dyn View, from: Lsn, limit: usize) -> Result<Vec<(Lsn, ClockTick)>, IndexError> {
    let rows = view.rows(RECLAIM, &tick_key(from), &[b't' + 1], limit)?;
    let tick = |(key, value): (bytes::Bytes, bytes::Bytes)| {
        let lsn = key.get(1..).and_then(|lsn| lsn.try_into().ok());
        let lsn = lsn.ok_or_else(|| damaged(RECLAIM, &key, RowFault::Key))?;
        Ok((Lsn(u64::from_be_bytes(lsn)), decode(RECLAIM, &key, value)?))
    };
    rows.into_iter().map(tick).collect()
}

/// Whether `grace_ms` of the steady count have passed since the entry at `lsn`, for certain.
pub fn is_over(view: &dyn View, lsn: Lsn, grace_ms: u64) -> Result<bool, IndexError> {
    let Some((_, then)) = ticks_from(view, lsn, 1)?.pop() else { return Ok(false) };
    let now = clock(view)?.map_or(0, |tick| tick.steady_ms);
    Ok(now.checked_sub(then.steady_ms).is_some_and(|passed| passed >= grace_ms))
}

/// The last LSN for which [`is_over`] holds; `None` when there is none.
pub fn over_upto(view: &dyn View, grace_ms: u64) -> Result<Option<Lsn>, IndexError> {
    let now = clock(view)?.map_or(0, |tick| tick.steady_ms);
    let old = |tick: &ClockTick| now.checked_sub(tick.steady_ms).is_some_and(|passed| passed >= grace_ms);
    let ticks = ticks_from(view, Lsn(0), usize::MAX)?;
    Ok(ticks.into_iter().filter(|(_, tick)| old(tick)).map(|(lsn, _)| lsn).max())
}

/// Takes a stripe out of the index; its row is kept until its shards are freed.
pub(crate) fn drop_stripe(overlay: &mut Overlay<'_>, lsn: Lsn, id: StripeId) -> Result<(), IndexError> {
    if let Some(row) = super::stripe(overlay, id)? {
        let dropped = DroppedRow { lsn: lsn.0, stripe: Some(row) };
        overlay.put(RECLAIM, stripe_key(b'd', id), &dropped);
        overlay.delete(super::STRIPES, id.to_bytes().to_vec());
    }
    Ok(())
}

/// The shards of a dropped stripe are freed.
pub(crate) fn stripe_freed(overlay: &mut Overlay<'_>, id: StripeId) -> Result<(), IndexError> {
    overlay.delete(RECLAIM, stripe_key(b'd', id));
    if id.epoch >= open_from(overlay)? {
        overlay.put_raw(RECLAIM, stripe_key(b'x', id), Vec::new());
    }
    Ok(())
}

fn number(bytes: Option<&[u8]>, key: &[u8]) -> Result<u64, IndexError> {
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| damaged(RECLAIM, key, RowFault::Malformed))
}

/// The epochs that were granted, from one on, oldest first, with the LSNs.
fn granted(view: &dyn View, from: Epoch, limit: usize) -> Result<Vec<(Epoch, Lsn)>, IndexError> {
    let rows = view.rows(RECLAIM, &epoch_key(from), &[b'e' + 1], limit)?;
    rows.into_iter()
        .map(|(key, lsn)| Ok((Epoch(number(key.get(1..), &key)?), Lsn(number(Some(&lsn), &key)?))))
        .collect()
}

/// Whether an epoch was never granted in this journal, and none that an operator has seen and released.
pub fn is_foreign(view: &dyn View, epoch: Epoch) -> Result<bool, IndexError> {
    let Some((first, _)) = granted(view, Epoch(0), 1)?.pop() else { return Ok(false) };
    let unknown = epoch > first && !was_granted(view, epoch)?;
    Ok(unknown && !seen_epochs(view)?.contains(&epoch))
}

/// The first epoch that was granted behind an LSN; `None` when there is none.
pub fn granted_behind(view: &dyn View, lsn: Lsn) -> Result<Option<Epoch>, IndexError> {
    Ok(granted(view, Epoch(0), usize::MAX)?.into_iter().find(|(_, at)| *at > lsn).map(|(epoch, _)| epoch))
}

/// Epochs of another history that were on a drive when an operator released reclaim.
pub fn seen_epochs(view: &dyn View) -> Result<BTreeSet<Epoch>, IndexError> {
    listed(view, SEEN_SETTING, Epoch)
}

/// Notes that an epoch is granted and which are fenced, and forgets the freed stripes of those: nobody can commit them any
/// more (R9).
pub(crate) fn grant(overlay: &mut Overlay<'_>, lsn: Lsn, row: &EpochRow) -> Result<(), IndexError> {
    fence(overlay, Epoch(if row.open_from == 0 { row.epoch } else { row.open_from }))?;
    for epoch in [row.epoch, row.journal].into_iter().filter(|epoch| *epoch > 0) {
        overlay.put_raw(RECLAIM, epoch_key(Epoch(epoch)), lsn.0.to_be_bytes().to_vec());
    }
    Ok(())
}

/// The same, for an epoch of a gateway.
pub(crate) fn grant_to_gateway(overlay: &mut Overlay<'_>, lsn: Lsn, row: &GrantRow) -> Result<(), IndexError> {
    fence(overlay, Epoch(row.open_from))?;
    overlay.put_raw(RECLAIM, epoch_key(Epoch(row.epoch)), lsn.0.to_be_bytes().to_vec());
    overlay.put(RECLAIM, gateway_key(Epoch(row.epoch)), row);
    Ok(())
}

/// Fences every epoch before `open`.
fn fence(overlay: &mut Overlay<'_>, open: Epoch) -> Result<(), IndexError> {
    for (tag, end) in [(b"x", stripe_key(b'x', StripeId { epoch: open, counter: 0 })), (b"g", gateway_key(open))] {
        for (key, _) in overlay.rows(RECLAIM, tag, &end, usize::MAX)? {
            overlay.delete(RECLAIM, key);
        }
    }
    overlay.put_raw(RECLAIM, OPEN_KEY.to_vec(), open.0.to_be_bytes().to_vec());
    Ok(())
}

/// The epochs of gateways that are not fenced, oldest first.
pub fn gateways(view: &dyn View) -> Result<Vec<GrantRow>, IndexError> {
    let rows = view.rows(RECLAIM, b"g", &[b'g' + 1], usize::MAX)?;
    rows.into_iter().map(|(key, value)| decode(RECLAIM, &key, value)).collect()
}

/// The gateway that an epoch was granted to; `None` when it is fenced, or no gateway's.
pub fn holder(view: &dyn View, epoch: Epoch) -> Result<Option<String>, IndexError> {
    let key = gateway_key(epoch);
    let Some(value) = view.row(RECLAIM, &key)? else { return Ok(None) };
    let row: GrantRow = decode(RECLAIM, &key, value)?;
    Ok(Some(row.holder))
}

/// The oldest epoch of a gateway of which a request may still be under way.
pub fn oldest_of_gateways(view: &dyn View, life_ms: u64) -> Result<Option<Epoch>, IndexError> {
    for row in gateways(view)? {
        let epoch = Epoch(row.epoch);
        let granted_at = granted(view, epoch, 1)?.pop().filter(|(first, _)| *first == epoch).map(|(_, at)| at);
        let granted_at = granted_at.ok_or_else(|| damaged(RECLAIM, &gateway_key(epoch), RowFault::Dangling))?;
        if !is_over(view, granted_at, EPOCH_HOLD_MS.saturating_add(life_ms))? {
            return Ok(Some(epoch));
        }
    }
    Ok(None)
}

/// The oldest epoch that is not fenced: what is not known of an earlier one stays unknown (R9).
pub fn open_from(view: &dyn View) -> Result<Epoch, IndexError> {
    match view.row(RECLAIM, OPEN_KEY)? {
        Some(value) => Ok(Epoch(number(Some(&value), OPEN_KEY)?)),
        // An index that an older Stele made, which had one open epoch at a time.
        None => epoch(view),
    }
}

/// Whether an epoch was granted and is not fenced: its holder may commit.
pub fn is_open(view: &dyn View, writer: Epoch) -> Result<bool, IndexError> {
    let current = epoch(view)?;
    let granted = || Ok(writer >= open_from(view)? && was_granted(view, writer)?);
    if writer == current { Ok(true) } else { granted() }
}

fn was_granted(view: &dyn View, epoch: Epoch) -> Result<bool, IndexError> {
    Ok(view.row(RECLAIM, &epoch_key(epoch))?.is_some())
}

/// The highest epoch that was granted, in a loaded checkpoint too.
pub fn last_granted(view: &dyn View) -> Result<Epoch, IndexError> {
    let last = granted(view, open_from(view)?, usize::MAX)?.pop().map(|(epoch, _)| epoch);
    Ok(last.unwrap_or_default().max(epoch(view)?))
}

/// The oldest epoch of which a request may still be under way: one that lives `life_ms` at most, and that began before its
/// holder had the next one. The service holds an epoch until it has renewed it. Whether a gateway has renewed its own nobody need
/// know: it has until the time for that is over.
pub fn oldest_to_stay_open(view: &dyn View, life_ms: u64) -> Result<Epoch, IndexError> {
    let open = open_from(view)?;
    let of_gateways: BTreeSet<u64> = gateways(view)?.into_iter().map(|row| row.epoch).collect();
    let epochs = granted(view, open, usize::MAX)?;
    let mut oldest = open;
    let own = epochs.into_iter().filter(|(epoch, _)| *epoch > open && !of_gateways.contains(&epoch.0));
    for (next, granted_at) in own {
        if !is_over(view, granted_at, life_ms)? {
            break;
        }
        oldest = next;
    }
    Ok(oldest_of_gateways(view, life_ms)?.map_or(oldest, |gateways| gateways.min(oldest)))
}

/// Whether a stripe of this id was dropped, and could still be committed by mistake.
pub fn was_dropped(view: &dyn View, id: StripeId) -> Result<bool, IndexError> {
    let gone = |tag| Ok::<bool, IndexError>(view.row(RECLAIM, &stripe_key(tag, id))?.is_some());
    Ok(gone(b'd')? || gone(b'x')?)
}

/// A dropped stripe whose shards are not freed yet.
pub fn dropped_stripe(view: &dyn View, id: StripeId) -> Result<Option<DroppedRow>, IndexError> {
    let key = stripe_key(b'd', id);
    view.row(RECLAIM, &key)?.map(|value| decode(RECLAIM, &key, value)).transpose()
}

/// Up to `limit` dropped stripes with ids from `from` on, whose shards are not freed yet.
pub fn dropped(view: &dyn View, from: StripeId, limit: usize) -> Result<Vec<(Lsn, StripeRow)>, IndexError> {
    let rows = view.rows(RECLAIM, &stripe_key(b'd', from), &[b'd' + 1], limit)?;
    let row = |(key, value): (bytes::Bytes, bytes::Bytes)| {
        let row: DroppedRow = decode(RECLAIM, &key, value)?;
        Ok((Lsn(row.lsn), row.stripe.ok_or_else(|| damaged(RECLAIM, &key, RowFault::Field))?))
    };
    rows.into_iter().map(row).collect()
}

/// A setting that lists numbers, in ASCII; what does not read is left out.
fn listed<N: FromStr, T: Ord>(view: &dyn View, name: &str, of: impl Fn(N) -> T) -> Result<BTreeSet<T>, IndexError> {
    let value = setting(view, name)?.map(|row| row.value).unwrap_or_default();
    let value = String::from_utf8_lossy(&value);
    Ok(value.split_ascii_whitespace().filter_map(|number| number.parse().ok()).map(of).collect())
}

/// A setting that is an LSN; one that does not read is one that was never set.
fn lsn_setting(view: &dyn View, name: &str) -> Result<Lsn, IndexError> {
    let value = setting(view, name)?.map(|row| row.value);
    Ok(Lsn(value.and_then(|value| String::from_utf8_lossy(&value).parse().ok()).unwrap_or(0)))
}

/// The LSN that deletes are ordered for at least.
pub fn floor(view: &dyn View) -> Result<Lsn, IndexError> {
    lsn_setting(view, FLOOR_SETTING)
}

/// Orphans of epochs before this one were seen by an operator, however many they are.
pub fn accepted_orphans(view: &dyn View) -> Result<Epoch, IndexError> {
    Ok(Epoch(lsn_setting(view, ORPHANS_SETTING)?.0))
}

/// The dedup domains whose chunks are to be counted again.
pub fn recounted_domains(view: &dyn View) -> Result<BTreeSet<DomainId>, IndexError> {
    listed(view, RECOUNT_SETTING, DomainId)
}

/// How long ago, by the steady count, the entry at `lsn` was, at least; `None` when no tick has followed it.
pub fn age(view: &dyn View, lsn: Lsn) -> Result<Option<u64>, IndexError> {
    let Some((_, then)) = ticks_from(view, lsn, 1)?.pop() else { return Ok(None) };
    Ok(clock(view)?.map(|now| now.steady_ms.saturating_sub(then.steady_ms)))
}

/// What keeps everything from being deleted, if something does.
pub fn hold(view: &dyn View) -> Result<Option<Hold>, IndexError> {
    if setting(view, RECLAIM_SETTING)?.is_some_and(|row| row.value != "on") {
        return Ok(Some(Hold::Off));
    }
    unreleased(view)
}

/// What only an operator can judge and none has released yet, whether or not deletion is switched on. Until then what is known here
/// may be older than what others have: nothing of theirs may be deleted or replaced because of it (R10).
pub fn unreleased(view: &dyn View) -> Result<Option<Hold>, IndexError> {
    if let Some(row) = setting(view, HOLD_SETTING)?.filter(|row| !row.value.is_empty()) {
        return Ok(Some(Hold::Held(String::from_utf8_lossy(&row.value).into_owned())));
    }
    let lost = super::accepted_losses(view)?;
    let lost = lost.iter().map(|loss| loss.known).max();
    let released = lsn_setting(view, RELEASED_SETTING)?;
    Ok(lost.filter(|known| *known >= released.0).map(|known| Hold::AcceptedLoss(Lsn(known))))
}
