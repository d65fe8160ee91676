//! Who may do what: copies, conditions, forms, addresses, users, names.

use super::store::{STRANGER_KEY, Store, denied, refused};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tests::process::exchange;
use tests::s3::Answer;
use tests::sigv4::{Ask, Key, Scope, ask, encoded, mac, signing_key, stamp};

/// MinIO: the address that a client says of itself counted in policies.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_21862_forwarded_for() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    let inside = "{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"s3:GetObject\",\"Resource\":\"arn:aws:s3:::vault/*\",\
                  \"Condition\":{\"IpAddress\":{\"aws:SourceIp\":\"10.1.2.3/32\"}}}";
    store.policy("vault", inside).await;
    let get = || ask("GET", "/vault/k");
    denied(&store.send(get()).await);
    for header in ["x-forwarded-for", "x-real-ip", "forwarded", "x-client-ip", "true-client-ip", "cf-connecting-ip"] {
        let value = if header == "forwarded" { "for=10.1.2.3" } else { "10.1.2.3" };
        denied(&store.send(get().header(header, value)).await);
        denied(&store.by(&store.stranger, get().header(header, value)).await);
    }
    // The peer's own address does count.
    store.policy("vault", &inside.replace("10.1.2.3/32", "127.0.0.0/8")).await;
    assert_eq!(store.send(get()).await.status, 200);
    store.end().await;
}

/// RustFS: a copy read what its caller may not read.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_39360_copy_source() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    assert_eq!(store.by(&store.stranger, ask("PUT", "/loot")).await.status, 200);
    for source in ["/vault/k", "vault/k", "vault/%6B", "%2Fvault%2Fk", "vault//k", "vault/absent", "loot/../vault/k"] {
        let copy = ask("PUT", "/loot/k").header("x-amz-copy-source", source);
        let answer = store.by(&store.stranger, copy).await;
        refused(&answer);
        assert!(!answer.text().contains("kept"), "{source}");
        assert_eq!(store.by(&store.stranger, ask("GET", "/loot/k")).await.status, 404, "{source}");
    }
    // Nor by saying that the source is somebody's whom he knows.
    let copy = ask("PUT", "/loot/k").header("x-amz-copy-source", "/vault/k");
    refused(&store.by(&store.stranger, copy.header("x-amz-source-expected-bucket-owner", "stranger-id")).await);
    store.end().await;
}

/// SeaweedFS: the same with a part of a source.
#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_9546_part_copy_source() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    assert_eq!(store.by(&store.stranger, ask("PUT", "/loot")).await.status, 200);
    let begun = store.by(&store.stranger, ask("POST", "/loot/k").query("uploads", "")).await.text();
    let upload = begun.split_once("<UploadId>").unwrap().1.split_once("</UploadId>").unwrap().0.to_owned();
    for range in [None, Some("bytes=0-1")] {
        let mut part = ask("PUT", "/loot/k").query("partNumber", "1").query("uploadId", &upload);
        part = part.header("x-amz-copy-source", "/vault/k");
        if let Some(range) = range {
            part = part.header("x-amz-copy-source-range", range);
        }
        denied(&store.by(&store.stranger, part).await);
    }
    let parts = store.by(&store.stranger, ask("GET", "/loot/k").query("uploadId", &upload)).await.text();
    assert!(!parts.contains("<Part>"), "{parts}");
    store.end().await;
}

/// MinIO: conditions were judged before the caller was, so the answer told what is there.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_36107_conditions_first() {
    let store = Store::start().await;
    store.bucket("vault").await;
    let etag = store.object("/vault/there", b"kept").await.header("etag").unwrap().to_owned();
    let conditions = [
        ("if-match", etag.as_str()),
        ("if-match", "\"0\""),
        ("if-none-match", etag.as_str()),
        ("if-none-match", "*"),
        ("if-modified-since", "Sat, 01 Jan 2050 00:00:00 GMT"),
        ("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT"),
        ("range", "bytes=100-"),
    ];
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        for (name, value) in conditions {
            for key in ["there", "absent"] {
                let request = || ask(method, &format!("/vault/{key}")).header(name, value);
                for answer in [store.by(&store.stranger, request()).await, store.send(request()).await] {
                    assert_eq!(answer.status, 403, "{method} {key} {name}: {value}: {}", answer.text());
                }
            }
        }
    }
    let copy = ask("PUT", "/vault/copy").header("x-amz-copy-source", "/vault/there");
    let copy = copy.header("x-amz-copy-source-if-none-match", &etag);
    denied(&store.by(&store.stranger, copy).await);
    store.end().await;
}

/// A browser's form whose policy `key` signs.
fn form(key: &Key, conditions: &str, fields: &[(&str, &str)], file: &[u8]) -> Ask {
    let (time, scope) = (stamp(0), Scope::default());
    let credential = format!("{}/{}/us-east-1/s3/aws4_request", key.id, &time[..8]);
    let text = format!(
        "{{\"expiration\":\"2099-01-01T00:00:00Z\",\"conditions\":[{conditions},{{\"x-amz-algorithm\":\"AWS4-HMAC-SHA256\"}},\
         {{\"x-amz-credential\":\"{credential}\"}},{{\"x-amz-date\":\"{time}\"}}]}}"
    );
    let policy = BASE64.encode(text);
    let signature = hex::encode(mac(&signing_key(&key.secret, &time[..8], &scope), policy.as_bytes()));
    let own = [
        ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
        ("x-amz-credential", credential.as_str()),
        ("x-amz-date", time.as_str()),
        ("policy", policy.as_str()),
        ("x-amz-signature", signature.as_str()),
    ];
    let mut body = Vec::new();
    for (name, value) in fields.iter().copied().chain(own) {
        let head = format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(head.as_bytes());
    }
    body.extend_from_slice(b"--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n");
    body.extend_from_slice(file);
    body.extend_from_slice(b"\r\n--edge--\r\n");
    ask("POST", "/vault").header("content-type", "multipart/form-data; boundary=edge").body(body)
}

const CONDITIONS: &str = "{\"bucket\":\"vault\"},[\"starts-with\",\"$key\",\"in/\"],[\"content-length-range\",1,10]";

/// RustFS: the conditions of a form's policy were not held to.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_w5fh_post_conditions() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.bucket("other").await;
    let send = |fields: &'static [(&'static str, &'static str)], file: &'static [u8]| {
        store.send(form(&store.office, CONDITIONS, fields, file))
    };
    refused(&send(&[("key", "in/large")], b"eleven byte").await);
    refused(&send(&[("key", "in/none")], b"").await);
    refused(&send(&[("key", "out/k")], b"x").await);
    refused(&send(&[("key", "in/k"), ("content-type", "text/html")], b"x").await);
    refused(&send(&[("key", "in/k"), ("acl", "public-read")], b"x").await);
    refused(&send(&[("key", "in/k"), ("bucket", "other")], b"x").await);
    refused(&send(&[("key", "in/k"), ("key", "out/k")], b"x").await);
    let mut elsewhere = form(&store.office, CONDITIONS, &[("key", "in/k")], b"x");
    elsewhere.path = "/other".to_owned();
    refused(&store.send(elsewhere).await);
    refused(&store.send(form(&Key::new(&store.office.id, "guess"), CONDITIONS, &[("key", "in/k")], b"x")).await);
    denied(&store.send(form(&store.stranger, CONDITIONS, &[("key", "in/k")], b"x")).await);
    assert!(store.keys("vault").await.is_empty() && store.keys("other").await.is_empty());
    assert_eq!(send(&[("key", "in/k")], b"good").await.status, 204);
    assert_eq!(store.read("/vault/in/k").await, b"good");
    store.end().await;
}

/// MinIO: a form could set metadata that its policy does not allow.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2023_28434_post_metadata() {
    let store = Store::start().await;
    store.bucket("vault").await;
    for (name, value) in [
        ("x-amz-meta-approved", "yes"),
        ("x-amz-storage-class", "GLACIER"),
        ("x-amz-website-redirect-location", "https://example.org/"),
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-object-lock-legal-hold", "ON"),
        ("tagging", "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"),
        ("success_action_redirect", "https://example.org/"),
    ] {
        let answer = store.send(form(&store.office, CONDITIONS, &[("key", "in/k"), (name, value)], b"x")).await;
        refused(&answer);
        assert!(store.keys("vault").await.is_empty(), "{name}");
    }
    store.end().await;
}

async fn iam(store: &Store, key: &Key, action: &str, fields: &[(&str, &str)]) -> Answer {
    let mut body = format!("Action={action}&Version=2010-05-08");
    for (name, value) in fields {
        body.push_str(&format!("&{name}={}", encoded(value)));
    }
    let service = if action == "AssumeRole" { "sts" } else { "iam" };
    let scope = Scope { service: service.to_owned(), ..Scope::default() };
    let request = ask("POST", "/").header("content-type", "application/x-www-form-urlencoded").body(body);
    store.send(request.signed_for(store.config.s3(), key, &scope)).await
}

/// A user of `office`, with this policy, if any.
async fn user(store: &Store, name: &str, policy: Option<&str>) -> Key {
    assert_eq!(iam(store, &store.office, "CreateUser", &[("UserName", name)]).await.status, 200);
    if let Some(policy) = policy {
        let fields = [("UserName", name), ("PolicyName", "given"), ("PolicyDocument", policy)];
        assert_eq!(iam(store, &store.office, "PutUserPolicy", &fields).await.status, 200);
    }
    let made = iam(store, &store.office, "CreateAccessKey", &[("UserName", name)]).await.text();
    let field = |name: &str| made.split_once(&format!("<{name}>")).unwrap().1.split_once("</").unwrap().0.to_owned();
    Key::new(&field("AccessKeyId"), &field("SecretAccessKey"))
}

const ALL: &str =
    "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"*\"}]}";

/// RustFS: a user without a right to it gave himself a policy; one whose policies only deny was let do all the rest.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_566f_xgr5_iam_escalation() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    let deny = "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Deny\",\"Action\":\"s3:DeleteObject\",\"Resource\":\"*\"}]}";
    let reads =
        "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"s3:Get*\",\"Resource\":\"*\"}]}";
    let bare = user(&store, "bare", None).await;
    let denies = user(&store, "denies", Some(deny)).await;
    let reader = user(&store, "reader", Some(reads)).await;
    denied(&store.by(&bare, ask("GET", "/vault/k")).await);
    denied(&store.by(&denies, ask("GET", "/vault/k")).await);
    assert_eq!(store.by(&reader, ask("GET", "/vault/k")).await.status, 200);
    for (name, key) in [("bare", &bare), ("denies", &denies), ("reader", &reader)] {
        for (action, fields) in [
            ("PutUserPolicy", vec![("UserName", name), ("PolicyName", "own"), ("PolicyDocument", ALL)]),
            ("CreateUser", vec![("UserName", "another")]),
            ("CreateAccessKey", vec![("UserName", "reader")]),
            ("CreatePolicy", vec![("PolicyName", "own"), ("PolicyDocument", ALL)]),
            (
                "AttachUserPolicy",
                vec![("UserName", name), ("PolicyArn", "arn:aws:iam::aws:policy/AdministratorAccess")],
            ),
            ("CreateRole", vec![("RoleName", "own"), ("AssumeRolePolicyDocument", ALL)]),
            ("CreateGroup", vec![("GroupName", "own")]),
            ("DeleteUserPolicy", vec![("UserName", "denies"), ("PolicyName", "given")]),
        ] {
            let answer = iam(&store, key, action, &fields).await;
            assert_eq!(answer.status, 403, "{name} {action}: {}", answer.text());
        }
        denied(&store.by(key, ask("PUT", "/vault/k").body("x")).await);
    }
    // An account has no say over another's users.
    let fields = [("UserName", "reader"), ("PolicyName", "own"), ("PolicyDocument", ALL)];
    assert!(iam(&store, &store.stranger, "PutUserPolicy", &fields).await.status >= 400);
    denied(&store.by(&reader, ask("PUT", "/vault/k").body("x")).await);
    // A signature for IAM opens nothing else, and one for S3 nothing of IAM.
    let s3 = ask("POST", "/")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("Action=ListUsers&Version=2010-05-08");
    refused(&store.by(&store.office, s3).await);
    refused(&store.send(ask("POST", "/").body("Action=CreateUser&Version=2010-05-08&UserName=x")).await);
    store.end().await;
}

/// SeaweedFS: what nodes ask each other about accounts could be asked by anybody. A store in one process listens for S3 and for its
/// operator only, and the operator has a token; the ports between processes want certificates (`tests/tests/cluster`).
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_72920_internal_ports() {
    let store = Store::start().await;
    let mut ports = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        let listening = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        for fields in listening.filter(|fields| fields.get(3) == Some(&"0A")) {
            let port = u16::from_str_radix(fields[1].rsplit(':').next().unwrap(), 16).unwrap();
            ports.push((port, fields[9].to_owned()));
        }
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", store.server.id())).unwrap();
    let own: Vec<String> = open
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut listens: Vec<u16> = ports.iter().filter(|(_, inode)| own.contains(inode)).map(|(port, _)| *port).collect();
    listens.sort_unstable();
    listens.dedup();
    let mut known = [store.config.s3().port(), store.config.admin().port()];
    known.sort_unstable();
    assert_eq!(listens, known);
    for (method, path) in [("GET", "/v1/accounts"), ("POST", "/v1/accounts/put"), ("POST", "/v1/accounts/remove")] {
        for token in [None, Some("wrong")] {
            let (code, text) = exchange(store.config.admin(), method, path, token, "{}").await.unwrap();
            assert_eq!(code, 401, "{path}: {text}");
            assert!(!text.contains(STRANGER_KEY));
        }
    }
    store.end().await;
}

/// An S3 proxy: the authoriser read `%2F` one way and the handler another.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_42882_percent_2f() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/private/k", b"what is hidden").await;
    store.object("/vault/public/k", b"open").await;
    let allow = "{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"s3:GetObject\",\"Resource\":\"arn:aws:s3:::vault/public/*\"}";
    store.policy("vault", allow).await;
    assert_eq!(store.send(ask("GET", "/vault/public/k")).await.body, b"open");
    assert_eq!(store.send(ask("GET", "/vault/public%2Fk")).await.body, b"open", "the same key, encoded");
    for path in [
        "/vault/private/k",
        "/vault/private%2Fk",
        "/vault/private%2fk",
        "/vault/%70rivate/k",
        "/vault/private%252Fk",
        "/vault//private/k",
        "/vault/public/../private/k",
        "/vault/public%2F..%2Fprivate%2Fk",
        "/vault/public/%2e%2e/private/k",
        "/vault/./private/k",
        "//vault/private/k",
        "/vault%2Fprivate%2Fk",
        "/vault/private/k%00",
        "/vault/private/k?",
        "/vault\\private\\k",
    ] {
        for caller in [None, Some(&store.stranger)] {
            let request = ask("GET", path);
            let answer = match caller {
                None => store.send(request).await,
                Some(key) => store.by(key, request).await,
            };
            refused(&answer);
            assert!(!answer.text().contains("what is hidden"), "{path}");
        }
    }
    // The reverse: what is denied stays denied however it is written.
    let deny = "{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"s3:GetObject\",\"Resource\":\"arn:aws:s3:::vault/*\"},\
                {\"Effect\":\"Deny\",\"Principal\":\"*\",\"Action\":\"s3:GetObject\",\"Resource\":\"arn:aws:s3:::vault/private/*\"}";
    store.policy("vault", deny).await;
    for path in ["/vault/private/k", "/vault/private%2Fk", "/vault/%70rivate%2Fk"] {
        denied(&store.send(ask("GET", path)).await);
    }
    store.end().await;
}

/// SeaweedFS, MinIO, RustFS: `..` in a key, or in the source of a copy, left the bucket. Keys here are names, never paths.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_54917_55874_42600_dotdot() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    assert_eq!(store.by(&store.stranger, ask("PUT", "/loot")).await.status, 200);
    let names =
        ["../vault/k", "a/../../vault/k", "..", "../../../../etc/passwd", "/etc/passwd", "a/./b", "...", ".hidden"];
    for name in names {
        let path = format!("/loot/{}", name.split('/').map(encoded).collect::<Vec<_>>().join("/"));
        let put = store.by(&store.stranger, ask("PUT", &path).body(name)).await;
        assert_eq!(put.status, 200, "{name}: {}", put.text());
        assert_eq!(store.by(&store.stranger, ask("GET", &path)).await.text(), name, "it is a key like any other");
    }
    assert_eq!(store.read("/vault/k").await, b"kept");
    assert_eq!(store.keys("vault").await, ["k"]);
    for source in ["/loot/../vault/k", "loot/..%2Fvault%2Fk", "/loot/../../vault/k"] {
        let copy = ask("PUT", "/loot/copied").header("x-amz-copy-source", source);
        let answer = store.by(&store.stranger, copy).await;
        let copied = store.by(&store.stranger, ask("GET", "/loot/copied")).await;
        assert!(answer.status != 200 || copied.text() != "kept", "{source}");
    }
    let listed = store.by(&store.stranger, ask("GET", "/loot").query("list-type", "2")).await.text();
    assert!(names.iter().all(|name| listed.contains(&format!("<Key>{name}</Key>"))), "{listed}");
    store.end().await;
}

/// RustFS: a key with `..` was judged by the policy as it was written, and led somewhere else.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_8r6f_what_is_judged_is_what_is_read() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/private/k", b"kept").await;
    store.policy("vault", "{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":[\"s3:GetObject\",\"s3:PutObject\"],\"Resource\":\"arn:aws:s3:::vault/public/*\"}").await;
    for path in ["/vault/public/../private/k", "/vault/public/..%2Fprivate/k", "/vault/public/%2e%2e/private/k"] {
        let got = store.by(&store.stranger, ask("GET", path)).await;
        assert!(got.status != 200 && !got.text().contains("kept"), "{path}: {}", got.text());
        // It is a key of its own, below `public`: if it is put, then there.
        let put = store.by(&store.stranger, ask("PUT", path).body("loot")).await;
        assert!(matches!(put.status, 200 | 400 | 403), "{path}: {}", put.text());
        assert_eq!(store.read("/vault/private/k").await, b"kept", "{path}");
        denied(&store.by(&store.stranger, ask("GET", "/vault/private/k")).await);
    }
    assert!(store.keys("vault").await.iter().all(|key| key == "private/k" || key.starts_with("public/")));
    store.end().await;
}

/// A tar archive with one file, of that name.
fn archive(name: &str, body: &[u8]) -> Vec<u8> {
    let mut head = [0u8; 512];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(124, &format!("{:011o}\0", body.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = head.to_vec();
    archive.extend_from_slice(body);
    archive.resize(archive.len().div_ceil(512) * 512 + 1024, 0);
    archive
}

/// RustFS: an archive that was unpacked where it was put wrote, by `..` in the names within, into buckets of others. Nothing is unpacked
/// here: an archive is the object that was put, whatever is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_f4vq_archive_entries() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    assert_eq!(store.by(&store.stranger, ask("PUT", "/loot")).await.status, 200);
    for (n, entry) in ["../vault/k", "/vault/k", "a/../../vault/k", "inside"].into_iter().enumerate() {
        let body = archive(entry, b"loot");
        for header in
            ["x-amz-meta-snowball-auto-extract", "x-amz-snowball-extract", "x-amz-meta-rustfs-snowball-extract"]
        {
            let path = format!("/loot/{n}.tar");
            let put = store.by(&store.stranger, ask("PUT", &path).header(header, "true").body(body.clone())).await;
            if put.status == 200 {
                assert_eq!(store.by(&store.stranger, ask("GET", &path)).await.body, body, "{header} {entry}");
            } else {
                refused(&put);
            }
        }
    }
    assert_eq!((store.keys("vault").await, store.read("/vault/k").await), (vec!["k".to_owned()], b"kept".to_vec()));
    let listed = store.by(&store.stranger, ask("GET", "/loot").query("list-type", "2")).await.text();
    assert!(listed.matches("<Key>").count() == listed.matches(".tar</Key>").count(), "{listed}");
    store.end().await;
}

/// RustFS: a request between its nodes read any file below, or beside, a drive. No port of a store in one process takes any such request:
/// on that of S3 it is one for a bucket, and on the operator's there is nothing by that name, with `..` or without.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_pq29_internal_paths() {
    let store = Store::start().await;
    let secret = "what is beside the drives";
    let beside = store.config.data.join("beside");
    std::fs::write(&beside, secret).unwrap();
    let whole = beside.to_str().unwrap().trim_start_matches('/').to_owned();
    let up = "../".repeat(12);
    let token = std::fs::read_to_string(store.config.data.join("admin-token")).unwrap();
    for path in [
        format!("/rustfs/rpc/read_file_stream?disk=/&volume=..&path={up}{whole}&offset=0&length=25"),
        format!("/minio/storage/v1/rfile?volume=..&file-path={up}{whole}"),
        format!("/{up}{whole}"),
        format!("/v1/{up}{whole}"),
        format!("/v1/..%2f..%2f..%2f{}", whole.replace('/', "%2f")),
        "/../beside".to_owned(),
        "/v1/../../beside".to_owned(),
    ] {
        let (s3, admin) = (store.config.s3(), store.config.admin());
        for (port, token) in [(s3, None), (admin, None), (admin, Some("wrong")), (admin, Some(token.trim()))] {
            for method in ["GET", "POST"] {
                let (code, text) = exchange(port, method, &path, token, "").await.unwrap();
                assert!((400..=501).contains(&code) && !text.contains(secret), "{method} {path}: {code} {text}");
            }
        }
    }
    store.end().await;
}
