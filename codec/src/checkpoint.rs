//! Checkpoints: the rows of the index at one LSN, cut into pieces that travel in stripes of class Checkpoint.
//!
//! A checkpoint saves time and nothing else: a rebuild that finds none, or none that is whole, replays the ledger from its
//! beginning. So every doubt about a piece is an error here, and the reader takes another checkpoint. docs/FORMAT.md,
//! "Checkpoints", has the byte table.
//!
//! Invariants of a whole checkpoint: pieces `0..n` of one LSN and one entry hash, each once; only the last one says that it is
//! the last, and how many rows there are in all.

use bytes::{BufMut, Bytes};

use crate::compress::{compress_into, decompress};
use crate::id::Lsn;
use crate::read::{Reader, all_zero};

/// Rows are gathered until they take this many bytes.
pub const PIECE_TARGET: usize = 1 << 20;
/// The most that the rows of one piece take, decompressed: a piece begins a new row only below [`PIECE_TARGET`].
pub const MAX_PIECE: usize = 64 << 20;

const MAGIC: &[u8; 4] = b"STLK";
const VERSION: u8 = 1;
const LAST: u8 = 1;
const HEADER: usize = 80;
const TAIL: usize = 32;

/// Why bytes are no piece of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Fewer bytes than the header promises.
    #[error("the piece ends too early")]
    Short,
    /// Not a piece.
    #[error("this is no piece of a checkpoint")]
    Magic,
    /// Written by a newer version.
    #[error("checkpoint of unknown version {0}: written by a newer Stele")]
    Version(u8),
    /// The hash does not fit.
    #[error("the piece is damaged")]
    Hash,
    /// A field is out of range, or reserved bytes are not zero.
    #[error("the piece has an impossible field")]
    Field,
    /// The rows do not decompress, or do not add up.
    #[error("the piece's rows are malformed")]
    Rows,
    /// A row is longer than a piece may be.
    #[error("a row of {0} bytes does not fit a piece")]
    TooLong(usize),
}

/// A row: family number, key, value. The numbers are metadata's (docs/FORMAT.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The family's number.
    pub family: u8,
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
}

/// A piece, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The last entry that the rows reflect,
    pub lsn: Lsn,
    /// and its hash.
    pub hash: [u8; 32],
    /// 0 for the first piece.
    pub number: u32,
    /// For the last piece: the rows of the whole checkpoint.
    pub total_rows: Option<u64>,
    /// The rows, in the order of families and keys.
    pub rows: Vec<Row>,
}

/// Gathers rows into pieces.
#[derive(Debug)]
pub struct PieceWriter {
    lsn: Lsn,
    hash: [u8; 32],
    number: u32,
    plain: Vec<u8>,
    rows: u32,
    total: u64,
}

impl PieceWriter {
    /// A writer of the checkpoint at `lsn`, whose entry has `hash`.
    pub fn new(lsn: Lsn, hash: [u8; 32]) -> PieceWriter {
        PieceWriter { lsn, hash, number: 0, plain: Vec::new(), rows: 0, total: 0 }
    }

    /// Adds a row. Returns a piece when one is full.
    pub fn push(&mut self, family: u8, key: &[u8], value: &[u8]) -> Result<Option<Bytes>, CheckpointError> {
        let len = 9 + key.len() + value.len();
        if len > MAX_PIECE - PIECE_TARGET {
            return Err(CheckpointError::TooLong(len));
        }
        self.plain.put_u8(family);
        self.plain.put_u32_le(key.len() as u32);
        self.plain.put_u32_le(value.len() as u32);
        self.plain.put_slice(key);
        self.plain.put_slice(value);
        self.rows += 1;
        self.total += 1;
        Ok((self.plain.len() >= PIECE_TARGET).then(|| self.cut(false)))
    }

    /// The last piece.
    pub fn finish(mut self) -> Bytes {
        self.cut(true)
    }

    fn cut(&mut self, last: bool) -> Bytes {
        let mut stored = vec![0; self.plain.len()];
        // What does not become smaller is stored as it is: equal lengths say so.
        let stored = match compress_into(&self.plain, 0, &mut stored) {
            Some(len) if len < self.plain.len() => &stored[..len],
            _ => &self.plain[..],
        };
        let mut out = Vec::with_capacity(HEADER + stored.len() + TAIL);
        out.put_slice(MAGIC);
        out.put_u8(VERSION);
        out.put_u8(if last { LAST } else { 0 });
        out.put_u16_le(0);
        out.put_u64_le(self.lsn.0);
        out.put_slice(&self.hash);
        out.put_u32_le(self.number);
        out.put_u32_le(self.plain.len() as u32);
        out.put_u32_le(stored.len() as u32);
        out.put_u32_le(self.rows);
        out.put_u64_le(if last { self.total } else { 0 });
        out.put_u64_le(0);
        out.put_slice(stored);
        let hash = blake3::hash(&out);
        out.put_slice(hash.as_bytes());
        self.plain.clear();
        (self.number, self.rows) = (self.number + 1, 0);
        out.into()
    }
}

/// Parses the piece at the front of `bytes`, and returns it and what follows.
pub fn parse_piece(bytes: &Bytes) -> Result<(Piece, Bytes), CheckpointError> {
    let mut reader = Reader::new(bytes);
    let short = CheckpointError::Short;
    if reader.array::<4>().ok_or(short.clone())? != *MAGIC {
        return Err(CheckpointError::Magic);
    }
    let version = reader.u8().ok_or(short.clone())?;
    if version != VERSION {
        return Err(CheckpointError::Version(version));
    }
    let header = (|| {
        let (flags, reserved) = (reader.u8()?, reader.u16()?);
        let (lsn, hash, number) = (reader.u64()?, reader.array::<32>()?, reader.u32()?);
        let (plain_len, stored_len, rows) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let (total, tail) = (reader.u64()?, reader.array::<8>()?);
        let clean = flags & !LAST == 0 && reserved == 0 && all_zero(&tail);
        Some((flags & LAST != 0, clean, Lsn(lsn), hash, number, plain_len as usize, stored_len as usize, rows, total))
    })();
    let (last, clean, lsn, hash, number, plain_len, stored_len, rows, total) = header.ok_or(short.clone())?;
    if plain_len > MAX_PIECE || stored_len > plain_len {
        return Err(CheckpointError::Field);
    }
    let stored = reader.bytes(stored_len).ok_or(short.clone())?;
    let tail = reader.array::<32>().ok_or(short)?;
    if blake3::hash(&bytes[..HEADER + stored_len]) != tail {
        return Err(CheckpointError::Hash);
    }
    if !clean || (!last && total != 0) {
        return Err(CheckpointError::Field);
    }
    let plain = match stored_len == plain_len {
        true => bytes.slice(HEADER..HEADER + stored_len),
        false => decompress(stored, plain_len).map_err(|_| CheckpointError::Rows)?.into(),
    };
    let rows = parse_rows(&plain, rows)?;
    let piece = Piece { lsn, hash, number, total_rows: last.then_some(total), rows };
    Ok((piece, bytes.slice(HEADER + stored_len + TAIL..)))
}

fn parse_rows(plain: &Bytes, count: u32) -> Result<Vec<Row>, CheckpointError> {
    let mut rows = Vec::new();
    let mut reader = Reader::new(plain);
    while !reader.rest().is_empty() {
        let row = (|| {
            let (family, key, value) = (reader.u8()?, reader.u32()? as usize, reader.u32()? as usize);
            let (key, value) = (reader.bytes(key)?, reader.bytes(value)?);
            Some(Row { family, key: plain.slice_ref(key), value: plain.slice_ref(value) })
        })();
        rows.push(row.ok_or(CheckpointError::Rows)?);
    }
    if rows.len() as u64 == u64::from(count) { Ok(rows) } else { Err(CheckpointError::Rows) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(rows: &[(u8, Vec<u8>, Vec<u8>)]) -> Vec<Bytes> {
        let mut writer = PieceWriter::new(Lsn(7), [3; 32]);
        let mut out: Vec<Bytes> =
            rows.iter().filter_map(|(family, key, value)| writer.push(*family, key, value).unwrap()).collect();
        out.push(writer.finish());
        out
    }

    fn read(bytes: &Bytes) -> Result<Vec<Piece>, CheckpointError> {
        let (mut pieces, mut rest) = (Vec::new(), bytes.clone());
        while !rest.is_empty() {
            let (piece, after) = parse_piece(&rest)?;
            pieces.push(piece);
            rest = after;
        }
        Ok(pieces)
    }

    #[test]
    fn golden() {
        let rows = [(1, b"key".to_vec(), b"value".repeat(40)), (10, vec![0, 255], Vec::new())];
        crate::golden::check("checkpoint-v1.bin", &pieces(&rows).concat());
    }

    #[test]
    fn large_checkpoints_come_in_pieces() {
        let rows: Vec<_> = (0..300u32)
            .map(|n| (2, n.to_be_bytes().to_vec(), blake3::hash(&n.to_le_bytes()).as_bytes().repeat(400)))
            .collect();
        let pieces = pieces(&rows);
        assert!(pieces.len() > 3);
        let read = read(&pieces.concat().into()).unwrap();
        assert!(read.iter().zip(0..).all(|(piece, n)| piece.number == n && piece.lsn == Lsn(7)));
        assert!(read.iter().rev().skip(1).all(|piece| piece.total_rows.is_none()));
        assert_eq!(read.last().unwrap().total_rows, Some(300));
        let back: Vec<_> = read.into_iter().flat_map(|piece| piece.rows).collect();
        assert_eq!(back.len(), 300);
        assert!(back.iter().zip(&rows).all(|(a, b)| a.family == b.0 && a.key == b.1 && a.value == b.2));
    }

    #[test]
    fn a_row_that_fits_no_piece_is_refused() {
        let mut writer = PieceWriter::new(Lsn(1), [0; 32]);
        let refused = writer.push(1, b"k", &vec![0; MAX_PIECE]);
        assert!(matches!(refused, Err(CheckpointError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(rows in proptest::collection::vec((any::<u8>(), any::<Vec<u8>>(), any::<Vec<u8>>()), 0..40)) {
            let read = read(&pieces(&rows).concat().into()).unwrap();
            let back: Vec<_> = read.into_iter().flat_map(|p| p.rows).map(|r| (r.family, r.key.to_vec(), r.value.to_vec())).collect();
            prop_assert_eq!(back, rows);
        }

        #[test]
        fn every_flip_and_every_truncation_is_seen(at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
            let whole: Bytes = pieces(&[(1, b"key".to_vec(), vec![9; 500])]).concat().into();
            let mut bytes = whole.to_vec();
            bytes[at.index(whole.len())] ^= 1 << bit;
            prop_assert!(read(&bytes.into()).is_err());
            let short = whole.slice(..1 + cut.index(whole.len() - 1));
            prop_assert!(read(&short).is_err());
        }

        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            let _any = parse_piece(&bytes.clone().into());
            let mut dressed = b"STLK\x01".to_vec();
            dressed.extend(bytes);
            let _any = parse_piece(&dressed.into());
        }
    }
}
