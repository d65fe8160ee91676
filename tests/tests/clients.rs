//! Programs that people use, against a running server: the AWS command line, boto3, s3cmd, rclone, restic, s4cmd and the minio
//! package for Python.
//!
//! A program that is not installed is skipped, and the test says so; with CI=true it fails instead. `make clients`
//! installs them.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use tests::process::{ACCESS_KEY, SECRET_KEY, ServerConfig};

/// Whether a command succeeds, which says that a client is there.
fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn script(name: &str) -> PathBuf {
    tests::process::package().join("clients").join(name)
}

/// Runs a script of `tests/clients` against a new server.
async fn run(name: &'static str, there: bool) {
    if !there {
        let required = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!required, "{name}: the client is not installed, and CI=true (make clients)");
        println!("{name}: skipped, the client is not installed (make clients)");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let work = dir.path().join("work");
    std::fs::create_dir(&work).expect("a directory");
    let config = ServerConfig::new(dir.path().join("data"), 4);
    let server = config.start().await;
    let mut command = Command::new(script(name));
    command
        .env("STELE_ENDPOINT", config.endpoint())
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_REGION", "us-east-1")
        .env("WORK", &work)
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE")
        .stdin(Stdio::null());
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("the script runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}:\n{text}\nserver:\n{}", server.output());
    assert!(server.stop().await.success(), "the server ends cleanly");
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_command_line() {
    run("aws.sh", works("aws", &["--version"]) && works("curl", &["--version"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3() {
    run("boto3_client.py", works("python3", &["-c", "import boto3"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_iam() {
    run("boto3_iam.py", works("python3", &["-c", "import boto3"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3cmd() {
    run("s3cmd.sh", works("s3cmd", &["--version"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone() {
    run("rclone.sh", works("rclone", &["version"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restic() {
    run("restic.sh", works("restic", &["version"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s4cmd() {
    run("s4cmd.sh", works("s4cmd", &["--version"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_package() {
    run("minio_client.py", works("python3", &["-c", "import minio"])).await;
}
