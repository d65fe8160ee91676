//! Listings: keys (both versions of the call), versions, uploads and parts.

use super::answer::{self, set_checksums};
use super::error;
use crate::auth;
use crate::engine::Gateway;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use codec::effect::{ChecksumAlgorithm, UploadName, UploadRow, VersionRow};
use metadata::keys::Account;
use metadata::listing::{ListPage, ListRequest, MAX_PAGE, PartsRequest, UploadsRequest, VersionsRequest};
use s3s::dto::{
    self, ChecksumType, CommonPrefix, EncodingType, Initiator, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, ListPartsInput, ListPartsOutput, MultipartUpload, Object, ObjectStorageClass, ObjectVersion,
    ObjectVersionStorageClass, Part, StorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

/// How names are written: plainly, or percent-encoded when the client asks for it (XML can't hold every character).
#[derive(Clone, Copy)]
struct Names(bool);

impl Names {
    fn asked(encoding: Option<&EncodingType>) -> S3Result<Names> {
        match encoding.map(EncodingType::as_str) {
            None | Some("") => Ok(Names(false)),
            Some(EncodingType::URL) => Ok(Names(true)),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    /// Refuses what the answer repeats but XML can't hold: `s3s` would call its own answer an internal error.
    fn check<const N: usize>(self, asked: [&Option<String>; N]) -> S3Result<()> {
        let unwritable = |text: &String| text.bytes().any(|b| b < b' ' && !matches!(b, b'\t' | b'\n' | b'\r'));
        if !self.0 && asked.into_iter().flatten().any(unwritable) {
            return Err(s3_error!(InvalidArgument, "Control characters need encoding-type=url."));
        }
        Ok(())
    }

    fn write(self, name: &str) -> String {
        if !self.0 {
            return name.to_owned();
        }
        let mut out = String::with_capacity(name.len());
        for byte in name.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                    out.push(char::from(byte))
                }
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    }

    fn write_some(self, name: Option<String>) -> Option<String> {
        name.map(|name| self.write(&name))
    }

    fn encoding(self) -> Option<EncodingType> {
        self.0.then(|| EncodingType::from_static(EncodingType::URL))
    }

    fn prefixes(self, prefixes: &[String]) -> Option<Vec<CommonPrefix>> {
        let list: Vec<_> = prefixes.iter().map(|p| CommonPrefix { prefix: Some(self.write(p)) }).collect();
        (!list.is_empty()).then_some(list)
    }
}

/// max-keys, max-uploads, max-parts: what to show, and how many to fetch.
fn page_size(asked: Option<i32>, name: &str) -> S3Result<(i32, usize)> {
    let most = i32::try_from(MAX_PAGE).unwrap_or(i32::MAX);
    let shown = asked.unwrap_or(most).min(most);
    let size = usize::try_from(shown)
        .map_err(|_| s3_error!(InvalidArgument, "Argument {name} must be an integer between 0 and 2147483647"))?;
    Ok((shown, size))
}

fn algorithms(checksums: &[codec::effect::Checksum]) -> Option<Vec<dto::ChecksumAlgorithm>> {
    let names: Vec<_> = checksums
        .iter()
        .filter_map(|c| ChecksumAlgorithm::try_from(c.algorithm).ok())
        .map(|a| dto::ChecksumAlgorithm::from_static(super::request::algorithm_name(a)))
        .collect();
    (!names.is_empty()).then_some(names)
}

fn class_label(version: &VersionRow) -> String {
    let label = version.meta.as_ref().map_or("", |meta| meta.storage_class.as_str());
    if label.is_empty() { StorageClass::STANDARD.to_owned() } else { label.to_owned() }
}

fn object(names: Names, version: &VersionRow, owner: Option<&Account>) -> Object {
    let content = version.content.clone().unwrap_or_default();
    Object {
        checksum_algorithm: algorithms(&content.checksums),
        checksum_type: answer::checksum_type(&content.checksums),
        e_tag: Some(answer::etag(&content.etag)),
        key: Some(names.write(&version.key)),
        last_modified: Some(answer::timestamp(version.modified_ms)),
        owner: owner.map(auth::owner),
        restore_status: None,
        size: Some(answer::length(content.size)),
        storage_class: Some(ObjectStorageClass::from(class_label(version))),
    }
}

fn objects(names: Names, page: &ListPage, owner: Option<&Account>) -> Option<Vec<Object>> {
    let list: Vec<_> = page.objects.iter().map(|version| object(names, version, owner)).collect();
    (!list.is_empty()).then_some(list)
}

/// ListObjects (version 1).
pub async fn objects_v1(
    gateway: &Gateway,
    req: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let (bucket, caller) = (auth::bucket(&req)?, auth::caller(&req)?);
    let input = req.input;
    let names = Names::asked(input.encoding_type.as_ref())?;
    names.check([&input.prefix, &input.delimiter, &input.marker])?;
    let (shown, max) = page_size(input.max_keys, "maxKeys")?;
    let delimiter = input.delimiter.clone().unwrap_or_default();
    let request = ListRequest {
        bucket: bucket.bucket_id(),
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: delimiter.clone(),
        after: input.marker.clone().unwrap_or_default(),
        max,
    };
    let page = gateway.metadata().list(request).await.map_err(error::lookup)?;
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(bucket.name.clone()),
        prefix: Some(names.write(&input.prefix.unwrap_or_default())),
        marker: Some(names.write(&input.marker.unwrap_or_default())),
        max_keys: Some(shown),
        is_truncated: Some(page.next.is_some()),
        contents: objects(names, &page, Some(&caller)),
        common_prefixes: names.prefixes(&page.prefixes),
        // S3 names the next marker only where the client can't take it from the last key.
        next_marker: names.write_some(page.next.filter(|_| !delimiter.is_empty())),
        delimiter: answer::text(&delimiter).map(|d| names.write(&d)),
        encoding_type: names.encoding(),
        request_charged: None,
    }))
}

fn token_of(key: &str) -> String {
    BASE64.encode(key)
}

fn key_of(token: &str) -> S3Result<String> {
    BASE64
        .decode(token)
        .ok()
        .and_then(|raw| String::from_utf8(raw).ok())
        .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}

/// ListObjectsV2.
pub async fn objects_v2(
    gateway: &Gateway,
    req: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let (bucket, caller) = (auth::bucket(&req)?, auth::caller(&req)?);
    let input = req.input;
    let names = Names::asked(input.encoding_type.as_ref())?;
    names.check([&input.prefix, &input.delimiter, &input.start_after, &input.continuation_token])?;
    let (shown, max) = page_size(input.max_keys, "max-keys")?;
    let after = match input.continuation_token.as_deref() {
        None | Some("") => input.start_after.clone().unwrap_or_default(),
        Some(token) => key_of(token)?,
    };
    let request = ListRequest {
        bucket: bucket.bucket_id(),
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().unwrap_or_default(),
        after,
        max,
    };
    let page = gateway.metadata().list(request).await.map_err(error::lookup)?;
    let owner = input.fetch_owner.unwrap_or(false).then_some(&*caller);
    let count = page.objects.len() + page.prefixes.len();
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(bucket.name.clone()),
        prefix: Some(names.write(&input.prefix.unwrap_or_default())),
        max_keys: Some(shown),
        key_count: Some(i32::try_from(count).unwrap_or(i32::MAX)),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(token_of),
        contents: objects(names, &page, owner),
        common_prefixes: names.prefixes(&page.prefixes),
        delimiter: input.delimiter.filter(|d| !d.is_empty()).map(|d| names.write(&d)),
        encoding_type: names.encoding(),
        start_after: names.write_some(input.start_after),
        request_charged: None,
    }))
}

/// ListObjectVersions. A bucket without versioning has the null version of each key.
pub async fn versions(
    gateway: &Gateway,
    req: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let (bucket, caller) = (auth::bucket(&req)?, auth::caller(&req)?);
    let input = req.input;
    let names = Names::asked(input.encoding_type.as_ref())?;
    names.check([&input.prefix, &input.delimiter, &input.key_marker])?;
    let (shown, max) = page_size(input.max_keys, "max-keys")?;
    let key_marker = input.key_marker.clone().unwrap_or_default();
    let version_marker = input.version_id_marker.clone().filter(|marker| !marker.is_empty());
    if key_marker.is_empty() && version_marker.is_some() {
        return Err(s3_error!(InvalidArgument, "A version-id marker cannot be specified without a key marker."));
    }
    let request = VersionsRequest {
        bucket: bucket.bucket_id(),
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().unwrap_or_default(),
        key_marker,
        version_marker,
        max,
    };
    let page = gateway.metadata().list_versions(request).await.map_err(error::lookup)?;
    let versions: Vec<_> = page.versions.iter().map(|(row, latest)| version(names, row, *latest, &caller)).collect();
    let truncated = page.next.is_some();
    let (next_key, next_version) = page.next.unzip();
    Ok(S3Response::new(ListObjectVersionsOutput {
        common_prefixes: names.prefixes(&page.prefixes),
        delete_markers: None,
        delimiter: input.delimiter.filter(|d| !d.is_empty()).map(|d| names.write(&d)),
        encoding_type: names.encoding(),
        is_truncated: Some(truncated),
        key_marker: Some(names.write(&input.key_marker.unwrap_or_default())),
        max_keys: Some(shown),
        name: Some(bucket.name.clone()),
        next_key_marker: names.write_some(next_key),
        next_version_id_marker: next_version.flatten(),
        prefix: Some(names.write(&input.prefix.unwrap_or_default())),
        request_charged: None,
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        versions: (!versions.is_empty()).then_some(versions),
    }))
}

fn version(names: Names, row: &VersionRow, latest: bool, owner: &Account) -> ObjectVersion {
    let content = row.content.clone().unwrap_or_default();
    ObjectVersion {
        checksum_algorithm: algorithms(&content.checksums),
        checksum_type: answer::checksum_type(&content.checksums),
        e_tag: Some(answer::etag(&content.etag)),
        is_latest: Some(latest),
        key: Some(names.write(&row.key)),
        last_modified: Some(answer::timestamp(row.modified_ms)),
        owner: Some(auth::owner(owner)),
        restore_status: None,
        size: Some(answer::length(content.size)),
        storage_class: Some(ObjectVersionStorageClass::from(class_label(row))),
        version_id: Some(answer::text(&row.version_id).unwrap_or_else(|| "null".to_owned())),
    }
}

fn initiator(upload: &UploadRow, caller: &Account) -> Initiator {
    let owner = auth::owner(caller);
    if owner.id.as_deref() == Some(upload.initiator.as_str()) {
        return Initiator { display_name: owner.display_name, id: owner.id };
    }
    Initiator { display_name: Some(upload.initiator.clone()), id: Some(upload.initiator.clone()) }
}

fn upload_checksum(upload: &UploadRow) -> (Option<dto::ChecksumAlgorithm>, Option<ChecksumType>) {
    let algorithm = ChecksumAlgorithm::try_from(upload.checksum).unwrap_or(ChecksumAlgorithm::Unspecified);
    if algorithm == ChecksumAlgorithm::Unspecified {
        return (None, None);
    }
    let kind = if upload.full_object_checksum { ChecksumType::FULL_OBJECT } else { ChecksumType::COMPOSITE };
    (
        Some(dto::ChecksumAlgorithm::from_static(super::request::algorithm_name(algorithm))),
        Some(ChecksumType::from_static(kind)),
    )
}

fn upload_class(upload: &UploadRow) -> StorageClass {
    let label = upload.meta.as_ref().map_or("", |meta| meta.storage_class.as_str());
    StorageClass::from(if label.is_empty() { StorageClass::STANDARD.to_owned() } else { label.to_owned() })
}

/// ListMultipartUploads.
pub async fn uploads(
    gateway: &Gateway,
    req: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let (bucket, caller) = (auth::bucket(&req)?, auth::caller(&req)?);
    let input = req.input;
    let names = Names::asked(input.encoding_type.as_ref())?;
    names.check([&input.prefix, &input.delimiter, &input.key_marker, &input.upload_id_marker])?;
    let (shown, max) = page_size(input.max_uploads, "max-uploads")?;
    let request = UploadsRequest {
        bucket: bucket.bucket_id(),
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().unwrap_or_default(),
        key_marker: input.key_marker.clone().unwrap_or_default(),
        upload_marker: input.upload_id_marker.clone().unwrap_or_default(),
        max,
    };
    let page = gateway.metadata().list_uploads(request).await.map_err(error::lookup)?;
    let uploads: Vec<_> = page.uploads.iter().map(|row| upload(names, row, &caller)).collect();
    let truncated = page.next.is_some();
    let (next_key, next_upload) = page.next.unzip();
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(bucket.name.clone()),
        common_prefixes: names.prefixes(&page.prefixes),
        delimiter: input.delimiter.filter(|d| !d.is_empty()).map(|d| names.write(&d)),
        encoding_type: names.encoding(),
        is_truncated: Some(truncated),
        key_marker: Some(names.write(&input.key_marker.unwrap_or_default())),
        max_uploads: Some(shown),
        next_key_marker: names.write_some(next_key),
        next_upload_id_marker: next_upload,
        prefix: Some(names.write(&input.prefix.unwrap_or_default())),
        request_charged: None,
        upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        uploads: (!uploads.is_empty()).then_some(uploads),
    }))
}

fn upload(names: Names, row: &UploadRow, caller: &Account) -> MultipartUpload {
    let (checksum_algorithm, checksum_type) = upload_checksum(row);
    let name = row.name.clone().unwrap_or_default();
    MultipartUpload {
        checksum_algorithm,
        checksum_type,
        initiated: Some(answer::timestamp(row.initiated_ms)),
        initiator: Some(initiator(row, caller)),
        key: Some(names.write(&name.key)),
        owner: Some(auth::owner(caller)),
        storage_class: Some(upload_class(row)),
        upload_id: Some(name.upload_id),
    }
}

/// ListParts.
pub async fn parts(gateway: &Gateway, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
    let (bucket, caller) = (auth::bucket(&req)?, auth::caller(&req)?);
    let input = req.input;
    let (shown, max) = page_size(input.max_parts, "max-parts")?;
    let after = match input.part_number_marker {
        None => 0,
        Some(marker) => u32::try_from(marker).map_err(|_| {
            s3_error!(InvalidArgument, "Argument part-number-marker must be an integer between 0 and 2147483647")
        })?,
    };
    let upload = UploadName { bucket: bucket.id, key: input.key.clone(), upload_id: input.upload_id.clone() };
    let page = gateway.metadata().list_parts(PartsRequest { upload, after, max }).await.map_err(error::lookup)?;
    let page = page.ok_or_else(error::no_such_upload)?;
    let (checksum_algorithm, checksum_type) = upload_checksum(&page.upload);
    let parts: Vec<_> = page
        .parts
        .iter()
        .map(|row| {
            let content = row.content.clone().unwrap_or_default();
            let mut part = Part {
                e_tag: Some(answer::etag(&content.etag)),
                last_modified: Some(answer::timestamp(row.modified_ms)),
                part_number: i32::try_from(row.number).ok(),
                size: Some(answer::length(content.size)),
                ..Part::default()
            };
            set_checksums!(part, &content.checksums, 1);
            part
        })
        .collect();
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(bucket.name.clone()),
        checksum_algorithm,
        checksum_type,
        initiator: Some(initiator(&page.upload, &caller)),
        is_truncated: Some(page.next.is_some()),
        key: Some(input.key),
        max_parts: Some(shown),
        next_part_number_marker: page.next.and_then(|next| i32::try_from(next).ok()),
        owner: Some(auth::owner(&caller)),
        part_number_marker: i32::try_from(after).ok(),
        parts: (!parts.is_empty()).then_some(parts),
        storage_class: Some(upload_class(&page.upload)),
        upload_id: Some(input.upload_id),
        ..ListPartsOutput::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_as_s3_does() {
        let encoded = Names(true).write("a b+c%/ü\u{1}~");
        assert_eq!(encoded, "a%20b%2Bc%25/%C3%BC%01~");
        assert_eq!(Names(false).write("a b"), "a b");
        assert!(Names::asked(Some(&EncodingType::from("xml".to_owned()))).is_err());
        let control = Some("\u{1}".to_owned());
        assert!(Names(false).check([&None, &control]).is_err() && Names(true).check([&control]).is_ok());
        assert!(Names(false).check([&Some("a\tb".to_owned())]).is_ok());
    }

    #[test]
    fn tokens_and_page_sizes() {
        assert_eq!(key_of(&token_of("dir/ü")).ok().as_deref(), Some("dir/ü"));
        assert!(key_of("!").is_err());
        assert_eq!(page_size(None, "n").ok(), Some((1000, 1000)));
        assert_eq!(page_size(Some(5000), "n").ok(), Some((1000, 1000)));
        assert_eq!(page_size(Some(0), "n").ok(), Some((0, 0)));
        assert!(page_size(Some(-1), "n").is_err());
    }
}
