//! A port that takes the connections of the cluster's processes: mutual TLS, the handshake, HTTP/2. What is asked over them
//! is not its business: [`Answers`] is.
//!
//! Invariants:
//! * A request reaches [`Answers`] only over a connection on which a certificate of the cluster's CA was shown; what it may
//!   do is for the [`Gate`] of the connection to say.
//! * Connections are bounded, and so are those that have not shown a certificate, in all and per address: one machine that
//!   is silent can't keep the others out.

use super::gate::{Gate, Gates};
use super::identity::{Identity, IdentityError};
use super::wire;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::body::Body;

/// How often an idle connection is asked whether the other end is still there, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// What answers the requests of a port.
pub(crate) trait Answers: Send + Sync + 'static {
    /// Answers one request that came over the connection of `gate`, which has yet to let it pass.
    fn answer(&self, gate: Arc<Gate>, request: http::Request<Incoming>) -> BoxFuture<'static, http::Response<Body>>;
}

/// The bounds of a port.
#[derive(Clone, Debug)]
pub(crate) struct PortConfig {
    /// Connections at the same time.
    pub connections: usize,
    /// Connections that have not shown a certificate yet.
    pub handshakes: usize,
    /// Of these, from one address.
    pub handshakes_per_address: usize,
    /// How long a client may take to show its certificate, and then to say whom it means.
    pub handshake: Duration,
    /// Bytes of one stream that a client may send ahead.
    pub stream_window: u32,
    /// Bytes of one connection that a client may send ahead.
    pub connection_window: u32,
}

/// Takes connections. Dropping it ends them at once; [`Self::stop`] lets what was begun end first.
pub(crate) struct Port {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<JoinSet<()>>,
}

/// What all connections share.
struct Shared {
    config: PortConfig,
    gates: Arc<Gates>,
    answers: Arc<dyn Answers>,
    handshakes: Mutex<Handshakes>,
}

/// Connections that have not shown a certificate yet.
#[derive(Default)]
struct Handshakes {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

impl Port {
    /// Takes the connections of a listener.
    pub fn start(
        listener: TcpListener,
        acceptor: TlsAcceptor,
        gates: Arc<Gates>,
        config: PortConfig,
        answers: Arc<dyn Answers>,
    ) -> std::io::Result<Port> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { config, gates, answers, handshakes: Mutex::default() });
        let (stop, stopping) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, acceptor, shared, stopping));
        Ok(Port { address, stop, accepting })
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

/// What counts as one address: one machine may have all those of its network, which is a /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
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
                let Some(handshake) = Handshake::begin(&shared, network(from.ip())) else {
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
    let service = service_fn(move |request| shared.answers.answer(Arc::clone(&gate), request).map(Ok::<_, Infallible>));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_machine_with_many_addresses_is_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }
}
