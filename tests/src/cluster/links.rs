//! The network between the processes of a test cluster. Every process listens behind a gate, which others are told as its address;
//! whoever connects there is found out, so each direction of each pair can be held, slowed or cut by itself, without privileges
//! and whatever way the addresses take through the cluster.
//!
//! Who connects is told by the kernel: the peer's port is looked up in /proc/net/tcp, and its socket among the open files of the
//! processes that were named ([`Network::name`]). A gate therefore needs no help of the processes that it joins.
//!
//! What a held direction is given is kept and arrives when it flows again, as TCP would send it anew; a cut connection is gone.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that a direction takes in at a time.
const PIECE: usize = 64 << 10;
/// How long the target behind a gate may take to accept.
const CONNECT: Duration = Duration::from_secs(5);

/// How often somebody who connects is looked for, and the pause between.
const MISSES: usize = 6;
const MISS: Duration = Duration::from_millis(50);

/// How bytes go from one process to another; the worse the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// At once.
    #[default]
    Open,
    /// Each piece of up to 64 KiB waits for this long.
    Slow(Duration),
    /// Not at all, until it is open again.
    Held,
    /// Connections break, and new ones break as soon as they are made.
    Cut,
}

#[derive(Debug, Default)]
struct Known {
    /// What is not open, by sender and receiver of bytes: all that was asked for, of which the worst counts.
    flows: BTreeMap<(String, String), Vec<Flow>>,
    /// Process ids by name.
    processes: BTreeMap<String, u32>,
    /// Connections of processes that nobody named.
    strangers: u64,
}

/// A direction between two processes, and how bytes go there.
pub type Direction = (String, String, Flow);

/// All gates, and what flows between whom.
#[derive(Debug)]
pub struct Network {
    known: Mutex<Known>,
    /// Whose sockets are whose, as it was when somebody looked last. Numbers of sockets are not used again soon.
    sockets: tokio::sync::Mutex<HashMap<u64, String>>,
    changed: watch::Sender<u64>,
}

impl Network {
    /// Everything flows.
    pub fn new() -> Arc<Network> {
        Arc::new(Network {
            known: Mutex::default(),
            sockets: tokio::sync::Mutex::default(),
            changed: watch::Sender::new(0),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that now has this name.
    pub fn name(&self, name: &str, process: u32) {
        self.known().processes.insert(name.to_owned(), process);
    }

    /// Sets how bytes go from `from` to `to`, on connections of either, whatever was asked for before.
    pub fn set(&self, from: &str, to: &str, flow: Flow) {
        let direction = (from.to_owned(), to.to_owned());
        match flow {
            Flow::Open => drop(self.known().flows.remove(&direction)),
            flow => drop(self.known().flows.insert(direction, vec![flow])),
        }
        self.changed.send_modify(|n| *n += 1);
    }

    /// Bytes go no better than this there, until [`Network::undo`] of the same.
    pub fn hinder(&self, directions: &[Direction]) {
        {
            let mut known = self.known();
            for (from, to, flow) in directions {
                known.flows.entry((from.clone(), to.clone())).or_default().push(*flow);
            }
        }
        self.changed.send_modify(|n| *n += 1);
    }

    /// Undoes a [`Network::hinder`] with these. What others asked for between the same two stays.
    pub fn undo(&self, directions: &[Direction]) {
        {
            let mut known = self.known();
            for (from, to, flow) in directions {
                let Some(asked) = known.flows.get_mut(&(from.clone(), to.clone())) else { continue };
                // It is not among them when all was healed meanwhile.
                if let Some(at) = asked.iter().position(|other| other == flow) {
                    asked.swap_remove(at);
                }
            }
        }
        self.changed.send_modify(|n| *n += 1);
    }

    /// [`Network::set`] in both directions.
    pub fn set_both(&self, one: &str, other: &str, flow: Flow) {
        self.set(one, other, flow);
        self.set(other, one, flow);
    }

    /// Everything flows again.
    pub fn heal(&self) {
        self.known().flows.clear();
        self.changed.send_modify(|n| *n += 1);
    }

    /// Connections whose maker could not be found out and which were therefore refused.
    pub fn strangers(&self) -> u64 {
        self.known().strangers
    }

    pub(super) fn flow(&self, from: &str, to: &str) -> Flow {
        let known = self.known();
        let asked = known.flows.get(&(from.to_owned(), to.to_owned()));
        asked.and_then(|asked| asked.iter().max().copied()).unwrap_or_default()
    }

    /// Opens the gate before `name`, which listens at `target`. It is there as long as the runtime.
    pub async fn gate(self: &Arc<Network>, name: &str, target: SocketAddr) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (network, name) = (Arc::clone(self), name.to_owned());
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                // An error is one of the connection that was to be accepted.
                let Ok((stream, peer)) = listener.accept().await else { continue };
                connections.spawn(Arc::clone(&network).join(stream, peer, address, name.clone(), target));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(address)
    }

    /// One connection, until either end or a cut ends it.
    async fn join(self: Arc<Network>, near: TcpStream, peer: SocketAddr, gate: SocketAddr, to: String, at: SocketAddr) {
        let Some(from) = self.who(peer, gate).await else {
            self.known().strangers += 1;
            return;
        };
        if self.flow(&from, &to) == Flow::Cut || self.flow(&to, &from) == Flow::Cut {
            return;
        }
        let Ok(Ok(far)) = tokio::time::timeout(CONNECT, TcpStream::connect(at)).await else { return };
        // Without an answer they would only be slower.
        drop((near.set_nodelay(true), far.set_nodelay(true)));
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let there = self.carry(&from, &to, near_read, far_write);
        let back = self.carry(&to, &from, far_read, near_write);
        // Whichever breaks takes the other with it; an end of one direction alone does not.
        drop(tokio::try_join!(there, back));
    }

    /// Whose connection it is. `None`: it is gone again, or that of somebody whom nobody named.
    async fn who(&self, peer: SocketAddr, gate: SocketAddr) -> Option<String> {
        // A process that has just been started may not have been named yet.
        for _ in 0..MISSES {
            // One at a time: those that waited meanwhile mostly find what they look for in what the one before them has read.
            let mut sockets = self.sockets.lock().await;
            let found = tokio::task::spawn_blocking(move || inode_of(peer, gate)).await.ok()?;
            // It is closed, or was passed over: others came and went while the table was read.
            let Some(inode) = found else { continue };
            if let Some(name) = sockets.get(&inode) {
                return Some(name.clone());
            }
            let processes = self.known().processes.clone();
            *sockets = tokio::task::spawn_blocking(move || all_sockets(&processes)).await.ok()?;
            if let Some(name) = sockets.get(&inode) {
                return Some(name.clone());
            }
            drop(sockets);
            tokio::time::sleep(MISS).await;
        }
        None
    }

    /// Carries one direction until its end. `Err`: the connection is broken.
    async fn carry(
        &self,
        from: &str,
        to: &str,
        mut read: OwnedReadHalf,
        mut write: OwnedWriteHalf,
    ) -> Result<(), Broken> {
        let mut changed = self.changed.subscribe();
        let mut piece = vec![0; PIECE];
        loop {
            self.flows(from, to, &mut changed).await?;
            let got = tokio::select! {
                got = read.read(&mut piece) => got?,
                _ = changed.changed() => continue,
            };
            // It may have been held meanwhile.
            if let Flow::Slow(delay) = self.flows(from, to, &mut changed).await? {
                tokio::time::sleep(delay).await;
            }
            if got == 0 {
                return Ok(write.shutdown().await?);
            }
            tokio::select! {
                written = write.write_all(&piece[..got]) => written?,
                broken = self.cut(from, to) => return Err(broken),
            }
        }
    }

    /// Waits until the direction flows. `Err`: it was cut.
    async fn flows(&self, from: &str, to: &str, changed: &mut watch::Receiver<u64>) -> Result<Flow, Broken> {
        loop {
            changed.mark_unchanged();
            match self.flow(from, to) {
                Flow::Cut => return Err(Broken),
                Flow::Held => drop(changed.changed().await),
                flow => return Ok(flow),
            }
        }
    }

    /// Waits for a cut.
    async fn cut(&self, from: &str, to: &str) -> Broken {
        let mut changed = self.changed.subscribe();
        loop {
            if self.flow(from, to) == Flow::Cut {
                return Broken;
            }
            drop(changed.changed().await);
        }
    }
}

/// The connection is gone.
struct Broken;

impl From<std::io::Error> for Broken {
    fn from(_: std::io::Error) -> Broken {
        Broken
    }
}

/// The number of the socket with the address `peer` that is connected to `gate`. `None`: it is closed.
fn inode_of(peer: SocketAddr, gate: SocketAddr) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (peer, gate) = (hex_of(peer)?, hex_of(gate)?);
    let line = table.lines().find(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&peer) && fields.next() == Some(&gate)
    })?;
    // A socket that its process has closed has none.
    line.split_whitespace().nth(9)?.parse().ok().filter(|inode| *inode != 0)
}

/// Every socket that the processes have open, by its number.
fn all_sockets(processes: &BTreeMap<String, u32>) -> HashMap<u64, String> {
    let mut all = HashMap::new();
    for (name, process) in processes {
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        for link in files.filter_map(|file| std::fs::read_link(file.path()).ok()) {
            let number = link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(inode) = number.and_then(|number| number.parse().ok()) {
                all.insert(inode, name.clone());
            }
        }
    }
    all
}

/// As in /proc/net/tcp: the address as the host keeps it, and the port.
fn hex_of(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    async fn echoes_within(time: Duration, stream: &mut TcpStream, byte: u8) -> bool {
        let exchange = async {
            stream.write_u8(byte).await?;
            stream.read_u8().await
        };
        matches!(tokio::time::timeout(time, exchange).await, Ok(Ok(back)) if back == byte)
    }

    /// Whoever must be answered is waited for on a busy machine.
    async fn echoes(stream: &mut TcpStream, byte: u8) -> bool {
        echoes_within(Duration::from_secs(60), stream, byte).await
    }

    async fn is_silent(stream: &mut TcpStream, byte: u8) -> bool {
        !echoes_within(Duration::from_millis(500), stream, byte).await
    }

    #[tokio::test]
    async fn directions_are_held_and_cut_one_by_one() {
        let network = Network::new();
        let gate = network.gate("far", echo().await).await.unwrap();
        network.name("near", std::process::id());
        let mut stream = TcpStream::connect(gate).await.unwrap();
        assert!(echoes(&mut stream, 1).await);
        network.set("other", "far", Flow::Cut);
        assert!(echoes(&mut stream, 2).await, "of others");
        network.set("far", "near", Flow::Held);
        assert!(is_silent(&mut stream, 3).await);
        network.set("far", "near", Flow::Open);
        assert_eq!(stream.read_u8().await.unwrap(), 3, "what was held arrives");
        network.set("near", "far", Flow::Held);
        assert!(is_silent(&mut stream, 4).await);
        network.heal();
        assert_eq!(stream.read_u8().await.unwrap(), 4);
        network.set("near", "far", Flow::Cut);
        assert!(is_silent(&mut stream, 5).await);
        let mut new = TcpStream::connect(gate).await.unwrap();
        assert!(is_silent(&mut new, 6).await, "new ones break, too");
        network.heal();
        let mut new = TcpStream::connect(gate).await.unwrap();
        assert!(echoes(&mut new, 7).await);
        assert_eq!(network.strangers(), 0);
    }
}
