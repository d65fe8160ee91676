//! What an operator sees of keeping, through the commands and the admin port of a real server: scrub finds a flipped bit,
//! repair mends it, and exit codes, JSON and metrics say so.

#![allow(clippy::unwrap_used, missing_docs)]

use aws_sdk_s3::primitives::ByteStream;
use std::time::{Duration, Instant};
use tests::process::{ServerConfig, exchange, flip, get};
use tests::s3::{client, document};

/// How long scrub and repair may take over a few megabytes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a command with `--json`; its exit code and answer.
async fn ask(config: &ServerConfig, words: &[&str]) -> (i32, serde_json::Value) {
    let line: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    let output = config.stele(&line).await;
    let answer = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{words:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), answer)
}

/// Asks until `good` says so.
async fn until(
    config: &ServerConfig,
    words: &[&str],
    good: impl Fn(i32, &serde_json::Value) -> bool,
) -> serde_json::Value {
    let start = Instant::now();
    loop {
        let (code, answer) = ask(config, words).await;
        if good(code, &answer) {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{words:?} stays at {code}: {answer:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrub_and_repair_as_an_operator_sees_them() {
    let directory = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(directory.path().join("data"), 6);
    let server = config.start().await;
    let s3 = client(&config);
    s3.create_bucket().bucket("operator").send().await.unwrap();
    // Of odd numbers: they don't compress, so that what any of them leaves on a drive is long enough for [`flip`].
    let bodies: Vec<_> = (0..6).map(|n| document(2 * n + 1, 2_000_000)).collect();
    for (n, body) in bodies.iter().enumerate() {
        s3.put_object()
            .bucket("operator")
            .key(n.to_string())
            .body(ByteStream::from(body.clone()))
            .send()
            .await
            .unwrap();
    }

    // A whole pass over drives that are well.
    let (code, answer) = ask(&config, &["scrub", "start"]).await;
    assert_eq!((code, answer["drives"].as_array().unwrap().len()), (0, 6), "{answer}");
    let passed = |answer: &serde_json::Value| {
        let drives = answer["drives"].as_array().unwrap();
        drives.iter().map(|drive| number(&drive["last_pass_ms"])).min().unwrap_or(0)
    };
    let answer = until(&config, &["scrub", "status"], |code, answer| code == 0 && passed(answer) > 0).await;
    let shards: u64 = answer["drives"].as_array().unwrap().iter().map(|drive| number(&drive["shards"])).sum();
    assert!(shards > 0, "{answer:#}");
    assert_eq!(ask(&config, &["scrub", "report"]).await.0, 0);
    until(&config, &["repair", "status"], |code, _| code == 0).await;
    assert_eq!(ask(&config, &["repair", "plan"]).await.0, 0);

    // Paused, it says so, and goes on when told.
    let (_, answer) = ask(&config, &["scrub", "pause"]).await;
    assert!(answer["drives"].as_array().unwrap().iter().all(|drive| drive["state"] == "paused"), "{answer:#}");
    let (_, answer) = ask(&config, &["scrub", "resume"]).await;
    assert!(answer["drives"].as_array().unwrap().iter().all(|drive| drive["state"] != "paused"), "{answer:#}");

    // Repair waits, so that what scrub finds can be seen.
    assert_eq!(ask(&config, &["repair", "pause"]).await.1["paused"], true);
    flip(&config.drive(1));
    ask(&config, &["scrub", "start"]).await;
    let report = until(&config, &["scrub", "report", "--objects"], |code, _| code == 2).await;
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "one flip, one finding: {report:#}");
    assert_eq!(ask(&config, &["scrub", "status"]).await.0, 2);
    let sick = until(&config, &["repair", "status"], |code, _| code == 2).await;
    assert_eq!(sick["by_slack"].as_array().unwrap().len(), 1, "{sick:#}");

    // What depends on it: the objects that say so themselves.
    let sick_ones = sick_objects(&config, "verify").await;
    assert!(sick_ones > 0);
    assert_eq!(number(&findings[0]["object_count"]), sick_ones as u64, "{report:#}");
    assert_eq!(findings[0]["objects"].as_array().unwrap().len(), sick_ones, "{report:#}");
    assert!(sick_objects(&config, "locate").await > 0);

    metrics(&config).await;

    // Told to go on, it mends, and all is well again.
    assert_eq!(ask(&config, &["repair", "resume"]).await.1["paused"], false);
    until(&config, &["scrub", "report"], |code, _| code == 0).await;
    let well = until(&config, &["repair", "status"], |code, _| code == 0).await;
    assert_eq!(number(&well["rebuilt_shards"]), 1, "{well:#}");
    for (n, body) in bodies.iter().enumerate() {
        let got = s3.get_object().bucket("operator").key(n.to_string()).send().await.unwrap();
        assert!(got.body.collect().await.unwrap().into_bytes() == *body, "object {n}");
    }

    assert_eq!((sick_objects(&config, "verify").await, sick_objects(&config, "locate").await), (0, 0));
    let nothing = config.stele(&["object", "locate", "operator/nothing"]).await;
    assert_eq!(nothing.status.code(), Some(1));

    // A command line that is wrong is not taken for a finding.
    let wrong = config.stele(&["repair", "staus"]).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&wrong.stderr).lines().count(), 1, "{wrong:?}");

    // What deletes can be stopped.
    until(&config, &["reclaim", "status"], |code, answer| code == 0 && answer["held"].is_null()).await;
    assert!(ask(&config, &["reclaim", "hold"]).await.1["held"].is_string());
    assert_eq!(ask(&config, &["reclaim", "status"]).await.0, 2);
    assert!(ask(&config, &["reclaim", "release"]).await.1["held"].is_null());

    // The one screen, for people.
    let screen = config.stele(&["status"]).await;
    let text = String::from_utf8_lossy(&screen.stdout).into_owned();
    assert!(screen.status.success(), "{text}");
    for word in ["serving", "drive ", "repair: 0 stripes", "scrub: ", "shards verified"] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    assert_eq!(server.stop().await.code(), Some(0));
}

/// How many of the objects have a shard that is not good.
async fn sick_objects(config: &ServerConfig, word: &str) -> usize {
    let mut sick = 0;
    for n in 0..6 {
        let (code, answer) = ask(config, &["object", word, &format!("operator/{n}")]).await;
        let shards: Vec<_> =
            answer["stripes"].as_array().unwrap().iter().flat_map(|s| s["shards"].as_array().unwrap()).collect();
        assert!(!shards.is_empty() && number(&answer["size"]) == 2_000_000, "{answer:#}");
        assert_eq!(code == 0, answer["good"] == true);
        sick += usize::from(code == 2);
    }
    sick
}

/// Metrics want the token, and have what was found.
async fn metrics(config: &ServerConfig) {
    assert_eq!(get(config.admin(), "/metrics").await.unwrap().0, 401);
    assert_eq!(get(config.admin(), "/v1/scrub").await.unwrap().0, 401);
    let (code, document) = get(config.admin(), "/v1/openapi.json").await.unwrap();
    assert!(code == 200 && document.contains("\"openapi\""));
    let token = std::fs::read_to_string(config.data.join("admin-token")).unwrap();
    let (code, page) = exchange(config.admin(), "GET", "/metrics", Some(token.trim()), "").await.unwrap();
    assert_eq!(code, 200, "{page}");
    for line in [
        "stele_serving 1\n",
        "stele_drives{state=\"healthy\"} 6\n",
        "stele_repair_paused 1\n",
        "# TYPE stele_scrub_findings gauge\n",
    ] {
        assert!(page.contains(line), "no {line:?} in\n{page}");
    }
    let found: f64 = page
        .lines()
        .filter(|line| line.starts_with("stele_scrub_findings{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(found, 1.0, "{page}");
    assert!(page.lines().any(|line| line.starts_with("stele_stripes_wounded{slack=\"1\"} ")), "{page}");
}
