//! What a bucket may hold, and what comes back of one that keeps versions when there are only drives.
#![allow(clippy::unwrap_used, missing_docs)]

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use bytes::Bytes;
use serde_json::Value;
use std::fs;
use tests::process::{ServerConfig, binary};
use tests::s3::{client, document};

const BUCKET: &str = "archive";

async fn ask(config: &ServerConfig, words: &[&str]) -> Value {
    let line: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    let output = config.stele(&line).await;
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn put(client: &Client, bucket: &str, key: &str, bytes: &Bytes) -> Result<String, String> {
    let body = ByteStream::from(bytes.clone());
    match client.put_object().bucket(bucket).key(key).body(body).send().await {
        Ok(put) => Ok(put.version_id().unwrap_or_default().to_owned()),
        Err(error) => Err(error.into_service_error().code().unwrap_or_default().to_owned()),
    }
}

async fn keep_versions(client: &Client, bucket: &str) {
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    client.put_bucket_versioning().bucket(bucket).versioning_configuration(enabled).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_whatever_way_bytes_come_and_lets_everything_go() {
    let directory = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(directory.path().join("data"), 3);
    let server = config.start().await;
    let s3 = client(&config);
    for bucket in [BUCKET, "other"] {
        s3.create_bucket().bucket(bucket).send().await.unwrap();
    }
    let full = Err("QuotaExceeded".to_owned());
    put(&s3, BUCKET, "a", &document(1, 60_000)).await.unwrap();
    let answer = ask(&config, &["bucket", "quota", BUCKET, "--bytes", "100K", "--objects", "3"]).await;
    assert_eq!((&answer["bytes"], &answer["objects"]), (&60_000.into(), &1.into()), "{answer}");
    assert_eq!((&answer["max_bytes"], &answer["counted"]), (&102_400.into(), &true.into()), "{answer}");
    assert_eq!(put(&s3, BUCKET, "b", &document(2, 60_000)).await, full);
    let copy = s3.copy_object().bucket(BUCKET).key("b").copy_source(format!("{BUCKET}/a")).send().await;
    assert_eq!(copy.unwrap_err().into_service_error().code(), Some("QuotaExceeded"));
    let upload = s3.create_multipart_upload().bucket(BUCKET).key("b").send().await.unwrap();
    let (id, body) = (upload.upload_id().unwrap(), ByteStream::from(document(3, 60_000)));
    let part = s3.upload_part().bucket(BUCKET).key("b").upload_id(id).part_number(1).body(body).send().await;
    assert_eq!(part.unwrap_err().into_service_error().code(), Some("QuotaExceeded"));
    // As much again in its place is no more.
    put(&s3, BUCKET, "a", &document(4, 60_000)).await.unwrap();
    keep_versions(&s3, BUCKET).await;
    assert_eq!(put(&s3, BUCKET, "a", &document(5, 60_000)).await, full, "a version is one more");
    s3.delete_object().bucket(BUCKET).key("a").send().await.unwrap();
    assert_eq!(put(&s3, BUCKET, "a", &document(6, 60_000)).await, full, "it is there below the delete marker");
    s3.delete_object().bucket(BUCKET).key("a").version_id("null").send().await.unwrap();
    put(&s3, BUCKET, "a", &document(7, 60_000)).await.unwrap();

    // All buckets of the account together, and after a start without an index.
    let account = ask(&config, &["account", "quota", "admin", "--bytes", "70000"]).await;
    assert_eq!(account["bytes"], 60_000, "{account}");
    assert_eq!(put(&s3, "other", "a", &document(8, 20_000)).await, full);
    put(&s3, "other", "a", &document(8, 9_000)).await.unwrap();
    assert!(server.stop().await.success());
    fs::remove_dir_all(config.index()).unwrap();
    let server = config.start().await;
    let again = ask(&config, &["account", "quota", "admin"]).await;
    assert_eq!((&again["bytes"], &again["objects"], &again["max_bytes"]), (&69_000.into(), &2.into(), &70_000.into()));
    assert_eq!(put(&s3, "other", "b", &document(9, 2_000)).await, full);
    let lifted = ask(&config, &["account", "quota", "admin", "--bytes", "none"]).await;
    assert_eq!(lifted["max_bytes"], 0);
    put(&s3, "other", "b", &document(9, 2_000)).await.unwrap();
    let missing = config.stele(&["bucket", "quota", "nobody-has-it"]).await;
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(server.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_comes_back_from_the_drives() {
    let directory = tempfile::tempdir().unwrap();
    let config = ServerConfig::new(directory.path().join("data"), 4);
    let server = config.start().await;
    let s3 = client(&config);
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    put(&s3, BUCKET, "a/b", &document(1, 400_000)).await.unwrap();
    keep_versions(&s3, BUCKET).await;
    let second = put(&s3, BUCKET, "a/b", &document(2, 5_000)).await.unwrap();
    put(&s3, BUCKET, "a/b", &document(3, 70_000)).await.unwrap();
    let hidden = put(&s3, BUCKET, "hidden", &document(4, 300)).await.unwrap();
    s3.delete_object().bucket(BUCKET).key("hidden").send().await.unwrap();
    config.seal().await;
    server.kill().await;

    let out = directory.path().join("out");
    let drives: Vec<String> = (0..4).map(|n| config.drive(n).display().to_string()).collect();
    let mut words = vec!["rescue", "--json", "--out", out.to_str().unwrap()];
    drives.iter().for_each(|drive| words.extend(["--drive", drive]));
    let mut rescue = std::process::Command::new(binary());
    rescue.args(&words);
    let output = tokio::task::spawn_blocking(move || rescue.output()).await.unwrap().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let counts = ["rescued", "noncurrent", "delete_markers", "lost"].map(|field| report[field].as_u64().unwrap());
    assert_eq!((output.status.code(), counts), (Some(0), [4, 3, 1, 0]), "{report:#}");
    let read = |path: &str| Bytes::from(fs::read(out.join(path)).unwrap_or_else(|_| panic!("{path}")));
    assert_eq!(read("archive/a/b"), document(3, 70_000));
    assert_eq!(read(&format!("VERSIONS/archive/a/b/{second}")), document(2, 5_000));
    assert_eq!(read("VERSIONS/archive/a/b/null"), document(1, 400_000));
    assert_eq!(read(&format!("VERSIONS/archive/hidden/{hidden}")), document(4, 300));
    assert!(!out.join("archive/hidden").exists(), "what was deleted is not put back");
}
