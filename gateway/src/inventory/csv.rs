//! Rows of an inventory, as S3 writes them: every value in quotes, keys percent-encoded, no head.

use super::plan::{Field, Plan};
use crate::percent;
use codec::effect::{ChecksumAlgorithm, Content, RetentionMode, VersionRow};

/// One row, to the end of its line. `encryption` is what [`Field::Encryption`] says; `latest`: no version of the key is newer.
pub fn row(out: &mut String, plan: &Plan, bucket: (&str, &str), version: &VersionRow, latest: bool, encryption: &str) {
    let (name, owner) = bucket;
    first(out, name);
    quoted(out, &percent(&version.key));
    if plan.all_versions {
        quoted(out, &version.version_id);
        quoted(out, truth(latest));
        quoted(out, truth(version.delete_marker));
    }
    for field in &plan.fields {
        let value = match (field, &version.content) {
            (Field::LastModified, _) => time(version.modified_ms),
            (Field::Owner, _) if version.owner.is_empty() => owner.to_owned(),
            (Field::Owner, _) => version.owner.clone(),
            (_, None) => String::new(),
            (field, Some(content)) => of_content(*field, version, content, encryption),
        };
        quoted(out, &value);
    }
    out.push('\n');
}

fn of_content(field: Field, version: &VersionRow, content: &Content, encryption: &str) -> String {
    match field {
        Field::Size => content.size.to_string(),
        Field::ETag => content.etag.clone(),
        Field::StorageClass => match version.meta.as_ref().map_or("", |meta| &meta.storage_class) {
            "" => "STANDARD".to_owned(),
            class => class.to_owned(),
        },
        Field::Multipart => truth(content.etag.contains('-')).to_owned(),
        Field::Encryption => encryption.to_owned(),
        Field::RetainUntil => version.retention.map(|kept| time(kept.until_ms)).unwrap_or_default(),
        Field::LockMode => match version.retention.map(|kept| kept.mode()) {
            Some(RetentionMode::Governance) => "GOVERNANCE".to_owned(),
            Some(RetentionMode::Compliance) => "COMPLIANCE".to_owned(),
            Some(RetentionMode::Unspecified) | None => String::new(),
        },
        Field::LegalHold => if version.hold { "On" } else { "Off" }.to_owned(),
        Field::Checksum => {
            let known = content.checksums.iter().filter_map(|sum| ChecksumAlgorithm::try_from(sum.algorithm).ok());
            known.map(crate::s3::request::algorithm_name).collect::<Vec<_>>().join(",")
        }
        // Said of delete markers, too.
        Field::LastModified | Field::Owner => String::new(),
    }
}

fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// Milliseconds since the Unix epoch, as ISO 8601. Empty for what is no time.
fn time(ms: u64) -> String {
    let stamp = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map(|stamp| stamp.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()).unwrap_or_default()
}

fn first(out: &mut String, value: &str) {
    out.push('"');
    out.push_str(&value.replace('"', "\"\""));
    out.push('"');
}

fn quoted(out: &mut String, value: &str) {
    out.push(',');
    first(out, value);
}

fn percent(key: &str) -> String {
    let mut out = String::new();
    percent::push_path(&mut out, key);
    out
}

#[cfg(test)]
mod tests {
    use super::super::plan::Schedule;
    use super::*;

    #[test]
    fn a_row_has_what_was_asked_for_and_nothing_breaks_out_of_it() {
        let mut plan = Plan {
            id: "i".to_owned(),
            enabled: true,
            bucket: "b".to_owned(),
            prefix: String::new(),
            account: None,
            protection: None,
            filter: String::new(),
            all_versions: true,
            schedule: Schedule::Weekly,
            fields: vec![Field::Size, Field::LastModified, Field::StorageClass, Field::LegalHold, Field::Owner],
        };
        let content = Content { size: 5, etag: "e".to_owned(), ..Content::default() };
        let mut version =
            VersionRow { key: "a\"\n,ä".to_owned(), modified_ms: 1_445_412_480_001, ..VersionRow::default() };
        version.content = Some(content);
        let text = |plan: &Plan, version: &VersionRow| {
            let mut out = String::new();
            row(&mut out, plan, ("docs", "alice"), version, true, "");
            out
        };
        let wanted = "\"docs\",\"a%22%0A%2C%C3%A4\",\"\",\"true\",\"false\",\"5\",\"2015-10-21T07:28:00.001Z\",\"STANDARD\",\
            \"Off\",\"alice\"\n";
        assert_eq!(text(&plan, &version), wanted);
        (version.delete_marker, version.content) = (true, None);
        let wanted = "\"docs\",\"a%22%0A%2C%C3%A4\",\"\",\"true\",\"true\",\"\",\"2015-10-21T07:28:00.001Z\",\"\",\"\",\"alice\"\n";
        assert_eq!(text(&plan, &version), wanted);
        assert_eq!(
            (plan.period(2), plan.period(3), plan.period(9), plan.period(10)),
            (0, 1, 1, 2),
            "1970-01-04 is a Sunday"
        );
        plan.all_versions = false;
        assert_eq!(
            plan.schema(),
            "Bucket, Key, Size, LastModifiedDate, StorageClass, ObjectLockLegalHoldStatus, ObjectOwner"
        );
    }
}
