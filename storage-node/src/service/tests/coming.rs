//! Nodes and drives that come and go while they are in use.
use super::two_nodes::{assert_rebuilt, node_of, stripe_and_order, write};
use super::*;
use crate::client::DriveStatus;
use crate::disk::Disk;
use crate::drive::{DriveError, ProbedDrive, format, probe};
use crate::host::DriveSource;
use crate::remote::{NodeAddress, Nodes};
use async_trait::async_trait;
use codec::id::{DriveId, Epoch};
use std::time::Instant;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn at(of: &str, server: &Server) -> NodeAddress {
    NodeAddress { name: name(of), address: server.address().to_string() }
}

fn metadata(ca: &ClusterCa) -> Credentials {
    credentials(&ca.issue(&identity(CLUSTER, Role::Metadata, "m1"), YEAR).unwrap())
}

async fn start(ca: &ClusterCa, of: &str, node: &Arc<StorageNode>) -> Server {
    serve(ca, of, "127.0.0.1:0", node.clone(), node.clone(), ServiceConfig::default()).await
}

/// Asks for the drives until they are as they should be.
async fn until(nodes: &Nodes, right: impl Fn(&[DriveStatus]) -> bool) -> Vec<DriveStatus> {
    let begun = Instant::now();
    loop {
        let drives = nodes.drives().await;
        if right(&drives) {
            return drives;
        }
        assert!(begun.elapsed() < PATIENCE, "{drives:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A list that was read at a start alone: a node that came was nobody's, and one that moved was gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_comes_moves_and_goes_while_the_others_serve() {
    let trace = Trace::new(6);
    format_all(&trace);
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let (one, two) = (node_of(&trace, 0..3).await, node_of(&trace, 3..6).await);
    let (first, second) = (start(&ca, "n1", &one).await, start(&ca, "n2", &two).await);
    let nodes = Nodes::connecting(metadata(&ca), &[at("n1", &first)]).unwrap();
    until(&nodes, |drives| drives.len() == 3).await;
    let epoch = Epoch(EPOCH.0 + 1);
    nodes.begin(epoch).await.unwrap();

    // It is told the epoch that the others were told.
    nodes.follow(&[at("n1", &first), at("n2", &second)]).unwrap();
    until(&nodes, |drives| drives.len() == 6).await;
    let begun = Instant::now();
    while second.shared.gates.begun() != Some(epoch) {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (stripe, _) = stripe_and_order(&[]);
    write(&*nodes, &stripe).await;
    let before = until(&nodes, |drives| drives.len() == 6).await;

    let opened = |drives: &[DriveStatus]| drives.iter().map(|d| (d.id, d.opened)).collect::<Vec<_>>();
    let there = |drives: &[DriveStatus]| drives.iter().filter(|drive| !drive.waits(Duration::from_secs(1))).count();
    // The same service at another address: its drives were not away.
    let other = NodeAddress { name: name("n2"), address: format!("localhost:{}", second.address().port()) };
    nodes.follow(&[at("n1", &first), other]).unwrap();
    let moved = until(&nodes, |drives| there(drives) == 6).await;
    assert_eq!(opened(&before), opened(&moved));

    // Started anew at another address: they may have been.
    let elsewhere = start(&ca, "n2", &two).await;
    second.stop(Duration::from_secs(1)).await;
    nodes.follow(&[at("n1", &first), at("n2", &elsewhere)]).unwrap();
    let again = |drives: &[DriveStatus]| drives.iter().filter(|drive| drive.opened == 2).count();
    let after = until(&nodes, |drives| there(drives) == 6 && again(drives) == 3).await;
    assert_eq!(opened(&before)[..3], opened(&after)[..3]);
    nodes.authority(drive_id(4)).await.unwrap();

    nodes.follow(&[at("n1", &first)]).unwrap();
    assert_eq!(nodes.drives().await.len(), 3);
    assert_eq!(nodes.nodes().len(), 1);
}

/// A drive that was carried to another node, between two looks, was not seen to have been away: it had been opened less often
/// there than where it came from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_that_comes_to_another_node_was_away() {
    let trace = Trace::new(4);
    format_all(&trace);
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let (one, two) = (node_of(&trace, 0..2).await, node_of(&trace, 2..3).await);
    let (first, second) = (start(&ca, "n1", &one).await, start(&ca, "n2", &two).await);
    let nodes = Nodes::connecting(metadata(&ca), &[at("n1", &first), at("n2", &second)]).unwrap();
    let before = until(&nodes, |drives| drives.len() == 3).await;
    let of = |drives: &[DriveStatus]| drives.iter().find(|d| d.id == drive_id(1)).cloned().unwrap();
    one.forget_drive(drive_id(1)).await.unwrap();
    let disk = trace.disks().swap_remove(1) as Arc<dyn Disk>;
    two.add_drive(probe(disk, Some(CLUSTER))).await.unwrap();
    let after = until(&nodes, |drives| of(drives).node != of(&before).node).await;
    assert!(of(&after).opened > of(&before).opened, "{} {}", of(&after).opened, of(&before).opened);
    let steady = nodes.drives().await;
    assert_eq!(of(&steady).opened, of(&after).opened, "it moved once");
}

/// A storage node knew the peers of its configuration alone, and where their drives had been when it last asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_to_rebuild_says_where_the_drives_are() {
    let trace = Trace::new(6);
    format_all(&trace);
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let (one, two) = (node_of(&trace, 0..3).await, node_of(&trace, 3..6).await);
    let first = start(&ca, "n1", &one).await;
    let own = credentials(&ca.issue(&identity(CLUSTER, Role::StorageNode, "n2"), YEAR).unwrap());
    let peers = Nodes::beside(two.clone(), own, &[]).unwrap();
    let second = serve(&ca, "n2", "127.0.0.1:0", two, peers, ServiceConfig::default()).await;
    let nodes = Nodes::connecting(metadata(&ca), &[at("n1", &first), at("n2", &second)]).unwrap();
    until(&nodes, |drives| drives.len() == 6).await;
    let (stripe, order) = stripe_and_order(&[3]);
    write(&*nodes, &stripe).await;
    nodes.rebuild(order.clone()).await.unwrap();
    assert_rebuilt(&*nodes, &order, &stripe).await;
}

/// A directory that it is said of that it is a drive, whatever is open.
#[derive(Debug)]
struct Copied(Arc<dyn Disk>);

#[async_trait]
impl DriveSource for Copied {
    async fn take(&self, _: &str, _: Option<DriveId>, open: &[DriveId]) -> Result<ProbedDrive, DriveError> {
        assert_eq!(open, [drive_id(0), drive_id(1)], "it is told what is open elsewhere");
        Ok(probe(Arc::clone(&self.0), Some(CLUSTER)))
    }
}

/// The copy of a drive that was open at another path was said to have been taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r18_a_copy_of_an_open_drive_is_not_taken() {
    let (trace, copy) = (Trace::new(2), Trace::new(3));
    format_all(&trace);
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let node = node_of(&trace, 0..2).await;
    let disk = copy.disks().pop().unwrap() as Arc<dyn Disk>;
    format(&*disk, CLUSTER, drive_id(1), None).unwrap();
    let path = disk.path_hint();
    let config = ServiceConfig { drives: Some(Arc::new(Copied(disk))), ..ServiceConfig::default() };
    let server = serve(&ca, "n1", "127.0.0.1:0", node.clone(), node, config).await;
    let nodes = Nodes::connecting(metadata(&ca), &[at("n1", &server)]).unwrap();
    nodes.begin(Epoch(EPOCH.0 + 1)).await.unwrap();
    let taken = nodes.take_drive(&name("n1"), &path, None).await;
    assert!(matches!(taken, Err(DriveError::NotTaken { .. })), "{taken:?}");
}

/// Takes the last drive of a trace, if it is asked for by its name.
#[derive(Debug)]
struct Configured(Trace);

#[async_trait]
impl DriveSource for Configured {
    async fn take(&self, path: &str, _replaces: Option<DriveId>, _open: &[DriveId]) -> Result<ProbedDrive, DriveError> {
        let disk = self.0.disks().pop().unwrap() as Arc<dyn Disk>;
        if disk.path_hint() != path {
            return Err(DriveError::NotTaken { path: path.to_owned(), reason: "not configured".to_owned() });
        }
        format(&*disk, CLUSTER, DriveId([9; 16]), None)?;
        Ok(probe(disk, Some(CLUSTER)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r18_a_directory_becomes_a_drive_where_its_node_says_so() {
    let (trace, more) = (Trace::new(2), Trace::new(3));
    format_all(&trace);
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let node = node_of(&trace, 0..2).await;
    let path = more.disks()[2].path_hint();
    let config = ServiceConfig { drives: Some(Arc::new(Configured(more))), ..ServiceConfig::default() };
    let server = serve(&ca, "n1", "127.0.0.1:0", node.clone(), node, config).await;
    let nodes = Nodes::connecting(metadata(&ca), &[at("n1", &server)]).unwrap();
    // In the epoch of the metadata that leads, and of no other.
    let early = nodes.take_drive(&name("n1"), &path, None).await;
    assert!(matches!(early, Err(DriveError::NotTaken { .. })), "{early:?}");
    nodes.begin(Epoch(EPOCH.0 + 1)).await.unwrap();
    let other = nodes.take_drive(&name("n1"), "/somewhere", None).await;
    assert!(matches!(&other, Err(DriveError::NotTaken { reason, .. }) if reason == "not configured"), "{other:?}");
    assert_eq!(nodes.take_drive(&name("n1"), &path, None).await.unwrap(), DriveId([9; 16]));
    let unknown = nodes.take_drive(&name("n7"), &path, None).await;
    assert!(matches!(unknown, Err(DriveError::NotTaken { .. })), "{unknown:?}");
    until(&nodes, |drives| drives.len() == 3).await;
}
