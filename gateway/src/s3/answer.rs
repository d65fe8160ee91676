//! Rows in the words of S3's answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use codec::effect::{AccountRow, Checksum, ChecksumAlgorithm, ObjectMeta};
use http::HeaderValue;
use s3s::dto::{ChecksumType, ETag, Metadata, Owner, Timestamp};
use std::time::{Duration, SystemTime};

/// Milliseconds since the Unix epoch as a timestamp of S3.
pub fn timestamp(ms: u64) -> Timestamp {
    // Beyond the year 9999 nothing can be shown: such a row is damaged, and must not panic the answer.
    const LAST: u64 = 253_402_300_799_000;
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(LAST)))
}

/// Milliseconds since the Unix epoch as an HTTP date.
pub fn http_date(ms: u64) -> Option<HeaderValue> {
    http_date_of(&timestamp(ms))?.parse().ok()
}

/// A timestamp of S3 as an HTTP date.
pub fn http_date_of(timestamp: &Timestamp) -> Option<String> {
    let mut text = Vec::new();
    timestamp.format(s3s::dto::TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

/// An entity tag.
pub fn etag(value: &str) -> ETag {
    ETag::Strong(value.to_owned())
}

/// Text, or nothing where it is empty.
pub fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// A length for S3's signed fields.
pub fn length(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The account in Owner and Initiator. An account that is gone is shown by its id.
pub fn owner(id: &str, account: Option<&AccountRow>) -> Owner {
    let name = account.map_or(id, |account| account.display_name.as_str());
    Owner { id: Some(id.to_owned()), display_name: Some(name.to_owned()) }
}

/// x-amz-meta-*.
pub fn metadata(meta: &ObjectMeta) -> Option<Metadata> {
    let map: Metadata = meta.user.iter().map(|m| (m.name.clone(), m.value.clone())).collect();
    (!map.is_empty()).then_some(map)
}

/// A checksum as S3 shows it: base64, and for a composite one the number of parts behind it.
pub fn checksum(checksum: &Checksum, parts: usize) -> String {
    let value = BASE64.encode(&checksum.value);
    if checksum.composite { format!("{value}-{parts}") } else { value }
}

/// x-amz-checksum-type of an object's checksums.
pub fn checksum_type(checksums: &[Checksum]) -> Option<ChecksumType> {
    let first = checksums.first()?;
    let name = if first.composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
    Some(ChecksumType::from_static(name))
}

/// The checksum of one algorithm among `checksums`, as S3 shows it.
pub fn checksum_of(checksums: &[Checksum], algorithm: ChecksumAlgorithm, parts: usize) -> Option<String> {
    checksums.iter().find(|c| c.algorithm == algorithm as i32).map(|c| checksum(c, parts))
}

/// Sets the `checksum_*` fields of an s3s output. `$parts` is the number of parts that composite checksums stand for.
macro_rules! set_checksums {
    ($output:expr, $checksums:expr, $parts:expr) => {{
        use codec::effect::ChecksumAlgorithm as A;
        let (checksums, parts) = ($checksums, $parts);
        $output.checksum_crc32 = $crate::s3::answer::checksum_of(checksums, A::Crc32, parts);
        $output.checksum_crc32c = $crate::s3::answer::checksum_of(checksums, A::Crc32c, parts);
        $output.checksum_crc64nvme = $crate::s3::answer::checksum_of(checksums, A::Crc64Nvme, parts);
        $output.checksum_sha1 = $crate::s3::answer::checksum_of(checksums, A::Sha1, parts);
        $output.checksum_sha256 = $crate::s3::answer::checksum_of(checksums, A::Sha256, parts);
    }};
}
pub(crate) use set_checksums;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_and_never_panic() {
        assert_eq!(
            http_date(1_445_412_480_000).as_ref().map(HeaderValue::as_bytes),
            Some(&b"Wed, 21 Oct 2015 07:28:00 GMT"[..])
        );
        assert!(http_date(u64::MAX).is_some());
    }

    #[test]
    fn composite_checksums_name_their_parts() {
        let sum = |composite| Checksum { algorithm: 1, value: vec![0; 4].into(), composite };
        assert_eq!(checksum(&sum(false), 3), "AAAAAA==");
        assert_eq!(checksum(&sum(true), 3), "AAAAAA==-3");
    }
}
