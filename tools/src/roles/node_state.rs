//! A storage node's state directory: its lock, its index, and which drive was last seen at which path.
//!
//! Invariants:
//! * One process at a time has it, by its lock.
//! * A path at which a drive was seen is remembered before the drive is used. An empty directory there is a mount that is
//!   missing, and is never formatted (R18); to give the place to another drive is for an operator, by [`NodeState::forget`].
//! * A place is remembered under its name without detours and under its real path, and found by either: a directory that is
//!   named in another way while its drive is away must not count as one where no drive was. Nothing here asks the file system:
//!   the directory of a drive may hang.
//! * All of it can be lost: the index is rebuilt from the drives, and drives say who they are.

use crate::data_dir::{DataDirError, write_durably};
use codec::id::DriveId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a lock that a killed process has left is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Bytes kept back per file system (R14), settled when the first drives were formatted.
    reserve: u64,
    /// The drive last seen at each path, in hex.
    #[serde(default)]
    drives: BTreeMap<String, String>,
}

/// Where a drive is or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    named: String,
    real: Option<String>,
}

impl Place {
    /// The directory as it is named, and its real path if that could be had.
    pub fn new(named: &Path, real: Option<&Path>) -> Place {
        Place { named: without_detours(named), real: real.map(without_detours) }
    }

    /// Whether a path that is remembered, perhaps as it was named, is this one.
    fn is(&self, remembered: &str) -> bool {
        let remembered = without_detours(Path::new(remembered));
        remembered == self.named || Some(remembered) == self.real
    }
}

/// The path without `.`, `..` and slashes that say nothing, by its letters alone.
fn without_detours(path: &Path) -> String {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out.to_string_lossy().into_owned()
}

/// A locked state directory.
#[derive(Debug)]
pub struct NodeState {
    root: PathBuf,
    record: Record,
    _lock: File,
}

impl NodeState {
    /// Locks the directory, making it if it is not there.
    pub fn open(root: &Path) -> Result<NodeState, DataDirError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        std::fs::create_dir_all(root).map_err(failed(root))?;
        let path = root.join("lock");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = opened.map_err(failed(&path))?;
        let patience = Instant::now() + PATIENCE;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(DataDirError::InUse(root.to_owned())),
                Err(errno) => return Err(DataDirError::Io { path, source: errno.into() }),
            }
        }
        let record = read(&root.join("drives"))?;
        Ok(NodeState { root: root.to_owned(), record, _lock: lock })
    }

    /// Where the node's index is.
    pub fn index_path(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Bytes kept back per file system (R14).
    pub fn reserve(&self) -> u64 {
        self.record.reserve
    }

    /// The drive that was last seen at a place. What its real path says counts before its name: a link may lead elsewhere now.
    pub fn known(&self, place: &Place) -> Option<DriveId> {
        let drives = &self.record.drives;
        let real = place.real.as_ref().and_then(|real| drives.get(real));
        let drive = real.or_else(|| drives.iter().find(|(path, _)| place.is(path)).map(|(_, drive)| drive))?;
        DriveId::from_slice(&hex::decode(drive).ok()?)
    }

    /// Whether no drive was ever seen.
    pub fn is_new(&self) -> bool {
        self.record.drives.is_empty()
    }

    /// Remembers which drive is at a place. Durable when `Ok`.
    pub fn remember(&mut self, place: &Place, drive: DriveId) -> Result<(), DataDirError> {
        let mut record = self.record.clone();
        record.drives.retain(|path, _| !place.is(path));
        record.drives.extend(
            [Some(&place.named), place.real.as_ref()]
                .into_iter()
                .flatten()
                .map(|path| (path.clone(), drive.to_string())),
        );
        self.write(record)
    }

    /// Gives a place up: its drive will not be seen there again.
    pub fn forget(&mut self, place: &Place) -> Result<Option<DriveId>, DataDirError> {
        let known = self.known(place);
        let mut record = self.record.clone();
        record.drives.retain(|path, _| !place.is(path));
        self.write(record).map(|()| known)
    }

    /// Settles how much is kept back per file system.
    pub fn set_reserve(&mut self, reserve: u64) -> Result<(), DataDirError> {
        self.write(Record { reserve, ..self.record.clone() })
    }

    fn write(&mut self, record: Record) -> Result<(), DataDirError> {
        if record != self.record {
            let path = self.root.join("drives");
            let text = toml::to_string(&record)
                .map_err(|error| DataDirError::Config { path: path.clone(), reason: error.to_string() })?;
            write_durably(&path, text.as_bytes(), 0o644)?;
            self.record = record;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Record, DataDirError> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|error| DataDirError::Config { path: path.to_owned(), reason: error.message().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
        Err(source) => Err(DataDirError::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_drive_was_where_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        let (path, drive) = (&Place::new(Path::new("/mnt/a"), None), DriveId([7; 16]));
        {
            let mut state = NodeState::open(&root).unwrap();
            assert!(state.is_new());
            state.set_reserve(99).unwrap();
            state.remember(path, drive).unwrap();
            assert!(matches!(NodeState::open(&root), Err(DataDirError::InUse(_))));
        }
        let mut state = NodeState::open(&root).unwrap();
        assert_eq!(
            (state.known(path), state.known(&Place::new(Path::new("/mnt/b"), None)), state.reserve()),
            (Some(drive), None, 99)
        );
        assert_eq!(state.forget(path).unwrap(), Some(drive));
        drop(state);
        assert_eq!(NodeState::open(&root).unwrap().known(path), None);
    }

    /// A slash more in the configuration, or a link, made a mount that was missing a directory to be formatted.
    #[test]
    fn a_place_is_known_by_other_names_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = NodeState::open(dir.path()).unwrap();
        let place = |named: &str, real: Option<&str>| Place::new(Path::new(named), real.map(Path::new));
        let (a, b) = (DriveId([1; 16]), DriveId([2; 16]));
        state.remember(&place("/srv/a/", Some("/mnt/a")), a).unwrap();
        for other in ["/srv/a", "/srv/./a", "/srv//a/", "/srv/x/../a", "/mnt/a", "/mnt/a/"] {
            assert_eq!(state.known(&place(other, None)), Some(a), "{other}");
        }
        assert_eq!(state.known(&place("/other/link", Some("/mnt/a"))), Some(a));
        assert_eq!(state.known(&place("/mnt/ab", Some("/mnt/ab"))), None);
        // As it was written by versions that compared letters.
        let mut record = state.record.clone();
        record.drives.insert("/mnt/old/".to_owned(), b.to_string());
        state.write(record).unwrap();
        assert_eq!(state.known(&place("/mnt/old", Some("/mnt/old"))), Some(b));
        assert_eq!(state.forget(&place("/link", Some("/mnt/a"))).unwrap(), Some(a));
        assert_eq!(state.known(&place("/mnt/a", None)), None);
    }
}
