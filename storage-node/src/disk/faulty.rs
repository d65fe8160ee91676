//! A disk in memory that fails, lies and crashes on command, for tests in every crate.
//!
//! Run a workload once over the [`FaultDisk`]s of one [`Trace`] (from several threads if you like), with
//! [`Trace::mark`]s for what was asked and acknowledged. Then, for any position in the global order of events, ask for
//! the images that a crash there can leave: [`Trace::point`], [`CrashPoint::choices`], [`CrashPoint::image`]. The
//! model is what POSIX promises and no more:
//!
//! * A file's bytes, length and allocation are certain only after `sync_data` of that file. Until then each operation
//!   survives or not by itself; a write may be torn at 512 or 4096 bytes, or give only its length.
//! * A directory's entries are certain only after `sync_dir` of that directory, whatever happened to the files.
//!   A rename is atomic, and kept or lost.
//! * A failed sync makes nothing certain, and no later sync makes up for it.
//!
//! Faults are let loose with [`Trace::inject`] and others of its methods.

mod content;
mod faults;
mod fs;
mod history;
mod image;
mod random;
mod trace;

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use self::content::{ContentOp, Written};
use self::faults::Effect;
use self::fs::{DriveState, Ino};
use self::trace::Attempt;
use super::{Access, Capabilities, Disk, DiskError, DiskFile, DiskOp, IGNORED_NAMES, LOCK_FILE, LockGuard, Space};
use crate::keep::Medium;
use crate::sabotage::{Sabotage, SabotageSet};

pub use self::faults::{Fault, FaultId};
pub use self::image::{CrashChoice, CrashImage, CrashPoint, Part, Pending};
pub use self::trace::{Event, Trace, What};

/// One drive of a [`Trace`], as one process holds it.
pub struct FaultDisk {
    trace: Trace,
    drive: usize,
    /// The directory, held from the first call that finds it.
    root: OnceLock<Ino>,
}

impl fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultDisk({})", self.drive)
    }
}

impl FaultDisk {
    /// The trace that this drive belongs to.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The drive's number in its trace.
    pub fn drive(&self) -> usize {
        self.drive
    }

    /// The held directory, or the one that is at the drive's path now.
    fn root(&self, state: &DriveState) -> Result<Ino, Errno> {
        if let Some(&root) = self.root.get() {
            return Ok(root);
        }
        state.named_root().map(|root| *self.root.get_or_init(|| root)).ok_or(Errno::NODEV)
    }

    fn error(&self, op: DiskOp, rel: &str, errno: Errno) -> DiskError {
        DiskError::from_errno(op, format!("{}/{rel}", self.path_hint()), errno)
    }

    fn look<T>(
        &self,
        op: DiskOp,
        rel: &str,
        act: impl FnOnce(&mut DriveState, Ino) -> Result<T, Errno>,
    ) -> Result<T, DiskError> {
        let attempt = Attempt { drive: self.drive, op, path: &rel.into(), offset: 0, len: 0 };
        let result = self.trace.look(&attempt, |state| {
            let root = self.root(state)?;
            act(state, root)
        });
        result.map_err(|errno| self.error(op, rel, errno))
    }

    fn change<T>(
        &self,
        op: DiskOp,
        rel: &str,
        act: impl FnOnce(&mut DriveState, u64, Ino) -> Result<T, Errno>,
    ) -> Result<T, DiskError> {
        let attempt = Attempt { drive: self.drive, op, path: &rel.into(), offset: 0, len: 0 };
        let result = self.trace.change(&attempt, |state, position, effect| match effect {
            Some(Effect::Error(errno)) => Err(errno),
            _ => {
                let root = self.root(state)?;
                act(state, position, root)
            }
        });
        result.map_err(|errno| self.error(op, rel, errno))
    }
}

impl Disk for FaultDisk {
    fn path_hint(&self) -> String {
        format!("fault-disk/{}", self.drive)
    }

    fn again(&self) -> Arc<dyn Disk> {
        self.trace.disk(self.drive)
    }

    fn sabotage(&self) -> &SabotageSet {
        self.trace.sabotage()
    }

    fn lock(&self) -> Result<LockGuard, DiskError> {
        if self.sabotage().is(Sabotage::DriveLock) {
            return Ok(Box::new(()));
        }
        let locked = self.look(DiskOp::Lock, LOCK_FILE, |state, root| {
            state.resolve(root, "")?;
            let free = !state.locked.contains(&root);
            state.locked.extend(free.then_some(root));
            Ok((free, root))
        })?;
        match locked {
            (true, root) => Ok(Box::new(Guard { trace: self.trace.clone(), drive: self.drive, root })),
            (false, _) => Err(DiskError::Locked { path: self.path_hint() }),
        }
    }

    fn exists(&self) -> Result<bool, DiskError> {
        let attempt = Attempt { drive: self.drive, op: DiskOp::Inspect, path: &"".into(), offset: 0, len: 0 };
        let exists = self.trace.look(&attempt, |state| Ok(state.named_root().is_some()));
        exists.map_err(|errno| self.error(DiskOp::Inspect, "", errno))
    }

    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.list("")?.iter().all(|name| IGNORED_NAMES.contains(&name.as_str())))
    }

    fn create_dir(&self, rel: &str) -> Result<(), DiskError> {
        self.change(DiskOp::CreateDir, rel, |state, position, root| state.create_dir(position, root, rel).map(|_| ()))
    }

    fn list(&self, rel: &str) -> Result<Vec<String>, DiskError> {
        self.look(DiskOp::List, rel, |state, root| state.list(root, rel))
    }

    fn create(&self, rel: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let created = |state: &mut DriveState, position, root| Ok((root, state.create(position, root, rel)?));
        let (root, ino) = self.change(DiskOp::Create, rel, created)?;
        Ok(self.trace.file(self.drive, root, ino, &rel.into(), true))
    }

    fn open(&self, rel: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        let (root, ino) = self.look(DiskOp::Open, rel, |state, root| Ok((root, state.open(root, rel)?)))?;
        Ok(self.trace.file(self.drive, root, ino, &rel.into(), access == Access::ReadWrite))
    }

    fn open_medium(&self, rel: &str) -> Result<(Arc<dyn DiskFile>, Medium), DiskError> {
        let (root, ino) = self.look(DiskOp::Open, rel, |state, root| Ok((root, state.open(root, rel)?)))?;
        let file = FaultFile { medium: true, ..self.trace.fault_file(self.drive, root, ino, &rel.into(), false) };
        Ok((Arc::new(file), Medium::Direct))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.change(DiskOp::Rename, from, |state, position, root| state.rename(position, root, from, to))
    }

    fn remove(&self, rel: &str) -> Result<(), DiskError> {
        self.change(DiskOp::Remove, rel, |state, position, root| state.remove(position, root, rel))
    }

    fn sync_dir(&self, rel: &str) -> Result<(), DiskError> {
        let attempt = Attempt { drive: self.drive, op: DiskOp::SyncDir, path: &rel.into(), offset: 0, len: 0 };
        let result = self.trace.change(&attempt, |state, position, effect| {
            let dir = state.resolve(self.root(state)?, rel)?;
            let errno = match effect {
                Some(Effect::Error(errno)) => Some(errno),
                _ => None,
            };
            state.sync_dir(position, dir, errno.is_none());
            errno.map_or(Ok(()), Err)
        });
        result.map_err(|errno| self.error(DiskOp::SyncDir, rel, errno))
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.look(DiskOp::Space, "", |state, root| {
            state.resolve(root, "")?;
            Ok(Space { total: state.capacity, free: state.free(), filesystem_id: state.filesystem_id })
        })
    }

    fn same_directory(&self) -> Result<bool, DiskError> {
        if self.sabotage().is(Sabotage::DirectoryIdentity) {
            return Ok(true);
        }
        match self.look(DiskOp::Inspect, "", |state, root| Ok(state.named_root() == Some(root))) {
            Err(DiskError::Gone { .. }) => Ok(false),
            other => other,
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { direct_io: false, preallocate: true, punch: true }
    }
}

struct Guard {
    trace: Trace,
    drive: usize,
    root: Ino,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.trace.world().drives[self.drive].locked.retain(|root| *root != self.root);
    }
}

/// An open file of a [`FaultDisk`].
pub struct FaultFile {
    trace: Trace,
    drive: usize,
    root: Ino,
    ino: Ino,
    path: Arc<str>,
    writable: bool,
    /// Reads what is on the medium, whatever the cache remembers.
    medium: bool,
}

impl fmt::Debug for FaultFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultFile({}: {:?})", self.drive, self.path)
    }
}

impl FaultFile {
    fn attempt(&self, op: DiskOp, offset: u64, len: u64) -> Attempt<'_> {
        Attempt { drive: self.drive, op, path: &self.path, offset, len }
    }

    fn error(&self, op: DiskOp, errno: Errno) -> DiskError {
        DiskError::from_errno(op, format!("fault-disk/{}/{}", self.drive, self.path), errno)
    }

    fn look<T>(&self, op: DiskOp, act: impl FnOnce(&mut DriveState) -> Result<T, Errno>) -> Result<T, DiskError> {
        self.trace.look(&self.attempt(op, 0, 0), act).map_err(|errno| self.error(op, errno))
    }

    fn change(
        &self,
        op: DiskOp,
        range: (u64, u64),
        act: impl FnOnce(&mut DriveState, u64, Option<Effect>) -> Result<(), Errno>,
    ) -> Result<(), DiskError> {
        if !self.writable && op != DiskOp::SyncData {
            return Err(self.error(op, Errno::BADF));
        }
        self.trace.change(&self.attempt(op, range.0, range.1), act).map_err(|errno| self.error(op, errno))
    }

    fn change_content(&self, op: DiskOp, range: (u64, u64), content: ContentOp) -> Result<(), DiskError> {
        self.change(op, range, |state, position, effect| match effect {
            Some(Effect::Error(errno)) => Err(errno),
            _ => state.change_file(position, self.ino, content, false),
        })
    }
}

impl FaultFile {
    /// A write that went wrong on its way to the medium, while the cache has it as it was meant.
    fn write_cached(
        &self,
        state: &mut DriveState,
        position: u64,
        effect: &Effect,
        (bytes, offset): (&[u8], u64),
    ) -> Result<(), Errno> {
        state.change_cache(self.ino, &ContentOp::Write(Written::new(offset, bytes)))?;
        let landed = |offset| ContentOp::Write(Written::new(offset, bytes));
        match effect {
            Effect::Shifted(by) => {
                state.change_medium(position, self.ino, landed(offset.saturating_add_signed(*by)), false)
            }
            Effect::Elsewhere(path) => {
                let other = state.open(self.root, path)?;
                state.change_medium(position, other, landed(offset), false)
            }
            _ => Ok(()),
        }
    }
}

impl DiskFile for FaultFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.change(DiskOp::Write, (offset, bytes.len() as u64), |state, position, effect| {
            let mut write = |ino, bytes, offset| state.write(position, ino, bytes, offset);
            match effect {
                None | Some(Effect::Slow(_) | Effect::Hang) => write(self.ino, bytes, offset),
                Some(Effect::Error(errno)) => Err(errno),
                Some(Effect::Partial { bytes: stored, errno }) => {
                    write(self.ino, &bytes[..stored.min(bytes.len())], offset)?;
                    Err(errno)
                }
                Some(Effect::Lost) => Ok(()),
                Some(Effect::Shifted(by)) => write(self.ino, bytes, offset.saturating_add_signed(by)),
                Some(Effect::Elsewhere(path)) => {
                    let other = state.open(self.root, &path)?;
                    state.change_file(position, other, ContentOp::Write(Written::new(offset, bytes)), false)
                }
                Some(Effect::Cached(effect)) => self.write_cached(state, position, &effect, (bytes, offset)),
            }
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        self.look(DiskOp::Read, |state| {
            let content = if self.medium { state.medium(self.ino)? } else { state.content(self.ino)? };
            let len = content.read(buf, offset);
            if state.is_unreadable(self.ino, offset..offset + len as u64) { Err(Errno::IO) } else { Ok(len) }
        })
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.change(DiskOp::SyncData, (0, 0), |state, position, effect| {
            let errno = match effect {
                Some(Effect::Error(errno)) => Some(errno),
                _ => None,
            };
            state.sync_file(position, self.ino, errno.is_none());
            errno.map_or(Ok(()), Err)
        })
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.look(DiskOp::Inspect, |state| Ok(state.content(self.ino)?.len()))
    }

    fn preallocate(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.change(DiskOp::Preallocate, (offset, len), |state, position, effect| match effect {
            Some(Effect::Error(errno)) => Err(errno),
            _ => state.preallocate(position, self.ino, offset, len),
        })
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.change_content(DiskOp::Punch, (offset, len), ContentOp::Punch { offset, len })
    }

    fn truncate(&self, len: u64) -> Result<(), DiskError> {
        self.change_content(DiskOp::Truncate, (0, len), ContentOp::Truncate { len })
    }

    fn still_named(&self) -> Result<bool, DiskError> {
        if self.trace.sabotage().is(Sabotage::FileIdentity) {
            return Ok(true);
        }
        // A name in a directory that was deleted is no name.
        self.look(DiskOp::Inspect, |state| Ok(state.resolve(self.root, &self.path).is_ok_and(|ino| ino == self.ino)))
    }
}

#[cfg(test)]
mod tests;
