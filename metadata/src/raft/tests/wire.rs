//! Three nodes over loopback and mutual TLS: they agree, a new one begins with a snapshot, and nobody else is heard.

use super::super::{Applied, Inbox, Machine, Network, Peer, RaftTypes, Service, TlsWays, ask_to_join};
use super::machine::{proposal, value_in};
use super::network::{PATIENCE, open};
use bytes::Bytes;
use codec::id::ClusterId;
use futures::stream;
use openraft::Raft;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use storage_node::remote::ConnectError;
use storage_node::rpc::{self, CallError, Client, Lane, RpcConfig, Server};
use storage_node::service::Refusal;
use storage_node::service::identity::{Identity, NodeName, Role};
use storage_node::service::issue::ClusterCa;
use storage_node::service::tls::Credentials;
use tokio::net::TcpListener;

const CLUSTER: ClusterId = ClusterId([1; 16]);

struct Node {
    raft: Raft<RaftTypes>,
    machine: Machine,
    server: Server,
    peer: Peer,
}

fn credentials(ca: &ClusterCa, role: Role, name: &str) -> Arc<Credentials> {
    let identity = Identity { cluster: ca.cluster(), role, name: NodeName::new(name).unwrap() };
    let issued = ca.issue(&identity, Duration::from_secs(3600)).unwrap();
    Arc::new(Credentials::from_pem(&issued.ca, &issued.certificate, &issued.key).unwrap())
}

impl Node {
    async fn start(ca: &ClusterCa, dir: &tempfile::TempDir, id: u64) -> Node {
        let name = format!("m{id}");
        let own = credentials(ca, Role::Metadata, &name);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inbox = Arc::new(Inbox::default());
        let service = Arc::new(Service(inbox.clone()));
        let server = Server::start(listener, &own, vec![service], RpcConfig::default()).unwrap();
        let (raft, machine) = open(dir, id, 200, Network::new(TlsWays::new(own))).await;
        inbox.seat(id, raft.clone(), machine.clone());
        let peer = Peer { address: server.address().to_string(), name };
        Node { raft, machine, server, peer }
    }

    async fn reaches(&self, value: u64) {
        let reached = async {
            while value_in(&self.machine) != Some(value) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("it does not come to the value");
    }
}

/// Writes through whoever leads.
async fn write(nodes: &[&Node], value: u64) {
    let written = async {
        loop {
            for node in nodes {
                let before = node.machine.tail().unwrap();
                let asked =
                    tokio::time::timeout(Duration::from_secs(5), node.raft.client_write(proposal(&before, 1, value)));
                if matches!(asked.await, Ok(Ok(done)) if done.data == Applied::Done) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("nobody writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_agree_over_mutual_tls() {
    let (ca, dir) = (ClusterCa::create(CLUSTER).unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (Node::start(&ca, &dir, 1).await, Node::start(&ca, &dir, 2).await);
    one.raft.initialize(BTreeMap::from([(1, one.peer.clone()), (2, two.peer.clone())])).await.unwrap();
    for value in 1..=10 {
        write(&[&one, &two], value).await;
    }
    // One that leads says no as well, while the other takes longer than a heartbeat to answer it.
    let led = async {
        loop {
            for node in [&one, &two] {
                if node.raft.ensure_linearizable().await.is_ok() {
                    return node;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let leader = tokio::time::timeout(PATIENCE, led).await.expect("nobody leads");
    let upto = leader.machine.tail().unwrap().lsn.0;
    leader.raft.trigger().snapshot().await.unwrap();
    leader.raft.wait(Some(PATIENCE)).metrics(|m| m.snapshot.map(|id| id.index) >= Some(upto), "built").await.unwrap();
    leader.raft.trigger().purge_log(upto).await.unwrap();
    leader.raft.wait(Some(PATIENCE)).metrics(|m| m.purged.map(|id| id.index) >= Some(upto), "purged").await.unwrap();
    let three = Node::start(&ca, &dir, 3).await;
    let added = leader.raft.add_learner(3, three.peer.clone(), true);
    tokio::time::timeout(PATIENCE, added).await.expect("in time").unwrap();
    leader.raft.change_membership(BTreeSet::from([1, 2, 3]), false).await.unwrap();
    write(&[&one, &two], 11).await;
    three.reaches(11).await;
    // One gone: the other two go on.
    one.server.stop(Duration::ZERO).await;
    one.raft.shutdown().await.unwrap();
    write(&[&two, &three], 12).await;
    two.reaches(12).await;
    three.reaches(12).await;
    for node in [two, three] {
        node.raft.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_metadata_is_heard_and_only_who_is_meant_answers() {
    let (ca, dir) = (ClusterCa::create(CLUSTER).unwrap(), tempfile::tempdir().unwrap());
    let one = Node::start(&ca, &dir, 1).await;
    for role in [Role::Gateway, Role::StorageNode, Role::Repair] {
        let to =
            rpc::Peer { role: Role::Metadata, name: NodeName::new("m1").unwrap(), address: one.peer.address.clone() };
        let client = Client::new(&credentials(&ca, role, "x1"), "stele.metadata.v1.Raft", to, PATIENCE).unwrap();
        let asked = client.send(Lane::Control, "Vote", stream::empty(), 100, PATIENCE).await;
        let refused = matches!(asked, Err(CallError::NotSent(ConnectError::Refused { refusal: Refusal::Role, .. })));
        assert!(refused, "{role}");
    }
    let ways = TlsWays::new(credentials(&ca, Role::Metadata, "m2"));
    let joins = async |name: &str| {
        let peer = Peer { address: one.peer.address.clone(), name: name.to_owned() };
        ask_to_join(&*ways, &peer, Bytes::new()).await.unwrap_err().to_string()
    };
    // There is nobody who makes it take part.
    let error = joins("m1").await;
    assert!(error.contains("it starts, or ends"), "{error}");
    let error = joins("m3").await;
    assert!(error.contains("/metadata/m1, not ") && error.contains("/metadata/m3"), "{error}");
    let other = ClusterCa::create(ClusterId([2; 16])).unwrap();
    let ways = TlsWays::new(credentials(&other, Role::Metadata, "m2"));
    let error = ask_to_join(&*ways, &one.peer, Bytes::new()).await.unwrap_err().to_string();
    assert!(error.contains("belongs to cluster"), "{error}");
    one.raft.shutdown().await.unwrap();
}
