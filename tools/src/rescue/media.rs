//! What the drives hold, found by reading them from end to end: no index, no lock, and nothing is written.
//!
//! Every segment is scanned by the code that a start uses ([`storage_node::segment::scan`]); what its headers name is kept
//! in memory, some 60 bytes for a shard and 40 for a journal record. Bytes are read again when they are wanted, and each
//! block is verified then.

use bytes::Bytes;
use codec::id::{ClusterId, DriveId, Lsn, ShardId, StripeId};
use codec::journal::{BatchHeader, Entry, JournalError};
use codec::level::Later;
use codec::register::Register;
use codec::segment::{Closed, SegmentClass};
use codec::shard::ShardHeader;
use codec::stripe::{StripeClass, StripeDescriptor};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage_node::disk::real::RealDisk;
use storage_node::disk::{Access, Disk, DiskError, DiskFile};
use storage_node::drive::{Identity, read_register};
use storage_node::sabotage::SabotageSet;
use storage_node::segment::{
    BLOCK_BYTES, Fault, Found, ScanFrom, Scanned, SegmentMeta, Tail, What, class_dir, parse_segment_name, read_payload,
    read_record_header, read_segment_header, scan, segment_path,
};

/// Segment files that are kept open.
const OPEN_FILES: usize = 256;
/// Lines about one drive in a report; the rest is counted.
const MAX_NOTES: usize = 100;

/// Where a shard lies.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Its index in the stripe.
    pub index: u8,
    /// `stripe_root` of its header (R1).
    pub root: [u8; 32],
    segment: u32,
    block: u64,
}

/// A run of journal entries: one record.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    segment: u32,
    block: u64,
}

/// What is said about one drive.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DriveReport {
    /// As given.
    pub path: String,
    /// Its identity, in hex; absent when its segments had to say it, or nothing did.
    pub drive: Option<String>,
    /// Segments that were scanned.
    pub segments: u64,
    /// Shards found.
    pub shards: u64,
    /// What could not be read, in words.
    pub damage: Vec<String>,
    /// How many such lines there would be.
    pub damage_total: u64,
}

impl DriveReport {
    fn note(&mut self, line: String) {
        self.damage_total += 1;
        if self.damage.len() < MAX_NOTES {
            self.damage.push(line);
        }
    }
}

/// Why entries can't be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unreadable {
    /// They are lost here; others may have them.
    #[error("{0}")]
    Damaged(String),
    /// They are of a later release. Without them what is left would be an older state, and look whole.
    #[error(transparent)]
    Later(#[from] Later),
}

impl Unreadable {
    /// Of entries that do not parse; `payload`: all of them.
    pub fn of_batch(payload: &Bytes, error: &JournalError) -> Unreadable {
        Later::of_batch(payload, error).map_or_else(|| Unreadable::Damaged(error.to_string()), Unreadable::Later)
    }

    fn of_disk(error: &DiskError) -> Unreadable {
        match error {
            DiskError::Newer { what, version, .. } => Later::Layout { what, version: *version }.into(),
            error => Unreadable::Damaged(error.to_string()),
        }
    }
}

struct DriveView {
    disk: RealDisk,
    id: Option<DriveId>,
    /// Its journal could be read from end to end.
    journal_whole: bool,
}

struct Segment {
    drive: usize,
    meta: SegmentMeta,
}

/// All that the given drives hold.
pub struct Media {
    drives: Vec<DriveView>,
    segments: Vec<Segment>,
    stripes: HashMap<StripeId, Vec<Piece>>,
    ledger: BTreeMap<(StripeId, [u8; 32]), StripeDescriptor>,
    batches: Vec<Batch>,
    registers: Vec<Register>,
    clusters: BTreeMap<ClusterId, u64>,
    /// A segment has something of a later release in it.
    later: Option<Later>,
    files: RefCell<HashMap<u32, Arc<dyn DiskFile>>>,
    sabotage: SabotageSet,
}

impl Media {
    /// Scans drives. What can't be read is in the reports, one for each path; it is never an error.
    pub fn scan(paths: &[PathBuf]) -> (Media, Vec<DriveReport>) {
        let mut media = Media {
            drives: Vec::new(),
            segments: Vec::new(),
            stripes: HashMap::new(),
            ledger: BTreeMap::new(),
            batches: Vec::new(),
            registers: Vec::new(),
            clusters: BTreeMap::new(),
            later: None,
            files: RefCell::default(),
            sabotage: SabotageSet::default(),
        };
        let reports = paths.iter().map(|path| media.scan_drive(path)).collect();
        (media, reports)
    }

    /// The clusters that the segments name, and how many segments each.
    pub fn clusters(&self) -> &BTreeMap<ClusterId, u64> {
        &self.clusters
    }

    /// Whether any segment could be read.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Every ledger stripe of which a shard was found.
    pub fn ledger(&self) -> impl Iterator<Item = &StripeDescriptor> {
        self.ledger.values()
    }

    /// Every journal record that was found.
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// The shards of a stripe, every copy.
    pub fn pieces(&self, stripe: StripeId) -> &[Piece] {
        self.stripes.get(&stripe).map_or(&[], Vec::as_slice)
    }

    /// Why the newest journal entries may be on drives that were not given; empty when they can't be.
    ///
    /// An acknowledged entry is on all 1+m members of the ensemble that a majority of the registered drives names, so with a
    /// majority, and one member whose journal is whole, the tail that was found is the tail.
    pub fn tail_doubts(&self) -> Vec<String> {
        let Some(newest) = self.registers.iter().max_by_key(|register| register.age()) else {
            return vec![
                "no drive has a readable register: nobody knows which drives held the newest changes".to_owned(),
            ];
        };
        let here = |drive: &&DriveId| self.drives.iter().any(|view| view.id == Some(**drive));
        let whole = |drive: &&DriveId| self.drives.iter().any(|view| view.id == Some(**drive) && view.journal_whole);
        let mut doubts = Vec::new();
        let present = newest.registered.iter().filter(here).count();
        if present < newest.majority() {
            doubts.push(format!(
                "{present} of {} registered drives are here, more than half are needed to be sure of the newest changes",
                newest.registered.len()
            ));
        }
        if !newest.members.iter().any(|member| whole(&member)) {
            doubts.push("no drive of the journal is here in whole: the newest changes may be missing".to_owned());
        }
        doubts
    }

    fn scan_drive(&mut self, path: &Path) -> DriveReport {
        let mut report = DriveReport { path: path.display().to_string(), ..DriveReport::default() };
        let disk = RealDisk::new(path.to_owned(), SabotageSet::default());
        if !path.is_dir() {
            report.note("no such directory".to_owned());
            return report;
        }
        let identity = disk.read_small("identity").ok().and_then(|bytes| Identity::parse(&bytes));
        if identity.is_none() {
            report.note("its identity can't be read; its segments say whose they are".to_owned());
        }
        match read_register(&disk) {
            Ok(bytes) if bytes.is_empty() => report.note("it has no register".to_owned()),
            Ok(bytes) => match Register::parse(&bytes) {
                Ok(register) => self.registers.push(register),
                Err(error) => report.note(error.to_string()),
            },
            Err(error) => report.note(format!("register: {error}")),
        }
        let drive = self.drives.len();
        self.drives.push(DriveView { disk, id: identity.map(|identity| identity.drive), journal_whole: false });
        self.scan_class(drive, SegmentClass::Data, &mut report);
        let before = report.damage_total;
        self.scan_class(drive, SegmentClass::Journal, &mut report);
        self.drives[drive].journal_whole = report.damage_total == before;
        report.drive = self.drives[drive].id.map(|id| id.to_string());
        report
    }

    fn scan_class(&mut self, drive: usize, class: SegmentClass, report: &mut DriveReport) {
        let names = match self.drives[drive].disk.list(class_dir(class)) {
            Ok(names) => names,
            Err(error) => return report.note(error.to_string()),
        };
        let mut found = Vec::new();
        for number in names.iter().filter_map(|name| parse_segment_name(name)) {
            let read = self.drives[drive].disk.open(&segment_path(class, number), Access::Read).map(|file| {
                let header = read_segment_header(&*file);
                (file, header)
            });
            match read {
                Ok((file, Ok(Ok(header)))) if header.class == class && header.number == number => {
                    found.push((file, SegmentMeta::new(header, &self.sabotage)));
                }
                // A begin that a crash cut off: nothing ever counted in it.
                Ok((file, _)) if holds_nothing(&*file) => {}
                Ok((_, Ok(Ok(_)))) => {
                    report.note(format!("{}: the header of another segment", segment_path(class, number)))
                }
                Ok((_, Ok(Err(error)))) => report.note(format!("{}: {error}", segment_path(class, number))),
                Ok((_, Err(_))) => report.note(format!("{}: its header can't be read", segment_path(class, number))),
                Err(error) => report.note(error.to_string()),
            }
        }
        found.sort_by_key(|(_, meta)| meta.header.number);
        let closed: Vec<Option<Closed>> = (0..found.len())
            .map(|i| {
                let said = found.get(i + 1).and_then(|(_, next)| next.header.previous);
                said.filter(|closed| closed.number == found[i].1.header.number)
            })
            .collect();
        for ((file, meta), closed) in found.into_iter().zip(closed) {
            report.segments += 1;
            if let Err(error) = self.scan_segment(drive, &*file, meta, closed, report) {
                if let Unreadable::Later(later) = Unreadable::of_disk(&error) {
                    self.later = Some(later);
                }
                report.note(error.to_string());
            }
        }
    }

    fn scan_segment(
        &mut self,
        drive: usize,
        file: &dyn DiskFile,
        meta: SegmentMeta,
        closed: Option<Closed>,
        report: &mut DriveReport,
    ) -> Result<(), DiskError> {
        *self.clusters.entry(meta.header.cluster).or_default() += 1;
        self.drives[drive].id.get_or_insert(meta.header.drive);
        let from = ScanFrom { chain: meta.start(), barrier: 0, closed, deep: false };
        let mut scanned = scan(file, &meta, from, &self.sabotage)?;
        for damage in &scanned.damage {
            report.note(format!("{}: blocks {} to {}: {:?}", meta.path(), damage.block, damage.end_block, damage.what));
        }
        if let Tail::Torn(_) = scanned.tail {
            add_behind_tear(file, &meta, &mut scanned, &self.sabotage)?;
        }
        let segment = u32::try_from(self.segments.len()).unwrap_or(u32::MAX);
        for record in &scanned.records {
            match record.what {
                What::Shard(id) => {
                    report.shards += 1;
                    self.add_shard(file, &meta, segment, record, id);
                }
                What::Entries { .. } => self.batches.push(Batch { segment, block: record.block }),
            }
        }
        self.segments.push(Segment { drive, meta });
        Ok(())
    }

    fn add_shard(&mut self, file: &dyn DiskFile, meta: &SegmentMeta, segment: u32, record: &Found, id: ShardId) {
        // It verified a moment ago; if it does not now, the shard is as good as lost.
        let Some(header) = shard_header_at(file, meta, record.block).filter(|header| header.id() == id) else { return };
        let piece = Piece { index: header.index, root: header.descriptor.root(), segment, block: record.block };
        self.stripes.entry(id.stripe).or_default().push(piece);
        if header.descriptor.class == StripeClass::Ledger {
            self.ledger.insert((id.stripe, piece.root), header.descriptor);
        }
    }

    fn file(&self, segment: u32) -> Option<(Arc<dyn DiskFile>, &SegmentMeta)> {
        let known = self.segments.get(segment as usize)?;
        let mut files = self.files.borrow_mut();
        if let Some(file) = files.get(&segment) {
            return Some((Arc::clone(file), &known.meta));
        }
        let file = self.drives.get(known.drive)?.disk.open(&known.meta.path(), Access::Read).ok()?;
        if files.len() >= OPEN_FILES {
            files.clear();
        }
        files.insert(segment, Arc::clone(&file));
        Some((file, &known.meta))
    }

    /// The header of a shard, read again.
    pub fn shard_header(&self, piece: &Piece) -> Option<ShardHeader> {
        let (file, meta) = self.file(piece.segment)?;
        shard_header_at(&*file, meta, piece.block)
    }

    /// A range of a shard's payload, every block verified.
    pub fn read_shard(&self, piece: &Piece, range: Range<u32>) -> Option<Bytes> {
        let (file, meta) = self.file(piece.segment)?;
        let range = u64::from(range.start)..u64::from(range.end);
        read_payload(&*file, meta, piece.block + 1, range, &self.sabotage).ok()
    }

    /// Why the drives are not for this release, as far as the headers in their segments say.
    pub fn later(&self) -> Option<&Later> {
        self.later.as_ref()
    }

    /// The entries of a journal record, each verified, each following the one before it.
    pub fn read_batch(&self, batch: &Batch) -> Result<Vec<Entry>, Unreadable> {
        let known = self.file(batch.segment);
        let (file, meta) = known.ok_or_else(|| Unreadable::Damaged("its segment can't be opened".to_owned()))?;
        let fault = |fault: Fault| match fault {
            Fault::Block(block) => Unreadable::Damaged(format!("block {block} of {} does not verify", meta.path())),
            Fault::Disk(error) => Unreadable::of_disk(&error),
        };
        let record = read_record_header(&*file, meta, batch.block).map_err(fault)?;
        let header = BatchHeader::parse(&record.body).map_err(|error| Unreadable::of_batch(&Bytes::new(), &error))?;
        let payload =
            read_payload(&*file, meta, batch.block + 1, 0..record.payload_len, &self.sabotage).map_err(fault)?;
        header.open(&payload).map_err(|error| Unreadable::of_batch(&payload, &error))
    }

    /// A range of a journal record's payload, every block verified.
    pub fn read_batch_range(&self, batch: &Batch, range: Range<u64>) -> Option<Bytes> {
        let (file, meta) = self.file(batch.segment)?;
        read_payload(&*file, meta, batch.block + 1, range, &self.sabotage).ok()
    }

    /// The first and last LSN of a journal record.
    pub fn batch_range(&self, batch: &Batch) -> Option<(Lsn, Lsn)> {
        let (file, meta) = self.file(batch.segment)?;
        let record = read_record_header(&*file, meta, batch.block).ok()?;
        BatchHeader::parse(&record.body).ok().map(|header| (header.first, header.last))
    }
}

fn shard_header_at(file: &dyn DiskFile, meta: &SegmentMeta, block: u64) -> Option<ShardHeader> {
    let record = read_record_header(file, meta, block).ok()?;
    ShardHeader::parse(&record.body).ok().filter(|header| u64::from(header.payload_len()) == record.payload_len)
}

/// Whole records behind what looks like a torn tail. For a start they do not count: they were never acknowledged, or the
/// other drives have them. Here there may be no other drives, and what is taken is verified all the same.
fn add_behind_tear(
    file: &dyn DiskFile,
    meta: &SegmentMeta,
    scanned: &mut Scanned,
    sabotage: &SabotageSet,
) -> Result<(), DiskError> {
    let whole = Closed { closed_blocks: file.len()? / BLOCK_BYTES, ..scanned.closed };
    let from = ScanFrom { chain: meta.start(), barrier: 0, closed: Some(whole), deep: false };
    let known: HashSet<u64> = scanned.records.iter().map(|record| record.block).collect();
    let more = scan(file, meta, from, sabotage)?.records;
    scanned.records.extend(more.into_iter().filter(|record| !known.contains(&record.block)));
    Ok(())
}

/// Whether a file holds nothing but zeros.
fn holds_nothing(file: &dyn DiskFile) -> bool {
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return true,
            Ok(n) if buffer[..n].iter().all(|byte| *byte == 0) => offset += n as u64,
            _ => return false,
        }
    }
}
