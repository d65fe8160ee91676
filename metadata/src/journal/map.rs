//! Where the unsealed entries lie, and how they are read back.
//!
//! A drive that hangs fails nothing, so nobody would ever turn to another copy: every read is raced by the next holder after
//! a short while and given up after a longer one. The bytes are verified, so it does not matter who answers first.

use super::{Batch, BatchEntry};
use bytes::Bytes;
use codec::id::{DriveId, Epoch, Lsn};
use codec::journal::{Entry, parse_entry};
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use storage_node::client::{NodeClient, ReadError};
use tokio::time::{Instant, sleep, timeout};

/// The least that an entry counts for towards sealing, in bytes.
const LEAST_WEIGHT: usize = 1 << 10;
/// A drive that was slow is asked after the others for so long. Without this each of the thousands of entries that a new
/// member is given would first wait for the drive that hangs.
const SLOW_FOR: Duration = Duration::from_secs(30);

/// The drives that hold an entry; shared by runs of entries.
pub type Holders = Arc<[DriveId]>;

/// What an entry counts for towards sealing: its length, or more for a small one. A million deletes are few bytes on the drives,
/// but each takes its place in this map and is read at every start until it is sealed.
pub(super) fn weight(len: usize) -> u64 {
    len.max(LEAST_WEIGHT) as u64
}

/// An unsealed entry and the drives that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The entry's hash.
    pub hash: [u8; 32],
    /// The hash of the entry before it.
    pub prev_hash: [u8; 32],
    /// The epoch of its birth.
    pub epoch: Epoch,
    /// Length of its bytes.
    pub len: u32,
    /// Drives on which it was durable.
    pub holders: Holders,
}

/// How long a drive is waited for that neither gives an entry nor fails.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The next copy is asked for after this long.
    pub hedge_after: Duration,
    /// A read that takes longer has failed.
    pub deadline: Duration,
}

impl Default for Patience {
    /// As stripes are read; and as long as a drive may take that tries hard to read a bad sector.
    fn default() -> Patience {
        Patience { hedge_after: Duration::from_millis(500), deadline: Duration::from_secs(20) }
    }
}

/// Waits for a read from a drive, but no longer than `limit`: then it has failed. What the drive still reads is thrown away.
pub(crate) async fn read_in_time<T>(
    drive: DriveId,
    limit: Duration,
    read: impl Future<Output = Result<T, ReadError>>,
) -> Result<T, ReadError> {
    let reason = || format!("no answer within {} ms", limit.as_millis());
    timeout(limit, read).await.unwrap_or_else(|_| Err(ReadError::DriveFailed { drive, reason: reason() }))
}

/// Where the unsealed entries lie. Shared by the committer, readers and sealing.
#[derive(Debug, Default)]
pub struct JournalMap {
    held: RwLock<BTreeMap<Lsn, Held>>,
    /// Entries on their way to the drives that readers may see already: of one batch at most.
    in_flight: RwLock<BTreeMap<Lsn, Bytes>>,
    patience: Patience,
    /// Drives that did not answer soon, and since when.
    slow: Mutex<BTreeMap<DriveId, Instant>>,
}

/// An entry, or a part of one, that no drive gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalReadError {
    /// Not in the journal: sealed and freed, or never written. Look the place up again.
    #[error("LSN {0} is not in the journal")]
    NotFound(Lsn),
    /// No drive gave a good copy.
    #[error("no good copy of LSN {lsn}: {last:?}")]
    NoCopy {
        /// The entry.
        lsn: Lsn,
        /// The last drive's answer.
        last: Option<ReadError>,
    },
}

impl JournalMap {
    /// A map of these entries.
    pub fn new(held: BTreeMap<Lsn, Held>, patience: Patience) -> JournalMap {
        JournalMap { held: RwLock::new(held), in_flight: RwLock::default(), patience, slow: Mutex::default() }
    }

    /// How long drives are waited for.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Where one entry lies.
    pub fn get(&self, lsn: Lsn) -> Option<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).get(&lsn).cloned()
    }

    /// Keeps the bytes of a batch in memory until it is in the journal: where metadata nodes agree on entries, the index may
    /// name a frame before any drive has it. Those of the batch before are forgotten: they are in the journal, or nowhere.
    pub(crate) fn hold(&self, entries: &[BatchEntry]) {
        let bytes = entries.iter().map(|entry| (entry.lsn, entry.bytes.clone())).collect();
        *self.in_flight.write().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    fn in_flight(&self, lsn: Lsn) -> Option<Bytes> {
        self.in_flight.read().unwrap_or_else(PoisonError::into_inner).get(&lsn).cloned()
    }

    /// Whether an entry is in the journal, or on its way there.
    pub(crate) fn has(&self, lsn: Lsn) -> bool {
        // In this order: an entry is in the journal before it is on its way no more.
        self.in_flight(lsn).is_some() || self.get(lsn).is_some()
    }

    /// How many drives hold the entry.
    pub fn copies(&self, lsn: Lsn) -> usize {
        self.get(lsn).map_or(0, |held| held.holders.len())
    }

    /// The LSNs of a range that are there, with their lengths.
    pub fn lengths(&self, range: RangeInclusive<Lsn>) -> Vec<(Lsn, u32)> {
        if range.is_empty() {
            return Vec::new();
        }
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.range(range).map(|(lsn, held)| (*lsn, held.len)).collect()
    }

    /// The first entry that is there.
    pub fn first(&self) -> Option<Lsn> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).keys().next().copied()
    }

    /// Entries of which fewer than `least` copies are left: those on drives for which `is_lost` says no, and not in a range
    /// that is `damaged` on its drive. Only entries with a damaged copy are looked at.
    pub fn thin(
        &self,
        damaged: &[(DriveId, RangeInclusive<Lsn>)],
        is_lost: impl Fn(DriveId) -> bool,
        least: usize,
    ) -> Vec<RangeInclusive<Lsn>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let mut bad: BTreeMap<Lsn, Vec<DriveId>> = BTreeMap::new();
        for (drive, range) in damaged.iter().filter(|(_, range)| !range.is_empty()) {
            for lsn in held.range(range.clone()).map(|(lsn, _)| *lsn) {
                bad.entry(lsn).or_default().push(*drive);
            }
        }
        let mut thin: Vec<RangeInclusive<Lsn>> = Vec::new();
        for (lsn, on) in bad {
            let is_good = |drive: &&DriveId| !on.contains(*drive) && !is_lost(**drive);
            if held.get(&lsn).is_none_or(|held| held.holders.iter().filter(is_good).count() >= least) {
                continue;
            }
            match thin.last_mut().filter(|last| last.end().next() == lsn) {
                Some(last) => *last = *last.start()..=lsn,
                None => thin.push(lsn..=lsn),
            }
        }
        thin
    }

    /// What all entries up to `upto` count for towards sealing, in bytes.
    pub fn weight_upto(&self, upto: Lsn) -> u64 {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.range(..=upto).map(|(_, held)| weight(held.len as usize)).sum()
    }

    /// The first entry that `drive` does not hold.
    pub(super) fn first_lacking(&self, drive: DriveId) -> Option<Lsn> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|(_, held)| !held.holders.contains(&drive)).map(|(lsn, _)| *lsn)
    }

    /// `drive` now holds every entry from `from` on.
    pub(super) fn add_holder(&self, from: Lsn, drive: DriveId) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        // Runs of entries share one list; keep it so.
        let mut last: Option<(Holders, Holders)> = None;
        for held in held.range_mut(from..).map(|(_, held)| held).filter(|h| !h.holders.contains(&drive)) {
            let new = match &last {
                Some((old, new)) if Arc::ptr_eq(old, &held.holders) => new.clone(),
                _ => held.holders.iter().copied().chain([drive]).collect(),
            };
            last = Some((std::mem::replace(&mut held.holders, new.clone()), new));
        }
    }

    /// Whether a drive is said to hold any entry.
    pub(super) fn is_holder(&self, drive: DriveId) -> bool {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.values().any(|held| held.holders.contains(&drive))
    }

    /// Whether there are entries that no other drive is said to hold but those for which `is_lost`.
    pub(crate) fn is_last_holder(&self, drive: DriveId, is_lost: &dyn Fn(DriveId) -> bool) -> bool {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let last = |held: &Held| {
            held.holders.contains(&drive) && held.holders.iter().all(|other| *other == drive || is_lost(*other))
        };
        held.values().any(last)
    }

    /// Whether a drive is said to hold an entry of a range.
    pub(crate) fn holds_any(&self, drive: DriveId, range: &RangeInclusive<Lsn>) -> bool {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        !range.is_empty() && held.range(range.clone()).any(|(_, held)| held.holders.contains(&drive))
    }

    /// `drive` holds the entries for which `has` says so, by LSN and hash, and no others. Returns how many it does not.
    pub(super) fn keep_holder(&self, drive: DriveId, has: &dyn Fn(Lsn, &[u8; 32]) -> bool) -> usize {
        let mut all = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let mut lost = 0;
        let mut last: Option<(Holders, Holders)> = None;
        for (lsn, held) in all.iter_mut().filter(|(_, held)| held.holders.contains(&drive)) {
            if has(*lsn, &held.hash) {
                continue;
            }
            lost += 1;
            let new = match &last {
                Some((old, new)) if Arc::ptr_eq(old, &held.holders) => new.clone(),
                _ => held.holders.iter().copied().filter(|other| *other != drive).collect(),
            };
            last = Some((std::mem::replace(&mut held.holders, new.clone()), new));
        }
        lost
    }

    pub(super) fn insert(&self, batch: &Batch, holders: &Arc<[DriveId]>) {
        let mut map = self.held.write().unwrap_or_else(PoisonError::into_inner);
        for entry in &batch.entries {
            let held = Held {
                hash: entry.hash,
                prev_hash: entry.prev_hash,
                epoch: entry.epoch,
                len: u32::try_from(entry.bytes.len()).unwrap_or(u32::MAX),
                holders: holders.clone(),
            };
            map.insert(entry.lsn, held);
        }
        drop(map);
        let mut in_flight = self.in_flight.write().unwrap_or_else(PoisonError::into_inner);
        batch.entries.iter().for_each(|entry| drop(in_flight.remove(&entry.lsn)));
    }

    /// Forgets entries that are sealed: they are about to be freed.
    pub fn forget_upto(&self, upto: Lsn) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let keep = held.split_off(&upto.next());
        *held = keep;
    }

    /// Reads `range` of an entry's bytes from any drive that holds it, until what came satisfies `good`. Blocks are verified
    /// by the node; `good` is needed all the same, since a drive may also hold an entry of that LSN that lost a recovery.
    ///
    /// The next holder is asked when one fails, and also when none of those asked answers soon ([`Patience`]).
    pub async fn read_checked<T>(
        &self,
        node: &dyn NodeClient,
        lsn: Lsn,
        range: Range<u32>,
        good: impl Fn(Bytes) -> Option<T> + Send + Sync,
    ) -> Result<T, JournalReadError> {
        let slice = |bytes: Bytes| {
            (range.end as usize <= bytes.len()).then(|| bytes.slice(range.start as usize..range.end as usize))
        };
        // What is in flight may be another entry of this LSN, that came to nothing: only what is good counts.
        if let Some(value) = self.in_flight(lsn).filter(|_| !range.is_empty()).and_then(slice).and_then(&good) {
            return Ok(value);
        }
        let held = self.get(lsn).ok_or(JournalReadError::NotFound(lsn))?;
        let Patience { hedge_after, deadline } = self.patience;
        let read = |drive| {
            let reading = read_in_time(drive, deadline, node.journal_read(drive, lsn, range.clone()));
            async move { (drive, reading.await) }
        };
        let mut holders = self.quick_first(&held.holders).into_iter();
        let (mut asked, mut reading, mut last) = (Vec::new(), FuturesUnordered::new(), None);
        loop {
            if let Some(drive) = holders.next() {
                asked.push(drive);
                reading.push(read(drive));
            }
            tokio::select! {
                biased;
                answer = reading.next() => match answer {
                    Some((drive, answer)) => {
                        asked.retain(|other| *other != drive);
                        match answer.map(&good) {
                            Ok(Some(value)) => {
                                self.mark_quick(drive);
                                return Ok(value);
                            }
                            Ok(None) => last = Some(ReadError::Damaged { segment: 0, block: 0 }),
                            Err(error) => last = Some(error),
                        }
                    }
                    None => return Err(JournalReadError::NoCopy { lsn, last }),
                },
                () = sleep(hedge_after), if holders.len() > 0 => self.mark_slow(&asked),
            }
        }
    }

    /// The holders in the order in which they are asked: those that were slow a moment ago come last.
    fn quick_first(&self, holders: &[DriveId]) -> Vec<DriveId> {
        let slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        let is_slow = |drive: &DriveId| slow.get(drive).is_some_and(|since| since.elapsed() < SLOW_FOR);
        let (last, mut first): (Vec<_>, Vec<_>) = holders.iter().copied().partition(is_slow);
        first.extend(last);
        first
    }

    fn mark_slow(&self, drives: &[DriveId]) {
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        for drive in drives {
            if slow.insert(*drive, Instant::now()).is_none() {
                tracing::warn!(%drive, "a drive is slow to give a journal entry; the others are asked first");
            }
        }
    }

    fn mark_quick(&self, drive: DriveId) {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner).remove(&drive);
    }

    /// Reads a whole entry, verified down to its hash.
    pub async fn entry(&self, node: &dyn NodeClient, lsn: Lsn) -> Result<Entry, JournalReadError> {
        let held = self.get(lsn).ok_or(JournalReadError::NotFound(lsn))?;
        let good = |bytes| parse_entry(bytes).ok().filter(|e| e.lsn == lsn && e.hash == held.hash);
        self.read_checked(node, lsn, 0..held.len, good).await
    }
}
