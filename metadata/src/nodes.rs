//! The list of storage nodes, and what is done all the time because nodes and drives come and go.
//!
//! Invariants:
//! * The journal says which storage nodes belong to the cluster. A configuration names those of a first start; later it is only
//!   whom a start asks that has lost its index, since the journal lies on the nodes themselves.
//! * A drive's row says on which node, and where that stands: placement must know with what a drive fails also while it does
//!   not answer. So where a drive was carried is journaled when it is seen there.

use crate::client::CommitError;
use crate::command::Command;
use crate::commit::Request;
use crate::index::{self, IndexError, Overlay, View};
use crate::service::{Alarm, Shared};
use crate::stripe_writer::StripeWriter;
use crate::topology;
use codec::effect::{DriveRow, DriveState, NodeRow, NodeState};
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::{DriveHealth, DriveStatus};
use storage_node::host::{NodeHost, NodeSight};
use storage_node::remote::NodeAddress;
use storage_node::service::identity::NodeName;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

/// The storage nodes that belong to the cluster. A row whose name is none is passed over: nobody could be called so.
pub fn list(view: &dyn View) -> Result<Vec<NodeAddress>, IndexError> {
    let rows = index::nodes(view)?;
    Ok(rows.iter().filter(|row| row.state != NodeState::Removed as i32).filter_map(address).collect())
}

pub(crate) fn address(row: &NodeRow) -> Option<NodeAddress> {
    Some(NodeAddress { name: NodeName::new(&row.name).ok()?, address: row.address.clone() })
}

pub(crate) fn row(at: &NodeAddress, state: NodeState) -> NodeRow {
    NodeRow { name: at.name.to_string(), address: at.address.clone(), state: state as i32 }
}

/// Whom a start asks: those that belong to the cluster as far as the index knows, and those of the configuration that it does
/// not know. One of these may have the drives that say more.
pub(crate) fn to_ask(view: &dyn View, configured: &[NodeSight]) -> Result<Vec<NodeAddress>, IndexError> {
    let known = index::nodes(view)?;
    let mut ask = list(view)?;
    let is_new = |at: &&NodeAddress| !known.iter().any(|row| row.name == at.name.as_str());
    ask.extend(configured.iter().map(|sight| &sight.at).filter(is_new).cloned());
    Ok(ask)
}

/// What a start journals: the nodes of the configuration, where the journal names none.
pub(crate) fn seed(view: &dyn View, configured: &[NodeSight]) -> Result<Vec<Command>, IndexError> {
    if !index::nodes(view)?.is_empty() {
        return Ok(Vec::new());
    }
    Ok(configured.iter().map(|sight| Command::PutNode(row(&sight.at, NodeState::Active))).collect())
}

/// Speaks to exactly the nodes that belong to the cluster from now on.
pub(crate) fn follow(node: &dyn NodeHost, view: &dyn View) -> Result<(), IndexError> {
    let list = list(view)?;
    if list.is_empty() {
        // The drives are directories of this machine.
        return Ok(());
    }
    for sight in node.nodes().iter().filter(|sight| !list.iter().any(|at| at.name == sight.at.name)) {
        tracing::warn!(node = %sight.at.name, "a storage node of the configuration is none of the cluster's: stele node add");
    }
    if let Err(error) = node.follow(&list) {
        tracing::error!(%error, "the list of storage nodes is not followed");
    }
    Ok(())
}

/// Looks after rows and nodes while the service runs.
pub(crate) struct Watching {
    pub shared: Arc<Shared>,
    pub node: Arc<dyn NodeHost>,
    pub requests: mpsc::Sender<Request>,
    pub stripes: Arc<StripeWriter>,
}

impl Watching {
    /// Until the committer has ended.
    pub async fn run(self, every: Duration) {
        let mut timer = interval(every);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.requests.is_closed() {
            timer.tick().await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "where the drives are was not journaled");
            }
        }
    }

    /// One look.
    pub async fn look(&self) -> Result<(), CommitError> {
        let superseded = self.node.superseded().map(|error| error.to_string());
        self.shared.set_alarm(Alarm::Superseded, superseded);
        let drives = self.shared.node.drives().await;
        let rows = index::drives(&Overlay::new(&*self.shared.kv));
        let rows = rows.map_err(|error| CommitError::Unavailable { reason: error.to_string() })?;
        for row in moved(&rows, &drives) {
            tracing::info!(path = row.path, "a drive is at another place than before");
            self.commit(Command::SeeDrive(row)).await?;
        }
        Ok(())
    }

    async fn commit(&self, command: Command) -> Result<(), CommitError> {
        let stopping = || CommitError::Unavailable { reason: "the service is stopping".to_owned() };
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit(self.stripes.epoch(), Box::new(command), reply);
        self.requests.send(request).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?.map(drop)
    }
}

/// The rows of drives that answer and are not where their rows say. On one machine a directory may be called anything.
fn moved(rows: &[DriveRow], drives: &[DriveStatus]) -> Vec<DriveRow> {
    let answers = |status: &&DriveStatus| status.node != 0 && !matches!(status.health, DriveHealth::Failed { .. });
    let of = |row: &DriveRow| {
        let status = drives.iter().filter(answers).find(|status| status.id.as_bytes()[..] == row.id)?;
        let seen = topology::as_seen(row, status);
        (seen.path != row.path || !topology::same_place(&seen, row)).then_some(seen)
    };
    rows.iter().filter(|row| row.state != DriveState::Removed as i32).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use codec::id::DriveId;

    /// Placement went by the node where a drive had been at the last start, for as long as the service ran.
    #[test]
    fn a_drive_that_was_carried_gets_another_row_and_one_that_does_not_answer_does_not() {
        let id = |n: u8| DriveId([n; 16]);
        let row = |n: u8, state: DriveState| {
            let (id, path) = (Bytes::copy_from_slice(id(n).as_bytes()), "n1:/a".to_owned());
            DriveRow { id, state: state as i32, node: 7, path, ..DriveRow::default() }
        };
        let status = |n: u8, node: u32, path: &str, health: DriveHealth| DriveStatus {
            id: id(n),
            node,
            path: path.to_owned(),
            health,
            ..crate::keep::testing::drive_status()
        };
        let rows = [row(1, DriveState::Active), row(2, DriveState::Draining), row(3, DriveState::Removed)];
        let healthy = DriveHealth::Healthy;
        let same = [status(1, 7, "n1:/a", healthy.clone()), status(3, 9, "n2:/a", healthy.clone())];
        assert_eq!(moved(&rows, &same), []);
        let failed = DriveHealth::Failed { reason: String::new() };
        assert_eq!(moved(&rows, &[status(1, 9, "n2:/a", failed), status(2, 0, "/a", healthy.clone())]), []);
        let seen = moved(&rows, &[status(1, 9, "n2:/b", healthy.clone()), status(2, 7, "n1:/c", healthy)]);
        let places: Vec<(u32, &str, i32)> = seen.iter().map(|row| (row.node, &*row.path, row.state)).collect();
        assert_eq!(places, [(9, "n2:/b", DriveState::Active as i32), (7, "n1:/c", DriveState::Draining as i32)]);
    }
}
