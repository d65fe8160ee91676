//! The file `leader` of a drive: which metadata process it follows, so that one that was superseded can't lead again after the
//! node was restarted, or the drive was moved to another one.
//!
//! Invariants:
//! * It is on the medium before the drive takes any write of that leader, so whoever was journaled to is known.
//! * It only grows: a drive does not begin in a lower epoch than the one that it follows.
//! * Where it is lost or does not verify, the drive follows whoever wrote last on it ([`Leader::at_least`]): the epochs in its
//!   register and in its segments' headers are those of leaders too, and every leader writes its register before it acknowledges
//!   anything. Else a node whose drives have all lost the file would let a superseded process lead once more. Only the name is
//!   lost then: in that very epoch nobody is kept out.
//!
//! The bytes are in docs/FORMAT.md.

use crate::disk::{Disk, DiskError};
use crate::free_log::newer;
use codec::id::Epoch;
use std::fmt;

/// The name of the file, at the root of the drive.
pub const LEADER_FILE: &str = "leader";
/// The version that this code writes.
pub const LEADER_VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"STELLEAD";
const CHECK_LEN: usize = 32;
/// Bytes before the name.
const HEAD: usize = 24;

/// Longest name that is kept, in bytes: more than that of any certificate.
const MAX_NAME: usize = 512;

/// A metadata process that leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    /// The epoch in which it leads; no two processes have the same.
    pub epoch: Epoch,
    /// Who it is, as its certificate says; empty where only its epoch is known.
    pub name: String,
}

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.is_named() { &self.name } else { "a metadata process whose name is lost" };
        write!(f, "{name} in epoch {}", self.epoch)
    }
}

impl Leader {
    /// Whether it is known which process it is.
    pub fn is_named(&self) -> bool {
        !self.name.is_empty()
    }

    /// Whom a drive follows whose file says `said`, and on which a leader has written in `written`.
    pub(crate) fn at_least(said: Option<Leader>, written: Option<Epoch>) -> Option<Leader> {
        let newer = written.filter(|written| said.as_ref().is_none_or(|said| said.epoch < *written));
        newer.map(|epoch| Leader { epoch, name: String::new() }).or(said)
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut len = self.name.len().min(MAX_NAME);
        while !self.name.is_char_boundary(len) {
            len -= 1;
        }
        let (name, _cut) = self.name.split_at(len);
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&LEADER_VERSION.to_le_bytes());
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        let check = blake3::hash(&out);
        out.extend_from_slice(check.as_bytes());
        out
    }

    /// Reads the file's bytes; `None` if they are not exactly what [`Self::encode`] writes.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Leader> {
        let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_LEN)?)?;
        let (head, name) = body.split_at_checked(HEAD)?;
        let epoch = Epoch(u64::from_le_bytes(head.last_chunk().copied()?));
        let leader = Leader { epoch, name: std::str::from_utf8(name).ok()?.to_owned() };
        let whole = blake3::hash(body).as_bytes() == check && leader.encode() == bytes;
        whole.then_some(leader)
    }
}

/// Whom a drive follows, as far as its file says so.
pub(crate) fn read(disk: &dyn Disk) -> Result<Option<Leader>, DiskError> {
    let bytes = match disk.read_small(LEADER_FILE) {
        Ok(bytes) => bytes,
        Err(DiskError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if let Some(version) = newer(&bytes, MAGIC, LEADER_VERSION) {
        let path = format!("{}/{LEADER_FILE}", disk.path_hint());
        return Err(DiskError::Newer { path, what: "leader file", version });
    }
    let leader = Leader::parse(&bytes);
    if leader.is_none() {
        tracing::error!(
            path = disk.path_hint(),
            "the file {LEADER_FILE} does not verify: whom the drive follows is known by what was written on it"
        );
    }
    Ok(leader)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn leader() -> Leader {
        Leader { epoch: Epoch(7 << 32 | 5), name: "stele://00/metadata/m1".to_owned() }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is() {
        let bytes = leader().encode();
        assert_eq!(Leader::parse(&bytes), Some(leader()));
        for at in 0..bytes.len() {
            assert_eq!(Leader::parse(&bytes[..at]), None);
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Leader::parse(&changed), None, "byte {at}");
        }
        let long = Leader { name: "ä".repeat(MAX_NAME), ..leader() };
        let kept = Leader::parse(&long.encode()).unwrap();
        assert_eq!((kept.epoch, kept.name.len()), (long.epoch, MAX_NAME));
    }
}
