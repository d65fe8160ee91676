//! The ensemble register: who keeps the journal, and which drives there are at all.
//!
//! One small file on every registered drive. A change of the ensemble is written to more than half of the registered
//! drives before anything is acknowledged under it, so any later majority of them holds the newest register. The sequence
//! number only grows; two registers with the same sequence (a change that was begun twice) are ordered by their epoch.
//!
//! Layout, little endian, nothing behind it:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `ENSEMBLE` |
//! | 8 | 2 | version, 1 |
//! | 10 | 1 | k |
//! | 11 | 1 | m |
//! | 12 | 2 | number of members |
//! | 14 | 2 | number of registered drives |
//! | 16 | 16 | cluster |
//! | 32 | 8 | sequence |
//! | 40 | 8 | epoch of the writer |
//! | 48 | 8 | first LSN that is written under this ensemble |
//! | 56 | 16 each | members |
//! | then | 16 each | registered drives, ascending |
//! | last | 32 | BLAKE3 of everything before |

use crate::id::{ClusterId, DriveId, Epoch, Lsn};
use crate::read::Reader;

/// The version that this code writes.
pub const REGISTER_VERSION: u16 = 1;
/// More drives than this are not registered in one cluster of one machine.
pub const MAX_REGISTERED: usize = 4096;

const MAGIC: &[u8; 8] = b"ENSEMBLE";
const HASH: usize = 32;

/// The content of the register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Register {
    /// The cluster.
    pub cluster: ClusterId,
    /// Counts the ensembles from 1; only grows.
    pub sequence: u64,
    /// The epoch of the start that wrote it.
    pub epoch: Epoch,
    /// The first LSN that is written under this ensemble; everything before it was copied to every member first.
    pub first_lsn: Lsn,
    /// Data shards of a full stripe.
    pub k: u8,
    /// Parity shards; the journal has 1+m copies.
    pub m: u8,
    /// The drives that keep the journal, 1+m of them, distinct.
    pub members: Vec<DriveId>,
    /// Every registered drive, ascending, distinct.
    pub registered: Vec<DriveId>,
}

/// A register that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Too short, too long, or its hash does not match: rot or a torn write.
    #[error("the ensemble register does not verify")]
    Damaged,
    /// Written by a newer Stele.
    #[error("ensemble register of version {0}, which this version of Stele does not know")]
    Version(u16),
    /// A field is out of range.
    #[error("ensemble register field `{0}` is out of range")]
    Field(&'static str),
}

impl Register {
    /// The bytes of the register.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(56 + 16 * (self.members.len() + self.registered.len()) + HASH);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&REGISTER_VERSION.to_le_bytes());
        out.extend_from_slice(&[self.k, self.m]);
        for count in [self.members.len(), self.registered.len()] {
            out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
        }
        out.extend_from_slice(self.cluster.as_bytes());
        for n in [self.sequence, self.epoch.0, self.first_lsn.0] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        for drive in self.members.iter().chain(&self.registered) {
            out.extend_from_slice(drive.as_bytes());
        }
        let hash = blake3::hash(&out);
        out.extend_from_slice(hash.as_bytes());
        out
    }

    /// Reads bytes as written by [`Self::encode`], every field checked.
    pub fn parse(bytes: &[u8]) -> Result<Register, RegisterError> {
        let body_len = bytes.len().checked_sub(HASH).ok_or(RegisterError::Damaged)?;
        let (body, hash) = bytes.split_at(body_len);
        if blake3::hash(body).as_bytes() != hash {
            return Err(RegisterError::Damaged);
        }
        let mut r = Reader::new(body);
        if r.bytes(8) != Some(MAGIC) {
            return Err(RegisterError::Damaged);
        }
        match r.u16().ok_or(RegisterError::Damaged)? {
            REGISTER_VERSION => {}
            version => return Err(RegisterError::Version(version)),
        }
        let register = Self::parse_fields(&mut r).ok_or(RegisterError::Damaged)?;
        if !r.rest().is_empty() {
            return Err(RegisterError::Damaged);
        }
        register.check()?;
        Ok(register)
    }

    fn parse_fields(r: &mut Reader<'_>) -> Option<Register> {
        let (k, m) = (r.u8()?, r.u8()?);
        let (members, registered) = (usize::from(r.u16()?), usize::from(r.u16()?));
        let cluster = ClusterId(r.array()?);
        let (sequence, epoch, first_lsn) = (r.u64()?, Epoch(r.u64()?), Lsn(r.u64()?));
        let mut drives = |count: usize| (0..count).map(|_| r.array().map(DriveId)).collect::<Option<Vec<_>>>();
        let (members, registered) = (drives(members)?, drives(registered)?);
        Some(Register { cluster, sequence, epoch, first_lsn, k, m, members, registered })
    }

    fn check(&self) -> Result<(), RegisterError> {
        let field = |ok, name| if ok { Ok(()) } else { Err(RegisterError::Field(name)) };
        field(self.sequence != 0, "sequence")?;
        field(self.first_lsn.0 != 0, "first_lsn")?;
        field(self.k != 0 && usize::from(self.k) + usize::from(self.m) <= 32, "geometry")?;
        field(self.registered.len() <= MAX_REGISTERED, "registered")?;
        field(self.registered.is_sorted_by(|a, b| a < b), "registered")?;
        field(self.members.len() == 1 + usize::from(self.m), "members")?;
        let distinct = self.members.iter().enumerate().all(|(i, d)| !self.members[..i].contains(d));
        field(distinct && self.members.iter().all(|d| self.registered.contains(d)), "members")
    }

    /// How many registered drives are more than half of them.
    pub fn majority(&self) -> usize {
        self.registered.len() / 2 + 1
    }

    /// Orders registers by age: the newest one counts.
    pub fn age(&self) -> (u64, Epoch) {
        (self.sequence, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Register {
        Register {
            cluster: ClusterId([7; 16]),
            sequence: 3,
            epoch: Epoch(0x0000_0002_1234_5678),
            first_lsn: Lsn(41),
            k: 2,
            m: 1,
            members: vec![DriveId([9; 16]), DriveId([2; 16])],
            registered: vec![DriveId([2; 16]), DriveId([5; 16]), DriveId([9; 16])],
        }
    }

    /// The layout that docs/FORMAT.md shows; written again only when STELE_WRITE_GOLDEN is set.
    #[test]
    fn golden() {
        let bytes = crate::golden::read("register-v1.bin", || sample().encode().to_vec());
        assert_eq!(Register::parse(&bytes).unwrap(), sample());
        assert_eq!(sample().encode(), bytes);
    }

    #[test]
    fn every_flip_is_seen() {
        let bytes = sample().encode();
        for i in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[i / 8] ^= 1 << (i % 8);
            assert!(Register::parse(&flipped).is_err(), "bit {i}");
        }
        for len in 0..bytes.len() {
            assert!(Register::parse(&bytes[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn fields_are_checked_behind_a_good_hash() {
        let bad = |change: fn(&mut Register)| {
            let mut register = sample();
            change(&mut register);
            Register::parse(&register.encode())
        };
        assert_eq!(bad(|r| r.m = 0), Err(RegisterError::Field("members")));
        assert_eq!(bad(|r| r.members[0] = r.members[1]), Err(RegisterError::Field("members")));
        assert_eq!(bad(|r| r.members[0] = DriveId([1; 16])), Err(RegisterError::Field("members")));
        assert_eq!(bad(|r| r.registered.reverse()), Err(RegisterError::Field("registered")));
        assert_eq!(bad(|r| r.k = 0), Err(RegisterError::Field("geometry")));
        assert_eq!(bad(|r| r.sequence = 0), Err(RegisterError::Field("sequence")));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Register::parse(&bytes).is_err());
        }
    }
}
