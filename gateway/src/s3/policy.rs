//! Bucket policies, and whether they make a bucket public.
//!
//! Source: Amazon S3 API Reference, PutBucketPolicy, GetBucketPolicy, DeleteBucketPolicy, GetBucketPolicyStatus.
//!
//! Invariant: a policy is kept byte for byte as it was sent, and only if every word of it is understood: one that could be read in two
//! ways would close less, or open more, than its writer believes.

use super::error;
use crate::auth;
use crate::configs;
use crate::engine::Gateway;
use access::policy::public::is_public;
use access::policy::{Caller, Context, Kind, Policy, Request, allows_service};
use bytes::Bytes;
use codec::effect::{BucketRow, ConfigKind};
use http::StatusCode;
use metadata::client::MetadataClient;
use s3s::dto::{
    DeleteBucketPolicyInput, DeleteBucketPolicyOutput, GetBucketPolicyInput, GetBucketPolicyOutput,
    GetBucketPolicyStatusInput, GetBucketPolicyStatusOutput, PolicyStatus, PutBucketPolicyInput, PutBucketPolicyOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result};

/// 404 of a bucket without a policy.
fn no_policy() -> S3Error {
    error::custom("NoSuchBucketPolicy", StatusCode::NOT_FOUND, "The bucket policy does not exist")
}

/// GetBucketPolicy: as it was sent.
pub async fn get(
    gateway: &Gateway,
    req: S3Request<GetBucketPolicyInput>,
) -> S3Result<S3Response<GetBucketPolicyOutput>> {
    let bucket = auth::bucket(&req)?;
    let found = configs::read(gateway.metadata().as_ref(), &bucket, ConfigKind::Policy, "").await?;
    let text = String::from_utf8(found.ok_or_else(no_policy)?.into()).map_err(|fault| error::internal(&fault))?;
    Ok(S3Response::new(GetBucketPolicyOutput { policy: Some(text) }))
}

/// PutBucketPolicy.
pub async fn put(
    gateway: &Gateway,
    req: S3Request<PutBucketPolicyInput>,
) -> S3Result<S3Response<PutBucketPolicyOutput>> {
    let authorised = auth::authorised(&req)?;
    let access = authorised.access()?;
    let input = req.input;
    let policy = Policy::parse(&input.policy, Kind::Bucket(&access.row.name)).map_err(|fault| error::policy(&fault))?;
    access.block.check_policy(is_public(&policy)).map_err(|_| auth::denied())?;
    if !input.confirm_remove_self_bucket_access.unwrap_or(false) && authorised.is_locked_out_by(&policy) {
        return Err(error::policy(&"the policy would keep you from changing it again"));
    }
    let body = Bytes::from(input.policy);
    configs::put(gateway.metadata().as_ref(), &access.row, ConfigKind::Policy, "", body).await?;
    Ok(S3Response::new(PutBucketPolicyOutput {}))
}

/// DeleteBucketPolicy. None is no error.
pub async fn delete(
    gateway: &Gateway,
    req: S3Request<DeleteBucketPolicyInput>,
) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
    let bucket = auth::bucket(&req)?;
    configs::delete(gateway.metadata().as_ref(), &bucket, ConfigKind::Policy, "").await?;
    Ok(S3Response::new(DeleteBucketPolicyOutput {}))
}

/// GetBucketPolicyStatus: whether the policy, or the bucket's list, lets everybody in. S3 answers 404 where there is no policy; that a
/// list can make the bucket public all the same is what whoever asks wants to know.
pub fn status(req: &S3Request<GetBucketPolicyStatusInput>) -> S3Result<S3Response<GetBucketPolicyStatusOutput>> {
    let authorised = auth::authorised(req)?;
    let access = authorised.access()?;
    let by_list = access.ownership.uses_lists() && !access.block.ignore_acls && access.acl.is_public();
    let public = by_list || access.policy.as_deref().is_some_and(is_public);
    Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status: Some(PolicyStatus { is_public: Some(public) }) }))
}

/// Whether a bucket's policy lets a service put this key there.
pub async fn lets_service_put(
    meta: &dyn MetadataClient,
    target: &BucketRow,
    service: &str,
    key: &str,
    context: &Context,
) -> S3Result<bool> {
    let Some(text) = configs::read(meta, target, ConfigKind::Policy, "").await? else { return Ok(false) };
    let text = std::str::from_utf8(&text).map_err(|fault| error::internal(&fault))?;
    let policy = Policy::parse(text, Kind::Kept).map_err(|fault| error::internal(&fault))?;
    let resource = format!("arn:aws:s3:::{}/{key}", target.name);
    let (caller, action, owner) = (&Caller::Anonymous, "s3:PutObject", target.owner.as_str());
    // Denials of all but one's own leave services out by it, where it is said.
    let mut context = context.clone();
    context.set("aws:PrincipalIsAWSService", "true");
    context.set("aws:PrincipalServiceName", service);
    let request = Request { caller, action, resource: &resource, owner, context: &context };
    Ok(allows_service(&policy, service, &request))
}
