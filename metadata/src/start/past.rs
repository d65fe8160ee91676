//! Drives that were put back to an older copy of themselves, while the metadata nodes remember what came after it.
//!
//! What the Raft log still has is journaled again by the next leader, and nothing is lost of that. The shards that were written in
//! between are gone, though, and the index names them: without a look at every drive that would be noticed by whoever reads, or days
//! later. And what reclaim would free by such an index may be all that is left of something.
//!
//! How it is told from drives that lack what was on its way when a leader was lost:
//! * Each start writes its epoch into the register of more than half of the registered drives before it proposes an entry of it. Where
//!   no drive that answers has a register of the epoch in which the last entry was proposed, they are all from before that.
//! * A leader proposes nothing before what it proposed last is on the drives, and ticks its clock once a minute. Where the drives lack
//!   two ticks or more, they lack what was acknowledged.
//! * A drive whose register is of an earlier epoch than that of others missed a start. It was away then, and was verified when it came
//!   back, or was put back: which of the two can't be told, so it is verified once more. Nothing is held for it.
//!
//! All of that is written over by the start that sees it: it claims the registers, and journals what the drives lack. So what
//! follows from it is agreed on before that ([`PutBack::agree`]); a start that came to nothing in between would leave the next one
//! nothing to see, and reclaim would go on by an index that names what is gone (R10).

use crate::command::Command;
use crate::index::{self, IndexError, Overlay, View};
use crate::keep::watch;
use crate::lookup::Losses;
use crate::raft::{Applied, Member, Proposal, RecordError, Tail, record};
use crate::start::StartError;
use crate::state::{self, At};
use crate::survey::DriveCopy;
use bytes::Bytes;
use codec::effect::{EffectKind, Effects};
use codec::id::{DriveId, Lsn};
use codec::journal::encode_entry;
use codec::level::FormatLevel;
use codec::register::Register;
use std::sync::Arc;
use storage_node::sabotage::SabotageSet;
use tokio::time::timeout;

/// Ticks of the clock that drives may lack because a leader was lost on the way.
const TICKS_ON_THE_WAY: usize = 1;

/// So often another entry may come in between, such as a change of members, before a start gives up and the next one tries.
const ATTEMPTS: usize = 8;

/// What the drives lack that they had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PutBack {
    /// Drives of which all is to be verified before it counts.
    drives: Vec<DriveId>,
    /// Why nothing is deleted until an operator releases it.
    holds: Option<String>,
}

/// Looks for drives of the past. `register` is the newest of the drives', `last` the last entry that the metadata nodes have agreed on,
/// `ticks` how many ticks of the clock the drives lack.
pub(super) fn find(copies: &[DriveCopy], register: &Register, last: &Tail, ticks: usize) -> PutBack {
    let counts = |copy: &&DriveCopy| register.registered.contains(&copy.drive) && !copy.register_damaged;
    let all = || copies.iter().filter(counts);
    let reason = if register.epoch < last.epoch {
        format!("entries of epoch {} are agreed on, and the drives know of none after {}", last.epoch, register.epoch)
    } else if ticks > TICKS_ON_THE_WAY {
        format!("the drives' journal ends at least {} minutes before what is agreed on", ticks - 1)
    } else {
        let is_older = |copy: &&DriveCopy| copy.register.as_ref().is_none_or(|own| own.epoch < register.epoch);
        let drives: Vec<DriveId> = all().filter(is_older).map(|copy| copy.drive).collect();
        if !drives.is_empty() {
            tracing::warn!(?drives, "drives have missed a start, or were put back: all that they hold is verified");
        }
        return PutBack { drives, holds: None };
    };
    let holds = format!("the drives were put back to an older copy: {reason}; what was written in between may be lost");
    PutBack { drives: all().map(|copy| copy.drive).collect(), holds: Some(holds) }
}

impl PutBack {
    /// What follows from it: it is true whoever leads next.
    fn commands(&self, view: &dyn View, now_ms: u64) -> Result<Vec<Command>, IndexError> {
        let mut commands = Vec::new();
        for drive in &self.drives {
            commands.extend(watch::to_be_verified(view, *drive, now_ms)?.map(Command::PutSetting));
        }
        commands.extend(self.holds.clone().map(|reason| Command::HoldReclaim { reason }));
        Ok(commands)
    }

    /// Has a majority of the metadata nodes agree on what follows from it, before any drive is written to. The entry is of the epoch
    /// before it: nothing is proposed of an epoch that the drives' registers do not name. It comes to the drives like every other
    /// one that they lack.
    ///
    /// # Errors
    /// [`StartError::NotLeading`] where it is not known to be agreed on: nothing was written to any drive.
    pub async fn agree(&self, member: &Member, term: u64, wall_ms: u64, level: FormatLevel) -> Result<(), StartError> {
        let kv = member.machine().kv();
        for _ in 0..ATTEMPTS {
            member.leads_in(term).await?;
            let before = member.machine().tail()?;
            let at = At {
                lsn: before.lsn.next(),
                wall_ms,
                level,
                losses: Losses::default(),
                sabotage: SabotageSet::default(),
            };
            let Some(entry) = self.entry(&Overlay::new(&*kv), &before, &at)? else { return Ok(()) };
            let asked = member.raft().client_write(Proposal { entry });
            match timeout(member.timings().deadline, asked).await {
                Ok(Ok(written)) if written.data == Applied::Done => return Ok(()),
                // It was decided on another entry than the one before it, and changed nothing.
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return Err(member.not_leading().into()),
            }
        }
        Err(member.not_leading().into())
    }

    /// The entry after `before` that says what follows; `None` where the index says it already.
    fn entry(&self, view: &dyn View, before: &Tail, at: &At) -> Result<Option<Bytes>, StartError> {
        let failed = |error: &dyn std::fmt::Display| StartError::Journal(error.to_string());
        let writer = index::epoch(view)?;
        let mut effects = Effects::default();
        for command in self.commands(view, at.wall_ms)? {
            let decided = state::decide(view, writer, &command, at).map_err(|error| failed(&error))?;
            effects.effects.extend(decided.effects.effects);
        }
        if effects.effects.is_empty() {
            return Ok(None);
        }
        let encoded = encode_entry(at.lsn, before.epoch, before.hash, &effects, &[]);
        Ok(Some(encoded.map_err(|error| failed(&error))?.bytes))
    }

    /// Whether all drives are of the past.
    pub fn is_all(&self) -> bool {
        self.holds.is_some()
    }
}

/// How many ticks of the clock the Raft log has from the end of what the drives have to the end of the index.
pub(super) async fn ticks_behind(member: &Arc<Member>, end: Tail, applied: Lsn) -> Result<usize, StartError> {
    let (log, mut tail) = (member.log().clone(), end);
    let walked = tokio::task::spawn_blocking(move || {
        let mut ticks = 0;
        for entry in log.committed(tail.lsn.next().0, applied.0) {
            match record(&entry?, &tail) {
                Ok(Some(record)) => {
                    let kinds = record.effects.effects.iter().filter_map(|effect| effect.kind.as_ref());
                    ticks += kinds.filter(|kind| matches!(kind, EffectKind::ClockTick(_))).count();
                    tail = record.tail();
                }
                Ok(None) | Err(RecordError::Gap { .. }) => break,
                Err(error @ RecordError::Damaged { .. }) => return Err(StartError::Log(error)),
            }
        }
        Ok(ticks)
    });
    walked.await.map_err(|error| StartError::Journal(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::id::{ClusterId, Epoch};

    fn register(epoch: u64) -> Register {
        let drives = [1, 2, 3].map(|n| DriveId([n; 16])).to_vec();
        Register {
            cluster: ClusterId([1; 16]),
            sequence: 5,
            epoch: Epoch(epoch),
            first_lsn: Lsn(1),
            k: 1,
            m: 1,
            members: drives[..2].to_vec(),
            registered: drives,
        }
    }

    fn copy(drive: u8, epoch: Option<u64>) -> DriveCopy {
        let register = epoch.map(register);
        DriveCopy { drive: DriveId([drive; 16]), register, register_damaged: false, segments: Vec::new() }
    }

    #[test]
    fn drives_of_the_past_are_told_from_those_that_lack_what_was_on_its_way() {
        let last = Tail { lsn: Lsn(100), epoch: Epoch(8), hash: [0; 32] };
        let all = [copy(1, Some(8)), copy(2, Some(8)), copy(3, Some(8))];
        assert_eq!(find(&all, &register(8), &last, 1), PutBack::default());
        // A later start that claimed the drives and came to nothing.
        assert_eq!(find(&all, &register(9), &last, 0).holds, None);
        let found = find(&all, &register(8), &last, 4);
        assert!(found.is_all() && found.drives.len() == 3, "{found:?}");
        assert!(found.holds.is_some_and(|why| why.contains("3 minutes")));
        let old = [copy(1, Some(7)), copy(2, Some(7)), copy(4, Some(7))];
        let found = find(&old, &register(7), &last, 0);
        assert_eq!(found.drives, [1, 2].map(|n| DriveId([n; 16])), "the last is none of the registered");
        assert!(found.is_all());
        let one = [copy(1, Some(8)), copy(2, Some(7)), DriveCopy { register_damaged: true, ..copy(3, None) }];
        assert_eq!(find(&one, &register(8), &last, 0), PutBack { drives: vec![DriveId([2; 16])], holds: None });
    }
}
