//! Where everything of a test cluster lies: its certificate authority, certificates, configuration files, drives and logs, below one
//! temporary directory; and how it is brought up.

use crate::cluster::clock::Clocks;
use crate::cluster::links::Network;
use crate::cluster::supervisor::{Program, Supervisor};
use crate::process::{binary, reserve_port};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpSocket;

/// How long one process may take to be ready on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Data and parity shards of a stripe: one shard on each of six nodes.
const GEOMETRY: &str = "4+2";
/// Size of the file system of the drive that is filled, in MiB.
const SMALL_MIB: u64 = 768;

/// How many processes of each role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Storage nodes `n1`, `n2` ...
    pub nodes: usize,
    /// Drives of each.
    pub drives: usize,
    /// Metadata processes `m1` ... A single one keeps the namespace alone; more of them replicate it.
    pub metadata: usize,
    /// Gateways `g1` ... Without one, the first metadata process serves S3.
    pub gateways: usize,
}

impl Layout {
    /// Names of the storage nodes.
    pub fn node_names(&self) -> Vec<String> {
        (1..=self.nodes).map(|n| format!("n{n}")).collect()
    }

    /// Names of the metadata processes.
    pub fn metadata_names(&self) -> Vec<String> {
        (1..=self.metadata).map(|n| format!("m{n}")).collect()
    }

    /// Names of the processes that serve S3.
    pub fn s3_names(&self) -> Vec<String> {
        match self.gateways {
            0 => vec!["m1".to_owned()],
            count => (1..=count).map(|n| format!("g{n}")).collect(),
        }
    }

    /// Names of all processes.
    pub fn names(&self) -> Vec<String> {
        let gateways = (1..=self.gateways).map(|n| format!("g{n}"));
        self.node_names().into_iter().chain(self.metadata_names()).chain(gateways).collect()
    }

    fn is_replicated(&self) -> bool {
        self.metadata > 1 || self.gateways > 0
    }
}

/// A small file system for one drive, unmounted when dropped.
#[derive(Debug)]
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, with a word on the terminal, where mounting is not permitted.
    fn new(at: &Path) -> Option<Mounted> {
        std::fs::create_dir_all(at).expect("a directory below our own can be made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={SMALL_MIB}m"), "stele-test"]).arg(at);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Mounted(at.to_owned())),
            other => {
                println!("no file system can be mounted here, so no drive is filled: {other:?}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still have it open.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "umount");
    }
}

/// A test cluster. Dropped, it is killed and deleted.
#[derive(Debug)]
pub struct Site {
    /// Its processes.
    pub supervisor: Supervisor,
    /// What flows between them.
    pub network: Arc<Network>,
    /// How many there are.
    pub layout: Layout,
    s3: Vec<SocketAddr>,
    /// Addresses of metadata processes that others are told.
    metadata_gates: Vec<SocketAddr>,
    small: Option<Mounted>,
    clocks: Option<Clocks>,
    directory: tempfile::TempDir,
    /// Keeps the ports.
    _reserved: Vec<TcpSocket>,
}

/// Writes the configuration files.
struct Builder {
    root: PathBuf,
    reserved: Vec<TcpSocket>,
    /// `[[node]]` and `[[metadata]]` lists, each address that of a gate.
    peers: String,
    metadata: String,
    clocks: Option<Clocks>,
}

impl Builder {
    fn port(&mut self) -> SocketAddr {
        let socket = reserve_port();
        let address = socket.local_addr().expect("a bound socket has an address");
        self.reserved.push(socket);
        address
    }

    fn issue(&self, role: &str, name: &str) {
        let (ca, out) = (path(&self.root, "ca"), path(&self.root, &format!("tls-{name}")));
        stele(&["ca", "issue", "--dir", &ca, "--role", role, "--name", name, "--out", &out]);
    }

    fn program(&self, role: &'static str, name: &str, health: SocketAddr, text: String) -> Program {
        self.issue(role, name);
        let config = self.root.join(format!("{name}.toml"));
        std::fs::write(&config, text).expect("a file below our own directory can be written");
        stele(&["config", "check", config.to_str().expect("our paths are text")]);
        let environment = self.clocks.as_ref().map(|clocks| clocks.environment(name)).unwrap_or_default();
        Program { role, config, log: self.root.join(format!("{name}.log")), health, environment }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("STELE_FAULTS_KEEP").is_some() {
            println!("kept for you to look at: {}", self.root().display());
            self.directory.disable_cleanup(true);
        }
    }
}

impl Site {
    /// Sets a cluster up and starts it.
    pub async fn start(layout: Layout) -> Result<Site, String> {
        let site = Site::set_up(layout).await;
        for name in site.layout.node_names() {
            site.supervisor.start(&name);
        }
        site.all_ready(&site.layout.node_names()).await?;
        for name in site.layout.metadata_names() {
            site.supervisor.start(&name);
        }
        if site.layout.is_replicated() {
            site.found(&[]).await?;
        }
        for name in site.layout.s3_names() {
            site.supervisor.start(&name);
        }
        site.all_ready(&site.supervisor.names()).await?;
        Ok(site)
    }

    /// Certificates, configuration, gates and formatted drives; nothing runs.
    async fn set_up(layout: Layout) -> Site {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let root = directory.path().to_owned();
        stele(&["ca", "init", "--dir", &path(&root, "ca")]);
        let network = Network::new();
        let supervisor = Supervisor::new(&network);
        let clocks = Clocks::new(&root);
        let mut to = Builder { root, reserved: Vec::new(), peers: String::new(), metadata: String::new(), clocks };
        let mut nodes = Vec::new();
        for name in layout.node_names() {
            let listen = to.port();
            let gate = network.gate(&name, listen).await.expect("a free port");
            let _ = write!(to.peers, "\n[[node]]\nname = \"{name}\"\naddress = \"{gate}\"\n");
            nodes.push((name, listen));
        }
        let mut metadata = Vec::new();
        let mut metadata_gates = Vec::new();
        for name in layout.metadata_names() {
            let listen = to.port();
            let gate = network.gate(&name, listen).await.expect("a free port");
            let _ = write!(to.metadata, "\n[[metadata]]\nname = \"{name}\"\naddress = \"{gate}\"\n");
            metadata_gates.push(gate);
            metadata.push((name, listen));
        }
        let mut small = None;
        for (name, listen) in nodes {
            if small.is_none() {
                small = Mounted::new(&to.root.join(format!("{name}/small")));
            }
            let program = to.storage_node(&name, listen, layout.drives, small.is_some() && name == "n1");
            stele(&["storage-node", "--config", program.config.to_str().expect("our paths are text"), "--format"]);
            supervisor.add(&name, program);
        }
        let mut s3 = Vec::new();
        for (name, listen) in metadata {
            let program = to.metadata(&name, listen, layout, &mut s3);
            supervisor.add(&name, program);
        }
        for name in layout.s3_names().iter().filter(|_| layout.gateways > 0) {
            let program = to.gateway(name, &mut s3);
            supervisor.add(name, program);
        }
        Site {
            supervisor,
            network,
            layout,
            s3,
            metadata_gates,
            small,
            clocks: to.clocks,
            directory,
            _reserved: to.reserved,
        }
    }

    /// Makes one metadata node a cluster of one, and adds the others.
    async fn found(&self, how: &[&str]) -> Result<(), String> {
        let names = self.layout.metadata_names();
        let data = path(self.root(), "m1");
        let mut init = vec!["cluster", "init", "--data", &data];
        init.extend(how);
        self.until(&init).await?;
        let key = self.root().join("m1/keys/kek");
        for name in names.iter().skip(1) {
            let to = self.root().join(name).join("keys");
            std::fs::create_dir_all(&to).expect("a directory below our own can be made");
            std::fs::copy(&key, to.join("kek")).map_err(|error| format!("the key of m1: {error}"))?;
        }
        for (name, gate) in names.iter().zip(&self.metadata_gates).skip(1) {
            self.until(&["member", "add", name, &gate.to_string(), "--data", &data]).await?;
        }
        Ok(())
    }

    /// Runs a command until it succeeds: the processes that it needs may not be there yet.
    async fn until(&self, arguments: &[&str]) -> Result<(), String> {
        let begun = std::time::Instant::now();
        loop {
            let output = self.stele(arguments).await;
            if output.status.success() {
                return Ok(());
            }
            // An addition whose answer was late is carried out all the same.
            if let ["member", "add", name, _, _, data] = arguments
                && self.votes(name, data).await
            {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Whether a metadata node is a voter, by what the one with this data directory says.
    async fn votes(&self, name: &str, data: &str) -> bool {
        let output = self.stele(&["member", "list", "--json", "--data", data]).await;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let members = answer["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|member| member["name"] == name && member["voter"] == true)
    }

    /// Takes what a metadata node that does not run has of Raft: its disk was lost.
    pub fn lose_state(&self, name: &str) {
        std::fs::remove_dir_all(self.root().join(name).join("raft")).expect("a directory of ours can be removed");
    }

    /// Brings a metadata node without state back as a new member, as an operator does: the old one is removed first.
    pub async fn rejoin(&self, name: &str) -> Result<(), String> {
        self.supervisor.start(name);
        let gates = self.layout.metadata_names().into_iter().zip(&self.metadata_gates);
        let gate =
            gates.filter(|(other, _)| other == name).map(|(_, gate)| gate.to_string()).next().unwrap_or_default();
        let data = path(self.root(), &self.leader().await);
        self.until(&["member", "remove", name, "--data", &data]).await?;
        self.until(&["member", "add", name, &gate, "--data", &data]).await
    }

    /// Runs a `stele` command to its end, outside the runtime's threads.
    pub async fn stele(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(binary());
        command.args(arguments).stdin(Stdio::null());
        let run = tokio::task::spawn_blocking(move || command.output());
        run.await.expect("commands do not panic").expect("the stele binary can be started")
    }

    /// Waits until all of these are ready.
    pub async fn all_ready(&self, names: &[String]) -> Result<(), String> {
        for name in names {
            self.supervisor.ready(name, PATIENCE).await?;
        }
        Ok(())
    }

    /// The metadata process that leads, by what most of them say, or the first when nobody says anything.
    pub async fn leader(&self) -> String {
        let names = self.layout.metadata_names();
        let mut said: BTreeMap<String, usize> = BTreeMap::new();
        for name in names.iter().filter(|_| self.layout.is_replicated()) {
            let output = self.stele(&["member", "list", "--json", "--data", &path(self.root(), name)]).await;
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if let Some(leader) = answer["leader"].as_str() {
                *said.entry(leader.to_owned()).or_default() += 1;
            }
        }
        let most = said.into_iter().max_by_key(|(_, count)| *count).map(|(leader, _)| leader);
        most.unwrap_or_else(|| names[0].clone())
    }

    /// Where the others reach a metadata node.
    pub fn metadata_address(&self, name: &str) -> String {
        let place = self.layout.metadata_names().iter().position(|known| known == name);
        self.metadata_gates[place.expect("a metadata node of this site")].to_string()
    }

    /// The directory of everything.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// `http://host:port` of each S3 port.
    pub fn endpoints(&self) -> Vec<String> {
        self.s3.iter().map(|address| format!("http://{address}")).collect()
    }

    /// Below this directory is the file system that can be filled, and `n1` has a drive on it.
    pub fn small(&self) -> Option<&Path> {
        self.small.as_ref().map(|mounted| mounted.0.as_path())
    }

    /// The processes' clocks, where they can be set.
    pub fn clocks(&self) -> Option<&Clocks> {
        self.clocks.as_ref()
    }

    /// Everything that metadata keeps but its keys and certificates is gone: what a loss of all metadata nodes leaves. They must
    /// not run.
    pub fn wipe_metadata(&self) {
        for name in self.layout.metadata_names() {
            let data = self.root().join(name);
            for lost in ["index", "raft"] {
                match std::fs::remove_dir_all(data.join(lost)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                    _ => {}
                }
            }
        }
    }

    /// Brings metadata back after [`Site::wipe_metadata`].
    pub async fn rebuild_metadata(&self) -> Result<(), String> {
        for name in self.layout.metadata_names() {
            self.supervisor.start(&name);
        }
        if self.layout.is_replicated() {
            self.found(&["--existing"]).await?;
        }
        self.all_ready(&self.supervisor.names()).await
    }
}

impl Builder {
    fn storage_node(&mut self, name: &str, listen: SocketAddr, drives: usize, has_small: bool) -> Program {
        let health = self.port();
        std::fs::create_dir_all(self.root.join(name)).expect("a directory below our own can be made");
        let mut places: Vec<String> = (0..drives).map(|n| format!("\"{name}/d{n}\"")).collect();
        if has_small && let Some(last) = places.last_mut() {
            *last = format!("\"{name}/small/drive\"");
        }
        let text = format!(
            "role = \"storage-node\"\nlisten = \"{listen}\"\nhealth = \"{health}\"\ncredentials = \"tls-{name}\"\n\
             state = \"{name}/state\"\ndrives = [{}]\n{}",
            places.join(", "),
            self.peers
        );
        self.program("storage-node", name, health, text)
    }

    fn metadata(&mut self, name: &str, listen: SocketAddr, layout: Layout, s3: &mut Vec<SocketAddr>) -> Program {
        let admin = self.port();
        let mut text = format!(
            "role = \"metadata\"\ndata = \"{name}\"\nadmin = \"{admin}\"\ncredentials = \"tls-{name}\"\ngeometry = \"{GEOMETRY}\"\n"
        );
        if layout.is_replicated() {
            let _ = writeln!(text, "listen = \"{listen}\"");
        }
        if layout.gateways == 0 && s3.is_empty() {
            let address = self.port();
            s3.push(address);
            let _ = writeln!(text, "s3 = {{ listen = \"{address}\" }}");
        }
        text.push_str(&self.peers);
        if layout.is_replicated() {
            text.push_str(&self.metadata);
        }
        self.program("metadata", name, admin, text)
    }

    fn gateway(&mut self, name: &str, s3: &mut Vec<SocketAddr>) -> Program {
        let (health, address) = (self.port(), self.port());
        s3.push(address);
        let text = format!(
            "role = \"gateway\"\nhealth = \"{health}\"\ncredentials = \"tls-{name}\"\ns3 = {{ listen = \"{address}\" }}\n{}{}",
            self.metadata, self.peers
        );
        self.program("gateway", name, health, text)
    }
}

fn path(root: &Path, name: &str) -> String {
    root.join(name).to_str().expect("our paths are text").to_owned()
}

/// Runs a `stele` command, which must succeed.
fn stele(arguments: &[&str]) {
    let output = Command::new(binary()).args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("the stele binary can be started");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}: {error}", output.status);
}
