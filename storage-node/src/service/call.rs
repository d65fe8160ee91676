//! One request, from its path to its answer: the gate, the deadline, and the three shapes that calls have.

use super::fault::Fault;
use super::gate::{Gate, epoch_of, order_of};
use super::message::Hello;
use super::method::Method;
use super::rooms;
use super::wire::{MESSAGE_LIMIT, PIECE, Piece, Wire, pieces};
use super::{Shared, answer, upload};
use crate::client::ReadError;
use crate::trace::{self, Trace};
use bytes::Bytes;
use codec::id::Epoch;
use futures::Stream;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use http::HeaderMap;
use hyper::body::Incoming;
use prost::Message;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status};

/// A request, with all that its answer needs.
#[derive(Clone)]
pub(crate) struct Asked {
    pub shared: Arc<Shared>,
    pub gate: Arc<Gate>,
    pub method: Method,
    /// Its number on the connection.
    pub order: Option<u64>,
    /// The epoch in which its sender says that it leads.
    pub epoch: Option<Epoch>,
    /// When its sender stops waiting.
    pub deadline: Instant,
    /// Its message has been read.
    pub read: Arc<AtomicBool>,
}

impl Asked {
    /// Its message has been read: from now on only the deadline counts.
    pub fn is_read(&self) {
        self.read.store(true, Ordering::Release);
    }

    /// To be held while the order is carried out, if it is one that only a leader may give: it is still in force.
    pub async fn in_force(&self) -> Result<Option<OwnedRwLockReadGuard<()>>, Problem> {
        if !self.method.is_of_leader() {
            return Ok(None);
        }
        self.gate.in_force(self.epoch).await.map(Some).map_err(Problem::Status)
    }
}

/// Why a call has no answer of its own.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The trait's error: the answer.
    Fault(Fault),
    /// Nothing that the trait knows.
    Status(Status),
}

impl<E: Into<Fault>> From<E> for Problem {
    fn from(error: E) -> Problem {
        Problem::Fault(error.into())
    }
}

impl Problem {
    /// The request can't be understood.
    pub fn malformed() -> Problem {
        Problem::Status(Status::invalid_argument("the request can't be understood"))
    }
}

/// What answers a request, as tonic wants it.
type Handler<Q, R> = Box<dyn FnOnce(Request<Q>) -> BoxFuture<'static, Result<Response<R>, Status>> + Send>;

/// A service of one call, for tonic.
pub(crate) struct Once<Q, R>(Option<Handler<Q, R>>);

impl<Q, R> Once<Q, R> {
    pub fn new<F, Fut>(call: F) -> Once<Q, R>
    where
        F: FnOnce(Request<Q>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        Once(Some(Box::new(move |request| call(request).boxed())))
    }
}

impl<Q, R> tower_service::Service<Request<Q>> for Once<Q, R> {
    type Response = Response<R>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<R>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        match self.0.take() {
            Some(call) => call(request),
            None => async { Err(Status::internal("a call was made twice")) }.boxed(),
        }
    }
}

/// Answers a request.
pub(crate) async fn call(
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    let Some(method) = Method::of_path(request.uri().path()) else {
        return Status::unimplemented("a storage node has no such call").into_http();
    };
    if let Err(status) = gate.admit(method, request.headers()) {
        return status.into_http();
    }
    let deadline = Instant::now()
        + timeout_of(request.headers()).map_or(shared.config.deadline, |asked| asked.min(shared.config.deadline));
    let order = order_of(request.headers());
    let read = Arc::new(AtomicBool::new(false));
    let epoch = epoch_of(request.headers());
    let context = Asked { shared, gate, method, order, epoch, deadline, read: Arc::clone(&read) };
    let stall = deadline.min(Instant::now() + context.shared.config.stall);
    let traced = Trace::of(request.headers());
    let request = request.map(Body::new);
    let answered = match method {
        Method::Hello => hello(context, request),
        Method::WriteShard | Method::JournalAppend => upload::serve(context, request),
        Method::ReadShard | Method::JournalRead => answer::serve_range(context, request),
        _ => answer::serve(context, request),
    };
    let answered = in_time(answered, &read, stall, deadline);
    trace::within(traced, answered).await.unwrap_or_else(|| late().into_http())
}

/// The message of a request must have been read by `stall`; what is done then ends at `deadline`.
async fn in_time(
    mut answered: Answered,
    read: &AtomicBool,
    stall: Instant,
    deadline: Instant,
) -> Option<http::Response<Body>> {
    match timeout_at(stall, &mut answered).await {
        Ok(answer) => Some(answer),
        Err(_) if read.load(Ordering::Acquire) => timeout_at(deadline, answered).await.ok(),
        Err(_) => None,
    }
}

fn hello(context: Asked, request: http::Request<Body>) -> Answered {
    let answer = move |request: Request<Hello>| async move {
        context.is_read();
        context.gate.hello(request.get_ref()).map(Response::new)
    };
    let codec = Wire::<super::message::Welcome, Hello>::default();
    let mut grpc = Grpc::new(codec).max_decoding_message_size(MESSAGE_LIMIT);
    async move { grpc.unary(Once::new(answer), request).await }.boxed()
}

/// What becomes of a request. Boxed here, where its parts are known to be fit for any thread.
pub(crate) type Answered = BoxFuture<'static, http::Response<Body>>;

type Answer = BoxStream<'static, Result<Piece, Status>>;

/// A call that is answered with one message, however long.
pub(crate) fn ask<Q, F, Fut>(context: Asked, request: http::Request<Body>, answer: F) -> Answered
where
    Q: Message + Default + 'static,
    F: FnOnce(Q) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Bytes, Problem>> + Send + 'static,
{
    let deadline = context.deadline;
    let call = move |request: Request<Q>| async move {
        context.is_read();
        let expected = context.method.answer_bytes();
        let held = match expected {
            0 => None,
            _ => Some(context.shared.answers.take(&context.gate.peer, expected, deadline).await?),
        };
        let answered = async {
            let _in_force = context.in_force().await?;
            answer(request.into_inner()).await
        };
        let answered = timeout_at(deadline, answered).await;
        let answer: Answer = match answered.unwrap_or_else(|_| Err(Problem::Status(late()))) {
            Ok(bytes) => {
                let len = bytes.len();
                let sent = stream::iter(pieces(bytes)).map(move |piece| {
                    let _held_until_sent = &held;
                    Ok(piece)
                });
                until(deadline, len, sent.boxed())
            }
            Err(problem) => failed(problem)?,
        };
        Ok(Response::new(answer))
    };
    let mut grpc = Grpc::new(Wire::<Piece, Q>::default()).max_decoding_message_size(MESSAGE_LIMIT);
    async move { grpc.server_streaming(Once::new(call), request).await }.boxed()
}

fn failed(problem: Problem) -> Result<Answer, Status> {
    match problem {
        Problem::Fault(fault) => Ok(stream::iter([Ok(Piece::fault(&fault))]).boxed()),
        Problem::Status(status) => Err(status),
    }
}

pub(crate) fn late() -> Status {
    Status::deadline_exceeded("the time that the client waits is over")
}

/// A call that is answered with a range of bytes, read piece by piece: the next one while the one before is sent, and none
/// while the client takes nothing. What a reader may hold is taken from `room` first.
pub(crate) fn range<Q, P, F, Fut>(context: Asked, request: http::Request<Body>, parse: P) -> Answered
where
    Q: Message + Default + 'static,
    P: FnOnce(Q) -> Option<(Range<u32>, F)> + Send + 'static,
    F: Fn(Range<u32>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Bytes, ReadError>> + Send + 'static,
{
    let deadline = context.deadline;
    let call = move |request: Request<Q>| async move {
        context.is_read();
        let Some((range, read)) = parse(request.into_inner()) else {
            return Err(Status::invalid_argument("the request can't be understood"));
        };
        let len = range.end.saturating_sub(range.start) as usize;
        let permit = context.shared.reads.take(&context.gate.peer, len.min(3 * PIECE), deadline).await?;
        let answer = if len <= PIECE {
            let bytes = timeout_at(deadline, read(range)).await.map_err(|_| late())?;
            let piece = bytes.map_or_else(|error| Piece::fault(&error.into()), |bytes| Piece::new(bytes, true));
            let sent = stream::once(async move {
                let _held_until_sent = permit;
                Ok(piece)
            });
            until(deadline, len, sent.boxed())
        } else {
            in_parts(range, read, deadline, permit)
        };
        Ok(Response::new(answer))
    };
    let mut grpc = Grpc::new(Wire::<Piece, Q>::default()).max_decoding_message_size(MESSAGE_LIMIT);
    async move { grpc.server_streaming(Once::new(call), request).await }.boxed()
}

/// Reads in a task of its own, so that a client that takes nothing any more holds its room no longer than to its deadline.
fn in_parts<F, Fut>(range: Range<u32>, read: F, deadline: Instant, permit: rooms::Held) -> Answer
where
    F: Fn(Range<u32>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Bytes, ReadError>> + Send + 'static,
{
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(trace::carry(async move {
        let _held_while_reading = permit;
        let mut start = range.start;
        while start < range.end {
            let end = start.saturating_add(PIECE as u32).min(range.end);
            let piece = match timeout_at(deadline, read(start..end)).await {
                Ok(Ok(bytes)) => Ok(Piece::new(bytes, end == range.end)),
                Ok(Err(error)) => Ok(Piece::fault(&of_whole(error, &range).into())),
                Err(_) => Err(late()),
            };
            let ends = !matches!(&piece, Ok(piece) if piece.fault.is_none());
            let sent = timeout_at(deadline, send.send(piece)).await;
            if ends || !matches!(sent, Ok(Ok(()))) {
                return;
            }
            start = end;
        }
    }));
    // A task that stopped in the middle leaves a stream without a last piece: no answer.
    let pieces = stream::unfold(receive, |mut receive| async { receive.recv().await.map(|piece| (piece, receive)) });
    until(deadline, PIECE, pieces.boxed())
}

/// Answers up to this length are left to the connection: a timer for each would cost more than they do.
const SMALL: usize = 16 << 10;

/// An answer that is let go of, with the memory and the room that it holds, when its client has not taken it by `deadline`: a
/// connection asks for the next piece only when there is a window for it, so the answer itself would never notice.
pub(crate) fn until(deadline: Instant, len: usize, answer: Answer) -> Answer {
    if len <= SMALL {
        return answer;
    }
    let slot = Arc::new(Mutex::new(Some(answer)));
    let held = Arc::clone(&slot);
    let timer = tokio::spawn(async move {
        sleep_until(deadline).await;
        let taken = held.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(taken);
    });
    Held { slot, timer: timer.abort_handle() }.boxed()
}

struct Held {
    slot: Arc<Mutex<Option<Answer>>>,
    timer: AbortHandle,
}

impl Stream for Held {
    type Item = Result<Piece, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = slot.as_mut() else { return Poll::Ready(Some(Err(late()))) };
        answer.poll_next_unpin(cx)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

/// A part that is outside means that the whole range is.
fn of_whole(error: ReadError, range: &Range<u32>) -> ReadError {
    match error {
        ReadError::OutOfRange { len, .. } => ReadError::OutOfRange { start: range.start, end: range.end, len },
        other => other,
    }
}

/// Waits for room for `bytes`, in KiB.
pub(crate) fn room(
    room: Arc<Semaphore>,
    bytes: usize,
    deadline: Instant,
) -> BoxFuture<'static, Result<OwnedSemaphorePermit, Status>> {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let waiting = async move {
        let permit = timeout_at(deadline, room.acquire_many_owned(kib)).await;
        permit.map_err(|_| late())?.map_err(|_| Status::unavailable("the node is stopping"))
    };
    waiting.boxed()
}

/// `grpc-timeout`: up to eight digits and a unit.
pub(crate) fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}
