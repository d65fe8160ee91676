//! The node's index: where on a drive each shard lies, and how far each segment has been indexed.
//!
//! Everything here can be rebuilt from record headers, and nothing here is believed when bytes are read: a place that
//! turns out to hold something else is "not found" and marks the drive's rows as suspect, and the next start rebuilds
//! them. What the index adds to safety is one more barrier (R7): a segment's row says how far an fdatasync is known to
//! have returned, even when no later record says so. It is written only after that sync, so it is never ahead of it.

use crate::kv::{Direction, Family, Kv, KvBatch, KvError};
use codec::id::{DriveId, Epoch, ShardId, StripeId};
use codec::segment::{Chain, SegmentHeader};
use std::sync::Arc;

/// Rows from shard to place: drive 16, stripe id 16, index 1.
pub const SHARDS: &str = "shards";
/// Rows of segments: drive 16, number 8 (big endian); and one per drive, drive 16, when its rows are suspect.
pub const SEGMENTS: &str = "segments";
/// What scrub knows of a drive: how far it is, what it found, and when each shard was verified (`crate::scrub`).
pub const SCRUB: &str = "scrub";
/// The families that the node's index store is opened with.
pub const FAMILIES: [&str; 3] = [SHARDS, SEGMENTS, SCRUB];

const ROW_VERSION: u8 = 1;
const FORGET_STEP: usize = 4096;

/// Where a shard's record lies on its drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardPlace {
    /// The segment's number.
    pub segment: u64,
    /// The block of the record header.
    pub block: u64,
}

/// How far a segment is indexed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentRow {
    /// Where the chain stands behind the last indexed record; everything below `chain.block` is synced.
    pub chain: Chain,
    /// No record will be added, and all of it is indexed and was found whole.
    pub done: bool,
    /// Its header, so that the loss of block 0 costs nothing while the index lives.
    pub header: SegmentHeader,
}

impl SegmentRow {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![ROW_VERSION, u8::from(self.done)];
        for n in [self.chain.block, self.chain.seq, self.chain.barrier_block] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.chain.prev_hash);
        let header = self.header.encode();
        let used = header.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        out.extend_from_slice(&header[..used]);
        out
    }

    fn parse(bytes: &[u8]) -> Option<SegmentRow> {
        let (head, rest) = bytes.split_first_chunk::<2>()?;
        if head[0] != ROW_VERSION || head[1] > 1 {
            return None;
        }
        let (block, rest) = rest.split_first_chunk::<8>()?;
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (barrier, rest) = rest.split_first_chunk::<8>()?;
        let (prev_hash, rest) = rest.split_first_chunk::<32>()?;
        let mut payload = [0; codec::block::BLOCK_PAYLOAD];
        payload.get_mut(..rest.len())?.copy_from_slice(rest);
        Some(SegmentRow {
            chain: Chain {
                block: u64::from_le_bytes(*block),
                seq: u64::from_le_bytes(*seq),
                prev_hash: *prev_hash,
                barrier_block: u64::from_le_bytes(*barrier),
            },
            done: head[1] == 1,
            header: SegmentHeader::parse(&payload).ok()?,
        })
    }
}

/// The rows of one drive.
#[derive(Clone, Debug)]
pub struct ShardIndex {
    kv: Arc<dyn Kv>,
    drive: DriveId,
}

impl ShardIndex {
    /// The rows of `drive` in a store opened with [`FAMILIES`].
    pub fn new(kv: Arc<dyn Kv>, drive: DriveId) -> ShardIndex {
        ShardIndex { kv, drive }
    }

    fn shard_key(&self, shard: ShardId) -> Vec<u8> {
        [self.drive.as_bytes(), &shard.stripe.to_bytes(), &[shard.index]].concat()
    }

    fn segment_key(&self, number: u64) -> Vec<u8> {
        [self.drive.as_bytes(), &number.to_be_bytes()[..]].concat()
    }

    /// Where the index says that a shard lies.
    pub fn place(&self, shard: ShardId) -> Result<Option<ShardPlace>, KvError> {
        let row = self.kv.get(SHARDS, &self.shard_key(shard))?;
        Ok(row.and_then(|row| parse_place(&row)))
    }

    /// Adds a shard's place to a batch.
    pub fn put_place(&self, batch: &mut KvBatch, shard: ShardId, place: ShardPlace) {
        let mut row = vec![ROW_VERSION];
        row.extend_from_slice(&place.segment.to_le_bytes());
        row.extend_from_slice(&place.block.to_le_bytes());
        batch.put(SHARDS, self.shard_key(shard), row);
    }

    /// Adds the removal of a shard's row to a batch.
    pub fn delete_place(&self, batch: &mut KvBatch, shard: ShardId) {
        batch.delete(SHARDS, self.shard_key(shard));
    }

    /// A segment's row. A row that can't be read is no row: the segment is scanned from its beginning.
    pub fn segment(&self, number: u64) -> Result<Option<SegmentRow>, KvError> {
        Ok(self.kv.get(SEGMENTS, &self.segment_key(number))?.and_then(|row| SegmentRow::parse(&row)))
    }

    /// The rows of all segments that the drive had when they were last written.
    pub fn segments(&self) -> Result<Vec<SegmentRow>, KvError> {
        let mut rows = self.kv.scan(SEGMENTS, self.drive.as_bytes(), Direction::Forward)?;
        let mut out = Vec::new();
        while let Some((key, value)) = rows.next()? {
            let Some(number) = key.strip_prefix(self.drive.as_bytes()) else { break };
            // The drive's own key is the mark of a suspect index.
            out.extend(SegmentRow::parse(&value).filter(|row| row.header.number.to_be_bytes()[..] == *number));
        }
        Ok(out)
    }

    /// Adds a segment's row to a batch.
    pub fn put_segment(&self, batch: &mut KvBatch, row: &SegmentRow) {
        batch.put(SEGMENTS, self.segment_key(row.header.number), row.encode());
    }

    /// Adds the removal of a segment's row to a batch.
    pub fn delete_segment(&self, batch: &mut KvBatch, number: u64) {
        batch.delete(SEGMENTS, self.segment_key(number));
    }

    /// Writes a batch.
    pub fn write(&self, batch: KvBatch) -> Result<(), KvError> {
        if batch.is_empty() { Ok(()) } else { self.kv.write(batch) }
    }

    /// Up to `limit` shards and places after `after`, in id order.
    pub fn list(&self, after: Option<ShardId>, limit: usize) -> Result<Vec<(ShardId, ShardPlace)>, KvError> {
        let start = match after {
            // The next possible key.
            Some(shard) => [self.shard_key(shard), vec![0]].concat(),
            None => self.drive.as_bytes().to_vec(),
        };
        let mut rows = self.kv.scan(SHARDS, &start, Direction::Forward)?;
        let mut out = Vec::new();
        while out.len() < limit {
            let Some((key, value)) = rows.next()? else { break };
            let Some(shard) = key.strip_prefix(self.drive.as_bytes()) else { break };
            out.extend(parse_shard(shard).zip(parse_place(&value)));
        }
        Ok(out)
    }

    /// The highest epoch of any stripe with a shard here (R1).
    pub fn highest_epoch(&self) -> Result<Option<Epoch>, KvError> {
        let end = [self.drive.as_bytes(), &[0xff; 18]].concat();
        let mut rows = self.kv.scan(SHARDS, &end, Direction::Backward)?;
        let last = rows.next()?;
        Ok(last.and_then(|(key, _)| parse_shard(key.strip_prefix(self.drive.as_bytes())?)).map(|s| s.stripe.epoch))
    }

    /// Notes that the rows of this drive led somewhere else, so that the next start rebuilds them.
    pub fn suspect(&self) -> Result<(), KvError> {
        let mut batch = KvBatch::new();
        batch.put(SEGMENTS, self.drive.as_bytes().to_vec(), vec![1]);
        self.kv.write(batch)
    }

    /// Whether [`Self::suspect`] was called since the rows were last rebuilt.
    pub fn is_suspect(&self) -> Result<bool, KvError> {
        Ok(self.kv.get(SEGMENTS, self.drive.as_bytes())?.is_some())
    }

    /// Deletes every row of the drive but scrub's, so that it is indexed anew. The mark of [`Self::suspect`] goes last: as long as a
    /// segment's row may be there that calls shards indexed whose rows are gone, the next start must begin again.
    pub fn forget(&self) -> Result<(), KvError> {
        self.empty(SHARDS)?;
        self.empty(SEGMENTS)?;
        let mut batch = KvBatch::new();
        batch.delete(SEGMENTS, self.drive.as_bytes().to_vec());
        self.kv.write(batch)
    }

    /// Deletes every row of the drive: it is no drive of this node any more.
    pub fn forget_all(&self) -> Result<(), KvError> {
        self.forget()?;
        self.empty(SCRUB)
    }

    /// Deletes the drive's rows of a family, but for the mark of [`Self::suspect`].
    fn empty(&self, family: Family) -> Result<(), KvError> {
        loop {
            let mut batch = KvBatch::new();
            {
                let mut rows = self.kv.scan(family, self.drive.as_bytes(), Direction::Forward)?;
                while let Some((key, _)) = rows.next()? {
                    if !key.starts_with(self.drive.as_bytes()) || batch.len() == FORGET_STEP {
                        break;
                    }
                    if family == SEGMENTS && key == self.drive.as_bytes() {
                        continue;
                    }
                    batch.delete(family, key);
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.kv.write(batch)?;
        }
    }

    /// Makes the rows durable; only a clean stop asks for it.
    pub fn flush(&self) -> Result<(), KvError> {
        self.kv.flush()
    }
}

fn parse_place(row: &[u8]) -> Option<ShardPlace> {
    let (&version, rest) = row.split_first()?;
    let (segment, rest) = rest.split_first_chunk::<8>()?;
    let block: [u8; 8] = rest.try_into().ok()?;
    let place = ShardPlace { segment: u64::from_le_bytes(*segment), block: u64::from_le_bytes(block) };
    (version == ROW_VERSION && (1..codec::segment::MAX_SEGMENT_BLOCKS).contains(&place.block)).then_some(place)
}

/// The bytes of a shard's id in keys: in numeric order.
pub(crate) fn shard_bytes(shard: ShardId) -> [u8; 17] {
    let mut out = [shard.index; 17];
    out[..16].copy_from_slice(&shard.stripe.to_bytes());
    out
}

pub(crate) fn parse_shard(key: &[u8]) -> Option<ShardId> {
    let (&index, stripe) = key.split_last()?;
    Some(ShardId { stripe: StripeId::from_slice(stripe)?, index })
}
