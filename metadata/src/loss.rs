//! Accepting a loss: where the journal is cut, which drives are left, and what the old index knew of what is gone.

use crate::index::{self, BUCKETS, IndexError, OBJECTS};
use crate::survey::{Chain, DriveCopy, IndexMark};
use codec::effect::{AcceptedLossRow, BucketRow, VersionRow};
use codec::id::Lsn;
use codec::journal::NO_ENTRY;
use codec::register::Register;
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
/// build on is not known.
pub fn cut(chain: &mut Chain, index: IndexMark, copies: &[DriveCopy]) -> AcceptedLossRow {
    let marks = || copies.iter().flat_map(|copy| &copy.segments).flat_map(|segment| &segment.marks);
    let known = marks().map(|mark| mark.lsn).max().unwrap_or(Lsn(0)).max(index.applied);
    if let Some(gap) = chain.gap.take() {
        // Before the gap: the longest run from the sealed part that one hash chain covers.
        chain.held.clear();
        let mut last = (chain.sealed, None);
        loop {
            let next = marks().filter(|m| m.before() == last.0 && m.lsn > last.0 && m.lsn < gap);
            let next = next.filter(|m| last.1.is_none_or(|hash| m.prev_hash == hash)).max_by_key(|m| (m.epoch, m.lsn));
            let Some(mark) = next else { break };
            let holders = copies.iter().filter(|c| c.segments.iter().any(|s| s.marks.contains(mark))).map(|c| c.drive);
            let held = crate::journal::Held {
                hash: mark.hash,
                prev_hash: mark.prev_hash,
                epoch: mark.epoch,
                len: mark.len,
                holders: holders.collect(),
            };
            chain.held.insert(mark.lsn, held);
            last = (mark.lsn, Some(mark.hash));
        }
        chain.last = (last.0, last.1.unwrap_or(NO_ENTRY));
    }
    AcceptedLossRow { kept: chain.last.0.0, known: known.0.max(chain.last.0.0) }
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
        if row.seq > kept.0 {
            let size = row.content.as_ref().map_or(0, |content| content.size);
            lost.push(Lost::Version { bucket: row.bucket, key: row.key, size, lsn: Lsn(row.seq) });
        }
    }
    Ok(())
}
