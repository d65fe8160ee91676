//! What the drives say about the journal, and what follows from it. Reads only; the judgement is pure.
//!
//! Every copy of every unsealed entry is scanned. The best tail is the highest (epoch of the last entry, LSN) of all; from it
//! the chain is walked back by `prev_hash`, so that of two entries with one LSN the one counts that the tail builds on, and
//! the other (written, never acknowledged, and left out by a later start) does not. Damage in one copy is filled from another
//! one, because entries are taken by hash and not by drive.
//!
//! A member counts as present only if it provably holds everything that was acknowledged before the ensemble was last begun
//! on it; then, since an acknowledged entry is on all 1+m members, one such member is enough to know the tail.

use crate::journal::{Held, read_in_time};
use codec::effect::EffectKind;
use codec::id::{DriveId, Epoch, Lsn};
use codec::journal::{Entry, NO_ENTRY};
use codec::level::Later;
use codec::register::{Register, RegisterError};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::{DriveHealth, NodeClient, ReadError, ScanEnd};
use storage_node::sabotage::{Sabotage, SabotageSet};

/// One copy of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its position.
    pub lsn: Lsn,
    /// The epoch of its birth.
    pub epoch: Epoch,
    /// Its hash.
    pub hash: [u8; 32],
    /// The hash of the entry before it.
    pub prev_hash: [u8; 32],
    /// Length of its bytes.
    pub len: u32,
    /// It accepts a loss: the entry before it is this one, not the one before its LSN.
    pub kept: Option<Lsn>,
    /// It says that everything up to here is sealed.
    pub sealed: Option<Lsn>,
}

impl Mark {
    /// What the survey keeps of an entry.
    pub fn of(entry: &Entry) -> Mark {
        let kinds = || entry.effects.effects.iter().filter_map(|effect| effect.kind.as_ref());
        Mark {
            lsn: entry.lsn,
            epoch: entry.epoch,
            hash: entry.hash,
            prev_hash: entry.prev_hash,
            len: u32::try_from(entry.bytes.len()).unwrap_or(u32::MAX),
            kept: kept_by(entry),
            sealed: kinds().filter_map(|k| if let EffectKind::Sealed(s) = k { Some(Lsn(s.last)) } else { None }).max(),
        }
    }

    /// The LSN of the entry before it.
    pub fn before(&self) -> Lsn {
        self.kept.unwrap_or(Lsn(self.lsn.0.saturating_sub(1)))
    }
}

/// The last LSN that was kept, if the entry accepts a loss.
pub fn kept_by(entry: &Entry) -> Option<Lsn> {
    let mut kinds = entry.effects.effects.iter().filter_map(|effect| effect.kind.as_ref());
    kinds.find_map(|k| if let EffectKind::AcceptedLoss(loss) = k { Some(Lsn(loss.kept)) } else { None })
}

/// A drive's journal segment.
#[derive(Clone, Debug)]
pub struct SegmentCopy {
    /// The first LSN that it was begun for.
    pub first_lsn: Lsn,
    /// The epoch in which it was begun.
    pub epoch: Epoch,
    /// Its entries.
    pub marks: Vec<Mark>,
    /// Something below its barrier is damaged: bit rot, not a torn tail (R7).
    pub damaged: bool,
}

/// All that one drive holds of the journal, oldest segment first.
#[derive(Clone, Debug)]
pub struct DriveCopy {
    /// The drive.
    pub drive: DriveId,
    /// Its register; `None` when it was never written, or is damaged.
    pub register: Option<Register>,
    /// Its register does not verify: it has no say in which register is the newest, and gets it again when writes are served.
    pub register_damaged: bool,
    /// Its segments.
    pub segments: Vec<SegmentCopy>,
}

/// What the index says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexMark {
    /// The last applied entry.
    pub applied: Lsn,
    /// Its hash.
    pub hash: [u8; 32],
    /// The last sealed entry.
    pub sealed: Lsn,
}

impl IndexMark {
    /// An index that is not there.
    pub const NONE: IndexMark = IndexMark { applied: Lsn(0), hash: NO_ENTRY, sealed: Lsn(0) };
}

/// Why only reads are served. Nothing was written to media.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadOnlyReason {
    /// Without more than half of the registered drives nobody knows which ensemble is the newest.
    #[error(
        "{present} of {registered} registered drives are there, more than half are needed; bring drives back and restart, \
         or `stele journal accept-loss`"
    )]
    NoMajority {
        /// Drives that are there.
        present: usize,
        /// Registered drives.
        registered: usize,
        /// Those that are not there.
        absent: Vec<DriveId>,
    },
    /// Entries may be missing that nobody here can know of.
    #[error(
        "{} of the journal's {members} drives are absent or incomplete, {m} can be missed: {}; bring drives back and restart, \
         or `stele journal accept-loss`", .absent.len(), names(.absent)
    )]
    MembersAbsent {
        /// The absent members.
        absent: Vec<DriveId>,
        /// 1+m.
        members: usize,
        /// How many may be absent.
        m: usize,
    },
    /// The index has entries that the drives lack.
    #[error(
        "the index has applied LSN {index}, the drives' journal ends at LSN {media}: the drives have lost entries or are not \
         the newest; restart with the right drives, or `stele journal accept-loss`"
    )]
    IndexAhead {
        /// The index's last entry.
        index: Lsn,
        /// The drives' last entry.
        media: Lsn,
    },
    /// The index has applied another entry than the drives have.
    #[error(
        "the index and the drives' journal disagree about LSN {0}; restart with the right drives, or `stele journal accept-loss`"
    )]
    IndexDiffers(Lsn),
    /// No copy has this entry, though later ones are there.
    #[error(
        "no good copy of journal entry {0}, though later ones exist; bring drives back, or `stele journal accept-loss`"
    )]
    Gap(Lsn),
    /// Too few drives take writes.
    #[error("{usable} drives take writes, the journal needs {needed}; bring drives back and restart")]
    TooFewDrives {
        /// Drives that take writes.
        usable: usize,
        /// 1+m.
        needed: usize,
    },
    /// The ledger does not continue to where the journal begins.
    #[error("the ledger has no entry that follows LSN {after}, the journal begins at LSN {journal}")]
    LedgerGap {
        /// The last entry that could be read in order.
        after: Lsn,
        /// The first one in the journal.
        journal: Lsn,
    },
    /// The journal stopped while it was brought up to date at the start.
    #[error("{0}")]
    Stopped(#[from] crate::journal::JournalStopped),
}

impl ReadOnlyReason {
    /// How many more drives would do away with the reason; `None` when drives are not what is missing.
    pub fn drives_missing(&self) -> Option<usize> {
        match self {
            ReadOnlyReason::NoMajority { present, registered, .. } => {
                Some((registered / 2 + 1).saturating_sub(*present))
            }
            ReadOnlyReason::MembersAbsent { absent, m, .. } => Some(absent.len().saturating_sub(*m)),
            ReadOnlyReason::TooFewDrives { usable, needed } => Some(needed.saturating_sub(*usable)),
            ReadOnlyReason::IndexAhead { .. }
            | ReadOnlyReason::IndexDiffers(_)
            | ReadOnlyReason::Gap(_)
            | ReadOnlyReason::LedgerGap { .. }
            | ReadOnlyReason::Stopped(_) => None,
        }
    }
}

fn names(drives: &[DriveId]) -> String {
    drives.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The unsealed journal as all copies together have it.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Every entry from the tail back to the first one that is there, unsealed.
    pub held: BTreeMap<Lsn, Held>,
    /// The last entry and its hash; LSN 0 when there is none.
    pub last: (Lsn, [u8; 32]),
    /// Everything up to here is sealed.
    pub sealed: Lsn,
    /// The entry that is nowhere although later ones are.
    pub gap: Option<Lsn>,
    /// For each entry that accepts a loss, the entry before it.
    pub kept: BTreeMap<Lsn, Lsn>,
}

/// Reads all that the drives say. A drive that can't be read is left out: unknown is not missing (R13). So is one that takes
/// longer than `limit` over one answer: a drive that hangs must not keep the others from serving. One that has a register or entries of
/// a later release, or an entry that raises the level beyond what is known here, ends it: what the others have would be an older
/// state, and a start would claim the drives before it is refused.
pub async fn survey(
    node: &dyn NodeClient,
    sealed: Lsn,
    limit: Duration,
    sabotage: &SabotageSet,
) -> Result<Vec<DriveCopy>, ReadError> {
    let drives = node.drives().await;
    let readable = drives.iter().filter(|d| !matches!(d.health, DriveHealth::Failed { .. }));
    let looks = readable.map(|d| async move { (d.id, try_survey_drive(node, d.id, sealed, limit, sabotage).await) });
    let mut copies = Vec::new();
    for (drive, look) in join_all(looks).await {
        match look {
            Err(error @ ReadError::Later(_)) => return Err(error),
            look => copies.extend(readable_copy(drive, look)),
        }
    }
    Ok(copies)
}

fn readable_copy(drive: DriveId, look: Result<DriveCopy, ReadError>) -> Option<DriveCopy> {
    let failed = |error| tracing::warn!(%drive, %error, "a drive's journal can't be read; the drive counts as absent");
    look.map_err(failed).ok()
}

/// [`survey`] of one drive; `None` when it can't be read.
pub(crate) async fn survey_drive(
    node: &dyn NodeClient,
    drive: DriveId,
    sealed: Lsn,
    limit: Duration,
    sabotage: &SabotageSet,
) -> Option<DriveCopy> {
    readable_copy(drive, try_survey_drive(node, drive, sealed, limit, sabotage).await)
}

async fn try_survey_drive(
    node: &dyn NodeClient,
    drive: DriveId,
    sealed: Lsn,
    limit: Duration,
    sabotage: &SabotageSet,
) -> Result<DriveCopy, ReadError> {
    let (register, register_damaged) = match read_in_time(drive, limit, node.read_register(drive)).await {
        Ok(bytes) if bytes.is_empty() => (None, false),
        Ok(bytes) => match Register::parse(&bytes) {
            Ok(register) => (Some(register), false),
            // Written by a newer version: this one does not know what the drive knows (R16).
            Err(RegisterError::Version(_)) if sabotage.is(Sabotage::NewerRegister) => (None, false),
            Err(RegisterError::Version(version)) => {
                let later = Later::Layout { what: "ensemble register", version };
                return Err(ReadError::Later(later.to_string()));
            }
            Err(_) => (None, true),
        },
        // If the whole drive can't be read, the scan below says so.
        Err(_) => (None, true),
    };
    if register_damaged {
        tracing::warn!(%drive, "a drive's ensemble register can't be read");
    }
    let mut segments = Vec::new();
    for info in read_in_time(drive, limit, node.journal_segments(drive)).await? {
        let old = info.closed && info.damaged == 0 && info.last.is_some_and(|last| last <= sealed);
        if !old {
            segments.push(scan_segment(node, drive, &info, limit).await?);
        }
    }
    Ok(DriveCopy { drive, register, register_damaged, segments })
}

async fn scan_segment(
    node: &dyn NodeClient,
    drive: DriveId,
    info: &storage_node::client::JournalSegmentInfo,
    limit: Duration,
) -> Result<SegmentCopy, ReadError> {
    let first_lsn = info.head.first_lsn;
    let mut copy = SegmentCopy { first_lsn, epoch: info.epoch, marks: Vec::new(), damaged: info.damaged > 0 };
    let mut from = first_lsn;
    loop {
        let scan = read_in_time(drive, limit, node.journal_scan(drive, info.number, from)).await?;
        // Before anything is claimed: the replay would refuse it too, but with the drives taken from whoever serves, and with a
        // loss accepted that a later release would not have to accept.
        if let Some(later) = scan.entries.iter().find_map(Later::raised) {
            return Err(ReadError::Later(later.to_string()));
        }
        copy.marks.extend(scan.entries.iter().map(Mark::of));
        match scan.end {
            ScanEnd::More(next) if next > from => from = next,
            ScanEnd::More(_) | ScanEnd::Clean | ScanEnd::TornTail { .. } => return Ok(copy),
            ScanEnd::Damaged { block, barrier } => {
                tracing::warn!(%drive, segment = info.number, block, barrier, "damage in a journal segment");
                copy.damaged = true;
                return Ok(copy);
            }
        }
    }
}

/// The newest register of all.
pub fn newest_register(copies: &[DriveCopy]) -> Option<&Register> {
    copies.iter().filter_map(|copy| copy.register.as_ref()).max_by_key(|register| register.age())
}

/// Walks back from the best tail. `index` is where an index that is there has come to: it may know a higher sealed LSN.
pub fn best_chain(copies: &[DriveCopy], index: IndexMark, sabotage: &SabotageSet) -> Chain {
    let mut by_lsn: BTreeMap<Lsn, Vec<(&Mark, DriveId)>> = BTreeMap::new();
    for copy in copies {
        for mark in copy.segments.iter().flat_map(|segment| &segment.marks) {
            by_lsn.entry(mark.lsn).or_default().push((mark, copy.drive));
        }
    }
    let all = || by_lsn.values().flatten();
    let age = |mark: &Mark| {
        if sabotage.is(Sabotage::TailByEpoch) { (mark.lsn, mark.epoch.0) } else { (Lsn(mark.epoch.0), mark.lsn.0) }
    };
    let best = all().max_by_key(|(mark, _)| age(mark)).map(|(mark, _)| *mark);
    let mut chain = Chain {
        held: BTreeMap::new(),
        last: best.map_or((Lsn(0), NO_ENTRY), |mark| (mark.lsn, mark.hash)),
        sealed: index.sealed,
        gap: None,
        kept: BTreeMap::new(),
    };
    let (mut lsn, mut hash) = chain.last;
    let mut interned: Vec<Arc<[DriveId]>> = Vec::new();
    while lsn > chain.sealed {
        let copies: Vec<_> = by_lsn.get(&lsn).into_iter().flatten().filter(|(mark, _)| mark.hash == hash).collect();
        let Some((mark, _)) = copies.first() else {
            chain.gap = Some(lsn);
            break;
        };
        let holders: BTreeSet<DriveId> = copies.iter().map(|(_, drive)| *drive).collect();
        let held = Held {
            hash,
            prev_hash: mark.prev_hash,
            epoch: mark.epoch,
            len: mark.len,
            holders: intern(&mut interned, holders),
        };
        chain.held.insert(lsn, held);
        chain.sealed = mark.sealed.map_or(chain.sealed, |sealed| chain.sealed.max(sealed));
        if let Some(kept) = mark.kept {
            chain.kept.insert(lsn, kept);
        }
        (lsn, hash) = (mark.before(), mark.prev_hash);
    }
    chain
}

/// The entries before a gap, for a service that only reads. Which of two entries of one LSN the chain had there can't be told
/// without the missing one, so the one of the newest epoch is taken: a wrong choice costs a read that does not verify.
pub fn before_gap(copies: &[DriveCopy], gap: Lsn, sealed: Lsn) -> BTreeMap<Lsn, Held> {
    let mut newest: BTreeMap<Lsn, (&Mark, BTreeSet<DriveId>)> = BTreeMap::new();
    for copy in copies {
        let marks = copy.segments.iter().flat_map(|segment| &segment.marks);
        for mark in marks.filter(|mark| sealed < mark.lsn && mark.lsn < gap) {
            let known = newest.entry(mark.lsn).or_insert((mark, BTreeSet::new()));
            if mark.epoch > known.0.epoch {
                *known = (mark, BTreeSet::new());
            }
            if mark.hash == known.0.hash {
                known.1.insert(copy.drive);
            }
        }
    }
    let held = |(mark, holders): (&Mark, BTreeSet<DriveId>)| Held {
        hash: mark.hash,
        prev_hash: mark.prev_hash,
        epoch: mark.epoch,
        len: mark.len,
        holders: holders.into_iter().collect(),
    };
    newest.into_iter().map(|(lsn, found)| (lsn, held(found))).collect()
}

fn intern(known: &mut Vec<Arc<[DriveId]>>, holders: BTreeSet<DriveId>) -> Arc<[DriveId]> {
    let holders: Vec<DriveId> = holders.into_iter().collect();
    if let Some(same) = known.iter().rev().take(8).find(|k| k[..] == holders[..]) {
        return same.clone();
    }
    let new: Arc<[DriveId]> = holders.into();
    known.push(new.clone());
    new
}

/// Whether writes may be served with these copies: the reasons against it, in the order in which they matter.
pub fn judge(
    copies: &[DriveCopy],
    register: &Register,
    chain: &Chain,
    index: IndexMark,
    sabotage: &SabotageSet,
) -> Result<(), ReadOnlyReason> {
    if !sabotage.is(Sabotage::RegisterMajority) {
        check_majorities(copies, register)?;
    }
    let complete = |id: &DriveId| copies.iter().any(|copy| copy.drive == *id && is_complete(copy, register, chain));
    let absent: Vec<DriveId> = register.members.iter().copied().filter(|id| !complete(id)).collect();
    let m = usize::from(register.m);
    if absent.len() > m && !sabotage.is(Sabotage::AbsenceCount) {
        return Err(ReadOnlyReason::MembersAbsent { absent, members: register.members.len(), m });
    }
    if index.applied > chain.last.0 && !sabotage.is(Sabotage::IndexAhead) {
        return Err(ReadOnlyReason::IndexAhead { index: index.applied, media: chain.last.0 });
    }
    if let Some(gap) = chain.gap {
        return Err(ReadOnlyReason::Gap(gap));
    }
    let there = hash_at(chain, index.applied);
    // An LSN that an accepted loss left out is no entry of this history: the index is from before.
    let left_out = there.is_none() && index.applied > chain.sealed;
    if left_out || there.is_some_and(|hash| hash != index.hash) {
        return Err(ReadOnlyReason::IndexDiffers(index.applied));
    }
    Ok(())
}

/// Whether more than half of the drives are there that the newest register names, and of those that any other names which may
/// have been in use at the same time: one that is not older than the newest that is known to be on a majority. Where a change
/// of the registered drives was begun and is on some of them, it is not known which of the two counts; with majorities of both
/// it does not matter, whoever wrote them.
fn check_majorities(copies: &[DriveCopy], newest: &Register) -> Result<(), ReadOnlyReason> {
    let readable = || copies.iter().filter(|copy| !copy.register_damaged);
    let seen = || readable().filter_map(|copy| copy.register.as_ref());
    let takers = |register: &Register| {
        let has = |copy: &&DriveCopy| copy.register.as_ref() == Some(register);
        readable().filter(has).filter(|copy| register.registered.contains(&copy.drive)).count()
    };
    let settled = seen().filter(|register| takers(register) >= register.majority()).map(Register::age).max();
    let open = seen().filter(|register| settled.is_none_or(|settled| register.age() >= settled));
    for register in [newest].into_iter().chain(open) {
        let is_there = |drive: &DriveId| readable().any(|copy| copy.drive == *drive);
        let absent: Vec<DriveId> = register.registered.iter().copied().filter(|drive| !is_there(drive)).collect();
        let registered = register.registered.len();
        let present = registered - absent.len();
        if present < register.majority() {
            return Err(ReadOnlyReason::NoMajority { present, registered, absent });
        }
    }
    Ok(())
}

/// The hash of an entry, if the entry or the one that follows it is in the chain.
pub(crate) fn hash_at(chain: &Chain, lsn: Lsn) -> Option<[u8; 32]> {
    if chain.last.0 == lsn {
        return Some(chain.last.1);
    }
    if let Some(held) = chain.held.get(&lsn) {
        return Some(held.hash);
    }
    let (next, held) = chain.held.range(lsn.next()..).next()?;
    let before = chain.kept.get(next).copied().unwrap_or(Lsn(next.0.saturating_sub(1)));
    (before == lsn).then_some(held.prev_hash)
}

/// Whether a member's copy reaches as far as everything that was acknowledged before its newest segment, or before the
/// ensemble began, and whether where it ends is a torn tail and not damage: behind damage in the newest segment there may have
/// been acknowledged entries that this copy can't speak for.
fn is_complete(copy: &DriveCopy, register: &Register, chain: &Chain) -> bool {
    // Damage in an older segment counts, too, until a later one has an entry of the epoch that began it: the start that was
    // to copy again what the damage hides may have ended before it had, with a segment that only looks whole.
    let spoiled = copy.segments.iter().rposition(|segment| segment.damaged);
    let mended = |at: usize| copy.segments[at + 1..].iter().any(|s| s.marks.iter().any(|mark| mark.epoch == s.epoch));
    if spoiled.is_some_and(|at| !mended(at)) {
        return false;
    }
    let begun = copy.segments.iter().map(|segment| segment.first_lsn).max().unwrap_or(Lsn(0));
    let upto = Lsn(register.first_lsn.max(begun).0.saturating_sub(1));
    upto <= chain.last.0.max(chain.sealed) && reaches(copy, chain, upto)
}

/// Whether a copy holds every unsealed entry up to `upto`.
fn reaches(copy: &DriveCopy, chain: &Chain, upto: Lsn) -> bool {
    chain.held.range(..=upto).all(|(_, held)| held.holders.contains(&copy.drive))
}

#[cfg(test)]
mod tests;
