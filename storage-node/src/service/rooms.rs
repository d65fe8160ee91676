//! Memory for payloads and answers, shared out among those who ask.
//!
//! Invariants:
//! * All together hold no more than the room, and one process no more than its share: one gateway whose uploads stand still, or that
//!   takes none of its answers, leaves room for the others.
//! * What is larger than a share by itself is let in when its sender holds nothing else, and what is larger than the room when nobody
//!   does.

use super::call::room;
use super::identity::Identity;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::Status;

/// A process may have the room divided by this.
const SHARE: usize = 2;

/// Processes whose shares are remembered while they hold nothing.
const REMEMBERED: usize = 256;

/// Room of one kind.
pub(crate) struct Room {
    all: Arc<Semaphore>,
    /// Bytes.
    most: usize,
    of: Mutex<HashMap<Identity, Arc<Semaphore>>>,
}

/// A part of a room; given back when it is dropped.
pub(crate) struct Held {
    of_own: OwnedSemaphorePermit,
    of_all: OwnedSemaphorePermit,
}

impl Held {
    /// So many bytes of the whole room, in full KiB.
    pub fn bytes(&self) -> usize {
        self.of_all.num_permits() * 1024
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        for permit in [&mut self.of_own, &mut self.of_all] {
            drop(permit.split(permit.num_permits().saturating_sub(bytes.div_ceil(1024))));
        }
    }
}

fn semaphore(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((bytes / 1024).clamp(1, Semaphore::MAX_PERMITS)))
}

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Room {
        Room { all: semaphore(bytes), most: bytes.max(1024), of: Mutex::default() }
    }

    /// Waits for room for `bytes`. The share comes first: who waits for his own holds none of the others'.
    pub async fn take(&self, who: &Identity, bytes: usize, deadline: Instant) -> Result<Held, Status> {
        let share = (self.most / SHARE).max(1024);
        let of_own = room(self.share_of(who, share), bytes.min(share), deadline).await?;
        let of_all = room(Arc::clone(&self.all), bytes.min(self.most), deadline).await?;
        Ok(Held { of_own, of_all })
    }

    /// How much of the room so many bytes take: never more than there is.
    pub fn needs(&self, bytes: usize) -> usize {
        bytes.min(self.most)
    }

    fn share_of(&self, who: &Identity, share: usize) -> Arc<Semaphore> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if of.len() > REMEMBERED {
            // A permit, and whoever waits for one, holds on to its semaphore.
            of.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        }
        Arc::clone(of.entry(who.clone()).or_insert_with(|| semaphore(share)))
    }

    /// The whole room, in KiB.
    #[cfg(test)]
    pub fn all(&self) -> Arc<Semaphore> {
        Arc::clone(&self.all)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::service::identity::{NodeName, Role};
    use codec::id::ClusterId;
    use futures::FutureExt;
    use std::time::Duration;

    fn who(name: &str) -> Identity {
        Identity { cluster: ClusterId([7; 16]), role: Role::Gateway, name: NodeName::new(name).unwrap() }
    }

    #[tokio::test]
    async fn one_process_leaves_room_for_the_others() {
        let room = Room::new(8 << 20);
        let soon = Instant::now() + Duration::from_secs(60);
        let take = |name: &str, bytes| room.take(&who(name), bytes, soon).now_or_never().and_then(Result::ok);
        // Larger than a share, and alone in it.
        let first = take("g1", 5 << 20).unwrap();
        assert!(take("g1", 1024).is_none());
        let second = take("g2", 2 << 20).unwrap();
        assert!(take("g3", 2 << 20).is_none(), "there is no more");
        drop(first);
        assert!(take("g1", 4 << 20).is_some() && take("g3", 4 << 20).is_some());
        drop(second);
        assert!(take("g3", 9 << 20).is_some(), "larger than the room, and alone in it");
        let mut much = take("g1", 4 << 20).unwrap();
        assert!(take("g1", 1024).is_none());
        much.shrink((3 << 20) - 1);
        assert_eq!(much.bytes(), 3 << 20);
        assert!(take("g1", 1 << 20).is_some() && take("g1", (1 << 20) + 1).is_none());
    }

    #[tokio::test]
    async fn what_is_remembered_of_processes_is_bounded() {
        let room = Room::new(8 << 20);
        let soon = Instant::now() + Duration::from_secs(60);
        let held = room.take(&who("g0"), 4 << 20, soon).await.unwrap();
        for i in 1..3 * REMEMBERED {
            room.take(&who(&format!("g{i}")), 1024, soon).await.unwrap();
        }
        assert!(room.of.lock().unwrap().len() <= REMEMBERED + 2);
        assert!(room.take(&who("g0"), 1024, soon).now_or_never().is_none(), "a share that is used is not forgotten");
        drop(held);
    }
}
