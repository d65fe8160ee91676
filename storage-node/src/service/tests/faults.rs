//! What goes wrong between two processes: unknown is not missing, everything has an end, and memory has a bound.
use super::*;
use crate::client::{ReadError, Reserve, WriteError};
use crate::disk::DiskOp;
use crate::disk::faulty::{Fault, FaultId};
use crate::remote::ConnectError;
use crate::remote::link::{AskError, Lane, Target};
use crate::service::message::{OfShard, drive_bytes, shard_bytes};
use crate::service::method::Method;
use crate::service::wire::{MESSAGE_LIMIT, PIECE, Upload, UploadHead};
use crate::tests::{NOT_WAITED_FOR, noise, shard};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use std::time::Instant;

const LEN: usize = 8 * PIECE;
/// Short, and long enough for what a busy machine does at once otherwise.
const HASTY: Duration = Duration::from_secs(2);

async fn put(client: &dyn NodeClient, counter: u64, len: usize) -> Result<(), WriteError> {
    let (header, payload) = shard(counter, len);
    client.write_shard(first_drive(), header, payload, Reserve::Client).await
}

async fn get(client: &dyn NodeClient, counter: u64, len: usize) -> Result<Bytes, ReadError> {
    let (header, _) = shard(counter, len);
    client.read_shard(first_drive(), header.id(), header.descriptor.root(), 0..len as u32).await
}

/// Waits until the drive is read.
async fn begun_reading(cluster: &Cluster, fault: FaultId) {
    while cluster.trace.hits(fault) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_in_the_middle_is_unreachable_and_is_found_again() {
    let mut cluster = Cluster::large(ServiceConfig::default()).await;
    let client = cluster.client(Role::Metadata);
    put(&*client, 1, LEN).await.unwrap();
    let hang = cluster.trace.inject(Fault::hang().on(DiskOp::Read).path(".seg"));
    let reading = tokio::spawn({
        let client = client.clone();
        async move { get(&*client, 1, LEN).await }
    });
    begun_reading(&cluster, hang).await;
    drop(cluster.server.take());
    assert_eq!(reading.await.unwrap(), Err(ReadError::Unreachable));
    // It is looked for at once, and nobody is there.
    let gone = matches!(client.problem(), Some(ConnectError::Broken { .. } | ConnectError::Unreachable { .. }));
    assert!(gone, "{:?}", client.problem());
    cluster.trace.heal_all();
    assert_eq!(get(&*client, 1, LEN).await, Err(ReadError::Unreachable));
    let drives = client.drives().await;
    assert!(drives.iter().all(|drive| matches!(drive.health, crate::client::DriveHealth::Failed { .. })));
    let address = cluster.address.to_string();
    let node = cluster.node.clone();
    let _server = serve(&cluster.ca, "n1", &address, node.clone(), node, ServiceConfig::default()).await;
    let begun = Instant::now();
    while get(&*client, 1, LEN).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", client.problem());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(get(&*client, 1, LEN).await.unwrap() == noise(1, LEN));
    assert_eq!(client.problem(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_ends_with_its_deadline() {
    let cluster = Cluster::small().await;
    let client = cluster.hasty(Role::Metadata, HASTY);
    put(&*client, 1, 100).await.unwrap();
    let hang = cluster.trace.inject(Fault::hang().on(DiskOp::Read).path(".seg").times(1));
    let begun = Instant::now();
    assert_eq!(get(&*client, 1, 100).await, Err(ReadError::Unreachable));
    assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
    assert!(matches!(client.problem(), Some(ConnectError::Late { .. })), "{:?}", client.problem());
    cluster.trace.heal(hang);
    cluster.trace.inject(Fault::hang().on(DiskOp::SyncData).path(".seg").times(1));
    let begun = Instant::now();
    assert_eq!(put(&*client, 2, 100).await, Err(WriteError::Unreachable));
    assert!(begun.elapsed() < NOT_WAITED_FOR, "{:?}", begun.elapsed());
    cluster.trace.heal_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_speak_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cluster = Cluster::small().await;
    let mut config = RemoteConfig { address: silent.local_addr().unwrap().to_string(), ..cluster.config() };
    config.deadlines.connect = Duration::from_millis(300);
    let client = RemoteNode::new(&cluster.credentials(Role::Metadata), config).unwrap();
    assert!(matches!(client.connect().await, Err(ConnectError::Late { .. })));
    let begun = Instant::now();
    assert_eq!(get(&*client, 1, 1).await, Err(ReadError::Unreachable));
    assert!(begun.elapsed() < Deadlines::default().connect, "{:?}", begun.elapsed());
}

/// A bare connection, for what a good client does not do.
pub async fn bare(cluster: &Cluster, role: Role, stream_window: u32) -> (Target, Lane) {
    let credentials = cluster.credentials(role);
    let node = credentials.node(&name("n1"));
    let target = Target {
        address: cluster.address.to_string(),
        tls: credentials.client(&node).unwrap(),
        node,
        hello: crate::service::method::Method::Hello.path().to_owned(),
        client: [5; 16],
        leads: Arc::default(),
        level: credentials.level().clone(),
        own: credentials.identity().clone(),
        versions: crate::service::PROTOCOL,
        software: String::new(),
        connect: Duration::from_secs(5),
        pause: Duration::from_secs(5),
        stream_window,
        connection_window: 64 << 20,
    };
    (target, Lane::new(9))
}

fn upload_of(counter: u64, len: usize, parts: Vec<Bytes>) -> Vec<Upload> {
    let (header, _) = shard(counter, len);
    let head = UploadHead {
        drive: drive_bytes(first_drive()),
        header: header.encode(),
        len: len as u64,
        ..UploadHead::default()
    };
    let parts = parts.into_iter().map(|data| Upload { head: None, data });
    std::iter::once(Upload { head: Some(head), data: Bytes::new() }).chain(parts).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r17_uploads_that_lie_are_refused_and_nothing_is_written() {
    let cluster = Cluster::large(ServiceConfig::default()).await;
    let (target, lane) = bare(&cluster, Role::Gateway, 1 << 20).await;
    let link = lane.link(&target).await.unwrap();
    let send = async |uploads: Vec<Upload>| link.send(Method::WriteShard, stream::iter(uploads), HASTY * 8).await;
    let oversized = Bytes::from(vec![1; MESSAGE_LIMIT + 1]);
    let refused = send(upload_of(1, oversized.len(), vec![oversized])).await;
    assert!(matches!(refused, Err(AskError::Status(_))), "{refused:?}");
    let good = noise(1, 5000);
    let malformed = |sent: Result<Result<(), _>, AskError>| match sent {
        Ok(Err(crate::service::fault::Fault::Write(WriteError::Malformed(_)))) => true,
        Err(AskError::Status(status)) => status.code() == tonic::Code::InvalidArgument,
        _ => false,
    };
    assert!(malformed(send(upload_of(1, 5000, vec![good.slice(..4999)])).await), "too short");
    assert!(malformed(send(upload_of(1, 5000, vec![good.clone(), good.slice(..1)])).await), "too long");
    assert!(malformed(send(upload_of(1, 5000, vec![noise(2, 5000)])).await), "other bytes");
    assert!(malformed(send(upload_of(1, 5000, vec![])).await), "no bytes");
    assert!(malformed(send(vec![]).await), "nothing");
    assert!(malformed(send(upload_of(1, 5000, vec![Bytes::new(), good.clone()])).await), "a part without bytes");
    assert!(malformed(send(upload_of(1, 5000, vec![good.clone()]).split_off(1)).await), "no head");
    let mut headless = upload_of(1, 5000, vec![good.clone()]);
    headless[0].head.as_mut().unwrap().header = Bytes::from_static(b"nonsense");
    assert!(malformed(send(headless).await), "no header");
    let mut huge = upload_of(1, 5000, vec![good.clone()]);
    huge[0].head.as_mut().unwrap().len = u64::MAX;
    let refused = send(huge).await;
    assert!(
        matches!(refused, Ok(Err(crate::service::fault::Fault::Write(WriteError::TooLarge { .. })))),
        "{refused:?}"
    );
    assert_eq!(cluster.node.list_shards(first_drive(), None, None, 10).await, Ok(vec![]));
    assert_eq!(send(upload_of(1, 5000, vec![good.slice(..7), good.slice(7..)])).await.unwrap(), Ok(()));
    assert_eq!(get(&*cluster.node, 1, 5000).await, Ok(good));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r17_messages_that_make_no_sense_are_refused() {
    let cluster = Cluster::small().await;
    let (target, lane) = bare(&cluster, Role::Metadata, 1 << 20).await;
    let link = lane.link(&target).await.unwrap();
    for method in Method::ALL.iter().copied().filter(|method| *method != Method::Hello) {
        let nonsense =
            OfShard { drive: Bytes::from_static(b"?"), shard: Bytes::from_static(b"?"), ..OfShard::default() };
        let answer =
            tokio::time::timeout(Duration::from_secs(5), link.ask(method, nonsense, (0, 1 << 20), HASTY)).await;
        let fine = method == Method::ScrubStatus;
        assert_eq!(matches!(answer, Ok(Ok(Ok(_)))), fine, "{}", method.name());
    }
    put(&*cluster.client(Role::Gateway), 1, 10).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_take_nothing_hold_no_more_than_the_bound_and_not_for_ever() {
    // Room for two readers of many pieces.
    let config = ServiceConfig { reads: 6 * PIECE, ..ServiceConfig::default() };
    let cluster = Cluster::large(config).await;
    put(&*cluster.node, 1, LEN).await.unwrap();
    let (target, lane) = bare(&cluster, Role::Gateway, 64 << 10).await;
    let link = lane.link(&target).await.unwrap();
    let (header, _) = shard(1, LEN);
    let question = OfShard {
        drive: drive_bytes(first_drive()),
        shard: shard_bytes(header.id()),
        root: Bytes::copy_from_slice(&header.descriptor.root()),
        start: 0,
        end: LEN as u32,
    };
    let mut stuck = Vec::new();
    let time = 6 * HASTY;
    for _ in 0..8 {
        stuck.push(link.open(Method::ReadShard, question.clone(), time).boxed());
    }
    // Each begins, and takes nothing.
    let opened = tokio::time::timeout(HASTY, futures::future::join_all(stuck.iter_mut())).await;
    assert!(opened.is_err(), "six of them wait for room");
    let hasty = cluster.hasty(Role::Gateway, HASTY);
    assert_eq!(get(&*hasty, 1, LEN).await, Err(ReadError::Unreachable), "no room: waits no longer than its deadline");
    assert!(matches!(hasty.problem(), Some(ConnectError::Late { .. })));
    // Their deadline frees the room, though they still take nothing.
    let begun = Instant::now();
    let patient = cluster.client(Role::Gateway);
    assert!(get(&*patient, 1, LEN).await.unwrap() == noise(1, LEN));
    assert!(begun.elapsed() < time * 4, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_send_nothing_hold_no_more_than_the_bound() {
    let config = ServiceConfig { uploads: LEN, ..ServiceConfig::default() };
    let cluster = Cluster::large(config).await;
    let (target, lane) = bare(&cluster, Role::Gateway, 1 << 20).await;
    let link = lane.link(&target).await.unwrap();
    let begun = upload_of(1, LEN, vec![noise(1, LEN).slice(..PIECE)]);
    let stalled = stream::iter(begun).chain(stream::pending());
    let mut stalled = link.send(Method::WriteShard, stalled, Duration::from_secs(60)).boxed();
    assert!(tokio::time::timeout(HASTY, &mut stalled).await.is_err());
    let hasty = cluster.hasty(Role::Gateway, HASTY);
    assert_eq!(put(&*hasty, 2, LEN).await, Err(WriteError::Unreachable), "no room");
    // Who gives up gives back.
    drop(stalled);
    put(&*cluster.client(Role::Gateway), 2, LEN).await.unwrap();
    let listed = cluster.node.list_shards(first_drive(), None, None, 10).await.unwrap();
    assert_eq!(listed.len(), 1, "what was not received whole was not written");
}

/// One byte at a time, or none, it held its room for as long as a call may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_trickles_gives_its_room_back_like_one_that_stalls() {
    let config = ServiceConfig { stall: HASTY, ..ServiceConfig::default() };
    let cluster = Cluster::large(config).await;
    let (target, lane) = bare(&cluster, Role::Gateway, 1 << 20).await;
    let link = lane.link(&target).await.unwrap();
    let begun = upload_of(1, LEN, vec![]);
    let trickle = stream::unfold(0, |at| async move {
        tokio::time::sleep(HASTY / 8).await;
        Some((Upload { head: None, data: noise(1, LEN).slice(at..at + 1) }, at + 1))
    });
    let sent = link.send(Method::WriteShard, stream::iter(begun).chain(trickle), HASTY * 100);
    let ended = tokio::time::timeout(HASTY * 20, sent).await;
    assert!(matches!(ended, Ok(Err(_))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_stalls_gives_its_room_back_long_before_its_deadline() {
    let config = ServiceConfig { uploads: LEN, stall: HASTY, ..ServiceConfig::default() };
    let cluster = Cluster::large(config).await;
    let (target, lane) = bare(&cluster, Role::Gateway, 1 << 20).await;
    let link = lane.link(&target).await.unwrap();
    let begun = upload_of(1, LEN, vec![noise(1, LEN).slice(..PIECE)]);
    let stalled = stream::iter(begun).chain(stream::pending());
    let ended = tokio::time::timeout(HASTY * 10, link.send(Method::WriteShard, stalled, HASTY * 100)).await;
    assert!(matches!(ended, Ok(Err(_))), "{ended:?}");
    put(&*cluster.client(Role::Gateway), 2, LEN).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_is_finished_when_a_server_stops() {
    let mut cluster = Cluster::large(ServiceConfig::default()).await;
    let client = cluster.client(Role::Metadata);
    put(&*client, 1, LEN).await.unwrap();
    let slow = cluster.trace.inject(Fault::slow(Duration::from_millis(50)).on(DiskOp::Read).path(".seg"));
    let reading = tokio::spawn({
        let client = client.clone();
        async move { get(&*client, 1, LEN).await }
    });
    begun_reading(&cluster, slow).await;
    cluster.server.take().unwrap().stop(Duration::from_secs(20)).await;
    assert!(reading.await.unwrap().unwrap() == noise(1, LEN));
    assert_eq!(get(&*client, 1, LEN).await, Err(ReadError::Unreachable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_are_given_up_do_no_harm_to_others() {
    let cluster = Cluster::large(ServiceConfig::default()).await;
    put(&*cluster.node, 1, LEN).await.unwrap();
    let (target, lane) = bare(&cluster, Role::Gateway, 4 << 20).await;
    let link = lane.link(&target).await.unwrap();
    let (header, _) = shard(1, LEN);
    let question = OfShard {
        drive: drive_bytes(first_drive()),
        shard: shard_bytes(header.id()),
        root: Bytes::copy_from_slice(&header.descriptor.root()),
        start: 0,
        end: LEN as u32,
    };
    let time = Duration::from_secs(60);
    for _ in 0..100 {
        // Begun, so that there are frames on the way, and dropped.
        let mut answer = link.open(Method::ReadShard, question.clone(), time).await.unwrap();
        assert!(answer.message().await.unwrap().is_some());
    }
    let whole = link.ask(Method::ReadShard, question, (LEN, LEN), time).await;
    assert!(whole.unwrap().unwrap() == noise(1, LEN), "over the same connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_connects_again_ends_its_older_connection() {
    let cluster = Cluster::small().await;
    put(&*cluster.node, 1, 100).await.unwrap();
    let (target, lane) = bare(&cluster, Role::Gateway, 1 << 20).await;
    let old = lane.link(&target).await.unwrap();
    let new = Lane::new(9).link(&target).await.unwrap();
    let question = crate::service::message::Nothing {};
    assert!(new.ask(Method::Drives, question.clone(), (0, 1 << 20), HASTY).await.unwrap().is_ok());
    let Err(AskError::Status(status)) = old.ask(Method::Drives, question, (0, 1 << 20), HASTY).await else {
        panic!("the older connection still answers");
    };
    assert_eq!(crate::service::Refusal::of(&status), Some(crate::service::Refusal::Superseded));
}
