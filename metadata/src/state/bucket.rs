//! Buckets.

use super::upload::release_upload;
use super::{DecideError, Draft};
use crate::command::{CreateBucket, Outcome, Refusal};
use crate::index;
use codec::effect::{BucketRow, EffectKind};
use codec::id::BucketId;

/// An entry that deletes a bucket takes open uploads with it as long as it touches fewer chunks than this.
const DELETE_BUCKET_ROWS: usize = 50_000;
/// Uploads that it looks at, at most.
const DELETE_BUCKET_UPLOADS: usize = 1000;

/// The bucket, which every command on its contents needs.
pub(super) fn existing(draft: &Draft<'_>, id: BucketId) -> Result<BucketRow, DecideError> {
    Ok(index::bucket_by_id(draft.view, id)?.ok_or(Refusal::NoSuchBucket)?)
}

pub(super) fn create(draft: &mut Draft<'_>, create: &CreateBucket) -> Result<Outcome, DecideError> {
    if let Some(taken) = index::bucket(draft.view, &create.name)? {
        let yours = taken.owner == create.owner;
        return Err(if yours { Refusal::BucketOwnedByYou } else { Refusal::BucketExists }.into());
    }
    let row = BucketRow {
        id: draft.at.lsn.0,
        name: create.name.clone(),
        owner: create.owner.clone(),
        created_ms: create.now_ms,
        location: create.location.clone(),
        encrypt: create.encrypt,
        zstd_level: create.zstd_level,
    };
    draft.rows.push(EffectKind::PutBucket(row.clone()));
    Ok(Outcome::BucketCreated(row))
}

/// Open uploads don't keep a bucket, as in S3. A bucket's id is never used again, so uploads that are too many for this
/// entry are out of reach at once and can be aborted afterwards.
pub(super) fn delete(draft: &mut Draft<'_>, id: BucketId) -> Result<Outcome, DecideError> {
    let row = existing(draft, id)?;
    if index::has_versions(draft.view, id)? {
        return Err(Refusal::BucketNotEmpty.into());
    }
    let uploads = index::uploads(draft.view, id, DELETE_BUCKET_UPLOADS + 1)?;
    let mut uploads_left = uploads.len() > DELETE_BUCKET_UPLOADS;
    for upload in uploads.into_iter().take(DELETE_BUCKET_UPLOADS) {
        if draft.chunks.len() >= DELETE_BUCKET_ROWS {
            uploads_left = true;
            break;
        }
        release_upload(draft, upload.name.unwrap_or_default())?;
    }
    draft.rows.push(EffectKind::DeleteBucket(row));
    Ok(Outcome::BucketDeleted { uploads_left })
}

pub(super) fn configure(
    draft: &mut Draft<'_>,
    id: BucketId,
    encrypt: bool,
    zstd_level: i32,
) -> Result<Outcome, DecideError> {
    let row = existing(draft, id)?;
    let changed = BucketRow { encrypt, zstd_level, ..row.clone() };
    if changed != row {
        draft.rows.push(EffectKind::PutBucket(changed));
    }
    Ok(Outcome::Done)
}
