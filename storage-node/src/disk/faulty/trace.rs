//! The drives of one test, and one global order of everything that happened to them.
//!
//! A *position* counts events: position 0 is before the first, and "at position p" means after the p first events.
//! Writes, syncs, directory changes, changes by the medium and the caller's marks are events; reads are not.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::super::DiskOp;
use super::content::ContentOp;
use super::faults::{Effect, Fault, FaultId, Faults};
use super::fs::{DriveState, Ino};
use super::image::{CrashChoice, CrashImage, CrashPoint};
use super::random::mix;
use super::{FaultDisk, FaultFile};
use crate::sabotage::SabotageSet;

/// The size of a drive unless [`Trace::set_room`] says otherwise, in bytes.
const CAPACITY: u64 = 1 << 40;
/// An operation hangs no longer than this: a test that fails must end, and on a busy machine no drive may come back before it is told to.
const HANG_MOST: Duration = Duration::from_secs(120);

/// The drives of one test. Clones are the same drives.
#[derive(Clone)]
pub struct Trace(Arc<Shared>);

struct Shared {
    world: Mutex<World>,
    /// A fault was taken back: operations that hang look whether it was theirs.
    healed: Condvar,
    sabotage: SabotageSet,
}

/// Everything that changes, behind one lock: that is what makes the order global.
pub(super) struct World {
    pub(super) position: u64,
    pub(super) drives: Vec<DriveState>,
    pub(super) faults: Faults,
    events: Vec<Event>,
}

/// One event, for messages and for finding positions.
#[derive(Clone, Debug)]
pub struct Event {
    /// How many events came before it; a crash at `position + 1` is after it.
    pub position: u64,
    /// What happened.
    pub what: What,
}

/// What an [`Event`] was.
#[derive(Clone, Debug)]
pub enum What {
    /// The caller's mark.
    Mark(String),
    /// An operation that changed a drive, or a sync.
    Op {
        /// The drive's number in the trace.
        drive: usize,
        /// The operation.
        op: DiskOp,
        /// The path, as given by the caller.
        path: Arc<str>,
        /// Where in the file, in bytes; 0 where that means nothing.
        offset: u64,
        /// How many bytes; 0 where that means nothing.
        len: u64,
        /// Whether it succeeded.
        ok: bool,
    },
    /// The medium changed by itself, or the drive's directory was taken away.
    Damage {
        /// The drive's number in the trace.
        drive: usize,
        /// In words.
        how: &'static str,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Mark(text) => write!(f, "{}: mark {text}", self.position),
            What::Damage { drive, how } => write!(f, "{}: drive {drive} {how}", self.position),
            What::Op { drive, op, path, offset, len, ok } => {
                let failed = if *ok { "" } else { ", failed" };
                write!(f, "{}: drive {drive} {op} {path:?} {offset}+{len}{failed}", self.position)
            }
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.world();
        f.debug_struct("Trace").field("drives", &world.drives.len()).field("position", &world.position).finish()
    }
}

impl World {
    /// Records an event and gives its position.
    fn event(&mut self, what: What) -> u64 {
        let position = self.position;
        self.position += 1;
        self.events.push(Event { position, what });
        position
    }
}

/// An operation about to happen: who, what, where; and how the fault rules judged it.
pub(super) struct Attempt<'a> {
    pub(super) drive: usize,
    pub(super) op: DiskOp,
    pub(super) path: &'a Arc<str>,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Trace {
    /// So many empty drives.
    pub fn new(drives: usize) -> Self {
        Self::with_sabotage(drives, SabotageSet::default())
    }

    /// So many empty drives, whose disks carry these switches.
    pub fn with_sabotage(drives: usize, sabotage: SabotageSet) -> Self {
        let drives = (0..drives).map(|drive| DriveState::empty(CAPACITY, drive as u64 + 1)).collect();
        Self::from_drives(drives, sabotage)
    }

    pub(super) fn from_drives(drives: Vec<DriveState>, sabotage: SabotageSet) -> Self {
        let world = World { position: 0, drives, faults: Faults::default(), events: Vec::new() };
        Self(Arc::new(Shared { world: Mutex::new(world), healed: Condvar::new(), sabotage }))
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        // A test thread that panics must not hide what the others saw.
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sabotage(&self) -> &SabotageSet {
        &self.0.sabotage
    }

    /// The directory that a drive's path names now, as a process that starts now would open it.
    pub fn disk(&self, drive: usize) -> Arc<FaultDisk> {
        Arc::new(FaultDisk { trace: self.clone(), drive, root: OnceLock::new() })
    }

    /// All drives, in order.
    pub fn disks(&self) -> Vec<Arc<FaultDisk>> {
        let drives = self.world().drives.len();
        (0..drives).map(|drive| self.disk(drive)).collect()
    }

    /// Puts the caller's mark into the order of events, and gives its position.
    pub fn mark(&self, text: impl Into<String>) -> u64 {
        self.world().event(What::Mark(text.into()))
    }

    /// How many events there have been: the position now.
    pub fn position(&self) -> u64 {
        self.world().position
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.world().events.clone()
    }

    /// What can be left after a crash at a position; make images from it.
    pub fn point(&self, position: u64) -> CrashPoint {
        CrashPoint::new(&self.world(), position, self.0.sabotage.clone())
    }

    /// What is left after a crash at a position under a choice. For many choices at one position, ask
    /// [`point`](Self::point) once.
    pub fn image(&self, position: u64, choice: &CrashChoice) -> CrashImage {
        self.point(position).image(choice)
    }

    /// A new set of drives with what a crash now would leave if everything unsynced survived: a clean restart.
    pub fn restart(&self) -> CrashImage {
        self.image(self.position(), &CrashChoice::Everything)
    }

    /// Forgets what happened until now, so that a long run keeps no more in memory than the drives hold. Everything counts as
    /// durable: no crash before this moment can be asked for any more, and nobody may hold a file that has no name.
    pub fn forget(&self) {
        let mut world = self.world();
        let position = world.position;
        world.events = Vec::new();
        world.drives.iter_mut().for_each(|drive| drive.forget(position));
    }

    /// Lets a fault loose.
    pub fn inject(&self, fault: Fault) -> FaultId {
        self.world().faults.add(fault)
    }

    /// How often a fault has hit.
    pub fn hits(&self, fault: FaultId) -> u64 {
        self.world().faults.hits(fault)
    }

    /// Takes a fault back; what it did stays done.
    pub fn heal(&self, fault: FaultId) {
        self.world().faults.remove(fault);
        self.0.healed.notify_all();
    }

    /// Takes all faults back.
    pub fn heal_all(&self) {
        self.world().faults.remove_all();
        self.0.healed.notify_all();
    }

    /// Leaves a drive room for so many bytes more (in whole pages); then it is full.
    pub fn set_room(&self, drive: usize, bytes: u64) {
        let drive = &mut self.world().drives[drive];
        drive.capacity = drive.used.saturating_add(bytes);
    }

    /// Puts a drive on a file system; drives have one each unless told otherwise. Room stays a drive's own.
    pub fn set_filesystem(&self, drive: usize, id: u64) {
        self.world().drives[drive].filesystem_id = id;
    }

    /// Removes a drive's directory. Held files go on accepting writes and syncs; paths are gone.
    pub fn remove_drive(&self, drive: usize) {
        let mut world = self.world();
        let position = world.event(What::Damage { drive, how: "was removed" });
        world.drives[drive].delete_root(position);
    }

    /// Puts another directory at a drive's path, with these files (path, content), durably; a path that ends with `/` is a
    /// directory. Whoever holds the old one
    /// goes on writing to it; whoever opens the path finds the new one.
    pub fn replace_drive(&self, drive: usize, files: &[(&str, &[u8])]) -> Result<(), Errno> {
        let mut world = self.world();
        let position = world.event(What::Damage { drive, how: "was replaced" });
        world.drives[drive].replace_root(position, files)
    }

    /// Replaces every byte of every file of a drive; names and lengths stay. On the medium, so at once and for good.
    pub fn noise(&self, drive: usize, seed: u64) {
        let mut world = self.world();
        let position = world.event(What::Damage { drive, how: "was overwritten with noise" });
        let state = &mut world.drives[drive];
        for ino in state.files() {
            let op = ContentOp::Noise { seed: mix(seed, ino as u64) };
            // Only directories refuse a change of content, and these are files.
            let _ = state.change_file(position, ino, op, true);
        }
    }

    /// Changes one byte by the bits of a mask. On the medium, so at once and for good. Beyond the end it does nothing.
    pub fn flip(&self, drive: usize, path: &str, offset: u64, mask: u8) -> Result<(), Errno> {
        let mut world = self.world();
        let root = world.drives[drive].named_root().ok_or(Errno::NOENT)?;
        let ino = world.drives[drive].open(root, path)?;
        let position = world.event(What::Damage { drive, how: "flipped a byte" });
        world.drives[drive].change_file(position, ino, ContentOp::Flip { offset, mask }, true)
    }

    /// [`Self::flip`] on the medium alone: reads go on giving what the cache remembers.
    pub fn flip_under_cache(&self, drive: usize, path: &str, offset: u64, mask: u8) -> Result<(), Errno> {
        let mut world = self.world();
        let root = world.drives[drive].named_root().ok_or(Errno::NOENT)?;
        let ino = world.drives[drive].open(root, path)?;
        let position = world.event(What::Damage { drive, how: "flipped a byte under the cache" });
        world.drives[drive].change_medium(position, ino, ContentOp::Flip { offset, mask }, true)
    }

    /// A range of a file can't be read from now on (`EIO`). Images of a crash do not remember it.
    pub fn make_unreadable(&self, drive: usize, path: &str, range: Range<u64>) -> Result<(), Errno> {
        let mut world = self.world();
        let root = world.drives[drive].named_root().ok_or(Errno::NOENT)?;
        let ino = world.drives[drive].open(root, path)?;
        world.event(What::Damage { drive, how: "lost sectors" });
        world.drives[drive].unreadable.push((ino, range));
        Ok(())
    }

    /// Every sector of a drive can be read again.
    pub fn make_readable(&self, drive: usize) {
        let mut world = self.world();
        world.event(What::Damage { drive, how: "has its sectors back" });
        world.drives[drive].unreadable.clear();
    }

    /// Judges an operation by the fault rules; one that is slow or hangs has its wait here, outside the lock.
    pub(super) fn attempt(&self, attempt: &Attempt<'_>) -> (MutexGuard<'_, World>, Option<Effect>) {
        let mut world = self.world();
        match world.faults.judge(attempt.drive, attempt.op, attempt.path) {
            Some((_, Effect::Slow(wait))) => {
                drop(world);
                std::thread::sleep(wait);
                (self.world(), None)
            }
            Some((id, Effect::Hang)) => {
                let hangs = |world: &mut World| world.faults.is_in_force(id);
                let waited = self.0.healed.wait_timeout_while(world, HANG_MOST, hangs);
                (waited.unwrap_or_else(PoisonError::into_inner).0, None)
            }
            verdict => (world, verdict.map(|(_, effect)| effect)),
        }
    }

    /// An operation that changes nothing: it happens unless a fault says otherwise.
    pub(super) fn look<T>(
        &self,
        attempt: &Attempt<'_>,
        act: impl FnOnce(&mut DriveState) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (mut world, verdict) = self.attempt(attempt);
        match verdict {
            Some(Effect::Error(errno)) => Err(errno),
            _ => act(&mut world.drives[attempt.drive]),
        }
    }

    /// An operation that changes something: recorded whether it succeeds or not. `act` is told whether a fault makes
    /// it fail, because a failed sync is itself something that happened.
    pub(super) fn change<T>(
        &self,
        attempt: &Attempt<'_>,
        act: impl FnOnce(&mut DriveState, u64, Option<Effect>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (mut world, verdict) = self.attempt(attempt);
        let Attempt { drive, op, offset, len, .. } = *attempt;
        let path = Arc::clone(attempt.path);
        let position = world.event(What::Op { drive, op, path, offset, len, ok: true });
        let result = act(&mut world.drives[drive], position, verdict);
        if result.is_err()
            && let Some(Event { what: What::Op { ok, .. }, .. }) = world.events.last_mut()
        {
            *ok = false;
        }
        result
    }

    pub(super) fn file(&self, drive: usize, root: Ino, ino: Ino, path: &Arc<str>, writable: bool) -> Arc<FaultFile> {
        Arc::new(self.fault_file(drive, root, ino, path, writable))
    }

    pub(super) fn fault_file(&self, drive: usize, root: Ino, ino: Ino, path: &Arc<str>, writable: bool) -> FaultFile {
        FaultFile { trace: self.clone(), drive, root, ino, path: Arc::clone(path), writable, medium: false }
    }
}
