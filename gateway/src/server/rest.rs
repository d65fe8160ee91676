//! What is left of a request body when the answer is ready early.
//!
//! A client that is still sending does not read: if the connection ended under it, it would see a reset and not the error
//! that says why. So a refused body is read on for a while. A client that waits for `100 Continue` has sent nothing; it
//! must not be asked for the body now, and its connection can't be used again.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

/// The most that is read of a refused body, in bytes: a part of a multipart upload, usually.
const MOST: u64 = 16 << 20;
/// For how long a refused body is read.
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct State<B> {
    body: B,
    /// The client has been asked to send, if it waits to be.
    asked: bool,
    ended: bool,
}

/// A body whose rest can still be had when its reader has dropped it.
#[derive(Debug)]
pub struct Shared<B>(Arc<Mutex<State<B>>>);

/// The other end of [`Shared`].
#[derive(Debug)]
pub struct Rest<B>(Arc<Mutex<State<B>>>);

/// Splits a body into what is read and what may be left.
pub fn split<B: Body>(body: B) -> (Shared<B>, Rest<B>) {
    let ended = body.is_end_stream();
    let state = Arc::new(Mutex::new(State { body, asked: false, ended }));
    (Shared(Arc::clone(&state)), Rest(state))
}

fn lock<B>(state: &Mutex<State<B>>) -> MutexGuard<'_, State<B>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Body<Data = Bytes> + Unpin> State<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        // Nobody is told to continue with nothing.
        self.asked |= !self.ended;
        let polled = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended = polled.is_none() || self.body.is_end_stream();
        Poll::Ready(polled)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Shared<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        lock(&self.0).poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).body.size_hint()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Rest<B> {
    /// Reads what is left, within limits. `false`: the connection can't be used again. `waits`: the client sends only
    /// after `100 Continue`. One that was not told to continue is sent away even if it had nothing to send: botocore takes
    /// the next answer on such a connection for a part of this one.
    pub async fn read(self, waits: bool) -> bool {
        {
            let state = lock(&self.0);
            if state.ended || (waits && !state.asked) {
                return !waits || state.asked;
            }
        }
        let mut read = 0u64;
        let reading = async {
            loop {
                match poll_fn(|cx| lock(&self.0).poll(cx)).await {
                    None => return true,
                    Some(Err(_)) => return false,
                    Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
                }
                if read > MOST {
                    return false;
                }
            }
        };
        tokio::time::timeout(LONGEST, reading).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn a_refused_body_is_read_on_unless_the_client_waits() {
        let body = || Full::new(Bytes::from_static(b"body"));
        let (_shared, rest) = split(body());
        assert!(rest.read(false).await);
        let (_shared, rest) = split(body());
        assert!(!rest.read(true).await);
        let (mut shared, rest) = split(Full::new(Bytes::new()));
        assert!(poll_fn(|cx| Pin::new(&mut shared).poll_frame(cx)).await.is_none());
        assert!(!rest.read(true).await, "it was not told to continue");
        let (_shared, rest) = split(Full::new(Bytes::new()));
        assert!(rest.read(false).await);
        let (_shared, rest) = split(Full::new(Bytes::from(vec![0; 17 << 20])));
        assert!(!rest.read(false).await);
    }
}
