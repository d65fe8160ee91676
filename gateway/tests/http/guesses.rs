//! What somebody may not know, he does not learn by asking for something else; and what he may not change, not by a link.

use super::{HELLO, refused, server};

/// By a link alone, what was uploaded as text became a page with scripts of the bucket's origin.
#[tokio::test]
async fn nobody_replaces_headers_without_a_signature() {
    let server = server().await;
    let public = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::docs/*"}}"#;
    assert_eq!(server.query("alice", "PUT", "/docs", "policy=", &[], public.as_bytes()).await.status, 204);
    for method in ["GET", "HEAD"] {
        for (query, status) in [("", 200), ("?response-content-type=text%2Fhtml", 400), ("?response-expires=x", 400)] {
            let head = format!("{method} /docs/a{query} HTTP/1.1\r\nhost: {}\r\n", server.host());
            let answer = server.send(&head, b"").await;
            assert_eq!(answer.status, status, "{method} {query}: {}", answer.text());
        }
    }
    let answer = server.query("alice", "GET", "/docs/a", "response-content-type=text%2Fhtml", &[], b"").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html")));
}

/// CVE-2024-36107's order: what a bucket is like was told before it was asked whether its policy lets the logs in.
#[tokio::test]
async fn logging_tells_nothing_of_another_ones_bucket() {
    let server = server().await;
    assert_eq!(server.request("bob", "PUT", "/bobs", &[], b"").await.status, 200);
    let encryption = b"<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";
    let logging = b"<BucketLoggingStatus><LoggingEnabled><TargetBucket>docs</TargetBucket><TargetPrefix>l/</TargetPrefix></LoggingEnabled></BucketLoggingStatus>";
    refused(&server.query("bob", "PUT", "/bobs", "logging=", &[], logging).await, 403, "AccessDenied");
    assert_eq!(server.query("alice", "PUT", "/docs", "encryption=", &[], encryption).await.status, 200);
    refused(&server.query("bob", "PUT", "/bobs", "logging=", &[], logging).await, 403, "AccessDenied");
}

/// An entity tag is a hash of what is there: who may only write must not find out by it what that is.
#[tokio::test]
async fn who_may_only_write_does_not_guess_what_is_there() {
    let server = server().await;
    let allow = |actions: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::alice:user/carol"}},"Action":[{actions}],"Resource":"arn:aws:s3:::docs/*"}}}}"#
        )
    };
    let writes = allow(r#""s3:PutObject","s3:DeleteObject""#);
    assert_eq!(server.query("alice", "PUT", "/docs", "policy=", &[], writes.as_bytes()).await.status, 204);
    for tag in [HELLO, "\"00000000000000000000000000000000\""] {
        for path in ["/docs/a", "/docs/absent"] {
            for method in ["PUT", "DELETE"] {
                let answer = server.request("carol", method, path, &[("if-match", tag)], b"").await;
                refused(&answer, 403, "AccessDenied");
            }
            let keys = format!(
                "<Delete><Object><Key>{}</Key><ETag>{tag}</ETag></Object></Delete>",
                path.trim_start_matches("/docs/")
            );
            let answer = server.query("carol", "POST", "/docs", "delete=", &[], keys.as_bytes()).await;
            assert!(answer.text().contains("AccessDenied"), "{}", answer.text());
        }
    }
    assert_eq!(server.request("carol", "PUT", "/docs/c", &[("if-none-match", "*")], b"x").await.status, 200);
    let both = allow(r#""s3:PutObject","s3:GetObject""#);
    assert_eq!(server.query("alice", "PUT", "/docs", "policy=", &[], both.as_bytes()).await.status, 204);
    let answer = server.request("carol", "PUT", "/docs/a", &[("if-match", HELLO)], b"x").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The answer to HEAD has no body that says why, so wrong signatures there were not counted, and as many could be tried as one liked.
#[tokio::test]
async fn who_guesses_by_head_is_slowed_down() {
    let server = server().await;
    // Who has not signed there before. A refusal for another reason is no guess.
    for _ in 0..150 {
        assert_eq!(server.request("bob", "HEAD", "/docs/a", &[], b"").await.status, 403);
    }
    let head = server.signed("carol", "HEAD", "/docs/a", "", "UNSIGNED-PAYLOAD", &[]);
    let (start, signature) = head.split_once("Signature=").expect("a signature");
    let wrong = format!("{start}Signature={}{}", "0".repeat(64), signature.get(64..).expect("its end"));
    for n in 0..2000 {
        match server.send(&wrong, b"").await.status {
            403 => {}
            503 => return assert!(n >= 100, "{n}"),
            other => panic!("{other}"),
        }
    }
    panic!("2000 wrong signatures were looked at");
}
