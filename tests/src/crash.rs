//! Enumerating crashes: one recorded run, and the store started again from what each crash of it can leave.
//!
//! Every position of the trace gets the systematic choices of [`CrashPoint::choices`] and seeded random ones. Each image is
//! mounted with lost indexes, or with indexes as they were at some earlier moment (indexes are written without syncs), and
//! for a share of them with a drive taken away as well. Then the real stack must start by itself and serve, and hold what
//! [`Oracle`] says; take a new object; and hold the same after one more start. Images that are equal byte for byte are
//! mounted once, and what they held is judged again for each position that leaves them.

use crate::oracle::{Oracle, State, Wrong};
use crate::world::{Indexes, RecordedKv, Shape, World, disks, noise};
use metadata::client::{MetadataClient, Mode};
use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use storage_node::disk::faulty::{CrashChoice, CrashPoint, Trace};
use storage_node::kv::memory::MemorySnapshot;

/// A start that takes longer than this hangs.
const HANGS: Duration = Duration::from_secs(120);
/// Choices that are tried at a position before the next position has its turn.
const STEP: usize = 4;

/// A run that was recorded.
pub struct Recording {
    /// The operation that it is about.
    pub name: String,
    /// The drives and what happened to them.
    pub trace: Trace,
    /// The first position of interest.
    pub from: u64,
    /// The last position of interest.
    pub to: u64,
    /// Added to positions of the trace to get those of the oracle.
    pub offset: u64,
    /// What may be there.
    pub oracle: Oracle,
    /// How the store was made.
    pub shape: Shape,
    /// Which drives may be lost on top of the crash, by position.
    pub losable: Vec<Losable>,
    /// States of the node's index.
    pub node_index: Vec<(u64, MemorySnapshot)>,
    /// States of metadata's index.
    pub meta_index: Vec<(u64, MemorySnapshot)>,
}

/// What the store promises to survive on top of a crash, from a position on.
#[derive(Clone, Debug)]
pub struct Losable {
    /// The first position.
    pub from: u64,
    /// These drives may be lost,
    pub drives: Vec<usize>,
    /// so many of them at once.
    pub count: usize,
}

/// How long to look.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Go on until so many distinct images were mounted (or nothing new turns up).
    pub distinct: usize,
    /// Seeds everything that is random.
    pub seed: u64,
    /// End at the first violation.
    pub stop_at_first: bool,
    /// End then in any case.
    pub deadline: Option<Instant>,
    /// At most so many rounds over all positions.
    pub rounds: usize,
}

impl Plan {
    /// A plan for so many distinct images.
    pub fn distinct(distinct: usize) -> Plan {
        Plan { distinct, seed: seed(), stop_at_first: false, deadline: None, rounds: 60 }
    }
}

/// The seed of all tests: STELE_SEED, or always the same.
pub fn seed() -> u64 {
    std::env::var("STELE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_260_719)
}

/// A violation, and how to get there.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The crash's position.
    pub position: u64,
    /// What survived.
    pub choice: CrashChoice,
    /// The drives that were taken away as well.
    pub lost: Vec<usize>,
    /// Whether indexes were lost, or as they were at these positions (node, metadata).
    pub indexes: Option<(u64, u64)>,
    /// How many images had been mounted by then.
    pub after: usize,
    /// What is wrong.
    pub wrong: Wrong,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { position, choice, lost, indexes, after, wrong } = self;
        write!(f, "crash at {position}, {choice:?}, lost drives {lost:?}, indexes {indexes:?}, image {after}: {wrong}")
    }
}

/// What an enumeration did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Images made.
    pub images: usize,
    /// Images that differ from one another, all of them mounted.
    pub distinct: usize,
    /// Of these, with indexes of an earlier moment.
    pub old_indexes: usize,
    /// Of these, with a drive lost as well.
    pub losses: usize,
    /// Positions.
    pub positions: usize,
    /// What was wrong.
    pub findings: Vec<Finding>,
    /// Wall time.
    pub took: Duration,
}

/// Takes images of a recording and starts the store from each, on two threads.
pub fn enumerate(recording: &Recording, plan: Plan) -> Report {
    let begin = Instant::now();
    let search = Search {
        recording,
        plan,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        images: AtomicUsize::new(0),
        seen: Mutex::default(),
        report: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| search.work());
        }
    });
    let distinct = search.seen().len();
    let images = search.images.load(Ordering::Relaxed);
    let mut report = search.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    (report.images, report.distinct) = (images, distinct);
    report.positions = (recording.to - recording.from + 1) as usize;
    report.took = begin.elapsed();
    report
}

struct Search<'a> {
    recording: &'a Recording,
    plan: Plan,
    next: AtomicUsize,
    stop: AtomicBool,
    images: AtomicUsize,
    /// What each image held, by fingerprint.
    seen: Mutex<HashMap<u64, Option<Arc<State>>>>,
    report: Mutex<Report>,
}

/// One image to be made.
struct Shot {
    choice: CrashChoice,
    lost: Vec<usize>,
    indexes: Option<(usize, usize)>,
}

impl Search<'_> {
    fn seen(&self) -> MutexGuard<'_, HashMap<u64, Option<Arc<State>>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return self.find(0, &Shot::plain(CrashChoice::Nothing), Wrong::new("runtime", error.to_string()));
            }
        };
        let positions = (self.recording.to - self.recording.from + 1) as usize;
        loop {
            let unit = self.next.fetch_add(1, Ordering::Relaxed);
            let (round, position) = (unit / positions, self.recording.from + (unit % positions) as u64);
            let enough = round > 1 && self.seen().len() >= self.plan.distinct;
            let late = self.plan.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if enough || late || round >= self.plan.rounds || self.stop.load(Ordering::Relaxed) {
                return;
            }
            let point = self.recording.trace.point(position);
            for shot in self.shots(&point, round) {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                self.try_one(&runtime, &point, &shot);
            }
        }
    }

    fn shots(&self, point: &CrashPoint, round: usize) -> Vec<Shot> {
        let position = point.position();
        let salt = mix(self.plan.seed, position);
        let choices: Vec<CrashChoice> = if round == 0 {
            point.choices(0, 0).take(2).collect()
        } else {
            let mut systematic: Vec<(u64, CrashChoice)> =
                point.choices(0, 0).skip(2).enumerate().map(|(i, choice)| (mix(salt, i as u64), choice)).collect();
            systematic.sort_by_key(|(order, _)| *order);
            let mut some: Vec<_> = systematic.into_iter().skip((round - 1) * STEP).take(STEP).map(|(_, c)| c).collect();
            if some.is_empty() && !point.pending().is_empty() {
                some.extend((0..STEP).map(|i| CrashChoice::Random(mix(salt, (round * STEP + i) as u64))));
            }
            some
        };
        let shot = |(i, choice): (usize, CrashChoice)| {
            let draw = mix(mix(salt, 77), (round * 1000 + i) as u64);
            Shot { choice, lost: self.lost(position, draw), indexes: self.indexes(position, mix(draw, 3)) }
        };
        choices.into_iter().enumerate().map(shot).collect()
    }

    fn lost(&self, position: u64, draw: u64) -> Vec<usize> {
        let rule = self.recording.losable.iter().rev().find(|rule| rule.from <= position);
        let Some(rule) = rule.filter(|rule| draw.is_multiple_of(4) && rule.count > 0 && !rule.drives.is_empty()) else {
            return Vec::new();
        };
        let mut drives = rule.drives.clone();
        drives.sort_by_key(|drive| mix(draw, *drive as u64 + 11));
        drives.truncate(1 + (draw / 4) as usize % rule.count);
        drives
    }

    fn indexes(&self, position: u64, draw: u64) -> Option<(usize, usize)> {
        if !draw.is_multiple_of(3) {
            return None;
        }
        let upto = |history: &[(u64, MemorySnapshot)]| history.partition_point(|(at, _)| *at <= position);
        let (node, meta) = (upto(&self.recording.node_index), upto(&self.recording.meta_index));
        (node > 0 && meta > 0).then_some(((mix(draw, 1) as usize) % node, (mix(draw, 2) as usize) % meta))
    }

    fn try_one(&self, runtime: &tokio::runtime::Runtime, point: &CrashPoint, shot: &Shot) {
        let image = point.image(&shot.choice);
        shot.lost.iter().for_each(|drive| image.trace().remove_drive(*drive));
        self.images.fetch_add(1, Ordering::Relaxed);
        let fingerprint = image.fingerprint();
        let at = point.position() + self.recording.offset;
        let known = match self.seen().entry(fingerprint) {
            std::collections::hash_map::Entry::Occupied(known) => Some(known.get().clone()),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(None);
                None
            }
        };
        if let Some(known) = known {
            if let Some(state) = known
                && let Err(wrong) = self.recording.oracle.check(at, &state)
            {
                self.find(point.position(), shot, wrong);
            }
            return;
        }
        let indexes = self.index_of(shot);
        let again = fingerprint.is_multiple_of(8);
        let mounting = mount(image.trace(), &indexes, &self.recording.shape, &self.recording.oracle, at, again);
        let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async { tokio::time::timeout(HANGS, mounting).await })
        }));
        let result = match caught {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Wrong::new("a start hangs", "")),
            Err(_) => Err(Wrong::new("a panic", "see above")),
        };
        self.count(shot);
        match result {
            Ok(state) => drop(self.seen().insert(fingerprint, Some(Arc::new(state)))),
            Err(wrong) => self.find(point.position(), shot, wrong),
        }
    }

    fn index_of(&self, shot: &Shot) -> Indexes {
        let Some((node, meta)) = shot.indexes else { return Indexes::lost() };
        let pick = |history: &[(u64, MemorySnapshot)], i: usize| history.get(i).map(|(_, snapshot)| snapshot.clone());
        match (pick(&self.recording.node_index, node), pick(&self.recording.meta_index, meta)) {
            (Some(node), Some(meta)) => {
                Indexes { node: RecordedKv::from_snapshot(&node, None), meta: RecordedKv::from_snapshot(&meta, None) }
            }
            _ => Indexes::lost(),
        }
    }

    fn count(&self, shot: &Shot) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.old_indexes += usize::from(shot.indexes.is_some());
        report.losses += usize::from(!shot.lost.is_empty());
    }

    fn find(&self, position: u64, shot: &Shot, wrong: Wrong) {
        let at = |history: &[(u64, MemorySnapshot)], i: usize| history.get(i).map_or(0, |(at, _)| *at);
        let indexes = shot
            .indexes
            .map(|(node, meta)| (at(&self.recording.node_index, node), at(&self.recording.meta_index, meta)));
        let after = self.seen().len();
        let finding = Finding { position, choice: shot.choice.clone(), lost: shot.lost.clone(), indexes, after, wrong };
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.findings.push(finding);
        if self.plan.stop_at_first || report.findings.len() >= 20 {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Shot {
    fn plain(choice: CrashChoice) -> Shot {
        Shot { choice, lost: Vec::new(), indexes: None }
    }
}

/// Starts a store, checks what it holds, gives it a new object, ends it; and, asked to, does it again with lost indexes.
pub async fn mount(
    trace: &Trace,
    indexes: &Indexes,
    shape: &Shape,
    oracle: &Oracle,
    at: u64,
    again: bool,
) -> Result<State, Wrong> {
    let world = start(trace, indexes, shape).await?;
    let checked = check(&world, oracle, at).await;
    let wrote = match &checked {
        Ok(_) => write(&world, at).await,
        Err(_) => Ok(()),
    };
    world.stop().await;
    let state = checked?;
    wrote?;
    if again {
        let world =
            start(trace, &Indexes::lost(), shape).await.map_err(|w| Wrong::new("second start", w.to_string()))?;
        let mut oracle = oracle.clone();
        oracle.content(&noise(at, 700));
        let second = oracle.read(&world).await;
        world.stop().await;
        let mut second = second.map_err(|wrong| Wrong::new("after a second start", wrong.to_string()))?;
        let new: Vec<_> = second.keys().filter(|thing| format!("{thing:?}").contains("after-")).cloned().collect();
        second.retain(|thing, _| !new.contains(thing));
        if new.is_empty() || second != state {
            return Err(Wrong::new("a second start shows something else", format!("{second:?} was {state:?}")));
        }
    }
    Ok(state)
}

async fn start(trace: &Trace, indexes: &Indexes, shape: &Shape) -> Result<World, Wrong> {
    let world = World::start(disks(trace), indexes, shape).await;
    let world = world.map_err(|error| Wrong::new("no start", error.to_string()))?;
    let status = world.metadata.status();
    if status.mode != Mode::Serving {
        world.stop().await;
        return Err(Wrong::new("not serving", status.reason));
    }
    // A crash leaves torn tails, which are no damage: an operator who is told of bit rot where there is none stops listening.
    let damaged: Vec<String> =
        world.metadata.node().drives().await.into_iter().filter(|d| d.damaged > 0).map(|d| d.path).collect();
    if !damaged.is_empty() {
        world.stop().await;
        return Err(Wrong::new("a crash taken for bit rot", format!("{damaged:?}")));
    }
    Ok(world)
}

async fn check(world: &World, oracle: &Oracle, at: u64) -> Result<State, Wrong> {
    let state = oracle.read(world).await?;
    oracle.check(at, &state)?;
    Ok(state)
}

/// A store that recovered takes a new object and gives it back.
async fn write(world: &World, at: u64) -> Result<(), Wrong> {
    let failed = |what: &str, error: String| Wrong::new("no new writes", format!("{what}: {error}"));
    world.create_bucket("after-bucket").await.map_err(|error| failed("bucket", error.to_string()))?;
    let bytes = noise(at, 700);
    let put = world.put("after-bucket", "after-object", &bytes).await;
    put.map_err(|error| failed("put", error.to_string()))?;
    let got = world.get("after-bucket", "after-object").await.map_err(|error| failed("get", error.to_string()))?;
    if got.as_ref() != Some(&bytes) {
        return Err(failed("get", "other bytes".to_owned()));
    }
    Ok(())
}

/// Mixes two numbers into one that looks random.
pub fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}
