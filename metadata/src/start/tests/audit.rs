//! The audit log of a whole service: deletions, and what is told of what uploads bring along.

use super::world::{Client, World, noise, run};
use crate::audit::{AskedBy, Book, within};
use crate::client::MetadataClient;
use crate::clock::Clock;
use crate::command::*;
use crate::keep::lifecycle::LifecycleConfig;
use crate::keys::Purpose;
use crate::lifecycle::body_of;
use crate::service::Metadata;
use codec::effect::{
    AclGrantRow, AclRow, ClockTick, ConfigKind, Content, GrantedPermission, GranteeKind, LifecycleRow,
    LifecycleRuleRow, LifecycleWhen, ObjectMeta, RetentionMode, RetentionRow, UploadName,
};
use codec::manifest::Manifest;
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
    open_upload_with(metadata, client, key, Attached::default()).await
}

async fn open_upload_with(metadata: &Metadata, client: &Client, key: &str, attached: Attached) -> UploadName {
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
        attached,
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
        // One that is being written is looked at again, a moment later.
        let parsed: Result<Vec<Value>, _> =
            text.lines().filter(|line| !line.is_empty()).map(serde_json::from_str).collect();
        if let Ok(parsed) = parsed {
            lines = parsed.into_iter().filter(|line| line["what"] != "start").collect();
            if lines.len() >= wanted {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    lines
}

/// Nothing, as it is stored.
async fn nothing(metadata: &Metadata) -> Content {
    let domain = metadata.domain("alice", &Purpose::Plain).await.unwrap().id.0;
    let manifest = Manifest::new(Vec::new()).unwrap().encode();
    Content { etag: "e".to_owned(), domain, manifest, ..Content::default() }
}

async fn put_with(metadata: &Metadata, client: &Client, key: &str, attached: Attached) -> String {
    let commit_object = CommitObject {
        bucket: client.bucket.unwrap(),
        key: key.to_owned(),
        condition: Condition::None,
        meta: ObjectMeta::default(),
        content: nothing(metadata).await,
        chunks: Vec::new(),
        now_ms: 1,
        attached,
    };
    match commit(metadata, Command::CommitObject(commit_object)).await {
        Outcome::Committed(row, _) => row.version_id,
        other => panic!("{other:?}"),
    }
}

/// Ends an upload, which gets one part.
async fn complete(metadata: &Metadata, upload: &UploadName) -> String {
    let (content, chunks) = (nothing(metadata).await, Vec::new());
    let part = Command::CommitPart { upload: upload.clone(), number: 1, content: content.clone(), chunks, now_ms: 1 };
    commit(metadata, part).await;
    let complete = CompleteUpload {
        upload: upload.clone(),
        parts: vec![(1, "e".to_owned())],
        content: Content { part_sizes: vec![0], ..content },
        chunks: Vec::new(),
        condition: Condition::None,
        now_ms: 1,
        nonce: [2; 8],
    };
    match commit(metadata, Command::CompleteUpload(complete)).await {
        Outcome::Committed(row, _) => row.version_id,
        other => panic!("{other:?}"),
    }
}

fn grant(grantee: GranteeKind, id: &str, permission: GrantedPermission) -> AclGrantRow {
    AclGrantRow { grantee: grantee as i32, id: id.to_owned(), permission: permission as i32 }
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

/// An upload that says who may read it, or how long it is kept, changes as much as whoever says so afterwards. One that says nothing of
/// that, as nearly all, has no line.
#[test]
fn what_uploads_bring_of_access_and_lock_is_told() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(3, "1+1");
        world.config.audit = Some(dir.path().to_owned());
        let (metadata, mut client) = (world.serving().await, Client::default());
        client.create_bucket(&metadata).await;
        let bucket = client.bucket.unwrap();
        let tick = ClockTick { retention_ms: world.clock.wall_ms(), ..ClockTick::default() };
        commit(&metadata, Command::ClockTick(tick)).await;
        for change in [BucketChange::Versioning(true), BucketChange::Lock(None)] {
            commit(&metadata, Command::ChangeBucket { bucket, change }).await;
        }
        let grants = vec![
            grant(GranteeKind::Account, "bob", GrantedPermission::Read),
            grant(GranteeKind::AllUsers, "", GrantedPermission::Read),
        ];
        let acl = Some(AclRow { grants });
        let until_ms = 4_000_000_000_000;
        let retention = Some(RetentionRow { mode: RetentionMode::Compliance as i32, until_ms });
        let plain = |nonce: u8| Attached { nonce: [nonce; 8], ..Attached::default() };
        put(&metadata, &mut client, "plain", 900).await;
        put_with(&metadata, &client, "plain", plain(1)).await;
        complete(&metadata, &open_upload(&metadata, &client, "plain").await).await;
        let public = put_with(&metadata, &client, "public", Attached { acl: acl.clone(), ..plain(2) }).await;
        let kept = Attached { retention, hold: true, made: Made::Copy, ..plain(3) };
        let kept = put_with(&metadata, &client, "kept", kept).await;
        let upload = open_upload_with(&metadata, &client, "parts", Attached { acl, ..plain(4) }).await;
        let parts = complete(&metadata, &upload).await;
        // The last one: what is told up to here is all that there is.
        commit(&metadata, Command::ChangeBucket { bucket, change: BucketChange::Ownership(Default::default()) }).await;

        let told = lines(dir.path(), Book::Changes, 9).await;
        let whom = json!(["READ AllUsers", "READ bob"]);
        let until = json!({ "mode": "Compliance", "until": "2096-10-02T07:06:40Z" });
        let line = |what: &str, key: &str, version: Value, to: &Value, with: &str, upload: Value| {
            let done = [json!("arn:anna"), json!("done")];
            [vec![json!(what), json!(bucket.0), json!(key), version, to.clone(), json!(with), upload], done.to_vec()]
                .concat()
        };
        let expected = [
            line("set-acl", "public", json!(public), &whom, "put", Value::Null),
            line("set-retention", "kept", json!(kept), &until, "copy", Value::Null),
            line("set-legal-hold", "kept", json!(kept), &json!(true), "copy", Value::Null),
            line("set-acl", "parts", Value::Null, &whom, "upload", json!(upload.upload_id)),
            line("set-acl", "parts", json!(parts), &whom, "complete-upload", json!(upload.upload_id)),
        ];
        let fields = ["what", "bucket", "key", "version", "to", "with", "upload", "by", "result"];
        assert_eq!(some(&told[3..8], &fields), expected);
        let whats: Vec<_> = told.iter().map(|line| line["what"].as_str().unwrap()).collect();
        let before = ["create-bucket", "set-versioning", "set-object-lock"];
        assert_eq!((&whats[..3], &whats[8..]), (&before[..], &["set-ownership"][..]));
        assert!(lines(dir.path(), Book::Refused, 0).await.is_empty());
        metadata.shutdown().await;
    });
}

/// A replaced null version has its line also where what took its place has one, and both say which bucket it was.
#[test]
fn the_log_alone_says_which_bucket_it_was() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(3, "1+1");
        world.config.audit = Some(dir.path().to_owned());
        let (metadata, mut client) = (world.serving().await, Client::default());
        client.create_bucket(&metadata).await;
        let bucket = client.bucket.unwrap();
        put(&metadata, &mut client, "a", 900).await;
        let acl = Some(AclRow { grants: vec![grant(GranteeKind::AllUsers, "", GrantedPermission::Read)] });
        put_with(&metadata, &client, "a", Attached { acl, ..Attached::default() }).await;
        let refused = metadata.commit(metadata.epoch(), Command::DeleteBucket { bucket }).await;
        assert!(refused.is_err());
        delete(&metadata, &client, "a").await;
        commit(&metadata, Command::DeleteBucket { bucket }).await;
        assert!(metadata.commit(metadata.epoch(), Command::DeleteBucket { bucket }).await.is_err());

        let fields = ["what", "bucket", "name"];
        let line = |what: &str| [json!(what), json!(bucket.0), json!("bucket")];
        let told = lines(dir.path(), Book::Changes, 3).await;
        assert_eq!(some(&told[..1], &fields), [line("create-bucket")]);
        assert_eq!(some(&told[1..2], &["what", "version"]), [[json!("set-acl"), json!("null")]]);
        assert_eq!(some(&told[2..], &fields), [line("delete-bucket")]);
        let gone = lines(dir.path(), Book::Deletions, 2).await;
        assert_eq!(some(&gone, &["what", "key"]), [[json!("replace"), json!("a")], [json!("delete"), json!("a")]]);
        let refused = lines(dir.path(), Book::Refused, 2).await;
        let unknown = [json!("delete-bucket"), json!(bucket.0), Value::Null];
        assert_eq!(some(&refused, &fields), [line("delete-bucket"), unknown]);
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
