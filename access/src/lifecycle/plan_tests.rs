use super::super::rule::{Noncurrent, check};
use super::*;
use proptest::prelude::*;

const DAY: u64 = 24 * 3600 * 1000;
const BIG: u64 = 1 << 20;

fn version(put_days: u64) -> Version<'static> {
    Version { put_ms: put_days * DAY, delete_marker: false, null: false, size: BIG, tags: &[], class: Class::Standard }
}

fn marker(put_days: u64) -> Version<'static> {
    Version { delete_marker: true, size: 0, ..version(put_days) }
}

fn rule(change: impl FnOnce(&mut Rule)) -> Rule {
    let mut rule = Rule { id: "r".into(), enabled: true, ..Rule::default() };
    change(&mut rule);
    assert_eq!(check(std::slice::from_ref(&rule)), Ok(()));
    rule
}

fn days(days: u32) -> Rule {
    rule(|rule| rule.expiration = Some(Expiration::At(When::Days(days))))
}

fn actions(rules: &[Rule], versions: &[Version<'_>], versioning: Versioning, now_days: u64) -> Vec<(usize, Action)> {
    let steps = plan(rules, "docs/a", versions, versioning, Calendar::default(), now_days * DAY);
    steps.into_iter().map(|step| (step.version, step.action)).collect()
}

/// The guide's example: put on 15 January at 10:30, three days, gone on 19 January at 0:00.
#[test]
fn days_are_rounded_up_to_midnight() {
    let put = 14 * DAY + 37_800_000;
    assert_eq!(Calendar::default().after(put, 3), 18 * DAY);
    assert_eq!(Calendar::default().after(14 * DAY, 3), 17 * DAY, "midnight is not rounded");
    assert_eq!(Calendar { day_ms: 10_000 }.after(10_001, 1), 30_000);
    assert_eq!(Calendar { day_ms: 0 }.after(5, 1), 6, "never a division by nothing");
    let _ = Calendar::default().after(u64::MAX, u32::MAX);
}

#[test]
fn current_versions_expire() {
    let rules = [days(3)];
    for (versioning, action) in [
        (Versioning::Never, Action::Delete),
        (Versioning::Enabled, Action::Expire),
        (Versioning::Suspended, Action::Expire),
    ] {
        assert!(actions(&rules, &[version(10)], versioning, 12).is_empty());
        assert_eq!(actions(&rules, &[version(10)], versioning, 13), [(0, action)]);
    }
    assert_eq!(actions(&rules, &[version(20), version(1)], Versioning::Enabled, 22), [], "an old noncurrent one stays");
    let dated = [rule(|rule| rule.expiration = Some(Expiration::At(When::Date(15 * DAY))))];
    assert!(actions(&dated, &[version(1)], Versioning::Enabled, 14).is_empty());
    assert_eq!(actions(&dated, &[version(1)], Versioning::Enabled, 15), [(0, Action::Expire)]);
    let disabled = [Rule { enabled: false, ..days(1) }];
    assert!(actions(&disabled, &[version(1)], Versioning::Enabled, 100).is_empty());
}

#[test]
fn lone_delete_markers_go() {
    let lone = [rule(|rule| rule.expiration = Some(Expiration::LoneMarkers))];
    assert_eq!(actions(&lone, &[marker(10)], Versioning::Enabled, 10), [(0, Action::Delete)]);
    assert!(actions(&lone, &[marker(10), version(1)], Versioning::Enabled, 50).is_empty());
    assert!(actions(&lone, &[version(10)], Versioning::Enabled, 50).is_empty());
    assert!(actions(&[days(3)], &[marker(10)], Versioning::Enabled, 12).is_empty());
    assert_eq!(actions(&[days(3)], &[marker(10)], Versioning::Enabled, 13), [(0, Action::Delete)]);
}

#[test]
fn noncurrent_versions_go() {
    let noncurrent = |days, newer| [rule(|rule| rule.noncurrent = Some(Noncurrent { days, newer }))];
    let versions = [version(40), version(30), marker(20), version(10)];
    // Noncurrent since 40, 30 and 20.
    assert_eq!(actions(&noncurrent(5, None), &versions, Versioning::Enabled, 24), []);
    assert_eq!(
        actions(&noncurrent(5, None), &versions, Versioning::Enabled, 36),
        [(2, Action::Delete), (3, Action::Delete)]
    );
    assert_eq!(
        actions(&noncurrent(5, None), &versions, Versioning::Enabled, 45),
        [(1, Action::Delete), (2, Action::Delete), (3, Action::Delete)]
    );
    assert_eq!(
        actions(&noncurrent(5, Some(1)), &versions, Versioning::Enabled, 100),
        [(2, Action::Delete), (3, Action::Delete)],
        "the newest noncurrent one stays"
    );
    assert_eq!(
        actions(&noncurrent(5, Some(2)), &versions, Versioning::Enabled, 100),
        [],
        "a marker is none of the two"
    );
}

#[test]
fn filters_select() {
    let tags = [("team".to_owned(), "a".to_owned()), ("x".to_owned(), "1".to_owned())];
    let tagged = Version { tags: &tags, ..version(1) };
    let selects = |filter: Filter, version: &Version<'_>| filter.selects("docs/a", version);
    let filter = Filter::default;
    assert!(selects(filter(), &tagged) && selects(Filter { prefix: "docs/".into(), ..filter() }, &tagged));
    assert!(!selects(Filter { prefix: "doc/".into(), ..filter() }, &tagged));
    let team = |value: &str| Filter { tags: vec![("team".into(), value.into())], ..filter() };
    assert!(selects(team("a"), &tagged) && !selects(team("b"), &tagged) && !selects(team("a"), &version(1)));
    assert!(!selects(team("a"), &marker(1)) && selects(filter(), &marker(1)));
    let larger = |than| Filter { larger_than: Some(than), ..filter() };
    assert!(selects(larger(BIG - 1), &tagged) && !selects(larger(BIG), &tagged) && !selects(larger(0), &marker(1)));
    let smaller = |than| Filter { smaller_than: Some(than), ..filter() };
    assert!(selects(smaller(BIG + 1), &tagged) && !selects(smaller(BIG), &tagged));
}

#[test]
fn moves() {
    let to = |class, days| Transition { when: When::Days(days), class };
    let both = [rule(|rule| rule.transitions = vec![to(Class::Glacier, 2), to(Class::DeepArchive, 4)])];
    let of = |version: Version<'_>, now| actions(&both, &[version], Versioning::Never, now);
    assert_eq!(of(version(1), 2), []);
    assert_eq!(of(version(1), 3), [(0, Action::Move(Class::Glacier))]);
    assert_eq!(of(version(1), 9), [(0, Action::Move(Class::DeepArchive))], "the deeper one at once");
    let there = |class| Version { class, ..version(1) };
    assert_eq!(of(there(Class::Glacier), 3), []);
    assert_eq!(of(there(Class::Glacier), 9), [(0, Action::Move(Class::DeepArchive))]);
    assert_eq!(of(there(Class::DeepArchive), 3), [], "never up");
    let small = Version { size: 1, ..version(1) };
    assert_eq!(of(small, 3), [(0, Action::Move(Class::Glacier))], "what is said of sizes is that they vary by class");
    let big = [Rule { least_moved: LEAST_MOVED, ..both[0].clone() }];
    assert_eq!(actions(&big, &[Version { size: LEAST_MOVED - 1, ..version(1) }], Versioning::Never, 9), []);
    assert_eq!(
        actions(&big, &[Version { size: LEAST_MOVED, ..version(1) }], Versioning::Never, 9),
        [(0, Action::Move(Class::DeepArchive))]
    );
    let sized = [Rule { filter: Filter { larger_than: Some(0), ..Filter::default() }, ..big[0].clone() }];
    assert_eq!(actions(&sized, &[small], Versioning::Never, 9), [(0, Action::Move(Class::DeepArchive))]);
    let when = Noncurrent { days: 1, newer: Some(1) };
    let noncurrent =
        [rule(|rule| rule.noncurrent_transitions = vec![NoncurrentTransition { when, class: Class::Glacier }])];
    let versions = [version(9), version(8), version(7)];
    assert_eq!(actions(&noncurrent, &versions, Versioning::Enabled, 50), [(2, Action::Move(Class::Glacier))]);
}

#[test]
fn of_actions_that_conflict_one_is_done() {
    let moving = rule(|rule| rule.transitions = vec![Transition { when: When::Days(1), class: Class::Glacier }]);
    let rules = [Rule { id: "move".into(), ..moving }, Rule { id: "expire".into(), ..days(1) }];
    assert_eq!(actions(&rules, &[version(1)], Versioning::Never, 9), [(0, Action::Delete)]);
    let steps = plan(&rules, "docs/a", &[version(1)], Versioning::Enabled, Calendar::default(), 9 * DAY);
    assert_eq!(
        steps.iter().map(|step| (step.action, step.rule)).collect::<Vec<_>>(),
        [(Action::Move(Class::Glacier), "move")]
    );
}

#[test]
fn headers() {
    let rules = [Rule { id: "late".into(), ..days(9) }, Rule { id: "soon".into(), ..days(3) }];
    assert_eq!(expires(&rules, "k", &version(1), Calendar::default()), Some((4 * DAY, "soon")));
    assert_eq!(expires(&rules, "k", &marker(1), Calendar::default()), None);
    let abort = [rule(|rule| {
        rule.abort_days = Some(2);
        rule.filter.prefix = "up/".into();
    })];
    assert_eq!(aborts(&abort, "up/x", DAY + 1, Calendar::default()), Some((4 * DAY, "r")));
    assert_eq!(aborts(&abort, "down/x", DAY, Calendar::default()), None);
}

fn any_version() -> impl Strategy<Value = Version<'static>> {
    (any::<bool>(), 0u64..40, prop::sample::select(vec![0, BIG])).prop_map(|(delete_marker, put, size)| Version {
        delete_marker,
        size: if delete_marker { 0 } else { size },
        ..version(put)
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (1u32..10, prop::option::of(1u32..4), any::<bool>(), any::<bool>()).prop_map(|(days, newer, noncurrent, lone)| {
        rule(|rule| {
            rule.expiration = Some(if lone { Expiration::LoneMarkers } else { Expiration::At(When::Days(days)) });
            rule.noncurrent = noncurrent.then_some(Noncurrent { days, newer });
        })
    })
}

proptest! {
    /// Later never means less: what is due stays due, for as long as the versions are the same. Nothing is done before a day is over.
    #[test]
    fn what_is_due_stays_due(mut versions in prop::collection::vec(any_version(), 1..6), one in any_rule(), now in 0u64..60) {
        versions.sort_by_key(|version| std::cmp::Reverse(version.put_ms));
        let before = actions(std::slice::from_ref(&one), &versions, Versioning::Enabled, now);
        let after = actions(std::slice::from_ref(&one), &versions, Versioning::Enabled, now + 1);
        for step in &before {
            prop_assert!(after.contains(step), "{step:?}");
        }
        let youngest = versions.iter().map(|version| version.put_ms / DAY).min().unwrap_or(0);
        if now <= youngest {
            prop_assert!(before.iter().all(|(at, _)| versions[*at].delete_marker));
        }
    }

    /// A version that can be read is never deleted for good while it is the current one of a bucket that keeps versions, and as many
    /// noncurrent ones stay as the rule says.
    #[test]
    fn what_has_to_stay_stays(mut versions in prop::collection::vec(any_version(), 1..8), newer in 1u32..4) {
        versions.sort_by_key(|version| std::cmp::Reverse(version.put_ms));
        let rules = [rule(|rule| {
            rule.expiration = Some(Expiration::At(When::Days(1)));
            rule.noncurrent = Some(Noncurrent { days: 1, newer: Some(newer) });
        })];
        let deleted: Vec<usize> = actions(&rules, &versions, Versioning::Enabled, 1000)
            .into_iter()
            .filter(|(at, action)| *action == Action::Delete && !versions[*at].delete_marker)
            .map(|(at, _)| at)
            .collect();
        prop_assert!(!deleted.contains(&0));
        let readable = |(at, version): &(usize, &Version<'_>)| *at > 0 && !version.delete_marker;
        let noncurrent = versions.iter().enumerate().filter(readable).count();
        let kept = noncurrent - deleted.len();
        prop_assert!(kept >= noncurrent.min(usize::try_from(newer).unwrap_or(0)));
    }
}
