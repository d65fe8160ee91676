//! Stripes that were written when there was no better place: they have more shards on one node, in one rack or at one site than they
//! may lose, and the drives of today could hold them apart. One shard at a time moves to where it fails by itself. Pure.
//!
//! Invariants
//! * A move makes no level worse, and one of them better, so moving comes to an end, and never happens for the sake of balance: a
//!   stripe that is as far apart as it need be stays where it is, however empty a new drive is. Levels that can't be helped count in
//!   that: at no level do more groups than before hold more than may be lost, and none of them holds more beyond that.
//! * A move never takes the room that clients write into: drives that are nearly full count as full here.
//! * Only what the drives that take shards could hold apart is moved: nothing goes from one bad place to another.
//! * Only a stripe that is whole is touched: what it has lost comes first, and is repair's. The old copy is there until the new one
//!   was read back and the row names it, so the stripe is never less safe than before.

use super::plan::{RepairItem, Shard, Stripe, Target};
use crate::placement::{Need, place};
use crate::topology::{Drive, Level, Topology};
use codec::id::DriveId;
use std::collections::{BTreeMap, BTreeSet};
use storage_node::client::DriveStatus;

/// One of so many parts of a drive is left to clients: moving is no reason to make their stripes narrower, or to refuse them.
const LEFT_TO_CLIENTS: u64 = 10;

/// The same drives, of which those that are nearly full take no shards: what is moved there only in order to be further apart would
/// fill a small new rack until new stripes have no place in it.
pub fn with_headroom(mut topology: Topology, status: &[DriveStatus]) -> Topology {
    let scarce: BTreeMap<DriveId, u64> =
        status.iter().map(|status| (status.id, status.total / LEFT_TO_CLIENTS)).collect();
    for drive in &mut topology.drives {
        drive.usable &= scarce.get(&drive.id).is_none_or(|scarce| drive.free >= *scarce);
    }
    topology
}

/// What the drives can hold apart.
#[derive(Clone, Copy, Debug)]
pub struct Apart {
    /// How many shards of one stripe the usable drives take with no more than may be lost on each node, rack or site; `None` where
    /// there is only one.
    room: [Option<usize>; 3],
    parity: usize,
}

impl Apart {
    /// For stripes that may lose `parity` shards.
    pub fn new(topology: &Topology, parity: usize) -> Apart {
        let room = |level| topology.has_many(level).then(|| topology.capacity(level, parity));
        Apart { room: Level::SHARED.map(room), parity }
    }

    /// How many shards may be lost.
    pub fn parity(&self) -> usize {
        self.parity
    }

    /// Whether a stripe with so many shards, and at most so many on one node, rack and site, could be further apart.
    pub fn is_crowded(&self, shards: usize, held: [usize; 3]) -> bool {
        let worse =
            |(room, held): (&Option<usize>, usize)| held > self.parity && room.is_some_and(|room| room >= shards);
        self.room.iter().zip(held).any(worse)
    }

    /// By how many shards nodes, racks and sites have more of a stripe than may be lost, where that can be helped.
    fn excess(&self, topology: &Topology, drives: &[DriveId]) -> [usize; 3] {
        let mut excess = topology.excess(drives, self.parity);
        for (excess, room) in excess.iter_mut().zip(self.room) {
            if room.is_none_or(|room| room < drives.len()) {
                *excess = 0;
            }
        }
        excess
    }
}

/// The one move that brings a stripe furthest apart, as an order; `None` when there is none, or the stripe is not whole.
pub fn move_apart(topology: &Topology, stripe: &Stripe, share: u8) -> Option<RepairItem> {
    let drives: Vec<DriveId> = stripe.shards.iter().filter_map(|shard| shard.drive).collect();
    let parity = usize::try_from(stripe.slack()).ok()?;
    if !stripe.is_whole() || drives.len() != stripe.shards.len() {
        return None;
    }
    let apart = Apart::new(topology, parity);
    let before = Measure::of(topology, &apart, &drives);
    if before.helped == [0; 3] {
        return None;
    }
    let mut best: Option<(usize, usize, BTreeSet<Place>)> = None;
    for at in 0..drives.len() {
        let mut rest = drives.clone();
        rest.swap_remove(at);
        if topology.excess(&rest, parity) == before.all {
            continue;
        }
        for (place, id) in places(topology, &drives) {
            let mut moved = rest.clone();
            moved.push(id);
            let after = Measure::of(topology, &apart, &moved);
            let sum = after.helped.iter().sum();
            if !after.is_better_than(&before) || best.as_ref().is_some_and(|(least, ..)| *least < sum) {
                continue;
            }
            match &mut best {
                Some((least, of, to)) if *least == sum => drop(*of == at && to.insert(place)),
                best => *best = Some((sum, at, BTreeSet::from([place]))),
            }
        }
    }
    let (_, at, good) = best?;
    let (from, mut rest) = (drives[at], drives);
    rest.swap_remove(at);
    // Of the places that are equally good, the one that placement prefers.
    let bad = topology.drives.iter().filter(|drive| drive.id == from || !good.contains(&place_of(drive)));
    let bad: Vec<DriveId> = bad.map(|drive| drive.id).collect();
    let seed = stripe.id.epoch.0 ^ stripe.id.counter.rotate_left(32) ^ 0x7370_7265_6164 ^ at as u64;
    let need = Need { used: &rest, failed: &bad, seed, ..Need::new(1, u8::try_from(parity).ok()?) };
    let to = place(topology, &need).pop()?;
    Some(order(stripe, &stripe.shards[at], to, share))
}

/// Node, rack and site: drives of one place are the same to a stripe.
type Place = (u32, u32, u32);

fn place_of(drive: &Drive) -> Place {
    (drive.node, drive.rack, drive.site)
}

/// The places that another shard of a stripe could go to, each with a drive there that has none of it.
fn places(topology: &Topology, drives: &[DriveId]) -> BTreeMap<Place, DriveId> {
    let free = topology.usable().filter(|drive| !drives.contains(&drive.id));
    free.map(|drive| (place_of(drive), drive.id)).collect()
}

/// How badly a stripe lies, for nodes, racks and sites.
struct Measure {
    /// Shards beyond what may be lost.
    all: [usize; 3],
    /// The same, where that can be helped.
    helped: [usize; 3],
    /// Groups whose loss stops reads.
    over: [usize; 3],
}

impl Measure {
    fn of(topology: &Topology, apart: &Apart, drives: &[DriveId]) -> Measure {
        Measure {
            all: topology.excess(drives, apart.parity),
            helped: apart.excess(topology, drives),
            over: topology.over(drives, apart.parity),
        }
    }

    fn is_better_than(&self, before: &Measure) -> bool {
        let no_worse = |after: [usize; 3], before: [usize; 3]| after.iter().zip(before).all(|(a, b)| *a <= b);
        no_worse(self.all, before.all) && no_worse(self.over, before.over) && self.helped != before.helped
    }
}

/// The shard is copied from where it is, and made from the others where that can't be read.
fn order(stripe: &Stripe, shard: &Shard, to: DriveId, share: u8) -> RepairItem {
    let mut sources: Vec<(u8, DriveId)> = stripe.shards.iter().filter_map(|of| Some((of.index, of.drive?))).collect();
    sources.sort_by_key(|(index, _)| *index != shard.index);
    let target = Target { index: shard.index, from: shard.drive, to, len: shard.len, suspect: false };
    RepairItem {
        stripe: stripe.id,
        slack: stripe.slack(),
        share,
        since_ms: None,
        sources,
        reads: 1,
        read_len: shard.len,
        targets: vec![target],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::keep::plan::Condition;
    use codec::id::{Epoch, StripeId};
    use codec::stripe::StripeClass;
    use proptest::prelude::*;

    fn topology(drives: &[(u32, u32, u32)]) -> Topology {
        let drive = |(n, (node, rack, site)): (usize, &(u32, u32, u32))| Drive {
            node: *node,
            rack: *rack,
            site: *site,
            free: 1 << 40,
            usable: true,
            ..Drive::new(DriveId([n as u8; 16]))
        };
        Topology { drives: drives.iter().enumerate().map(drive).collect(), ..Topology::default() }
    }

    fn stripe(on: &[u8], data: u8) -> Stripe {
        let shard = |(index, n): (u8, &u8)| Shard {
            index,
            drive: Some(DriveId([*n; 16])),
            len: 100,
            condition: Condition::Good,
        };
        let id = StripeId { epoch: Epoch(7), counter: u64::from(on[0]) };
        Stripe { id, class: StripeClass::Data, data, shards: (0..).zip(on).map(shard).collect() }
    }

    #[test]
    fn a_shard_goes_to_the_node_that_came_and_nothing_moves_for_balance() {
        let two = topology(&[(1, 0, 0), (1, 0, 0), (2, 0, 0), (2, 0, 0)]);
        assert_eq!(move_apart(&two, &stripe(&[0, 1, 2], 2), 10), None, "there is no better place");
        let three = topology(&[(1, 0, 0), (1, 0, 0), (2, 0, 0), (2, 0, 0), (3, 0, 0), (3, 0, 0)]);
        let item = move_apart(&three, &stripe(&[0, 1, 2], 2), 10).unwrap();
        let [target] = item.targets[..] else { panic!("{item:?}") };
        assert!(
            target.index < 2 && target.to.0[0] >= 4 && target.from == Some(DriveId([target.index; 16])),
            "{item:?}"
        );
        assert_eq!((item.sources[0].0, item.sources.len(), item.share), (target.index, 3, 10));
        assert_eq!(move_apart(&three, &stripe(&[0, 2, 4], 2), 10), None);
        assert_eq!(move_apart(&three, &stripe(&[0, 1, 2, 3], 2), 10), None, "two may be lost");
        let mut lost = stripe(&[0, 1, 2], 2);
        lost.shards[2].condition = Condition::Unreachable { since_ms: 1 };
        assert_eq!(move_apart(&three, &lost, 10), None, "what it lacks comes first");
    }

    #[test]
    fn what_only_one_level_can_hold_apart_moves_for_that_level() {
        // Two sites can't hold 2+1 apart, three racks can.
        let drives = [(1, 1, 1), (2, 1, 1), (3, 2, 1), (4, 3, 2)];
        let item = move_apart(&topology(&drives), &stripe(&[0, 1, 2], 2), 10).unwrap();
        assert_eq!(item.targets[0].to, DriveId([3; 16]));
        let apart = Apart::new(&topology(&drives), 1);
        assert!(apart.is_crowded(3, [1, 2, 3]) && !apart.is_crowded(3, [1, 1, 2]));
    }

    /// At sites that can't hold a stripe apart one site stopped reads, and after a move for the racks either did.
    #[test]
    fn a_level_that_cannot_be_helped_is_not_made_worse_for_one_that_can() {
        let drives = [(1, 1, 1), (1, 1, 1), (1, 1, 1), (2, 2, 1), (3, 3, 2), (4, 3, 2), (5, 4, 2), (6, 2, 1)];
        let four = stripe(&[0, 1, 2, 3, 4, 5], 4);
        let item = move_apart(&topology(&drives), &four, 10).unwrap();
        assert_eq!((item.targets[0].to, item.targets[0].index < 3), (DriveId([7; 16]), true));
        assert_eq!(move_apart(&topology(&drives[..7]), &four, 10), None, "only the other site has a place");
    }

    #[test]
    fn drives_that_are_nearly_full_are_left_to_clients() {
        let mut topology = topology(&[(1, 0, 0), (2, 0, 0), (3, 0, 0)]);
        topology.drives[1].free = 99;
        topology.drives[2].free = 100;
        let status = |n: u8| DriveStatus { id: DriveId([n; 16]), total: 1000, ..crate::keep::testing::drive_status() };
        let roomy = with_headroom(topology, &[status(0), status(1), status(2)]);
        assert_eq!(roomy.usable().map(|drive| drive.id.0[0]).collect::<Vec<_>>(), [0, 2]);
    }

    /// For nodes, racks and sites: how many of them have more shards than may be lost, and how many more.
    fn stops(drives: &[(u32, u32, u32)], on: &[DriveId], parity: usize) -> [(usize, usize); 3] {
        let of = |group: &dyn Fn(&(u32, u32, u32)) -> u32| {
            let mut held = BTreeMap::<u32, usize>::new();
            on.iter().for_each(|id| *held.entry(group(&drives[usize::from(id.0[0])])).or_default() += 1);
            let over = held.into_values().filter(|held| *held > parity).map(|held| held - parity);
            over.fold((0, 0), |(groups, shards), more| (groups + 1, shards + more))
        };
        [of(&|at| at.0), of(&|at| at.1), of(&|at| at.2)]
    }

    proptest! {
        #[test]
        fn moving_ends_and_makes_nothing_worse(
            racks in proptest::collection::vec((0u32..6, 0u32..4, any::<bool>()), 4..24),
            count in 2usize..8, parity in 1usize..4, seed: u64,
        ) {
            let drives: Vec<_> = racks.iter().map(|(node, rack, _)| (node + rack * 10, *rack, rack % 2)).collect();
            let mut topology = topology(&drives);
            for (drive, (.., usable)) in topology.drives.iter_mut().zip(&racks) {
                drive.usable = *usable;
            }
            let count = count.min(drives.len()).max(parity + 1);
            prop_assume!(count <= drives.len());
            let first = (seed % drives.len() as u64) as usize;
            let on: Vec<u8> = (0..count).map(|n| ((first + n) % drives.len()) as u8).collect();
            let mut stripe = stripe(&on, (count - parity) as u8);
            let of = |stripe: &Stripe| stripe.shards.iter().map(|shard| shard.drive.unwrap()).collect::<Vec<_>>();
            let mut moves = 0;
            while let Some(item) = move_apart(&topology, &stripe, 10) {
                let [target] = item.targets[..] else { panic!("one at a time") };
                let before = stops(&drives, &of(&stripe), parity);
                prop_assert!(!of(&stripe).contains(&target.to));
                stripe.shards[usize::from(target.index)].drive = Some(target.to);
                let after = stops(&drives, &of(&stripe), parity);
                let worse = after.iter().zip(before).any(|(after, before)| after.0 > before.0 || after.1 > before.1);
                prop_assert!(!worse && after != before, "{before:?} {after:?}");
                moves += 1;
                prop_assert!(moves <= 3 * count, "it does not end");
            }
        }
    }
}
