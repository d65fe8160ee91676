//! What came to buckets and versions with format level 4: how versions are kept, named and protected, and who may reach them.

use super::{Command, Condition};
use access::lifecycle::plan::{Action, Calendar};
use access::lifecycle::rule::Class;
use bytes::Bytes;
use codec::effect::{
    AclRow, ConfigKind, Content, DefaultEncryptionRow, DefaultRetentionRow, ObjectKeyRow, OwnershipRule,
    PublicAccessBlockRow, RestoreRow, RetentionRow, Tag, UploadName,
};
use codec::id::{BucketId, Lsn};
use codec::level::FormatLevel;

/// Longest configuration of a bucket, in bytes.
pub const MAX_BUCKET_CONFIG: usize = 1 << 20;
/// Longest configuration of an inventory, in bytes: all of a bucket are asked for at once.
pub const MAX_INVENTORY_CONFIG: usize = 16 << 10;
/// Most inventories of a bucket.
pub const MAX_INVENTORIES: usize = 1000;

/// What a new bucket is given at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketWith {
    /// Object Lock, and versions with it.
    pub lock: bool,
    /// Whether lists count in it.
    pub ownership: OwnershipRule,
    /// Its public access block.
    pub block: Option<PublicAccessBlockRow>,
    /// Its list; `None`: the owner alone.
    pub acl: Option<AclRow>,
    /// Its tags.
    pub tags: Vec<Tag>,
}

/// What changes of a bucket's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketChange {
    /// It keeps versions from now on, or no more.
    Versioning(bool),
    /// It has Object Lock from now on, with this default for new versions.
    Lock(Option<DefaultRetentionRow>),
    /// Whether lists count in it. [`OwnershipRule::Unset`] takes the rule away.
    Ownership(OwnershipRule),
    /// The public access block; `None` takes it away.
    Block(Option<PublicAccessBlockRow>),
    /// Its list; `None`: the owner alone.
    Acl(Option<AclRow>),
    /// How new objects are encrypted unless the request says otherwise.
    Encryption {
        /// SSE-S3.
        encrypt: bool,
        /// Another class.
        default: Option<DefaultEncryptionRow>,
    },
    /// Its tags.
    Tags(Vec<Tag>),
}

/// Whose quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuotaOf {
    /// A bucket's.
    Bucket(BucketId),
    /// An account's, by its id: of all its buckets together.
    Account(String),
}

/// How much there may be. 0: no limit. What there is already stays, and nothing is added for as long as there is more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of versions and of parts of open uploads, as clients see them.
    pub max_bytes: u64,
    /// Versions; delete markers do not count.
    pub max_objects: u64,
}

/// Body of [`Command::PutBucketConfig`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutBucketConfig {
    /// The bucket.
    pub bucket: BucketId,
    /// Which configuration.
    pub kind: ConfigKind,
    /// An inventory's id; empty for others.
    pub id: String,
    /// At most [`MAX_BUCKET_CONFIG`] bytes; `None` takes it away.
    pub body: Option<Bytes>,
}

/// What a new version carries besides headers and bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Its tags.
    pub tags: Vec<Tag>,
    /// Its list; `None`: the owner alone.
    pub acl: Option<AclRow>,
    /// Canonical id of its owner; empty: the bucket's.
    pub owner: String,
    /// Until when it is to be kept, if the client said so; else the bucket's default counts.
    pub retention: Option<RetentionRow>,
    /// It is to be under a legal hold.
    pub hold: bool,
    /// Random: makes the version's id hard to guess.
    pub nonce: [u8; 8],
    /// How a client made it. It is not kept: only who is told of it learns it.
    pub made: Made,
}

/// How a client made an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Made {
    /// By PutObject.
    #[default]
    Put,
    /// By CopyObject.
    Copy,
    /// By a form.
    Post,
}

impl Attached {
    fn says_more_than_before(&self) -> bool {
        !self.tags.is_empty() || self.acl.is_some() || self.retention.is_some() || self.hold
    }
}

/// Which version of a key is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The newest.
    Current,
    /// The null version.
    Null,
    /// The one with this id.
    Id(String),
}

/// Body of [`Command::DeleteVersions`]: up to [`super::MAX_DELETE_KEYS`] in one entry, each decided for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteVersions {
    /// The bucket.
    pub bucket: BucketId,
    /// What goes.
    pub versions: Vec<DeleteVersion>,
    /// Canonical id of the owner of delete markers; empty: the bucket's.
    pub owner: String,
    /// Random: makes the ids of delete markers hard to guess.
    pub nonce: [u8; 8],
    /// Milliseconds since the Unix epoch: Last-Modified of delete markers.
    pub now_ms: u64,
}

/// A version that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteVersion {
    /// The key.
    pub key: String,
    /// Which. The current one of a bucket that keeps versions stays, under a delete marker.
    pub named: Named,
    /// What must hold of it.
    pub condition: DeleteCondition,
    /// Whoever asks may bypass governance retention, and wants to.
    pub bypass: bool,
}

/// What must hold of a version for it to be deleted: all of it that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteCondition {
    /// [`Condition::None`], [`Condition::IfMatch`] or [`Condition::IfMatchAny`].
    pub etag: Condition,
    /// Last-Modified, in whole seconds since the Unix epoch.
    pub modified_s: Option<u64>,
    /// Its bytes.
    pub size: Option<u64>,
}

/// Body of [`Command::FollowRules`]: up to [`super::MAX_DELETE_KEYS`] steps and uploads in one entry, each decided for itself.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowRules {
    /// The bucket.
    pub bucket: BucketId,
    /// What was found to be due. Moves come last, if there are any.
    pub steps: Vec<RuleStep>,
    /// Uploads that were found to be due.
    pub uploads: Vec<UploadName>,
    /// Random: makes the ids of delete markers hard to guess.
    pub nonce: [u8; 8],
    /// Milliseconds since the Unix epoch: Last-Modified of delete markers.
    pub now_ms: u64,
    /// The earlier of the retention clock and the machine's, in milliseconds since the Unix epoch: what is due is due by then.
    pub due_ms: u64,
    /// How days are counted.
    pub calendar: Calendar,
}

/// What the rules of a bucket would do with a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleStep {
    /// The key.
    pub key: String,
    /// [`codec::effect::VersionRow::seq`].
    pub seq: Lsn,
    /// Its id; empty: the null version.
    pub version_id: String,
    /// Of a noncurrent one, when the version above it was put, in milliseconds since the Unix epoch; `None`: it is the newest.
    pub noncurrent_ms: Option<u64>,
    /// What.
    pub action: Action,
}

/// What became of a version that was to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Id of the version that is gone for good (empty: the null version), and whether it was a delete marker.
    pub removed: Option<(String, bool)>,
    /// Id of the delete marker that was put; empty: a null one.
    pub marker: Option<String>,
}

/// A null version that is gone for good, because another one took its place. Whoever keeps a record of deletions learns of it here:
/// the command that did it names none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// The LSN of the entry that it was committed by.
    pub lsn: Lsn,
    /// Its entity tag, without quotes; empty for a delete marker.
    pub etag: String,
    /// Its bytes.
    pub size: u64,
    /// It was a delete marker.
    pub delete_marker: bool,
}

/// Body of [`Command::ChangeVersion`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeVersion {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: String,
    /// Which version.
    pub named: Named,
    /// What changes.
    pub change: VersionChange,
    /// Whoever asks may bypass governance retention, and wants to.
    pub bypass: bool,
    /// Only if it is this one ([`codec::effect::VersionRow::seq`]).
    pub seq: Option<Lsn>,
}

/// What changes of a version. Its bytes never do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionChange {
    /// Its tags.
    Tags(Vec<Tag>),
    /// Its list; `None`: the owner alone.
    Acl(Option<AclRow>),
    /// Until when it is kept.
    Retention(Option<RetentionRow>),
    /// Its legal hold.
    Hold(bool),
    /// What has become of the wish to read it; only if it was `from`.
    Restore {
        /// What it was.
        from: Option<RestoreRow>,
        /// What it is.
        to: Option<RestoreRow>,
    },
}

impl Command {
    /// The lowest format level at which a leader is known to understand all of it. One of an earlier release would drop what it does
    /// not know of: an object would lack the lock that was asked for, and nobody would be told.
    pub fn needs_level(&self) -> FormatLevel {
        let more = match self {
            Command::ChangeBucket { .. } | Command::PutBucketConfig(_) => true,
            Command::DeleteVersions(_) | Command::ChangeVersion(_) | Command::FollowRules(_) => true,
            Command::CreateBucket(create) => create.with != BucketWith::default(),
            Command::CommitObject(object) => {
                object.attached.says_more_than_before() || is_more(&object.content) || self.is_archived()
            }
            Command::CreateUpload(upload) => {
                upload.attached.says_more_than_before() || upload.sealed.is_some() || self.is_archived()
            }
            Command::CommitPart { content, .. } => is_more(content),
            Command::CompleteUpload(complete) => is_more(&complete.content),
            _ => false,
        };
        if more { FormatLevel::VERSIONS } else { FormatLevel::BEFORE }
    }

    /// Whether it makes a version of a class that is read only after it was restored. Before [`FormatLevel::VERSIONS`] nothing can
    /// be restored, and one half of the gateways would read it all the same.
    pub fn is_archived(&self) -> bool {
        let meta = match self {
            Command::CommitObject(object) => &object.meta,
            Command::CreateUpload(upload) => &upload.meta,
            _ => return false,
        };
        Class::of_label(&meta.storage_class) != Class::Standard
    }
}

fn is_more(content: &Content) -> bool {
    let sealed: Option<&ObjectKeyRow> = content.sealed.as_ref();
    sealed.is_some() || !content.parts.is_empty()
}
