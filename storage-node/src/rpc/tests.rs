//! A service of two calls over loopback.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::remote::ConnectError;
use crate::service::Refusal;
use crate::service::identity::{Identity, NodeName, Role};
use crate::service::issue::ClusterCa;
use crate::service::tests::{YEAR, credentials, identity};
use crate::service::tls::Credentials;
use crate::tests::CLUSTER;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

const SERVICE: &str = "stele.test.v1.Echo";
const LIMIT: usize = 8 << 20;
const TIME: Duration = Duration::from_secs(60);

/// Longest answer of "Large".
const LARGE: usize = 3 << 20;

#[derive(Default)]
struct Echo {
    /// Large answers that are being made, and the most that ever were.
    made: AtomicU32,
    most: AtomicU32,
    /// Pages that have room.
    pages: AtomicU32,
}

#[async_trait]
impl Handler for Echo {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn allows(&self, call: &str, role: Role) -> Option<bool> {
        match call {
            "Whole" | "Sum" | "Never" | "Large" | "Page" => Some(role == Role::Metadata),
            _ => None,
        }
    }

    async fn answer(&self, mut call: Call) -> Result<Bytes, Status> {
        match call.name.as_str() {
            "Whole" => call.whole(LIMIT).await,
            "Sum" => {
                let mut sum = 0_u64;
                while let Some(piece) = call.next().await? {
                    sum += piece.len() as u64;
                }
                Ok(Bytes::copy_from_slice(&sum.to_be_bytes()))
            }
            "Large" => {
                call.room_for_answer(LARGE).await?;
                let made = self.made.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(made, Ordering::SeqCst);
                // Long enough for all to be made at the same time, if they may.
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.made.fetch_sub(1, Ordering::SeqCst);
                Ok(vec![7; LARGE].into())
            }
            "Page" => {
                call.room_for_page(LARGE).await?;
                self.pages.fetch_add(1, Ordering::SeqCst);
                std::future::pending().await
            }
            _ => std::future::pending().await,
        }
    }
}

struct World {
    ca: ClusterCa,
    server: Server,
    echo: Arc<Echo>,
}

impl World {
    async fn start() -> World {
        let ca = ClusterCa::create(CLUSTER).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = credentials(&ca.issue(&identity(CLUSTER, Role::Metadata, "m1"), YEAR).unwrap());
        let echo = Arc::new(Echo::default());
        let config = RpcConfig { answers: 8 << 20, pages: 8 << 20, ..RpcConfig::default() };
        let server = Server::start(listener, &own, vec![echo.clone()], config).unwrap();
        World { ca, server, echo }
    }

    fn credentials(&self, who: &Identity) -> Credentials {
        credentials(&self.ca.issue(who, YEAR).unwrap())
    }

    fn client(&self, role: Role, of: &str) -> Client {
        let peer =
            Peer { role: Role::Metadata, name: NodeName::new(of).unwrap(), address: self.server.address().to_string() };
        Client::new(&self.credentials(&identity(CLUSTER, role, "c1")), SERVICE, peer, TIME).unwrap()
    }
}

#[tokio::test]
async fn questions_and_answers_of_any_length_pass() {
    let world = World::start().await;
    let client = world.client(Role::Metadata, "m1");
    for len in [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 7] {
        let bytes: Bytes = (0..len).map(|n: usize| (n % 251) as u8).collect::<Vec<_>>().into();
        let answer = client.ask(Lane::Bulk, "Whole", bytes.clone(), LIMIT, TIME).await.unwrap();
        assert!(answer == bytes, "{len}");
    }
    let parts = vec![Bytes::from(vec![1; 5 << 20]), Bytes::new(), Bytes::from(vec![2; 3])];
    let sum = client.send(Lane::Bulk, "Sum", stream::iter(parts), 8, TIME).await.unwrap();
    assert_eq!(sum[..], ((5_u64 << 20) + 3).to_be_bytes());
    let none = client.send(Lane::Control, "Sum", stream::empty(), 8, TIME).await.unwrap();
    assert_eq!(none[..], [0; 8]);
}

/// Room was taken once an answer was there: any number of listings was held in memory, waiting for it.
#[tokio::test]
async fn no_more_answers_are_made_than_there_is_room_for() {
    let world = World::start().await;
    let client = world.client(Role::Metadata, "m1");
    let ask = || client.ask(Lane::Bulk, "Large", Bytes::from_static(b"x"), LIMIT, TIME);
    for answer in futures::future::join_all((0..5).map(|_| ask())).await {
        assert_eq!(answer.unwrap().len(), LARGE);
    }
    // One process has half of 8 MiB.
    assert_eq!(world.echo.most.load(Ordering::SeqCst), 1);
    // One that is longer than it said goes out as well.
    let long = client.ask(Lane::Bulk, "Whole", Bytes::from(vec![1; 5 << 20]), LIMIT, TIME).await.unwrap();
    assert_eq!(long.len(), 5 << 20);
}

/// Pages that have no room stood in line before everything that the same process asked after them.
#[tokio::test]
async fn what_waits_for_room_for_pages_keeps_nothing_else_waiting() {
    let world = World::start().await;
    let client = world.client(Role::Metadata, "m1");
    let page = || Box::pin(client.ask(Lane::Bulk, "Page", Bytes::from_static(b"x"), LIMIT, TIME));
    let large = async {
        // One has the share, and is never done.
        while world.echo.pages.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client.ask(Lane::Control, "Large", Bytes::from_static(b"x"), LIMIT, TIME).await
    };
    let pages = futures::future::select_all((0..3).map(|_| page()));
    match futures::future::select(Box::pin(large), pages).await {
        futures::future::Either::Left((answer, _)) => assert_eq!(answer.unwrap().len(), LARGE),
        futures::future::Either::Right((ended, _)) => panic!("a page ended first: {:?}", ended.0),
    }
    assert_eq!(world.echo.pages.load(Ordering::SeqCst), 1, "the others wait");
}

#[tokio::test]
async fn what_was_surely_not_carried_out_is_told_from_what_may_have_been() {
    let world = World::start().await;
    let ask = async |client: &Client, name: &str, len: usize, time| {
        client.ask(Lane::Control, name, Bytes::from(vec![0; len]), LIMIT, time).await.unwrap_err()
    };
    let gateway = ask(&world.client(Role::Gateway, "m1"), "Whole", 1, TIME).await;
    let refused = |error: &CallError| match error {
        CallError::NotSent(ConnectError::Refused { refusal, .. }) => Some(*refusal),
        _ => None,
    };
    assert_eq!(refused(&gateway), Some(Refusal::Role), "{gateway}");
    let other = ask(&world.client(Role::Metadata, "m2"), "Whole", 1, TIME).await;
    assert!(matches!(other, CallError::NotSent(ConnectError::WrongNode { .. })), "{other}");
    let client = world.client(Role::Metadata, "m1");
    assert!(matches!(ask(&client, "Nothing", 1, TIME).await, CallError::Unknown(_)));
    assert!(matches!(ask(&client, "Whole", LIMIT + 1, TIME).await, CallError::Unknown(_)));
    let late = ask(&client, "Never", 1, Duration::from_secs(2)).await;
    assert!(matches!(late, CallError::Unknown(ConnectError::Late { .. })), "{late}");
    let gone = world.client(Role::Metadata, "m1");
    world.server.stop(Duration::ZERO).await;
    drop(client);
    assert!(matches!(ask(&gone, "Whole", 1, TIME).await, CallError::NotSent(ConnectError::Unreachable { .. })));
}

/// Before the attempt had a life of its own, no call shorter than a handshake ever found a connection.
#[tokio::test]
async fn an_attempt_to_connect_outlives_the_calls_that_wait_for_it() {
    let world = World::start().await;
    // A way on which the handshake takes longer than any of the calls.
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, to) = (slow.local_addr().unwrap().to_string(), world.server.address());
    tokio::spawn(async move {
        while let Ok((mut from, _)) = slow.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(600)).await;
                let mut on = tokio::net::TcpStream::connect(to).await.unwrap();
                tokio::io::copy_bidirectional(&mut from, &mut on).await
            });
        }
    });
    let peer = Peer { role: Role::Metadata, name: NodeName::new("m1").unwrap(), address };
    let own = world.credentials(&identity(CLUSTER, Role::Metadata, "c1"));
    let client = Client::new(&own, SERVICE, peer, TIME).unwrap();
    let begun = tokio::time::Instant::now();
    loop {
        let asked =
            client.ask(Lane::Control, "Whole", Bytes::from_static(b"x"), LIMIT, Duration::from_millis(200)).await;
        if asked.is_ok() {
            return;
        }
        assert!(begun.elapsed() < TIME, "no connection was ever made");
    }
}
