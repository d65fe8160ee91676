//! Versions: random commands against a model, and the rules one by one.

use super::world::*;
use crate::command::*;
use crate::index::{self, versions as rows};
use codec::effect::*;
use codec::id::*;
use codec::level::FormatLevel;
use proptest::prelude::*;
use std::collections::BTreeMap;

const KEYS: [&str; 3] = ["a", "a/b", "c"];

#[derive(Clone, Debug)]
enum Op {
    Versioning(bool),
    Put { key: usize, chunks: Vec<u8> },
    Delete(Vec<(usize, Target)>),
    Tags { key: usize, target: Target },
}

/// The n-th newest version of the key, counted around, or none there is.
#[derive(Clone, Copy, Debug)]
enum Target {
    Current,
    Null,
    Nth(usize),
    Unknown,
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        3 => Just(Target::Current),
        2 => Just(Target::Null),
        4 => (0usize..6).prop_map(Target::Nth),
        1 => Just(Target::Unknown),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => any::<bool>().prop_map(Op::Versioning),
        5 => (0..KEYS.len(), prop::collection::vec(1u8..8, 0..3)).prop_map(|(key, chunks)| Op::Put { key, chunks }),
        4 => prop::collection::vec((0..KEYS.len(), target()), 1..5).prop_map(Op::Delete),
        1 => (0..KEYS.len(), target()).prop_map(|(key, target)| Op::Tags { key, target }),
    ]
}

/// A version as the model has it.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    seq: u64,
    /// Of the null version: none.
    id: Option<String>,
    /// Of a delete marker: none.
    chunks: Option<Vec<ChunkId>>,
    tags: usize,
}

/// Newest last.
type Keys = BTreeMap<usize, Vec<Kept>>;

struct Run {
    world: World,
    bucket: BucketId,
    /// `None`: it never kept versions.
    keeps: Option<bool>,
    keys: Keys,
    /// What the key was asked to forget in this entry is asked for again by these names.
    step: u8,
}

impl Run {
    fn new() -> Run {
        let mut world = World::new();
        world.run(Command::RaiseLevel(FormatLevel::VERSIONS)).unwrap();
        let bucket = world.bucket("docs");
        Run { world, bucket, keeps: None, keys: Keys::new(), step: 0 }
    }

    fn named(&self, key: usize, target: Target) -> Named {
        let kept = self.keys.get(&key).map_or(&[][..], Vec::as_slice);
        match target {
            Target::Current => Named::Current,
            Target::Null => Named::Null,
            Target::Nth(n) if !kept.is_empty() => match &kept[kept.len() - 1 - n % kept.len()].id {
                Some(id) => Named::Id(id.clone()),
                None => Named::Null,
            },
            Target::Nth(_) | Target::Unknown => Named::Id(format!("{:016x}{:016x}", 3, 4)),
        }
    }

    /// Where a version is among those of its key.
    fn find(&self, key: usize, named: &Named) -> Option<usize> {
        let kept = self.keys.get(&key)?;
        match named {
            Named::Current => kept.len().checked_sub(1),
            Named::Null => kept.iter().position(|version| version.id.is_none()),
            Named::Id(id) => kept.iter().position(|version| version.id.as_ref() == Some(id)),
        }
    }

    fn add(&mut self, key: usize, seq: Lsn, chunks: Option<Vec<ChunkId>>) -> Option<String> {
        let id = (self.keeps == Some(true)).then(|| rows::version_id(seq, [self.step; 8]));
        let kept = self.keys.entry(key).or_default();
        if id.is_none() {
            kept.retain(|version| version.id.is_some());
        }
        kept.push(Kept { seq: seq.0, id: id.clone(), chunks, tags: 0 });
        id
    }

    fn step(&mut self, op: Op) {
        self.step = self.step.wrapping_add(1);
        let seq = self.world.at().lsn;
        match op {
            Op::Versioning(enabled) => {
                let change = BucketChange::Versioning(enabled);
                self.world.run(Command::ChangeBucket { bucket: self.bucket, change }).unwrap();
                self.keeps = Some(enabled);
            }
            Op::Put { key, chunks } => {
                let ids = ids(&chunks);
                let Command::CommitObject(mut put) =
                    put(self.bucket, KEYS[key], &ids, self.world.missing_inline(&ids), Condition::None)
                else {
                    unreachable!()
                };
                put.attached.nonce = [self.step; 8];
                let done = self.world.run(Command::CommitObject(put)).unwrap();
                let id = self.add(key, seq, Some(ids));
                assert!(matches!(done, Outcome::Committed(row, _) if row.version_id == id.unwrap_or_default()));
            }
            Op::Delete(targets) => self.delete(seq, &targets),
            Op::Tags { key, target } => {
                let named = self.named(key, target);
                let tags = vec![Tag { key: "k".into(), value: self.step.to_string() }; 1 + usize::from(self.step % 3)];
                let change = VersionChange::Tags(tags.clone());
                let change = ChangeVersion {
                    bucket: self.bucket,
                    key: KEYS[key].to_owned(),
                    named: named.clone(),
                    change,
                    bypass: false,
                    seq: None,
                };
                let result = self.world.run(Command::ChangeVersion(change)).map(drop);
                let at = self.find(key, &named);
                let found = at.map(|at| &mut self.keys.get_mut(&key).unwrap()[at]);
                let wanted = match (found, named == Named::Current) {
                    (Some(version), _) if version.chunks.is_some() => {
                        version.tags = tags.len();
                        Ok(())
                    }
                    (_, true) => Err(Refusal::NoSuchKey),
                    (Some(_), false) => Err(Refusal::IsDeleteMarker),
                    (None, false) => Err(Refusal::NoSuchVersion),
                };
                assert_eq!(result, wanted);
            }
        }
    }

    fn delete(&mut self, seq: Lsn, targets: &[(usize, Target)]) {
        // All are named by what there is before the entry, as a client names them.
        let listed: Vec<(usize, Named)> = targets.iter().map(|&(key, target)| (key, self.named(key, target))).collect();
        let versions = listed.iter().map(|(key, named)| DeleteVersion {
            key: KEYS[*key].to_owned(),
            named: named.clone(),
            condition: DeleteCondition::default(),
            bypass: false,
        });
        let command = DeleteVersions {
            bucket: self.bucket,
            versions: versions.collect(),
            owner: String::new(),
            nonce: [self.step; 8],
            now_ms: 9,
        };
        let result = self.world.run(Command::DeleteVersions(command)).unwrap();
        let mut wanted = Vec::new();
        for (key, named) in listed {
            let mut gone = Gone::default();
            match (&named, self.keeps) {
                // The entry has put its marker already.
                (Named::Current, Some(_))
                    if self.keys.get(&key).is_some_and(|kept| kept.last().unwrap().seq == seq.0) =>
                {
                    gone.marker = Some(self.keys[&key].last().unwrap().id.clone().unwrap_or_default());
                }
                (Named::Current, Some(enabled)) => {
                    if !enabled {
                        gone.removed = self.take(key, &Named::Null);
                    }
                    gone.marker = Some(self.add(key, seq, None).unwrap_or_default());
                }
                (Named::Current, None) => gone.removed = self.take(key, &Named::Null),
                (named, _) => gone.removed = self.take(key, named),
            }
            wanted.push(Ok(gone));
        }
        assert_eq!(result, Outcome::VersionsDeleted(wanted));
    }

    fn take(&mut self, key: usize, named: &Named) -> Option<(String, bool)> {
        let at = self.find(key, named)?;
        let kept = self.keys.get_mut(&key)?;
        let version = kept.remove(at);
        if kept.is_empty() {
            self.keys.remove(&key);
        }
        Some((version.id.unwrap_or_default(), version.chunks.is_none()))
    }

    fn check(&self) {
        for (n, key) in KEYS.iter().enumerate() {
            let stored = rows::newest_versions(&self.world.view(), self.bucket, key, usize::MAX).unwrap();
            let stored: Vec<Kept> = stored
                .into_iter()
                .rev()
                .map(|row| Kept {
                    seq: row.seq,
                    id: (!row.version_id.is_empty()).then_some(row.version_id),
                    chunks: row.content.map(|content| {
                        let manifest = codec::manifest::Manifest::parse(&content.manifest).unwrap();
                        manifest.entries().iter().map(|entry| entry.id).collect()
                    }),
                    tags: row.tags.len(),
                })
                .collect();
            assert_eq!(stored, self.keys.get(&n).cloned().unwrap_or_default(), "{key}");
        }
        self.world.check_refs();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_commands_keep_the_versions_the_counts_and_the_replay(ops in prop::collection::vec(op(), 1..60)) {
        let mut run = Run::new();
        for op in ops {
            run.step(op);
            run.check();
        }
        run.world.check_replay();
    }
}

fn versioned() -> (World, BucketId) {
    let mut run = Run::new();
    run.step(Op::Versioning(true));
    (run.world, run.bucket)
}

fn delete_one(bucket: BucketId, named: Named, condition: DeleteCondition) -> Command {
    Command::DeleteVersions(DeleteVersions {
        bucket,
        versions: vec![DeleteVersion { key: "k".to_owned(), named, condition, bypass: false }],
        owner: String::new(),
        nonce: [1; 8],
        now_ms: 9,
    })
}

#[test]
fn a_condition_on_a_delete_is_of_the_version_that_is_named() {
    let (mut world, bucket) = versioned();
    let etag = |etag: &str| DeleteCondition { etag: Condition::IfMatch(etag.to_owned()), ..DeleteCondition::default() };
    let any = || DeleteCondition { etag: Condition::IfMatchAny, ..DeleteCondition::default() };
    let failed = Err(Refusal::PreconditionFailed);
    assert_eq!(
        world.run(delete_one(bucket, Named::Null, etag("x"))).map(drop),
        Ok(()),
        "of what is not there none fails"
    );
    world.put(bucket, "k", &ids(&[1])).unwrap();
    let first = index::current_version(&world.view(), bucket, "k").unwrap().unwrap();
    world.put(bucket, "k", &ids(&[1, 3])).unwrap();
    let new = content(&ids(&[1, 3])).etag;
    let named = || Named::Id(first.version_id.clone());
    assert_eq!(world.run(delete_one(bucket, named(), etag(&new))), failed);
    for (condition, holds) in [
        (DeleteCondition { size: Some(1000), ..DeleteCondition::default() }, true),
        (DeleteCondition { size: Some(2000), ..DeleteCondition::default() }, false),
        (DeleteCondition { modified_s: Some(0), ..DeleteCondition::default() }, true),
        (DeleteCondition { modified_s: Some(1), ..DeleteCondition::default() }, false),
    ] {
        let decided = world.decide(&delete_one(bucket, named(), condition.clone()));
        assert_eq!(decided.is_ok(), holds, "{condition:?}");
    }
    world.run(delete_one(bucket, Named::Current, etag(&new))).unwrap();
    assert_eq!(world.run(delete_one(bucket, Named::Current, etag(&new))), failed, "a delete marker has no entity tag");
    world.run(delete_one(bucket, Named::Current, any())).unwrap();
}

#[test]
fn a_locked_null_version_is_neither_overwritten_nor_deleted() {
    let mut run = Run::new();
    run.world.put(run.bucket, "k", &ids(&[1])).unwrap();
    run.step(Op::Versioning(true));
    let (mut world, bucket) = (run.world, run.bucket);
    world.run(Command::ChangeBucket { bucket, change: BucketChange::Lock(None) }).unwrap();
    let hold = |hold| {
        Command::ChangeVersion(ChangeVersion {
            bucket,
            key: "k".to_owned(),
            named: Named::Null,
            change: VersionChange::Hold(hold),
            bypass: false,
            seq: None,
        })
    };
    world.run(hold(true)).unwrap();
    let held = Err(Refusal::Locked(access::lock::Locked::Hold));
    assert_eq!(world.run(delete_one(bucket, Named::Null, DeleteCondition::default())).map(drop), held);
    // A bucket with Object Lock keeps versions for ever; a row that says otherwise does not free what is locked.
    let suspended = Versioning::Suspended.into();
    let row = index::bucket(&world.view(), "docs").unwrap().unwrap();
    let mut overlay = index::Overlay::new(&world.kv);
    overlay.put(index::BUCKETS, index::bucket_key("docs"), &BucketRow { versioning: suspended, ..row });
    let batch = overlay.into_batch();
    storage_node::kv::Kv::write(&world.kv, batch).unwrap();
    assert_eq!(world.put(bucket, "k", &ids(&[3])).map(drop), held);
    assert_eq!(world.run(delete_one(bucket, Named::Current, DeleteCondition::default())).map(drop), held);
    assert_eq!(world.run(delete(bucket, "k", Condition::None)).map(drop), held);
    world.run(hold(false)).unwrap();
    world.put(bucket, "k", &ids(&[3])).unwrap();
}

#[test]
fn of_many_versions_each_is_refused_for_itself() {
    let (mut world, bucket) = versioned();
    world.put(bucket, "k", &ids(&[1])).unwrap();
    let row = index::current_version(&world.view(), bucket, "k").unwrap().unwrap();
    let good = DeleteVersion {
        key: "k".to_owned(),
        named: Named::Id(row.version_id.clone()),
        condition: DeleteCondition::default(),
        bypass: false,
    };
    let condition = DeleteCondition { size: Some(7), ..DeleteCondition::default() };
    let bad = DeleteVersion { condition, ..good.clone() };
    let versions = vec![bad.clone(), good.clone(), bad, good];
    let delete = DeleteVersions { bucket, versions, owner: String::new(), nonce: [1; 8], now_ms: 9 };
    let gone = Gone { removed: Some((row.version_id, false)), marker: None };
    // What went in the same entry is not there any more: of it no condition fails.
    let wanted = vec![Err(Refusal::PreconditionFailed), Ok(gone), Ok(Gone::default()), Ok(Gone::default())];
    assert_eq!(world.run(Command::DeleteVersions(delete)), Ok(Outcome::VersionsDeleted(wanted)));
    world.check_refs();
    world.check_replay();
}

#[test]
fn versions_need_their_level() {
    let mut world = World::new();
    let bucket = world.bucket("docs");
    let needs = Refusal::NeedsLevel { needs: FormatLevel::VERSIONS, at: FormatLevel::BEFORE };
    let change = BucketChange::Versioning(true);
    assert_eq!(world.run(Command::ChangeBucket { bucket, change }), Err(needs.clone()));
    let Command::CommitObject(put) = put(bucket, "k", &[], Vec::new(), Condition::None) else { unreachable!() };
    let mut tagged = put.clone();
    tagged.attached.tags.push(Tag { key: "k".into(), value: String::new() });
    assert_eq!(world.run(Command::CommitObject(tagged)), Err(needs.clone()));
    // Nothing could be restored.
    let mut archived = put.clone();
    archived.meta.storage_class = "GLACIER".to_owned();
    assert_eq!(world.run(Command::CommitObject(archived)), Err(needs));
    // Whose it is can't be said yet, and need not be.
    let mut owned = put;
    owned.attached.owner = "bob".to_owned();
    let Ok(Outcome::Committed(row, _)) = world.run(Command::CommitObject(owned)) else { panic!() };
    assert_eq!((row.owner.as_str(), row.clock_ms), ("", 0));
}

/// What takes versions away, and what makes a version of another one, is in the files that ask the lock, and in no other.
#[test]
fn versions_go_in_one_place_and_their_rows_change_in_two() {
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/state");
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in std::fs::read_dir(sources).unwrap() {
        let path = file.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        for effect in ["EffectKind::DeleteVersion", "EffectKind::PutVersion"] {
            // Who asks what an effect is has it before an arrow.
            let makes = |line: &str| {
                let made = line.find(effect).is_some_and(|at| !line[at..].contains("=>"));
                made && !line.trim_start().starts_with("//") && !line.contains("matches!")
            };
            if text.lines().any(makes) {
                found.entry(effect).or_default().push(name.clone());
            }
        }
    }
    found.values_mut().for_each(|files| files.sort());
    // `object.rs` and `delete.rs` put new versions, under the entry's own number.
    assert_eq!(found["EffectKind::DeleteVersion"], ["removal.rs"]);
    assert_eq!(found["EffectKind::PutVersion"], ["change.rs", "delete.rs", "object.rs"]);
}
