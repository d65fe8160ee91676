//! The mark pass: which condemned chunks does nobody name (R11)?
//!
//! Reference counts are a hint; what a pass saw is the authority. A pass takes a bounded set of condemned chunks, then walks
//! every root there is, page by page, and counts how often each of them is named. Roots are the versions of objects, the parts
//! of uploads, and every manifest chunk that has a row, condemned or not: a commit may revive it, and then does not name its
//! children again. A pass that could not read something is worth nothing: it ends with an error, and nothing is deleted.
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

use crate::index::reclaim::over_upto;
use crate::index::{self, CHUNKS, IndexError, OBJECTS, Overlay, RowFault, STRIPES, UPLOADS, View, damaged, decode};
use crate::keys::{Domain, KeyError, Keys};
use crate::lookup;
use crate::service::Shared;
use bytes::Bytes;
use codec::effect::{ChunkRow, ChunkState, Content, PartRow, StripeRow, VersionRow};
use codec::frame::{Expect, decode as decode_frame};
use codec::id::{ChunkId, DomainId, Lsn, StripeId};
use codec::manifest::Manifest;
use codec::stripe::StripeClass;
use futures::future::join_all;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use storage_node::kv::{Family, Kv};
use storage_node::sabotage::Sabotage;

use crate::command::{SparedChunk, UnmarkedChunk};

/// Rows that are read from the index at a time.
const PAGE: usize = 4096;
/// Manifest chunks that are read at a time.
const READS: usize = 16;
/// Longer than any key.
const END: [u8; 64] = [0xff; 64];

/// How much one pass takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Condemned chunks, and as many Live ones without references.
    pub chunks: usize,
    /// Stripes whose use is counted.
    pub stripes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { chunks: 200_000, stripes: 100_000 }
    }
}

/// Where the next pass goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The first chunk that may be a candidate.
    pub chunk: ChunkId,
    /// The first stripe whose use is counted.
    pub stripe: StripeId,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor { chunk: ChunkId([0; 32]), stripe: StripeId::default() }
    }
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
}

/// Why a pass is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The index failed, or is damaged.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The keys of a dedup domain do not unwrap.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// A manifest chunk can't be read: what it lists is not known.
    #[error("manifest chunk {id} can't be read: {reason}")]
    Unreadable {
        /// The chunk.
        id: ChunkId,
        /// For the operator.
        reason: String,
    },
    /// Something names a manifest chunk that is not there.
    #[error("manifest chunk {0} is named and not there")]
    Dangling(ChunkId),
    /// The thread that read the index has ended.
    #[error("the service is stopping")]
    Stopping,
}

/// A condemned chunk whose grace is over.
struct Candidate {
    condemned_lsn: Lsn,
    bytes: u64,
    is_manifest: bool,
    seen: u64,
    children: Vec<ChunkId>,
}

/// One pass.
struct Pass<'a> {
    shared: &'a Shared,
    domains: HashMap<DomainId, Domain>,
    limits: Limits,
    candidates: HashMap<ChunkId, Candidate>,
    marks: Marks,
}

/// Takes a pass over everything.
pub async fn mark(
    shared: &Shared,
    keys: &Keys,
    from: Cursor,
    limits: Limits,
    grace_ms: u64,
) -> Result<Marks, MarkError> {
    let (began, due, rows) = {
        // First of all: what is condemned later than this is not looked at.
        let view = Overlay::new(&*shared.kv);
        (index::applied(&view)?.0, over_upto(&view, grace_ms)?, index::domains(&view)?)
    };
    let mut domains = HashMap::new();
    for row in &rows {
        domains.insert(DomainId(row.id), keys.unwrap_domain(row)?);
    }
    let marks = Marks { began, next: from, ..Marks::default() };
    let mut pass = Pass { shared, domains, limits, candidates: HashMap::new(), marks };
    pass.stripes(from.stripe).await?;
    pass.candidates(from.chunk, due).await?;
    if !pass.candidates.is_empty() && !shared.sabotage.is(Sabotage::ReclaimMark) {
        pass.versions().await?;
        pass.parts().await?;
    }
    pass.chunks().await?;
    Ok(pass.finish())
}

/// A family in key order, page by page, read on a thread that may wait.
struct Pages {
    kv: Arc<dyn Kv>,
    family: Family,
    next: Vec<u8>,
    end: Vec<u8>,
    done: bool,
}

impl Pages {
    fn new(shared: &Shared, family: Family, from: &[u8], end: &[u8]) -> Pages {
        Pages { kv: shared.kv.clone(), family, next: from.to_vec(), end: end.to_vec(), done: false }
    }

    async fn next(&mut self) -> Result<Vec<(Bytes, Bytes)>, MarkError> {
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
                    self.marks.usage.insert(id, Usage { width, stored, ..Usage::default() });
                }
            }
        }
    }

    /// Condemned chunks whose grace is over, from the cursor on, and then from the beginning up to it.
    async fn candidates(&mut self, from: ChunkId, due: Option<Lsn>) -> Result<(), MarkError> {
        let Some(due) = due else { return Ok(()) };
        self.marks.next.chunk = ChunkId([0; 32]);
        for (from, end) in [(&from.0[..], &END[..]), (&[][..], &from.0[..])] {
            let mut pages = Pages::new(self.shared, CHUNKS, from, end);
            loop {
                let rows = pages.next().await?;
                if rows.is_empty() {
                    break;
                }
                for (key, value) in rows {
                    let (id, row) = chunk_row(&key, value)?;
                    let condemned = row.state == ChunkState::Condemned as i32 && row.refs == 0;
                    if !condemned || row.condemned_lsn > due.0.min(self.marks.began.0) {
                        continue;
                    }
                    if self.candidates.len() >= self.limits.chunks {
                        self.marks.next.chunk = id;
                        return Ok(());
                    }
                    let candidate = Candidate {
                        condemned_lsn: Lsn(row.condemned_lsn),
                        bytes: row.place.map_or(0, |place| u64::from(place.len)),
                        is_manifest: row.is_manifest,
                        seen: 0,
                        children: Vec::new(),
                    };
                    self.candidates.insert(id, candidate);
                }
            }
        }
        Ok(())
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
        self.entries(&manifest)
    }

    fn entries(&mut self, manifest: &Manifest) -> Result<(), MarkError> {
        for entry in manifest.entries() {
            if let Some(candidate) = self.candidates.get_mut(&entry.id) {
                candidate.seen += 1;
            }
            // What a node lists is met where the node has its row: without one it would not be met at all.
            if !entry.leaf && index::chunk(&self.view(), entry.id)?.is_none_or(|row| !row.is_manifest) {
                return Err(MarkError::Dangling(entry.id));
            }
        }
        Ok(())
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
                    nodes.push(id);
                }
                self.place(id, &row)?;
                if row.state == ChunkState::Live as i32 && row.refs == 0 && self.marks.idle.len() < self.limits.chunks {
                    self.marks.idle.push(id);
                }
            }
            if self.candidates.is_empty() {
                continue;
            }
            for some in nodes.chunks(READS) {
                let read = join_all(some.iter().map(|id| self.manifest(*id))).await;
                for (id, manifest) in some.iter().zip(read) {
                    self.node(*id, manifest)?;
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
        let unheld = |lsn: Lsn| self.shared.map.get(lsn).is_none();
        if place.lsn().is_some_and(unheld) {
            // A seal may have moved it since the page was read.
            let now = index::chunk(&self.view(), id)?.and_then(|row| row.place);
            self.marks.lost |= now.and_then(|place| place.lsn()).is_some_and(unheld);
        }
        Ok(())
    }

    fn node(&mut self, id: ChunkId, manifest: Result<Manifest, MarkError>) -> Result<(), MarkError> {
        let manifest = match manifest {
            Err(MarkError::Unreadable { .. }) if self.shared.sabotage.is(Sabotage::UnknownIsAbsent) => return Ok(()),
            manifest => manifest?,
        };
        if let Some(candidate) = self.candidates.get_mut(&id) {
            candidate.children = manifest.entries().iter().map(|entry| entry.id).collect();
        }
        match self.shared.sabotage.is(Sabotage::ReclaimMark) {
            true => Ok(()),
            false => self.entries(&manifest),
        }
    }

    /// Reads a manifest chunk as a reader would: verified, decrypted, and with the id that was asked for.
    async fn manifest(&self, id: ChunkId) -> Result<Manifest, MarkError> {
        let locate = || lookup::locate(&self.view(), &[id])?.pop().flatten().ok_or(MarkError::Dangling(id));
        let unreadable = |reason: String| MarkError::Unreadable { id, reason };
        let mut located = locate()?;
        let frame = match self.shared.read_at(&located).await {
            Ok(frame) => frame,
            Err(reason) => {
                // It may have moved.
                let again = locate()?;
                if again.place == located.place {
                    return Err(unreadable(reason));
                }
                located = again;
                self.shared.read_at(&located).await.map_err(unreadable)?
            }
        };
        let domain = self.domains.get(&located.domain);
        let domain = domain.ok_or_else(|| unreadable(format!("dedup domain {} is not known", located.domain)))?;
        let expect = Expect {
            id,
            domain: domain.id,
            plain_len: located.plain_len,
            chunk_key: &domain.chunk_key,
            data_key: domain.data_key.as_ref(),
        };
        let plain = decode_frame(&frame, &expect).map_err(|error| unreadable(error.to_string()))?;
        Manifest::parse(&plain).map_err(|error| unreadable(error.to_string()))
    }

    fn finish(self) -> Marks {
        let Pass { candidates, mut marks, .. } = self;
        for (id, Candidate { condemned_lsn, bytes, is_manifest, seen, children }) in candidates {
            if seen > 0 {
                marks.marked.push(SparedChunk { id, condemned_lsn, refs: seen });
            } else if is_manifest != children.is_empty() {
                marks.unmarked.push((UnmarkedChunk { id, condemned_lsn, children }, bytes));
            }
        }
        // In the order of the rows that they change.
        marks.unmarked.sort_unstable_by_key(|(chunk, _)| chunk.id);
        marks
    }
}

fn chunk_row(key: &[u8], value: Bytes) -> Result<(ChunkId, ChunkRow), IndexError> {
    let row: ChunkRow = decode(CHUNKS, key, value)?;
    let id = row.chunk_id().filter(|id| id.as_bytes()[..] == *key);
    Ok((id.ok_or_else(|| damaged(CHUNKS, key, RowFault::Field))?, row))
}
