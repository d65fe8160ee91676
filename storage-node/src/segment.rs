//! Segment files: where they lie, how a record is put down, and where a segment ends (R7).
//!
//! Invariants:
//! * A segment file is created once (`O_EXCL`), written front to back by one drive thread, and never continued by a
//!   later start: every start closes what it finds and begins new segments.
//! * A record header is sealed with its block number plus [`HEADER_SPACE`], a payload block with its plain number. So
//!   no payload, whatever a client put into it, can pass for a header when a scan looks for one block by block.
//! * `barrier` only grows. Everything below it was covered by an fdatasync that returned.
//!
//! Where a segment ends. A scan walks the chain of headers. At a block that does not continue it, the scan looks on for
//! later headers. If the broken block lies below the known barrier (the highest of the barriers in this segment's own
//! headers, the closed length that the next segment recorded, and what the index recorded) it is bit rot: it is
//! reported, and the walk goes on at the next header, so that one bad block costs one record. Otherwise the broken block
//! is where the last, never acknowledged group of writes was torn: the segment ends there. Nothing is cut off.
//!
//! What a failed group leaves behind. Its bytes may be on the medium, in part or whole, behind the last acknowledged
//! record, with headers that continue the chain. The file is never written again after a failed write or sync, so they
//! are never mixed with later bytes; and the next segment's header says where this one ended, so a scan stops there and
//! does not see them. Only a crash before the next segment is begun brings them back, as any group would come back that
//! was written and never answered: whole, verified records, or nothing.

use crate::client::{Damage, Lost};
use crate::disk::{DiskError, DiskFile};
use crate::sabotage::{Sabotage, SabotageSet};
use bytes::Bytes;
use codec::block::{self, BLOCK, BLOCK_PAYLOAD, BlockSeed, blocks_for};
use codec::id::{Epoch, Lsn, ShardId};
use codec::journal::{BatchHeader, JournalError};
use codec::segment::{Chain, Closed, RecordHeader, RecordKind, SegmentClass, SegmentError, SegmentHeader};
use codec::shard::ShardHeader;
use codec::stripe::StripeError;
use std::ops::Range;

/// Added to the block number in the seed of record header blocks. Block numbers stay far below it.
pub const HEADER_SPACE: u64 = 1 << 63;
/// Bytes that a scan reads at a time when it looks for headers.
const WINDOW_BLOCKS: u64 = 256;
/// [`BLOCK`] as a file offset.
pub const BLOCK_BYTES: u64 = BLOCK as u64;

/// The directory of a class of segments.
pub fn class_dir(class: SegmentClass) -> &'static str {
    match class {
        SegmentClass::Data => "segments",
        SegmentClass::Journal => "journal",
    }
}

/// The path of a segment on its drive.
pub fn segment_path(class: SegmentClass, number: u64) -> String {
    format!("{}/{number:016x}.seg", class_dir(class))
}

/// The number in a segment's file name; `None` for any other name.
pub fn parse_segment_name(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".seg").filter(|hex| hex.len() == 16)?;
    u64::from_str_radix(hex, 16).ok()
}

/// A segment's header and what follows from it. Immutable.
#[derive(Clone, Debug)]
pub struct SegmentMeta {
    /// The header.
    pub header: SegmentHeader,
    /// Seeds its blocks (R8).
    pub seed: BlockSeed,
}

impl SegmentMeta {
    /// From a header that was read, or is about to be written.
    pub fn new(header: SegmentHeader, sabotage: &SabotageSet) -> SegmentMeta {
        let seed = if sabotage.is(Sabotage::BlockSeeds) {
            BlockSeed::HEADER
        } else {
            BlockSeed::for_segment(header.cluster, header.drive, header.incarnation)
        };
        SegmentMeta { header, seed }
    }

    /// The segment's class.
    pub fn class(&self) -> SegmentClass {
        self.header.class
    }

    /// The chain in front of the first record.
    pub fn start(&self) -> Chain {
        Chain::start(&self.header.encode())
    }

    /// Its path on the drive.
    pub fn path(&self) -> String {
        segment_path(self.header.class, self.header.number)
    }
}

/// Why blocks could not be had.
#[derive(Debug)]
pub enum Fault {
    /// The drive, not the block: gone, or the file is not there.
    Disk(DiskError),
    /// This block does not verify, can't be read, or is not there.
    Block(u64),
}

/// Reads whole blocks. A range that ends behind the file, or a sector that can't be read, is a fault of its first block.
pub fn read_blocks(file: &dyn DiskFile, first: u64, count: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; usize::try_from(count * BLOCK_BYTES).map_err(|_| Fault::Block(first))?];
    let filled = read_full(file, &mut bytes, first * BLOCK_BYTES).map_err(|error| match error {
        DiskError::Io { .. } => Fault::Block(first),
        other => Fault::Disk(other),
    })?;
    if filled < bytes.len() {
        return Err(Fault::Block(first + filled as u64 / BLOCK_BYTES));
    }
    Ok(bytes)
}

fn read_full(file: &dyn DiskFile, bytes: &mut [u8], offset: u64) -> Result<usize, DiskError> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// Reads and verifies the segment header. `Ok(None)`: block 0 does not hold one.
pub fn read_segment_header(file: &dyn DiskFile) -> Result<Result<SegmentHeader, SegmentError>, Fault> {
    let bytes = read_blocks(file, 0, 1)?;
    let payload = block::open_blocks(BlockSeed::HEADER, 0, &bytes).map_err(|_| Fault::Block(0))?;
    Ok(SegmentHeader::parse(&payload))
}

/// Block 0, sealed.
pub fn seal_segment_header(header: &SegmentHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK);
    block::seal_into(&mut out, BlockSeed::HEADER, 0, &header.encode());
    out
}

/// Appends a record's header block and payload blocks.
pub fn seal_record(
    out: &mut Vec<u8>,
    seed: BlockSeed,
    header: &RecordHeader,
    payload: &[u8],
) -> Result<(), SegmentError> {
    block::seal_into(out, seed, header.block | HEADER_SPACE, &header.encode()?);
    block::seal_into(out, seed, header.payload_block(), payload);
    Ok(())
}

/// Whether the payload at a block was freed: its first block is zeros. Nothing that was ever sealed reads as that.
pub fn is_freed(file: &dyn DiskFile, payload_block: u64) -> Result<bool, DiskError> {
    match read_blocks(file, payload_block, 1) {
        Ok(bytes) => Ok(bytes.iter().all(|b| *b == 0)),
        Err(Fault::Block(_)) => Ok(false),
        Err(Fault::Disk(error)) => Err(error),
    }
}

/// `None`: no record header of this place. One that verifies and is of another version is no rot: to end the segment before it, or
/// to have it repaired, would lose what a newer Stele wrote (R16).
fn open_record_header(meta: &SegmentMeta, number: u64, bytes: &[u8]) -> Result<Option<RecordHeader>, DiskError> {
    let Ok(payload) = block::open_blocks(meta.seed, number | HEADER_SPACE, bytes) else { return Ok(None) };
    match RecordHeader::parse(&payload) {
        Ok(header) => Ok(Some(header).filter(|header| header.block == number)),
        Err(SegmentError::Version { what, version }) => Err(DiskError::Newer { path: meta.path(), what, version }),
        Err(_) => Ok(None),
    }
}

/// The version of a record's body, where it is one that is not known.
fn newer_body(header: &RecordHeader) -> Option<(&'static str, u16)> {
    match header.kind {
        RecordKind::Shard => match ShardHeader::parse(&header.body) {
            Err(StripeError::Version { version }) => Some(("shard header", version)),
            _ => None,
        },
        RecordKind::Journal => match BatchHeader::parse(&header.body) {
            Err(JournalError::Version { what, version }) => Some((what, version)),
            _ => None,
        },
    }
}

/// Reads and verifies the record header at a block.
pub fn read_record_header(file: &dyn DiskFile, meta: &SegmentMeta, number: u64) -> Result<RecordHeader, Fault> {
    let bytes = read_blocks(file, number, 1)?;
    open_record_header(meta, number, &bytes).map_err(Fault::Disk)?.ok_or(Fault::Block(number))
}

/// Reads a range of a record's payload; verifies exactly the blocks that cover it.
pub fn read_payload(
    file: &dyn DiskFile,
    meta: &SegmentMeta,
    payload_block: u64,
    range: Range<u64>,
    sabotage: &SabotageSet,
) -> Result<Bytes, Fault> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let unit = BLOCK_PAYLOAD as u64;
    let first = range.start / unit;
    let count = range.end.div_ceil(unit) - first;
    let bytes = read_blocks(file, payload_block + first, count)?;
    let start = (range.start - first * unit) as usize;
    let relative = start..start + (range.end - range.start) as usize;
    if sabotage.is(Sabotage::VerifyBlocks) {
        let joined: Vec<u8> = bytes.chunks(BLOCK).flat_map(|b| &b[..BLOCK_PAYLOAD]).copied().collect();
        return Ok(Bytes::from(joined).slice(relative));
    }
    block::open_range(meta.seed, payload_block + first, &bytes, relative).map_err(|e| Fault::Block(e.block))
}

/// What a record's header says that it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// A shard.
    Shard(ShardId),
    /// Journal entries.
    Entries {
        /// The first LSN.
        first: Lsn,
        /// The last LSN.
        last: Lsn,
        /// The epoch of the last entry.
        last_epoch: Epoch,
    },
}

impl What {
    fn of(header: &RecordHeader) -> Option<What> {
        match header.kind {
            RecordKind::Shard => {
                let shard = ShardHeader::parse(&header.body).ok()?;
                (u64::from(shard.payload_len()) == header.payload_len).then(|| What::Shard(shard.id()))
            }
            RecordKind::Journal => {
                let batch = BatchHeader::parse(&header.body).ok()?;
                Some(What::Entries { first: batch.first, last: batch.last, last_epoch: batch.last_epoch })
            }
        }
    }

    fn lost(&self) -> Lost {
        match *self {
            What::Shard(id) => Lost::Shard(id),
            What::Entries { first, last, .. } => Lost::Entries(first, last),
        }
    }
}

/// A record that a scan found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its header's block.
    pub block: u64,
    /// Bytes of payload.
    pub payload_len: u64,
    /// What it is.
    pub what: What,
    /// A shard whose payload was given back ([`is_freed`]): nobody asks for it any more.
    pub freed: bool,
}

impl Found {
    fn payload_block(&self) -> u64 {
        self.block + 1
    }

    fn next_block(&self) -> u64 {
        self.payload_block() + blocks_for(self.payload_len)
    }
}

/// What lies behind the last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// Nothing: the end of the file, or preallocated zeros.
    Clean,
    /// Bytes that are no record, from this block on: writes that were never acknowledged.
    Torn(u64),
}

/// What a scan is told.
#[derive(Clone, Copy, Debug)]
pub struct ScanFrom {
    /// Where to begin: [`SegmentMeta::start`], or where an earlier scan ended.
    pub chain: Chain,
    /// The barrier that the index recorded; 0 when it knows none.
    pub barrier: u64,
    /// What the next segment says about this one.
    pub closed: Option<Closed>,
    /// Verify every payload, not only those that might be torn.
    pub deep: bool,
}

/// What a scan found.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// The records, in order.
    pub records: Vec<Found>,
    /// Where the segment ends: what the next segment's header will record.
    pub closed: Closed,
    /// The chain behind the last record.
    pub chain: Chain,
    /// The known barrier.
    pub barrier: u64,
    /// Bit rot.
    pub damage: Vec<Damage>,
    /// What lies behind the end.
    pub tail: Tail,
}

/// Finds the records of a segment and its end.
pub fn scan(
    file: &dyn DiskFile,
    meta: &SegmentMeta,
    from: ScanFrom,
    sabotage: &SabotageSet,
) -> Result<Scanned, DiskError> {
    let file_blocks = file.len()? / BLOCK_BYTES;
    let limit = from.closed.map_or(file_blocks, |closed| closed.closed_blocks);
    let floor = from.barrier.max(from.closed.map_or(0, |closed| closed.closed_blocks));
    let mut walk = Walk {
        file,
        meta,
        sabotage,
        limit,
        chain: from.chain,
        barrier: floor.max(from.chain.barrier_block),
        records: Vec::new(),
        unsynced: Vec::new(),
        damage: Vec::new(),
        tail: Tail::Clean,
    };
    if sabotage.is(Sabotage::Barriers) {
        walk.barrier = 0;
    }
    walk.run()?;
    if from.closed.is_none() {
        walk.check_tail()?;
    }
    if from.deep {
        walk.check_payloads()?;
    }
    let closed = from.closed.unwrap_or(Closed {
        number: meta.header.number,
        closed_blocks: walk.chain.block.max(walk.barrier).max(1),
        last_record_hash: walk.chain.prev_hash,
    });
    let Walk { records, chain, barrier, damage, tail, .. } = walk;
    Ok(Scanned { records, closed, chain, barrier, damage, tail })
}

struct Walk<'a> {
    file: &'a dyn DiskFile,
    meta: &'a SegmentMeta,
    sabotage: &'a SabotageSet,
    /// No record counts that ends behind this block.
    limit: u64,
    chain: Chain,
    barrier: u64,
    records: Vec<Found>,
    /// Records that the barriers seen so far do not cover: index into `records`, and the chain in front of it.
    unsynced: Vec<(usize, Chain)>,
    damage: Vec<Damage>,
    tail: Tail,
}

/// What a search for headers found.
struct Ahead {
    /// The first header behind the break.
    next: Option<RecordHeader>,
    /// The highest barrier in any header behind the break.
    barrier: u64,
    /// Some byte at or behind the break is not zero.
    used: bool,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), DiskError> {
        while self.chain.block < self.limit {
            let number = self.chain.block;
            let header = match read_record_header(self.file, self.meta, number) {
                Ok(header) => Some(header),
                Err(Fault::Block(_)) => None,
                Err(Fault::Disk(error)) => return Err(error),
            };
            match header.filter(|h| self.belongs(h)) {
                Some(header) => self.accept(&header)?,
                None => {
                    if !self.resume_behind(number)? {
                        break;
                    }
                }
            }
        }
        // The end of the file, or of what counts, came before the barrier: synced records are missing.
        if self.chain.block < self.barrier && self.damage.last().is_none_or(|d| d.end_block < self.barrier) {
            self.lose(self.chain.block, self.barrier, Lost::Unknown);
        }
        Ok(())
    }

    fn belongs(&self, header: &RecordHeader) -> bool {
        // A record that runs over the end was torn, unless the barrier says that it had been whole.
        self.chain.check(header).is_ok() && (header.next_block() <= self.limit || header.next_block() <= self.barrier)
    }

    fn accept(&mut self, header: &RecordHeader) -> Result<(), DiskError> {
        let Ok(after) = self.chain.after(header) else { return Ok(()) };
        if !self.sabotage.is(Sabotage::Barriers) {
            self.barrier = self.barrier.max(header.barrier_block);
        }
        match What::of(header) {
            Some(what) => {
                let barrier = self.barrier;
                let records = &self.records;
                self.unsynced.retain(|(i, _)| records.get(*i).is_none_or(|r: &Found| r.next_block() > barrier));
                if header.next_block() > barrier {
                    self.unsynced.push((self.records.len(), self.chain));
                }
                let freed = matches!(what, What::Shard(_)) && is_freed(self.file, header.payload_block())?;
                self.records.push(Found { block: header.block, payload_len: header.payload_len, what, freed });
            }
            // The block verifies and the chain holds, so this is no rot.
            None => match newer_body(header) {
                Some((what, version)) => return Err(DiskError::Newer { path: self.meta.path(), what, version }),
                None => self.lose(header.block, header.next_block(), Lost::Unknown),
            },
        }
        self.chain = after;
        Ok(())
    }

    /// At a break: goes on behind it if it is rot. `false`: the segment ends here.
    fn resume_behind(&mut self, broken: u64) -> Result<bool, DiskError> {
        let ahead = self.look_ahead(broken)?;
        if !self.sabotage.is(Sabotage::Barriers) {
            self.barrier = self.barrier.max(ahead.barrier);
        }
        if broken >= self.barrier {
            if ahead.used {
                self.tail = Tail::Torn(broken);
            }
            return Ok(false);
        }
        match ahead.next {
            Some(next) => {
                self.lose(broken, next.block, Lost::Unknown);
                self.chain = Chain {
                    block: next.block,
                    seq: next.seq,
                    prev_hash: next.prev_hash,
                    barrier_block: self.chain.barrier_block.min(next.barrier_block),
                };
                Ok(true)
            }
            None => {
                self.lose(broken, self.barrier.min(self.limit.max(broken + 1)), Lost::Unknown);
                Ok(false)
            }
        }
    }

    /// Looks for record headers behind `broken`, block by block, to the end of the file or of what counts.
    fn look_ahead(&self, broken: u64) -> Result<Ahead, DiskError> {
        let mut ahead = Ahead { next: None, barrier: 0, used: false };
        let mut first = broken;
        while first < self.limit {
            let count = WINDOW_BLOCKS.min(self.limit - first);
            let mut bytes = vec![0; (count * BLOCK_BYTES) as usize];
            // A window with a sector that can't be read is read again block by block.
            if read_full(self.file, &mut bytes, first * BLOCK_BYTES).is_err() {
                self.read_singly(&mut bytes, first)?;
            }
            for (number, bytes) in (first..).zip(bytes.chunks_exact(BLOCK)) {
                if bytes.iter().all(|b| *b == 0) {
                    continue;
                }
                ahead.used = true;
                if number == broken {
                    continue;
                }
                let header = open_record_header(self.meta, number, bytes)?;
                let Some(header) = header.filter(|h| h.seq > self.chain.seq) else { continue };
                ahead.barrier = ahead.barrier.max(header.barrier_block);
                ahead.next.get_or_insert(header);
                if ahead.barrier > broken || self.barrier > broken {
                    return Ok(ahead);
                }
            }
            first += count;
        }
        Ok(ahead)
    }

    fn read_singly(&self, bytes: &mut [u8], first: u64) -> Result<(), DiskError> {
        for (number, bytes) in (first..).zip(bytes.chunks_exact_mut(BLOCK)) {
            match read_full(self.file, bytes, number * BLOCK_BYTES) {
                Ok(_) => {}
                Err(DiskError::Io { .. }) => bytes.fill(0xff),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// The payload of a record behind the barrier may be torn although its header is whole: the segment ends before the
    /// first such record. A freed payload is no torn one: cutting there would drop what was acknowledged after it. Where it
    /// is one all the same (a header that reached the medium before its payload), the record counts for nothing either way.
    fn check_tail(&mut self) -> Result<(), DiskError> {
        let barrier = self.barrier;
        let unsynced = std::mem::take(&mut self.unsynced);
        for (i, chain) in unsynced {
            let Some(found) = self.records.get(i) else { continue };
            if found.next_block() > barrier && !found.freed && self.bad_block(found)?.is_some() {
                self.tail = Tail::Torn(found.block);
                self.chain = chain;
                self.records.truncate(i);
                self.damage.retain(|d| d.block < chain.block);
                return Ok(());
            }
        }
        Ok(())
    }

    fn check_payloads(&mut self) -> Result<(), DiskError> {
        let records = std::mem::take(&mut self.records);
        for found in &records {
            if !found.freed && self.bad_block(found)?.is_some() {
                self.lose(found.block, found.next_block(), found.what.lost());
            }
        }
        self.records = records;
        Ok(())
    }

    fn bad_block(&self, found: &Found) -> Result<Option<u64>, DiskError> {
        const STEP: u64 = WINDOW_BLOCKS * BLOCK_PAYLOAD as u64;
        // Whole blocks, padding included: a flipped bit in the padding is damage as well.
        let len = blocks_for(found.payload_len) * BLOCK_PAYLOAD as u64;
        let mut start = 0;
        while start < len {
            let end = len.min(start + STEP);
            match read_payload(self.file, self.meta, found.payload_block(), start..end, self.sabotage) {
                Ok(_) => start = end,
                Err(Fault::Block(number)) => return Ok(Some(number)),
                Err(Fault::Disk(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    fn lose(&mut self, block: u64, end_block: u64, what: Lost) {
        self.damage.push(Damage { segment: self.meta.header.number, block, end_block, what });
    }
}
