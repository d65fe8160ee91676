//! zstd, and the probe that saves the effort where nothing would be gained.
//!
//! Contexts are kept per thread: making one allocates and clears hundreds of kilobytes, which costs more than compressing
//! a small chunk.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

/// The highest level that is used; higher ones take much memory per thread for little gain on chunks of 4 MiB at most.
pub const MAX_LEVEL: i32 = 19;

/// Chunks up to this many bytes are compressed without a probe: the probe would look at most of them.
const PROBE_FROM: usize = 16 * 1024;
/// The probe takes [`PROBE_LEN`] bytes out of each run of this many.
const PROBE_EVERY: usize = 64 * 1024;
const PROBE_LEN: usize = 4 * 1024;

/// Why a chunk could not be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// Not a zstd frame, or one that inflates to more than it should.
    #[error("the compressed bytes are damaged or inflate to more than {0} bytes")]
    Malformed(usize),
    /// It inflates to less than it should.
    #[error("the compressed bytes inflate to {got} bytes instead of {want}")]
    Short {
        /// Bytes that came out.
        got: usize,
        /// Bytes that should have.
        want: usize,
    },
    /// zstd could not get memory.
    #[error("no memory for a zstd context")]
    Memory,
}

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses into `output`. `None` when the result does not fit, which is how "not smaller" is found without a buffer for
/// the worst case, or when zstd can't get memory: the chunk is then stored raw, which is always right.
///
/// `level` is clamped to 1..=[`MAX_LEVEL`].
pub fn compress_into(plain: &[u8], level: i32, output: &mut [u8]) -> Option<usize> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(Compressor::new(1).ok()?),
        };
        compressor.set_compression_level(level.clamp(1, MAX_LEVEL)).ok()?;
        compressor.compress_to_buffer(plain, output).ok()
    })
}

/// Decompresses to exactly `plain_len` bytes. Never allocates more, whatever the input claims.
pub fn decompress(stored: &[u8], plain_len: usize) -> Result<Vec<u8>, DecompressError> {
    let mut plain = vec![0; plain_len];
    let got = DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new().map_err(|_| DecompressError::Memory)?),
        };
        decompressor.decompress_to_buffer(stored, &mut plain[..]).map_err(|_| DecompressError::Malformed(plain_len))
    })?;
    match got == plain_len {
        true => Ok(plain),
        false => Err(DecompressError::Short { got, want: plain_len }),
    }
}

/// Whether compressing is worth trying: zstd at level 1 takes something off samples of 4 KiB from each 64 KiB.
///
/// Already compressed documents (PDF, DOCX, images) fail it at next to no cost. Only speed and size hang on the answer.
pub fn looks_compressible(plain: &[u8]) -> bool {
    if plain.len() <= PROBE_FROM {
        return true;
    }
    let samples: Vec<u8> = plain.chunks(PROBE_EVERY).flat_map(middle).copied().collect();
    // One part in 32 must go, or a header and a few runs in otherwise random bytes would pass.
    let mut scratch = vec![0; samples.len() - samples.len() / 32];
    compress_into(&samples, 1, &mut scratch).is_some()
}

/// The sample: out of the middle, because the first bytes of a file are often a header unlike the rest.
fn middle(run: &[u8]) -> &[u8] {
    let len = run.len().min(PROBE_LEN);
    let start = (run.len() - len) / 2;
    &run[start..start + len]
}
