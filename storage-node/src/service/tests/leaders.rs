//! Which metadata process leads a node: remembered by its drives, and asked again before an order is carried out.
use super::*;
use crate::client::{DriveHealth, Reserve, WriteError};
use crate::drive::DriveError;
use crate::host::NodeHost;
use crate::leader::{LEADER_FILE, Leader};
use crate::remote::link::{AskError, Lane};
use crate::service::Refusal;
use crate::service::message::drive_bytes;
use crate::service::method::Method;
use crate::service::wire::{Upload, UploadHead};
use crate::tests::{batch, entries};
use bytes::Bytes;
use codec::id::{Epoch, Lsn};
use codec::segment::JournalHead;
use futures::{FutureExt, StreamExt, stream};
use std::sync::atomic::Ordering;

const HEAD: JournalHead = JournalHead { ensemble: 1, first_lsn: Lsn(1) };
const SHORT: Duration = Duration::from_millis(300);

fn metadata(ca: &ClusterCa, of: &str, address: SocketAddr) -> Arc<RemoteNode> {
    let issued = ca.issue(&identity(CLUSTER, Role::Metadata, of), YEAR).unwrap();
    RemoteNode::new(&credentials(&issued), RemoteConfig::new(address.to_string(), name("n1"))).unwrap()
}

fn is_refused(begun: &Result<(), DriveError>, by: &str) -> bool {
    matches!(begun, Err(DriveError::NotBegun { reason, .. }) if reason.contains(by))
}

/// Who had begun a node was in the memory of its process alone. After a restart a metadata process that had been superseded began
/// it again, in its old epoch, if the new one had written nothing there yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_superseded_leader_does_not_lead_again_after_the_node_was_restarted() {
    let trace = Trace::new(2);
    format_all(&trace);
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let open = async || open_with(&trace, memory_kv(), crate::tests::config()).await;
    let node = open().await;
    let server = serve(&ca, "n1", "127.0.0.1:0", node.clone(), node.clone(), ServiceConfig::default()).await;
    let (old, new) = (metadata(&ca, "m1", server.address()), metadata(&ca, "m2", server.address()));
    old.begin(Epoch(7 << 32)).await.unwrap();
    new.begin(Epoch(8 << 32)).await.unwrap();
    assert!(is_refused(&old.begin(Epoch(7 << 32)).await, "metadata/m2"));

    server.stop(Duration::from_secs(1)).await;
    node.stop().await;
    // An index that is lost changes nothing, and neither does a file that rots on one of the drives.
    trace.flip(0, LEADER_FILE, 30, 1).unwrap();
    let node = open().await;
    assert_eq!(node.highest_epoch(), Some(Epoch(8 << 32)));
    let server = serve(&ca, "n1", "127.0.0.1:0", node.clone(), node.clone(), ServiceConfig::default()).await;
    let (old, new) = (metadata(&ca, "m1", server.address()), metadata(&ca, "m2", server.address()));
    assert!(is_refused(&old.begin(Epoch(7 << 32)).await, "metadata/m2"), "told before the leader has come back");
    assert_eq!(old.journal_begin(first_drive(), HEAD).await, Err(WriteError::Unreachable));
    assert!(is_refused(&old.begin(Epoch(8 << 32)).await, "metadata/m2"), "an epoch has one leader");
    new.begin(Epoch(8 << 32)).await.unwrap();
    new.journal_begin(first_drive(), HEAD).await.unwrap();
    old.begin(Epoch(9 << 32)).await.unwrap();
    assert!(is_refused(&new.begin(Epoch(8 << 32)).await, "metadata/m1"));
    drop(server);
}

/// It told the node to begin in its old epoch whenever it asked for the drives, which a follower does all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_leads_no_more_does_not_ask_to_begin_again() {
    let trace = Trace::new(2);
    format_all(&trace);
    let ca = ClusterCa::create(CLUSTER).unwrap();
    let node = open_with(&trace, memory_kv(), crate::tests::config()).await;
    let server = serve(&ca, "n1", "127.0.0.1:0", node.clone(), node.clone(), ServiceConfig::default()).await;
    let (old, new) = (metadata(&ca, "m1", server.address()), metadata(&ca, "m2", server.address()));
    old.begin(Epoch(7 << 32)).await.unwrap();
    new.begin(Epoch(8 << 32)).await.unwrap();
    let told = async {
        while old.superseded().is_none() {
            old.drives().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("it asks and is refused");
    old.leave();
    for _ in 0..10 {
        assert_eq!(old.drives().await.len(), 2);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(old.superseded().map(|error| error.to_string()), None);
    }
    assert_eq!(old.journal_begin(first_drive(), HEAD).await, Err(WriteError::Unreachable), "its orders are refused");
    old.begin(Epoch(9 << 32)).await.unwrap();
    old.journal_begin(first_drive(), HEAD).await.unwrap();
    drop(server);
}

/// Where every drive of a node had lost the file that says whom it follows, a process that was superseded began the node again,
/// and journaled to it beside the one that led.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_wrote_keeps_a_superseded_one_out_when_its_file_is_lost_on_all_drives() {
    for by_register in [true, false] {
        let trace = Trace::new(2);
        format_all(&trace);
        let ca = ClusterCa::create(CLUSTER).unwrap();
        let open = async || open_with(&trace, memory_kv(), crate::tests::config()).await;
        let node = open().await;
        let server = serve(&ca, "n1", "127.0.0.1:0", node.clone(), node.clone(), ServiceConfig::default()).await;
        let (old, new) = (metadata(&ca, "m1", server.address()), metadata(&ca, "m2", server.address()));
        let (lower, higher) = (Epoch(7 << 32), Epoch(8 << 32));
        old.begin(lower).await.unwrap();
        old.journal_begin(first_drive(), HEAD).await.unwrap();
        new.begin(higher).await.unwrap();
        match by_register {
            true => new.write_register(first_drive(), register_of(higher)).await.unwrap(),
            false => drop(new.journal_begin(first_drive(), HEAD).await.unwrap()),
        }
        server.stop(Duration::from_secs(1)).await;
        node.stop().await;

        (0..2).for_each(|drive| trace.flip(drive, LEADER_FILE, 30, 1).unwrap());
        let node = open().await;
        assert_eq!(node.highest_epoch(), Some(higher));
        let server = serve(&ca, "n1", "127.0.0.1:0", node.clone(), node.clone(), ServiceConfig::default()).await;
        let (old, new) = (metadata(&ca, "m1", server.address()), metadata(&ca, "m2", server.address()));
        let refused = old.begin(lower).await;
        assert!(is_refused(&refused, "whose name is lost in epoch"), "{refused:?}");
        assert!(old.journal_begin(first_drive(), HEAD).await.is_err());
        // It can't be told from another process any more, but no other has its epoch.
        new.begin(higher).await.unwrap();
        new.journal_begin(first_drive(), HEAD).await.unwrap();
        assert!(is_refused(&old.begin(higher).await, "metadata/m2"), "the file is there again");
        drop(server);
        node.stop().await;
    }
}

/// A process that serves its own drives is the only one that has them: what a start that came to nothing left on a drive that was
/// away then keeps it out of nothing.
#[tokio::test]
async fn a_single_process_takes_back_a_drive_with_an_epoch_above_its_own() {
    let (trace, node, drive) = crate::tests::one_drive().await;
    node.begin(Epoch(9 << 32)).await.unwrap();
    node.write_register(drive, register_of(Epoch(9 << 32))).await.unwrap();
    node.stop().await;
    let node = open_with(&trace, memory_kv(), crate::tests::config()).await;
    node.begin(Epoch(8 << 32)).await.unwrap();
    assert_eq!(node.drives().await.pop().unwrap().health, DriveHealth::Healthy);
    node.journal_begin(drive, HEAD).await.unwrap();
}

fn register_of(epoch: Epoch) -> Bytes {
    let (members, registered) = (vec![first_drive()], vec![first_drive()]);
    let register = codec::register::Register {
        cluster: CLUSTER,
        sequence: 1,
        epoch,
        first_lsn: Lsn(1),
        k: 1,
        m: 0,
        members,
        registered,
    };
    register.encode().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_that_follows_a_newer_leader_takes_no_writes_of_an_older_one() {
    let (trace, node, drive) = crate::tests::one_drive().await;
    let newer = Leader { epoch: Epoch(9 << 32), name: "m2".to_owned() };
    node.begin_for(newer.clone()).await.unwrap();
    node.stop().await;
    let node = open_with(&trace, memory_kv(), crate::tests::config()).await;
    assert_eq!(node.leader(), Some(newer.clone()));
    node.begin_for(Leader { epoch: Epoch(8 << 32), name: "m1".to_owned() }).await.unwrap();
    let status = node.drives().await.pop().unwrap();
    let said = |reason: &str| reason.contains("m2") && reason.contains(&newer.epoch.to_string());
    assert!(matches!(&status.health, DriveHealth::ReadOnly { reason } if said(reason)), "{status:?}");
    assert!(node.journal_begin(drive, HEAD).await.is_err());
}

/// What a leader must say to name its epoch, by a bare connection.
async fn bare(cluster: &Cluster, of: &str, epoch: Epoch) -> (crate::remote::link::Target, Lane) {
    let issued = cluster.ca.issue(&identity(CLUSTER, Role::Metadata, of), YEAR).unwrap();
    let (mut target, lane) = super::faults::bare(cluster, Role::Metadata, 1 << 20).await;
    target.tls = credentials(&issued).client(&target.node).unwrap();
    target.leads.store(epoch.0, Ordering::Release);
    (target, lane)
}

/// An order of the earlier leader that was looked at after another process had taken over was carried out all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_of_a_leader_is_asked_for_again_before_it_is_carried_out() {
    let cluster = Cluster::small().await;
    let gates = cluster.server.as_ref().unwrap().shared.gates.clone();
    let (old, new) = (metadata(&cluster.ca, "m1", cluster.address), metadata(&cluster.ca, "m2", cluster.address));
    // One whose bytes come late has a test of its own.
    let asked = Method::ALL.iter().filter(|method| method.is_of_leader() && **method != Method::JournalAppend);
    for (round, method) in (7..).step_by(2).zip(asked) {
        old.begin(Epoch(round << 32)).await.unwrap();
        let (target, lane) = bare(&cluster, "m1", Epoch(round << 32)).await;
        let link = lane.link(&target).await.unwrap();
        let held = gates.hold_orders().await;
        let mut order =
            link.ask(*method, crate::service::message::Nothing {}, (0, 1 << 10), Duration::from_secs(60)).boxed();
        assert!(tokio::time::timeout(SHORT, &mut order).await.is_err(), "{} is not asked for", method.name());
        let newer = Epoch((round + 1) << 32);
        let begun = tokio::spawn({
            let new = new.clone();
            async move { new.begin(newer).await }
        });
        while gates.told() != Some(newer) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(held);
        let refused = order.await;
        let superseded = |status: &tonic::Status| Refusal::of(status) == Some(Refusal::Superseded);
        assert!(
            matches!(&refused, Err(AskError::Status(status)) if superseded(status)),
            "{} {refused:?}",
            method.name()
        );
        begun.await.unwrap().unwrap();
    }
}

/// An order to begin that was carried out behind one with a higher epoch made all drives read-only, for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_told_to_begin_in_a_lower_epoch_stays_as_it_is() {
    let (_trace, node, drive) = crate::tests::one_drive().await;
    let leader = |epoch: u64| Leader { epoch: Epoch(epoch << 32), name: format!("m{epoch}") };
    node.begin_for(leader(8)).await.unwrap();
    for late in [node.led_by(&leader(7)), node.begin_for(leader(7)).await, node.begin(Epoch(7 << 32)).await] {
        assert!(matches!(late, Err(DriveError::NotBegun { .. })), "{late:?}");
    }
    assert_eq!(node.drives().await.pop().unwrap().health, DriveHealth::Healthy);
    node.journal_begin(drive, HEAD).await.unwrap();
}

/// The connection of a process that took over broke before the drives had begun under it: they took its journal as that of the
/// process before, which their files still named, and which led again after the node was restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_takes_no_orders_of_a_leader_that_it_does_not_follow_yet() {
    let (_trace, node, drive) = crate::tests::one_drive().await;
    let leader = |epoch: u64| Leader { epoch: Epoch(epoch << 32), name: format!("m{epoch}") };
    node.begin_for(leader(7)).await.unwrap();
    node.journal_begin(drive, HEAD).await.unwrap();
    node.led_by(&leader(8)).unwrap();
    let (header, payload) = batch(&entries(3, 100));
    let append = || node.journal_append(drive, header, payload.clone(), Reserve::Metadata);
    let early = |result: &Result<(), WriteError>| matches!(result, Err(WriteError::ReadOnly { .. }));
    let register = || node.write_register(drive, Bytes::from_static(b"register"));
    let (appended, registered) = (append().await, register().await);
    assert!(early(&appended) && early(&registered), "{appended:?} {registered:?}");
    node.begin_for(leader(8)).await.unwrap();
    append().await.unwrap();
    register().await.unwrap();
}

/// An order that was let pass before another process took over, and whose bytes came after it, was carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_whose_bytes_arrive_after_a_takeover_is_refused() {
    let cluster = Cluster::small().await;
    let old = Epoch(7 << 32);
    let first = metadata(&cluster.ca, "m1", cluster.address);
    first.begin(old).await.unwrap();
    first.journal_begin(first_drive(), HEAD).await.unwrap();
    let (target, lane) = bare(&cluster, "m1", old).await;
    let link = lane.link(&target).await.unwrap();
    let (header, payload) = batch(&entries(3, 100));
    let head = UploadHead {
        drive: drive_bytes(first_drive()),
        header: header.encode(),
        len: payload.len() as u64,
        reserve: true,
        ..UploadHead::default()
    };
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let begun = stream::iter([Upload { head: Some(head), data: Bytes::new() }]);
    let late = gone.into_stream().map(move |_| Upload { head: None, data: payload.clone() });
    let mut sent = link.send(Method::JournalAppend, begun.chain(late), Duration::from_secs(30)).boxed();
    assert!(tokio::time::timeout(SHORT, &mut sent).await.is_err(), "it waits for its bytes");
    metadata(&cluster.ca, "m2", cluster.address).begin(Epoch(8 << 32)).await.unwrap();
    go.send(()).unwrap();
    let refused = sent.await;
    let superseded = |status: &tonic::Status| Refusal::of(status) == Some(Refusal::Superseded);
    assert!(matches!(&refused, Err(AskError::Status(status)) if superseded(status)), "{refused:?}");
    let segments = cluster.node.journal_segments(first_drive()).await.unwrap();
    assert!(segments.iter().all(|segment| segment.last.is_none()), "{segments:?}");
}

/// A process that loses the lead and has it again takes a higher epoch; what it still had on the way is not carried out in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_leads_again_carries_out_no_order_of_its_earlier_epoch() {
    let cluster = Cluster::small().await;
    let (early, later) = (Epoch(7 << 32), Epoch(9 << 32));
    let first = metadata(&cluster.ca, "m1", cluster.address);
    first.begin(early).await.unwrap();
    first.begin(later).await.unwrap();
    let begin = async |epoch| {
        let (target, lane) = bare(&cluster, "m1", epoch).await;
        let link = lane.link(&target).await.unwrap();
        let question = crate::service::message::OfJournal {
            drive: drive_bytes(first_drive()),
            lsn: 1,
            ensemble: 1,
            ..Default::default()
        };
        link.ask(Method::JournalBegin, question, (0, 1 << 10), Duration::from_secs(10)).await
    };
    assert!(matches!(begin(early).await, Err(AskError::Status(status)) if Refusal::of(&status).is_some()));
    assert!(matches!(begin(later).await, Ok(Ok(_))));
    let (header, payload) = batch(&entries(3, 100));
    first.journal_append(first_drive(), header, payload, Reserve::Metadata).await.unwrap();
}
