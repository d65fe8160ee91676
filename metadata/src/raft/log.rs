//! The Raft log and vote of one metadata node, in a store of their own.
//!
//! Invariants
//! * An entry counts as flushed, and a vote as saved, only after a sync of the write-ahead log that began after it was written.
//!   Were a vote forgotten, a node could vote twice in a term, and two leaders would each have a majority. The one exception is
//!   a leader's own entries, which do not count before the sync either: [`Ahead`].
//! * A node that led does not find itself leading in the same term after a start: it may have lost entries that others have.
//! * After a failed sync nothing is flushed or saved any more until the process ends: the pages that were not written may be
//!   gone from memory, and a second sync would call them durable (R6).
//! * Rows are consecutive from the entry after `purged` to the last. One that is missing is damage, never a shorter log: a log
//!   cut short by itself would vote for a leader that lacks what this node has promised to keep.
//! * A store belongs to one node of one cluster. A node whose store is gone joins as a new one, never under its old number.
//!
//! Rows have the index's checksum ([`crate::index`]), which covers family and key.

use super::ahead::{Ahead, Unsyncable};
use super::message::{EntryMessage, LogIdMessage, VoteMessage};
use super::{Peer, RaftTypes, on_thread};
use crate::index::{self, IndexError, Overlay, RowFault, damaged, decode};
use bytes::Bytes;
use codec::id::ClusterId;
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, Entry, LogId, OptionalSend, RaftLogReader, RaftMetrics, StorageError, StorageIOError, Vote};
use prost::Message;
use std::convert::Infallible;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use storage_node::kv::{Direction, Family, Kv, KvError, RocksKv, RocksOptions};

/// Entries by index, big endian.
const LOG: Family = "raft-log";
/// `vote`, `committed`, `purged` and `identity`.
const STATE: Family = "raft-state";
/// The families of a log's store.
pub const FAMILIES: [Family; 2] = [LOG, STATE];

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";
const IDENTITY: &[u8] = b"identity";

/// Bytes of entries that are read at once; one entry at least. A follower must take as much within the time of a heartbeat, or it
/// is sent the same again: a tenth of a second on a link of 100 Mbit/s.
const READ_BYTES: usize = 1 << 20;

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The number of the metadata node; never given twice.
    pub node: u64,
}

impl Identity {
    fn row(&self) -> IdentityRow {
        IdentityRow { cluster: Bytes::copy_from_slice(self.cluster.as_bytes()), node: self.node }
    }
}

/// Why a log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is another node's, or another cluster's.
    #[error("this Raft log is of node {found_node} of cluster {found_cluster}, not of node {} of cluster {}", wanted.node, wanted.cluster)]
    Foreign {
        /// Whose it is.
        found_node: u64,
        /// Whose cluster.
        found_cluster: String,
        /// Who asked.
        wanted: Identity,
    },
    /// It is damaged or gives no answer: the node has to join again under a new number.
    #[error("the Raft log can't be read: {0}")]
    Index(#[from] IndexError),
    /// Entries in the middle are gone, as a power cut may leave it: the node can't vote by what is left, and has to join again under
    /// a new number.
    #[error(
        "the Raft log lacks entry {wanted}, and has entry {found}: a power cut or damage took what lies between; this metadata node has to join again (--rejoin)"
    )]
    Gap {
        /// The first that is missing.
        wanted: u64,
        /// The next that is there.
        found: u64,
    },
    /// The machine gives no more threads.
    #[error("the Raft log's thread can't be started: {0}")]
    Thread(io::Error),
}

impl From<KvError> for OpenError {
    fn from(error: KvError) -> Self {
        OpenError::Index(error.into())
    }
}

#[derive(Clone, PartialEq, Message)]
struct IdentityRow {
    #[prost(bytes = "bytes", tag = "1")]
    cluster: Bytes,
    #[prost(uint64, tag = "2")]
    node: u64,
}

/// The log and vote of one metadata node. Clones are of the same log.
#[derive(Clone, Debug)]
pub struct LogStore {
    /// Ends before the log goes that it syncs: fields are dropped in this order.
    syncer: Arc<Syncer>,
    kv: Arc<dyn Kv>,
    ahead: Arc<Ahead>,
    node: u64,
}

/// The thread that syncs a log. When this is dropped, it has ended, and uses the store no more: it would be the last to have it
/// otherwise, and close RocksDB while the process that is done ends around it (`pthread lock: Invalid argument`, and an abort), or
/// while somebody opens the same directory again.
#[derive(Debug)]
struct Syncer {
    /// Where everything goes that waits for a sync; none only while this is dropped.
    unsynced: Option<mpsc::Sender<Unsynced>>,
    /// Nothing is ever sent: it is closed when the thread has given the store away.
    ended: Mutex<mpsc::Receiver<Infallible>>,
}

/// How long a log's last sync is waited for. A disk that hangs keeps nobody from ending.
const LAST_SYNC: Duration = Duration::from_secs(5);

impl Syncer {
    fn start(kv: Arc<dyn Kv>, ahead: Arc<Ahead>) -> io::Result<Syncer> {
        let (unsynced, waiting) = mpsc::channel();
        let (ending, ended) = mpsc::channel();
        std::thread::Builder::new().name("raft-log-sync".to_owned()).spawn(move || {
            sync_in_order(&*kv, &waiting, &ahead);
            drop((kv, ahead));
            drop(ending);
        })?;
        Ok(Syncer { unsynced: Some(unsynced), ended: Mutex::new(ended) })
    }

    /// `Err`: the thread is gone, which happens when it panicked.
    fn tell(&self, unsynced: Unsynced) -> Result<(), Gone> {
        self.unsynced.as_ref().ok_or(Gone)?.send(unsynced).map_err(|_| Gone)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("nobody syncs the Raft log any more")]
struct Gone;

impl Drop for Syncer {
    fn drop(&mut self) {
        drop(self.unsynced.take());
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(LAST_SYNC) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the last sync of the Raft log takes long; it is not waited for");
        }
    }
}

/// Entries that are written and not synced yet.
enum Unsynced {
    /// Raft waits for them.
    Awaited(LogFlushed<RaftTypes>),
    /// Those up to here, which Raft was told are flushed.
    Ahead(LogId<u64>),
}

impl LogStore {
    /// The log in `kv`, which has [`FAMILIES`]; one without an owner becomes `identity`'s. It must not be used by two at once.
    pub fn open(kv: Arc<dyn Kv>, identity: Identity) -> Result<LogStore, OpenError> {
        let owner = read_row::<IdentityRow>(&*kv, IDENTITY)?;
        match owner {
            None => {
                let mut rows = Overlay::new(&*kv);
                rows.put(STATE, IDENTITY, &identity.row());
                kv.write(rows.into_batch())?;
                kv.flush()?;
            }
            Some(owner) if owner.cluster[..] != identity.cluster.as_bytes()[..] || owner.node != identity.node => {
                let found_cluster = hex::encode(&owner.cluster);
                return Err(OpenError::Foreign { found_node: owner.node, found_cluster, wanted: identity });
            }
            Some(_) => {}
        }
        let ahead = Arc::new(Ahead::new(identity.node));
        let syncer = Arc::new(Syncer::start(kv.clone(), ahead.clone()).map_err(OpenError::Thread)?);
        let log = LogStore { syncer, kv, ahead, node: identity.node };
        log.state()?;
        log.has_no_gap()?;
        Ok(log)
    }

    /// Whether the store in `dir` was ever a node's log. One that should be and is not has lost what it held. Blocks.
    ///
    /// It is opened as a member opens it. Any other way would mend damage by forgetting what comes after it, and the member would
    /// find a log that is whole and has forgotten its vote.
    pub fn is_owned(dir: &Path, options: RocksOptions) -> Result<bool, OpenError> {
        let kv = RocksKv::open_promised(dir, &FAMILIES, options)?;
        Ok(read_row::<IdentityRow>(&kv, IDENTITY)?.is_some())
    }

    /// From now on this node's entries as a leader may be sent before they are synced: whoever carries the answers to them keeps
    /// these back by [`Self::until_synced`], and sends nothing while the log hangs: when no sync has ended for longer than `patience`.
    pub(super) fn let_ahead(&self, patience: Duration) {
        self.ahead.allow(patience);
    }

    /// What Raft says of itself.
    pub(super) fn learn(&self, metrics: &RaftMetrics<u64, Peer>) {
        self.ahead.learn(metrics);
    }

    /// Whether a sync has failed: this node can promise nothing any more.
    pub(super) fn has_failed(&self) -> bool {
        self.ahead.has_failed()
    }

    /// Whether this node's own entries have waited too long for a sync.
    pub(super) fn hangs(&self) -> bool {
        self.ahead.hangs()
    }

    /// Returns when a write or a sync has failed, with why: nothing is promised any more.
    pub(super) async fn failure(&self) -> String {
        self.ahead.failure().await
    }

    /// Whether all up to an entry is synced here.
    pub(super) fn is_synced(&self, at: LogId<u64>) -> bool {
        self.ahead.is_synced(at)
    }

    /// Waits until all up to an entry is synced here.
    pub(super) async fn until_synced(&self, at: LogId<u64>) -> Result<(), Unsyncable> {
        self.ahead.until_synced(at).await
    }

    /// Makes an empty store the log of `identity`, as if it was purged up to `last`: a cluster of one begins after an index that
    /// is there. Blocks.
    pub(super) fn begin_after(kv: &dyn Kv, identity: Identity, last: LogId<u64>) -> Result<(), IndexError> {
        let mut rows = Overlay::new(kv);
        rows.put(STATE, IDENTITY, &identity.row());
        rows.put(STATE, PURGED, &LogIdMessage::from(last));
        kv.write(rows.into_batch())?;
        Ok(kv.flush()?)
    }

    /// Committed entries from `from` to `upto`, as far as [`READ_BYTES`] lead and one at least; fewer where they are not there.
    /// Blocks.
    pub(crate) fn read_committed_from(&self, from: u64, upto: u64) -> Result<Vec<Entry<RaftTypes>>, IndexError> {
        self.entries(from, upto.checked_add(1), READ_BYTES)
    }

    /// Committed entries from `from` to `upto` in order, read as many at a time as [`Self::read_committed_from`] gives; they end
    /// where one is not there. Blocks.
    pub(crate) fn committed(
        &self,
        from: u64,
        upto: u64,
    ) -> impl Iterator<Item = Result<Entry<RaftTypes>, IndexError>> + '_ {
        let (mut next, mut read, mut ended) = (from, Vec::new().into_iter(), false);
        std::iter::from_fn(move || {
            if read.len() == 0 && !ended && next <= upto {
                match self.read_committed_from(next, upto) {
                    Ok(entries) => read = entries.into_iter(),
                    Err(error) => {
                        ended = true;
                        return Some(Err(error));
                    }
                }
                ended = read.len() == 0;
            }
            let entry: Entry<RaftTypes> = read.next()?;
            next = entry.log_id.index.saturating_add(1);
            Some(Ok(entry))
        })
    }

    /// The first index that is not purged. Blocks.
    pub(crate) fn first_index(&self) -> Result<u64, IndexError> {
        Ok(read_row::<LogIdMessage>(&*self.kv, PURGED)?.map_or(0, |at| at.index.saturating_add(1)))
    }

    /// The last entry that was purged; 0 for none.
    #[cfg(test)]
    pub(crate) fn purged_to(&self) -> u64 {
        read_row::<LogIdMessage>(&*self.kv, PURGED).unwrap().map_or(0, |at| at.index)
    }

    /// The last position that was purged, and the last there is. Looks at the ends only.
    fn state(&self) -> Result<LogState<RaftTypes>, IndexError> {
        let purged: Option<LogId<u64>> = read_row::<LogIdMessage>(&*self.kv, PURGED)?.map(Into::into);
        let last = self.kv.scan(LOG, &[], Direction::Backward)?.next()?;
        let last = match last {
            Some((key, value)) => Some(entry_of(&key, value)?.log_id),
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    /// Looks at every key: all entries from the first one that is not purged are there. A power cut may have kept later rows of a
    /// leader's log and taken earlier ones, as many go ahead of their sync at once. Nobody would miss those until they are asked
    /// for: the node would vote by the last one, be elected for it, and end.
    fn has_no_gap(&self) -> Result<(), OpenError> {
        let mut next = read_row::<LogIdMessage>(&*self.kv, PURGED)?.map(|at| at.index.saturating_add(1));
        let mut scan = self.kv.scan(LOG, &[], Direction::Forward)?;
        while let Some((key, _)) = scan.next()? {
            let index = <[u8; 8]>::try_from(&key[..]).map(u64::from_be_bytes);
            let index = index.map_err(|_| damaged(LOG, &key, RowFault::Key))?;
            if let Some(wanted) = next.filter(|wanted| *wanted != index) {
                return Err(OpenError::Gap { wanted, found: index });
            }
            next = Some(index.saturating_add(1));
        }
        Ok(())
    }

    fn entries(&self, from: u64, end: Option<u64>, limit: usize) -> Result<Vec<Entry<RaftTypes>>, IndexError> {
        let mut scan = self.kv.scan(LOG, &from.to_be_bytes(), Direction::Forward)?;
        let (mut entries, mut bytes) = (Vec::<Entry<RaftTypes>>::new(), 0);
        while bytes < limit {
            let Some((key, value)) = scan.next()? else { break };
            bytes += value.len();
            let entry = entry_of(&key, value)?;
            if end.is_some_and(|end| entry.log_id.index >= end) {
                break;
            }
            if entries.last().is_some_and(|before| before.log_id.index.checked_add(1) != Some(entry.log_id.index)) {
                return Err(damaged(LOG, &key, RowFault::Dangling));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Keys of rows in a range of indexes, `limit` at most.
    fn keys(&self, from: u64, end: Option<u64>, limit: usize) -> Result<Vec<Bytes>, IndexError> {
        let mut scan = self.kv.scan(LOG, &from.to_be_bytes(), Direction::Forward)?;
        let mut keys = Vec::new();
        while keys.len() < limit
            && let Some((key, _)) = scan.next()?
        {
            if end.is_some_and(|end| key[..] >= end.to_be_bytes()[..]) {
                break;
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// Keys of the entries behind `upto` that are of a lower term: what a leader had replaced before a snapshot up to there was
    /// installed. Terms never fall in a log, so one of such entries would be the tail of another log than this one.
    fn outdated_after(&self, upto: LogId<u64>) -> Result<Vec<Bytes>, IndexError> {
        let Some(after) = upto.index.checked_add(1) else { return Ok(Vec::new()) };
        let mut scan = self.kv.scan(LOG, &after.to_be_bytes(), Direction::Forward)?;
        let mut keys = Vec::new();
        while let Some((key, value)) = scan.next()? {
            if entry_of(&key, value)?.log_id.leader_id.term >= upto.leader_id.term {
                break;
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// Writes what `change` puts into the overlay, and syncs it if asked, on a thread that may block.
    async fn write<F>(&self, synced: bool, change: F) -> Result<(), io::Error>
    where
        F: FnOnce(&LogStore, &mut Overlay<'_>) -> Result<(), IndexError> + Send + 'static,
    {
        if self.ahead.has_failed() {
            return Err(io::Error::other("a sync of the Raft log failed before; the node has to be started again"));
        }
        let log = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut rows = Overlay::new(&*log.kv);
            change(&log, &mut rows)?;
            log.kv.write(rows.into_batch())?;
            if synced {
                log.kv.flush().inspect_err(|error| log.ahead.fail(error))?;
            }
            Ok::<(), IndexError>(())
        });
        written.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    async fn read<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&LogStore) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, AnyError> {
        let log = self.clone();
        on_thread(move || ask(&log)).await
    }
}

/// Answers what waits after a sync that began when it was there: however many gather during one sync, the next serves all.
fn sync_in_order(kv: &dyn Kv, waiting: &mpsc::Receiver<Unsynced>, ahead: &Ahead) {
    while let Ok(first) = waiting.recv() {
        let mut written = vec![first];
        written.extend(waiting.try_iter());
        let before = ahead.has_failed();
        let synced =
            if before { Err("a sync failed before".to_owned()) } else { kv.flush().map_err(|e| e.to_string()) };
        if let Err(error) = &synced {
            ahead.fail(error);
            if !before {
                tracing::error!(%error, "the Raft log can't be synced; this metadata node stops");
            }
        }
        for entries in written {
            match entries {
                Unsynced::Awaited(callback) => callback.log_io_completed(synced.clone().map_err(io::Error::other)),
                Unsynced::Ahead(upto) if synced.is_ok() => ahead.synced(upto),
                Unsynced::Ahead(_) => {}
            }
        }
    }
}

fn read_row<M: Message + Default>(kv: &dyn Kv, key: &[u8]) -> Result<Option<M>, IndexError> {
    index::read(&Overlay::new(kv), STATE, key)
}

/// The entry in a row; its key must be its index.
fn entry_of(key: &[u8], value: Bytes) -> Result<Entry<RaftTypes>, IndexError> {
    let message: EntryMessage = decode(LOG, key, value)?;
    let entry = message.into_entry().ok_or_else(|| damaged(LOG, key, RowFault::Field))?;
    if key[..] != entry.log_id.index.to_be_bytes()[..] {
        return Err(damaged(LOG, key, RowFault::Key));
    }
    Ok(entry)
}

impl RaftLogReader<RaftTypes> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<RaftTypes>>, StorageError<u64>> {
        let (from, end) = (first_of(&range), end_of(&range));
        let entries = self.read(move |log| log.entries(from, end, usize::MAX)).await;
        entries.map_err(|error| StorageIOError::read_logs(error).into())
    }

    async fn limited_get_log_entries(
        &mut self,
        from: u64,
        end: u64,
    ) -> Result<Vec<Entry<RaftTypes>>, StorageError<u64>> {
        let entries = self.read(move |log| log.entries(from, Some(end), READ_BYTES)).await;
        entries.map_err(|error| StorageIOError::read_logs(error).into())
    }
}

fn first_of(range: &impl RangeBounds<u64>) -> u64 {
    match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    }
}

fn end_of(range: &impl RangeBounds<u64>) -> Option<u64> {
    match range.end_bound() {
        Bound::Included(last) => last.checked_add(1),
        Bound::Excluded(end) => Some(*end),
        Bound::Unbounded => None,
    }
}

impl RaftLogStorage<RaftTypes> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<RaftTypes>, StorageError<u64>> {
        self.read(|log| log.state()).await.map_err(|error| StorageIOError::read_logs(error).into())
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let row = VoteMessage::from(*vote);
        self.ahead.vote(vote);
        let saved = self.write(true, move |_, rows| {
            rows.put(STATE, VOTE, &row);
            Ok(())
        });
        saved.await.map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        let vote = self.read(|log| read_row::<VoteMessage>(&*log.kv, VOTE)).await;
        let vote: Option<Vote<u64>> = vote.map_err(StorageIOError::read_vote)?.map(Into::into);
        // Raft would let the leader of this vote lead on at once.
        let own = |vote: &Vote<u64>| vote.leader_id.node_id == self.node;
        Ok(vote.map(|vote| if own(&vote) { Vote { committed: false, ..vote } } else { vote }))
    }

    /// Not synced: it only says how far a restart may apply at once, and an older one is as true.
    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), StorageError<u64>> {
        let saved = self.write(false, move |_, rows| {
            match committed {
                Some(id) => rows.put(STATE, COMMITTED, &LogIdMessage::from(id)),
                None => rows.delete(STATE, COMMITTED),
            }
            Ok(())
        });
        saved.await.map_err(|error| StorageIOError::write(&error).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError<u64>> {
        let id = self.read(|log| read_row::<LogIdMessage>(&*log.kv, COMMITTED)).await;
        Ok(id.map_err(StorageIOError::read_logs)?.map(Into::into))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<RaftTypes>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<RaftTypes>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry<RaftTypes>> = entries.into_iter().collect();
        let ahead = self.ahead.appends(&entries);
        let written = self.write(false, move |_, rows| {
            for entry in &entries {
                rows.put(LOG, entry.log_id.index.to_be_bytes().to_vec(), &EntryMessage::from(entry));
            }
            Ok(())
        });
        match (written.await, ahead) {
            // The thread lives as long as `self`; were it gone, the dropped callback would say so.
            (Ok(()), None) => {
                let _gone = self.syncer.tell(Unsynced::Awaited(callback));
                Ok(())
            }
            (Ok(()), Some(last)) => {
                let told = self.syncer.tell(Unsynced::Ahead(last));
                callback.log_io_completed(told.map_err(io::Error::other));
                Ok(())
            }
            (Err(error), _) => {
                self.ahead.fail(&error);
                let failed = StorageIOError::write_logs(&error);
                callback.log_io_completed(Err(error));
                Err(failed.into())
            }
        }
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), StorageError<u64>> {
        // Synced: what follows may be a snapshot, which is kept in another store and takes no entry after it. Were the cut lost
        // then, entries that another leader has replaced would be there behind the snapshot.
        let cut = self.write(true, move |log, rows| {
            log.keys(from.index, None, usize::MAX)?.into_iter().for_each(|key| rows.delete(LOG, key));
            Ok(())
        });
        cut.await.map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, upto: LogId<u64>) -> Result<(), StorageError<u64>> {
        // One batch: rows that are gone without `purged` saying so would be damage.
        let purged = self.write(false, move |log, rows| {
            rows.put(STATE, PURGED, &LogIdMessage::from(upto));
            log.keys(0, upto.index.checked_add(1), usize::MAX)?.into_iter().for_each(|key| rows.delete(LOG, key));
            log.outdated_after(upto)?.into_iter().for_each(|key| rows.delete(LOG, key));
            Ok(())
        });
        purged.await.map_err(|error| StorageIOError::write_logs(&error).into())
    }
}
