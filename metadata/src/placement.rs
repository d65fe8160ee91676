//! Which drives a new stripe's shards go to. Pure: the randomness is a seed.
//!
//! Every shard on a drive of its own; racks filled evenly, and nodes within a rack, so that neither has more shards of a
//! stripe than the evenest placement needs (at most m wherever the topology allows it); within that, drives in proportion
//! to their free space.

use crate::topology::{Drive, Topology};
use codec::id::DriveId;
use std::collections::BTreeMap;

/// Chooses up to `count` usable drives for shards of one stripe: none of `failed`, none of `used`, whose racks and nodes
/// count as filled by the shards that they hold. Fewer come back when there are no more. Equal arguments give an equal answer.
pub fn place(topology: &Topology, count: usize, used: &[DriveId], failed: &[DriveId], seed: u64) -> Vec<DriveId> {
    let mut on_rack: BTreeMap<u32, usize> = BTreeMap::new();
    let mut on_node: BTreeMap<u32, usize> = BTreeMap::new();
    for drive in topology.drives.iter().filter(|drive| used.contains(&drive.id)) {
        *on_rack.entry(drive.rack).or_default() += 1;
        *on_node.entry(drive.node).or_default() += 1;
    }
    let mut random = SplitMix(seed);
    let mut candidates: Vec<(f64, &Drive)> = topology
        .usable()
        .filter(|drive| !used.contains(&drive.id) && !failed.contains(&drive.id))
        .map(|drive| (random.arrival(drive.free), drive))
        .collect();
    // Ordered by arrival: the first of a node is a draw from its drives weighted by free space.
    candidates.sort_by(|(a, x), (b, y)| a.total_cmp(b).then(x.id.cmp(&y.id)));
    // The candidates of each node, the last to arrive first, so that the next one is popped.
    let mut waiting: BTreeMap<u32, Vec<(usize, &Drive)>> = BTreeMap::new();
    for (order, (_, drive)) in candidates.into_iter().enumerate().rev() {
        waiting.entry(drive.node).or_default().push((order, drive));
    }
    let held = |map: &BTreeMap<u32, usize>, key| map.get(&key).copied().unwrap_or(0);
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let first = |(&node, drives): (&u32, &Vec<(usize, &Drive)>)| {
            let &(order, drive) = drives.last()?;
            Some((held(&on_rack, drive.rack), held(&on_node, node), order, node))
        };
        let Some((.., node)) = waiting.iter().filter_map(first).min() else { break };
        let Some((_, drive)) = waiting.get_mut(&node).and_then(Vec::pop) else { break };
        *on_rack.entry(drive.rack).or_default() += 1;
        *on_node.entry(node).or_default() += 1;
        chosen.push(drive.id);
    }
    chosen
}

/// Sebastiano Vigna's SplitMix64: enough for spreading, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The first arrival of a Poisson process with rate `weight`. Taking the earliest arrivals samples without
    /// replacement in proportion to weight (Efraimidis and Spirakis, 2006).
    fn arrival(&mut self, weight: u64) -> f64 {
        let uniform = ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -uniform.ln() / (weight.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drive(n: u8, node: u32, free: u64) -> Drive {
        Drive { id: DriveId([n; 16]), node, rack: 0, free, usable: true, full: false }
    }

    proptest! {
        #[test]
        fn drives_are_distinct_usable_and_spread(
            drives in proptest::collection::vec((0u32..5, 1u64..1000, any::<bool>()), 1..30),
            count in 0usize..20, used in 0usize..4, failed in 0usize..4, seed: u64,
        ) {
            let drives: Vec<Drive> = drives.into_iter().enumerate()
                .map(|(n, (node, free, usable))| Drive { usable, ..drive(n as u8, node, free) })
                .collect();
            let topology = Topology { drives };
            let ids: Vec<DriveId> = topology.drives.iter().map(|drive| drive.id).collect();
            let used = &ids[..used.min(ids.len())];
            let failed = &ids[ids.len() - failed.min(ids.len())..];
            let chosen = place(&topology, count, used, failed, seed);
            prop_assert_eq!(&chosen, &place(&topology, count, used, failed, seed));
            let free: Vec<&Drive> =
                topology.usable().filter(|d| !used.contains(&d.id) && !failed.contains(&d.id)).collect();
            prop_assert_eq!(chosen.len(), count.min(free.len()));
            let mut taken: BTreeMap<u32, usize> = BTreeMap::new();
            for id in &chosen {
                let drive = free.iter().find(|drive| drive.id == *id).unwrap();
                *taken.entry(drive.node).or_default() += 1;
            }
            let distinct: std::collections::BTreeSet<_> = chosen.iter().collect();
            prop_assert_eq!(distinct.len(), chosen.len());
            if used.is_empty() {
                // A node that still had a drive to give has at most one shard less than any other.
                let most = taken.values().copied().max().unwrap_or(0);
                for node in 0..5 {
                    let has = free.iter().filter(|drive| drive.node == node).count();
                    let took = taken.get(&node).copied().unwrap_or(0);
                    prop_assert!(took == has || took + 1 >= most);
                }
            }
        }
    }

    #[test]
    fn a_replacement_avoids_the_nodes_that_are_filled() {
        let topology = Topology { drives: (0..6).map(|n| drive(n, u32::from(n) % 3, 100)).collect() };
        let used = [DriveId([0; 16]), DriveId([1; 16])];
        for seed in 0..50 {
            let chosen = place(&topology, 1, &used, &[DriveId([2; 16])], seed);
            assert_eq!(chosen, [DriveId([5; 16])]);
        }
    }

    #[test]
    fn free_space_weighs() {
        let topology = Topology { drives: vec![drive(0, 0, 100), drive(1, 0, 300)] };
        let roomy = (0..4000).filter(|&seed| place(&topology, 1, &[], &[], seed) == [DriveId([1; 16])]).count();
        assert!((2800..3200).contains(&roomy), "{roomy} of 4000, expected about 3000");
    }

    #[test]
    fn racks_are_filled_evenly_and_nodes_within_them() {
        let topology = Topology {
            drives: (0..48).map(|n| Drive { rack: u32::from(n) / 12, ..drive(n, u32::from(n) / 4, 100) }).collect(),
        };
        for seed in 0..50 {
            let chosen = place(&topology, 8, &[], &[], seed);
            let of = |id: &DriveId| topology.drives.iter().find(|drive| drive.id == *id).unwrap();
            let mut racks = [0; 4];
            let mut nodes = [0; 12];
            chosen.iter().map(of).for_each(|drive| {
                racks[drive.rack as usize] += 1;
                nodes[drive.node as usize] += 1;
            });
            assert_eq!(racks, [2; 4]);
            assert!(nodes.iter().all(|&shards| shards <= 1), "{nodes:?}");
        }
    }
}
