//! The storage node's gRPC service: [`NodeClient`] over the network, for the other processes of the cluster.
//!
//! [`Server`] takes connections; [`tls`] sees that both ends show a certificate of the cluster's CA; [`gate`] lets a request
//! pass; [`call`] gives it a deadline and a shape, [`answer`] and [`upload`] ask the node. The client is [`crate::remote`].
//!
//! Invariants:
//! * Who is not of this cluster learns that, and nothing else. What a process may do follows from the role in its
//!   certificate and from nothing that it sends.
//! * What the service holds is bounded: connections that have not shown a certificate (also per address, so that one machine
//!   can't keep the others out), connections, streams per connection, bytes of payloads that are being received, bytes of
//!   ranges that are being read, bytes per message. Who comes then waits, no longer than his own deadline. The journal has a
//!   room of its own: shards that are being received can't keep a commit waiting.
//! * Everything has an end: the handshakes, reading a request, each piece of an upload, and an answer that nobody takes.

pub(crate) mod answer;
pub(crate) mod call;
pub(crate) mod fault;
pub(crate) mod gate;
pub mod identity;
pub mod issue;
pub(crate) mod message;
pub mod method;
pub mod tls;
mod upload;
pub(crate) mod wire;

pub use gate::{PROTOCOL, Refusal};

#[cfg(test)]
mod tests;

use self::gate::{Gate, Gates};
use self::identity::{Identity, IdentityError};
use self::tls::{Credentials, TlsError};
use crate::client::NodeClient;
use crate::host::NodeHost;
use futures::FutureExt;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How the service works.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Bytes of shards' payloads that may be in the middle of being received and written.
    pub uploads: usize,
    /// Bytes of journal batches that may be in the middle of being received and written.
    pub journal: usize,
    /// Bytes of ranges that may be in the middle of being read and sent.
    pub reads: usize,
    /// Connections at the same time; who comes then is turned away, and tries again.
    pub connections: usize,
    /// Connections that have not shown a certificate yet.
    pub handshakes: usize,
    /// Of these, from one address.
    pub handshakes_per_address: usize,
    /// The longest that any call may take, whatever its sender says.
    pub deadline: Duration,
    /// How long a client may take to show its certificate, and then to say whom it means.
    pub handshake: Duration,
    /// How long the message of a request, or the next piece of an upload, may be on its way.
    pub stall: Duration,
    /// Bytes of one stream that a client may send ahead.
    pub stream_window: u32,
    /// Bytes of one connection that a client may send ahead.
    pub connection_window: u32,
    /// The versions of the protocol that are spoken.
    pub versions: RangeInclusive<u32>,
    /// Told to clients, for people.
    pub software: String,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        ServiceConfig {
            uploads: 256 << 20,
            journal: 64 << 20,
            reads: 256 << 20,
            connections: 1024,
            handshakes: 256,
            handshakes_per_address: 64,
            deadline: Duration::from_secs(2 * 3600),
            handshake: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            stream_window: wire::STREAM_WINDOW,
            connection_window: wire::CONNECTION_WINDOW,
            versions: PROTOCOL,
            software: format!("stele {}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub node: Arc<dyn NodeHost>,
    pub peers: Arc<dyn NodeClient>,
    pub config: ServiceConfig,
    /// Another one each time that the service starts: what the drives hold may have changed in between.
    pub incarnation: u64,
    /// The shards that are being received.
    pub receiving: upload::Receiving,
    /// Room for shards, in KiB.
    pub uploads: Arc<Semaphore>,
    /// Room for journal batches, in KiB.
    pub journal: Arc<Semaphore>,
    /// Room for ranges, in KiB.
    pub reads: Arc<Semaphore>,
    pub gates: Arc<Gates>,
    handshakes: Mutex<Handshakes>,
}

/// Connections that have not shown a certificate yet.
#[derive(Default)]
struct Handshakes {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// A node's service. Dropping it ends the service at once; [`Self::stop`] lets what was begun end first.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<JoinSet<()>>,
    #[cfg(test)]
    pub(crate) shared: Arc<Shared>,
}

/// How often an idle connection is asked whether the other end is still there, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

impl Server {
    /// Serves `node` on a listener, as the node of these credentials. Orders to rebuild are carried out through `peers`,
    /// which reaches the drives of other nodes as well; it may be `node` itself while there are none.
    pub fn start(
        listener: TcpListener,
        credentials: &Credentials,
        node: Arc<dyn NodeHost>,
        peers: Arc<dyn NodeClient>,
        config: ServiceConfig,
    ) -> Result<Server, StartError> {
        let address = listener.local_addr().map_err(StartError::Listener)?;
        let gates = Gates::new(credentials.identity().clone(), config.software.clone(), config.versions.clone());
        let kib = |bytes: usize| Arc::new(Semaphore::new((bytes / 1024).clamp(1, Semaphore::MAX_PERMITS)));
        let (uploads, journal, reads) = (kib(config.uploads), kib(config.journal), kib(config.reads));
        let mut incarnation = [0; 8];
        getrandom::fill(&mut incarnation).map_err(StartError::Random)?;
        // 0 is said by who does not know of it.
        let incarnation = u64::from_le_bytes(incarnation).max(1);
        let acceptor = TlsAcceptor::from(credentials.server()?);
        let (receiving, handshakes) = Default::default();
        let shared = Shared { node, peers, config, incarnation, receiving, uploads, journal, reads, gates, handshakes };
        let shared = Arc::new(shared);
        let (stop, stopping) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&shared), stopping));
        Ok(Server {
            address,
            stop,
            accepting,
            #[cfg(test)]
            shared,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, waits up to `grace` for those that were begun, and ends.
    pub async fn stop(self, grace: Duration) {
        self.stop.send_replace(true);
        let Ok(mut connections) = self.accepting.await else { return };
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, ended).await.is_err() {
            tracing::warn!(?grace, "requests were still under way when the service ended");
        }
    }
}

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listener has no address.
    #[error("the listener: {0}")]
    Listener(#[source] std::io::Error),
    /// The credentials can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
}

/// A place among those that have not shown a certificate; given back when it is dropped.
struct Handshake {
    shared: Arc<Shared>,
    from: IpAddr,
}

impl Shared {
    fn handshakes(&self) -> MutexGuard<'_, Handshakes> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handshake {
    /// Nobody waits for a place: who is silent would keep those who speak waiting.
    fn begin(shared: &Arc<Shared>, from: IpAddr) -> Option<Handshake> {
        let (most, of_one) = (shared.config.handshakes, shared.config.handshakes_per_address);
        let mut handshakes = shared.handshakes();
        let used = handshakes.of.get(&from).copied().unwrap_or(0);
        if handshakes.all >= most || used >= of_one {
            return None;
        }
        handshakes.all += 1;
        handshakes.of.insert(from, used + 1);
        Some(Handshake { shared: Arc::clone(shared), from })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut handshakes = self.shared.handshakes();
        handshakes.all = handshakes.all.saturating_sub(1);
        let left = handshakes.of.get(&self.from).copied().unwrap_or(0).saturating_sub(1);
        match left {
            0 => drop(handshakes.of.remove(&self.from)),
            left => drop(handshakes.of.insert(self.from, left)),
        }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    mut stopping: watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(shared.config.connections.max(1)));
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            _ = stopping.changed() => return connections,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let Some(handshake) = Handshake::begin(&shared, from.ip()) else {
                    tracing::warn!(%from, "too many connections have not shown a certificate yet: turned away");
                    continue;
                };
                let (acceptor, places, stopping) = (acceptor.clone(), Arc::clone(&places), stopping.clone());
                connections.spawn(connection(stream, from, acceptor, handshake, stopping, places));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Out of file descriptors, as a rule: trying again at once would only burn time.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    acceptor: TlsAcceptor,
    handshake: Handshake,
    stopping: watch::Receiver<bool>,
    places: Arc<Semaphore>,
) {
    let shared = Arc::clone(&handshake.shared);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let secured = tokio::time::timeout(shared.config.handshake, acceptor.accept(stream)).await;
    let stream = match secured {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::warn!(%from, %error, "a connection is refused"),
        Err(_) => return tracing::warn!(%from, "a connection showed no certificate in time"),
    };
    drop(handshake);
    let Ok(_place) = places.try_acquire_owned() else {
        return tracing::warn!(%from, "too many connections: turned away");
    };
    match peer(&stream) {
        Ok(peer) => serve(stream, peer, shared, stopping).await,
        Err(error) => tracing::warn!(%from, %error, "a connection is refused"),
    }
}

fn peer(stream: &TlsStream<TcpStream>) -> Result<Identity, IdentityError> {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Identity::of_certificate(chain.first().ok_or(IdentityError::None)?)
}

async fn serve(stream: TlsStream<TcpStream>, peer: Identity, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let gate = Arc::new(Gate::new(Arc::clone(&shared.gates), peer.clone()));
    let (greeted, limit) = (Arc::clone(&gate), shared.config.handshake);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(shared.config.stream_window)
        .initial_connection_window_size(shared.config.connection_window)
        .max_frame_size(wire::FRAME)
        .max_send_buf_size(wire::SEND_BUFFER)
        .max_concurrent_streams(wire::STREAMS)
        .max_header_list_size(wire::HEADERS)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let service = service_fn(move |request| {
        let (shared, gate) = (Arc::clone(&shared), Arc::clone(&gate));
        call::call(shared, gate, request).map(Ok::<_, Infallible>).boxed()
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let stop = async { drop(stopping.wait_for(|stop| *stop).await) };
    let silent = async {
        tokio::time::sleep(limit).await;
        if greeted.is_open() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // An error means that the server was dropped: it ends as well.
        () = silent => return tracing::warn!(%peer, "a connection did not say in time whom it means"),
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended");
    }
}
