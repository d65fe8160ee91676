//! The queue of a bucket that is copied elsewhere.

use super::world::*;
use crate::command::*;
use crate::index::reclaim::{self, Hold, RECLAIM_SETTING};
use crate::index::replication::{self, length, queue, rule, waiting};
use crate::index::{REPLICATION, View};
use bytes::Bytes;
use codec::effect::{ReplicatedKey, ReplicationRow, SettingRow};
use codec::id::BucketId;

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
