//! What a request must pass before it is looked at: the handshake of its connection, the role of its sender, the node that it
//! is meant for, and an order number that was not used before.
//!
//! Invariants:
//! * Nothing but the handshake is answered on a connection before the handshake, and the handshake names the cluster and the
//!   node that the client means: a client that was led to another one by a stale address is told, and nothing is done.
//! * An order number counts once on its connection. TLS keeps others from sending a request again; this keeps the two
//!   processes' own libraries from doing it. For a register, a lower number than the last one is refused as well: an old
//!   ensemble must not follow a newer one.
//! * A client's connection ends the one before it: what is still on its way there is refused, and can't be carried out behind
//!   what the client sent since. What decides across clients is in the orders themselves: epochs, LSNs, [`Authority`]; and
//!   once metadata has begun the node, orders for the journal and for freeing are taken from that process alone, in that epoch,
//!   until one with a higher epoch begins it. The drives remember which it is, so a restart changes nothing.
//! * The cluster's format level is known from the leader: with its order to begin, and with each of its questions for the drives. It is
//!   not kept over a restart: until somebody has begun it, the node knows of no raise and works with every program. What keeps one that
//!   is too old from doing harm meanwhile is that its readers say so of what is newer (`codec/src/level.rs`), and end.
//! * Whether such an order is in force is asked when it comes and again when its message has arrived, and a takeover waits for
//!   those that passed: once it is done, none of an earlier leader is given to a drive any more, and none of the new one before.
//!
//! [`Authority`]: crate::keep::Authority

use super::formats::{self, End, Theirs};
use super::grants::Heard;
use super::identity::{Identity, NodeName, Role};
use super::message::{Hello, Welcome};
use super::method::Method;
use crate::leader::Leader;
use crate::level::CurrentLevel;
use bytes::Bytes;
use codec::id::{ClusterId, DriveId, Epoch};
use codec::level::FormatLevel;
use http::HeaderMap;
use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tonic::{Code, Status};

/// The versions of the protocol that this version of Stele speaks. A version is added when a call changes its meaning or a
/// new one must be understood; the old one is kept while nodes of the release before may be around.
pub const PROTOCOL: RangeInclusive<u32> = 1..=1;

/// The request's header that says whom it is meant for: `CLUSTER/NAME`.
pub(crate) const TO: &str = "stele-to";
/// The request's header with its order number on the connection.
pub(crate) const ORDER: &str = "stele-order";
/// The request's header with the epoch in which its sender leads, in decimal: in orders that only a leader may give.
pub(crate) const EPOCH: &str = "stele-epoch";
/// The answer's header that says why it was refused.
pub(crate) const REFUSAL: &str = "stele-refusal";

/// How far an order number may be behind the highest one: requests overtake one another.
const WINDOW: u64 = 4096;

/// Why a node refuses a request, or a whole connection, without looking at what it asks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// The client means another cluster.
    WrongCluster,
    /// The client means another node.
    WrongNode,
    /// The two have no version of the protocol in common.
    Version,
    /// One of the two writes what the other can't read.
    Format,
    /// The sender's role may not do this.
    Role,
    /// An order number that was used before, or is too old to tell.
    Replayed,
    /// No handshake, or a request without the headers that every request has.
    NoHandshake,
    /// The client has made a newer connection since.
    Superseded,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 8] = [
        Refusal::WrongCluster,
        Refusal::WrongNode,
        Refusal::Version,
        Refusal::Format,
        Refusal::Role,
        Refusal::Replayed,
        Refusal::NoHandshake,
        Refusal::Superseded,
    ];

    /// Its name on the wire and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::WrongCluster => "wrong-cluster",
            Refusal::WrongNode => "wrong-node",
            Refusal::Version => "version",
            Refusal::Format => "format",
            Refusal::Role => "role",
            Refusal::Replayed => "replayed",
            Refusal::NoHandshake => "no-handshake",
            Refusal::Superseded => "superseded",
        }
    }

    /// What an answer was refused for, if it was.
    pub(crate) fn of(status: &Status) -> Option<Refusal> {
        let name = status.metadata().get(REFUSAL)?.to_str().ok()?;
        Refusal::ALL.into_iter().find(|refusal| refusal.name() == name)
    }

    fn code(self) -> Code {
        match self {
            Refusal::Role => Code::PermissionDenied,
            Refusal::Replayed | Refusal::Superseded => Code::Aborted,
            Refusal::WrongCluster | Refusal::WrongNode | Refusal::Version | Refusal::Format | Refusal::NoHandshake => {
                Code::FailedPrecondition
            }
        }
    }

    pub(crate) fn status(self, why: impl fmt::Display) -> Status {
        let mut status = Status::new(self.code(), why.to_string());
        status.metadata_mut().insert(REFUSAL, tonic::metadata::MetadataValue::from_static(self.name()));
        status
    }
}

/// One client, and one of its connections.
type ClientKey = (Identity, [u8; 16], u32);

/// What the gates of a node share.
pub(crate) struct Gates {
    /// The node.
    pub identity: Identity,
    pub software: String,
    versions: RangeInclusive<u32>,
    /// Whoever does not know it is refused, also on a connection from before it was raised.
    pub level: CurrentLevel,
    connections: AtomicU64,
    newest: Mutex<HashMap<ClientKey, u64>>,
    leader: Mutex<Option<Leading>>,
    /// What the leader has granted to gateways.
    pub grants: Heard,
    /// Read while an order of a leader is carried out, so that a takeover can wait for those that were let pass before it.
    orders: Arc<RwLock<()>>,
}

/// The metadata process that has begun the node, or that its drives follow.
struct Leading {
    leader: Leader,
    /// Which of the processes of that name it is; `None`: it has not said so since the node was started.
    client: Option<[u8; 16]>,
    /// The orders of the one before have ended, and a drive that was begun by it takes none of this one.
    taken: bool,
    /// The node has begun.
    done: bool,
}

/// How long a takeover waits for orders that were let pass before it. One that takes longer waits for a drive; what the drive is
/// given later stands behind it in the drive's queue.
const TAKEOVER: Duration = Duration::from_secs(5);

impl Gates {
    pub fn new(identity: Identity, software: String, versions: RangeInclusive<u32>, level: CurrentLevel) -> Arc<Gates> {
        Arc::new(Gates {
            identity,
            software,
            versions,
            level,
            connections: AtomicU64::new(0),
            newest: Mutex::default(),
            leader: Mutex::default(),
            grants: Heard::default(),
            orders: Arc::default(),
        })
    }

    /// The epoch in which the node has begun.
    pub fn begun(&self) -> Option<Epoch> {
        self.leader().as_ref().filter(|leading| leading.done).map(|leading| leading.leader.epoch)
    }

    /// The highest epoch in which the node was told to begin, whatever came of it.
    pub fn told(&self) -> Option<Epoch> {
        self.leader().as_ref().map(|leading| leading.leader.epoch)
    }

    /// Whether it is this process that has begun the node, in this epoch.
    pub fn is_led_by(&self, epoch: Epoch, who: &Identity) -> bool {
        let leader = self.leader();
        leader
            .as_ref()
            .is_some_and(|l| l.client.is_some() && l.leader.epoch == epoch && l.leader.name == who.to_string())
    }

    /// Takes up the cluster's format level from the process that leads, and from no other: one that says a higher one than there is
    /// would have everybody refused here until the node is started again.
    pub fn hear_of_level(&self, from: &Identity, leader: Epoch, level: FormatLevel) {
        let leads = from.role == Role::Metadata && leader != Epoch(0) && self.is_led_by(leader, from);
        // 0: one of a release that does not tell.
        if !leads || level == FormatLevel(0) {
            return;
        }
        match self.identity.role {
            Role::StorageNode => self.level.follow(level),
            // Of a metadata process that serves drives too: its own index says it.
            _ => self.level.raise(level),
        }
    }

    /// Takes up whom the drives follow, if that is somebody newer.
    pub fn remember(&self, followed: Option<Leader>) {
        let mut leading = self.leader();
        let known = leading.as_ref().map(|leading| leading.leader.epoch);
        if let Some(leader) = followed.filter(|followed| Some(followed.epoch) > known) {
            *leading = Some(Leading { leader, client: None, taken: false, done: false });
        }
    }

    /// Waits until no order is carried out any more that an earlier leader gave.
    pub async fn taken_over(&self) {
        let ended = tokio::time::timeout(TAKEOVER, Arc::clone(&self.orders).write_owned()).await;
        if ended.is_err() {
            tracing::warn!("an order of the leader before has not ended; its drive works it off first");
        }
    }

    /// From now on orders are taken from whoever leads in `epoch`: by each drive once it has begun.
    pub fn taken(&self, epoch: Epoch) {
        if let Some(leading) = self.leader().as_mut().filter(|leading| leading.leader.epoch == epoch) {
            leading.taken = true;
        }
    }

    /// The node has begun in `epoch`.
    pub fn has_begun(&self, epoch: Epoch) {
        if let Some(leading) = self.leader().as_mut().filter(|leading| leading.leader.epoch == epoch) {
            leading.done = true;
        }
    }

    /// While it is held, what comes waits to be asked whether it is in force.
    #[cfg(test)]
    pub async fn hold_orders(&self) -> tokio::sync::OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.orders).write_owned().await
    }

    fn leader(&self) -> MutexGuard<'_, Option<Leading>> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<ClientKey, u64>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The order numbers that were used on a connection.
struct Orders {
    /// One more than the highest number that was used.
    next: u64,
    /// Which of the last [`WINDOW`] numbers were used, by number modulo the window.
    used: Vec<bool>,
    /// The last order for each drive's register.
    registers: HashMap<DriveId, u64>,
}

impl Orders {
    fn new() -> Orders {
        Orders { next: 0, used: vec![false; WINDOW as usize], registers: HashMap::new() }
    }

    /// Takes a number, once.
    fn take(&mut self, order: u64) -> bool {
        if order == u64::MAX || order.saturating_add(WINDOW) < self.next {
            return false;
        }
        if order >= self.next {
            // What lies between was not used yet; the slots still tell of numbers that are out of the window now.
            let begin = self.next.max((order + 1).saturating_sub(WINDOW));
            (begin..=order).for_each(|number| self.set(number, false));
            self.next = order + 1;
        }
        let slot = self.used.get_mut((order % WINDOW) as usize);
        slot.is_some_and(|used| !std::mem::replace(used, true))
    }

    fn set(&mut self, number: u64, value: bool) {
        if let Some(used) = self.used.get_mut((number % WINDOW) as usize) {
            *used = value;
        }
    }
}

struct Opened {
    key: ClientKey,
    number: u64,
    orders: Orders,
    release: Release,
}

/// What program is at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Release {
    /// Its name, for people.
    pub software: String,
    /// The newest format level that it knows.
    pub level: FormatLevel,
}

/// The gate of one connection.
pub(crate) struct Gate {
    gates: Arc<Gates>,
    /// Who is at the other end, by a certificate that was verified.
    pub peer: Identity,
    opened: Mutex<Option<Opened>>,
}

impl Gate {
    pub fn new(gates: Arc<Gates>, peer: Identity) -> Gate {
        Gate { gates, peer, opened: Mutex::new(None) }
    }

    fn opened(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handshake.
    pub fn hello(&self, hello: &Hello) -> Result<Welcome, Status> {
        let ours = &self.gates.identity;
        let meant = ClusterId::from_slice(&hello.cluster);
        for cluster in [meant, Some(self.peer.cluster)] {
            if cluster != Some(ours.cluster) {
                let theirs = cluster.map_or_else(|| "none".to_owned(), |cluster| cluster.to_string());
                let why = format!("this node belongs to cluster {}, the client to {theirs}", ours.cluster);
                return Err(self.refuse(Refusal::WrongCluster, why));
            }
        }
        if hello.node != ours.name.as_str() {
            let meant = NodeName::new(&hello.node).map_or_else(|error| error.to_string(), |name| name.to_string());
            return Err(self.refuse(Refusal::WrongNode, format!("this is node {}, not {meant}", ours.name)));
        }
        let (oldest, newest) = (*self.gates.versions.start(), *self.gates.versions.end());
        let version = newest.min(hello.newest);
        if version < oldest.max(hello.oldest) {
            let why = format!(
                "{} ({}) speaks versions {oldest} to {newest} of the protocol, {} ({}) versions {} to {}",
                ours.name, self.gates.software, self.peer.name, hello.software, hello.oldest, hello.newest
            );
            return Err(self.refuse(Refusal::Version, why));
        }
        let us = End { name: &ours.name, role: ours.role, software: &self.gates.software };
        let them = End { name: &self.peer.name, role: self.peer.role, software: &hello.software };
        let theirs = Theirs { formats: &hello.formats, knows: hello.knows, at: hello.at };
        if let Some(why) = formats::mismatch(us, them, theirs, &self.gates.level) {
            return Err(self.refuse(Refusal::Format, why));
        }
        let Ok(client) = <[u8; 16]>::try_from(&*hello.client) else {
            return Err(self.refuse(Refusal::NoHandshake, "the client does not name itself"));
        };
        let release = Release { software: hello.software.clone(), level: theirs.level() };
        self.open((self.peer.clone(), client, hello.lane), release)?;
        Ok(Welcome {
            version,
            cluster: Bytes::copy_from_slice(ours.cluster.as_bytes()),
            node: ours.name.to_string(),
            software: self.gates.software.clone(),
            formats: formats::ours(&self.gates.level),
            knows: FormatLevel::NEWEST.0,
            at: self.gates.level.get().0,
        })
    }

    fn open(&self, key: ClientKey, release: Release) -> Result<(), Status> {
        let mut opened = self.opened();
        if opened.is_some() {
            return Err(self.refuse(Refusal::Replayed, "a second handshake on one connection"));
        }
        let number = self.gates.connections.fetch_add(1, Ordering::Relaxed);
        self.gates.newest().insert(key.clone(), number);
        *opened = Some(Opened { key, number, orders: Orders::new(), release });
        Ok(())
    }

    /// Lets a request pass, once.
    pub fn admit(&self, method: Method, headers: &HeaderMap) -> Result<(), Status> {
        if !method.allows(self.peer.role) {
            return Err(self.refuse_role(method));
        }
        if method == Method::Hello {
            return Ok(());
        }
        self.pass(headers, method.is_of_leader())
    }

    /// Lets a request pass, once, whose sender may make it; `of_leader`: only from whoever has begun the node.
    pub fn pass(&self, headers: &HeaderMap, of_leader: bool) -> Result<(), Status> {
        let ours = &self.gates.identity;
        let to = headers.get(TO).and_then(|to| to.to_str().ok()).and_then(|to| to.split_once('/'));
        match to {
            None => return Err(self.refuse(Refusal::NoHandshake, "the request does not say whom it is meant for")),
            Some((cluster, _)) if cluster != ours.cluster.to_string() => {
                let why = format!("this node belongs to cluster {}, and the request does not", ours.cluster);
                return Err(self.refuse(Refusal::WrongCluster, why));
            }
            Some((_, name)) if name != ours.name.as_str() => {
                let why = format!("this is node {}, and the request is meant for another", ours.name);
                return Err(self.refuse(Refusal::WrongNode, why));
            }
            Some(_) => {}
        }
        let order = order_of(headers);
        let mut opened = self.opened();
        let (Some(opened), Some(order)) = (opened.as_mut(), order) else {
            return Err(self.refuse(Refusal::NoHandshake, "a request before the handshake, or without a number"));
        };
        if self.gates.newest().get(&opened.key) != Some(&opened.number) {
            return Err(self.refuse(Refusal::Superseded, "the client has made a newer connection"));
        }
        // Its handshake may be from before the level was raised: from now on it could be given what it can't read.
        let Release { software, level } = &opened.release;
        let who = format!("{} ({software})", self.peer.name);
        if let Some(why) = formats::too_old(who, *level, self.gates.level.get()) {
            return Err(self.refuse(Refusal::Format, why));
        }
        if of_leader {
            self.check_leader(&opened.key, epoch_of(headers))?;
        }
        if !opened.orders.take(order) {
            return Err(self.refuse(Refusal::Replayed, format!("order {order} was used before, or is too old")));
        }
        Ok(())
    }

    /// What program is at the other end; `None` before the handshake.
    pub fn release(&self) -> Option<Release> {
        self.opened().as_ref().map(|opened| opened.release.clone())
    }

    /// Whether the handshake of the connection is done.
    pub fn is_open(&self) -> bool {
        self.opened().is_some()
    }

    /// Whether the sender may give orders that only a leader may.
    fn check_leader(&self, key: &ClientKey, epoch: Option<Epoch>) -> Result<(), Status> {
        let why = match self.gates.leader().as_ref() {
            Some(other) if !other.is(key, epoch) => format!("this node follows {}", other.leader),
            // Its drives were begun by the one before: what it journals there would be taken for that one's.
            Some(own) if !own.taken => format!("this node has not begun for {}", own.leader),
            _ => return Ok(()),
        };
        Err(self.refuse(Refusal::Superseded, why))
    }

    /// Once the message of a leader's order has arrived: whether it still leads. A takeover waits while what is returned is held.
    pub async fn in_force(&self, epoch: Option<Epoch>) -> Result<OwnedRwLockReadGuard<()>, Status> {
        let held = Arc::clone(&self.gates.orders).read_owned().await;
        let opened = self.opened();
        let Some(opened) = opened.as_ref() else {
            return Err(self.refuse(Refusal::NoHandshake, "a request before the handshake"));
        };
        if self.gates.newest().get(&opened.key) != Some(&opened.number) {
            return Err(self.refuse(Refusal::Superseded, "the client has made a newer connection"));
        }
        self.check_leader(&opened.key, epoch)?;
        Ok(held)
    }

    /// The process at the other end begins the node in `epoch`: it leads from now on, unless one with a higher epoch does, or one
    /// that the node's drives `followed` before they came here, or before it was started. Returns what they are to remember.
    pub fn lead(&self, epoch: Epoch, followed: Option<Leader>) -> Result<Leader, Status> {
        self.gates.remember(followed);
        let opened = self.opened();
        let Some(opened) = opened.as_ref() else {
            return Err(self.refuse(Refusal::NoHandshake, "a request before the handshake"));
        };
        let leader = Leader { epoch, name: opened.key.0.to_string() };
        let mut leading = self.gates.leader();
        let other = |known: &Leader| known.epoch == epoch && known.is_named() && *known != leader;
        let stays = |known: &&Leader| known.epoch > epoch || other(known);
        if let Some(known) = leading.as_ref().map(|leading| &leading.leader).filter(stays) {
            let why = format!("this node follows {known}, and {leader} is not newer");
            return Err(self.refuse(Refusal::Superseded, why));
        }
        let same = leading.as_ref().filter(|leading| leading.leader == leader);
        let (taken, done) = same.map_or((false, false), |leading| (leading.taken, leading.done));
        *leading = Some(Leading { leader: leader.clone(), client: Some(opened.key.1), taken, done });
        Ok(leader)
    }

    /// Orders that replace a drive's register keep their order.
    pub fn admit_register(&self, drive: DriveId, order: Option<u64>) -> Result<(), Status> {
        let mut opened = self.opened();
        let (Some(opened), Some(order)) = (opened.as_mut(), order) else {
            return Err(self.refuse(Refusal::NoHandshake, "a request before the handshake, or without a number"));
        };
        // Again: the request may have waited for its message while a newer connection came.
        if self.gates.newest().get(&opened.key) != Some(&opened.number) {
            return Err(self.refuse(Refusal::Superseded, "the client has made a newer connection"));
        }
        let last = opened.orders.registers.get(&drive).copied();
        if last.is_some_and(|last| order <= last) {
            return Err(self.refuse(Refusal::Replayed, format!("order {order} for the register comes too late")));
        }
        opened.orders.registers.insert(drive, order);
        Ok(())
    }

    pub fn refuse_role(&self, method: Method) -> Status {
        let why = format!("{} may not call {} in this way: its role is {}", self.peer, method.name(), self.peer.role);
        self.refuse(Refusal::Role, why)
    }

    fn refuse(&self, refusal: Refusal, why: impl fmt::Display) -> Status {
        tracing::warn!(peer = %self.peer, refusal = refusal.name(), %why, "a request is refused");
        refusal.status(why)
    }
}

impl Leading {
    /// By the epoch that the order names, since a process may lead again in a higher one; by the client that has begun the node
    /// where it names none.
    fn is(&self, key: &ClientKey, epoch: Option<Epoch>) -> bool {
        let same = epoch.map_or(self.client == Some(key.1), |epoch| epoch == self.leader.epoch);
        same && self.leader.name == key.0.to_string()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let Some(opened) = self.opened().take() else { return };
        let mut newest = self.gates.newest();
        if newest.get(&opened.key) == Some(&opened.number) {
            newest.remove(&opened.key);
        }
    }
}

/// The epoch in which the sender of a request leads, as it says.
pub(crate) fn epoch_of(headers: &HeaderMap) -> Option<Epoch> {
    headers.get(EPOCH)?.to_str().ok()?.parse().ok().map(Epoch)
}

/// The order number of a request.
pub(crate) fn order_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(ORDER)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
