//! Replication between two servers in processes: a bucket here, its copy there, and either of them killed meanwhile.
#![allow(clippy::unwrap_used, missing_docs)]

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, CompletedMultipartUpload, CompletedPart, ObjectLockConfiguration, ObjectLockEnabled,
    ObjectLockLegalHoldStatus, Tag, Tagging, VersioningConfiguration,
};
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::process::{ServerConfig, ServerProcess};
use tests::s3::{Random, client, client_of, document};

/// How long a queue may take to be empty on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// The account on the far side: its secret must be nowhere on the near side.
const FAR_KEY: &str = "STELEFARACCESSKEY001";
const FAR_SECRET: &str = "stele-far-secret-key-76543210fedcba98";
const NEAR: &str = "near-bucket";
const FAR: &str = "far-bucket";

/// A server and its copy.
struct Sites {
    near: ServerConfig,
    far: ServerConfig,
    near_s3: Client,
    far_s3: Client,
    _dirs: [TempDir; 2],
}

impl Sites {
    async fn start() -> (Sites, ServerProcess, ServerProcess) {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let near = ServerConfig::new(dirs[0].path().join("data"), 3);
        let mut far = ServerConfig::new(dirs[1].path().join("data"), 2);
        far.environment = vec![
            ("STELE_ACCESS_KEY".to_owned(), FAR_KEY.to_owned()),
            ("STELE_SECRET_KEY".to_owned(), FAR_SECRET.to_owned()),
        ];
        let processes = (near.start().await, far.start().await);
        let (near_s3, far_s3) = (client(&near), client_of(&far, FAR_KEY, FAR_SECRET));
        near_s3.create_bucket().bucket(NEAR).send().await.unwrap();
        far_s3.create_bucket().bucket(FAR).send().await.unwrap();
        (Sites { near, far, near_s3, far_s3, _dirs: dirs }, processes.0, processes.1)
    }

    async fn stele(&self, arguments: &[&str]) -> Output {
        let mut command = self.near.command(&[&["replication"], arguments].concat());
        command.env("STELE_REPLICATION_SECRET_KEY", FAR_SECRET);
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }

    async fn set(&self, more: &[&str]) {
        let endpoint = self.far.endpoint();
        let arguments = ["set", NEAR, "--endpoint", &endpoint, "--target", FAR, "--access-key", FAR_KEY];
        let set = self.stele(&[&arguments, more].concat()).await;
        assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    }

    async fn rule(&self) -> Value {
        let status = self.stele(&["status", "--json"]).await;
        let answer: Value = serde_json::from_slice(&status.stdout)
            .unwrap_or_else(|_| panic!("no status: {}", String::from_utf8_lossy(&status.stderr)));
        answer["rules"][0].clone()
    }

    /// Waits until the rule is as it should be.
    async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let rule = self.rule().await;
            if is(&rule) {
                return rule;
            }
            assert!(start.elapsed() < PATIENCE, "not {what}: {rule:#}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn copied(&self) -> Value {
        self.until("copied", |rule| rule["walked"] == true && rule["waiting"] == 0 && rule["state"] == "idle").await
    }

    /// Exit code and what differs, by key.
    async fn verify(&self, more: &[&str]) -> (i32, Value) {
        let verified = self.stele(&[&["verify", NEAR, "--json"], more].concat()).await;
        let answer = serde_json::from_slice(&verified.stdout)
            .unwrap_or_else(|_| panic!("verify: {}", String::from_utf8_lossy(&verified.stderr)));
        (verified.status.code().unwrap(), answer)
    }

    async fn put(&self, key: &str, bytes: Bytes) {
        put(&self.near_s3, NEAR, key, bytes).await;
    }

    /// A copy: its bytes and entity tag; `None` when there is none.
    async fn there(&self, key: &str) -> Option<(Bytes, String)> {
        let found = self.far_s3.get_object().bucket(FAR).key(key).send().await.ok()?;
        let tag = found.e_tag().unwrap_or_default().to_owned();
        Some((found.body.collect().await.unwrap().into_bytes(), tag))
    }
}

async fn put(client: &Client, bucket: &str, key: &str, bytes: Bytes) {
    let body = ByteStream::from(bytes);
    client.put_object().bucket(bucket).key(key).body(body).send().await.unwrap();
}

/// An object in parts of 5 MiB and a rest.
async fn put_parts(client: &Client, key: &str, bytes: &Bytes) {
    let pieces: Vec<Bytes> = bytes.chunks(5 << 20).map(|part| bytes.slice_ref(part)).collect();
    put_pieces(client, key, &pieces).await;
}

async fn put_pieces(client: &Client, key: &str, pieces: &[Bytes]) {
    let create = client.create_multipart_upload().bucket(NEAR).key(key).metadata("kind", "parts").send().await.unwrap();
    let upload = create.upload_id().unwrap();
    let mut parts = Vec::new();
    for (number, piece) in (1..).zip(pieces) {
        let body = ByteStream::from(piece.clone());
        let part = client.upload_part().bucket(NEAR).key(key).upload_id(upload).part_number(number).body(body);
        let tag = part.send().await.unwrap().e_tag().unwrap().to_owned();
        parts.push(CompletedPart::builder().part_number(number).e_tag(tag).build());
    }
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let complete = client.complete_multipart_upload().bucket(NEAR).key(key).upload_id(upload);
    complete.multipart_upload(parts).send().await.unwrap();
}

/// Whether any file below a directory holds these bytes.
fn holds(directory: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        // Most blocks of a segment were never written: they are passed over by the first byte.
        let all = std::fs::read(&path).unwrap_or_default();
        (0..all.len()).step_by(4096).any(|start| {
            let block = &all[start..all.len().min(start + 4096)];
            let with_next = &all[start..all.len().min(start + 4096 + bytes.len() - 1)];
            block.contains(&bytes[0]) && with_next.windows(bytes.len()).any(|window| window == bytes)
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_copied_and_both_sides_are_compared() {
    let (sites, near, far) = Sites::start().await;
    // A URL would make something else of this one.
    let odd = "a b+c%2F/\u{fc}";
    let large = document(4, 11 << 20);
    sites.put("gone", document(1, 1000)).await;
    sites.put("empty", Bytes::new()).await;
    sites.put(odd, document(2, 70_000)).await;
    put_parts(&sites.near_s3, "large", &large).await;
    // The last part is empty: no range of an object is.
    let ragged = document(10, 5 << 20);
    put_pieces(&sites.near_s3, "ragged", &[ragged.clone(), Bytes::new()]).await;
    let described = sites.near_s3.put_object().bucket(NEAR).key("described").body(ByteStream::from(document(3, 500)));
    let described = described.content_type("text/plain").cache_control("no-store").content_language("de");
    described.metadata("who", "the office").metadata("when", "1913").send().await.unwrap();

    let refused = sites.stele(&["set", NEAR, "--endpoint", &sites.far.endpoint(), "--access-key", FAR_KEY]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("the bucket does not exist there"), "{said}");
    sites.set(&["--deletes"]).await;
    // What is counted is looked at before what waits.
    sites.copied().await;
    let rule = sites.rule().await;
    assert_eq!((rule["state"].as_str(), rule["copied"].as_u64()), (Some("idle"), Some(6)), "{rule:#}");

    let small = [("gone", document(1, 1000)), ("empty", Bytes::new()), (odd, document(2, 70_000))];
    for (key, bytes) in small.into_iter().chain([("large", large), ("ragged", ragged)]) {
        let here = sites.near_s3.head_object().bucket(NEAR).key(key).send().await.unwrap();
        let (copy, tag) = sites.there(key).await.unwrap_or_else(|| panic!("{key:?} is not there"));
        assert!(copy == bytes && Some(tag.as_str()) == here.e_tag(), "{key:?}: {tag}, {:?}", here.e_tag());
    }
    let head = sites.far_s3.head_object().bucket(FAR).key("described").send().await.unwrap();
    assert_eq!(
        (head.content_type(), head.cache_control(), head.content_language()),
        (Some("text/plain"), Some("no-store"), Some("de"))
    );
    let user = head.metadata().unwrap();
    assert_eq!((user.len(), user["who"].as_str(), user["when"].as_str()), (2, "the office", "1913"));

    // What changes is copied, and while it is paused it waits.
    sites.put("described", document(5, 900)).await;
    sites.near_s3.delete_object().bucket(NEAR).key("gone").send().await.unwrap();
    sites.copied().await;
    assert!(sites.there("gone").await.is_none());
    assert_eq!(sites.there("described").await.unwrap().0, document(5, 900));
    assert!(sites.stele(&["pause", NEAR]).await.status.success());
    sites.put("paused", document(6, 900)).await;
    let paused = sites.rule().await;
    assert_eq!((paused["state"].as_str(), paused["waiting"].as_u64()), (Some("paused"), Some(1)));
    let (code, answer) = sites.verify(&[]).await;
    assert_eq!((code, answer["waiting"].as_u64(), answer["different"].as_u64()), (2, Some(1), Some(0)), "{answer:#}");
    assert!(sites.stele(&["resume", NEAR]).await.status.success());
    sites.copied().await;
    let (code, answer) = sites.verify(&[]).await;
    assert_eq!((code, answer["same"].as_u64()), (0, Some(6)), "{answer:#}");

    // Somebody meddles with the copy.
    sites.far_s3.delete_object().bucket(FAR).key("large").send().await.unwrap();
    put(&sites.far_s3, FAR, odd, document(7, 70_000)).await;
    put(&sites.far_s3, FAR, "theirs", document(8, 10)).await;
    let (code, answer) = sites.verify(&["--repair"]).await;
    let kinds: BTreeMap<&str, &str> = answer["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["key"].as_str().unwrap(), line["kind"].as_str().unwrap()))
        .collect();
    assert_eq!((code, kinds), (2, BTreeMap::from([("large", "missing"), (odd, "differs"), ("theirs", "extra")])));
    sites.copied().await;
    let (code, answer) = sites.verify(&[]).await;
    assert_eq!((code, answer["different"].as_u64()), (2, Some(1)), "nothing there is deleted by a repair: {answer:#}");
    sites.far_s3.delete_object().bucket(FAR).key("theirs").send().await.unwrap();
    assert_eq!(sites.verify(&[]).await.0, 0);

    assert!(sites.stele(&["unset", NEAR]).await.status.success());
    sites.put("after", document(9, 10)).await;
    assert!(sites.rule().await.is_null());
    let output = near.output();
    assert!(near.stop().await.success() && far.stop().await.success());
    assert!(!output.contains(FAR_SECRET) && !holds(&sites.near.data, FAR_SECRET.as_bytes()), "the secret lies open");
    assert!(holds(&sites.near.data, FAR_KEY.as_bytes()), "the search would not find it");
}

/// Headers and tags are no bytes: listings don't show that somebody has changed them there.
#[tokio::test(flavor = "multi_thread")]
async fn headers_and_tags_that_were_changed_there_are_found_and_mended() {
    let (sites, _near, _far) = Sites::start().await;
    for key in ["same", "headers", "tags", "untagged", "tagged-there"] {
        let put = sites.near_s3.put_object().bucket(NEAR).key(key).body(ByteStream::from(document(1, 500)));
        let put = put.content_type("text/plain").metadata("who", "the office");
        let put = if matches!(key, "same" | "tags" | "untagged") { put.tagging("state=new") } else { put };
        put.send().await.unwrap();
    }
    sites.set(&[]).await;
    sites.copied().await;
    let (code, answer) = sites.verify(&[]).await;
    assert_eq!((code, answer["same"].as_u64()), (0, Some(5)), "{answer:#}");

    let there = &sites.far_s3;
    let meddled = there.put_object().bucket(FAR).key("headers").body(ByteStream::from(document(1, 500)));
    meddled.content_type("text/html").metadata("when", "1913").send().await.unwrap();
    for key in ["tags", "tagged-there"] {
        let tag = Tag::builder().key("state").value("theirs").build().unwrap();
        let tagging = Tagging::builder().tag_set(tag).build().unwrap();
        there.put_object_tagging().bucket(FAR).key(key).tagging(tagging).send().await.unwrap();
    }
    there.delete_object_tagging().bucket(FAR).key("untagged").send().await.unwrap();

    let (code, answer) = sites.verify(&["--quick"]).await;
    assert_eq!((code, answer["same"].as_u64()), (0, Some(5)), "the bytes are the same: {answer:#}");
    let (code, answer) = sites.verify(&["--repair"]).await;
    assert_eq!((code, answer["same"].as_u64(), answer["queued"].as_u64()), (2, Some(1), Some(4)), "{answer:#}");
    let found: BTreeMap<&str, Vec<[Option<&str>; 3]>> = answer["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            assert_eq!(line["kind"], "differs");
            let what = line["what"].as_array().unwrap().iter();
            (
                line["key"].as_str().unwrap(),
                what.map(|what| ["name", "here", "there"].map(|n| what[n].as_str())).collect(),
            )
        })
        .collect();
    let tag = |here, there| vec![[Some("tag state"), here, there]];
    let headers = vec![
        [Some("content-type"), Some("text/plain"), Some("text/html")],
        [Some("x-amz-meta-when"), None, Some("1913")],
        [Some("x-amz-meta-who"), Some("the office"), None],
    ];
    let expected = [
        ("headers", headers),
        ("tagged-there", tag(None, Some("theirs"))),
        ("tags", tag(Some("new"), Some("theirs"))),
        ("untagged", tag(Some("new"), None)),
    ];
    assert_eq!(found, BTreeMap::from(expected));

    sites.copied().await;
    let (code, answer) = sites.verify(&[]).await;
    assert_eq!((code, answer["same"].as_u64()), (0, Some(5)), "{answer:#}");
    let head = there.head_object().bucket(FAR).key("headers").send().await.unwrap();
    assert_eq!(head.content_type(), Some("text/plain"));
    assert_eq!(tags(there, "untagged").await, [("state", "new")].map(owned));
    assert_eq!(tags(there, "tagged-there").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_after_either_side_was_killed() {
    let (sites, mut near, mut far) = Sites::start().await;
    let mut random = Random::new(11);
    let mut kept: BTreeMap<String, Bytes> = BTreeMap::new();
    let large = document(100, 23 << 20);
    put_parts(&sites.near_s3, "large/parts", &large).await;
    kept.insert("large/parts".to_owned(), large);
    sites.set(&["--deletes"]).await;
    for round in 0..3u64 {
        for n in 0..60 {
            let key = format!("k{:03}", random.below(90));
            if random.below(6) == 0 {
                sites.near_s3.delete_object().bucket(NEAR).key(&key).send().await.unwrap();
                kept.remove(&key);
            } else {
                let bytes = document(round * 1000 + n, random.length(17));
                sites.put(&key, bytes.clone()).await;
                kept.insert(key, bytes);
            }
            // In the middle of it, whatever is being copied then.
            if n == 30 && round == 0 {
                far.kill().await;
                // All that was put before may have been copied already.
                sites.put("meanwhile", document(900, 900)).await;
                kept.insert("meanwhile".to_owned(), document(900, 900));
                sites.until("failing", |rule| rule["failing"]["unreachable"].as_u64().is_some_and(|n| n > 0)).await;
                far = sites.far.start().await;
            }
            if n == 30 && round == 1 {
                near.kill().await;
                near = sites.near.start().await;
            }
        }
        let large = document(200 + round, 6 << 20);
        put_parts(&sites.near_s3, &format!("large/{round}"), &large).await;
        kept.insert(format!("large/{round}"), large);
        if round == 2 {
            // Both at once, with everything still to be done.
            far.kill().await;
            near.kill().await;
            near = sites.near.start().await;
            far = sites.far.start().await;
        }
    }
    sites.copied().await;
    let (code, answer) = sites.verify(&[]).await;
    assert_eq!((code, answer["same"].as_u64()), (0, Some(kept.len() as u64)), "{answer:#}");
    for (key, bytes) in &kept {
        let (copy, _) = sites.there(key).await.unwrap_or_else(|| panic!("{key} is not there"));
        assert!(copy == *bytes, "{key}");
    }
    // The index is gone: the queue and the rule come back with the rest.
    far.stop().await;
    sites.put("late", document(300, 5000)).await;
    near.kill().await;
    assert!(sites.near.stele(&["rebuild-index"]).await.status.success());
    near = sites.near.start().await;
    assert_eq!(sites.rule().await["waiting"], 1);
    far = sites.far.start().await;
    sites.copied().await;
    assert_eq!(sites.there("late").await.unwrap().0, document(300, 5000));
    assert!(near.stop().await.success() && far.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_are_not_copied_unless_they_are_to_be() {
    let (sites, _near, _far) = Sites::start().await;
    sites.put("kept", document(1, 100)).await;
    sites.set(&[]).await;
    sites.copied().await;
    sites.near_s3.delete_object().bucket(NEAR).key("kept").send().await.unwrap();
    sites.copied().await;
    assert_eq!(sites.there("kept").await.unwrap().0, document(1, 100));
    let (code, answer) = sites.verify(&[]).await;
    assert_eq!((code, answer["kept"].as_u64()), (0, Some(1)), "{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_with_versions_is_copied_as_it_is_now_and_what_is_locked_keeps_its_copy() {
    let (sites, _near, _far) = Sites::start().await;
    let near = &sites.near_s3;
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    near.put_bucket_versioning().bucket(NEAR).versioning_configuration(enabled).send().await.unwrap();
    let lock = ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled).build();
    near.put_object_lock_configuration().bucket(NEAR).object_lock_configuration(lock).send().await.unwrap();
    sites.set(&["--deletes"]).await;
    for n in 0..3 {
        sites.put("often", document(n, 900)).await;
    }
    let tagged = near.put_object().bucket(NEAR).key("tagged").tagging("state=new&where=a%20b");
    tagged.body(ByteStream::from(document(10, 300))).send().await.unwrap();
    let held = near.put_object().bucket(NEAR).key("held").object_lock_legal_hold_status(ObjectLockLegalHoldStatus::On);
    held.body(ByteStream::from(document(11, 300))).send().await.unwrap();
    sites.put("gone", document(12, 300)).await;
    sites.copied().await;
    assert_eq!(sites.there("often").await.unwrap().0, document(2, 900));
    assert_eq!(tags(&sites.far_s3, "tagged").await, [("state", "new"), ("where", "a b")].map(owned));

    // Other tags are no other bytes, and go along all the same.
    let tag = Tag::builder().key("state").value("read").build().unwrap();
    let tagging = Tagging::builder().tag_set(tag).build().unwrap();
    near.put_object_tagging().bucket(NEAR).key("tagged").tagging(tagging).send().await.unwrap();
    // A delete marker deletes there, unless a version below it is locked here.
    for key in ["held", "gone"] {
        let deleted = near.delete_object().bucket(NEAR).key(key).send().await.unwrap();
        assert_eq!(deleted.delete_marker(), Some(true), "{key}");
    }
    sites.copied().await;
    assert_eq!(tags(&sites.far_s3, "tagged").await, [owned(("state", "read"))]);
    assert!(sites.there("gone").await.is_none());
    assert_eq!(sites.there("held").await.unwrap().0, document(11, 300), "the copy of what is locked here was deleted");
    let (code, answer) = sites.verify(&[]).await;
    assert_eq!((code, answer["same"].as_u64(), answer["kept"].as_u64()), (0, Some(2), Some(1)), "{answer:#}");
}

/// A version: its id and whether it is a delete marker.
type Listed = (String, bool);

/// All versions of a bucket by key, newest first as far as versions go, and delete markers behind them.
async fn versions(client: &Client, bucket: &str) -> BTreeMap<String, Vec<Listed>> {
    let mut found: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
    let page = client.list_object_versions().bucket(bucket).send().await.unwrap();
    assert_ne!(page.is_truncated(), Some(true));
    for version in page.versions() {
        let line = (version.version_id().unwrap().to_owned(), false);
        found.entry(version.key().unwrap().to_owned()).or_default().push(line);
    }
    for marker in page.delete_markers() {
        let line = (marker.version_id().unwrap().to_owned(), true);
        found.entry(marker.key().unwrap().to_owned()).or_default().push(line);
    }
    found
}

async fn bytes_of(client: &Client, bucket: &str, key: &str, id: Option<&str>) -> Option<Bytes> {
    let get = client.get_object().bucket(bucket).key(key).set_version_id(id.map(str::to_owned));
    let found = get.send().await.ok()?;
    Some(found.body.collect().await.ok()?.into_bytes())
}

async fn keep_versions(client: &Client, bucket: &str) {
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    client.put_bucket_versioning().bucket(bucket).versioning_configuration(enabled).send().await.unwrap();
}

impl Sites {
    /// The versions of a key there, newest first: id, and the name of the version here that it is a copy of.
    async fn names(&self, key: &str) -> Vec<(String, String)> {
        let mut names = Vec::new();
        for (id, marker) in versions(&self.far_s3, FAR).await.remove(key).unwrap_or_default() {
            if !marker {
                let head = self.far_s3.head_object().bucket(FAR).key(key).version_id(&id).send().await.unwrap();
                let user = head.metadata().cloned().unwrap_or_default();
                names.push((id, user.get("stele-version").cloned().unwrap_or_default()));
            }
        }
        names
    }

    /// What of the versions of a side is not on the other one, or not the same there.
    async fn unlike(&self, deletes: bool) -> Option<String> {
        for (key, here) in versions(&self.near_s3, NEAR).await {
            let there = self.names(&key).await;
            let content: Vec<&str> = here.iter().filter(|(_, marker)| !marker).map(|(id, _)| id.as_str()).collect();
            let is = |name: &str, id: &str| name == id || (id == "null" && name.starts_with("null-"));
            for id in &content {
                let Some((copy, _)) = there.iter().find(|(_, name)| is(name, id)) else {
                    return Some(format!("{key} lacks {id}: {there:?}"));
                };
                let bytes = bytes_of(&self.near_s3, NEAR, &key, Some(id)).await;
                if bytes_of(&self.far_s3, FAR, &key, Some(copy)).await != bytes {
                    return Some(format!("{key} differs in {id}"));
                }
            }
            // Without a name it is somebody else's.
            let extra = there.iter().find(|(_, name)| !name.is_empty() && !content.iter().any(|id| is(name, id)));
            if let Some((_, extra)) = extra.filter(|_| deletes) {
                return Some(format!("{key} has {extra} there"));
            }
            let current = bytes_of(&self.near_s3, NEAR, &key, None).await;
            if (current.is_some() || deletes) && bytes_of(&self.far_s3, FAR, &key, None).await != current {
                return Some(format!("{key} has another current version there"));
            }
        }
        None
    }

    async fn agree(&self, deletes: bool) {
        let start = Instant::now();
        while let Some(unlike) = self.unlike(deletes).await {
            assert!(start.elapsed() < PATIENCE, "{unlike}: {:#}", self.rule().await);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn delete(&self, key: &str, id: Option<&str>) {
        let delete = self.near_s3.delete_object().bucket(NEAR).key(key).set_version_id(id.map(str::to_owned));
        delete.send().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_versions_are_copied_and_compared_also_after_both_sides_were_killed() {
    let (sites, mut near, far) = Sites::start().await;
    // One of before there were versions.
    sites.put("plain", document(0, 400)).await;
    keep_versions(&sites.near_s3, NEAR).await;
    for n in 1..5 {
        sites.put("plain", document(n, 400)).await;
        sites.put("back", document(10 + n, 300)).await;
        sites.delete("back", None).await;
    }
    // The same bytes twice, with other headers.
    for language in ["de", "en"] {
        let same = sites.near_s3.put_object().bucket(NEAR).key("same").content_language(language);
        let forged = same.metadata("stele-version", "theirs").metadata("stele-etag", "theirs").metadata("who", "me");
        forged.body(ByteStream::from(document(20, 100))).send().await.unwrap();
    }
    sites.put("back", document(19, 300)).await;
    sites.put("gone", document(21, 200)).await;
    sites.delete("gone", None).await;
    put_parts(&sites.near_s3, "parts", &document(22, 6 << 20)).await;
    sites.put("parts", document(23, 100)).await;
    let endpoint = sites.far.endpoint();
    let arguments =
        ["set", NEAR, "--endpoint", &endpoint, "--target", FAR, "--access-key", FAR_KEY, "--versions", "--deletes"];
    let refused = sites.stele(&arguments).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("versioning is not enabled"), "{said}");
    keep_versions(&sites.far_s3, FAR).await;
    sites.set(&["--versions", "--deletes"]).await;
    let rule = sites.copied().await;
    assert_eq!(rule["versions"], true);
    assert_eq!(sites.unlike(true).await, None);
    // In their order, and each once.
    let here: Vec<Listed> = versions(&sites.near_s3, NEAR).await["plain"].clone();
    let there = sites.names("plain").await;
    assert_eq!((here.len(), there.len()), (5, 5));
    let named = here.iter().zip(&there).filter(|((id, _), (_, name))| id == name || name.starts_with("null-"));
    assert_eq!(named.count(), 5, "{here:?} {there:?}");
    assert_eq!(versions(&sites.far_s3, FAR).await["gone"].len(), 2);
    assert_eq!(sites.names("same").await.len(), 2);
    for quick in [&["--quick"][..], &[]] {
        let (code, answer) = sites.verify(quick).await;
        assert_eq!((code, answer["same"].as_u64()), (0, Some(5)), "{quick:?} {answer:#}");
    }

    // Tags of an older version, an older version deleted, a delete marker taken away.
    let tag = Tag::builder().key("state").value("read").build().unwrap();
    let tagging = Tagging::builder().tag_set(tag).build().unwrap();
    let tagged = sites.near_s3.put_object_tagging().bucket(NEAR).key("plain").version_id(&here[2].0);
    tagged.tagging(tagging).send().await.unwrap();
    sites.delete("plain", Some(&here[3].0)).await;
    let marker = versions(&sites.near_s3, NEAR).await["gone"].iter().find(|(_, marker)| *marker).unwrap().0.clone();
    sites.delete("gone", Some(&marker)).await;
    sites.copied().await;
    assert_eq!(sites.unlike(true).await, None);
    let there = sites.names("plain").await;
    assert_eq!(there.len(), 4);
    let copy = sites.far_s3.get_object_tagging().bucket(FAR).key("plain").version_id(&there[2].0);
    assert_eq!(copy.send().await.unwrap().tag_set()[0].value(), "read");

    // Somebody takes an older version away there, and another one's tags, and puts something on top.
    let meddle =
        |key: &'static str, id: String| sites.far_s3.delete_object().bucket(FAR).key(key).version_id(id).send();
    meddle("plain", there[1].0.clone()).await.unwrap();
    let untag = sites.far_s3.delete_object_tagging().bucket(FAR).key("plain").version_id(&there[2].0);
    untag.send().await.unwrap();
    put(&sites.far_s3, FAR, "same", document(30, 50)).await;
    let (code, answer) = sites.verify(&["--repair"]).await;
    let mut kinds: Vec<(&str, &str, &str)> = answer["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| ["key", "version", "kind"].map(|name| line[name].as_str().unwrap()).into())
        .collect();
    kinds.sort_unstable();
    let mut wanted =
        vec![("plain", here[1].0.as_str(), "missing"), ("plain", &here[2].0, "differs"), ("same", "", "differs")];
    wanted.sort_unstable();
    assert_eq!((code, kinds, answer["queued"].as_u64()), (2, wanted, Some(2)), "{answer:#}");
    sites.copied().await;
    assert_eq!(sites.unlike(true).await, None);
    let (code, answer) = sites.verify(&[]).await;
    assert_eq!((code, answer["same"].as_u64()), (0, Some(5)), "{answer:#}");
    assert_eq!(bytes_of(&sites.far_s3, FAR, "same", None).await, Some(document(20, 100)));

    let mut far = Some(far);
    let mut random = Random::new(5);
    for n in 0..60u64 {
        let key = format!("k{}", random.below(6));
        let known = versions(&sites.near_s3, NEAR).await.remove(&key).unwrap_or_default();
        match random.below(6) {
            0 => sites.delete(&key, None).await,
            1 if !known.is_empty() => {
                let (id, _) = &known[usize::try_from(random.below(known.len() as u64)).unwrap()];
                sites.delete(&key, Some(id)).await;
            }
            _ => sites.put(&key, document(100 + n, random.length(15))).await,
        }
        if let Some(far) = far.take_if(|_| n == 20 || n == 40) {
            far.kill().await;
        }
        if n == 40 {
            near.kill().await;
            near = sites.near.start().await;
        }
        if n == 23 || n == 40 {
            far = Some(sites.far.start().await);
        }
    }
    sites.agree(true).await;
    assert!(near.stop().await.success() && far.unwrap().stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_are_deleted_stay_there_unless_deletes_are_copied() {
    let (sites, _near, _far) = Sites::start().await;
    keep_versions(&sites.near_s3, NEAR).await;
    keep_versions(&sites.far_s3, FAR).await;
    sites.put("was", document(3, 100)).await;
    sites.delete("was", None).await;
    sites.set(&["--versions"]).await;
    for n in 0..2 {
        sites.put("kept", document(n, 100)).await;
    }
    sites.copied().await;
    let older = versions(&sites.near_s3, NEAR).await["kept"][1].0.clone();
    sites.delete("kept", Some(&older)).await;
    sites.delete("kept", None).await;
    sites.copied().await;
    let there = versions(&sites.far_s3, FAR).await;
    assert!(there["kept"].len() == 2 && there.values().flatten().all(|(_, marker)| !marker), "{there:?}");
    assert_eq!(bytes_of(&sites.far_s3, FAR, "kept", None).await, Some(document(1, 100)));
    assert_eq!(bytes_of(&sites.far_s3, FAR, "was", None).await, Some(document(3, 100)), "only its marker was seen");
    let (code, answer) = sites.verify(&[]).await;
    assert_eq!((code, answer["different"].as_u64()), (0, Some(0)), "{answer:#}");
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

async fn tags(client: &Client, key: &str) -> Vec<(String, String)> {
    let found = client.get_object_tagging().bucket(FAR).key(key).send().await.unwrap();
    let mut tags: Vec<_> = found.tag_set().iter().map(|tag| owned((tag.key(), tag.value()))).collect();
    tags.sort();
    tags
}
