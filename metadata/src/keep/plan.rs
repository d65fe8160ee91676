//! Planning repair: which stripes are rebuilt, in which order, from and to which drives. Pure: no clock, no I/O, no chance.
//!
//! Invariants
//! * Risk first: a stripe with less slack comes before one with more, whatever their ages.
//! * Nothing is planned that frees or forgets a shard (R13): a plan names shards to be written, and nothing else.
//! * Unknown is not missing: a shard on a drive that does not answer is rebuilt only after the grace, or when the stripe is
//!   short of another shard as well. Drives of a node that fell silent together count as one, as long as the stripe can lose yet
//!   another shard: what they have in common (an adapter, an expander, a cable) is reset more often than they die.
//!   A shard on a drive that came back is never taken for good before it was verified, and never rebuilt before it was found bad.
//! * No plan puts two shards of a stripe on one drive, or more on one node or rack than placement needs to.

mod show;
#[cfg(test)]
mod tests;
mod waits;

use crate::placement::{self, place};
use crate::topology::{MIN_FREE, Topology, usable_width};
use codec::erasure::Geometry;
use codec::id::{DriveId, StripeId};
use codec::stripe::StripeClass;
use std::collections::HashMap;
pub use waits::{Waits, count_waits};

/// Drives of one node that fell silent within so long did so for one reason, in milliseconds.
const ONE_CAUSE_MS: u64 = 30_000;
/// The node of drives that this process serves itself.
const NEAR: u32 = 0;

/// How one shard is. Times are milliseconds on the planner's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// As it should be, as far as anybody knows.
    Good,
    /// Good, on a drive that is being emptied.
    Draining,
    /// On a drive that was away and is back, and not yet verified there.
    Unverified,
    /// On a drive that does not answer.
    Unreachable {
        /// Since when.
        since_ms: u64,
    },
    /// Not on its drive, or on one that will not come back.
    Missing {
        /// Since when that is known.
        since_ms: u64,
    },
    /// There, and of no use.
    Damaged {
        /// Since when that is known.
        since_ms: u64,
        /// The drive answers with errors, or holds another stripe's shard there: rather another drive, if there is one.
        elsewhere: bool,
    },
}

impl Condition {
    /// Since when the shard is lost; `None` for one that can be read.
    fn lost_since(self) -> Option<u64> {
        match self {
            Condition::Good | Condition::Draining | Condition::Unverified => None,
            Condition::Unreachable { since_ms }
            | Condition::Missing { since_ms }
            | Condition::Damaged { since_ms, .. } => Some(since_ms),
        }
    }

    fn is_readable(self) -> bool {
        matches!(self, Condition::Good | Condition::Draining)
    }
}

/// One shard of a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its index.
    pub index: u8,
    /// Where it lies, or should.
    pub drive: Option<DriveId>,
    /// Bytes of its payload.
    pub len: u32,
    /// How it is.
    pub condition: Condition,
}

/// A stripe that may need something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripe {
    /// Its id.
    pub id: StripeId,
    /// What it holds.
    pub class: StripeClass,
    /// How many data shards it has (k').
    pub data: u8,
    /// Those of its shards that exist.
    pub shards: Vec<Shard>,
}

impl Stripe {
    /// How many more shards it can lose: readable shards beyond the data shards that it has. Negative: not readable now.
    pub fn slack(&self) -> i32 {
        let readable = self.shards.iter().filter(|shard| shard.condition.is_readable()).count();
        i32::try_from(readable).unwrap_or(i32::MAX) - i32::from(self.data)
    }

    /// Whether every shard is good and where it should be.
    pub fn is_whole(&self) -> bool {
        self.shards.iter().all(|shard| shard.condition == Condition::Good)
    }

    /// Since when it has been short of a shard.
    pub fn lost_since(&self) -> Option<u64> {
        self.shards.iter().filter_map(|shard| shard.condition.lost_since()).min()
    }

    /// Bytes of its data shards.
    fn data_bytes(&self) -> u64 {
        let data = self.shards.iter().take(usize::from(self.data));
        data.map(|shard| u64::from(shard.len)).sum()
    }
}

/// What an operator may set of repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a silent drive is waited for while a stripe is short of nothing else, in milliseconds.
    pub grace_ms: u64,
    /// How long one lost drive is waited for, where no spare drive is left, before stripes are made narrower.
    pub replacement_ms: u64,
    /// Percent of drive time that repair may take: with one shard of slack or less, with two, with more.
    pub shares: [u8; 3],
    /// Items that get sources and targets in one plan; the rest only wait their turn.
    pub items: usize,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { grace_ms: 15 * 60_000, replacement_ms: 24 * 3_600_000, shares: [70, 40, 10], items: 1000 }
    }
}

impl Policy {
    /// Percent of drive time for a stripe of this slack.
    pub fn share(&self, slack: i32) -> u8 {
        let [urgent, soon, calm] = self.shares;
        match slack {
            ..=1 => urgent,
            2 => soon,
            _ => calm,
        }
    }
}

/// What is true of all stripes alike.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The drives. The room that repair may use counts as free.
    pub topology: &'a Topology,
    /// Registered drives that are to take shards, and can't be read.
    pub lost_drives: usize,
    /// Bytes outside the reserve that restriping may fill.
    pub room: u64,
    /// The cluster's geometry: what stripes may be restriped to.
    pub geometry: Geometry,
    /// The planner's clock, in milliseconds.
    pub now_ms: u64,
}

/// A shard to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its index.
    pub index: u8,
    /// Where the row says that it lies.
    pub from: Option<DriveId>,
    /// Where it is to be written. The same drive, where nothing is wrong but the bytes.
    pub to: DriveId,
    /// Bytes.
    pub len: u32,
    /// It is said to be missing or damaged there: looked at once more before it is rebuilt.
    pub suspect: bool,
}

/// One stripe's repair: an order for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairItem {
    /// The stripe.
    pub stripe: StripeId,
    /// How many more shards it can lose now.
    pub slack: i32,
    /// Percent of drive time that it may take.
    pub share: u8,
    /// Since when it has been short of a shard; `None` where shards only leave a draining drive.
    pub since_ms: Option<u64>,
    /// Where to read, in order of preference; as many as are needed come first.
    pub sources: Vec<(u8, DriveId)>,
    /// How many of the sources are read if all are good.
    pub reads: usize,
    /// Bytes read from each of them.
    pub read_len: u32,
    /// What is written.
    pub targets: Vec<Target>,
}

impl RepairItem {
    /// Bytes that it reads if all sources are good.
    pub fn read_bytes(&self) -> u64 {
        self.reads as u64 * u64::from(self.read_len)
    }

    /// Bytes that it writes.
    pub fn write_bytes(&self) -> u64 {
        self.targets.iter().map(|target| u64::from(target.len)).sum()
    }

    /// What it asks of each drive, in bytes: a source is read; a target is written, and read back.
    pub fn work(&self) -> impl Iterator<Item = (DriveId, u64)> + '_ {
        let sources = self.sources.iter().take(self.reads).map(|(_, drive)| (*drive, u64::from(self.read_len)));
        sources.chain(self.targets.iter().map(|target| (target.to, 2 * u64::from(target.len))))
    }
}

/// Why a stripe that is not whole is left as it is for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// All that it is short of is on a drive that may answer again, or on some that fell silent together.
    Grace {
        /// Until when.
        until_ms: u64,
    },
    /// The drive is back, and its shards are being verified.
    Verify,
    /// No drive is left for the shard: one lost drive is waited for.
    Replacement {
        /// Until when.
        until_ms: u64,
    },
    /// It was tried, and came to nothing; others first.
    Again {
        /// Until when.
        until_ms: u64,
    },
    /// No drive is left for the shard, and too few for a narrower stripe.
    TooFewDrives,
    /// No drive is left for the shard, and no room outside the reserve for a narrower stripe.
    NoRoom,
    /// No drive is left that the shard of a draining drive could go to.
    NoSpare,
    /// Fewer shards can be read than are needed. Nothing is freed; some of them may come back.
    Beyond {
        /// How many are lacking.
        lacking: u8,
        /// Whether drives that do not answer hold enough to make up for it.
        may_return: bool,
    },
}

/// A stripe that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The stripe.
    pub stripe: StripeId,
    /// How many more shards it can lose now.
    pub slack: i32,
    /// Since when it has been short of a shard.
    pub since_ms: Option<u64>,
    /// Why it waits.
    pub why: Wait,
}

/// A plan: what is to be done, in order, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be rebuilt, the most endangered first.
    pub items: Vec<RepairItem>,
    /// How many are to be rebuilt after those: no sources and targets were chosen yet.
    pub later: usize,
    /// To be made narrower, the most endangered first.
    pub narrower: Vec<StripeId>,
    /// Left as they are.
    pub waiting: Vec<Waiting>,
    /// When the oldest loss that is not yet made good was noticed.
    pub oldest_ms: Option<u64>,
}

/// What is to be done about one stripe.
enum Need {
    Nothing,
    Wait(Wait),
    /// Write these shards: positions in the stripe's list.
    Rebuild(Vec<usize>),
}

/// Plans the repair of `stripes`. Equal arguments give an equal plan.
pub fn plan_repairs(scene: &Scene<'_>, stripes: &[Stripe], policy: &Policy) -> Plan {
    let mut plan = Plan::default();
    let mut wounded: Vec<(&Stripe, Vec<usize>)> = Vec::new();
    for stripe in stripes {
        plan.oldest_ms = plan.oldest_ms.into_iter().chain(stripe.lost_since()).min();
        match need(stripe, scene, policy) {
            Need::Nothing => {}
            Need::Wait(why) => plan.wait(stripe, why),
            Need::Rebuild(wanted) => wounded.push((stripe, wanted)),
        }
    }
    wounded.sort_by_key(|(stripe, _)| urgency(stripe));
    let mut planner =
        Planner { scene, policy, topology: scene.topology.clone(), load: HashMap::new(), room: scene.room };
    for (stripe, wanted) in wounded {
        if plan.items.len() >= policy.items {
            plan.later += 1;
            continue;
        }
        planner.add(&mut plan, stripe, &wanted);
    }
    plan
}

/// The order of repair: slack, then the ledger before data (a lost data stripe is some objects, a lost ledger stripe is part
/// of every rebuild of the index), then age.
fn urgency(stripe: &Stripe) -> (i32, bool, u64, StripeId) {
    (stripe.slack(), stripe.class == StripeClass::Data, stripe.lost_since().unwrap_or(u64::MAX), stripe.id)
}

/// Since when nothing is wrong with a stripe but that one drive is silent, or several of another machine that fell silent
/// together while the stripe can lose yet another shard. Without that limit the next loss within the grace would be an
/// object's. The drives of this process's own machine ([`NEAR`]) have no grace together: the process would be gone, too.
fn silent_since(stripe: &Stripe, topology: &Topology) -> Option<u64> {
    let mut silent = Vec::new();
    for shard in &stripe.shards {
        match shard.condition {
            Condition::Unreachable { since_ms } => {
                silent.push((since_ms, shard.drive.and_then(|id| topology.node_of(id))))
            }
            condition if condition.is_readable() => {}
            _ => return None,
        }
    }
    let (since_ms, node) = *silent.iter().min()?;
    let far = node.is_some_and(|node| node != NEAR);
    let same = |(since, of): &(u64, Option<u32>)| far && *of == node && since - since_ms <= ONE_CAUSE_MS;
    (silent.len() == 1 || (stripe.slack() > 0 && silent.iter().all(same))).then_some(since_ms)
}

fn need(stripe: &Stripe, scene: &Scene<'_>, policy: &Policy) -> Need {
    let conditions = || stripe.shards.iter().map(|shard| shard.condition);
    let unverified = conditions().filter(|condition| *condition == Condition::Unverified).count();
    let sources = conditions().filter(|c| c.is_readable() || *c == Condition::Unverified).count();
    let lacking = usize::from(stripe.data).saturating_sub(sources);
    if lacking > 0 {
        let silent = conditions().filter(|c| matches!(c, Condition::Unreachable { .. })).count();
        let lacking = u8::try_from(lacking).unwrap_or(u8::MAX);
        return Need::Wait(Wait::Beyond { lacking, may_return: silent >= usize::from(lacking) });
    }
    let draining = |condition: Condition| condition == Condition::Draining;
    let wanted = |spare_silent: bool| {
        let wants = |condition: Condition| match condition {
            Condition::Unreachable { .. } => !spare_silent,
            condition => condition.lost_since().is_some() || draining(condition),
        };
        let all = stripe.shards.iter().enumerate();
        all.filter(|(_, shard)| wants(shard.condition)).map(|(at, _)| at).collect::<Vec<usize>>()
    };
    let silent = silent_since(stripe, scene.topology);
    let until_ms = silent.map_or(0, |since_ms| since_ms.saturating_add(policy.grace_ms));
    let spare_silent = scene.now_ms < until_ms;
    let wanted = wanted(spare_silent);
    match (wanted.is_empty(), spare_silent, unverified > 0) {
        (false, ..) => Need::Rebuild(wanted),
        (true, true, _) => Need::Wait(Wait::Grace { until_ms }),
        (true, false, true) => Need::Wait(Wait::Verify),
        (true, false, false) => Need::Nothing,
    }
}

impl Plan {
    fn wait(&mut self, stripe: &Stripe, why: Wait) {
        let Stripe { id, .. } = *stripe;
        self.waiting.push(Waiting { stripe: id, slack: stripe.slack(), since_ms: stripe.lost_since(), why });
    }
}

/// What choosing drives uses up: room, and the drives' time.
struct Planner<'a> {
    scene: &'a Scene<'a>,
    policy: &'a Policy,
    topology: Topology,
    /// Bytes of work that this plan gives to a drive.
    load: HashMap<DriveId, u64>,
    room: u64,
}

impl Planner<'_> {
    fn add(&mut self, plan: &mut Plan, stripe: &Stripe, wanted: &[usize]) {
        let (targets, left) = self.targets(stripe, wanted);
        if !targets.is_empty() {
            // What finds no place now is planned again when these are done: one shard better than none.
            let item = self.item(stripe, targets);
            for (drive, bytes) in item.work() {
                *self.load.entry(drive).or_default() += bytes;
            }
            plan.items.push(item);
        } else if left.iter().any(|&at| stripe.shards[at].condition.lost_since().is_some()) {
            self.without_spare(plan, stripe);
        } else {
            plan.wait(stripe, Wait::NoSpare);
        }
    }

    /// Where the wanted shards go, and which of them have no place to go.
    fn targets(&mut self, stripe: &Stripe, wanted: &[usize]) -> (Vec<Target>, Vec<usize>) {
        let mut targets = Vec::new();
        let (mut moving, mut left) = (Vec::new(), Vec::new());
        for &at in wanted {
            let shard = &stripe.shards[at];
            let elsewhere =
                !matches!(shard.condition, Condition::Missing { .. } | Condition::Damaged { elsewhere: false, .. });
            match shard.drive.filter(|&drive| !elsewhere && self.takes(drive)) {
                Some(drive) => targets.push(target(shard, drive)),
                None => moving.push(at),
            }
        }
        // What is lost comes before what only moves, when there are not drives enough for both.
        moving.sort_by_key(|&at| stripe.shards[at].condition.lost_since().is_none());
        let drives_of = |moves: bool| {
            let shards = stripe.shards.iter().enumerate().filter(|(at, _)| moving.contains(at) == moves);
            shards.filter_map(|(_, shard)| shard.drive).collect::<Vec<DriveId>>()
        };
        let (stay, leave) = (drives_of(false), drives_of(true));
        let seed = stripe.id.epoch.0 ^ stripe.id.counter.rotate_left(32) ^ 0x7265_7061_6972;
        let mut drives = self.draw(moving.len(), &stay, &leave, seed).into_iter();
        for &at in &moving {
            let shard = &stripe.shards[at];
            // With no other drive left, the one that it was on is better than none.
            let own = || shard.drive.filter(|&drive| self.takes(drive));
            match drives.next().or_else(own) {
                Some(drive) => targets.push(target(shard, drive)),
                None => left.push(at),
            }
        }
        for target in &targets {
            self.fill(target.to, u64::from(target.len));
        }
        (targets, left)
    }

    /// Of two draws of targets the one whose busiest drive has less to do. With one draw the drive that chance favours most has
    /// half as much again to do as the others, and everybody waits for it in the end (the power of two choices: Azar et al.,
    /// "Balanced allocations", 1994).
    fn draw(&self, count: usize, stay: &[DriveId], leave: &[DriveId], seed: u64) -> Vec<DriveId> {
        // Under no rule: a shard where the rule does not want it is better than none.
        let need =
            placement::Need { used: stay, failed: leave, seed, ..placement::Need::new(count, self.scene.geometry.m()) };
        let first = place(&self.topology, &need);
        if count == 0 {
            return first;
        }
        let second =
            place(&self.topology, &placement::Need { seed: seed.rotate_left(17) ^ 0x9e37_79b9_7f4a_7c15, ..need });
        let busiest = |drives: &[DriveId]| drives.iter().map(|drive| self.load.get(drive).copied().unwrap_or(0)).max();
        if second.len() >= first.len() && busiest(&second) < busiest(&first) { second } else { first }
    }

    fn takes(&self, drive: DriveId) -> bool {
        let at = self.topology.drives.binary_search_by_key(&drive, |drive| drive.id);
        at.is_ok_and(|at| self.topology.drives[at].usable)
    }

    fn fill(&mut self, drive: DriveId, bytes: u64) {
        if let Ok(at) = self.topology.drives.binary_search_by_key(&drive, |drive| drive.id) {
            let drive = &mut self.topology.drives[at];
            drive.free = drive.free.saturating_sub(bytes);
            (drive.usable, drive.full) = (drive.usable && drive.free >= MIN_FREE, drive.full || drive.free < MIN_FREE);
        }
    }

    fn item(&self, stripe: &Stripe, targets: Vec<Target>) -> RepairItem {
        let slack = stripe.slack();
        let is_target = |shard: &Shard| targets.iter().any(|target| target.index == shard.index);
        let rank = |shard: &Shard, drive: DriveId| {
            let trust = match shard.condition {
                Condition::Good => 0,
                Condition::Draining => 1,
                _ => 2,
            };
            (trust, self.load.get(&drive).copied().unwrap_or(0), shard.index)
        };
        let mut sources: Vec<_> = stripe
            .shards
            .iter()
            .filter(|shard| shard.condition.is_readable() || shard.condition == Condition::Unverified)
            .filter_map(|shard| Some((rank(shard, shard.drive?), (shard.index, shard.drive?))))
            .collect();
        sources.sort_unstable();
        let mut sources: Vec<(u8, DriveId)> = sources.into_iter().map(|(_, source)| source).collect();
        // Where everything that is wanted can still be read, it is copied, and nothing else is read.
        let copied = |shard: &&Shard| is_target(shard) && shard.condition.is_readable();
        let copies = stripe.shards.iter().filter(copied).count() == targets.len();
        if copies {
            sources.sort_by_key(|(index, _)| !targets.iter().any(|target| target.index == *index));
        }
        let longest = |lens: &mut dyn Iterator<Item = u32>| lens.max().unwrap_or(0);
        let (reads, read_len) = match copies {
            true => (targets.len(), longest(&mut targets.iter().map(|target| target.len))),
            false => (usize::from(stripe.data), longest(&mut stripe.shards.iter().map(|shard| shard.len))),
        };
        let (share, since_ms) = (self.policy.share(slack), stripe.lost_since());
        RepairItem { stripe: stripe.id, slack, share, since_ms, sources, reads, read_len, targets }
    }

    /// The rule for a cluster that has no drive left for a lost shard: wait for a replacement while one drive is lost, make
    /// the stripe narrower otherwise, and stop at the reserve.
    fn without_spare(&mut self, plan: &mut Plan, stripe: &Stripe) {
        let missing = stripe.shards.iter().filter(|shard| shard.condition.lost_since().is_some()).count();
        let until_ms = stripe.lost_since().unwrap_or(0).saturating_add(self.policy.replacement_ms);
        if missing < 2 && self.scene.lost_drives < 2 && self.scene.now_ms < until_ms {
            return plan.wait(stripe, Wait::Replacement { until_ms });
        }
        let usable = self.topology.usable().count();
        let parity = u64::from(self.scene.geometry.m());
        let width = match usable_width(usable, self.scene.geometry) {
            // A stripe as wide as this one would have no place to go either.
            Some(width) if usize::from(width) + usize::from(self.scene.geometry.m()) < stripe.shards.len() => width,
            _ => return plan.wait(stripe, Wait::TooFewDrives),
        };
        let data = stripe.data_bytes();
        let bytes = data.saturating_add(data.saturating_mul(parity).div_ceil(u64::from(width)));
        match self.room.checked_sub(bytes) {
            Some(room) => {
                self.room = room;
                plan.narrower.push(stripe.id);
            }
            None => plan.wait(stripe, Wait::NoRoom),
        }
    }
}

fn target(shard: &Shard, to: DriveId) -> Target {
    let suspect = matches!(shard.condition, Condition::Missing { .. } | Condition::Damaged { .. });
    Target { index: shard.index, from: shard.drive, to, len: shard.len, suspect }
}
