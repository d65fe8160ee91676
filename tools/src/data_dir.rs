//! The data directory of a single-machine set-up.
//!
//! ```text
//! config        TOML: where the drives are, and whose
//! lock          held while a server or an offline command runs
//! credentials   TOML, mode 0600: the first account
//! admin-token   mode 0600: what commands show to the admin port
//! admin-address where the running server's admin port is
//! accept-loss   there when an operator has accepted a loss: the next start does
//! keys/kek      mode 0600: the key-encryption key; keys/kek2 is the second one
//! drives/0..    drives made by `--drives N`
//! index/        disposable: metadata's index and the node's
//! raft/         of a metadata node among several: its log, its vote, its index
//! ```
//!
//! Invariants:
//! * `config` is written before the first drive is formatted and names the cluster only once there is one. From then on no
//!   empty directory is formatted (R18): metadata's start sees to that, and is told the cluster.
//! * A file is replaced whole and durably: written aside, synced, renamed, its directory synced.

use codec::id::{ClusterId, DriveId};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// The newest layout of `config` that this code writes.
const CONFIG_VERSION: u32 = 1;

/// How long another process may take to let go of the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// What can't be done with a data directory.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// There is no set-up there.
    #[error("{0} is not a data directory of Stele: it has no config file")]
    NotSetUp(PathBuf),
    /// It holds other things.
    #[error("{0} is not empty and has no config file: not touched")]
    NotEmpty(PathBuf),
    /// Another process works on it.
    #[error("{0} is in use by another stele process")]
    InUse(PathBuf),
    /// `config` can't be understood.
    #[error("{path}: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A secret that others may read.
    #[error("{path} has mode {mode:o}: nobody but its owner may read it (chmod 600)")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused something.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The file `config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    version: u32,
    /// The cluster's identity, in hex; absent until the first start has made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The geometry asked for at first start, for a start that was interrupted before it was fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<String>,
    /// Bytes kept back per file system (R14), settled at first start: later the space may be somebody else's.
    #[serde(default)]
    pub reserve: u64,
    /// The drives' directories; relative to the data directory unless absolute. None where storage nodes serve the drives.
    #[serde(default)]
    pub drives: Vec<PathBuf>,
    /// The drives are served by storage nodes, in processes of their own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_nodes: bool,
    /// The number of this metadata node, in hex; absent where the process is all of metadata, or waits to be added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Drives were added or removed since the first start: what its command line said of them is history.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changed: bool,
    /// Directories of drives that were removed: a command line may still name them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<PathBuf>,
    /// Drives that an operator has asked to add and that are not registered yet, as far as anybody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingDrive>,
}

/// A drive on its way into the set-up: written before its directory is touched, and taken out when it is registered, so that
/// whatever happens in between, the next start or the same command again completes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingDrive {
    /// Its entry among the drives.
    pub path: PathBuf,
    /// The identity that it gets, in hex.
    pub drive: String,
    /// The drive that it takes the place of, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// That drive did not answer when the operator asked for this, and is given up. Otherwise it is emptied and never given up,
    /// whatever becomes of it meanwhile: a later start may merely find it unmounted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

impl PendingDrive {
    /// The identity that it gets.
    pub fn drive_id(&self) -> Option<DriveId> {
        DriveId::from_slice(&hex::decode(&self.drive).ok()?)
    }

    /// The drive that it takes the place of.
    pub fn replaces_id(&self) -> Option<DriveId> {
        DriveId::from_slice(&hex::decode(self.replaces.as_ref()?).ok()?)
    }
}

impl Config {
    /// A set-up that begins.
    pub fn new(geometry: Option<String>, drives: Vec<PathBuf>) -> Config {
        Config {
            version: CONFIG_VERSION,
            cluster: None,
            geometry,
            reserve: 0,
            drives,
            on_nodes: false,
            member: None,
            changed: false,
            removed: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// The cluster's identity; `None` until there is one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        ClusterId::from_slice(&hex::decode(self.cluster.as_ref()?).ok()?)
    }

    /// The number of this metadata node.
    pub fn member_id(&self) -> Option<u64> {
        u64::from_str_radix(self.member.as_ref()?, 16).ok().filter(|number| *number != 0)
    }

    fn check(&self) -> Result<(), String> {
        if self.version != CONFIG_VERSION {
            return Err(format!("version {} is unknown to this stele (it knows {CONFIG_VERSION})", self.version));
        }
        if self.cluster.is_some() && self.cluster_id().is_none() {
            return Err("cluster is not 32 hex digits".to_owned());
        }
        if self.member.is_some() && self.member_id().is_none() {
            return Err("member is not a number in hex".to_owned());
        }
        if self.drives.is_empty() != self.on_nodes {
            let reason = if self.on_nodes { "drives are named, and they are on nodes" } else { "there are no drives" };
            return Err(reason.to_owned());
        }
        if self.pending.iter().any(|p| p.drive_id().is_none() || p.replaces.is_some() != p.replaces_id().is_some()) {
            return Err("a pending drive is not named by 32 hex digits".to_owned());
        }
        Ok(())
    }
}

/// A locked data directory.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Locks the directory, making it first if `create`; without `create` it must be set up.
    pub fn open(root: &Path, create: bool) -> Result<DataDir, DataDirError> {
        let failed = |source| DataDirError::Io { path: root.to_owned(), source };
        if create {
            std::fs::create_dir_all(root).map_err(failed)?;
        }
        let root = root.canonicalize().map_err(failed)?;
        let set_up = root.join("config").exists();
        if !set_up && !create {
            return Err(DataDirError::NotSetUp(root));
        }
        if !set_up && !holds_nothing(&root).map_err(failed)? {
            return Err(DataDirError::NotEmpty(root));
        }
        let path = root.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| DataDirError::Io { path: path.clone(), source })?;
        // A server that was killed holds its lock until the kernel has taken it apart: whoever starts the next one at once
        // should not have to try again by hand.
        let patience = Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(DataDir { root, _lock: lock }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(DataDirError::InUse(root)),
                Err(errno) => return Err(DataDirError::Io { path, source: errno.into() }),
            }
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `config`; `None` before the first start.
    pub fn config(&self) -> Result<Option<Config>, DataDirError> {
        let path = self.root.join("config");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DataDirError::Io { path, source }),
        };
        let config: Config = toml::from_str(&text)
            .map_err(|error| DataDirError::Config { path: path.clone(), reason: error.message().to_owned() })?;
        config.check().map_err(|reason| DataDirError::Config { path, reason })?;
        Ok(Some(config))
    }

    /// Replaces `config`.
    pub fn write_config(&self, config: &Config) -> Result<(), DataDirError> {
        let path = self.root.join("config");
        let text = toml::to_string(config)
            .map_err(|error| DataDirError::Config { path: path.clone(), reason: error.to_string() })?;
        write_durably(&path, text.as_bytes(), 0o644)
    }

    /// A drive's directory.
    pub fn drive_path(&self, entry: &Path) -> PathBuf {
        self.root.join(entry)
    }

    /// The file of the key-encryption key.
    pub fn key_path(&self) -> PathBuf {
        self.root.join("keys").join("kek")
    }

    /// Where the indexes are.
    pub fn index_path(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Where the audit log is.
    pub fn audit_path(&self) -> PathBuf {
        self.root.join("audit")
    }

    /// Where a metadata node among several keeps its log and its index.
    pub fn raft_path(&self) -> PathBuf {
        self.root.join("raft")
    }

    /// The mark of an accepted loss.
    pub fn accept_loss_path(&self) -> PathBuf {
        self.root.join("accept-loss")
    }

    /// The file of the first account's credentials.
    pub fn credentials_path(&self) -> PathBuf {
        self.root.join("credentials")
    }

    /// The admin token, made on first use.
    pub fn admin_token(&self) -> Result<Zeroizing<String>, DataDirError> {
        let path = token_path(&self.root);
        match read_private(&path) {
            Ok(token) => Ok(Zeroizing::new(token.trim().to_owned())),
            Err(DataDirError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let token = Zeroizing::new(hex::encode(random::<32>(&path)?));
                write_durably(&path, format!("{}\n", token.as_str()).as_bytes(), 0o600)?;
                Ok(token)
            }
            Err(error) => Err(error),
        }
    }

    /// Tells commands where the admin port of this start is.
    pub fn write_admin_address(&self, address: std::net::SocketAddr) -> Result<(), DataDirError> {
        write_durably(&self.root.join("admin-address"), format!("{address}\n").as_bytes(), 0o644)
    }
}

/// The admin token of a data directory that a server may have locked.
pub fn token_path(root: &Path) -> PathBuf {
    root.join("admin-token")
}

/// The admin address of the server that was started last on a data directory.
pub fn admin_address(root: &Path) -> Result<String, DataDirError> {
    let path = root.join("admin-address");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(DataDirError::NotSetUp(root.to_owned())),
        Err(source) => Err(DataDirError::Io { path, source }),
    }
}

/// Only what an interrupted first start or a file system leaves, or an operator has put back: nothing of anybody else's.
fn holds_nothing(root: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(root)? {
        let name = entry?.file_name();
        let ours = ["lock", "lost+found", ".config.new", "keys", "credentials"];
        if !ours.iter().any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Random bytes from the system.
pub fn random<const N: usize>(for_path: &Path) -> Result<[u8; N], DataDirError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| DataDirError::Io { path: for_path.to_owned(), source: io::Error::other(error.to_string()) })?;
    Ok(bytes)
}

/// Reads a secret that nobody but its owner may read.
pub fn read_private(path: &Path) -> Result<String, DataDirError> {
    let failed = |source| DataDirError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(DataDirError::TooOpen { path: path.to_owned(), mode });
    }
    io::read_to_string(file).map_err(failed)
}

/// Replaces a file whole and durably.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::Io { path: path.to_owned(), source };
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = directory.join(format!(".{name}.new"));
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&aside, path).map_err(failed)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_comes_back_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data"), true).unwrap();
        assert!(data.config().unwrap().is_none());
        let mut config = Config::new(Some("4+2".into()), vec!["drives/0".into(), "/mnt/1".into()]);
        data.write_config(&config).unwrap();
        assert_eq!(data.config().unwrap().as_ref(), Some(&config));
        config.cluster = Some(ClusterId([1; 16]).to_string());
        data.write_config(&config).unwrap();
        assert_eq!(data.config().unwrap().as_ref(), Some(&config));
        config.changed = true;
        config.removed.push("/mnt/2".into());
        let pending =
            |drive: &str| PendingDrive { path: "/mnt/1".into(), drive: drive.to_owned(), replaces: None, lost: false };
        config.pending.push(pending(&DriveId([3; 16]).to_string()));
        data.write_config(&config).unwrap();
        assert_eq!(data.config().unwrap().as_ref(), Some(&config));
        // Written before it was noted whether a drive was lost: it was not.
        config.pending[0].replaces = Some(DriveId([4; 16]).to_string());
        data.write_config(&config).unwrap();
        assert!(!std::fs::read_to_string(data.root().join("config")).unwrap().contains("lost"));
        assert_eq!(data.config().unwrap().as_ref(), Some(&config));
        config.pending[0].lost = true;
        data.write_config(&config).unwrap();
        assert_eq!(data.config().unwrap().as_ref(), Some(&config));
        config.pending.push(pending("3"));
        data.write_config(&config).unwrap();
        assert!(matches!(data.config(), Err(DataDirError::Config { .. })));
        assert_eq!(data.drive_path(Path::new("/mnt/1")), Path::new("/mnt/1"));
        for text in ["", "version = 9\ndrives = [\"a\"]", "version = 1\ndrives = []", "nonsense = ["] {
            std::fs::write(data.root().join("config"), text).unwrap();
            assert!(matches!(data.config(), Err(DataDirError::Config { .. })), "{text}");
        }
    }

    #[test]
    fn a_directory_with_other_things_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.doc"), "x").unwrap();
        assert!(matches!(DataDir::open(dir.path(), true), Err(DataDirError::NotEmpty(_))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let absent = dir.path().join("absent");
        assert!(DataDir::open(&absent, false).is_err());
        // Keys that an operator has put back are ours.
        std::fs::create_dir_all(absent.join("keys")).unwrap();
        assert!(DataDir::open(&absent, true).is_ok());
    }

    #[test]
    fn only_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let first = DataDir::open(&root, true).unwrap();
        assert!(matches!(DataDir::open(&root, true), Err(DataDirError::InUse(_))));
        drop(first);
        assert!(DataDir::open(&root, true).is_ok());
    }

    #[test]
    fn secrets_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data"), true).unwrap();
        let token = data.admin_token().unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(data.admin_token().unwrap(), token);
        let path = token_path(data.root());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(data.admin_token(), Err(DataDirError::TooOpen { .. })));
    }
}
