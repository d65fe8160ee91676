//! A connection to a node: TCP, TLS, the handshake, and another one when it is gone.
//!
//! Invariants:
//! * No request is sent over a connection whose handshake did not succeed: cluster, node and version are known by then.
//! * A request is sent once. One whose connection breaks is not sent again by this module: whether it was carried out is
//!   unknown, and the caller must decide.
//! * While a node can't be reached, attempts are made at growing intervals, and calls in between fail at once.

use crate::level::CurrentLevel;
use crate::service::fault::{Fault, FaultMessage};
use crate::service::formats::{self, End, Theirs};
use crate::service::gate::{EPOCH, ORDER, Refusal, Release, TO};
use crate::service::identity::{Identity, IdentityError};
use crate::service::message::{Hello, Welcome};
use crate::service::method::Method;
use crate::service::tls::WrongPeer;
use crate::service::wire::{
    Assembly, Done, FRAME, HEADERS, MESSAGE_LIMIT, Piece, PieceError, SEND_BUFFER, Upload, Wire,
};
use crate::trace;
use bytes::Bytes;
use codec::id::ClusterId;
use codec::level::FormatLevel;
use futures::Stream;
use futures::future::{BoxFuture, FutureExt};
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use std::error::Error;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Request, Status, Streaming};

/// After how long without a frame a connection is asked whether the other end is still there, and how long the answer may take: a
/// node that vanished without a word is noticed within both together, and a write that waits for it goes to another drive. A peer
/// that takes what it is sent says so all the time, so a slow connection is not asked.
const PING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// Calls that were given up, such as the slower one of a hedged pair, and whose frames may still be on the way. A frame of one
/// that was forgotten is an error of the whole connection, and with it of all other calls: the usual ten are soon reached.
const GIVEN_UP: usize = 1024;

/// How long a call that was given up is remembered.
const GIVEN_UP_FOR: Duration = Duration::from_secs(30);

/// The first pause between attempts to connect. The longest is the target's.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no connection to a node, or none that may be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there. It may come back.
    #[error("{address} can't be reached: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// No connection, or no answer, in time. It may come back.
    #[error("{address} did not answer within {after:?}")]
    Late {
        /// Where.
        address: String,
        /// What it was given.
        after: Duration,
    },
    /// The connection broke. It may come back.
    #[error("the connection to {address} broke: {reason}")]
    Broken {
        /// Where.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// What is there belongs to another cluster: the address, or the credentials, are wrong.
    #[error("{address} belongs to cluster {theirs}, not to {ours}")]
    WrongCluster {
        /// Where.
        address: String,
        /// That of the credentials.
        ours: ClusterId,
        /// That of the node's certificate.
        theirs: ClusterId,
    },
    /// What is there is another process of the cluster: the address is wrong.
    #[error("{address} is {theirs}, not {wanted}")]
    WrongNode {
        /// Where.
        address: String,
        /// The one that is meant.
        wanted: Identity,
        /// The one that answers.
        theirs: Identity,
    },
    /// What is there shows a certificate that names no process of a cluster.
    #[error("{address} is no node: {error}")]
    NoNode {
        /// Where.
        address: String,
        /// What is wrong with its certificate.
        error: IdentityError,
    },
    /// The node's certificate was not issued by the cluster's CA, or has run out.
    #[error("the certificate of {address} can't be trusted: {reason}")]
    Untrusted {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// The node does not take the own certificate: of another CA, or run out.
    #[error("{address} does not take our certificate: {reason}")]
    NotTaken {
        /// Where.
        address: String,
        /// The alert.
        reason: String,
    },
    /// The node, or this process, writes what the other can't read.
    #[error("{address} can't be worked with: {reason}")]
    Incompatible {
        /// Where.
        address: String,
        /// What, and which of the two is to be upgraded.
        reason: String,
    },
    /// The node refuses the connection, or one call.
    #[error("{address} refuses ({}): {reason}", refusal.name())]
    Refused {
        /// Where.
        address: String,
        /// Why.
        refusal: Refusal,
        /// In the node's words.
        reason: String,
    },
    /// The node answered what this version can't read.
    #[error("{address} gave an answer that can't be read: {reason}")]
    Unreadable {
        /// Where.
        address: String,
        /// What.
        reason: String,
    },
}

impl ConnectError {
    /// Whether somebody is there who is not the one that is meant, or can't be worked with: waiting does not change that.
    pub(super) fn is_another(&self) -> bool {
        match self {
            ConnectError::WrongCluster { .. }
            | ConnectError::WrongNode { .. }
            | ConnectError::NoNode { .. }
            | ConnectError::Untrusted { .. }
            | ConnectError::NotTaken { .. }
            | ConnectError::Incompatible { .. } => true,
            ConnectError::Refused { refusal, .. } => matches!(refusal, Refusal::WrongCluster | Refusal::WrongNode),
            ConnectError::Unreachable { .. }
            | ConnectError::Late { .. }
            | ConnectError::Broken { .. }
            | ConnectError::Unreadable { .. } => false,
        }
    }
}

/// What a call came to, other than an answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The node's own answer: an error of the trait.
    Fault(Fault),
    /// The node refuses the call, in its own words.
    Refused(Refusal, String),
    /// No answer that can be used. Why was noted ([`RemoteNode::problem`](super::RemoteNode::problem)).
    Unanswered,
}

/// Where and who a node is, and how to speak to it.
pub(crate) struct Target {
    /// `host:port`.
    pub address: String,
    pub node: Identity,
    /// This process.
    pub own: Identity,
    pub tls: Arc<ClientConfig>,
    /// The path of the handshake.
    pub hello: String,
    /// 16 random bytes: this client, among all processes with its name.
    pub client: [u8; 16],
    /// The epoch in which this process leads; 0: in none. Named in the orders that only a leader may give.
    pub leads: Arc<AtomicU64>,
    pub versions: RangeInclusive<u32>,
    pub software: String,
    /// By which this process writes.
    pub level: CurrentLevel,
    pub connect: Duration,
    /// The longest pause between two attempts to connect.
    pub pause: Duration,
    pub stream_window: u32,
    pub connection_window: u32,
}

impl Target {
    pub fn late(&self, after: Duration) -> ConnectError {
        ConnectError::Late { address: self.address.clone(), after }
    }

    pub fn unreadable(&self, reason: impl ToString) -> ConnectError {
        ConnectError::Unreadable { address: self.address.clone(), reason: reason.to_string() }
    }

    /// The status of a call that has no answer.
    fn failed(&self, status: &Status, limit: Duration) -> ConnectError {
        let (address, reason) = (self.address.clone(), status.message().to_owned());
        if let Some(refusal) = Refusal::of(status) {
            return ConnectError::Refused { address, refusal, reason };
        }
        if status.code() == tonic::Code::DeadlineExceeded {
            return self.late(limit);
        }
        let tls = causes(status).find_map(|cause| cause.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return self.alert(*alert);
        }
        let reason = causes(status).last().map_or(reason.clone(), |cause| format!("{reason}: {cause}"));
        ConnectError::Broken { address, reason }
    }

    /// In TLS 1.3 a server looks at the client's certificate when the client has finished: it hears of it with its first
    /// call.
    fn alert(&self, alert: AlertDescription) -> ConnectError {
        ConnectError::NotTaken { address: self.address.clone(), reason: format!("{alert:?}") }
    }

    /// Why TLS failed.
    fn tls_error(&self, error: &std::io::Error) -> ConnectError {
        let address = self.address.clone();
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
                match other.0.downcast_ref::<WrongPeer>() {
                    Some(WrongPeer::Cluster { ours, theirs }) => {
                        ConnectError::WrongCluster { address, ours: *ours, theirs: *theirs }
                    }
                    Some(WrongPeer::Node { wanted, theirs }) => {
                        ConnectError::WrongNode { address, wanted: wanted.clone(), theirs: theirs.clone() }
                    }
                    Some(WrongPeer::Nobody(error)) => ConnectError::NoNode { address, error: error.clone() },
                    None => ConnectError::Untrusted { address, reason: error.to_string() },
                }
            }
            Some(rustls::Error::InvalidCertificate(reason)) => {
                ConnectError::Untrusted { address, reason: format!("{reason:?}") }
            }
            Some(rustls::Error::AlertReceived(alert)) => self.alert(*alert),
            _ => ConnectError::Broken { address, reason: error.to_string() },
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |error| cause(*error))
}

/// An I/O error does not name what it wraps as its source.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
    wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
}

/// hyper's connection as tonic wants it.
#[derive(Clone)]
struct Channel(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<http::Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

/// A connection after its handshake.
pub(crate) struct Link {
    grpc: Grpc<Channel>,
    channel: Channel,
    to: String,
    orders: AtomicU64,
    leads: Arc<AtomicU64>,
    /// What the node said of itself.
    pub welcome: Welcome,
    /// The newest format level that the node knows, and the one by which this process writes now.
    knows: FormatLevel,
    level: CurrentLevel,
}

impl Link {
    /// Connects and shakes hands, in no more time than the target gives.
    async fn connect(target: &Target, lane: u32) -> Result<Link, ConnectError> {
        let connecting = tokio::time::timeout(target.connect, Self::try_connect(target, lane));
        connecting.await.unwrap_or_else(|_| Err(target.late(target.connect)))
    }

    async fn try_connect(target: &Target, lane: u32) -> Result<Link, ConnectError> {
        let address = || target.address.clone();
        let unreachable =
            |error: std::io::Error| ConnectError::Unreachable { address: address(), reason: error.to_string() };
        let stream = TcpStream::connect(&target.address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let name = ServerName::try_from(target.node.dns_name()).map_err(|error| target.unreadable(error))?;
        let connector = TlsConnector::from(Arc::clone(&target.tls));
        let stream = connector.connect(name, stream).await.map_err(|error| target.tls_error(&error))?;
        let broken = |error: hyper::Error| target.failed(&Status::from_error(Box::new(error)), target.connect);
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(target.stream_window)
            .initial_connection_window_size(target.connection_window)
            .max_frame_size(FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADERS)
            .max_concurrent_reset_streams(GIVEN_UP)
            .reset_stream_duration(GIVEN_UP_FOR)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .keep_alive_while_idle(true);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let node = target.node.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%node, %error, "a connection ended");
            }
        });
        Self::greet(target, lane, Channel(sender)).await
    }

    async fn greet(target: &Target, lane: u32, channel: Channel) -> Result<Link, ConnectError> {
        let origin = format!("https://{}", target.node.dns_name()).parse().map_err(|error| target.unreadable(error))?;
        let mut grpc = Grpc::with_origin(channel.clone(), origin).max_decoding_message_size(MESSAGE_LIMIT);
        let hello = Hello {
            oldest: *target.versions.start(),
            newest: *target.versions.end(),
            cluster: Bytes::copy_from_slice(target.node.cluster.as_bytes()),
            node: target.node.name.to_string(),
            client: Bytes::copy_from_slice(&target.client),
            lane,
            software: target.software.clone(),
            formats: formats::ours(&target.level),
            knows: FormatLevel::NEWEST.0,
            at: target.level.get().0,
        };
        let failed = |status: Status| target.failed(&status, target.connect);
        grpc.ready().await.map_err(|error| failed(Status::from_error(Box::new(error))))?;
        let path = PathAndQuery::try_from(target.hello.as_str()).map_err(|error| target.unreadable(error))?;
        let answer = grpc.unary(Request::new(hello), path, Wire::<Hello, Welcome>::default()).await;
        let welcome = answer.map_err(failed)?.into_inner();
        let theirs = ClusterId::from_slice(&welcome.cluster);
        if theirs != Some(target.node.cluster) || welcome.node != target.node.name.as_str() {
            return Err(target.unreadable("it introduces itself as another than its certificate says"));
        }
        let us = End { name: &target.own.name, role: target.own.role, software: &target.software };
        let them = End { name: &target.node.name, role: target.node.role, software: &welcome.software };
        let theirs = Theirs { formats: &welcome.formats, knows: welcome.knows, at: welcome.at };
        if let Some(reason) = formats::mismatch(us, them, theirs, &target.level) {
            return Err(ConnectError::Incompatible { address: target.address.clone(), reason });
        }
        if !target.versions.contains(&welcome.version) {
            return Err(target.unreadable(format!("it chose version {} of the protocol", welcome.version)));
        }
        let to = format!("{}/{}", target.node.cluster, target.node.name);
        let (knows, level) = (theirs.level(), target.level.clone());
        let leads = Arc::clone(&target.leads);
        Ok(Link { grpc, channel, to, orders: AtomicU64::new(0), leads, welcome, knows, level })
    }

    /// Whether nothing more may be asked over it: it is closed, or the node does not know the format level as raised since.
    fn is_over(&self) -> bool {
        self.channel.0.is_closed() || self.knows < self.level.get()
    }

    /// What program the node runs.
    pub fn release(&self) -> Release {
        Release { software: self.welcome.software.clone(), level: self.knows }
    }

    fn request<T>(&self, message: T, limit: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(limit);
        let order = self.orders.fetch_add(1, Ordering::Relaxed).to_string();
        let trace = trace::current().map(|trace| trace.to_string());
        let trace = trace.as_deref().map(|trace| (trace::HEADER, trace));
        for (key, value) in [(TO, self.to.as_str()), (ORDER, order.as_str())].into_iter().chain(trace) {
            // Digits, letters, hyphens: always good for a header.
            if let Ok(value) = value.parse() {
                request.metadata_mut().insert(key, value);
            }
        }
        request
    }

    fn order<T>(&self, method: Method, message: T, limit: Duration) -> Request<T> {
        let mut request = self.request(message, limit);
        let epoch = self.leads.load(Ordering::Acquire);
        if method.is_of_leader() && epoch > 0 {
            request.metadata_mut().insert(EPOCH, epoch.into());
        }
        request
    }

    /// Asks, and puts the answer together: `expected` bytes, as far as that is known, and never more than `limit` bytes.
    pub async fn ask<Q: Message + Default + 'static>(
        &self,
        method: Method,
        question: Q,
        (expected, limit): (usize, usize),
        time: Duration,
    ) -> Result<Result<Bytes, Fault>, AskError> {
        let mut answer = self.open(method, question, time).await?;
        let mut assembly = Assembly::new(expected, limit);
        while let Some(piece) = answer.message().await? {
            if let Some(fault) = &piece.fault {
                return Ok(Err(Fault::of_message(fault).ok_or(AskError::Fault(fault.kind))?));
            }
            assembly.add(piece)?;
        }
        assembly.end().map(Ok).ok_or(AskError::Early)
    }

    /// Asks, and leaves the answer where it is until it is taken.
    pub async fn open<Q: Message + Default + 'static>(
        &self,
        method: Method,
        question: Q,
        time: Duration,
    ) -> Result<Streaming<Piece>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let path = PathAndQuery::from_static(method.path());
        let request = self.order(method, question, time);
        Ok(grpc.server_streaming(request, path, Wire::<Q, Piece>::default()).await?.into_inner())
    }

    /// Sends a stream of pieces, with a header of its own where one is given, and leaves the answer where it is until it is
    /// taken.
    pub async fn exchange(
        &self,
        path: &str,
        header: Option<(&'static str, u64)>,
        question: impl Stream<Item = Piece> + Send + 'static,
        time: Duration,
    ) -> Result<Streaming<Piece>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let path = PathAndQuery::try_from(path).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut request = self.request(question, time);
        if let Some((key, number)) = header {
            request.metadata_mut().insert(key, number.into());
        }
        Ok(grpc.streaming(request, path, Wire::<Piece, Piece>::default()).await?.into_inner())
    }

    /// Sends an upload, and waits for the answer.
    pub async fn send(
        &self,
        method: Method,
        uploads: impl Stream<Item = Upload> + Send + 'static,
        time: Duration,
    ) -> Result<Result<(), Fault>, AskError> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let path = PathAndQuery::from_static(method.path());
        let request = self.order(method, uploads, time);
        let done: Done = grpc.client_streaming(request, path, Wire::<Upload, Done>::default()).await?.into_inner();
        done.fault.as_ref().map_or(Ok(Ok(())), |fault: &FaultMessage| {
            Fault::of_message(fault).map(Err).ok_or(AskError::Fault(fault.kind))
        })
    }
}

/// Why a call has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Status(#[from] Status),
    #[error(transparent)]
    Piece(#[from] PieceError),
    #[error("the answer ended early")]
    Early,
    #[error("an error of kind {0}, which this version does not know")]
    Fault(u32),
}

impl AskError {
    pub fn of(self, target: &Target, limit: Duration) -> ConnectError {
        match self {
            AskError::Status(status) => target.failed(&status, limit),
            AskError::Early => {
                let address = target.address.clone();
                ConnectError::Broken { address, reason: "the answer ended early".to_owned() }
            }
            other => target.unreadable(other),
        }
    }
}

struct State {
    link: Option<Arc<Link>>,
    /// No attempt before this time, and why the last one failed.
    rest: Option<(Instant, ConnectError)>,
    pause: Duration,
}

/// One connection at a time, for calls of one kind.
pub(crate) struct Lane {
    number: u32,
    state: tokio::sync::Mutex<State>,
}

impl Lane {
    pub fn new(number: u32) -> Lane {
        Lane { number, state: tokio::sync::Mutex::new(State { link: None, rest: None, pause: PAUSE }) }
    }

    /// Whether there is a connection. While one is being made there is none.
    pub fn is_linked(&self) -> bool {
        self.linked().is_some()
    }

    /// The connection, if there is one now.
    pub fn linked(&self) -> Option<Arc<Link>> {
        self.state.try_lock().ok()?.link.as_ref().filter(|link| !link.is_over()).map(Arc::clone)
    }

    /// The connection; made, if there is none. Only one is made at a time, and the others wait for it.
    pub async fn link(&self, target: &Target) -> Result<Arc<Link>, ConnectError> {
        let mut state = self.state.lock().await;
        if let Some(link) = state.link.as_ref().filter(|link| !link.is_over()) {
            return Ok(Arc::clone(link));
        }
        state.link = None;
        if let Some((_, error)) = state.rest.as_ref().filter(|(until, _)| Instant::now() < *until) {
            return Err(error.clone());
        }
        match Link::connect(target, self.number).await {
            Ok(link) => {
                let link = Arc::new(link);
                (state.link, state.rest, state.pause) = (Some(Arc::clone(&link)), None, PAUSE);
                Ok(link)
            }
            Err(error) => {
                state.rest = Some((Instant::now() + state.pause, error.clone()));
                state.pause = (state.pause * 2).min(target.pause);
                Err(error)
            }
        }
    }
}
