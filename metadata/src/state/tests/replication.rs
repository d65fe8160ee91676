//! The queue of a bucket that is copied elsewhere.

use super::world::*;
use crate::command::*;
use crate::index::reclaim::{self, Hold, RECLAIM_SETTING};
use crate::index::replication::{self, length, queue, rule, waiting};
use crate::index::{self, REPLICATION, View, versions};
use bytes::Bytes;
use codec::effect::{ReplicatedKey, ReplicationRow, SettingRow, Tag};
use codec::id::BucketId;
use codec::level::FormatLevel;

fn copied(bucket: BucketId) -> Command {
    Command::SetReplication(ReplicationRow { bucket: bucket.0, target: "far".to_owned(), ..ReplicationRow::default() })
}

fn done(world: &World, bucket: BucketId, key: &str, lsn: u64) -> Command {
    let rule = rule(&world.view(), bucket).unwrap().map(|row| row.seq);
    Command::Replicated { bucket, rule, done: vec![ReplicatedKey { key: key.to_owned(), lsn }] }
}

fn keys(world: &World, bucket: BucketId) -> Vec<String> {
    let view = world.view();
    let found: Vec<String> = queue(&view, bucket, None, 100).unwrap().into_iter().map(|(_, key)| key).collect();
    assert_eq!(length(&view, bucket).unwrap(), found.len() as u64);
    found
}

#[test]
fn what_changes_in_a_copied_bucket_waits_once_and_longest_first() {
    let mut world = World::new();
    let (bucket, other) = (world.bucket("b"), world.bucket("o"));
    world.put(bucket, "before", &ids(&[1])).unwrap();
    world.run(copied(bucket)).unwrap();
    for (bucket, key) in [(bucket, "b\0"), (bucket, "a"), (other, "x"), (bucket, "b\0")] {
        world.put(bucket, key, &ids(&[1])).unwrap();
    }
    world.run(delete(bucket, "never", Condition::None)).unwrap();
    world.run(delete(bucket, "before", Condition::None)).unwrap();
    assert_eq!(keys(&world, bucket), ["b\0", "a", "before"]);
    assert_eq!(keys(&world, other), [""; 0]);
    let view = world.view();
    let first = queue(&view, bucket, None, 1).unwrap();
    assert_eq!(queue(&view, bucket, first.first(), 1).unwrap()[0].1, "a");
    drop(view);
    world.check_replay();
    let rows = View::rows(&world.view(), REPLICATION, &[], &[0xff; 40], 100).unwrap();
    // The rule, two rows for each key, and how many there are.
    assert_eq!(rows.len(), 1 + 2 * 3 + 1);
    for (key, value) in rows {
        replication::check(&key, value.clone()).unwrap();
        assert!(replication::check(&key[..key.len() - 1], value).is_err(), "cut short: {key:?}");
    }
}

#[test]
fn a_key_that_changed_while_it_was_copied_waits_on() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.run(copied(bucket)).unwrap();
    world.put(bucket, "k", &ids(&[1])).unwrap();
    let copied_at = world.lsn.0;
    world.put(bucket, "later", &ids(&[1])).unwrap();
    world.put(bucket, "k", &ids(&[2])).unwrap();
    world.run(done(&world, bucket, "k", copied_at)).unwrap();
    // Behind the other one: it waits since its last change now.
    assert_eq!(keys(&world, bucket), ["later", "k"]);
    let row = waiting(&world.view(), bucket, "k").unwrap().unwrap();
    assert_eq!((row.since, row.changed), (copied_at + 2, copied_at + 2));
    world.run(done(&world, bucket, "k", copied_at + 2)).unwrap();
    world.run(done(&world, bucket, "k", copied_at + 2)).unwrap();
    assert_eq!(keys(&world, bucket), ["later"]);
    world.check_replay();
}

#[test]
fn a_walk_goes_on_from_where_it_was_and_only_for_its_own_rule() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.run(copied(bucket)).unwrap();
    let row = rule(&world.view(), bucket).unwrap().unwrap();
    assert_eq!((row.seq, row.walked), (world.lsn.0, false));
    let step = |rule: u64, from: &str, to: &str, last| {
        let keys = vec![to.to_owned()];
        Command::WalkReplication(WalkReplication { bucket, rule, from: from.to_owned(), to: to.to_owned(), keys, last })
    };
    world.run(step(row.seq, "", "c", false)).unwrap();
    for stale in [step(row.seq, "", "d", false), step(row.seq - 1, "c", "d", false)] {
        assert!(world.decide(&stale).unwrap().is_noop());
    }
    world.run(step(row.seq, "c", "e", true)).unwrap();
    assert!(world.decide(&step(row.seq, "e", "f", true)).unwrap().is_noop());
    assert_eq!(keys(&world, bucket), ["c", "e"]);
    world.run(copied(bucket)).unwrap();
    let again = rule(&world.view(), bucket).unwrap().unwrap();
    assert!(again.seq > row.seq && !again.walked && again.walked_to.is_empty());
    world.check_replay();
}

/// A batch that was decided under the rule before says nothing of the target that is the rule's now.
#[test]
fn what_was_copied_by_another_rule_waits_on() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.run(copied(bucket)).unwrap();
    world.put(bucket, "k", &ids(&[1])).unwrap();
    let late = done(&world, bucket, "k", u64::MAX);
    world.run(copied(bucket)).unwrap();
    assert!(world.decide(&late).unwrap().is_noop());
    let swept = ReplicatedKey { key: "k".to_owned(), lsn: u64::MAX };
    assert!(world.decide(&Command::Replicated { bucket, rule: None, done: vec![swept] }).unwrap().is_noop());
    assert_eq!(keys(&world, bucket), ["k"]);
}

/// The switch is for what is deleted here; what is elsewhere must not go because somebody used it.
#[test]
fn what_an_operator_has_to_judge_is_seen_behind_his_switch() {
    let mut world = World::new();
    let off = SettingRow { name: RECLAIM_SETTING.to_owned(), value: Bytes::from_static(b"off") };
    world.run(Command::PutSetting(off)).unwrap();
    assert_eq!(reclaim::unreleased(&world.view()).unwrap(), None);
    world.run(Command::HoldReclaim { reason: "put back".to_owned() }).unwrap();
    assert_eq!(reclaim::hold(&world.view()).unwrap(), Some(Hold::Off));
    assert_eq!(reclaim::unreleased(&world.view()).unwrap(), Some(Hold::Held("put back".to_owned())));
}

/// They would replace and delete each other's objects.
#[test]
fn two_buckets_are_not_copied_into_one() {
    let mut world = World::new();
    let (bucket, other) = (world.bucket("b"), world.bucket("o"));
    world.run(copied(bucket)).unwrap();
    assert_eq!(world.run(copied(other)), Err(Refusal::ReplicationTargetTaken));
    world.run(copied(bucket)).unwrap();
    world.run(Command::UnsetReplication { bucket }).unwrap();
    world.run(copied(other)).unwrap();
}

#[test]
fn without_a_rule_nothing_is_queued_and_what_was_is_taken_out() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    assert_eq!(world.run(Command::UnsetReplication { bucket }), Err(Refusal::NoSuchReplication));
    world.run(copied(bucket)).unwrap();
    world.run(Command::PauseReplication { bucket, paused: true }).unwrap();
    world.put(bucket, "k", &ids(&[1])).unwrap();
    world.run(delete(bucket, "k", Condition::None)).unwrap();
    world.run(Command::DeleteBucket { bucket }).unwrap();
    assert_eq!(keys(&world, bucket), ["k"], "the bucket is gone, and its rule is not: deletes are still to be copied");
    world.run(Command::UnsetReplication { bucket }).unwrap();
    assert_eq!(replication::left_over(&world.view()).unwrap(), [bucket]);
    let queued = Command::QueueReplication { bucket, keys: vec!["z".to_owned()] };
    assert_eq!(world.run(queued), Err(Refusal::NoSuchReplication));
    world.run(done(&world, bucket, "k", world.lsn.0)).unwrap();
    assert_eq!(replication::left_over(&world.view()).unwrap(), []);
    world.check_replay();
}

/// Not the newest version only: a copy that keeps versions would never learn of it.
#[test]
fn a_change_of_any_version_queues_its_key_and_a_deleted_one_is_named_until_it_is_copied() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    let mut all = copied(bucket);
    let Command::SetReplication(row) = &mut all else { unreachable!() };
    (row.versions, row.deletes) = (true, true);
    let needs = Refusal::NeedsLevel { needs: FormatLevel::VERSIONS, at: FormatLevel::BEFORE };
    assert_eq!(world.run(all.clone()), Err(needs), "an older program would drop the field");
    world.run(Command::RaiseLevel(FormatLevel::VERSIONS)).unwrap();
    world.run(all).unwrap();
    let mut names = Vec::new();
    // Null versions replace each other, and each has a name of its own.
    for n in 0..5 {
        if n == 2 {
            world.run(Command::ChangeBucket { bucket, change: BucketChange::Versioning(true) }).unwrap();
        }
        world.put(bucket, "k", &ids(&[1])).unwrap();
        let row = index::current_version(&world.view(), bucket, "k").unwrap().unwrap();
        names.push((versions::name_of(&row), row.version_id));
    }
    let gone = |world: &World| -> Vec<usize> {
        let is = |n: &usize| replication::is_gone(&world.view(), bucket, "k", &names[*n].0).unwrap();
        (0..names.len()).filter(is).collect()
    };
    assert_eq!(gone(&world), [0]);
    let clear = |world: &mut World| {
        world.run(done(world, bucket, "k", world.lsn.0)).unwrap();
        assert_eq!((keys(world, bucket), gone(world)), (vec![], vec![]));
    };
    clear(&mut world);
    let tags = vec![Tag { key: "state".to_owned(), value: "read".to_owned() }];
    let named = Named::Id(names[2].1.clone());
    let (key, change) = ("k".to_owned(), VersionChange::Tags(tags));
    world.run(Command::ChangeVersion(ChangeVersion { bucket, key, named, change, bypass: false, seq: None })).unwrap();
    assert_eq!((keys(&world, bucket), gone(&world)), (vec!["k".to_owned()], vec![]));
    clear(&mut world);
    let remove = |id: &str| {
        let named = if id.is_empty() { Named::Null } else { Named::Id(id.to_owned()) };
        let (key, condition) = ("k".to_owned(), DeleteCondition::default());
        let versions = vec![DeleteVersion { key, named, condition, bypass: false }];
        Command::DeleteVersions(DeleteVersions { bucket, versions, owner: String::new(), nonce: [1; 8], now_ms: 9 })
    };
    world.run(remove(&names[2].1)).unwrap();
    let first = world.lsn.0;
    world.run(remove(&names[1].1)).unwrap();
    assert_eq!((keys(&world, bucket), gone(&world)), (vec!["k".to_owned()], vec![1, 2]));
    world.check_replay();
    // What came after what was copied is still to be deleted there.
    world.run(done(&world, bucket, "k", first)).unwrap();
    assert_eq!((keys(&world, bucket), gone(&world)), (vec!["k".to_owned()], vec![1]));
    clear(&mut world);
    // A delete marker is nothing that could be deleted there.
    world.run(delete(bucket, "k", Condition::None)).unwrap();
    let marker = index::current_version(&world.view(), bucket, "k").unwrap().unwrap();
    assert!(marker.delete_marker);
    world.run(remove(&marker.version_id)).unwrap();
    assert!(!replication::is_gone(&world.view(), bucket, "k", &versions::name_of(&marker)).unwrap());
    assert_eq!(keys(&world, bucket), ["k"]);
    // Without deletes nothing is noted.
    world.run(done(&world, bucket, "k", world.lsn.0)).unwrap();
    let mut kept = copied(bucket);
    let Command::SetReplication(row) = &mut kept else { unreachable!() };
    row.versions = true;
    world.run(kept).unwrap();
    world.run(remove(&names[3].1)).unwrap();
    assert!(!replication::is_gone(&world.view(), bucket, "k", &names[3].0).unwrap());
    world.check_replay();
}
