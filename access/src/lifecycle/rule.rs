//! What a rule may say.

use std::collections::HashSet;

/// Most rules of a bucket.
pub const MAX_RULES: usize = 1000;
/// Most newer noncurrent versions that a rule may keep.
pub const MAX_NEWER: u32 = 100;
/// Most days: more than a human life, and far from any overflow.
pub const MAX_DAYS: u32 = 36_500;

/// The classes that a version may be moved to, by how deep they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Read at once. Also whatever other class a client named that is read at once.
    Standard,
    /// `GLACIER`: read after a restore.
    Glacier,
    /// `DEEP_ARCHIVE`: the same, and last.
    DeepArchive,
}

impl Class {
    /// A class that versions can be moved to, by its name.
    pub fn target(name: &str) -> Option<Class> {
        match name {
            "GLACIER" => Some(Class::Glacier),
            "DEEP_ARCHIVE" => Some(Class::DeepArchive),
            _ => None,
        }
    }

    /// The class of a version, by the name that its row has.
    pub fn of_label(label: &str) -> Class {
        Class::target(label).unwrap_or(Class::Standard)
    }
}

/// Which objects a rule is about. All of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Their keys begin so.
    pub prefix: String,
    /// They have these tags.
    pub tags: Vec<(String, String)>,
    /// They are larger, in bytes.
    pub larger_than: Option<u64>,
    /// They are smaller, in bytes.
    pub smaller_than: Option<u64>,
}

impl Filter {
    /// Whether it says something of objects that uploads and delete markers don't have.
    pub fn needs_object(&self) -> bool {
        !self.tags.is_empty() || self.has_size()
    }

    /// Whether it names sizes.
    pub fn has_size(&self) -> bool {
        self.larger_than.is_some() || self.smaller_than.is_some()
    }
}

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So many days after the version was put.
    Days(u32),
    /// At a moment: midnight of a day in UTC, in milliseconds since the Unix epoch.
    Date(u64),
}

/// When current versions expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiration {
    /// Then. Delete markers that are alone go, too.
    At(When),
    /// Never; but delete markers that are alone go.
    LoneMarkers,
}

/// When noncurrent versions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noncurrent {
    /// So many days after they became noncurrent.
    pub days: u32,
    /// But the newest so many stay.
    pub newer: Option<u32>,
}

/// A move of current versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When.
    pub when: When,
    /// Where to.
    pub class: Class,
}

/// A move of noncurrent versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoncurrentTransition {
    /// When, and which stay.
    pub when: Noncurrent,
    /// Where to.
    pub class: Class,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its name: unique, at most 255 characters. Whoever reads a rule without one gives it one.
    pub id: String,
    /// It is followed.
    pub enabled: bool,
    /// Which objects.
    pub filter: Filter,
    /// When current versions expire.
    pub expiration: Option<Expiration>,
    /// When noncurrent versions go.
    pub noncurrent: Option<Noncurrent>,
    /// Moves of current versions.
    pub transitions: Vec<Transition>,
    /// Moves of noncurrent versions.
    pub noncurrent_transitions: Vec<NoncurrentTransition>,
    /// Uploads are dropped so many days after they were opened.
    pub abort_days: Option<u32>,
    /// Smaller versions are not moved, unless the filter names sizes, in bytes. What the bucket's configuration says for all its rules.
    pub least_moved: u64,
}

/// Why rules are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No rule, or too many. S3: MalformedXML.
    #[error("a lifecycle configuration has 1 to {MAX_RULES} rules")]
    Rules,
    /// S3: InvalidArgument.
    #[error("ID length should not exceed allowed limit of 255")]
    LongId,
    /// S3: InvalidArgument.
    #[error("Rule ID must be unique. Found same ID for more than one rule")]
    SameId,
    /// S3: InvalidRequest.
    #[error("At least one action needs to be specified in a rule")]
    NoAction,
    /// Zero, or more than [`MAX_DAYS`]. S3: InvalidArgument.
    #[error("'{0}' must be a positive integer, and at most {MAX_DAYS}")]
    Days(&'static str),
    /// S3: InvalidArgument.
    #[error("'Date' must be at midnight GMT")]
    Midnight,
    /// S3: InvalidRequest.
    #[error("Found mixed 'Date' and 'Days' based Expiration and Transition actions in lifecycle rule")]
    Mixed,
    /// Delete markers and uploads have neither tags nor sizes. S3: InvalidRequest.
    #[error("{0} can not be specified with tags or object sizes")]
    Filter(&'static str),
    /// S3: InvalidRequest.
    #[error("'ObjectSizeLessThan' must be greater than 'ObjectSizeGreaterThan'")]
    Sizes,
    /// Empty or long ones, or a key twice. S3: InvalidRequest.
    #[error("the tag {0:?} is not well-formed, or there twice")]
    Tag(String),
    /// S3: InvalidArgument.
    #[error("'NewerNoncurrentVersions' must be 1 to {MAX_NEWER}")]
    Newer,
    /// The same class twice, or a move up. S3: InvalidRequest, InvalidArgument.
    #[error("transitions must go to each class once, and to a deeper one later")]
    Order,
    /// S3: InvalidArgument.
    #[error("the expiration must be later than every transition")]
    ExpiresFirst,
}

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Refuses rules that can't be followed.
pub fn check(rules: &[Rule]) -> Result<(), RuleError> {
    if rules.is_empty() || rules.len() > MAX_RULES {
        return Err(RuleError::Rules);
    }
    let mut ids = HashSet::new();
    for rule in rules {
        if rule.id.chars().count() > 255 {
            return Err(RuleError::LongId);
        }
        if !ids.insert(&rule.id) {
            return Err(RuleError::SameId);
        }
        check_rule(rule)?;
    }
    Ok(())
}

fn check_rule(rule: &Rule) -> Result<(), RuleError> {
    let nothing = rule.expiration.is_none()
        && rule.noncurrent.is_none()
        && rule.transitions.is_empty()
        && rule.noncurrent_transitions.is_empty()
        && rule.abort_days.is_none();
    if nothing {
        return Err(RuleError::NoAction);
    }
    check_filter(&rule.filter)?;
    if rule.filter.needs_object() && rule.expiration == Some(Expiration::LoneMarkers) {
        return Err(RuleError::Filter("ExpiredObjectDeleteMarker"));
    }
    if rule.filter.needs_object() && rule.abort_days.is_some() {
        return Err(RuleError::Filter("AbortIncompleteMultipartUpload"));
    }
    let positive = |days: u32, what| match days {
        1..=MAX_DAYS => Ok(()),
        _ => Err(RuleError::Days(what)),
    };
    if let Some(days) = rule.abort_days {
        positive(days, "DaysAfterInitiation")?;
    }
    if let Some(noncurrent) = rule.noncurrent {
        positive(noncurrent.days, "NoncurrentDays")?;
        check_newer(noncurrent)?;
    }
    check_current(rule)?;
    check_noncurrent_moves(rule)
}

fn check_newer(noncurrent: Noncurrent) -> Result<(), RuleError> {
    match noncurrent.newer {
        Some(newer) if !(1..=MAX_NEWER).contains(&newer) => Err(RuleError::Newer),
        _ => Ok(()),
    }
}

/// Limits of tags: Amazon S3 User Guide, "Categorizing your storage using tags".
fn check_filter(filter: &Filter) -> Result<(), RuleError> {
    let mut keys = HashSet::new();
    for (key, value) in &filter.tags {
        let fits = (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
        if !fits || !keys.insert(key) {
            return Err(RuleError::Tag(key.clone()));
        }
    }
    match (filter.larger_than, filter.smaller_than) {
        (Some(larger), Some(smaller)) if smaller <= larger => Err(RuleError::Sizes),
        (_, Some(0)) => Err(RuleError::Sizes),
        _ => Ok(()),
    }
}

fn check_current(rule: &Rule) -> Result<(), RuleError> {
    let expires = match rule.expiration {
        Some(Expiration::At(when)) => Some(when),
        Some(Expiration::LoneMarkers) | None => None,
    };
    let whens: Vec<When> = rule.transitions.iter().map(|transition| transition.when).chain(expires).collect();
    for when in &whens {
        match when {
            When::Days(days) if *days > MAX_DAYS => return Err(RuleError::Days("Days")),
            When::Date(ms) if ms % DAY_MS != 0 => return Err(RuleError::Midnight),
            _ => {}
        }
    }
    if expires == Some(When::Days(0)) {
        return Err(RuleError::Days("Days"));
    }
    let dated = whens.iter().filter(|when| matches!(when, When::Date(_))).count();
    if dated != 0 && dated != whens.len() {
        return Err(RuleError::Mixed);
    }
    let number = |when: When| match when {
        When::Days(days) => u64::from(days),
        When::Date(ms) => ms,
    };
    let moves: Vec<(Class, u64)> = rule.transitions.iter().map(|t| (t.class, number(t.when))).collect();
    check_order(&moves)?;
    match expires.map(number) {
        Some(end) if moves.iter().any(|&(_, when)| when >= end) => Err(RuleError::ExpiresFirst),
        _ => Ok(()),
    }
}

fn check_noncurrent_moves(rule: &Rule) -> Result<(), RuleError> {
    for transition in &rule.noncurrent_transitions {
        if transition.when.days > MAX_DAYS {
            return Err(RuleError::Days("NoncurrentDays"));
        }
        check_newer(transition.when)?;
    }
    let moves: Vec<(Class, u64)> =
        rule.noncurrent_transitions.iter().map(|t| (t.class, u64::from(t.when.days))).collect();
    check_order(&moves)?;
    match rule.noncurrent {
        Some(end) if moves.iter().any(|&(_, when)| when >= u64::from(end.days)) => Err(RuleError::ExpiresFirst),
        _ => Ok(()),
    }
}

fn check_order(moves: &[(Class, u64)]) -> Result<(), RuleError> {
    let mut by_class = moves.to_vec();
    by_class.sort_unstable();
    let deeper_later = by_class.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
    let down = by_class.iter().all(|&(class, _)| class > Class::Standard);
    if deeper_later && down { Ok(()) } else { Err(RuleError::Order) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(change: impl FnOnce(&mut Rule)) -> Rule {
        let mut rule = Rule { enabled: true, ..Rule::default() };
        change(&mut rule);
        rule
    }

    fn days(days: u32) -> Rule {
        rule(|rule| rule.expiration = Some(Expiration::At(When::Days(days))))
    }

    fn checked(change: impl FnOnce(&mut Rule)) -> Result<(), RuleError> {
        check(&[rule(change)])
    }

    #[test]
    fn numbers_and_names_of_rules() {
        assert_eq!(check(&[]), Err(RuleError::Rules));
        let many: Vec<Rule> = (0..=MAX_RULES).map(|n| Rule { id: n.to_string(), ..days(1) }).collect();
        assert_eq!(check(&many), Err(RuleError::Rules));
        assert_eq!(check(&many[..MAX_RULES]), Ok(()));
        assert_eq!(check(&[days(1), days(2)]), Err(RuleError::SameId));
        assert_eq!(check(&[Rule { id: "x".repeat(256), ..days(1) }]), Err(RuleError::LongId));
        assert_eq!(check(&[Rule { id: "\u{e4}".repeat(255), ..days(1) }]), Ok(()));
        assert_eq!(checked(|_| {}), Err(RuleError::NoAction));
    }

    #[test]
    fn days_and_dates() {
        assert_eq!(check(&[days(0)]), Err(RuleError::Days("Days")));
        assert_eq!(check(&[days(MAX_DAYS + 1)]), Err(RuleError::Days("Days")));
        assert_eq!(checked(|r| r.abort_days = Some(0)), Err(RuleError::Days("DaysAfterInitiation")));
        assert_eq!(
            checked(|r| r.noncurrent = Some(Noncurrent { days: 0, newer: None })),
            Err(RuleError::Days("NoncurrentDays"))
        );
        assert_eq!(checked(|r| r.noncurrent = Some(Noncurrent { days: 1, newer: Some(101) })), Err(RuleError::Newer));
        assert_eq!(checked(|r| r.expiration = Some(Expiration::At(When::Date(DAY_MS)))), Ok(()));
        assert_eq!(checked(|r| r.expiration = Some(Expiration::At(When::Date(DAY_MS + 1)))), Err(RuleError::Midnight));
    }

    #[test]
    fn moves() {
        let to = |class, when| Transition { when, class };
        let (glacier, deep) = (Class::Glacier, Class::DeepArchive);
        assert_eq!(checked(|r| r.transitions = vec![to(deep, When::Days(9)), to(glacier, When::Days(0))]), Ok(()));
        for bad in [
            vec![to(glacier, When::Days(1)), to(glacier, When::Days(2))],
            vec![to(glacier, When::Days(2)), to(deep, When::Days(2))],
            vec![to(glacier, When::Days(3)), to(deep, When::Days(2))],
            vec![to(Class::Standard, When::Days(1))],
        ] {
            assert_eq!(checked(|r| r.transitions = bad), Err(RuleError::Order));
        }
        let mixed = vec![to(glacier, When::Days(1)), to(deep, When::Date(DAY_MS))];
        assert_eq!(checked(|r| r.transitions = mixed), Err(RuleError::Mixed));
        let first = Rule { transitions: vec![to(glacier, When::Days(5))], ..days(5) };
        assert_eq!(check(&[first]), Err(RuleError::ExpiresFirst));
        let when = Noncurrent { days: 3, newer: None };
        let first = rule(|r| {
            r.noncurrent = Some(when);
            r.noncurrent_transitions = vec![NoncurrentTransition { when, class: glacier }];
        });
        assert_eq!(check(&[first]), Err(RuleError::ExpiresFirst));
        assert_eq!((Class::target("STANDARD_IA"), Class::of_label("STANDARD_IA")), (None, Class::Standard));
    }

    #[test]
    fn filters() {
        let with = |filter: Filter| check(&[Rule { filter, ..days(1) }]);
        let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let tags = |tags| Filter { tags, ..Filter::default() };
        assert_eq!(with(tags(vec![tag("a", ""), tag("b", "1")])), Ok(()));
        assert!(with(tags(vec![tag("a", "1"), tag("a", "2")])).is_err() && with(tags(vec![tag("", "1")])).is_err());
        assert!(
            with(tags(vec![tag(&"k".repeat(129), "")])).is_err()
                && with(tags(vec![tag("k", &"v".repeat(257))])).is_err()
        );
        let sizes = |larger_than, smaller_than| Filter { larger_than, smaller_than, ..Filter::default() };
        assert_eq!(with(sizes(Some(1), Some(2))), Ok(()));
        assert_eq!(
            (with(sizes(Some(2), Some(2))), with(sizes(None, Some(0)))),
            (Err(RuleError::Sizes), Err(RuleError::Sizes))
        );
        for filter in [tags(vec![tag("a", "b")]), sizes(Some(1), None)] {
            let lone = rule(|r| r.expiration = Some(Expiration::LoneMarkers));
            assert!(matches!(check(&[Rule { filter: filter.clone(), ..lone }]), Err(RuleError::Filter(_))));
            assert!(matches!(check(&[Rule { filter, ..rule(|r| r.abort_days = Some(1)) }]), Err(RuleError::Filter(_))));
        }
    }
}
