//! Lists that requests ask for: `x-amz-acl`, `x-amz-grant-*`, and the bodies of PutBucketAcl and PutObjectAcl.
//!
//! Invariant: a list is taken whole or refused. One that names somebody whom nobody knows, or that is public where that is blocked, or
//! that would count for nothing, is refused: whoever sent it believes that it counts.

use super::caller::Caller;
use super::door::{Authorised, BucketAccess};
use super::facts::Facts;
use super::rows;
use crate::s3::error;
use access::acl::block::Block;
use access::acl::canned::{Canned, NamedGrantee, from_headers, grantees};
use access::acl::ownership::Ownership;
use access::acl::{Acl, AclError, Permission};
use codec::effect::{AclRow, OwnershipRule, PublicAccessBlockRow};
use metadata::client::MetadataClient;
use s3s::{S3Result, s3_error};
use std::collections::HashMap;

/// The headers that grant, and what.
const GRANTS: [(&str, Permission); 5] = [
    ("x-amz-grant-full-control", Permission::FullControl),
    ("x-amz-grant-read", Permission::Read),
    ("x-amz-grant-read-acp", Permission::ReadAcp),
    ("x-amz-grant-write", Permission::Write),
    ("x-amz-grant-write-acp", Permission::WriteAcp),
];

/// What new buckets of AWS have.
const ALL_BLOCKED: PublicAccessBlockRow =
    PublicAccessBlockRow { block_acls: true, ignore_acls: true, block_policy: true, restrict: true };

/// The list that a request's headers ask for, as they say it.
#[derive(Clone, Debug, Default)]
pub struct AskedList {
    canned: Option<String>,
    grants: Vec<(Permission, String)>,
    ownership: Option<String>,
}

/// Whose a new object is, and its list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewObject {
    /// As in [`codec::effect::VersionRow::owner`]: empty for the bucket's owner.
    pub owner: String,
    /// As in [`codec::effect::VersionRow::acl`].
    pub acl: Option<AclRow>,
}

/// What a new bucket has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewBucket {
    /// Its list.
    pub acl: Option<AclRow>,
    /// Whether lists count.
    pub ownership: OwnershipRule,
    /// Its public access block.
    pub block: Option<PublicAccessBlockRow>,
}

impl AskedList {
    /// What these headers ask for.
    pub fn of(facts: &Facts<'_>) -> AskedList {
        let grants = GRANTS.iter().filter_map(|(name, permission)| Some((*permission, facts.amz(name)?.to_owned())));
        AskedList {
            canned: facts.amz("x-amz-acl").map(str::to_owned),
            grants: grants.collect(),
            ownership: facts.amz("x-amz-object-ownership").map(str::to_owned),
        }
    }

    /// Whether they ask for any.
    pub fn is_some(&self) -> bool {
        self.canned.is_some() || !self.grants.is_empty()
    }

    /// Whether whoever gets anything by the list is its object's owner, or this account.
    pub(super) fn opens_nothing(&self, bucket_owner: &str) -> bool {
        let is_theirs = |value: &str| {
            grantees(value).is_ok_and(|named| {
                named.iter().all(|grantee| matches!(grantee, NamedGrantee::Id(id) if id == bucket_owner))
            })
        };
        match self.canned.as_deref().map(Canned::parse) {
            None => self.grants.iter().all(|(_, value)| is_theirs(value)),
            Some(Ok(Canned::Private | Canned::BucketOwnerRead | Canned::BucketOwnerFullControl)) => {
                self.grants.is_empty()
            }
            Some(_) => false,
        }
    }

    fn canned(&self) -> S3Result<Option<Canned>> {
        if self.canned.is_some() && !self.grants.is_empty() {
            return Err(error::acl(&AclError::Both));
        }
        self.canned.as_deref().map(Canned::parse).transpose().map_err(|refused| error::acl(&refused))
    }

    /// The list; `None` when they ask for none.
    async fn list(&self, metadata: &dyn MetadataClient, owner: &str, bucket_owner: &str) -> S3Result<Option<Acl>> {
        if let Some(canned) = self.canned()? {
            return Ok(Some(canned.list(owner, bucket_owner)));
        }
        if self.grants.is_empty() {
            return Ok(None);
        }
        let headers: Vec<(Permission, &str)> =
            self.grants.iter().map(|(permission, value)| (*permission, value.as_str())).collect();
        let mut known = HashMap::new();
        for (_, value) in &headers {
            for named in grantees(value).map_err(|refused| error::acl(&refused))? {
                if let Some(id) = resolve(metadata, &named).await? {
                    known.insert(key_of(&named), id);
                }
            }
        }
        from_headers(owner, &headers, |named| known.get(&key_of(named)).cloned())
            .map(Some)
            .map_err(|refused| error::acl(&refused))
    }
}

fn key_of(named: &NamedGrantee) -> (u8, String) {
    match named {
        NamedGrantee::Id(text) => (0, text.clone()),
        NamedGrantee::Uri(text) => (1, text.clone()),
        NamedGrantee::Email(text) => (2, text.clone()),
    }
}

/// The canonical id of an account that is named, if there is one.
pub async fn resolve(metadata: &dyn MetadataClient, named: &NamedGrantee) -> S3Result<Option<String>> {
    let found = match named {
        NamedGrantee::Uri(_) => None,
        NamedGrantee::Id(id) => metadata.account(id).await.map_err(error::lookup)?,
        NamedGrantee::Email(address) => {
            let found = metadata.account_by_email(address).await.map_err(error::lookup)?;
            Some(found.ok_or_else(error::unresolvable_email)?)
        }
    };
    Ok(found.map(|account| rows::canonical(&account.id).to_owned()))
}

/// Refuses a list that may not be set, or would count for nothing.
pub fn check(list: &Acl, canned: Option<Canned>, ownership: Ownership, block: Block) -> S3Result<()> {
    list.check().map_err(|refused| error::acl(&refused))?;
    let harmless = *list == Acl::private(&list.owner);
    ownership.check_put(canned, !harmless).map_err(|_| error::lists_disabled())?;
    block.check_acl(list.is_public()).map_err(|_| super::denied())
}

impl Authorised {
    /// Whether the headers ask for a list.
    pub fn asks_for_list(&self) -> bool {
        self.list.is_some()
    }

    /// Whose the object is that the request makes, and its list.
    pub async fn new_object(&self) -> S3Result<NewObject> {
        let access = self.access()?;
        let bucket_owner = rows::canonical(&access.row.owner);
        let canned = self.list.canned()?;
        let writer = self.caller().account().map(|account| rows::canonical(&account.id));
        let owner = access.ownership.owner(writer, bucket_owner, canned);
        let list = self.list.list(self.metadata(), owner, bucket_owner).await?;
        if let Some(list) = &list {
            check(list, canned, access.ownership, access.block)?;
        }
        let of_bucket = owner == bucket_owner;
        Ok(NewObject {
            owner: if of_bucket { String::new() } else { owner.to_owned() },
            acl: list.filter(|_| access.ownership.uses_lists()).and_then(|list| rows::acl_row(&list)),
        })
    }

    /// The list that the headers of PutBucketAcl or PutObjectAcl ask for, of something that is `owner`'s.
    pub async fn new_list(&self, access: &BucketAccess, owner: &str) -> S3Result<Option<Acl>> {
        let canned = self.list.canned()?;
        let list = self.list.list(self.metadata(), owner, rows::canonical(&access.row.owner)).await?;
        if let Some(list) = &list {
            check(list, canned, access.ownership, access.block)?;
        }
        Ok(list)
    }

    /// What the bucket has that the request makes. `enforced`: lists count for nothing in it and nothing of it can be made public,
    /// unless the request says that they do.
    pub async fn new_bucket(&self, enforced: bool) -> S3Result<NewBucket> {
        self.decided()?;
        let account = self.caller().signed()?;
        let owner = rows::canonical(&account.id);
        let ownership = match self.list.ownership.as_deref() {
            Some(name) => rows::ownership_rule(
                Ownership::parse(name)
                    .ok_or_else(|| s3_error!(InvalidArgument, "Invalid x-amz-object-ownership header."))?,
            ),
            None if enforced => OwnershipRule::BucketOwnerEnforced,
            None => OwnershipRule::Unset,
        };
        let block = enforced.then_some(ALL_BLOCKED);
        let canned = self.list.canned()?;
        let list = self.list.list(self.metadata(), owner, owner).await?;
        if let Some(list) = &list {
            if !rows::ownership(ownership.into()).uses_lists() && *list != Acl::private(owner) {
                return Err(error::lists_with_ownership());
            }
            let block = rows::block(account.block.as_ref()).and(rows::block(block.as_ref()));
            check(list, canned, Ownership::ObjectWriter, block)?;
        }
        Ok(NewBucket { acl: list.and_then(|list| rows::acl_row(&list)), ownership, block })
    }
}

impl Caller {
    /// Whether it is of this account.
    pub fn is_of(&self, account: &str) -> bool {
        self.account().is_some_and(|row| row.id == account)
    }
}
