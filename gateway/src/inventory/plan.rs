//! What an inventory is asked to be, understood.

use crate::protect::Protection;
use crate::s3::{encryption, error};
use s3s::dto::{InventoryConfiguration, InventoryEncryption};
use s3s::{S3Result, s3_error};

/// Longest prefix of the destination, in bytes: the rest of the key has room behind it.
const MAX_PREFIX: usize = 512;
/// Longest id, in bytes.
const MAX_ID: usize = 64;
/// How a bucket is named in a destination.
const ARN: &str = "arn:aws:s3:::";

/// How often there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Each day.
    Daily,
    /// Each Sunday.
    Weekly,
}

/// A field that a row has only if it is asked for. In the order in which S3 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// Bytes.
    Size,
    /// When it was put.
    LastModified,
    /// The entity tag.
    ETag,
    /// The storage class.
    StorageClass,
    /// It came in parts.
    Multipart,
    /// How it is protected.
    Encryption,
    /// Until when a lock keeps it.
    RetainUntil,
    /// How strictly.
    LockMode,
    /// A legal hold.
    LegalHold,
    /// Which checksums it has.
    Checksum,
    /// Whose it is.
    Owner,
}

impl Field {
    /// The name that configurations and manifests have for it.
    pub fn name(self) -> &'static str {
        match self {
            Field::Size => "Size",
            Field::LastModified => "LastModifiedDate",
            Field::ETag => "ETag",
            Field::StorageClass => "StorageClass",
            Field::Multipart => "IsMultipartUploaded",
            Field::Encryption => "EncryptionStatus",
            Field::RetainUntil => "ObjectLockRetainUntilDate",
            Field::LockMode => "ObjectLockMode",
            Field::LegalHold => "ObjectLockLegalHoldStatus",
            Field::Checksum => "ChecksumAlgorithm",
            Field::Owner => "ObjectOwner",
        }
    }

    const ALL: [Field; 11] = [
        Field::Size,
        Field::LastModified,
        Field::ETag,
        Field::StorageClass,
        Field::Multipart,
        Field::Encryption,
        Field::RetainUntil,
        Field::LockMode,
        Field::LegalHold,
        Field::Checksum,
        Field::Owner,
    ];

    /// Fields of S3 that nothing is known about here.
    const LACKING: [&'static str; 5] = [
        "ReplicationStatus",
        "IntelligentTieringAccessTier",
        "BucketKeyStatus",
        "ObjectAccessControlList",
        "LifecycleExpirationDate",
    ];
}

/// An inventory.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name in its bucket.
    pub id: String,
    /// It is made.
    pub enabled: bool,
    /// The bucket that it is put into.
    pub bucket: String,
    /// What keys there begin with; may be empty.
    pub prefix: String,
    /// The account whose bucket that must be.
    pub account: Option<String>,
    /// How it is protected; `None`: as that bucket's default says.
    pub protection: Option<Protection>,
    /// Only keys that begin so.
    pub filter: String,
    /// All versions and delete markers, and not the current ones alone.
    pub all_versions: bool,
    /// How often.
    pub schedule: Schedule,
    /// What a row has, in S3's order.
    pub fields: Vec<Field>,
}

impl Plan {
    /// What a configuration asks for. What can't be given is refused.
    pub fn of(asked: &InventoryConfiguration) -> S3Result<Plan> {
        let to = &asked.destination.s3_bucket_destination;
        match to.format.as_str() {
            "CSV" => {}
            format @ ("ORC" | "Parquet") => {
                return Err(error::not_implemented(&format!("The inventory format {format}")));
            }
            _ => return Err(s3_error!(MalformedXML)),
        }
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if asked.id.is_empty() || asked.id.len() > MAX_ID || !asked.id.bytes().all(good) {
            return Err(s3_error!(
                InvalidArgument,
                "The inventory's id must be 1 to 64 letters, digits, '-', '_' and '.'."
            ));
        }
        let bucket = to.bucket.strip_prefix(ARN).filter(|name| !name.is_empty() && !name.contains('/'));
        let bucket =
            bucket.ok_or_else(|| s3_error!(InvalidArgument, "The destination must be the ARN of a bucket."))?;
        let (prefix, filter) = (to.prefix.clone().unwrap_or_default(), asked.filter.as_ref());
        if prefix.len() > MAX_PREFIX || prefix.chars().any(char::is_control) {
            return Err(s3_error!(InvalidArgument, "The destination's prefix is too long, or has control characters."));
        }
        Ok(Plan {
            id: asked.id.clone(),
            enabled: asked.is_enabled,
            bucket: bucket.to_owned(),
            prefix,
            account: to.account_id.clone(),
            protection: protection(to.encryption.as_ref())?,
            filter: filter.map(|filter| filter.prefix.clone()).unwrap_or_default(),
            all_versions: match asked.included_object_versions.as_str() {
                "All" => true,
                "Current" => false,
                _ => return Err(s3_error!(MalformedXML)),
            },
            schedule: match asked.schedule.frequency.as_str() {
                "Daily" => Schedule::Daily,
                "Weekly" => Schedule::Weekly,
                _ => return Err(s3_error!(MalformedXML)),
            },
            fields: fields(asked)?,
        })
    }

    /// What all its keys begin with.
    pub fn directory(&self, source: &str) -> String {
        let slash = if self.prefix.is_empty() || self.prefix.ends_with('/') { "" } else { "/" };
        format!("{}{slash}{source}/{}", self.prefix, self.id)
    }

    /// The names of a row's columns.
    pub fn schema(&self) -> String {
        let mut names = vec!["Bucket", "Key"];
        if self.all_versions {
            names.extend(["VersionId", "IsLatest", "IsDeleteMarker"]);
        }
        names.extend(self.fields.iter().map(|field| field.name()));
        names.join(", ")
    }

    /// The number of the day or week that a day (counted from the Unix epoch, a Thursday) is in.
    pub fn period(&self, day: u64) -> u64 {
        match self.schedule {
            Schedule::Daily => day,
            Schedule::Weekly => (day + 4) / 7,
        }
    }
}

fn protection(asked: Option<&InventoryEncryption>) -> S3Result<Option<Protection>> {
    match asked.map(|asked| (&asked.sses3, &asked.ssekms)) {
        None => Ok(None),
        Some((Some(_), None)) => Ok(Some(Protection::Managed)),
        Some((None, Some(kms))) => encryption::default_asked("aws:kms", Some(&kms.key_id), "").map(Some),
        Some(_) => Err(s3_error!(MalformedXML)),
    }
}

fn fields(asked: &InventoryConfiguration) -> S3Result<Vec<Field>> {
    let mut fields = Vec::new();
    for name in asked.optional_fields.iter().flatten() {
        match Field::ALL.into_iter().find(|field| field.name() == name.as_str()) {
            Some(field) => fields.push(field),
            None if Field::LACKING.contains(&name.as_str()) => {
                return Err(error::not_implemented(&format!("The inventory field {}", name.as_str())));
            }
            None => return Err(s3_error!(MalformedXML)),
        }
    }
    fields.sort_unstable();
    fields.dedup();
    Ok(fields)
}
