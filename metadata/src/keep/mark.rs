//! The mark pass: which condemned chunks does nobody name (R11)?
//!
//! Reference counts are a hint; what a pass saw is the authority. A pass takes a bounded set of condemned chunks, then walks
//! every root there is, page by page, and counts how often each of them is named. Roots are the versions of objects, the parts
//! of uploads, and every manifest chunk that has a row, condemned or not: a commit may revive it, and then does not name its
//! children again. A pass that could not read the index is worth nothing: it ends with an error, and nothing is deleted.
//!
//! A manifest chunk that can't be read may list any chunk of its dedup domain, and none of another (`state/chunks.rs` refuses
//! that, and no reader has the other key). Nothing closer bounds its children: counts are a hint, and rows don't say since when
//! a chunk is there. So nothing of that domain is deleted while a root reaches it (`mark/reach.rs`), however many of them there
//! are; other domains go on. It ends when the chunk can be read again, or when what it was reached from was deleted and no
//! request can be under way that still takes it. Then it goes itself when it is condemned, after twice the grace. Its children
//! keep a reference that nobody holds. So from the first pass on that could not read everything of a domain until one cycle of
//! passes could, the Live chunks of the domain are counted again, unless it is held, and those whose count is wrong get the true
//! one. What goes wrong otherwise: one rotten chunk stops all deletes for ever; or a chunk is deleted that only the unread one
//! lists; or what it listed is never deleted.
//!
//! Why commits during the pass do no harm. Let chunk X be condemned by entry c, applied before the pass begins, and let it
//! be deleted by entry d only if it is still condemned by c (the commit looks, `state/reclaim.rs`).
//! * Whoever names X takes a reference to it in the same entry, and that makes X Live. Live again, it can only be condemned
//!   by a later entry than c. So between c and d nobody began to name X.
//! * A root that names X at d therefore named it at c, and at every moment of the pass. Its row has one key for all its life
//!   (a version's is made of bucket, key and LSN, a part's of upload and number, a manifest chunk's of its content), so the
//!   walk, in key order over a family, meets it, whatever is put and deleted around it.
//! * So an X that the pass did not meet has no root at d. And since dropping a reference makes another condemnation as well,
//!   the number of times that the pass met X is exact as long as X is condemned by c: counts are mended with it.
//!
//! Where a chunk lies plays no part in this: frames may move meanwhile.

use crate::index::reclaim::{over_upto, recounted_domains};
use crate::index::{self, CHUNKS, IndexError, OBJECTS, Overlay, RowFault, STRIPES, UPLOADS, View, damaged, decode};
use crate::keys::{Domain, Keys};
use crate::lookup;
use crate::service::Shared;
use bytes::Bytes;
use codec::effect::{ChunkRow, ChunkState, Content, PartRow, StripeRow, VersionRow};
use codec::id::{ChunkId, DomainId, Lsn, StripeId};
use codec::manifest::Manifest;
use codec::stripe::StripeClass;
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use storage_node::kv::{Family, Kv};
use storage_node::sabotage::Sabotage;

use crate::command::{REQUEST_LIFE_MS, RecountedChunk, SparedChunk, UnmarkedChunk};

mod names;
pub(in crate::keep) mod node;
mod reach;

use self::node::{NodeError, read_node};

/// Rows that are read from the index at a time.
const PAGE: usize = 4096;
/// Manifest chunks that are read at a time.
const READS: usize = 16;
/// Longer than any key.
pub(in crate::keep) const END: [u8; 64] = [0xff; 64];

/// How much one pass takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Condemned chunks; as many Live ones without references, and as many that are counted again. Some 150 bytes each.
    pub chunks: usize,
    /// Stripes whose use is counted.
    pub stripes: usize,
    /// Stripes on the drives that the index may lack without anybody having to look (see [`super::reclaim`]).
    pub orphans: usize,
    /// Shards of a drive that are listed at a time.
    pub page: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { chunks: 200_000, stripes: 100_000, orphans: 10_000, page: 4096 }
    }
}

/// A pass costs a walk over the whole index, so it takes on more where there is more: one in so many rows.
const ROWS_EACH: u64 = 200;
/// As many times the limits at most: 4 million chunks and 2 million stripes by default, together about a gigabyte.
const MOST_TIMES: usize = 20;

impl Limits {
    /// The limits for an index of `rows` rows.
    pub fn scaled(self, rows: u64) -> Limits {
        let more = |limit: usize| {
            let share = usize::try_from(rows / ROWS_EACH).unwrap_or(usize::MAX);
            share.clamp(limit, limit.saturating_mul(MOST_TIMES))
        };
        Limits { chunks: more(self.chunks), stripes: more(self.stripes), ..self }
    }
}

/// Where the next pass goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The first chunk that may be a candidate.
    pub chunk: ChunkId,
    /// The first stripe whose use is counted.
    pub stripe: StripeId,
    /// The first chunk that may be counted again.
    pub recount: ChunkId,
}

const FIRST: ChunkId = ChunkId([0; 32]);

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor { chunk: FIRST, stripe: StripeId::default(), recount: FIRST }
    }
}

/// A manifest chunk that can't be read, or is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The chunk.
    pub id: ChunkId,
    /// Its dedup domain.
    pub domain: DomainId,
    /// Why, for the operator.
    pub reason: String,
    /// An object that depends on it, as `bucket/key`; empty when none was found.
    pub object: String,
    /// It is reached from a root: nothing of its domain is deleted because of it.
    pub holds: bool,
}

/// Chunks of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How many.
    pub chunks: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// What is in use of a data stripe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Data shards that it has.
    pub width: u8,
    /// Bytes in them.
    pub stored: u64,
    /// Bytes of frames that chunks have their place in.
    pub live: u64,
    /// Those frames.
    pub frames: u64,
    /// Data shards that its geometry has: more than the cluster's where it is of the archive class.
    pub k: u8,
}

/// What a complete pass found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    /// The last LSN that was applied when it began.
    pub began: Lsn,
    /// Condemned chunks that nobody names, and the bytes of their frames.
    pub unmarked: Vec<(UnmarkedChunk, u64)>,
    /// Condemned chunks that somebody names.
    pub marked: Vec<SparedChunk>,
    /// Live chunks without a reference.
    pub idle: Vec<ChunkId>,
    /// The use of the stripes that this pass counted: all of them were known before it looked at the first chunk.
    pub usage: BTreeMap<StripeId, Usage>,
    /// Some chunk's place is a journal entry that nobody holds: its frame may lie in a stripe that nobody knows.
    pub lost: bool,
    /// Where the next pass goes on.
    pub next: Cursor,
    /// Manifest chunks were read.
    pub looked: bool,
    /// There were more condemned chunks, or more Live ones without a reference, than the limit.
    pub more: bool,
    /// Manifest chunks that can't be read; 10,000 at most, for people: what follows from them counts all.
    pub unread: Vec<Unread>,
    /// Domains with such a chunk.
    pub unsure: BTreeSet<DomainId>,
    /// Those of them of which nothing may be deleted.
    pub held: BTreeSet<DomainId>,
    /// Chunks that would be deleted if their domain was not held.
    pub kept: u64,
    /// Live chunks that were counted again and have another count.
    pub recounted: Vec<RecountedChunk>,
    /// All condemned chunks, due or not.
    pub condemned: Total,
    /// The earliest condemnation.
    pub oldest: Option<Lsn>,
}

/// Why a pass is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The index failed, or is damaged.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The thread that read the index has ended.
    #[error("the service is stopping")]
    Stopping,
}

/// A condemned chunk whose grace is over.
struct Candidate {
    condemned_lsn: Lsn,
    bytes: u32,
    seen: u32,
    domain: DomainId,
    is_manifest: bool,
}

/// A Live chunk that is counted again.
struct Counted {
    was: u64,
    seen: u64,
    domain: DomainId,
}

/// Unread manifest chunks that are named to the operator.
const UNREAD: usize = 10_000;

/// One pass.
struct Pass<'a> {
    shared: &'a Shared,
    domains: HashMap<DomainId, Domain>,
    limits: Limits,
    candidates: HashMap<ChunkId, Candidate>,
    /// What the manifest chunks among the candidates list.
    children: HashMap<ChunkId, Vec<ChunkId>>,
    recount: BTreeSet<DomainId>,
    counted: HashMap<ChunkId, Counted>,
    /// All of them, with their domains.
    unread: HashMap<ChunkId, DomainId>,
    /// For each manifest chunk that could be read, the manifest chunks that it lists. There are as many as manifest chunks, and
    /// those are some thousands of times fewer than chunks.
    nodes_of: HashMap<ChunkId, Vec<ChunkId>>,
    /// What has been condemned up to here may go although it can't be read.
    due_unread: Option<Lsn>,
    /// Requests that were under way then have ended.
    requests_ended: Option<Lsn>,
    marks: Marks,
}

/// Takes a pass over everything. `first`: chunks that are candidates before all others, if they are due: those that the pass
/// before could not read.
pub async fn mark(
    shared: &Shared,
    keys: &Keys,
    from: Cursor,
    first: &[ChunkId],
    limits: Limits,
    grace_ms: u64,
) -> Result<Marks, MarkError> {
    let (began, due, due_unread, requests_ended, rows, recount) = {
        // First of all: what is condemned later than this is not looked at.
        let view = Overlay::new(&*shared.kv);
        let began = index::applied(&view)?.0;
        let due_unread = over_upto(&view, grace_ms.saturating_mul(2))?;
        let requests_ended = over_upto(&view, REQUEST_LIFE_MS)?;
        let (domains, recounted) = (index::domains(&view)?, recounted_domains(&view)?);
        (began, over_upto(&view, grace_ms)?, due_unread, requests_ended, domains, recounted)
    };
    let mut pass = Pass {
        shared,
        domains: keys.open_domains(&rows),
        limits,
        candidates: HashMap::new(),
        children: HashMap::new(),
        recount,
        counted: HashMap::new(),
        unread: HashMap::new(),
        nodes_of: HashMap::new(),
        due_unread,
        requests_ended,
        marks: Marks { began, next: from, ..Marks::default() },
    };
    pass.stripes(from.stripe).await?;
    pass.candidates(from.chunk, first, due).await?;
    pass.choose_counted(from.recount).await?;
    pass.marks.looked = !pass.is_idle();
    if !pass.is_idle() && !shared.sabotage.is(Sabotage::ReclaimMark) {
        pass.versions().await?;
        pass.parts().await?;
    }
    pass.chunks().await?;
    if !pass.unread.is_empty() {
        pass.marks.held = pass.held().await?;
        names::find(shared, &mut pass.marks.unread).await?;
    }
    Ok(pass.finish())
}

/// A family in key order, page by page, read on a thread that may wait.
pub(in crate::keep) struct Pages {
    kv: Arc<dyn Kv>,
    family: Family,
    next: Vec<u8>,
    end: Vec<u8>,
    done: bool,
}

impl Pages {
    pub fn new(shared: &Shared, family: Family, from: &[u8], end: &[u8]) -> Pages {
        Pages { kv: shared.kv.clone(), family, next: from.to_vec(), end: end.to_vec(), done: false }
    }

    pub async fn next(&mut self) -> Result<Vec<(Bytes, Bytes)>, MarkError> {
        if self.done {
            return Ok(Vec::new());
        }
        let (kv, family, from, end) = (self.kv.clone(), self.family, self.next.clone(), self.end.clone());
        let read = tokio::task::spawn_blocking(move || Overlay::new(&*kv).rows(family, &from, &end, PAGE));
        let rows = read.await.map_err(|_| MarkError::Stopping)??;
        self.done = rows.len() < PAGE;
        if let Some((key, _)) = rows.last() {
            self.next = key.to_vec();
            self.next.push(0);
        }
        Ok(rows)
    }
}

impl Pass<'_> {
    fn view(&self) -> Overlay<'_> {
        Overlay::new(&*self.shared.kv)
    }

    /// Nothing has to be looked for in the roots.
    fn is_idle(&self) -> bool {
        self.candidates.is_empty() && self.counted.is_empty()
    }

    /// The stripes whose use is counted. They are chosen before any chunk is looked at: into a stripe that is known already no
    /// chunk is placed any more, but for further pieces of its own commit, which the commit of a drop looks for.
    async fn stripes(&mut self, from: StripeId) -> Result<(), MarkError> {
        let mut pages = Pages::new(self.shared, STRIPES, &from.to_bytes(), &END);
        self.marks.next.stripe = StripeId::default();
        loop {
            let rows = pages.next().await?;
            if rows.is_empty() {
                return Ok(());
            }
            for (key, value) in rows {
                let id = StripeId::from_slice(&key).ok_or_else(|| damaged(STRIPES, &key, RowFault::Key))?;
                if self.marks.usage.len() >= self.limits.stripes {
                    self.marks.next.stripe = id;
                    return Ok(());
                }
                let row: StripeRow = decode(STRIPES, &key, value)?;
                let descriptor = lookup::descriptor(id, &row)?;
                if descriptor.class == StripeClass::Data {
                    let shards = descriptor.data_present();
                    let stored = shards.iter().map(|index| u64::from(descriptor.shard_len(*index))).sum();
                    let width = u8::try_from(shards.len()).unwrap_or(u8::MAX);
                    self.marks
                        .usage
                        .insert(id, Usage { width, stored, k: descriptor.geometry.k(), ..Usage::default() });
                }
            }
        }
    }

    /// Condemned chunks whose grace is over, from the cursor on, and then from the beginning up to it.
    async fn candidates(&mut self, from: ChunkId, first: &[ChunkId], due: Option<Lsn>) -> Result<(), MarkError> {
        let Some(due) = due.map(|due| due.min(self.marks.began)) else { return Ok(()) };
        self.marks.next.chunk = FIRST;
        for id in first.iter().take(self.limits.chunks) {
            if let Some(row) = index::chunk(&self.view(), *id)? {
                self.candidates.extend(candidate(&row, due).map(|candidate| (*id, candidate)));
            }
        }
        for (from, end) in [(&from.0[..], &END[..]), (&[][..], &from.0[..])] {
            let mut pages = Pages::new(self.shared, CHUNKS, from, end);
            loop {
                let rows = pages.next().await?;
                if rows.is_empty() {
                    break;
                }
                for (key, value) in rows {
                    let (id, row) = chunk_row(&key, value)?;
                    let Some(candidate) = candidate(&row, due) else { continue };
                    if self.candidates.len() >= self.limits.chunks {
                        self.marks.next.chunk = id;
                        self.marks.more = true;
                        return Ok(());
                    }
                    self.candidates.insert(id, candidate);
                }
            }
        }
        Ok(())
    }

    /// Live chunks of the domains that are counted again, from the cursor on.
    async fn choose_counted(&mut self, from: ChunkId) -> Result<(), MarkError> {
        self.marks.next.recount = FIRST;
        if self.recount.is_empty() {
            return Ok(());
        }
        let mut pages = Pages::new(self.shared, CHUNKS, &from.0, &END);
        loop {
            let rows = pages.next().await?;
            if rows.is_empty() {
                return Ok(());
            }
            for (key, value) in rows {
                let (id, row) = chunk_row(&key, value)?;
                let domain = DomainId(row.domain);
                if row.state != ChunkState::Live as i32 || row.refs == 0 || !self.recount.contains(&domain) {
                    continue;
                }
                if self.counted.len() >= self.limits.chunks {
                    self.marks.next.recount = id;
                    return Ok(());
                }
                self.counted.insert(id, Counted { was: row.refs, seen: 0, domain });
            }
        }
    }

    async fn versions(&mut self) -> Result<(), MarkError> {
        let mut pages = Pages::new(self.shared, OBJECTS, &[], &END);
        loop {
            let rows = pages.next().await?;
            if rows.is_empty() {
                return Ok(());
            }
            for (key, value) in rows {
                let row: VersionRow = decode(OBJECTS, &key, value)?;
                self.content(OBJECTS, &key, row.content.as_ref())?;
            }
        }
    }

    async fn parts(&mut self) -> Result<(), MarkError> {
        let mut pages = Pages::new(self.shared, UPLOADS, b"p", b"q");
        loop {
            let rows = pages.next().await?;
            if rows.is_empty() {
                return Ok(());
            }
            for (key, value) in rows {
                let row: PartRow = decode(UPLOADS, &key, value)?;
                self.content(UPLOADS, &key, row.content.as_ref())?;
            }
        }
    }

    fn content(&mut self, family: Family, key: &[u8], content: Option<&Content>) -> Result<(), MarkError> {
        let Some(content) = content else { return Ok(()) };
        let manifest = Manifest::parse(&content.manifest).map_err(|_| damaged(family, key, RowFault::Malformed))?;
        self.entries(&manifest, content.domain_id())
    }

    fn entries(&mut self, manifest: &Manifest, domain: DomainId) -> Result<(), MarkError> {
        for entry in manifest.entries() {
            if let Some(candidate) = self.candidates.get_mut(&entry.id) {
                candidate.seen = candidate.seen.saturating_add(1);
            }
            if let Some(counted) = self.counted.get_mut(&entry.id) {
                counted.seen += 1;
            }
            // What a node lists is met where the node has its row: without one it is not met at all.
            if !entry.leaf && index::chunk(&self.view(), entry.id)?.is_none_or(|row| !row.is_manifest) {
                self.not_read(entry.id, domain, "it is named and not there".to_owned());
            }
        }
        Ok(())
    }

    fn not_read(&mut self, id: ChunkId, domain: DomainId, reason: String) {
        if self.shared.sabotage.is(Sabotage::UnknownIsAbsent) {
            return;
        }
        self.marks.unsure.insert(domain);
        if self.unread.insert(id, domain).is_none() && self.marks.unread.len() < UNREAD {
            self.marks.unread.push(Unread { id, domain, reason, object: String::new(), holds: true });
        }
    }

    /// All chunks: what the manifest chunks among them list, which stripes they are placed in, and which have no reference.
    async fn chunks(&mut self) -> Result<(), MarkError> {
        let mut pages = Pages::new(self.shared, CHUNKS, &[], &END);
        loop {
            let rows = pages.next().await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut nodes = Vec::new();
            for (key, value) in rows {
                let (id, row) = chunk_row(&key, value)?;
                if row.is_manifest {
                    nodes.push((id, DomainId(row.domain)));
                }
                self.place(id, &row)?;
                self.count(id, &row);
            }
            if self.is_idle() {
                continue;
            }
            for some in nodes.chunks(READS) {
                let read = join_all(some.iter().map(|(id, _)| read_node(self.shared, &self.domains, *id))).await;
                for ((id, domain), manifest) in some.iter().zip(read) {
                    self.node(*id, *domain, manifest)?;
                }
            }
        }
    }

    fn place(&mut self, id: ChunkId, row: &ChunkRow) -> Result<(), MarkError> {
        let place = row.place.ok_or_else(|| damaged(CHUNKS, id.as_bytes(), RowFault::Field))?;
        if let Some(usage) = place.stripe().and_then(|stripe| self.marks.usage.get_mut(&stripe)) {
            usage.frames += 1;
            usage.live += u64::from(place.len);
        }
        let unheld = |lsn: Lsn| !self.shared.map.has(lsn);
        if place.lsn().is_some_and(unheld) {
            // A seal may have moved it since the page was read.
            let now = index::chunk(&self.view(), id)?.and_then(|row| row.place);
            self.marks.lost |= now.and_then(|place| place.lsn()).is_some_and(unheld);
        }
        Ok(())
    }

    fn count(&mut self, id: ChunkId, row: &ChunkRow) {
        if row.state == ChunkState::Condemned as i32 {
            let (total, lsn) = (&mut self.marks.condemned, Lsn(row.condemned_lsn));
            total.chunks += 1;
            total.bytes += row.place.map_or(0, |place| u64::from(place.len));
            self.marks.oldest = Some(self.marks.oldest.map_or(lsn, |oldest| oldest.min(lsn)));
        } else if row.refs == 0 {
            match self.marks.idle.len() < self.limits.chunks {
                true => self.marks.idle.push(id),
                false => self.marks.more = true,
            }
        }
    }

    fn node(&mut self, id: ChunkId, domain: DomainId, manifest: Result<Manifest, NodeError>) -> Result<(), MarkError> {
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(NodeError::Index(error)) => return Err(error.into()),
            Err(NodeError::Unreadable(reason)) => {
                self.not_read(id, domain, reason);
                return Ok(());
            }
        };
        self.nodes_of.insert(id, reach::nodes(&manifest));
        if self.candidates.contains_key(&id) {
            self.children.insert(id, manifest.entries().iter().map(|entry| entry.id).collect());
        }
        match self.shared.sabotage.is(Sabotage::ReclaimMark) {
            true => Ok(()),
            false => self.entries(&manifest, domain),
        }
    }

    fn finish(self) -> Marks {
        let Pass { candidates, counted, unread, due_unread, mut children, mut marks, .. } = self;
        for (id, Candidate { condemned_lsn, bytes, is_manifest, seen, domain }) in candidates {
            let (children, unread) = (children.remove(&id).unwrap_or_default(), unread.contains_key(&id));
            if seen > 0 {
                marks.marked.push(SparedChunk { id, condemned_lsn, refs: u64::from(seen) });
            } else if marks.held.contains(&domain) {
                marks.kept += 1;
            } else if unread && Some(condemned_lsn) <= due_unread || !unread && is_manifest != children.is_empty() {
                marks.unmarked.push((UnmarkedChunk { id, condemned_lsn, children, unread }, u64::from(bytes)));
            }
        }
        for (id, Counted { was, seen, domain }) in counted {
            if was != seen && !marks.held.contains(&domain) {
                marks.recounted.push(RecountedChunk { id, was, refs: seen });
            }
        }
        // In the order of the rows that they change.
        marks.unmarked.sort_unstable_by_key(|(chunk, _)| chunk.id);
        marks
    }
}

/// A chunk that is condemned for long enough.
fn candidate(row: &ChunkRow, due: Lsn) -> Option<Candidate> {
    let condemned = row.state == ChunkState::Condemned as i32 && row.refs == 0;
    (condemned && row.condemned_lsn <= due.0).then(|| Candidate {
        condemned_lsn: Lsn(row.condemned_lsn),
        bytes: row.place.map_or(0, |place| place.len),
        domain: DomainId(row.domain),
        is_manifest: row.is_manifest,
        seen: 0,
    })
}

pub(in crate::keep) fn chunk_row(key: &[u8], value: Bytes) -> Result<(ChunkId, ChunkRow), IndexError> {
    let row: ChunkRow = decode(CHUNKS, key, value)?;
    let id = row.chunk_id().filter(|id| id.as_bytes()[..] == *key);
    Ok((id.ok_or_else(|| damaged(CHUNKS, key, RowFault::Field))?, row))
}
