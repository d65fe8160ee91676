//! Raft's calls over the cluster's own port: mutual TLS, the handshake and the gate of [`storage_node::rpc`].
//!
//! Invariants:
//! * Only metadata may make these calls, and a call goes to the process of the name that the membership says, whoever else
//!   answers at its address.
//! * Snapshots have a connection of their own, and so have entries: votes and heartbeats do not wait behind megabytes.

use super::inbox::Inbox;
use super::way::{Purpose, Way, WayError, Ways};
use super::{Peer, part};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage_node::rpc::{self, Call, Client, Handler, Lane, Status};
use storage_node::service::identity::{NodeName, Role};
use storage_node::service::tls::Credentials;

/// The gRPC service.
const SERVICE: &str = "stele.metadata.v1.Raft";
/// Longest answer, in bytes.
const ANSWER: usize = 64 << 10;
/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Clients that are kept: those of more members than there are ever. Whoever is in use stays in use.
const KEPT: usize = 64;

/// The ways to the other metadata nodes, over mutual TLS.
pub struct TlsWays {
    credentials: Arc<Credentials>,
    clients: Mutex<HashMap<(Peer, bool), Arc<Known>>>,
}

/// A client, and whether its node did not answer when it was last asked: that is logged when it changes, not with each attempt.
struct Known {
    client: Client,
    away: AtomicBool,
}

impl TlsWays {
    /// Shows these credentials, which are a metadata node's.
    pub fn new(credentials: Arc<Credentials>) -> Arc<TlsWays> {
        Arc::new(TlsWays { credentials, clients: Mutex::default() })
    }

    fn client(&self, peer: &Peer, snapshots: bool) -> Result<Arc<Known>, WayError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&(peer.clone(), snapshots)) {
            return Ok(Arc::clone(client));
        }
        let name = NodeName::new(&peer.name).map_err(|error| WayError::Unreachable(error.to_string()))?;
        let to = rpc::Peer { role: Role::Metadata, name, address: peer.address.clone() };
        let client = Client::new(&self.credentials, SERVICE, to, CONNECT);
        let client = client.map_err(|error| WayError::Unreachable(error.to_string()))?;
        let client = Arc::new(Known { client, away: AtomicBool::new(false) });
        if clients.len() >= KEPT {
            clients.retain(|_, client| Arc::strong_count(client) > 1);
        }
        clients.insert((peer.clone(), snapshots), Arc::clone(&client));
        Ok(client)
    }
}

impl Ways for TlsWays {
    fn to(&self, peer: &Peer, purpose: Purpose) -> Result<Arc<dyn Way>, WayError> {
        let lane = if purpose == Purpose::Orders { Lane::Control } else { Lane::Bulk };
        Ok(Arc::new(TlsWay { client: self.client(peer, purpose == Purpose::Snapshots)?, lane }))
    }
}

struct TlsWay {
    client: Arc<Known>,
    lane: Lane,
}

#[async_trait]
impl Way for TlsWay {
    async fn ask(
        &self,
        name: &'static str,
        pieces: BoxStream<'static, Bytes>,
        time: Duration,
    ) -> Result<Bytes, WayError> {
        let Known { client, away } = &*self.client;
        let asked = client.send(self.lane, name, pieces, ANSWER, time).await;
        let was_away = away.swap(asked.is_err(), Ordering::Relaxed);
        let (node, address) = (client.identity(), client.address());
        match &asked {
            Ok(_) if was_away => tracing::info!(%node, address, "a metadata node answers again"),
            Err(error) if !was_away => tracing::warn!(%node, address, %error, "a metadata node does not answer"),
            _ => {}
        }
        asked.map_err(|error| WayError::Unreachable(error.to_string()))
    }
}

/// The service of a metadata node's port that answers Raft's calls.
pub struct Service(pub Arc<Inbox>);

#[async_trait]
impl Handler for Service {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn allows(&self, call: &str, role: Role) -> Option<bool> {
        part::CALLS.contains(&call).then_some(role == Role::Metadata)
    }

    async fn answer(&self, call: Call) -> Result<Bytes, Status> {
        let from = call.peer.name.to_string();
        let pieces = stream::unfold(call, |mut call| async {
            let piece = match call.next().await {
                Ok(piece) => Ok(piece?),
                Err(status) => Err(status.message().to_owned()),
            };
            Some((piece, call))
        });
        Ok(self.0.answer(&from, pieces.boxed()).await)
    }
}
