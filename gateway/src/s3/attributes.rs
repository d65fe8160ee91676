//! GetObjectAttributes: what is known of an object without its bytes, for tools that compare and audit.

use super::answer::{self, set_checksums};
use super::object::current;
use crate::auth;
use crate::engine::Gateway;
use codec::effect::Content;
use s3s::dto::{
    Checksum, ETag, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts, ObjectAttributes,
    StorageClass,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

/// GetObjectAttributes. Of the parts only their number is told: S3 lists them where each has a checksum of its own, and these
/// are not kept when an upload is completed.
pub async fn get(
    gateway: &Gateway,
    req: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let bucket = auth::bucket(&req)?;
    let input = req.input;
    let asked = asked(&input.object_attributes)?;
    let (row, content) = current(gateway, &bucket, &input.key, input.version_id.as_deref()).await?;
    let wants = |name: &str| asked.contains(&name);
    let class = row.meta.as_ref().map(|meta| meta.storage_class.as_str()).filter(|label| !label.is_empty());
    Ok(S3Response::new(GetObjectAttributesOutput {
        checksum: checksum(&content).filter(|_| wants(ObjectAttributes::CHECKSUM)),
        // `s3s` writes it without quotation marks, as S3 does here and nowhere else.
        e_tag: wants(ObjectAttributes::ETAG).then(|| ETag::Strong(content.etag.clone())),
        last_modified: Some(answer::timestamp(row.modified_ms)),
        object_parts: parts(&content).filter(|_| wants(ObjectAttributes::OBJECT_PARTS)),
        object_size: wants(ObjectAttributes::OBJECT_SIZE).then(|| answer::length(content.size)),
        storage_class: wants(ObjectAttributes::STORAGE_CLASS)
            .then(|| StorageClass::from(class.unwrap_or(StorageClass::STANDARD).to_owned())),
        version_id: answer::text(&row.version_id),
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

fn parts(content: &Content) -> Option<GetObjectAttributesParts> {
    let total_parts_count = i32::try_from(content.part_sizes.len()).ok().filter(|&count| count > 0);
    total_parts_count.map(|_| GetObjectAttributesParts { total_parts_count, ..GetObjectAttributesParts::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

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
