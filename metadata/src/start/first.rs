//! The first start: empty directories become the drives of a new cluster.

use super::{Config, Means, Scene, StartError, random};
use crate::ensemble::{candidates, choose_members};
use crate::topology::default_geometry;
use codec::erasure::Geometry;
use codec::id::{ClusterId, DriveId, Epoch, Lsn};
use codec::register::Register;
use storage_node::drive::{self, ProbedDrive, ProbedState, probe};

/// Whether this is a first start: `Some(None)` for one that begins, `Some(cluster)` for one that was interrupted before any
/// drive had a register, so that nothing can have been stored. `served`: the cluster that is `known` has served from here, so
/// it is none.
///
/// # Errors
/// [`StartError::DrivesGone`] where drives have served and none of them is there. A drive without a register says nothing: one
/// that was being added when the machine went down is there before the others are mounted, and a start that took it for an
/// interrupted first start formatted their mount points (R18).
pub(super) fn first_start(
    probed: &[ProbedDrive],
    known: Option<ClusterId>,
    served: bool,
) -> Result<Option<Option<ClusterId>>, StartError> {
    let ours = || probed.iter().filter(|d| matches!(d.state, ProbedState::Ours));
    let mut registers = Vec::new();
    for drive in ours() {
        // A register that is there and does not verify is an error here: only "never written" means a fresh drive.
        registers.push(drive.register_damaged || !drive.register.is_empty());
    }
    if registers.contains(&true) {
        return Ok(None);
    }
    let other = probed.iter().find(|d| !matches!(d.state, ProbedState::Empty | ProbedState::Ours));
    let identity = ours().next().and_then(|d| d.identity);
    // An index or configuration that knows a cluster, and no drive that can have served it.
    let gone = match identity {
        Some(identity) => served.then(|| known.unwrap_or(identity.cluster)),
        None => known,
    };
    match (gone, other) {
        (Some(cluster), _) => {
            let first = probed.iter().find(|d| d.state != ProbedState::Ours).or(probed.first());
            let path = first.map(|d| d.disk.path_hint()).unwrap_or_default();
            let state = first.map_or(ProbedState::Missing, |d| d.state.clone());
            Err(StartError::DrivesGone { cluster, path, state })
        }
        (None, Some(other)) => Err(StartError::NotEmpty { path: other.disk.path_hint(), state: other.state.clone() }),
        (None, None) => Ok(Some(identity.map(|i| i.cluster))),
    }
}

/// Formats the empty directories of a first start.
pub(super) fn format_all(
    parts: &Means,
    config: &Config,
    interrupted: Option<ClusterId>,
) -> Result<(ClusterId, Vec<ProbedDrive>), StartError> {
    let geometry = first_geometry(config, parts.disks().len())?;
    tracing::info!(drives = parts.disks().len(), %geometry, "first start: formatting the drives");
    let cluster = match interrupted {
        Some(cluster) => cluster,
        None => ClusterId(random(&*parts.entropy)?),
    };
    let mut probed = Vec::new();
    for disk in parts.disks() {
        let found = probe(disk.clone(), Some(cluster));
        if matches!(found.state, ProbedState::Empty) {
            drive::format(&**disk, cluster, DriveId(random(&*parts.entropy)?), None)?;
            probed.push(probe(disk.clone(), Some(cluster)));
        } else {
            probed.push(found);
        }
    }
    Ok((cluster, probed))
}

pub(super) fn first_geometry(config: &Config, drives: usize) -> Result<Geometry, StartError> {
    let geometry = config.geometry.or_else(|| default_geometry(drives)).ok_or(StartError::NoDrives)?;
    let needed = 1 + usize::from(geometry.m());
    if drives < needed { Err(StartError::TooFewDrives { geometry, needed, drives }) } else { Ok(geometry) }
}

/// The register of a first start; its members are chosen again, by free space, when the drives take writes.
pub(super) fn first_register(config: &Config, cluster: ClusterId, drives: &[DriveId]) -> Result<Register, StartError> {
    let geometry = first_geometry(config, drives.len())?;
    let mut registered = drives.to_vec();
    registered.sort();
    let members = registered.iter().take(1 + usize::from(geometry.m())).copied().collect();
    let (k, m) = (geometry.k(), geometry.m());
    Ok(Register { cluster, sequence: 1, epoch: Epoch(0), first_lsn: Lsn(1), k, m, members, registered })
}

pub(super) async fn first_members(scene: &Scene, mut register: Register, epoch: Epoch) -> Register {
    let drives = scene.node.drives().await;
    if let Some(members) = choose_members(&[], &candidates(drives.iter()), register.members.len()) {
        register.members = members;
    }
    register.epoch = epoch;
    register
}
