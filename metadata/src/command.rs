//! What can be asked of metadata, what comes of it, and why it may be refused.
//!
//! Commands never reach the journal: only the effects that [`crate::state::decide`] makes of them do.

mod s3;

pub use s3::{
    Attached, BucketChange, BucketWith, ChangeVersion, DeleteCondition, DeleteVersion, DeleteVersions, FollowRules,
    Gone, MAX_BUCKET_CONFIG, MAX_INVENTORIES, MAX_INVENTORY_CONFIG, Made, Named, PutBucketConfig, Quota, QuotaOf,
    Replaced, RuleStep, VersionChange,
};

use crate::iam::{IamCommand, IamError, Value};
use crate::index::reclaim::Hold;
use crate::keys::rewrap::Rewrapped;
use crate::kms::KmsFault;
use access::lock::{Locked, RetentionError};
use bytes::Bytes;
use codec::effect::{
    AcceptedLossRow, AccountRow, BucketRow, CheckpointRow, ClockTick, Content, DomainRow, DriveRow, KmsKeyRow,
    KmsKeyState, NodeRow, NoticeName, ObjectKeyRow, ObjectMeta, PartRow, Place, ReplicatedKey, ReplicationRow,
    SealedRow, SettingRow, StripeRow, UploadName, VersionRow,
};
use codec::id::{BucketId, ChunkId, DomainId, DriveId, Epoch, Lsn, StripeId};
use codec::level::FormatLevel;

/// A change that somebody asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Create a bucket. Names are unique over all accounts.
    CreateBucket(CreateBucket),
    /// Delete a bucket that holds no version. Open uploads don't block it (as in S3): they go with it.
    DeleteBucket {
        /// The bucket.
        bucket: BucketId,
    },
    /// Change a bucket's defaults for new objects.
    ConfigureBucket {
        /// The bucket.
        bucket: BucketId,
        /// New objects are encrypted unless the request says otherwise.
        encrypt: bool,
        /// zstd level for new frames; 0 means the default.
        zstd_level: i32,
    },
    /// Change one thing of a bucket's row.
    ChangeBucket {
        /// The bucket.
        bucket: BucketId,
        /// What.
        change: BucketChange,
    },
    /// Set a configuration of a bucket, or take it away.
    PutBucketConfig(PutBucketConfig),
    /// Limit how much a bucket or an account may hold.
    SetQuota {
        /// Whose.
        of: QuotaOf,
        /// How much.
        quota: Quota,
    },
    /// A step of the count of what buckets hold, in an index of before that was counted.
    CountUsage,
    /// Make the chunks of a stripe known, after all its shards are durable.
    CommitStripe {
        /// The stripe and its drives.
        stripe: StripeRow,
        /// Its chunks, children before the manifest chunks that list them. All [`NewFrame::InStripe`].
        chunks: Vec<NewChunk>,
    },
    /// Make an object version visible.
    CommitObject(CommitObject),
    /// Delete versions, or put delete markers over them. What is not there is no error.
    DeleteVersions(DeleteVersions),
    /// Change what a version carries besides its bytes.
    ChangeVersion(ChangeVersion),
    /// Do what the lifecycle of a bucket says, as far as it still says so. Nobody but the lane that follows it asks for that.
    FollowRules(FollowRules),
    /// Delete the current version of a key. A missing key is no error.
    DeleteObject {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: String,
        /// [`Condition::None`] or [`Condition::IfMatch`], [`Condition::IfMatchAny`].
        condition: Condition,
    },
    /// Delete up to [`MAX_DELETE_KEYS`] keys in one entry. A condition that fails spares its key only.
    DeleteObjects {
        /// The bucket.
        bucket: BucketId,
        /// The keys, each with its condition.
        keys: Vec<(String, Condition)>,
    },
    /// Open a multipart upload.
    CreateUpload(CreateUpload),
    /// Store a part; the part that had the number is replaced.
    CommitPart {
        /// The upload.
        upload: UploadName,
        /// 1 to 10,000.
        number: u32,
        /// Where its bytes are.
        content: Content,
        /// Inline frames: [`NewFrame::Inline`] only.
        chunks: Vec<NewChunk>,
        /// Milliseconds since the Unix epoch, for display.
        now_ms: u64,
    },
    /// Make an object of an upload's parts.
    CompleteUpload(CompleteUpload),
    /// Drop an upload and all its parts. Works for uploads of a bucket that is gone, too.
    AbortUpload {
        /// The upload.
        upload: UploadName,
    },
    /// Create or change an account.
    PutAccount(AccountRow),
    /// Create an account; one that is there stays as it is.
    CreateAccount(AccountRow),
    /// Change an account that is there. An empty name or display name stays what it was.
    ReplaceAccount(AccountRow),
    /// Drop an account that owns no bucket.
    DeleteAccount {
        /// [`AccountRow::id`].
        id: String,
    },
    /// Get or create the dedup domain of an account and protection class. The row's `id` is ignored.
    PutDomain(DomainRow),
    /// Make a key of the key store, enabled. One that the account has stays as it is.
    CreateKmsKey(KmsKeyRow),
    /// Change the state of a key of the key store.
    SetKmsKey(SetKmsKey),
    /// Put secrets that are wrapped anew, as far as they are still what they were.
    Rewrap(Vec<Rewrapped>),
    /// Change a setting. [`GEOMETRY_SETTING`] can be set only once.
    PutSetting(SettingRow),
    /// Begin an epoch: every earlier one is fenced, but for those of gateways that may still be writing ([`Command::GrantEpoch`])
    /// and what lies behind the first of them.
    StartEpoch {
        /// Higher than any epoch seen before.
        epoch: Epoch,
        /// The epoch of the journal of the same start; mostly the same, and never higher.
        journal: Epoch,
    },
    /// Renew the epoch of a service that runs on: stripes are numbered in the new one, and commits of the earlier ones are
    /// accepted for as long as a request lives ([`REQUEST_LIFE_MS`]). Fences those for which that time is over.
    RenewEpoch {
        /// Higher than any epoch seen before.
        epoch: Epoch,
        /// Not fenced, nor any later one: the service's own work that began in it is not committed yet.
        unfinished: Epoch,
    },
    /// Grant a gateway an epoch of its own. Requests may begin in it for [`EPOCH_HOLD_MS`] and live for [`REQUEST_LIFE_MS`];
    /// then it is fenced with the next epoch that anybody is granted.
    GrantEpoch {
        /// Higher than any epoch seen before.
        epoch: Epoch,
        /// The gateway's name, for people.
        holder: String,
        /// As in [`Command::RenewEpoch`].
        unfinished: Epoch,
    },
    /// Register a drive, or change its state.
    RegisterDrive(DriveRow),
    /// A registered drive was seen here. Its state is not the row's to say: whoever saw the drive read its row some time ago, and a
    /// drain or a removal that was committed since then stands.
    SeeDrive(DriveRow),
    /// Share drives out to cells where cells are not of a proper size, as where they were registered before there were any.
    SettleCells,
    /// Make a storage node known, or change its address or state.
    PutNode(NodeRow),
    /// Let writers write what this format level says. One that is not above the cluster's changes nothing. Whether everybody knows
    /// it is for whoever asks to find out.
    RaiseLevel(FormatLevel),
    /// Advance the retention clock.
    ClockTick(ClockTick),
    /// Sealing: entries now lie in ledger stripes, their frames in data stripes.
    Seal(Seal),
    /// Repair: shards of a stripe were written to other drives. All of the moves take place, or none: only if the stripe is
    /// known and each shard is still where the repair was planned from.
    MoveShards {
        /// The stripe.
        stripe: StripeId,
        /// Its shards that moved.
        moves: Vec<ShardMove>,
    },
    /// Repair, where no spare drive is left: a ledger stripe was written again narrower. Only if its range still names it.
    ReplaceLedger(ReplaceLedger),
    /// Restripe: frames were written again into new stripes, read back and verified. A move whose chunk is no longer at `from`
    /// is left out, silently: another won (R12). Stripes that no frame moves to are not made known.
    MoveFrames {
        /// The new data stripes.
        stripes: Vec<StripeRow>,
        /// The frames that moved.
        moves: Vec<Move>,
    },
    /// Chunks that a complete mark pass did not see (R11).
    DeleteChunks(DeleteChunks),
    /// Condemned chunks that a mark pass did see: their counts are mended, and they are Live again.
    SpareChunks(Vec<SparedChunk>),
    /// Live chunks whose counts are wrong. Commits during the pass may make the new count wrong again: no chunk goes because
    /// of a count, so that costs a grace, and no more.
    RecountChunks(Vec<RecountedChunk>),
    /// Live chunks without a reference, such as those of a PUT that was given up: their grace begins. A commit that still
    /// comes revives them.
    CondemnChunks(Vec<ChunkId>),
    /// Data stripes in which no chunk is placed any more. Their shards are freed after the readers' grace.
    DropStripes(Vec<DroppedStripe>),
    /// The shards of dropped stripes were freed.
    StripesFreed(Vec<StripeId>),
    /// Nothing is deleted from now on, until [`Command::ReleaseReclaim`] (R10).
    HoldReclaim {
        /// Why, for the operator; not empty.
        reason: String,
    },
    /// An operator has judged what held reclaim (R10): it may go on.
    ReleaseReclaim {
        /// The highest LSN for which any drive has freed: deletes are ordered for no lower one from now on, or drives that
        /// remember a later state would refuse them for ever.
        floor: Lsn,
    },
    /// A checkpoint of the index: it is known from now on, and those before the last one are dropped with their stripes.
    PutCheckpoint {
        /// Its LSN, size and stripes.
        row: CheckpointRow,
        /// The stripes, written, read back and verified.
        stripes: Vec<StripeRow>,
    },
    /// Copy a bucket to another endpoint from now on, what it holds already included. `seq`, `set_ms`, `paused` and how far the
    /// walk is are not taken from the row.
    SetReplication(ReplicationRow),
    /// Copy it no more. What waits is forgotten.
    UnsetReplication {
        /// The bucket; it may be gone.
        bucket: BucketId,
    },
    /// Let what changes wait, or go on.
    PauseReplication {
        /// The bucket.
        bucket: BucketId,
        /// Wait.
        paused: bool,
    },
    /// A step over the keys that a bucket had when its rule was set.
    WalkReplication(WalkReplication),
    /// Queue keys of a bucket that has a rule.
    QueueReplication {
        /// The bucket.
        bucket: BucketId,
        /// At most [`MAX_REPLICATION_KEYS`].
        keys: Vec<String>,
    },
    /// Keys were copied, or need not be.
    Replicated {
        /// The bucket; it may be gone, and its rule, too.
        bucket: BucketId,
        /// [`ReplicationRow::seq`] of the rule by which they were copied; `None` when there is none any more. Nothing happens when
        /// it is another one by now.
        rule: Option<u64>,
        /// At most [`MAX_REPLICATION_KEYS`].
        done: Vec<ReplicatedKey>,
    },
    /// What was told, or never will be, waits no more; at most [`MAX_REPLICATION_KEYS`].
    NoticesDone(Vec<NoticeName>),
    /// An operator has seen how many notices of a webhook were lost: they count no more.
    LostNoticesSeen {
        /// The webhook.
        webhook: String,
    },
    /// Change users, access keys, policies, groups or roles.
    Iam(Box<IamCommand>),
    /// A loss that an operator accepted.
    AcceptLoss {
        /// Up to where entries were kept, and up to where they had existed.
        loss: AcceptedLossRow,
        /// What the ledger turned out to hold beyond the last seal that is known of.
        sealed: Option<SealedRow>,
    },
}

/// Body of [`Command::WalkReplication`]. Nothing happens unless the rule is still this one, and its walk where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkReplication {
    /// The bucket.
    pub bucket: BucketId,
    /// [`ReplicationRow::seq`].
    pub rule: u64,
    /// [`ReplicationRow::walked_to`] before the step.
    pub from: String,
    /// The last key of the step.
    pub to: String,
    /// The keys, to be queued; at most [`MAX_REPLICATION_KEYS`].
    pub keys: Vec<String>,
    /// There are no more.
    pub last: bool,
}

/// Body of [`Command::SetKmsKey`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetKmsKey {
    /// Its name.
    pub id: String,
    /// The new state.
    pub state: KmsKeyState,
    /// For `Destroyed`: the [`KmsKeyRow::since`] that it had when it was found that nothing needs it.
    pub since: Option<u64>,
}

/// Body of [`Command::CreateBucket`].
#[derive(Clone, Debug, PartialEq)]
pub struct CreateBucket {
    /// The S3 name.
    pub name: String,
    /// Id of the account.
    pub owner: String,
    /// The location constraint asked for; empty for the default region.
    pub location: String,
    /// New objects are encrypted (SSE-S3) unless the request says otherwise.
    pub encrypt: bool,
    /// zstd level for new frames; 0 means the default.
    pub zstd_level: i32,
    /// Milliseconds since the Unix epoch, for display.
    pub now_ms: u64,
    /// What it is given at once.
    pub with: BucketWith,
}

/// Body of [`Command::CommitObject`].
#[derive(Clone, Debug, PartialEq)]
pub struct CommitObject {
    /// The bucket.
    pub bucket: BucketId,
    /// The key, 1 to 1024 bytes of UTF-8.
    pub key: String,
    /// What must hold of the current version.
    pub condition: Condition,
    /// Headers.
    pub meta: ObjectMeta,
    /// Where its bytes are.
    pub content: Content,
    /// Inline frames: [`NewFrame::Inline`] only.
    pub chunks: Vec<NewChunk>,
    /// Milliseconds since the Unix epoch: Last-Modified.
    pub now_ms: u64,
    /// What it carries besides.
    pub attached: Attached,
}

/// Body of [`Command::CreateUpload`].
#[derive(Clone, Debug, PartialEq)]
pub struct CreateUpload {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: String,
    /// 128 random bits that make the upload id hard to guess. The id is the LSN in hex and then these, so that ids in
    /// byte order are uploads in the order in which they were opened.
    pub nonce: [u8; 16],
    /// Id of the account that opens it.
    pub initiator: String,
    /// What the object will carry.
    pub meta: ObjectMeta,
    /// [`codec::effect::ChecksumAlgorithm`] that the client announced.
    pub checksum: i32,
    /// The announced checksum type is FULL_OBJECT.
    pub full_object_checksum: bool,
    /// The dedup domain of all its parts.
    pub domain: DomainId,
    /// Parts are stored under SSE-S3.
    pub encrypted: bool,
    /// Milliseconds since the Unix epoch, for display.
    pub now_ms: u64,
    /// What the object will carry besides. The nonce is not kept.
    pub attached: Attached,
    /// Its keys, under SSE-C.
    pub sealed: Option<ObjectKeyRow>,
}

/// Body of [`Command::CompleteUpload`].
#[derive(Clone, Debug, PartialEq)]
pub struct CompleteUpload {
    /// The upload.
    pub upload: UploadName,
    /// Number and etag (without quotes) of each part, ascending.
    pub parts: Vec<(u32, String)>,
    /// The object: a manifest over all the listed parts' entries.
    pub content: Content,
    /// Inline frames of manifest chunks.
    pub chunks: Vec<NewChunk>,
    /// What must hold of the key's current version.
    pub condition: Condition,
    /// Milliseconds since the Unix epoch: Last-Modified.
    pub now_ms: u64,
    /// Random: makes the version's id hard to guess.
    pub nonce: [u8; 8],
}

/// A ledger stripe that others take the place of.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplaceLedger {
    /// The first entry of the sealed range that names it.
    pub first: Lsn,
    /// The stripe.
    pub old: StripeId,
    /// Those that hold the same entries, in order.
    pub stripes: Vec<StripeRow>,
}

/// Body of [`Command::Seal`].
#[derive(Clone, Debug, PartialEq)]
pub struct Seal {
    /// The range and its ledger stripes.
    pub sealed: SealedRow,
    /// The new data and ledger stripes, written, read back and verified.
    pub stripes: Vec<StripeRow>,
    /// The frames that moved. A move whose chunk is no longer at `from` is left out, silently: another won.
    pub moves: Vec<Move>,
}

/// A shard's new drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardMove {
    /// The shard's index.
    pub index: u8,
    /// Where it was when the repair was planned.
    pub from: Option<DriveId>,
    /// Where it is durable and was read back.
    pub to: DriveId,
}

/// Body of [`Command::DeleteChunks`]. Each chunk is decided for itself: one that changed since is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct DeleteChunks {
    /// The last LSN that was applied when the mark pass began. What was condemned later is left out.
    pub marked_from: Lsn,
    /// The grace, on the steady count; at least [`MIN_GRACE_MS`] counts.
    pub grace_ms: u64,
    /// The chunks.
    pub chunks: Vec<UnmarkedChunk>,
}

/// A chunk that a complete mark pass did not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmarkedChunk {
    /// The chunk.
    pub id: ChunkId,
    /// The condemnation that the pass began after.
    pub condemned_lsn: Lsn,
    /// What a manifest chunk lists, one per entry (repeats included): those references go with it. Empty for others.
    pub children: Vec<ChunkId>,
    /// A manifest chunk that can't be read: it goes without its children, whose references are counted again later. Only
    /// after twice the grace, and only together with all others of the command that can't be read.
    pub unread: bool,
}

/// A Live chunk whose references were counted by a mark pass that could read all of its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecountedChunk {
    /// The chunk.
    pub id: ChunkId,
    /// Its count when the pass began. With another one it is left as it is.
    pub was: u64,
    /// How many manifest entries name it. With none it is condemned.
    pub refs: u64,
}

/// A condemned chunk that a complete mark pass saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparedChunk {
    /// The chunk.
    pub id: ChunkId,
    /// The condemnation that the pass began after.
    pub condemned_lsn: Lsn,
    /// How many manifest entries name it.
    pub refs: u64,
}

/// A stripe in which nothing is needed any more, and the proof of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedStripe {
    /// The stripe.
    pub id: StripeId,
    /// Every frame in its data shards, as their verified headers say: chunk and length, header included. Together they are
    /// as long as the data shards.
    pub frames: Vec<(ChunkId, u32)>,
}

/// A frame's new place.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// The chunk.
    pub id: ChunkId,
    /// Where the mover read it.
    pub from: Place,
    /// Where it lies now.
    pub to: Place,
}

/// A chunk that a commit brings along.
#[derive(Clone, Debug, PartialEq)]
pub struct NewChunk {
    /// Its name.
    pub id: ChunkId,
    /// Its dedup domain.
    pub domain: DomainId,
    /// Plaintext length, in bytes.
    pub plain_len: u32,
    /// Its frame.
    pub frame: NewFrame,
    /// Its plaintext is a manifest node.
    pub is_manifest: bool,
    /// The chunks that the node lists, one per entry (repeats included); empty unless `is_manifest`.
    pub children: Vec<ChunkId>,
}

/// Where a new chunk's frame is.
#[derive(Clone, Debug, PartialEq)]
pub enum NewFrame {
    /// In the stripe of the same command.
    InStripe {
        /// Index of the data shard.
        shard: u8,
        /// Offset in the shard's payload.
        offset: u32,
        /// Length of the frame.
        len: u32,
    },
    /// The frame itself, to ride in the journal entry.
    Inline(Bytes),
}

/// What must hold of a key's current version for a change to happen. Etags are without quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// `If-None-Match: *`: there is none.
    IfNoneMatchAny,
    /// `If-None-Match: etag`: there is none with this etag.
    IfNoneMatch(String),
    /// `If-Match: *`: there is one.
    IfMatchAny,
    /// `If-Match: etag`: there is one, with this etag.
    IfMatch(String),
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Done; there is nothing to tell.
    Done,
    /// The bucket as created.
    BucketCreated(BucketRow),
    /// The bucket is gone. `uploads_left`: it had more open uploads than one entry may drop; they can no longer be
    /// reached, and [`crate::index::orphan_uploads`] finds them to be aborted.
    BucketDeleted {
        /// Some remain to be aborted.
        uploads_left: bool,
    },
    /// The version as committed, and what went for good because it took its place.
    Committed(Box<VersionRow>, Option<Box<Replaced>>),
    /// DeleteObject: the version that was deleted, if there was one.
    Deleted(Option<Box<VersionRow>>),
    /// DeleteObjects: for each key, in order, what happened.
    DeletedMany(Vec<Result<bool, Refusal>>),
    /// DeleteVersions: for each, in order, what happened.
    VersionsDeleted(Vec<Result<Gone, Refusal>>),
    /// FollowRules: for each step, and then for each upload, in order, what happened.
    RulesFollowed(Vec<Result<(), Refusal>>),
    /// CountUsage: whether everything was counted already.
    Counted(bool),
    /// The upload's name, with the id that was made for it.
    UploadCreated(UploadName),
    /// The part as committed.
    PartCommitted(Box<PartRow>),
    /// The domain's row: the stored one if there was one already.
    Domain(DomainRow),
    /// What became of the items of a reclaim command.
    Reclaimed {
        /// Items that were carried out.
        done: u64,
        /// Items that were left out, because what they are about changed.
        skipped: u64,
    },
    /// What a change of users, keys, policies, groups or roles is answered with.
    Iam(Value),
    /// How many frames' places were changed by a seal; the rest had moved or gone.
    Sealed {
        /// Moves that took place.
        moved: u64,
        /// Moves that were left out.
        skipped: u64,
    },
}

/// Why a command was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such bucket.
    #[error("the bucket does not exist")]
    NoSuchBucket,
    /// Another account has a bucket of this name.
    #[error("the bucket name is taken")]
    BucketExists,
    /// The same account has a bucket of this name.
    #[error("the bucket exists and is owned by the requester")]
    BucketOwnedByYou,
    /// The bucket holds versions.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// If-Match on a key that has no version.
    #[error("the key does not exist")]
    NoSuchKey,
    /// A condition does not hold.
    #[error("a precondition does not hold")]
    PreconditionFailed,
    /// There is no such version.
    #[error("the version does not exist")]
    NoSuchVersion,
    /// A delete marker has nothing of what was to be changed.
    #[error("the version is a delete marker")]
    IsDeleteMarker,
    /// The version is kept.
    #[error(transparent)]
    Locked(Locked),
    /// A retention that can't be.
    #[error(transparent)]
    Retention(RetentionError),
    /// A retention or a legal hold was asked for in a bucket without Object Lock.
    #[error("the bucket has no Object Lock")]
    NoLock,
    /// Object Lock needs versions.
    #[error("the bucket has Object Lock, which needs versions")]
    VersioningLocked,
    /// Object Lock is for buckets that keep versions.
    #[error("the bucket keeps no versions")]
    NotVersioned,
    /// There would be more of it than is allowed.
    #[error("the quota of the {} would be exceeded", if *.account { "account" } else { "bucket" })]
    QuotaExceeded {
        /// The account's and not the bucket's.
        account: bool,
    },
    /// A notification names a webhook that the operator did not configure.
    #[error("there is no webhook {0:?}")]
    NoSuchWebhook(String),
    /// The key is empty or longer than 1024 bytes.
    #[error("the key is empty or longer than {MAX_KEY} bytes")]
    BadKey,
    /// There is no such upload.
    #[error("the upload does not exist")]
    NoSuchUpload,
    /// A part is unknown, or its etag differs, or its number is out of range.
    #[error("part {number} does not exist or has another etag")]
    InvalidPart {
        /// The part's number.
        number: u32,
    },
    /// Parts are not listed in ascending order, or none is.
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// A part other than the last is smaller than 5 MiB.
    #[error("part {number} is smaller than the minimum of {MIN_PART} bytes")]
    PartTooSmall {
        /// The part's number.
        number: u32,
        /// Its size, in bytes.
        size: u64,
        /// Its etag.
        etag: String,
    },
    /// Chunks that the manifest names are unknown (they were reclaimed after the dedup lookup). Store them, commit again.
    #[error("{} chunks must be stored again", .0.len())]
    MissingChunks(Vec<ChunkId>),
    /// A manifest that does not decode, disagrees with its content's size, or crosses into another dedup domain.
    #[error("the manifest does not fit its object: {0}")]
    BadManifest(ManifestFault),
    /// The writer's epoch is not the current one (R9). Take the new epoch and store everything again.
    #[error("epoch {writer} is fenced: the current one is {current}")]
    Fenced {
        /// The writer's.
        writer: Epoch,
        /// The index's.
        current: Epoch,
    },
    /// The stripe's id is taken (R1), or its row is damaged.
    #[error("stripe {0} is already known or does not decode")]
    BadStripe(StripeId),
    /// The stripe is gone, or its shards are no longer where the repair was planned from, or would share a drive.
    #[error("stripe {0} is gone, or its shards lie elsewhere by now")]
    StripeChanged(StripeId),
    /// A geometry other than the journaled one.
    #[error("the geometry was fixed as {journaled} at first start")]
    GeometryDiffers {
        /// The journaled value.
        journaled: String,
    },
    /// A setting whose value means nothing.
    #[error("the setting {name} can't have this value")]
    BadSetting {
        /// Its name.
        name: String,
    },
    /// A drive row without a proper id, or a change to a removed drive.
    #[error("the drive's id is damaged or the drive was removed")]
    BadDrive,
    /// A storage node without a name, an address or a state.
    #[error("a storage node needs a name, an address and a state")]
    BadNode,
    /// Another account has the access key or name.
    #[error("another account has this access key or name")]
    AccountTaken,
    /// There is no such account.
    #[error("the account does not exist")]
    NoSuchAccount,
    /// There is an account of this id.
    #[error("there is an account with this id")]
    AccountExists,
    /// Nobody could reach what it owns.
    #[error("the account owns {buckets} buckets")]
    AccountOwns {
        /// How many.
        buckets: usize,
    },
    /// There is no such dedup domain: its entry was lost, and that was accepted. Take the account's domain anew, and store
    /// everything again.
    #[error("dedup domain {0} does not exist")]
    NoSuchDomain(DomainId),
    /// A key of the key store that can't be used, or not for this.
    #[error("key {key} {fault}")]
    Kms {
        /// Its name.
        key: String,
        /// Why.
        fault: KmsFault,
    },
    /// A key that may be in use is not pending deletion: it is disabled first.
    #[error("key {0} is enabled: disable it first")]
    KmsKeyInUse(String),
    /// Another account's key has this name.
    #[error("another account has a key of this name")]
    KmsKeyTaken,
    /// No name for a key.
    #[error(
        "a key's name is 1 to {} of a-z, A-Z, 0-9, -, _, . and /, and does not begin with aws/",
        crate::kms::MAX_KEY_NAME
    )]
    BadKmsKey,
    /// The retention clock never runs backwards (R15).
    #[error("the retention clock does not run backwards")]
    ClockBackwards,
    /// What would be journaled is of a later format level than the cluster's: a process of an earlier release could not read it.
    #[error(
        "this needs format level {needs}; the cluster is at {at}: `stele upgrade finish` raises it when every process knows it"
    )]
    NeedsLevel {
        /// The lowest level that allows it.
        needs: FormatLevel,
        /// The cluster's.
        at: FormatLevel,
    },
    /// The sealed range overlaps an earlier one, is empty, or reaches beyond the journal's end.
    #[error("the sealed range does not fit the ledger")]
    BadSeal,
    /// A checkpoint that is no newer than the last one, or whose stripes are not what it names.
    #[error("the checkpoint does not fit")]
    BadCheckpoint,
    /// Nothing may be deleted at present (R10).
    #[error("reclaim is held: {0}")]
    ReclaimHeld(Hold),
    /// A frame's new place is not in a new data stripe of the command.
    #[error("a frame can't be moved there")]
    BadMove,
    /// The bucket is not copied anywhere.
    #[error("the bucket has no replication")]
    NoSuchReplication,
    /// Another bucket is copied there. Take another bucket of that endpoint.
    #[error("another bucket is copied to that bucket of that endpoint")]
    ReplicationTargetTaken,
    /// A change of users, keys, policies, groups or roles.
    #[error(transparent)]
    Iam(Box<IamError>),
    /// More than one entry may carry: too many keys, chunks or inline bytes.
    #[error("the command is larger than one journal entry may be")]
    TooLarge,
}

/// What is wrong with a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    /// Its bytes do not decode.
    #[error("it does not decode")]
    Malformed,
    /// Its entries do not add up to the object's size.
    #[error("its lengths do not add up")]
    Length,
    /// An entry's chunk belongs to another dedup domain, or is a leaf where a node is claimed or the reverse.
    #[error("an entry's chunk is of another kind or domain")]
    Chunk,
    /// A new chunk's frame is of the wrong kind for the command.
    #[error("a frame is where the command can't have it")]
    Frame,
}

/// The shortest grace between a condemnation and a delete, on the steady count (R11).
pub const MIN_GRACE_MS: u64 = 24 * 3600 * 1000;

/// How long a request lives at most, in milliseconds of the steady count (R9).
pub const REQUEST_LIFE_MS: u64 = 12 * 3600 * 1000;
/// How long requests may begin in an epoch that a gateway was granted, in milliseconds of the steady count. Gateways take another
/// one each hour (R9).
pub const EPOCH_HOLD_MS: u64 = 2 * 3600 * 1000;
/// Name of the setting that holds the geometry, as `K+M` in ASCII.
pub const GEOMETRY_SETTING: &str = "geometry";
/// Name of the setting that holds the rule of placement: the name of a [`Level`](crate::topology::Level).
pub const SURVIVE_SETTING: &str = "survive";
/// Longest object key, in bytes of UTF-8.
pub const MAX_KEY: usize = 1024;
/// Smallest part that is not the last, in bytes.
pub const MIN_PART: u64 = 5 << 20;
/// Highest part number.
pub const MAX_PART_NUMBER: u32 = 10_000;
/// Most keys in one [`Command::DeleteObjects`].
pub const MAX_DELETE_KEYS: usize = 1000;
/// Most keys in one command on a replication queue.
pub const MAX_REPLICATION_KEYS: usize = 1000;
/// Most bytes of inline frames in one command: far above what rides in the journal in practice, far below an entry.
pub const MAX_INLINE_BYTES: usize = 16 << 20;
/// Most new chunks, moves or stripes in one command: with whole rows of some 120 bytes this keeps an entry's effects
/// below 64 MiB, a quarter of what an entry may be.
pub const MAX_ROWS: usize = 400_000;
