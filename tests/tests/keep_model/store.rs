//! The store of a history: fault disks, indexes that can be lost or put back, a clock that stands still, and drives that go
//! and come back.

use crate::ops::{Found, Random};
use crate::{Wrong, wrong};
use codec::erasure::Geometry;
use codec::id::DriveId;
use metadata::client::{MetadataClient, Mode};
use metadata::clock::Entropy;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use storage_node::client::DriveHealth;
use storage_node::disk::faulty::{CrashChoice, Trace};
use storage_node::disk::{Access, Disk};
use storage_node::kv::Kv;
use storage_node::kv::memory::MemorySnapshot;
use tests::crash::mix;
use tests::keeping::{self, Still};
use tests::world::{Indexes, RecordedKv, World, meta_families, node_families};

pub const BUCKET: &str = "keep";

/// Random numbers that a seed decides; each start takes others.
#[derive(Debug)]
struct Seeded(AtomicU64);

impl Entropy for Seeded {
    fn fill(&self, out: &mut [u8]) -> bool {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(out);
        true
    }
}

/// A drive's files: path and content.
type Files = Vec<(String, Vec<u8>)>;

/// Which drives are gone, with what they held, and which have been harmed since the last time that all was well.
#[derive(Clone, Debug, Default)]
struct Harm {
    away: BTreeMap<usize, Files>,
    harmed: BTreeSet<usize>,
}

const DIRS: [&str; 3] = ["", "segments", "journal"];

pub struct Store {
    pub geometry: Geometry,
    pub trace: Trace,
    pub clock: Arc<Still>,
    node: Arc<RecordedKv>,
    meta: Arc<RecordedKv>,
    world: Option<World>,
    backup: Option<MemorySnapshot>,
    pub seed: u64,
    lives: u64,
    /// As it was from each position of the trace on: a crash goes back to an earlier one.
    harm: Mutex<Vec<(u64, Harm)>>,
}

impl Store {
    pub async fn start(seed: u64) -> Result<Store, Wrong> {
        let shapes = [(5, "2+1"), (6, "2+2"), (7, "3+2"), (4, "1+1")];
        let (drives, geometry) = shapes[(seed % shapes.len() as u64) as usize];
        let trace = Trace::new(drives);
        let mut store = Store {
            geometry: geometry.parse().map_err(|_| wrong("geometry", geometry))?,
            node: RecordedKv::new(node_families(), None),
            meta: RecordedKv::new(meta_families(), None),
            trace,
            clock: Arc::default(),
            world: None,
            backup: None,
            seed,
            lives: 0,
            harm: Mutex::new(vec![(0, Harm::default())]),
        };
        store.serve().await?;
        store.world().create_bucket(BUCKET).await.map_err(|error| wrong("no bucket", error))?;
        Ok(store)
    }

    pub fn world(&self) -> &World {
        self.world.as_ref().expect("a store serves between operations")
    }

    pub fn position(&self) -> u64 {
        self.trace.position()
    }

    /// Remembers the states of the indexes from here on, or does so no more.
    pub fn record(&self, on: bool) {
        self.node.record(on);
        self.meta.record(on);
    }

    /// Starts over what the drives and the indexes hold; writes are served.
    async fn serve(&mut self) -> Result<(), Wrong> {
        self.lives += 1;
        let indexes =
            Indexes { node: Arc::clone(&self.node) as Arc<dyn Kv>, meta: Arc::clone(&self.meta) as Arc<dyn Kv> };
        let mut parts = keeping::parts_of(&self.trace, &indexes, &self.clock);
        parts.entropy = Arc::new(Seeded(AtomicU64::new(mix(self.seed, self.lives))));
        let world = keeping::serve(parts, keeping::config(Some(self.geometry))).await;
        let world = world.map_err(|error| wrong("no start", error))?;
        let status = world.metadata.status();
        self.world = Some(world);
        self.record(false);
        match status.mode {
            Mode::Serving => Ok(()),
            Mode::ReadOnly => Err(wrong("reads only", status.reason)),
        }
    }

    pub async fn stop(&mut self) {
        if let Some(world) = self.world.take() {
            world.stop().await;
        }
    }

    /// Ends in order, and starts again.
    pub async fn restart(&mut self, found: Found) -> Result<(), Wrong> {
        self.stop().await;
        let image = self.trace.restart();
        let (node, meta) = (self.node.snapshot(), self.meta.snapshot());
        self.mount(image.trace().clone(), node, meta, found).await
    }

    /// What a power cut at `position` leaves, and a start from it.
    pub async fn crash(&mut self, position: u64, seed: u64, found: Found) -> Result<(), Wrong> {
        let mut random = Random::new(seed);
        let choice = match random.below(6) {
            0 => CrashChoice::Nothing,
            1 => CrashChoice::Everything,
            _ => CrashChoice::Random(random.next()),
        };
        let image = self.trace.image(position, &choice);
        let mut earlier = |kv: &RecordedKv| {
            let mut states = kv.history();
            states.retain(|(at, _)| *at <= position);
            let at = random.below(states.len() as u64) as usize;
            states.into_iter().nth(at).map_or_else(|| kv.snapshot(), |(_, state)| state)
        };
        let (node, meta) = (earlier(&self.node), earlier(&self.meta));
        self.stop().await;
        self.harm().retain(|(at, _)| *at <= position);
        self.mount(image.trace().clone(), node, meta, found).await
    }

    async fn mount(
        &mut self,
        trace: Trace,
        node: MemorySnapshot,
        meta: MemorySnapshot,
        found: Found,
    ) -> Result<(), Wrong> {
        let meta = match (found, &self.backup) {
            (Found::Backup, Some(backup)) => backup.clone(),
            _ => meta,
        };
        let again = |state, trace: &Trace| RecordedKv::from_snapshot(state, Some(trace.clone()));
        self.node = match found {
            Found::None | Found::Metadata => RecordedKv::new(node_families(), Some(trace.clone())),
            _ => again(&node, &trace),
        };
        self.meta = match found {
            Found::None | Found::Node => RecordedKv::new(meta_families(), Some(trace.clone())),
            _ => again(&meta, &trace),
        };
        self.trace = trace;
        let now = self.last_harm();
        *self.harm() = vec![(0, now)];
        self.serve().await
    }

    pub fn take_backup(&mut self) {
        self.backup = Some(self.meta.snapshot());
    }

    fn harm(&self) -> MutexGuard<'_, Vec<(u64, Harm)>> {
        self.harm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_harm(&self) -> Harm {
        self.harm().last().map(|(_, harm)| harm.clone()).unwrap_or_default()
    }

    fn note(&self, harm: Harm) {
        let position = self.position();
        self.harm().push((position, harm));
    }

    /// Drives that nothing has happened to since all was well.
    pub fn unharmed(&self) -> Vec<usize> {
        let harmed = self.last_harm().harmed;
        (0..self.trace.disks().len()).filter(|drive| !harmed.contains(drive)).collect()
    }

    /// Whether this drive may be harmed: no more than m at a time.
    fn may_harm(&self, harm: &mut Harm, drive: usize) -> bool {
        let may = harm.harmed.contains(&drive) || harm.harmed.len() < usize::from(self.geometry.m());
        if may {
            harm.harmed.insert(drive);
        }
        may
    }

    /// Which of the drives `n` means.
    fn number(&self, n: u8) -> usize {
        usize::from(n) % self.trace.disks().len()
    }

    /// The drives by id, those included that do not answer.
    pub async fn drives(&self) -> BTreeMap<DriveId, usize> {
        let drives = self.world().metadata.node().drives().await;
        let number = |path: &str| path.rsplit('/').next().and_then(|text| text.parse().ok());
        drives.iter().filter_map(|drive| Some((drive.id, number(&drive.path)?))).collect()
    }

    pub async fn lose(&self, n: u8) {
        let (drive, mut harm) = (self.number(n), self.last_harm());
        if harm.away.contains_key(&drive) || !self.may_harm(&mut harm, drive) {
            return;
        }
        harm.away.insert(drive, self.files(drive));
        self.trace.remove_drive(drive);
        self.note(harm);
        self.world().metadata.check_drives().await;
    }

    pub async fn give_back(&self, n: u8) -> Result<(), Wrong> {
        let (drive, mut harm) = (self.number(n), self.last_harm());
        let Some(files) = harm.away.remove(&drive) else { return Ok(()) };
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (&path[..], &bytes[..])).collect();
        self.trace.replace_drive(drive, &files).map_err(|error| wrong("replace", error))?;
        let disk = self.trace.disk(drive);
        for dir in ["segments", "journal"] {
            // Empty ones are not among its files.
            let _there_already = disk.create_dir(dir);
        }
        disk.sync_dir("").map_err(|error| wrong("sync", error))?;
        self.note(harm);
        let known: BTreeMap<usize, DriveId> =
            self.drives().await.into_iter().map(|(id, number)| (number, id)).collect();
        // One that was not there at the start is not known to the node by its path: the next start finds it.
        if let Some(id) = known.get(&drive) {
            let reopened = self.world().metadata.node().reopen(*id).await;
            reopened.map_err(|error| wrong("a drive that is back is not opened", error))?;
        }
        self.world().metadata.check_drives().await;
        Ok(())
    }

    /// Every drive is back; whether the node has all of them.
    pub async fn give_all_back(&self) -> Result<bool, Wrong> {
        let away: Vec<usize> = self.last_harm().away.into_keys().collect();
        for drive in away {
            self.give_back(drive as u8).await?;
        }
        let drives = self.world().metadata.node().drives().await;
        let healthy = drives.iter().filter(|drive| matches!(drive.health, DriveHealth::Healthy)).count();
        Ok(healthy == self.trace.disks().len())
    }

    /// Nothing that was done to a drive until here counts any more.
    pub fn all_is_well(&self) {
        let harm = self.last_harm();
        self.note(Harm { harmed: harm.away.keys().copied().collect(), ..harm });
    }

    /// Flips some bytes of a drive's segments.
    pub fn rot(&self, n: u8, seed: u64) {
        let (drive, mut harm) = (self.number(n), self.last_harm());
        if harm.away.contains_key(&drive) || !self.may_harm(&mut harm, drive) {
            return;
        }
        self.note(harm);
        let mut random = Random::new(seed);
        let files = self.files(drive);
        let files: Vec<_> = files.iter().filter(|(path, _)| path.contains('/')).collect();
        for _ in 0..=random.below(3) {
            let Some((path, bytes)) = files.get(random.below(files.len() as u64) as usize) else { continue };
            // Nobody would notice a change of what was never written.
            let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
            // A segment whose own header and whose first record's are both gone can't have the one restored by the other:
            // that finding stands until the segment is empty.
            let offset = match random.below(written) {
                first @ 4096..8192 => first + 4096,
                other => other,
            };
            println!("rot of drive {drive}, {path}, at {offset}");
            // Files that went meanwhile can't rot.
            let _gone = self.trace.flip(drive, path, offset, 1 << random.below(8));
        }
    }

    /// What a drive holds.
    fn files(&self, drive: usize) -> Files {
        let disk = self.trace.disk(drive);
        let mut found = Vec::new();
        for dir in DIRS {
            for name in disk.list(dir).unwrap_or_default() {
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                let Ok(file) = disk.open(&path, Access::Read) else { continue };
                let mut bytes = vec![0; file.len().unwrap_or(0) as usize];
                if file.read_at(&mut bytes, 0).is_ok() {
                    found.push((path, bytes));
                }
            }
        }
        found
    }
}
