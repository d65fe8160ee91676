//! Drives added, drained, replaced, removed and back, by the commands of a real server: what was stored is read back
//! byte for byte, meanwhile and after each, over `kill -9` in the middle as well.

#![allow(clippy::unwrap_used, missing_docs)]

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests::process::{ServerConfig, get};
use tests::s3::{client, document};

const BUCKET: &str = "drives";
/// How long a few megabytes may take to move on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

/// A server's objects.
struct Store {
    config: ServerConfig,
    client: Client,
    objects: BTreeMap<String, Bytes>,
    next: u64,
}

impl Store {
    async fn new(directory: &Path, drives: usize) -> (Store, tests::process::ServerProcess) {
        let config = ServerConfig::new(directory.join("data"), drives);
        let server = config.start().await;
        let client = client(&config);
        client.create_bucket().bucket(BUCKET).send().await.unwrap();
        (Store { config, client, objects: BTreeMap::new(), next: 1 }, server)
    }

    /// Objects in the journal and in stripes, and some that were sealed.
    async fn fill(&mut self, name: &str) {
        for n in 0..8 {
            self.put(&format!("{name}/small-{n}"), 1 + n * 3000).await;
        }
        self.config.seal().await;
        for n in 0..5 {
            self.put(&format!("{name}/large-{n}"), 400_000 + n * 500_000).await;
        }
        for n in 0..4 {
            self.put(&format!("{name}/journal-{n}"), 1 + n * 3000).await;
        }
    }

    async fn put(&mut self, key: &str, len: usize) {
        self.next += 1;
        let body = document(self.next, len);
        let put = self.client.put_object().bucket(BUCKET).key(key).body(ByteStream::from(body.clone())).send().await;
        put.unwrap_or_else(|error| panic!("PUT {key}: {error:?}"));
        self.objects.insert(key.to_owned(), body);
    }

    async fn verify(&self, when: &str) {
        for (key, expected) in &self.objects {
            let got = self.client.get_object().bucket(BUCKET).key(key).send().await;
            let got = got.unwrap_or_else(|error| panic!("{when}: {key}: {error:?}")).body.collect().await.unwrap();
            assert!(got.into_bytes() == *expected, "{when}: {key}: other bytes");
        }
    }

    /// Runs `stele drive` with `--json`: its exit code, its answer, and what it said on standard error.
    async fn drive(&self, words: &[&str]) -> (i32, serde_json::Value, String) {
        let line: Vec<&str> = ["drive"].iter().chain(words).chain(&["--json"]).copied().collect();
        let output = self.config.stele(&line).await;
        let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), answer, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    async fn done(&self, words: &[&str]) -> serde_json::Value {
        let (code, answer, error) = self.drive(words).await;
        assert_eq!(code, 0, "{words:?}: {error}");
        answer
    }

    /// Refused with a line that has this word.
    async fn refused(&self, words: &[&str], why: &str) {
        let (code, _, error) = self.drive(words).await;
        assert!(code == 1 && error.contains(why) && error.trim().lines().count() == 1, "{words:?}: {code}: {error}");
    }

    async fn list(&self) -> Vec<serde_json::Value> {
        let (code, answer, error) = self.drive(&["list"]).await;
        assert!(code == 0 || code == 2, "{error}");
        answer["drives"].as_array().unwrap().clone()
    }

    /// The id of the drive in a directory.
    async fn at(&self, path: &Path) -> String {
        let path = path.to_str().unwrap();
        let drives = self.list().await;
        let found = drives.iter().find(|drive| drive["path"] == path && drive["state"] != "removed");
        found.unwrap_or_else(|| panic!("nothing at {path}: {drives:#?}"))["id"].as_str().unwrap().to_owned()
    }

    async fn state(&self, id: &str) -> String {
        let drives = self.list().await;
        let found = drives.iter().find(|drive| drive["id"] == id);
        found.map_or("unknown".to_owned(), |drive| drive["state"].as_str().unwrap().to_owned())
    }

    async fn until(&self, id: &str, state: &str) {
        let begun = Instant::now();
        loop {
            let now = self.state(id).await;
            if now == state {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "drive {id} stays {now} and does not become {state}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// No stripe lacks anything.
    async fn whole(&self) {
        let begun = Instant::now();
        loop {
            let output = self.config.stele(&["repair", "status", "--json"]).await;
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let stripes = answer["by_slack"].as_array().unwrap();
            if stripes.is_empty() && answer["walking"] == false {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{answer:#}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// PUTs, and GETs of what was put, until told to stop; how many of each went well, and all of them did.
    fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let (client, stopped, count) = (self.client.clone(), stop.clone(), done.clone());
        let task = tokio::spawn(async move {
            let mut objects = BTreeMap::new();
            for n in 0..u64::MAX {
                // One at least was done meanwhile.
                if n > 0 && stopped.load(Ordering::Relaxed) {
                    break;
                }
                let len = [900, 30_000, 700_000][usize::try_from(n % 3).unwrap()];
                let (key, body) = (format!("load/{n}"), document(1_000_000 + n, len));
                let put = client.put_object().bucket(BUCKET).key(&key).body(ByteStream::from(body.clone()));
                put.send().await.unwrap_or_else(|error| panic!("PUT {key} under load: {error:?}"));
                objects.insert(key, body);
                let (key, body) = objects.iter().nth(usize::try_from(n * 7919).unwrap() % objects.len()).unwrap();
                let got = client.get_object().bucket(BUCKET).key(key).send().await;
                let got = got.unwrap_or_else(|error| panic!("GET {key} under load: {error:?}"));
                assert!(got.body.collect().await.unwrap().into_bytes() == *body, "{key} under load: other bytes");
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            objects
        });
        Load { stop, done, task }
    }
}

struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<BTreeMap<String, Bytes>>,
}

impl Load {
    async fn end(self, store: &mut Store) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        store.objects.extend(self.task.await.unwrap());
        self.done.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_is_added_drained_under_load_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, server) = Store::new(directory.path(), 6).await;
    store.fill("before").await;
    let new = directory.path().join("disk6");
    let text = |path: &Path| path.to_str().unwrap().to_owned();

    // What is in use, not empty, or inside another.
    let thesis = directory.path().join("documents");
    std::fs::create_dir(&thesis).unwrap();
    std::fs::write(thesis.join("thesis.doc"), "x").unwrap();
    store.refused(&["add", &text(&thesis)], "only a directory that is empty").await;
    store.refused(&["add", &text(&store.config.drive(1))], "already").await;
    store.refused(&["add", &text(&store.config.drive(1).join("segments/more"))], "inside").await;
    store.refused(&["add", &text(&store.config.data)], "inside").await;
    store.refused(&["add", &text(&directory.path().join("not/there"))], "can't be made").await;
    store.refused(&["add", "/proc/stele"], "proc").await;
    store.refused(&["drain", "ffffffff"], "no drive").await;
    assert_eq!(std::fs::read_dir(&thesis).unwrap().count(), 1);

    store.done(&["add", &text(&new), "--wait"]).await;
    store.refused(&["add", &text(&new)], "already").await;
    let id = store.at(&new).await;
    assert_eq!(store.state(&id).await, "serving");
    store.fill("after").await;
    // Each stripe leaves two of the seven out, by chance.
    let mut shards = 0;
    for n in 0..20 {
        shards = store.list().await.iter().find(|drive| drive["id"] == *id).unwrap()["shards"].as_u64().unwrap();
        if shards > 0 {
            break;
        }
        store.put(&format!("after/more-{n}"), 600_000).await;
    }
    assert!(shards > 0, "new data goes there");

    // One that keeps the journal, while others write and read.
    let drives = store.list().await;
    let victim = drives.iter().find(|drive| drive["journal"] == true).unwrap();
    let (old, path) = (victim["id"].as_str().unwrap().to_owned(), victim["path"].as_str().unwrap().to_owned());
    store.refused(&["remove", &old], "drain it first").await;
    let load = store.load();
    store.done(&["drain", &old, "--wait"]).await;
    assert!(load.end(&mut store).await > 0);
    assert_eq!(store.state(&old).await, "drained");
    store.verify("drained").await;
    store.done(&["remove", &old]).await;
    deleted(Path::new(&path)).await;
    store.fill("removed").await;
    store.whole().await;
    store.verify("removed").await;
    assert_eq!(store.list().await.iter().filter(|drive| drive["state"] == "serving").count(), 6);
    metrics(&store.config, &id).await;

    // The command line of the first start says 6 drives, and has said so before: it is history.
    server.kill().await;
    let server = store.config.start().await;
    store.verify("after a restart").await;
    assert_eq!(store.state(&old).await, "removed");
    assert_eq!(store.state(&id).await, "serving");
    server.kill().await;
    std::fs::remove_dir_all(store.config.index()).unwrap();
    let server = store.config.start().await;
    store.verify("without an index").await;
    assert_eq!(store.state(&old).await, "removed");
    assert_eq!(server.stop().await.code(), Some(0));
}

/// Deletes a directory in which a running server may still create files.
async fn deleted(path: &Path) {
    let begun = Instant::now();
    while let Err(error) = std::fs::remove_dir_all(path) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{}: {error}", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn metrics(config: &ServerConfig, drive: &str) {
    let token = std::fs::read_to_string(config.data.join("admin-token")).unwrap();
    let request = format!("/metrics HTTP/1.1\r\nauthorization: Bearer {}\r\nx-rest:", token.trim());
    let (code, page) = get(config.admin(), &request).await.unwrap();
    assert_eq!(code, 200, "{page}");
    // How fast it is, is this machine's business.
    for line in ["stele_drive_errors_total{drive=\"DRIVE\"} 0\n", "stele_drive_slow{drive=\"DRIVE\"} "] {
        assert!(page.contains(&line.replace("DRIVE", drive)), "no {line:?} in\n{page}");
    }
    assert!(page.contains("stele_capacity_free_bytes "), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_drive_is_replaced_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, server) = Store::new(directory.path(), 6).await;
    store.fill("before").await;
    let path = store.config.drive(3);
    let text = path.to_str().unwrap();
    let old = store.at(&path).await;
    store.refused(&["replace", &old, text], "answers").await;
    deleted(&path).await;
    store.until(&old, "failed").await;
    store.done(&["replace", &old, text, "--wait"]).await;
    assert_eq!(store.state(&old).await, "removed");
    let new = store.at(&path).await;
    assert!(new != old && store.state(&new).await == "serving");
    store.whole().await;
    store.verify("replaced").await;
    store.fill("after").await;
    server.kill().await;

    // At full strength: any two others may go.
    for n in [0, 5] {
        std::fs::remove_dir_all(store.config.drive(n)).unwrap();
    }
    let server = store.config.start().await;
    store.verify("with two others gone").await;
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drive_that_is_moved_away_and_back_under_load_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, server) = Store::new(directory.path(), 6).await;
    store.fill("before").await;
    let load = store.load();
    let (path, aside) = (store.config.drive(2), store.config.data.join("drives/aside"));
    let id = store.at(&path).await;
    std::fs::rename(&path, &aside).unwrap();
    store.until(&id, "failed").await;
    store.fill("meanwhile").await;
    std::fs::rename(&aside, &path).unwrap();
    store.until(&id, "serving").await;
    store.whole().await;
    assert!(load.end(&mut store).await > 0);
    store.verify("back").await;
    let (_, listed, _) = store.drive(&["list"]).await;
    assert!(listed["drives"].as_array().unwrap().iter().all(|drive| drive["state"] == "serving"), "{listed:#}");
    server.kill().await;
    let server = store.config.start().await;
    store.verify("after a restart").await;
    assert_eq!(server.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_an_addition_or_a_drain_it_goes_on_with_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, mut server) = Store::new(directory.path(), 6).await;
    store.fill("before").await;
    for round in 0..4u64 {
        let path = directory.path().join(format!("new-{round}"));
        let text = path.to_str().unwrap().to_owned();
        let (config, words) = (store.config.clone(), ["drive", "add", &text, "--wait"].map(str::to_owned));
        let adding = tokio::spawn(async move { config.stele(&words.each_ref().map(String::as_str)).await });
        tokio::time::sleep(Duration::from_millis(15 + round * 25)).await;
        server.kill().await;
        drop(adding.await);
        server = store.config.start().await;
        // Either it is completed by itself, or the same command completes it.
        let begun = Instant::now();
        loop {
            let (code, _, error) = store.drive(&["add", &text, "--wait"]).await;
            if code == 0 || error.contains("already") {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let id = store.at(&path).await;
        store.until(&id, "serving").await;
        store.verify("after an addition").await;
        store.fill(&format!("round-{round}")).await;
    }
    let config = std::fs::read_to_string(store.config.data.join("config")).unwrap();
    assert!(!config.contains("pending"), "nothing is left to be done: {config}");
    assert_eq!(store.list().await.iter().filter(|drive| drive["state"] == "serving").count(), 10);

    for (round, n) in [0usize, 4].into_iter().enumerate() {
        let id = store.at(&store.config.drive(n)).await;
        store.done(&["drain", &id]).await;
        tokio::time::sleep(Duration::from_millis(20 + 250 * round as u64)).await;
        server.kill().await;
        server = store.config.start().await;
        store.verify("in the middle of a drain").await;
        store.until(&id, "drained").await;
        store.verify("after a drain").await;
        store.done(&["remove", &id]).await;
        server.kill().await;
        std::fs::remove_dir_all(store.config.drive(n)).unwrap();
        server = store.config.start().await;
        assert_eq!(store.state(&id).await, "removed");
        store.verify("after a removal").await;
    }
    store.whole().await;
    assert_eq!(store.list().await.iter().filter(|drive| drive["state"] == "serving").count(), 8);
    assert_eq!(server.stop().await.code(), Some(0));
}

/// A replacement of a drive that answered was cut off, and the next start finds that drive merely not mounted: it was removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_replacement_waits_for_a_drive_that_was_not_agreed_to_be_lost() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let (mut store, server) = Store::new(&root, 6).await;
    store.fill("before").await;
    let new = root.join("new");
    store.done(&["add", new.to_str().unwrap(), "--wait"]).await;
    let (path, aside) = (store.config.drive(2), root.join("aside"));
    let (old, id) = (store.at(&path).await, store.at(&new).await);
    server.kill().await;
    // As a version that did not note what was agreed has left it: the new drive is registered, the old one not yet drained.
    let file = store.config.data.join("config");
    let text = std::fs::read_to_string(&file).unwrap();
    let pending = format!("{text}\n[[pending]]\npath = {new:?}\ndrive = \"{id}\"\nreplaces = \"{old}\"\n");
    std::fs::write(&file, pending).unwrap();
    std::fs::rename(&path, &aside).unwrap();
    let server = store.config.start().await;
    // Time enough to have gone on with it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(std::fs::read_to_string(&file).unwrap().contains("pending"));
    let drives = store.list().await;
    let waits = drives.iter().find(|drive| drive["id"] == *old).unwrap();
    assert_eq!(waits["state"], "absent", "{waits}");
    assert!(waits["reason"].as_str().unwrap().contains("waited for"), "{waits}");
    store.verify("while it waits").await;

    // Mounted again, it is emptied by itself.
    std::fs::rename(&aside, &path).unwrap();
    store.until(&old, "drained").await;
    let begun = Instant::now();
    while std::fs::read_to_string(&file).unwrap().contains("pending") {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    store.verify("drained").await;
    assert_eq!(server.stop().await.code(), Some(0));
}
