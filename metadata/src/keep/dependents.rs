//! What depends on what is damaged: the objects that an operator wants to know of when a finding, or a stripe that is beyond
//! repair, is reported.
//!
//! There is no row that says which objects lie in a stripe: it would be written at every PUT, for a question that is hardly
//! ever asked. So this goes over all chunks, reads every manifest chunk, and goes over all versions and parts, page by page; for
//! any number of findings at once. It is no snapshot: what is put, deleted or moved meanwhile is met or not.

use super::manifests::read_manifest;
use crate::client::MetadataClient;
use crate::index::{self, CHUNKS, IndexError, OBJECTS, Overlay, UPLOADS, View};
use crate::service::Metadata;
use bytes::Bytes;
use codec::effect::{ChunkRow, Content, PartRow, UploadName, VersionName, VersionRow};
use codec::id::{ChunkId, DomainId, Lsn, StripeId};
use codec::manifest::{MAX_DEPTH, Manifest};
use futures::future::join_all;
use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use storage_node::keep::Subject;
use storage_node::kv::Family;

/// Rows that are read from the index at a time.
const PAGE: usize = 4096;
/// Manifest chunks that are read at a time.
const READS: usize = 16;
/// Longer than any key.
const END: [u8; 64] = [0xff; 64];

/// What depends on one thing that is damaged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dependents {
    /// Object versions that have a chunk there: the first of them, in key order.
    pub versions: Vec<VersionName>,
    /// How many there are.
    pub version_count: u64,
    /// Parts of open uploads likewise: upload and number.
    pub parts: Vec<(UploadName, u32)>,
    /// How many there are.
    pub part_count: u64,
}

/// What depends on each of several things.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DependentsReport {
    /// One for each subject, in the order asked for. Nobody depends on blocks that nobody can name, as far as is known.
    pub of: Vec<Dependents>,
    /// Manifest chunks that can't be read: objects that name them may depend on what they list.
    pub unread: u64,
    /// Rows that do not decode. Checking rows reports them.
    pub bad_rows: u64,
}

/// Why it is not known what depends on something.
#[derive(Debug, thiserror::Error)]
pub enum DependentsError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
}

/// Something that chunks lie in, by its number.
type Place = usize;

/// Where the subjects are.
#[derive(Debug, Default)]
struct Places {
    stripes: HashMap<StripeId, Place>,
    entries: Vec<(RangeInclusive<Lsn>, Place)>,
    /// For each subject its place.
    asked: Vec<Option<Place>>,
    count: usize,
}

impl Places {
    fn new(subjects: &[Subject]) -> Places {
        let mut places = Places::default();
        for subject in subjects {
            let new = places.count;
            let place = match *subject {
                Subject::Shard(shard) => Some(*places.stripes.entry(shard.stripe).or_insert(new)),
                Subject::Entries(first, last) => {
                    places.entries.push((first..=last, new));
                    Some(new)
                }
                Subject::Blocks { .. } => None,
            };
            places.count += usize::from(place == Some(new));
            places.asked.push(place);
        }
        places
    }

    /// The places that a chunk lies in: copies of an entry may be damaged on several drives.
    fn of(&self, row: &ChunkRow) -> BTreeSet<Place> {
        let Some(place) = &row.place else { return BTreeSet::new() };
        let stripe = place.stripe().and_then(|stripe| self.stripes.get(&stripe).copied());
        let entries = self.entries.iter().filter(|(range, _)| place.lsn().is_some_and(|lsn| range.contains(&lsn)));
        stripe.into_iter().chain(entries.map(|(_, place)| *place)).collect()
    }
}

/// Finds what depends on each of `subjects`, and names up to `limit` versions and parts for each.
///
/// # Errors
/// The index failed. A row that does not decode, and a manifest chunk that can't be read, are counted and passed over.
pub async fn dependents(
    meta: &Metadata,
    subjects: &[Subject],
    limit: usize,
) -> Result<DependentsReport, DependentsError> {
    let places = Places::new(subjects);
    let mut search = Search {
        meta,
        limit,
        places: &places,
        inside: HashMap::new(),
        found: vec![Dependents::default(); places.count],
        report: DependentsReport::default(),
    };
    search.chunks().await?;
    if !search.inside.is_empty() {
        search.manifests().await?;
        search.versions().await?;
        search.parts().await?;
    }
    let Search { found, mut report, .. } = search;
    let of = |place: &Option<Place>| place.and_then(|place| found.get(place).cloned()).unwrap_or_default();
    report.of = places.asked.iter().map(of).collect();
    Ok(report)
}

struct Search<'a> {
    meta: &'a Metadata,
    limit: usize,
    places: &'a Places,
    /// The chunks that lie in one of the places, and manifest chunks that list one: with the places.
    inside: HashMap<ChunkId, BTreeSet<Place>>,
    found: Vec<Dependents>,
    report: DependentsReport,
}

/// The rows of a family from a key on.
async fn page(meta: &Metadata, family: Family, from: Vec<u8>) -> Result<Vec<(Bytes, Bytes)>, DependentsError> {
    let kv = meta.kv().clone();
    let read = tokio::task::spawn_blocking(move || Overlay::new(&*kv).rows(family, &from, &END, PAGE));
    Ok(read.await.map_err(|_| DependentsError::Stopping)??)
}

/// The key behind the last one of a page; `None` when that was all.
fn behind(rows: &[(Bytes, Bytes)]) -> Option<Vec<u8>> {
    rows.last().filter(|_| rows.len() == PAGE).map(|(key, _)| [&key[..], &[0]].concat())
}

impl Search<'_> {
    /// A row, if it decodes.
    fn row<T: prost::Message + Default>(&mut self, family: Family, key: &[u8], value: Bytes) -> Option<T> {
        let row = index::decode::<T>(family, key, value);
        self.report.bad_rows += u64::from(row.is_err());
        row.ok()
    }

    async fn chunks(&mut self) -> Result<(), DependentsError> {
        let mut next = Some(Vec::new());
        while let Some(from) = next {
            let rows = page(self.meta, CHUNKS, from).await?;
            next = behind(&rows);
            for (key, value) in rows {
                let Some(row) = self.row::<ChunkRow>(CHUNKS, &key, value) else { continue };
                let places = self.places.of(&row);
                if let Some(id) = row.chunk_id().filter(|_| !places.is_empty()) {
                    self.inside.insert(id, places);
                }
            }
        }
        Ok(())
    }

    /// Manifest chunks that list such a chunk, or a manifest chunk that does.
    async fn manifests(&mut self) -> Result<(), DependentsError> {
        let mut above: Vec<(ChunkId, ChunkId)> = Vec::new();
        let mut next = Some(Vec::new());
        while let Some(from) = next {
            let rows = page(self.meta, CHUNKS, from).await?;
            next = behind(&rows);
            let mut nodes = Vec::new();
            for (key, value) in rows {
                let row = index::decode::<ChunkRow>(CHUNKS, &key, value).ok().filter(|row| row.is_manifest);
                nodes.extend(row.and_then(|row| Some((row.chunk_id()?, DomainId(row.domain)))));
            }
            for some in nodes.chunks(READS) {
                let read = join_all(some.iter().map(|(id, domain)| manifest(self.meta, *id, *domain))).await;
                for ((id, _), manifest) in some.iter().zip(read) {
                    match manifest {
                        Some(manifest) => self.node(*id, &manifest, &mut above),
                        None => self.report.unread += 1,
                    }
                }
            }
        }
        for _ in 0..MAX_DEPTH {
            for (parent, child) in &above {
                let places = self.inside.get(child).cloned().unwrap_or_default();
                if !places.is_empty() {
                    self.inside.entry(*parent).or_default().extend(places);
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, id: ChunkId, manifest: &Manifest, above: &mut Vec<(ChunkId, ChunkId)>) {
        let places: BTreeSet<Place> = self.of(manifest).collect();
        if !places.is_empty() {
            self.inside.entry(id).or_default().extend(places);
        }
        above.extend(manifest.entries().iter().filter(|entry| !entry.leaf).map(|entry| (id, entry.id)));
    }

    /// The places that a manifest needs.
    fn of<'b>(&'b self, manifest: &'b Manifest) -> impl Iterator<Item = Place> + 'b {
        manifest.entries().iter().filter_map(|entry| self.inside.get(&entry.id)).flatten().copied()
    }

    fn content(&self, content: Option<&Content>) -> BTreeSet<Place> {
        let manifest = content.and_then(|content| Manifest::parse(&content.manifest).ok());
        manifest.iter().flat_map(|manifest| self.of(manifest)).collect()
    }

    async fn versions(&mut self) -> Result<(), DependentsError> {
        let mut next = Some(Vec::new());
        while let Some(from) = next {
            let rows = page(self.meta, OBJECTS, from).await?;
            next = behind(&rows);
            for (key, value) in rows {
                let Some(row) = self.row::<VersionRow>(OBJECTS, &key, value) else { continue };
                for place in self.content(row.content.as_ref()) {
                    let Some(found) = self.found.get_mut(place) else { continue };
                    found.version_count += 1;
                    if found.versions.len() < self.limit {
                        let (bucket, key, seq) = (row.bucket, row.key.clone(), row.seq);
                        found.versions.push(VersionName { bucket, key, seq });
                    }
                }
            }
        }
        Ok(())
    }

    async fn parts(&mut self) -> Result<(), DependentsError> {
        let mut next = Some(b"p".to_vec());
        while let Some(from) = next {
            let rows = page(self.meta, UPLOADS, from).await?;
            next = behind(&rows);
            for (key, value) in rows.into_iter().filter(|(key, _)| key.first() == Some(&b'p')) {
                let Some(row) = self.row::<PartRow>(UPLOADS, &key, value) else { continue };
                let Some(upload) = row.upload.clone() else { continue };
                for place in self.content(row.content.as_ref()) {
                    let Some(found) = self.found.get_mut(place) else { continue };
                    found.part_count += 1;
                    if found.parts.len() < self.limit {
                        found.parts.push((upload.clone(), row.number));
                    }
                }
            }
        }
        Ok(())
    }
}

async fn manifest(meta: &Metadata, id: ChunkId, domain: DomainId) -> Option<Manifest> {
    let located = meta.locate(&[id]).await.ok()?.pop().flatten()?;
    read_manifest(meta, domain, &located).await.ok()
}
