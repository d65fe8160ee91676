//! PutBucketLifecycleConfiguration, GetBucketLifecycleConfiguration, DeleteBucketLifecycle, and what answers say of what the rules
//! will do. What they do is `metadata::keep::lifecycle`'s business.

use super::{answer, error, lock, unconfigured};
use crate::auth;
use crate::configs;
use crate::engine::Gateway;
use access::lifecycle::plan::{Calendar, Version, aborts, expires};
use access::lifecycle::rule::{Class, Rule, RuleError};
use codec::effect::{
    BucketRow, ConfigKind, FilterPlace, LifecycleNoncurrent, LifecycleNoncurrentTransition, LifecycleRow,
    LifecycleRuleRow, LifecycleTransition, LifecycleWhen, Tag, VersionRow,
};
use metadata::lifecycle::{
    ALL_CLASSES_128K, LifecycleError, VARIES_BY_CLASS, body_of, row_of, rules, rules_of, tags, version,
};
use s3s::dto::{
    AbortIncompleteMultipartUpload, DeleteBucketLifecycleInput, DeleteBucketLifecycleOutput, ExpirationStatus,
    GetBucketLifecycleConfigurationInput, GetBucketLifecycleConfigurationOutput, LifecycleExpiration, LifecycleRule,
    LifecycleRuleAndOperator, LifecycleRuleFilter, NoncurrentVersionExpiration, NoncurrentVersionTransition,
    PutBucketLifecycleConfigurationInput, PutBucketLifecycleConfigurationOutput, Tag as TagDto, Timestamp, Transition,
    TransitionDefaultMinimumObjectSize, TransitionStorageClass,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, StdError, s3_error};

/// PutBucketLifecycleConfiguration.
pub async fn put(
    gateway: &Gateway,
    req: S3Request<PutBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
    let bucket = auth::bucket(&req)?;
    let input = req.input;
    let minimum = input.transition_default_minimum_object_size;
    let minimum_size = minimum.as_ref().map_or(String::new(), |minimum| minimum.as_str().to_owned());
    if !matches!(minimum_size.as_str(), "" | ALL_CLASSES_128K | VARIES_BY_CLASS) {
        return Err(s3_error!(InvalidArgument, "The default of the smallest object that moves is not one of S3's."));
    }
    let sent = input.lifecycle_configuration.ok_or_else(|| s3_error!(MalformedXML))?;
    let mut row = LifecycleRow { rules: Vec::with_capacity(sent.rules.len()), minimum_size };
    for rule in sent.rules {
        row.rules.push(rule_row(rule)?);
    }
    name_rules(&mut row);
    rules(&row).map_err(|refused| wrong(&refused))?;
    let body = body_of(&row);
    configs::put(gateway.metadata().as_ref(), &bucket, ConfigKind::Lifecycle, "", body).await?;
    let transition_default_minimum_object_size = Some(minimum_of(&row));
    Ok(S3Response::new(PutBucketLifecycleConfigurationOutput { transition_default_minimum_object_size }))
}

/// Gives rules without a name one of their own.
fn name_rules(row: &mut LifecycleRow) {
    for n in 0..row.rules.len() {
        if row.rules[n].id.is_empty() {
            let mut hash = blake3::Hasher::new();
            hash.update(&(n as u64).to_be_bytes());
            let alone = LifecycleRow { rules: vec![row.rules[n].clone()], ..LifecycleRow::default() };
            hash.update(&body_of(&alone));
            row.rules[n].id = hex::encode(&hash.finalize().as_bytes()[..16]);
        }
    }
}

/// GetBucketLifecycleConfiguration.
pub async fn get(
    gateway: &Gateway,
    req: S3Request<GetBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
    let bucket = auth::bucket(&req)?;
    let kept = configs::read(gateway.metadata().as_ref(), &bucket, ConfigKind::Lifecycle, "").await?;
    let Some(kept) = kept else { return unconfigured::unset(&req, unconfigured::LIFECYCLE) };
    let row = row_of(&kept).map_err(|fault| error::internal(&fault))?;
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
        rules: Some(row.rules.iter().map(rule_dto).collect()),
        transition_default_minimum_object_size: Some(minimum_of(&row)),
    }))
}

/// What holds for moves of small versions, said or not.
fn minimum_of(row: &LifecycleRow) -> TransitionDefaultMinimumObjectSize {
    let name = if row.minimum_size == ALL_CLASSES_128K { ALL_CLASSES_128K } else { VARIES_BY_CLASS };
    TransitionDefaultMinimumObjectSize::from_static(name)
}

/// DeleteBucketLifecycle.
pub async fn delete(
    gateway: &Gateway,
    req: S3Request<DeleteBucketLifecycleInput>,
) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
    let bucket = auth::bucket(&req)?;
    configs::delete(gateway.metadata().as_ref(), &bucket, ConfigKind::Lifecycle, "").await?;
    Ok(S3Response::new(DeleteBucketLifecycleOutput {}))
}

/// The rules of a configuration that is kept.
pub fn kept(body: &[u8]) -> Result<Vec<Rule>, StdError> {
    Ok(rules_of(body)?)
}

/// `x-amz-expiration` of a version: when it expires, and by which rule.
pub async fn expiration(gateway: &Gateway, bucket: &BucketRow, row: &VersionRow) -> S3Result<Option<String>> {
    let tags = tags(&row.tags);
    said(gateway, bucket, &row.key, &version(bucket, row, &tags)).await
}

/// The same, of one that was just put.
pub async fn expiration_of_new(
    gateway: &Gateway,
    bucket: &BucketRow,
    key: &str,
    (put_ms, size): (u64, u64),
    sent: &[Tag],
) -> S3Result<Option<String>> {
    let tags = tags(sent);
    let class = Class::Standard;
    let version = Version { put_ms, delete_marker: false, null: false, size, tags: &tags, class };
    said(gateway, bucket, key, &version).await
}

async fn said(gateway: &Gateway, bucket: &BucketRow, key: &str, version: &Version<'_>) -> S3Result<Option<String>> {
    let Some(rules) = gateway.lifecycles().get(gateway.metadata().as_ref(), bucket).await? else { return Ok(None) };
    // In days as they are: what shortens them is for tests, and clients hold the date against the rule that they set.
    let due = expires(&rules, key, version, Calendar::default());
    Ok(due.and_then(|(ms, rule)| {
        let date = answer::http_date_of(&answer::timestamp(ms))?;
        let rule: String = rule.chars().map(|c| if c.is_ascii_graphic() && c != '"' { c } else { '_' }).collect();
        Some(format!("expiry-date=\"{date}\", rule-id=\"{rule}\""))
    }))
}

/// `x-amz-abort-date` and `x-amz-abort-rule-id` of an upload.
pub async fn abort(
    gateway: &Gateway,
    bucket: &BucketRow,
    key: &str,
    opened_ms: u64,
) -> S3Result<Option<(Timestamp, String)>> {
    let Some(rules) = gateway.lifecycles().get(gateway.metadata().as_ref(), bucket).await? else { return Ok(None) };
    let due = aborts(&rules, key, opened_ms, Calendar::default());
    Ok(due.map(|(ms, rule)| (answer::timestamp(ms), rule.to_owned())))
}

fn wrong(refused: &LifecycleError) -> S3Error {
    match refused {
        LifecycleError::Malformed(_) | LifecycleError::When | LifecycleError::Rule(RuleError::Rules) => {
            s3_error!(MalformedXML)
        }
        LifecycleError::Class(_) => s3_error!(InvalidStorageClass, "{refused}"),
        LifecycleError::Rule(
            RuleError::LongId
            | RuleError::SameId
            | RuleError::Days(_)
            | RuleError::Midnight
            | RuleError::Newer
            | RuleError::ExpiresFirst,
        ) => s3_error!(InvalidArgument, "{refused}"),
        LifecycleError::Rule(
            RuleError::NoAction
            | RuleError::Mixed
            | RuleError::Filter(_)
            | RuleError::Sizes
            | RuleError::Tag(_)
            | RuleError::Order,
        ) => s3_error!(InvalidRequest, "{refused}"),
    }
}

fn rule_row(sent: LifecycleRule) -> S3Result<LifecycleRuleRow> {
    let mut row = LifecycleRuleRow {
        id: sent.id.unwrap_or_default(),
        enabled: match sent.status.as_str() {
            ExpirationStatus::ENABLED => true,
            ExpirationStatus::DISABLED => false,
            _ => return Err(s3_error!(MalformedXML)),
        },
        abort_days: sent
            .abort_incomplete_multipart_upload
            .map(|abort| number(abort.days_after_initiation))
            .transpose()?,
        ..LifecycleRuleRow::default()
    };
    match (sent.prefix, sent.filter) {
        (Some(prefix), None) => row.prefix = Some(prefix),
        (None, Some(filter)) => filter_into(&mut row, filter)?,
        _ => return Err(s3_error!(MalformedXML)),
    }
    if let Some(expiration) = sent.expiration {
        if expiration.days.is_some() || expiration.date.is_some() {
            row.expiration = Some(when(expiration.days, expiration.date)?);
        }
        row.lone_markers = expiration.expired_object_delete_marker;
    }
    if let Some(expiration) = sent.noncurrent_version_expiration {
        row.noncurrent = Some(noncurrent(expiration.noncurrent_days, expiration.newer_noncurrent_versions)?);
    }
    for sent in sent.transitions.unwrap_or_default() {
        let class = sent.storage_class.ok_or_else(|| s3_error!(MalformedXML))?.as_str().to_owned();
        row.transitions.push(LifecycleTransition { when: Some(when(sent.days, sent.date)?), class });
    }
    for sent in sent.noncurrent_version_transitions.unwrap_or_default() {
        let class = sent.storage_class.ok_or_else(|| s3_error!(MalformedXML))?.as_str().to_owned();
        let when = Some(noncurrent(sent.noncurrent_days, sent.newer_noncurrent_versions)?);
        row.noncurrent_transitions.push(LifecycleNoncurrentTransition { when, class });
    }
    Ok(row)
}

/// A filter, in whatever of its places the elements stand. S3 refuses elements beside `And`; others take them, and all have to hold:
/// a rule selects what every element of its filter selects, and nothing more.
fn filter_into(row: &mut LifecycleRuleRow, filter: LifecycleRuleFilter) -> S3Result<()> {
    let LifecycleRuleFilter { and, prefix, tag, object_size_greater_than, object_size_less_than, .. } = filter;
    let size = |size: Option<i64>| {
        size.map(u64::try_from).transpose().map_err(|_| s3_error!(InvalidRequest, "A size can't be negative."))
    };
    let is_and = and.is_some();
    let and = and.unwrap_or_default();
    let larger = [size(and.object_size_greater_than)?, size(object_size_greater_than)?];
    let smaller = [size(and.object_size_less_than)?, size(object_size_less_than)?];
    row.place = if is_and { FilterPlace::And } else { FilterPlace::Filter }.into();
    row.prefix = both_prefixes(and.prefix, prefix)?;
    row.larger_than = larger.into_iter().flatten().max();
    row.smaller_than = smaller.into_iter().flatten().min();
    for tag in and.tags.unwrap_or_default() {
        row.tags.push(tag_of(tag)?);
    }
    if let Some(tag) = tag.map(tag_of).transpose()?.filter(|tag| !row.tags.contains(tag)) {
        row.tags.push(tag);
    }
    Ok(())
}

fn tag_of(tag: TagDto) -> S3Result<Tag> {
    let key = tag.key.ok_or_else(|| s3_error!(MalformedXML))?;
    Ok(Tag { key, value: tag.value.unwrap_or_default() })
}

/// The prefix that has both; where no key can begin with both, the rule is none.
fn both_prefixes(one: Option<String>, other: Option<String>) -> S3Result<Option<String>> {
    match (one, other) {
        (Some(one), Some(other)) if one.starts_with(&other) => Ok(Some(one)),
        (Some(one), Some(other)) if other.starts_with(&one) => Ok(Some(other)),
        (Some(_), Some(_)) => Err(s3_error!(MalformedXML)),
        (one, other) => Ok(one.or(other)),
    }
}

/// Days of any kind: one that is none is refused as S3 refuses it.
fn number(days: Option<i32>) -> S3Result<u32> {
    let days = days.ok_or_else(|| s3_error!(MalformedXML))?;
    u32::try_from(days).map_err(|_| s3_error!(InvalidArgument, "Days must be a positive integer."))
}

fn when(days: Option<i32>, date: Option<Timestamp>) -> S3Result<LifecycleWhen> {
    let date_ms = date.map(lock::milliseconds).transpose()?;
    Ok(LifecycleWhen { days: days.map(|days| number(Some(days))).transpose()?, date_ms })
}

fn noncurrent(days: Option<i32>, newer: Option<i32>) -> S3Result<LifecycleNoncurrent> {
    Ok(LifecycleNoncurrent { days: number(days)?, newer: newer.map(|newer| number(Some(newer))).transpose()? })
}

fn signed(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn rule_dto(row: &LifecycleRuleRow) -> LifecycleRule {
    let status = if row.enabled { ExpirationStatus::ENABLED } else { ExpirationStatus::DISABLED };
    let expires = row.expiration.is_some() || row.lone_markers.is_some();
    let (days, date) = when_dto(row.expiration.as_ref());
    let transition = |row: &LifecycleTransition| {
        let (days, date) = when_dto(row.when.as_ref());
        Transition { date, days, storage_class: Some(TransitionStorageClass::from(row.class.clone())) }
    };
    let noncurrent_transition = |row: &LifecycleNoncurrentTransition| {
        let when = row.when.unwrap_or_default();
        NoncurrentVersionTransition {
            newer_noncurrent_versions: when.newer.map(signed),
            noncurrent_days: Some(signed(when.days)),
            storage_class: Some(TransitionStorageClass::from(row.class.clone())),
        }
    };
    let some = |empty: bool| (!empty).then_some(());
    LifecycleRule {
        abort_incomplete_multipart_upload: row
            .abort_days
            .map(|days| AbortIncompleteMultipartUpload { days_after_initiation: Some(signed(days)) }),
        expiration: expires.then_some(LifecycleExpiration {
            date,
            days,
            expired_object_delete_marker: row.lone_markers,
        }),
        filter: filter_dto(row),
        id: Some(row.id.clone()),
        noncurrent_version_expiration: row.noncurrent.as_ref().map(|when| NoncurrentVersionExpiration {
            newer_noncurrent_versions: when.newer.map(signed),
            noncurrent_days: Some(signed(when.days)),
        }),
        noncurrent_version_transitions: some(row.noncurrent_transitions.is_empty())
            .map(|()| row.noncurrent_transitions.iter().map(noncurrent_transition).collect()),
        prefix: row.prefix.clone().filter(|_| row.place() == FilterPlace::Rule),
        status: ExpirationStatus::from_static(status),
        transitions: some(row.transitions.is_empty()).map(|()| row.transitions.iter().map(transition).collect()),
    }
}

fn when_dto(row: Option<&LifecycleWhen>) -> (Option<i32>, Option<Timestamp>) {
    (row.and_then(|when| when.days).map(signed), row.and_then(|when| when.date_ms).map(answer::timestamp))
}

fn filter_dto(row: &LifecycleRuleRow) -> Option<LifecycleRuleFilter> {
    let size = |size: Option<u64>| size.map(answer::length);
    let mut tags = row.tags.iter().map(|tag| TagDto { key: Some(tag.key.clone()), value: Some(tag.value.clone()) });
    let (larger, smaller) = (size(row.larger_than), size(row.smaller_than));
    let (prefix, nothing) = (row.prefix.clone(), LifecycleRuleFilter::default());
    match row.place() {
        FilterPlace::Rule => None,
        FilterPlace::Filter => Some(LifecycleRuleFilter {
            object_size_greater_than: larger,
            object_size_less_than: smaller,
            prefix,
            tag: tags.next(),
            ..nothing
        }),
        FilterPlace::And => Some(LifecycleRuleFilter {
            and: Some(LifecycleRuleAndOperator {
                object_size_greater_than: larger,
                object_size_less_than: smaller,
                prefix,
                tags: (!row.tags.is_empty()).then(|| tags.collect()),
            }),
            ..nothing
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(xml: &str) -> S3Result<LifecycleRow> {
        let text = format!("<LifecycleConfiguration>{xml}</LifecycleConfiguration>");
        let sent: s3s::dto::BucketLifecycleConfiguration =
            configs::of_xml(text.as_bytes()).map_err(|_| s3_error!(MalformedXML))?;
        let mut row = LifecycleRow::default();
        for rule in sent.rules {
            row.rules.push(rule_row(rule)?);
        }
        name_rules(&mut row);
        rules(&row).map_err(|refused| wrong(&refused))?;
        Ok(row)
    }

    #[test]
    fn rules_come_back_as_they_were_sent() {
        let days = "<Expiration><Days>5</Days></Expiration>";
        for (n, filter) in [
            "<Prefix>a/</Prefix>",
            "<Filter/>",
            "<Filter><Prefix>a</Prefix></Filter>",
            "<Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter>",
            "<Filter><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan></Filter>",
            "<Filter><And><Prefix>a</Prefix><Tag><Key>k</Key><Value>v</Value></Tag><Tag><Key>l</Key><Value>v</Value></Tag></And></Filter>",
        ]
        .iter()
        .enumerate()
        {
            let xml = format!(
                "<Rule><ID>r</ID><Status>Enabled</Status>{filter}{days}<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass>\
                 </Transition></Rule>"
            );
            let row = parsed(&xml).unwrap_or_else(|error| panic!("{n}: {error:?}"));
            let again = rule_row(rule_dto(&row.rules[0])).expect("its own answer");
            assert_eq!(again, row.rules[0], "{filter}");
        }
    }

    /// Elements beside `And`: were only some of them kept, the rule would expire what it was not meant for.
    #[test]
    fn all_of_a_filter_has_to_hold_wherever_it_stands() {
        let rule = |filter: &str| {
            format!(
                "<Rule><ID>r</ID><Filter>{filter}</Filter><Status>Enabled</Status><Expiration><Days>5</Days></Expiration></Rule>"
            )
        };
        let tag = |key: &str| format!("<Tag><Key>{key}</Key><Value>v</Value></Tag>");
        let sizes = "<ObjectSizeGreaterThan>5</ObjectSizeGreaterThan>";
        let beside = format!("<Prefix>a/b</Prefix>{}{sizes}", tag("k"));
        let row =
            parsed(&rule(&format!("{beside}<And><Prefix>a/</Prefix>{}{}</And>", tag("l"), sizes.replace('5', "9"))));
        let row = &row.expect("both").rules[0];
        let keys: Vec<&str> = row.tags.iter().map(|tag| tag.key.as_str()).collect();
        assert_eq!((row.prefix.as_deref(), keys, row.larger_than), (Some("a/b"), vec!["l", "k"], Some(9)));
        assert_eq!(rule_row(rule_dto(row)).ok().as_ref(), Some(row), "and it comes back as one");
        let never = parsed(&rule("<Prefix>a</Prefix><And><Prefix>b</Prefix></And>"));
        assert_eq!(never.expect_err("no key begins with both").code().as_str(), "MalformedXML");
    }

    #[test]
    fn what_can_t_be_followed_is_refused() {
        let code = |xml: &str| parsed(xml).map_err(|error| error.code().as_str().to_owned());
        let rule = |rest: &str| format!("<Rule><ID>r</ID><Filter/><Status>Enabled</Status>{rest}</Rule>");
        for (rest, refused) in [
            ("<Expiration><Days>0</Days></Expiration>", "InvalidArgument"),
            ("<Expiration><Days>-1</Days></Expiration>", "InvalidArgument"),
            ("<Expiration><Date>2030-01-01T00:00:01Z</Date></Expiration>", "InvalidArgument"),
            ("", "InvalidRequest"),
            ("<Transition><Days>1</Days><StorageClass>STANDARD_IA</StorageClass></Transition>", "InvalidStorageClass"),
            ("<Transition><StorageClass>GLACIER</StorageClass></Transition>", "MalformedXML"),
        ] {
            assert_eq!(code(&rule(rest)).map(drop), Err(refused.to_owned()), "{rest}");
        }
        let days = "<Expiration><Days>5</Days></Expiration>";
        assert_eq!(code(&rule(days).replace("Enabled", "enabled")).map(drop), Err("MalformedXML".to_owned()));
        assert_eq!(code(&rule(days).replace("<Filter/>", "")).map(drop), Err("MalformedXML".to_owned()));
        let unnamed = rule(days).replace("<ID>r</ID>", "");
        let two = parsed(&format!("{unnamed}{unnamed}")).expect("they get names");
        assert!(!two.rules[0].id.is_empty() && two.rules[0].id != two.rules[1].id);
    }
}
