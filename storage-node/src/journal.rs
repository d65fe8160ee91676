//! Where on a drive each unsealed journal entry lies: kept in memory, rebuilt from record headers at every start.
//!
//! There are few journal segments (sealing frees them), so the map is small: one element per record, and one word per
//! entry of the records that were written, or read, by this start.

use crate::client::{Damage, JournalSegmentInfo, ReadError};
use crate::segment::{Found, SegmentMeta, Tail, What};
use codec::id::{Epoch, Lsn};
use codec::journal::{BatchHeader, MAX_ENTRY};
use codec::segment::JournalHead;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A record of journal entries.
#[derive(Clone, Debug)]
pub(crate) struct JournalRecord {
    pub block: u64,
    pub payload_len: u64,
    pub first: Lsn,
    pub last: Lsn,
    pub last_epoch: Epoch,
    /// Where in the payload each entry's length word is; `None` until somebody asks.
    pub offsets: Option<Arc<[u32]>>,
}

impl JournalRecord {
    /// A record that was just written.
    pub fn written(block: u64, payload: &[u8], batch: &BatchHeader) -> JournalRecord {
        JournalRecord {
            block,
            payload_len: payload.len() as u64,
            first: batch.first,
            last: batch.last,
            last_epoch: batch.last_epoch,
            offsets: entry_offsets(payload),
        }
    }

    /// A record that a scan found; `None` if it is no journal record.
    pub fn found(found: &Found) -> Option<JournalRecord> {
        let What::Entries { first, last, last_epoch } = found.what else { return None };
        let (block, payload_len) = (found.block, found.payload_len);
        Some(JournalRecord { block, payload_len, first, last, last_epoch, offsets: None })
    }

    /// The range of the payload that holds `range` of the bytes of the entry at `lsn`; the offsets must be known.
    pub fn payload_range(&self, lsn: Lsn, range: &Range<u32>) -> Result<Range<u64>, ReadError> {
        let offsets = self.offsets.as_ref().ok_or(ReadError::NotFound)?;
        let i = usize::try_from(lsn.0 - self.first.0).map_err(|_| ReadError::NotFound)?;
        let start = u64::from(*offsets.get(i).ok_or(ReadError::NotFound)?) + 4;
        let end = offsets.get(i + 1).map_or(self.payload_len, |next| u64::from(*next));
        let len = end.saturating_sub(start);
        if range.start > range.end || u64::from(range.end) > len {
            return Err(ReadError::OutOfRange { start: range.start, end: range.end, len });
        }
        Ok(start + u64::from(range.start)..start + u64::from(range.end))
    }
}

/// Where each entry's length word is in a batch's payload; `None` if the lengths do not add up.
pub(crate) fn entry_offsets(payload: &[u8]) -> Option<Arc<[u32]>> {
    let mut offsets = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let word = payload.get(at..at + 4)?.try_into().ok()?;
        let len = usize::try_from(u32::from_le_bytes(word)).ok().filter(|len| *len <= MAX_ENTRY)?;
        offsets.push(u32::try_from(at).ok()?);
        at = at.checked_add(4)?.checked_add(len)?;
    }
    (at == payload.len()).then(|| offsets.into())
}

/// A journal segment and its records.
#[derive(Clone, Debug)]
pub(crate) struct JournalSegment {
    pub meta: Arc<SegmentMeta>,
    pub head: JournalHead,
    pub records: Vec<JournalRecord>,
    pub closed: bool,
    /// The block behind the last record.
    pub end_block: u64,
    pub barrier: u64,
    pub tail: Tail,
    pub damage: Vec<Damage>,
}

impl JournalSegment {
    fn info(&self, number: u64) -> JournalSegmentInfo {
        JournalSegmentInfo {
            number,
            head: self.head,
            epoch: self.meta.header.epoch,
            first: self.records.iter().map(|r| r.first).min(),
            last: self.records.iter().map(|r| r.last).max(),
            last_epoch: self.records.last().map(|r| r.last_epoch),
            closed: self.closed,
            bytes: self.end_block * crate::segment::BLOCK_BYTES,
            damaged: self.damage.len() as u64,
        }
    }

    fn holding(&self, lsn: Lsn) -> Option<&JournalRecord> {
        // Records of a segment are in LSN order: a batch that does not continue its segment is refused.
        let i = self.records.partition_point(|r| r.last < lsn);
        self.records.get(i).filter(|r| r.first <= lsn)
    }
}

/// The journal segments of a drive.
#[derive(Debug, Default)]
pub(crate) struct JournalMap {
    segments: BTreeMap<u64, JournalSegment>,
    /// Segments whose own header is gone: that they are there is all that is known.
    headless: BTreeMap<u64, Damage>,
}

impl JournalMap {
    pub fn add(&mut self, segment: JournalSegment) {
        self.segments.insert(segment.meta.header.number, segment);
    }

    pub fn remove(&mut self, number: u64) {
        self.segments.remove(&number);
    }

    pub fn get(&self, number: u64) -> Option<&JournalSegment> {
        self.segments.get(&number)
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut JournalSegment> {
        self.segments.get_mut(&number)
    }

    /// Adds a segment whose own header is gone. To be left out would make it look as if it had never been begun, and
    /// a recovery could take the drive's copy of the journal for complete.
    pub fn add_headless(&mut self, damage: Damage) {
        self.headless.insert(damage.segment, damage);
    }

    pub fn is_headless(&self, number: u64) -> bool {
        self.headless.contains_key(&number)
    }

    pub fn infos(&self) -> Vec<JournalSegmentInfo> {
        let mut infos: Vec<_> = self.segments.iter().map(|(number, segment)| segment.info(*number)).collect();
        infos.extend(self.headless.keys().map(|number| headless_info(*number)));
        infos.sort_by_key(|info| info.number);
        infos
    }

    /// The records that hold `lsn`, newest segment first: an entry that was copied again is there twice.
    pub fn find(&self, lsn: Lsn) -> Vec<(Arc<SegmentMeta>, JournalRecord)> {
        let holding = |s: &JournalSegment| s.holding(lsn).map(|record| (Arc::clone(&s.meta), record.clone()));
        self.segments.values().rev().filter_map(holding).collect()
    }

    /// Remembers where a record's entries are.
    pub fn set_offsets(&mut self, number: u64, block: u64, offsets: Arc<[u32]>) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        if let Some(record) = segment.records.iter_mut().find(|r| r.block == block) {
            record.offsets = Some(offsets);
        }
    }

    pub fn len(&self) -> u64 {
        self.segments.len() as u64
    }

    pub fn damaged(&self) -> Vec<Damage> {
        let known = self.segments.values().flat_map(|s| s.damage.iter());
        known.chain(self.headless.values()).cloned().collect()
    }
}

/// All that can be said of a segment without a header.
fn headless_info(number: u64) -> JournalSegmentInfo {
    JournalSegmentInfo {
        number,
        head: JournalHead { ensemble: 0, first_lsn: Lsn(0) },
        epoch: Epoch(0),
        first: None,
        last: None,
        last_epoch: None,
        closed: true,
        bytes: 0,
        damaged: 1,
    }
}
