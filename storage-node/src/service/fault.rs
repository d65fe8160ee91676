//! The errors of the trait on the wire: each variant has a number of its own, and comes out as what went in.
//!
//! A number is never used for anything else. One that this version does not know is [`Fault::of_message`]'s `None`, which a
//! client takes for no answer at all: it must not guess.

use super::message::{drive_id, stripe_id};
use crate::client::{ReadError, WriteError};
use crate::keep::{Authority, RebuildError};
use bytes::Bytes;
use codec::id::{DriveId, Epoch, Lsn};
use prost::Message;

/// An error of one of the trait's methods.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Fault {
    Write(WriteError),
    Read(ReadError),
    Rebuild(RebuildError),
}

impl From<WriteError> for Fault {
    fn from(error: WriteError) -> Fault {
        Fault::Write(error)
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Fault {
        Fault::Read(error)
    }
}

impl From<RebuildError> for Fault {
    fn from(error: RebuildError) -> Fault {
        Fault::Rebuild(error)
    }
}

/// A [`Fault`] as a message. Which fields count depends on `kind`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FaultMessage {
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub drive: Bytes,
    #[prost(string, tag = "3")]
    pub text: String,
    #[prost(uint64, optional, tag = "4")]
    pub a: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub b: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub c: Option<u64>,
    #[prost(bytes = "bytes", tag = "7")]
    pub stripe: Bytes,
    #[prost(message, optional, boxed, tag = "8")]
    pub inner: Option<Box<FaultMessage>>,
    #[prost(message, repeated, tag = "9")]
    pub bad: Vec<BadSource>,
}

/// A source that did not give what it should have.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BadSource {
    #[prost(uint32, tag = "1")]
    pub index: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub drive: Bytes,
    #[prost(message, optional, tag = "3")]
    pub error: Option<FaultMessage>,
}

/// The reasons that a mistake of the caller may have; the trait wants them to live for ever. One that is not in this list,
/// from a newer node, comes out as [`OTHER_MISTAKE`].
const MISTAKES: &[&str] = &[
    "the header does not describe the payload",
    "the record header can't be encoded",
    "the payload is not what its header names",
    "the header can't be read",
    "the upload does not have the length that it names",
    "the stripe's epoch was never granted",
    "the descriptor is no descriptor",
    "no shard is wanted",
    "the stripe does not have such a shard",
    "a shard is wanted twice",
    "two shards of the stripe on one drive",
    "the targets are not on one node",
    OTHER_MISTAKE,
];

const OTHER_MISTAKE: &str = "refused by the node as malformed";

fn mistake(text: &str) -> &'static str {
    MISTAKES.iter().find(|known| **known == text).copied().unwrap_or_else(|| {
        tracing::warn!(text, "a node names a mistake that this version does not know");
        OTHER_MISTAKE
    })
}

/// Reasons are for people; what is longer than this is cut, so that an error fits into a message.
const MAX_TEXT: usize = 1024;

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

fn of_drive(kind: u32, drive: &DriveId) -> FaultMessage {
    FaultMessage { kind, drive: Bytes::copy_from_slice(drive.as_bytes()), ..FaultMessage::default() }
}

fn of_numbers(kind: u32, a: u64, b: u64, c: u64) -> FaultMessage {
    FaultMessage { kind, a: Some(a), b: Some(b), c: Some(c), ..FaultMessage::default() }
}

fn plain(kind: u32) -> FaultMessage {
    FaultMessage { kind, ..FaultMessage::default() }
}

fn text(message: FaultMessage, text: &str) -> FaultMessage {
    FaultMessage { text: cut(text), ..message }
}

impl Fault {
    pub fn to_message(&self) -> FaultMessage {
        match self {
            Fault::Write(error) => write_message(error),
            Fault::Read(error) => read_message(error),
            Fault::Rebuild(error) => rebuild_message(error),
        }
    }

    /// `None`: not of this version, or malformed.
    pub fn of_message(message: &FaultMessage) -> Option<Fault> {
        match message.kind {
            1..=99 => write_of(message).map(Fault::Write),
            100..=199 => read_of(message).map(Fault::Read),
            200..=299 => rebuild_of(message).map(Fault::Rebuild),
            _ => None,
        }
    }
}

fn write_message(error: &WriteError) -> FaultMessage {
    match error {
        WriteError::DriveFailed { drive, reason } => text(of_drive(1, drive), reason),
        WriteError::ReadOnly { drive, reason } => text(of_drive(2, drive), reason),
        WriteError::Full { drive } => of_drive(3, drive),
        WriteError::Fenced => plain(4),
        WriteError::UnknownDrive(drive) => of_drive(5, drive),
        WriteError::TooLarge { len, limit } => of_numbers(6, *len, *limit, 0),
        WriteError::OutOfOrder { expected, got } => {
            FaultMessage { a: expected.map(|lsn| lsn.0), b: Some(got.0), ..plain(7) }
        }
        WriteError::Malformed(reason) => text(plain(8), reason),
        WriteError::OldAuthority { drive, seen } => {
            FaultMessage { a: Some(seen.epoch.0), b: Some(seen.lsn.0), ..of_drive(9, drive) }
        }
        WriteError::NotFreeable(number) => of_numbers(10, *number, 0, 0),
        WriteError::Unreachable => plain(11),
        WriteError::WrongStripe => plain(12),
    }
}

fn write_of(message: &FaultMessage) -> Option<WriteError> {
    let drive = || drive_id(&message.drive);
    let reason = || message.text.clone();
    Some(match message.kind {
        1 => WriteError::DriveFailed { drive: drive()?, reason: reason() },
        2 => WriteError::ReadOnly { drive: drive()?, reason: reason() },
        3 => WriteError::Full { drive: drive()? },
        4 => WriteError::Fenced,
        5 => WriteError::UnknownDrive(drive()?),
        6 => WriteError::TooLarge { len: message.a?, limit: message.b? },
        7 => WriteError::OutOfOrder { expected: message.a.map(Lsn), got: Lsn(message.b?) },
        8 => WriteError::Malformed(mistake(&message.text)),
        9 => {
            let seen = Authority { epoch: Epoch(message.a?), lsn: Lsn(message.b?) };
            WriteError::OldAuthority { drive: drive()?, seen }
        }
        10 => WriteError::NotFreeable(message.a?),
        11 => WriteError::Unreachable,
        12 => WriteError::WrongStripe,
        _ => return None,
    })
}

fn read_message(error: &ReadError) -> FaultMessage {
    match error {
        ReadError::NotFound => plain(100),
        ReadError::OutOfRange { start, end, len } => of_numbers(101, (*start).into(), (*end).into(), *len),
        ReadError::Damaged { segment, block } => of_numbers(102, *segment, *block, 0),
        ReadError::WrongStripe => plain(103),
        ReadError::DriveFailed { drive, reason } => text(of_drive(104, drive), reason),
        ReadError::UnknownDrive(drive) => of_drive(105, drive),
        ReadError::Unreachable => plain(106),
        ReadError::Later(reason) => text(plain(107), reason),
    }
}

fn read_of(message: &FaultMessage) -> Option<ReadError> {
    let drive = || drive_id(&message.drive);
    Some(match message.kind {
        100 => ReadError::NotFound,
        101 => ReadError::OutOfRange {
            start: message.a?.try_into().ok()?,
            end: message.b?.try_into().ok()?,
            len: message.c?,
        },
        102 => ReadError::Damaged { segment: message.a?, block: message.b? },
        103 => ReadError::WrongStripe,
        104 => ReadError::DriveFailed { drive: drive()?, reason: message.text.clone() },
        105 => ReadError::UnknownDrive(drive()?),
        106 => ReadError::Unreachable,
        107 => ReadError::Later(message.text.clone()),
        _ => return None,
    })
}

fn rebuild_message(error: &RebuildError) -> FaultMessage {
    match error {
        RebuildError::TooFewSources { stripe, good, needed, bad } => FaultMessage {
            stripe: Bytes::copy_from_slice(&stripe.to_bytes()),
            a: Some(*good as u64),
            b: Some(*needed as u64),
            bad: bad.iter().map(bad_message).collect(),
            ..plain(200)
        },
        RebuildError::Target { index, drive, error } => {
            let inner = Some(Box::new(write_message(error)));
            FaultMessage { a: Some((*index).into()), inner, ..of_drive(201, drive) }
        }
        RebuildError::ReadBack { index, drive, error } => {
            let inner = error.as_ref().map(|error| Box::new(read_message(error)));
            FaultMessage { a: Some((*index).into()), inner, ..of_drive(202, drive) }
        }
        RebuildError::Inconsistent(stripe) => {
            FaultMessage { stripe: Bytes::copy_from_slice(&stripe.to_bytes()), ..plain(203) }
        }
        RebuildError::Malformed(reason) => text(plain(204), reason),
    }
}

fn bad_message((index, drive, error): &(u8, DriveId, ReadError)) -> BadSource {
    let drive = Bytes::copy_from_slice(drive.as_bytes());
    BadSource { index: (*index).into(), drive, error: Some(read_message(error)) }
}

fn bad_of(bad: &BadSource) -> Option<(u8, DriveId, ReadError)> {
    Some((bad.index.try_into().ok()?, drive_id(&bad.drive)?, read_of(bad.error.as_ref()?)?))
}

fn rebuild_of(message: &FaultMessage) -> Option<RebuildError> {
    let drive = || drive_id(&message.drive);
    let stripe = || stripe_id(&message.stripe);
    let index = || u8::try_from(message.a?).ok();
    Some(match message.kind {
        200 => RebuildError::TooFewSources {
            stripe: stripe()?,
            good: message.a?.try_into().ok()?,
            needed: message.b?.try_into().ok()?,
            bad: message.bad.iter().map(bad_of).collect::<Option<_>>()?,
        },
        201 => RebuildError::Target { index: index()?, drive: drive()?, error: write_of(message.inner.as_ref()?)? },
        202 => {
            let error = match &message.inner {
                Some(inner) => Some(read_of(inner)?),
                None => None,
            };
            RebuildError::ReadBack { index: index()?, drive: drive()?, error }
        }
        203 => RebuildError::Inconsistent(stripe()?),
        204 => RebuildError::Malformed(mistake(&message.text)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use codec::id::StripeId;

    const DRIVE: DriveId = DriveId([9; 16]);

    fn writes() -> Vec<WriteError> {
        vec![
            WriteError::DriveFailed { drive: DRIVE, reason: "gone".into() },
            WriteError::ReadOnly { drive: DRIVE, reason: "two strikes".into() },
            WriteError::Full { drive: DRIVE },
            WriteError::Fenced,
            WriteError::UnknownDrive(DRIVE),
            WriteError::TooLarge { len: u64::MAX, limit: 1 },
            WriteError::OutOfOrder { expected: None, got: Lsn(3) },
            WriteError::OutOfOrder { expected: Some(Lsn(0)), got: Lsn(3) },
            WriteError::Malformed("the header does not describe the payload"),
            WriteError::OldAuthority { drive: DRIVE, seen: Authority { epoch: Epoch(7), lsn: Lsn(8) } },
            WriteError::NotFreeable(5),
            WriteError::Unreachable,
            WriteError::WrongStripe,
        ]
    }

    fn reads() -> Vec<ReadError> {
        vec![
            ReadError::NotFound,
            ReadError::OutOfRange { start: 1, end: u32::MAX, len: 3 },
            ReadError::Damaged { segment: 1, block: 2 },
            ReadError::WrongStripe,
            ReadError::DriveFailed { drive: DRIVE, reason: "no answer".into() },
            ReadError::UnknownDrive(DRIVE),
            ReadError::Unreachable,
            ReadError::Later("effects of version 9".into()),
        ]
    }

    #[test]
    fn every_error_comes_out_as_it_went_in() {
        let stripe = StripeId { epoch: Epoch(4), counter: 5 };
        let bad = reads().into_iter().map(|error| (3, DRIVE, error)).collect();
        let mut rebuilds = vec![
            RebuildError::TooFewSources { stripe, good: 2, needed: 3, bad },
            RebuildError::Inconsistent(stripe),
            RebuildError::Malformed("no shard is wanted"),
            RebuildError::ReadBack { index: 4, drive: DRIVE, error: None },
        ];
        rebuilds.extend(writes().into_iter().map(|error| RebuildError::Target { index: 1, drive: DRIVE, error }));
        let back = |error| RebuildError::ReadBack { index: 1, drive: DRIVE, error: Some(error) };
        rebuilds.extend(reads().into_iter().map(back));
        let faults = writes().into_iter().map(Fault::Write).chain(reads().into_iter().map(Fault::Read));
        for fault in faults.chain(rebuilds.into_iter().map(Fault::Rebuild)) {
            let bytes = fault.to_message().encode_to_vec();
            assert_eq!(Fault::of_message(&FaultMessage::decode(&*bytes).unwrap()), Some(fault));
        }
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        for kind in [0, 13, 99, 108, 205, 1000] {
            assert_eq!(Fault::of_message(&plain(kind)), None);
        }
        assert_eq!(Fault::of_message(&plain(1)), None, "no drive");
        assert_eq!(Fault::of_message(&plain(102)), None, "no numbers");
        let unknown = text(plain(8), "a reason of tomorrow");
        assert_eq!(Fault::of_message(&unknown), Some(Fault::Write(WriteError::Malformed(OTHER_MISTAKE))));
    }

    #[test]
    fn the_mistakes_of_the_node_are_in_the_list() {
        let here = include_str!("upload.rs");
        for source in [include_str!("../write.rs"), include_str!("../lane.rs"), include_str!("../rebuild.rs"), here] {
            for call in ["Malformed(\"", "malformed(\""] {
                for (at, _) in source.match_indices(call) {
                    let said = source[at + call.len()..].split('"').next().unwrap();
                    assert!(MISTAKES.contains(&said), "{said}");
                }
            }
        }
    }
}
