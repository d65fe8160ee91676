use super::*;
use proptest::prelude::*;

const T: u64 = 1_800_000_000_000;

fn at(ms: u64) -> Now {
    Now { retention_ms: ms, wall_ms: ms }
}

fn kept(mode: Mode, until_ms: u64) -> Protection {
    Protection { retention: Some(Retention { mode, until_ms }), hold: false }
}

const GOVERNANCE: Mode = Mode::Governance;
const COMPLIANCE: Mode = Mode::Compliance;

#[test]
fn deletion() {
    assert_eq!(may_delete(&Protection::default(), false, at(T)), Ok(()));
    assert_eq!(may_delete(&kept(GOVERNANCE, T + 1), false, at(T)), Err(Locked::Governance));
    assert_eq!(may_delete(&kept(GOVERNANCE, T + 1), true, at(T)), Ok(()));
    assert_eq!(may_delete(&kept(COMPLIANCE, T + 1), true, at(T)), Err(Locked::Compliance));
    assert_eq!(may_delete(&kept(COMPLIANCE, T + 1), true, at(T + 1)), Ok(()));
    let held = Protection { hold: true, ..kept(GOVERNANCE, T - 1) };
    assert_eq!(may_delete(&held, true, at(T)), Err(Locked::Hold));
}

/// R15: release needs the retention clock and the wall clock.
#[test]
fn one_clock_alone_releases_nothing() {
    let version = kept(COMPLIANCE, T);
    for (retention_ms, wall_ms) in [(T - 1, u64::MAX), (u64::MAX, T - 1), (0, u64::MAX), (T, 0)] {
        let now = Now { retention_ms, wall_ms };
        assert_eq!(may_delete(&version, true, now), Err(Locked::Compliance));
        assert!(may_retain(&version, None, true, now).is_err());
    }
    assert_eq!(may_delete(&version, false, at(T)), Ok(()));
}

#[test]
fn changes_of_retention() {
    let new = |mode, until_ms| Some(Retention { mode, until_ms });
    let locked = |mode| match mode {
        GOVERNANCE => Err(RetentionError::Locked(Locked::Governance)),
        COMPLIANCE => Err(RetentionError::Locked(Locked::Compliance)),
    };
    for mode in [GOVERNANCE, COMPLIANCE] {
        let version = kept(mode, T + 100);
        assert_eq!(may_retain(&version, new(mode, T + 100), false, at(T)), Ok(()), "the same again");
        assert_eq!(may_retain(&version, new(mode, T + 101), false, at(T)), Ok(()), "longer");
        assert_eq!(may_retain(&version, new(mode, T + 99), false, at(T)), locked(mode));
        assert_eq!(may_retain(&version, None, false, at(T)), locked(mode));
        assert_eq!(may_retain(&version, new(mode, T + 200), false, at(T + 150)), Ok(()), "after its end anew");
    }
    let governed = kept(GOVERNANCE, T + 100);
    assert_eq!(may_retain(&governed, new(COMPLIANCE, T + 200), false, at(T)), locked(GOVERNANCE));
    assert_eq!(may_retain(&governed, new(COMPLIANCE, T + 1), true, at(T)), Ok(()));
    assert_eq!(may_retain(&governed, new(GOVERNANCE, T + 1), true, at(T)), Ok(()));
    assert_eq!(may_retain(&governed, None, true, at(T)), Ok(()));
    // Ceph bug 1989752: COMPLIANCE became GOVERNANCE, and then nothing.
    let strict = kept(COMPLIANCE, T + 100);
    for until_ms in [T + 1, T + 100, T + 1000] {
        assert_eq!(may_retain(&strict, new(GOVERNANCE, until_ms), true, at(T)), locked(COMPLIANCE));
    }
    assert_eq!(may_retain(&Protection::default(), new(GOVERNANCE, T), false, at(T)), Err(RetentionError::Past));
    assert_eq!(
        may_retain(&Protection::default(), new(GOVERNANCE, u64::MAX), false, at(T)),
        Err(RetentionError::TooFar)
    );
    let years = |n: u64| new(GOVERNANCE, T + n * 365 * 24 * 3600 * 1000);
    assert_eq!(may_retain(&Protection::default(), years(114), false, at(T)), Ok(()));
    assert_eq!(may_retain(&Protection::default(), years(201), false, at(T)), Err(RetentionError::TooFar));
    let held = Protection { hold: true, retention: None };
    assert_eq!(may_retain(&held, new(GOVERNANCE, T + 1), false, at(T)), Ok(()), "a hold has no say in it");
}

#[test]
fn periods() {
    assert_eq!(Period::new(Some(1), None), Ok(Period::Days(1)));
    assert_eq!(Period::new(None, Some(100)), Ok(Period::Years(100)));
    for bad in [0, -1, 36_501, i64::MIN] {
        assert_eq!(Period::new(Some(bad), None), Err(DefaultError::Length), "{bad}");
    }
    assert_eq!(Period::new(None, Some(101)), Err(DefaultError::Length));
    assert_eq!(Period::new(Some(1), Some(1)), Err(DefaultError::Period));
    assert_eq!(Period::new(None, None), Err(DefaultError::Period));
    let default = DefaultRetention { mode: COMPLIANCE, period: Period::Days(2) };
    let behind = Now { retention_ms: T - DAY_MS, wall_ms: T };
    let set_back = Now { retention_ms: T, wall_ms: 0 };
    for now in [behind, set_back, at(T)] {
        assert_eq!(default.begin(now).until_ms, T + 2 * DAY_MS, "never less than was promised");
    }
    assert_eq!(Period::Years(1).ms(), 365 * DAY_MS);
}

#[test]
fn new_versions() {
    let default = DefaultRetention { mode: GOVERNANCE, period: Period::Days(1) };
    let of = |asked, bucket| of_new_version(asked, bucket, at(T));
    let mode = Asked { mode: Some(COMPLIANCE), until_ms: Some(T + 5), hold: Some(true) };
    assert_eq!(of(Asked::default(), None), Ok(Protection::default()));
    assert_eq!(of(Asked { hold: Some(false), ..Asked::default() }, None), Ok(Protection::default()));
    for asked in
        [mode, Asked { hold: Some(true), ..Asked::default() }, Asked { mode: Some(GOVERNANCE), ..Asked::default() }]
    {
        assert_eq!(of(asked, None), Err(AskedError::NoLock), "a lock that is not kept is refused");
    }
    assert_eq!(of(Asked::default(), Some(None)), Ok(Protection::default()));
    assert_eq!(of(Asked::default(), Some(Some(default))), Ok(kept(GOVERNANCE, T + DAY_MS)));
    assert_eq!(of(mode, Some(Some(default))), Ok(Protection { hold: true, ..kept(COMPLIANCE, T + 5) }));
    assert_eq!(of(Asked { until_ms: None, ..mode }, Some(None)), Err(AskedError::Half));
    assert_eq!(of(Asked { mode: None, ..mode }, Some(None)), Err(AskedError::Half));
    let past = Asked { until_ms: Some(T), ..mode };
    assert_eq!(of(past, Some(None)), Err(AskedError::Retention(RetentionError::Past)));
}

#[test]
fn names() {
    for mode in [GOVERNANCE, COMPLIANCE] {
        assert_eq!(Mode::parse(mode.name()), Some(mode));
    }
    assert_eq!(Mode::parse("governance"), None);
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![GOVERNANCE, COMPLIANCE])
}

/// What somebody may try on a version.
#[derive(Clone, Debug)]
enum Step {
    Delete {
        bypass: bool,
    },
    Retain {
        new: Option<Retention>,
        bypass: bool,
    },
    Hold(bool),
    /// Somebody sets the machine's clock.
    Set(u64),
    /// Time passes.
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let retention =
        prop::option::of((any_mode(), 0u64..200).prop_map(|(mode, ms)| Retention { mode, until_ms: T + ms }));
    prop_oneof![
        any::<bool>().prop_map(|bypass| Step::Delete { bypass }),
        (retention, any::<bool>()).prop_map(|(new, bypass)| Step::Retain { new, bypass }),
        any::<bool>().prop_map(Step::Hold),
        prop_oneof![Just(0u64), Just(T), Just(T + 150), Just(u64::MAX / 2)].prop_map(Step::Set),
        (0u64..50).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever is tried, in whatever order, with whatever clock: what compliance was promised until some date is there until the
    /// retention clock has passed it, and what is held is there while it is held.
    #[test]
    fn compliance_is_kept(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut now = at(T);
        let mut version = Protection::default();
        let mut promised = 0u64;
        for step in steps {
            match step {
                Step::Delete { bypass } => {
                    if may_delete(&version, bypass, now).is_ok() {
                        prop_assert!(now.retention_ms >= promised && !version.hold);
                        return Ok(());
                    }
                }
                Step::Retain { new, bypass } => {
                    if may_retain(&version, new, bypass, now).is_ok() {
                        version.retention = new;
                        if let Some(Retention { mode: COMPLIANCE, until_ms }) = new {
                            prop_assert!(until_ms >= promised || now.retention_ms >= promised);
                            promised = until_ms;
                        }
                    }
                }
                Step::Hold(hold) => version.hold = hold,
                Step::Set(wall_ms) => now.wall_ms = wall_ms,
                Step::Pass(ms) => {
                    now.retention_ms += ms;
                    now.wall_ms = now.wall_ms.saturating_add(ms);
                }
            }
        }
    }

    /// Without the bypass a governance retention is as strict as compliance.
    #[test]
    fn governance_without_bypass(until in 0u64..200, new in 0u64..200, mode in any_mode(), now in 0u64..200) {
        let new = Retention { mode, until_ms: T + new };
        let governed = may_retain(&kept(GOVERNANCE, T + until), Some(Retention { mode: GOVERNANCE, ..new }), false, at(T + now));
        let strict = may_retain(&kept(COMPLIANCE, T + until), Some(Retention { mode: COMPLIANCE, ..new }), false, at(T + now));
        prop_assert_eq!(governed.is_ok(), strict.is_ok());
        prop_assert_eq!(
            may_delete(&kept(GOVERNANCE, T + until), false, at(T + now)).is_ok(),
            may_delete(&kept(COMPLIANCE, T + until), true, at(T + now)).is_ok()
        );
    }
}
