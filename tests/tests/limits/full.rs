//! A full file system: R14.

use crate::{BUCKET, get, keys, put};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use tests::process::ServerConfig;
use tests::s3::{client, document};

/// A small file system of its own, unmounted when dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    /// `None`, with a word on the terminal, where mounting is not permitted.
    fn new(mib: usize) -> Option<Mounted> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "stele-test"]).arg(directory.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Mounted(directory)),
            Ok(output) => {
                println!(
                    "SKIPPED: no file system can be mounted here: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                None
            }
            Err(error) => {
                println!("SKIPPED: no file system can be mounted here: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "umount");
    }
}

/// Everything on one file system, as on a laptop: drives, index and keys.
#[tokio::test(flavor = "multi_thread")]
async fn r14_a_full_store_says_so_and_can_be_read_deleted_from_and_started_again() {
    let Some(mounted) = Mounted::new(1500) else { return };
    let config = ServerConfig::new(mounted.path().join("data"), 3);
    let server = config.start().await;
    let client = crate::bucket(&config).await;
    let mut stored: BTreeMap<String, Bytes> = BTreeMap::new();
    // Large ones until they are refused, then small ones: those go another way, through the journal.
    let mut refusals = Vec::new();
    for (len, limit) in [(8 << 20, 400), (20 << 10, 60_000)] {
        for n in 0..limit {
            let (key, body) = (format!("{len}/{n:06}"), document(4 * n + 1, len));
            match put(&client, &key, body.clone()).await {
                Ok(()) => drop(stored.insert(key, body)),
                Err(refused) => {
                    refusals.push(refused.unwrap_or_else(|| panic!("no answer\n{}", server.output())));
                    break;
                }
            }
        }
    }
    assert_eq!(refusals.len(), 2, "large and small ones are refused in the end, {} stored", stored.len());
    for refused in &refusals {
        assert_eq!(
            (refused.status, refused.code.as_str()),
            (507, "InsufficientStorage"),
            "{refused:?}\n{}",
            server.output()
        );
    }
    println!("full with {} objects", stored.len());
    delete_some(&client, &mut stored, 12).await;
    verify(&client, &stored, 7).await;
    assert_eq!(server.stop().await.code(), Some(0), "a full server ends cleanly");

    let server = config.start().await;
    verify(&client, &stored, 7).await;
    delete_some(&client, &mut stored, 12).await;
    let again = put(&client, "after", document(2, 8 << 20)).await;
    let again = again.expect_err("there still is no room").unwrap();
    assert_eq!((again.status, again.code.as_str()), (507, "InsufficientStorage"));
    server.kill().await;
    let server = config.start().await;
    verify(&client, &stored, 1).await;
    drop(server);
}

async fn delete_some(client: &aws_sdk_s3::Client, stored: &mut BTreeMap<String, Bytes>, count: usize) {
    for _ in 0..count {
        let (key, _) = stored.pop_first().unwrap();
        let deleted = client.delete_object().bucket(BUCKET).key(&key).send().await;
        deleted.unwrap_or_else(|error| panic!("DELETE works on a full store: {error:?}"));
        assert_eq!(get(client, &key).await.unwrap_err(), "NoSuchKey");
    }
}

/// Every `step`th object.
async fn verify(client: &aws_sdk_s3::Client, stored: &BTreeMap<String, Bytes>, step: usize) {
    for (key, body) in stored.iter().step_by(step) {
        assert!(get(client, key).await.unwrap_or_else(|code| panic!("{key}: {code}")) == *body, "{key}");
    }
    assert!(!keys(client, "").await.is_empty());
}

/// The small file systems are there for a reason: the reserve must not be taken from a nearly full disk of others.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_without_room_says_so() {
    let Some(mounted) = Mounted::new(4) else { return };
    let config = ServerConfig::new(mounted.path().join("data"), 3);
    let mut server = config.spawn();
    // It may start (and then refuse writes) or not, but it says why in words.
    if let Err(failed) = server.readable().await {
        assert!(failed.status.is_some_and(|status| status.code() == Some(1)), "{failed}");
        assert!(!failed.output.contains("panicked"), "{failed}");
        assert!(failed.output.to_lowercase().contains("space") || failed.output.contains("full"), "{failed}");
        return;
    }
    let client = client(&config);
    let refused =
        client.create_bucket().bucket(BUCKET).send().await.map(drop).map_err(|error| tests::s3::refused(&error));
    if refused.is_ok() {
        let refused = put(&client, "a", document(1, 3 << 20)).await.expect_err("there is no room").unwrap();
        assert!([507, 503].contains(&refused.status), "{refused:?}");
    }
}
