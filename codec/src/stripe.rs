//! Stripes: the descriptor that all members of a stripe share, and the packing of frames into one.
//!
//! A stripe of geometry k+m has up to k data shards; those that hold nothing do not exist, and the code treats them as
//! zeros (a shortened code). Absence is a bit that was committed, never something inferred from a shard that can't be
//! found. All m parity shards always exist and are as long as the longest data shard. `stripe_root` covers all of the
//! descriptor, so shards that agree on it agree on everything that decoding needs (R1).

mod pack;

pub use pack::{FramePlace, PackedStripe, StripePacker};

use crate::erasure::{ErasureError, Geometry};
use crate::id::{ClusterId, Lsn, StripeId};
use crate::read::Reader;
use bytes::Bytes;

/// The version of descriptors that this code writes.
pub const DESCRIPTOR_VERSION: u16 = 1;
/// The longest payload of a shard, in bytes: that of a record.
pub const MAX_SHARD: u32 = 1 << 30;

const MAGIC: &[u8; 4] = b"STLD";
const ROOT_CONTEXT: &str = "stele 2026 stripe root v1";
const ROOT_LEN: usize = 32;
const FLAG_LSN_RANGE: u8 = 1;

/// A descriptor or shard that can't be used, or frames that can't be packed.
#[derive(Debug, thiserror::Error)]
pub enum StripeError {
    /// The bytes end early.
    #[error("ends early")]
    Short,
    /// Neither a stripe descriptor nor a shard header.
    #[error("does not start like a stripe descriptor or a shard header")]
    Magic,
    /// Written by a newer Stele.
    #[error("layout version {version}, which this version of Stele does not know")]
    Version {
        /// The version found.
        version: u16,
    },
    /// The root or the check does not match the bytes: damage.
    #[error("the hash of the bytes is another")]
    Check,
    /// A field is out of range, or contradicts another.
    #[error("field `{field}` is out of range")]
    Field {
        /// Its name in docs/FORMAT.md.
        field: &'static str,
    },
    /// A payload that is not the one that the descriptor names (R2).
    #[error("shard {index} is not the one that the descriptor names")]
    WrongShard {
        /// The shard's index.
        index: u8,
    },
    /// Nothing to pack: no frame, or only empty ones.
    #[error("a stripe of no bytes")]
    Empty,
    /// More than [`MAX_SHARD`] bytes in one shard.
    #[error("a shard would be longer than {MAX_SHARD} bytes")]
    TooLong,
    /// The packer was made for another geometry than it is to be finished with.
    #[error("packed for up to {data}+{parity} shards, which geometry {geometry} does not have")]
    Geometry {
        /// The data shards that the packer may fill.
        data: u8,
        /// The parity shards that the packer counted with.
        parity: u8,
        /// The geometry.
        geometry: Geometry,
    },
    /// The erasure code refused.
    #[error(transparent)]
    Erasure(#[from] ErasureError),
}

/// What a stripe holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum StripeClass {
    /// Frames.
    Data = 1,
    /// Sealed journal entries.
    Ledger = 2,
    /// A checkpoint of the index.
    Checkpoint = 3,
}

/// What every member of a stripe says about the stripe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StripeDescriptor {
    /// Its identity (R1).
    pub id: StripeId,
    /// What it holds.
    pub class: StripeClass,
    /// The full geometry.
    pub geometry: Geometry,
    /// Bit i: shard i exists.
    pub present: u32,
    /// The true length of each of the k+m shards, in bytes; 0 where absent.
    pub lengths: Vec<u32>,
    /// BLAKE3 of each of the k+m shards' payloads; zeros where absent.
    pub hashes: Vec<[u8; 32]>,
    /// The first and the last LSN of a ledger stripe; of a checkpoint, twice the LSN that it reflects; data stripes have none.
    pub lsn_range: Option<(Lsn, Lsn)>,
    /// The cluster.
    pub cluster: ClusterId,
}

impl StripeDescriptor {
    /// Shards in the full geometry, present or not.
    pub fn width(&self) -> u8 {
        self.geometry.k().saturating_add(self.geometry.m())
    }

    /// Whether shard `index` exists.
    pub fn is_present(&self, index: u8) -> bool {
        1u32.checked_shl(u32::from(index)).is_some_and(|bit| self.present & bit != 0)
    }

    /// The indices of the data shards that exist.
    pub fn data_present(&self) -> Vec<u8> {
        (0..self.geometry.k()).filter(|i| self.is_present(*i)).collect()
    }

    /// The indices of the parity shards: all m of them exist.
    pub fn parity_present(&self) -> Vec<u8> {
        (self.geometry.k()..self.width()).filter(|i| self.is_present(*i)).collect()
    }

    /// A bitmap of the data shards that do not exist, known to be zeros.
    pub fn data_absent(&self) -> u32 {
        (0..self.geometry.k())
            .filter(|i| !self.is_present(*i))
            .fold(0, |map, i| map | 1u32.checked_shl(i.into()).unwrap_or(0))
    }

    /// The length of a shard's payload, in bytes; 0 where absent.
    pub fn shard_len(&self, index: u8) -> u32 {
        self.lengths.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// The length that the code works on: that of the longest data shard, and of each parity shard.
    pub fn code_len(&self) -> u32 {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Whether `payload` is the payload of shard `index` (R2).
    pub fn check_shard(&self, index: u8, payload: &[u8]) -> Result<(), StripeError> {
        let same = self.is_present(index)
            && usize::try_from(self.shard_len(index)) == Ok(payload.len())
            && self.hashes.get(usize::from(index)) == Some(blake3::hash(payload).as_bytes());
        if same { Ok(()) } else { Err(StripeError::WrongShard { index }) }
    }

    /// Everything before the root.
    fn encode_body(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 36 * self.lengths.len() + ROOT_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&DESCRIPTOR_VERSION.to_le_bytes());
        let flags = if self.lsn_range.is_some() { FLAG_LSN_RANGE } else { 0 };
        out.extend_from_slice(&[self.class as u8, self.geometry.k(), self.geometry.m(), flags, 0, 0]);
        out.extend_from_slice(&self.present.to_le_bytes());
        out.extend_from_slice(&self.id.to_bytes());
        out.extend_from_slice(self.cluster.as_bytes());
        let (first, last) = self.lsn_range.unwrap_or_default();
        out.extend_from_slice(&first.0.to_le_bytes());
        out.extend_from_slice(&last.0.to_le_bytes());
        for len in &self.lengths {
            out.extend_from_slice(&len.to_le_bytes());
        }
        for (_, hash) in (0u8..).zip(&self.hashes).filter(|(i, _)| self.is_present(*i)) {
            out.extend_from_slice(hash);
        }
        out
    }

    /// `stripe_root` (R1): BLAKE3 (key derivation mode) of all of the descriptor: id, class, geometry, presence, lengths and
    /// content hashes.
    pub fn root(&self) -> [u8; 32] {
        root_of(&self.encode_body())
    }

    /// The descriptor and its root, at most 1.3 KiB.
    pub fn encode(&self) -> Bytes {
        let mut out = self.encode_body();
        let root = root_of(&out);
        out.extend_from_slice(&root);
        Bytes::from(out)
    }

    /// Reads a descriptor; its root is computed again and compared before anything else is believed.
    pub fn parse(bytes: &[u8]) -> Result<StripeDescriptor, StripeError> {
        let split = bytes.len().checked_sub(ROOT_LEN).ok_or(StripeError::Short)?;
        let (body, root) = bytes.split_at(split);
        let mut r = Reader::new(body);
        if r.bytes(4) != Some(MAGIC) {
            return Err(StripeError::Magic);
        }
        let version = r.u16().ok_or(StripeError::Short)?;
        if version != DESCRIPTOR_VERSION {
            return Err(StripeError::Version { version });
        }
        if root_of(body) != *root {
            return Err(StripeError::Check);
        }
        let descriptor = Self::parse_fields(&mut r).ok_or(StripeError::Short)??;
        descriptor.check_fields()?;
        // One value, one encoding: what is reserved, unused or left over shows here.
        field(descriptor.encode_body() == body, "reserved")?;
        Ok(descriptor)
    }

    fn parse_fields(r: &mut Reader<'_>) -> Option<Result<StripeDescriptor, StripeError>> {
        let (class, k, m, flags, _zero) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?, r.u16()?);
        let (present, id) = (r.u32()?, StripeId::from_slice(r.bytes(16)?)?);
        let cluster = ClusterId(r.array()?);
        let (first, last) = (Lsn(r.u64()?), Lsn(r.u64()?));
        let class = match class {
            1 => StripeClass::Data,
            2 => StripeClass::Ledger,
            3 => StripeClass::Checkpoint,
            _ => return Some(Err(StripeError::Field { field: "class" })),
        };
        // Bounds k+m to 32, and with it everything that follows.
        let geometry = match Geometry::new(k, m) {
            Ok(geometry) => geometry,
            Err(error) => return Some(Err(error.into())),
        };
        let width = k.checked_add(m)?;
        let lengths = (0..width).map(|_| r.u32()).collect::<Option<Vec<_>>>()?;
        let bit = |i: u8| 1u32.checked_shl(i.into()).is_some_and(|bit| present & bit != 0);
        let hashes = (0..width).map(|i| if bit(i) { r.array() } else { Some([0; 32]) }).collect::<Option<Vec<_>>>()?;
        let lsn_range = (flags & FLAG_LSN_RANGE != 0).then_some((first, last));
        Some(Ok(StripeDescriptor { id, class, geometry, present, lengths, hashes, lsn_range, cluster }))
    }

    fn check_fields(&self) -> Result<(), StripeError> {
        let width = self.width();
        let beyond = u32::MAX.checked_shl(width.into()).unwrap_or(0);
        field(self.present & beyond == 0, "present")?;
        field(self.parity_present().len() == usize::from(self.geometry.m()), "present")?;
        field(!self.data_present().is_empty(), "present")?;
        field((0..width).all(|i| self.is_present(i) == (self.shard_len(i) > 0)), "lengths")?;
        let longest = self.data_present().into_iter().map(|i| self.shard_len(i)).max().unwrap_or(0);
        field(longest <= MAX_SHARD, "lengths")?;
        field(self.parity_present().into_iter().all(|i| self.shard_len(i) == longest), "lengths")?;
        field(self.lsn_range.is_some() == (self.class != StripeClass::Data), "lsn_range")?;
        field(self.lsn_range.is_none_or(|(first, last)| first.0 > 0 && first <= last), "lsn_range")
    }
}

fn field(ok: bool, field: &'static str) -> Result<(), StripeError> {
    if ok { Ok(()) } else { Err(StripeError::Field { field }) }
}

fn root_of(body: &[u8]) -> [u8; 32] {
    blake3::derive_key(ROOT_CONTEXT, body)
}

#[cfg(test)]
pub(crate) mod tests;
