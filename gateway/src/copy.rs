//! Copies inside the store.
//!
//! A copy inside one dedup domain takes over the manifest: the chunks are shared already. Anything else is read, verified
//! and stored like a client's body: under another key hash the same bytes are other chunks, and a range does not begin
//! where a chunk does. The authorisation to read the source is the caller's business.

use crate::commit;
use crate::engine::{Claim, Claims, CopyPartRequest, CopyRequest, Gateway, MAX_SINGLE, PutDone, random_bits};
use crate::error::{GetError, PutError};
use crate::protect::{CustomerKey, Under};
use crate::put::{self, Source, Spec, Storing};
use codec::effect::{ChecksumAlgorithm, Content, VersionRow};
use futures::TryStreamExt;
use metadata::command::{Attached, Command, CommitObject};
use std::ops::Range;

fn content_of(version: &VersionRow) -> Result<&Content, PutError> {
    let missing = || PutError::Source(GetError::Manifest("the source is a delete marker".to_owned()));
    version.content.as_ref().ok_or_else(missing)
}

/// Whether `content` has a checksum of all its bytes by `algorithm`.
fn has_checksum(content: &Content, algorithm: ChecksumAlgorithm) -> bool {
    content.checksums.iter().any(|checksum| checksum.algorithm == algorithm as i32 && !checksum.composite)
}

fn claims(algorithm: Option<ChecksumAlgorithm>) -> Claims {
    Claims { md5: None, checksums: algorithm.map(|algorithm| (algorithm, Claim::Compute)).into_iter().collect() }
}

/// The bytes of another object.
async fn source(
    gateway: &Gateway,
    content: &Content,
    range: Option<Range<u64>>,
    key: Option<&CustomerKey>,
) -> Result<Source, PutError> {
    let stream = gateway.get_with(content, range, key).await?;
    Ok(Box::pin(stream.bytes.map_err(PutError::Source)))
}

/// What it takes to commit content that is stored already.
fn storing(gateway: &Gateway, under: Under) -> Storing {
    let spec = Spec { under, writer: gateway.meta.epoch(), level: 0, length: Some(0) };
    put::storing(gateway, spec, crate::budget::Held::nothing())
}

/// See [`Gateway::copy_object`].
pub(crate) async fn copy_object(gateway: &Gateway, request: CopyRequest) -> Result<PutDone, PutError> {
    let content = content_of(&request.source)?;
    if content.size > MAX_SINGLE {
        return Err(PutError::TooLarge { limit: MAX_SINGLE });
    }
    let under = Under::new(gateway, &request.bucket.owner, &request.encrypt).await?;
    let meta = request.meta.clone().or_else(|| request.source.meta.clone()).unwrap_or_default();
    let now_ms = commit::now_ms();
    let attached = Attached { nonce: random_bits()?, ..request.attached.clone() };
    let command = |content, chunks| {
        Command::CommitObject(CommitObject {
            bucket: request.bucket.bucket_id(),
            key: request.key.clone(),
            condition: request.condition.clone(),
            meta: meta.clone(),
            content,
            chunks,
            now_ms,
            attached: attached.clone(),
        })
    };
    if under.shares(content) && request.checksum.is_none_or(|algorithm| has_checksum(content, algorithm)) {
        let prepared = commit::existing(content.clone());
        return commit::commit(&storing(gateway, under), prepared, command).await;
    }
    let (writer, level, length) = (gateway.meta.epoch(), request.bucket.zstd_level, Some(content.size));
    let spec = Spec { under: under.clone(), writer, level, length };
    let body = source(gateway, content, None, request.source_key.as_ref()).await?;
    let algorithm = request.checksum.or_else(|| first_algorithm(content));
    let (storing, stored, checksums) = put::store(gateway, spec, body, claims(algorithm)).await?;
    let etag = under.etag(stored.digests.etag())?;
    let prepared = commit::prepare(&storing, stored, etag, checksums).await?;
    commit::commit(&storing, prepared, command).await
}

/// The algorithm that the source has, so that its copy has it too.
fn first_algorithm(content: &Content) -> Option<ChecksumAlgorithm> {
    let algorithm = content.checksums.first()?.algorithm;
    ChecksumAlgorithm::try_from(algorithm).ok().filter(|algorithm| *algorithm != ChecksumAlgorithm::Unspecified)
}

/// See [`Gateway::copy_part`].
pub(crate) async fn copy_part(gateway: &Gateway, request: CopyPartRequest) -> Result<PutDone, PutError> {
    let content = content_of(&request.source)?;
    let range = request.range.clone().unwrap_or(0..content.size);
    let length = range.end.saturating_sub(range.start);
    if length > MAX_SINGLE {
        return Err(PutError::TooLarge { limit: MAX_SINGLE });
    }
    let under = Under::of_upload(gateway, &request.upload, request.key.as_ref()).await?;
    let algorithm = crate::multipart::algorithm(&request.upload);
    let name = request.upload.name.clone().ok_or(PutError::NoSuchUpload)?;
    let whole = range == (0..content.size);
    let wanted = algorithm.unwrap_or(ChecksumAlgorithm::Crc64Nvme);
    // A part's tag must be an MD5, which a multipart object does not have.
    let simple = content.part_sizes.is_empty() && content.etag.len() == 32;
    if whole && simple && under.shares(content) && has_checksum(content, wanted) {
        let prepared = commit::existing(content.clone());
        let command = crate::multipart::commit_part(name, request.number);
        return commit::commit(&storing(gateway, under), prepared, command).await;
    }
    let (writer, level) = (gateway.meta.epoch(), request.zstd_level);
    let spec = Spec { under: under.clone(), writer, level, length: Some(length) };
    let body = source(gateway, content, Some(range), request.source_key.as_ref()).await?;
    let (storing, stored, checksums) = put::store(gateway, spec, body, claims(algorithm)).await?;
    let etag = under.etag(stored.digests.etag())?;
    let prepared = commit::prepare(&storing, stored, etag, checksums).await?;
    commit::commit(&storing, prepared, crate::multipart::commit_part(name, request.number)).await
}
