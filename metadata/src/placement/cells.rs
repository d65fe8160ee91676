//! Placement cells: groups of 40 to 100 drives that keep their stripes to themselves.
//!
//! With stripes over any of a thousand drives some stripe lies on nearly every combination of m+1 of them, and a power cut that
//! kills ten drives is near certain to take one. In cells only combinations inside a cell count (Cidon et al., "Copysets",
//! 2013). Pure; a drive's cell is a field of its row, decided when drives are registered and removed, and never by where a
//! drive is now: a drive that is carried elsewhere stays in its cell, and a stripe that lies there stays where it is.
//!
//! Invariants, of the drives that are not removed, after [`settle`]
//! * With [`LEAST`] drives or more, every cell has between [`LEAST`] and [`MOST`]; with fewer, there is one cell.
//! * A drive that is added changes the cell of no other one, unless that cell has outgrown [`MOST`]: then it is halved.
//! * Cells are halved evenly at every level: of what shares a node, a rack or a site, either half gets as many, give or take one
//!   for each place where they adjoin.

use crate::topology::{Drive, Topology};
use bytes::Bytes;
use codec::effect::{DriveRow, DriveState};
use codec::id::DriveId;
use std::collections::BTreeMap;

/// A cell with fewer drives is joined to another one.
pub const LEAST: usize = 40;
/// A cell with more drives is halved.
pub const MOST: usize = 100;

/// The cell for a drive that is registered: the one that has fewest drives of its node, then of its rack, of its site, of all.
pub fn cell_for(rows: &[DriveRow], new: &DriveRow) -> u32 {
    let mut cells: BTreeMap<u32, [usize; 4]> = BTreeMap::new();
    for row in rows.iter().filter(|row| counts(row)) {
        let site = row.site == new.site;
        let rack = site && row.rack == new.rack;
        let held = cells.entry(row.cell).or_default();
        for (held, same) in held.iter_mut().zip([row.node == new.node, rack, site, true]) {
            *held += usize::from(same);
        }
    }
    cells.into_iter().min_by_key(|(cell, held)| (*held, *cell)).map_or(0, |(cell, _)| cell)
}

/// What has to change for all cells to be of a proper size: drives and their new cells.
pub fn settle(rows: &[DriveRow]) -> BTreeMap<DriveId, u32> {
    let mut next = rows.iter().map(|row| row.cell).max().map_or(0, |last| last.saturating_add(1));
    let mut cells: BTreeMap<u32, Vec<&DriveRow>> = BTreeMap::new();
    for row in rows.iter().filter(|row| counts(row)) {
        cells.entry(row.cell).or_default().push(row);
    }
    loop {
        let smallest =
            |cells: &BTreeMap<u32, Vec<&DriveRow>>| cells.iter().map(|(cell, drives)| (drives.len(), *cell)).min();
        if let Some((_, cell)) = smallest(&cells).filter(|(drives, _)| *drives < LEAST && cells.len() > 1) {
            let joining = cells.remove(&cell).unwrap_or_default();
            if let Some((_, other)) = smallest(&cells) {
                cells.entry(other).or_default().extend(joining);
            }
            continue;
        }
        let Some(cell) = cells.iter().find(|(_, drives)| drives.len() > MOST).map(|(cell, _)| *cell) else { break };
        let (stay, leave) = halves(cells.remove(&cell).unwrap_or_default());
        cells.insert(cell, stay);
        cells.insert(next, leave);
        next = next.saturating_add(1);
    }
    let now = cells.into_iter().flat_map(|(cell, drives)| drives.into_iter().map(move |row| (row, cell)));
    now.filter(|(row, cell)| row.cell != *cell)
        .filter_map(|(row, cell)| Some((DriveId::from_slice(&row.id)?, cell)))
        .collect()
}

/// The drives of a cluster on paper, in the cells that they would be in had all been registered at once.
pub(crate) fn shared_out(mut topology: Topology) -> Topology {
    let row = |drive: &Drive| DriveRow {
        id: Bytes::copy_from_slice(drive.id.as_bytes()),
        node: drive.node,
        rack: drive.rack.to_string(),
        site: drive.site.to_string(),
        ..DriveRow::default()
    };
    let cells = settle(&topology.drives.iter().map(row).collect::<Vec<DriveRow>>());
    for drive in &mut topology.drives {
        drive.cell = cells.get(&drive.id).copied().unwrap_or(0);
    }
    topology
}

fn counts(row: &DriveRow) -> bool {
    row.state != DriveState::Removed as i32
}

/// Every other drive, in the order of what they share.
fn halves(mut drives: Vec<&DriveRow>) -> (Vec<&DriveRow>, Vec<&DriveRow>) {
    drives.sort_by_key(|row| (&row.site, &row.rack, row.node, &row.id));
    let (stay, leave): (Vec<_>, Vec<_>) = drives.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    let rows = |half: Vec<(usize, _)>| half.into_iter().map(|(_, row)| row).collect();
    (rows(stay), rows(leave))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A drive whose id says nothing of where it is.
    fn row(n: u32, node: u32, racks: u32) -> DriveRow {
        let id = blake3::hash(&n.to_le_bytes());
        let rack = format!("r{}", node % racks);
        let id = Bytes::copy_from_slice(&id.as_bytes()[..16]);
        DriveRow { id, state: DriveState::Active as i32, node, rack, ..DriveRow::default() }
    }

    fn apply(rows: &mut [DriveRow]) -> usize {
        let moved = settle(rows);
        for row in rows.iter_mut() {
            if let Some(cell) = DriveId::from_slice(&row.id).and_then(|id| moved.get(&id)) {
                row.cell = *cell;
            }
        }
        moved.len()
    }

    fn add(rows: &mut Vec<DriveRow>, mut new: DriveRow) -> usize {
        new.cell = cell_for(rows, &new);
        rows.push(new);
        apply(rows)
    }

    fn sizes(rows: &[DriveRow]) -> BTreeMap<u32, usize> {
        let mut sizes = BTreeMap::new();
        for row in rows.iter().filter(|row| counts(row)) {
            *sizes.entry(row.cell).or_default() += 1;
        }
        sizes
    }

    fn check(rows: &[DriveRow]) {
        let sizes = sizes(rows);
        let drives: usize = sizes.values().sum();
        match drives < LEAST {
            true => assert!(sizes.len() <= 1, "{sizes:?}"),
            false => assert!(sizes.values().all(|size| (LEAST..=MOST).contains(size)), "{sizes:?}"),
        }
        assert!(settle(rows).is_empty(), "settled is settled");
    }

    #[test]
    fn a_thousand_drives_added_node_by_node_are_in_even_cells_and_hardly_ever_change_them() {
        let mut rows = Vec::new();
        let mut moved = 0;
        for n in 0..1000 {
            let changed = add(&mut rows, row(n, n / 20, 10));
            assert!(changed == 0 || changed >= LEAST, "{changed} moved: only a cell that is halved");
            moved += changed;
            check(&rows);
        }
        assert!((10..=25).contains(&sizes(&rows).len()), "{:?}", sizes(&rows));
        assert!(moved <= 1000, "{moved}: a drive changes its cell about once for each doubling of the cluster");
        for cell in sizes(&rows).into_keys() {
            let mut nodes: BTreeMap<u32, usize> = BTreeMap::new();
            let mut racks: BTreeMap<&str, usize> = BTreeMap::new();
            for row in rows.iter().filter(|row| row.cell == cell) {
                *nodes.entry(row.node).or_default() += 1;
                *racks.entry(&row.rack).or_default() += 1;
            }
            assert!(nodes.values().all(|drives| *drives <= 4), "{nodes:?}");
            assert!(nodes.len() >= 30, "{} of 50 nodes", nodes.len());
            let (least, most) = (racks.values().min().unwrap(), racks.values().max().unwrap());
            assert!(racks.len() == 10 && most - least <= 4, "{racks:?}");
        }
    }

    #[test]
    fn drives_that_were_registered_before_there_were_cells_are_shared_out_at_once() {
        let mut rows: Vec<DriveRow> = (0..1000).map(|n| row(n, n / 20, 10)).collect();
        apply(&mut rows);
        check(&rows);
        assert_eq!(sizes(&rows).len(), 16);
    }

    proptest! {
        #[test]
        fn cells_keep_their_size_whatever_is_added_and_removed(
            steps in proptest::collection::vec((0u32..40, 1usize..30, any::<bool>()), 1..40),
        ) {
            let (mut rows, mut next) = (Vec::<DriveRow>::new(), 0);
            for (node, count, adds) in steps {
                for _ in 0..count {
                    if adds {
                        next += 1;
                        add(&mut rows, row(next, node, 4));
                    } else if let Some(gone) = rows.iter_mut().find(|row| counts(row) && row.node >= node) {
                        gone.state = DriveState::Removed as i32;
                        apply(&mut rows);
                    }
                    check(&rows);
                }
            }
        }
    }
}
