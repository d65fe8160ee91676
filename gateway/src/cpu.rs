//! Work that keeps a core busy (chunking, hashing, compressing, coding), kept off the threads that serve sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// Work on fewer bytes than this is done on the spot: handing it over would cost about as much as doing it.
const ON_THE_SPOT: usize = 16 << 10;

/// A bounded share of the blocking threads. Those who ask are served in the order in which they asked.
#[derive(Clone, Debug)]
pub struct Cpu {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    threads: usize,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    frames: AtomicU64,
    verify_every: u64,
}

/// The work panicked, or the runtime is going down.
#[derive(Debug, thiserror::Error)]
#[error("the work was not done: {0}")]
pub struct NotDone(String);

/// Counts a waiter, also when its future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cpu {
    /// At most `threads` pieces of work at once; one of `verify_every` (1 to 64) frames is picked by [`Cpu::picked`].
    pub fn new(threads: usize, verify_every: u64) -> Cpu {
        let threads = threads.max(1);
        let inner = Inner {
            threads,
            permits: Arc::new(Semaphore::new(threads)),
            waiting: AtomicUsize::new(0),
            frames: AtomicU64::new(0),
            verify_every: verify_every.clamp(1, 64),
        };
        Cpu { inner: Arc::new(inner) }
    }

    /// Does `work`, which handles about `bytes` bytes.
    pub async fn run<T, F>(&self, bytes: usize, work: F) -> Result<T, NotDone>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if bytes <= ON_THE_SPOT {
            return Ok(work());
        }
        self.inner.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.inner.waiting);
        let permits = Arc::clone(&self.inner.permits);
        let permit = permits.acquire_owned().await.map_err(|error| NotDone(error.to_string()))?;
        drop(waiting);
        // The permit goes with the work: a request that is dropped leaves its work running, and that still counts.
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        done.await.map_err(|error| NotDone(error.to_string()))
    }

    /// More work waits than the threads finish soon: compression falls back to its fastest level.
    pub fn loaded(&self) -> bool {
        self.inner.waiting.load(Ordering::Relaxed) > 4 * self.inner.threads
    }

    /// Whether this frame is one of those that are decoded again in any case (R4). The first one is.
    pub fn picked(&self) -> bool {
        self.inner.frames.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.inner.verify_every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn r4_one_of_64_frames_is_picked_at_least() {
        let cpu = Cpu::new(1, 1_000_000);
        assert_eq!((0..640).filter(|_| cpu.picked()).count(), 10);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_gives_its_permit_back() {
        let cpu = Cpu::new(1, 64);
        assert!(cpu.run(1 << 20, || panic!("on purpose")).await.is_err());
        assert_eq!(cpu.run(1 << 20, || 7).await.ok(), Some(7));
    }
}
