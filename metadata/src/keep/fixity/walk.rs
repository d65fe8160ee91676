//! From a version's manifest to its stripes and journal entries.

use super::judge::Outcome;
use super::stripes::{StripeFixity, Stripes};
use super::{FixityError, OBJECT_SHARDS, ObjectFixity};
use crate::client::{LookupError, MetadataClient};
use crate::index::{self, OBJECTS, Overlay, View};
use crate::keep::manifests::read_manifest;
use crate::lookup::Located;
use crate::service::Metadata;
use codec::effect::{Content, VersionRow};
use codec::id::{BucketId, ChunkId, Lsn, StripeId};
use codec::manifest::{MAX_DEPTH, Manifest};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;
use storage_node::stripe_io::StripeLayout;

/// Chunks that are looked up at a time.
const LOOKUP: usize = 256;
/// Stripes of one object that are asked about at a time: a large object has many thousand.
const ASK: usize = 512;
/// How often a version is looked at when what it names moves under the report.
const LOOKS: usize = 3;

/// Asks about the stripes of all these versions at once, as far as their root manifests name them. A hint: what fails here
/// fails again, and is told, when the version is judged. Nothing new is begun after `until`: verifying takes as long as it takes,
/// and the page is to end with what there is.
pub async fn prefetch(meta: &Metadata, rows: &[VersionRow], stripes: &mut Stripes<'_>, until: Instant) {
    let contents = rows.iter().filter_map(|row| row.content.as_ref());
    let manifests = contents.filter_map(|content| Manifest::parse(&content.manifest).ok());
    let ids: Vec<ChunkId> =
        manifests.flat_map(|m| m.entries().iter().map(|entry| entry.id).collect::<Vec<_>>()).collect();
    for some in ids.chunks(LOOKUP) {
        if Instant::now() >= until {
            return;
        }
        let Ok(located) = meta.locate(some).await else { return };
        let layouts: Vec<_> = located.into_iter().flatten().filter_map(|located| located.stripe).collect();
        let mut seen = HashSet::new();
        let layouts: Vec<_> = layouts.into_iter().filter(|layout| seen.insert(layout.descriptor.id)).collect();
        stripes.ask(&layouts).await;
    }
}

/// Judges a version; `None`: it is a delete marker, or gone.
pub async fn object<'a>(
    meta: &'a Metadata,
    mut version: VersionRow,
    stripes: &mut Stripes<'a>,
) -> Result<Option<ObjectFixity>, FixityError> {
    for look in 1.. {
        let Some(content) = version.content.clone().filter(|_| !version.delete_marker) else { return Ok(None) };
        let mut looking = Looking::new(meta, stripes);
        looking.walk(&content).await?;
        looking.entries().await;
        let Looking { mut object, suspects, astray, .. } = looking;
        object.sum.finish();
        let moved = stripes.forget_changed(&suspects) || astray;
        if !moved || look == LOOKS {
            object.version = version;
            if let Some(content) = &mut object.version.content {
                content.manifest = bytes::Bytes::new();
            }
            return Ok(Some(object));
        }
        let key = index::version_key(BucketId(version.bucket), &version.key, Lsn(version.seq));
        let view = Overlay::new(&**meta.kv());
        match view.row(OBJECTS, &key).and_then(|row| row.map(|row| index::decode(OBJECTS, &key, row)).transpose()) {
            Ok(Some(now)) => version = now,
            Ok(None) => return Ok(None),
            Err(error) => return Err(super::lookup(error).into()),
        }
    }
    Ok(None)
}

/// One look at a version.
struct Looking<'l, 'a> {
    meta: &'a Metadata,
    stripes: &'l mut Stripes<'a>,
    object: ObjectFixity,
    seen: HashSet<StripeId>,
    waiting: Vec<Arc<StripeLayout>>,
    entries: BTreeSet<Lsn>,
    suspects: Vec<StripeId>,
    /// A row named what is not there (any more).
    astray: bool,
}

impl<'l, 'a> Looking<'l, 'a> {
    fn new(meta: &'a Metadata, stripes: &'l mut Stripes<'a>) -> Looking<'l, 'a> {
        Looking {
            meta,
            stripes,
            object: ObjectFixity::default(),
            seen: HashSet::new(),
            waiting: Vec::new(),
            entries: BTreeSet::new(),
            suspects: Vec::new(),
            astray: false,
        }
    }

    /// Something that is needed to judge the object can't be had.
    fn unknown(&mut self, detail: String) {
        self.object.sum.outcome = self.object.sum.outcome.max(Outcome::Unknown);
        if self.object.detail.is_empty() {
            self.object.detail = detail;
        }
    }

    async fn walk(&mut self, content: &Content) -> Result<(), FixityError> {
        let mut manifests = match Manifest::parse(&content.manifest) {
            Ok(root) => vec![(root, 0)],
            Err(error) => {
                self.unknown(format!("the manifest: {error}"));
                return Ok(());
            }
        };
        while let Some((manifest, depth)) = manifests.pop() {
            if depth > MAX_DEPTH {
                self.unknown("the manifest is nested too deep".to_owned());
                continue;
            }
            for entries in manifest.entries().chunks(LOOKUP) {
                let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
                let located = match self.meta.locate(&ids).await {
                    Ok(located) => located,
                    Err(LookupError::Damaged { reason }) => {
                        self.astray = true;
                        self.unknown(format!("the index is damaged: {reason}"));
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                for (entry, located) in entries.iter().zip(located) {
                    let Some(located) = located else {
                        self.astray = true;
                        self.unknown(format!("chunk {} is not known", entry.id));
                        continue;
                    };
                    self.chunk(&located).await;
                    if !entry.leaf {
                        // What it lists is part of the object.
                        match read_manifest(self.meta, content.domain_id(), &located).await {
                            Ok(manifest) => manifests.push((manifest, depth + 1)),
                            Err(error) => self.unknown(format!("manifest chunk {}: {error}", entry.id)),
                        }
                    }
                }
            }
        }
        self.settle().await;
        Ok(())
    }

    async fn chunk(&mut self, located: &Located) {
        self.object.sum.chunks += 1;
        match &located.stripe {
            Some(layout) if self.seen.insert(layout.descriptor.id) => self.waiting.push(layout.clone()),
            Some(_) => {}
            None => drop(self.entries.insert(Lsn(located.place.lsn))),
        }
        if self.waiting.len() >= ASK {
            self.settle().await;
        }
    }

    /// Adds the stripes that wait.
    async fn settle(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.stripes.ask(&waiting).await;
        for layout in waiting {
            let Some(stripe) = self.stripes.get(layout.descriptor.id) else { continue };
            let sum = &mut self.object.sum;
            sum.stripes += 1;
            sum.add(stripe.judge(), stripe.shards.iter().map(|shard| (shard.state, shard.verified_ms)));
            if stripe.is_suspect() {
                self.suspects.push(stripe.id);
            }
            let listed = sum.shards - sum.unlisted;
            if listed <= OBJECT_SHARDS as u64 {
                self.object.stripes.push(StripeFixity::clone(stripe));
            } else {
                sum.unlisted += stripe.shards.len() as u64;
            }
        }
    }

    async fn entries(&mut self) {
        for lsn in std::mem::take(&mut self.entries) {
            let Some(entry) = self.stripes.entry(lsn).await else {
                // Sealed since it was looked up.
                self.astray = true;
                self.unknown(format!("journal entry {lsn} is not in the journal"));
                continue;
            };
            let sum = &mut self.object.sum;
            sum.entries += 1;
            sum.add(entry.judge(), entry.copies.iter().map(|(_, state)| (*state, 0)));
            self.object.entries.push(entry);
        }
    }
}
