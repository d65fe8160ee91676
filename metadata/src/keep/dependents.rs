//! What depends on a stripe: the report that an operator wants when one is beyond repair.
//!
//! There is no row that says which objects lie in a stripe: it would be written at every PUT, for a question that is hardly
//! ever asked. So this scans all chunks and all versions, reading rows only, and stops at a limit.

use crate::index::{self, CHUNKS, IndexError, OBJECTS, UPLOADS};
use codec::effect::{ChunkRow, Content, PartRow, UploadName, VersionName, VersionRow};
use codec::id::{ChunkId, StripeId};
use codec::manifest::Manifest;
use codec::stripe::StripeClass;
use std::collections::BTreeSet;
use storage_node::kv::{Direction, Kv};

/// What depends on a stripe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dependents {
    /// What the stripe holds; `None` when it has no row.
    pub class: Option<StripeClass>,
    /// Chunks whose frames lie in it.
    pub chunks: Vec<ChunkId>,
    /// Object versions whose manifest names one of them.
    pub versions: Vec<VersionName>,
    /// Parts of open uploads likewise: upload and number.
    pub parts: Vec<(UploadName, u32)>,
    /// There may be more: a limit was reached, or some of the chunks are listed by manifest chunks, which this does not read.
    pub more: bool,
}

/// Finds up to `limit` chunks of a stripe, and up to `limit` versions and parts that name them in their root manifest.
///
/// # Errors
/// The index failed. A row that does not decode is passed over; checking rows reports it.
pub fn dependents(kv: &dyn Kv, stripe: StripeId, limit: usize) -> Result<Dependents, IndexError> {
    let mut found = Dependents::default();
    let row = index::stripe(&index::Overlay::new(kv), stripe)?;
    found.class = row.and_then(|row| crate::lookup::descriptor(stripe, &row).ok()).map(|descriptor| descriptor.class);
    let mut nodes = false;
    let mut inside = BTreeSet::new();
    let mut scan = kv.scan(CHUNKS, &[], Direction::Forward)?;
    while let Some((key, value)) = scan.next()? {
        let Ok(chunk) = index::decode::<ChunkRow>(CHUNKS, &key, value) else { continue };
        nodes |= chunk.is_manifest;
        if chunk.place.and_then(|place| place.stripe()) != Some(stripe) {
            continue;
        }
        let Some(id) = chunk.chunk_id() else { continue };
        if inside.len() >= limit {
            found.more = true;
            break;
        }
        inside.insert(id);
    }
    drop(scan);
    found.chunks = inside.iter().copied().collect();
    // Whatever a manifest chunk lists is not seen here.
    found.more |= nodes && !inside.is_empty();
    if inside.is_empty() {
        return Ok(found);
    }
    let names = |content: Option<&Content>| {
        let manifest = content.and_then(|content| Manifest::parse(&content.manifest).ok());
        manifest.is_some_and(|manifest| manifest.entries().iter().any(|entry| inside.contains(&entry.id)))
    };
    let mut scan = kv.scan(OBJECTS, &[], Direction::Forward)?;
    while let Some((key, value)) = scan.next()? {
        let Ok(row) = index::decode::<VersionRow>(OBJECTS, &key, value) else { continue };
        if names(row.content.as_ref()) {
            if found.versions.len() >= limit {
                found.more = true;
                break;
            }
            found.versions.push(VersionName { bucket: row.bucket, key: row.key, seq: row.seq });
        }
    }
    drop(scan);
    let mut scan = kv.scan(UPLOADS, b"p", Direction::Forward)?;
    while let Some((key, value)) = scan.next()?.filter(|(key, _)| key.first() == Some(&b'p')) {
        let Ok(row) = index::decode::<PartRow>(UPLOADS, &key, value) else { continue };
        if let Some(upload) = row.upload.clone().filter(|_| names(row.content.as_ref())) {
            if found.parts.len() >= limit {
                found.more = true;
                break;
            }
            found.parts.push((upload, row.number));
        }
    }
    Ok(found)
}
