//! Manifests: which chunks an object consists of, in order.
//!
//! A manifest of few entries is stored inline, in the object's row. A longer one is a tree: *nodes* of up to
//! [`NODE_ENTRIES`] entries are stored as chunks themselves (they dedup like any chunk), and the inline root names them.
//! Root and node have one layout (docs/FORMAT.md, "Manifests").
//!
//! Invariants of a parsed manifest: no entry is empty; the sum of the lengths fits 63 bits; a leaf is at most one chunk
//! long. A hostile node can't make a cycle (it would have to contain its own hash), and [`MAX_DEPTH`] bounds the rest.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::MAX_CHUNK;
use crate::id::ChunkId;
use crate::read::{Reader, all_zero};

/// The most entries that an inline root gets from [`ManifestBuilder`].
pub const INLINE_ENTRIES: usize = 32;
/// The most entries in one manifest.
pub const NODE_ENTRIES: usize = 4096;
/// How many levels of nodes a reader follows below the root before it calls the manifest damaged. Three reach
/// 32 x 4096^3 chunks.
pub const MAX_DEPTH: usize = 8;

const MAGIC: &[u8; 4] = b"STLM";
const VERSION: u8 = 1;
const HEADER: usize = 12;
const ENTRY: usize = ChunkId::LEN + 8;
const TAIL: usize = 8;
/// Set in an entry's length when its chunk is a node.
const NODE_BIT: u64 = 1 << 63;

/// Why bytes are not a manifest, or entries can't become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Fewer bytes than the entry count asks for, or more.
    #[error("the manifest is {got} bytes long and should be {want}")]
    Length {
        /// Bytes given.
        got: usize,
        /// Bytes wanted.
        want: usize,
    },
    /// Not a manifest.
    #[error("this is not a manifest")]
    Magic,
    /// Written by a newer version.
    #[error("manifest of unknown version {0}: written by a newer Stele")]
    Version(u8),
    /// The hash at the end does not fit.
    #[error("the manifest is damaged")]
    Hash,
    /// Reserved bytes are not zero.
    #[error("the manifest's reserved bytes are not zero")]
    Reserved,
    /// More entries than [`NODE_ENTRIES`].
    #[error("a manifest of {0} entries: at most {NODE_ENTRIES} are possible")]
    TooMany(usize),
    /// An entry is empty, a leaf is longer than a chunk, or the sum does not fit.
    #[error("entry {0} of the manifest has an impossible length")]
    EntryLength(usize),
    /// [`ManifestBuilder::finish`] was called while nodes wait to be stored.
    #[error("the manifest is not finished: nodes have still to be stored")]
    Unfinished,
}

/// A chunk of an object, or a node that stands for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The chunk.
    pub id: ChunkId,
    /// Object bytes that it covers: at least 1, below 2^63.
    pub len: u64,
    /// The chunk's plaintext is object bytes; otherwise it is a node.
    pub leaf: bool,
}

impl Entry {
    /// `total` and this entry's length; `None` if that length, or the sum, is impossible.
    fn add_to(&self, total: u64) -> Option<u64> {
        let bad = self.len == 0 || (self.leaf && self.len > MAX_CHUNK as u64);
        total.checked_add(self.len).filter(|sum| !bad && *sum < NODE_BIT)
    }
}

/// Entries in the order of the object's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    entries: Vec<Entry>,
    total: u64,
}

impl Manifest {
    /// Checks the entries.
    pub fn new(entries: Vec<Entry>) -> Result<Manifest, ManifestError> {
        if entries.len() > NODE_ENTRIES {
            return Err(ManifestError::TooMany(entries.len()));
        }
        let mut total = 0;
        for (index, entry) in entries.iter().enumerate() {
            total = entry.add_to(total).ok_or(ManifestError::EntryLength(index))?;
        }
        Ok(Manifest { entries, total })
    }

    /// The entries, in the order of the object's bytes.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Object bytes that the entries cover.
    pub fn total_len(&self) -> u64 {
        self.total
    }

    /// The entries that overlap a range of bytes (relative to this manifest's first), each with the offset of its first byte.
    pub fn covering(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Entry)> + '_ {
        let with_offset = self.entries.iter().scan(0, |next, entry| {
            let offset = *next;
            *next += entry.len;
            Some((offset, *entry))
        });
        with_offset
            .skip_while(move |(offset, entry)| offset + entry.len <= range.start)
            .take_while(move |(offset, _)| *offset < range.end)
    }

    /// The bytes of an inline root or of a node. The same entries always give the same bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER + self.entries.len() * ENTRY + TAIL);
        out.put_slice(MAGIC);
        out.put_slice(&[VERSION, 0, 0, 0]);
        out.put_u32_le(self.entries.len() as u32);
        for entry in &self.entries {
            out.put_slice(entry.id.as_bytes());
            out.put_u64_le(entry.len | if entry.leaf { 0 } else { NODE_BIT });
        }
        let tail = tail(&out);
        out.put_slice(&tail);
        out.freeze()
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let short = |want| ManifestError::Length { got: bytes.len(), want };
        let mut reader = Reader::new(bytes);
        if reader.array().ok_or(short(HEADER))? != *MAGIC {
            return Err(ManifestError::Magic);
        }
        let version = reader.u8().ok_or(short(HEADER))?;
        if version != VERSION {
            return Err(ManifestError::Version(version));
        }
        let reserved: [u8; 3] = reader.array().ok_or(short(HEADER))?;
        let count = reader.u32().ok_or(short(HEADER))? as usize;
        // Before any arithmetic with it: the count decides what is allocated.
        if count > NODE_ENTRIES {
            return Err(ManifestError::TooMany(count));
        }
        let want = HEADER + count * ENTRY + TAIL;
        let (hashed, hash) = bytes.split_at_checked(want - TAIL).ok_or(short(want))?;
        if hash.len() != TAIL {
            return Err(short(want));
        }
        if tail(hashed) != hash {
            return Err(ManifestError::Hash);
        }
        if !all_zero(&reserved) {
            return Err(ManifestError::Reserved);
        }
        Manifest::new((0..count).map_while(|_| read_entry(&mut reader)).collect())
    }
}

fn read_entry(reader: &mut Reader) -> Option<Entry> {
    let (id, len) = (ChunkId(reader.array()?), reader.u64()?);
    Some(Entry { id, len: len & !NODE_BIT, leaf: len & NODE_BIT == 0 })
}

fn tail(bytes: &[u8]) -> [u8; TAIL] {
    let mut out = [0; TAIL];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..TAIL]);
    out
}

/// The chunks that a manifest (root or node) names, each of which it holds a reference to. With repetitions, in order.
pub fn children(bytes: &[u8]) -> Result<Vec<ChunkId>, ManifestError> {
    Ok(Manifest::parse(bytes)?.entries.iter().map(|entry| entry.id).collect())
}

/// A node that must be stored as a chunk before the builder goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The chunk's plaintext.
    pub bytes: Bytes,
    /// Object bytes that it covers.
    pub len: u64,
    level: usize,
}

/// Builds an object's manifest, entry by entry, with a bounded number of entries in memory.
///
/// After each [`Self::push`], and after the last one with [`Self::last_node`], the caller stores the node it is given as a
/// chunk and says its id to [`Self::node_stored`], before it pushes or asks again. The same entries always give the same
/// nodes.
///
/// ```text
/// for each chunk { push(entry); while let Some(node) = full_node() { node_stored(&node, store(node.bytes)) } }
/// while let Some(node) = last_node() { node_stored(&node, store(node.bytes)) }
/// finish()
/// ```
#[derive(Debug, Default)]
pub struct ManifestBuilder {
    /// By level, the entries that are in no node yet. Those of a higher level come first in the object.
    levels: Vec<Vec<Entry>>,
    /// Entries pushed.
    count: usize,
    /// Object bytes that they cover.
    total: u64,
}

impl ManifestBuilder {
    /// No entries: an empty object.
    pub fn new() -> ManifestBuilder {
        ManifestBuilder::default()
    }

    /// Appends an entry: a chunk, or a node of a part's manifest. Its length is checked here.
    pub fn push(&mut self, entry: Entry) -> Result<(), ManifestError> {
        self.total = entry.add_to(self.total).ok_or(ManifestError::EntryLength(self.count))?;
        self.count += 1;
        self.append(0, entry);
        Ok(())
    }

    fn append(&mut self, level: usize, entry: Entry) {
        if self.levels.len() <= level {
            self.levels.resize(level + 1, Vec::new());
        }
        self.levels[level].push(entry);
    }

    /// A level that has become full, as a node.
    pub fn full_node(&mut self) -> Option<Node> {
        let level = self.levels.iter().position(|entries| entries.len() >= NODE_ENTRIES)?;
        self.take(level)
    }

    /// After the last entry: the next node that must be stored before what is left fits an inline root.
    pub fn last_node(&mut self) -> Option<Node> {
        if self.levels.iter().map(Vec::len).sum::<usize>() <= INLINE_ENTRIES {
            return None;
        }
        let lowest = self.levels.iter().position(|entries| !entries.is_empty())?;
        self.take(lowest)
    }

    fn take(&mut self, level: usize) -> Option<Node> {
        let entries = std::mem::take(&mut self.levels[level]);
        let manifest = Manifest { total: entries.iter().map(|entry| entry.len).sum(), entries };
        Some(Node { bytes: manifest.encode(), len: manifest.total, level })
    }

    /// Puts a stored node in the place of its entries.
    pub fn node_stored(&mut self, node: &Node, id: ChunkId) {
        self.append(node.level + 1, Entry { id, len: node.len, leaf: false });
    }

    /// The root.
    pub fn finish(self) -> Result<Manifest, ManifestError> {
        let entries: Vec<Entry> = self.levels.into_iter().rev().flatten().collect();
        match entries.len() <= INLINE_ENTRIES {
            true => Manifest::new(entries),
            false => Err(ManifestError::Unfinished),
        }
    }
}

#[cfg(test)]
mod tests;
