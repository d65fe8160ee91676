//! Does what [`super::faults`] draws, and undoes it.

use crate::cluster::faults::{Deed, Fault, LEADER};
use crate::cluster::links::{Direction, Flow};
use crate::cluster::site::{PATIENCE, Site};
use crate::s3::Random;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;

/// Fewer metadata nodes than that lose no state: without it there would be no majority of what is known.
const ENOUGH: usize = 3;
/// How long nothing must be out of order: longer than metadata takes to look at the drives.
const QUIET: Duration = Duration::from_secs(6);
/// How long a drive that is to be lost waits for a storage node that is being replaced.
const TURN: Duration = Duration::from_secs(15);
/// Within this time a drive that was lost is rebuilt, whatever else is wrong with others.
const REBUILT: Duration = Duration::from_secs(400);

/// A fault that is going on, with the names that it befalls.
#[derive(Debug)]
pub struct Ongoing {
    deed: Deed,
    /// It was not possible at that moment, and something smaller was done.
    is_less: bool,
    /// Nobody else changes the same meanwhile.
    turn: Option<OwnedMutexGuard<()>>,
    /// What does not flow. Kept as it was done: who is there may have changed by the end.
    hindered: Vec<Direction>,
    /// A drive that was lost: its id, and its path as commands have it.
    lost: Option<(String, String)>,
}

impl Ongoing {
    /// Whether the cluster must serve for this to be undone.
    pub fn needs_the_cluster(&self) -> bool {
        matches!(self.deed, Deed::LoseState(_) | Deed::Lose { .. })
    }

    /// Whether something smaller was done than was drawn.
    pub fn is_less(&self) -> bool {
        self.is_less
    }
}

impl Site {
    /// Does it.
    pub async fn inflict(&self, fault: &Fault) -> Ongoing {
        let (turn, lost, hindered) = (None, None, Vec::new());
        let mut ongoing = Ongoing { deed: fault.deed.clone(), is_less: false, turn, hindered, lost };
        self.resolve(&mut ongoing).await;
        match &ongoing.deed {
            Deed::Kill(names) => names.iter().for_each(|name| self.supervisor.kill(name)),
            Deed::KillAll => self.supervisor.names().iter().for_each(|name| self.supervisor.kill(name)),
            Deed::Pause(name) => self.supervisor.pause(name),
            Deed::LoseState(name) => {
                self.supervisor.kill(name);
                self.lose_state(name);
            }
            Deed::Between { these, those, there, back } => {
                ongoing.hindered = between(these, those, &self.supervisor.names(), *there, *back);
                self.network.hinder(&ongoing.hindered);
            }
            Deed::MoveDrive(node) => self.move_drive(node, "d0", "away"),
            Deed::Lose { node, full } => {
                if *full {
                    self.fill();
                }
                self.lose_drive(node);
            }
            Deed::Flip(drive, chance) => flip(&self.root().join(drive), *chance),
            Deed::Fill => self.fill(),
            Deed::Jump(jumps) => self.set_clocks(jumps.iter().map(|(name, seconds)| (name, *seconds))),
        }
        ongoing
    }

    /// Undoes it.
    pub async fn relieve(&self, ongoing: Ongoing) {
        match &ongoing.deed {
            Deed::Kill(names) => names.iter().for_each(|name| self.supervisor.start(name)),
            Deed::KillAll => self.supervisor.names().iter().for_each(|name| self.supervisor.start(name)),
            Deed::Pause(name) => self.supervisor.resume(name),
            Deed::LoseState(name) => {
                self.rejoin(name)
                    .await
                    .unwrap_or_else(|failed| panic!("{name} does not come back as a new member: {failed}"));
            }
            // Another fault of the same time may be about the same two.
            Deed::Between { .. } => self.network.undo(&ongoing.hindered),
            Deed::MoveDrive(node) => self.move_drive(node, "away", "d0"),
            Deed::Lose { node, .. } => {
                if let Some((drive, path)) = &ongoing.lost {
                    let replaced = self.replaced(node, drive, path).await;
                    replaced.unwrap_or_else(|failed| panic!("the lost drive of {node}: {failed}"));
                }
                self.empty();
            }
            // It is for repair to undo that.
            Deed::Flip(..) => {}
            Deed::Jump(jumps) => self.set_clocks(jumps.iter().map(|(name, _)| (name, 0))),
            Deed::Fill => self.empty(),
        }
    }

    /// Puts names in the place of "the leader" and "a follower", and storage nodes in that of those that left. What may not be done
    /// now becomes the end of a process.
    async fn resolve(&self, ongoing: &mut Ongoing) {
        match &mut ongoing.deed {
            Deed::LoseState(name) => {
                let turn = Arc::clone(&self.members).try_lock_owned().ok();
                let voters = self.voters().await;
                *name = self.follower(&voters).await;
                ongoing.turn = turn.filter(|_| voters.len() >= ENOUGH);
                if ongoing.turn.is_none() {
                    println!("      {name} is only killed: the metadata nodes are being changed");
                    (ongoing.deed, ongoing.is_less) = (Deed::Kill(vec![name.clone()]), true);
                }
            }
            Deed::Lose { node, .. } => {
                *node = self.now(node);
                ongoing.turn = tokio::time::timeout(TURN, Arc::clone(&self.drives).lock_owned()).await.ok();
                ongoing.lost = self.drive_at(node, "d0").await.filter(|_| ongoing.turn.is_some());
                if ongoing.lost.is_none() {
                    println!("      {node} is only killed: another one is being replaced");
                    (ongoing.deed, ongoing.is_less) = (Deed::Kill(vec![node.clone()]), true);
                }
            }
            Deed::Kill(names) => self.resolve_names(names.iter_mut().collect()).await,
            Deed::Pause(name) | Deed::MoveDrive(name) => self.resolve_names(vec![name]).await,
            Deed::Between { these, those, .. } => {
                self.resolve_names(these.iter_mut().collect()).await;
                self.resolve_names(those.iter_mut().collect()).await;
            }
            Deed::KillAll | Deed::Flip(..) | Deed::Fill | Deed::Jump(_) => {}
        }
    }

    async fn resolve_names(&self, names: Vec<&mut String>) {
        for name in names {
            if name == LEADER {
                *name = self.leader().await;
                println!("      the leader is {name}");
            }
            *name = self.now(name);
        }
    }

    /// One of these that does not lead.
    async fn follower(&self, voters: &[String]) -> String {
        let leader = self.leader().await;
        println!("      the leader is {leader}");
        voters.iter().rfind(|name| **name != leader).unwrap_or(&leader).clone()
    }

    fn move_drive(&self, node: &str, from: &str, to: &str) {
        let node = self.root().join(node);
        // It is there already when two faults at once are the same.
        if !node.join(to).exists() && node.join(from).exists() {
            std::fs::rename(node.join(from), node.join(to)).expect("a directory can be renamed");
        }
    }

    /// The first drive of a node is an empty one from its next start on.
    fn lose_drive(&self, node: &str) {
        self.supervisor.kill(node);
        let drive = self.root().join(node).join("d0");
        match std::fs::remove_dir_all(&drive) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => std::fs::create_dir_all(&drive).expect("a directory below our own can be made"),
        }
    }

    /// The node is back, another drive takes the place of the one that it has lost, and all is whole: only then may the next be lost.
    async fn replaced(&self, node: &str, drive: &str, path: &str) -> Result<(), String> {
        self.supervisor.start(node);
        self.supervisor.ready(node, PATIENCE).await?;
        self.replace_lost(drive, path).await?;
        let begun = Instant::now();
        let whole = self.whole(REBUILT, QUIET).await;
        println!("      rebuilt after {:.1?}", begun.elapsed());
        whole.map_err(|answer| format!("it is not rebuilt: {answer:#}"))
    }

    fn set_clocks<'a>(&self, clocks: impl Iterator<Item = (&'a String, i64)>) {
        let Some(to) = self.clocks() else { return };
        clocks.for_each(|(name, seconds)| to.set(name, seconds));
    }

    fn ballast(&self) -> Option<PathBuf> {
        self.small().map(|small| small.join("ballast"))
    }

    fn empty(&self) {
        if let Some(ballast) = self.ballast() {
            // An error means that it is gone: two at once were the same.
            drop(std::fs::remove_file(ballast));
        }
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

/// What is to flow otherwise between each of the first and each of the second, or everybody else.
fn between(these: &[String], those: &[String], everybody: &[String], there: Flow, back: Flow) -> Vec<Direction> {
    let those = if those.is_empty() { everybody } else { those };
    let pairs = these.iter().flat_map(|one| those.iter().map(move |other| (one, other)));
    // Those that share their fate do not lose each other.
    let apart = pairs.filter(|(_, other)| !these.contains(other));
    apart.flat_map(|(one, other)| [(one.clone(), other.clone(), there), (other.clone(), one.clone(), back)]).collect()
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
    use crate::cluster::links::Network;

    /// Two at once are a quarter of all faults, and the first to end must not end the other.
    #[test]
    fn a_link_that_two_faults_hinder_is_open_when_both_have_ended() {
        use Flow::{Cut, Held, Open};
        let network = Network::new();
        let names = |all: &[&str]| all.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let everybody = names(&["m1", "m2", "n1", "n2", "g1"]);
        let isolated = between(&names(&["m1"]), &[], &everybody, Held, Held);
        let deaf = between(&names(&["m1"]), &names(&["m1", "m2"]), &everybody, Open, Cut);
        let rack = between(&names(&["n1", "n2"]), &[], &everybody, Held, Held);
        assert_eq!((isolated.len(), deaf.len(), rack.len()), (8, 2, 12));
        for fault in [&isolated, &deaf, &rack] {
            network.hinder(fault);
        }
        let flows = |pairs: [(&str, &str); 4]| pairs.map(|(from, to)| network.flow(from, to));
        let pairs = [("m2", "m1"), ("m1", "m2"), ("n1", "m1"), ("n1", "n2")];
        assert_eq!(flows(pairs), [Cut, Held, Held, Open]);
        network.undo(&isolated);
        assert_eq!(flows(pairs), [Cut, Open, Held, Open], "what the others do goes on");
        network.undo(&deaf);
        assert_eq!(flows(pairs), [Open, Open, Held, Open]);
        network.undo(&rack);
        assert_eq!(flows(pairs), [Open; 4]);
        network.hinder(&isolated);
        network.hinder(&isolated);
        network.undo(&isolated);
        assert_eq!(flows(pairs), [Held, Held, Held, Open], "the same twice");
    }
}
