//! Tests of the service and its client over loopback, with mutual TLS.
#![allow(clippy::unwrap_used)]

mod access;
mod bounds;
mod coming;
mod conformance;
mod faults;
mod issue;
mod leaders;
mod levels;
mod silence;
mod two_nodes;

use super::identity::{Identity, NodeName, Role};
use super::issue::{ClusterCa, Issued};
use super::tls::Credentials;
use super::{Server, ServiceConfig};
use crate::client::NodeClient;
use crate::disk::faulty::Trace;
use crate::host::NodeHost;
use crate::node::{NodeConfig, StorageNode};
use crate::remote::{Deadlines, RemoteConfig, RemoteNode};
use crate::tests::{CLUSTER, EPOCH, drive_id, format_all, memory_kv, open_with};
use codec::id::ClusterId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

pub const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub fn identity(cluster: ClusterId, role: Role, of: &str) -> Identity {
    Identity { cluster, role, name: name(of) }
}

pub fn credentials(issued: &Issued) -> Credentials {
    Credentials::from_pem(&issued.ca, &issued.certificate, &issued.key).unwrap()
}

/// A cluster of one node, `n1`.
pub struct Cluster {
    pub trace: Trace,
    pub node: Arc<StorageNode>,
    pub ca: ClusterCa,
    pub server: Option<Server>,
    pub address: SocketAddr,
}

impl Cluster {
    pub async fn start(drives: usize, node: NodeConfig, config: ServiceConfig) -> Cluster {
        let trace = Trace::new(drives);
        format_all(&trace);
        let node = open_with(&trace, memory_kv(), node).await;
        node.begin(EPOCH).await.unwrap();
        let ca = ClusterCa::create(CLUSTER).unwrap();
        let server = serve(&ca, "n1", "127.0.0.1:0", node.clone(), node.clone(), config).await;
        let address = server.address();
        Cluster { trace, node, ca, server: Some(server), address }
    }

    /// With small segments.
    pub async fn small() -> Cluster {
        Cluster::start(1, crate::tests::config(), ServiceConfig::default()).await
    }

    /// With segments that take shards of many pieces.
    pub async fn large(config: ServiceConfig) -> Cluster {
        let node = NodeConfig { scrub: crate::scrub::ScrubConfig::on_order(), ..NodeConfig::new(CLUSTER) };
        Cluster::start(1, node, config).await
    }

    pub fn credentials(&self, role: Role) -> Credentials {
        credentials(&self.ca.issue(&identity(CLUSTER, role, "c1"), YEAR).unwrap())
    }

    pub fn config(&self) -> RemoteConfig {
        RemoteConfig::new(self.address.to_string(), name("n1"))
    }

    pub fn client(&self, role: Role) -> Arc<RemoteNode> {
        RemoteNode::new(&self.credentials(role), self.config()).unwrap()
    }

    /// A client that does not wait long.
    pub fn hasty(&self, role: Role, limit: Duration) -> Arc<RemoteNode> {
        let deadlines = Deadlines { ask: limit, read: limit, write: limit, long: limit, ..Deadlines::default() };
        RemoteNode::new(&self.credentials(role), RemoteConfig { deadlines, ..self.config() }).unwrap()
    }
}

pub async fn serve(
    ca: &ClusterCa,
    of: &str,
    address: &str,
    node: Arc<dyn NodeHost>,
    peers: Arc<dyn NodeHost>,
    config: ServiceConfig,
) -> Server {
    let issued = ca.issue(&identity(ca.cluster(), Role::StorageNode, of), YEAR).unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    Server::start(listener, &credentials(&issued), node, peers, config).unwrap()
}

pub fn first_drive() -> codec::id::DriveId {
    drive_id(0)
}
