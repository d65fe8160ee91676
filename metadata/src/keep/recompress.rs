//! Compressing frames better while they are rewritten anyway: an archive reads rarely and keeps for long.
//!
//! The new frame is decoded again, and its plaintext has the chunk's id, before it takes the place of the old one (R4); it does
//! so only if it is smaller. Encrypted frames stay as they are, and so does one that does not decode: moving it is as good as
//! leaving it, and what is wrong with it is for scrub to say.

use super::frames::Laid;
use crate::index::{self, IndexError};
use crate::keys::{Domain, Keys};
use codec::frame::{Expect, FrameSpec, decode, encode, verify_stored};
use codec::id::DomainId;
use std::collections::HashMap;
use std::sync::Arc;

/// Compresses frames again.
#[derive(Clone)]
pub(crate) struct Recompressor {
    level: i32,
    /// That of the frames.
    version: u8,
    domains: Arc<HashMap<DomainId, Domain>>,
}

impl Recompressor {
    /// One for a zstd level, which makes frames of a version; `None` for level 0.
    pub fn new(
        level: i32,
        version: u8,
        view: &dyn index::View,
        keys: &Keys,
    ) -> Result<Option<Recompressor>, IndexError> {
        if level <= 0 {
            return Ok(None);
        }
        let domains = Arc::new(keys.open_domains(&index::domains(view)?));
        Ok(Some(Recompressor { level, version, domains }))
    }

    /// The same frames, those that get smaller by it compressed anew, and the bytes that were saved. A thread that may take
    /// its time does it: high levels compress a few megabytes in a second.
    pub async fn all(&self, laid: Vec<Laid>) -> (Vec<Laid>, u64) {
        let (this, before) = (self.clone(), laid.clone());
        let work = move || {
            let mut saved = 0;
            let smaller = laid.into_iter().map(|laid| match this.smaller(&laid) {
                Some(frame) => {
                    saved += (laid.frame.len() - frame.len()) as u64;
                    Laid { frame: frame.into(), ..laid }
                }
                None => laid,
            });
            (smaller.collect(), saved)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or((before, 0))
    }

    fn smaller(&self, laid: &Laid) -> Option<Vec<u8>> {
        let header = verify_stored(&laid.frame).ok().filter(|header| !header.encrypted())?;
        let domain = self.domains.get(&header.domain)?;
        let expect = Expect {
            id: laid.id,
            domain: header.domain,
            plain_len: header.plain_len,
            chunk_key: &domain.chunk_key,
            data_key: None,
        };
        let plain = decode(&laid.frame, &expect).ok()?;
        let spec =
            FrameSpec { version: self.version, domain: header.domain, id: laid.id, level: self.level, data_key: None };
        let frame = encode(&spec, &plain).ok().filter(|frame| frame.len() < laid.frame.len())?;
        (decode(&frame, &expect).ok()? == plain).then_some(frame)
    }
}
