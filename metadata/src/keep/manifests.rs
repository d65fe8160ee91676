//! Reads manifest chunks as a reader of the object would: verified, decrypted, and with the id that was asked for.

use crate::client::{FrameReadError, LookupError, MetadataClient};
use crate::lookup::Located;
use crate::service::Metadata;
use codec::frame::{Expect, FrameError};
use codec::id::{ChunkId, DomainId};
use codec::manifest::{Manifest, ManifestError};

/// Why what a manifest chunk lists is not known.
#[derive(Debug, thiserror::Error)]
pub enum ManifestReadError {
    /// The keys of its domain could not be looked up.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its frame can't be read now.
    #[error(transparent)]
    Read(#[from] FrameReadError),
    /// Its frame is not what it should be.
    #[error("chunk {0}: {1}")]
    Frame(ChunkId, FrameError),
    /// It is no manifest.
    #[error("chunk {0}: {1}")]
    Manifest(ChunkId, ManifestError),
}

/// Reads a manifest chunk of a dedup domain.
///
/// # Errors
/// What it lists can't be had.
pub async fn read_manifest(
    meta: &Metadata,
    domain: DomainId,
    located: &Located,
) -> Result<Manifest, ManifestReadError> {
    let id = located.id;
    let keys = meta.structure(domain)?;
    let frame = meta.read_frame(located).await?;
    let expect = Expect {
        id,
        domain,
        plain_len: located.plain_len,
        chunk_key: &keys.chunk_key,
        data_key: keys.node_key.as_ref(),
    };
    let plain = codec::frame::decode(&frame, &expect).map_err(|error| ManifestReadError::Frame(id, error))?;
    Manifest::parse(&plain).map_err(|error| ManifestReadError::Manifest(id, error))
}
