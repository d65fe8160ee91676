//! Which stripes hold nothing but what archived versions need?
//!
//! A bounded set of stripes that archived versions have chunks in; then all their chunks; then everything that names chunks and is not
//! archived: other versions, parts of uploads, and the manifest chunks that are reached from these. A stripe is cold if nothing
//! of that names any chunk in it. Where a manifest chunk can't be read, nothing of its dedup domain is cold: unknown is not unused.

use crate::index::{self, CHUNKS, IndexError, OBJECTS, Overlay, RowFault, UPLOADS, damaged, decode};
use crate::keep::mark::node::{NodeError, read_node};
use crate::keep::mark::{END, MarkError, Pages, Usage, chunk_row};
use crate::keys::{Domain, Keys};
use crate::lifecycle::class_of;
use crate::lookup;
use crate::service::Shared;
use access::lifecycle::rule::Class;
use bytes::Bytes;
use codec::effect::{Content, PartRow, VersionRow};
use codec::id::{ChunkId, DomainId, StripeId};
use codec::manifest::{Entry, Manifest};
use codec::stripe::StripeClass;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use storage_node::kv::Family;

/// Of a long list, one chunk in so many is asked where it lies, others each time: those between lie mostly in the same stripe.
const STEP: usize = 16;
/// Longer than this. An object that was put together of what others had before has its few chunks in as many stripes.
const LONG: usize = 64;

/// Chunks in a stripe that nobody has counted.
const EXPECTED: u64 = 1000;

/// How much one look takes on.
#[derive(Clone, Copy, Debug)]
pub(in crate::keep) struct Bounds {
    /// Stripes, and as many more as one list adds.
    pub stripes: usize,
    /// Chunks in them, of some 60 bytes each; up to twice as many, and what the last stripe has.
    pub chunks: usize,
}

/// What a look found.
#[derive(Clone, Debug, Default)]
pub(in crate::keep) struct Cold {
    /// The stripes.
    pub stripes: Vec<StripeId>,
    /// Where the next look begins, as a key of a version; `None`: this one saw all that are archived.
    pub next: Option<Vec<u8>>,
    /// The same if those stripes were moved: a version with more stripes than one look takes on is looked at again.
    pub again: Option<Vec<u8>>,
}

struct Look<'a> {
    shared: &'a Shared,
    /// Data shards of the geometry of the archive class.
    k: u8,
    domains: HashMap<DomainId, Domain>,
    bounds: Bounds,
    usage: &'a BTreeMap<StripeId, Usage>,
    /// Chunks that are expected in the stripes.
    expected: u64,
    /// Each with the domains of its chunks.
    stripes: BTreeMap<StripeId, BTreeSet<DomainId>>,
    chunks: HashMap<ChunkId, StripeId>,
    hot: BTreeSet<StripeId>,
    unsure: BTreeSet<DomainId>,
    /// Manifest chunks that were read, or could not be.
    nodes: HashSet<ChunkId>,
}

/// Looks from a key on. `k`: data shards of the geometry of the archive class. `usage`: how many chunks to expect in a stripe.
pub(in crate::keep) async fn cold(
    shared: &Shared,
    keys: &Keys,
    k: u8,
    from: &[u8],
    usage: &BTreeMap<StripeId, Usage>,
    bounds: Bounds,
) -> Result<Cold, MarkError> {
    let domains = keys.open_domains(&index::domains(&Overlay::new(&*shared.kv))?);
    let mut look = Look {
        shared,
        k,
        domains,
        bounds,
        usage,
        expected: 0,
        stripes: BTreeMap::new(),
        chunks: HashMap::new(),
        hot: BTreeSet::new(),
        unsure: BTreeSet::new(),
        nodes: HashSet::new(),
    };
    let mut cold = look.choose(from).await?;
    if look.stripes.is_empty() {
        return Ok(cold);
    }
    if look.list().await? {
        cold.again = Some(from.to_vec());
    }
    look.nodes.clear();
    look.named(OBJECTS, &[], &END).await?;
    look.named(UPLOADS, b"p", b"q").await?;
    cold.stripes = look.found();
    Ok(cold)
}

fn manifest_of(
    family: Family,
    key: &[u8],
    content: Option<&Content>,
) -> Result<Option<(Manifest, DomainId)>, IndexError> {
    let Some(content) = content else { return Ok(None) };
    let manifest = Manifest::parse(&content.manifest).map_err(|_| damaged(family, key, RowFault::Malformed))?;
    Ok(Some((manifest, content.domain_id())))
}

impl Look<'_> {
    fn view(&self) -> Overlay<'_> {
        Overlay::new(&*self.shared.kv)
    }

    /// Chooses stripes in which archived versions have chunks.
    async fn choose(&mut self, from: &[u8]) -> Result<Cold, MarkError> {
        let mut pages = Pages::new(self.shared, OBJECTS, from, &END);
        // As good as chance, and another one after a restart.
        let turn = usize::try_from(index::applied(&self.view())?.0.0 % STEP as u64).unwrap_or(0);
        loop {
            let rows = pages.next().await?;
            if rows.is_empty() {
                return Ok(Cold::default());
            }
            for (key, value) in rows {
                let row: VersionRow = decode(OBJECTS, &key, value)?;
                if class_of(&row) == Class::Standard {
                    continue;
                }
                let Some((manifest, _)) = manifest_of(OBJECTS, &key, row.content.as_ref())? else { continue };
                let mut lists = vec![manifest];
                while let Some(manifest) = lists.pop() {
                    if self.stripes.len() >= self.bounds.stripes || self.expected >= self.bounds.chunks as u64 {
                        let next = Some([&key[..], &[0]].concat());
                        return Ok(Cold { stripes: Vec::new(), next, again: Some(key.to_vec()) });
                    }
                    for node in self.sample(manifest.entries(), turn)? {
                        if self.nodes.insert(node) {
                            match read_node(self.shared, &self.domains, node).await {
                                Ok(manifest) => lists.push(manifest),
                                Err(NodeError::Index(error)) => return Err(error.into()),
                                // What it lists stays where it is.
                                Err(NodeError::Unreadable(_)) => {}
                            }
                        }
                    }
                }
            }
        }
    }

    /// Takes on the stripes of some chunks of a list; the manifest chunks in it.
    fn sample(&mut self, entries: &[Entry], turn: usize) -> Result<Vec<ChunkId>, IndexError> {
        let mut nodes = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            if !entry.leaf {
                nodes.push(entry.id);
            } else if entries.len() > LONG && at % STEP != turn && at + 1 != entries.len() {
                continue;
            }
            let place = index::chunk(&self.view(), entry.id)?.and_then(|row| row.place);
            let Some(id) = place.and_then(|place| place.stripe()).filter(|id| !self.stripes.contains_key(id)) else {
                continue;
            };
            let Some(row) = index::stripe(&self.view(), id)? else { continue };
            let descriptor = lookup::descriptor(id, &row)?;
            if descriptor.class == StripeClass::Data && descriptor.geometry.k() != self.k {
                self.stripes.insert(id, BTreeSet::new());
                self.expected += self.usage.get(&id).map_or(EXPECTED, |usage| usage.frames);
            }
        }
        Ok(nodes)
    }

    /// Lists the chunks of those stripes; with many more than expected, fewer stripes: whether that was so.
    async fn list(&mut self) -> Result<bool, MarkError> {
        let most = self.bounds.chunks.saturating_mul(2);
        let mut fewer = false;
        let mut pages = Pages::new(self.shared, CHUNKS, &[], &END);
        loop {
            let rows = pages.next().await?;
            if rows.is_empty() {
                return Ok(fewer);
            }
            for (key, value) in rows {
                let (id, row) = chunk_row(&key, value)?;
                let Some(stripe) = row.place.and_then(|place| place.stripe()) else { continue };
                let Some(domains) = self.stripes.get_mut(&stripe) else { continue };
                domains.insert(DomainId(row.domain));
                self.chunks.insert(id, stripe);
            }
            while self.chunks.len() > most
                && let Some((over, _)) = self.stripes.pop_last()
            {
                self.chunks.retain(|_, stripe| *stripe != over);
                fewer = true;
            }
        }
    }

    /// Goes over everything of a family that is not archived.
    async fn named(&mut self, family: Family, from: &[u8], end: &[u8]) -> Result<(), MarkError> {
        let mut pages = Pages::new(self.shared, family, from, end);
        loop {
            let rows = pages.next().await?;
            if rows.is_empty() {
                return Ok(());
            }
            for (key, value) in rows {
                if let Some(content) = needed(family, &key, value)?
                    && let Some((manifest, domain)) = manifest_of(family, &key, Some(&content))?
                {
                    self.need(manifest, domain).await?;
                }
            }
        }
    }

    async fn need(&mut self, manifest: Manifest, domain: DomainId) -> Result<(), MarkError> {
        let mut lists = vec![manifest];
        while let Some(manifest) = lists.pop() {
            for entry in manifest.entries() {
                if let Some(stripe) = self.chunks.get(&entry.id) {
                    self.hot.insert(*stripe);
                }
                if entry.leaf || !self.nodes.insert(entry.id) {
                    continue;
                }
                match read_node(self.shared, &self.domains, entry.id).await {
                    Ok(manifest) => lists.push(manifest),
                    Err(NodeError::Index(error)) => return Err(error.into()),
                    Err(NodeError::Unreadable(_)) => drop(self.unsure.insert(domain)),
                }
            }
        }
        Ok(())
    }

    fn found(self) -> Vec<StripeId> {
        let Look { stripes, hot, unsure, .. } = self;
        let is_cold = |id: &StripeId, domains: &BTreeSet<DomainId>| !hot.contains(id) && domains.is_disjoint(&unsure);
        stripes
            .into_iter()
            .filter(|(id, domains)| !domains.is_empty() && is_cold(id, domains))
            .map(|(id, _)| id)
            .collect()
    }
}

/// What a row needs to be read at any time.
fn needed(family: Family, key: &[u8], value: Bytes) -> Result<Option<Content>, IndexError> {
    if family == UPLOADS {
        return Ok(decode::<PartRow>(family, key, value)?.content);
    }
    let row: VersionRow = decode(family, key, value)?;
    let is_standard = class_of(&row) == Class::Standard;
    Ok(row.content.filter(|_| is_standard))
}
