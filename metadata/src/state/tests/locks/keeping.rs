//! What keeping does to stripes, chunks and the ledger, over drives that hold what was written to them and nothing else.
//!
//! Whatever is planned may be carried out much later, when others have changed what it was planned from.

use super::{Asked, KEYS, Run};
use crate::command::*;
use crate::index::{self, CHUNKS, STRIPES, View, reclaim};
use crate::lookup;
use crate::state::tests::world::*;
use bytes::Bytes;
use codec::effect::*;
use codec::erasure::Geometry;
use codec::id::*;
use codec::manifest::Manifest;
use codec::stripe::{StripeClass, StripeDescriptor};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Drives that there are.
pub(super) const DRIVES: u8 = 6;
/// Bytes of each shard.
const SHARD: u32 = 10_000;

#[derive(Clone, Debug)]
pub(super) enum Keep {
    /// A stripe of chunks, new or known, while a drive is lost or none is.
    Stripe {
        chunks: Vec<u8>,
        lose: bool,
        at: Where,
    },
    Seal {
        at: Where,
    },
    /// Writes a stripe, or two, again.
    Rewrite {
        nth: usize,
        two: bool,
        smaller: bool,
        at: Where,
    },
    /// Writes a shard to another drive.
    Repair {
        nth: usize,
        shard: u8,
        to: u8,
        twice: bool,
        later: bool,
    },
    /// Says of every stripe that nothing is placed in it.
    Drop,
    /// Takes the place of a ledger stripe, or of one that is none.
    Ledger {
        nth: usize,
        lie: bool,
        at: Where,
    },
    /// Takes the place of earlier checkpoints, or of a stripe that is none.
    Checkpoint {
        lie: bool,
        at: Where,
    },
    /// Half a mark pass.
    Mark,
    /// What was planned earlier.
    Late(usize),
}

/// How a stripe is laid out, and whether its commit comes later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Where {
    k: u8,
    first: u8,
    later: bool,
}

pub(super) fn keep() -> impl Strategy<Value = Keep> {
    let at = || (1u8..4, 0..DRIVES, prop::bool::weighted(0.3)).prop_map(|(k, first, later)| Where { k, first, later });
    let few = || prop::collection::vec(1u8..9, 1..5);
    prop_oneof![
        4 => (few(), prop::bool::weighted(0.3), at()).prop_map(|(chunks, lose, at)| Keep::Stripe { chunks, lose, at }),
        3 => at().prop_map(|at| Keep::Seal { at }),
        5 => (0usize..8, any::<bool>(), any::<bool>(), at())
            .prop_map(|(nth, two, smaller, at)| Keep::Rewrite { nth, two, smaller, at }),
        4 => (0usize..8, 0u8..4, 0..DRIVES, any::<bool>(), prop::bool::weighted(0.3))
            .prop_map(|(nth, shard, to, twice, later)| Keep::Repair { nth, shard, to, twice, later }),
        4 => Just(Keep::Drop),
        2 => (0usize..4, any::<bool>(), at()).prop_map(|(nth, lie, at)| Keep::Ledger { nth, lie, at }),
        4 => (any::<bool>(), at()).prop_map(|(lie, at)| Keep::Checkpoint { lie, at }),
        6 => Just(Keep::Mark),
        7 => (0usize..4).prop_map(Keep::Late),
    ]
}

/// By shard and offset: whose frame it is, and its length.
type Frames = BTreeMap<(u32, u32), (ChunkId, u32)>;

/// What the drives hold.
#[derive(Default)]
pub(super) struct Media {
    /// Of every stripe that was ever written.
    stripes: BTreeMap<StripeId, Frames>,
    rows: BTreeMap<StripeId, StripeRow>,
    shards: BTreeSet<(StripeId, u8, DriveId)>,
    /// Entries up to here are freed.
    freed_upto: Lsn,
}

/// A mark pass under way. What lies between its two halves it sees twice or not at all.
pub(super) struct Marking {
    from: Lsn,
    live: BTreeMap<ChunkId, u64>,
    condemned: Vec<UnmarkedChunk>,
    counted: BTreeMap<ChunkId, u64>,
}

fn drive(n: u8) -> DriveId {
    DriveId([n % DRIVES; 16])
}

fn named(id: StripeId) -> StripeName {
    StripeName { epoch: id.epoch.0, counter: id.counter }
}

fn parsed(row: &StripeRow) -> StripeDescriptor {
    StripeDescriptor::parse(&row.descriptor).unwrap()
}

impl Media {
    fn write(&mut self, row: &StripeRow, frames: &[(ChunkId, Place)]) {
        let descriptor = parsed(row);
        let laid = frames.iter().map(|(id, place)| ((place.shard, place.offset), (*id, place.len)));
        self.stripes.insert(descriptor.id, laid.collect());
        self.rows.insert(descriptor.id, row.clone());
        for index in 0..descriptor.width() {
            self.shards.extend(row.drive(index).map(|drive| (descriptor.id, index, drive)));
        }
    }

    fn free(&mut self, id: StripeId) {
        self.shards.retain(|(stripe, ..)| *stripe != id);
    }
}

impl Run {
    /// Nothing writes it yet.
    fn new_stripe(&mut self, class: StripeClass, range: Option<(Lsn, Lsn)>, at: Where) -> (StripeId, StripeRow) {
        self.world.stripes += 1;
        let id = StripeId { epoch: self.world.writer, counter: self.world.stripes };
        let width = at.k + 1;
        let descriptor = StripeDescriptor {
            id,
            class,
            geometry: Geometry::new(at.k, 1).unwrap(),
            present: (1 << width) - 1,
            lengths: vec![SHARD; width.into()],
            hashes: vec![[1; 32]; width.into()],
            lsn_range: range,
            cluster: ClusterId([1; 16]),
        };
        let drives = (0..width).map(|n| Bytes::copy_from_slice(drive(at.first + n).as_bytes())).collect();
        (id, StripeRow { descriptor: descriptor.encode(), drives })
    }

    fn chunk_rows(&self) -> Vec<ChunkRow> {
        let rows = self.world.view().rows(CHUNKS, &[], &[0xff; 40], usize::MAX).unwrap();
        rows.into_iter().map(|(key, value)| index::decode(CHUNKS, &key, value).unwrap()).collect()
    }

    fn known_stripes(&self, class: StripeClass) -> Vec<StripeRow> {
        let rows = self.world.view().rows(STRIPES, &[], &[0xff; 17], usize::MAX).unwrap();
        let rows = rows.into_iter().map(|(key, value)| index::decode(STRIPES, &key, value).unwrap());
        rows.filter(|row| parsed(row).class == class).collect()
    }

    /// Carries a command out now, or leaves it for later.
    pub(super) fn plan(&mut self, command: Command, later: bool) {
        if later {
            self.plans.push(command);
        } else {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        let freed_upto = match &command {
            Command::Seal(seal) => Some(Lsn(seal.sealed.last)),
            Command::MoveShards { stripe, moves } if self.is_void(*stripe, &moves[0]) => return,
            _ => None,
        };
        let repaired = match &command {
            Command::MoveShards { stripe, moves } => Some((*stripe, moves[0].index)),
            _ => None,
        };
        if self.go(command).is_err() {
            return;
        }
        self.media.freed_upto = freed_upto.unwrap_or(self.media.freed_upto);
        if let Some((stripe, shard)) = repaired {
            // The copies that the row no longer names are in the way.
            let on = index::stripe(&self.world.view(), stripe).unwrap().unwrap().drive(shard);
            self.media.shards.retain(|(id, index, drive)| *id != stripe || *index != shard || on == Some(*drive));
        }
    }

    /// Nobody writes a shard to a drive, and commits it after others have moved it to and fro.
    fn is_void(&self, stripe: StripeId, step: &ShardMove) -> bool {
        let row = index::stripe(&self.world.view(), stripe).unwrap();
        let as_planned = row.is_some_and(|row| row.drive(step.index) == step.from);
        as_planned && !self.media.shards.contains(&(stripe, step.index, step.to))
    }

    pub(super) fn keep(&mut self, keep: Keep) {
        match keep {
            Keep::Stripe { chunks, lose, at } => {
                self.world.losses.drives = lose.then_some(drive(1)).into_iter().collect();
                self.stripe(chunks, at);
            }
            Keep::Seal { at } => self.seal(at),
            Keep::Rewrite { nth, two, smaller, at } => self.rewrite(nth, two, smaller, at),
            Keep::Repair { nth, shard, to, twice, later } => self.repair(nth, shard, drive(to), twice, later),
            Keep::Drop => self.drop_stripes(),
            Keep::Ledger { nth, lie, at } => self.ledger(nth, lie, at),
            Keep::Checkpoint { lie, at } => self.checkpoint(lie, at),
            Keep::Mark if self.torn => self.mark(),
            Keep::Mark => self.claim_all(),
            Keep::Late(n) if !self.plans.is_empty() => {
                let command = self.plans.swap_remove(n % self.plans.len());
                self.carry_out(command);
            }
            Keep::Late(_) => {}
        }
    }

    fn stripe(&mut self, mut chunks: Vec<u8>, at: Where) {
        chunks.sort_unstable();
        chunks.dedup();
        let (id, stripe) = self.new_stripe(StripeClass::Data, None, at);
        let place = |n: usize| Place::in_stripe(id, 0, n as u32 * 100, 100);
        let laid: Vec<_> = ids(&chunks).into_iter().enumerate().map(|(n, chunk)| (chunk, place(n))).collect();
        self.media.write(&stripe, &laid);
        let new = |(id, place): &(ChunkId, Place)| NewChunk {
            frame: NewFrame::InStripe { shard: 0, offset: place.offset, len: place.len },
            ..inline(*id)
        };
        let chunks = laid.iter().map(new).collect();
        self.plan(Command::CommitStripe { stripe, chunks }, at.later);
    }

    /// A new data stripe with chunks that lie elsewhere now, and the moves to it.
    fn written_again(&mut self, rows: &[ChunkRow], len: u32, at: Where) -> (StripeRow, Vec<Move>) {
        let (id, stripe) = self.new_stripe(StripeClass::Data, None, at);
        let step = |(n, row): (usize, &ChunkRow)| Move {
            id: row.chunk_id().unwrap(),
            from: row.place.unwrap(),
            to: Place::in_stripe(id, n as u8 % at.k, n as u32 * 100, len),
        };
        let moves: Vec<Move> = rows.iter().enumerate().map(step).collect();
        let laid: Vec<_> = moves.iter().map(|step| (step.id, step.to)).collect();
        self.media.write(&stripe, &laid);
        (stripe, moves)
    }

    fn seal(&mut self, at: Where) {
        let before = index::last_sealed(&self.world.view()).unwrap().map_or(0, |row| row.last);
        let (first, last) = (Lsn(before + 1), self.world.lsn);
        if first > last {
            return;
        }
        let mut rows = self.chunk_rows();
        rows.retain(|row| row.place.and_then(|place| place.lsn()).is_some_and(|lsn| lsn <= last));
        let (ledger, ledger_row) = self.new_stripe(StripeClass::Ledger, Some((first, last)), at);
        self.media.write(&ledger_row, &[]);
        let (mut stripes, mut moves) = (vec![ledger_row], Vec::new());
        if !rows.is_empty() {
            let (stripe, steps) = self.written_again(&rows, 100, at);
            stripes.push(stripe);
            moves = steps;
        }
        let last_hash = Bytes::from(vec![2; 32]);
        let sealed = SealedRow { first: first.0, last: last.0, stripes: vec![named(ledger)], last_hash };
        self.plan(Command::Seal(Seal { sealed, stripes, moves }), at.later);
    }

    fn rewrite(&mut self, nth: usize, two: bool, smaller: bool, at: Where) {
        let stripes = self.known_stripes(StripeClass::Data);
        let some = stripes.iter().cycle().skip(nth).take(if two { 2 } else { 1 });
        let olds: BTreeSet<StripeId> = some.map(|row| parsed(row).id).collect();
        let mut rows = self.chunk_rows();
        rows.retain(|row| row.place.and_then(|place| place.stripe()).is_some_and(|id| olds.contains(&id)));
        if rows.is_empty() {
            return;
        }
        let (stripe, moves) = self.written_again(&rows, if smaller { 60 } else { 100 }, at);
        self.plan(Command::MoveFrames { stripes: vec![stripe], moves }, at.later);
    }

    fn repair(&mut self, nth: usize, shard: u8, to: DriveId, twice: bool, later: bool) {
        let stripes = self.known_stripes(StripeClass::Data);
        let Some(row) = stripes.get(nth % stripes.len().max(1)) else { return };
        let descriptor = parsed(row);
        let index = shard % descriptor.width();
        let from = row.drive(index);
        // Written where no shard of the stripe is.
        let is_free = |to: &DriveId| (0..descriptor.width()).all(|index| row.drive(index) != Some(*to));
        if !is_free(&to) {
            return;
        }
        let other = (0..DRIVES).map(drive).find(|other| *other != to && is_free(other));
        self.media.shards.insert((descriptor.id, index, to));
        let stripe = descriptor.id;
        let step = |to| Command::MoveShards { stripe, moves: vec![ShardMove { index, from, to }] };
        // Another repair of the shard ends before this one.
        if let Some(other) = other.filter(|_| twice) {
            self.media.shards.insert((stripe, index, other));
            self.carry_out(step(other));
        }
        self.plan(step(to), later);
    }

    /// Whoever drops has read the headers of all frames; whether something is still placed there nobody has looked.
    fn drop_stripes(&mut self) {
        let laid = |row: &StripeRow| {
            let descriptor = parsed(row);
            let mut frames: Vec<(ChunkId, u32)> =
                self.media.stripes.get(&descriptor.id).into_iter().flat_map(|laid| laid.values().copied()).collect();
            let total = SHARD * u32::from(descriptor.geometry.k());
            let used: u32 = frames.iter().map(|(_, len)| len).sum();
            frames.push((ChunkId([0xee; 32]), total - used));
            DroppedStripe { id: descriptor.id, frames }
        };
        let classes = [StripeClass::Data, StripeClass::Ledger, StripeClass::Checkpoint];
        let all: Vec<StripeRow> = classes.into_iter().flat_map(|class| self.known_stripes(class)).collect();
        let stripes = all.iter().map(laid).collect();
        let _ = self.go(Command::DropStripes(stripes));
        let waiting = reclaim::dropped(&self.world.view(), StripeId::default(), usize::MAX).unwrap();
        for (_, row) in &waiting {
            self.media.free(parsed(row).id);
        }
        // Those that are there were freed as well, whoever says so.
        let said = waiting.iter().map(|(_, row)| row).chain(&all).map(|row| parsed(row).id).collect();
        self.go(Command::StripesFreed(said)).unwrap();
        self.collect_orphans();
    }

    /// R9: shards that no row names, of epochs that are fenced.
    fn collect_orphans(&mut self) {
        let open = reclaim::open_from(&self.world.view()).unwrap();
        let fenced: Vec<StripeId> = self.media.rows.keys().copied().filter(|id| id.epoch < open).collect();
        for id in fenced {
            if index::stripe(&self.world.view(), id).unwrap().is_none() {
                self.media.free(id);
            }
        }
    }

    fn ledger(&mut self, nth: usize, lie: bool, at: Where) {
        let ranges = index::sealed_ranges(&self.world.view()).unwrap();
        let Some(range) = ranges.get(nth % ranges.len().max(1)) else { return };
        let (first, name) = (Lsn(range.first), &range.stripes[0]);
        let mut old = StripeId { epoch: Epoch(name.epoch), counter: name.counter };
        let known = index::stripe(&self.world.view(), old).unwrap().unwrap();
        let entries = parsed(&known).lsn_range;
        if lie {
            let stripes = self.known_stripes(StripeClass::Data);
            let Some(row) = stripes.get(nth % stripes.len().max(1)) else { return };
            old = parsed(row).id;
        }
        let (_, row) = self.new_stripe(StripeClass::Ledger, entries, at);
        self.media.write(&row, &[]);
        self.plan(Command::ReplaceLedger(ReplaceLedger { first, old, stripes: vec![row] }), at.later);
    }

    fn checkpoint(&mut self, lie: bool, at: Where) {
        let lsn = self.world.lsn;
        let (id, row) = self.new_stripe(StripeClass::Checkpoint, Some((lsn, lsn)), at);
        self.media.write(&row, &[]);
        let data = self.known_stripes(StripeClass::Data);
        let (id, row) = match data.last().filter(|_| lie) {
            Some(row) => (parsed(row).id, row.clone()),
            None => (id, row),
        };
        let stripes = vec![named(id)];
        let checkpoint = CheckpointRow { lsn: lsn.0, rows: 1, stripes };
        self.plan(Command::PutCheckpoint { row: checkpoint, stripes: vec![row] }, at.later);
    }

    fn unmarked(&self, row: &ChunkRow, unread: bool) -> UnmarkedChunk {
        let id = row.chunk_id().unwrap();
        let unread = unread && row.is_manifest;
        let children = self.world.children.get(&id).cloned().unwrap_or_default();
        let children = if unread { Vec::new() } else { children };
        UnmarkedChunk { id, condemned_lsn: Lsn(row.condemned_lsn), children, unread }
    }

    /// Whoever gives space back claims of every chunk that nothing names it.
    pub(super) fn claim_all(&mut self) {
        let all = self.chunk_rows().iter().map(|row| row.chunk_id().unwrap()).collect();
        self.go(Command::CondemnChunks(all)).unwrap();
        let chunks = self.chunk_rows().iter().map(|row| self.unmarked(row, false)).collect();
        let delete = DeleteChunks { marked_from: self.world.lsn, grace_ms: MIN_GRACE_MS, chunks };
        let _ = self.go(Command::DeleteChunks(delete));
        self.world.check_refs();
    }

    /// Counts what the versions of some keys name.
    fn count_keys(&self, keys: std::ops::Range<usize>, counted: &mut BTreeMap<ChunkId, u64>) {
        for row in self.rows().into_values().filter(|row| KEYS[keys.clone()].contains(&row.key.as_str())) {
            count(row.content.as_ref(), counted);
        }
    }

    /// Who marks says what he saw, and sees one half of the versions long before the other: what is copied from the second half
    /// to the first meanwhile, and then deleted, he does not see at all.
    fn mark(&mut self) {
        let Some(mut marking) = self.marking.take() else {
            let rows = self.chunk_rows();
            let (condemned, live): (Vec<&ChunkRow>, Vec<&ChunkRow>) =
                rows.iter().partition(|row| row.state() == ChunkState::Condemned);
            let unread = self.step.is_multiple_of(4);
            let mut marking = Marking {
                from: self.world.lsn,
                live: live.into_iter().map(|row| (row.chunk_id().unwrap(), row.refs)).collect(),
                condemned: condemned.into_iter().map(|row| self.unmarked(row, unread)).collect(),
                counted: BTreeMap::new(),
            };
            self.count_keys(0..1, &mut marking.counted);
            self.marking = Some(marking);
            return;
        };
        let counted = &mut marking.counted;
        self.count_keys(1..KEYS.len(), counted);
        for part in self.world.parts() {
            count(part.content.as_ref(), counted);
        }
        for (node, children) in &self.world.children {
            if self.world.chunk(*node).is_some() {
                children.iter().for_each(|child| *counted.entry(*child).or_default() += 1);
            }
        }
        let refs = |id: &ChunkId| counted.get(id).copied().unwrap_or(0);
        let wrong = marking.live.iter().filter(|(id, was)| refs(id) != **was);
        let recounted = wrong.map(|(&id, &was)| RecountedChunk { id, was, refs: refs(&id) }).collect();
        let spared = |chunk: &UnmarkedChunk| SparedChunk {
            id: chunk.id,
            condemned_lsn: chunk.condemned_lsn,
            refs: refs(&chunk.id),
        };
        let (seen, unseen): (Vec<_>, Vec<_>) = marking.condemned.iter().cloned().partition(|chunk| refs(&chunk.id) > 0);
        // Of one that he did not see he says that he did: then it stays too long.
        let wrongly = unseen
            .first()
            .filter(|_| self.step.is_multiple_of(3))
            .map(|chunk| SparedChunk { refs: 1, ..spared(chunk) });
        let spared = seen.iter().map(spared).chain(wrongly).collect();
        self.go(Command::RecountChunks(recounted)).unwrap();
        self.go(Command::SpareChunks(spared)).unwrap();
        let delete = DeleteChunks { marked_from: marking.from, grace_ms: MIN_GRACE_MS, chunks: unseen };
        let _ = self.go(Command::DeleteChunks(delete));
        let all = self.chunk_rows().iter().map(|row| row.chunk_id().unwrap()).collect();
        self.go(Command::CondemnChunks(all)).unwrap();
    }

    /// A version whose manifest is too long to lie in its row.
    pub(super) fn put_node(&mut self, key: usize, children: &[u8], asked: Asked) {
        let children = ids(children);
        let mut chunks = self.world.missing_inline(&children);
        let (node, entry) = self.world.node(&children);
        if self.world.chunk(node.id).is_none() {
            chunks.push(node);
        }
        let command = put_content(self.bucket, KEYS[key], content_of(vec![entry]), chunks, Condition::None);
        self.commit(command, asked, false);
    }

    /// Everything that a version needs is there: its bytes can be read.
    pub(super) fn check_whole(&self, row: &VersionRow) {
        let Some(content) = &row.content else { return };
        for entry in Manifest::parse(&content.manifest).unwrap().entries() {
            self.check_chunk(entry.id, row);
        }
    }

    fn check_chunk(&self, id: ChunkId, of: &VersionRow) {
        let row = self.world.chunk(id).unwrap_or_else(|| panic!("chunk {id} is gone, and {of:?} needs it"));
        // Where counts are only hints, the next pass mends them before the grace is over.
        let kept = row.state() == ChunkState::Live && row.refs > 0;
        assert!(kept || self.torn, "chunk {id} is given up, and {of:?} needs it: {row:?}");
        let place = row.place.unwrap();
        match (place.lsn(), place.stripe()) {
            (Some(lsn), _) => assert!(lsn > self.media.freed_upto, "{id} lies in entry {lsn}, which is freed: {of:?}"),
            (None, Some(stripe)) => self.check_place(id, stripe, &place, of),
            (None, None) => panic!("{id} lies nowhere: {of:?}"),
        }
        for &child in self.world.children.get(&id).into_iter().flatten().filter(|_| row.is_manifest) {
            self.check_chunk(child, of);
        }
    }

    fn check_place(&self, id: ChunkId, stripe: StripeId, place: &Place, of: &VersionRow) {
        let row = index::stripe(&self.world.view(), stripe).unwrap();
        let row = row.unwrap_or_else(|| panic!("{id} lies in stripe {stripe}, which is gone: {of:?}"));
        let descriptor = lookup::descriptor(stripe, &row).unwrap();
        let laid = self.media.stripes[&stripe].get(&(place.shard, place.offset));
        assert_eq!(laid, Some(&(id, place.len)), "something else lies at {place:?}: {of:?}");
        for index in 0..descriptor.width() {
            let on = row.drive(index).unwrap();
            let there = self.media.shards.contains(&(stripe, index, on));
            assert!(there, "shard {index} of {stripe} is not on {on}: {of:?}");
        }
    }
}

fn count(content: Option<&Content>, counted: &mut BTreeMap<ChunkId, u64>) {
    let Some(content) = content else { return };
    for entry in Manifest::parse(&content.manifest).unwrap().entries() {
        *counted.entry(entry.id).or_default() += 1;
    }
}
