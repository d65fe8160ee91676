//! Reads: headers that HTTP says to ignore, and objects that can't be read.

use crate::{HELLO, refused, server};

/// They were 400. Clients send them: a range of no form, more than one, the tags of every copy that they have.
#[tokio::test]
async fn headers_that_http_says_to_ignore_are_ignored() {
    let server = server().await;
    for range in ["bytes=abc", "bytes=0-0,2-2", "bytes=3-1", "lines=0-1", "bytes="] {
        let answer = server.request("alice", "GET", "/docs/a", &[("range", range)], b"").await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]), "{range}: {}", answer.text());
        let head = server.request("alice", "HEAD", "/docs/a", &[("range", range)], b"").await;
        assert_eq!((head.status, head.header("content-length")), (200, Some("5")), "{range}");
    }
    let beyond = [("range", "bytes=1-99999999999999999999")];
    let answer = server.request("alice", "GET", "/docs/a", &beyond, b"").await;
    assert_eq!((answer.status, answer.body.as_slice()), (206, &b"ello"[..]));
    let beyond = [("range", "bytes=99999999999999999999-")];
    assert_eq!(server.request("alice", "GET", "/docs/a", &beyond, b"").await.status, 416);
    for name in ["if-modified-since", "if-unmodified-since"] {
        let answer = server.request("alice", "GET", "/docs/a", &[(name, "last week")], b"").await;
        assert_eq!(answer.body, b"hello", "{name}");
    }
}

#[tokio::test]
async fn a_condition_may_list_entity_tags() {
    let server = server().await;
    let (with, without) = (format!("\"x\", W/{HELLO}"), "\"x\", \"y,z\"");
    for (name, tags, status) in [
        ("if-none-match", with.as_str(), 304),
        ("if-none-match", without, 200),
        ("if-match", with.as_str(), 200),
        ("if-match", without, 412),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = server.request("alice", method, "/docs/a", &[(name, tags)], b"").await;
            assert_eq!(answer.status, status, "{method} {name}: {tags}");
        }
    }
}

/// What is mended goes through a second time, without its signature: nobody else must come in by that door.
#[tokio::test]
async fn mended_requests_are_authorised_like_others() {
    let server = server().await;
    let range = [("range", "bytes=abc")];
    for (path, status, code) in [("/docs/a", 403, "AccessDenied"), ("/docs/none", 403, "AccessDenied")] {
        refused(&server.request("bob", "GET", path, &range, b"").await, status, code);
    }
    refused(&server.request("alice", "GET", "/docs/none", &range, b"").await, 404, "NoSuchKey");
    refused(&server.request("alice", "GET", "/none/a", &range, b"").await, 404, "NoSuchBucket");
    let anonymous = format!("GET /docs/a HTTP/1.1\r\nhost: {}\r\nrange: bytes=abc\r\n", server.host());
    refused(&server.send(&anonymous, b"").await, 403, "AccessDenied");
    let signed = server.signed("alice", "GET", "/docs/a", "", crate::client::EMPTY, &range);
    refused(&server.send(&signed.replace("AKalice", "AKbob"), b"").await, 403, "SignatureDoesNotMatch");
    refused(&server.send(&signed.replace("/docs/a", "/docs/b"), b"").await, 403, "SignatureDoesNotMatch");
    let without_host = server.signed_with("alice", "GET", "/docs/a", "", crate::client::EMPTY, &range, "s3", false);
    refused(&server.send(&without_host, b"").await, 403, "AccessDenied");
    refused(&server.query("alice", "GET", "/docs/a", "torrent=", &range, b"").await, 501, "NotImplemented");
    let ssec = [range[0], ("x-amz-server-side-encryption-customer-algorithm", "AES256")];
    refused(&server.request("alice", "GET", "/docs/a", &ssec, b"").await, 400, "InvalidArgument");
    assert_eq!(server.request("alice", "GET", "/docs", &range, b"").await.status, 200, "a listing has no range");
    let presigned = server.presigned("alice", "GET", "/docs/a", "x-id=GetObject", b"").await;
    assert_eq!(presigned.body, b"hello");
}

/// Only GET did what the parameters ask for.
#[tokio::test]
async fn headers_of_an_answer_can_be_asked_for() {
    let server = server().await;
    let query = "response-cache-control=no-cache&response-content-disposition=inline&response-content-encoding=x&\
        response-content-language=de&response-content-type=text%2Fx&response-expires=Thu%2C%2001%20Dec%201994%2016%3A00%3A00%20GMT";
    for method in ["GET", "HEAD"] {
        let answer = server.query("alice", method, "/docs/a", query, &[], b"").await;
        let header = |name| answer.header(name).unwrap_or_default();
        assert_eq!((answer.status, header("content-type"), header("content-disposition")), (200, "text/x", "inline"));
        assert_eq!((header("cache-control"), header("content-language")), ("no-cache", "de"), "{method}");
        assert_eq!((header("content-encoding"), header("expires")), ("x", "Thu, 01 Dec 1994 16:00:00 GMT"), "{method}");
        let split = "response-content-type=a%0D%0Ax-evil%3A%201";
        let answer = server.query("alice", method, "/docs/a", split, &[], b"").await;
        assert_eq!((answer.status, answer.header("x-evil")), (400, None), "{method}");
    }
}

#[tokio::test]
async fn attributes_of_an_object() {
    let server = server().await;
    let query = async |names: &str| {
        server.query("alice", "GET", "/docs/a", "attributes=", &[("x-amz-object-attributes", names)], b"").await
    };
    let some = query("ETag,Checksum,ObjectSize,StorageClass").await;
    assert_eq!(some.status, 200, "{}", some.text());
    for element in ["<ObjectSize>5</ObjectSize>", "<StorageClass>STANDARD</StorageClass>", "<ChecksumCRC64NVME>"] {
        assert!(some.text().contains(element), "{}", some.text());
    }
    assert!(some.text().contains("<ETag>5d41402abc4b2a76b9719d911017c592</ETag>"), "{}", some.text());
    assert!(!query("ObjectSize").await.text().contains("ETag"));
    refused(&query("Nothing").await, 400, "InvalidArgument");
    let bob = [("x-amz-object-attributes", "ETag")];
    refused(&server.query("bob", "GET", "/docs/a", "attributes=", &bob, b"").await, 403, "AccessDenied");
}

/// They were NotImplemented, and clients that ask before they copy gave up.
#[tokio::test]
async fn settings_that_were_never_made() {
    let server = server().await;
    for (query, code) in [
        ("tagging", "NoSuchTagSet"),
        ("policy", "NoSuchBucketPolicy"),
        ("cors", "NoSuchCORSConfiguration"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("website", "NoSuchWebsiteConfiguration"),
        ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
        ("ownershipControls", "OwnershipControlsNotFoundError"),
        ("replication", "ReplicationConfigurationNotFoundError"),
        ("object-lock", "ObjectLockConfigurationNotFoundError"),
    ] {
        let query = format!("{query}=");
        refused(&server.query("alice", "GET", "/docs", &query, &[], b"").await, 404, code);
        refused(&server.query("bob", "GET", "/docs", &query, &[], b"").await, 403, "AccessDenied");
        refused(&server.query("alice", "GET", "/none", &query, &[], b"").await, 404, "NoSuchBucket");
        let set = server.query("alice", "PUT", "/docs", &query, &[], b"<x/>").await;
        assert!(matches!(set.status, 400 | 501), "nothing may be set where this is the answer: {query} {}", set.text());
    }
    for (path, query, holds) in [
        ("/docs", "acl", "<Permission>FULL_CONTROL</Permission>"),
        ("/docs/a", "acl", "xsi:type=\"CanonicalUser\""),
        ("/docs", "policyStatus", "<IsPublic>false</IsPublic>"),
        ("/docs", "requestPayment", "<Payer>BucketOwner</Payer>"),
        ("/docs", "logging", "BucketLoggingStatus"),
        ("/docs", "notification", "NotificationConfiguration"),
        ("/docs", "accelerate", "AccelerateConfiguration"),
    ] {
        let query = format!("{query}=");
        let answer = server.query("alice", "GET", path, &query, &[], b"").await;
        assert!(answer.status == 200 && answer.text().contains(holds), "{path} {query} {}", answer.text());
        assert_eq!(answer.text().matches("<Permission>").count(), usize::from(query == "acl="), "the owner alone");
        refused(&server.query("bob", "GET", path, &query, &[], b"").await, 403, "AccessDenied");
        let set = server.query("alice", "PUT", path, &query, &[], b"<x/>").await;
        assert!(matches!(set.status, 400 | 501), "{path} {query} {}", set.text());
    }
    refused(&server.query("alice", "GET", "/docs/none", "acl=", &[], b"").await, 404, "NoSuchKey");
}

/// It was 503 SlowDown, as for a store that is busy, and SDKs came back at once, for minutes.
#[tokio::test]
async fn an_object_whose_drives_are_gone_is_unavailable() {
    let server = server().await;
    (0..3).for_each(|drive| server.trace.remove_drive(drive));
    refused(&server.request("alice", "GET", "/docs/a", &[], b"").await, 503, "ServiceUnavailable");
    let copy = [("x-amz-copy-source", "/docs/a"), ("x-amz-server-side-encryption", "AES256")];
    assert!(server.request("alice", "PUT", "/docs/b", &copy, b"").await.status >= 500);
}
