//! What of the S3 API there is: every operation, and every request header and query parameter that could ask for something.
//!
//! Invariants:
//! * [`OPERATIONS`] is what [`crate::auth`] lets through, and `super::service` implements exactly what it calls supported: a test
//!   compares them. [`HEADERS`] is what `super::request::refuse_headers` goes by, [`QUERY`] what `refuse_query` goes by. So
//!   docs/S3.md, which is written from these tables, says what happens.
//! * A header that asks for a protection is honoured or refused, never ignored: the families of such headers end with a line for the
//!   names that nobody knows yet. Who implements what a line refuses changes the line in the same commit, and has docs/S3.md
//!   written again ([`page`]).

pub mod page;

use super::{encryption, error, list, request};
use s3s::S3Result;

/// Whether an operation is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// `super::service` has it.
    Supported,
    /// It is there, and not through `s3s`: requests of it never come to the service.
    Elsewhere,
    /// Refused with 501 NotImplemented, before a byte of its body is read.
    Refused,
}

/// An operation of S3, by the name that S3 gives it.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name, as `s3s` writes it.
    pub name: &'static str,
    /// Whether it is there.
    pub support: Support,
    /// What a client should know of it; may be empty.
    pub note: &'static str,
}

const fn has(name: &'static str, note: &'static str) -> Operation {
    Operation { name, support: Support::Supported, note }
}

const fn lacks(name: &'static str) -> Operation {
    Operation { name, support: Support::Refused, note: "" }
}

/// What becomes of a request header.
#[derive(Clone, Copy, Debug)]
pub enum Asks {
    /// It is honoured. The words say what about it is special; mostly nothing.
    Read(&'static str),
    /// It is honoured, or refused by this function.
    Checked(fn(&str) -> S3Result<()>, &'static str),
    /// Refused with 501 NotImplemented unless its value is one of these (in any case), which ask for what is given anyway.
    Only(&'static [&'static str], &'static str),
    /// Refused with 501 NotImplemented. The words say what was asked for.
    Refused(&'static str),
    /// Nothing is done about it, because of this.
    Ignored(&'static str),
}

/// A request header, or, with `*` at its end, all of that beginning that no other line names.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// In lower case.
    pub name: &'static str,
    /// What becomes of it.
    pub asks: Asks,
}

const fn header(name: &'static str, asks: Asks) -> Header {
    Header { name, asks }
}

/// Every operation of S3, sorted by name.
pub const OPERATIONS: &[Operation] = &[
    has("AbortMultipartUpload", ""),
    has("CompleteMultipartUpload", "the same completion may come again"),
    has("CopyObject", ""),
    has("CreateBucket", "tags need `s3:TagResource` and `s3:PutBucketTagging`"),
    lacks("CreateBucketMetadataConfiguration"),
    lacks("CreateBucketMetadataTableConfiguration"),
    has("CreateMultipartUpload", ""),
    lacks("CreateSession"),
    has("DeleteBucket", ""),
    lacks("DeleteBucketAnalyticsConfiguration"),
    has("DeleteBucketCors", ""),
    has("DeleteBucketEncryption", ""),
    lacks("DeleteBucketIntelligentTieringConfiguration"),
    has("DeleteBucketInventoryConfiguration", ""),
    has("DeleteBucketLifecycle", ""),
    lacks("DeleteBucketMetadataConfiguration"),
    lacks("DeleteBucketMetadataTableConfiguration"),
    lacks("DeleteBucketMetricsConfiguration"),
    has("DeleteBucketOwnershipControls", ""),
    has("DeleteBucketPolicy", ""),
    lacks("DeleteBucketReplication"),
    has("DeleteBucketTagging", ""),
    lacks("DeleteBucketWebsite"),
    has("DeleteObject", ""),
    lacks("DeleteObjectAnnotation"),
    has("DeleteObjectTagging", ""),
    has("DeleteObjects", ""),
    has("DeletePublicAccessBlock", ""),
    lacks("GetBucketAbac"),
    has("GetBucketAccelerateConfiguration", "no bucket has it"),
    has("GetBucketAcl", ""),
    lacks("GetBucketAnalyticsConfiguration"),
    has("GetBucketCors", ""),
    has("GetBucketEncryption", ""),
    lacks("GetBucketIntelligentTieringConfiguration"),
    has("GetBucketInventoryConfiguration", ""),
    has("GetBucketLifecycleConfiguration", ""),
    has("GetBucketLocation", ""),
    has("GetBucketLogging", ""),
    lacks("GetBucketMetadataConfiguration"),
    lacks("GetBucketMetadataTableConfiguration"),
    lacks("GetBucketMetricsConfiguration"),
    has("GetBucketNotificationConfiguration", ""),
    has("GetBucketOwnershipControls", ""),
    has("GetBucketPolicy", ""),
    has("GetBucketPolicyStatus", "public by its policy or its list; 200 without a policy"),
    has("GetBucketReplication", "no bucket has it: `stele replication` is set by the operator"),
    has("GetBucketRequestPayment", "it is always the bucket's owner"),
    has("GetBucketTagging", ""),
    has("GetBucketVersioning", ""),
    has("GetBucketWebsite", "no bucket has it"),
    has("GetObject", ""),
    has("GetObjectAcl", ""),
    lacks("GetObjectAnnotation"),
    has("GetObjectAttributes", ""),
    has("GetObjectLegalHold", ""),
    has("GetObjectLockConfiguration", ""),
    has("GetObjectRetention", ""),
    has("GetObjectTagging", ""),
    lacks("GetObjectTorrent"),
    has("GetPublicAccessBlock", ""),
    has("HeadBucket", ""),
    has("HeadObject", ""),
    lacks("ListBucketAnalyticsConfigurations"),
    lacks("ListBucketIntelligentTieringConfigurations"),
    has("ListBucketInventoryConfigurations", ""),
    lacks("ListBucketMetricsConfigurations"),
    has("ListBuckets", ""),
    lacks("ListDirectoryBuckets"),
    has("ListMultipartUploads", ""),
    lacks("ListObjectAnnotations"),
    has("ListObjectVersions", ""),
    has("ListObjects", ""),
    has("ListObjectsV2", ""),
    has("ListParts", ""),
    lacks("ListenBucketNotification"),
    Operation { name: "PostObject", support: Support::Elsewhere, note: "signed with version 4, or anonymous" },
    lacks("PutBucketAbac"),
    lacks("PutBucketAccelerateConfiguration"),
    has("PutBucketAcl", ""),
    lacks("PutBucketAnalyticsConfiguration"),
    has("PutBucketCors", ""),
    has("PutBucketEncryption", "`BucketKeyEnabled` is not kept: the key store is asked once for many objects anyway"),
    lacks("PutBucketIntelligentTieringConfiguration"),
    has("PutBucketInventoryConfiguration", "CSV only"),
    has("PutBucketLifecycleConfiguration", "versions move to `GLACIER` and `DEEP_ARCHIVE`"),
    has("PutBucketLogging", "into a bucket whose policy lets `logging.s3.amazonaws.com` in; no TargetGrants"),
    lacks("PutBucketMetricsConfiguration"),
    has(
        "PutBucketNotificationConfiguration",
        "to webhooks that the operator configured: `arn:stele:webhook:::NAME` as a queue",
    ),
    has("PutBucketOwnershipControls", ""),
    has("PutBucketPolicy", ""),
    lacks("PutBucketReplication"),
    has("PutBucketRequestPayment", "only `BucketOwner`; `Requester` is NotImplemented"),
    has("PutBucketTagging", ""),
    has("PutBucketVersioning", "without MFA delete"),
    lacks("PutBucketWebsite"),
    has("PutObject", ""),
    has("PutObjectAcl", ""),
    lacks("PutObjectAnnotation"),
    has("PutObjectLegalHold", ""),
    has("PutObjectLockConfiguration", ""),
    has("PutObjectRetention", ""),
    has("PutObjectTagging", ""),
    has("PutPublicAccessBlock", ""),
    lacks("RenameObject"),
    has("RestoreObject", "tiers are all the same: the next round of the leader finishes it"),
    lacks("SelectObjectContent"),
    lacks("UpdateBucketMetadataAnnotationTableConfiguration"),
    lacks("UpdateBucketMetadataInventoryTableConfiguration"),
    lacks("UpdateBucketMetadataJournalTableConfiguration"),
    lacks("UpdateObjectEncryption"),
    has("UploadPart", ""),
    has("UploadPartCopy", ""),
    lacks("WriteGetObjectResponse"),
];

/// The `x-amz-*` headers of requests, sorted by name. The first line that fits counts; those with `*` are the last of theirs.
pub const HEADERS: &[Header] = &[
    header("x-amz-acl", Asks::Read("")),
    header("x-amz-bucket-namespace", Asks::Only(&["global"], "This bucket namespace")),
    header("x-amz-bucket-object-lock-enabled", Asks::Read("")),
    header("x-amz-bucket-object-lock-token", Asks::Refused("Object lock")),
    header("x-amz-bypass-governance-retention", Asks::Read("counts for who has `s3:BypassGovernanceRetention`")),
    header("x-amz-checksum-algorithm", Asks::Checked(request::check_algorithm, "those of `x-amz-checksum-*`")),
    header("x-amz-checksum-crc32", Asks::Read("")),
    header("x-amz-checksum-crc32c", Asks::Read("")),
    header("x-amz-checksum-crc64nvme", Asks::Read("")),
    header("x-amz-checksum-mode", Asks::Read("")),
    header("x-amz-checksum-sha1", Asks::Read("")),
    header("x-amz-checksum-sha256", Asks::Read("")),
    header("x-amz-checksum-type", Asks::Read("`COMPOSITE` or `FULL_OBJECT`, as S3 allows them for the algorithm")),
    header("x-amz-checksum-*", Asks::Refused("This checksum algorithm")),
    header("x-amz-confirm-remove-self-bucket-access", Asks::Read("")),
    header("x-amz-content-sha256", Asks::Read("every form that SigV4 has, chunked and with trailers")),
    header("x-amz-copy-source", Asks::Read("")),
    header("x-amz-copy-source-if-*", Asks::Read("")),
    header("x-amz-copy-source-range", Asks::Read("of UploadPartCopy")),
    header("x-amz-copy-source-server-side-encryption-customer-algorithm", Asks::Read("`AES256`")),
    header("x-amz-copy-source-server-side-encryption-customer-key", Asks::Read("")),
    header("x-amz-copy-source-server-side-encryption-customer-key-md5", Asks::Read("")),
    header("x-amz-copy-source-server-side-encryption-customer-*", Asks::Refused(SSE_C)),
    header("x-amz-date", Asks::Read("")),
    header("x-amz-decoded-content-length", Asks::Read("")),
    header("x-amz-expected-bucket-owner", Asks::Read("also in the query")),
    header("x-amz-grant-full-control", Asks::Read("")),
    header("x-amz-grant-read", Asks::Read("")),
    header("x-amz-grant-read-acp", Asks::Read("")),
    header("x-amz-grant-write", Asks::Read("")),
    header("x-amz-grant-write-acp", Asks::Read("")),
    header("x-amz-grant-*", Asks::Refused("This grant")),
    header("x-amz-if-match-*", Asks::Read("where S3 has it, 501 NotImplemented elsewhere")),
    header("x-amz-max-parts", Asks::Read("")),
    header("x-amz-meta-*", Asks::Read("2 KiB of names and values")),
    header("x-amz-metadata-directive", Asks::Read("")),
    header("x-amz-mfa", Asks::Refused("MFA delete")),
    header("x-amz-mp-object-size", Asks::Read("")),
    header("x-amz-object-attributes", Asks::Read("")),
    header("x-amz-object-lock-legal-hold", Asks::Read("")),
    header("x-amz-object-lock-mode", Asks::Read("")),
    header("x-amz-object-lock-retain-until-date", Asks::Read("")),
    header("x-amz-object-lock-*", Asks::Refused("Object lock")),
    header("x-amz-object-ownership", Asks::Read("")),
    header("x-amz-optional-object-attributes", Asks::Checked(list::check_optional, "`RestoreStatus`, of listings")),
    header("x-amz-part-number-marker", Asks::Read("")),
    header("x-amz-request-payer", Asks::Ignored("nobody pays")),
    header("x-amz-sdk-checksum-algorithm", Asks::Read("")),
    header("x-amz-security-token", Asks::Read("the token of temporary credentials")),
    header("x-amz-server-side-encryption", Asks::Checked(encryption::check_method, "`AES256`, `aws:kms`")),
    header("x-amz-server-side-encryption-aws-kms-key-id", Asks::Read("a key of the key store, by its name or ARN")),
    header(
        "x-amz-server-side-encryption-bucket-key-enabled",
        Asks::Ignored("the key store is asked once for many objects"),
    ),
    header("x-amz-server-side-encryption-customer-algorithm", Asks::Read("`AES256`")),
    header("x-amz-server-side-encryption-customer-key", Asks::Read("")),
    header("x-amz-server-side-encryption-customer-key-md5", Asks::Read("")),
    header("x-amz-server-side-encryption-customer-*", Asks::Refused(SSE_C)),
    header("x-amz-server-side-encryption-*", Asks::Refused(KMS)),
    header("x-amz-skip-destination-validation", Asks::Ignored("there is no destination")),
    header("x-amz-source-expected-bucket-owner", Asks::Read("")),
    header(
        "x-amz-storage-class",
        Asks::Read("a label, but `GLACIER` and `DEEP_ARCHIVE`: these are read after a restore"),
    ),
    header("x-amz-tagging", Asks::Read("")),
    header("x-amz-tagging-directive", Asks::Read("")),
    header("x-amz-trailer", Asks::Read("one `x-amz-checksum-*`")),
    header(
        "x-amz-transition-default-minimum-object-size",
        Asks::Read("`all_storage_classes_128K` or `varies_by_storage_class`, the default"),
    ),
    header("x-amz-website-redirect-location", Asks::Read("kept and given back")),
    header("x-amz-write-offset-bytes", Asks::Refused("Appending to an object")),
    header("x-amz-*", Asks::Ignored("no header of this name protects anything")),
];

const SSE_C: &str = "Encryption with a key of the client (SSE-C)";
const KMS: &str = "Encryption with KMS";

/// `x-amz-*` parameters of a query that are read, or that ask for nothing that could be missed. Every other one is refused: only headers
/// are read here. Those that SDKs move there when they presign have become headers before ([`crate::server`], `hoisted`).
pub const QUERY: &[&str] = &[
    "x-amz-acl",
    "x-amz-algorithm",
    "x-amz-checksum-mode",
    "x-amz-content-sha256",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expected-bucket-owner",
    "x-amz-expires",
    "x-amz-optional-object-attributes",
    "x-amz-request-payer",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-signedheaders",
    "x-amz-user-agent",
];

/// Names of the operations that [`crate::auth`] lets through.
pub fn supported() -> impl Iterator<Item = &'static str> {
    OPERATIONS.iter().filter(|o| o.support == Support::Supported).map(|o| o.name)
}

/// Whether [`crate::auth`] lets requests of this operation through.
pub fn is_supported(operation: &str) -> bool {
    supported().any(|name| name == operation)
}

/// What becomes of the header `name` (in lower case); `None` for one that does not begin with `x-amz-`.
pub fn asks(name: &str) -> Option<Asks> {
    let fits = |line: &&Header| match line.name.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => line.name == name,
    };
    HEADERS.iter().find(fits).map(|line| line.asks)
}

/// Refuses the header `name` with this value if it asks for what is not given.
pub fn check_header(name: &str, value: &str) -> S3Result<()> {
    match asks(name) {
        Some(Asks::Refused(what)) => Err(error::not_implemented(what)),
        Some(Asks::Only(values, what)) if !values.iter().any(|given| given.eq_ignore_ascii_case(value)) => {
            Err(error::not_implemented(what))
        }
        Some(Asks::Checked(check, _)) => check(value),
        Some(Asks::Read(_) | Asks::Only(..) | Asks::Ignored(_)) => Ok(()),
        None => Ok(()),
    }
}

/// Refuses the query parameter `name` (in lower case) if nobody reads it.
pub fn check_parameter(name: &str, value: &str) -> S3Result<()> {
    if !name.starts_with("x-amz-") {
        return Ok(());
    }
    check_header(name, value)?;
    if QUERY.contains(&name) {
        return Ok(());
    }
    Err(error::not_implemented(
        "An x-amz- parameter in the query of a request that is not signed there (send it as a signed header)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_say_everything_once() {
        assert!(OPERATIONS.windows(2).all(|two| two[0].name < two[1].name));
        assert!(QUERY.windows(2).all(|two| two[0] < two[1]));
        for (n, line) in HEADERS.iter().enumerate() {
            let reached = HEADERS.iter().position(|earlier| match earlier.name.strip_suffix('*') {
                Some(beginning) => line.name.starts_with(beginning),
                None => earlier.name == line.name,
            });
            assert_eq!(reached, Some(n), "{} is decided by an earlier line", line.name);
        }
    }

    /// A name that only the next client knows must not be taken for nothing when it belongs to a family that protects.
    #[test]
    fn unknown_members_of_a_protecting_family_are_refused() {
        for name in [
            "x-amz-server-side-encryption-customer-key-next",
            "x-amz-server-side-encryption-next",
            "x-amz-copy-source-server-side-encryption-customer-next",
            "x-amz-object-lock-next",
            "x-amz-grant-next",
            "x-amz-checksum-next",
        ] {
            let refused = check_header(name, "x").expect_err(name);
            assert_eq!(refused.code().as_str(), "NotImplemented", "{name}");
        }
        assert!(check_header("x-amz-meta-server-side-encryption", "x").is_ok());
    }
}
