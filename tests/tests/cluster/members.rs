//! The metadata nodes of a cluster while a client writes: five become three, nodes that lost all or a part of their state join anew
//! under another number, the leader is killed; and what is refused.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tests::cluster::site::{Layout, PATIENCE, Site};
use tests::s3::{client_at, document};

const BUCKET: &str = "members";
const SIZE: usize = 20_000;

/// Puts one object after the other until it is told to end, and says which were acknowledged.
async fn writes(client: Client, ends: Arc<AtomicBool>) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let body = ByteStream::from(document(n, SIZE));
        if client.put_object().bucket(BUCKET).key(n.to_string()).body(body).send().await.is_ok() {
            acknowledged.push(n);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    acknowledged
}

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

    async fn refused(&self, arguments: &[&str], of: &str, why: &str) {
        let output = self.0.stele(&[arguments, &["--data", self.data(of).as_str()]].concat()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
    }

    /// A follower among those that are members.
    async fn follower(&self) -> String {
        let leader = self.0.leader().await;
        self.list(&leader).await.into_keys().find(|name| *name != leader).unwrap()
    }

    /// The node is killed, loses `what` of its state, waits, and is a member again under another number.
    async fn loses(&self, what: &str) {
        let name = self.follower().await;
        let before = self.list(&self.0.leader().await).await;
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
        let after = self.list(&self.0.leader().await).await;
        assert_eq!(after.len(), before.len());
        assert_ne!(after[&name].0, before[&name].0, "a number was given twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_nodes_come_go_and_lose_their_state_while_a_client_writes() {
    let site = Site::start(Layout { nodes: 3, drives: 2, metadata: 5, gateways: 1 }).await.unwrap();
    let members = Members(&site);
    let client = client_at(&site.endpoints()[0], Duration::from_secs(60));
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(writes(client.clone(), ends.clone()));

    let leader = site.leader().await;
    let five = members.list(&leader).await;
    assert!(five.len() == 5 && five.values().all(|(_, voter)| *voter), "{five:?}");
    members.refused(&["cluster", "init", "--existing"], &leader, "is a metadata node of the cluster already").await;
    let follower = members.follower().await;
    let address = site.metadata_address(&follower);
    members.refused(&["member", "remove", "m1"], &follower, &format!("{leader} (")).await;
    members.refused(&["member", "add", &follower, &address], &leader, "is a metadata node already").await;
    members.refused(&["member", "remove", "m9"], &leader, "no metadata node is called m9").await;

    for _ in 0..2 {
        let name = members.follower().await;
        members.change(&["member", "remove", &name]).await;
        assert!(site.supervisor.stop(&name, PATIENCE).await, "{}", site.supervisor.said(&name));
    }
    assert_eq!(members.list(&site.leader().await).await.len(), 3);
    members.loses("").await;
    members.loses("log").await;

    // A majority of the three is left, and one of them leads.
    let killed = site.leader().await;
    site.supervisor.kill(&killed);
    let begun = Instant::now();
    let now = loop {
        let other =
            members.list(&killed).await.is_empty().then_some(site.leader().await).filter(|name| *name != killed);
        if let Some(name) = other {
            break name;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody leads");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    site.supervisor.ready(&now, PATIENCE).await.unwrap();
    let last = ByteStream::from(document(u64::MAX, SIZE));
    client.put_object().bucket(BUCKET).key("last").body(last).send().await.unwrap();

    // Another key than the cluster's: the node ends, and says why.
    let key = site.root().join(&killed).join("keys/kek");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, format!("{}\n", "ab".repeat(32))).unwrap();
    let config = site.root().join(format!("{killed}.toml"));
    let output = site.stele(&["metadata", "--config", config.to_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("the key check does not unwrap"), "{said}");
    std::fs::write(&key, good).unwrap();
    site.supervisor.start(&killed);
    site.supervisor.ready(&killed, PATIENCE).await.unwrap();

    ends.store(true, Ordering::Relaxed);
    let acknowledged = writing.await.unwrap();
    assert!(acknowledged.len() > 20, "{} objects were written", acknowledged.len());
    for n in acknowledged {
        let answer = client.get_object().bucket(BUCKET).key(n.to_string()).send().await.unwrap();
        assert!(answer.body.collect().await.unwrap().into_bytes() == document(n, SIZE), "object {n}");
    }
}
