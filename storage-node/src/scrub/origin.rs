//! Where a block belongs that does not verify where it lies.
//!
//! Block checksums are seeded with drive, segment and block number (R8). So a block that was written to a wrong place, or
//! that an older write left there, still verifies under the seed of its own place, and only under that: trying the seeds
//! of likely places tells a misdirected write from rot.

use crate::segment::{HEADER_SPACE, SegmentMeta};
use codec::block::{BLOCK_PAYLOAD, BlockSeed, open_blocks};
use codec::id::DriveId;
use codec::segment::{RecordHeader, SegmentHeader};
use std::sync::Arc;

/// Block numbers that are tried in the block's own segment at most.
const OWN_TRIES: u64 = 1 << 19;
/// Block numbers that are tried in all other segments together, nearest segments first.
const OTHER_TRIES: u64 = 1 << 20;
/// After so many blocks that belonged nowhere, only the cheap places are tried: a drive full of rot must not keep the
/// processor busy for days.
const PATIENCE: u32 = 64;

/// The place under whose seed a block verifies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub drive: DriveId,
    pub segment: u64,
    pub block: u64,
}

/// Looks for origins, with less and less patience.
#[derive(Debug)]
pub(crate) struct Searcher {
    misses: u32,
    /// Block numbers worth trying in one segment, both ways.
    tries: u64,
}

impl Searcher {
    /// For segments of so many blocks.
    pub fn new(segment_blocks: u64) -> Searcher {
        Searcher { misses: 0, tries: segment_blocks.saturating_mul(2).min(OWN_TRIES) }
    }

    /// Finds the place of a block that lies in block `number` of `here` and does not verify there. `all`: the segments of
    /// all drives of the node, `here` included or not.
    pub fn find(&mut self, block: &[u8], here: &SegmentMeta, number: u64, all: &[Arc<SegmentMeta>]) -> Option<Origin> {
        if block.iter().all(|b| *b == 0) {
            return None;
        }
        let found = named(block, here, all).or_else(|| self.payload(block, here, number, all));
        match found {
            Some(_) => self.misses = 0,
            None => self.misses = self.misses.saturating_add(1),
        }
        found
    }

    fn payload(&self, block: &[u8], here: &SegmentMeta, number: u64, all: &[Arc<SegmentMeta>]) -> Option<Origin> {
        let is_of = |meta: &SegmentMeta, n: u64| verifies(meta.seed, n, block).then(|| origin(meta, n));
        let here_id = (here.header.drive, here.header.number);
        let others = || all.iter().filter(|meta| (meta.header.drive, meta.header.number) != here_id);
        // Another file, the same offset: what a file system or a drive that mixes up extents does.
        if let Some(found) = others().find_map(|meta| is_of(meta, number)) {
            return Some(found);
        }
        if self.misses >= PATIENCE {
            return None;
        }
        if let Some(found) = nearest(number, self.tries).find_map(|n| is_of(here, n)) {
            return Some(found);
        }
        let mut near: Vec<_> = others().collect();
        near.sort_by_key(|meta| {
            (meta.header.drive != here.header.drive, meta.header.number.abs_diff(here.header.number))
        });
        let tries = (OTHER_TRIES / (near.len() as u64).max(1)).min(self.tries).max(64);
        near.iter().find_map(|meta| nearest(number, tries).find_map(|n| is_of(meta, n)))
    }
}

fn origin(meta: &SegmentMeta, block: u64) -> Origin {
    Origin { drive: meta.header.drive, segment: meta.header.number, block }
}

fn verifies(seed: BlockSeed, number: u64, block: &[u8]) -> bool {
    open_blocks(seed, number, block).is_ok()
}

/// A header says itself where it belongs.
fn named(block: &[u8], here: &SegmentMeta, all: &[Arc<SegmentMeta>]) -> Option<Origin> {
    let payload = block.get(..BLOCK_PAYLOAD)?;
    if let Ok(header) = SegmentHeader::parse(payload)
        && verifies(BlockSeed::HEADER, 0, block)
    {
        return Some(Origin { drive: header.drive, segment: header.number, block: 0 });
    }
    let header = RecordHeader::parse(payload).ok()?;
    let seeded = |meta: &SegmentMeta| verifies(meta.seed, header.block | HEADER_SPACE, block);
    if seeded(here) {
        return Some(origin(here, header.block));
    }
    all.iter().find(|meta| seeded(meta)).map(|meta| origin(meta, header.block))
}

/// Block numbers from 1 on around `number`, itself left out, nearest first.
fn nearest(number: u64, tries: u64) -> impl Iterator<Item = u64> {
    let both = (1..=tries / 2).flat_map(move |by| [number.checked_sub(by), number.checked_add(by)]);
    both.flatten().filter(|n| *n > 0)
}
