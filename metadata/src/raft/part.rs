//! The calls between the Rafts of metadata nodes, as messages: each call is a stream of parts there and one answer back.
//!
//! A vote is one part. Entries are a head, which says how many bytes follow, and pieces of them: an entry may be longer than any
//! message. A snapshot is a head, and then file by file a name with a length, pieces, and the BLAKE3 of what was read; it counts
//! only when its end was seen.
//!
//! Field numbers are never used again for something else. What does not make a value is refused, never guessed (R17).

use super::message::{EntryMessage, LogIdMessage, MembershipMessage, VoteMessage};
use super::{Peer, RaftTypes};
use bytes::Bytes;
use openraft::raft::{AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{Entry, SnapshotMeta, StoredMembership};
use prost::{Message, Oneof};

/// Bytes of a piece: with what goes with it, it fits into a piece of the wire.
pub(crate) const PIECE: usize = (1 << 20) - (4 << 10);

/// The names of the calls, as logs show them; what is asked is said by the first part.
pub(crate) const CALLS: [&str; 5] = [VOTE, APPEND, SNAPSHOT, JOIN, STAND];
pub(crate) const VOTE: &str = "Vote";
pub(crate) const APPEND: &str = "Append";
pub(crate) const SNAPSHOT: &str = "Snapshot";
pub(crate) const JOIN: &str = "Join";
pub(crate) const STAND: &str = "Stand";

/// A part of a call.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Part {
    #[prost(oneof = "PartKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub kind: Option<PartKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum PartKind {
    /// A candidate asks for a vote.
    #[prost(message, tag = "1")]
    Vote(VoteQuestion),
    /// A leader's entries, or its heartbeat.
    #[prost(message, tag = "2")]
    Append(AppendHead),
    /// A leader's snapshot.
    #[prost(message, tag = "3")]
    Snapshot(SnapshotHead),
    /// The next file of it.
    #[prost(message, tag = "4")]
    File(FileHead),
    /// Bytes of what was announced.
    #[prost(bytes = "bytes", tag = "5")]
    Data(Bytes),
    /// The BLAKE3 of the file that ends.
    #[prost(bytes = "bytes", tag = "6")]
    FileEnd(Bytes),
    /// How many files there were.
    #[prost(uint32, tag = "7")]
    End(u32),
    /// A member asks a node to take part.
    #[prost(message, tag = "8")]
    Join(JoinQuestion),
    /// A leader that ends asks a node to stand for election.
    #[prost(message, tag = "9")]
    Stand(StandQuestion),
}

impl From<PartKind> for Part {
    fn from(kind: PartKind) -> Part {
        Part { kind: Some(kind) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoteQuestion {
    /// The number of the node that is meant, and in all heads: an address may have become another node's.
    #[prost(fixed64, tag = "1")]
    pub to: u64,
    #[prost(message, optional, tag = "2")]
    pub vote: Option<VoteMessage>,
    #[prost(message, optional, tag = "3")]
    pub last: Option<LogIdMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AppendHead {
    #[prost(fixed64, tag = "1")]
    pub to: u64,
    #[prost(message, optional, tag = "2")]
    pub vote: Option<VoteMessage>,
    #[prost(message, optional, tag = "3")]
    pub before: Option<LogIdMessage>,
    #[prost(message, optional, tag = "4")]
    pub committed: Option<LogIdMessage>,
    /// Bytes of [`EntryList`] that follow; none for a heartbeat.
    #[prost(uint64, tag = "5")]
    pub len: u64,
}

/// The entries of an append.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EntryList {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<EntryMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotHead {
    #[prost(fixed64, tag = "1")]
    pub to: u64,
    #[prost(message, optional, tag = "2")]
    pub vote: Option<VoteMessage>,
    #[prost(message, optional, tag = "3")]
    pub last: Option<LogIdMessage>,
    #[prost(message, optional, tag = "4")]
    pub members_at: Option<LogIdMessage>,
    #[prost(message, optional, tag = "5")]
    pub members: Option<MembershipMessage>,
    #[prost(string, tag = "6")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct FileHead {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub len: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct JoinQuestion {
    /// What only a node with the cluster's key can open: [`Keys::check_setting`](crate::keys::Keys::check_setting).
    #[prost(bytes = "bytes", tag = "1")]
    pub token: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StandQuestion {
    #[prost(fixed64, tag = "1")]
    pub to: u64,
    /// That of the leader.
    #[prost(message, optional, tag = "2")]
    pub vote: Option<VoteMessage>,
}

/// The answer to a call.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {
    #[prost(oneof = "AnswerKind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<AnswerKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum AnswerKind {
    #[prost(message, tag = "1")]
    Vote(VoteAnswer),
    #[prost(message, tag = "2")]
    Append(AppendAnswer),
    /// The vote of the node that took a snapshot, or did not because it follows a newer leader.
    #[prost(message, tag = "3")]
    Snapshot(VoteMessage),
    /// Nothing was done.
    #[prost(message, tag = "4")]
    Refused(RefusedAnswer),
    /// The number of the node that takes part now.
    #[prost(fixed64, tag = "5")]
    Joined(u64),
    /// The term that the node followed when it stood.
    #[prost(uint64, tag = "6")]
    Stands(u64),
}

impl From<AnswerKind> for Answer {
    fn from(kind: AnswerKind) -> Answer {
        Answer { kind: Some(kind) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoteAnswer {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<VoteMessage>,
    #[prost(bool, tag = "2")]
    pub granted: bool,
    #[prost(message, optional, tag = "3")]
    pub last: Option<LogIdMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AppendAnswer {
    /// 1 all, 2 up to `upto`, 3 not what came before it, 4 a newer leader: `vote`.
    #[prost(uint32, tag = "1")]
    pub outcome: u32,
    #[prost(message, optional, tag = "2")]
    pub upto: Option<LogIdMessage>,
    #[prost(message, optional, tag = "3")]
    pub vote: Option<VoteMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RefusedAnswer {
    /// As [`Refused::number`].
    #[prost(uint32, tag = "1")]
    pub why: u32,
    /// For people.
    #[prost(string, tag = "2")]
    pub text: String,
}

/// Why a metadata node does nothing with a call of Raft.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The one at this address has another number: it lost its state, or took the place of the one that is meant.
    #[error("it is not the node that is meant: {0}")]
    OtherNode(String),
    /// It takes part in no cluster of metadata nodes yet.
    #[error("it waits to be added")]
    Waiting,
    /// Its Raft has stopped: its log or index fails, or it ends.
    #[error("its Raft has stopped: {0}")]
    Stopped(String),
    /// It can't read the call, or what was sent does not verify.
    #[error("it can't use what it was sent: {0}")]
    Malformed(String),
    /// Its disk fails, or has no room.
    #[error("it can't keep what it was sent: {0}")]
    Disk(String),
    /// A newer snapshot takes the place of this one.
    #[error("another snapshot is on its way to it")]
    Overtaken,
    /// Its key-encryption key is not the cluster's.
    #[error("its key file is not the cluster's: {0}")]
    OtherKey(String),
    /// It takes part under this name and is not to be made anew.
    #[error("it can't take part: {0}")]
    Occupied(String),
    /// It follows another leader than the one that asks.
    #[error("it follows another leader")]
    OtherLeader,
    /// Of a newer version.
    #[error("it refuses for a reason that this version does not know: {0}")]
    Unknown(String),
}

impl Refused {
    fn number(&self) -> u32 {
        match self {
            Refused::Unknown(_) => 0,
            Refused::OtherNode(_) => 1,
            Refused::Waiting => 2,
            Refused::Stopped(_) => 3,
            Refused::Malformed(_) => 4,
            Refused::Disk(_) => 5,
            Refused::Overtaken => 6,
            Refused::OtherKey(_) => 7,
            Refused::Occupied(_) => 8,
            Refused::OtherLeader => 9,
        }
    }

    pub(crate) fn answer(&self) -> Answer {
        let text = match self {
            Refused::OtherNode(text)
            | Refused::Stopped(text)
            | Refused::Malformed(text)
            | Refused::Disk(text)
            | Refused::OtherKey(text)
            | Refused::Occupied(text)
            | Refused::Unknown(text) => text.chars().take(1024).collect(),
            Refused::Waiting | Refused::Overtaken | Refused::OtherLeader => String::new(),
        };
        AnswerKind::Refused(RefusedAnswer { why: self.number(), text }).into()
    }
}

impl From<RefusedAnswer> for Refused {
    fn from(answer: RefusedAnswer) -> Refused {
        let RefusedAnswer { why, text } = answer;
        match why {
            1 => Refused::OtherNode(text),
            2 => Refused::Waiting,
            3 => Refused::Stopped(text),
            4 => Refused::Malformed(text),
            5 => Refused::Disk(text),
            6 => Refused::Overtaken,
            7 => Refused::OtherKey(text),
            8 => Refused::Occupied(text),
            9 => Refused::OtherLeader,
            _ => Refused::Unknown(text),
        }
    }
}

impl VoteQuestion {
    pub fn new(to: u64, request: &VoteRequest<u64>) -> VoteQuestion {
        VoteQuestion { to, vote: Some(request.vote.into()), last: request.last_log_id.map(Into::into) }
    }

    pub fn value(self) -> Option<VoteRequest<u64>> {
        Some(VoteRequest { vote: self.vote?.into(), last_log_id: self.last.map(Into::into) })
    }
}

impl VoteAnswer {
    pub fn new(response: &VoteResponse<u64>) -> VoteAnswer {
        let last = response.last_log_id.map(Into::into);
        VoteAnswer { vote: Some(response.vote.into()), granted: response.vote_granted, last }
    }

    pub fn value(self) -> Option<VoteResponse<u64>> {
        let last_log_id = self.last.map(Into::into);
        Some(VoteResponse { vote: self.vote?.into(), vote_granted: self.granted, last_log_id })
    }
}

impl AppendAnswer {
    pub fn new(response: &AppendEntriesResponse<u64>) -> AppendAnswer {
        let (outcome, upto, vote) = match response {
            AppendEntriesResponse::Success => (1, None, None),
            AppendEntriesResponse::PartialSuccess(upto) => (2, upto.map(Into::into), None),
            AppendEntriesResponse::Conflict => (3, None, None),
            AppendEntriesResponse::HigherVote(vote) => (4, None, Some((*vote).into())),
        };
        AppendAnswer { outcome, upto, vote }
    }

    pub fn value(self) -> Option<AppendEntriesResponse<u64>> {
        Some(match self.outcome {
            1 => AppendEntriesResponse::Success,
            2 => AppendEntriesResponse::PartialSuccess(self.upto.map(Into::into)),
            3 => AppendEntriesResponse::Conflict,
            4 => AppendEntriesResponse::HigherVote(self.vote?.into()),
            _ => return None,
        })
    }
}

impl EntryList {
    pub fn new(entries: &[Entry<RaftTypes>]) -> EntryList {
        EntryList { entries: entries.iter().map(EntryMessage::from).collect() }
    }

    pub fn value(self) -> Option<Vec<Entry<RaftTypes>>> {
        self.entries.into_iter().map(EntryMessage::into_entry).collect()
    }
}

impl SnapshotHead {
    pub fn new(to: u64, vote: VoteMessage, meta: &SnapshotMeta<u64, Peer>) -> SnapshotHead {
        SnapshotHead {
            to,
            vote: Some(vote),
            last: meta.last_log_id.map(Into::into),
            members_at: meta.last_membership.log_id().map(Into::into),
            members: Some(meta.last_membership.membership().into()),
            id: meta.snapshot_id.clone(),
        }
    }

    pub fn meta(self) -> Option<SnapshotMeta<u64, Peer>> {
        let members = self.members?.into_membership()?;
        Some(SnapshotMeta {
            last_log_id: self.last.map(Into::into),
            last_membership: StoredMembership::new(self.members_at.map(Into::into), members),
            snapshot_id: self.id,
        })
    }
}

/// Cuts bytes into parts; of none, none.
pub(crate) fn data_parts(bytes: Bytes) -> impl Iterator<Item = Part> + Send {
    let len = bytes.len();
    (0..len).step_by(PIECE).map(move |start| {
        let end = start.saturating_add(PIECE).min(len);
        PartKind::Data(bytes.slice(start..end)).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_comes_out_as_it_went_in() {
        let text = || "why".to_owned();
        for refused in [
            Refused::OtherNode(text()),
            Refused::Waiting,
            Refused::Stopped(text()),
            Refused::Malformed(text()),
            Refused::Disk(text()),
            Refused::Overtaken,
            Refused::OtherKey(text()),
            Refused::Occupied(text()),
        ] {
            let bytes = refused.answer().encode_to_vec();
            let Some(AnswerKind::Refused(answer)) = Answer::decode(&*bytes).unwrap().kind else { panic!("{refused}") };
            assert_eq!(Refused::from(answer), refused);
        }
        let newer = RefusedAnswer { why: 99, text: text() };
        assert_eq!(Refused::from(newer), Refused::Unknown(text()));
    }
}
