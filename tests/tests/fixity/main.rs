//! Fixity reports of a real server: what was put in every way, on drives that are well, damaged and gone; and each format
//! read by somebody else's parser.

#![allow(clippy::unwrap_used, missing_docs)]

mod parse;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, ServerSideEncryption};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tests::process::{ServerConfig, flip, get};
use tests::s3::{client, document};

/// How long scrub, repair and the check of the drives may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const BUCKET: &str = "fixity";
/// Keys that formats have to quote, escape or encode.
const ODD: [&str; 5] = [
    "odd/a,\"quoted\";b",
    "odd/two\r\nlines",
    "odd/grün 日本 \u{1f5ff} 100%41?x=1#y&z<w>",
    "odd/ space at both ends ",
    "odd/tab\tdel\u{7f}nel\u{85}",
];

/// A report as JSON Lines: exit code, objects by key, and the summary.
async fn report(config: &ServerConfig, arguments: &[&str]) -> (i32, BTreeMap<String, Value>, Value) {
    let line: Vec<&str> = ["fixity"].iter().chain(arguments).copied().chain(["--json"]).collect();
    let output = config.stele(&line).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap_or_else(|| panic!("{}: {error}", output.status))["summary"].take();
    assert!(summary.is_object(), "{text}");
    let objects: BTreeMap<String, Value> = lines
        .into_iter()
        .map(|mut line| line["object"].take())
        .map(|object| (object["key"].as_str().unwrap().to_owned(), object))
        .collect();
    assert_eq!(summary["objects"], objects.len());
    (output.status.code().unwrap(), objects, summary)
}

fn outcomes(objects: &BTreeMap<String, Value>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for object in objects.values() {
        *counts.entry(object["outcome"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    counts
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Asks a command with `--json` until `good` says so.
async fn until(config: &ServerConfig, words: &[&str], good: impl Fn(&Value) -> bool) {
    let start = Instant::now();
    loop {
        let line: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let answer: Value = serde_json::from_slice(&config.stele(&line).await.stdout).unwrap();
        if good(&answer) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{words:?} stays at {answer:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn succeed(config: &ServerConfig, words: &[&str]) {
    let output = config.stele(words).await;
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn put(s3: &Client, key: &str, seed: u64, len: usize) {
    s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from(document(seed, len))).send().await.unwrap();
}

/// One object of each kind; the keys.
async fn fill(s3: &Client) -> BTreeSet<String> {
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    let mut keys: BTreeSet<String> = ODD.iter().map(|key| (*key).to_owned()).collect();
    for (n, key) in ODD.iter().enumerate() {
        put(s3, key, n as u64, 2_000 + n).await;
    }
    put(s3, "empty", 0, 0).await;
    for n in 0..4 {
        put(s3, &format!("large/{n}"), 20 + n, 2_500_000).await;
    }
    // More chunks than an inline manifest lists.
    put(s3, "very-large", 31, 70 << 20).await;
    let encrypted = s3.put_object().bucket(BUCKET).key("encrypted").body(ByteStream::from(document(40, 900_000)));
    encrypted
        .server_side_encryption(ServerSideEncryption::Aes256)
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .send()
        .await
        .unwrap();
    multipart(s3, "multipart").await;
    for key in ["empty", "large/0", "large/1", "large/2", "large/3", "very-large", "encrypted", "multipart"] {
        keys.insert(key.to_owned());
    }
    keys
}

async fn multipart(s3: &Client, key: &str) {
    let upload = s3.create_multipart_upload().bucket(BUCKET).key(key).send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let mut parts = Vec::new();
    for n in 1..=2 {
        let body = ByteStream::from(document(50 + n as u64, 5 << 20));
        let part =
            s3.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(n).body(body).send().await.unwrap();
        parts.push(CompletedPart::builder().part_number(n).set_e_tag(part.e_tag).build());
    }
    let whole = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    s3.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id).multipart_upload(whole).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_tells_what_was_verified_and_never_more() {
    let directory = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(directory.path().join("data"), 6);
    let server = config.start().await;
    // The first pass begins by itself a minute after the start, and a busy machine takes longer than that to fill the store.
    succeed(&config, &["scrub", "pause"]).await;
    let s3 = client(&config);
    let keys = fill(&s3).await;

    // Nothing was verified yet, and the small ones ride in the journal.
    let (code, objects, summary) = report(&config, &[BUCKET]).await;
    assert_eq!((code, objects.keys().cloned().collect::<BTreeSet<_>>()), (2, keys.clone()));
    for (key, object) in &objects {
        let expected = if key == "empty" { "ok" } else { "unverified" };
        assert_eq!(object["outcome"], expected, "{object:#}");
        assert!(object["oldest_ms"].is_null(), "{object:#}");
        assert_eq!(number(&object["verified"]), 0);
        let journal = object["journal"].as_array().unwrap();
        // So may the manifest chunk of a large one.
        assert!(!journal.is_empty() || !key.starts_with("odd/"), "{object:#}");
        assert!(journal.iter().all(|entry| entry["copies"].as_array().unwrap().len() == 3), "1+m copies: {object:#}");
    }
    assert!(summary["oldest_ms"].is_null());
    assert!(number(&objects["very-large"]["chunks"]) > 37, "its manifest has chunks of its own");
    assert_eq!(objects["encrypted"]["checksums"][0]["algorithm"], "SHA256");
    assert_eq!(objects["encrypted"]["encrypted"], true);
    assert!(objects["multipart"]["etag"].as_str().unwrap().ends_with("-2"));

    // Sealed and scrubbed, all is well, and nothing was read for the report.
    config.seal().await;
    succeed(&config, &["scrub", "start", "--wait"]).await;
    let (code, objects, summary) = report(&config, &[BUCKET]).await;
    assert_eq!((code, outcomes(&objects)), (0, BTreeMap::from([("ok".to_owned(), keys.len())])));
    let oldest = number(&summary["oldest_ms"]);
    for object in objects.values().filter(|object| object["key"] != "empty") {
        assert!(number(&object["oldest_ms"]) >= oldest && number(&object["shards"]) >= 3, "{object:#}");
        let shards = object["stripes"].as_array().unwrap().iter().flat_map(|s| s["shards"].as_array().unwrap());
        let times: Vec<u64> = shards.map(|shard| number(&shard["verified_ms"])).collect();
        assert_eq!(times.len() as u64, number(&object["shards"]));
        assert_eq!(times.iter().min(), Some(&number(&object["oldest_ms"])));
    }
    parse::formats(&config, directory.path(), BUCKET, &objects).await;
    pages(&config, &objects).await;
    mistakes(&config).await;

    // What is put later is not verified until somebody does.
    put(&s3, "late", 60, 3_000).await;
    let (code, objects, _) = report(&config, &[BUCKET]).await;
    assert_eq!((code, objects["late"]["outcome"].as_str()), (2, Some("unverified")), "{:#}", objects["late"]);
    let (code, objects, _) = report(&config, &["s3://fixity/la", "--verify"]).await;
    assert_eq!((code, objects.len()), (0, 5), "late and four large ones: {objects:#?}");
    assert!(objects.values().all(|object| number(&object["oldest_ms"]) > oldest), "{objects:#?}");

    damaged(&config).await;
    gone(&config).await;
    drop(server);
}

/// A damaged shard is told of with the objects that depend on it, and no others.
async fn damaged(config: &ServerConfig) {
    succeed(config, &["repair", "pause"]).await;
    flip(&config.drive(1));
    let scrubbed = config.stele(&["scrub", "start", "--wait"]).await;
    assert_eq!(scrubbed.status.code(), Some(2), "{}", String::from_utf8_lossy(&scrubbed.stderr));
    let (code, objects, _) = report(config, &[BUCKET]).await;
    let bad: Vec<&Value> = objects.values().filter(|object| object["outcome"] != "ok").collect();
    assert!(code == 2 && !bad.is_empty() && bad.len() < objects.len(), "{:?}", outcomes(&objects));
    for object in &bad {
        assert_eq!(object["outcome"], "degraded", "{object:#}");
        assert_eq!((number(&object["bad"]), &object["slack"]), (1, &Value::from(1)), "{object:#}");
    }
    for (key, object) in objects.iter().filter(|(key, _)| !key.starts_with("odd/")) {
        let output = config.stele(&["object", "locate", &format!("{BUCKET}/{key}")]).await;
        let sick = output.status.code() == Some(2);
        assert_eq!(sick, object["outcome"] == "degraded", "{key}: {object:#}");
    }
    until(config, &["repair", "status"], |answer| !answer["by_slack"].as_array().unwrap().is_empty()).await;
    succeed(config, &["repair", "resume"]).await;
    until(config, &["repair", "status"], |answer| answer["by_slack"].as_array().unwrap().is_empty()).await;
    let (code, objects, _) = report(config, &[BUCKET, "--verify"]).await;
    assert_eq!((code, outcomes(&objects)), (0, BTreeMap::from([("ok".to_owned(), objects.len())])));
}

/// Drives that are gone: what they had is unknown. Never ok, and never lost.
async fn gone(config: &ServerConfig) {
    succeed(config, &["repair", "pause"]).await;
    for (n, worst) in [(0, "degraded"), (2, "degraded"), (3, "unknown")] {
        std::fs::rename(config.drive(n), config.data.join("drives").join(format!("aside-{n}"))).unwrap();
        let failed = |answer: &Value| {
            let drives = answer["drives"].as_array().unwrap();
            drives.iter().any(|d| d["path"].as_str().unwrap().ends_with(&format!("/{n}")) && d["state"] == "failed")
        };
        until(config, &["status"], failed).await;
        let (code, objects, _) = report(config, &[BUCKET]).await;
        assert_eq!(code, 2);
        let found = outcomes(&objects);
        assert!(found.contains_key(worst) && !found.contains_key("lost"), "drive {n}: {found:?}");
        assert!(!found.contains_key("damaged"), "nothing is known to be bad: {found:?}");
        for object in objects.values() {
            let asked = number(&object["unreachable"]) == 0;
            assert_eq!(asked, object["outcome"] == "ok", "{object:#}");
            assert_eq!(number(&object["bad"]), 0, "{object:#}");
        }
    }
}

/// Pages of the admin port: of any size they give the same report.
async fn pages(config: &ServerConfig, objects: &BTreeMap<String, Value>) {
    let token = std::fs::read_to_string(config.data.join("admin-token")).unwrap();
    assert_eq!(get(config.admin(), "/v1/fixity").await.unwrap().0, 401);
    let mut found = BTreeMap::new();
    let (mut after, mut count) = (Value::Null, 0);
    loop {
        let question = serde_json::json!({"bucket": BUCKET, "max": 3, "after": after});
        let (code, answer) = post(config, token.trim(), &question).await;
        assert_eq!(code, 200, "{answer}");
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        count += 1;
        for object in answer["objects"].as_array_mut().unwrap() {
            found.insert(object["key"].as_str().unwrap().to_owned(), object.take());
        }
        after = answer["next"].take();
        if after.is_null() {
            break;
        }
    }
    assert!(count >= objects.len() / 3 && found == *objects, "{count} pages");
    let other = serde_json::json!({"bucket": BUCKET, "after": {"bucket": 999_999, "key": "a", "seq": 1}});
    assert_eq!(post(config, token.trim(), &other).await.0, 409);
    assert_eq!(post(config, "wrong", &other).await.0, 401);
}

async fn post(config: &ServerConfig, token: &str, question: &Value) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let body = question.to_string();
    let mut stream = tokio::net::TcpStream::connect(config.admin()).await.unwrap();
    let head = format!(
        "POST /v1/fixity HTTP/1.0\r\nhost: {}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        config.admin(),
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// One clear line, and 1.
async fn mistakes(config: &ServerConfig) {
    for (scope, line) in [
        ("nothing", "stele: the server answered 404 Not Found: there is no bucket nothing\n"),
        ("fixity/nothing", "stele: no object of bucket fixity has a key that begins with \"nothing\"\n"),
    ] {
        let output = config.stele(&["fixity", scope]).await;
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(1), line));
        assert!(output.stdout.is_empty());
    }
    let output = config.stele(&["fixity", BUCKET, "--format", "csv", "--out", "/nowhere/report.csv"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}
