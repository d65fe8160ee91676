//! From an entry of the Raft log to the entry of the journal that every node makes of it: a pure function, so that the copies of
//! one LSN that different leaders write to the drives are the same bytes.

use super::{Applied, RaftTypes};
use crate::journal::BatchEntry;
use codec::effect::Effects;
use codec::id::{Epoch, Lsn};
use codec::journal::{JournalError, NO_ENTRY, encode_empty_entry, parse_entry};
use openraft::{Entry, EntryPayload};

/// The end of the journal before an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The last LSN; 0 for none.
    pub lsn: Lsn,
    /// The epoch of that entry.
    pub epoch: Epoch,
    /// Its hash.
    pub hash: [u8; 32],
}

impl Default for Tail {
    /// An empty journal.
    fn default() -> Self {
        Tail { lsn: Lsn(0), epoch: Epoch(0), hash: NO_ENTRY }
    }
}

/// What an entry of the Raft log is in the journal.
#[derive(Clone, Debug)]
pub struct Record {
    /// The journal's entry.
    pub entry: BatchEntry,
    /// Its effects.
    pub effects: Effects,
    /// What its proposer is told.
    pub applied: Applied,
}

impl Record {
    /// The end of the journal after this entry.
    pub fn tail(&self) -> Tail {
        Tail { lsn: self.entry.lsn, epoch: self.entry.epoch, hash: self.entry.hash }
    }
}

/// Why an entry has no place in the journal: the node's log or index is not what it should be, and it must not go on.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is not the next one.
    #[error("entry {index} of the Raft log does not follow entry {}", after.0)]
    Gap {
        /// The last one.
        after: Lsn,
        /// The entry's index.
        index: u64,
    },
    /// A committed proposal that does not read: whoever proposed it had read it.
    #[error("entry {index} of the Raft log is damaged: {error}")]
    Damaged {
        /// The entry's index.
        index: u64,
        /// What is wrong.
        error: JournalError,
    },
}

/// The end of the journal after a proposal, if it came where it was decided to come, which only its predecessor can tell.
pub fn proposed(entry: &Entry<RaftTypes>) -> Option<Tail> {
    let EntryPayload::Normal(proposal) = &entry.payload else { return None };
    let parsed = parse_entry(proposal.entry.clone()).ok()?;
    let tail = Tail { lsn: parsed.lsn, epoch: parsed.epoch, hash: parsed.hash };
    (tail.lsn.0 == entry.log_id.index).then_some(tail)
}

/// The journal's entry for an entry of the Raft log after `before`. Membership and leaders' first entries are empty ones of
/// the epoch before them, and so is a proposal that was decided after another entry than the one before it: its effects may
/// rest on what did not happen. `None` for index 0, which is the membership that a cluster begins with and no LSN.
pub fn record(entry: &Entry<RaftTypes>, before: &Tail) -> Result<Option<Record>, RecordError> {
    let index = entry.log_id.index;
    if index == 0 && before.lsn == Lsn(0) {
        return Ok(None);
    }
    if before.lsn.0.checked_add(1) != Some(index) {
        return Err(RecordError::Gap { after: before.lsn, index });
    }
    let damaged = |error| RecordError::Damaged { index, error };
    if let EntryPayload::Normal(proposal) = &entry.payload {
        let parsed = parse_entry(proposal.entry.clone()).map_err(damaged)?;
        // An older epoch after a newer one would turn round which tail of the journal is the better one.
        if parsed.lsn.0 == index && parsed.prev_hash == before.hash && parsed.epoch >= before.epoch && !parsed.ledger {
            let (lsn, epoch, hash, prev_hash) = (parsed.lsn, parsed.epoch, parsed.hash, parsed.prev_hash);
            let entry = BatchEntry { lsn, epoch, hash, prev_hash, bytes: parsed.bytes };
            return Ok(Some(Record { entry, effects: parsed.effects, applied: Applied::Done }));
        }
    }
    let empty = encode_empty_entry(Lsn(index), before.epoch, before.hash).map_err(damaged)?;
    let applied = if matches!(entry.payload, EntryPayload::Normal(_)) { Applied::Misplaced } else { Applied::Done };
    let entry = BatchEntry {
        lsn: Lsn(index),
        epoch: before.epoch,
        hash: empty.hash,
        prev_hash: before.hash,
        bytes: empty.bytes,
    };
    Ok(Some(Record { entry, effects: Effects::default(), applied }))
}
