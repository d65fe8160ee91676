//! Metadata in memory: enough of it for the engine, with faults at will. What it refuses, the real one refuses too.

use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::{
    AccountRow, BucketConfigRow, BucketRow, ConfigKind, Content, DomainRow, PartRow, Place, UploadName, UploadRow,
    VersionRow,
};
use codec::encrypt::{DataKey, KeyEncryptionKey};
use codec::erasure::Geometry;
use codec::id::{BucketId, ChunkId, DomainId, Epoch, Lsn};
use codec::level::FormatLevel;
use codec::manifest::{Entry, Manifest};
use metadata::client::{
    CommitError, FrameReadError, LookupError, MetadataClient, Mode, Status, StripeFrame, StripeShape,
};
use metadata::command::{Command, Condition, NewChunk, NewFrame, Outcome, Refusal};
use metadata::iam::{IamCall, IamFailure, Signing, Value};
use metadata::keys::{Account, Domain, Keys, Purpose};
use metadata::listing::{
    ListPage, ListRequest, PartsPage, PartsRequest, UploadsPage, UploadsRequest, VersionsPage, VersionsRequest,
};
use metadata::lookup::{Hit, Located};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A stored chunk.
#[derive(Clone)]
pub struct Chunk {
    pub domain: DomainId,
    pub plain_len: u32,
    pub is_manifest: bool,
    pub children: Vec<ChunkId>,
    pub frame: Bytes,
}

#[derive(Default)]
pub struct Rows {
    pub versions: BTreeMap<(u64, String), VersionRow>,
    pub uploads: HashMap<String, UploadRow>,
    pub parts: BTreeMap<(String, u32), PartRow>,
    pub chunks: HashMap<ChunkId, Chunk>,
    pub domains: Vec<(String, Purpose, Arc<Domain>)>,
}

#[derive(Default)]
pub struct Fake {
    pub rows: Mutex<Rows>,
    lsn: AtomicU64,
    /// Frames and bytes of each stripe, in the order in which they were stored.
    pub stripes: Mutex<Vec<(usize, usize)>>,
    pub stripe_delay: Mutex<Duration>,
    pub fail_stripes: AtomicBool,
    /// Frames of stripes are not kept: for tests that measure memory.
    pub forget: AtomicBool,
    pub inline_frames: AtomicUsize,
    /// Chunks that find_chunks calls hits, and that go away before the commit.
    pub reclaim: Mutex<Vec<ChunkId>>,
    /// Bytes of stripes being stored now, and the most there ever were.
    in_flight: AtomicUsize,
    pub most_in_flight: AtomicUsize,
    pub reads: AtomicUsize,
}

impl Fake {
    fn next_lsn(&self) -> u64 {
        self.lsn.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn version(&self, bucket: u64, key: &str) -> Option<VersionRow> {
        self.rows.lock().unwrap().versions.get(&(bucket, key.to_owned())).cloned()
    }

    pub fn chunk_count(&self) -> usize {
        self.rows.lock().unwrap().chunks.len()
    }

    pub fn stripe_count(&self) -> usize {
        self.stripes.lock().unwrap().len()
    }
}

impl Rows {
    fn add(&mut self, chunks: &[NewChunk]) -> Result<(), Refusal> {
        for chunk in chunks {
            let NewFrame::Inline(frame) = &chunk.frame else { panic!("only inline frames here") };
            let children = chunk.children.clone();
            self.put(chunk.id, chunk.domain, chunk.plain_len, chunk.is_manifest, children, frame.clone())?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        id: ChunkId,
        domain: DomainId,
        plain_len: u32,
        is_manifest: bool,
        children: Vec<ChunkId>,
        frame: Bytes,
    ) -> Result<(), Refusal> {
        let missing: Vec<_> = children.iter().filter(|child| !self.chunks.contains_key(child)).copied().collect();
        if !missing.is_empty() {
            return Err(Refusal::MissingChunks(missing));
        }
        self.chunks.insert(id, Chunk { domain, plain_len, is_manifest, children, frame });
        Ok(())
    }

    fn check(&self, content: &Content) -> Result<(), Refusal> {
        let manifest = Manifest::parse(&content.manifest).expect("a manifest");
        assert_eq!(manifest.total_len(), content.size);
        let missing = |entry: &&Entry| !self.chunks.contains_key(&entry.id);
        let missing: Vec<_> = manifest.entries().iter().filter(missing).map(|entry| entry.id).collect();
        if !missing.is_empty() {
            return Err(Refusal::MissingChunks(missing));
        }
        for entry in manifest.entries() {
            let chunk = &self.chunks[&entry.id];
            assert_eq!((chunk.domain.0, chunk.is_manifest), (content.domain, !entry.leaf));
        }
        Ok(())
    }

    fn condition(&self, bucket: u64, key: &str, condition: &Condition) -> Result<(), Refusal> {
        let etag = self.versions.get(&(bucket, key.to_owned())).and_then(|row| row.content.as_ref()).map(|c| &c.etag);
        match (condition, etag) {
            (Condition::None, _) | (Condition::IfNoneMatchAny, None) | (Condition::IfMatchAny, Some(_)) => Ok(()),
            (Condition::IfMatch(_) | Condition::IfMatchAny, None) => Err(Refusal::NoSuchKey),
            (Condition::IfMatch(wanted), Some(etag)) if wanted == etag => Ok(()),
            (Condition::IfNoneMatch(unwanted), etag) if Some(unwanted) != etag => Ok(()),
            _ => Err(Refusal::PreconditionFailed),
        }
    }

    fn commit(&mut self, lsn: u64, command: Command) -> Result<Outcome, Refusal> {
        match command {
            Command::CommitObject(object) => {
                self.condition(object.bucket.0, &object.key, &object.condition)?;
                self.add(&object.chunks)?;
                self.check(&object.content)?;
                let row = VersionRow {
                    bucket: object.bucket.0,
                    key: object.key.clone(),
                    seq: lsn,
                    modified_ms: object.now_ms,
                    meta: Some(object.meta),
                    content: Some(object.content),
                    ..VersionRow::default()
                };
                self.versions.insert((object.bucket.0, object.key), row.clone());
                Ok(Outcome::Committed(Box::new(row), None))
            }
            Command::CreateUpload(upload) => {
                let name = UploadName { bucket: upload.bucket.0, key: upload.key, upload_id: format!("{lsn:x}") };
                let row = UploadRow {
                    name: Some(name.clone()),
                    seq: lsn,
                    meta: Some(upload.meta),
                    checksum: upload.checksum,
                    full_object_checksum: upload.full_object_checksum,
                    domain: upload.domain.0,
                    encrypted: upload.encrypted,
                    sealed: upload.sealed,
                    ..UploadRow::default()
                };
                self.uploads.insert(name.upload_id.clone(), row);
                Ok(Outcome::UploadCreated(name))
            }
            Command::CommitPart { upload, number, content, chunks, now_ms } => {
                self.uploads.get(&upload.upload_id).ok_or(Refusal::NoSuchUpload)?;
                self.add(&chunks)?;
                self.check(&content)?;
                let id = upload.upload_id.clone();
                let row = PartRow { upload: Some(upload), number, modified_ms: now_ms, content: Some(content) };
                self.parts.insert((id, number), row.clone());
                Ok(Outcome::PartCommitted(Box::new(row)))
            }
            Command::CompleteUpload(complete) => {
                let name = complete.upload;
                let upload = self.uploads.get(&name.upload_id).cloned().ok_or(Refusal::NoSuchUpload)?;
                self.condition(name.bucket, &name.key, &complete.condition)?;
                self.add(&complete.chunks)?;
                self.check(&complete.content)?;
                self.uploads.remove(&name.upload_id);
                let row = VersionRow {
                    bucket: name.bucket,
                    key: name.key.clone(),
                    seq: lsn,
                    modified_ms: complete.now_ms,
                    meta: upload.meta,
                    content: Some(complete.content),
                    ..VersionRow::default()
                };
                self.versions.insert((name.bucket, name.key), row.clone());
                Ok(Outcome::Committed(Box::new(row), None))
            }
            Command::AbortUpload { upload } => {
                self.uploads.remove(&upload.upload_id).map(|_| Outcome::Done).ok_or(Refusal::NoSuchUpload)
            }
            other => panic!("the engine does not commit {other:?}"),
        }
    }
}

#[async_trait]
impl MetadataClient for Fake {
    fn epoch(&self) -> Epoch {
        Epoch(1)
    }

    fn frame_version(&self) -> u8 {
        codec::frame::VERSION
    }

    fn level(&self) -> FormatLevel {
        FormatLevel::NEWEST
    }

    async fn commit(&self, _writer: Epoch, command: Command) -> Result<Outcome, CommitError> {
        let inline = match &command {
            Command::CommitObject(object) => object.chunks.len(),
            Command::CommitPart { chunks, .. } => chunks.len(),
            Command::CompleteUpload(complete) => complete.chunks.len(),
            _ => 0,
        };
        self.inline_frames.fetch_add(inline, Ordering::SeqCst);
        let mut rows = self.rows.lock().unwrap();
        for id in self.reclaim.lock().unwrap().drain(..) {
            rows.chunks.remove(&id);
        }
        Ok(rows.commit(self.next_lsn(), command)?)
    }

    async fn bucket(&self, _name: &str) -> Result<Option<BucketRow>, LookupError> {
        Ok(None)
    }

    async fn buckets(&self, _owner: &str) -> Result<Vec<BucketRow>, LookupError> {
        Ok(Vec::new())
    }

    async fn current_version(&self, bucket: BucketId, key: &str) -> Result<Option<VersionRow>, LookupError> {
        Ok(Fake::version(self, bucket.0, key))
    }

    async fn version(&self, bucket: BucketId, key: &str, id: &str) -> Result<Option<VersionRow>, LookupError> {
        Ok(Fake::version(self, bucket.0, key).filter(|version| version.version_id == id))
    }

    async fn newest_versions(
        &self,
        bucket: BucketId,
        key: &str,
        _limit: usize,
    ) -> Result<Vec<VersionRow>, LookupError> {
        Ok(Fake::version(self, bucket.0, key).into_iter().collect())
    }

    async fn bucket_config(
        &self,
        _bucket: BucketId,
        _kind: ConfigKind,
        _id: &str,
    ) -> Result<Option<BucketConfigRow>, LookupError> {
        Ok(None)
    }

    async fn bucket_configs(&self, _bucket: BucketId, _kind: ConfigKind) -> Result<Vec<BucketConfigRow>, LookupError> {
        Ok(Vec::new())
    }

    async fn list(&self, _request: ListRequest) -> Result<ListPage, LookupError> {
        Ok(ListPage::default())
    }

    async fn list_versions(&self, _request: VersionsRequest) -> Result<VersionsPage, LookupError> {
        Ok(VersionsPage::default())
    }

    async fn list_uploads(&self, _request: UploadsRequest) -> Result<UploadsPage, LookupError> {
        Ok(UploadsPage::default())
    }

    async fn list_parts(&self, _request: PartsRequest) -> Result<Option<PartsPage>, LookupError> {
        Ok(None)
    }

    async fn upload(&self, name: &UploadName) -> Result<Option<UploadRow>, LookupError> {
        Ok(self.rows.lock().unwrap().uploads.get(&name.upload_id).cloned())
    }

    async fn parts(&self, upload: &UploadName, numbers: &[u32]) -> Result<Vec<Option<PartRow>>, LookupError> {
        let rows = self.rows.lock().unwrap();
        Ok(numbers.iter().map(|number| rows.parts.get(&(upload.upload_id.clone(), *number)).cloned()).collect())
    }

    async fn signer(&self, _access_key: &str, _token: Option<&str>) -> Result<Signing, LookupError> {
        Ok(Signing::Unknown)
    }

    async fn iam(&self, _call: IamCall) -> Result<Value, IamFailure> {
        Err(IamFailure::Commit(CommitError::Unavailable { reason: "nobody asks here".to_owned() }))
    }

    async fn account_by_access_key(&self, _access_key: &str) -> Result<Option<Arc<Account>>, LookupError> {
        Ok(None)
    }

    async fn account(&self, _id: &str) -> Result<Option<AccountRow>, LookupError> {
        Ok(None)
    }

    async fn account_by_email(&self, _address: &str) -> Result<Option<AccountRow>, LookupError> {
        Ok(None)
    }

    async fn domain(&self, account: &str, purpose: &Purpose) -> Result<Arc<Domain>, CommitError> {
        let domains = &mut self.rows.lock().unwrap().domains;
        if let Some((.., domain)) = domains.iter().find(|(of, class, _)| of == account && class == purpose) {
            return Ok(Arc::clone(domain));
        }
        let keys = Keys::new(KeyEncryptionKey::new([7; 32]));
        let row = keys.new_domain(account, purpose).unwrap();
        let mut domain = keys.unwrap_domain(&DomainRow { id: domains.len() as u64 + 1, ..row }).unwrap();
        if let Purpose::Kms(_) = purpose {
            domain.data_key = Some(DataKey::new([100; 32]));
        }
        let domain = Arc::new(domain);
        domains.push((account.to_owned(), purpose.clone(), Arc::clone(&domain)));
        Ok(domain)
    }

    async fn domain_by_id(&self, id: DomainId) -> Result<Arc<Domain>, LookupError> {
        let rows = self.rows.lock().unwrap();
        let found = rows.domains.iter().find(|(.., domain)| domain.id == id);
        found.map(|(.., domain)| Arc::clone(domain)).ok_or(LookupError::Unknown { what: "domain".to_owned() })
    }

    async fn find_chunks(&self, domain: DomainId, ids: &[ChunkId]) -> Result<Vec<Option<Hit>>, LookupError> {
        let rows = self.rows.lock().unwrap();
        let hit = |id: &ChunkId| {
            let chunk = rows.chunks.get(id).filter(|chunk| chunk.domain == domain)?;
            Some(Hit { plain_len: chunk.plain_len, is_manifest: chunk.is_manifest })
        };
        Ok(ids.iter().map(hit).collect())
    }

    async fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, LookupError> {
        let rows = self.rows.lock().unwrap();
        let locate = |id: &ChunkId| {
            let chunk = rows.chunks.get(id)?;
            let place = Place::in_journal(Lsn(1), 0, chunk.frame.len() as u32);
            let (domain, plain_len, is_manifest) = (chunk.domain, chunk.plain_len, chunk.is_manifest);
            Some(Located { id: *id, domain, plain_len, is_manifest, place, stripe: None })
        };
        Ok(ids.iter().map(locate).collect())
    }

    async fn read_frame(&self, chunk: &Located) -> Result<Bytes, FrameReadError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let rows = self.rows.lock().unwrap();
        rows.chunks.get(&chunk.id).map(|found| found.frame.clone()).ok_or(FrameReadError::Unknown(chunk.id))
    }

    fn stripe_shape(&self) -> Result<StripeShape, CommitError> {
        let geometry = Geometry::new(4, 2).expect("4+2");
        Ok(StripeShape { geometry, max_data_shards: 4, shard_target: 8 << 20 })
    }

    async fn store_stripe(&self, _writer: Epoch, frames: Vec<StripeFrame>) -> Result<(), CommitError> {
        let bytes = frames.iter().map(|frame| frame.frame.len()).sum();
        let now = self.in_flight.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let delay = *self.stripe_delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        self.in_flight.fetch_sub(bytes, Ordering::SeqCst);
        if self.fail_stripes.load(Ordering::SeqCst) {
            return Err(CommitError::Full);
        }
        self.stripes.lock().unwrap().push((frames.len(), bytes));
        let mut rows = self.rows.lock().unwrap();
        for frame in frames {
            let StripeFrame { id, domain, plain_len, is_manifest, children, mut frame } = frame;
            if self.forget.load(Ordering::SeqCst) {
                frame = Bytes::new();
            }
            rows.put(id, domain, plain_len, is_manifest, children, frame)?;
        }
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            mode: Mode::Serving,
            reason: String::new(),
            geometry: Geometry::new(4, 2).expect("4+2"),
            epoch: Epoch(1),
            applied: Lsn(1),
            sealed: Lsn(0),
            ensemble: Vec::new(),
            drives: Vec::new(),
            survives: String::new(),
            warnings: Vec::new(),
        }
    }
}
