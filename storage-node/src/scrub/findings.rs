//! A drive's list of findings: in memory, and behind every change in the node's index store.
//!
//! The lock is held for a look or an insertion and never across a read of the drive or of the store, because a write that
//! replaces a damaged shard takes its finding out of the list.

use super::rows::ScrubRows;
use crate::index::{parse_shard, shard_bytes};
use crate::keep::{Finding, FindingKind, Subject};
use crate::kv::{KvBatch, KvError};
use codec::id::{DriveId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Findings that are kept per drive; of more than that, only their number.
pub const MAX_FINDINGS: usize = 100_000;

/// What a finding is known by: a shard has one at most, and so has a place that holds no shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum FindingKey {
    /// A shard, wherever it lies.
    Shard(ShardId),
    /// A block of a segment.
    Place {
        /// The segment's number.
        segment: u64,
        /// The first block that it is about.
        block: u64,
    },
}

impl FindingKey {
    pub fn encode(&self) -> Vec<u8> {
        match self {
            FindingKey::Shard(shard) => [&[1], &shard_bytes(*shard)[..]].concat(),
            FindingKey::Place { segment, block } => {
                [&[2], &segment.to_be_bytes()[..], &block.to_be_bytes()[..]].concat()
            }
        }
    }

    pub fn parse(bytes: &[u8]) -> Option<FindingKey> {
        match bytes.split_first()? {
            (1, shard) => Some(FindingKey::Shard(parse_shard(shard)?)),
            (2, rest) => {
                let (segment, rest) = rest.split_first_chunk::<8>()?;
                let block: [u8; 8] = rest.try_into().ok()?;
                Some(FindingKey::Place { segment: u64::from_be_bytes(*segment), block: u64::from_be_bytes(block) })
            }
            _ => None,
        }
    }
}

/// A finding, and where on the drive it was met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Noted {
    pub finding: Finding,
    /// Segment and block; `None` for a shard of which nobody knows where it was.
    pub place: Option<(u64, u64)>,
}

impl Noted {
    pub fn key(&self) -> FindingKey {
        match (self.finding.subject, self.place) {
            (Subject::Shard(shard), _) => FindingKey::Shard(shard),
            (Subject::Blocks { segment, start, .. }, None) => FindingKey::Place { segment, block: start },
            (_, place) => {
                let (segment, block) = place.unwrap_or_default();
                FindingKey::Place { segment, block }
            }
        }
    }
}

#[derive(Debug, Default)]
struct List {
    noted: BTreeMap<FindingKey, Noted>,
    /// Findings that there was no room for.
    unlisted: u64,
}

/// The list of one drive.
#[derive(Debug)]
pub(crate) struct Findings {
    drive: DriveId,
    rows: ScrubRows,
    list: Mutex<List>,
    /// How many there are, so that a write on a drive without findings takes no lock.
    len: AtomicUsize,
}

impl Findings {
    /// The list as the store has it.
    pub fn load(drive: DriveId, rows: ScrubRows) -> Result<Findings, KvError> {
        let noted: BTreeMap<_, _> = rows.findings()?.into_iter().collect();
        let len = AtomicUsize::new(noted.len());
        Ok(Findings { drive, rows, list: Mutex::new(List { noted, unlisted: 0 }), len })
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them; past the limit, one more says how many are not listed.
    pub fn all(&self) -> Vec<Finding> {
        let list = self.lock();
        let mut all: Vec<Finding> = list.noted.values().map(|noted| noted.finding.clone()).collect();
        if list.unlisted > 0 {
            all.push(Finding {
                drive: self.drive,
                subject: Subject::Blocks { segment: 0, start: 0, end: 0 },
                kind: FindingKind::Unknown,
                found_ms: 0,
                detail: format!("{} more findings are not listed", list.unlisted),
            });
        }
        all
    }

    /// How many there are of each kind, in the order of [`FindingKind::ALL`].
    pub fn by_kind(&self) -> [u64; 7] {
        let list = self.lock();
        let mut counts = [0; 7];
        for noted in list.noted.values() {
            let kind = FindingKind::ALL.iter().position(|kind| *kind == noted.finding.kind);
            kind.into_iter().for_each(|kind| counts[kind] += 1);
        }
        counts[6] += list.unlisted;
        counts
    }

    /// What is wrong with a shard, if something is.
    pub fn of_shard(&self, shard: ShardId) -> Option<Finding> {
        if self.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.lock().noted.get(&FindingKey::Shard(shard)).map(|noted| noted.finding.clone())
    }

    /// Segments of which block 0 was found broken.
    pub fn broken_headers(&self) -> Vec<u64> {
        let broken = |noted: &Noted| match noted.finding.subject {
            Subject::Blocks { segment, start: 0, end: 1 } if noted.finding.kind != FindingKind::Unknown => {
                Some(segment)
            }
            _ => None,
        };
        self.lock().noted.values().filter_map(broken).collect()
    }

    /// Whether something was found about a block, other than about a shard there.
    pub fn has_place(&self, segment: u64, block: u64) -> bool {
        self.lock().noted.contains_key(&FindingKey::Place { segment, block })
    }

    /// Adds a finding, or replaces that of the same subject, which keeps its time.
    pub fn note(&self, mut noted: Noted) -> Result<(), KvError> {
        let key = noted.key();
        let mut batch = KvBatch::new();
        {
            let mut list = self.lock();
            match list.noted.get(&key) {
                Some(known) if known.finding.kind == noted.finding.kind => {
                    noted.finding.found_ms = known.finding.found_ms;
                    if *known == noted {
                        return Ok(());
                    }
                }
                // Entries whose names only an earlier start knew.
                Some(Noted { finding: Finding { subject: Subject::Entries(..), .. }, .. })
                    if matches!(noted.finding.subject, Subject::Blocks { .. }) =>
                {
                    return Ok(());
                }
                None if list.noted.len() >= MAX_FINDINGS => {
                    list.unlisted += 1;
                    return Ok(());
                }
                _ => {}
            }
            let Finding { subject, kind, detail, .. } = &noted.finding;
            tracing::warn!(drive = %self.drive, ?subject, kind = kind.name(), detail, "scrub found damage");
            self.rows.put_finding(&mut batch, &key, &noted);
            list.noted.insert(key, noted);
            self.len.store(list.noted.len(), Ordering::Release);
        }
        self.rows.write(batch)
    }

    /// Takes a shard's finding out, in memory and in `batch`.
    pub fn clear_shard(&self, batch: &mut KvBatch, shard: ShardId) {
        self.clear(batch, |list| vec![FindingKey::Shard(shard)].into_iter().filter(|k| list.contains_key(k)).collect());
    }

    /// Takes out what was found about places of a segment, not about shards.
    pub fn clear_places(&self, batch: &mut KvBatch, segment: u64, blocks: Range<u64>) {
        let key = |block| FindingKey::Place { segment, block };
        self.clear(batch, |list| list.range(key(blocks.start)..key(blocks.end)).map(|(key, _)| *key).collect());
    }

    /// Takes out those of `unnamed` that are in the list as damage to nobody knows what; gives their places.
    pub fn take_unnamed(&self, batch: &mut KvBatch, unnamed: &[Subject]) -> Vec<(u64, u64)> {
        let wanted: BTreeSet<Subject> = unnamed.iter().copied().collect();
        let is = |noted: &Noted| noted.finding.kind == FindingKind::Unknown && wanted.contains(&noted.finding.subject);
        let mut places = Vec::new();
        self.clear(batch, |list| {
            let found: Vec<_> = list.iter().filter(|(_, noted)| is(noted)).collect();
            places.extend(found.iter().filter_map(|(_, noted)| noted.place));
            found.into_iter().map(|(key, _)| *key).collect()
        });
        places
    }

    /// Takes out everything that was found in segments that are not there any more.
    pub fn clear_gone(&self, batch: &mut KvBatch, is_there: impl Fn(u64) -> bool) {
        let gone = |noted: &Noted| noted.place.is_some_and(|(segment, _)| !is_there(segment));
        self.clear(batch, |list| list.iter().filter(|(_, noted)| gone(noted)).map(|(key, _)| *key).collect());
    }

    /// A pass begins: what there was no room for is counted anew.
    pub fn count_anew(&self) {
        self.lock().unlisted = 0;
    }

    fn clear(&self, batch: &mut KvBatch, which: impl FnOnce(&BTreeMap<FindingKey, Noted>) -> Vec<FindingKey>) {
        if self.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut list = self.lock();
        for key in which(&list.noted) {
            list.noted.remove(&key);
            self.rows.delete_finding(batch, &key);
        }
        self.len.store(list.noted.len(), Ordering::Release);
    }
}
