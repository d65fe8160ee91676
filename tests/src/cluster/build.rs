//! Makes what the processes of a test cluster need: certificates, configuration files, a small file system.

use crate::cluster::clock::Clocks;
use crate::cluster::links::Network;
use crate::cluster::site::{Layout, Shape};
use crate::cluster::supervisor::Program;
use crate::process::{binary, reserve_port};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::net::TcpSocket;

/// Data and parity shards of a stripe: one shard on each of six nodes.
const GEOMETRY: &str = "4+2";
/// Size of the file system of the drive that is filled, in MiB.
const SMALL_MIB: u64 = 768;

/// A day of lifecycle rules is short, so that they are followed all the time.
const LIFECYCLE: &str = "test = { lifecycle-day = 3 }\n";

/// A small file system for one drive, unmounted when dropped.
#[derive(Debug)]
pub(super) struct Mounted(pub(super) PathBuf);

impl Mounted {
    /// `None`, with a word on the terminal, where mounting is not permitted.
    pub(super) fn new(at: &Path) -> Option<Mounted> {
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

/// Where a storage node listens, and what others are told.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) listen: SocketAddr,
    pub(super) gate: SocketAddr,
}

impl Place {
    /// Its lines in everybody's file.
    pub(super) fn entry(&self, kind: &str) -> String {
        format!("\n[[{kind}]]\nname = \"{}\"\naddress = \"{}\"\n", self.name, self.gate)
    }
}

/// Writes the configuration files.
#[derive(Debug)]
pub(super) struct Builder {
    pub(super) root: PathBuf,
    pub(super) layout: Layout,
    pub(super) shape: Shape,
    pub(super) clocks: Option<Clocks>,
    pub(super) nodes: Vec<Place>,
    pub(super) metadata: Vec<Place>,
    /// S3 ports, those of gateways first.
    pub(super) s3: Vec<SocketAddr>,
    /// The S3 port of the second copy.
    pub(super) copy: Option<SocketAddr>,
    /// Keeps the ports.
    reserved: Vec<TcpSocket>,
}

impl Builder {
    pub(super) fn new(root: PathBuf, layout: Layout, shape: Shape) -> Builder {
        let clocks = Clocks::new(&root);
        let (nodes, metadata, s3, reserved) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Builder { root, layout, shape, clocks, nodes, metadata, s3, copy: None, reserved }
    }

    pub(super) fn port(&mut self) -> SocketAddr {
        let socket = reserve_port();
        let address = socket.local_addr().expect("a bound socket has an address");
        self.reserved.push(socket);
        address
    }

    /// A port, and a gate before it.
    pub(super) async fn place(&mut self, name: &str, network: &Arc<Network>) -> Place {
        let listen = self.port();
        let gate = network.gate(name, listen).await.expect("a free port");
        Place { name: name.to_owned(), listen, gate }
    }

    fn issue(&self, role: &str, name: &str) {
        let (ca, out) = (path(&self.root, "ca"), path(&self.root, &format!("tls-{name}")));
        stele(&["ca", "issue", "--dir", &ca, "--role", role, "--name", name, "--out", &out]);
    }

    fn program(&self, role: &'static str, name: &str, health: SocketAddr, mut text: String) -> Program {
        self.nodes.iter().for_each(|node| text.push_str(&node.entry("node")));
        if role != "storage-node" && self.layout.is_replicated() {
            self.metadata.iter().for_each(|metadata| text.push_str(&metadata.entry("metadata")));
        }
        self.issue(role, name);
        let config = path(&self.root, &format!("{name}.toml"));
        std::fs::write(&config, text).expect("a file below our own directory can be written");
        stele(&["config", "check", &config]);
        self.process(name, &[role, "--config", &config], health)
    }

    fn process(&self, name: &str, arguments: &[&str], health: SocketAddr) -> Program {
        let environment = self.clocks.as_ref().map(|clocks| clocks.environment(name)).unwrap_or_default();
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let log = self.root.join(format!("{name}.log"));
        Program { arguments, log, health, environment, binary: binary().to_owned() }
    }

    /// A server of its own, for a second copy.
    pub(super) fn server(&mut self, place: &Place, drives: usize) -> Program {
        let (admin, data) = (self.port(), path(&self.root, &place.name));
        let (s3, health, drives) = (place.listen.to_string(), admin.to_string(), drives.to_string());
        let arguments = ["serve", "--data", &data, "--drives", &drives, "--s3", &s3, "--admin", &health];
        self.process(&place.name, &arguments, admin)
    }

    /// A storage node in the rack of that number, its drives formatted; the last of them may be on the small file system.
    pub(super) fn storage_node(&mut self, place: &Place, rack: usize, has_small: bool) -> Program {
        let (health, name) = (self.port(), &place.name);
        std::fs::create_dir_all(self.root.join(name)).expect("a directory below our own can be made");
        let mut drives: Vec<String> = (0..self.layout.drives).map(|n| format!("\"{name}/d{n}\"")).collect();
        if has_small && let Some(last) = drives.last_mut() {
            *last = format!("\"{name}/small/drive\"");
        }
        let mut text = format!(
            "role = \"storage-node\"\nlisten = \"{}\"\nhealth = \"{health}\"\ncredentials = \"tls-{name}\"\n\
             state = \"{name}/state\"\ndrives = [{}]\n",
            place.listen,
            drives.join(", "),
        );
        if self.shape.racks > 0 {
            let _ = writeln!(text, "rack = \"r{rack}\"");
        }
        let program = self.program("storage-node", name, health, text);
        stele(&["storage-node", "--config", &path(&self.root, &format!("{name}.toml")), "--format"]);
        program
    }

    pub(super) fn metadata(&mut self, place: &Place) -> Program {
        let (admin, name) = (self.port(), &place.name);
        let mut text = format!(
            "role = \"metadata\"\ndata = \"{name}\"\nadmin = \"{admin}\"\ncredentials = \"tls-{name}\"\ngeometry = \"{GEOMETRY}\"\n"
        );
        if self.layout.is_replicated() {
            let _ = writeln!(text, "listen = \"{}\"", place.listen);
        }
        if self.shape.s3_everywhere || (self.layout.gateways == 0 && self.s3.is_empty()) {
            let address = self.port();
            self.s3.push(address);
            let _ = writeln!(text, "s3 = {{ listen = \"{address}\" }}");
        }
        if self.shape.racks > 0 {
            text.push_str("placement = { survive = \"rack\" }\n");
        }
        text.push_str(LIFECYCLE);
        self.program("metadata", name, admin, text)
    }

    pub(super) fn gateway(&mut self, name: &str) -> Program {
        let (health, address) = (self.port(), self.port());
        self.s3.push(address);
        let text = format!(
            "role = \"gateway\"\nhealth = \"{health}\"\ncredentials = \"tls-{name}\"\ns3 = {{ listen = \"{address}\" }}\n{LIFECYCLE}"
        );
        self.program("gateway", name, health, text)
    }

    /// Another storage node stands in the place of one in everybody's file: a start that has lost its index asks those.
    pub(super) fn rewrite(&mut self, names: &[String], gone: &str, new: &Place) {
        let Some(at) = self.nodes.iter().position(|node| node.name == gone) else { return };
        let old = std::mem::replace(&mut self.nodes[at], new.clone());
        for name in names {
            let file = self.root.join(format!("{name}.toml"));
            // The second copy has none.
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let text = text.replace(&old.entry("node"), &new.entry("node"));
            std::fs::write(&file, text).expect("a file below our own directory can be written");
            stele(&["config", "check", file.to_str().expect("our paths are text")]);
        }
    }
}

/// The path of something below the root, as text.
pub(super) fn path(root: &Path, name: &str) -> String {
    root.join(name).to_str().expect("our paths are text").to_owned()
}

/// Runs a `stele` command, which must succeed.
pub(super) fn stele(arguments: &[&str]) {
    let output = Command::new(binary()).args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("the stele binary can be started");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}: {error}", output.status);
}
