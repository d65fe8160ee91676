//! The body of a shard record's header: which stripe, and which member of it.
//!
//! Every shard carries the whole descriptor of its stripe (R1), so that one good shard says what the others must be, and a
//! scan of the drives finds every stripe without the index.

use crate::id::ShardId;
use crate::read::Reader;
use crate::stripe::{StripeDescriptor, StripeError};
use bytes::Bytes;

/// The version of shard headers that this code writes.
pub const SHARD_VERSION: u16 = 1;

const MAGIC: &[u8; 4] = b"STLH";

/// The body of a shard record's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardHeader {
    /// The stripe.
    pub descriptor: StripeDescriptor,
    /// Which member: data `0..k`, parity `k..k+m`. Present in the descriptor.
    pub index: u8,
}

impl ShardHeader {
    /// The id of the shard.
    pub fn id(&self) -> ShardId {
        ShardId { stripe: self.descriptor.id, index: self.index }
    }

    /// Bytes in the shard's payload.
    pub fn payload_len(&self) -> u32 {
        self.descriptor.shard_len(self.index)
    }

    /// At most [`crate::segment::MAX_RECORD_BODY`] bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&SHARD_VERSION.to_le_bytes());
        out.extend_from_slice(&[self.index, 0]);
        out.extend_from_slice(&self.descriptor.encode());
        let check = blake3::hash(&out);
        out.extend_from_slice(&check.as_bytes()[..8]);
        Bytes::from(out)
    }

    /// Reads a shard header; the descriptor's root is computed again and compared.
    pub fn parse(bytes: &[u8]) -> Result<ShardHeader, StripeError> {
        let (body, check) =
            bytes.len().checked_sub(8).and_then(|n| bytes.split_at_checked(n)).ok_or(StripeError::Short)?;
        let mut r = Reader::new(body);
        if r.bytes(4) != Some(MAGIC) {
            return Err(StripeError::Magic);
        }
        let version = r.u16().ok_or(StripeError::Short)?;
        if version != SHARD_VERSION {
            return Err(StripeError::Version { version });
        }
        if blake3::hash(body).as_bytes()[..8] != *check {
            return Err(StripeError::Check);
        }
        let (index, zero) = r.u8().zip(r.u8()).ok_or(StripeError::Short)?;
        let descriptor = StripeDescriptor::parse(r.rest())?;
        if zero != 0 || !descriptor.is_present(index) {
            return Err(StripeError::Field { field: "index" });
        }
        Ok(ShardHeader { descriptor, index })
    }
}

#[cfg(test)]
mod tests;
