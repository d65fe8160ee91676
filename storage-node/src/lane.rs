//! The writing end of one class of segments on one drive: the open segment, and the records staged for the next sync.
//!
//! Two chains are kept. `acked` stands behind the last acknowledged record and only moves when a sync has returned;
//! `staged` stands behind the last record of the group in progress and is thrown away with it. Record headers name
//! `acked.block` as their barrier: what a returned fdatasync covers.

use crate::client::{ReadError, Reserve, WriteError};
use crate::disk::{DiskError, DiskFile};
use crate::index::{SegmentRow, ShardPlace};
use crate::journal::{JournalRecord, JournalSegment};
use crate::kv::{KvBatch, KvError};
use crate::open::release_tail;
use crate::sabotage::{Defect, Sabotage};
use crate::segment::{BLOCK_BYTES, SegmentMeta, Tail, class_dir, seal_record, seal_segment_header, segment_path};
use crate::write::{Append, Body, Reply, Writer, answer};
use bytes::Bytes;
use codec::block::blocks_for;
use codec::id::{Incarnation, Lsn, ShardId};
use codec::segment::{
    Chain, Closed, JournalHead, RecordHeader, RecordKind, SEGMENT_VERSION, SegmentClass, SegmentHeader,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Sealed bytes are handed to the file in pieces of about this size.
const WRITE_PIECE: usize = 4 << 20;

/// Why a group, a segment or a drive failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No space: no strike.
    Full,
    /// The process has no file descriptor left, which says nothing about the drive: no strike.
    NotNow(String),
    /// A write or sync failed: a strike (R6).
    Strike(String),
    /// The drive, its directory or its identity is not what it was (R5, R18).
    Gone(String),
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Failure {
        match error {
            DiskError::Full { .. } => Failure::Full,
            DiskError::Io { errno: Errno::MFILE | Errno::NFILE, .. } => Failure::NotNow(error.to_string()),
            DiskError::Gone { .. } => Failure::Gone(error.to_string()),
            other => Failure::Strike(other.to_string()),
        }
    }
}

struct OpenSegment {
    meta: Arc<SegmentMeta>,
    file: Arc<dyn DiskFile>,
    /// Behind the last acknowledged record; everything below `acked.block` is synced.
    acked: Chain,
    /// Behind the last staged record.
    staged: Chain,
    /// Preallocated up to here.
    allocated: u64,
}

/// A record whose bytes are written, or about to be, and not yet synced.
struct Staged {
    block: u64,
    body: StagedBody,
    reply: Reply<()>,
}

enum StagedBody {
    Shard(ShardId),
    Record(JournalRecord),
}

pub(crate) struct Lane {
    class: SegmentClass,
    open: Option<OpenSegment>,
    /// How the last segment ended.
    previous: Option<Closed>,
    /// The last segment's file, when it was closed in order and may still have a preallocated tail.
    retired: Option<(Arc<dyn DiskFile>, SegmentRow)>,
    /// The last segment of the start before this one: its tail is released as soon as its closed length is recorded.
    inherited: Option<Closed>,
    /// For the journal: the ensemble of the segments that follow by themselves, and the LSN that must come next.
    ensemble: Option<u64>,
    acked_lsn: Lsn,
    staged_lsn: Lsn,
    records: Vec<Staged>,
    /// The stripe roots of the shards among them: the index does not know them yet.
    roots: HashMap<ShardId, [u8; 32]>,
    /// Sealed bytes that are not written yet, and the block where they go.
    bytes: Vec<u8>,
    bytes_block: u64,
    /// The first thing that went wrong with the group in progress.
    failure: Option<Failure>,
}

impl Lane {
    pub fn new(class: SegmentClass, previous: Option<Closed>) -> Lane {
        Lane {
            class,
            open: None,
            previous,
            retired: None,
            inherited: previous,
            ensemble: None,
            acked_lsn: Lsn(0),
            staged_lsn: Lsn(0),
            records: Vec::new(),
            roots: HashMap::new(),
            bytes: Vec::new(),
            bytes_block: 0,
            failure: None,
        }
    }

    /// Adds a record to the group, or answers it at once.
    pub fn stage(&mut self, append: Append, writer: &mut Writer) {
        let Append { body, payload, reserve, reply } = append;
        let root = match self.check_order(&body).and_then(|()| self.check_root(&body, writer)) {
            Ok(root) => root,
            Err(error) => return answer(reply, Err(error)),
        };
        if let Err(error) = self.make_room(payload.len() as u64, &body, reserve, writer) {
            return answer(reply, Err(error));
        }
        self.seal(&body, root, payload, reply);
        if self.bytes.len() >= WRITE_PIECE {
            self.write_out();
        }
    }

    /// A batch continues the one before it, or is refused: a gap in a segment could not be told from damage.
    fn check_order(&self, body: &Body) -> Result<(), WriteError> {
        let Body::Batch(batch) = body else { return Ok(()) };
        let expected = self.ensemble.map(|_| self.staged_lsn);
        match expected {
            Some(lsn) if lsn == batch.first => Ok(()),
            _ => Err(WriteError::OutOfOrder { expected, got: batch.first }),
        }
    }

    /// The root of the stripe that a shard is of. A shard of another stripe of that id is not replaced (R1): its row would go to
    /// the new one, and the stripe that is committed would have lost a good shard to a stale order or to an id used twice. What
    /// can't be read may be written again: that is how it is mended.
    fn check_root(&self, body: &Body, writer: &Writer) -> Result<[u8; 32], WriteError> {
        let Body::Shard(header) = body else { return Ok([0; 32]) };
        let (shard, root) = (header.id(), header.descriptor.root());
        if writer.drive.disk.sabotage().has(Defect::AnotherRoot) {
            return Ok(root);
        }
        let there = match self.roots.get(&shard) {
            Some(staged) => Some(*staged),
            None => match writer.drive.index.place(shard) {
                Ok(Some(_)) => match writer.drive.read_shard_header(shard) {
                    Ok(there) => Some(there.descriptor.root()),
                    // Not damage: what is there is only not known now.
                    Err(ReadError::DriveFailed { drive, reason }) => {
                        return Err(WriteError::DriveFailed { drive, reason });
                    }
                    Err(_) => None,
                },
                // Where the index can't be asked, it can't be written either, and the writer is told.
                Ok(None) | Err(_) => None,
            },
        };
        match there {
            Some(there) if there != root => Err(WriteError::WrongStripe),
            _ => Ok(root),
        }
    }

    /// Makes sure that there is an open segment with allocated space for the record.
    fn make_room(
        &mut self,
        payload_len: u64,
        body: &Body,
        reserve: Reserve,
        writer: &mut Writer,
    ) -> Result<(), WriteError> {
        let blocks = 1 + blocks_for(payload_len);
        let limit = segment_blocks(self.class, writer);
        if self.open.as_ref().is_some_and(|open| open.staged.block > 1 && open.staged.block + blocks > limit) {
            // The records staged so far are answered first: the next segment's header says that they are synced.
            self.commit(writer);
            self.close(true);
            writer.check_writable()?;
            // They may have failed just now; then this batch must not be put where they are missing.
            self.check_order(body)?;
        }
        if self.open.is_none() {
            let head = match body {
                Body::Batch(batch) => self.ensemble.map(|ensemble| JournalHead { ensemble, first_lsn: batch.first }),
                Body::Shard(_) => None,
            };
            self.begin_segment(head, blocks, reserve, writer).map_err(|failure| writer.judge(failure))?;
        }
        let Some(open) = &mut self.open else { return Err(WriteError::Unreachable) };
        allocate(open, open.staged.block + blocks, limit, reserve, writer).map_err(|error| {
            let reason = error.to_string();
            let failure = Failure::from(error);
            if !matches!(failure, Failure::Full) {
                // Not a byte of this record was written, but the file can't be trusted with those staged before it.
                self.failure.get_or_insert(failure);
                return WriteError::DriveFailed { drive: writer.drive.identity.drive, reason };
            }
            WriteError::Full { drive: writer.drive.identity.drive }
        })
    }

    fn seal(&mut self, body: &Body, root: [u8; 32], payload: Bytes, reply: Reply<()>) {
        let Some(open) = &mut self.open else { return answer(reply, Err(WriteError::Unreachable)) };
        let (kind, encoded) = match body {
            Body::Shard(header) => (RecordKind::Shard, header.encode()),
            Body::Batch(header) => (RecordKind::Journal, header.encode()),
        };
        let header = RecordHeader {
            kind,
            seq: open.staged.seq,
            block: open.staged.block,
            payload_len: payload.len() as u64,
            barrier_block: open.acked.block,
            prev_hash: open.staged.prev_hash,
            body: encoded,
        };
        if self.bytes.is_empty() {
            self.bytes_block = header.block;
        }
        let before = self.bytes.len();
        let sealed = seal_record(&mut self.bytes, open.meta.seed, &header, &payload);
        let Ok(after) = sealed.and_then(|()| open.staged.after(&header)) else {
            self.bytes.truncate(before);
            return answer(reply, Err(WriteError::Malformed("the record header can't be encoded")));
        };
        open.staged = after;
        let body = match body {
            Body::Shard(header) => {
                self.roots.insert(header.id(), root);
                StagedBody::Shard(header.id())
            }
            Body::Batch(batch) => {
                self.staged_lsn = batch.last.next();
                StagedBody::Record(JournalRecord::written(header.block, &payload, batch))
            }
        };
        self.records.push(Staged { block: header.block, body, reply });
    }

    fn write_out(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let Some(open) = &self.open else { return };
        if bytes.is_empty() || self.failure.is_some() {
            return;
        }
        if let Err(error) = open.file.write_at(&bytes, self.bytes_block * BLOCK_BYTES) {
            self.failure = Some(error.into());
        }
        self.bytes_block += bytes.len() as u64 / BLOCK_BYTES;
        // Keeps one buffer of the usual size instead of the largest one ever needed.
        if bytes.capacity() <= 4 * WRITE_PIECE {
            self.bytes = bytes;
            self.bytes.clear();
        }
    }

    /// Writes, syncs, verifies and answers the group.
    pub fn commit(&mut self, writer: &mut Writer) {
        if self.records.is_empty() && self.failure.is_none() {
            return;
        }
        let began = Instant::now();
        self.write_out();
        let result = match self.failure.take() {
            Some(failure) => Err(failure),
            None => self.make_durable(writer),
        };
        writer.drive.latency.wrote(began.elapsed());
        let records = std::mem::take(&mut self.records);
        self.roots.clear();
        match result {
            Ok(()) => self.publish(records, writer),
            Err(failure) => self.fail(records, failure, writer),
        }
    }

    fn make_durable(&self, writer: &Writer) -> Result<(), Failure> {
        let Some(open) = &self.open else { return Ok(()) };
        let sabotage = writer.drive.disk.sabotage();
        if !sabotage.is(Sabotage::RecordSync) {
            open.file.sync_data()?;
        }
        if !sabotage.is(Sabotage::IdentityCheck) && !open.file.still_named()? {
            return Err(Failure::Gone(format!("{} lost its name", open.meta.path())));
        }
        writer.vouch()
    }

    fn publish(&mut self, records: Vec<Staged>, writer: &Writer) {
        let Some(open) = &mut self.open else { return };
        open.acked = open.staged;
        self.acked_lsn = self.staged_lsn;
        let drive = &writer.drive;
        let number = open.meta.header.number;
        let mut batch = KvBatch::new();
        let mut replies = Vec::with_capacity(records.len());
        {
            let mut journal = drive.journal();
            for Staged { block, body, reply } in records {
                match body {
                    StagedBody::Shard(shard) => {
                        // Where this fails the batch fails too, and the writers are told.
                        let before = drive.index.place(shard).ok().flatten();
                        drive.index.put_place(&mut batch, shard, ShardPlace { segment: number, block });
                        drive.scrub.written(&mut batch, shard, before);
                    }
                    StagedBody::Record(record) => {
                        journal.get_mut(number).into_iter().for_each(|s| s.records.push(record.clone()));
                    }
                }
                replies.push(reply);
            }
            if let Some(segment) = journal.get_mut(number) {
                segment.end_block = open.acked.block;
                segment.barrier = open.acked.block;
            }
        }
        drive.index.put_segment(&mut batch, &open.row(false));
        let indexed = drive.index.write(batch);
        let result = match (indexed, self.class) {
            // Without its row a shard can't be read until the index is rebuilt: durable, but not to be promised.
            (Err(KvError::Full { .. }), SegmentClass::Data) => Err(WriteError::Full { drive: drive.identity.drive }),
            (Err(error), SegmentClass::Data) => {
                Err(WriteError::DriveFailed { drive: drive.identity.drive, reason: error.to_string() })
            }
            _ => Ok(()),
        };
        replies.into_iter().for_each(|reply| answer(reply, result.clone()));
    }

    fn fail(&mut self, records: Vec<Staged>, failure: Failure, writer: &mut Writer) {
        self.bytes.clear();
        if writer.drive.disk.sabotage().is(Sabotage::Poison) {
            // What R6 forbids: ask again, and believe the second answer.
            let again = self.open.as_ref().map_or(Ok(()), |open| open.file.sync_data());
            if again.is_ok() {
                return self.publish(records, writer);
            }
        }
        // Never written again (R6), not for a free either. Its bytes behind `acked` count for nothing: the next segment
        // says so.
        writer.free_work.struck.extend(self.open.as_ref().map(|open| open.meta.header.number));
        self.close(false);
        self.staged_lsn = self.acked_lsn;
        if let Some(closed) = self.previous.filter(|_| self.class == SegmentClass::Journal) {
            writer.drive.journal().get_mut(closed.number).into_iter().for_each(|segment| {
                segment.closed = true;
                segment.tail = Tail::Torn(closed.closed_blocks);
            });
        }
        let error = writer.judge(failure);
        records.into_iter().for_each(|staged| answer(staged.reply, Err(error.clone())));
    }

    /// Ends the open segment behind its last acknowledged record. `clean`: nothing was ever written behind that.
    fn close(&mut self, clean: bool) {
        let Some(open) = self.open.take() else { return };
        let closed = Closed {
            number: open.meta.header.number,
            closed_blocks: open.acked.block,
            last_record_hash: open.acked.prev_hash,
        };
        self.previous = Some(closed);
        self.retired = clean.then(|| (Arc::clone(&open.file), open.row(true)));
    }

    /// Sees to it that data segment `number` is followed by another one, whose header says durably how long it is.
    pub fn follow(&mut self, number: u64, writer: &mut Writer) -> Result<(), WriteError> {
        if self.open.as_ref().is_some_and(|open| open.meta.header.number == number) {
            self.close(true);
        }
        if self.open.is_none() && self.previous.is_some_and(|closed| closed.number == number) {
            self.begin_segment(None, 1, Reserve::Metadata, writer).map_err(|failure| writer.judge(failure))?;
        }
        Ok(())
    }

    /// Closes the open journal segment and begins another.
    pub fn begin_journal(&mut self, head: JournalHead, writer: &mut Writer) -> Result<u64, WriteError> {
        self.close(true);
        self.ensemble = Some(head.ensemble);
        (self.acked_lsn, self.staged_lsn) = (head.first_lsn, head.first_lsn);
        self.begin_segment(Some(head), 1, Reserve::Metadata, writer).map_err(|failure| writer.judge(failure))?;
        self.open.as_ref().map(|open| open.meta.header.number).ok_or(WriteError::Unreachable)
    }

    /// Creates the next segment. Its header and its name are durable before anything else happens to it (R7).
    fn begin_segment(
        &mut self,
        head: Option<JournalHead>,
        blocks: u64,
        reserve: Reserve,
        writer: &mut Writer,
    ) -> Result<(), Failure> {
        let header = self.next_header(head, writer)?;
        let drive = Arc::clone(&writer.drive);
        let sabotage = drive.disk.sabotage();
        let meta = Arc::new(SegmentMeta::new(header, sabotage));
        let start = meta.start();
        writer.next_number += 1;
        let file = drive.disk.create(&meta.path())?;
        let mut open = OpenSegment { meta: Arc::clone(&meta), file, acked: start, staged: start, allocated: 0 };
        let limit = segment_blocks(self.class, writer);
        if let Err(error) = allocate(&mut open, start.block + blocks, limit, reserve, writer) {
            // Nothing refers to it yet; what can't be removed now is removed by the next start.
            let _kept = drive.disk.remove(&meta.path());
            return Err(error.into());
        }
        if let Err(failure) = establish(&open, writer) {
            // May be tried for every write while it lasts; what each try leaves behind must not add up.
            if matches!(failure, Failure::Full | Failure::NotNow(_)) {
                let _kept = drive.disk.remove(&meta.path());
            }
            return Err(failure);
        }
        drive.add_segment(Arc::clone(&meta));
        self.register(&open, head, writer);
        self.open = Some(open);
        Ok(())
    }

    fn next_header(&self, head: Option<JournalHead>, writer: &Writer) -> Result<SegmentHeader, Failure> {
        let mut incarnation = [0; 16];
        getrandom::fill(&mut incarnation).map_err(|error| Failure::Strike(format!("no randomness: {error}")))?;
        Ok(SegmentHeader {
            version: SEGMENT_VERSION,
            class: self.class,
            cluster: writer.drive.identity.cluster,
            drive: writer.drive.identity.drive,
            number: writer.next_number,
            incarnation: Incarnation(incarnation),
            epoch: writer.epoch,
            previous: self.previous,
            journal: head,
            created_by: writer.config.software.clone(),
        })
    }

    /// Tells the maps and the index of a new segment, and lets go of the one before it.
    fn register(&mut self, open: &OpenSegment, head: Option<JournalHead>, writer: &mut Writer) {
        let drive = Arc::clone(&writer.drive);
        let mut batch = KvBatch::new();
        drive.index.put_segment(&mut batch, &open.row(false));
        if let Some(head) = head {
            let mut journal = drive.journal();
            if let Some(before) = self.previous.and_then(|closed| journal.get_mut(closed.number)) {
                before.closed = true;
            }
            journal.add(JournalSegment {
                meta: Arc::clone(&open.meta),
                head,
                records: Vec::new(),
                closed: false,
                end_block: open.acked.block,
                barrier: open.acked.block,
                tail: Tail::Clean,
                damage: Vec::new(),
            });
        }
        if let Some((file, row)) = self.retired.take() {
            // The closed length is recorded and durable now; what was preallocated behind it was never written.
            if let Err(error) = file.truncate(row.chain.block * BLOCK_BYTES) {
                tracing::warn!(%error, "a preallocated tail could not be released");
            }
            drive.index.put_segment(&mut batch, &row);
        }
        if let Some(closed) = self.inherited.take() {
            let path = segment_path(self.class, closed.number);
            match release_tail(&drive, &path, closed.closed_blocks) {
                // A journal segment that was sealed and freed meanwhile.
                Ok(()) | Err(DiskError::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%error, "a preallocated tail could not be released"),
            }
        }
        writer.index_write(batch);
        if self.class == SegmentClass::Data {
            writer.reserve.fill(&drive);
        }
    }
}

impl OpenSegment {
    fn row(&self, done: bool) -> SegmentRow {
        SegmentRow { chain: self.acked, done, header: self.meta.header.clone() }
    }
}

/// Makes a new segment's header and name durable (R7).
fn establish(open: &OpenSegment, writer: &Writer) -> Result<(), Failure> {
    let disk = &writer.drive.disk;
    open.file.write_at(&seal_segment_header(&open.meta.header), 0)?;
    if !disk.sabotage().is(Sabotage::SegmentHeaderSync) {
        open.file.sync_data()?;
    }
    if !disk.sabotage().is(Sabotage::SegmentDirSync) {
        disk.sync_dir(class_dir(open.meta.class()))?;
    }
    writer.vouch()
}

fn segment_blocks(class: SegmentClass, writer: &Writer) -> u64 {
    let bytes = match class {
        SegmentClass::Data => writer.config.data_segment,
        SegmentClass::Journal => writer.config.journal_segment,
    };
    bytes / BLOCK_BYTES
}

/// Preallocates up to `end` at least, in steps, and not beyond the segment's size unless a record is larger than that.
fn allocate(open: &mut OpenSegment, end: u64, limit: u64, reserve: Reserve, writer: &Writer) -> Result<(), DiskError> {
    if end <= open.allocated {
        return Ok(());
    }
    let step = (writer.config.preallocate_step / BLOCK_BYTES).max(1);
    let generous = end.div_ceil(step).saturating_mul(step).min(limit.max(end));
    // When a whole step does not fit, what is needed now may.
    for target in [generous, end] {
        let range = (open.allocated * BLOCK_BYTES, (target - open.allocated) * BLOCK_BYTES);
        match writer.reserve.preallocate(&writer.drive, &*open.file, range, reserve) {
            Ok(()) => {
                open.allocated = target;
                return Ok(());
            }
            Err(DiskError::Full { .. }) if target > end => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
