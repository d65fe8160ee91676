//! A state machine over a store in memory, with the journal that it would have written.

use crate::command::*;
use crate::index::{self, CHUNKS, FAMILIES, OBJECTS, Overlay, UPLOADS, View};
use crate::lookup::Losses;
use crate::state::{At, DecideError, Decided, apply, decide};
use bytes::Bytes;
use codec::effect::*;
use codec::erasure::Geometry;
use codec::id::*;
use codec::level::FormatLevel;
use codec::manifest::{Entry, Manifest};
use codec::stripe::{StripeClass, StripeDescriptor};
use std::collections::BTreeMap;
use storage_node::kv::{Kv, MemoryKv};
use storage_node::sabotage::SabotageSet;

pub const EPOCH: Epoch = Epoch(7);
/// The domain of all chunks: its id is the LSN at which [`World::new`] makes it.
pub const DOMAIN: DomainId = DomainId(5);
pub const MIB: u32 = 1 << 20;

pub struct World {
    pub kv: MemoryKv,
    pub lsn: Lsn,
    pub log: Vec<(Lsn, [u8; 32], Bytes)>,
    pub losses: Losses,
    pub sabotage: SabotageSet,
    pub writer: Epoch,
    /// The machine's clock.
    pub wall_ms: u64,
    /// What each manifest chunk lists.
    pub children: BTreeMap<ChunkId, Vec<ChunkId>>,
    pub stripes: u64,
}

impl World {
    /// Started once, with three drives.
    pub fn new() -> Self {
        let mut world = World {
            kv: MemoryKv::new(&FAMILIES),
            lsn: Lsn(0),
            log: Vec::new(),
            losses: Losses::default(),
            sabotage: SabotageSet::default(),
            writer: EPOCH,
            wall_ms: 1,
            children: BTreeMap::new(),
            stripes: 0,
        };
        world.run(Command::StartEpoch { epoch: EPOCH, journal: EPOCH }).unwrap();
        for n in 0..3 {
            let id = Bytes::from(vec![n; 16]);
            let row = DriveRow { id, state: DriveState::Active as i32, ..DriveRow::default() };
            world.run(Command::RegisterDrive(row)).unwrap();
        }
        let row = DomainRow { account: "alice".to_owned(), ..DomainRow::default() };
        let made = world.run(Command::PutDomain(row)).unwrap();
        assert!(matches!(made, Outcome::Domain(row) if row.id == DOMAIN.0));
        world
    }

    pub fn view(&self) -> Overlay<'_> {
        Overlay::new(&self.kv)
    }

    pub fn at(&self) -> At {
        At {
            lsn: self.lsn.next(),
            wall_ms: self.wall_ms,
            level: FormatLevel(index::level(&Overlay::new(&self.kv)).unwrap().level),
            losses: self.losses.clone(),
            sabotage: self.sabotage.clone(),
        }
    }

    pub fn decide(&self, command: &Command) -> Result<Decided, Refusal> {
        decide(&self.view(), self.writer, command, &self.at()).map_err(|error| match error {
            DecideError::Refused(refusal) => refusal,
            DecideError::Index(error) => panic!("{error}"),
        })
    }

    /// Decides, journals, applies. The effects go through their encoding, as they do in the journal.
    pub fn run(&mut self, command: Command) -> Result<Outcome, Refusal> {
        let decided = self.decide(&command)?;
        if decided.is_noop() {
            assert!(decided.frames.is_empty());
            return Ok(decided.outcome);
        }
        self.lsn = self.lsn.next();
        let before = self.log.last().map_or([0; 32], |(_, hash, _)| *hash);
        let entry = codec::journal::encode_entry(self.lsn, self.writer, before, &decided.effects, &decided.frames);
        let entry = entry.unwrap();
        self.check_inline_places(&entry.bytes, &decided);
        let parsed = codec::journal::parse_entry(entry.bytes).unwrap();
        let mut overlay = Overlay::new(&self.kv);
        apply(&mut overlay, self.lsn, &entry.hash, &parsed.effects).unwrap();
        self.kv.write(overlay.into_batch()).unwrap();
        self.log.push((self.lsn, entry.hash, prost::Message::encode_to_vec(&parsed.effects).into()));
        Ok(decided.outcome)
    }

    /// Every place in this entry names the bytes of that chunk's frame.
    fn check_inline_places(&self, entry: &Bytes, decided: &Decided) {
        let mut inline = 0;
        for effect in &decided.effects.effects {
            let Some(EffectKind::PutChunk(row)) = &effect.kind else { continue };
            let place = row.place.unwrap();
            if place.lsn() == Some(self.lsn) {
                let at = place.offset as usize;
                assert_eq!(entry.slice(at..at + place.len as usize), frame(row.chunk_id().unwrap()));
                inline += 1;
            }
        }
        assert_eq!(inline, decided.frames.len());
    }

    /// The journal over an empty store gives the same bytes.
    pub fn check_replay(&self) {
        let kv = MemoryKv::new(&FAMILIES);
        for (lsn, hash, effects) in &self.log {
            let mut overlay = Overlay::new(&kv);
            apply(&mut overlay, *lsn, hash, &Effects::parse(effects).unwrap()).unwrap();
            kv.write(overlay.into_batch()).unwrap();
        }
        assert_eq!(index::digest_all(&kv).unwrap(), index::digest_all(&self.kv).unwrap());
        assert_eq!(index::digest(&kv).unwrap(), index::digest(&self.kv).unwrap());
    }

    /// Counts are what the manifests say, and states what the counts say.
    pub fn check_refs(&self) {
        let mut counted: BTreeMap<ChunkId, u64> = BTreeMap::new();
        // A delete marker has no content.
        let mut count = |content: Option<Content>| {
            let Some(content) = content else { return };
            for entry in Manifest::parse(&content.manifest).unwrap().entries() {
                *counted.entry(entry.id).or_default() += 1;
            }
        };
        self.all::<VersionRow>(OBJECTS, b"").into_iter().for_each(|row| count(row.content));
        self.parts().into_iter().for_each(|row| count(row.content));
        let chunks = self.all::<ChunkRow>(CHUNKS, b"");
        for chunk in &chunks {
            let listed = self.children.get(&chunk.chunk_id().unwrap());
            assert_eq!(chunk.is_manifest, listed.is_some());
            for child in listed.into_iter().flatten() {
                *counted.entry(*child).or_default() += 1;
            }
        }
        for chunk in &chunks {
            let id = chunk.chunk_id().unwrap();
            assert_eq!(chunk.refs, counted.remove(&id).unwrap_or(0), "refs of {id}");
            if chunk.refs > 0 {
                assert_eq!(chunk.state(), ChunkState::Live);
            }
            assert_eq!(chunk.condemned_lsn == 0, chunk.state() == ChunkState::Live);
        }
        assert!(counted.is_empty(), "referenced and not there: {counted:?}");
    }

    /// Parts of all uploads, those of buckets that are gone included.
    pub fn parts(&self) -> Vec<PartRow> {
        self.all(UPLOADS, b"p")
    }

    fn all<M: prost::Message + Default>(&self, family: &'static str, prefix: &[u8]) -> Vec<M> {
        let end = index::after_prefix(prefix).unwrap_or(vec![0xff; 64]);
        let rows = self.view().rows(family, prefix, &end, usize::MAX).unwrap();
        rows.into_iter().map(|(key, value)| index::decode(family, &key, value).unwrap()).collect()
    }

    pub fn chunk(&self, id: ChunkId) -> Option<ChunkRow> {
        index::chunk(&self.view(), id).unwrap()
    }

    pub fn bucket(&mut self, name: &str) -> BucketId {
        match self.run(create_bucket(name, "alice")).unwrap() {
            Outcome::BucketCreated(row) => row.bucket_id(),
            other => panic!("{other:?}"),
        }
    }

    /// Those of `ids` that are not known, as inline chunks.
    pub fn missing_inline(&self, ids: &[ChunkId]) -> Vec<NewChunk> {
        let mut new: Vec<NewChunk> = Vec::new();
        for &id in ids {
            if self.chunk(id).is_none() && !new.iter().any(|chunk| chunk.id == id) {
                new.push(inline(id));
            }
        }
        new
    }

    pub fn put(&mut self, bucket: BucketId, key: &str, ids: &[ChunkId]) -> Result<Outcome, Refusal> {
        let chunks = self.missing_inline(ids);
        self.run(put(bucket, key, ids, chunks, Condition::None))
    }

    /// A 2+1 stripe over the three drives whose shard 0 holds the given chunks.
    pub fn stripe(&mut self, chunks: &[ChunkId]) -> (StripeRow, Vec<NewChunk>) {
        self.stripes += 1;
        let id = StripeId { epoch: self.writer, counter: self.stripes };
        let row = stripe_row(id, StripeClass::Data, None);
        let place = |(n, &id): (usize, &ChunkId)| NewChunk {
            frame: NewFrame::InStripe { shard: 0, offset: n as u32 * 100, len: 100 },
            ..inline(id)
        };
        (row, chunks.iter().enumerate().map(place).collect())
    }

    pub fn commit_stripe(&mut self, ids: &[ChunkId]) -> Result<Outcome, Refusal> {
        let (stripe, chunks) = self.stripe(ids);
        self.run(Command::CommitStripe { stripe, chunks })
    }

    /// A manifest chunk that lists `children`, as an inline chunk, and its entry.
    pub fn node(&mut self, children: &[ChunkId]) -> (NewChunk, Entry) {
        let mut hasher = blake3::Hasher::new();
        children.iter().for_each(|child| {
            hasher.update(child.as_bytes());
        });
        let id = ChunkId(*hasher.finalize().as_bytes());
        self.children.insert(id, children.to_vec());
        let chunk = NewChunk { is_manifest: true, children: children.to_vec(), plain_len: 1000, ..inline(id) };
        let len = children.iter().map(|child| u64::from(plain_len(*child))).sum();
        (chunk, Entry { id, len, leaf: false })
    }

    pub fn upload(&mut self, bucket: BucketId, key: &str) -> UploadName {
        match self.run(create_upload(bucket, key)).unwrap() {
            Outcome::UploadCreated(name) => name,
            other => panic!("{other:?}"),
        }
    }

    pub fn part(&mut self, upload: &UploadName, number: u32, ids: &[ChunkId]) -> Result<Outcome, Refusal> {
        let chunks = self.missing_inline(ids);
        let content = content(ids);
        self.run(Command::CommitPart { upload: upload.clone(), number, content, chunks, now_ms: 5 })
    }
}

pub fn id(n: u8) -> ChunkId {
    ChunkId([n; 32])
}

pub fn ids(numbers: &[u8]) -> Vec<ChunkId> {
    numbers.iter().map(|&n| id(n)).collect()
}

/// Odd chunks are small; two even ones make a part of 6 MiB.
pub fn plain_len(id: ChunkId) -> u32 {
    if id.0[0] % 2 == 1 { 1000 } else { 3 * MIB }
}

pub fn frame(id: ChunkId) -> Bytes {
    Bytes::from(id.0[..8 + usize::from(id.0[0] % 8)].to_vec())
}

pub fn inline(id: ChunkId) -> NewChunk {
    NewChunk {
        id,
        domain: DOMAIN,
        plain_len: plain_len(id),
        frame: NewFrame::Inline(frame(id)),
        is_manifest: false,
        children: Vec::new(),
    }
}

pub fn content_of(entries: Vec<Entry>) -> Content {
    let manifest = Manifest::new(entries).unwrap();
    let bytes = manifest.encode();
    Content {
        size: manifest.total_len(),
        etag: blake3::hash(&bytes).to_hex()[..8].to_owned(),
        domain: DOMAIN.0,
        manifest: bytes,
        ..Content::default()
    }
}

pub fn content(ids: &[ChunkId]) -> Content {
    content_of(ids.iter().map(|&id| Entry { id, len: u64::from(plain_len(id)), leaf: true }).collect())
}

pub fn create_bucket(name: &str, owner: &str) -> Command {
    Command::CreateBucket(CreateBucket {
        name: name.to_owned(),
        owner: owner.to_owned(),
        location: String::new(),
        encrypt: false,
        zstd_level: 0,
        now_ms: 3,
        with: Default::default(),
    })
}

pub fn put(bucket: BucketId, key: &str, ids: &[ChunkId], chunks: Vec<NewChunk>, condition: Condition) -> Command {
    put_content(bucket, key, content(ids), chunks, condition)
}

pub fn put_content(
    bucket: BucketId,
    key: &str,
    content: Content,
    chunks: Vec<NewChunk>,
    condition: Condition,
) -> Command {
    let meta = ObjectMeta::default();
    Command::CommitObject(CommitObject {
        bucket,
        key: key.to_owned(),
        condition,
        meta,
        content,
        chunks,
        now_ms: 4,
        attached: Attached::default(),
    })
}

pub fn delete(bucket: BucketId, key: &str, condition: Condition) -> Command {
    Command::DeleteObject { bucket, key: key.to_owned(), condition }
}

pub fn create_upload(bucket: BucketId, key: &str) -> Command {
    Command::CreateUpload(CreateUpload {
        bucket,
        key: key.to_owned(),
        nonce: [9; 16],
        initiator: "alice".to_owned(),
        meta: ObjectMeta::default(),
        checksum: 0,
        full_object_checksum: false,
        domain: DOMAIN,
        encrypted: false,
        now_ms: 5,
        attached: Default::default(),
        sealed: None,
    })
}

/// The completion of parts, each given with its chunks.
pub fn complete(upload: &UploadName, parts: &[(u32, Vec<ChunkId>)]) -> Command {
    let all: Vec<ChunkId> = parts.iter().flat_map(|(_, ids)| ids.clone()).collect();
    let part_sizes = parts.iter().map(|(_, ids)| content(ids).size).collect();
    Command::CompleteUpload(CompleteUpload {
        upload: upload.clone(),
        parts: parts.iter().map(|(number, ids)| (*number, content(ids).etag)).collect(),
        content: Content { part_sizes, ..content(&all) },
        chunks: Vec::new(),
        condition: Condition::None,
        now_ms: 6,
        nonce: [0; 8],
    })
}

pub fn stripe_row(id: StripeId, class: StripeClass, lsn_range: Option<(Lsn, Lsn)>) -> StripeRow {
    let descriptor = StripeDescriptor {
        id,
        class,
        geometry: Geometry::new(2, 1).unwrap(),
        present: 0b111,
        lengths: vec![10_000; 3],
        hashes: vec![[1; 32]; 3],
        lsn_range,
        cluster: ClusterId([1; 16]),
    };
    StripeRow { descriptor: descriptor.encode(), drives: (0..3).map(|n| Bytes::from(vec![n; 16])).collect() }
}
