//! The storage node's gRPC service: [`NodeClient`] over the network, for the other processes of the cluster.
//!
//! [`Server`] takes connections ([`port`]); [`tls`] sees that both ends show a certificate of the cluster's CA; [`gate`] lets a request
//! pass; [`call`] gives it a deadline and a shape, [`answer`] and [`upload`] ask the node. The client is [`crate::remote`].
//!
//! Invariants:
//! * Who is not of this cluster learns that, and nothing else. What a process may do follows from the role in its
//!   certificate and from nothing that it sends.
//! * What the service holds is bounded: connections that have not shown a certificate (also per address, so that one machine
//!   can't keep the others out), connections, streams per connection, bytes of payloads that are being received, bytes of
//!   ranges and other long answers that are being read, bytes per message; one process may have half of each such room ([`rooms`]).
//!   Who comes then waits, no longer than his own deadline. The journal has a room of its own: shards that are being received
//!   can't keep a commit waiting.
//! * Everything has an end: the handshakes, reading a request, each piece of an upload, and an answer that nobody takes.

pub(crate) mod answer;
pub(crate) mod call;
pub(crate) mod fault;
pub(crate) mod formats;
pub(crate) mod gate;
pub(crate) mod grants;
pub mod identity;
pub mod issue;
pub(crate) mod message;
pub mod method;
pub(crate) mod port;
pub(crate) mod rooms;
pub mod tls;
mod upload;
pub(crate) mod wire;

pub use gate::{PROTOCOL, Refusal, Release};

#[cfg(test)]
pub(crate) mod tests;

use self::gate::{Gate, Gates};
use self::port::{Answers, Port, PortConfig};
use self::rooms::Room;
use self::tls::{Credentials, TlsError};
use crate::host::{DriveSource, NodeHost};
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;

/// How the service works.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Bytes of shards' payloads that may be in the middle of being received and written.
    pub uploads: usize,
    /// Bytes of journal batches that may be in the middle of being received and written.
    pub journal: usize,
    /// Bytes of ranges that may be in the middle of being read and sent.
    pub reads: usize,
    /// Bytes of long answers of other kinds, such as scans and listings, that may be in the middle of being made and sent.
    pub answers: usize,
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
    /// Which directories may become drives on metadata's order; without it none.
    pub drives: Option<Arc<dyn DriveSource>>,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        ServiceConfig {
            uploads: 256 << 20,
            journal: 64 << 20,
            reads: 256 << 20,
            answers: 128 << 20,
            connections: 1024,
            handshakes: 256,
            handshakes_per_address: 64,
            deadline: Duration::from_secs(2 * 3600),
            handshake: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            stream_window: wire::STREAM_WINDOW,
            connection_window: wire::CONNECTION_WINDOW,
            versions: PROTOCOL,
            software: codec::level::SOFTWARE.to_owned(),
            drives: None,
        }
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub node: Arc<dyn NodeHost>,
    pub peers: Arc<dyn NodeHost>,
    pub config: ServiceConfig,
    /// Another one each time that the service starts: what the drives hold may have changed in between.
    pub incarnation: u64,
    /// Room for shards.
    pub uploads: Room,
    /// Room for journal batches, in KiB: one process leads, and has it by itself.
    pub journal: Arc<Semaphore>,
    /// Room for ranges.
    pub reads: Room,
    /// Room for long answers of other kinds.
    pub answers: Room,
    pub gates: Arc<Gates>,
}

/// A node's service. Dropping it ends the service at once; [`Self::stop`] lets what was begun end first.
pub struct Server {
    port: Port,
    #[cfg(test)]
    pub(crate) shared: Arc<Shared>,
}

/// The calls of a node.
struct Calls(Arc<Shared>);

impl Answers for Calls {
    fn answer(&self, gate: Arc<Gate>, request: http::Request<Incoming>) -> BoxFuture<'static, http::Response<Body>> {
        call::call(Arc::clone(&self.0), gate, request).boxed()
    }
}

impl Server {
    /// Serves `node` on a listener, as the node of these credentials. Orders to rebuild are carried out through `peers`,
    /// which reaches the drives of other nodes as well; it may be `node` itself while there are none.
    pub fn start(
        listener: TcpListener,
        credentials: &Credentials,
        node: Arc<dyn NodeHost>,
        peers: Arc<dyn NodeHost>,
        config: ServiceConfig,
    ) -> Result<Server, StartError> {
        let gates = Gates::new(
            credentials.identity().clone(),
            config.software.clone(),
            config.versions.clone(),
            credentials.level().clone(),
        );
        gates.remember(node.leader());
        let journal = Arc::new(Semaphore::new((config.journal / 1024).clamp(1, Semaphore::MAX_PERMITS)));
        let (uploads, reads, answers) = (Room::new(config.uploads), Room::new(config.reads), Room::new(config.answers));
        let mut incarnation = [0; 8];
        getrandom::fill(&mut incarnation).map_err(StartError::Random)?;
        // 0 is said by who does not know of it.
        let incarnation = u64::from_le_bytes(incarnation).max(1);
        let acceptor = TlsAcceptor::from(credentials.server()?);
        let port = PortConfig {
            connections: config.connections,
            handshakes: config.handshakes,
            handshakes_per_address: config.handshakes_per_address,
            handshake: config.handshake,
            stream_window: config.stream_window,
            connection_window: config.connection_window,
        };
        let gates_too = Arc::clone(&gates);
        let shared = Shared { node, peers, config, incarnation, uploads, journal, reads, answers, gates: gates_too };
        let shared = Arc::new(shared);
        let calls = Arc::new(Calls(Arc::clone(&shared)));
        Ok(Server {
            port: Port::start(listener, acceptor, gates, port, calls).map_err(StartError::Listener)?,
            #[cfg(test)]
            shared,
        })
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
