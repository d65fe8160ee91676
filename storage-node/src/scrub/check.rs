//! Checks one record from the medium: its header, every block of its payload, and what the payload must be.

use super::origin::Searcher;
use super::reader::{BlockState, MediumReader, Pace};
use super::{Halt, ScrubShared};
use crate::keep::FindingKind;
use crate::segment::{HEADER_SPACE, SegmentMeta};
use bytes::Bytes;
use codec::block::{BLOCK, BLOCK_PAYLOAD, BlockSeed, blocks_for, open_blocks};
use codec::journal::BatchHeader;
use codec::segment::{Chain, RecordHeader, RecordKind, SegmentHeader};
use codec::shard::ShardHeader;

/// What is wrong at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Bad {
    pub kind: FindingKind,
    pub detail: String,
}

impl Bad {
    fn new(kind: FindingKind, detail: impl Into<String>) -> Bad {
        Bad { kind, detail: detail.into() }
    }
}

/// What a record's header says that it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    Shard(Box<ShardHeader>),
    Batch(BatchHeader),
    /// The header verifies, and was written by a version that knows more.
    Foreign,
}

impl Content {
    fn of(header: &RecordHeader) -> Content {
        let content = match header.kind {
            RecordKind::Shard => {
                let shard = ShardHeader::parse(&header.body).ok();
                let shard = shard.filter(|shard| u64::from(shard.payload_len()) == header.payload_len);
                shard.map(|shard| Content::Shard(Box::new(shard)))
            }
            RecordKind::Journal => BatchHeader::parse(&header.body).ok().map(Content::Batch),
        };
        content.unwrap_or(Content::Foreign)
    }
}

/// A record whose header is good.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub header: RecordHeader,
    pub content: Content,
}

/// What a record's payload turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Payload {
    Good,
    /// Its first block is zeros: it was freed, or a sector was zeroed. The header stays, and says nothing about it.
    Zeroed,
    Bad(Bad),
}

/// Checks the records of one segment.
pub(crate) struct Checker<'a> {
    pub meta: &'a SegmentMeta,
    pub reader: &'a mut MediumReader,
    pub pace: &'a mut dyn Pace,
    pub searcher: &'a mut Searcher,
    /// Knows the segments of all drives of the node.
    pub shared: &'a ScrubShared,
}

impl Checker<'_> {
    /// Reads the header at a block. `chain`: what it must continue, if that is known.
    pub fn header(&mut self, number: u64, chain: Option<&Chain>) -> Result<Result<Record, Bad>, Halt> {
        let seed = self.meta.seed;
        let (block, state) = self.reader.block(number, self.pace)?;
        if state != BlockState::Read {
            return Ok(Err(not_read(state, number)));
        }
        let Ok(payload) = open_blocks(seed, number | HEADER_SPACE, block) else {
            let block = block.to_vec();
            return Ok(Err(self.misplaced_or_damaged(&block, number)));
        };
        let header = match RecordHeader::parse(&payload) {
            Ok(header) => header,
            Err(error) => return Ok(Err(Bad::new(FindingKind::Unknown, format!("block {number}: {error}")))),
        };
        if header.block != number {
            let detail = format!("block {number} says that it is block {}", header.block);
            return Ok(Err(Bad::new(FindingKind::Misplaced, detail)));
        }
        if let Some(Err(error)) = chain.map(|chain| chain.check(&header)) {
            return Ok(Err(Bad::new(FindingKind::Damaged, format!("block {number}: {error}"))));
        }
        let content = Content::of(&header);
        Ok(Ok(Record { header, content }))
    }

    /// Reads and verifies a record's whole payload.
    pub fn payload(&mut self, record: &Record) -> Result<Payload, Halt> {
        let (first, len) = (record.header.payload_block(), record.header.payload_len);
        let end = first + blocks_for(len);
        let mut content = Collected::new(&record.content);
        let mut number = first;
        while number < end {
            let (run, state) = self.reader.run(number, end - number, self.pace)?;
            if number == first && state == BlockState::Read && is_zero(&run[..BLOCK]) && is_shard(record) {
                return Ok(Payload::Zeroed);
            }
            if state != BlockState::Read {
                return self.bad(record, not_read(state, number));
            }
            match open_blocks(self.meta.seed, number, run) {
                Ok(payload) => {
                    let left = len - (number - first) * BLOCK_PAYLOAD as u64;
                    let used = payload.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    content.add(&payload[..used]);
                    number += (run.len() / BLOCK) as u64;
                }
                Err(error) => {
                    let at = (error.block - number) as usize * BLOCK;
                    let block = run[at..at + BLOCK].to_vec();
                    let bad = self.misplaced_or_damaged(&block, error.block);
                    return self.bad(record, bad);
                }
            }
        }
        Ok(content.finish(&record.content).map_or(Payload::Good, Payload::Bad))
    }

    /// Whether the first block of a record's payload is zeros now.
    pub fn is_zeroed(&mut self, record: &Record) -> Result<bool, Halt> {
        if record.header.payload_len == 0 || !is_shard(record) {
            return Ok(false);
        }
        let (block, state) = self.reader.block_anew(record.header.payload_block(), self.pace)?;
        Ok(state == BlockState::Read && is_zero(block))
    }

    /// The same of what was read just now.
    pub fn begins_with_zeros(&mut self, record: &Record) -> Result<bool, Halt> {
        if record.header.payload_len == 0 || !is_shard(record) {
            return Ok(false);
        }
        let (block, state) = self.reader.block(record.header.payload_block(), self.pace)?;
        Ok(state == BlockState::Read && is_zero(block))
    }

    /// A record that is freed while it is read looks damaged behind its first block.
    fn bad(&mut self, record: &Record, bad: Bad) -> Result<Payload, Halt> {
        Ok(if self.is_zeroed(record)? { Payload::Zeroed } else { Payload::Bad(bad) })
    }

    /// Reads block 0 and compares it with what the segment is known to be.
    pub fn segment_header(&mut self) -> Result<Option<Bad>, Halt> {
        let (block, state) = self.reader.block(0, self.pace)?;
        if state != BlockState::Read {
            return Ok(Some(not_read(state, 0)));
        }
        let parsed = open_blocks(BlockSeed::HEADER, 0, block).ok().map(|payload| SegmentHeader::parse(&payload));
        match parsed {
            Some(Ok(header)) if header == self.meta.header => Ok(None),
            Some(Ok(header)) => {
                let detail = format!("block 0 is the header of segment {} of drive {}", header.number, header.drive);
                Ok(Some(Bad::new(FindingKind::Misplaced, detail)))
            }
            Some(Err(error)) => Ok(Some(Bad::new(FindingKind::Damaged, format!("the segment's header: {error}")))),
            None => {
                let block = block.to_vec();
                Ok(Some(self.misplaced_or_damaged(&block, 0)))
            }
        }
    }

    /// What a block is that does not verify.
    pub fn misplaced_or_damaged(&mut self, block: &[u8], number: u64) -> Bad {
        if is_zero(block) {
            return Bad::new(FindingKind::Damaged, format!("block {number} is zeros"));
        }
        match self.searcher.find(block, self.meta, number, &self.shared.segments()) {
            Some(origin) => Bad::new(
                FindingKind::Misplaced,
                format!(
                    "block {number} holds block {} of segment {} of drive {}",
                    origin.block, origin.segment, origin.drive
                ),
            ),
            None => Bad::new(FindingKind::Damaged, format!("block {number} does not verify")),
        }
    }
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|b| *b == 0)
}

fn is_shard(record: &Record) -> bool {
    record.header.kind == RecordKind::Shard
}

fn not_read(state: BlockState, number: u64) -> Bad {
    match state {
        BlockState::Absent => Bad::new(FindingKind::Missing, format!("the file ends before block {number}")),
        _ => Bad::new(FindingKind::Unreadable, format!("block {number} can't be read")),
    }
}

/// A payload on its way through: the hash of a shard's, all of a batch's.
enum Collected {
    Hash(Box<blake3::Hasher>),
    Bytes(Vec<u8>),
    Nothing,
}

impl Collected {
    fn new(content: &Content) -> Collected {
        match content {
            Content::Shard(_) => Collected::Hash(Box::default()),
            Content::Batch(_) => Collected::Bytes(Vec::new()),
            Content::Foreign => Collected::Nothing,
        }
    }

    fn add(&mut self, payload: &[u8]) {
        match self {
            Collected::Hash(hasher) => {
                hasher.update(payload);
            }
            Collected::Bytes(bytes) => bytes.extend_from_slice(payload),
            Collected::Nothing => {}
        }
    }

    /// What is wrong with the whole.
    fn finish(self, content: &Content) -> Option<Bad> {
        match (self, content) {
            (Collected::Hash(hasher), Content::Shard(shard)) => {
                let promised = shard.descriptor.hashes.get(usize::from(shard.index));
                let same = promised == Some(hasher.finalize().as_bytes());
                (!same).then(|| Bad::new(FindingKind::Damaged, "its bytes are not those that its stripe names"))
            }
            (Collected::Bytes(bytes), Content::Batch(batch)) => {
                let opened = batch.open(&Bytes::from(bytes));
                opened.err().map(|error| Bad::new(FindingKind::Damaged, format!("the batch: {error}")))
            }
            _ => Some(Bad::new(FindingKind::Unknown, "written by a version of Stele that this one does not know")),
        }
    }
}
