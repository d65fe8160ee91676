//! The keys of the key store, as operators see them.

use super::Metadata;
use crate::client::{CommitError, MetadataClient};
use crate::command::{Command, Refusal, SetKmsKey};
use crate::index::{IndexError, access as rows};
use crate::keys::KeyError;
use crate::kms::{DEFAULT_KEY, KmsFault, default_key};
use codec::effect::{KmsKeyRow, KmsKeyState};

/// Why a key was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KmsChangeError {
    /// There is no such key.
    #[error("there is no key {0}")]
    NoSuchKey(String),
    /// It can't come from its state into the one that was asked for.
    #[error("key {key} {fault}")]
    State {
        /// Its name.
        key: String,
        /// Its state.
        fault: KmsFault,
    },
    /// It is in use, or may be.
    #[error("key {0} is enabled: disable it first (stele kms disable)")]
    Enabled(String),
    /// A secret could not be wrapped.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The change was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl Metadata {
    /// All keys, by name, without what is wrapped.
    ///
    /// # Errors
    /// The index failed.
    pub fn kms_keys(&self) -> Result<Vec<KmsKeyRow>, IndexError> {
        let keys = rows::kms_keys(&self.view())?;
        Ok(keys.into_iter().map(|row| KmsKeyRow { wrapped: bytes::Bytes::new(), ..row }).collect())
    }

    /// Makes a key for an account. One that the account has stays as it is. [`DEFAULT_KEY`] is what requests of its buckets mean that
    /// name no key.
    ///
    /// # Errors
    /// There is no such account, another one has a key of this name, or it was not committed.
    pub async fn create_kms_key(&self, account: &str, id: &str) -> Result<(), KmsChangeError> {
        self.writing()?;
        let full = (id == DEFAULT_KEY).then(|| default_key(account));
        let row = self.keys.new_kms_key(account, full.as_deref().unwrap_or(id))?;
        self.commit(self.epoch(), Command::CreateKmsKey(row)).await?;
        tracing::info!(key = id, account, "a key of the key store was made, unless it was there");
        Ok(())
    }

    /// Takes a key into use, or out of use.
    ///
    /// # Errors
    /// There is no such key, it was destroyed, or it was not committed.
    pub async fn enable_kms_key(&self, id: &str, enabled: bool) -> Result<(), KmsChangeError> {
        let state = if enabled { KmsKeyState::Enabled } else { KmsKeyState::Disabled };
        self.set_kms_key(id, state, None).await
    }

    /// Begins to destroy a key that is disabled: it is destroyed, in the background, if nothing needs it: no version of an object,
    /// however it is kept, no part of an upload and no bucket's default. Else it stays, disabled ([`Self::kms_key_needed_by`]).
    /// [`Self::enable_kms_key`] takes this back as long as it is not destroyed. See [`crate::kms`] for why nothing that comes
    /// meanwhile can need it.
    ///
    /// # Errors
    /// There is no such key, it is in use, or it was not committed.
    pub async fn destroy_kms_key(&self, id: &str) -> Result<(), KmsChangeError> {
        self.set_kms_key(id, KmsKeyState::PendingDeletion, None).await?;
        self.writing()?.destroying.begin(id);
        Ok(())
    }

    /// What needed a key when it was last to be destroyed, for people.
    pub fn kms_key_needed_by(&self, id: &str) -> Option<String> {
        self.writing.as_ref()?.destroying.needed_by(id)
    }

    async fn set_kms_key(&self, id: &str, state: KmsKeyState, since: Option<u64>) -> Result<(), KmsChangeError> {
        self.writing()?;
        let set = SetKmsKey { id: id.to_owned(), state, since };
        match self.commit(self.epoch(), Command::SetKmsKey(set)).await {
            Ok(_) => {
                tracing::info!(key = id, ?state, "a key of the key store changed its state");
                Ok(())
            }
            Err(CommitError::Refused(Refusal::Kms { fault: KmsFault::Unknown, key })) => {
                Err(KmsChangeError::NoSuchKey(key))
            }
            Err(CommitError::Refused(Refusal::Kms { key, fault })) => Err(KmsChangeError::State { key, fault }),
            Err(CommitError::Refused(Refusal::KmsKeyInUse(key))) => Err(KmsChangeError::Enabled(key)),
            Err(error) => Err(error.into()),
        }
    }
}
