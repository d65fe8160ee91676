//! Whether a directory may become a drive: looked at before anything is written.
//!
//! Only a directory that an operator has named is ever formatted, and only if it is empty or not there yet (R18). It must fail
//! apart from the other drives as far as can be told: not the same directory under another name, not inside one, not around one.
//!
//! Any directory may be on a file system that does not answer, the one that is to be replaced most of all. Whatever asks one
//! goes through [`Asking`]; the functions beside it block.

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage_node::disk::Disk;
use storage_node::disk::real::RealDisk;
use storage_node::drive::{ProbedState, probe};
use storage_node::sabotage::SabotageSet;

/// How long a directory may take to answer.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// How often whoever waits for its turn to ask looks whether it has come.
const TURN_EVERY: Duration = Duration::from_millis(10);
/// A drive with less than this takes no shards.
const LEAST_FREE: u64 = metadata::topology::MIN_FREE;

/// File systems that keep nothing when the machine is switched off: `f_type` of statfs(2).
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// File systems that are no storage of this machine: network file systems and what the kernel shows of itself.
const NO_STORAGE: [(u64, &str); 11] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x6367_7270, "cgroup"),
    (0x0027_e0eb, "cgroup"),
    (0x1cd1, "devpts"),
    (0x6462_6720, "debugfs"),
];

/// Why a directory can't become a drive.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A path that means something else to the server than to whoever wrote it.
    #[error("{0} is not an absolute path")]
    Relative(PathBuf),
    /// Its parent has to be there: a whole missing path is most likely a file system that is not mounted.
    #[error("{path} can't be made: {source}")]
    NoParent {
        /// The path.
        path: PathBuf,
        /// What the system said of its parent.
        source: io::Error,
    },
    /// Its file system hangs.
    #[error("{0} does not answer: look whether its file system is there, and give the command again")]
    Silent(PathBuf),
    /// A drive of this set-up already.
    #[error("{0} is a drive of this set-up already")]
    Taken(PathBuf),
    /// One inside the other.
    #[error("{path} and {other} lie inside each other: they would fail together")]
    Nested {
        /// The path.
        path: PathBuf,
        /// A drive's directory, or another of the server's.
        other: PathBuf,
    },
    /// Not empty, no directory, or it can't be read.
    #[error("{path}: {state}; only a directory that is empty or not there yet becomes a drive")]
    NotEmpty {
        /// The path.
        path: PathBuf,
        /// What it is.
        state: ProbedState,
    },
    /// Its file system is not one to keep data on.
    #[error("{path} is on a file system that can't hold a drive: {reason}")]
    FileSystem {
        /// The path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system refused to say.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Asks directories on threads of their own. One that does not answer is not asked again before it has: however often a
/// command is given, it costs one thread.
#[derive(Clone, Debug)]
pub struct Asking {
    limit: Duration,
    asked: Arc<Mutex<HashSet<PathBuf>>>,
}

/// Dropped when a directory has answered.
struct Answered(Arc<Mutex<HashSet<PathBuf>>>, PathBuf);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Default for Asking {
    fn default() -> Asking {
        Asking { limit: ASK_DEADLINE, asked: Arc::default() }
    }
}

impl Asking {
    /// Each answer may take so long.
    pub fn within(limit: Duration) -> Asking {
        Asking { limit, ..Asking::default() }
    }

    /// Asks for something about a directory. [`PlaceError::Silent`]: it does not answer, or has not answered yet what it was
    /// asked before.
    pub async fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        ask: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, PlaceError> {
        let asking = async {
            let answered = loop {
                match self.turn(path) {
                    Some(turn) => break turn,
                    None => tokio::time::sleep(TURN_EVERY).await,
                }
            };
            let path = path.to_owned();
            let answer = tokio::task::spawn_blocking(move || {
                let _answered = answered;
                ask(&path)
            });
            answer.await.ok()
        };
        let answer = tokio::time::timeout(self.limit, asking).await;
        answer.ok().flatten().ok_or_else(|| PlaceError::Silent(path.to_owned()))
    }

    /// `None` while somebody else's question is not answered.
    fn turn(&self, path: &Path) -> Option<Answered> {
        let free = self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        free.then(|| Answered(self.asked.clone(), path.to_owned()))
    }

    /// [`real_path`] of directories that are in use: as they are named, where they can't be followed or do not answer. They were
    /// followed when they were taken into use.
    pub async fn real(&self, paths: &[PathBuf]) -> Vec<PathBuf> {
        // All of them are asked before the first is waited for.
        let ask = |path: &PathBuf| {
            let (asking, path) = (self.clone(), path.clone());
            tokio::spawn(async move { asking.ask(&path, real_path).await })
        };
        let asked: Vec<_> = paths.iter().map(ask).collect();
        let mut real = Vec::with_capacity(paths.len());
        for (asked, path) in asked.into_iter().zip(paths) {
            let answer = asked.await.ok().and_then(Result::ok).and_then(Result::ok);
            real.push(answer.unwrap_or_else(|| path.clone()));
        }
        real
    }
}

/// The path without links and detours. The directory itself need not exist, its parent must.
pub fn real_path(path: &Path) -> Result<PathBuf, PlaceError> {
    if !path.is_absolute() {
        return Err(PlaceError::Relative(path.to_owned()));
    }
    let failed = |source| PlaceError::NoParent { path: path.to_owned(), source };
    match path.canonicalize() {
        Ok(real) => Ok(real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(|| failed(error))?;
            // A link that leads nowhere is not followed by whoever makes the directory.
            Ok(parent.canonicalize().map_err(failed)?.join(name))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Whether a new drive may lie at `path` beside `others`: drives, and directories of the server's; all of them real paths.
pub fn check_apart(path: &Path, others: &[PathBuf]) -> Result<(), PlaceError> {
    for other in others {
        if other == path {
            return Err(PlaceError::Taken(path.to_owned()));
        }
        if other.starts_with(path) || path.starts_with(other) {
            return Err(PlaceError::Nested { path: path.to_owned(), other: other.clone() });
        }
    }
    Ok(())
}

/// Whether the directory is in memory; `false` when it can't be asked.
pub fn is_in_memory(path: &Path) -> bool {
    kind_of(path).is_ok_and(|kind| IN_MEMORY.contains(&kind))
}

/// Whether the directory is empty or not there, on a file system that can hold a drive. `in_memory`: one of the drives there
/// are is in memory, so somebody is only trying things out.
pub fn check_new(path: &Path, in_memory: bool) -> Result<(), PlaceError> {
    let state = probe(disk_at(path), None).state;
    if !matches!(state, ProbedState::Empty | ProbedState::Missing) || (state == ProbedState::Missing && path.exists()) {
        return Err(PlaceError::NotEmpty { path: path.to_owned(), state });
    }
    check_file_system(path, in_memory)
}

/// A drive's directory.
pub fn disk_at(path: &Path) -> Arc<dyn Disk> {
    Arc::new(RealDisk::new(path, SabotageSet::default()))
}

fn check_file_system(path: &Path, in_memory: bool) -> Result<(), PlaceError> {
    let there = if path.exists() { path } else { path.parent().unwrap_or(path) };
    let failed = |errno: rustix::io::Errno| PlaceError::Io { path: there.to_owned(), source: errno.into() };
    let unfit = |reason: String| Err(PlaceError::FileSystem { path: path.to_owned(), reason });
    let kind = kind_of(there).map_err(failed)?;
    if let Some((_, name)) = NO_STORAGE.iter().find(|(magic, _)| *magic == kind) {
        return unfit(format!("{name} is no storage of this machine"));
    }
    if IN_MEMORY.contains(&kind) && !in_memory {
        return unfit("it is in memory, and gone when the machine is".to_owned());
    }
    let space = statvfs(there).map_err(failed)?;
    if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return unfit("it is read-only".to_owned());
    }
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < LEAST_FREE {
        return unfit(format!("{} MiB are free, {} are needed to take anything", free >> 20, LEAST_FREE >> 20));
    }
    Ok(())
}

fn kind_of(path: &Path) -> Result<u64, rustix::io::Errno> {
    // A signed number of the machine's width, of which 32 bits are the kind.
    Ok(statfs(path)?.f_type as u64 & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_under_two_names_and_one_inside_the_other_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let others = [root.join("a"), root.join("mnt/b/drive")];
        std::fs::create_dir_all(&others[0]).unwrap();
        std::fs::create_dir_all(&others[1]).unwrap();
        std::os::unix::fs::symlink(&others[0], root.join("link")).unwrap();
        let check = |path: &str| check_apart(&real_path(&root.join(path))?, &others);
        assert!(check("c").is_ok());
        assert!(check("mnt/b2").is_ok() && check("mnt/b/other").is_ok());
        assert!(matches!(check("link"), Err(PlaceError::Taken(_))));
        assert!(matches!(check("a/../a"), Err(PlaceError::Taken(_))));
        assert!(matches!(check("a/inside"), Err(PlaceError::Nested { .. })));
        assert!(matches!(check("link/inside"), Err(PlaceError::Nested { .. })));
        assert!(matches!(check("mnt"), Err(PlaceError::Nested { .. })));
        assert!(matches!(check("not/there"), Err(PlaceError::NoParent { .. })));
        assert!(matches!(real_path(Path::new("a")), Err(PlaceError::Relative(_))));
    }

    /// A directory that hangs was asked on a thread that serves everybody.
    #[tokio::test]
    async fn a_directory_that_hangs_is_an_error_costs_one_thread_and_keeps_nobody_from_the_others() {
        // Longer than a directory takes on a busy machine that does not hang.
        let asking = Asking { limit: Duration::from_secs(2), ..Asking::default() };
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let path = Path::new("/nowhere/hung");
        let hung = asking.ask(path, move |_| hangs.recv().is_ok()).await;
        assert!(matches!(&hung, Err(PlaceError::Silent(silent)) if silent == path), "{hung:?}");
        let again = asking.ask(path, |_| panic!("it was asked again")).await;
        assert!(matches!(again, Err(PlaceError::Silent(_))));
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&root, root.join("link")).unwrap();
        assert_eq!(asking.real(&[path.to_owned(), root.join("link")]).await, [path.to_owned(), root]);
        release.send(()).unwrap();
        while asking.ask(path, |_| ()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    #[test]
    fn only_what_is_empty_or_not_there_becomes_a_drive() {
        let dir = tempfile::tempdir().unwrap();
        let in_memory = is_in_memory(dir.path());
        let new = |name: &str| check_new(&dir.path().join(name), in_memory);
        assert!(new("not-there").is_ok());
        std::fs::create_dir_all(dir.path().join("empty/lost+found")).unwrap();
        assert!(new("empty").is_ok());
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert!(matches!(new("file"), Err(PlaceError::NotEmpty { .. })));
        std::fs::create_dir_all(dir.path().join("full")).unwrap();
        std::fs::write(dir.path().join("full/thesis.doc"), "x").unwrap();
        assert!(matches!(new("full"), Err(PlaceError::NotEmpty { .. })));
        let no_storage = check_new(Path::new("/proc/stele"), false);
        assert!(matches!(no_storage, Err(PlaceError::FileSystem { .. })), "{no_storage:?}");
        if Path::new("/dev/shm").is_dir() {
            let in_memory = check_new(Path::new("/dev/shm/stele-test-drive"), false);
            assert!(matches!(in_memory, Err(PlaceError::FileSystem { .. })), "{in_memory:?}");
        }
    }
}
