//! Changing the drives of a set-up that runs: `stele drive add`, `drain`, `replace` and `remove`.
//!
//! Order of an addition, and what a crash between two steps leaves:
//! 1. the directory is looked at: nothing;
//! 2. `config` names it, and the identity that it will get: a start finds it empty, or not there, and leaves it alone; the same
//!    command again goes on;
//! 3. it is made and formatted: a start, or the same command, finds the identity and goes on;
//! 4. metadata takes it in, and only then anything is stored there: the same;
//! 5. where it replaces another, that one is given up or emptied: the same;
//! 6. `config` no longer says that it is pending.
//!
//! What `config` says of a pending drive is also what the operator has agreed to. Only a drive that did not answer when its
//! replacement was asked for is given up, by whoever completes that; one that answered is emptied, and where it does not answer
//! any more when that is completed, it is waited for. Were it removed, a start at which it is merely not mounted would give
//! up all that lies there.
//!
//! A removal is the other way about: metadata first, then `config`. A start leaves a removed drive alone, and takes it out.

use crate::data_dir::{Config, DataDir, DataDirError, PendingDrive, random};
use crate::drive_place::{Asking, PlaceError, check_apart, check_new, disk_at, is_in_memory, real_path};
use crate::drives::sync_parents;
use crate::index_home::{OldIndex, old_indexes};
use crate::node_drives;
use codec::id::{ClusterId, DriveId};
use metadata::index::IndexError;
use metadata::service::{DriveChangeError, DriveDetail, Metadata, NodeChangeError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage_node::drive::{DriveError, ProbedState, format, probe};

/// What waits for a drive is tried again after this time.
const AGAIN: Duration = Duration::from_secs(10);

/// Why the drives were not changed.
#[derive(Debug, thiserror::Error)]
pub enum DriveSetError {
    /// The directory.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// The directory can't be formatted.
    #[error(transparent)]
    Format(#[from] DriveError),
    /// Metadata refused, or failed.
    #[error(transparent)]
    Change(#[from] DriveChangeError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// No drive has this name.
    #[error("no drive of this set-up is called {0}: name it by its id, the beginning of it, or its directory")]
    NoSuchDrive(String),
    /// More than one drive has this name.
    #[error("{0} is the beginning of more than one drive's id")]
    Ambiguous(String),
    /// The drives are on storage nodes, and no node is named.
    #[error(
        "the drives of this set-up are on storage nodes: name the new one NODE:PATH, with an absolute path, not {0}"
    )]
    NotOnNode(PathBuf),
    /// The storage node refused, or failed.
    #[error(transparent)]
    Node(#[from] NodeChangeError),
    /// The set-up has no identity yet.
    #[error("the first start is not over")]
    NoCluster,
    /// The place of a drive that answers.
    #[error("{0} is where drive {1} is, which answers: name another directory")]
    StillThere(PathBuf, DriveId),
    /// The work was cut off.
    #[error("the service is stopping")]
    Stopping,
}

/// The drives of a set-up.
#[derive(Debug)]
pub struct DriveSet {
    data: Arc<DataDir>,
    config: tokio::sync::Mutex<Config>,
    metadata: Arc<Metadata>,
    /// No directory is asked but through this: any of them may be on a file system that does not answer.
    asking: Asking,
}

impl DriveSet {
    /// The drives of a set-up that serves.
    pub fn new(data: Arc<DataDir>, config: Config, metadata: Arc<Metadata>) -> Arc<DriveSet> {
        Arc::new(DriveSet { data, config: tokio::sync::Mutex::new(config), metadata, asking: Asking::default() })
    }

    /// All drives, removed ones included.
    pub async fn details(&self) -> Result<Vec<DriveDetail>, DriveSetError> {
        Ok(self.metadata.drive_details().await?)
    }

    /// Directories that are to become drives, and replacements that are not complete.
    pub async fn pending(&self) -> Vec<PendingDrive> {
        let mut pending = self.config.lock().await.pending.clone();
        pending.iter_mut().for_each(|pending| pending.path = self.data.drive_path(&pending.path));
        pending
    }

    /// Indexes that were put aside in the data directory.
    pub fn old_indexes(&self) -> Vec<OldIndex> {
        old_indexes(&self.data.index_path())
    }

    /// The drive of a name: its id, the beginning of it, or its directory. One that was removed only by its whole id.
    pub async fn find(&self, name: &str) -> Result<DriveDetail, DriveSetError> {
        let details = self.details().await?;
        if let Some(whole) = details.iter().find(|drive| drive.id.to_string() == name) {
            return Ok(whole.clone());
        }
        let asked = Path::new(name);
        let as_named = details.iter().any(|drive| Path::new(&drive.path) == asked);
        let real = match asked.is_absolute() && !as_named {
            true => self.asking.ask(asked, real_path).await.ok().and_then(Result::ok),
            false => None,
        };
        let same = |drive: &&DriveDetail| {
            let theirs = Path::new(&drive.path);
            theirs == asked || real.as_deref() == Some(theirs)
        };
        let begins = |drive: &&DriveDetail| name.len() >= 4 && drive.id.to_string().starts_with(name);
        let of = details.iter().filter(|drive| drive.state != "removed");
        let found: Vec<&DriveDetail> = of.filter(|drive| same(drive) || begins(drive)).collect();
        match found[..] {
            [one] => Ok(one.clone()),
            [] => Err(DriveSetError::NoSuchDrive(name.to_owned())),
            _ => Err(DriveSetError::Ambiguous(name.to_owned())),
        }
    }

    /// Makes a directory a drive and takes it into the cluster. Again after an interruption, it completes that.
    pub async fn add(&self, path: &Path) -> Result<DriveId, DriveSetError> {
        let mut config = self.config.lock().await;
        if config.on_nodes {
            drop(config);
            return node_drives::add(&self.metadata, path).await;
        }
        let (pending, new) = self.prepare(&mut config, path, None).await?;
        self.complete(&mut config, &pending, new).await
    }

    /// Puts a new drive in the place of another: that one is given up when it does not answer, and emptied otherwise.
    pub async fn replace(&self, old: &DriveDetail, path: &Path) -> Result<DriveId, DriveSetError> {
        let mut config = self.config.lock().await;
        if config.on_nodes {
            drop(config);
            return node_drives::replace(&self.metadata, old, path).await;
        }
        let begun = |pending: &PendingDrive| pending.replaces_id() == Some(old.id);
        if old.state == "removed" && !config.pending.iter().any(begun) {
            return Err(DriveChangeError::Removed(old.id).into());
        }
        if is_lost(old) {
            // Before anything is written: what can't be given up is not replaced.
            self.metadata.check_lost(old.id).await?;
        }
        let (pending, new) = self.prepare(&mut config, path, Some(old)).await?;
        let pending = self.agree(&mut config, pending, is_lost(old))?;
        self.complete(&mut config, &pending, new).await
    }

    /// Begins to empty a drive, or ends that.
    pub async fn drain(&self, drive: DriveId, cancel: bool) -> Result<(), DriveSetError> {
        match cancel {
            true => Ok(self.metadata.cancel_drain(drive).await?),
            false => Ok(self.metadata.drain_drive(drive).await?),
        }
    }

    /// Removes a drive for good.
    pub async fn remove(&self, drive: &DriveDetail, lost: bool) -> Result<(), DriveSetError> {
        let mut config = self.config.lock().await;
        self.metadata.remove_drive(drive.id, lost).await?;
        self.forget(&mut config, drive).await
    }

    /// What an interruption has left: goes on with drives that are formatted and not registered, and takes removed ones out.
    /// Ends when nothing waits any more for a drive that does not answer.
    pub async fn resume(&self) {
        while self.resume_once().await {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether something waits for a drive that does not answer.
    async fn resume_once(&self) -> bool {
        let mut config = self.config.lock().await;
        let mut waits = false;
        for pending in config.pending.clone() {
            let path = self.data.drive_path(&pending.path);
            if self.formatted(&pending).await.is_none() {
                tracing::warn!(path = %path.display(), "a drive was to be added here, and is not formatted: give the command again");
                continue;
            }
            match self.complete(&mut config, &pending, false).await {
                Ok(drive) => tracing::info!(%drive, path = %path.display(), "an interrupted addition was completed"),
                Err(DriveSetError::Change(DriveChangeError::Silent(old))) => {
                    tracing::warn!(drive = %old, path = %path.display(), "the drive that is to be replaced answered when that was \
                        asked for, and does not any more: it is waited for, or given up by the same command again");
                    waits = true;
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "an interrupted addition is not complete: give the command again");
                }
            }
        }
        self.forget_removed(&mut config).await;
        waits
    }

    async fn forget_removed(&self, config: &mut Config) {
        let removed = match self.details().await {
            Ok(details) => details.into_iter().filter(|drive| drive.state == "removed"),
            Err(error) => return tracing::warn!(%error, "removed drives are not known"),
        };
        for drive in removed {
            if let Err(error) = self.forget(config, &drive).await {
                tracing::warn!(drive = %drive.id, %error, "a removed drive is still named in config");
            }
        }
    }

    /// Steps 1 and 2: the pending entry, and whether the directory is not formatted yet.
    async fn prepare(
        &self,
        config: &mut Config,
        path: &Path,
        old: Option<&DriveDetail>,
    ) -> Result<(PendingDrive, bool), DriveSetError> {
        let path = self.asking.ask(path, real_path).await??;
        let beside = self.paths(config);
        let real = self.asking.real(&beside).await;
        let listed = config.drives.iter().zip(&real).find(|(_, real)| **real == path).map(|(entry, _)| entry.clone());
        let inside = || path.strip_prefix(self.data.root()).map_or_else(|_| path.clone(), Path::to_owned);
        let entry = listed.unwrap_or_else(inside);
        let replaces = old.map(|old| old.id.to_string());
        if let Some(pending) =
            config.pending.iter().find(|pending| pending.path == entry && pending.replaces == replaces)
        {
            let pending = pending.clone();
            if self.formatted(&pending).await.is_some() {
                return Ok((pending, false));
            }
            self.check_new(&path, &beside).await?;
            return Ok((pending, true));
        }
        let its_place = match old {
            Some(old) => self.real(Path::new(&old.path)).await == path,
            None => false,
        };
        if let Some(old) = old.filter(|old| its_place && !is_lost(old)) {
            return Err(DriveSetError::StillThere(path, old.id));
        }
        let root = self.data.root();
        let mut others: Vec<PathBuf> = real.into_iter().filter(|other| !(its_place && *other == path)).collect();
        others.extend(self.asking.real(&[self.data.index_path(), root.join("keys")]).await);
        check_apart(&path, &others)?;
        if root.starts_with(&path) {
            return Err(PlaceError::Nested { path, other: root.to_owned() }.into());
        }
        self.check_new(&path, &beside).await?;
        let drive = DriveId(random(&path)?);
        let lost = old.is_some_and(is_lost);
        let pending = PendingDrive { path: entry.clone(), drive: drive.to_string(), replaces, lost };
        let mut changed = config.clone();
        changed.changed = true;
        changed.removed.retain(|removed| *removed != entry);
        if !changed.drives.contains(&entry) {
            changed.drives.push(entry);
        }
        changed.pending.push(pending.clone());
        self.write(config, changed)?;
        Ok((pending, true))
    }

    /// Notes what the operator has agreed to by giving the command, where an earlier one said otherwise.
    fn agree(&self, config: &mut Config, pending: PendingDrive, lost: bool) -> Result<PendingDrive, DriveSetError> {
        let agreed = PendingDrive { lost, ..pending.clone() };
        if agreed != pending {
            let mut changed = config.clone();
            changed.pending.iter_mut().filter(|other| **other == pending).for_each(|other| *other = agreed.clone());
            self.write(config, changed)?;
        }
        Ok(agreed)
    }

    /// Steps 3 to 6.
    async fn complete(&self, config: &mut Config, pending: &PendingDrive, new: bool) -> Result<DriveId, DriveSetError> {
        let cluster = config.cluster_id().ok_or(DriveSetError::NoCluster)?;
        let drive = pending.drive_id().ok_or(DriveSetError::NoCluster)?;
        let path = self.data.drive_path(&pending.path);
        if new {
            self.asking.ask(&path, move |path| make(path, cluster, drive)).await??;
        }
        let probed = self.asking.ask(&path, move |path| probe(disk_at(path), Some(cluster))).await?;
        if probed.identity.is_none_or(|identity| identity.drive != drive) || probed.state != ProbedState::Ours {
            return Err(PlaceError::NotEmpty { path, state: probed.state }.into());
        }
        self.metadata.add_drive(probed).await?;
        if let Some(old) = pending.replaces_id() {
            self.part_with(config, old, pending.lost).await?;
        }
        let mut changed = config.clone();
        changed.pending.retain(|other| other != pending);
        self.write(config, changed)?;
        Ok(drive)
    }

    /// Step 5. `lost`: the operator has agreed to give it up.
    async fn part_with(&self, config: &mut Config, old: DriveId, lost: bool) -> Result<(), DriveSetError> {
        let Some(detail) = self.details().await?.into_iter().find(|drive| drive.id == old) else { return Ok(()) };
        let given_up = match (lost, detail.state) {
            (_, "removed") | (true, _) => self.metadata.remove_drive(old, true).await,
            (false, _) => Err(DriveChangeError::NotLost(old)),
        };
        match given_up {
            Ok(()) => self.forget(config, &detail).await,
            // It answers, or is not agreed to be lost: what it has is moved, and nothing is given up.
            Err(DriveChangeError::NotLost(_)) => Ok(self.metadata.drain_drive(old).await?),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the directory of a removed drive out of `config`, unless another drive is there now, or was when it last answered:
    /// at a start before its file system is mounted, nothing in the directory says whose it is.
    async fn forget(&self, config: &mut Config, drive: &DriveDetail) -> Result<(), DriveSetError> {
        let (real, its) = (self.asking.real(&self.paths(config)).await, self.real(Path::new(&drive.path)).await);
        let Some(at) = real.iter().position(|real| *real == its) else { return Ok(()) };
        let entry = &config.drives[at];
        let taken = |other: &DriveDetail| other.state != "removed" && other.path == drive.path;
        if config.pending.iter().any(|pending| pending.path == *entry) || self.details().await?.iter().any(taken) {
            return Ok(());
        }
        let probed = self.asking.ask(&self.data.drive_path(entry), |path| probe(disk_at(path), None).identity).await;
        // One that hangs is left in the list: it is no drive of the cluster, and the next start asks again.
        let Ok(identity) = probed else { return Ok(()) };
        if identity.is_some_and(|identity| identity.drive != drive.id) {
            return Ok(());
        }
        let mut changed = config.clone();
        changed.changed = true;
        let entry = changed.drives.remove(at);
        changed.removed.push(entry);
        self.write(config, changed)
    }

    /// The identity in a pending drive's directory, if it is the one that it was to get.
    async fn formatted(&self, pending: &PendingDrive) -> Option<DriveId> {
        let path = self.data.drive_path(&pending.path);
        let identity = self.asking.ask(&path, |path| probe(disk_at(path), None).identity).await.ok()??;
        Some(identity.drive).filter(|drive| pending.drive_id() == Some(*drive))
    }

    /// Whether a drive can be made there, `beside` these.
    async fn check_new(&self, path: &Path, beside: &[PathBuf]) -> Result<(), DriveSetError> {
        let checked = self.asking.ask(path, |path| check_new(path, false)).await?;
        let Err(PlaceError::FileSystem { .. }) = checked else { return Ok(checked?) };
        // In memory is good enough where others are.
        for other in beside {
            if self.asking.ask(other, is_in_memory).await.unwrap_or(false) {
                return Ok(self.asking.ask(path, |path| check_new(path, true)).await??);
            }
        }
        Ok(checked?)
    }

    /// A path without links and detours, as far as it can be followed.
    async fn real(&self, path: &Path) -> PathBuf {
        self.asking.real(&[path.to_owned()]).await.pop().unwrap_or_else(|| path.to_owned())
    }

    fn paths(&self, config: &Config) -> Vec<PathBuf> {
        config.drives.iter().map(|entry| self.data.drive_path(entry)).collect()
    }

    /// `config` is on the disk before anybody acts on it.
    fn write(&self, config: &mut Config, changed: Config) -> Result<(), DriveSetError> {
        self.data.write_config(&changed)?;
        *config = changed;
        Ok(())
    }
}

/// Whether a drive does not answer.
pub(crate) fn is_lost(drive: &DriveDetail) -> bool {
    matches!(drive.state, "absent" | "failed")
}

/// Step 3.
fn make(path: &Path, cluster: ClusterId, drive: DriveId) -> Result<(), DriveSetError> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(DataDirError::Io { path: path.to_owned(), source: error }.into());
        }
        _ => {}
    }
    sync_parents(path);
    format(&*disk_at(path), cluster, drive, None)?;
    Ok(())
}
