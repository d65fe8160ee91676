//! A node that gives no answer for a while: nobody waits for it again and again, and nothing that it holds is taken for lost
//! before its time.
use super::*;
use crate::client::{DriveHealth, DriveStatus, Reserve, STALLED_AFTER, WriteError};
use crate::drive::DriveError;
use crate::host::NodeHost;
use crate::tests::shard;
use codec::id::Epoch;
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::watch;

const SOON: Duration = Duration::from_secs(60);
const AT_ONCE: Duration = Duration::from_millis(250);

/// A way to a server. While it is cut no byte passes, and nobody is told: a host without power, or a switch.
struct Way {
    address: SocketAddr,
    cut: watch::Sender<bool>,
}

impl Way {
    /// `held`: what was connected stays so, too.
    async fn to(server: SocketAddr, held: bool) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut is_cut = is_cut.clone();
                tokio::spawn(async move {
                    if !*is_cut.borrow() {
                        let mut far = TcpStream::connect(server).await.unwrap();
                        let passing = tokio::io::copy_bidirectional(&mut near, &mut far);
                        tokio::select! { _ = passing => return, _ = is_cut.wait_for(|cut| *cut) => {} }
                        if !held {
                            return;
                        }
                    }
                    // Held open: the end of a connection would be an answer.
                    drop(is_cut.wait_for(|cut| !*cut).await);
                });
            }
        });
        Way { address, cut }
    }

    fn set_cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

async fn through(cluster: &Cluster, way: &Way, deadlines: Deadlines) -> Arc<RemoteNode> {
    let config = RemoteConfig { address: way.address.to_string(), deadlines, ..cluster.config() };
    let client = RemoteNode::new(&cluster.credentials(Role::Metadata), config).unwrap();
    put_in_the_end(&*client, 1).await;
    client
}

async fn put(client: &dyn NodeClient, counter: u64) -> Result<(), WriteError> {
    let (header, payload) = shard(counter, 100);
    client.write_shard(first_drive(), header, payload, Reserve::Client).await
}

/// Once it is reached again: a connection may take longer than these clients wait on a busy machine.
async fn put_in_the_end(client: &dyn NodeClient, counter: u64) {
    let begun = Instant::now();
    while let Err(error) = put(client, counter).await {
        assert!(begun.elapsed() < SOON, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until(client: &RemoteNode, is: impl Fn(&DriveStatus) -> bool) -> DriveStatus {
    let begun = Instant::now();
    loop {
        // There is none as long as it never answered.
        let status = client.drives().await.into_iter().next();
        match status {
            Some(status) if is(&status) => return status,
            _ => assert!(begun.elapsed() < SOON, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One answer that was lost made every drive of the node failed: a rebuild was begun, and all that the node held was verified
/// anew when the next answer came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_a_lost_answer_makes_drives_stalled_and_not_lost() {
    let cluster = Cluster::small().await;
    let way = Way::to(cluster.address, true).await;
    let hasty = Duration::from_secs(1);
    let silent = Duration::from_secs(8);
    let deadlines = Deadlines { connect: hasty, ask: hasty, write: hasty, silent, ..Deadlines::default() };
    let client = through(&cluster, &way, deadlines).await;
    let fine = |status: &DriveStatus| status.health == DriveHealth::Healthy && !status.waits(STALLED_AFTER);
    let before = until(&client, fine).await;
    assert!(!client.is_stalled(first_drive()) && client.silent().is_empty());
    for _ in 0..2 {
        way.set_cut(true);
        let stalled = until(&client, |status| !fine(status)).await;
        assert_eq!(stalled.health, DriveHealth::Healthy, "it is waited for");
        assert!(stalled.waits(STALLED_AFTER) && client.is_stalled(first_drive()) && !client.silent().is_empty());
        way.set_cut(false);
        let after = until(&client, fine).await;
        assert_eq!(after.opened, before.opened, "the same process has held the drive all the time");
        put_in_the_end(&*client, 2).await;
    }
    way.set_cut(true);
    let begun = Instant::now();
    until(&client, |status| matches!(status.health, DriveHealth::Failed { .. })).await;
    assert!(begun.elapsed() >= silent, "{:?}", begun.elapsed());
    way.set_cut(false);
    assert_eq!(until(&client, fine).await.opened, before.opened);
}

/// Every check of the committer, and every stripe, waited for another attempt to connect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_again_for_a_node_that_gives_no_answer() {
    let cluster = Cluster::small().await;
    let way = Way::to(cluster.address, false).await;
    let (connect, prompt) = (Duration::from_secs(5), Duration::from_millis(500));
    let client = through(&cluster, &way, Deadlines { connect, ask: connect, prompt, ..Deadlines::default() }).await;
    until(&client, |_| true).await;
    way.set_cut(true);
    let begun = Instant::now();
    assert_eq!(client.drives().await.len(), 1);
    assert!(begun.elapsed() < connect, "{:?}", begun.elapsed());
    // A busy machine makes a call late now and then. One that waits for the node is late each time.
    let (mut asked, mut late) = (0, 0);
    let (mut told, mut waited) = (0, 0);
    while begun.elapsed() < 3 * connect {
        let asking = Instant::now();
        assert!(client.drives().await[0].waits(STALLED_AFTER));
        asked += 1;
        late += usize::from(asking.elapsed() >= AT_ONCE);
        if begun.elapsed() > 2 * connect {
            let answer = tokio::time::timeout(AT_ONCE, client.authority(first_drive())).await;
            assert!(!matches!(answer, Ok(Ok(_))), "nobody is there: {answer:?}");
            told += usize::from(answer.is_ok());
            waited += usize::from(answer.is_err());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(2 * late < asked, "{late} of {asked} waited");
    assert!(waited < told, "it waits for an attempt to connect: {waited} times, {told} times not");
}

/// A start that ended after it had told a node, and before it wrote anything: what it told was in the node's memory alone. The
/// next start took an epoch that may be lower, was refused, and went on without the node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_an_epoch_that_a_node_was_told_is_seen_and_a_lower_one_is_an_error() {
    let cluster = Cluster::small().await;
    let told = Epoch(u64::MAX / 2);
    cluster.client(Role::Metadata).begin(told).await.unwrap();
    let next = cluster.client(Role::Metadata);
    assert_eq!(next.highest_epoch().await, Some(told));
    let refused = next.begin(Epoch(told.0 - 1)).await;
    assert!(matches!(&refused, Err(DriveError::NotBegun { node, .. }) if node == "n1"), "{refused:?}");
    next.begin(Epoch(told.0 + 1)).await.unwrap();
}

/// Whoever wrote to a host that had vanished without a word waited for fifteen seconds before another drive was tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_to_a_host_that_vanished_is_given_up_within_seconds_and_others_go_around_it() {
    let cluster = Cluster::small().await;
    let way = Way::to(cluster.address, true).await;
    let client = through(&cluster, &way, Deadlines::default()).await;
    until(&client, |_| true).await;
    way.set_cut(true);
    let begun = Instant::now();
    let writing = {
        let client = Arc::clone(&client);
        tokio::spawn(async move { put(&*client, 2).await })
    };
    // By what was asked here: nobody asks the node for its drives.
    while !client.is_stalled(first_drive()) {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(writing.await.unwrap(), Err(WriteError::Unreachable));
    assert!(begun.elapsed() < Deadlines::default().write, "{:?}", begun.elapsed());
    assert!(client.problem().is_some());
}

/// Each read that was given up for another drive's ended the attempt to connect, and the next one began anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_to_connect_outlives_the_calls_that_wait_for_it() {
    let cluster = Cluster::small().await;
    // A way on which a connection takes longer than any of the calls.
    let (listener, server) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), cluster.address);
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(12 * AT_ONCE).await;
                let mut far = TcpStream::connect(server).await.unwrap();
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    let config = RemoteConfig { address, ..cluster.config() };
    let client = RemoteNode::new(&cluster.credentials(Role::Metadata), config).unwrap();
    let given_up = tokio::time::timeout(AT_ONCE, put(&*client, 1)).await;
    assert!(given_up.is_err(), "{given_up:?}");
    // Nobody has asked since.
    let (begun, lane) = (Instant::now(), client.lane(crate::service::method::Method::WriteShard));
    while !lane.is_linked() {
        assert!(begun.elapsed() < SOON, "{:?}", client.problem());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
