//! Walks the records of one segment from its medium, in order, and notes what is wrong.

use super::Halt;
use super::check::{Bad, Checker, Content, Payload, Record};
use super::origin::Searcher;
use super::reader::{BlockState, MediumReader, Pace};
use super::rows::Checks;
use crate::client::Lost;
use crate::disk::Access;
use crate::index::ShardPlace;
use crate::keep::{FindingKind, Medium, Subject};
use crate::kv::{KvBatch, KvError};
use crate::open::OpenDrive;
use crate::segment::{HEADER_SPACE, SegmentMeta, segment_path};
use codec::block::{BLOCK, open_blocks};
use codec::id::{Lsn, ShardId};
use codec::segment::{Chain, RecordHeader, SegmentClass};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows that one step through the index takes.
const INDEX_STEP: usize = 4096;

/// What a walk works with.
pub(crate) struct Tools<'a> {
    pub pace: &'a mut dyn Pace,
    pub searcher: &'a mut Searcher,
    /// What is to be written when the walk is saved.
    pub batch: &'a mut KvBatch,
}

/// What may lie at a block, by what the node remembers.
enum Named {
    Shard(ShardId),
    Entries(Lsn, Lsn),
}

/// A segment on its way through scrub.
pub(crate) struct Walk<'a> {
    drive: &'a OpenDrive,
    meta: Arc<SegmentMeta>,
    reader: MediumReader,
    /// Everything below is acknowledged.
    end: u64,
    chain: Chain,
    /// The shards that the index has in this segment, by block; filled when a header is broken.
    names: Option<BTreeMap<u64, ShardId>>,
    /// Good records of shards of which the index knows nothing.
    unknown: Vec<(Record, ShardId)>,
}

impl OpenDrive {
    /// Up to which block everything in a segment is acknowledged, as far as is known.
    pub(super) fn acknowledged(&self, meta: &SegmentMeta) -> Result<u64, KvError> {
        let number = meta.header.number;
        if meta.class() == SegmentClass::Journal {
            return Ok(self.journal().get(number).map_or(1, |segment| segment.end_block));
        }
        if let Some(closed) = self.closed_length(number) {
            return Ok(closed.closed_blocks);
        }
        let row = self.index.segment(number)?.filter(|row| row.header == meta.header);
        Ok(row.map_or(1, |row| row.chain.block))
    }

    /// Segments that are known to have been there and can't be used: their file or their header is gone.
    pub(super) fn lost_segments(&self) -> BTreeSet<u64> {
        let lost = self.damaged().into_iter().filter(|damage| damage.what == Lost::Segment);
        lost.map(|damage| damage.segment).filter(|number| self.segment(*number).is_none()).collect()
    }

    /// Segments that the index names and that are not there.
    pub(super) fn segments_astray(&self) -> Result<BTreeSet<u64>, KvError> {
        let (mut astray, mut after) = (BTreeSet::new(), None);
        loop {
            let rows = self.index.list(after, INDEX_STEP)?;
            astray.extend(rows.iter().map(|(_, p)| p.segment).filter(|number| self.segment(*number).is_none()));
            match rows.last() {
                Some((last, _)) if rows.len() == INDEX_STEP => after = Some(*last),
                _ => return Ok(astray),
            }
        }
    }

    /// Notes what was in such a segment.
    pub(super) fn note_lost(&self, number: u64) -> Result<(), Halt> {
        self.vouch()?;
        let there = |class| self.disk.open(&segment_path(class, number), Access::Read).is_ok();
        let bad = match [SegmentClass::Data, SegmentClass::Journal].into_iter().any(there) {
            true => Bad { kind: FindingKind::Damaged, detail: format!("the header of segment {number} is gone") },
            false => Bad { kind: FindingKind::Missing, detail: format!("segment {number} is gone") },
        };
        let shards = self.shards_in(number)?;
        let known = self.damaged().iter().any(|damage| damage.segment == number);
        for (block, shard) in &shards {
            self.note_shard(*shard, (number, *block), &bad)?;
        }
        let settled = self.scrub.rows.is_dead(ShardPlace { segment: number, block: 0 })?;
        if shards.is_empty() && known && !settled {
            let subject = Subject::Blocks { segment: number, start: 0, end: 1 };
            let unknown = Bad { kind: FindingKind::Unknown, ..bad };
            self.scrub.findings.note(self.noted(subject, Some((number, 0)), &unknown))?;
        }
        Ok(())
    }

    /// Every shard that the index has in a segment, by block.
    pub(crate) fn shards_in(&self, segment: u64) -> Result<BTreeMap<u64, ShardId>, KvError> {
        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let rows = self.index.list(after, INDEX_STEP)?;
            found.extend(rows.iter().filter(|(_, p)| p.segment == segment).map(|(shard, p)| (p.block, *shard)));
            match rows.last() {
                Some((last, _)) if rows.len() == INDEX_STEP => after = Some(*last),
                _ => return Ok(found),
            }
        }
    }
}

impl<'a> Walk<'a> {
    /// Begins, or goes on where an earlier walk stood. `None`: there is nothing to read; what is missing is noted.
    pub fn begin(
        drive: &'a OpenDrive,
        meta: Arc<SegmentMeta>,
        chain: Option<Chain>,
        tools: &mut Tools<'_>,
    ) -> Result<Option<Walk<'a>>, Halt> {
        let end = drive.acknowledged(&meta)?;
        let reader = match MediumReader::open(&*drive.disk, &meta.path(), end)? {
            Ok(reader) => reader,
            Err(bad) => {
                drive.vouch_medium(bad.kind)?;
                if drive.segment(meta.header.number).is_some() {
                    note_all(drive, &meta, end, &bad)?;
                }
                return Ok(None);
            }
        };
        let from_start = chain.is_none();
        let chain = chain.unwrap_or_else(|| meta.start());
        let mut walk = Walk { drive, meta, reader, end, chain, names: None, unknown: Vec::new() };
        if from_start {
            walk.check_segment_header(tools)?;
        }
        Ok(Some(walk))
    }

    /// Where it stands.
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// How it reads.
    pub fn medium(&self) -> Medium {
        self.reader.medium
    }

    /// Checks the next record. `false`: there is none.
    pub fn step(&mut self, tools: &mut Tools<'_>) -> Result<bool, Halt> {
        if self.chain.block >= self.end || self.drive.segment(self.meta.header.number).is_none() {
            self.settle_unknown(tools)?;
            return Ok(false);
        }
        let (number, chain) = (self.chain.block, self.chain);
        match self.checker(tools).header(number, Some(&chain))? {
            Ok(record) if record.header.next_block() > self.end => {
                // The index is behind: what it does not know to be synced is looked at another time.
                self.chain.block = self.end;
            }
            Ok(record) => {
                let payload = self.checker(tools).payload(&record)?;
                self.settle(&record, payload, tools)?;
                self.chain = chain.after(&record.header).unwrap_or(Chain { block: self.end, ..chain });
            }
            Err(bad) => self.lost(number, &bad, tools)?,
        }
        Ok(true)
    }

    fn checker<'b>(&'b mut self, tools: &'b mut Tools<'_>) -> Checker<'b> {
        Checker {
            meta: &self.meta,
            reader: &mut self.reader,
            pace: tools.pace,
            searcher: tools.searcher,
            shared: &self.drive.scrub.shared,
        }
    }

    fn number(&self) -> u64 {
        self.meta.header.number
    }

    fn here(&self, block: u64) -> ShardPlace {
        ShardPlace { segment: self.number(), block }
    }

    fn check_segment_header(&mut self, tools: &mut Tools<'_>) -> Result<(), Halt> {
        let number = self.number();
        let Some(bad) = self.checker(tools).segment_header()? else {
            self.drive.scrub.findings.clear_places(tools.batch, number, 0..1);
            return Ok(());
        };
        // The index has no shard here, and the node could not write the header again when this pass began (crate::mend): nobody
        // needs it any more. Whoever knows all shards that should be on the drive settles that, and it is not noted again.
        let is_empty = self.meta.class() == SegmentClass::Data && self.drive.shards_in(number)?.is_empty();
        if is_empty && self.drive.scrub.rows.is_dead(self.here(0))? {
            return Ok(());
        }
        let is_retired = is_empty && self.drive.scrub.findings.has_place(number, 0);
        let kind = if is_retired { FindingKind::Unknown } else { bad.kind };
        self.note_blocks(0, 1, &Bad { kind, ..bad })
    }

    /// Draws the conclusions from a record whose header is good.
    fn settle(&mut self, record: &Record, payload: Payload, tools: &mut Tools<'_>) -> Result<(), Halt> {
        let (block, next) = (record.header.block, record.header.next_block());
        let bad = match payload {
            Payload::Good => None,
            Payload::Bad(bad) => Some(bad),
            Payload::Zeroed => {
                let detail = format!("block {} is zeros", record.header.payload_block());
                Some(Bad { kind: FindingKind::Missing, detail })
            }
        };
        match (&record.content, bad) {
            (Content::Shard(shard), bad) => {
                self.drive.scrub.findings.clear_places(tools.batch, self.number(), block..next);
                self.settle_shard(record, shard.id(), bad)
            }
            (_, None) => {
                self.drive.scrub.findings.clear_places(tools.batch, self.number(), block..next);
                Ok(())
            }
            (Content::Batch(batch), Some(bad)) => {
                self.note_place(Subject::Entries(batch.first, batch.last), block, &bad)
            }
            (Content::Foreign, Some(bad)) => self.note_blocks(block, next, &bad),
        }
    }

    fn settle_shard(&mut self, record: &Record, shard: ShardId, bad: Option<Bad>) -> Result<(), Halt> {
        let block = record.header.block;
        match (self.drive.index.place(shard)?, bad) {
            (Some(place), bad) if place == self.here(block) => match bad {
                None => self.drive.found_good(shard, place).map_err(Halt::from),
                Some(bad) => self.note_shard(shard, block, &bad),
            },
            // A newer copy is the one that counts.
            (Some(_), _) => Ok(()),
            (None, None) => {
                self.unknown.push((record.clone(), shard));
                Ok(())
            }
            // Freed, or never answered for.
            (None, Some(_)) => Ok(()),
        }
    }

    /// A header is broken: finds the next one, and notes what lies between.
    fn lost(&mut self, broken: u64, bad: &Bad, tools: &mut Tools<'_>) -> Result<(), Halt> {
        let next = self.next_header(broken, tools)?;
        let until = next.as_ref().map_or(self.end, |header| header.block);
        let mut named = false;
        for (block, name) in self.named(broken..until)? {
            let own = if block == broken { None } else { self.checker(tools).header(block, None)?.err() };
            let bad = own.as_ref().unwrap_or(bad);
            named = true;
            match name {
                Named::Shard(shard) => self.note_shard(shard, block, bad)?,
                Named::Entries(first, last) => self.note_place(Subject::Entries(first, last), block, bad)?,
            }
        }
        if !named && !self.drive.scrub.rows.is_dead(self.here(broken))? {
            let unknown = Bad { kind: FindingKind::Unknown, detail: bad.detail.clone() };
            self.note_blocks(broken, until, &unknown)?;
        }
        self.chain = match next {
            Some(next) => Chain {
                block: next.block,
                seq: next.seq,
                prev_hash: next.prev_hash,
                barrier_block: self.chain.barrier_block.min(next.barrier_block),
            },
            None => Chain { block: self.end, ..self.chain },
        };
        Ok(())
    }

    fn next_header(&mut self, broken: u64, tools: &mut Tools<'_>) -> Result<Option<RecordHeader>, Halt> {
        let seed = self.meta.seed;
        let mut number = broken + 1;
        while number < self.end {
            let (run, state) = self.reader.run(number, self.end - number, tools.pace)?;
            if state == BlockState::Absent {
                return Ok(None);
            }
            let blocks = run.len() / BLOCK;
            if state == BlockState::Read {
                for (n, block) in (number..).zip(run.chunks_exact(BLOCK)) {
                    let payload = open_blocks(seed, n | HEADER_SPACE, block).ok();
                    let header = payload.and_then(|payload| RecordHeader::parse(&payload).ok());
                    let header = header.filter(|h| h.block == n && h.seq > self.chain.seq);
                    if header.is_some() {
                        return Ok(header);
                    }
                }
            }
            number += blocks.max(1) as u64;
        }
        Ok(None)
    }

    /// What the node remembers to be in a range of blocks.
    fn named(&mut self, blocks: std::ops::Range<u64>) -> Result<Vec<(u64, Named)>, Halt> {
        if self.meta.class() == SegmentClass::Journal {
            return Ok(entries_in(self.drive, self.number(), blocks));
        }
        if self.names.is_none() {
            self.names = Some(self.drive.shards_in(self.number())?);
        }
        let names = self.names.iter().flat_map(|names| names.range(blocks.clone()));
        Ok(names.map(|(block, shard)| (*block, Named::Shard(*shard))).collect())
    }

    /// Shards that the index does not know, looked at again: what was being freed is freed by now. The next start reads
    /// the drive's headers anew if one remains.
    fn settle_unknown(&mut self, tools: &mut Tools<'_>) -> Result<(), Halt> {
        for (record, shard) in std::mem::take(&mut self.unknown) {
            if self.drive.index.place(shard)?.is_some() || self.checker(tools).is_zeroed(&record)? {
                continue;
            }
            if self.drive.segment(self.number()).is_none() {
                return Ok(());
            }
            tracing::warn!(drive = %self.drive.identity.drive, %shard, "the index does not know a shard of the drive");
            self.drive.index.suspect()?;
        }
        Ok(())
    }

    fn note_shard(&self, shard: ShardId, block: u64, bad: &Bad) -> Result<(), Halt> {
        self.drive.vouch_medium(bad.kind)?;
        if self.drive.segment(self.number()).is_some() {
            self.drive.note_shard(shard, (self.number(), block), bad)?;
        }
        Ok(())
    }

    fn note_blocks(&self, start: u64, end: u64, bad: &Bad) -> Result<(), Halt> {
        self.note_place(Subject::Blocks { segment: self.number(), start, end }, start, bad)
    }

    fn note_place(&self, subject: Subject, block: u64, bad: &Bad) -> Result<(), Halt> {
        self.drive.vouch_medium(bad.kind)?;
        if self.drive.segment(self.number()).is_some() {
            self.drive.scrub.findings.note(self.drive.noted(subject, Some((self.number(), block)), bad))?;
        }
        Ok(())
    }
}

impl OpenDrive {
    /// A shard verified from the medium, at this place.
    pub(super) fn found_good(&self, shard: ShardId, place: ShardPlace) -> Result<(), KvError> {
        let _alone = self.scrub.settling();
        let known = self.scrub.rows.checks(shard)?.unwrap_or_default();
        let now = self.scrub.now();
        let checks = Checks { good_ms: now.max(1), count: known.count.saturating_add(1), ..known };
        let mut batch = KvBatch::new();
        self.scrub.rows.put_checks(&mut batch, shard, &checks);
        // That the bytes are what was written says nothing about whose they are.
        if self.scrub.findings.of_shard(shard).is_some_and(|f| f.kind != FindingKind::WrongGeneration) {
            self.scrub.findings.clear_shard(&mut batch, shard);
        }
        self.scrub.rows.write(batch)?;
        // It may have been freed, or written again, since its bytes were read: then this row must not stay. One without a
        // place would make a shard that was freed look like one that the index has lost.
        let mut batch = KvBatch::new();
        match self.index.place(shard)? {
            Some(now) if now == place => {}
            Some(_) => self.scrub.rows.put_checks(&mut batch, shard, &Checks { written_ms: now, ..Checks::default() }),
            None => self.scrub.rows.delete_checks(&mut batch, shard),
        }
        self.scrub.rows.write(batch)
    }
}

fn entries_in(drive: &OpenDrive, number: u64, blocks: std::ops::Range<u64>) -> Vec<(u64, Named)> {
    let journal = drive.journal();
    let records = journal.get(number).into_iter().flat_map(|segment| segment.records.iter());
    let inside = records.filter(|record| blocks.contains(&record.block));
    inside.map(|record| (record.block, Named::Entries(record.first, record.last))).collect()
}

/// Nothing can be had of a segment.
fn note_all(drive: &OpenDrive, meta: &SegmentMeta, end: u64, bad: &Bad) -> Result<(), Halt> {
    let number = meta.header.number;
    let named: Vec<(u64, Named)> = match meta.class() {
        SegmentClass::Journal => entries_in(drive, number, 0..u64::MAX),
        SegmentClass::Data => {
            drive.shards_in(number)?.into_iter().map(|(block, shard)| (block, Named::Shard(shard))).collect()
        }
    };
    for (block, name) in &named {
        match *name {
            Named::Shard(shard) => drive.note_shard(shard, (number, *block), bad)?,
            Named::Entries(first, last) => {
                let noted = drive.noted(Subject::Entries(first, last), Some((number, *block)), bad);
                drive.scrub.findings.note(noted)?;
            }
        }
    }
    if named.is_empty() && end > 1 && !drive.scrub.rows.is_dead(ShardPlace { segment: number, block: 0 })? {
        let subject = Subject::Blocks { segment: number, start: 0, end };
        let unknown = Bad { kind: FindingKind::Unknown, ..bad.clone() };
        drive.scrub.findings.note(drive.noted(subject, Some((number, 0)), &unknown))?;
    }
    Ok(())
}
