//! The end of every PUT: the manifest, the frames that ride with the commit, and the commit itself.
//!
//! Invariant: a commit names only chunks that are durable and known, or that ride in it. Metadata checks that and refuses
//! with the ids that are missing: a dedup hit can be reclaimed between the lookup and the commit. The plaintext of what a
//! small object did not store itself, and of every manifest node, is kept until the commit, so that these are stored
//! again; a large object's is gone by then, and its client is asked to send it again (503).

use crate::encode::{self, Plain};
use crate::engine::PutDone;
use crate::error::PutError;
use crate::put::{Loose, Stored, Storing, spill};
use crate::stripe_pool::Ticket;
use bytes::Bytes;
use codec::effect::{Checksum, Content, PartInfo};
use codec::frame::chunk_id;
use codec::id::ChunkId;
use codec::manifest::{Entry, Manifest, ManifestBuilder, ManifestError, Node};
use metadata::client::{CommitError, StripeFrame};
use metadata::command::{Command, NewChunk, NewFrame, Outcome, Refusal};
use metadata::keys::{Domain, Purpose};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// How often a commit is tried whose chunks went missing.
const ATTEMPTS: usize = 3;

/// Milliseconds since the Unix epoch, for Last-Modified; nothing is ordered by it (R15).
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A chunk that can be stored again.
struct Kept {
    plain: Bytes,
    /// A manifest node's entries; `None` for a leaf.
    children: Option<Vec<ChunkId>>,
}

/// Ready to be committed.
pub(crate) struct Prepared {
    content: Content,
    inline: Vec<NewChunk>,
    kept: HashMap<ChunkId, Kept>,
}

/// A node with its name.
struct Named {
    id: ChunkId,
    plain: Bytes,
    children: Vec<ChunkId>,
}

/// Makes the manifest of a stored body, and waits until everything it names is durable or rides along.
pub(crate) async fn prepare(
    storing: &Arc<Storing>,
    stored: Stored,
    etag: String,
    checksums: Vec<Checksum>,
) -> Result<Prepared, PutError> {
    let Stored { entries, size, mut loose, mut tickets, kept, .. } = stored;
    let (root, nodes) = build(storing, entries).await?;
    let mut kept: HashMap<_, _> = kept.into_iter().map(|(id, plain)| (id, Kept { plain, children: None })).collect();
    let frames = new_nodes(storing, &nodes).await?;
    kept.extend(nodes.into_iter().map(|node| (node.id, Kept { plain: node.plain, children: Some(node.children) })));
    let inline = store_rest(storing, &mut loose, frames, &mut tickets).await?;
    let content = Content {
        size,
        etag,
        checksums,
        domain: storing.domain.id.0,
        manifest: root.encode(),
        part_sizes: Vec::new(),
        encrypted: storing.domain.purpose.encrypts(),
        upload_id: String::new(),
        sealed: storing.sealed.clone(),
        ..Content::default()
    };
    Ok(Prepared { content, inline, kept })
}

impl Prepared {
    /// The parts' lengths of a multipart object, what is kept of them besides, and its upload's id.
    pub(crate) fn with_parts(mut self, part_sizes: Vec<u64>, parts: Vec<PartInfo>, upload_id: String) -> Prepared {
        (self.content.part_sizes, self.content.parts, self.content.upload_id) = (part_sizes, parts, upload_id);
        self
    }
}

/// A commit of content that exists already, all of whose chunks are stored. A copy: no upload was completed to it.
pub(crate) fn existing(content: Content) -> Prepared {
    let content = Content { upload_id: String::new(), ..content };
    Prepared { content, inline: Vec::new(), kept: HashMap::new() }
}

/// The root, and the nodes below it in an order in which children come first.
async fn build(storing: &Storing, entries: Vec<Entry>) -> Result<(Manifest, Vec<Named>), PutError> {
    let domain = Arc::clone(&storing.nodes);
    let bytes = entries.len() * size_of::<Entry>();
    let built = storing.cpu.run(bytes, move || build_now(&domain, entries)).await?;
    built.map_err(|error| PutError::Internal(error.to_string()))
}

fn build_now(domain: &Domain, entries: Vec<Entry>) -> Result<(Manifest, Vec<Named>), ManifestError> {
    let mut builder = ManifestBuilder::new();
    let mut nodes = Vec::new();
    let name = |builder: &mut ManifestBuilder, node: Node| -> Result<Named, ManifestError> {
        let id = chunk_id(&domain.chunk_key, &node.bytes);
        builder.node_stored(&node, id);
        Ok(Named { id, children: codec::manifest::children(&node.bytes)?, plain: node.bytes })
    };
    for entry in entries {
        builder.push(entry)?;
        while let Some(node) = builder.full_node() {
            nodes.push(name(&mut builder, node)?);
        }
    }
    while let Some(node) = builder.last_node() {
        nodes.push(name(&mut builder, node)?);
    }
    Ok((builder.finish()?, nodes))
}

/// The frames of those nodes that are not stored yet, each once, children first.
async fn new_nodes(storing: &Storing, nodes: &[Named]) -> Result<Vec<StripeFrame>, PutError> {
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<ChunkId> = nodes.iter().map(|node| node.id).collect();
    let hits = storing.meta.find_chunks(storing.domain.id, &ids).await?;
    let mut met = HashSet::new();
    let missing = nodes.iter().zip(hits).filter(|(node, hit)| hit.is_none() && met.insert(node.id));
    let missing: Vec<_> = missing.map(|(node, _)| (node.id, node.plain.clone(), Some(node.children.clone()))).collect();
    encode(storing, missing).await
}

async fn encode(
    storing: &Storing,
    chunks: Vec<(ChunkId, Bytes, Option<Vec<ChunkId>>)>,
) -> Result<Vec<StripeFrame>, PutError> {
    let plain = |(id, bytes, children): &(ChunkId, Bytes, Option<Vec<ChunkId>>)| {
        let domain = if children.is_some() { &storing.nodes } else { &storing.domain };
        (Arc::clone(domain), Plain { id: *id, bytes: bytes.clone(), verify: true })
    };
    let plains: Vec<(Arc<Domain>, Plain)> = chunks.iter().map(plain).collect();
    let (how, sabotage) = (storing.how(storing.level), storing.sabotage.clone());
    let bytes = plains.iter().map(|(_, plain)| plain.bytes.len()).sum();
    let work = move || {
        let frames = plains.iter().map(|(domain, plain)| encode::encode(domain, how, plain, &sabotage));
        frames.collect::<Result<Vec<Bytes>, _>>()
    };
    let encoded = storing.cpu.run(bytes, work).await?;
    let frames = encoded.map_err(|error| PutError::Internal(error.to_string()))?;
    let frame = |((id, plain, children), frame): ((ChunkId, Bytes, Option<Vec<ChunkId>>), Bytes)| StripeFrame {
        id,
        domain: storing.domain.id,
        plain_len: plain.len() as u32,
        is_manifest: children.is_some(),
        children: children.unwrap_or_default(),
        frame,
    };
    Ok(chunks.into_iter().zip(frames).map(frame).collect())
}

/// Stores what is in no stripe yet: with the commit if it is little enough, in the pool otherwise. Waits for all stripes.
async fn store_rest(
    storing: &Storing,
    loose: &mut Vec<Loose>,
    nodes: Vec<StripeFrame>,
    tickets: &mut Vec<Ticket>,
) -> Result<Vec<NewChunk>, PutError> {
    let total = |frames: &mut dyn Iterator<Item = &StripeFrame>| frames.map(|frame| frame.frame.len()).sum::<usize>();
    let node_bytes = total(&mut nodes.iter());
    if node_bytes + total(&mut loose.iter().map(|loose| &loose.frame)) > storing.inline_limit {
        spill(storing, loose, tickets).await;
    }
    wait_all(storing, tickets).await?;
    let nodes = if node_bytes > storing.inline_limit {
        store_nodes(storing, nodes).await?;
        Vec::new()
    } else {
        nodes
    };
    // What rides along gives its room back: the admission covers it.
    let leaves = loose.drain(..).map(|loose| loose.frame);
    Ok(leaves.chain(nodes).map(inline).collect())
}

/// Stores nodes in the pool. A stripe may be committed only after everything that its nodes list: so a node that lists
/// another new one waits for that one's stripe.
async fn store_nodes(storing: &Storing, nodes: Vec<StripeFrame>) -> Result<(), PutError> {
    let (mut tickets, mut coming) = (Vec::new(), HashSet::new());
    for frame in nodes {
        if frame.children.iter().any(|child| coming.contains(child)) {
            wait_all(storing, &mut tickets).await?;
            coming.clear();
        }
        coming.insert(frame.id);
        spill(storing, &mut vec![Loose { frame, room: None }], &mut tickets).await;
    }
    wait_all(storing, &mut tickets).await
}

async fn wait_all(storing: &Storing, tickets: &mut Vec<Ticket>) -> Result<(), PutError> {
    for ticket in tickets.drain(..) {
        storing.pool.wait(&ticket).await?;
    }
    Ok(())
}

fn inline(frame: StripeFrame) -> NewChunk {
    NewChunk {
        id: frame.id,
        domain: frame.domain,
        plain_len: frame.plain_len,
        frame: NewFrame::Inline(frame.frame),
        is_manifest: frame.is_manifest,
        children: frame.children,
    }
}

/// Commits what `command` makes of the content and its inline chunks.
pub(crate) async fn commit(
    storing: &Storing,
    prepared: Prepared,
    command: impl Fn(Content, Vec<NewChunk>) -> Command,
) -> Result<PutDone, PutError> {
    let Prepared { content, mut inline, mut kept } = prepared;
    for _ in 0..ATTEMPTS {
        match storing.meta.commit(storing.writer, command(content.clone(), inline.clone())).await {
            Ok(outcome) => return done(outcome, content, storing.domain.purpose.clone()),
            Err(CommitError::Refused(Refusal::MissingChunks(ids))) => {
                tracing::info!(chunks = ids.len(), "chunks went between lookup and commit; storing them again");
                inline = again(storing, &ids, &mut kept, inline).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(PutError::Unavailable("chunks keep going away between lookup and commit".to_owned()))
}

/// The inline chunks with those added that went missing, leaves first.
async fn again(
    storing: &Storing,
    missing: &[ChunkId],
    kept: &mut HashMap<ChunkId, Kept>,
    inline: Vec<NewChunk>,
) -> Result<Vec<NewChunk>, PutError> {
    let mut chunks = Vec::new();
    for id in missing {
        let gone = || PutError::Unavailable(format!("chunk {id} went between lookup and commit"));
        let chunk = kept.remove(id).ok_or_else(gone)?;
        chunks.push((*id, chunk.plain, chunk.children));
    }
    let frames = encode(storing, chunks).await?;
    let (nodes, leaves): (Vec<_>, Vec<_>) =
        inline.into_iter().chain(frames.into_iter().map(self::inline)).partition(|chunk| chunk.is_manifest);
    Ok(leaves.into_iter().chain(in_order(nodes)).collect())
}

/// Nodes with children before parents. There are few: a level takes thousands of entries to fill.
fn in_order(mut nodes: Vec<NewChunk>) -> Vec<NewChunk> {
    let mut sorted = Vec::with_capacity(nodes.len());
    while !nodes.is_empty() {
        let waiting: HashSet<ChunkId> = nodes.iter().map(|node| node.id).collect();
        let blocked = |node: &NewChunk| node.children.iter().any(|child| waiting.contains(child));
        let (later, now): (Vec<_>, Vec<_>) = nodes.into_iter().partition(blocked);
        if now.is_empty() {
            // A circle would take a hash that contains itself; whatever this is, metadata refuses it.
            sorted.extend(later);
            break;
        }
        sorted.extend(now);
        nodes = later;
    }
    sorted
}

fn done(outcome: Outcome, content: Content, purpose: Purpose) -> Result<PutDone, PutError> {
    let (modified_ms, version_id) = match outcome {
        Outcome::Committed(version, _) => (version.modified_ms, version.version_id),
        Outcome::PartCommitted(part) => (part.modified_ms, String::new()),
        other => return Err(PutError::Internal(format!("a commit's outcome is {other:?}"))),
    };
    Ok(done_with(content, purpose, modified_ms, version_id))
}

/// The answer to a commit that was done.
pub(crate) fn done_with(content: Content, purpose: Purpose, modified_ms: u64, version_id: String) -> PutDone {
    let Content { etag, checksums, size, encrypted, part_sizes, .. } = content;
    PutDone { etag, checksums, size, encrypted, purpose, modified_ms, version_id, parts: part_sizes.len() as u32 }
}
