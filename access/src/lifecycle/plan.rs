//! What becomes of the versions of a key, and of uploads.
//!
//! Source: Amazon S3 User Guide, "Lifecycle configuration elements" (how days are counted), "Examples of lifecycle configurations",
//! "Lifecycle configuration: conflicting actions": to delete for good comes before a move, a move before a delete marker, the deeper
//! class before the other one.

use super::rule::{Class, Expiration, Filter, NoncurrentTransition, Rule, Transition, When};

/// Where `all_storage_classes_128K` was asked for, versions smaller than this are not moved, unless their rule speaks of sizes (S3 User
/// Guide, "Transitioning objects", "Constraints").
pub const LEAST_MOVED: u64 = 128 << 10;

/// How long a day is. Rules count from the midnight after: days are multiples of this from the Unix epoch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// 24 hours, but in tests.
    pub day_ms: u64,
}

impl Default for Calendar {
    fn default() -> Calendar {
        Calendar { day_ms: 24 * 3600 * 1000 }
    }
}

impl Calendar {
    /// The midnight at or after so many days from a moment.
    pub fn after(self, from_ms: u64, days: u32) -> u64 {
        let day = self.day_ms.max(1);
        let end = from_ms.saturating_add(day.saturating_mul(u64::from(days)));
        end.div_ceil(day).saturating_mul(day)
    }

    fn due(self, from_ms: u64, when: When) -> u64 {
        match when {
            When::Days(days) => self.after(from_ms, days),
            When::Date(ms) => ms,
        }
    }
}

/// How a bucket keeps versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    /// It never kept any.
    Never,
    /// It does.
    Enabled,
    /// It did: what is put replaces the null version.
    Suspended,
}

/// What is known of a version.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// When it was put, in milliseconds since the Unix epoch: the later of Last-Modified and the retention clock at its commit, so that
    /// a gateway whose clock was wrong makes nothing older than it is.
    pub put_ms: u64,
    /// It is a delete marker.
    pub delete_marker: bool,
    /// It is the null version.
    pub null: bool,
    /// Its bytes.
    pub size: u64,
    /// Its tags.
    pub tags: &'a [(String, String)],
    /// Where it lies.
    pub class: Class,
}

/// What is to be done with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// As DELETE without a version: a delete marker, or the end where no versions are kept.
    Expire,
    /// It is deleted for good. Also a delete marker.
    Delete,
    /// It moves.
    Move(Class),
}

/// What is to be done at a moment, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Which of the versions.
    pub version: usize,
    /// What.
    pub action: Action,
    /// [`Rule::id`].
    pub rule: &'a str,
}

impl Filter {
    /// Whether a version is meant. Delete markers have neither tags nor a size.
    pub fn selects(&self, key: &str, version: &Version<'_>) -> bool {
        if !key.starts_with(&self.prefix) || (version.delete_marker && self.needs_object()) {
            return false;
        }
        self.larger_than.is_none_or(|than| version.size > than)
            && self.smaller_than.is_none_or(|than| version.size < than)
            && self.tags.iter().all(|tag| version.tags.contains(tag))
    }
}

/// What is to be done with the versions of a key, newest first. `now_ms` is the earlier of the retention clock and the machine's: a
/// clock that was set forward expires nothing. At most one step for each version.
pub fn plan<'a>(
    rules: &'a [Rule],
    key: &str,
    versions: &[Version<'_>],
    versioning: Versioning,
    calendar: Calendar,
    now_ms: u64,
) -> Vec<Step<'a>> {
    let of = |at| plan_one(rules, key, versions, at, versioning, calendar, now_ms);
    (0..versions.len()).filter_map(of).collect()
}

/// What is to be done with one of the versions.
pub fn plan_one<'a>(
    rules: &'a [Rule],
    key: &str,
    versions: &[Version<'_>],
    at: usize,
    versioning: Versioning,
    calendar: Calendar,
    now_ms: u64,
) -> Option<Step<'a>> {
    let version = versions.get(at)?;
    let found = rules.iter().filter(|rule| rule.enabled && rule.filter.selects(key, version)).filter_map(|rule| {
        let action = match at {
            0 => of_current(rule, versions, versioning, calendar, now_ms),
            _ => of_noncurrent(rule, versions, at, calendar, now_ms),
        };
        action.map(|action| Step { version: at, action, rule: &rule.id })
    });
    heaviest(found)
}

/// Of several steps for a version one is done. Of rules that say the same the first one is named.
fn heaviest<'a>(steps: impl Iterator<Item = Step<'a>>) -> Option<Step<'a>> {
    steps.reduce(|first, next| if weight(next.action) > weight(first.action) { next } else { first })
}

fn weight(action: Action) -> (u8, Class) {
    match action {
        Action::Delete => (2, Class::Standard),
        Action::Move(class) => (1, class),
        Action::Expire => (0, Class::Standard),
    }
}

fn of_current(
    rule: &Rule,
    versions: &[Version<'_>],
    versioning: Versioning,
    calendar: Calendar,
    now_ms: u64,
) -> Option<Action> {
    let current = versions.first()?;
    let over = |when| calendar.due(current.put_ms, when) <= now_ms;
    if current.delete_marker {
        let lone = versions.len() == 1;
        let old = match rule.expiration? {
            Expiration::LoneMarkers => true,
            Expiration::At(when) => over(when),
        };
        return (lone && old).then_some(Action::Delete);
    }
    let expires = matches!(rule.expiration, Some(Expiration::At(when)) if over(when));
    if expires {
        // Without versions nothing is left of it: to delete it for good.
        return Some(if versioning == Versioning::Never { Action::Delete } else { Action::Expire });
    }
    let due = |transition: &&Transition| over(transition.when);
    moved(rule, current, rule.transitions.iter().filter(due).map(|transition| transition.class))
}

fn moved(rule: &Rule, version: &Version<'_>, classes: impl Iterator<Item = Class>) -> Option<Action> {
    let small = version.size < rule.least_moved && !rule.filter.has_size();
    if version.delete_marker || small {
        return None;
    }
    classes.max().filter(|class| *class > version.class).map(Action::Move)
}

fn of_noncurrent(rule: &Rule, versions: &[Version<'_>], at: usize, calendar: Calendar, now_ms: u64) -> Option<Action> {
    let (version, successor) = (versions.get(at)?, versions.get(at.checked_sub(1)?)?);
    // It became noncurrent when its successor was put.
    let over = |days| calendar.after(successor.put_ms, days) <= now_ms;
    // Delete markers among the newer ones keep nothing: what is to be kept are versions that can be read.
    let newer = versions.get(1..at)?.iter().filter(|newer| !newer.delete_marker).count();
    let beyond = |kept: Option<u32>| kept.is_none_or(|kept| newer >= usize::try_from(kept).unwrap_or(usize::MAX));
    if rule.noncurrent.is_some_and(|noncurrent| over(noncurrent.days) && beyond(noncurrent.newer)) {
        return Some(Action::Delete);
    }
    let due = |transition: &&NoncurrentTransition| over(transition.when.days) && beyond(transition.when.newer);
    moved(rule, version, rule.noncurrent_transitions.iter().filter(due).map(|transition| transition.class))
}

/// When a current version expires, and by which rule: for `x-amz-expiration`.
pub fn expires<'a>(rules: &'a [Rule], key: &str, version: &Version<'_>, calendar: Calendar) -> Option<(u64, &'a str)> {
    if version.delete_marker {
        return None;
    }
    let of_rule = |rule: &'a Rule| match rule.expiration {
        Some(Expiration::At(when)) if rule.enabled && rule.filter.selects(key, version) => {
            Some((calendar.due(version.put_ms, when), rule.id.as_str()))
        }
        _ => None,
    };
    rules.iter().filter_map(of_rule).min_by_key(|&(due, _)| due)
}

/// When an upload is dropped, and by which rule: for `x-amz-abort-date` and `x-amz-abort-rule-id`.
pub fn aborts<'a>(rules: &'a [Rule], key: &str, opened_ms: u64, calendar: Calendar) -> Option<(u64, &'a str)> {
    let of_rule = |rule: &'a Rule| {
        let days = rule.abort_days.filter(|_| rule.enabled && key.starts_with(&rule.filter.prefix))?;
        Some((calendar.after(opened_ms, days), rule.id.as_str()))
    };
    rules.iter().filter_map(of_rule).min_by_key(|&(due, _)| due)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
