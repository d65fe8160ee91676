//! Which of the manifest chunks that can't be read does anything still need?
//!
//! What such a chunk lists is not known, so it may be any chunk of its dedup domain, and nothing of the domain may go: but only
//! while somebody could come to read by it. That is the case while it is reached from a root, over manifest chunks that can be
//! read, or not at all. Roots are here:
//! * the versions and the parts;
//! * a manifest chunk that has lost its last reference less than a request's life ago, or has none yet: a request that is under
//!   way may take one (R9).
//!
//! Of nothing else can a commit be made that reads by it without knowing what it lists. Whoever stores an object names all its
//! chunks and asks for each, from the leaves up, and stores again what is no dedup hit: Condemned chunks are none. A chunk that is
//! deleted has been condemned for longer than a request lives ([`crate::command::MIN_GRACE_MS`]), so no request that is under
//! way has it as a hit. And whoever copies an object found a version of it, which was a root within a request's life.
//!
//! Roots are taken as of one moment, after all manifest chunks were listed. Read page by page while commits go on, a root can
//! move past the reader: an object that is copied to a key behind it and then deleted ahead of it, an upload that is completed
//! between the versions and the parts. Then nothing seems to reach what it reaches, its domain is let go, and chunks that only
//! the unread one lists are deleted. At that moment a manifest chunk is named, or listed by another one, or has no reference; and
//! whoever takes one of those later is a request that was under way. A manifest chunk that such a root names and that came
//! after the list was made is read by itself: it lists others that may have lost their own roots to it.
//!
//! Without this an unread chunk below another one held its domain for ever: the upper one waited for the domain to be let go
//! before it went, and its reference to the lower one with it.

use super::{MarkError, NodeError, Pass, chunk_row, read_node};
use crate::index::{CHUNKS, IndexError, OBJECTS, UPLOADS, decode};
use codec::effect::{ChunkRow, ChunkState, Content, PartRow, VersionRow};
use codec::id::{ChunkId, DomainId, Lsn};
use codec::manifest::Manifest;
use std::collections::{BTreeSet, HashMap, HashSet};
use storage_node::kv::Kv;

impl Pass<'_> {
    /// The domains of which nothing may be deleted, after all that can be read was.
    pub(super) async fn held(&mut self) -> Result<BTreeSet<DomainId>, MarkError> {
        let (above, listed) = (self.above(), self.nodes_of.keys().copied().collect());
        let (kv, requests_ended) = (self.shared.kv.clone(), self.requests_ended);
        let look = move || roots(&*kv, &above, &listed, requests_ended);
        let Roots { mut reached, late } =
            tokio::task::spawn_blocking(look).await.map_err(|_| MarkError::Stopping)??;
        self.read_late(late, &mut reached).await?;
        let mut next: Vec<ChunkId> = reached.iter().copied().collect();
        while let Some(id) = next.pop() {
            for child in self.nodes_of.get(&id).into_iter().flatten() {
                if reached.insert(*child) {
                    next.push(*child);
                }
            }
        }
        for unread in &mut self.marks.unread {
            unread.holds = reached.contains(&unread.id);
        }
        Ok(self.unread.iter().filter(|(id, _)| reached.contains(id)).map(|(_, domain)| *domain).collect())
    }

    /// The unread ones, and all manifest chunks from which a way leads to one of them.
    fn above(&self) -> HashSet<ChunkId> {
        let mut parents: HashMap<ChunkId, Vec<ChunkId>> = HashMap::new();
        for (parent, children) in &self.nodes_of {
            for child in children {
                parents.entry(*child).or_default().push(*parent);
            }
        }
        let mut above: HashSet<ChunkId> = self.unread.keys().copied().collect();
        let mut next: Vec<ChunkId> = above.iter().copied().collect();
        while let Some(id) = next.pop() {
            for parent in parents.get(&id).into_iter().flatten() {
                if above.insert(*parent) {
                    next.push(*parent);
                }
            }
        }
        above
    }

    /// Reads manifest chunks that came after the list was made, and what they list of such.
    async fn read_late(
        &mut self,
        late: HashMap<ChunkId, DomainId>,
        reached: &mut HashSet<ChunkId>,
    ) -> Result<(), MarkError> {
        let mut next: Vec<(ChunkId, DomainId)> = late.into_iter().collect();
        while let Some((id, domain)) = next.pop() {
            reached.insert(id);
            if self.nodes_of.contains_key(&id) || self.unread.contains_key(&id) {
                continue;
            }
            match read_node(self.shared, &self.domains, id).await {
                Ok(manifest) => {
                    let nodes = nodes(&manifest);
                    next.extend(nodes.iter().map(|node| (*node, domain)));
                    self.nodes_of.insert(id, nodes);
                }
                Err(NodeError::Index(error)) => return Err(error.into()),
                Err(NodeError::Unreadable(reason)) => self.not_read(id, domain, reason),
            }
        }
        Ok(())
    }
}

/// The manifest chunks that a manifest lists.
pub(super) fn nodes(manifest: &Manifest) -> Vec<ChunkId> {
    manifest.entries().iter().filter(|entry| !entry.leaf).map(|entry| entry.id).collect()
}

/// What roots name, as of one moment.
struct Roots {
    /// Manifest chunks from which a way leads to one that can't be read.
    reached: HashSet<ChunkId>,
    /// Manifest chunks that the pass has not met, with their domains.
    late: HashMap<ChunkId, DomainId>,
}

/// Looks at all roots of one moment for the manifest chunks `above`, and for those that are not `listed`.
fn roots(
    kv: &dyn Kv,
    above: &HashSet<ChunkId>,
    listed: &HashSet<ChunkId>,
    requests_ended: Option<Lsn>,
) -> Result<Roots, MarkError> {
    let mut found = Roots { reached: HashSet::new(), late: HashMap::new() };
    let mut note = |content: Option<&Content>| {
        let Some(content) = content else { return };
        for id in Manifest::parse(&content.manifest).iter().flat_map(nodes) {
            if above.contains(&id) {
                found.reached.insert(id);
            } else if !listed.contains(&id) {
                found.late.insert(id, content.domain_id());
            }
        }
    };
    let scans = kv.scan_together(&[OBJECTS, UPLOADS, CHUNKS]).map_err(IndexError::from)?;
    let mut scans = scans.into_iter();
    let (Some(mut versions), Some(mut parts), Some(mut chunks)) = (scans.next(), scans.next(), scans.next()) else {
        return Err(MarkError::Stopping);
    };
    while let Some((key, value)) = versions.next().map_err(IndexError::from)? {
        note(decode::<VersionRow>(OBJECTS, &key, value)?.content.as_ref());
    }
    parts.seek(b"p");
    while let Some((key, value)) = parts.next().map_err(IndexError::from)?.filter(|(key, _)| key.starts_with(b"p")) {
        note(decode::<PartRow>(UPLOADS, &key, value)?.content.as_ref());
    }
    for id in above {
        chunks.seek(id.as_bytes());
        if let Some((key, value)) =
            chunks.next().map_err(IndexError::from)?.filter(|(key, _)| key[..] == id.as_bytes()[..])
            && may_be_taken(&chunk_row(&key, value)?.1, requests_ended)
        {
            found.reached.insert(*id);
        }
    }
    Ok(found)
}

/// Whether a request that is under way may take a reference to it. Of the same moment as the versions: one that names it after
/// that moment was still to come then, and one that had named it and went has left it condemned.
fn may_be_taken(row: &ChunkRow, requests_ended: Option<Lsn>) -> bool {
    let long_ago = Some(Lsn(row.condemned_lsn)) <= requests_ended;
    row.refs == 0 && !(row.state == ChunkState::Condemned as i32 && long_ago)
}
