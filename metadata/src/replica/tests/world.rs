//! Metadata nodes in one process that share the drives of one storage node, over a network that can be cut.

use super::fenced::Fenced;
use crate::client::MetadataClient;
use crate::clock::{Clock, SystemClock, SystemEntropy};
use crate::index::FAMILIES;
use crate::keys::Keys;
use crate::raft::tests::net::Net;
use crate::raft::{Identity, Member, MemberConfig, MemberError, Peer, Timings, WayError};
use crate::replica::{Leading, Replica};
use crate::service::Metadata;
use crate::start::tests::world::World;
use crate::start::{Config, LeaderParts};
use codec::encrypt::KeyEncryptionKey;
use codec::id::{ClusterId, Epoch, Lsn};
use openraft::Vote;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use storage_node::disk::faulty::CrashChoice;
use storage_node::drive::probe;
use storage_node::kv::{Direction, Kv, KvBatch, KvError, RocksKv, RocksOptions};
use storage_node::node::{NodeConfig, StorageNode};
use storage_node::sabotage::SabotageSet;

pub const SMALL: RocksOptions = RocksOptions { block_cache: 1 << 20, write_buffers: 1 << 20, open_files: 64 };
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The machine's clock, which whoever asks it can be made to wait for.
#[derive(Debug, Default)]
pub struct Waited {
    clock: SystemClock,
    held: Mutex<bool>,
    opened: Condvar,
    /// How many wait.
    pub waiting: AtomicU64,
}

impl Waited {
    /// From now on, and until the opposite, nobody is told the time.
    pub fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.opened.notify_all();
    }
}

impl Clock for Waited {
    fn wall_ms(&self) -> u64 {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        drop(self.opened.wait_while(self.held.lock().unwrap(), |held| *held).unwrap());
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        self.clock.wall_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.clock.monotonic_ms()
    }
}

/// One metadata node, and its way to the drives.
#[derive(Clone)]
pub struct Place {
    pub replica: Arc<Replica>,
    pub member: Arc<Member>,
    pub drives: Arc<Fenced>,
}

/// Drives that have served, and the metadata nodes over them.
pub struct Town {
    pub world: World,
    pub sabotage: SabotageSet,
    pub clock: Arc<Waited>,
    /// Metadata nodes that are started can begin no journal segment.
    pub journal_fails: AtomicBool,
    net: Net,
    node: Arc<StorageNode>,
    begun: Arc<AtomicU64>,
    cluster: ClusterId,
    /// That of the last entry of the process that was all of metadata.
    last_epoch: Epoch,
    dir: tempfile::TempDir,
    places: Mutex<BTreeMap<u64, Place>>,
}

pub fn peer(id: u64) -> Peer {
    Peer { address: format!("node-{id}:1"), name: format!("node-{id}") }
}

impl Town {
    /// A first start by a process that is all of metadata, and then a cluster of one metadata node, number 1.
    pub async fn begin(drives: usize, geometry: &str) -> Town {
        let town = Self::over(World::new(drives, geometry)).await;
        town.found(1).await.unwrap();
        town
    }

    /// The same, without a metadata node yet.
    pub async fn over(world: World) -> Town {
        let metadata = world.serving().await;
        Self::after(world, metadata).await
    }

    /// The same after a process that is all of metadata, and serves still.
    pub async fn after(world: World, metadata: Metadata) -> Town {
        metadata.shutdown().await;
        let last_epoch = metadata.last_entry_epoch().unwrap();
        let cluster = probe(world.trace.disk(0), None).identity.unwrap().cluster;
        let sabotage = world.config.sabotage.clone();
        let dir = tempfile::tempdir().unwrap();
        let node = open_node(&world, cluster).await;
        let (clock, journal_fails, net, begun, places) = Default::default();
        Town { world, sabotage, clock, journal_fails, net, node, begun, cluster, last_epoch, dir, places }
    }

    fn config(&self, id: u64) -> MemberConfig {
        let ms = Duration::from_millis;
        MemberConfig {
            level: Default::default(),
            identity: Identity { cluster: self.cluster, node: id },
            dir: self.home(id),
            rocks: SMALL,
            timings: Timings {
                heartbeat: ms(200),
                // Longer than a busy machine keeps a leader from being answered.
                election_min: ms(1400),
                election_max: ms(2800),
                deadline: Duration::from_secs(6),
                catch_up: Duration::from_secs(5),
                shorten_every: None,
                ..Timings::default()
            },
            sabotage: self.sabotage.clone(),
        }
    }

    fn home(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// Begins a cluster of one from the index that the world has.
    pub async fn found(&self, id: u64) -> Result<Place, MemberError> {
        let index = self.dir.path().join(format!("index-of-{id}"));
        {
            let (from, to) =
                (self.world.home.kv.lock().unwrap().clone(), RocksKv::open(&index, &FAMILIES, SMALL).unwrap());
            for family in FAMILIES {
                let mut rows = from.scan(family, &[], Direction::Forward).unwrap();
                let mut batch = KvBatch::new();
                while let Some((key, value)) = rows.next().unwrap() {
                    batch.put(family, key.to_vec(), value);
                }
                to.write(batch).unwrap();
            }
        }
        let member = Member::found(self.config(id), peer(id), index, self.last_epoch, (self.net.clone(), id)).await?;
        Ok(self.run(id, member))
    }

    /// Starts a node with what it has, if anything.
    pub async fn start(&self, id: u64) -> Place {
        let member = self.open(id).await;
        self.run(id, member)
    }

    /// A node's Raft with no service over it.
    pub async fn open(&self, id: u64) -> Member {
        loop {
            match Member::open(self.config(id), (self.net.clone(), id)).await {
                Ok(member) => return member,
                // Whoever had it lets go of it a moment after it has ended.
                Err(MemberError::Store(KvError::Locked { .. })) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn run(&self, id: u64, member: Member) -> Place {
        let member = Arc::new(member);
        self.net.nodes.lock().unwrap().insert(id, (member.raft().clone(), member.machine().clone()));
        let drives = Fenced::new(self.node.clone(), self.begun.clone());
        drives.journal_fails.store(self.journal_fails.load(Ordering::Acquire), Ordering::Release);
        let parts = LeaderParts {
            nodes: drives.clone(),
            cluster: self.cluster,
            keys: Arc::new(|| Ok(Keys::new(KeyEncryptionKey::new([7; 32])))),
            clock: self.clock.clone(),
            entropy: Arc::new(SystemEntropy),
        };
        let config =
            Config { geometry: None, check_every: Some(Duration::from_millis(500)), ..self.world.config.clone() };
        let place = Place { replica: Arc::new(Replica::new(member.clone(), parts, config)), member, drives };
        self.places.lock().unwrap().insert(id, place.clone());
        place
    }

    /// Ends a node. What it has stays.
    pub async fn stop(&self, id: u64) {
        let place = self.places.lock().unwrap().remove(&id).unwrap();
        self.net.nodes.lock().unwrap().remove(&id);
        place.replica.shutdown().await;
    }

    /// Ends every node, and says which there were.
    async fn stop_all(&self) -> Vec<u64> {
        let places: Vec<(u64, Place)> =
            self.places.lock().unwrap().iter().map(|(id, place)| (*id, place.clone())).collect();
        // Nobody succeeds the leader and writes something of its own, however long its end takes.
        places.iter().for_each(|(_, place)| place.member.raft().runtime_config().elect(false));
        let ids: Vec<u64> = places.into_iter().map(|(id, _)| id).collect();
        for id in &ids {
            self.stop(*id).await;
        }
        ids
    }

    /// Adds a node, by way of the leader.
    pub async fn add(&self, id: u64) -> Place {
        let place = self.start(id).await;
        while let Err(error) = self.leading().await.member.add(id, peer(id)).await {
            println!("adding {id}: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        place
    }

    /// Has a node stand for election, as its inbox does when the leader that it follows asks.
    pub async fn stand(&self, id: u64, vote: Vote<u64>) -> Result<(), WayError> {
        let raft = self.net.nodes.lock().unwrap().get(&id).map(|(raft, _)| raft.clone());
        if let Some(raft) = raft.filter(|raft| raft.metrics().borrow().vote == vote) {
            raft.trigger().elect().await.unwrap();
        }
        Ok(())
    }

    pub fn cut(&self, ids: &[u64]) {
        *self.net.cut.lock().unwrap() = ids.iter().copied().collect();
    }

    pub fn deafen(&self, ids: &[u64]) {
        *self.net.deaf.lock().unwrap() = ids.iter().copied().collect();
    }

    pub fn place(&self, id: u64) -> Place {
        self.places.lock().unwrap()[&id].clone()
    }

    fn whole(&self) -> Vec<Place> {
        let cut = self.net.cut.lock().unwrap().clone();
        let places = self.places.lock().unwrap();
        places.iter().filter(|(id, _)| !cut.contains(id)).map(|(_, place)| place.clone()).collect()
    }

    /// The node that leads and serves, of those that are not cut off.
    pub async fn leading(&self) -> Place {
        let found = async {
            loop {
                for place in self.whole() {
                    if place.replica.serving().is_ok() && place.replica.linearizable().await.is_ok() {
                        return place;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(place) => place,
            Err(_) => panic!("nobody leads: {:?}", self.whole().iter().map(|p| p.replica.clone()).collect::<Vec<_>>()),
        }
    }

    /// The service that leads.
    pub async fn serving(&self) -> Arc<Metadata> {
        loop {
            if let Ok(metadata) = self.leading().await.replica.serving() {
                return metadata;
            }
        }
    }

    /// A process that is all of metadata finds what the drives have, and journals its start. Returns the last LSN that the drives
    /// then have. No metadata node may run.
    pub async fn forked(&mut self) -> Lsn {
        self.node.stop().await;
        self.world.lose_index();
        let metadata = self.world.serving().await;
        let last = metadata.status().applied;
        metadata.shutdown().await;
        self.node = open_node(&self.world, self.cluster).await;
        last
    }

    /// Ends every metadata node, puts the drives back to what they were at a moment, and starts the metadata nodes again.
    pub async fn put_back(&mut self, position: u64) {
        let ids = self.stop_all().await;
        self.node.stop().await;
        let image = self.world.trace.image(position, &CrashChoice::Everything);
        self.world = self.world.after(&image, self.world.home.clone());
        self.node = open_node(&self.world, self.cluster).await;
        for id in ids {
            self.start(id).await;
        }
    }

    /// Ends every metadata node and takes away all that they have; a process that is all of metadata finds what the drives have.
    pub async fn wiped(self) -> (World, Metadata) {
        self.stop_all().await;
        self.node.stop().await;
        self.world.lose_index();
        let metadata = self.world.serving().await;
        (self.world, metadata)
    }
}

async fn open_node(world: &World, cluster: ClusterId) -> Arc<StorageNode> {
    let drives = world.trace.disks().into_iter().map(|disk| probe(disk, Some(cluster))).collect();
    let config = NodeConfig {
        data_segment: world.config.data_segment,
        journal_segment: world.config.journal_segment,
        preallocate_step: world.config.preallocate_step,
        reserve: 0,
        ..NodeConfig::new(cluster)
    };
    StorageNode::open(config, drives, crate::start::tests::world::new_node_index()).await.unwrap()
}
