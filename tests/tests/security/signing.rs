//! Signatures, and what they must cover.

use super::store::{Store, denied, refused};
use futures::future::join_all;
use tests::process::{ServerConfig, exchange};
use tests::sigv4::{Key, Scope, ask, mac, signing_key, stamp};

const UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const SIGNED_CHUNKS: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";

/// MinIO: an upload with an unsigned trailer was taken though its signature was none, or not right.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_40344_unsigned_trailer() {
    let store = Store::start().await;
    store.bucket("vault").await;
    let upload = || {
        ask("PUT", "/vault/trailer")
            .header("x-amz-content-sha256", UNSIGNED_TRAILER)
            .header("x-amz-decoded-content-length", "4")
            .header("x-amz-trailer", "x-amz-checksum-crc32")
            .header("content-encoding", "aws-chunked")
            .body("4\r\nevil\r\n0\r\nx-amz-checksum-crc32:aEWh1g==\r\n\r\n")
    };
    refused(&store.send(upload()).await);
    let forged = Key::new(&store.office.id, "not the secret");
    let answer = store.by(&forged, upload()).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "SignatureDoesNotMatch"));
    // A signature of something else.
    let mut borrowed = upload().signed(store.config.s3(), &store.office);
    borrowed.path = "/vault/other".to_owned();
    assert_eq!(store.send(borrowed).await.code(), "SignatureDoesNotMatch");
    assert!(store.keys("vault").await.is_empty());
    store.end().await;
}

/// MinIO: with a credential in the query, the signature was not looked at.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_41145_credential_in_query() {
    let store = Store::start().await;
    store.bucket("vault").await;
    let time = stamp(0);
    let credential = format!("{}/{}/us-east-1/s3/aws4_request", store.office.id, &time[..8]);
    for payload in ["UNSIGNED-PAYLOAD", UNSIGNED_TRAILER, SIGNED_CHUNKS] {
        let bare = || {
            ask("PUT", "/vault/query")
                .query("X-Amz-Credential", &credential)
                .query("X-Amz-Date", &time)
                .header("x-amz-content-sha256", payload)
                .body("evil")
        };
        refused(&store.send(bare()).await);
        refused(&store.send(bare().query("X-Amz-Algorithm", "AWS4-HMAC-SHA256").query("X-Amz-Expires", "60")).await);
        let whole = bare()
            .query("X-Amz-Algorithm", "AWS4-HMAC-SHA256")
            .query("X-Amz-Expires", "60")
            .query("X-Amz-SignedHeaders", "host");
        refused(&store.send(whole.clone().query("X-Amz-Signature", "")).await);
        refused(&store.send(whole.query("X-Amz-Signature", &"0".repeat(64))).await);
    }
    assert!(store.keys("vault").await.is_empty());
    store.end().await;
}

/// SeaweedFS: a signature for a service that it did not know let everybody in.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_55873_other_service() {
    let store = Store::start().await;
    store.bucket("vault").await;
    let address = store.config.s3();
    for service in ["iam", "sts", "s3tables", "s3express", "nothing", ""] {
        let scope = Scope { service: service.to_owned(), ..Scope::default() };
        refused(&store.send(ask("PUT", "/vault/k").body("evil").signed_for(address, &store.office, &scope)).await);
        refused(&store.send(ask("GET", "/vault").presigned(address, &store.office, 60, &scope)).await);
        let forged = Key::new(&store.office.id, "not the secret");
        refused(&store.send(ask("PUT", "/vault/k").body("evil").signed_for(address, &forged, &scope)).await);
    }
    assert!(store.keys("vault").await.is_empty());
    store.end().await;
}

/// A body of signed chunks: each signature covers the one before.
fn chunked(key: &Key, time: &str, seed: &str, chunks: &[&[u8]], spoil: Option<usize>) -> Vec<u8> {
    let scope = Scope::default();
    let signer = signing_key(&key.secret, &time[..8], &scope);
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let (mut before, mut out) = (seed.to_owned(), Vec::new());
    for (n, chunk) in chunks.iter().enumerate() {
        let hash = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, chunk));
        let of = format!("{}/us-east-1/s3/aws4_request", &time[..8]);
        let text = format!("AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{of}\n{before}\n{empty}\n{hash}");
        let mut signature = hex::encode(mac(&signer, text.as_bytes()));
        before.clone_from(&signature);
        if spoil == Some(n) {
            signature.replace_range(..1, if signature.starts_with('0') { "1" } else { "0" });
        }
        out.extend_from_slice(format!("{:x};chunk-signature={signature}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// SeaweedFS: the chunks of a chunked upload were taken from anybody.
#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_2180_chunked_anonymous() {
    let store = Store::start().await;
    store.bucket("vault").await;
    let head = || {
        ask("PUT", "/vault/chunks")
            .header("x-amz-content-sha256", SIGNED_CHUNKS)
            .header("x-amz-decoded-content-length", "8")
            .header("content-encoding", "aws-chunked")
    };
    let chunks: [&[u8]; 3] = [b"four", b"more", b""];
    let zeros = "0".repeat(64);
    refused(&store.send(head().body(chunked(&store.office, &stamp(0), &zeros, &chunks, None))).await);

    let signed = || async {
        let mut request = head().signed(store.config.s3(), &store.office);
        let find = |name: &str| request.headers.iter().find(|(n, _)| n == name).unwrap().1.clone();
        let (time, authorization) = (find("x-amz-date"), find("authorization"));
        let seed = authorization.rsplit('=').next().unwrap().to_owned();
        request.headers.retain(|(name, _)| name != "content-length");
        (request, time, seed)
    };
    for spoiled in [0, 1, 2] {
        let (request, time, seed) = signed().await;
        let answer = store.send(request.body(chunked(&store.office, &time, &seed, &chunks, Some(spoiled)))).await;
        refused(&answer);
        assert!(store.keys("vault").await.is_empty(), "chunk {spoiled} was not signed by the office");
    }
    // Less than was announced.
    let (request, time, seed) = signed().await;
    refused(&store.send(request.body(chunked(&store.office, &time, &seed, &chunks[..1], None))).await);
    assert!(store.keys("vault").await.is_empty());
    let (request, time, seed) = signed().await;
    let answer = store.send(request.body(chunked(&store.office, &time, &seed, &chunks, None))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(store.read("/vault/chunks").await, b"fourmore");
    store.end().await;
}

/// A store took tokens whose header said how they are to be verified. Temporary credentials here are sealed by the store, and
/// nothing in them is read before they are opened.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_33322_token_confusion() {
    let store = Store::start().await;
    store.bucket("vault").await;
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJvZmZpY2UiLCJleHAiOjk5OTk5OTk5OTl9.";
    let public = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJvZmZpY2UifQ.AAAA";
    for token in [none, public, "AAAA", "x"] {
        let with = Key { token: Some(token.to_owned()), ..store.office.clone() };
        refused(&store.by(&with, ask("GET", "/vault")).await);
        let made_up = Key { id: "ASIAIOSFODNN7EXAMPLE".to_owned(), ..with };
        refused(&store.by(&made_up, ask("GET", "/vault")).await);
    }
    store.end().await;
}

/// RustFS: secrets could be guessed at any speed.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_jv87_sign_in_rate() {
    let store = Store::start().await;
    store.bucket("vault").await;
    let guess = Key::new(&store.office.id, "not the secret");
    let attacker: std::net::IpAddr = "127.0.0.2".parse().unwrap();
    let mut slowed = false;
    for _ in 0..40 {
        // Several at once: one after the other, a busy machine would be no faster than what is allowed.
        let guesses = (0..15).map(|_| ask("GET", "/vault").from(attacker).signed(store.config.s3(), &guess));
        for answer in join_all(guesses.map(|request| store.send(request))).await {
            match answer.status {
                503 => assert_eq!(answer.code(), "SlowDown", "{}", answer.text()),
                status => assert_eq!(status, 403, "{}", answer.text()),
            }
            slowed |= answer.status == 503;
        }
        if slowed {
            break;
        }
    }
    assert!(slowed, "600 wrong secrets, and nobody was slowed down");
    // Whoever has the secret comes in, from where he always did.
    assert_eq!(store.by(&store.office, ask("GET", "/vault")).await.status, 200);
    store.end().await;
}

/// RustFS: secrets that every installation shared.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_h956_r5qv_no_default_secret() {
    let dir = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    for n in 0..2 {
        let mut config = ServerConfig::new(dir.path().join(n.to_string()), 2);
        config.environment.clear();
        let server = config.start().await;
        for known in ["minioadmin", "rustfsadmin", "admin", "stele", "test", "password", "secret"] {
            let answer = ask("GET", "/").signed(config.s3(), &Key::new(known, known)).send(config.s3()).await.unwrap();
            assert_eq!((answer.status, answer.code().as_str()), (403, "InvalidAccessKeyId"), "{known}");
        }
        for path in ["/v1/status", "/v1/accounts", "/v1/drives"] {
            for token in [None, Some(""), Some("admin"), Some("stele")] {
                let (code, _) = exchange(config.admin(), "GET", path, token, "").await.unwrap();
                assert!(code == 401 || code == 403 || code == 404, "{path} {token:?}: {code}");
            }
        }
        found.push(std::fs::read_to_string(config.data.join("admin-token")).unwrap());
        assert!(server.stop().await.success());
    }
    assert_ne!(found[0], found[1], "each store makes up its own");
}

/// RustFS: a signed internal request was good for another method, too. Every signature here covers the method and the path.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_c667_replay_across_methods() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    let address = store.config.s3();
    for method in ["DELETE", "PUT", "HEAD", "POST"] {
        let mut replayed = ask("GET", "/vault/k").signed(address, &store.office);
        replayed.method = method.to_owned();
        refused(&store.send(replayed).await);
        let mut replayed = ask("GET", "/vault/k").presigned(address, &store.office, 60, &Scope::default());
        replayed.method = method.to_owned();
        refused(&store.send(replayed).await);
    }
    let mut other = ask("GET", "/vault/k").signed(address, &store.office);
    other = other.query("acl", "");
    assert_eq!(store.send(other).await.code(), "SignatureDoesNotMatch");
    assert_eq!(store.read("/vault/k").await, b"kept");
    store.end().await;
}

/// What a signature of version 4 has to say, and that nothing of it can be left out, be there twice, or be late.
#[tokio::test(flavor = "multi_thread")]
async fn a_signature_covers_the_request() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    let address = store.config.s3();
    let get = || ask("GET", "/vault/k");
    let at = |shift| Scope { shift, ..Scope::default() };
    for shift in [-3600, 3600] {
        let answer = store.send(get().signed_for(address, &store.office, &at(shift))).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "RequestTimeTooSkewed"), "{shift}");
    }
    let late = store.send(get().presigned(address, &store.office, 60, &at(-120))).await;
    denied(&late);
    for expires in [-1, 604_801] {
        refused(&store.send(get().presigned(address, &store.office, expires, &Scope::default())).await);
    }
    // A header of S3's that was added on the way.
    let added = ask("PUT", "/vault/k").body("x").signed(address, &store.office).header("x-amz-acl", "public-read");
    denied(&store.send(added).await);
    let added = ask("PUT", "/vault/k").presigned(address, &store.office, 60, &Scope::default());
    denied(&store.send(added.header("x-amz-acl", "public-read")).await);
    // A body that was changed on the way.
    let mut changed = ask("PUT", "/vault/k").body("meant").signed(address, &store.office);
    changed.body = b"other".to_vec();
    refused(&store.send(changed).await);
    // Two forms of a signature, and one of them twice.
    let both = get().presigned(address, &store.office, 60, &Scope::default());
    let header = get().signed(address, &store.office);
    let authorization = header.headers.iter().find(|(name, _)| name == "authorization").unwrap().1.clone();
    refused(&store.send(both.header("authorization", &authorization)).await);
    refused(&store.send(header.header("authorization", &authorization)).await);
    // The host names the bucket: it must be covered.
    let mut unbound = get().header("x-amz-date", &stamp(0));
    unbound = unbound.header(
        "authorization",
        &format!(
            "AWS4-HMAC-SHA256 Credential={}/{}/us-east-1/s3/aws4_request, SignedHeaders=x-amz-date, Signature={}",
            store.office.id,
            &stamp(0)[..8],
            "0".repeat(64)
        ),
    );
    refused(&store.send(unbound).await);
    assert_eq!(store.read("/vault/k").await, b"kept");
    store.end().await;
}
