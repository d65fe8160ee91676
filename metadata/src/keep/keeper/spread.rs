//! Bringing stripes apart that were written when there was no better place: the last thing that a round does, and only while nothing
//! is to be mended.

use super::round::Now;
use super::{KeepError, Keeper, Round, Work};
use crate::index::{self, Overlay, reclaim};
use crate::keep::spread::{Apart, move_apart};
use crate::keep::wounds;
use crate::topology::{Level, Topology};
use codec::id::{DriveId, StripeId};
use std::collections::BTreeSet;

/// Stripes that are remembered; the walk finds the others when these are done.
const FOUND: usize = 4096;
/// Stripes that one round moves a shard of at most: whatever is to be mended waits for them.
const A_ROUND: usize = 16;

/// The stripes that could be further apart.
#[derive(Debug, Default)]
pub(super) struct Spread {
    found: BTreeSet<StripeId>,
    /// The walk passed more than are remembered.
    more: bool,
    /// Up to here they were looked at in an earlier walk: those that nothing can be done about must not stand before the others.
    after: Option<StripeId>,
    last: Option<StripeId>,
}

impl Spread {
    /// Remembers a stripe that the walk found.
    pub(super) fn add(&mut self, id: StripeId) {
        if self.after.is_some_and(|after| id <= after) {
            return;
        }
        self.more |= self.found.len() >= FOUND;
        if self.found.len() < FOUND {
            self.found.insert(id);
        }
    }

    /// A walk over all stripes has ended.
    pub(super) fn walked(&mut self) {
        if !self.more {
            self.after = None;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    fn take(&mut self) -> Vec<StripeId> {
        let taken: Vec<StripeId> = std::iter::from_fn(|| self.found.pop_first()).take(A_ROUND).collect();
        self.last = taken.last().copied().or(self.last);
        taken
    }

    /// Whether all that were remembered are done, and a walk is to find more.
    fn wants_more(&mut self) -> bool {
        let wants = self.found.is_empty() && std::mem::take(&mut self.more);
        if wants {
            self.after = self.last;
        }
        wants
    }
}

impl Keeper {
    /// Which levels a stripe on these drives has more shards on than it may lose, and whether the drives could hold it apart.
    pub(super) fn crowding(
        topology: &Topology,
        apart: &Apart,
        several: [bool; 3],
        drives: &[DriveId],
    ) -> ([bool; 3], bool) {
        if several == [false; 3] {
            return ([false; 3], false);
        }
        let held = topology.most_held(drives);
        let crowded = [0, 1, 2].map(|at| several[at] && held[at] > apart.parity());
        (crowded, apart.is_crowded(drives.len(), held))
    }

    /// Moves a shard of some stripes to where it fails by itself.
    pub(super) async fn bring_apart(&self, work: &mut Work, now: &Now, round: &mut Round) -> Result<(), KeepError> {
        if self.is_paused() || work.spread.is_empty() || !work.queue.first(1).is_empty() {
            return Ok(());
        }
        // Old copies stay until they are reclaimed: while that is held, moving only takes room.
        if reclaim::hold(&Overlay::new(&*self.parts.shared.kv))?.is_some() {
            return Ok(());
        }
        let topology = self.roomy_topology(work, now);
        let (mut items, mut before) = (Vec::new(), Vec::new());
        for id in work.spread.take() {
            let Some(row) = index::stripe(&Overlay::new(&*self.parts.shared.kv), id)? else { continue };
            let stripe = wounds::stripe(id, &row, &work.drives, &work.findings, now.ms)?;
            if let Some(item) = move_apart(&topology, &stripe, self.parts.config.repair.shares[2]) {
                before.push((id, self.crowded_levels(&topology, id)?));
                items.push(item);
            }
        }
        let mended = round.mended;
        self.carry_out(work, items, round).await?;
        work.totals.apart += round.mended - mended;
        round.spreading = round.mended > mended && !work.spread.is_empty();
        for (id, before) in before {
            let after = self.crowded_levels(&topology, id)?;
            for at in 0..3 {
                work.crowded[at] = work.crowded[at].saturating_sub(u64::from(before[at] && !after[at]));
            }
            if after != [false; 3] && after != before {
                work.spread.add(id);
            }
        }
        if work.spread.wants_more() {
            work.walk_at_ms = work.walk_at_ms.min(now.ms);
        }
        Ok(())
    }

    fn crowded_levels(&self, topology: &Topology, id: StripeId) -> Result<[bool; 3], KeepError> {
        let row = index::stripe(&Overlay::new(&*self.parts.shared.kv), id)?.unwrap_or_default();
        let drives: Vec<DriveId> = row.drives.iter().filter_map(|drive| DriveId::from_slice(drive)).collect();
        let apart = Apart::new(topology, usize::from(self.parts.geometry.m()));
        Ok(Self::crowding(topology, &apart, Level::SHARED.map(|level| topology.has_many(level)), &drives).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::id::Epoch;

    #[test]
    fn those_that_nothing_can_be_done_about_do_not_stand_before_the_others() {
        let id = |counter| StripeId { epoch: Epoch(1), counter };
        let mut spread = Spread::default();
        let walk = |spread: &mut Spread| {
            (0..2 * FOUND as u64 + 10).for_each(|n| spread.add(id(n)));
            spread.walked();
        };
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            walk(&mut spread);
            while !spread.is_empty() {
                seen.extend(spread.take());
            }
            let _walks_again = spread.wants_more();
        }
        assert_eq!(seen.len(), 2 * FOUND + 10);
        walk(&mut spread);
        assert!(!spread.is_empty(), "and again from the beginning");
    }
}
