//! Settings that nothing can be set to yet, as S3 answers for a bucket that never had them. Clients ask for these before they
//! copy, mirror or take over a bucket, and give up on an answer that they don't know.
//!
//! Invariant: an answer here is true of every bucket and object because whatever would make it untrue is refused:
//! [`super::request::refuse_headers`] refuses grants, tags and locks, and [`super::service::OPERATIONS`] has no operation that sets
//! one of these. Who adds such an operation answers here from what was set.

use super::error;
use super::object::current;
use crate::auth;
use crate::engine::Gateway;
use http::StatusCode;
use s3s::dto::{
    GetBucketAccelerateConfigurationOutput, GetBucketAclOutput, GetBucketLoggingOutput,
    GetBucketNotificationConfigurationOutput, GetBucketOwnershipControlsOutput, GetBucketRequestPaymentOutput,
    GetObjectAclInput, GetObjectAclOutput, Grant, Grantee, ObjectOwnership, Owner, OwnershipControls,
    OwnershipControlsRule, Payer, Permission, Type,
};
use s3s::{S3Request, S3Response, S3Result};

/// A setting that S3 answers with 404 until it is set.
#[derive(Clone, Copy, Debug)]
pub struct Unset {
    code: &'static str,
    message: &'static str,
}

macro_rules! unset {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, $message:literal; )*) => {
        $( $(#[$doc])* pub const $name: Unset = Unset { code: $code, message: $message }; )*
    };
}

unset! {
    /// GetBucketTagging.
    TAGS = "NoSuchTagSet", "The TagSet does not exist";
    /// GetBucketPolicy and GetBucketPolicyStatus.
    POLICY = "NoSuchBucketPolicy", "The bucket policy does not exist";
    /// GetBucketCors.
    CORS = "NoSuchCORSConfiguration", "The CORS configuration does not exist";
    /// GetBucketLifecycleConfiguration.
    LIFECYCLE = "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist";
    /// GetBucketWebsite.
    WEBSITE = "NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration";
    /// GetPublicAccessBlock.
    PUBLIC_ACCESS_BLOCK = "NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found";
    /// GetBucketReplication.
    REPLICATION = "ReplicationConfigurationNotFoundError", "The replication configuration was not found";
    /// GetObjectLockConfiguration.
    OBJECT_LOCK =
        "ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket";
}

/// The answer for a setting that S3 answers with 404 until it is set.
pub fn unset<T, O>(req: &S3Request<T>, what: Unset) -> S3Result<S3Response<O>> {
    auth::bucket(req)?;
    Err(error::custom(what.code, StatusCode::NOT_FOUND, what.message))
}

/// The owner may do everything, and nobody else anything.
fn owners(owner: &Owner) -> Vec<Grant> {
    let grantee = Grantee {
        display_name: owner.display_name.clone(),
        email_address: None,
        id: owner.id.clone(),
        type_: Type::from_static(Type::CANONICAL_USER),
        uri: None,
    };
    vec![Grant { grantee: Some(grantee), permission: Some(Permission::from_static(Permission::FULL_CONTROL)) }]
}

/// GetBucketAcl.
pub fn bucket_acl<T>(req: &S3Request<T>) -> S3Result<S3Response<GetBucketAclOutput>> {
    auth::bucket(req)?;
    let owner = auth::owner(auth::caller(req)?.as_ref());
    Ok(S3Response::new(GetBucketAclOutput { grants: Some(owners(&owner)), owner: Some(owner) }))
}

/// GetObjectAcl.
pub async fn object_acl(
    gateway: &Gateway,
    req: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    let bucket = auth::bucket(&req)?;
    current(gateway, &bucket, &req.input.key, req.input.version_id.as_deref()).await?;
    let owner = auth::owner(auth::caller(&req)?.as_ref());
    let grants = Some(owners(&owner));
    Ok(S3Response::new(GetObjectAclOutput { grants, owner: Some(owner), request_charged: None }))
}

/// GetBucketOwnershipControls: ACLs grant nothing.
pub fn ownership<T>(req: &S3Request<T>) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
    auth::bucket(req)?;
    let object_ownership = ObjectOwnership::from_static(ObjectOwnership::BUCKET_OWNER_ENFORCED);
    let controls = OwnershipControls { rules: vec![OwnershipControlsRule { object_ownership }] };
    Ok(S3Response::new(GetBucketOwnershipControlsOutput { ownership_controls: Some(controls) }))
}

/// GetBucketLogging.
pub fn logging<T>(req: &S3Request<T>) -> S3Result<S3Response<GetBucketLoggingOutput>> {
    auth::bucket(req)?;
    Ok(S3Response::new(GetBucketLoggingOutput::default()))
}

/// GetBucketNotificationConfiguration.
pub fn notifications<T>(req: &S3Request<T>) -> S3Result<S3Response<GetBucketNotificationConfigurationOutput>> {
    auth::bucket(req)?;
    Ok(S3Response::new(GetBucketNotificationConfigurationOutput::default()))
}

/// GetBucketRequestPayment.
pub fn payer<T>(req: &S3Request<T>) -> S3Result<S3Response<GetBucketRequestPaymentOutput>> {
    auth::bucket(req)?;
    let payer = Some(Payer::from_static(Payer::BUCKET_OWNER));
    Ok(S3Response::new(GetBucketRequestPaymentOutput { payer }))
}

/// GetBucketAccelerateConfiguration.
pub fn acceleration<T>(req: &S3Request<T>) -> S3Result<S3Response<GetBucketAccelerateConfigurationOutput>> {
    auth::bucket(req)?;
    Ok(S3Response::new(GetBucketAccelerateConfigurationOutput::default()))
}
