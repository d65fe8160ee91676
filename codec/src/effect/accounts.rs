//! Rows of accounts: their users, access keys, policies, roles and groups, and the keys that they encrypt with.

use super::{ProtectionClass, PublicAccessBlockRow};
use bytes::Bytes;
use prost::Message;

/// An account.
#[derive(Clone, PartialEq, Message)]
pub struct AccountRow {
    /// The canonical id, as S3 shows it in Owner.
    #[prost(string, tag = "1")]
    pub id: String,
    /// A unique name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Shown in Owner.
    #[prost(string, tag = "3")]
    pub display_name: String,
    /// The access key.
    #[prost(string, tag = "4")]
    pub access_key: String,
    /// The secret key, wrapped by the key-encryption key (`codec::encrypt::wrap`).
    #[prost(bytes = "bytes", tag = "5")]
    pub wrapped_secret: Bytes,
    /// By which grants may name it; empty without one.
    #[prost(string, tag = "6")]
    pub email: String,
    /// The public access block of all its buckets.
    #[prost(message, optional, tag = "7")]
    pub block: Option<PublicAccessBlockRow>,
    /// Most bytes of all its buckets; 0: no limit.
    #[prost(uint64, tag = "8")]
    pub max_bytes: u64,
    /// Most versions of all its buckets; 0: no limit.
    #[prost(uint64, tag = "9")]
    pub max_objects: u64,
}

/// Who may share chunks: everything inside one domain, nothing across two.
#[derive(Clone, PartialEq, Message)]
pub struct DomainRow {
    /// [`DomainId`].
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The account.
    #[prost(string, tag = "2")]
    pub account: String,
    /// Objects are encrypted under `wrapped_data_key` (protection class SSE-S3).
    #[prost(bool, tag = "3")]
    pub encrypted: bool,
    /// The key of the chunk hash, wrapped.
    #[prost(bytes = "bytes", tag = "4")]
    pub wrapped_chunk_key: Bytes,
    /// The data key, wrapped; empty for plaintext domains.
    #[prost(bytes = "bytes", tag = "5")]
    pub wrapped_data_key: Bytes,
    /// [`ProtectionClass`]; Unspecified: as `encrypted` says.
    #[prost(enumeration = "ProtectionClass", tag = "8")]
    pub class: i32,
    /// Of [`ProtectionClass::Kms`]: the key that wraps the data key, besides the key-encryption keys.
    #[prost(string, tag = "9")]
    pub key: String,
}

/// A user of an account.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UserRow {
    /// The account.
    #[prost(string, tag = "1")]
    pub account: String,
    /// Its name, unique in the account whatever its case.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its path, with a slash at both ends.
    #[prost(string, tag = "3")]
    pub path: String,
    /// Its unique id, `AIDA...`: another one for each user that ever had the name.
    #[prost(string, tag = "4")]
    pub id: String,
    /// Milliseconds since the Unix epoch, for display.
    #[prost(uint64, tag = "5")]
    pub created_ms: u64,
    /// Its own policies.
    #[prost(message, repeated, tag = "6")]
    pub inline: Vec<NamedPolicy>,
    /// Names of the policies attached to it.
    #[prost(string, repeated, tag = "7")]
    pub attached: Vec<String>,
    /// Names of its groups.
    #[prost(string, repeated, tag = "8")]
    pub groups: Vec<String>,
    /// Name of the policy that bounds it; empty without one.
    #[prost(string, tag = "9")]
    pub boundary: String,
}

/// A policy with its name.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NamedPolicy {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The document, as sent.
    #[prost(bytes = "bytes", tag = "2")]
    pub document: Bytes,
}

/// An access key besides the one in an account's row.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AccessKeyRow {
    /// The access key.
    #[prost(string, tag = "1")]
    pub access_key: String,
    /// The account.
    #[prost(string, tag = "2")]
    pub account: String,
    /// The user's name; empty for the account itself.
    #[prost(string, tag = "3")]
    pub user: String,
    /// The secret key, wrapped.
    #[prost(bytes = "bytes", tag = "4")]
    pub wrapped_secret: Bytes,
    /// It signs nothing.
    #[prost(bool, tag = "5")]
    pub inactive: bool,
    /// Milliseconds since the Unix epoch, for display.
    #[prost(uint64, tag = "6")]
    pub created_ms: u64,
}

/// A policy of an account that users, groups and roles are given.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PolicyRow {
    /// The account.
    #[prost(string, tag = "1")]
    pub account: String,
    /// Its path, with a slash at both ends.
    #[prost(string, tag = "2")]
    pub path: String,
    /// Its name and the document.
    #[prost(message, optional, tag = "3")]
    pub policy: Option<NamedPolicy>,
    /// Milliseconds since the Unix epoch, for display.
    #[prost(uint64, tag = "4")]
    pub created_ms: u64,
    /// What it is for, for people.
    #[prost(string, tag = "5")]
    pub description: String,
}

/// A role of an account.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RoleRow {
    /// The account.
    #[prost(string, tag = "1")]
    pub account: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its path, with a slash at both ends.
    #[prost(string, tag = "3")]
    pub path: String,
    /// Its unique id, `AROA...`.
    #[prost(string, tag = "4")]
    pub id: String,
    /// Who may take it, as sent.
    #[prost(bytes = "bytes", tag = "5")]
    pub trust: Bytes,
    /// Its own policies.
    #[prost(message, repeated, tag = "6")]
    pub inline: Vec<NamedPolicy>,
    /// Names of the policies attached to it.
    #[prost(string, repeated, tag = "7")]
    pub attached: Vec<String>,
    /// Name of the policy that bounds it; empty without one.
    #[prost(string, tag = "8")]
    pub boundary: String,
    /// The longest session, in seconds.
    #[prost(uint32, tag = "9")]
    pub max_session_s: u32,
    /// Sessions that were begun before are worth nothing, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "10")]
    pub sessions_from_ms: u64,
    /// What it is for, for people.
    #[prost(string, tag = "11")]
    pub description: String,
    /// Milliseconds since the Unix epoch, for display.
    #[prost(uint64, tag = "12")]
    pub created_ms: u64,
}

/// A group of users.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GroupRow {
    /// The account.
    #[prost(string, tag = "1")]
    pub account: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its path, with a slash at both ends.
    #[prost(string, tag = "3")]
    pub path: String,
    /// Its own policies.
    #[prost(message, repeated, tag = "4")]
    pub inline: Vec<NamedPolicy>,
    /// Names of the policies attached to it.
    #[prost(string, repeated, tag = "5")]
    pub attached: Vec<String>,
    /// Milliseconds since the Unix epoch, for display.
    #[prost(uint64, tag = "6")]
    pub created_ms: u64,
}

/// Names something of an account: a user, role, group or policy.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AccountName {
    /// The account.
    #[prost(string, tag = "1")]
    pub account: String,
    /// The name.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// What may be done with a key of the key store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum KmsKeyState {
    /// Not a state.
    Unspecified = 0,
    /// It encrypts and decrypts.
    Enabled = 1,
    /// Neither.
    Disabled = 2,
    /// Neither; it goes once its time is over and nothing needs it.
    PendingDeletion = 3,
    /// Its bytes are gone; what it encrypted can't be read.
    Destroyed = 4,
}

/// A key of the key store.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KmsKeyRow {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The account.
    #[prost(string, tag = "2")]
    pub account: String,
    /// The key, wrapped; empty once it is destroyed.
    #[prost(bytes = "bytes", tag = "3")]
    pub wrapped: Bytes,
    /// Its state.
    #[prost(enumeration = "KmsKeyState", tag = "5")]
    pub state: i32,
    /// The LSN of the entry by which it came into this state.
    #[prost(uint64, tag = "6")]
    pub since: u64,
}
