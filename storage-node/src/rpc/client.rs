//! The asking end.

use super::{BYTES, HELLO};
use crate::remote::link::{self, Link, Target};
use crate::remote::{ConnectError, RemoteError};
use crate::service::PROTOCOL;
use crate::service::identity::{Identity, NodeName, Role};
use crate::service::tls::Credentials;
use crate::service::wire::{Assembly, CONNECTION_WINDOW, PIECE, Piece, STREAM_WINDOW, pieces};
use bytes::Bytes;
use futures::Stream;
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The longest pause between two attempts to connect: whoever asks has others to ask meanwhile, and wants to know soon.
const PAUSE: Duration = Duration::from_millis(500);

/// Who is asked, and where he is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// His role.
    pub role: Role,
    /// His name: no other process is taken for him.
    pub name: NodeName,
    /// `host:port`.
    pub address: String,
}

/// Which of its connections a call takes: each has so many streams and no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// For what is short, and must not wait behind megabytes.
    Control,
    /// For what is long.
    Bulk,
    /// For what may have to wait where it is answered, and must not keep the others from being asked.
    Slow,
}

/// Why a call has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// It was surely not carried out: nobody was reached, or it was refused unseen.
    #[error(transparent)]
    NotSent(ConnectError),
    /// It may have been carried out.
    #[error("{0}; whether it was carried out is not known")]
    Unknown(ConnectError),
}

/// A client of one process. It connects when it is first asked, and again when a connection is gone.
pub struct Client {
    target: Arc<Target>,
    service: &'static str,
    control: Arc<link::Lane>,
    bulk: Arc<link::Lane>,
    slow: Arc<link::Lane>,
}

impl Client {
    /// A client of `service` of a process in the cluster of these credentials. Does not connect. `connect`: how long making
    /// a connection may take, handshake included.
    pub fn new(
        credentials: &Credentials,
        service: &'static str,
        peer: Peer,
        connect: Duration,
    ) -> Result<Client, RemoteError> {
        let mut client = [0; 16];
        getrandom::fill(&mut client).map_err(RemoteError::Random)?;
        let node = Identity { cluster: credentials.identity().cluster, role: peer.role, name: peer.name };
        let target = Arc::new(Target {
            address: peer.address,
            tls: credentials.client(&node)?,
            node,
            hello: format!("/{service}/{HELLO}"),
            client,
            leads: Arc::default(),
            level: credentials.level().clone(),
            own: credentials.identity().clone(),
            versions: PROTOCOL,
            software: codec::level::SOFTWARE.to_owned(),
            connect,
            pause: PAUSE,
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
        });
        let lane = |number| Arc::new(link::Lane::new(number));
        Ok(Client { target, service, control: lane(0), bulk: lane(1), slow: lane(2) })
    }

    /// The process.
    pub fn identity(&self) -> &Identity {
        &self.target.node
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.target.address
    }

    /// Asks, and waits for the whole answer, of at most `limit` bytes, for at most `time`.
    ///
    /// # Errors
    /// There is no answer; the error says whether the call may have been carried out.
    pub async fn ask(
        &self,
        lane: Lane,
        name: &str,
        question: Bytes,
        limit: usize,
        time: Duration,
    ) -> Result<Bytes, CallError> {
        let len = question.len() as u64;
        self.exchange(lane, name, Some(len), stream::iter(pieces(question)), limit, time).await
    }

    /// Sends a stream of bytes, and waits for the answer. The stream ends the question properly only when it ends by itself:
    /// one that must not count is dropped with the future of this call.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn send(
        &self,
        lane: Lane,
        name: &str,
        question: impl Stream<Item = Bytes> + Send + 'static,
        limit: usize,
        time: Duration,
    ) -> Result<Bytes, CallError> {
        let cut = |bytes: Bytes| {
            let parts = (0..bytes.len()).step_by(PIECE);
            stream::iter(parts.map(move |start| {
                let end = start.saturating_add(PIECE).min(bytes.len());
                Piece::new(bytes.slice(start..end), false)
            }))
        };
        let end = stream::once(async { Piece::new(Bytes::new(), true) });
        self.exchange(lane, name, None, question.flat_map(cut).chain(end), limit, time).await
    }

    async fn exchange(
        &self,
        lane: Lane,
        name: &str,
        len: Option<u64>,
        question: impl Stream<Item = Piece> + Send + 'static,
        limit: usize,
        time: Duration,
    ) -> Result<Bytes, CallError> {
        let late = || ConnectError::Late { address: self.target.address.clone(), after: time };
        let lane = match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
            Lane::Slow => &self.slow,
        };
        let began = tokio::time::Instant::now();
        let linked = match lane.linked() {
            Some(link) => Ok(link),
            None => {
                // An attempt outlives the call that began it: where it takes longer than any call has, on a slow way or a busy
                // machine, there would never be a connection.
                let (lane, target) = (Arc::clone(lane), Arc::clone(&self.target));
                let linking = tokio::spawn(async move { lane.link(&target).await });
                timeout(time, linking).await.ok().and_then(Result::ok).unwrap_or_else(|| Err(late()))
            }
        };
        let link = linked.map_err(CallError::NotSent)?;
        let left = time.saturating_sub(began.elapsed());
        let path = format!("/{}/{name}", self.service);
        let answered = timeout(left, take(&link, &path, len, question, limit, left)).await;
        match answered {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => match error.of(&self.target, time) {
                refused @ ConnectError::Refused { .. } => Err(CallError::NotSent(refused)),
                error => Err(CallError::Unknown(error)),
            },
            Err(_) => Err(CallError::Unknown(late())),
        }
    }
}

async fn take(
    link: &Arc<Link>,
    path: &str,
    len: Option<u64>,
    question: impl Stream<Item = Piece> + Send + 'static,
    limit: usize,
    time: Duration,
) -> Result<Bytes, link::AskError> {
    let len = len.map(|len| (BYTES, len));
    let mut answer = link.exchange(path, len, question, time).await?;
    let mut assembly = Assembly::new(0, limit);
    while let Some(piece) = answer.message().await? {
        if let Some(fault) = &piece.fault {
            return Err(link::AskError::Fault(fault.kind));
        }
        assembly.add(piece)?;
    }
    assembly.end().ok_or(link::AskError::Early)
}
