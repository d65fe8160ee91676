//! Messages of what came to buckets and versions with format level 4. A change that this version does not know is no command: one of
//! tomorrow must not count as none.

use super::{ConditionMessage, RefusalMessage, condition_message, condition_of, refusal_message, refusal_of};
use crate::command::{
    Attached, BucketChange, BucketWith, ChangeVersion, DeleteCondition, DeleteVersion, DeleteVersions, Gone, Made,
    Named, PutBucketConfig, Refusal, VersionChange,
};
use bytes::Bytes;
use codec::effect::{
    AclRow, BucketConfigName, ConfigKind, DefaultEncryptionRow, DefaultRetentionRow, OwnershipRule,
    PublicAccessBlockRow, RestoreRow, RetentionRow, Tag,
};
use codec::id::{BucketId, Lsn};
use prost::{Message, Oneof};

messages! {
    BucketWithMessage {
        #[prost(bool, tag = "1")] lock: bool,
        #[prost(enumeration = "OwnershipRule", tag = "2")] ownership: i32,
        #[prost(message, optional, tag = "3")] block: Option<PublicAccessBlockRow>,
        #[prost(message, optional, tag = "4")] acl: Option<AclRow>,
        #[prost(message, repeated, tag = "5")] tags: Vec<Tag>,
    }
    ChangeBucketMessage {
        #[prost(uint64, tag = "1")] bucket: u64,
        #[prost(oneof = "BucketChanged", tags = "2, 3, 4, 5, 6, 7, 8")] change: Option<BucketChanged>,
    }
    LockMessage { #[prost(message, optional, tag = "1")] default: Option<DefaultRetentionRow> }
    BlockMessage { #[prost(message, optional, tag = "1")] block: Option<PublicAccessBlockRow> }
    AclMessage { #[prost(message, optional, tag = "1")] acl: Option<AclRow> }
    EncryptionMessage {
        #[prost(bool, tag = "1")] encrypt: bool,
        #[prost(message, optional, tag = "2")] default: Option<DefaultEncryptionRow>,
    }
    TagsMessage { #[prost(message, repeated, tag = "1")] tags: Vec<Tag> }
    BucketConfigMessage {
        #[prost(message, optional, tag = "1")] name: Option<BucketConfigName>,
        /// Absent: it is taken away.
        #[prost(bytes = "bytes", optional, tag = "2")] body: Option<Bytes>,
    }
    AttachedMessage {
        #[prost(message, repeated, tag = "1")] tags: Vec<Tag>,
        #[prost(message, optional, tag = "2")] acl: Option<AclRow>,
        #[prost(string, tag = "3")] owner: String,
        #[prost(message, optional, tag = "4")] retention: Option<RetentionRow>,
        #[prost(bool, tag = "5")] hold: bool,
        /// 8 bytes.
        #[prost(bytes = "bytes", tag = "6")] nonce: Bytes,
        /// 0: put, 1: copied, 2: by a form.
        #[prost(uint32, tag = "7")] made: u32,
    }
    VersionsMessage {
        #[prost(uint64, tag = "1")] bucket: u64,
        #[prost(message, repeated, tag = "2")] versions: Vec<VersionMessage>,
        #[prost(string, tag = "3")] owner: String,
        #[prost(bytes = "bytes", tag = "4")] nonce: Bytes,
        #[prost(uint64, tag = "5")] now_ms: u64,
    }
    VersionMessage {
        #[prost(string, tag = "1")] key: String,
        /// Absent: the current one. Empty: the null version.
        #[prost(string, optional, tag = "2")] named: Option<String>,
        #[prost(message, optional, tag = "3")] etag: Option<ConditionMessage>,
        #[prost(uint64, optional, tag = "4")] modified_s: Option<u64>,
        #[prost(uint64, optional, tag = "5")] size: Option<u64>,
        #[prost(bool, tag = "7")] bypass: bool,
    }
    ChangeVersionMessage {
        #[prost(uint64, tag = "1")] bucket: u64,
        #[prost(string, tag = "2")] key: String,
        /// As in [`VersionMessage`].
        #[prost(string, optional, tag = "3")] named: Option<String>,
        #[prost(bool, tag = "4")] bypass: bool,
        #[prost(uint64, optional, tag = "5")] seq: Option<u64>,
        #[prost(oneof = "VersionChanged", tags = "6, 7, 8, 9, 10")] change: Option<VersionChanged>,
    }
    RetentionMessage { #[prost(message, optional, tag = "1")] retention: Option<RetentionRow> }
    RestoreMessage {
        #[prost(message, optional, tag = "1")] from: Option<RestoreRow>,
        #[prost(message, optional, tag = "2")] to: Option<RestoreRow>,
    }
    GoneMessage {
        /// Absent: nothing is gone for good. Empty: the null version.
        #[prost(string, optional, tag = "1")] removed: Option<String>,
        #[prost(bool, tag = "2")] was_marker: bool,
        #[prost(string, optional, tag = "3")] marker: Option<String>,
        #[prost(message, optional, tag = "4")] refusal: Option<RefusalMessage>,
    }
    GoneMessages { #[prost(message, repeated, tag = "1")] versions: Vec<GoneMessage> }
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum BucketChanged {
    #[prost(bool, tag = "2")]
    Versioning(bool),
    #[prost(message, tag = "3")]
    Lock(LockMessage),
    #[prost(enumeration = "OwnershipRule", tag = "4")]
    Ownership(i32),
    #[prost(message, tag = "5")]
    Block(BlockMessage),
    #[prost(message, tag = "6")]
    Acl(AclMessage),
    #[prost(message, tag = "7")]
    Encryption(EncryptionMessage),
    #[prost(message, tag = "8")]
    Tags(TagsMessage),
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum VersionChanged {
    #[prost(message, tag = "6")]
    Tags(TagsMessage),
    #[prost(message, tag = "7")]
    Acl(AclMessage),
    #[prost(message, tag = "8")]
    Retention(RetentionMessage),
    #[prost(bool, tag = "9")]
    Hold(bool),
    #[prost(message, tag = "10")]
    Restore(RestoreMessage),
}

/// Without anything asked for there is no message, which releases of before read as they always did.
pub(super) fn with_message(with: BucketWith) -> Option<BucketWithMessage> {
    let BucketWith { lock, ownership, block, acl, tags } = with.clone();
    let message = BucketWithMessage { lock, ownership: ownership.into(), block, acl, tags };
    (with != BucketWith::default()).then_some(message)
}

pub(super) fn with_of(message: Option<BucketWithMessage>) -> Option<BucketWith> {
    let BucketWithMessage { lock, ownership, block, acl, tags } = message.unwrap_or_default();
    Some(BucketWith { lock, ownership: ownership.try_into().ok()?, block, acl, tags })
}

pub(super) fn change_bucket_message(bucket: BucketId, change: BucketChange) -> ChangeBucketMessage {
    let change = match change {
        BucketChange::Versioning(enabled) => BucketChanged::Versioning(enabled),
        BucketChange::Lock(default) => BucketChanged::Lock(LockMessage { default }),
        BucketChange::Ownership(rule) => BucketChanged::Ownership(rule.into()),
        BucketChange::Block(block) => BucketChanged::Block(BlockMessage { block }),
        BucketChange::Acl(acl) => BucketChanged::Acl(AclMessage { acl }),
        BucketChange::Encryption { encrypt, default } => {
            BucketChanged::Encryption(EncryptionMessage { encrypt, default })
        }
        BucketChange::Tags(tags) => BucketChanged::Tags(TagsMessage { tags }),
    };
    ChangeBucketMessage { bucket: bucket.0, change: Some(change) }
}

pub(super) fn change_bucket_of(message: ChangeBucketMessage) -> Option<(BucketId, BucketChange)> {
    let change = match message.change? {
        BucketChanged::Versioning(enabled) => BucketChange::Versioning(enabled),
        BucketChanged::Lock(LockMessage { default }) => BucketChange::Lock(default),
        BucketChanged::Ownership(rule) => BucketChange::Ownership(rule.try_into().ok()?),
        BucketChanged::Block(BlockMessage { block }) => BucketChange::Block(block),
        BucketChanged::Acl(AclMessage { acl }) => BucketChange::Acl(acl),
        BucketChanged::Encryption(EncryptionMessage { encrypt, default }) => {
            BucketChange::Encryption { encrypt, default }
        }
        BucketChanged::Tags(TagsMessage { tags }) => BucketChange::Tags(tags),
    };
    Some((BucketId(message.bucket), change))
}

pub(super) fn config_message(put: PutBucketConfig) -> BucketConfigMessage {
    let PutBucketConfig { bucket: BucketId(bucket), kind, id, body } = put;
    BucketConfigMessage { name: Some(BucketConfigName { bucket, kind: kind.into(), id }), body }
}

pub(super) fn config_of(message: BucketConfigMessage) -> Option<PutBucketConfig> {
    let BucketConfigName { bucket, kind, id } = message.name?;
    let kind = ConfigKind::try_from(kind).ok().filter(|kind| *kind != ConfigKind::Unspecified)?;
    Some(PutBucketConfig { bucket: BucketId(bucket), kind, id, body: message.body })
}

pub(super) fn nonce_message(nonce: [u8; 8]) -> Bytes {
    Bytes::copy_from_slice(&nonce)
}

/// None at all is that of a release of before, whose versions have no ids.
pub(super) fn nonce_of(nonce: &[u8]) -> Option<[u8; 8]> {
    if nonce.is_empty() { Some([0; 8]) } else { nonce.try_into().ok() }
}

pub(super) fn attached_message(attached: Attached) -> Option<AttachedMessage> {
    let Attached { tags, acl, owner, retention, hold, nonce, made } = attached;
    let made = match made {
        Made::Put => 0,
        Made::Copy => 1,
        Made::Post => 2,
    };
    Some(AttachedMessage { tags, acl, owner, retention, hold, nonce: nonce_message(nonce), made })
}

pub(super) fn attached_of(message: Option<AttachedMessage>) -> Option<Attached> {
    let AttachedMessage { tags, acl, owner, retention, hold, nonce, made } = message.unwrap_or_default();
    // One that a later release knows is told as if it were put: nothing else depends on it.
    let made = match made {
        1 => Made::Copy,
        2 => Made::Post,
        _ => Made::Put,
    };
    Some(Attached { tags, acl, owner, retention, hold, nonce: nonce_of(&nonce)?, made })
}

fn named_message(named: Named) -> Option<String> {
    match named {
        Named::Current => None,
        Named::Null => Some(String::new()),
        Named::Id(id) => Some(id),
    }
}

fn named_of(named: Option<String>) -> Named {
    match named {
        None => Named::Current,
        Some(id) if id.is_empty() => Named::Null,
        Some(id) => Named::Id(id),
    }
}

fn version_message(version: DeleteVersion) -> VersionMessage {
    let DeleteVersion { key, named, condition, bypass } = version;
    let DeleteCondition { etag, modified_s, size } = condition;
    let (named, etag) = (named_message(named), condition_message(&etag));
    VersionMessage { key, named, etag, modified_s, size, bypass }
}

fn version_of(message: VersionMessage) -> Option<DeleteVersion> {
    let VersionMessage { key, named, etag, modified_s, size, bypass } = message;
    let condition = DeleteCondition { etag: condition_of(etag)?, modified_s, size };
    Some(DeleteVersion { key, named: named_of(named), condition, bypass })
}

pub(super) fn versions_message(delete: DeleteVersions) -> VersionsMessage {
    let DeleteVersions { bucket, versions, owner, nonce, now_ms } = delete;
    let versions = versions.into_iter().map(version_message).collect();
    VersionsMessage { bucket: bucket.0, versions, owner, nonce: nonce_message(nonce), now_ms }
}

pub(super) fn versions_of(message: VersionsMessage) -> Option<DeleteVersions> {
    let VersionsMessage { bucket, versions, owner, nonce, now_ms } = message;
    let versions = versions.into_iter().map(version_of).collect::<Option<_>>()?;
    Some(DeleteVersions { bucket: BucketId(bucket), versions, owner, nonce: nonce_of(&nonce)?, now_ms })
}

pub(super) fn change_message(change: ChangeVersion) -> ChangeVersionMessage {
    let ChangeVersion { bucket, key, named, change, bypass, seq } = change;
    let change = match change {
        VersionChange::Tags(tags) => VersionChanged::Tags(TagsMessage { tags }),
        VersionChange::Acl(acl) => VersionChanged::Acl(AclMessage { acl }),
        VersionChange::Retention(retention) => VersionChanged::Retention(RetentionMessage { retention }),
        VersionChange::Hold(hold) => VersionChanged::Hold(hold),
        VersionChange::Restore { from, to } => VersionChanged::Restore(RestoreMessage { from, to }),
    };
    let (named, seq) = (named_message(named), seq.map(|seq| seq.0));
    ChangeVersionMessage { bucket: bucket.0, key, named, bypass, seq, change: Some(change) }
}

pub(super) fn change_of(message: ChangeVersionMessage) -> Option<ChangeVersion> {
    let ChangeVersionMessage { bucket, key, named, bypass, seq, change } = message;
    let change = match change? {
        VersionChanged::Tags(TagsMessage { tags }) => VersionChange::Tags(tags),
        VersionChanged::Acl(AclMessage { acl }) => VersionChange::Acl(acl),
        VersionChanged::Retention(RetentionMessage { retention }) => VersionChange::Retention(retention),
        VersionChanged::Hold(hold) => VersionChange::Hold(hold),
        VersionChanged::Restore(RestoreMessage { from, to }) => VersionChange::Restore { from, to },
    };
    Some(ChangeVersion { bucket: BucketId(bucket), key, named: named_of(named), change, bypass, seq: seq.map(Lsn) })
}

/// `None`: a refusal that can't be said.
pub(super) fn gone_messages(versions: Vec<Result<Gone, Refusal>>) -> Option<GoneMessages> {
    let one = |version: Result<Gone, Refusal>| match version {
        Ok(Gone { removed, marker }) => {
            let (removed, was_marker) = removed.map_or((None, false), |(id, was_marker)| (Some(id), was_marker));
            Some(GoneMessage { removed, was_marker, marker, refusal: None })
        }
        Err(refusal) => Some(GoneMessage { refusal: Some(refusal_message(&refusal)?), ..GoneMessage::default() }),
    };
    Some(GoneMessages { versions: versions.into_iter().map(one).collect::<Option<_>>()? })
}

pub(super) fn gone_of(messages: GoneMessages) -> Option<Vec<Result<Gone, Refusal>>> {
    let one = |message: GoneMessage| match message.refusal {
        Some(refusal) => Some(Err(refusal_of(&refusal)?)),
        None => {
            let removed = message.removed.map(|id| (id, message.was_marker));
            Some(Ok(Gone { removed, marker: message.marker }))
        }
    };
    messages.versions.into_iter().map(one).collect()
}
