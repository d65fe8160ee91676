//! Accepting a loss: where the journal is cut, which drives are left, and what the old index knew of what is gone.

use crate::index::{self, BUCKETS, IndexError, OBJECTS};
use crate::journal::Held;
use crate::replay::Reach;
use crate::survey::{Chain, DriveCopy, IndexMark, Mark, ReadOnlyReason, hash_at};
use bytes::Bytes;
use codec::effect::{AcceptedLossRow, BucketRow, SealedRow, VersionRow};
use codec::id::{DriveId, Lsn};
use codec::register::Register;
use std::collections::{BTreeMap, BTreeSet};
use storage_node::kv::{Direction, Kv};

/// Something that the old index had and the new one has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A bucket.
    Bucket {
        /// Its name.
        name: String,
        /// The LSN of its creation.
        lsn: Lsn,
    },
    /// An object version.
    Version {
        /// The bucket's id.
        bucket: u64,
        /// The key.
        key: String,
        /// Its size, in bytes.
        size: u64,
        /// The LSN of its commit.
        lsn: Lsn,
    },
}

/// What was lost, as far as anybody knows.
#[derive(Clone, Debug)]
pub struct LossReport {
    /// The last entry that was kept.
    pub kept: Lsn,
    /// The last entry that is known to have existed. What lies between was lost, deletions included.
    pub known: Lsn,
    /// Where the old index was kept.
    pub index_kept_at: String,
    /// What the old index knew of entries after `kept`. Empty when there was no index, which does not mean that nothing was
    /// lost.
    pub lost: Vec<Lost>,
}

/// Cuts the chain behind the last entry that everything before it leads up to. Entries after a gap can't be used: what they
/// build on is not known. Where the journal does not go on from the ledger, for instance because all of it is gone, what is
/// kept ends with the ledger, or with the entries that follow it; the second result then says what is sealed though no seal
/// that is left says so. An error is a ledger that does not reach the journal.
pub fn cut(
    chain: &mut Chain,
    reach: &Reach,
    index: IndexMark,
    copies: &[DriveCopy],
) -> Result<(AcceptedLossRow, Option<SealedRow>), ReadOnlyReason> {
    let (end, hash) = reach.last;
    if chain.sealed > end {
        return Err(ReadOnlyReason::LedgerGap { after: end, journal: chain.sealed.next() });
    }
    let mut next: BTreeMap<Lsn, Vec<(&Mark, DriveId)>> = BTreeMap::new();
    for copy in copies {
        for mark in copy.segments.iter().flat_map(|segment| &segment.marks) {
            next.entry(mark.before()).or_default().push((mark, copy.drive));
        }
    }
    let highest = next.values().flatten().map(|(mark, _)| mark.lsn).max().unwrap_or(Lsn(0));
    let known = highest.max(index.applied).max(end);
    let joined = chain.gap.is_none() && chain.last.0 >= end && hash_at(chain, end).is_none_or(|there| there == hash);
    let mut sealed = None;
    if !joined {
        let gap = chain.gap.take().filter(|gap| *gap > end);
        chain.held = run_from((end, hash), gap, &next);
        let last = chain.held.last_key_value().map(|(lsn, held)| (*lsn, held.hash));
        chain.last = last.unwrap_or((end, hash));
        sealed = (end > chain.sealed).then(|| SealedRow {
            first: chain.sealed.next().0,
            last: end.0,
            stripes: Vec::new(),
            last_hash: Bytes::copy_from_slice(&hash),
        });
        chain.sealed = end;
    }
    Ok((AcceptedLossRow { kept: chain.last.0.0, known: known.0.max(chain.last.0.0) }, sealed))
}

/// The longest run of entries after `last` that one hash chain covers, before `gap`.
fn run_from(
    mut last: (Lsn, [u8; 32]),
    gap: Option<Lsn>,
    next: &BTreeMap<Lsn, Vec<(&Mark, DriveId)>>,
) -> BTreeMap<Lsn, Held> {
    let mut held = BTreeMap::new();
    loop {
        let follow = next.get(&last.0).into_iter().flatten();
        let follow =
            follow.filter(|(m, _)| m.lsn > last.0 && m.prev_hash == last.1 && gap.is_none_or(|gap| m.lsn < gap));
        let Some((mark, _)) = follow.max_by_key(|(mark, _)| (mark.epoch, mark.lsn)) else { return held };
        let same = next.get(&last.0).into_iter().flatten().filter(|(m, _)| m.hash == mark.hash);
        let holders: BTreeSet<DriveId> = same.map(|(_, drive)| *drive).collect();
        let entry = Held {
            hash: mark.hash,
            prev_hash: mark.prev_hash,
            epoch: mark.epoch,
            len: mark.len,
            holders: holders.into_iter().collect(),
        };
        held.insert(mark.lsn, entry);
        last = (mark.lsn, mark.hash);
    }
}

/// The register of what is left: when a majority of the registered drives is there, all of them stay registered (they may come
/// back); otherwise those that are there.
pub fn surviving_register(register: &Register, copies: &[DriveCopy]) -> Register {
    let mut register = register.clone();
    let there = |d: &codec::id::DriveId| copies.iter().any(|copy| copy.drive == *d);
    if register.registered.iter().filter(|d| there(d)).count() < register.majority() {
        register.registered.retain(there);
    }
    register
}

/// Buckets and versions that an index has from entries after `kept`.
pub fn newer_than(kv: &dyn Kv, kept: Lsn) -> Vec<Lost> {
    let mut lost = Vec::new();
    if let Err(error) = collect(kv, kept, &mut lost) {
        tracing::warn!(%error, "the old index can't be read to the end; the list of what is lost is not complete");
    }
    lost
}

fn collect(kv: &dyn Kv, kept: Lsn, lost: &mut Vec<Lost>) -> Result<(), IndexError> {
    let mut buckets = kv.scan(BUCKETS, b"n", Direction::Forward)?;
    while let Some((key, value)) = buckets.next()? {
        if !key.starts_with(b"n") {
            break;
        }
        let row: BucketRow = index::decode(BUCKETS, &key, value)?;
        if row.id > kept.0 {
            lost.push(Lost::Bucket { name: row.name, lsn: Lsn(row.id) });
        }
    }
    let mut objects = kv.scan(OBJECTS, &[], Direction::Forward)?;
    while let Some((key, value)) = objects.next()? {
        let row: VersionRow = index::decode(OBJECTS, &key, value)?;
        // A delete marker that is lost is a deletion that is lost: nothing that anybody could look for.
        if row.seq > kept.0 && !row.delete_marker {
            let size = row.content.as_ref().map_or(0, |content| content.size);
            lost.push(Lost::Version { bucket: row.bucket, key: row.key, size, lsn: Lsn(row.seq) });
        }
    }
    Ok(())
}
