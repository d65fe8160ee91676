//! Drives are carried from node to node, put into another machine, replaced, and lose the file that says whom they follow: each as
//! docs/OPERATIONS.md says, with a client that goes on between the steps.

use super::*;
use serde_json::Value;
use std::collections::BTreeMap;

/// Sizes of what is put at each step: one rides in the journal, the others make stripes.
const SIZES: [usize; 3] = [3_000, 400_000, 2_500_000];

/// A cluster, and what a client has put there.
struct Served {
    site: Site,
    metadata: Process,
    s3: Client,
    nodes: BTreeMap<usize, Process>,
    objects: Vec<Bytes>,
}

impl Served {
    async fn begin() -> Served {
        let Begun { site, nodes, metadata, s3 } = begun().await;
        let nodes = (1..).zip(nodes).collect();
        Served { site, metadata, s3, nodes, objects: Vec::new() }
    }

    /// Objects are put, and all that ever were come back.
    async fn serves(&mut self, when: &str) {
        for size in SIZES {
            let key = self.objects.len() as u64;
            let body = document(key, size);
            put(&self.s3, key, body.clone()).await;
            self.objects.push(body);
        }
        all_are_there(&self.s3, &self.objects, when).await;
    }

    async fn stop(&mut self, n: usize) {
        self.nodes.remove(&n).unwrap().stop().await;
    }

    /// Starts a node and waits until metadata has seen that it was started anew: before that it knows of nothing to verify.
    async fn start(&mut self, n: usize) {
        let before = self.begins(n);
        let node = self.site.start_node(n).await;
        self.nodes.insert(n, node);
        let begun = Instant::now();
        while self.begins(n) == before {
            assert!(begun.elapsed() < PATIENCE, "n{n} is not seen: {}", self.metadata.said());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// How often metadata has told a node to begin.
    fn begins(&self, n: usize) -> usize {
        let name = format!("n{n}");
        let of = |line: &&str| line.contains("a storage node has begun") && line.contains(&name);
        self.metadata.said().lines().filter(of).count()
    }

    async fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.site.metadata.stele(&[arguments, &["--json"]].concat()).await;
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// A command that must succeed.
    async fn does(&self, arguments: &[&str]) -> String {
        let output = self.site.metadata.stele(arguments).await;
        let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {}: {said}{error}", output.status);
        said.into_owned()
    }

    /// The directory of drive `d` of node `n`, as commands show it.
    fn place(&self, n: usize, d: usize) -> String {
        format!("n{n}:{}", self.site.path(&format!("n{n}/d{d}")))
    }

    /// The drive with a field of this value, as `stele drive list` shows it; null where none has.
    async fn drive(&self, field: &str, value: &str) -> Value {
        let list = self.ask(&["drive", "list"]).await;
        let mut drives = list["drives"].as_array().into_iter().flatten();
        drives.find(|drive| drive[field] == value).cloned().unwrap_or_default()
    }

    /// Waits until a drive is in use at a place.
    async fn in_use(&self, drive: &str, place: &str) {
        let begun = Instant::now();
        loop {
            let found = self.drive("id", drive).await;
            if found["state"] == "serving" && found["path"] == place {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{drive} is not at {place}: {found:#}\n{}", self.metadata.said());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn whole(&self) {
        whole(&self.site, &self.metadata).await;
    }

    async fn rebuilt(&self) -> u64 {
        self.ask(&["repair", "status"]).await["rebuilt_shards"].as_u64().unwrap()
    }

    /// What the files say of whom the drives of a node follow.
    fn followed(&self, n: usize) -> Vec<Option<Vec<u8>>> {
        (0..DRIVES).map(|d| std::fs::read(self.site.file(&format!("n{n}/d{d}/leader"))).ok()).collect()
    }

    /// The directories of a node that hold drives go to an empty machine that has its name, and a certificate of its own.
    fn move_in(&mut self, n: usize) {
        let at = |name: &str| self.site.file(&name.replace('N', &n.to_string()));
        std::fs::rename(at("nN"), at("broken-nN")).unwrap();
        std::fs::rename(at("tls-nN"), at("tls-broken-nN")).unwrap();
        std::fs::create_dir(at("nN")).unwrap();
        for d in 0..DRIVES {
            std::fs::rename(at(&format!("broken-nN/d{d}")), at(&format!("nN/d{d}"))).unwrap();
        }
        self.site.issue("ca", "storage-node", &format!("n{n}"), &format!("tls-n{n}"));
        self.site.nodes[n - 1] = ServerConfig::new(self.site.file(&format!("n{n}")), 0);
        self.site.configure_node(n, &self.site.nodes[n - 1], DRIVES, "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drives_are_carried_replaced_and_moved_into_another_machine() {
    let mut served = Served::begin().await;
    for _ in 0..4 {
        served.serves("at first").await;
    }
    served.whole().await;
    let rebuilt = served.rebuilt().await;

    a_drive_is_carried(&mut served).await;
    the_leader_files_of_a_node_are_lost(&mut served).await;
    a_machine_is_replaced(&mut served).await;
    assert_eq!(served.rebuilt().await, rebuilt, "of what nothing was lost\n{}", served.metadata.said());
    a_dead_drive_is_replaced(&mut served).await;
}

/// From the first node to the second.
async fn a_drive_is_carried(served: &mut Served) {
    let (from, to) = (served.place(1, 1), served.place(2, 2));
    let drive = served.drive("path", &from).await;
    let (id, shards) = (drive["id"].as_str().unwrap(), drive["shards"].as_u64().unwrap());
    assert!(shards > 0, "{drive:#}");
    // The node that gets it looks for it from its next start on.
    served.site.configure_node(2, &served.site.nodes[1], DRIVES + 1, "");
    served.stop(2).await;
    served.serves("while the second node is away").await;
    served.start(2).await;
    served.whole().await;

    served.stop(1).await;
    std::fs::rename(served.site.file("n1/d1"), served.site.file("n2/d2")).unwrap();
    served.site.configure_node(1, &served.site.nodes[0], DRIVES - 1, "");
    served.serves("while a drive is carried").await;
    served.start(1).await;
    served.in_use(id, &to).await;
    served.whole().await;
    let there = served.drive("id", id).await["shards"].as_u64().unwrap();
    assert!(there >= shards, "{shards} shards before, {there} now");
    served.serves("with a drive on another node").await;
}

/// All drives of the third node lose the file `leader` while it is stopped.
async fn the_leader_files_of_a_node_are_lost(served: &mut Served) {
    let before = served.followed(4);
    served.stop(3).await;
    for d in 0..DRIVES {
        std::fs::remove_file(served.site.file(&format!("n3/d{d}/leader"))).unwrap();
    }
    served.start(3).await;
    // They follow the process that leads now, by its name, like the others.
    assert!(before.iter().all(Option::is_some) && served.followed(3) == before, "{:?}", served.followed(3));
    served.whole().await;
    served.serves("after a node lost whom it follows").await;
}

/// The fourth node's: its drives are good.
async fn a_machine_is_replaced(served: &mut Served) {
    let drive = served.drive("path", &served.place(4, 0)).await;
    let id = drive["id"].as_str().unwrap();
    served.nodes.remove(&4).unwrap().kill();
    served.move_in(4);
    let node = served.site.start_node(4).await;
    served.nodes.insert(4, node);
    served.does(&["node", "add", "n4", &served.site.nodes[3].s3().to_string()]).await;
    served.in_use(id, &served.place(4, 0)).await;
    served.serves("with another machine").await;
    served.whole().await;
    // Its drives are read: without the first node, and with both others, there are too few without them.
    served.stop(1).await;
    served.serves("with another machine, without the first").await;
    served.start(1).await;
    served.whole().await;
}

/// One of the third node's is dead, and an empty disk is mounted in its place.
async fn a_dead_drive_is_replaced(served: &mut Served) {
    let place = served.place(3, 0);
    let drive = served.drive("path", &place).await;
    let old = drive["id"].as_str().unwrap();
    served.stop(3).await;
    std::fs::rename(served.site.file("n3/d0"), served.site.file("dead")).unwrap();
    std::fs::create_dir(served.site.file("n3/d0")).unwrap();
    served.start(3).await;
    served.serves("with a dead drive").await;
    let said = served.does(&["drive", "replace", old, &place, "--wait"]).await;
    assert!(said.contains(&format!("what drive {old} had is rebuilt")), "{said}");
    served.whole().await;
    let repair = served.does(&["repair", "status"]).await;
    assert!(repair.contains("repair: 0 stripes are not whole"), "{repair}");
    assert_eq!(served.drive("id", old).await["state"], "removed");
    // "drive NEW takes new data; ...".
    let new = said.split_whitespace().nth(1).unwrap();
    let new = served.drive("id", new).await;
    assert!(new["state"] == "serving" && new["path"] == place && new["id"] != old, "{new:#}");
    // A node with three drives of eight goes: what was on the dead drive is read from where it was rebuilt.
    served.nodes.remove(&2).unwrap().kill();
    all_are_there(&served.s3, &served.objects, "without the dead drive and the second node").await;
}
