//! A cluster in processes on loopback: storage nodes and a metadata process that serves S3, over mutual TLS. A storage node is
//! killed and comes back; what is not of the cluster, or not in the role, is refused.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "cluster/access.rs"]
mod access;
#[path = "cluster/drives.rs"]
mod drives;
#[path = "cluster/members.rs"]
mod members;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/room.rs"]
mod room;
#[path = "cluster/seen.rs"]
mod seen;
#[path = "cluster/writing.rs"]
mod writing;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage_node::client::{NodeClient, WriteError};
use storage_node::keep::Authority;
use storage_node::remote::{ConnectError, RemoteConfig, RemoteNode};
use storage_node::service::Refusal;
use storage_node::service::identity::NodeName;
use storage_node::service::tls::Credentials;
use tests::process::{ACCESS_KEY, SECRET_KEY, ServerConfig, binary, get};
use tests::s3::{client, document};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// And until everything is where it should be, while a client writes.
const WHOLE: Duration = Duration::from_secs(300);

/// Storage nodes, and drives of each.
const NODES: usize = 4;
const DRIVES: usize = 2;

fn stele(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let output = stele(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fails(arguments: &[&str]) -> String {
    let output = stele(arguments);
    assert!(!output.status.success(), "{arguments:?} succeeds");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A process of the cluster. Dropped, it is killed.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(role: &str, config: &Path, log: PathBuf) -> Process {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(binary());
        command.arg(role).arg("--config").arg(config).env_remove("RUST_LOG");
        command.env("STELE_ACCESS_KEY", ACCESS_KEY).env("STELE_SECRET_KEY", SECRET_KEY);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Process { child: command.spawn().unwrap(), log }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; it must end well.
    async fn stop(mut self) {
        let told = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return assert!(status.success(), "{status}: {}", self.said());
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn ready(&mut self, health: std::net::SocketAddr) {
        let begun = Instant::now();
        while !matches!(get(health, "/health/ready").await, Ok((200, _))) {
            assert!(self.child.try_wait().unwrap().is_none(), "it has ended: {}", self.said());
            assert!(begun.elapsed() < PATIENCE, "it is not ready: {}", self.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where everything of a cluster lies. The ports are its own as long as this lives.
struct Site {
    directory: tempfile::TempDir,
    /// The ports of each storage node: the service's, and that for health.
    nodes: Vec<ServerConfig>,
    /// Those of metadata, and its data directory.
    metadata: ServerConfig,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let nodes = (1..=NODES).map(|n| ServerConfig::new(at(&format!("n{n}")), 0)).collect();
        let metadata = ServerConfig::new(at("metadata"), 0);
        Site { directory, nodes, metadata }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Issues a certificate with the CA in `ca` into `out`.
    fn issue(&self, ca: &str, role: &str, name: &str, out: &str) {
        let (ca, out) = (self.path(ca), self.path(out));
        succeeds(&["ca", "issue", "--dir", &ca, "--role", role, "--name", name, "--out", &out]);
    }

    /// CA, certificates and configuration files; the drives formatted.
    fn set_up(&self) {
        succeeds(&["ca", "init", "--dir", &self.path("ca")]);
        let peers: String = (1..=NODES)
            .map(|n| format!("[[node]]\nname = \"n{n}\"\naddress = \"{}\"\n", self.nodes[n - 1].s3()))
            .collect();
        for (n, ports) in (1..=NODES).zip(&self.nodes) {
            self.issue("ca", "storage-node", &format!("n{n}"), &format!("tls-n{n}"));
            std::fs::create_dir_all(self.file(&format!("n{n}"))).unwrap();
            let file = self.configure_node(n, ports, DRIVES, &peers);
            succeeds(&["config", "check", &file]);
            succeeds(&["storage-node", "--config", &file, "--format"]);
        }
        self.issue("ca", "metadata", "m1", "tls-m1");
        let text = format!(
            "role = \"metadata\"\ndata = \"metadata\"\nadmin = \"{}\"\ncredentials = \"tls-m1\"\ngeometry = \"2+2\"\n\
             s3 = {{ listen = \"{}\" }}\n{peers}",
            self.metadata.admin(),
            self.metadata.s3()
        );
        std::fs::write(self.file("m1.toml"), text).unwrap();
        succeeds(&["config", "check", &self.path("m1.toml")]);
    }

    /// The configuration file of a storage node, with the first `drives` directories.
    fn configure_node(&self, n: usize, ports: &ServerConfig, drives: usize, peers: &str) -> String {
        let drives: Vec<String> = (0..drives).map(|d| format!("\"n{n}/d{d}\"")).collect();
        let text = format!(
            "role = \"storage-node\"\nlisten = \"{}\"\nhealth = \"{}\"\ncredentials = \"tls-n{n}\"\n\
             state = \"n{n}/state\"\ndrives = [{}]\n{peers}",
            ports.s3(),
            ports.admin(),
            drives.join(", ")
        );
        let file = self.file(&format!("n{n}.toml"));
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    async fn start_node(&self, n: usize) -> Process {
        let log = self.file(&format!("n{n}.log"));
        let mut process = Process::start("storage-node", &self.file(&format!("n{n}.toml")), log);
        process.ready(self.nodes[n - 1].admin()).await;
        process
    }

    async fn start_metadata(&self) -> Process {
        let mut process = Process::start("metadata", &self.file("m1.toml"), self.file("m1.log"));
        process.ready(self.metadata.admin()).await;
        process
    }

    /// A client of the first storage node, with the certificate in `tls`.
    fn remote(&self, tls: &str) -> Arc<RemoteNode> {
        let credentials = Credentials::load(&self.file(tls)).unwrap();
        let config = RemoteConfig::new(self.nodes[0].s3().to_string(), NodeName::new("n1").unwrap());
        RemoteNode::new(&credentials, config).unwrap()
    }
}

async fn put(s3: &Client, key: u64, body: Bytes) {
    let begun = Instant::now();
    loop {
        let sent = s3.put_object().bucket("archive").key(key.to_string()).body(ByteStream::from(body.clone())).send();
        match sent.await {
            Ok(_) => return,
            // A client's usual retry: the drives of a node that has just gone are replaced before the next attempt.
            Err(error) => assert!(begun.elapsed() < PATIENCE, "put {key}: {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Every object must come back as it was put.
async fn all_are_there(s3: &Client, objects: &[Bytes], when: &str) {
    for (key, body) in objects.iter().enumerate() {
        let got = s3.get_object().bucket("archive").key(key.to_string()).send().await;
        let got = got.unwrap_or_else(|error| panic!("get {key} {when}: {error:?}"));
        assert!(got.body.collect().await.unwrap().into_bytes() == *body, "object {key} {when}");
    }
}

/// Waits until no stripe is short of a shard, and that is known of all of them.
async fn whole(site: &Site, metadata: &Process) {
    let begun = Instant::now();
    loop {
        let output = site.metadata.stele(&["repair", "status", "--json"]).await;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let is_empty = answer["by_slack"].as_array().is_some_and(|lines| lines.is_empty());
        if is_empty && answer["whole_walk"] == true {
            return;
        }
        assert!(begun.elapsed() < WHOLE, "not whole: {answer:#}\n{}", metadata.said());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// A cluster that serves, with a bucket.
struct Begun {
    site: Site,
    nodes: Vec<Process>,
    metadata: Process,
    s3: Client,
}

async fn begun() -> Begun {
    let site = Site::new();
    site.set_up();
    let mut nodes = Vec::new();
    for n in 1..=NODES {
        nodes.push(site.start_node(n).await);
    }
    let metadata = site.start_metadata().await;
    let s3 = client(&site.metadata);
    s3.create_bucket().bucket("archive").send().await.unwrap();
    Begun { site, nodes, metadata, s3 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_serves_on_when_a_storage_node_is_killed_and_is_whole_when_it_is_back() {
    let Begun { site, mut nodes, metadata, s3 } = begun().await;
    let mut objects = Vec::new();
    let mut put_more = async |lengths: &[usize]| {
        for len in lengths {
            let body = document(objects.len() as u64, *len);
            put(&s3, objects.len() as u64, body.clone()).await;
            objects.push(body);
        }
        objects.clone()
    };
    let objects = put_more(&[10, 5_000, 100_000, 3_000_000, 9_000_000]).await;
    all_are_there(&s3, &objects, "at first").await;

    // A storage node is gone: everything is read and written all the same.
    nodes.remove(0).kill();
    let objects = put_more(&[20, 70_000, 4_000_000]).await;
    all_are_there(&s3, &objects, "without a node").await;

    // It comes back, is verified, and is a node like the others: another one may go.
    nodes.insert(0, site.start_node(1).await);
    whole(&site, &metadata).await;
    let objects = put_more(&[30, 2_000_000]).await;
    nodes.remove(1).kill();
    all_are_there(&s3, &objects, "without another node").await;
    nodes.insert(1, site.start_node(2).await);

    // Metadata is killed, and comes back over nodes that went on.
    metadata.kill();
    let metadata = site.start_metadata().await;
    all_are_there(&s3, &objects, "after metadata was killed").await;
    let objects = put_more(&[40, 1_000_000]).await;
    all_are_there(&s3, &objects, "in the end").await;
    whole(&site, &metadata).await;
    metadata.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_of_the_cluster_or_not_in_the_role_is_refused() {
    let site = Site::new();
    site.set_up();
    let _node = site.start_node(1).await;
    let connected = async |remote: &RemoteNode| {
        let begun = Instant::now();
        loop {
            match remote.connect().await {
                // A busy machine's: it says nothing of who is there.
                Err(ConnectError::Late { .. }) if begun.elapsed() < PATIENCE => {}
                answer => return answer,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };

    site.issue("ca", "gateway", "g1", "tls-g1");
    let gateway = site.remote("tls-g1");
    connected(&gateway).await.unwrap();
    let begun = Instant::now();
    let drive = loop {
        if let Some(drive) = gateway.drives().await.first() {
            break drive.id;
        }
        // A node that is slow to answer has none.
        assert!(begun.elapsed() < PATIENCE, "{:?}", gateway.problem());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let freed = gateway.free_shards(drive, Authority::default(), Vec::new()).await;
    assert_eq!(freed, Err(WriteError::Unreachable));
    let why = gateway.problem();
    assert!(matches!(why, Some(ConnectError::Refused { refusal: Refusal::Role, .. })), "{why:?}");

    // Another cluster, and another CA that says that it is this one.
    succeeds(&["ca", "init", "--dir", &site.path("other")]);
    site.issue("other", "metadata", "m1", "tls-other");
    let other = connected(&site.remote("tls-other")).await;
    assert!(matches!(other, Err(ConnectError::WrongCluster { .. })), "{other:?}");
    let cluster = Credentials::load(&site.file("tls-g1")).unwrap().identity().cluster.to_string();
    succeeds(&["ca", "init", "--dir", &site.path("false"), "--cluster", &cluster]);
    site.issue("false", "metadata", "m1", "tls-false");
    let posing = connected(&site.remote("tls-false")).await;
    assert!(matches!(posing, Err(ConnectError::Untrusted { .. } | ConnectError::NotTaken { .. })), "{posing:?}");
}

#[test]
fn r18_a_directory_is_formatted_once_and_on_order_only() {
    let site = Site::new();
    site.set_up();
    let config = site.path("n1.toml");
    assert!(succeeds(&["storage-node", "--config", &config, "--format"]).contains("drives already"));
    // A mount that is missing: nothing is written into it, whoever orders it.
    let drive = site.file("n1/d0");
    std::fs::rename(&drive, site.file("n1/unmounted")).unwrap();
    std::fs::create_dir(&drive).unwrap();
    let refused = fails(&["storage-node", "--config", &config, "--format"]);
    assert!(refused.contains("is it mounted?"), "{refused}");
    assert_eq!(std::fs::read_dir(&drive).unwrap().count(), 0);
    // Unless that drive is given up by name.
    let path = drive.to_str().unwrap();
    succeeds(&["storage-node", "--config", &config, "--format", "--replace", path]);
    assert!(std::fs::read_dir(&drive).unwrap().count() > 0);
    let line = fails(&["config", "check", &site.path("none.toml")]);
    assert_eq!(line.lines().count(), 1, "{line}");
}
