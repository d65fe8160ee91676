//! The file `frees` of a drive: who may order deletes (R10), what is being freed, and which segments are gone for good.
//!
//! The bytes are in docs/FORMAT.md. The file is replaced as a whole ([`Disk::write_durably`]) before anything that it
//! speaks of is done:
//! * an authority, before the first free under it: a delete from an older state is refused after a crash as well;
//! * a shard that is to be freed, before its payload is touched: a block that a crash left half overwritten is then known
//!   to be nothing, and not taken for damage;
//! * a segment, before its file is removed: a file that is missing is then known to have been freed, and not taken for
//!   lost. Its header also said how long the segment before it is (R7), so that is kept here.

use crate::disk::{Disk, DiskError, DiskOp};
use crate::keep::{Authority, ShardRef};
use codec::id::{Epoch, Incarnation, Lsn, ShardId, StripeId};
use codec::segment::Closed;
use rustix::io::Errno;
use std::collections::BTreeMap;

/// The name of the file, at the root of the drive.
pub const FREES_FILE: &str = "frees";
/// The version that this code writes.
pub const FREES_VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"STELFREE";
const CHECK_LEN: usize = 32;

/// A shard that is being freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PendingFree {
    /// The shard.
    pub shard: ShardRef,
    /// Its segment's number.
    pub segment: u64,
    /// Tells this life of the number from others.
    pub incarnation: Incarnation,
    /// The block of its record header.
    pub block: u64,
}

/// What a drive remembers of frees.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FreeLog {
    /// The highest epoch and the highest LSN of those who ordered frees.
    pub authority: Authority,
    /// Removed data segments, and how the segment before each of them ended.
    pub removed: BTreeMap<u64, Option<Closed>>,
    /// Shards that are being freed, or were freed since the file was last written.
    pub pending: Vec<PendingFree>,
}

impl FreeLog {
    /// Whether this is older than what was seen (R10): of an older incarnation, or knowing less. Each by itself: a
    /// restored state starts in a higher epoch and knows less all the same.
    pub fn is_too_old(&self, authority: Authority) -> bool {
        authority.epoch < self.authority.epoch || authority.lsn < self.authority.lsn
    }

    /// Takes note of who ordered.
    pub fn see(&mut self, authority: Authority) {
        self.authority.epoch = self.authority.epoch.max(authority.epoch);
        self.authority.lsn = self.authority.lsn.max(authority.lsn);
    }

    /// How a segment ended, as the header of a removed one said.
    pub fn before_removed(&self, number: u64) -> Option<Closed> {
        self.removed.values().flatten().find(|closed| closed.number == number).copied()
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&FREES_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        for n in [self.authority.epoch.0, self.authority.lsn.0, self.removed.len() as u64, self.pending.len() as u64] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        for (number, before) in &self.removed {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&before.map_or(0, |closed| closed.number).to_le_bytes());
            out.extend_from_slice(&before.map_or(0, |closed| closed.closed_blocks).to_le_bytes());
            out.extend_from_slice(&before.map_or([0; 32], |closed| closed.last_record_hash));
        }
        for free in &self.pending {
            out.extend_from_slice(&free.segment.to_le_bytes());
            out.extend_from_slice(&free.block.to_le_bytes());
            out.extend_from_slice(&free.incarnation.0);
            out.extend_from_slice(&free.shard.id.stripe.to_bytes());
            out.extend_from_slice(&[free.shard.id.index, 0, 0, 0, 0, 0, 0, 0]);
            out.extend_from_slice(&free.shard.root);
        }
        let check = blake3::hash(&out);
        out.extend_from_slice(check.as_bytes());
        out
    }

    /// Reads the file's bytes; `None` if they are not exactly what [`Self::encode`] writes.
    pub fn parse(bytes: &[u8]) -> Option<FreeLog> {
        let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_LEN)?)?;
        if blake3::hash(body).as_bytes() != check {
            return None;
        }
        let mut fields = Fields(body.strip_prefix(MAGIC)?);
        if fields.take()? != FREES_VERSION.to_le_bytes() || fields.take()? != [0; 6] {
            return None;
        }
        let authority = Authority { epoch: Epoch(fields.number()?), lsn: Lsn(fields.number()?) };
        let (removed_count, pending_count) = (fields.number()?, fields.number()?);
        let (mut removed, mut pending) = (BTreeMap::new(), Vec::new());
        for _ in 0..removed_count {
            let number = fields.number()?;
            let before =
                Closed { number: fields.number()?, closed_blocks: fields.number()?, last_record_hash: fields.take()? };
            removed.insert(number, (before.number != 0).then_some(before));
        }
        for _ in 0..pending_count {
            let (segment, block, incarnation) = (fields.number()?, fields.number()?, Incarnation(fields.take()?));
            let stripe = StripeId::from_slice(&fields.take::<16>()?)?;
            let [index, _zero @ ..] = fields.take::<8>()?;
            let shard = ShardRef { id: ShardId { stripe, index }, root: fields.take()? };
            pending.push(PendingFree { shard, segment, incarnation, block });
        }
        let log = FreeLog { authority, removed, pending };
        // One value, one encoding: what is reserved or left over shows here.
        (log.encode() == bytes).then_some(log)
    }

    /// Reads a drive's file; nothing if it was never written. One that does not verify is an error of the medium: what
    /// it said is unknown, and no free may be allowed for want of it.
    pub fn read(disk: &dyn Disk) -> Result<FreeLog, DiskError> {
        let bytes = match disk.read_small(FREES_FILE) {
            Ok(bytes) => bytes,
            Err(DiskError::NotFound { .. }) => return Ok(FreeLog::default()),
            Err(error) => return Err(error),
        };
        let path = format!("{}/{FREES_FILE}", disk.path_hint());
        match newer(&bytes, MAGIC, FREES_VERSION) {
            Some(version) => Err(DiskError::Newer { path, what: "free log", version }),
            None => FreeLog::parse(&bytes).ok_or(DiskError::Io { op: DiskOp::Read, path, errno: Errno::BADMSG }),
        }
    }
}

/// The version of a small file that verifies (magic, version, anything, BLAKE3 of all that) and is not of the version `known`.
pub(crate) fn newer(bytes: &[u8], magic: &[u8; 8], known: u16) -> Option<u16> {
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_LEN)?)?;
    let version = u16::from_le_bytes(*body.strip_prefix(magic)?.first_chunk()?);
    (version != known && blake3::hash(body).as_bytes() == check).then_some(version)
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn log() -> FreeLog {
        let shard =
            ShardRef { id: ShardId { stripe: StripeId { epoch: Epoch(5), counter: 6 }, index: 2 }, root: [8; 32] };
        FreeLog {
            authority: Authority { epoch: Epoch(3), lsn: Lsn(4) },
            removed: BTreeMap::from([
                (1, None),
                (9, Some(Closed { number: 7, closed_blocks: 77, last_record_hash: [6; 32] })),
            ]),
            pending: vec![PendingFree { shard, segment: 11, incarnation: Incarnation([12; 16]), block: 13 }],
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        for log in [FreeLog::default(), log()] {
            let bytes = log.encode();
            assert_eq!(FreeLog::parse(&bytes).as_ref(), Some(&log));
            for i in 0..bytes.len() {
                let mut spoiled = bytes.clone();
                spoiled[i] ^= 1;
                assert_eq!(FreeLog::parse(&spoiled), None);
                assert_eq!(FreeLog::parse(&bytes[..i]), None);
            }
        }
    }

    #[test]
    fn the_layout_is_that_of_the_format() {
        let bytes = log().encode();
        let check = blake3::hash(&bytes).to_hex();
        assert_eq!((bytes.len(), &check[..16]), (48 + 2 * 56 + 88 + 32, "7ba97e4a680baa86"));
    }

    #[test]
    fn r10_an_authority_is_too_old_by_its_epoch_or_by_what_it_knows() {
        let mut log = log();
        let of = |epoch, lsn| Authority { epoch: Epoch(epoch), lsn: Lsn(lsn) };
        assert!(log.is_too_old(of(2, 9)) && log.is_too_old(of(9, 3)));
        assert!(!log.is_too_old(of(3, 4)) && !log.is_too_old(of(4, 5)));
        log.see(of(1, 100));
        assert_eq!(log.authority, of(3, 100));
    }
}
