//! PutBucketTagging, GetBucketTagging, DeleteBucketTagging.

use super::{error, tags, unconfigured};
use crate::auth;
use crate::engine::Gateway;
use codec::effect::{BucketRow, Tag};
use metadata::command::{BucketChange, Command};
use s3s::dto::{
    DeleteBucketTaggingInput, DeleteBucketTaggingOutput, GetBucketTaggingInput, GetBucketTaggingOutput,
    PutBucketTaggingInput, PutBucketTaggingOutput,
};
use s3s::{S3Request, S3Response, S3Result};

/// PutBucketTagging: in place of the tags that are there.
pub async fn put(
    gateway: &Gateway,
    req: S3Request<PutBucketTaggingInput>,
) -> S3Result<S3Response<PutBucketTaggingOutput>> {
    let bucket = auth::bucket(&req)?;
    set(gateway, &bucket, tags::of_dto(&req.input.tagging.tag_set, tags::MOST_OF_BUCKET)?).await?;
    Ok(S3Response::new(PutBucketTaggingOutput {}))
}

/// GetBucketTagging. A bucket whose tags were taken away has none, like one that never had any.
pub fn get(req: &S3Request<GetBucketTaggingInput>) -> S3Result<S3Response<GetBucketTaggingOutput>> {
    let bucket = auth::bucket(req)?;
    if bucket.tags.is_empty() {
        return unconfigured::unset(req, unconfigured::TAGS);
    }
    Ok(S3Response::new(GetBucketTaggingOutput { tag_set: tags::to_dto(&bucket.tags) }))
}

/// DeleteBucketTagging.
pub async fn delete(
    gateway: &Gateway,
    req: S3Request<DeleteBucketTaggingInput>,
) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
    let bucket = auth::bucket(&req)?;
    set(gateway, &bucket, Vec::new()).await?;
    Ok(S3Response::new(DeleteBucketTaggingOutput {}))
}

async fn set(gateway: &Gateway, bucket: &BucketRow, tags: Vec<Tag>) -> S3Result<()> {
    let meta = gateway.metadata();
    let command = Command::ChangeBucket { bucket: bucket.bucket_id(), change: BucketChange::Tags(tags) };
    meta.commit(meta.epoch(), command).await.map_err(error::commit)?;
    Ok(())
}
