//! Objects over a service on fault disks, as a gateway would store and read them, and what became of their chunks and stripes.

use super::super::world::*;
use crate::client::{MetadataClient, StripeFrame};
use crate::command::{Command, CommitObject, Condition, NewChunk, NewFrame, Outcome};
use crate::index::reclaim as rows;
use crate::index::{self, CHUNKS, Overlay, STRIPES, View};
use crate::keep::reclaim::{ReclaimConfig, ReclaimReport};
use crate::keep::restripe::RestripePolicy;
use crate::keys::Domain;
use crate::service::Metadata;
use bytes::Bytes;
use codec::effect::{ChunkRow, ChunkState, ClockTick, Content, ObjectMeta, StripeRow};
use codec::frame::{Expect, FIRST_VERSION, FrameSpec, chunk_id, decode, encode};
use codec::id::{BucketId, ChunkId, Lsn, StripeId};
use codec::manifest::{Entry, Manifest};
use codec::stripe::{StripeClass, StripeDescriptor};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage_node::kv::KvBatch;

pub const DAY: u64 = 24 * 3600 * 1000;
/// Large enough that a stripe of a few has some weight.
pub const CHUNK: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Inline,
    Striped,
    /// Striped, behind a manifest chunk.
    Node,
}

pub struct Store {
    pub world: World,
    pub metadata: Metadata,
    pub bucket: BucketId,
    pub account: &'static str,
    pub objects: BTreeMap<u8, Vec<u8>>,
}

pub fn reclaim_config() -> ReclaimConfig {
    let restripe = RestripePolicy { round_bytes: 1 << 30, ..RestripePolicy::default() };
    ReclaimConfig { every: None, daily_percent: 100, restripe, drive_rate: 0, ..ReclaimConfig::default() }
}

/// A chunk on its way into a stripe.
pub fn striped((chunk, frame): (NewChunk, Bytes)) -> StripeFrame {
    let NewChunk { id, domain, plain_len, is_manifest, children, .. } = chunk;
    StripeFrame { id, domain, plain_len, is_manifest, children, frame }
}

impl Store {
    pub async fn new(drives: usize, geometry: &str) -> Store {
        Store::with(drives, geometry, |_| {}).await
    }

    /// With something else in its configuration.
    pub async fn with(drives: usize, geometry: &str, change: impl FnOnce(&mut World)) -> Store {
        let mut world = World::new(drives, geometry);
        world.config.reclaim = reclaim_config();
        change(&mut world);
        let metadata = world.serving().await;
        let mut client = Client::default();
        client.create_bucket(&metadata).await;
        Store { world, metadata, bucket: client.bucket.unwrap(), account: "alice", objects: BTreeMap::new() }
    }

    pub fn view(&self) -> Overlay<'_> {
        Overlay::new(&**self.metadata.kv())
    }

    pub async fn domain(&self) -> Arc<Domain> {
        self.metadata.domain(self.account, &crate::keys::Purpose::Plain).await.unwrap()
    }

    pub async fn commit(&self, command: Command) -> Outcome {
        self.metadata.commit(self.metadata.epoch(), command).await.unwrap()
    }

    /// Lets time pass for the steady count.
    pub async fn pass(&self, ms: u64) {
        // The first is noted, so that nothing is lost to the step between notes.
        for ms in [rows::TICK_STEP_MS, ms] {
            let last = index::clock(&self.view()).unwrap().unwrap_or_default();
            let (retention_ms, steady_ms) = (last.retention_ms + ms, last.steady_ms + ms);
            self.commit(Command::ClockTick(ClockTick { retention_ms, steady_ms, ..last })).await;
        }
    }

    pub async fn round(&self) -> ReclaimReport {
        self.metadata.reclaimer().unwrap().round().await.unwrap()
    }

    /// Rounds until there is nothing to do any more.
    pub async fn quiet(&self) {
        for _ in 0..5 {
            self.round().await;
            self.pass(8 * DAY).await;
            self.round().await;
        }
    }

    pub async fn restart(mut self) -> Store {
        self.metadata.shutdown().await;
        self.metadata = self.world.serving().await;
        self
    }

    pub async fn new_chunk(&self, plain: &[u8], children: &[ChunkId], is_manifest: bool) -> (NewChunk, Bytes) {
        let domain = self.domain().await;
        let id = chunk_id(&domain.chunk_key, plain);
        let frame: Bytes =
            encode(&FrameSpec { version: FIRST_VERSION, domain: domain.id, id, level: 1, data_key: None }, plain)
                .unwrap()
                .into();
        let chunk = NewChunk {
            id,
            domain: domain.id,
            plain_len: plain.len() as u32,
            frame: NewFrame::Inline(frame.clone()),
            is_manifest,
            children: children.to_vec(),
        };
        (chunk, frame)
    }

    /// Those that are no dedup hits, as a gateway asks.
    pub async fn misses(&self, chunks: &[(NewChunk, Bytes)]) -> Vec<(NewChunk, Bytes)> {
        let ids: Vec<ChunkId> = chunks.iter().map(|(chunk, _)| chunk.id).collect();
        let hits = self.metadata.find_chunks(self.domain().await.id, &ids).await.unwrap();
        let mut seen = BTreeSet::new();
        let missing = chunks.iter().zip(hits).filter(|((chunk, _), hit)| hit.is_none() && seen.insert(chunk.id));
        missing.map(|(chunk, _)| chunk.clone()).collect()
    }

    pub async fn store(&self, chunks: Vec<(NewChunk, Bytes)>) {
        let frames = chunks.into_iter().map(striped).collect();
        self.metadata.store_stripe(self.metadata.epoch(), frames).await.unwrap();
    }

    /// An object of some chunks, as a gateway stores it.
    pub async fn put(&mut self, key: u8, numbers: &[u8], how: How) {
        let mut chunks = Vec::new();
        let mut entries = Vec::new();
        for number in numbers {
            let (chunk, frame) = self.new_chunk(&noise(u64::from(*number), CHUNK), &[], false).await;
            entries.push(Entry { id: chunk.id, len: CHUNK as u64, leaf: true });
            chunks.push((chunk, frame));
        }
        let mut inline = Vec::new();
        match how {
            How::Inline => inline = self.misses(&chunks).await.into_iter().map(|(chunk, _)| chunk).collect(),
            How::Striped | How::Node => self.store(self.misses(&chunks).await).await,
        }
        if how == How::Node {
            let node = Manifest::new(entries.clone()).unwrap();
            let children: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
            let (chunk, frame) = self.new_chunk(&node.encode(), &children, true).await;
            entries = vec![Entry { id: chunk.id, len: node.total_len(), leaf: false }];
            self.store(self.misses(&[(chunk, frame)]).await).await;
        }
        self.commit(self.object(key, entries, inline).await).await;
        self.objects.insert(key, numbers.to_vec());
    }

    pub async fn object(&self, key: u8, entries: Vec<Entry>, chunks: Vec<NewChunk>) -> Command {
        let manifest = Manifest::new(entries).unwrap();
        let content = Content {
            size: manifest.total_len(),
            etag: format!("{key}"),
            domain: self.domain().await.id.0,
            manifest: manifest.encode(),
            ..Content::default()
        };
        let (key, meta) = (format!("key-{key}"), ObjectMeta::default());
        let condition = Condition::None;
        let attached = crate::command::Attached::default();
        Command::CommitObject(CommitObject {
            bucket: self.bucket,
            key,
            condition,
            meta,
            content,
            chunks,
            now_ms: 1,
            attached,
        })
    }

    pub async fn delete(&mut self, key: u8) {
        let (bucket, condition) = (self.bucket, Condition::None);
        self.commit(Command::DeleteObject { bucket, key: format!("key-{key}"), condition }).await;
        self.objects.remove(&key);
    }

    pub async fn read(&self, id: ChunkId) -> Result<Vec<u8>, String> {
        let located = self.metadata.locate(&[id]).await.map_err(|error| error.to_string())?;
        let located = located.into_iter().next().flatten().ok_or("not known")?;
        let frame = self.metadata.read_frame(&located).await.map_err(|error| error.to_string())?;
        let domain = self.domain().await;
        let (chunk_key, plain_len) = (&domain.chunk_key, located.plain_len);
        let expect = Expect { id, domain: domain.id, plain_len, chunk_key, data_key: None };
        decode(&frame, &expect).map_err(|error| error.to_string())
    }

    pub async fn get(&self, key: u8) -> Result<Vec<u8>, String> {
        let version = self.metadata.current_version(self.bucket, &format!("key-{key}")).await.unwrap();
        let content = version.ok_or("no such key")?.content.unwrap();
        let mut entries = Manifest::parse(&content.manifest).unwrap().entries().to_vec();
        if let [Entry { id, leaf: false, .. }] = entries[..] {
            entries = Manifest::parse(&self.read(id).await?).unwrap().entries().to_vec();
        }
        let mut out = Vec::new();
        for entry in entries {
            out.extend(self.read(entry.id).await?);
        }
        Ok(out)
    }

    /// Every object is whole.
    pub async fn check(&self) {
        for (key, numbers) in &self.objects {
            let wanted: Vec<u8> = numbers.iter().flat_map(|number| noise(u64::from(*number), CHUNK)).collect();
            assert!(self.get(*key).await.unwrap_or_else(|error| panic!("key {key}: {error}")) == wanted, "key {key}");
        }
    }

    pub fn chunks(&self) -> Vec<ChunkRow> {
        let rows = self.view().rows(CHUNKS, &[], &[0xff; 40], usize::MAX).unwrap();
        rows.into_iter().map(|(key, value)| index::decode(CHUNKS, &key, value).unwrap()).collect()
    }

    pub fn stripes(&self, class: StripeClass) -> BTreeMap<StripeId, StripeRow> {
        let rows = self.view().rows(STRIPES, &[], &[0xff; 40], usize::MAX).unwrap();
        let row = |(key, value): (Bytes, Bytes)| index::decode::<StripeRow>(STRIPES, &key, value).unwrap();
        let all = rows.into_iter().map(row).map(|row| (StripeDescriptor::parse(&row.descriptor).unwrap(), row));
        all.filter(|(descriptor, _)| descriptor.class == class).map(|(descriptor, row)| (descriptor.id, row)).collect()
    }

    /// Stripes of which some drive has a data shard.
    pub async fn on_drives(&self) -> BTreeSet<StripeId> {
        let mut found = BTreeSet::new();
        for drive in self.metadata.node().drives().await {
            let headers = self.metadata.node().list_shards(drive.id, Some(StripeClass::Data), None, 10_000).await;
            found.extend(headers.unwrap_or_default().into_iter().map(|header| header.id().stripe));
        }
        found
    }

    pub async fn chunk(&self, number: u8) -> Option<ChunkRow> {
        let id = chunk_id(&self.domain().await.chunk_key, &noise(u64::from(number), CHUNK));
        index::chunk(&self.view(), id).unwrap()
    }

    /// Makes a chunk's count wrong, as a mistake in this program would: it looks unreferenced since `lsn`.
    pub async fn miscount(&self, number: u8, lsn: Lsn) {
        let row = self.chunk(number).await.unwrap();
        let wrong = ChunkRow { refs: 0, state: ChunkState::Condemned as i32, condemned_lsn: lsn.0, ..row };
        let mut overlay = Overlay::new(&**self.metadata.kv());
        overlay.put(CHUNKS, wrong.id.clone(), &wrong);
        let batch: KvBatch = overlay.into_batch();
        self.metadata.kv().write(batch).unwrap();
    }
}
