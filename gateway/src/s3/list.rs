//! Listings: keys (both versions of the call), versions, uploads and parts.

use super::answer::{self, set_checksums};
use super::{archive, error, lifecycle, version};
use crate::auth;
use crate::auth::owners::Owners;
use crate::engine::Gateway;
use crate::percent;
use access::versions::Named;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use codec::effect::{ChecksumAlgorithm, UploadName, UploadRow, VersionRow};
use http::Uri;
use metadata::lifecycle::opened_ms;
use metadata::listing::{ListPage, ListRequest, MAX_PAGE, PartsRequest, UploadsRequest, VersionsRequest};
use s3s::dto::{
    self, ChecksumType, CommonPrefix, DeleteMarkerEntry, EncodingType, Initiator, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput,
    ListObjectsV2Input, ListObjectsV2Output, ListPartsInput, ListPartsOutput, MultipartUpload, Object,
    ObjectStorageClass, ObjectVersion, ObjectVersionStorageClass, OptionalObjectAttributes, Part, StorageClass,
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
        let sayable = |text: &String| text.chars().all(super::request::is_sayable);
        if !self.0 && !asked.into_iter().flatten().all(sayable) {
            return Err(s3_error!(InvalidArgument, "Control characters need encoding-type=url."));
        }
        Ok(())
    }

    fn write(self, name: &str) -> String {
        if !self.0 {
            return name.to_owned();
        }
        let mut out = String::new();
        percent::push_path(&mut out, name);
        out
    }

    fn write_some(self, name: Option<String>) -> Option<String> {
        name.map(|name| self.write(&name))
    }

    /// The prefix as version 1 of the listing repeats it. botocore reads it as it stands, others decode it: where decoding changes
    /// nothing and XML holds it as it is, it stands there plainly, and is the same to both.
    fn write_prefix_v1(self, prefix: &str) -> String {
        let as_it_is =
            |c: char| !matches!(c, '%' | '+' | '\u{fffe}' | '\u{ffff}') && (c >= ' ' || matches!(c, '\t' | '\n'));
        if prefix.chars().all(as_it_is) { prefix.to_owned() } else { self.write(prefix) }
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

/// `allow-unordered=true`, of Ceph's clients: keys may come in any order, and so also in theirs. It does not go with a delimiter, since
/// common prefixes are of keys that come one after the other.
fn check_unordered(uri: &Uri, delimiter: Option<&str>) -> S3Result<()> {
    let asked = super::request::query_pairs(uri.query().unwrap_or_default());
    let unordered = asked.iter().any(|(name, value)| name == "allow-unordered" && value == "true");
    if unordered && delimiter.is_some_and(|delimiter| !delimiter.is_empty()) {
        return Err(s3_error!(InvalidArgument, "allow-unordered does not go with a delimiter."));
    }
    Ok(())
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

/// What a listing says of an object only when it is asked to.
const OPTIONAL: &str = "x-amz-optional-object-attributes";

/// `x-amz-optional-object-attributes`, for the table of headers.
pub fn check_optional(value: &str) -> S3Result<()> {
    match value.split(',').all(|name| name.trim() == OptionalObjectAttributes::RESTORE_STATUS) {
        true => Ok(()),
        false => Err(s3_error!(InvalidArgument, "Invalid attribute name specified.")),
    }
}

/// Whether a listing is to say what becomes of restores. There is nothing else that the header can ask for ([`check_optional`]), and it
/// may be in the query (`super::support::QUERY`).
fn shows_restores<T>(req: &S3Request<T>) -> bool {
    let query = super::request::query_pairs(req.uri.query().unwrap_or_default());
    req.headers.contains_key(OPTIONAL) || query.iter().any(|(name, _)| name.eq_ignore_ascii_case(OPTIONAL))
}

fn object(names: Names, version: &VersionRow, owners: Option<&Owners>, restores: bool) -> Object {
    let content = version.content.clone().unwrap_or_default();
    Object {
        checksum_algorithm: algorithms(&content.checksums),
        checksum_type: answer::checksum_type(&content.checksums),
        e_tag: Some(answer::etag(&content.etag)),
        key: Some(names.write(&version.key)),
        last_modified: Some(answer::timestamp(version.modified_ms)),
        owner: owners.map(|owners| owners.of(&version.owner)),
        restore_status: restores.then(|| archive::listed(version)).flatten(),
        size: Some(answer::length(content.size)),
        storage_class: Some(ObjectStorageClass::from(class_label(version))),
    }
}

fn objects(names: Names, page: &ListPage, owners: Option<&Owners>, restores: bool) -> Option<Vec<Object>> {
    let list: Vec<_> = page.objects.iter().map(|version| object(names, version, owners, restores)).collect();
    (!list.is_empty()).then_some(list)
}

/// ListObjects (version 1).
pub async fn objects_v1(
    gateway: &Gateway,
    req: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let (bucket, authorised) = (auth::bucket(&req)?, auth::authorised(&req)?);
    check_unordered(&req.uri, req.input.delimiter.as_deref())?;
    let restores = shows_restores(&req);
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
    let owners = authorised.owners(&of_versions(&page.objects)).await?;
    let last = page.objects.last().map(|row| row.key.clone());
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(bucket.name.clone()),
        prefix: Some(names.write_prefix_v1(&input.prefix.unwrap_or_default())),
        marker: Some(names.write(&input.marker.unwrap_or_default())),
        max_keys: Some(shown),
        is_truncated: Some(page.next.is_some()),
        contents: objects(names, &page, Some(&owners), restores),
        common_prefixes: names.prefixes(&page.prefixes),
        // S3 names the next marker only where the client can't take it from the last key.
        next_marker: names.write_some(page.next.filter(|next| !delimiter.is_empty() || last.as_ref() != Some(next))),
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
    let (bucket, authorised) = (auth::bucket(&req)?, auth::authorised(&req)?);
    check_unordered(&req.uri, req.input.delimiter.as_deref())?;
    let restores = shows_restores(&req);
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
    let owners = match input.fetch_owner {
        Some(true) => Some(authorised.owners(&of_versions(&page.objects)).await?),
        _ => None,
    };
    let count = page.objects.len() + page.prefixes.len();
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(bucket.name.clone()),
        prefix: Some(names.write(&input.prefix.unwrap_or_default())),
        max_keys: Some(shown),
        key_count: Some(i32::try_from(count).unwrap_or(i32::MAX)),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(token_of),
        contents: objects(names, &page, owners.as_ref(), restores),
        common_prefixes: names.prefixes(&page.prefixes),
        delimiter: input.delimiter.filter(|d| !d.is_empty()).map(|d| names.write(&d)),
        encoding_type: names.encoding(),
        start_after: names.write_some(input.start_after),
        request_charged: None,
    }))
}

/// ListObjectVersions, delete markers included. A bucket that never kept versions has the null version of each key.
pub async fn versions(
    gateway: &Gateway,
    req: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let (bucket, authorised) = (auth::bucket(&req)?, auth::authorised(&req)?);
    let restores = shows_restores(&req);
    let input = req.input;
    let names = Names::asked(input.encoding_type.as_ref())?;
    names.check([&input.prefix, &input.delimiter, &input.key_marker])?;
    let (shown, max) = page_size(input.max_keys, "max-keys")?;
    let key_marker = input.key_marker.clone().unwrap_or_default();
    let version_marker = input.version_id_marker.clone().filter(|marker| !marker.is_empty());
    if key_marker.is_empty() && version_marker.is_some() {
        return Err(s3_error!(InvalidArgument, "A version-id marker cannot be specified without a key marker."));
    }
    Named::parse(version_marker.as_deref()).map_err(|_| s3_error!(InvalidArgument, "Invalid version id specified"))?;
    let request = VersionsRequest {
        bucket: bucket.bucket_id(),
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().unwrap_or_default(),
        key_marker,
        version_marker,
        max,
    };
    let page = gateway.metadata().list_versions(request).await.map_err(error::lookup)?;
    let owners =
        authorised.owners(&page.versions.iter().map(|(row, _)| row.owner.as_str()).collect::<Vec<_>>()).await?;
    let (mut versions, mut markers) = (Vec::new(), Vec::new());
    for (row, latest) in &page.versions {
        match row.delete_marker {
            true => markers.push(delete_marker(names, row, *latest, &owners)),
            false => versions.push(object_version(names, row, *latest, &owners, restores)),
        }
    }
    let truncated = page.next.is_some();
    let (next_key, next_version) = page.next.unzip();
    Ok(S3Response::new(ListObjectVersionsOutput {
        common_prefixes: names.prefixes(&page.prefixes),
        delete_markers: (!markers.is_empty()).then_some(markers),
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

fn object_version(names: Names, row: &VersionRow, latest: bool, owners: &Owners, restores: bool) -> ObjectVersion {
    let content = row.content.clone().unwrap_or_default();
    ObjectVersion {
        checksum_algorithm: algorithms(&content.checksums),
        checksum_type: answer::checksum_type(&content.checksums),
        e_tag: Some(answer::etag(&content.etag)),
        is_latest: Some(latest),
        key: Some(names.write(&row.key)),
        last_modified: Some(answer::timestamp(row.modified_ms)),
        owner: Some(owners.of(&row.owner)),
        restore_status: restores.then(|| archive::listed(row)).flatten(),
        size: Some(answer::length(content.size)),
        storage_class: Some(ObjectVersionStorageClass::from(class_label(row))),
        version_id: Some(version::name(&row.version_id).to_owned()),
    }
}

fn delete_marker(names: Names, row: &VersionRow, latest: bool, owners: &Owners) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        is_latest: Some(latest),
        key: Some(names.write(&row.key)),
        last_modified: Some(answer::timestamp(row.modified_ms)),
        owner: Some(owners.of(&row.owner)),
        version_id: Some(version::name(&row.version_id).to_owned()),
    }
}

fn initiator(upload: &UploadRow, owners: &Owners) -> Initiator {
    let account = owners.of(&upload.initiator);
    Initiator { display_name: account.display_name, id: account.id }
}

/// The accounts that uploads name.
fn of_uploads(uploads: &[UploadRow]) -> Vec<&str> {
    uploads.iter().flat_map(|row| [row.initiator.as_str(), row.owner.as_str()]).collect()
}

/// The accounts that versions name.
fn of_versions(versions: &[VersionRow]) -> Vec<&str> {
    versions.iter().map(|row| row.owner.as_str()).collect()
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
    let (bucket, authorised) = (auth::bucket(&req)?, auth::authorised(&req)?);
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
    let owners = authorised.owners(&of_uploads(&page.uploads)).await?;
    let uploads: Vec<_> = page.uploads.iter().map(|row| upload(names, row, &owners)).collect();
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

fn upload(names: Names, row: &UploadRow, owners: &Owners) -> MultipartUpload {
    let (checksum_algorithm, checksum_type) = upload_checksum(row);
    let name = row.name.clone().unwrap_or_default();
    MultipartUpload {
        checksum_algorithm,
        checksum_type,
        initiated: Some(answer::timestamp(row.initiated_ms)),
        initiator: Some(initiator(row, owners)),
        key: Some(names.write(&name.key)),
        owner: Some(owners.of(&row.owner)),
        storage_class: Some(upload_class(row)),
        upload_id: Some(name.upload_id),
    }
}

/// ListParts.
pub async fn parts(gateway: &Gateway, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
    let (bucket, authorised) = (auth::bucket(&req)?, auth::authorised(&req)?);
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
    let owners = authorised.owners(&of_uploads(std::slice::from_ref(&page.upload))).await?;
    let (checksum_algorithm, checksum_type) = upload_checksum(&page.upload);
    let opened_ms = opened_ms(&bucket, &page.upload);
    let abort = lifecycle::abort(gateway, &bucket, &input.key, opened_ms).await.unwrap_or_default();
    let (abort_date, abort_rule_id) = abort.unzip();
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
        abort_date,
        abort_rule_id,
        bucket: Some(bucket.name.clone()),
        checksum_algorithm,
        checksum_type,
        initiator: Some(initiator(&page.upload, &owners)),
        is_truncated: Some(page.next.is_some()),
        key: Some(input.key),
        max_parts: Some(shown),
        next_part_number_marker: page.next.and_then(|next| i32::try_from(next).ok()),
        owner: Some(owners.of(&page.upload.owner)),
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
        let repeated = ["a b/ü\n", "a+b", "a%20b", "\r", "\u{1}"].map(|prefix| Names(true).write_prefix_v1(prefix));
        assert_eq!(repeated, ["a b/ü\n", "a%2Bb", "a%2520b", "%0D", "%01"]);
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
