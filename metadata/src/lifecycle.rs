//! Rows of lifecycle and of the archive as [`access::lifecycle`] judges them.

use access::lifecycle::plan::{Calendar, LEAST_MOVED, Version, Versioning};
use access::lifecycle::restore::{self, Archived, Restore};
use access::lifecycle::rule::{
    Class, Expiration, Filter, Noncurrent, NoncurrentTransition, Rule, RuleError, Transition, When, check,
};
use bytes::Bytes;
use codec::effect::{
    BucketRow, LifecycleNoncurrent, LifecycleRow, LifecycleRuleRow, LifecycleWhen, RestoreRow, Tag, UploadRow,
    VersionRow, Versioning as VersioningRow,
};
use prost::{DecodeError, Message};

/// `x-amz-transition-default-minimum-object-size`: nothing below 128 KiB moves.
pub const ALL_CLASSES_128K: &str = "all_storage_classes_128K";
/// The same: what is too small to move depends on the class. The default.
pub const VARIES_BY_CLASS: &str = "varies_by_storage_class";

/// Why a bucket's rules can't be followed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LifecycleError {
    /// What is kept is no lifecycle: a damaged row.
    #[error("the lifecycle that is kept does not decode")]
    Malformed(#[from] DecodeError),
    /// A rule that is refused when it is sent. S3: see there.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A storage class that versions can't be moved to. S3: InvalidStorageClass.
    #[error("versions can't be moved to the storage class {0:?}")]
    Class(String),
    /// Both days and a date, or neither. S3: MalformedXML.
    #[error("a rule has either days or a date")]
    When,
}

/// What a bucket's configuration is kept as.
pub fn body_of(row: &LifecycleRow) -> Bytes {
    row.encode_to_vec().into()
}

/// A configuration that is kept.
pub fn row_of(body: &[u8]) -> Result<LifecycleRow, LifecycleError> {
    Ok(LifecycleRow::decode(body)?)
}

/// The rules that a bucket's configuration has.
pub fn rules_of(body: &[u8]) -> Result<Vec<Rule>, LifecycleError> {
    rules(&row_of(body)?)
}

/// The rules of a row, if they can be followed.
pub fn rules(row: &LifecycleRow) -> Result<Vec<Rule>, LifecycleError> {
    let mut rules = row.rules.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
    check(&rules)?;
    // What nobody asked for varies by class, and the classes that there are take versions of any size.
    let least_moved = if row.minimum_size == ALL_CLASSES_128K { LEAST_MOVED } else { 0 };
    rules.iter_mut().for_each(|rule| rule.least_moved = least_moved);
    Ok(rules)
}

fn rule(row: &LifecycleRuleRow) -> Result<Rule, LifecycleError> {
    let filter = Filter {
        prefix: row.prefix.clone().unwrap_or_default(),
        tags: tags(&row.tags),
        larger_than: row.larger_than,
        smaller_than: row.smaller_than,
    };
    let expiration = match (&row.expiration, row.lone_markers) {
        (Some(at), _) => Some(Expiration::At(when(at)?)),
        (None, Some(true)) => Some(Expiration::LoneMarkers),
        (None, _) => None,
    };
    let transitions = row.transitions.iter().map(|row| {
        let at = row.when.as_ref().ok_or(LifecycleError::When)?;
        Ok(Transition { when: when(at)?, class: class(&row.class)? })
    });
    let noncurrent_transitions = row.noncurrent_transitions.iter().map(|row| {
        let at = row.when.as_ref().ok_or(LifecycleError::When)?;
        Ok(NoncurrentTransition { when: noncurrent(at), class: class(&row.class)? })
    });
    Ok(Rule {
        id: row.id.clone(),
        enabled: row.enabled,
        filter,
        expiration,
        noncurrent: row.noncurrent.as_ref().map(noncurrent),
        transitions: transitions.collect::<Result<_, LifecycleError>>()?,
        noncurrent_transitions: noncurrent_transitions.collect::<Result<_, LifecycleError>>()?,
        abort_days: row.abort_days,
        least_moved: 0,
    })
}

fn when(row: &LifecycleWhen) -> Result<When, LifecycleError> {
    match (row.days, row.date_ms) {
        (Some(days), None) => Ok(When::Days(days)),
        (None, Some(ms)) => Ok(When::Date(ms)),
        _ => Err(LifecycleError::When),
    }
}

fn noncurrent(row: &LifecycleNoncurrent) -> Noncurrent {
    Noncurrent { days: row.days, newer: row.newer }
}

fn class(name: &str) -> Result<Class, LifecycleError> {
    Class::target(name).ok_or_else(|| LifecycleError::Class(name.chars().take(64).collect()))
}

/// Tags as rules compare them.
pub fn tags(tags: &[Tag]) -> Vec<(String, String)> {
    tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect()
}

/// When something was put: no gateway's clock makes it older than it is. What was committed before the retention clock was noted with it
/// is at least no older than its bucket.
fn put_ms(said_ms: u64, clock_ms: u64, bucket: &BucketRow) -> u64 {
    said_ms.max(if clock_ms == 0 { bucket.created_ms } else { clock_ms })
}

/// A version of a bucket as rules see it. `tags`: [`tags`] of it.
pub fn version<'a>(bucket: &BucketRow, row: &VersionRow, tags: &'a [(String, String)]) -> Version<'a> {
    Version {
        put_ms: put_ms(row.modified_ms, row.clock_ms, bucket),
        delete_marker: row.delete_marker,
        null: row.version_id.is_empty(),
        size: row.content.as_ref().map_or(0, |content| content.size),
        tags,
        class: class_of(row),
    }
}

/// When an upload was opened.
pub fn opened_ms(bucket: &BucketRow, row: &UploadRow) -> u64 {
    put_ms(row.initiated_ms, row.clock_ms, bucket)
}

/// How a bucket keeps versions.
pub fn versioning(row: &BucketRow) -> Versioning {
    match row.versioning() {
        VersioningRow::Never => Versioning::Never,
        VersioningRow::Enabled => Versioning::Enabled,
        VersioningRow::Suspended => Versioning::Suspended,
    }
}

/// Where a version lies.
pub fn class_of(row: &VersionRow) -> Class {
    row.meta.as_ref().map_or(Class::Standard, |meta| Class::of_label(&meta.storage_class))
}

/// The S3 name of the class that a version moves to.
pub fn class_name(class: Class) -> &'static str {
    match class {
        Class::Standard => "STANDARD",
        Class::Glacier => "GLACIER",
        Class::DeepArchive => "DEEP_ARCHIVE",
    }
}

/// What has become of the wish to read a version.
pub fn restore_of(row: &VersionRow) -> Restore {
    match row.restore {
        None => Restore::No,
        Some(RestoreRow { days: 0, until_ms }) => Restore::Until { ms: until_ms },
        Some(RestoreRow { days, .. }) => Restore::Ongoing { days },
    }
}

/// Its row.
pub fn restore_row(restore: Restore) -> Option<RestoreRow> {
    match restore {
        Restore::No => None,
        Restore::Ongoing { days } => Some(RestoreRow { days, until_ms: 0 }),
        Restore::Until { ms } => Some(RestoreRow { days: 0, until_ms: ms }),
    }
}

/// Whether a version's bytes may be read or copied now. One in the archive must have been restored, and the time of that not be over.
pub fn may_read(row: &VersionRow, now_ms: u64) -> Result<(), Archived> {
    restore::may_read(class_of(row), restore_of(row), now_ms)
}

/// How long a day of lifecycle is: 24 hours, but in tests.
pub fn calendar(day: std::time::Duration) -> Calendar {
    Calendar { day_ms: u64::try_from(day.as_millis()).unwrap_or(u64::MAX).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::effect::ObjectMeta;

    fn days(days: u32) -> LifecycleRuleRow {
        let expiration = Some(LifecycleWhen { days: Some(days), date_ms: None });
        LifecycleRuleRow { id: "a".to_owned(), enabled: true, expiration, ..LifecycleRuleRow::default() }
    }

    #[test]
    fn rules_that_can_t_be_followed_are_refused() {
        let of = |rule| rules(&LifecycleRow { rules: vec![rule], minimum_size: String::new() });
        assert_eq!(of(days(3)).unwrap()[0].expiration, Some(Expiration::At(When::Days(3))));
        assert!(matches!(of(days(0)), Err(LifecycleError::Rule(RuleError::Days(_)))));
        let both = LifecycleWhen { days: Some(1), date_ms: Some(0) };
        assert!(matches!(of(LifecycleRuleRow { expiration: Some(both), ..days(1) }), Err(LifecycleError::When)));
        let transitions = vec![codec::effect::LifecycleTransition {
            when: Some(LifecycleWhen { days: Some(1), date_ms: None }),
            class: "STANDARD_IA".to_owned(),
        }];
        assert!(matches!(of(LifecycleRuleRow { transitions, ..days(9) }), Err(LifecycleError::Class(_))));
        assert!(matches!(rules_of(b"\xff\xff"), Err(LifecycleError::Malformed(_))));
        assert!(matches!(rules_of(b""), Err(LifecycleError::Rule(RuleError::Rules))));
    }

    #[test]
    fn an_age_is_of_the_later_clock() {
        let bucket = BucketRow { created_ms: 500_000, ..BucketRow::default() };
        let row = VersionRow { modified_ms: 1, clock_ms: 1_000_000, ..VersionRow::default() };
        assert_eq!(version(&bucket, &row, &[]).put_ms, 1_000_000, "a gateway at 1970 makes nothing old");
        let before = VersionRow { clock_ms: 0, ..row };
        assert_eq!(version(&bucket, &before, &[]).put_ms, 500_000, "nor older than its bucket");
        let row = UploadRow { initiated_ms: 1, clock_ms: 1_000_000, ..UploadRow::default() };
        assert_eq!(opened_ms(&bucket, &row), 1_000_000);
        assert_eq!(opened_ms(&bucket, &UploadRow { clock_ms: 0, ..row }), 500_000);
    }

    #[test]
    fn archived_versions_are_read_after_a_restore() {
        let meta = Some(ObjectMeta { storage_class: "GLACIER".to_owned(), ..ObjectMeta::default() });
        let row = |restore| VersionRow { meta: meta.clone(), restore: restore_row(restore), ..VersionRow::default() };
        assert!(may_read(&row(Restore::No), 0).is_err() && may_read(&row(Restore::Ongoing { days: 3 }), 0).is_err());
        assert!(
            may_read(&row(Restore::Until { ms: 5 }), 4).is_ok() && may_read(&row(Restore::Until { ms: 5 }), 5).is_err()
        );
        for restore in [Restore::No, Restore::Ongoing { days: 1 }, Restore::Until { ms: 9 }] {
            assert_eq!(restore_of(&row(restore)), restore);
        }
        assert!(may_read(&VersionRow::default(), 0).is_ok());
    }
}
