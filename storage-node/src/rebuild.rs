//! Rebuilding: wanted shards of one stripe are computed from others, with one read, and written where they are told.
//!
//! Works over any [`NodeClient`], so the node that takes the shards reads its peers the way everybody else does.
//!
//! Invariants:
//! * Nothing is written that was not checked twice: every source against its hash in the descriptor, whole, and every
//!   result against its own (R2). A source's blocks may all verify and its bytes still be wrong, when they were wrong
//!   before they were sealed; one such input makes plausible garbage of every output.
//! * Nothing is deleted and nothing is replaced (R13). What an order that failed has written is an orphan.
//! * An order holds the shards that it makes, and of each source no more than one piece.

use crate::client::{NodeClient, ReadError, Reserve, WRITE_DEADLINE, in_time};
use crate::keep::{FindingKind, RebuildError, RebuildOrder, Rebuilt, ShardRef};
use crate::sabotage::{Sabotage, SabotageSet};
use bytes::Bytes;
use codec::erasure::Erasure;
use codec::id::{DriveId, ShardId};
use codec::shard::ShardHeader;
use codec::stripe::StripeDescriptor;
use futures::future::join_all;
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of each source that are held at a time.
const PIECE: u32 = 1 << 20;

/// How long a drive may take for one piece before another source is taken instead. A drive that retries a bad sector
/// answers within some ten seconds; repair has time, but must not hang on one drive for ever.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// How long a drive may take to verify what was written to it: it may have other questions to answer first.
const VERIFY_DEADLINE: Duration = Duration::from_secs(120);

/// A shard's index, and the drive that it is on.
type Place = (u8, DriveId);

/// Rebuilds what `order` wants. `Ok` means that every target is durable and was read back whole.
///
/// Where every wanted shard is among the sources, as when a drive is drained, only those are read; otherwise as many
/// sources as the stripe has data shards, in the order in which they are named. A source that fails, or does not
/// verify, is replaced by the next one.
pub async fn rebuild(peers: &dyn NodeClient, order: &RebuildOrder) -> Result<Rebuilt, RebuildError> {
    rebuild_under(peers, order, &SabotageSet::default()).await
}

/// [`rebuild`], with the steps that a test takes away.
pub(crate) async fn rebuild_under(
    peers: &dyn NodeClient,
    order: &RebuildOrder,
    sabotage: &SabotageSet,
) -> Result<Rebuilt, RebuildError> {
    check(order)?;
    let mut reading = Reading {
        peers,
        order,
        root: order.descriptor.root(),
        bad: Vec::new(),
        read: 0,
        pace: Pace { began: Instant::now(), per_drive: 0, rate: order.bytes_per_second },
    };
    let shards = loop {
        let chosen = reading.choose()?;
        if let Some(shards) = reading.pass(&chosen).await? {
            break shards;
        }
    };
    let read = reading.read;
    let written = write(peers, order, shards).await?;
    if !sabotage.is(Sabotage::RebuildVerify) {
        for (index, drive) in &order.targets {
            read_back(peers, &order.descriptor, (*index, *drive)).await?;
        }
    }
    Ok(Rebuilt { read, written })
}

/// An order comes from another process: what it says is checked before it is believed (R17).
fn check(order: &RebuildOrder) -> Result<(), RebuildError> {
    let malformed = |what| Err(RebuildError::Malformed(what));
    let descriptor = &order.descriptor;
    let width = usize::from(descriptor.width());
    let whole = descriptor.lengths.len() == width && descriptor.hashes.len() == width;
    if !whole || StripeDescriptor::parse(&descriptor.encode()).ok().as_ref() != Some(descriptor) {
        return malformed("the descriptor is no descriptor");
    }
    if order.targets.is_empty() {
        return malformed("no shard is wanted");
    }
    if !order.targets.iter().chain(&order.sources).all(|(index, _)| descriptor.is_present(*index)) {
        return malformed("the stripe does not have such a shard");
    }
    for (i, (index, drive)) in order.targets.iter().enumerate() {
        if order.targets[..i].iter().any(|(other, _)| other == index) {
            return malformed("a shard is wanted twice");
        }
        // Two shards of a stripe at one risk would count as two and be lost as two.
        let shares = |(other, on): &Place| on == drive && other != index;
        if order.targets.iter().any(shares) || order.sources.iter().any(shares) {
            return malformed("two shards of the stripe on one drive");
        }
    }
    Ok(())
}

/// Keeps what is read from one drive below the rate.
struct Pace {
    began: Instant,
    per_drive: u64,
    /// Bytes per second; 0: no limit.
    rate: u64,
}

impl Pace {
    async fn after(&mut self, bytes: u64) {
        self.per_drive = self.per_drive.saturating_add(bytes);
        let due = self.per_drive.saturating_mul(1_000_000).checked_div(self.rate).map(Duration::from_micros);
        if let Some(due) = due.and_then(|due| self.began.checked_add(due)) {
            tokio::time::sleep_until(due).await;
        }
    }
}

/// The reading half of an order.
struct Reading<'a> {
    peers: &'a dyn NodeClient,
    order: &'a RebuildOrder,
    root: [u8; 32],
    /// Sources that did not give what they should have.
    bad: Vec<(u8, DriveId, ReadError)>,
    read: u64,
    pace: Pace,
}

impl Reading<'_> {
    /// The sources of the next pass: those that were not bad so far, each index once.
    fn choose(&self) -> Result<Vec<Place>, RebuildError> {
        let mut good: Vec<Place> = Vec::new();
        let mut sources: Vec<&Place> = self.order.sources.iter().collect();
        // Each order would wait for it anew; as long as others will do it is not asked.
        sources.sort_by_key(|(_, drive)| self.peers.is_stalled(*drive));
        for (index, drive) in sources {
            let was_bad = self.bad.iter().any(|(i, d, _)| (i, d) == (index, drive));
            if !was_bad && good.iter().all(|(taken, _)| taken != index) {
                good.push((*index, *drive));
            }
        }
        let wanted = |place: &Place| self.order.targets.iter().any(|(index, _)| *index == place.0);
        if good.iter().filter(|place| wanted(place)).count() == self.order.targets.len() {
            good.retain(wanted);
            return Ok(good);
        }
        let needed = self.order.descriptor.data_present().len();
        if good.len() < needed {
            let stripe = self.order.descriptor.id;
            return Err(RebuildError::TooFewSources { stripe, good: good.len(), needed, bad: self.bad.clone() });
        }
        good.truncate(needed);
        Ok(good)
    }

    /// Reads the chosen sources once and computes the wanted shards. `None`: a source was bad, and is noted as such.
    async fn pass(&mut self, chosen: &[Place]) -> Result<Option<Vec<Bytes>>, RebuildError> {
        let descriptor = &self.order.descriptor;
        let len = descriptor.code_len();
        let mut decoding = Decoding::new(self.order, chosen);
        let mut start = 0;
        while start < len {
            let range = start..len.min(start.saturating_add(PIECE));
            let reads = chosen.iter().map(|place| read_piece(self.peers, descriptor, self.root, *place, range.clone()));
            let mut pieces = Vec::with_capacity(chosen.len());
            let found_bad = self.bad.len();
            for ((index, drive), piece) in chosen.iter().zip(join_all(reads).await) {
                match piece {
                    Ok(bytes) => pieces.push((*index, bytes)),
                    Err(error) => self.note_bad((*index, *drive), error),
                }
            }
            self.read += pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
            if self.bad.len() > found_bad {
                return Ok(None);
            }
            self.pace.after(u64::from(range.end - range.start)).await;
            decoding.add(&pieces, (range.end - range.start) as usize)?;
            // Arithmetic for a millisecond or two: others have their turn in between.
            tokio::task::yield_now().await;
            start = range.end;
        }
        let wrong: Vec<Place> = decoding.wrong_sources(chosen);
        for place in &wrong {
            // Every block of it verified, and it is not what the descriptor says: it was wrong before it was sealed.
            self.note_bad(*place, ReadError::Damaged { segment: 0, block: 0 });
        }
        if wrong.is_empty() { decoding.finish().map(Some) } else { Ok(None) }
    }

    fn note_bad(&mut self, (index, drive): Place, error: ReadError) {
        tracing::warn!(%drive, stripe = %self.order.descriptor.id, index, %error, "a source of a rebuild is not good");
        self.bad.push((index, drive, error));
    }
}

/// Reads as much of `range` as the shard has.
async fn read_piece(
    peers: &dyn NodeClient,
    descriptor: &StripeDescriptor,
    root: [u8; 32],
    (index, drive): Place,
    range: Range<u32>,
) -> Result<Bytes, ReadError> {
    let len = descriptor.shard_len(index);
    let range = range.start.min(len)..range.end.min(len);
    if range.is_empty() {
        // A shorter shard is zeros from its end on: known without reading.
        return Ok(Bytes::new());
    }
    let expected = (range.end - range.start) as usize;
    let shard = ShardId { stripe: descriptor.id, index };
    let read = tokio::time::timeout(READ_DEADLINE, peers.read_shard(drive, shard, root, range));
    let bytes = read.await.unwrap_or_else(|_| Err(late(drive, READ_DEADLINE)))?;
    if bytes.len() == expected { Ok(bytes) } else { Err(ReadError::Damaged { segment: 0, block: 0 }) }
}

/// The arithmetic of one pass.
struct Decoding<'a> {
    order: &'a RebuildOrder,
    erasure: Erasure,
    wanted: Vec<u8>,
    hashers: Vec<blake3::Hasher>,
    made: Vec<Vec<u8>>,
}

impl<'a> Decoding<'a> {
    fn new(order: &'a RebuildOrder, chosen: &[Place]) -> Decoding<'a> {
        Decoding {
            order,
            erasure: Erasure::new(order.descriptor.geometry),
            wanted: order.targets.iter().map(|(index, _)| *index).collect(),
            hashers: vec![blake3::Hasher::new(); chosen.len()],
            made: vec![Vec::new(); order.targets.len()],
        }
    }

    /// The next `len` bytes of every source, in the order of the chosen ones.
    fn add(&mut self, pieces: &[(u8, Bytes)], len: usize) -> Result<(), RebuildError> {
        for (hasher, (_, bytes)) in self.hashers.iter_mut().zip(pieces) {
            hasher.update(bytes);
        }
        let borrowed: Vec<(u8, &[u8])> = pieces.iter().map(|(index, bytes)| (*index, bytes.as_ref())).collect();
        let absent = self.order.descriptor.data_absent();
        let decoded = self.erasure.reconstruct(&borrowed, absent, &self.wanted, len);
        let decoded = decoded.map_err(|_| RebuildError::Inconsistent(self.order.descriptor.id))?;
        self.made.iter_mut().zip(decoded).for_each(|(made, piece)| made.extend_from_slice(&piece));
        Ok(())
    }

    /// The sources that are not, as a whole, what the descriptor says.
    fn wrong_sources(&self, chosen: &[Place]) -> Vec<Place> {
        let hashes = &self.order.descriptor.hashes;
        let is_wrong = |(place, hasher): &(&Place, &blake3::Hasher)| {
            hashes.get(usize::from(place.0)) != Some(hasher.finalize().as_bytes())
        };
        chosen.iter().zip(&self.hashers).filter(is_wrong).map(|(place, _)| *place).collect()
    }

    /// The wanted shards, each what the descriptor says (R2), and zeros where the code had more of it.
    fn finish(self) -> Result<Vec<Bytes>, RebuildError> {
        let descriptor = &self.order.descriptor;
        let mut shards = Vec::with_capacity(self.wanted.len());
        for (index, mut made) in self.wanted.into_iter().zip(self.made) {
            let len = descriptor.shard_len(index) as usize;
            let padded = made.get(len..).is_some_and(|rest| rest.iter().all(|b| *b == 0));
            made.truncate(len);
            if !padded || descriptor.check_shard(index, &made).is_err() {
                return Err(RebuildError::Inconsistent(descriptor.id));
            }
            shards.push(Bytes::from(made));
        }
        Ok(shards)
    }
}

/// Writes all targets at once, and waits for all of them: none may still be written when the answer is given.
async fn write(peers: &dyn NodeClient, order: &RebuildOrder, shards: Vec<Bytes>) -> Result<u64, RebuildError> {
    let written = shards.iter().map(|shard| shard.len() as u64).sum();
    let writes = order.targets.iter().zip(shards).map(|((index, drive), payload)| async move {
        let header = ShardHeader { descriptor: order.descriptor.clone(), index: *index };
        let write = peers.write_shard(*drive, header, payload, Reserve::Metadata);
        let result = in_time(*drive, WRITE_DEADLINE, write).await;
        result.map_err(|error| RebuildError::Target { index: *index, drive: *drive, error })
    });
    join_all(writes).await.into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(written)
}

/// Has the node that took a target verify it whole, from the medium: what was just written is in its page cache, which
/// would vouch for it whatever became of it below.
async fn read_back(
    peers: &dyn NodeClient,
    descriptor: &StripeDescriptor,
    (index, drive): Place,
) -> Result<(), RebuildError> {
    let shard = ShardRef { id: ShardId { stripe: descriptor.id, index }, root: descriptor.root() };
    let failed = |error| RebuildError::ReadBack { index, drive, error };
    let verified = tokio::time::timeout(VERIFY_DEADLINE, peers.verify_shards(drive, vec![shard])).await;
    let verified = verified.unwrap_or_else(|_| Err(late(drive, VERIFY_DEADLINE)));
    match verified.map_err(|error| failed(Some(error)))?.pop() {
        Some(Ok(())) => Ok(()),
        Some(Err(finding)) => {
            tracing::warn!(%drive, shard = %shard.id, ?finding, "a rebuilt shard does not verify");
            Err(failed(Some(match finding.kind {
                FindingKind::Missing => ReadError::NotFound,
                FindingKind::WrongGeneration => ReadError::WrongStripe,
                FindingKind::Unreadable | FindingKind::Unreachable => {
                    ReadError::DriveFailed { drive, reason: finding.detail }
                }
                FindingKind::Damaged | FindingKind::Misplaced | FindingKind::Unknown => {
                    ReadError::Damaged { segment: 0, block: 0 }
                }
            })))
        }
        None => Err(failed(None)),
    }
}

fn late(drive: DriveId, limit: Duration) -> ReadError {
    ReadError::DriveFailed { drive, reason: format!("no answer within {} s", limit.as_secs()) }
}
