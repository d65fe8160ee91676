//! The rules of a bucket, followed by a whole service on a clock that the test moves.

use super::world::{Client, World, noise, run};
use crate::client::MetadataClient;
use crate::clock::Clock;
use crate::command::*;
use crate::index::{Overlay, versions::newest_versions};
use crate::keep::lifecycle::{LifecycleConfig, LifecycleReport};
use crate::lifecycle::body_of;
use crate::service::Metadata;
use codec::effect::{
    ClockTick, ConfigKind, LifecycleNoncurrent, LifecycleRow, LifecycleRuleRow, LifecycleTransition, LifecycleWhen,
    RestoreRow, VersionRow,
};
use std::sync::atomic::Ordering;

const DAY: u64 = 24 * 3600 * 1000;

async fn commit(metadata: &Metadata, command: Command) -> Outcome {
    metadata.commit(metadata.epoch(), command).await.unwrap()
}

async fn set_rules(metadata: &Metadata, client: &Client, rules: Vec<LifecycleRuleRow>) {
    let row = LifecycleRow { rules, minimum_size: String::new() };
    let (bucket, kind) = (client.bucket.unwrap(), ConfigKind::Lifecycle);
    let put = PutBucketConfig { bucket, kind, id: String::new(), body: Some(body_of(&row)) };
    commit(metadata, Command::PutBucketConfig(put)).await;
}

fn rule(id: &str, prefix: &str) -> LifecycleRuleRow {
    let prefix = Some(prefix.to_owned());
    LifecycleRuleRow { id: id.to_owned(), enabled: true, prefix, ..LifecycleRuleRow::default() }
}

fn days(days: u32) -> Option<LifecycleWhen> {
    Some(LifecycleWhen { days: Some(days), date_ms: None })
}

fn versions(metadata: &Metadata, client: &Client, key: &str) -> Vec<VersionRow> {
    newest_versions(&Overlay::new(&**metadata.kv()), client.bucket.unwrap(), key, 10).unwrap()
}

/// What is put from now on is of this time, whatever its gateway says.
async fn tick(world: &World, metadata: &Metadata) {
    let tick = ClockTick { retention_ms: world.clock.wall_ms(), ..ClockTick::default() };
    commit(metadata, Command::ClockTick(tick)).await;
}

/// Rounds until the pass is over.
async fn rounds(metadata: &Metadata) -> LifecycleReport {
    let mut sum = LifecycleReport::default();
    loop {
        let report = metadata.lifecycle().unwrap().round().await.unwrap();
        sum.expired += report.expired;
        sum.deleted += report.deleted;
        sum.moved += report.moved;
        sum.locked += report.locked;
        sum.aborted += report.aborted;
        sum.restored += report.restored;
        if !report.more {
            return sum;
        }
    }
}

fn world() -> World {
    let mut world = World::new(3, "1+1");
    world.config.lifecycle = LifecycleConfig { every: None, ..LifecycleConfig::default() };
    world
}

fn pass(world: &World, days: u64) {
    world.clock.passed.fetch_add(days * DAY, Ordering::Relaxed);
}

#[test]
fn versions_expire_once_a_day_but_for_what_is_locked() {
    run(async {
        let world = world();
        let (metadata, mut client) = (world.serving().await, Client::default());
        client.create_bucket(&metadata).await;
        tick(&world, &metadata).await;
        let bucket = client.bucket.unwrap();
        for change in [BucketChange::Versioning(true), BucketChange::Lock(None)] {
            commit(&metadata, Command::ChangeBucket { bucket, change }).await;
        }
        for key in ["old/a", "old/held", "kept"] {
            client.put(&metadata, key, noise(1, 900)).await.unwrap();
        }
        let change = VersionChange::Hold(true);
        let (key, named) = ("old/held".to_owned(), Named::Current);
        let hold = ChangeVersion { bucket, key, named, change, bypass: false, seq: None };
        commit(&metadata, Command::ChangeVersion(hold)).await;
        let noncurrent = Some(LifecycleNoncurrent { days: 1, newer: None });
        set_rules(&metadata, &client, vec![LifecycleRuleRow { expiration: days(2), noncurrent, ..rule("r", "old/") }])
            .await;

        assert_eq!(rounds(&metadata).await.expired, 0, "nothing is old enough");
        pass(&world, 3);
        assert_eq!(rounds(&metadata).await.expired, 2);
        for key in ["old/a", "old/held"] {
            let rows = versions(&metadata, &client, key);
            assert!(rows.len() == 2 && rows[0].delete_marker, "{key}: {rows:?}");
        }
        assert_eq!(rounds(&metadata).await, LifecycleReport::default(), "once a day");
        // The next day the old versions go for good, but for the one under a hold. Their markers are alone then.
        pass(&world, 2);
        let report = rounds(&metadata).await;
        assert_eq!((report.deleted, report.locked), (1, 1));
        let metadata = {
            metadata.shutdown().await;
            world.serving().await
        };
        assert_eq!(rounds(&metadata).await, LifecycleReport::default(), "also after a restart");
        pass(&world, 1);
        let report = rounds(&metadata).await;
        assert_eq!((report.expired, report.locked), (1, 1), "the marker of what is gone");
        assert!(versions(&metadata, &client, "old/a").is_empty());
        assert_eq!(versions(&metadata, &client, "old/held").len(), 2);
        assert_eq!(versions(&metadata, &client, "kept").len(), 1);
        metadata.shutdown().await;
    });
}

/// A retention clock that lags, as after a long time off, and a hold of reclaim: a restore needs neither.
#[test]
fn a_restore_is_readable_by_the_wall_clock_while_reclaim_is_held() {
    run(async {
        let world = world();
        let (metadata, mut client) = (world.serving().await, Client::default());
        client.create_bucket(&metadata).await;
        tick(&world, &metadata).await;
        client.puts(&metadata, 0..1, 900).await;
        let transitions = vec![LifecycleTransition { when: days(1), class: "GLACIER".to_owned() }];
        set_rules(&metadata, &client, vec![LifecycleRuleRow { transitions, ..rule("r", "") }]).await;
        pass(&world, 2);
        assert_eq!(rounds(&metadata).await.moved, 1, "also a small one");
        metadata.shutdown().await;
        // Off for a month: the retention clock catches up by a week.
        world.clock.off.fetch_add(30 * DAY, Ordering::Relaxed);
        let metadata = world.serving().await;
        let wall = || world.clock.wall_ms();
        assert!(metadata.lifecycle().unwrap().now_ms() < wall() - 20 * DAY);
        commit(&metadata, Command::HoldReclaim { reason: "somebody looks".to_owned() }).await;
        let change = VersionChange::Restore { from: None, to: Some(RestoreRow { days: 1, until_ms: 0 }) };
        let (bucket, key) = (client.bucket.unwrap(), "key-0".to_owned());
        let ask = ChangeVersion { bucket, key, named: Named::Current, change, bypass: false, seq: None };
        commit(&metadata, Command::ChangeVersion(ask)).await;
        assert_eq!(rounds(&metadata).await.restored, 1);
        let row = versions(&metadata, &client, "key-0").remove(0);
        assert!(crate::lifecycle::may_read(&row, wall()).is_ok(), "{:?}", row.restore);
        assert!(crate::lifecycle::may_read(&row, wall() + 2 * DAY).is_err());
        metadata.shutdown().await;
    });
}

#[test]
fn what_is_archived_is_restored_by_the_next_round() {
    run(async {
        let world = world();
        let (metadata, mut client) = (world.serving().await, Client::default());
        client.create_bucket(&metadata).await;
        tick(&world, &metadata).await;
        client.puts(&metadata, 0..2, 900).await;
        let transitions = vec![LifecycleTransition { when: days(1), class: "GLACIER".to_owned() }];
        let rule = LifecycleRuleRow { transitions, larger_than: Some(100), place: 1, ..rule("r", "key-1") };
        set_rules(&metadata, &client, vec![rule]).await;
        pass(&world, 2);
        assert_eq!(rounds(&metadata).await.moved, 1);
        let row = versions(&metadata, &client, "key-1").remove(0);
        assert!(crate::lifecycle::may_read(&row, 0).is_err());
        assert!(crate::lifecycle::may_read(&versions(&metadata, &client, "key-0")[0], 0).is_ok());

        let to = Some(RestoreRow { days: 2, until_ms: 0 });
        let change = VersionChange::Restore { from: None, to };
        let (bucket, key) = (client.bucket.unwrap(), "key-1".to_owned());
        let ask = ChangeVersion { bucket, key, named: Named::Current, change, bypass: false, seq: None };
        commit(&metadata, Command::ChangeVersion(ask.clone())).await;
        let again = metadata.commit(metadata.epoch(), Command::ChangeVersion(ask)).await;
        assert!(again.is_err(), "somebody has asked already");
        assert_eq!(rounds(&metadata).await.restored, 1);
        let row = versions(&metadata, &client, "key-1").remove(0);
        let now = metadata.lifecycle().unwrap().now_ms();
        assert!(crate::lifecycle::may_read(&row, now + 2 * DAY - 1).is_ok());
        assert!(crate::lifecycle::may_read(&row, now + 3 * DAY).is_err(), "its time is over");
        assert_eq!(rounds(&metadata).await.restored, 0);
        client.check(&metadata).await;
        metadata.shutdown().await;
    });
}

/// Whoever set rules that can't be followed believes that things expire. Nobody learned of it but from a line in the log, once a day.
#[test]
fn what_a_pass_did_and_whose_rules_cannot_be_followed_is_shown() {
    run(async {
        let world = world();
        let (metadata, mut client) = (world.serving().await, Client::default());
        client.create_bucket(&metadata).await;
        tick(&world, &metadata).await;
        client.puts(&metadata, 0..2, 900).await;
        let status = |metadata: &Metadata| metadata.lifecycle().unwrap().status();
        assert_eq!(status(&metadata), Default::default());
        set_rules(&metadata, &client, vec![LifecycleRuleRow { expiration: days(1), ..rule("r", "key-1") }]).await;
        pass(&world, 3);
        rounds(&metadata).await;
        let shown = status(&metadata);
        assert_eq!((shown.pass.expired, shown.pass.looked, shown.done.expired), (1, 1, 1));
        let day_ms = metadata.lifecycle().unwrap().now_ms() / DAY * DAY;
        assert_eq!((shown.running, shown.day_ms, shown.ended_ms), (false, day_ms, world.clock.wall_ms()));
        assert!(shown.unfollowed.is_empty() && shown.error.is_empty());

        let transitions = vec![LifecycleTransition { when: days(1), class: "TAPE".to_owned() }];
        set_rules(&metadata, &client, vec![LifecycleRuleRow { transitions, ..rule("r", "") }]).await;
        rounds(&metadata).await;
        let shown = status(&metadata);
        assert_eq!((shown.pass.expired, shown.done.expired), (0, 1), "another pass");
        let wrong = shown.unfollowed;
        assert!(wrong.len() == 1 && wrong[0].bucket == "bucket" && wrong[0].why.contains("TAPE"), "{wrong:?}");
        metadata.shutdown().await;
        // There is no pass before the next day, and it is known all the same.
        let metadata = world.serving().await;
        rounds(&metadata).await;
        let shown = status(&metadata);
        assert_eq!((shown.day_ms, shown.ended_ms, shown.unfollowed), (day_ms, 0, wrong));
        set_rules(&metadata, &client, vec![LifecycleRuleRow { expiration: days(100), ..rule("r", "") }]).await;
        rounds(&metadata).await;
        assert!(status(&metadata).unfollowed.is_empty(), "they were mended");
        let transitions = vec![LifecycleTransition { when: days(1), class: "TAPE".to_owned() }];
        set_rules(&metadata, &client, vec![LifecycleRuleRow { transitions, ..rule("r", "") }]).await;
        rounds(&metadata).await;
        assert_eq!(status(&metadata).unfollowed.len(), 1);
        let (bucket, kind) = (client.bucket.unwrap(), ConfigKind::Lifecycle);
        commit(&metadata, Command::PutBucketConfig(PutBucketConfig { bucket, kind, id: String::new(), body: None }))
            .await;
        rounds(&metadata).await;
        assert!(status(&metadata).unfollowed.is_empty(), "there are none any more");

        commit(&metadata, Command::HoldReclaim { reason: "somebody looks".to_owned() }).await;
        rounds(&metadata).await;
        assert!(status(&metadata).held);
        metadata.shutdown().await;
    });
}
