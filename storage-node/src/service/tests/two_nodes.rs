//! Two nodes and a client of both: rebuilt from one node to the other, each with the role that it has.
use super::*;
use crate::client::Reserve;
use crate::keep::{RebuildError, RebuildOrder};
use crate::remote::Nodes;
use crate::stripe_io::{ReadOptions, StripeLayout, read_range};
use crate::tests::{config, noise};
use bytes::Bytes;
use codec::erasure::{Erasure, Geometry};
use codec::id::{DomainId, DriveId, ShardId, StripeId};
use codec::shard::ShardHeader;
use codec::stripe::{PackedStripe, StripeClass, StripePacker};

/// A stripe of 2+2 for drives 0 to 3, and an order that rebuilds `lost` of it on drives 4 and up.
pub fn stripe_and_order(lost: &[u8]) -> (PackedStripe, RebuildOrder) {
    use codec::frame::{ChunkKey, FIRST_VERSION, FrameSpec, chunk_id, encode};
    let geometry = Geometry::new(2, 2).unwrap();
    let mut packer = StripePacker::new(2, 2, 1 << 20);
    for seed in 0..4 {
        let plain = noise(seed, 5000);
        let id = chunk_id(&ChunkKey::new([3; 32]), &plain);
        let spec = FrameSpec { version: FIRST_VERSION, domain: DomainId(1), id, level: 3, data_key: None };
        packer.add(Bytes::from(encode(&spec, &plain).unwrap()));
    }
    let id = StripeId { epoch: EPOCH, counter: 1 };
    let stripe = packer.finish(id, StripeClass::Data, geometry, CLUSTER, None, &Erasure::new(geometry)).unwrap();
    let place = |index: u8| (index, drive_id(usize::from(index)));
    let order = RebuildOrder {
        descriptor: stripe.descriptor.clone(),
        sources: (0..4).filter(|index| !lost.contains(index)).map(place).collect(),
        targets: lost.iter().enumerate().map(|(n, index)| (*index, drive_id(4 + n))).collect(),
        bytes_per_second: 0,
        at: Vec::new(),
    };
    (stripe, order)
}

pub async fn write(client: &dyn NodeClient, stripe: &PackedStripe) {
    for (index, payload) in (0u8..).zip(&stripe.shards) {
        let header = ShardHeader { descriptor: stripe.descriptor.clone(), index };
        let drive = drive_id(usize::from(index));
        client.write_shard(drive, header, payload.clone().unwrap(), Reserve::Client).await.unwrap();
    }
}

pub async fn assert_rebuilt(client: &dyn NodeClient, order: &RebuildOrder, stripe: &PackedStripe) {
    for (index, drive) in &order.targets {
        let id = ShardId { stripe: stripe.descriptor.id, index: *index };
        let expected = stripe.shards[usize::from(*index)].clone().unwrap();
        let read = client.read_shard(*drive, id, stripe.descriptor.root(), 0..expected.len() as u32).await;
        assert_eq!(read, Ok(expected), "shard {index}");
    }
}

/// A node with these drives of a trace, alone in its process.
pub async fn node_of(trace: &Trace, drives: std::ops::Range<usize>) -> Arc<StorageNode> {
    use crate::disk::Disk;
    let disks = trace.disks().into_iter().skip(drives.start).take(drives.len());
    let probed = disks.map(|disk| crate::drive::probe(disk as Arc<dyn Disk>, Some(CLUSTER))).collect();
    let node = StorageNode::open(config(), probed, memory_kv()).await.unwrap();
    node.begin(EPOCH).await.unwrap();
    node
}

/// Drives 0 to 2 on `n1`, 3 to 5 on `n2`. The second server reaches the first node through its own certificate.
async fn two() -> (Trace, ClusterCa, [Server; 2]) {
    let trace = Trace::new(6);
    format_all(&trace);
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let (one, two) = (node_of(&trace, 0..3).await, node_of(&trace, 3..6).await);
    let first = serve(&ca, "n1", "127.0.0.1:0", one.clone(), one, ServiceConfig::default()).await;
    let issued = ca.issue(&identity(CLUSTER, Role::StorageNode, "n2"), YEAR).unwrap();
    let far =
        RemoteNode::new(&credentials(&issued), RemoteConfig::new(first.address().to_string(), name("n1"))).unwrap();
    let peers = Nodes::new(vec![two.clone(), far]);
    let second = serve(&ca, "n2", "127.0.0.1:0", two, peers, ServiceConfig::default()).await;
    (trace, ca, [first, second])
}

fn nodes(ca: &ClusterCa, servers: &[Server], role: Role) -> Arc<Nodes> {
    let credentials = credentials(&ca.issue(&identity(CLUSTER, role, "c1"), YEAR).unwrap());
    let remote = |(number, server): (usize, &Server)| -> Arc<dyn crate::host::NodeHost> {
        let config = RemoteConfig::new(server.address().to_string(), name(&format!("n{}", number + 1)));
        RemoteNode::new(&credentials, config).unwrap()
    };
    Nodes::new(servers.iter().enumerate().map(remote).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_is_rebuilt_from_one_node_to_the_other() {
    let (_trace, ca, servers) = two().await;
    let (stripe, order) = stripe_and_order(&[3]);
    let gateway = nodes(&ca, &servers, Role::Gateway);
    write(&*gateway, &stripe).await;
    let repair = nodes(&ca, &servers, Role::Repair);
    repair.rebuild(order.clone()).await.unwrap();
    assert_rebuilt(&*gateway, &order, &stripe).await;
    // Not by a gateway.
    let refused = gateway.rebuild(order.clone()).await;
    assert!(matches!(refused, Err(RebuildError::Target { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_node_gone_its_drives_are_not_reachable_and_bytes_are_decoded() {
    let (_trace, ca, [first, second]) = two().await;
    let (stripe, order) = stripe_and_order(&[3]);
    let servers = [first, second];
    let gateway = nodes(&ca, &servers, Role::Gateway);
    write(&*gateway, &stripe).await;
    let [_first, second] = servers;
    second.stop(Duration::from_secs(1)).await;
    let drives: Vec<Option<DriveId>> = (0..4).map(|index| Some(drive_id(index))).collect();
    let layout = StripeLayout { descriptor: stripe.descriptor.clone(), drives };
    let expected = stripe.shards[3].clone().unwrap();
    let options = ReadOptions { hedge_after: Duration::from_secs(5), ..ReadOptions::default() };
    assert_eq!(read_range(&*gateway, &layout, 3, 0..expected.len() as u32, options).await, Ok(expected));
    let id = ShardId { stripe: stripe.descriptor.id, index: 3 };
    let direct = gateway.read_shard(drive_id(3), id, stripe.descriptor.root(), 0..1).await;
    assert_eq!(direct, Err(crate::client::ReadError::Unreachable), "unknown is not missing");
    let unknown = nodes(&ca, &[_first], Role::Repair).rebuild(order).await;
    assert!(matches!(
        unknown,
        Err(RebuildError::Target { index: 3, error: crate::client::WriteError::UnknownDrive(_), .. })
    ));
}
