//! Headers in the query of a presigned URL, where SDKs put them.

use crate::client::{Answer, Server, policy_signature, stamp};
use crate::{refused, server};

/// SHA-256 of `hello`.
const SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// A key of 32 `k`, and its MD5.
const KEY: &str = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s%3D";
const KEY_MD5: &str = "mT2HRsMGJ5IX5C%2B0rreZ8Q%3D%3D";

async fn put(server: &Server, query: &str) -> Answer {
    server.presigned("alice", "PUT", "/docs/p", query, b"hello").await
}

async fn head(server: &Server) -> Answer {
    server.request("alice", "HEAD", "/docs/p", &[], b"").await
}

async fn unsigned(server: &Server, method: &str, target: &str, lines: &str, body: &[u8]) -> Answer {
    server.send(&format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n{lines}", server.host()), body).await
}

/// They were refused as not implemented, and before that ignored: an upload that asked for encryption was stored in plaintext, with 200.
#[tokio::test]
async fn what_a_url_says_is_done() {
    let server = server().await;
    // As the SDK for JavaScript signs it.
    let query = "X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&x-amz-acl=public-read&x-amz-checksum-crc32=NhCmhg%3D%3D\
        &x-amz-meta-One=1&x-amz-meta-two=a%20%C3%A9&x-amz-sdk-checksum-algorithm=CRC32&x-amz-server-side-encryption=AES256\
        &x-amz-storage-class=STANDARD_IA&x-amz-tagging=a%3Db%26c%3Dd&x-amz-website-redirect-location=%2Fx&x-id=PutObject";
    let answer = put(&server, query).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-amz-server-side-encryption"), Some("AES256"));
    let stored = head(&server).await;
    for (name, value) in [
        ("x-amz-meta-one", "1"),
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-website-redirect-location", "/x"),
    ] {
        assert_eq!(stored.header(name), Some(value), "{}", stored.head);
    }
    assert!(stored.header("x-amz-meta-two").is_some(), "{}", stored.head);
    let tags = server.query("alice", "GET", "/docs/p", "tagging=", &[], b"").await.text();
    assert!(tags.contains("<Key>a</Key><Value>b</Value>") && tags.contains("<Key>c</Key><Value>d</Value>"), "{tags}");
    assert_eq!(unsigned(&server, "GET", "/docs/p", "", b"").await.body, b"hello", "its list lets anybody read it");

    // Reads, also one whose headers have to be mended besides.
    let read = "x-amz-checksum-mode=ENABLED&x-id=GetObject";
    for range in ["", "range: bytes=1-2,4-4\r\n"] {
        let answer = server.send(&(server.presigned_with("alice", "GET", "/docs/p", read, &[]) + range), b"").await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]), "{}", answer.text());
        assert_eq!(answer.header("x-amz-checksum-crc32"), Some("NhCmhg=="), "{range}");
    }
    // A body larger than what other routes of `s3s` take.
    let large = vec![b'x'; 2 << 20];
    let answer = server.presigned("alice", "PUT", "/docs/l", "x-amz-checksum-crc32=eShP%2Fw%3D%3D", &large).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(server.request("alice", "GET", "/docs/l", &[], b"").await.body == large);
    // A copy: another operation than the one without the parameter.
    let copy = "x-amz-copy-source=%2Fdocs%2Fa&x-amz-metadata-directive=REPLACE&x-amz-meta-of=copy";
    let answer = server.presigned("alice", "PUT", "/docs/c", copy, b"").await;
    assert!(answer.status == 200 && answer.text().contains("<CopyObjectResult"), "{}", answer.text());
    let copied = server.request("alice", "GET", "/docs/c", &[], b"").await;
    assert_eq!((copied.body.as_slice(), copied.header("x-amz-meta-of")), (&b"hello"[..], Some("copy")));
}

#[tokio::test]
async fn the_body_is_held_against_the_digest_in_the_url() {
    let server = server().await;
    refused(
        &put(&server, "x-amz-checksum-crc32=AAAAAQ%3D%3D&x-amz-sdk-checksum-algorithm=CRC32").await,
        400,
        "BadDigest",
    );
    refused(&put(&server, "x-amz-checksum-crc32=AAAA").await, 400, "InvalidRequest");
    refused(&put(&server, "x-amz-checksum-crc16=AAA%3D").await, 501, "NotImplemented");
    let zeros = format!("X-Amz-Content-Sha256={}", "0".repeat(64));
    for more in ["", "&x-amz-meta-a=b"] {
        refused(&put(&server, &format!("{zeros}{more}")).await, 400, "XAmzContentSHA256Mismatch");
    }
    refused(&put(&server, &format!("{zeros}&x-amz-content-sha256={SHA256}")).await, 400, "InvalidArgument");
    let chunked = "X-Amz-Content-Sha256=STREAMING-UNSIGNED-PAYLOAD-TRAILER&x-amz-meta-a=b";
    refused(&put(&server, chunked).await, 501, "NotImplemented");
    let sent = server.presigned_with("alice", "PUT", "/docs/p", &zeros, &[]);
    let open = format!("{sent}x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n");
    refused(&server.send(&open, b"hello").await, 400, "InvalidArgument");
    assert_eq!(head(&server).await.status, 404);
    let keys = b"<Delete><Object><Key>a</Key></Object></Delete>";
    let delete = async |crc| {
        let query = format!("delete=&x-amz-checksum-crc32={crc}&x-amz-sdk-checksum-algorithm=CRC32");
        server.presigned("alice", "POST", "/docs", &query, keys).await
    };
    refused(&delete("AAAAAQ%3D%3D").await, 400, "BadDigest");
    assert_eq!(server.request("alice", "HEAD", "/docs/a", &[], b"").await.status, 200);
    let deleted = delete("v6Ysrw%3D%3D").await;
    assert_eq!((deleted.status, deleted.text().contains("<Deleted>")), (200, true), "{}", deleted.text());
    for right in [
        format!("X-Amz-Content-Sha256={SHA256}"),
        format!("X-Amz-Content-Sha256={SHA256}&x-amz-meta-a=b"),
        "x-amz-checksum-crc32=NhCmhg%3D%3D".to_owned(),
        // Of no body, as the SDK for JavaScript presigns by default.
        "x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32".to_owned(),
        // Of a body that the SDK did not have when it signed.
        "x-amz-sdk-checksum-algorithm=CRC32&x-amz-meta-a=b".to_owned(),
    ] {
        let answer = put(&server, &right).await;
        assert_eq!(answer.status, 200, "{right}: {}", answer.text());
    }
}

#[tokio::test]
async fn only_what_is_signed_counts() {
    let server = server().await;
    let url = server.presigned_with("alice", "PUT", "/docs/p", "x-amz-acl=private", &[]);
    for (changed, code) in [
        (url.replace("x-amz-acl=private", "x-amz-acl=public-read"), "SignatureDoesNotMatch"),
        (url.replace("x-amz-acl=private&", ""), "SignatureDoesNotMatch"),
        (url.replace("x-amz-acl=private", "x-amz-acl=private&x-amz-meta-a=b"), "SignatureDoesNotMatch"),
        (url.replace("x-amz-acl=private&", "") + "x-amz-acl: private\r\n", "AccessDenied"),
        (format!("{url}x-amz-acl: private\r\n"), "AccessDenied"),
        (format!("{url}x-amz-meta-a: b\r\n"), "AccessDenied"),
        (format!("{url}x-amz-copy-source: /docs/a\r\n"), "AccessDenied"),
        (url.replace("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=host%3Bx-amz-acl"), "SignatureDoesNotMatch"),
    ] {
        refused(&server.send(&changed, b"hello").await, 403, code);
    }
    // The same, said twice and signed twice, is no contradiction; another thing is.
    let both = |value| server.presigned_with("alice", "PUT", "/docs/p", "x-amz-acl=private", &[("x-amz-acl", value)]);
    refused(&server.send(&both("public-read"), b"hello").await, 400, "InvalidArgument");
    for query in [
        "x-amz-acl=private&X-Amz-Acl=public-read",
        "x-amz-meta-a=%0D%0Ax-amz-acl%3A%20public-read",
        "x-amz-meta-a=%00",
        "x-amz-meta-a%20b=c",
        "x-amz-acl=",
    ] {
        refused(&put(&server, query).await, 400, "InvalidArgument");
    }
    // No signature in the query: what is there is no header, and not ignored.
    for query in [
        "x-amz-server-side-encryption=AES256",
        "X-Amz-Object-Lock-Mode=COMPLIANCE",
        "x-amz-meta-a=b",
        "x-amz-tagging=a%3Db",
    ] {
        refused(&server.query("alice", "PUT", "/docs/p", query, &[], b"hello").await, 501, "NotImplemented");
        let target = format!("/docs/p?{query}");
        refused(&unsigned(&server, "PUT", &target, "", b"hello").await, 403, "AccessDenied");
        let lower = format!("{target}&x-amz-signature={}", policy_signature("alice", &stamp(), ""));
        refused(&unsigned(&server, "PUT", &lower, "", b"hello").await, 403, "AccessDenied");
    }
    assert_eq!(head(&server).await.status, 404);
    assert_eq!(server.send(&both("private"), b"hello").await.status, 200);
}

/// Whoever reads headers reads these: who decides, who refuses, and who does it.
#[tokio::test]
async fn they_count_for_every_reader_of_headers() {
    let server = server().await;
    for (query, status, code) in [
        ("x-amz-server-side-encryption-next=x", 501, "NotImplemented"),
        ("X-Amz-Object-Lock-Next=x", 501, "NotImplemented"),
        ("x-amz-grant-next=id%3Dbob", 501, "NotImplemented"),
        ("x-amz-write-offset-bytes=5", 501, "NotImplemented"),
        ("x-amz-server-side-encryption=rot13", 400, "InvalidArgument"),
        (
            "x-amz-object-lock-mode=COMPLIANCE&x-amz-object-lock-retain-until-date=2099-01-01T00%3A00%3A00Z",
            400,
            "InvalidRequest",
        ),
        ("x-amz-storage-class=COLD", 400, "InvalidStorageClass"),
        ("x-amz-expected-bucket-owner=bob", 403, "AccessDenied"),
        ("x-amz-copy-source=%2Fdocs%2Fa&x-id=PutObject", 400, "InvalidRequest"),
    ] {
        refused(&put(&server, query).await, status, code);
    }
    // What a policy demands of headers.
    let condition = r#"{"StringEquals":{"s3:x-amz-acl":"bucket-owner-full-control","s3:RequestObjectTag/a":"b"}}"#;
    let actions = r#"["s3:PutObject","s3:PutObjectAcl","s3:PutObjectTagging"]"#;
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"*"}},"Action":{actions},
            "Resource":"arn:aws:s3:::docs/*","Condition":{condition}}}]}}"#
    );
    assert_eq!(server.query("alice", "PUT", "/docs", "policy=", &[], policy.as_bytes()).await.status, 204);
    let bobs = async |query| server.presigned("bob", "PUT", "/docs/p", query, b"hello").await;
    refused(&bobs("x-amz-tagging=a%3Db").await, 403, "AccessDenied");
    refused(&bobs("x-amz-acl=bucket-owner-full-control&x-amz-tagging=a%3Dc").await, 403, "AccessDenied");
    assert_eq!(head(&server).await.status, 404);
    let answer = bobs("x-amz-acl=bucket-owner-full-control&x-amz-tagging=a%3Db").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // A copy needs what it reads.
    server.request("bob", "PUT", "/bobs", &[], b"").await;
    let copy = "x-amz-copy-source=%2Fdocs%2Fa";
    refused(&server.presigned("bob", "PUT", "/bobs/c", copy, b"").await, 403, "AccessDenied");

    // Locks.
    let locked = [("x-amz-bucket-object-lock-enabled", "true")];
    assert_eq!(server.request("alice", "PUT", "/locked", &locked, b"").await.status, 200);
    let lock = "x-amz-object-lock-mode=COMPLIANCE&x-amz-object-lock-retain-until-date=2099-01-01T00%3A00%3A00Z";
    let answer = server.presigned("alice", "PUT", "/locked/k", lock, b"hello").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let version = answer.header("x-amz-version-id").expect("a version").to_owned();
    let delete = server.query("alice", "DELETE", "/locked/k", &format!("versionId={version}"), &[], b"").await;
    refused(&delete, 403, "AccessDenied");

    // A key of the client's own.
    let own = format!(
        "x-amz-server-side-encryption-customer-algorithm=AES256&x-amz-server-side-encryption-customer-key={KEY}\
         &x-amz-server-side-encryption-customer-key-MD5={KEY_MD5}"
    );
    refused(&put(&server, &own.replace(KEY_MD5, "AAAAAAAAAAAAAAAAAAAAAA%3D%3D")).await, 400, "InvalidArgument");
    let answer = put(&server, &own).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(server.request("alice", "GET", "/docs/p", &[], b"").await.status, 400, "without the key");
    assert_eq!(server.presigned("alice", "GET", "/docs/p", &own, b"").await.body, b"hello");
}
