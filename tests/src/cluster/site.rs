//! Where everything of a test cluster lies: its certificate authority, certificates, configuration files, drives and logs, below one
//! temporary directory; how it is brought up, and how it is asked.

use crate::cluster::build::{Builder, Mounted, Place, path, stele};
use crate::cluster::clock::Clocks;
use crate::cluster::links::Network;
use crate::cluster::supervisor::Supervisor;
use crate::process::binary;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long one process may take to be ready on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Pause before the same is asked again.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

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

    pub(super) fn is_replicated(&self) -> bool {
        self.metadata > 1 || self.gateways > 0
    }
}

/// What a cluster may be besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Storage nodes stand in so many racks, the first one in `r1`, the next in `r2` and round again; every stripe survives the loss
    /// of one. 0: nobody says anything of racks.
    pub racks: usize,
    /// So many of the metadata processes are metadata nodes at first, the others wait. 0: all are.
    pub founders: usize,
    /// Metadata processes serve S3 as gateways do.
    pub s3_everywhere: bool,
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
    /// What it is besides.
    pub shape: Shape,
    /// Held by whoever changes who the metadata nodes are: two such changes at once may leave no majority.
    pub(super) members: Arc<tokio::sync::Mutex<()>>,
    /// Held by whoever takes drives away for good.
    pub(super) drives: Arc<tokio::sync::Mutex<()>>,
    pub(super) builder: Mutex<Builder>,
    /// Storage nodes that came for others, by the names of those that the layout names.
    pub(super) successors: Mutex<BTreeMap<String, String>>,
    small: Option<Mounted>,
    clocks: Option<Clocks>,
    directory: tempfile::TempDir,
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
        Site::start_as(layout, Shape::default()).await
    }

    /// [`Site::start`] of a cluster with something besides.
    pub async fn start_as(layout: Layout, shape: Shape) -> Result<Site, String> {
        let site = Site::set_up(layout, shape).await;
        for name in site.layout.node_names() {
            site.supervisor.start(&name);
        }
        site.all_ready(&site.layout.node_names()).await?;
        site.begin(&[]).await?;
        for name in site.layout.s3_names() {
            site.supervisor.start(&name);
        }
        site.all_ready(&site.layout.s3_names()).await?;
        Ok(site)
    }

    /// Certificates, configuration, gates and formatted drives; nothing runs.
    async fn set_up(layout: Layout, shape: Shape) -> Site {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let root = directory.path().to_owned();
        stele(&["ca", "init", "--dir", &path(&root, "ca")]);
        let network = Network::new();
        let supervisor = Supervisor::new(&network);
        let mut to = Builder::new(root, layout, shape);
        for name in layout.node_names() {
            let place = to.place(&name, &network).await;
            to.nodes.push(place);
        }
        for name in layout.metadata_names() {
            let place = to.place(&name, &network).await;
            to.metadata.push(place);
        }
        let small = Mounted::new(&to.root.join("n1/small"));
        for (at, place) in to.nodes.clone().iter().enumerate() {
            let program = to.storage_node(place, at % shape.racks.max(1) + 1, at == 0 && small.is_some());
            supervisor.add(&place.name, program);
        }
        for name in layout.s3_names().iter().filter(|_| layout.gateways > 0) {
            supervisor.add(name, to.gateway(name));
        }
        for place in to.metadata.clone() {
            supervisor.add(&place.name, to.metadata(&place));
        }
        let (members, drives, successors) = (Arc::default(), Arc::default(), Mutex::default());
        let clocks = to.clocks.clone();
        let builder = Mutex::new(to);
        Site { supervisor, network, layout, shape, members, drives, builder, successors, small, clocks, directory }
    }

    pub(super) fn builder(&self) -> MutexGuard<'_, Builder> {
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A port and a gate before it, for one more process.
    pub(super) async fn place(&self, name: &str) -> Place {
        let listen = self.builder().port();
        let gate = self.network.gate(name, listen).await.expect("a free port");
        Place { name: name.to_owned(), listen, gate }
    }

    /// Names of the metadata processes that are metadata nodes at first.
    pub fn founders(&self) -> Vec<String> {
        let count = if self.shape.founders == 0 { self.layout.metadata } else { self.shape.founders };
        self.layout.metadata_names().into_iter().take(count).collect()
    }

    /// Starts metadata, and makes it metadata nodes of one cluster.
    async fn begin(&self, how: &[&str]) -> Result<(), String> {
        for name in self.layout.metadata_names() {
            self.supervisor.start(&name);
        }
        if self.layout.is_replicated() {
            self.found(how).await?;
        }
        self.all_ready(&self.founders()).await
    }

    /// Makes one metadata node a cluster of one, and adds the others.
    async fn found(&self, how: &[&str]) -> Result<(), String> {
        let data = self.path("m1");
        let mut init = vec!["cluster", "init", "--data", &data];
        init.extend(how);
        self.until(&init).await?;
        let keys = self.root().join("m1/keys");
        for name in self.layout.metadata_names().iter().skip(1) {
            let to = self.root().join(name).join("keys");
            std::fs::create_dir_all(&to).expect("a directory below our own can be made");
            for key in ["kek", "kek2"] {
                std::fs::copy(keys.join(key), to.join(key)).map_err(|error| format!("{key} of m1: {error}"))?;
            }
        }
        for name in self.founders().iter().skip(1) {
            // On a busy machine the first one may not lead for long.
            self.add_member(name).await?;
        }
        Ok(())
    }

    /// Runs a command until it succeeds: the processes that it needs may not be there yet.
    async fn until(&self, arguments: &[&str]) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let output = self.stele(arguments).await;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr);
            // A beginning whose answer was late is carried out all the same.
            if said.contains("is a metadata node of the cluster already") {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{arguments:?}: {said}"));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Takes what a metadata node that does not run has of Raft: its disk was lost.
    pub fn lose_state(&self, name: &str) {
        match std::fs::remove_dir_all(self.root().join(name).join("raft")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    /// Runs a `stele` command to its end, outside the runtime's threads.
    pub async fn stele(&self, arguments: &[&str]) -> std::process::Output {
        self.stele_with(arguments, &[]).await
    }

    /// [`Site::stele`] of another build.
    pub async fn stele_of(&self, build: &Path, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(build);
        command.args(arguments).stdin(Stdio::null());
        let run = tokio::task::spawn_blocking(move || command.output());
        run.await.expect("commands do not panic").expect("the stele binary can be started")
    }

    /// [`Site::stele`] with these in its environment.
    pub async fn stele_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> std::process::Output {
        let mut command = Command::new(binary());
        command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
        let run = tokio::task::spawn_blocking(move || command.output());
        run.await.expect("commands do not panic").expect("the stele binary can be started")
    }

    /// What a command answers; null when that is no JSON.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.stele(arguments).await.stdout).unwrap_or_default()
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
            let answer = self.json(&["member", "list", "--json", "--data", &self.path(name)]).await;
            if let Some(leader) = answer["leader"].as_str() {
                *said.entry(leader.to_owned()).or_default() += 1;
            }
        }
        let most = said.into_iter().max_by_key(|(_, count)| *count).map(|(leader, _)| leader);
        most.unwrap_or_else(|| names[0].clone())
    }

    /// Names of the metadata nodes that vote, as the leader has them.
    pub async fn voters(&self) -> Vec<String> {
        let leader = self.path(&self.leader().await);
        voters(&self.json(&["member", "list", "--json", "--data", &leader]).await)
    }

    /// Where the others reach a metadata node.
    pub fn metadata_address(&self, name: &str) -> String {
        let place = self.builder().metadata.iter().find(|place| place.name == name).map(|place| place.gate);
        place.expect("a metadata node of this site").to_string()
    }

    /// The name of the storage node that stands where the layout has this one; any other name as it is.
    pub fn now(&self, name: &str) -> String {
        let successors = self.successors.lock().unwrap_or_else(PoisonError::into_inner);
        successors.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }

    /// The directory of everything.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Something in it, as commands are told.
    pub fn path(&self, name: &str) -> String {
        path(self.root(), name)
    }

    /// `http://host:port` of each S3 port.
    pub fn endpoints(&self) -> Vec<String> {
        let of = |address: &SocketAddr| format!("http://{address}");
        self.builder().s3.iter().map(of).collect()
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
        self.begin(&["--existing"]).await?;
        self.all_ready(&self.layout.s3_names()).await
    }

    /// What the first metadata process that knows says of repair.
    pub async fn repair_status(&self) -> Value {
        let mut answer = Value::Null;
        for name in self.layout.metadata_names() {
            answer = self.json(&["repair", "status", "--json", "--data", &self.path(&name)]).await;
            if answer["whole_walk"].is_boolean() {
                break;
            }
        }
        answer
    }

    /// Waits until no stripe is short of a shard, that is known of all of them, and has been so for `quiet`. `Err`: what repair says
    /// instead, after `within`.
    pub async fn whole(&self, within: Duration, quiet: Duration) -> Result<(), Value> {
        let begun = Instant::now();
        let mut since: Option<Instant> = None;
        loop {
            let answer = self.repair_status().await;
            let is_empty = answer["by_slack"].as_array().is_some_and(|lines| lines.is_empty());
            let is_whole = is_empty && answer["whole_walk"] == true;
            since = since.filter(|_| is_whole).or(is_whole.then(Instant::now));
            if since.is_some_and(|since| since.elapsed() >= quiet) {
                return Ok(());
            }
            if begun.elapsed() >= within {
                return Err(answer);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn voters(answer: &Value) -> Vec<String> {
    let members = answer["members"].as_array().cloned().unwrap_or_default();
    let voting = members.iter().filter(|member| member["voter"] == true);
    voting.filter_map(|member| member["name"].as_str().map(str::to_owned)).collect()
}
