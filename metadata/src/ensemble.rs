//! Choosing the drives that keep the journal. Pure.

use crate::topology::Numbers;
use codec::id::DriveId;
use storage_node::client::{DriveHealth, DriveStatus};

/// A drive that takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its identity.
    pub id: DriveId,
    /// Its node, which fails as a whole.
    pub node: u32,
    /// The rack of its node.
    pub rack: u32,
    /// The site of that rack.
    pub site: u32,
    /// Bytes free.
    pub free: u64,
    /// Tells which drives share a file system, and so may fail together.
    pub filesystem: u64,
}

/// The drives that take writes.
pub fn candidates<'a>(drives: impl Iterator<Item = &'a DriveStatus> + Clone) -> Vec<Candidate> {
    let numbers = Numbers::new(drives.clone().map(|drive| (drive.labels.site(), drive.labels.rack())));
    let candidate = |drive: &DriveStatus| {
        let (site, rack) = (drive.labels.site(), drive.labels.rack());
        Candidate {
            id: drive.id,
            node: drive.node,
            rack: numbers.rack(site, rack),
            site: numbers.site(site),
            free: drive.free,
            filesystem: drive.filesystem_id,
        }
    };
    drives.filter(|drive| drive.health == DriveHealth::Healthy).map(candidate).collect()
}

/// The ensemble of `count` drives that follows `current`: members that are still candidates stay, in order, since they hold
/// the tail already; the others are replaced by drives at the sites, then in the racks, then on the nodes that have fewest of them, then on file
/// systems of their own, then by those with most space. `None` when there are too few.
pub fn choose_members(current: &[DriveId], candidates: &[Candidate], count: usize) -> Option<Vec<DriveId>> {
    let find = |id: &DriveId| candidates.iter().find(|c| c.id == *id);
    let mut chosen: Vec<Candidate> = current.iter().filter_map(find).copied().take(count).collect();
    while chosen.len() < count {
        let rest = candidates.iter().filter(|c| chosen.iter().all(|other| other.id != c.id));
        let with = |same: &dyn Fn(&Candidate) -> bool| chosen.iter().filter(|other| same(other)).count();
        let near = |c: &Candidate| {
            let (site, rack, node) = (c.site, c.rack, c.node);
            (with(&|other| other.site == site), with(&|other| other.rack == rack), with(&|other| other.node == node))
        };
        let shared = |c: &Candidate| chosen.iter().any(|other| other.filesystem == c.filesystem);
        let best = rest.min_by_key(|c| (near(c), shared(c), std::cmp::Reverse(c.free), c.id)).copied()?;
        chosen.push(best);
    }
    Some(chosen.into_iter().map(|c| c.id).collect())
}

/// A member whose place another candidate would take with fewer members at one site, in one rack or on one node. `None` when
/// none would, or a member is no candidate: then it is replaced for that.
pub fn crowded(current: &[DriveId], candidates: &[Candidate]) -> Option<DriveId> {
    let find = |id: &DriveId| candidates.iter().find(|c| c.id == *id).copied();
    let shared = |members: &[DriveId]| {
        let members: Vec<Candidate> = members.iter().map(find).collect::<Option<_>>()?;
        let pairs = |same: &dyn Fn(&Candidate, &Candidate) -> bool| {
            let after = |at: usize, a: &Candidate| members[at + 1..].iter().filter(|b| same(a, b)).count();
            members.iter().enumerate().map(|(at, a)| after(at, a)).sum::<usize>()
        };
        Some((pairs(&|a, b| a.site == b.site), pairs(&|a, b| a.rack == b.rack), pairs(&|a, b| a.node == b.node)))
    };
    let now = shared(current)?;
    let without = |member: &DriveId| {
        let others: Vec<DriveId> = current.iter().copied().filter(|other| other != member).collect();
        let rest: Vec<Candidate> = candidates.iter().filter(|c| c.id != *member).copied().collect();
        Some((shared(&choose_members(&others, &rest, current.len())?)?, *member))
    };
    current.iter().filter_map(without).min().filter(|(then, _)| *then < now).map(|(_, member)| member)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: u8, free: u64, filesystem: u64) -> Candidate {
        Candidate { id: DriveId([id; 16]), node: 0, rack: 0, site: 0, free, filesystem }
    }

    fn ids(ids: &[u8]) -> Vec<DriveId> {
        ids.iter().map(|id| DriveId([*id; 16])).collect()
    }

    #[test]
    fn members_stay_and_failed_ones_are_replaced() {
        let candidates = [candidate(1, 5, 1), candidate(3, 9, 3), candidate(4, 10, 4), candidate(5, 20, 1)];
        assert_eq!(choose_members(&ids(&[2, 1]), &candidates, 2), Some(ids(&[1, 4])));
        assert_eq!(choose_members(&ids(&[3, 1]), &candidates, 2), Some(ids(&[3, 1])));
        assert_eq!(choose_members(&ids(&[]), &candidates, 4), Some(ids(&[5, 4, 3, 1])));
        assert_eq!(choose_members(&ids(&[1]), &candidates, 5), None);
    }

    #[test]
    fn members_are_on_nodes_of_their_own_as_far_as_there_are_any() {
        let of = |id: u8, node, free| Candidate { node, ..candidate(id, free, id.into()) };
        let candidates = [of(1, 1, 90), of(2, 1, 80), of(3, 2, 10), of(4, 3, 5), of(5, 2, 7)];
        assert_eq!(choose_members(&ids(&[]), &candidates, 3), Some(ids(&[1, 3, 4])));
        assert_eq!(choose_members(&ids(&[]), &candidates, 5), Some(ids(&[1, 3, 4, 2, 5])));
        assert_eq!(choose_members(&ids(&[2]), &candidates, 2), Some(ids(&[2, 3])));
    }

    #[test]
    fn members_are_in_racks_and_at_sites_of_their_own_first() {
        let of = |id: u8, node, rack, site, free| Candidate { node, rack, site, ..candidate(id, free, id.into()) };
        let candidates =
            [of(1, 1, 1, 1, 90), of(2, 2, 1, 1, 80), of(3, 3, 2, 1, 70), of(4, 4, 3, 2, 5), of(5, 5, 3, 2, 4)];
        assert_eq!(choose_members(&ids(&[]), &candidates, 2), Some(ids(&[1, 4])));
        assert_eq!(choose_members(&ids(&[]), &candidates, 4), Some(ids(&[1, 4, 3, 5])));
        assert_eq!(crowded(&ids(&[1, 4, 3]), &candidates), None, "two at a site, and there are only two sites");
        assert_eq!(
            crowded(&ids(&[1, 2, 4]), &candidates),
            Some(DriveId([1; 16])),
            "one rack has two, and needs but one"
        );
        assert_eq!(crowded(&ids(&[3, 2, 1]), &candidates), Some(DriveId([1; 16])), "site 2 has none");
        assert_eq!(crowded(&ids(&[1, 9]), &candidates), None, "one is gone: that comes first");
    }
}
