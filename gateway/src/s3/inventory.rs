//! PutBucketInventoryConfiguration and its like. What becomes of them is [`crate::inventory`]'s business.
//!
//! Invariant: an inventory is configured only into a bucket whose policy lets `s3.amazonaws.com` put it, for this source, and that is
//! asked again before each object: nobody writes into another one's bucket by taking inventory of his own.

use super::{bucket, error, policy};
use crate::auth;
use crate::configs;
use crate::engine::Gateway;
use crate::inventory::plan::Plan;
use crate::protect::Protection;
use access::policy::Context;
use codec::effect::{BucketRow, ConfigKind};
use http::StatusCode;
use metadata::client::MetadataClient;
use metadata::command::{MAX_INVENTORIES, MAX_INVENTORY_CONFIG};
use s3s::dto::{
    DeleteBucketInventoryConfigurationInput, DeleteBucketInventoryConfigurationOutput,
    GetBucketInventoryConfigurationInput, GetBucketInventoryConfigurationOutput, InventoryConfiguration,
    ListBucketInventoryConfigurationsInput, ListBucketInventoryConfigurationsOutput,
    PutBucketInventoryConfigurationInput, PutBucketInventoryConfigurationOutput,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

/// Who delivers, as policies name it.
const SERVICE: &str = "s3.amazonaws.com";
/// Configurations of one page.
const PAGE: usize = 100;

fn none() -> S3Error {
    error::custom("NoSuchConfiguration", StatusCode::NOT_FOUND, "The specified configuration does not exist.")
}

fn wrong_target() -> S3Error {
    let why = "The destination bucket does not exist, is another account's than was said, or is in another region.";
    error::custom("InvalidS3DestinationBucket", StatusCode::BAD_REQUEST, why)
}

/// PutBucketInventoryConfiguration.
pub async fn put(
    gateway: &Gateway,
    req: S3Request<PutBucketInventoryConfigurationInput>,
) -> S3Result<S3Response<PutBucketInventoryConfigurationOutput>> {
    let source = auth::bucket(&req)?;
    let asked = &req.input.inventory_configuration;
    if asked.id != req.input.id {
        return Err(s3_error!(InvalidArgument, "The id in the configuration is not the one in the query."));
    }
    let (plan, meta) = (Plan::of(asked)?, gateway.metadata().as_ref());
    if let Some(Protection::Kms(_)) = &plan.protection {
        return Err(error::not_implemented(
            "An inventory under SSE-KMS by its own configuration (give the destination a default)",
        ));
    }
    target(meta, &source, &plan).await?;
    let known = meta.bucket_configs(source.bucket_id(), ConfigKind::Inventory).await.map_err(error::lookup)?;
    let is_new = known.iter().all(|row| row.name.as_ref().is_none_or(|name| name.id != plan.id));
    if is_new && known.len() >= MAX_INVENTORIES {
        let why = "A bucket has at most 1000 inventory configurations.";
        return Err(error::custom("TooManyConfigurations", StatusCode::BAD_REQUEST, why));
    }
    let body = configs::to_xml(asked)?;
    if body.len() > MAX_INVENTORY_CONFIG {
        return Err(s3_error!(InvalidArgument, "The inventory's configuration is too long."));
    }
    configs::put(meta, &source, ConfigKind::Inventory, &plan.id, body).await?;
    Ok(S3Response::new(PutBucketInventoryConfigurationOutput {}))
}

/// GetBucketInventoryConfiguration.
pub async fn get(
    gateway: &Gateway,
    req: S3Request<GetBucketInventoryConfigurationInput>,
) -> S3Result<S3Response<GetBucketInventoryConfigurationOutput>> {
    let source = auth::bucket(&req)?;
    let kept = configs::read(gateway.metadata().as_ref(), &source, ConfigKind::Inventory, &req.input.id).await?;
    let inventory_configuration = Some(configuration(&kept.ok_or_else(none)?)?);
    Ok(S3Response::new(GetBucketInventoryConfigurationOutput { inventory_configuration }))
}

/// ListBucketInventoryConfigurations, by id.
pub async fn list(
    gateway: &Gateway,
    req: S3Request<ListBucketInventoryConfigurationsInput>,
) -> S3Result<S3Response<ListBucketInventoryConfigurationsOutput>> {
    let source = auth::bucket(&req)?;
    let all = gateway.metadata().bucket_configs(source.bucket_id(), ConfigKind::Inventory).await;
    let mut all = all.map_err(error::lookup)?;
    let after = req.input.continuation_token.unwrap_or_default();
    let id = |row: &codec::effect::BucketConfigRow| row.name.as_ref().map_or_else(String::new, |name| name.id.clone());
    all.retain(|row| id(row) > after);
    let more = all.len() > PAGE;
    all.truncate(PAGE);
    let next_continuation_token = all.last().filter(|_| more).map(id);
    let page: Vec<_> = all.iter().map(|row| configuration(&row.body)).collect::<S3Result<_>>()?;
    Ok(S3Response::new(ListBucketInventoryConfigurationsOutput {
        continuation_token: Some(after).filter(|after| !after.is_empty()),
        inventory_configuration_list: (!page.is_empty()).then_some(page),
        is_truncated: Some(more),
        next_continuation_token,
    }))
}

/// DeleteBucketInventoryConfiguration.
pub async fn delete(
    gateway: &Gateway,
    req: S3Request<DeleteBucketInventoryConfigurationInput>,
) -> S3Result<S3Response<DeleteBucketInventoryConfigurationOutput>> {
    let (source, meta) = (auth::bucket(&req)?, gateway.metadata().as_ref());
    let kept = configs::read(meta, &source, ConfigKind::Inventory, &req.input.id).await?;
    kept.ok_or_else(none)?;
    configs::delete(meta, &source, ConfigKind::Inventory, &req.input.id).await?;
    Ok(S3Response::new(DeleteBucketInventoryConfigurationOutput {}))
}

fn configuration(kept: &[u8]) -> S3Result<InventoryConfiguration> {
    configs::of_xml(kept).map_err(|fault| error::internal(&fault))
}

/// The inventory that is kept.
pub fn kept(text: &[u8]) -> S3Result<Plan> {
    Plan::of(&configuration(text)?)
}

/// The destination, if it is there and its policy lets the inventory of `source` in.
pub async fn target(meta: &dyn MetadataClient, source: &BucketRow, plan: &Plan) -> S3Result<BucketRow> {
    let target = meta.bucket(&plan.bucket).await.map_err(error::lookup)?.ok_or_else(wrong_target)?;
    let is_its = plan.account.as_ref().is_none_or(|account| *account == target.owner);
    if !is_its || bucket::region(&target) != bucket::region(source) {
        return Err(wrong_target());
    }
    let mut context = Context::default();
    context.set("aws:SourceArn", format!("arn:aws:s3:::{}", source.name));
    context.set("aws:SourceAccount", source.owner.clone());
    // What S3's own example of such a policy asks for. The destination's owner owns what is put.
    context.set("s3:x-amz-acl", "bucket-owner-full-control".to_owned());
    if plan.protection.is_some() {
        context.set("s3:x-amz-server-side-encryption", "AES256".to_owned());
    }
    let key = format!("{}/", plan.directory(&source.name));
    match policy::lets_service_put(meta, &target, SERVICE, &key, &context).await? {
        true => Ok(target),
        false => Err(auth::denied()),
    }
}
