//! Switches for tests that take away one safety step each, so that a test can prove that the step is needed.
//!
//! A build without the feature `sabotage` (and outside this crate's own tests) carries a [`SabotageSet`] of size
//! zero whose answers are constants: no production binary can be talked into skipping a sync.
//!
//! To add a switch: one line in the list below, and `if !sabotage.is(Sabotage::TheName) { the step }` where the
//! step is taken. The set travels in the constructor or configuration of whoever takes the step; it is no global.
//!
//! Some steps are there for a machine that computes wrong results. For those the set can also have a [`Defect`], which is no
//! step and nothing that must be noticed by itself: it is what the step notices.

use codec::erasure::{Erasure, Geometry};
use codec::frame::{self, Expect, FrameError};

macro_rules! switches {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One safety step that can be taken away.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Sabotage {
            $($(#[$doc])* $name,)*
        }

        impl Sabotage {
            /// Every switch, so that a test can try them one by one and none is forgotten.
            pub const ALL: &'static [Sabotage] = &[$(Sabotage::$name,)*];
        }
    };
}

switches! {
    /// `write_durably` does not sync the new file before it is renamed (R5).
    DurableFileSync,
    /// `write_durably` does not sync the directory after the rename (R5).
    DurableDirSync,
    /// `write_durably` writes over the old file in place, with no new file and no rename.
    DurableRename,
    /// [`DiskFile::still_named`](crate::disk::DiskFile::still_named) says yes without looking (R5).
    FileIdentity,
    /// [`Disk::same_directory`](crate::disk::Disk::same_directory) says yes without looking (R5, R18).
    DirectoryIdentity,
    /// [`Disk::lock`](crate::disk::Disk::lock) hands out a guard that locks nothing (R18).
    DriveLock,
    /// A group of records is answered without an fdatasync (R5).
    RecordSync,
    /// A new segment's header is not synced before its first record counts (R7).
    SegmentHeaderSync,
    /// The directory of a new segment is not synced before its first record counts (R7).
    SegmentDirSync,
    /// A group is answered without looking whether file, directory and identity are still there (R5).
    IdentityCheck,
    /// A failed write or sync is answered, and the segment is written on (R6).
    Poison,
    /// Damage is always taken for a torn tail, whatever the barriers say (R7).
    Barriers,
    /// All segments are sealed with one seed (R8).
    BlockSeeds,
    /// Blocks are read without verifying them (R2, R17).
    VerifyBlocks,
    /// A shard is read whatever its stripe root says (R1).
    StripeRoot,
    /// Client writes take the space that is kept back (R14).
    Reserve,
    /// An empty directory is formatted although a known drive is expected there (R18).
    FormatKnown,
    /// The journal acknowledges when one member of the ensemble has the batch, not all 1+m (R5).
    JournalAllMembers,
    /// A batch is applied to the index and acknowledged although the journal does not have it.
    JournalBeforeAck,
    /// A change of the ensemble is not written to the registers before the first ack under it.
    RegisterBeforeAck,
    /// A new member of the ensemble does not get the unsealed tail.
    TailCopy,
    /// The longest tail wins a recovery, whatever the epoch of its last entry.
    TailByEpoch,
    /// Recovery goes on with fewer than half of the registered drives.
    RegisterMajority,
    /// Recovery goes on with more than m members of the ensemble absent.
    AbsenceCount,
    /// Recovery goes on with an index that is ahead of the media.
    IndexAhead,
    /// Replay does not check that an entry follows the one that the index applied last.
    ReplayChain,
    /// A start serves without a start-of-epoch entry on 1+m drives.
    StartEpochEntry,
    /// A stripe written by sealing is not read back.
    SealVerify,
    /// Sealing frees journal segments before the seal is committed.
    SealCommitFirst,
    /// Sealing frees journal segments under readers that began before.
    SealReaders,
    /// A command is decided although its writer's epoch is fenced (R9).
    EpochFence,
    /// A commit that needs a condemned chunk leaves it condemned (R11).
    ReviveCondemned,
    /// A commit goes through although a chunk that it needs is not known (R11).
    MissingChunks,
    /// A commit or delete goes through whatever its condition says.
    CommitCondition,
    /// A version goes whatever its lock says (R15).
    VersionLock,
    /// A seal or a restripe moves a chunk's place although it changed since the mover read it (R12).
    SealCondition,
    /// Chunks and stripes are deleted although reclaim is held (R10).
    ReclaimHold,
    /// A chunk is deleted although its grace is not over (R11).
    ReclaimGrace,
    /// A chunk is deleted although no mark pass since its condemnation looked for it (R11).
    ReclaimMark,
    /// A chunk is deleted although it was revived since it was marked (R11).
    ReclaimState,
    /// A stripe is dropped although chunks are placed in it.
    DropCheck,
    /// What can't be read is taken for something that is not there: by marks and inventories (R13).
    UnknownIsAbsent,
    /// The shards of a dropped stripe are freed under readers that began before (R12).
    FreeGrace,
    /// Orphan shards are collected whatever their epoch (R9).
    OrphanEpoch,
    /// A restriped stripe is not read back (R12).
    RestripeVerify,
    /// A repair moves a shard's place although it changed since the repair was planned.
    RepairCondition,
    /// A shard on a silent drive is rebuilt at once, although nothing else of its stripe is missing (R13).
    RepairGrace,
    /// A drive that was silent counts again as if it had never been away (R13).
    ReturnVerify,
    /// What is said to be missing or damaged is rebuilt without being looked at once more (R13).
    SuspectCheck,
    /// A rebuilt shard is committed without being verified from its medium.
    RebuildVerify,
    /// After a change of the ensemble or of the registered drives that came to nothing the register in use is written again.
    RegisterSettle,
    /// A start writes the register that it has found under a sequence above all that earlier starts can have left.
    RegisterClaim,
    /// The Raft log keeps what is not sealed (design section 5).
    PurgeSealed,
    /// The retention clock takes a tick that runs backwards (R15).
    ClockMonotonic,
    /// The retention clock catches up with the wall clock after time off, however long that was (R15).
    CatchUpBound,
    /// The count that graces are judged by catches up after time off, as the retention clock does (R15).
    SteadyCatchUp,
    /// Scrub reads what the page cache remembers.
    ScrubMedium,
    /// A pass of scrub begins anew with each start.
    ScrubCursor,
    /// A start does not ask the erasure code for known answers (R3).
    SelfTest,
    /// A frame is stored without being compared with its chunk (R4).
    FrameCheck,
    /// Chunks are stored under a dedup domain whose keys are not journaled (R16).
    DomainKeysFirst,
    /// A register that a newer version wrote is taken for one that was never written (R16).
    NewerRegister,
    /// A decoded chunk is delivered without being compared with its id (R17).
    ChunkIdCheck,
    /// A shard is freed without its header being read again (R1, R10).
    FreeHeaderCheck,
    /// A shard is freed whoever orders it (R10).
    FreeAuthority,
    /// Shards are freed without the free log: who ordered it, and what is half done, is not known after a crash (R10).
    FreeLog,
}

/// Something that is broken, for the steps that are there to notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Defect {
    /// The erasure code computes with another matrix.
    WrongErasure,
    /// The encoder makes good frames of other bytes than those that it was given.
    WrongFrames,
    /// A drive lets a shard be replaced by one of another stripe under its id.
    AnotherRoot,
}

// The set is two words of bits: steps from the lowest on, defects from the highest on.
const _: () = assert!(Sabotage::ALL.len() + 1 + (Defect::AnotherRoot as usize) < 128);

impl SabotageSet {
    /// The erasure code of this machine.
    pub fn erasure(&self, geometry: Geometry) -> Erasure {
        #[cfg(feature = "sabotage")]
        if self.has(Defect::WrongErasure) {
            return Erasure::wrong(geometry);
        }
        Erasure::new(geometry)
    }

    /// [`frame::decode`], or what is left of it without [`Sabotage::ChunkIdCheck`].
    pub fn decode(&self, frame: &[u8], expect: &Expect) -> Result<Vec<u8>, FrameError> {
        #[cfg(feature = "sabotage")]
        if self.is(Sabotage::ChunkIdCheck) {
            return frame::decode_unchecked(frame, expect);
        }
        frame::decode(frame, expect)
    }
}

pub use set::SabotageSet;

#[cfg(any(test, feature = "sabotage"))]
mod set {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Defect, Sabotage};

    /// The steps taken away at the moment, and what is broken. Clones share their state; the default takes nothing away.
    #[derive(Clone, Debug, Default)]
    pub struct SabotageSet(Arc<[AtomicU64; 2]>);

    impl SabotageSet {
        /// A set with one step taken away.
        pub fn only(step: Sabotage) -> Self {
            let set = Self::default();
            set.set(step, true);
            set
        }

        /// Takes a step away, or puts it back.
        pub fn set(&self, step: Sabotage, taken_away: bool) {
            self.put(usize::from(step as u8), taken_away);
        }

        /// Breaks something, or mends it.
        pub fn inflict(&self, defect: Defect, broken: bool) {
            self.put(127 - usize::from(defect as u8), broken);
        }

        fn put(&self, bit: usize, on: bool) {
            let (word, bit) = (&self.0[bit / 64], 1u64 << (bit % 64));
            if on {
                word.fetch_or(bit, Ordering::SeqCst);
            } else {
                word.fetch_and(!bit, Ordering::SeqCst);
            }
        }

        fn get(&self, bit: usize) -> bool {
            self.0[bit / 64].load(Ordering::SeqCst) & (1u64 << (bit % 64)) != 0
        }

        /// Whether the step is taken away.
        pub fn is(&self, step: Sabotage) -> bool {
            self.get(usize::from(step as u8))
        }

        /// Whether this is broken.
        pub fn has(&self, defect: Defect) -> bool {
            self.get(127 - usize::from(defect as u8))
        }
    }
}

#[cfg(not(any(test, feature = "sabotage")))]
mod set {
    use super::{Defect, Sabotage};

    /// Always empty in this build: every step is taken, and nothing is broken.
    #[derive(Clone, Debug, Default)]
    pub struct SabotageSet(());

    impl SabotageSet {
        /// Whether the step is taken away: never, in this build.
        pub const fn is(&self, _step: Sabotage) -> bool {
            false
        }

        /// Whether this is broken: never, by this build.
        pub const fn has(&self, _defect: Defect) -> bool {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_their_switches() {
        let set = SabotageSet::default();
        let clone = set.clone();
        for &step in Sabotage::ALL {
            assert!(!clone.is(step));
            set.set(step, true);
            assert!(clone.is(step));
            set.set(step, false);
            assert!(!clone.is(step));
        }
        assert!(SabotageSet::only(Sabotage::DurableDirSync).is(Sabotage::DurableDirSync));
    }

    #[test]
    fn a_defect_is_no_step() {
        let set = SabotageSet::default();
        for defect in [Defect::WrongErasure, Defect::WrongFrames] {
            set.inflict(defect, true);
            assert!(set.has(defect) && !Sabotage::ALL.iter().any(|step| set.is(*step)));
            set.inflict(defect, false);
            assert!(!set.has(defect));
        }
    }
}
