//! Writes that were done in spite of what their requests said.

use crate::client::EMPTY;
use crate::{HELLO, refused, server};

/// They were ignored: an upload that was resumed (`curl -C` names its piece by Content-Range) replaced the whole object by its
/// last piece, and what was to be replaced or deleted only as long as nobody had changed it was replaced or deleted.
#[tokio::test]
async fn a_condition_that_is_not_judged_stops_the_write() {
    let server = server().await;
    let created = server.query("alice", "POST", "/docs/m", "uploads=", &[], b"").await.text();
    let id = created.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once('<')).unwrap().0.to_owned();
    let part = format!("partNumber=1&uploadId={id}");
    let old = "Sat, 29 Oct 1994 19:43:31 GMT";
    for (method, path, query, name, value, status, code) in [
        ("PUT", "/docs/a", "", "content-range", "bytes 2-3/5", 501, "NotImplemented"),
        ("PUT", "/docs/a", "", "if-unmodified-since", old, 501, "NotImplemented"),
        ("PUT", "/docs/a", "", "if-modified-since", old, 501, "NotImplemented"),
        ("PUT", "/docs/a", "", "if-match", "", 400, "InvalidArgument"),
        ("PUT", "/docs/a", "", "if-none-match", "", 400, "InvalidArgument"),
        ("PUT", "/docs/m", &part, "if-none-match", "*", 501, "NotImplemented"),
        ("DELETE", "/docs/a", "", "if-none-match", "*", 501, "NotImplemented"),
        ("DELETE", "/docs/a", "", "if-unmodified-since", old, 501, "NotImplemented"),
        ("DELETE", "/docs/a", "", "if-match", "", 400, "InvalidArgument"),
    ] {
        let answer = server.query("alice", method, path, query, &[(name, value)], b"").await;
        refused(&answer, status, code);
        // Who may not write learns nothing of it.
        refused(&server.query("bob", method, path, query, &[(name, value)], b"").await, 403, "AccessDenied");
    }
    let keys = b"<Delete><Object><Key>a</Key></Object></Delete>";
    let answer = server.query("alice", "POST", "/docs", "delete=", &[("if-match", "\"0\"")], keys).await;
    refused(&answer, 501, "NotImplemented");
    let copy = [("x-amz-copy-source", "/docs/a"), ("x-amz-copy-source-range", "bytes=0-1")];
    refused(&server.request("alice", "PUT", "/docs/c", &copy, b"").await, 400, "InvalidArgument");
    assert_eq!(server.request("alice", "GET", "/docs/a", &[], b"").await.body, b"hello");
    assert_eq!(server.request("alice", "DELETE", "/docs/a", &[("if-match", HELLO)], b"").await.status, 204);
}

/// A copy was made though the condition that its client had left empty, or sent twice, did not hold.
#[tokio::test]
async fn a_condition_that_says_nothing_stops_the_copy() {
    let server = server().await;
    for name in ["x-amz-copy-source-if-match", "x-amz-copy-source-if-none-match", "x-amz-copy-source-if-modified-since"]
    {
        let copy = [("x-amz-copy-source", "/docs/a"), (name, "")];
        refused(&server.request("alice", "PUT", "/docs/c", &copy, b"").await, 400, "InvalidArgument");
        refused(&server.request("bob", "PUT", "/docs/c", &copy, b"").await, 403, "AccessDenied");
    }
    let owner = [("x-amz-expected-bucket-owner", "")];
    refused(&server.request("alice", "DELETE", "/docs/a", &owner, b"").await, 400, "InvalidArgument");
    let twice = server.presigned(
        "alice",
        "DELETE",
        "/docs/a",
        "x-amz-expected-bucket-owner=alice&x-amz-expected-bucket-owner=bob",
        b"",
    );
    refused(&twice.await, 400, "InvalidArgument");
    assert_eq!(server.request("alice", "HEAD", "/docs/c", &[], b"").await.status, 404);
    assert_eq!(server.request("alice", "GET", "/docs/a", &[], b"").await.body, b"hello");
}

/// A PUT without any length made an empty object of what was there.
#[tokio::test]
async fn a_body_has_a_length() {
    let server = server().await;
    let head = server.signed("alice", "PUT", "/docs/a", "", EMPTY, &[]);
    let answer = server.exchange(format!("{head}connection: close\r\n\r\n").as_bytes()).await;
    refused(&answer, 411, "MissingContentLength");
    let head = server.signed("alice", "PUT", "/docs/a", "", "UNSIGNED-PAYLOAD", &[]);
    let chunked = format!("{head}connection: close\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
    refused(&server.exchange(chunked.as_bytes()).await, 411, "MissingContentLength");
    assert_eq!(server.request("alice", "GET", "/docs/a", &[], b"").await.body, b"hello");
    let head = server.signed("alice", "PUT", "/new-bucket", "", EMPTY, &[]);
    let answer = server.exchange(format!("{head}connection: close\r\n\r\n").as_bytes()).await;
    assert_eq!(answer.status, 200, "a bucket needs no body: {}", answer.text());
}

/// An empty object that was sent with `Expect: 100-continue` got its answer without a 100, on a connection that stayed: boto3
/// took the answer to the next PUT on it for the rest of this one, and waited for 60 seconds.
#[tokio::test]
async fn who_waits_to_send_nothing_gets_the_answer_and_the_end_of_the_connection() {
    let server = server().await;
    for (account, path, status) in [("alice", "/docs/empty", 200), ("bob", "/docs/empty", 403)] {
        let head = server.signed(account, "PUT", path, "", EMPTY, &[]);
        let request = format!("{head}expect: 100-continue\r\ncontent-length: 0\r\n\r\n");
        let exchange = server.exchange(request.as_bytes());
        let answer =
            tokio::time::timeout(std::time::Duration::from_secs(60), exchange).await.expect("the connection ends");
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{}", answer.text());
    }
}

/// The XML parser skips a CDATA section, and `a` was deleted where `a]]` or `ab` was named.
#[tokio::test]
async fn keys_in_cdata_sections_are_not_misread() {
    let server = server().await;
    assert_eq!(server.request("alice", "PUT", "/docs/ab", &[], b"x").await.status, 200);
    for key in ["a<![CDATA[b]]>", "<![CDATA[ab]]>"] {
        let keys = format!("<Delete><Object><Key>{key}</Key></Object></Delete>");
        let answer = server.query("alice", "POST", "/docs", "delete=", &[], keys.as_bytes()).await;
        refused(&answer, 400, "MalformedXML");
    }
    for key in ["a", "ab"] {
        assert_eq!(server.request("alice", "HEAD", &format!("/docs/{key}"), &[], b"").await.status, 200, "{key}");
    }
    // What only looks like one is a key.
    let keys = b"<Delete><Object><Key>&lt;![CDATA[a]]&gt;</Key></Object></Delete>";
    assert_eq!(server.query("alice", "POST", "/docs", "delete=", &[], keys).await.status, 200);
}

/// More than a hundred lines were 431, and user metadata of S3's size may have more.
#[tokio::test]
async fn metadata_may_have_many_names() {
    let server = server().await;
    let names: Vec<String> = (0..400).map(|n| format!("x-amz-meta-n{n:03}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let answer = server.request("alice", "PUT", "/docs/m", &headers, b"x").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let head = server.request("alice", "HEAD", "/docs/m", &[], b"").await;
    assert!(names.iter().all(|name| head.header(name) == Some("v")));
}

/// They were 501, which SDKs repeat.
#[tokio::test]
async fn methods_that_there_are_not() {
    let server = server().await;
    // A browser's question about origins has an answer, and this one does not say from where it comes.
    refused(&server.request("alice", "OPTIONS", "/docs/a", &[], b"").await, 400, "BadRequest");
    for (method, path) in [("PUT", "/"), ("DELETE", "/"), ("PATCH", "/docs/a"), ("POST", "/docs/a")] {
        let answer = server.request("alice", method, path, &[], b"").await;
        refused(&answer, 405, "MethodNotAllowed");
        assert!(answer.header("allow").is_some_and(|allowed| allowed.contains("GET")), "{method} {path}");
    }
}
