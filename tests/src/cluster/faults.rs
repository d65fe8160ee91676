//! What befalls a cluster: drawn from a seed, done, and undone.
//!
//! Each kind comes once before any comes again, in an order of chance; whom it befalls is chance, too. One fault concerns at most two
//! storage nodes, which is what the geometry of the test promises to survive, or all of them when the power is cut. Two faults at once
//! may come to more: then nothing is acknowledged until one of them is over, and nothing is lost either.

use crate::cluster::links::Flow;
use crate::cluster::site::{Layout, Site};
use crate::s3::Random;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Stands for the metadata process that leads at that moment.
const LEADER: &str = "the leader";

/// Stands for one that does not.
const FOLLOWER: &str = "a follower";

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    KillNode,
    KillTwoNodes,
    PauseNode,
    /// Nothing goes in or out.
    IsolateNode,
    /// Its connections break, and none can be made.
    CutNode,
    /// It hears, and nobody hears it.
    MuteNode,
    /// It is heard, and hears nobody.
    DeafNode,
    SlowNode,
    /// One drive's directory is somewhere else for a while.
    LoseDrive,
    FillDrive,
    /// A bit of what one drive holds is another one.
    Rot,
    KillMetadata,
    PauseMetadata,
    SlowMetadata,
    KillLeader,
    PauseLeader,
    /// From the other metadata processes alone: it reaches storage nodes and gateways.
    IsolateLeaderFromPeers,
    MuteLeader,
    DeafLeader,
    IsolateLeader,
    IsolateFollower,
    /// A metadata node that does not lead loses all that it has of Raft, and comes back as a new member.
    LoseFollower,
    KillGateway,
    PauseGateway,
    IsolateGateway,
    /// A gateway does not reach two storage nodes that everybody else reaches.
    SplitGateway,
    PowerCut,
    /// The time of day of one process jumps.
    JumpClock,
    /// Those of all jump, each by itself.
    JumpClocks,
}

impl Kind {
    fn is_of_the_leader(self) -> bool {
        use Kind::{DeafLeader, IsolateLeader, IsolateLeaderFromPeers, KillLeader, MuteLeader, PauseLeader};
        let all = [KillLeader, PauseLeader, IsolateLeaderFromPeers, MuteLeader, DeafLeader, IsolateLeader];
        all.contains(&self)
    }
}

const ALWAYS: [Kind; 12] = [
    Kind::KillNode,
    Kind::KillTwoNodes,
    Kind::PauseNode,
    Kind::IsolateNode,
    Kind::CutNode,
    Kind::MuteNode,
    Kind::DeafNode,
    Kind::SlowNode,
    Kind::LoseDrive,
    Kind::Rot,
    Kind::KillMetadata,
    Kind::PowerCut,
];
const ALONE: [Kind; 2] = [Kind::PauseMetadata, Kind::SlowMetadata];
const REPLICATED: [Kind; 9] = [
    Kind::KillLeader,
    Kind::PauseLeader,
    Kind::IsolateLeaderFromPeers,
    Kind::MuteLeader,
    Kind::DeafLeader,
    Kind::IsolateLeader,
    Kind::IsolateFollower,
    Kind::LoseFollower,
    Kind::PauseMetadata,
];
const CLOCKS: [Kind; 2] = [Kind::JumpClock, Kind::JumpClocks];
const GATEWAYS: [Kind; 4] = [Kind::KillGateway, Kind::PauseGateway, Kind::IsolateGateway, Kind::SplitGateway];

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Deed {
    Kill(Vec<String>),
    Pause(String),
    /// The name is found when it is done.
    LoseState(String),
    /// Between each of the first and each of the second. An empty second: everybody else.
    Between {
        these: Vec<String>,
        those: Vec<String>,
        there: Flow,
        back: Flow,
    },
    /// Of the node in this directory, the first.
    MoveDrive(PathBuf),
    Fill,
    /// Of the drive in this directory, chosen by the number.
    Flip(PathBuf, u64),
    /// So many seconds ahead.
    Jump(Vec<(String, i64)>),
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    what: String,
    deed: Deed,
    /// How long it lasts.
    pub lasts: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1} s", self.what, self.lasts.as_secs_f64())
    }
}

/// Draws faults.
#[derive(Debug)]
pub struct Deck {
    random: Random,
    layout: Layout,
    kinds: Vec<Kind>,
    left: Vec<Kind>,
}

impl Deck {
    /// The faults that a cluster like this can have. The same seed gives the same ones.
    pub fn new(seed: u64, layout: Layout, can_fill: bool, can_jump: bool) -> Deck {
        let mut kinds = ALWAYS.to_vec();
        kinds.extend(if layout.metadata > 1 { &REPLICATED[..] } else { &ALONE[..] });
        kinds.extend(GATEWAYS.iter().filter(|_| layout.gateways > 0));
        kinds.extend(can_fill.then_some(Kind::FillDrive));
        kinds.extend(CLOCKS.iter().filter(|_| can_jump));
        if let Ok(only) = std::env::var("STELE_FAULTS_ONLY") {
            kinds.retain(|kind| only.split(',').any(|name| name == format!("{kind:?}")));
            assert!(!kinds.is_empty(), "no kind of fault has a name that is in {only}");
        }
        Deck { random: Random::new(seed), layout, kinds, left: Vec::new() }
    }

    fn one_of(&mut self, mut names: Vec<String>) -> String {
        let at = usize::try_from(self.random.below(names.len() as u64)).unwrap_or(0);
        names.swap_remove(at)
    }

    /// What befalls the cluster next: one fault, or two at once.
    pub fn draw(&mut self) -> Vec<Fault> {
        let count = if self.random.below(4) == 0 { 2 } else { 1 };
        (0..count).map(|_| self.draw_one()).collect()
    }

    fn draw_one(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
        }
        let at = usize::try_from(self.random.below(self.left.len() as u64)).unwrap_or(0);
        let kind = self.left.swap_remove(at);
        // Most are over soon; some outlast what processes wait for each other. A leader that is gone for less than an election
        // is one that nobody misses.
        let (shortest, longest) = match self.random.below(5) {
            0 => (500, 18_000),
            _ if kind.is_of_the_leader() => (6_000, 5_000),
            _ => (500, 4_500),
        };
        let lasts = Duration::from_millis(shortest + self.random.below(longest));
        let (what, deed) = self.deed(kind);
        Fault { what, deed, lasts }
    }

    /// A jump that the process has to live with. Signatures of S3 are good for a quarter of an hour, and certificates have
    /// begun an hour before they were issued.
    fn jump(&mut self, name: String) -> (String, i64) {
        let serves_s3 = self.layout.s3_names().contains(&name);
        let (back, ahead) = if serves_s3 { (600, 600) } else { (3_000, 20 * 86_400) };
        let seconds = i64::try_from(self.random.below(back + ahead)).unwrap_or(0);
        (name, seconds - i64::try_from(back).unwrap_or(0))
    }

    fn deed(&mut self, kind: Kind) -> (String, Deed) {
        use Flow::{Cut, Held, Open};
        let node = self.one_of(self.layout.node_names());
        let metadata = self.one_of(self.layout.metadata_names());
        let port = self.one_of(self.layout.s3_names());
        let alone = |who: &str, there, back| Deed::Between { these: vec![who.to_owned()], those: vec![], there, back };
        let peers = |there, back| Deed::Between {
            these: vec![LEADER.to_owned()],
            those: self.layout.metadata_names(),
            there,
            back,
        };
        let slow = Flow::Slow(Duration::from_millis(20 + self.random.clone().below(80)));
        match kind {
            Kind::KillNode => (format!("{node} is killed"), Deed::Kill(vec![node])),
            Kind::KillTwoNodes => {
                let others = self.layout.node_names().into_iter().filter(|name| *name != node).collect();
                let other = self.one_of(others);
                (format!("{node} and {other} are killed"), Deed::Kill(vec![node, other]))
            }
            Kind::PauseNode => (format!("{node} stands still"), Deed::Pause(node)),
            Kind::IsolateNode => (format!("{node} is isolated"), alone(&node, Held, Held)),
            Kind::CutNode => (format!("{node} is cut off"), alone(&node, Cut, Cut)),
            Kind::MuteNode => (format!("nobody hears {node}"), alone(&node, Held, Open)),
            Kind::DeafNode => (format!("{node} hears nobody"), alone(&node, Open, Held)),
            Kind::SlowNode => (format!("{node} is slow"), alone(&node, slow, slow)),
            Kind::LoseDrive => (format!("a drive of {node} is gone"), Deed::MoveDrive(node.into())),
            Kind::FillDrive => ("a drive of n1 is full".to_owned(), Deed::Fill),
            // Always the same drive: what nobody has read yet must not come to more than the stripes can lose.
            Kind::Rot => ("a bit of n2 rots".to_owned(), Deed::Flip("n2/d0".into(), self.random.next())),
            Kind::KillMetadata => (format!("{metadata} is killed"), Deed::Kill(vec![metadata])),
            Kind::PauseMetadata => (format!("{metadata} stands still"), Deed::Pause(metadata)),
            Kind::SlowMetadata => (format!("{metadata} is slow"), alone(&metadata, slow, slow)),
            Kind::KillLeader => (format!("{LEADER} is killed"), Deed::Kill(vec![LEADER.to_owned()])),
            Kind::PauseLeader => (format!("{LEADER} stands still"), Deed::Pause(LEADER.to_owned())),
            Kind::IsolateLeaderFromPeers => (format!("{LEADER} is isolated from its peers"), peers(Held, Held)),
            Kind::MuteLeader => (format!("no peer hears {LEADER}"), peers(Held, Open)),
            Kind::DeafLeader => (format!("{LEADER} hears no peer"), peers(Open, Held)),
            Kind::IsolateLeader => (format!("{LEADER} is isolated"), alone(LEADER, Held, Held)),
            Kind::IsolateFollower => (format!("{metadata} is isolated"), alone(&metadata, Held, Held)),
            Kind::LoseFollower => (format!("{FOLLOWER} loses its state"), Deed::LoseState(FOLLOWER.to_owned())),
            Kind::KillGateway => (format!("{port} is killed"), Deed::Kill(vec![port])),
            Kind::PauseGateway => (format!("{port} stands still"), Deed::Pause(port)),
            Kind::IsolateGateway => (format!("{port} is isolated"), alone(&port, Held, Held)),
            Kind::SplitGateway => {
                let others = self.layout.node_names().into_iter().filter(|name| *name != node).collect();
                let those = vec![self.one_of(others), node];
                let what = format!("{port} does not reach {} and {}", those[0], those[1]);
                (what, Deed::Between { these: vec![port], those, there: Cut, back: Cut })
            }
            Kind::PowerCut => ("everything is killed at once".to_owned(), Deed::Kill(self.layout.names())),
            Kind::JumpClock => {
                let name = self.one_of(self.layout.names());
                let jump = self.jump(name);
                (format!("the clock of {} jumps by {} s", jump.0, jump.1), Deed::Jump(vec![jump]))
            }
            Kind::JumpClocks => {
                let jumps = self.layout.names().into_iter().map(|name| self.jump(name)).collect();
                ("all clocks jump".to_owned(), Deed::Jump(jumps))
            }
        }
    }
}

/// A fault that is going on, with the names that it befalls.
#[derive(Debug)]
pub struct Ongoing {
    deed: Deed,
}

impl Site {
    /// Does it.
    pub async fn inflict(&self, fault: &Fault) -> Ongoing {
        let mut deed = fault.deed.clone();
        self.resolve(&mut deed).await;
        match &deed {
            Deed::Kill(names) => names.iter().for_each(|name| self.supervisor.kill(name)),
            Deed::Pause(name) => self.supervisor.pause(name),
            Deed::LoseState(name) => {
                self.supervisor.kill(name);
                self.lose_state(name);
            }
            Deed::Between { these, those, there, back } => self.flows(these, those, *there, *back),
            Deed::MoveDrive(drive) => self.move_drive(drive, "d0", "away"),
            Deed::Flip(drive, chance) => flip(&self.root().join(drive), *chance),
            Deed::Fill => self.fill(),
            Deed::Jump(jumps) => self.set_clocks(jumps.iter().map(|(name, seconds)| (name, *seconds))),
        }
        Ongoing { deed }
    }

    /// Undoes it.
    pub async fn relieve(&self, ongoing: &Ongoing) {
        match &ongoing.deed {
            Deed::Kill(names) => names.iter().for_each(|name| self.supervisor.start(name)),
            Deed::Pause(name) => self.supervisor.resume(name),
            Deed::LoseState(name) => {
                self.rejoin(name)
                    .await
                    .unwrap_or_else(|failed| panic!("{name} does not come back as a new member: {failed}"));
            }
            Deed::Between { these, those, .. } => self.flows(these, those, Flow::Open, Flow::Open),
            Deed::MoveDrive(drive) => self.move_drive(drive, "away", "d0"),
            // It is for repair to undo that.
            Deed::Flip(..) => {}
            Deed::Jump(jumps) => self.set_clocks(jumps.iter().map(|(name, _)| (name, 0))),
            Deed::Fill => {
                if let Some(ballast) = self.ballast() {
                    // An error means that it is gone: two at once were the same.
                    drop(std::fs::remove_file(ballast));
                }
            }
        }
    }

    /// Puts names in the place of "the leader" and "a follower".
    async fn resolve(&self, deed: &mut Deed) {
        let names: Vec<&mut String> = match deed {
            Deed::Kill(names) => names.iter_mut().collect(),
            Deed::Pause(name) | Deed::LoseState(name) => vec![name],
            Deed::Between { these, .. } => these.iter_mut().collect(),
            Deed::MoveDrive(_) | Deed::Flip(..) | Deed::Fill | Deed::Jump(_) => vec![],
        };
        for name in names.into_iter().filter(|name| *name == LEADER || *name == FOLLOWER) {
            let leader = self.leader().await;
            println!("      the leader is {leader}");
            let mut followers = self.layout.metadata_names().into_iter().filter(|name| *name != leader);
            *name = if name == LEADER { leader.clone() } else { followers.next_back().unwrap_or(leader.clone()) };
        }
    }

    fn flows(&self, these: &[String], those: &[String], there: Flow, back: Flow) {
        let everybody = self.supervisor.names();
        let those = if those.is_empty() { &everybody } else { those };
        for (one, other) in these.iter().flat_map(|one| those.iter().map(move |other| (one, other))) {
            if one != other {
                self.network.set(one, other, there);
                self.network.set(other, one, back);
            }
        }
    }

    fn move_drive(&self, node: &Path, from: &str, to: &str) {
        let node = self.root().join(node);
        // It is there already when two faults at once are the same.
        if !node.join(to).exists() {
            std::fs::rename(node.join(from), node.join(to)).expect("a directory can be renamed");
        }
    }

    fn set_clocks<'a>(&self, clocks: impl Iterator<Item = (&'a String, i64)>) {
        let Some(to) = self.clocks() else { return };
        clocks.for_each(|(name, seconds)| to.set(name, seconds));
    }

    fn ballast(&self) -> Option<PathBuf> {
        self.small().map(|small| small.join("ballast"))
    }

    /// Leaves nothing free on the small file system.
    fn fill(&self) {
        let Some(path) = self.ballast() else { return };
        let file = File::create(path).expect("a file can be created");
        let (mut len, mut piece) = (0, 64u64 << 20);
        // Pieces that no longer fit are halved.
        while piece >= 4096 {
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), len, piece) {
                Ok(()) => len += piece,
                Err(_) => piece /= 2,
            }
        }
    }
}

/// Turns a bit of some data segment round. What a segment has not been written to yet is left alone by that, mostly.
fn flip(drive: &Path, chance: u64) {
    let segments = std::fs::read_dir(drive.join("segments")).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = segments.map(|entry| entry.path()).collect();
    files.sort();
    let mut random = Random::new(chance);
    let at = usize::try_from(random.below(files.len() as u64)).unwrap_or(0);
    let Some(file) = files.get(at).and_then(|path| File::options().read(true).write(true).open(path).ok()) else {
        return;
    };
    let mut byte = [0];
    // The header of a segment is written again by its node alone; leave it be.
    let len = file.metadata().map_or(0, |about| about.len()).min(8 << 20);
    let offset = 4096 + random.below(len.saturating_sub(4097));
    if file.read_exact_at(&mut byte, offset).is_ok() {
        file.write_all_at(&[byte[0] ^ 4], offset).expect("a segment can be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_and_every_kind_comes() {
        let layout = Layout { nodes: 6, drives: 2, metadata: 3, gateways: 2 };
        let draw = |seed| {
            let mut deck = Deck::new(seed, layout, true, true);
            (0..30).flat_map(|_| deck.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        let all = draw(5);
        for what in [
            "killed",
            "stands still",
            "isolated",
            "hears nobody",
            "full",
            "slow",
            "peer hears",
            "at once",
            "reach",
            "jump",
        ] {
            assert!(all.iter().any(|fault| fault.what.contains(what)), "{what}");
        }
    }
}
