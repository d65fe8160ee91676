//! Chunks to frames, and frames back to chunks to see that it worked (R4). All of this keeps a core busy.

use bytes::Bytes;
use codec::frame::{self, Compression, Expect, FrameError, FrameSpec};
use codec::id::ChunkId;
use metadata::keys::Domain;
use storage_node::sabotage::{Defect, Sabotage, SabotageSet};

/// A chunk to be encoded.
#[derive(Debug)]
pub(crate) struct Plain {
    /// Its id.
    pub(crate) id: ChunkId,
    /// Its bytes: at least one.
    pub(crate) bytes: Bytes,
    /// Decode its frame again in any case.
    pub(crate) verify: bool,
}

/// Why a chunk has no frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    /// Encoding or decoding again failed.
    #[error("chunk {id}: {error}")]
    Frame {
        /// The chunk.
        id: ChunkId,
        /// What failed.
        error: FrameError,
    },
    /// It would be stored in the clear where it is to be encrypted.
    #[error("there is no key at hand for chunk {0}, which is to be encrypted")]
    NoKey(ChunkId),
    /// The frame does not decode to the chunk: a bad core, bad memory, or a bug. Storing it would lose the chunk.
    #[error("the frame of chunk {0} does not decode to what it was made from")]
    Differs(ChunkId),
}

/// How frames are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// The zstd level.
    pub(crate) zstd: i32,
    /// The version of the frames. One that was raised since is no harm: every reader reads those before it.
    pub(crate) version: u8,
}

/// The frames of `chunks`, in order.
pub(crate) fn encode_all(
    domain: &Domain,
    how: How,
    chunks: &[Plain],
    sabotage: &SabotageSet,
) -> Result<Vec<Bytes>, EncodeError> {
    chunks.iter().map(|chunk| encode(domain, how, chunk, sabotage)).collect()
}

/// The frame of a chunk.
pub(crate) fn encode(domain: &Domain, how: How, chunk: &Plain, sabotage: &SabotageSet) -> Result<Bytes, EncodeError> {
    if !domain.seals() {
        return Err(EncodeError::NoKey(chunk.id));
    }
    let failed = |error| EncodeError::Frame { id: chunk.id, error };
    let spec = FrameSpec {
        version: how.version,
        domain: domain.id,
        id: chunk.id,
        level: how.zstd,
        data_key: domain.data_key.as_ref(),
    };
    let frame = match sabotage.has(Defect::WrongFrames) {
        true => frame::encode(&spec, &chunk.bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()),
        false => frame::encode(&spec, &chunk.bytes),
    };
    let frame = frame.map_err(failed)?;
    if !sabotage.is(Sabotage::FrameCheck) {
        check(domain, chunk, &frame)?;
    }
    Ok(frame.into())
}

/// R4. A raw frame is always compared, which costs nothing; any other one when it was picked.
fn check(domain: &Domain, chunk: &Plain, frame: &[u8]) -> Result<(), EncodeError> {
    let failed = |error| EncodeError::Frame { id: chunk.id, error };
    let header = frame::parse_header(frame).map_err(failed)?;
    let raw = header.compression == Compression::Raw && !header.encrypted();
    let same = if chunk.verify {
        let back = frame::decode(frame, &expect(domain, chunk.id, chunk.bytes.len() as u32)).map_err(failed)?;
        back == chunk.bytes
    } else if raw {
        header.id == chunk.id && frame.get(header.header_len()..).is_some_and(|payload| payload == chunk.bytes)
    } else {
        header.id == chunk.id && frame.len() == header.frame_len()
    };
    if same { Ok(()) } else { Err(EncodeError::Differs(chunk.id)) }
}

/// What the frame of a chunk must be.
pub(crate) fn expect(domain: &Domain, id: ChunkId, plain_len: u32) -> Expect<'_> {
    Expect { id, domain: domain.id, plain_len, chunk_key: &domain.chunk_key, data_key: domain.data_key.as_ref() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::frame::{ChunkKey, DataKey};
    use codec::id::DomainId;

    fn domain(encrypted: bool) -> Domain {
        let data_key = encrypted.then(|| DataKey::new([2; 32]));
        Domain::new(DomainId(7), String::new(), ChunkKey::new([1; 32]), data_key)
    }

    const HOW: How = How { zstd: 3, version: frame::VERSION };

    fn plain(domain: &Domain, bytes: Vec<u8>, verify: bool) -> Plain {
        Plain { id: frame::chunk_id(&domain.chunk_key, &bytes), bytes: bytes.into(), verify }
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn r4_a_frame_that_does_not_hold_its_chunk_is_not_stored() {
        let domain = domain(false);
        let chunk = plain(&domain, noise(5000), false);
        let mut frame = encode(&domain, HOW, &chunk, &SabotageSet::default()).unwrap().to_vec();
        let last = frame.len() - 1;
        frame[last] ^= 1;
        assert!(
            matches!(check(&domain, &chunk, &frame), Err(EncodeError::Differs(_))),
            "raw frames are always compared"
        );
        for (encrypted, bytes) in [(false, vec![0; 5000]), (true, noise(5000)), (true, vec![0; 5000])] {
            let domain = self::domain(encrypted);
            let chunk = plain(&domain, bytes, true);
            let mut frame = encode(&domain, HOW, &chunk, &SabotageSet::default()).unwrap().to_vec();
            let last = frame.len() - 1;
            frame[last] ^= 1;
            assert!(check(&domain, &chunk, &frame).is_err());
        }
    }

    /// RustFS GHSA-xrrf: encryption was asked for, and plaintext stored.
    #[test]
    fn nothing_is_stored_in_the_clear_where_a_key_is_lacking() {
        let domain = Domain { data_key: None, ..domain(true) };
        let chunk = plain(&domain, noise(5000), true);
        let refused = encode(&domain, HOW, &chunk, &SabotageSet::default());
        assert!(matches!(refused, Err(EncodeError::NoKey(_))));
    }

    #[test]
    fn r4_a_wrong_id_is_not_stored() {
        let domain = domain(false);
        let chunk = Plain { id: ChunkId([9; 32]), bytes: vec![1; 100].into(), verify: true };
        assert!(encode(&domain, HOW, &chunk, &SabotageSet::default()).is_err());
    }
}
