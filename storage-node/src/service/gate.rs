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
//!   once metadata has begun the node, orders for the journal and for freeing are taken from that process alone, until one
//!   with a higher epoch begins it.
//!
//! [`Authority`]: crate::keep::Authority

use super::identity::{Identity, NodeName};
use super::message::{Hello, Welcome};
use super::method::Method;
use bytes::Bytes;
use codec::id::{ClusterId, DriveId, Epoch};
use http::HeaderMap;
use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tonic::{Code, Status};

/// The versions of the protocol that this version of Stele speaks. A version is added when a call changes its meaning or a
/// new one must be understood; the old one is kept while nodes of the release before may be around.
pub const PROTOCOL: RangeInclusive<u32> = 1..=1;

/// The request's header that says whom it is meant for: `CLUSTER/NAME`.
pub(crate) const TO: &str = "stele-to";
/// The request's header with its order number on the connection.
pub(crate) const ORDER: &str = "stele-order";
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
    pub const ALL: [Refusal; 7] = [
        Refusal::WrongCluster,
        Refusal::WrongNode,
        Refusal::Version,
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
            Refusal::WrongCluster | Refusal::WrongNode | Refusal::Version | Refusal::NoHandshake => {
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
    connections: AtomicU64,
    newest: Mutex<HashMap<ClientKey, u64>>,
    leader: Mutex<Option<Leader>>,
}

/// The metadata process that has begun the node.
struct Leader {
    epoch: Epoch,
    client: (Identity, [u8; 16]),
    /// The node has begun.
    done: bool,
}

impl Gates {
    pub fn new(identity: Identity, software: String, versions: RangeInclusive<u32>) -> Arc<Gates> {
        Arc::new(Gates {
            identity,
            software,
            versions,
            connections: AtomicU64::new(0),
            newest: Mutex::default(),
            leader: Mutex::default(),
        })
    }

    /// The epoch in which the node has begun.
    pub fn begun(&self) -> Option<Epoch> {
        self.leader().as_ref().filter(|leader| leader.done).map(|leader| leader.epoch)
    }

    /// The highest epoch in which the node was told to begin, whatever came of it.
    pub fn told(&self) -> Option<Epoch> {
        self.leader().as_ref().map(|leader| leader.epoch)
    }

    /// The node has begun in `epoch`.
    pub fn has_begun(&self, epoch: Epoch) {
        if let Some(leader) = self.leader().as_mut().filter(|leader| leader.epoch == epoch) {
            leader.done = true;
        }
    }

    fn leader(&self) -> MutexGuard<'_, Option<Leader>> {
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
                "this node speaks versions {oldest} to {newest} of the protocol, the client {} to {}",
                hello.oldest, hello.newest
            );
            return Err(self.refuse(Refusal::Version, why));
        }
        let Ok(client) = <[u8; 16]>::try_from(&*hello.client) else {
            return Err(self.refuse(Refusal::NoHandshake, "the client does not name itself"));
        };
        self.open((self.peer.clone(), client, hello.lane))?;
        Ok(Welcome {
            version,
            cluster: Bytes::copy_from_slice(ours.cluster.as_bytes()),
            node: ours.name.to_string(),
            software: self.gates.software.clone(),
        })
    }

    fn open(&self, key: ClientKey) -> Result<(), Status> {
        let mut opened = self.opened();
        if opened.is_some() {
            return Err(self.refuse(Refusal::Replayed, "a second handshake on one connection"));
        }
        let number = self.gates.connections.fetch_add(1, Ordering::Relaxed);
        self.gates.newest().insert(key.clone(), number);
        *opened = Some(Opened { key, number, orders: Orders::new() });
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
        if of_leader && self.gates.leader().as_ref().is_some_and(|leader| !leader.is(&opened.key)) {
            return Err(self.refuse(Refusal::Superseded, "another metadata process has begun this node since"));
        }
        if !opened.orders.take(order) {
            return Err(self.refuse(Refusal::Replayed, format!("order {order} was used before, or is too old")));
        }
        Ok(())
    }

    /// Whether the handshake of the connection is done.
    pub fn is_open(&self) -> bool {
        self.opened().is_some()
    }

    /// The process at the other end begins the node in `epoch`: it leads from now on, unless one with a higher epoch does.
    pub fn lead(&self, epoch: Epoch) -> Result<(), Status> {
        let opened = self.opened();
        let Some(opened) = opened.as_ref() else {
            return Err(self.refuse(Refusal::NoHandshake, "a request before the handshake"));
        };
        let mut leader = self.gates.leader();
        let stays = leader
            .as_ref()
            .is_some_and(|leader| leader.epoch > epoch || leader.epoch == epoch && !leader.is(&opened.key));
        if stays {
            return Err(
                self.refuse(Refusal::Superseded, format!("epoch {epoch} is not higher than the one that has begun"))
            );
        }
        let done = leader.as_ref().is_some_and(|leader| leader.done && leader.epoch == epoch);
        *leader = Some(Leader { epoch, client: (opened.key.0.clone(), opened.key.1), done });
        Ok(())
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

impl Leader {
    fn is(&self, key: &ClientKey) -> bool {
        self.client.0 == key.0 && self.client.1 == key.1
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

/// The order number of a request.
pub(crate) fn order_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(ORDER)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::service::identity::Role;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn identity(role: Role, name: &str) -> Identity {
        Identity { cluster: CLUSTER, role, name: NodeName::new(name).unwrap() }
    }

    fn gates() -> Arc<Gates> {
        Gates::new(identity(Role::StorageNode, "n1"), "test".into(), 2..=3)
    }

    fn hello() -> Hello {
        Hello {
            oldest: 1,
            newest: 2,
            cluster: Bytes::copy_from_slice(&[7; 16]),
            node: "n1".into(),
            client: Bytes::copy_from_slice(&[1; 16]),
            lane: 0,
            software: String::new(),
        }
    }

    fn headers(order: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TO, format!("{CLUSTER}/n1").parse().unwrap());
        headers.insert(ORDER, order.to_string().parse().unwrap());
        headers
    }

    fn why<T>(result: Result<T, Status>) -> Option<Refusal> {
        result.err().and_then(|status| Refusal::of(&status))
    }

    #[test]
    fn an_order_number_counts_once() {
        let mut orders = Orders::new();
        for order in [0, 3, 1, 5000, 4999, 5000 - WINDOW + 1, 1 << 40] {
            assert!(orders.take(order), "{order}");
            assert!(!orders.take(order), "{order}");
        }
        for order in [0, 1, 2, 5000, 4998, (1 << 40) - WINDOW - 1, u64::MAX] {
            assert!(!orders.take(order), "{order}");
        }
        assert!(orders.take((1 << 40) - 1));
    }

    #[test]
    fn the_handshake_names_cluster_node_and_version() {
        let gate = || Gate::new(gates(), identity(Role::Gateway, "g1"));
        assert_eq!(gate().hello(&hello()).unwrap().version, 2);
        let other = Bytes::copy_from_slice(&[8; 16]);
        assert_eq!(why(gate().hello(&Hello { cluster: other, ..hello() })), Some(Refusal::WrongCluster));
        assert_eq!(why(gate().hello(&Hello { cluster: Bytes::new(), ..hello() })), Some(Refusal::WrongCluster));
        assert_eq!(why(gate().hello(&Hello { node: "n2".into(), ..hello() })), Some(Refusal::WrongNode));
        assert_eq!(why(gate().hello(&Hello { newest: 1, ..hello() })), Some(Refusal::Version));
        assert_eq!(why(gate().hello(&Hello { oldest: 4, newest: 9, ..hello() })), Some(Refusal::Version));
        assert_eq!(why(gate().hello(&Hello { client: Bytes::new(), ..hello() })), Some(Refusal::NoHandshake));
        let foreign = Identity { cluster: ClusterId([8; 16]), ..identity(Role::Metadata, "m1") };
        assert_eq!(why(Gate::new(gates(), foreign).hello(&hello())), Some(Refusal::WrongCluster));
    }

    #[test]
    fn a_request_passes_once_and_only_where_it_belongs() {
        let gate = Gate::new(gates(), identity(Role::Gateway, "g1"));
        let read = |headers: &HeaderMap| why(gate.admit(Method::ReadShard, headers));
        assert_eq!(read(&headers(0)), Some(Refusal::NoHandshake));
        gate.hello(&hello()).unwrap();
        assert_eq!(why(gate.hello(&hello())), Some(Refusal::Replayed));
        assert_eq!(read(&headers(0)), None);
        assert_eq!(read(&headers(0)), Some(Refusal::Replayed));
        let mut wrong = headers(1);
        wrong.insert(TO, format!("{CLUSTER}/n2").parse().unwrap());
        assert_eq!(read(&wrong), Some(Refusal::WrongNode));
        wrong.insert(TO, format!("{}/n1", ClusterId([8; 16])).parse().unwrap());
        assert_eq!(read(&wrong), Some(Refusal::WrongCluster));
        wrong.remove(TO);
        assert_eq!(read(&wrong), Some(Refusal::NoHandshake));
        assert_eq!(why(gate.admit(Method::FreeShards, &headers(2))), Some(Refusal::Role));
        assert_eq!(read(&headers(2)), None, "what was refused has not used its number");
    }

    #[test]
    fn a_newer_connection_ends_the_one_before_it_and_no_other() {
        let gates = gates();
        let open = |lane| {
            let gate = Gate::new(Arc::clone(&gates), identity(Role::Metadata, "m1"));
            gate.hello(&Hello { lane, ..hello() }).unwrap();
            gate
        };
        let (first, other) = (open(0), open(1));
        assert_eq!(why(first.admit(Method::WriteRegister, &headers(0))), None);
        let second = open(0);
        assert_eq!(why(first.admit(Method::WriteRegister, &headers(1))), Some(Refusal::Superseded));
        drop(first);
        assert_eq!(why(second.admit(Method::WriteRegister, &headers(0))), None);
        assert_eq!(why(other.admit(Method::WriteRegister, &headers(0))), None);
        drop((second, other));
        assert!(gates.newest().is_empty());
    }

    #[test]
    fn a_register_of_a_superseded_connection_is_refused() {
        let gates = gates();
        let open = || {
            let gate = Gate::new(Arc::clone(&gates), identity(Role::Metadata, "m1"));
            gate.hello(&hello()).unwrap();
            gate
        };
        let first = open();
        assert_eq!(why(first.admit(Method::WriteRegister, &headers(0))), None);
        // Admitted, and its message comes after the client has come back on another connection.
        let second = open();
        assert_eq!(why(first.admit_register(DriveId([1; 16]), Some(0))), Some(Refusal::Superseded));
        assert_eq!(why(second.admit_register(DriveId([1; 16]), Some(0))), None);
    }

    #[test]
    fn orders_for_the_journal_come_from_who_has_begun_the_node() {
        let gates = gates();
        let open = |client: u8| {
            let gate = Gate::new(Arc::clone(&gates), identity(Role::Metadata, "m1"));
            gate.hello(&Hello { client: Bytes::copy_from_slice(&[client; 16]), ..hello() }).unwrap();
            gate
        };
        let (old, new) = (open(1), open(2));
        assert_eq!(why(old.lead(Epoch(5))), None);
        assert_eq!(why(old.admit(Method::JournalAppend, &headers(0))), None);
        assert_eq!(why(new.admit(Method::JournalAppend, &headers(0))), Some(Refusal::Superseded));
        assert_eq!(why(new.lead(Epoch(5))), Some(Refusal::Superseded));
        assert_eq!(why(new.lead(Epoch(6))), None);
        assert_eq!(why(old.lead(Epoch(5))), Some(Refusal::Superseded));
        for method in [Method::JournalAppend, Method::WriteRegister, Method::FreeShards] {
            assert_eq!(why(old.admit(method, &headers(1))), Some(Refusal::Superseded));
        }
        assert_eq!(why(old.admit(Method::ReadShard, &headers(1))), None, "reading is free");
        assert_eq!(why(new.admit(Method::JournalAppend, &headers(1))), None);
    }

    #[test]
    fn an_older_register_never_follows_a_newer_one() {
        let gate = Gate::new(gates(), identity(Role::Metadata, "m1"));
        gate.hello(&hello()).unwrap();
        let (one, two) = (DriveId([1; 16]), DriveId([2; 16]));
        assert_eq!(why(gate.admit_register(one, Some(5))), None);
        assert_eq!(why(gate.admit_register(one, Some(4))), Some(Refusal::Replayed));
        assert_eq!(why(gate.admit_register(one, Some(5))), Some(Refusal::Replayed));
        assert_eq!(why(gate.admit_register(two, Some(4))), None);
        assert_eq!(why(gate.admit_register(one, Some(6))), None);
    }
}
