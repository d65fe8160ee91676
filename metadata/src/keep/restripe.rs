//! Restripe: rewriting live frames into fuller stripes, and into stripes that the drives of today can hold (R12).
//!
//! [`plan`] is pure. Carrying it out: read every frame of the old stripes, verified; pack those that chunks still have their
//! place in; write the new stripe; read all of it back from the medium; and only then change the places, each only if it is
//! still where it was read. A chunk that was deleted, or moved by another, meanwhile is left alone. The old stripe stays as it
//! is: reclaim drops it when no chunk is placed in it any more, and frees it after the readers' grace. A crash anywhere leaves a
//! stripe that nobody knows (an orphan of this epoch), or one in which nothing is placed.

use super::frames::{Laid, frames_of};
use super::mark::Usage;
use super::reclaim::{ReclaimError, Reclaimer};
use crate::command::{Command, Move, Outcome};
use crate::index::{self, Overlay};
use crate::lookup;
use crate::service::Shared;
use crate::stripe_writer::{OpenStripe, Stored, StripeWriter};
use bytes::Bytes;
use codec::effect::Place;
use codec::id::{ChunkId, DriveId, ShardId, StripeId};
use codec::stripe::StripeClass;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Bytes in use that one round moves.
    pub round_bytes: u64,
}

impl Default for RestripePolicy {
    fn default() -> RestripePolicy {
        RestripePolicy { live_percent: 50, narrow: true, round_bytes: 4 << 30 }
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

/// Groups of stripes whose live frames go into one new stripe each. `width` and `capacity` are those of a stripe that is
/// written now: data shards, and bytes in them. A group either frees at least half of what it holds, or makes fewer stripes of
/// several; so rewriting comes to an end.
pub fn plan(usage: &BTreeMap<StripeId, Usage>, width: u8, capacity: u64, policy: &RestripePolicy) -> Vec<Group> {
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
    for (bytes, id, is_dead) in dead.into_iter().chain(narrow) {
        if total.saturating_add(bytes) > policy.round_bytes {
            break;
        }
        if !group.is_empty() && live.saturating_add(bytes) > capacity {
            close(&mut groups, std::mem::take(&mut group), gains);
            (live, gains) = (0, false);
        }
        (live, gains, total) = (live.saturating_add(bytes), gains || is_dead, total.saturating_add(bytes));
        group.push(id);
    }
    close(&mut groups, group, gains);
    groups
}

fn close(groups: &mut Vec<Group>, stripes: Vec<StripeId>, gains: bool) {
    if gains || stripes.len() > 1 {
        groups.push(Group { stripes, gains });
    }
}

/// Frames of one new stripe: they move in one entry, which takes some 150 bytes for each.
const MOST_FRAMES: usize = 100_000;

/// What was rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restriped {
    /// Frames whose place changed.
    pub moved: u64,
    /// Stripes that could not be read.
    pub unread: u64,
}

/// Plans and carries out.
pub(crate) async fn restripe(
    reclaimer: &Reclaimer,
    shared: &Shared,
    writer: &StripeWriter,
    usage: &BTreeMap<StripeId, Usage>,
    policy: &RestripePolicy,
) -> Result<Restriped, ReclaimError> {
    let mut done = Restriped::default();
    if (policy.live_percent == 0 && !policy.narrow) || usage.is_empty() {
        return Ok(done);
    }
    let topology = shared.topology(Reserve::Client).await?;
    let width = writer.width(&topology)?;
    let capacity = u64::from(width) * u64::from(writer.shard_target());
    for group in plan(usage, width, capacity, policy) {
        let result = rewrite(reclaimer, shared, writer, &group, &mut done).await?;
        if !result {
            // A drive that does not give back what it took: repair looks at it; nothing is moved meanwhile.
            break;
        }
    }
    Ok(done)
}

/// Rewrites the live frames of some stripes; `false` when a new stripe did not read back.
pub(crate) async fn rewrite(
    reclaimer: &Reclaimer,
    shared: &Shared,
    writer: &StripeWriter,
    group: &Group,
    done: &mut Restriped,
) -> Result<bool, ReclaimError> {
    let topology = shared.topology(Reserve::Client).await?;
    let width = writer.width(&topology)?;
    let mut open = Batch { stripe: writer.open(width, false), frames: Vec::new() };
    let mut full = Vec::new();
    for id in &group.stripes {
        let Some(layout) = lookup::layout(&Overlay::new(&*shared.kv), *id)? else { continue };
        let laid = match frames_of(&*shared.node, &layout).await {
            Ok(laid) => laid,
            Err(error) => {
                tracing::warn!(stripe = %id, %error, "a stripe is not rewritten, since not all of it can be read");
                done.unread += 1;
                continue;
            }
        };
        for Laid { id, place, frame } in live(shared, laid)? {
            if !open.stripe.fits(&frame) || open.frames.len() >= MOST_FRAMES {
                let next = Batch { stripe: writer.open(width, false), frames: Vec::new() };
                full.push(std::mem::replace(&mut open, next));
            }
            // A copy: the slice would keep its whole shard in memory until the stripe is written.
            open.stripe.add(Bytes::copy_from_slice(&frame));
            open.frames.push((id, place));
        }
    }
    full.push(open);
    if !group.gains && full.len() >= group.stripes.len() {
        return Ok(true);
    }
    for Batch { stripe, frames } in full.into_iter().filter(|batch| !batch.frames.is_empty()) {
        let stored = writer.store(stripe, StripeClass::Data, None, &topology, Reserve::Client).await?;
        if !shared.sabotage.is(Sabotage::RestripeVerify) && !reads_back(shared, &stored).await {
            return Ok(false);
        }
        let moves = frames.into_iter().zip(&stored.places).map(|((id, from), to)| Move { id, from, to: *to }).collect();
        let outcome = reclaimer.commit(Command::MoveFrames { stripes: vec![stored.row], moves }).await?;
        if let Outcome::Sealed { moved, .. } = outcome {
            done.moved += moved;
        }
    }
    Ok(true)
}

struct Batch {
    stripe: OpenStripe,
    /// Each frame's chunk and present place.
    frames: Vec<(ChunkId, Place)>,
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
        let row = |&(width, stored, live): &(u8, u64, u64)| Usage { width, stored, live, frames: u64::from(live > 0) };
        (1..).map(id).zip(rows.iter().map(row)).collect()
    }

    #[test]
    fn half_dead_stripes_go_and_full_ones_stay() {
        let policy = RestripePolicy::default();
        let all = usage(&[(4, 400, 400), (4, 400, 200), (4, 400, 201), (4, 400, 0), (1, 100, 10)]);
        let group = Group { stripes: vec![id(5), id(2)], gains: true };
        assert_eq!(plan(&all, 4, 400, &policy), [group], "the empty one is reclaim's");
    }

    #[test]
    fn narrow_stripes_go_together_or_not_at_all() {
        let policy = RestripePolicy::default();
        let none: [Group; 0] = [];
        assert_eq!(plan(&usage(&[(1, 100, 100)]), 4, 400, &policy), none);
        let two = usage(&[(1, 100, 100), (2, 150, 150), (4, 400, 400)]);
        let group = Group { stripes: vec![id(1), id(2)], gains: false };
        assert_eq!(plan(&two, 4, 400, &policy), [group]);
        assert_eq!(plan(&two, 1, 100, &policy), none, "the drives of today hold no wider ones");
        assert_eq!(plan(&two, 4, 400, &RestripePolicy { narrow: false, ..policy }), none);
        assert_eq!(plan(&two, 4, 400, &RestripePolicy { round_bytes: 120, ..policy }), none);
    }

    proptest! {
        #[test]
        fn every_group_is_worth_it(rows in prop::collection::vec((1u8..6, 1u64..500, 0u64..500), 0..30)) {
            let rows: Vec<_> = rows.into_iter().map(|(width, stored, live)| (width, stored, live.min(stored))).collect();
            let all = usage(&rows);
            let groups = plan(&all, 5, 500, &RestripePolicy::default());
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
