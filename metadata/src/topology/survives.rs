//! What the loss of drives, nodes, racks and sites leaves whole: found by placing, not by formula, so that what is said is what
//! placement does.

use super::{Level, Topology, Warning};
use crate::placement::{Need, place};
use codec::erasure::Geometry;
use codec::id::DriveId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Stripes that are placed in each cell to see how placement spreads them.
const SAMPLES: u64 = 8;

/// Drives of some full stripes.
pub(super) type Samples = Vec<Vec<DriveId>>;

/// The samples of the topology that was asked about last: every gateway asks each second, and it is hundreds of placings for
/// drives that have hardly changed. How much room they have is no part of the question.
#[derive(Debug, Default)]
pub struct Sampled(Mutex<Option<Sample>>);

#[derive(Debug)]
struct Sample {
    of: Topology,
    geometry: Geometry,
    placed: Option<Samples>,
}

impl Sampled {
    /// [`Topology::survives`].
    pub fn survives(&self, topology: &Topology, geometry: Geometry, journal: &[DriveId]) -> Option<Survives> {
        topology.survives_of(self.samples(topology, geometry)?, geometry, journal)
    }

    /// [`Topology::warnings`].
    pub fn warnings(&self, topology: &Topology, geometry: Geometry) -> Vec<Warning> {
        topology.warnings_of(self.samples(topology, geometry).as_ref(), geometry)
    }

    fn samples(&self, topology: &Topology, geometry: Geometry) -> Option<Samples> {
        let mut of = topology.clone();
        of.drives.iter_mut().for_each(|drive| drive.free = 0);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| last.of == of && last.geometry == geometry) {
            return last.placed.clone();
        }
        let placed = topology.samples(geometry);
        *last = Some(Sample { of, geometry, placed: placed.clone() });
        placed
    }
}

/// How many may be lost at once, whichever they are, with nothing lost that is written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survives {
    /// Drives.
    pub drives: usize,
    /// Nodes, racks and sites, where there is more than one of them.
    pub shared: [Option<usize>; 3],
    /// How many of those may be lost with more than half of the drives left, as far as [`shared`](Self::shared) goes. The register
    /// of the journal's ensemble lies on all drives, and without a majority of them nothing is written until some are back.
    pub written: [usize; 3],
}

impl fmt::Display for Survives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.drives == 0 {
            return f.write_str("survives no loss");
        }
        let shared = Level::SHARED.into_iter().zip(self.shared).zip(self.written);
        let shared = shared.filter_map(|((level, many), written)| Some((level, many?, written)));
        let all = std::iter::once((Level::Drive, self.drives, self.drives)).chain(shared);
        let (some, none): (Vec<_>, Vec<_>) = all.partition(|(_, many, _)| *many > 0);
        let said = |(level, many, written): &(Level, usize, usize)| match written {
            written if written >= many => many_of(*level, *many),
            0 => format!("{} (reads only)", many_of(*level, *many)),
            written => format!("{} (reads only from {} on)", many_of(*level, *many), written + 1),
        };
        write!(f, "survives the loss of {}", some.iter().map(said).collect::<Vec<_>>().join(", "))?;
        for (level, ..) in none {
            write!(f, ", not of a {level}")?;
        }
        Ok(())
    }
}

fn many_of(level: Level, many: usize) -> String {
    match many {
        1 => format!("1 {level}"),
        many => format!("any {many} {level}s"),
    }
}

impl Topology {
    /// What survives of stripes that are written now, and of the journal on these members. `None` when nothing can be written.
    pub fn survives(&self, geometry: Geometry, journal: &[DriveId]) -> Option<Survives> {
        self.survives_of(self.samples(geometry)?, geometry, journal)
    }

    fn survives_of(&self, mut placed: Samples, geometry: Geometry, journal: &[DriveId]) -> Option<Survives> {
        placed.push(journal.to_vec());
        let parity = usize::from(geometry.m());
        let shared = Level::SHARED.map(|level| self.has_many(level).then(|| self.may_lose(&placed, level, parity)));
        let written =
            [0, 1, 2].map(|at| shared[at].map_or(0, |many| many.min(self.majority_without(Level::SHARED[at]))));
        Some(Survives { drives: parity, shared, written })
    }

    /// How many drives are in each of these, the most first.
    fn sizes(&self, level: Level) -> Vec<usize> {
        let all: Vec<DriveId> = self.drives.iter().map(|drive| drive.id).collect();
        self.held(&all, level)
    }

    /// How many of these may be lost, whichever they are, with more than half of the drives left.
    fn majority_without(&self, level: Level) -> usize {
        let lost = self.sizes(level).into_iter().scan(0, |lost, drives| {
            *lost += drives;
            Some(*lost)
        });
        lost.take_while(|lost| 2 * lost < self.drives.len()).count()
    }

    /// Whether the loss of what the rule speaks of may leave no majority of the drives.
    pub(super) fn not_written_after(&self) -> Option<Warning> {
        let (level, registered) = (self.survive, self.drives.len());
        let drives = self.sizes(level).first().copied().filter(|_| level != Level::Drive)?;
        (2 * drives >= registered).then_some(Warning::NoMajority { level, drives, registered })
    }

    /// What fails as a whole and takes more of a stripe than may be lost: the least of the levels that do.
    pub(super) fn not_survived(&self, placed: &Samples, geometry: Geometry) -> Option<Warning> {
        let parity = usize::from(geometry.m());
        let most = |at: usize| placed.iter().map(|drives| self.most_held(drives)[at]).max().unwrap_or(0);
        let levels = Level::SHARED.into_iter().enumerate().filter(|(_, level)| self.has_many(*level));
        let mut losses = levels.map(|(at, level)| Warning::Loss { level, most: most(at), parity });
        losses.find(|warning| matches!(warning, Warning::Loss { most, .. } if *most > parity))
    }

    /// Whether there are several of these.
    pub(crate) fn has_many(&self, level: Level) -> bool {
        self.drives.iter().map(|drive| drive.group(level)).collect::<BTreeSet<_>>().len() > 1
    }

    /// Drives of full stripes that are placed now: some in each cell that placement would choose.
    pub(super) fn samples(&self, geometry: Geometry) -> Option<Samples> {
        let (parity, m) = (geometry.m(), usize::from(geometry.m()));
        let count = usize::from(self.width(geometry)?) + m;
        let level = Level::SHARED.into_iter().rev().find(|level| self.capacity(*level, m) >= count);
        let mut cells: BTreeMap<u32, Topology> = BTreeMap::new();
        for drive in self.usable() {
            let cell = cells.entry(drive.cell).or_default();
            cell.drives.push(drive.clone());
            cell.survive = self.survive;
        }
        cells.retain(|_, cell| cell.capacity(level.unwrap_or_default().max(self.survive), m) >= count);
        let need = |seed| Need { survive: self.survive, seed, ..Need::new(count, parity) };
        let in_one = |of: &Topology| (0..SAMPLES).map(|seed| place(of, &need(seed))).collect::<Vec<_>>();
        // No cell is large enough: stripes go over all of them.
        Some(if cells.is_empty() { in_one(self) } else { cells.values().flat_map(in_one).collect() })
    }

    /// The most shards on one node, in one rack and at one site of a stripe on these drives.
    pub(crate) fn most_held(&self, drives: &[DriveId]) -> [usize; 3] {
        Level::SHARED.map(|level| self.held(drives, level).first().copied().unwrap_or(0))
    }

    /// By how many shards nodes, racks and sites have more of a stripe on these drives than `most`, where there are several.
    pub(crate) fn excess(&self, drives: &[DriveId], most: usize) -> [usize; 3] {
        Level::SHARED.map(|level| self.held(drives, level).into_iter().map(|held| held.saturating_sub(most)).sum())
    }

    /// How many nodes, racks and sites have more of a stripe on these drives than `most`.
    pub(crate) fn over(&self, drives: &[DriveId], most: usize) -> [usize; 3] {
        Level::SHARED.map(|level| self.held(drives, level).into_iter().filter(|held| *held > most).count())
    }

    /// How many shards each node, rack or site has of these, the most first.
    fn held(&self, drives: &[DriveId], level: Level) -> Vec<usize> {
        let mut held: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        for id in drives {
            let at = self.drives.binary_search_by_key(id, |drive| drive.id);
            *held.entry(at.ok().and_then(|at| self.drives[at].group(level))).or_default() += 1;
        }
        let mut held: Vec<usize> = held.into_values().collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        held
    }

    fn may_lose(&self, placed: &[Vec<DriveId>], level: Level, parity: usize) -> usize {
        let of = |drives: &Vec<DriveId>| {
            let lost = self.held(drives, level).into_iter().scan(0, |lost, shards| {
                *lost += shards;
                Some(*lost)
            });
            lost.take_while(|lost| *lost <= parity).count()
        };
        placed.iter().filter(|drives| !drives.is_empty()).map(of).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Drive;

    fn topology(drives: u8, of: impl Fn(u32) -> (u32, u32, u32)) -> Topology {
        let drive = |n: u8| {
            let (node, rack, site) = of(u32::from(n));
            Drive { node, rack, site, free: 1 << 40, usable: true, ..Drive::new(DriveId([n; 16])) }
        };
        Topology { drives: (0..drives).map(drive).collect(), ..Topology::default() }
    }

    fn said(topology: &Topology, journal: &[u8], k: u8, m: u8) -> String {
        let journal: Vec<DriveId> = journal.iter().map(|n| DriveId([*n; 16])).collect();
        topology.survives(Geometry::new(k, m).unwrap(), &journal).unwrap().to_string()
    }

    #[test]
    fn what_is_survived_is_said_for_each_level_that_there_is() {
        let one = topology(6, |_| (0, 0, 0));
        assert_eq!(said(&one, &[0, 1, 2], 3, 2), "survives the loss of any 2 drives");
        let nodes = topology(12, |n| (n / 2, 0, 0));
        assert_eq!(said(&nodes, &[0, 2, 4], 4, 2), "survives the loss of any 2 drives, any 2 nodes");
        let racks = topology(12, |n| (n / 2, n / 4, 0));
        assert_eq!(said(&racks, &[0, 4, 8], 4, 2), "survives the loss of any 2 drives, any 2 nodes, 1 rack");
        let two = topology(12, |n| (n / 2, n / 6, 0));
        assert_eq!(said(&two, &[0, 6, 8], 4, 2), "survives the loss of any 2 drives, any 2 nodes, not of a rack");
        let lone = topology(1, |_| (0, 0, 0));
        assert_eq!(said(&lone, &[0], 1, 0), "survives no loss");
    }

    #[test]
    fn the_journal_counts_as_well() {
        let racks = topology(12, |n| (n / 2, n / 4, 0));
        assert_eq!(said(&racks, &[0, 1, 2], 4, 2), "survives the loss of any 2 drives, 1 node, not of a rack");
    }

    /// Four drives at each of two sites: `survive = "site"` holds for every stripe, and yet a start finds no majority of the drives
    /// when a site is gone. It was said to survive that, and no more.
    #[test]
    fn what_leaves_no_majority_of_the_drives_is_survived_for_reads_only() {
        let geometry = Geometry::new(2, 2).unwrap();
        let two = topology(8, |n| (n, n, n / 4)).surviving(Level::Site);
        let said_of = |topology: &Topology| said(topology, &[0, 1, 4], 2, 2);
        let racks = "survives the loss of any 2 drives, any 2 nodes, any 2 racks";
        assert_eq!(said_of(&two), format!("{racks}, 1 site (reads only)"));
        let warning = Warning::NoMajority { level: Level::Site, drives: 4, registered: 8 };
        assert_eq!(two.warnings(geometry), [warning]);
        assert_eq!(two.clone().surviving(Level::Rack).warnings(geometry), [], "nobody asked for that");
        let third = topology(9, |n| (n, n, n / 4)).surviving(Level::Site);
        assert_eq!((said_of(&third), third.warnings(geometry)), (format!("{racks}, 1 site"), vec![]));
        let uneven = topology(9, |n| (n, n, n / 3));
        assert_eq!(
            said(&uneven, &[0, 1, 2, 3, 4, 5, 6], 1, 6),
            "survives the loss of any 6 drives, any 6 nodes (reads only from 5 on), any 6 racks (reads only from 5 on), any 2 sites (reads only from 2 on)"
        );
    }

    #[test]
    fn the_samples_of_a_topology_are_placed_once_and_those_of_another_anew() {
        let (sampled, geometry) = (Sampled::default(), Geometry::new(4, 2).unwrap());
        let mut topology = topology(12, |n| (n / 2, n / 4, 0));
        let journal: Vec<DriveId> = [0, 4, 8].map(|n| DriveId([n; 16])).into();
        let placed =
            |sampled: &Sampled| sampled.0.lock().unwrap().as_mut().map(|last| std::mem::take(&mut last.placed));
        assert_eq!(sampled.survives(&topology, geometry, &journal), topology.survives(geometry, &journal));
        assert!(placed(&sampled).flatten().is_some());
        topology.drives.iter_mut().for_each(|drive| drive.free += 1);
        assert_eq!(
            sampled.survives(&topology, geometry, &journal),
            None,
            "what was kept, and is taken out here, counts"
        );
        topology.drives[0].usable = false;
        assert_eq!(sampled.survives(&topology, geometry, &journal), topology.survives(geometry, &journal));
        let ruled = topology.clone().surviving(Level::Rack);
        assert_eq!(sampled.warnings(&ruled, geometry), ruled.warnings(geometry));
        assert_eq!(sampled.warnings(&topology, geometry), topology.warnings(geometry));
    }

    #[test]
    fn a_rule_makes_stripes_narrower_until_it_holds() {
        let geometry = Geometry::new(4, 2).unwrap();
        let three = topology(12, |n| (n / 2, n / 4, 0)).surviving(Level::Rack);
        assert_eq!((three.width(geometry), three.warnings(geometry)), (Some(4), vec![]));
        let lost = |racks: u32| {
            let mut topology = three.clone();
            topology.drives.iter_mut().filter(|drive| drive.rack < racks).for_each(|drive| drive.usable = false);
            topology
        };
        let narrow = Warning::NarrowByRule { level: Level::Rack, data: 2, full: 4, parity: 2 };
        assert_eq!((lost(1).width(geometry), lost(1).warnings(geometry)), (Some(2), vec![narrow]));
        assert_eq!(
            (lost(2).width(geometry), lost(2).warnings(geometry)),
            (None, vec![Warning::Rule { level: Level::Rack }])
        );
        assert_eq!(lost(2).surviving(Level::Drive).width(geometry), Some(2), "without the rule");
    }
}
