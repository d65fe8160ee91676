//! Changing the set of storage nodes while the service runs: adding, emptying, removing; and drives that nodes serve.
//!
//! Order, and what a crash between two steps leaves:
//! * A new node must answer and begin before it becomes a row; then its drives are taken in one by one, each as
//!   [`drives`](super::drives) says. The same command again goes on.
//! * A node that is emptied is a row that says so, and then its drives' rows do. The same command again goes on.
//! * A node is removed drive by drive, and its own row is the last: what it holds is needed for as long as one of them stays.

use super::drives::answers;
use super::{CommitError, DriveChangeError, Metadata};
use crate::client::MetadataClient;
use crate::command::Command;
use crate::index::{self, IndexError};
use crate::nodes;
use codec::effect::{DriveRow, DriveState, NodeRow, NodeState};
use codec::id::DriveId;
use std::time::Duration;
use storage_node::client::{DriveHealth, DriveStatus, STALLED_AFTER};
use storage_node::host::NodeSight;
use storage_node::remote::{NodeAddress, RemoteError};
use storage_node::service::identity::NodeName;
use tokio::time::{Instant, sleep};

/// How long a new node may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long its drives may take to allow writes: filling a reserve takes long.
const BEGIN: Duration = Duration::from_secs(120);
/// How often it is asked meanwhile.
const ASK: Duration = Duration::from_millis(200);

/// Why the set of storage nodes was not changed.
#[derive(Debug, thiserror::Error)]
pub enum NodeChangeError {
    /// The drives are directories of this machine.
    #[error("the drives of this set-up are directories of one machine: there are no storage nodes")]
    NoNodes,
    /// No such node.
    #[error("no storage node {0} belongs to this cluster")]
    Unknown(NodeName),
    /// It does not answer where it was said to be.
    #[error("storage node {name} can't be used at {address}: {problem}")]
    Unusable {
        /// Its name.
        name: NodeName,
        /// Where it was asked.
        address: String,
        /// What came of it.
        problem: String,
    },
    /// A known node that answers where it is.
    #[error("storage node {name} is at {address} and answers there: stop it there first")]
    Elsewhere {
        /// Its name.
        name: NodeName,
        /// Where it answers.
        address: String,
    },
    /// It is being emptied.
    #[error("storage node {0} is being drained: stele node drain --cancel {0}")]
    Draining(NodeName),
    /// Drives of it are in use.
    #[error("{drives} drives of storage node {name} are in use: drain it first")]
    InUse {
        /// Its name.
        name: NodeName,
        /// How many.
        drives: usize,
    },
    /// It answers, and is not lost.
    #[error("storage node {0} answers: drain it first")]
    NotLost(NodeName),
    /// A drive of the node was not changed; those before it were.
    #[error(transparent)]
    Drive(#[from] DriveChangeError),
    /// The connections can't be made.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The change was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// A storage node, with all that is known of it.
#[derive(Clone, Debug)]
pub struct NodeDetail {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// `serving`, `silent`, `draining`, `drained` or `removed`.
    pub state: &'static str,
    /// Why it does not answer, or what it refuses; empty otherwise.
    pub problem: String,
    /// Its drives that belong to the cluster, and how many of them can be read now.
    pub drives: (usize, usize),
    /// Drives that it has formatted and that are none of the cluster's.
    pub spare: usize,
    /// Bytes of its drives, and those that clients' data may still take.
    pub space: (u64, u64),
}

/// What came of adding a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAdded {
    /// The drives that were taken in.
    pub drives: Vec<DriveId>,
    /// Drives of the node that could not be, and why.
    pub left: Vec<(DriveId, String)>,
}

impl Metadata {
    /// The storage nodes that belong to the cluster; none where the drives are directories of this machine.
    pub fn node_list(&self) -> Result<Vec<NodeAddress>, IndexError> {
        nodes::list(&self.view())
    }

    /// Makes a storage node one of the cluster's, or says where it is now. With `take`, the drives that it has formatted and that
    /// belong to nobody get new shards from the answer on.
    pub async fn add_node(&self, at: NodeAddress, take: bool) -> Result<NodeAdded, NodeChangeError> {
        self.writing()?;
        if self.node.nodes().is_empty() && index::nodes(&self.view())?.is_empty() {
            return Err(NodeChangeError::NoNodes);
        }
        let elsewhere = || self.sight(&at.name).filter(|sight| sight.at != at && !sight.silent);
        if elsewhere().is_some() {
            // What is known is of the last time that all were asked: it may have been stopped since.
            let _asked_now = self.node.drives().await;
        }
        if let Some(sight) = elsewhere() {
            return Err(NodeChangeError::Elsewhere { name: at.name, address: sight.at.address });
        }
        self.meet_node(&at).await?;
        let turn = self.turn().await;
        // It may have been drained, or removed, while it was asked.
        let known = index::node(&self.view(), at.name.as_str())?;
        let state = match &known {
            Some(row) if row.state == NodeState::Draining as i32 => NodeState::Draining,
            _ => NodeState::Active,
        };
        self.put_node(nodes::row(&at, state)).await?;
        drop(turn);
        tracing::info!(node = %at.name, address = at.address, "a storage node belongs to the cluster");
        if !take || state == NodeState::Draining {
            return Ok(NodeAdded::default());
        }
        self.take_in(&at).await
    }

    /// Asks a node that may come to the cluster; one that can't be used is asked no more.
    async fn meet_node(&self, at: &NodeAddress) -> Result<(), NodeChangeError> {
        let before = self.node_list()?;
        let mut list: Vec<NodeAddress> = before.iter().filter(|other| other.name != at.name).cloned().collect();
        list.push(at.clone());
        self.node.follow(&list)?;
        let limit = Instant::now() + ANSWER;
        loop {
            let _now_known = self.node.drives().await;
            let sight = self.sight(&at.name);
            let problem = match &sight {
                Some(sight) if !sight.silent && sight.problem.is_empty() => return Ok(()),
                Some(sight) => sight.problem.clone(),
                None => "it is not asked".to_owned(),
            };
            // Only who says nothing may yet come up: who is another one stays that.
            let answers = sight.is_some_and(|sight| !sight.silent || sight.other);
            if answers || Instant::now() >= limit {
                self.node.follow(&before)?;
                return Err(NodeChangeError::Unusable { name: at.name.clone(), address: at.address.clone(), problem });
            }
            sleep(ASK).await;
        }
    }

    /// Takes in the drives of a node that belong to nobody.
    async fn take_in(&self, at: &NodeAddress) -> Result<NodeAdded, NodeChangeError> {
        let limit = Instant::now() + BEGIN;
        let mut added = NodeAdded::default();
        let of_node = |status: &DriveStatus| status.node == at.number();
        loop {
            let status = self.node.drives().await;
            let waits = |s: &DriveStatus| of_node(s) && matches!(s.health, DriveHealth::ReadOnly { .. });
            if !status.iter().any(waits) || Instant::now() >= limit {
                break;
            }
            sleep(ASK).await;
        }
        for status in self.node.drives().await.into_iter().filter(of_node) {
            match self.drive_row(status.id)? {
                Some(row) if row.state == DriveState::Removed as i32 => {
                    added.left.push((status.id, DriveChangeError::Removed(status.id).to_string()));
                }
                Some(_) => {}
                None => match self.register_on(&at.name, status.id).await {
                    Ok(drive) => added.drives.push(drive),
                    Err(error) => added.left.push((status.id, error.to_string())),
                },
            }
        }
        Ok(added)
    }

    /// Takes in a drive at a path of a storage node: one that the node has formatted already, or a directory that its
    /// configuration names. `replaces`: the drive that was there, which does not come back.
    pub async fn add_drive_on(
        &self,
        node: &NodeName,
        path: &str,
        replaces: Option<DriveId>,
    ) -> Result<DriveId, NodeChangeError> {
        self.writing()?;
        self.check_takes(node)?;
        let there = format!("{node}:{path}");
        let status = self.node.drives().await;
        let known = |status: &&DriveStatus| status.path == there && Some(status.id) != replaces;
        let drive = match status.iter().find(known).map(|status| status.id) {
            Some(drive) => drive,
            None => {
                if let Some(drive) = whose_place(&index::drives(&self.view())?, &status, &there, replaces) {
                    return Err(DriveChangeError::PlaceOf { drive, path: there }.into());
                }
                self.node.take_drive(node, path, replaces).await.map_err(DriveChangeError::from)?
            }
        };
        self.register_on(node, drive).await
    }

    /// Takes in a drive that a node has opened, if the node still takes any: opening may take an hour, and meanwhile it may have
    /// been drained or removed. Its drive would get shards, and no drain or removal of the node would have looked at it.
    async fn register_on(&self, node: &NodeName, drive: DriveId) -> Result<DriveId, NodeChangeError> {
        let turn = self.turn().await;
        self.check_takes(node)?;
        Ok(self.register(drive, &turn).await?)
    }

    /// Whether a node belongs to the cluster and is not being emptied.
    fn check_takes(&self, node: &NodeName) -> Result<(), NodeChangeError> {
        let row = self.known_node(node)?;
        if row.state == NodeState::Draining as i32 { Err(NodeChangeError::Draining(node.clone())) } else { Ok(()) }
    }

    /// Begins to empty all drives of a storage node, or ends that.
    pub async fn drain_node(&self, name: &NodeName, cancel: bool) -> Result<Vec<DriveId>, NodeChangeError> {
        // To the end: a drive that comes in between would be left as it is, and the node with it.
        let turn = self.turn().await;
        let row = self.known_node(name)?;
        let drives = self.drives_on(name).await?;
        let state = if cancel { NodeState::Active } else { NodeState::Draining };
        if !cancel {
            self.check_drain(&drives).await?;
        }
        self.put_node(NodeRow { state: state as i32, ..row }).await?;
        tracing::info!(node = %name, cancel, "a storage node is being emptied, or not any more");
        for drive in &drives {
            match cancel {
                true => self.cancel_drain_in(&turn, *drive).await?,
                false => self.drain_in(&turn, *drive).await?,
            }
        }
        Ok(drives)
    }

    /// Removes a storage node for good, with all its drives: one that is drained, or with `lost` one that does not answer.
    pub async fn remove_node(&self, name: &NodeName, lost: bool) -> Result<Vec<DriveId>, NodeChangeError> {
        // To the end: a drive that comes in between would stay, of a node that nobody asks any more.
        let turn = self.turn().await;
        let Some(row) = index::node(&self.view(), name.as_str())? else {
            return Err(NodeChangeError::Unknown(name.clone()));
        };
        let drives = self.drives_on(name).await?;
        let status = self.node.drives().await;
        if lost && drives.iter().any(|drive| answers(&status, *drive)) {
            return Err(NodeChangeError::NotLost(name.clone()));
        }
        let mut in_use = 0;
        for drive in &drives {
            let draining = self.drive_row(*drive)?.is_some_and(|row| row.state == DriveState::Draining as i32);
            in_use += usize::from(!draining);
        }
        if !lost && in_use > 0 {
            return Err(NodeChangeError::InUse { name: name.clone(), drives: in_use });
        }
        for drive in &drives {
            self.remove_in(&turn, *drive, lost).await?;
        }
        self.put_node(NodeRow { state: NodeState::Removed as i32, ..row }).await?;
        tracing::warn!(node = %name, lost, "a storage node was removed");
        Ok(drives)
    }

    /// All storage nodes that ever belonged to the cluster, by name.
    pub async fn node_details(&self) -> Result<Vec<NodeDetail>, IndexError> {
        let rows = index::nodes(&self.view())?;
        let (drives, status) = (self.drive_details().await?, self.node.drives().await);
        let detail = |row: &NodeRow| {
            let name = NodeName::new(&row.name).ok()?;
            let number = NodeAddress { name: name.clone(), address: String::new() }.number();
            let sight = self.sight(&name);
            let own = || drives.iter().filter(|drive| drive.node == number && drive.state != "removed");
            let there = own().filter(|drive| !matches!(drive.state, "absent" | "failed"));
            let is_known = |s: &&DriveStatus| s.node == number && !drives.iter().any(|drive| drive.id == s.id);
            let seen = || own().filter_map(|drive| drive.status.as_ref());
            let silent = sight.as_ref().is_none_or(|sight| sight.silent);
            let state = match NodeState::try_from(row.state) {
                Ok(NodeState::Removed) => "removed",
                _ if silent => "silent",
                Ok(NodeState::Draining) if own().all(|drive| drive.state == "drained") => "drained",
                Ok(NodeState::Draining) => "draining",
                _ => "serving",
            };
            let stalled = || seen().any(|status| status.waits(STALLED_AFTER));
            let problem = sight.map(|sight| sight.problem).unwrap_or_default();
            Some(NodeDetail {
                name: row.name.clone(),
                address: row.address.clone(),
                state,
                problem: if problem.is_empty() && stalled() { "a drive does not answer".to_owned() } else { problem },
                // What a silent node's drives were last seen as tells nothing of now.
                drives: (own().count(), if silent { 0 } else { there.count() }),
                spare: status.iter().filter(is_known).count(),
                space: seen().fold((0, 0), |(total, free), s| (total + s.total, free + s.free)),
            })
        };
        Ok(rows.iter().filter_map(detail).collect())
    }

    fn sight(&self, name: &NodeName) -> Option<NodeSight> {
        self.node.nodes().into_iter().find(|sight| sight.at.name == *name)
    }

    fn known_node(&self, name: &NodeName) -> Result<NodeRow, NodeChangeError> {
        let row = index::node(&self.view(), name.as_str())?.filter(|row| row.state != NodeState::Removed as i32);
        row.ok_or_else(|| NodeChangeError::Unknown(name.clone()))
    }

    /// The cluster's drives that a node has, or had when they were last seen.
    async fn drives_on(&self, name: &NodeName) -> Result<Vec<DriveId>, IndexError> {
        let number = NodeAddress { name: name.clone(), address: String::new() }.number();
        let status = self.node.drives().await;
        let on = |row: &DriveRow| {
            let id = DriveId::from_slice(&row.id)?;
            let node = status.iter().find(|status| status.id == id).map_or(row.node, |status| status.node);
            (node == number && row.state != DriveState::Removed as i32).then_some(id)
        };
        Ok(index::drives(&self.view())?.iter().filter_map(on).collect())
    }

    async fn put_node(&self, row: NodeRow) -> Result<(), NodeChangeError> {
        self.commit(self.epoch(), Command::PutNode(row)).await?;
        nodes::follow(&*self.node, &self.view())?;
        Ok(())
    }
}

/// The drive that is not removed and was seen at a place last, as node and path; a drive that answers is where it is now.
fn whose_place(rows: &[DriveRow], status: &[DriveStatus], there: &str, replaces: Option<DriveId>) -> Option<DriveId> {
    let is_there = |row: &DriveRow| {
        let id = DriveId::from_slice(&row.id)?;
        let path = status.iter().find(|status| status.id == id).map_or(&*row.path, |status| &*status.path);
        (path == there && row.state != DriveState::Removed as i32 && Some(id) != replaces).then_some(id)
    };
    rows.iter().find_map(is_there)
}

#[cfg(test)]
mod tests;
