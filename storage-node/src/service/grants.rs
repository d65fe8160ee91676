//! Which gateway may write in which epochs, as the metadata process that leads has told the node (R1).
//!
//! Every later start takes a higher epoch than any that a drive has seen, and a stripe of an epoch that was never granted holds all
//! deletion (R10). So a gateway that goes astray, or whose certificate was stolen, must not be able to number stripes as it likes.
//!
//! Invariants:
//! * What was told counts as long as the one that told it leads, and in that epoch. Until it has told anything, which it does when it
//!   begins to serve, and for one of a release that does not tell, all that holds is a bound that no honest gateway reaches.
//! * The leader tells all nodes before it answers the gateway, and goes on until each has heard. One that could not be told meanwhile
//!   refuses as if it could not be reached: the shard goes elsewhere.
//! * What is older never takes the place of what is newer: questions overtake one another, and an epoch that was just answered to a
//!   gateway would be refused.
//! * Where more was granted than is told, the node is told just that, and the list that it has counts no more. Were it kept, no epoch
//!   granted since would be in it, and within two hours no gateway could store anything.

use super::gate::Gates;
use super::identity::{Identity, Role};
use super::message::GrantList;
use crate::host::Grants;
use codec::id::Epoch;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many epochs may have been granted since the leader took its own, where it has not told which. It grants one an hour to each
/// gateway: a hundred of them need a few years for as many.
const GRANTED: u32 = 1 << 22;
/// Epochs that are told, and taken in, at most: those of more than three thousand gateways. With more, only that is told.
pub(crate) const MOST: usize = 50_000;

/// Why a stripe's epoch is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotGranted {
    /// It can't have been granted to anybody.
    ToAnybody,
    /// It was not granted to this one, as far as the node was told.
    ToThis,
}

/// What a node was told.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// The epoch in which the one leads that told it; 0: nobody.
    leader: Epoch,
    version: u64,
    /// The last epoch that had been granted by then.
    as_of: Epoch,
    /// `None`: more than is told.
    holders: Option<BTreeMap<Epoch, String>>,
}

impl Heard {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gates {
    /// Takes in what a process says that it has granted, if that one leads.
    pub fn hear(&self, from: &Identity, list: GrantList) {
        if let Some(holders) = list.holders() {
            self.take_in(from, &list, Some(holders));
        }
    }

    /// Takes in that it has granted more than it tells.
    pub fn hear_of_too_many(&self, from: &Identity, list: &GrantList) {
        self.take_in(from, list, None);
    }

    fn take_in(&self, from: &Identity, list: &GrantList, holders: Option<BTreeMap<Epoch, String>>) {
        let (leader, as_of) = (Epoch(list.leader), Epoch(list.as_of));
        if from.role != Role::Metadata || leader == Epoch(0) || !self.is_led_by(leader, from) {
            return;
        }
        let mut told = self.grants.told();
        if told.leader != leader || told.as_of <= as_of {
            *told = Told { leader, version: list.version, as_of, holders };
        }
    }

    /// The version of what was told by the process that leads; 0: nothing was.
    pub fn heard(&self) -> u64 {
        let leader = self.told();
        let told = self.grants.told();
        if Some(told.leader) == leader { told.version } else { 0 }
    }

    /// Whether a process may write a stripe of this epoch.
    pub fn may_write(&self, who: &Identity, epoch: Epoch) -> Result<(), NotGranted> {
        if who.role == Role::Metadata {
            return Ok(());
        }
        let leader = self.told();
        let most = leader.map(|leader| leader.count().saturating_add(GRANTED));
        if most.is_some_and(|most| epoch.count() > most) {
            return Err(NotGranted::ToAnybody);
        }
        let told = self.grants.told();
        // Storage nodes write again what others have written.
        if who.role != Role::Gateway || Some(told.leader) != leader {
            return Ok(());
        }
        let Some(holders) = &told.holders else { return Ok(()) };
        let own = holders.get(&epoch).is_some_and(|holder| holder == who.name.as_str());
        if own { Ok(()) } else { Err(NotGranted::ToThis) }
    }
}

impl GrantList {
    /// What is told of more than [`MOST`].
    pub fn of_too_many(leader: Epoch, grants: &Grants) -> GrantList {
        GrantList { leader: leader.0, version: grants.version(), as_of: grants.as_of().0, ..GrantList::default() }
    }

    /// What is told by who leads in `leader`.
    pub fn new(leader: Epoch, grants: &Grants) -> GrantList {
        let mut names: BTreeMap<&str, u32> = BTreeMap::new();
        let (mut list, mut epochs) = (Vec::new(), Vec::new());
        for (epoch, holder) in grants.epochs() {
            let next = u32::try_from(names.len()).unwrap_or(u32::MAX);
            let number = *names.entry(holder).or_insert_with(|| {
                list.push(holder.clone());
                next
            });
            epochs.push((epoch.0, number));
        }
        let (epochs, of) = epochs.into_iter().unzip();
        GrantList { epochs, of, names: list, ..GrantList::of_too_many(leader, grants) }
    }

    /// `None`: it can't be understood.
    fn holders(&self) -> Option<BTreeMap<Epoch, String>> {
        if self.epochs.len() != self.of.len() || self.epochs.len() > MOST {
            return None;
        }
        let name = |number: &u32| self.names.get(usize::try_from(*number).ok()?).cloned();
        self.epochs.iter().zip(&self.of).map(|(epoch, of)| Some((Epoch(*epoch), name(of)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_told_is_what_is_heard() {
        let epochs = [(Epoch(7), "g1"), (Epoch(9), "g2"), (Epoch(12), "g1")].map(|(epoch, of)| (epoch, of.to_owned()));
        let grants = Grants::new(epochs.to_vec(), Epoch(12));
        let list = GrantList::new(Epoch(5), &grants);
        assert_eq!((list.leader, list.version, list.names.len()), (5, grants.version(), 2));
        assert_eq!(list.holders(), Some(epochs.into_iter().collect()));
        assert_eq!(GrantList { of: vec![0, 1, 2], ..list.clone() }.holders(), None, "no such name");
        assert_eq!(GrantList { of: vec![0], ..list }.holders(), None);
        let fewer = Grants::new(grants.epochs()[1..].to_vec(), Epoch(12));
        assert!(fewer.version() != grants.version() && Grants::new(Vec::new(), Epoch(12)).version() != 0);
    }

    #[test]
    fn a_gateway_that_asks_again_and_again_closes_its_own_epochs_and_no_others() {
        let astray = (10..100).map(|epoch| (Epoch(epoch), "g1".to_owned()));
        let honest = [1, 200].map(|epoch| (Epoch(epoch), "g2".to_owned()));
        let grants = Grants::new(honest.into_iter().chain(astray).collect(), Epoch(200));
        let of = |name: &str| grants.epochs().iter().filter(|(_, of)| of == name).map(|(e, _)| e.0).collect::<Vec<_>>();
        assert_eq!(of("g2"), [1, 200]);
        assert_eq!(of("g1"), (36..100).collect::<Vec<_>>());
    }
}
