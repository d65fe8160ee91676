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
//! Without this an unread chunk below another one held its domain for ever: the upper one waited for the domain to be let go
//! before it went, and its reference to the lower one with it.

use super::{END, MarkError, Pages, Pass};
use crate::index::{self, OBJECTS, UPLOADS, decode};
use codec::effect::{ChunkState, Content, PartRow, VersionRow};
use codec::id::{ChunkId, DomainId, Lsn};
use codec::manifest::Manifest;
use std::collections::{BTreeSet, HashMap, HashSet};

impl Pass<'_> {
    /// The domains of which nothing may be deleted, after all that can be read was.
    pub(super) async fn held(&mut self) -> Result<BTreeSet<DomainId>, MarkError> {
        let above = self.above();
        let mut reached = self.named(&above).await?;
        for id in above {
            if self.may_be_taken(id)? {
                reached.insert(id);
            }
        }
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

    /// Those of `wanted` that a version or a part names.
    async fn named(&self, wanted: &HashSet<ChunkId>) -> Result<HashSet<ChunkId>, MarkError> {
        let mut found = HashSet::new();
        let mut note = |content: Option<&Content>| {
            let manifest = content.and_then(|content| Manifest::parse(&content.manifest).ok());
            let nodes = manifest.iter().flat_map(|manifest| manifest.entries()).filter(|entry| !entry.leaf);
            found.extend(nodes.map(|entry| entry.id).filter(|id| wanted.contains(id)));
        };
        let mut versions = Pages::new(self.shared, OBJECTS, &[], &END);
        loop {
            let rows = versions.next().await?;
            if rows.is_empty() {
                break;
            }
            for (key, value) in rows {
                note(decode::<VersionRow>(OBJECTS, &key, value)?.content.as_ref());
            }
        }
        let mut parts = Pages::new(self.shared, UPLOADS, b"p", b"q");
        loop {
            let rows = parts.next().await?;
            if rows.is_empty() {
                return Ok(found);
            }
            for (key, value) in rows {
                note(decode::<PartRow>(UPLOADS, &key, value)?.content.as_ref());
            }
        }
    }

    /// Whether a request that is under way may take a reference to it. Looked at after the versions: one that named it and went
    /// meanwhile has left it condemned by now.
    fn may_be_taken(&self, id: ChunkId) -> Result<bool, MarkError> {
        let Some(row) = index::chunk(&self.view(), id)? else { return Ok(false) };
        let long_ago = Some(Lsn(row.condemned_lsn)) <= self.requests_ended;
        Ok(row.refs == 0 && !(row.state == ChunkState::Condemned as i32 && long_ago))
    }
}
