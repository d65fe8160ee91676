//! What `POST /v1/fixity` is asked and answers. Times are milliseconds since the Unix epoch.

use codec::effect::ChecksumAlgorithm;
use codec::id::{BucketId, Lsn};
use metadata::keep::fixity::{FixityCursor, FixityPage, ObjectFixity, StripeFixity};
use serde::{Deserialize, Serialize};

/// Asks for a page of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixityQuestion {
    /// The bucket.
    pub bucket: String,
    /// Only keys that start so; empty: all.
    #[serde(default)]
    pub prefix: String,
    /// `next` of the page before; absent for the first.
    #[serde(default)]
    pub after: Option<FixityPlace>,
    /// Most objects on the page; absent: as many as there may be.
    #[serde(default)]
    pub max: Option<usize>,
    /// Verify shards from their media before they are reported, unless they were since `began_ms`.
    #[serde(default)]
    pub verify: bool,
    /// `began_ms` of the first page; absent for the first.
    #[serde(default)]
    pub began_ms: Option<u64>,
}

/// Where a report goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixityPlace {
    /// The bucket's id.
    pub bucket: u64,
    /// The last key of the page.
    pub key: String,
    /// Its version's number.
    pub seq: u64,
}

/// A page of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixityAnswer {
    /// When the report began, by the server's clock.
    pub began_ms: u64,
    /// Objects, by key; versions of one key newest first.
    pub objects: Vec<ObjectLine>,
    /// Where the next page begins; absent: that was all.
    pub next: Option<FixityPlace>,
}

/// An object version and its fixity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectLine {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The version id; `null` for the null version.
    pub version: String,
    /// The version's number: later versions have higher ones.
    pub seq: u64,
    /// Last-Modified.
    pub modified_ms: u64,
    /// Bytes.
    pub size: u64,
    /// Content-Type; empty when none was given.
    pub content_type: String,
    /// Entity tag: the MD5 of the bytes in hex, or `<hex>-<parts>`; random where `random_tag`.
    pub etag: String,
    /// The entity tag is no digest of the bytes: the object is under SSE-C or SSE-KMS.
    #[serde(default)]
    pub random_tag: bool,
    /// Checksums that were verified or computed when it was put.
    pub checksums: Vec<ChecksumLine>,
    /// Stored encrypted.
    pub encrypted: bool,
    /// `ok`, `unverified`, `degraded`, `damaged`, `unknown` or `lost`.
    pub outcome: String,
    /// How many more shards each of its stripes can lose at least; negative: some can't be read now; absent: it has none.
    pub slack: Option<i32>,
    /// When the shard that was verified longest ago was; absent while one was not verified since it was written.
    pub oldest_ms: Option<u64>,
    /// Chunks, those of its manifest included.
    pub chunks: u64,
    /// Shards and journal copies that it depends on.
    pub shards: u64,
    /// Of these, verified from the medium since they were written.
    pub verified: u64,
    /// Not verified since they were written.
    pub unverified: u64,
    /// Missing or damaged.
    pub bad: u64,
    /// On drives that can't be asked.
    pub unreachable: u64,
    /// Counted above and not listed below: a very large object has too many.
    pub unlisted: u64,
    /// Its stripes and their shards.
    pub stripes: Vec<FixityStripe>,
    /// Journal entries that hold parts of it until they are sealed.
    pub journal: Vec<FixityEntry>,
    /// Why nothing better is known; empty when there is nothing to say.
    pub detail: String,
}

/// A checksum, as S3 shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChecksumLine {
    /// `CRC32`, `CRC32C`, `CRC64NVME`, `SHA1` or `SHA256`.
    pub algorithm: String,
    /// Of the bytes (`FULL_OBJECT`), or of the parts' checksums (`COMPOSITE`).
    pub kind: String,
    /// In hex.
    pub hex: String,
}

/// A stripe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixityStripe {
    /// Its id.
    pub stripe: String,
    /// How many of its shards are enough.
    pub needed: usize,
    /// All of its shards.
    pub shards: Vec<FixityShard>,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixityShard {
    /// Its index.
    pub index: u8,
    /// The drive; empty when nobody knows.
    pub drive: String,
    /// `good`, `unverified` or a finding.
    pub state: String,
    /// When it last verified from the medium; 0: not since it was written.
    pub verified_ms: u64,
}

/// A journal entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixityEntry {
    /// Its number.
    pub entry: u64,
    /// Its copies.
    pub copies: Vec<FixityCopy>,
}

/// A copy of a journal entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixityCopy {
    /// The drive; empty for a copy that is lacking.
    pub drive: String,
    /// `unverified` or a finding.
    pub state: String,
}

impl From<FixityPlace> for FixityCursor {
    fn from(place: FixityPlace) -> FixityCursor {
        FixityCursor { bucket: BucketId(place.bucket), key: place.key, seq: Lsn(place.seq) }
    }
}

impl FixityAnswer {
    /// From metadata's own.
    pub fn new(bucket: &str, page: FixityPage, began_ms: u64) -> FixityAnswer {
        FixityAnswer {
            began_ms,
            objects: page.objects.into_iter().map(|object| ObjectLine::new(bucket, object)).collect(),
            next: page.next.map(|next| FixityPlace { bucket: next.bucket.0, key: next.key, seq: next.seq.0 }),
        }
    }
}

impl ObjectLine {
    fn new(bucket: &str, object: ObjectFixity) -> ObjectLine {
        let (version, sum) = (object.version, object.sum);
        let content = version.content.unwrap_or_default();
        let journal = object.entries.iter().map(|entry| FixityEntry {
            entry: entry.lsn.0,
            copies: entry
                .copies
                .iter()
                .map(|(drive, state)| FixityCopy {
                    drive: drive.map(|drive| drive.to_string()).unwrap_or_default(),
                    state: state.name().to_owned(),
                })
                .collect(),
        });
        ObjectLine {
            bucket: bucket.to_owned(),
            key: version.key,
            version: if version.version_id.is_empty() { "null".to_owned() } else { version.version_id },
            seq: version.seq,
            modified_ms: version.modified_ms,
            size: content.size,
            content_type: version.meta.map(|meta| meta.content_type).unwrap_or_default(),
            etag: content.etag,
            random_tag: object.random_tag,
            checksums: content
                .checksums
                .iter()
                .map(|checksum| ChecksumLine {
                    algorithm: algorithm(checksum.algorithm).to_owned(),
                    kind: if checksum.composite { "COMPOSITE" } else { "FULL_OBJECT" }.to_owned(),
                    hex: hex::encode(&checksum.value),
                })
                .collect(),
            encrypted: content.encrypted,
            outcome: sum.outcome.name().to_owned(),
            slack: sum.slack,
            oldest_ms: sum.oldest_ms,
            chunks: sum.chunks,
            shards: sum.shards,
            verified: sum.verified,
            unverified: sum.unverified,
            bad: sum.bad,
            unreachable: sum.unreachable,
            unlisted: sum.unlisted,
            stripes: object.stripes.iter().map(stripe).collect(),
            journal: journal.collect(),
            detail: object.detail,
        }
    }
}

fn stripe(stripe: &StripeFixity) -> FixityStripe {
    let shard = |shard: &metadata::keep::fixity::ShardFixity| FixityShard {
        index: shard.index,
        drive: shard.drive.map(|drive| drive.to_string()).unwrap_or_default(),
        state: shard.state.name().to_owned(),
        verified_ms: shard.verified_ms,
    };
    FixityStripe {
        stripe: stripe.id.to_string(),
        needed: stripe.needed,
        shards: stripe.shards.iter().map(shard).collect(),
    }
}

fn algorithm(algorithm: i32) -> &'static str {
    match ChecksumAlgorithm::try_from(algorithm) {
        Ok(ChecksumAlgorithm::Crc32) => "CRC32",
        Ok(ChecksumAlgorithm::Crc32c) => "CRC32C",
        Ok(ChecksumAlgorithm::Crc64Nvme) => "CRC64NVME",
        Ok(ChecksumAlgorithm::Sha1) => "SHA1",
        Ok(ChecksumAlgorithm::Sha256) => "SHA256",
        // Written by a newer program: the value is still worth telling.
        Ok(ChecksumAlgorithm::Unspecified) | Err(_) => "UNKNOWN",
    }
}
