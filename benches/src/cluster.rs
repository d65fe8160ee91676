//! A cluster of the benchmark's own: storage nodes, metadata nodes and gateways as processes on loopback addresses, set up by the
//! same commands as an operator's.

use crate::LoadError;
use crate::client::{Credentials, Endpoint};
use crate::process::ServerProcess;
use crate::server::free_port;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long setting up may take, and each process to be ready.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// How many processes of each role.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Storage nodes.
    pub nodes: usize,
    /// Drives of each.
    pub drives: usize,
    /// Metadata nodes.
    pub metadata: usize,
    /// Gateways.
    pub gateways: usize,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves drives.
    Node,
    /// Decides, agrees, journals.
    Metadata,
    /// Serves S3.
    Gateway,
}

/// A running cluster below one directory. Its processes end with the value, hard.
pub struct Cluster {
    program: PathBuf,
    dir: PathBuf,
    children: Vec<(Role, Child)>,
    endpoints: Vec<Endpoint>,
}

/// Addresses and configuration, before anything runs.
struct Plan<'a> {
    program: &'a Path,
    dir: &'a Path,
    peers: String,
    metadata: String,
}

impl Cluster {
    /// Sets a cluster up below `dir`, which is made, with stripes of `geometry` (such as `4+2`), and waits until it serves.
    pub fn start(
        program: &Path,
        dir: &Path,
        layout: Layout,
        geometry: &str,
        credentials: &Credentials,
    ) -> Result<Cluster, LoadError> {
        let failed = |source| LoadError::Program { program: program.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut plan = Plan { program, dir, peers: String::new(), metadata: String::new() };
        plan.run(&["ca", "init", "--dir", &plan.path("ca")])?;
        let nodes = listed("node", "n", layout.nodes, &mut plan.peers)?;
        let metadata = listed("metadata", "m", layout.metadata, &mut plan.metadata)?;
        let (mut children, mut healths) = (Vec::new(), Vec::new());
        for (name, port) in &nodes {
            let health = free_port()?;
            let config = plan.storage_node(name, *port, health, layout.drives)?;
            plan.run(&["storage-node", "--config", &config, "--format"])?;
            children.push((Role::Node, plan.spawn("storage-node", &config, name, credentials)?));
            healths.push(health);
        }
        for (name, port) in &metadata {
            let health = free_port()?;
            let config = plan.metadata_node(name, *port, health, geometry)?;
            children.push((Role::Metadata, plan.spawn("metadata", &config, name, credentials)?));
            healths.push(health);
        }
        let mut cluster = Cluster { program: program.to_owned(), dir: dir.to_owned(), children, endpoints: Vec::new() };
        cluster.found(&plan, &metadata)?;
        for number in 1..=layout.gateways {
            let (name, health, port) = (format!("g{number}"), free_port()?, free_port()?);
            let config = plan.gateway(&name, port, health)?;
            cluster.children.push((Role::Gateway, plan.spawn("gateway", &config, &name, credentials)?));
            cluster.endpoints.push(Endpoint::parse(&format!("http://127.0.0.1:{port}"), credentials.clone())?);
            healths.push(health);
        }
        for health in healths {
            cluster.ready(health)?;
        }
        Ok(cluster)
    }

    /// Where each gateway serves S3.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// CPU seconds that all processes of a role have used.
    pub fn cpu_seconds(&self, role: Role) -> f64 {
        let of_role = self.children.iter().filter(|(of, _)| *of == role);
        of_role.filter_map(|(_, child)| ServerProcess::new(child.id()).cpu_seconds()).sum()
    }

    /// Makes the first metadata node a cluster of one, and adds the others.
    fn found(&mut self, plan: &Plan<'_>, metadata: &[(String, u16)]) -> Result<(), LoadError> {
        let data = plan.path("m1");
        self.until(plan, &["cluster", "init", "--data", &data])?;
        for (name, port) in metadata.iter().skip(1) {
            let keys = plan.dir.join(name).join("keys");
            let failed = |source| LoadError::Program { program: self.program.clone(), source };
            std::fs::create_dir_all(&keys).map_err(failed)?;
            for key in ["kek", "kek2"] {
                std::fs::copy(plan.dir.join("m1/keys").join(key), keys.join(key)).map_err(failed)?;
            }
            self.until(plan, &["member", "add", name, &format!("127.0.0.1:{port}"), "--data", &data])?;
        }
        Ok(())
    }

    /// Runs a command until it succeeds: the processes that it needs may not be there yet.
    fn until(&mut self, plan: &Plan<'_>, arguments: &[&str]) -> Result<(), LoadError> {
        let begun = Instant::now();
        loop {
            match plan.run(arguments) {
                Ok(()) => return Ok(()),
                Err(error) if begun.elapsed() > READY_WITHIN => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(300)),
            }
            self.all_run()?;
        }
    }

    fn all_run(&mut self) -> Result<(), LoadError> {
        let ended = self.children.iter_mut().any(|(_, child)| !matches!(child.try_wait(), Ok(None)));
        if ended { Err(LoadError::NotReady(self.dir.clone())) } else { Ok(()) }
    }

    fn ready(&mut self, port: u16) -> Result<(), LoadError> {
        let begun = Instant::now();
        while !is_ready(port) {
            if begun.elapsed() > READY_WITHIN {
                return Err(LoadError::NotReady(self.dir.clone()));
            }
            self.all_run()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether `GET /health/ready` answers 200.
fn is_ready(port: u16) -> bool {
    use std::io::{Read, Write};
    let asked = || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    asked().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

/// Names and ports of `count` processes, and their `[[table]]` in the configuration of the others.
fn listed(table: &str, prefix: &str, count: usize, text: &mut String) -> Result<Vec<(String, u16)>, LoadError> {
    let mut all = Vec::with_capacity(count);
    for number in 1..=count {
        let (name, port) = (format!("{prefix}{number}"), free_port()?);
        // Writing to a String does not fail.
        let _ = write!(text, "\n[[{table}]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\n");
        all.push((name, port));
    }
    Ok(all)
}

impl Plan<'_> {
    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    fn run(&self, arguments: &[&str]) -> Result<(), LoadError> {
        let output = Command::new(self.program).args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|source| LoadError::Program { program: self.program.to_owned(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(LoadError::Command { command: arguments.join(" "), message })
    }

    /// Issues a certificate and writes a configuration; returns the file.
    fn config(&self, role: &str, name: &str, text: &str) -> Result<String, LoadError> {
        let (ca, out) = (self.path("ca"), self.path(&format!("tls-{name}")));
        self.run(&["ca", "issue", "--dir", &ca, "--role", role, "--name", name, "--out", &out])?;
        let file = self.path(&format!("{name}.toml"));
        let failed = |source| LoadError::Program { program: self.program.to_owned(), source };
        std::fs::create_dir_all(self.dir.join(name)).map_err(failed)?;
        std::fs::write(&file, text).map_err(failed)?;
        Ok(file)
    }

    fn storage_node(&self, name: &str, port: u16, health: u16, drives: usize) -> Result<String, LoadError> {
        let drives: Vec<String> = (0..drives).map(|n| format!("\"{name}/d{n}\"")).collect();
        let text = format!(
            "role = \"storage-node\"\nlisten = \"127.0.0.1:{port}\"\nhealth = \"127.0.0.1:{health}\"\n\
             credentials = \"tls-{name}\"\nstate = \"{name}/state\"\ndrives = [{}]\n{}",
            drives.join(", "),
            self.peers
        );
        self.config("storage-node", name, &text)
    }

    fn metadata_node(&self, name: &str, port: u16, admin: u16, geometry: &str) -> Result<String, LoadError> {
        let text = format!(
            "role = \"metadata\"\ndata = \"{name}\"\nadmin = \"127.0.0.1:{admin}\"\ncredentials = \"tls-{name}\"\n\
             geometry = \"{geometry}\"\nlisten = \"127.0.0.1:{port}\"\n{}{}",
            self.peers, self.metadata
        );
        self.config("metadata", name, &text)
    }

    fn gateway(&self, name: &str, port: u16, health: u16) -> Result<String, LoadError> {
        let text = format!(
            "role = \"gateway\"\nhealth = \"127.0.0.1:{health}\"\ncredentials = \"tls-{name}\"\n\
             s3 = {{ listen = \"127.0.0.1:{port}\" }}\n{}{}",
            self.metadata, self.peers
        );
        self.config("gateway", name, &text)
    }

    fn spawn(&self, role: &str, config: &str, name: &str, credentials: &Credentials) -> Result<Child, LoadError> {
        let failed = |source| LoadError::Program { program: self.program.to_owned(), source };
        let log = File::create(self.dir.join(format!("{name}.log"))).map_err(failed)?;
        let mut command = Command::new(self.program);
        command.args([role, "--config", config]);
        command.env("STELE_ACCESS_KEY", &credentials.access_key).env("STELE_SECRET_KEY", &credentials.secret_key);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().map_err(failed)
    }
}
