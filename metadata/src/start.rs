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

use crate::clock::{Clock, Entropy, RetentionClock};
use crate::command::{Command, GEOMETRY_SETTING};
use crate::commit::{Asked, Committer, Request};
use crate::ensemble::{Candidate, choose_members};
use crate::index::{self, IndexError, META, Overlay};
use crate::journal::{Journal, JournalMap, JournalStart, JournalStopped};
use crate::keys::{KeyError, Keys};
use crate::loss::{self, LossReport};
use crate::replay::{self, Replay, ReplayError, index_mark};
use crate::seal::Sealer;
use crate::service::{Metadata, Shared, SharedParts, Writing};
use crate::stripe_writer::StripeWriter;
use crate::survey::{
    Chain, DriveCopy, IndexMark, ReadOnlyReason, before_gap, best_chain, judge, newest_register, survey,
};
use crate::tasks;
use crate::topology::default_geometry;
use bytes::Bytes;
use codec::effect::{AcceptedLossRow, DriveRow, DriveState, SealedRow, SettingRow};
use codec::erasure::{Geometry, self_test};
use codec::id::{ClusterId, DriveId, Epoch, Lsn};
use codec::journal::NO_ENTRY;
use codec::register::Register;
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::{DriveHealth, NodeClient};
use storage_node::disk::Disk;
use storage_node::drive::{self, ProbedDrive, ProbedState, probe};
use storage_node::kv::{Kv, KvBatch, KvError};
use storage_node::node::{NodeConfig, StorageNode};
use storage_node::sabotage::SabotageSet;
use tokio::sync::mpsc;

mod error;

pub use error::StartError;

const CLUSTER: &[u8] = b"cluster";
/// Commands that wait for the committer.
const QUEUE: usize = 4096;
/// By how much an accepted loss raises the epoch's count and the ensemble's sequence.
const LEAP: u64 = 1 << 16;
/// What a record costs beside its entries: header block, block tails, length prefixes.
const RECORD_OVERHEAD: u64 = 64 * 1024;

/// Where the index is kept: opened, thrown away when it is damaged, put aside when it may still be wanted.
pub trait IndexHome: Send + Sync {
    /// Opens the index, creating an empty one if there is none.
    fn open(&self) -> Result<Arc<dyn Kv>, KvError>;
    /// Throws the index away.
    fn destroy(&self) -> Result<(), KvError>;
    /// Keeps the index under another name and returns that name. Nobody has it open.
    fn set_aside(&self) -> Result<String, KvError>;
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster that the drives must be of; `None` takes it from the drives.
    pub cluster: Option<ClusterId>,
    /// The geometry asked for; the journaled one counts, and another is refused.
    pub geometry: Option<Geometry>,
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
    /// How often the drives are looked at; `None` never.
    pub check_every: Option<Duration>,
    /// How often the retention clock is journaled while there is activity; `None` never.
    pub tick_every: Option<Duration>,
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
            data_segment: 1 << 30,
            journal_segment: 256 << 20,
            preallocate_step: 64 << 20,
            reserve: 0,
            reads_per_drive: 8,
            shard_target: 8 << 20,
            max_batch: 8 << 20,
            seal_after: Some(256 << 20),
            check_every: Some(Duration::from_secs(3)),
            tick_every: Some(Duration::from_secs(60)),
            software: concat!("stele ", env!("CARGO_PKG_VERSION")).to_owned(),
            sabotage: SabotageSet::default(),
        }
    }
}

/// Gives the keys; told whether this is a first start, when a key may be made.
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

/// Starts the service. With a reason against writing it serves reads only, and says why in its status.
pub async fn start(parts: Parts, config: Config) -> Result<Metadata, StartError> {
    let opened = open(&parts, &config).await?;
    let node = opened.node.clone();
    let started = async {
        let scene = opened.look(&config).await?;
        match scene.judge(&config) {
            Ok(()) => serve(parts, config, scene, None).await,
            Err(reason) => read_only(parts, config, scene, reason),
        }
    };
    or_stop(&node, started.await).await
}

/// Accepts the loss that keeps the service from writing, and starts it. The old index is kept aside; the new one is built from
/// what the drives have; the report lists what the old one knew and the new one does not.
pub async fn accept_loss(parts: Parts, config: Config) -> Result<(Metadata, LossReport), StartError> {
    let opened = open(&parts, &config).await?;
    let node = opened.node.clone();
    let accepted = async {
        let scene = opened.look(&config).await?;
        accept(parts, config, scene).await
    };
    or_stop(&node, accepted.await).await
}

/// Releases the drives of a start that came to nothing.
async fn or_stop<T>(node: &Arc<StorageNode>, result: Result<T, StartError>) -> Result<T, StartError> {
    if result.is_err() {
        node.stop().await;
    }
    result
}

async fn accept(parts: Parts, config: Config, mut scene: Scene) -> Result<(Metadata, LossReport), StartError> {
    let Err(reason) = scene.judge(&config) else { return Err(StartError::NoLoss) };
    if matches!(reason, ReadOnlyReason::TooFewDrives { .. }) {
        return Err(StartError::NoLoss);
    }
    tracing::warn!(%reason, "accepting a loss");
    // What the index says to be sealed may be among what is lost, so the drives alone are asked what is left. All of this is
    // known before anything changes: what comes to nothing must leave the old index in its place, to be read from.
    scene.copies = survey(&*scene.node, Lsn(0)).await?;
    let reach = replay::reach(&*scene.node).await;
    scene.chain = best_chain(&scene.copies, IndexMark { sealed: reach.sealed, ..IndexMark::NONE }, &config.sabotage);
    let (mut loss, sealed) =
        loss::cut(&mut scene.chain, &reach, scene.mark, &scene.copies).map_err(ReplayError::from)?;
    // The register knows, too: from the last change of the ensemble, or from an acceptance that was interrupted.
    loss.known = loss.known.max(scene.register.first_lsn.0.saturating_sub(1));
    let register = loss::surviving_register(&scene.register, &scene.copies);
    let removed = scene.register.registered.iter().filter(|d| !register.registered.contains(d)).copied().collect();
    scene.register = register;
    let epoch = announce(&parts, &config, &mut scene, Lsn(loss.known)).await?;
    // From here on the old index is only read for the report.
    let lost = scene.kv.take().map(|old| loss::newer_than(&*old, Lsn(loss.kept))).unwrap_or_default();
    let aside = parts.index.set_aside()?;
    scene.kv = Some(empty_index(&*parts.index, scene.cluster)?);
    scene.mark = IndexMark::NONE;
    let accepted = Accepted { row: loss.clone(), sealed, removed, epoch };
    let metadata = serve(parts, config, scene, Some(accepted)).await?;
    Ok((metadata, LossReport { kept: Lsn(loss.kept), known: Lsn(loss.known), index_kept_at: aside, lost }))
}

/// An accepted loss on its way into the journal.
struct Accepted {
    row: AcceptedLossRow,
    sealed: Option<SealedRow>,
    removed: Vec<DriveId>,
    epoch: Epoch,
}

/// Writes a register that begins behind everything that is known to have existed: until the loss is journaled no member is
/// complete under it. So a crash after the old index is put aside leaves a service that reads only, and not one that sees
/// nothing wrong and gives the lost entries' LSNs to others. Epoch and sequence leap, since drives that are not here may have
/// seen more starts and ensembles than those that are: should they come back, theirs must not be the newer history.
async fn announce(parts: &Parts, config: &Config, scene: &mut Scene, known: Lsn) -> Result<Epoch, StartError> {
    let kv = scene.kv.clone().ok_or(StartError::NoRegister)?;
    let next = next_epoch(scene, &kv, &*parts.entropy)?;
    let epoch = Epoch(next.0.saturating_add(LEAP << 32));
    scene.node.begin(epoch).await?;
    let mut journal = Journal::new(JournalStart {
        node: scene.node.clone(),
        map: Arc::default(),
        register: scene.register.clone(),
        epoch,
        last: (known, NO_ENTRY),
        sabotage: config.sabotage.clone(),
    });
    let mut register = scene.register.clone();
    register.sequence = register.sequence.saturating_add(LEAP);
    register.epoch = epoch;
    register.first_lsn = known.next();
    let written = journal.replace_register(register.clone()).await;
    written.map_err(|stopped| StartError::Journal(stopped.to_string()))?;
    scene.register = register;
    Ok(epoch)
}

/// Everything that a start has seen before it decides.
struct Scene {
    cluster: ClusterId,
    node: Arc<StorageNode>,
    kv: Option<Arc<dyn Kv>>,
    mark: IndexMark,
    copies: Vec<DriveCopy>,
    register: Register,
    /// The register exists only in memory: a first start.
    first: bool,
    chain: Chain,
    geometry: Geometry,
}

impl Scene {
    fn judge(&self, config: &Config) -> Result<(), ReadOnlyReason> {
        if self.first {
            return Ok(());
        }
        judge(&self.copies, &self.register, &self.chain, self.mark, &config.sabotage)?;
        let needed = self.register.members.len();
        let usable = self.copies.iter().filter(|c| self.register.registered.contains(&c.drive)).count();
        if usable < needed { Err(ReadOnlyReason::TooFewDrives { usable, needed }) } else { Ok(()) }
    }
}

/// Drives and index, opened. Nothing was written but the identities of a first start.
struct Opened {
    cluster: ClusterId,
    node: Arc<StorageNode>,
    kv: Arc<dyn Kv>,
    mark: IndexMark,
    /// A first start: the drives, in the order given.
    fresh: Option<Vec<DriveId>>,
}

async fn open(parts: &Parts, config: &Config) -> Result<Opened, StartError> {
    if parts.disks.is_empty() {
        return Err(StartError::NoDrives);
    }
    let (kv, index_cluster) = open_index(&*parts.index)?;
    let probed: Vec<ProbedDrive> = parts.disks.iter().map(|disk| probe(disk.clone(), None)).collect();
    let known = config.cluster.or(index_cluster);
    let first = first_start(&probed, known)?;
    let (cluster, probed) = match first {
        Some(interrupted) => format_all(parts, config, interrupted)?,
        None => (config.cluster.or_else(|| common_cluster(&probed)).ok_or(StartError::NoRegister)?, probed),
    };
    let ours = our_drives(probed, cluster, config.cluster.is_some())?;
    let ids = ours.iter().filter_map(|d| d.identity.map(|i| i.drive)).collect();
    let kv = own_index(parts, kv, index_cluster, cluster)?;
    let mark = index_mark(&*kv)?;
    let node = StorageNode::open(node_config(config, cluster), ours, parts.node_index.clone()).await?;
    Ok(Opened { cluster, node, kv, mark, fresh: first.map(|_| ids) })
}

impl Opened {
    /// Step 1: asks the drives.
    async fn look(self, config: &Config) -> Result<Scene, StartError> {
        let Opened { cluster, node, kv, mark, fresh } = self;
        let copies = survey(&*node, mark.sealed).await?;
        let (register, first) = match (newest_register(&copies), fresh) {
            (Some(register), _) => (register.clone(), false),
            (None, Some(ids)) => (first_register(config, cluster, &ids)?, true),
            (None, None) => return Err(no_register(&*node).await),
        };
        let geometry = Geometry::new(register.k, register.m)?;
        if let Some(asked) = config.geometry.filter(|asked| *asked != geometry) {
            return Err(StartError::GeometryDiffers { fixed: geometry, asked });
        }
        codec::erasure::cpu_check()?;
        self_test(geometry)?;
        let chain = best_chain(&copies, mark, &config.sabotage);
        Ok(Scene { cluster, node, kv: Some(kv), mark, copies, register, first, chain, geometry })
    }
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
    }
}

/// Opens the index; a damaged one is destroyed, since it can be rebuilt from media.
fn open_index(home: &dyn IndexHome) -> Result<(Arc<dyn Kv>, Option<ClusterId>), StartError> {
    let opened = home.open().map_err(IndexError::from).and_then(|kv| {
        let cluster = kv.get(META, CLUSTER)?.and_then(|bytes| ClusterId::from_slice(&bytes));
        index_mark(&*kv)?;
        Ok((kv, cluster))
    });
    match opened {
        Ok(found) => Ok(found),
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
    parts: &Parts,
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
            let aside = parts.index.set_aside()?;
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

/// Whether this is a first start: `Some(None)` for one that begins, `Some(cluster)` for one that was interrupted before any
/// drive had a register, so that nothing can have been stored.
fn first_start(probed: &[ProbedDrive], known: Option<ClusterId>) -> Result<Option<Option<ClusterId>>, StartError> {
    let ours = || probed.iter().filter(|d| matches!(d.state, ProbedState::Ours));
    let mut registers = Vec::new();
    for drive in ours() {
        // A register that is there and does not verify is an error here: only "never written" means a fresh drive.
        registers.push(drive::read_register(&*drive.disk).map_or(true, |bytes| !bytes.is_empty()));
    }
    if registers.contains(&true) {
        return Ok(None);
    }
    let other = probed.iter().find(|d| !matches!(d.state, ProbedState::Empty | ProbedState::Ours));
    match (ours().next().and_then(|d| d.identity), known, other) {
        // An index or configuration that knows a cluster, and no drive of it.
        (None, Some(cluster), _) => {
            let path = probed.first().map(|d| d.disk.path_hint()).unwrap_or_default();
            let state = probed.first().map_or(ProbedState::Missing, |d| d.state.clone());
            Err(StartError::DrivesGone { cluster, path, state })
        }
        (_, _, Some(other)) => Err(StartError::NotEmpty { path: other.disk.path_hint(), state: other.state.clone() }),
        (identity, _, None) => Ok(Some(identity.map(|i| i.cluster))),
    }
}

/// The cluster of most drives; a drive of another one is refused by name later.
fn common_cluster(probed: &[ProbedDrive]) -> Option<ClusterId> {
    let clusters: Vec<ClusterId> = probed.iter().filter_map(|d| d.identity.map(|i| i.cluster)).collect();
    clusters.iter().copied().max_by_key(|c| (clusters.iter().filter(|other| *other == c).count(), *c))
}

fn random<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N], StartError> {
    let mut out = [0; N];
    if entropy.fill(&mut out) { Ok(out) } else { Err(StartError::Random) }
}

/// Formats the empty directories of a first start.
fn format_all(
    parts: &Parts,
    config: &Config,
    interrupted: Option<ClusterId>,
) -> Result<(ClusterId, Vec<ProbedDrive>), StartError> {
    let geometry = first_geometry(config, parts.disks.len())?;
    tracing::info!(drives = parts.disks.len(), %geometry, "first start: formatting the drives");
    let cluster = match interrupted.or(config.cluster) {
        Some(cluster) => cluster,
        None => ClusterId(random(&*parts.entropy)?),
    };
    let mut probed = Vec::new();
    for disk in &parts.disks {
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

fn first_geometry(config: &Config, drives: usize) -> Result<Geometry, StartError> {
    let geometry = config.geometry.or_else(|| default_geometry(drives)).ok_or(StartError::NoDrives)?;
    let needed = 1 + usize::from(geometry.m());
    if drives < needed { Err(StartError::TooFewDrives { geometry, needed, drives }) } else { Ok(geometry) }
}

/// The register of a first start; its members are chosen again, by free space, when the drives take writes.
fn first_register(config: &Config, cluster: ClusterId, drives: &[DriveId]) -> Result<Register, StartError> {
    let geometry = first_geometry(config, drives.len())?;
    let mut registered = drives.to_vec();
    registered.sort();
    let members = registered.iter().take(1 + usize::from(geometry.m())).copied().collect();
    let (k, m) = (geometry.k(), geometry.m());
    Ok(Register { cluster, sequence: 1, epoch: Epoch(0), first_lsn: Lsn(1), k, m, members, registered })
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

/// A service that reads: nothing is written to media, and no epoch is taken.
fn read_only(parts: Parts, config: Config, scene: Scene, reason: ReadOnlyReason) -> Result<Metadata, StartError> {
    tracing::error!(%reason, "writes are not served");
    let Scene { node, kv, mark, copies, register, mut chain, geometry, .. } = scene;
    let kv = kv.ok_or(StartError::NoRegister)?;
    let keys = open_keys(parts.keys, &*kv)?;
    let epoch = index::epoch(&Overlay::new(&*kv))?;
    // The chain ends at an entry that is lost; what lies before it can still be read by those whose index names it.
    if let Some(gap) = chain.gap {
        chain.held.extend(before_gap(&copies, gap, mark.sealed));
    }
    let map = Arc::new(JournalMap::new(chain.held));
    let shared = shared_of(&node, &kv, map, &parts.clock, &config);
    let shared = Arc::new(Shared::new(shared, mark.applied, mark.sealed));
    shared.set_register(register);
    shared.set_read_only(reason.to_string());
    let tasks = tasks::reading(&shared, &config);
    Ok(Metadata::new(shared, node, keys, geometry, epoch, None, tasks))
}

fn shared_of(
    node: &Arc<StorageNode>,
    kv: &Arc<dyn Kv>,
    map: Arc<JournalMap>,
    clock: &Arc<dyn Clock>,
    config: &Config,
) -> SharedParts {
    let max_entry = usize::try_from(config.journal_segment.saturating_sub(RECORD_OVERHEAD)).unwrap_or(usize::MAX);
    SharedParts {
        node: node.clone(),
        kv: kv.clone(),
        map,
        clock: clock.clone(),
        sabotage: config.sabotage.clone(),
        max_entry: max_entry.min(codec::journal::MAX_ENTRY),
    }
}

/// The keys, checked against what is journaled: a key that does not unwrap this cluster's secrets is refused.
fn open_keys(source: KeySource, kv: &dyn Kv) -> Result<Keys, StartError> {
    let check = index::setting(&Overlay::new(kv), crate::keys::KEY_CHECK_SETTING)?;
    let keys = source(check.is_none())?;
    if let Some(check) = check {
        keys.check(&check)?;
    }
    Ok(keys)
}

/// Steps 3 to 6.
async fn serve(
    parts: Parts,
    config: Config,
    mut scene: Scene,
    accepted: Option<Accepted>,
) -> Result<Metadata, StartError> {
    let kv = scene.kv.clone().ok_or(StartError::NoRegister)?;
    let mut replay = Replay::new(&*kv, scene.mark, config.sabotage.clone());
    match replay.ledger(&*scene.node, &scene.chain).await {
        Ok(()) => {}
        Err(ReplayError::ReadOnly(reason)) if accepted.is_none() => return read_only(parts, config, scene, reason),
        Err(error) => return Err(error.into()),
    }
    let epoch = match &accepted {
        Some(accepted) => accepted.epoch,
        None => next_epoch(&scene, &kv, &*parts.entropy)?,
    };
    scene.node.begin(epoch).await?;
    let map = Arc::new(JournalMap::new(std::mem::take(&mut scene.chain.held)));
    let mut journal = Journal::new(JournalStart {
        node: scene.node.clone(),
        map: map.clone(),
        register: scene.register.clone(),
        epoch,
        last: scene.chain.last,
        sabotage: config.sabotage.clone(),
    });
    if let Some(accepted) = &accepted {
        journal.skip_to(Lsn(accepted.row.known).next());
    }
    let begun = begin_journal(&mut journal, &scene).await;
    if let Err(stopped) = begun {
        scene.chain.held = std::collections::BTreeMap::new();
        let shared = shared_of(&scene.node, &kv, map, &parts.clock, &config);
        return stopped_service(parts, config, scene, shared, stopped);
    }
    match replay.journal(&*scene.node, &map, scene.chain.last.0).await {
        Ok(()) => drop(replay),
        Err(error) => return Err(error.into()),
    }
    finish_start(parts, config, scene, journal, map, kv, epoch, accepted).await
}

/// Writes the register where it is lacking, then new segments on every member, with what each lacks.
async fn begin_journal(journal: &mut Journal, scene: &Scene) -> Result<(), JournalStopped> {
    let mut register = scene.register.clone();
    let have = scene.copies.iter().filter(|copy| copy.register.as_ref() == Some(&register)).count();
    if scene.first {
        register = first_members(scene, register, journal.epoch()).await;
    }
    // A change that was interrupted may be on fewer drives than it needs before anything is acknowledged under it.
    if scene.first || have < scene.register.registered.len().min(scene.copies.len()) {
        journal.replace_register(register).await?;
    }
    journal.establish().await
}

async fn first_members(scene: &Scene, mut register: Register, epoch: Epoch) -> Register {
    let drives = scene.node.drives().await;
    let healthy = drives.iter().filter(|d| d.health == DriveHealth::Healthy);
    let candidates: Vec<Candidate> =
        healthy.map(|d| Candidate { id: d.id, free: d.free, filesystem: d.filesystem_id }).collect();
    if let Some(members) = choose_members(&[], &candidates, register.members.len()) {
        register.members = members;
    }
    register.epoch = epoch;
    register
}

/// A service whose journal could not be brought to 1+m drives: it reads.
fn stopped_service(
    parts: Parts,
    config: Config,
    scene: Scene,
    shared: SharedParts,
    stopped: JournalStopped,
) -> Result<Metadata, StartError> {
    let keys = open_keys(parts.keys, &*shared.kv)?;
    let epoch = index::epoch(&Overlay::new(&*shared.kv))?;
    let mark = index_mark(&*shared.kv)?;
    let shared = Arc::new(Shared::new(shared, mark.applied, mark.sealed));
    shared.set_register(scene.register);
    shared.set_read_only(stopped.to_string());
    let tasks = tasks::reading(&shared, &config);
    Ok(Metadata::new(shared, scene.node, keys, scene.geometry, epoch, None, tasks))
}

/// An epoch above every one that the drives and the index have seen, with a random low half (R1).
fn next_epoch(scene: &Scene, kv: &Arc<dyn Kv>, entropy: &dyn Entropy) -> Result<Epoch, StartError> {
    let registers = scene.copies.iter().filter_map(|copy| copy.register.as_ref().map(|r| r.epoch));
    let segments = scene.copies.iter().flat_map(|copy| &copy.segments).map(|segment| segment.epoch);
    let entries = scene.chain.held.values().map(|held| held.epoch);
    let index = index::epoch(&Overlay::new(&**kv))?;
    let drives = scene.node.highest_epoch().unwrap_or_default();
    let highest = registers.chain(segments).chain(entries).max().unwrap_or_default().max(index).max(drives);
    Ok(highest.next(u32::from_le_bytes(random(entropy)?)))
}

/// Step 6, and everything that runs afterwards.
#[allow(clippy::too_many_arguments)] // the end of one long sequence, called once
async fn finish_start(
    parts: Parts,
    config: Config,
    scene: Scene,
    journal: Journal,
    map: Arc<JournalMap>,
    kv: Arc<dyn Kv>,
    epoch: Epoch,
    accepted: Option<Accepted>,
) -> Result<Metadata, StartError> {
    let keys = open_keys(parts.keys, &*kv)?;
    let retention = RetentionClock::resume(index::clock(&Overlay::new(&*kv))?, &*parts.clock);
    let mark = index_mark(&*kv)?;
    let shared = shared_of(&scene.node, &kv, map, &parts.clock, &config);
    let shared = Arc::new(Shared::new(shared, mark.applied, mark.sealed));
    let mut committer = Committer::new(journal, shared.clone(), config.max_batch);
    let drives = scene.node.drives().await;
    shared.set_drives(drives.clone());
    committer.check(&drives).await;
    let commands = first_commands(&scene, &kv, &keys, epoch, accepted, &drives)?;
    if !config.sabotage.is(storage_node::sabotage::Sabotage::StartEpochEntry) || scene.first {
        for answer in committer.commit(commands).await {
            answer.map_err(|error| StartError::Journal(error.to_string()))?;
        }
    }
    let node: Arc<dyn NodeClient> = scene.node.clone();
    let stripes = Arc::new(StripeWriter::new(node, scene.cluster, epoch, scene.geometry, config.shard_target));
    let (requests, queue) = mpsc::channel::<Request>(QUEUE);
    let sealer = Arc::new(Sealer::new(shared.clone(), stripes.clone(), requests.clone(), epoch));
    let mut running = vec![tokio::spawn(committer.run(queue))];
    running.extend(tasks::reading(&shared, &config));
    running.extend(tasks::writing(&shared, &config, &sealer, &requests, retention, epoch));
    let writing = Writing { requests, stripes, sealer };
    Ok(Metadata::new(shared, scene.node, keys, scene.geometry, epoch, Some(writing), running))
}

/// What a start journals: an accepted loss first (it must follow the last entry that was kept), then the epoch, then, at a
/// first start, what a cluster is.
fn first_commands(
    scene: &Scene,
    kv: &Arc<dyn Kv>,
    keys: &Keys,
    epoch: Epoch,
    accepted: Option<Accepted>,
    drives: &[storage_node::client::DriveStatus],
) -> Result<Vec<Asked>, StartError> {
    let view = Overlay::new(&**kv);
    let mut asked = Vec::new();
    let mut ask = |writer, command| asked.push(Asked { writer, command, reply: None });
    let mut removed = Vec::new();
    if let Some(accepted) = accepted {
        ask(index::epoch(&view)?, Command::AcceptLoss { loss: accepted.row, sealed: accepted.sealed });
        removed = accepted.removed;
    }
    ask(epoch, Command::StartEpoch { epoch });
    if index::setting(&view, GEOMETRY_SETTING)?.is_none() {
        let value = Bytes::from(scene.geometry.to_string());
        ask(epoch, Command::PutSetting(SettingRow { name: GEOMETRY_SETTING.to_owned(), value }));
        ask(epoch, Command::PutSetting(keys.check_setting()?));
    }
    for id in &scene.register.registered {
        let path = drives.iter().find(|d| d.id == *id).map(|d| d.path.clone());
        if index::drive(&view, *id)?.is_none() {
            ask(epoch, Command::RegisterDrive(drive_row(*id, DriveState::Active, path.unwrap_or_default())));
        }
    }
    for id in removed {
        if let Some(row) = index::drive(&view, id)? {
            ask(epoch, Command::RegisterDrive(drive_row(id, DriveState::Removed, row.path)));
        }
    }
    Ok(asked)
}

fn drive_row(id: DriveId, state: DriveState, path: String) -> DriveRow {
    DriveRow { id: Bytes::copy_from_slice(id.as_bytes()), state: state as i32, node: 0, path }
}

#[cfg(test)]
mod tests;
