//! Wrapping again what is not under both key-encryption keys: everything when the second one is new, and what was wrapped while one
//! of them was not there.
//!
//! Invariants:
//! * Nothing is wrapped again while a key is missing: that would take the missing one's wrapping away, and with it the way back in if
//!   the other one is lost, too.
//! * What does not open keeps its wrapping, and the rest is wrapped all the same: one secret that is damaged, or under a key that was
//!   put away too early, must not keep a cluster from having two keys.
//! * The check is wrapped last: one that is under both keys says that everything is.

use super::{
    KEY_CHECK_PURPOSE, KEY_CHECK_SETTING, KeyError, Keys, Purpose, SESSION_PURPOSE, SESSION_SETTING,
    access_key_purpose, account_purpose, domain_purpose, replication_purpose,
};
use crate::index::{self, IndexError, View, access, replication};
use crate::kms::kms_purpose;
use bytes::Bytes;
use codec::encrypt::is_wrapped_twice;
use codec::id::{BucketId, DomainId};
use std::fmt;

/// Where a wrapped secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretOf {
    /// The setting by which a key is known.
    Check,
    /// [`codec::effect::AccountRow::wrapped_secret`], by the account's id.
    Account(String),
    /// [`codec::effect::AccessKeyRow::wrapped_secret`], by the access key.
    AccessKey(String),
    /// [`codec::effect::DomainRow::wrapped_chunk_key`].
    ChunkKey(DomainId),
    /// [`codec::effect::DomainRow::wrapped_data_key`], where no key of the key store wraps it.
    DataKey(DomainId),
    /// [`codec::effect::KmsKeyRow::wrapped`], by the key's name.
    KmsKey(String),
    /// [`codec::effect::ReplicationRow::wrapped_secret`].
    Replication(BucketId),
    /// The setting that temporary credentials are made of.
    Session,
}

impl fmt::Display for SecretOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretOf::Check => f.write_str("the key check"),
            SecretOf::Account(id) => write!(f, "the secret of account {id}"),
            SecretOf::AccessKey(key) => write!(f, "the secret of access key {key}"),
            SecretOf::ChunkKey(id) => write!(f, "the chunk key of domain {id}"),
            SecretOf::DataKey(id) => write!(f, "the data key of domain {id}"),
            SecretOf::KmsKey(id) => write!(f, "key {id} of the key store"),
            SecretOf::Replication(bucket) => write!(f, "the replication secret of bucket {bucket}"),
            SecretOf::Session => f.write_str("the key of temporary credentials"),
        }
    }
}

/// A secret that is wrapped anew, if it is still what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrapped {
    /// Where it is.
    pub of: SecretOf,
    /// What is there.
    pub was: Bytes,
    /// What is to be there.
    pub is: Bytes,
}

/// What became of a look at all secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// What is not under both keys yet, each as it is to be; nothing where there is one key only.
    pub found: Vec<Rewrapped>,
    /// How many no key opens that is here.
    pub closed: u64,
    /// The first of them.
    pub first: Option<SecretOf>,
    /// Everything was under two keys, and one of them is not here.
    pub one_is_missing: bool,
}

impl Keys {
    /// Tries all secrets with the keys that are here.
    pub fn look(&self, view: &dyn View) -> Result<Looked, RewrapError> {
        let mut all = Looking { keys: self, looked: Looked::default() };
        for row in index::accounts(view)? {
            all.look(SecretOf::Account(row.id.clone()), &account_purpose(&row.id), row.wrapped_secret)?;
        }
        for row in access::all_access_keys(view)? {
            let purpose = access_key_purpose(&row.account, &row.access_key);
            all.look(SecretOf::AccessKey(row.access_key), &purpose, row.wrapped_secret)?;
        }
        for row in index::domains(view)? {
            let (id, purpose) = (DomainId(row.id), Purpose::of_row(&row));
            let bound = |kind| domain_purpose(kind, &row.account, &purpose);
            all.look(SecretOf::ChunkKey(id), &bound("chunk"), row.wrapped_chunk_key.clone())?;
            if purpose == Purpose::Managed {
                all.look(SecretOf::DataKey(id), &bound("data"), row.wrapped_data_key.clone())?;
            }
        }
        for row in access::kms_keys(view)? {
            all.look(SecretOf::KmsKey(row.id.clone()), &kms_purpose(&row.account, &row.id), row.wrapped)?;
        }
        for row in replication::rules(view)? {
            let purpose = replication_purpose(&row);
            all.look(SecretOf::Replication(BucketId(row.bucket)), &purpose, row.wrapped_secret)?;
        }
        if let Some(session) = index::setting(view, SESSION_SETTING)? {
            all.look(SecretOf::Session, SESSION_PURPOSE, session.value)?;
        }
        if let Some(check) = index::setting(view, KEY_CHECK_SETTING)? {
            all.looked.one_is_missing = !self.are_two() && is_wrapped_twice(&check.value);
            all.look(SecretOf::Check, KEY_CHECK_PURPOSE, check.value)?;
        }
        Ok(all.looked)
    }
}

/// Why what is to be wrapped again is not known.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A secret can't be wrapped.
    #[error(transparent)]
    Key(#[from] KeyError),
}

struct Looking<'a> {
    keys: &'a Keys,
    looked: Looked,
}

impl Looking<'_> {
    fn look(&mut self, of: SecretOf, purpose: &[u8], was: Bytes) -> Result<(), KeyError> {
        if was.is_empty() || self.keys.all_unwrap(purpose, &was) {
            return Ok(());
        }
        let Ok(secret) = self.keys.unwrap("a secret", purpose, &was) else {
            tracing::error!(%of, "no key that is here opens this");
            self.looked.closed += 1;
            self.looked.first.get_or_insert(of);
            return Ok(());
        };
        if self.keys.are_two() {
            let is = self.keys.wrap(purpose, &secret)?.into();
            self.looked.found.push(Rewrapped { of, was, is });
        }
        Ok(())
    }
}
