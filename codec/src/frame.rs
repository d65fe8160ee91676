//! A chunk as stored: compressed or raw, encrypted or not, behind a header that says which.
//!
//! The header and the stored payload have hashes of their own, so that a frame can be checked without any key
//! ([`verify_stored`]: sealing, restriping, rescue). What a reader gets is checked against the chunk id ([`decode`]); no
//! other check matters as much, and none replaces it. docs/FORMAT.md, "Frames", has the byte table.
//!
//! The order of the header's fields: magic and version first, so that any version can be told from noise and refused by
//! number; then what is needed to size the frame; then what it is; then the hashes over all before them.

use crate::compress::{self, DecompressError};
use crate::encrypt::{self, CipherError, FrameContext, RandomError, SALT_LEN, TAG_LEN};
pub use crate::encrypt::{ChunkKey, DataKey};
use crate::id::{ChunkId, DomainId};
use crate::read::Reader;

/// The most plaintext in one frame, in bytes.
pub const MAX_CHUNK: usize = 4 << 20;
/// The longest frame: a whole chunk that did not compress, encrypted.
pub const MAX_FRAME: usize = MAX_CHUNK + TAG_LEN + MAX_HEADER;
/// The first version of the format.
pub const FIRST_VERSION: u8 = 1;
/// The newest version of the format that this code reads. Which one is written is for the format level to say.
pub const VERSION: u8 = if cfg!(feature = "next-release") { 2 } else { FIRST_VERSION };
/// Bytes of the longest header of any version that this code reads.
pub const MAX_HEADER: usize = header_len(VERSION, true);

const MAGIC: &[u8; 4] = b"STLF";
/// Bytes of the header of the first version of a frame that is not encrypted.
const HEADER_PLAIN: usize = 80;
const PAYLOAD_HASH: usize = 16;
const HEADER_HASH: usize = 8;
/// What version 2, that of the build with the feature `next-release`, says besides: it stands in for a field of a release to come.
const MARK: [u8; 8] = *b"stelenxt";

/// Why a frame could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A chunk is 1 byte to [`MAX_CHUNK`] long.
    #[error("a chunk of {0} bytes: not between 1 and {MAX_CHUNK}")]
    ChunkLength(usize),
    /// Fewer bytes than the header or its lengths ask for, or more.
    #[error("the frame is {got} bytes long and should be {want}")]
    Length {
        /// Bytes given.
        got: usize,
        /// Bytes wanted.
        want: usize,
    },
    /// Not a frame.
    #[error("this is not a frame")]
    Magic,
    /// Written by a newer version.
    #[error("frame of unknown version {0}: written by a newer Stele")]
    Version(u8),
    /// The header's hash does not fit.
    #[error("the frame's header is damaged")]
    HeaderHash,
    /// A field has a value that no writer writes.
    #[error("the frame's header is not usable: {0}")]
    Field(&'static str),
    /// The payload's hash does not fit.
    #[error("the frame's payload is damaged")]
    PayloadHash,
    /// The frame is whole, but another one was wanted.
    #[error("the frame holds another chunk than the one asked for: {0} differs")]
    Unexpected(&'static str),
    /// The frame is encrypted and no data key was given.
    #[error("the frame is encrypted and its dedup domain has no data key")]
    KeyNeeded,
    /// A data key was given and the frame is plaintext: encryption was asked for and is not there.
    #[error("the frame is not encrypted although its dedup domain is")]
    NotEncrypted,
    /// See [`CipherError`].
    #[error("the frame can't be encrypted or decrypted: {0}")]
    Cipher(#[from] CipherError),
    /// See [`RandomError`].
    #[error(transparent)]
    Random(#[from] RandomError),
    /// See [`DecompressError`].
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// The plaintext is not what the chunk id names.
    #[error("the decoded bytes do not have the chunk id that was asked for")]
    ChunkId,
}

/// How a payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// Names a chunk: keyed BLAKE3-256 under the key of its dedup domain.
pub fn chunk_id(key: &ChunkKey, plain: &[u8]) -> ChunkId {
    ChunkId(*blake3::keyed_hash(key.expose(), plain).as_bytes())
}

/// How to store a chunk.
#[derive(Debug, Clone, Copy)]
pub struct FrameSpec<'a> {
    /// The version of the format, [`FIRST_VERSION`] to [`VERSION`].
    pub version: u8,
    /// Its dedup domain.
    pub domain: DomainId,
    /// Its id, as [`chunk_id`] gave it.
    pub id: ChunkId,
    /// The zstd level, 1 to [`compress::MAX_LEVEL`]; 0 means [`compress::DEFAULT_LEVEL`], less stores raw.
    pub level: i32,
    /// The data key of an encrypted domain.
    pub data_key: Option<&'a DataKey>,
}

/// What a reader knows about the chunk that it wants.
#[derive(Debug, Clone, Copy)]
pub struct Expect<'a> {
    /// Its id.
    pub id: ChunkId,
    /// Its dedup domain.
    pub domain: DomainId,
    /// Its length in bytes.
    pub plain_len: u32,
    /// The key of the domain's chunk ids.
    pub chunk_key: &'a ChunkKey,
    /// The data key of an encrypted domain.
    pub data_key: Option<&'a DataKey>,
}

/// A header whose hash and fields were checked. It vouches for nothing about the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHeader {
    /// The version of the format.
    pub version: u8,
    /// How the payload is compressed.
    pub compression: Compression,
    /// Plaintext bytes: 1 to [`MAX_CHUNK`].
    pub plain_len: u32,
    /// Payload bytes.
    pub stored_len: u32,
    /// The dedup domain.
    pub domain: DomainId,
    /// The chunk.
    pub id: ChunkId,
    /// The salt of an encrypted frame.
    pub salt: Option<[u8; SALT_LEN]>,
    /// The first 16 bytes of the BLAKE3 of the payload.
    pub payload_hash: [u8; PAYLOAD_HASH],
}

impl FrameHeader {
    /// Bytes of the header.
    pub fn header_len(&self) -> usize {
        header_len(self.version, self.salt.is_some())
    }

    /// Bytes of the frame: header and payload.
    pub fn frame_len(&self) -> usize {
        self.header_len() + self.stored_len as usize
    }

    /// Is the payload encrypted?
    pub fn encrypted(&self) -> bool {
        self.salt.is_some()
    }

    fn write(&self, out: &mut [u8]) {
        let mut header = Vec::with_capacity(MAX_HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&[self.version, self.compression as u8, u8::from(self.encrypted()), 0]);
        header.extend_from_slice(&self.plain_len.to_le_bytes());
        header.extend_from_slice(&self.stored_len.to_le_bytes());
        header.extend_from_slice(&self.domain.0.to_le_bytes());
        header.extend_from_slice(self.id.as_bytes());
        if let Some(salt) = &self.salt {
            header.extend_from_slice(salt);
        }
        if self.version > FIRST_VERSION {
            header.extend_from_slice(&MARK);
        }
        header.extend_from_slice(&self.payload_hash);
        header.extend_from_slice(&hash_prefix::<HEADER_HASH>(&header));
        out.copy_from_slice(&header);
    }

    /// The lengths that a writer can have written.
    fn check_lengths(&self) -> Result<(), FrameError> {
        let (plain, stored) = (self.plain_len as usize, self.stored_len as usize);
        if plain == 0 || plain > MAX_CHUNK {
            return Err(FrameError::Field("plain length"));
        }
        let tag = if self.encrypted() { TAG_LEN } else { 0 };
        let payload = stored.checked_sub(tag).ok_or(FrameError::Field("stored length"))?;
        let fits = match self.compression {
            Compression::Raw => payload == plain,
            Compression::Zstd => payload > 0 && payload < plain,
        };
        if fits { Ok(()) } else { Err(FrameError::Field("stored length")) }
    }
}

const fn header_len(version: u8, encrypted: bool) -> usize {
    let salt = if encrypted { SALT_LEN } else { 0 };
    let mark = if version > FIRST_VERSION { MARK.len() } else { 0 };
    HEADER_PLAIN + salt + mark
}

fn known(version: u8) -> Result<u8, FrameError> {
    if (FIRST_VERSION..=VERSION).contains(&version) { Ok(version) } else { Err(FrameError::Version(version)) }
}

fn hash_prefix<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..N]);
    out
}

/// Makes the frame of a chunk. What does not get smaller is stored raw.
pub fn encode(spec: &FrameSpec, plain: &[u8]) -> Result<Vec<u8>, FrameError> {
    let salt = spec.data_key.map(|_| encrypt::random_salt()).transpose()?;
    encode_salted(spec, plain, salt)
}

/// [`encode`] with a salt that must be fresh: one salt for two chunks would break their encryption. `salt` is there exactly
/// when the data key is.
fn encode_salted(spec: &FrameSpec, plain: &[u8], salt: Option<[u8; SALT_LEN]>) -> Result<Vec<u8>, FrameError> {
    if plain.is_empty() || plain.len() > MAX_CHUNK {
        return Err(FrameError::ChunkLength(plain.len()));
    }
    let version = known(spec.version)?;
    let start = header_len(version, salt.is_some());
    let (mut frame, compression) = place_payload(plain, spec.level, start);
    if let (Some(key), Some(salt)) = (spec.data_key, &salt) {
        let context = FrameContext { domain: spec.domain, id: spec.id, version };
        let tag = encrypt::seal_frame(key, salt, &context, &mut frame[start..])?;
        frame.extend_from_slice(&tag);
    }
    let (header, payload) = frame.split_at_mut(start);
    FrameHeader {
        version,
        compression,
        plain_len: plain.len() as u32,
        stored_len: payload.len() as u32,
        domain: spec.domain,
        id: spec.id,
        salt,
        payload_hash: hash_prefix(payload),
    }
    .write(header);
    Ok(frame)
}

/// A buffer with `start` bytes of room for the header and the payload after it.
fn place_payload(plain: &[u8], level: i32, start: usize) -> (Vec<u8>, Compression) {
    if level >= 0 && compress::looks_compressible(plain) {
        // Room for one byte less than the plaintext, so that whatever does not get smaller fails to fit.
        let mut frame = vec![0; start + plain.len() - 1];
        if let Some(len) = compress::compress_into(plain, level, &mut frame[start..]).filter(|len| *len > 0) {
            // A frame may be held for long (a journal entry, an open stripe): it must not pin what it does not use.
            frame.truncate(start + len);
            frame.reserve_exact(TAG_LEN);
            frame.shrink_to(start + len + TAG_LEN);
            return (frame, Compression::Zstd);
        }
    }
    let mut frame = Vec::with_capacity(start + plain.len() + TAG_LEN);
    frame.resize(start, 0);
    frame.extend_from_slice(plain);
    (frame, Compression::Raw)
}

/// Reads and checks the header at the start of `bytes`, which may be longer than it.
pub fn parse_header(bytes: &[u8]) -> Result<FrameHeader, FrameError> {
    let short = FrameError::Length { got: bytes.len(), want: HEADER_PLAIN };
    let mut reader = Reader::new(bytes);
    if reader.array().ok_or(short.clone())? != *MAGIC {
        return Err(FrameError::Magic);
    }
    let version = known(reader.u8().ok_or(short.clone())?)?;
    let [compression, encryption, flags] = reader.array().ok_or(short)?;
    let len = header_len(version, encryption == 1);
    let short = FrameError::Length { got: bytes.len(), want: len };
    let (hashed, hash) = bytes.get(..len).and_then(|h| h.split_at_checked(len - HEADER_HASH)).ok_or(short.clone())?;
    if hash_prefix::<HEADER_HASH>(hashed) != hash {
        return Err(FrameError::HeaderHash);
    }
    if encryption > 1 {
        return Err(FrameError::Field("encryption"));
    }
    if flags != 0 {
        return Err(FrameError::Field("flags"));
    }
    let header = read_fields(&mut reader, version, compression, encryption == 1)?.ok_or(short)?;
    header.check_lengths()?;
    Ok(header)
}

fn read_fields(
    reader: &mut Reader,
    version: u8,
    compression: u8,
    encrypted: bool,
) -> Result<Option<FrameHeader>, FrameError> {
    let compression = match compression {
        0 => Compression::Raw,
        1 => Compression::Zstd,
        _ => return Err(FrameError::Field("compression")),
    };
    let mut read = || {
        let mut header = FrameHeader {
            version,
            compression,
            plain_len: reader.u32()?,
            stored_len: reader.u32()?,
            domain: DomainId(reader.u64()?),
            id: ChunkId(reader.array()?),
            salt: if encrypted { Some(reader.array()?) } else { None },
            payload_hash: [0; PAYLOAD_HASH],
        };
        let mark = if version > FIRST_VERSION { reader.array()? } else { MARK };
        header.payload_hash = reader.array()?;
        Some((header, mark))
    };
    match read() {
        Some((_, mark)) if mark != MARK => Err(FrameError::Field("mark")),
        read => Ok(read.map(|(header, _)| header)),
    }
}

/// Checks everything that can be checked without keys: the header, the length, the payload's hash.
pub fn verify_stored(frame: &[u8]) -> Result<FrameHeader, FrameError> {
    let header = parse_header(frame)?;
    if frame.len() != header.frame_len() {
        return Err(FrameError::Length { got: frame.len(), want: header.frame_len() });
    }
    if hash_prefix::<PAYLOAD_HASH>(&frame[header.header_len()..]) != header.payload_hash {
        return Err(FrameError::PayloadHash);
    }
    Ok(header)
}

/// The chunk's plaintext, if and only if the frame is whole, is the one expected, and its plaintext has the expected id.
///
/// Allocates at most the stored and the plain length, both checked against [`MAX_CHUNK`] and the frame's own length.
pub fn decode(frame: &[u8], expect: &Expect) -> Result<Vec<u8>, FrameError> {
    let plain = open(frame, expect)?;
    match chunk_id(expect.chunk_key, &plain) == expect.id {
        true => Ok(plain),
        false => Err(FrameError::ChunkId),
    }
}

/// [`decode`] without the comparison with the chunk id: what a reader would get that trusts hashes made by the writer.
#[cfg(feature = "sabotage")]
pub fn decode_unchecked(frame: &[u8], expect: &Expect) -> Result<Vec<u8>, FrameError> {
    open(frame, expect)
}

/// The plaintext of a frame that is whole and says that it is the one expected.
fn open(frame: &[u8], expect: &Expect) -> Result<Vec<u8>, FrameError> {
    let header = verify_stored(frame)?;
    let differs = [
        (header.id != expect.id, "chunk id"),
        (header.domain != expect.domain, "dedup domain"),
        (header.plain_len != expect.plain_len, "length"),
    ];
    if let Some((_, what)) = differs.iter().find(|(differs, _)| *differs) {
        return Err(FrameError::Unexpected(what));
    }
    decode_payload(&header, &frame[header.header_len()..], expect.data_key)
}

fn decode_payload(header: &FrameHeader, stored: &[u8], key: Option<&DataKey>) -> Result<Vec<u8>, FrameError> {
    let plain_len = header.plain_len as usize;
    let opened = match (&header.salt, key) {
        (Some(salt), Some(key)) => {
            let context = FrameContext { domain: header.domain, id: header.id, version: header.version };
            Some(encrypt::open_frame(key, salt, &context, stored)?)
        }
        (None, None) => None,
        (Some(_), None) => return Err(FrameError::KeyNeeded),
        (None, Some(_)) => return Err(FrameError::NotEncrypted),
    };
    match (header.compression, opened) {
        (Compression::Raw, Some(plain)) => Ok(plain),
        (Compression::Raw, None) => Ok(stored.to_vec()),
        (Compression::Zstd, opened) => Ok(compress::decompress(opened.as_deref().unwrap_or(stored), plain_len)?),
    }
}

#[cfg(test)]
mod tests;
