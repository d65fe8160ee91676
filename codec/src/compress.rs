//! zstd, and the probe that saves the effort where nothing would be gained.
//!
//! Contexts are kept per thread: making one allocates and clears hundreds of kilobytes, which doubles the time that a chunk
//! of 4 KiB takes (`benches/benches/codec.rs`; from 64 KiB on it hardly shows).

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, ResetDirective};

/// The highest level that is used; higher ones take much memory per thread for little gain on chunks of 4 MiB at most.
pub const MAX_LEVEL: i32 = 19;

/// The level where none is set.
pub const DEFAULT_LEVEL: i32 = 3;

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
/// `level` 0 means [`DEFAULT_LEVEL`]; others are clamped to 1..=[`MAX_LEVEL`].
pub fn compress_into(plain: &[u8], level: i32, output: &mut [u8]) -> Option<usize> {
    let level = if level == 0 { DEFAULT_LEVEL } else { level.clamp(1, MAX_LEVEL) };
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some(compressor) => compressor,
            None => slot.insert(Compressor::new(1).ok()?),
        };
        // A result that did not fit leaves the context in the middle of a frame, and setting anything then fails: without
        // the reset, one incompressible chunk would make this thread store everything after it raw.
        compressor.context_mut().reset(ResetDirective::SessionOnly).ok()?;
        compressor.set_parameter(CParameter::CompressionLevel(level)).ok()?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    /// zstd refuses new parameters after a result that did not fit. The first version set the level anew for each chunk and
    /// took the refusal for "does not get smaller": after one JPEG, a thread compressed nothing any more.
    #[test]
    fn a_chunk_that_does_not_fit_does_not_spoil_the_next() {
        let (text, mut output) = (b"the same words again ".repeat(1000), vec![0; 20_000]);
        for level in [1, 3, 19, 1] {
            assert_eq!(compress_into(&noise(20_000), level, &mut output), None);
            let len = compress_into(&text, level, &mut output).unwrap();
            assert!(len < 1000);
            assert_eq!(decompress(&output[..len], 10), Err(DecompressError::Malformed(10)));
            assert_eq!(decompress(&output[..len], text.len()).unwrap(), text);
        }
    }

    #[test]
    fn levels_take_effect_on_a_context_that_is_used_again() {
        let text: Vec<u8> =
            noise(40_000).iter().flat_map(|b| [b"stele", b"chunk", b"frame"][usize::from(b % 3)]).copied().collect();
        let mut output = vec![0; text.len()];
        let mut len = |level| compress_into(&text, level, &mut output).unwrap();
        let (fast, dense) = (len(1), len(19));
        assert!(dense < fast, "{dense} {fast}");
        assert_eq!((len(1), len(19)), (fast, dense));
    }

    #[test]
    fn the_probe_tells_documents_from_noise() {
        assert!(!looks_compressible(&noise(1 << 20)));
        assert!(!looks_compressible(&noise(17_000)));
        assert!(looks_compressible(&b"the same words again ".repeat(5000)));
        assert!(looks_compressible(&vec![0; 4 << 20]));
        // Short ones are tried without a probe.
        assert!(looks_compressible(&noise(1000)));
        // A header of text does not make a picture compressible.
        let picture = [b"<xml> header ".repeat(200), noise(300_000)].concat();
        assert!(!looks_compressible(&picture));
    }

    #[test]
    fn hostile_bytes_do_not_decompress() {
        let good = {
            let mut output = vec![0; 1000];
            let len = compress_into(&[7; 5000], 3, &mut output).unwrap();
            output[..len].to_vec()
        };
        for i in 0..good.len() {
            assert!(decompress(&good[..i], 5000).is_err(), "cut at {i}");
        }
        assert!(decompress(&[], 1).is_err());
        assert!(decompress(&noise(500), 5000).is_err());
        assert_eq!(decompress(&good, 5001), Err(DecompressError::Short { got: 5000, want: 5001 }));
    }
}
