//! A server and what it must hold: objects in stripes, sealed ones, and ones that are in the journal only.

use crate::harm::{Harm, aside};
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tests::process::{ServerConfig, ServerProcess};
use tests::s3::{Refused, client, document, refused};

const BUCKET: &str = "degraded";

/// How a write ended.
#[derive(Debug)]
pub enum Outcome {
    Done,
    /// With this status, and an error that says nothing of the inside.
    Refused(u16),
    NoAnswer,
}

/// A drive in `stele status`.
#[derive(Debug)]
pub struct DriveLine {
    pub path: PathBuf,
    pub state: String,
    pub journal: bool,
}

pub struct Store {
    pub config: ServerConfig,
    client: Client,
    objects: BTreeMap<String, Bytes>,
    /// PUTs that were refused while drives failed. Those may still have happened: recovery decides (an entry that reached
    /// some members of the ensemble is no different from one whose answer was lost).
    unsure: BTreeMap<String, Vec<Bytes>>,
    next: u64,
    directory: tempfile::TempDir,
    drives: usize,
    last_look: SystemTime,
}

impl Store {
    pub fn new(drives: usize) -> Store {
        let directory = tempfile::tempdir().unwrap();
        let config = ServerConfig::new(directory.path().join("data"), drives);
        let client = client(&config);
        Store {
            config,
            client,
            objects: BTreeMap::new(),
            unsure: BTreeMap::new(),
            next: 1,
            directory,
            drives,
            last_look: SystemTime::now(),
        }
    }

    pub async fn start(&mut self) -> ServerProcess {
        self.last_look = SystemTime::now();
        self.config.start().await
    }

    /// A stopped server of another cluster, if the harm needs one.
    pub async fn other_cluster(&self, harm: Harm) -> Option<ServerConfig> {
        if harm != Harm::Foreign {
            return None;
        }
        let config = ServerConfig::new(self.directory.path().join("other"), self.drives);
        let server = config.start().await;
        assert_eq!(server.stop().await.code(), Some(0));
        Some(config)
    }

    /// A drive of another cluster is left as it is.
    pub fn foreign_is_untouched(&self, harm: Harm, victims: &[usize]) {
        if harm != Harm::Foreign {
            return;
        }
        for n in victims {
            let (theirs, ours) = (self.config.drive(*n), aside(&self.config, *n));
            let identity = |drive: &Path| std::fs::read(drive.join("identity")).unwrap();
            assert_ne!(identity(&theirs), identity(&ours), "drive {n} still is the other cluster's");
            // Only its first start has written there.
            let newest = newest_file(&theirs);
            assert!(newest < self.last_look, "drive {n} of the other cluster was written to");
        }
    }

    /// Objects of all three kinds.
    pub async fn fill(&mut self) {
        self.client.create_bucket().bucket(BUCKET).send().await.unwrap();
        for n in 0..24 {
            self.put(&format!("sealed/{n}"), 1 + n * 1700).await;
        }
        self.put("sealed/empty", 0).await;
        self.config.seal().await;
        for n in 0..8 {
            self.put(&format!("stripe/{n}"), 400_000 + n * 300_000).await;
        }
        for n in 0..12 {
            self.put(&format!("journal/{n}"), 1 + n * 2500).await;
        }
        self.verify("when all is well").await;
    }

    /// New objects, overwritten ones, and a deleted one.
    pub async fn put_more(&mut self, when: &str) {
        let name = when.replace(' ', "-");
        for n in 0..6 {
            self.put(&format!("more/{name}/{n}"), 1 + n * 9000).await;
        }
        for n in 0..3 {
            self.put(&format!("more/{name}/large-{n}"), 300_000 + n * 900_000).await;
        }
        for key in ["sealed/3", "stripe/1", "journal/2"] {
            self.put(key, 5000).await;
        }
        let key = format!("more/{name}/0");
        self.client.delete_object().bucket(BUCKET).key(&key).send().await.unwrap();
        self.objects.remove(&key);
    }

    async fn put(&mut self, key: &str, len: usize) {
        let done = self.try_put(key, len).await;
        assert!(matches!(done, Outcome::Done), "PUT {key}: {done:?}");
    }

    pub async fn try_put(&mut self, key: &str, len: usize) -> Outcome {
        self.next += 1;
        let body = document(self.next, len);
        let put = self.client.put_object().bucket(BUCKET).key(key).body(ByteStream::from(body.clone()));
        let put = put.send().await;
        if put.is_ok() {
            self.objects.insert(key.to_owned(), body);
            self.unsure.remove(key);
        } else {
            assert!(!self.objects.contains_key(key), "refused writes go to keys of their own");
            self.unsure.entry(key.to_owned()).or_default().push(body);
        }
        self.outcome(put)
    }

    pub async fn try_delete(&mut self, key: &str) -> Outcome {
        let deleted = self.client.delete_object().bucket(BUCKET).key(key).send().await;
        self.outcome(deleted)
    }

    fn outcome<T, E: ProvideErrorMetadata>(&self, done: Result<T, SdkError<E>>) -> Outcome {
        match done.map_err(|error| refused(&error)) {
            Ok(_) => Outcome::Done,
            Err(None) => Outcome::NoAnswer,
            Err(Some(refused)) => {
                self.check_error(&refused);
                Outcome::Refused(refused.status)
            }
        }
    }

    /// An error for clients: a code that S3 has for it, and nothing of the inside.
    fn check_error(&self, refused: &Refused) {
        let known = ["InternalError", "ServiceUnavailable", "SlowDown"];
        assert!(known.contains(&refused.code.as_str()), "{refused:?}");
        let message = refused.message.to_lowercase();
        for inside in ["/", "drive", "shard", "stripe", "journal", "chunk", "panic", "os error"] {
            assert!(!message.contains(inside), "the message tells of the inside: {refused:?}");
        }
    }

    /// Every object, whole and in part, and the listing.
    pub async fn verify(&self, when: &str) {
        for (key, expected) in &self.objects {
            let got = self.get(key, None).await;
            let got = got.unwrap_or_else(|failed| panic!("{when}: {key}: {failed:?}"));
            assert!(got == expected, "{when}: {key}: other bytes");
            if expected.len() > 100_000 {
                let (from, to) = (expected.len() / 3, expected.len() / 3 + 70_000);
                let got = self.get(key, Some((from, to))).await;
                let got = got.unwrap_or_else(|failed| panic!("{when}: {key} in part: {failed:?}"));
                assert!(got == expected[from..=to], "{when}: {key} in part: other bytes");
            }
        }
        for (key, possible) in &self.unsure {
            match self.get(key, None).await {
                Ok(got) => assert!(possible.contains(&got), "{when}: {key}: neither absent nor one that was tried"),
                Err(refused) => {
                    assert_eq!(refused.map(|refused| refused.code).as_deref(), Some("NoSuchKey"), "{when}: {key}")
                }
            }
        }
        self.verify_listing(when).await;
    }

    async fn verify_listing(&self, when: &str) {
        let listed =
            self.client.list_objects_v2().bucket(BUCKET).send().await.unwrap_or_else(|e| panic!("{when}: {e:?}"));
        let keys: Vec<&str> = listed.contents().iter().filter_map(|object| object.key()).collect();
        let keys: Vec<&str> = keys.into_iter().filter(|key| !self.unsure.contains_key(*key)).collect();
        let expected: Vec<&str> = self.objects.keys().map(String::as_str).collect();
        assert_eq!(keys, expected, "{when}: the listing");
    }

    /// Every object is read right or refused; how many of each.
    pub async fn read_or_refused(&self, when: &str) -> (usize, usize) {
        let (mut read, mut not) = (0, 0);
        for (key, expected) in &self.objects {
            match self.get(key, None).await {
                Ok(got) => {
                    assert!(got == expected, "{when}: {key}: other bytes");
                    read += 1;
                }
                Err(Some(refused)) => {
                    self.check_error(&refused);
                    not += 1;
                }
                // The answer had begun, and was cut short: the client sees fewer bytes than were announced.
                Err(None) => not += 1,
            }
        }
        self.verify_listing(when).await;
        (read, not)
    }

    async fn get(&self, key: &str, range: Option<(usize, usize)>) -> Result<Bytes, Option<Refused>> {
        let get = self.client.get_object().bucket(BUCKET).key(key);
        let get = get.set_range(range.map(|(from, to)| format!("bytes={from}-{to}")));
        let got = get.send().await.map_err(|error| refused(&error))?;
        Ok(got.body.collect().await.map_err(|_| None)?.into_bytes())
    }

    pub async fn status(&self) -> Vec<DriveLine> {
        let output = self.config.stele(&["status", "--json"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let drives = status["drives"].as_array().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        drives
            .iter()
            .map(|drive| DriveLine {
                path: text(&drive["path"]).into(),
                state: text(&drive["state"]),
                journal: drive["journal"].as_bool().unwrap(),
            })
            .collect()
    }

    /// The numbers of the drives that carry the journal.
    pub async fn journal_drives(&self) -> Vec<usize> {
        let status = self.status().await;
        let number = |line: &DriveLine| (0..self.drives).find(|n| same(&self.config.drive(*n), &line.path));
        let drives: Vec<usize> = status.iter().filter(|line| line.journal).filter_map(number).collect();
        assert_eq!(drives.len(), 3, "the journal is on 1+m drives: {status:?}");
        drives
    }

    /// Whether the drive got data since the last start.
    pub fn writes_to(&self, n: usize) -> bool {
        newest_file(&self.config.drive(n).join("segments")) > self.last_look
    }
}

fn same(a: &Path, b: &Path) -> bool {
    a.canonicalize().ok() == b.canonicalize().ok()
}

fn newest_file(directory: &Path) -> SystemTime {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let time = match entry.metadata() {
            // A running server has removed or renamed it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Ok(metadata) if metadata.is_dir() => newest_file(&path),
            metadata => metadata.unwrap().modified().unwrap(),
        };
        newest = newest.max(time);
    }
    newest
}
