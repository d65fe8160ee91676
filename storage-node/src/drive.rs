//! What makes a directory a drive: its identity, its lock, its register, and whether it can be used.
//!
//! Invariants:
//! * A drive is known by the id in its identity file, never by its path (R18). The file is written once, when the drive
//!   is formatted, last of all: a directory with a good identity file is completely formatted.
//! * Only an empty directory is ever formatted, and an empty directory where a known drive is expected is not: it is
//!   most likely a mount that is missing, and what is written into it would hide the real drive.
//! * Health only gets worse while a drive is open: Healthy, then ReadOnly, then Failed. Opening it again looks again.

use crate::client::DriveHealth;
use crate::disk::{Disk, DiskError, DiskFile, IGNORED_NAMES};
use crate::kv::KvError;
use crate::leader::Leader;
use crate::sabotage::Sabotage;
use crate::segment::class_dir;
use bytes::Bytes;
use codec::id::{ClusterId, DriveId, Epoch};
use codec::segment::SegmentClass;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The file that says which drive this is.
pub const IDENTITY_FILE: &str = "identity";
/// The file that holds the ensemble register.
pub const REGISTER_FILE: &str = "register";
/// The version of identity files that this code writes.
pub const IDENTITY_VERSION: u32 = 1;
/// The longest ensemble register, in bytes.
pub const MAX_REGISTER: usize = 1 << 20;

const IDENTITY_FIRST_LINE: &str = "stele drive";
const REGISTER_MAGIC: &[u8; 8] = b"STELEREG";

/// Why a drive can't be probed, formatted, opened or begun.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DriveError {
    /// The drive refused an operation.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The node's index refused an operation; it can be destroyed and is then rebuilt from the drives.
    #[error(transparent)]
    Index(#[from] KvError),
    /// There is something in the directory already; it is never overwritten.
    #[error("{path} is not empty and is not formatted by Stele's leave")]
    NotEmpty {
        /// The directory.
        path: String,
    },
    /// An empty directory where a known drive should be (R18).
    #[error("{path} is empty, but drive {drive} is expected there: is it mounted?")]
    KnownDriveEmpty {
        /// The directory.
        path: String,
        /// The drive that was last seen there.
        drive: DriveId,
    },
    /// The drive can't be used as it is: see its state.
    #[error("{path}: {state}")]
    NotOurs {
        /// The directory.
        path: String,
        /// What it is instead.
        state: ProbedState,
    },
    /// Two directories carry the same identity: a copy of a drive.
    #[error("{path} carries the identity of drive {drive}, which is open already: a copy?")]
    Twice {
        /// The second directory.
        path: String,
        /// The identity.
        drive: DriveId,
    },
    /// The node has no such drive.
    #[error("no drive {drive} here")]
    Unknown {
        /// The drive.
        drive: DriveId,
    },
    /// The drive's node is another process, and did not answer, or refused.
    #[error("the node of the drive does not answer")]
    Unreachable,
    /// A storage node follows a metadata process with a higher epoch, or one that came to nothing after it had told the node. A
    /// start that begins now takes a higher epoch.
    #[error(
        "storage node {node} does not begin in epoch {epoch}: {reason}; unless another metadata process runs, start again"
    )]
    NotBegun {
        /// Its name.
        node: String,
        /// The epoch that it was told.
        epoch: Epoch,
        /// In the node's words.
        reason: String,
    },
    /// The drive follows a metadata process with a higher epoch.
    #[error("drive {drive} does not begin in epoch {epoch}: it follows {leader}")]
    Superseded {
        /// The drive.
        drive: DriveId,
        /// The epoch that it was told.
        epoch: Epoch,
        /// Whom it follows.
        leader: Leader,
    },
    /// The drive's node is another process: its own configuration says which directories are its drives.
    #[error("{path} is not added from here: it is for the configuration of a storage node to name it")]
    Elsewhere {
        /// The directory.
        path: String,
    },
    /// The node whose configuration would have to name the directory does not take it.
    #[error("{path} is not made a drive: {reason}")]
    NotTaken {
        /// The directory.
        path: String,
        /// In the node's words.
        reason: String,
    },
    /// The drive does not answer, or failed in another way while it was begun. It is not asked again before it has answered.
    #[error("drive {drive} failed: {reason}")]
    Failed {
        /// The drive.
        drive: DriveId,
        /// What is known.
        reason: String,
    },
    /// A drive's thread ended or could not be started.
    #[error("the thread of drive {drive} is not running")]
    Thread {
        /// The drive.
        drive: DriveId,
    },
}

/// Who a drive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The drive.
    pub drive: DriveId,
}

impl Identity {
    /// The identity file: text, so that a person with a drive in hand can read it.
    pub fn encode(&self) -> Vec<u8> {
        let body = format!(
            "{IDENTITY_FIRST_LINE}\nversion {IDENTITY_VERSION}\ncluster {}\ndrive {}\n",
            self.cluster, self.drive
        );
        let check = blake3::hash(body.as_bytes()).to_hex();
        format!("{body}check {check}\n").into_bytes()
    }

    /// Reads an identity file. Only the exact text that [`Self::encode`] writes is accepted.
    pub fn parse(bytes: &[u8]) -> Option<Identity> {
        let text = std::str::from_utf8(bytes).ok()?;
        let line = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        let id = |name| hex::decode(line(name)?).ok();
        let identity =
            Identity { cluster: ClusterId::from_slice(&id("cluster")?)?, drive: DriveId::from_slice(&id("drive")?)? };
        (identity.encode() == bytes).then_some(identity)
    }
}

/// What a directory turned out to be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProbedState {
    /// Nothing in it (a format that was interrupted counts as nothing).
    #[error("the directory is empty")]
    Empty,
    /// A drive of this cluster, or of any when none was given.
    #[error("a drive of this cluster")]
    Ours,
    /// A drive of another cluster: refused by name (R18).
    #[error("a drive of another cluster, {cluster}")]
    Foreign {
        /// The other cluster.
        cluster: ClusterId,
    },
    /// No directory there.
    #[error("there is no such directory")]
    Missing,
    /// The system did not let this process look, so nobody knows what is there.
    #[error("not looked at: {0}")]
    Refused(DiskError),
    /// Something is there, but it is no drive that can be used.
    #[error("not usable: {reason}")]
    Damaged {
        /// Why.
        reason: String,
    },
}

/// A directory that was looked at. Nothing was written to it.
#[derive(Clone, Debug)]
pub struct ProbedDrive {
    /// The directory.
    pub disk: Arc<dyn Disk>,
    /// What it is.
    pub state: ProbedState,
    /// Who it is, if it says so.
    pub identity: Option<Identity>,
    /// The ensemble register; empty if there is none, and also if it is damaged.
    pub register: Bytes,
    /// There is a register, and it can't be read: what it said is unknown, not absent.
    pub register_damaged: bool,
}

/// Looks at a directory without writing. `cluster`: the cluster that its drive must belong to.
pub fn probe(disk: Arc<dyn Disk>, cluster: Option<ClusterId>) -> ProbedDrive {
    let (state, identity) = probe_identity(&*disk, cluster);
    let register = match state {
        ProbedState::Ours => read_register(&*disk),
        _ => Ok(Bytes::new()),
    };
    let state = match &register {
        Err(error) if error.is_refusal() => ProbedState::Refused(error.clone()),
        _ => state,
    };
    let register_damaged = register.is_err();
    ProbedDrive { disk, state, identity, register: register.unwrap_or_default(), register_damaged }
}

fn probe_identity(disk: &dyn Disk, cluster: Option<ClusterId>) -> (ProbedState, Option<Identity>) {
    match disk.exists() {
        Ok(true) => {}
        Ok(false) | Err(DiskError::Gone { .. } | DiskError::NotFound { .. }) => return (ProbedState::Missing, None),
        Err(error) => return (unreadable(error), None),
    }
    match disk.read_small(IDENTITY_FILE) {
        Ok(bytes) => match Identity::parse(&bytes) {
            None => match newer_identity(&bytes) {
                Some(version) => {
                    let path = format!("{}/{IDENTITY_FILE}", disk.path_hint());
                    (ProbedState::Refused(DiskError::Newer { path, what: "drive identity", version }), None)
                }
                None => (ProbedState::Damaged { reason: "its identity file does not verify".to_owned() }, None),
            },
            Some(identity) if cluster.is_some_and(|c| c != identity.cluster) => {
                (ProbedState::Foreign { cluster: identity.cluster }, Some(identity))
            }
            Some(identity) => (ProbedState::Ours, Some(identity)),
        },
        Err(DiskError::NotFound { .. }) => match formattable(disk) {
            Ok(true) => (ProbedState::Empty, None),
            Ok(false) => (ProbedState::Damaged { reason: "it holds files but no identity".to_owned() }, None),
            Err(error) => (unreadable(error), None),
        },
        Err(error) => (unreadable(error), None),
    }
}

/// The version of an identity file that a newer Stele wrote: its last line is the check of those before it.
fn newer_identity(bytes: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let (body, check) = text.rsplit_once('\n')?;
    let sums = check.strip_prefix("check ")? == blake3::hash(format!("{body}\n").as_bytes()).to_hex().as_str();
    let mut lines = body.lines();
    let version: u16 = lines
        .next()
        .filter(|first| *first == IDENTITY_FIRST_LINE && sums)
        .and(lines.next())?
        .strip_prefix("version ")?
        .parse()
        .ok()?;
    (u32::from(version) != IDENTITY_VERSION).then_some(version)
}

fn unreadable(error: DiskError) -> ProbedState {
    if error.is_refusal() { ProbedState::Refused(error) } else { ProbedState::Damaged { reason: error.to_string() } }
}

/// Nothing in it but what a format that was interrupted may have left: empty directories and an unfinished identity.
fn formattable(disk: &dyn Disk) -> Result<bool, DiskError> {
    let unfinished = format!(".{IDENTITY_FILE}.new");
    for name in disk.list("")? {
        let empty_dir =
            || Ok::<bool, DiskError>(is_class_dir(&name) && disk.list(&name).is_ok_and(|names| names.is_empty()));
        if !IGNORED_NAMES.contains(&name.as_str()) && name != unfinished && !empty_dir()? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_class_dir(name: &str) -> bool {
    [SegmentClass::Data, SegmentClass::Journal].into_iter().any(|class| class_dir(class) == name)
}

/// Makes an empty directory a drive. `expected`: the drive that the caller's records have at this path; an empty
/// directory is then refused (R18). Durable when `Ok`.
pub fn format(
    disk: &dyn Disk,
    cluster: ClusterId,
    drive: DriveId,
    expected: Option<DriveId>,
) -> Result<Identity, DriveError> {
    if let Some(drive) = expected.filter(|_| !disk.sabotage().is(Sabotage::FormatKnown)) {
        return Err(DriveError::KnownDriveEmpty { path: disk.path_hint(), drive });
    }
    let _lock = disk.lock()?;
    if !formattable(disk)? {
        return Err(DriveError::NotEmpty { path: disk.path_hint() });
    }
    for class in [SegmentClass::Data, SegmentClass::Journal] {
        disk.create_dir(class_dir(class))?;
    }
    disk.sync_dir("")?;
    let identity = Identity { cluster, drive };
    disk.write_durably(IDENTITY_FILE, &identity.encode())?;
    Ok(identity)
}

/// Reads the ensemble register: empty if it was never written. One that does not verify is an error of the medium.
pub fn read_register(disk: &dyn Disk) -> Result<Bytes, DiskError> {
    let bytes = match disk.read_small(REGISTER_FILE) {
        Ok(bytes) => bytes,
        Err(DiskError::NotFound { .. }) => return Ok(Bytes::new()),
        Err(error) => return Err(error),
    };
    let damaged = || DiskError::Io {
        op: crate::disk::DiskOp::Read,
        path: format!("{}/{REGISTER_FILE}", disk.path_hint()),
        errno: rustix::io::Errno::BADMSG,
    };
    let (body, check) = bytes.split_at_checked(bytes.len().saturating_sub(32)).ok_or_else(damaged)?;
    if blake3::hash(body).as_bytes() != check {
        return Err(damaged());
    }
    body.strip_prefix(REGISTER_MAGIC).map(Bytes::copy_from_slice).ok_or_else(damaged)
}

/// The bytes of the file that holds an ensemble register.
pub(crate) fn sealed_register(register: &[u8]) -> Vec<u8> {
    let mut bytes = REGISTER_MAGIC.to_vec();
    bytes.extend_from_slice(register);
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

/// Replaces the ensemble register; durable when `Ok`.
pub fn write_register(disk: &dyn Disk, register: &[u8]) -> Result<(), DiskError> {
    disk.write_durably(REGISTER_FILE, &sealed_register(register))
}

/// Whether the directory is still the one that was opened and still says that it is this drive (R5, R18). An identity
/// file that can't be read is a drive that can't be vouched for.
pub fn check_identity(disk: &dyn Disk, identity: &Identity) -> Result<(), String> {
    if disk.sabotage().is(Sabotage::IdentityCheck) {
        return Ok(());
    }
    match disk.same_directory() {
        Ok(true) => {}
        Ok(false) => return Err("its path names another directory now".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    match disk.read_small(IDENTITY_FILE) {
        Ok(bytes) if bytes == identity.encode() => Ok(()),
        Ok(_) => Err("its identity file changed".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// [`check_identity`] by way of the identity file that was opened at the start. It takes no file descriptor: a process
/// that has run out of them must not find its drives gone.
pub(crate) fn check_held_identity(disk: &dyn Disk, file: &dyn DiskFile, identity: &Identity) -> Result<(), String> {
    let held = file.still_named().is_ok_and(|named| named) && !disk.sabotage().is(Sabotage::IdentityCheck);
    if !held || !disk.same_directory().is_ok_and(|same| same) {
        return check_identity(disk, identity);
    }
    let expected = identity.encode();
    // One byte more, so that a longer file is another one.
    let mut found = vec![0; expected.len() + 1];
    match file.read_at(&mut found, 0) {
        Ok(len) if found[..len] == expected => Ok(()),
        Ok(_) => Err("its identity file changed".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A drive's health, shared by its thread and its readers.
#[derive(Debug)]
pub struct Health {
    now: Mutex<DriveHealth>,
    /// Wakes those who wait for a drive that has failed.
    failed: tokio::sync::watch::Sender<bool>,
}

impl Health {
    /// A drive that was opened and does not take writes yet.
    pub fn not_begun() -> Health {
        let now = Mutex::new(DriveHealth::ReadOnly { reason: "the node has not begun".to_owned() });
        Health { now, failed: tokio::sync::watch::Sender::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, DriveHealth> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The health now.
    pub fn get(&self) -> DriveHealth {
        self.lock().clone()
    }

    /// Why reads are refused, if they are.
    pub fn failed(&self) -> Option<String> {
        match &*self.lock() {
            DriveHealth::Failed { reason } => Some(reason.clone()),
            _ => None,
        }
    }

    /// Waits until reads are refused, and says why.
    pub async fn until_failed(&self) -> String {
        let mut watched = self.failed.subscribe();
        // The sender lives as long as `self`.
        let _failed = watched.wait_for(|failed| *failed).await;
        self.failed().unwrap_or_default()
    }

    /// The drive begins to take writes; one that failed meanwhile stays failed.
    pub fn begin(&self) {
        let mut health = self.lock();
        if !matches!(*health, DriveHealth::Failed { .. }) {
            *health = DriveHealth::Healthy;
        }
    }

    /// No more writes (R6).
    pub fn read_only(&self, reason: String) {
        let mut health = self.lock();
        if !matches!(*health, DriveHealth::Failed { .. }) {
            *health = DriveHealth::ReadOnly { reason };
        }
    }

    /// No more anything.
    pub fn fail(&self, reason: String) {
        let mut health = self.lock();
        if !matches!(*health, DriveHealth::Failed { .. }) {
            *health = DriveHealth::Failed { reason };
            self.failed.send_replace(true);
        }
    }
}
