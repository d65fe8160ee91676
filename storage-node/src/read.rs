//! Verified reads of shards and journal entries.
//!
//! Nothing is returned that was not verified on the way: each block against its seeded checksum, the record header
//! against its place, the shard header's root against the one asked for. The index and the maps only say where to look.

use crate::client::{Damage, JournalScan, Lost, ReadError, ScanEnd};
use crate::disk::{Access, Disk, DiskError, DiskFile};
use crate::index::ShardPlace;
use crate::journal::{JournalRecord, entry_offsets};
use crate::open::OpenDrive;
use crate::sabotage::Sabotage;
use crate::segment::{Fault, SegmentMeta, Tail, read_payload, read_record_header, segment_path};
use bytes::Bytes;
use codec::id::{Lsn, ShardId};
use codec::journal::{BatchHeader, Entry, JournalError};
use codec::level::Later;
use codec::segment::{RecordHeader, RecordKind, SegmentClass};
use codec::shard::ShardHeader;
use codec::stripe::StripeClass;
use rustix::io::Errno;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Files of one drive that are kept open.
const OPEN_FILES: usize = 128;
/// A scan of a journal segment returns after this many bytes of payload.
const SCAN_BYTES: u64 = 8 << 20;
/// Rows that one listing step takes from the index.
const LIST_STEP: usize = 256;

/// The files of a drive that are open for reading; the least recently used one is closed first.
#[derive(Debug, Default)]
pub(crate) struct Files(Mutex<OpenFiles>);

#[derive(Debug, Default)]
struct OpenFiles {
    clock: u64,
    files: HashMap<u64, (u64, Arc<dyn DiskFile>)>,
}

impl Files {
    pub fn get(&self, disk: &dyn Disk, class: SegmentClass, number: u64) -> Result<Arc<dyn DiskFile>, DiskError> {
        if let Some(file) = self.touch(number) {
            return Ok(file);
        }
        let path = segment_path(class, number);
        let file = match disk.open(&path, Access::Read) {
            // Those of this drive that nobody reads from at present can be had again.
            Err(error) if no_descriptors(&error) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).files.clear();
                disk.open(&path, Access::Read)?
            }
            opened => opened?,
        };
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.files.len() >= OPEN_FILES {
            let oldest = open.files.iter().min_by_key(|(_, (used, _))| *used).map(|(number, _)| *number);
            oldest.map(|number| open.files.remove(&number));
        }
        open.clock += 1;
        let now = open.clock;
        open.files.insert(number, (now, Arc::clone(&file)));
        Ok(file)
    }

    fn touch(&self, number: u64) -> Option<Arc<dyn DiskFile>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.clock += 1;
        let now = open.clock;
        let (used, file) = open.files.get_mut(&number)?;
        *used = now;
        Some(Arc::clone(file))
    }

    pub fn forget(&self, number: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).files.remove(&number);
    }
}

/// Whether there are no descriptors left. That is the process's trouble and says nothing about the drive.
fn no_descriptors(error: &DiskError) -> bool {
    matches!(error, DiskError::Io { errno: Errno::MFILE | Errno::NFILE, .. })
}

impl OpenDrive {
    fn read_failed(&self, reason: impl ToString) -> ReadError {
        self.latency.failed();
        ReadError::DriveFailed { drive: self.identity.drive, reason: reason.to_string() }
    }

    fn check_readable(&self) -> Result<(), ReadError> {
        let drive = self.identity.drive;
        self.health.failed().map_or(Ok(()), |reason| Err(ReadError::DriveFailed { drive, reason }))
    }

    fn fault(&self, meta: &SegmentMeta, fault: Fault) -> ReadError {
        match fault {
            Fault::Block(block) => {
                self.latency.failed();
                ReadError::Damaged { segment: meta.header.number, block }
            }
            Fault::Disk(error @ DiskError::Newer { .. }) => ReadError::Later(error.to_string()),
            Fault::Disk(error) => self.read_failed(error),
        }
    }

    fn file(&self, meta: &SegmentMeta) -> Result<Arc<dyn DiskFile>, ReadError> {
        self.files.get(&*self.disk, meta.class(), meta.header.number).map_err(|error| match error {
            // The segment is known and its file is gone: the shard is lost, whatever else the drive still has.
            DiskError::NotFound { .. } => ReadError::Damaged { segment: meta.header.number, block: 0 },
            // Not counted as the drive's: one that is well would count as failing until somebody reads from it.
            error if no_descriptors(&error) => {
                ReadError::DriveFailed { drive: self.identity.drive, reason: error.to_string() }
            }
            other => self.read_failed(other),
        })
    }

    /// The index named a place that holds something else.
    fn astray(&self, shard: ShardId) -> ReadError {
        tracing::warn!(drive = %self.identity.drive, %shard, "the index names a place that does not hold this shard");
        if let Err(error) = self.index.suspect() {
            tracing::warn!(%error, "could not note that the index is suspect");
        }
        ReadError::NotFound
    }

    fn locate(&self, shard: ShardId) -> Result<(Arc<SegmentMeta>, RecordHeader, ShardHeader), ReadError> {
        self.check_readable()?;
        let place = self.index.place(shard).map_err(|error| self.read_failed(error))?.ok_or(ReadError::NotFound)?;
        let Some(meta) = self.segment(place.segment).filter(|meta| meta.class() == SegmentClass::Data) else {
            // Its segment was lost, and not its row.
            let lost = self.damaged().iter().any(|d| d.segment == place.segment && d.what == Lost::Segment);
            let damaged = ReadError::Damaged { segment: place.segment, block: 0 };
            return Err(if lost { damaged } else { self.astray(shard) });
        };
        let file = self.file(&meta)?;
        let record = match read_record_header(&*file, &meta, place.block) {
            Ok(record) => record,
            Err(fault) => return Err(self.fault(&meta, fault)),
        };
        let header = ShardHeader::parse(&record.body).ok().filter(|header| {
            record.kind == RecordKind::Shard
                && header.id() == shard
                && u64::from(header.payload_len()) == record.payload_len
        });
        header.map(|header| (meta, record, header)).ok_or_else(|| self.astray(shard))
    }

    /// See [`crate::client::NodeClient::read_shard_header`].
    pub fn read_shard_header(&self, shard: ShardId) -> Result<ShardHeader, ReadError> {
        self.locate(shard).map(|(_, _, header)| header)
    }

    /// See [`crate::client::NodeClient::read_shard`].
    pub fn read_shard(&self, shard: ShardId, root: [u8; 32], range: Range<u32>) -> Result<Bytes, ReadError> {
        let (meta, record, header) = self.locate(shard)?;
        if header.descriptor.root() != root && !self.disk.sabotage().is(Sabotage::StripeRoot) {
            return Err(ReadError::WrongStripe);
        }
        if range.start > range.end || u64::from(range.end) > record.payload_len {
            return Err(ReadError::OutOfRange { start: range.start, end: range.end, len: record.payload_len });
        }
        let range = u64::from(range.start)..u64::from(range.end);
        let file = self.file(&meta)?;
        read_payload(&*file, &meta, record.payload_block(), range, self.disk.sabotage()).map_err(|fault| {
            if self.moved(shard, &meta, &record) { ReadError::NotFound } else { self.fault(&meta, fault) }
        })
    }

    /// Whether the index has another place for a shard, or none, since it was located: it was freed meanwhile, which is
    /// no damage.
    fn moved(&self, shard: ShardId, meta: &SegmentMeta, record: &RecordHeader) -> bool {
        let place = ShardPlace { segment: meta.header.number, block: record.block };
        matches!(self.index.place(shard), Ok(now) if now != Some(place))
    }

    /// See [`crate::client::NodeClient::list_shards`].
    pub fn list_shards(
        &self,
        class: Option<StripeClass>,
        after: Option<ShardId>,
        limit: usize,
    ) -> Result<Vec<ShardHeader>, ReadError> {
        self.check_readable()?;
        let (mut out, mut after) = (Vec::new(), after);
        while out.len() < limit {
            let rows = self.index.list(after, LIST_STEP).map_err(|error| self.read_failed(error))?;
            for (shard, _) in &rows {
                after = Some(*shard);
                match self.read_shard_header(*shard) {
                    Ok(header) if class.is_none_or(|c| c == header.descriptor.class) => out.push(header),
                    Ok(_) | Err(ReadError::NotFound | ReadError::Damaged { .. }) => {}
                    Err(error) => return Err(error),
                }
                if out.len() == limit {
                    break;
                }
            }
            if rows.len() < LIST_STEP {
                break;
            }
        }
        Ok(out)
    }

    /// See [`crate::client::NodeClient::journal_read`].
    pub fn journal_read(&self, lsn: Lsn, range: Range<u32>) -> Result<Bytes, ReadError> {
        self.check_readable()?;
        let holding = self.journal().find(lsn);
        let mut last = ReadError::NotFound;
        for (meta, record) in holding {
            match self.read_entry(&meta, record, lsn, &range) {
                Ok(bytes) => return Ok(bytes),
                Err(error @ ReadError::OutOfRange { .. }) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn read_entry(
        &self,
        meta: &SegmentMeta,
        mut record: JournalRecord,
        lsn: Lsn,
        range: &Range<u32>,
    ) -> Result<Bytes, ReadError> {
        let file = self.file(meta)?;
        if record.offsets.is_none() {
            let payload = read_payload(&*file, meta, record.block + 1, 0..record.payload_len, self.disk.sabotage())
                .map_err(|fault| self.fault(meta, fault))?;
            let damaged = ReadError::Damaged { segment: meta.header.number, block: record.block };
            let offsets = entry_offsets(&payload).ok_or(damaged)?;
            self.journal().set_offsets(meta.header.number, record.block, Arc::clone(&offsets));
            record.offsets = Some(offsets);
        }
        let range = record.payload_range(lsn, range)?;
        read_payload(&*file, meta, record.block + 1, range, self.disk.sabotage())
            .map_err(|fault| self.fault(meta, fault))
    }

    /// See [`crate::client::NodeClient::journal_scan`].
    pub fn journal_scan(&self, number: u64, from: Lsn) -> Result<JournalScan, ReadError> {
        self.check_readable()?;
        if self.journal().is_headless(number) {
            return Ok(JournalScan { entries: Vec::new(), end: ScanEnd::Damaged { block: 0, barrier: 1 } });
        }
        let Some(segment) = self.journal().get(number).cloned() else { return Err(ReadError::NotFound) };
        let (mut entries, mut bytes, mut bad) = (Vec::new(), 0, Vec::new());
        for record in segment.records.iter().filter(|r| r.last >= from) {
            if bytes >= SCAN_BYTES {
                self.add_journal_damage(number, &bad);
                return Ok(JournalScan { entries, end: ScanEnd::More(record.first) });
            }
            match self.read_batch(&segment.meta, record) {
                Ok(batch) => entries.extend(batch.into_iter().filter(|entry| entry.lsn >= from)),
                Err(ReadError::Damaged { .. }) => bad.push(record.clone()),
                Err(error) => return Err(error),
            }
            bytes += record.payload_len;
        }
        self.add_journal_damage(number, &bad);
        let first_bad = bad.first().map(|record| record.block);
        let block = segment.damage.first().map(|damage| damage.block).into_iter().chain(first_bad).min();
        let end = match (block, segment.tail) {
            (Some(block), _) => ScanEnd::Damaged { block, barrier: segment.barrier },
            (None, Tail::Torn(block)) => ScanEnd::TornTail { block },
            (None, Tail::Clean) => ScanEnd::Clean,
        };
        Ok(JournalScan { entries, end })
    }

    fn read_batch(&self, meta: &SegmentMeta, record: &JournalRecord) -> Result<Vec<Entry>, ReadError> {
        let damaged = || ReadError::Damaged { segment: meta.header.number, block: record.block };
        let file = self.file(meta)?;
        let header = read_record_header(&*file, meta, record.block).map_err(|fault| self.fault(meta, fault))?;
        let later =
            |error: &JournalError, payload| Later::of_batch(payload, error).map(|l| ReadError::Later(l.to_string()));
        let none = Bytes::new();
        let batch = BatchHeader::parse(&header.body).map_err(|error| later(&error, &none).unwrap_or_else(damaged))?;
        let payload = read_payload(&*file, meta, record.block + 1, 0..record.payload_len, self.disk.sabotage())
            .map_err(|fault| self.fault(meta, fault))?;
        batch.open(&payload).map_err(|error| {
            if let Some(later) = later(&error, &payload) {
                return later;
            }
            tracing::warn!(segment = meta.header.number, block = record.block, %error, "a journal record does not parse");
            damaged()
        })
    }

    fn add_journal_damage(&self, number: u64, bad: &[JournalRecord]) {
        let mut journal = self.journal();
        let Some(segment) = journal.get_mut(number) else { return };
        for record in bad {
            if segment.damage.iter().all(|known| known.block != record.block) {
                let end_block = record.block + 1 + codec::block::blocks_for(record.payload_len);
                let what = Lost::Entries(record.first, record.last);
                segment.damage.push(Damage { segment: number, block: record.block, end_block, what });
            }
        }
    }
}
