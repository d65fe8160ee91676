//! Reading a manifest chunk for a walk over everything that is named.

use crate::index::{IndexError, Overlay};
use crate::keys::Domain;
use crate::lookup;
use crate::service::Shared;
use codec::frame::{Expect, decode as decode_frame};
use codec::id::{ChunkId, DomainId};
use codec::manifest::Manifest;
use std::collections::HashMap;

/// Why a manifest chunk was not read.
pub(in crate::keep) enum NodeError {
    Index(IndexError),
    Unreadable(String),
}

/// Reads a manifest chunk as a reader would: verified, decrypted, and with the id that was asked for.
pub(in crate::keep) async fn read_node(
    shared: &Shared,
    domains: &HashMap<DomainId, Domain>,
    id: ChunkId,
) -> Result<Manifest, NodeError> {
    let unreadable = NodeError::Unreadable;
    let locate = || match lookup::locate(&Overlay::new(&*shared.kv), &[id]) {
        Ok(mut found) => found.pop().flatten().ok_or_else(|| unreadable("its row went".to_owned())),
        // Its stripe has no row: lost, and the other rows are as good as before.
        Err(error @ IndexError::Damaged { .. }) => Err(unreadable(error.to_string())),
        Err(error) => Err(NodeError::Index(error)),
    };
    let mut located = locate()?;
    let frame = match shared.read_at(&located).await {
        Ok(frame) => frame,
        Err(reason) => {
            // It may have moved.
            let again = locate()?;
            if again.place == located.place {
                return Err(unreadable(reason));
            }
            located = again;
            shared.read_at(&located).await.map_err(unreadable)?
        }
    };
    let domain = domains.get(&located.domain);
    let domain = domain.ok_or_else(|| unreadable(format!("dedup domain {} is not known", located.domain)))?;
    let expect = Expect {
        id,
        domain: domain.id,
        plain_len: located.plain_len,
        chunk_key: &domain.chunk_key,
        data_key: domain.node_key.as_ref(),
    };
    let plain = decode_frame(&frame, &expect).map_err(|error| unreadable(error.to_string()))?;
    Manifest::parse(&plain).map_err(|error| unreadable(error.to_string()))
}
