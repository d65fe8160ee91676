//! What rules do is judged again when it is decided; and what a delete of many versions of a key reads.

use super::world::*;
use crate::command::*;
use crate::index::{self, IndexError, Overlay, View, versions as rows};
use crate::keep::lifecycle::commands;
use crate::lifecycle::{body_of, rules};
use crate::state::decide;
use access::lifecycle::plan::{Action, Calendar};
use access::lifecycle::rule::Class;
use bytes::Bytes;
use codec::effect::*;
use codec::id::*;
use codec::level::FormatLevel;
use std::cell::Cell;
use storage_node::kv::{Family, Kv};

const DAY: u64 = 24 * 3600 * 1000;
/// Whatever is put at the beginning of a world is old by then.
const LATER: u64 = 100 * DAY;

fn world(keeps_versions: bool) -> (World, BucketId) {
    let mut world = World::new();
    world.run(Command::RaiseLevel(FormatLevel::VERSIONS)).unwrap();
    let bucket = world.bucket("docs");
    if keeps_versions {
        world.run(Command::ChangeBucket { bucket, change: BucketChange::Versioning(true) }).unwrap();
    }
    (world, bucket)
}

fn days(days: u32) -> Option<LifecycleWhen> {
    Some(LifecycleWhen { days: Some(days), date_ms: None })
}

fn tag() -> Tag {
    Tag { key: "expire".into(), value: "yes".into() }
}

fn set(world: &mut World, bucket: BucketId, rule: LifecycleRuleRow) -> LifecycleRow {
    let row = LifecycleRow { rules: vec![LifecycleRuleRow { enabled: true, ..rule }], ..LifecycleRow::default() };
    let (kind, body) = (ConfigKind::Lifecycle, Some(body_of(&row)));
    world.run(Command::PutBucketConfig(PutBucketConfig { bucket, kind, id: String::new(), body })).unwrap();
    row
}

/// What a pass finds to be done.
fn planned(world: &World, row: &LifecycleRow) -> Vec<FollowRules> {
    let bucket = index::bucket(&world.view(), "docs").unwrap().unwrap();
    let commands = commands(&world.view(), bucket, rules(row).unwrap(), LATER).unwrap();
    let follow = |command| match command {
        Command::FollowRules(follow) => Some(follow).filter(|follow: &FollowRules| !follow.steps.is_empty()),
        other => panic!("{other:?}"),
    };
    commands.into_iter().filter_map(follow).collect()
}

fn run(world: &mut World, follow: Vec<FollowRules>) -> Vec<Result<(), Refusal>> {
    let mut all = Vec::new();
    for follow in follow {
        match world.run(Command::FollowRules(follow)) {
            Ok(Outcome::RulesFollowed(results)) => all.extend(results),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => all.push(Err(refusal)),
        }
    }
    world.check_refs();
    all
}

fn change(world: &mut World, bucket: BucketId, key: &str, named: Named, change: VersionChange) {
    let change = ChangeVersion { bucket, key: key.to_owned(), named, change, bypass: false, seq: None };
    world.run(Command::ChangeVersion(change)).unwrap();
}

fn versions(world: &World, bucket: BucketId, key: &str) -> Vec<VersionRow> {
    rows::newest_versions(&world.view(), bucket, key, usize::MAX).unwrap()
}

fn delete_ids(bucket: BucketId, key: &str, of: &[VersionRow]) -> Command {
    let one = |row: &VersionRow| DeleteVersion {
        key: key.to_owned(),
        named: Named::Id(row.version_id.clone()),
        condition: DeleteCondition::default(),
        bypass: false,
    };
    let versions = of.iter().map(one).collect();
    Command::DeleteVersions(DeleteVersions { bucket, versions, owner: String::new(), nonce: [2; 8], now_ms: 1 })
}

#[test]
fn what_was_taken_out_of_its_rule_stays() {
    for keeps_versions in [false, true] {
        let (mut world, bucket) = world(keeps_versions);
        for key in ["a", "b", "c"] {
            world.put(bucket, key, &ids(&[1])).unwrap();
            change(&mut world, bucket, key, Named::Current, VersionChange::Tags(vec![tag()]));
        }
        let rule = LifecycleRuleRow { tags: vec![tag()], expiration: days(1), ..LifecycleRuleRow::default() };
        let row = set(&mut world, bucket, rule);
        let plan = planned(&world, &row);
        assert_eq!(plan.iter().map(|follow| follow.steps.len()).sum::<usize>(), 3);
        change(&mut world, bucket, "b", Named::Current, VersionChange::Tags(Vec::new()));
        let results = run(&mut world, plan);
        assert_eq!(results, [Ok(()), Err(Refusal::PreconditionFailed), Ok(())]);
        let current = |key| index::current_version(&world.view(), bucket, key).unwrap();
        assert!(current("b").is_some_and(|row| !row.delete_marker));
        assert!(current("a").is_none_or(|row| row.delete_marker));
    }
}

#[test]
fn rules_that_are_gone_and_a_hold_stop_what_is_planned() {
    let (mut world, bucket) = world(false);
    for key in ["a", "b"] {
        world.put(bucket, key, &ids(&[1])).unwrap();
    }
    let upload = world.upload(bucket, "u");
    let rule = LifecycleRuleRow { expiration: days(1), abort_days: Some(1), ..LifecycleRuleRow::default() };
    let row = set(&mut world, bucket, rule.clone());
    let mut plan = planned(&world, &row);
    plan[0].uploads = vec![upload.clone()];

    world.run(Command::HoldReclaim { reason: "somebody looks".to_owned() }).unwrap();
    assert!(matches!(run(&mut world, plan.clone())[..], [Err(Refusal::ReclaimHeld(_))]));
    let floor = world.lsn;
    world.run(Command::ReleaseReclaim { floor }).unwrap();

    set(&mut world, bucket, LifecycleRuleRow { expiration: days(200), abort_days: Some(200), ..rule.clone() });
    let refused = || Err(Refusal::PreconditionFailed);
    assert_eq!(run(&mut world, plan.clone()), [refused(), refused(), refused()]);
    let gone = PutBucketConfig { bucket, kind: ConfigKind::Lifecycle, id: String::new(), body: None };
    world.run(Command::PutBucketConfig(gone)).unwrap();
    assert_eq!(run(&mut world, plan.clone()), [refused()]);
    assert!(versions(&world, bucket, "a").len() == 1 && index::upload(&world.view(), &upload).unwrap().is_some());

    set(&mut world, bucket, rule);
    // Each once, however often it is listed.
    let (twice, again) = (plan[0].steps[0].clone(), upload.clone());
    plan[0].steps.push(twice);
    plan[0].uploads.push(again);
    assert_eq!(run(&mut world, plan), [Ok(()), Ok(()), refused(), Ok(()), Err(Refusal::NoSuchUpload)]);
    assert!(versions(&world, bucket, "a").is_empty() && index::upload(&world.view(), &upload).unwrap().is_none());
}

#[test]
fn as_many_versions_stay_as_a_rule_keeps_whoever_deletes_others_meanwhile() {
    let (mut world, bucket) = world(true);
    for _ in 0..9 {
        world.put(bucket, "k", &ids(&[1])).unwrap();
    }
    let noncurrent = Some(LifecycleNoncurrent { days: 1, newer: Some(3) });
    let row = set(&mut world, bucket, LifecycleRuleRow { noncurrent, ..LifecycleRuleRow::default() });
    let plan = planned(&world, &row);
    assert_eq!(plan.iter().map(|follow| follow.steps.len()).sum::<usize>(), 5);
    // Two that the plan counted go; also the newest, so that a noncurrent one is the newest then.
    let newest = versions(&world, bucket, "k");
    world.run(delete_ids(bucket, "k", &[newest[0].clone(), newest[2].clone()])).unwrap();
    let results = run(&mut world, plan);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3, "{results:?}");
    let left: Vec<u64> = versions(&world, bucket, "k").iter().map(|row| row.seq).collect();
    let wanted: Vec<u64> = [1, 3, 4, 5].map(|at: usize| newest[at].seq).into();
    assert_eq!(left, wanted, "the newest, and three more");
}

#[test]
fn what_is_being_restored_does_not_move_and_a_copy_stays_until_its_day() {
    let (mut world, bucket) = world(false);
    let transitions = |class: &str| {
        let transitions = vec![LifecycleTransition { when: days(1), class: class.to_owned() }];
        LifecycleRuleRow { transitions, ..LifecycleRuleRow::default() }
    };
    for key in ["asked", "copied"] {
        world.put(bucket, key, &ids(&[1])).unwrap();
    }
    let row = set(&mut world, bucket, transitions("GLACIER"));
    let plan = planned(&world, &row);
    assert!(plan[0].steps.iter().all(|step| step.action == Action::Move(Class::Glacier)), "whatever their size");
    assert_eq!(run(&mut world, plan), [Ok(()), Ok(())]);
    let restore = |days, until_ms| VersionChange::Restore { from: None, to: Some(RestoreRow { days, until_ms }) };
    let row = set(&mut world, bucket, transitions("DEEP_ARCHIVE"));
    let plan = planned(&world, &row);
    change(&mut world, bucket, "asked", Named::Current, restore(2, 0));
    change(&mut world, bucket, "copied", Named::Current, restore(0, LATER));
    assert_eq!(run(&mut world, plan), [Err(Refusal::PreconditionFailed), Ok(())]);
    let copied = versions(&world, bucket, "copied").remove(0);
    assert_eq!(crate::lifecycle::class_of(&copied), Class::DeepArchive);
    assert_eq!(copied.restore, Some(RestoreRow { days: 0, until_ms: LATER }));
    let restoring = rows::restoring(&world.view(), None, 9).unwrap();
    assert_eq!(restoring.len(), 1);
    assert!(rows::restoring(&world.view(), restoring.first(), 9).unwrap().is_empty());
    // Whatever takes the wish away takes it out of the list of those that wait.
    let from = Some(RestoreRow { days: 2, until_ms: 0 });
    change(&mut world, bucket, "asked", Named::Current, VersionChange::Restore { from, to: None });
    assert!(rows::restoring(&world.view(), None, 9).unwrap().is_empty());
}

/// Counts the versions that are read.
struct Counting<'a> {
    view: Overlay<'a>,
    read: Cell<usize>,
}

impl View for Counting<'_> {
    fn row(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.read.set(self.read.get() + usize::from(family == index::OBJECTS));
        self.view.row(family, key)
    }

    fn rows(&self, family: Family, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, IndexError> {
        let rows = self.view.rows(family, start, end, limit)?;
        self.read.set(self.read.get() + if family == index::OBJECTS { rows.len() } else { 0 });
        Ok(rows)
    }
}

#[test]
fn who_empties_a_key_reads_each_of_its_versions_a_few_times() {
    const MANY: usize = 300;
    let (mut world, bucket) = world(true);
    for _ in 0..MANY {
        world.put(bucket, "k", &ids(&[1])).unwrap();
    }
    let all = versions(&world, bucket, "k");
    let plain = delete_ids(bucket, "k", &all);
    // The same, and after each of them the current one; so that it is looked for again and again.
    let Command::DeleteVersions(mut mixed) = plain.clone() else { unreachable!() };
    mixed.versions = mixed
        .versions
        .into_iter()
        .flat_map(|version| {
            let etag = Condition::IfMatch("none of them".to_owned());
            let condition = DeleteCondition { etag, ..DeleteCondition::default() };
            [DeleteVersion { named: Named::Current, condition, ..version.clone() }, version]
        })
        .collect();
    let keep_none = LifecycleNoncurrent { days: 1, newer: Some(1) };
    let rule = LifecycleRuleRow { noncurrent: Some(keep_none), ..LifecycleRuleRow::default() };
    let row = set(&mut world, bucket, rule);
    let steps = planned(&world, &row).into_iter().flat_map(|follow| follow.steps).collect();
    let template = planned(&world, &row).remove(0);
    let by_rule = Command::FollowRules(FollowRules { steps, ..template });
    for (what, command) in [("plain", plain), ("mixed", Command::DeleteVersions(mixed)), ("rules", by_rule)] {
        let view = Counting { view: world.view(), read: Cell::new(0) };
        decide(&view, world.writer, &command, &world.at()).unwrap();
        let read = view.read.get();
        assert!(read <= 6 * MANY, "{what}: {read} versions were read");
    }
    world.run(delete_ids(bucket, "k", &all)).unwrap();
    assert!(versions(&world, bucket, "k").is_empty());
    world.check_refs();
    world.check_replay();
}

/// Ten thousand parts may be of one chunk, and are rows all the same.
#[test]
fn an_entry_drops_uploads_of_so_many_parts_only() {
    let (mut world, bucket) = world(false);
    let rule = LifecycleRuleRow { abort_days: Some(1), ..LifecycleRuleRow::default() };
    set(&mut world, bucket, rule);
    world.put(bucket, "k", &ids(&[1])).unwrap();
    let uploads = ["a", "b", "c"].map(|key| world.upload(bucket, key));
    let mut overlay = world.view();
    for upload in &uploads {
        for number in 1..=8000 {
            let content = Some(content(&ids(&[1])));
            let row = PartRow { upload: Some(upload.clone()), number, content, ..PartRow::default() };
            overlay.put(index::UPLOADS, index::part_key(upload, number), &row);
        }
    }
    let parts = overlay.into_batch();
    world.kv.write(parts).unwrap();
    let follow = |uploads: &[UploadName]| {
        let (steps, uploads, calendar) = (Vec::new(), uploads.to_vec(), Calendar::default());
        Command::FollowRules(FollowRules { bucket, steps, uploads, nonce: [1; 8], now_ms: 1, due_ms: LATER, calendar })
    };
    assert_eq!(world.decide(&follow(&uploads)).map(|_| ()), Err(Refusal::TooLarge));
    let two = world.decide(&follow(&uploads[..2])).unwrap();
    assert_eq!(two.outcome, Outcome::RulesFollowed(vec![Ok(()), Ok(())]));
}
