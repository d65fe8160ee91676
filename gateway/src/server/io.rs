//! When a connection was last heard of.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts a connection's running requests and remembers its last byte.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    /// Milliseconds after `start`. Only grows.
    last: AtomicU64,
    running: AtomicUsize,
}

impl Activity {
    /// A connection that was just accepted.
    pub fn new() -> Activity {
        Activity { start: Instant::now(), last: AtomicU64::new(0), running: AtomicUsize::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn touch(&self) {
        self.last.fetch_max(self.now(), Ordering::Relaxed);
    }

    /// Ends when no byte has passed for `stall`, or for `idle` while no request runs.
    pub async fn silent(&self, idle: Duration, stall: Duration) {
        loop {
            let limit = if self.running.load(Ordering::Relaxed) == 0 { idle } else { stall };
            let quiet = Duration::from_millis(self.now().saturating_sub(self.last.load(Ordering::Relaxed)));
            let Some(left) = limit.checked_sub(quiet).filter(|left| !left.is_zero()) else { return };
            // A request that starts or ends meanwhile changes the limit, so never sleep past the shorter one.
            tokio::time::sleep(left.min(idle)).await;
        }
    }
}

/// Marks a request as running until it is dropped.
#[derive(Debug)]
pub struct Busy(Arc<Activity>);

impl Busy {
    /// A request begins.
    pub fn new(activity: &Arc<Activity>) -> Busy {
        activity.running.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

/// A stream that reports each byte.
#[derive(Debug)]
pub struct TimedIo<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> TimedIo<S> {
    /// Reports to `activity`.
    pub fn new(stream: S, activity: Arc<Activity>) -> TimedIo<S> {
        TimedIo { stream, activity }
    }

    fn seen<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(poll, Poll::Ready(Ok(_))) {
            self.activity.touch();
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.seen(poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.seen(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.seen(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_is_judged_by_what_runs() {
        let activity = Arc::new(Activity::new());
        let (short, long) = (Duration::from_millis(20), Duration::from_millis(400));
        activity.silent(short, long).await;
        let busy = Busy::new(&activity);
        assert!(tokio::time::timeout(Duration::from_millis(100), activity.silent(short, long)).await.is_err());
        drop(busy);
        assert!(tokio::time::timeout(Duration::from_millis(300), activity.silent(short, long)).await.is_ok());
    }
}
