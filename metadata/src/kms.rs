//! The key store of SSE-KMS: keys that have a name and a state, and wrap the data keys of dedup domains.
//!
//! [`KeyStore`] is what a domain needs of it; [`LocalKeys`] is one whose keys are rows of the index, under the key-encryption keys.
//!
//! Invariants:
//! * The store is asked whenever a gateway takes a domain's keys: a key that was disabled encrypts and decrypts nothing from the next
//!   request on.
//! * A key is destroyed only while no version, no upload and no bucket's default needs it, however long they are kept. It is taken
//!   out of use first ([`KmsKeyState::PendingDeletion`], which lets nothing new be committed under it); only then is it looked for,
//!   and destroyed only if it was never in use again since ([`KmsKeyRow::since`]).

use crate::index::{self, IndexError, Overlay};
use crate::keys::{KeyError, Keys, Purpose, domain_purpose};
use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::{DomainRow, KmsKeyRow, KmsKeyState};
use codec::encrypt::{DataKey, KeyEncryptionKey, WrapError};
use std::fmt;
use std::sync::Arc;
use storage_node::kv::Kv;
use zeroize::Zeroizing;

mod destroying;

#[cfg(test)]
pub(crate) use destroying::needed_by;
pub use destroying::{DestroyFailure, Destroying};

/// What an account's default key is called by operators, as on AWS. It is made by them: without it, a request for SSE-KMS that names
/// no key, in a bucket whose default has none, is refused.
pub const DEFAULT_KEY: &str = "aws/s3";

/// The name of an account's default key among all keys.
pub fn default_key(account: &str) -> String {
    format!("{DEFAULT_KEY}/{account}")
}

/// Longest name of a key, in bytes.
pub const MAX_KEY_NAME: usize = 256;

/// What is the matter with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmsFault {
    /// There is none of this name, or it is another account's.
    Unknown,
    /// Somebody has disabled it.
    Disabled,
    /// It is about to be destroyed.
    Leaving,
    /// It was destroyed.
    Destroyed,
}

impl fmt::Display for KmsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KmsFault::Unknown => "does not exist",
            KmsFault::Disabled => "is disabled",
            KmsFault::Leaving => "is pending deletion",
            KmsFault::Destroyed => "was destroyed",
        })
    }
}

/// Why the key store wraps or unwraps nothing.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// The key can't be used: its owner has to do something about it.
    #[error("key {key} {fault}")]
    Key {
        /// Its name.
        key: String,
        /// Why.
        fault: KmsFault,
    },
    /// The store can't be asked at present.
    #[error("the key store is not available: {0}")]
    Unavailable(String),
    /// What is stored does not unwrap: it is damaged.
    #[error(transparent)]
    Damaged(#[from] KeyError),
}

/// Wraps secrets by named keys that it does not give away.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Wraps a secret by a key of an account. It opens only with the same `purpose`.
    async fn wrap(&self, account: &str, key: &str, purpose: &[u8], secret: &[u8]) -> Result<Bytes, KmsError>;

    /// Unwraps what [`Self::wrap`] made.
    async fn unwrap(
        &self,
        account: &str,
        key: &str,
        purpose: &[u8],
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KmsError>;
}

/// Keys in the index, under the key-encryption keys.
pub struct LocalKeys {
    keys: Keys,
    kv: Arc<dyn Kv>,
}

impl LocalKeys {
    /// Those of an index.
    pub fn new(keys: Keys, kv: Arc<dyn Kv>) -> LocalKeys {
        LocalKeys { keys, kv }
    }

    fn usable(&self, account: &str, key: &str) -> Result<KeyEncryptionKey, KmsError> {
        let row = index::access::kms_key(&Overlay::new(&*self.kv), key).map_err(unavailable)?;
        let fault = |fault| KmsError::Key { key: key.to_owned(), fault };
        let row = row.filter(|row| row.account == account).ok_or_else(|| fault(KmsFault::Unknown))?;
        match fault_of(&row) {
            Some(is) => Err(fault(is)),
            None => Ok(self.keys.unwrap_kms_key(&row)?),
        }
    }
}

fn unavailable(error: IndexError) -> KmsError {
    KmsError::Unavailable(error.to_string())
}

fn damaged(key: &str, source: WrapError) -> KmsError {
    KmsError::Damaged(KeyError::Unwrap { what: format!("a secret under key {key}"), source })
}

#[async_trait]
impl KeyStore for LocalKeys {
    async fn wrap(&self, account: &str, key: &str, purpose: &[u8], secret: &[u8]) -> Result<Bytes, KmsError> {
        let wrapped = self.usable(account, key)?.wrap(purpose, secret);
        wrapped.map(Bytes::from).map_err(|error| KmsError::Unavailable(error.to_string()))
    }

    async fn unwrap(
        &self,
        account: &str,
        key: &str,
        purpose: &[u8],
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        self.usable(account, key)?.unwrap(purpose, wrapped).map_err(|error| damaged(key, error))
    }
}

/// Why a key can't be used; `None`: it can.
pub fn fault_of(row: &KmsKeyRow) -> Option<KmsFault> {
    match KmsKeyState::try_from(row.state).unwrap_or(KmsKeyState::Unspecified) {
        KmsKeyState::Enabled => None,
        KmsKeyState::PendingDeletion => Some(KmsFault::Leaving),
        KmsKeyState::Destroyed => Some(KmsFault::Destroyed),
        KmsKeyState::Disabled | KmsKeyState::Unspecified => Some(KmsFault::Disabled),
    }
}

impl Keys {
    /// The row of a new key of the key store.
    pub fn new_kms_key(&self, account: &str, id: &str) -> Result<KmsKeyRow, KeyError> {
        let wrapped = self.wrap(&kms_purpose(account, id), KeyEncryptionKey::random()?.expose())?;
        Ok(KmsKeyRow {
            id: id.to_owned(),
            account: account.to_owned(),
            wrapped: wrapped.into(),
            state: KmsKeyState::Enabled.into(),
            ..KmsKeyRow::default()
        })
    }

    /// The data key of a domain, by a key whatever its state: for whoever has the drives themselves.
    pub fn unwrap_by_kms_key(&self, domain: &DomainRow, key: &KmsKeyRow) -> Result<DataKey, KeyError> {
        let what = || format!("the data key of domain {}", domain.id);
        let bound = domain_purpose("data", &domain.account, &Purpose::of_row(domain));
        let secret = self.unwrap_kms_key(key)?.unwrap(&bound, &domain.wrapped_data_key);
        let secret = secret.map_err(|source| KeyError::Unwrap { what: what(), source })?;
        DataKey::from_slice(&secret).ok_or_else(|| KeyError::Secret(what()))
    }

    fn unwrap_kms_key(&self, row: &KmsKeyRow) -> Result<KeyEncryptionKey, KeyError> {
        let what = format!("key {}", row.id);
        let secret = self.unwrap(&what, &kms_purpose(&row.account, &row.id), &row.wrapped)?;
        KeyEncryptionKey::from_slice(&secret).ok_or(KeyError::Secret(what))
    }
}

// It opens only for the account and name that it was made for: rows can't be swapped on media.
pub(crate) fn kms_purpose(account: &str, id: &str) -> Vec<u8> {
    format!("stele 2026 kms key v1\0{account}\0{id}").into_bytes()
}
