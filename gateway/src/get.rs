//! The GET path: manifest -> the leaves of a range -> places -> frames -> verified bytes, in order.
//!
//! Invariants:
//! * Every byte that comes out was decoded from a frame whose plaintext has the chunk id that the manifest names; reading
//!   around lost and damaged shards is behind [`MetadataClient::read_frame`].
//! * A stream gives exactly the bytes of its range, or ends with an error: never a short success.
//! * The chunk that the client waits for is fetched in any case; others only while there is room to read ahead.

use crate::budget::{Bytesful, Held};
use crate::cpu::Cpu;
use crate::encode;
use crate::engine::{Gateway, ObjectStream};
use crate::error::GetError;
use bytes::Bytes;
use codec::effect::Content;
use codec::id::ChunkId;
use codec::manifest::{Entry, MAX_DEPTH, Manifest};
use futures::Stream;
use metadata::client::{FrameReadError, MetadataClient};
use metadata::keys::Domain;
use metadata::lookup::Located;
use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use storage_node::sabotage::SabotageSet;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Leaves that are looked up at once.
const LOOKUP: usize = 16;

/// A task that ends with its owner.
struct Owned<T>(JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a task fetches, and the task.
type Pumped = (mpsc::Receiver<Result<Bytes, GetError>>, Owned<()>);

/// The bytes of a range. After an error it has ended.
pub struct ByteStream {
    first: Option<Bytes>,
    rest: Option<Pumped>,
    remaining: u64,
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
            (self.rest, self.remaining) = (None, 0);
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
        return Ok(ObjectStream { range, size, bytes: ByteStream { first: None, rest: None, remaining: 0 } });
    }
    let reader = Reader {
        meta: Arc::clone(&gateway.meta),
        cpu: gateway.cpu.clone(),
        room: gateway.budget.reads().clone(),
        domain: gateway.meta.domain_by_id(content.domain_id()).await?,
        ahead: gateway.config.read_ahead.max(1),
        sabotage: gateway.config.sabotage.clone(),
    };
    let bytes = start(Arc::new(reader), root, range.clone()).await?;
    Ok(ObjectStream { range, size, bytes })
}

async fn start(reader: Arc<Reader>, root: Manifest, range: Range<u64>) -> Result<ByteStream, GetError> {
    let remaining = range.end - range.start;
    let mut leaves = Leaves::new(root, range);
    let leaf = leaves.next(&reader).await?.ok_or_else(|| GetError::Manifest("ends before its range".to_owned()))?;
    let first = reader.leaf(leaf).await?;
    if first.len() as u64 >= remaining {
        return Ok(ByteStream { first: Some(first), rest: None, remaining });
    }
    let (sender, receiver) = mpsc::channel(1);
    let task = tokio::spawn(pump(reader, leaves, sender));
    Ok(ByteStream { first: Some(first), rest: Some((receiver, Owned(task))), remaining })
}

type Fetched = (Result<Bytes, GetError>, Option<Held>);

/// Sends the leaves' bytes in order, and fetches ahead.
async fn pump(reader: Arc<Reader>, mut leaves: Leaves, sender: mpsc::Sender<Result<Bytes, GetError>>) {
    let mut ahead: VecDeque<Owned<Fetched>> = VecDeque::new();
    loop {
        if let Err(error) = fill(&reader, &mut leaves, &mut ahead).await {
            // What was fetched before it is good, and is sent first.
            drain(&mut ahead, &sender).await;
            let _gone = sender.send(Err(error)).await;
            return;
        }
        let Some(mut next) = ahead.pop_front() else { return };
        let (bytes, _room) = match (&mut next.0).await {
            Ok(fetched) => fetched,
            Err(error) => (Err(GetError::Unavailable(error.to_string())), None),
        };
        let failed = bytes.is_err();
        if sender.send(bytes).await.is_err() || failed {
            return;
        }
    }
}

async fn fill(reader: &Arc<Reader>, leaves: &mut Leaves, ahead: &mut VecDeque<Owned<Fetched>>) -> Result<(), GetError> {
    while ahead.len() < reader.ahead {
        let Some(leaf) = leaves.next(reader).await? else { break };
        // Twice: the frame, and what it decodes to.
        let room = reader.room.try_hold(2 * leaf.located.plain_len as usize);
        if room.is_none() && !ahead.is_empty() {
            leaves.put_back(leaf);
            break;
        }
        let reader = Arc::clone(reader);
        ahead.push_back(Owned(tokio::spawn(async move { (reader.leaf(leaf).await, room) })));
    }
    Ok(())
}

async fn drain(ahead: &mut VecDeque<Owned<Fetched>>, sender: &mpsc::Sender<Result<Bytes, GetError>>) {
    while let Some(mut next) = ahead.pop_front() {
        let Ok((Ok(bytes), _room)) = (&mut next.0).await else { return };
        if sender.send(Ok(bytes)).await.is_err() {
            return;
        }
    }
}

/// A leaf of the range, and where it lies.
struct Leaf {
    located: Located,
    /// Which of its bytes belong to the range.
    part: Range<usize>,
}

/// What it takes to read the chunks of one object.
struct Reader {
    meta: Arc<dyn MetadataClient>,
    cpu: Cpu,
    room: Bytesful,
    domain: Arc<Domain>,
    ahead: usize,
    sabotage: SabotageSet,
}

impl Reader {
    async fn leaf(&self, leaf: Leaf) -> Result<Bytes, GetError> {
        let bytes = self.chunk(&leaf.located).await?;
        match leaf.part.end <= bytes.len() {
            true => Ok(bytes.slice(leaf.part)),
            false => Err(GetError::Manifest(format!("chunk {} is shorter than its entry", leaf.located.id))),
        }
    }

    /// A chunk's plaintext.
    async fn chunk(&self, located: &Located) -> Result<Bytes, GetError> {
        let frame = match self.meta.read_frame(located).await {
            Ok(frame) => frame,
            Err(error @ FrameReadError::Unknown(_)) => {
                tracing::error!(chunk = %located.id, "a manifest names a chunk that is not known");
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        let (domain, id, plain_len) = (Arc::clone(&self.domain), located.id, located.plain_len);
        let bytes = plain_len as usize;
        let sabotage = self.sabotage.clone();
        let decode = move || sabotage.decode(&frame, &encode::expect(&domain, id, plain_len));
        let decoded = self.cpu.run(bytes, decode).await?;
        decoded.map(Bytes::from).map_err(|error| {
            tracing::error!(chunk = %id, %error, "a stored frame does not decode");
            GetError::Damaged { chunk: id, reason: error.to_string() }
        })
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
struct Leaves {
    range: Range<u64>,
    /// By depth, what is left to visit: offset in the object, and entry.
    stack: Vec<VecDeque<(u64, Entry)>>,
    located: VecDeque<Leaf>,
}

impl Leaves {
    fn new(root: Manifest, range: Range<u64>) -> Leaves {
        let stack = vec![root.covering(range.clone()).collect()];
        Leaves { range, stack, located: VecDeque::new() }
    }

    fn put_back(&mut self, leaf: Leaf) {
        self.located.push_front(leaf);
    }

    async fn next(&mut self, reader: &Reader) -> Result<Option<Leaf>, GetError> {
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
