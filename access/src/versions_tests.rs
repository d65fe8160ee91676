use super::*;
use crate::lock::{self, Mode, Now, Protection, Retention};
use proptest::prelude::*;

const ID: &str = "0000000000000001aaaaaaaaaaaaaaaa";

fn version(id: &str) -> Version {
    Version { id: id.into(), delete_marker: false, etag: "e".into(), size: 3, modified_s: 7 }
}

fn marker(id: &str) -> Version {
    Version { delete_marker: true, etag: String::new(), size: 0, ..version(id) }
}

#[test]
fn ids() {
    assert_eq!(Named::parse(None), Ok(Named::Current));
    assert_eq!(Named::parse(Some("null")), Ok(Named::Null));
    assert_eq!(Named::parse(Some(ID)), Ok(Named::Id(ID)));
    assert_eq!(Named::parse(Some("")), Err(IdError::Empty));
    for bad in ["x", "NULL", "../../../../../../../../../../aaaa", "0000000000000001aaaaaaaaaaaaaaa\u{e4}"] {
        assert_eq!(Named::parse(Some(bad)), Err(IdError::Malformed), "{bad}");
    }
}

#[test]
fn puts() {
    let versions = [version(ID), version("")];
    let both = |versioning| put(&versions, versioning);
    assert_eq!(both(Versioning::Enabled), Change { removes: None, adds: Some(Added::WithId) });
    assert_eq!(both(Versioning::Suspended), Change { removes: Some(1), adds: Some(Added::Null) });
    assert_eq!(put(&[version(ID)], Versioning::Suspended), Change { removes: None, adds: Some(Added::Null) });
    assert_eq!(put(&[version("")], Versioning::Never), Change { removes: Some(0), adds: Some(Added::Null) });
}

#[test]
fn deletes() {
    let versions = [version(ID), version("")];
    let of = |versioning, named| delete(&versions, versioning, named);
    assert_eq!(of(Versioning::Enabled, Named::Current), Change { removes: None, adds: Some(Added::WithId) });
    assert_eq!(of(Versioning::Suspended, Named::Current), Change { removes: Some(1), adds: Some(Added::Null) });
    for versioning in [Versioning::Never, Versioning::Enabled, Versioning::Suspended] {
        assert_eq!(of(versioning, Named::Id(ID)), Change { removes: Some(0), adds: None });
        assert_eq!(of(versioning, Named::Null), Change { removes: Some(1), adds: None });
        assert_eq!(of(versioning, Named::Id("other")), Change::default(), "nothing, and no error");
    }
    assert_eq!(delete(&[version("")], Versioning::Never, Named::Current), Change { removes: Some(0), adds: None });
    assert_eq!(delete(&[], Versioning::Never, Named::Current), Change::default());
    assert_eq!(
        delete(&[], Versioning::Enabled, Named::Current).adds,
        Some(Added::WithId),
        "a marker for a key that never was"
    );
}

#[test]
fn reads() {
    let versions = [marker(ID), version("")];
    assert_eq!(read(&versions, Named::Current), Found::Deleted(0));
    assert_eq!(read(&versions, Named::Id(ID)), Found::Marker(0));
    assert_eq!(read(&versions, Named::Null), Found::Version(1));
    assert_eq!(read(&versions, Named::Id("other")), Found::NoVersion);
    assert_eq!(read(&[], Named::Current), Found::NoKey);
    assert_eq!(read(&[], Named::Null), Found::NoVersion);
}

/// As the conformance suite has them: 412 for another entity tag, time or size, nothing to say of what is not there.
#[test]
fn conditions_of_deletes() {
    let etag = |etag| Condition { etag: Some(etag), ..Condition::default() };
    let time = |time| Condition { modified_s: Some(time), ..Condition::default() };
    let size = |size| Condition { size: Some(size), ..Condition::default() };
    let one = [version("")];
    let of = |versions: &[Version], condition| check_delete(versions, Named::Current, condition).is_ok();
    assert!(of(&one, Condition::default()) && of(&one, etag("e")) && of(&one, etag("*")) && !of(&one, etag("bad")));
    assert!(of(&one, time(7)) && !of(&one, time(8)) && of(&one, size(3)) && !of(&one, size(9999)));
    assert!(!of(&one, Condition { etag: Some("e"), size: Some(4), modified_s: None }), "all of them");
    for condition in [etag("*"), etag("bad"), time(1), size(9)] {
        assert!(of(&[], condition));
        assert!(check_delete(&one, Named::Id("other"), condition).is_ok());
    }
    let deleted = [marker(ID), version("")];
    assert!(of(&deleted, etag("*")) && !of(&deleted, etag("bad")) && !of(&deleted, etag("")));
    assert!(!of(&deleted, time(7)) && !of(&deleted, size(0)));
}

#[test]
fn versioning_of_locked_buckets() {
    assert_eq!(may_set(true, true), Ok(Versioning::Enabled));
    assert_eq!(may_set(false, true), Err(VersioningError::Locked));
    assert_eq!(may_set(false, false), Ok(Versioning::Suspended));
}

#[derive(Clone, Debug)]
enum Step {
    Put { until: Option<u64>, mode: Mode, hold: bool },
    Delete { which: usize, bypass: bool },
    DeleteCurrent { bypass: bool },
    Set(bool),
    Retain { which: usize, until: Option<u64>, mode: Mode, bypass: bool },
    Hold { which: usize, hold: bool },
    Pass(u64),
    Wall(u64),
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Governance, Mode::Compliance])
}

fn any_step() -> impl Strategy<Value = Step> {
    let until = || prop::option::of(0u64..300);
    prop_oneof![
        3 => (until(), any_mode(), any::<bool>()).prop_map(|(until, mode, hold)| Step::Put { until, mode, hold }),
        3 => (0usize..8, any::<bool>()).prop_map(|(which, bypass)| Step::Delete { which, bypass }),
        1 => any::<bool>().prop_map(|bypass| Step::DeleteCurrent { bypass }),
        1 => any::<bool>().prop_map(Step::Set),
        2 => (0usize..8, until(), any_mode(), any::<bool>())
            .prop_map(|(which, until, mode, bypass)| Step::Retain { which, until, mode, bypass }),
        1 => (0usize..8, any::<bool>()).prop_map(|(which, hold)| Step::Hold { which, hold }),
        2 => (0u64..40).prop_map(Step::Pass),
        1 => prop::sample::select(vec![0, 1_000_000, 1_000_200, u64::MAX / 2]).prop_map(Step::Wall),
    ]
}

const T: u64 = 1_000_000;

/// A key, its versions with what protects them, and what was promised of each.
struct Key {
    versions: Vec<(Version, Protection)>,
    versioning: Versioning,
    now: Now,
    made: u64,
}

impl Key {
    fn list(&self) -> Vec<Version> {
        self.versions.iter().map(|(version, _)| version.clone()).collect()
    }

    /// All or nothing.
    fn apply(&mut self, change: Change, new: Version, protection: Protection, bypass: bool) -> bool {
        if let Some(at) = change.removes {
            if lock::may_delete(&self.versions[at].1, bypass, self.now).is_err() {
                return false;
            }
            self.versions.remove(at);
        }
        if let Some(added) = change.adds {
            let id = if added == Added::Null { String::new() } else { format!("{:032}", self.made) };
            self.made += 1;
            // Each is told from every other one, also a null version from the one that it replaces.
            self.versions.insert(0, (Version { id, size: self.made, ..new }, protection));
        }
        true
    }
}

proptest! {
    /// Over every way that a version can go: what compliance kept is there until the retention clock has passed it, what is held is
    /// there, and there is one null version at most.
    #[test]
    fn what_is_promised_is_kept(steps in prop::collection::vec(any_step(), 1..80)) {
        let now = Now { retention_ms: T, wall_ms: T };
        let mut key = Key { versions: Vec::new(), versioning: Versioning::Never, now, made: 0 };
        for step in steps {
            let before = key.versions.clone();
            let list = key.list();
            match step {
                Step::Put { until, mode, hold } => {
                    let retention = until.map(|ms| Retention { mode, until_ms: T + ms });
                    if retention.is_none_or(|new| lock::check_new(new, key.now).is_ok()) {
                        let change = put(&list, key.versioning);
                        key.apply(change, version(""), Protection { retention, hold }, false);
                    }
                }
                Step::Delete { which, bypass } => {
                    let id = list.get(which).map(|version| version.id.clone()).unwrap_or_default();
                    let named = if id.is_empty() { Named::Null } else { Named::Id(&id) };
                    let change = delete(&list, key.versioning, named);
                    key.apply(change, marker(""), Protection::default(), bypass);
                }
                Step::DeleteCurrent { bypass } => {
                    let change = delete(&list, key.versioning, Named::Current);
                    key.apply(change, marker(""), Protection::default(), bypass);
                }
                Step::Set(enabled) => key.versioning = may_set(enabled, false).expect("no lock on the bucket"),
                Step::Retain { which, until, mode, bypass } => {
                    let now = key.now;
                    if let Some((_, protection)) = key.versions.get_mut(which) {
                        let new = until.map(|ms| Retention { mode, until_ms: T + ms });
                        if lock::may_retain(protection, new, bypass, now).is_ok() {
                            protection.retention = new;
                        }
                    }
                }
                Step::Hold { which, hold } => {
                    if let Some((_, protection)) = key.versions.get_mut(which) {
                        protection.hold = hold;
                    }
                }
                Step::Pass(ms) => {
                    key.now.retention_ms += ms;
                    key.now.wall_ms = key.now.wall_ms.saturating_add(ms);
                }
                Step::Wall(ms) => key.now.wall_ms = ms,
            }
            let after = key.list();
            prop_assert!(after.iter().filter(|version| version.id.is_empty()).count() <= 1);
            for (version, protection) in before {
                let gone = !after.contains(&version);
                let strict = protection.retention.is_some_and(|kept| {
                    kept.mode == Mode::Compliance && key.now.retention_ms < kept.until_ms
                });
                prop_assert!(!(gone && (strict || protection.hold)), "{version:?} {protection:?}");
            }
        }
    }
}
