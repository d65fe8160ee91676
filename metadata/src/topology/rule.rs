//! The rule that an operator sets: new stripes survive the loss of a node, a rack or a site.

use super::{Drive, Level, Topology};
use codec::effect::{DriveRow, DriveState};
use codec::erasure::Geometry;
use std::collections::BTreeSet;

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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

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
