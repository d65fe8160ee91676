//! What the rules of a bucket do, decided.
//!
//! Invariants:
//! * Whoever looks for what is due reads pages, and its plan is old when it comes here: by then a version may have lost the tag that
//!   its rule asks for, the rule may be gone, newer versions that it counted may be gone. So each step is judged again, by the rules
//!   and the rows as they are when the entry is decided, and is done only if that comes to the same. Else what somebody has just taken
//!   out of a rule, and was answered, would go for good.
//! * Nothing is done while reclaim is held (R10), from the entry on that sets the hold.
//! * A version goes through [`super::removal`] like any other, and nothing is bypassed.
//! * What an entry reads is bounded: [`MAX_READ`], [`MAX_PARTS`].

use super::delete::{Done, Order, expire};
use super::removal::Why;
use super::{DecideError, Draft, bucket, change, upload};
use crate::command::{FollowRules, MAX_DELETE_KEYS, Outcome, Refusal, RuleStep};
use crate::index::access::bucket_config;
use crate::index::versions::version_at;
use crate::index::{self, IndexError, OBJECTS, reclaim};
use crate::lifecycle as rows;
use access::lifecycle::plan::{Action, Version, aborts, plan_one};
use access::lifecycle::restore::Restore;
use access::lifecycle::rule::Rule;
use codec::effect::{BucketRow, ConfigKind, UploadName, VersionRow};
use std::collections::BTreeSet;

/// Most newer versions of a key that are read to count those that a rule keeps. Where delete markers hide them behind as many, a
/// version stays that could go.
const MAX_NEWER: usize = 1000;
/// Most bytes of rows that an entry reads to count them. The committer waits for it; whoever asked for more asks for half.
const MAX_READ: usize = 16 << 20;
/// Most parts, and chunks of them, of the uploads that an entry drops, unless it is one upload: five hundred of ten thousand parts each
/// would hold all other commits up for longer than anybody waits.
const MAX_PARTS: usize = 20_000;
/// Rows read at a time.
const PAGE: usize = 32;

/// What the steps of an entry have in common.
struct Rules<'a> {
    bucket: &'a BucketRow,
    rules: Vec<Rule>,
    follow: &'a FollowRules,
    /// Most versions that one of the rules keeps.
    kept: usize,
    /// The newest versions of the key that was looked at last.
    newest: Option<(String, Vec<VersionRow>)>,
    read: usize,
}

/// [`Command::FollowRules`](crate::command::Command::FollowRules). A refusal in the answer concerns one step.
pub(super) fn follow(draft: &mut Draft<'_>, follow: &FollowRules) -> Result<Outcome, DecideError> {
    if let Some(hold) = reclaim::hold(draft.view)? {
        return Err(Refusal::ReclaimHeld(hold).into());
    }
    let bucket = bucket::existing(draft, follow.bucket)?;
    if follow.steps.len() + follow.uploads.len() > MAX_DELETE_KEYS {
        return Err(Refusal::TooLarge.into());
    }
    let config = bucket_config(draft.view, follow.bucket, ConfigKind::Lifecycle, "")?;
    let rules = config.and_then(|config| rows::rules_of(&config.body).ok()).ok_or(Refusal::PreconditionFailed)?;
    let mut rules = Rules { bucket: &bucket, kept: most_kept(&rules), rules, follow, newest: None, read: 0 };
    let (mut done, mut seen) = (Done::default(), BTreeSet::new());
    let mut results = Vec::with_capacity(follow.steps.len() + follow.uploads.len());
    for step in &follow.steps {
        let result = match seen.insert((step.key.as_str(), step.seq)) {
            true => carry_out(draft, &mut done, &mut rules, step),
            false => Err(Refusal::PreconditionFailed.into()),
        };
        results.push(of_one(result)?);
    }
    results.extend(abort_all(draft, &rules)?);
    Ok(Outcome::RulesFollowed(results))
}

/// What refuses one step leaves the others; what is too large is the whole.
fn of_one(result: Result<(), DecideError>) -> Result<Result<(), Refusal>, DecideError> {
    match result {
        Err(DecideError::Refused(refusal)) if refusal != Refusal::TooLarge => Ok(Err(refusal)),
        other => other.map(Ok),
    }
}

fn most_kept(rules: &[Rule]) -> usize {
    let of_rule = |rule: &Rule| {
        let expires = rule.noncurrent.and_then(|when| when.newer);
        let moves = rule.noncurrent_transitions.iter().filter_map(|moved| moved.when.newer).max();
        expires.max(moves).unwrap_or(0)
    };
    rules.iter().map(of_rule).max().map_or(0, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

fn carry_out(
    draft: &mut Draft<'_>,
    done: &mut Done,
    rules: &mut Rules<'_>,
    step: &RuleStep,
) -> Result<(), DecideError> {
    let found = version_at(draft.view, rules.follow.bucket, &step.key, step.seq)?;
    let Some(row) = found.filter(|row| !done.has_removed(row)) else { return Err(Refusal::PreconditionFailed.into()) };
    if rules.judge(draft, step, &row)? != Some(step.action) {
        return Err(Refusal::PreconditionFailed.into());
    }
    match step.action {
        Action::Delete => done.remove(draft, &row, Why::Request { bypass: false }),
        Action::Expire => {
            let FollowRules { nonce, now_ms, .. } = *rules.follow;
            expire(draft, done, &Order { bucket: rules.bucket, owner: "", nonce, now_ms }, &step.key)
        }
        // What is being made readable stays where it is until that is done.
        Action::Move(_) if matches!(rows::restore_of(&row), Restore::Ongoing { .. }) => {
            Err(Refusal::PreconditionFailed.into())
        }
        Action::Move(class) => {
            change::class(draft, row, class);
            Ok(())
        }
    }
}

impl Rules<'_> {
    /// What the rules say of a version as it is now.
    fn judge(&mut self, draft: &Draft<'_>, step: &RuleStep, row: &VersionRow) -> Result<Option<Action>, DecideError> {
        self.read_newest(draft, &step.key)?;
        let newest = self.newest.as_ref().map_or(&[][..], |(_, rows)| rows);
        let newer: Vec<&VersionRow> = newest.iter().take_while(|newest| newest.seq > step.seq.0).collect();
        let (tags, of_newer) = (rows::tags(&row.tags), |row| rows::version(self.bucket, row, &[]));
        let version = rows::version(self.bucket, row, &tags);
        let versions: Vec<Version<'_>> = match step.noncurrent_ms {
            None if !newer.is_empty() => return Ok(None),
            // One that lies below tells that a marker is not alone.
            None => std::iter::once(version).chain(newest.iter().skip(1).map(of_newer)).collect(),
            Some(_) if newer.is_empty() => return Ok(None),
            Some(put_ms) => {
                // The one that it became noncurrent by counts for nothing else here: it may be gone.
                let above =
                    Version { put_ms, delete_marker: true, null: false, size: 0, tags: &[], class: version.class };
                newer.into_iter().map(of_newer).chain([above, version]).collect()
            }
        };
        let at = if step.noncurrent_ms.is_some() { versions.len() - 1 } else { 0 };
        let (versioning, calendar) = (rows::versioning(self.bucket), self.follow.calendar);
        let step = plan_one(&self.rules, &step.key, &versions, at, versioning, calendar, self.follow.due_ms);
        Ok(step.map(|step| step.action))
    }

    /// Reads the newest versions of a key: two, and as many that can be read as a rule keeps.
    fn read_newest(&mut self, draft: &Draft<'_>, key: &str) -> Result<(), DecideError> {
        if self.newest.as_ref().is_some_and(|(of, _)| of == key) {
            return Ok(());
        }
        let mut start = index::versions_of(self.follow.bucket, key);
        let end = index::after_prefix(&start).unwrap_or_default();
        let mut newest: Vec<VersionRow> = Vec::new();
        let enough = |newest: &[VersionRow]| {
            let readable = newest.iter().skip(1).filter(|row| !row.delete_marker).count();
            newest.len() >= 2 && readable >= self.kept
        };
        while !enough(&newest) && newest.len() < MAX_NEWER {
            let limit = if self.kept == 0 { 2 } else { PAGE };
            let read = draft.view.rows(OBJECTS, &start, &end, limit)?;
            let is_all = read.len() < limit;
            for (row, value) in read {
                self.read += value.len();
                newest.push(index::decode(OBJECTS, &row, value)?);
                start = [&row[..], &[0]].concat();
            }
            if is_all {
                break;
            }
        }
        if self.read > MAX_READ && self.follow.steps.len() > 1 {
            return Err(Refusal::TooLarge.into());
        }
        self.newest = Some((key.to_owned(), newest));
        Ok(())
    }
}

/// Drops uploads. Whoever asked for more than may be in an entry asks for half.
fn abort_all(draft: &mut Draft<'_>, rules: &Rules<'_>) -> Result<Vec<Result<(), Refusal>>, DecideError> {
    let uploads = &rules.follow.uploads;
    let (mut seen, mut parts) = (BTreeSet::new(), 0);
    let mut results = Vec::with_capacity(uploads.len());
    for name in uploads {
        let result = match seen.insert(name.upload_id.as_str()) {
            true => abort(draft, rules, name).map(|count| parts += count),
            false => Err(Refusal::NoSuchUpload.into()),
        };
        results.push(of_one(result)?);
        if uploads.len() > 1 && parts.max(draft.chunks.len()) > MAX_PARTS {
            return Err(Refusal::TooLarge.into());
        }
    }
    Ok(results)
}

/// Drops an upload, if it is due: how many parts it had.
fn abort(draft: &mut Draft<'_>, rules: &Rules<'_>, name: &UploadName) -> Result<usize, DecideError> {
    let found: Result<_, IndexError> = index::upload(draft.view, name);
    let row = found?.filter(|_| name.bucket == rules.bucket.id).ok_or(Refusal::NoSuchUpload)?;
    let due = aborts(&rules.rules, &name.key, rows::opened_ms(rules.bucket, &row), rules.follow.calendar);
    if due.is_none_or(|(due, _)| due > rules.follow.due_ms) {
        return Err(Refusal::PreconditionFailed.into());
    }
    upload::release_upload(draft, name.clone())
}
