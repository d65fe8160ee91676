//! One object: its manifest, its chunks, and what proves that they are the object's.
//!
//! With the key-encryption key every chunk is verified against its keyed id, as a GET does. Without it, nobody can compute
//! chunk ids: then each frame is verified by its own hashes and must carry the id that the manifest names, and the object as
//! a whole by its entity tag (MD5) and its checksums, which are those that the client sent or saw. So it is for an object that is not
//! encrypted where the key that is given does not open its domain's. Under a key of the key store
//! (SSE-KMS) the tag is random.

use super::chain::Chain;
use super::media::Media;
use super::namespace::Namespace;
use super::stripes::{Stripe, StripeError};
use bytes::Bytes;
use codec::compress::{DecompressError, decompress};
use codec::effect::{Checksum, ChecksumAlgorithm, ChunkRow, Content, Place};
use codec::frame::{Compression, Expect, FrameError, decode, verify_stored};
use codec::id::{ChunkId, DomainId, Epoch, Lsn, StripeId};
use codec::manifest::{MAX_DEPTH, Manifest, ManifestError};
use codec::stripe::StripeDescriptor;
use gateway::digest::{Digester, Digests, multipart_etag};
use metadata::index::IndexError;
use metadata::keys::{Domain, KeyError, Keys, Purpose};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write};

/// How far an object's bytes are proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// Every chunk by its keyed id, but the entity tag or a checksum that is stored with the object is another than that of its
    /// bytes.
    Differs,
    /// Every frame by its own hashes; nothing says that the object as a whole is what was put.
    Frames,
    /// Every frame, and the object's entity tag or a checksum of all its bytes. No key was given that opens its domain's.
    Digest,
    /// Every chunk by its keyed id.
    ChunkIds,
}

/// Why an object was not rescued.
#[derive(Debug, thiserror::Error)]
pub enum LostReason {
    /// A chunk's row.
    #[error("chunk {0} is not known: the entry that stored it is lost")]
    UnknownChunk(ChunkId),
    /// A chunk's bytes.
    #[error("chunk {id}: {error}")]
    Stripe {
        /// The chunk.
        id: ChunkId,
        /// Why.
        error: StripeError,
    },
    /// A frame that rides in the journal.
    #[error("chunk {id} is in journal entry {lsn}, which is not on these drives")]
    Journal {
        /// The chunk.
        id: ChunkId,
        /// The entry.
        lsn: Lsn,
    },
    /// A frame that is there and does not decode.
    #[error("chunk {id}: {error}")]
    Frame {
        /// The chunk.
        id: ChunkId,
        /// Why.
        error: FrameError,
    },
    /// A payload that does not decompress.
    #[error("chunk {id}: {error}")]
    Decompress {
        /// The chunk.
        id: ChunkId,
        /// Why.
        error: DecompressError,
    },
    /// Encrypted, and no key.
    #[error("it is encrypted, and no key was given (--key-file)")]
    KeyNeeded,
    /// Under SSE-C: nobody but its client can read its bytes.
    #[error("it is encrypted by a key that its client has (SSE-C), and was not read")]
    ClientsKey,
    /// Under a key of the key store that was destroyed, or whose entry is lost.
    #[error("it is encrypted by key {0} of the key store, which was destroyed or is not known")]
    KmsKey(String),
    /// A key that does not unwrap.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The dedup domain's row.
    #[error("dedup domain {0} is not known: the entry that made it is lost")]
    UnknownDomain(DomainId),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest does not cover the object.
    #[error("its manifest covers {covered} of {size} bytes")]
    Size {
        /// Bytes that the manifest's chunks have.
        covered: u64,
        /// Bytes of the object.
        size: u64,
    },
    /// Manifests inside manifests without end.
    #[error("its manifest is nested too deep")]
    Depth,
    /// All chunks verify, and they are not the object.
    #[error("its {0} is another than the one stored with it")]
    Digest(&'static str),
    /// A row.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The output directory.
    #[error("it could not be written: {0}")]
    Write(#[from] io::Error),
}

/// Reads objects.
pub struct Reader<'a> {
    media: &'a Media,
    chain: &'a Chain<'a>,
    names: &'a Namespace,
    keys: Option<&'a Keys>,
    domains: RefCell<HashMap<DomainId, Domain>>,
}

impl<'a> Reader<'a> {
    /// With the key-encryption key, if it is at hand.
    pub fn new(media: &'a Media, chain: &'a Chain<'a>, names: &'a Namespace, keys: Option<&'a Keys>) -> Reader<'a> {
        Reader { media, chain, names, keys, domains: RefCell::default() }
    }

    /// Writes an object's bytes to `out`. On an error what was written is worth nothing.
    pub fn copy(&self, content: &Content, out: &mut dyn Write) -> Result<Proof, LostReason> {
        let root = Manifest::parse(&content.manifest)?;
        if root.total_len() != content.size {
            return Err(LostReason::Size { covered: root.total_len(), size: content.size });
        }
        let domain = self.domain(content)?;
        let mut body = Body::new(content, out);
        self.walk(&root, domain.as_ref(), 0, &mut body)?;
        // Under a key of the key store the tag is no digest of anything.
        let is_digest = match &domain {
            Some(domain) => matches!(domain.purpose, Purpose::Plain | Purpose::Managed),
            None => !content.encrypted,
        };
        match (body.finish(content, is_digest), domain.is_some()) {
            (Ok(_), true) => Ok(Proof::ChunkIds),
            (Ok(true), false) => Ok(Proof::Digest),
            (Ok(false), false) => Ok(Proof::Frames),
            // Each chunk is the one that was stored: whatever is wrong with the digest, nobody has better bytes.
            (Err(LostReason::Digest(what)), true) => {
                tracing::warn!(what, "an object's chunks are what was stored, and its digest is another");
                Ok(Proof::Differs)
            }
            (Err(error), _) => Err(error),
        }
    }

    fn domain(&self, content: &Content) -> Result<Option<Domain>, LostReason> {
        let id = content.domain_id();
        if content.sealed.is_some() {
            return Err(LostReason::ClientsKey);
        }
        let Some(keys) = self.keys else {
            return if content.encrypted { Err(LostReason::KeyNeeded) } else { Ok(None) };
        };
        if let Some(known) = self.domains.borrow().get(&id) {
            return Ok(Some(known.clone()));
        }
        // An empty object has no chunks, and its domain may never have been made. What is not encrypted comes back as it does without
        // any key, where its domain's lies in a gap, or is under a key that is not here: a key must not make less of it.
        let Some(row) = self.names.domain(id)? else {
            let is_needed = content.encrypted && content.size > 0;
            return if is_needed { Err(LostReason::UnknownDomain(id)) } else { Ok(None) };
        };
        let mut domain = match keys.unwrap_domain(&row) {
            Ok(domain) => domain,
            Err(_) if !content.encrypted => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Purpose::Kms(key) = &domain.purpose {
            // Whatever its state is otherwise: whoever has the drives and the key-encryption key is let in by both.
            let known = self.names.kms_key(key)?.filter(|known| !known.wrapped.is_empty());
            let known = known.ok_or_else(|| LostReason::KmsKey(key.clone()))?;
            domain.data_key = Some(keys.unwrap_by_kms_key(&row, &known)?);
        }
        self.domains.borrow_mut().insert(id, domain.clone());
        Ok(Some(domain))
    }

    fn walk(
        &self,
        manifest: &Manifest,
        domain: Option<&Domain>,
        depth: usize,
        body: &mut Body<'_>,
    ) -> Result<(), LostReason> {
        if depth > MAX_DEPTH {
            return Err(LostReason::Depth);
        }
        for entry in manifest.entries() {
            let plain = self.chunk(entry.id, domain)?;
            if entry.leaf {
                if plain.len() as u64 != entry.len {
                    return Err(LostReason::Size { covered: plain.len() as u64, size: entry.len });
                }
                body.write(&plain)?;
                continue;
            }
            let node = Manifest::parse(&plain)?;
            if node.total_len() != entry.len {
                return Err(LostReason::Size { covered: node.total_len(), size: entry.len });
            }
            self.walk(&node, domain, depth + 1, body)?;
        }
        Ok(())
    }

    /// A chunk's plaintext, verified as far as the keys allow.
    fn chunk(&self, id: ChunkId, domain: Option<&Domain>) -> Result<Vec<u8>, LostReason> {
        let row = self.names.chunk(id)?.ok_or(LostReason::UnknownChunk(id))?;
        let place = row.place.unwrap_or_default();
        let decoded = |frame: &[u8]| decode_frame(frame, id, &row, domain);
        let frame = if place.lsn == 0 {
            self.stripe_frame(id, &place, &|f| decoded(f).is_ok())?
        } else {
            self.journal_frame(id, &place)?
        };
        decoded(&frame)
    }

    fn journal_frame(&self, id: ChunkId, place: &Place) -> Result<Bytes, LostReason> {
        let range = u64::from(place.offset)..u64::from(place.offset) + u64::from(place.len);
        self.chain.frame(Lsn(place.lsn), range).ok_or(LostReason::Journal { id, lsn: Lsn(place.lsn) })
    }

    fn stripe_frame(&self, id: ChunkId, place: &Place, good: &dyn Fn(&[u8]) -> bool) -> Result<Bytes, LostReason> {
        let lost = |error| LostReason::Stripe { id, error };
        let stripe = StripeId { epoch: Epoch(place.epoch), counter: place.counter };
        let shard = u8::try_from(place.shard).unwrap_or(u8::MAX);
        let end = place.offset.checked_add(place.len).ok_or_else(|| lost(StripeError::Range(stripe.to_string())))?;
        let mut last = StripeError::Unknown(stripe.to_string());
        for descriptor in self.descriptors(stripe)? {
            match Stripe::new(self.media, descriptor).read(shard, place.offset..end, good) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = error,
            }
        }
        Err(lost(last))
    }

    /// The stripe's descriptor as it was committed; if that is lost, each one that its shards carry.
    fn descriptors(&self, stripe: StripeId) -> Result<Vec<StripeDescriptor>, LostReason> {
        let committed = self.names.stripe(stripe)?;
        if let Some(descriptor) = committed {
            return Ok(vec![descriptor]);
        }
        let mut found: Vec<StripeDescriptor> = Vec::new();
        for piece in self.media.pieces(stripe) {
            if found.iter().all(|known| known.root() != piece.root) {
                found.extend(self.media.shard_header(piece).map(|header| header.descriptor));
            }
        }
        Ok(found)
    }
}

fn decode_frame(frame: &[u8], id: ChunkId, row: &ChunkRow, domain: Option<&Domain>) -> Result<Vec<u8>, LostReason> {
    let failed = |error| LostReason::Frame { id, error };
    if let Some(domain) = domain {
        let expect = Expect {
            id,
            domain: domain.id,
            plain_len: row.plain_len,
            chunk_key: &domain.chunk_key,
            data_key: if row.is_manifest { domain.node_key.as_ref() } else { domain.data_key.as_ref() },
        };
        return decode(frame, &expect).map_err(failed);
    }
    let header = verify_stored(frame).map_err(failed)?;
    let differs = [
        (header.id != id, "chunk id"),
        (header.domain.0 != row.domain, "dedup domain"),
        (header.plain_len != row.plain_len, "length"),
    ];
    if let Some((_, what)) = differs.iter().find(|(differs, _)| *differs) {
        return Err(failed(FrameError::Unexpected(what)));
    }
    if header.encrypted() {
        return Err(LostReason::KeyNeeded);
    }
    let stored = frame.get(header.header_len()..).unwrap_or_default();
    match header.compression {
        Compression::Raw => Ok(stored.to_vec()),
        Compression::Zstd => {
            decompress(stored, header.plain_len as usize).map_err(|error| LostReason::Decompress { id, error })
        }
    }
}

/// The object's bytes on their way out, and the digests that they must have.
struct Body<'a> {
    out: &'a mut dyn Write,
    whole: Digester,
    /// Digests of the part that is being written, for objects that came in parts.
    part: Digester,
    algorithms: Vec<ChecksumAlgorithm>,
    parts: Vec<Digests>,
    sizes: std::vec::IntoIter<u64>,
    /// Bytes of the current part that are still to come; `None` for objects that came in one piece.
    left: Option<u64>,
}

impl<'a> Body<'a> {
    fn new(content: &Content, out: &'a mut dyn Write) -> Body<'a> {
        let algorithms: Vec<_> = content.checksums.iter().map(Checksum::algorithm).collect();
        let mut sizes = content.part_sizes.clone().into_iter();
        let left = sizes.next();
        let digester = || Digester::new(algorithms.iter().copied());
        Body { out, whole: digester(), part: digester(), parts: Vec::new(), sizes, left, algorithms }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.whole.update(bytes);
        let mut rest = bytes;
        while let Some(left) = self.left {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(here);
            self.part.update(now);
            rest = later;
            if here as u64 == left {
                self.end_part();
                if rest.is_empty() {
                    break;
                }
            } else {
                self.left = Some(left - here as u64);
                break;
            }
        }
        self.out.write_all(bytes)
    }

    fn end_part(&mut self) {
        let next = Digester::new(self.algorithms.iter().copied());
        self.parts.push(std::mem::replace(&mut self.part, next).finish());
        self.left = self.sizes.next();
    }

    /// Compares with what was stored with the object; with its entity tag only if that `is_digest`. Whether something covered all of
    /// its bytes.
    fn finish(mut self, content: &Content, is_digest: bool) -> Result<bool, LostReason> {
        // The last part of nothing at all.
        while self.left == Some(0) {
            self.end_part();
        }
        let whole = std::mem::replace(&mut self.whole, Digester::new([])).finish();
        let mut matched = false;
        let etag = if content.part_sizes.is_empty() {
            // A copy of a multipart object has its tag, and no parts.
            (!content.etag.contains('-')).then(|| whole.etag())
        } else {
            let tags: Vec<String> = self.parts.iter().map(Digests::etag).collect();
            multipart_etag(tags.iter().map(String::as_str))
        };
        if let Some(etag) = etag.filter(|_| is_digest) {
            if etag != content.etag {
                return Err(LostReason::Digest("entity tag"));
            }
            matched = true;
        }
        for checksum in &content.checksums {
            let computed = if checksum.composite {
                self.composite(checksum.algorithm())
            } else {
                value(&whole, checksum.algorithm())
            };
            if let Some(computed) = computed {
                if computed != checksum.value {
                    return Err(LostReason::Digest("checksum"));
                }
                matched = true;
            }
        }
        Ok(matched)
    }

    fn composite(&self, algorithm: ChecksumAlgorithm) -> Option<Bytes> {
        let mut over = Digester::new([algorithm]);
        for part in &self.parts {
            over.update(&value(part, algorithm)?);
        }
        if self.parts.is_empty() { None } else { value(&over.finish(), algorithm) }
    }
}

fn value(digests: &Digests, algorithm: ChecksumAlgorithm) -> Option<Bytes> {
    digests.checksums.iter().find(|(of, _)| *of == algorithm).map(|(_, value)| value.clone())
}
