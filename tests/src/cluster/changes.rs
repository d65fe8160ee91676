//! What operators change while a cluster is used, whatever befalls it meanwhile: metadata nodes are added and removed, storage nodes
//! are replaced by others, a drive whose contents are lost is replaced in its place.
//!
//! Each change is asked of whoever leads until it is made: the answer to an order that was carried out may be lost, and a leader may
//! be gone before it is.

use crate::cluster::site::{AGAIN, PATIENCE, Site};
use crate::s3::Random;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How long a change may take in all: faults go on, some of which no change is possible under.
const CHANGED: Duration = Duration::from_secs(300);
/// How long a storage node may take to be emptied meanwhile.
const EMPTIED: Duration = Duration::from_secs(400);
/// The most metadata nodes, and how many are left when their number goes down.
const MOST: usize = 5;
const FEWEST: usize = 3;
/// What is said of a metadata node that is none any more.
const UNKNOWN: &str = "no metadata node is called";

/// What operators did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Metadata nodes that were added, and removed.
    pub added: usize,
    /// See `added`.
    pub removed: usize,
    /// How many metadata nodes voted, by the leader's word, whenever there were as many as there should be.
    pub voted: Vec<usize>,
    /// Storage nodes that another one came for.
    pub replaced: usize,
}

impl Done {
    /// How often there were the most metadata nodes, and the fewest after that.
    pub fn rounds(&self) -> usize {
        self.voted.windows(2).filter(|pair| *pair == [MOST, FEWEST]).count()
    }
}

/// How it is known that a change was made whose order was not answered with success.
#[derive(Clone, Copy, Debug)]
enum Made<'a> {
    /// Not at all.
    Answered,
    /// The next order is refused with these words.
    Says(&'a str),
    /// This metadata node votes.
    Votes(&'a str),
    /// This storage node is no node of the cluster any more.
    Removed(&'a str),
}

impl Site {
    /// Orders a change of whoever leads until it is carried out.
    async fn change(&self, arguments: &[&str], made: Made<'_>) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let leader = self.path(&self.leader().await);
            let output = self.stele(&[arguments, &["--data", leader.as_str()]].concat()).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() || self.is_made(made, &said).await {
                return Ok(());
            }
            if begun.elapsed() > CHANGED {
                return Err(format!("{arguments:?}: {}: {said}", output.status));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn is_made(&self, made: Made<'_>, said: &str) -> bool {
        match made {
            Made::Answered => false,
            Made::Says(words) => said.contains(words),
            Made::Votes(name) => self.voters().await.iter().any(|voter| voter == name),
            Made::Removed(name) => self.node_state(name).await == "removed",
        }
    }

    pub(super) async fn add_member(&self, name: &str) -> Result<(), String> {
        let address = self.metadata_address(name);
        self.change(&["member", "add", name, &address], Made::Votes(name)).await
    }

    /// Brings a metadata node without state back as a new member, as an operator does: the old one is removed first. Who leads may
    /// become another one between the two, and an answer be lost.
    pub async fn rejoin(&self, name: &str) -> Result<(), String> {
        self.supervisor.start(name);
        self.change(&["member", "remove", name], Made::Says(UNKNOWN)).await?;
        self.add_member(name).await
    }

    /// Afterwards the process waits to be added again.
    async fn remove_member(&self, name: &str) -> Result<(), String> {
        self.change(&["member", "remove", name], Made::Says(UNKNOWN)).await?;
        self.supervisor.kill(name);
        self.lose_state(name);
        self.supervisor.start(name);
        Ok(())
    }

    /// Adds or removes metadata nodes until there are so many.
    async fn have_members(&self, count: usize, random: &mut Random, done: &mut Done) -> Result<(), String> {
        loop {
            let turn = self.members.lock().await;
            let mut voters = self.voters().await;
            if voters.is_empty() {
                // Nobody can say at this moment.
            } else if voters.len() < count {
                let others = self.layout.metadata_names().into_iter().filter(|name| !voters.contains(name));
                let Some(name) = others.min() else { return Ok(()) };
                self.add_member(&name).await?;
                done.added += 1;
            } else if voters.len() > count {
                // The leader may be among them.
                let name = voters.swap_remove(below(random, voters.len()));
                self.remove_member(&name).await?;
                done.removed += 1;
            } else {
                done.voted.push(count);
                return Ok(());
            }
            drop(turn);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// A new storage node comes for an old one, which is emptied and leaves: the new one is added before.
    async fn replace_node(&self, place: &str, new: &str) -> Result<(), String> {
        let old = self.now(place);
        let number = self.layout.node_names().iter().position(|name| name == place).unwrap_or(0);
        let (at, rack) = (self.place(new).await, number % self.shape.racks.max(1) + 1);
        let program = self.builder().storage_node(&at, rack, false);
        self.supervisor.add(new, program);
        self.supervisor.start(new);
        self.supervisor.ready(new, PATIENCE).await?;
        let address = at.gate.to_string();
        self.change(&["node", "add", new, &address], Made::Answered).await?;
        self.change(&["node", "drain", &old], Made::Answered).await?;
        let begun = Instant::now();
        while !["drained", "removed"].contains(&self.node_state(&old).await.as_str()) {
            if begun.elapsed() > EMPTIED {
                return Err(format!("{old} is not drained: {:#}", self.repair_status().await));
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.change(&["node", "remove", &old], Made::Removed(&old)).await?;
        let names: Vec<String> = self.supervisor.names().into_iter().filter(|name| *name != old).collect();
        self.builder().rewrite(&names, &old, &at);
        self.successors.lock().unwrap_or_else(PoisonError::into_inner).insert(place.to_owned(), new.to_owned());
        self.supervisor.forget(&old);
        // A long run would fill the disk with drives that nobody reads again.
        let left = self.root().join(&old);
        std::fs::remove_dir_all(&left).map_err(|error| format!("{}: {error}", left.display()))
    }

    /// The state of a storage node, in the leader's words; empty while nobody says it.
    pub async fn node_state(&self, name: &str) -> String {
        let leader = self.path(&self.leader().await);
        let answer = self.json(&["node", "list", "--json", "--data", &leader]).await;
        let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
        let found = nodes.iter().find(|node| node["name"] == name);
        found.and_then(|node| node["state"].as_str()).unwrap_or_default().to_owned()
    }

    /// The drive that stands in a directory, below the root, of a storage node: id and path as commands have it.
    pub async fn drive_at(&self, node: &str, directory: &str) -> Option<(String, String)> {
        let leader = self.path(&self.leader().await);
        let answer = self.json(&["drive", "list", "--json", "--data", &leader]).await;
        let path = format!("{node}:{}", self.path(&format!("{node}/{directory}")));
        let drives = answer["drives"].as_array().cloned().unwrap_or_default();
        let found = drives.iter().find(|drive| drive["path"] == path.as_str() && drive["state"] != "removed");
        found.and_then(|drive| drive["id"].as_str()).map(|id| (id.to_owned(), path))
    }

    /// A new drive takes the place of one that was lost there, and what that held is rebuilt.
    pub async fn replace_lost(&self, drive: &str, path: &str) -> Result<(), String> {
        let arguments = ["drive", "replace", drive, path, "--wait"];
        // The answer to the first order may have been lost.
        self.change(&arguments, Made::Says("was removed from this cluster")).await
    }

    /// Metadata nodes become more and fewer again, round after round, until told to stop; the round that was begun is ended.
    pub async fn members_come_and_go(self: Arc<Site>, seed: u64, stop: Arc<AtomicBool>) -> Result<Done, String> {
        let (mut random, mut done) = (Random::new(seed), Done::default());
        while !stop.load(Ordering::Relaxed) {
            let most = MOST.min(self.layout.metadata);
            self.have_members(FEWEST.min(most), &mut random, &mut done).await?;
            self.pause(&mut random).await;
            self.have_members(most, &mut random, &mut done).await?;
            self.pause(&mut random).await;
            self.have_members(FEWEST.min(most), &mut random, &mut done).await?;
            println!("      metadata nodes: {} added, {} removed by now", done.added, done.removed);
        }
        Ok(done)
    }

    /// Storage nodes are replaced one after the other until told to stop; the one that was begun is ended.
    pub async fn nodes_come_and_go(self: Arc<Site>, seed: u64, stop: Arc<AtomicBool>) -> Result<Done, String> {
        let (mut random, mut done) = (Random::new(seed), Done::default());
        // Not the first two: one has the drive that is filled, the other the one that rots.
        let mut places = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if places.is_empty() {
                places = self.layout.node_names().split_off(2);
            }
            // Drives are lost in between.
            tokio::time::sleep(Duration::from_millis(5_000 + random.below(20_000))).await;
            let _turn = self.drives.lock().await;
            let place = places.swap_remove(below(&mut random, places.len()));
            let new = format!("n{}", self.layout.nodes + 1 + done.replaced);
            let begun = Instant::now();
            self.replace_node(&place, &new).await?;
            done.replaced += 1;
            println!("      {new} has come for {place} in {:.0?}", begun.elapsed());
        }
        Ok(done)
    }

    async fn pause(&self, random: &mut Random) {
        tokio::time::sleep(Duration::from_millis(1_000 + random.below(8_000))).await;
    }
}

fn below(random: &mut Random, n: usize) -> usize {
    usize::try_from(random.below(n as u64)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_up_and_down_again() {
        let rounds = |voted: &[usize]| Done { voted: voted.to_vec(), ..Done::default() }.rounds();
        assert_eq!([rounds(&[]), rounds(&[3]), rounds(&[3, 5]), rounds(&[3, 3])], [0; 4]);
        assert_eq!((rounds(&[3, 5, 3]), rounds(&[3, 5, 3, 3, 5, 3])), (1, 2));
    }
}
