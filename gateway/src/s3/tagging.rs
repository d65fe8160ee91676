//! Tags of objects. They are no part of what a lock protects, as in S3.

use super::{error, tags, version};
use crate::auth;
use crate::auth::facts;
use crate::engine::Gateway;
use codec::effect::{BucketRow, Tag, VersionRow};
use metadata::command::{ChangeVersion, Command, Outcome, VersionChange};
use s3s::dto::{
    DeleteObjectTaggingInput, DeleteObjectTaggingOutput, GetObjectTaggingInput, GetObjectTaggingOutput,
    PutObjectTaggingInput, PutObjectTaggingOutput,
};
use s3s::{S3Request, S3Response, S3Result};

/// GetObjectTagging.
pub async fn get(
    gateway: &Gateway,
    req: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let authorised = auth::authorised(&req)?;
    let bucket = authorised.bucket()?;
    let (input, found) = (req.input, authorised.found());
    let row = version::find(gateway, &bucket, &input.key, input.version_id.as_deref(), found).await?.row;
    let tag_set = tags::to_dto(&row.tags);
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set, version_id: version::shown(&bucket, &row.version_id) }))
}

/// PutObjectTagging: these tags and no others.
pub async fn put(
    gateway: &Gateway,
    req: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let authorised = auth::authorised(&req)?;
    let input = req.input;
    let sent = tags::of_dto(&input.tagging.tag_set, tags::MOST_OF_OBJECT)?;
    let pairs = sent.iter().map(|tag| (tag.key.as_str(), tag.value.as_str()));
    authorised.settle(|context| facts::add_tags(context, pairs)).await?;
    let bucket = authorised.bucket()?;
    let row = change(gateway, &bucket, input.key, input.version_id.as_deref(), sent).await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id: version::shown(&bucket, &row.version_id) }))
}

/// DeleteObjectTagging.
pub async fn delete(
    gateway: &Gateway,
    req: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let bucket = auth::bucket(&req)?;
    let input = req.input;
    let row = change(gateway, &bucket, input.key, input.version_id.as_deref(), Vec::new()).await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id: version::shown(&bucket, &row.version_id) }))
}

async fn change(
    gateway: &Gateway,
    bucket: &BucketRow,
    key: String,
    version_id: Option<&str>,
    tags: Vec<Tag>,
) -> S3Result<Box<VersionRow>> {
    let named = version::command_named(version_id)?;
    let change = VersionChange::Tags(tags);
    let change = ChangeVersion { bucket: bucket.bucket_id(), key, named, change, bypass: false, seq: None };
    let meta = gateway.metadata();
    match meta.commit(meta.epoch(), Command::ChangeVersion(change)).await.map_err(error::commit)? {
        Outcome::Committed(row, _) => Ok(row),
        other => Err(error::internal(&format!("an unexpected outcome of a change of tags: {other:?}"))),
    }
}
