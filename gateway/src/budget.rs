//! The bytes that requests may hold, and why waiting for them can't end in a deadlock.
//!
//! Half of [`crate::engine::Config::memory`] admits large bodies and a sixteenth small ones, a quarter is the stripe pool's
//! room ([`crate::stripe_pool`]), the rest is for reading ([`Reads`]).
//!
//! Invariants:
//! * A PUT takes its admission whole, before it reads a byte of its body, and never more of it later. Admission covers
//!   what the request may hold without getting anywhere: batches just received, and the chunker's tail.
//! * Only after that does it ask for room in the pool, chunk by chunk. Who holds room never waits for admission, and
//!   whatever room is held ends in a stripe that closes by itself: so room always comes back, and then admission.
//! * Small objects and large ones are admitted apart: a document does not queue behind somebody's backup.
//! * An admitted body that keeps others waiting without coming in is ended ([`crate::put::client_body`]): a few stalled
//!   clients would otherwise hold the whole share, and everybody up.
//! * A GET waits for bytes only while it holds none, and one that holds a chunk which its client does not take drops it as
//!   soon as others wait, and reads it again later ([`crate::get`]). So a client that stops reading keeps nobody from
//!   reading. Bytes that were handed to a connection can't be dropped: they have a share that nobody ever waits for.
//! * Reading and writing share nothing, and a copy opens its source before it is admitted: no circle.
//! * Nobody waits for admission longer than [`crate::engine::Config::patience`]. Nothing has been done for the request by
//!   then, and it is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An object up to this length counts as small: its plaintext is kept until the commit.
pub const SMALL: u64 = 1 << 20;
/// What a body that is not small may hold outside the pool: two batches of 1 MiB and the chunker's buffer, two largest
/// chunks.
const LARGE_HOLDS: usize = 10 << 20;
/// The least that makes sense: one large body, a stripe, and the longest chunk with its frame.
const LEAST: usize = 64 << 20;

/// Bytes that were granted. They return when this is dropped.
#[derive(Debug)]
pub struct Held {
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// No bytes.
    pub fn nothing() -> Held {
        Held { permit: None }
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            let surplus = permit.num_permits().saturating_sub(bytes);
            drop(permit.split(surplus));
        }
    }

    /// Takes `bytes` of it (or what there is) apart.
    pub fn split(&mut self, bytes: usize) -> Held {
        let permit = self.permit.as_mut().and_then(|permit| permit.split(bytes.min(permit.num_permits())));
        Held { permit }
    }

    /// The bytes held.
    pub fn bytes(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

/// A number of bytes, of which parts can be held. Those who wait are served in order.
#[derive(Clone, Debug)]
pub struct Bytesful {
    free: Arc<Semaphore>,
    capacity: usize,
    waiting: Arc<AtomicUsize>,
}

/// Counts one who waits, also when its future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bytesful {
    /// `capacity` bytes.
    pub fn new(capacity: usize) -> Bytesful {
        let capacity = capacity.min(u32::MAX as usize);
        Bytesful { free: Arc::new(Semaphore::new(capacity)), capacity, waiting: Arc::default() }
    }

    /// All of them, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Waits for `bytes`; for the whole capacity if they are more than that.
    pub async fn hold(&self, bytes: usize) -> Held {
        let count = u32::try_from(bytes.min(self.capacity)).unwrap_or(u32::MAX);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        // The semaphore is never closed; if it were, nothing would be bounded, but nothing would break either.
        Held { permit: Arc::clone(&self.free).acquire_many_owned(count).await.ok() }
    }

    /// Like [`Bytesful::hold`], but no longer than `patience`: then `None`.
    pub async fn hold_within(&self, bytes: usize, patience: Duration) -> Option<Held> {
        tokio::time::timeout(patience, self.hold(bytes)).await.ok()
    }

    /// Whether somebody waits for some.
    pub fn contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// `bytes` if they are free now.
    pub fn try_hold(&self, bytes: usize) -> Option<Held> {
        let count = u32::try_from(bytes).ok()?;
        Arc::clone(&self.free).try_acquire_many_owned(count).ok().map(|permit| Held { permit: Some(permit) })
    }
}

/// What reading may hold. Whatever a GET has beyond this is small: the pieces of [`crate::get`] that are on their way to the
/// connection, and the connection's own buffer.
#[derive(Clone, Debug)]
pub struct Reads {
    /// Chunks being read, with their frames, and chunks that wait for their client. Bytes.
    pub chunks: Bytesful,
    /// Chunks that were handed to a connection whole and are not sent yet. Bytes; only ever tried for.
    pub lent: Bytesful,
    /// GETs that run: not bytes but places.
    pub places: Bytesful,
}

/// The shares of the memory for requests.
#[derive(Debug)]
pub struct Budget {
    small: Bytesful,
    large: Bytesful,
    room: Bytesful,
    reads: Reads,
}

impl Budget {
    /// Divides `memory` bytes; at most `gets` GETs run at once.
    pub fn new(memory: usize, gets: usize) -> Budget {
        let part = memory.max(LEAST) / 16;
        Budget {
            small: Bytesful::new(part),
            large: Bytesful::new(8 * part),
            room: Bytesful::new(4 * part),
            reads: Reads {
                chunks: Bytesful::new(2 * part),
                lent: Bytesful::new(part),
                places: Bytesful::new(gets.max(1)),
            },
        }
    }

    /// Admits a body of `length` bytes, if that is known; `None` if that took longer than `patience`.
    pub async fn admit(&self, length: Option<u64>, patience: Duration) -> Option<Held> {
        let bytes = match length.map(|length| (length <= SMALL, usize::try_from(length).unwrap_or(usize::MAX))) {
            // Plaintext, frames, and the copy that goes into the journal entry.
            Some((true, length)) => 3 * length + (16 << 10),
            Some((false, length)) => LARGE_HOLDS.min(length.saturating_mul(3)),
            None => LARGE_HOLDS,
        };
        self.admissions(length).hold_within(bytes, patience).await
    }

    /// The share that admits a body of `length` bytes.
    pub fn admissions(&self, length: Option<u64>) -> &Bytesful {
        if length.is_some_and(|length| length <= SMALL) { &self.small } else { &self.large }
    }

    /// The stripe pool's share.
    pub fn room(&self) -> &Bytesful {
        &self.room
    }

    /// The share of reading.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The largest stripe that leaves room for others to be written meanwhile.
    pub fn largest_stripe(&self) -> usize {
        self.room.capacity() / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn held_bytes_come_back_in_parts_and_whole() {
        let all = Bytesful::new(100);
        let mut held = all.hold(1000).await;
        assert_eq!(held.bytes(), 100);
        assert!(all.try_hold(1).is_none());
        let part = held.split(30);
        held.shrink(20);
        assert_eq!((held.bytes(), part.bytes()), (20, 30));
        assert_eq!(all.try_hold(50).map(|held| held.bytes()), Some(50));
        drop(part);
        drop(held);
        assert!(all.try_hold(100).is_some());
    }

    #[tokio::test]
    async fn small_bodies_are_admitted_while_large_ones_fill_their_share() {
        let budget = Budget::new(64 << 20, 1);
        let patience = Duration::from_millis(20);
        let mut large = Vec::new();
        while let Some(held) = budget.admit(None, patience).await {
            large.push(held);
        }
        assert_eq!(large.len(), 3, "nobody waits longer than its patience");
        let small = budget.admit(Some(4096), patience).await;
        assert_eq!(small.map(|held| held.bytes()), Some(3 * 4096 + (16 << 10)));
        assert!(!budget.admissions(None).contended());
    }
}
