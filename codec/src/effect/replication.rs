//! Rows of buckets that are copied to other endpoints.

use bytes::Bytes;
use prost::Message;

/// How a bucket is copied to another S3 endpoint.
#[derive(Clone, PartialEq, Message)]
pub struct ReplicationRow {
    /// The bucket that is copied.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// The LSN of the entry that set the rule: another one for each time that it is set.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// Milliseconds since the Unix epoch when it was set, for people.
    #[prost(uint64, tag = "3")]
    pub set_ms: u64,
    /// `http://` or `https://`, host and port of the other endpoint.
    #[prost(string, tag = "4")]
    pub endpoint: String,
    /// The region that requests are signed for.
    #[prost(string, tag = "5")]
    pub region: String,
    /// The bucket there.
    #[prost(string, tag = "6")]
    pub target: String,
    /// The access key there.
    #[prost(string, tag = "7")]
    pub access_key: String,
    /// The secret key there, wrapped by the key-encryption key (`codec::encrypt::wrap`).
    #[prost(bytes = "bytes", tag = "8")]
    pub wrapped_secret: Bytes,
    /// Buckets are host names there (`bucket.host`) and not the first part of the path.
    #[prost(bool, tag = "9")]
    pub virtual_host: bool,
    /// What is deleted here is deleted there.
    #[prost(bool, tag = "10")]
    pub deletes: bool,
    /// An operator has paused it: what changes waits.
    #[prost(bool, tag = "11")]
    pub paused: bool,
    /// All keys that the bucket had when the rule was set are in the queue, or were copied.
    #[prost(bool, tag = "12")]
    pub walked: bool,
    /// Until then: the last key that is.
    #[prost(string, tag = "13")]
    pub walked_to: String,
    /// Older versions are copied, too, and not the current one only. Effect version 4.
    #[prost(bool, tag = "14")]
    pub versions: bool,
}

/// Names the rule of a bucket.
#[derive(Clone, PartialEq, Message)]
pub struct ReplicationName {
    /// The bucket.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
}

/// Changes of the queue of a copied bucket, besides those that follow from its versions.
#[derive(Clone, PartialEq, Message)]
pub struct ReplicationQueueRow {
    /// The bucket.
    #[prost(uint64, tag = "1")]
    pub bucket: u64,
    /// Keys that wait from this entry on.
    #[prost(string, repeated, tag = "2")]
    pub queued: Vec<String>,
    /// Keys that need no longer wait, unless they changed after the LSN that is named.
    #[prost(message, repeated, tag = "3")]
    pub done: Vec<ReplicatedKey>,
}

/// A key whose copy is as it was here at an entry, or later.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReplicatedKey {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The LSN of the last change that the copy is known to have.
    #[prost(uint64, tag = "2")]
    pub lsn: u64,
}

/// A key that waits to be copied. No effect: a row of the index that follows from PutVersion, DeleteVersion and ReplicationQueue.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WaitingKeyRow {
    /// The LSN of its last change.
    #[prost(uint64, tag = "1")]
    pub changed: u64,
    /// Milliseconds since the Unix epoch when that was decided.
    #[prost(uint64, tag = "2")]
    pub changed_ms: u64,
    /// The LSN from which on it waits.
    #[prost(uint64, tag = "3")]
    pub since: u64,
    /// Milliseconds since the Unix epoch when that was decided.
    #[prost(uint64, tag = "4")]
    pub since_ms: u64,
}
