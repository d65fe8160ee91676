//! A start whose drives are served by other processes.
//!
//! What the drives are is for their nodes to say, and a node formats nothing on anybody's order (R18). So a first start is one
//! where every node answers, no drive of any has ever had a register, and nothing here knows a cluster: a node that is silent
//! may have the drives that hold everything.

use super::key::Key;
use super::{Config, KeySource, Means, Opened, StartError, open_index, own_index};
use crate::index::Overlay;
use crate::nodes as list;
use crate::replay::index_mark;
use codec::id::{ClusterId, DriveId};
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::{DriveHealth, DriveStatus, ReadError};
use storage_node::host::NodeHost;
use tokio::time::{Instant, sleep};

/// How often nodes are asked that do not answer.
const ASK: Duration = Duration::from_secs(1);

/// Asks the nodes for their drives, and opens the index. Nothing was written, and no key made, unless it is a first start.
pub(super) async fn open(
    parts: &Means,
    nodes: &Arc<dyn NodeHost>,
    cluster: ClusterId,
    config: &Config,
    source: KeySource,
) -> Result<(Opened, Key), StartError> {
    if let Some(ours) = config.cluster.filter(|ours| *ours != cluster) {
        return Err(StartError::OtherCluster { ours, theirs: cluster });
    }
    let (kv, index_cluster) = open_index(&*parts.index)?;
    if index_cluster == Some(cluster) {
        // The configuration may be older than the cluster.
        nodes.follow(&list::to_ask(&Overlay::new(&*kv), &nodes.nodes())?)?;
    }
    let drives = answers(&**nodes, config.wait_for_nodes).await;
    let silent = nodes.silent();
    let known = config.cluster.or(index_cluster);
    let registered = any_register(nodes, &drives).await?;
    let fresh = match known {
        Some(known) if !registered && silent.is_empty() => {
            return Err(StartError::RegistersGone { cluster: known, drives: drives.len() });
        }
        None if !registered => {
            if !silent.is_empty() {
                return Err(StartError::NodesSilent { nodes: silent.join(", ") });
            }
            if drives.is_empty() {
                return Err(StartError::NoDrives);
            }
            Some(first_drives(drives)?)
        }
        _ => None,
    };
    let key = match &fresh {
        Some(_) => Key::Checked(source(true)?),
        None => Key::Source(source),
    };
    let kv = own_index(parts, kv, index_cluster, cluster)?;
    let mark = index_mark(&*kv)?;
    Ok((Opened { cluster, node: nodes.clone(), kv, mark, fresh, refused: None }, key))
}

/// The drives, once all nodes have answered or the time is over.
async fn answers(nodes: &dyn NodeHost, within: Duration) -> Vec<DriveStatus> {
    let limit = Instant::now() + within;
    loop {
        let drives = nodes.drives().await;
        let silent = nodes.silent();
        if silent.is_empty() {
            return drives;
        }
        if Instant::now() >= limit {
            tracing::warn!(?silent, "storage nodes do not answer; the start goes on without them, if it can");
            return drives;
        }
        sleep(ASK).await;
    }
}

/// Whether any drive has a register. One that can't be read is there: only "never written" means a fresh drive. Drives that can't be
/// reached say neither: the others do, or nothing is known. (One node that was away kept every leader from serving where its drive
/// came first.)
async fn any_register(nodes: &Arc<dyn NodeHost>, drives: &[DriveStatus]) -> Result<bool, StartError> {
    let mut away = None;
    for drive in drives {
        match nodes.read_register(drive.id).await {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(_) | Err(ReadError::DriveFailed { .. } | ReadError::Damaged { .. }) => return Ok(true),
            Err(error @ ReadError::Unreachable) => away = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    away.map_or(Ok(false), |error| Err(error.into()))
}

/// The drives of a first start: all of them, and all can be used.
fn first_drives(drives: Vec<DriveStatus>) -> Result<Vec<DriveId>, StartError> {
    let id = |drive: DriveStatus| match drive.health {
        DriveHealth::Failed { reason } => Err(StartError::DriveUnusable { path: drive.path, reason }),
        _ => Ok(drive.id),
    };
    drives.into_iter().map(id).collect()
}
