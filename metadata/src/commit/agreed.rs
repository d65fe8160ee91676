//! The committer of a leader: what it decides is agreed on by a majority of the metadata nodes first, and goes to the drives after
//! that.
//!
//! Invariants
//! * An entry is decided on what this node has applied, and names the LSN and the hash that it follows. Where another entry came
//!   in between (a change of members), Raft says so for it and all that were decided after it ([`Applied::Misplaced`]): they
//!   changed nothing, and are decided again. So are refusals that rest on them.
//! * The drives get entries from the Raft log, in its order, and only applied ones: those of this leader, those of earlier ones
//!   that the drives lack, and the empty ones. Whoever writes an LSN writes the same bytes.
//! * A command is acknowledged when its entry is committed, applied, and on 1+m drives. What is not known to be committed is
//!   answered Unavailable, and nothing is decided after it before all that this node has in its log is applied.
//! * An answer that rests on the index alone (a refusal, a command that changes nothing) is given after a majority has confirmed
//!   that this node still led when it was decided.
//!
//! A reader may see an entry before it is on the drives: it is committed, so it can't be undone while a metadata node of the
//! majority is left. Its frames are read from memory until the drives have it ([`JournalMap::hold`]).
//!
//! What a crash of this node leaves: before the proposal, nothing; between proposal and commit, an entry that is committed or
//! not, and nobody was told; between commit and journal, an entry that the next leader journals before it serves
//! (`start/lead.rs`); after that, an entry.
//!
//! [`JournalMap::hold`]: crate::journal::JournalMap::hold

use super::Committer;
use crate::index::IndexError;
use crate::journal::{Batch, BatchEntry, JournalStopped};
use crate::raft::{Applied, Member, Proposal, RecordError, Tail, record};
use codec::id::Lsn;
use std::sync::Arc;
use storage_node::client::Reserve;
use storage_node::sabotage::Sabotage;
use tokio::time::{Instant, timeout_at};

/// What a leader's committer has beside the journal.
pub(crate) struct Agreement {
    member: Arc<Member>,
    /// The end of what is in the journal.
    journaled: Tail,
    /// Something was proposed of which it is not known what became of it.
    adrift: bool,
}

/// How far a batch of proposals came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// So many of the first entries are applied here.
    pub done: usize,
    /// What follows them was misplaced, and changed nothing; otherwise it is in doubt.
    pub misplaced: bool,
}

/// The proposals of this leader are not known to lead anywhere at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a majority of the metadata nodes has not confirmed it; it may or may not have happened")]
pub(super) struct Adrift;

impl Agreement {
    /// A leader's agreement, where the journal ends at `journaled`.
    pub(crate) fn new(member: Arc<Member>, journaled: Tail) -> Agreement {
        // What this node proposed when it led before may still be on its way.
        Agreement { member, journaled, adrift: true }
    }

    /// Confirms that this node leads, and has applied all that was committed.
    pub(super) async fn confirm(&self) -> Result<(), Adrift> {
        self.member.read_index().await.map_err(|_| Adrift)
    }

    /// Waits until all that this node has in its log is applied, if anything is in doubt.
    pub(super) async fn settle(&mut self) -> Result<(), Adrift> {
        if !self.adrift {
            return Ok(());
        }
        self.confirm().await?;
        let metrics = self.member.raft().metrics();
        let waiting = self.member.raft().wait(Some(self.member.timings().deadline));
        let last = metrics.borrow().last_log_index;
        waiting.applied_index_at_least(last, "what was in doubt").await.map_err(|_| Adrift)?;
        self.adrift = false;
        Ok(())
    }

    /// Proposes entries in order, and waits until it is known what became of them, or for as long as a client would.
    pub(super) async fn propose(&mut self, entries: &[BatchEntry]) -> Agreed {
        let until = Instant::now() + self.member.timings().deadline;
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let proposal = Proposal { entry: entry.bytes.clone() };
            match timeout_at(until, self.member.raft().client_write_ff(proposal)).await {
                Ok(Ok(answer)) => answers.push(answer),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        let (mut done, mut misplaced, mut known) = (0, 0, 0);
        // All are waited for: what is still on its way would come before what is decided next.
        for answer in answers {
            match timeout_at(until, answer).await {
                Ok(Ok(Ok(written))) if written.data == Applied::Done => done += 1,
                Ok(Ok(Ok(_))) => misplaced += 1,
                Ok(_) | Err(_) => break,
            }
            known += 1;
        }
        self.adrift = known < entries.len();
        Agreed { done, misplaced: misplaced > 0 && !self.adrift }
    }

    /// The entries that are applied and not journaled yet, `most` bytes of them and one at least; `None` when the journal has all.
    fn missing(&self, most: usize) -> Result<Option<Vec<BatchEntry>>, MissingError> {
        let applied = self.member.machine().tail().map_err(|error| MissingError::Machine(error.to_string()))?;
        let first = self.journaled.lsn.next();
        if applied.lsn < first {
            return Ok(None);
        }
        let lacking = MissingError::Lacking { first, last: applied.lsn };
        let (mut entries, mut bytes, mut tail) = (Vec::new(), 0, self.journaled);
        for entry in self.member.log().read_committed_from(first.0, applied.lsn.0)? {
            let record = match record(&entry, &tail) {
                Ok(Some(record)) => record,
                Err(error @ RecordError::Damaged { .. }) => return Err(error.into()),
                Ok(None) | Err(RecordError::Gap { .. }) => return Err(lacking),
            };
            if bytes > 0 && bytes + record.entry.bytes.len() > most {
                break;
            }
            bytes += record.entry.bytes.len();
            tail = record.tail();
            entries.push(record.entry);
        }
        if entries.is_empty() {
            return Err(lacking);
        }
        Ok(Some(entries))
    }
}

/// Why what the drives lack can't be brought to them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MissingError {
    /// The log does not have them either.
    #[error("neither the drives nor the Raft log of this node have entries {first} to {last}, which its index has")]
    Lacking {
        /// The first.
        first: Lsn,
        /// The last.
        last: Lsn,
    },
    /// The log is damaged.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// An entry is damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The index.
    #[error("{0}")]
    Machine(String),
}

impl Committer {
    /// Journals what is applied and not in the journal yet. Returns when the drives have it all.
    pub(super) async fn catch_up(&mut self, reserve: Reserve) -> Result<(), JournalStopped> {
        loop {
            let Some(agreement) = &self.agreement else { return Ok(()) };
            let missing = agreement.missing(self.max_batch);
            let entries = match missing {
                Ok(Some(missing)) => missing,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.journal.stop(JournalStopped::Index(error.to_string()))),
            };
            let batch = self.append(entries, reserve).await?;
            self.journaled(&batch);
        }
    }

    /// A batch of a leader is on 1+m drives.
    pub(super) fn journaled(&mut self, batch: &Batch) {
        let Some(last) = batch.entries.last() else { return };
        let tail = Tail { lsn: last.lsn, epoch: last.epoch, hash: last.hash };
        if let Some(agreement) = &mut self.agreement {
            agreement.journaled = tail;
            agreement.member.machine().set_journaled(tail.lsn);
        }
        self.shared.committed(tail.lsn, batch.weight());
    }

    /// Has a majority agree on entries, and journals them. Says how many of the first are committed, applied and on 1+m drives.
    pub(super) async fn agree(&mut self, entries: &[BatchEntry], reserve: Reserve) -> Result<Agreed, JournalStopped> {
        let Some(agreement) = &mut self.agreement else { return Ok(Agreed { done: 0, misplaced: false }) };
        self.shared.map.hold(entries);
        let agreed = agreement.propose(entries).await;
        if agreed.done == 0 || self.shared.sabotage.is(Sabotage::JournalBeforeAck) {
            return Ok(agreed);
        }
        self.catch_up(reserve).await?;
        Ok(agreed)
    }

    /// Waits until all that this node has in its log is applied, and journals what the drives lack.
    pub(crate) async fn lead(&mut self, mut agreement: Agreement) -> Result<(), JournalStopped> {
        if let Err(adrift) = agreement.settle().await {
            return Err(self.journal.stop(JournalStopped::Index(adrift.to_string())));
        }
        agreement.member.machine().set_journaled(agreement.journaled.lsn);
        self.agreement = Some(agreement);
        self.catch_up(Reserve::Metadata).await
    }

    /// Brings the journal to where the index is, before anything is decided on the index.
    pub(super) async fn ready(&mut self) -> Result<(), Adrift> {
        let Some(agreement) = &mut self.agreement else { return Ok(()) };
        agreement.settle().await?;
        // Why it stopped is published, and refused with.
        if self.catch_up(Reserve::Metadata).await.is_err() {
            self.publish();
        }
        Ok(())
    }

    /// Whether answers that rest on the index alone may be given.
    pub(super) async fn confirm(&self) -> Result<(), Adrift> {
        match &self.agreement {
            Some(agreement) => agreement.confirm().await,
            None => Ok(()),
        }
    }
}
