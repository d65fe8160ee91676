//! What an answer may repeat of its request: XML says `"` with six bytes, and a client that does not read keeps all of it in memory.
//!
//! Invariants:
//! * The message of a refusal is no longer than [`LONGEST`], whatever it repeats.
//! * A long answer counts ([`xml::Held`]) until the last of it is on its way, to a request with an XML body as that body did, and to
//!   any other, such as a list's page of 6 MB, as what it is: who asks much and reads no answer finds no room for the next one.
//! * Who takes it slower than [`xml::SLOWEST`] when it has waited for a while does not get the rest: its room is for others.

use super::{find, xml};
use bytes::{Buf, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use s3s::{Body, HttpResponse, StdError};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::AbortHandle;

/// Longest refusal, in bytes.
const LONGEST: usize = 64 << 10;
/// An answer is given to its connection in pieces of this size, and in one if it is no longer.
const PIECE: usize = 32 << 10;
/// What is said instead of a longer message.
const TOO_LONG: &[u8] = b"The request has a value that is too long, or none that can be here.";

/// Says less than all of what a refusal repeats.
pub(super) fn shorten(response: &mut HttpResponse) {
    let refused = response.status().is_client_error() || response.status().is_server_error();
    let Some(body) = response.body().bytes().filter(|body| refused && body.len() > LONGEST) else { return };
    let (start, end) = (b"<Message>", b"</Message>");
    let from = find(&body, start).map(|at| at + start.len());
    let to = body.windows(end.len()).rposition(|window| window == end);
    let (Some(from), Some(to)) = (from, to) else { return };
    let shorter = [body.get(..from).unwrap_or_default(), TOO_LONG, body.get(to..).unwrap_or_default()].concat();
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(Bytes::from(shorter));
}

/// Counts a long answer to a request that had no body to count. `false`: there is no room for it.
pub(super) fn has_room(response: &HttpResponse, watch: &xml::Watch) -> bool {
    response.body().bytes().is_none_or(|bytes| bytes.len() <= PIECE || watch.hold(bytes.len()))
}

/// Lets a long answer count for as long as it is being sent, and that be no longer than `patience` and what a slow client needs.
pub(super) fn hold(response: &mut HttpResponse, patience: Duration) {
    let Some(watch) = response.extensions_mut().remove::<Arc<xml::Watch>>() else { return };
    let Some(bytes) = response.body().bytes().filter(|bytes| bytes.len() > PIECE) else { return };
    *response.body_mut() = Body::http_body_unsync(Pieces::new(bytes, watch, patience));
}

/// An answer, piece by piece: what is given to a connection in one is the connection's from then on, and nobody's when it is counted.
struct Pieces {
    /// None when it was not taken in time: a connection whose client takes nothing asks for no piece, and could not be told then.
    rest: Arc<Mutex<Option<Rest>>>,
    left: usize,
    late: AbortHandle,
}

struct Rest {
    bytes: Bytes,
    _watch: Arc<xml::Watch>,
}

impl Pieces {
    fn new(bytes: Bytes, watch: Arc<xml::Watch>, patience: Duration) -> Pieces {
        let left = bytes.len();
        let limit = patience + Duration::from_secs(left as u64 / xml::SLOWEST);
        let rest = Arc::new(Mutex::new(Some(Rest { bytes, _watch: watch })));
        let waiting = Arc::clone(&rest);
        let late = tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            drop(lock(&waiting).take());
        });
        Pieces { rest, left, late: late.abort_handle() }
    }
}

fn lock(rest: &Mutex<Option<Rest>>) -> MutexGuard<'_, Option<Rest>> {
    rest.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.late.abort();
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut rest = lock(&self.rest);
        let Some(of) = rest.as_mut() else { return Poll::Ready(Some(Err("the answer was not taken in time".into()))) };
        let length = of.bytes.len().min(PIECE);
        // A copy: a piece of the whole would keep the whole.
        let piece = Bytes::copy_from_slice(of.bytes.get(..length).unwrap_or_default());
        of.bytes.advance(length);
        let left = of.bytes.len();
        if left == 0 {
            *rest = None;
        }
        drop(rest);
        self.left = left;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::error_response;
    use http_body_util::BodyExt as _;
    use s3s::s3_error;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_refusal_is_short_whatever_was_asked() {
        let long = "\"".repeat(1 << 20);
        let mut response = error_response(s3_error!(InvalidArgument, "{long} is wrong"));
        assert!(response.body().bytes().is_some_and(|body| body.len() > 6 << 20));
        shorten(&mut response);
        let body = response.body().bytes().expect("a body");
        assert!(body.len() < 1024, "{}", body.len());
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(
            text.contains("<Code>InvalidArgument</Code><Message>The") && text.ends_with("</Message></Error>"),
            "{text}"
        );
        let mut short = error_response(s3_error!(InvalidArgument, "x"));
        shorten(&mut short);
        assert!(short.body().bytes().is_some_and(|body| find(&body, b"<Message>x</Message>").is_some()));
    }

    /// 47 MB of answer to 8 MB that nobody had signed waited for whoever did not read, on each of thousands of connections.
    #[tokio::test]
    async fn an_answer_counts_until_it_is_sent() {
        let held = Arc::<xml::Held>::default();
        let watch = Arc::new(xml::Watch::new(Arc::clone(&held)));
        assert!(watch.hold(1 << 20));
        let mut response = HttpResponse::new(Body::from(Bytes::from(vec![7; 3 * PIECE + 1])));
        response.extensions_mut().insert(watch);
        hold(&mut response, PATIENCE);
        assert_eq!(response.body().size_hint().exact(), Some(3 * PIECE as u64 + 1));
        let mut body = response.into_body();
        let mut read = 0;
        for _ in 0..3 {
            read +=
                body.frame().await.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).map_or(0, |d| d.len());
            assert_eq!(held.all(), 1 << 20, "it is not sent yet");
        }
        read += body.frame().await.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).map_or(0, |d| d.len());
        assert_eq!((read, held.all()), (3 * PIECE + 1, 0));
        assert!(body.frame().await.is_none());
    }

    /// Pages of lists counted for nothing: 6 MB for each request of a connection, for whoever read none of them.
    #[tokio::test]
    async fn pages_that_nobody_reads_leave_no_room_for_more() {
        let held = Arc::<xml::Held>::default();
        let page = || {
            let watch = Arc::new(xml::Watch::new(Arc::clone(&held)));
            watch.counts_for("greedy");
            let mut response = HttpResponse::new(Body::from(Bytes::from(vec![7; 6 << 20])));
            has_room(&response, &watch).then(|| {
                response.extensions_mut().insert(watch);
                hold(&mut response, PATIENCE);
                response
            })
        };
        let mut unread: Vec<HttpResponse> = (0..100).map_while(|_| page()).collect();
        assert_eq!(unread.len(), 5);
        let modest = xml::Watch::new(Arc::clone(&held));
        modest.counts_for("modest");
        assert!(has_room(&HttpResponse::new(Body::from(Bytes::from(vec![7; 6 << 20]))), &modest), "another's");
        let read = unread.pop().expect("a page").into_body().collect().await.expect("all of it").to_bytes();
        assert!(read.len() == 6 << 20 && page().is_some(), "there is room again");
    }

    /// Connections that took nothing of their pages kept everybody of their account from getting any.
    #[tokio::test]
    async fn a_page_that_nobody_takes_has_its_room_for_a_while() {
        let held = Arc::<xml::Held>::default();
        let watch = Arc::new(xml::Watch::new(Arc::clone(&held)));
        let mut response = HttpResponse::new(Body::from(Bytes::from(vec![7; PIECE + 1])));
        assert!(has_room(&response, &watch));
        response.extensions_mut().insert(watch);
        hold(&mut response, Duration::ZERO);
        assert_eq!(held.all(), PIECE as u64 + 1);
        while held.all() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(response.into_body().frame().await.expect("a word").is_err(), "a short answer must not look whole");
    }
}
