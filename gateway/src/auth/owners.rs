//! The accounts that answers name as owners.

use super::door::Authorised;
use super::rows;
use crate::s3::{answer, error};
use codec::effect::AccountRow;
use s3s::S3Result;
use s3s::dto::Owner;
use std::collections::HashMap;

/// Accounts by their canonical ids.
#[derive(Debug)]
pub struct Owners {
    bucket_owner: AccountRow,
    others: HashMap<String, Option<AccountRow>>,
}

impl Owners {
    /// The account of an id as S3 shows it; an empty id is the bucket's owner.
    pub fn of(&self, id: &str) -> Owner {
        let bucket_owner = rows::canonical(&self.bucket_owner.id);
        if id.is_empty() || id == bucket_owner {
            return answer::owner(bucket_owner, Some(&self.bucket_owner));
        }
        answer::owner(id, self.others.get(id).and_then(Option::as_ref))
    }

    /// The bucket's owner.
    pub fn of_bucket(&self) -> Owner {
        self.of("")
    }
}

impl Authorised {
    /// The bucket's owner and the accounts of these ids, each looked up once: few pages name more than the one or two that write to a
    /// bucket, and none more than it has lines.
    pub async fn owners(&self, ids: &[&str]) -> S3Result<Owners> {
        let bucket_owner = self.access()?.owner.clone();
        let mut others = HashMap::new();
        for &id in ids {
            if id.is_empty() || id == rows::canonical(&bucket_owner.id) || others.contains_key(id) {
                continue;
            }
            let found = match self.caller().account().filter(|account| rows::canonical(&account.id) == id) {
                Some(account) => Some(account.clone()),
                None => self.metadata().account(id).await.map_err(error::lookup)?,
            };
            others.insert(id.to_owned(), found);
        }
        Ok(Owners { bucket_owner, others })
    }
}
