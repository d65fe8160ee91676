//! What one request, one connection or one setting of a client can do to all others.

use super::store::{Store, refused};
use std::time::Duration;
use tests::s3::Answer;
use tests::sigv4::{Ask, ask, exchange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// RustFS, Ceph: a malformed request made the server panic.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_gw2x_cve_2022_3854_panics() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    let mut requests: Vec<Ask> = Vec::new();
    for path in [
        "/",
        "//",
        "/vault",
        "/vault/",
        "/vault//",
        "/vault/%",
        "/vault/%ff%fe",
        "/vault/%00",
        "/%00/k",
        "/-/k",
        "/..",
        "/:/k",
    ] {
        requests.extend(["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"].map(|method| ask(method, path)));
    }
    for name in [
        "uploads",
        "uploadId",
        "partNumber",
        "policy",
        "acl",
        "cors",
        "lifecycle",
        "tagging",
        "versioning",
        "versions",
        "versionId",
        "retention",
        "legal-hold",
        "object-lock",
        "encryption",
        "ownershipControls",
        "publicAccessBlock",
        "policyStatus",
        "notification",
        "logging",
        "inventory",
        "restore",
        "select",
        "delete",
        "attributes",
        "location",
        "list-type",
        "max-keys",
        "continuation-token",
        "key-marker",
        "version-id-marker",
        "encoding-type",
        "website",
        "replication",
        "requestPayment",
        "accelerate",
        "analytics",
        "metrics",
        "intelligent-tiering",
        "torrent",
    ] {
        for value in ["", "0", "-1", "99999999999999999999", "null", "\u{0}", "\u{ffff}", "💥", "../..", "%"] {
            for (method, path) in [
                ("GET", "/vault"),
                ("GET", "/vault/k"),
                ("PUT", "/vault/k"),
                ("POST", "/vault/k"),
                ("DELETE", "/vault/k"),
            ] {
                requests.push(ask(method, path).query(name, value).body("<x"));
            }
        }
    }
    for (n, request) in requests.into_iter().enumerate() {
        // Every fifth: what refuses is the same for all values, and the whole would take minutes.
        if n % 5 != 0 {
            continue;
        }
        let what = format!("{} {} {:?}", request.method, request.path, request.query);
        let signed = request.signed(store.config.s3(), &store.office);
        match signed.send(store.config.s3()).await {
            Ok(answer) => assert!(answer.status < 500 || answer.status == 501, "{what}: {}", answer.text()),
            Err(error) => panic!("{what}: {error}"),
        }
    }
    store.end().await;
}

fn cors(rule: &str) -> String {
    format!("<CORSConfiguration><CORSRule>{rule}</CORSRule></CORSConfiguration>")
}

fn no_line_of_its_own(answer: &Answer) {
    assert!(!answer.head.to_ascii_lowercase().lines().any(|line| line.starts_with("x-evil")), "{}", answer.head);
}

/// Ceph: a newline in an ExposeHeader became a header of the answer.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2020_10753_cors_newline() {
    let store = Store::start().await;
    store.bucket("vault").await;
    for (n, evil) in
        ["a&#13;&#10;x-evil: 1", "a&#10;x-evil: 1", "a\nx-evil: 1", "a&#13;x-evil: 1", "a&#0;"].iter().enumerate()
    {
        let rule = format!(
            "<AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin><ExposeHeader>{evil}</ExposeHeader>"
        );
        let put = ask("PUT", "/vault").query("cors", "").body(cors(&rule));
        let answer = store.by(&store.office, put).await;
        refused(&answer);
        no_line_of_its_own(&store.send(ask("GET", "/vault").header("origin", "https://a.example")).await);
        let _ = n;
    }
    let rule = "<AllowedMethod>GET</AllowedMethod><AllowedOrigin>https://*.example</AllowedOrigin><AllowedHeader>*</AllowedHeader>";
    store.office(ask("PUT", "/vault").query("cors", "").body(cors(rule))).await;
    let asked = ask("OPTIONS", "/vault").header("origin", "https://a.example");
    let asked = asked.header("access-control-request-method", "GET");
    let asked = asked.header("access-control-request-headers", "x-a\tx-evil: 1, x-b");
    no_line_of_its_own(&store.send(asked).await);
    store.end().await;
}

/// A store reflected every origin, with credentials allowed.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_x5xv_cors_reflect() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    let get = |origin: &str| ask("GET", "/vault/k").header("origin", origin);
    let origin = "https://evil.example";
    for answer in [store.by(&store.office, get(origin)).await, store.send(get(origin)).await] {
        assert_eq!(answer.header("access-control-allow-origin"), None, "the bucket has no rules");
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    let rule = "<AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin>";
    store.office(ask("PUT", "/vault").query("cors", "").body(cors(rule))).await;
    let answer = store.by(&store.office, get(origin)).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "everybody, and no one by his name");
    assert_ne!(answer.header("access-control-allow-credentials"), Some("true"));
    let rule = "<AllowedMethod>GET</AllowedMethod><AllowedOrigin>https://good.example</AllowedOrigin>";
    store.office(ask("PUT", "/vault").query("cors", "").body(cors(rule))).await;
    for wrong in [
        origin,
        "null",
        "https://good.example.evil",
        "https://evil.example/https://good.example",
        "http://good.example",
    ] {
        let answer = store.by(&store.office, get(wrong)).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None), "{wrong}");
    }
    let answer = store.by(&store.office, get("https://good.example")).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://good.example"));
    let vary = answer.header("vary").unwrap_or_default().to_ascii_lowercase();
    assert!(vary.contains("origin"), "a cache must not give it to another origin: {vary}");
    store.end().await;
}

/// MinIO: connections that said nothing piled up until nobody else was served. (How many there may be, and how long one may say
/// nothing, `tests/tests/limits` measures.)
#[tokio::test(flavor = "multi_thread")]
async fn cve_2022_31028_idle() {
    let store = Store::start().await;
    store.bucket("vault").await;
    let mut idle = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(store.config.s3()).await.unwrap();
        // Some say nothing, some begin, some begin a body.
        let begun: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /vault HTTP/1.1\r\nHost: x\r\nX-Slow: ",
            _ => b"PUT /vault/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx",
        };
        let _ = stream.write_all(begun).await;
        idle.push(stream);
    }
    for _ in 0..3 {
        // Before the idle ones are cut off, which is a minute after they came.
        let asked = tokio::time::timeout(Duration::from_secs(45), store.object("/vault/k", b"served"));
        assert_eq!(asked.await.expect("served among idle connections").status, 200);
    }
    drop(idle);
    store.end().await;
}

/// SeaweedFS: a webhook, or a fetch for a client, reached what only the server can reach.
#[tokio::test(flavor = "multi_thread")]
async fn ghsa_87fv_webhook_ssrf() {
    let store = Store::start().await;
    store.bucket("vault").await;
    let bait = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = bait.local_addr().unwrap().port();
    for target in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
    ] {
        for kind in ["Topic", "Queue", "CloudFunction"] {
            let text = format!(
                "<NotificationConfiguration><{kind}Configuration><{kind}>{target}</{kind}>\
                 <Event>s3:ObjectCreated:*</Event></{kind}Configuration></NotificationConfiguration>"
            );
            let put = ask("PUT", "/vault").query("notification", "").body(text);
            let answer = store.by(&store.office, put).await;
            assert!(answer.status >= 400, "{kind} {target}: {}", answer.text());
        }
    }
    store.object("/vault/k", b"x").await;
    let came = tokio::time::timeout(Duration::from_secs(2), bait.accept()).await;
    assert!(came.is_err(), "somebody was called whom no operator has named");
    store.end().await;
}

/// XML that grows when it is read, or that reads files.
#[tokio::test(flavor = "multi_thread")]
async fn xml_has_no_entities_and_an_end() {
    let store = Store::start().await;
    store.bucket("vault").await;
    store.object("/vault/k", b"kept").await;
    let secret = store.dir.path().join("secret.txt");
    std::fs::write(&secret, "the text of a file").unwrap();
    let file = format!("<!DOCTYPE d [<!ENTITY e SYSTEM \"file://{}\">]>", secret.display());
    let laughs = "<!DOCTYPE d [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">\
                  <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;\"><!ENTITY e \"&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;\">]>";
    for doctype in [file.as_str(), laughs] {
        let text = format!("{doctype}<Delete><Object><Key>&e;</Key></Object></Delete>");
        let answer = store.by(&store.office, ask("POST", "/vault").query("delete", "").body(text)).await;
        refused(&answer);
        assert!(!answer.text().contains("the text of a file"));
        let text = format!("{doctype}<Tagging><TagSet><Tag><Key>k</Key><Value>&e;</Value></Tag></TagSet></Tagging>");
        refused(&store.by(&store.office, ask("PUT", "/vault/k").query("tagging", "").body(text)).await);
    }
    let deep = "<a>".repeat(200_000);
    refused(&store.by(&store.office, ask("PUT", "/vault").query("cors", "").body(&deep)).await);
    let wide = format!("<Delete>{}</Delete>", "<Object><Key>k</Key></Object>".repeat(200_000));
    refused(&store.by(&store.office, ask("POST", "/vault").query("delete", "").body(wide)).await);
    // What never ends is not waited for with everything else.
    let endless = tokio::spawn({
        let (address, signed) = (store.config.s3(), ask("POST", "/vault").query("delete", ""));
        let mut head = signed.header("content-length", "1000000").signed(address, &store.office).bytes(address);
        head.extend_from_slice(b"<Delete>");
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&head).await.unwrap();
            let mut end = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut end)).await;
        }
    });
    assert_eq!(store.read("/vault/k").await, b"kept");
    endless.await.unwrap();
    let nothing = exchange(store.config.s3(), None, b"\r\n\r\nGET\r\n\r\n").await;
    assert!(nothing.is_err() || nothing.is_ok_and(|answer| answer.status == 400));
    store.end().await;
}
