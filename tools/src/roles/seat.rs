//! This process's place among the metadata nodes: it waits to be added, or begins a cluster, and is a member from then on.
//!
//! Invariants
//! * A node has one number for as long as it has the state that goes with it, and never takes one again: a number is random, it is
//!   written down before the state is made, and a node that finds no state for its number waits to be added under another. So
//!   nobody votes twice, or counts for entries that he no longer has.
//! * A node takes part only with the cluster's key: it could lead otherwise, and nobody could log in.
//! * A cluster is begun over drives that hold data only when an operator has said so: metadata nodes that are merely not reached
//!   would be superseded.

mod error;
mod room;

use error::Mixed;
pub use error::SeatError;
pub use room::Room;

use crate::config_file::MetadataConfig;
use crate::data_dir::{Config, DataDir, DataDirError, random};
use crate::index_home::Indexes;
use crate::member_answers::{FAR, SILENT};
use crate::passing::Passing;
use crate::roles::metadata::{self as role, MetadataError};
use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::SettingRow;
use codec::id::Epoch;
use codec::level::Later;
use metadata::client::{MetadataClient, Mode};
use metadata::clock::{SystemClock, SystemEntropy};
use metadata::index::{self, IndexError, Overlay};
use metadata::keys::{KEY_CHECK_SETTING, Keys};
use metadata::raft::{
    FoundError, HandedOver, Identity, Inbox, Joins, LogStore, Member, MemberConfig, MemberError, MemberLine, Network,
    Peer, Refused, Timings, TlsWays, WayError, Ways, ask_if_there, ask_to_join, ask_to_stand,
};
use metadata::replica::{Leading, NotLeading, Replica};
use metadata::service::Metadata;
use metadata::start::{IndexHome, LeaderParts};
use metadata::topology::Level;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;
use storage_node::host::NodeHost;
use storage_node::kv::{Kv, KvError, RocksOptions};
use storage_node::service::tls::Credentials;

/// How far the index of a follower may be behind its log for the node to count as ready, in entries.
const CAUGHT_UP: u64 = 1000;
/// How often a node asks the storage nodes, whether it leads or not.
const ASK: Duration = Duration::from_secs(2);
/// How often it is looked whether this node has a place.
const PLACE: Duration = Duration::from_secs(1);
/// How often, and how long apart, an index that was just closed is tried: whoever still reads it ends soon.
const CLOSING: (u32, Duration) = (50, Duration::from_millis(100));

/// A member, and the service that it leads with.
#[derive(Clone)]
struct Taken {
    member: Arc<Member>,
    replica: Arc<Replica>,
}

/// This process among the metadata nodes.
pub struct Seat {
    data: Arc<DataDir>,
    config: MetadataConfig,
    credentials: Credentials,
    /// As the others reach it.
    me: Peer,
    ways: Arc<TlsWays>,
    passing: Passing,
    inbox: Arc<Inbox>,
    taken: RwLock<Option<Taken>>,
    /// One change of this node's place at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Seat {
    /// A process without a place yet.
    pub fn new(data: Arc<DataDir>, config: MetadataConfig, credentials: Credentials, me: Peer) -> Arc<Seat> {
        let ways = TlsWays::new(Arc::new(credentials.clone()));
        let passing = Passing::new(credentials.clone());
        let seat = Arc::new(Seat {
            data,
            config,
            credentials,
            me,
            ways,
            passing,
            inbox: Arc::default(),
            taken: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
        });
        // Until it is known whether there is state.
        seat.inbox.unseat();
        seat.inbox.joined_by(Arc::new(Joiner(Arc::downgrade(&seat))));
        seat
    }

    /// What answers the other nodes' Rafts.
    pub fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// What asks the other nodes' admin ports.
    pub fn passing(&self) -> &Passing {
        &self.passing
    }

    /// The rule of placement in this node's configuration file.
    pub fn survive(&self) -> Option<Level> {
        self.config.placement.survive()
    }

    /// For how many more days this node's certificate is good.
    pub fn certificate_days(&self) -> u32 {
        self.credentials.days_left(FAR)
    }

    /// The room that the state of this node has; `None` while it waits, or where the system does not say.
    pub fn room(&self) -> Option<Room> {
        let index = self.taken()?.member.machine().kv().stats().disk_bytes;
        Room::at(&self.data.raft_path(), index)
    }

    fn taken(&self) -> Option<Taken> {
        self.taken.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes up the place that the data directory names, if it has the state for it. One without is free: it waits.
    pub async fn resume(&self) -> Result<(), SeatError> {
        let _changing = self.changing.lock().await;
        // A leader may have had it added already.
        if self.taken().is_none() {
            self.take_up().await?;
        }
        if self.taken().is_none() {
            self.inbox.waits();
        }
        Ok(())
    }

    async fn take_up(&self) -> Result<(), SeatError> {
        let mut stored = role::set_up(&self.data, &self.config)?;
        let Some(number) = stored.member_id() else {
            return Ok(());
        };
        if !self.has_state().await? {
            tracing::error!(
                number = format!("{number:016x}"),
                "the state of this metadata node is gone; it waits to be added"
            );
            return self.give_up(&mut stored);
        }
        let keys = self.keys()?;
        let opened = Member::open(self.member_config(number), self.network()).await;
        let member = opened.map_err(|error| SeatError::state(self.data.raft_path(), error))?;
        self.check_key(&member, &keys)?;
        if let Some(other) = self.is_others(&member) {
            tracing::warn!("{other}");
        }
        self.sit(member)
    }

    /// What is wrong where this process has the state of one metadata node and the certificate of another. The others refuse what
    /// it says, so that it neither votes nor follows.
    fn is_others(&self, member: &Member) -> Option<Mixed> {
        let of = member.members().into_iter().find(|line| line.id == member.id())?.peer.name;
        (of != self.me.name).then(|| Mixed { path: self.data.root().to_owned(), of, me: self.me.name.clone() })
    }

    /// Whether there is the state that goes with the number: both stores, and a log that knows whose it is. A log that was lost would
    /// be made anew, and vote as if it had never voted.
    async fn has_state(&self) -> Result<bool, SeatError> {
        let path = self.data.raft_path();
        if !["log", "index"].iter().all(|part| path.join(part).exists()) {
            return Ok(false);
        }
        let log = path.join("log");
        let looked = tokio::task::spawn_blocking(move || LogStore::is_owned(&log, RocksOptions::default()));
        let looked = looked.await.map_err(|error| SeatError::Malformed(error.to_string()))?.map_err(MemberError::from);
        looked.map_err(|error| SeatError::state(path, error))
    }

    /// Puts the state of this node aside, whatever it is, so that it waits to be added under another number.
    pub fn rejoin(&self) -> Result<(), SeatError> {
        let mut stored = role::set_up(&self.data, &self.config)?;
        self.give_up(&mut stored)
    }

    fn give_up(&self, stored: &mut Config) -> Result<(), SeatError> {
        // First: a number whose state is half gone must not be found again.
        stored.member = None;
        self.data.write_config(stored)?;
        let from = self.data.raft_path();
        if !from.exists() {
            return Ok(());
        }
        let aside = |n: &u32| from.with_file_name(format!("raft.{n}.aside"));
        let to =
            (0..u32::MAX).find(|n| !aside(n).exists()).map_or_else(|| from.with_file_name("raft.aside"), |n| aside(&n));
        tracing::warn!(to = %to.display(), "the state of this metadata node is put aside");
        std::fs::rename(&from, &to).map_err(|source| DataDirError::Io { path: from, source }.into())
    }

    fn member_config(&self, number: u64) -> MemberConfig {
        MemberConfig {
            identity: Identity { cluster: self.credentials.identity().cluster, node: number },
            dir: self.data.raft_path(),
            rocks: RocksOptions::default(),
            timings: Timings::default(),
            level: self.credentials.level().clone(),
            sabotage: Default::default(),
        }
    }

    fn network(&self) -> Network {
        Network::new(Arc::clone(&self.ways) as Arc<dyn Ways>)
    }

    fn keys(&self) -> Result<Keys, SeatError> {
        let path = self.data.key_path();
        Keys::open(&path, false).map(|(keys, _)| keys).map_err(|source| SeatError::Key { path, source })
    }

    /// An index that is empty yet comes from a leader whose key was compared when this node was added.
    fn check_key(&self, member: &Member, keys: &Keys) -> Result<(), SeatError> {
        let journaled = index::setting(&Overlay::new(&*member.machine().kv()), KEY_CHECK_SETTING)?;
        let checked = journaled.map_or(Ok(()), |journaled| keys.check(&journaled));
        checked.map_err(|source| SeatError::Key { path: self.data.key_path(), source })
    }

    /// The member takes this place.
    fn sit(&self, member: Member) -> Result<(), SeatError> {
        let (member, key_path) = (Arc::new(member), self.data.key_path());
        let nodes = role::nodes(&self.config, &self.credentials).map_err(MetadataError::from)?;
        tokio::spawn(stay_connected(Arc::downgrade(&nodes)));
        let parts = LeaderParts {
            nodes,
            cluster: self.credentials.identity().cluster,
            keys: Arc::new(move || Keys::open(&key_path, false).map(|(keys, _)| keys)),
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(SystemEntropy),
        };
        let stored = role::set_up(&self.data, &self.config)?;
        let how = role::start_config(&self.config, &stored, &self.credentials).map_err(MetadataError::from)?;
        // Who takes over while a storage node is gone waits for nobody: clients wait for him. And the rule of placement stays what
        // it is: were it the file's, each new leader would set its own, and files that differ would change it for ever.
        let how = metadata::start::Config { wait_for_nodes: Duration::ZERO, survive: None, ..how };
        let replica = Arc::new(Replica::new(Arc::clone(&member), parts, how));
        self.inbox.seat(member.id(), member.raft().clone(), member.machine().clone());
        *self.taken.write().unwrap_or_else(PoisonError::into_inner) = Some(Taken { member, replica });
        Ok(())
    }

    /// A number that no metadata node has had, written down.
    fn new_number(&self, stored: &mut Config) -> Result<u64, SeatError> {
        // 0 is nobody's; the highest bit is left free for numbers that people read as signed.
        let number = (u64::from_le_bytes(random::<8>(self.data.root())?) >> 1).max(1);
        stored.member = Some(format!("{number:016x}"));
        self.data.write_config(stored)?;
        Ok(number)
    }

    /// Begins a cluster of one metadata node over the drives: their first start, or with `existing` the cluster that they hold.
    pub async fn begin(&self, existing: bool) -> Result<(), SeatError> {
        let _changing = self.changing.lock().await;
        if self.taken().is_some() {
            return Err(SeatError::Taken);
        }
        let mut stored = role::set_up(&self.data, &self.config)?;
        let nodes = role::nodes(&self.config, &self.credentials).map_err(MetadataError::from)?;
        if !existing && has_data(&*nodes).await? {
            return Err(SeatError::Existing);
        }
        let epoch = self.start_once(&mut stored, nodes, existing).await?;
        // What an earlier attempt has left.
        self.give_up(&mut stored)?;
        let number = self.new_number(&mut stored)?;
        let member = self.found(number, epoch).await?;
        self.sit(member)?;
        let index = Indexes::new(self.data.index_path());
        if let Err(error) = index.destroy() {
            tracing::warn!(%error, "the index that the cluster was begun from can't be removed; nobody needs it");
        }
        tracing::info!(number = format!("{number:016x}"), "a cluster of one metadata node is begun");
        self.serves().await
    }

    /// Waits until this node serves, so that what is asked of it next is answered; not for ever.
    async fn serves(&self) -> Result<(), SeatError> {
        let patience = tokio::time::Instant::now() + role::NODES;
        while self.serving().is_err() {
            if tokio::time::Instant::now() >= patience {
                let problem = self.taken().and_then(|taken| taken.replica.problem());
                return Err(SeatError::Silent(problem.unwrap_or_else(|| "it is not elected".to_owned())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// One start of a process that is all of metadata, for the index and the accounts that a cluster of nodes begins with. Returns
    /// the epoch of its last entry.
    async fn start_once(
        &self,
        stored: &mut Config,
        nodes: Arc<dyn NodeHost>,
        existing: bool,
    ) -> Result<Epoch, SeatError> {
        let started = role::metadata(&self.data, &self.config, stored, &self.credentials, nodes).await;
        let meta = Arc::new(started.map_err(MetadataError::from)?);
        let recorded = async {
            let status = meta.status();
            if status.mode == Mode::ReadOnly {
                return Err(SeatError::ReadOnly(status.reason));
            }
            Ok(role::record(&self.data, &self.config, stored, &self.credentials, &meta, existing).await?)
        };
        let recorded = recorded.await;
        meta.shutdown().await;
        recorded?;
        // A start journals its epoch, so there is a last entry, and it is in the journal: what it would seal is before it.
        meta.last_entry_epoch().ok_or_else(|| SeatError::ReadOnly("the journal's last entry is not known".to_owned()))
    }

    async fn found(&self, number: u64, epoch: Epoch) -> Result<Member, SeatError> {
        let index = self.data.index_path().join("metadata");
        let mut tries = CLOSING.0;
        loop {
            let config = self.member_config(number);
            match Member::found(config, self.me.clone(), index.clone(), epoch, self.network()).await {
                Ok(member) => return Ok(member),
                Err(error) if tries > 0 && is_in_use(&error) => {
                    tries -= 1;
                    tokio::time::sleep(CLOSING.1).await;
                }
                Err(error) => return Err(SeatError::state(self.data.raft_path(), error)),
            }
        }
    }

    /// A member asks this node to take part.
    async fn join(&self, by: &str, token: Bytes) -> Result<u64, Refused> {
        let _changing = self.changing.lock().await;
        if let Some(Taken { member, .. }) = self.taken() {
            // It was asked before, and the member that asked did not get to adding it.
            let raft = member.raft().metrics().borrow().clone();
            let empty = raft.last_log_index.is_none() && raft.membership_config.membership().nodes().next().is_none();
            let why = || format!("it is metadata node {:016x} already; --rejoin makes it one that waits", member.id());
            return if empty { Ok(member.id()) } else { Err(Refused::Occupied(why())) };
        }
        let journaled = SettingRow { name: KEY_CHECK_SETTING.to_owned(), value: token };
        let checked = self.keys().and_then(|keys| {
            let path = self.data.key_path();
            keys.check(&journaled).map_err(|source| SeatError::Key { path, source })
        });
        checked.map_err(|error| Refused::OtherKey(error.to_string()))?;
        match self.take_part().await {
            Ok(number) => {
                tracing::info!(
                    by,
                    number = format!("{number:016x}"),
                    "this node is a metadata node of the cluster from now on"
                );
                Ok(number)
            }
            Err(error) => Err(Refused::Disk(error.to_string())),
        }
    }

    async fn take_part(&self) -> Result<u64, SeatError> {
        let mut stored = role::set_up(&self.data, &self.config)?;
        self.give_up(&mut stored)?;
        stored.cluster = Some(self.credentials.identity().cluster.to_string());
        let number = self.new_number(&mut stored)?;
        let opened = Member::open(self.member_config(number), self.network()).await;
        self.sit(opened.map_err(|error| SeatError::state(self.data.raft_path(), error))?)?;
        Ok(number)
    }

    /// Adds a node, which must run and wait for it. Only the leader can.
    pub async fn add(&self, peer: Peer) -> Result<(), SeatError> {
        let Taken { member, .. } = self.taken().ok_or(SeatError::Waiting)?;
        member.read_index().await?;
        if let Some(known) = member.members().into_iter().find(|line| line.peer.name == peer.name) {
            if known.peer != peer || known.voter {
                return Err(SeatError::Known(known.peer));
            }
            self.is_still_there(&known).await?;
            return Ok(member.add(known.id, peer).await?);
        }
        let path = self.data.key_path();
        // The one that is journaled is under both keys, so that a node with another second key is refused now and not at its start.
        let journaled = index::setting(&Overlay::new(&*member.machine().kv()), KEY_CHECK_SETTING)?;
        let token = match journaled {
            Some(check) => check.value,
            None => self.keys()?.check_setting().map_err(|source| SeatError::Key { path, source })?.value,
        };
        let joined = ask_to_join(&*self.ways, &peer, token).await;
        let number = joined.map_err(|error| SeatError::Join { peer: peer.clone(), error })?;
        Ok(member.add(number, peer).await?)
    }

    /// One that was added before goes on only if it has the state that it had: nobody else can have the number, so nobody would ever
    /// have the entries that are waited for.
    async fn is_still_there(&self, known: &MemberLine) -> Result<(), SeatError> {
        let (number, peer) = (known.id, known.peer.clone());
        match ask_if_there(&*self.ways, number, &peer).await {
            Err(WayError::Refused(why @ (Refused::Waiting | Refused::OtherNode(_)))) => {
                Err(SeatError::Lost { number, peer, why })
            }
            answered => answered.map_err(|error| SeatError::Join { peer, error }),
        }
    }

    /// Removes the node of this name. Only the leader can.
    pub async fn remove(&self, name: &str) -> Result<Peer, SeatError> {
        let Taken { member, .. } = self.taken().ok_or(SeatError::Waiting)?;
        member.read_index().await?;
        let found = member.members().into_iter().find(|line| line.peer.name == name);
        let found = found.ok_or_else(|| SeatError::Unknown(name.to_owned()))?;
        member.remove(found.id).await?;
        Ok(found.peer)
    }

    /// Returns when this node can't apply what the others have agreed on, because a later release wrote it; with why.
    pub async fn too_old(&self) -> Later {
        loop {
            let Some(Taken { member, .. }) = self.taken() else {
                tokio::time::sleep(PLACE).await;
                continue;
            };
            let mut later = member.machine().later();
            // The member may be given up for another one: its sender is gone then.
            let found = later.wait_for(Option::is_some).await.ok().and_then(|later| later.clone());
            if let Some(later) = found {
                return later;
            }
        }
    }

    /// Returns when Raft has stopped on this node, with why: it stays so until the process is started again, also when there is room
    /// again on a disk that was full.
    pub async fn stopped(&self) -> SeatError {
        loop {
            let Some(Taken { member, .. }) = self.taken() else {
                tokio::time::sleep(PLACE).await;
                continue;
            };
            // Its place may have become another one meanwhile.
            if let Ok(error) = tokio::time::timeout(PLACE, member.stopped()).await {
                return SeatError::Stopped { path: self.data.raft_path(), error };
            }
        }
    }

    /// The members as this node knows them; none while it waits.
    pub fn members(&self) -> Vec<MemberLine> {
        self.taken().map_or_else(Vec::new, |taken| taken.member.members())
    }

    /// The name of this node.
    pub fn name(&self) -> &str {
        &self.me.name
    }

    /// Raft's term, and whether this node leads; `None` while it waits.
    pub fn term(&self) -> Option<(u64, bool)> {
        let taken = self.taken()?;
        let now = taken.member.watch().borrow().clone();
        Some((now.term, now.leading))
    }

    /// Whether clients that come to this node find what they need, and a line that says so or why not.
    pub fn condition(&self, reads_only: bool) -> Result<String, String> {
        let Taken { member, replica } = self.taken().ok_or_else(|| SeatError::Waiting.to_string())?;
        if let Some(error) = member.why_stopped() {
            return Err(SeatError::Stopped { path: self.data.raft_path(), error }.to_string());
        }
        if let Some(other) = self.is_others(&member) {
            return Err(other.to_string());
        }
        if let Ok(meta) = replica.serving() {
            let status = meta.status();
            return match status.mode {
                Mode::Serving => Ok("leads".to_owned()),
                Mode::ReadOnly if reads_only => Ok("leads, read-only".to_owned()),
                Mode::ReadOnly => Err(format!("leads, read-only: {}", status.reason)),
            };
        }
        let now = member.watch().borrow().clone();
        if now.leading {
            return Err(replica.problem().unwrap_or_else(|| "leads, and starts to serve".to_owned()));
        }
        let raft = member.raft().metrics().borrow().clone();
        if raft.membership_config.membership().get_node(&member.id()).is_none() {
            return Err(
                "this is no metadata node yet, or no more (--rejoin makes it one that can be added anew)".to_owned()
            );
        }
        let Some((_, leader)) = now.leader else {
            let mut names: Vec<String> = member.members().into_iter().map(|line| line.peer.name).collect();
            names.sort();
            return Err(format!(
                "no leader is known: of {} a majority must run and reach one another",
                names.join(", ")
            ));
        };
        // One that was removed, or is cut off, still knows whom it followed.
        let heard = self.inbox.heard();
        if heard.is_none_or(|heard| heard > SILENT) {
            let since = heard.map_or_else(|| "the start".to_owned(), |heard| format!("{} s ago", heard.as_secs()));
            return Err(format!("followed {leader}, and has not heard of it since {since}"));
        }
        let (last, applied) = (raft.last_log_index.unwrap_or(0), raft.last_applied.map_or(0, |id| id.index));
        if last == 0 || last.saturating_sub(applied) > CAUGHT_UP {
            return Err(format!("follows {leader}, and catches up: {applied} of {last} entries"));
        }
        Ok(format!("follows {leader}"))
    }

    /// Ends the service and Raft on this node.
    pub async fn shutdown(&self) {
        let _changing = self.changing.lock().await;
        if let Some(Taken { replica, .. }) = self.taken() {
            // While the others can still reach this node: its vote counts.
            let ask = |id, peer: Peer, vote| async move { ask_to_stand(&*self.ways, id, &peer, vote).await };
            match replica.hand_over(ask).await {
                HandedOver::To(leader) => tracing::info!(%leader, "another metadata node leads now"),
                HandedOver::Nobody => tracing::warn!("no other metadata node leads yet"),
                HandedOver::Nothing => {}
            }
        }
        self.inbox.unseat();
        let taken = self.taken.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Taken { replica, .. }) = taken {
            replica.shutdown().await;
        }
    }
}

#[async_trait]
impl Leading for Seat {
    fn serving(&self) -> Result<Arc<Metadata>, NotLeading> {
        self.taken().ok_or_else(NotLeading::default)?.replica.serving()
    }

    async fn linearizable(&self) -> Result<(), NotLeading> {
        let replica = self.taken().ok_or_else(NotLeading::default)?.replica;
        replica.linearizable().await
    }

    fn member(&self) -> Option<Arc<Member>> {
        self.taken().map(|taken| taken.member)
    }
}

struct Joiner(Weak<Seat>);

#[async_trait]
impl Joins for Joiner {
    async fn join(&self, by: &str, token: Bytes) -> Result<u64, Refused> {
        let seat = self.0.upgrade().ok_or_else(|| Refused::Stopped("it ends".to_owned()))?;
        let by = by.to_owned();
        // On its own task: one that is cut off in the middle would have made half of it.
        let joined = tokio::spawn(async move { seat.join(&by, token).await }).await;
        joined.map_err(|error| Refused::Stopped(error.to_string()))?
    }
}

/// Asks the storage nodes every now and then, for as long as anybody needs them: a node that follows and is elected must not have to
/// find out first which of them do not answer.
async fn stay_connected(nodes: Weak<dyn NodeHost>) {
    while let Some(nodes) = nodes.upgrade() {
        let _now_known = nodes.drives().await;
        drop(nodes);
        tokio::time::sleep(ASK).await;
    }
}

/// Whether the drives have seen an epoch: a start, so that a cluster's data is there. All nodes must answer, or nobody knows.
async fn has_data(nodes: &dyn NodeHost) -> Result<bool, SeatError> {
    let patience = tokio::time::Instant::now() + role::NODES;
    loop {
        if nodes.highest_epoch().await.is_some() {
            return Ok(true);
        }
        let silent = nodes.silent();
        if silent.is_empty() {
            return Ok(false);
        }
        if tokio::time::Instant::now() >= patience {
            return Err(SeatError::Nodes(format!("{} do not answer", silent.join(", "))));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The index was closed, and somebody still reads it.
fn is_in_use(error: &MemberError) -> bool {
    matches!(
        error,
        MemberError::Found(FoundError::Index(IndexError::Store(KvError::Io { .. } | KvError::Locked { .. })))
    )
}
