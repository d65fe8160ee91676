//! Rows of things that happened and wait to be told, in the family `replication`. All of them follow from effects.
//!
//! Invariants:
//! * `n`, a webhook, a seq and a number: a notice. `m` and a webhook: how many there are; without it, none. `o`, a webhook and an
//!   account: how many of them are of that account's buckets. `l` and a webhook: how many were lost.
//! * At most [`MOST`] wait for one webhook, and of one account never more than is left for the others ([`Room`]): who decides queues no
//!   more, so a webhook that never answers fills nothing, and no account keeps another's from being told. What is not queued is counted.

use super::{
    IndexError, Overlay, REPLICATION, RowFault, View, damaged, decode, prefix_end, read, tagged, terminated_into,
    unescape,
};
use bytes::Bytes;
use codec::effect::{NoticeName, NoticeRow, NoticesRow};
use std::collections::BTreeSet;

/// Most notices that wait for one webhook.
pub const MOST: u64 = 100_000;
/// Somebody should look when so many wait.
pub const MANY: u64 = 10_000;

/// What is known of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub webhook: String,
    /// Notices that wait.
    pub waiting: u64,
    /// Notices that were not queued, since an operator last saw it.
    pub lost: u64,
}

/// How many notices wait for a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Of all accounts.
    pub waiting: u64,
    /// Of one account.
    pub own: u64,
}

impl Room {
    /// Of the account `owner`.
    pub fn of(view: &dyn View, webhook: &str, owner: &str) -> Result<Room, IndexError> {
        Ok(Room { waiting: length(view, webhook)?, own: number(view, &own_key(webhook, owner))? })
    }

    /// Whether another one of that account may wait: as many as are free, so that each next account still finds half of the rest.
    pub fn is_left(self) -> bool {
        self.waiting.saturating_add(self.own) < MOST
    }
}

fn order_prefix(webhook: &str) -> Vec<u8> {
    let mut out = tagged(b'n', &[]);
    terminated_into(&mut out, webhook.as_bytes());
    out
}

fn order_key(name: &NoticeName) -> Vec<u8> {
    let mut out = order_prefix(&name.webhook);
    out.extend_from_slice(&name.seq.to_be_bytes());
    out.extend_from_slice(&name.number.to_be_bytes());
    out
}

fn count_key(webhook: &str) -> Vec<u8> {
    let mut out = tagged(b'm', &[]);
    terminated_into(&mut out, webhook.as_bytes());
    out
}

fn own_key(webhook: &str, owner: &str) -> Vec<u8> {
    let mut out = tagged(b'o', &[]);
    terminated_into(&mut out, webhook.as_bytes());
    terminated_into(&mut out, owner.as_bytes());
    out
}

fn lost_key(webhook: &str) -> Vec<u8> {
    let mut out = tagged(b'l', &[]);
    terminated_into(&mut out, webhook.as_bytes());
    out
}

fn number(view: &dyn View, key: &[u8]) -> Result<u64, IndexError> {
    let Some(value) = view.row(REPLICATION, key)? else { return Ok(0) };
    let bytes = value[..].try_into().map_err(|_| damaged(REPLICATION, key, RowFault::Malformed))?;
    Ok(u64::from_be_bytes(bytes))
}

/// How many notices wait for a webhook.
pub fn length(view: &dyn View, webhook: &str) -> Result<u64, IndexError> {
    number(view, &count_key(webhook))
}

/// How many notices for a webhook were lost, since an operator last saw it.
pub fn lost(view: &dyn View, webhook: &str) -> Result<u64, IndexError> {
    number(view, &lost_key(webhook))
}

/// Up to `limit` notices that wait for a webhook, in order.
pub fn first(view: &dyn View, webhook: &str, limit: usize) -> Result<Vec<NoticeRow>, IndexError> {
    let prefix = order_prefix(webhook);
    let rows = view.rows(REPLICATION, &prefix, &prefix_end(&prefix), limit)?;
    rows.into_iter().map(|(key, value)| decode(REPLICATION, &key, value)).collect()
}

/// Whether a notice waits.
pub fn waits(view: &dyn View, name: &NoticeName) -> Result<bool, IndexError> {
    Ok(read::<NoticeRow>(view, REPLICATION, &order_key(name))?.is_some())
}

/// The webhooks that notices wait for, or were lost, by name.
pub fn queues(view: &dyn View) -> Result<Vec<Queue>, IndexError> {
    let mut names = BTreeSet::new();
    for prefix in [b"m", b"l"] {
        for (key, _) in view.rows(REPLICATION, prefix, &prefix_end(prefix), usize::MAX)? {
            let name = unescape(&key[1..]).and_then(|(name, _)| String::from_utf8(name).ok());
            names.insert(name.ok_or_else(|| damaged(REPLICATION, &key, RowFault::Key))?);
        }
    }
    let queue = |webhook: String| {
        let (waiting, lost) = (length(view, &webhook)?, lost(view, &webhook)?);
        Ok(Queue { webhook, waiting, lost })
    };
    names.into_iter().map(queue).collect()
}

/// Whether a row is one that there can be here.
pub(super) fn check(key: &[u8], value: Bytes) -> Result<(), RowFault> {
    let good = match key.first() {
        Some(b'n') => {
            let row: NoticeRow = decode(REPLICATION, key, value).map_err(|_| RowFault::Malformed)?;
            row.name.is_some_and(|name| order_key(&name) == key)
        }
        Some(b'm' | b'l') => value.len() == 8 && unescape(&key[1..]).is_some_and(|(_, rest)| rest.is_empty()),
        Some(b'o') => {
            let account = unescape(&key[1..]).and_then(|(_, rest)| unescape(rest));
            value.len() == 8 && account.is_some_and(|(_, rest)| rest.is_empty())
        }
        _ => false,
    };
    if good { Ok(()) } else { Err(RowFault::Key) }
}

/// What is there is not counted again, and what is gone not twice.
pub(crate) fn change(overlay: &mut Overlay<'_>, row: &NoticesRow) -> Result<(), IndexError> {
    for notice in &row.queued {
        let Some(name) = &notice.name else { continue };
        if !waits(overlay, name)? {
            for key in [count_key(&name.webhook), own_key(&name.webhook, &notice.owner)] {
                let more = number(overlay, &key)?.saturating_add(1);
                put_number(overlay, key, more);
            }
        }
        overlay.put(REPLICATION, order_key(name), notice);
    }
    for name in &row.done {
        let Some(notice) = read::<NoticeRow>(overlay, REPLICATION, &order_key(name))? else { continue };
        overlay.delete(REPLICATION, order_key(name));
        for key in [count_key(&name.webhook), own_key(&name.webhook, &notice.owner)] {
            let less = number(overlay, &key)?.saturating_sub(1);
            put_number(overlay, key, less);
        }
    }
    for lost in &row.lost {
        let key = lost_key(&lost.webhook);
        let more = number(overlay, &key)?.saturating_add(lost.count);
        put_number(overlay, key, more);
    }
    row.seen.iter().for_each(|webhook| overlay.delete(REPLICATION, lost_key(webhook)));
    Ok(())
}

fn put_number(overlay: &mut Overlay<'_>, key: Vec<u8>, number: u64) {
    match number {
        0 => overlay.delete(REPLICATION, key),
        number => overlay.put_raw(REPLICATION, key, number.to_be_bytes().to_vec()),
    }
}
