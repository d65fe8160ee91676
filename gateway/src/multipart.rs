//! Multipart uploads. Each part is chunked, stored and committed by itself; completing one only writes a manifest over the
//! parts' entries, so its cost does not depend on the parts' bytes.

use crate::commit;
use crate::digest::{self, multipart_checksum, multipart_etag};
use crate::engine::{
    Body, Claim, CompleteRequest, CreateUploadRequest, Gateway, ListedPart, MAX_PARTS, PartRequest, PutDone,
    random_bits,
};
use crate::error::PutError;
use crate::protect::Under;
use crate::put::{self, Spec, Stored};
use bytes::Bytes;
use codec::effect::{Checksum, ChecksumAlgorithm, Content, PartInfo, PartRow, UploadName, UploadRow, VersionRow};
use codec::id::BucketId;
use codec::level::FormatLevel;
use codec::manifest::{Entry, Manifest};
use metadata::client::{LookupError, MetadataClient};
use metadata::command::{Command, CompleteUpload, CreateUpload, NewChunk, Outcome};
use std::sync::Arc;

/// S3's highest object size: 5 TiB.
const MAX_OBJECT: u64 = 5 << 40;
/// The parts of a completed object whose checksums are kept, at most.
const MAX_KEPT_CHECKSUMS: usize = 1000;
/// How many of the newest versions of a key are looked at for the one that an upload came to.
const COMPLETED_BEFORE: usize = 100;

/// The algorithm that an upload announced.
pub(crate) fn algorithm(upload: &UploadRow) -> Option<ChecksumAlgorithm> {
    ChecksumAlgorithm::try_from(upload.checksum).ok().filter(|a| *a != ChecksumAlgorithm::Unspecified)
}

/// See [`Gateway::create_upload`].
pub(crate) async fn create_upload(gateway: &Gateway, request: CreateUploadRequest) -> Result<UploadName, PutError> {
    let announced = request.checksum.unwrap_or(ChecksumAlgorithm::Unspecified);
    let full_object = request.full_object.unwrap_or(digest::full_object_by_default(announced));
    if full_object && request.checksum.is_some_and(|algorithm| !digest::combines(algorithm)) {
        return Err(PutError::Invalid("the FULL_OBJECT checksum type is for CRC algorithms only"));
    }
    if !full_object && announced == ChecksumAlgorithm::Crc64Nvme {
        return Err(PutError::Invalid("the COMPOSITE checksum type is not for CRC64NVME"));
    }
    let under = Under::new(gateway, &request.bucket.owner, &request.encrypt).await?;
    let nonce = random_bits()?;
    let command = Command::CreateUpload(CreateUpload {
        bucket: request.bucket.bucket_id(),
        key: request.key,
        nonce,
        initiator: request.initiator,
        meta: request.meta,
        checksum: announced as i32,
        full_object_checksum: full_object,
        domain: under.chunks.id,
        encrypted: under.chunks.purpose.encrypts(),
        now_ms: commit::now_ms(),
        attached: request.attached,
        sealed: under.sealed,
    });
    match gateway.meta.commit(gateway.meta.epoch(), command).await? {
        Outcome::UploadCreated(name) => Ok(name),
        other => Err(PutError::Internal(format!("creating an upload came to {other:?}"))),
    }
}

/// See [`Gateway::abort_upload`].
pub(crate) async fn abort_upload(gateway: &Gateway, upload: UploadName) -> Result<(), PutError> {
    gateway.meta.commit(gateway.meta.epoch(), Command::AbortUpload { upload }).await?;
    Ok(())
}

/// The commit of a part.
pub(crate) fn commit_part(upload: UploadName, number: u32) -> impl Fn(Content, Vec<NewChunk>) -> Command {
    let now_ms = commit::now_ms();
    move |content, chunks| Command::CommitPart { upload: upload.clone(), number, content, chunks, now_ms }
}

/// See [`Gateway::put_part`].
pub(crate) async fn put_part(gateway: &Gateway, request: PartRequest, body: Body) -> Result<PutDone, PutError> {
    if request.number == 0 || request.number > MAX_PARTS {
        return Err(PutError::InvalidPart { number: request.number });
    }
    let writer = gateway.meta.epoch();
    let upload = request.upload;
    let mut claims = request.claims;
    // Completing needs every part's checksum by the upload's algorithm, whatever the client named for this part.
    let needed = algorithm(&upload).unwrap_or(ChecksumAlgorithm::Crc64Nvme);
    if !claims.checksums.iter().any(|(named, _)| *named == needed) {
        claims.checksums.push((needed, Claim::Compute));
    }
    let under = Under::of_upload(gateway, &upload, request.key.as_ref()).await?;
    let name = upload.name.ok_or(PutError::NoSuchUpload)?;
    let spec = Spec { under: under.clone(), writer, level: request.zstd_level, length: request.length };
    let source = put::client_body(gateway, request.length, body);
    let (storing, stored, checksums) = put::store(gateway, spec, source, claims).await?;
    let etag = under.etag(stored.digests.etag())?;
    let prepared = commit::prepare(&storing, stored, etag, checksums).await?;
    commit::commit(&storing, prepared, commit_part(name, request.number)).await
}

/// See [`Gateway::complete_upload`].
pub(crate) async fn complete_upload(gateway: &Gateway, request: CompleteRequest) -> Result<PutDone, PutError> {
    let writer = gateway.meta.epoch();
    let name = request.upload.name.clone().ok_or(PutError::NoSuchUpload)?;
    let parts = listed_parts(gateway, &name, &request.parts).await?;
    let whole = assemble(&parts, request.size)?;
    let checksums = checksums(&request, &parts)?;
    let etags: Vec<&str> = parts.iter().filter_map(|part| part.content.as_ref()).map(|c| c.etag.as_str()).collect();
    let etag = multipart_etag(etags.into_iter())
        .ok_or_else(|| PutError::Internal("a part's entity tag is no MD5".to_owned()))?;
    let under = Under::of_manifest(gateway, &request.upload).await?;
    let spec = Spec { under, writer, level: 0, length: None };
    let admission = gateway.budget.admit(None, gateway.config.patience).await.ok_or(PutError::Busy)?;
    let storing = Arc::new(put::storing(gateway, spec, admission));
    let Whole { entries, size, part_sizes } = whole;
    let stored = Stored::of_entries(entries, size);
    let infos = match gateway.meta.level() >= FormatLevel::VERSIONS {
        true => part_infos(&parts, algorithm(&request.upload)),
        false => Vec::new(),
    };
    let prepared = commit::prepare(&storing, stored, etag, checksums).await?;
    let prepared = prepared.with_parts(part_sizes, infos, name.upload_id.clone());
    let nonce = random_bits()?;
    let listed: Vec<(u32, String)> = request.parts.iter().map(|part| (part.number, part.etag.clone())).collect();
    let now_ms = commit::now_ms();
    commit::commit(&storing, prepared, |content, chunks| {
        Command::CompleteUpload(CompleteUpload {
            upload: name.clone(),
            parts: listed.clone(),
            content,
            chunks,
            condition: request.condition.clone(),
            now_ms,
            nonce,
        })
    })
    .await
}

/// See [`Gateway::completed_upload`]. The id is recorded with what the upload was completed to, and the entity tag is a
/// digest of those of the parts in their order: both must be as asked for, and the client is not told of an object that it
/// did not ask for. Conditions of the request held when it was done, and are not looked at again.
pub(crate) async fn completed_upload(
    gateway: &Gateway,
    name: &UploadName,
    listed: &[ListedPart],
) -> Result<PutDone, PutError> {
    let row = completed_to(gateway.meta.as_ref(), name).await?.ok_or(PutError::NoSuchUpload)?;
    let content = row.content.ok_or(PutError::NoSuchUpload)?;
    let etag = multipart_etag(listed.iter().map(|part| part.etag.as_str()));
    let same = content.part_sizes.len() == listed.len()
        && listed.is_sorted_by(|a, b| a.number < b.number)
        && etag.as_ref() == Some(&content.etag);
    match same {
        true => {
            let purpose = gateway.purpose_of(&content).await?;
            Ok(commit::done_with(content, purpose, row.modified_ms, row.version_id))
        }
        false => Err(PutError::NoSuchUpload),
    }
}

/// The version that an upload was completed to, while it is there.
pub(crate) async fn completed_to(
    metadata: &dyn MetadataClient,
    name: &UploadName,
) -> Result<Option<VersionRow>, LookupError> {
    if name.upload_id.is_empty() {
        return Ok(None);
    }
    // In a bucket that keeps versions others may lie on top by now.
    let newest = metadata.newest_versions(BucketId(name.bucket), &name.key, COMPLETED_BEFORE).await?;
    let is_it = |row: &VersionRow| row.content.as_ref().is_some_and(|content| content.upload_id == name.upload_id);
    Ok(newest.into_iter().find(is_it))
}

/// What is kept of the parts besides their sizes: their checksums by the algorithm that the upload announced, and their numbers where
/// those are not 1, 2, 3. Empty where there is nothing of that. The checksums of very many parts are not kept: they would be most of
/// a row that each listing reads.
fn part_infos(parts: &[PartRow], announced: Option<ChecksumAlgorithm>) -> Vec<PartInfo> {
    let in_row = parts.iter().zip(1..).all(|(part, number)| part.number == number);
    let announced = announced.filter(|_| parts.len() <= MAX_KEPT_CHECKSUMS);
    if announced.is_none() && in_row {
        return Vec::new();
    }
    let info = |part: &PartRow| {
        let content = part.content.as_ref();
        let by = |checksum: &&Checksum| announced.is_some_and(|algorithm| checksum.algorithm == algorithm as i32);
        let checksum = content.and_then(|content| content.checksums.iter().find(by));
        PartInfo {
            number: part.number,
            size: content.map_or(0, |content| content.size),
            checksum: checksum.map_or_else(Bytes::new, |checksum| checksum.value.clone()),
        }
    };
    parts.iter().map(info).collect()
}

/// The stored parts that were listed, each with the entity tag and checksums that were listed.
async fn listed_parts(gateway: &Gateway, name: &UploadName, listed: &[ListedPart]) -> Result<Vec<PartRow>, PutError> {
    if listed.is_empty() || !listed.is_sorted_by(|a, b| a.number < b.number) {
        return Err(PutError::InvalidPartOrder);
    }
    let missing = gateway.meta.upload(name).await?.is_none();
    if missing {
        return Err(PutError::NoSuchUpload);
    }
    let numbers: Vec<u32> = listed.iter().map(|part| part.number).collect();
    let rows = gateway.meta.parts(name, &numbers).await?;
    let matching = |(listed, row): (&ListedPart, Option<PartRow>)| {
        row.filter(|row| fits(listed, row)).ok_or(PutError::InvalidPart { number: listed.number })
    };
    let found: Result<Vec<PartRow>, PutError> = listed.iter().zip(rows).map(matching).collect();
    // Completed, or aborted, by another request between the two lookups: its parts went with it, and none was wrong.
    if found.is_err() && gateway.meta.upload(name).await?.is_none() {
        return Err(PutError::NoSuchUpload);
    }
    found
}

fn fits(listed: &ListedPart, row: &PartRow) -> bool {
    let Some(content) = &row.content else { return false };
    let has = |(algorithm, value): &(ChecksumAlgorithm, bytes::Bytes)| {
        content.checksums.iter().any(|c| c.algorithm == *algorithm as i32 && c.value == *value)
    };
    content.etag == listed.etag && listed.checksums.iter().all(has)
}

/// The parts put together.
struct Whole {
    entries: Vec<Entry>,
    size: u64,
    part_sizes: Vec<u64>,
}

fn assemble(parts: &[PartRow], expected: Option<u64>) -> Result<Whole, PutError> {
    let mut whole = Whole { entries: Vec::new(), size: 0, part_sizes: Vec::with_capacity(parts.len()) };
    for part in parts {
        let content = part.content.as_ref().ok_or(PutError::InvalidPart { number: part.number })?;
        let manifest = Manifest::parse(&content.manifest)
            .map_err(|error| PutError::Internal(format!("part {}: {error}", part.number)))?;
        whole.entries.extend_from_slice(manifest.entries());
        whole.size = whole.size.saturating_add(content.size);
        whole.part_sizes.push(content.size);
    }
    if whole.size > MAX_OBJECT {
        return Err(PutError::TooLarge { limit: MAX_OBJECT });
    }
    match expected {
        Some(size) if size != whole.size => {
            Err(PutError::Invalid("x-amz-mp-object-size differs from the parts' sizes"))
        }
        _ => Ok(whole),
    }
}

/// The object's checksums: by the upload's algorithm and type, and whatever else the client expects.
fn checksums(request: &CompleteRequest, parts: &[PartRow]) -> Result<Vec<Checksum>, PutError> {
    let upload = &request.upload;
    let own = algorithm(upload).unwrap_or(ChecksumAlgorithm::Crc64Nvme);
    let mut found: Vec<Checksum> = multipart_checksum(own, upload.full_object_checksum, parts).into_iter().collect();
    for expected in &request.checksums {
        let by = ChecksumAlgorithm::try_from(expected.algorithm).unwrap_or(ChecksumAlgorithm::Unspecified);
        let have = match found.iter().find(|c| c.algorithm == expected.algorithm && c.composite == expected.composite) {
            Some(have) => have.clone(),
            None => multipart_checksum(by, !expected.composite, parts)
                .ok_or(PutError::Invalid("the parts do not have the checksum that is expected of the object"))?,
        };
        if have.value != expected.value {
            return Err(PutError::ChecksumMismatch { algorithm: by });
        }
        if !found.contains(&have) {
            found.push(have);
        }
    }
    Ok(found)
}
