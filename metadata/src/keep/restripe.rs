//! Restripe: rewriting live frames into fuller stripes, and into stripes that the drives of today can hold (R12).
//!
//! [`plan`] is pure. Carrying it out, as fast as its share of the drives' time allows: read the frames of the old stripes,
//! verified; pack those that chunks still have their
//! place in; write the new stripe; read all of it back from the medium; and only then change the places, each only if it is
//! still where it was read. A chunk that was deleted, or moved by another, meanwhile is left alone. The old stripe stays as it
//! is: reclaim drops it when no chunk is placed in it any more, and frees it after the readers' grace. A crash anywhere leaves a
//! stripe that nobody knows (an orphan of this epoch), or one in which nothing is placed.

use super::archive;
use super::frames::{Laid, frames_in};
use super::mark::Usage;
use super::pace::Pace;
use super::reclaim::{ReclaimError, Reclaimer};
use super::recompress::Recompressor;
use crate::command::{Command, Move, Outcome};
use crate::index::{self, Overlay};
use crate::lookup;
use crate::service::Shared;
use crate::stripe_writer::{OpenStripe, Stored, StripeWriter};
use crate::topology::Topology;
use bytes::Bytes;
use codec::effect::Place;
use codec::erasure::Erasure;
use codec::id::{ChunkId, DriveId, ShardId, StripeId};
use codec::stripe::StripeClass;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage_node::client::Reserve;
use storage_node::keep::ShardRef;
use storage_node::sabotage::Sabotage;

/// Which stripes are rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestripePolicy {
    /// Stripes of whose bytes no more than this many percent are in use; 0: none because of that.
    pub live_percent: u8,
    /// Also those that are narrower than the drives allow, where several make a fuller one.
    pub narrow: bool,
    /// Bytes in use that one round moves; the next one begins at once.
    pub round_bytes: u64,
    /// The zstd level, 1 to 22, at which frames that are rewritten are compressed again if that makes them smaller; 0: they
    /// stay as they are.
    pub recompress_level: i32,
    /// Also those that only archived versions need, into wide stripes of well compressed frames ([`super::archive`]).
    pub archive: bool,
}

impl Default for RestripePolicy {
    fn default() -> RestripePolicy {
        RestripePolicy { live_percent: 50, narrow: true, round_bytes: 256 << 30, recompress_level: 0, archive: true }
    }
}

/// Stripes whose live frames go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The stripes.
    pub stripes: Vec<StripeId>,
    /// Rewriting them makes room; otherwise it is worth it only if it makes fewer stripes of them.
    pub gains: bool,
}

/// What one round rewrites.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub groups: Vec<Group>,
    /// Stripes for which the round has no room.
    pub beyond: u64,
}

/// Groups of stripes whose live frames go into one new stripe each. `width` and `capacity` are those of a stripe that is
/// written now: data shards, and bytes in them. A group either frees at least half of what it holds, or makes fewer stripes of
/// several; so rewriting comes to an end.
pub fn plan(usage: &BTreeMap<StripeId, Usage>, width: u8, capacity: u64, policy: &RestripePolicy) -> Plan {
    let mut dead = Vec::new();
    let mut narrow = Vec::new();
    for (id, usage) in usage.iter().filter(|(_, usage)| usage.frames > 0 && usage.stored > 0) {
        if u128::from(usage.live) * 100 <= u128::from(usage.stored) * u128::from(policy.live_percent) {
            dead.push((usage.live, *id, true));
        } else if policy.narrow && usage.width < width && usage.live.saturating_mul(2) <= capacity {
            narrow.push((usage.live, *id, false));
        }
    }
    dead.sort_unstable();
    narrow.sort_unstable();
    let mut groups = Vec::new();
    let (mut group, mut live, mut gains, mut total) = (Vec::new(), 0u64, false, 0u64);
    let mut beyond = 0;
    for (bytes, id, is_dead) in dead.into_iter().chain(narrow) {
        if beyond > 0 || total.saturating_add(bytes) > policy.round_bytes {
            beyond += 1;
            continue;
        }
        if !group.is_empty() && live.saturating_add(bytes) > capacity {
            close(&mut groups, std::mem::take(&mut group), gains);
            (live, gains) = (0, false);
        }
        (live, gains, total) = (live.saturating_add(bytes), gains || is_dead, total.saturating_add(bytes));
        group.push(id);
    }
    close(&mut groups, group, gains);
    Plan { groups, beyond }
}

fn close(groups: &mut Vec<Group>, stripes: Vec<StripeId>, gains: bool) {
    if gains || stripes.len() > 1 {
        groups.push(Group { stripes, gains });
    }
}

/// Frames of one new stripe: they move in one entry, which takes some 150 bytes for each.
const MOST_FRAMES: usize = 100_000;
/// Bytes that drives read and write for each live byte: it is read, written with its parity (1.4 bytes at 10+4), read back from
/// the medium, and once more as a reader would.
pub(crate) const COST: u64 = 5;
/// Rewrites that run at a time: one for so many drives, [`MOST_AT_A_TIME`] at most. Each holds the frames of a full stripe, one
/// shard that is being read, and what packing adds.
const DRIVES_EACH: usize = 16;
const MOST_AT_A_TIME: usize = 8;

/// What was rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restriped {
    /// Frames whose place changed.
    pub moved: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that compressing them again saved.
    pub saved: u64,
    /// Stripes some of whose frames could not be read.
    pub unread: u64,
    /// Stripes that are worth rewriting and were not.
    pub left: u64,
    /// Bytes in use in them.
    pub left_bytes: u64,
    /// Stripes that are worth rewriting and were not planned, for want of room in the round.
    pub beyond: u64,
    /// Bytes of frames that one rewrite held at most, the shard that it was reading included.
    pub held: u64,
    /// A new stripe did not read back.
    pub(super) failed: bool,
}

impl Restriped {
    pub(crate) fn add(&mut self, other: &Restriped) {
        self.moved += other.moved;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.saved = self.saved.saturating_add(other.saved);
        self.unread += other.unread;
        self.held = self.held.max(other.held);
        self.failed |= other.failed;
    }
}

/// Who rewrites, and with what.
pub(crate) struct Restriper<'a> {
    pub reclaimer: &'a Reclaimer,
    pub shared: &'a Shared,
    pub writer: &'a StripeWriter,
    pub pace: &'a Pace,
    pub recompress: Option<Recompressor>,
    /// The code of what is written, where it is not the cluster's.
    pub wide: Option<Arc<Erasure>>,
    /// The room that it may take.
    pub reserve: Reserve,
}

impl Restriper<'_> {
    /// Plans and carries out.
    pub async fn restripe(
        &self,
        usage: &BTreeMap<StripeId, Usage>,
        policy: &RestripePolicy,
    ) -> Result<Restriped, (Restriped, ReclaimError)> {
        let mut done = Restriped::default();
        if (policy.live_percent == 0 && !policy.narrow) || usage.is_empty() {
            return Ok(done);
        }
        let planned = self.planned(usage, policy).await.map_err(|error| (done, error))?;
        let (Plan { groups, beyond }, at_a_time) = planned;
        done.beyond = beyond;
        let live = |id: &StripeId| usage.get(id).map_or(0, |usage| usage.live);
        for group in &groups {
            done.left += group.stripes.len() as u64;
            done.left_bytes += group.stripes.iter().map(live).sum::<u64>();
        }
        let (mut waiting, mut running) = (groups.iter(), FuturesUnordered::new());
        loop {
            while running.len() < at_a_time
                && let Some(group) = waiting.next()
            {
                running.push(self.one(group));
            }
            let Some((group, result)) = running.next().await else { break };
            let result = result.map_err(|error| (done, error))?;
            done.add(&result);
            if result.failed {
                // A drive that does not give back what it took: repair looks at it; nothing is moved meanwhile.
                break;
            }
            done.left -= group.stripes.len() as u64;
            done.left_bytes -= group.stripes.iter().map(live).sum::<u64>();
        }
        Ok(done)
    }

    async fn one<'g>(&self, group: &'g Group) -> (&'g Group, Result<Restriped, ReclaimError>) {
        (group, self.rewrite(group).await)
    }

    async fn planned(
        &self,
        usage: &BTreeMap<StripeId, Usage>,
        policy: &RestripePolicy,
    ) -> Result<(Plan, usize), ReclaimError> {
        let topology = self.shared.topology(Reserve::Restripe).await?;
        let width = self.writer.width(&topology)?;
        let capacity = u64::from(width) * u64::from(self.writer.shard_target());
        let at_a_time = (topology.usable().count() / DRIVES_EACH).clamp(1, MOST_AT_A_TIME);
        // Those of the archive class would come back as stripes like any others, only to be archived again.
        let k = self.writer.geometry().k();
        let others = usage.iter().filter(|(_, usage)| !policy.archive || usage.k <= k);
        let others = others.map(|(id, usage)| (*id, *usage)).collect();
        Ok((plan(&others, width, capacity, policy), at_a_time))
    }

    /// Rewrites the live frames of some stripes, shard by shard. What can't be read stays where it is; the rest moves. A group
    /// that makes room stores each new stripe as soon as it is full; one that does not is gathered first, to see whether it
    /// makes fewer stripes, and is no larger than one stripe by its plan.
    pub async fn rewrite(&self, group: &Group) -> Result<Restriped, ReclaimError> {
        let topology = self.shared.topology(self.reserve).await?;
        let width = self.writer.width(&topology)?;
        let mut done = Restriped::default();
        let open = || match &self.wide {
            Some(wide) => {
                let width = archive::widest(&topology, self.writer.geometry(), wide.geometry()).max(width);
                self.writer.open_of(wide, width)
            }
            None => self.writer.open(width, false),
        };
        let new = || Batch { stripe: open(), frames: Vec::new(), bytes: 0 };
        let (mut open, mut full) = (new(), Vec::<Batch>::new());
        for id in &group.stripes {
            let Some(layout) = lookup::layout(&Overlay::new(&*self.shared.kv), *id)? else { continue };
            let unread = done.unread;
            for shard in layout.descriptor.data_present() {
                let laid = match frames_in(&*self.shared.node, &layout, shard).await {
                    Ok(laid) => laid,
                    Err(error) => {
                        tracing::warn!(stripe = %id, %error, "not all of a stripe can be read: that part is not rewritten");
                        done.unread = unread + 1;
                        continue;
                    }
                };
                let held = open.bytes + full.iter().map(|batch| batch.bytes).sum::<u64>();
                done.held = done.held.max(held + u64::from(layout.descriptor.shard_len(shard)));
                let mut laid = live(self.shared, laid)?;
                if let Some(recompress) = &self.recompress {
                    let saved;
                    (laid, saved) = recompress.all(laid).await;
                    done.saved = done.saved.saturating_add(saved);
                }
                for Laid { id, place, frame } in laid {
                    if !open.stripe.fits(&frame) || open.frames.len() >= MOST_FRAMES {
                        full.push(std::mem::replace(&mut open, new()));
                    }
                    // A copy: the slice would keep its whole shard in memory until the stripe is written.
                    open.add(id, place, Bytes::copy_from_slice(&frame));
                }
                if group.gains {
                    for batch in full.drain(..) {
                        if !self.store(batch, &topology, &mut done).await? {
                            return Ok(done);
                        }
                    }
                }
            }
        }
        full.push(open);
        if !group.gains && full.len() >= group.stripes.len() {
            return Ok(done);
        }
        for batch in full.into_iter().filter(|batch| !batch.frames.is_empty()) {
            if !self.store(batch, &topology, &mut done).await? {
                break;
            }
        }
        Ok(done)
    }

    /// Writes a stripe, reads it back, and moves its frames; `false` when it did not read back.
    async fn store(&self, batch: Batch, topology: &Topology, done: &mut Restriped) -> Result<bool, ReclaimError> {
        let Batch { stripe, frames, bytes } = batch;
        let _unfinished = self.writer.begin_work();
        let stored = self.writer.store(stripe, StripeClass::Data, None, topology, self.reserve).await?;
        if !self.shared.sabotage.is(Sabotage::RestripeVerify) && !reads_back(self.shared, &stored).await {
            done.failed = true;
            return Ok(false);
        }
        let moves = frames.into_iter().zip(&stored.places).map(|((id, from), to)| Move { id, from, to: *to }).collect();
        let outcome = self.reclaimer.commit(Command::MoveFrames { stripes: vec![stored.row], moves }).await?;
        if let Outcome::Sealed { moved, .. } = outcome {
            done.moved += moved;
            done.bytes = done.bytes.saturating_add(bytes);
        }
        self.pace.spend(bytes.saturating_mul(COST)).await;
        Ok(true)
    }
}

struct Batch {
    stripe: OpenStripe,
    /// Each frame's chunk and present place.
    frames: Vec<(ChunkId, Place)>,
    bytes: u64,
}

impl Batch {
    fn add(&mut self, id: ChunkId, from: Place, frame: Bytes) {
        self.bytes += frame.len() as u64;
        self.stripe.add(frame);
        self.frames.push((id, from));
    }
}

/// The frames that a chunk still has its place in, condemned ones included: a commit may revive them.
fn live(shared: &Shared, laid: Vec<Laid>) -> Result<Vec<Laid>, ReclaimError> {
    let view = Overlay::new(&*shared.kv);
    let mut live = Vec::new();
    let mut seen = BTreeSet::new();
    for laid in laid {
        let here = index::chunk(&view, laid.id)?.and_then(|row| row.place) == Some(laid.place);
        if here && seen.insert(laid.id) {
            live.push(laid);
        }
    }
    Ok(live)
}

/// Whether every shard of a new stripe is on its drive's medium as it should be: past the page cache, block checksums, header
/// and the hash in the descriptor.
async fn reads_back(shared: &Shared, stored: &Stored) -> bool {
    let root = stored.layout.descriptor.root();
    for (index, drive) in (0u8..).zip(&stored.layout.drives) {
        let Some(drive) = *drive else { continue };
        if let Err(reason) = shard_reads_back(shared, drive, stored, ShardRef { id: shard(stored, index), root }).await
        {
            tracing::warn!(%drive, stripe = %stored.layout.descriptor.id, index, reason, "a rewritten shard did not read back");
            return false;
        }
    }
    true
}

fn shard(stored: &Stored, index: u8) -> ShardId {
    ShardId { stripe: stored.layout.descriptor.id, index }
}

async fn shard_reads_back(shared: &Shared, drive: DriveId, stored: &Stored, shard: ShardRef) -> Result<(), String> {
    let verified = shared.node.verify_shards(drive, vec![shard]).await.map_err(|error| error.to_string())?;
    match verified.into_iter().next() {
        Some(Ok(())) => {}
        Some(Err(finding)) => return Err(finding.kind.name().to_owned()),
        None => return Err("no answer".to_owned()),
    }
    // And as those who will read it see it.
    let descriptor = &stored.layout.descriptor;
    let whole = 0..descriptor.shard_len(shard.id.index);
    let bytes = shared.node.read_shard(drive, shard.id, shard.root, whole).await.map_err(|error| error.to_string())?;
    descriptor.check_shard(shard.id.index, &bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::id::Epoch;
    use proptest::prelude::*;

    fn id(counter: u64) -> StripeId {
        StripeId { epoch: Epoch(1), counter }
    }

    fn usage(rows: &[(u8, u64, u64)]) -> BTreeMap<StripeId, Usage> {
        let row = |&(width, stored, live): &(u8, u64, u64)| Usage {
            width,
            stored,
            live,
            frames: u64::from(live > 0),
            k: width,
        };
        (1..).map(id).zip(rows.iter().map(row)).collect()
    }

    #[test]
    fn half_dead_stripes_go_and_full_ones_stay() {
        let policy = RestripePolicy::default();
        let all = usage(&[(4, 400, 400), (4, 400, 200), (4, 400, 201), (4, 400, 0), (1, 100, 10)]);
        let group = Group { stripes: vec![id(5), id(2)], gains: true };
        assert_eq!(plan(&all, 4, 400, &policy).groups, [group], "the empty one is reclaim's");
    }

    #[test]
    fn narrow_stripes_go_together_or_not_at_all() {
        let policy = RestripePolicy::default();
        let none: [Group; 0] = [];
        assert_eq!(plan(&usage(&[(1, 100, 100)]), 4, 400, &policy).groups, none);
        let two = usage(&[(1, 100, 100), (2, 150, 150), (4, 400, 400)]);
        let group = Group { stripes: vec![id(1), id(2)], gains: false };
        assert_eq!(plan(&two, 4, 400, &policy), Plan { groups: vec![group], beyond: 0 });
        assert_eq!(plan(&two, 1, 100, &policy).groups, none, "the drives of today hold no wider ones");
        assert_eq!(plan(&two, 4, 400, &RestripePolicy { narrow: false, ..policy }).groups, none);
        assert_eq!(
            plan(&two, 4, 400, &RestripePolicy { round_bytes: 120, ..policy }),
            Plan { groups: vec![], beyond: 1 }
        );
    }

    proptest! {
        #[test]
        fn every_group_is_worth_it(rows in prop::collection::vec((1u8..6, 1u64..500, 0u64..500), 0..30)) {
            let rows: Vec<_> = rows.into_iter().map(|(width, stored, live)| (width, stored, live.min(stored))).collect();
            let all = usage(&rows);
            let groups = plan(&all, 5, 500, &RestripePolicy::default()).groups;
            let mut seen = BTreeSet::new();
            for Group { stripes: group, .. } in groups {
                prop_assert!(group.iter().all(|id| seen.insert(*id) && all[id].frames > 0));
                let sum = |of: fn(&Usage) -> u64| group.iter().map(|id| of(&all[id])).sum::<u64>();
                prop_assert!(sum(|u| u.live) <= 500 || group.len() == 1);
                let dead = group.iter().any(|id| all[id].live * 2 <= all[id].stored);
                prop_assert!(dead || group.len() > 1);
            }
        }
    }
}
