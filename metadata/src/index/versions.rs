//! Versions of a key, looked up without walking all of them.
//!
//! Invariants:
//! * A version's id begins with its `seq` in 16 hex digits, so a version is found by its id with one read.
//! * `z`, a bucket and a key, in the family `buckets`: the `seq` of the key's null version. It is there whenever the null version is
//!   there and is not the newest, and names no other version. The newest one is looked at first, so a key that never had versions
//!   has no such row, and an index of before there were versions needs none. Without it a key with 100,000 versions would be read
//!   through under the committer's lock, to find that it has no null version.
//! * `r`, a bucket, a key and a `seq`, in the family `buckets`: that version is being restored. Without it whoever finishes restores
//!   would walk over all versions to find them.

use super::{
    BUCKETS, IndexError, OBJECTS, Overlay, RowFault, View, damaged, decode, null_pointer_key, prefix_end, read,
    restoring_key, restoring_of, version_key, versions_of,
};
use bytes::Bytes;
use codec::effect::{VersionName, VersionRow};
use codec::id::{BucketId, Lsn};

/// Hex digits of a version's `seq` at the beginning of its id.
const SEQ_DIGITS: usize = 16;

/// What the name of a null version begins with.
const NULL: &str = "null-";

/// The id of the version that an entry commits. `random`: what makes it hard to guess.
pub fn version_id(seq: Lsn, random: [u8; 8]) -> String {
    format!("{:016x}{}", seq.0, hex::encode(random))
}

/// The newest version of a key, be it a delete marker.
pub fn current_version(view: &dyn View, bucket: BucketId, key: &str) -> Result<Option<VersionRow>, IndexError> {
    Ok(newest_versions(view, bucket, key, 1)?.pop())
}

/// Up to `limit` versions of a key, delete markers included, newest first.
pub fn newest_versions(
    view: &dyn View,
    bucket: BucketId,
    key: &str,
    limit: usize,
) -> Result<Vec<VersionRow>, IndexError> {
    let start = versions_of(bucket, key);
    let rows = view.rows(OBJECTS, &start, &prefix_end(&start), limit)?;
    rows.into_iter().map(|(key, value)| decode(OBJECTS, &key, value)).collect()
}

/// The newest version of a key that is no newer than this.
pub fn newest_from(view: &dyn View, bucket: BucketId, key: &str, seq: Lsn) -> Result<Option<VersionRow>, IndexError> {
    let (start, end) = (version_key(bucket, key, seq), prefix_end(&versions_of(bucket, key)));
    let row = view.rows(OBJECTS, &start, &end, 1)?.pop();
    row.map(|(key, value)| decode(OBJECTS, &key, value)).transpose()
}

/// The null version of a key, be it a delete marker: the one that a PUT replaces in a bucket that keeps no versions, or keeps them no
/// more.
pub fn null_version(view: &dyn View, bucket: BucketId, key: &str) -> Result<Option<VersionRow>, IndexError> {
    let Some(newest) = current_version(view, bucket, key)? else { return Ok(None) };
    if newest.version_id.is_empty() {
        return Ok(Some(newest));
    }
    let pointer = null_pointer_key(bucket, key);
    let Some(seq) = view.row(BUCKETS, &pointer)? else { return Ok(None) };
    let seq = seq_of(&pointer, &seq)?;
    let version: Option<VersionRow> = read(view, OBJECTS, &version_key(bucket, key, seq))?;
    match version {
        Some(version) if version.version_id.is_empty() => Ok(Some(version)),
        _ => Err(damaged(BUCKETS, &pointer, RowFault::Dangling)),
    }
}

/// The version of a key that has this id, be it a delete marker; an empty id is the null version's. What is no id is not there.
pub fn version(view: &dyn View, bucket: BucketId, key: &str, id: &str) -> Result<Option<VersionRow>, IndexError> {
    if id.is_empty() {
        return null_version(view, bucket, key);
    }
    let Some(seq) = seq_of_id(id) else { return Ok(None) };
    let found: Option<VersionRow> = read(view, OBJECTS, &version_key(bucket, key, seq))?;
    Ok(found.filter(|version| version.version_id == id))
}

/// The `seq` that a version's id says; `None` for what is none.
pub fn seq_of_id(id: &str) -> Option<Lsn> {
    id.get(..SEQ_DIGITS).and_then(|seq| u64::from_str_radix(seq, 16).ok()).map(Lsn)
}

/// Up to `limit` versions of a key that are older than `before`, delete markers included, newest first.
pub fn older_versions(
    view: &dyn View,
    bucket: BucketId,
    key: &str,
    before: Lsn,
    limit: usize,
) -> Result<Vec<VersionRow>, IndexError> {
    let Some(newest) = before.0.checked_sub(1) else { return Ok(Vec::new()) };
    let (start, end) = (version_key(bucket, key, Lsn(newest)), prefix_end(&versions_of(bucket, key)));
    let rows = view.rows(OBJECTS, &start, &end, limit)?;
    rows.into_iter().map(|(key, value)| decode(OBJECTS, &key, value)).collect()
}

/// What names a version of a key for ever, also among versions that were its key's null version one after the other.
pub fn name_of(row: &VersionRow) -> String {
    match row.version_id.as_str() {
        "" => format!("{NULL}{:016x}-{:x}", row.seq, row.modified_ms),
        id => id.to_owned(),
    }
}

/// The `seq` that a version's name says; `None` for what is none.
pub fn seq_of_name(name: &str) -> Option<Lsn> {
    seq_of_id(name.strip_prefix(NULL).unwrap_or(name))
}

/// The version with this `seq`.
pub fn version_at(view: &dyn View, bucket: BucketId, key: &str, seq: Lsn) -> Result<Option<VersionRow>, IndexError> {
    read(view, OBJECTS, &version_key(bucket, key, seq))
}

fn seq_of(key: &[u8], value: &Bytes) -> Result<Lsn, IndexError> {
    let bytes = value[..].try_into().map_err(|_| damaged(BUCKETS, key, RowFault::Malformed))?;
    Ok(Lsn(u64::from_be_bytes(bytes)))
}

/// Sets a version's row. A version with an id that is put on top of the null version leaves a pointer to that.
pub(crate) fn put_version(overlay: &mut Overlay<'_>, row: &VersionRow) -> Result<(), IndexError> {
    let bucket = BucketId(row.bucket);
    if !row.version_id.is_empty()
        && let Some(newest) = current_version(overlay, bucket, &row.key)?
        && newest.version_id.is_empty()
    {
        overlay.put_raw(BUCKETS, null_pointer_key(bucket, &row.key), newest.seq.to_be_bytes().to_vec());
    }
    let restoring = restoring_key(bucket, &row.key, Lsn(row.seq));
    if row.restore.as_ref().is_some_and(|restore| restore.days > 0) {
        overlay.put_raw(BUCKETS, restoring, Vec::new());
    } else if overlay.row(BUCKETS, &restoring)?.is_some() {
        overlay.delete(BUCKETS, restoring);
    }
    overlay.put(OBJECTS, version_key(bucket, &row.key, Lsn(row.seq)), row);
    Ok(())
}

/// Up to `limit` versions that are being restored, after this one of them.
pub fn restoring(
    view: &dyn View,
    after: Option<&(BucketId, String, Lsn)>,
    limit: usize,
) -> Result<Vec<(BucketId, String, Lsn)>, IndexError> {
    let start = after
        .map_or_else(|| b"r".to_vec(), |(bucket, key, seq)| [&restoring_key(*bucket, key, *seq)[..], &[0]].concat());
    let rows = view.rows(BUCKETS, &start, &prefix_end(b"r"), limit)?;
    rows.iter().map(|(row, _)| restoring_of(row).ok_or_else(|| damaged(BUCKETS, row, RowFault::Key))).collect()
}

/// Takes a version's row away, and the pointer to it.
pub(crate) fn delete_version(overlay: &mut Overlay<'_>, name: &VersionName) -> Result<(), IndexError> {
    let bucket = BucketId(name.bucket);
    let pointer = null_pointer_key(bucket, &name.key);
    if let Some(seq) = overlay.row(BUCKETS, &pointer)?
        && seq_of(&pointer, &seq)? == Lsn(name.seq)
    {
        overlay.delete(BUCKETS, pointer);
    }
    let restoring = restoring_key(bucket, &name.key, Lsn(name.seq));
    if overlay.row(BUCKETS, &restoring)?.is_some() {
        overlay.delete(BUCKETS, restoring);
    }
    overlay.delete(OBJECTS, version_key(bucket, &name.key, Lsn(name.seq)));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::index::FAMILIES;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use storage_node::kv::MemoryKv;

    const BUCKET: BucketId = BucketId(3);

    fn row(key: &str, seq: u64, null: bool) -> VersionRow {
        let version_id = if null { String::new() } else { version_id(Lsn(seq), [7; 8]) };
        VersionRow { bucket: BUCKET.0, key: key.to_owned(), seq, version_id, ..VersionRow::default() }
    }

    proptest! {
        /// Whatever is put and removed in whatever order: the null version is found, and by one read as by a walk over all.
        #[test]
        fn the_null_version_is_found_however_deep_it_lies(steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..60)) {
            let kv = MemoryKv::new(&FAMILIES);
            let mut overlay = Overlay::new(&kv);
            let mut model: BTreeMap<u64, VersionRow> = BTreeMap::new();
            // Neighbours whose keys begin alike.
            for other in ["k\0", "j", "kk"] {
                put_version(&mut overlay, &row(other, 1, true)).unwrap();
            }
            for ((step, pick), seq) in steps.into_iter().zip(10u64..) {
                let null = model.values().find(|version| version.version_id.is_empty()).cloned();
                match step {
                    // A null version replaces the one that there was.
                    0 => {
                        if let Some(old) = null {
                            delete_version(&mut overlay, &VersionName { bucket: BUCKET.0, key: old.key, seq: old.seq }).unwrap();
                            model.remove(&old.seq);
                        }
                        put_version(&mut overlay, &row("k", seq, true)).unwrap();
                        model.insert(seq, row("k", seq, true));
                    }
                    1 | 2 => {
                        put_version(&mut overlay, &row("k", seq, false)).unwrap();
                        model.insert(seq, row("k", seq, false));
                    }
                    _ if model.is_empty() => {}
                    _ => {
                        let (&gone, version) = model.iter().nth(pick.index(model.len())).unwrap();
                        // A change of a version that is there puts its row again.
                        put_version(&mut overlay, version).unwrap();
                        delete_version(&mut overlay, &VersionName { bucket: BUCKET.0, key: "k".to_owned(), seq: gone }).unwrap();
                        model.remove(&gone);
                    }
                }
                let null = model.values().find(|version| version.version_id.is_empty());
                prop_assert_eq!(null_version(&overlay, BUCKET, "k").unwrap(), null.cloned());
                prop_assert_eq!(current_version(&overlay, BUCKET, "k").unwrap(), model.values().next_back().cloned());
                for version in model.values() {
                    let found = super::version(&overlay, BUCKET, "k", &version.version_id).unwrap();
                    prop_assert_eq!(found.as_ref(), Some(version));
                }
            }
            for (seq, version) in model {
                delete_version(&mut overlay, &VersionName { bucket: BUCKET.0, key: version.key, seq }).unwrap();
            }
            prop_assert_eq!(overlay.rows(BUCKETS, b"", &[0xff], usize::MAX).unwrap(), vec![]);
        }

        #[test]
        fn what_is_no_id_is_not_there(id in ".{0,40}") {
            let kv = MemoryKv::new(&FAMILIES);
            let mut overlay = Overlay::new(&kv);
            put_version(&mut overlay, &row("k", 10, false)).unwrap();
            prop_assert_eq!(version(&overlay, BUCKET, "k", &id).unwrap(), None);
        }
    }
}
