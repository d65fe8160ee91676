//! Injecting faults: what is done to which record, and what must be found there.

use crate::medium::{File, Medium, Record, Region, Unit, units};
use crate::store::Store;
use codec::block::BLOCK;
use codec::id::DriveId;
use std::collections::{BTreeMap, HashMap, HashSet};
use storage_node::disk::{Access, Disk};
use storage_node::keep::{FindingKind, Subject};
use tests::crash::mix;

/// Shards of a stripe, and copies of a journal entry, that may be lost.
pub const M: u8 = 2;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    Flip,
    ZeroedSector,
    ZeroedBlock,
    Torn,
    Misdirected,
    Swapped,
    StaleRecord,
    WrongRoot,
    Eio,
    Truncated,
    MissingSegment,
    MissingDrive,
    ForeignDrive,
}

/// Those that hit one record each.
pub const ON_RECORDS: [Fault; 8] = [
    Fault::Flip,
    Fault::ZeroedSector,
    Fault::ZeroedBlock,
    Fault::Torn,
    Fault::Misdirected,
    Fault::Swapped,
    Fault::StaleRecord,
    Fault::Eio,
];

/// Counted by fault, region and kind of finding.
pub type Counts = BTreeMap<(Fault, Region, &'static str), u64>;

#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub fault: Fault,
    pub region: Region,
    pub kind: FindingKind,
}

/// The faults of one round.
pub struct Injection {
    pub expected: HashMap<(DriveId, Subject), Expected>,
    slack: HashMap<Unit, u8>,
    files: HashSet<File>,
    dead: HashSet<(File, u64)>,
    random: u64,
    pub on_dead: BTreeMap<Fault, u64>,
    /// Segments whose file was removed.
    pub removed: Vec<(DriveId, u64)>,
}

impl Injection {
    pub fn new(seed: u64) -> Injection {
        Injection {
            expected: HashMap::new(),
            slack: HashMap::new(),
            files: HashSet::new(),
            dead: HashSet::new(),
            random: seed,
            on_dead: BTreeMap::new(),
            removed: Vec::new(),
        }
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.random = mix(self.random, 0x5eed);
        self.random % bound.max(1)
    }

    /// Takes the slack of all of these, if there is enough.
    pub fn claim(&mut self, subjects: &[Subject]) -> bool {
        let mut taken: HashMap<Unit, u8> = HashMap::new();
        subjects.iter().flat_map(|subject| units(*subject)).for_each(|unit| *taken.entry(unit).or_default() += 1);
        let fits = |(unit, count): (&Unit, &u8)| self.slack.get(unit).unwrap_or(&0) + count <= M;
        if !taken.iter().all(fits) {
            return false;
        }
        taken.into_iter().for_each(|(unit, count)| *self.slack.entry(unit).or_default() += count);
        true
    }

    pub fn expect(&mut self, (drive, subject): (DriveId, Subject), fault: Fault, region: Region, kind: FindingKind) {
        self.expected.insert((drive, subject), Expected { fault, region, kind });
    }

    fn is_free(&self, record: &Record) -> bool {
        let key = (record.drive, record.subject);
        !self.files.contains(&record.file) && !self.expected.contains_key(&key) && record.closed
    }

    fn shuffled<'a>(&mut self, medium: &'a Medium, region: Region) -> Vec<&'a Record> {
        let seed = self.below(u64::MAX);
        let of = medium.records.iter().enumerate().filter(|(_, record)| record.region == region);
        let mut records: Vec<_> = of.map(|(n, record)| (mix(n as u64, seed), record)).collect();
        records.sort_by_key(|(random, _)| *random);
        records.into_iter().map(|(_, record)| record).collect()
    }

    /// Injects up to `count` faults of a kind into records of a region.
    pub fn on_records(&mut self, store: &Store, medium: &Medium, fault: Fault, region: Region, count: usize) {
        let records = self.shuffled(medium, region);
        let mut done = 0;
        for (n, record) in records.iter().enumerate() {
            if done >= count {
                return;
            }
            if !self.is_free(record) || self.dead.contains(&(record.file.clone(), record.block)) {
                continue;
            }
            if region == Region::Dead && fault == Fault::Swapped {
                return;
            }
            if region == Region::Dead {
                done += usize::from(self.on_dead_record(store, medium, fault, record));
                continue;
            }
            if fault == Fault::Swapped {
                let other = records[n + 1..].iter().find(|other| {
                    self.is_free(other) && other.file.0 == record.file.0 && other.subject != record.subject
                });
                let Some(other) = other else { continue };
                if self.claim(&[record.subject, other.subject]) {
                    self.swap(store, medium, record, other);
                    done += 2;
                }
                continue;
            }
            if self.claim(&[record.subject]) {
                let kind = self.one(store, medium, fault, record);
                self.expect((record.drive, record.subject), fault, region, kind);
                done += 1;
            }
        }
    }

    fn on_dead_record(&mut self, store: &Store, medium: &Medium, fault: Fault, record: &Record) -> bool {
        self.dead.insert((record.file.clone(), record.block));
        self.one(store, medium, fault, record);
        *self.on_dead.entry(fault).or_default() += 1;
        true
    }

    fn swap(&mut self, store: &Store, medium: &Medium, a: &Record, b: &Record) {
        let (at, bt) = (self.below(a.blocks), self.below(b.blocks));
        write(store, a, at, medium.block(b, bt));
        write(store, b, bt, medium.block(a, at));
        for record in [a, b] {
            let key = (record.drive, record.subject);
            self.expect(key, Fault::Swapped, record.region, FindingKind::Misplaced);
        }
    }

    /// Does damage to a record; says what it must be found as.
    fn one(&mut self, store: &Store, medium: &Medium, fault: Fault, record: &Record) -> FindingKind {
        let at = self.below(record.blocks);
        let mut block = medium.block(record, at).to_vec();
        let before = block.clone();
        if record.region == Region::Dead && block.iter().all(|byte| *byte == 0) {
            // Zeroed in an earlier round.
            return FindingKind::Missing;
        }
        let mut kind = FindingKind::Damaged;
        match fault {
            Fault::Flip => block[self.below(BLOCK as u64) as usize] ^= 1 << self.below(8),
            Fault::ZeroedSector => {
                let sectors: Vec<usize> =
                    (0..8).filter(|s| block[s * 512..][..512].iter().any(|byte| *byte != 0)).collect();
                let sector = sectors[self.below(sectors.len() as u64) as usize];
                block[sector * 512..][..512].fill(0);
            }
            Fault::ZeroedBlock => {
                block.fill(0);
                if at == 1 && record.region != Region::Journal {
                    kind = FindingKind::Missing;
                }
            }
            Fault::Torn => {
                let from = 512 * (1 + self.below(7) as usize);
                // Not the tail of another block: copies of the journal begin alike, and with the tail of the other copy it
                // would be that block whole.
                block[from..]
                    .iter_mut()
                    .zip((1..=7u8).cycle())
                    .for_each(|(byte, more)| *byte = byte.wrapping_add(more));
            }
            Fault::Misdirected => {
                let (other, number) = self.source(medium, record);
                block.copy_from_slice(medium.block(&other, number));
                kind = FindingKind::Misplaced;
            }
            Fault::StaleRecord => {
                let (other, _) = self.source(medium, record);
                for number in 1..record.blocks.min(other.blocks) {
                    write(store, record, number, medium.block(&other, number));
                }
                write(store, record, 0, medium.block(&other, 0));
                return FindingKind::Misplaced;
            }
            Fault::Eio => {
                let from = (record.block + at) * BLOCK as u64 + 512 * self.below(8);
                store.trace.make_unreadable(record.file.0, &record.file.1, from..from + 512).unwrap();
                return FindingKind::Unreadable;
            }
            other => unreachable!("{other:?} does not hit one record"),
        }
        assert_ne!(block, before);
        write(store, record, at, &block);
        kind
    }

    /// A good block of another record.
    fn source(&mut self, medium: &Medium, of: &Record) -> (Record, u64) {
        loop {
            let record = &medium.records[self.below(medium.records.len() as u64) as usize];
            if record.region != Region::Dead && (record.drive, record.subject) != (of.drive, of.subject) {
                return (record.clone(), self.below(record.blocks));
            }
        }
    }

    /// Cuts off, or removes, files of segments of a class: up to `count` of them.
    pub fn on_files(&mut self, store: &Store, medium: &Medium, fault: Fault, class: &str, count: usize) {
        let mut files: Vec<&File> = medium.bytes.keys().filter(|file| file.1.starts_with(class)).collect();
        let seed = self.below(u64::MAX);
        files.sort();
        files.sort_by_key(|file| mix(file.0 as u64, mix(seed, file.1.bytes().map(u64::from).sum())));
        let mut done = 0;
        for file in files {
            if done >= count {
                return;
            }
            let records: Vec<&Record> = medium.records.iter().filter(|record| record.file == *file).collect();
            let last = medium.records.iter().filter(|r| r.file.0 == file.0 && r.file.1.starts_with(class));
            let is_last = last.map(|record| record.segment).max() == records.first().map(|record| record.segment);
            let live: Vec<&&Record> = records.iter().filter(|record| record.region != Region::Dead).collect();
            if live.is_empty() || is_last || !records.iter().all(|record| self.is_free(record)) {
                continue;
            }
            let cut = match fault {
                Fault::Truncated => {
                    let record = live[self.below(live.len() as u64) as usize];
                    record.block * BLOCK as u64 + self.below(record.blocks * BLOCK as u64)
                }
                _ => 0,
            };
            let lost: Vec<&&&Record> =
                live.iter().filter(|record| (record.block + record.blocks) * BLOCK as u64 > cut).collect();
            let subjects: Vec<Subject> = lost.iter().map(|record| record.subject).collect();
            if !self.claim(&subjects) {
                continue;
            }
            for record in lost {
                let key = (record.drive, record.subject);
                self.expect(key, fault, record.region, FindingKind::Missing);
            }
            self.files.insert(file.clone());
            done += 1;
            let disk = store.trace.disk(file.0);
            match fault {
                Fault::Truncated => {
                    let open = disk.open(&file.1, Access::ReadWrite).unwrap();
                    open.truncate(cut).unwrap();
                    open.sync_data().unwrap();
                }
                _ => {
                    self.removed.push((live[0].drive, live[0].segment));
                    disk.remove(&file.1).unwrap();
                    disk.sync_dir(class).unwrap();
                }
            }
        }
    }
}

fn write(store: &Store, record: &Record, number: u64, block: &[u8]) {
    let file = store.trace.disk(record.file.0).open(&record.file.1, Access::ReadWrite).unwrap();
    file.write_at(block, (record.block + number) * BLOCK as u64).unwrap();
    file.sync_data().unwrap();
}
