//! The index: rows, their keys and families, and typed reads of them.
//!
//! Invariants:
//! * The index is a function of the journal: nothing is in it that some effect did not put there. It is disposable.
//! * `applied` (LSN and hash of the last entry) changes in the batch that holds that entry's rows, and only grows.
//! * A row's value is one format byte, a checksum and then Protocol Buffers. The checksum covers family and key as well: what
//!   lies in another row's place, or rotted between the store's own checksum and here, is damage and never an answer.
//!   Rows of format 1, of a checkpoint or an index of an earlier version, have no checksum. An unknown format is damage.
//!
//! Keys are built so that byte order is the order that listings want: numbers big endian, object keys escaped
//! (0x00 becomes 00 FF) and ended with 00 01, versions of one key newest first (the complement of their LSN).

pub mod access;
mod keys;
pub mod notices;
pub mod reclaim;
pub mod replication;
pub mod usage;
pub mod versions;

pub use self::keys::*;
pub use self::versions::{current_version, null_version};

use crate::command::SURVIVE_SETTING;
use crate::keys::Purpose;
use crate::topology::Level;
use bytes::Bytes;
use codec::effect::{
    AcceptedLossRow, AccountRow, BucketRow, CheckpointRow, ChunkRow, ClockTick, DomainRow, DriveRow, LevelRow, NodeRow,
    PartRow, SealedRow, SettingRow, StripeRow, UploadName, UploadRow,
};
use codec::id::{BucketId, ChunkId, DomainId, DriveId, Epoch, Lsn, StripeId};
use codec::level::FormatLevel;
use prost::Message;
use std::collections::BTreeMap;
use std::ops::Bound;
use storage_node::kv::{Direction, Family, Kv, KvBatch, KvError, KvIterator};

/// Buckets by name (`n`) and names by bucket id (`i`), their configurations (`c`, [`access`]), where null versions lie that others
/// lie upon (`z`, [`versions`]), which versions are being restored (`r`, there), and how much buckets hold (`q`, [`usage`]).
pub const BUCKETS: Family = "buckets";
/// Versions: bucket, key, newest first.
pub const OBJECTS: Family = "objects";
/// Open uploads (`u`) and their parts (`p`).
pub const UPLOADS: Family = "uploads";
/// Chunks by id.
pub const CHUNKS: Family = "chunks";
/// Stripes by id.
pub const STRIPES: Family = "stripes";
/// Drives by id.
pub const DRIVES: Family = "drives";
/// Accounts (`a`), their access keys (`k`) and names (`n`), dedup domains (`d`) and whose they are (`o`). Of [`access`]: users (`u`),
/// their access keys (`K`) and which those are (`U`), policies (`P`), roles (`R`), groups (`G`), keys of the key store (`M`). Of [`usage`]: how much their
/// buckets hold (`q`).
pub const ACCOUNTS: Family = "accounts";
/// What reclaim goes by ([`reclaim`]): noted ticks, dropped stripes.
pub const RECLAIM: Family = "reclaim";
/// Sealed ranges by first LSN.
pub const LEDGER: Family = "ledger";
/// `applied`, `epoch`, `clock`, `level` (the format level), `ended` (the last sealed range), `loss` and LSN, `point` and the LSN of a checkpoint, `host` and
/// the name of a storage node, `s` and a setting's name.
pub const META: Family = "meta";
/// What is copied elsewhere, and what waits for it ([`replication`]).
pub const REPLICATION: Family = "replication";
/// All families, for opening the store.
pub const FAMILIES: [Family; 11] =
    [BUCKETS, OBJECTS, UPLOADS, CHUNKS, STRIPES, DRIVES, ACCOUNTS, RECLAIM, LEDGER, META, REPLICATION];

/// Protocol Buffers behind the format byte.
const ROW_PLAIN: u8 = 1;
/// The format byte, four bytes of [`row_sum`], Protocol Buffers.
const ROW_SUMMED: u8 = 2;
/// Bytes in front of a summed row's message.
const ROW_HEAD: usize = 5;
const APPLIED: &[u8] = b"applied";
const EPOCH: &[u8] = b"epoch";
const CLOCK: &[u8] = b"clock";
const LEVEL: &[u8] = b"level";
const SEALED: &[u8] = b"ended";
const CHECKPOINT: &[u8] = b"point";
const LOSS: &[u8] = b"loss";
const NODE: &[u8] = b"host";

/// Why the index could not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] KvError),
    /// A row that does not decode, or contradicts its key: the index has to be rebuilt.
    #[error("the index has a damaged row in {family}, key {key}: {fault}")]
    Damaged {
        /// The family.
        family: Family,
        /// The key, in hex.
        key: String,
        /// What is wrong.
        fault: RowFault,
    },
}

/// What is wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// An unknown format byte, or none.
    #[error("unknown row format")]
    Format,
    /// The checksum is not that of these bytes under this key.
    #[error("its checksum does not match")]
    Checksum,
    /// The bytes do not decode.
    #[error("it does not decode")]
    Malformed,
    /// A field is missing or out of range.
    #[error("a field is missing or out of range")]
    Field,
    /// It names a row that is not there.
    #[error("it names a row that is not there")]
    Dangling,
    /// Its key is not one that this family has.
    #[error("its key is malformed")]
    Key,
}

/// Makes the error for a damaged row.
pub fn damaged(family: Family, key: &[u8], fault: RowFault) -> IndexError {
    IndexError::Damaged { family, key: hex::encode(key), fault }
}

/// Reads of index rows: of the store itself, or of what it will be once pending effects are applied.
pub trait View {
    /// The row with this key.
    fn row(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, IndexError>;

    /// Up to `limit` rows with `start <= key < end`, in key order.
    fn rows(&self, family: Family, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, IndexError>;
}

fn stored_rows(
    kv: &dyn Kv,
    family: Family,
    start: &[u8],
    end: &[u8],
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, IndexError> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let mut scan = kv.scan(family, start, Direction::Forward)?;
    while found.len() < limit {
        match scan.next()? {
            Some((key, value)) if key[..] < *end => found.push((key, value)),
            _ => break,
        }
    }
    Ok(found)
}

/// The store, and changes that are not in it yet: what the entries of one batch see of each other, and what becomes the
/// batch that is written when they are durable. Dropping it forgets the changes. Without changes it is the view of the store.
pub struct Overlay<'a> {
    base: &'a dyn Kv,
    pending: BTreeMap<Family, BTreeMap<Bytes, Option<Bytes>>>,
}

impl<'a> Overlay<'a> {
    /// No changes yet.
    pub fn new(base: &'a dyn Kv) -> Self {
        Overlay { base, pending: BTreeMap::new() }
    }

    /// Sets a row.
    pub fn put(&mut self, family: Family, key: impl Into<Bytes>, row: &impl Message) {
        let key = key.into();
        let mut value = Vec::with_capacity(ROW_HEAD + row.encoded_len());
        value.extend_from_slice(&[ROW_SUMMED, 0, 0, 0, 0]);
        row.encode_raw(&mut value);
        let sum = row_sum(family, &key, &value[ROW_HEAD..]);
        value[1..ROW_HEAD].copy_from_slice(&sum);
        self.put_raw(family, key, value);
    }

    /// Sets a row that is no message.
    pub(crate) fn put_raw(&mut self, family: Family, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.pending.entry(family).or_default().insert(key.into(), Some(value.into()));
    }

    /// Deletes a row.
    pub fn delete(&mut self, family: Family, key: impl Into<Bytes>) {
        self.pending.entry(family).or_default().insert(key.into(), None);
    }

    /// How many rows are changed.
    pub fn len(&self) -> usize {
        self.pending.values().map(BTreeMap::len).sum()
    }

    /// Whether no row is changed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The changes as one atomic batch. Families and keys in order, so equal changes give equal batches.
    pub fn into_batch(self) -> KvBatch {
        let mut batch = KvBatch::new();
        for (family, rows) in self.pending {
            for (key, value) in rows {
                match value {
                    Some(value) => batch.put(family, key, value),
                    None => batch.delete(family, key),
                }
            }
        }
        batch
    }
}

impl View for Overlay<'_> {
    fn row(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        match self.pending.get(family).and_then(|rows| rows.get(key)) {
            Some(changed) => Ok(changed.clone()),
            None => Ok(self.base.get(family, key)?),
        }
    }

    fn rows(&self, family: Family, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, IndexError> {
        let Some(pending) = self.pending.get(family).filter(|_| start < end) else {
            return stored_rows(self.base, family, start, end, limit);
        };
        let mut changed = pending.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end))).peekable();
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        let mut scan = self.base.scan(family, start, Direction::Forward)?;
        let mut stored = scan.next()?.filter(|(key, _)| key[..] < *end);
        while found.len() < limit {
            let take_changed = match (changed.peek(), &stored) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((key, _)), Some((other, _))) => *key <= other,
            };
            if !take_changed {
                found.extend(stored.take());
                stored = scan.next()?.filter(|(key, _)| key[..] < *end);
                continue;
            }
            let Some((key, value)) = changed.next() else { break };
            if stored.as_ref().is_some_and(|(other, _)| other == key) {
                stored = scan.next()?.filter(|(key, _)| key[..] < *end);
            }
            if let Some(value) = value {
                found.push((key.clone(), value.clone()));
            }
        }
        Ok(found)
    }
}

// ---- typed reads ---------------------------------------------------------------------------------------------------

/// The first four bytes of BLAKE3 over family, key and message, the first two with their lengths in front.
fn row_sum(family: Family, key: &[u8], message: &[u8]) -> [u8; 4] {
    let mut hasher = blake3::Hasher::new();
    for part in [family.as_bytes(), key] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let hash = hasher.update(message).finalize();
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

/// Decodes a row's value.
pub fn decode<M: Message + Default>(family: Family, key: &[u8], value: Bytes) -> Result<M, IndexError> {
    let message = match value.first() {
        Some(&ROW_PLAIN) => value.slice(1..),
        Some(&ROW_SUMMED) if value.len() >= ROW_HEAD => {
            let message = value.slice(ROW_HEAD..);
            if row_sum(family, key, &message) != value[1..ROW_HEAD] {
                return Err(damaged(family, key, RowFault::Checksum));
            }
            message
        }
        _ => return Err(damaged(family, key, RowFault::Format)),
    };
    M::decode(message).map_err(|_| damaged(family, key, RowFault::Malformed))
}

/// The row with this key, decoded.
pub(crate) fn read<M: Message + Default>(view: &dyn View, family: Family, key: &[u8]) -> Result<Option<M>, IndexError> {
    view.row(family, key)?.map(|value| decode(family, key, value)).transpose()
}

fn read_all<M: Message + Default>(view: &dyn View, family: Family, prefix: &[u8]) -> Result<Vec<M>, IndexError> {
    let end = if prefix.is_empty() { vec![0xff; 64] } else { prefix_end(prefix) };
    let rows = view.rows(family, prefix, &end, usize::MAX)?;
    rows.into_iter().map(|(key, value)| decode(family, &key, value)).collect()
}

fn read_text(view: &dyn View, family: Family, key: &[u8]) -> Result<Option<String>, IndexError> {
    let Some(value) = view.row(family, key)? else { return Ok(None) };
    String::from_utf8(value.to_vec()).map(Some).map_err(|_| damaged(family, key, RowFault::Malformed))
}

/// The last applied entry: its LSN and hash. LSN 0 and zeros on an empty index.
pub fn applied(view: &dyn View) -> Result<(Lsn, [u8; 32]), IndexError> {
    parse_applied(view.row(META, APPLIED)?)
}

/// The same, of the moment that a scan of META sees.
pub fn applied_in(meta: &mut dyn KvIterator) -> Result<(Lsn, [u8; 32]), IndexError> {
    meta.seek(APPLIED);
    parse_applied(meta.next()?.filter(|(key, _)| key == APPLIED).map(|(_, value)| value))
}

fn parse_applied(value: Option<Bytes>) -> Result<(Lsn, [u8; 32]), IndexError> {
    let Some(value) = value else { return Ok((Lsn(0), [0; 32])) };
    let parsed = value.split_first_chunk::<8>().and_then(|(lsn, hash)| Some((*lsn, hash.try_into().ok()?)));
    let (lsn, hash) = parsed.ok_or_else(|| damaged(META, APPLIED, RowFault::Malformed))?;
    Ok((Lsn(u64::from_be_bytes(lsn)), hash))
}

pub(crate) fn put_applied(overlay: &mut Overlay<'_>, lsn: Lsn, hash: &[u8; 32]) {
    let mut value = lsn.0.to_be_bytes().to_vec();
    value.extend_from_slice(hash);
    overlay.put_raw(META, APPLIED, value);
}

/// The current epoch; 0 before the first start.
pub fn epoch(view: &dyn View) -> Result<Epoch, IndexError> {
    let Some(value) = view.row(META, EPOCH)? else { return Ok(Epoch(0)) };
    let bytes = value[..].try_into().map_err(|_| damaged(META, EPOCH, RowFault::Malformed))?;
    Ok(Epoch(u64::from_be_bytes(bytes)))
}

pub(crate) fn put_epoch(overlay: &mut Overlay<'_>, epoch: Epoch) {
    overlay.put_raw(META, EPOCH, epoch.0.to_be_bytes().to_vec());
}

/// The retention clock's last tick.
pub fn clock(view: &dyn View) -> Result<Option<ClockTick>, IndexError> {
    read(view, META, CLOCK)
}

pub(crate) fn put_clock(overlay: &mut Overlay<'_>, tick: &ClockTick) {
    overlay.put(META, CLOCK, tick);
}

/// The cluster's format level, and the release that raised it; [`FormatLevel::BEFORE`] where none was ever journaled. The row keeps
/// its form for ever, whatever becomes of others: it tells a program that is too old for an index that it is.
pub fn level(view: &dyn View) -> Result<LevelRow, IndexError> {
    let before = || LevelRow { level: FormatLevel::BEFORE.0, by: String::new() };
    Ok(read(view, META, LEVEL)?.unwrap_or_else(before))
}

pub(crate) fn put_level(overlay: &mut Overlay<'_>, row: &LevelRow) {
    overlay.put(META, LEVEL, row);
}

/// A journaled setting.
pub fn setting(view: &dyn View, name: &str) -> Result<Option<SettingRow>, IndexError> {
    read(view, META, &setting_key(name))
}

/// The rule of placement.
pub fn survive(view: &dyn View) -> Result<Level, IndexError> {
    let Some(row) = setting(view, SURVIVE_SETTING)? else { return Ok(Level::Drive) };
    let level = std::str::from_utf8(&row.value).ok().and_then(|name| name.parse().ok());
    level.ok_or_else(|| damaged(META, &setting_key(SURVIVE_SETTING), RowFault::Field))
}

/// The bucket of a name.
pub fn bucket(view: &dyn View, name: &str) -> Result<Option<BucketRow>, IndexError> {
    read(view, BUCKETS, &bucket_key(name))
}

/// The bucket with an id.
pub fn bucket_by_id(view: &dyn View, id: BucketId) -> Result<Option<BucketRow>, IndexError> {
    let key = bucket_id_key(id);
    let Some(name) = read_text(view, BUCKETS, &key)? else { return Ok(None) };
    match bucket(view, &name)? {
        Some(row) if row.id == id.0 => Ok(Some(row)),
        _ => Err(damaged(BUCKETS, &key, RowFault::Dangling)),
    }
}

/// All buckets, by name.
pub fn buckets(view: &dyn View) -> Result<Vec<BucketRow>, IndexError> {
    read_all(view, BUCKETS, b"n")
}

/// An account's buckets, by name.
pub fn buckets_of(view: &dyn View, owner: &str) -> Result<Vec<BucketRow>, IndexError> {
    let mut rows = buckets(view)?;
    rows.retain(|row| row.owner == owner);
    Ok(rows)
}

/// Whether a bucket holds any version.
pub fn has_versions(view: &dyn View, bucket: BucketId) -> Result<bool, IndexError> {
    let start = bucket_objects(bucket);
    Ok(!view.rows(OBJECTS, &start, &prefix_end(&start), 1)?.is_empty())
}

/// An open upload.
pub fn upload(view: &dyn View, name: &UploadName) -> Result<Option<UploadRow>, IndexError> {
    read(view, UPLOADS, &upload_key(name))
}

/// Up to `limit` open uploads of a bucket, by key and age.
pub fn uploads(view: &dyn View, bucket: BucketId, limit: usize) -> Result<Vec<UploadRow>, IndexError> {
    let start = bucket_uploads(bucket);
    let rows = view.rows(UPLOADS, &start, &prefix_end(&start), limit)?;
    rows.into_iter().map(|(key, value)| decode(UPLOADS, &key, value)).collect()
}

/// Up to `limit` uploads whose bucket is gone: to be aborted.
pub fn orphan_uploads(view: &dyn View, limit: usize) -> Result<Vec<UploadName>, IndexError> {
    let mut found = Vec::new();
    let mut start = vec![b'u'];
    while found.len() < limit {
        let Some((key, _)) = view.rows(UPLOADS, &start, &prefix_end(b"u"), 1)?.pop() else { break };
        let id = key.get(1..9).and_then(|id| id.try_into().ok());
        let bucket = BucketId(u64::from_be_bytes(id.ok_or_else(|| damaged(UPLOADS, &key, RowFault::Key))?));
        if bucket_by_id(view, bucket)?.is_none() {
            let orphans = uploads(view, bucket, limit - found.len())?;
            found.extend(orphans.into_iter().filter_map(|row| row.name));
        }
        start = prefix_end(&bucket_uploads(bucket));
    }
    Ok(found)
}

/// A part.
pub fn part(view: &dyn View, name: &UploadName, number: u32) -> Result<Option<PartRow>, IndexError> {
    read(view, UPLOADS, &part_key(name, number))
}

/// All parts of an upload, by number.
pub fn parts(view: &dyn View, name: &UploadName) -> Result<Vec<PartRow>, IndexError> {
    read_all(view, UPLOADS, &upload_parts(name))
}

/// A chunk.
pub fn chunk(view: &dyn View, id: ChunkId) -> Result<Option<ChunkRow>, IndexError> {
    read(view, CHUNKS, id.as_bytes())
}

/// A stripe.
pub fn stripe(view: &dyn View, id: StripeId) -> Result<Option<StripeRow>, IndexError> {
    read(view, STRIPES, &id.to_bytes())
}

/// A drive.
pub fn drive(view: &dyn View, id: DriveId) -> Result<Option<DriveRow>, IndexError> {
    read(view, DRIVES, id.as_bytes())
}

/// All registered drives, removed ones included, by id.
pub fn drives(view: &dyn View) -> Result<Vec<DriveRow>, IndexError> {
    read_all(view, DRIVES, b"")
}

/// All storage nodes that ever belonged to the cluster, by name.
pub fn nodes(view: &dyn View) -> Result<Vec<NodeRow>, IndexError> {
    read_all(view, META, NODE)
}

/// A storage node.
pub fn node(view: &dyn View, name: &str) -> Result<Option<NodeRow>, IndexError> {
    read(view, META, &[NODE, name.as_bytes()].concat())
}

pub(crate) fn put_node(overlay: &mut Overlay<'_>, row: &NodeRow) {
    overlay.put(META, [NODE, row.name.as_bytes()].concat(), row);
}

/// An account by its id.
pub fn account(view: &dyn View, id: &str) -> Result<Option<AccountRow>, IndexError> {
    read(view, ACCOUNTS, &account_key(id))
}

/// All accounts, by id.
pub fn accounts(view: &dyn View) -> Result<Vec<AccountRow>, IndexError> {
    read_all(view, ACCOUNTS, b"a")
}

/// The account that a row of [`access_key_key`] or [`account_name_key`] points to.
pub(crate) fn account_at(view: &dyn View, pointer: &[u8]) -> Result<Option<AccountRow>, IndexError> {
    let Some(id) = read_text(view, ACCOUNTS, pointer)? else { return Ok(None) };
    account(view, &id)?.map(Some).ok_or_else(|| damaged(ACCOUNTS, pointer, RowFault::Dangling))
}

/// The account of an access key.
pub fn account_by_access_key(view: &dyn View, access_key: &str) -> Result<Option<AccountRow>, IndexError> {
    account_at(view, &access_key_key(access_key))
}

/// A dedup domain.
pub fn domain(view: &dyn View, id: DomainId) -> Result<Option<DomainRow>, IndexError> {
    read(view, ACCOUNTS, &domain_key(id))
}

/// All dedup domains, by id.
pub fn domains(view: &dyn View) -> Result<Vec<DomainRow>, IndexError> {
    read_all(view, ACCOUNTS, b"d")
}

/// The dedup domain that an account has for a purpose.
pub fn domain_of(view: &dyn View, account: &str, purpose: &Purpose) -> Result<Option<DomainRow>, IndexError> {
    let key = domain_class_key(account, purpose.class(), purpose.key());
    let Some(value) = view.row(ACCOUNTS, &key)? else { return Ok(None) };
    let id = value[..].try_into().map_err(|_| damaged(ACCOUNTS, &key, RowFault::Malformed))?;
    let row = domain(view, DomainId(u64::from_be_bytes(id)))?;
    row.map(Some).ok_or_else(|| damaged(ACCOUNTS, &key, RowFault::Dangling))
}

/// All sealed ranges, in LSN order.
pub fn sealed_ranges(view: &dyn View) -> Result<Vec<SealedRow>, IndexError> {
    read_all(view, LEDGER, b"")
}

/// The losses that were accepted, by the last LSN that was kept.
pub fn accepted_losses(view: &dyn View) -> Result<Vec<AcceptedLossRow>, IndexError> {
    read_all(view, META, LOSS)
}

pub(crate) fn put_accepted_loss(overlay: &mut Overlay<'_>, row: &AcceptedLossRow) {
    overlay.put(META, [LOSS, &row.kept.to_be_bytes()].concat(), row);
}

/// The checkpoints that a rebuild may use, by LSN.
pub fn checkpoints(view: &dyn View) -> Result<Vec<CheckpointRow>, IndexError> {
    read_all(view, META, CHECKPOINT)
}

fn checkpoint_key(row: &CheckpointRow) -> Vec<u8> {
    [CHECKPOINT, &row.lsn.to_be_bytes()].concat()
}

pub(crate) fn put_checkpoint(overlay: &mut Overlay<'_>, row: &CheckpointRow) {
    overlay.put(META, checkpoint_key(row), row);
}

pub(crate) fn delete_checkpoint(overlay: &mut Overlay<'_>, row: &CheckpointRow) {
    overlay.delete(META, checkpoint_key(row));
}

/// The last sealed range.
pub fn last_sealed(view: &dyn View) -> Result<Option<SealedRow>, IndexError> {
    read(view, META, SEALED)
}

/// The sealed range that begins with an entry.
pub fn sealed_range(view: &dyn View, first: Lsn) -> Result<Option<SealedRow>, IndexError> {
    read(view, LEDGER, &first.0.to_be_bytes())
}

/// A range that is known is put again when other stripes take the place of one of its own; it is the last one only if none
/// comes after it.
pub(crate) fn put_sealed(overlay: &mut Overlay<'_>, row: &SealedRow) -> Result<(), IndexError> {
    overlay.put(LEDGER, row.first.to_be_bytes().to_vec(), row);
    if last_sealed(overlay)?.is_none_or(|last| last.last <= row.last) {
        overlay.put(META, SEALED, row);
    }
    Ok(())
}

/// A hash over the rows that people put in: buckets, versions, uploads, chunks, stripes, drives, accounts. What depends
/// on when this index was last started (epoch, clock, `applied`, the ledger) is left out, so a rebuilt index has the
/// digest of the one it replaces.
pub fn digest(kv: &dyn Kv) -> Result<[u8; 32], IndexError> {
    digest_of(kv, &[BUCKETS, OBJECTS, UPLOADS, CHUNKS, STRIPES, DRIVES, ACCOUNTS])
}

/// A hash over every row.
pub fn digest_all(kv: &dyn Kv) -> Result<[u8; 32], IndexError> {
    digest_of(kv, &FAMILIES)
}

fn digest_of(kv: &dyn Kv, families: &[Family]) -> Result<[u8; 32], IndexError> {
    let mut hasher = blake3::Hasher::new();
    for family in families {
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(family.as_bytes());
        let mut scan = kv.scan(family, &[], Direction::Forward)?;
        while let Some((key, value)) = scan.next()? {
            field(&key);
            field(&value);
        }
    }
    Ok(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use storage_node::kv::MemoryKv;

    proptest! {
        #[test]
        fn escaped_keys_sort_as_their_bytes(a: String, b: String) {
            let (ka, kb) = (versions_of(BucketId(1), &a), versions_of(BucketId(1), &b));
            prop_assert_eq!(a.as_bytes().cmp(b.as_bytes()), ka.cmp(&kb));
        }

        #[test]
        fn unescape_reverses_and_is_total(bytes: Vec<u8>, tail: Vec<u8>) {
            let mut key = Vec::new();
            terminated_into(&mut key, &bytes);
            key.extend_from_slice(&tail);
            prop_assert_eq!(unescape(&key), Some((bytes, &tail[..])));
            let _ = unescape(&tail);
        }

        #[test]
        fn an_overlay_reads_like_the_store_it_becomes(
            stored in proptest::collection::btree_map(0u8..40, any::<u8>(), 0..20),
            changes in proptest::collection::vec((0u8..40, proptest::option::of(any::<u8>())), 0..20),
            start in 0u8..40, end in 0u8..40, limit in 0usize..30,
        ) {
            let kv = MemoryKv::new(&FAMILIES);
            let mut batch = KvBatch::new();
            for (key, value) in stored {
                batch.put(CHUNKS, vec![key], vec![value]);
            }
            kv.write(batch).unwrap();
            let mut overlay = Overlay::new(&kv);
            for (key, value) in changes {
                match value {
                    Some(value) => overlay.put_raw(CHUNKS, vec![key], vec![value]),
                    None => overlay.delete(CHUNKS, vec![key]),
                }
            }
            let seen = overlay.rows(CHUNKS, &[start], &[end], limit).unwrap();
            let batch = overlay.into_batch();
            kv.write(batch).unwrap();
            prop_assert_eq!(seen, Overlay::new(&kv).rows(CHUNKS, &[start], &[end], limit).unwrap());
        }
    }

    #[test]
    fn a_row_that_is_another_rows_or_rotten_is_damage_and_one_of_an_earlier_version_is_read() {
        let kv = MemoryKv::new(&FAMILIES);
        let mut overlay = Overlay::new(&kv);
        let row = SealedRow { first: 7, last: 9, stripes: Vec::new(), last_hash: Bytes::from_static(&[1; 32]) };
        overlay.put(LEDGER, b"key".to_vec(), &row);
        let value = overlay.row(LEDGER, b"key").unwrap().unwrap();
        assert_eq!(decode::<SealedRow>(LEDGER, b"key", value.clone()), Ok(row.clone()));
        let fault = |family, key: &[u8], value: Vec<u8>| match decode::<SealedRow>(family, key, value.into()) {
            Err(IndexError::Damaged { fault, .. }) => Some(fault),
            _ => None,
        };
        assert_eq!(fault(LEDGER, b"kez", value.to_vec()), Some(RowFault::Checksum));
        assert_eq!(fault(META, b"key", value.to_vec()), Some(RowFault::Checksum));
        for at in 0..value.len() {
            let mut rotten = value.to_vec();
            rotten[at] ^= 4;
            assert!(fault(LEDGER, b"key", rotten).is_some(), "byte {at}");
            assert!(fault(LEDGER, b"key", value[..at].to_vec()).is_some(), "cut at {at}");
        }
        let plain = [&[ROW_PLAIN], &value[ROW_HEAD..]].concat();
        assert_eq!(decode::<SealedRow>(LEDGER, b"anything", plain.into()), Ok(row));
    }

    #[test]
    fn after_prefix_carries() {
        assert_eq!(after_prefix(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
