//! What waits to be told.

use super::world::*;
use crate::command::*;
use crate::index::{REPLICATION, View, notices, replication};
use codec::effect::{ConfigKind, NoticeName, NotificationRow, NotificationRuleRow, Tag};
use codec::id::BucketId;
use codec::level::FormatLevel;

fn rule(webhook: &str, events: &[&str], prefix: &str) -> NotificationRuleRow {
    NotificationRuleRow {
        id: format!("to {webhook}"),
        webhook: webhook.to_owned(),
        events: events.iter().map(|&event| event.to_owned()).collect(),
        prefix: prefix.to_owned(),
        suffix: String::new(),
    }
}

fn told(bucket: BucketId, rules: Vec<NotificationRuleRow>) -> Command {
    let body = Some(NotificationRow { rules }.to_body());
    Command::PutBucketConfig(PutBucketConfig { bucket, kind: ConfigKind::Notification, id: String::new(), body })
}

fn waiting(world: &World, webhook: &str) -> Vec<(String, String, NoticeName)> {
    let found = notices::first(&world.view(), webhook, 100).unwrap();
    assert_eq!(notices::length(&world.view(), webhook).unwrap(), found.len() as u64);
    found.into_iter().map(|row| (row.event, row.key, row.name.unwrap())).collect()
}

fn events(world: &World, webhook: &str) -> Vec<String> {
    waiting(world, webhook).into_iter().map(|(event, key, _)| format!("{event} {key}")).collect()
}

fn world() -> (World, BucketId) {
    let mut world = World::new();
    world.run(Command::RaiseLevel(FormatLevel::VERSIONS)).unwrap();
    let bucket = world.bucket("b");
    (world, bucket)
}

#[test]
fn what_happens_waits_for_each_webhook_until_it_was_told() {
    let (mut world, bucket) = world();
    world.put(bucket, "before", &ids(&[1])).unwrap();
    let all = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*"];
    world.run(told(bucket, vec![rule("a", &all, ""), rule("b", &["s3:ObjectCreated:Put"], "x/")])).unwrap();
    let other = world.bucket("o");
    world.put(other, "x/1", &ids(&[1])).unwrap();
    for key in ["x/1", "y", "y"] {
        world.put(bucket, key, &ids(&[1])).unwrap();
    }
    let upload = world.upload(bucket, "x/2");
    world.part(&upload, 1, &ids(&[2])).unwrap();
    world.run(complete(&upload, &[(1, ids(&[2]))])).unwrap();
    world.run(delete(bucket, "y", Condition::None)).unwrap();
    world.run(delete(bucket, "never", Condition::None)).unwrap();
    let tags = VersionChange::Tags(vec![Tag { key: "k".into(), value: "v".into() }]);
    let (key, named) = ("x/1".to_owned(), Named::Current);
    world
        .run(Command::ChangeVersion(ChangeVersion { bucket, key, named, change: tags, bypass: false, seq: None }))
        .unwrap();
    assert_eq!(
        events(&world, "a"),
        [
            "s3:ObjectCreated:Put x/1",
            "s3:ObjectCreated:Put y",
            "s3:ObjectCreated:Put y",
            "s3:ObjectCreated:CompleteMultipartUpload x/2",
            "s3:ObjectRemoved:Delete y",
            "s3:ObjectTagging:Put x/1",
        ]
    );
    assert_eq!(events(&world, "b"), ["s3:ObjectCreated:Put x/1"]);
    let names: Vec<NoticeName> = waiting(&world, "a").into_iter().map(|(_, _, name)| name).take(5).collect();
    world.run(Command::NoticesDone(names.clone())).unwrap();
    assert_eq!(events(&world, "a"), ["s3:ObjectTagging:Put x/1"]);
    let queue = |name: &str| notices::Queue { webhook: name.to_owned(), waiting: 1, lost: 0 };
    assert_eq!(notices::queues(&world.view()).unwrap(), [queue("a"), queue("b")]);
    // Told twice, done twice: nothing more comes of it.
    assert!(world.decide(&Command::NoticesDone(names)).unwrap().is_noop());
    for (key, value) in View::rows(&world.view(), REPLICATION, &[], &[0xff; 40], 100).unwrap() {
        replication::check(&key, value.clone()).unwrap();
        assert!(replication::check(&key[..key.len() - 1], value).is_err(), "cut short: {key:?}");
    }
    world.check_replay();
}

/// A webhook that never answers would fill the index.
#[test]
fn no_more_waits_than_there_is_room_for() {
    let (mut world, bucket) = world();
    world.run(told(bucket, vec![rule("a", &["s3:ObjectCreated:*"], "")])).unwrap();
    for n in 0..3 {
        world.put(bucket, &n.to_string(), &ids(&[1])).unwrap();
    }
    fill(&mut world, b"m", notices::MOST);
    world.put(bucket, "more", &ids(&[1])).unwrap();
    world.put(bucket, "and more", &ids(&[1])).unwrap();
    assert_eq!(notices::first(&world.view(), "a", 100).unwrap().len(), 3);
    // Nothing is lost in silence, and an operator who has seen it need not see it again.
    let queue = |lost| [notices::Queue { webhook: "a".to_owned(), waiting: notices::MOST, lost }];
    assert_eq!(notices::queues(&world.view()).unwrap(), queue(2));
    let seen = Command::LostNoticesSeen { webhook: "a".to_owned() };
    world.run(seen.clone()).unwrap();
    assert_eq!(notices::queues(&world.view()).unwrap(), queue(0));
    assert!(world.decide(&seen).unwrap().is_noop());
}

/// Says that so many wait, by the first row that begins with this letter.
fn fill(world: &mut World, letter: &[u8; 1], number: u64) {
    let mut overlay = world.view();
    let key = View::rows(&overlay, REPLICATION, letter, &[letter[0] + 1], 1).unwrap().remove(0).0;
    overlay.put_raw(REPLICATION, key.to_vec(), number.to_be_bytes().to_vec());
    let batch = overlay.into_batch();
    storage_node::kv::Kv::write(&world.kv, batch).unwrap();
}

/// One account's changes, of which nobody is told, kept those of all others from being told.
#[test]
fn no_account_takes_all_the_room() {
    let (mut world, bucket) = world();
    world.run(told(bucket, vec![rule("a", &["s3:ObjectCreated:*"], "")])).unwrap();
    world.put(bucket, "1", &ids(&[1])).unwrap();
    fill(&mut world, b"o", notices::MOST / 2);
    fill(&mut world, b"m", notices::MOST / 2);
    world.put(bucket, "2", &ids(&[1])).unwrap();
    assert_eq!(notices::lost(&world.view(), "a").unwrap(), 1);
    let Ok(Outcome::BucketCreated(row)) = world.run(create_bucket("c", "somebody else")) else { panic!("a bucket") };
    let theirs = row.bucket_id();
    world.run(told(theirs, vec![rule("a", &["s3:ObjectCreated:*"], "")])).unwrap();
    world.put(theirs, "1", &ids(&[1])).unwrap();
    let found = notices::first(&world.view(), "a", 100).unwrap();
    assert_eq!(found.iter().map(|notice| notice.bucket.as_str()).collect::<Vec<_>>(), ["b", "c"]);
}

/// A hundred rules for one webhook made a hundred rows of each change.
#[test]
fn a_webhook_is_told_once_of_a_change() {
    let (mut world, bucket) = world();
    let rules = (0..100).map(|n| NotificationRuleRow { id: n.to_string(), ..rule("a", &["s3:ObjectCreated:*"], "") });
    world.run(told(bucket, rules.chain([rule("b", &["s3:ObjectCreated:Put"], "")]).collect())).unwrap();
    world.put(bucket, "x", &ids(&[1])).unwrap();
    let found = notices::first(&world.view(), "a", 10).unwrap();
    assert_eq!(found.iter().map(|notice| notice.rule.as_str()).collect::<Vec<_>>(), ["0"]);
    assert_eq!(waiting(&world, "b").len(), 1);
}

/// One request made an entry of 200 MB, and held all others up for seconds.
#[test]
fn an_entry_queues_no_more_than_fits() {
    let (mut world, bucket) = world();
    let names: Vec<String> = (0..20).map(|n| format!("webhook-{n}")).collect();
    let long = |name: &String| NotificationRuleRow { id: "x".repeat(1024), ..rule(name, &["s3:ObjectRemoved:*"], "") };
    world.run(told(bucket, names.iter().map(long).collect())).unwrap();
    let keys: Vec<String> = (0..1000).map(|n| format!("{n:0>900}")).collect();
    for key in &keys {
        world.put(bucket, key, &ids(&[1])).unwrap();
    }
    let keys = keys.into_iter().map(|key| (key, Condition::None)).collect();
    let delete = Command::DeleteObjects { bucket, keys };
    let decided = prost::Message::encoded_len(&world.decide(&delete).unwrap().effects);
    assert!(decided < 12 << 20, "{decided}");
    world.run(delete).unwrap();
    let of = |queue: fn(&notices::Queue) -> u64| notices::queues(&world.view()).unwrap().iter().map(queue).sum::<u64>();
    assert_eq!(of(|queue| queue.waiting) + of(|queue| queue.lost), 20_000, "each is queued, or known to be lost");
    assert!(of(|queue| queue.waiting) > 3000);
    world.check_replay();
}

#[test]
fn how_an_object_was_made_is_told() {
    let (mut world, bucket) = world();
    world.run(told(bucket, vec![rule("a", &["s3:ObjectCreated:*"], "")])).unwrap();
    for made in [Made::Put, Made::Copy, Made::Post] {
        let chunks = world.missing_inline(&ids(&[1]));
        let mut put = put(bucket, "x", &ids(&[1]), chunks, Condition::None);
        let Command::CommitObject(commit) = &mut put else { panic!("a put") };
        commit.attached.made = made;
        world.run(put).unwrap();
    }
    assert_eq!(events(&world, "a"), ["s3:ObjectCreated:Put x", "s3:ObjectCreated:Copy x", "s3:ObjectCreated:Post x"]);
}
