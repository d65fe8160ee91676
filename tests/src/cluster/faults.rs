//! What befalls a cluster: drawn from a seed.
//!
//! Each kind comes once before any comes again, in an order of chance; whom it befalls is chance, too. One fault concerns at most two
//! storage nodes or one rack, which is what the geometry of the test promises to survive, or all of them when the power is cut.
//! Two faults at once may come to more: then nothing is acknowledged until one of them is over, and nothing is lost either.

use crate::cluster::copy::COPY;
use crate::cluster::links::Flow;
use crate::cluster::site::{Layout, Shape};
use crate::s3::Random;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Stands for the metadata process that leads at that moment.
pub(super) const LEADER: &str = "the leader";

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
    /// For longer than metadata goes without hearing of a gateway, and a gateway without metadata, before either counts as gone.
    StallGateway,
    /// A gateway does not reach two storage nodes that everybody else reaches.
    SplitGateway,
    PowerCut,
    /// The time of day of one process jumps.
    JumpClock,
    /// Those of all jump, each by itself.
    JumpClocks,
    /// All storage nodes of a rack.
    KillRack,
    IsolateRack,
    /// What a drive held is lost, and it is rebuilt.
    RebuildDrive,
    /// The same while another drive, which the plan may choose, has no room.
    RebuildWhileFull,
    /// The process that has the second copy.
    KillCopy,
    PauseCopy,
    IsolateCopy,
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
const RACKS: [Kind; 2] = [Kind::KillRack, Kind::IsolateRack];
const COPIES: [Kind; 3] = [Kind::KillCopy, Kind::PauseCopy, Kind::IsolateCopy];
/// Those that take minutes.
const LONG: [Kind; 2] = [Kind::StallGateway, Kind::RebuildDrive];

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Kill(Vec<String>),
    /// Whoever runs by then.
    KillAll,
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
    /// Of this node, the first.
    MoveDrive(String),
    /// The contents of the first drive of this node; `full`: while another has no room.
    Lose {
        node: String,
        full: bool,
    },
    Fill,
    /// Of the drive in this directory, chosen by the number.
    Flip(PathBuf, u64),
    /// So many seconds ahead.
    Jump(Vec<(String, i64)>),
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The name of its kind.
    pub kind: String,
    what: String,
    pub(super) deed: Deed,
    /// How long it lasts.
    pub lasts: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1} s", self.what, self.lasts.as_secs_f64())
    }
}

/// What there is that faults can befall.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// The processes.
    pub layout: Layout,
    /// Racks, and the like.
    pub shape: Shape,
    /// A drive can be filled.
    pub can_fill: bool,
    /// Clocks can be set.
    pub can_jump: bool,
    /// There is a second copy.
    pub has_copy: bool,
    /// There is time for faults that take minutes.
    pub is_long: bool,
}

/// Only these kinds are drawn, where it is said.
const ONLY: &str = "STELE_FAULTS_ONLY";

fn is_asked_for(kind: Kind) -> bool {
    std::env::var(ONLY).map_or(true, |only| only.split(',').any(|name| name == format!("{kind:?}")))
}

impl Means {
    /// Names of the kinds that this machine can't bring about: they need a file system that may be mounted, or a C compiler.
    pub fn left_out(&self) -> Vec<String> {
        let full = [Kind::FillDrive].into_iter().chain(self.is_long.then_some(Kind::RebuildWhileFull));
        let kinds = full.filter(|_| !self.can_fill).chain(CLOCKS.into_iter().filter(|_| !self.can_jump));
        kinds.filter(|kind| is_asked_for(*kind)).map(|kind| format!("{kind:?}")).collect()
    }
}

/// Draws faults.
#[derive(Debug)]
pub struct Deck {
    random: Random,
    layout: Layout,
    racks: usize,
    s3_everywhere: bool,
    kinds: Vec<Kind>,
    left: Vec<Kind>,
}

impl Deck {
    /// The faults that a cluster like this can have. The same seed gives the same ones.
    pub fn new(seed: u64, means: Means) -> Deck {
        let Means { layout, shape, can_fill, can_jump, has_copy, is_long } = means;
        let mut kinds = ALWAYS.to_vec();
        kinds.extend(if layout.metadata > 1 { &REPLICATED[..] } else { &ALONE[..] });
        kinds.extend(GATEWAYS.iter().filter(|_| layout.gateways > 0));
        kinds.extend(can_fill.then_some(Kind::FillDrive));
        kinds.extend(CLOCKS.iter().filter(|_| can_jump));
        kinds.extend(RACKS.iter().filter(|_| shape.racks > 0));
        kinds.extend(COPIES.iter().filter(|_| has_copy));
        kinds.extend(LONG.iter().filter(|_| is_long));
        kinds.extend((is_long && can_fill).then_some(Kind::RebuildWhileFull));
        kinds.retain(|kind| is_asked_for(*kind));
        assert!(!kinds.is_empty(), "no kind of fault that is possible here has a name that is in {ONLY}");
        Deck {
            random: Random::new(seed),
            layout,
            racks: shape.racks,
            s3_everywhere: shape.s3_everywhere,
            kinds,
            left: Vec::new(),
        }
    }

    /// Names of the kinds that may come.
    pub fn kinds(&self) -> Vec<String> {
        self.kinds.iter().map(|kind| format!("{kind:?}")).collect()
    }

    /// The storage nodes of a rack, which has its number.
    fn rack(&mut self) -> (usize, Vec<String>) {
        let racks = self.racks.max(1);
        let rack = usize::try_from(self.random.below(racks as u64)).unwrap_or(0);
        (rack + 1, self.layout.node_names().into_iter().skip(rack).step_by(racks).collect())
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
            _ if kind == Kind::StallGateway => (20_000, 25_000),
            0 => (500, 18_000),
            _ if kind.is_of_the_leader() => (6_000, 5_000),
            _ => (500, 4_500),
        };
        let lasts = Duration::from_millis(shortest + self.random.below(longest));
        let (what, deed) = self.deed(kind);
        Fault { kind: format!("{kind:?}"), what, deed, lasts }
    }

    fn last(&self) -> String {
        format!("n{}", self.layout.nodes)
    }

    /// A jump that the process has to live with. Signatures of S3 are good for a quarter of an hour, and certificates have
    /// begun an hour before they were issued.
    fn jump(&mut self, name: String) -> (String, i64) {
        let serves_s3 = self.layout.s3_names().contains(&name)
            || (self.s3_everywhere && self.layout.metadata_names().contains(&name));
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
            Kind::LoseDrive => (format!("a drive of {node} is gone"), Deed::MoveDrive(node)),
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
            Kind::PauseGateway | Kind::StallGateway => (format!("{port} stands still"), Deed::Pause(port)),
            Kind::IsolateGateway => (format!("{port} is isolated"), alone(&port, Held, Held)),
            Kind::SplitGateway => {
                let others = self.layout.node_names().into_iter().filter(|name| *name != node).collect();
                let those = vec![self.one_of(others), node];
                let what = format!("{port} does not reach {} and {}", those[0], those[1]);
                (what, Deed::Between { these: vec![port], those, there: Cut, back: Cut })
            }
            Kind::PowerCut => ("everything is killed at once".to_owned(), Deed::KillAll),
            Kind::KillRack => {
                let (rack, nodes) = self.rack();
                (format!("rack r{rack} is killed"), Deed::Kill(nodes))
            }
            Kind::IsolateRack => {
                let (rack, these) = self.rack();
                let deed = Deed::Between { these, those: vec![], there: Held, back: Held };
                (format!("rack r{rack} is isolated"), deed)
            }
            Kind::RebuildDrive => (format!("a drive of {node} is lost"), Deed::Lose { node, full: false }),
            Kind::RebuildWhileFull => {
                let what = format!("a drive of n1 is full, and one of {} is lost", self.last());
                (what, Deed::Lose { node: self.last(), full: true })
            }
            Kind::KillCopy => (format!("the {COPY} is killed"), Deed::Kill(vec![COPY.to_owned()])),
            Kind::PauseCopy => (format!("the {COPY} stands still"), Deed::Pause(COPY.to_owned())),
            Kind::IsolateCopy => (format!("the {COPY} is isolated"), alone(COPY, Held, Held)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_and_every_kind_comes() {
        let layout = Layout { nodes: 6, drives: 2, metadata: 3, gateways: 2 };
        let shape = Shape { racks: 3, ..Shape::default() };
        let means = Means { layout, shape, can_fill: true, can_jump: true, has_copy: true, is_long: true };
        let draw = |seed| {
            let mut deck = Deck::new(seed, means);
            (0..40).flat_map(|_| deck.draw()).collect::<Vec<_>>()
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
            "rack",
            "copy",
            "is lost",
        ] {
            assert!(all.iter().any(|fault| fault.what.contains(what)), "{what}");
        }
        for kind in Deck::new(5, means).kinds() {
            assert!(all.iter().any(|fault| fault.kind == kind), "{kind}");
        }
    }

    #[test]
    fn what_a_machine_cannot_do_is_named() {
        let layout = Layout { nodes: 6, drives: 2, metadata: 3, gateways: 2 };
        let shape = Shape::default();
        let means = |can_fill, can_jump, is_long| Means { layout, shape, can_fill, can_jump, has_copy: false, is_long };
        assert!(means(true, true, true).left_out().is_empty());
        assert_eq!(means(false, true, false).left_out(), ["FillDrive"]);
        assert_eq!(means(false, true, true).left_out(), ["FillDrive", "RebuildWhileFull"]);
        assert_eq!(means(true, false, true).left_out(), ["JumpClock", "JumpClocks"]);
        for left_out in means(false, false, true).left_out() {
            assert!(Deck::new(1, means(true, true, true)).kinds().contains(&left_out));
            assert!(!Deck::new(1, means(false, false, true)).kinds().contains(&left_out));
        }
    }
}
