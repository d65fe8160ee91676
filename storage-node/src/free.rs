//! Freeing shards: giving their space back, and never that of another shard.
//!
//! A freed shard keeps its record header (R7: the chain of headers is never broken); the first block of its payload is
//! zeros, and the payload is punched where the file system can do that. A scan takes such a record for freed. All of it
//! is done by the drive's own thread, between groups of writes, so nothing is staged and no append runs meanwhile.
//!
//! The order, and what each step is there for:
//! 1. The authority is not older than any that was seen (R10): a state from the past must not free what is newer than it.
//! 2. The record header is read again, and names this shard of this stripe (R1): an index that leads astray must not
//!    free another shard.
//! 3. The segment is followed by another one, whose header says durably how long it is: behind the known barrier a
//!    payload that does not verify is a torn tail, and would take the acknowledged records after it along.
//! 4. The free log says whose authority it is and which shards are freed, durably: after a crash the same old state is
//!    still refused, and a first block that is half overwritten is known to be nothing instead of damage.
//! 5. The index rows go, so that the node does not list what it can't read.
//! 6. The first block of each payload is overwritten and synced: with the log lost and the index rebuilt from headers,
//!    the shard still does not come back. A failed sync is a strike and is not tried again (R6); the free log keeps the
//!    shard, and a later start goes on.
//! 7. The index is flushed before the free log may forget the shards: rows that a power cut brings back would name
//!    payloads that are not there.
//! 8. The payload is punched. Whether that survives a crash does not matter.
//!
//! A data segment of freed records only is removed as a file: noted in the free log first, so that it is not missed
//! later; then its index row goes, so that no start looks for it; then the name.

use crate::client::{ReadError, WriteError};
use crate::disk::{Access, DiskError, DiskFile};
use crate::free_log::{FREES_FILE, FreeLog, PendingFree};
use crate::index::ShardPlace;
use crate::keep::{Authority, Freed, ShardRef};
use crate::kv::KvBatch;
use crate::lane::Failure;
use crate::open::OpenDrive;
use crate::sabotage::Sabotage;
use crate::segment::{BLOCK_BYTES, Fault, SegmentMeta, class_dir, is_freed, read_record_header, segment_path};
use crate::write::Writer;
use codec::block::{BLOCK, blocks_for};
use codec::segment::{Chain, RecordHeader, RecordKind, SegmentClass};
use codec::shard::ShardHeader;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Shards that one job frees: its syncs hold up the writes that are queued behind it.
pub(crate) const SHARDS_PER_JOB: usize = 64;
/// Record headers that one job reads to find segments without a live record.
const STEPS_PER_JOB: usize = 1024;
/// Segments that one job looks at for the first time since the start, besides those in which it freed something: each
/// costs a seek, and the writes behind the job wait for it.
const NEW_WALKS_PER_JOB: usize = 32;

/// What a drive's thread keeps in mind about frees; all of it can be forgotten.
#[derive(Default)]
pub(crate) struct FreeWork {
    /// Segments whose files are not written any more by this start (R6).
    pub struck: BTreeSet<u64>,
    /// Segments in which shards were freed.
    walks: BTreeMap<u64, Walked>,
    /// Segments that earlier starts closed, to be looked at once: a start that ended between the last free in a segment
    /// and its removal would leave the empty file for ever.
    unwalked: BTreeSet<u64>,
}

/// How far a segment is known to hold freed records only.
#[derive(Clone, Copy)]
struct Walked {
    /// In front of the first record that is not known to be freed.
    chain: Chain,
    /// Something was freed since the walk stopped there.
    more: bool,
}

/// A shard whose header was read again and matched.
struct Target {
    free: PendingFree,
    meta: Arc<SegmentMeta>,
    file: Arc<dyn DiskFile>,
    payload_block: u64,
    payload_blocks: u64,
}

/// The segments of one job, by number: for writing, and for reading from the medium.
type OpenFiles = BTreeMap<u64, Both>;
type Both = (Arc<dyn DiskFile>, Arc<dyn DiskFile>);

fn open_both(drive: &OpenDrive, meta: &SegmentMeta, files: &mut OpenFiles) -> Result<Both, DiskError> {
    let both = match files.entry(meta.header.number) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            let (medium, _) = drive.disk.open_medium(&meta.path())?;
            entry.insert((drive.disk.open(&meta.path(), Access::ReadWrite)?, medium))
        }
    };
    Ok(both.clone())
}

/// What lies where the index says that a shard is.
enum Looked {
    Target(Target),
    /// The index does not know it, or its segment is not there.
    Gone,
    /// Something else, or nothing that verifies.
    Other,
}

impl Writer {
    /// See [`crate::client::NodeClient::free_shards`].
    pub(crate) fn free(&mut self, authority: Authority, shards: &[ShardRef]) -> Result<Freed, WriteError> {
        self.check_writable()?;
        self.vouch().map_err(|failure| self.judge(failure))?;
        let id = self.drive.identity.drive;
        let mut log = self.drive.frees().clone().ok_or_else(|| WriteError::DriveFailed {
            drive: id,
            reason: format!("its file {FREES_FILE} does not verify, so it can't tell who may delete"),
        })?;
        let sabotage = self.drive.disk.sabotage().clone();
        if log.is_too_old(authority) && !sabotage.is(Sabotage::FreeAuthority) {
            return Err(WriteError::OldAuthority { drive: id, seen: log.authority });
        }
        let mut freed = Freed::default();
        let mut targets = Vec::new();
        let (mut seen, mut files) = (HashSet::new(), OpenFiles::new());
        for shard in shards.iter().filter(|shard| seen.insert(shard.id)) {
            match self.look(*shard, &mut files)? {
                Looked::Target(target) => targets.push(target),
                Looked::Gone => freed.shards += 1,
                Looked::Other => freed.refused.push(shard.id),
            }
        }
        for number in targets.iter().map(|target| target.free.segment).collect::<BTreeSet<_>>() {
            self.follow(number)?;
        }
        let before = log.clone();
        log.see(authority);
        log.pending.retain(|pending| targets.iter().all(|target| target.free != *pending));
        log.pending.extend(targets.iter().map(|target| target.free));
        if log != before {
            self.write_free_log(log)?;
        }
        freed.shards += targets.len() as u64;
        freed.bytes = self.carry_out(targets)?;
        self.remove_emptied()?;
        Ok(freed)
    }

    /// Finishes what an earlier start began. What can't be finished now stays in the free log.
    pub(crate) fn resume_frees(&mut self) {
        let Some(log) = self.drive.frees().clone() else { return };
        self.free_work.unwalked = {
            let segments = self.drive.segments.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let data = segments.values().filter(|meta| meta.class() == SegmentClass::Data);
            data.map(|meta| meta.header.number).collect()
        };
        let (mut targets, mut files) = (Vec::new(), OpenFiles::new());
        for pending in &log.pending {
            let place = ShardPlace { segment: pending.segment, block: pending.block };
            match self.look_at(pending.shard, place, &mut files) {
                Ok(Looked::Target(target)) if target.free == *pending => targets.push(target),
                // The segment went, or the header did: nothing is left that could come back.
                Ok(_) => self.forget_pending(|other| other == pending),
                Err(error) => tracing::warn!(%error, "a free could not be finished"),
            }
        }
        if let Err(error) = self.carry_out(targets) {
            tracing::warn!(%error, "frees could not be finished");
        }
        let left: Vec<u64> = log.removed.keys().copied().filter(|n| self.drive.segment(*n).is_some()).collect();
        for number in left {
            if let Err(error) = self.remove_segment_file(number) {
                tracing::warn!(number, %error, "a segment that is empty could not be removed");
            }
        }
    }

    /// See [`crate::client::NodeClient::renew_frees`]. The lost file said three things. Whose deletes were carried out: the
    /// caller vouches for that. Which segments were removed: those that a header still names, that are not there, and that
    /// the index does not know. What was being freed: such a shard is out of the index, or whole, or found damaged, and
    /// whoever ordered its free orders it again.
    pub(crate) fn renew_frees(&mut self, authority: Authority) -> Result<(), WriteError> {
        self.check_writable()?;
        self.vouch().map_err(|failure| self.judge(failure))?;
        if self.drive.frees().is_some() {
            return Ok(());
        }
        let (drive, id) = (Arc::clone(&self.drive), self.drive.identity.drive);
        let failed = |error: crate::kv::KvError| WriteError::DriveFailed { drive: id, reason: error.to_string() };
        let indexed: HashSet<u64> =
            drive.index.segments().map_err(failed)?.iter().map(|row| row.header.number).collect();
        let removed = {
            let segments = drive.segments.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let data = segments.values().filter(|meta| meta.class() == SegmentClass::Data);
            let named = data.filter_map(|meta| meta.header.previous).map(|previous| previous.number);
            named
                .filter(|number| !segments.contains_key(number) && !indexed.contains(number))
                .map(|n| (n, None))
                .collect()
        };
        self.write_free_log(FreeLog { authority, removed, pending: Vec::new() })
    }

    /// Before a clean stop: the next start need not look at what is done.
    pub(crate) fn settle_frees(&mut self) {
        let log = self.drive.frees().clone();
        let on_medium = FreeLog::read(&*self.drive.disk);
        if let (Some(log), Ok(on_medium)) = (log, on_medium)
            && log != on_medium
            && self.check_writable().is_ok()
            && let Err(error) = self.write_free_log(log)
        {
            tracing::warn!(%error, "the free log could not be shortened");
        }
    }

    fn look(&mut self, shard: ShardRef, files: &mut OpenFiles) -> Result<Looked, WriteError> {
        let place = self
            .drive
            .index
            .place(shard.id)
            .map_err(|error| WriteError::DriveFailed { drive: self.drive.identity.drive, reason: error.to_string() })?;
        if place.is_none() {
            let mut batch = KvBatch::new();
            self.drive.scrub.freed(&mut batch, shard.id, None);
            self.index_write(batch);
        }
        place.map_or(Ok(Looked::Gone), |place| self.look_at(shard, place, files))
    }

    /// Reads the header at a place again, from the medium, and compares it with the shard that is meant (R1).
    fn look_at(&mut self, shard: ShardRef, place: ShardPlace, files: &mut OpenFiles) -> Result<Looked, WriteError> {
        let drive = Arc::clone(&self.drive);
        let Some(meta) = drive.segment(place.segment).filter(|meta| meta.class() == SegmentClass::Data) else {
            return self.look_for_file(shard, place);
        };
        let (file, medium) = match open_both(&drive, &meta, files) {
            Ok(both) => both,
            Err(DiskError::NotFound { .. }) => {
                self.forget_place(shard, place);
                return Ok(Looked::Gone);
            }
            Err(error) => return Err(self.judge(error.into())),
        };
        let record = match read_record_header(&*medium, &meta, place.block) {
            Ok(record) => record,
            // Nobody can tell what lies there, so it is not touched: its space comes back when its segment goes. But the index
            // need not name it any more, nor need its finding last for ever. Was it only misread, scrub finds a record that
            // the index does not know.
            Err(Fault::Block(_)) => {
                tracing::warn!(shard = %shard.id, segment = place.segment, "the header of a freed shard can't be read: its space is not given back");
                self.forget_place(shard, place);
                return Ok(Looked::Gone);
            }
            Err(Fault::Disk(error)) => return Err(self.judge(error.into())),
        };
        let named = is_record_of(&record, shard) || drive.disk.sabotage().is(Sabotage::FreeHeaderCheck);
        if !named || record.kind != RecordKind::Shard {
            return Ok(Looked::Other);
        }
        let incarnation = meta.header.incarnation;
        let free = PendingFree { shard, segment: place.segment, incarnation, block: place.block };
        let (payload_block, payload_blocks) = (record.payload_block(), blocks_for(record.payload_len));
        Ok(Looked::Target(Target { free, meta, file, payload_block, payload_blocks }))
    }

    /// A shard whose segment is not known: gone, if there is no such file.
    fn look_for_file(&mut self, shard: ShardRef, place: ShardPlace) -> Result<Looked, WriteError> {
        match self.drive.disk.open(&segment_path(SegmentClass::Data, place.segment), Access::Read) {
            Err(DiskError::NotFound { .. }) => {
                self.forget_place(shard, place);
                Ok(Looked::Gone)
            }
            Ok(_) => Ok(Looked::Other),
            Err(error) => Err(self.judge(error.into())),
        }
    }

    fn forget_place(&self, shard: ShardRef, place: ShardPlace) {
        // The shard may have been written again elsewhere on the drive since: that copy is live.
        if !matches!(self.drive.index.place(shard.id), Ok(named) if named == Some(place)) {
            return;
        }
        let mut batch = KvBatch::new();
        self.drive.index.delete_place(&mut batch, shard.id);
        self.drive.scrub.freed(&mut batch, shard.id, Some(place));
        self.index_write(batch);
    }

    /// Steps 5 to 8. Returns the bytes that were given back.
    fn carry_out(&mut self, targets: Vec<Target>) -> Result<u64, WriteError> {
        let drive = Arc::clone(&self.drive);
        let failed = |reason: String| WriteError::DriveFailed { drive: drive.identity.drive, reason };
        let mut done: BTreeMap<u64, Vec<Target>> = BTreeMap::new();
        {
            let _placing = drive.placing();
            let mut batch = KvBatch::new();
            for target in &targets {
                let place = ShardPlace { segment: target.free.segment, block: target.free.block };
                let named = drive.index.place(target.free.shard.id).map_err(|error| failed(error.to_string()))?;
                if named == Some(place) {
                    drive.index.delete_place(&mut batch, target.free.shard.id);
                    drive.scrub.freed(&mut batch, target.free.shard.id, Some(place));
                }
            }
            drive.index.write(batch).map_err(|error| failed(error.to_string()))?;
            for target in targets {
                done.entry(target.free.segment).or_default().push(target);
            }
            // Segments that must not be written any more keep their shards in the free log, for the next start.
            done.retain(|number, _| !self.free_work.struck.contains(number));
            for (number, targets) in &done {
                if let Err(failure) = overwrite(targets) {
                    self.free_work.struck.insert(*number);
                    return Err(self.judge(failure));
                }
            }
        }
        for (number, targets) in &done {
            let synced = targets.first().map_or(Ok(()), |target| target.file.sync_data());
            if let Err(error) = synced {
                self.free_work.struck.insert(*number);
                return Err(self.judge(error.into()));
            }
        }
        self.vouch().map_err(|failure| self.judge(failure))?;
        drive.index.flush().map_err(|error| failed(error.to_string()))?;
        let mut bytes = 0;
        for (number, targets) in done {
            self.forget_pending(|pending| targets.iter().any(|target| target.free == *pending));
            for target in &targets {
                let (offset, len) = (target.payload_block * BLOCK_BYTES, target.payload_blocks * BLOCK_BYTES);
                if let Err(error) = target.file.punch(offset, len) {
                    tracing::warn!(%error, "the space of a freed shard could not be given back");
                }
                bytes += len;
            }
            if let Some(target) = targets.first() {
                let new = Walked { chain: target.meta.start(), more: true };
                self.free_work.walks.entry(number).or_insert(new).more = true;
            }
        }
        Ok(bytes)
    }

    fn forget_pending(&self, done: impl Fn(&PendingFree) -> bool) {
        if let Some(log) = &mut *self.drive.frees() {
            log.pending.retain(|pending| !done(pending));
        }
    }

    /// Replaces the free log; durable when `Ok`.
    fn write_free_log(&mut self, log: FreeLog) -> Result<(), WriteError> {
        if !self.drive.disk.sabotage().is(Sabotage::FreeLog) {
            let bytes = log.encode();
            self.write_small(FREES_FILE, &bytes)?;
        }
        *self.drive.frees() = Some(log);
        Ok(())
    }

    /// Removes data segments in which nothing is left but freed records.
    fn remove_emptied(&mut self) -> Result<(), WriteError> {
        let mut steps = STEPS_PER_JOB;
        let drive = Arc::clone(&self.drive);
        for _ in 0..NEW_WALKS_PER_JOB {
            let Some(number) = self.free_work.unwalked.pop_first() else { break };
            let Some(meta) = drive.segment(number) else { continue };
            self.free_work.walks.entry(number).or_insert(Walked { chain: meta.start(), more: true });
        }
        let due: Vec<u64> = self.free_work.walks.iter().filter(|(_, walked)| walked.more).map(|(n, _)| *n).collect();
        for number in due {
            // One that nobody closed yet is looked at again later; one that is gone, not.
            let Some(walked) = self.free_work.walks.remove(&number) else { continue };
            let Some(meta) = drive.segment(number) else { continue };
            let Some(closed) = drive.closed_length(number) else {
                self.free_work.walks.insert(number, walked);
                continue;
            };
            let walk = walk_freed(&drive, &meta, walked.chain, closed.closed_blocks, &mut steps);
            match walk.map_err(|failure| self.judge(failure))? {
                (_, WalkEnd::Empty) => self.remove_segment(&meta)?,
                (chain, end) => {
                    let more = matches!(end, WalkEnd::Later);
                    self.free_work.walks.insert(number, Walked { chain, more });
                }
            }
        }
        Ok(())
    }

    fn remove_segment(&mut self, meta: &SegmentMeta) -> Result<(), WriteError> {
        let number = meta.header.number;
        let Some(mut log) = self.drive.frees().clone() else { return Ok(()) };
        log.pending.retain(|pending| pending.segment != number);
        log.removed.insert(number, meta.header.previous);
        // Kept as long as somebody's header names the segment, or the one before it has nobody else to say its length.
        let kept: Vec<u64> = log.removed.keys().copied().filter(|n| self.drive.misses(&log, *n)).collect();
        log.removed.retain(|number, _| kept.contains(number));
        self.write_free_log(log)?;
        self.remove_segment_file(number)
    }

    fn remove_segment_file(&mut self, number: u64) -> Result<(), WriteError> {
        let drive = Arc::clone(&self.drive);
        let Some(meta) = drive.segment(number) else { return Ok(()) };
        let failed = |error: crate::kv::KvError| WriteError::DriveFailed {
            drive: drive.identity.drive,
            reason: error.to_string(),
        };
        let mut batch = KvBatch::new();
        drive.index.delete_segment(&mut batch, number);
        drive.index.write(batch).map_err(failed)?;
        drive.index.flush().map_err(failed)?;
        drive.remove_segment(number);
        drive.set_damage(number, Vec::new());
        let removed = match drive.disk.remove(&meta.path()) {
            Err(DiskError::NotFound { .. }) => Ok(()),
            other => other,
        };
        let removed = removed.and_then(|()| drive.disk.sync_dir(class_dir(SegmentClass::Data)));
        removed.map_err(|error| self.judge(error.into()))
    }
}

impl OpenDrive {
    /// Shards in the order in which they lie on the drive.
    pub fn by_place(&self, mut shards: Vec<ShardRef>) -> Vec<ShardRef> {
        shards.sort_by_cached_key(|shard| {
            let place = self.index.place(shard.id).ok().flatten();
            place.map_or((0, 0), |place| (place.segment, place.block))
        });
        shards
    }

    /// See [`crate::client::NodeClient::authority`].
    pub fn authority(&self) -> Result<Authority, ReadError> {
        let unknown = || format!("its file {FREES_FILE} does not verify");
        let failed = || ReadError::DriveFailed { drive: self.identity.drive, reason: unknown() };
        self.frees().as_ref().map(|log| log.authority).ok_or_else(failed)
    }

    /// Whether a removed segment is still asked for: as what a header names, or as what said how the one before it ended.
    fn misses(&self, log: &FreeLog, number: u64) -> bool {
        let segments = self.segments.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = log.removed.get(&number).copied().flatten().map(|closed| closed.number);
        before.is_some_and(|before| segments.contains_key(&before))
            || segments
                .range(number..)
                .any(|(other, meta)| *other != number && meta.header.previous.is_some_and(|p| p.number == number))
    }
}

/// Whether a record is this shard of this stripe.
fn is_record_of(record: &RecordHeader, shard: ShardRef) -> bool {
    let header = ShardHeader::parse(&record.body).ok();
    record.kind == RecordKind::Shard
        && header.is_some_and(|header| {
            header.id() == shard.id
                && header.descriptor.root() == shard.root
                && u64::from(header.payload_len()) == record.payload_len
        })
}

fn overwrite(targets: &[Target]) -> Result<(), Failure> {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    for target in targets {
        target.file.write_at(&ZEROS, target.payload_block * BLOCK_BYTES)?;
    }
    Ok(())
}

/// What a look for live records found.
enum WalkEnd {
    /// None, to the end.
    Empty,
    /// One; or something that does not verify, which is nothing to be removed either.
    Live,
    /// There is more to look at.
    Later,
}

/// Walks over freed records from `chain` on.
fn walk_freed(
    drive: &OpenDrive,
    meta: &SegmentMeta,
    mut chain: Chain,
    closed_blocks: u64,
    steps: &mut usize,
) -> Result<(Chain, WalkEnd), Failure> {
    let file = drive.files.get(&*drive.disk, meta.class(), meta.header.number)?;
    while chain.block < closed_blocks {
        if *steps == 0 {
            return Ok((chain, WalkEnd::Later));
        }
        *steps -= 1;
        let header = match read_record_header(&*file, meta, chain.block) {
            Ok(header) if chain.check(&header).is_ok() => header,
            Ok(_) | Err(Fault::Block(_)) => return Ok((chain, WalkEnd::Live)),
            Err(Fault::Disk(error)) => return Err(error.into()),
        };
        let Ok(after) = chain.after(&header) else { return Ok((chain, WalkEnd::Live)) };
        // Zeros that nobody ordered are damage to a shard that is still wanted, and evidence.
        let place = ShardPlace { segment: meta.header.number, block: header.block };
        let named = ShardHeader::parse(&header.body).map(|shard| drive.index.place(shard.id()));
        let unnamed = matches!(named, Ok(Ok(known)) if known != Some(place));
        if !unnamed || !is_freed(&*file, header.payload_block())? {
            return Ok((chain, WalkEnd::Live));
        }
        chain = after;
    }
    Ok((chain, WalkEnd::Empty))
}
