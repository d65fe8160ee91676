//! Multipart uploads: open, store parts, complete, abort. Copying parts is in [`super::copy`], listing in [`super::list`].

use super::answer::{self, set_checksums};
use super::object::{attached, body_length, check_decoded_length, engine_body};
use super::request::{self, object_meta, sent_checksums};
use super::{bucket, conditions, encryption, error, lifecycle, version};
use crate::auth;
use crate::auth::door::Object;
use crate::digest::full_object_by_default;
use crate::engine::{CompleteRequest, CreateUploadRequest, Gateway, ListedPart, MAX_PARTS, PartRequest};
use crate::error::PutError;
use crate::server::location::Address;
use codec::effect::{BucketRow, Checksum, UploadName, UploadRow};
use s3s::dto::{
    self, AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumType, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CompletedPart, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

/// A part's number as S3 allows it.
pub fn part_number(number: i32) -> S3Result<u32> {
    u32::try_from(number)
        .ok()
        .filter(|n| (1..=MAX_PARTS).contains(n))
        .ok_or_else(|| s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"))
}

/// An open upload of a bucket and key.
pub async fn upload(gateway: &Gateway, bucket: &BucketRow, key: &str, upload_id: &str) -> S3Result<UploadRow> {
    let name = UploadName { bucket: bucket.id, key: key.to_owned(), upload_id: upload_id.to_owned() };
    let row = gateway.metadata().upload(&name).await.map_err(error::lookup)?;
    row.ok_or_else(error::no_such_upload)
}

/// CreateMultipartUpload.
pub async fn create(
    gateway: &Gateway,
    req: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let authorised = auth::authorised(&req)?;
    let (bucket, caller) = (authorised.bucket()?, authorised.caller());
    let asked = encryption::asked(gateway, &req)?;
    let input = req.input;
    request::check_new_key(&input.key)?;
    let checksum = input.checksum_algorithm.as_ref().map(|name| request::algorithm(name.as_str())).transpose()?;
    let full_object = full_object(input.checksum_type.as_ref())?;
    if full_object.is_some() && checksum.is_none() {
        return Err(s3_error!(
            InvalidRequest,
            "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
        ));
    }
    let encrypt = asked.protection(&bucket)?;
    let purpose = encrypt.purpose();
    let create = CreateUploadRequest {
        encrypt,
        bucket: BucketRow::clone(&bucket),
        key: input.key.clone(),
        initiator: caller.account().map_or_else(|| bucket.owner.clone(), |account| account.id.clone()),
        meta: object_meta!(input)?,
        attached: attached!(authorised, input),
        checksum,
        full_object,
    };
    let name = gateway.create_upload(create).await.map_err(error::put)?;
    let kind = |algorithm| match full_object.unwrap_or(full_object_by_default(algorithm)) {
        true => ChecksumType::FULL_OBJECT,
        false => ChecksumType::COMPOSITE,
    };
    let abort = lifecycle::abort(gateway, &bucket, &input.key, bucket::now_ms()).await.unwrap_or_default();
    let (abort_date, abort_rule_id) = abort.unzip();
    let output = CreateMultipartUploadOutput {
        abort_date,
        abort_rule_id,
        bucket: Some(bucket.name.clone()),
        checksum_algorithm: checksum.map(|a| dto::ChecksumAlgorithm::from_static(request::algorithm_name(a))),
        checksum_type: checksum.map(|algorithm| ChecksumType::from_static(kind(algorithm))),
        key: Some(input.key),
        upload_id: Some(name.upload_id),
        ..CreateMultipartUploadOutput::default()
    };
    Ok(encryption::said(S3Response::new(output), &purpose, &asked))
}

fn full_object(kind: Option<&ChecksumType>) -> S3Result<Option<bool>> {
    match kind.map(ChecksumType::as_str) {
        None => Ok(None),
        Some(ChecksumType::FULL_OBJECT) => Ok(Some(true)),
        Some(ChecksumType::COMPOSITE) => Ok(Some(false)),
        Some(_) => Err(s3_error!(InvalidRequest, "Value for x-amz-checksum-type header is invalid.")),
    }
}

/// UploadPart.
pub async fn put_part(gateway: &Gateway, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
    let bucket = auth::bucket(&req)?;
    let asked = encryption::asked(gateway, &req)?;
    let S3Request { mut input, headers, trailing_headers, .. } = req;
    let number = part_number(input.part_number)?;
    let length = body_length(input.content_length)?;
    check_decoded_length(&headers, length)?;
    let claims = request::claims(&headers, input.content_md5.as_deref(), sent_checksums!(input), trailing_headers)?;
    let upload = upload(gateway, &bucket, &input.key, &input.upload_id).await?;
    let key = asked.of_part(gateway, &upload).await?;
    let body = engine_body(input.body.take());
    let part = PartRequest { upload, number, length: Some(length), zstd_level: bucket.zstd_level, claims, key };
    let done = gateway.put_part(part, body).await.map_err(error::put)?;
    let mut output = UploadPartOutput { e_tag: Some(answer::etag(&done.etag)), ..UploadPartOutput::default() };
    set_checksums!(output, &done.checksums, 1);
    Ok(encryption::said(S3Response::new(output), &done.purpose, &asked))
}

/// CompleteMultipartUpload.
pub async fn complete(
    gateway: &Gateway,
    req: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let authorised = auth::authorised(&req)?;
    let bucket = authorised.bucket()?;
    let location = Address::of(&req.headers, &req.uri, &req.extensions).of_object(&bucket.name, &req.input.key);
    let asked = encryption::asked(gateway, &req)?;
    let input = req.input;
    let name = UploadName { bucket: bucket.id, key: input.key.clone(), upload_id: input.upload_id.clone() };
    let full = full_object(input.checksum_type.as_ref())?;
    let listed = input.multipart_upload.as_ref().and_then(|list| list.parts.as_deref()).unwrap_or_default();
    if listed.is_empty() {
        return Err(s3_error!(MalformedXML));
    }
    let listed: Vec<ListedPart> = listed.iter().map(listed_part).collect::<S3Result<_>>()?;
    let parts = listed.len();
    let mut tags = Vec::new();
    let done = match gateway.metadata().upload(&name).await.map_err(error::lookup)? {
        Some(upload) => {
            // It may have been opened before that was blocked.
            let list = auth::rows::acl(upload.acl.as_ref(), &upload.owner);
            authorised.access()?.block.check_acl(list.is_public()).map_err(|_| auth::denied())?;
            tags.clone_from(&upload.tags);
            asked.of_complete(gateway, &upload).await?;
            let request = complete_request(&input, upload, listed.clone(), full)?;
            let object = Object { key: &input.key, version_id: None };
            conditions::may_compare(&authorised, &request.condition, object).await?;
            match gateway.complete_upload(request).await {
                // Another request has completed it meanwhile.
                Err(PutError::NoSuchUpload) => gateway.completed_upload(&name, &listed).await,
                done => done,
            }
        }
        None => gateway.completed_upload(&name, &listed).await,
    };
    let done = done.map_err(error::put)?;
    let put = (done.modified_ms, done.size);
    let mut output = CompleteMultipartUploadOutput {
        expiration: lifecycle::expiration_of_new(gateway, &bucket, &input.key, put, &tags).await.unwrap_or_default(),
        bucket: Some(bucket.name.clone()),
        checksum_type: answer::checksum_type(&done.checksums),
        e_tag: Some(answer::etag(&done.etag)),
        location: Some(location),
        key: Some(input.key),
        version_id: version::shown(&bucket, &done.version_id),
        ..CompleteMultipartUploadOutput::default()
    };
    set_checksums!(output, &done.checksums, parts);
    Ok(encryption::said(S3Response::new(output), &done.purpose, &asked))
}

fn complete_request(
    input: &CompleteMultipartUploadInput,
    upload: UploadRow,
    parts: Vec<ListedPart>,
    full: Option<bool>,
) -> S3Result<CompleteRequest> {
    let announced = codec::effect::ChecksumAlgorithm::try_from(upload.checksum).unwrap_or_default();
    if full.is_some_and(|full| announced as i32 != 0 && full != upload.full_object_checksum) {
        return Err(s3_error!(
            InvalidRequest,
            "The checksum type differs from the one that the upload was created with."
        ));
    }
    Ok(CompleteRequest {
        upload,
        parts,
        condition: request::write_condition(input.if_match.clone(), input.if_none_match.clone())?,
        checksums: expected_checksums(sent_checksums!(input), full)?,
        size: input
            .mpu_object_size
            .map(u64::try_from)
            .transpose()
            .map_err(|_| s3_error!(InvalidRequest, "Value for x-amz-mp-object-size header is invalid."))?,
    })
}

fn listed_part(part: &CompletedPart) -> S3Result<ListedPart> {
    let (Some(number), Some(etag)) = (part.part_number, part.e_tag.as_ref()) else {
        return Err(s3_error!(MalformedXML));
    };
    let checksums = sent_checksums!(part)
        .into_iter()
        .map(|(algorithm, value)| Ok((algorithm, request::checksum_value(algorithm, &value)?)))
        .collect::<S3Result<_>>()?;
    Ok(ListedPart { number: part_number(number)?, etag: etag.value().to_owned(), checksums })
}

/// `base64` for a checksum of the object, `base64-N` for one of its parts' checksums.
fn expected_checksums(
    sent: Vec<(codec::effect::ChecksumAlgorithm, String)>,
    full: Option<bool>,
) -> S3Result<Vec<Checksum>> {
    sent.into_iter()
        .map(|(algorithm, value)| {
            let (digest, counted) = match value.split_once('-') {
                Some((digest, _parts)) => (digest, true),
                None => (value.as_str(), false),
            };
            Ok(Checksum {
                algorithm: algorithm as i32,
                value: request::checksum_value(algorithm, digest)?,
                composite: counted || full == Some(false),
            })
        })
        .collect()
}

/// AbortMultipartUpload.
pub async fn abort(
    gateway: &Gateway,
    req: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let bucket = auth::bucket(&req)?;
    let input = req.input;
    if input.if_match_initiated_time.is_some() {
        return Err(error::not_implemented("A condition on time or size"));
    }
    let name = UploadName { bucket: bucket.id, key: input.key, upload_id: input.upload_id };
    gateway.abort_upload(name).await.map_err(error::put)?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::effect::ChecksumAlgorithm;

    #[test]
    fn numbers_of_parts() {
        assert!(part_number(0).is_err() && part_number(-1).is_err() && part_number(10_001).is_err());
        assert_eq!(part_number(10_000).ok(), Some(10_000));
    }

    #[test]
    fn expected_checksums_of_the_whole() {
        let of = |text: &str, full| expected_checksums(vec![(ChecksumAlgorithm::Crc32, text.to_owned())], full);
        assert_eq!(of("AAAAAA==-3", None).ok().map(|c| c[0].composite), Some(true));
        assert_eq!(of("AAAAAA==", None).ok().map(|c| c[0].composite), Some(false));
        assert!(of("AAAA", None).is_err());
    }
}
