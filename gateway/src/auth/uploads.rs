//! What the parts of an upload are judged by: what their object is to be was said when the upload was opened, and no client says it
//! again with each part.
//!
//! Invariant: a condition on what the upload's row tells is judged by the row, and so by the policies of now. What it does not tell
//! word for word, the list and the name of the key, was judged when the upload was opened. Of an upload that is completed, and of which
//! that is asked again, the version tells it that came of it, as it is now.

use super::facts::{Facts, add_remaining_days, add_tags};
use crate::multipart::completed_to;
use crate::protect::purpose_in;
use crate::s3::error;
use access::policy::{Context, Policy};
use codec::effect::{BucketRow, UploadName, UploadRow, VersionRow};
use codec::id::DomainId;
use metadata::client::MetadataClient;
use metadata::keys::Purpose;
use metadata::lock::retention_of;
use s3s::S3Result;

/// Operations that go on with an upload.
const OF_UPLOADS: [&str; 3] = [COMPLETES, "UploadPart", "UploadPartCopy"];

/// The one of them that may come again when the upload is gone: its answer was lost, and nothing is done a second time.
const COMPLETES: &str = "CompleteMultipartUpload";

/// Beginnings of the condition keys that are said when it is opened.
const SAID_BEFORE: [&str; 3] = ["s3:object-lock-", "s3:requestobjecttag", "s3:x-amz-"];

/// What its row does not tell word for word.
const JUDGED_BEFORE: [&str; 8] = [
    "s3:x-amz-acl",
    "s3:x-amz-grant-full-control",
    "s3:x-amz-grant-read",
    "s3:x-amz-grant-read-acp",
    "s3:x-amz-grant-write",
    "s3:x-amz-grant-write-acp",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:x-amz-website-redirect-location",
];

/// Whether a request is about an upload of which these policies ask something.
pub(super) fn are_asked<'a>(facts: &Facts<'_>, mut policies: impl Iterator<Item = &'a Policy>) -> bool {
    OF_UPLOADS.contains(&facts.operation)
        && policies.any(|policy| SAID_BEFORE.iter().any(|start| policy.names_key(start)))
}

/// Adds what was said when the upload was opened that a request is about. Of one that is not there, and of which nothing came, nothing
/// is known.
pub(super) async fn fill(
    context: &mut Context,
    metadata: &dyn MetadataClient,
    facts: &Facts<'_>,
    bucket: &BucketRow,
    key: &str,
) -> S3Result<()> {
    let Some((_, upload_id)) = facts.query.iter().find(|(name, _)| name == "uploadId") else { return Ok(()) };
    let name = UploadName { bucket: bucket.id, key: key.to_owned(), upload_id: upload_id.clone() };
    let upload = match metadata.upload(&name).await.map_err(error::lookup)? {
        None if facts.operation == COMPLETES => {
            completed_to(metadata, &name).await.map_err(error::lookup)?.map(as_upload)
        }
        upload => upload,
    };
    let Some(upload) = upload else { return Ok(()) };
    let purpose = purpose_in(metadata, DomainId(upload.domain), upload.encrypted).await.map_err(error::lookup)?;
    of_row(context, &upload, &purpose);
    Ok(())
}

/// The upload that a version came of, as far as conditions ask for it.
fn as_upload(row: VersionRow) -> UploadRow {
    let content = row.content.unwrap_or_default();
    UploadRow {
        domain: content.domain,
        encrypted: content.encrypted,
        meta: row.meta,
        tags: row.tags,
        retention: row.retention,
        hold: row.hold,
        initiated_ms: row.modified_ms,
        ..UploadRow::default()
    }
}

fn of_row(context: &mut Context, upload: &UploadRow, purpose: &Purpose) {
    JUDGED_BEFORE.into_iter().for_each(|key| context.settle(key));
    match purpose {
        Purpose::Plain => {}
        Purpose::Managed => context.set("s3:x-amz-server-side-encryption", "AES256"),
        Purpose::Kms(_) => context.set("s3:x-amz-server-side-encryption", "aws:kms"),
        Purpose::Customer => context.set("s3:x-amz-server-side-encryption-customer-algorithm", "AES256"),
    }
    match upload.meta.as_ref().map_or("", |meta| &meta.storage_class) {
        // Also where the client named the class that there is without a name.
        "" => context.settle("s3:x-amz-storage-class"),
        class => context.set("s3:x-amz-storage-class", class),
    }
    if !upload.tags.is_empty() {
        add_tags(context, upload.tags.iter().map(|tag| (tag.key.as_str(), tag.value.as_str())));
    }
    if let Some(retention) = upload.retention.as_ref().map(retention_of) {
        context.set("s3:object-lock-mode", retention.mode.name());
        let until = i64::try_from(retention.until_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        if let Some(until) = until.map(|until| until.to_string()) {
            add_remaining_days(context, &until, upload.initiated_ms);
            context.set("s3:object-lock-retain-until-date", until);
        }
    }
    if upload.hold {
        context.set("s3:object-lock-legal-hold", "ON");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::effect::{ObjectMeta, RetentionMode, RetentionRow, Tag};

    #[test]
    fn an_upload_says_what_its_object_is_to_be() {
        let upload = UploadRow {
            initiated_ms: 1_000_000_000_000,
            meta: Some(ObjectMeta { storage_class: "GLACIER".into(), ..ObjectMeta::default() }),
            tags: vec![Tag { key: "class".into(), value: "secret".into() }],
            retention: Some(RetentionRow {
                mode: RetentionMode::Governance.into(),
                until_ms: 1_000_000_000_000 + 10 * 86_400_000,
            }),
            hold: true,
            ..UploadRow::default()
        };
        let mut context = Context::default();
        of_row(&mut context, &upload, &Purpose::Kms("k".into()));
        for (key, value) in [
            ("s3:x-amz-server-side-encryption", "aws:kms"),
            ("s3:x-amz-storage-class", "GLACIER"),
            ("s3:RequestObjectTag/class", "secret"),
            ("s3:RequestObjectTagKeys", "class"),
            ("s3:object-lock-mode", "GOVERNANCE"),
            ("s3:object-lock-remaining-retention-days", "10"),
            ("s3:object-lock-legal-hold", "ON"),
        ] {
            assert_eq!(context.single(key), Some(value), "{key}");
        }
        assert!(context.is_settled("s3:x-amz-acl"));
        let mut plain = Context::default();
        of_row(&mut plain, &UploadRow::default(), &Purpose::Plain);
        assert!(plain.values("s3:x-amz-server-side-encryption").is_empty(), "it is not encrypted, and says so");
        assert!(!plain.is_settled("s3:x-amz-server-side-encryption") && plain.is_settled("s3:x-amz-storage-class"));
    }
}
