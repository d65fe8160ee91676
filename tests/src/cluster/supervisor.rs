//! The processes of a test cluster, and what a service manager does for them: what ends without being told is started again, and
//! noted. What a fault has killed stays dead until that fault is over.

use crate::cluster::links::Network;
use crate::process::{ACCESS_KEY, SECRET_KEY, get};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the processes are looked after.
const LOOK: Duration = Duration::from_millis(100);
/// How long one that ended by itself waits for its next start, as the units in deploy/ have it.
const AGAIN: Duration = Duration::from_secs(2);

/// How a process is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it is told: `storage-node --config FILE` and the like.
    pub arguments: Vec<String>,
    /// Where it prints.
    pub log: PathBuf,
    /// Where health is asked for.
    pub health: SocketAddr,
    /// Environment besides that of every process.
    pub environment: Vec<(String, String)>,
    /// What is run: `stele`, unless it is another build of it.
    pub binary: PathBuf,
}

#[derive(Debug)]
struct Slot {
    program: Program,
    child: Option<Child>,
    /// Whether it is to run.
    wanted: bool,
    ended: Option<Instant>,
}

#[derive(Debug, Default)]
struct Slots {
    all: BTreeMap<String, Slot>,
    /// What ended without being told, and how.
    surprises: Vec<String>,
}

/// All processes. Dropped, they are killed.
#[derive(Debug)]
pub struct Supervisor {
    slots: Arc<Mutex<Slots>>,
    network: Arc<Network>,
    watch: tokio::task::JoinHandle<()>,
}

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervisor {
    /// Nothing runs yet.
    pub fn new(network: &Arc<Network>) -> Supervisor {
        let slots = Arc::new(Mutex::new(Slots::default()));
        let (watched, network) = (Arc::clone(&slots), Arc::clone(network));
        let names = Arc::clone(&network);
        let watch = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                look(&mut lock(&watched), &names);
            }
        });
        Supervisor { slots, network, watch }
    }

    /// Adds a process, which does not run yet.
    pub fn add(&self, name: &str, program: Program) {
        lock(&self.slots).all.insert(name.to_owned(), Slot { program, child: None, wanted: false, ended: None });
    }

    /// From its next start on the process is one of this build of `stele`.
    pub fn build(&self, name: &str, binary: &Path) {
        if let Some(slot) = lock(&self.slots).all.get_mut(name) {
            slot.program.binary = binary.to_owned();
        }
    }

    /// It is killed, and none of this name is known any more.
    pub fn forget(&self, name: &str) {
        self.kill(name);
        lock(&self.slots).all.remove(name);
    }

    /// Starts it, unless it runs.
    pub fn start(&self, name: &str) {
        let mut slots = lock(&self.slots);
        let Some(slot) = slots.all.get_mut(name) else { return };
        slot.wanted = true;
        if slot.child.is_none() {
            slot.start(name, &self.network);
        }
    }

    /// `kill -9`; returns when it is gone. It is not started again.
    pub fn kill(&self, name: &str) {
        let mut slots = lock(&self.slots);
        let Some(slot) = slots.all.get_mut(name) else { return };
        slot.wanted = false;
        if let Some(mut child) = slot.child.take() {
            // Errors mean that it has ended.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// SIGTERM; waits until it has ended, and returns whether it ended well and in time. It is not started again.
    pub async fn stop(&self, name: &str, within: Duration) -> bool {
        let child = {
            let mut slots = lock(&self.slots);
            let Some(slot) = slots.all.get_mut(name) else { return true };
            slot.wanted = false;
            slot.child.take()
        };
        let Some(mut child) = child else { return true };
        signal(&child, Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < within {
            if let Ok(Some(status)) = child.try_wait() {
                return status.success();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(child.kill());
        drop(child.wait());
        false
    }

    /// SIGSTOP.
    pub fn pause(&self, name: &str) {
        self.signal(name, Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self, name: &str) {
        self.signal(name, Signal::CONT);
    }

    fn signal(&self, name: &str, which: Signal) {
        if let Some(child) = lock(&self.slots).all.get(name).and_then(|slot| slot.child.as_ref()) {
            signal(child, which);
        }
    }

    /// Names of all processes.
    pub fn names(&self) -> Vec<String> {
        lock(&self.slots).all.keys().cloned().collect()
    }

    /// Ends that nobody asked for, since the last call.
    pub fn surprises(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.slots).surprises)
    }

    /// What a process has printed.
    pub fn said(&self, name: &str) -> String {
        let log = lock(&self.slots).all.get(name).map(|slot| slot.program.log.clone());
        log.map(|log| lossy(&log)).unwrap_or_default()
    }

    /// The last lines that a process has printed.
    pub fn last_words(&self, name: &str, lines: usize) -> String {
        let said = self.said(name);
        let all: Vec<&str> = said.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Whether the process says that it is ready.
    pub async fn is_ready(&self, name: &str) -> bool {
        let health = lock(&self.slots).all.get(name).map(|slot| slot.program.health);
        let Some(health) = health else { return false };
        let asked = tokio::time::timeout(Duration::from_secs(2), get(health, "/health/ready")).await;
        matches!(asked, Ok(Ok((200, _))))
    }

    /// Waits until the process is ready. `Err`: what it said instead.
    pub async fn ready(&self, name: &str, within: Duration) -> Result<(), String> {
        let begun = Instant::now();
        while !self.is_ready(name).await {
            if begun.elapsed() > within {
                return Err(format!("{name} is not ready after {within:?}:\n{}", self.last_words(name, 40)));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.watch.abort();
        for slot in lock(&self.slots).all.values_mut() {
            if let Some(mut child) = slot.child.take() {
                drop(child.kill());
                drop(child.wait());
            }
        }
    }
}

impl Slot {
    fn start(&mut self, name: &str, network: &Network) {
        let log = File::options().create(true).append(true).open(&self.program.log).expect("a log can be written");
        let mut command = Command::new(&self.program.binary);
        command.args(&self.program.arguments).env_remove("RUST_LOG");
        command.env("STELE_ACCESS_KEY", ACCESS_KEY).env("STELE_SECRET_KEY", SECRET_KEY);
        command.envs(self.program.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file has another handle")).stderr(log);
        let child = command.spawn().expect("the stele binary can be started");
        network.name(name, child.id());
        (self.child, self.ended) = (Some(child), None);
    }
}

fn look(slots: &mut Slots, network: &Network) {
    for (name, slot) in &mut slots.all {
        if let Some(child) = &mut slot.child
            && let Ok(Some(status)) = child.try_wait()
        {
            slots.surprises.push(format!("{name} ended by itself: {status}"));
            (slot.child, slot.ended) = (None, Some(Instant::now()));
        }
        if slot.wanted && slot.child.is_none() && slot.ended.is_none_or(|ended| ended.elapsed() >= AGAIN) {
            slot.start(name, network);
        }
    }
}

/// Signals a child that was not waited for: its id is still its own.
fn signal(child: &Child, which: Signal) {
    if let Some(process) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // An error means that it has ended.
        let _ = kill_process(process, which);
    }
}

fn lossy(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
