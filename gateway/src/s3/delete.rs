//! DeleteObject and DeleteObjects: of keys, which in a bucket that keeps versions means delete markers, and of versions by their ids.

use super::{conditions, error, lock, request, version};
use crate::auth;
use crate::auth::door::{Authorised, Object};
use crate::engine::{Gateway, random_bits};
use codec::effect::BucketRow;
use codec::level::FormatLevel;
use metadata::command::{
    Command, Condition, DeleteCondition, DeleteVersion, DeleteVersions, Gone, MAX_DELETE_KEYS, Named, Outcome, Refusal,
};
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag, Error,
    ObjectIdentifier, Timestamp,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

/// Longest id of a version that is looked at, in bytes, as S3 has it: the answer repeats each.
const MAX_VERSION_ID: usize = 1024;

/// DeleteObject. What is not there is no error.
pub async fn one(gateway: &Gateway, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
    let authorised = auth::authorised(&req)?;
    let bucket = authorised.bucket()?;
    let input = req.input;
    let object = Object { key: &input.key, version_id: input.version_id.as_deref() };
    let delete = DeleteVersion {
        named: version::command_named(input.version_id.as_deref())?,
        condition: DeleteCondition {
            etag: request::write_condition(input.if_match.clone(), None)?,
            modified_s: input.if_match_last_modified_time.as_ref().map(seconds).transpose()?,
            size: input.if_match_size.map(size).transpose()?,
        },
        bypass: authorised.bypasses(object),
        key: input.key.clone(),
    };
    conditions::may_compare(&authorised, &delete.condition.etag, object).await?;
    let gone = commit(gateway, &bucket, &authorised, vec![delete]).await?.pop();
    let gone = gone.ok_or_else(|| error::internal(&"a delete without an outcome"))?.map_err(error::refused)?;
    let said = said(&gone, input.version_id);
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: said.marker.then_some(true),
        version_id: said.new_marker.or(said.version_id),
        request_charged: None,
    }))
}

/// DeleteObjects: up to 1000 keys, each with its own outcome.
pub async fn many(gateway: &Gateway, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let authorised = auth::authorised(&req)?;
    let bucket = authorised.bucket()?;
    let listed = req.input.delete.objects;
    if listed.is_empty() || listed.len() > MAX_DELETE_KEYS {
        return Err(s3_error!(MalformedXML));
    }
    // The answer repeats what it is about, and could not: the deletes would be done and the answer a failure of ours.
    let unsayable = |text: &str| {
        text.contains(|c: char| (c < ' ' && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}'))
    };
    if listed.iter().any(|o| unsayable(&o.key) || o.version_id.as_deref().is_some_and(unsayable)) {
        return Err(s3_error!(MalformedXML));
    }
    if listed.iter().any(|o| o.version_id.as_ref().is_some_and(|id| id.len() > MAX_VERSION_ID)) {
        return Err(s3_error!(InvalidArgument, "Invalid version id specified"));
    }
    let (mut wanted, mut ids, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for object in listed {
        // A thousand decisions without a pause would keep other requests of this thread waiting.
        tokio::task::yield_now().await;
        match deletable(&authorised, &object).await {
            Ok(delete) => {
                wanted.push(delete);
                ids.push((object.key, object.version_id));
            }
            Err(refused) => errors.push(key_error(object.key, object.version_id, &refused)),
        }
    }
    let outcomes = match wanted.is_empty() {
        true => Vec::new(),
        false => commit(gateway, &bucket, &authorised, wanted).await?,
    };
    let quiet = req.input.delete.quiet.unwrap_or(false);
    let mut deleted = Vec::new();
    for ((key, version_id), outcome) in ids.into_iter().zip(outcomes) {
        match outcome {
            Ok(_) if quiet => {}
            Ok(gone) => deleted.push(deleted_object(key, version_id, &gone)),
            Err(refusal) => errors.push(key_error(key, version_id, &error::refused(refusal))),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: (!deleted.is_empty()).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        request_charged: None,
    }))
}

/// One of many, if its caller may: each key is decided for itself, since policies are about keys.
async fn deletable(authorised: &Authorised, object: &ObjectIdentifier) -> S3Result<DeleteVersion> {
    let named = version::command_named(object.version_id.as_deref())?;
    let action = if named == Named::Current { "s3:DeleteObject" } else { "s3:DeleteObjectVersion" };
    let about = Object { key: &object.key, version_id: object.version_id.as_deref() };
    authorised.may(&[action], about).await?;
    let etag = object.e_tag.as_ref().map_or(Condition::None, etag_condition);
    conditions::may_compare(authorised, &etag, about).await?;
    Ok(DeleteVersion {
        condition: DeleteCondition {
            etag,
            modified_s: object.last_modified_time.as_ref().map(seconds).transpose()?,
            size: object.size.map(size).transpose()?,
        },
        bypass: authorised.bypasses(about),
        key: object.key.clone(),
        named,
    })
}

fn etag_condition(etag: &ETag) -> Condition {
    if etag.value() == "*" { Condition::IfMatchAny } else { Condition::IfMatch(etag.value().to_owned()) }
}

fn size(asked: i64) -> S3Result<u64> {
    u64::try_from(asked).map_err(|_| s3_error!(InvalidArgument, "A size can't be negative."))
}

/// Whole seconds since the Unix epoch, as Last-Modified has them.
fn seconds(time: &Timestamp) -> S3Result<u64> {
    Ok(lock::milliseconds(time.clone())? / 1000)
}

/// Deletes; what became of each, in order.
async fn commit(
    gateway: &Gateway,
    bucket: &BucketRow,
    authorised: &Authorised,
    versions: Vec<DeleteVersion>,
) -> S3Result<Vec<Result<Gone, Refusal>>> {
    let (meta, id) = (gateway.metadata(), bucket.bucket_id());
    if meta.level() < FormatLevel::VERSIONS {
        return commit_as_before(gateway, bucket, versions).await;
    }
    let owner = authorised.caller().account().map_or_else(String::new, |account| account.id.clone());
    let nonce = random_bits().map_err(error::put)?;
    let delete = DeleteVersions { bucket: id, versions, owner, nonce, now_ms: crate::commit::now_ms() };
    match meta.commit(meta.epoch(), Command::DeleteVersions(delete)).await.map_err(error::commit)? {
        Outcome::VersionsDeleted(outcomes) => Ok(outcomes),
        other => Err(error::internal(&format!("an unexpected outcome of a delete: {other:?}"))),
    }
}

/// The same in a cluster whose format level has no versions yet: its leader may be of a release that knows no more than this.
async fn commit_as_before(
    gateway: &Gateway,
    bucket: &BucketRow,
    versions: Vec<DeleteVersion>,
) -> S3Result<Vec<Result<Gone, Refusal>>> {
    let mut keys = Vec::with_capacity(versions.len());
    for DeleteVersion { key, named, condition, .. } in versions {
        let DeleteCondition { etag, modified_s, size } = condition;
        if matches!(named, Named::Id(_)) || modified_s.is_some() || size.is_some() {
            return Err(error::not_implemented("A delete by version id, time or size at this format level"));
        }
        keys.push((key, etag));
    }
    let (meta, bucket) = (gateway.metadata(), bucket.bucket_id());
    let gone = |was: bool| Gone { removed: was.then(|| (String::new(), false)), marker: None };
    match meta.commit(meta.epoch(), Command::DeleteObjects { bucket, keys }).await.map_err(error::commit)? {
        Outcome::DeletedMany(outcomes) => Ok(outcomes.into_iter().map(|outcome| outcome.map(gone)).collect()),
        other => Err(error::internal(&format!("an unexpected outcome of a delete: {other:?}"))),
    }
}

/// What a delete is answered with.
struct Said {
    /// A delete marker was put, or one is gone.
    marker: bool,
    /// The id of the one that was put.
    new_marker: Option<String>,
    /// The id that was asked for.
    version_id: Option<String>,
}

fn said(gone: &Gone, version_id: Option<String>) -> Said {
    let new_marker = gone.marker.as_deref().map(|id| version::name(id).to_owned());
    let marker_gone = version_id.is_some() && gone.removed.as_ref().is_some_and(|(_, marker)| *marker);
    Said { marker: new_marker.is_some() || marker_gone, new_marker, version_id }
}

fn deleted_object(key: String, version_id: Option<String>, gone: &Gone) -> DeletedObject {
    let said = said(gone, version_id);
    DeletedObject {
        delete_marker: said.marker.then_some(true),
        // A delete marker that is gone is named twice, as by S3.
        delete_marker_version_id: said.new_marker.or_else(|| said.version_id.clone().filter(|_| said.marker)),
        key: Some(key),
        version_id: said.version_id,
    }
}

fn key_error(key: String, version_id: Option<String>, refused: &S3Error) -> Error {
    Error {
        code: Some(refused.code().as_str().to_owned()),
        key: Some(key),
        message: refused.message().map(str::to_owned),
        version_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(removed: Option<(&str, bool)>, marker: Option<&str>) -> Gone {
        Gone { removed: removed.map(|(id, marker)| (id.to_owned(), marker)), marker: marker.map(str::to_owned) }
    }

    #[test]
    fn what_is_said_of_deletes() {
        let id = || Some("v".to_owned());
        let of = |gone: &Gone, asked| {
            let said = deleted_object("k".to_owned(), asked, gone);
            (said.delete_marker.unwrap_or(false), said.delete_marker_version_id, said.version_id)
        };
        assert_eq!(of(&gone(Some(("", false)), None), None), (false, None, None), "a bucket that keeps none");
        assert_eq!(of(&gone(None, Some("m")), None), (true, Some("m".to_owned()), None));
        let null = Some("null".to_owned());
        assert_eq!(of(&gone(Some(("", true)), Some("")), None), (true, null, None), "in place of another null marker");
        assert_eq!(of(&gone(Some(("v", false)), None), id()), (false, None, id()));
        assert_eq!(of(&gone(Some(("v", true)), None), id()), (true, id(), id()));
        assert_eq!(of(&gone(None, None), id()), (false, None, id()), "not there");
    }

    #[test]
    fn conditions_of_deletes() {
        assert_eq!(etag_condition(&ETag::Strong("*".into())), Condition::IfMatchAny);
        assert_eq!(etag_condition(&ETag::Strong("a".into())), Condition::IfMatch("a".into()));
        assert!(size(-1).is_err() && size(3).is_ok_and(|size| size == 3));
        assert_eq!(seconds(&crate::s3::answer::timestamp(1_700_000_000_999)).ok(), Some(1_700_000_000));
    }
}
