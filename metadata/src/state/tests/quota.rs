//! What buckets hold is counted right whatever is done to them, and nothing gets past a quota.

use super::world::{World, create_bucket, create_upload, ids};
use crate::command::*;
use crate::index::usage::{self, Counted, STEP_ROWS};
use crate::index::{self, OBJECTS, UPLOADS, View};
use codec::effect::*;
use codec::id::*;
use codec::level::FormatLevel;
use proptest::prelude::*;
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

fn rows<M: prost::Message + Default>(world: &World, family: &'static str, prefix: &[u8]) -> Vec<M> {
    let end = index::after_prefix(prefix).unwrap_or(vec![0xff; 20]);
    let rows = world.view().rows(family, prefix, &end, usize::MAX).unwrap();
    rows.into_iter().map(|(key, value)| index::decode(family, &key, value).unwrap()).collect()
}

/// Counted anew, from all rows: by bucket, of buckets that are there.
fn recount(world: &World) -> BTreeMap<u64, UsageRow> {
    let mut sums: BTreeMap<u64, UsageRow> = BTreeMap::new();
    for version in rows::<VersionRow>(world, OBJECTS, b"") {
        let sum = sums.entry(version.bucket).or_default();
        sum.objects += u64::from(!version.delete_marker);
        sum.bytes += version.content.map_or(0, |content| content.size);
    }
    for part in rows::<PartRow>(world, UPLOADS, b"p") {
        let size = part.content.map_or(0, |content| content.size);
        sums.entry(part.upload.unwrap().bucket).or_default().part_bytes += size;
    }
    sums.retain(|bucket, _| index::bucket_by_id(&world.view(), BucketId(*bucket)).unwrap().is_some());
    sums
}

fn check(world: &World, buckets: &[(BucketId, &str)]) {
    let sums = recount(world);
    let mut accounts: BTreeMap<&str, UsageRow> = BTreeMap::new();
    for (bucket, owner) in buckets {
        let counted = sums.get(&bucket.0).copied().unwrap_or_default();
        assert_eq!(usage::of_bucket(&world.view(), *bucket).unwrap(), counted, "{bucket:?}");
        let sum = accounts.entry(owner).or_default();
        sum.objects += counted.objects;
        sum.bytes += counted.bytes;
        sum.part_bytes += counted.part_bytes;
    }
    for (owner, sum) in accounts {
        assert_eq!(usage::of_account(&world.view(), owner).unwrap(), sum, "{owner}");
    }
}

fn new_bucket(world: &mut World, name: &str, owner: &str) -> BucketId {
    match world.run(create_bucket(name, owner)).unwrap() {
        Outcome::BucketCreated(row) => row.bucket_id(),
        other => panic!("{other:?}"),
    }
}

fn delete(bucket: BucketId, key: &str, named: Named) -> Command {
    let versions =
        vec![DeleteVersion { key: key.to_owned(), named, condition: DeleteCondition::default(), bypass: false }];
    Command::DeleteVersions(DeleteVersions { bucket, versions, owner: String::new(), nonce: [1; 8], now_ms: 1 })
}

/// At level 4, and counted.
fn world() -> World {
    let mut world = World::new();
    world.run(Command::RaiseLevel(FormatLevel::VERSIONS)).unwrap();
    assert_eq!(usage::counted(&world.view()).unwrap(), Counted::All, "an empty store");
    world
}

/// One of the things that may happen to a bucket. Refusals are no matter here.
fn step(world: &mut World, buckets: &[(BucketId, &str)], step: (u8, u8, u8, u8)) {
    let (what, bucket, key, more) = step;
    let (bucket, key) = (buckets[usize::from(bucket) % buckets.len()].0, format!("k{}", key % 3));
    let chunks = ids(&[2 + more % 3, 3]);
    let newest = |world: &World| index::current_version(&world.view(), bucket, &key).unwrap();
    let upload = |world: &World| {
        let uploads = index::uploads(&world.view(), bucket, 9).unwrap();
        uploads.get(usize::from(more) % uploads.len().max(1)).and_then(|row| row.name.clone())
    };
    match what {
        0..=2 => drop(world.put(bucket, &key, &chunks)),
        3 => drop(world.run(Command::DeleteObject { bucket, key, condition: Condition::None })),
        4 => drop(world.run(delete(bucket, &key, Named::Current))),
        5 => drop(world.run(delete(bucket, &key, Named::Null))),
        6 => {
            let id = newest(world).map_or(String::new(), |version| version.version_id);
            drop(world.run(delete(bucket, &key, if id.is_empty() { Named::Null } else { Named::Id(id) })));
        }
        7 => {
            drop(world.run(Command::ChangeBucket { bucket, change: BucketChange::Versioning(more.is_multiple_of(2)) }))
        }
        8 => drop(world.run(create_upload(bucket, &key))),
        9 | 10 => {
            if let Some(name) = upload(world) {
                drop(world.part(&name, u32::from(more % 2) + 1, &chunks));
            }
        }
        11 => {
            if let Some(upload) = upload(world) {
                drop(world.run(Command::AbortUpload { upload }));
            }
        }
        12 => {
            if let Some(name) = upload(world)
                && index::part(&world.view(), &name, 1).unwrap().is_some()
            {
                let part = index::part(&world.view(), &name, 1).unwrap().unwrap();
                let content = part.content.unwrap();
                let parts = vec![(1, content.etag.clone())];
                let content = Content { part_sizes: vec![content.size], ..content };
                drop(world.run(Command::CompleteUpload(CompleteUpload {
                    upload: name,
                    parts,
                    content,
                    chunks: Vec::new(),
                    condition: Condition::None,
                    now_ms: 1,
                    nonce: [2; 8],
                })));
            }
        }
        13 => {
            let (named, change) =
                (Named::Current, VersionChange::Tags(vec![Tag { key: "t".into(), value: key.clone() }]));
            let change = ChangeVersion { bucket, key, named, change, bypass: false, seq: None };
            drop(world.run(Command::ChangeVersion(change)));
        }
        _ => drop(world.run(Command::DeleteBucket { bucket })),
    }
}

fn three(world: &mut World) -> Vec<(BucketId, &'static str)> {
    let names = [("one", "alice"), ("two", "alice"), ("three", "bob")];
    names.map(|(name, owner)| (new_bucket(world, name, owner), owner)).into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_count_is_what_a_recount_finds(steps in prop::collection::vec((0u8..15, 0u8..3, any::<u8>(), any::<u8>()), 1..60)) {
        let mut world = world();
        let buckets = three(&mut world);
        for of in steps {
            step(&mut world, &buckets, of);
            check(&world, &buckets);
        }
        world.check_replay();
    }

    /// A store of before: what is done while it is counted comes out right all the same.
    #[test]
    fn an_old_index_is_counted_while_it_is_changed(
        before in prop::collection::vec((0u8..13, 0u8..3, any::<u8>(), any::<u8>()), 1..40),
        during in prop::collection::vec((0u8..15, 0u8..3, any::<u8>(), any::<u8>()), 0..12),
        rows in 1usize..4,
    ) {
        let mut world = World::new();
        world.run(Command::RaiseLevel(FormatLevel(3))).unwrap();
        let buckets = three(&mut world);
        for of in before {
            step(&mut world, &buckets, of);
        }
        world.run(Command::RaiseLevel(FormatLevel::VERSIONS)).unwrap();
        for of in during {
            step(&mut world, &buckets, of);
            // Steps far shorter than those of a service, so that something changes between them.
            if let Some(row) = usage::next_step_of(&world.view(), rows).unwrap() {
                world.run(Command::PutSetting(row)).unwrap();
            }
        }
        while world.run(Command::CountUsage).unwrap() != Outcome::Counted(true) {}
        prop_assert_eq!(usage::counted(&world.view()).unwrap(), Counted::All);
        check(&world, &buckets);
        world.check_replay();
    }
}

#[test]
fn nothing_is_counted_before_level_4_and_a_step_is_bounded() {
    let mut world = World::new();
    world.run(Command::RaiseLevel(FormatLevel(3))).unwrap();
    let bucket = new_bucket(&mut world, "b", "alice");
    for n in 0..=STEP_ROWS {
        world.put(bucket, &format!("{n:06}"), &ids(&[3])).unwrap();
    }
    assert_eq!(world.run(Command::CountUsage), Ok(Outcome::Counted(true)));
    assert_eq!(usage::of_bucket(&world.view(), bucket).unwrap(), UsageRow::default());
    let quota = Quota { max_bytes: 1, max_objects: 0 };
    let refused = world.run(Command::SetQuota { of: QuotaOf::Bucket(bucket), quota });
    assert!(matches!(refused, Err(Refusal::NeedsLevel { .. })), "{refused:?}");
    world.run(Command::RaiseLevel(FormatLevel::VERSIONS)).unwrap();
    assert_eq!(world.run(Command::CountUsage), Ok(Outcome::Counted(false)));
    assert_eq!(usage::of_bucket(&world.view(), bucket).unwrap().objects, STEP_ROWS as u64);
    while world.run(Command::CountUsage).unwrap() != Outcome::Counted(true) {}
    assert_eq!(usage::of_bucket(&world.view(), bucket).unwrap().objects, STEP_ROWS as u64 + 1);
}

#[test]
fn what_would_be_too_much_is_refused_by_whatever_way_it_comes_and_deletes_never_are() {
    let mut world = world();
    let buckets = three(&mut world);
    let [(one, _), (two, _), (other, _)] = buckets[..] else { panic!() };
    world
        .run(Command::PutAccount(AccountRow { id: "alice".into(), name: "alice".into(), ..AccountRow::default() }))
        .unwrap();
    let full = Err(Refusal::QuotaExceeded { account: false });
    let max_bytes = 7 * MIB;
    world.run(Command::SetQuota { of: QuotaOf::Bucket(one), quota: Quota { max_bytes, max_objects: 2 } }).unwrap();
    // Two chunks of 3 MiB fit, a third does not: as an object, and as a part.
    world.put(one, "a", &ids(&[2, 4])).unwrap();
    assert_eq!(world.put(one, "b", &ids(&[2])).map(drop), full);
    let upload = world.upload(one, "c");
    assert_eq!(world.part(&upload, 1, &ids(&[6])).map(drop), full);
    world.part(&upload, 1, &ids(&[3])).unwrap();
    // What is put in its place may be less, or the same.
    world.put(one, "a", &ids(&[2])).unwrap();
    world.put(one, "b", &ids(&[3])).unwrap();
    assert_eq!(world.put(one, "d", &ids(&[3])).map(drop), full, "a third object");
    world.run(Command::ChangeBucket { bucket: one, change: BucketChange::Versioning(true) }).unwrap();
    assert_eq!(world.put(one, "b", &ids(&[3])).map(drop), full, "a version is one more");
    world.run(delete(one, "b", Named::Current)).unwrap();
    world.run(delete(one, "a", Named::Null)).unwrap();
    world.put(one, "b", &ids(&[3])).unwrap();

    let held = usage::of_account(&world.view(), "alice").unwrap();
    let max_bytes = held.bytes + held.part_bytes + 1500;
    let of = QuotaOf::Account("alice".into());
    world.run(Command::SetQuota { of: of.clone(), quota: Quota { max_bytes, max_objects: 0 } }).unwrap();
    world.put(two, "a", &ids(&[3])).unwrap();
    let refused = world.put(two, "b", &ids(&[5])).map(drop);
    assert_eq!(refused, Err(Refusal::QuotaExceeded { account: true }), "all its buckets together");
    world.put(other, "b", &ids(&[2])).unwrap();
    // New keys of an account take no limit away, and a limit below what there is takes nothing.
    let row = AccountRow { id: "alice".into(), access_key: "AK2".into(), ..AccountRow::default() };
    world.run(Command::ReplaceAccount(row)).unwrap();
    assert_eq!(index::account(&world.view(), "alice").unwrap().unwrap().max_bytes, max_bytes);
    world.run(Command::SetQuota { of, quota: Quota { max_bytes: 1, max_objects: 1 } }).unwrap();
    assert!(world.put(two, "a", &ids(&[3])).is_ok(), "as much as before");
    world.run(delete(two, "a", Named::Current)).unwrap();
    assert!(world.put(two, "a", &ids(&[3])).is_err());
    check(&world, &buckets);
    world.check_replay();
}
