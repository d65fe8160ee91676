//! What was promised of an object and not kept: its encryption, its lock, that it can be read.

use super::store::{Store, found_below, refused};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tests::s3::Answer;
use tests::sigv4::ask;

/// MinIO: headers of a client became metadata that the store itself goes by, and the object could not be read any more.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_3rh2_internal_headers() {
    let store = Store::start().await;
    store.bucket("vault").await;
    let mut request = ask("PUT", "/vault/k").body("readable");
    for (name, value) in [
        ("x-amz-meta-x-minio-internal-server-side-encryption-sealed-key", "AAAA"),
        ("x-amz-meta-x-amz-server-side-encryption", "AES256"),
        ("x-amz-meta-x-amz-unencrypted-content-length", "1"),
        ("x-amz-meta-stele-sealed", "AAAA"),
        ("x-minio-internal-server-side-encryption-iv", "AAAA"),
        ("x-stele-sealed", "AAAA"),
        ("x-amz-key-v2", "AAAA"),
        ("x-amz-restore", "ongoing-request=\"true\""),
        ("x-amz-replication-status", "REPLICA"),
        ("x-amz-delete-marker", "true"),
        ("x-amz-version-id", "null"),
        ("x-amz-expiration", "expiry-date=\"Sat, 01 Jan 2000 00:00:00 GMT\""),
    ] {
        request = request.header(name, value);
    }
    store.office(request).await;
    let answer = store.office(ask("GET", "/vault/k")).await;
    assert_eq!(answer.body, b"readable");
    assert_eq!(answer.header("x-amz-server-side-encryption"), None, "nobody asked for it");
    assert_eq!(answer.header("x-amz-meta-x-amz-server-side-encryption"), Some("AES256"), "metadata stay metadata");
    for own in
        ["x-amz-restore", "x-amz-replication-status", "x-amz-delete-marker", "x-amz-expiration", "x-stele-sealed"]
    {
        assert_eq!(answer.header(own), None, "{own}");
    }
    store.end().await;
}

/// RustFS: encryption was asked for, and plaintext was stored. What every kind of upload asks for is looked for on the drives,
/// in the index and everywhere else in the data directory.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_xrrf_plaintext_stored() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.bucket("default").await;
    let rule = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm>\
                </ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";
    store.office(ask("PUT", "/default").query("encryption", "").body(rule)).await;
    let key = [7u8; 32];
    let md5 = BASE64.encode(md5_of(&key));
    let own = [
        ("x-amz-server-side-encryption-customer-algorithm", "AES256".to_owned()),
        ("x-amz-server-side-encryption-customer-key", BASE64.encode(key)),
        ("x-amz-server-side-encryption-customer-key-md5", md5),
    ];
    let mut looked_for = Vec::new();
    // Random, so that it is stored as it is where it is not encrypted.
    let body = |n: u64| tests::s3::document(4 * n + 1, 3000);
    for (n, path, headers) in [
        (1, "/vault/sse-s3", vec![("x-amz-server-side-encryption", "AES256".to_owned())]),
        (2, "/default/by-default", vec![]),
        (3, "/vault/sse-c", own.to_vec()),
    ] {
        let mut request = ask("PUT", path).body(body(n));
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let answer = store.office(request).await;
        let said = answer.header("x-amz-server-side-encryption").or(answer.header(own[0].0));
        assert_eq!(said, Some("AES256"), "{path}");
        looked_for.push((path, body(n)));
    }
    // In parts, and as a copy of what is not encrypted.
    let begun = store.office(ask("POST", "/default/parts").query("uploads", "")).await.text();
    let upload = begun.split_once("<UploadId>").unwrap().1.split_once("</UploadId>").unwrap().0.to_owned();
    let part = ask("PUT", "/default/parts").query("partNumber", "1").query("uploadId", &upload).body(body(4));
    let etag = store.office(part).await.header("etag").unwrap().to_owned();
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    store.office(ask("POST", "/default/parts").query("uploadId", &upload).body(list)).await;
    looked_for.push(("/default/parts", body(4)));
    store.object("/vault/plain", &body(5)).await;
    looked_for.push(("/vault/plain", body(5)));
    let needles: Vec<(&str, &[u8])> = looked_for.iter().map(|(path, body)| (*path, &body[100..164])).collect();
    let mut found: Vec<&str> = found_below(&store.config.data, &needles).into_iter().map(|(path, _)| path).collect();
    found.dedup();
    assert_eq!(found, ["/vault/plain"], "what was to be encrypted is not in the clear, and the search finds what is");
    // An encryption that is not there is refused and not left out.
    for (name, value) in [
        ("x-amz-server-side-encryption", "aws:kms:dsse"),
        ("x-amz-server-side-encryption", "rot13"),
        ("x-amz-server-side-encryption-next", "x"),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-server-side-encryption-customer-key", "AAAA"),
    ] {
        let answer = store.by(&store.office, ask("PUT", "/vault/refused").header(name, value).body("x")).await;
        assert!(answer.status >= 400, "{name}: {value}");
    }
    assert!(!store.keys("vault").await.contains(&"refused".to_owned()));
    store.end().await;
}

fn md5_of(bytes: &[u8]) -> Vec<u8> {
    use md5::Digest as _;
    md5::Md5::digest(bytes).to_vec()
}

/// A bucket with a lock, and a version in it that is retained for a day.
async fn retained(store: &Store, mode: &str) -> String {
    let made = ask("PUT", "/locked").header("x-amz-bucket-object-lock-enabled", "true");
    store.office(made).await;
    let put = ask("PUT", "/locked/k").body("kept");
    let put = put.header("x-amz-object-lock-mode", mode).header("x-amz-object-lock-retain-until-date", &in_a_day());
    store.office(put).await.header("x-amz-version-id").unwrap().to_owned()
}

fn in_a_day() -> String {
    let stamp = tests::sigv4::stamp(86_400);
    let (day, time) = stamp.split_once('T').unwrap();
    format!("{}-{}-{}T{}:{}:{}Z", &day[..4], &day[4..6], &day[6..], &time[..2], &time[2..4], &time[4..6])
}

fn retention(mode: &str, until: &str) -> String {
    format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>")
}

async fn retain(store: &Store, version: &str, mode: &str, until: &str) -> Answer {
    let put = ask("PUT", "/locked/k").query("retention", "").query("versionId", version);
    let put = put.header("x-amz-bypass-governance-retention", "true").body(retention(mode, until));
    store.by(&store.office, put).await
}

/// Ceph: COMPLIANCE could be made GOVERNANCE, and that be lifted.
#[tokio::test(flavor = "multi_thread")]
async fn ceph_1989752_mode_change() {
    let store = Store::start().await;
    let version = retained(&store, "COMPLIANCE").await;
    for (mode, until) in [
        ("GOVERNANCE", in_a_day()),
        ("GOVERNANCE", "2099-01-01T00:00:00Z".to_owned()),
        ("COMPLIANCE", tests_soon()),
        ("COMPLIANCE", "2000-01-01T00:00:00Z".to_owned()),
    ] {
        refused(&retain(&store, &version, mode, &until).await);
    }
    let none = ask("PUT", "/locked/k").query("retention", "").query("versionId", &version);
    refused(
        &store.by(&store.office, none.header("x-amz-bypass-governance-retention", "true").body("<Retention/>")).await,
    );
    let gone = ask("DELETE", "/locked/k").query("versionId", &version);
    refused(&store.by(&store.office, gone.header("x-amz-bypass-governance-retention", "true")).await);
    assert_eq!(retain(&store, &version, "COMPLIANCE", "2090-01-01T00:00:00Z").await.status, 200, "longer it may be");
    store.end().await;
}

fn tests_soon() -> String {
    let day = in_a_day();
    // An hour earlier than now in a day is still to come, and shorter.
    let stamp = tests::sigv4::stamp(86_400 - 3600);
    let (date, time) = stamp.split_once('T').unwrap();
    let soon = format!("{}-{}-{}T{}:{}:{}Z", &date[..4], &date[4..6], &date[6..], &time[..2], &time[2..4], &time[4..6]);
    assert!(soon < day);
    soon
}

/// SeaweedFS, RustFS: a lock was taken and not held to. Every way to lose a version that a client has is tried.
#[tokio::test(flavor = "multi_thread")]
async fn lock_not_enforced_7194_2473_4293() {
    let store = Store::start().await;
    let version = retained(&store, "COMPLIANCE").await;
    let bypass = "x-amz-bypass-governance-retention";
    let delete = || ask("DELETE", "/locked/k").query("versionId", &version);
    refused(&store.by(&store.office, delete()).await);
    refused(&store.by(&store.office, delete().header(bypass, "true")).await);
    let many = format!("<Delete><Object><Key>k</Key><VersionId>{version}</VersionId></Object></Delete>");
    let sum = BASE64.encode(md5_of(many.as_bytes()));
    let request =
        ask("POST", "/locked").query("delete", "").header("content-md5", &sum).header(bypass, "true").body(many);
    let answer = store.by(&store.office, request).await.text();
    assert!(answer.contains("<Error>") && answer.contains("AccessDenied") && !answer.contains("<Deleted>"), "{answer}");
    // Versioning can't be taken away from under it, nor the lock from the bucket, nor the bucket.
    for state in ["Suspended", "Disabled"] {
        let off = format!("<VersioningConfiguration><Status>{state}</Status></VersioningConfiguration>");
        refused(&store.by(&store.office, ask("PUT", "/locked").query("versioning", "").body(off)).await);
    }
    let off = "<ObjectLockConfiguration><ObjectLockEnabled>Disabled</ObjectLockEnabled></ObjectLockConfiguration>";
    refused(&store.by(&store.office, ask("PUT", "/locked").query("object-lock", "").body(off)).await);
    // A new version and a marker over it leave it where it is.
    store.object("/locked/k", b"newer").await;
    store.office(ask("DELETE", "/locked/k")).await;
    refused(&store.by(&store.office, ask("DELETE", "/locked")).await);
    refused(&store.by(&store.office, delete()).await);
    let read = store.office(ask("GET", "/locked/k").query("versionId", &version)).await;
    assert_eq!(read.body, b"kept");
    // A lock where none can be is refused, and not left out.
    store.bucket("plain").await;
    let put = ask("PUT", "/plain/k").header("x-amz-object-lock-legal-hold", "ON").body("x");
    refused(&store.by(&store.office, put).await);
    assert!(store.keys("plain").await.is_empty());
    store.end().await;
}
