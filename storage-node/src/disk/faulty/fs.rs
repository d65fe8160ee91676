//! One drive's file system: inodes, their live state and their histories.
//!
//! Invariants: inodes are never reused, so a held file stays what it was. `used` is the space of all live contents
//! that had a name when they were last changed. A root that was deleted stays deleted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rustix::io::Errno;

use super::super::{is_inside, split};
use super::content::{Content, ContentOp, Written};
use super::history::History;

/// An inode's number on its drive.
pub(super) type Ino = usize;

/// A directory's entries.
pub(super) type Entries = BTreeMap<Arc<str>, Ino>;

/// One change of a directory: every name in it changes at the same moment (a rename changes two).
pub(super) struct DirOp(pub(super) Vec<(Arc<str>, Option<Ino>)>);

impl DirOp {
    pub(super) fn apply(&self, entries: &mut Entries) {
        for (name, ino) in &self.0 {
            match ino {
                Some(ino) => entries.insert(Arc::clone(name), *ino),
                None => entries.remove(name),
            };
        }
    }
}

/// A file or directory: what a running process sees, and how it came about.
pub(super) enum Inode {
    /// `medium`: what is on the medium, where that is not what the cache (`live`) remembers.
    File {
        live: Arc<Content>,
        history: History<Content, ContentOp>,
        medium: Option<Arc<Content>>,
    },
    Dir {
        live: Arc<Entries>,
        history: History<Entries, DirOp>,
        deleted: bool,
    },
}

impl Inode {
    pub(super) fn file(position: u64, content: Arc<Content>) -> Self {
        Inode::File { history: History::new(position, Arc::clone(&content)), live: content, medium: None }
    }

    pub(super) fn dir(position: u64, entries: Arc<Entries>) -> Self {
        Inode::Dir { history: History::new(position, Arc::clone(&entries)), live: entries, deleted: false }
    }
}

/// One drive.
pub(super) struct DriveState {
    pub(super) inodes: Vec<Inode>,
    /// Which directory the drive's path names, from which position on; `None`: nothing is there.
    pub(super) roots: Vec<(u64, Option<Ino>)>,
    pub(super) locked: Vec<Ino>,
    /// In bytes.
    pub(super) capacity: u64,
    /// In bytes.
    pub(super) used: u64,
    pub(super) filesystem_id: u64,
    /// Ranges of files that can't be read.
    pub(super) unreadable: Vec<(Ino, Range<u64>)>,
}

/// "The directory is gone"; becomes [`DiskError::Gone`](super::super::DiskError::Gone).
const GONE: Errno = Errno::NODEV;

impl DriveState {
    pub(super) fn empty(capacity: u64, filesystem_id: u64) -> Self {
        let root = Inode::dir(0, Arc::default());
        let roots = vec![(0, Some(0))];
        let (locked, unreadable) = (Vec::new(), Vec::new());
        Self { inodes: vec![root], roots, locked, capacity, used: 0, filesystem_id, unreadable }
    }

    /// The directory that the drive's path names now.
    pub(super) fn named_root(&self) -> Option<Ino> {
        self.roots.last().and_then(|(_, root)| *root)
    }

    pub(super) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }

    fn entries(&self, dir: Ino) -> Result<&Entries, Errno> {
        match &self.inodes[dir] {
            Inode::Dir { deleted: true, .. } => Err(GONE),
            Inode::Dir { live, .. } => Ok(live),
            Inode::File { .. } => Err(Errno::NOTDIR),
        }
    }

    /// The inode at a path; `""` is the root.
    pub(super) fn resolve(&self, root: Ino, rel: &str) -> Result<Ino, Errno> {
        self.entries(root)?;
        if rel.is_empty() {
            return Ok(root);
        }
        if !is_inside(rel) {
            return Err(Errno::INVAL);
        }
        rel.split('/').try_fold(root, |dir, name| self.entries(dir)?.get(name).copied().ok_or(Errno::NOENT))
    }

    /// The directory of a path, and the path's last name.
    fn parent<'a>(&self, root: Ino, rel: &'a str) -> Result<(Ino, &'a str), Errno> {
        if !is_inside(rel) {
            return Err(Errno::INVAL);
        }
        let (parent, name) = split(rel);
        let dir = self.resolve(root, parent)?;
        self.entries(dir)?;
        Ok((dir, name))
    }

    pub(super) fn list(&self, root: Ino, rel: &str) -> Result<Vec<String>, Errno> {
        Ok(self.entries(self.resolve(root, rel)?)?.keys().map(|name| name.to_string()).collect())
    }

    pub(super) fn open(&self, root: Ino, rel: &str) -> Result<Ino, Errno> {
        let ino = self.resolve(root, rel)?;
        match &self.inodes[ino] {
            Inode::File { .. } => Ok(ino),
            Inode::Dir { .. } => Err(Errno::ISDIR),
        }
    }

    pub(super) fn create(&mut self, position: u64, root: Ino, rel: &str) -> Result<Ino, Errno> {
        let (dir, name) = self.parent(root, rel)?;
        if self.entries(dir)?.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let ino = self.inodes.len();
        self.inodes.push(Inode::file(position, Arc::default()));
        self.change_dir(position, dir, vec![(name.into(), Some(ino))])?;
        Ok(ino)
    }

    /// Whether a directory was created; one that exists is fine.
    pub(super) fn create_dir(&mut self, position: u64, root: Ino, rel: &str) -> Result<bool, Errno> {
        let (dir, name) = self.parent(root, rel)?;
        if let Some(&ino) = self.entries(dir)?.get(name) {
            return self.entries(ino).map(|_| false).map_err(|_| Errno::EXIST);
        }
        let ino = self.inodes.len();
        self.inodes.push(Inode::dir(position, Arc::default()));
        self.change_dir(position, dir, vec![(name.into(), Some(ino))])?;
        Ok(true)
    }

    pub(super) fn rename(&mut self, position: u64, root: Ino, from: &str, to: &str) -> Result<(), Errno> {
        if split(from).0 != split(to).0 || !is_inside(to) {
            return Err(Errno::XDEV);
        }
        let (dir, old) = self.parent(root, from)?;
        let new = split(to).1;
        let ino = *self.entries(dir)?.get(old).ok_or(Errno::NOENT)?;
        if old == new {
            return Ok(());
        }
        if let Some(&replaced) = self.entries(dir)?.get(new) {
            self.forget_space(replaced)?;
        }
        self.change_dir(position, dir, vec![(old.into(), None), (new.into(), Some(ino))])
    }

    pub(super) fn remove(&mut self, position: u64, root: Ino, rel: &str) -> Result<(), Errno> {
        let (dir, name) = self.parent(root, rel)?;
        let ino = *self.entries(dir)?.get(name).ok_or(Errno::NOENT)?;
        self.forget_space(ino)?;
        self.change_dir(position, dir, vec![(name.into(), None)])
    }

    /// Lets go of how everything came about, and of what files without a name hold.
    pub(super) fn forget(&mut self, position: u64) {
        let mut named = vec![false; self.inodes.len()];
        let mut left: Vec<Ino> = self.named_root().into_iter().collect();
        while let Some(ino) = left.pop() {
            if !std::mem::replace(&mut named[ino], true)
                && let Inode::Dir { live, .. } = &self.inodes[ino]
            {
                left.extend(live.values());
            }
        }
        for (inode, named) in self.inodes.iter_mut().zip(named) {
            match inode {
                Inode::File { live, history, medium } => {
                    if !named {
                        (*live, *medium) = (Arc::default(), None);
                    }
                    *history = History::new(position, Arc::clone(medium.as_ref().unwrap_or(live)));
                }
                Inode::Dir { live, history, .. } => *history = History::new(position, Arc::clone(live)),
            }
        }
    }

    fn forget_space(&mut self, ino: Ino) -> Result<(), Errno> {
        self.used = self.used.saturating_sub(self.content(ino)?.space());
        Ok(())
    }

    fn change_dir(&mut self, position: u64, dir: Ino, names: Vec<(Arc<str>, Option<Ino>)>) -> Result<(), Errno> {
        let Inode::Dir { live, history, .. } = &mut self.inodes[dir] else { return Err(Errno::NOTDIR) };
        let op = DirOp(names);
        op.apply(Arc::make_mut(live));
        history.record(position, Arc::new(op), false);
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, position: u64, dir: Ino, succeeded: bool) {
        if let Inode::Dir { live, history, .. } = &mut self.inodes[dir] {
            history.sync(position, succeeded, live);
        }
    }

    pub(super) fn sync_file(&mut self, position: u64, ino: Ino, succeeded: bool) {
        if let Inode::File { live, history, medium } = &mut self.inodes[ino] {
            history.sync(position, succeeded, medium.as_ref().unwrap_or(live));
        }
    }

    pub(super) fn content(&self, ino: Ino) -> Result<&Content, Errno> {
        match &self.inodes[ino] {
            Inode::File { live, .. } => Ok(live),
            Inode::Dir { .. } => Err(Errno::ISDIR),
        }
    }

    /// What a read gives that goes past the cache.
    pub(super) fn medium(&self, ino: Ino) -> Result<&Content, Errno> {
        match &self.inodes[ino] {
            Inode::File { medium: Some(medium), .. } => Ok(medium),
            _ => self.content(ino),
        }
    }

    /// Whether a range holds a sector that can't be read.
    pub(super) fn is_unreadable(&self, ino: Ino, range: Range<u64>) -> bool {
        self.unreadable
            .iter()
            .any(|(bad, sectors)| *bad == ino && sectors.start < range.end && range.start < sectors.end)
    }

    /// Changes what the cache remembers of a file, and not the medium.
    pub(super) fn change_cache(&mut self, ino: Ino, op: &ContentOp) -> Result<(), Errno> {
        let Inode::File { live, medium, .. } = &mut self.inodes[ino] else { return Err(Errno::ISDIR) };
        medium.get_or_insert_with(|| Arc::clone(live));
        Arc::make_mut(live).apply(op);
        Ok(())
    }

    /// Changes the medium, and not what the cache remembers of it.
    pub(super) fn change_medium(&mut self, position: u64, ino: Ino, op: ContentOp, at_once: bool) -> Result<(), Errno> {
        let Inode::File { live, medium, history } = &mut self.inodes[ino] else { return Err(Errno::ISDIR) };
        Arc::make_mut(medium.get_or_insert_with(|| Arc::clone(live))).apply(&op);
        history.record(position, Arc::new(op), at_once);
        Ok(())
    }

    /// Changes a file. `at_once`: the medium's own doing, durable without a sync.
    pub(super) fn change_file(&mut self, position: u64, ino: Ino, op: ContentOp, at_once: bool) -> Result<(), Errno> {
        let Inode::File { live, history, medium } = &mut self.inodes[ino] else { return Err(Errno::ISDIR) };
        let before = live.space();
        Arc::make_mut(live).apply(&op);
        if let Some(medium) = medium {
            Arc::make_mut(medium).apply(&op);
        }
        self.used = self.used.saturating_sub(before).saturating_add(live.space());
        history.record(position, Arc::new(op), at_once);
        Ok(())
    }

    /// Writes what fits; [`Errno::NOSPC`] if that is not all of it.
    pub(super) fn write(&mut self, position: u64, ino: Ino, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(Errno::FBIG)?;
        let fits = self.content(ino)?.fitting(offset..end, self.free()) as usize;
        self.change_file(position, ino, ContentOp::Write(Written::new(offset, &bytes[..fits])), false)?;
        if fits < bytes.len() { Err(Errno::NOSPC) } else { Ok(()) }
    }

    pub(super) fn preallocate(&mut self, position: u64, ino: Ino, offset: u64, len: u64) -> Result<(), Errno> {
        let end = offset.checked_add(len).ok_or(Errno::FBIG)?;
        if len > 0 {
            // Probed on a copy, because counting a range page by page would make large preallocations slow.
            let mut after = self.content(ino)?.clone();
            let before = after.space();
            after.apply(&ContentOp::Preallocate { offset, len: end - offset });
            if after.space() - before > self.free() {
                return Err(Errno::NOSPC);
            }
        }
        self.change_file(position, ino, ContentOp::Preallocate { offset, len }, false)
    }

    /// The drive's path names nothing from now on; whoever holds the directory or a file keeps it.
    pub(super) fn delete_root(&mut self, position: u64) {
        if let Some(root) = self.named_root()
            && let Inode::Dir { deleted, .. } = &mut self.inodes[root]
        {
            *deleted = true;
        }
        self.roots.push((position, None));
    }

    /// The drive's path names another directory from now on, with these files, all durable. Whoever holds the old
    /// directory can still use it.
    pub(super) fn replace_root(&mut self, position: u64, files: &[(&str, &[u8])]) -> Result<(), Errno> {
        let root = self.inodes.len();
        self.inodes.push(Inode::dir(position, Arc::default()));
        self.roots.push((position, Some(root)));
        for (rel, bytes) in files {
            for (end, _) in rel.match_indices('/') {
                self.create_dir(position, root, &rel[..end])?;
            }
            if rel.ends_with('/') {
                continue;
            }
            let ino = self.create(position, root, rel)?;
            self.change_file(position, ino, ContentOp::Write(Written::new(0, bytes)), true)?;
        }
        for inode in &mut self.inodes[root..] {
            if let Inode::Dir { live, history, .. } = inode {
                *history = History::new(position, Arc::clone(live));
            }
        }
        Ok(())
    }

    /// Every file under the drive's path.
    pub(super) fn files(&self) -> Vec<Ino> {
        let mut files = Vec::new();
        let mut queue: Vec<Ino> = self.named_root().into_iter().collect();
        while let Some(ino) = queue.pop() {
            match &self.inodes[ino] {
                Inode::File { .. } => files.push(ino),
                Inode::Dir { live, .. } => queue.extend(live.values()),
            }
        }
        files
    }
}
