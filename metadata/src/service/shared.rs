//! What the service's parts share: drives, index, and what is known of them at present.

use crate::audit::{AskedBy, Audit, Told};
use crate::clock::Clock;
use crate::command::Outcome;
use crate::fail_slow::{FailSlow, Sample};
use crate::index::{self, IndexError, Overlay};
use crate::journal::{JournalMap, JournalReadError};
use crate::keep::claims::Claims;
use crate::lookup::{Located, Losses, Wounds};
use crate::topology::{Sampled, Topology};
use bytes::Bytes;
use codec::erasure::Geometry;
use codec::frame::verify_stored;
use codec::id::{DriveId, Lsn};
use codec::level::FormatLevel;
use codec::register::Register;
use codec::stripe::FramePlace;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use storage_node::client::{DriveStatus, NodeClient, Reserve, STALLED_AFTER};
use storage_node::kv::Kv;
use storage_node::level::CurrentLevel;
use storage_node::sabotage::SabotageSet;
use storage_node::stripe_io::{ReadOptions, read_frame};
use tokio::sync::Notify;

/// What the service's parts share.
pub struct Shared {
    /// The drives.
    pub node: Arc<dyn NodeClient>,
    /// The index.
    pub kv: Arc<dyn Kv>,
    /// Where unsealed entries lie.
    pub map: Arc<JournalMap>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Safety steps that a test takes away.
    pub sabotage: SabotageSet,
    /// The longest entry that a journal segment can take.
    pub max_entry: usize,
    /// What is written goes by it.
    pub level: CurrentLevel,
    /// When the service began; milliseconds of monotonic time.
    pub began_ms: u64,
    /// Held by whoever reads a frame from the journal; sealing waits for them before it frees segments.
    pub readers: tokio::sync::RwLock<()>,
    /// Wakes the sealing task.
    pub wake_sealer: Notify,
    /// A deleted bucket left uploads behind.
    pub wake_sweeper: Notify,
    /// What the entries that are not sealed count for, in bytes ([`JournalMap::weight_upto`]).
    pub unsealed: AtomicU64,
    /// Batches committed since the start; only grows.
    pub batches: AtomicU64,
    /// Stripes whose shards are being moved or collected.
    pub claims: Claims,
    /// What placement does with the drives as they are.
    pub sampled: Sampled,
    /// Who asked for what.
    pub audit: Audit,
    volatile: RwLock<Volatile>,
}

/// Something that lasts until somebody does something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// What would let writes be served again.
    ReadOnly,
    /// An entry that can't be sealed, and with it all that follow.
    Seal,
    /// Manifest chunks that can't be read, so that a dedup domain gives no space back.
    Manifests,
    /// A drive that frees nothing.
    Frees,
    /// A storage node follows another metadata process.
    Superseded,
    /// A rule of placement that is asked for and can't be kept.
    Rule,
    /// The audit log can't be written.
    Audit,
    /// One of two key-encryption keys is missing.
    KeyMissing,
    /// Secrets that no key opens that is here.
    Closed,
}

/// What changes while the service runs. Nothing of it is needed after a restart.
#[derive(Debug, Default)]
pub(super) struct Volatile {
    pub(super) read_only: Option<String>,
    /// Writes are not served again by this service.
    for_good: bool,
    pub(super) alarms: BTreeMap<Alarm, String>,
    /// Secrets that no key opens that is here.
    pub(super) closed: u64,
    pub(super) register: Option<Register>,
    pub(super) losses: Losses,
    pub(super) drives: Vec<DriveStatus>,
    slow: FailSlow,
    /// Drives that a full stripe needs, once that is known.
    full: Option<usize>,
    /// Drives that are being opened again, and how often they will have been: not verified, whoever looked before.
    doubted: BTreeMap<DriveId, u32>,
    pub(super) applied: Lsn,
    pub(super) sealed: Lsn,
}

impl Shared {
    /// Writes the audit log into a directory from now on. Without it changes are served all the same, as they are in the journal;
    /// that nobody writes down who asks for them is an alarm.
    pub(crate) fn open_audit(&self, directory: &Path) {
        let applied = self.volatile().applied;
        let opened = self.audit.open(directory, applied);
        let failed = |error| format!("the audit log in {} can't be written: {error}", directory.display());
        self.set_alarm(Alarm::Audit, opened.err().map(failed));
    }

    /// Writes into the audit log what came of a command.
    pub(crate) fn note(&self, told: Vec<Told>, by: &AskedBy, came: Result<&Outcome, String>) {
        if !told.is_empty() || matches!(came, Ok(Outcome::Committed(_, Some(_)))) {
            let applied = self.volatile().applied;
            self.audit.note(told, by, applied, self.clock.wall_ms(), came);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("volatile", &self.volatile).finish_non_exhaustive()
    }
}

/// What [`Shared::new`] takes.
pub struct SharedParts {
    /// The drives.
    pub node: Arc<dyn NodeClient>,
    /// The index.
    pub kv: Arc<dyn Kv>,
    /// Where unsealed entries lie.
    pub map: Arc<JournalMap>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Safety steps that a test takes away.
    pub sabotage: SabotageSet,
    /// The longest entry that a journal segment can take.
    pub max_entry: usize,
    /// What is written goes by it.
    pub level: CurrentLevel,
}

impl Shared {
    /// Shared state before anything was committed.
    pub fn new(parts: SharedParts, applied: Lsn, sealed: Lsn) -> Shared {
        let began_ms = parts.clock.monotonic_ms();
        let unsealed = parts.map.weight_upto(Lsn(u64::MAX));
        Shared {
            node: parts.node,
            kv: parts.kv,
            map: parts.map,
            clock: parts.clock,
            sabotage: parts.sabotage,
            max_entry: parts.max_entry,
            level: parts.level,
            began_ms,
            readers: tokio::sync::RwLock::new(()),
            wake_sealer: Notify::new(),
            wake_sweeper: Notify::new(),
            unsealed: AtomicU64::new(unsealed),
            batches: AtomicU64::new(0),
            claims: Claims::default(),
            sampled: Sampled::default(),
            audit: Audit::default(),
            volatile: RwLock::new(Volatile { applied, sealed, ..Volatile::default() }),
        }
    }

    pub(super) fn volatile(&self) -> RwLockReadGuard<'_, Volatile> {
        self.volatile.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn volatile_mut(&self) -> RwLockWriteGuard<'_, Volatile> {
        self.volatile.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes are not served from now on. The first reason stays: the others follow from it.
    pub fn set_read_only(&self, reason: String) {
        self.volatile_mut().read_only.get_or_insert(reason);
    }

    /// Writes are served again.
    pub fn set_writable(&self) {
        let mut volatile = self.volatile_mut();
        (volatile.read_only, volatile.for_good) = (None, false);
    }

    /// Why writes are not served is nothing that the drives could end.
    pub fn set_for_good(&self) {
        self.volatile_mut().for_good = true;
    }

    /// Whether only another start can serve writes again.
    pub fn is_for_good(&self) -> bool {
        self.volatile().for_good
    }

    /// Raises an alarm, in words, or ends it: the first thing among [`Status::warnings`].
    pub fn set_alarm(&self, alarm: Alarm, words: Option<String>) {
        let mut volatile = self.volatile_mut();
        match words {
            Some(words) => volatile.alarms.insert(alarm, words),
            None => volatile.alarms.remove(&alarm),
        };
    }

    /// Why writes are not served, if they are not.
    pub fn read_only(&self) -> Option<String> {
        self.volatile().read_only.clone()
    }

    /// The ensemble as it is now.
    pub fn set_register(&self, register: Register) {
        self.volatile_mut().register = Some(register);
    }

    /// What can't be read at present. What keeping knows to be wrong stays ([`Shared::set_wounds`]).
    pub fn set_losses(&self, losses: Losses) {
        let mut volatile = self.volatile_mut();
        volatile.losses = Losses { wounds: volatile.losses.wounds.clone(), ..losses };
    }

    /// What is wrong on drives that answer: refused as dedup hits from now on.
    pub fn set_wounds(&self, wounds: Wounds) {
        self.volatile_mut().losses.wounds = Arc::new(wounds);
    }

    /// What is known to be wrong on drives that answer.
    pub fn wounds(&self) -> Arc<Wounds> {
        self.volatile().losses.wounds.clone()
    }

    /// A drive is about to be opened for the `opened`th time: what it holds is not known to be good from now on.
    pub fn doubt(&self, drive: DriveId, opened: u32) {
        let mut volatile = self.volatile_mut();
        volatile.doubted.insert(drive, opened);
        let mut wounds = Wounds::clone(&volatile.losses.wounds);
        wounds.unverified.insert(drive, None);
        wounds.returned.remove(&drive);
        volatile.losses.wounds = Arc::new(wounds);
    }

    /// A drive answers and has been opened `opened` times: one that was to be opened again and was not is what it was. Without
    /// this, a drive whose machine was out of reach for a while would be doubted for as long as nobody opens it anew.
    pub fn undoubt(&self, drive: DriveId, opened: u32) {
        let mut volatile = self.volatile_mut();
        if volatile.doubted.get(&drive).is_some_and(|doubted| *doubted > opened) {
            volatile.doubted.remove(&drive);
        }
    }

    /// The doubted drives for which `is_new` says that nobody has looked at them since; the others are forgotten.
    pub fn doubted(&self, is_new: impl Fn(DriveId, u32) -> bool) -> Vec<DriveId> {
        let mut volatile = self.volatile_mut();
        volatile.doubted.retain(|drive, opened| is_new(*drive, *opened));
        volatile.doubted.keys().copied().collect()
    }

    /// Drives that take far longer than the others.
    pub fn slow(&self) -> FailSlow {
        self.volatile().slow.clone()
    }

    /// Looks how fast the drives are. `full`: drives that a full stripe needs.
    pub fn look_for_slow(&self, drives: &[DriveStatus], full: usize) -> Result<(), IndexError> {
        let topology = Topology::new(&index::drives(&Overlay::new(&*self.kv))?, drives);
        let usable = |id: DriveId| topology.usable().any(|drive| drive.id == id);
        // What was not answered yet says more than what was.
        let waits =
            |d: &DriveStatus| d.waits(STALLED_AFTER).then(|| u32::try_from(d.unanswered_ms).unwrap_or(u32::MAX));
        let sample = |d: &DriveStatus| Sample { drive: d.id, p99_ms: d.p99_ms.max(waits(d)), usable: usable(d.id) };
        let samples: Vec<Sample> = drives.iter().map(sample).collect();
        let now_ms = self.clock.monotonic_ms();
        self.volatile_mut().slow.look(&samples, full, now_ms);
        Ok(())
    }

    /// What can't be read at present, and what keeping knows to be wrong.
    pub fn losses(&self) -> Losses {
        self.volatile().losses.clone()
    }

    /// How the drives were when they were last looked at.
    pub fn set_drives(&self, drives: Vec<DriveStatus>) {
        self.volatile_mut().drives = drives;
    }

    /// How the drives were when they were last looked at; empty before the first look.
    pub fn seen_drives(&self) -> Vec<DriveStatus> {
        self.volatile().drives.clone()
    }

    /// The format level, as of the last batch that is durable and applied.
    pub fn level(&self) -> FormatLevel {
        self.level.get()
    }

    /// Takes up what the index says of the format level. Only when it is journaled may anybody write by it: a frame of a version
    /// that the next start's level does not have would be refused by a release that the cluster still takes.
    pub fn see_level(&self) -> Result<(), IndexError> {
        self.level.raise(FormatLevel(index::level(&Overlay::new(&*self.kv))?.level));
        Ok(())
    }

    /// A batch is durable and applied.
    pub fn committed(&self, last: Lsn, bytes: u64) {
        // Until it can be read what is written goes by the level before, which everybody reads.
        if let Err(error) = self.see_level() {
            tracing::warn!(%error, "the format level can't be read");
        }
        self.volatile_mut().applied = last;
        self.unsealed.fetch_add(bytes, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.wake_sealer.notify_one();
    }

    /// Everything up to `last` is sealed, and the map has forgotten it.
    pub fn sealed(&self, last: Lsn) {
        self.volatile_mut().sealed = last;
        self.unsealed.store(self.map.weight_upto(Lsn(u64::MAX)), Ordering::Relaxed);
    }

    /// Reads a frame where `chunk` says that it is.
    pub(crate) async fn read_at(&self, chunk: &Located) -> Result<Bytes, String> {
        let place = &chunk.place;
        if let Some(layout) = &chunk.stripe {
            let at = FramePlace { shard: u8::try_from(place.shard).map_err(|e| e.to_string())?, offset: place.offset };
            let read = read_frame(&*self.node, layout, at, place.len, ReadOptions::default()).await;
            return read.map_err(|error| error.to_string());
        }
        let lsn = place.lsn().ok_or("a place that is neither in a stripe nor in the journal")?;
        let end = place.offset.checked_add(place.len).ok_or("a place beyond its entry")?;
        let _reading = self.readers.read().await;
        let good = |bytes: Bytes| verify_stored(&bytes).is_ok_and(|header| header.id == chunk.id).then_some(bytes);
        let read = self.map.read_checked(&*self.node, lsn, place.offset..end, good).await;
        read.map_err(|error: JournalReadError| error.to_string())
    }

    /// The drives as placement sees them, asked now. For others than clients the reserve counts as free.
    pub async fn topology(&self, reserve: Reserve) -> Result<Topology, IndexError> {
        let drives = self.node.drives().await;
        self.set_drives(drives.clone());
        self.topology_of(drives, reserve)
    }

    fn topology_of(&self, mut drives: Vec<DriveStatus>, reserve: Reserve) -> Result<Topology, IndexError> {
        if reserve != Reserve::Client {
            for drive in &mut drives {
                drive.free = drive.free.saturating_add(drive.reserve);
            }
        }
        let view = Overlay::new(&*self.kv);
        let topology = Topology::new(&index::drives(&view)?, &drives).surviving(index::survive(&view)?);
        let topology = self.sparing(topology, &drives);
        let geometry = self.volatile().register.as_ref().and_then(|of| Geometry::new(of.k, of.m).ok());
        // Clients are refused what the rule does not allow; what they gave already is kept as well as can be.
        Ok(match geometry.filter(|_| reserve != Reserve::Client) {
            Some(geometry) => topology.rule_if_kept(geometry),
            None => topology,
        })
    }

    /// The topology, of which drives that are slow or do not answer take no new shards, as far as they can be spared.
    pub fn sparing(&self, topology: Topology, status: &[DriveStatus]) -> Topology {
        let volatile = self.volatile();
        let least = volatile.register.as_ref().map_or(1, |register| register.members.len());
        let full = volatile.full.unwrap_or(usize::MAX);
        topology.without(&volatile.slow.spared()).without_stalled(status, least, full)
    }

    /// How many drives a full stripe needs.
    pub(super) fn set_full(&self, full: usize) {
        self.volatile_mut().full = Some(full);
    }

    pub(super) fn cached_topology(&self, reserve: Reserve) -> Result<Topology, IndexError> {
        let drives = self.volatile().drives.clone();
        self.topology_of(drives, reserve)
    }
}
