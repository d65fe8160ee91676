//! Segments: the header block, and the headers of the records behind it (R7).
//!
//! A segment is block 0, the segment header, and then records without gaps. A record is one header block and the blocks of
//! its payload. Record headers form a chain: each carries the hash of the one before it (the first one that of the segment
//! header), its own block number, and a barrier, the block below which everything was known to be synced when it was
//! written. What does not verify below the highest known barrier is rot; what does not verify above it is a torn tail.
//! Headers have blocks of their own so that a payload can be punched out and the chain still be walked.
//!
//! Parsing checks a header by itself; [`Chain::check`] checks that it is the record that belongs at a place.

use crate::block::{BLOCK_PAYLOAD, blocks_for};
use crate::id::{ClusterId, DriveId, Epoch, Incarnation, Lsn};
use crate::read::{Reader, all_zero};
use bytes::Bytes;

/// The version of segment headers that this code writes.
pub const SEGMENT_VERSION: u16 = 1;
/// The version of record headers that this code writes.
pub const RECORD_VERSION: u16 = 1;
/// The longest body of a record header, in bytes.
pub const MAX_RECORD_BODY: usize = 3500;
/// The longest payload of a record, in bytes.
pub const MAX_RECORD_PAYLOAD: u64 = 1 << 30;
/// Block numbers stay below this (4 PiB), so that sums of them cannot overflow.
pub const MAX_SEGMENT_BLOCKS: u64 = 1 << 40;
/// The longest [`SegmentHeader::created_by`], in bytes.
pub const MAX_CREATED_BY: usize = 32;

const SEGMENT_MAGIC: &[u8; 8] = b"STELESEG";
const RECORD_MAGIC: &[u8; 8] = b"STELEREC";
const FLAG_PREVIOUS: u8 = 1;
const FLAG_JOURNAL: u8 = 2;

/// A segment or record header that can't be used. The blocks verified, so this is not rot: it is another version, other
/// software, or a record of another place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Not the length of a block's payload.
    #[error("a header is {BLOCK_PAYLOAD} bytes, not {len}")]
    Length {
        /// The length of what was given.
        len: usize,
    },
    /// Does not start like a header. Blocks behind the last record look like this.
    #[error("not a {what} header")]
    Magic {
        /// `segment` or `record`.
        what: &'static str,
    },
    /// Written by a newer Stele.
    #[error("{what} header of version {version}, which this version of Stele does not know")]
    Version {
        /// `segment` or `record`.
        what: &'static str,
        /// The version found.
        version: u16,
    },
    /// A field is out of range.
    #[error("header field `{field}` is out of range")]
    Field {
        /// Its name in docs/FORMAT.md.
        field: &'static str,
    },
    /// A good record header that does not follow the one before it.
    #[error("record header does not continue the chain: `{field}` differs")]
    Chain {
        /// What differs: `block`, `seq`, `prev_hash` or `barrier_block`.
        field: &'static str,
    },
}

fn field(ok: bool, field: &'static str) -> Result<(), SegmentError> {
    if ok { Ok(()) } else { Err(SegmentError::Field { field }) }
}

/// What a segment holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SegmentClass {
    /// Shards.
    Data = 1,
    /// Journal records.
    Journal = 2,
}

/// How the previous segment of the same class on the same drive ended (R7): the only word on its barrier that is written
/// after its last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed {
    /// Its number.
    pub number: u64,
    /// Its closed length, in blocks, header included: nothing behind it counts.
    pub closed_blocks: u64,
    /// [`RecordHeader::hash`] of its last record (of its segment header if it has none).
    pub last_record_hash: [u8; 32],
}

/// What a journal segment continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalHead {
    /// The sequence number of the ensemble that it was begun under.
    pub ensemble: u64,
    /// The LSN of the first entry that it may hold.
    pub first_lsn: Lsn,
}

/// Block 0 of a segment, sealed with [`crate::block::BlockSeed::HEADER`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// [`SEGMENT_VERSION`] when written by this code.
    pub version: u16,
    /// What it holds.
    pub class: SegmentClass,
    /// The cluster.
    pub cluster: ClusterId,
    /// The drive.
    pub drive: DriveId,
    /// Its number: strictly increasing per drive, one count for both classes.
    pub number: u64,
    /// What tells this life of the number from others; seeds the block checksums.
    pub incarnation: Incarnation,
    /// The epoch of the start that began it.
    pub epoch: Epoch,
    /// The previous segment of this class on this drive, if there is one.
    pub previous: Option<Closed>,
    /// For journal segments, and only for those.
    pub journal: Option<JournalHead>,
    /// The software that began it, for people; at most [`MAX_CREATED_BY`] bytes of UTF-8 without NUL (longer is cut).
    pub created_by: String,
}

impl SegmentHeader {
    /// The payload of block 0.
    pub fn encode(&self) -> [u8; BLOCK_PAYLOAD] {
        let mut created_by = [0; MAX_CREATED_BY];
        let cut = self.created_by.floor_char_boundary(MAX_CREATED_BY);
        created_by[..cut].copy_from_slice(&self.created_by.as_bytes()[..cut]);
        let flags = if self.previous.is_some() { FLAG_PREVIOUS } else { 0 }
            | if self.journal.is_some() { FLAG_JOURNAL } else { 0 };
        let (number, blocks, hash) =
            self.previous.map_or((0, 0, [0; 32]), |p| (p.number, p.closed_blocks, p.last_record_hash));
        let (ensemble, first_lsn) = self.journal.map_or((0, 0), |j| (j.ensemble, j.first_lsn.0));

        let mut out = Vec::with_capacity(BLOCK_PAYLOAD);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&[self.class as u8, flags, 0, 0, 0, 0]);
        out.extend_from_slice(self.cluster.as_bytes());
        out.extend_from_slice(self.drive.as_bytes());
        out.extend_from_slice(self.incarnation.as_bytes());
        for n in [self.number, self.epoch.0, number, blocks] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&hash);
        out.extend_from_slice(&ensemble.to_le_bytes());
        out.extend_from_slice(&first_lsn.to_le_bytes());
        out.extend_from_slice(&created_by);
        padded(&out)
    }

    /// Reads the payload of block 0.
    pub fn parse(payload: &[u8]) -> Result<SegmentHeader, SegmentError> {
        let mut r = open_header(payload, SEGMENT_MAGIC, SEGMENT_VERSION, "segment")?;
        // The reader holds a whole block's payload, and the table is shorter: running out cannot happen.
        Self::parse_fields(&mut r).ok_or(SegmentError::Length { len: payload.len() })?
    }

    fn parse_fields(r: &mut Reader<'_>) -> Option<Result<SegmentHeader, SegmentError>> {
        let (class, flags, zero) = (r.u8()?, r.u8()?, r.u32()?);
        let (cluster, drive, incarnation) = (ClusterId(r.array()?), DriveId(r.array()?), Incarnation(r.array()?));
        let (number, epoch) = (r.u64()?, Epoch(r.u64()?));
        let closed = Closed { number: r.u64()?, closed_blocks: r.u64()?, last_record_hash: r.array()? };
        let head = JournalHead { ensemble: r.u64()?, first_lsn: Lsn(r.u64()?) };
        let created_by = r.bytes(MAX_CREATED_BY)?;
        let parse = || {
            let class = match class {
                1 => SegmentClass::Data,
                2 => SegmentClass::Journal,
                _ => return Err(SegmentError::Field { field: "class" }),
            };
            field(flags & !(FLAG_PREVIOUS | FLAG_JOURNAL) == 0, "flags")?;
            field(zero == 0 && all_zero(r.rest()), "reserved")?;
            let created_by = text(created_by).ok_or(SegmentError::Field { field: "created_by" })?;
            let previous = checked_previous(flags & FLAG_PREVIOUS != 0, closed, number)?;
            let journal = checked_journal(flags & FLAG_JOURNAL != 0, head, class)?;
            Ok(SegmentHeader {
                version: SEGMENT_VERSION,
                class,
                cluster,
                drive,
                number,
                incarnation,
                epoch,
                previous,
                journal,
                created_by,
            })
        };
        Some(parse())
    }
}

fn checked_previous(present: bool, closed: Closed, number: u64) -> Result<Option<Closed>, SegmentError> {
    if !present {
        let none = Closed { number: 0, closed_blocks: 0, last_record_hash: [0; 32] };
        field(closed == none, "previous")?;
        return Ok(None);
    }
    field(closed.number < number, "previous.number")?;
    field((1..=MAX_SEGMENT_BLOCKS).contains(&closed.closed_blocks), "previous.closed_blocks")?;
    Ok(Some(closed))
}

fn checked_journal(present: bool, head: JournalHead, class: SegmentClass) -> Result<Option<JournalHead>, SegmentError> {
    field(present == (class == SegmentClass::Journal), "journal")?;
    if !present {
        field(head == JournalHead { ensemble: 0, first_lsn: Lsn(0) }, "journal")?;
        return Ok(None);
    }
    field(head.first_lsn.0 != 0, "journal.first_lsn")?;
    Ok(Some(head))
}

/// UTF-8 up to the first NUL, with nothing but NULs behind it.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (head, rest) = bytes.split_at_checked(end)?;
    if !all_zero(rest) {
        return None;
    }
    String::from_utf8(head.to_vec()).ok()
}

/// Checks length, magic and version; the reader stands behind them.
fn open_header<'a>(
    payload: &'a [u8],
    magic: &[u8; 8],
    version: u16,
    what: &'static str,
) -> Result<Reader<'a>, SegmentError> {
    if payload.len() != BLOCK_PAYLOAD {
        return Err(SegmentError::Length { len: payload.len() });
    }
    let mut r = Reader::new(payload);
    if r.bytes(8) != Some(magic) {
        return Err(SegmentError::Magic { what });
    }
    match r.u16() {
        Some(found) if found == version => Ok(r),
        found => Err(SegmentError::Version { what, version: found.unwrap_or(0) }),
    }
}

fn padded(bytes: &[u8]) -> [u8; BLOCK_PAYLOAD] {
    let mut out = [0; BLOCK_PAYLOAD];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// One shard; the body is a [`crate::shard::ShardHeader`].
    Shard = 1,
    /// A batch of journal entries; the body is a [`crate::journal::BatchHeader`].
    Journal = 2,
}

/// The header block of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// What the record is.
    pub kind: RecordKind,
    /// Counts the records of the segment from 0.
    pub seq: u64,
    /// The header's own block number; the payload begins in the next block.
    pub block: u64,
    /// Bytes of payload.
    pub payload_len: u64,
    /// Every block below this one was synced when this header was written.
    pub barrier_block: u64,
    /// [`RecordHeader::hash`] of the record before; [`header_hash`] of the segment header for record 0.
    pub prev_hash: [u8; 32],
    /// Depends on the kind; at most [`MAX_RECORD_BODY`] bytes.
    pub body: Bytes,
}

/// The hash of a header block's payload, which the next record header carries.
pub fn header_hash(payload: &[u8; BLOCK_PAYLOAD]) -> [u8; 32] {
    *blake3::hash(payload).as_bytes()
}

impl RecordHeader {
    /// The payload of the header block. A body beyond [`MAX_RECORD_BODY`] is refused.
    pub fn encode(&self) -> Result<[u8; BLOCK_PAYLOAD], SegmentError> {
        self.check_fields()?;
        let mut out = Vec::with_capacity(BLOCK_PAYLOAD);
        out.extend_from_slice(RECORD_MAGIC);
        out.extend_from_slice(&RECORD_VERSION.to_le_bytes());
        out.extend_from_slice(&[self.kind as u8, 0]);
        out.extend_from_slice(&(self.body.len() as u32).to_le_bytes());
        for n in [self.seq, self.block, self.payload_len, self.barrier_block] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.prev_hash);
        out.extend_from_slice(&self.body);
        Ok(padded(&out))
    }

    /// Reads the payload of a record's header block. Says nothing yet about whether it belongs where it was found: that is
    /// [`Chain::check`].
    pub fn parse(payload: &[u8]) -> Result<RecordHeader, SegmentError> {
        let mut r = open_header(payload, RECORD_MAGIC, RECORD_VERSION, "record")?;
        let header = Self::parse_fields(&mut r).ok_or(SegmentError::Field { field: "body_len" })??;
        header.check_fields()?;
        field(all_zero(r.rest()), "reserved")?;
        Ok(header)
    }

    fn parse_fields(r: &mut Reader<'_>) -> Option<Result<RecordHeader, SegmentError>> {
        let (kind, zero, body_len) = (r.u8()?, r.u8()?, r.u32()?);
        let kind = match kind {
            1 => RecordKind::Shard,
            2 => RecordKind::Journal,
            _ => return Some(Err(SegmentError::Field { field: "kind" })),
        };
        if zero != 0 {
            return Some(Err(SegmentError::Field { field: "reserved" }));
        }
        let (seq, block, payload_len, barrier_block) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        let prev_hash = r.array()?;
        let body = Bytes::copy_from_slice(r.bytes(usize::try_from(body_len).ok()?)?);
        Some(Ok(RecordHeader { kind, seq, block, payload_len, barrier_block, prev_hash, body }))
    }

    fn check_fields(&self) -> Result<(), SegmentError> {
        field(self.body.len() <= MAX_RECORD_BODY, "body_len")?;
        field(self.payload_len <= MAX_RECORD_PAYLOAD, "payload_len")?;
        field((1..MAX_SEGMENT_BLOCKS).contains(&self.block), "block")?;
        // Each earlier record took a block at least, and block 0 is the segment header.
        field(self.seq < self.block, "seq")?;
        field(self.barrier_block <= self.block, "barrier_block")
    }

    /// The hash that the next record header carries. Only for headers that encode.
    pub fn hash(&self) -> Result<[u8; 32], SegmentError> {
        Ok(header_hash(&self.encode()?))
    }

    /// The block where the payload begins.
    pub fn payload_block(&self) -> u64 {
        self.block.saturating_add(1)
    }

    /// The block behind the record: where the next header is.
    pub fn next_block(&self) -> u64 {
        self.payload_block().saturating_add(blocks_for(self.payload_len))
    }
}

/// Where a chain of record headers stands: what the next header must say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The block of the next header.
    pub block: u64,
    /// The sequence number of the next record.
    pub seq: u64,
    /// The hash of the header before it.
    pub prev_hash: [u8; 32],
    /// The highest barrier seen so far. Only grows.
    pub barrier_block: u64,
}

impl Chain {
    /// The beginning of a segment with this header payload.
    pub fn start(segment_header: &[u8; BLOCK_PAYLOAD]) -> Chain {
        Chain { block: 1, seq: 0, prev_hash: header_hash(segment_header), barrier_block: 0 }
    }

    /// Whether `header` is the record that belongs here. Everything that [`RecordHeader::parse`] could not know.
    pub fn check(&self, header: &RecordHeader) -> Result<(), SegmentError> {
        let chain = |ok, field| if ok { Ok(()) } else { Err(SegmentError::Chain { field }) };
        chain(header.block == self.block, "block")?;
        chain(header.seq == self.seq, "seq")?;
        chain(header.prev_hash == self.prev_hash, "prev_hash")?;
        chain(header.barrier_block >= self.barrier_block, "barrier_block")
    }

    /// The chain behind `header`, once it was checked.
    pub fn after(&self, header: &RecordHeader) -> Result<Chain, SegmentError> {
        self.check(header)?;
        Ok(Chain {
            block: header.next_block(),
            seq: self.seq.saturating_add(1),
            prev_hash: header.hash()?,
            barrier_block: header.barrier_block,
        })
    }
}

#[cfg(test)]
mod tests;
