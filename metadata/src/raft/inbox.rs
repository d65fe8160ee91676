//! What answers the calls of the other metadata nodes' Rafts.
//!
//! Invariants:
//! * Only a call that names this node's number reaches its Raft, and only from the node whose number the vote in it names: who has
//!   that number says the membership, where it is known.
//! * Entries count when all of them have come; a snapshot when its end was seen, each file has the length and the BLAKE3 that
//!   it was sent with, and all are synced. What breaks off leaves nothing but a directory that is removed.
//! * Entries that are being received have bounded room together, and there is one snapshot at a time: the newer one ends the older,
//!   whose sender may be gone.

use super::message::VoteMessage;
use super::part::{
    AnswerKind, AppendAnswer, AppendHead, EntryList, FileHead, JoinQuestion, Part, PartKind, Refused, SnapshotHead,
    StandQuestion, VoteAnswer, VoteQuestion,
};
use super::{Machine, RaftTypes, SnapshotDir};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use codec::journal::MAX_ENTRY;
use futures::stream::{BoxStream, StreamExt};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::{Raft, Snapshot, Vote};
use prost::Message;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Bytes of entries that may be in the middle of being received: those of two leaders, since one may not know yet that it is none.
const ROOM: usize = 64 << 20;
/// The most that one append may carry, in bytes: an entry as long as any, and what goes with it.
const MAX_APPEND: u64 = (MAX_ENTRY + (16 << 20)) as u64;
/// Files of a snapshot; RocksDB has a few dozen for a small index, and some thousands for 10^9 objects.
const MAX_FILES: usize = 1 << 20;
/// Longest name of a file of a snapshot.
const MAX_NAME: usize = 128;

/// The pieces of a call, as they come. An error ends them.
pub type Pieces<'a> = BoxStream<'a, Result<Bytes, String>>;

/// Makes a node that waits one that takes part.
#[async_trait]
pub trait Joins: Send + Sync {
    /// The node was asked, by the member of this name, to take part in its cluster. Returns its number. `token` is what the member
    /// made with the cluster's key.
    async fn join(&self, by: &str, token: Bytes) -> Result<u64, Refused>;
}

/// Takes calls from the time that the process is reachable; there is a Raft behind it from [`Inbox::seat`] on.
pub struct Inbox {
    place: RwLock<Place>,
    joins: RwLock<Option<Arc<dyn Joins>>>,
    /// Room for entries, in KiB.
    room: Semaphore,
    /// Counts the snapshots that began to come.
    snapshots: watch::Sender<u64>,
    /// When a leader's entries or heartbeat were last taken.
    heard: Mutex<Option<Instant>>,
}

/// What there is behind the inbox.
#[derive(Default)]
enum Place {
    /// Nothing, until the node is added.
    #[default]
    Waits,
    /// Not known yet, or no more: the process starts, or ends.
    Between,
    Taken(Arc<Seat>),
}

struct Seat {
    number: u64,
    raft: Raft<RaftTypes>,
    machine: Machine,
}

impl Default for Inbox {
    fn default() -> Inbox {
        let room = Semaphore::new(ROOM / 1024);
        Inbox {
            place: RwLock::default(),
            joins: RwLock::default(),
            room,
            snapshots: watch::channel(0).0,
            heard: Mutex::default(),
        }
    }
}

impl Inbox {
    /// From now on calls for the node of this number go to its Raft.
    pub fn seat(&self, number: u64, raft: Raft<RaftTypes>, machine: Machine) {
        let seat = Arc::new(Seat { number, raft, machine });
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = Place::Taken(seat);
    }

    /// From now on the node has no Raft that could be asked: it starts, or ends. Not the same as waiting: whoever hears that a node
    /// waits takes its state for lost.
    pub fn unseat(&self) {
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = Place::Between;
    }

    /// From now on the node waits to be added.
    pub fn waits(&self) {
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = Place::Waits;
    }

    /// Who makes this node take part when a member asks it to.
    pub fn joined_by(&self, joins: Arc<dyn Joins>) {
        *self.joins.write().unwrap_or_else(PoisonError::into_inner) = Some(joins);
    }

    /// How long ago a leader was heard of; `None`: not since the start.
    pub fn heard(&self) -> Option<Duration> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    fn seated(&self) -> Result<Arc<Seat>, Refused> {
        match &*self.place.read().unwrap_or_else(PoisonError::into_inner) {
            Place::Taken(seat) => Ok(Arc::clone(seat)),
            Place::Waits => Err(Refused::Waiting),
            Place::Between => Err(between()),
        }
    }

    /// Answers a call of the metadata node of this name.
    pub async fn answer(&self, from: &str, pieces: Pieces<'_>) -> Bytes {
        let answer = match self.try_answer(from, pieces).await {
            Ok(kind) => kind.into(),
            Err(refused) => {
                tracing::debug!(from, %refused, "a call of Raft is refused");
                refused.answer()
            }
        };
        answer.encode_to_vec().into()
    }

    async fn try_answer(&self, from: &str, mut pieces: Pieces<'_>) -> Result<AnswerKind, Refused> {
        match next(&mut pieces).await? {
            Some(PartKind::Vote(question)) => self.vote(from, question).await,
            Some(PartKind::Append(head)) => self.append(from, head, pieces).await,
            Some(PartKind::Snapshot(head)) => self.snapshot(from, head, pieces).await,
            Some(PartKind::Stand(question)) => self.stand(from, question).await,
            Some(PartKind::Join(JoinQuestion { token })) => {
                let joins = self.joins.read().unwrap_or_else(PoisonError::into_inner).clone();
                let joins = joins.ok_or_else(between)?;
                joins.join(from, token).await.map(AnswerKind::Joined)
            }
            _ => Err(malformed("a call that does not begin with a question")),
        }
    }

    /// The Raft that is meant. `vote` names the sender.
    fn meant(&self, from: &str, to: u64, vote: Option<&VoteMessage>) -> Result<(Arc<Seat>, Vote<u64>), Refused> {
        let seat = self.seated()?;
        if seat.number != to {
            return Err(Refused::OtherNode(format!("it is {:016x}, and {to:016x} is meant", seat.number)));
        }
        let vote: Vote<u64> = vote.cloned().ok_or_else(|| malformed("no vote"))?.into();
        let sender = vote.leader_id.node_id;
        let metrics = seat.raft.metrics();
        let named = metrics.borrow().membership_config.membership().get_node(&sender).map(|peer| peer.name.clone());
        if let Some(named) = named.filter(|named| named != from) {
            return Err(Refused::OtherNode(format!("{sender:016x} is {named}, not {from}")));
        }
        Ok((seat, vote))
    }

    async fn vote(&self, from: &str, question: VoteQuestion) -> Result<AnswerKind, Refused> {
        let (seat, _) = self.meant(from, question.to, question.vote.as_ref())?;
        let request = question.value().ok_or_else(|| malformed("a vote"))?;
        let voted = seat.raft.vote(request).await.map_err(stopped)?;
        Ok(AnswerKind::Vote(VoteAnswer::new(&voted)))
    }

    /// For the leader that this node follows, and nobody else.
    async fn stand(&self, from: &str, question: StandQuestion) -> Result<AnswerKind, Refused> {
        let (seat, vote) = self.meant(from, question.to, question.vote.as_ref())?;
        let ours = seat.raft.metrics().borrow().vote;
        if ours != vote || !vote.committed {
            return Err(Refused::OtherLeader);
        }
        tracing::info!(from, "the leader ends, and has this node stand for election");
        seat.raft.trigger().elect().await.map_err(stopped)?;
        Ok(AnswerKind::Stands(vote.leader_id.term))
    }

    async fn append(&self, from: &str, head: AppendHead, mut pieces: Pieces<'_>) -> Result<AnswerKind, Refused> {
        let (seat, vote) = self.meant(from, head.to, head.vote.as_ref())?;
        if head.len > MAX_APPEND {
            return Err(malformed("more entries than fit"));
        }
        let kib = u32::try_from(head.len.div_ceil(1024)).unwrap_or(u32::MAX).min((ROOM / 1024) as u32);
        let _room = self.room.acquire_many(kib).await.map_err(|_| Refused::Waiting)?;
        let mut body = BytesMut::with_capacity(head.len as usize);
        while let Some(part) = next(&mut pieces).await? {
            let PartKind::Data(data) = part else { return Err(malformed("entries")) };
            if (body.len() + data.len()) as u64 > head.len {
                return Err(malformed("more entries than were announced"));
            }
            body.extend_from_slice(&data);
        }
        if body.len() as u64 != head.len {
            return Err(malformed("the entries ended early"));
        }
        let entries = EntryList::decode(body.freeze()).ok().and_then(EntryList::value);
        let request = AppendEntriesRequest {
            vote,
            prev_log_id: head.before.map(Into::into),
            entries: entries.ok_or_else(|| malformed("entries"))?,
            leader_commit: head.committed.map(Into::into),
        };
        let appended = seat.raft.append_entries(request).await.map_err(stopped)?;
        if !matches!(appended, AppendEntriesResponse::HigherVote(_)) {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        Ok(AnswerKind::Append(AppendAnswer::new(&appended)))
    }

    async fn snapshot(&self, from: &str, head: SnapshotHead, pieces: Pieces<'_>) -> Result<AnswerKind, Refused> {
        let (seat, vote) = self.meant(from, head.to, head.vote.as_ref())?;
        let ours = seat.raft.metrics().borrow().vote;
        if ours > vote {
            // Before gigabytes are taken for nothing.
            return Ok(AnswerKind::Snapshot(ours.into()));
        }
        let meta = head.meta().ok_or_else(|| malformed("a snapshot"))?;
        self.snapshots.send_modify(|count| *count += 1);
        let mut newer = self.snapshots.subscribe();
        let machine = seat.machine.clone();
        let made = tokio::task::spawn_blocking(move || machine.incoming()).await;
        let made = made.map_err(|error| Refused::Disk(error.to_string()))?;
        let dir = made.map_err(|error| Refused::Disk(error.to_string()))?;
        tracing::info!(from, upto = meta.last_log_id.map_or(0, |id| id.index), "a snapshot comes");
        tokio::select! {
            received = receive_files(&dir, pieces) => received?,
            _ = newer.changed() => return Err(Refused::Overtaken),
        }
        let snapshot = Snapshot { meta, snapshot: Box::new(dir) };
        let installed = seat.raft.install_full_snapshot(vote, snapshot).await;
        Ok(AnswerKind::Snapshot(installed.map_err(stopped)?.vote.into()))
    }
}

fn malformed(what: &str) -> Refused {
    Refused::Malformed(what.to_owned())
}

fn between() -> Refused {
    Refused::Stopped("it starts, or ends".to_owned())
}

fn stopped(error: impl std::fmt::Display) -> Refused {
    Refused::Stopped(error.to_string())
}

async fn next(pieces: &mut Pieces<'_>) -> Result<Option<PartKind>, Refused> {
    let Some(piece) = pieces.next().await else { return Ok(None) };
    let part = Part::decode(piece.map_err(Refused::Malformed)?).map_err(|_| malformed("a part can't be decoded"))?;
    part.kind.map(Some).ok_or_else(|| malformed("a part of a newer version"))
}

/// Writes the files of a snapshot as they come, synced, and returns when their end was seen.
async fn receive_files(dir: &SnapshotDir, mut pieces: Pieces<'_>) -> Result<(), Refused> {
    let mut names = BTreeSet::new();
    loop {
        match next(&mut pieces).await? {
            Some(PartKind::File(head)) => {
                if !is_name(&head.name) || names.len() >= MAX_FILES || !names.insert(head.name.clone()) {
                    return Err(malformed("the name of a file"));
                }
                receive_file(dir, head, &mut pieces).await?;
            }
            Some(PartKind::End(count)) if count as usize == names.len() => break,
            Some(_) => return Err(malformed("the files of a snapshot")),
            None => return Err(malformed("the snapshot ended early")),
        }
    }
    if next(&mut pieces).await?.is_some() {
        return Err(malformed("a snapshot goes on behind its end"));
    }
    let synced = async { tokio::fs::File::open(dir.path()).await?.sync_all().await };
    synced.await.map_err(disk)
}

/// A name of a file and nothing else: it comes from another machine, and becomes a path.
fn is_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(good) && name.bytes().any(|c| c != b'.')
}

fn disk(error: std::io::Error) -> Refused {
    Refused::Disk(error.to_string())
}

async fn receive_file(dir: &SnapshotDir, head: FileHead, pieces: &mut Pieces<'_>) -> Result<(), Refused> {
    let mut file = tokio::fs::File::create_new(dir.path().join(&head.name)).await.map_err(disk)?;
    let mut hasher = blake3::Hasher::new();
    let mut left = head.len;
    loop {
        match next(pieces).await? {
            Some(PartKind::Data(data)) => {
                left = left.checked_sub(data.len() as u64).ok_or_else(|| malformed("a file longer than announced"))?;
                hasher.update(&data);
                file.write_all(&data).await.map_err(disk)?;
            }
            Some(PartKind::FileEnd(hash)) if left == 0 && hash[..] == hasher.finalize().as_bytes()[..] => break,
            Some(_) => return Err(malformed("a file of a snapshot does not verify")),
            None => return Err(malformed("the snapshot ended early")),
        }
    }
    // Files that a store never changes are linked into the index, not copied: this is their only sync.
    file.sync_all().await.map_err(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_elsewhere_stays_in_its_directory() {
        for good in ["000012.sst", "CURRENT", "MANIFEST-000005", "OPTIONS-000007.x_y"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(MAX_NAME + 1);
        for bad in ["", ".", "..", "...", "a/b", "/etc/passwd", "..\\x", "a\0b", "ä", &long] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
