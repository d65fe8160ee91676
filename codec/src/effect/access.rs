//! Rows of who may do what with a bucket or a version, and of a bucket's configurations.

use bytes::Bytes;
use prost::Message;

/// A tag of a bucket or object.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Tag {
    /// As sent; unique among the tags.
    #[prost(string, tag = "1")]
    pub key: String,
    /// As sent.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Whom a grant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum GranteeKind {
    /// Not a grantee: a row that says so is damaged.
    Unspecified = 0,
    /// The account of [`GrantRow::id`].
    Account = 1,
    /// Everybody.
    AllUsers = 2,
    /// Everybody who signs.
    AuthenticatedUsers = 3,
    /// Who delivers access logs.
    LogDelivery = 4,
}

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum GrantedPermission {
    /// Nothing: a row that says so is damaged.
    Unspecified = 0,
    /// READ.
    Read = 1,
    /// WRITE.
    Write = 2,
    /// READ_ACP.
    ReadAcp = 3,
    /// WRITE_ACP.
    WriteAcp = 4,
    /// FULL_CONTROL.
    FullControl = 5,
}

/// A grant of an access control list. Called `AclGrantRow` where `GrantRow` is the epoch of a gateway.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AclGrantRow {
    /// For whom.
    #[prost(enumeration = "GranteeKind", tag = "1")]
    pub grantee: i32,
    /// The account's canonical id; empty for a group.
    #[prost(string, tag = "2")]
    pub id: String,
    /// What.
    #[prost(enumeration = "GrantedPermission", tag = "3")]
    pub permission: i32,
}

/// An access control list. One that is absent in its row gives the owner everything, and nobody else anything.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AclRow {
    /// The grants.
    #[prost(message, repeated, tag = "1")]
    pub grants: Vec<AclGrantRow>,
}

/// The public access block.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PublicAccessBlockRow {
    /// A list that is public is not taken.
    #[prost(bool, tag = "1")]
    pub block_acls: bool,
    /// What lists grant to everybody counts for nothing.
    #[prost(bool, tag = "2")]
    pub ignore_acls: bool,
    /// A policy that is public is not taken.
    #[prost(bool, tag = "3")]
    pub block_policy: bool,
    /// A policy that is public counts for the bucket's own account only.
    #[prost(bool, tag = "4")]
    pub restrict: bool,
}

/// Whether lists count in a bucket, and whose objects are that others put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum OwnershipRule {
    /// None was set: what the bucket's time had. Buckets of before effect version 4: lists count for nothing.
    Unset = 0,
    /// Lists count for nothing.
    BucketOwnerEnforced = 1,
    /// The bucket's owner owns what is put with `bucket-owner-full-control`.
    BucketOwnerPreferred = 2,
    /// Who puts an object owns it.
    ObjectWriter = 3,
}

/// A configuration of a bucket that is too long for its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ConfigKind {
    /// Not a configuration.
    Unspecified = 0,
    /// The bucket policy, as sent.
    Policy = 1,
    /// CORS rules.
    Cors = 2,
    /// Lifecycle rules.
    Lifecycle = 3,
    /// Notifications.
    Notification = 4,
    /// Access logging.
    Logging = 5,
    /// An inventory.
    Inventory = 6,
    /// How far an inventory is.
    InventoryState = 7,
}

/// Names a configuration.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BucketConfigName {
    /// The bucket.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// Which.
    #[prost(enumeration = "ConfigKind", tag = "2")]
    pub kind: i32,
    /// The inventory's id; empty for others.
    #[prost(string, tag = "3")]
    pub id: String,
}

/// A configuration of a bucket.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BucketConfigRow {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub name: Option<BucketConfigName>,
    /// The LSN of the entry that set it.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// The policy as sent; a lifecycle as [`super::LifecycleRow`]; how far an inventory is as three numbers in decimal (its day or week,
    /// its time in milliseconds since the Unix epoch, 1 when it is done); others as XML of their own element.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}
