//! `stele serve`: the same data directory under one release and the next, back, and forth for good.

use crate::media::Found;
use crate::{NAMED_LEVEL, TOO_OLD, one_line};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ServerSideEncryption;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tests::process::{ServerConfig, ServerProcess, binary, next_binary};
use tests::s3::{client, document};

const BUCKET: &str = "archive";
const DRIVES: usize = 4;
/// Lengths that ride in the journal and lengths that go into stripes.
const LENGTHS: [usize; 5] = [1, 3_000, 40_000, 300_000, 2_500_000];

struct Store {
    old: ServerConfig,
    next: ServerConfig,
    s3: Client,
    objects: BTreeMap<String, Bytes>,
    directory: tempfile::TempDir,
}

impl Store {
    fn new() -> Store {
        let directory = tempfile::tempdir().unwrap();
        let old = ServerConfig::new(directory.path().join("data"), DRIVES).of(binary());
        let next = old.of(next_binary());
        let s3 = client(&old);
        Store { old, next, s3, objects: BTreeMap::new(), directory }
    }

    /// Objects of every length, encrypted ones too; one of each takes the place of one from before.
    async fn put_some(&mut self, when: &str) {
        for (at, len) in LENGTHS.into_iter().enumerate() {
            for name in [format!("{when}/{at}"), format!("again/{at}"), format!("{when}/{at}-encrypted")] {
                let body = document((self.objects.len() * 31 + at + when.len() * 1000) as u64, len + when.len());
                let encryption = name.ends_with("encrypted").then_some(ServerSideEncryption::Aes256);
                let put = self.s3.put_object().bucket(BUCKET).key(&name).set_server_side_encryption(encryption);
                put.body(ByteStream::from(body.clone())).send().await.unwrap();
                self.objects.insert(name, body);
            }
        }
    }

    async fn all_are_there(&self, when: &str) {
        for (key, body) in &self.objects {
            let got = self.s3.get_object().bucket(BUCKET).key(key).send().await;
            let got = got.unwrap_or_else(|error| panic!("{key} {when}: {error:?}"));
            assert!(got.body.collect().await.unwrap().into_bytes() == *body, "{key} {when}");
        }
    }

    fn drives(&self) -> Vec<PathBuf> {
        (0..DRIVES).map(|n| self.old.drive(n)).collect()
    }

    async fn level(&self) -> u64 {
        let output = self.next.stele(&["upgrade", "status", "--json"]).await;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        answer["level"].as_u64().unwrap_or_else(|| panic!("no level: {output:?}"))
    }

    /// `stele rescue` of a build, to a directory of its own.
    async fn rescue(&self, config: &ServerConfig, to: &str) -> (Output, PathBuf) {
        let (out, key) = (self.directory.path().join(to), config.data.join("keys/kek"));
        let mut command = std::process::Command::new(&config.binary);
        command.arg("rescue").arg("--out").arg(&out).arg("--key-file").arg(key);
        for drive in self.drives() {
            command.arg("--drive").arg(drive);
        }
        let run = tokio::task::spawn_blocking(move || command.output());
        (run.await.unwrap().unwrap(), out)
    }
}

/// Every file below a directory: length and content.
fn picture(directory: &Path) -> BTreeMap<PathBuf, (u64, blake3::Hash)> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => {
                    let bytes = fs::read(&path).unwrap();
                    files.insert(path, (bytes.len() as u64, blake3::hash(&bytes)));
                }
            }
        }
    }
    files
}

async fn stopped(server: ServerProcess) {
    let status = server.stop().await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_goes_to_the_next_release_and_back_until_the_upgrade_is_finished() {
    let mut store = Store::new();
    let server = store.old.start().await;
    store.s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    store.put_some("first").await;
    stopped(server).await;

    // Forth and back: what one wrote the other reads, from the journal and from stripes.
    for (config, when) in [(&store.next.clone(), "next"), (&store.old.clone(), "back"), (&store.next.clone(), "forth")]
    {
        let server = config.start().await;
        store.all_are_there(when).await;
        store.put_some(when).await;
        config.seal().await;
        store.all_are_there(when).await;
        if when == "back" {
            // Not even what a kill leaves is anything that the other does not know.
            server.kill().await;
        } else {
            stopped(server).await;
        }
        assert_eq!(Found::below(&store.drives()), Found::default(), "{when}");
    }

    let server = store.next.start().await;
    let before = store.level().await;
    let finished = store.next.stele(&["upgrade", "finish"]).await;
    assert!(finished.status.success(), "{finished:?}");
    assert_eq!(store.level().await, before + 1);
    // Once more changes nothing.
    assert!(store.next.stele(&["upgrade", "finish"]).await.status.success());
    store.put_some("finished").await;
    store.all_are_there("finished").await;
    stopped(server).await;
    let found = Found::below(&store.drives());
    assert!(found.frames > 0 && found.effects > 0, "{found:?}");

    the_old_release_is_refused(&store).await;

    // It is as it was for the next release, also when the index must be rebuilt.
    let rebuilt = store.next.stele(&["rebuild-index"]).await;
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let server = store.next.start().await;
    store.all_are_there("rebuilt").await;
    assert_eq!(store.level().await, before + 1);
    stopped(server).await;
    let (rescued, _) = store.rescue(&store.next, "rescued").await;
    assert!(rescued.status.success(), "{rescued:?}");
}

/// The start, the rebuild and the rescue of the old release say what is to be done, and do nothing.
async fn the_old_release_is_refused(store: &Store) {
    let before = picture(&store.old.data.join("drives"));
    let refused = store.old.try_start().await.unwrap_err();
    let status = refused.status.unwrap_or_else(|| panic!("it runs on: {refused}"));
    let said = one_line(&refused.output);
    println!("serve: {status}: {said}");
    assert_eq!(status.code(), Some(TOO_OLD));
    assert!(NAMED_LEVEL.iter().all(|words| said.contains(words)), "{said}");

    let rebuilt = store.old.stele(&["rebuild-index"]).await;
    let said = one_line(&String::from_utf8_lossy(&rebuilt.stderr));
    println!("rebuild-index: {}: {said}", rebuilt.status);
    assert_eq!(rebuilt.status.code(), Some(TOO_OLD));
    assert!(NAMED_LEVEL.iter().all(|words| said.contains(words)), "{said}");
    let indexes = || fs::read_dir(store.old.index()).unwrap().map(|entry| entry.unwrap().file_name());
    let aside = indexes().filter(|name| name.to_string_lossy().starts_with("metadata.")).count();
    assert!(aside == 0 && store.old.index().join("node").exists(), "an index was thrown away");

    let (rescued, out) = store.rescue(&store.old, "not-rescued").await;
    let said = one_line(&String::from_utf8_lossy(&rescued.stderr));
    println!("rescue: {}: {said}", rescued.status);
    assert!(NAMED_LEVEL.iter().all(|words| said.contains(words)), "{said}");
    assert_eq!(rescued.status.code(), Some(TOO_OLD));
    let came = fs::read_dir(out).map(|entries| entries.count()).unwrap_or(0);
    assert_eq!(came, 0, "objects were written");

    // Without an index, too: what is on the drives is no damage.
    let (index, kept) = (store.old.index(), store.directory.path().join("kept"));
    fs::rename(&index, &kept).unwrap();
    let refused = store.old.try_start().await.unwrap_err();
    let status = refused.status.unwrap_or_else(|| panic!("it runs on: {refused}"));
    let said = one_line(&refused.output);
    println!("serve without an index: {status}: {said}");
    assert!(said.contains("knows levels up to 4") && said.contains("or a later release"), "{said}");
    assert_eq!(status.code(), Some(TOO_OLD));
    fs::remove_dir_all(&index).unwrap();
    fs::rename(&kept, &index).unwrap();
    assert_eq!(picture(&store.old.data.join("drives")), before, "a drive was written to");
}
