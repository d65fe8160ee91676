//! The PUT path: body -> batches -> chunks -> ids -> dedup -> frames -> inline or stripe pool; [`crate::commit`] does the rest.
//!
//! One request is a pipeline of three stages that run at the same time, each bounded: the next batch is received; the
//! batch before is digested and cut; up to [`GROUPS`] groups of chunks are named, looked up and encoded. The order of the
//! object is kept throughout. [`crate::budget`] says what may be held when.

use crate::budget::{Bytesful, Held, SMALL};
use crate::commit;
use crate::cpu::Cpu;
use crate::digest::{self, Digester, Digests};
use crate::encode::{self, How, Plain};
use crate::engine::{Body, Claims, Gateway, MAX_SINGLE, PutDone, PutRequest, random_bits};
use crate::error::{BodyError, PutError};
use crate::protect::Under;
use crate::stripe_pool::{StripePool, Ticket};
use bytes::{Bytes, BytesMut};
use codec::chunk::{ChunkSizes, Chunker};
use codec::effect::ObjectKeyRow;
use codec::id::{ChunkId, Epoch};
use codec::manifest::Entry;
use futures::stream::{self, Fuse};
use futures::{Stream, StreamExt, TryStreamExt};
use metadata::client::{MetadataClient, StripeFrame};
use metadata::command::{Attached, Command, CommitObject};
use metadata::keys::Domain;
use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use storage_node::sabotage::SabotageSet;

/// Bytes of body that are received before they are digested and cut.
const BATCH: usize = 1 << 20;
/// Groups of chunks in work at once, per request.
const GROUPS: usize = 4;
/// Pieces of a body below this are copied together, so that they do not keep the buffers that they were read into.
const SMALL_PIECE: usize = 4 << 10;

/// While others wait to be admitted, a body may be silent for this part of the time that it may otherwise.
const IMPATIENCE: u32 = 6;
/// While others wait to be admitted, a body must come in at so many bytes a second of waiting for it, at least.
const LEAST_RATE: u64 = 1 << 10;

/// Where bytes come from: a client, or another object.
pub(crate) type Source = Pin<Box<dyn Stream<Item = Result<Bytes, PutError>> + Send>>;

/// What a request needs to store chunks.
pub(crate) struct Storing {
    pub(crate) meta: Arc<dyn MetadataClient>,
    pub(crate) cpu: Cpu,
    pub(crate) pool: Arc<StripePool>,
    pub(crate) domain: Arc<Domain>,
    /// The domain of manifest nodes: the same, under keys that metadata has.
    pub(crate) nodes: Arc<Domain>,
    /// The object's own keys, under SSE-C.
    pub(crate) sealed: Option<ObjectKeyRow>,
    /// The epoch held when the request began (R9).
    pub(crate) writer: Epoch,
    pub(crate) level: i32,
    pub(crate) sabotage: SabotageSet,
    pub(crate) inline_limit: usize,
    /// Plaintext is kept until the commit, and covered by the admission.
    pub(crate) small: bool,
    /// Chunks that this request has met.
    seen: Mutex<HashSet<ChunkId>>,
    /// What [`crate::budget::Budget::admit`] granted.
    _admission: Held,
}

impl Storing {
    /// How frames are made now, at a zstd level.
    pub(crate) fn how(&self, zstd: i32) -> How {
        How { zstd, version: self.meta.frame_version() }
    }
}

/// How a body is to be stored.
pub(crate) struct Spec {
    pub(crate) under: Under,
    pub(crate) writer: Epoch,
    /// 0 means the default.
    pub(crate) level: i32,
    pub(crate) length: Option<u64>,
}

/// A frame that no stripe has yet.
pub(crate) struct Loose {
    pub(crate) frame: StripeFrame,
    /// Room in the pool; small objects ask for it only if they turn out not to ride in the journal.
    pub(crate) room: Option<Held>,
}

/// A body whose chunks are all durable, in stripes being written, or in `loose`.
pub(crate) struct Stored {
    pub(crate) entries: Vec<Entry>,
    pub(crate) size: u64,
    /// Frames that ride with the commit: at most `inline_limit` bytes together.
    pub(crate) loose: Vec<Loose>,
    /// Stripes that must be durable first, each once.
    pub(crate) tickets: Vec<Ticket>,
    /// Plaintext of the chunks of a small object that were not stored by this request: see [`commit`].
    pub(crate) kept: HashMap<ChunkId, Bytes>,
    pub(crate) digests: Digests,
}

/// See [`Gateway::put_object`].
pub(crate) async fn put_object(gateway: &Gateway, request: PutRequest, body: Body) -> Result<PutDone, PutError> {
    let writer = gateway.meta.epoch();
    let under = Under::new(gateway, &request.bucket.owner, &request.encrypt).await?;
    let spec = Spec { under: under.clone(), writer, level: request.bucket.zstd_level, length: request.length };
    let source = client_body(gateway, request.length, body);
    let (storing, stored, checksums) = store(gateway, spec, source, request.claims).await?;
    let etag = under.etag(stored.digests.etag())?;
    let prepared = commit::prepare(&storing, stored, etag, checksums).await?;
    let (bucket, key) = (request.bucket.bucket_id(), request.key);
    let (condition, meta) = (request.condition, request.meta);
    let attached = Attached { nonce: random_bits()?, ..request.attached };
    let now_ms = commit::now_ms();
    commit::commit(&storing, prepared, |content, chunks| {
        let (key, condition, meta, attached) = (key.clone(), condition.clone(), meta.clone(), attached.clone());
        Command::CommitObject(CommitObject { bucket, key, condition, meta, content, chunks, now_ms, attached })
    })
    .await
}

/// A client's body, ended when it sends nothing for [`crate::engine::Config::body_idle`], and much sooner when its admission
/// keeps others waiting.
pub(crate) fn client_body(gateway: &Gateway, length: Option<u64>, body: Body) -> Source {
    let pace = Pace {
        idle: gateway.config.body_idle,
        admissions: gateway.budget.admissions(length).clone(),
        waited: Duration::ZERO,
        got: 0,
    };
    let bytes = stream::unfold(Some((body, pace)), |state| async move {
        let (mut body, mut pace) = state?;
        match pace.next(&mut body).await {
            Ok(None) => None,
            Ok(Some(bytes)) => Some((Ok(bytes), Some((body, pace)))),
            Err(error) => Some((Err(error.into()), None)),
        }
    });
    Box::pin(bytes)
}

/// How a client's body has been coming in.
struct Pace {
    idle: Duration,
    admissions: Bytesful,
    /// For how long it was waited for.
    waited: Duration,
    got: u64,
}

impl Pace {
    async fn next(&mut self, body: &mut Body) -> Result<Option<Bytes>, BodyError> {
        let patience = self.idle / IMPATIENCE;
        let mut silent = Duration::ZERO;
        loop {
            let slow = patience + Duration::from_secs(self.got / LEAST_RATE);
            if silent >= self.idle || (self.admissions.contended() && (silent >= patience || self.waited > slow)) {
                return Err(BodyError::Idle { seconds: silent.as_secs() });
            }
            let step = patience.min(self.idle - silent);
            let started = Instant::now();
            let next = tokio::time::timeout(step, body.next()).await;
            self.waited += started.elapsed();
            match next {
                Ok(Some(bytes)) => {
                    let bytes = bytes?;
                    self.got += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(None) => return Ok(None),
                Err(_) => silent += step,
            }
        }
    }
}

/// Reads a body, stores its chunks and verifies its digests. Nothing is visible yet.
pub(crate) async fn store(
    gateway: &Gateway,
    spec: Spec,
    source: Source,
    claims: Claims,
) -> Result<(Arc<Storing>, Stored, Vec<codec::effect::Checksum>), PutError> {
    if spec.length.is_some_and(|length| length > MAX_SINGLE) {
        return Err(PutError::TooLarge { limit: MAX_SINGLE });
    }
    let algorithms = digest::wanted(&claims);
    let admission = gateway.budget.admit(spec.length, gateway.config.patience).await.ok_or(PutError::Busy)?;
    let sizes = gateway.config.chunk_sizes.unwrap_or(ChunkSizes::for_object(spec.length.unwrap_or(u64::MAX)));
    let feed = Feed { source: source.fuse(), rest: Bytes::new(), got: 0, announced: spec.length };
    let storing = Arc::new(storing(gateway, spec, admission));
    let stored = ingest(&storing, feed, Chunker::new(sizes), Digester::new(algorithms)).await?;
    let checksums = stored.digests.verify(claims)?;
    Ok((storing, stored, checksums))
}

impl Stored {
    /// A body that consists of chunks that are stored.
    pub(crate) fn of_entries(entries: Vec<Entry>, size: u64) -> Stored {
        let digests = Digester::new([]).finish();
        Stored { entries, size, loose: Vec::new(), tickets: Vec::new(), kept: HashMap::new(), digests }
    }
}

/// What a request that stores chunks needs, with its admission.
pub(crate) fn storing(gateway: &Gateway, spec: Spec, admission: Held) -> Storing {
    let level = if spec.level == 0 { gateway.config.zstd_level } else { spec.level };
    Storing {
        meta: Arc::clone(&gateway.meta),
        cpu: gateway.cpu.clone(),
        pool: Arc::clone(&gateway.pool),
        domain: spec.under.chunks,
        nodes: spec.under.nodes,
        sealed: spec.under.sealed,
        writer: spec.writer,
        level,
        sabotage: gateway.config.sabotage.clone(),
        inline_limit: gateway.config.inline_limit,
        small: spec.length.is_some_and(|length| length <= SMALL),
        seen: Mutex::default(),
        _admission: admission,
    }
}

/// Receives a body in batches and holds it to its announced length.
struct Feed {
    source: Fuse<Source>,
    /// What of a long piece did not fit the batch.
    rest: Bytes,
    got: u64,
    announced: Option<u64>,
}

impl Feed {
    /// The next batch, of [`BATCH`] bytes except at the end; empty after the end.
    async fn batch(&mut self) -> Result<Vec<Bytes>, PutError> {
        let (mut batch, mut room) = (Vec::new(), BATCH);
        let mut small = BytesMut::new();
        while room > 0 {
            if self.rest.is_empty() {
                match self.source.next().await {
                    Some(bytes) => self.rest = self.count(bytes?)?,
                    None => break,
                }
            }
            let piece = self.rest.split_to(room.min(self.rest.len()));
            room -= piece.len();
            // A piece keeps the buffer that it was read into, 8 KiB at least: a client that sends byte by byte would make a
            // batch of 1 MiB hold 8 GiB.
            if piece.len() < SMALL_PIECE {
                small.extend_from_slice(&piece);
                continue;
            }
            if !small.is_empty() {
                batch.push(small.split().freeze());
            }
            batch.push(piece);
        }
        if !small.is_empty() {
            batch.push(small.freeze());
        }
        match self.announced {
            Some(announced) if batch.is_empty() && self.got < announced => {
                Err(PutError::Length { announced, got: self.got })
            }
            _ => Ok(batch),
        }
    }

    fn count(&mut self, bytes: Bytes) -> Result<Bytes, PutError> {
        self.got = self.got.saturating_add(bytes.len() as u64);
        match self.announced {
            Some(announced) if self.got > announced => Err(PutError::Length { announced, got: self.got }),
            None if self.got > MAX_SINGLE => Err(PutError::TooLarge { limit: MAX_SINGLE }),
            _ => Ok(bytes),
        }
    }
}

/// What comes out of the first two stages.
enum Cut {
    /// Chunks, and room for them unless the object is small.
    Group(Vec<Bytes>, Option<Held>),
    /// The body has ended.
    End(Digests, u64),
}

/// What comes out of the third.
enum Done {
    Group(Vec<Met>),
    End(Digests, u64),
}

/// A chunk of the object, in its order.
struct Met {
    entry: Entry,
    fate: Fate,
}

enum Fate {
    /// Its frame is new.
    New(Loose),
    /// It is in a stripe that is on its way.
    Coming(Ticket, Option<Bytes>),
    /// It is stored already; a small object keeps its plaintext in case that it is gone by the time of the commit.
    Hit(Option<Bytes>),
    /// This request has met it before.
    Again,
}

async fn ingest(storing: &Arc<Storing>, feed: Feed, chunker: Chunker, digester: Digester) -> Result<Stored, PutError> {
    let cutter = Cutter { storing: Arc::clone(storing), feed, work: Some((chunker, digester)), batch: None };
    let cuts = stream::try_unfold(cutter, |mut cutter| async move {
        let cut = cutter.next().await?;
        Ok::<_, PutError>(cut.map(|cut| (cut, cutter)))
    });
    let groups = cuts.map_ok(|cut| {
        let storing = Arc::clone(storing);
        async move {
            match cut {
                Cut::Group(chunks, room) => Ok(Done::Group(meet(&storing, chunks, room).await?)),
                Cut::End(digests, size) => Ok(Done::End(digests, size)),
            }
        }
    });
    let mut groups = std::pin::pin!(groups.try_buffered(GROUPS));
    let mut collected = Collected::default();
    let mut end = None;
    while let Some(done) = groups.try_next().await? {
        match done {
            Done::Group(group) => {
                for met in group {
                    collected.take(storing, met).await;
                }
            }
            Done::End(digests, size) => end = Some((digests, size)),
        }
    }
    let (digests, size) = end.ok_or_else(|| PutError::Internal("a body ended without its digests".to_owned()))?;
    let Collected { entries, loose, tickets, kept, .. } = collected;
    Ok(Stored { entries, size, loose, tickets, kept, digests })
}

/// The first two stages.
struct Cutter {
    storing: Arc<Storing>,
    feed: Feed,
    /// `None` after the end.
    work: Option<(Chunker, Digester)>,
    /// Received already.
    batch: Option<Vec<Bytes>>,
}

impl Cutter {
    /// The next group, then the end, then `None`.
    async fn next(&mut self) -> Result<Option<Cut>, PutError> {
        while let Some((chunker, digester)) = self.work.take() {
            let batch = match self.batch.take() {
                Some(batch) => batch,
                None => self.feed.batch().await?,
            };
            let last = batch.is_empty();
            let group = if last {
                let chunks = self
                    .storing
                    .cpu
                    .run(chunker.buffered(), move || chunker.finish().into_iter().map(copy_out).collect::<Vec<_>>());
                let chunks = chunks.await?;
                // One more turn, with a chunker that has nothing left, brings the end.
                if chunks.is_empty() {
                    let size = self.feed.got;
                    return Ok(Some(Cut::End(digester.finish(), size)));
                }
                self.work = Some((Chunker::new(ChunkSizes::LARGE), digester));
                self.batch = Some(Vec::new());
                chunks
            } else {
                let (chunker, digester, chunks) = self.cut(chunker, digester, batch).await?;
                self.work = Some((chunker, digester));
                chunks
            };
            if !group.is_empty() {
                let bytes = group.iter().map(Bytes::len).sum();
                let room = if self.storing.small { None } else { Some(self.storing.pool.room(bytes).await) };
                return Ok(Some(Cut::Group(group, room)));
            }
        }
        Ok(None)
    }

    /// Digests and cuts a batch, on two cores, while the next one is received.
    async fn cut(
        &mut self,
        mut chunker: Chunker,
        mut digester: Digester,
        batch: Vec<Bytes>,
    ) -> Result<(Chunker, Digester, Vec<Bytes>), PutError> {
        let cpu = self.storing.cpu.clone();
        let bytes = batch.iter().map(Bytes::len).sum();
        let pieces = batch.clone();
        let digested = cpu.run(bytes, move || {
            pieces.iter().for_each(|piece| digester.update(piece));
            digester
        });
        let chunked = cpu.run(bytes, move || {
            let mut chunks = Vec::new();
            for piece in batch {
                chunker.push(piece);
                chunks.extend(chunker.by_ref().map(copy_out));
            }
            (chunker, chunks)
        });
        let (digester, chunked, next) = tokio::join!(digested, chunked, self.feed.batch());
        let (chunker, chunks) = chunked?;
        self.batch = Some(next?);
        Ok((chunker, digester?, chunks))
    }
}

/// A chunk with memory of its own. The chunker's is a slice of a buffer that is as long as several chunks: one that waits
/// for its stripe would pin all of it, which nobody would have counted, and make the chunker take another buffer.
fn copy_out(chunk: Bytes) -> Bytes {
    Bytes::copy_from_slice(&chunk)
}

/// The third stage: names chunks, looks them up, and encodes those that nobody has.
async fn meet(storing: &Arc<Storing>, chunks: Vec<Bytes>, room: Option<Held>) -> Result<Vec<Met>, PutError> {
    let bytes = chunks.iter().map(Bytes::len).sum();
    let domain = Arc::clone(&storing.domain);
    let named = storing.cpu.run(bytes, move || {
        let name = |chunk: Bytes| (codec::frame::chunk_id(&domain.chunk_key, &chunk), chunk);
        chunks.into_iter().map(name).collect::<Vec<_>>()
    });
    let named = named.await?;
    let mut fates = look_up(storing, &named).await?;
    let wanted: Vec<usize> = (0..named.len()).filter(|index| fates[*index].is_none()).collect();
    let plains = wanted.iter().map(|index| named[*index].clone()).collect();
    let mut frames = encode_frames(storing, plains).await?;
    let mut room = room;
    if let Some(room) = &mut room {
        room.shrink(frames.iter().map(|frame| frame.frame.len()).sum());
    }
    for (index, frame) in wanted.into_iter().zip(frames.drain(..)) {
        let room = room.as_mut().map(|room| room.split(frame.frame.len()));
        fates[index] = Some(Fate::New(Loose { frame, room }));
    }
    let met = named.into_iter().zip(fates).filter_map(|((id, chunk), fate)| {
        let entry = Entry { id, len: chunk.len() as u64, leaf: true };
        fate.map(|fate| Met { entry, fate })
    });
    Ok(met.collect())
}

/// What is to become of each chunk; `None`: it is to be encoded.
async fn look_up(storing: &Storing, named: &[(ChunkId, Bytes)]) -> Result<Vec<Option<Fate>>, PutError> {
    let keep = |chunk: &Bytes| storing.small.then(|| chunk.clone());
    let mut fates: Vec<Option<Fate>> = Vec::with_capacity(named.len());
    {
        let mut seen = storing.seen.lock().unwrap_or_else(PoisonError::into_inner);
        fates.extend(named.iter().map(|(id, _)| (!seen.insert(*id)).then_some(Fate::Again)));
    }
    for (fate, (id, chunk)) in fates.iter_mut().zip(named).filter(|(fate, _)| fate.is_none()) {
        *fate = storing.pool.find(id).map(|ticket| Fate::Coming(ticket, keep(chunk)));
    }
    let unknown: Vec<usize> = (0..named.len()).filter(|index| fates[*index].is_none()).collect();
    if unknown.is_empty() {
        return Ok(fates);
    }
    let ids: Vec<ChunkId> = unknown.iter().map(|index| named[*index].0).collect();
    let hits = storing.meta.find_chunks(storing.domain.id, &ids).await?;
    for (index, _) in unknown.into_iter().zip(hits).filter(|(_, hit)| hit.is_some()) {
        fates[index] = Some(Fate::Hit(keep(&named[index].1)));
    }
    Ok(fates)
}

/// Encodes leaf chunks.
pub(crate) async fn encode_frames(
    storing: &Storing,
    chunks: Vec<(ChunkId, Bytes)>,
) -> Result<Vec<StripeFrame>, PutError> {
    if chunks.is_empty() {
        return Ok(Vec::new());
    }
    let (domain, cpu) = (Arc::clone(&storing.domain), &storing.cpu);
    // Under load the fastest level (section 4 of the design: throughput first, restriping can compress better later).
    let level = if cpu.loaded() { storing.level.min(1) } else { storing.level };
    let plain = |(id, bytes)| Plain { id, bytes, verify: cpu.picked() };
    let plains: Vec<Plain> = chunks.into_iter().map(plain).collect();
    let bytes = plains.iter().map(|plain| plain.bytes.len()).sum();
    let sabotage = storing.sabotage.clone();
    let how = storing.how(level);
    let work = move || encode::encode_all(&domain, how, &plains, &sabotage).map(|frames| (frames, plains));
    let encoded = cpu.run(bytes, work);
    let (frames, plains) = encoded.await?.map_err(|error| PutError::Internal(error.to_string()))?;
    let frame = |(frame, plain): (Bytes, Plain)| StripeFrame {
        id: plain.id,
        domain: storing.domain.id,
        plain_len: plain.bytes.len() as u32,
        is_manifest: false,
        children: Vec::new(),
        frame,
    };
    Ok(frames.into_iter().zip(plains).map(frame).collect())
}

/// The object so far.
#[derive(Default)]
struct Collected {
    entries: Vec<Entry>,
    loose: Vec<Loose>,
    loose_bytes: usize,
    /// The frames are more than may ride in the journal: they go to the pool.
    spilled: bool,
    tickets: Vec<Ticket>,
    kept: HashMap<ChunkId, Bytes>,
}

impl Collected {
    async fn take(&mut self, storing: &Arc<Storing>, met: Met) {
        let id = met.entry.id;
        self.entries.push(met.entry);
        match met.fate {
            Fate::Again => {}
            Fate::Hit(plain) => self.kept.extend(plain.map(|plain| (id, plain))),
            Fate::Coming(ticket, plain) => {
                add_ticket(&mut self.tickets, ticket);
                self.kept.extend(plain.map(|plain| (id, plain)));
            }
            Fate::New(loose) => {
                self.loose_bytes += loose.frame.frame.len();
                self.loose.push(loose);
                if self.spilled || self.loose_bytes > storing.inline_limit {
                    self.spilled = true;
                    spill(storing, &mut self.loose, &mut self.tickets).await;
                }
            }
        }
    }
}

/// Hands loose frames to the pool. A large object's have room already: this must not wait while the groups behind, which
/// hold room too, are not being polled. A small object's ask for it now; what is in work of it holds none.
pub(crate) async fn spill(storing: &Storing, loose: &mut Vec<Loose>, tickets: &mut Vec<Ticket>) {
    for Loose { frame, room } in loose.drain(..) {
        let room = match room {
            Some(room) => room,
            None => storing.pool.room(frame.frame.len()).await,
        };
        add_ticket(tickets, storing.pool.add(storing.writer, frame, room));
    }
}

/// Keeps one ticket per stripe.
fn add_ticket(tickets: &mut Vec<Ticket>, ticket: Ticket) {
    if !tickets.iter().rev().any(|have| have.same(&ticket)) {
        tickets.push(ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each piece of a few bytes kept the 8 KiB that it was read into.
    #[tokio::test]
    async fn small_pieces_of_a_body_do_not_keep_their_buffers() {
        let buffer = Bytes::from(vec![7; 8192]);
        let pieces: Vec<_> = (0..100).map(|n| Ok(buffer.slice(n..n + 10))).chain([Ok(buffer.clone())]).collect();
        let source: Source = Box::pin(stream::iter(pieces));
        let mut feed = Feed { source: source.fuse(), rest: Bytes::new(), got: 0, announced: None };
        let batch = feed.batch().await.unwrap();
        assert_eq!(batch.iter().map(Bytes::len).collect::<Vec<_>>(), [1000, 8192]);
        let mine = buffer.as_ptr_range();
        assert!(!mine.contains(&batch[0].as_ptr()), "copied");
        assert!(feed.batch().await.unwrap().is_empty());
    }
}
