//! Which nodes there are, and which of them has a drive.
//!
//! Invariants:
//! * The list changes while calls are under way: whoever was given a node keeps it until its call ends.
//! * A node whose address changes is the same node, and its drives were not away: what was known of it goes on.
//! * A drive that is served by another node than before was away in between, however often that node says that it has opened
//!   it: it counts as opened once more than ever, so that what it holds is verified before it counts.
//! * A node that comes later is told the epoch that the others were told, or nothing could be written there.

use crate::client::{DriveHealth, DriveStatus, STALLED_AFTER};
use crate::host::NodeHost;
use crate::remote::host::number_of;
use crate::remote::{RemoteConfig, RemoteError, RemoteNode};
use crate::service::identity::NodeName;
use crate::service::tls::Credentials;
use codec::id::{DriveId, Epoch};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// More nodes than one process speaks to: what an order names is not believed without end.
const MOST: usize = 4096;

/// A storage node, and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Its name, as in its certificate: whoever answers there must show it.
    pub name: NodeName,
    /// `host:port`.
    pub address: String,
}

impl NodeAddress {
    /// The node's number, as in [`DriveStatus::node`]: from its name alone.
    pub fn number(&self) -> u32 {
        number_of(&self.name)
    }
}

/// One node of the list.
pub(super) struct Member {
    pub host: Arc<dyn NodeHost>,
    /// Where it is; `None` of one that was handed over ready made, and stays.
    far: Option<(NodeAddress, Arc<RemoteNode>)>,
}

/// An epoch, and the nodes that are to be told it.
pub(super) type Told = (Epoch, Vec<Arc<dyn NodeHost>>);

/// Where a drive is.
struct Seat {
    /// `None`: on a node that is in the list no more.
    member: Option<Arc<Member>>,
    /// Added to how often its node says that it was opened; and the highest sum so far.
    opened: (u32, u32),
}

#[derive(Default)]
struct State {
    members: Vec<Arc<Member>>,
    seats: HashMap<DriveId, Seat>,
    /// The epoch that all were told to begin in.
    begun: Option<Epoch>,
    /// Drives that are none of the cluster any more.
    forgotten: HashSet<DriveId>,
}

/// The list.
pub(super) struct Members {
    /// For nodes in other processes; `None` where the list stays as it was made.
    credentials: Option<Credentials>,
    /// This process's own node, which is the first member.
    own: Option<NodeName>,
    state: Mutex<State>,
}

impl Members {
    /// Nodes that are there already. With `credentials`, those of a list may come to them; `own` is the name of the first.
    pub fn new(ready: Vec<Arc<dyn NodeHost>>, credentials: Option<Credentials>, own: Option<NodeName>) -> Members {
        let members = ready.into_iter().map(|host| Arc::new(Member { host, far: None })).collect();
        Members { credentials, own, state: Mutex::new(State { members, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, as they are now.
    pub fn all(&self) -> Vec<Arc<Member>> {
        self.state().members.clone()
    }

    /// All of them, to be told an epoch; so is who comes later.
    pub fn begun(&self, epoch: Epoch) -> Vec<Arc<Member>> {
        let mut state = self.state();
        state.begun = state.begun.max(Some(epoch));
        state.members.clone()
    }

    /// All of them; who comes later is told no epoch.
    pub fn left(&self) -> Vec<Arc<Member>> {
        let mut state = self.state();
        state.begun = None;
        state.members.clone()
    }

    /// Whether this is the epoch that all were told to begin in.
    pub fn is_begun(&self, epoch: Epoch) -> bool {
        self.state().begun == Some(epoch)
    }

    /// The node that has a drive, as far as is known.
    pub fn of(&self, drive: DriveId) -> Option<Arc<dyn NodeHost>> {
        Some(Arc::clone(&self.state().seats.get(&drive)?.member.as_ref()?.host))
    }

    /// The node of a name.
    pub fn named(&self, name: &NodeName) -> Option<Arc<dyn NodeHost>> {
        let state = self.state();
        let found = state.members.iter().find(|member| member.name() == Some(name));
        let own = || state.members.first().filter(|_| self.own.as_ref() == Some(name));
        found.or_else(own).map(|member| Arc::clone(&member.host))
    }

    /// Where the nodes of drives are reached, of those that are known.
    pub fn addresses(&self, drives: impl Iterator<Item = DriveId>) -> Vec<(DriveId, NodeAddress)> {
        let state = self.state();
        let of = |drive: DriveId| Some((drive, state.seats.get(&drive)?.member.as_ref()?.far.as_ref()?.0.clone()));
        drives.filter_map(of).collect()
    }

    /// A drive is none of the cluster any more.
    pub fn forget(&self, drive: DriveId) {
        let mut state = self.state();
        state.forgotten.insert(drive);
        state.seats.remove(&drive);
    }

    /// Exactly these nodes from now on, beside those that were there from the beginning. Those that came, for whom there is an
    /// epoch to be told.
    pub fn follow(&self, list: &[NodeAddress]) -> Result<Option<Told>, RemoteError> {
        let Some(credentials) = &self.credentials else { return Ok(None) };
        let mut state = self.state();
        let (mut members, mut new) = (Vec::new(), Vec::new());
        members.extend(state.members.iter().filter(|member| member.far.is_none()).cloned());
        for at in list.iter().filter(|at| Some(&at.name) != self.own.as_ref()) {
            let (member, is_new) = state.member(credentials, at)?;
            if is_new {
                new.push(Arc::clone(&member.host));
            }
            members.push(member);
        }
        state.replace(members);
        Ok(state.begun.map(|epoch| (epoch, new)))
    }

    /// These drives are on these nodes, whoever else there is.
    pub fn meet(&self, at: &[(DriveId, NodeAddress)]) -> Result<(), RemoteError> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let mut state = self.state();
        for (drive, at) in at {
            let member = if Some(&at.name) == self.own.as_ref() {
                state.members.first().cloned()
            } else {
                let (member, is_new) = state.member(credentials, at)?;
                if is_new && state.members.len() < MOST {
                    let mut members = state.members.clone();
                    members.retain(|other| other.name() != Some(&at.name));
                    members.push(Arc::clone(&member));
                    state.replace(members);
                }
                Some(member)
            };
            state.sit(*drive, member);
        }
        Ok(())
    }

    /// Takes in what nodes say of their drives. A drive that two of them name, because it moved, belongs to the one that can use
    /// it.
    pub fn learn(&self, answers: Vec<(Arc<Member>, Vec<DriveStatus>)>) -> Vec<DriveStatus> {
        let rank =
            |status: &DriveStatus| (matches!(status.health, DriveHealth::Failed { .. }), status.waits(STALLED_AFTER));
        let mut found: HashMap<DriveId, (Arc<Member>, DriveStatus)> = HashMap::new();
        for (member, status) in answers.into_iter().flat_map(|(n, all)| all.into_iter().map(move |s| (n.clone(), s))) {
            let better = found.get(&status.id).is_none_or(|(_, other)| rank(&status) < rank(other));
            if better {
                found.insert(status.id, (member, status));
            }
        }
        let mut state = self.state();
        let mut statuses = Vec::with_capacity(found.len());
        for (drive, (member, mut status)) in found {
            // Left out of the list, or forgotten, while it was being asked.
            let is_listed = state.members.iter().any(|other| Arc::ptr_eq(other, &member));
            if !is_listed || state.forgotten.contains(&drive) {
                continue;
            }
            state.sit(drive, Some(member));
            if let Some(seat) = state.seats.get_mut(&drive) {
                status.opened = status.opened.saturating_add(seat.opened.0);
                seat.opened.1 = seat.opened.1.max(status.opened);
            }
            statuses.push(status);
        }
        drop(state);
        statuses.sort_by_key(|status| status.id);
        statuses
    }
}

impl Member {
    fn name(&self) -> Option<&NodeName> {
        self.far.as_ref().map(|(at, _)| &at.name)
    }
}

impl State {
    /// The member of an address, made if there is none yet.
    fn member(&self, credentials: &Credentials, at: &NodeAddress) -> Result<(Arc<Member>, bool), RemoteError> {
        let known = self.members.iter().find(|member| member.name() == Some(&at.name));
        let remote = match known.and_then(|member| Some((member, member.far.as_ref()?))) {
            Some((member, (there, _))) if there == at => return Ok((Arc::clone(member), false)),
            Some((_, (there, before))) => {
                tracing::info!(node = %at.name, from = there.address, to = at.address, "a storage node has another address");
                before.moved(credentials, at.address.clone())?
            }
            None => RemoteNode::new(credentials, RemoteConfig::new(at.address.clone(), at.name.clone()))?,
        };
        let host: Arc<dyn NodeHost> = remote.clone();
        Ok((Arc::new(Member { host, far: Some((at.clone(), remote)) }), true))
    }

    /// Another list: the drives of a node that has another address stay where they are, those of one that has gone are nowhere.
    fn replace(&mut self, members: Vec<Arc<Member>>) {
        for seat in self.seats.values_mut() {
            let Some(member) = &seat.member else { continue };
            let same = |other: &&Arc<Member>| {
                Arc::ptr_eq(other, member) || (other.name().is_some() && other.name() == member.name())
            };
            seat.member = members.iter().find(same).cloned();
        }
        self.members = members;
    }

    fn sit(&mut self, drive: DriveId, member: Option<Arc<Member>>) {
        let seat = self.seats.entry(drive).or_insert(Seat { member: None, opened: (0, 0) });
        let same = match (&seat.member, &member) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            _ => false,
        };
        if !same {
            (seat.member, seat.opened.0) = (member, seat.opened.1);
        }
    }
}
