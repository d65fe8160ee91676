//! Metadata's service for gateways: [`MetadataClient`](crate::client::MetadataClient) over the network. The client is
//! [`crate::remote`].
//!
//! Invariants
//! * Only the node that leads answers. A read is answered after the node has shown that it still leads ([`Leading::linearizable`]),
//!   so it sees whatever was acknowledged before it was asked for, through whichever node. One that does not lead says who does.
//! * What a gateway may commit is what clients of S3 may ask for: commands for which there is a message ([`command`]): it may drop
//!   objects, as those may. Nothing that decides over drives, settings, accounts or epochs can be said in it, nor what is deleted
//!   for good: chunks, shards, entries (R13).
//! * What a gateway commits begins, and is numbered, in epochs that were granted to the gateway of its certificate (R1).
//! * What a call may cost in memory is bounded before it is read: all but a commit are short ([`Name::question_limit`]).
//! * The keys of dedup domains and the secrets of accounts leave the process only here, over connections whose other end has shown
//!   a certificate of the role gateway or metadata; the key that wraps them never does.
//!
//! [`Leading::linearizable`]: crate::replica::Leading::linearizable

pub(crate) mod answer;
mod callers;
pub(crate) mod command;
pub(crate) mod iam;
pub(crate) mod message;
mod service;
pub(crate) mod session;
mod sessions;

pub use callers::{Caller, Callers};
pub use service::Service;
pub use session::Session;

use crate::command::{MAX_BUCKET_CONFIG, MAX_INVENTORIES, MAX_INVENTORY_CONFIG};
use codec::frame::MAX_CHUNK;
use storage_node::service::identity::Role;

/// The name of the service.
pub const SERVICE: &str = "stele.metadata.v1.Metadata";

/// The longest question, in bytes: a command with all that one journal entry of a client may carry.
pub(crate) const QUESTION_LIMIT: usize = 96 << 20;
/// The longest question of any other call, in bytes: [`MOST_ASKED`] chunks.
const SHORT_QUESTION_LIMIT: usize = 1 << 20;
/// Most chunks, or parts, that may be asked for at a time. Who needs more asks more than once.
pub(crate) const MOST_ASKED: usize = 10_000;
/// The longest answer, in bytes: a page of a thousand versions with their manifests.
pub(crate) const ANSWER_LIMIT: usize = 256 << 20;

/// An answer of one row or none, in bytes.
const FEW: usize = 16 << 10;
/// All drives and nodes, or all buckets, in bytes.
const MANY: usize = 512 << 10;
/// A version or a part with the longest key, its user metadata and an inline manifest, in bytes.
const ROW: usize = 6 << 10;
/// A chunk that is a hit, in bytes.
const HIT: usize = 24;
/// A chunk with a stripe that none of the others lies in, in bytes.
const LOCATED: usize = 2 << 10;

macro_rules! names {
    ($($name:ident),* $(,)?) => {
        /// A call: the client's method of that name, and those that a session needs.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Name { $($name),* }

        impl Name {
            pub const ALL: &[Name] = &[$(Name::$name),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Name::$name => stringify!($name)),* }
            }
        }
    };
}

names!(
    Session,
    Grant,
    Commit,
    Bucket,
    Buckets,
    CurrentVersion,
    Version,
    NewestVersions,
    BucketConfig,
    BucketConfigs,
    List,
    ListVersions,
    ListUploads,
    ListParts,
    Upload,
    Parts,
    AccountByAccessKey,
    Account,
    Domain,
    DomainById,
    FindChunks,
    Locate,
    ReadFrame,
    Signer,
    Iam,
    AccountByEmail,
);

impl Name {
    pub fn parse(name: &str) -> Option<Name> {
        Name::ALL.iter().copied().find(|known| known.as_str() == name)
    }

    /// Whether a process of `role` may make this call.
    pub fn allows(self, role: Role) -> bool {
        match self {
            Name::Session => matches!(role, Role::Gateway | Role::Metadata | Role::Repair),
            // A metadata process may serve S3 as well.
            _ => matches!(role, Role::Gateway | Role::Metadata),
        }
    }

    /// The longest question, in bytes.
    pub fn question_limit(self) -> usize {
        match self {
            Name::Commit => QUESTION_LIMIT,
            _ => SHORT_QUESTION_LIMIT,
        }
    }

    /// For how many bytes of an answer there must be room before it is made: about the most that a question of `question` bytes, or
    /// for a page of `rows`, can be answered with.
    pub fn answer_bytes(self, question: usize, rows: usize) -> usize {
        let chunks = question / 32;
        match self {
            Name::List | Name::ListVersions | Name::ListUploads | Name::ListParts => FEW + rows * ROW,
            Name::NewestVersions => FEW + rows * ROW,
            Name::BucketConfig => FEW + MAX_BUCKET_CONFIG,
            Name::BucketConfigs => MANY + MAX_INVENTORIES * MAX_INVENTORY_CONFIG,
            Name::Parts => FEW + question.min(MOST_ASKED) * ROW,
            Name::FindChunks => FEW + chunks * HIT,
            Name::Locate => FEW + chunks * LOCATED,
            Name::ReadFrame => FEW + MAX_CHUNK,
            Name::Session | Name::Buckets => MANY,
            Name::Grant | Name::Commit | Name::Bucket | Name::CurrentVersion | Name::Version | Name::Upload => FEW,
            Name::AccountByAccessKey | Name::Account | Name::AccountByEmail | Name::Domain | Name::DomainById => FEW,
            // A user with all policies that it may have, or a page of them.
            Name::Signer | Name::Iam => MANY,
        }
    }

    /// Whether the answer is a page of rows, which may take long to make: those wait for room among themselves.
    pub fn is_page(self) -> bool {
        let versions = matches!(self, Name::ListVersions | Name::NewestVersions);
        versions || matches!(self, Name::List | Name::ListUploads | Name::ListParts | Name::Parts)
    }

    /// Whether it is carried out by a commit, which takes as long as the journal does.
    pub fn commits(self) -> bool {
        matches!(self, Name::Commit | Name::Grant | Name::Iam)
    }

    /// Whether the answer must show all that was acknowledged before. A hit that is none any more is found by the commit, a place
    /// that is none any more by the read.
    pub fn is_fresh(self) -> bool {
        !matches!(self, Name::Session | Name::Grant | Name::Commit | Name::FindChunks | Name::ReadFrame)
    }

    /// Whether asking once more does no harm when nobody knows whether the first one was carried out.
    pub fn is_repeatable(self) -> bool {
        // A wish for an epoch is granted once; a domain that is there is returned.
        !matches!(self, Name::Commit | Name::Iam)
    }
}

#[cfg(test)]
mod tests;
