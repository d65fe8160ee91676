//! A drive in use: what its thread and its readers share, and how that is found again at a start.
//!
//! Opening reads and scans; nothing is written to the drive. What a scan found behind the known barrier of a segment
//! that nobody closed may so far be only in the page cache, so it is synced ([`Recovered::unsynced`], by the drive's
//! thread when the node begins) before the index records a barrier over it or a next segment records its length.

use crate::client::{Damage, Lost};
use crate::disk::{Access, DiskError, DiskFile, LockGuard};
use crate::drive::{
    DriveError, Health, IDENTITY_FILE, Identity, ProbedDrive, ProbedState, REGISTER_FILE, check_identity,
};
use crate::free_log::FreeLog;
use crate::index::{SegmentRow, ShardIndex, ShardPlace};
use crate::journal::{JournalMap, JournalRecord, JournalSegment};
use crate::kv::{Kv, KvBatch};
use crate::latency::Latency;
use crate::leader::{self, Leader};
use crate::read::Files;
use crate::reserve::{ReserveShare, Tally};
use crate::sabotage::Sabotage;
use crate::scrub::{DriveScrub, ScrubShared};
use crate::segment::{
    Fault, ScanFrom, Scanned, SegmentMeta, What, class_dir, parse_segment_name, read_blocks, read_segment_header, scan,
    segment_path,
};
use crate::unanswered::Unanswered;
use codec::id::Epoch;
use codec::register::{Register, RegisterError};
use codec::segment::{Closed, SegmentClass, SegmentError, SegmentHeader};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

const CLASSES: [SegmentClass; 2] = [SegmentClass::Data, SegmentClass::Journal];
/// Blocks that are read at a time behind an unreadable header, to tell "never begun" from "damaged".
const NEVER_BEGUN_BLOCKS: u64 = 256;
/// Errors that say something about one file, and not about its drive or this process.
const ONE_FILE: [Errno; 5] = [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::INVAL, Errno::LOOP];
const INDEX_STEP: usize = 4096;

/// A drive in use.
#[derive(Debug)]
pub(crate) struct OpenDrive {
    pub identity: Identity,
    /// Held open, so that looking whether the drive is still the drive never fails for want of a file descriptor.
    pub identity_file: Arc<dyn DiskFile>,
    pub disk: Arc<dyn crate::disk::Disk>,
    pub health: Health,
    /// How long it takes, and how often it failed.
    pub latency: Latency,
    /// What `disk` and its files were asked and have not answered.
    pub unanswered: Arc<Unanswered>,
    pub index: ShardIndex,
    /// Every segment whose header is known.
    pub segments: RwLock<BTreeMap<u64, Arc<SegmentMeta>>>,
    pub files: Files,
    /// How much of the reserve is there, here and on the whole file system (R14).
    pub reserve: ReserveShare,
    /// What was freed, and by whose authority; `None`: the file that says so does not verify.
    frees: Mutex<Option<FreeLog>>,
    /// Held while places are taken out of the index and their payloads overwritten, and while a scan of what is in use
    /// puts places in: else it could put back what was freed since it looked.
    placing: Mutex<()>,
    /// Which metadata process the drive follows, as its medium says.
    leader: Mutex<Option<Leader>>,
    /// What is found when the drive is read again.
    pub scrub: DriveScrub,
    journal: Mutex<JournalMap>,
    damage: Mutex<BTreeMap<u64, Vec<Damage>>>,
}

impl OpenDrive {
    pub fn journal(&self) -> MutexGuard<'_, JournalMap> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn frees(&self) -> MutexGuard<'_, Option<FreeLog>> {
        self.frees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn leader(&self) -> MutexGuard<'_, Option<Leader>> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn placing(&self) -> MutexGuard<'_, ()> {
        self.placing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a data segment ended, as the next one's header says, or said before it was removed (R7).
    pub fn closed_length(&self, number: u64) -> Option<Closed> {
        let next = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            let mut later = segments.range(number.checked_add(1)?..).map(|(_, meta)| meta);
            later.find(|meta| meta.class() == SegmentClass::Data).and_then(|meta| meta.header.previous)
        };
        let said = next.filter(|closed| closed.number == number);
        said.or_else(|| self.frees().as_ref().and_then(|log| log.before_removed(number)))
    }

    pub fn segment(&self, number: u64) -> Option<Arc<SegmentMeta>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub fn add_segment(&self, meta: Arc<SegmentMeta>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(meta.header.number, meta);
    }

    pub fn remove_segment(&self, number: u64) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.files.forget(number);
        self.scrub.segment_gone(number);
    }

    pub fn data_segments(&self) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.values().filter(|meta| meta.class() == SegmentClass::Data).count() as u64
    }

    /// The record headers of a segment whose shards are being freed: their payloads may be half overwritten.
    pub fn being_freed(&self, number: u64) -> HashSet<u64> {
        let frees = self.frees();
        let pending = frees.iter().flat_map(|log| &log.pending);
        pending.filter(|free| free.segment == number).map(|free| free.block).collect()
    }

    /// Replaces what is known to be damaged in a data segment.
    pub fn set_damage(&self, number: u64, mut found: Vec<Damage>) {
        let freed = self.being_freed(number);
        found.retain(|damage| !(matches!(damage.what, Lost::Shard(_)) && freed.contains(&damage.block)));
        let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_empty() {
            damage.remove(&number);
        } else {
            damage.insert(number, found);
        }
    }

    /// Everything that is known to be damaged.
    pub fn damaged(&self) -> Vec<Damage> {
        let damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Damage> = damage.values().flatten().cloned().collect();
        all.extend(self.journal().damaged());
        all
    }

    /// The highest epoch that this drive has seen: in segment headers, stripe ids, and that of its leader (R1).
    pub fn highest_epoch(&self) -> Option<Epoch> {
        let led = self.leader().as_ref().map(|leader| leader.epoch);
        self.begun_epoch().max(led).max(self.index.highest_epoch().ok().flatten())
    }

    /// The highest epoch in which the drive has begun and then written: a segment's header names that of whoever had begun it.
    fn begun_epoch(&self) -> Option<Epoch> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.values().map(|meta| meta.header.epoch).max()
    }
}

/// What a drive's thread needs to go on where the last start ended.
#[derive(Default)]
pub(crate) struct Recovered {
    pub lock: Option<LockGuard>,
    pub next_number: u64,
    /// The last segment of each class: data, journal.
    pub previous: [Option<Closed>; 2],
    /// Segments that nobody closed: to be synced, and then, if they are whole, recorded in the index.
    pub unsynced: Vec<(SegmentRow, bool)>,
    /// Closed segments that may still have a preallocated tail: path and closed blocks.
    pub tails: Vec<(String, u64)>,
    /// Files that were created and have no header: nothing was ever acknowledged in them.
    pub never_begun: Vec<String>,
}

/// Counts what the opening of a drive has behind it, so that one that hangs can be told from one that has much to read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Opens a drive: locks it, verifies its identity, scans its segments, catches the index up. Blocks for as long as the
/// scan takes; writes nothing to the drive.
pub(crate) fn open_drive(
    probed: &ProbedDrive,
    kv: Arc<dyn Kv>,
    tally: Arc<Tally>,
    scrub: ScrubShared,
    unanswered: Arc<Unanswered>,
    progress: &Progress,
) -> Result<(Arc<OpenDrive>, Recovered), DriveError> {
    let path = probed.disk.path_hint();
    let not_ours = |state: ProbedState| DriveError::NotOurs { path: path.clone(), state };
    let identity = match (&probed.state, probed.identity) {
        (ProbedState::Ours, Some(identity)) => identity,
        (state, _) => return Err(not_ours(state.clone())),
    };
    let lock = probed.disk.lock()?;
    // Again, under the lock: the directory may have changed since it was probed.
    check_identity(&*probed.disk, &identity).map_err(|reason| not_ours(ProbedState::Damaged { reason }))?;
    let index = ShardIndex::new(Arc::clone(&kv), identity.drive);
    if index.is_suspect()? {
        tracing::info!(drive = %identity.drive, "the index of this drive led astray; rebuilding it from record headers");
        index.forget()?;
    }
    let identity_file = probed.disk.open(IDENTITY_FILE, Access::Read)?;
    let drive = Arc::new(OpenDrive {
        identity,
        identity_file,
        disk: Arc::clone(&probed.disk),
        health: Health::not_begun(),
        latency: Latency::default(),
        unanswered,
        index,
        segments: RwLock::default(),
        files: Files::default(),
        reserve: ReserveShare::new(tally),
        frees: Mutex::new(read_frees(probed, &identity)?),
        leader: Mutex::new(read_leader(probed, &identity)?),
        placing: Mutex::default(),
        scrub: DriveScrub::open(identity.drive, kv, scrub.clone())?,
        journal: Mutex::default(),
        damage: Mutex::default(),
    });
    scrub.add(&drive);
    let mut recovered = Recovered { lock: Some(lock), next_number: 1, ..Recovered::default() };
    for class in CLASSES {
        open_class(&drive, class, &mut recovered, progress)?;
    }
    miss_segments(&drive, &mut recovered)?;
    forget_pending(&drive)?;
    follow_what_was_written(&drive, probed)?;
    Ok((drive, recovered))
}

/// Where the file that says whom the drive follows is lost, its register and its segments tell in which epoch a leader has written.
/// `Err`: a later release wrote the register, and this one can't tell whom the drive follows (R16).
fn follow_what_was_written(drive: &OpenDrive, probed: &ProbedDrive) -> Result<(), DiskError> {
    let register = match Register::parse(&probed.register) {
        Ok(register) => Some(register.epoch),
        Err(RegisterError::Version(version)) if !probed.disk.sabotage().is(Sabotage::NewerRegister) => {
            let path = format!("{}/{REGISTER_FILE}", probed.disk.path_hint());
            return Err(DiskError::Newer { path, what: "ensemble register", version });
        }
        Err(_) => None,
    };
    let written = drive.begun_epoch().max(register);
    let mut leader = drive.leader();
    *leader = Leader::at_least(leader.take(), written);
    Ok(())
}

/// The free log. One that does not verify costs the drive its frees, and nothing else.
fn read_frees(probed: &ProbedDrive, identity: &Identity) -> Result<Option<FreeLog>, DiskError> {
    match FreeLog::read(&*probed.disk) {
        Ok(log) => Ok(Some(log)),
        Err(error) if costs_one_file(&error) => {
            tracing::error!(drive = %identity.drive, %error, "what was freed is not known; nothing will be freed");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whom the drive follows. A file that can't be read costs that knowledge, and nothing else.
fn read_leader(probed: &ProbedDrive, identity: &Identity) -> Result<Option<Leader>, DiskError> {
    match leader::read(&*probed.disk) {
        Err(error) if costs_one_file(&error) => {
            tracing::error!(drive = %identity.drive, %error, "the file that says whom the drive follows can't be read");
            Ok(None)
        }
        read => read,
    }
}

/// Takes the shards whose freeing had begun out of the index: their payloads may be half overwritten.
fn forget_pending(drive: &OpenDrive) -> Result<(), DriveError> {
    let pending = drive.frees().as_ref().map(|log| log.pending.clone()).unwrap_or_default();
    let mut batch = KvBatch::new();
    for free in pending {
        let place = ShardPlace { segment: free.segment, block: free.block };
        if drive.index.place(free.shard.id)? == Some(place) {
            drive.index.delete_place(&mut batch, free.shard.id);
            drive.scrub.freed(&mut batch, free.shard.id, Some(place));
        }
    }
    drive.index.write(batch)?;
    Ok(())
}

/// Segments that the drive once had and whose files are gone, though nobody freed them: they are reported, so that what was
/// in them is not taken for never written, and their numbers are not used again. The index knows them; where it was lost,
/// the header of the next segment still names one. (A journal segment that is freed leaves such a name behind as well, so
/// only data segments are missed.)
fn miss_segments(drive: &OpenDrive, recovered: &mut Recovered) -> Result<(), DriveError> {
    let mut known = BTreeSet::new();
    for row in drive.index.segments()? {
        recovered.next_number = recovered.next_number.max(row.header.number.saturating_add(1));
        known.extend((row.header.class == SegmentClass::Data).then_some(row.header.number));
    }
    let removed = drive.frees().as_ref().map(|log| (log.removed.clone(), log.pending.clone()));
    for header in drive.segments.read().unwrap_or_else(PoisonError::into_inner).values().map(|meta| &meta.header) {
        let named = header.previous.map(|previous| previous.number);
        // What was removed by leave of a free log that can't be read is not known: then only the index is believed.
        known.extend(named.filter(|_| header.class == SegmentClass::Data && removed.is_some()));
    }
    let (removed, pending) = removed.unwrap_or_default();
    let numbers = removed.keys().copied().chain(pending.iter().map(|free| free.segment));
    for number in numbers.chain(known.iter().copied()) {
        recovered.next_number = recovered.next_number.max(number.saturating_add(1));
    }
    let damaged: HashSet<u64> = drive.damaged().iter().map(|damage| damage.segment).collect();
    for number in known {
        let begun = !recovered.never_begun.contains(&segment_path(SegmentClass::Data, number));
        if begun && drive.segment(number).is_none() && !damaged.contains(&number) && !removed.contains_key(&number) {
            tracing::error!(drive = %drive.identity.drive, segment = number, "a segment is not there any more");
            drive.set_damage(number, vec![Damage { segment: number, block: 0, end_block: 1, what: Lost::Segment }]);
        }
    }
    Ok(())
}

fn open_class(
    drive: &OpenDrive,
    class: SegmentClass,
    recovered: &mut Recovered,
    progress: &Progress,
) -> Result<(), DriveError> {
    let mut metas = Vec::new();
    for name in drive.disk.list(class_dir(class))? {
        progress.step();
        let number = parse_segment_name(&name).filter(|number| segment_path(class, *number).ends_with(&name));
        let Some(number) = number else {
            tracing::warn!(drive = %drive.identity.drive, name, "a file that is no segment; left alone");
            continue;
        };
        recovered.next_number = recovered.next_number.max(number.saturating_add(1));
        match load_header(drive, class, number)? {
            Loaded::Header(header) => {
                let meta = Arc::new(SegmentMeta::new(*header, drive.disk.sabotage()));
                drive.add_segment(Arc::clone(&meta));
                metas.push(meta);
            }
            Loaded::NeverBegun => recovered.never_begun.push(segment_path(class, number)),
            Loaded::Damaged => {
                let lost = Damage { segment: number, block: 0, end_block: 1, what: Lost::Segment };
                match class {
                    SegmentClass::Data => drive.set_damage(number, vec![lost]),
                    SegmentClass::Journal => drive.journal().add_headless(lost),
                }
            }
        }
    }
    metas.sort_by_key(|meta| meta.header.number);
    for (i, meta) in metas.iter().enumerate() {
        progress.step();
        let said = metas.get(i + 1).and_then(|next| next.header.previous);
        let number = meta.header.number;
        let removed = || drive.frees().as_ref().and_then(|log| log.before_removed(number));
        let closed = said.filter(|closed| closed.number == number).or_else(removed);
        let end = open_segment(drive, meta, closed, recovered)?;
        recovered.previous[usize::from(class == SegmentClass::Journal)] = Some(end);
    }
    Ok(())
}

enum Loaded {
    Header(Box<SegmentHeader>),
    NeverBegun,
    Damaged,
}

/// Whether an error of opening a file says nothing about the other files.
pub(crate) fn costs_one_file(error: &DiskError) -> bool {
    matches!(error, DiskError::Io { errno, .. } if ONE_FILE.contains(errno))
}

fn load_header(drive: &OpenDrive, class: SegmentClass, number: u64) -> Result<Loaded, DriveError> {
    let file = match drive.files.get(&*drive.disk, class, number) {
        // A bad inode, or something under this name that is no file: the others may still be good.
        Err(error) if costs_one_file(&error) => return Ok(Loaded::Damaged),
        other => other?,
    };
    let belongs = |h: &SegmentHeader| {
        h.cluster == drive.identity.cluster && h.drive == drive.identity.drive && h.number == number && h.class == class
    };
    match read_segment_header(&*file) {
        Ok(Ok(header)) if belongs(&header) => return Ok(Loaded::Header(Box::new(header))),
        Ok(Err(SegmentError::Version { what, version })) => {
            let path = format!("{}/{}", drive.disk.path_hint(), segment_path(class, number));
            return Err(DiskError::Newer { path, what, version }.into());
        }
        Ok(_) | Err(Fault::Block(_)) => {}
        Err(Fault::Disk(error)) => return Err(error.into()),
    }
    // The header is a copy of itself in the index, as long as that lives.
    if let Some(row) = drive.index.segment(number)?.filter(|row| belongs(&row.header)) {
        return Ok(Loaded::Header(Box::new(row.header)));
    }
    Ok(if never_begun(&*file)? { Loaded::NeverBegun } else { Loaded::Damaged })
}

/// Whether a file without a good header was never begun. A record counts only after the header was synced, so a file
/// that holds anything behind block 0 had a header once, and has been damaged.
fn never_begun(file: &dyn DiskFile) -> Result<bool, DiskError> {
    let blocks = file.len()? / crate::segment::BLOCK_BYTES;
    let mut first = 1;
    // All of it: a begin that was cut off leaves one preallocation at most, and a whole segment whose beginning was lost
    // must not be taken for one.
    while first < blocks {
        let count = NEVER_BEGUN_BLOCKS.min(blocks - first);
        match read_blocks(file, first, count) {
            Ok(bytes) if bytes.iter().all(|b| *b == 0) => first += count,
            Ok(_) | Err(Fault::Block(_)) => return Ok(false),
            Err(Fault::Disk(error)) => return Err(error),
        }
    }
    Ok(true)
}

/// Scans one segment as far as the index does not know it, and adds what was found.
fn open_segment(
    drive: &OpenDrive,
    meta: &Arc<SegmentMeta>,
    closed: Option<Closed>,
    recovered: &mut Recovered,
) -> Result<Closed, DriveError> {
    let row = drive.index.segment(meta.header.number)?.filter(|row| row.header == meta.header);
    if let (SegmentClass::Data, Some(row), Some(closed)) = (meta.class(), &row, closed)
        && row.done
        && row.chain.block == closed.closed_blocks
    {
        recovered.tails.push((meta.path(), closed.closed_blocks));
        return Ok(closed);
    }
    let barrier = row.as_ref().map_or(0, |row| row.chain.block);
    // The journal's map is in memory only, so its segments are always scanned from their beginning.
    let chain = match (meta.class(), row) {
        (SegmentClass::Data, Some(row)) if closed.is_none() || !row.done => row.chain,
        _ => meta.start(),
    };
    let file = match closed {
        Some(_) => drive.files.get(&*drive.disk, meta.class(), meta.header.number)?,
        // What a sync lost may still be in the page cache, and would be believed from there until it is pushed out (R6).
        None => drive.disk.open_medium(&meta.path())?.0,
    };
    let from = ScanFrom { chain, barrier, closed, deep: false };
    let scanned = scan(&*file, meta, from, drive.disk.sabotage())?;
    report(drive, meta, &scanned);
    match closed {
        Some(closed) => recovered.tails.push((meta.path(), closed.closed_blocks)),
        None => {
            // What lies on the medium is not known to be synced yet.
            let row = SegmentRow { chain: scanned.chain, done: false, header: meta.header.clone() };
            recovered.unsynced.push((row, scanned.damage.is_empty()));
        }
    }
    let end = scanned.closed;
    add_scanned(drive, meta, closed.is_some(), scanned)?;
    Ok(end)
}

fn report(drive: &OpenDrive, meta: &SegmentMeta, scanned: &Scanned) {
    let number = meta.header.number;
    for damage in &scanned.damage {
        tracing::warn!(drive = %drive.identity.drive, segment = number, ?damage, "damage below the barrier: bit rot");
    }
    if let crate::segment::Tail::Torn(block) = scanned.tail {
        tracing::info!(drive = %drive.identity.drive, segment = number, block, "writes that were never acknowledged");
    }
}

/// Puts what a scan found into the index or the journal's map.
pub(crate) fn add_scanned(
    drive: &OpenDrive,
    meta: &Arc<SegmentMeta>,
    closed: bool,
    scanned: Scanned,
) -> Result<(), DriveError> {
    // A segment with damage is scanned from its beginning by every start, so that the damage is not forgotten.
    let whole = scanned.damage.is_empty();
    let chain = if whole { scanned.chain } else { meta.start() };
    let row = SegmentRow { chain, done: whole, header: meta.header.clone() };
    let mut batch = KvBatch::new();
    if let Some(head) = meta.header.journal {
        drive.journal().add(JournalSegment {
            meta: Arc::clone(meta),
            head,
            records: scanned.records.iter().filter_map(JournalRecord::found).collect(),
            closed: true,
            end_block: scanned.closed.closed_blocks,
            barrier: scanned.barrier,
            tail: scanned.tail,
            damage: scanned.damage,
        });
    } else {
        let freed = drive.being_freed(meta.header.number);
        for found in &scanned.records {
            let What::Shard(shard) = found.what else { continue };
            if found.freed || freed.contains(&found.block) {
                continue;
            }
            let place = ShardPlace { segment: meta.header.number, block: found.block };
            // A shard that was written again later lies in a newer segment; that copy is the one to read.
            let newer = drive
                .index
                .place(shard)?
                .is_some_and(|known| known.segment > place.segment && drive.segment(known.segment).is_some());
            if !newer {
                drive.index.put_place(&mut batch, shard, place);
                drive.scrub.indexed(&mut batch, shard)?;
            }
            if batch.len() >= INDEX_STEP {
                drive.index.write(std::mem::take(&mut batch))?;
            }
        }
        drive.set_damage(meta.header.number, scanned.damage);
    }
    if closed {
        drive.index.put_segment(&mut batch, &row);
    }
    drive.index.write(batch)?;
    Ok(())
}

/// Gives back the preallocated tails of closed segments, those that were never written (R7): all of it must be zeros.
pub(crate) fn release_tail(drive: &OpenDrive, path: &str, closed_blocks: u64) -> Result<(), DiskError> {
    const STEP: u64 = 256;
    let file = drive.disk.open(path, Access::ReadWrite)?;
    let blocks = file.len()?.div_ceil(crate::segment::BLOCK_BYTES);
    if blocks <= closed_blocks {
        return Ok(());
    }
    let mut first = closed_blocks;
    while first < blocks {
        let count = STEP.min(blocks - first);
        match read_blocks(&*file, first, count) {
            Ok(bytes) if bytes.iter().all(|b| *b == 0) => first += count,
            // Something was written there, though never acknowledged: it stays as it is.
            Ok(_) | Err(Fault::Block(_)) => return Ok(()),
            Err(Fault::Disk(error)) => return Err(error),
        }
    }
    file.truncate(closed_blocks * crate::segment::BLOCK_BYTES)
}
