//! The metadata nodes of a cluster while a client writes: five become three, nodes that lost all or a part of their state join anew
//! under another number, the leader is killed; and what is refused.

use super::access::{make_bucket, until};
use super::writing::Writing;
use aws_sdk_s3::primitives::ByteStream;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::cluster::links::Flow;
use tests::cluster::site::{Layout, PATIENCE, Shape, Site};
use tests::s3::{client_at, document};

const BUCKET: &str = "members";
const SIZE: usize = 20_000;

struct Members<'a>(&'a Site);

impl Members<'_> {
    fn data(&self, name: &str) -> String {
        self.0.root().join(name).to_str().unwrap().to_owned()
    }

    fn state(&self, name: &str) -> PathBuf {
        self.0.root().join(name).join("raft")
    }

    /// Number and role of each member, as the node of this name knows them.
    async fn list(&self, of: &str) -> BTreeMap<String, (String, bool)> {
        let output = self.0.stele(&["member", "list", "--json", "--data", &self.data(of)]).await;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let members = answer["members"].as_array().cloned().unwrap_or_default();
        let line = |m: &serde_json::Value| (text(&m["name"]), (text(&m["number"]), m["voter"] == true));
        members.iter().map(line).collect()
    }

    /// Asks the leader for a change until it is made: it may have been cut off from the others a moment ago.
    async fn change(&self, arguments: &[&str]) {
        let begun = Instant::now();
        loop {
            let leader = self.data(&self.0.leader().await);
            let output = self.0.stele(&[arguments, &["--data", leader.as_str()]].concat()).await;
            if output.status.success() {
                return;
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // Removed already, and the answer was lost.
            if arguments[1] == "remove" && said.contains("no metadata node is called") {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{arguments:?}: {said}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// It is refused with these words by whoever leads, which may change at any time on a busy machine.
    async fn refused(&self, arguments: &[&str], why: &str) {
        self.refused_by(arguments, async || (self.0.leader().await, why.to_owned())).await;
    }

    /// It is refused by the node and with the words that `asked` says.
    async fn refused_by(&self, arguments: &[&str], asked: impl AsyncFn() -> (String, String)) {
        let begun = Instant::now();
        loop {
            let (of, why) = asked().await;
            let output = self.0.stele(&[arguments, &["--data", self.data(&of).as_str()]].concat()).await;
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{arguments:?} succeeds");
            if said.contains(&why) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{arguments:?}: {said}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// What the leader knows of the members.
    async fn all(&self) -> BTreeMap<String, (String, bool)> {
        let begun = Instant::now();
        loop {
            let members = self.list(&self.0.leader().await).await;
            if !members.is_empty() {
                return members;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody says who the members are");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Who leads of these, and is not that one. While nobody says who leads, the first of all counts as the leader, which may have been
    /// removed.
    async fn leading(&self, among: &BTreeMap<String, (String, bool)>, but: Option<&String>) -> String {
        let begun = Instant::now();
        loop {
            let name = self.0.leader().await;
            if among.contains_key(&name) && but != Some(&name) {
                return name;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody leads");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A follower among those that are members.
    async fn follower(&self) -> String {
        let members = self.all().await;
        let leader = self.0.leader().await;
        members.into_keys().find(|name| *name != leader).unwrap()
    }

    /// The node is killed, loses `what` of its state, waits, and is a member again under another number.
    async fn loses(&self, what: &str) {
        let name = self.follower().await;
        let before = self.all().await;
        self.0.supervisor.kill(&name);
        std::fs::remove_dir_all(self.state(&name).join(what)).unwrap();
        // An empty store is as good as none: it would be made anew, and vote as if it had never voted.
        std::fs::create_dir_all(self.state(&name).join(what)).unwrap();
        self.0.supervisor.start(&name);
        let address = self.0.metadata_address(&name);
        let begun = Instant::now();
        while !self.0.supervisor.said(&name).contains("the state of this metadata node is gone") {
            assert!(begun.elapsed() < PATIENCE, "{}", self.0.supervisor.said(&name));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(self.list(&name).await.is_empty(), "it took its old place");
        self.change(&["member", "remove", &name]).await;
        self.change(&["member", "add", &name, &address]).await;
        self.0.supervisor.ready(&name, PATIENCE).await.unwrap();
        let after = self.all().await;
        assert_eq!(after.len(), before.len());
        assert_ne!(after[&name].0, before[&name].0, "a number was given twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_nodes_come_go_and_lose_their_state_while_a_client_writes() {
    let site = Site::start(Layout { nodes: 3, drives: 2, metadata: 5, gateways: 1 }).await.unwrap();
    let members = Members(&site);
    let client = client_at(&site.endpoints()[0], Duration::from_secs(60));
    make_bucket(async || client.create_bucket().bucket(BUCKET).send().await).await;
    let writing = Writing::begin(&client, BUCKET, SIZE);

    let five = members.all().await;
    assert!(five.len() == 5 && five.values().all(|(_, voter)| *voter), "{five:?}");
    members.refused(&["cluster", "init", "--existing"], "is a metadata node of the cluster already").await;
    let follower = members.follower().await;
    let address = site.metadata_address(&follower);
    // Somebody who does not lead names who does. A name that nobody has: were it the leader by now, nothing would be changed.
    let leads = async || {
        let leader = site.leader().await;
        (members.follower().await, format!("{leader} ("))
    };
    members.refused_by(&["member", "remove", "m9"], leads).await;
    members.refused(&["member", "add", &follower, &address], "is a metadata node already").await;
    members.refused(&["member", "remove", "m9"], "no metadata node is called m9").await;

    for _ in 0..2 {
        let name = members.follower().await;
        members.change(&["member", "remove", &name]).await;
        assert!(site.supervisor.stop(&name, PATIENCE).await, "{}", site.supervisor.said(&name));
    }
    assert_eq!(members.all().await.len(), 3);
    members.loses("").await;
    members.loses("log").await;

    // A majority of the three is left, and one of them leads.
    let left = members.all().await;
    let killed = members.leading(&left, None).await;
    site.supervisor.kill(&killed);
    let now = members.leading(&left, Some(&killed)).await;
    site.supervisor.ready(&now, PATIENCE).await.unwrap();
    let last = || ByteStream::from(document(u64::MAX, SIZE));
    let put = async || client.put_object().bucket(BUCKET).key("last").body(last()).send().await;
    until("a put without the leader", None, put).await;

    // Another key than the cluster's: the node ends, and says why.
    let key = site.root().join(&killed).join("keys/kek");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, format!("{}\n", "ab".repeat(32))).unwrap();
    let config = site.root().join(format!("{killed}.toml"));
    let output = site.stele(&["metadata", "--config", config.to_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("is not this cluster's first key"), "{said}");
    std::fs::write(&key, good).unwrap();
    site.supervisor.start(&killed);
    site.supervisor.ready(&killed, PATIENCE).await.unwrap();

    writing.ends_with_all_there().await;
}

/// A new member that loses its state before it votes: who asks for it again is told at once, and does not wait for a number that nobody
/// has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: it looks for a moment that a busy machine may miss"]
async fn a_new_member_that_loses_its_state_before_it_votes_is_named_at_once() {
    let shape = Shape { founders: 1, ..Shape::default() };
    let layout = Layout { nodes: 3, drives: 2, metadata: 2, gateways: 1 };
    let site = Arc::new(Site::start_as(layout, shape).await.unwrap());
    let members = Members(&site);
    let (address, data) = (site.metadata_address("m2"), members.data("m1"));
    // Slow enough to be seen before it votes.
    site.network.set("m1", "m2", Flow::Slow(Duration::from_millis(500)));
    let (asked, add) = (Arc::clone(&site), ["member", "add", "m2", &address, "--data", &data].map(str::to_owned));
    let adding = tokio::spawn(async move { asked.stele(&add.each_ref().map(String::as_str)).await });
    let begun = Instant::now();
    let number = loop {
        if let Some((number, votes)) = members.list("m1").await.remove("m2") {
            assert!(!votes, "it votes already");
            break number;
        }
        assert!(begun.elapsed() < PATIENCE && !adding.is_finished(), "it is not added");
    };
    site.supervisor.kill("m2");
    site.network.heal();
    site.lose_state("m2");
    site.supervisor.start("m2");
    members.refused(&["member", "add", "m2", &address], "stele member remove m2, and then stele member add m2").await;
    members.change(&["member", "remove", "m2"]).await;
    assert!(!adding.await.unwrap().status.success(), "it was never there");
    members.change(&["member", "add", "m2", &address]).await;
    let (again, votes) = members.all().await.remove("m2").unwrap();
    assert!(votes && again != number, "a number was given twice");
}
