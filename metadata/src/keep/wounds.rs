//! Which stripes are not whole: what drives and findings say, joined with the rows.
//!
//! Invariants
//! * A finding counts only while the row names the drive that it was made on: another copy of a shard is an orphan.
//! * The queue is a hint. Whatever is planned is read from the index and judged anew first, and a stripe that the queue
//!   forgot is found again by the walk over all stripes and by the inventory.
//! * What is tracked is bounded; when there is more, the least endangered is left for the next walk.

use super::plan::{Condition, Shard, Stripe};
use super::watch::{Drives, Sight};
use crate::index::{self, IndexError, View};
use crate::lookup::{self, BadShards};
use codec::effect::StripeRow;
use codec::id::{DriveId, Epoch, ShardId, StripeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use storage_node::keep::{Finding, FindingKind, Subject};

/// Stripes that are tracked at a time.
pub const TRACKED: usize = 1 << 20;

/// What is wrong with a shard on a drive that can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What it is.
    pub kind: FindingKind,
    /// Since when it is known.
    pub since_ms: u64,
}

/// What is known to be wrong with shards, by drive: what nodes list, and what the inventory and repair itself came upon.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    listed: HashMap<DriveId, BTreeMap<ShardId, Wrong>>,
    met: HashMap<DriveId, BTreeMap<ShardId, Wrong>>,
    /// All of them by stripe, until something changes.
    by_stripe: Option<Arc<BadShards>>,
}

impl Findings {
    /// Takes a drive's list in place of the one before; returns the stripes for which something is new, or over.
    pub fn listed(&mut self, drive: DriveId, list: &[Finding], now_ms: u64) -> BTreeSet<StripeId> {
        let shard = |finding: &Finding| match finding.subject {
            Subject::Shard(shard) => {
                Some((shard, Wrong { kind: finding.kind, since_ms: finding.found_ms.min(now_ms) }))
            }
            Subject::Entries(..) | Subject::Blocks { .. } => None,
        };
        let shards: BTreeMap<ShardId, Wrong> = list.iter().filter_map(shard).collect();
        let before = self.listed.insert(drive, shards.clone()).unwrap_or_default();
        let came = shards.iter().filter(|(shard, wrong)| before.get(shard) != Some(*wrong));
        let went = before.iter().filter(|(shard, _)| !shards.contains_key(*shard));
        let changed: BTreeSet<StripeId> = came.chain(went).map(|(shard, _)| shard.stripe).collect();
        if !changed.is_empty() {
            self.by_stripe = None;
        }
        changed
    }

    /// Something that was come upon.
    pub fn met(&mut self, drive: DriveId, shard: ShardId, wrong: Wrong) {
        self.by_stripe = None;
        self.met.entry(drive).or_default().entry(shard).or_insert(wrong);
    }

    /// The shard verified there, or was written there: nothing is wrong with it any more.
    pub fn mended(&mut self, drive: DriveId, shard: ShardId) {
        for findings in [&mut self.listed, &mut self.met] {
            if let Some(shards) = findings.get_mut(&drive)
                && shards.remove(&shard).is_some()
            {
                self.by_stripe = None;
            }
        }
    }

    /// All of them by stripe, for those who ask what is a dedup hit.
    pub fn by_stripe(&mut self) -> Arc<BadShards> {
        if let Some(known) = &self.by_stripe {
            return known.clone();
        }
        let mut bad = BadShards::new();
        for (drive, shards) in self.listed.iter().chain(&self.met) {
            for shard in shards.keys() {
                let of = bad.entry(shard.stripe).or_default();
                if !of.contains(&(shard.index, *drive)) {
                    of.push((shard.index, *drive));
                }
            }
        }
        self.by_stripe.insert(Arc::new(bad)).clone()
    }

    /// What is wrong with a shard there.
    pub fn get(&self, drive: DriveId, shard: ShardId) -> Option<Wrong> {
        let of = |findings: &HashMap<DriveId, BTreeMap<ShardId, Wrong>>| findings.get(&drive)?.get(&shard).copied();
        of(&self.listed).or_else(|| of(&self.met))
    }
}

/// Whether a finding is about something that is still wanted where it was found: a copy that a move has left behind, or a
/// shard of a stripe that is gone, is nothing that anybody misses. Reclaim frees it in time, and its finding goes with it.
///
/// # Errors
/// The index failed.
pub fn is_current(view: &dyn View, finding: &Finding) -> Result<bool, IndexError> {
    match finding.subject {
        Subject::Shard(shard) => {
            let row = index::stripe(view, shard.stripe)?;
            Ok(row.is_some_and(|row| row.drive(shard.index) == Some(finding.drive)))
        }
        Subject::Entries(..) | Subject::Blocks { .. } => Ok(true),
    }
}

/// How a shard is, from all that is known.
pub fn condition(
    drives: &Drives,
    findings: &Findings,
    shard: ShardId,
    drive: Option<DriveId>,
    now_ms: u64,
) -> Condition {
    let Some((drive, seen)) = drive.and_then(|drive| Some((drive, drives.get(drive)?))) else {
        return Condition::Missing { since_ms: now_ms };
    };
    match seen.sight {
        Sight::Removed { since_ms } => return Condition::Missing { since_ms },
        Sight::Silent { since_ms } => return Condition::Unreachable { since_ms },
        Sight::There | Sight::Back { .. } => {}
    }
    if let Some(wrong) = findings.get(drive, shard) {
        let since_ms = wrong.since_ms;
        return match wrong.kind {
            FindingKind::Missing => Condition::Missing { since_ms },
            FindingKind::Damaged | FindingKind::Misplaced => Condition::Damaged { since_ms, elsewhere: false },
            FindingKind::Unreachable => Condition::Unreachable { since_ms },
            FindingKind::WrongGeneration | FindingKind::Unreadable | FindingKind::Unknown => {
                Condition::Damaged { since_ms, elsewhere: true }
            }
        };
    }
    match seen.sight {
        Sight::Back { verified, .. } if verified.is_none_or(|upto| shard.stripe > upto) => Condition::Unverified,
        _ if seen.draining => Condition::Draining,
        _ => Condition::Good,
    }
}

/// A stripe as planning sees it.
pub fn stripe(
    id: StripeId,
    row: &StripeRow,
    drives: &Drives,
    findings: &Findings,
    now_ms: u64,
) -> Result<Stripe, IndexError> {
    let descriptor = lookup::descriptor(id, row)?;
    let present = (0..descriptor.width()).filter(|&index| descriptor.is_present(index));
    let shards = present.map(|index| {
        let drive = row.drive(index);
        let condition = condition(drives, findings, ShardId { stripe: id, index }, drive, now_ms);
        Shard { index, drive, len: descriptor.shard_len(index), condition }
    });
    let data = u8::try_from(descriptor.data_present().len()).unwrap_or(u8::MAX);
    Ok(Stripe { id, class: descriptor.class, data, shards: shards.collect() })
}

/// Where a stripe stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    waits: bool,
    slack: i32,
    since_ms: Option<u64>,
}

/// The stripes that are not whole, the most endangered first.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    places: BTreeMap<StripeId, Place>,
    order: BTreeSet<(bool, i32, StripeId)>,
    /// Something was left out.
    pub overflowed: bool,
}

impl Queue {
    /// Puts a stripe where it belongs. `waits`: nothing can be done about it for now.
    pub fn put(&mut self, stripe: &Stripe, waits: bool) {
        self.remove(stripe.id);
        let place = Place { waits, slack: stripe.slack(), since_ms: stripe.lost_since() };
        self.places.insert(stripe.id, place);
        self.order.insert((waits, place.slack, stripe.id));
        if self.places.len() > TRACKED
            && let Some(last) = self.order.last().copied()
        {
            self.overflowed = true;
            self.remove(last.2);
        }
    }

    /// Takes a stripe out.
    pub fn remove(&mut self, id: StripeId) {
        if let Some(place) = self.places.remove(&id) {
            self.order.remove(&(place.waits, place.slack, id));
        }
    }

    /// Whether a stripe is in it.
    pub fn contains(&self, id: StripeId) -> bool {
        self.places.contains_key(&id)
    }

    /// Up to `count` stripes that don't wait, in order.
    pub fn first(&self, count: usize) -> Vec<StripeId> {
        self.order.iter().take_while(|(waits, ..)| !waits).take(count).map(|(.., id)| *id).collect()
    }

    /// Whether something can be done about a stripe in it now.
    pub fn is_ready(&self, id: StripeId) -> bool {
        self.places.get(&id).is_some_and(|place| !place.waits)
    }

    /// Those that wait, in order: with their slack, and since when each has been short of a shard.
    pub fn those_waiting(&self) -> impl Iterator<Item = (StripeId, i32, Option<u64>)> + '_ {
        let from = (true, i32::MIN, StripeId { epoch: Epoch(0), counter: 0 });
        let waiting = self.order.range(from..).filter_map(|(.., id)| Some((*id, self.places.get(id)?)));
        waiting.map(|(id, place)| (id, place.slack, place.since_ms))
    }

    /// Nobody waits any more: something has changed.
    pub fn wake(&mut self) {
        for place in self.places.values_mut() {
            place.waits = false;
        }
        self.order = self.places.iter().map(|(id, place)| (false, place.slack, *id)).collect();
    }

    /// How many stripes there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many of them wait.
    pub fn waiting(&self) -> usize {
        self.places.values().filter(|place| place.waits).count()
    }

    /// How many there are of each slack; negative: can't be read now.
    pub fn by_slack(&self) -> BTreeMap<i32, u64> {
        let mut counts = BTreeMap::new();
        for place in self.places.values() {
            *counts.entry(place.slack).or_default() += 1;
        }
        counts
    }

    /// Since when the one that has been short of a shard for longest has been so.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.places.values().filter_map(|place| place.since_ms).min()
    }
}

/// Looks at a stripe's row again, and puts it where it belongs. Returns it if it is not whole.
pub fn judge(
    view: &dyn View,
    queue: &mut Queue,
    id: StripeId,
    drives: &Drives,
    findings: &Findings,
    now_ms: u64,
) -> Result<Option<Stripe>, IndexError> {
    let row = index::stripe(view, id)?;
    let stripe = row.map(|row| stripe(id, &row, drives, findings, now_ms)).transpose()?;
    match stripe {
        Some(stripe) if !stripe.is_whole() => {
            queue.put(&stripe, false);
            Ok(Some(stripe))
        }
        _ => {
            queue.remove(id);
            Ok(None)
        }
    }
}
