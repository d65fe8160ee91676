//! Access control lists of buckets and objects.
//!
//! Source: Amazon S3 API Reference, GetBucketAcl, PutBucketAcl, GetObjectAcl, PutObjectAcl.
//!
//! Invariants:
//! * A list that is put comes either from the headers or from the body, and is taken whole or refused ([`crate::auth::lists`]).
//! * The owner of a bucket or object is never changed by a list.

use super::error;
use super::version;
use crate::auth::door::{Authorised, BucketAccess};
use crate::auth::owners::Owners;
use crate::auth::{self, lists, rows};
use crate::engine::Gateway;
use access::acl::canned::NamedGrantee;
use access::acl::{Acl, AclError, Grant, Grantee, Permission};
use codec::effect::VersionRow;
use metadata::client::MetadataClient;
use metadata::command::{BucketChange, ChangeVersion, Command, VersionChange};
use s3s::dto::{
    self, AccessControlPolicy, GetBucketAclInput, GetBucketAclOutput, GetObjectAclInput, GetObjectAclOutput,
    PutBucketAclInput, PutBucketAclOutput, PutObjectAclInput, PutObjectAclOutput, Type,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

/// GetBucketAcl.
pub async fn get_bucket(req: S3Request<GetBucketAclInput>) -> S3Result<S3Response<GetBucketAclOutput>> {
    let authorised = auth::authorised(&req)?;
    let access = authorised.access()?;
    let owner = rows::canonical(&access.row.owner);
    let shown = shown(access, access.acl.clone(), owner);
    let owners = owners(&authorised, &shown).await?;
    Ok(S3Response::new(GetBucketAclOutput { grants: Some(grants(&shown, &owners)), owner: Some(owners.of_bucket()) }))
}

/// GetObjectAcl.
pub async fn get_object(
    gateway: &Gateway,
    req: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    let authorised = auth::authorised(&req)?;
    let access = authorised.access()?;
    let version_id = req.input.version_id.as_deref();
    let found = version::find(gateway, &access.row, &req.input.key, version_id, authorised.found()).await?;
    let shown = object_list(access, &found.row);
    let owners = owners(&authorised, &shown).await?;
    Ok(S3Response::new(GetObjectAclOutput {
        grants: Some(grants(&shown, &owners)),
        owner: Some(owners.of(&shown.owner)),
        request_charged: None,
    }))
}

/// PutBucketAcl.
pub async fn put_bucket(
    gateway: &Gateway,
    req: S3Request<PutBucketAclInput>,
) -> S3Result<S3Response<PutBucketAclOutput>> {
    let authorised = auth::authorised(&req)?;
    let access = authorised.access()?;
    let owner = rows::canonical(&access.row.owner).to_owned();
    let list = asked(&authorised, access, &owner, req.input.access_control_policy).await?;
    let change = BucketChange::Acl(rows::acl_row(&list));
    let command = Command::ChangeBucket { bucket: access.row.bucket_id(), change };
    let meta = gateway.metadata();
    meta.commit(meta.epoch(), command).await.map_err(error::commit)?;
    Ok(S3Response::new(PutBucketAclOutput {}))
}

/// PutObjectAcl.
pub async fn put_object(
    gateway: &Gateway,
    req: S3Request<PutObjectAclInput>,
) -> S3Result<S3Response<PutObjectAclOutput>> {
    let authorised = auth::authorised(&req)?;
    let access = authorised.access()?;
    let input = req.input;
    let version_id = input.version_id.as_deref();
    let row = version::find(gateway, &access.row, &input.key, version_id, authorised.found()).await?.row;
    let owner = rows::canonical(rows::owner(&row, &access.row.owner)).to_owned();
    let list = asked(&authorised, access, &owner, input.access_control_policy).await?;
    let change = ChangeVersion {
        bucket: access.row.bucket_id(),
        named: version::command_named(version_id)?,
        key: input.key.clone(),
        // The version that the decision was about, and no other that was put since.
        seq: Some(codec::id::Lsn(row.seq)),
        change: VersionChange::Acl(rows::acl_row(&list)),
        bypass: false,
    };
    let meta = gateway.metadata();
    meta.commit(meta.epoch(), Command::ChangeVersion(change)).await.map_err(error::commit)?;
    Ok(S3Response::new(PutObjectAclOutput { request_charged: None }))
}

/// The list of an object as it counts.
fn object_list(access: &BucketAccess, row: &VersionRow) -> Acl {
    let owner = rows::canonical(rows::owner(row, &access.row.owner));
    shown(access, rows::acl(row.acl.as_ref(), owner), owner)
}

/// A list as it counts: where lists count for nothing, the bucket's owner has everything.
fn shown(access: &BucketAccess, list: Acl, owner: &str) -> Acl {
    match access.ownership.uses_lists() {
        true => Acl { owner: owner.to_owned(), ..list },
        false => Acl::private(rows::canonical(&access.row.owner)),
    }
}

async fn owners(authorised: &Authorised, list: &Acl) -> S3Result<Owners> {
    let grantees = list.grants.iter().filter_map(|grant| match &grant.grantee {
        Grantee::Account(id) => Some(id.as_str()),
        Grantee::AllUsers | Grantee::AuthenticatedUsers | Grantee::LogDelivery => None,
    });
    let ids: Vec<&str> = grantees.chain([list.owner.as_str()]).collect();
    authorised.owners(&ids).await
}

/// The grants of a list: those to groups before those to accounts, and the lesser before the greater. The order means nothing to S3,
/// but the public conformance suite holds answers against this one.
fn grants(list: &Acl, owners: &Owners) -> Vec<dto::Grant> {
    let one = |grant: &Grant| {
        let grantee = match &grant.grantee {
            Grantee::Account(id) => {
                let account = owners.of(id);
                dto::Grantee {
                    display_name: account.display_name,
                    email_address: None,
                    id: account.id,
                    type_: Type::from_static(Type::CANONICAL_USER),
                    uri: None,
                }
            }
            group => dto::Grantee {
                display_name: None,
                email_address: None,
                id: None,
                type_: Type::from_static(Type::GROUP),
                uri: group.uri().map(str::to_owned),
            },
        };
        let permission = dto::Permission::from_static(grant.permission.name());
        dto::Grant { grantee: Some(grantee), permission: Some(permission) }
    };
    let mut ordered: Vec<&Grant> = list.grants.iter().collect();
    ordered.sort_by_key(|grant| (matches!(grant.grantee, Grantee::Account(_)), rank(grant.permission)));
    ordered.into_iter().map(one).collect()
}

fn rank(permission: Permission) -> u8 {
    match permission {
        Permission::Read => 0,
        Permission::Write => 1,
        Permission::ReadAcp => 2,
        Permission::WriteAcp => 3,
        Permission::FullControl => 4,
    }
}

/// The list that a request asks for, of something of `owner`'s.
async fn asked(
    authorised: &Authorised,
    access: &BucketAccess,
    owner: &str,
    body: Option<AccessControlPolicy>,
) -> S3Result<Acl> {
    match (authorised.asks_for_list(), body) {
        (true, Some(_)) => Err(s3_error!(UnexpectedContent, "This request does not support content")),
        (true, None) => authorised.new_list(access, owner).await?.ok_or_else(missing),
        (false, Some(policy)) => {
            let list = of_body(authorised.metadata(), owner, policy).await?;
            lists::check(&list, None, access.ownership, access.block)?;
            Ok(list)
        }
        (false, None) => Err(missing()),
    }
}

fn missing() -> s3s::S3Error {
    error::custom(
        "MissingSecurityHeader",
        http::StatusCode::BAD_REQUEST,
        "Your request was missing a required header: x-amz-acl, x-amz-grant-* or an access control policy in the body",
    )
}

fn malformed() -> s3s::S3Error {
    error::custom(
        "MalformedACLError",
        http::StatusCode::BAD_REQUEST,
        "The XML you provided was not well-formed or did not validate against our published schema",
    )
}

/// The list of a body.
async fn of_body(metadata: &dyn MetadataClient, owner: &str, policy: AccessControlPolicy) -> S3Result<Acl> {
    let named = policy.owner.and_then(|owner| owner.id).ok_or_else(malformed)?;
    if named != owner {
        return Err(error::acl(&AclError::Owner));
    }
    let asked = policy.grants.unwrap_or_default();
    if asked.len() > access::acl::MAX_GRANTS {
        return Err(error::acl(&AclError::TooMany));
    }
    let mut list = Acl { owner: owner.to_owned(), grants: Vec::with_capacity(asked.len()) };
    for grant in asked {
        let permission = grant.permission.as_ref().and_then(|name| Permission::parse(name.as_str()));
        let permission = permission.ok_or_else(malformed)?;
        let grantee = grantee(metadata, owner, grant.grantee.ok_or_else(malformed)?).await?;
        list.grants.push(Grant { grantee, permission });
    }
    Ok(list)
}

async fn grantee(metadata: &dyn MetadataClient, owner: &str, named: dto::Grantee) -> S3Result<Grantee> {
    let named = match (named.type_.as_str(), named.id, named.uri, named.email_address) {
        (Type::GROUP, None, Some(uri), None) => {
            return Grantee::group(&uri).ok_or_else(|| error::acl(&AclError::Group(uri)));
        }
        (Type::CANONICAL_USER, Some(id), None, None) if id == owner => return Ok(Grantee::Account(id)),
        (Type::CANONICAL_USER, Some(id), None, None) => NamedGrantee::Id(id),
        (Type::AMAZON_CUSTOMER_BY_EMAIL, None, None, Some(address)) => NamedGrantee::Email(address),
        _ => return Err(malformed()),
    };
    match lists::resolve(metadata, &named).await? {
        Some(id) => Ok(Grantee::Account(id)),
        None => Err(error::acl(&AclError::Unknown(String::new()))),
    }
}
