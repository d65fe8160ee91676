//! Hostile requests over a socket, against the real server: what is signed wrongly, framed wrongly, or asks for what is
//! not given is refused, and refused before it changes anything.
#![allow(clippy::unwrap_used, missing_docs)]

mod access;
mod around;
mod client;
mod conditions;
mod guesses;
mod hoisted;
mod iam;
mod inventory;
mod reads;
mod s3cmd;
mod said;
mod slow;
mod uploads;
mod versions;
mod writes;

use client::{Answer, Server, chunks};

/// MD5 of `hello`, quoted.
const HELLO: &str = "\"5d41402abc4b2a76b9719d911017c592\"";

pub async fn server() -> Server {
    let server = Server::start().await;
    assert_eq!(server.request("alice", "PUT", "/docs", &[], b"").await.status, 200);
    assert_eq!(server.request("alice", "PUT", "/docs/a", &[], b"hello").await.status, 200);
    server
}

pub fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
}

/// A part without its number, or with an `x-id` of PutObject, replaced the object itself.
#[tokio::test]
async fn what_is_meant_for_a_part_of_an_object_does_not_replace_it() {
    let server = server().await;
    for query in ["uploadId=x", "partNumber=1", "tagging=&x-id=PutObject", "append=&position=0"] {
        let answer = server.query("alice", "PUT", "/docs/a", query, &[], b"<x/>").await;
        refused(&answer, 400, "InvalidArgument");
    }
    let answer = server.query("alice", "DELETE", "/docs/a", "tagging=&x-id=DeleteObject", &[], b"").await;
    refused(&answer, 400, "InvalidArgument");
    let copy = [("x-amz-copy-source", "/docs/none")];
    let answer = server.query("alice", "PUT", "/docs/a", "x-id=PutObject", &copy, b"").await;
    refused(&answer, 400, "InvalidRequest");
    assert_eq!(server.request("alice", "GET", "/docs/a", &[], b"").await.body, b"hello");
}

/// The last bytes of an empty object: the end of Content-Range was computed as 0 - 1.
#[tokio::test]
async fn ranges() {
    let server = server().await;
    server.request("alice", "PUT", "/docs/empty", &[], b"").await;
    for range in ["bytes=-5", "bytes=0-"] {
        for method in ["GET", "HEAD"] {
            let answer = server.request("alice", method, "/docs/empty", &[("range", range)], b"").await;
            assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */0")), "{method} {range}");
        }
    }
    let some = [("range", "bytes=1-2")];
    let head = server.request("alice", "HEAD", "/docs/a", &some, b"").await;
    assert_eq!(
        (head.status, head.header("content-range"), head.header("content-length")),
        (206, Some("bytes 1-2/5"), Some("2"))
    );
    // A download that is resumed after the object was replaced must not join two objects.
    for (validator, status, body) in [(HELLO, 206, &b"el"[..]), ("\"of the object before\"", 200, b"hello")] {
        let headers = [some[0], ("if-range", validator)];
        let answer = server.request("alice", "GET", "/docs/a", &headers, b"").await;
        assert_eq!((answer.status, answer.body.as_slice()), (status, body), "{validator}");
        // It is asked beforehand how much that would be.
        let head = server.request("alice", "HEAD", "/docs/a", &headers, b"").await;
        let length = body.len().to_string();
        assert_eq!((head.status, head.header("content-length")), (status, Some(length.as_str())), "{validator}");
        assert_eq!(head.header("content-range").is_some(), status == 206, "{validator}");
    }
}

/// An empty Content-MD5 counted as none, and the body went unchecked.
#[tokio::test]
async fn digests_and_lengths() {
    let server = server().await;
    for (name, value, code) in [
        ("content-md5", "", "InvalidDigest"),
        ("content-md5", "XrY7u+Ae7tCTyyK7j1rNww==", "BadDigest"),
        ("x-amz-checksum-crc32", "", "InvalidRequest"),
        ("x-amz-checksum-crc32", "AAAAAA==", "BadDigest"),
    ] {
        refused(&server.request("alice", "PUT", "/docs/d", &[(name, value)], b"hello").await, 400, code);
        let keys = b"<Delete><Object><Key>a</Key></Object></Delete>";
        let answer = server.query("alice", "POST", "/docs", "delete=", &[(name, value)], keys).await;
        refused(&answer, 400, code);
    }
    let unknown = [("x-amz-checksum-crc16", "AAA=")];
    refused(&server.request("alice", "PUT", "/docs/d", &unknown, b"hello").await, 501, "NotImplemented");
    let framed = [("content-encoding", "aws-chunked"), ("x-amz-decoded-content-length", "5")];
    let body = b"5;chunk-signature=0\r\nhello\r\n0;chunk-signature=0\r\n\r\n";
    let answer = server.payload("alice", "PUT", "/docs/d", "UNSIGNED-PAYLOAD", &framed, body).await;
    refused(&answer, 400, "InvalidRequest");
    let other = "0".repeat(64);
    let answer = server.payload("alice", "PUT", "/docs/d", &other, &[], b"hello").await;
    refused(&answer, 400, "XAmzContentSHA256Mismatch");
    let keys = b"<Delete><Object><Key>a</Key></Object></Delete>";
    let answer = server.send(&server.signed("alice", "POST", "/docs", "delete=", &other, &[]), keys).await;
    refused(&answer, 400, "XAmzContentSHA256Mismatch");
    // A damaged CreateBucket was an internal error, and one that came damaged but well-formed would be another bucket's.
    let location =
        b"<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>";
    let answer = server.send(&server.signed("alice", "PUT", "/new", "", &other, &[]), location).await;
    refused(&answer, 400, "XAmzContentSHA256Mismatch");
    assert_eq!(server.request("alice", "HEAD", "/new", &[], b"").await.status, 404);
    assert_eq!(server.request("alice", "HEAD", "/docs/d", &[], b"").await.status, 404);
    assert_eq!(server.request("alice", "HEAD", "/docs/a", &[], b"").await.status, 200);
}

/// s3cmd signs for `US`, the old name of us-east-1, unless it is told otherwise. It was told that its request was invalid;
/// from the name of the region that is meant it knows what to sign for.
#[tokio::test]
async fn a_region_that_is_none_is_told_the_right_one() {
    let server = server().await;
    let answer = server.send(&server.signed_for("US", "alice", "GET", "/docs/a"), b"").await;
    refused(&answer, 400, "AuthorizationHeaderMalformed");
    assert!(answer.text().contains("<Region>us-east-1</Region>"), "{}", answer.text());
    assert_eq!(answer.header("x-amz-bucket-region"), Some("us-east-1"));
    let answer = server.send(&server.signed_for("eu-central-1", "alice", "GET", "/docs/a"), b"").await;
    assert_eq!(answer.body, b"hello", "any name will do");
}

#[tokio::test]
async fn aws_chunked_bodies() {
    let server = server().await;
    const UNSIGNED: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    let put = async |decoded: &str, trailer: &str, body: &[u8]| {
        let mut headers = vec![("content-encoding", "aws-chunked"), ("x-amz-decoded-content-length", decoded)];
        headers.push(("x-amz-trailer", trailer));
        server.payload("alice", "PUT", "/docs/s", UNSIGNED, &headers, body).await
    };
    let crc = "x-amz-checksum-crc32";
    let good = chunks(b"hello", "x-amz-checksum-crc32:NhCmhg==");
    for (decoded, body, code) in [
        ("5", chunks(b"hello", "x-amz-checksum-crc32:AAAAAA=="), "BadDigest"),
        ("5", chunks(b"hello", "x-amz-checksum-crc32c:NhCmhg=="), "MalformedTrailerError"),
        (
            "5",
            chunks(b"hello", "x-amz-checksum-crc32:NhCmhg==\r\nx-amz-checksum-crc32:AAAAAA=="),
            "MalformedTrailerError",
        ),
        ("5", b"5\r\nhello\r\n0\r\n\r\n".to_vec(), "MalformedTrailerError"),
        ("5", b"5\r\nhello\r\n".to_vec(), "MalformedTrailerError"),
        ("6", good.clone(), "IncompleteBody"),
        ("4", good.clone(), "InvalidRequest"),
        ("5x", good.clone(), "InvalidRequest"),
        ("5", b"ffffffffffffffff\r\nhello".to_vec(), "IncompleteBody"),
    ] {
        refused(&put(decoded, crc, &body).await, 400, code);
    }
    assert_eq!(server.request("alice", "HEAD", "/docs/s", &[], b"").await.status, 404);
    assert_eq!(put("5", crc, &good).await.status, 200);
    assert_eq!(server.request("alice", "GET", "/docs/s", &[], b"").await.body, b"hello");
}

/// Signatures that other stores accepted, and should not have.
#[tokio::test]
async fn signatures() {
    let server = server().await;
    let body = chunks(b"evil", "x-amz-checksum-crc32:AAAAAA==");
    let trailer = "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\nx-amz-decoded-content-length: 4\r\n\
        x-amz-trailer: x-amz-checksum-crc32\r\n";
    let anonymous = format!("PUT /docs/a HTTP/1.1\r\nhost: {}\r\n{trailer}", server.host());
    refused(&server.send(&anonymous, &body).await, 403, "AccessDenied");
    let headers = [("x-amz-decoded-content-length", "4"), ("x-amz-trailer", "x-amz-checksum-crc32")];
    let forged = server.signed("mallory", "PUT", "/docs/a", "", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", &headers);
    refused(&server.send(&forged, &body).await, 403, "InvalidAccessKeyId");
    let forged = forged.replace("AKmallory", "AKalice");
    refused(&server.send(&forged, &body).await, 403, "SignatureDoesNotMatch");
    let in_query = "X-Amz-Credential=AKalice%2F20200101%2Fus-east-1%2Fs3%2Faws4_request";
    let anonymous = format!("GET /docs/a?{in_query} HTTP/1.1\r\nhost: {}\r\n", server.host());
    // Taken for nobody's it would be refused as well, and be in the logs under the name of whom it mentions.
    refused(&server.send(&anonymous, b"").await, 400, "AuthorizationQueryParametersError");
    let without_host = server.signed_with("alice", "GET", "/docs/a", "", client::EMPTY, &[], "s3", false);
    refused(&server.send(&without_host, b"").await, 403, "AccessDenied");
    let for_iam = server.signed_with("alice", "GET", "/docs/a", "", client::EMPTY, &[], "iam", true);
    refused(&server.send(&for_iam, b"").await, 400, "AuthorizationHeaderMalformed");
    // A signature without a region was taken for one of any region.
    refused(
        &server.send(&server.signed_for("", "alice", "GET", "/docs/a"), b"").await,
        400,
        "AuthorizationHeaderMalformed",
    );
    let smuggled = server.signed("alice", "PUT", "/docs/b", "", client::EMPTY, &[]);
    let smuggled = format!("{smuggled}x-amz-copy-source: /docs/a\r\n");
    refused(&server.send(&smuggled, b"").await, 403, "AccessDenied");
    let v2 = format!("GET /docs/a HTTP/1.1\r\nhost: {}\r\nauthorization: AWS AKalice:abcd\r\n", server.host());
    refused(&server.send(&v2, b"").await, 400, "InvalidRequest");
    assert_eq!(server.request("alice", "GET", "/docs/a", &[], b"").await.body, b"hello");
    assert_eq!(server.request("alice", "HEAD", "/docs/b", &[], b"").await.status, 404);
}

/// Another account learns nothing of a bucket but that its name is taken: whatever exists inside, the answer is the same.
#[tokio::test]
async fn another_accounts_data() {
    let server = server().await;
    server.request("bob", "PUT", "/bobs", &[], b"").await;
    let upload = server.query("alice", "POST", "/docs/m", "uploads=", &[], b"").await.text();
    let id = upload.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once('<')).unwrap().0.to_owned();
    for key in ["a", "none"] {
        let path = format!("/docs/{key}");
        for (method, query) in [
            ("GET", String::new()),
            ("DELETE", String::new()),
            ("PUT", String::new()),
            ("GET", format!("uploadId={id}")),
            ("DELETE", format!("uploadId={id}")),
            ("PUT", format!("partNumber=1&uploadId={id}")),
        ] {
            for condition in [&[][..], &[("if-none-match", HELLO)], &[("if-match", HELLO)]] {
                refused(&server.query("bob", method, &path, &query, condition, b"").await, 403, "AccessDenied");
            }
        }
        for source in [format!("/docs/{key}"), format!("docs%2F{key}"), format!("/docs/x/../{key}")] {
            for condition in [&[][..], &[("x-amz-copy-source-if-match", HELLO)]] {
                let copy = [&[("x-amz-copy-source", source.as_str())], condition].concat();
                refused(&server.request("bob", "PUT", "/bobs/c", &copy, b"").await, 403, "AccessDenied");
            }
        }
    }
    for query in ["uploads=", "versions=", "list-type=2", "location="] {
        refused(&server.query("bob", "GET", "/docs", query, &[], b"").await, 403, "AccessDenied");
    }
    refused(
        &server.query("bob", "PUT", "/bobs/m", &format!("partNumber=1&uploadId={id}"), &[], b"x").await,
        404,
        "NoSuchUpload",
    );
    assert!(!server.request("bob", "GET", "/", &[], b"").await.text().contains("docs"));
    assert_eq!(server.request("alice", "GET", "/docs/a", &[], b"").await.body, b"hello");
}
