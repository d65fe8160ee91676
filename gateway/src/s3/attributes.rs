//! GetObjectAttributes: what is known of an object without its bytes, for tools that compare and audit.

use super::answer::{self, set_checksums};
use super::encryption;
use super::version::{self, Version};
use crate::auth;
use crate::engine::Gateway;
use bytes::Bytes;
use codec::effect::{Content, PartInfo};
use s3s::dto::{
    Checksum, ETag, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts, ObjectAttributes,
    ObjectPart, StorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

/// GetObjectAttributes.
pub async fn get(
    gateway: &Gateway,
    req: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let authorised = auth::authorised(&req)?;
    let bucket = authorised.bucket()?;
    let protected = encryption::asked(gateway, &req)?;
    let input = req.input;
    let asked = asked(&input.object_attributes)?;
    let page = PartsPage::new(input.part_number_marker, input.max_parts)?;
    let (id, found) = (input.version_id.as_deref(), authorised.found());
    let Version { row, content } = version::find(gateway, &bucket, &input.key, id, found).await?;
    protected.of_read(&content)?;
    let wants = |name: &str| asked.contains(&name);
    let class = row.meta.as_ref().map(|meta| meta.storage_class.as_str()).filter(|label| !label.is_empty());
    Ok(S3Response::new(GetObjectAttributesOutput {
        checksum: checksum(&content).filter(|_| wants(ObjectAttributes::CHECKSUM)),
        // `s3s` writes it without quotation marks, as S3 does here and nowhere else.
        e_tag: wants(ObjectAttributes::ETAG).then(|| ETag::Strong(content.etag.clone())),
        last_modified: Some(answer::timestamp(row.modified_ms)),
        object_parts: page.of(&content).filter(|_| wants(ObjectAttributes::OBJECT_PARTS)),
        object_size: wants(ObjectAttributes::OBJECT_SIZE).then(|| answer::length(content.size)),
        storage_class: wants(ObjectAttributes::STORAGE_CLASS)
            .then(|| StorageClass::from(class.unwrap_or(StorageClass::STANDARD).to_owned())),
        version_id: version::shown(&bucket, &row.version_id),
        ..GetObjectAttributesOutput::default()
    }))
}

/// The header may come as several, and as one with commas.
fn asked(attributes: &[ObjectAttributes]) -> S3Result<Vec<&str>> {
    const KNOWN: [&str; 5] = [
        ObjectAttributes::CHECKSUM,
        ObjectAttributes::ETAG,
        ObjectAttributes::OBJECT_PARTS,
        ObjectAttributes::OBJECT_SIZE,
        ObjectAttributes::STORAGE_CLASS,
    ];
    let asked: Vec<&str> = attributes.iter().flat_map(|names| names.as_str().split(',')).map(str::trim).collect();
    if asked.is_empty() || asked.iter().any(|name| !KNOWN.contains(name)) {
        return Err(s3_error!(InvalidArgument, "Invalid attribute name specified."));
    }
    Ok(asked)
}

fn checksum(content: &Content) -> Option<Checksum> {
    content.checksums.first()?;
    let mut checksum = Checksum { checksum_type: answer::checksum_type(&content.checksums), ..Checksum::default() };
    set_checksums!(checksum, &content.checksums, content.part_sizes.len().max(1));
    Some(checksum)
}

/// Most parts on a page.
const MAX_PARTS_PAGE: usize = 1000;

/// Which parts are asked for.
#[derive(Clone, Copy, Debug)]
struct PartsPage {
    after: u32,
    max: usize,
}

impl PartsPage {
    fn new(marker: Option<i32>, max: Option<i32>) -> S3Result<PartsPage> {
        let bad = |name: &str| s3_error!(InvalidArgument, "{name} must be an integer between 0 and 2147483647");
        let after = u32::try_from(marker.unwrap_or(0)).map_err(|_| bad("x-amz-part-number-marker"))?;
        let max = max.map_or(Ok(MAX_PARTS_PAGE), usize::try_from).map_err(|_| bad("x-amz-max-parts"))?;
        Ok(PartsPage { after, max: max.min(MAX_PARTS_PAGE) })
    }

    /// The parts of an object that came by multipart: with their checksums where the upload had announced them.
    fn of(self, content: &Content) -> Option<GetObjectAttributesParts> {
        let total_parts_count = i32::try_from(content.part_sizes.len()).ok().filter(|&count| count > 0)?;
        let named = |at: usize, size: u64| match content.parts.get(at) {
            Some(part) => part.clone(),
            None => PartInfo { number: u32::try_from(at + 1).unwrap_or(u32::MAX), size, checksum: Bytes::new() },
        };
        let all = content.part_sizes.iter().enumerate().map(|(at, &size)| named(at, size));
        let mut rest = all.filter(|part| part.number > self.after);
        let shown: Vec<PartInfo> = rest.by_ref().take(self.max).collect();
        let number = |number: u32| i32::try_from(number).ok();
        let algorithm = content.checksums.first().map(|checksum| checksum.algorithm);
        Some(GetObjectAttributesParts {
            is_truncated: Some(rest.next().is_some()),
            max_parts: i32::try_from(self.max).ok(),
            next_part_number_marker: number(shown.last().map_or(self.after, |part| part.number)),
            part_number_marker: number(self.after),
            parts: (!shown.is_empty()).then(|| shown.iter().map(|part| object_part(part, algorithm)).collect()),
            total_parts_count: Some(total_parts_count),
        })
    }
}

fn object_part(part: &PartInfo, algorithm: Option<i32>) -> ObjectPart {
    let own = algorithm.filter(|_| !part.checksum.is_empty());
    let checksums: Vec<codec::effect::Checksum> = own
        .map(|algorithm| codec::effect::Checksum { algorithm, value: part.checksum.clone(), composite: false })
        .into_iter()
        .collect();
    let number = i32::try_from(part.number).ok();
    let mut shown = ObjectPart { part_number: number, size: Some(answer::length(part.size)), ..ObjectPart::default() };
    set_checksums!(shown, &checksums, 1);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_by_page_and_by_the_numbers_that_they_came_with() {
        let numbered = |number, size| PartInfo { number, size, checksum: Bytes::from_static(&[1; 4]) };
        let checksum = codec::effect::Checksum { algorithm: 1, value: Bytes::from_static(&[2; 4]), composite: true };
        let mut content = Content {
            part_sizes: vec![5, 6, 7],
            parts: vec![numbered(2, 5), numbered(4, 6), numbered(9, 7)],
            checksums: vec![checksum],
            ..Content::default()
        };
        let page = |content: &Content, marker, max| {
            let page = PartsPage::new(marker, max).ok()?.of(content)?;
            let parts = page.parts.unwrap_or_default();
            let numbers: Vec<i32> = parts.iter().filter_map(|part| part.part_number).collect();
            assert_eq!(page.total_parts_count, Some(3));
            Some((numbers, page.is_truncated?, page.next_part_number_marker?, parts.first()?.checksum_crc32.is_some()))
        };
        assert_eq!(page(&content, None, Some(2)), Some((vec![2, 4], true, 4, true)));
        assert_eq!(page(&content, Some(4), None), Some((vec![9], false, 9, true)));
        content.parts.clear();
        assert_eq!(page(&content, Some(1), None), Some((vec![2, 3], false, 3, false)));
        assert!(PartsPage::new(Some(-1), None).is_err() && PartsPage::new(None, Some(-1)).is_err());
        assert!(PartsPage { after: 0, max: 9 }.of(&Content::default()).is_none());
    }

    #[test]
    fn attributes_by_name() {
        let of = |names: &[&'static str]| {
            let names: Vec<_> = names.iter().map(|name| ObjectAttributes::from_static(name)).collect();
            asked(&names).ok().map(|asked| asked.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(
            of(&["ETag", "Checksum, ObjectSize"]).map(|names| names.join("+")).as_deref(),
            Some("ETag+Checksum+ObjectSize")
        );
        assert!(of(&[]).is_none() && of(&["Etag"]).is_none() && of(&[""]).is_none());
    }
}
