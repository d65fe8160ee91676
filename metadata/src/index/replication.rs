//! Rows of the family `replication`: the rules by which buckets are copied elsewhere, and the keys that wait to be copied.
//! All of them follow from effects, so a rebuild from media brings the queue back as it was.
//!
//! Invariants:
//! * `r` and a bucket: its rule. While it is there, a change of one of the bucket's keys queues that key in the same entry.
//! * `k`, a bucket and a key: the key waits. `t`, the bucket, the LSN since which it does, and the key: the same in the order of
//!   waiting, exactly one for each `k`. `c` and a bucket: how many there are; without it, none.
//! * A key waits once, however often it changes: what is copied is what the key is when its turn comes. So copies of one key
//!   are never out of order, and the queue is never longer than the bucket had keys.
//! * A key stops waiting only by a `done` that names its last change. One that changed while it was being copied waits on.
//! * `v`, a bucket, a key and the `seq` of a version that was deleted here under a rule that copies versions and deletes: the LSN of
//!   that entry, and the version's name ([`super::versions::name_of`]). It is there for as long as the key waits. Only what such a row
//!   names is deleted there: that a version is not here says nothing, it may have been lost.
//! * Other letters are those of [`super::notices`].
//! * Without a rule nothing is queued; what was left in the queue is taken out by `done`s, in entries of bounded size.

use super::{
    IndexError, Overlay, REPLICATION, RowFault, View, damaged, decode, prefix_end, read, read_all, tagged,
    terminated_into, unescape, versions,
};
use bytes::Bytes;
use codec::effect::{ReplicatedKey, ReplicationQueueRow, ReplicationRow, VersionName, WaitingKeyRow};
use codec::id::{BucketId, Lsn};

/// When a change of a key was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// The LSN of its entry.
    pub lsn: Lsn,
    /// Milliseconds since the Unix epoch, for people.
    pub wall_ms: u64,
}

fn rule_key(bucket: BucketId) -> Vec<u8> {
    tagged(b'r', &bucket.0.to_be_bytes())
}

fn count_key(bucket: BucketId) -> Vec<u8> {
    tagged(b'c', &bucket.0.to_be_bytes())
}

fn waiting_key(bucket: BucketId, key: &str) -> Vec<u8> {
    let mut out = tagged(b'k', &bucket.0.to_be_bytes());
    terminated_into(&mut out, key.as_bytes());
    out
}

fn order_prefix(bucket: BucketId) -> Vec<u8> {
    tagged(b't', &bucket.0.to_be_bytes())
}

fn order_key(bucket: BucketId, since: u64, key: &str) -> Vec<u8> {
    let mut out = order_prefix(bucket);
    out.extend_from_slice(&since.to_be_bytes());
    terminated_into(&mut out, key.as_bytes());
    out
}

fn gone_prefix(bucket: BucketId, key: &str) -> Vec<u8> {
    let mut out = tagged(b'v', &bucket.0.to_be_bytes());
    terminated_into(&mut out, key.as_bytes());
    out
}

fn gone_key(bucket: BucketId, key: &str, seq: Lsn) -> Vec<u8> {
    let mut out = gone_prefix(bucket, key);
    out.extend_from_slice(&seq.0.to_be_bytes());
    out
}

/// The LSN of a delete, and what it deleted.
fn parse_gone(value: &[u8]) -> Option<(u64, &str)> {
    let (lsn, name) = value.split_first_chunk::<8>()?;
    let name = std::str::from_utf8(name).ok()?;
    (!name.is_empty()).then_some((u64::from_be_bytes(*lsn), name))
}

fn parse_order(key: &[u8]) -> Option<(u64, String)> {
    let (since, name) = key.get(9..)?.split_first_chunk::<8>()?;
    let (name, rest) = unescape(name)?;
    let name = String::from_utf8(name).ok()?;
    rest.is_empty().then_some((u64::from_be_bytes(*since), name))
}

/// The rule of a bucket.
pub fn rule(view: &dyn View, bucket: BucketId) -> Result<Option<ReplicationRow>, IndexError> {
    read(view, REPLICATION, &rule_key(bucket))
}

/// All rules, by bucket id.
pub fn rules(view: &dyn View) -> Result<Vec<ReplicationRow>, IndexError> {
    read_all(view, REPLICATION, b"r")
}

/// Since when a key waits; `None` when it does not.
pub fn waiting(view: &dyn View, bucket: BucketId, key: &str) -> Result<Option<WaitingKeyRow>, IndexError> {
    read(view, REPLICATION, &waiting_key(bucket, key))
}

/// How many keys of a bucket wait.
pub fn length(view: &dyn View, bucket: BucketId) -> Result<u64, IndexError> {
    let key = count_key(bucket);
    let Some(value) = view.row(REPLICATION, &key)? else { return Ok(0) };
    let bytes = value[..].try_into().map_err(|_| damaged(REPLICATION, &key, RowFault::Malformed))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Up to `limit` keys that wait, those that wait longest first, and since which LSN; only what comes after `after`.
pub fn queue(
    view: &dyn View,
    bucket: BucketId,
    after: Option<&(u64, String)>,
    limit: usize,
) -> Result<Vec<(u64, String)>, IndexError> {
    let prefix = order_prefix(bucket);
    let start = match after {
        // The first key after that one: no key is another one's prefix, each has its end.
        Some((since, key)) => [order_key(bucket, *since, key), vec![0]].concat(),
        None => prefix.clone(),
    };
    let rows = view.rows(REPLICATION, &start, &prefix_end(&prefix), limit)?;
    let parse = |(key, _): (Bytes, Bytes)| parse_order(&key).ok_or_else(|| damaged(REPLICATION, &key, RowFault::Key));
    rows.into_iter().map(parse).collect()
}

/// Whether the version of this name was deleted here, and that waits to be copied.
pub fn is_gone(view: &dyn View, bucket: BucketId, key: &str, name: &str) -> Result<bool, IndexError> {
    let Some(seq) = versions::seq_of_name(name) else { return Ok(false) };
    let row = gone_key(bucket, key, seq);
    let Some(value) = view.row(REPLICATION, &row)? else { return Ok(false) };
    let (_, gone) = parse_gone(&value).ok_or_else(|| damaged(REPLICATION, &row, RowFault::Malformed))?;
    Ok(gone == name)
}

/// Buckets that have keys waiting and no rule any more.
pub fn left_over(view: &dyn View) -> Result<Vec<BucketId>, IndexError> {
    let mut found = Vec::new();
    for (key, _) in view.rows(REPLICATION, b"c", &prefix_end(b"c"), usize::MAX)? {
        let id = key.get(1..).and_then(|id| id.try_into().ok());
        let bucket = BucketId(u64::from_be_bytes(id.ok_or_else(|| damaged(REPLICATION, &key, RowFault::Key))?));
        if rule(view, bucket)?.is_none() {
            found.push(bucket);
        }
    }
    Ok(found)
}

/// Whether a row is one that this family can have.
pub(crate) fn check(key: &[u8], value: Bytes) -> Result<(), RowFault> {
    fn fault(error: IndexError) -> RowFault {
        match error {
            IndexError::Damaged { fault, .. } => fault,
            IndexError::Store(_) => RowFault::Malformed,
        }
    }
    if matches!(key.first(), Some(b'n' | b'm' | b'o' | b'l')) {
        return super::notices::check(key, value);
    }
    let bucket = key.get(1..9).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes).ok_or(RowFault::Key)?;
    let good = match key.first() {
        Some(b'r') => decode::<ReplicationRow>(REPLICATION, key, value).map_err(fault)?.bucket == bucket,
        Some(b'k') => {
            let row: WaitingKeyRow = decode(REPLICATION, key, value).map_err(fault)?;
            row.since <= row.changed && unescape(&key[9..]).is_some_and(|(_, rest)| rest.is_empty())
        }
        Some(b'v') => unescape(&key[9..]).is_some_and(|(_, rest)| rest.len() == 8) && parse_gone(&value).is_some(),
        Some(b't') => value.is_empty() && parse_order(key).is_some(),
        Some(b'c') => value.len() == 8 && key.len() == 9,
        _ => false,
    };
    if good { Ok(()) } else { Err(RowFault::Key) }
}

pub(crate) fn put_rule(overlay: &mut Overlay<'_>, row: &ReplicationRow) {
    overlay.put(REPLICATION, rule_key(BucketId(row.bucket)), row);
}

pub(crate) fn delete_rule(overlay: &mut Overlay<'_>, bucket: BucketId) {
    overlay.delete(REPLICATION, rule_key(bucket));
}

/// A version of a key came or went: it waits from now on if its bucket has a rule.
pub(crate) fn note_change(overlay: &mut Overlay<'_>, bucket: BucketId, key: &str, at: When) -> Result<(), IndexError> {
    if rule(overlay, bucket)?.is_some() {
        enqueue(overlay, bucket, key, at)?;
    }
    Ok(())
}

/// A version is about to go: if its bucket's copy is to lose it, too, that is noted. Asked before its row goes.
pub(crate) fn note_gone(overlay: &mut Overlay<'_>, name: &VersionName, at: When) -> Result<(), IndexError> {
    let (bucket, seq) = (BucketId(name.bucket), Lsn(name.seq));
    if !rule(overlay, bucket)?.is_some_and(|rule| rule.versions && rule.deletes) {
        return Ok(());
    }
    if let Some(row) = versions::version_at(overlay, bucket, &name.key, seq)?.filter(|row| !row.delete_marker) {
        let value = [&at.lsn.0.to_be_bytes()[..], versions::name_of(&row).as_bytes()].concat();
        overlay.put_raw(REPLICATION, gone_key(bucket, &name.key, seq), value);
    }
    Ok(())
}

/// What was deleted up to `lsn` is deleted there, too, or never will be.
fn forget_gone(overlay: &mut Overlay<'_>, bucket: BucketId, key: &str, lsn: u64) -> Result<(), IndexError> {
    let prefix = gone_prefix(bucket, key);
    for (row, value) in overlay.rows(REPLICATION, &prefix, &prefix_end(&prefix), usize::MAX)? {
        let (at, _) = parse_gone(&value).ok_or_else(|| damaged(REPLICATION, &row, RowFault::Malformed))?;
        if at <= lsn {
            overlay.delete(REPLICATION, row.to_vec());
        }
    }
    Ok(())
}

fn enqueue(overlay: &mut Overlay<'_>, bucket: BucketId, key: &str, at: When) -> Result<(), IndexError> {
    let (since, since_ms) = match waiting(overlay, bucket, key)? {
        Some(row) => (row.since, row.since_ms),
        None => {
            put_length(overlay, bucket, length(overlay, bucket)?.saturating_add(1));
            overlay.put_raw(REPLICATION, order_key(bucket, at.lsn.0, key), Bytes::new());
            (at.lsn.0, at.wall_ms)
        }
    };
    let row = WaitingKeyRow { changed: at.lsn.0, changed_ms: at.wall_ms, since, since_ms };
    overlay.put(REPLICATION, waiting_key(bucket, key), &row);
    Ok(())
}

/// The copy of a key has all changes up to `done.lsn`.
fn dequeue(overlay: &mut Overlay<'_>, bucket: BucketId, done: &ReplicatedKey) -> Result<(), IndexError> {
    let Some(row) = waiting(overlay, bucket, &done.key)? else { return Ok(()) };
    overlay.delete(REPLICATION, order_key(bucket, row.since, &done.key));
    forget_gone(overlay, bucket, &done.key, done.lsn)?;
    if row.changed <= done.lsn {
        overlay.delete(REPLICATION, waiting_key(bucket, &done.key));
        put_length(overlay, bucket, length(overlay, bucket)?.saturating_sub(1));
        return Ok(());
    }
    // It waits for its last change only. There may have been others since the copied one, so it waits a little longer than
    // the row says; without this a key that changes all the time would seem to have waited for ever.
    let row = WaitingKeyRow { since: row.changed, since_ms: row.changed_ms, ..row };
    overlay.put_raw(REPLICATION, order_key(bucket, row.since, &done.key), Bytes::new());
    overlay.put(REPLICATION, waiting_key(bucket, &done.key), &row);
    Ok(())
}

pub(crate) fn change_queue(overlay: &mut Overlay<'_>, row: &ReplicationQueueRow, at: When) -> Result<(), IndexError> {
    let bucket = BucketId(row.bucket);
    for done in &row.done {
        dequeue(overlay, bucket, done)?;
    }
    row.queued.iter().try_for_each(|key| enqueue(overlay, bucket, key, at))
}

fn put_length(overlay: &mut Overlay<'_>, bucket: BucketId, length: u64) {
    match length {
        0 => overlay.delete(REPLICATION, count_key(bucket)),
        length => overlay.put_raw(REPLICATION, count_key(bucket), length.to_be_bytes().to_vec()),
    }
}
