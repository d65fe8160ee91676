//! What travels comes out as it went in, and who may ask what.
#![allow(clippy::unwrap_used)]

use super::answer::{Answer, ErrorMessage, Said};
use super::command::{CommitMessage, OutcomeMessage, refusal_message, refusal_of};
use super::sessions::{for_one, marked};
use super::*;
use crate::client::{CommitError, FrameReadError, LookupError};
use crate::command::{
    Attached, BucketChange, BucketWith, ChangeVersion, Command, CommitObject, CompleteUpload, Condition, CreateBucket,
    CreateUpload, DeleteCondition, DeleteVersion, DeleteVersions, Gone, Made, ManifestFault, Named, NewChunk, NewFrame,
    Outcome, PutBucketConfig, Refusal, Replaced, VersionChange,
};
use access::lock::{Locked, RetentionError};
use bytes::Bytes;
use codec::effect::*;
use codec::id::{BucketId, ChunkId, DomainId, DriveId, Epoch, Lsn, StripeId};
use prost::Message;

const ID: ChunkId = ChunkId([7; 32]);

fn chunk(frame: NewFrame) -> NewChunk {
    let children = vec![ChunkId([1; 32]), ChunkId([2; 32])];
    NewChunk { id: ID, domain: DomainId(3), plain_len: 4, frame, is_manifest: true, children }
}

fn chunks() -> Vec<NewChunk> {
    let inside = NewFrame::InStripe { shard: 3, offset: 4096, len: 77 };
    vec![chunk(inside), chunk(NewFrame::Inline(Bytes::new())), chunk(NewFrame::Inline(Bytes::from_static(b"frame")))]
}

fn upload() -> UploadName {
    UploadName { bucket: 5, key: "a/b".into(), upload_id: "2a".into() }
}

fn content() -> Content {
    Content { size: 9, etag: "e".into(), manifest: Bytes::from_static(b"m"), ..Content::default() }
}

fn conditions() -> Vec<Condition> {
    vec![
        Condition::None,
        Condition::IfNoneMatchAny,
        Condition::IfNoneMatch("a".into()),
        Condition::IfMatchAny,
        Condition::IfMatch("b".into()),
    ]
}

fn attached() -> Attached {
    Attached {
        tags: vec![Tag { key: "t".into(), value: "v".into() }],
        acl: Some(AclRow { grants: vec![AclGrantRow { id: "a".into(), ..AclGrantRow::default() }] }),
        owner: "o".into(),
        retention: Some(RetentionRow { mode: 2, until_ms: 9 }),
        hold: true,
        nonce: [5; 8],
        made: Made::Copy,
    }
}

/// What came with format level 4.
fn later_commands() -> Vec<Command> {
    let bucket = BucketId(5);
    let Attached { tags, acl, retention, .. } = attached();
    let block = Some(PublicAccessBlockRow { restrict: true, ..PublicAccessBlockRow::default() });
    let default = Some(DefaultRetentionRow { mode: 1, days: 2, years: 0 });
    let kms = Some(DefaultEncryptionRow { class: 3, key: "k".into() });
    let restore = Some(RestoreRow { days: 1, until_ms: 2 });
    let ownership = OwnershipRule::ObjectWriter;
    let with = BucketWith { lock: true, ownership, block, acl: acl.clone(), tags: tags.clone() };
    let create = CreateBucket {
        name: "b".into(),
        owner: "o".into(),
        location: String::new(),
        encrypt: false,
        zstd_level: 0,
        now_ms: 6,
        with,
    };
    let mut all = vec![Command::CreateBucket(create)];
    for change in [
        BucketChange::Versioning(true),
        BucketChange::Versioning(false),
        BucketChange::Lock(None),
        BucketChange::Lock(default),
        BucketChange::Ownership(OwnershipRule::Unset),
        BucketChange::Ownership(ownership),
        BucketChange::Block(None),
        BucketChange::Block(block),
        BucketChange::Acl(None),
        BucketChange::Acl(acl.clone()),
        BucketChange::Encryption { encrypt: true, default: kms },
        BucketChange::Tags(tags.clone()),
        BucketChange::Tags(Vec::new()),
    ] {
        all.push(Command::ChangeBucket { bucket, change });
    }
    for body in [None, Some(Bytes::new()), Some(Bytes::from_static(b"{}"))] {
        let (kind, id) = (ConfigKind::Inventory, "weekly".to_owned());
        all.push(Command::PutBucketConfig(PutBucketConfig { bucket, kind, id, body }));
    }
    let version = |named, etag| DeleteVersion {
        key: "k".into(),
        named,
        condition: DeleteCondition { etag, modified_s: Some(0), size: Some(3) },
        bypass: true,
    };
    let versions = vec![
        version(Named::Current, Condition::None),
        version(Named::Null, Condition::IfMatchAny),
        version(Named::Id("2a".into()), Condition::IfMatch("e".into())),
        DeleteVersion {
            condition: DeleteCondition::default(),
            bypass: false,
            ..version(Named::Current, Condition::None)
        },
    ];
    let (owner, nonce) = ("o".to_owned(), [6; 8]);
    all.push(Command::DeleteVersions(DeleteVersions { bucket, versions, owner, nonce, now_ms: 7 }));
    for change in [
        VersionChange::Tags(tags),
        VersionChange::Acl(acl),
        VersionChange::Acl(None),
        VersionChange::Retention(retention),
        VersionChange::Retention(None),
        VersionChange::Hold(true),
        VersionChange::Hold(false),
        VersionChange::Restore { from: None, to: restore },
        VersionChange::Restore { from: restore, to: None },
    ] {
        let (key, named) = ("k".to_owned(), Named::Id("2a".into()));
        all.push(Command::ChangeVersion(ChangeVersion { bucket, key, named, change, bypass: true, seq: Some(Lsn(8)) }));
    }
    all
}

#[test]
fn what_an_earlier_leader_would_drop_is_not_sent_to_it() {
    use codec::level::FormatLevel;
    for command in later_commands() {
        assert_eq!(command.needs_level(), FormatLevel::VERSIONS, "{command:?}");
    }
    for command in commands() {
        let with = matches!(command, Command::CommitObject(_) | Command::CreateUpload(_));
        let needs = if with { FormatLevel::VERSIONS } else { FormatLevel::BEFORE };
        assert_eq!(command.needs_level(), needs, "{command:?}");
    }
}

fn commands() -> Vec<Command> {
    let (meta, bucket) = (ObjectMeta { content_type: "t".into(), ..ObjectMeta::default() }, BucketId(5));
    let stripe =
        StripeRow { descriptor: Bytes::from_static(b"d"), drives: vec![Bytes::new(), Bytes::from(vec![1; 16])] };
    let keys = conditions().into_iter().map(|condition| ("k".to_owned(), condition)).collect();
    let mut all = vec![
        Command::CreateBucket(CreateBucket {
            name: "b".into(),
            owner: "o".into(),
            location: "l".into(),
            encrypt: true,
            zstd_level: -3,
            now_ms: 6,
            with: BucketWith::default(),
        }),
        Command::DeleteBucket { bucket },
        Command::ConfigureBucket { bucket, encrypt: true, zstd_level: 19 },
        Command::CommitStripe { stripe, chunks: chunks() },
        Command::DeleteObjects { bucket, keys },
        Command::DeleteObjects { bucket, keys: Vec::new() },
        Command::CreateUpload(CreateUpload {
            bucket,
            key: "k".into(),
            nonce: [4; 16],
            initiator: "i".into(),
            meta: meta.clone(),
            checksum: 3,
            full_object_checksum: true,
            domain: DomainId(1),
            encrypted: true,
            now_ms: 1,
            attached: attached(),
            sealed: Some(ObjectKeyRow { wrapped: vec![7].into() }),
        }),
        Command::CommitPart { upload: upload(), number: 7, content: content(), chunks: chunks(), now_ms: 8 },
        Command::AbortUpload { upload: upload() },
    ];
    for condition in conditions() {
        all.push(Command::DeleteObject { bucket, key: "k".into(), condition: condition.clone() });
        all.push(Command::CommitObject(CommitObject {
            bucket,
            key: "k".into(),
            condition: condition.clone(),
            meta: meta.clone(),
            content: content(),
            chunks: chunks(),
            now_ms: 2,
            attached: attached(),
        }));
        all.push(Command::CompleteUpload(CompleteUpload {
            upload: upload(),
            parts: vec![(1, "a".into()), (2, "b".into())],
            content: content(),
            chunks: chunks(),
            condition,
            now_ms: 3,
            nonce: [3; 8],
        }));
    }
    all
}

#[test]
fn every_command_of_a_gateway_comes_out_as_it_went_in() {
    for command in commands().into_iter().chain(later_commands()) {
        let message = CommitMessage::new(Epoch(9), command.clone()).unwrap();
        let back = CommitMessage::decode(&*message.encode_to_vec()).unwrap();
        assert_eq!(back.value(), Some((Epoch(9), command)));
    }
}

#[test]
fn r13_what_is_not_for_gateways_can_not_be_said() {
    for command in [
        Command::PutSetting(SettingRow::default()),
        Command::RegisterDrive(DriveRow::default()),
        Command::DeleteAccount { id: "a".into() },
        Command::StartEpoch { epoch: Epoch(1), journal: Epoch(1) },
        Command::DropStripes(Vec::new()),
        Command::ReleaseReclaim { floor: Lsn(1) },
        Command::CondemnChunks(vec![ID]),
    ] {
        assert!(CommitMessage::new(Epoch(9), command.clone()).is_none(), "{command:?}");
    }
    let no_condition = CommitMessage::new(Epoch(9), commands().pop().unwrap()).unwrap();
    let Some(super::command::Asked::CompleteUpload(mut complete)) = no_condition.command else { panic!() };
    complete.condition.as_mut().unwrap().kind = 5;
    let unknown = CommitMessage { writer: 9, command: Some(super::command::Asked::CompleteUpload(complete)), by: None };
    assert_eq!(unknown.value(), None, "a condition of tomorrow is not no condition");
    assert_eq!(CommitMessage::default().value(), None);
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::NoSuchBucket,
        Refusal::BucketExists,
        Refusal::BucketOwnedByYou,
        Refusal::BucketNotEmpty,
        Refusal::NoSuchKey,
        Refusal::PreconditionFailed,
        Refusal::BadKey,
        Refusal::NoSuchUpload,
        Refusal::InvalidPart { number: 7 },
        Refusal::InvalidPartOrder,
        Refusal::PartTooSmall { number: 1, size: 2, etag: "e".into() },
        Refusal::MissingChunks(vec![ID, ChunkId([9; 32])]),
        Refusal::BadManifest(ManifestFault::Malformed),
        Refusal::BadManifest(ManifestFault::Length),
        Refusal::BadManifest(ManifestFault::Chunk),
        Refusal::BadManifest(ManifestFault::Frame),
        Refusal::Fenced { writer: Epoch(1), current: Epoch(2) },
        Refusal::BadStripe(StripeId { epoch: Epoch(1), counter: 2 }),
        Refusal::NoSuchAccount,
        Refusal::TooLarge,
        Refusal::NoSuchDomain(DomainId(7)),
        Refusal::NeedsLevel { needs: codec::level::FormatLevel(4), at: codec::level::FormatLevel(3) },
        Refusal::NoSuchVersion,
        Refusal::Locked(Locked::Hold),
        Refusal::Locked(Locked::Compliance),
        Refusal::Locked(Locked::Governance),
        Refusal::VersioningLocked,
        Refusal::IsDeleteMarker,
        Refusal::NotVersioned,
        Refusal::QuotaExceeded { account: true },
        Refusal::QuotaExceeded { account: false },
        Refusal::NoLock,
        Refusal::NoSuchWebhook("archive".into()),
        Refusal::Retention(RetentionError::Past),
        Refusal::Retention(RetentionError::TooFar),
        Refusal::Retention(RetentionError::Locked(Locked::Governance)),
    ]
}

#[test]
fn every_outcome_and_refusal_comes_out_as_it_went_in() {
    let version = || Box::new(VersionRow { key: "k".into(), ..VersionRow::default() });
    let many = std::iter::once(Ok(true)).chain([Ok(false)]).chain(refusals().into_iter().map(Err)).collect();
    for outcome in [
        Outcome::Done,
        Outcome::BucketCreated(BucketRow { name: "b".into(), ..BucketRow::default() }),
        Outcome::BucketDeleted { uploads_left: true },
        Outcome::BucketDeleted { uploads_left: false },
        Outcome::Committed(version(), None),
        Outcome::Committed(
            version(),
            Some(Box::new(Replaced { lsn: Lsn(7), etag: "e".into(), size: 9, delete_marker: true })),
        ),
        Outcome::Deleted(None),
        Outcome::Deleted(Some(version())),
        Outcome::DeletedMany(many),
        Outcome::UploadCreated(upload()),
        Outcome::PartCommitted(Box::new(PartRow { number: 4, ..PartRow::default() })),
        Outcome::VersionsDeleted(vec![
            Ok(Gone::default()),
            Ok(Gone { removed: Some((String::new(), true)), marker: None }),
            Ok(Gone { removed: Some(("2a".into(), false)), marker: Some(String::new()) }),
            Err(Refusal::Locked(Locked::Compliance)),
        ]),
    ] {
        let message = OutcomeMessage::new(outcome.clone()).unwrap();
        assert_eq!(OutcomeMessage::decode(&*message.encode_to_vec()).unwrap().value(), Some(outcome));
    }
    for refusal in refusals() {
        assert_eq!(refusal_of(&refusal_message(&refusal).unwrap()), Some(refusal));
    }
}

fn travelled(error: impl Into<ErrorMessage>) -> ErrorMessage {
    let bytes = Answer::error(error).encode_to_vec();
    match Answer::decode(&*bytes).unwrap().said {
        Some(Said::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_error_comes_out_as_it_went_in() {
    let reason = || "why".to_owned();
    for error in [
        CommitError::Refused(Refusal::NoSuchKey),
        CommitError::ReadOnly { reason: reason() },
        CommitError::Full,
        CommitError::Unavailable { reason: reason() },
    ] {
        let said = format!("{error:?}");
        assert_eq!(format!("{:?}", travelled(error).commit()), said);
    }
    let other = travelled(CommitError::Refused(Refusal::BadSeal)).commit();
    assert!(matches!(other, CommitError::Unavailable { reason } if reason.contains("ledger")));
    let lookups = [
        LookupError::Unavailable { reason: reason() },
        LookupError::Damaged { reason: reason() },
        LookupError::Unknown { what: reason() },
    ];
    for error in lookups.clone() {
        let said = format!("{error:?}");
        assert_eq!(format!("{:?}", travelled(error).lookup()), said);
    }
    let frames = lookups.into_iter().map(FrameReadError::Lookup);
    for error in frames.chain([FrameReadError::Unreachable { id: ID, reason: reason() }, FrameReadError::Unknown(ID)]) {
        let said = format!("{error:?}");
        assert_eq!(format!("{:?}", travelled(error).frame(ID)), said);
    }
}

#[test]
fn a_session_comes_out_as_it_went_in() {
    let session = Session {
        geometry: "4+2".parse().unwrap(),
        shard_target: 8 << 20,
        read_only: Some("why".into()),
        applied: Lsn(5),
        sealed: Lsn(4),
        ensemble: vec![DriveId([1; 16]), DriveId([2; 16])],
        drives: vec![DriveRow { path: "/mnt".into(), ..DriveRow::default() }],
        spared: [DriveId([3; 16])].into(),
        nodes: vec![storage_node::remote::NodeAddress {
            name: storage_node::service::identity::NodeName::new("n1").unwrap(),
            address: "host:9100".into(),
        }],
        survive: crate::topology::Level::Rack,
        survives: "the loss of any 2 drives".into(),
        warnings: vec!["w".into()],
        lost: Lsn(3),
        level: codec::level::FormatLevel::NEWEST,
    };
    let bytes = session.to_message().encode_to_vec();
    let back = Session::of_message(super::message::SessionMessage::decode(&*bytes).unwrap());
    assert_eq!(back.as_ref(), Some(&session));
    who_knows_a_session_is_sent_what_is_new(session);
}

fn who_knows_a_session_is_sent_what_is_new(session: Session) {
    let whole = marked(session.to_message());
    let later = Session { applied: Lsn(9), sealed: Lsn(8), ..session.clone() };
    let answer = for_one(&marked(later.to_message()), &whole.mark);
    assert!(answer.same && answer.encoded_len() < 64, "{answer:?}");
    let known = (&session, &whole.mark);
    assert_eq!(Session::of_answer(answer.clone(), Some(known)).as_ref(), Some(&later));
    assert_eq!(Session::of_answer(answer.clone(), None), None, "of something that is not known");
    assert_eq!(Session::of_answer(answer, Some((&session, &Bytes::from_static(b"x")))), None);
    // Whatever else changes is sent, and so is everything to who knows nothing.
    let other = Session { lost: Lsn(7), ..session.clone() };
    for (session, mark) in [(&other, &whole.mark[..]), (&session, &[][..])] {
        let answer = for_one(&marked(session.to_message()), mark);
        assert!(!answer.same);
        assert_eq!(Session::of_answer(answer, Some(known)).as_ref(), Some(session));
    }
    // An older release marks nothing.
    assert_eq!(Session::of_answer(other.to_message(), Some(known)), Some(other));
}

#[test]
fn only_gateways_and_metadata_ask_and_every_call_is_found_by_its_name() {
    for name in Name::ALL {
        assert_eq!(Name::parse(name.as_str()), Some(*name));
        assert!(name.allows(Role::Gateway) && !name.allows(Role::StorageNode));
        assert_eq!(name.allows(Role::Repair), *name == Name::Session);
        assert_eq!(name.question_limit() > 1 << 20, *name == Name::Commit, "what is asked is held in memory");
    }
    assert_eq!(Name::parse("Nothing"), None);
}
