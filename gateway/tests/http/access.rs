//! Who may do what: every operation is asked for by those who may not, from the list of operations, so that none is forgotten.

use super::client::{Answer, EMPTY, Server};
use super::refused;
use access::policy::action::{Extras, of_operation, subject};
use gateway::s3::support;

/// A request that asks for an operation.
struct Ask {
    operation: &'static str,
    method: &'static str,
    path: &'static str,
    query: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

const fn ask(operation: &'static str, method: &'static str, path: &'static str, query: &'static str) -> Ask {
    Ask { operation, method, path, query, headers: &[] }
}

const fn copy(operation: &'static str, query: &'static str) -> Ask {
    Ask { operation, method: "PUT", path: "/docs/a", query, headers: &[("x-amz-copy-source", "/bobs/b")] }
}

/// One for each operation. The last ones take away what the others need.
const ASKS: &[Ask] = &[
    ask("ListBuckets", "GET", "/", ""),
    ask("CreateBucket", "PUT", "/docs", ""),
    ask("HeadBucket", "HEAD", "/docs", ""),
    ask("GetBucketLocation", "GET", "/docs", "location="),
    ask("GetBucketVersioning", "GET", "/docs", "versioning="),
    ask("GetBucketEncryption", "GET", "/docs", "encryption="),
    ask("GetBucketAcl", "GET", "/docs", "acl="),
    ask("GetBucketOwnershipControls", "GET", "/docs", "ownershipControls="),
    ask("GetBucketLogging", "GET", "/docs", "logging="),
    ask("GetBucketNotificationConfiguration", "GET", "/docs", "notification="),
    ask("GetBucketRequestPayment", "GET", "/docs", "requestPayment="),
    ask("GetBucketAccelerateConfiguration", "GET", "/docs", "accelerate="),
    ask("GetBucketTagging", "GET", "/docs", "tagging="),
    ask("GetBucketPolicy", "GET", "/docs", "policy="),
    ask("GetBucketPolicyStatus", "GET", "/docs", "policyStatus="),
    ask("GetBucketCors", "GET", "/docs", "cors="),
    ask("GetBucketLifecycleConfiguration", "GET", "/docs", "lifecycle="),
    ask("GetBucketWebsite", "GET", "/docs", "website="),
    ask("GetPublicAccessBlock", "GET", "/docs", "publicAccessBlock="),
    ask("GetBucketReplication", "GET", "/docs", "replication="),
    ask("GetObjectLockConfiguration", "GET", "/docs", "object-lock="),
    ask("GetBucketInventoryConfiguration", "GET", "/docs", "id=i&inventory="),
    ask("ListBucketInventoryConfigurations", "GET", "/docs", "inventory="),
    ask("ListObjects", "GET", "/docs", ""),
    ask("ListObjectsV2", "GET", "/docs", "list-type=2"),
    ask("ListObjectVersions", "GET", "/docs", "versions="),
    ask("ListMultipartUploads", "GET", "/docs", "uploads="),
    ask("ListParts", "GET", "/docs/a", "uploadId=x"),
    ask("GetObject", "GET", "/docs/a", ""),
    ask("HeadObject", "HEAD", "/docs/a", ""),
    ask("GetObjectAcl", "GET", "/docs/a", "acl="),
    ask("GetObjectTagging", "GET", "/docs/a", "tagging="),
    ask("GetObjectLegalHold", "GET", "/docs/a", "legal-hold="),
    ask("GetObjectRetention", "GET", "/docs/a", "retention="),
    Ask {
        operation: "GetObjectAttributes",
        method: "GET",
        path: "/docs/a",
        query: "attributes=",
        headers: &[("x-amz-object-attributes", "ETag")],
    },
    ask("PutBucketAcl", "PUT", "/docs", "acl="),
    ask("PutBucketCors", "PUT", "/docs", "cors="),
    ask("PutBucketEncryption", "PUT", "/docs", "encryption="),
    ask("PutBucketInventoryConfiguration", "PUT", "/docs", "id=i&inventory="),
    ask("PutBucketLifecycleConfiguration", "PUT", "/docs", "lifecycle="),
    ask("PutBucketLogging", "PUT", "/docs", "logging="),
    ask("PutBucketNotificationConfiguration", "PUT", "/docs", "notification="),
    ask("PutBucketOwnershipControls", "PUT", "/docs", "ownershipControls="),
    ask("PutBucketPolicy", "PUT", "/docs", "policy="),
    ask("PutBucketRequestPayment", "PUT", "/docs", "requestPayment="),
    ask("PutBucketTagging", "PUT", "/docs", "tagging="),
    ask("PutBucketVersioning", "PUT", "/docs", "versioning="),
    ask("PutObjectLockConfiguration", "PUT", "/docs", "object-lock="),
    ask("PutPublicAccessBlock", "PUT", "/docs", "publicAccessBlock="),
    ask("PutObjectAcl", "PUT", "/docs/a", "acl="),
    ask("PutObjectTagging", "PUT", "/docs/a", "tagging="),
    ask("PutObjectLegalHold", "PUT", "/docs/a", "legal-hold="),
    ask("PutObjectRetention", "PUT", "/docs/a", "retention="),
    ask("RestoreObject", "POST", "/docs/a", "restore="),
    ask("PutObject", "PUT", "/docs/a", ""),
    copy("CopyObject", ""),
    ask("CreateMultipartUpload", "POST", "/docs/a", "uploads="),
    ask("UploadPart", "PUT", "/docs/a", "partNumber=1&uploadId=x"),
    copy("UploadPartCopy", "partNumber=1&uploadId=x"),
    ask("CompleteMultipartUpload", "POST", "/docs/a", "uploadId=x"),
    ask("AbortMultipartUpload", "DELETE", "/docs/a", "uploadId=x"),
    ask("DeleteBucketCors", "DELETE", "/docs", "cors="),
    ask("DeleteBucketEncryption", "DELETE", "/docs", "encryption="),
    ask("DeleteBucketInventoryConfiguration", "DELETE", "/docs", "id=i&inventory="),
    ask("DeleteBucketLifecycle", "DELETE", "/docs", "lifecycle="),
    ask("DeleteBucketOwnershipControls", "DELETE", "/docs", "ownershipControls="),
    ask("DeleteBucketTagging", "DELETE", "/docs", "tagging="),
    ask("DeletePublicAccessBlock", "DELETE", "/docs", "publicAccessBlock="),
    ask("DeleteObjectTagging", "DELETE", "/docs/a", "tagging="),
    ask("DeleteBucketPolicy", "DELETE", "/docs", "policy="),
    ask("DeleteObjects", "POST", "/docs", "delete="),
    ask("DeleteObject", "DELETE", "/docs/a", ""),
    ask("DeleteBucket", "DELETE", "/docs", ""),
];

/// What no bucket decides.
const OF_ACCOUNTS: [&str; 2] = ["ListBuckets", "CreateBucket"];
/// What an account may always do with its own buckets.
const NEVER_TAKEN: [&str; 3] = ["GetBucketPolicy", "PutBucketPolicy", "DeleteBucketPolicy"];

impl Ask {
    async fn by(&self, server: &Server, who: &str) -> Answer {
        // A body that is nothing is refused by whoever looks at it: those who may not must not come so far.
        let body: &[u8] = if matches!(self.method, "PUT" | "POST") { b"<x/>" } else { b"" };
        let body = if self.headers.is_empty() && self.operation != "CreateBucket" { body } else { b"" };
        if who.is_empty() {
            return anonymous(server, self.method, self.path, self.query, self.headers, body).await;
        }
        server.query(who, self.method, self.path, self.query, self.headers, body).await
    }

    fn actions(&self) -> Vec<&'static str> {
        of_operation(self.operation, Extras::default())
    }
}

/// A request that nobody signed.
async fn anonymous(
    server: &Server,
    method: &str,
    path: &str,
    query: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    server.send(&format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n{lines}", server.host()), body).await
}

fn asked() -> impl Iterator<Item = &'static Ask> {
    ASKS.iter().filter(|ask| support::is_supported(ask.operation))
}

async fn server() -> Server {
    let server = super::server().await;
    assert_eq!(server.request("bob", "PUT", "/bobs", &[], b"").await.status, 200);
    assert_eq!(server.request("bob", "PUT", "/bobs/b", &[], b"bobs").await.status, 200);
    server
}

fn is_denied(answer: &Answer, ask: &Ask) -> bool {
    answer.status == 403 && (ask.method == "HEAD" || answer.code() == "AccessDenied")
}

async fn put_policy(server: &Server, statements: &str) {
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
    let answer = server.query("alice", "PUT", "/docs", "policy=", &[], text.as_bytes()).await;
    assert_eq!(answer.status, 204, "{text}: {}", answer.text());
}

#[test]
fn there_is_a_request_for_every_operation() {
    for operation in support::supported() {
        assert!(ASKS.iter().any(|ask| ask.operation == operation), "{operation} is asked for by nobody");
        let actions = of_operation(operation, Extras::default());
        assert!(!actions.is_empty(), "{operation} needs nothing");
        assert!(actions.iter().all(|action| subject(action).is_some()), "{operation}");
    }
}

#[tokio::test]
async fn nobody_may_do_anything_with_what_is_anothers() {
    let server = server().await;
    for ask in asked() {
        let answer = ask.by(&server, "").await;
        assert!(is_denied(&answer, ask), "anonymous {}: {} {}", ask.operation, answer.status, answer.text());
        let answer = ask.by(&server, "carol").await;
        assert!(is_denied(&answer, ask), "carol {}: {} {}", ask.operation, answer.status, answer.text());
        let answer = ask.by(&server, "bob").await;
        match ask.operation {
            "ListBuckets" => assert!(answer.status == 200 && !answer.text().contains("docs"), "{}", answer.text()),
            "CreateBucket" => refused(&answer, 409, "BucketAlreadyExists"),
            _ => assert!(is_denied(&answer, ask), "bob {}: {} {}", ask.operation, answer.status, answer.text()),
        }
    }
    assert_eq!(server.request("alice", "GET", "/docs/a", &[], b"").await.body, b"hello");
    for query in ["policy=", "publicAccessBlock=", "ownershipControls=", "tagging=", "cors=", "lifecycle="] {
        let answer = server.query("alice", "GET", "/docs", query, &[], b"").await;
        assert_eq!(answer.status, 404, "{query} was set");
    }
    // Each of them means something to whom it belongs.
    for ask in asked() {
        let answer = ask.by(&server, "alice").await;
        if ask.method == "PUT" && !ask.headers.is_empty() {
            assert!(is_denied(&answer, ask), "{}: the source is bob's", ask.operation);
            continue;
        }
        assert!(!matches!(answer.status, 403 | 501), "alice {}: {} {}", ask.operation, answer.status, answer.text());
    }
}

#[tokio::test]
async fn a_denial_is_for_the_owner_too() {
    let server = server().await;
    put_policy(
        &server,
        r#"{"Effect":"Deny","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::docs","arn:aws:s3:::docs/*"]}"#,
    )
    .await;
    for ask in asked().filter(|ask| !OF_ACCOUNTS.contains(&ask.operation)) {
        if NEVER_TAKEN.contains(&ask.operation) {
            continue;
        }
        if ask.operation == "DeleteObjects" {
            let keys = b"<Delete><Object><Key>a</Key></Object></Delete>";
            let answer = server.query("alice", "POST", "/docs", "delete=", &[], keys).await;
            assert!(answer.status == 200 && answer.code() == "AccessDenied", "{}", answer.text());
            continue;
        }
        let answer = ask.by(&server, "alice").await;
        assert!(is_denied(&answer, ask), "{}: {} {}", ask.operation, answer.status, answer.text());
    }
    assert_eq!(server.query("alice", "DELETE", "/docs", "policy=", &[], b"").await.status, 204);
    assert_eq!(server.request("alice", "GET", "/docs/a", &[], b"").await.body, b"hello", "at once");
}

/// Each action of an operation is needed, and all of them together are enough.
#[tokio::test]
async fn an_operation_needs_each_of_its_actions() {
    let server = server().await;
    for ask in asked().filter(|ask| !OF_ACCOUNTS.contains(&ask.operation)) {
        for missing in ask.actions() {
            put_policy(
                &server,
                &format!(
                    r#"{{"Effect":"Allow","Principal":{{"AWS":"bob"}},"NotAction":["{missing}"],"Resource":["arn:aws:s3:::docs","arn:aws:s3:::docs/*"]}}"#
                ),
            )
            .await;
            if ask.operation == "DeleteObjects" {
                let keys = b"<Delete><Object><Key>a</Key></Object></Delete>";
                let answer = server.query("bob", "POST", "/docs", "delete=", &[], keys).await;
                assert!(answer.status == 200 && answer.code() == "AccessDenied", "{}", answer.text());
                continue;
            }
            let answer = ask.by(&server, "bob").await;
            assert!(is_denied(&answer, ask), "{} without {missing}: {}", ask.operation, answer.status);
        }
        let all = ask.actions().join("\",\"");
        put_policy(
            &server,
            &format!(
                r#"{{"Effect":"Allow","Principal":{{"AWS":"bob"}},"Action":["{all}"],"Resource":["arn:aws:s3:::docs","arn:aws:s3:::docs/*"]}}"#
            ),
        )
        .await;
        let answer = ask.by(&server, "bob").await;
        assert!(!is_denied(&answer, ask), "{} with {all}: {}", ask.operation, answer.text());
        // What it may have taken away is put back.
        assert_eq!(server.request("alice", "PUT", "/docs", &[], b"").await.status, 200);
        assert_eq!(server.request("alice", "PUT", "/docs/a", &[], b"hello").await.status, 200);
    }
}

/// What an account's policy gives a user, and what the bucket's takes away again.
#[tokio::test]
async fn a_user_needs_a_policy() {
    let server = server().await;
    let carols = |action: &str| {
        format!(
            r#"{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::alice:user/carol"}},"Action":"{action}","Resource":"arn:aws:s3:::docs/*"}}"#
        )
    };
    refused(&server.request("carol", "GET", "/docs/a", &[], b"").await, 403, "AccessDenied");
    // The account alone is not its users.
    let alices = carols("s3:GetObject").replace(":user/carol", ":root");
    put_policy(&server, &alices).await;
    refused(&server.request("carol", "GET", "/docs/a", &[], b"").await, 403, "AccessDenied");
    put_policy(&server, &carols("s3:GetObject")).await;
    assert_eq!(server.request("carol", "GET", "/docs/a", &[], b"").await.body, b"hello");
    refused(&server.request("carol", "PUT", "/docs/c", &[], b"x").await, 403, "AccessDenied");
    refused(&server.query("carol", "DELETE", "/docs", "policy=", &[], b"").await, 403, "AccessDenied");
    let denied = carols("s3:GetObject").replace("Allow", "Deny");
    put_policy(&server, &format!("{},{denied}", carols("s3:*Object"))).await;
    refused(&server.request("carol", "GET", "/docs/a", &[], b"").await, 403, "AccessDenied");
    assert_eq!(server.request("carol", "PUT", "/docs/c", &[], b"x").await.status, 200);
}

/// MinIO CVE-2026-42882's class: the policy read a plus as a plus and the handler as a space.
#[tokio::test]
async fn a_prefix_is_denied_however_it_is_written() {
    let server = server().await;
    let carols = |effect: &str, condition: &str| {
        format!(
            r#"{{"Effect":"{effect}","Principal":{{"AWS":"arn:aws:iam::alice:user/carol"}},"Action":"s3:ListBucket","Resource":"arn:aws:s3:::docs"{condition}}}"#
        )
    };
    let secret = r#","Condition":{"StringLike":{"s3:prefix":"secret docs/*"}}"#;
    put_policy(&server, &format!("{},{}", carols("Allow", ""), carols("Deny", secret))).await;
    assert_eq!(server.query("carol", "GET", "/docs", "prefix=secret%2Bdocs%2F", &[], b"").await.status, 200);
    let head = server.signed("carol", "GET", "/docs", "prefix=secret%20docs%2F", EMPTY, &[]);
    for space in ["%20", "+"] {
        let head = head.replace("secret%20docs", &format!("secret{space}docs"));
        refused(&server.send(&head, b"").await, 403, "AccessDenied");
    }
}

/// Whoever may not list the keys does not hear which there are.
#[tokio::test]
async fn a_missing_key_is_forbidden_to_those_who_may_not_list() {
    let server = server().await;
    let read = r#"{"Effect":"Allow","Principal":"*","Action":["s3:GetObject","s3:GetObjectVersion","s3:GetObjectAcl","s3:GetObjectTagging"],"Resource":"arn:aws:s3:::docs/*"}"#;
    let list = r#"{"Effect":"Allow","Principal":"*","Action":"s3:ListBucket","Resource":"arn:aws:s3:::docs"}"#;
    put_policy(&server, read).await;
    assert_eq!(anonymous(&server, "GET", "/docs/a", "", &[], b"").await.body, b"hello");
    for (method, query) in [("GET", ""), ("HEAD", ""), ("GET", "acl"), ("GET", "tagging"), ("GET", "versionId=null")] {
        let answer = anonymous(&server, method, "/docs/none", query, &[], b"").await;
        assert_eq!(answer.status, 403, "{method} {query}");
        assert_eq!(answer.header("x-amz-delete-marker"), None);
    }
    put_policy(&server, &format!("{read},{list}")).await;
    for (method, query) in [("GET", ""), ("HEAD", ""), ("GET", "acl"), ("GET", "tagging")] {
        assert_eq!(anonymous(&server, method, "/docs/none", query, &[], b"").await.status, 404, "{method} {query}");
    }
}

/// The key that a policy sees is the key that is read, however it is written.
#[tokio::test]
async fn cve_2026_42882_a_key_has_one_reading() {
    let server = server().await;
    for path in ["/docs/public/x", "/docs/secret/x", "/docs/public/../secret/x", "/docs//secret/x"] {
        assert_eq!(server.request("alice", "PUT", path, &[], b"x").await.status, 200, "{path}");
    }
    let listed = server.query("alice", "GET", "/docs", "", &[], b"").await.text();
    assert!(listed.contains("<Key>public/../secret/x</Key>") && listed.contains("<Key>/secret/x</Key>"), "{listed}");
    put_policy(
        &server,
        r#"{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::docs/public/*"},
           {"Effect":"Deny","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::docs/secret/*"}"#,
    )
    .await;
    for (path, status) in [
        ("/docs/public/x", 200),
        ("/docs/public%2Fx", 200),
        ("/docs/%70ublic/x", 200),
        // A key of its own, which is public by its name; it is not the secret one.
        ("/docs/public%2F..%2Fsecret/x", 200),
        ("/docs/public/../secret/x", 200),
        ("/docs/secret/x", 403),
        ("/docs/secret%2Fx", 403),
        ("/docs/%73ecret/x", 403),
        ("/docs//secret/x", 403),
        ("/docs/public%252Fx", 403),
        ("/docs/./public/x", 403),
    ] {
        let answer = anonymous(&server, "GET", path, "", &[], b"").await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
}

/// CVE-2026-39360, SeaweedFS #9546: the source of a copy is read, and its bucket's owner is asked.
#[tokio::test]
async fn cve_2026_39360_a_copy_reads_only_what_its_caller_may_read() {
    let server = server().await;
    for (path, query) in [("/bobs/c", ""), ("/bobs/c", "partNumber=1&uploadId=x")] {
        let copied = server.query("bob", "PUT", path, query, &[("x-amz-copy-source", "/docs/a")], b"").await;
        refused(&copied, 403, "AccessDenied");
        let none = server.query("bob", "PUT", path, query, &[("x-amz-copy-source", "/docs/none")], b"").await;
        refused(&none, 403, "AccessDenied");
    }
    put_policy(
        &server,
        r#"{"Effect":"Allow","Principal":{"AWS":"bob"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::docs/a"}"#,
    )
    .await;
    let copied = server.request("bob", "PUT", "/bobs/c", &[("x-amz-copy-source", "/docs/a")], b"").await;
    assert_eq!(copied.status, 200, "{}", copied.text());
    assert_eq!(server.request("bob", "GET", "/bobs/c", &[], b"").await.body, b"hello");
    // Of that version he was allowed nothing.
    let version = [("x-amz-copy-source", "/docs/a?versionId=null")];
    refused(&server.request("bob", "PUT", "/bobs/d", &version, b"").await, 403, "AccessDenied");
}

/// CVE-2026-21862: a header of the client does not say where it is.
#[tokio::test]
async fn cve_2026_21862_the_address_is_the_sockets() {
    let server = server().await;
    let allow = |address: &str| {
        format!(
            r#"{{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::docs/*","Condition":{{"IpAddress":{{"aws:SourceIp":"{address}"}}}}}}"#
        )
    };
    put_policy(&server, &allow("192.0.2.0/24")).await;
    for name in ["x-forwarded-for", "x-real-ip", "forwarded", "x-client-ip", "true-client-ip"] {
        let answer = anonymous(&server, "GET", "/docs/a", "", &[(name, "192.0.2.1")], b"").await;
        assert_eq!(answer.status, 403, "{name}");
    }
    put_policy(&server, &allow("127.0.0.1/32")).await;
    assert_eq!(anonymous(&server, "GET", "/docs/a", "", &[], b"").await.status, 200);
}

/// CVE-2024-36107: conditions were judged before anybody was asked who he is.
#[tokio::test]
async fn cve_2024_36107_conditions_come_last() {
    let server = server().await;
    for (name, value) in [("if-match", "\"x\""), ("if-none-match", "*"), ("if-modified-since", "x"), ("range", "x")] {
        for path in ["/docs/a", "/docs/none"] {
            for who in ["", "bob"] {
                let answer = match who {
                    "" => anonymous(&server, "GET", path, "", &[(name, value)], b"").await,
                    who => server.request(who, "GET", path, &[(name, value)], b"").await,
                };
                refused(&answer, 403, "AccessDenied");
            }
        }
    }
    put_policy(
        &server,
        r#"{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::docs/*"}"#,
    )
    .await;
    let mended = [("range", "bytes=0-1,3-4")];
    assert_eq!(anonymous(&server, "GET", "/docs/a", "", &mended, b"").await.body, b"hello", "a read of anybody's");
}

/// SeaweedFS #2180: a body of signed chunks that nobody signed was stored with its frames.
#[tokio::test]
async fn seaweedfs_2180_signed_chunks_need_a_signature() {
    let server = server().await;
    let put = r#"{"Effect":"Allow","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::docs/*"}"#;
    put_policy(&server, put).await;
    for payload in ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
        let headers = [("x-amz-content-sha256", payload), ("x-amz-decoded-content-length", "5")];
        let body = b"5;chunk-signature=0\r\nhello\r\n0;chunk-signature=0\r\n\r\n";
        let answer = anonymous(&server, "PUT", "/docs/n", "", &headers, body).await;
        refused(&answer, 400, "InvalidRequest");
    }
    assert_eq!(anonymous(&server, "PUT", "/docs/n", "", &[], b"hello").await.status, 200);
    assert_eq!(server.request("alice", "GET", "/docs/n", &[], b"").await.body, b"hello", "it is the bucket's owner's");
}

/// Lists: what they give, to whom, and that they give nothing where they count for nothing.
#[tokio::test]
async fn lists() {
    let server = server().await;
    let public = [("x-amz-acl", "public-read")];
    assert_eq!(server.request("alice", "PUT", "/docs/p", &public, b"public").await.status, 200);
    assert_eq!(anonymous(&server, "GET", "/docs/p", "", &[], b"").await.body, b"public");
    assert_eq!(anonymous(&server, "PUT", "/docs/p", "", &[], b"x").await.status, 403);
    let url = server.presigned("alice", "PUT", "/docs/q", "x-amz-acl=public-read", b"public").await;
    assert_eq!(url.status, 200, "a URL says it in its query");
    assert_eq!(anonymous(&server, "GET", "/docs/q", "", &[], b"").await.body, b"public");
    let both = server.presigned("alice", "PUT", "/docs/q", "x-amz-acl=private&x-amz-acl=public-read", b"").await;
    refused(&both, 400, "InvalidArgument");
    for (name, value, code) in [
        ("x-amz-acl", "public", "InvalidArgument"),
        ("x-amz-grant-read", "id=nobody", "InvalidArgument"),
        ("x-amz-grant-read", "emailAddress=a@example.org", "UnresolvableGrantByEmailAddress"),
        ("x-amz-grant-read", "bob", "InvalidArgument"),
    ] {
        refused(&server.request("alice", "PUT", "/docs/r", &[(name, value)], b"x").await, 400, code);
    }
    let bobs = [("x-amz-grant-read", "id=bob")];
    assert_eq!(server.request("alice", "PUT", "/docs/r", &bobs, b"bobs").await.status, 200);
    assert_eq!(server.request("bob", "GET", "/docs/r", &[], b"").await.body, b"bobs");
    refused(&server.query("bob", "GET", "/docs/r", "acl=", &[], b"").await, 403, "AccessDenied");
    refused(&anonymous(&server, "GET", "/docs/r", "", &[], b"").await, 403, "AccessDenied");

    let block = b"<PublicAccessBlockConfiguration><IgnorePublicAcls>true</IgnorePublicAcls><BlockPublicAcls>true</BlockPublicAcls></PublicAccessBlockConfiguration>";
    assert_eq!(server.query("alice", "PUT", "/docs", "publicAccessBlock=", &[], block).await.status, 200);
    refused(&anonymous(&server, "GET", "/docs/p", "", &[], b"").await, 403, "AccessDenied");
    refused(&server.request("alice", "PUT", "/docs/s", &public, b"x").await, 403, "AccessDenied");
    assert_eq!(server.request("bob", "GET", "/docs/r", &[], b"").await.body, b"bobs", "not everybody");

    let enforced =
        b"<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>";
    assert_eq!(server.query("alice", "PUT", "/docs", "ownershipControls=", &[], enforced).await.status, 200);
    refused(&server.request("bob", "GET", "/docs/r", &[], b"").await, 403, "AccessDenied");
    refused(&server.request("alice", "PUT", "/docs/s", &bobs, b"x").await, 400, "AccessControlListNotSupported");
    assert_eq!(server.request("alice", "HEAD", "/docs/s", &[], b"").await.status, 404);
}

/// What another account puts is its own where lists count, and nobody reads it past its owner.
#[tokio::test]
async fn an_object_belongs_to_who_puts_it() {
    let server = server().await;
    let writes = [("x-amz-grant-write", "id=bob"), ("x-amz-grant-read", "id=bob")];
    assert_eq!(server.query("alice", "PUT", "/docs", "acl=", &writes, b"").await.status, 200);
    assert_eq!(server.request("bob", "PUT", "/docs/b", &[], b"bobs").await.status, 200);
    refused(&server.request("alice", "GET", "/docs/b", &[], b"").await, 403, "AccessDenied");
    put_policy(
        &server,
        r#"{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::docs/*"}"#,
    )
    .await;
    refused(&anonymous(&server, "GET", "/docs/b", "", &[], b"").await, 403, "AccessDenied");
    assert_eq!(anonymous(&server, "GET", "/docs/a", "", &[], b"").await.body, b"hello");
    let listed = server.query("alice", "GET", "/docs", "", &[], b"").await.text();
    assert!(listed.contains("<ID>bob</ID>") && listed.contains("<ID>alice</ID>"), "{listed}");
    let full = [("x-amz-acl", "bucket-owner-full-control")];
    assert_eq!(server.request("bob", "PUT", "/docs/b", &full, b"bobs").await.status, 200);
    assert_eq!(server.request("alice", "GET", "/docs/b", &[], b"").await.body, b"bobs");
    assert_eq!(server.request("alice", "DELETE", "/docs/b", &[], b"").await.status, 204);
}

/// Who may put an object may give its bucket's owner all of it, which opens nothing; to open it to anybody else is another action.
#[tokio::test]
async fn only_a_list_for_the_buckets_owner_comes_with_the_put() {
    let server = server().await;
    let put =
        r#"{"Effect":"Allow","Principal":{"AWS":"bob"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::docs/*"}"#;
    put_policy(&server, put).await;
    for (name, value, status) in [
        ("x-amz-grant-full-control", "id=alice", 200),
        ("x-amz-acl", "bucket-owner-full-control", 200),
        ("x-amz-acl", "bucket-owner-read", 200),
        ("x-amz-acl", "private", 200),
        ("x-amz-acl", "public-read", 403),
        ("x-amz-acl", "authenticated-read", 403),
        ("x-amz-grant-read", "id=alice, id=bob", 403),
        ("x-amz-grant-read", "uri=http://acs.amazonaws.com/groups/global/AllUsers", 403),
    ] {
        let answer = server.request("bob", "PUT", "/docs/b", &[(name, value)], b"bobs").await;
        assert_eq!(answer.status, status, "{name}: {value}: {}", answer.text());
    }
    let mixed = [("x-amz-grant-full-control", "id=alice"), ("x-amz-grant-read", "id=bob")];
    assert_eq!(server.request("bob", "PUT", "/docs/b", &mixed, b"bobs").await.status, 403);
    let denied = put.replace("Allow", "Deny").replace("s3:PutObject", "s3:PutObjectAcl");
    put_policy(&server, &format!("{put},{denied}")).await;
    let full = [("x-amz-acl", "bucket-owner-full-control")];
    assert_eq!(
        server.request("bob", "PUT", "/docs/b", &full, b"bobs").await.status,
        403,
        "what is denied stays denied"
    );
}

/// A policy that is understood in part only is none.
#[tokio::test]
async fn policies_that_are_refused() {
    let server = server().await;
    for text in [
        "",
        "{}",
        r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::other/*"}]}"#,
        r#"{"Statement":[{"Effect":"Allow","NotPrincipal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::docs/*"}]}"#,
        r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:GetObjct","Resource":"arn:aws:s3:::docs/*"}]}"#,
    ] {
        let answer = server.query("alice", "PUT", "/docs", "policy=", &[], text.as_bytes()).await;
        assert_eq!(answer.status, 400, "{text}: {}", answer.text());
    }
    let kept = r#" {"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::docs/*"}} "#;
    let block =
        b"<PublicAccessBlockConfiguration><BlockPublicPolicy>true</BlockPublicPolicy></PublicAccessBlockConfiguration>";
    assert_eq!(server.query("alice", "PUT", "/docs", "publicAccessBlock=", &[], block).await.status, 200);
    refused(&server.query("alice", "PUT", "/docs", "policy=", &[], kept.as_bytes()).await, 403, "AccessDenied");
    refused(&server.query("alice", "GET", "/docs", "policy=", &[], b"").await, 404, "NoSuchBucketPolicy");
    assert_eq!(server.query("alice", "DELETE", "/docs", "publicAccessBlock=", &[], b"").await.status, 204);
    assert_eq!(server.query("alice", "PUT", "/docs", "policy=", &[], kept.as_bytes()).await.status, 204);
    assert_eq!(server.query("alice", "GET", "/docs", "policy=", &[], b"").await.body, kept.as_bytes(), "byte for byte");
    let status = server.query("alice", "GET", "/docs", "policyStatus=", &[], b"").await;
    assert!(status.text().contains("<IsPublic>true</IsPublic>"), "{}", status.text());
}
