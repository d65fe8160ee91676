//! The one home of writing and reading a stripe, over any [`NodeClient`].
//!
//! Writing: every present shard is durable on a drive of its own before `Ok`; a drive that fails, is full or does not
//! answer in time is replaced first. What such a drive still writes later is an orphan like any other (R9). Reading: straight
//! from the shard's drive; when that fails, or takes too long, the same byte range is decoded from any k' others. No drive is
//! waited for without another being asked, and none for longer than [`ReadOptions::deadline`]. Inputs carry the root of this stripe and verified blocks (R1, R2); a frame that still does not
//! verify is decoded again from other inputs, so that one shard that went bad *before* it was sealed costs nothing.

use crate::client::{NodeClient, ReadError, Reserve, WRITE_DEADLINE, WriteError, in_time};
use bytes::Bytes;
use codec::erasure::Erasure;
use codec::id::{DriveId, ShardId, StripeId};
use codec::shard::ShardHeader;
use codec::stripe::{FramePlace, PackedStripe, StripeDescriptor};
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};
use std::ops::Range;
use std::pin::pin;
use std::time::Duration;

/// A stripe and where its shards lie.
#[derive(Clone, Debug)]
pub struct StripeLayout {
    /// What the stripe is.
    pub descriptor: StripeDescriptor,
    /// The drive of each shard index `0..k+m`; `None` where the stripe has no such shard, or nobody knows where it is.
    pub drives: Vec<Option<DriveId>>,
}

/// What [`write_stripe`] asks placement for.
#[derive(Clone, Copy, Debug)]
pub struct TargetsWanted<'a> {
    /// How many distinct drives.
    pub count: usize,
    /// Drives that hold, or are taking, a shard of this stripe already: not to be given again.
    pub used: &'a [DriveId],
    /// Drives that failed, or are full, for this stripe: not to be given again.
    pub failed: &'a [DriveId],
}

/// Placement: gives distinct drives, fewer than asked for when there are no more.
pub type Targets<'a> = dyn FnMut(TargetsWanted<'_>) -> Vec<DriveId> + Send + 'a;

/// Why a stripe was not written. What was written of it is an orphan, collected when its epoch is fenced (R9).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeWriteError {
    /// Placement has no drive left for every shard.
    #[error("no drive left for shard {shard}; last failure: {last:?}")]
    NoDrives {
        /// The shard's index.
        shard: u8,
        /// The last failure, if any drive was tried.
        last: Option<WriteError>,
    },
    /// No drive is left for a shard, and the last one that was tried is full.
    #[error("no space left for shard {shard}")]
    Full {
        /// The shard's index.
        shard: u8,
    },
    /// The stripe or its writer is refused, not a drive.
    #[error(transparent)]
    Refused(WriteError),
}

/// Why a range was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeReadError {
    /// Fewer good shards than the code needs.
    #[error("stripe {stripe}: {good} good shards of the {needed} needed; last failure: {last:?}")]
    TooFewShards {
        /// The stripe.
        stripe: StripeId,
        /// Shards that could be read.
        good: usize,
        /// Shards that are needed.
        needed: usize,
        /// The last failure.
        last: Option<ReadError>,
    },
    /// The range is outside the shard, or there is no such shard.
    #[error("range {start}..{end} is outside shard {shard}")]
    OutOfRange {
        /// The shard's index.
        shard: u8,
        /// First byte.
        start: u32,
        /// One past the last byte.
        end: u32,
    },
    /// Every way to read the frame gives bytes that do not verify as a frame.
    #[error("the frame at shard {shard}, offset {offset} does not verify")]
    BadFrame {
        /// The shard's index.
        shard: u8,
        /// Its offset in the shard's payload.
        offset: u32,
    },
}

/// How long a read from one drive may take: as long as one that tries hard to read a bad sector.
const READ_DEADLINE: Duration = Duration::from_secs(20);

/// How to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// A direct read that takes longer than this is raced by a reconstruction, and each of the reads that this needs by one
    /// from another drive. A drive that is known to be stalled is given no time ahead of the others.
    pub hedge_after: Duration,
    /// A read from one drive that takes longer has failed.
    pub deadline: Duration,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions { hedge_after: Duration::from_millis(500), deadline: READ_DEADLINE }
    }
}

/// Writes every present shard of `packed` to distinct drives, all at once, and returns where each lies, by index. A drive
/// that fails, is full or takes longer than [`WRITE_DEADLINE`] is replaced before this returns.
pub async fn write_stripe(
    client: &dyn NodeClient,
    packed: &PackedStripe,
    reserve: Reserve,
    targets: &mut Targets<'_>,
) -> Result<Vec<Option<DriveId>>, StripeWriteError> {
    write_stripe_within(client, packed, reserve, targets, WRITE_DEADLINE).await
}

/// [`write_stripe`] with another time that each shard's write may take.
pub async fn write_stripe_within(
    client: &dyn NodeClient,
    packed: &PackedStripe,
    reserve: Reserve,
    targets: &mut Targets<'_>,
    limit: Duration,
) -> Result<Vec<Option<DriveId>>, StripeWriteError> {
    let mut waiting: Vec<u8> =
        (0u8..).zip(&packed.shards).filter(|(_, shard)| shard.is_some()).map(|(index, _)| index).collect();
    let mut placed: Vec<Option<DriveId>> = vec![None; packed.shards.len()];
    let (mut used, mut failed): (Vec<DriveId>, Vec<DriveId>) = (Vec::new(), Vec::new());
    let mut last = None;
    let mut writing = FuturesUnordered::new();
    loop {
        if !waiting.is_empty() {
            let wanted = TargetsWanted { count: waiting.len(), used: &used, failed: &failed };
            let mut given = targets(wanted);
            // Placement that gives a drive twice would put two shards at one risk.
            given.retain(|drive| !failed.contains(drive) && !used.contains(drive));
            given.dedup();
            for drive in given {
                let Some(index) = waiting.pop() else { break };
                if used.contains(&drive) {
                    waiting.push(index);
                    continue;
                }
                used.push(drive);
                writing.push(write_one(client, packed, (index, drive), reserve, limit));
            }
            if let Some(&shard) = waiting.first() {
                return Err(match last {
                    Some(WriteError::Full { .. }) => StripeWriteError::Full { shard },
                    last => StripeWriteError::NoDrives { shard, last },
                });
            }
        }
        let Some((index, drive, result)) = writing.next().await else { return Ok(placed) };
        match result {
            Ok(()) => {
                if let Some(slot) = placed.get_mut(usize::from(index)) {
                    *slot = Some(drive);
                }
            }
            Err(
                error @ (WriteError::Fenced
                | WriteError::TooLarge { .. }
                | WriteError::Malformed(_)
                | WriteError::OutOfOrder { .. }
                | WriteError::NotFreeable(_)),
            ) => return Err(StripeWriteError::Refused(error)),
            Err(error) => {
                tracing::warn!(%drive, stripe = %packed.descriptor.id, index, %error, "shard not written; trying another drive");
                used.retain(|d| *d != drive);
                failed.push(drive);
                waiting.push(index);
                last = Some(error);
            }
        }
    }
}

async fn write_one(
    client: &dyn NodeClient,
    packed: &PackedStripe,
    (index, drive): (u8, DriveId),
    reserve: Reserve,
    limit: Duration,
) -> (u8, DriveId, Result<(), WriteError>) {
    let payload = packed.shards.get(usize::from(index)).cloned().flatten().unwrap_or_default();
    let header = ShardHeader { descriptor: packed.descriptor.clone(), index };
    (index, drive, in_time(drive, limit, client.write_shard(drive, header, payload, reserve)).await)
}

/// Reads `range` of a shard's payload: directly, or, if that fails or is slower than `options.hedge_after`, decoded from
/// the same range of any others.
pub async fn read_range(
    client: &dyn NodeClient,
    layout: &StripeLayout,
    shard: u8,
    range: Range<u32>,
    options: ReadOptions,
) -> Result<Bytes, StripeReadError> {
    let reader = Reader::new(client, layout, (shard, range), options)?;
    if reader.range.is_empty() {
        return Ok(Bytes::new());
    }
    let direct = pin!(reader.read_input(shard, shard));
    let ahead = if reader.is_stalled(shard) { Duration::ZERO } else { options.hedge_after };
    let pause = pin!(tokio::time::sleep(ahead));
    match select(direct, pause).await {
        Either::Left((Ok(bytes), _)) => Ok(bytes),
        Either::Left((Err(error), _)) => reader.reconstruct(&[], Some(error)).await,
        Either::Right(((), direct)) => {
            let decoded = pin!(reader.reconstruct(&[], None));
            match select(direct, decoded).await {
                Either::Left((Ok(bytes), _)) => Ok(bytes),
                Either::Left((Err(_), decoded)) => decoded.await,
                Either::Right((Ok(bytes), _)) => Ok(bytes),
                Either::Right((Err(error), direct)) => direct.await.map_err(|_| error),
            }
        }
    }
}

/// Reads a frame, `len` bytes at `place`, and verifies its header and the hash of its stored bytes. Bytes that do not
/// verify although their blocks did are decoded again without the shard that gave them, and then without one input after
/// the other.
pub async fn read_frame(
    client: &dyn NodeClient,
    layout: &StripeLayout,
    place: FramePlace,
    len: u32,
    options: ReadOptions,
) -> Result<Bytes, StripeReadError> {
    let FramePlace { shard, offset } = place;
    let end = offset.checked_add(len);
    let range = offset..end.ok_or(StripeReadError::OutOfRange { shard, start: offset, end: u32::MAX })?;
    let bytes = read_range(client, layout, shard, range.clone(), options).await?;
    let good = |bytes: &Bytes| codec::frame::verify_stored(bytes).is_ok();
    if good(&bytes) {
        return Ok(bytes);
    }
    tracing::warn!(stripe = %layout.descriptor.id, shard, offset, "a frame does not verify though its blocks do");
    let reader = Reader::new(client, layout, (shard, range), options)?;
    // First without the shard itself only, then without one other as well.
    let others = reader.candidates();
    let excluded = std::iter::once(Vec::new()).chain(others.iter().map(|other| vec![*other]));
    for without in excluded {
        match reader.reconstruct(&without, None).await {
            Ok(bytes) if good(&bytes) => return Ok(bytes),
            Ok(_) => {}
            Err(_) if without.is_empty() => break,
            Err(_) => {}
        }
    }
    Err(StripeReadError::BadFrame { shard, offset })
}

/// One request for a range of one shard.
struct Reader<'a> {
    client: &'a dyn NodeClient,
    layout: &'a StripeLayout,
    root: [u8; 32],
    shard: u8,
    range: Range<u32>,
    options: ReadOptions,
}

impl<'a> Reader<'a> {
    fn new(
        client: &'a dyn NodeClient,
        layout: &'a StripeLayout,
        (shard, range): (u8, Range<u32>),
        options: ReadOptions,
    ) -> Result<Reader<'a>, StripeReadError> {
        let inside = layout.descriptor.is_present(shard)
            && range.start <= range.end
            && range.end <= layout.descriptor.shard_len(shard);
        if !inside {
            return Err(StripeReadError::OutOfRange { shard, start: range.start, end: range.end });
        }
        Ok(Reader { client, layout, root: layout.descriptor.root(), shard, range, options })
    }

    fn is_stalled(&self, index: u8) -> bool {
        let drive = self.layout.drives.get(usize::from(index)).copied().flatten();
        drive.is_some_and(|drive| self.client.is_stalled(drive))
    }

    /// The shards that exist, other than the wanted one; data first, because they need no arithmetic, and those on drives that
    /// are stalled last.
    fn candidates(&self) -> Vec<u8> {
        let descriptor = &self.layout.descriptor;
        let all = descriptor.data_present().into_iter().chain(descriptor.parity_present());
        let (last, mut first): (Vec<u8>, Vec<u8>) =
            all.filter(|index| *index != self.shard).partition(|index| self.is_stalled(*index));
        first.extend(last);
        first
    }

    /// Reads this request's range of shard `index`, as much of it as that shard has.
    async fn read_input(&self, index: u8, wanted: u8) -> Result<Bytes, ReadError> {
        let len = self.layout.descriptor.shard_len(index);
        let range = self.range.start.min(len)..self.range.end.min(len);
        if range.is_empty() && index != wanted {
            // A shorter shard is zeros from its end on: known without reading.
            return Ok(Bytes::new());
        }
        let drive = self.layout.drives.get(usize::from(index)).copied().flatten().ok_or(ReadError::NotFound)?;
        let whole = range == (0..len);
        let shard = ShardId { stripe: self.layout.descriptor.id, index };
        let expected = (range.end - range.start) as usize;
        let limit = self.options.deadline;
        let reading = tokio::time::timeout(limit, self.client.read_shard(drive, shard, self.root, range));
        let bytes = reading.await.unwrap_or_else(|_| {
            let reason = format!("no answer within {} ms", limit.as_millis());
            Err(ReadError::DriveFailed { drive, reason })
        })?;
        if bytes.len() != expected || (whole && self.layout.descriptor.check_shard(index, &bytes).is_err()) {
            return Err(ReadError::WrongStripe);
        }
        Ok(bytes)
    }

    /// Decodes the range from others than the wanted shard and those in `without`. Of two drives that hang one would otherwise
    /// be what the other is to be replaced by: while too few have answered, one more is asked each [`ReadOptions::hedge_after`].
    async fn reconstruct(&self, without: &[u8], first: Option<ReadError>) -> Result<Bytes, StripeReadError> {
        let descriptor = &self.layout.descriptor;
        let needed = descriptor.data_present().len();
        let mut candidates = self.candidates().into_iter().filter(|index| !without.contains(index));
        let mut inputs: Vec<(u8, Bytes)> = Vec::with_capacity(needed);
        let mut last = first;
        let mut reading = FuturesUnordered::new();
        let mut more = 0;
        while inputs.len() < needed {
            while inputs.len() + reading.len() < needed + more {
                let Some(index) = candidates.next() else { break };
                reading.push(async move { (index, self.read_input(index, self.shard).await) });
            }
            match tokio::time::timeout(self.options.hedge_after, reading.next()).await {
                Ok(Some((index, Ok(bytes)))) => inputs.push((index, bytes)),
                Ok(Some((_, Err(error)))) => last = Some(error),
                Err(_) => more += 1,
                Ok(None) => {
                    let (stripe, good) = (descriptor.id, inputs.len());
                    return Err(StripeReadError::TooFewShards { stripe, good, needed, last });
                }
            }
        }
        self.decode(inputs, needed, last)
    }

    fn decode(
        &self,
        inputs: Vec<(u8, Bytes)>,
        needed: usize,
        last: Option<ReadError>,
    ) -> Result<Bytes, StripeReadError> {
        let descriptor = &self.layout.descriptor;
        let len = (self.range.end - self.range.start) as usize;
        let borrowed: Vec<(u8, &[u8])> = inputs.iter().map(|(index, bytes)| (*index, bytes.as_ref())).collect();
        let decoded =
            Erasure::new(descriptor.geometry).reconstruct(&borrowed, descriptor.data_absent(), &[self.shard], len);
        let too_few = StripeReadError::TooFewShards { stripe: descriptor.id, good: inputs.len(), needed, last };
        let bytes = decoded.ok().and_then(|mut shards| shards.pop()).map(Bytes::from).ok_or(too_few.clone())?;
        // The output as well as the inputs (R2), as far as a hash covers it; a range is verified by its frame's hash.
        let whole = self.range == (0..descriptor.shard_len(self.shard));
        if whole && descriptor.check_shard(self.shard, &bytes).is_err() {
            return Err(too_few);
        }
        Ok(bytes)
    }
}
