//! Random commands, against a model of maps: the namespace that S3 promises, the counts, and the replay.

use super::world::*;
use crate::command::*;
use crate::index;
use crate::listing::{self, ListRequest};
use codec::effect::{DriveRow, DriveState, UploadName};
use codec::id::*;
use codec::manifest::Entry;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Active drives; the one after the last is draining.
const DRIVES: u8 = 5;
const NAMES: [&str; 2] = ["one", "two"];
const KEYS: [&str; 8] = ["a", "a/", "a/b", "a/b/c", "a\0", "\u{ffff}", "\u{10000}", "z"];

#[derive(Clone, Debug)]
enum Op {
    CreateBucket(usize, bool),
    DeleteBucket(usize),
    Put { bucket: usize, key: usize, chunks: Vec<u8>, condition: Cond, store: bool },
    PutNode { bucket: usize, key: usize, children: Vec<u8> },
    Copy { from: (usize, usize), to: (usize, usize) },
    Delete { bucket: usize, key: usize, condition: Cond },
    DeleteMany { bucket: usize, keys: Vec<usize> },
    Upload { bucket: usize, key: usize },
    Part { upload: usize, number: u32, chunks: Vec<u8> },
    Complete { upload: usize, take: Vec<bool> },
    Abort { upload: usize },
    Stripe { chunks: Vec<u8>, lose: bool },
    MoveShards { stripe: usize, moves: Vec<(u8, u8, u8)> },
    List { bucket: usize, delimiter: bool, max: usize },
}

#[derive(Clone, Copy, Debug)]
enum Cond {
    None,
    NewOnly,
    Matching,
    Other,
}

fn op() -> impl Strategy<Value = Op> {
    let bucket = 0..NAMES.len();
    let key = 0..KEYS.len();
    let upload = 0usize..4;
    let chunks = || prop::collection::vec(1u8..12, 0..5);
    let condition = prop::sample::select(vec![Cond::None, Cond::None, Cond::NewOnly, Cond::Matching, Cond::Other]);
    prop_oneof![
        2 => (bucket.clone(), any::<bool>()).prop_map(|(bucket, mine)| Op::CreateBucket(bucket, mine)),
        1 => bucket.clone().prop_map(Op::DeleteBucket),
        8 => (bucket.clone(), key.clone(), chunks(), condition.clone(), prop::bool::weighted(0.9))
            .prop_map(|(bucket, key, chunks, condition, store)| Op::Put { bucket, key, chunks, condition, store }),
        2 => (bucket.clone(), key.clone(), prop::collection::vec(1u8..12, 1..5))
            .prop_map(|(bucket, key, children)| Op::PutNode { bucket, key, children }),
        2 => ((bucket.clone(), key.clone()), (bucket.clone(), key.clone())).prop_map(|(from, to)| Op::Copy { from, to }),
        4 => (bucket.clone(), key.clone(), condition)
            .prop_map(|(bucket, key, condition)| Op::Delete { bucket, key, condition }),
        1 => (bucket.clone(), prop::collection::vec(key.clone(), 0..4))
            .prop_map(|(bucket, keys)| Op::DeleteMany { bucket, keys }),
        2 => (bucket.clone(), key.clone()).prop_map(|(bucket, key)| Op::Upload { bucket, key }),
        5 => (upload.clone(), 1u32..4, chunks()).prop_map(|(upload, number, chunks)| Op::Part { upload, number, chunks }),
        2 => (upload.clone(), prop::collection::vec(any::<bool>(), 3)).prop_map(|(upload, take)| Op::Complete { upload, take }),
        1 => upload.prop_map(|upload| Op::Abort { upload }),
        2 => (chunks(), any::<bool>()).prop_map(|(chunks, lose)| Op::Stripe { chunks, lose }),
        3 => (0usize..6, prop::collection::vec((0u8..4, 0u8..6, 0u8..6), 0..3))
            .prop_map(|(stripe, moves)| Op::MoveShards { stripe, moves }),
        2 => (bucket, any::<bool>(), 0usize..5)
            .prop_map(|(bucket, delimiter, max)| Op::List { bucket, delimiter, max }),
    ]
}

type Parts = BTreeMap<u32, Vec<ChunkId>>;

#[derive(Default)]
struct Model {
    buckets: BTreeMap<usize, Bucket>,
    /// Every upload ever opened; those that are over have no parts map.
    uploads: Vec<(UploadName, Option<Parts>)>,
    /// The drives of each stripe's shards; its counter is one more than the position.
    stripes: Vec<[u8; 3]>,
}

struct Bucket {
    id: BucketId,
    mine: bool,
    /// Key to the manifest's entries.
    objects: BTreeMap<String, Vec<Entry>>,
}

struct Run {
    world: World,
    model: Model,
}

fn leaves(ids: &[ChunkId]) -> Vec<Entry> {
    ids.iter().map(|&id| Entry { id, len: plain_len(id).into(), leaf: true }).collect()
}

impl Run {
    /// The bucket's id; one that never existed when it does not exist.
    fn id(&self, bucket: usize) -> BucketId {
        self.model.buckets.get(&bucket).map_or(BucketId(1 << 40), |bucket| bucket.id)
    }

    fn etag(&self, bucket: usize, key: &str) -> Option<String> {
        let entries = self.model.buckets.get(&bucket)?.objects.get(key)?;
        Some(content_of(entries.clone()).etag)
    }

    fn condition(&self, bucket: usize, key: &str, wish: Cond) -> Condition {
        match wish {
            Cond::None => Condition::None,
            Cond::NewOnly => Condition::IfNoneMatchAny,
            Cond::Matching => Condition::IfMatch(self.etag(bucket, key).unwrap_or_default()),
            Cond::Other => Condition::IfMatch("other".to_owned()),
        }
    }

    /// What the model says of a write: the refusal, unless it goes through.
    fn write_refusal(&self, bucket: usize, key: &str, wish: Cond) -> Option<Refusal> {
        let Some(there) = self.model.buckets.get(&bucket) else { return Some(Refusal::NoSuchBucket) };
        match (wish, there.objects.contains_key(key)) {
            (Cond::None, _) | (Cond::NewOnly, false) | (Cond::Matching, true) => None,
            (Cond::NewOnly, true) | (Cond::Other, true) => Some(Refusal::PreconditionFailed),
            (Cond::Matching | Cond::Other, false) => Some(Refusal::NoSuchKey),
        }
    }

    fn put(&mut self, bucket: usize, key: usize, entries: Vec<Entry>, chunks: Vec<NewChunk>, wish: Cond) {
        let key = KEYS[key];
        let condition = self.condition(bucket, key, wish);
        let command = put_content(self.id(bucket), key, content_of(entries.clone()), chunks, condition);
        let result = self.world.run(command);
        if let Err(Refusal::MissingChunks(missing)) = &result {
            assert!(self.write_refusal(bucket, key, wish).is_none());
            assert!(missing.iter().all(|id| self.world.chunk(*id).is_none()));
            return;
        }
        assert_eq!(result.err(), self.write_refusal(bucket, key, wish));
        if self.write_refusal(bucket, key, wish).is_none() {
            self.model.buckets.get_mut(&bucket).unwrap().objects.insert(key.to_owned(), entries);
        }
    }

    fn delete(&mut self, bucket: usize, key: &str, wish: Cond) {
        let condition = self.condition(bucket, key, wish);
        let result = self.world.run(delete(self.id(bucket), key, condition));
        let Some(there) = self.model.buckets.get_mut(&bucket) else {
            assert_eq!(result, Err(Refusal::NoSuchBucket));
            return;
        };
        let exists = there.objects.contains_key(key);
        // Of what is not there no condition fails: it is gone, as was asked. Nobody asks for a delete of what must not be there.
        let asked = !matches!(wish, Cond::NewOnly) && (!exists || !matches!(wish, Cond::Other));
        if asked {
            let Ok(Outcome::Deleted(old)) = result else { panic!("{result:?}") };
            assert_eq!(old.is_some(), exists);
            there.objects.remove(key);
        } else {
            assert_eq!(result, Err(Refusal::PreconditionFailed));
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::CreateBucket(bucket, mine) => self.create_bucket(bucket, mine),
            Op::DeleteBucket(bucket) => self.delete_bucket(bucket),
            Op::Put { bucket, key, chunks, condition, store } => {
                let ids = ids(&chunks);
                let new = if store { self.world.missing_inline(&ids) } else { Vec::new() };
                self.put(bucket, key, leaves(&ids), new, condition);
            }
            Op::PutNode { bucket, key, children } => {
                let children = ids(&children);
                let mut new = self.world.missing_inline(&children);
                let known = self.world.children.clone();
                let (node, entry) = self.world.node(&children);
                new.push(node.clone());
                self.put(bucket, key, vec![entry], new, Cond::None);
                if self.world.chunk(node.id).is_none() {
                    self.world.children = known;
                }
            }
            Op::Copy { from, to } => {
                let source = self.model.buckets.get(&from.0).and_then(|bucket| bucket.objects.get(KEYS[from.1]));
                if let Some(entries) = source.cloned() {
                    self.put(to.0, to.1, entries, Vec::new(), Cond::None);
                }
            }
            Op::Delete { bucket, key, condition } => self.delete(bucket, KEYS[key], condition),
            Op::DeleteMany { bucket, keys } => self.delete_many(bucket, &keys),
            Op::Upload { bucket, key } => match self.world.run(create_upload(self.id(bucket), KEYS[key])) {
                Ok(Outcome::UploadCreated(name)) => self.model.uploads.push((name, Some(BTreeMap::new()))),
                other => assert_eq!(other, Err(Refusal::NoSuchBucket)),
            },
            Op::Part { upload, number, chunks } => {
                let Some((name, parts)) = self.model.uploads.get_mut(upload) else { return };
                let result = self.world.part(name, number, &ids(&chunks));
                match parts {
                    Some(parts) => {
                        assert!(result.is_ok(), "{result:?}");
                        parts.insert(number, ids(&chunks));
                    }
                    None => assert!(result.is_err()),
                }
            }
            Op::Complete { upload, take } => self.complete(upload, &take),
            Op::Abort { upload } => {
                let Some((name, parts)) = self.model.uploads.get_mut(upload) else { return };
                let result = self.world.run(Command::AbortUpload { upload: name.clone() });
                assert_eq!(result.err(), parts.is_none().then_some(Refusal::NoSuchUpload));
                *parts = None;
            }
            Op::Stripe { mut chunks, lose } => {
                chunks.sort_unstable();
                self.world.losses.drives = lose.then_some(DriveId([1; 16])).into_iter().collect();
                self.world.commit_stripe(&ids(&chunks)).unwrap();
                self.model.stripes.push([0, 1, 2]);
            }
            Op::MoveShards { stripe, moves } => self.move_shards(stripe, &moves),
            Op::List { bucket, delimiter, max } => self.list(bucket, delimiter, max),
        }
    }

    fn create_bucket(&mut self, bucket: usize, mine: bool) {
        let result = self.world.run(create_bucket(NAMES[bucket], if mine { "alice" } else { "bob" }));
        match (result, self.model.buckets.get(&bucket)) {
            (Ok(Outcome::BucketCreated(row)), None) => {
                let new = Bucket { id: row.bucket_id(), mine, objects: BTreeMap::new() };
                self.model.buckets.insert(bucket, new);
            }
            (Err(Refusal::BucketOwnedByYou), Some(there)) => assert_eq!(there.mine, mine),
            (Err(Refusal::BucketExists), Some(there)) => assert_ne!(there.mine, mine),
            (other, _) => panic!("{other:?}"),
        }
    }

    fn delete_bucket(&mut self, bucket: usize) {
        let result = self.world.run(Command::DeleteBucket { bucket: self.id(bucket) });
        match self.model.buckets.get(&bucket) {
            None => assert_eq!(result, Err(Refusal::NoSuchBucket)),
            Some(there) if !there.objects.is_empty() => assert_eq!(result, Err(Refusal::BucketNotEmpty)),
            Some(there) => {
                assert_eq!(result, Ok(Outcome::BucketDeleted { uploads_left: false }));
                let inside = |upload: &&mut (UploadName, _)| upload.0.bucket == there.id.0;
                self.model.uploads.iter_mut().filter(inside).for_each(|upload| upload.1 = None);
                self.model.buckets.remove(&bucket);
            }
        }
    }

    fn delete_many(&mut self, bucket: usize, keys: &[usize]) {
        let listed = keys.iter().map(|&key| (KEYS[key].to_owned(), Condition::None)).collect();
        let result = self.world.run(Command::DeleteObjects { bucket: self.id(bucket), keys: listed });
        let Some(there) = self.model.buckets.get_mut(&bucket) else {
            assert_eq!(result, Err(Refusal::NoSuchBucket));
            return;
        };
        let existed = keys.iter().map(|&key| Ok(there.objects.remove(KEYS[key]).is_some())).collect();
        assert_eq!(result, Ok(Outcome::DeletedMany(existed)));
    }

    fn complete(&mut self, upload: usize, take: &[bool]) {
        let Some((name, state)) = self.model.uploads.get_mut(upload) else { return };
        let parts = state.clone().unwrap_or_default();
        let listed: Vec<(u32, Vec<ChunkId>)> =
            parts.into_iter().filter(|(number, _)| take[*number as usize - 1]).collect();
        let result = self.world.run(complete(name, &listed));
        if state.is_none() {
            assert!(matches!(result, Err(Refusal::NoSuchUpload | Refusal::NoSuchBucket)), "{result:?}");
            return;
        }
        let small = listed.iter().rev().skip(1).rev().find(|(_, ids)| content(ids).size < MIN_PART);
        match (listed.is_empty(), small) {
            (true, _) => assert_eq!(result, Err(Refusal::InvalidPartOrder)),
            (false, Some((first, _))) => {
                assert!(matches!(result, Err(Refusal::PartTooSmall { number, .. }) if number == *first));
            }
            (false, None) => {
                assert!(result.is_ok(), "{result:?}");
                let all: Vec<ChunkId> = listed.into_iter().flat_map(|(_, ids)| ids).collect();
                let there = self.model.buckets.values_mut().find(|bucket| bucket.id.0 == name.bucket).unwrap();
                there.objects.insert(name.key.clone(), leaves(&all));
                *state = None;
            }
        }
    }

    /// All moves or none: each from where the shard is, to an active drive, and no two shards on one.
    fn move_shards(&mut self, stripe: usize, moves: &[(u8, u8, u8)]) {
        let id = StripeId { epoch: self.world.writer, counter: stripe as u64 + 1 };
        let drive = |n: u8| DriveId([n; 16]);
        let asked = moves.iter().map(|&(index, from, to)| ShardMove { index, from: Some(drive(from)), to: drive(to) });
        let result = self.world.run(Command::MoveShards { stripe: id, moves: asked.collect() });
        let after = self.model.stripes.get(stripe).and_then(|before| {
            let mut after = *before;
            for (n, &(index, from, to)) in moves.iter().enumerate() {
                let again = moves[..n].iter().any(|(other, ..)| *other == index);
                let place =
                    after.get_mut(usize::from(index)).filter(|place| **place == from && to < DRIVES && !again)?;
                *place = to;
            }
            let distinct: std::collections::BTreeSet<u8> = after.into_iter().collect();
            (distinct.len() == after.len()).then_some(after)
        });
        assert_eq!(result, after.map(|_| Outcome::Done).ok_or(Refusal::StripeChanged(id)));
        if let (Some(after), Some(place)) = (after, self.model.stripes.get_mut(stripe)) {
            *place = after;
        }
    }

    fn list(&self, bucket: usize, delimiter: bool, max: usize) {
        let Some(there) = self.model.buckets.get(&bucket) else { return };
        let delimiter = if delimiter { "/" } else { "" };
        let mut request =
            ListRequest { bucket: there.id, delimiter: delimiter.to_owned(), max, ..ListRequest::default() };
        let mut listed = Vec::new();
        loop {
            let page = listing::list(&self.world.kv, &request).unwrap();
            listed.extend(page.objects.into_iter().map(|version| version.key));
            listed.extend(page.prefixes);
            let Some(next) = page.next else { break };
            request.after = next;
        }
        let rolled_up = |key: &String| match key.split_once('/') {
            Some((before, _)) if !delimiter.is_empty() => format!("{before}/"),
            _ => key.clone(),
        };
        let mut wanted: Vec<String> = there.objects.keys().map(rolled_up).collect();
        wanted.dedup();
        if max == 0 {
            wanted.clear();
        }
        listed.sort();
        assert_eq!(listed, wanted);
    }

    fn check(&self) {
        for there in self.model.buckets.values() {
            for key in KEYS {
                let row = index::current_version(&self.world.view(), there.id, key).unwrap();
                let stored = row.and_then(|row| row.content).map(|content| content.manifest);
                let wanted = there.objects.get(key).map(|entries| content_of(entries.clone()).manifest);
                assert_eq!(stored, wanted, "{key:?}");
            }
        }
        for (name, parts) in &self.model.uploads {
            assert_eq!(index::upload(&self.world.view(), name).unwrap().is_some(), parts.is_some());
        }
        for (counter, drives) in (1..).zip(&self.model.stripes) {
            let row =
                index::stripe(&self.world.view(), StripeId { epoch: self.world.writer, counter }).unwrap().unwrap();
            let stored: Vec<u8> = row.drives.iter().map(|drive| drive[0]).collect();
            assert_eq!(stored, drives);
        }
        self.world.check_refs();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_commands_keep_the_namespace_the_counts_and_the_replay(ops in prop::collection::vec(op(), 1..60)) {
        let mut run = Run { world: World::new(), model: Model::default() };
        run.step(Op::CreateBucket(0, true));
        for (n, state) in [(3, DriveState::Active), (4, DriveState::Active), (5, DriveState::Draining)] {
            let id = bytes::Bytes::from(vec![n; 16]);
            let row = DriveRow { id, state: state as i32, ..DriveRow::default() };
            run.world.run(Command::RegisterDrive(row)).unwrap();
        }
        for op in ops {
            run.step(op);
            run.check();
        }
        run.world.check_replay();
    }
}
