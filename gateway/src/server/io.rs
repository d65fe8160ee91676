//! Whether a connection gets anywhere.
//!
//! What counts is bodies: a request that came, ended, or moved another [`PROGRESS`] bytes of its body in either direction.
//! Bytes alone don't: a client could hold a connection, and what its request holds, for ever by an HTTP/2 ping or one byte
//! of its body a minute.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many bytes of bodies are a sign of life; within a stall limit of 15 minutes they are 18 bytes a second.
const PROGRESS: u64 = 16 << 10;

/// Counts a connection's running requests and what it moves, and remembers when it last got anywhere.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    /// Milliseconds after `start`. Only grows.
    last: AtomicU64,
    running: AtomicUsize,
    /// Bytes of bodies since `last`.
    moved: AtomicU64,
    /// Bytes of answers that were given to the connection and are not sent yet.
    owed: AtomicU64,
}

impl Activity {
    /// A connection that was just accepted.
    pub fn new() -> Activity {
        Activity {
            start: Instant::now(),
            last: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            owed: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn touch(&self) {
        self.moved.store(0, Ordering::Relaxed);
        self.last.fetch_max(self.now(), Ordering::Relaxed);
    }

    fn moved(&self, bytes: u64) {
        if self.moved.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) >= PROGRESS {
            self.touch();
        }
    }

    /// Bytes went out. Those that no answer is owed are the protocol's own, and don't count.
    fn sent(&self, bytes: u64) {
        let pay = |owed: u64| (owed > 0).then(|| owed.saturating_sub(bytes));
        let Ok(owed) = self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay) else { return };
        match owed <= bytes {
            true => self.touch(),
            false => self.moved(bytes),
        }
    }

    /// Ends when nothing has got anywhere for `stall`, or for `idle` while no request runs and no answer is on its way.
    pub async fn silent(&self, idle: Duration, stall: Duration) {
        loop {
            let works = self.running.load(Ordering::Relaxed) > 0 || self.owed.load(Ordering::Relaxed) > 0;
            let limit = if works { stall } else { idle };
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
        activity.touch();
        Busy(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

/// Which way a body goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    In,
    Out,
}

/// A body whose bytes count as activity. Its request runs until it is dropped.
#[derive(Debug)]
pub struct Counted<B> {
    body: B,
    way: Way,
    busy: Busy,
}

impl<B> Counted<B> {
    /// The body of a request.
    pub fn request(body: B, activity: &Arc<Activity>) -> Counted<B> {
        Counted { body, way: Way::In, busy: Busy::new(activity) }
    }

    /// The body of an answer.
    pub fn answer(body: B, activity: &Arc<Activity>) -> Counted<B> {
        Counted { body, way: Way::Out, busy: Busy::new(activity) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &polled {
            let (activity, bytes) = (&self.busy.0, frame.data_ref().map_or(0, |data| data.len() as u64));
            match self.way {
                Way::In => activity.moved(bytes),
                Way::Out => {
                    activity.owed.fetch_add(bytes, Ordering::Relaxed);
                }
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that reports what it sends.
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

    fn seen(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = poll {
            self.activity.sent(bytes as u64);
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
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
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(60));
        activity.silent(short, long).await;
        let busy = Busy::new(&activity);
        assert!(tokio::time::timeout(Duration::from_millis(100), activity.silent(short, long)).await.is_err());
        drop(busy);
        assert!(tokio::time::timeout(long / 2, activity.silent(short, long)).await.is_ok());
    }

    #[tokio::test]
    async fn only_bodies_are_a_sign_of_life() {
        let activity = Arc::new(Activity::new());
        let later = || std::thread::sleep(Duration::from_millis(2));
        let last = || activity.last.load(Ordering::Relaxed);
        let body = |bytes| Counted::answer(http_body_util::Full::new(Bytes::from(vec![0; bytes])), &activity);
        let mut answer = body(3 * PROGRESS as usize);
        let before = last();
        later();
        activity.sent(17);
        assert_eq!(last(), before, "the answer to a ping");
        let frame = std::future::poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await;
        assert!(frame.is_some() && last() == before, "nothing is sent yet");
        for _ in 0..PROGRESS - 1 {
            activity.sent(1);
        }
        assert_eq!(last(), before, "a byte now and then");
        activity.sent(1);
        assert!(last() > before);
        activity.moved(1);
        let before = last();
        later();
        activity.sent(2 * PROGRESS);
        assert!(last() > before && activity.owed.load(Ordering::Relaxed) == 0, "all is sent");
    }
}
