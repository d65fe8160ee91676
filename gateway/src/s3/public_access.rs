//! The public access block and the object ownership of buckets.
//!
//! Source: Amazon S3 API Reference, PutPublicAccessBlock, GetPublicAccessBlock, DeletePublicAccessBlock,
//! PutBucketOwnershipControls, GetBucketOwnershipControls, DeleteBucketOwnershipControls.

use super::error;
use crate::auth::{self, rows};
use crate::engine::Gateway;
use access::acl::Acl;
use access::acl::ownership::Ownership;
use codec::effect::{BucketRow, OwnershipRule, PublicAccessBlockRow};
use http::StatusCode;
use metadata::command::{BucketChange, Command};
use s3s::dto::{
    DeleteBucketOwnershipControlsInput, DeleteBucketOwnershipControlsOutput, DeletePublicAccessBlockInput,
    DeletePublicAccessBlockOutput, GetBucketOwnershipControlsInput, GetBucketOwnershipControlsOutput,
    GetPublicAccessBlockInput, GetPublicAccessBlockOutput, ObjectOwnership, OwnershipControls, OwnershipControlsRule,
    PublicAccessBlockConfiguration, PutBucketOwnershipControlsInput, PutBucketOwnershipControlsOutput,
    PutPublicAccessBlockInput, PutPublicAccessBlockOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

async fn change(gateway: &Gateway, bucket: &BucketRow, change: BucketChange) -> S3Result<()> {
    let meta = gateway.metadata();
    let command = Command::ChangeBucket { bucket: bucket.bucket_id(), change };
    meta.commit(meta.epoch(), command).await.map_err(error::commit)?;
    Ok(())
}

/// GetPublicAccessBlock.
pub fn get_block(req: &S3Request<GetPublicAccessBlockInput>) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
    let bucket = auth::bucket(req)?;
    let Some(row) = bucket.block else {
        return Err(error::custom(
            "NoSuchPublicAccessBlockConfiguration",
            StatusCode::NOT_FOUND,
            "The public access block configuration was not found",
        ));
    };
    let configuration = PublicAccessBlockConfiguration {
        block_public_acls: Some(row.block_acls),
        block_public_policy: Some(row.block_policy),
        ignore_public_acls: Some(row.ignore_acls),
        restrict_public_buckets: Some(row.restrict),
    };
    Ok(S3Response::new(GetPublicAccessBlockOutput { public_access_block_configuration: Some(configuration) }))
}

/// PutPublicAccessBlock. What is not said is off.
pub async fn put_block(
    gateway: &Gateway,
    req: S3Request<PutPublicAccessBlockInput>,
) -> S3Result<S3Response<PutPublicAccessBlockOutput>> {
    let bucket = auth::bucket(&req)?;
    let asked = req.input.public_access_block_configuration;
    let row = PublicAccessBlockRow {
        block_acls: asked.block_public_acls.unwrap_or(false),
        ignore_acls: asked.ignore_public_acls.unwrap_or(false),
        block_policy: asked.block_public_policy.unwrap_or(false),
        restrict: asked.restrict_public_buckets.unwrap_or(false),
    };
    change(gateway, &bucket, BucketChange::Block(Some(row))).await?;
    Ok(S3Response::new(PutPublicAccessBlockOutput {}))
}

/// DeletePublicAccessBlock.
pub async fn delete_block(
    gateway: &Gateway,
    req: S3Request<DeletePublicAccessBlockInput>,
) -> S3Result<S3Response<DeletePublicAccessBlockOutput>> {
    let bucket = auth::bucket(&req)?;
    change(gateway, &bucket, BucketChange::Block(None)).await?;
    Ok(S3Response::new(DeletePublicAccessBlockOutput {}))
}

/// GetBucketOwnershipControls.
pub fn get_ownership(
    req: &S3Request<GetBucketOwnershipControlsInput>,
) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
    let bucket = auth::bucket(req)?;
    if bucket.ownership == OwnershipRule::Unset as i32 {
        return Err(error::custom(
            "OwnershipControlsNotFoundError",
            StatusCode::NOT_FOUND,
            "The bucket ownership controls were not found",
        ));
    }
    let object_ownership = ObjectOwnership::from_static(rows::ownership(bucket.ownership).name());
    let controls = OwnershipControls { rules: vec![OwnershipControlsRule { object_ownership }] };
    Ok(S3Response::new(GetBucketOwnershipControlsOutput { ownership_controls: Some(controls) }))
}

/// PutBucketOwnershipControls: one rule. Lists are not put out of force while the bucket's gives somebody something: whoever has it
/// from there would lose it without a word.
pub async fn put_ownership(
    gateway: &Gateway,
    req: S3Request<PutBucketOwnershipControlsInput>,
) -> S3Result<S3Response<PutBucketOwnershipControlsOutput>> {
    let authorised = auth::authorised(&req)?;
    let access = authorised.access()?;
    let [rule] = req.input.ownership_controls.rules.as_slice() else { return Err(s3_error!(MalformedXML)) };
    let rule = Ownership::parse(rule.object_ownership.as_str()).ok_or_else(|| s3_error!(MalformedXML))?;
    if !rule.uses_lists() && access.acl != Acl::private(&access.acl.owner) {
        return Err(error::lists_with_ownership());
    }
    change(gateway, &access.row, BucketChange::Ownership(rows::ownership_rule(rule))).await?;
    Ok(S3Response::new(PutBucketOwnershipControlsOutput {}))
}

/// DeleteBucketOwnershipControls.
pub async fn delete_ownership(
    gateway: &Gateway,
    req: S3Request<DeleteBucketOwnershipControlsInput>,
) -> S3Result<S3Response<DeleteBucketOwnershipControlsOutput>> {
    let bucket = auth::bucket(&req)?;
    change(gateway, &bucket, BucketChange::Ownership(OwnershipRule::Unset)).await?;
    Ok(S3Response::new(DeleteBucketOwnershipControlsOutput {}))
}
