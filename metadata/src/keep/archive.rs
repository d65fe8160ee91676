//! The archive class: what only archived versions need lies in wide stripes of well compressed frames.
//!
//! Invariants
//! * A stripe of the archive class says so by its geometry, which has more data shards than the cluster's ([`geometry`]), whether it
//!   fills them or not. So nothing else has to be remembered, every reader decodes it, and none is rewritten for it twice.
//! * It has as many parity shards as any other, and is never so wide that it would not survive what a stripe of the cluster's geometry
//!   survives on the same drives, nor that a cell of five drives or more has no spare one left for repair ([`widest`]).
//! * Frames move as in any restripe ([`super::restripe`]): new stripe, read back, places changed each only if it is still the same, the
//!   old stripe dropped by a later round. At each moment either stripe is whole.
//! * A version that is not archived may come to name a chunk at any moment, by deduplication. That is no harm: it reads it from where
//!   it is. So what [`cold`] finds need not hold any longer than it takes to look.
//! * It works at the pace of reclaim, takes none of the reserve, and stops while reclaim is held (R10) or repair has work.

use super::mark::Usage;
use crate::topology::{Drive, Level, Topology, capacity};
use codec::erasure::{Geometry, MAX_SHARDS};
use codec::id::StripeId;
use std::collections::BTreeMap;

pub(super) mod cold;

/// The zstd level of frames that get none by the policy.
pub(super) const LEVEL: i32 = 19;
/// Data shards that a stripe of the archive class has at most: repair reads as many for each shard that is lost, a rewrite holds as many
/// in memory, and beyond that there is little to gain (at m = 4, 1.2 bytes on drives for each that is stored; 1.14 with 28).
const MOST_DATA: u8 = 20;
/// From so many drives on, one is left over for repair, as in the geometry that a first start chooses.
const SPARE_FROM: usize = 5;

/// The geometry of the archive class; `None` where the cluster's is as wide as one can be: nothing would tell them apart.
pub(super) fn geometry(cluster: Geometry) -> Option<Geometry> {
    let k = cluster.k().saturating_add(1).max(MOST_DATA).min(MAX_SHARDS.saturating_sub(cluster.m()));
    Geometry::new(k, cluster.m()).ok().filter(|archive| archive.k() > cluster.k())
}

/// How many data shards a stripe of the archive class can have on these drives: as many at least as one of the cluster's geometry.
pub(super) fn widest(topology: &Topology, cluster: Geometry, archive: Geometry) -> u8 {
    let Some(now) = topology.width(cluster) else { return 0 };
    let count = usize::from(now) + usize::from(cluster.m());
    let mut cells: BTreeMap<u32, Vec<&Drive>> = BTreeMap::new();
    for drive in topology.usable() {
        cells.entry(drive.cell).or_default().push(drive);
    }
    // What all of them can hold: otherwise a few would take the whole archive.
    let most = cells.values().filter_map(|drives| most_of(drives, count, usize::from(cluster.m()))).min();
    let most = most.and_then(|most| u8::try_from(most).ok()).unwrap_or(now);
    most.min(archive.k()).max(now)
}

/// How many data shards the drives of a cell can hold; `None` if not those of a stripe of `count` shards.
fn most_of(drives: &[&Drive], count: usize, m: usize) -> Option<usize> {
    let aside = m + usize::from(drives.len() >= SPARE_FROM);
    let mut most = drives.len().checked_sub(aside).filter(|most| most + m >= count)?;
    for level in Level::SHARED {
        let fits = capacity(drives.iter().copied(), level, m);
        if fits >= count {
            most = most.min(fits.saturating_sub(aside));
        }
    }
    Some(most)
}

/// Stripes of the archive class that are worth rewriting with those that are on their way into it: the half dead ones, and the
/// narrow ones that earlier rounds ended with.
pub(super) fn along(
    usage: &BTreeMap<StripeId, Usage>,
    archive: Geometry,
    width: u8,
    live_percent: u8,
) -> Vec<StripeId> {
    let worth = |usage: &Usage| {
        let is_dead = u128::from(usage.live) * 100 <= u128::from(usage.stored) * u128::from(live_percent);
        usage.k == archive.k() && usage.frames > 0 && (is_dead || usage.width.saturating_mul(2) <= width)
    };
    usage.iter().filter(|(_, usage)| worth(usage)).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::id::{DriveId, Epoch};
    use proptest::prelude::*;

    fn of(k: u8, m: u8) -> Geometry {
        Geometry::new(k, m).unwrap()
    }

    fn drives(count: u8, each: u8) -> Topology {
        let drive = |n: u8| Drive {
            node: u32::from(n / each),
            rack: u32::from(n / each),
            free: 1 << 40,
            usable: true,
            ..Drive::new(DriveId([n; 16]))
        };
        Topology { drives: (0..count).map(drive).collect(), ..Topology::default() }
    }

    #[test]
    fn its_geometry_tells_a_stripe_of_the_archive_class() {
        for (cluster, archive) in [((1, 0), (20, 0)), ((10, 4), (20, 4)), ((20, 4), (21, 4)), ((27, 4), (28, 4))] {
            assert_eq!(geometry(of(cluster.0, cluster.1)), Some(of(archive.0, archive.1)));
        }
        assert_eq!(geometry(of(28, 4)), None);
    }

    #[test]
    fn stripes_are_as_wide_as_the_drives_allow_with_one_to_spare() {
        let wide = |count, each, k, m| widest(&drives(count, each), of(k, m), geometry(of(k, m)).unwrap());
        assert_eq!(wide(6, 6, 2, 1), 4, "all on one node, which no stripe survives");
        assert_eq!(wide(3, 3, 1, 2), 1);
        assert_eq!(wide(15, 15, 10, 4), 10);
        assert_eq!(wide(40, 40, 10, 4), 20);
        assert_eq!(wide(24, 4, 10, 4), 19, "six nodes of four drives: each may be lost whole");
        assert_eq!(wide(40, 10, 10, 4), 11, "four nodes hold four shards each, and one is to spare");
        assert_eq!(wide(30, 10, 10, 4), 20, "three nodes do not keep a stripe of fourteen either");
    }

    proptest! {
        #[test]
        fn what_a_stripe_of_today_survives_a_wide_one_survives(count in 1u8..60, each in 1u8..12, k in 1u8..12, m in 0u8..5) {
            let (topology, cluster) = (drives(count, each), of(k, m));
            let archive = geometry(cluster).unwrap();
            prop_assert_eq!(archive.m(), m);
            let Some(now) = topology.width(cluster) else { return Ok(()) };
            let wide = widest(&topology, cluster, archive);
            prop_assert!(wide >= now && wide <= archive.k());
            for level in Level::SHARED {
                let fits = topology.capacity(level, m.into());
                let survives = |width: u8| fits >= usize::from(width) + usize::from(m);
                prop_assert!(!survives(now) || survives(wide), "{wide} where {now} survives");
            }
        }
    }

    #[test]
    fn half_dead_and_narrow_ones_go_along() {
        let row = |k, width, live| Usage { k, width, stored: 100, live, frames: 1 };
        let rows = [row(20, 8, 100), row(20, 8, 50), row(20, 4, 100), row(10, 4, 10), row(20, 5, 100)];
        let id = |counter| StripeId { epoch: Epoch(1), counter };
        let usage = (1..).map(id).zip(rows).collect();
        assert_eq!(along(&usage, of(20, 4), 8, 50), [id(2), id(3)]);
    }
}
