//! Reads stripes from whatever shards are left: the shard itself, or the same bytes decoded from any k' others.
//!
//! Inputs carry one root and verify block by block (R1, R2); what is decoded is judged by whoever asked, who knows what it
//! must be: a frame's hashes and chunk id, or the shard's own hash.

use super::media::{Media, Piece};
use bytes::Bytes;
use codec::erasure::Erasure;
use codec::stripe::StripeDescriptor;
use std::ops::Range;

/// Bytes that were not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// Too few shards.
    #[error("stripe {stripe}: {good} good shards here, {needed} are needed")]
    TooFew {
        /// The stripe.
        stripe: String,
        /// Shards that could be read.
        good: usize,
        /// Shards that are needed.
        needed: usize,
    },
    /// Shards enough, and whatever they give is not what it should be.
    #[error("stripe {stripe}: what its shards decode to does not verify")]
    Wrong {
        /// The stripe.
        stripe: String,
    },
    /// No shard of it is on these drives.
    #[error("stripe {0} is not on these drives")]
    Unknown(String),
    /// The range is outside the shard.
    #[error("stripe {0} has no such range")]
    Range(String),
}

/// One stripe on the drives.
pub struct Stripe<'a> {
    media: &'a Media,
    descriptor: StripeDescriptor,
    root: [u8; 32],
}

impl<'a> Stripe<'a> {
    /// A stripe whose descriptor is known.
    pub fn new(media: &'a Media, descriptor: StripeDescriptor) -> Stripe<'a> {
        let root = descriptor.root();
        Stripe { media, descriptor, root }
    }

    /// The bytes at `range` of data shard `shard` that `good` accepts: read, or decoded from others, leaving out one input
    /// after the other when shards that verify still decode to something else.
    pub fn read(&self, shard: u8, range: Range<u32>, good: &dyn Fn(&[u8]) -> bool) -> Result<Bytes, StripeError> {
        let name = || self.descriptor.id.to_string();
        if !self.descriptor.is_present(shard) || range.start > range.end || range.end > self.descriptor.shard_len(shard)
        {
            return Err(StripeError::Range(name()));
        }
        if let Some(bytes) = self.copies(shard, &range).find(|bytes| good(bytes)) {
            return Ok(bytes);
        }
        let others: Vec<(u8, Bytes)> = self.others(shard, &range);
        let needed = self.descriptor.data_present().len();
        if others.len() < needed {
            return Err(StripeError::TooFew { stripe: name(), good: others.len(), needed });
        }
        let whole = std::iter::once(None).chain(others.iter().map(|(index, _)| Some(*index)));
        for without in whole {
            let inputs: Vec<(u8, &[u8])> = others
                .iter()
                .filter(|(index, _)| Some(*index) != without)
                .take(needed)
                .map(|(index, bytes)| (*index, bytes.as_ref()))
                .collect();
            if inputs.len() < needed {
                break;
            }
            let len = (range.end - range.start) as usize;
            let erasure = Erasure::new(self.descriptor.geometry);
            let decoded = erasure.reconstruct(&inputs, self.descriptor.data_absent(), &[shard], len);
            if let Some(bytes) = decoded.ok().and_then(|mut shards| shards.pop()).filter(|bytes| good(bytes)) {
                return Ok(Bytes::from(bytes));
            }
        }
        Err(StripeError::Wrong { stripe: name() })
    }

    /// The payloads of all data shards, joined by index.
    pub fn joined(&self) -> Result<Bytes, StripeError> {
        let mut joined = Vec::new();
        for shard in self.descriptor.data_present() {
            let good = |bytes: &[u8]| self.descriptor.check_shard(shard, bytes).is_ok();
            joined.extend_from_slice(&self.read(shard, 0..self.descriptor.shard_len(shard), &good)?);
        }
        Ok(Bytes::from(joined))
    }

    /// Every copy of a shard's range that verifies block by block.
    fn copies(&self, shard: u8, range: &Range<u32>) -> impl Iterator<Item = Bytes> {
        let ours = move |piece: &&Piece| piece.index == shard && piece.root == self.root;
        let pieces = self.media.pieces(self.descriptor.id).iter().filter(ours);
        let range = range.clone();
        pieces.filter_map(move |piece| self.media.read_shard(piece, range.clone()))
    }

    /// The same range of every other shard, as much of it as that shard has; data first, because it needs no arithmetic.
    fn others(&self, shard: u8, range: &Range<u32>) -> Vec<(u8, Bytes)> {
        let all = self.descriptor.data_present().into_iter().chain(self.descriptor.parity_present());
        all.filter(|index| *index != shard)
            .filter_map(|index| {
                let len = self.descriptor.shard_len(index);
                let range = range.start.min(len)..range.end.min(len);
                // A shorter shard is zeros from its end on: known without reading.
                let bytes = if range.is_empty() { Some(Bytes::new()) } else { self.copies(index, &range).next() };
                bytes.map(|bytes| (index, bytes))
            })
            .collect()
    }
}
