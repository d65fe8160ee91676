//! Where an object's shards lie, and whether each is good: `stele object locate` and `stele object verify`.
//!
//! Verifying reads the shards from the medium where they lie, on their nodes; the object's bytes go nowhere.

use codec::id::{BucketId, ChunkId, DomainId, DriveId, Lsn, ShardId};
use codec::manifest::{MAX_DEPTH, Manifest, ManifestError};
use metadata::client::{LookupError, MetadataClient};
use metadata::index::{self, IndexError, Overlay};
use metadata::keep::manifests::{ManifestReadError, read_manifest};
use metadata::service::Metadata;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage_node::keep::ShardRef;
use storage_node::stripe_io::StripeLayout;

/// Chunks that are looked up at a time.
const LOOKUP: usize = 256;
/// Shards that one drive is asked for at a time.
const SHARDS: usize = 64;

/// `POST /v1/object/locate` and `/v1/object/verify`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObjectQuestion {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
}

/// Where an object lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectAnswer {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Entity tag.
    pub etag: String,
    /// Chunks, those of its manifest included.
    pub chunks: u64,
    /// The stripes that its chunks lie in.
    pub stripes: Vec<StripeLine>,
    /// Journal entries that its chunks ride in, until they are sealed.
    pub journal: Vec<u64>,
    /// The drives that keep the journal.
    pub journal_drives: Vec<String>,
    /// Nothing is wrong, as far as was looked.
    pub good: bool,
}

/// A stripe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StripeLine {
    /// Its id.
    pub stripe: String,
    /// Data shards that it has.
    pub data: u64,
    /// All of its shards.
    pub shards: Vec<ShardLine>,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardLine {
    /// Its index.
    pub index: u8,
    /// The drive; empty when nobody knows.
    pub drive: String,
    /// `good`, `unverified` (not since it was written), a finding, or why the drive could not be asked.
    pub state: String,
    /// When it last verified, in milliseconds since the Unix epoch; 0: not since it was written.
    pub verified_ms: u64,
}

/// Why an object can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum ObjectMapError {
    /// No such bucket, or no such key in it.
    #[error("there is no object {0}")]
    NotFound(String),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Chunks could not be looked up.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// A part of the manifest can't be had: which chunks there are is unknown.
    #[error("a part of the manifest can't be read: {0}")]
    Read(#[from] ManifestReadError),
    /// The version's manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Its manifest names a chunk that is not known.
    #[error("chunk {0} is not known")]
    Unknown(ChunkId),
    /// Manifests inside manifests without end.
    #[error("the manifest is nested too deep")]
    Depth,
}

/// What the chunks of an object depend on.
#[derive(Default)]
struct Places {
    chunks: u64,
    stripes: BTreeMap<[u8; 16], Arc<StripeLayout>>,
    entries: BTreeSet<Lsn>,
}

/// Says where an object lies; with `verify` each of its shards is read from its medium.
pub async fn object(meta: &Metadata, question: &ObjectQuestion, verify: bool) -> Result<ObjectAnswer, ObjectMapError> {
    let (bucket, key) = (question.bucket.as_str(), question.key.as_str());
    let missing = || ObjectMapError::NotFound(format!("{bucket}/{key}"));
    let version = {
        let view = Overlay::new(&**meta.kv());
        let row = index::bucket(&view, bucket)?.ok_or_else(missing)?;
        index::current_version(&view, BucketId(row.id), key)?
    };
    let content = version.filter(|version| !version.delete_marker).and_then(|version| version.content);
    let content = content.ok_or_else(missing)?;
    let mut places = Places::default();
    walk(meta, content.domain_id(), Manifest::parse(&content.manifest)?, &mut places).await?;
    let mut stripes = Vec::with_capacity(places.stripes.len());
    for layout in places.stripes.values() {
        stripes.push(StripeLine {
            stripe: layout.descriptor.id.to_string(),
            data: layout.descriptor.data_present().len() as u64,
            shards: shards(meta, layout).await,
        });
    }
    if verify {
        verify_all(meta, &places, &mut stripes).await;
    }
    let fine = |shard: &ShardLine| matches!(shard.state.as_str(), "good" | "unverified");
    Ok(ObjectAnswer {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        size: content.size,
        etag: content.etag,
        chunks: places.chunks,
        good: stripes.iter().flat_map(|stripe| &stripe.shards).all(fine),
        stripes,
        journal: places.entries.iter().map(|lsn| lsn.0).collect(),
        journal_drives: meta.status().ensemble.iter().map(ToString::to_string).collect(),
    })
}

async fn walk(meta: &Metadata, domain: DomainId, root: Manifest, places: &mut Places) -> Result<(), ObjectMapError> {
    let mut waiting = vec![(root, 0)];
    while let Some((manifest, depth)) = waiting.pop() {
        if depth > MAX_DEPTH {
            return Err(ObjectMapError::Depth);
        }
        for entries in manifest.entries().chunks(LOOKUP) {
            let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
            for (entry, located) in entries.iter().zip(meta.locate(&ids).await?) {
                let located = located.ok_or(ObjectMapError::Unknown(entry.id))?;
                places.chunks += 1;
                match &located.stripe {
                    Some(layout) => drop(places.stripes.insert(layout.descriptor.id.to_bytes(), Arc::clone(layout))),
                    None => drop(places.entries.insert(Lsn(located.place.lsn))),
                }
                if !entry.leaf {
                    waiting.push((read_manifest(meta, domain, &located).await?, depth + 1));
                }
            }
        }
    }
    Ok(())
}

/// The shards of a stripe, as the nodes know them without reading.
async fn shards(meta: &Metadata, layout: &StripeLayout) -> Vec<ShardLine> {
    let mut lines = Vec::new();
    for index in (0..layout.descriptor.width()).filter(|index| layout.descriptor.is_present(*index)) {
        let Some(drive) = layout.drives.get(usize::from(index)).copied().flatten() else {
            lines.push(ShardLine { index, drive: String::new(), state: "missing".to_owned(), verified_ms: 0 });
            continue;
        };
        let shard = ShardId { stripe: layout.descriptor.id, index };
        let (state, verified_ms) = match meta.node().verified(drive, vec![shard]).await {
            Ok(known) => match known.into_iter().next().flatten() {
                Some(known) => match known.finding {
                    Some(finding) => (finding.kind.name().to_owned(), known.good_ms),
                    None if known.good_ms == 0 => ("unverified".to_owned(), 0),
                    None => ("good".to_owned(), known.good_ms),
                },
                None => ("missing".to_owned(), 0),
            },
            Err(error) => (error.to_string(), 0),
        };
        lines.push(ShardLine { index, drive: drive.to_string(), state, verified_ms });
    }
    lines
}

/// Reads every shard from its medium, drive by drive.
async fn verify_all(meta: &Metadata, places: &Places, stripes: &mut [StripeLine]) {
    let mut by_drive: BTreeMap<DriveId, Vec<(usize, u8, ShardRef)>> = BTreeMap::new();
    for (at, layout) in places.stripes.values().enumerate() {
        let root = layout.descriptor.root();
        for (index, drive) in (0u8..).zip(&layout.drives).filter_map(|(index, drive)| drive.map(|drive| (index, drive)))
        {
            let id = ShardId { stripe: layout.descriptor.id, index };
            by_drive.entry(drive).or_default().push((at, index, ShardRef { id, root }));
        }
    }
    let now_ms = meta.keeper().map_or(0, |keeper| keeper.now_ms());
    for (drive, wanted) in by_drive {
        for batch in wanted.chunks(SHARDS) {
            let asked = batch.iter().map(|(_, _, shard)| *shard).collect();
            let states: Vec<String> = match meta.node().verify_shards(drive, asked).await {
                Ok(results) => results
                    .into_iter()
                    .map(|result| result.map_or_else(|finding| finding.kind.name().to_owned(), |()| "good".to_owned()))
                    .collect(),
                Err(error) => batch.iter().map(|_| error.to_string()).collect(),
            };
            for ((at, index, _), state) in batch.iter().zip(states) {
                let line = stripes.get_mut(*at).and_then(|s| s.shards.iter_mut().find(|line| line.index == *index));
                if let Some(line) = line {
                    line.verified_ms = if state == "good" { now_ms } else { line.verified_ms };
                    line.state = state;
                }
            }
        }
    }
}
