//! The rule that an operator sets: new stripes survive the loss of a node, a rack or a site.

use super::{Drive, Level, MIN_FREE, Topology};
use codec::effect::{DriveRow, DriveState};
use codec::erasure::Geometry;
use codec::id::DriveId;
use std::collections::{BTreeMap, BTreeSet};

/// The drives as they are registered can't keep the rule, whichever of them are up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "survive = \"{level}\" can't be kept with geometry {geometry}: at most {parity} of the {width} shards of a stripe may be on \
     one {level}, and the {drives} drives are on {groups} of them, which take {capacity}{}{}",
    said(*unnamed, *level), better(*fits)
)]
pub struct RuleUnmet {
    /// The rule.
    pub level: Level,
    /// The cluster's geometry.
    pub geometry: Geometry,
    /// m.
    pub parity: usize,
    /// k+m.
    pub width: usize,
    /// Drives.
    pub drives: usize,
    /// Nodes, racks or sites that they are on.
    pub groups: usize,
    /// Shards of one stripe that can be on them.
    pub capacity: usize,
    /// Drives whose node says no rack, or no site.
    pub unnamed: usize,
    /// The widest geometry with this m that would keep it.
    pub fits: Option<Geometry>,
}

fn said(unnamed: usize, level: Level) -> String {
    match unnamed {
        0 => String::new(),
        drives => format!(" ({drives} drives are on nodes that say no {level}, which count as one)"),
    }
}

fn better(fits: Option<Geometry>) -> String {
    fits.map_or_else(String::new, |geometry| format!("; geometry {geometry} would do"))
}

/// Checks that full stripes can keep the rule once every one of these drives is up.
///
/// # Errors
/// They can't.
pub fn check_rule(rows: &[DriveRow], level: Level, geometry: Geometry) -> Result<(), RuleUnmet> {
    // Where they are is what counts here, and not how they are.
    let mut topology = Topology::new(rows, &[]);
    topology.drives.iter_mut().for_each(|drive| drive.usable = true);
    let (k, m) = (usize::from(geometry.k()), usize::from(geometry.m()));
    let capacity = topology.capacity(level, m);
    if level == Level::Drive || capacity >= k + m {
        return Ok(());
    }
    let groups: BTreeSet<Option<u32>> = topology.drives.iter().map(|drive: &Drive| drive.group(level)).collect();
    let unnamed = |row: &&DriveRow| match level {
        Level::Rack => row.rack.is_empty(),
        Level::Site => row.site.is_empty(),
        Level::Drive | Level::Node => false,
    };
    let there = rows.iter().filter(|row| row.state != DriveState::Removed as i32);
    let data = capacity.checked_sub(m).and_then(|data| u8::try_from(data).ok());
    Err(RuleUnmet {
        level,
        geometry,
        parity: m,
        width: k + m,
        drives: topology.drives.len(),
        groups: groups.len(),
        capacity,
        unnamed: there.filter(unnamed).count(),
        fits: data.and_then(|data| Geometry::new(data, geometry.m()).ok()).filter(|_| m > 0),
    })
}

/// [`check_rule`] without the drives that are being emptied: when they are empty the others have to keep the rule.
///
/// # Errors
/// They can't.
pub fn check_new_rule(rows: &[DriveRow], level: Level, geometry: Geometry) -> Result<(), RuleUnmet> {
    let stay: Vec<DriveRow> = rows.iter().filter(|row| row.state != DriveState::Draining as i32).cloned().collect();
    check_rule(&stay, level, geometry)
}

/// Kinds of stripes, by where their shards may go, that are counted by themselves; what is beyond counts as going anywhere.
const KINDS: usize = 4096;

/// Shards that leave their drives, by where the rule lets each of them go. What the other shards of its stripe leave open decides
/// that, and not the share that a new stripe would have there: with two shards in each of three racks a shard that leaves one rack has
/// to stay in it, however much room the others have. Counted otherwise, emptying a drive breaks the rule, or is refused for nothing.
#[derive(Debug)]
pub(crate) struct Leaving {
    left: Topology,
    most: usize,
    /// Usable drives of each node, rack or site.
    usable: BTreeMap<u32, usize>,
    /// Bytes, by where they may go.
    kinds: BTreeMap<Vec<u32>, u64>,
}

impl Leaving {
    /// For the drives that are left, with at most `most` shards of a stripe on each of what their rule speaks of.
    pub fn new(left: Topology, most: usize) -> Leaving {
        let mut usable = BTreeMap::new();
        for group in left.usable().filter_map(|drive| drive.group(left.survive)) {
            *usable.entry(group).or_default() += 1;
        }
        Leaving { left, most, usable, kinds: BTreeMap::new() }
    }

    /// A stripe with shards of these lengths, in bytes, that leave, and others that stay.
    pub fn add(&mut self, stay: &[DriveId], leave: &[u64]) {
        let mut held: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
        for id in stay {
            let at = self.left.drives.binary_search_by_key(id, |drive| drive.id);
            let Some(drive) = at.ok().map(|at| &self.left.drives[at]) else { continue };
            let Some(group) = drive.group(self.left.survive) else { continue };
            let (shards, taken) = held.entry(group).or_default();
            (*shards, *taken) = (*shards + 1, *taken + usize::from(drive.usable));
        }
        let open = self.usable.iter().filter_map(|(group, drives)| {
            let (shards, taken) = held.get(group).copied().unwrap_or_default();
            let open = self.most.saturating_sub(shards).min(drives.saturating_sub(taken));
            (open > 0).then_some((*group, open))
        });
        let open: Vec<(u32, usize)> = open.collect();
        let places: usize = open.iter().map(|(_, open)| open).sum();
        if places == leave.len() {
            let each = open.iter().flat_map(|(group, open)| std::iter::repeat_n(*group, *open));
            each.zip(leave).for_each(|(group, len)| self.want(vec![group], *len));
            return;
        }
        // A stripe that the rule has no place for goes anywhere, as repair does it.
        let may = match places < leave.len() {
            true => self.usable.keys().copied().collect(),
            false => open.into_iter().map(|(group, _)| group).collect::<Vec<u32>>(),
        };
        leave.iter().for_each(|len| self.want(may.clone(), *len));
    }

    fn want(&mut self, may: Vec<u32>, bytes: u64) {
        let known = self.kinds.len() < KINDS || self.kinds.contains_key(&may);
        let may = if known { may } else { self.usable.keys().copied().collect() };
        let kind = self.kinds.entry(may).or_default();
        *kind = kind.saturating_add(bytes);
    }

    /// How many of the bytes find room: those with the least choice first, each where most is left.
    pub fn room(&self) -> u64 {
        let mut rooms: BTreeMap<u32, u64> = BTreeMap::new();
        for drive in self.left.usable() {
            let Some(group) = drive.group(self.left.survive) else { continue };
            let room = rooms.entry(group).or_default();
            *room = room.saturating_add(drive.free.saturating_sub(MIN_FREE));
        }
        let mut kinds: Vec<(&Vec<u32>, u64)> = self.kinds.iter().map(|(may, bytes)| (may, *bytes)).collect();
        kinds.sort_by_key(|(may, _)| may.len());
        let mut placed = 0u64;
        for (may, bytes) in kinds {
            // In parts, so that all that it may go to is used evenly.
            let (part, mut left) = (bytes.div_ceil(64), bytes);
            while left > 0 {
                let Some(group) = may.iter().max_by_key(|group| rooms.get(group).copied().unwrap_or(0)) else { break };
                let Some(room) = rooms.get_mut(group).filter(|room| **room > 0) else { break };
                let taken = part.min(left).min(*room);
                (*room, left, placed) = (*room - taken, left - taken, placed.saturating_add(taken));
            }
        }
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const GIB: u64 = 1 << 30;

    /// Racks of three drives each with so much room; the last drive of each number is 3 * rack + 2.
    fn left(rooms: &[u64]) -> Leaving {
        let drive = |n: u8| Drive {
            rack: u32::from(n / 3),
            free: rooms[usize::from(n / 3)] / 3 + MIN_FREE,
            usable: true,
            ..Drive::new(DriveId([n; 16]))
        };
        let drives = (0..3 * rooms.len() as u8).map(drive).collect();
        Leaving::new(Topology { drives, survive: Level::Rack }, 2)
    }

    fn room(rooms: &[u64], stay: &[u8], leave: &[u64]) -> u64 {
        let mut leaving = left(rooms);
        leaving.add(&stay.iter().map(|n| DriveId([*n; 16])).collect::<Vec<_>>(), leave);
        leaving.room()
    }

    /// 4+2 over three racks: what leaves the first can only stay there, and was counted as if each took a third.
    #[test]
    fn a_shard_of_a_rack_stays_in_it_where_the_others_have_what_may_be_lost() {
        let others = [0, 3, 4, 6, 7];
        assert_eq!(room(&[300 * GIB, 3, 3], &others, &[100 * GIB]), 100 * GIB, "nothing goes to the full racks");
        assert_eq!(room(&[33 * GIB, 900 * GIB, 900 * GIB], &others, &[100 * GIB]), 33 * GIB, "nor to the empty ones");
    }

    #[test]
    fn a_shard_goes_where_its_stripe_leaves_a_place() {
        // The fourth rack is emptied: each of its shards fits in one other rack.
        assert_eq!(room(&[9 * GIB, 0, 0], &[0, 3, 4, 6, 7], &[GIB]), GIB);
        assert_eq!(room(&[9 * GIB, 0, 0], &[0, 1, 3, 6, 7], &[GIB]), 0);
        // Two of its places are open: both racks are used.
        assert_eq!(room(&[3 * GIB, 3 * GIB, 0], &[0, 3, 6, 7], &[2 * GIB, 2 * GIB]), 4 * GIB);
        assert_eq!(room(&[3 * GIB, 3 * GIB, 0], &[0, 3, 6], &[5 * GIB]), 5 * GIB, "shared out");
        // One that has more in a rack than may be lost goes anywhere.
        assert_eq!(room(&[0, 9 * GIB, 0], &[0, 1, 3, 4, 6, 7], &[GIB]), GIB);
    }

    #[test]
    fn a_rule_is_not_set_on_the_strength_of_drives_that_are_being_emptied() {
        let geometry = Geometry::new(4, 2).unwrap();
        let mut rows: Vec<DriveRow> =
            (0..12).map(|n| row(n, u32::from(n), ["a", "b", "c"][usize::from(n) / 4])).collect();
        assert_eq!(check_new_rule(&rows, Level::Rack, geometry), Ok(()));
        rows.iter_mut().filter(|row| row.rack == "c").for_each(|row| row.state = DriveState::Draining as i32);
        assert_eq!(check_rule(&rows, Level::Rack, geometry), Ok(()), "what is in force stays");
        let error = check_new_rule(&rows, Level::Rack, geometry).unwrap_err();
        assert_eq!((error.drives, error.groups, error.capacity), (8, 2, 4));
    }

    fn row(n: u8, node: u32, rack: &str) -> DriveRow {
        let id = Bytes::from(vec![n; 16]);
        DriveRow { id, state: DriveState::Active as i32, node, rack: rack.to_owned(), ..DriveRow::default() }
    }

    #[test]
    fn a_rule_that_the_drives_cannot_keep_is_refused_by_name() {
        let geometry = Geometry::new(4, 2).unwrap();
        let check = |rows: &[DriveRow], level| check_rule(rows, level, geometry);
        let three: Vec<DriveRow> =
            (0..12).map(|n| row(n, u32::from(n) / 2, ["a", "b", "c"][usize::from(n) / 4])).collect();
        assert_eq!(check(&three, Level::Node), Ok(()));
        assert_eq!(check(&three, Level::Rack), Ok(()), "two shards in each of three racks");
        let error = check(&three, Level::Site).unwrap_err();
        assert_eq!((error.groups, error.capacity, error.unnamed, error.fits), (1, 2, 12, None));
        assert!(error.to_string().contains("say no site, which count as one"), "{error}");
        let two: Vec<DriveRow> = (0..12).map(|n| row(n, u32::from(n) / 2, ["a", "b"][usize::from(n) / 6])).collect();
        let error = check(&two, Level::Rack).unwrap_err();
        assert_eq!(error.fits.map(|fits| fits.to_string()).as_deref(), Some("2+2"));
        assert!(error.to_string().ends_with("which take 4; geometry 2+2 would do"), "{error}");
        assert_eq!(check(&two, Level::Drive), Ok(()));
        assert!(
            check_rule(&three, Level::Node, Geometry::new(1, 0).unwrap()).is_err(),
            "without parity nothing survives"
        );
        let removed: Vec<DriveRow> =
            three.iter().map(|row| DriveRow { state: if row.rack == "c" { 3 } else { 1 }, ..row.clone() }).collect();
        assert_eq!(check(&removed, Level::Rack).unwrap_err().drives, 8, "a removed drive is none");
    }
}
