//! How bytes travel: protobuf messages in gRPC frames, long ones in pieces, each piece with a checksum.
//!
//! Every call but two is one message there and a stream of pieces back: the pieces are bytes of a shard or of an entry, or,
//! put together, one message. The two that carry a payload are a stream there, a head and then pieces, and one answer back.
//! So no message is longer than [`MESSAGE_LIMIT`], and neither side holds more of a stream than what it asked for.
//!
//! Invariants:
//! * Bytes count only when the piece that says that it is the last one was seen: a stream that ends early is no answer.
//! * Each piece read is verified against the checksum that was made where the bytes were verified against the medium. TLS
//!   keeps others from changing them; the checksum finds what the two processes' own memory does to them.

use super::fault::{Fault, FaultMessage};
use bytes::{Bytes, BytesMut};
use prost::Message;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use twox_hash::XxHash3_64;

/// Bytes of a piece.
pub(crate) const PIECE: usize = 1 << 20;

/// Longest message, in bytes: a piece and what goes with it.
pub(crate) const MESSAGE_LIMIT: usize = PIECE + (64 << 10);

/// Longest answer that is put together from pieces, in bytes: a journal scan of about 8 MiB whose last record may be as
/// large as a record can be, or 100,000 findings.
pub(crate) const ANSWER_LIMIT: usize = (1 << 30) + (64 << 20);

/// HTTP/2 window of one stream, in bytes: four pieces.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;

/// HTTP/2 window of one connection, in bytes: what a peer may have sent that nobody has taken yet.
pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;

/// Largest HTTP/2 frame: fewer, larger frames cost less per byte.
pub(crate) const FRAME: u32 = 1 << 20;

/// Bytes that a stream may hold ready to be sent.
pub(crate) const SEND_BUFFER: usize = 1 << 20;

/// Streams that one connection may have open; who wants more waits.
pub(crate) const STREAMS: u32 = 128;

/// Longest header list of a request or an answer, in bytes.
pub(crate) const HEADERS: u32 = 16 << 10;

/// A part of an answer.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Piece {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    /// XXH3-64 of the data.
    #[prost(fixed64, tag = "2")]
    pub check: u64,
    /// Nothing follows.
    #[prost(bool, tag = "3")]
    pub last: bool,
    /// Instead of data: the call failed, whatever was sent before.
    #[prost(message, optional, tag = "4")]
    pub fault: Option<FaultMessage>,
}

impl Piece {
    pub fn new(data: Bytes, last: bool) -> Piece {
        Piece { check: XxHash3_64::oneshot(&data), data, last, fault: None }
    }

    pub fn fault(fault: &Fault) -> Piece {
        Piece { last: true, fault: Some(fault.to_message()), ..Piece::default() }
    }
}

/// A part of an upload.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Upload {
    /// In the first message, and only there.
    #[prost(message, optional, tag = "1")]
    pub head: Option<UploadHead>,
    /// In all others.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
}

/// What an upload says before its bytes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UploadHead {
    #[prost(bytes = "bytes", tag = "1")]
    pub drive: Bytes,
    /// The record's header, in the layout of the medium; it carries the hash of the payload.
    #[prost(bytes = "bytes", tag = "2")]
    pub header: Bytes,
    /// Bytes that follow.
    #[prost(uint64, tag = "3")]
    pub len: u64,
    /// May use the reserve (R14).
    #[prost(bool, tag = "4")]
    pub reserve: bool,
    /// Rewrites stripes to get space back: may use a part of the reserve.
    #[prost(bool, tag = "5")]
    pub restripe: bool,
}

/// The answer to an upload.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Done {
    #[prost(message, optional, tag = "1")]
    pub fault: Option<FaultMessage>,
}

/// Cuts bytes into pieces; of none, one empty piece.
pub(crate) fn pieces(bytes: Bytes) -> impl Iterator<Item = Piece> + Send {
    let len = bytes.len();
    let starts = (0..len.max(1)).step_by(PIECE);
    starts.map(move |start| {
        let end = start.saturating_add(PIECE).min(len);
        Piece::new(bytes.slice(start..end), end == len)
    })
}

/// Why pieces are no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum PieceError {
    #[error("a piece does not verify: its bytes changed on the way")]
    Check,
    #[error("more bytes than were asked for")]
    TooLong,
    #[error("the answer goes on behind its end")]
    BehindEnd,
}

/// Puts pieces together, up to a limit.
pub(crate) struct Assembly {
    first: Bytes,
    rest: BytesMut,
    limit: usize,
    /// What the answer is expected to take, so that it is allocated once.
    expected: usize,
    ended: bool,
}

impl Assembly {
    /// `expected` and `limit` are bytes.
    pub fn new(expected: usize, limit: usize) -> Assembly {
        Assembly { first: Bytes::new(), rest: BytesMut::new(), limit, expected, ended: false }
    }

    pub fn add(&mut self, piece: Piece) -> Result<(), PieceError> {
        if self.ended {
            return Err(PieceError::BehindEnd);
        }
        if XxHash3_64::oneshot(&piece.data) != piece.check {
            return Err(PieceError::Check);
        }
        if self.len().saturating_add(piece.data.len()) > self.limit {
            return Err(PieceError::TooLong);
        }
        self.ended = piece.last;
        if self.len() == 0 {
            // Most answers are one piece: taken as it is, without a copy.
            self.first = piece.data;
            return Ok(());
        }
        if self.rest.is_empty() {
            self.rest.reserve(self.expected.min(self.limit));
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&piece.data);
        Ok(())
    }

    fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    /// The bytes, if the last piece was among those added.
    pub fn end(self) -> Option<Bytes> {
        let bytes = if self.rest.is_empty() { self.first } else { self.rest.freeze() };
        self.ended.then_some(bytes)
    }
}

/// The codec of tonic for messages that are sent as `E` and received as `D`.
pub(crate) struct Wire<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> Default for Wire<E, D> {
    fn default() -> Self {
        Wire(PhantomData)
    }
}

/// Each message is handed on by itself: collecting several would only hold back the first.
const BUFFERS: (usize, usize) = (1 << 10, 1);

impl<E: Message + 'static, D: Message + Default + 'static> Codec for Wire<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = WireEncoder<E>;
    type Decoder = WireDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        WireEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        WireDecoder(PhantomData)
    }
}

pub(crate) struct WireEncoder<E>(PhantomData<fn(E)>);

impl<E: Message> Encoder for WireEncoder<E> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // In one allocation, instead of growing to the length of a piece.
        dst.reserve(item.encoded_len());
        item.encode(dst).map_err(|_| Status::internal("no room for a message"))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFERS.0, BUFFERS.1)
    }
}

pub(crate) struct WireDecoder<D>(PhantomData<fn() -> D>);

impl<D: Message + Default> Decoder for WireDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        D::decode(src).map(Some).map_err(|_| Status::invalid_argument("a message can't be decoded"))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFERS.0, BUFFERS.1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_survive_being_cut_into_pieces() {
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 7] {
            let bytes: Bytes = (0..len).map(|i| (i * 7 + i / 251) as u8).collect::<Vec<_>>().into();
            let mut assembly = Assembly::new(len, len);
            pieces(bytes.clone()).for_each(|piece| assembly.add(piece).unwrap());
            assert_eq!(assembly.end(), Some(bytes));
        }
    }

    #[test]
    fn a_stream_that_ends_early_goes_on_or_changes_is_no_answer() {
        let all: Vec<Piece> = pieces(Bytes::from(vec![7; PIECE * 2 + 1])).collect();
        let mut early = Assembly::new(0, usize::MAX);
        all[..2].iter().for_each(|piece| early.add(piece.clone()).unwrap());
        assert_eq!(early.end(), None);
        let mut longer = Assembly::new(0, usize::MAX);
        all.iter().for_each(|piece| longer.add(piece.clone()).unwrap());
        assert_eq!(longer.add(Piece::new(Bytes::new(), true)), Err(PieceError::BehindEnd));
        let mut limited = Assembly::new(0, PIECE);
        limited.add(all[0].clone()).unwrap();
        assert_eq!(limited.add(all[1].clone()), Err(PieceError::TooLong));
        let mut changed = all[0].clone();
        changed.data = Bytes::from(vec![8; PIECE]);
        assert_eq!(Assembly::new(0, usize::MAX).add(changed), Err(PieceError::Check));
    }
}
