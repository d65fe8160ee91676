//! Which metadata nodes there are, which of them leads, and asking it.
//!
//! Invariants
//! * A commit is asked for once, unless it was surely not carried out: nobody was reached, or who was reached does not lead.
//!   Everything else is in doubt, and says so.
//! * A call ends. What may be repeated is tried until its patience is over, at one node after the other; a commit that was handed
//!   to a node waits for it no longer than until another one leads.
//! * Who leads is only a hint: whoever is asked and does not lead says so.

use crate::client::{CommitError, FrameReadError, LookupError};
use crate::rpc::answer::{Answer, ErrorMessage, LeaderMessage, Said};
use crate::rpc::{ANSWER_LIMIT, Name, SERVICE};
use bytes::Bytes;
use codec::id::ChunkId;
use codec::level::FormatLevel;
use prost::Message;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage_node::level::CurrentLevel;
use storage_node::remote::{NodeAddress, RemoteError};
use storage_node::rpc::{CallError, Client, Lane, Peer};
use storage_node::service::identity::{NodeName, Role};
use storage_node::service::tls::Credentials;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// More metadata nodes than there may be: what a node says of others is not believed without end.
const MOST: usize = 32;
/// How long making a connection may take. Whoever asks waits for it no longer than for an answer, and asks others meanwhile; were it
/// given up as soon, there would never be one to a node that is busy.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one node may take over what may be asked of another one instead.
const ATTEMPT: Duration = Duration::from_secs(3);
/// How long a commit, or the grant of an epoch, which is one, may take at the node that leads: the journal waits for drives that hang, and no longer than this.
const COMMIT: Duration = Duration::from_secs(90);
/// The pause when all nodes were asked and none leads: about as long as an election takes at its best.
const PAUSE: Duration = Duration::from_millis(100);
/// The pause before a node that another one named is asked: two that name one another must not be asked in a tight circle.
const REDIRECT: Duration = Duration::from_millis(10);
/// A question longer than this goes by the connection for what is long.
const SHORT: usize = 16 << 10;

/// Why a call came to nothing.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It was surely not carried out.
    NotDone(String),
    /// Nobody knows whether it was carried out.
    Unknown(String),
    /// The leader's own answer.
    Said(Box<ErrorMessage>),
}

impl Failed {
    fn reason(self) -> Result<String, Box<ErrorMessage>> {
        match self {
            Failed::NotDone(reason) | Failed::Unknown(reason) => Ok(reason),
            Failed::Said(error) => Err(error),
        }
    }

    pub fn commit(self) -> CommitError {
        self.reason().map_or_else(|error| error.commit(), |reason| CommitError::Unavailable { reason })
    }

    pub fn lookup(self) -> LookupError {
        self.reason().map_or_else(|error| error.lookup(), |reason| LookupError::Unavailable { reason })
    }

    pub fn frame(self, id: ChunkId) -> FrameReadError {
        self.reason().map_or_else(|error| error.frame(id), |reason| FrameReadError::Unreachable { id, reason })
    }
}

struct Known {
    clients: Vec<Arc<Client>>,
    /// Whose turn it is when nobody is known to lead.
    next: usize,
}

/// The metadata nodes.
pub(crate) struct Peers {
    credentials: Arc<Credentials>,
    known: Mutex<Known>,
    leader: watch::Sender<Option<NodeName>>,
    /// How long who asks is kept waiting for a node that leads.
    patience: Duration,
}

impl Peers {
    pub fn new(credentials: Arc<Credentials>, list: &[NodeAddress], patience: Duration) -> Result<Peers, RemoteError> {
        let clients = list.iter().map(|at| client(&credentials, at)).collect::<Result<Vec<_>, _>>()?;
        let known = Mutex::new(Known { clients, next: 0 });
        Ok(Peers { credentials, known, leader: watch::Sender::new(None), patience })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The format level, as it was last heard of.
    pub fn level(&self) -> &CurrentLevel {
        self.credentials.level()
    }

    /// Takes up the level that who leads has said. A gateway follows it downwards too: the raise was lost, and that was accepted.
    pub fn hear_of_level(&self, level: FormatLevel) {
        match self.credentials.identity().role {
            Role::Gateway => self.level().follow(level),
            // Of a metadata process that serves S3 too: its own index says it.
            _ => self.level().raise(level),
        }
    }

    /// Who leads, as far as is known.
    pub fn leader(&self) -> Option<NodeName> {
        self.leader.borrow().clone()
    }

    /// Takes a node for the one that leads.
    #[cfg(test)]
    pub fn leads_at(&self, name: &str) {
        self.leader.send_replace(NodeName::new(name).ok());
    }

    /// How many nodes are known.
    fn count(&self) -> usize {
        self.known().clients.len()
    }

    /// Whom to ask next.
    fn pick(&self) -> Option<Arc<Client>> {
        let leader = self.leader();
        let mut known = self.known();
        let led = known.clients.iter().find(|client| Some(&client.identity().name) == leader.as_ref());
        if let Some(client) = led {
            return Some(client.clone());
        }
        let turn = known.next;
        known.next = turn.wrapping_add(1);
        let count = known.clients.len().max(1);
        known.clients.get(turn % count).cloned()
    }

    /// A node answered as one that leads.
    fn leads(&self, client: &Client) {
        let name = &client.identity().name;
        self.leader.send_if_modified(|leader| {
            let other = leader.as_ref() != Some(name);
            if other {
                tracing::info!(leader = %name, "this metadata node leads");
                *leader = Some(name.clone());
            }
            other
        });
    }

    /// A node does not lead, or can't be asked.
    fn leads_not(&self, client: &Client) {
        self.leader.send_if_modified(|leader| {
            let was = leader.as_ref() == Some(&client.identity().name);
            if was {
                *leader = None;
            }
            was
        });
    }

    /// A node says that another one leads. Whether it names one that can be asked.
    fn redirect(&self, from: &Client, to: LeaderMessage) -> bool {
        self.leads_not(from);
        let Ok(name) = NodeName::new(&to.name) else { return false };
        if name == from.identity().name || !self.meet(NodeAddress { name: name.clone(), address: to.address }) {
            return false;
        }
        self.leader.send_if_modified(|leader| leader.is_none() && leader.replace(name).is_none());
        true
    }

    /// A node, where it is now. Members come, and move, while gateways run. Whether it is known after that.
    fn meet(&self, at: NodeAddress) -> bool {
        let mut known = self.known();
        let before = known.clients.iter().position(|client| client.identity().name == at.name);
        let same = before.and_then(|at| known.clients.get(at)).is_some_and(|client| client.address() == at.address);
        if same || at.address.is_empty() {
            return before.is_some();
        }
        let client = match client(&self.credentials, &at) {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(name = %at.name, %error, "a metadata node can't be asked");
                return before.is_some();
            }
        };
        let room = known.clients.len() < MOST;
        match before.and_then(|at| known.clients.get_mut(at)) {
            Some(before) => *before = client,
            None if room => known.clients.push(client),
            None => return false,
        }
        true
    }

    /// Asks the node that leads, and returns its answer.
    pub async fn ask(&self, name: Name, question: Bytes) -> Result<Bytes, Failed> {
        let until = Instant::now() + self.patience;
        let mut asked = 0;
        let mut said = "no metadata node is known".to_owned();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(client) = self.pick().filter(|_| !left.is_zero()) else { return Err(Failed::NotDone(said)) };
            let answered = match name.commits() {
                false => self.attempt(&client, name, question.clone(), left.min(ATTEMPT)).await,
                true => self.unless_deposed(&client, self.attempt(&client, name, question.clone(), COMMIT)).await,
            };
            match answered {
                Ok(Said::Done(bytes)) => {
                    self.leads(&client);
                    return Ok(bytes);
                }
                Ok(Said::Error(error)) => {
                    self.leads(&client);
                    return Err(Failed::Said(Box::new(error)));
                }
                Ok(Said::NotLeading(leader)) => {
                    said = format!("{} does not lead", client.identity().name);
                    if self.redirect(&client, leader) && asked < MOST {
                        asked += 1;
                        sleep(REDIRECT).await;
                        continue;
                    }
                }
                Err(Failed::Unknown(reason)) if !name.is_repeatable() => {
                    self.leads_not(&client);
                    return Err(Failed::Unknown(reason));
                }
                Err(error) => {
                    self.leads_not(&client);
                    said = error.reason().unwrap_or_default();
                }
            }
            asked += 1;
            if asked % self.count().max(1) == 0 {
                sleep(PAUSE).await;
            }
        }
    }

    async fn attempt(&self, client: &Client, name: Name, question: Bytes, time: Duration) -> Result<Said, Failed> {
        let lane = match name {
            // The journal may wait for drives that hang, and reads do not wait for it.
            _ if name.commits() => Lane::Slow,
            Name::ReadFrame => Lane::Bulk,
            _ if question.len() > SHORT => Lane::Bulk,
            _ => Lane::Control,
        };
        let bytes =
            client.ask(lane, name.as_str(), question, ANSWER_LIMIT, time).await.map_err(|error| match error {
                error @ CallError::NotSent(_) => Failed::NotDone(error.to_string()),
                error @ CallError::Unknown(_) => Failed::Unknown(error.to_string()),
            })?;
        let unreadable = || Failed::Unknown(format!("{} gave an answer that can't be read", client.identity()));
        Answer::decode(bytes).ok().and_then(|answer| answer.said).ok_or_else(unreadable)
    }

    /// Waits for an answer until another node leads than the one that was asked: that one can't commit any more, but may have.
    async fn unless_deposed(
        &self,
        client: &Client,
        answer: impl Future<Output = Result<Said, Failed>>,
    ) -> Result<Said, Failed> {
        let mut leader = self.leader.subscribe();
        let asked = &client.identity().name;
        let deposed = async {
            // An error means that nobody will say so.
            let told = leader.wait_for(|leader| leader.as_ref().is_some_and(|leader| leader != asked)).await.is_ok();
            match told {
                // What it has answered is on its way.
                true => sleep(PAUSE).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answered = answer => answered,
            () = deposed => {
                Err(Failed::Unknown(format!("{asked} leads no more; whether it was carried out is not known")))
            }
        }
    }
}

fn client(credentials: &Credentials, at: &NodeAddress) -> Result<Arc<Client>, RemoteError> {
    let peer = Peer { role: Role::Metadata, name: at.name.clone(), address: at.address.clone() };
    Client::new(credentials, SERVICE, peer, CONNECT).map(Arc::new)
}
