//! A cluster of three storage nodes that say in which racks they stand.

use super::keeping::{bad_shards, keeper, settle, stripes};
use super::world::{Client, World, new_node_index, noise};
use crate::client::MetadataClient;
use crate::index::{self, Overlay};
use crate::service::Metadata;
use crate::start::{StartError, start};
use crate::topology::Level;
use codec::id::{ClusterId, DriveId};
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::{Labels, NodeClient};
use storage_node::disk::Disk;
use storage_node::drive::{format, probe};
use storage_node::host::NodeHost;
use storage_node::node::{NodeConfig, StorageNode};
use storage_node::remote::{NodeAddress, Nodes};
use storage_node::service::identity::{Identity, NodeName, Role};
use storage_node::service::issue::ClusterCa;
use storage_node::service::tls::Credentials;
use storage_node::service::{Server, ServiceConfig};

const CLUSTER: ClusterId = ClusterId([5; 16]);

/// A node of two drives in each of these racks.
async fn nodes_in(world: &World, racks: [&str; 3]) -> Vec<Arc<StorageNode>> {
    let mut nodes = Vec::new();
    for (n, rack) in racks.into_iter().enumerate() {
        let probed = (2 * n..2 * n + 2).map(|drive| {
            let disk = world.trace.disk(drive) as Arc<dyn Disk>;
            if probe(disk.clone(), Some(CLUSTER)).identity.is_none() {
                format(&*disk, CLUSTER, DriveId([drive as u8 + 1; 16]), None).unwrap();
            }
            probe(disk, Some(CLUSTER))
        });
        let how = NodeConfig {
            labels: Labels::new(rack, "here").unwrap(),
            data_segment: 1 << 20,
            journal_segment: 256 << 10,
            preallocate_step: 64 << 10,
            ..NodeConfig::new(CLUSTER)
        };
        nodes.push(StorageNode::open(how, probed.collect(), new_node_index()).await.unwrap());
    }
    nodes
}

async fn start_over(world: &World, nodes: &[Arc<StorageNode>]) -> Result<Metadata, StartError> {
    let all = nodes.iter().map(|node| node.clone() as Arc<dyn NodeHost>).collect();
    start(world.node_parts(Nodes::new(all), CLUSTER), world.config.clone()).await
}

/// The same nodes behind ports of their own: what one of them writes again it reads from the others.
async fn served(nodes: &[Arc<StorageNode>]) -> (Vec<Server>, Arc<dyn NodeHost>) {
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let credentials = |role, name: &NodeName| {
        let identity = Identity { cluster: CLUSTER, role, name: name.clone() };
        let issued = ca.issue(&identity, Duration::from_secs(24 * 3600)).unwrap();
        Credentials::from_pem(&issued.ca, &issued.certificate, &issued.key).unwrap()
    };
    let (mut servers, mut list) = (Vec::new(), Vec::new());
    for (n, node) in nodes.iter().enumerate() {
        let name = NodeName::new(&format!("n{n}")).unwrap();
        let own = credentials(Role::StorageNode, &name);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peers = Nodes::beside(node.clone(), own.clone(), &[]).unwrap();
        let server = Server::start(listener, &own, node.clone(), peers, ServiceConfig::default()).unwrap();
        list.push(NodeAddress { name, address: server.address().to_string() });
        servers.push(server);
    }
    let metadata = credentials(Role::Metadata, &NodeName::new("m1").unwrap());
    (servers, Nodes::connecting(metadata, &list).unwrap())
}

#[tokio::test]
async fn a_rule_that_the_racks_cannot_keep_ends_the_first_start() {
    let mut world = World::new(6, "3+2");
    world.config.survive = Some(Level::Rack);
    let nodes = nodes_in(&world, ["a", "a", "b"]).await;
    let error = start_over(&world, &nodes).await.unwrap_err();
    assert!(matches!(&error, StartError::Rule(unmet) if unmet.groups == 2 && unmet.capacity == 4), "{error}");
    assert!(error.to_string().contains("geometry 2+2 would do"), "{error}");
    for node in nodes_in(&world, ["a", "a", "b"]).await {
        assert!(node.read_register(node.drives().await[0].id).await.unwrap().is_empty(), "nothing was written");
    }
}

/// Stripes from before there were racks stayed where they were, counted and at risk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stripes_from_before_there_were_racks_are_brought_apart() {
    let mut world = World::new(6, "2+1");
    world.config.keep.walk_rows = 7;
    let nodes = nodes_in(&world, ["a", "a", "a"]).await;
    let metadata = start_over(&world, &nodes).await.unwrap();
    let mut client = Client::default();
    client.create_bucket(&metadata).await;
    for from in (0..60).step_by(5) {
        client.puts(&metadata, from..from + 5, 4000).await;
        metadata.seal_now().await.unwrap();
    }
    metadata.shutdown().await;

    let nodes = nodes_in(&world, ["a", "b", "c"]).await;
    let (_servers, far) = served(&nodes).await;
    let metadata = start(world.node_parts(far, CLUSTER), world.config.clone()).await.unwrap();
    metadata.check_drives().await;
    let rack_of = |drive: DriveId| (drive.0[0] - 1) / 2;
    let crowded = || {
        let of = |row: &codec::effect::StripeRow| {
            let racks = row.drives.iter().filter_map(|drive| DriveId::from_slice(drive)).map(rack_of);
            racks.collect::<std::collections::BTreeSet<u8>>().len()
        };
        let shards = |row: &codec::effect::StripeRow| row.drives.iter().filter(|drive| !drive.is_empty()).count();
        stripes(&metadata).iter().filter(|(_, row)| of(row) < shards(row)).count() as u64
    };
    let before = crowded();
    assert!(before > 5, "{before}");
    keeper(&metadata).pause(true);
    for _ in 0..50 {
        keeper(&metadata).run_once().await.unwrap();
    }
    assert_eq!((crowded(), keeper(&metadata).status().crowded[1]), (before, before));
    let said = metadata.status().warnings;
    assert!(said.iter().any(|said| said.contains(&format!("{before} older stripes"))), "{said:?}");

    keeper(&metadata).pause(false);
    settle(&metadata).await;
    let status = keeper(&metadata).status();
    assert_eq!((crowded(), status.crowded, status.totals.apart >= before), (0, [0; 3], true), "{status:?}");
    assert_eq!(bad_shards(&metadata).await, []);
    let rows = stripes(&metadata);
    settle(&metadata).await;
    assert_eq!(stripes(&metadata), rows, "nothing moves any more");
    // A whole rack is gone, and everything reads.
    nodes[0].stop().await;
    metadata.check_drives().await;
    client.check(&metadata).await;
    metadata.shutdown().await;
}

#[tokio::test]
async fn by_the_rule_k_shrinks_when_a_rack_is_gone_and_m_does_not() {
    let mut world = World::new(6, "3+2");
    world.config.survive = Some(Level::Rack);
    let nodes = nodes_in(&world, ["a", "b", "c"]).await;
    let metadata = start_over(&world, &nodes).await.unwrap();
    metadata.check_drives().await;
    let status = metadata.status();
    assert_eq!(status.survives, "survives the loss of any 2 drives, 1 rack", "{status:?}");
    let racks = index::drives(&Overlay::new(&**metadata.kv())).unwrap().into_iter().map(|row| row.rack);
    assert_eq!(racks.collect::<Vec<_>>(), ["a", "a", "b", "b", "c", "c"]);
    let rack_of = |drive: &DriveId| (drive.0[0] - 1) / 2;
    let journal: std::collections::BTreeSet<u8> = status.ensemble.iter().map(rack_of).collect();
    assert_eq!(journal.len(), 3, "one of the journal's drives in each rack");
    assert_eq!(metadata.stripe_shape().unwrap().max_data_shards, 3);
    let mut client = Client::default();
    client.create_bucket(&metadata).await;

    nodes[2].stop().await;
    metadata.check_drives().await;
    assert_eq!(metadata.stripe_shape().unwrap().max_data_shards, 2, "two shards of a stripe in each of two racks");
    let said = metadata.status().warnings;
    assert!(said.iter().any(|said| said.contains("new stripes are narrower")), "{said:?}");
    client.put(&metadata, "k", noise(1, 3000)).await.unwrap();

    nodes[1].stop().await;
    metadata.check_drives().await;
    assert!(metadata.stripe_shape().is_err(), "both shards that may be lost and the data would be in one rack");
    metadata.shutdown().await;

    // Another rule than the one that is journaled, which could not be kept: a start goes on under the old one.
    world.config.survive = Some(Level::Site);
    let nodes = nodes_in(&world, ["a", "b", "c"]).await;
    let metadata = start_over(&world, &nodes).await.unwrap();
    let said = metadata.status().warnings;
    assert!(said.iter().any(|said| said.starts_with("the rule of placement stays as it was")), "{said:?}");
    assert_eq!(index::survive(&Overlay::new(&**metadata.kv())).unwrap(), Level::Rack);
    metadata.shutdown().await;
    world.config.survive = Some(Level::Drive);
    let nodes = nodes_in(&world, ["a", "b", "b"]).await;
    let metadata = start_over(&world, &nodes).await.unwrap();
    let view = Overlay::new(&**metadata.kv());
    assert_eq!(index::survive(&view).unwrap(), Level::Drive);
    assert_eq!(index::drives(&view).unwrap()[5].rack, "b", "the node was carried to another rack");
    metadata.shutdown().await;
}
