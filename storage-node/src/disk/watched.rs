//! A disk whose every operation is noted while it lasts, so that one that never returns is seen.

use super::{Access, Capabilities, Disk, DiskError, DiskFile, LockGuard, Space};
use crate::keep::Medium;
use crate::sabotage::SabotageSet;
use crate::unanswered::Unanswered;
use std::sync::Arc;

/// A disk, and what it was asked and has not answered.
#[derive(Debug)]
pub(crate) struct WatchedDisk {
    disk: Arc<dyn Disk>,
    unanswered: Arc<Unanswered>,
}

impl WatchedDisk {
    /// The same disk, watched.
    pub fn over(disk: Arc<dyn Disk>, unanswered: Arc<Unanswered>) -> Arc<dyn Disk> {
        Arc::new(WatchedDisk { disk, unanswered })
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(WatchedFile { file, unanswered: Arc::clone(&self.unanswered) })
    }
}

impl Disk for WatchedDisk {
    fn path_hint(&self) -> String {
        self.disk.path_hint()
    }

    /// Not watched: what is looked at anew is no part of what hangs.
    fn again(&self) -> Arc<dyn Disk> {
        self.disk.again()
    }

    fn sabotage(&self) -> &SabotageSet {
        self.disk.sabotage()
    }

    fn lock(&self) -> Result<LockGuard, DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.lock()
    }

    fn exists(&self) -> Result<bool, DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.exists()
    }

    fn is_empty(&self) -> Result<bool, DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.is_empty()
    }

    fn create_dir(&self, rel: &str) -> Result<(), DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.create_dir(rel)
    }

    fn list(&self, rel: &str) -> Result<Vec<String>, DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.list(rel)
    }

    fn create(&self, rel: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.create(rel).map(|file| self.file(file))
    }

    fn open(&self, rel: &str, access: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.open(rel, access).map(|file| self.file(file))
    }

    fn open_medium(&self, rel: &str) -> Result<(Arc<dyn DiskFile>, Medium), DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.open_medium(rel).map(|(file, medium)| (self.file(file), medium))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.rename(from, to)
    }

    fn remove(&self, rel: &str) -> Result<(), DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.remove(rel)
    }

    fn sync_dir(&self, rel: &str) -> Result<(), DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.sync_dir(rel)
    }

    fn space(&self) -> Result<Space, DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.space()
    }

    fn same_directory(&self) -> Result<bool, DiskError> {
        let _asked = self.unanswered.ask();
        self.disk.same_directory()
    }

    fn capabilities(&self) -> Capabilities {
        let _asked = self.unanswered.ask();
        self.disk.capabilities()
    }
}

/// An open file of a [`WatchedDisk`].
#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn DiskFile>,
    unanswered: Arc<Unanswered>,
}

impl DiskFile for WatchedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        let _asked = self.unanswered.ask();
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let _asked = self.unanswered.ask();
        self.file.read_at(buf, offset)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        let _asked = self.unanswered.ask();
        self.file.sync_data()
    }

    fn len(&self) -> Result<u64, DiskError> {
        let _asked = self.unanswered.ask();
        self.file.len()
    }

    fn preallocate(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let _asked = self.unanswered.ask();
        self.file.preallocate(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let _asked = self.unanswered.ask();
        self.file.punch(offset, len)
    }

    fn truncate(&self, len: u64) -> Result<(), DiskError> {
        let _asked = self.unanswered.ask();
        self.file.truncate(len)
    }

    fn still_named(&self) -> Result<bool, DiskError> {
        let _asked = self.unanswered.ask();
        self.file.still_named()
    }
}
