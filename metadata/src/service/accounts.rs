//! Accounts, changed while the service runs.

use super::Metadata;
use crate::client::{CommitError, MetadataClient};
use crate::command::{Command, Refusal};
use crate::index::{self, IndexError};
use crate::keys::{KeyError, Secret};
use bytes::Bytes;
use codec::effect::AccountRow;

/// Why the accounts stay what they were.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// It is there, and is not to be changed.
    #[error("there is an account {0}")]
    Known(String),
    /// There is none.
    #[error("there is no account {0}")]
    Unknown(String),
    /// Nobody could reach what it owns.
    #[error("account {id} owns {buckets} buckets: empty and delete them first, or give it other keys")]
    Owns {
        /// Its id.
        id: String,
        /// How many.
        buckets: usize,
    },
    /// The secret can't be wrapped.
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
    /// All accounts, by id, without their wrapped secrets.
    ///
    /// # Errors
    /// The index failed.
    pub fn accounts(&self) -> Result<Vec<AccountRow>, IndexError> {
        let rows = index::accounts(&self.view())?;
        Ok(rows.into_iter().map(|row| AccountRow { wrapped_secret: Bytes::new(), ..row }).collect())
    }

    /// Makes an account, whose secret `row` does not have yet; with `replace` one that is there gets other keys, which count within
    /// a second everywhere, and keeps a name and a display name that are empty in `row`.
    ///
    /// # Errors
    /// There is one, or with `replace` none; another one has its name or access key, or it was not committed.
    pub async fn put_account(&self, row: AccountRow, secret: &Secret, replace: bool) -> Result<(), AccountError> {
        self.writing()?;
        let id = row.id.clone();
        let row = AccountRow { wrapped_secret: self.keys.wrap_account(&id, secret)?, ..row };
        let command = if replace { Command::ReplaceAccount(row) } else { Command::CreateAccount(row) };
        self.commit(self.epoch(), command).await.map_err(|error| refused(&id, error))?;
        tracing::info!(account = id, replace, "an account was put");
        Ok(())
    }

    /// Removes an account that owns no bucket. One that is made anew under this id is the same one.
    ///
    /// # Errors
    /// There is none, it owns buckets, or it was not committed.
    pub async fn remove_account(&self, id: &str) -> Result<(), AccountError> {
        self.writing()?;
        let command = Command::DeleteAccount { id: id.to_owned() };
        self.commit(self.epoch(), command).await.map_err(|error| refused(id, error))?;
        tracing::info!(account = id, "an account was removed");
        Ok(())
    }
}

fn refused(id: &str, error: CommitError) -> AccountError {
    let id = id.to_owned();
    match error {
        CommitError::Refused(Refusal::AccountExists) => AccountError::Known(id),
        CommitError::Refused(Refusal::NoSuchAccount) => AccountError::Unknown(id),
        CommitError::Refused(Refusal::AccountOwns { buckets }) => AccountError::Owns { id, buckets },
        other => AccountError::Commit(other),
    }
}
