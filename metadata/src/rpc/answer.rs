//! What a call came to: its own answer, or one of the errors of [`MetadataClient`](crate::client::MetadataClient).

use super::command::{refusal_message, refusal_of};
use super::message::pack_chunks;
use crate::client::{CommitError, FrameReadError, LookupError};
use crate::command::Refusal;
use crate::raft::Peer;
use crate::replica::NotLeading;
use bytes::Bytes;
use codec::id::ChunkId;
use prost::Message;

/// What every call is answered with.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {
    #[prost(oneof = "Said", tags = "1, 2, 3")]
    pub said: Option<Said>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Said {
    /// The call's own message.
    #[prost(bytes = "bytes", tag = "1")]
    Done(Bytes),
    /// This process does not lead: nothing was done.
    #[prost(message, tag = "2")]
    NotLeading(LeaderMessage),
    /// An error.
    #[prost(message, tag = "3")]
    Error(ErrorMessage),
}

/// Who leads; all empty where that is not known.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaderMessage {
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(string, tag = "2")]
    pub name: String,
}

/// An error of a call.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ErrorMessage {
    /// [`Kind`].
    #[prost(enumeration = "Kind", tag = "1")]
    pub kind: i32,
    /// For the operator, or what was asked for.
    #[prost(string, tag = "2")]
    pub reason: String,
    #[prost(message, optional, tag = "3")]
    pub refusal: Option<super::command::RefusalMessage>,
    #[prost(bytes = "bytes", tag = "4")]
    pub chunk: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Kind {
    /// Of a later version than this one: not done, as far as is known.
    Unspecified = 0,
    Refused = 1,
    ReadOnly = 2,
    Full = 3,
    Unavailable = 4,
    Damaged = 5,
    Unknown = 6,
    Unreachable = 7,
}

impl From<NotLeading> for Answer {
    fn from(error: NotLeading) -> Answer {
        let Peer { address, name } = error.leader.unwrap_or_default();
        Answer { said: Some(Said::NotLeading(LeaderMessage { address, name })) }
    }
}

impl Answer {
    pub fn done(message: &impl Message) -> Answer {
        Answer { said: Some(Said::Done(message.encode_to_vec().into())) }
    }

    pub fn error(error: impl Into<ErrorMessage>) -> Answer {
        Answer { said: Some(Said::Error(error.into())) }
    }
}

fn error(kind: Kind, reason: impl Into<String>) -> ErrorMessage {
    ErrorMessage { kind: kind.into(), reason: reason.into(), ..ErrorMessage::default() }
}

impl From<CommitError> for ErrorMessage {
    fn from(of: CommitError) -> ErrorMessage {
        match of {
            CommitError::Refused(refusal) => {
                let reason = refusal.to_string();
                ErrorMessage { refusal: refusal_message(&refusal), ..error(Kind::Refused, reason) }
            }
            CommitError::ReadOnly { reason } => error(Kind::ReadOnly, reason),
            CommitError::Full => error(Kind::Full, ""),
            CommitError::Unavailable { reason } => error(Kind::Unavailable, reason),
        }
    }
}

impl From<LookupError> for ErrorMessage {
    fn from(of: LookupError) -> ErrorMessage {
        match of {
            LookupError::Unavailable { reason } => error(Kind::Unavailable, reason),
            LookupError::Kms { key, fault } => CommitError::Refused(Refusal::Kms { key, fault }).into(),
            LookupError::Damaged { reason } => error(Kind::Damaged, reason),
            LookupError::Unknown { what } => error(Kind::Unknown, what),
        }
    }
}

impl From<FrameReadError> for ErrorMessage {
    fn from(of: FrameReadError) -> ErrorMessage {
        match of {
            FrameReadError::Unreachable { id, reason } => {
                ErrorMessage { chunk: pack_chunks([&id]), ..error(Kind::Unreachable, reason) }
            }
            FrameReadError::Unknown(id) => ErrorMessage { chunk: pack_chunks([&id]), ..error(Kind::Unknown, "") },
            FrameReadError::Lookup(of) => of.into(),
        }
    }
}

impl ErrorMessage {
    pub fn commit(self) -> CommitError {
        let reason = self.reason;
        match Kind::try_from(self.kind).unwrap_or(Kind::Unspecified) {
            // One of a later version is refused all the same; what it was only its words say.
            Kind::Refused => match self.refusal.as_ref().and_then(refusal_of) {
                Some(refusal) => CommitError::Refused(refusal),
                None => CommitError::Unavailable { reason },
            },
            Kind::ReadOnly => CommitError::ReadOnly { reason },
            Kind::Full => CommitError::Full,
            _ => CommitError::Unavailable { reason },
        }
    }

    pub fn lookup(self) -> LookupError {
        match Kind::try_from(self.kind).unwrap_or(Kind::Unspecified) {
            Kind::Refused => match self.refusal.as_ref().and_then(refusal_of) {
                Some(Refusal::Kms { key, fault }) => LookupError::Kms { key, fault },
                _ => LookupError::Unavailable { reason: self.reason },
            },
            Kind::Damaged => LookupError::Damaged { reason: self.reason },
            Kind::Unknown => LookupError::Unknown { what: self.reason },
            _ => LookupError::Unavailable { reason: self.reason },
        }
    }

    pub fn frame(self, asked: ChunkId) -> FrameReadError {
        match Kind::try_from(self.kind).unwrap_or(Kind::Unspecified) {
            Kind::Unreachable => FrameReadError::Unreachable { id: asked, reason: self.reason },
            Kind::Unknown if !self.chunk.is_empty() => FrameReadError::Unknown(asked),
            _ => FrameReadError::Lookup(self.lookup()),
        }
    }
}
