//! Effects and rows: what the journal says happened, and what the index holds because of it.
//!
//! Encoded as Protocol Buffers (proto3 wire format); docs/FORMAT.md lists every message and tag. An effect carries the
//! whole new row, never a difference and never a command, so applying it twice, or with newer code, gives the same state.
//! A tag is never used again; an effect whose kind a reader does not know is an error, not something to skip.

mod access;
mod accounts;
mod cluster;
mod lifecycle;
mod notice;
mod replication;
mod s3;
mod store;
mod version;

pub use access::*;
pub use accounts::*;
pub use cluster::*;
pub use lifecycle::*;
pub use notice::*;
pub use replication::*;
pub use s3::*;
pub use store::*;

use prost::Message;

/// The newest version of the effects that this code writes. A reader refuses a newer one by name.
pub const EFFECT_VERSION: u16 = if cfg!(feature = "next-release") { 5 } else { 4 };

/// All the effects of one committed command: the body of one journal entry.
#[derive(Clone, PartialEq, Message)]
pub struct Effects {
    /// In the order in which they are applied.
    #[prost(message, repeated, tag = "1")]
    pub effects: Vec<Effect>,
    /// Milliseconds since the Unix epoch when the command was decided; informational, never an order (R15).
    #[prost(uint64, tag = "2")]
    pub wall_ms: u64,
}

/// One change of one row.
#[derive(Clone, PartialEq, Message)]
pub struct Effect {
    /// What changed. `None` is an effect that this code does not know: an error.
    #[prost(
        oneof = "EffectKind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, \
                29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 50"
    )]
    pub kind: Option<EffectKind>,
}

/// The kinds of effect.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum EffectKind {
    /// A bucket exists with this row.
    #[prost(message, tag = "1")]
    PutBucket(BucketRow),
    /// The bucket of this row's name and id is gone.
    #[prost(message, tag = "2")]
    DeleteBucket(BucketRow),
    /// An object version is visible.
    #[prost(message, tag = "3")]
    PutVersion(VersionRow),
    /// An object version is gone.
    #[prost(message, tag = "4")]
    DeleteVersion(VersionName),
    /// A multipart upload is open.
    #[prost(message, tag = "5")]
    PutUpload(UploadRow),
    /// An upload and all its parts are gone.
    #[prost(message, tag = "6")]
    DeleteUpload(UploadName),
    /// A part of an upload is stored.
    #[prost(message, tag = "7")]
    PutPart(PartRow),
    /// A chunk has this state, count and place.
    #[prost(message, tag = "8")]
    PutChunk(ChunkRow),
    /// A chunk is gone (only after Condemned, R11).
    #[prost(message, tag = "9")]
    DeleteChunk(ChunkName),
    /// A stripe lies on these drives.
    #[prost(message, tag = "10")]
    PutStripe(StripeRow),
    /// A stripe is gone.
    #[prost(message, tag = "11")]
    DeleteStripe(StripeName),
    /// A drive is registered, or its state changed.
    #[prost(message, tag = "12")]
    PutDrive(DriveRow),
    /// An account has this row.
    #[prost(message, tag = "13")]
    PutAccount(AccountRow),
    /// The account with this row's id is gone.
    #[prost(message, tag = "14")]
    DeleteAccount(AccountRow),
    /// A dedup domain and its wrapped keys.
    #[prost(message, tag = "15")]
    PutDomain(DomainRow),
    /// A journaled setting, such as the geometry.
    #[prost(message, tag = "16")]
    PutSetting(SettingRow),
    /// A start (or leader) took this epoch, or an hourly renewal did; earlier ones than the row says are fenced (R9).
    #[prost(message, tag = "17")]
    StartEpoch(EpochRow),
    /// The retention clock advanced (R15).
    #[prost(message, tag = "18")]
    ClockTick(ClockTick),
    /// The entries of this range are sealed in these ledger stripes; their journal segments may be freed.
    #[prost(message, tag = "19")]
    Sealed(SealedRow),
    /// An accepted loss (`stele journal accept-loss`): a restore in the sense of R10.
    #[prost(message, tag = "20")]
    AcceptedLoss(AcceptedLossRow),
    /// A checkpoint of the index lies in these stripes.
    #[prost(message, tag = "21")]
    PutCheckpoint(CheckpointRow),
    /// The checkpoint at this row's LSN is superseded: no rebuild needs it.
    #[prost(message, tag = "22")]
    DeleteCheckpoint(CheckpointRow),
    /// The shards of a stripe that is gone were freed on their drives.
    #[prost(message, tag = "23")]
    StripeFreed(StripeName),
    /// A storage node belongs to the cluster, or its address or state changed.
    #[prost(message, tag = "24")]
    PutNode(NodeRow),
    /// A bucket is copied to another endpoint by this rule.
    #[prost(message, tag = "25")]
    PutReplication(ReplicationRow),
    /// A bucket is no longer copied.
    #[prost(message, tag = "26")]
    DeleteReplication(ReplicationName),
    /// Keys of a copied bucket wait to be copied, and others need no longer wait.
    #[prost(message, tag = "27")]
    ReplicationQueue(ReplicationQueueRow),
    /// A gateway was granted an epoch of its own; earlier ones than the row says are fenced (R9).
    #[prost(message, tag = "28")]
    GrantEpoch(GrantRow),
    /// Writers may write what this format level says ([`crate::level`]). It never goes down: a lower one than is known changes
    /// nothing.
    #[prost(message, tag = "29")]
    PutLevel(LevelRow),
    /// A bucket has this configuration.
    #[prost(message, tag = "30")]
    PutBucketConfig(BucketConfigRow),
    /// A bucket has it no more.
    #[prost(message, tag = "31")]
    DeleteBucketConfig(BucketConfigName),
    /// A user has this row.
    #[prost(message, tag = "32")]
    PutUser(UserRow),
    /// A user is gone, with its access keys.
    #[prost(message, tag = "33")]
    DeleteUser(AccountName),
    /// An access key has this row.
    #[prost(message, tag = "34")]
    PutAccessKey(AccessKeyRow),
    /// The access key of this row is gone.
    #[prost(message, tag = "35")]
    DeleteAccessKey(AccessKeyRow),
    /// A policy has this row.
    #[prost(message, tag = "36")]
    PutPolicy(PolicyRow),
    /// A policy is gone.
    #[prost(message, tag = "37")]
    DeletePolicy(AccountName),
    /// A role has this row.
    #[prost(message, tag = "38")]
    PutRole(RoleRow),
    /// A role is gone.
    #[prost(message, tag = "39")]
    DeleteRole(AccountName),
    /// A group has this row.
    #[prost(message, tag = "40")]
    PutGroup(GroupRow),
    /// A group is gone.
    #[prost(message, tag = "41")]
    DeleteGroup(AccountName),
    /// A key of the key store has this row. A destroyed one keeps it.
    #[prost(message, tag = "42")]
    PutKmsKey(KmsKeyRow),
    /// Things that happened wait to be told, and others need no longer wait.
    #[prost(message, tag = "50")]
    Notices(NoticesRow),
}

/// An effect body that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// Not Protocol Buffers, or a field out of range.
    #[error("effects do not decode: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// An effect that this version does not know.
    #[error("an effect of a kind unknown to this version: written by a newer Stele")]
    Unknown,
}

impl Effects {
    /// Decodes the body of a journal entry. Refuses effects of an unknown kind: skipping one would give another state.
    pub fn parse(bytes: &[u8]) -> Result<Effects, EffectError> {
        let effects = Effects::decode(bytes)?;
        if effects.effects.iter().any(|e| e.kind.is_none()) {
            return Err(EffectError::Unknown);
        }
        Ok(effects)
    }
}

impl From<EffectKind> for Effect {
    fn from(kind: EffectKind) -> Effect {
        Effect { kind: Some(kind) }
    }
}
