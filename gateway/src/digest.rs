//! S3's digests: the MD5 behind the entity tag, and the x-amz-checksum-* algorithms, of streams and of multipart objects.
//!
//! CRC values are kept big endian, as S3 shows them (before base64).

use crate::engine::{Claim, Claims};
use crate::error::PutError;
use aws_lc_rs::digest as lc;
use bytes::Bytes;
use codec::effect::{Checksum, ChecksumAlgorithm, PartRow};
use crc_fast::CrcAlgorithm;
use md5::{Digest as _, Md5};

/// Length of a digest in bytes; `None` for something that is no algorithm.
pub fn digest_len(algorithm: ChecksumAlgorithm) -> Option<usize> {
    match algorithm {
        ChecksumAlgorithm::Unspecified => None,
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => Some(4),
        ChecksumAlgorithm::Crc64Nvme => Some(8),
        ChecksumAlgorithm::Sha1 => Some(20),
        ChecksumAlgorithm::Sha256 => Some(32),
    }
}

fn crc(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Unspecified | ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

/// Whether the checksum of a whole object follows from its parts' (S3: FULL_OBJECT is for CRCs only).
pub fn combines(algorithm: ChecksumAlgorithm) -> bool {
    crc(algorithm).is_some()
}

/// S3's default checksum type of a multipart upload: FULL_OBJECT for CRC-64/NVME, COMPOSITE for all others.
pub fn full_object_by_default(algorithm: ChecksumAlgorithm) -> bool {
    matches!(algorithm, ChecksumAlgorithm::Crc64Nvme | ChecksumAlgorithm::Unspecified)
}

/// The low `len` bytes, big endian.
fn big_endian(value: u64, len: usize) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes()[8 - len.min(8)..])
}

enum State {
    Crc(ChecksumAlgorithm, Box<crc_fast::Digest>),
    Hash(ChecksumAlgorithm, lc::Context),
}

impl State {
    fn new(algorithm: ChecksumAlgorithm) -> Option<State> {
        Some(match algorithm {
            ChecksumAlgorithm::Sha1 => State::Hash(algorithm, lc::Context::new(&lc::SHA1_FOR_LEGACY_USE_ONLY)),
            ChecksumAlgorithm::Sha256 => State::Hash(algorithm, lc::Context::new(&lc::SHA256)),
            other => State::Crc(other, Box::new(crc_fast::Digest::new(crc(other)?))),
        })
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            State::Crc(_, digest) => digest.update(bytes),
            State::Hash(_, context) => context.update(bytes),
        }
    }

    fn finish(self) -> (ChecksumAlgorithm, Bytes) {
        match self {
            State::Crc(algorithm, digest) => {
                (algorithm, big_endian(digest.finalize(), digest_len(algorithm).unwrap_or(8)))
            }
            State::Hash(algorithm, context) => (algorithm, Bytes::copy_from_slice(context.finish().as_ref())),
        }
    }
}

/// Digests of one body, computed as it streams by.
pub struct Digester {
    md5: Md5,
    states: Vec<State>,
}

/// The finished digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// MD5 of the plaintext.
    pub md5: [u8; 16],
    /// Each algorithm asked for, once, in the order asked for.
    pub checksums: Vec<(ChecksumAlgorithm, Bytes)>,
}

impl Digester {
    /// MD5, which the entity tag needs, and each of `algorithms` once.
    pub fn new(algorithms: impl IntoIterator<Item = ChecksumAlgorithm>) -> Digester {
        let mut wanted: Vec<ChecksumAlgorithm> = Vec::new();
        for algorithm in algorithms {
            if !wanted.contains(&algorithm) {
                wanted.push(algorithm);
            }
        }
        Digester { md5: Md5::new(), states: wanted.into_iter().filter_map(State::new).collect() }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        for state in &mut self.states {
            state.update(bytes);
        }
    }

    /// The digests of all bytes so far.
    pub fn finish(self) -> Digests {
        Digests { md5: self.md5.finalize().into(), checksums: self.states.into_iter().map(State::finish).collect() }
    }
}

impl Digests {
    /// The entity tag of a PUT or part: the MD5 in hex.
    pub fn etag(&self) -> String {
        hex::encode(self.md5)
    }

    /// Compares with what the client claimed, trailers included: to be called once the body has ended. Returns the
    /// checksums to keep.
    pub fn verify(&self, claims: Claims) -> Result<Vec<Checksum>, PutError> {
        if claims.md5.is_some_and(|md5| md5 != self.md5) {
            return Err(PutError::Md5Mismatch);
        }
        for (algorithm, claim) in claims.checksums {
            let claimed = match claim {
                Claim::Compute => continue,
                Claim::Value(value) => value,
                Claim::Trailer(read) => read().ok_or(PutError::TrailerMissing { algorithm })?,
            };
            if !self.checksums.iter().any(|(of, value)| *of == algorithm && *value == claimed) {
                return Err(PutError::ChecksumMismatch { algorithm });
            }
        }
        let kept = self.checksums.iter().map(|(algorithm, value)| Checksum {
            algorithm: *algorithm as i32,
            value: value.clone(),
            composite: false,
        });
        Ok(kept.collect())
    }
}

/// The algorithms that a body needs: those claimed, or CRC-64/NVME when the client named none.
pub fn wanted(claims: &Claims) -> Vec<ChecksumAlgorithm> {
    let named: Vec<_> = claims.checksums.iter().map(|(algorithm, _)| *algorithm).collect();
    if named.is_empty() { vec![ChecksumAlgorithm::Crc64Nvme] } else { named }
}

/// The entity tag of a multipart object: MD5 over the parts' MD5s, and their number. `None` when a part's tag is no MD5.
pub fn multipart_etag<'a>(part_etags: impl ExactSizeIterator<Item = &'a str>) -> Option<String> {
    let count = part_etags.len();
    let mut md5 = Md5::new();
    for etag in part_etags {
        let mut raw = [0; 16];
        hex::decode_to_slice(etag, &mut raw).ok()?;
        md5.update(raw);
    }
    Some(format!("{}-{count}", hex::encode(md5.finalize())))
}

/// The checksum of an object made of `parts`, in their order: of all bytes (`full_object`, CRCs only), or of the parts'
/// checksums. `None` when a part lacks this checksum.
pub fn multipart_checksum(algorithm: ChecksumAlgorithm, full_object: bool, parts: &[PartRow]) -> Option<Checksum> {
    let values = parts.iter().map(|part| {
        let content = part.content.as_ref()?;
        let found = content.checksums.iter().find(|c| c.algorithm == algorithm as i32 && !c.composite)?;
        Some((found.value.clone(), content.size))
    });
    let values: Vec<(Bytes, u64)> = values.collect::<Option<_>>()?;
    let value = if full_object { combine(algorithm, &values)? } else { composite(algorithm, &values)? };
    Some(Checksum { algorithm: algorithm as i32, value, composite: !full_object })
}

/// The CRC of the concatenation, from the parts' CRCs and lengths.
fn combine(algorithm: ChecksumAlgorithm, parts: &[(Bytes, u64)]) -> Option<Bytes> {
    let (crc, len) = (crc(algorithm)?, digest_len(algorithm)?);
    let mut whole = crc_fast::Digest::new(crc).finalize();
    for (value, size) in parts {
        let part = value.iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        // Combining with nothing is the identity; the library's matrix for zero bytes is not worth relying on.
        if *size > 0 {
            whole = crc_fast::checksum_combine(crc, whole, part, *size);
        }
    }
    Some(big_endian(whole, len))
}

/// The checksum over the parts' raw checksums.
fn composite(algorithm: ChecksumAlgorithm, parts: &[(Bytes, u64)]) -> Option<Bytes> {
    let mut state = State::new(algorithm)?;
    parts.iter().for_each(|(value, _)| state.update(value));
    Some(state.finish().1)
}

#[cfg(test)]
#[path = "digest_tests.rs"]
mod tests;
