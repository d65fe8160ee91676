//! Deletions in the audit log of a whole service.

use super::world::{Client, World, noise, run};
use crate::audit::{AskedBy, Book, within};
use crate::client::MetadataClient;
use crate::clock::Clock;
use crate::command::*;
use crate::keep::lifecycle::LifecycleConfig;
use crate::keys::Purpose;
use crate::lifecycle::body_of;
use crate::service::Metadata;
use codec::effect::{ClockTick, ConfigKind, LifecycleRow, LifecycleRuleRow, LifecycleWhen, ObjectMeta, UploadName};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Looks at the file, of 100 ms each, before a test gives up on what it waits for.
const PATIENCE: usize = 600;

async fn commit(metadata: &Metadata, command: Command) -> Outcome {
    let by = AskedBy { by: "arn:anna".to_owned(), ..AskedBy::default() };
    within(by, metadata.commit(metadata.epoch(), command)).await.unwrap()
}

async fn put(metadata: &Metadata, client: &mut Client, key: &str, len: usize) {
    let by = AskedBy { by: "arn:anna".to_owned(), ..AskedBy::default() };
    within(by, client.put(metadata, key, noise(len as u64, len))).await.unwrap();
}

async fn delete(metadata: &Metadata, client: &Client, key: &str) {
    let condition = DeleteCondition::default();
    let one = DeleteVersion { key: key.to_owned(), named: Named::Current, condition, bypass: false };
    let (bucket, owner) = (client.bucket.unwrap(), String::new());
    let delete = DeleteVersions { bucket, versions: vec![one], owner, nonce: [1; 8], now_ms: 1 };
    commit(metadata, Command::DeleteVersions(delete)).await;
}

async fn open_upload(metadata: &Metadata, client: &Client, key: &str) -> UploadName {
    let create = CreateUpload {
        bucket: client.bucket.unwrap(),
        key: key.to_owned(),
        nonce: [1; 16],
        initiator: "alice".to_owned(),
        meta: ObjectMeta::default(),
        checksum: 0,
        full_object_checksum: false,
        domain: metadata.domain("alice", &Purpose::Plain).await.unwrap().id,
        encrypted: false,
        now_ms: 1,
        attached: Attached::default(),
        sealed: None,
    };
    match commit(metadata, Command::CreateUpload(create)).await {
        Outcome::UploadCreated(name) => name,
        other => panic!("{other:?}"),
    }
}

/// The lines of a book but for that of the start, once there are so many.
async fn lines(directory: &Path, book: Book, wanted: usize) -> Vec<Value> {
    let mut lines = Vec::new();
    for _ in 0..PATIENCE {
        let text = std::fs::read_to_string(directory.join(book.name())).unwrap();
        // One that is being written is looked at again.
        let parsed = text.lines().filter(|line| !line.is_empty()).map(serde_json::from_str).collect();
        let Ok(parsed): Result<Vec<Value>, _> = parsed else { continue };
        lines = parsed.into_iter().filter(|line| line["what"] != "start").collect();
        if lines.len() >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    lines
}

fn some(lines: &[Value], fields: &[&str]) -> Vec<Vec<Value>> {
    lines.iter().map(|line| fields.iter().map(|field| line[field].clone()).collect()).collect()
}

/// What a PUT takes the place of, and the parts of an upload that is given up, are gone like what somebody deletes. Whoever asks who it
/// was finds as much.
#[test]
fn what_goes_without_a_delete_is_told_as_one() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(3, "1+1");
        world.config.audit = Some(dir.path().to_owned());
        let (metadata, mut client) = (world.serving().await, Client::default());
        client.create_bucket(&metadata).await;
        let bucket = client.bucket.unwrap();
        for (key, len) in [("a", 900), ("b", 901), ("a", 902), ("a", 903)] {
            put(&metadata, &mut client, key, len).await;
        }
        // In a bucket that keeps versions nothing is replaced; in one where that is suspended, the null version is.
        for (versions, len) in [(true, 904), (false, 905)] {
            commit(&metadata, Command::ChangeBucket { bucket, change: BucketChange::Versioning(versions) }).await;
            put(&metadata, &mut client, "a", len).await;
        }
        delete(&metadata, &client, "a").await;
        put(&metadata, &mut client, "a", 906).await;
        let upload = open_upload(&metadata, &client, "parts").await;
        commit(&metadata, Command::AbortUpload { upload: upload.clone() }).await;
        assert!(metadata.commit(metadata.epoch(), Command::AbortUpload { upload: upload.clone() }).await.is_err());

        let told = lines(dir.path(), Book::Deletions, 6).await;
        let fields = ["what", "bucket", "key", "by", "result"];
        let line =
            |what: &str, key: &str| vec![json!(what), json!(bucket.0), json!(key), json!("arn:anna"), json!("done")];
        let replace = || line("replace", "a");
        let expected = [replace(), replace(), replace(), line("delete", "a"), replace(), line("abort-upload", "parts")];
        assert_eq!(some(&told, &fields), expected);
        let was = |at: usize| (told[at]["was"]["bytes"].clone(), told[at]["was"]["marker"].clone());
        let bytes = |bytes: u64| (json!(bytes), json!(false));
        assert_eq!([was(0), was(1), was(2)], [bytes(900), bytes(902), bytes(903)]);
        assert_eq!(
            (&told[3]["removed"], &told[3]["marker"]),
            (&json!("null"), &json!("null")),
            "it was put over another"
        );
        assert_eq!(was(4), (json!(0), json!(true)), "a delete marker is replaced, too");
        assert_eq!(told[0]["was"]["etag"], hex::encode(blake3::hash(&noise(900, 900)).as_bytes()));
        assert!(told[0]["was"]["lsn"].as_u64().unwrap() < told[1]["was"]["lsn"].as_u64().unwrap());
        assert_eq!(told[5]["upload"], upload.upload_id);
        let refused = lines(dir.path(), Book::Refused, 1).await;
        assert_eq!(some(&refused, &["what", "upload"]), [[json!("abort-upload"), json!(upload.upload_id)]]);
        metadata.shutdown().await;
    });
}

#[test]
fn what_rules_delete_and_give_up_is_told_as_theirs() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(3, "1+1");
        world.config.audit = Some(dir.path().to_owned());
        world.config.lifecycle = LifecycleConfig { every: None, ..LifecycleConfig::default() };
        let (metadata, mut client) = (world.serving().await, Client::default());
        client.create_bucket(&metadata).await;
        let tick = ClockTick { retention_ms: world.clock.wall_ms(), ..ClockTick::default() };
        commit(&metadata, Command::ClockTick(tick)).await;
        put(&metadata, &mut client, "old", 900).await;
        let upload = open_upload(&metadata, &client, "old-parts").await;
        let expiration = Some(LifecycleWhen { days: Some(1), date_ms: None });
        let rule = LifecycleRuleRow { id: "r".to_owned(), enabled: true, ..LifecycleRuleRow::default() };
        let rule = LifecycleRuleRow { prefix: Some("old".to_owned()), expiration, abort_days: Some(1), ..rule };
        let row = LifecycleRow { rules: vec![rule], minimum_size: String::new() };
        let (bucket, kind) = (client.bucket.unwrap(), ConfigKind::Lifecycle);
        let put = PutBucketConfig { bucket, kind, id: String::new(), body: Some(body_of(&row)) };
        commit(&metadata, Command::PutBucketConfig(put)).await;
        world.clock.passed.fetch_add(3 * 24 * 3600 * 1000, Ordering::Relaxed);
        let report = metadata.lifecycle().unwrap().round().await.unwrap();
        assert_eq!((report.expired, report.aborted), (1, 1));

        let told = lines(dir.path(), Book::Deletions, 2).await;
        let by = || json!("the bucket's rules");
        let expected = [
            [json!("delete"), json!("old"), json!("delete"), Value::Null, by(), json!("done")],
            [json!("abort-upload"), json!("old-parts"), Value::Null, json!(upload.upload_id), by(), json!("done")],
        ];
        assert_eq!(some(&told, &["what", "key", "rule", "upload", "by", "result"]), expected);
        metadata.shutdown().await;
    });
}

/// Whoever hangs up right after a request is served all the same, and is not to be forgotten for it.
#[test]
fn who_does_not_wait_for_the_answer_is_told_of_too() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(3, "1+1");
        world.config.audit = Some(dir.path().to_owned());
        let (metadata, mut client) = (world.serving().await, Client::default());
        client.create_bucket(&metadata).await;
        put(&metadata, &mut client, "a", 900).await;
        let mut deleting = Box::pin(delete(&metadata, &client, "a"));
        tokio::select! {
            biased;
            () = &mut deleting => panic!("it was answered already"),
            () = std::future::ready(()) => {}
        }
        drop(deleting);
        let told = lines(dir.path(), Book::Deletions, 1).await;
        let expected = [[json!("delete"), json!("a"), json!("null"), json!("arn:anna"), json!("done")]];
        assert_eq!(some(&told, &["what", "key", "removed", "by", "result"]), expected);
        metadata.shutdown().await;
    });
}
