//! The real s3cmd as it is after `s3cmd --configure`, with its default region. Nothing is tested where it is not installed
//! (the tests of all client programs install it first).

use crate::server;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3cmd_works_with_its_default_region() {
    if Command::new("s3cmd").arg("--version").output().await.is_err() {
        println!("s3cmd is not installed");
        return;
    }
    let server = server().await;
    let (dir, host) = (tempfile::tempdir().unwrap(), server.host());
    let config = dir.path().join("config");
    let text = format!(
        "[default]\naccess_key = AKalice\nsecret_key = secret-of-alice\nhost_base = {host}\nhost_bucket = {host}\n\
         use_https = False\nbucket_location = US\n"
    );
    std::fs::write(&config, text).unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"cut in stone").unwrap();
    let (file, back) = (file.to_str().unwrap(), dir.path().join("back"));
    for (arguments, expected) in [
        (vec!["ls"], "s3://docs"),
        (vec!["mb", "s3://other"], "created"),
        (vec!["ls", "s3://docs"], "s3://docs/a"),
        (vec!["put", file, "s3://other/file"], ""),
        (vec!["info", "s3://other/file"], "12"),
        (vec!["get", "s3://other/file", back.to_str().unwrap()], ""),
        (vec!["del", "s3://other/file"], ""),
        (vec!["rb", "s3://other"], ""),
    ] {
        let mut command = Command::new("s3cmd");
        command.arg("--config").arg(&config).arg("--no-progress").args(&arguments).kill_on_drop(true);
        let ran =
            tokio::time::timeout(std::time::Duration::from_secs(60), command.output()).await.expect("an end").unwrap();
        let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        assert!(ran.status.success() && said.contains(expected), "{arguments:?}: {said}");
    }
    assert_eq!(std::fs::read(back).unwrap(), b"cut in stone");
}
