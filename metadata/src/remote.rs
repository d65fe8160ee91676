//! Metadata in other processes, behind [`MetadataClient`]: the client of [`crate::rpc`].
//!
//! A gateway decides nothing. It packs, places and writes stripes itself, straight to the storage nodes, reads frames of stripes
//! from there, and asks the metadata node that leads for everything else.
//!
//! Invariants
//! * What it holds can be lost: an epoch that was granted to it, what it was told of the cluster a moment ago, keys of dedup
//!   domains, and for a second the accounts. A gateway that ends takes nothing with it but requests that were not answered.
//! * Stripes are numbered in an epoch that was granted to this process alone (R1). Another one is taken every hour, and at once
//!   when a commit says that the one it came under is fenced (R9).
//! * What is known of the drives steers where stripes go and nothing else: it may be some seconds old. What is true the commit
//!   says, which is decided by the leader.
//! * When metadata has lost entries and that was accepted, everything that is known is asked for again: a dedup domain of a lost
//!   entry is no domain any more, and what would be stored in it nobody else could read.
//! * An account, user or key that was dropped or changed, or a policy of one, is known as it was for [`ACCOUNT_LIFE`] at most.
//!
//! [`MetadataClient`]: crate::client::MetadataClient

mod cache;
mod client;
mod peers;
#[cfg(test)]
mod tests;

use self::cache::Cache;
use self::peers::{Failed, Peers};
use crate::client::CommitError;
use crate::clock::{SystemEntropy, random};
use crate::iam::Signing;
use crate::journal::Holders;
use crate::keys::{Account, Domain, Purpose};
use crate::rpc::message::{Granted, OfGrant, OfSession, SessionMessage};
use crate::rpc::{Name, Session};
use crate::stripe_writer::StripeWriter;
use bytes::Bytes;
use codec::erasure::Geometry;
use codec::id::{DomainId, Epoch, Lsn};
use prost::Message;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use storage_node::client::{DriveStatus, NodeClient};
use storage_node::host::NodeHost;
use storage_node::remote::{NodeAddress, RemoteError};
use storage_node::sabotage::SabotageSet;
use storage_node::service::identity::NodeName;
use storage_node::service::tls::Credentials;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// How long an account is known without being asked for again.
pub const ACCOUNT_LIFE: Duration = Duration::from_secs(1);
/// Accounts that are known at a time; also those that there are none of, so that guesses cost no more than good keys.
const ACCOUNTS: usize = 4096;
/// Dedup domains that are known at a time.
const DOMAINS: usize = 16_384;
/// Entries of the journal whose drives are known at a time, and for how long: from the lookup of a large object to its last chunk.
const HOLDERS: usize = 16_384;
const HOLDERS_LIFE: Duration = Duration::from_secs(300);
/// Epochs are asked for again after so long, when there was none to be had.
const EPOCH_PAUSE: Duration = Duration::from_secs(1);

/// How the metadata nodes are reached, and how often what is known is looked at again.
#[derive(Clone, Debug)]
pub struct RemoteMetadataConfig {
    /// The metadata nodes that are known beforehand; others are learned from them.
    pub peers: Vec<NodeAddress>,
    /// How long a request waits for a node that leads.
    pub patience: Duration,
    /// How often the state of the cluster and of the drives is looked at.
    pub refresh_every: Duration,
    /// How often another epoch is taken.
    pub renew_every: Duration,
    /// Safety steps that a test takes away.
    pub sabotage: SabotageSet,
}

impl RemoteMetadataConfig {
    /// The defaults.
    pub fn new(peers: Vec<NodeAddress>) -> RemoteMetadataConfig {
        RemoteMetadataConfig {
            peers,
            patience: Duration::from_secs(10),
            refresh_every: Duration::from_secs(1),
            renew_every: Duration::from_secs(3600),
            sabotage: SabotageSet::default(),
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum RemoteMetadataError {
    /// The credentials can't be used, or there is no randomness.
    #[error(transparent)]
    Client(#[from] RemoteError),
    /// No node that leads answers, or it grants nothing at present. Try again.
    #[error("metadata does not answer: {0}")]
    Unavailable(String),
}

/// What was last heard of the cluster.
#[derive(Clone, Debug)]
struct Seen {
    session: Session,
    /// What the leader knows it by; empty where it sends all each time.
    mark: Bytes,
    at: Instant,
}

/// How a client is, for a readiness check.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The metadata node that leads, as far as is known.
    pub leader: Option<NodeName>,
    /// How long ago it last said how the cluster is.
    pub heard: Duration,
    /// The epoch that is held.
    pub epoch: Epoch,
    /// How long ago it was taken.
    pub held: Duration,
    /// Why only reads are served; `None` while writes are.
    pub read_only: Option<String>,
}

impl Condition {
    /// Whether requests would be served: the leader has answered lately, and requests may begin in the epoch.
    pub fn is_ready(&self) -> bool {
        self.heard < READY && self.held < Duration::from_millis(crate::command::EPOCH_HOLD_MS)
    }
}

/// A leader that was silent for so long is no leader any more: longer than an election takes.
const READY: Duration = Duration::from_secs(15);

/// A wish for an epoch. Repeated, it is granted the same one.
#[derive(Clone, Copy)]
struct Wish {
    nonce: [u8; 16],
    /// From then on the time counts that the epoch may be used: the steady count may have gone on while the question was on its way.
    since: Instant,
}

impl Wish {
    fn new() -> Result<Wish, CommitError> {
        let reason = || "the system has no random numbers".to_owned();
        let nonce = random(&SystemEntropy).ok_or_else(|| CommitError::Unavailable { reason: reason() })?;
        Ok(Wish { nonce, since: Instant::now() })
    }
}

struct Inner {
    peers: Peers,
    nodes: Arc<dyn NodeHost>,
    stripes: StripeWriter,
    geometry: Geometry,
    seen: RwLock<Arc<Seen>>,
    status: RwLock<Arc<Vec<DriveStatus>>>,
    /// When the epoch that is held was asked for.
    granted: Mutex<Instant>,
    /// A wish for another one that is not known to be granted.
    wish: Mutex<Option<Wish>>,
    /// A commit was refused because its epoch is fenced.
    fenced: Notify,
    domains: Cache<(String, Purpose), Arc<Domain>>,
    domains_by_id: Cache<DomainId, Arc<Domain>>,
    accounts: Cache<String, Option<Arc<Account>>>,
    /// By access key and token.
    signers: Cache<(String, Option<String>), Signing>,
    /// Which drives have entries of the journal. One that has no entry there any more says so.
    holders: Cache<Lsn, Holders>,
}

/// Metadata in other processes. Dropping it ends its tasks.
pub struct RemoteMetadata {
    inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

impl fmt::Debug for RemoteMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteMetadata").field("condition", &self.condition()).finish_non_exhaustive()
    }
}

impl Drop for RemoteMetadata {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl RemoteMetadata {
    /// Finds the node that leads and takes an epoch. `nodes` are the storage nodes, which follow the cluster's list from now on.
    ///
    /// # Errors
    /// Nobody leads within [`RemoteMetadataConfig::patience`], or no epoch is to be had: whoever waits for it tries again.
    pub async fn connect(
        credentials: Arc<Credentials>,
        nodes: Arc<dyn NodeHost>,
        config: RemoteMetadataConfig,
    ) -> Result<RemoteMetadata, RemoteMetadataError> {
        let cluster = credentials.identity().cluster;
        let peers = Peers::new(credentials, &config.peers, config.patience)?;
        let unavailable = |error: Failed| RemoteMetadataError::Unavailable(error.lookup().to_string());
        let (session, mark) = session_of(&peers, None).await.map_err(unavailable)?;
        follow(&*nodes, &session);
        let asked = Instant::now();
        let wish = Wish::new().map_err(|error| RemoteMetadataError::Unavailable(error.to_string()))?;
        let epoch = grant_of(&peers, wish).await.map_err(unavailable)?;
        let geometry = session.geometry;
        let client: Arc<dyn NodeClient> = nodes.clone();
        let stripes =
            StripeWriter::new(client, cluster, epoch, config.sabotage.erasure(geometry), session.shard_target);
        let status = nodes.drives().await;
        let inner = Arc::new(Inner {
            peers,
            nodes,
            stripes,
            geometry,
            seen: RwLock::new(Arc::new(Seen { session, mark, at: asked })),
            status: RwLock::new(Arc::new(status)),
            granted: Mutex::new(wish.since),
            wish: Mutex::default(),
            fenced: Notify::new(),
            domains: Cache::new(DOMAINS, None),
            domains_by_id: Cache::new(DOMAINS, None),
            accounts: Cache::new(ACCOUNTS, Some(ACCOUNT_LIFE)),
            signers: Cache::new(ACCOUNTS, Some(ACCOUNT_LIFE)),
            holders: Cache::new(HOLDERS, Some(HOLDERS_LIFE)),
        });
        let tasks = vec![
            tokio::spawn(refresh(inner.clone(), config.refresh_every)),
            tokio::spawn(watch_drives(inner.clone(), config.refresh_every)),
            tokio::spawn(renew(inner.clone(), config.renew_every)),
        ];
        Ok(RemoteMetadata { inner, tasks })
    }

    /// How the client is.
    pub fn condition(&self) -> Condition {
        let seen = self.inner.seen();
        Condition {
            leader: self.inner.peers.leader(),
            heard: seen.at.elapsed(),
            epoch: self.inner.stripes.epoch(),
            held: self.inner.granted.lock().unwrap_or_else(PoisonError::into_inner).elapsed(),
            read_only: seen.session.read_only.clone(),
        }
    }

    /// The storage nodes.
    pub fn nodes(&self) -> &Arc<dyn NodeHost> {
        &self.inner.nodes
    }

    /// Takes another epoch now, as is done every hour.
    ///
    /// # Errors
    /// None is to be had at present; the one that is held goes on.
    pub async fn renew_epoch(&self) -> Result<Epoch, CommitError> {
        self.inner.take_epoch().await
    }
}

impl Inner {
    fn seen(&self) -> Arc<Seen> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn status(&self) -> Arc<Vec<DriveStatus>> {
        self.status.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ask<A: Message + Default>(&self, name: Name, question: &impl Message) -> Result<A, Failed> {
        ask(&self.peers, name, question).await
    }

    /// Forgets what metadata said of its rows.
    fn forget(&self) {
        self.domains.clear();
        self.domains_by_id.clear();
        self.accounts.clear();
        self.signers.clear();
        self.holders.clear();
    }

    async fn take_epoch(&self) -> Result<Epoch, CommitError> {
        let wish = self.wish()?;
        let epoch = grant_of(&self.peers, wish).await.map_err(Failed::commit)?;
        self.stripes.renew(epoch);
        *self.granted.lock().unwrap_or_else(PoisonError::into_inner) = wish.since;
        self.wish.lock().unwrap_or_else(PoisonError::into_inner).take_if(|open| open.nonce == wish.nonce);
        Ok(epoch)
    }

    /// The wish that was not granted yet as far as is known, or another one.
    fn wish(&self) -> Result<Wish, CommitError> {
        let mut open = self.wish.lock().unwrap_or_else(PoisonError::into_inner);
        let wish = match *open {
            Some(wish) => wish,
            None => Wish::new()?,
        };
        *open = Some(wish);
        Ok(wish)
    }
}

async fn ask<A: Message + Default>(peers: &Peers, name: Name, question: &impl Message) -> Result<A, Failed> {
    let bytes = peers.ask(name, question.encode_to_vec().into()).await?;
    A::decode(bytes).map_err(|error| Failed::Unknown(format!("the answer to {} can't be read: {error}", name.as_str())))
}

/// How the cluster is, and the mark of that. The leader says only what is new to whoever knew `before`.
async fn session_of(peers: &Peers, before: Option<&Seen>) -> Result<(Session, Bytes), Failed> {
    let known = before.map(|before| before.mark.clone()).unwrap_or_default();
    let question = OfSession { software: codec::level::SOFTWARE.to_owned(), known };
    let message: SessionMessage = ask(peers, Name::Session, &question).await?;
    let mark = message.mark.clone();
    let session = Session::of_answer(message, before.map(|before| (&before.session, &before.mark)));
    let session = session.ok_or_else(|| Failed::Unknown("the state of the cluster can't be read".to_owned()))?;
    peers.hear_of_level(session.level);
    Ok((session, mark))
}

async fn grant_of(peers: &Peers, wish: Wish) -> Result<Epoch, Failed> {
    let question = OfGrant { nonce: wish.nonce.to_vec().into() };
    let granted: Granted = ask(peers, Name::Grant, &question).await?;
    Ok(Epoch(granted.epoch))
}

/// Speaks to the storage nodes that belong to the cluster.
fn follow(nodes: &dyn NodeHost, session: &Session) {
    if session.nodes.is_empty() {
        return;
    }
    if let Err(error) = nodes.follow(&session.nodes) {
        tracing::warn!(%error, "the list of storage nodes is not followed");
    }
}

async fn refresh(inner: Arc<Inner>, every: Duration) {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let at = Instant::now();
        let before = inner.seen();
        match session_of(&inner.peers, Some(&before)).await {
            Ok((session, mark)) => {
                if before.session.nodes != session.nodes {
                    follow(&*inner.nodes, &session);
                }
                if before.session.lost != session.lost {
                    inner.forget();
                }
                *inner.seen.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Seen { session, mark, at });
            }
            Err(error) => tracing::warn!(error = %error.lookup(), "how the cluster is, is not known"),
        }
    }
}

async fn watch_drives(inner: Arc<Inner>, every: Duration) {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let status = inner.nodes.drives().await;
        *inner.status.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(status);
    }
}

async fn renew(inner: Arc<Inner>, every: Duration) {
    loop {
        tokio::select! {
            () = sleep(every) => {}
            () = inner.fenced.notified() => {}
        }
        while let Err(error) = inner.take_epoch().await {
            tracing::warn!(%error, "no other epoch is to be had");
            sleep(EPOCH_PAUSE).await;
        }
    }
}
