//! Medium blocks: what a segment file is made of, and the checksum that says where a block belongs (R8).
//!
//! A block is 4096 bytes: 4088 of payload and the XXH3-64 of that payload. The checksum is seeded with the cluster, the
//! drive, the incarnation of the segment and the block's number in it. So a block that a drive wrote to another place, an
//! older block at a place whose newer write was lost, and a block that a segment's earlier life left behind all fail the
//! same comparison that finds rot. No byte of a segment can be had from here without that comparison.

use crate::id::{ClusterId, DriveId, Incarnation};
use bytes::Bytes;
use std::ops::Range;
use twox_hash::XxHash3_64;

/// Bytes in a block on the medium.
pub const BLOCK: usize = 4096;
/// Bytes of payload in a block.
pub const BLOCK_PAYLOAD: usize = BLOCK - 8;

/// Context of the key derivation that makes a segment's seed.
const SEED_CONTEXT: &str = "stele 2026 block seed v1";
/// Odd, so that distinct block numbers give distinct sums (2^64 divided by the golden ratio, as in SplitMix64).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A block that is not what was written there: rotten, torn, misdirected, lost, or of another segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {block} does not verify")]
pub struct BlockError {
    /// The block's number in the segment. For bytes that end inside a block, and for a range that they do not cover, the
    /// number of the first block that is not whole.
    pub block: u64,
}

/// What the checksums of one segment's blocks start from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSeed(u64);

impl BlockSeed {
    /// Seals block 0, the segment header: whoever reads it knows nothing about the segment yet.
    pub const HEADER: BlockSeed = BlockSeed(u64::from_le_bytes(*b"STELEHDR"));

    /// The seed of all blocks but the first of a segment.
    pub fn for_segment(cluster: ClusterId, drive: DriveId, incarnation: Incarnation) -> BlockSeed {
        let mut hasher = blake3::Hasher::new_derive_key(SEED_CONTEXT);
        hasher.update(cluster.as_bytes()).update(drive.as_bytes()).update(incarnation.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        BlockSeed(u64::from_le_bytes(first))
    }

    /// The seed of one block: a step per block and SplitMix64's finaliser, a bijection, so no two blocks of one segment
    /// share a seed.
    fn of_block(self, block: u64) -> u64 {
        let mut z = self.0.wrapping_add(block.wrapping_mul(STEP));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn checksum(self, block: u64, payload: &[u8]) -> [u8; 8] {
        XxHash3_64::oneshot_with_seed(self.of_block(block), payload).to_le_bytes()
    }
}

/// How many blocks hold `payload_len` bytes of payload.
pub fn blocks_for(payload_len: u64) -> u64 {
    payload_len.div_ceil(BLOCK_PAYLOAD as u64)
}

/// Appends `payload` to `out` as sealed blocks, the first of which has number `first_block`; the last one is padded with
/// zeros. An empty payload is no block.
pub fn seal_into(out: &mut Vec<u8>, seed: BlockSeed, first_block: u64, payload: &[u8]) {
    out.reserve(payload.len().div_ceil(BLOCK_PAYLOAD) * BLOCK);
    for (i, piece) in (0u64..).zip(payload.chunks(BLOCK_PAYLOAD)) {
        let start = out.len();
        out.extend_from_slice(piece);
        out.resize(start + BLOCK_PAYLOAD, 0);
        let sum = seed.checksum(first_block.wrapping_add(i), &out[start..]);
        out.extend_from_slice(&sum);
    }
}

/// Verifies whole blocks, the first of which has number `first_block`, and returns their payloads joined
/// ([`BLOCK_PAYLOAD`] bytes per block, padding included).
pub fn open_blocks(seed: BlockSeed, first_block: u64, blocks: &[u8]) -> Result<Vec<u8>, BlockError> {
    let mut out = Vec::with_capacity(blocks.len() / BLOCK * BLOCK_PAYLOAD);
    for (i, block) in (0u64..).zip(blocks.chunks(BLOCK)) {
        let number = first_block.wrapping_add(i);
        let (payload, sum) = block.split_at_checked(BLOCK_PAYLOAD).ok_or(BlockError { block: number })?;
        if seed.checksum(number, payload) != *sum {
            return Err(BlockError { block: number });
        }
        out.extend_from_slice(payload);
    }
    Ok(out)
}

/// Verifies the blocks that cover a range of payload and returns just that range, which is relative to the first payload
/// byte of block `first_block`.
pub fn open_range(
    seed: BlockSeed,
    first_block: u64,
    blocks: &[u8],
    payload_range: Range<usize>,
) -> Result<Bytes, BlockError> {
    let payload = Bytes::from(open_blocks(seed, first_block, blocks)?);
    if payload_range.start > payload_range.end || payload_range.end > payload.len() {
        return Err(BlockError { block: first_block.wrapping_add((blocks.len() / BLOCK) as u64) });
    }
    Ok(payload.slice(payload_range))
}

#[cfg(test)]
mod tests;
