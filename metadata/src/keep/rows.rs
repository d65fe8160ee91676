//! The scrub of metadata's rows: all of them decode, what they name is there, and the counts agree.
//!
//! Invariants
//! * All families are read as of one moment, so nothing that a commit changes meanwhile looks like a contradiction.
//! * Nothing is changed: a fault is reported. The index is disposable, and `stele rebuild-index` makes it anew from media.
//! * Memory is bounded: references are counted for one slice of the chunk ids at a time.
//!
//! A chunk's count is the number of manifests that name it. What a manifest chunk lists is not read here, so where there
//! are manifest chunks a count may be higher than what was counted, never lower.

use crate::index::access::NameKind;
use crate::index::{
    self, ACCOUNTS, BUCKETS, CHUNKS, DRIVES, IndexError, LEDGER, META, OBJECTS, REPLICATION, RowFault, STRIPES, UPLOADS,
};
use crate::lookup;
use bytes::Bytes;
use codec::effect::{
    AccessKeyRow, AccountRow, BucketConfigRow, BucketRow, ChunkRow, ChunkState, Content, DomainRow, DriveRow, GroupRow,
    KmsKeyRow, PartRow, PolicyRow, RoleRow, SealedRow, StripeRow, UploadRow, UsageRow, UserRow, VersionRow,
};
use codec::id::{BucketId, ChunkId, DomainId, DriveId, Epoch, Lsn, StripeId};
use codec::manifest::Manifest;
use codec::stripe::StripeClass;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use storage_node::kv::{Family, Kv, KvIterator};

/// Faults that a report lists; it counts all.
pub const LISTED: usize = 1000;

/// What is wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not decode, contradicts its key, or names what is not there.
    #[error(transparent)]
    Row(#[from] RowFault),
    /// Its count of references is not what was counted.
    #[error("{stored} references are noted, {counted} were counted")]
    Count {
        /// What the row says.
        stored: u64,
        /// What the manifests say.
        counted: u64,
    },
}

/// A row that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFinding {
    /// Its family.
    pub family: Family,
    /// Its key.
    pub key: Bytes,
    /// What is wrong.
    pub fault: Fault,
}

/// What a scrub of the rows came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowsReport {
    /// The last entry that the index had applied.
    pub applied: Lsn,
    /// Rows read.
    pub rows: u64,
    /// References followed.
    pub references: u64,
    /// Chunks whose counts were compared.
    pub counted: u64,
    /// Faults found.
    pub faults: u64,
    /// The first [`LISTED`] of them.
    pub list: Vec<RowFinding>,
    /// The scrub was stopped before its end.
    pub stopped: bool,
}

/// One slice of the chunk ids: those whose first four bytes, times `of`, fall into part `number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// 0 to `of` - 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl Slice {
    /// All chunks.
    pub const ALL: Slice = Slice { number: 0, of: 1 };

    fn has(&self, id: ChunkId) -> bool {
        let [a, b, c, d, ..] = id.0;
        let part = (u64::from(u32::from_be_bytes([a, b, c, d])) * u64::from(self.of)) >> 32;
        part == u64::from(self.number)
    }
}

/// Where the scan of a family stands, and a way to look rows up in it.
struct At<'a>(Box<dyn KvIterator + 'a>);

impl At<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.0.seek(key);
        Ok(self.0.next()?.filter(|(found, _)| found[..] == *key).map(|(_, value)| value))
    }
}

/// Scrubs all rows. `pace` is told of every row and may wait; `false` ends the scrub.
///
/// # Errors
/// The store failed, or can't be read as of one moment. Rows that are wrong are no error: they are in the report.
pub fn scrub_rows(kv: &dyn Kv, slice: Slice, pace: &mut dyn FnMut() -> bool) -> Result<RowsReport, IndexError> {
    let families = [
        META,
        DRIVES,
        BUCKETS,
        ACCOUNTS,
        STRIPES,
        LEDGER,
        CHUNKS,
        OBJECTS,
        UPLOADS,
        REPLICATION,
        META,
        BUCKETS,
        STRIPES,
        CHUNKS,
    ];
    let scans = kv.scan_together(&families)?;
    let mut scans = scans.into_iter().map(At);
    let mut take = || scans.next().ok_or_else(|| index::damaged(META, &[], RowFault::Key));
    let walks = [take()?, take()?, take()?, take()?, take()?, take()?, take()?, take()?, take()?, take()?];
    let lookups = Lookups { meta: take()?, buckets: take()?, stripes: take()?, chunks: take()? };
    let mut scrub = Scrub {
        report: RowsReport::default(),
        lookups,
        slice,
        counts: HashMap::new(),
        sealed: Lsn(0),
        drives: BTreeSet::new(),
        known: BTreeMap::new(),
        manifest_chunks: false,
        noted: Vec::new(),
    };
    scrub.begin()?;
    for (family, mut walk) in families.into_iter().zip(walks) {
        while let Some((key, value)) = walk.0.next()? {
            if !pace() {
                scrub.report.stopped = true;
                return Ok(scrub.report);
            }
            scrub.report.rows += 1;
            if let Err(fault) = scrub.row(family, &key, value)? {
                scrub.note(family, key, fault.into());
            }
        }
    }
    scrub.compare_counts();
    Ok(scrub.report)
}

struct Lookups<'a> {
    meta: At<'a>,
    buckets: At<'a>,
    stripes: At<'a>,
    chunks: At<'a>,
}

struct Scrub<'a> {
    report: RowsReport,
    lookups: Lookups<'a>,
    slice: Slice,
    counts: HashMap<ChunkId, u64>,
    sealed: Lsn,
    drives: BTreeSet<DriveId>,
    /// The last stripes that chunks named.
    known: BTreeMap<StripeId, codec::stripe::StripeDescriptor>,
    manifest_chunks: bool,
    /// Chunks of the slice, with what their rows say.
    noted: Vec<(ChunkId, u64)>,
}

/// A row's verdict; the outer result is the store's.
type Verdict = Result<Result<(), RowFault>, IndexError>;

/// Descriptors that are kept; chunks of one object mostly lie in few stripes.
const KNOWN: usize = 1024;

fn decode<M: Message + Default>(family: Family, key: &[u8], value: Bytes) -> Result<M, RowFault> {
    index::decode(family, key, value).map_err(|error| match error {
        IndexError::Damaged { fault, .. } => fault,
        IndexError::Store(_) => RowFault::Malformed,
    })
}

/// Goes on with the value, or ends with the fault.
macro_rules! or_fault {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(fault) => return Ok(Err(fault)),
        }
    };
}

fn holds(condition: bool, fault: RowFault) -> Result<(), RowFault> {
    if condition { Ok(()) } else { Err(fault) }
}

impl Scrub<'_> {
    fn note(&mut self, family: Family, key: Bytes, fault: Fault) {
        self.report.faults += 1;
        if self.report.list.len() < LISTED {
            self.report.list.push(RowFinding { family, key, fault });
        }
    }

    /// What the other rows are judged by.
    fn begin(&mut self) -> Result<(), IndexError> {
        if let Some(value) = self.lookups.meta.get(b"ended")? {
            self.sealed = decode::<SealedRow>(META, b"ended", value).map_or(Lsn(0), |row| Lsn(row.last));
        }
        if let Some(value) = self.lookups.meta.get(b"applied")?
            && let Some(lsn) = value.first_chunk::<8>()
        {
            self.report.applied = Lsn(u64::from_be_bytes(*lsn));
        }
        Ok(())
    }

    fn row(&mut self, family: Family, key: &[u8], value: Bytes) -> Verdict {
        match family {
            DRIVES => {
                let row: DriveRow = or_fault!(decode(family, key, value));
                self.drives.extend(DriveId::from_slice(&row.id));
                Ok(holds(row.id[..] == *key, RowFault::Key))
            }
            BUCKETS => self.bucket(key, value),
            ACCOUNTS => Ok(account(key, value)),
            STRIPES => self.stripe(key, value),
            LEDGER => self.sealed(key, value),
            CHUNKS => self.chunk(key, value),
            OBJECTS => self.version(key, value),
            UPLOADS => self.upload(key, value),
            REPLICATION => Ok(index::replication::check(key, value)),
            _ => Ok(Ok(())),
        }
    }

    fn bucket(&mut self, key: &[u8], value: Bytes) -> Verdict {
        match key.split_first() {
            Some((b'n', name)) => {
                let row: BucketRow = or_fault!(decode(BUCKETS, key, value));
                or_fault!(holds(row.name.as_bytes() == name, RowFault::Key));
                let pointer = self.lookups.buckets.get(&index::bucket_id_key(BucketId(row.id)))?;
                Ok(holds(pointer.is_some_and(|name| name[..] == *row.name.as_bytes()), RowFault::Dangling))
            }
            Some((b'i', _)) => {
                let name = or_fault!(String::from_utf8(value.to_vec()).map_err(|_| RowFault::Malformed));
                let row = self.lookups.buckets.get(&index::bucket_key(&name))?;
                Ok(holds(row.is_some(), RowFault::Dangling))
            }
            Some((b'c', _)) => {
                let row: BucketConfigRow = or_fault!(decode(BUCKETS, key, value));
                let name = or_fault!(row.name.as_ref().ok_or(RowFault::Field));
                let of = BucketId(name.bucket);
                or_fault!(holds(key == index::bucket_config_key(of, name.kind, &name.id), RowFault::Key));
                let bucket = self.lookups.buckets.get(&index::bucket_id_key(of))?;
                Ok(holds(bucket.is_some(), RowFault::Dangling))
            }
            Some((b'q', _)) => Ok(decode::<UsageRow>(BUCKETS, key, value).map(drop)),
            Some((b'z', _)) => Ok(holds(value.len() == 8, RowFault::Malformed)),
            Some((b'r', _)) => Ok(holds(index::restoring_of(key).is_some(), RowFault::Key)),
            _ => Ok(Err(RowFault::Key)),
        }
    }

    fn stripe(&mut self, key: &[u8], value: Bytes) -> Verdict {
        let id = or_fault!(StripeId::from_slice(key).ok_or(RowFault::Key));
        let row: StripeRow = or_fault!(decode(STRIPES, key, value));
        let descriptor = or_fault!(lookup::descriptor(id, &row).map_err(|_| RowFault::Malformed));
        let mut distinct = BTreeSet::new();
        for index in 0..descriptor.width() {
            match (descriptor.is_present(index), row.drive(index)) {
                (true, Some(drive)) => {
                    self.report.references += 1;
                    or_fault!(holds(self.drives.contains(&drive), RowFault::Dangling));
                    or_fault!(holds(distinct.insert(drive), RowFault::Field));
                }
                (false, None) => {}
                _ => return Ok(Err(RowFault::Field)),
            }
        }
        Ok(Ok(()))
    }

    fn descriptor(&mut self, id: StripeId) -> Result<Option<codec::stripe::StripeDescriptor>, IndexError> {
        if let Some(known) = self.known.get(&id) {
            return Ok(Some(known.clone()));
        }
        let key = id.to_bytes();
        let Some(value) = self.lookups.stripes.get(&key)? else { return Ok(None) };
        let row = decode::<StripeRow>(STRIPES, &key, value).ok();
        let Some(found) = row.and_then(|row| lookup::descriptor(id, &row).ok()) else { return Ok(None) };
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(id, found.clone());
        Ok(Some(found))
    }

    fn sealed(&mut self, _key: &[u8], value: Bytes) -> Verdict {
        let row: SealedRow = or_fault!(decode(LEDGER, _key, value));
        or_fault!(holds(_key == row.first.to_be_bytes() && row.first <= row.last, RowFault::Key));
        for name in &row.stripes {
            self.report.references += 1;
            let stripe = self.descriptor(StripeId { epoch: Epoch(name.epoch), counter: name.counter })?;
            let ledger = stripe.is_some_and(|stripe| stripe.class == StripeClass::Ledger);
            or_fault!(holds(ledger, RowFault::Dangling));
        }
        Ok(Ok(()))
    }

    fn chunk(&mut self, key: &[u8], value: Bytes) -> Verdict {
        let row: ChunkRow = or_fault!(decode(CHUNKS, key, value));
        let id = or_fault!(row.chunk_id().filter(|id| id.as_bytes() == key).ok_or(RowFault::Key));
        self.manifest_chunks |= row.is_manifest;
        if self.slice.has(id) {
            self.noted.push((id, row.refs));
        }
        let live = row.state == ChunkState::Live as i32;
        let stated =
            (live && row.condemned_lsn == 0) || (row.state == ChunkState::Condemned as i32 && row.condemned_lsn > 0);
        or_fault!(holds(stated, RowFault::Field));
        let place = or_fault!(row.place.ok_or(RowFault::Field));
        self.report.references += 1;
        if let Some(lsn) = place.lsn() {
            return Ok(holds(lsn > self.sealed && lsn <= self.report.applied, RowFault::Dangling));
        }
        let stripe = or_fault!(place.stripe().ok_or(RowFault::Field));
        let Some(descriptor) = self.descriptor(stripe)? else { return Ok(Err(RowFault::Dangling)) };
        let end = u64::from(place.offset) + u64::from(place.len);
        let inside = u8::try_from(place.shard)
            .is_ok_and(|shard| descriptor.is_present(shard) && end <= u64::from(descriptor.shard_len(shard)));
        Ok(holds(inside, RowFault::Field))
    }

    fn version(&mut self, key: &[u8], value: Bytes) -> Verdict {
        let row: VersionRow = or_fault!(decode(OBJECTS, key, value));
        let bucket = BucketId(row.bucket);
        or_fault!(holds(key == index::version_key(bucket, &row.key, Lsn(row.seq)), RowFault::Key));
        self.report.references += 1;
        let there = self.lookups.buckets.get(&index::bucket_id_key(bucket))?.is_some();
        or_fault!(holds(there, RowFault::Dangling));
        match &row.content {
            Some(content) => self.content(content),
            None => Ok(holds(row.delete_marker, RowFault::Field)),
        }
    }

    fn upload(&mut self, key: &[u8], value: Bytes) -> Verdict {
        match key.first() {
            Some(b'u') => {
                let row: UploadRow = or_fault!(decode(UPLOADS, key, value));
                let name = or_fault!(row.name.as_ref().ok_or(RowFault::Field));
                Ok(holds(key == index::upload_key(name), RowFault::Key))
            }
            Some(b'p') => {
                let row: PartRow = or_fault!(decode(UPLOADS, key, value));
                let name = or_fault!(row.upload.as_ref().ok_or(RowFault::Field));
                or_fault!(holds(key == index::part_key(name, row.number), RowFault::Key));
                let content = or_fault!(row.content.as_ref().ok_or(RowFault::Field));
                self.content(content)
            }
            _ => Ok(Err(RowFault::Key)),
        }
    }

    /// A manifest decodes, and every chunk that it names is known.
    fn content(&mut self, content: &Content) -> Verdict {
        let manifest = or_fault!(Manifest::parse(&content.manifest).map_err(|_| RowFault::Malformed));
        or_fault!(holds(manifest.total_len() == content.size, RowFault::Field));
        for entry in manifest.entries() {
            self.report.references += 1;
            let there = self.lookups.chunks.get(entry.id.as_bytes())?.is_some();
            or_fault!(holds(there, RowFault::Dangling));
            if self.slice.has(entry.id) {
                *self.counts.entry(entry.id).or_default() += 1;
            }
        }
        Ok(Ok(()))
    }

    fn compare_counts(&mut self) {
        for (id, stored) in std::mem::take(&mut self.noted) {
            let counted = self.counts.get(&id).copied().unwrap_or(0);
            self.report.counted += 1;
            let agrees = stored == counted || (self.manifest_chunks && stored > counted);
            if !agrees {
                self.note(CHUNKS, Bytes::copy_from_slice(id.as_bytes()), Fault::Count { stored, counted });
            }
        }
    }
}

fn named(key: &[u8], kind: NameKind, account: &str, name: &str) -> Result<(), RowFault> {
    holds(key == index::named_key(kind, account, Some(name)), RowFault::Key)
}

fn account(key: &[u8], value: Bytes) -> Result<(), RowFault> {
    match key.first() {
        Some(b'a') => decode::<AccountRow>(ACCOUNTS, key, value)
            .and_then(|row| holds(key == index::account_key(&row.id), RowFault::Key)),
        Some(b'd') => decode::<DomainRow>(ACCOUNTS, key, value)
            .and_then(|row| holds(key == index::domain_key(DomainId(row.id)), RowFault::Key)),
        Some(b'k' | b'n' | b'o' | b'U') => Ok(()),
        Some(b'q') => decode::<UsageRow>(ACCOUNTS, key, value).map(drop),
        Some(b'K') => decode::<AccessKeyRow>(ACCOUNTS, key, value)
            .and_then(|row| holds(key == index::access_key_row_key(&row.access_key), RowFault::Key)),
        Some(b'M') => decode::<KmsKeyRow>(ACCOUNTS, key, value)
            .and_then(|row| holds(key == index::kms_key_key(&row.id), RowFault::Key)),
        Some(b'u') => {
            decode::<UserRow>(ACCOUNTS, key, value).and_then(|row| named(key, NameKind::User, &row.account, &row.name))
        }
        Some(b'P') => decode::<PolicyRow>(ACCOUNTS, key, value).and_then(|row| {
            named(key, NameKind::Policy, &row.account, row.policy.as_ref().map_or("", |policy| &policy.name))
        }),
        Some(b'R') => {
            decode::<RoleRow>(ACCOUNTS, key, value).and_then(|row| named(key, NameKind::Role, &row.account, &row.name))
        }
        Some(b'G') => decode::<GroupRow>(ACCOUNTS, key, value)
            .and_then(|row| named(key, NameKind::Group, &row.account, &row.name)),
        _ => Err(RowFault::Key),
    }
}
