//! How much buckets and accounts hold, and may hold.

use super::Metadata;
use crate::client::{CommitError, MetadataClient};
use crate::command::{Command, Quota, QuotaOf, Refusal};
use crate::index::usage::{self, Counted};
use crate::index::{self, IndexError};
use codec::effect::UsageRow;

/// How much a bucket or an account holds, and may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// What it holds.
    pub held: UsageRow,
    /// What it may hold.
    pub quota: Quota,
    /// All of it was counted. An index of before there was the count is counted in the background.
    pub counted: bool,
}

/// Why a quota is not shown or not set.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// There is none of this name.
    #[error("there is no bucket {0}")]
    NoBucket(String),
    /// There is none with this id.
    #[error("there is no account {0}")]
    NoAccount(String),
    /// The change was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl Metadata {
    /// Whose quota a bucket's is, by its name.
    ///
    /// # Errors
    /// There is no such bucket, or the index failed.
    pub fn quota_of_bucket(&self, name: &str) -> Result<QuotaOf, QuotaError> {
        let row = index::bucket(&self.view(), name)?.ok_or_else(|| QuotaError::NoBucket(name.to_owned()))?;
        Ok(QuotaOf::Bucket(row.bucket_id()))
    }

    /// How much it holds, and may hold.
    ///
    /// # Errors
    /// There is no such bucket or account, or the index failed.
    pub fn holding(&self, of: &QuotaOf) -> Result<Holding, QuotaError> {
        let view = self.view();
        let counted = usage::counted(&view)? == Counted::All;
        let (held, max_bytes, max_objects) = match of {
            QuotaOf::Bucket(id) => {
                let row = index::bucket_by_id(&view, *id)?.ok_or_else(|| QuotaError::NoBucket(id.to_string()))?;
                (usage::of_bucket(&view, *id)?, row.max_bytes, row.max_objects)
            }
            QuotaOf::Account(id) => {
                let row = index::account(&view, id)?.ok_or_else(|| QuotaError::NoAccount(id.clone()))?;
                (usage::of_account(&view, id)?, row.max_bytes, row.max_objects)
            }
        };
        Ok(Holding { held, quota: Quota { max_bytes, max_objects }, counted })
    }

    /// Limits how much it may hold. It counts from the next commit on; what is there already stays.
    ///
    /// # Errors
    /// There is no such bucket or account, or it was not committed: for one below format level 4.
    pub async fn set_quota(&self, of: QuotaOf, quota: Quota) -> Result<(), QuotaError> {
        self.writing()?;
        let gone = match &of {
            QuotaOf::Bucket(id) => QuotaError::NoBucket(id.to_string()),
            QuotaOf::Account(id) => QuotaError::NoAccount(id.clone()),
        };
        match self.commit(self.epoch(), Command::SetQuota { of, quota }).await {
            Ok(_) => Ok(()),
            Err(CommitError::Refused(Refusal::NoSuchBucket | Refusal::NoSuchAccount)) => Err(gone),
            Err(error) => Err(error.into()),
        }
    }
}
