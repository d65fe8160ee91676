//! From a set of directories to a service: first start, later starts (recovery), and accepting a loss.
//!
//! Order, and what a crash between two steps leaves:
//! 1. look (probe, registers, journal copies, index): nothing is written;
//! 2. judge: a reason against writing ends here, and the service reads only;
//! 3. bring the index up to what is sealed (it may be destroyed and rebuilt at any time);
//! 4. take an epoch above all that was seen, write the ensemble's register if it changes, begin new segments on every member,
//!    copy again what fewer than 1+m drives hold: entries keep their epoch and bytes, so doing it twice is harmless;
//! 5. bring the index up to the tail, which is now on 1+m drives: so the index is never ahead of the media;
//! 6. commit the start-of-epoch entry on 1+m drives; only then serve.

use self::first::{first_register, first_start, format_all};
use self::key::Key;
use self::serve::{read_only, serve};
use crate::checkpoint;
use crate::clock::{self, Clock, Entropy};
use crate::index::{self, IndexError, META, Overlay, RowFault, damaged};
use crate::journal::Patience;
use crate::keep::KeepConfig;
use crate::keep::lifecycle::LifecycleConfig;
use crate::keep::reclaim::ReclaimConfig;
use crate::keys::{KeyError, Keys};
use crate::replay::index_mark;
use crate::service::Metadata;
use crate::survey::{Chain, DriveCopy, IndexMark, ReadOnlyReason, best_chain, judge, newest_register, survey};
use crate::topology::Level;
use codec::erasure::{Geometry, self_test_of};
use codec::id::{ClusterId, DriveId, Lsn};
use codec::level::{FormatLevel, TooNew};
use codec::register::Register;
use futures::future::join_all;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::{DriveHealth, NodeClient};
use storage_node::disk::{Disk, DiskError};
use storage_node::drive::{ProbedDrive, ProbedState, probe};
use storage_node::host::NodeHost;
use storage_node::kv::{Kv, KvBatch, KvError};
use storage_node::level::CurrentLevel;
use storage_node::node::{NodeConfig, StorageNode};
use storage_node::sabotage::{Sabotage, SabotageSet};

mod accept;
mod adopt;
mod error;
mod far;
mod first;
mod key;
mod lead;
mod past;
mod rule;
mod serve;

pub use accept::accept_loss;
pub use error::StartError;
pub use lead::{LeaderKeys, LeaderParts, lead};

const CLUSTER: &[u8] = b"cluster";

/// Where the index is kept: opened, thrown away when it is damaged, put aside when it may still be wanted.
pub trait IndexHome: Send + Sync {
    /// Opens the index, creating an empty one if there is none.
    fn open(&self) -> Result<Arc<dyn Kv>, KvError>;
    /// Throws the index away.
    fn destroy(&self) -> Result<(), KvError>;
    /// Keeps the index under another name, which says why, and returns that name. Nobody has it open.
    fn set_aside(&self, why: PutAside) -> Result<String, KvError>;
}

/// Why an index is kept aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutAside {
    /// A loss was accepted: it knows of what was lost.
    Loss,
    /// It is another cluster's.
    OtherCluster,
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster that the drives must be of; `None` takes it from the drives.
    pub cluster: Option<ClusterId>,
    /// The geometry asked for; the journaled one counts, and another is refused.
    pub geometry: Option<Geometry>,
    /// How long storage nodes that do not answer are waited for: machines that begin together. Then a start does without those
    /// that are gone, if it can.
    pub wait_for_nodes: Duration,
    /// Where the audit log is written ([`crate::audit`]); `None`: nowhere.
    pub audit: Option<PathBuf>,
    /// The rule of placement that is asked for: journaled, and in force until another one is. `None`: the journaled one stays.
    pub survive: Option<Level>,
    /// Size of a data segment, in bytes.
    pub data_segment: u64,
    /// Size of a journal segment, in bytes.
    pub journal_segment: u64,
    /// Segments are preallocated in steps of this many bytes.
    pub preallocate_step: u64,
    /// Reserve per file system, in bytes (R14).
    pub reserve: u64,
    /// Reads that one drive serves at the same time.
    pub reads_per_drive: usize,
    /// Target for a shard's payload, in bytes.
    pub shard_target: u32,
    /// Bytes of entries and frames that are committed in one batch.
    pub max_batch: usize,
    /// Sealing begins by itself when this many bytes of the journal are unsealed; `None` never.
    pub seal_after: Option<u64>,
    /// A checkpoint of the index is written, after a seal, when so many entries came since the last one; `None` never.
    pub checkpoint_after: Option<u64>,
    /// How space is given back.
    pub reclaim: ReclaimConfig,
    /// How the rules of buckets are followed.
    pub lifecycle: LifecycleConfig,
    /// How often the drives are looked at; `None` never.
    pub check_every: Option<Duration>,
    /// How what is stored is kept whole.
    pub keep: KeepConfig,
    /// How often the retention clock is journaled while there is activity; `None` never.
    pub tick_every: Option<Duration>,
    /// How long a drive is waited for that does not answer a read of the journal.
    pub patience: Patience,
    /// The time by which drives are scrubbed, and by which one that does not answer has failed.
    pub node_clock: Arc<dyn storage_node::clock::Clock>,
    /// The format level by which this process writes: taken from the index, and raised when a raise is journaled.
    pub level: CurrentLevel,
    /// Written into segment headers.
    pub software: String,
    /// Safety steps that a test takes away.
    pub sabotage: SabotageSet,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            cluster: None,
            geometry: None,
            wait_for_nodes: Duration::ZERO,
            audit: None,
            survive: None,
            data_segment: 1 << 30,
            journal_segment: 256 << 20,
            preallocate_step: 64 << 20,
            reserve: 0,
            reads_per_drive: 8,
            shard_target: 8 << 20,
            max_batch: 8 << 20,
            seal_after: Some(256 << 20),
            checkpoint_after: Some(1_000_000),
            reclaim: ReclaimConfig::default(),
            lifecycle: LifecycleConfig::default(),
            check_every: Some(Duration::from_secs(3)),
            keep: KeepConfig::default(),
            tick_every: Some(Duration::from_secs(60)),
            patience: Patience::default(),
            node_clock: Arc::new(storage_node::clock::SystemClock),
            level: CurrentLevel::default(),
            software: codec::level::SOFTWARE.to_owned(),
            sabotage: SabotageSet::default(),
        }
    }
}

/// Gives the keys; told whether this is a first start, when a key may be made. Asked before anything is written.
pub type KeySource = Box<dyn FnOnce(bool) -> Result<Keys, KeyError> + Send>;

/// What a service is made of.
pub struct Parts {
    /// The drives' directories.
    pub disks: Vec<Arc<dyn Disk>>,
    /// The node's index.
    pub node_index: Arc<dyn Kv>,
    /// Metadata's index.
    pub index: Arc<dyn IndexHome>,
    /// The key-encryption key.
    pub keys: KeySource,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

/// What a service is made of whose drives are served by other processes.
pub struct NodeParts {
    /// The storage nodes.
    pub nodes: Arc<dyn NodeHost>,
    /// The cluster that they belong to, by their certificates.
    pub cluster: ClusterId,
    /// Metadata's index.
    pub index: Arc<dyn IndexHome>,
    /// The key-encryption key.
    pub keys: KeySource,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
}

/// [`Parts`] of either kind.
pub enum AnyParts {
    /// The drives are directories of this machine.
    Near(Parts),
    /// The drives are served by other processes.
    Far(NodeParts),
}

impl From<Parts> for AnyParts {
    fn from(parts: Parts) -> AnyParts {
        AnyParts::Near(parts)
    }
}

impl From<NodeParts> for AnyParts {
    fn from(parts: NodeParts) -> AnyParts {
        AnyParts::Far(parts)
    }
}

/// Who serves the drives.
enum Drives {
    /// This process: directories, and the node's index.
    Near(Vec<Arc<dyn Disk>>, Arc<dyn Kv>),
    /// Other processes, of this cluster.
    Far(Arc<dyn NodeHost>, ClusterId),
}

/// Parts without their keys.
struct Means {
    drives: Drives,
    index: Arc<dyn IndexHome>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Metadata nodes agree on what happens, and this one leads.
    lead: Option<lead::Lead>,
}

impl Means {
    /// The directories of this machine.
    fn disks(&self) -> &[Arc<dyn Disk>] {
        match &self.drives {
            Drives::Near(disks, _) => disks,
            Drives::Far(..) => &[],
        }
    }
}

impl AnyParts {
    fn split(self) -> (Means, KeySource) {
        match self {
            AnyParts::Near(Parts { disks, node_index, index, keys, clock, entropy }) => {
                (Means { drives: Drives::Near(disks, node_index), index, clock, entropy, lead: None }, keys)
            }
            AnyParts::Far(NodeParts { nodes, cluster, index, keys, clock, entropy }) => {
                (Means { drives: Drives::Far(nodes, cluster), index, clock, entropy, lead: None }, keys)
            }
        }
    }
}

/// Starts the service. With a reason against writing it serves reads only, and says why in its status.
pub async fn start(parts: impl Into<AnyParts>, config: Config) -> Result<Metadata, StartError> {
    let (means, source) = parts.into().split();
    let (opened, key) = open(&means, &config, source).await?;
    let node = opened.node.clone();
    let started = async {
        let scene = opened.look(&config).await?;
        match scene.judge(&config) {
            Ok(()) => serve(means, config, scene, key, None).await,
            Err(_) if scene.refused.is_some() => Err(scene.refusal()),
            Err(reason) => read_only(means, config, scene, key, reason).await,
        }
    };
    or_stop(&node, started.await).await
}

/// Releases the drives of a start that came to nothing.
async fn or_stop<T>(node: &Arc<dyn NodeHost>, result: Result<T, StartError>) -> Result<T, StartError> {
    if result.is_err() {
        node.stop().await;
    }
    result
}

/// Everything that a start has seen before it decides.
struct Scene {
    cluster: ClusterId,
    node: Arc<dyn NodeHost>,
    kv: Option<Arc<dyn Kv>>,
    mark: IndexMark,
    copies: Vec<DriveCopy>,
    register: Register,
    /// The register exists only in memory: a first start.
    first: bool,
    chain: Chain,
    geometry: Geometry,
    refused: Option<Refused>,
}

/// A drive that this process was not let look at, and why. It counts as absent where the others do without it; where they don't,
/// the start ends, since nobody may be asked to accept as lost what is merely not to be read.
type Refused = (String, DiskError);

impl Scene {
    /// The end of a start that can't do without a drive that it was not let look at.
    fn refusal(&self) -> StartError {
        match self.refused.clone() {
            Some((path, source)) => StartError::Refused { path, source },
            None => StartError::NoRegister,
        }
    }

    fn judge(&self, config: &Config) -> Result<(), ReadOnlyReason> {
        if self.first { Ok(()) } else { self.judge_index(config, self.mark) }
    }

    /// The same, of a start that is none and an index that counts as being at `mark`.
    fn judge_index(&self, config: &Config, mark: IndexMark) -> Result<(), ReadOnlyReason> {
        judge(&self.copies, &self.register, &self.chain, mark, &config.sabotage)?;
        let needed = self.register.members.len();
        let usable = self.copies.iter().filter(|c| self.register.registered.contains(&c.drive)).count();
        if usable < needed { Err(ReadOnlyReason::TooFewDrives { usable, needed }) } else { Ok(()) }
    }
}

/// Drives and index, opened. Nothing was written but the identities of a first start.
struct Opened {
    cluster: ClusterId,
    node: Arc<dyn NodeHost>,
    kv: Arc<dyn Kv>,
    mark: IndexMark,
    /// A first start: the drives, in the order given.
    fresh: Option<Vec<DriveId>>,
    refused: Option<Refused>,
}

async fn open(parts: &Means, config: &Config, source: KeySource) -> Result<(Opened, Key), StartError> {
    let (disks, node_index) = match &parts.drives {
        Drives::Near(disks, node_index) => (disks, node_index),
        Drives::Far(nodes, cluster) => return far::open(parts, nodes, *cluster, config, source).await,
    };
    if disks.is_empty() {
        return Err(StartError::NoDrives);
    }
    let (kv, index_cluster) = open_index(&*parts.index)?;
    let looks = disks.iter().map(|disk| look_at(disk.clone(), config.patience.deadline));
    let probed: Vec<ProbedDrive> = join_all(looks).await;
    let refused = refused(&probed);
    // The others would be next; or, where a later release wrote what one drive holds, they would do without it, and what lies on it
    // would be rebuilt elsewhere although it is as good as ever.
    let ends = |source: &DiskError| source.is_exhaustion() || source.is_newer();
    if let Some((path, source)) = refused.clone().filter(|(_, source)| ends(source)) {
        return Err(StartError::Refused { path, source });
    }
    let known = config.cluster.or(index_cluster);
    // The configuration is told the cluster when a start serves, and the index follows the journal.
    let served = config.cluster.is_some() || index_mark(&*kv)?.applied > Lsn(0);
    let first = first_start(&probed, known, served)?;
    let (cluster, probed, key) = match first {
        Some(interrupted) => {
            // A first start that has no key ends here, and not with drives that it has formatted.
            let key = Key::Checked(source(true)?);
            let (cluster, probed) = format_all(parts, config, interrupted)?;
            (cluster, probed, key)
        }
        None => {
            let cluster = config.cluster.or_else(|| common_cluster(&probed)).ok_or(StartError::NoRegister)?;
            (cluster, probed, Key::Source(source))
        }
    };
    let ours = our_drives(probed, cluster, config.cluster.is_some())?;
    let ids = ours.iter().filter_map(|d| d.identity.map(|i| i.drive)).collect();
    let kv = own_index(parts, kv, index_cluster, cluster)?;
    let mark = index_mark(&*kv)?;
    let node = StorageNode::open(node_config(config, cluster), ours, node_index.clone()).await?;
    Ok((Opened { cluster, node, kv, mark, fresh: first.map(|_| ids), refused }, key))
}

/// The first drive that this process was not let look at; one of a later release comes before one for want of something, and that
/// before one for want of leave.
fn refused(probed: &[ProbedDrive]) -> Option<Refused> {
    let refused = probed.iter().filter_map(|drive| match &drive.state {
        ProbedState::Refused(error) => Some((drive.disk.path_hint(), error.clone())),
        _ => None,
    });
    refused.max_by_key(|(path, error)| (error.is_newer(), error.is_exhaustion(), std::cmp::Reverse(path.clone())))
}

impl Opened {
    /// Step 1: asks the drives.
    async fn look(self, config: &Config) -> Result<Scene, StartError> {
        let Opened { cluster, node, kv, mark, fresh, refused } = self;
        let copies = survey(&*node, mark.sealed, config.patience.deadline, &config.sabotage).await?;
        let (register, first) = match (newest_register(&copies), fresh) {
            (Some(register), _) => (register.clone(), false),
            (None, Some(ids)) => {
                let register = first_register(config, cluster, &ids)?;
                rule::check_first(config, &*node, Geometry::new(register.k, register.m)?).await?;
                (register, true)
            }
            (None, None) => return Err(no_register(&*node).await),
        };
        let geometry = Geometry::new(register.k, register.m)?;
        if let Some(asked) = config.geometry.filter(|asked| *asked != geometry) {
            return Err(StartError::GeometryDiffers { fixed: geometry, asked });
        }
        codec::erasure::cpu_check()?;
        if !config.sabotage.is(Sabotage::SelfTest) {
            self_test_of(&config.sabotage.erasure(geometry))?;
        }
        let chain = best_chain(&copies, mark, &config.sabotage);
        Ok(Scene { cluster, node, kv: Some(kv), mark, copies, register, first, chain, geometry, refused })
    }
}

/// Looks at a directory. One that does not answer is no drive for this start.
async fn look_at(disk: Arc<dyn Disk>, limit: Duration) -> ProbedDrive {
    let asked = disk.clone();
    let looking = tokio::task::spawn_blocking(move || probe(asked, None));
    let reason = match tokio::time::timeout(limit, looking).await {
        Ok(Ok(probed)) => return probed,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} ms", limit.as_millis()),
    };
    let state = ProbedState::Damaged { reason };
    ProbedDrive { disk, state, identity: None, register: bytes::Bytes::new(), register_damaged: true }
}

/// Why no register could be read: mostly that the drives can't be opened, for instance because another process serves them.
async fn no_register(node: &dyn NodeClient) -> StartError {
    let failed = |d: storage_node::client::DriveStatus| match d.health {
        DriveHealth::Failed { reason } => Some(StartError::DriveUnusable { path: d.path, reason }),
        _ => None,
    };
    node.drives().await.into_iter().find_map(failed).unwrap_or(StartError::NoRegister)
}

fn node_config(config: &Config, cluster: ClusterId) -> NodeConfig {
    NodeConfig {
        cluster,
        data_segment: config.data_segment,
        journal_segment: config.journal_segment,
        preallocate_step: config.preallocate_step,
        reserve: config.reserve,
        reads_per_drive: config.reads_per_drive,
        software: config.software.clone(),
        clock: config.node_clock.clone(),
        ..NodeConfig::new(cluster)
    }
}

/// Opens the index; a damaged one is destroyed, since it can be rebuilt from media.
fn open_index(home: &dyn IndexHome) -> Result<(Arc<dyn Kv>, Option<ClusterId>), StartError> {
    let opened = home.open().map_err(IndexError::from).and_then(|kv| {
        // First: what a later release keeps otherwise would look like damage, and be thrown away.
        let level = index::level(&Overlay::new(&*kv))?;
        if !FormatLevel(level.level).is_known() {
            return Ok((kv, None, level));
        }
        let cluster = kv.get(META, CLUSTER)?.and_then(|bytes| ClusterId::from_slice(&bytes));
        index_mark(&*kv)?;
        if checkpoint::half_loaded(&*kv)? {
            return Err(damaged(META, &[], RowFault::Dangling));
        }
        Ok((kv, cluster, level))
    });
    match opened {
        Ok((kv, cluster, level)) => {
            TooNew::check(FormatLevel(level.level), &level.by)?;
            Ok((kv, cluster))
        }
        Err(error @ (IndexError::Store(KvError::Corrupt { .. }) | IndexError::Damaged { .. })) => {
            tracing::warn!(%error, "the index is damaged; it is rebuilt from the drives");
            home.destroy()?;
            Ok((home.open()?, None))
        }
        Err(error) => Err(error.into()),
    }
}

/// The index, if it is this cluster's; another cluster's is put aside.
fn own_index(
    parts: &Means,
    kv: Arc<dyn Kv>,
    found: Option<ClusterId>,
    cluster: ClusterId,
) -> Result<Arc<dyn Kv>, StartError> {
    if found == Some(cluster) {
        return Ok(kv);
    }
    drop(kv);
    match found {
        Some(other) => {
            let aside = parts.index.set_aside(PutAside::OtherCluster)?;
            tracing::warn!(%other, aside, "the index belongs to another cluster; it is kept aside and a new one is built");
        }
        // No cluster: new, or left by a start that ended before it was given one.
        None => parts.index.destroy()?,
    }
    empty_index(&*parts.index, cluster)
}

/// A new index of this cluster.
fn empty_index(home: &dyn IndexHome, cluster: ClusterId) -> Result<Arc<dyn Kv>, StartError> {
    let kv = home.open()?;
    let mut batch = KvBatch::new();
    batch.put(META, CLUSTER, cluster.as_bytes().to_vec());
    kv.write(batch)?;
    Ok(kv)
}

/// The cluster of most drives; a drive of another one is refused by name later.
fn common_cluster(probed: &[ProbedDrive]) -> Option<ClusterId> {
    let clusters: Vec<ClusterId> = probed.iter().filter_map(|d| d.identity.map(|i| i.cluster)).collect();
    clusters.iter().copied().max_by_key(|c| (clusters.iter().filter(|other| *other == c).count(), *c))
}

fn random<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N], StartError> {
    clock::random(entropy).ok_or(StartError::Random)
}

/// The drives to open. One identity at two paths is refused, and so is a drive of another cluster as long as nobody has
/// said which cluster is ours (R18). Where that is known, it is named and left alone, and the drive that should be there is
/// absent like one that is gone: a wrong drive in one slot must not keep a store down that could do without the right one.
fn our_drives(probed: Vec<ProbedDrive>, cluster: ClusterId, known: bool) -> Result<Vec<ProbedDrive>, StartError> {
    let mut ours: Vec<ProbedDrive> = Vec::new();
    let mut foreign = None;
    for drive in probed {
        let path = drive.disk.path_hint();
        match (&drive.state, drive.identity) {
            (_, Some(identity)) if identity.cluster != cluster => {
                let theirs = identity.cluster;
                tracing::error!(path, cluster = %theirs, ours = %cluster, "a drive of another cluster: left alone, and ours is absent");
                foreign.get_or_insert(StartError::ForeignDrive { path, cluster: theirs, ours: cluster });
            }
            (ProbedState::Ours, Some(identity)) => {
                let same = ours.iter().find(|d| d.identity.is_some_and(|i| i.drive == identity.drive));
                if let Some(same) = same {
                    let first = same.disk.path_hint();
                    return Err(StartError::SameDrive { drive: identity.drive, first, second: path });
                }
                ours.push(drive);
            }
            (state, _) => {
                tracing::warn!(path, %state, "this directory is no drive of the cluster; it counts as absent")
            }
        }
    }
    match foreign {
        Some(foreign) if !known || ours.is_empty() => Err(foreign),
        _ => Ok(ours),
    }
}

#[cfg(test)]
pub(crate) mod tests;
