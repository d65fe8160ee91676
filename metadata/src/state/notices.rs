//! What happens in buckets and is to be told to others ([`index::notices`]): found in the effects that a command has come to, so that
//! nothing is told that was refused, and what was acknowledged is told, whoever fails in between.
//!
//! Invariants:
//! * A webhook is told of a change once, however many rules name it.
//! * What one entry queues is bounded ([`MOST_BYTES`]), and so is what waits ([`notices::Room`]): beyond that the change is made, nobody
//!   is told of it, and how often that was is known.

use super::{DecideError, Draft};
use crate::command::{Command, MAX_REPLICATION_KEYS, Made, Outcome, Refusal, VersionChange};
use crate::index::notices::{self, Room};
use crate::index::{self, access as rows, versions};
use codec::effect::{
    BucketRow, ConfigKind, EffectKind, LostNoticesRow, NoticeName, NoticeRow, NoticesRow, NotificationRow,
    NotificationRuleRow, VersionRow,
};
use codec::id::{BucketId, Lsn};
use prost::Message as _;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Bytes of the notices of one entry: a deletion of a thousand keys of which many webhooks are told must not become an entry that
/// holds all others up.
const MOST_BYTES: usize = 8 << 20;

/// A change of a key.
struct Happened<'a> {
    bucket: u64,
    key: &'a str,
    event: &'static str,
    /// The version; none where it is gone.
    version: Option<&'a VersionRow>,
    version_id: String,
}

/// Queues what the rules of buckets say of the draft's changes.
pub(super) fn note(draft: &mut Draft<'_>, command: &Command) -> Result<(), DecideError> {
    let Queued { queued, lost, .. } = {
        let happened = happened(draft, command)?;
        let mut of = HashMap::new();
        let mut all = Queued::default();
        for change in &happened {
            let found = match of.entry(change.bucket) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(rules(draft, BucketId(change.bucket))?),
            };
            let Some((bucket, rules)) = found else { continue };
            for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| is_about(rule, change)) {
                // Earlier rules have told the same webhook already.
                let again =
                    |earlier: &&NotificationRuleRow| earlier.webhook == rule.webhook && is_about(earlier, change);
                if rules[..number].iter().any(|earlier| again(&earlier)) {
                    continue;
                }
                all.queue(draft, bucket, rule, change)?;
            }
        }
        all
    };
    if !queued.is_empty() || !lost.is_empty() {
        let lost = lost.into_iter().map(|(webhook, count)| LostNoticesRow { webhook, count }).collect();
        draft.rows.push(EffectKind::Notices(NoticesRow { queued, lost, ..NoticesRow::default() }));
    }
    Ok(())
}

/// What an entry queues.
#[derive(Default)]
struct Queued {
    queued: Vec<NoticeRow>,
    bytes: usize,
    /// How many are not queued, by webhook.
    lost: BTreeMap<String, u64>,
    /// By webhook and account.
    rooms: HashMap<(String, String), Room>,
}

impl Queued {
    fn queue(
        &mut self,
        draft: &Draft<'_>,
        bucket: &BucketRow,
        rule: &NotificationRuleRow,
        change: &Happened<'_>,
    ) -> Result<(), DecideError> {
        let room = match self.rooms.entry((rule.webhook.clone(), bucket.owner.clone())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Room::of(draft.view, &rule.webhook, &bucket.owner)?),
        };
        let notice = notice(draft, bucket, rule, change, self.queued.len());
        let bytes = notice.encoded_len();
        if !room.is_left() || self.bytes + bytes > MOST_BYTES {
            *self.lost.entry(rule.webhook.clone()).or_default() += 1;
            return Ok(());
        }
        (room.waiting, room.own) = (room.waiting + 1, room.own + 1);
        self.bytes += bytes;
        self.queued.push(notice);
        Ok(())
    }
}

fn rules(draft: &Draft<'_>, bucket: BucketId) -> Result<Option<(BucketRow, Vec<NotificationRuleRow>)>, DecideError> {
    let Some(config) = rows::bucket_config(draft.view, bucket, ConfigKind::Notification, "")? else { return Ok(None) };
    let Some(row) = index::bucket_by_id(draft.view, bucket)? else { return Ok(None) };
    // One that can't be read names nobody to tell; a write is not refused for it.
    let rules = NotificationRow::of_body(config.body).map(|kept| kept.rules).unwrap_or_default();
    Ok(Some((row, rules)))
}

fn notice(
    draft: &Draft<'_>,
    bucket: &BucketRow,
    rule: &NotificationRuleRow,
    change: &Happened<'_>,
    number: usize,
) -> NoticeRow {
    let content = change.version.and_then(|version| version.content.as_ref());
    NoticeRow {
        name: Some(NoticeName {
            webhook: rule.webhook.clone(),
            seq: draft.at.lsn.0,
            number: u32::try_from(number).unwrap_or(u32::MAX),
        }),
        rule: rule.id.clone(),
        bucket: bucket.name.clone(),
        owner: bucket.owner.clone(),
        key: change.key.to_owned(),
        event: change.event.to_owned(),
        size: content.map_or(0, |content| content.size),
        etag: content.map(|content| content.etag.clone()).unwrap_or_default(),
        version_id: change.version_id.clone(),
        at_ms: draft.at.wall_ms,
    }
}

fn is_about(rule: &NotificationRuleRow, change: &Happened<'_>) -> bool {
    let named = |pattern: &String| match pattern.strip_suffix('*') {
        Some(start) => change.event.starts_with(start),
        None => pattern == change.event,
    };
    rule.events.iter().any(named) && change.key.starts_with(&rule.prefix) && change.key.ends_with(&rule.suffix)
}

fn happened<'a>(draft: &'a Draft<'_>, command: &Command) -> Result<Vec<Happened<'a>>, DecideError> {
    let by_rule = matches!(command, Command::FollowRules(_));
    let put: HashSet<(u64, &str)> = draft
        .rows
        .iter()
        .filter_map(|row| match row {
            EffectKind::PutVersion(row) => Some((row.bucket, row.key.as_str())),
            _ => None,
        })
        .collect();
    let mut happened = Vec::new();
    for kind in &draft.rows {
        match kind {
            EffectKind::PutVersion(row) => {
                let Some(event) = event_of_put(draft, command, row, by_rule) else { continue };
                let (key, version_id) = (row.key.as_str(), row.version_id.clone());
                happened.push(Happened { bucket: row.bucket, key, event, version: Some(row), version_id });
            }
            // What a new version takes the place of was not removed by anybody.
            EffectKind::DeleteVersion(name) if !put.contains(&(name.bucket, name.key.as_str())) => {
                let event = if by_rule { "s3:LifecycleExpiration:Delete" } else { "s3:ObjectRemoved:Delete" };
                let gone = versions::version_at(draft.view, BucketId(name.bucket), &name.key, Lsn(name.seq))?;
                let version_id = gone.map(|row| row.version_id).unwrap_or_default();
                happened.push(Happened { bucket: name.bucket, key: &name.key, event, version: None, version_id });
            }
            _ => {}
        }
    }
    Ok(happened)
}

fn event_of_put(draft: &Draft<'_>, command: &Command, row: &VersionRow, by_rule: bool) -> Option<&'static str> {
    if row.seq < draft.at.lsn.0 {
        return match command {
            Command::ChangeVersion(change) => event_of_change(&change.change),
            Command::FollowRules(_) => Some("s3:LifecycleTransition"),
            _ => None,
        };
    }
    match command {
        _ if row.delete_marker && by_rule => Some("s3:LifecycleExpiration:DeleteMarkerCreated"),
        _ if row.delete_marker => Some("s3:ObjectRemoved:DeleteMarkerCreated"),
        Command::CompleteUpload(_) => Some("s3:ObjectCreated:CompleteMultipartUpload"),
        Command::CommitObject(commit) => Some(match commit.attached.made {
            Made::Put => "s3:ObjectCreated:Put",
            Made::Copy => "s3:ObjectCreated:Copy",
            Made::Post => "s3:ObjectCreated:Post",
        }),
        _ => Some("s3:ObjectCreated:Put"),
    }
}

fn event_of_change(change: &VersionChange) -> Option<&'static str> {
    match change {
        VersionChange::Tags(tags) if tags.is_empty() => Some("s3:ObjectTagging:Delete"),
        VersionChange::Tags(_) => Some("s3:ObjectTagging:Put"),
        VersionChange::Acl(_) => Some("s3:ObjectAcl:Put"),
        VersionChange::Restore { to: Some(restore), .. } if restore.until_ms == 0 => Some("s3:ObjectRestore:Post"),
        VersionChange::Restore { to: Some(_), .. } => Some("s3:ObjectRestore:Completed"),
        VersionChange::Restore { to: None, .. } => Some("s3:ObjectRestore:Delete"),
        VersionChange::Retention(_) | VersionChange::Hold(_) => None,
    }
}

/// What was told, or never will be, waits no more.
pub(super) fn done(draft: &mut Draft<'_>, names: &[NoticeName]) -> Result<Outcome, DecideError> {
    if names.len() > MAX_REPLICATION_KEYS {
        return Err(Refusal::TooLarge.into());
    }
    let mut done = Vec::new();
    for name in names {
        if notices::waits(draft.view, name)? {
            done.push(name.clone());
        }
    }
    if !done.is_empty() {
        draft.rows.push(EffectKind::Notices(NoticesRow { done, ..NoticesRow::default() }));
    }
    Ok(Outcome::Done)
}

/// What was lost of a webhook's counts no more.
pub(super) fn seen(draft: &mut Draft<'_>, webhook: &str) -> Result<Outcome, DecideError> {
    if notices::lost(draft.view, webhook)? > 0 {
        let seen = vec![webhook.to_owned()];
        draft.rows.push(EffectKind::Notices(NoticesRow { seen, ..NoticesRow::default() }));
    }
    Ok(Outcome::Done)
}
