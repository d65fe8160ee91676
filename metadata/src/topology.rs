//! Drives, and what they fail together with, as placement sees them; and the geometry that a number of drives gets by default.
//!
//! Levels are nested: a drive is in a node, that in a rack, that in a site. Nodes whose configuration does not say where they
//! stand count as standing in one rack of one site together: what is not known to fail apart is not taken to.

mod rule;
mod survives;

pub(crate) use rule::Leaving;
pub use rule::{RuleUnmet, check_new_rule, check_rule};
use survives::Samples;
pub use survives::{Sampled, Survives};

use codec::effect::{DriveRow, DriveState};
use codec::erasure::Geometry;
use codec::id::DriveId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use storage_node::client::{DriveHealth, DriveStatus, STALLED_AFTER, WRITE_DEADLINE};

/// A drive with less free space than this takes no new shards.
pub const MIN_FREE: u64 = 64 << 20;

/// What can fail together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// A drive by itself.
    #[default]
    Drive,
    /// The drives of a node.
    Node,
    /// The nodes of a rack.
    Rack,
    /// The racks of a site.
    Site,
}

impl Level {
    /// The levels at which more than one drive fails.
    pub const SHARED: [Level; 3] = [Level::Node, Level::Rack, Level::Site];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Drive => "drive",
            Level::Node => "node",
            Level::Rack => "rack",
            Level::Site => "site",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a level is drive, node, rack or site")]
pub struct NoLevel;

impl FromStr for Level {
    type Err = NoLevel;

    fn from_str(name: &str) -> Result<Level, NoLevel> {
        let all = [Level::Drive, Level::Node, Level::Rack, Level::Site];
        all.into_iter().find(|level| level.name() == name).ok_or(NoLevel)
    }
}

/// A registered drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Its identity.
    pub id: DriveId,
    /// The node that serves it.
    pub node: u32,
    /// The rack of its node: a number that means something in this topology only.
    pub rack: u32,
    /// The site of that rack: a number like that.
    pub site: u32,
    /// Its placement cell.
    pub cell: u32,
    /// Bytes that client frames may still take there.
    pub free: u64,
    /// Takes new shards: registered as active, healthy, not full.
    pub usable: bool,
    /// Would take new shards if it had room.
    pub full: bool,
}

impl Drive {
    /// A drive by itself that takes nothing.
    pub fn new(id: DriveId) -> Drive {
        Drive { id, node: 0, rack: 0, site: 0, cell: 0, free: 0, usable: false, full: false }
    }

    /// What it fails together with at a level; nothing else has this number there.
    fn group(&self, level: Level) -> Option<u32> {
        match level {
            Level::Drive => None,
            Level::Node => Some(self.node),
            Level::Rack => Some(self.rack),
            Level::Site => Some(self.site),
        }
    }
}

/// All registered drives that are not removed, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The drives.
    pub drives: Vec<Drive>,
    /// The rule: no new stripe has more shards on one of these than it may lose. `Drive`: no rule beyond distinct drives.
    pub survive: Level,
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
    /// Stripes are narrower than the geometry, because of the rule.
    #[error(
        "new stripes have {data} data shards instead of {full}: no more than {parity} of their shards may be on one {level}"
    )]
    NarrowByRule {
        /// The rule.
        level: Level,
        /// Data shards that a new stripe has.
        data: usize,
        /// k.
        full: usize,
        /// m.
        parity: usize,
    },
    /// Nothing can be written by the rule.
    #[error("no stripe can be written that survives the loss of a {level}, as the rule wants: writes are refused")]
    Rule {
        /// The rule.
        level: Level,
    },
    /// A node, rack or site has more shards of a stripe than may be lost.
    #[error(
        "a stripe has up to {most} shards on one {level} and survives the loss of {parity}: losing a {level} stops reads"
    )]
    Loss {
        /// What fails together.
        level: Level,
        /// Most shards of one stripe on one of them.
        most: usize,
        /// m.
        parity: usize,
    },
    /// The rule keeps stripes whole, and the register needs more.
    #[error(
        "a {level} has {drives} of the {registered} drives: when it is lost there is no majority of them, and until some are back \
         only reads are served; a drive or more elsewhere, on a third {level}, would do"
    )]
    NoMajority {
        /// The rule.
        level: Level,
        /// Drives that fail together.
        drives: usize,
        /// All drives.
        registered: usize,
    },
    /// Stripes that were written before there was a better place.
    #[error(
        "{stripes} older stripes have more shards on one {level} than they may lose: new ones have not, and these are brought apart \
         while nothing else is to be mended"
    )]
    Crowded {
        /// What fails together.
        level: Level,
        /// How many.
        stripes: u64,
    },
    /// Drives share a file system.
    #[error("{drives} drives share one file system: they fail together")]
    SharedFileSystem {
        /// How many.
        drives: usize,
    },
}

impl Topology {
    /// Joins what is registered with what the nodes say. Where a drive is counts as its node says, if any node does; as its row
    /// says otherwise.
    pub fn new(rows: &[DriveRow], status: &[DriveStatus]) -> Self {
        let status: BTreeMap<DriveId, &DriveStatus> = status.iter().map(|status| (status.id, status)).collect();
        let known = || rows.iter().filter(|row| row.state != DriveState::Removed as i32);
        let known: Vec<(DriveId, DriveRow)> = known()
            .filter_map(|row| DriveId::from_slice(&row.id).map(|id| (id, row)))
            .map(|(id, row)| (id, status.get(&id).map_or_else(|| row.clone(), |status| as_seen(row, status))))
            .collect();
        let numbers = Numbers::new(known.iter().map(|(_, row)| (&row.site[..], &row.rack[..])));
        let drive = |(id, row): &(DriveId, DriveRow)| {
            let status = status.get(id);
            let healthy = status.is_some_and(|status| status.health == DriveHealth::Healthy);
            let free = status.map_or(0, |status| status.free);
            let (takes, room) = (row.state == DriveState::Active as i32 && healthy, free >= MIN_FREE);
            let (rack, site) = (numbers.rack(&row.site, &row.rack), numbers.site(&row.site));
            let (usable, full) = (takes && room, takes && !room);
            Drive { id: *id, node: row.node, rack, site, cell: row.cell, free, usable, full }
        };
        let mut drives: Vec<Drive> = known.iter().map(drive).collect();
        drives.sort_by_key(|drive| drive.id);
        Topology { drives, survive: Level::Drive }
    }

    /// The same drives under a rule.
    #[must_use]
    pub fn surviving(mut self, survive: Level) -> Self {
        self.survive = survive;
        self
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

    /// The same drives, under no rule if none of its stripes can be written: for what is stored already, which is better off on
    /// any drives than where it is.
    #[must_use]
    pub fn rule_if_kept(mut self, geometry: Geometry) -> Self {
        if self.width(geometry).is_none() {
            self.survive = Level::Drive;
        }
        self
    }

    /// How many data shards a new stripe can have by the rule: fewer than k when drives, nodes, racks or sites are missing, never
    /// at the cost of parity. `None`: not even one, and nothing can be written.
    pub fn width(&self, geometry: Geometry) -> Option<u8> {
        usable_width(self.capacity(self.survive, usize::from(geometry.m())), geometry)
    }

    /// How many shards of one stripe the usable drives take with at most `most` on each node, rack or site.
    pub(crate) fn capacity(&self, level: Level, most: usize) -> usize {
        capacity(self.usable(), level, most)
    }

    /// What does not hold here, for people.
    pub fn warnings(&self, geometry: Geometry) -> Vec<Warning> {
        self.warnings_of(self.samples(geometry).as_ref(), geometry)
    }

    fn warnings_of(&self, placed: Option<&Samples>, geometry: Geometry) -> Vec<Warning> {
        let (k, m) = (usize::from(geometry.k()), usize::from(geometry.m()));
        let usable = self.usable().count();
        let mut warnings = Vec::new();
        if m == 0 {
            warnings.push(Warning::NoParity);
        }
        let Some(by_drives) = usable_width(usable, geometry).map(usize::from) else {
            warnings.push(Warning::TooFewDrives { usable, needed: 1 + m });
            return warnings;
        };
        match self.width(geometry).map(usize::from) {
            None => warnings.push(Warning::Rule { level: self.survive }),
            Some(data) if data < by_drives => {
                warnings.push(Warning::NarrowByRule { level: self.survive, data, full: k, parity: m });
            }
            Some(data) if data < k => warnings.push(Warning::NarrowStripes { usable, full: k + m }),
            Some(_) => {}
        }
        warnings.extend(placed.and_then(|placed| self.not_survived(placed, geometry)));
        warnings.extend(self.not_written_after());
        warnings
    }
}

/// Numbers of racks and sites, in the order of their names. A rack's name is that of a rack of its site.
pub(crate) struct Numbers<'a> {
    sites: BTreeMap<&'a str, u32>,
    racks: BTreeMap<(&'a str, &'a str), u32>,
}

impl<'a> Numbers<'a> {
    /// Numbers for racks, each with the site before it.
    pub fn new(racks: impl Iterator<Item = (&'a str, &'a str)>) -> Numbers<'a> {
        let racks: BTreeSet<(&str, &str)> = racks.collect();
        let sites: BTreeSet<&str> = racks.iter().map(|(site, _)| *site).collect();
        Numbers { sites: sites.into_iter().zip(0..).collect(), racks: racks.into_iter().zip(0..).collect() }
    }

    pub fn site(&self, site: &str) -> u32 {
        self.sites.get(site).copied().unwrap_or(0)
    }

    pub fn rack(&self, site: &str, rack: &str) -> u32 {
        self.racks.get(&(site, rack)).copied().unwrap_or(0)
    }
}

/// The row of a drive that is where its node says.
pub fn as_seen(row: &DriveRow, status: &DriveStatus) -> DriveRow {
    let (rack, site) = (status.labels.rack().to_owned(), status.labels.site().to_owned());
    DriveRow { node: status.node, path: status.path.clone(), rack, site, ..row.clone() }
}

/// Whether a drive fails together with the same things by both rows.
pub fn same_place(a: &DriveRow, b: &DriveRow) -> bool {
    (a.node, &a.rack, &a.site) == (b.node, &b.rack, &b.site)
}

/// How many shards of one stripe some drives take with at most `most` on each node, rack or site. One on each drive, always.
pub(crate) fn capacity<'a>(drives: impl Iterator<Item = &'a Drive>, level: Level, most: usize) -> usize {
    let (mut groups, mut alone) = (BTreeMap::<u32, usize>::new(), 0);
    for drive in drives {
        match drive.group(level) {
            Some(group) => *groups.entry(group).or_default() += 1,
            None => alone += 1,
        }
    }
    alone + groups.into_values().map(|drives| drives.min(most)).sum::<usize>()
}

/// What was stored before the drives were where they are: stripes that would not survive the loss of a node, a rack or a site that
/// new ones survive. `crowded` counts them for each level.
pub(crate) fn older_stripes(now: &[Warning], crowded: [u64; 3]) -> impl Iterator<Item = Warning> {
    let least = now.iter().find_map(|warning| match warning {
        Warning::Loss { level, .. } => Some(*level),
        _ => None,
    });
    let all = Level::SHARED.into_iter().zip(crowded);
    all.filter(move |(level, stripes)| *stripes > 0 && least.is_none_or(|least| *level < least))
        .map(|(level, stripes)| Warning::Crowded { level, stripes })
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
        let drive = |n: u8| Drive { free: 1 << 40, usable: true, ..Drive::new(DriveId([n; 16])) };
        let usable = |waits: &[u64], least, full| -> Vec<u8> {
            let topology =
                Topology { drives: (0..waits.len()).map(|n| drive(n as u8)).collect(), ..Topology::default() };
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
        let drive = |n: u8, node| Drive { node, free: 1 << 40, usable: true, ..Drive::new(DriveId([n; 16])) };
        let geometry = Geometry::new(4, 2).unwrap();
        let one_node = Topology { drives: (0..6).map(|n| drive(n, 0)).collect(), ..Topology::default() };
        assert_eq!(one_node.warnings(geometry), []);
        let three_nodes =
            Topology { drives: (0..6).map(|n| drive(n, u32::from(n) % 3)).collect(), ..Topology::default() };
        assert_eq!(three_nodes.warnings(geometry), []);
        let two_nodes =
            Topology { drives: (0..6).map(|n| drive(n, u32::from(n) % 2)).collect(), ..Topology::default() };
        assert_eq!(two_nodes.warnings(geometry), [Warning::Loss { level: Level::Node, most: 3, parity: 2 }]);
        let few = Topology { drives: (0..2).map(|n| drive(n, 0)).collect(), ..Topology::default() };
        assert_eq!(few.warnings(geometry), [Warning::TooFewDrives { usable: 2, needed: 3 }]);
        let narrow = Topology { drives: (0..4).map(|n| drive(n, 0)).collect(), ..Topology::default() };
        assert_eq!(narrow.warnings(geometry), [Warning::NarrowStripes { usable: 4, full: 6 }]);
    }
}
