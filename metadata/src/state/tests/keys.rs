//! Keys of the key store, and secrets that are wrapped anew.

use super::world::World;
use crate::command::*;
use crate::index::{self, access};
use crate::keys::rewrap::{Rewrapped, SecretOf};
use crate::keys::{Keys, Purpose, Secret};
use crate::kms::KmsFault;
use codec::effect::*;
use codec::encrypt::KeyEncryptionKey;
use codec::id::*;
use codec::level::FormatLevel;

fn keys() -> Keys {
    Keys::new(KeyEncryptionKey::new([1; 32]))
}

/// A world at the level of keys, with an account.
fn world() -> World {
    let mut world = World::new();
    world.run(Command::RaiseLevel(FormatLevel::VERSIONS)).unwrap();
    let wrapped_secret = keys().wrap_account("alice", &Secret::new("s3cr3t".to_owned())).unwrap();
    let row = AccountRow {
        id: "alice".to_owned(),
        name: "alice".to_owned(),
        access_key: "AK".to_owned(),
        wrapped_secret,
        ..AccountRow::default()
    };
    world.run(Command::PutAccount(row)).unwrap();
    world
}

fn set(id: &str, state: KmsKeyState, since: Option<u64>) -> Command {
    Command::SetKmsKey(SetKmsKey { id: id.to_owned(), state, since })
}

fn key(world: &World) -> KmsKeyRow {
    access::kms_key(&world.view(), "k1").unwrap().unwrap()
}

fn fault(refused: Refusal) -> KmsFault {
    match refused {
        Refusal::Kms { fault, .. } => fault,
        other => panic!("{other:?}"),
    }
}

/// It was found that nothing needs the key; then it was in use again, and something does.
#[test]
fn a_key_is_destroyed_only_by_who_saw_that_nothing_needs_it_since_it_was_out_of_use() {
    let mut world = world();
    let create = Command::CreateKmsKey(keys().new_kms_key("alice", "k1").unwrap());
    world.run(create.clone()).unwrap();
    let wrapped = key(&world).wrapped;
    world.run(create).unwrap();
    assert_eq!(key(&world).wrapped, wrapped, "one that is there stays what it is");
    assert_eq!(
        world.run(set("k1", KmsKeyState::PendingDeletion, None)).unwrap_err(),
        Refusal::KmsKeyInUse("k1".to_owned())
    );
    world.run(set("k1", KmsKeyState::Disabled, None)).unwrap();
    world.run(set("k1", KmsKeyState::PendingDeletion, None)).unwrap();
    let since = key(&world).since;
    for state in [KmsKeyState::Disabled, KmsKeyState::Enabled, KmsKeyState::Disabled, KmsKeyState::PendingDeletion] {
        world.run(set("k1", state, None)).unwrap();
    }
    for stale in [Some(since), None] {
        let refused = world.run(set("k1", KmsKeyState::Destroyed, stale)).unwrap_err();
        assert_eq!(fault(refused), KmsFault::Leaving);
    }
    // Taken back, and what was found before is of no account.
    let since = key(&world).since;
    world.run(set("k1", KmsKeyState::Enabled, None)).unwrap();
    let refused = world.run(set("k1", KmsKeyState::Disabled, Some(since))).unwrap_err();
    assert_eq!(refused, Refusal::KmsKeyInUse("k1".to_owned()));
    for state in [KmsKeyState::Disabled, KmsKeyState::PendingDeletion] {
        world.run(set("k1", state, None)).unwrap();
    }
    let since = key(&world).since;
    world.run(set("k1", KmsKeyState::Destroyed, Some(since))).unwrap();
    assert!(key(&world).wrapped.is_empty());
    assert_eq!(fault(world.run(set("k1", KmsKeyState::Enabled, None)).unwrap_err()), KmsFault::Destroyed);
}

/// A gateway that holds a domain's keys from before must not commit under a key that is on its way out.
#[test]
fn nothing_is_begun_under_a_key_that_is_out_of_use() {
    let mut world = world();
    world.run(Command::CreateKmsKey(keys().new_kms_key("alice", "k1").unwrap())).unwrap();
    let domain = keys().new_domain("alice", &Purpose::Kms("k1".to_owned())).unwrap();
    let Ok(Outcome::Domain(domain)) = world.run(Command::PutDomain(domain)) else { panic!("no domain") };
    let bucket = match world.run(super::world::create_bucket("b", "alice")).unwrap() {
        Outcome::BucketCreated(row) => row.bucket_id(),
        other => panic!("{other:?}"),
    };
    let content = Content {
        domain: domain.id,
        encrypted: true,
        manifest: codec::manifest::Manifest::default().encode(),
        ..Content::default()
    };
    let commit = |content: Content| {
        Command::CommitObject(CommitObject {
            bucket,
            key: "k".to_owned(),
            condition: Condition::None,
            meta: ObjectMeta::default(),
            content,
            chunks: Vec::new(),
            now_ms: 1,
            attached: Attached::default(),
        })
    };
    world.run(commit(content.clone())).unwrap();
    world.run(set("k1", KmsKeyState::Disabled, None)).unwrap();
    assert_eq!(fault(world.run(commit(content.clone())).unwrap_err()), KmsFault::Disabled);
    world.run(set("k1", KmsKeyState::Enabled, None)).unwrap();
    world.run(commit(content)).unwrap();
}

#[test]
fn names_of_keys_stand_in_headers() {
    let mut world = world();
    let create = |id: &str, account: &str| Command::CreateKmsKey(keys().new_kms_key(account, id).unwrap());
    for bad in ["", "a b", "a:b", "aws/s3", &"k".repeat(300), "k\n"] {
        assert_eq!(world.run(create(bad, "alice")).unwrap_err(), Refusal::BadKmsKey, "{bad:?}");
    }
    assert_eq!(world.run(create("k1", "nobody")).unwrap_err(), Refusal::NoSuchAccount);
    world.run(create("archive/2026.q1", "alice")).unwrap();
    assert_eq!(world.run(create("aws/s3/bob", "alice")).unwrap_err(), Refusal::BadKmsKey, "another account's default");
    world.run(create("aws/s3/alice", "alice")).unwrap();
}

/// It was looked at by the gateway and destroyed before the bucket's row was changed: every write is refused from then on.
#[test]
fn a_default_names_a_key_of_the_owner_that_is_in_use() {
    let mut world = world();
    world.run(Command::CreateKmsKey(keys().new_kms_key("alice", "k1").unwrap())).unwrap();
    let bucket = |world: &mut World, name, owner| match world.run(super::world::create_bucket(name, owner)).unwrap() {
        Outcome::BucketCreated(row) => row.bucket_id(),
        other => panic!("{other:?}"),
    };
    let (ours, theirs) = (bucket(&mut world, "ours", "alice"), bucket(&mut world, "theirs", "bob"));
    let default = |bucket| {
        let default = DefaultEncryptionRow { class: ProtectionClass::Kms.into(), key: "k1".to_owned() };
        Command::ChangeBucket { bucket, change: BucketChange::Encryption { encrypt: false, default: Some(default) } }
    };
    world.run(default(ours)).unwrap();
    assert_eq!(fault(world.run(default(theirs)).unwrap_err()), KmsFault::Unknown);
    let none = BucketChange::Encryption { encrypt: false, default: None };
    world.run(Command::ChangeBucket { bucket: ours, change: none }).unwrap();
    world.run(set("k1", KmsKeyState::Disabled, None)).unwrap();
    assert_eq!(fault(world.run(default(ours)).unwrap_err()), KmsFault::Disabled);
}

#[test]
fn what_changed_meanwhile_is_not_put_back_by_a_new_wrapping() {
    let mut world = world();
    let was = index::account(&world.view(), "alice").unwrap().unwrap().wrapped_secret;
    let domain = keys().new_domain("alice", &Purpose::Managed).unwrap();
    let Ok(Outcome::Domain(row)) = world.run(Command::PutDomain(domain)) else { panic!("no domain") };
    let id = DomainId(row.id);
    let rewrap = |of, was, is: &'static [u8]| Rewrapped { of, was, is: is.into() };
    world
        .run(Command::Rewrap(vec![
            rewrap(SecretOf::Account("alice".to_owned()), was.clone(), b"new"),
            rewrap(SecretOf::ChunkKey(id), row.wrapped_chunk_key, b"chunk"),
            rewrap(SecretOf::DataKey(id), row.wrapped_data_key, b"data"),
        ]))
        .unwrap();
    let account = || index::account(&world.view(), "alice").unwrap().unwrap().wrapped_secret;
    assert_eq!(account(), "new");
    let row = index::domain(&world.view(), id).unwrap().unwrap();
    assert_eq!((&row.wrapped_chunk_key[..], &row.wrapped_data_key[..]), (&b"chunk"[..], &b"data"[..]));
    world.run(Command::Rewrap(vec![rewrap(SecretOf::Account("alice".to_owned()), was, b"late")])).unwrap();
    assert_eq!(index::account(&world.view(), "alice").unwrap().unwrap().wrapped_secret, "new");
}
