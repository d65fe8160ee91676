//! Which objects depend on manifest chunks that can't be read: for the operator, who can bring their bytes back or delete them.

use super::{MarkError, Pages, Unread};
use crate::index::{self, OBJECTS, Overlay, View, decode};
use crate::service::Shared;
use codec::effect::VersionRow;
use codec::id::{BucketId, ChunkId};
use codec::manifest::Manifest;
use std::collections::HashMap;

/// Names the first object that names each of `unread` in the manifest of one of its versions. One that only another manifest
/// chunk lists stays without a name.
pub(super) async fn find(shared: &Shared, unread: &mut [Unread]) -> Result<(), MarkError> {
    let mut wanted: HashMap<ChunkId, &mut String> =
        unread.iter_mut().map(|unread| (unread.id, &mut unread.object)).collect();
    let mut pages = Pages::new(shared, OBJECTS, &[], &super::END);
    while !wanted.is_empty() {
        let rows = pages.next().await?;
        if rows.is_empty() {
            break;
        }
        for (key, value) in rows {
            let row: VersionRow = decode(OBJECTS, &key, value)?;
            let Some(manifest) = row.content.as_ref().and_then(|content| Manifest::parse(&content.manifest).ok())
            else {
                continue;
            };
            for entry in manifest.entries().iter().filter(|entry| !entry.leaf) {
                if let Some(object) = wanted.remove(&entry.id) {
                    *object = name(&Overlay::new(&*shared.kv), &row);
                }
            }
        }
    }
    Ok(())
}

fn name(view: &dyn View, row: &VersionRow) -> String {
    let bucket = index::bucket_by_id(view, BucketId(row.bucket)).ok().flatten();
    let bucket = bucket.map_or_else(|| row.bucket.to_string(), |bucket| bucket.name);
    match row.version_id.as_str() {
        "" => format!("{bucket}/{}", row.key),
        id => format!("{bucket}/{}?versionId={id}", row.key),
    }
}
