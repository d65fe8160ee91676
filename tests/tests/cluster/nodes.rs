//! Storage nodes and their drives come and go while a client writes.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinHandle;

/// Puts objects one after the other until it is told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Bytes>>,
}

impl Writer {
    fn start(s3: &Client) -> Writer {
        let (stop, s3) = (Arc::new(AtomicBool::new(false)), s3.clone());
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut objects = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let key = objects.len() as u64;
                // Small ones ride in the journal, the others make stripes.
                let body = document(key, [3_000, 400_000, 1_500_000][objects.len() % 3]);
                put(&s3, key, body.clone()).await;
                objects.push(body);
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            objects
        });
        Writer { stop, task }
    }

    async fn stop(self) -> Vec<Bytes> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

impl Site {
    /// A command against metadata, which must succeed.
    async fn does(&self, arguments: &[&str]) -> String {
        let output = self.metadata.stele(arguments).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}: {error}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One that must be refused; what it says.
    async fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.metadata.stele(arguments).await;
        assert!(!output.status.success(), "{arguments:?} succeeds");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    async fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.metadata.stele(arguments).await;
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The state of a storage node.
    async fn node_state(&self, name: &str) -> String {
        let nodes = self.json(&["node", "list", "--json"]).await;
        let found = nodes["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["name"] == name).cloned());
        found.map_or_else(String::new, |node| node["state"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a storage node has a state: it may have to be connected to first.
    async fn node_is(&self, name: &str, state: &str) {
        let begun = Instant::now();
        loop {
            let now = self.node_state(name).await;
            if now == state {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{name} stays {now} and does not become {state}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Waits until all drives of a node have shards.
    async fn takes_data(&self, node: &str, drives: usize) {
        let begun = Instant::now();
        loop {
            let list = self.json(&["drive", "list", "--json"]).await;
            let path = format!("{node}:");
            let of = |drive: &&serde_json::Value| drive["path"].as_str().is_some_and(|found| found.starts_with(&path));
            let used =
                |drive: &&serde_json::Value| drive["segment_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20);
            let found = list["drives"].as_array().map_or(0, |all| all.iter().filter(of).filter(used).count());
            if found >= drives {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{node} takes no data: {list:#}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Certificate, directories and configuration of another node, formatted.
fn another(site: &Site, n: usize, ports: &ServerConfig) {
    site.issue("ca", "storage-node", &format!("n{n}"), &format!("tls-n{n}"));
    std::fs::create_dir_all(site.file(&format!("n{n}"))).unwrap();
    let file = site.configure_node(n, ports, DRIVES, "");
    succeeds(&["storage-node", "--config", &file, "--format"]);
}

async fn start(site: &Site, n: usize, ports: &ServerConfig) -> Process {
    let log = site.file(&format!("n{n}.log"));
    let mut process = Process::start("storage-node", &site.file(&format!("n{n}.toml")), log);
    process.ready(ports.admin()).await;
    process
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_drives_come_and_go_while_a_client_writes() {
    let Begun { site, mut nodes, metadata, s3 } = begun().await;
    let writer = Writer::start(&s3);

    // Only a node that answers by its name comes to the cluster, and gets data.
    let fifth = ServerConfig::new(site.file("n5"), 0);
    let address = fifth.s3().to_string();
    another(&site, 5, &fifth);
    let node = start(&site, 5, &fifth).await;
    let wrong = site.refuses(&["node", "add", "n6", &address]).await;
    // Somebody answers there: nothing is waited for, and he is named.
    assert!(wrong.contains("n6 can't be used") && wrong.contains("/storage-node/n5, not"), "{wrong}");
    let added = site.does(&["node", "add", "n5", &address]).await;
    assert_eq!(added.matches("takes new data").count(), DRIVES, "{added}");
    site.takes_data("n5", DRIVES).await;

    // A drive more, which its node's configuration must name.
    let place = format!("n5:{}", site.path("n5/d2"));
    let refused = site.refuses(&["drive", "add", &place]).await;
    assert!(refused.contains("no drive of the configuration"), "{refused}");
    site.configure_node(5, &fifth, DRIVES + 1, "");
    let added = site.does(&["drive", "add", &place, "--wait"]).await;
    assert!(added.contains("takes new data"), "{added}");
    assert!(site.does(&["drive", "add", &place, "--wait"]).await.contains("takes new data"), "again");
    site.takes_data("n5", DRIVES + 1).await;

    // A node is emptied and goes.
    let refused = site.refuses(&["node", "remove", "n1"]).await;
    assert!(refused.contains("drain it first"), "{refused}");
    site.does(&["node", "drain", "n1", "--wait"]).await;
    site.node_is("n1", "drained").await;
    site.does(&["node", "remove", "n1"]).await;
    nodes.remove(0).stop().await;
    assert_eq!(site.node_state("n1").await, "removed");

    // A node is somewhere else now.
    nodes.remove(0).stop().await;
    let moved = ServerConfig::new(site.file("n2"), 0);
    site.configure_node(2, &moved, DRIVES, "");
    nodes.insert(0, start(&site, 2, &moved).await);
    site.does(&["node", "add", "n2", &moved.s3().to_string()]).await;
    site.node_is("n2", "serving").await;
    whole(&site, &metadata).await;
    let objects = writer.stop().await;
    all_are_there(&s3, &objects, "with other nodes").await;

    // The configuration still names the nodes of the first start.
    metadata.kill();
    let metadata = site.start_metadata().await;
    site.node_is("n5", "serving").await;
    assert_eq!(site.node_state("n1").await, "removed");
    all_are_there(&s3, &objects, "after a restart").await;
    put(&s3, objects.len() as u64, document(9, 2_000_000)).await;
    whole(&site, &metadata).await;
    metadata.stop().await;
    for node in nodes.into_iter().chain([node]) {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_lost_is_given_up_and_another_takes_its_place() {
    let Begun { site, mut nodes, metadata, s3 } = begun().await;
    let writer = Writer::start(&s3);
    site.takes_data("n4", DRIVES).await;
    let answers = site.refuses(&["node", "remove", "n4", "--lost"]).await;
    assert!(answers.contains("answers"), "{answers}");
    nodes.remove(3).kill();
    let fifth = ServerConfig::new(site.file("n5"), 0);
    another(&site, 5, &fifth);
    nodes.push(start(&site, 5, &fifth).await);
    site.does(&["node", "add", "n5", &fifth.s3().to_string()]).await;
    // Not before it was silent for a while: a switch or a process that starts anew is no loss.
    let begun = Instant::now();
    while !site.metadata.stele(&["node", "remove", "n4", "--lost"]).await.status.success() {
        assert!(begun.elapsed() < PATIENCE, "{}", metadata.said());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    whole(&site, &metadata).await;
    assert_eq!(site.node_state("n4").await, "removed");
    // All of it is on the nodes that there are: another one may go.
    let objects = writer.stop().await;
    nodes.remove(0).kill();
    all_are_there(&s3, &objects, "without a node, and the lost one").await;
}
