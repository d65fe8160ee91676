//! One drive's directory, behind a trait, so that a fault disk can stand in for a real one.
//!
//! All calls block; they are made from drive threads or `spawn_blocking`. Paths are relative to the drive's
//! directory, separated by `/`, without `.` or `..`; the empty path is the directory itself.
//!
//! What is durable when: a file's bytes, length and allocation only after [`DiskFile::sync_data`] of that file; a
//! directory's entries (created, renamed, removed names) only after [`Disk::sync_dir`] of that directory. The two
//! are independent. A failed sync makes nothing durable, ever: bytes that were waiting for it may be lost even if a
//! later sync of the same file succeeds (R6).

pub mod faulty;
pub mod real;
pub(crate) mod watched;

use std::fmt::{self, Debug};
use std::sync::Arc;

use rustix::io::Errno;

use crate::keep::Medium;
use crate::sabotage::{Sabotage, SabotageSet};

/// The name in a drive's directory that [`Disk::lock`] locks.
pub const LOCK_FILE: &str = "lock";

/// Names that do not make a drive's directory non-empty: our lock, and what mkfs puts at the root of a file system.
pub(crate) const IGNORED_NAMES: [&str; 2] = [LOCK_FILE, "lost+found"];

/// What was being done when a [`DiskError`] happened; also how faults are aimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the trait method of the same name
pub enum DiskOp {
    Lock,
    Inspect,
    CreateDir,
    List,
    Create,
    Open,
    Rename,
    Remove,
    SyncDir,
    Space,
    Write,
    Read,
    SyncData,
    Preallocate,
    Punch,
    Truncate,
}

impl fmt::Display for DiskOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskOp::Lock => "lock",
            DiskOp::Inspect => "inspect",
            DiskOp::CreateDir => "create directory",
            DiskOp::List => "list",
            DiskOp::Create => "create",
            DiskOp::Open => "open",
            DiskOp::Rename => "rename",
            DiskOp::Remove => "remove",
            DiskOp::SyncDir => "sync directory",
            DiskOp::Space => "ask for space",
            DiskOp::Write => "write",
            DiskOp::Read => "read",
            DiskOp::SyncData => "sync",
            DiskOp::Preallocate => "preallocate",
            DiskOp::Punch => "punch",
            DiskOp::Truncate => "truncate",
        })
    }
}

/// Why a drive did not do what it was asked. Cheap to clone: one failed sync answers a whole group of writers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The drive is there; the name is not.
    #[error("cannot {op} {path}: no such file")]
    NotFound {
        /// What was being done.
        op: DiskOp,
        /// Drive and path, for messages.
        path: String,
    },
    /// The name is taken.
    #[error("cannot {op} {path}: it exists already")]
    AlreadyExists {
        /// What was being done.
        op: DiskOp,
        /// Drive and path, for messages.
        path: String,
    },
    /// No room, or the quota is used up. No strike (R6); part of a write may have been stored.
    #[error("cannot {op} {path}: no space left")]
    Full {
        /// What was being done.
        op: DiskOp,
        /// Drive and path, for messages.
        path: String,
    },
    /// The drive's directory is not at its path (removed, not mounted), or its device is gone. Never means "empty".
    #[error("cannot {op} {path}: the drive is gone")]
    Gone {
        /// What was being done.
        op: DiskOp,
        /// Drive and path, for messages.
        path: String,
    },
    /// Somebody else has the drive in use (R18).
    #[error("{path} is in use by another process")]
    Locked {
        /// Drive and path, for messages.
        path: String,
    },
    /// What is there was written by a newer Stele. The drive may be as good as ever, and nothing of it is taken for damage (R16).
    #[error(
        "{path} holds a {what} of version {version}, which this version of Stele does not know: start the newer one that wrote it"
    )]
    Newer {
        /// Drive and path, for messages.
        path: String,
        /// The layout.
        what: &'static str,
        /// The version found.
        version: u16,
    },
    /// Everything else. A strike (R6) when it happens to a write or a sync.
    #[error("cannot {op} {path}: {errno}")]
    Io {
        /// What was being done.
        op: DiskOp,
        /// Drive and path, for messages.
        path: String,
        /// The operating system's reason.
        errno: Errno,
    },
}

impl DiskError {
    /// Sorts an errno into the variant that says what the caller can do about it.
    pub fn from_errno(op: DiskOp, path: impl Into<String>, errno: Errno) -> Self {
        let path = path.into();
        match errno {
            Errno::NOENT => DiskError::NotFound { op, path },
            Errno::EXIST => DiskError::AlreadyExists { op, path },
            Errno::NOSPC | Errno::DQUOT => DiskError::Full { op, path },
            Errno::NODEV | Errno::NXIO | Errno::STALE => DiskError::Gone { op, path },
            _ => DiskError::Io { op, path, errno },
        }
    }

    /// Whether the drive has no room, which is no fault of the drive (R6).
    pub fn is_full(&self) -> bool {
        matches!(self, DiskError::Full { .. })
    }

    /// Whether this process, or the whole machine, has run out of something: that says nothing of the drive.
    pub fn is_exhaustion(&self) -> bool {
        matches!(self, DiskError::Io { errno: Errno::MFILE | Errno::NFILE | Errno::NOMEM, .. })
    }

    /// Whether a later release wrote what is there: not this drive is to be mended, but that release to be started.
    pub fn is_newer(&self) -> bool {
        matches!(self, DiskError::Newer { .. })
    }

    /// Whether this process was not let look, can't read what it saw, or ran out of something: the drive may be as good as ever.
    pub fn is_refusal(&self) -> bool {
        let denied = matches!(self, DiskError::Io { errno: Errno::ACCESS | Errno::PERM, .. });
        denied || self.is_newer() || self.is_exhaustion()
    }

    /// Whether the name does not exist on a drive that is there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, DiskError::NotFound { .. })
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only; writes fail.
    Read,
    /// Reads and writes.
    ReadWrite,
}

/// Room on the file system that holds a drive, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The whole file system.
    pub total: u64,
    /// What this process may still write.
    pub free: u64,
    /// Equal for drives that share one file system (R14 counts reserves once per file system).
    pub filesystem_id: u64,
}

/// What the file system under a drive can do. Missing ones cost speed or space, never safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Reads that bypass the page cache: without them scrub may verify memory instead of the medium.
    pub direct_io: bool,
    /// Preallocation that reserves blocks; otherwise files are only extended.
    pub preallocate: bool,
    /// Holes that give space back; otherwise dead payload keeps its space until its segment goes.
    pub punch: bool,
}

/// A held lock; dropping it unlocks the drive.
pub type LockGuard = Box<dyn Send + Sync>;

/// One drive's directory.
pub trait Disk: Send + Sync + Debug {
    /// Where the drive is, for messages only: a drive is known by its identity (R18).
    fn path_hint(&self) -> String;

    /// The drive at the same path, as a process that starts now would find it: another directory may be there.
    fn again(&self) -> Arc<dyn Disk>;

    /// The safety steps taken away by a test; empty in a normal build.
    fn sabotage(&self) -> &SabotageSet;

    /// Locks the drive against other processes until the guard is dropped (R18). Creates [`LOCK_FILE`] if needed.
    fn lock(&self) -> Result<LockGuard, DiskError>;

    /// Whether there is a directory at the drive's path.
    fn exists(&self) -> Result<bool, DiskError>;

    /// Whether the directory holds nothing but [`LOCK_FILE`] and `lost+found`. [`DiskError::Gone`] if it is not there.
    fn is_empty(&self) -> Result<bool, DiskError>;

    /// Creates a directory inside the drive; one that exists already is fine. Durable after `sync_dir` of its parent.
    fn create_dir(&self, rel: &str) -> Result<(), DiskError>;

    /// The names in a directory, sorted.
    fn list(&self, rel: &str) -> Result<Vec<String>, DiskError>;

    /// Creates a file for reading and writing; [`DiskError::AlreadyExists`] if the name is taken.
    fn create(&self, rel: &str) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Opens a file that exists.
    fn open(&self, rel: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Opens a file so that reads of it give what is on the medium and not what a cache still remembers, as far as the
    /// file system can do it; says how it does. For scrub: a write that was lost, misdirected or has rotted since is
    /// hidden by the page cache for as long as it lives. Writes fail.
    fn open_medium(&self, rel: &str) -> Result<(Arc<dyn DiskFile>, Medium), DiskError>;

    /// Renames a file inside one directory, atomically replacing `to`. Across directories it is refused (`EXDEV`):
    /// there is no one directory whose sync would make it durable.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file's name. Files that are open stay readable, and accept writes and syncs for ever.
    fn remove(&self, rel: &str) -> Result<(), DiskError>;

    /// Makes a directory's entries durable; `""` is the drive's own directory.
    fn sync_dir(&self, rel: &str) -> Result<(), DiskError>;

    /// Total and free space.
    fn space(&self) -> Result<Space, DiskError>;

    /// Whether the drive's path still names the directory that was opened, by device and inode (R5, R18).
    fn same_directory(&self) -> Result<bool, DiskError>;

    /// Probes what the file system can do, with a nameless or briefly named file. Whatever is missing is warned of
    /// once per drive.
    fn capabilities(&self) -> Capabilities;

    /// Reads a whole small file (identity, register: at most [`SMALL_FILE`] bytes, more is an error).
    fn read_small(&self, rel: &str) -> Result<Vec<u8>, DiskError> {
        let file = self.open(rel, Access::Read)?;
        let len = file.len()?;
        if len > SMALL_FILE {
            let path = format!("{}/{rel}", self.path_hint());
            return Err(DiskError::from_errno(DiskOp::Read, path, Errno::FBIG));
        }
        let mut bytes = vec![0; len as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break, // it became shorter since its length was asked
                n => filled += n,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Creates or replaces a small file so that, whatever happens, the name has the old content or the new one, and
    /// once this returns the new one. **The one home of durable create and replace.**
    ///
    /// Write under another name, sync, rename, sync the directory. Renaming before the file is synced can leave the
    /// name on an empty file after a crash; answering before the directory is synced can bring the old content back.
    /// After an error either content may be there, now and after a crash.
    fn write_durably(&self, rel: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let (parent, name) = split(rel);
        if self.sabotage().is(Sabotage::DurableRename) {
            return write_in_place(self, rel, bytes);
        }
        let temporary = join(parent, &format!(".{name}.new"));
        let file = match self.create(&temporary) {
            Err(DiskError::AlreadyExists { .. }) => {
                // Left behind by a crash; it was never renamed, so nothing refers to it.
                self.remove(&temporary)?;
                self.create(&temporary)?
            }
            other => other?,
        };
        file.write_at(bytes, 0)?;
        if !self.sabotage().is(Sabotage::DurableFileSync) {
            file.sync_data()?;
        }
        self.rename(&temporary, rel)?;
        if !self.sabotage().is(Sabotage::DurableDirSync) {
            self.sync_dir(parent)?;
        }
        Ok(())
    }
}

/// The most that [`Disk::read_small`] reads, in bytes.
pub const SMALL_FILE: u64 = 16 << 20;

/// An open file on a drive.
#[allow(clippy::len_without_is_empty)] // a segment is never asked whether it is empty
pub trait DiskFile: Send + Sync + Debug {
    /// Writes all bytes at the offset, extending the file if needed. Not durable before `sync_data`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError>;

    /// Reads at the offset; returns how many bytes, fewer than asked only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, DiskError>;

    /// Makes everything written so far durable, length included (`fdatasync`).
    fn sync_data(&self) -> Result<(), DiskError>;

    /// The file's length in bytes, preallocated space included.
    fn len(&self) -> Result<u64, DiskError>;

    /// Reserves space for a range that reads as zeros, extending the file to its end if needed.
    fn preallocate(&self, offset: u64, len: u64) -> Result<(), DiskError>;

    /// Gives a range's space back; it reads as zeros afterwards where the file system can do it, and as before where
    /// it cannot (see [`Capabilities::punch`]). The length stays.
    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError>;

    /// Sets the length. Only to release a preallocated tail that was never written.
    fn truncate(&self, len: u64) -> Result<(), DiskError>;

    /// Whether the file still has a name, and its path still names it (R5).
    fn still_named(&self) -> Result<bool, DiskError>;
}

/// What [`Sabotage::DurableRename`] leaves of `write_durably`.
fn write_in_place<D: Disk + ?Sized>(disk: &D, rel: &str, bytes: &[u8]) -> Result<(), DiskError> {
    let file = match disk.open(rel, Access::ReadWrite) {
        Err(DiskError::NotFound { .. }) => disk.create(rel)?,
        other => other?,
    };
    file.truncate(0)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.sync_dir(split(rel).0)
}

/// A path's directory and its last name.
pub(crate) fn split(rel: &str) -> (&str, &str) {
    rel.rsplit_once('/').unwrap_or(("", rel))
}

/// A directory and a name as one path.
pub(crate) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

/// Whether a path stays inside the drive: no empty, `.` or `..` component, no NUL.
pub(crate) fn is_inside(rel: &str) -> bool {
    !rel.contains('\0') && rel.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

#[cfg(test)]
pub(crate) mod conformance;
