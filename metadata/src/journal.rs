//! The journal on its ensemble of 1+m drives: where every unsealed entry lies, and how entries get there.
//!
//! Invariants
//! * An LSN names one entry. A batch that could not be made durable is never replaced by another under the same LSNs: it is
//!   either written, byte for byte, to 1+m drives, or the journal stops ([`JournalStopped`]) and recovery decides.
//! * [`Journal::append`] returns `Ok` only when the batch is durable on every member of the current ensemble (R5), that
//!   ensemble is written to more than half of all registered drives, and every member holds the whole unsealed tail.
//! * No start can find another ensemble than that one, whatever became of later ones ([`register`]).
//! * The next LSN, the epoch, the ensemble's sequence and the sealed LSN only grow.
//! * [`JournalMap`] names a drive as holder of an entry only when the entry was durable there, hash for hash.

mod map;
mod register;
#[cfg(test)]
mod tests;

pub(crate) use map::read_in_time;
pub use map::{Held, Holders, JournalMap, JournalReadError, Patience};

use self::map::weight;
use crate::ensemble::{self, Candidate, choose_members};
use crate::survey::survey_drive;
use bytes::Bytes;
use codec::id::{DriveId, Epoch, Lsn};
use codec::journal::{BatchHeader, Entry, JournalError, encode_batch};
use codec::register::Register;
use codec::segment::JournalHead;
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage_node::client::{
    DriveHealth, DriveStatus, NodeClient, Reserve, STALLED_AFTER, WRITE_DEADLINE, WriteError, in_time,
};
use storage_node::sabotage::{Sabotage, SabotageSet};

/// Bytes of the tail that are copied to a new member in one record.
const COPY_BATCH: usize = 4 << 20;
/// So many checks on end must find that the members could share less, before one is replaced for that: a minute, as checks go.
const CROWDED_CHECKS: u32 = 20;
/// So many at most, where replacing it came to nothing: an hour.
const CROWDED_CHECKS_MOST: u32 = 1200;
/// Free bytes that 1+m drives must have, beside a batch in doubt, before a journal that stopped tries again.
const RESUME_ROOM: u64 = 4 << 20;

/// One entry of a batch.
#[derive(Clone, Debug)]
pub struct BatchEntry {
    /// Its position.
    pub lsn: Lsn,
    /// The epoch of its birth.
    pub epoch: Epoch,
    /// Its hash.
    pub hash: [u8; 32],
    /// The hash of the one before it.
    pub prev_hash: [u8; 32],
    /// The encoded entry.
    pub bytes: Bytes,
}

/// Entries that go to the ensemble in one record.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The entries, consecutive.
    pub entries: Vec<BatchEntry>,
    header: BatchHeader,
    payload: Bytes,
}

impl Batch {
    /// Joins entries.
    pub fn new(entries: Vec<BatchEntry>) -> Result<Batch, JournalError> {
        let bytes: Vec<Bytes> = entries.iter().map(|e| e.bytes.clone()).collect();
        let (header, payload) = encode_batch(&bytes)?;
        Ok(Batch { entries, header, payload })
    }

    /// Bytes that each member takes.
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// What its entries count for towards sealing, in bytes.
    pub fn weight(&self) -> u64 {
        self.entries.iter().map(|entry| weight(entry.bytes.len())).sum()
    }

    /// Whether there is nothing in it; never, since an empty batch does not encode.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The journal takes nothing more until [`Journal::resume`] or the next start: what was in flight is neither known to be durable
/// nor known to be lost, until the same bytes are made durable or recovery tells.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalStopped {
    /// Too few drives take writes.
    #[error(
        "{usable} of the {needed} drives that the journal needs take writes ({last}); add room or bring drives back"
    )]
    TooFewDrives {
        /// Drives that could be used.
        usable: usize,
        /// 1+m.
        needed: usize,
        /// The last failure.
        last: String,
    },
    /// The new ensemble could not be written to a majority.
    #[error("a change of the journal's ensemble reached {written} drives, {needed} are needed; bring drives back")]
    NoMajority {
        /// Drives that took the register.
        written: usize,
        /// More than half of the registered ones.
        needed: usize,
    },
    /// An entry of the tail could not be read to be copied.
    #[error("the journal's tail can't be copied to a new member: {0}")]
    Tail(JournalReadError),
    /// The tail does not encode: a mistake in this program.
    #[error("the journal's tail does not encode: {0}")]
    Encode(String),
    /// The index refused a batch that is already in the journal.
    #[error("the index failed: {0}")]
    Index(String),
}

impl JournalStopped {
    /// Whether the journal stays stopped whatever becomes of the drives: only another start can go on.
    pub fn is_for_good(&self) -> bool {
        match self {
            JournalStopped::TooFewDrives { .. } | JournalStopped::NoMajority { .. } | JournalStopped::Tail(_) => false,
            JournalStopped::Encode(_) | JournalStopped::Index(_) => true,
        }
    }
}

/// Why one member does not take a batch.
enum FillError {
    Member(WriteError),
    Stop(JournalStopped),
}

/// The writing half: owned by the committer, so that there is one writer.
pub struct Journal {
    node: Arc<dyn NodeClient>,
    map: Arc<JournalMap>,
    register: Register,
    epoch: Epoch,
    /// The LSN after the last durable entry.
    next: Lsn,
    last_hash: [u8; 32],
    stopped: Option<JournalStopped>,
    /// Drives that are being emptied, or are no drives of the cluster any more: members only where there are no others.
    leaving: BTreeSet<DriveId>,
    /// How many checks on end have found that the members could share less.
    crowded_checks: u32,
    /// How many of them it takes before a member is replaced for that.
    crowded_wait: u32,
    /// How often each drive had been opened when what the map says of it was last known to be so.
    known: BTreeMap<DriveId, u32>,
    /// The highest sequence of a register that was written to any drive: never used for another one.
    tried: u64,
    /// The register in use under a sequence above that of one that came to nothing, not yet on a majority.
    unsettled: Option<Register>,
    sabotage: SabotageSet,
}

/// What a start hands to the journal.
pub struct JournalStart {
    /// The drives.
    pub node: Arc<dyn NodeClient>,
    /// The unsealed entries, with holders that are present.
    pub map: Arc<JournalMap>,
    /// The newest register.
    pub register: Register,
    /// The epoch of this start.
    pub epoch: Epoch,
    /// The last entry and its hash ([`codec::journal::NO_ENTRY`] for none).
    pub last: (Lsn, [u8; 32]),
    /// For tests.
    pub sabotage: SabotageSet,
}

impl Journal {
    /// A journal that goes on after `start.last`. Not usable before [`Self::establish`].
    pub fn new(start: JournalStart) -> Journal {
        let JournalStart { node, map, register, epoch, last, sabotage } = start;
        Journal {
            node,
            map,
            tried: register.sequence,
            unsettled: None,
            register,
            epoch,
            next: last.0.next(),
            last_hash: last.1,
            stopped: None,
            leaving: BTreeSet::new(),
            crowded_checks: 0,
            crowded_wait: CROWDED_CHECKS,
            known: BTreeMap::new(),
            sabotage,
        }
    }

    /// The LSN that the next entry gets.
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// The hash of the last entry.
    pub fn last_hash(&self) -> [u8; 32] {
        self.last_hash
    }

    /// The epoch of this start.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The ensemble as it is.
    pub fn register(&self) -> &Register {
        &self.register
    }

    /// Why nothing is taken any more.
    pub fn stopped(&self) -> Option<&JournalStopped> {
        self.stopped.as_ref()
    }

    /// Takes nothing more.
    pub fn stop(&mut self, why: JournalStopped) -> JournalStopped {
        tracing::error!(reason = %why, "the journal stops");
        self.stopped.get_or_insert(why).clone()
    }

    /// Skips LSNs that are known to have been used by entries that are lost (an accepted loss): never used again.
    pub fn skip_to(&mut self, next: Lsn) {
        self.next = self.next.max(next);
    }

    /// Begins new segments on every member and brings each up to date: at a start, and to close the open segments.
    pub async fn establish(&mut self) -> Result<(), JournalStopped> {
        if self.known.is_empty() {
            // A start has just read all that the drives hold.
            self.known = self.node.drives().await.iter().map(|drive| (drive.id, drive.opened)).collect();
        }
        self.change(BTreeSet::new(), None, BTreeSet::new()).await
    }

    /// Takes entries again when what stopped the journal is over. `in_doubt` is the batch that was being committed when it
    /// stopped: the same bytes under the same LSNs are made durable first, so nothing else ever gets these LSNs. When they
    /// are durable already it was the index that failed, and the caller has brought it up to them. Costs nothing but a
    /// look at the drives while too few of them have room.
    pub async fn resume(&mut self, in_doubt: Option<&Batch>) -> Result<(), JournalStopped> {
        let Some(stopped) = self.stopped.clone() else { return Ok(()) };
        match stopped {
            JournalStopped::TooFewDrives { .. } | JournalStopped::NoMajority { .. } | JournalStopped::Tail(_) => {}
            JournalStopped::Index(_) if in_doubt.is_some_and(|batch| self.is_durable(batch)) => {
                self.stopped = None;
                return Ok(());
            }
            JournalStopped::Index(_) | JournalStopped::Encode(_) => return Err(stopped),
        }
        let pending = in_doubt.filter(|batch| !self.is_durable(batch));
        let room = RESUME_ROOM.saturating_add(pending.map_or(0, |batch| batch.len() as u64));
        let drives = self.node.drives().await;
        let takes = |d: &&DriveStatus| {
            d.health == DriveHealth::Healthy
                && self.register.registered.contains(&d.id)
                && d.free.saturating_add(d.reserve) >= room
        };
        if drives.iter().filter(takes).count() < self.register.members.len() {
            return Err(stopped);
        }
        tracing::info!("what stopped the journal may be over; trying again");
        self.stopped = None;
        self.change(BTreeSet::new(), pending, BTreeSet::new()).await?;
        if let Some(batch) = pending {
            self.advance(batch);
        }
        Ok(())
    }

    /// Whether a batch of this journal is durable on the ensemble.
    pub fn is_durable(&self, batch: &Batch) -> bool {
        batch.header.last < self.next
    }

    /// Makes a batch durable on 1+m drives, replacing members that fail.
    pub async fn append(&mut self, batch: &Batch, reserve: Reserve) -> Result<(), JournalStopped> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        if self.sabotage.is(Sabotage::JournalBeforeAck) {
            self.advance(batch);
            return Ok(());
        }
        let members = self.register.members.clone();
        let writes = members.iter().map(|drive| append_one(&*self.node, *drive, batch, reserve));
        let results = join_all(writes).await;
        let (mut held, mut failed) = (BTreeSet::new(), BTreeSet::new());
        for (drive, result) in members.iter().zip(results) {
            match result {
                Ok(()) => held.insert(*drive),
                Err(error) => {
                    tracing::warn!(%drive, %error, "a member of the journal's ensemble failed");
                    failed.insert(*drive)
                }
            };
        }
        let enough = self.sabotage.is(Sabotage::JournalAllMembers) && !held.is_empty();
        if !failed.is_empty() && !enough {
            self.change(failed, Some(batch), held).await?;
        }
        self.advance(batch);
        Ok(())
    }

    /// Drives that are to keep no journal, as far as there are others.
    pub fn set_leaving(&mut self, leaving: BTreeSet<DriveId>) {
        self.leaving = leaving;
    }

    /// Replaces the members that take no writes, and those that are leaving, by how the drives were a moment ago. They are not
    /// asked here: commits would wait for a node that does not answer, each time.
    pub async fn check(&mut self, drives: &[DriveStatus]) -> Result<(), JournalStopped> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        self.settle_soon().await;
        let healthy = |id: &DriveId| drives.iter().any(|d| d.id == *id && d.health == DriveHealth::Healthy);
        let members = &self.register.members;
        let mut failed: BTreeSet<DriveId> = members.iter().copied().filter(|id| !healthy(id)).collect();
        if !failed.is_empty() {
            tracing::warn!(?failed, "members of the journal's ensemble take no writes");
        }
        let staying = self.register.registered.iter().filter(|id| healthy(id) && !self.leaving.contains(id)).count();
        if staying >= members.len() {
            failed.extend(members.iter().filter(|id| self.leaving.contains(id)));
        }
        let back = |drive: &DriveStatus| self.known.get(&drive.id) != Some(&drive.opened);
        // A member that was away and is back has no open segment, and may have lost what it held.
        let doubted = drives.iter().any(|drive| members.contains(&drive.id) && back(drive));
        if failed.is_empty() && !doubted {
            return match self.crowded_for_long(drives) {
                Some(member) => self.give_way(member, drives).await,
                None => Ok(()),
            };
        }
        self.change(failed, None, BTreeSet::new()).await
    }

    /// Replaces a member that is whole. Nobody needs that now: a change that half of the drives do not take would stop a journal that
    /// goes on as it is, so it is not begun where that is known beforehand. One that was of no use is not tried again soon.
    async fn give_way(&mut self, member: DriveId, drives: &[DriveStatus]) -> Result<(), JournalStopped> {
        let before = self.register.members.clone();
        match self.has_majority(drives) {
            Ok(()) => {
                tracing::info!(drive = %member, "a member of the journal's ensemble gives way to one with which less is lost together");
                self.change(BTreeSet::from([member]), None, BTreeSet::new()).await?;
            }
            Err(reason) => {
                tracing::info!(%reason, drive = %member, "a member of the journal's ensemble does not give way yet")
            }
        }
        self.crowded_wait = match self.register.members == before {
            true => self.crowded_wait.saturating_mul(2).min(CROWDED_CHECKS_MOST),
            false => CROWDED_CHECKS,
        };
        Ok(())
    }

    /// A member that shares a node, a rack or a site with another one and need not. Only when nothing better than a new place was
    /// to be had for a while: a node that comes and goes would change the ensemble each time.
    fn crowded_for_long(&mut self, drives: &[DriveStatus]) -> Option<DriveId> {
        let may = |d: &&DriveStatus| {
            self.register.registered.contains(&d.id) && !self.leaving.contains(&d.id) && !d.waits(STALLED_AFTER)
        };
        let crowded = ensemble::crowded(&self.register.members, &ensemble::candidates(drives.iter().filter(may)));
        self.crowded_checks = if crowded.is_some() { self.crowded_checks.saturating_add(1) } else { 0 };
        let member = crowded.filter(|_| self.crowded_checks >= self.crowded_wait)?;
        self.crowded_checks = 0;
        Some(member)
    }

    fn advance(&mut self, batch: &Batch) {
        let holders: Arc<[DriveId]> = self.register.members.as_slice().into();
        self.map.insert(batch, &holders);
        if let Some(last) = batch.entries.last() {
            self.next = last.lsn.next();
            self.last_hash = last.hash;
        }
    }

    /// Changes the ensemble until 1+m members hold the tail and `batch`, or stops. `held` are members that hold `batch`.
    ///
    /// New members get the tail before the register names them: were all members new (all old ones failed a write at once, or
    /// m is 0), a crash between the two would leave an ensemble in which nobody is complete, and the next start would serve
    /// reads only although the old members have everything.
    ///
    /// The order is what keeps acknowledged entries: were a batch acknowledged under members that no majority knows, a
    /// recovery that finds only the old members would count none of them absent, and begin again without that batch.
    async fn change(
        &mut self,
        mut failed: BTreeSet<DriveId>,
        batch: Option<&Batch>,
        mut held: BTreeSet<DriveId>,
    ) -> Result<(), JournalStopped> {
        self.settle().await.map_err(|stopped| self.stop(stopped))?;
        let mut last = "members failed".to_owned();
        let mut given = BTreeSet::new();
        let mut register = self.register.clone();
        loop {
            match self.choose(&register.members, &failed).await {
                Ok(members) if members == self.register.members => register = self.register.clone(),
                Ok(members) => register = self.next_register(members),
                // A first failed write is a strike, not the end of a drive (R6): with no other drive left, the same drive
                // goes on in a new segment, once.
                Err(_) if !failed.is_subset(&given) => {
                    given.append(&mut std::mem::take(&mut failed));
                    continue;
                }
                Err(usable) => {
                    let needed = self.register.members.len();
                    return Err(self.stop(JournalStopped::TooFewDrives { usable, needed, last }));
                }
            };
            let mut complete = true;
            for drive in register.members.clone() {
                match self.fill(drive, register.sequence, batch, held.contains(&drive)).await {
                    Ok(()) => {
                        held.insert(drive);
                    }
                    Err(FillError::Member(error)) => {
                        tracing::warn!(%drive, %error, "a drive can't join the journal's ensemble");
                        last = error.to_string();
                        complete = false;
                        failed.insert(drive);
                    }
                    Err(FillError::Stop(stopped)) => return Err(self.stop(stopped)),
                }
            }
            if complete && register != self.register {
                self.replace_register(register).await?;
                return Ok(());
            }
            if complete {
                return Ok(());
            }
        }
    }

    /// The next ensemble: the members that did not fail, and the best others. `Err` is how many there are.
    async fn choose(&mut self, current: &[DriveId], failed: &BTreeSet<DriveId>) -> Result<Vec<DriveId>, usize> {
        let drives = self.node.drives().await;
        let unread = self.reconcile(&drives).await;
        let registered = &self.register.registered;
        // Every commit would wait for one that does not answer.
        let stalled: BTreeSet<DriveId> = drives.iter().filter(|d| d.waits(STALLED_AFTER)).map(|d| d.id).collect();
        let may = |d: &&DriveStatus| registered.contains(&d.id) && !failed.contains(&d.id) && !unread.contains(&d.id);
        let candidates = ensemble::candidates(drives.iter().filter(may));
        let stays = |c: &&Candidate| !self.leaving.contains(&c.id) && !stalled.contains(&c.id);
        let staying: Vec<Candidate> = candidates.iter().filter(stays).copied().collect();
        let count = self.register.members.len();
        let chosen = choose_members(current, &staying, count);
        chosen.or_else(|| choose_members(current, &candidates, count)).ok_or(candidates.len())
    }

    /// Reads what drives hold that were opened again since, before they are counted on: a directory that was put back may be an
    /// older copy, and the map would go on naming it as the holder of entries that it has lost. Returns those that can't be
    /// read.
    async fn reconcile(&mut self, drives: &[DriveStatus]) -> BTreeSet<DriveId> {
        let mut unread = BTreeSet::new();
        let sealed = Lsn(self.map.first().map_or(0, |first| first.0.saturating_sub(1)));
        let readable = drives.iter().filter(|d| !matches!(d.health, DriveHealth::Failed { .. }));
        for drive in readable {
            if self.known.get(&drive.id) == Some(&drive.opened) {
                continue;
            }
            if self.map.is_holder(drive.id) {
                let limit = self.map.patience().deadline;
                let Some(copy) = survey_drive(&*self.node, drive.id, sealed, limit, &self.sabotage).await else {
                    unread.insert(drive.id);
                    continue;
                };
                let marks = copy.segments.iter().flat_map(|segment| &segment.marks);
                let found: BTreeSet<(Lsn, [u8; 32])> = marks.map(|mark| (mark.lsn, mark.hash)).collect();
                let lost = self.map.keep_holder(drive.id, &|lsn, hash| found.contains(&(lsn, *hash)));
                tracing::info!(drive = %drive.id, lost, "a drive is back; its journal entries were read");
            }
            self.known.insert(drive.id, drive.opened);
        }
        unread
    }

    /// Begins a new segment on a member and copies into it what the member lacks: the tail, and the batch in flight.
    async fn fill(
        &self,
        drive: DriveId,
        ensemble: u64,
        batch: Option<&Batch>,
        holds_batch: bool,
    ) -> Result<(), FillError> {
        let lacking = self.map.first_lacking(drive).filter(|_| !self.sabotage.is(Sabotage::TailCopy));
        let first_lsn = match (lacking, batch) {
            (Some(lsn), _) => lsn,
            (None, Some(batch)) if holds_batch => batch.header.last.next(),
            _ => self.next,
        };
        self.begin(drive, ensemble, first_lsn).await?;
        if let Some(from) = lacking {
            self.copy_tail(drive, ensemble, from).await?;
            self.map.add_holder(from, drive);
        }
        match batch {
            // After a tail the batch must follow in the same segment, even if an older segment holds it already.
            Some(batch) if !holds_batch || lacking.is_some() => {
                append_one(&*self.node, drive, batch, Reserve::Metadata).await.map_err(FillError::Member)
            }
            _ => Ok(()),
        }
    }

    /// Copies the tail from `from` on into the segment that was begun for it. A segment's entries are consecutive, so where
    /// they are not (what was sealed meanwhile is gone; an accepted loss left LSNs out), another segment begins.
    async fn copy_tail(&self, drive: DriveId, ensemble: u64, from: Lsn) -> Result<(), FillError> {
        let (mut pending, mut bytes, mut expected) = (Vec::<BatchEntry>::new(), 0, from);
        for (lsn, _) in self.map.lengths(from..=Lsn(u64::MAX)) {
            let Some(entry) = self.tail_entry(lsn).await? else { continue };
            if (lsn != expected || bytes >= COPY_BATCH) && !pending.is_empty() {
                self.copy(drive, std::mem::take(&mut pending)).await?;
                bytes = 0;
            }
            if lsn != expected {
                self.begin(drive, ensemble, lsn).await?;
            }
            bytes += entry.bytes.len();
            expected = lsn.next();
            let Entry { epoch, hash, prev_hash, bytes, .. } = entry;
            pending.push(BatchEntry { lsn, epoch, hash, prev_hash, bytes });
        }
        if !pending.is_empty() {
            self.copy(drive, pending).await?;
        }
        if expected == self.next { Ok(()) } else { self.begin(drive, ensemble, self.next).await }
    }

    /// An entry of the tail; `None` when it was sealed meanwhile.
    async fn tail_entry(&self, lsn: Lsn) -> Result<Option<Entry>, FillError> {
        match self.map.entry(&*self.node, lsn).await {
            Ok(entry) => Ok(Some(entry)),
            Err(_) if self.map.get(lsn).is_none() => Ok(None),
            Err(error) => Err(FillError::Stop(JournalStopped::Tail(error))),
        }
    }

    async fn begin(&self, drive: DriveId, ensemble: u64, first_lsn: Lsn) -> Result<(), FillError> {
        let head = JournalHead { ensemble, first_lsn };
        let begun = in_time(drive, WRITE_DEADLINE, self.node.journal_begin(drive, head)).await;
        begun.map(drop).map_err(FillError::Member)
    }

    async fn copy(&self, drive: DriveId, entries: Vec<BatchEntry>) -> Result<(), FillError> {
        let batch = Batch::new(entries).map_err(|e| FillError::Stop(JournalStopped::Encode(e.to_string())))?;
        append_one(&*self.node, drive, &batch, Reserve::Metadata).await.map_err(FillError::Member)
    }
}

/// Appends to one member. When it is full the same bytes go in on the reserve: by then they may lie on the other members, and
/// their LSNs can't be given to anything else. The committer keeps clients' entries away from a journal without room.
///
/// A member that does not answer in time has failed and is replaced: one hung drive must not stop the whole store. Its write
/// may still be done later, and does no harm then. It carries the bytes that the other members hold under these LSNs, and no
/// others are ever written under them, so what it leaves is one more copy; and a drive does its jobs in order, so it comes
/// before the segment that begins should the drive be chosen again.
async fn append_one(node: &dyn NodeClient, drive: DriveId, batch: &Batch, reserve: Reserve) -> Result<(), WriteError> {
    let write = |reserve| node.journal_append(drive, batch.header, batch.payload.clone(), reserve);
    let append = |reserve| in_time(drive, WRITE_DEADLINE, write(reserve));
    match append(reserve).await {
        Err(WriteError::Full { .. }) if reserve == Reserve::Client => append(Reserve::Metadata).await,
        result => result,
    }
}
