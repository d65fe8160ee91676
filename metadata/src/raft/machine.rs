//! The state machine of one metadata node: committed entries become index rows, and the index becomes snapshots.
//!
//! Invariants
//! * The rows of an entry, the LSN and hash of it, and Raft's own position change in one batch: whatever a crash leaves is the
//!   state after some entry.
//! * Nothing here writes to drives, and nothing is acknowledged here. The leader journals what is applied and acknowledges after
//!   that; the entries that it still has to journal are in the Raft log.
//! * Which directory is the index is said by the file `current`, which is replaced whole. A snapshot that is being installed is
//!   no index before that, and the index before it is one until then.
//! * An index that was replaced is removed with its last owner: the state machine, or whoever still reads it. `current` is durable
//!   by then, so a crash before that leaves both and `current` names one of them, whole; a crash after it leaves a part of the old
//!   one at most, which nothing names. The next start removes what `current` does not name.
//!
//! The index is disposable, so it is not synced: after a crash Raft applies again what is missing, from its log.

use super::message::{LogIdMessage, MembershipMessage};
use super::record::{RecordError, Tail, record};
use super::{Applied, Peer, RaftTypes, SnapshotDir, on_thread};
use crate::index::{self, IndexError, Overlay, RowFault, View, damaged};
use crate::state::{self, ApplyError};
use codec::id::{Epoch, Lsn};
use codec::journal::JournalError;
use codec::level::{FormatLevel, Later, TooNew};
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, Entry, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError,
    StorageIOError, StoredMembership,
};
use prost::Message;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};
use storage_node::kv::{Family, Kv, KvError, RocksKv, RocksOptions};
use storage_node::level::CurrentLevel;
use tokio::sync::watch;

/// Raft's own rows in the index: no effect puts them there, and they are no part of what a rebuild has to bring back.
const RAFT: Family = "raft";
const POSITION: &[u8] = b"position";
const MEMBERS: &[u8] = b"members";
/// The file that names the directory of the index.
const CURRENT: &str = "current";
/// Where snapshots are made and received.
const SNAPSHOTS: &str = "snapshots";

/// The last applied entry, as Raft and the journal see it.
#[derive(Clone, PartialEq, Message)]
struct PositionRow {
    #[prost(message, optional, tag = "1")]
    at: Option<LogIdMessage>,
    /// The epoch of the journal's entry.
    #[prost(uint64, tag = "2")]
    epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MembersRow {
    #[prost(message, optional, tag = "1")]
    at: Option<LogIdMessage>,
    #[prost(message, optional, tag = "2")]
    members: Option<MembershipMessage>,
}

/// Why the state machine can't go on.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The index fails or is damaged.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The next entry has no place in the journal.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Its effects can't be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A directory of the index or of a snapshot.
    #[error("{path}: {error}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// What is here, or is to be applied, is of a later release: this program neither applies it nor goes on.
    #[error(transparent)]
    Later(#[from] Later),
    /// A snapshot does not hold what it was sent as.
    #[error("the snapshot in {0} is not the one that was announced")]
    Foreign(PathBuf),
}

impl From<KvError> for MachineError {
    fn from(error: KvError) -> Self {
        MachineError::Index(error.into())
    }
}

/// The state machine of one metadata node. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Machine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    options: RocksOptions,
    state: Mutex<State>,
    /// Numbers the directories that are made.
    made: AtomicU64,
    /// The last entry that this node, as a leader, knows to be on 1+m drives.
    journaled: watch::Sender<u64>,
    /// By which this process writes: that of the index.
    level: CurrentLevel,
    /// Why nothing more is applied, where what comes next is of a later release.
    later: watch::Sender<Option<Later>>,
}

#[derive(Debug)]
struct State {
    kv: Arc<RocksKv>,
    snapshot: Option<(SnapshotMeta<u64, Peer>, SnapshotDir)>,
}

/// What Raft asks about what was applied.
type AppliedState = (Option<LogId<u64>>, StoredMembership<u64, Peer>);

impl Machine {
    /// The index below `dir`, made if there is none. What an interrupted snapshot left there is removed. Blocks.
    pub fn open(dir: &Path, options: RocksOptions) -> Result<Machine, MachineError> {
        Machine::open_at(dir, options, CurrentLevel::default())
    }

    /// [`Self::open`]; the format level of the index is said to `level`, now and whenever it is raised.
    pub(super) fn open_at(dir: &Path, options: RocksOptions, level: CurrentLevel) -> Result<Machine, MachineError> {
        make_dir(dir)?;
        let name = match fs::read_to_string(dir.join(CURRENT)) {
            Ok(name) => name,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                point_to(dir, "index-0")?;
                "index-0".to_owned()
            }
            Err(error) => return Err(at(&dir.join(CURRENT))(error)),
        };
        let number = name.strip_prefix("index-").and_then(|number| number.parse::<u64>().ok());
        let number = number.ok_or_else(|| MachineError::Foreign(dir.join(CURRENT)))?;
        let kv = open_index(&dir.join(&name), options)?;
        // Before anything is removed: a later release may keep what this one would take for stale.
        level.raise(level_of(&kv)?);
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let path = entry.map_err(at(dir))?.path();
            let is_index = |name: &str| name.starts_with("index-") || name == SNAPSHOTS;
            let stale = path.file_name().and_then(|n| n.to_str()).is_some_and(|found| is_index(found) && found != name);
            if stale {
                match fs::remove_dir_all(&path) {
                    // Its last owner in this process was quicker.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
                    _ => {}
                }
            }
        }
        make_dir(&dir.join(SNAPSHOTS))?;
        let state = Mutex::new(State { kv: Arc::new(kv), snapshot: None });
        let made = AtomicU64::new(number.saturating_add(1));
        let journaled = watch::Sender::new(0);
        let (dir, later) = (dir.to_owned(), watch::Sender::new(None));
        Ok(Machine { inner: Arc::new(Inner { dir, options, state, made, journaled, level, later }) })
    }

    /// Why nothing more is applied, once what comes next is of a later release.
    pub fn later(&self) -> watch::Receiver<Option<Later>> {
        self.inner.later.subscribe()
    }

    /// Everything up to this entry is on 1+m drives.
    pub(crate) fn set_journaled(&self, upto: Lsn) {
        self.inner.journaled.send_if_modified(|known| {
            let more = upto.0 > *known;
            *known = upto.0.max(*known);
            more
        });
    }

    /// Waits until everything up to an entry is known to be on 1+m drives, which a leader that serves comes to know.
    pub(super) async fn until_journaled(&self, index: u64) {
        // The sender is in `self`: it is never gone.
        let _ = self.inner.journaled.subscribe().wait_for(|upto| *upto >= index).await;
    }

    /// Makes what `copy` puts into the directory that it is given the index below `dir`. Blocks.
    pub(super) fn adopt(dir: &Path, copy: impl FnOnce(&Path) -> Result<(), KvError>) -> Result<(), MachineError> {
        make_dir(dir)?;
        copy(&dir.join("index-0"))?;
        sync_dir(&dir.join("index-0"))?;
        point_to(dir, "index-0")
    }

    /// Gives an index that no Raft has written its first position and members, durably. Blocks.
    pub(super) fn begin(
        &self,
        last: LogId<u64>,
        epoch: Epoch,
        members: &StoredMembership<u64, Peer>,
    ) -> Result<(), MachineError> {
        let kv = self.kv();
        let mut rows = Overlay::new(&*kv);
        rows.put(RAFT, POSITION, &PositionRow { at: Some(last.into()), epoch: epoch.0 });
        let at = members.log_id().map(LogIdMessage::from);
        rows.put(RAFT, MEMBERS, &MembersRow { at, members: Some(members.membership().into()) });
        kv.write(rows.into_batch())?;
        Ok(kv.flush()?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index as it is now. A snapshot that is installed replaces it; a leader never installs one.
    pub fn kv(&self) -> Arc<RocksKv> {
        self.state().kv.clone()
    }

    /// The end of what is applied.
    pub fn tail(&self) -> Result<Tail, MachineError> {
        Ok(tail(&Overlay::new(&*self.kv()))?)
    }

    fn next_number(&self) -> u64 {
        self.inner.made.fetch_add(1, Ordering::Relaxed)
    }

    /// A new directory for a snapshot that is about to arrive.
    pub fn incoming(&self) -> Result<SnapshotDir, MachineError> {
        let path = self.inner.dir.join(SNAPSHOTS).join(format!("in-{}", self.next_number()));
        make_dir(&path)?;
        Ok(SnapshotDir::new(path))
    }

    fn apply_all(&self, entries: &[Entry<RaftTypes>]) -> Result<Vec<Applied>, MachineError> {
        let kv = self.kv();
        let mut rows = Overlay::new(&*kv);
        let mut before = tail(&rows)?;
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let answer = match record(entry, &before).map_err(|error| self.unless_later(error))? {
                Some(record) => {
                    let applied = state::apply(&mut rows, record.entry.lsn, &record.entry.hash, &record.effects);
                    applied.map_err(|error| match error {
                        ApplyError::TooNew(error) => self.ends_at(error.into()),
                        error => error.into(),
                    })?;
                    before = record.tail();
                    record.applied
                }
                None => Applied::Done,
            };
            let at = || Some(LogIdMessage::from(entry.log_id));
            if let EntryPayload::Membership(members) = &entry.payload {
                rows.put(RAFT, MEMBERS, &MembersRow { at: at(), members: Some(members.into()) });
            }
            rows.put(RAFT, POSITION, &PositionRow { at: at(), epoch: before.epoch.0 });
            answers.push(answer);
        }
        kv.write(rows.into_batch())?;
        self.inner.level.raise(level_of(&*kv)?);
        Ok(answers)
    }

    fn unless_later(&self, error: RecordError) -> MachineError {
        match error {
            RecordError::Damaged { error: JournalError::Version { what, version }, .. } => {
                self.ends_at(Later::Layout { what, version })
            }
            error => error.into(),
        }
    }

    /// Nothing more is applied: not this entry, and nothing that comes after it.
    fn ends_at(&self, later: Later) -> MachineError {
        self.inner.later.send_replace(Some(later.clone()));
        later.into()
    }

    fn build(&self) -> Result<Snapshot<RaftTypes>, MachineError> {
        let number = self.next_number();
        let path = self.inner.dir.join(SNAPSHOTS).join(format!("out-{number}"));
        self.kv().checkpoint(&path)?;
        let dir = SnapshotDir::new(path);
        // Entries may have been applied since it was asked for: the copy says itself what it is of.
        let (last_log_id, last_membership) = {
            let copy = open_index(dir.path(), self.inner.options)?;
            applied_state(&Overlay::new(&copy))?
        };
        let last = last_log_id.map_or(0, |id| id.index);
        let meta = SnapshotMeta { last_log_id, last_membership, snapshot_id: format!("{last}-{number}") };
        self.keep(&meta, &dir);
        Ok(Snapshot { meta, snapshot: Box::new(dir) })
    }

    /// Makes a snapshot that was built the one that is sent. One that was installed meanwhile may be newer, and the log purged up to
    /// that: from an older one nobody could go on.
    pub(super) fn keep(&self, meta: &SnapshotMeta<u64, Peer>, dir: &SnapshotDir) {
        let mut state = self.state();
        if state.snapshot.as_ref().is_none_or(|(known, _)| known.last_log_id <= meta.last_log_id) {
            state.snapshot = Some((meta.clone(), dir.clone()));
        }
    }

    fn install(&self, meta: &SnapshotMeta<u64, Peer>, dir: SnapshotDir) -> Result<(), MachineError> {
        let name = format!("index-{}", self.next_number());
        let path = self.inner.dir.join(&name);
        dir.link_into(&path)?;
        let kv = open_index(&path, self.inner.options)?;
        if applied_state(&Overlay::new(&kv))? != (meta.last_log_id, meta.last_membership.clone()) {
            kv.remove_when_closed();
            return Err(MachineError::Foreign(dir.path().to_owned()));
        }
        match level_of(&kv) {
            Ok(level) => self.inner.level.raise(level),
            Err(MachineError::Later(later)) => {
                kv.remove_when_closed();
                return Err(self.ends_at(later));
            }
            Err(error) => return Err(error),
        }
        kv.flush()?;
        sync_dir(&path)?;
        point_to(&self.inner.dir, &name)?;
        let now = State { kv: Arc::new(kv), snapshot: Some((meta.clone(), dir)) };
        let old = std::mem::replace(&mut *self.state(), now);
        // Not before `current` is durable. It goes here, if nobody reads it, and outside the lock: a large one takes its time.
        old.kv.remove_when_closed();
        Ok(())
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Machine) -> Result<T, MachineError> + Send + 'static,
    ) -> Result<T, AnyError> {
        let machine = self.clone();
        on_thread(move || work(&machine)).await
    }
}

impl SnapshotDir {
    /// Copies the store into a new directory on the same file system. Files that a store never changes are linked: the others
    /// are written to when it is opened, and this copy may still be sent to somebody.
    fn link_into(&self, to: &Path) -> Result<(), MachineError> {
        make_dir(to)?;
        for entry in fs::read_dir(self.path()).map_err(at(self.path()))? {
            let entry = entry.map_err(at(self.path()))?;
            let target = to.join(entry.file_name());
            if entry.path().extension().is_some_and(|extension| extension == "sst") {
                fs::hard_link(entry.path(), &target).map_err(at(&target))?;
            } else {
                fs::copy(entry.path(), &target).map_err(at(&target))?;
                fs::File::open(&target).and_then(|file| file.sync_all()).map_err(at(&target))?;
            }
        }
        sync_dir(to)
    }
}

fn open_index(path: &Path, options: RocksOptions) -> Result<RocksKv, KvError> {
    let families: Vec<Family> = index::FAMILIES.iter().copied().chain([RAFT]).collect();
    RocksKv::open(path, &families, options)
}

/// The format level of an index, if this program knows it.
fn level_of(kv: &dyn Kv) -> Result<FormatLevel, MachineError> {
    let row = index::level(&Overlay::new(kv))?;
    let level = FormatLevel(row.level);
    TooNew::check(level, &row.by).map_err(Later::from)?;
    Ok(level)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> MachineError {
    let path = path.to_owned();
    move |error| MachineError::Directory { path, error }
}

fn make_dir(path: &Path) -> Result<(), MachineError> {
    fs::create_dir_all(path).map_err(at(path))
}

fn sync_dir(path: &Path) -> Result<(), MachineError> {
    fs::File::open(path).and_then(|dir| dir.sync_all()).map_err(at(path))
}

/// Makes `name` the index, durably and whole.
fn point_to(dir: &Path, name: &str) -> Result<(), MachineError> {
    let (new, current) = (dir.join("current.new"), dir.join(CURRENT));
    let written = fs::write(&new, name).and_then(|()| fs::File::open(&new)?.sync_all());
    written.map_err(at(&new))?;
    // The directory that it names first: a power cut must not leave the name alone.
    sync_dir(dir)?;
    fs::rename(&new, &current).map_err(at(&current))?;
    sync_dir(dir)
}

fn tail(view: &dyn View) -> Result<Tail, IndexError> {
    let (lsn, hash) = index::applied(view)?;
    let epoch = index::read::<PositionRow>(view, RAFT, POSITION)?.map_or(0, |row| row.epoch);
    Ok(Tail { lsn, epoch: Epoch(epoch), hash })
}

fn applied_state(view: &dyn View) -> Result<AppliedState, IndexError> {
    let position = index::read::<PositionRow>(view, RAFT, POSITION)?;
    let members = match index::read::<MembersRow>(view, RAFT, MEMBERS)? {
        Some(row) => {
            let members = row.members.and_then(MembershipMessage::into_membership);
            let members = members.ok_or_else(|| damaged(RAFT, MEMBERS, RowFault::Field))?;
            StoredMembership::new(row.at.map(Into::into), members)
        }
        None => StoredMembership::default(),
    };
    Ok((position.and_then(|row| row.at).map(Into::into), members))
}

impl RaftSnapshotBuilder<RaftTypes> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<RaftTypes>, StorageError<u64>> {
        let built = self.on_thread(Machine::build).await;
        built.map_err(|error| StorageIOError::write_snapshot(None, error).into())
    }
}

impl RaftStateMachine<RaftTypes> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<AppliedState, StorageError<u64>> {
        let read = self.on_thread(|machine| Ok(applied_state(&Overlay::new(&*machine.kv()))?)).await;
        read.map_err(|error| StorageIOError::read_state_machine(error).into())
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<RaftTypes>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let applied = self.on_thread(move |machine| machine.apply_all(&entries)).await;
        applied.map_err(|error| StorageIOError::write_state_machine(error).into())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotDir>, StorageError<u64>> {
        let made = self.on_thread(Machine::incoming).await;
        Ok(Box::new(made.map_err(|error| StorageIOError::write_snapshot(None, error))?))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Peer>,
        snapshot: Box<SnapshotDir>,
    ) -> Result<(), StorageError<u64>> {
        let (wanted, signature) = (meta.clone(), meta.signature());
        let installed = self.on_thread(move |machine| machine.install(&wanted, *snapshot)).await;
        installed.map_err(|error| StorageIOError::write_snapshot(Some(signature), error).into())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<RaftTypes>>, StorageError<u64>> {
        let snapshot = self.state().snapshot.clone();
        Ok(snapshot.map(|(meta, dir)| Snapshot { meta, snapshot: Box::new(dir) }))
    }
}
