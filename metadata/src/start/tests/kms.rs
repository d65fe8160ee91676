//! A key of the key store is destroyed when nothing needs it, and not before.

use super::world::{Client, World, run};
use crate::client::{CommitError, LookupError, MetadataClient};
use crate::command::*;
use crate::keys::{Purpose, Secret};
use crate::kms::KmsFault;
use crate::service::{KmsChangeError, Metadata};
use codec::effect::{
    AccountRow, Content, DefaultEncryptionRow, KmsKeyState, ObjectMeta, ProtectionClass, UploadName, VersionRow,
    Versioning,
};
use codec::id::{BucketId, DomainId};
use codec::manifest::Manifest;
use std::time::Duration;

const KEY: &str = "k1";

fn purpose() -> Purpose {
    Purpose::Kms(KEY.to_owned())
}

async fn commit(metadata: &Metadata, command: Command) -> Outcome {
    metadata.commit(metadata.epoch(), command).await.unwrap()
}

async fn put(metadata: &Metadata, bucket: BucketId, domain: DomainId, nonce: u8) -> Result<VersionRow, CommitError> {
    let manifest = Manifest::new(Vec::new()).unwrap().encode();
    let content = Content { domain: domain.0, encrypted: true, manifest, ..Content::default() };
    let put = CommitObject {
        bucket,
        key: "document".to_owned(),
        condition: Condition::None,
        meta: ObjectMeta::default(),
        content,
        chunks: Vec::new(),
        now_ms: 1,
        attached: Attached { nonce: [nonce; 8], ..Attached::default() },
    };
    match metadata.commit(metadata.epoch(), Command::CommitObject(put)).await? {
        Outcome::Committed(row, _) => Ok(*row),
        other => panic!("{other:?}"),
    }
}

async fn open_upload(metadata: &Metadata, bucket: BucketId, domain: DomainId) -> UploadName {
    let create = CreateUpload {
        bucket,
        key: "parts".to_owned(),
        nonce: [1; 16],
        initiator: "alice".to_owned(),
        meta: ObjectMeta::default(),
        checksum: 0,
        full_object_checksum: false,
        domain,
        encrypted: true,
        now_ms: 0,
        attached: Attached::default(),
        sealed: None,
    };
    match commit(metadata, Command::CreateUpload(create)).await {
        Outcome::UploadCreated(name) => name,
        other => panic!("{other:?}"),
    }
}

async fn delete(metadata: &Metadata, bucket: BucketId, named: Named) {
    let condition = DeleteCondition::default();
    let versions = vec![DeleteVersion { key: "document".to_owned(), named, condition, bypass: false }];
    let delete = DeleteVersions { bucket, versions, owner: String::new(), nonce: [9; 8], now_ms: 2 };
    match commit(metadata, Command::DeleteVersions(delete)).await {
        Outcome::VersionsDeleted(results) => assert!(results.iter().all(Result::is_ok), "{results:?}"),
        other => panic!("{other:?}"),
    }
}

/// The key's state, once it is not about to be destroyed any more.
async fn settled(metadata: &Metadata) -> KmsKeyState {
    loop {
        let key = metadata.kms_keys().unwrap().into_iter().find(|key| key.id == KEY).unwrap();
        match KmsKeyState::try_from(key.state).unwrap() {
            KmsKeyState::PendingDeletion => tokio::time::sleep(Duration::from_millis(1)).await,
            state => return state,
        }
    }
}

/// Why the key stays.
async fn needed(metadata: &Metadata) -> String {
    metadata.destroy_kms_key(KEY).await.unwrap();
    assert_eq!(settled(metadata).await, KmsKeyState::Disabled);
    // It is said right after it is committed.
    for _ in 0..10_000 {
        if let Some(by) = metadata.kms_key_needed_by(KEY) {
            return by;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("nobody says why");
}

/// Destroying a key that retained objects need would be a way round every lock that they have.
#[test]
fn a_key_that_anything_needs_is_not_destroyed() {
    run(async {
        let world = World::new(4, "2+1");
        let metadata = world.start().await;
        let row =
            AccountRow { id: "alice".into(), name: "alice".into(), access_key: "AK".into(), ..AccountRow::default() };
        metadata.put_account(row, &Secret::new("s3cr3t-s3cr3t".to_owned()), false).await.unwrap();
        let mut client = Client::default();
        client.create_bucket(&metadata).await;
        let bucket = client.bucket.unwrap();
        let missing = metadata.domain("alice", &purpose()).await.unwrap_err();
        assert!(matches!(missing, CommitError::Refused(Refusal::Kms { fault: KmsFault::Unknown, .. })), "{missing}");
        metadata.create_kms_key("alice", KEY).await.unwrap();
        let domain = metadata.domain("alice", &purpose()).await.unwrap();
        assert!(domain.seals());
        let domain = domain.id;
        let versions = |enabled| Command::ChangeBucket { bucket, change: BucketChange::Versioning(enabled) };
        commit(&metadata, versions(true)).await;
        let version = put(&metadata, bucket, domain, 1).await.unwrap();
        assert_eq!(metadata.bucket("bucket").await.unwrap().unwrap().versioning(), Versioning::Enabled);
        // Nobody sees it any more who names no version, and it is there.
        delete(&metadata, bucket, Named::Current).await;

        assert!(matches!(metadata.destroy_kms_key(KEY).await, Err(KmsChangeError::Enabled(_))));
        metadata.enable_kms_key(KEY, false).await.unwrap();
        assert_eq!(needed(&metadata).await, "bucket/document is under it");
        let late = put(&metadata, bucket, domain, 2).await.unwrap_err();
        assert!(matches!(late, CommitError::Refused(Refusal::Kms { fault: KmsFault::Disabled, .. })), "{late}");
        let read = metadata.domain_by_id(domain).await.unwrap_err();
        assert!(matches!(read, LookupError::Kms { fault: KmsFault::Disabled, .. }), "{read}");
        assert!(metadata.structure(domain).unwrap().node_key.is_some(), "whoever walks manifests needs no key of it");

        // One thing after the other that needs it.
        metadata.enable_kms_key(KEY, true).await.unwrap();
        let upload = open_upload(&metadata, bucket, domain).await;
        let default = Some(DefaultEncryptionRow { class: ProtectionClass::Kms.into(), key: KEY.to_owned() });
        let encryption = |default| BucketChange::Encryption { encrypt: false, default };
        commit(&metadata, Command::ChangeBucket { bucket, change: encryption(default) }).await;
        metadata.enable_kms_key(KEY, false).await.unwrap();
        delete(&metadata, bucket, Named::Id(version.version_id)).await;
        assert_eq!(needed(&metadata).await, "it is the default of bucket bucket");
        commit(&metadata, Command::ChangeBucket { bucket, change: encryption(None) }).await;
        assert_eq!(needed(&metadata).await, "an open upload of bucket/parts is under it");
        commit(&metadata, Command::AbortUpload { upload }).await;
        metadata.destroy_kms_key(KEY).await.unwrap();
        assert_eq!(settled(&metadata).await, KmsKeyState::Destroyed);
        metadata.shutdown().await;

        // And it stays so, also where the index was lost.
        world.lose_index();
        let metadata = world.serving().await;
        let gone = metadata.enable_kms_key(KEY, true).await;
        assert!(matches!(gone, Err(KmsChangeError::State { fault: KmsFault::Destroyed, .. })), "{gone:?}");
        let read = metadata.domain_by_id(domain).await.unwrap_err();
        assert!(matches!(read, LookupError::Kms { fault: KmsFault::Destroyed, .. }), "{read}");
        metadata.shutdown().await;
    });
}

/// A service that ended while it looked left the key as it was, and everything under it unreadable, for ever.
#[test]
fn a_search_that_was_cut_off_goes_on_with_the_next_start() {
    run(async {
        let world = World::new(4, "2+1");
        let metadata = world.start().await;
        let row =
            AccountRow { id: "alice".into(), name: "alice".into(), access_key: "AK".into(), ..AccountRow::default() };
        metadata.put_account(row, &Secret::new("s3cr3t-s3cr3t".to_owned()), false).await.unwrap();
        metadata.create_kms_key("alice", KEY).await.unwrap();
        let set = |state| Command::SetKmsKey(SetKmsKey { id: KEY.to_owned(), state, since: None });
        commit(&metadata, set(KmsKeyState::Disabled)).await;
        // What asks for the search has not come by.
        commit(&metadata, set(KmsKeyState::PendingDeletion)).await;
        metadata.enable_kms_key(KEY, true).await.unwrap();
        commit(&metadata, set(KmsKeyState::Disabled)).await;
        commit(&metadata, set(KmsKeyState::PendingDeletion)).await;
        metadata.shutdown().await;
        let metadata = world.serving().await;
        assert_eq!(settled(&metadata).await, KmsKeyState::Destroyed);
        metadata.shutdown().await;
    });
}
