//! Raft's calls to the other metadata nodes.
//!
//! Invariants:
//! * A call names the number of the node that it is meant for, and one with another number refuses it: a node that lost its state
//!   comes back at the same address, and must not vote a second time or be counted for what it no longer has.
//! * Raft gives an append no longer than the pause between two heartbeats. One that takes longer is not sent again: it goes on, and
//!   whoever asks for the same entries waits for its answer. So a slow way or a slow disk makes replication slow, never endless.
//!   Heartbeats pass it, so that the follower does not call an election meanwhile.
//! * A snapshot is read and sent piece by piece, never a file in memory. One that breaks off is begun anew.

use super::message::VoteMessage;
use super::part::{
    Answer, AnswerKind, AppendHead, EntryList, FileHead, JoinQuestion, Part, PartKind, Refused, SnapshotHead,
    StandQuestion, VoteQuestion, data_parts,
};
use super::way::{Purpose, Way, WayError, Ways};
use super::{Peer, RaftTypes, SnapshotDir, part};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{LogId, OptionalSend, Snapshot, Vote};
use prost::Message;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long entries may be on their way, until they are synced there.
const APPEND: Duration = Duration::from_secs(60);
/// How long a snapshot may be on its way, until it is installed there.
const SNAPSHOT: Duration = Duration::from_secs(2 * 3600);
/// How long a node may take to make its stores.
const JOIN: Duration = Duration::from_secs(30);
/// How long Raft waits after a node could not be reached: a node that is back must get a heartbeat before it calls an election.
const PAUSE: Duration = Duration::from_millis(200);

/// What Raft calls the other metadata nodes by.
pub struct Network {
    ways: Arc<dyn Ways>,
}

impl Network {
    /// Calls take these ways.
    pub fn new(ways: Arc<dyn Ways>) -> Network {
        Network { ways }
    }
}

/// Asks the node at an address to take part, and returns its number. `token` is [`Keys::check_setting`] of the cluster's key: a node
/// with another key refuses.
///
/// [`Keys::check_setting`]: crate::keys::Keys::check_setting
pub async fn ask_to_join(ways: &dyn Ways, peer: &Peer, token: Bytes) -> Result<u64, WayError> {
    let parts = encoded(stream::iter([PartKind::Join(JoinQuestion { token }).into()]));
    match value(ways.to(peer, Purpose::Orders)?.ask(part::JOIN, parts, JOIN).await)? {
        AnswerKind::Joined(number) if number != 0 => Ok(number),
        _ => Err(unexpected()),
    }
}

/// Whether the node at an address is the one of this number and takes part. It is asked to stand by nobody's vote, which every node
/// refuses that is the one that is meant: nothing happens there.
pub async fn ask_if_there(ways: &dyn Ways, id: u64, peer: &Peer) -> Result<(), WayError> {
    let question = PartKind::Stand(StandQuestion { to: id, vote: Some(Vote::default().into()) });
    let parts = encoded(stream::iter([question.into()]));
    match value(ways.to(peer, Purpose::Orders)?.ask(part::STAND, parts, JOIN).await) {
        Err(WayError::Refused(Refused::OtherLeader)) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(unexpected()),
    }
}

impl RaftNetworkFactory<RaftTypes> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Link {
        Link { to: target, peer: peer.clone(), ways: Arc::clone(&self.ways), under_way: None }
    }
}

/// The calls to one node.
pub struct Link {
    to: u64,
    peer: Peer,
    ways: Arc<dyn Ways>,
    under_way: Option<UnderWay>,
}

/// Entries that were sent and have no answer yet.
struct UnderWay {
    vote: Vote<u64>,
    before: Option<LogId<u64>>,
    last: LogId<u64>,
    answer: JoinHandle<Result<AppendEntriesResponse<u64>, WayError>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

type Failed<E> = RPCError<u64, Peer, E>;

impl Link {
    fn way(&self, purpose: Purpose) -> Result<Arc<dyn Way>, WayError> {
        self.ways.to(&self.peer, purpose)
    }

    /// Sends entries, or goes on waiting for the answer if they are under way.
    fn send_entries(&mut self, rpc: &AppendEntriesRequest<RaftTypes>, last: LogId<u64>) -> Result<(), WayError> {
        let same = |sent: &UnderWay| sent.vote == rpc.vote && sent.before == rpc.prev_log_id && sent.last <= last;
        if self.under_way.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.under_way = None;
        let way = self.way(Purpose::Entries)?;
        let body: Bytes = EntryList::new(&rpc.entries).encode_to_vec().into();
        let head = PartKind::Append(append_head(self.to, rpc, body.len() as u64));
        let parts = stream::iter(std::iter::once(head.into()).chain(data_parts(body)));
        let answer = tokio::spawn(async move { appended(way.ask(part::APPEND, encoded(parts), APPEND).await) });
        self.under_way = Some(UnderWay { vote: rpc.vote, before: rpc.prev_log_id, last, answer });
        Ok(())
    }

    /// The answer to the entries that are under way.
    async fn answered(&mut self) -> Result<AppendEntriesResponse<u64>, WayError> {
        let Some(sent) = self.under_way.as_mut() else {
            return Err(WayError::Unreadable("nothing was sent".to_owned()));
        };
        let answer = (&mut sent.answer).await;
        let last = sent.last;
        self.under_way = None;
        match answer.map_err(|_| WayError::Unreadable("the call was given up".to_owned()))?? {
            AppendEntriesResponse::Success => Ok(AppendEntriesResponse::PartialSuccess(Some(last))),
            other => Ok(other),
        }
    }

    async fn heartbeat(
        &self,
        rpc: &AppendEntriesRequest<RaftTypes>,
        time: Duration,
    ) -> Result<AppendEntriesResponse<u64>, WayError> {
        let head = PartKind::Append(append_head(self.to, rpc, 0));
        let parts = encoded(stream::iter([head.into()]));
        appended(self.way(Purpose::Orders)?.ask(part::APPEND, parts, time).await)
    }

    async fn append(
        &mut self,
        rpc: AppendEntriesRequest<RaftTypes>,
        option: &RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, WayError> {
        let Some(last) = rpc.entries.last().map(|entry| entry.log_id) else {
            return self.heartbeat(&rpc, option.hard_ttl()).await;
        };
        self.send_entries(&rpc, last)?;
        match timeout(option.hard_ttl() / 2, self.answered()).await {
            Ok(Ok(AppendEntriesResponse::PartialSuccess(upto))) if upto == Some(last) => {
                Ok(AppendEntriesResponse::Success)
            }
            Ok(answered) => answered,
            Err(_) => match self.heartbeat(&rpc, option.hard_ttl() / 2).await? {
                // It follows, and what comes before the entries is there; they are still under way.
                AppendEntriesResponse::Success => Ok(AppendEntriesResponse::PartialSuccess(rpc.prev_log_id)),
                other => {
                    self.under_way = None;
                    Ok(other)
                }
            },
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote<u64>,
        snapshot: Snapshot<RaftTypes>,
    ) -> Result<SnapshotResponse<u64>, WayError> {
        let head = SnapshotHead::new(self.to, VoteMessage::from(vote), &snapshot.meta);
        let parts = snapshot_parts(head, *snapshot.snapshot);
        match value(self.way(Purpose::Snapshots)?.ask(part::SNAPSHOT, parts, SNAPSHOT).await)? {
            AnswerKind::Snapshot(vote) => Ok(SnapshotResponse::new(vote.into())),
            _ => Err(unexpected()),
        }
    }
}

pub(super) fn append_head(to: u64, rpc: &AppendEntriesRequest<RaftTypes>, len: u64) -> AppendHead {
    AppendHead {
        to,
        vote: Some(rpc.vote.into()),
        before: rpc.prev_log_id.map(Into::into),
        committed: rpc.leader_commit.map(Into::into),
        len,
    }
}

pub(super) fn unexpected() -> WayError {
    WayError::Unreadable("it answered another question".to_owned())
}

fn appended(answer: Result<Bytes, WayError>) -> Result<AppendEntriesResponse<u64>, WayError> {
    match value(answer)? {
        AnswerKind::Append(answer) => answer.value().ok_or_else(unexpected),
        _ => Err(unexpected()),
    }
}

/// What an answer says. One that this version can't read is none.
pub(crate) fn value(answer: Result<Bytes, WayError>) -> Result<AnswerKind, WayError> {
    match Answer::decode(answer?).ok().and_then(|answer| answer.kind) {
        Some(AnswerKind::Refused(refused)) => Err(WayError::Refused(Refused::from(refused))),
        Some(kind) => Ok(kind),
        None => Err(WayError::Unreadable("the answer can't be decoded".to_owned())),
    }
}

/// Parts as the pieces of a call.
pub(crate) fn encoded(parts: impl futures::Stream<Item = Part> + Send + 'static) -> BoxStream<'static, Bytes> {
    parts.map(|part| part.encode_to_vec().into()).boxed()
}

/// Reads the files of a snapshot one after the other, two pieces ahead of the way at most. Where one can't be read the parts end
/// early, and the other side takes nothing.
fn snapshot_parts(head: SnapshotHead, dir: SnapshotDir) -> BoxStream<'static, Bytes> {
    let (send, receive) = mpsc::channel(2);
    tokio::spawn(async move {
        if let Err(error) = read_snapshot(head, &dir, &send).await
            && !send.is_closed()
        {
            tracing::warn!(%error, path = %dir.path().display(), "a snapshot can't be read; it is sent anew");
        }
    });
    encoded(stream::unfold(receive, |mut receive| async { receive.recv().await.map(|part| (part, receive)) }))
}

async fn read_snapshot(head: SnapshotHead, dir: &SnapshotDir, send: &mpsc::Sender<Part>) -> io::Result<()> {
    put(send, PartKind::Snapshot(head)).await?;
    let mut files = tokio::fs::read_dir(dir.path()).await?;
    let mut count = 0_u32;
    while let Some(file) = files.next_entry().await? {
        let name = file.file_name().into_string().map_err(|_| io::Error::other("a file's name is no text"))?;
        read_file(&file.path(), name, send).await?;
        count += 1;
    }
    put(send, PartKind::End(count)).await
}

async fn put(send: &mpsc::Sender<Part>, kind: PartKind) -> io::Result<()> {
    send.send(kind.into()).await.map_err(|_| io::Error::other("nobody takes it any more"))
}

async fn read_file(path: &Path, name: String, send: &mpsc::Sender<Part>) -> io::Result<()> {
    let mut file = tokio::fs::File::open(path).await?;
    let len = file.metadata().await?.len();
    put(send, PartKind::File(FileHead { name, len })).await?;
    let mut hasher = blake3::Hasher::new();
    let mut left = len;
    while left > 0 {
        let want = left.min(part::PIECE as u64);
        let mut piece = BytesMut::with_capacity(want as usize);
        while (piece.len() as u64) < want {
            if (&mut file).take(want - piece.len() as u64).read_buf(&mut piece).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        hasher.update(&piece);
        left -= want;
        put(send, PartKind::Data(piece.freeze())).await?;
    }
    put(send, PartKind::FileEnd(Bytes::copy_from_slice(hasher.finalize().as_bytes()))).await
}

impl RaftNetwork<RaftTypes> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<RaftTypes>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed<RaftError<u64>>> {
        Ok(self.append(rpc, &option).await.map_err(|error| Unreachable::new(&error))?)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failed<RaftError<u64>>> {
        let asked = async {
            let parts = encoded(stream::iter([PartKind::Vote(VoteQuestion::new(self.to, &rpc)).into()]));
            match value(self.way(Purpose::Orders)?.ask(part::VOTE, parts, option.hard_ttl()).await)? {
                AnswerKind::Vote(answer) => answer.value().ok_or_else(unexpected),
                _ => Err(unexpected()),
            }
        };
        Ok(asked.await.map_err(|error| Unreachable::new(&error))?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<RaftTypes>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<RaftTypes, Fatal<u64>>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => Ok(sent.map_err(|error| Unreachable::new(&error))?),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}
