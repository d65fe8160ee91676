//! Which condition keys an action has.
//!
//! Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3"; IAM User Guide, "AWS global
//! condition context keys". Listings of uploads have the keys of listings besides: they have the parameters.
//!
//! Invariants:
//! * A request has a key only if its action has it: what else it says fulfils no condition. Otherwise whoever asks could choose under
//!   which conditions he is judged.
//! * Names are in lower case; one that ends in a slash is the beginning of one.

/// Keys of every request of S3.
const OF_ALL: &[&str] = &[
    "s3:authtype",
    "s3:resourceaccount",
    "s3:signatureage",
    "s3:signatureversion",
    "s3:tlsversion",
    "s3:x-amz-content-sha256",
];

/// Keys of S3 that no request has here, because there is nothing like it: access points, access grants, batch jobs and pauses of
/// replication. Those that would be true of something here and are not found out are none of these, and refused: tags of buckets and
/// fields of inventories.
const OF_NONE: &[&str] = &[
    "s3:accessgrantsinstancearn",
    "s3:accesspointnetworkorigin",
    "s3:accesspointtag/",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
    "s3:destinationregion",
    "s3:existingjoboperation",
    "s3:existingjobpriority",
    "s3:isreplicationpauserequest",
    "s3:jobsuspendedcause",
    "s3:requestjoboperation",
    "s3:requestjobpriority",
];

/// The tags of the object that is there.
const EXISTING_TAGS: &[&str] = &["s3:existingobjecttag/"];
const VERSION: &[&str] = &["s3:versionid"];
const NEW_TAGS: &[&str] = &["s3:requestobjecttag/", "s3:requestobjecttagkeys"];
const LISTS: &[&str] = &["s3:delimiter", "s3:max-keys", "s3:prefix"];
const ACL: &[&str] = &[
    "s3:x-amz-acl",
    "s3:x-amz-grant-full-control",
    "s3:x-amz-grant-read",
    "s3:x-amz-grant-read-acp",
    "s3:x-amz-grant-write",
    "s3:x-amz-grant-write-acp",
];
const RETENTION: &[&str] =
    &["s3:object-lock-mode", "s3:object-lock-remaining-retention-days", "s3:object-lock-retain-until-date"];
const HOLD: &[&str] = &["s3:object-lock-legal-hold"];
const IF_MATCH: &[&str] = &["s3:if-match"];
const NEW_OBJECT: &[&str] = &[
    "s3:if-none-match",
    "s3:objectcreationoperation",
    "s3:x-amz-copy-source",
    "s3:x-amz-metadata-directive",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:x-amz-server-side-encryption-customer-algorithm",
    "s3:x-amz-storage-class",
    "s3:x-amz-website-redirect-location",
];
const OWNERSHIP: &[&str] = &["s3:x-amz-object-ownership"];
const PLACE: &[&str] = &["s3:locationconstraint"];

/// Keys of AWS that requests have here, and those whose absence says the truth: there are no organisations, no virtual networks, no
/// second factors, no tags of principals, no federation and no services of AWS that ask with the role of a function or a machine.
const OF_AWS: &[&str] = &[
    "aws:assumedroot",
    "aws:calledvia",
    "aws:calledviafirst",
    "aws:calledvialast",
    "aws:chatbotsourcearn",
    "aws:currenttime",
    "aws:ec2instancesourceprivateipv4",
    "aws:ec2instancesourcevpc",
    "aws:epochtime",
    "aws:federatedprovider",
    "aws:multifactorauthage",
    "aws:multifactorauthpresent",
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalisawsservice",
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:principalservicename",
    "aws:principalservicenameslist",
    "aws:principaltag/",
    "aws:principaltype",
    "aws:referer",
    "aws:requestedregion",
    "aws:resourceaccount",
    "aws:resourceorgid",
    "aws:resourceorgpaths",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceidentity",
    "aws:sourceip",
    "aws:sourceorgid",
    "aws:sourceorgpaths",
    "aws:sourceowner",
    "aws:sourcevpc",
    "aws:sourcevpcarn",
    "aws:sourcevpce",
    "aws:tokenissuetime",
    "aws:useragent",
    "aws:userid",
    "aws:username",
    "aws:viaawsservice",
    "aws:vpceaccount",
    "aws:vpceorgid",
    "aws:vpceorgpaths",
    "aws:vpcsourceip",
    "ec2:roledelivery",
    "ec2:sourceinstancearn",
    "glue:credentialissuingservice",
    "glue:roleassumedby",
    "identitystore:userid",
    "lambda:sourcefunctionarn",
    "ssm:sourceinstancearn",
];

/// The keys of an action of S3, besides those that all have.
fn of_action(action: &str) -> &'static [&'static [&'static str]] {
    match action {
        "s3:CreateBucket" => &[ACL, OWNERSHIP, PLACE],
        "s3:PutBucketAcl" => &[ACL],
        "s3:PutBucketOwnershipControls" => &[OWNERSHIP],
        "s3:ListBucket" | "s3:ListBucketVersions" | "s3:ListBucketMultipartUploads" => &[LISTS],
        "s3:PutObject" => &[ACL, HOLD, IF_MATCH, NEW_OBJECT, NEW_TAGS, RETENTION],
        "s3:BypassGovernanceRetention" => &[HOLD, RETENTION],
        "s3:DeleteObject" => &[IF_MATCH],
        "s3:DeleteObjectVersion" => &[IF_MATCH, VERSION],
        "s3:GetObject" | "s3:GetObjectAcl" | "s3:GetObjectAttributes" | "s3:GetObjectTagging" => &[EXISTING_TAGS],
        "s3:GetObjectVersion"
        | "s3:GetObjectVersionAcl"
        | "s3:GetObjectVersionAttributes"
        | "s3:GetObjectVersionTagging" => &[EXISTING_TAGS, VERSION],
        "s3:DeleteObjectTagging" => &[EXISTING_TAGS],
        "s3:DeleteObjectVersionTagging" => &[EXISTING_TAGS, VERSION],
        "s3:PutObjectAcl" => &[ACL, EXISTING_TAGS],
        "s3:PutObjectVersionAcl" => &[ACL, EXISTING_TAGS, VERSION],
        "s3:PutObjectTagging" => &[EXISTING_TAGS, NEW_TAGS],
        "s3:PutObjectVersionTagging" => &[EXISTING_TAGS, NEW_TAGS, VERSION],
        "s3:PutObjectRetention" => &[RETENTION],
        "s3:PutObjectLegalHold" => &[HOLD],
        _ => &[],
    }
}

fn is_in(key: &str, names: &[&str]) -> bool {
    let is = |name: &&str| match name.ends_with('/') {
        true => key.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)) && key.len() > name.len(),
        false => key.eq_ignore_ascii_case(name),
    };
    names.iter().any(is)
}

/// Whether requests for an action of S3, spelled as in [`super::action::ACTIONS`], may have a key.
pub fn has(action: &str, key: &str) -> bool {
    is_in(key, OF_ALL) || is_in(key, OF_NONE) || of_action(action).iter().any(|names| is_in(key, names))
}

/// Whether decisions for an action of S3 look at the tags of the object that is there.
pub fn has_existing_tags(action: &str) -> bool {
    of_action(action).contains(&EXISTING_TAGS)
}

/// Whether a key is one of AWS's that say of any request who, when, whence or by whom it is.
pub fn is_global(key: &str) -> bool {
    is_in(key, OF_AWS)
}

/// Whether any action of S3 has a key.
pub fn is_of_s3(key: &str) -> bool {
    super::action::ACTIONS.iter().any(|(action, _)| has(action, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::action::ACTIONS;

    #[test]
    fn keys_of_actions() {
        assert!(has("s3:ListBucket", "s3:Prefix") && !has("s3:GetObject", "s3:prefix"));
        assert!(has("s3:PutObject", "s3:RequestObjectTag/a") && !has("s3:PutObject", "s3:RequestObjectTag/"));
        assert!(has("s3:GetObject", "s3:ExistingObjectTag/a") && !has("s3:DeleteObject", "s3:ExistingObjectTag/a"));
        assert!(has("s3:DeleteObjectVersion", "s3:VersionId") && !has("s3:DeleteObject", "s3:VersionId"));
        assert!(has("s3:DeleteBucket", "s3:TlsVersion") && has("s3:GetObject", "s3:DataAccessPointArn"));
        assert!(has_existing_tags("s3:PutObjectVersionTagging") && !has_existing_tags("s3:PutObject"));
        assert!(!is_of_s3("s3:x-amz-server-side-encryptoin") && is_of_s3("s3:LocationConstraint"));
        assert!(is_global("aws:SourceIp") && is_global("aws:PrincipalTag/x") && !is_global("aws:SorceIp"));
        // S3 User Guide and IAM User Guide have policies with these; of tags of buckets nobody here would find out the value.
        assert!(is_of_s3("s3:RequestJobOperation") && is_global("lambda:SourceFunctionArn"));
        assert!(is_global("aws:Ec2InstanceSourceVpc") && is_global("ec2:SourceInstanceARN"));
        assert!(!is_of_s3("s3:BucketTag/team") && !is_global("aws:ResourceTag/team"));
        assert!(!is_of_s3("s3:\u{fc}\u{fc}") && !is_global(""));
    }

    #[test]
    fn names_are_in_lower_case_and_actions_are_spelled_right() {
        let sorted = |names: &[&str]| names.is_sorted() && names.iter().all(|name| *name == name.to_ascii_lowercase());
        assert!(sorted(OF_ALL) && sorted(OF_NONE) && sorted(OF_AWS));
        // A name that is misspelled up there would be no action's.
        let with_keys = ACTIONS.iter().filter(|(action, _)| !of_action(action).is_empty()).count();
        assert_eq!(with_keys, 26);
        for (action, _) in ACTIONS {
            assert!(of_action(action).iter().all(|names| sorted(names)), "{action}");
        }
    }
}
