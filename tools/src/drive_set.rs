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
//! A removal is the other way about: metadata first, then `config`. A start leaves a removed drive alone, and takes it out.

use crate::data_dir::{Config, DataDir, DataDirError, PendingDrive, random};
use crate::drive_place::{PlaceError, check_apart, check_new, disk_at, real_path};
use crate::drives::sync_parents;
use codec::id::{ClusterId, DriveId};
use metadata::index::IndexError;
use metadata::service::{DriveChangeError, DriveDetail, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage_node::drive::{DriveError, ProbedState, format, probe};

/// How long a directory may take to say whose it is.
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

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
}

impl DriveSet {
    /// The drives of a set-up that serves.
    pub fn new(data: Arc<DataDir>, config: Config, metadata: Arc<Metadata>) -> Arc<DriveSet> {
        Arc::new(DriveSet { data, config: tokio::sync::Mutex::new(config), metadata })
    }

    /// All drives, removed ones included.
    pub async fn details(&self) -> Result<Vec<DriveDetail>, DriveSetError> {
        Ok(self.metadata.drive_details().await?)
    }

    /// Directories that are to become drives and are not registered yet.
    pub async fn pending(&self) -> Vec<PendingDrive> {
        let mut pending = self.config.lock().await.pending.clone();
        pending.iter_mut().for_each(|pending| pending.path = self.data.drive_path(&pending.path));
        pending
    }

    /// The drive of a name: its id, the beginning of it, or its directory. One that was removed only by its whole id.
    pub async fn find(&self, name: &str) -> Result<DriveDetail, DriveSetError> {
        let details = self.details().await?;
        if let Some(whole) = details.iter().find(|drive| drive.id.to_string() == name) {
            return Ok(whole.clone());
        }
        let same = |drive: &&DriveDetail| {
            let (theirs, asked) = (Path::new(&drive.path), Path::new(name));
            theirs == asked || asked.is_absolute() && real_path(asked).is_ok_and(|real| real == theirs)
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
        let (pending, new) = self.prepare(&mut config, path, None)?;
        self.complete(&mut config, &pending, new).await
    }

    /// Puts a new drive in the place of another: that one is given up when it does not answer, and emptied otherwise.
    pub async fn replace(&self, old: &DriveDetail, path: &Path) -> Result<DriveId, DriveSetError> {
        let mut config = self.config.lock().await;
        let begun = |pending: &PendingDrive| pending.replaces_id() == Some(old.id);
        if old.state == "removed" && !config.pending.iter().any(begun) {
            return Err(DriveChangeError::Removed(old.id).into());
        }
        if is_lost(old) {
            // Before anything is written: what can't be given up is not replaced.
            self.metadata.check_lost(old.id).await?;
        }
        let (pending, new) = self.prepare(&mut config, path, Some(old))?;
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
    pub async fn resume(&self) {
        let mut config = self.config.lock().await;
        for pending in config.pending.clone() {
            let path = self.data.drive_path(&pending.path);
            if self.formatted(&pending).is_none() {
                tracing::warn!(path = %path.display(), "a drive was to be added here, and is not formatted: give the command again");
                continue;
            }
            match self.complete(&mut config, &pending, false).await {
                Ok(drive) => tracing::info!(%drive, path = %path.display(), "an interrupted addition was completed"),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "an interrupted addition is not complete: give the command again");
                }
            }
        }
        let removed = match self.details().await {
            Ok(details) => details.into_iter().filter(|drive| drive.state == "removed"),
            Err(error) => return tracing::warn!(%error, "removed drives are not known"),
        };
        for drive in removed {
            if let Err(error) = self.forget(&mut config, &drive).await {
                tracing::warn!(drive = %drive.id, %error, "a removed drive is still named in config");
            }
        }
    }

    /// Steps 1 and 2: the pending entry, and whether the directory is not formatted yet.
    fn prepare(
        &self,
        config: &mut Config,
        path: &Path,
        old: Option<&DriveDetail>,
    ) -> Result<(PendingDrive, bool), DriveSetError> {
        let path = real_path(path)?;
        let listed = config.drives.iter().find(|entry| real(&self.data.drive_path(entry)) == path).cloned();
        let inside = || path.strip_prefix(self.data.root()).map_or_else(|_| path.clone(), Path::to_owned);
        let entry = listed.unwrap_or_else(inside);
        let replaces = old.map(|old| old.id.to_string());
        if let Some(pending) =
            config.pending.iter().find(|pending| pending.path == entry && pending.replaces == replaces)
        {
            let pending = pending.clone();
            if self.formatted(&pending).is_some() {
                return Ok((pending, false));
            }
            check_new(&path, &self.paths(config))?;
            return Ok((pending, true));
        }
        let its_place = old.is_some_and(|old| real(Path::new(&old.path)) == path);
        if let Some(old) = old.filter(|old| its_place && !is_lost(old)) {
            return Err(DriveSetError::StillThere(path, old.id));
        }
        let in_place = |other: &PathBuf| its_place && real(other) == path;
        let root = self.data.root();
        let beside = self.paths(config);
        let mut others: Vec<PathBuf> = beside.iter().filter(|other| !in_place(other)).cloned().collect();
        others.extend([self.data.index_path(), root.join("keys")]);
        check_apart(&path, &others)?;
        if root.starts_with(&path) {
            return Err(PlaceError::Nested { path, other: root.to_owned() }.into());
        }
        check_new(&path, &beside)?;
        let drive = DriveId(random(&path)?);
        let pending = PendingDrive { path: entry.clone(), drive: drive.to_string(), replaces };
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

    /// Steps 3 to 6.
    async fn complete(&self, config: &mut Config, pending: &PendingDrive, new: bool) -> Result<DriveId, DriveSetError> {
        let cluster = config.cluster_id().ok_or(DriveSetError::NoCluster)?;
        let drive = pending.drive_id().ok_or(DriveSetError::NoCluster)?;
        let path = self.data.drive_path(&pending.path);
        if new {
            let made = tokio::task::spawn_blocking(move || make(&path, cluster, drive)).await;
            made.map_err(|_| DriveSetError::Stopping)??;
        }
        let path = self.data.drive_path(&pending.path);
        let probed = probe(disk_at(&path), Some(cluster));
        if probed.identity.is_none_or(|identity| identity.drive != drive) || probed.state != ProbedState::Ours {
            return Err(PlaceError::NotEmpty { path, state: probed.state }.into());
        }
        self.metadata.add_drive(probed).await?;
        if let Some(old) = pending.replaces_id() {
            self.give_up(config, old).await?;
        }
        let mut changed = config.clone();
        changed.pending.retain(|other| other != pending);
        self.write(config, changed)?;
        Ok(drive)
    }

    /// Step 5.
    async fn give_up(&self, config: &mut Config, old: DriveId) -> Result<(), DriveSetError> {
        let Some(detail) = self.details().await?.into_iter().find(|drive| drive.id == old) else { return Ok(()) };
        match self.metadata.remove_drive(old, true).await {
            Ok(()) => self.forget(config, &detail).await,
            // It answers: what it has is moved, and nothing is given up.
            Err(DriveChangeError::NotLost(_)) => Ok(self.metadata.drain_drive(old).await?),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the directory of a removed drive out of `config`, unless another drive is there now, or was when it last answered:
    /// at a start before its file system is mounted, nothing in the directory says whose it is.
    async fn forget(&self, config: &mut Config, drive: &DriveDetail) -> Result<(), DriveSetError> {
        let named = |entry: &PathBuf| real(&self.data.drive_path(entry)) == real(Path::new(&drive.path));
        let Some(at) = config.drives.iter().position(named) else { return Ok(()) };
        let entry = &config.drives[at];
        let taken = |other: &DriveDetail| other.state != "removed" && other.path == drive.path;
        if config.pending.iter().any(|pending| pending.path == *entry) || self.details().await?.iter().any(taken) {
            return Ok(());
        }
        let disk = disk_at(&self.data.drive_path(entry));
        let probing = tokio::task::spawn_blocking(move || probe(disk, None).identity);
        // One that hangs is left in the list: it is no drive of the cluster, and the next start asks again.
        let Ok(Ok(identity)) = tokio::time::timeout(PROBE_DEADLINE, probing).await else { return Ok(()) };
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
    fn formatted(&self, pending: &PendingDrive) -> Option<DriveId> {
        let identity = probe(disk_at(&self.data.drive_path(&pending.path)), None).identity?;
        Some(identity.drive).filter(|drive| pending.drive_id() == Some(*drive))
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

/// A path without links and detours, as far as it can be followed.
fn real(path: &Path) -> PathBuf {
    real_path(path).unwrap_or_else(|_| path.to_owned())
}

fn is_lost(drive: &DriveDetail) -> bool {
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
