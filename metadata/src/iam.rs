//! Users, groups, roles, policies, access keys and sessions of accounts: AWS's IAM and STS, as far as tools use them.
//!
//! Who asks for something says it as those APIs do, by an action and its parameters ([`Ask`]); the answer is a tree of AWS's names
//! ([`Value`]). A gateway verifies the signature of such a request and hands on what it says; it is authorised and carried out here.
//!
//! Invariants
//! * What changes is one command, `Command::Iam`, which no gateway can say through a commit. It names
//!   who asks, and whether that one may is decided where the change is, over the rows as they are then: a policy that was taken
//!   away a moment ago allows nothing more.
//! * An account's own keys may do all that there is to do in the account, and nobody but them and the operator gives or takes the
//!   account's own keys: a user that is allowed everything of users still has no way to become the account.
//! * A policy that can't be read counts as one that denies everything: perhaps it denied.
//! * Names are unique whatever their case. Nothing grows without end: see [`limits`].
//! * A temporary key is in no row. Its secret and its token are made of a key that only metadata has ([`session`]): whoever holds
//!   them can't change what they say, and they end by themselves, or when their role says so.

pub mod ask;
mod built_in;
pub(crate) mod desk;
pub mod error;
pub(crate) mod lately;
pub mod limits;
mod names;
mod questions;
pub mod session;
pub mod signer;
mod sts;
pub mod value;
pub(crate) mod views;

use crate::client::{CommitError, LookupError};
use bytes::Bytes;
use std::fmt;

pub use ask::{Ask, Holder, Page};
pub use error::IamError;
pub use signer::{Asker, Looked, Signer, Signing, Who};
pub use value::Value;

pub(crate) use built_in::document as built_in_policy;
pub(crate) use names::{arn_of_policy, unique_id};
pub(crate) use questions::answer;
pub(crate) use signer::{SigningMessage, signing};
pub(crate) use sts::{begin, credentials, is_for_session};
pub(crate) use value::ValueMessage;

/// A change that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IamCommand {
    /// The account that it is about; of one that has signed, its own.
    pub account: String,
    /// Who asks.
    pub asker: Asker,
    /// What that one's policies were when it was asked; `None` of an operator.
    pub looked: Option<Looked>,
    /// AWS's name of it, without its service.
    pub action: String,
    /// What.
    pub ask: Ask,
    /// The access key of CreateAccessKey.
    pub key: Option<NewKey>,
}

/// A new access key.
#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The access key.
    pub access_key: String,
    /// Its secret, wrapped.
    pub wrapped_secret: Bytes,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// What a gateway hands on, whose signature it has verified.
#[derive(Clone, PartialEq, Eq)]
pub struct IamCall {
    /// The access key that signed.
    pub access_key: String,
    /// The token that came with it.
    pub token: Option<String>,
    /// AWS's name of what is asked for.
    pub action: String,
    /// Its parameters.
    pub parameters: Vec<(String, String)>,
    /// What else is known of the request, by condition keys.
    pub known: Vec<(String, String)>,
}

impl fmt::Debug for IamCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IamCall { access_key, action, .. } = self;
        f.debug_struct("IamCall").field("access_key", access_key).field("action", action).finish_non_exhaustive()
    }
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum IamFailure {
    /// An answer for the one who asked, in AWS's words.
    #[error("{message}")]
    Said {
        /// AWS's code.
        code: String,
        /// HTTP's.
        status: u16,
        /// For people.
        message: String,
    },
    /// The change was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The index failed.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

impl From<IamError> for IamFailure {
    fn from(error: IamError) -> IamFailure {
        let (code, status) = error.code();
        IamFailure::Said { code: code.to_owned(), status, message: error.to_string() }
    }
}
