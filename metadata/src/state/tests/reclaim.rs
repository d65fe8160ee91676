//! Deletes: each condition of R10, R11 and R12 with and without the step that keeps it, and random commands against a model
//! in which nothing that can be reached may go.

use super::world::*;
use crate::command::*;
use crate::index::reclaim::{self, Hold, MAX_GRACE_MS, RECLAIM_SETTING, TICK_STEP_MS};
use crate::index::{self, CHUNKS, STRIPES, View};
use bytes::Bytes;
use codec::effect::*;
use codec::id::*;
use codec::manifest::{Entry, Manifest};
use codec::stripe::{StripeClass, StripeDescriptor};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use storage_node::kv::Kv;
use storage_node::sabotage::Sabotage;

const HOUR: u64 = 3600 * 1000;
const DAY: u64 = 24 * HOUR;

fn pass(world: &mut World, ms: u64) {
    let last = index::clock(&world.view()).unwrap().unwrap_or_default();
    let tick = ClockTick { retention_ms: last.retention_ms + ms, steady_ms: last.steady_ms + ms, ..last };
    world.run(Command::ClockTick(tick)).unwrap();
}

fn unmarked(world: &World, id: ChunkId) -> UnmarkedChunk {
    let condemned_lsn = Lsn(world.chunk(id).map_or(0, |row| row.condemned_lsn));
    UnmarkedChunk { id, condemned_lsn, children: world.children.get(&id).cloned().unwrap_or_default(), unread: false }
}

fn delete_of(chunks: Vec<UnmarkedChunk>, marked_from: Lsn) -> Command {
    Command::DeleteChunks(DeleteChunks { marked_from, grace_ms: 7 * DAY, chunks })
}

fn done(result: Result<Outcome, Refusal>) -> (u64, u64) {
    match result {
        Ok(Outcome::Reclaimed { done, skipped }) => (done, skipped),
        other => panic!("{other:?}"),
    }
}

/// A world in which chunk 1 was condemned a grace ago.
fn condemned() -> (World, BucketId) {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.put(bucket, "k", &ids(&[1])).unwrap();
    world.run(delete(bucket, "k", Condition::None)).unwrap();
    pass(&mut world, 1);
    pass(&mut world, 8 * DAY);
    (world, bucket)
}

#[test]
fn r11_a_chunk_goes_after_its_grace_and_no_earlier() {
    let (mut world, bucket) = condemned();
    world.put(bucket, "k2", &ids(&[3])).unwrap();
    world.run(delete(bucket, "k2", Condition::None)).unwrap();
    let all = |world: &World| delete_of(vec![unmarked(world, id(1)), unmarked(world, id(3))], world.lsn);
    let command = all(&world);
    assert_eq!(done(world.run(command)), (1, 1), "the second was condemned just now");
    assert_eq!(world.chunk(id(1)), None);
    // No tick since: nothing is known of how long ago it was. Then 10 minutes may be lost to the step between notes.
    pass(&mut world, 7 * DAY);
    let command = all(&world);
    assert_eq!(done(world.run(command)), (0, 2));
    pass(&mut world, 7 * DAY);
    world.sabotage.set(Sabotage::ReclaimGrace, true);
    world.put(bucket, "k3", &ids(&[5])).unwrap();
    world.run(delete(bucket, "k3", Condition::None)).unwrap();
    let early = delete_of(vec![unmarked(&world, id(5))], world.lsn);
    assert_eq!(world.decide(&early).unwrap().outcome, Outcome::Reclaimed { done: 1, skipped: 0 }, "at once");
    world.sabotage.set(Sabotage::ReclaimGrace, false);
    let command = all(&world);
    assert_eq!(done(world.run(command)), (1, 1));
    world.check_refs();
    world.check_replay();
}

#[test]
fn r11_no_configuration_makes_the_grace_shorter_than_a_day() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.put(bucket, "k", &ids(&[1])).unwrap();
    world.run(delete(bucket, "k", Condition::None)).unwrap();
    pass(&mut world, 1);
    let at_once = |world: &World| {
        let chunks = vec![unmarked(world, id(1))];
        Command::DeleteChunks(DeleteChunks { marked_from: world.lsn, grace_ms: 0, chunks })
    };
    pass(&mut world, DAY - 1);
    let command = at_once(&world);
    assert_eq!(done(world.run(command)), (0, 1));
    pass(&mut world, 1);
    let command = at_once(&world);
    assert_eq!(done(world.run(command)), (1, 0));
}

#[test]
fn r11_what_was_revived_stays_and_so_does_another_condemnation() {
    let (mut world, bucket) = condemned();
    let old = unmarked(&world, id(1));
    let marked = world.lsn;
    world.put(bucket, "again", &ids(&[1])).unwrap();
    let command = delete_of(vec![old.clone()], marked);
    assert_eq!(done(world.run(command.clone())), (0, 1));
    world.sabotage.set(Sabotage::ReclaimState, true);
    let decided = world.decide(&command).unwrap();
    assert!(decided.effects.effects.iter().any(|e| matches!(e.kind, Some(EffectKind::DeleteChunk(_)))), "a live chunk");
    world.sabotage.set(Sabotage::ReclaimState, false);
    world.run(delete(bucket, "again", Condition::None)).unwrap();
    assert_eq!(done(world.run(command)), (0, 1), "the old condemnation's marks say nothing about the new one");
    world.check_refs();
}

#[test]
fn r11_a_mark_pass_that_began_before_the_condemnation_proves_nothing() {
    let (mut world, _) = condemned();
    let chunk = unmarked(&world, id(1));
    let before = Lsn(chunk.condemned_lsn.0 - 1);
    let command = delete_of(vec![chunk], before);
    assert_eq!(done(world.run(command.clone())), (0, 1));
    world.sabotage.set(Sabotage::ReclaimMark, true);
    assert_eq!(world.decide(&command).unwrap().outcome, Outcome::Reclaimed { done: 1, skipped: 0 });
}

#[test]
fn a_manifest_chunk_takes_its_references_along() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    let (node, entry) = world.node(&ids(&[1, 3, 1]));
    let (name, chunks) = (node.id, vec![inline(id(1)), inline(id(3)), node]);
    world.run(put_content(bucket, "k", content_of(vec![entry]), chunks, Condition::None)).unwrap();
    world.put(bucket, "other", &ids(&[3])).unwrap();
    world.run(delete(bucket, "k", Condition::None)).unwrap();
    assert_eq!(world.chunk(id(1)).unwrap().refs, 2, "the node holds it as long as it is there");
    pass(&mut world, 1);
    pass(&mut world, 8 * DAY);
    // Without its children its references would never go; with a child, what it lists would go before it.
    let bare = UnmarkedChunk { children: Vec::new(), ..unmarked(&world, name) };
    let command = delete_of(vec![bare], world.lsn);
    assert_eq!(done(world.run(command)), (0, 1));
    let command = delete_of(vec![unmarked(&world, id(1)), unmarked(&world, name)], world.lsn);
    assert_eq!(done(world.run(command)), (1, 1));
    let rows = (world.chunk(id(1)).unwrap(), world.chunk(id(3)).unwrap());
    assert_eq!(
        (rows.0.state(), rows.0.refs, rows.1.state(), rows.1.refs),
        (ChunkState::Condemned, 0, ChunkState::Live, 1)
    );
    assert_eq!(rows.0.condemned_lsn, world.lsn.0, "its own grace begins now");
    world.check_refs();
    world.check_replay();
}

#[test]
fn a_chunk_that_marks_saw_is_live_again_with_its_count() {
    let (mut world, bucket) = condemned();
    let row = world.chunk(id(1)).unwrap();
    let spare = |condemned_lsn| Command::SpareChunks(vec![SparedChunk { id: id(1), condemned_lsn, refs: 2 }]);
    assert_eq!(done(world.run(spare(Lsn(row.condemned_lsn + 1)))), (0, 1));
    assert_eq!(done(world.run(spare(Lsn(row.condemned_lsn)))), (1, 0));
    let row = world.chunk(id(1)).unwrap();
    assert_eq!((row.state(), row.refs, row.condemned_lsn), (ChunkState::Live, 2, 0));
    world.put(bucket, "k", &ids(&[1])).unwrap();
    assert_eq!(world.chunk(id(1)).unwrap().refs, 3);
}

#[test]
fn what_a_put_left_behind_is_condemned_and_a_late_commit_revives_it() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.commit_stripe(&ids(&[1, 3])).unwrap();
    world.put(bucket, "k", &ids(&[3])).unwrap();
    assert_eq!(done(world.run(Command::CondemnChunks(ids(&[1, 3, 5])))), (1, 2));
    assert_eq!(world.chunk(id(1)).unwrap().condemned_lsn, world.lsn.0);
    world.put(bucket, "late", &ids(&[1])).unwrap();
    assert_eq!(world.chunk(id(1)).unwrap().state(), ChunkState::Live);
    world.check_refs();
}

#[test]
fn r10_nothing_is_deleted_while_reclaim_is_held() {
    let (mut world, _) = condemned();
    let delete = delete_of(vec![unmarked(&world, id(1))], world.lsn);
    let switch = |on: &'static str| {
        Command::PutSetting(SettingRow { name: RECLAIM_SETTING.to_owned(), value: Bytes::from_static(on.as_bytes()) })
    };
    let held = |world: &World| match world.decide(&delete) {
        Err(Refusal::ReclaimHeld(hold)) => Some(hold),
        Ok(_) => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(held(&world), None);
    world.run(switch("off")).unwrap();
    assert_eq!(held(&world), Some(Hold::Off));
    assert!(matches!(world.run(Command::DropStripes(Vec::new())), Err(Refusal::ReclaimHeld(_))));
    // A release is for holds; the switch stays where it is.
    world.run(Command::ReleaseReclaim { floor: Lsn(5) }).unwrap();
    assert_eq!(held(&world), Some(Hold::Off));
    world.run(switch("on")).unwrap();
    assert_eq!(held(&world), None);
    world.run(Command::HoldReclaim { reason: "first".to_owned() }).unwrap();
    world.run(Command::HoldReclaim { reason: "second".to_owned() }).unwrap();
    assert_eq!(held(&world), Some(Hold::Held("first".to_owned())));
    world.run(Command::ReleaseReclaim { floor: Lsn(5) }).unwrap();
    assert_eq!(held(&world), None);
    // An accepted loss holds it by itself.
    let loss = AcceptedLossRow { kept: world.lsn.0, known: world.lsn.0 };
    world.run(Command::AcceptLoss { loss: loss.clone(), sealed: None }).unwrap();
    assert_eq!(held(&world), Some(Hold::AcceptedLoss(Lsn(loss.known))));
    world.sabotage.set(Sabotage::ReclaimHold, true);
    assert_eq!(held(&world), None, "deleted, though the lost entries may have referenced it");
    world.sabotage.set(Sabotage::ReclaimHold, false);
    world.run(Command::ReleaseReclaim { floor: Lsn(5) }).unwrap();
    assert_eq!(held(&world), None);
    world.run(Command::ReleaseReclaim { floor: Lsn(3) }).unwrap();
    assert_eq!(reclaim::floor(&world.view()).unwrap(), Lsn(5), "drives forget nothing");
    world.check_replay();
}

/// The stripe's frames as their headers would say, filled up with one that nobody knows.
fn frames_of(row: &StripeRow, chunks: &[ChunkId]) -> DroppedStripe {
    let descriptor = StripeDescriptor::parse(&row.descriptor).unwrap();
    let total: u32 = descriptor.data_present().into_iter().map(|index| descriptor.shard_len(index)).sum();
    let mut frames: Vec<_> = chunks.iter().map(|id| (*id, 100)).collect();
    frames.push((ChunkId([0xee; 32]), total - 100 * chunks.len() as u32));
    DroppedStripe { id: descriptor.id, frames }
}

#[test]
fn a_stripe_with_chunks_is_not_dropped_and_a_dropped_one_never_comes_back() {
    let mut world = World::new();
    let (row, chunks) = world.stripe(&ids(&[1, 3]));
    let commit = Command::CommitStripe { stripe: row.clone(), chunks };
    world.run(commit.clone()).unwrap();
    let stripe = frames_of(&row, &ids(&[1, 3]));
    let drop = Command::DropStripes(vec![stripe.clone()]);
    assert_eq!(done(world.run(drop.clone())), (0, 1));
    world.sabotage.set(Sabotage::DropCheck, true);
    assert_eq!(world.decide(&drop).unwrap().outcome, Outcome::Reclaimed { done: 1, skipped: 0 }, "with its chunks");
    world.sabotage.set(Sabotage::DropCheck, false);
    // Its chunks go; it may go then, if every frame in it is accounted for.
    world.run(Command::CondemnChunks(ids(&[1, 3]))).unwrap();
    pass(&mut world, 1);
    pass(&mut world, 8 * DAY);
    assert_eq!(done(world.run(drop.clone())), (0, 1), "condemned chunks may be revived");
    let both = vec![unmarked(&world, id(1)), unmarked(&world, id(3))];
    let command = delete_of(both, world.lsn);
    assert_eq!(done(world.run(command)), (2, 0));
    let partial = DroppedStripe { frames: stripe.frames[..2].to_vec(), ..stripe.clone() };
    assert_eq!(done(world.run(Command::DropStripes(vec![partial]))), (0, 1), "a frame that nobody read");
    assert_eq!(done(world.run(drop.clone())), (1, 0));
    assert_eq!(index::stripe(&world.view(), stripe.id).unwrap(), None);
    let waiting = reclaim::dropped(&world.view(), StripeId::default(), 10).unwrap();
    assert_eq!(waiting, [(world.lsn, row.clone())]);
    // The second piece of a commit that began before: its shards are being freed.
    assert_eq!(world.run(commit.clone()), Err(Refusal::BadStripe(stripe.id)));
    assert_eq!(done(world.run(Command::StripesFreed(vec![stripe.id, stripe.id]))), (1, 1));
    assert_eq!(reclaim::dropped(&world.view(), StripeId::default(), 10).unwrap(), []);
    assert_eq!(world.run(commit.clone()), Err(Refusal::BadStripe(stripe.id)), "never again, in this epoch");
    world.run(Command::StartEpoch { epoch: Epoch(8), journal: Epoch(8) }).unwrap();
    assert!(!reclaim::was_dropped(&world.view(), stripe.id).unwrap(), "its epoch is fenced: nothing to remember");
    world.writer = Epoch(8);
    assert_eq!(world.run(commit), Err(Refusal::Fenced { writer: EPOCH, current: Epoch(8) }));
    world.check_replay();
}

#[test]
fn r12_frames_move_if_they_are_where_the_mover_read_them() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    world.commit_stripe(&ids(&[1, 3])).unwrap();
    world.put(bucket, "k", &ids(&[1, 3, 5])).unwrap();
    let place = |world: &World, n| world.chunk(id(n)).unwrap().place.unwrap();
    let (new, _) = world.stripe(&[]);
    let (unused, _) = world.stripe(&[]);
    let target = StripeDescriptor::parse(&new.descriptor).unwrap().id;
    let to = |n: u32| Place::in_stripe(target, 1, n * 100, 100);
    let elsewhere = Place { offset: 5000, ..place(&world, 3) };
    let moves = vec![
        Move { id: id(1), from: place(&world, 1), to: to(0) },
        Move { id: id(3), from: elsewhere, to: to(1) },
        Move { id: id(9), from: elsewhere, to: to(2) },
    ];
    let command =
        |moves: &[Move]| Command::MoveFrames { stripes: vec![new.clone(), unused.clone()], moves: moves.to_vec() };
    let stay = place(&world, 3);
    assert_eq!(world.run(command(&moves)), Ok(Outcome::Sealed { moved: 1, skipped: 2 }));
    assert_eq!((place(&world, 1), place(&world, 3)), (to(0), stay));
    let idle = StripeDescriptor::parse(&unused.descriptor).unwrap().id;
    assert_eq!(index::stripe(&world.view(), idle).unwrap(), None, "what nothing moved to is not made known");
    world.sabotage.set(Sabotage::SealCondition, true);
    let decided = world.decide(&command(&moves[1..2])).unwrap();
    assert_eq!(decided.outcome, Outcome::Sealed { moved: 1, skipped: 0 }, "over what another had moved");
    world.sabotage.set(Sabotage::SealCondition, false);
    // Only into stripes of the same command, of this epoch, inside their shards.
    let outside = Move { to: Place { offset: 9_950, ..to(1) }, ..moves[0].clone() };
    assert_eq!(world.run(command(&[outside])), Err(Refusal::BadMove));
    let ledger = stripe_row(StripeId { epoch: EPOCH, counter: 99 }, StripeClass::Ledger, Some((Lsn(1), Lsn(2))));
    let wrong = Command::MoveFrames { stripes: vec![ledger], moves: Vec::new() };
    assert!(matches!(world.run(wrong), Err(Refusal::BadStripe(_))));
    let fenced = StripeId { epoch: Epoch(6), counter: 1 };
    let old = Command::MoveFrames {
        stripes: vec![stripe_row(fenced, StripeClass::Data, None)],
        moves: vec![Move { id: id(3), from: stay, to: Place::in_stripe(fenced, 0, 0, 100) }],
    };
    assert_eq!(world.run(old), Err(Refusal::Fenced { writer: Epoch(6), current: EPOCH }));
    world.check_refs();
    world.check_replay();
}

#[test]
fn ticks_are_noted_in_steps_and_forgotten_behind_the_longest_grace() {
    let mut world = World::new();
    let notes = |world: &World| world.view().rows(index::RECLAIM, b"t", b"u", usize::MAX).unwrap().len();
    pass(&mut world, 0);
    for _ in 0..100 {
        pass(&mut world, TICK_STEP_MS / 10);
    }
    assert_eq!(notes(&world), 11);
    let early = world.lsn;
    for _ in 0..300 {
        pass(&mut world, DAY);
    }
    assert!(notes(&world) as u64 <= 2 * MAX_GRACE_MS / DAY + 2, "{}", notes(&world));
    assert!(reclaim::is_over(&world.view(), early, MAX_GRACE_MS).unwrap());
    assert!(!reclaim::is_over(&world.view(), world.lsn.next(), 0).unwrap(), "nobody knows when that was");
    world.check_replay();
}

#[derive(Clone, Debug)]
enum Op {
    Put {
        key: u8,
        chunks: Vec<u8>,
    },
    PutNode {
        key: u8,
        children: Vec<u8>,
    },
    Delete {
        key: u8,
    },
    Part {
        number: u32,
        chunks: Vec<u8>,
    },
    Abort,
    Stripe {
        chunks: Vec<u8>,
        lose: bool,
    },
    Restripe,
    /// A mark pass; commands may come between it and its deletes.
    Mark,
    Reclaim,
    Days(u8),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let chunks = || prop::collection::vec(1u8..9, 1..4);
    prop_oneof![
        6 => (0u8..4, chunks()).prop_map(|(key, chunks)| Op::Put { key, chunks }),
        2 => (0u8..4, chunks()).prop_map(|(key, children)| Op::PutNode { key, children }),
        6 => (0u8..4).prop_map(|key| Op::Delete { key }),
        2 => (1u32..3, chunks()).prop_map(|(number, chunks)| Op::Part { number, chunks }),
        1 => Just(Op::Abort),
        3 => (chunks(), any::<bool>()).prop_map(|(chunks, lose)| Op::Stripe { chunks, lose }),
        2 => Just(Op::Restripe),
        4 => Just(Op::Mark),
        6 => Just(Op::Reclaim),
        5 => (1u8..9).prop_map(Op::Days),
        1 => Just(Op::Restart),
    ]
}

struct Run {
    world: World,
    bucket: BucketId,
    upload: Option<UploadName>,
    /// What each key and part consists of: the reference.
    objects: BTreeMap<u8, Vec<Entry>>,
    parts: BTreeMap<u32, Vec<ChunkId>>,
    /// What the stripes hold, gone ones included.
    stripes: BTreeMap<StripeId, (StripeRow, Vec<ChunkId>)>,
    /// What the last mark pass found: when it began, and the candidates that it did not see.
    marked: Option<(Lsn, Vec<UnmarkedChunk>)>,
}

impl Run {
    fn new() -> Run {
        let mut world = World::new();
        let bucket = world.bucket("b");
        let maps = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Run { world, bucket, upload: None, objects: maps.0, parts: maps.1, stripes: maps.2, marked: None }
    }

    /// Every chunk that an object, a part or a manifest chunk that is there names.
    fn reachable(&self) -> BTreeSet<ChunkId> {
        let objects = self.objects.values().flatten().map(|entry| entry.id);
        let mut found: BTreeSet<ChunkId> = objects.chain(self.parts.values().flatten().copied()).collect();
        let nodes = self.world.children.iter().filter(|(node, _)| self.world.chunk(**node).is_some());
        found.extend(nodes.flat_map(|(_, children)| children.iter().copied()));
        found
    }

    fn rows(&self) -> Vec<ChunkRow> {
        let rows = self.world.view().rows(CHUNKS, &[], &[0xff; 40], usize::MAX).unwrap();
        rows.into_iter().map(|(key, value)| index::decode(CHUNKS, &key, value).unwrap()).collect()
    }

    fn known_stripes(&self) -> Vec<StripeId> {
        let known = |id: &&StripeId| index::stripe(&self.world.view(), **id).unwrap().is_some();
        self.stripes.keys().filter(known).copied().collect()
    }

    fn step(&mut self, op: Op) {
        let name = |key: u8| format!("key-{key}");
        match op {
            Op::Put { key, chunks } => {
                self.world.put(self.bucket, &name(key), &ids(&chunks)).unwrap();
                let leaf = |id: ChunkId| Entry { id, len: u64::from(plain_len(id)), leaf: true };
                self.objects.insert(key, ids(&chunks).into_iter().map(leaf).collect());
            }
            Op::PutNode { key, children } => {
                let mut chunks = self.world.missing_inline(&ids(&children));
                let (node, entry) = self.world.node(&ids(&children));
                if self.world.chunk(node.id).is_none() {
                    chunks.push(node);
                }
                let command = put_content(self.bucket, &name(key), content_of(vec![entry]), chunks, Condition::None);
                self.world.run(command).unwrap();
                self.objects.insert(key, vec![entry]);
            }
            Op::Delete { key } => {
                self.world.run(delete(self.bucket, &name(key), Condition::None)).unwrap();
                self.objects.remove(&key);
            }
            Op::Part { number, chunks } => {
                let upload = self.upload.take().unwrap_or_else(|| self.world.upload(self.bucket, "u"));
                self.world.part(&upload, number, &ids(&chunks)).unwrap();
                self.parts.insert(number, ids(&chunks));
                self.upload = Some(upload);
            }
            Op::Abort => {
                if let Some(upload) = self.upload.take() {
                    self.world.run(Command::AbortUpload { upload }).unwrap();
                    self.parts.clear();
                }
            }
            Op::Stripe { mut chunks, lose } => {
                chunks.sort_unstable();
                chunks.dedup();
                self.world.losses.drives = lose.then_some(DriveId([1; 16])).into_iter().collect();
                let (stripe, new) = self.world.stripe(&ids(&chunks));
                let id = StripeDescriptor::parse(&stripe.descriptor).unwrap().id;
                self.stripes.insert(id, (stripe.clone(), ids(&chunks)));
                self.world.run(Command::CommitStripe { stripe, chunks: new }).unwrap();
            }
            Op::Restripe => self.restripe(),
            Op::Mark => self.mark(),
            Op::Reclaim => self.reclaim(),
            Op::Days(days) => {
                pass(&mut self.world, 1);
                pass(&mut self.world, u64::from(days) * DAY);
            }
            Op::Restart => {
                let epoch = Epoch(self.world.writer.0 + 1);
                self.world.run(Command::StartEpoch { epoch, journal: epoch }).unwrap();
                self.world.writer = epoch;
                self.marked = None;
            }
        }
    }

    fn mark(&mut self) {
        let zero = self.rows().into_iter().filter(|row| row.state() == ChunkState::Live && row.refs == 0);
        let zero: Vec<ChunkId> = zero.map(|row| row.chunk_id().unwrap()).collect();
        let reachable = self.reachable();
        let rows = self.rows().into_iter().filter(|row| row.state() == ChunkState::Condemned);
        let unseen = rows.map(|row| row.chunk_id().unwrap()).filter(|id| !reachable.contains(id));
        let unseen = unseen.map(|id| unmarked(&self.world, id)).collect();
        self.marked = Some((self.world.lsn, unseen));
        self.world.run(Command::CondemnChunks(zero)).unwrap();
    }

    /// Deletes what the last pass did not see, and tries to drop every stripe there is.
    fn reclaim(&mut self) {
        if let Some((from, chunks)) = self.marked.take() {
            self.world.run(delete_of(chunks, from)).unwrap();
        }
        let drops = self.known_stripes().into_iter().map(|id| frames_of(&self.stripes[&id].0, &self.stripes[&id].1));
        let drops = drops.collect();
        self.world.run(Command::DropStripes(drops)).unwrap();
        let dropped = reclaim::dropped(&self.world.view(), StripeId::default(), usize::MAX).unwrap();
        let old = dropped.into_iter().filter(|(lsn, _)| reclaim::is_over(&self.world.view(), *lsn, 12 * HOUR).unwrap());
        let old = old.map(|(_, row)| StripeDescriptor::parse(&row.descriptor).unwrap().id).collect();
        self.world.run(Command::StripesFreed(old)).unwrap();
    }

    fn restripe(&mut self) {
        let Some(old) = self.known_stripes().first().copied() else { return };
        let rows = self.rows().into_iter().filter(|row| row.place.unwrap().stripe() == Some(old));
        let rows: Vec<(ChunkId, Place)> = rows.map(|row| (row.chunk_id().unwrap(), row.place.unwrap())).collect();
        let (stripe, _) = self.world.stripe(&[]);
        let target = StripeDescriptor::parse(&stripe.descriptor).unwrap().id;
        let step = |(n, (id, from)): (usize, &(ChunkId, Place))| Move {
            id: *id,
            from: *from,
            to: Place::in_stripe(target, 0, n as u32 * 100, 100),
        };
        let moves: Vec<Move> = rows.iter().enumerate().map(step).collect();
        self.stripes.insert(target, (stripe.clone(), rows.into_iter().map(|(id, _)| id).collect()));
        self.world.run(Command::MoveFrames { stripes: vec![stripe], moves }).unwrap();
    }

    /// Everything that can be reached is there, at a place that is there.
    fn check(&self) {
        for id in self.reachable() {
            let row = self.world.chunk(id).unwrap_or_else(|| panic!("{id} can be reached and is gone"));
            if let Some(stripe) = row.place.unwrap().stripe() {
                assert!(
                    index::stripe(&self.world.view(), stripe).unwrap().is_some(),
                    "{id} lies in a stripe that is gone"
                );
            }
        }
        for (key, entries) in &self.objects {
            let row = index::current_version(&self.world.view(), self.bucket, &format!("key-{key}")).unwrap().unwrap();
            let manifest = Manifest::parse(&row.content.unwrap().manifest).unwrap();
            assert_eq!(manifest.entries(), entries);
        }
        self.world.check_refs();
    }

    /// Nobody asks for anything any more: in the end only what can be reached is left.
    fn quiet(&mut self) {
        self.world.losses.drives.clear();
        for _ in 0..6 {
            for op in [Op::Mark, Op::Days(8), Op::Mark, Op::Reclaim, Op::Days(1), Op::Reclaim] {
                self.step(op);
                self.check();
            }
        }
        let mut wanted = self.reachable();
        let left: BTreeSet<ChunkId> = self.rows().iter().map(|row| row.chunk_id().unwrap()).collect();
        // A node is not reached from itself.
        wanted.retain(|id| left.contains(id));
        assert_eq!(left, wanted, "garbage");
        let placed: BTreeSet<_> = self.rows().iter().filter_map(|row| row.place.unwrap().stripe()).collect();
        let known: BTreeSet<_> = self.known_stripes().into_iter().collect();
        assert_eq!(known, placed, "stripes of nothing");
        let rows = self.world.view().rows(STRIPES, &[], &[0xff; 17], usize::MAX).unwrap().len();
        assert_eq!(rows, known.len());
        assert_eq!(reclaim::dropped(&self.world.view(), StripeId::default(), 10).unwrap(), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_that_can_be_reached_goes_and_in_the_end_nothing_else_is_left(ops in prop::collection::vec(op(), 1..60)) {
        let mut run = Run::new();
        for op in ops {
            run.step(op);
            run.check();
        }
        run.quiet();
        run.world.check_replay();
    }
}

fn renew(epoch: Epoch) -> Command {
    Command::RenewEpoch { epoch, unfinished: epoch }
}

#[test]
fn r9_an_epoch_stays_open_while_work_that_began_in_it_is_unfinished() {
    let mut world = World::new();
    let (late, chunks) = world.stripe(&ids(&[1]));
    pass(&mut world, 1);
    for epoch in [8, 9, 10] {
        world.run(Command::RenewEpoch { epoch: Epoch(epoch), unfinished: EPOCH }).unwrap();
        pass(&mut world, REQUEST_LIFE_MS + TICK_STEP_MS);
    }
    assert_eq!(reclaim::open_from(&world.view()).unwrap(), EPOCH);
    world.run(Command::CommitStripe { stripe: late, chunks }).unwrap();
    world.run(renew(Epoch(11))).unwrap();
    assert_eq!(reclaim::open_from(&world.view()).unwrap(), Epoch(9), "with it, what waited for it alone is fenced");
    world.writer = Epoch(11);
    pass(&mut world, 1);
    world.run(Command::RenewEpoch { epoch: Epoch(12), unfinished: EPOCH }).unwrap();
    assert_eq!(reclaim::open_from(&world.view()).unwrap(), Epoch(9), "what is fenced stays fenced");
    world.check_replay();
}

#[test]
fn r9_an_epoch_that_was_renewed_is_fenced_when_its_requests_have_ended() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    let (early, early_chunks) = world.stripe(&ids(&[1]));
    let (late, late_chunks) = world.stripe(&ids(&[3]));
    let commit = |stripe: &StripeRow, chunks: &[NewChunk]| Command::CommitStripe {
        stripe: stripe.clone(),
        chunks: chunks.to_vec(),
    };
    pass(&mut world, 1);
    world.run(renew(Epoch(8))).unwrap();
    pass(&mut world, TICK_STEP_MS);
    assert_eq!(reclaim::open_from(&world.view()).unwrap(), EPOCH);
    // Whoever holds either may commit stripes of either; an epoch between them was never granted.
    world.writer = Epoch(8);
    world.run(commit(&early, &early_chunks)).unwrap();
    world.writer = EPOCH;
    world.put(bucket, "k", &ids(&[1])).unwrap();
    let stale = renew(Epoch(8));
    assert_eq!(world.run(stale), Err(Refusal::Fenced { writer: Epoch(8), current: Epoch(8) }));
    pass(&mut world, REQUEST_LIFE_MS - 1);
    world.run(renew(Epoch(9))).unwrap();
    assert_eq!(reclaim::open_from(&world.view()).unwrap(), EPOCH, "a request may be there still");
    pass(&mut world, 1);
    world.run(renew(Epoch(10))).unwrap();
    assert_eq!(reclaim::open_from(&world.view()).unwrap(), Epoch(8), "and the next one only hours later");
    let fenced = Refusal::Fenced { writer: EPOCH, current: Epoch(10) };
    assert_eq!(world.run(commit(&late, &late_chunks)), Err(fenced.clone()));
    world.writer = Epoch(10);
    assert_eq!(world.run(commit(&late, &late_chunks)), Err(fenced), "whoever commits it");
    assert_eq!(reclaim::last_granted(&world.view()).unwrap(), Epoch(10));
    // A start fences all of them, also when its journal has another epoch.
    world.run(Command::StartEpoch { epoch: Epoch(20), journal: Epoch(15) }).unwrap();
    assert_eq!(reclaim::open_from(&world.view()).unwrap(), Epoch(20));
    for granted in [7, 8, 9, 10, 15, 20] {
        assert!(!reclaim::is_foreign(&world.view(), Epoch(granted)).unwrap(), "{granted}");
    }
    assert!(reclaim::is_foreign(&world.view(), Epoch(12)).unwrap());
    world.writer = Epoch(15);
    assert!(world.put(bucket, "l", &ids(&[1])).is_err(), "nobody writes under the journal's");
    world.check_replay();
}

fn grant(epoch: Epoch, unfinished: Epoch) -> Command {
    Command::GrantEpoch { epoch, holder: format!("g{}", epoch.0), unfinished }
}

#[test]
fn r9_a_start_leaves_the_epochs_of_gateways_open_until_their_requests_have_ended() {
    let mut world = World::new();
    let (of_start, of_start_chunks) = world.stripe(&ids(&[1]));
    pass(&mut world, 1);
    world.run(grant(Epoch(8), EPOCH)).unwrap();
    world.run(grant(Epoch(9), EPOCH)).unwrap();
    assert_eq!(world.run(grant(Epoch(9), EPOCH)), Err(Refusal::Fenced { writer: Epoch(9), current: Epoch(9) }));
    assert_eq!(index::epoch(&world.view()).unwrap(), EPOCH, "the service's own is what it was");
    assert_eq!(reclaim::last_granted(&world.view()).unwrap(), Epoch(9));
    // Another start, or another leader: gateways that are alive write on, and a stripe of one is committed by it.
    world.run(Command::StartEpoch { epoch: Epoch(20), journal: Epoch(20) }).unwrap();
    assert_eq!(reclaim::open_from(&world.view()).unwrap(), Epoch(8));
    world.writer = Epoch(8);
    let (of_gateway, chunks) = world.stripe(&ids(&[2]));
    world.run(Command::CommitStripe { stripe: of_gateway, chunks }).unwrap();
    let of_start = Command::CommitStripe { stripe: of_start, chunks: of_start_chunks };
    assert_eq!(world.run(of_start), Err(Refusal::Fenced { writer: EPOCH, current: Epoch(20) }));
    // One that has renewed, and one that is gone: both are fenced when nothing that began in them can be alive.
    world.writer = Epoch(20);
    pass(&mut world, TICK_STEP_MS);
    world.run(grant(Epoch(21), Epoch(20))).unwrap();
    pass(&mut world, EPOCH_HOLD_MS + REQUEST_LIFE_MS - 1);
    world.run(renew(Epoch(22))).unwrap();
    assert_eq!(reclaim::open_from(&world.view()).unwrap(), Epoch(8), "a request may be there still");
    pass(&mut world, 1);
    world.run(renew(Epoch(23))).unwrap();
    assert_eq!(reclaim::open_from(&world.view()).unwrap(), Epoch(20), "the service's own has been held until now");
    assert_eq!(reclaim::gateways(&world.view()).unwrap().len(), 1);
    world.writer = Epoch(9);
    let (late, chunks) = world.stripe(&ids(&[3]));
    assert_eq!(
        world.run(Command::CommitStripe { stripe: late, chunks }),
        Err(Refusal::Fenced { writer: Epoch(9), current: Epoch(23) })
    );
    assert!(!reclaim::is_foreign(&world.view(), Epoch(9)).unwrap());
    world.check_replay();
}

#[test]
fn r9_the_service_own_epochs_are_not_kept_by_the_grants_between_them() {
    let mut world = World::new();
    pass(&mut world, 1);
    for hour in 0..40 {
        world.run(renew(Epoch(100 + 2 * hour))).unwrap();
        world.run(grant(Epoch(101 + 2 * hour), EPOCH)).unwrap();
        world.writer = Epoch(100 + 2 * hour);
        pass(&mut world, 3600 * 1000);
    }
    // An epoch is open for some 14 hours, and not for ever.
    let open = reclaim::open_from(&world.view()).unwrap();
    assert!((Epoch(100 + 2 * 22)..=Epoch(100 + 2 * 26)).contains(&open), "{open}");
    world.check_replay();
}

#[test]
fn r9_what_was_freed_is_remembered_for_as_long_as_its_epoch_is_open() {
    let mut world = World::new();
    let bucket = world.bucket("b");
    let (row, chunks) = world.stripe(&ids(&[1]));
    let commit = Command::CommitStripe { stripe: row.clone(), chunks };
    world.run(commit.clone()).unwrap();
    world.put(bucket, "k", &ids(&[1])).unwrap();
    pass(&mut world, 1);
    world.run(renew(Epoch(8))).unwrap();
    let stripe = StripeDescriptor::parse(&row.descriptor).unwrap().id;
    // Dropped, however that came about.
    let mut overlay = index::Overlay::new(&world.kv);
    reclaim::drop_stripe(&mut overlay, world.lsn, stripe).unwrap();
    world.kv.write(overlay.into_batch()).unwrap();
    world.run(Command::StripesFreed(vec![stripe])).unwrap();
    world.writer = EPOCH;
    assert_eq!(world.run(commit), Err(Refusal::BadStripe(stripe)), "its epoch is open, and its shards are gone");
}

#[test]
fn twice_the_longest_grace_is_over_in_its_time() {
    let mut world = World::new();
    let begun = world.lsn;
    pass(&mut world, 1);
    let step = 10 * DAY;
    let longest = 2 * MAX_GRACE_MS;
    for _ in 0..longest / step {
        assert!(!reclaim::is_over(&world.view(), begun, longest).unwrap());
        pass(&mut world, step);
        // Later ticks push the early ones out, some minutes at a time.
        pass(&mut world, TICK_STEP_MS);
    }
    pass(&mut world, step);
    assert!(reclaim::is_over(&world.view(), begun, longest).unwrap());
    let upto = reclaim::over_upto(&world.view(), longest).unwrap();
    assert!(upto.is_some_and(|upto| upto > begun));
    world.check_replay();
}
