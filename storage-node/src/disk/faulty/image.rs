//! What a crash leaves behind.
//!
//! At a position of the trace some operations are *pending*: their effect may survive a crash or not, independently
//! of each other. A [`CrashChoice`] decides the fate of each, and the image is a new set of drives that can be
//! mounted, recorded and crashed again. Everything that is not changed is shared with the trace.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::FaultDisk;
use super::content::{Content, ContentOp, PAGE};
use super::fs::{DirOp, DriveState, Entries, Ino, Inode};
use super::history::Survival;
use super::random::{Random, mix};
use super::trace::{Trace, World};
use crate::sabotage::SabotageSet;

/// The smaller granularity at which a write can be torn, in bytes: the sector that a drive writes as one.
const SECTOR: u64 = 512;

/// Which of the pending operations survive a crash. Indices count the pending operations of the position (see
/// [`CrashPoint::pending`]) in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CrashChoice {
    /// Nothing that was not synced survives.
    Nothing,
    /// Everything survives.
    Everything,
    /// All survive but this one.
    AllBut(usize),
    /// Only this one survives.
    Only(usize),
    /// The first so many survive: the medium kept their order.
    First(usize),
    /// The last so many survive: the medium reversed their order.
    Last(usize),
    /// This write survives in part.
    Torn {
        /// The write.
        index: usize,
        /// In bytes, 512 or 4096; blocks are aligned to it in the file.
        granularity: u64,
        /// Its first blocks survive, or its last ones.
        part: Part,
        /// Whether later operations survive; earlier ones do.
        later: bool,
    },
    /// All survive, but of this write only the length it gave the file.
    LengthOnly(usize),
    /// Everything at random, also the parts of writes and drives that lose or keep everything.
    Random(u64),
}

/// Which part of a torn write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Only the first block of 4096, or the first half of the blocks of 512.
    Head,
    /// All but that.
    Tail,
}

/// What becomes of one pending operation.
#[derive(Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    LengthOnly,
    /// Blocks before this one survive.
    Head {
        granularity: u64,
        blocks: u64,
    },
    /// Blocks from this one on survive.
    Tail {
        granularity: u64,
        blocks: u64,
    },
    /// Each block survives or not.
    Some {
        granularity: u64,
        seed: u64,
    },
}

/// An operation that may or may not survive.
#[derive(Clone)]
pub struct Pending {
    /// Its position in the trace.
    pub position: u64,
    /// The drive's number in the trace.
    pub drive: usize,
    op: PendingOp,
}

#[derive(Clone)]
enum PendingOp {
    Content(Arc<ContentOp>),
    Dir(Arc<DirOp>),
}

impl Pending {
    /// How many blocks of a granularity a write touches; 0 for anything else.
    fn blocks(&self, granularity: u64) -> u64 {
        match &self.op {
            PendingOp::Content(op) => match op.as_ref() {
                ContentOp::Write(written) => written.blocks(granularity),
                _ => 0,
            },
            PendingOp::Dir(_) => 0,
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: drive {} ", self.position, self.drive)?;
        match &self.op {
            PendingOp::Dir(op) => {
                let names = op.0.iter().map(|(name, ino)| format!("{}{name}", if ino.is_some() { '+' } else { '-' }));
                write!(f, "names {}", names.collect::<Vec<_>>().join(" "))
            }
            PendingOp::Content(op) => match op.as_ref() {
                ContentOp::Write(written) => write!(f, "write {:?}", written.range()),
                ContentOp::Preallocate { offset, len } => write!(f, "preallocate {offset}+{len}"),
                ContentOp::Punch { offset, len } => write!(f, "punch {offset}+{len}"),
                ContentOp::Truncate { len } => write!(f, "truncate {len}"),
                ContentOp::Flip { offset, .. } => write!(f, "flip {offset}"),
                ContentOp::Noise { .. } => write!(f, "noise"),
            },
        }
    }
}

/// A position of a trace: what is certain there, and what may or may not survive.
pub struct CrashPoint {
    position: u64,
    drives: Vec<DrivePoint>,
    pending: Vec<Pending>,
    sabotage: SabotageSet,
}

struct DrivePoint {
    root: Option<Ino>,
    inodes: HashMap<Ino, InodePoint>,
    capacity: u64,
    filesystem_id: u64,
}

enum InodePoint {
    File { base: Arc<Content>, later: Vec<Later<ContentOp>> },
    Dir { base: Arc<Entries>, later: Vec<Later<DirOp>> },
}

/// An operation after the certain state: certain itself (`None`), or pending with this index.
struct Later<O> {
    position: u64,
    op: Arc<O>,
    pending: Option<usize>,
}

impl CrashPoint {
    pub(super) fn new(world: &World, position: u64, sabotage: SabotageSet) -> Self {
        let mut pending = Vec::new();
        let mut drives: Vec<_> =
            world.drives.iter().enumerate().map(|(i, drive)| drive_point(i, drive, position, &mut pending)).collect();
        pending.sort_by_key(|op| op.position);
        let index = |at: u64| pending.binary_search_by_key(&at, |op: &Pending| op.position).ok();
        for inode in drives.iter_mut().flat_map(|drive| drive.inodes.values_mut()) {
            match inode {
                InodePoint::File { later, .. } => number(later, index),
                InodePoint::Dir { later, .. } => number(later, index),
            }
        }
        Self { position, drives, pending, sabotage }
    }

    /// The position in the trace.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The operations that may or may not survive, in the order in which they were made.
    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Choices worth trying: the systematic ones, then so many random ones. Different choices can give equal images.
    pub fn choices(&self, random: usize, seed: u64) -> impl Iterator<Item = CrashChoice> + '_ {
        let n = self.pending.len();
        let ends = [CrashChoice::Nothing, CrashChoice::Everything].into_iter().take(1 + usize::from(n > 0));
        let single = (0..n).flat_map(move |i| [CrashChoice::AllBut(i), CrashChoice::Only(i)]);
        let single = single.take(if n > 1 { usize::MAX } else { 0 });
        let ordered = (2..n).flat_map(|k| [CrashChoice::First(k - 1), CrashChoice::Last(k - 1)]);
        let torn = (0..n).flat_map(|index| self.tears(index));
        let random = if n > 1 { random } else { 0 };
        let random = (0..random as u64).map(move |i| CrashChoice::Random(mix(mix(seed, self.position), i)));
        ends.chain(single).chain(ordered).chain(torn).chain(random)
    }

    fn tears(&self, index: usize) -> Vec<CrashChoice> {
        let mut choices = Vec::new();
        if self.pending[index].blocks(SECTOR) > 0 {
            choices.push(CrashChoice::LengthOnly(index));
        }
        let is_last = index + 1 == self.pending.len();
        for granularity in [SECTOR, PAGE] {
            if self.pending[index].blocks(granularity) < 2 {
                continue;
            }
            for part in [Part::Head, Part::Tail] {
                for later in [false, true] {
                    if later || !is_last {
                        choices.push(CrashChoice::Torn { index, granularity, part, later });
                    }
                }
            }
        }
        choices
    }

    /// The drives as a crash leaves them.
    pub fn image(&self, choice: &CrashChoice) -> CrashImage {
        let fates = self.fates(choice);
        let drives = self.drives.iter().map(|drive| drive.image(&fates)).collect();
        CrashImage { trace: Trace::from_drives(drives, self.sabotage.clone()) }
    }

    fn fates(&self, choice: &CrashChoice) -> Vec<Fate> {
        let n = self.pending.len();
        let kept_if = |keep: &dyn Fn(usize) -> bool| -> Vec<Fate> {
            (0..n).map(|i| if keep(i) { Fate::Kept } else { Fate::Lost }).collect()
        };
        match *choice {
            CrashChoice::Nothing => kept_if(&|_| false),
            CrashChoice::Everything => kept_if(&|_| true),
            CrashChoice::AllBut(lost) => kept_if(&|i| i != lost),
            CrashChoice::Only(kept) => kept_if(&|i| i == kept),
            CrashChoice::First(k) => kept_if(&|i| i < k),
            CrashChoice::Last(k) => kept_if(&|i| i + k >= n),
            CrashChoice::LengthOnly(index) => {
                let mut fates = kept_if(&|_| true);
                fates.iter_mut().skip(index).take(1).for_each(|fate| *fate = Fate::LengthOnly);
                fates
            }
            CrashChoice::Torn { index, granularity, part, later } => {
                let mut fates = kept_if(&|i| i < index || later);
                if let (Some(fate), Some(op)) = (fates.get_mut(index), self.pending.get(index)) {
                    *fate = torn(op.blocks(granularity), granularity, part);
                }
                fates
            }
            CrashChoice::Random(seed) => self.random_fates(seed),
        }
    }

    /// Each drive loses all, keeps all, or draws for each operation with a probability of its own.
    fn random_fates(&self, seed: u64) -> Vec<Fate> {
        let mut random = Random::new(seed);
        let tempers: Vec<u64> =
            self.drives.iter().map(|_| [0, 16, 2, 8, 8, 8, 14, 14][random.below(8) as usize]).collect();
        let mut draw = |op: &Pending| {
            let temper = tempers[op.drive];
            let torn = !matches!(temper, 0 | 16) && op.blocks(SECTOR) > 0 && random.below(4) == 0;
            match (torn, random.below(8)) {
                (true, 0) => Fate::LengthOnly,
                (true, n) => Fate::Some { granularity: if n % 2 == 0 { SECTOR } else { PAGE }, seed: random.next() },
                (false, _) if random.below(16) < temper => Fate::Kept,
                (false, _) => Fate::Lost,
            }
        };
        self.pending.iter().map(&mut draw).collect()
    }
}

impl fmt::Debug for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashPoint").field("position", &self.position).field("pending", &self.pending).finish()
    }
}

fn torn(blocks: u64, granularity: u64, part: Part) -> Fate {
    let head = if granularity == PAGE { 1 } else { blocks / 2 };
    match part {
        Part::Head => Fate::Head { granularity, blocks: head },
        Part::Tail => Fate::Tail { granularity, blocks: head },
    }
}

/// What of a drive is reachable whatever the choice, and its history since the last certain state.
fn drive_point(drive: usize, state: &DriveState, at: u64, pending: &mut Vec<Pending>) -> DrivePoint {
    let root =
        state.roots.iter().rev().find(|(position, _)| *position < at || *position == 0).and_then(|(_, root)| *root);
    let mut inodes = HashMap::new();
    let mut queue: Vec<Ino> = root.into_iter().collect();
    while let Some(ino) = queue.pop() {
        if inodes.contains_key(&ino) {
            continue;
        }
        let mut add = |position, op| pending.push(Pending { position, drive, op });
        let point = match &state.inodes[ino] {
            Inode::File { history, .. } => {
                let (base, ops) = history.at(at);
                let later = later(ops, &mut |position, op| add(position, PendingOp::Content(op)));
                InodePoint::File { base, later }
            }
            Inode::Dir { history, .. } => {
                let (base, ops) = history.at(at);
                let later = later(ops, &mut |position, op| add(position, PendingOp::Dir(op)));
                queue.extend(base.values());
                queue.extend(later.iter().flat_map(|later| later.op.0.iter().filter_map(|(_, ino)| *ino)));
                InodePoint::Dir { base, later }
            }
        };
        inodes.insert(ino, point);
    }
    DrivePoint { root, inodes, capacity: state.capacity, filesystem_id: state.filesystem_id }
}

fn later<'a, O: 'a>(
    ops: impl Iterator<Item = (u64, &'a Arc<O>, Survival)>,
    add: &mut dyn FnMut(u64, Arc<O>),
) -> Vec<Later<O>> {
    ops.map(|(position, op, survival)| {
        if survival == Survival::May {
            add(position, Arc::clone(op));
        }
        Later { position, op: Arc::clone(op), pending: None }
    })
    .collect()
}

/// Gives pending operations their index in the global order.
fn number<O>(later: &mut [Later<O>], index: impl Fn(u64) -> Option<usize>) {
    later.iter_mut().for_each(|later| later.pending = index(later.position));
}

impl<O> Later<O> {
    fn fate(&self, fates: &[Fate]) -> Fate {
        self.pending.map_or(Fate::Kept, |index| fates[index])
    }
}

impl DrivePoint {
    fn image(&self, fates: &[Fate]) -> DriveState {
        let mut state = DriveState::empty(self.capacity, self.filesystem_id);
        match self.root {
            Some(root) => {
                state.inodes.clear();
                let mut numbers = HashMap::new();
                self.copy(root, fates, &mut state, &mut numbers);
            }
            None => state.delete_root(0),
        }
        state
    }

    /// Copies an inode and what it leads to into an image; gives its number there.
    fn copy(&self, ino: Ino, fates: &[Fate], state: &mut DriveState, numbers: &mut HashMap<Ino, Ino>) -> Ino {
        if let Some(&known) = numbers.get(&ino) {
            return known; // dropping half of two renames can leave a file with two names, as a real crash can
        }
        let number = state.inodes.len();
        numbers.insert(ino, number);
        match &self.inodes[&ino] {
            InodePoint::File { base, later } => {
                let content = survived(base, later, fates);
                state.used += content.space();
                state.inodes.push(Inode::file(0, content));
            }
            InodePoint::Dir { base, later } => {
                state.inodes.push(Inode::dir(0, Arc::default())); // its number is taken before its entries' are
                let mut entries = Entries::clone(base);
                later
                    .iter()
                    .filter(|op| !matches!(op.fate(fates), Fate::Lost))
                    .for_each(|op| op.op.apply(&mut entries));
                entries.values_mut().for_each(|entry| *entry = self.copy(*entry, fates, state, numbers));
                state.inodes[number] = Inode::dir(0, Arc::new(entries));
            }
        }
        number
    }
}

fn survived(base: &Arc<Content>, later: &[Later<ContentOp>], fates: &[Fate]) -> Arc<Content> {
    let mut content = Arc::clone(base);
    for op in later {
        match (op.fate(fates), op.op.as_ref()) {
            (Fate::Lost, _) => {}
            (Fate::LengthOnly, ContentOp::Write(written)) => Arc::make_mut(&mut content).apply_length(written),
            (Fate::Head { granularity, blocks }, ContentOp::Write(written)) => {
                Arc::make_mut(&mut content).apply_torn(written, granularity, |block| block < blocks);
            }
            (Fate::Tail { granularity, blocks }, ContentOp::Write(written)) => {
                Arc::make_mut(&mut content).apply_torn(written, granularity, |block| block >= blocks);
            }
            (Fate::Some { granularity, seed }, ContentOp::Write(written)) => {
                Arc::make_mut(&mut content).apply_torn(written, granularity, |block| mix(seed, block) & 1 == 0);
            }
            (_, op) => Arc::make_mut(&mut content).apply(op),
        }
    }
    content
}

/// The drives after a crash: a trace of their own, with nothing in it yet.
#[derive(Debug)]
pub struct CrashImage {
    trace: Trace,
}

impl CrashImage {
    /// The new trace: mount its disks, go on, crash again.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The drives, in order.
    pub fn disks(&self) -> Vec<Arc<FaultDisk>> {
        self.trace.disks()
    }

    /// A number that is equal for equal images (names, lengths, bytes), and almost surely differs otherwise.
    pub fn fingerprint(&self) -> u64 {
        let world = self.trace.world();
        world
            .drives
            .iter()
            .fold(0, |sum, drive| mix(sum, drive.named_root().map_or(1, |root| inode_fingerprint(drive, root))))
    }
}

fn inode_fingerprint(drive: &DriveState, ino: Ino) -> u64 {
    match &drive.inodes[ino] {
        Inode::File { live, .. } => mix(live.fingerprint(), 2),
        Inode::Dir { live, .. } => live.iter().fold(3, |sum, (name, ino)| {
            let name = name.bytes().fold(name.len() as u64, |sum, byte| mix(sum, u64::from(byte)));
            mix(mix(sum, name), inode_fingerprint(drive, *ino))
        }),
    }
}
