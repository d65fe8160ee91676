//! Bodies that do not come whole, and servers that are asked to end.

use crate::{BUCKET, bucket, config, get, keys, put};
use bytes::Bytes;
use std::time::{Duration, Instant};
use tests::s3::{Head, RawRequest, document};

/// How a body is cut short.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The client says that no more follows, and waits for the answer.
    HalfClosed,
    /// The client goes away.
    Gone,
}

#[tokio::test(flavor = "multi_thread")]
async fn r17_truncated_bodies_leave_nothing() {
    let (_directory, config) = config(6);
    let server = config.start().await;
    let client = bucket(&config).await;
    let old = Bytes::from_static(b"the old one");
    put(&client, "cut/old", old.clone()).await.unwrap();
    for payload in ["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
        for (announced, sent) in [(100usize, 99usize), (100, 0), (10 << 20, 5 << 20), (10 << 20, (10 << 20) - 1)] {
            for cut in [Cut::HalfClosed, Cut::Gone] {
                for key in ["cut/old", "cut/new"] {
                    send_cut(&config, payload, key, announced, sent, cut).await;
                }
            }
        }
    }
    assert_eq!(get(&client, "cut/new").await.unwrap_err(), "NoSuchKey");
    assert_eq!(get(&client, "cut/old").await.unwrap(), old);
    assert_eq!(keys(&client, "cut/").await, ["cut/old"]);
    assert!(!server.output().contains("panicked"), "{}", server.output());
}

async fn send_cut(
    config: &tests::process::ServerConfig,
    payload: &str,
    key: &str,
    announced: usize,
    sent: usize,
    cut: Cut,
) {
    let path = format!("/{BUCKET}/{key}");
    let body = document(announced as u64, announced);
    let (headers, bytes) = if payload == "UNSIGNED-PAYLOAD" {
        (vec![("content-length", announced.to_string())], body.slice(..sent))
    } else {
        // One chunk, which is cut, so that neither the last chunk nor the trailer come.
        let line = format!("{announced:x}\r\n");
        let rest = "\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n".len();
        let whole = line.len() + announced + rest;
        let headers = vec![
            ("content-length", whole.to_string()),
            ("content-encoding", "aws-chunked".to_owned()),
            ("x-amz-decoded-content-length", announced.to_string()),
            ("x-amz-trailer", "x-amz-checksum-crc32".to_owned()),
        ];
        (headers, [line.as_bytes(), &body[..sent]].concat().into())
    };
    let head = Head { method: "PUT", path: &path, payload, headers: &headers };
    let mut request = RawRequest::open(config, &head).await.unwrap();
    request.send(&bytes).await.unwrap();
    match cut {
        Cut::Gone => {}
        Cut::HalfClosed => {
            request.half_close().await.unwrap();
            // A server may also just close: an answer is a courtesy, but it must not be a success.
            if let Ok(answer) = request.answer().await {
                assert_eq!(
                    answer.status,
                    400,
                    "{payload} {announced}/{sent}: {}",
                    String::from_utf8_lossy(&answer.body)
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_running_requests_finish() {
    let (_directory, config) = config(6);
    let mut server = config.start().await;
    let client = bucket(&config).await;
    let body = document(9, 6 << 20);
    let path = format!("/{BUCKET}/slow");
    // An idle connection, too, which must not hold up the end.
    let idle = tokio::net::TcpStream::connect(config.s3()).await.unwrap();
    let headers = [("content-length", body.len().to_string()), ("expect", "100-continue".to_owned())];
    let head = Head { method: "PUT", path: &path, payload: "UNSIGNED-PAYLOAD", headers: &headers };
    let mut slow = RawRequest::open(&config, &head).await.unwrap();
    slow.continued().await.unwrap();
    slow.send(&body[..1 << 20]).await.unwrap();
    server.signal("TERM");
    let asked = Instant::now();
    while tokio::net::TcpStream::connect(config.s3()).await.is_ok() {
        assert!(asked.elapsed() < Duration::from_secs(60), "nothing new is accepted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(server.status().is_none(), "it waits for the request:\n{}", server.output());
    for piece in body[1 << 20..].chunks(1 << 20) {
        slow.send(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let answer = slow.answer().await.unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let status = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", server.output());
    // The idle connection would have been waited for until the time was up, and then cut off.
    assert!(!server.output().contains("cut off while draining"), "nobody else is waited for:\n{}", server.output());
    drop(idle);
    let server = config.start().await;
    assert!(get(&client, "slow").await.unwrap() == body);
    drop(server);
}
