//! The client as gateways see it.

use super::peers::Failed;
use super::{Inner, RemoteMetadata};
use crate::client::{CommitError, FrameReadError, LookupError, MetadataClient, Mode, Status, StripeFrame, StripeShape};
use crate::command::{Command, Outcome, Refusal};
use crate::journal::{Held, JournalMap, Patience};
use crate::keys::{Account, Domain, Secret};
use crate::listing::{
    ListPage, ListRequest, PartsPage, PartsRequest, UploadsPage, UploadsRequest, VersionsPage, VersionsRequest,
};
use crate::lookup::{Hit, Located};
use crate::rpc::command::{CommitMessage, OutcomeMessage};
use crate::rpc::message::{
    AccountWithSecret, BucketList, DomainMessage, HitList, KeysPage, LocatedList, MaybeAccount, MaybeBucket,
    MaybeUpload, MaybeVersion, OfChunks, OfDomain, OfKey, OfName, OfNumber, OfPage, OfUpload, PartList, PartsAnswer,
    UploadsAnswer, VersionsAnswer, pack_chunks,
};
use crate::rpc::{MOST_ASKED, Name};
use crate::service::drive_lines;
use crate::store::{Storing, store_error, store_stripes};
use crate::stripe_writer::StripeWriter;
use crate::topology::Topology;
use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::{AccountRow, BucketRow, PartRow, UploadName, UploadRow, VersionRow};
use codec::encrypt::{ChunkKey, DataKey};
use codec::frame::verify_stored;
use codec::id::{BucketId, ChunkId, DomainId, Epoch, Lsn};
use codec::stripe::FramePlace;
use prost::Message;
use std::sync::Arc;
use storage_node::stripe_io::{ReadOptions, read_frame};
use tokio::time::Instant;
use zeroize::Zeroize;

fn unreadable() -> LookupError {
    LookupError::Unavailable { reason: "an answer of metadata can't be read".to_owned() }
}

fn domain_of(mut message: DomainMessage) -> Option<Arc<Domain>> {
    let chunk_key = ChunkKey::from_slice(&message.chunk_key);
    let data_key = match message.data_key.is_empty() {
        true => Some(None),
        false => DataKey::from_slice(&message.data_key).map(Some),
    };
    message.chunk_key.zeroize();
    message.data_key.zeroize();
    let (id, account) = (DomainId(message.id), message.account);
    Some(Arc::new(Domain { id, account, chunk_key: chunk_key?, data_key: data_key? }))
}

/// The bytes, if they are the frame of a chunk.
fn is_frame(id: ChunkId, bytes: Bytes) -> Option<Bytes> {
    verify_stored(&bytes).is_ok_and(|header| header.id == id).then_some(bytes)
}

impl Inner {
    async fn lookup<A: Message + Default>(&self, name: Name, question: &impl Message) -> Result<A, LookupError> {
        self.ask(name, question).await.map_err(Failed::lookup)
    }

    async fn commit(&self, writer: Epoch, command: Command) -> Result<Outcome, CommitError> {
        let unavailable = |reason: &str| CommitError::Unavailable { reason: reason.to_owned() };
        let message = CommitMessage::new(writer, command);
        let message = message.ok_or_else(|| unavailable("a gateway does not commit this"))?;
        let answer: Result<OutcomeMessage, CommitError> =
            self.ask(Name::Commit, &message).await.map_err(Failed::commit);
        if let Err(CommitError::Refused(Refusal::Fenced { writer, .. })) = &answer
            && *writer == self.stripes.epoch()
        {
            self.fenced.notify_one();
        }
        if let Err(CommitError::Refused(Refusal::NoSuchDomain(_))) = &answer {
            self.forget();
        }
        answer?.value().ok_or_else(|| unavailable("what came of the commit can't be read"))
    }

    /// Keeps a domain, and returns it.
    pub(super) fn know(&self, domain: Arc<Domain>, asked: Instant) -> Arc<Domain> {
        self.domains.put((domain.account.clone(), domain.data_key.is_some()), domain.clone(), asked);
        self.domains_by_id.put(domain.id, domain.clone(), asked);
        domain
    }

    fn topology_now(&self) -> Topology {
        self.seen().session.topology(&self.status())
    }

    /// Reads a frame where `chunk` says that it is.
    async fn read_at(&self, chunk: &Located) -> Result<Bytes, FrameReadError> {
        let unreachable = |reason: String| FrameReadError::Unreachable { id: chunk.id, reason };
        if let Some(layout) = &chunk.stripe {
            let shard = u8::try_from(chunk.place.shard).map_err(|error| unreachable(error.to_string()))?;
            let at = FramePlace { shard, offset: chunk.place.offset };
            let read = read_frame(&*self.nodes, layout, at, chunk.place.len, ReadOptions::default()).await;
            return read.map_err(|error| unreachable(error.to_string()));
        }
        if let Some(bytes) = self.read_journal(chunk).await {
            return Ok(bytes);
        }
        // Sealed since, perhaps, or on no drive yet: metadata knows, and looks the place up again by itself.
        let question = OfChunks { domain: 0, ids: pack_chunks([&chunk.id]) };
        let asked = self.peers.ask(Name::ReadFrame, question.encode_to_vec().into()).await;
        let bytes = asked.map_err(|error| error.frame(chunk.id))?;
        is_frame(chunk.id, bytes).ok_or_else(|| unreachable("metadata sent bytes that are not its frame".to_owned()))
    }

    /// Reads a frame from the drives that have its entry, if they are known and one of them gives it.
    async fn read_journal(&self, chunk: &Located) -> Option<Bytes> {
        let (lsn, start) = (chunk.place.lsn()?, chunk.place.offset);
        let (holders, end) = (self.holders.get(&lsn)?, start.checked_add(chunk.place.len)?);
        let held = Held { hash: [0; 32], prev_hash: [0; 32], epoch: Epoch(0), len: end, holders };
        let map = JournalMap::new([(lsn, held)].into(), Patience::default());
        let read = map.read_checked(&*self.nodes, lsn, start..end, |bytes| is_frame(chunk.id, bytes)).await;
        read.inspect_err(|error| tracing::debug!(%error, "a frame is asked of metadata")).ok()
    }
}

#[async_trait]
impl Storing for Inner {
    fn stripes(&self) -> &StripeWriter {
        &self.stripes
    }

    async fn topology(&self) -> Result<Topology, CommitError> {
        Ok(self.topology_now())
    }

    async fn commit_stripe(&self, writer: Epoch, command: Command) -> Result<(), CommitError> {
        self.commit(writer, command).await.map(drop)
    }
}

#[async_trait]
impl MetadataClient for RemoteMetadata {
    fn epoch(&self) -> Epoch {
        self.inner.stripes.epoch()
    }

    async fn commit(&self, writer: Epoch, command: Command) -> Result<Outcome, CommitError> {
        self.inner.commit(writer, command).await
    }

    async fn bucket(&self, name: &str) -> Result<Option<BucketRow>, LookupError> {
        let found: MaybeBucket = self.inner.lookup(Name::Bucket, &OfName { name: name.to_owned() }).await?;
        Ok(found.row)
    }

    async fn buckets(&self, owner: &str) -> Result<Vec<BucketRow>, LookupError> {
        let found: BucketList = self.inner.lookup(Name::Buckets, &OfName { name: owner.to_owned() }).await?;
        Ok(found.rows)
    }

    async fn current_version(&self, bucket: BucketId, key: &str) -> Result<Option<VersionRow>, LookupError> {
        let question = OfKey { bucket: bucket.0, key: key.to_owned() };
        let found: MaybeVersion = self.inner.lookup(Name::CurrentVersion, &question).await?;
        Ok(found.row)
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, LookupError> {
        let page: KeysPage = self.inner.lookup(Name::List, &OfPage::from(request)).await?;
        Ok(page.into())
    }

    async fn list_versions(&self, request: VersionsRequest) -> Result<VersionsPage, LookupError> {
        let page: VersionsAnswer = self.inner.lookup(Name::ListVersions, &OfPage::from(request)).await?;
        page.page().ok_or_else(unreadable)
    }

    async fn list_uploads(&self, request: UploadsRequest) -> Result<UploadsPage, LookupError> {
        let page: UploadsAnswer = self.inner.lookup(Name::ListUploads, &OfPage::from(request)).await?;
        Ok(page.into())
    }

    async fn list_parts(&self, request: PartsRequest) -> Result<Option<PartsPage>, LookupError> {
        let page: PartsAnswer = self.inner.lookup(Name::ListParts, &OfUpload::from(request)).await?;
        Ok(page.into())
    }

    async fn upload(&self, name: &UploadName) -> Result<Option<UploadRow>, LookupError> {
        let question = OfUpload { upload: Some(name.clone()), ..OfUpload::default() };
        let found: MaybeUpload = self.inner.lookup(Name::Upload, &question).await?;
        Ok(found.row)
    }

    async fn parts(&self, upload: &UploadName, numbers: &[u32]) -> Result<Vec<Option<PartRow>>, LookupError> {
        let mut parts = Vec::with_capacity(numbers.len());
        for numbers in numbers.chunks(MOST_ASKED) {
            let question = OfUpload { upload: Some(upload.clone()), numbers: numbers.to_vec(), ..OfUpload::default() };
            let found: PartList = self.inner.lookup(Name::Parts, &question).await?;
            parts.extend(found.parts.into_iter().map(|part| part.row));
        }
        (parts.len() == numbers.len()).then_some(parts).ok_or_else(unreadable)
    }

    async fn account_by_access_key(&self, access_key: &str) -> Result<Option<Arc<Account>>, LookupError> {
        let name = access_key.to_owned();
        if let Some(known) = self.inner.accounts.get(&name) {
            return Ok(known);
        }
        let asked = Instant::now();
        let question = OfName { name: name.clone() };
        let found: AccountWithSecret = self.inner.lookup(Name::AccountByAccessKey, &question).await?;
        let secret = Secret::new(found.secret);
        let account = found.row.map(|row| Arc::new(Account { row, secret }));
        self.inner.accounts.put(name, account.clone(), asked);
        Ok(account)
    }

    async fn account(&self, id: &str) -> Result<Option<AccountRow>, LookupError> {
        let found: MaybeAccount = self.inner.lookup(Name::Account, &OfName { name: id.to_owned() }).await?;
        Ok(found.row)
    }

    async fn domain(&self, account: &str, encrypted: bool) -> Result<Arc<Domain>, CommitError> {
        if let Some(known) = self.inner.domains.get(&(account.to_owned(), encrypted)) {
            return Ok(known);
        }
        let asked = Instant::now();
        let question = OfDomain { account: account.to_owned(), encrypted };
        let found: DomainMessage = self.inner.ask(Name::Domain, &question).await.map_err(Failed::commit)?;
        let domain = domain_of(found).filter(|domain| domain.data_key.is_some() == encrypted);
        let unusable = || CommitError::Unavailable { reason: "a dedup domain without its keys".to_owned() };
        Ok(self.inner.know(domain.ok_or_else(unusable)?, asked))
    }

    async fn domain_by_id(&self, id: DomainId) -> Result<Arc<Domain>, LookupError> {
        if let Some(known) = self.inner.domains_by_id.get(&id) {
            return Ok(known);
        }
        let asked = Instant::now();
        let found: DomainMessage = self.inner.lookup(Name::DomainById, &OfNumber { number: id.0 }).await?;
        let domain = domain_of(found).filter(|domain| domain.id == id).ok_or_else(unreadable)?;
        Ok(self.inner.know(domain, asked))
    }

    async fn find_chunks(&self, domain: DomainId, ids: &[ChunkId]) -> Result<Vec<Option<Hit>>, LookupError> {
        let mut hits = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MOST_ASKED) {
            let question = OfChunks { domain: domain.0, ids: pack_chunks(ids) };
            let found: HitList = self.inner.lookup(Name::FindChunks, &question).await?;
            hits.extend(found.value(ids.len()).ok_or_else(unreadable)?);
        }
        Ok(hits)
    }

    async fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, LookupError> {
        let mut located = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MOST_ASKED) {
            let (question, asked) = (OfChunks { domain: 0, ids: pack_chunks(ids) }, Instant::now());
            let found: LocatedList = self.inner.lookup(Name::Locate, &question).await?;
            for entry in &found.entries {
                self.inner.holders.put(Lsn(entry.lsn), entry.holders().ok_or_else(unreadable)?, asked);
            }
            located.extend(found.value(ids).ok_or_else(unreadable)?);
        }
        Ok(located)
    }

    async fn read_frame(&self, chunk: &Located) -> Result<Bytes, FrameReadError> {
        let error = match self.inner.read_at(chunk).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        // A seal, a repair or a restripe may have moved it between the lookup and the read.
        let again = self.locate(&[chunk.id]).await?.pop().flatten().ok_or(FrameReadError::Unknown(chunk.id))?;
        let drives = |located: &Located| located.stripe.as_ref().map(|layout| layout.drives.clone());
        match again.place == chunk.place && drives(&again) == drives(chunk) {
            true => Err(error),
            false => self.inner.read_at(&again).await,
        }
    }

    fn stripe_shape(&self) -> Result<StripeShape, CommitError> {
        let seen = self.inner.seen();
        if let Some(reason) = &seen.session.read_only {
            return Err(CommitError::ReadOnly { reason: reason.clone() });
        }
        let max_data_shards = self.inner.stripes.width(&self.inner.topology_now()).map_err(store_error)?;
        let (geometry, shard_target) = (self.inner.geometry, self.inner.stripes.shard_target());
        Ok(StripeShape { geometry, max_data_shards, shard_target })
    }

    async fn store_stripe(&self, writer: Epoch, frames: Vec<StripeFrame>) -> Result<(), CommitError> {
        store_stripes(&*self.inner, writer, frames).await
    }

    fn status(&self) -> Status {
        let (seen, status) = (self.inner.seen(), self.inner.status());
        let session = &seen.session;
        Status {
            mode: if session.read_only.is_none() { Mode::Serving } else { Mode::ReadOnly },
            reason: session.read_only.clone().unwrap_or_default(),
            geometry: self.inner.geometry,
            epoch: self.epoch(),
            applied: session.applied,
            sealed: session.sealed,
            ensemble: session.ensemble.clone(),
            drives: drive_lines(&session.drives, &status),
            survives: session.survives.clone(),
            warnings: session.warnings.clone(),
        }
    }
}
