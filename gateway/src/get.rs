//! The GET path: manifest -> the leaves of a range -> places -> frames -> verified bytes, in order.
//!
//! Invariants:
//! * Every byte that comes out was decoded from a frame whose plaintext has the chunk id that the manifest names; reading
//!   around lost and damaged shards is behind [`metadata::client::MetadataClient::read_frame`].
//! * A stream gives exactly the bytes of its range, or ends with an error: never a short success.
//! * A GET waits for bytes of [`crate::budget::Reads`] only while it holds none. Whatever else it fetches, it fetches ahead
//!   while there is room.
//! * A chunk that its client does not take is dropped as soon as others wait, and read again when the client goes on. So
//!   five hundred slow clients cost some reading twice, but no memory, and nobody his turn.
//! * What was handed out can't be dropped. It is either lent, and counted until the connection has sent it, or a copy of
//!   [`PIECE`] bytes.

use crate::budget::{Bytesful, Held, Reads};
use crate::engine::{Gateway, ObjectStream};
use crate::error::GetError;
use crate::leaves::{Leaf, Leaves, Reader};
use crate::protect::{CustomerKey, Under};
use bytes::Bytes;
use codec::effect::Content;
use codec::manifest::Manifest;
use futures::Stream;
use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use storage_node::trace;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Bytes that are handed out at once when there is no room to lend a chunk.
const PIECE: usize = 64 << 10;
/// For how long a chunk is kept for its client while others wait for room. Short: with it, the turn of somebody who waits
/// behind hundreds of slow clients comes within seconds. Not shorter: a client on a fast line takes its next piece in less.
const KEPT: Duration = Duration::from_millis(100);
/// A client that has taken nothing for so many times [`crate::engine::Config::patience`] is ended if others wait for its
/// place. A slow one on a long line takes megabytes at once, and then nothing for half a minute.
const STALLED: u32 = 3;

/// A task that ends with its owner.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Sender = mpsc::Sender<Result<Bytes, GetError>>;

/// What a task fetches, and the task.
type Pumped = (mpsc::Receiver<Result<Bytes, GetError>>, Owned<()>);

/// The bytes of a range. After an error it has ended.
pub struct ByteStream {
    first: Option<Bytes>,
    rest: Option<Pumped>,
    remaining: u64,
    /// Its place among the GETs that run, unless the task has it: a client that stops reading must not keep it.
    place: Held,
}

impl Stream for ByteStream {
    type Item = Result<Bytes, GetError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = match (self.first.take(), &mut self.rest) {
            (Some(first), _) => Some(Ok(first)),
            (None, Some((rest, _))) => match rest.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(next) => next,
            },
            (None, None) => None,
        };
        let next = match next {
            Some(Ok(bytes)) => {
                self.remaining = self.remaining.saturating_sub(bytes.len() as u64);
                Some(Ok(bytes))
            }
            None if self.remaining > 0 => Some(Err(GetError::Unavailable("the read was ended".to_owned()))),
            other => other,
        };
        if !matches!(next, Some(Ok(_))) {
            (self.rest, self.remaining, self.place) = (None, 0, Held::nothing());
        }
        Poll::Ready(next)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.remaining > 0), None)
    }
}

/// See [`Gateway::get`].
pub(crate) async fn open(
    gateway: &Gateway,
    content: &Content,
    range: Option<Range<u64>>,
    key: Option<&CustomerKey>,
) -> Result<ObjectStream, GetError> {
    let size = content.size;
    let range = range.unwrap_or(0..size);
    let whole = range == (0..size);
    if !whole && (range.start >= range.end || range.end > size) {
        return Err(GetError::Range { start: range.start, end: range.end, size });
    }
    let root = Manifest::parse(&content.manifest).map_err(|error| GetError::Manifest(error.to_string()))?;
    if root.total_len() != size {
        return Err(GetError::Manifest(format!("covers {} bytes of {size}", root.total_len())));
    }
    if range.is_empty() {
        let bytes = ByteStream { first: None, rest: None, remaining: 0, place: Held::nothing() };
        return Ok(ObjectStream { range, size, bytes });
    }
    let under = Under::of_content(gateway, content, key).await?;
    let (reads, patience) = (gateway.budget.reads(), gateway.config.patience);
    let place = reads.places.hold_within(1, patience).await.ok_or(GetError::Busy)?;
    let reader = Reader {
        meta: Arc::clone(&gateway.meta),
        cpu: gateway.cpu.clone(),
        domain: under.chunks,
        nodes: under.nodes,
        sabotage: gateway.config.sabotage.clone(),
    };
    let pump = Pump {
        reader: Arc::new(reader),
        reads: reads.clone(),
        most_ahead: gateway.config.read_ahead,
        patience,
        leaves: Leaves::new(root, range.clone()),
        ahead: VecDeque::new(),
        failed: None,
    };
    let bytes = start(pump, place, range.end - range.start).await?;
    Ok(ObjectStream { range, size, bytes })
}

async fn start(mut pump: Pump, place: Held, remaining: u64) -> Result<ByteStream, GetError> {
    let missing = || GetError::Manifest("ends before its range".to_owned());
    let leaf = pump.leaves.next(&pump.reader).await?.ok_or_else(missing)?;
    let held = pump.reads.chunks.hold_within(leaf.cost(), pump.patience).await.ok_or(GetError::Busy)?;
    let chunk = fetch(&pump.reader, &leaf, held).await?;
    if chunk.bytes.len() as u64 >= remaining {
        match handed(&chunk.bytes, chunk.bytes.len(), &pump.reads.lent) {
            Some(first) => return Ok(ByteStream { first: Some(first), rest: None, remaining, place }),
            None => pump.leaves = Leaves::none(),
        }
    }
    let (sender, receiver) = mpsc::channel(1);
    let task = tokio::spawn(trace::carry(async move {
        let _place = place;
        pump.run(leaf, chunk, sender).await;
    }));
    Ok(ByteStream { first: None, rest: Some((receiver, Owned(task))), remaining, place: Held::nothing() })
}

/// Bytes of the range, in memory.
struct Chunk {
    bytes: Bytes,
    held: Held,
}

/// Fetches a leaf under what is held for it ([`Leaf::cost`]).
async fn fetch(reader: &Reader, leaf: &Leaf, mut held: Held) -> Result<Chunk, GetError> {
    let bytes = reader.leaf(leaf).await?;
    held.shrink(bytes.len());
    Ok(Chunk { bytes, held })
}

/// A chunk that is counted until its last slice is gone, wherever that is.
struct Lent {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// All of `bytes` to hand out, which are what is left of a chunk of `whole` bytes: if that can be lent, or is little anyway.
/// Any slice keeps all of its chunk in memory.
fn handed(bytes: &Bytes, whole: usize, lent: &Bytesful) -> Option<Bytes> {
    if whole <= PIECE {
        return Some(bytes.clone());
    }
    let held = lent.try_hold(whole)?;
    Some(Bytes::from_owner(Lent { bytes: bytes.clone(), _held: held }))
}

/// Nobody reads any more, or who does has to make room.
struct Gone;

/// Sends the leaves' bytes in order, and fetches ahead.
struct Pump {
    reader: Arc<Reader>,
    reads: Reads,
    most_ahead: usize,
    patience: Duration,
    leaves: Leaves,
    ahead: VecDeque<(Leaf, Owned<Result<Chunk, GetError>>)>,
    /// Why there are no more leaves. What was fetched before it is good, and is sent first.
    failed: Option<GetError>,
}

impl Pump {
    async fn run(mut self, first: Leaf, chunk: Chunk, sender: Sender) {
        let mut next = Some((first, chunk));
        while let Some((leaf, chunk)) = next {
            self.fill().await;
            let Ok(()) = self.give(&leaf, chunk, &sender).await else { return };
            next = match self.next().await {
                Ok(next) => next,
                Err(error) => {
                    let _gone = sender.send(Err(error)).await;
                    return;
                }
            };
        }
    }

    /// Begins to fetch what comes next, while there is room.
    async fn fill(&mut self) {
        while self.failed.is_none() && self.ahead.len() < self.most_ahead && !self.reads.chunks.contended() {
            let leaf = match self.leaves.next(&self.reader).await {
                Ok(Some(leaf)) => leaf,
                Ok(None) => return,
                Err(error) => {
                    self.failed = Some(error);
                    return;
                }
            };
            let Some(held) = self.reads.chunks.try_hold(leaf.cost()) else { return self.leaves.put_back(leaf) };
            let (reader, fetched) = (Arc::clone(&self.reader), leaf.clone());
            let task = tokio::spawn(trace::carry(async move { fetch(&reader, &fetched, held).await }));
            self.ahead.push_back((leaf, Owned(task)));
        }
    }

    /// The next chunk.
    async fn next(&mut self) -> Result<Option<(Leaf, Chunk)>, GetError> {
        if let Some((leaf, mut task)) = self.ahead.pop_front() {
            let fetched = (&mut task.0).await;
            let ended = |error: tokio::task::JoinError| Err(GetError::Unavailable(error.to_string()));
            return Ok(Some((leaf, fetched.unwrap_or_else(ended)?)));
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let Some(leaf) = self.leaves.next(&self.reader).await? else { return Ok(None) };
        let chunk = self.fetch(&leaf).await?;
        Ok(Some((leaf, chunk)))
    }

    /// Waits for room, holding none, and fetches.
    async fn fetch(&self, leaf: &Leaf) -> Result<Chunk, GetError> {
        let held = self.reads.chunks.hold(leaf.cost()).await;
        fetch(&self.reader, leaf, held).await
    }

    /// Hands a chunk out as the client takes it.
    async fn give(&mut self, leaf: &Leaf, chunk: Chunk, sender: &Sender) -> Result<(), Gone> {
        let len = chunk.bytes.len();
        let (mut given, mut kept) = (0, Some(chunk));
        while given < len {
            let permit = self.taken(&mut kept, sender).await?;
            let chunk = match kept.take() {
                Some(chunk) => chunk,
                None => match self.fetch(leaf).await {
                    Ok(Chunk { bytes, held }) => Chunk { bytes: bytes.slice(given.min(bytes.len())..), held },
                    Err(error) => {
                        permit.send(Err(error));
                        return Err(Gone);
                    }
                },
            };
            let Chunk { mut bytes, held } = chunk;
            let piece = handed(&bytes, len, &self.reads.lent)
                .unwrap_or_else(|| Bytes::copy_from_slice(&bytes.split_to(PIECE.min(bytes.len()))));
            given += piece.len();
            permit.send(Ok(piece));
            kept = Some(Chunk { bytes, held });
        }
        Ok(())
    }

    /// Waits until the client has taken what it was given before. Drops what is kept for it if others wait for room.
    async fn taken<'a>(
        &mut self,
        kept: &mut Option<Chunk>,
        sender: &'a Sender,
    ) -> Result<mpsc::Permit<'a, Result<Bytes, GetError>>, Gone> {
        let since = Instant::now();
        loop {
            match tokio::time::timeout(KEPT, sender.reserve()).await {
                Ok(permit) => return permit.map_err(|_| Gone),
                Err(_) if self.reads.places.contended() && since.elapsed() >= STALLED * self.patience => {
                    return Err(Gone);
                }
                Err(_) if self.reads.chunks.contended() => {
                    *kept = None;
                    while let Some((leaf, _task)) = self.ahead.pop_back() {
                        self.leaves.put_back(leaf);
                    }
                }
                Err(_) => {}
            }
        }
    }
}
