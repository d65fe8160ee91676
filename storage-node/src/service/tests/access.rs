//! Who is let in, and what each may do.
use super::*;
use crate::client::{ReadError, Reserve, WriteError};
use crate::keep::{Authority, ShardRef};
use crate::remote::ConnectError;
use crate::service::{PROTOCOL, Refusal};
use crate::tests::{noise, shard};
use bytes::Bytes;
use codec::id::{Epoch, Lsn};
use codec::stripe::StripeClass;

const OTHER: ClusterId = ClusterId([8; 16]);

fn refusal(client: &RemoteNode) -> Option<Refusal> {
    match client.problem() {
        Some(ConnectError::Refused { refusal, .. }) => Some(refusal),
        _ => None,
    }
}

async fn put(client: &RemoteNode, counter: u64) -> Result<(), WriteError> {
    let (header, payload) = shard(counter, 100);
    client.write_shard(first_drive(), header, payload, Reserve::Client).await
}

async fn get(client: &RemoteNode, counter: u64) -> Result<Bytes, ReadError> {
    let (header, _) = shard(counter, 100);
    client.read_shard(first_drive(), header.id(), header.descriptor.root(), 0..100).await
}

#[tokio::test]
async fn r13_a_gateway_writes_and_reads_and_nobody_but_metadata_frees() {
    let cluster = Cluster::small().await;
    let (header, _) = shard(1, 100);
    let of = ShardRef { id: header.id(), root: header.descriptor.root() };
    let authority = Authority { epoch: Epoch(1), lsn: Lsn(1) };
    for role in [Role::Gateway, Role::Repair, Role::StorageNode] {
        let client = cluster.client(role);
        put(&client, 1).await.unwrap();
        assert_eq!(get(&client, 1).await, Ok(noise(1, 100)));
        assert_eq!(client.problem(), None);
        let freed = client.free_shards(first_drive(), authority, vec![of]).await;
        assert_eq!(freed, Err(WriteError::Unreachable));
        assert_eq!(refusal(&client), Some(Refusal::Role), "{role}");
        assert_eq!(client.write_register(first_drive(), Bytes::new()).await, Err(WriteError::Unreachable));
        assert_eq!(client.journal_free(first_drive(), 1).await, Err(WriteError::Unreachable));
        assert_eq!(get(&client, 1).await, Ok(noise(1, 100)), "nothing was freed");
    }
    assert_eq!(cluster.node.authority(first_drive()).await, Ok(Authority::default()));
    let metadata = cluster.client(Role::Metadata);
    assert_eq!(metadata.free_shards(first_drive(), authority, vec![of]).await.unwrap().shards, 1);
}

#[tokio::test]
async fn r14_a_gateway_writes_clients_bytes_outside_the_reserve() {
    let cluster = Cluster::small().await;
    let client = cluster.client(Role::Gateway);
    let (header, payload) = shard(1, 100);
    let reserve = client.write_shard(first_drive(), header.clone(), payload.clone(), Reserve::Metadata).await;
    assert_eq!((reserve, refusal(&client)), (Err(WriteError::Unreachable), Some(Refusal::Role)));
    let mut ledger = header.clone();
    ledger.descriptor.class = StripeClass::Ledger;
    ledger.descriptor.lsn_range = Some((Lsn(1), Lsn(2)));
    let refused = client.write_shard(first_drive(), ledger, payload.clone(), Reserve::Client).await;
    assert_eq!((refused, refusal(&client)), (Err(WriteError::Unreachable), Some(Refusal::Role)));
    let mut foreign = header;
    foreign.descriptor.cluster = OTHER;
    let refused = client.write_shard(first_drive(), foreign, payload, Reserve::Client).await;
    assert_eq!((refused, refusal(&client)), (Err(WriteError::Unreachable), Some(Refusal::WrongCluster)));
    assert_eq!(cluster.node.list_shards(first_drive(), None, None, 10).await, Ok(vec![]));
}

#[tokio::test]
async fn another_cluster_is_refused_by_name() {
    let cluster = Cluster::small().await;
    let ca = ClusterCa::create(OTHER).unwrap();
    let stranger = credentials(&ca.issue(&identity(OTHER, Role::Metadata, "m1"), YEAR).unwrap());
    let client = RemoteNode::new(&stranger, cluster.config()).unwrap();
    let address = cluster.address.to_string();
    assert_eq!(client.connect().await, Err(ConnectError::WrongCluster { address, ours: OTHER, theirs: CLUSTER }));
    assert_eq!(get(&client, 1).await, Err(ReadError::Unreachable));
    assert!(client.drives().await.is_empty());
}

#[tokio::test]
async fn another_node_is_refused_by_name() {
    let cluster = Cluster::small().await;
    let config = RemoteConfig { node: name("n2"), ..cluster.config() };
    let client = RemoteNode::new(&cluster.credentials(Role::Metadata), config).unwrap();
    let wanted = identity(CLUSTER, Role::StorageNode, "n2");
    let theirs = identity(CLUSTER, Role::StorageNode, "n1");
    let address = cluster.address.to_string();
    assert_eq!(client.connect().await, Err(ConnectError::WrongNode { address, wanted, theirs }));
}

#[tokio::test]
async fn a_gateway_can_not_pose_as_a_node() {
    let cluster = Cluster::small().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = cluster.node.clone();
    let posing = cluster.credentials(Role::Gateway);
    let server = Server::start(listener, &posing, node.clone(), node, ServiceConfig::default()).unwrap();
    let config = RemoteConfig { address: server.address().to_string(), ..cluster.config() };
    let client = RemoteNode::new(&cluster.credentials(Role::Metadata), config).unwrap();
    assert!(matches!(client.connect().await, Err(ConnectError::WrongNode { .. })));
}

#[tokio::test]
async fn another_ca_is_trusted_by_neither_side() {
    let cluster = Cluster::small().await;
    let other = ClusterCa::create(CLUSTER).unwrap();
    let forged = other.issue(&identity(CLUSTER, Role::Metadata, "m1"), YEAR).unwrap();
    // A client that trusts only the other CA.
    let client = RemoteNode::new(&credentials(&forged), cluster.config()).unwrap();
    assert!(matches!(client.connect().await, Err(ConnectError::Untrusted { .. })), "{:?}", client.problem());
    // One that trusts the right CA, and shows a certificate of the other.
    let good = cluster.ca.issue(&identity(CLUSTER, Role::Metadata, "m1"), YEAR).unwrap();
    assert!(Credentials::from_pem(&good.ca, &forged.certificate, &forged.key).is_err(), "found at home as well");
    let mixed = Credentials::unchecked(&good.ca, &forged.certificate, &forged.key).unwrap();
    let client = RemoteNode::new(&mixed, cluster.config()).unwrap();
    let refused = client.connect().await;
    assert!(matches!(refused, Err(ConnectError::NotTaken { .. } | ConnectError::Broken { .. })), "{refused:?}");
    assert_eq!(put(&client, 1).await, Err(WriteError::Unreachable));
    assert_eq!(cluster.node.list_shards(first_drive(), None, None, 10).await, Ok(vec![]));
}

#[tokio::test]
async fn without_tls_there_is_no_answer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cluster = Cluster::small().await;
    let mut stream = tokio::net::TcpStream::connect(cluster.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _closed = stream.read_to_end(&mut answer).await;
    assert!(answer.len() < 64, "an alert at most: {answer:?}");
}

#[tokio::test]
async fn versions_must_meet() {
    let cluster = Cluster::small().await;
    let versions = PROTOCOL.end() + 1..=PROTOCOL.end() + 5;
    let newer = RemoteConfig { versions, ..cluster.config() };
    let client = RemoteNode::new(&cluster.credentials(Role::Metadata), newer).unwrap();
    let refused = client.connect().await.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { refusal: Refusal::Version, .. }));
    assert!(refused.to_string().contains("speaks versions 1 to 1"), "{refused}");
    let wider = RemoteConfig { versions: *PROTOCOL.start()..=PROTOCOL.end() + 5, ..cluster.config() };
    let client = RemoteNode::new(&cluster.credentials(Role::Metadata), wider).unwrap();
    assert!(client.connect().await.unwrap().starts_with("stele "));
}
