//! A drive's directory on a real file system.
//!
//! The directory is opened once and every path is resolved relative to it, so a drive that is unmounted, or another
//! one that is mounted over it, is noticed ([`Disk::same_directory`]) instead of written to. The directory is opened
//! with the first call that finds it there: a drive can be described before it exists.

mod medium;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Access, Capabilities, Disk, DiskError, DiskFile, DiskOp, IGNORED_NAMES, LOCK_FILE, LockGuard, Space};
use super::{is_inside, split};
use crate::keep::Medium;
use crate::sabotage::{Sabotage, SabotageSet};

const PROBE_FILE: &str = ".probe";
const PROBE_LEN: u64 = 64 << 10;

/// A drive's directory on a real file system.
#[derive(Debug)]
pub struct RealDisk {
    shared: Arc<Shared>,
    capabilities: OnceLock<Capabilities>,
}

/// What a drive and its open files share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    dir: OnceLock<OwnedFd>,
    sabotage: SabotageSet,
    warned_preallocate: AtomicBool,
    warned_punch: AtomicBool,
}

impl RealDisk {
    /// The drive at a path, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>, sabotage: SabotageSet) -> Self {
        let shared = Shared {
            path: path.into(),
            dir: OnceLock::new(),
            sabotage,
            warned_preallocate: AtomicBool::new(false),
            warned_punch: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared), capabilities: OnceLock::new() }
    }

    /// The drive's path.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    fn open_file(&self, op: DiskOp, rel: &str, flags: OFlags) -> Result<Arc<dyn DiskFile>, DiskError> {
        Ok(Arc::new(self.open_plain(op, rel, flags)?))
    }

    fn open_plain(&self, op: DiskOp, rel: &str, flags: OFlags) -> Result<RealFile, DiskError> {
        let fd = self.shared.at(op, rel, |dir| retry(|| rustix::fs::openat(dir, rel, flags, Mode::from(0o640))))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| self.shared.error(op, rel, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.shared.error(op, rel, Errno::INVAL));
        }
        Ok(RealFile { fd, rel: rel.to_owned(), shared: Arc::clone(&self.shared) })
    }

    fn open_dir(&self, op: DiskOp, rel: &str) -> Result<OwnedFd, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = if rel.is_empty() { "." } else { rel };
        self.shared.at(op, rel, |dir| retry(|| rustix::fs::openat(dir, name, flags, Mode::empty())))
    }

    fn probe(&self) -> Result<Capabilities, DiskError> {
        let rel = PROBE_FILE;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let open =
            |flags| self.shared.at(DiskOp::Create, rel, |dir| rustix::fs::openat(dir, rel, flags, Mode::from(0o600)));
        let fd = open(flags)?;
        let direct_io = open(flags | OFlags::DIRECT).is_ok();
        let preallocate = retry(|| rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, PROBE_LEN)).is_ok();
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punch = retry(|| rustix::fs::fallocate(&fd, hole, 0, PROBE_LEN)).is_ok();
        self.remove(rel)?;
        Ok(Capabilities { direct_io, preallocate, punch })
    }
}

impl Shared {
    fn name(&self, rel: &str) -> String {
        self.path.join(rel).display().to_string()
    }

    fn error(&self, op: DiskOp, rel: &str, errno: Errno) -> DiskError {
        DiskError::from_errno(op, self.name(rel), errno)
    }

    /// The directory, opened now if it has not been yet.
    fn dir(&self, op: DiskOp) -> Result<&OwnedFd, DiskError> {
        if let Some(dir) = self.dir.get() {
            return Ok(dir);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match retry(|| rustix::fs::openat(CWD, &self.path, flags, Mode::empty())) {
            Ok(dir) => Ok(self.dir.get_or_init(|| dir)),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(DiskError::Gone { op, path: self.name("") }),
            Err(errno) => Err(self.error(op, "", errno)),
        }
    }

    /// Does something relative to the directory. "No such file" becomes [`DiskError::Gone`] if the directory itself
    /// has been removed: a missing drive must never look like an empty one (R18).
    fn at<T>(&self, op: DiskOp, rel: &str, act: impl FnOnce(&OwnedFd) -> Result<T, Errno>) -> Result<T, DiskError> {
        if !rel.is_empty() && !is_inside(rel) {
            return Err(self.error(op, rel, Errno::INVAL));
        }
        let dir = self.dir(op)?;
        act(dir).map_err(|errno| match errno {
            Errno::NOENT if rustix::fs::fstat(dir).is_ok_and(|stat| stat.st_nlink == 0) => {
                DiskError::Gone { op, path: self.name(rel) }
            }
            _ => self.error(op, rel, errno),
        })
    }
}

/// Repeats a call that a signal interrupted.
fn retry<T>(act: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    rustix::io::retry_on_intr(act)
}

fn same_inode(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)
}

impl Disk for RealDisk {
    fn path_hint(&self) -> String {
        self.shared.path.display().to_string()
    }

    fn again(&self) -> Arc<dyn Disk> {
        Arc::new(RealDisk::new(&self.shared.path, self.shared.sabotage.clone()))
    }

    fn sabotage(&self) -> &SabotageSet {
        &self.shared.sabotage
    }

    fn lock(&self) -> Result<LockGuard, DiskError> {
        if self.shared.sabotage.is(Sabotage::DriveLock) {
            return Ok(Box::new(()));
        }
        let writing = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let open = |dir: &OwnedFd, flags| retry(|| rustix::fs::openat(dir, LOCK_FILE, flags, Mode::from(0o640)));
        let file = self.shared.at(DiskOp::Lock, LOCK_FILE, |dir| match open(dir, writing) {
            // A kernel that found errors makes the file system read-only; what is on it must stay readable.
            Err(Errno::ROFS) => open(dir, OFlags::RDONLY | OFlags::CLOEXEC),
            other => other,
        })?;
        match retry(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Box::new(file)),
            Err(Errno::WOULDBLOCK) => Err(DiskError::Locked { path: self.path_hint() }),
            Err(errno) => Err(self.shared.error(DiskOp::Lock, LOCK_FILE, errno)),
        }
    }

    fn exists(&self) -> Result<bool, DiskError> {
        match retry(|| rustix::fs::stat(&self.shared.path)) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(self.shared.error(DiskOp::Inspect, "", errno)),
        }
    }

    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.list("")?.iter().all(|name| IGNORED_NAMES.contains(&name.as_str())))
    }

    fn create_dir(&self, rel: &str) -> Result<(), DiskError> {
        self.shared.at(DiskOp::CreateDir, rel, |dir| match retry(|| rustix::fs::mkdirat(dir, rel, Mode::from(0o750))) {
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(dir, rel, AtFlags::empty())?;
                let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if is_dir { Ok(()) } else { Err(Errno::EXIST) }
            }
            other => other,
        })
    }

    fn list(&self, rel: &str) -> Result<Vec<String>, DiskError> {
        let fd = self.open_dir(DiskOp::List, rel)?;
        if rel.is_empty() && rustix::fs::fstat(&fd).is_ok_and(|stat| stat.st_nlink == 0) {
            return Err(DiskError::Gone { op: DiskOp::List, path: self.shared.name(rel) });
        }
        let error = |errno| self.shared.error(DiskOp::List, rel, errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(fd).map_err(error)? {
            let name = entry.map_err(error)?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, rel: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.open_file(DiskOp::Create, rel, flags)
    }

    fn open(&self, rel: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        let access = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        // Non-blocking, so that a pipe under this name is refused and not waited for.
        self.open_file(DiskOp::Open, rel, access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC)
    }

    fn open_medium(&self, rel: &str) -> Result<(Arc<dyn DiskFile>, Medium), DiskError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let direct = match self.open_plain(DiskOp::Open, rel, flags | OFlags::DIRECT) {
            Ok(file) => medium::reads(&file).then_some(file),
            Err(DiskError::Io { errno, .. }) if unsupported(errno) => None,
            Err(error) => return Err(error),
        };
        match direct {
            Some(file) => Ok((Arc::new(medium::DirectFile(file)), Medium::Direct)),
            None => {
                let file = self.open_plain(DiskOp::Open, rel, flags)?;
                Ok((Arc::new(medium::DroppedFile(file)), Medium::Dropped))
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        if split(from).0 != split(to).0 || !is_inside(to) {
            return Err(self.shared.error(DiskOp::Rename, to, Errno::XDEV));
        }
        self.shared.at(DiskOp::Rename, from, |dir| retry(|| rustix::fs::renameat(dir, from, dir, to)))
    }

    fn remove(&self, rel: &str) -> Result<(), DiskError> {
        self.shared.at(DiskOp::Remove, rel, |dir| retry(|| rustix::fs::unlinkat(dir, rel, AtFlags::empty())))
    }

    fn sync_dir(&self, rel: &str) -> Result<(), DiskError> {
        let fd = self.open_dir(DiskOp::SyncDir, rel)?;
        retry(|| rustix::fs::fsync(&fd)).map_err(|errno| self.shared.error(DiskOp::SyncDir, rel, errno))
    }

    fn space(&self) -> Result<Space, DiskError> {
        self.shared.at(DiskOp::Space, "", |dir| {
            let (space, stat) = (rustix::fs::fstatvfs(dir)?, rustix::fs::fstat(dir)?);
            let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
            Ok(Space { total: bytes(space.f_blocks), free: bytes(space.f_bavail), filesystem_id: stat.st_dev })
        })
    }

    fn same_directory(&self) -> Result<bool, DiskError> {
        if self.shared.sabotage.is(Sabotage::DirectoryIdentity) {
            return Ok(true);
        }
        let error = |errno| self.shared.error(DiskOp::Inspect, "", errno);
        let held = match self.shared.dir(DiskOp::Inspect) {
            Err(DiskError::Gone { .. }) => return Ok(false),
            other => rustix::fs::fstat(other?).map_err(error)?,
        };
        match retry(|| rustix::fs::stat(&self.shared.path)) {
            Ok(named) => Ok(same_inode(&held, &named)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(error(errno)),
        }
    }

    fn capabilities(&self) -> Capabilities {
        if let Some(known) = self.capabilities.get() {
            return *known;
        }
        match self.probe() {
            Ok(found) => {
                let Capabilities { direct_io, preallocate, punch } = found;
                if self.capabilities.set(found).is_ok() && !(direct_io && preallocate && punch) {
                    let path = self.path_hint();
                    tracing::warn!(path, direct_io, preallocate, punch, "the file system lacks abilities");
                }
                found
            }
            Err(error) => {
                // Not remembered: a drive that is full or not there now may be asked again.
                tracing::warn!(%error, "cannot probe what the file system can do");
                Capabilities { direct_io: false, preallocate: false, punch: false }
            }
        }
    }
}

#[derive(Debug)]
struct RealFile {
    fd: OwnedFd,
    rel: String,
    shared: Arc<Shared>,
}

impl RealFile {
    fn error(&self, op: DiskOp, errno: Errno) -> DiskError {
        self.shared.error(op, &self.rel, errno)
    }

    fn warn_once(&self, warned: &AtomicBool, op: DiskOp, errno: Errno) {
        if !warned.swap(true, Ordering::Relaxed) {
            let path = self.shared.name("");
            tracing::warn!(path, %errno, "the file system cannot {op}; going on without");
        }
    }
}

impl DiskFile for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        let mut written = 0;
        while written < bytes.len() {
            match retry(|| rustix::io::pwrite(&self.fd, &bytes[written..], offset + written as u64)) {
                Ok(0) => return Err(self.error(DiskOp::Write, Errno::IO)), // else this would never end
                Ok(n) => written += n,
                Err(errno) => return Err(self.error(DiskOp::Write, errno)),
            }
        }
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let mut filled = 0;
        while filled < buf.len() {
            match retry(|| rustix::io::pread(&self.fd, &mut buf[filled..], offset + filled as u64)) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(errno) => return Err(self.error(DiskOp::Read, errno)),
            }
        }
        Ok(filled)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        // Interrupted is an answer here like any other failure: a sync is never tried twice (R6).
        rustix::fs::fdatasync(&self.fd).map_err(|errno| self.error(DiskOp::SyncData, errno))
    }

    fn len(&self) -> Result<u64, DiskError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| self.error(DiskOp::Inspect, errno))?;
        u64::try_from(stat.st_size).map_err(|_| self.error(DiskOp::Inspect, Errno::OVERFLOW))
    }

    fn preallocate(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        if len == 0 {
            return Ok(());
        }
        match retry(|| rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), offset, len)) {
            Err(errno) if unsupported(errno) => {
                self.warn_once(&self.shared.warned_preallocate, DiskOp::Preallocate, errno);
                // The length is set all the same, so that a segment looks alike everywhere.
                let end = offset.saturating_add(len);
                if self.len()? < end { self.truncate(end) } else { Ok(()) }
            }
            other => other.map_err(|errno| self.error(DiskOp::Preallocate, errno)),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry(|| rustix::fs::fallocate(&self.fd, flags, offset, len)) {
            Err(errno) if unsupported(errno) => {
                self.warn_once(&self.shared.warned_punch, DiskOp::Punch, errno);
                Ok(())
            }
            other => other.map_err(|errno| self.error(DiskOp::Punch, errno)),
        }
    }

    fn truncate(&self, len: u64) -> Result<(), DiskError> {
        retry(|| rustix::fs::ftruncate(&self.fd, len)).map_err(|errno| self.error(DiskOp::Truncate, errno))
    }

    fn still_named(&self) -> Result<bool, DiskError> {
        if self.shared.sabotage.is(Sabotage::FileIdentity) {
            return Ok(true);
        }
        let held = rustix::fs::fstat(self.fd.as_fd()).map_err(|errno| self.error(DiskOp::Inspect, errno))?;
        if held.st_nlink == 0 {
            return Ok(false);
        }
        let dir = self.shared.dir(DiskOp::Inspect)?;
        match retry(|| rustix::fs::statat(dir, &self.rel, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(named) => Ok(same_inode(&held, &named)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(self.error(DiskOp::Inspect, errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    fn disk(path: &Path) -> RealDisk {
        RealDisk::new(path, SabotageSet::default())
    }

    #[test]
    fn conforms() {
        let dir = tempfile::tempdir().unwrap();
        conformance::run(&disk(dir.path()), &disk(dir.path()));
    }

    #[test]
    fn conforms_without_abilities_of_a_disk() {
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
        conformance::run(&disk(dir.path()), &disk(dir.path()));
    }

    #[test]
    fn a_missing_directory_is_gone_and_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later");
        let disk = disk(&path);
        assert!(!disk.exists().unwrap());
        assert!(matches!(disk.is_empty(), Err(DiskError::Gone { .. })));
        assert!(matches!(disk.read_small("identity"), Err(DiskError::Gone { .. })));
        assert!(!disk.same_directory().unwrap());
        std::fs::create_dir(&path).unwrap();
        assert!(disk.exists().unwrap() && disk.is_empty().unwrap() && disk.same_directory().unwrap());
    }

    #[test]
    fn a_deleted_directory_accepts_syncs_and_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive");
        std::fs::create_dir(&path).unwrap();
        let disk = disk(&path);
        let file = disk.create("file").unwrap();
        std::fs::remove_dir_all(&path).unwrap();
        file.write_at(b"lost", 0).unwrap();
        file.sync_data().unwrap();
        assert!(!file.still_named().unwrap());
        assert!(!disk.same_directory().unwrap());
        assert!(matches!(disk.create("more"), Err(DiskError::Gone { .. })));
        assert!(matches!(disk.read_small("identity"), Err(DiskError::Gone { .. })));
        assert!(matches!(disk.is_empty(), Err(DiskError::Gone { .. })));
        std::fs::create_dir(&path).unwrap();
        assert!(!disk.same_directory().unwrap(), "another directory under the same path");
    }

    #[test]
    fn a_swapped_directory_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("drive"), dir.path().join("aside"));
        std::fs::create_dir(&path).unwrap();
        let disk = disk(&path);
        let file = disk.create("file").unwrap();
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(!disk.same_directory().unwrap());
        assert!(file.still_named().unwrap(), "in the directory that is held");
        disk.write_durably("identity", b"x").unwrap();
        assert!(std::fs::read_dir(&path).unwrap().next().is_none());
        assert_eq!(std::fs::read(aside.join("identity")).unwrap(), b"x");
    }

    #[test]
    fn links_and_pipes_are_not_files() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        let disk = disk(dir.path());
        assert!(disk.open("link", Access::Read).is_err());
        assert!(disk.open("dir", Access::Read).is_err());
        assert!(disk.create("link").is_err());
    }

    #[test]
    fn abilities_are_probed_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(dir.path());
        disk.capabilities();
        assert!(disk.is_empty().unwrap());
    }
}
