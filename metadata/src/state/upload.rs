//! Multipart uploads.

use super::object::{self, New, check_key, check_write, put_version};
use super::{DecideError, Draft, bucket, protect};
use crate::command::{
    Attached, CompleteUpload, CreateUpload, MAX_PART_NUMBER, MIN_PART, Made, ManifestFault, NewChunk, Outcome, Refusal,
};
use crate::index;
use codec::effect::{BucketRow, Content, EffectKind, PartRow, UploadName, UploadRow};
use codec::id::BucketId;
use std::collections::BTreeMap;

pub(super) fn create(draft: &mut Draft<'_>, create: &CreateUpload) -> Result<Outcome, DecideError> {
    let bucket = bucket::existing(draft, create.bucket)?;
    check_key(&create.key)?;
    draft.chunks.check_domain(create.domain)?;
    // The lock that is asked for is refused now, and not when everything is sent. It begins when the upload is completed.
    let attached = &create.attached;
    protect::of_new(draft, &bucket, attached.retention.as_ref(), attached.hold)?;
    let upload_id = format!("{:016x}{}", draft.at.lsn.0, hex::encode(create.nonce));
    let name = UploadName { bucket: create.bucket.0, key: create.key.clone(), upload_id };
    draft.rows.push(EffectKind::PutUpload(UploadRow {
        name: Some(name.clone()),
        seq: draft.at.lsn.0,
        initiated_ms: create.now_ms,
        initiator: create.initiator.clone(),
        meta: Some(create.meta.clone()),
        checksum: create.checksum,
        full_object_checksum: create.full_object_checksum,
        domain: create.domain.0,
        encrypted: create.encrypted,
        tags: attached.tags.clone(),
        acl: attached.acl.clone(),
        owner: object::said_owner(draft, &bucket, &attached.owner),
        retention: attached.retention,
        hold: attached.hold,
        sealed: create.sealed.clone(),
        clock_ms: object::said_clock(draft)?,
    }));
    Ok(Outcome::UploadCreated(name))
}

/// The upload, in a bucket that still exists.
fn open_upload(draft: &Draft<'_>, name: &UploadName) -> Result<(BucketRow, UploadRow), DecideError> {
    let bucket = bucket::existing(draft, BucketId(name.bucket))?;
    Ok((bucket, index::upload(draft.view, name)?.ok_or(Refusal::NoSuchUpload)?))
}

pub(super) fn commit_part(
    draft: &mut Draft<'_>,
    name: &UploadName,
    number: u32,
    content: &Content,
    chunks: &[NewChunk],
    now_ms: u64,
) -> Result<Outcome, DecideError> {
    let (_, upload) = open_upload(draft, name)?;
    if !(1..=MAX_PART_NUMBER).contains(&number) {
        return Err(Refusal::InvalidPart { number }.into());
    }
    if upload.domain != content.domain {
        return Err(Refusal::BadManifest(ManifestFault::Chunk).into());
    }
    draft.chunks.add_inline(chunks)?;
    draft.hold(content)?;
    if let Some(old) = index::part(draft.view, name, number)? {
        draft.release(old.content.as_ref())?;
    }
    let row = PartRow { upload: Some(name.clone()), number, modified_ms: now_ms, content: Some(content.clone()) };
    draft.rows.push(EffectKind::PutPart(row.clone()));
    Ok(Outcome::PartCommitted(Box::new(row)))
}

pub(super) fn complete(draft: &mut Draft<'_>, complete: &CompleteUpload) -> Result<Outcome, DecideError> {
    let (bucket, upload) = open_upload(draft, &complete.upload)?;
    let sizes = check_parts(draft, &complete.upload, &complete.parts)?;
    if complete.content.domain != upload.domain {
        return Err(Refusal::BadManifest(ManifestFault::Chunk).into());
    }
    let sum = sizes.iter().try_fold(0u64, |sum, &size| sum.checked_add(size));
    if sum != Some(complete.content.size) || complete.content.part_sizes != sizes {
        return Err(Refusal::BadManifest(ManifestFault::Length).into());
    }
    check_write(draft, bucket.bucket_id(), &complete.upload.key, &complete.condition)?;
    draft.chunks.add_inline(&complete.chunks)?;
    draft.hold(&complete.content)?;
    release_upload(draft, complete.upload.clone())?;
    let attached = Attached {
        tags: upload.tags,
        acl: upload.acl,
        owner: upload.owner,
        retention: upload.retention,
        hold: upload.hold,
        nonce: complete.nonce,
        made: Made::default(),
    };
    let (meta, content) = (upload.meta.unwrap_or_default(), complete.content.clone());
    let lock = protect::of_upload(draft, &bucket, attached.retention.as_ref(), attached.hold)?;
    let new = New { meta, content, attached, lock, now_ms: complete.now_ms };
    put_version(draft, &bucket, &complete.upload.key, new)
}

/// Checks the listed parts as S3 does, and returns their sizes.
fn check_parts(draft: &Draft<'_>, name: &UploadName, listed: &[(u32, String)]) -> Result<Vec<u64>, DecideError> {
    if listed.is_empty() || !listed.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(Refusal::InvalidPartOrder.into());
    }
    let stored = index::parts(draft.view, name)?;
    let stored: BTreeMap<u32, &Content> =
        stored.iter().filter_map(|part| Some((part.number, part.content.as_ref()?))).collect();
    let mut sizes = Vec::with_capacity(listed.len());
    for (number, etag) in listed {
        let part = stored.get(number).filter(|part| part.etag == *etag);
        sizes.push(part.ok_or(Refusal::InvalidPart { number: *number })?.size);
    }
    // S3 finds parts that are missing before it finds parts that are small.
    let all_but_last = &listed[..listed.len() - 1];
    for ((number, etag), &size) in all_but_last.iter().zip(&sizes) {
        if size < MIN_PART {
            return Err(Refusal::PartTooSmall { number: *number, size, etag: etag.clone() }.into());
        }
    }
    Ok(sizes)
}

pub(super) fn abort(draft: &mut Draft<'_>, name: &UploadName) -> Result<Outcome, DecideError> {
    index::upload(draft.view, name)?.ok_or(Refusal::NoSuchUpload)?;
    release_upload(draft, name.clone())?;
    Ok(Outcome::Done)
}

/// Drops an upload and the references of all its parts. How many it had: whoever drops many at once has to bound that.
pub(super) fn release_upload(draft: &mut Draft<'_>, name: UploadName) -> Result<usize, DecideError> {
    let parts = index::parts(draft.view, &name)?;
    for part in &parts {
        draft.release(part.content.as_ref())?;
    }
    draft.rows.push(EffectKind::DeleteUpload(name));
    Ok(parts.len())
}
