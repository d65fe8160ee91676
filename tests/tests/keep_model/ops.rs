//! What histories are made of, and how a seed makes one.

use bytes::Bytes;
use std::ops::RangeInclusive;
use tests::crash::mix;
use tests::world::{noise, text};

/// Keys that objects are put under.
pub const KEYS: u8 = 8;
/// Uploads that are open at a time; each has a key of its own.
pub const UPLOADS: u8 = 2;
/// Documents that bodies are made of: the same ones again and again, so that most chunks are shared.
const DOCUMENTS: u64 = 14;

/// An object's bytes: documents, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn bytes(&self) -> Bytes {
        let document = |n: &u8| {
            let (n, random) = (u64::from(*n), mix(u64::from(*n), 0xd0c));
            match n % 4 {
                0 => noise(n, 200 + (random % 3_000) as usize),
                1 => text(n, 1_000 + (random % 30_000) as usize),
                2 => noise(n, 5_000 + (random % 20_000) as usize),
                _ => noise(n, 20_000 + (random % 40_000) as usize),
            }
        };
        let all: Vec<Bytes> = self.0.iter().map(document).collect();
        all.concat().into()
    }
}

/// What a restart finds of the indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Both, as they were (after a crash: as each was at some moment before).
    Both,
    /// None.
    None,
    /// Metadata's.
    Metadata,
    /// The node's.
    Node,
    /// Metadata's from a backup (R10), and the node's.
    Backup,
}

#[derive(Clone, Debug)]
pub enum Op {
    Put {
        key: u8,
        body: Body,
        encrypt: bool,
    },
    Get(u8),
    Delete(u8),
    Copy {
        from: u8,
        to: u8,
    },
    /// A copy that looked its source up before the source was deleted and, maybe, reclaimed.
    LateCopy {
        from: u8,
        to: u8,
        reclaimed: bool,
    },
    Part {
        upload: u8,
        body: Body,
    },
    Complete(u8),
    Abort(u8),
    /// Time passes, and is journaled.
    Hours(u64),
    Reclaim,
    /// Rewrites one stripe of data.
    Rewrite(u64),
    Repair,
    Inventory,
    Scrub,
    Seal,
    Checkpoint,
    /// The directory of a drive is gone.
    Lose(u8),
    /// It is back, with what it held when it went.
    Return(u8),
    /// Bits of a drive's segments flip.
    Rot {
        drive: u8,
        seed: u64,
    },
    /// Drives come back, and repair ends: what was damaged until here counts no more.
    Heal,
    Backup,
    Restart(Found),
    /// All at the same time.
    Together(Vec<Op>),
    /// All at the same time, and the power fails meanwhile.
    Crash {
        ops: Vec<Op>,
        seed: u64,
        found: Found,
    },
}

/// Random numbers of a seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(mix(seed, 0x6b65_6570))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = mix(self.0, 0x5eed);
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    fn body(&mut self) -> Body {
        let documents = match self.below(16) {
            0 => self.within(6..=10),
            1..5 => self.within(2..=4),
            _ => 1,
        };
        Body((0..documents).map(|_| self.below(DOCUMENTS) as u8).collect())
    }

    fn found(&mut self) -> Found {
        match self.below(8) {
            0..4 => Found::Both,
            4 => Found::None,
            5 => Found::Metadata,
            6 => Found::Node,
            _ => Found::Backup,
        }
    }
}

/// Keys and uploads that no other operation of the same moment uses.
struct Names {
    keys: Vec<u8>,
    uploads: Vec<u8>,
}

impl Names {
    fn new() -> Names {
        Names { keys: (0..KEYS).collect(), uploads: (0..UPLOADS).collect() }
    }
}

fn take(from: &mut Vec<u8>, random: &mut Random) -> Option<u8> {
    (!from.is_empty()).then(|| from.swap_remove(random.below(from.len() as u64) as usize))
}

/// What a client does.
fn client(random: &mut Random, names: &mut Names) -> Option<Op> {
    let (body, encrypt) = (random.body(), random.below(10) == 0);
    Some(match random.below(24) {
        0..9 => Op::Put { key: take(&mut names.keys, random)?, body, encrypt },
        9..15 => Op::Delete(take(&mut names.keys, random)?),
        15 | 16 => Op::Get(take(&mut names.keys, random)?),
        17 | 18 => Op::Copy { from: take(&mut names.keys, random)?, to: take(&mut names.keys, random)? },
        19 => {
            let (from, to) = (take(&mut names.keys, random)?, take(&mut names.keys, random)?);
            Op::LateCopy { from, to, reclaimed: random.below(2) == 0 }
        }
        20 | 21 => Op::Part { upload: take(&mut names.uploads, random)?, body },
        22 => Op::Complete(take(&mut names.uploads, random)?),
        _ => Op::Abort(take(&mut names.uploads, random)?),
    })
}

/// What the store does by itself.
fn keeping(random: &mut Random) -> Op {
    match random.below(16) {
        0..5 => Op::Reclaim,
        5 | 6 => Op::Rewrite(random.next()),
        7..10 => Op::Repair,
        10 => Op::Inventory,
        11 => Op::Scrub,
        12..15 => Op::Seal,
        _ => Op::Checkpoint,
    }
}

/// What happens to it.
fn harm(random: &mut Random) -> Op {
    let drive = random.below(16) as u8;
    match random.below(8) {
        0..3 => Op::Lose(drive),
        3..6 => Op::Return(drive),
        _ => Op::Rot { drive, seed: random.next() },
    }
}

fn several(random: &mut Random) -> Vec<Op> {
    let (mut names, mut ops) = (Names::new(), Vec::new());
    for _ in 0..random.within(1..=3) {
        ops.extend(client(random, &mut names));
    }
    for _ in 0..random.within(1..=2) {
        ops.push(keeping(random));
    }
    if random.below(4) == 0 {
        ops.push(harm(random));
    }
    ops
}

/// A history of so many steps.
pub fn history(seed: u64, steps: usize) -> Vec<Op> {
    let mut random = Random::new(seed);
    // Something to begin with.
    let mut ops: Vec<Op> =
        (0..4).map(|key| Op::Put { key, body: random.body(), encrypt: false }).chain([Op::Seal]).collect();
    while ops.len() < steps {
        let op = match random.below(40) {
            0..12 => client(&mut random, &mut Names::new()),
            12..21 => Some(keeping(&mut random)),
            21..25 => Some(Op::Hours(random.within(1..=220))),
            25..28 => Some(harm(&mut random)),
            28 => Some(Op::Heal),
            29 => Some(Op::Backup),
            30 | 31 => Some(Op::Restart(random.found())),
            32..36 => Some(Op::Together(several(&mut random))),
            _ => Some(Op::Crash { ops: several(&mut random), seed: random.next(), found: random.found() }),
        };
        ops.extend(op);
    }
    ops
}
