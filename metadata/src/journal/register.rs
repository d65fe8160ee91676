//! The ensemble register: how it is changed, so that a start can't adopt one that others went on without.
//!
//! A register in use is *settled*: it lies on more than half of the drives that it registers, and of those that the one before
//! it registers. A change that reaches fewer drives came to nothing, and yet it lies on some of them with the newest sequence.
//! Were a batch acknowledged under the old members after that, a start that finds the failed register would count the absences
//! of the wrong members, and begin again without the batch. And two failed additions, one on each half of the drives, are two
//! registers of which each has its majority.
//!
//! Invariants
//! * A register is begun only where the one in use is settled under the highest sequence of all that this journal has
//!   written. So after one that came to nothing the one in use is written again under the next sequence: by [`Journal::change`]
//!   before anything else, and so before any acknowledgement; before any other change of the registered drives; and by
//!   every look at the drives.
//! * A journal writes nothing of its own before the register that its start has found is settled, as it was found, and then
//!   once more, [`CLAIM`] above it ([`Journal::adopt`]): that is higher than all that an earlier journal can have left.
//! * Two registers in a row differ by at most one registered drive; but for an accepted loss, where an operator has said that
//!   drives which are not there do not count any more.
//!
//! Why a start, which needs a majority of what the newest register that it finds registers, finds one in use, or one that may
//! come into use. Let T be the last one that was settled, and X, with an older one, the newest that a start finds. X was in use,
//! or was derived from one that was (U), and after U came another that was settled, on more than half of what U registers.
//! What X registers is that, but for one drive; so a majority of it meets the other, which is newer than X: either a later
//! register of the same journal, or a claim. So what a start finds is T, or was derived from T, and then nothing was
//! acknowledged under T in between: the journal would have settled T anew first. Registers of one sequence by two journals are
//! claims of what both found; they say the same.
//!
//! What a crash leaves, by its place in a change from C (sequence s) to N (s + 1):
//! * while N is written: C or N is found. Under neither has anything happened that the other does not know: members of N have
//!   the whole tail, the batch in flight included, before N is written.
//! * while C is written again (s + 2) because N came to nothing: one of the three is found, and the same holds.
//! * after that: C again is on a majority, so it is found. N lies under it for good.
//! * in the start that found N, while it is settled, or claimed: nothing is acknowledged before both are done, so whatever the
//!   next start finds will do.
//!
//! A change of the registered drives alone need not stop the journal when it fails: members and so absences are the same.

use super::{Journal, JournalStopped};
use bytes::Bytes;
use codec::id::DriveId;
use codec::register::Register;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeSet;
use storage_node::client::{DriveHealth, DriveStatus, STALLED_AFTER, WRITE_DEADLINE, in_time};
use storage_node::sabotage::Sabotage;
use tokio::time::timeout;

/// By how much a start raises the sequence. An earlier journal has left at most two registers above its last settled one: the
/// one that came to nothing, and the one in use again.
pub(crate) const CLAIM: u64 = 16;

impl Journal {
    /// Makes the register that the start has found the one in use: settles it as it was found, unless `is_everywhere`, and
    /// then claims it for this journal.
    pub async fn adopt(&mut self, is_everywhere: bool) -> Result<(), JournalStopped> {
        let mut register = self.register.clone();
        if !is_everywhere {
            self.replace_register(register.clone()).await?;
        }
        if self.sabotage.is(Sabotage::RegisterClaim) {
            return Ok(());
        }
        register.sequence = register.sequence.saturating_add(CLAIM);
        register.epoch = self.epoch;
        self.replace_register(register).await
    }

    /// Registers a drive: from now on it counts when a majority of the registered drives is asked for. Nothing stops when it
    /// can't be done.
    pub async fn register_drive(&mut self, drive: DriveId) -> Result<(), JournalStopped> {
        let mut registered = self.register.registered.clone();
        if let Err(at) = registered.binary_search(&drive) {
            registered.insert(at, drive);
        }
        self.set_registered(registered).await
    }

    /// Takes a drive that keeps no journal out of the registered ones. A member stays until it is replaced.
    pub async fn unregister_drive(&mut self, drive: DriveId) -> Result<(), JournalStopped> {
        if self.register.members.contains(&drive) {
            return Ok(());
        }
        let registered = self.register.registered.iter().copied().filter(|id| *id != drive).collect();
        self.set_registered(registered).await?;
        self.map.keep_holder(drive, &|_, _| false);
        Ok(())
    }

    async fn set_registered(&mut self, registered: Vec<DriveId>) -> Result<(), JournalStopped> {
        if registered == self.register.registered {
            return Ok(());
        }
        self.settle().await?;
        let mut register = self.register.clone();
        register.sequence = self.next_sequence();
        register.epoch = self.epoch;
        register.registered = registered;
        self.check_majorities(&register).await?;
        self.write_register(register).await
    }

    /// Refuses a change that would come to nothing, before any drive has it.
    async fn check_majorities(&self, register: &Register) -> Result<(), JournalStopped> {
        let drives = self.node.drives().await;
        let healthy: BTreeSet<DriveId> =
            drives.iter().filter(|drive| drive.health == DriveHealth::Healthy).map(|drive| drive.id).collect();
        enough(&healthy, [&self.register, register])
    }

    /// Whether a register could be settled by how the drives were a moment ago, among those that are registered now.
    pub(super) fn has_majority(&self, drives: &[DriveStatus]) -> Result<(), JournalStopped> {
        let takes = |drive: &&DriveStatus| drive.health == DriveHealth::Healthy && !drive.waits(STALLED_AFTER);
        let takes: BTreeSet<DriveId> = drives.iter().filter(takes).map(|drive| drive.id).collect();
        enough(&takes, [&self.register, &self.register])
    }

    /// The register that makes `members` the ensemble.
    pub(super) fn next_register(&self, members: Vec<DriveId>) -> Register {
        let mut register = self.register.clone();
        register.sequence = self.next_sequence();
        register.epoch = self.epoch;
        register.first_lsn = self.next;
        register.members = members;
        register
    }

    fn next_sequence(&self) -> u64 {
        self.register.sequence.max(self.tried).saturating_add(1)
    }

    /// Writes a register to every registered drive; more than half must take it, or the journal stops.
    pub async fn replace_register(&mut self, register: Register) -> Result<(), JournalStopped> {
        let written = self.write_register(register).await;
        written.map_err(|stopped| self.stop(stopped))
    }

    /// Takes back a register that came to nothing: the one in use gets a sequence above it. Tried again it has the same one,
    /// so that what an earlier journal may have left is bounded.
    pub(super) async fn settle(&mut self) -> Result<(), JournalStopped> {
        let Some(register) = self.unsettled.clone() else { return Ok(()) };
        self.write(&register).await?;
        self.unsettled = None;
        self.use_register(register);
        Ok(())
    }

    /// [`Self::settle`], where it is not known beforehand to fail. Nobody waits for it: members are as they are in both.
    pub(super) async fn settle_soon(&mut self) {
        let Some(register) = self.unsettled.clone() else { return };
        let settled = match self.check_majorities(&register).await {
            Ok(()) => self.settle().await,
            stopped => stopped,
        };
        if let Err(stopped) = settled {
            tracing::warn!(%stopped, "a change of the registered drives that came to nothing is not taken back yet");
        }
    }

    /// Writes a register to the drives that were registered and those that are to be; more than half of each must take it.
    ///
    /// Of those that were: a start may find nobody but them. Of those that are to be: a later start asks for a majority of
    /// them, and must meet this register among it.
    async fn write_register(&mut self, register: Register) -> Result<(), JournalStopped> {
        self.settle().await?;
        self.tried = self.tried.max(register.sequence);
        if let Err(stopped) = self.write(&register).await {
            let mut again = self.register.clone();
            again.sequence = self.next_sequence();
            again.epoch = self.epoch;
            self.tried = again.sequence;
            self.unsettled = Some(again).filter(|_| !self.sabotage.is(Sabotage::RegisterSettle));
            return Err(stopped);
        }
        self.use_register(register);
        Ok(())
    }

    fn use_register(&mut self, register: Register) {
        tracing::info!(sequence = register.sequence, members = ?register.members, "the journal's ensemble");
        self.register = register;
    }

    async fn write(&self, register: &Register) -> Result<(), JournalStopped> {
        if self.sabotage.is(Sabotage::RegisterBeforeAck) {
            return Ok(());
        }
        let bytes = Bytes::from(register.encode());
        // A drive that answers too late is not counted. Registers reach it in the order in which they were written, so what
        // it does later never takes back a newer one.
        let node = self.node.clone();
        let write = |drive| {
            let writing = in_time(drive, WRITE_DEADLINE, node.write_register(drive, bytes.clone()));
            async move { (drive, writing.await.is_ok()) }
        };
        let sets = [&self.register, register];
        let all: BTreeSet<DriveId> = sets.iter().flat_map(|set| set.registered.iter().copied()).collect();
        let mut writes: FuturesUnordered<_> = all.into_iter().map(write).collect();
        let mut took = BTreeSet::new();
        // With a majority it is known; one that hangs, perhaps the very member that is replaced, must not keep everybody
        // waiting. Whoever is late has it in its queue, and a start gives it to those that lack it.
        let grace = self.map.patience().hedge_after;
        loop {
            let limit = if enough(&took, sets).is_ok() { grace } else { 2 * WRITE_DEADLINE };
            match timeout(limit, writes.next()).await {
                Ok(Some((drive, true))) => drop(took.insert(drive)),
                Ok(Some((_, false))) => {}
                Ok(None) | Err(_) => return enough(&took, sets),
            }
        }
    }
}

/// Whether these drives are more than half of what each of the registers registers.
fn enough(drives: &BTreeSet<DriveId>, sets: [&Register; 2]) -> Result<(), JournalStopped> {
    let written = |set: &Register| set.registered.iter().filter(|drive| drives.contains(drive)).count();
    match sets.into_iter().find(|set| written(set) < set.majority()) {
        Some(set) => Err(JournalStopped::NoMajority { written: written(set), needed: set.majority() }),
        None => Ok(()),
    }
}
