//! The actions of S3, and which of them an operation needs.
//!
//! Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3"; Amazon S3 User Guide, "Required
//! permissions for Amazon S3 API operations".

use super::context::Context;
use super::document::Only;
use super::pattern::Pattern;
use super::work::Work;

/// What an action is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Nothing in particular: the account's buckets.
    Service,
    /// A bucket: `arn:aws:s3:::bucket`.
    Bucket,
    /// An object: `arn:aws:s3:::bucket/key`.
    Object,
}

use Subject::{Bucket, Object, Service};

/// Every action that can be asked for here, or that bucket policies of tools name.
pub const ACTIONS: [(&str, Subject); 77] = [
    ("s3:AbortMultipartUpload", Object),
    ("s3:BypassGovernanceRetention", Object),
    ("s3:CreateBucket", Bucket),
    ("s3:DeleteBucket", Bucket),
    ("s3:DeleteBucketPolicy", Bucket),
    ("s3:DeleteBucketWebsite", Bucket),
    ("s3:DeleteObject", Object),
    ("s3:DeleteObjectTagging", Object),
    ("s3:DeleteObjectVersion", Object),
    ("s3:DeleteObjectVersionTagging", Object),
    ("s3:GetAccelerateConfiguration", Bucket),
    ("s3:GetAccountPublicAccessBlock", Service),
    ("s3:GetAnalyticsConfiguration", Bucket),
    ("s3:GetBucketAcl", Bucket),
    ("s3:GetBucketCORS", Bucket),
    ("s3:GetBucketLocation", Bucket),
    ("s3:GetBucketLogging", Bucket),
    ("s3:GetBucketNotification", Bucket),
    ("s3:GetBucketObjectLockConfiguration", Bucket),
    ("s3:GetBucketOwnershipControls", Bucket),
    ("s3:GetBucketPolicy", Bucket),
    ("s3:GetBucketPolicyStatus", Bucket),
    ("s3:GetBucketPublicAccessBlock", Bucket),
    ("s3:GetBucketRequestPayment", Bucket),
    ("s3:GetBucketTagging", Bucket),
    ("s3:GetBucketVersioning", Bucket),
    ("s3:GetBucketWebsite", Bucket),
    ("s3:GetEncryptionConfiguration", Bucket),
    ("s3:GetIntelligentTieringConfiguration", Bucket),
    ("s3:GetInventoryConfiguration", Bucket),
    ("s3:GetLifecycleConfiguration", Bucket),
    ("s3:GetMetricsConfiguration", Bucket),
    ("s3:GetObject", Object),
    ("s3:GetObjectAcl", Object),
    ("s3:GetObjectAttributes", Object),
    ("s3:GetObjectLegalHold", Object),
    ("s3:GetObjectRetention", Object),
    ("s3:GetObjectTagging", Object),
    ("s3:GetObjectTorrent", Object),
    ("s3:GetObjectVersion", Object),
    ("s3:GetObjectVersionAcl", Object),
    ("s3:GetObjectVersionAttributes", Object),
    ("s3:GetObjectVersionTagging", Object),
    ("s3:GetReplicationConfiguration", Bucket),
    ("s3:ListAllMyBuckets", Service),
    ("s3:ListBucket", Bucket),
    ("s3:ListBucketMultipartUploads", Bucket),
    ("s3:ListBucketVersions", Bucket),
    ("s3:ListMultipartUploadParts", Object),
    ("s3:ObjectOwnerOverrideToBucketOwner", Object),
    ("s3:PutAccelerateConfiguration", Bucket),
    ("s3:PutAnalyticsConfiguration", Bucket),
    ("s3:PutBucketAcl", Bucket),
    ("s3:PutBucketCORS", Bucket),
    ("s3:PutBucketLogging", Bucket),
    ("s3:PutBucketNotification", Bucket),
    ("s3:PutBucketObjectLockConfiguration", Bucket),
    ("s3:PutBucketOwnershipControls", Bucket),
    ("s3:PutBucketPolicy", Bucket),
    ("s3:PutBucketPublicAccessBlock", Bucket),
    ("s3:PutBucketRequestPayment", Bucket),
    ("s3:PutBucketTagging", Bucket),
    ("s3:PutBucketVersioning", Bucket),
    ("s3:PutBucketWebsite", Bucket),
    ("s3:PutEncryptionConfiguration", Bucket),
    ("s3:PutInventoryConfiguration", Bucket),
    ("s3:PutLifecycleConfiguration", Bucket),
    ("s3:PutObject", Object),
    ("s3:PutObjectAcl", Object),
    ("s3:PutObjectLegalHold", Object),
    ("s3:PutObjectRetention", Object),
    ("s3:PutObjectTagging", Object),
    ("s3:PutObjectVersionAcl", Object),
    ("s3:PutObjectVersionTagging", Object),
    ("s3:PutReplicationConfiguration", Bucket),
    ("s3:RestoreObject", Object),
    ("s3:TagResource", Bucket),
];

/// Actions of S3 that policies of other tools name, and that nothing here asks for.
const UNUSED: [&str; 15] = [
    "s3:DescribeJob",
    "s3:GetObjectVersionForReplication",
    "s3:GetObjectVersionTorrent",
    "s3:InitiateReplication",
    "s3:ListJobs",
    "s3:ListTagsForResource",
    "s3:PutAccountPublicAccessBlock",
    "s3:PutIntelligentTieringConfiguration",
    "s3:PutMetricsConfiguration",
    "s3:ReplicateDelete",
    "s3:ReplicateObject",
    "s3:ReplicateTags",
    "s3:UntagResource",
    "s3:UpdateBucketMetadataInventoryTableConfiguration",
    "s3:UpdateObjectEncryption",
];

/// Whether a pattern is, or matches, an action of S3. Actions have no case.
pub(super) fn any(pattern: &Pattern) -> bool {
    let none = Context::default();
    let is = |name: &str| pattern.matches_ignoring_case(name, &none, &Work::default()) == Some(true);
    ACTIONS.iter().any(|(name, _)| is(name)) || UNUSED.into_iter().any(is)
}

/// Whether an action is one of a statement's.
pub(super) fn is_among(actions: &Only<Pattern>, action: &str) -> bool {
    let (Only::These(patterns) | Only::AllBut(patterns)) = actions;
    let is =
        |pattern: &Pattern| pattern.matches_ignoring_case(action, &Context::default(), &Work::default()) == Some(true);
    patterns.iter().any(is) == matches!(actions, Only::These(_))
}

/// Whether a text is `service:action`, with wildcards in the action.
pub(super) fn is_well_formed(text: &str) -> bool {
    text.split_once(':').is_some_and(|(service, action)| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"*?".contains(&b);
        !service.is_empty()
            && service.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !action.is_empty()
            && action.bytes().all(known)
    })
}

/// What an action is about; `None` of an action that there is not.
pub fn subject(action: &str) -> Option<Subject> {
    ACTIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(action)).map(|&(_, subject)| subject)
}

/// What a request says that decides which actions it needs besides that of its operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// It names a version.
    pub version: bool,
    /// It sets tags: `x-amz-tagging`.
    pub tags: bool,
    /// It sets an ACL: `x-amz-acl` or `x-amz-grant-*`.
    pub acl: bool,
    /// It sets a retention.
    pub retention: bool,
    /// It sets a legal hold.
    pub hold: bool,
    /// It wants to bypass governance retention: `x-amz-bypass-governance-retention: true`.
    pub bypass: bool,
    /// It creates a bucket with Object Lock.
    pub object_lock: bool,
    /// It creates a bucket with ownership controls.
    pub ownership: bool,
}

/// The actions that an operation needs, all of them, by the operation's S3 name; empty for one that there is not: then it is refused.
/// Of CopyObject and UploadPartCopy these are the ones on the target: the source needs [`copy_source`]. DeleteObjects needs
/// its actions for each key.
pub fn of_operation(operation: &str, extras: Extras) -> Vec<&'static str> {
    let Some(first) = main_action(operation, extras.version) else { return Vec::new() };
    let writes = matches!(operation, "PutObject" | "CopyObject" | "CreateMultipartUpload" | "PostObject");
    let creates = operation == "CreateBucket";
    let bypasses = matches!(operation, "DeleteObject" | "DeleteObjects" | "PutObjectRetention");
    let more = [
        (writes && extras.tags, "s3:PutObjectTagging"),
        (writes && extras.acl, "s3:PutObjectAcl"),
        (writes && extras.retention, "s3:PutObjectRetention"),
        (writes && extras.hold, "s3:PutObjectLegalHold"),
        (bypasses && extras.bypass, "s3:BypassGovernanceRetention"),
        (creates && extras.acl, "s3:PutBucketAcl"),
        (creates && extras.object_lock, "s3:PutBucketObjectLockConfiguration"),
        (creates && extras.object_lock, "s3:PutBucketVersioning"),
        (creates && extras.ownership, "s3:PutBucketOwnershipControls"),
    ];
    let mut actions = vec![first];
    actions.extend(more.into_iter().filter(|(needed, _)| *needed).map(|(_, action)| action));
    // GetObjectAttributes needs the right to read, too.
    match (operation, extras.version) {
        ("GetObjectAttributes", false) => actions.push("s3:GetObject"),
        ("GetObjectAttributes", true) => actions.push("s3:GetObjectVersion"),
        _ => {}
    }
    actions
}

/// What a copy needs on its source.
pub fn copy_source(version: bool, copies_tags: bool) -> Vec<&'static str> {
    let mut actions = vec![if version { "s3:GetObjectVersion" } else { "s3:GetObject" }];
    if copies_tags {
        actions.push(if version { "s3:GetObjectVersionTagging" } else { "s3:GetObjectTagging" });
    }
    actions
}

fn main_action(operation: &str, version: bool) -> Option<&'static str> {
    let by_version = |current, of_version| if version { of_version } else { current };
    Some(match operation {
        "AbortMultipartUpload" => "s3:AbortMultipartUpload",
        "PutObject"
        | "CopyObject"
        | "CreateMultipartUpload"
        | "CompleteMultipartUpload"
        | "UploadPart"
        | "UploadPartCopy"
        | "PostObject" => "s3:PutObject",
        "CreateBucket" => "s3:CreateBucket",
        "DeleteBucket" => "s3:DeleteBucket",
        "DeleteBucketCors" | "PutBucketCors" => "s3:PutBucketCORS",
        "GetBucketCors" => "s3:GetBucketCORS",
        "DeleteBucketEncryption" | "PutBucketEncryption" => "s3:PutEncryptionConfiguration",
        "GetBucketEncryption" => "s3:GetEncryptionConfiguration",
        "DeleteBucketLifecycle" | "PutBucketLifecycleConfiguration" => "s3:PutLifecycleConfiguration",
        "GetBucketLifecycleConfiguration" => "s3:GetLifecycleConfiguration",
        "DeleteBucketOwnershipControls" | "PutBucketOwnershipControls" => "s3:PutBucketOwnershipControls",
        "GetBucketOwnershipControls" => "s3:GetBucketOwnershipControls",
        "DeleteBucketPolicy" => "s3:DeleteBucketPolicy",
        "PutBucketPolicy" => "s3:PutBucketPolicy",
        "GetBucketPolicy" => "s3:GetBucketPolicy",
        "GetBucketPolicyStatus" => "s3:GetBucketPolicyStatus",
        "DeleteBucketReplication" | "PutBucketReplication" => "s3:PutReplicationConfiguration",
        "GetBucketReplication" => "s3:GetReplicationConfiguration",
        "DeleteBucketTagging" | "PutBucketTagging" => "s3:PutBucketTagging",
        "GetBucketTagging" => "s3:GetBucketTagging",
        "DeleteBucketWebsite" => "s3:DeleteBucketWebsite",
        "PutBucketWebsite" => "s3:PutBucketWebsite",
        "GetBucketWebsite" => "s3:GetBucketWebsite",
        "DeletePublicAccessBlock" | "PutPublicAccessBlock" => "s3:PutBucketPublicAccessBlock",
        "GetPublicAccessBlock" => "s3:GetBucketPublicAccessBlock",
        "DeleteObject" | "DeleteObjects" => by_version("s3:DeleteObject", "s3:DeleteObjectVersion"),
        "DeleteObjectTagging" => by_version("s3:DeleteObjectTagging", "s3:DeleteObjectVersionTagging"),
        "PutObjectTagging" => by_version("s3:PutObjectTagging", "s3:PutObjectVersionTagging"),
        "GetObjectTagging" => by_version("s3:GetObjectTagging", "s3:GetObjectVersionTagging"),
        "GetBucketAccelerateConfiguration" => "s3:GetAccelerateConfiguration",
        "PutBucketAccelerateConfiguration" => "s3:PutAccelerateConfiguration",
        "GetBucketAcl" => "s3:GetBucketAcl",
        "PutBucketAcl" => "s3:PutBucketAcl",
        "GetBucketInventoryConfiguration" | "ListBucketInventoryConfigurations" => "s3:GetInventoryConfiguration",
        "PutBucketInventoryConfiguration" | "DeleteBucketInventoryConfiguration" => "s3:PutInventoryConfiguration",
        "GetBucketLocation" => "s3:GetBucketLocation",
        "GetBucketLogging" => "s3:GetBucketLogging",
        "PutBucketLogging" => "s3:PutBucketLogging",
        "GetBucketNotificationConfiguration" => "s3:GetBucketNotification",
        "PutBucketNotificationConfiguration" => "s3:PutBucketNotification",
        "GetBucketRequestPayment" => "s3:GetBucketRequestPayment",
        "PutBucketRequestPayment" => "s3:PutBucketRequestPayment",
        "GetBucketVersioning" => "s3:GetBucketVersioning",
        "PutBucketVersioning" => "s3:PutBucketVersioning",
        "GetObject" | "HeadObject" | "SelectObjectContent" => by_version("s3:GetObject", "s3:GetObjectVersion"),
        "GetObjectAcl" => by_version("s3:GetObjectAcl", "s3:GetObjectVersionAcl"),
        "PutObjectAcl" => by_version("s3:PutObjectAcl", "s3:PutObjectVersionAcl"),
        "GetObjectAttributes" => by_version("s3:GetObjectAttributes", "s3:GetObjectVersionAttributes"),
        "GetObjectLegalHold" => "s3:GetObjectLegalHold",
        "PutObjectLegalHold" => "s3:PutObjectLegalHold",
        "GetObjectLockConfiguration" => "s3:GetBucketObjectLockConfiguration",
        "PutObjectLockConfiguration" => "s3:PutBucketObjectLockConfiguration",
        "GetObjectRetention" => "s3:GetObjectRetention",
        "PutObjectRetention" => "s3:PutObjectRetention",
        "GetObjectTorrent" => "s3:GetObjectTorrent",
        "HeadBucket" | "ListObjects" | "ListObjectsV2" => "s3:ListBucket",
        "ListObjectVersions" => "s3:ListBucketVersions",
        "ListMultipartUploads" => "s3:ListBucketMultipartUploads",
        "ListParts" => "s3:ListMultipartUploadParts",
        "ListBuckets" => "s3:ListAllMyBuckets",
        "RestoreObject" => "s3:RestoreObject",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_complete() {
        assert!(ACTIONS.is_sorted_by(|a, b| a.0 < b.0));
        for operation in ["PutObject", "DeleteObjects", "ListBuckets", "GetObjectAttributes", "CreateBucket"] {
            let all = Extras {
                version: true,
                tags: true,
                acl: true,
                retention: true,
                hold: true,
                bypass: true,
                object_lock: true,
                ownership: true,
            };
            let actions = of_operation(operation, all);
            assert!(!actions.is_empty() && actions.iter().all(|action| subject(action).is_some()), "{operation}");
        }
    }

    #[test]
    fn operations() {
        let none = Extras::default();
        assert_eq!(of_operation("HeadObject", none), ["s3:GetObject"]);
        assert_eq!(of_operation("GetObject", Extras { version: true, ..none }), ["s3:GetObjectVersion"]);
        assert_eq!(
            of_operation("PutObject", Extras { tags: true, acl: true, ..none }),
            ["s3:PutObject", "s3:PutObjectTagging", "s3:PutObjectAcl"]
        );
        assert_eq!(
            of_operation("DeleteObject", Extras { version: true, bypass: true, ..none }),
            ["s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"]
        );
        assert_eq!(of_operation("GetObjectAttributes", none), ["s3:GetObjectAttributes", "s3:GetObject"]);
        assert!(of_operation("CreateSession", none).is_empty());
        assert_eq!(copy_source(true, true), ["s3:GetObjectVersion", "s3:GetObjectVersionTagging"]);
    }

    #[test]
    fn texts_of_actions() {
        assert!(is_well_formed("s3:Get*") && is_well_formed("kms:Decrypt"));
        for bad in ["", "s3", "s3:", ":x", "s*:x", "s3:a b", "s3:a:b"] {
            assert!(!is_well_formed(bad), "{bad}");
        }
        assert_eq!(subject("S3:getobject"), Some(Subject::Object));
        assert!(UNUSED.iter().all(|name| subject(name).is_none()), "each in one list");
    }
}
