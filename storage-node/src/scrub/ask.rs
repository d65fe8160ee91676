//! Answers about what is stored: verified now, verified when, and what is there at all.

use super::check::{Bad, Checker, Content, Payload};
use super::origin::Searcher;
use super::reader::{MediumReader, Pace};
use super::{DriveScrub, Halt};
use crate::client::ReadError;
use crate::index::ShardPlace;
use crate::keep::{Finding, FindingKind, ScrubState, ScrubStatus, ShardRef, Subject, Verified};
use crate::kv::{KvBatch, KvError};
use crate::open::OpenDrive;
use crate::segment::{BLOCK_BYTES, SegmentMeta};
use codec::id::ShardId;
use codec::segment::SegmentClass;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Rows that one step through the index takes.
const STEP: usize = 1024;
/// Counts that took a time to make are used for so many times as long.
const TALLY_FACTOR: u32 = 20;

/// The shards of a drive, counted.
#[derive(Clone, Copy, Debug)]
struct Tally {
    shards: u64,
    verified: u64,
    oldest_ms: u64,
    made: Instant,
    took: Duration,
}

/// The counts that were made last.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    /// How often they were to be forgotten.
    forgotten: u64,
    last: Option<Tally>,
}

impl Tallies {
    fn known(&self) -> Option<Tally> {
        self.last.filter(|known| known.made.elapsed() < known.took * TALLY_FACTOR)
    }

    fn forget(&mut self) {
        self.forgotten += 1;
        self.last = None;
    }

    /// Keeps what was counted, unless that began before the last word to forget it: it may not have what the word is about.
    fn keep(&mut self, forgotten: u64, tally: Tally) {
        if self.forgotten == forgotten {
            self.last = Some(tally);
        }
    }
}

/// No waiting: somebody waits for the answer. Only the end of the node comes first.
struct AtOnce<'a>(&'a DriveScrub);

impl Pace for AtOnce<'_> {
    fn spend(&mut self, _bytes: u64, _took: Duration) -> Result<(), Halt> {
        if self.0.control().stop { Err(Halt::Interrupted) } else { Ok(()) }
    }
}

/// What came of looking at a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It verified, at this place.
    Good(ShardPlace),
    /// Something is wrong with it, at this place.
    Bad(ShardPlace, Bad),
    /// The index knows of no such shard.
    NotHere,
}

/// Reads shards from the medium, wherever they lie; keeps the last segment open.
pub(crate) struct ShardReader<'a> {
    drive: &'a OpenDrive,
    open: Option<(Arc<SegmentMeta>, MediumReader)>,
    searcher: Searcher,
}

impl<'a> ShardReader<'a> {
    pub fn new(drive: &'a OpenDrive) -> ShardReader<'a> {
        ShardReader { drive, open: None, searcher: drive.scrub.shared.searcher() }
    }

    /// Verifies a shard: header, blocks, content; and its root, if one is given.
    pub fn check(&mut self, shard: ShardId, root: Option<[u8; 32]>, pace: &mut dyn Pace) -> Result<Outcome, Halt> {
        let mut outcome = Outcome::NotHere;
        // Written again or freed while it was read: what was seen is of no interest any more.
        for _ in 0..3 {
            let Some(place) = self.drive.index.place(shard)? else { return Ok(Outcome::NotHere) };
            let bad = self.check_at(shard, root, place, pace)?;
            outcome = bad.map_or(Outcome::Good(place), |bad| Outcome::Bad(place, bad));
            if self.drive.index.place(shard)? == Some(place) {
                break;
            }
        }
        if let Outcome::Bad(_, bad) = &outcome {
            self.drive.vouch_medium(bad.kind)?;
        }
        Ok(outcome)
    }

    fn check_at(
        &mut self,
        shard: ShardId,
        root: Option<[u8; 32]>,
        place: ShardPlace,
        pace: &mut dyn Pace,
    ) -> Result<Option<Bad>, Halt> {
        let found = match self.header_at(shard, place, pace)? {
            Ok(found) => found,
            Err(bad) => return Ok(Some(bad)),
        };
        if root.is_some_and(|root| root != found) {
            let detail = "the shard of that name belongs to another stripe".to_owned();
            return Ok(Some(Bad { kind: FindingKind::WrongGeneration, detail }));
        }
        let Some(mut checker) = self.checker(pace) else { return Ok(None) };
        let record = match checker.header(place.block, None)? {
            Ok(record) => record,
            Err(bad) => return Ok(Some(bad)),
        };
        checker.reader.end = record.header.next_block();
        Ok(match checker.payload(&record)? {
            Payload::Good => None,
            Payload::Bad(bad) => Some(bad),
            Payload::Zeroed => Some(missing(format!("block {} is zeros", record.header.payload_block()))),
        })
    }

    /// Reads the header where the index says that a shard lies; gives its root.
    fn header_at(
        &mut self,
        shard: ShardId,
        place: ShardPlace,
        pace: &mut dyn Pace,
    ) -> Result<Result<[u8; 32], Bad>, Halt> {
        let Some(meta) = self.drive.segment(place.segment).filter(|meta| meta.class() == SegmentClass::Data) else {
            // Lost, and known to be: its rows say what is missing. Otherwise they are wrong.
            if !self.drive.lost_segments().contains(&place.segment) {
                self.drive.index.suspect()?;
            }
            return Ok(Err(missing(format!("segment {} is not there", place.segment))));
        };
        if let Some(bad) = self.open(&meta)? {
            self.drive.vouch_medium(bad.kind)?;
            return Ok(Err(bad));
        }
        let Some(mut checker) = self.checker(pace) else { return Ok(Err(missing(meta.path()))) };
        // The header and one block more: what is freed shows there.
        checker.reader.end = place.block + 2;
        match checker.header(place.block, None)? {
            Err(bad) => Ok(Err(bad)),
            Ok(record) => match record.content {
                Content::Shard(header) if header.id() == shard => Ok(Ok(header.descriptor.root())),
                _ => {
                    self.drive.index.suspect()?;
                    Ok(Err(missing(format!("block {} of segment {} holds something else", place.block, place.segment))))
                }
            },
        }
    }

    /// Whether the header of a shard is there, on the medium, and its payload was not freed; gives its root.
    fn present(&mut self, shard: ShardId, place: ShardPlace) -> Result<Result<[u8; 32], Bad>, Halt> {
        let drive = self.drive;
        let mut pace = AtOnce(&drive.scrub);
        let root = match self.header_at(shard, place, &mut pace)? {
            Ok(root) => root,
            Err(bad) => return Ok(Err(bad)),
        };
        let Some(mut checker) = self.checker(&mut pace) else { return Ok(Ok(root)) };
        let Ok(record) = checker.header(place.block, None)? else { return Ok(Ok(root)) };
        let zeroed = checker.begins_with_zeros(&record)?;
        let bad = || missing(format!("block {} is zeros", record.header.payload_block()));
        Ok(if zeroed { Err(bad()) } else { Ok(root) })
    }

    fn open(&mut self, meta: &Arc<SegmentMeta>) -> Result<Option<Bad>, Halt> {
        if self.open.as_ref().is_some_and(|(open, _)| Arc::ptr_eq(open, meta)) {
            return Ok(None);
        }
        self.open = None;
        match MediumReader::open(&*self.drive.disk, &meta.path(), 0)? {
            Ok(reader) => self.open = Some((Arc::clone(meta), reader)),
            Err(bad) => return Ok(Some(bad)),
        }
        Ok(None)
    }

    fn checker<'b>(&'b mut self, pace: &'b mut dyn Pace) -> Option<Checker<'b>> {
        let (meta, reader) = self.open.as_mut()?;
        Some(Checker { meta, reader, pace, searcher: &mut self.searcher, shared: &self.drive.scrub.shared })
    }

    /// Keeps what came of a check.
    pub fn record(&self, shard: ShardId, outcome: &Outcome) -> Result<(), KvError> {
        match outcome {
            Outcome::Good(place) => self.drive.found_good(shard, *place),
            Outcome::Bad(place, bad) => self.drive.note_shard(shard, (place.segment, place.block), bad),
            // Of a shard that this drive never had there is nothing to remember.
            Outcome::NotHere => self.drive.note_if_unindexed(shard),
        }
    }
}

fn missing(detail: String) -> Bad {
    Bad { kind: FindingKind::Missing, detail }
}

impl OpenDrive {
    fn halted(&self, halt: Halt) -> ReadError {
        let reason = match halt {
            Halt::Gone(reason) | Halt::NotNow(reason) => reason,
            Halt::Interrupted => "the node is stopping".to_owned(),
        };
        ReadError::DriveFailed { drive: self.identity.drive, reason }
    }

    fn asked<T>(&self, answer: impl FnOnce() -> Result<T, Halt>) -> Result<T, ReadError> {
        if let Some(reason) = self.health.failed() {
            return Err(ReadError::DriveFailed { drive: self.identity.drive, reason });
        }
        answer().map_err(|halt| self.halted(halt))
    }

    /// See [`crate::client::NodeClient::verify_shards`].
    pub fn verify_shards(&self, shards: &[ShardRef]) -> Result<Vec<Result<(), Finding>>, ReadError> {
        self.asked(|| {
            let mut reader = ShardReader::new(self);
            shards.iter().map(|shard| self.verify_shard(&mut reader, shard)).collect()
        })
    }

    fn verify_shard(&self, reader: &mut ShardReader<'_>, shard: &ShardRef) -> Result<Result<(), Finding>, Halt> {
        let outcome = reader.check(shard.id, Some(shard.root), &mut AtOnce(&self.scrub))?;
        if let Outcome::Good(_) = outcome {
            // Whatever was said of it, its generation included.
            let mut batch = KvBatch::new();
            self.scrub.findings.clear_shard(&mut batch, shard.id);
            self.scrub.rows.write(batch)?;
        }
        reader.record(shard.id, &outcome)?;
        let bad = match outcome {
            Outcome::Good(_) => return Ok(Ok(())),
            Outcome::Bad(_, bad) => bad,
            Outcome::NotHere => missing("the index does not know it".to_owned()),
        };
        let noted = self.scrub.findings.of_shard(shard.id).filter(|finding| finding.kind == bad.kind);
        Ok(Err(noted.unwrap_or_else(|| self.noted(Subject::Shard(shard.id), None, &bad).finding)))
    }

    /// See [`crate::client::NodeClient::verified`].
    pub fn verified(&self, shards: &[ShardId]) -> Result<Vec<Option<Verified>>, ReadError> {
        self.asked(|| shards.iter().map(|shard| Ok(self.verified_shard(*shard)?)).collect())
    }

    fn verified_shard(&self, shard: ShardId) -> Result<Option<Verified>, KvError> {
        if self.index.place(shard)?.is_none() {
            return Ok(None);
        }
        let checks = self.scrub.rows.checks(shard)?.unwrap_or_default();
        let finding = self.scrub.findings.of_shard(shard);
        Ok(Some(Verified { good_ms: checks.good_ms, written_ms: checks.written_ms, finding }))
    }

    /// See [`crate::client::NodeClient::inventory`].
    pub fn inventory(&self, after: Option<ShardId>, limit: usize) -> Result<Vec<ShardRef>, ReadError> {
        self.asked(|| {
            let mut reader = ShardReader::new(self);
            let (mut out, mut last) = (Vec::new(), after);
            while out.len() < limit {
                let step = STEP.min(limit - out.len());
                let rows = self.index.list(last, step)?;
                for (id, place) in &rows {
                    out.extend(self.inventory_shard(&mut reader, *id, *place)?);
                }
                let end = rows.last().map(|(id, _)| *id).filter(|_| rows.len() == step);
                self.note_unindexed(last, end)?;
                if end.is_none() {
                    break;
                }
                last = end;
            }
            Ok(out)
        })
    }

    fn inventory_shard(
        &self,
        reader: &mut ShardReader<'_>,
        id: ShardId,
        place: ShardPlace,
    ) -> Result<Option<ShardRef>, Halt> {
        match reader.present(id, place)? {
            Ok(root) => Ok(Some(ShardRef { id, root })),
            Err(bad) => {
                self.vouch_medium(bad.kind)?;
                if self.index.place(id)? == Some(place) {
                    self.note_shard(id, (place.segment, place.block), &bad)?;
                }
                Ok(None)
            }
        }
    }

    /// Shards that were written here, were never freed, and are not in the index: it lost their rows, and when it was
    /// rebuilt their headers were not there any more. Between two ids, the first one left out.
    pub(super) fn note_unindexed(&self, after: Option<ShardId>, until: Option<ShardId>) -> Result<(), KvError> {
        let mut last = after;
        loop {
            let rows = self.scrub.rows.list_checks(last, STEP)?;
            for (shard, _) in &rows {
                if until.is_some_and(|until| *shard > until) {
                    return Ok(());
                }
                if self.index.place(*shard)?.is_none() {
                    self.note_if_unindexed(*shard)?;
                }
            }
            match rows.last() {
                Some((shard, _)) if rows.len() == STEP => last = Some(*shard),
                _ => return Ok(()),
            }
        }
    }

    fn note_if_unindexed(&self, shard: ShardId) -> Result<(), KvError> {
        let _alone = self.scrub.settling();
        // In this order: a free takes both rows at once, and a write puts both. Of a shard that was never here there is
        // nothing to remember.
        let placed = || Ok::<bool, KvError>(self.index.place(shard)?.is_some());
        if placed()? || self.scrub.rows.checks(shard)?.is_none() || placed()? {
            return Ok(());
        }
        let bad = missing("the index has lost it, and no header names it".to_owned());
        self.scrub.findings.note(self.noted(Subject::Shard(shard), None, &bad))
    }

    /// See [`crate::client::NodeClient::settle_unnamed`]. The place is remembered as dead, so that the next pass does not note
    /// it again.
    pub fn settle_unnamed(&self, unnamed: &[Subject]) -> Result<u64, ReadError> {
        self.asked(|| {
            let mut batch = KvBatch::new();
            let mut settled = 0;
            for (segment, block) in self.scrub.findings.take_unnamed(&mut batch, unnamed) {
                self.scrub.rows.put_dead(&mut batch, ShardPlace { segment, block });
                settled += 1;
            }
            self.scrub.rows.write(batch)?;
            Ok(settled)
        })
    }

    /// Bytes of segments on the drive.
    pub(super) fn scrub_bytes(&self) -> Result<u64, KvError> {
        let metas: Vec<_> = self.segments.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        metas.iter().map(|meta| Ok(self.acknowledged(meta)? * BLOCK_BYTES)).sum()
    }

    fn tally(&self) -> Result<Tally, KvError> {
        let forgotten = {
            let tallies = self.scrub.tally.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = tallies.known() {
                return Ok(known);
            }
            tallies.forgotten
        };
        let began = Instant::now();
        let (mut shards, mut verified, mut oldest) = (0, 0, u64::MAX);
        let mut after = None;
        loop {
            let rows = self.index.list(after, STEP)?;
            // One more in each: the two advance together as long as neither has a row that the other lacks.
            let checks: std::collections::BTreeMap<_, _> = match rows.last() {
                Some(_) => self.scrub.rows.list_checks(after, 2 * STEP)?.into_iter().collect(),
                None => Default::default(),
            };
            let reached = checks.keys().next_back().copied();
            for (shard, _) in &rows {
                let known = match reached {
                    Some(reached) if *shard <= reached => checks.get(shard).copied(),
                    _ => self.scrub.rows.checks(*shard)?,
                };
                let known = known.unwrap_or_default();
                shards += 1;
                verified += u64::from(known.good_ms > 0);
                oldest = oldest.min(known.known_ms());
            }
            match rows.last() {
                Some((shard, _)) if rows.len() == STEP => after = Some(*shard),
                _ => break,
            }
        }
        let oldest_ms = if shards == 0 { 0 } else { oldest };
        let tally = Tally { shards, verified, oldest_ms, made: Instant::now(), took: began.elapsed() };
        self.scrub.tally.lock().unwrap_or_else(PoisonError::into_inner).keep(forgotten, tally);
        Ok(tally)
    }

    /// See [`crate::client::NodeClient::scrub_status`].
    pub fn scrub_status(&self) -> Result<ScrubStatus, KvError> {
        // In this order: of a pass that has ended, the counts say what it did.
        let progress = *self.scrub.progress();
        let tally = self.tally()?;
        let paused = self.scrub.control().paused;
        Ok(ScrubStatus {
            drive: self.identity.drive,
            state: match progress.state {
                _ if self.health.failed().is_some() => ScrubState::Stopped,
                ScrubState::Stopped => ScrubState::Stopped,
                _ if paused => ScrubState::Paused,
                // A pause that has ended and was not noticed yet.
                ScrubState::Paused => ScrubState::Waiting,
                state => state,
            },
            medium: progress.medium,
            pass_began_ms: progress.pass.began_ms,
            last_pass_ms: progress.pass.ended_ms,
            pass_bytes: progress.pass.bytes,
            total_bytes: self.scrub_bytes()?,
            verified_shards: tally.verified,
            shards: tally.shards,
            oldest_ms: tally.oldest_ms,
            findings: self.scrub.findings.by_kind(),
        })
    }
}

impl DriveScrub {
    /// The next status counts anew.
    pub(super) fn forget_tally(&self) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).forget();
    }

    /// How the scrub of a drive looks that can't be read, as far as is known.
    pub fn stopped(drive: codec::id::DriveId) -> ScrubStatus {
        ScrubStatus {
            drive,
            state: ScrubState::Stopped,
            medium: crate::keep::Medium::Direct,
            pass_began_ms: 0,
            last_pass_ms: 0,
            pass_bytes: 0,
            total_bytes: 0,
            verified_shards: 0,
            shards: 0,
            oldest_ms: 0,
            findings: [0; 7],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who waited for the end of a pass saw what was counted before, for as long as counts are used.
    #[test]
    fn what_was_counted_while_a_pass_ended_is_not_kept() {
        let hour = Duration::from_secs(3600);
        let tally = |verified| Tally { shards: 9, verified, oldest_ms: 0, made: Instant::now(), took: hour };
        let mut tallies = Tallies::default();
        let begun = tallies.forgotten;
        tallies.forget();
        tallies.keep(begun, tally(8));
        assert!(tallies.known().is_none());
        tallies.keep(tallies.forgotten, tally(9));
        assert_eq!(tallies.known().map(|tally| tally.verified), Some(9));
        tallies.forget();
        assert!(tallies.known().is_none());
    }
}
