//! Content-defined chunk boundaries: FastCDC (Xia et al., 2020), from the crate `fastcdc` =5.0.0 at normalisation level 1.
//!
//! Boundaries decide what dedups against what was stored years ago, so they are part of the format: the crate's version is
//! pinned, and golden vectors in `testdata/` fail the build when a boundary moves.
//!
//! Invariants of [`Chunker`]:
//! * its chunks, concatenated, are the input; every chunk but the last is between `min` and `max` bytes long;
//! * the boundaries are those of FastCDC over the whole input at once, however the input was cut into pushes;
//! * a caller that takes all chunks after each push makes it hold less than `max` bytes plus that push.

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{self, Normalization};

/// Sizes that the chunker does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Out of order, odd, or beyond what a frame holds.
    #[error(
        "chunk sizes {min}/{avg}/{max} are not usable: even, 64 <= min <= avg <= max <= 4194304, avg >= 256, max >= 1024"
    )]
    Sizes {
        /// Smallest size in bytes.
        min: u32,
        /// Average size in bytes.
        avg: u32,
        /// Largest size in bytes.
        max: u32,
    },
}

/// Sizes of chunks in bytes. All even: the scan goes by pairs of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    min: u32,
    avg: u32,
    max: u32,
}

impl ChunkSizes {
    /// For documents: small, so that near-copies share most of their chunks. 16 / 64 / 256 KiB.
    pub const SMALL: ChunkSizes = ChunkSizes { min: 16 << 10, avg: 64 << 10, max: 256 << 10 };
    /// In between: several chunks an object still, since a stripe of two or three unequal frames has parity as long as the
    /// longest. 64 / 256 / 1024 KiB.
    pub const MEDIUM: ChunkSizes = ChunkSizes { min: 64 << 10, avg: 256 << 10, max: 1 << 20 };
    /// For large objects: fewer index entries per byte. 256 KiB / 1 MiB / 4 MiB.
    pub const LARGE: ChunkSizes = ChunkSizes { min: 256 << 10, avg: 1 << 20, max: 4 << 20 };
    /// Objects (or parts) of up to this many bytes are cut by [`Self::SMALL`].
    pub const SMALL_OBJECT: u64 = 1 << 20;
    /// Longer ones of up to this many bytes are cut by [`Self::MEDIUM`].
    pub const MEDIUM_OBJECT: u64 = 16 << 20;

    /// Checks the bounds of FastCDC and of a frame.
    pub fn new(min: u32, avg: u32, max: u32) -> Result<ChunkSizes, ChunkError> {
        let even = [min, avg, max].iter().all(|size| size.is_multiple_of(2));
        let bounds =
            min >= 64 && avg >= 256 && max >= 1024 && min <= 1 << 20 && max as usize <= crate::frame::MAX_CHUNK;
        match even && bounds && min <= avg && avg <= max {
            true => Ok(ChunkSizes { min, avg, max }),
            false => Err(ChunkError::Sizes { min, avg, max }),
        }
    }

    /// The sizes for an object, or a part, of `len` bytes. Part of the format, as boundaries are.
    pub fn for_object(len: u64) -> ChunkSizes {
        if len <= Self::SMALL_OBJECT {
            Self::SMALL
        } else if len <= Self::MEDIUM_OBJECT {
            Self::MEDIUM
        } else {
            Self::LARGE
        }
    }

    /// Every chunk but an input's last has at least this many bytes.
    pub fn min(self) -> u32 {
        self.min
    }

    /// What the normalisation aims at, in bytes.
    pub fn avg(self) -> u32 {
        self.avg
    }

    /// No chunk has more bytes.
    pub fn max(self) -> u32 {
        self.max
    }
}

/// Cuts a stream into chunks.
///
/// An iterator whose `None` means "push more": it yields only boundaries that no later byte can move. After the last push,
/// [`Self::finish`] yields the rest.
#[derive(Debug)]
pub struct Chunker {
    sizes: ChunkSizes,
    mask_s: u64,
    mask_l: u64,
    buffer: BytesMut,
    /// A chunk was handed out: this is a long stream, so room is made for it in one go.
    long: bool,
}

impl Chunker {
    /// A chunker at the start of its input.
    pub fn new(sizes: ChunkSizes) -> Chunker {
        let (mask_s, mask_l) = v2020::select_masks(sizes.avg as usize, Normalization::Level1);
        Chunker { sizes, mask_s, mask_l, buffer: BytesMut::new(), long: false }
    }

    /// Appends bytes of the input.
    pub fn push(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let (room, full) = (self.buffer.capacity() - self.buffer.len(), 2 * self.sizes.max as usize);
        if self.long && room < bytes.len() {
            // The chunks that were handed out may still hold the old allocation; a new one of twice `max` makes the copy
            // of what is left (less than `max`) happen once per `max` bytes of input at most.
            self.buffer.reserve(bytes.len().max(full.saturating_sub(self.buffer.len())));
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes held back because their boundary isn't certain yet.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The chunks of what is left, at the end of the input. None for an empty input.
    pub fn finish(mut self) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        while !self.buffer.is_empty() {
            chunks.push(self.cut());
        }
        chunks
    }

    fn cut(&mut self) -> Bytes {
        let ChunkSizes { min, avg, max } = self.sizes;
        let (min, avg, max) = (min as usize, avg as usize, max as usize);
        let (mask_s, mask_l) = (self.mask_s, self.mask_l);
        let (_, len) = v2020::cut(&self.buffer, min, avg, max, mask_s, mask_l, mask_s << 1, mask_l << 1);
        self.long = true;
        self.buffer.split_to(len).freeze()
    }
}

impl Iterator for Chunker {
    type Item = Bytes;

    /// Scans only when `max` bytes are there: then the boundary is certain, and no byte is scanned twice, however small the
    /// pushes are.
    fn next(&mut self) -> Option<Bytes> {
        (self.buffer.len() >= self.sizes.max as usize).then(|| self.cut())
    }
}
