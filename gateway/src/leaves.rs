//! The leaves of an object's range: which chunks they are, where they lie, and their verified bytes.

use crate::cpu::Cpu;
use crate::encode;
use crate::error::GetError;
use bytes::Bytes;
use codec::id::ChunkId;
use codec::manifest::{Entry, MAX_DEPTH, Manifest};
use metadata::client::MetadataClient;
use metadata::keys::Domain;
use metadata::lookup::Located;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use storage_node::sabotage::SabotageSet;

/// Leaves that are looked up at once.
const LOOKUP: usize = 16;

/// A leaf of the range, and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    located: Located,
    /// Which of its bytes belong to the range.
    part: Range<usize>,
}

impl Leaf {
    /// What it takes to fetch it, in bytes: the frame, and what it decodes to.
    pub(crate) fn cost(&self) -> usize {
        2 * self.located.plain_len as usize
    }
}

/// What it takes to read the chunks of one object.
pub(crate) struct Reader {
    pub(crate) meta: Arc<dyn MetadataClient>,
    pub(crate) cpu: Cpu,
    pub(crate) domain: Arc<Domain>,
    /// The domain as the nodes of manifests are stored in it.
    pub(crate) nodes: Arc<Domain>,
    pub(crate) sabotage: SabotageSet,
}

impl Reader {
    /// The bytes of a leaf that belong to the range, in memory of their own: a slice would keep all of its chunk.
    pub(crate) async fn leaf(&self, leaf: &Leaf) -> Result<Bytes, GetError> {
        let bytes = self.chunk(&leaf.located).await?;
        let short = || GetError::Manifest(format!("chunk {} is shorter than its entry", leaf.located.id));
        let part = bytes.get(leaf.part.clone()).ok_or_else(short)?;
        Ok(if part.len() == bytes.len() { bytes } else { Bytes::copy_from_slice(part) })
    }

    /// A chunk's plaintext.
    async fn chunk(&self, located: &Located) -> Result<Bytes, GetError> {
        let frame = self.meta.read_frame(located).await?;
        let domain = Arc::clone(if located.is_manifest { &self.nodes } else { &self.domain });
        let (id, plain_len) = (located.id, located.plain_len);
        let bytes = plain_len as usize;
        let sabotage = self.sabotage.clone();
        let decode = move || sabotage.decode(&frame, &encode::expect(&domain, id, plain_len));
        let decoded = self.cpu.run(bytes, decode).await?;
        let damaged = |error: String| GetError::Damaged { chunk: id, reason: format!("its frame: {error}") };
        decoded.map(Bytes::from).map_err(|error| damaged(error.to_string()))
    }

    async fn locate(&self, entries: &[Entry]) -> Result<Vec<Located>, GetError> {
        let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
        let located = self.meta.locate(&ids).await?;
        let check = |(entry, located): (&Entry, Option<Located>)| {
            let damaged = |reason: &str| GetError::Damaged { chunk: entry.id, reason: reason.to_owned() };
            let located = located.ok_or_else(|| damaged("not known"))?;
            if located.is_manifest == entry.leaf || (entry.leaf && u64::from(located.plain_len) != entry.len) {
                return Err(damaged("its row does not fit the manifest"));
            }
            Ok(located)
        };
        entries.iter().zip(located).map(check).collect()
    }

    async fn node(&self, entry: Entry) -> Result<Manifest, GetError> {
        let located = self.locate(&[entry]).await?;
        let located = located.first().ok_or_else(|| GetError::Manifest("a node has no place".to_owned()))?;
        let node =
            Manifest::parse(&self.chunk(located).await?).map_err(|error| GetError::Manifest(error.to_string()))?;
        match node.total_len() == entry.len {
            true => Ok(node),
            false => {
                Err(GetError::Manifest(format!("node {} covers {} bytes of {}", entry.id, node.total_len(), entry.len)))
            }
        }
    }
}

/// Walks the tree of manifests over a range, from left to right, and reads only the nodes that it needs.
pub(crate) struct Leaves {
    range: Range<u64>,
    /// By depth, what is left to visit: offset in the object, and entry.
    stack: Vec<VecDeque<(u64, Entry)>>,
    located: VecDeque<Leaf>,
}

impl Leaves {
    pub(crate) fn new(root: Manifest, range: Range<u64>) -> Leaves {
        let stack = vec![root.covering(range.clone()).collect()];
        Leaves { range, stack, located: VecDeque::new() }
    }

    /// Nothing is left of the range.
    pub(crate) fn none() -> Leaves {
        Leaves { range: 0..0, stack: Vec::new(), located: VecDeque::new() }
    }

    /// The next one that [`Leaves::next`] returns.
    pub(crate) fn put_back(&mut self, leaf: Leaf) {
        self.located.push_front(leaf);
    }

    /// The next leaf of the range; `None` after the last one.
    pub(crate) async fn next(&mut self, reader: &Reader) -> Result<Option<Leaf>, GetError> {
        if self.located.is_empty() {
            let (offsets, entries): (Vec<u64>, Vec<Entry>) = self.some_leaves(reader).await?.into_iter().unzip();
            if entries.is_empty() {
                return Ok(None);
            }
            for (offset, located) in offsets.into_iter().zip(reader.locate(&entries).await?) {
                let within = |at: u64| at.saturating_sub(offset).min(u64::from(located.plain_len)) as usize;
                let part = within(self.range.start)..within(self.range.end);
                self.located.push_back(Leaf { part, located });
            }
        }
        Ok(self.located.pop_front())
    }

    /// The next few leaves, with their offsets. Stops before a node that would have to be read once it has some.
    async fn some_leaves(&mut self, reader: &Reader) -> Result<Vec<(u64, Entry)>, GetError> {
        let mut leaves = Vec::new();
        while leaves.len() < LOOKUP {
            let Some(level) = self.stack.last_mut() else { break };
            match level.pop_front() {
                None => drop(self.stack.pop()),
                Some((offset, entry)) if entry.leaf => leaves.push((offset, entry)),
                Some(node) if !leaves.is_empty() => {
                    level.push_front(node);
                    break;
                }
                Some((offset, node)) => self.descend(offset, reader.node(node).await?)?,
            }
        }
        Ok(leaves)
    }

    fn descend(&mut self, offset: u64, node: Manifest) -> Result<(), GetError> {
        if self.stack.len() > MAX_DEPTH {
            return Err(GetError::Manifest(format!("deeper than {MAX_DEPTH} levels")));
        }
        let local = self.range.start.saturating_sub(offset)..self.range.end.saturating_sub(offset);
        self.stack.push(node.covering(local).map(|(at, entry)| (offset + at, entry)).collect());
        Ok(())
    }
}
