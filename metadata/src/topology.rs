//! Drives and nodes as placement sees them, and the geometry that a number of drives gets by default.

use codec::effect::{DriveRow, DriveState};
use codec::erasure::Geometry;
use codec::id::DriveId;
use std::collections::{BTreeMap, BTreeSet};
use storage_node::client::{DriveHealth, DriveStatus, STALLED_AFTER, WRITE_DEADLINE};

/// A drive with less free space than this takes no new shards.
pub const MIN_FREE: u64 = 64 << 20;

/// A registered drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Its identity.
    pub id: DriveId,
    /// The node that serves it.
    pub node: u32,
    /// The rack of its node. All nodes of one machine are in rack 0.
    pub rack: u32,
    /// Bytes that client frames may still take there.
    pub free: u64,
    /// Takes new shards: registered as active, healthy, not full.
    pub usable: bool,
    /// Would take new shards if it had room.
    pub full: bool,
}

/// All registered drives that are not removed, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The drives.
    pub drives: Vec<Drive>,
}

/// What a topology can't survive, for the status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// m = 0.
    #[error("one drive and no parity: a lost drive loses data")]
    NoParity,
    /// Nothing can be written.
    #[error("{usable} drives can be used and {needed} are needed: writes are refused")]
    TooFewDrives {
        /// Usable drives.
        usable: usize,
        /// 1+m.
        needed: usize,
    },
    /// Stripes are narrower than the geometry.
    #[error("{usable} drives can be used and {full} are needed for full stripes: new stripes are narrower")]
    NarrowStripes {
        /// Usable drives.
        usable: usize,
        /// k+m.
        full: usize,
    },
    /// A node has more shards of a stripe than may be lost.
    #[error(
        "a stripe has up to {on_one_node} shards on one node and survives the loss of {parity}: losing a node stops reads"
    )]
    NodeLoss {
        /// Most shards of one stripe on one node.
        on_one_node: usize,
        /// m.
        parity: usize,
    },
    /// Drives share a file system.
    #[error("{drives} drives share one file system: they fail together")]
    SharedFileSystem {
        /// How many.
        drives: usize,
    },
}

impl Topology {
    /// Joins what is registered with what the nodes say.
    pub fn new(rows: &[DriveRow], status: &[DriveStatus]) -> Self {
        let status: BTreeMap<DriveId, &DriveStatus> = status.iter().map(|status| (status.id, status)).collect();
        let known = rows.iter().filter(|row| row.state != DriveState::Removed as i32);
        let mut drives: Vec<Drive> = known
            .filter_map(|row| {
                let id = DriveId::from_slice(&row.id)?;
                let status = status.get(&id);
                let healthy = status.is_some_and(|status| status.health == DriveHealth::Healthy);
                let free = status.map_or(0, |status| status.free);
                let active = row.state == DriveState::Active as i32;
                let (takes, room) = (active && healthy, free >= MIN_FREE);
                Some(Drive { id, node: row.node, rack: 0, free, usable: takes && room, full: takes && !room })
            })
            .collect();
        drives.sort_by_key(|drive| drive.id);
        Topology { drives }
    }

    /// The same drives, of which these take no new shards.
    #[must_use]
    pub fn without(mut self, drives: &BTreeSet<DriveId>) -> Self {
        for drive in self.drives.iter_mut().filter(|drive| drives.contains(&drive.id)) {
            (drive.usable, drive.full) = (false, false);
        }
        self
    }

    /// The same drives, of which those that let an operation wait take no new shards: a write to one of them would wait as
    /// well. Those that have waited for longer than a write may take are spared as long as `least` others are left; those
    /// that are stalled, and may yet answer, as long as there are enough for `full` stripes without them.
    #[must_use]
    pub fn without_stalled(mut self, status: &[DriveStatus], least: usize, full: usize) -> Self {
        let mut longest: Vec<&DriveStatus> = status.iter().filter(|status| status.waits(STALLED_AFTER)).collect();
        longest.sort_by_key(|status| std::cmp::Reverse(status.unanswered_ms));
        for stalled in longest {
            let needed = if stalled.waits(WRITE_DEADLINE) { least } else { full };
            let others = self.usable().filter(|drive| drive.id != stalled.id).count();
            if others >= needed {
                self = self.without(&BTreeSet::from([stalled.id]));
            }
        }
        self
    }

    /// The node of a drive; `None` for one that is not among these.
    pub fn node_of(&self, drive: DriveId) -> Option<u32> {
        let at = self.drives.binary_search_by_key(&drive, |drive| drive.id).ok()?;
        Some(self.drives[at].node)
    }

    /// Drives that take new shards.
    pub fn usable(&self) -> impl Iterator<Item = &Drive> {
        self.drives.iter().filter(|drive| drive.usable)
    }

    /// What does not hold here, for people.
    pub fn warnings(&self, geometry: Geometry) -> Vec<Warning> {
        let (k, m) = (usize::from(geometry.k()), usize::from(geometry.m()));
        let usable = self.usable().count();
        let mut warnings = Vec::new();
        if m == 0 {
            warnings.push(Warning::NoParity);
        }
        let Some(width) = usable_width(usable, geometry) else {
            warnings.push(Warning::TooFewDrives { usable, needed: 1 + m });
            return warnings;
        };
        if usize::from(width) < k {
            warnings.push(Warning::NarrowStripes { usable, full: k + m });
        }
        let nodes: BTreeSet<u32> = self.drives.iter().map(|drive| drive.node).collect();
        let on_one_node = self.most_on_one_node(usize::from(width) + m);
        if nodes.len() > 1 && on_one_node > m {
            warnings.push(Warning::NodeLoss { on_one_node, parity: m });
        }
        warnings
    }

    /// The most shards of a stripe of `width` shards that the evenest placement puts on one node.
    fn most_on_one_node(&self, width: usize) -> usize {
        let mut room: BTreeMap<u32, usize> = BTreeMap::new();
        for drive in self.usable() {
            *room.entry(drive.node).or_default() += 1;
        }
        (0..=width).find(|&most| room.values().map(|&drives| drives.min(most)).sum::<usize>() >= width).unwrap_or(width)
    }
}

/// Drives of one machine that lie on one file system although they should fail apart.
pub fn shared_file_systems(status: &[DriveStatus]) -> Option<Warning> {
    let mut sharing: BTreeMap<u64, usize> = BTreeMap::new();
    for drive in status {
        *sharing.entry(drive.filesystem_id).or_default() += 1;
    }
    let drives = sharing.into_values().max().filter(|&drives| drives > 1)?;
    Some(Warning::SharedFileSystem { drives })
}

/// The geometry that `drives` registered at first start get: parity grows with the number of drives, one spare is kept
/// from five drives on, and k ends at ten. `None` without drives.
pub fn default_geometry(drives: usize) -> Option<Geometry> {
    let parity = match drives {
        0 => return None,
        1 => 0,
        2 => 1,
        3..=7 => 2,
        8..=10 => 3,
        _ => 4,
    };
    let spare = usize::from(drives >= 5);
    let data = (drives - parity - spare).min(10);
    Geometry::new(u8::try_from(data).ok()?, u8::try_from(parity).ok()?).ok()
}

/// How many data shards a new stripe can have: fewer than k when drives are missing, never at the cost of parity.
/// `None`: fewer than 1+m drives, and nothing can be written.
pub fn usable_width(usable: usize, geometry: Geometry) -> Option<u8> {
    let data = usable.checked_sub(usize::from(geometry.m()))?.min(usize::from(geometry.k()));
    u8::try_from(data).ok().filter(|&data| data > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_geometries_are_those_of_the_table() {
        let table = [
            (1, "1+0"),
            (2, "1+1"),
            (3, "1+2"),
            (4, "2+2"),
            (5, "2+2"),
            (6, "3+2"),
            (7, "4+2"),
            (8, "4+3"),
            (9, "5+3"),
            (10, "6+3"),
            (11, "6+4"),
            (12, "7+4"),
            (13, "8+4"),
            (14, "9+4"),
            (15, "10+4"),
            (16, "10+4"),
            (100, "10+4"),
        ];
        for (drives, geometry) in table {
            assert_eq!(default_geometry(drives).unwrap().to_string(), geometry, "{drives} drives");
        }
        assert_eq!(default_geometry(0), None);
    }

    #[test]
    fn k_shrinks_and_m_never_does() {
        let geometry = Geometry::new(4, 2).unwrap();
        let widths: Vec<_> = (0..8).map(|usable| usable_width(usable, geometry)).collect();
        assert_eq!(widths, [None, None, None, Some(1), Some(2), Some(3), Some(4), Some(4)]);
    }

    #[test]
    fn a_drive_that_lets_an_operation_wait_is_spared_as_far_as_others_will_do() {
        let drive = |n: u8| Drive { id: DriveId([n; 16]), node: 0, rack: 0, free: 1 << 40, usable: true, full: false };
        let usable = |waits: &[u64], least, full| -> Vec<u8> {
            let topology = Topology { drives: (0..waits.len()).map(|n| drive(n as u8)).collect() };
            let status = |(n, ms): (usize, &u64)| DriveStatus {
                id: DriveId([n as u8; 16]),
                unanswered_ms: *ms,
                ..crate::keep::testing::drive_status()
            };
            let status: Vec<DriveStatus> = waits.iter().enumerate().map(status).collect();
            topology.without_stalled(&status, least, full).usable().map(|drive| drive.id.0[0]).collect()
        };
        assert_eq!(usable(&[4_000, 0, 0, 6_000], 2, 3), [0, 1, 2]);
        assert_eq!(usable(&[0, 0, 0, 6_000], 2, 4), [0, 1, 2, 3], "better than a narrower stripe");
        assert_eq!(usable(&[0, 0, 0, 21_000], 2, 4), [0, 1, 2], "a write there would fail");
        assert_eq!(usable(&[0, 6_000, 9_000, 7_000], 2, 3), [0, 1, 3], "the worst first");
        assert_eq!(usable(&[30_000, 31_000, 32_000, 33_000], 2, 3), [0, 1], "all of one machine, perhaps for a moment");
    }

    #[test]
    fn warnings_say_what_is_not_survived() {
        let drive =
            |n: u8, node| Drive { id: DriveId([n; 16]), node, rack: 0, free: 1 << 40, usable: true, full: false };
        let geometry = Geometry::new(4, 2).unwrap();
        let one_node = Topology { drives: (0..6).map(|n| drive(n, 0)).collect() };
        assert_eq!(one_node.warnings(geometry), []);
        let three_nodes = Topology { drives: (0..6).map(|n| drive(n, u32::from(n) % 3)).collect() };
        assert_eq!(three_nodes.warnings(geometry), []);
        let two_nodes = Topology { drives: (0..6).map(|n| drive(n, u32::from(n) % 2)).collect() };
        assert_eq!(two_nodes.warnings(geometry), [Warning::NodeLoss { on_one_node: 3, parity: 2 }]);
        let few = Topology { drives: (0..2).map(|n| drive(n, 0)).collect() };
        assert_eq!(few.warnings(geometry), [Warning::TooFewDrives { usable: 2, needed: 3 }]);
        let narrow = Topology { drives: (0..4).map(|n| drive(n, 0)).collect() };
        assert_eq!(narrow.warnings(geometry), [Warning::NarrowStripes { usable: 4, full: 6 }]);
    }
}
