//! The answering end.

use super::{BYTES, HELLO};
use crate::service::StartError;
use crate::service::call::{Once, late, timeout_of, until};
use crate::service::gate::{Gate, Gates, Release};
use crate::service::identity::{Identity, Role};
use crate::service::message::{Hello, Welcome};
use crate::service::port::{Answers, Port, PortConfig};
use crate::service::rooms::{Held, Room};
use crate::service::tls::Credentials;
use crate::service::wire::{self, Assembly, MESSAGE_LIMIT, Piece, Wire, pieces};
use crate::service::{PROTOCOL, gate};
use crate::trace::{self, Trace};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};

/// A service: what its calls are, who may make them, and what they come to.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The name of the service, such as `stele.metadata.v1.Metadata`.
    fn service(&self) -> &'static str;

    /// Whether a process of `role` may make a call; `None` where there is no such call.
    fn allows(&self, call: &str, role: Role) -> Option<bool>;

    /// Answers a call. A status is for what the call's own answer can't say: it may have been carried out.
    async fn answer(&self, call: Call) -> Result<Bytes, Status>;
}

/// The bounds of a port.
#[derive(Clone, Debug)]
pub struct RpcConfig {
    /// Bytes of questions that each service may be in the middle of receiving and answering; half of it for one process.
    pub questions: usize,
    /// Bytes of answers that may wait to be taken, in the same way.
    pub answers: usize,
    /// The same for pages of listings, beside it: they take long to make and are large, and what they have no room for stands in line
    /// before what comes after it. A commit, or a look at the session, must not be behind them.
    pub pages: usize,
    /// Connections at the same time.
    pub connections: usize,
    /// Connections that have not shown a certificate yet.
    pub handshakes: usize,
    /// Of these, from one address.
    pub handshakes_per_address: usize,
    /// The longest that any call may take, whatever its sender says.
    pub deadline: Duration,
    /// How long a client may take to show its certificate, and then to say whom it means.
    pub handshake: Duration,
    /// How long the next piece of a question may be on its way.
    pub stall: Duration,
    /// The versions of the protocol that are spoken.
    pub versions: RangeInclusive<u32>,
    /// Told to clients, for people.
    pub software: String,
}

impl Default for RpcConfig {
    fn default() -> RpcConfig {
        RpcConfig {
            questions: 256 << 20,
            answers: 256 << 20,
            pages: 256 << 20,
            connections: 1024,
            handshakes: 256,
            handshakes_per_address: 64,
            deadline: Duration::from_secs(3600),
            handshake: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            versions: PROTOCOL,
            software: codec::level::SOFTWARE.to_owned(),
        }
    }
}

/// A port. Dropping it ends it at once; [`Self::stop`] lets what was begun end first.
pub struct Server {
    port: Port,
}

impl Server {
    /// Answers for `services` on a listener, as the process of these credentials.
    pub fn start(
        listener: TcpListener,
        credentials: &Credentials,
        services: Vec<Arc<dyn Handler>>,
        config: RpcConfig,
    ) -> Result<Server, StartError> {
        let gates = Gates::new(
            credentials.identity().clone(),
            config.software.clone(),
            config.versions.clone(),
            credentials.level().clone(),
        );
        let acceptor = TlsAcceptor::from(credentials.server()?);
        let port = PortConfig {
            connections: config.connections,
            handshakes: config.handshakes,
            handshakes_per_address: config.handshakes_per_address,
            handshake: config.handshake,
            stream_window: wire::STREAM_WINDOW,
            connection_window: wire::CONNECTION_WINDOW,
        };
        // Each has rooms of its own: gateways that take all there is must not keep the votes of metadata nodes waiting.
        let room = |handler| {
            let (questions, answers) = (Room::new(config.questions), Room::new(config.answers));
            Arc::new(Serving { handler, questions, answers, pages: Room::new(config.pages) })
        };
        let services = services.into_iter().map(room).collect();
        let calls = Calls(Arc::new(Shared { services, config }));
        let port = Port::start(listener, acceptor, gates, port, Arc::new(calls)).map_err(StartError::Listener)?;
        Ok(Server { port })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Takes no more requests, waits up to `grace` for those that were begun, and ends.
    pub async fn stop(self, grace: Duration) {
        self.port.stop(grace).await;
    }
}

struct Shared {
    services: Vec<Arc<Serving>>,
    config: RpcConfig,
}

/// A service, and what it may hold.
struct Serving {
    handler: Arc<dyn Handler>,
    questions: Room,
    answers: Room,
    pages: Room,
}

struct Calls(Arc<Shared>);

impl Answers for Calls {
    fn answer(&self, gate: Arc<Gate>, request: http::Request<Incoming>) -> BoxFuture<'static, http::Response<Body>> {
        let shared = Arc::clone(&self.0);
        let traced = Trace::of(request.headers());
        let answering = async move { answer(shared, gate, request.map(Body::new)).await };
        trace::within(traced, answering).boxed()
    }
}

async fn answer(shared: Arc<Shared>, gate: Arc<Gate>, request: http::Request<Body>) -> http::Response<Body> {
    let unknown = || Status::unimplemented("this process has no such call").into_http();
    let (service, name) = match request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/')) {
        Some((service, name)) => (service, name.to_owned()),
        None => return unknown(),
    };
    let Some(serving) = shared.services.iter().find(|serving| serving.handler.service() == service) else {
        return unknown();
    };
    let serving = Arc::clone(serving);
    if name == HELLO {
        return hello(&shared, &gate, request).await;
    }
    match serving.handler.allows(&name, gate.peer.role) {
        None => return unknown(),
        Some(false) => return gate.refuse_call(&name).into_http(),
        Some(true) => {}
    }
    if let Err(status) = gate.pass(request.headers(), false) {
        return status.into_http();
    }
    let limit = timeout_of(request.headers()).map_or(shared.config.deadline, |asked| asked.min(shared.config.deadline));
    let deadline = Instant::now() + limit;
    let announced = request.headers().get(BYTES).and_then(|bytes| bytes.to_str().ok()?.parse().ok());
    let (peer, release) = (gate.peer.clone(), gate.release());
    let answered = async move {
        let call = move |request: Request<Streaming<Piece>>| async move {
            let (stall, pieces, asks) = (shared.config.stall, request.into_inner(), peer.clone());
            let (at, answer) = (Arc::clone(&serving), AnswerRoom::default());
            let reserved = Arc::clone(&answer);
            let call = Call {
                peer,
                release,
                name,
                deadline,
                announced,
                pieces,
                stall,
                serving: at,
                held: None,
                answer,
                ended: false,
            };
            let bytes = timeout_at(deadline, serving.handler.answer(call)).await.map_err(|_| late())??;
            let reserved = reserved.lock().unwrap_or_else(PoisonError::into_inner).take();
            Ok(Response::new(send(&serving.answers, &asks, bytes, deadline, reserved).await?))
        };
        let mut grpc = Grpc::new(Wire::<Piece, Piece>::default()).max_decoding_message_size(MESSAGE_LIMIT);
        grpc.streaming(Once::new(call), request).await
    };
    timeout_at(deadline, answered).await.unwrap_or_else(|_| late().into_http())
}

type Answer = BoxStream<'static, Result<Piece, Status>>;

/// The room that was taken for an answer before it was made, if one was.
type AnswerRoom = Arc<Mutex<Option<Held>>>;

/// An answer, and its room until it is taken. `reserved`: room that was taken before it was made.
async fn send(
    room: &Room,
    to: &Identity,
    bytes: Bytes,
    deadline: Instant,
    reserved: Option<Held>,
) -> Result<Answer, Status> {
    let len = bytes.len();
    let permit = match reserved {
        Some(mut held) if held.bytes() >= room.needs(len) => {
            held.shrink(len);
            held
        }
        // Given back first: two that each wait for more while they hold some would wait for each other.
        less => {
            drop(less);
            room.take(to, len, deadline).await?
        }
    };
    let sent = stream::iter(pieces(bytes)).map(move |piece| {
        let _held_until_sent = &permit;
        Ok(piece)
    });
    Ok(until(deadline, len, sent.boxed()))
}

async fn hello(shared: &Shared, gate: &Arc<Gate>, request: http::Request<Body>) -> http::Response<Body> {
    let gate = Arc::clone(gate);
    let answer = move |request: Request<Hello>| async move { gate.hello(request.get_ref()).map(Response::new) };
    let mut grpc = Grpc::new(Wire::<Welcome, Hello>::default()).max_decoding_message_size(MESSAGE_LIMIT);
    let answered = grpc.unary(Once::new(answer), request);
    timeout(shared.config.handshake, answered).await.unwrap_or_else(|_| late().into_http())
}

/// A call that is being answered.
pub struct Call {
    /// Who asks, by a certificate that was verified.
    pub peer: Identity,
    /// What program he runs.
    pub release: Option<Release>,
    /// The name of the call.
    pub name: String,
    /// When its sender stops waiting.
    pub deadline: Instant,
    announced: Option<u64>,
    pieces: Streaming<Piece>,
    stall: Duration,
    serving: Arc<Serving>,
    /// The room of the question; given back with the call.
    held: Option<Held>,
    answer: AnswerRoom,
    ended: bool,
}

impl Call {
    /// The whole question, at most `limit` bytes. Room for it is taken before it is read, and held as long as the call is.
    ///
    /// # Errors
    /// The question is longer than the limit or than it said, does not verify, ends early, or does not come in time.
    pub async fn whole(&mut self, limit: usize) -> Result<Bytes, Status> {
        let announced = self.announced.and_then(|len| usize::try_from(len).ok());
        let len = announced.ok_or_else(|| Status::invalid_argument("the question does not say how long it is"))?;
        if len > limit {
            return Err(Status::resource_exhausted(format!("a question of {len} bytes, of which {limit} may be")));
        }
        self.held = Some(self.serving.questions.take(&self.peer, len, self.deadline).await?);
        let mut assembly = Assembly::new(len, len);
        while let Some(piece) = self.piece().await? {
            assembly.add(piece).map_err(|error| Status::data_loss(error.to_string()))?;
        }
        let bytes = assembly.end().filter(|bytes| bytes.len() == len);
        bytes.ok_or_else(|| Status::data_loss("the question ended early"))
    }

    /// Waits for room for an answer of up to `bytes`, before it is made: however many ask, what is made and not taken yet is bounded.
    /// An answer for which there is less waits for its room once it is there.
    ///
    /// # Errors
    /// There is no room in time.
    pub async fn room_for_answer(&self, bytes: usize) -> Result<(), Status> {
        self.reserve(&self.serving.answers, bytes).await
    }

    /// The same for a page of a listing.
    ///
    /// # Errors
    /// There is no room in time.
    pub async fn room_for_page(&self, bytes: usize) -> Result<(), Status> {
        self.reserve(&self.serving.pages, bytes).await
    }

    async fn reserve(&self, room: &Room, bytes: usize) -> Result<(), Status> {
        let held = room.take(&self.peer, bytes, self.deadline).await?;
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).replace(held);
        Ok(())
    }

    /// The next piece of a question that is taken as a stream, up to 1 MiB; `None` at its proper end.
    ///
    /// # Errors
    /// The piece does not verify or does not come in time, or the stream ended early.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.ended {
            return Ok(None);
        }
        let piece = self.piece().await?.ok_or_else(|| Status::data_loss("the question ended early"))?;
        self.ended = piece.last;
        let mut one = Assembly::new(0, wire::PIECE);
        one.add(Piece { last: true, ..piece }).map_err(|error| Status::data_loss(error.to_string()))?;
        Ok(one.end().filter(|bytes| !self.ended || !bytes.is_empty()))
    }

    async fn piece(&mut self) -> Result<Option<Piece>, Status> {
        timeout(self.stall, self.pieces.message()).await.map_err(|_| late())?
    }
}

impl Gate {
    fn refuse_call(&self, name: &str) -> Status {
        let why = format!("{} may not call {name}: its role is {}", self.peer, self.peer.role);
        tracing::warn!(peer = %self.peer, %why, "a request is refused");
        gate::Refusal::Role.status(why)
    }
}
