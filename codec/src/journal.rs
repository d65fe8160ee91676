//! Journal entries, the batches that they are written in, and the ledger form that they are sealed in.
//!
//! An entry is one committed command: its effects, and the frames that ride with it. Entries form a chain: each carries the
//! hash of the one before it. The hash covers the effects and the *hashes* of the frames, never the frames' bytes, so an
//! entry keeps its hash, and its place in the Merkle log, when it is sealed and its frames move into data stripes.
//!
//! The order of the parts (header, frame table, frames, effects) is no accident: effects name the offset of each frame in
//! the entry, so the offsets must be known before the effects are encoded, and must not depend on their length.

use crate::effect::{EFFECT_VERSION, EffectError, Effects};
use crate::id::{Epoch, Lsn};
use crate::read::Reader;
use bytes::Bytes;
use prost::Message;
use std::ops::Range;

/// The version of entries that this code writes.
pub const ENTRY_VERSION: u16 = 1;
/// The version of batch headers that this code writes.
pub const BATCH_VERSION: u16 = 1;
/// The longest entry, in bytes.
pub const MAX_ENTRY: usize = 256 << 20;
/// The longest payload of a batch, in bytes: that of a record.
pub const MAX_BATCH: usize = 1 << 30;
/// Bytes of an entry before its frame table.
pub const ENTRY_HEADER: usize = 104;
/// Bytes of the frame table per frame.
pub const FRAME_TABLE_ROW: usize = 36;
/// Bytes of a batch header.
pub const BATCH_HEADER: usize = 80;
/// What the first entry of a cluster (LSN 1) has as the hash of its predecessor.
pub const NO_ENTRY: [u8; 32] = [0; 32];

const ENTRY_MAGIC: &[u8; 4] = b"STLE";
const BATCH_MAGIC: &[u8; 4] = b"STLB";
const HASH_CONTEXT: &str = "stele 2026 journal entry v1";
const FLAG_LEDGER: u32 = 1;
/// Offset of the flags in the header: the only header field before the hash that the hash does not cover.
const FLAGS_AT: usize = 8;
/// Offset of the hash in the header; the bytes before it are covered by it.
const HASH_AT: usize = 72;

/// An entry or a batch that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The bytes end early.
    #[error("ends early")]
    Short,
    /// Bytes are left over behind the end.
    #[error("goes on behind its end")]
    Long,
    /// Neither an entry nor a batch header.
    #[error("does not start like a journal entry or a batch header")]
    Magic,
    /// Written by a newer Stele.
    #[error("{what} version {version}, which this version of Stele does not know")]
    Version {
        /// `entry`, `effects` or `batch`.
        what: &'static str,
        /// The version found.
        version: u16,
    },
    /// A field is out of range, or contradicts another.
    #[error("field `{field}` is out of range")]
    Field {
        /// Its name in docs/FORMAT.md.
        field: &'static str,
    },
    /// The hash does not match the bytes: damage.
    #[error("the hash of the {what} is another")]
    Hash {
        /// `entry`, `frame` or `batch`.
        what: &'static str,
    },
    /// An entry that does not follow the one before it.
    #[error("entry {lsn} does not continue the chain")]
    Chain {
        /// The LSN that was found.
        lsn: Lsn,
    },
    /// More than [`MAX_ENTRY`] or [`MAX_BATCH`] bytes: split the command or the batch.
    #[error("{len} bytes are more than the {max} that fit")]
    TooLong {
        /// Bytes asked for.
        len: u64,
        /// Bytes allowed.
        max: usize,
    },
    /// The effects do not decode.
    #[error(transparent)]
    Effects(#[from] EffectError),
}

fn field(ok: bool, field: &'static str) -> Result<(), JournalError> {
    if ok { Ok(()) } else { Err(JournalError::Field { field }) }
}

/// An entry as it is decided, before it has a place in the chain.
#[derive(Clone, Debug, Default)]
pub struct EntryDraft {
    /// What happened.
    pub effects: Effects,
    /// The frames that ride with it, none of them empty.
    pub frames: Vec<Bytes>,
}

/// An entry as bytes.
#[derive(Clone, Debug)]
pub struct EncodedEntry {
    /// The whole entry.
    pub bytes: Bytes,
    /// Its hash, which the next entry carries.
    pub hash: [u8; 32],
}

/// The offset of frame `index` in an entry with these frames: what [`crate::effect::Place::in_journal`] wants. Independent of
/// the effects. `None` when there is no such frame or the entry would be too long.
pub fn frame_offset(frames: &[Bytes], index: usize) -> Option<u32> {
    let before = frames.get(..index).filter(|_| index < frames.len())?;
    let start = table_end(frames.len())?;
    let offset = before.iter().try_fold(start, |sum, frame| sum.checked_add(frame.len()))?;
    u32::try_from(offset).ok().filter(|offset| *offset as usize <= MAX_ENTRY)
}

fn table_end(frames: usize) -> Option<usize> {
    frames.checked_mul(FRAME_TABLE_ROW)?.checked_add(ENTRY_HEADER)
}

/// Encodes one entry. `epoch` is that of the entry's birth; an entry that is copied again is copied byte by byte.
pub fn encode_entry(
    lsn: Lsn,
    epoch: Epoch,
    prev_hash: [u8; 32],
    effects: &Effects,
    frames: &[Bytes],
) -> Result<EncodedEntry, JournalError> {
    encode_as(effects.version(), (lsn, epoch, prev_hash), effects, frames)
}

/// Encodes an entry without effects: what an LSN is filled with that a replicated log used for itself. Every version of the
/// program makes the same bytes of the same LSN, epoch and hash, because two that run side by side write copies of it; so its
/// effect version is the first one for ever.
pub fn encode_empty_entry(lsn: Lsn, epoch: Epoch, prev_hash: [u8; 32]) -> Result<EncodedEntry, JournalError> {
    encode_as(1, (lsn, epoch, prev_hash), &Effects::default(), &[])
}

fn encode_as(
    effect_version: u16,
    (lsn, epoch, prev_hash): (Lsn, Epoch, [u8; 32]),
    effects: &Effects,
    frames: &[Bytes],
) -> Result<EncodedEntry, JournalError> {
    let effects_len = effects.encoded_len();
    let frame_bytes: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
    let len = table_end(frames.len()).map_or(u64::MAX, |t| (t as u64) + frame_bytes + effects_len as u64);
    if len > MAX_ENTRY as u64 {
        return Err(JournalError::TooLong { len, max: MAX_ENTRY });
    }
    field(lsn.0 > 0, "lsn")?;
    field(frames.iter().all(|frame| !frame.is_empty()), "frame_len")?;

    let mut out = Vec::with_capacity(len as usize);
    out.extend_from_slice(ENTRY_MAGIC);
    out.extend_from_slice(&ENTRY_VERSION.to_le_bytes());
    out.extend_from_slice(&effect_version.to_le_bytes());
    for n in [0, frames.len() as u32, effects_len as u32, 0] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.extend_from_slice(&lsn.0.to_le_bytes());
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.extend_from_slice(&prev_hash);
    out.extend_from_slice(&[0; 32]);
    for frame in frames {
        out.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        out.extend_from_slice(blake3::hash(frame).as_bytes());
    }
    let table_end = out.len();
    for frame in frames {
        out.extend_from_slice(frame);
    }
    let effects_at = out.len();
    out.extend_from_slice(&effects.encode_to_vec());
    let hash = entry_hash(&out[..HASH_AT], &out[ENTRY_HEADER..table_end], &out[effects_at..]);
    out[HASH_AT..ENTRY_HEADER].copy_from_slice(&hash);
    Ok(EncodedEntry { bytes: Bytes::from(out), hash })
}

/// BLAKE3 (key derivation mode) of the header before the hash with zero flags, the frame table, and the effects.
fn entry_hash(header: &[u8], table: &[u8], effects: &[u8]) -> [u8; 32] {
    let (before, rest) = header.split_at(FLAGS_AT.min(header.len()));
    let mut hasher = blake3::Hasher::new_derive_key(HASH_CONTEXT);
    hasher.update(before).update(&[0; 4]).update(rest.get(4..).unwrap_or_default());
    hasher.update(table).update(effects);
    *hasher.finalize().as_bytes()
}

/// An entry that was read and verified.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Its position.
    pub lsn: Lsn,
    /// The epoch of its birth.
    pub epoch: Epoch,
    /// The hash of the entry before it ([`NO_ENTRY`] for the first).
    pub prev_hash: [u8; 32],
    /// Its own hash.
    pub hash: [u8; 32],
    /// What happened.
    pub effects: Effects,
    /// Where each frame lies in the full form's bytes (the offsets that effects name). In the ledger form the ranges are the
    /// same and the bytes are elsewhere.
    pub frames: Vec<Range<usize>>,
    /// BLAKE3 of each frame.
    pub frame_hashes: Vec<[u8; 32]>,
    /// Whether the frames' bytes were left out.
    pub ledger: bool,
    /// The bytes that it was read from.
    pub bytes: Bytes,
}

impl Entry {
    /// The bytes of frame `index`; `None` in the ledger form and for an index that does not exist.
    pub fn frame(&self, index: usize) -> Option<Bytes> {
        let range = self.frames.get(index).filter(|_| !self.ledger)?;
        (range.end <= self.bytes.len()).then(|| self.bytes.slice(range.clone()))
    }

    /// The entry without its frames' bytes, with the same hash: what goes into ledger stripes.
    pub fn ledger_form(&self) -> Bytes {
        if self.ledger {
            return self.bytes.clone();
        }
        let table_end = table_end(self.frames.len()).unwrap_or(ENTRY_HEADER).min(self.bytes.len());
        let effects_at = self.frames.last().map_or(table_end, |range| range.end).min(self.bytes.len());
        let mut out = Vec::with_capacity(table_end + self.bytes.len() - effects_at);
        out.extend_from_slice(&self.bytes[..table_end]);
        out.extend_from_slice(&self.bytes[effects_at..]);
        if let Some(flags) = out.get_mut(FLAGS_AT..FLAGS_AT + 4) {
            flags.copy_from_slice(&FLAG_LEDGER.to_le_bytes());
        }
        Bytes::from(out)
    }

    /// Whether this entry comes right after `before`.
    pub fn follows(&self, before: &Entry) -> bool {
        Some(self.lsn.0) == before.lsn.0.checked_add(1) && self.prev_hash == before.hash && self.epoch >= before.epoch
    }
}

/// The fixed part of an entry: ranges are checked, nothing is verified.
struct EntryHead {
    effect_version: u16,
    ledger: bool,
    frame_count: usize,
    effects_len: usize,
    lsn: Lsn,
    epoch: Epoch,
    prev_hash: [u8; 32],
    hash: [u8; 32],
}

impl EntryHead {
    fn parse(bytes: &[u8]) -> Result<EntryHead, JournalError> {
        let mut r = Reader::new(bytes);
        if r.bytes(4).ok_or(JournalError::Short)? != ENTRY_MAGIC {
            return Err(JournalError::Magic);
        }
        let version = r.u16().ok_or(JournalError::Short)?;
        if version != ENTRY_VERSION {
            return Err(JournalError::Version { what: "entry", version });
        }
        Self::parse_fields(&mut r).ok_or(JournalError::Short)?
    }

    fn parse_fields(r: &mut Reader<'_>) -> Option<Result<EntryHead, JournalError>> {
        let (effect_version, flags) = (r.u16()?, r.u32()?);
        let (frame_count, effects_len, zero) = (r.u32()?, r.u32()?, r.u32()?);
        let head = EntryHead {
            effect_version,
            ledger: flags & FLAG_LEDGER != 0,
            frame_count: usize::try_from(frame_count).ok()?,
            effects_len: usize::try_from(effects_len).ok()?,
            lsn: Lsn(r.u64()?),
            epoch: Epoch(r.u64()?),
            prev_hash: r.array()?,
            hash: r.array()?,
        };
        let check = || {
            field(flags & !FLAG_LEDGER == 0, "flags")?;
            field(zero == 0, "reserved")?;
            field(head.frame_count <= MAX_ENTRY / FRAME_TABLE_ROW, "frame_count")?;
            field(head.effects_len <= MAX_ENTRY, "effects_len")?;
            field(head.lsn.0 > 0, "lsn")
        };
        Some(check().map(|()| head))
    }
}

/// Reads one entry, in full or ledger form, from exactly its bytes. Verifies the entry's hash before the effects are decoded,
/// and the hash of every frame that is there.
pub fn parse_entry(bytes: Bytes) -> Result<Entry, JournalError> {
    if bytes.len() > MAX_ENTRY {
        return Err(JournalError::TooLong { len: bytes.len() as u64, max: MAX_ENTRY });
    }
    let head = EntryHead::parse(&bytes)?;
    let mut r = Reader::new(bytes.get(ENTRY_HEADER..).ok_or(JournalError::Short)?);
    // `frame_count` was bounded, so this product fits; a table longer than the input ends here.
    let table = r.bytes(head.frame_count * FRAME_TABLE_ROW).ok_or(JournalError::Short)?;
    let (frames, frame_hashes) = parse_table(table)?;
    let table_end = ENTRY_HEADER + table.len();
    let frames_end = frames.last().map_or(table_end, |range| range.end);
    let stored = if head.ledger { 0 } else { frames_end - table_end };
    r.bytes(stored).ok_or(JournalError::Short)?;
    let effects = r.bytes(head.effects_len).ok_or(JournalError::Short)?;
    if !r.rest().is_empty() {
        return Err(JournalError::Long);
    }
    if entry_hash(&bytes[..HASH_AT], table, effects) != head.hash {
        return Err(JournalError::Hash { what: "entry" });
    }
    if head.effect_version > EFFECT_VERSION {
        return Err(JournalError::Version { what: "effects", version: head.effect_version });
    }
    if !head.ledger {
        for (range, hash) in frames.iter().zip(&frame_hashes) {
            let frame = bytes.get(range.clone()).ok_or(JournalError::Short)?;
            if blake3::hash(frame).as_bytes() != hash {
                return Err(JournalError::Hash { what: "frame" });
            }
        }
    }
    let effects = Effects::parse(effects)?;
    let EntryHead { ledger, lsn, epoch, prev_hash, hash, .. } = head;
    Ok(Entry { lsn, epoch, prev_hash, hash, effects, frames, frame_hashes, ledger, bytes })
}

/// An entry without effects or frames as if its effects had another version.
#[cfg(test)]
pub(crate) fn entry_of_effects(entry: &EncodedEntry, version: u16) -> Bytes {
    let mut bytes = entry.bytes.to_vec();
    bytes[6..8].copy_from_slice(&version.to_le_bytes());
    let hash = entry_hash(&bytes[..HASH_AT], &[], &bytes[ENTRY_HEADER..]);
    bytes[HASH_AT..ENTRY_HEADER].copy_from_slice(&hash);
    bytes.into()
}

/// The range and the hash of each frame.
type FrameTable = (Vec<Range<usize>>, Vec<[u8; 32]>);

/// The ranges and hashes of a frame table; the ranges follow each other from the end of the table.
fn parse_table(table: &[u8]) -> Result<FrameTable, JournalError> {
    let mut end = ENTRY_HEADER + table.len();
    let rows = table.len() / FRAME_TABLE_ROW;
    let (mut frames, mut hashes) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    for row in table.chunks_exact(FRAME_TABLE_ROW) {
        let mut r = Reader::new(row);
        let (len, hash) = r.u32().zip(r.array()).ok_or(JournalError::Short)?;
        let next = usize::try_from(len).ok().and_then(|len| end.checked_add(len)).filter(|next| *next <= MAX_ENTRY);
        let next = next.ok_or(JournalError::Field { field: "frame_len" })?;
        field(len > 0, "frame_len")?;
        frames.push(end..next);
        hashes.push(hash);
        end = next;
    }
    Ok((frames, hashes))
}

/// The body of a journal record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// The first LSN.
    pub first: Lsn,
    /// The last LSN.
    pub last: Lsn,
    /// How many entries.
    pub count: u32,
    /// The epoch of the last entry: with `last`, what tells the better of two tails.
    pub last_epoch: Epoch,
    /// BLAKE3 of the record's payload.
    pub hash: [u8; 32],
}

impl BatchHeader {
    /// [`BATCH_HEADER`] bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(BATCH_HEADER);
        out.extend_from_slice(BATCH_MAGIC);
        out.extend_from_slice(&BATCH_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.first.0.to_le_bytes());
        out.extend_from_slice(&self.last.0.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.last_epoch.0.to_le_bytes());
        out.extend_from_slice(&self.hash);
        let check = blake3::hash(&out);
        out.extend_from_slice(&check.as_bytes()[..8]);
        Bytes::from(out)
    }

    /// Reads a batch header from exactly its bytes.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, JournalError> {
        if bytes.len() > BATCH_HEADER {
            return Err(JournalError::Long);
        }
        let (body, check) = bytes.split_at_checked(BATCH_HEADER - 8).ok_or(JournalError::Short)?;
        let mut r = Reader::new(body);
        if r.bytes(4) != Some(BATCH_MAGIC) {
            return Err(JournalError::Magic);
        }
        let version = r.u16().ok_or(JournalError::Short)?;
        if version != BATCH_VERSION {
            return Err(JournalError::Version { what: "batch", version });
        }
        if blake3::hash(body).as_bytes()[..8] != *check {
            return Err(JournalError::Hash { what: "batch header" });
        }
        Self::parse_fields(&mut r).ok_or(JournalError::Short)?
    }

    fn parse_fields(r: &mut Reader<'_>) -> Option<Result<BatchHeader, JournalError>> {
        let zero = r.u16()?;
        let (first, last, count, more_zero) = (Lsn(r.u64()?), Lsn(r.u64()?), r.u32()?, r.u32()?);
        let header = BatchHeader { first, last, count, last_epoch: Epoch(r.u64()?), hash: r.array()? };
        let check = || {
            field(zero == 0 && more_zero == 0, "reserved")?;
            field(first.0 > 0, "first")?;
            field(count > 0 && last.0.checked_sub(first.0) == Some(u64::from(count) - 1), "count")
        };
        Some(check().map(|()| header))
    }

    /// Verifies a record's payload against this header and reads its entries.
    pub fn open(&self, payload: &Bytes) -> Result<Vec<Entry>, JournalError> {
        if *blake3::hash(payload).as_bytes() != self.hash {
            return Err(JournalError::Hash { what: "batch" });
        }
        let entries = parse_batch(payload)?;
        let ends = entries.first().zip(entries.last());
        let ends = ends.map(|(first, last)| (first.lsn, last.lsn, last.epoch));
        field(ends == Some((self.first, self.last, self.last_epoch)), "first")?;
        Ok(entries)
    }
}

/// Joins entries of consecutive LSNs, in full form, into a record's payload and the header that goes with it.
pub fn encode_batch(entries: &[Bytes]) -> Result<(BatchHeader, Bytes), JournalError> {
    let heads = entries.iter().map(|entry| EntryHead::parse(entry)).collect::<Result<Vec<_>, _>>()?;
    for (before, head) in heads.iter().zip(heads.iter().skip(1)) {
        if Some(head.lsn.0) != before.lsn.0.checked_add(1) || head.prev_hash != before.hash {
            return Err(JournalError::Chain { lsn: head.lsn });
        }
    }
    let (first, last) = heads.first().zip(heads.last()).ok_or(JournalError::Short)?;
    let count = u32::try_from(entries.len()).map_err(|_| JournalError::Field { field: "count" })?;
    let payload = join_entries(entries)?;
    let hash = *blake3::hash(&payload).as_bytes();
    let header = BatchHeader { first: first.lsn, last: last.lsn, count, last_epoch: last.epoch, hash };
    Ok((header, payload))
}

/// One entry as a batch and a ledger shard have it: its length, then its bytes.
pub fn length_prefixed(entry: &[u8]) -> Result<Bytes, JournalError> {
    join_entries(&[entry])
}

fn join_entries<B: AsRef<[u8]>>(entries: &[B]) -> Result<Bytes, JournalError> {
    let len = entries.iter().map(|entry| 4 + entry.as_ref().len() as u64).sum::<u64>();
    if len > MAX_BATCH as u64 {
        return Err(JournalError::TooLong { len, max: MAX_BATCH });
    }
    let mut out = Vec::with_capacity(len as usize);
    for entry in entries {
        // Bounded by MAX_BATCH above.
        out.extend_from_slice(&(entry.as_ref().len() as u32).to_le_bytes());
        out.extend_from_slice(entry.as_ref());
    }
    Ok(Bytes::from(out))
}

/// Cuts a batch's payload, or the payloads of a ledger stripe's data shards joined in order, into entries. Verifies nothing
/// but the lengths.
pub fn split_batch(payload: &Bytes) -> Result<Vec<Bytes>, JournalError> {
    let mut entries = Vec::new();
    let mut rest = payload.clone();
    while !rest.is_empty() {
        let len = Reader::new(&rest).u32().ok_or(JournalError::Short)?;
        let len = usize::try_from(len).map_err(|_| JournalError::Short)?;
        // An entry is at least its header, so hostile input can't ask for more pieces than a hundredth of its length.
        field((ENTRY_HEADER..=MAX_ENTRY).contains(&len), "entry_len")?;
        let end = len + 4;
        if end > rest.len() {
            return Err(JournalError::Short);
        }
        let mut entry = rest.split_to(end);
        entries.push(entry.split_off(4));
    }
    Ok(entries)
}

/// Reads the entries of a batch's payload, or of a ledger stripe's data shards joined in order: each verified, each following
/// the one before it. At least one.
pub fn parse_batch(payload: &Bytes) -> Result<Vec<Entry>, JournalError> {
    let mut entries: Vec<Entry> = Vec::new();
    for bytes in split_batch(payload)? {
        let entry = parse_entry(bytes)?;
        if entries.last().is_some_and(|before| !entry.follows(before)) {
            return Err(JournalError::Chain { lsn: entry.lsn });
        }
        entries.push(entry);
    }
    if entries.is_empty() { Err(JournalError::Short) } else { Ok(entries) }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
