//! Connections that get nowhere.

use crate::client::Server;
use gateway::server::Limits;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than a busy machine takes to end a connection that is over.
const ENDED: Duration = Duration::from_secs(60);

fn limits() -> Limits {
    let second = Duration::from_secs(1);
    // A machine that is busy for a moment is no client that is silent.
    Limits { idle: 2 * second, stall: 5 * second, ..Limits::default() }
}

/// Each byte counted as a sign of life: with one a minute a client held its connection, and its part of the memory, for the
/// twelve hours of a request.
#[tokio::test]
async fn a_body_that_dribbles_in_does_not_keep_its_connection() {
    let server = Server::start_with(limits()).await;
    server.request("alice", "PUT", "/docs", &[], b"").await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = server.signed("alice", "PUT", "/docs/a", "", "UNSIGNED-PAYLOAD", &[]);
    stream.write_all(format!("{head}content-length: 1000000\r\n\r\n").as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let dribbling = tokio::spawn(async move {
        while writing.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(ENDED, reading.read_to_end(&mut answer)).await;
    dribbling.abort();
    assert!(ended.is_ok(), "still open");
}

/// It held its part of the memory for XML bodies for as long as it liked.
#[tokio::test]
async fn an_xml_body_that_dribbles_in_is_refused() {
    let server = Server::start_with(Limits { xml: Duration::from_secs(1), ..Limits::default() }).await;
    server.request("alice", "PUT", "/docs", &[], b"").await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = server.signed("alice", "POST", "/docs", "delete=", "UNSIGNED-PAYLOAD", &[]);
    stream.write_all(format!("{head}content-length: 1000000\r\n\r\n<Delete>").as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let dribbling = tokio::spawn(async move {
        while writing.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = String::new();
    let ended = tokio::time::timeout(ENDED, reading.read_to_string(&mut answer)).await;
    dribbling.abort();
    assert!(ended.is_ok(), "still open");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("<Code>RequestTimeout</Code>"), "{answer}");
}

/// Its answer is several times as long as what it sent, and stayed in memory, counted nowhere, for as long as it read nothing.
#[tokio::test]
async fn who_reads_no_answers_finds_no_room_for_more() {
    let server = Server::start_with(Limits::default()).await;
    server.request("alice", "PUT", "/docs", &[], b"").await;
    // As XML each quotation mark is six bytes.
    let mark = "\"".repeat(1000);
    let object = format!("<Object><Key>{mark}</Key><VersionId>{mark}</VersionId></Object>");
    let body = format!("<Delete>{}</Delete>", object.repeat(1000));
    let mut unread = Vec::new();
    let mut statuses = Vec::new();
    while unread.len() < 40 && !statuses.contains(&503) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // What the kernel takes is not in anybody's memory.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        let head = server.signed("alice", "POST", "/docs", "delete=", "UNSIGNED-PAYLOAD", &[]);
        stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
        let mut start = [0; 12];
        tokio::time::timeout(ENDED, stream.read_exact(&mut start)).await.expect("an answer").unwrap();
        statuses.push(String::from_utf8_lossy(&start[9..]).parse::<u16>().unwrap());
        unread.push(stream);
    }
    assert!(statuses.len() > 1 && statuses[0] == 200 && statuses.contains(&503), "{statuses:?}");
    // Who goes gives it back.
    drop(unread);
    let began = Instant::now();
    let few = format!("<Delete>{}</Delete>", object.repeat(100));
    while server.query("alice", "POST", "/docs", "delete=", &[], few.as_bytes()).await.status != 200 {
        assert!(began.elapsed() < ENDED, "there is room again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A version's id is repeated in the answer.
#[tokio::test]
async fn ids_of_versions_are_short() {
    let server = Server::start_with(Limits::default()).await;
    server.request("alice", "PUT", "/docs", &[], b"").await;
    let delete = |id: String| format!("<Delete><Object><Key>a</Key><VersionId>{id}</VersionId></Object></Delete>");
    let answer = server.query("alice", "POST", "/docs", "delete=", &[], delete("x".repeat(1025)).as_bytes()).await;
    crate::refused(&answer, 400, "InvalidArgument");
    let answer = server.query("alice", "POST", "/docs", "delete=", &[], delete("x".repeat(1024)).as_bytes()).await;
    assert_eq!(answer.status, 200);
}

/// The next connection waited in the kernel's queue, for as long as nobody else went.
#[tokio::test]
async fn one_connection_too_many_is_told_to_come_back() {
    let server = Server::start_with(Limits { connections: 2, ..Limits::default() }).await;
    let idle = [TcpStream::connect(server.address).await.unwrap(), TcpStream::connect(server.address).await.unwrap()];
    let began = Instant::now();
    for _ in 0..3 {
        crate::refused(&server.request("alice", "GET", "/", &[], b"").await, 503, "SlowDown");
    }
    // Nobody was waited for: the idle ones have more time than that.
    assert!(began.elapsed() < Limits::default().idle / 2, "{:?}", began.elapsed());
    drop(idle);
    // The first one to come when there is room again is served, however long after the last that was not.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    while server.request("alice", "GET", "/", &[], b"").await.status != 200 {
        // A busy server sees late that they have gone.
        assert!(began.elapsed() < ENDED, "there is room again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The preface of HTTP/2 and its settings; then pings for ever.
#[tokio::test]
async fn pings_do_not_keep_a_connection() {
    let server = Server::start_with(limits()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let pinging = tokio::spawn(async move {
        while writing.write_all(b"\0\0\x08\x06\0\0\0\0\0pingping").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(ENDED, reading.read_to_end(&mut answer)).await;
    pinging.abort();
    assert!(ended.is_ok(), "still open");
    assert!(answer.len() > 17, "it was HTTP/2, and answered");
}

/// A slow client is no silent one: its answer is longer than any limit on silence.
#[tokio::test]
async fn a_slow_reader_has_all_of_its_object() {
    let server = Server::start_with(limits()).await;
    server.request("alice", "PUT", "/docs", &[], b"").await;
    let bytes = vec![7; 8 << 20];
    assert_eq!(server.request("alice", "PUT", "/docs/a", &[], &bytes).await.status, 200);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Little of it is on its way at once.
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let head = server.signed("alice", "GET", "/docs/a", "", crate::client::EMPTY, &[]);
    stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
    let (mut read, mut piece, started) = (0, vec![0; 256 << 10], Instant::now());
    loop {
        let len = stream.read(&mut piece).await.unwrap();
        read += len;
        if len == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(if started.elapsed().as_secs() < 9 { 150 } else { 0 })).await;
    }
    assert!(read > bytes.len(), "{read} bytes after {:?}", started.elapsed());
}
