//! `stele storage-node`: serves the drives of one machine to the other processes of its cluster.
//!
//! The node's cluster is that of its certificate. It formats a directory only when it is told to (`--format`), only if the
//! directory is empty, and only if no drive was ever seen there (R18): otherwise an empty directory is a mount that is missing.
//! A directory without its drive is looked at again while the node runs. Nothing is written to a drive before metadata says in
//! which epoch.
//!
//! Order of an end: not ready, requests drained, drives released.

use crate::config_file::{ConfigError, Peer, StorageNodeConfig};
use crate::data_dir::{DataDirError, random};
use crate::drive_place::{Asking, PlaceError, check_apart, disk_at, real_path};
use crate::drives::sync_parents;
use crate::index_home::Indexes;
use crate::process::check_open_files;
use crate::roles::health::{self, NodeHealth};
use crate::roles::node_state::{NodeState, Place};
use crate::serve::{ServeError, listen, reserve, stop_signal};
use async_trait::async_trait;
use codec::id::{ClusterId, DriveId};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::NodeClient;
use storage_node::disk::DiskError;
use storage_node::drive::{DriveError, ProbedDrive, ProbedState, format, probe};
use storage_node::host::{DriveSource, NodeHost};
use storage_node::kv::KvError;
use storage_node::node::{NodeConfig, StorageNode};
use storage_node::remote::{NodeAddress, Nodes, RemoteError};
use storage_node::service::tls::Credentials;
use storage_node::service::{Server, ServiceConfig, StartError};
use tokio::sync::{Mutex, watch};

/// How long a directory may take to say whose it is.
const PROBE: Duration = Duration::from_secs(20);
/// How often directories without their drive are looked at.
const LOOK: Duration = Duration::from_secs(3);
/// How long requests that were begun may take at the end.
const GRACE: Duration = Duration::from_secs(30);

/// Why there is no storage node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] DataDirError),
    /// An address, or signals.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A drive.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// A place for a drive.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The node's index.
    #[error(transparent)]
    Index(#[from] KvError),
    /// The service.
    #[error(transparent)]
    Service(#[from] StartError),
    /// A client of a peer.
    #[error(transparent)]
    Peer(#[from] RemoteError),
    /// No drive can be used; the first reason.
    #[error("no drive can be used: {0}")]
    NoDrive(NotADrive),
    /// The system did not let this process look at a drive. What is there is not known, and must not be taken for lost.
    #[error(
        "the drive at {path} can't be looked at: {source}; that says nothing of what it holds: {}, and start again",
        if .source.is_exhaustion() { "raise the limit of open files, or free memory" } else { "let this user read and write it" }
    )]
    Refused {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: DiskError,
    },
    /// The configuration, when it was read again.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A path that the configuration does not name.
    #[error("{0} is no drive of the configuration")]
    NotConfigured(PathBuf),
    /// A directory could not be made.
    #[error("{path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Why a directory of the configuration is no drive now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotADrive {
    /// Never formatted.
    #[error("{path} is empty: stele storage-node --config FILE --format makes it a drive")]
    New {
        /// The directory.
        path: PathBuf,
    },
    /// Not there, and no drive ever was.
    #[error(
        "{path} is not there: mount what belongs there, or, if it is to be a new drive, stele storage-node --config FILE --format \
         makes it one"
    )]
    NotThere {
        /// The directory.
        path: PathBuf,
    },
    /// Empty, and a drive was there (R18).
    #[error("{path} is empty, and drive {drive} was there: is it mounted?")]
    Unmounted {
        /// The directory.
        path: PathBuf,
        /// The drive.
        drive: DriveId,
    },
    /// Of another cluster (R18).
    #[error("{path} is a drive of cluster {theirs}, and the certificate is of cluster {ours}")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The drive's.
        theirs: ClusterId,
        /// The certificate's.
        ours: ClusterId,
    },
    /// One drive at two paths: a copy.
    #[error("{path} has the identity of a drive that is at another path")]
    Copy {
        /// The directory.
        path: PathBuf,
    },
    /// Not there, or not usable.
    #[error("{path}: {state}")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What it is.
        state: ProbedState,
    },
}

/// Makes the empty directories of the configuration drives of the certificate's cluster. Returns the new ones. A directory where
/// a drive was seen before is refused, unless it is `replaced`: that drive will not come back, by the operator's word.
pub fn format_drives(
    config: &StorageNodeConfig,
    credentials: &Credentials,
    replaced: &[PathBuf],
) -> Result<Vec<(PathBuf, DriveId)>, NodeError> {
    let cluster = credentials.identity().cluster;
    let mut state = NodeState::open(&config.state)?;
    if let Some(path) = replaced.iter().find(|path| !config.drives.contains(path)) {
        return Err(NodeError::NotConfigured(path.clone()));
    }
    for path in replaced {
        if probe(disk_at(path), None).state == ProbedState::Empty
            && let Some(drive) = state.forget(&place(path))?
        {
            tracing::warn!(%drive, path = %path.display(), "a drive is given up");
        }
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in &config.drives {
        let real = real_path(path)?;
        check_apart(&real, &paths)?;
        paths.push(real);
    }
    check_apart(&real_path(&config.state)?, &paths)?;
    let mut new = Vec::new();
    for path in &config.drives {
        let (found, place) = (probe(disk_at(path), Some(cluster)), place(path));
        match (found.state, state.known(&place)) {
            (ProbedState::Ours, _) => {}
            // Is refused by name: a drive that was there is somewhere else, and would be hidden.
            (ProbedState::Empty | ProbedState::Missing, known) => {
                let drive = DriveId(random(path)?);
                if known.is_none() {
                    make_dir(path)?;
                }
                format(&*disk_at(path), cluster, drive, known)?;
                state.remember(&place, drive)?;
                new.push((path.clone(), drive));
            }
            (state, _) => return Err(NodeError::NoDrive(NotADrive::Unusable { path: path.clone(), state })),
        }
    }
    if state.reserve() == 0 {
        let disks: Vec<_> = config.drives.iter().map(|path| disk_at(path)).collect();
        state.set_reserve(reserve(&disks))?;
    }
    Ok(new)
}

/// A directory, whatever it is called. Blocks.
fn place(path: &Path) -> Place {
    Place::new(path, real_path(path).ok().as_deref())
}

fn make_dir(path: &Path) -> Result<(), NodeError> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(NodeError::Directory { path: path.to_owned(), source: error });
        }
        _ => {}
    }
    sync_parents(path);
    Ok(())
}

/// Serves until SIGTERM or SIGINT. `file`: the configuration, which is read again when a new drive is asked for.
pub async fn run(file: PathBuf, config: StorageNodeConfig, credentials: Credentials) -> Result<(), NodeError> {
    let mut stop = stop_signal()?;
    let listener = listen("the storage node", "listen", config.listen).await?;
    let health_listener = listen("the health port", "health", config.health).await?;
    let health = Arc::new(NodeHealth::default());
    let port = health::start(health_listener, Arc::clone(&health));
    let mut state = NodeState::open(&config.state)?;
    check_open_files(config.drives.len()).map_err(ServeError::from)?;
    let cluster = credentials.identity().cluster;
    let asking = Asking::within(PROBE);
    let node = tokio::select! {
        opened = open(&config, cluster, &asking, &mut state) => opened?,
        // Opening writes nothing that a crash could not interrupt, and may take as long as the scan of a drive.
        () = stopped(&mut stop) => {
            port.stop().await;
            return Ok(());
        }
    };
    let peers = peers(&config, &credentials, &node)?;
    let as_host: Arc<dyn NodeHost> = node.clone();
    let directories = Arc::new(Directories { file, cluster, asking, known: Mutex::new((config.drives, state)) });
    let drives: Arc<dyn DriveSource> = directories.clone();
    let service = ServiceConfig { drives: Some(drives), ..ServiceConfig::default() };
    let server = Server::start(listener, &credentials, as_host, peers, service)?;
    health.serving(node.clone() as Arc<dyn NodeClient>);
    let drives = node.drives().await.len();
    println!(
        "Stele storage node {} of cluster {cluster} serves {drives} drives on {}",
        credentials.identity().name,
        server.address()
    );
    tokio::select! {
        () = directories.look_again(&node) => {}
        () = stopped(&mut stop) => {}
    }
    health.stopping();
    server.stop(GRACE).await;
    node.stop().await;
    port.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Opens the drives that are there.
async fn open(
    config: &StorageNodeConfig,
    cluster: ClusterId,
    asking: &Asking,
    state: &mut NodeState,
) -> Result<Arc<StorageNode>, NodeError> {
    let (found, absent) = look(&config.drives, cluster, asking, state, &[]).await?;
    refused(&absent)?;
    for reason in &absent {
        tracing::error!(%reason, "left alone");
    }
    if found.is_empty() {
        return Err(absent.into_iter().next().map_or(NodeError::Drive(DriveError::Unreachable), NodeError::NoDrive));
    }
    let index = Indexes::new(state.index_path()).open_node()?;
    let how = NodeConfig { reserve: state.reserve(), labels: config.labels(), ..NodeConfig::new(cluster) };
    Ok(StorageNode::open(how, found, index).await?)
}

/// A start that went on without a directory that it was not let look at would have what is there rebuilt elsewhere.
fn refused(absent: &[NotADrive]) -> Result<(), NodeError> {
    let refusal = |reason: &NotADrive| match reason {
        NotADrive::Unusable { path, state: ProbedState::Refused(source) } => {
            Some(NodeError::Refused { path: path.clone(), source: source.clone() })
        }
        _ => None,
    };
    absent.iter().find_map(refusal).map_or(Ok(()), Err)
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody can say it any more.
    let _either_way = stop.wait_for(|stop| *stop).await;
}

/// The node itself, and the others of the configuration. Who orders a rebuild says where the drives are.
fn peers(
    config: &StorageNodeConfig,
    credentials: &Credentials,
    node: &Arc<StorageNode>,
) -> Result<Arc<dyn NodeHost>, RemoteError> {
    let list: Vec<NodeAddress> = config.nodes.iter().filter_map(Peer::at).collect();
    Ok(Nodes::beside(node.clone(), credentials.clone(), &list)?)
}

/// Looks at directories: those that are drives of the cluster, and why the others are not. `open`: drives that are in use.
async fn look(
    paths: &[PathBuf],
    cluster: ClusterId,
    asking: &Asking,
    state: &mut NodeState,
    open: &[DriveId],
) -> Result<(Vec<ProbedDrive>, Vec<NotADrive>), NodeError> {
    // All at the same time: one that hangs must not keep the others waiting.
    let probing: Vec<_> =
        paths.iter().map(|path| tokio::spawn(probe_in_time(asking.clone(), path.clone(), cluster))).collect();
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    let mut seen = open.to_vec();
    for (path, probing) in paths.iter().cloned().zip(probing) {
        let (probed, place) = probing.await.unwrap_or_else(|error| unusable(&path, error.to_string()));
        match (&probed.state, probed.identity, state.known(&place)) {
            (ProbedState::Ours, Some(identity), _) if seen.contains(&identity.drive) => {
                absent.push(NotADrive::Copy { path });
            }
            (ProbedState::Ours, Some(identity), _) => {
                state.remember(&place, identity.drive)?;
                seen.push(identity.drive);
                found.push(probed);
            }
            (ProbedState::Foreign { cluster: theirs }, ..) => {
                absent.push(NotADrive::Foreign { path, theirs: *theirs, ours: cluster });
            }
            (ProbedState::Empty, _, Some(drive)) => absent.push(NotADrive::Unmounted { path, drive }),
            (ProbedState::Empty, _, None) => absent.push(NotADrive::New { path }),
            (ProbedState::Missing, _, None) => absent.push(NotADrive::NotThere { path }),
            (state, ..) => absent.push(NotADrive::Unusable { path, state: state.clone() }),
        }
    }
    Ok((found, absent))
}

/// A directory that hangs costs one thread, however often it is looked at.
async fn probe_in_time(asking: Asking, path: PathBuf, cluster: ClusterId) -> (ProbedDrive, Place) {
    let probed = asking.ask(&path, move |path| (probe(disk_at(path), Some(cluster)), place(path))).await;
    probed.unwrap_or_else(|_silent| unusable(&path, format!("no answer within {} s", PROBE.as_secs())))
}

fn unusable(path: &Path, reason: String) -> (ProbedDrive, Place) {
    let (disk, state) = (disk_at(path), ProbedState::Damaged { reason });
    let probed = ProbedDrive { disk, state, identity: None, register: bytes::Bytes::new(), register_damaged: true };
    (probed, Place::new(path, None))
}

/// The directories that may be drives, and which drives were there.
#[derive(Debug)]
struct Directories {
    /// The configuration.
    file: PathBuf,
    cluster: ClusterId,
    asking: Asking,
    /// The directories, as the configuration named them when it was last read; which drives were seen where.
    known: Mutex<(Vec<PathBuf>, NodeState)>,
}

impl Directories {
    /// Takes up drives whose directories were not there before. Metadata is told of them when it next asks, and verifies what
    /// they hold before it counts. Drives that were there and failed are opened again on metadata's order.
    async fn look_again(&self, node: &Arc<StorageNode>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let drives = node.drives().await;
            let open: Vec<DriveId> = drives.iter().map(|drive| drive.id).collect();
            let mut known = self.known.lock().await;
            let (paths, state) = &mut *known;
            let is_open = |path: &Path| drives.iter().any(|drive| Path::new(&drive.path) == path);
            let without: Vec<PathBuf> = paths.iter().filter(|path| !is_open(path)).cloned().collect();
            if without.is_empty() {
                continue;
            }
            let found = match look(&without, self.cluster, &self.asking, state, &open).await {
                Ok((found, _)) => found,
                Err(error) => {
                    tracing::warn!(%error, "directories without a drive could not be looked at");
                    continue;
                }
            };
            drop(known);
            for probed in found {
                let path = probed.disk.path_hint();
                match node.add_drive(probed).await {
                    Ok(()) => tracing::info!(path, "a drive is there now"),
                    Err(error) => tracing::warn!(path, %error, "a drive is there and can't be used"),
                }
            }
        }
    }

    /// Makes a directory of the configuration a drive, unless it is one. `open`: drives that are in use at other paths.
    async fn make(&self, path: &Path, replaces: Option<DriveId>, open: &[DriveId]) -> Result<ProbedDrive, NodeError> {
        let mut known = self.known.lock().await;
        let (paths, state) = &mut *known;
        // Read again: the operator has just written it there.
        let (config, _) = self.asking.ask(&self.file, crate::config_file::storage_node).await??;
        if !config.drives.iter().any(|named| named == path) {
            return Err(NodeError::NotConfigured(path.to_owned()));
        }
        *paths = config.drives;
        let (real, place) = self.asking.ask(path, |path| (real_path(path), place(path))).await?;
        let others: Vec<PathBuf> = paths.iter().filter(|other| *other != path).cloned().collect();
        check_apart(&real?, &self.asking.real(&others).await)?;
        let cluster = self.cluster;
        let probed = self.asking.ask(path, move |path| probe(disk_at(path), Some(cluster))).await?;
        let probed = match (&probed.state, state.known(&place)) {
            // Before its place is remembered: what is open is somewhere else.
            (ProbedState::Ours, _) if probed.identity.is_some_and(|identity| open.contains(&identity.drive)) => {
                return Err(NodeError::NoDrive(NotADrive::Copy { path: path.to_owned() }));
            }
            (ProbedState::Ours, _) => probed,
            // Is refused by name: a drive that was there is somewhere else, and would be hidden.
            (ProbedState::Empty | ProbedState::Missing, known) if known.is_none() || known == replaces => {
                let drive = DriveId(random(path)?);
                self.asking.ask(path, move |path| new_drive(path, cluster, drive)).await??
            }
            (ProbedState::Empty | ProbedState::Missing, Some(drive)) => {
                return Err(NodeError::NoDrive(NotADrive::Unmounted { path: path.to_owned(), drive }));
            }
            (state, _) => {
                return Err(NodeError::NoDrive(NotADrive::Unusable { path: path.to_owned(), state: state.clone() }));
            }
        };
        if let Some(identity) = probed.identity {
            state.remember(&place, identity.drive)?;
        }
        Ok(probed)
    }
}

#[async_trait]
impl DriveSource for Directories {
    async fn take(&self, path: &str, replaces: Option<DriveId>, open: &[DriveId]) -> Result<ProbedDrive, DriveError> {
        let made = self.make(Path::new(path), replaces, open).await;
        made.map_err(|error| DriveError::NotTaken { path: path.to_owned(), reason: error.to_string() })
    }
}

/// Formats a directory, and looks at what it is then.
fn new_drive(path: &Path, cluster: ClusterId, drive: DriveId) -> Result<ProbedDrive, NodeError> {
    make_dir(path)?;
    format(&*disk_at(path), cluster, drive, None)?;
    Ok(probe(disk_at(path), Some(cluster)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::io::Errno;
    use storage_node::disk::DiskOp;

    /// A node went on without a directory that it was not let look at, and what is there was rebuilt elsewhere.
    #[test]
    fn a_drive_that_may_not_be_looked_at_ends_the_start() {
        let path = PathBuf::from("d0");
        let unusable = |state| NotADrive::Unusable { path: path.clone(), state };
        assert!(refused(&[unusable(ProbedState::Missing), NotADrive::New { path: path.clone() }]).is_ok());
        let failed = |errno| DiskError::Io { op: DiskOp::Open, path: "d0/identity".to_owned(), errno };
        let line = |errno| {
            let refusal = unusable(ProbedState::Refused(failed(errno)));
            refused(&[NotADrive::New { path: path.clone() }, refusal]).unwrap_err().to_string()
        };
        let (denied, few) = (line(Errno::ACCESS), line(Errno::MFILE));
        assert!(denied.contains("let this user read and write it"), "{denied}");
        assert!(few.contains("raise the limit of open files"), "{few}");
    }

    /// Each look at it took another thread, every few seconds for as long as it hung.
    #[tokio::test]
    async fn a_directory_that_hangs_is_not_asked_again_before_it_has_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let asking = Asking::within(Duration::from_millis(50));
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        assert!(asking.ask(&path, move |_| hangs.recv().is_ok()).await.is_err());
        let look = || probe_in_time(asking.clone(), path.clone(), ClusterId([1; 16]));
        assert!(matches!(look().await.0.state, ProbedState::Damaged { .. }));
        release.send(()).unwrap();
        while look().await.0.state != ProbedState::Empty {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
