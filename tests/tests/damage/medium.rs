//! What lies on the drives: every record of every segment, found by reading the files as docs/FORMAT.md describes them, and
//! which of them count, by the rows of the index.

use crate::store::{DRIVES, Store};
use codec::block::{BLOCK, BLOCK_PAYLOAD, BlockSeed, open_blocks};
use codec::effect::StripeRow;
use codec::id::{DriveId, Lsn, ShardId, StripeId};
use codec::journal::BatchHeader;
use codec::segment::{RecordHeader, RecordKind, SegmentClass, SegmentHeader};
use codec::shard::ShardHeader;
use codec::stripe::{StripeClass, StripeDescriptor};
use metadata::index::{self, Overlay, STRIPES, View};
use metadata::lookup;
use std::collections::{BTreeMap, HashMap};
use storage_node::keep::Subject;
use storage_node::segment::HEADER_SPACE;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Region {
    Data,
    Ledger,
    Journal,
    /// Of no use to anybody: superseded by a newer copy, or moved to another drive.
    Dead,
}

/// A segment's file: the drive's number and the path.
pub type File = (usize, String);

/// A record on a medium.
#[derive(Clone, Debug)]
pub struct Record {
    pub file: File,
    pub drive: DriveId,
    pub segment: u64,
    /// Another segment of the class follows on the drive.
    pub closed: bool,
    pub region: Region,
    pub subject: Subject,
    /// Its header's block, and how many blocks it has with its header.
    pub block: u64,
    pub blocks: u64,
}

#[derive(Default)]
pub struct Medium {
    pub records: Vec<Record>,
    pub bytes: HashMap<File, Vec<u8>>,
}

/// The stripes that have a row: descriptor and drives.
pub fn stripes(store: &Store) -> Vec<(StripeDescriptor, StripeRow)> {
    let rows = Overlay::new(&**store.world.metadata.kv()).rows(STRIPES, &[], &[0xff; 17], usize::MAX).unwrap();
    let decode = |(key, value): (bytes::Bytes, bytes::Bytes)| {
        let row: StripeRow = index::decode(STRIPES, &key, value).unwrap();
        (lookup::descriptor(StripeId::from_slice(&key).unwrap(), &row).unwrap(), row)
    };
    rows.into_iter().map(decode).collect()
}

/// Where each shard has to be, and what it is: (drive, root, region).
pub fn named(store: &Store) -> BTreeMap<ShardId, (DriveId, [u8; 32], Region)> {
    let mut named = BTreeMap::new();
    for (descriptor, row) in stripes(store) {
        let region = if descriptor.class == StripeClass::Data { Region::Data } else { Region::Ledger };
        for index in (0..descriptor.width()).filter(|&index| descriptor.is_present(index)) {
            let id = ShardId { stripe: descriptor.id, index };
            named.insert(id, (row.drive(index).unwrap(), descriptor.root(), region));
        }
    }
    named
}

impl Medium {
    pub fn read(store: &Store) -> Medium {
        let mut medium = Medium::default();
        for drive in 0..DRIVES {
            for dir in ["segments", "journal"] {
                let mut files = store.files(drive, &[dir]);
                files.sort_by_key(|(_, bytes)| header(bytes).map(|header| header.number));
                let count = files.len();
                for (n, (path, bytes)) in files.into_iter().enumerate() {
                    let file = (drive, path);
                    medium.scan(&file, &bytes, n + 1 < count);
                    medium.bytes.insert(file, bytes);
                }
            }
        }
        medium.judge(store);
        medium
    }

    fn scan(&mut self, file: &File, bytes: &[u8], closed: bool) {
        let Some(header) = header(bytes) else { return };
        let seed = BlockSeed::for_segment(header.cluster, header.drive, header.incarnation);
        let mut at = 1;
        while let Some(block) = bytes.get(at as usize * BLOCK..(at as usize + 1) * BLOCK) {
            let payload = open_blocks(seed, at | HEADER_SPACE, block).ok();
            let Some(record) = payload.and_then(|payload| RecordHeader::parse(&payload).ok()) else {
                at += 1;
                continue;
            };
            let next = record.next_block();
            if bytes.len() < next as usize * BLOCK {
                // Cut off in an earlier round, and made good elsewhere since.
                break;
            }
            let found = match record.kind {
                RecordKind::Shard => {
                    let shard = ShardHeader::parse(&record.body).unwrap();
                    (Region::Data, Subject::Shard(shard.id()))
                }
                RecordKind::Journal => {
                    let batch = BatchHeader::parse(&record.body).unwrap();
                    (Region::Journal, Subject::Entries(batch.first, batch.last))
                }
            };
            self.records.push(Record {
                file: file.clone(),
                drive: header.drive,
                segment: header.number,
                closed: closed || header.class == SegmentClass::Journal,
                region: found.0,
                subject: found.1,
                block: at,
                blocks: next - at,
            });
            at = next;
        }
    }

    /// The newest copy of a shard on the drive that its row names counts, and no other one.
    fn judge(&mut self, store: &Store) {
        let named = named(store);
        let mut newest: HashMap<(DriveId, Subject), (u64, u64)> = HashMap::new();
        for record in &self.records {
            let place = newest.entry((record.drive, record.subject)).or_default();
            *place = (*place).max((record.segment, record.block));
        }
        for record in &mut self.records {
            let Subject::Shard(id) = record.subject else { continue };
            let is_newest = newest[&(record.drive, record.subject)] == (record.segment, record.block);
            record.region = match named.get(&id) {
                Some((drive, _, region)) if *drive == record.drive && is_newest => *region,
                _ => Region::Dead,
            };
        }
    }

    pub fn block(&self, record: &Record, number: u64) -> &[u8] {
        let at = (record.block + number) as usize * BLOCK;
        &self.bytes[&record.file][at..at + BLOCK]
    }
}

fn header(bytes: &[u8]) -> Option<SegmentHeader> {
    let payload = open_blocks(BlockSeed::HEADER, 0, bytes.get(..BLOCK)?).ok()?;
    SegmentHeader::parse(payload.get(..BLOCK_PAYLOAD)?).ok()
}

/// What must not be damaged on more than m drives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unit {
    Stripe(StripeId),
    Entry(Lsn),
}

pub fn units(subject: Subject) -> Vec<Unit> {
    match subject {
        Subject::Shard(id) => vec![Unit::Stripe(id.stripe)],
        Subject::Entries(first, last) => (first.0..=last.0).map(|lsn| Unit::Entry(Lsn(lsn))).collect(),
        Subject::Blocks { .. } => Vec::new(),
    }
}
