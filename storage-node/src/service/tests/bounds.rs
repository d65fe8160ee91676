//! Limits that keep one client from holding up the others, ids that are used once, and nodes that come and go.
use super::*;
use crate::client::{DriveHealth, ReadError, Reserve, WriteError};
use crate::host::{Grants, NodeHost};
use crate::remote::Nodes;
use crate::service::grants::MOST;
use crate::service::message::GrantList;
use crate::service::wire::PIECE;
use crate::tests::{batch, entries, noise, shard};
use codec::id::{DriveId, Epoch, Lsn};
use codec::segment::JournalHead;
use std::time::Instant;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(60);

async fn put(client: &dyn NodeClient, counter: u64, len: usize) -> Result<(), WriteError> {
    let (header, payload) = shard(counter, len);
    client.write_shard(first_drive(), header, payload, Reserve::Client).await
}

async fn until<T>(mut is: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = is().await {
            return found;
        }
        assert!(begun.elapsed() < SOON, "not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_no_certificate_does_not_hold_up_others() {
    let config = ServiceConfig {
        connections: 4,
        handshakes: 8,
        handshakes_per_address: 8,
        // Longer than that of a client takes on a busy machine.
        handshake: Duration::from_secs(3),
        ..ServiceConfig::default()
    };
    let cluster = Cluster::start(1, crate::tests::config(), config).await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(cluster.address).await.unwrap());
    }
    // More of them than there may be connections, and a client comes through.
    let client = cluster.client(Role::Gateway);
    put(&*client, 1, 100).await.unwrap();
    // They are given up, and so is the excess at once.
    for _ in 0..8 {
        silent.push(TcpStream::connect(cluster.address).await.unwrap());
    }
    for mut stream in silent {
        let ended = tokio::time::timeout(SOON, stream.read(&mut [0; 1])).await.expect("it is ended");
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
    put(&*client, 2, 100).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_an_id_that_another_stripe_has_is_refused() {
    let cluster = Cluster::small().await;
    let client = cluster.client(Role::Gateway);
    put(&*client, 1, 100).await.unwrap();
    put(&*client, 1, 100).await.unwrap();
    let (other, payload) = shard(1, 200);
    let refused = client.write_shard(first_drive(), other, payload, Reserve::Client).await;
    assert_eq!(refused, Err(WriteError::WrongStripe));
    let (header, _) = shard(1, 100);
    let read = client.read_shard(first_drive(), header.id(), header.descriptor.root(), 0..100).await;
    assert_eq!(read, Ok(noise(1, 100)), "what was there stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_two_stripes_of_one_id_at_the_same_time_are_one() {
    let cluster = Cluster::small().await;
    let client = cluster.client(Role::Gateway);
    for counter in 0..20 {
        let (one, two) = (shard(counter, 100), shard(counter, 200));
        let write = |(header, payload)| client.write_shard(first_drive(), header, payload, Reserve::Client);
        let written = futures::future::join(write(one), write(two)).await;
        assert_eq!([&written.0, &written.1].into_iter().filter(|written| written.is_ok()).count(), 1, "{written:?}");
    }
}

/// Every later start takes a higher epoch than any that a drive has seen: one forged shard left the cluster without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_gateway_writes_in_no_epoch_that_nobody_granted() {
    let cluster = Cluster::small().await;
    let leader = cluster.client(Role::Metadata);
    leader.begin(Epoch(EPOCH.0 + 1)).await.unwrap();
    let write = async |count: u32| {
        let (mut header, payload) = shard(1, 100);
        header.descriptor.id.epoch = Epoch(u64::from(count) << 32 | 1);
        let client = cluster.client(Role::Gateway);
        client.write_shard(first_drive(), header, payload, Reserve::Client).await
    };
    for forged in [u32::MAX, 1 << 24] {
        assert!(matches!(write(forged).await, Err(WriteError::Malformed(reason)) if reason.contains("granted")));
    }
    assert!(leader.highest_epoch().await.is_some_and(|highest| highest.count() < 1 << 20));
    // Granted to gateways since the leader took its own.
    write(EPOCH.count() + 1000).await.unwrap();
}

/// A gateway could number stripes in the epochs of others, and in some four million that nobody had taken yet: each of those holds
/// all deletion as evidence of another history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_gateway_writes_in_its_own_epochs_and_in_no_others() {
    let cluster = Cluster::small().await;
    let leader = cluster.client(Role::Metadata);
    let epoch = |count: u32| Epoch(u64::from(count) << 32 | 1);
    let (begun, own, of_other, later) = (epoch(50), epoch(51), epoch(52), epoch(53));
    leader.begin(begun).await.unwrap();
    let counter = std::sync::atomic::AtomicU64::new(1);
    let write = async |epoch: Epoch| {
        let (mut header, payload) = shard(counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed), 100);
        header.descriptor.id.epoch = epoch;
        cluster.client(Role::Gateway).write_shard(first_drive(), header, payload, Reserve::Client).await
    };
    write(later).await.unwrap();
    let grants = |epochs: &[(Epoch, &str)]| {
        let list = epochs.iter().map(|(epoch, of)| (*epoch, (*of).to_owned()));
        Arc::new(Grants::new(list.collect(), Epoch(0)))
    };
    leader.granted(grants(&[(own, "c1"), (of_other, "c2")])).await;
    write(own).await.unwrap();
    for refused in [of_other, later, begun] {
        assert_eq!(write(refused).await, Err(WriteError::Unreachable), "{refused}");
    }
    leader.granted(grants(&[(of_other, "c2"), (later, "c1")])).await;
    write(later).await.unwrap();
    assert_eq!(write(own).await, Err(WriteError::Unreachable), "fenced");
    // Another process leads: what the one before has granted counts no more, and neither does what it says from now on.
    let issued = cluster.ca.issue(&identity(CLUSTER, Role::Metadata, "m2"), YEAR).unwrap();
    let next = RemoteNode::new(&credentials(&issued), cluster.config()).unwrap();
    next.begin(epoch(60)).await.unwrap();
    leader.granted(grants(&[])).await;
    write(own).await.unwrap();
    next.granted(grants(&[(epoch(61), "c1")])).await;
    write(epoch(61)).await.unwrap();
    assert_eq!(write(own).await, Err(WriteError::Unreachable));
}

/// Were the last list kept that could be told, no epoch granted since would be in it, and nobody could write any more. And were an
/// older list taken for a newer one, neither could the gateway that was just granted one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_more_grants_than_are_told_close_nothing_and_older_ones_replace_none() {
    let cluster = Cluster::small().await;
    let (leader, gateway) = (cluster.client(Role::Metadata), cluster.client(Role::Gateway));
    let epoch = |count: u32| Epoch(u64::from(count) << 32 | 1);
    leader.begin(epoch(50)).await.unwrap();
    let counter = std::sync::atomic::AtomicU64::new(1);
    let write = async |epoch: Epoch| {
        let (mut header, payload) = shard(counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed), 100);
        header.descriptor.id.epoch = epoch;
        gateway.write_shard(first_drive(), header, payload, Reserve::Client).await
    };
    let own = |count: u32| vec![(epoch(count), "c1".to_owned())];
    let tell = async |epochs: Vec<(Epoch, String)>, as_of: u32| {
        leader.granted(Arc::new(Grants::new(epochs, epoch(as_of)))).await;
    };
    tell(own(52), 52).await;
    tell(own(51), 51).await;
    write(epoch(52)).await.unwrap();
    assert_eq!(write(epoch(51)).await, Err(WriteError::Unreachable), "of an older list");
    let many = (0..u32::try_from(MOST).unwrap() + 1).map(|count| (epoch(100 + count), format!("g{}", count / 50)));
    tell(many.collect(), 60_000).await;
    write(epoch(60_001)).await.unwrap();
    // Few enough again.
    tell(own(60_002), 60_002).await;
    assert_eq!(write(epoch(60_001)).await, Err(WriteError::Unreachable));
    write(epoch(60_002)).await.unwrap();
}

/// The same at the node: questions overtake one another on their way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_question_that_was_overtaken_does_not_bring_back_an_older_list() {
    let cluster = Cluster::small().await;
    let leader = cluster.client(Role::Metadata);
    let begun = Epoch(EPOCH.0 + 1);
    leader.begin(begun).await.unwrap();
    let gates = Arc::clone(&cluster.server.as_ref().unwrap().shared.gates);
    let who = identity(CLUSTER, Role::Metadata, "c1");
    let list = |epoch: u64| {
        let grants = Grants::new(vec![(Epoch(epoch), "g1".to_owned())], Epoch(epoch));
        (grants.version(), GrantList::new(begun, &grants))
    };
    let ((newer, of_newer), (older, of_older)) = (list(9), list(8));
    gates.hear(&who, of_newer);
    gates.hear(&who, of_older);
    assert!(newer != older);
    assert_eq!(gates.heard(), newer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_gateway_leaves_room_for_the_uploads_of_another() {
    let config = ServiceConfig { uploads: 2 * PIECE, ..ServiceConfig::default() };
    let cluster = Cluster::large(config).await;
    let (who, now) = (identity(CLUSTER, Role::Gateway, "c1"), tokio::time::Instant::now());
    let uploads = &cluster.server.as_ref().unwrap().shared.uploads;
    let _stalled = uploads.take(&who, PIECE, now + SOON).await.unwrap();
    let hasty = cluster.hasty(Role::Gateway, Duration::from_millis(300));
    assert_eq!(put(&*hasty, 1, PIECE).await, Err(WriteError::Unreachable), "it has its share");
    let issued = cluster.ca.issue(&identity(CLUSTER, Role::Gateway, "c2"), YEAR).unwrap();
    let other = RemoteNode::new(&credentials(&issued), cluster.config()).unwrap();
    put(&*other, 1, PIECE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_that_are_being_received_do_not_keep_the_journal_waiting() {
    let config = ServiceConfig { uploads: 2 * PIECE, ..ServiceConfig::default() };
    let cluster = Cluster::large(config).await;
    let metadata = cluster.client(Role::Metadata);
    let head = JournalHead { ensemble: 1, first_lsn: Lsn(1) };
    metadata.journal_begin(first_drive(), head).await.unwrap();
    // All the room for shards is taken by one whose bytes do not come.
    let room = cluster.server.as_ref().unwrap().shared.uploads.all();
    let _taken = room.acquire_many_owned(2 * 1024).await.unwrap();
    let hasty = cluster.hasty(Role::Gateway, Duration::from_millis(300));
    assert_eq!(put(&*hasty, 1, PIECE).await, Err(WriteError::Unreachable), "no room for shards");
    let (header, payload) = batch(&entries(3, 100));
    metadata.journal_append(first_drive(), header, payload, Reserve::Metadata).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_a_drive_of_a_node_that_was_never_reached_is_not_unknown() {
    let mut cluster = Cluster::small().await;
    let (id, root) = (shard(1, 1).0.id(), shard(1, 1).0.descriptor.root());
    let nodes = Nodes::new(vec![cluster.client(Role::Metadata)]);
    let stranger = DriveId([99; 16]);
    assert_eq!(nodes.read_shard(stranger, id, root, 0..1).await, Err(ReadError::UnknownDrive(stranger)));
    drop(cluster.server.take());
    let never = Nodes::new(vec![cluster.client(Role::Metadata)]);
    assert_eq!(never.read_shard(first_drive(), id, root, 0..1).await, Err(ReadError::Unreachable));
    assert_eq!(put(&*never, 1, 1).await, Err(WriteError::Unreachable));
    assert_eq!(never.silent(), ["n1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_for_a_drive_that_nobody_has_asked_for_yet_find_it() {
    let cluster = Cluster::small().await;
    put(&*cluster.node, 1, 100).await.unwrap();
    let (id, root) = (shard(1, 100).0.id(), shard(1, 100).0.descriptor.root());
    let nodes = Nodes::new(vec![cluster.client(Role::Metadata)]);
    let reads = (0..16).map(|_| nodes.read_shard(first_drive(), id, root, 0..100));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read, Ok(noise(1, 100)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_anew_is_begun_again_and_its_drives_were_opened_once_more() {
    let trace = Trace::new(1);
    format_all(&trace);
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let open = async || open_with(&trace, memory_kv(), crate::tests::config()).await;
    let node = open().await;
    let server = serve(&ca, "n1", "127.0.0.1:0", node.clone(), node.clone(), ServiceConfig::default()).await;
    let address = server.address().to_string();
    let issued = ca.issue(&identity(CLUSTER, Role::Metadata, "m1"), YEAR).unwrap();
    let client = RemoteNode::new(&credentials(&issued), RemoteConfig::new(address.clone(), name("n1"))).unwrap();
    let healthy = async || client.drives().await.pop().filter(|drive| drive.health == DriveHealth::Healthy);
    assert!(healthy().await.is_none(), "not begun");
    client.begin(Epoch(7)).await.unwrap();
    let before = until(&healthy).await;
    assert_eq!((before.opened, before.node != 0), (1, true));
    put(&*client, 1, 100).await.unwrap();

    server.stop(Duration::from_secs(1)).await;
    node.stop().await;
    let node = open().await;
    let server = serve(&ca, "n1", &address, node.clone(), node.clone(), ServiceConfig::default()).await;
    let after = until(&healthy).await;
    assert_eq!((after.opened, after.node), (2, before.node), "whoever compares must see that it was away");
    put(&*client, 2, 100).await.unwrap();

    // Another process with a higher epoch takes over, and this one is refused for what decides.
    let next = RemoteNode::new(&credentials(&issued), RemoteConfig::new(address, name("n1"))).unwrap();
    next.begin(Epoch(8)).await.unwrap();
    let head = JournalHead { ensemble: 1, first_lsn: Lsn(1) };
    assert_eq!(client.journal_begin(first_drive(), head).await, Err(WriteError::Unreachable));
    assert!(next.journal_begin(first_drive(), head).await.is_ok());
    assert!(next.highest_epoch().await >= Some(Epoch(8)));

    next.forget_drive(first_drive()).await.unwrap();
    assert!(next.drives().await.is_empty());
    drop(server);
}
