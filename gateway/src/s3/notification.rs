//! PutBucketNotificationConfiguration and GetBucketNotificationConfiguration: what of a bucket is told to which webhook.
//!
//! Webhooks are the operator's: a client names one (`arn:stele:webhook:::NAME`, where S3 has a queue's ARN) and can't make the
//! servers send anything anywhere else. Who may be told what is found out where it happens (`metadata`), and told by the process
//! that commits.

use super::error;
use crate::auth;
use crate::configs;
use crate::engine::Gateway;
use codec::effect::{ConfigKind, NotificationRow, NotificationRuleRow};
use s3s::dto::{
    Event, FilterRule, FilterRuleName, GetBucketNotificationConfigurationInput,
    GetBucketNotificationConfigurationOutput, NotificationConfiguration, NotificationConfigurationFilter,
    PutBucketNotificationConfigurationInput, PutBucketNotificationConfigurationOutput, QueueConfiguration, S3KeyFilter,
};
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};
use std::collections::HashSet;

/// What ARNs of webhooks begin with.
const ARN: &str = "arn:stele:webhook:::";
/// Most rules, as S3 has it.
const MAX_RULES: usize = 100;
/// Longest name of a webhook, in bytes.
const MAX_NAME: usize = 64;
/// Longest text of a filter, in bytes.
const MAX_TEXT: usize = 1024;
/// Longest name of a rule, in bytes: it is in each notice.
const MAX_ID: usize = 255;

/// What can be told. A pattern with `*` at its end stands for those that begin so.
pub const EVENTS: [&str; 15] = [
    "s3:LifecycleExpiration:Delete",
    "s3:LifecycleExpiration:DeleteMarkerCreated",
    "s3:LifecycleTransition",
    "s3:ObjectAcl:Put",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Put",
    "s3:ObjectRemoved:Delete",
    "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectRestore:Completed",
    "s3:ObjectRestore:Delete",
    "s3:ObjectRestore:Post",
    "s3:ObjectTagging:Delete",
    "s3:ObjectTagging:Put",
];

/// PutBucketNotificationConfiguration. Nothing to tell takes all rules away.
pub async fn put(
    gateway: &Gateway,
    req: S3Request<PutBucketNotificationConfigurationInput>,
) -> S3Result<S3Response<PutBucketNotificationConfigurationOutput>> {
    let bucket = auth::bucket(&req)?;
    let row = row_of(req.input.notification_configuration)?;
    let meta = gateway.metadata().as_ref();
    if row.rules.is_empty() {
        configs::delete(meta, &bucket, ConfigKind::Notification, "").await?;
    } else {
        configs::put(meta, &bucket, ConfigKind::Notification, "", row.to_body()).await?;
    }
    Ok(S3Response::new(PutBucketNotificationConfigurationOutput {}))
}

/// GetBucketNotificationConfiguration.
pub async fn get(
    gateway: &Gateway,
    req: S3Request<GetBucketNotificationConfigurationInput>,
) -> S3Result<S3Response<GetBucketNotificationConfigurationOutput>> {
    let bucket = auth::bucket(&req)?;
    let kept = configs::read(gateway.metadata().as_ref(), &bucket, ConfigKind::Notification, "").await?;
    let row = match kept {
        None => NotificationRow::default(),
        Some(kept) => NotificationRow::of_body(kept).map_err(|fault| error::internal(&fault))?,
    };
    let queues: Vec<QueueConfiguration> = row.rules.into_iter().map(shown).collect();
    Ok(S3Response::new(GetBucketNotificationConfigurationOutput {
        queue_configurations: (!queues.is_empty()).then_some(queues),
        ..GetBucketNotificationConfigurationOutput::default()
    }))
}

fn wrong(what: &str) -> S3Error {
    s3_error!(InvalidArgument, "{what}")
}

fn row_of(sent: NotificationConfiguration) -> S3Result<NotificationRow> {
    let others = sent.event_bridge_configuration.is_some()
        || sent.lambda_function_configurations.is_some_and(|list| !list.is_empty())
        || sent.topic_configurations.is_some_and(|list| !list.is_empty());
    if others {
        return Err(wrong("Unable to validate the following destination configurations: only queues can be told."));
    }
    let queues = sent.queue_configurations.unwrap_or_default();
    if queues.len() > MAX_RULES {
        return Err(wrong("There are more rules than a bucket may have."));
    }
    let mut ids = HashSet::new();
    let mut rules = Vec::with_capacity(queues.len());
    for (number, queue) in queues.into_iter().enumerate() {
        let rule = rule_of(queue, number)?;
        if !ids.insert(rule.id.clone()) {
            return Err(wrong("Same ID used for multiple configurations. IDs must be unique"));
        }
        if rules.iter().any(|other| overlap(other, &rule)) {
            return Err(wrong(
                "Configurations overlap. Configurations on the same bucket cannot share a common event type for one \
                 webhook.",
            ));
        }
        rules.push(rule);
    }
    Ok(NotificationRow { rules })
}

/// Whether two rules would tell the same webhook twice of one change.
fn overlap(one: &NotificationRuleRow, other: &NotificationRuleRow) -> bool {
    let both = |a: &str, b: &str| match (a.strip_suffix('*'), b.strip_suffix('*')) {
        (Some(a), Some(b)) => a.starts_with(b) || b.starts_with(a),
        (Some(start), None) => b.starts_with(start),
        (None, Some(start)) => a.starts_with(start),
        (None, None) => a == b,
    };
    let begins = |a: &str, b: &str| a.starts_with(b) || b.starts_with(a);
    let ends = |a: &str, b: &str| a.ends_with(b) || b.ends_with(a);
    one.webhook == other.webhook
        && one.events.iter().any(|a| other.events.iter().any(|b| both(a, b)))
        && begins(&one.prefix, &other.prefix)
        && ends(&one.suffix, &other.suffix)
}

fn rule_of(queue: QueueConfiguration, number: usize) -> S3Result<NotificationRuleRow> {
    let webhook = queue.queue_arn.strip_prefix(ARN).unwrap_or_default();
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if webhook.is_empty() || webhook.len() > MAX_NAME || !webhook.bytes().all(named) {
        return Err(wrong("The ARN is not well formed: a webhook's is arn:stele:webhook:::NAME"));
    }
    let id = queue.id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("rule-{}", number + 1));
    if id.len() > MAX_ID || id.chars().any(char::is_control) {
        return Err(wrong("The ID of a configuration is too long, or has control characters."));
    }
    let mut events: Vec<String> = queue.events.iter().map(|event| event.as_ref().to_owned()).collect();
    // Each change is held against all of them where it is decided.
    let mut seen = HashSet::new();
    events.retain(|event| seen.insert(event.clone()));
    if events.is_empty() {
        return Err(s3_error!(MalformedXML));
    }
    if !events.iter().all(|event| is_known(event)) {
        return Err(wrong("A specified event is not supported for notifications."));
    }
    let (mut prefix, mut suffix) = (None, None);
    let filters = queue.filter.and_then(|filter| filter.key).and_then(|key| key.filter_rules).unwrap_or_default();
    for FilterRule { name, value } in filters {
        let name = name.map(|name| name.as_str().to_ascii_lowercase()).unwrap_or_default();
        let field = match name.as_str() {
            FilterRuleName::PREFIX => &mut prefix,
            FilterRuleName::SUFFIX => &mut suffix,
            _ => return Err(wrong("filter rule name must be either prefix or suffix")),
        };
        let value = value.unwrap_or_default();
        if value.len() > MAX_TEXT {
            return Err(wrong("Size of filter rule value cannot exceed 1024 bytes in UTF-8 representation"));
        }
        if field.replace(value).is_some() {
            return Err(wrong("Cannot specify more than one prefix rule in a filter, or more than one suffix rule."));
        }
    }
    Ok(NotificationRuleRow {
        id,
        webhook: webhook.to_owned(),
        events,
        prefix: prefix.unwrap_or_default(),
        suffix: suffix.unwrap_or_default(),
    })
}

fn is_known(event: &str) -> bool {
    match event.strip_suffix('*') {
        // `s3:*` is none of S3's.
        Some(start) => start.ends_with(':') && start != "s3:" && EVENTS.iter().any(|known| known.starts_with(start)),
        None => EVENTS.contains(&event),
    }
}

fn shown(rule: NotificationRuleRow) -> QueueConfiguration {
    let filter = |name: &'static str, value: String| {
        (!value.is_empty()).then(|| FilterRule { name: Some(FilterRuleName::from_static(name)), value: Some(value) })
    };
    let filters: Vec<FilterRule> =
        [filter(FilterRuleName::PREFIX, rule.prefix), filter(FilterRuleName::SUFFIX, rule.suffix)]
            .into_iter()
            .flatten()
            .collect();
    QueueConfiguration {
        events: rule.events.into_iter().map(Event::from).collect(),
        filter: (!filters.is_empty())
            .then_some(NotificationConfigurationFilter { key: Some(S3KeyFilter { filter_rules: Some(filters) }) }),
        id: Some(rule.id),
        queue_arn: format!("{ARN}{}", rule.webhook),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(arn: &str, events: &[&str], filters: &[(&str, &str)]) -> QueueConfiguration {
        let rules = filters.iter().map(|(name, value)| FilterRule {
            name: Some(FilterRuleName::from((*name).to_owned())),
            value: Some((*value).to_owned()),
        });
        QueueConfiguration {
            events: events.iter().map(|event| Event::from((*event).to_owned())).collect(),
            filter: Some(NotificationConfigurationFilter {
                key: Some(S3KeyFilter { filter_rules: Some(rules.collect()) }),
            }),
            id: None,
            queue_arn: arn.to_owned(),
        }
    }

    #[test]
    fn rules_are_given_back_as_they_were_sent() {
        let sent = queue("arn:stele:webhook:::audit", &["s3:ObjectCreated:*"], &[("Prefix", "a/"), ("suffix", ".pdf")]);
        let rule = rule_of(sent, 2).expect("a rule");
        assert_eq!((rule.id.as_str(), rule.webhook.as_str()), ("rule-3", "audit"));
        assert_eq!((rule.prefix.as_str(), rule.suffix.as_str()), ("a/", ".pdf"));
        assert_eq!(rule_of(shown(rule.clone()), 0).expect("a rule"), rule);
    }

    #[test]
    fn rules_that_are_not_taken() {
        let arn = "arn:stele:webhook:::audit";
        let good = ["s3:ObjectCreated:Put"];
        for bad in
            ["", "arn:aws:sqs:us-east-1:1:q", "arn:stele:webhook:::", "arn:stele:webhook:::http://x", "https://x"]
        {
            assert!(rule_of(queue(bad, &good, &[]), 0).is_err(), "{bad}");
        }
        for bad in ["s3:*", "s3:ObjectCreated", "s3:ObjectCreated:Pu*", "s3:Nothing:*", "s3:TestEvent", ""] {
            assert!(rule_of(queue(arn, &[bad], &[]), 0).is_err(), "{bad}");
        }
        assert!(rule_of(queue(arn, &[], &[]), 0).is_err());
        assert!(rule_of(queue(arn, &good, &[("infix", "a")]), 0).is_err());
        assert!(rule_of(queue(arn, &good, &[("prefix", "a"), ("Prefix", "b")]), 0).is_err());
        let twice = NotificationConfiguration {
            queue_configurations: Some(vec![
                QueueConfiguration { id: Some("a".into()), ..queue(arn, &good, &[]) },
                QueueConfiguration { id: Some("a".into()), ..queue(arn, &good, &[]) },
            ]),
            ..NotificationConfiguration::default()
        };
        assert!(row_of(twice).is_err());
        assert!(rule_of(QueueConfiguration { id: Some("x".repeat(256)), ..queue(arn, &good, &[]) }, 0).is_err());
    }

    #[test]
    fn a_webhook_is_not_told_twice_by_two_rules() {
        let of = |events: &[&str], filters: &[(&str, &str)], arn: &str| queue(arn, events, filters);
        let taken = |one: QueueConfiguration, other: QueueConfiguration| {
            row_of(NotificationConfiguration {
                queue_configurations: Some(vec![one, other]),
                ..NotificationConfiguration::default()
            })
            .is_ok()
        };
        let (a, b) = ("arn:stele:webhook:::a", "arn:stele:webhook:::b");
        let (put, all) = (["s3:ObjectCreated:Put"], ["s3:ObjectCreated:*"]);
        assert!(
            !taken(of(&put, &[], a), of(&all, &[], a)) && !taken(of(&all, &[], a), of(&put, &[("prefix", "x")], a))
        );
        assert!(!taken(of(&put, &[("prefix", "x")], a), of(&put, &[("suffix", "y")], a)), "x...y is told of by both");
        assert!(!taken(of(&put, &[("prefix", "xy")], a), of(&put, &[("prefix", "x")], a)));
        assert!(taken(of(&put, &[("prefix", "x")], a), of(&put, &[("prefix", "y")], a)));
        assert!(taken(of(&put, &[("suffix", ".x")], a), of(&put, &[("suffix", ".y")], a)));
        assert!(taken(of(&put, &[], a), of(&["s3:ObjectCreated:Copy"], &[], a)));
        assert!(taken(of(&put, &[], a), of(&put, &[], b)), "two webhooks may be told of the same");
        let rule = rule_of(of(&["s3:ObjectCreated:Put"; 1000], &[], a), 0).expect("a rule");
        assert_eq!(rule.events, put);
    }
}
