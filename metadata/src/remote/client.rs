//! The client as gateways see it.

use super::peers::Failed;
use super::{Inner, RemoteMetadata};
use crate::client::{
    CommitError, FrameReadError, LookupError, MAX_NEWEST, MetadataClient, Mode, Status, StripeFrame, StripeShape,
};
use crate::command::{Command, Outcome, Refusal};
use crate::iam::session::{LONGEST_ACCESS_KEY, LONGEST_TOKEN};
use crate::iam::{IamCall, IamFailure, Signer, Signing, SigningMessage, Value};
use crate::journal::{Held, JournalMap, Patience};
use crate::keys::{Account, Domain, Purpose, Secret};
use crate::listing::{
    ListPage, ListRequest, PartsPage, PartsRequest, UploadsPage, UploadsRequest, VersionsPage, VersionsRequest,
};
use crate::lookup::{Hit, Located};
use crate::rpc::command::{CommitMessage, OutcomeMessage};
use crate::rpc::iam::{IamAnswer, IamQuestion, OfSigner};
use crate::rpc::message::{
    AccountWithSecret, BucketList, ConfigList, DomainMessage, HitList, KeysPage, LocatedList, MaybeAccount,
    MaybeBucket, MaybeUpload, MaybeVersion, OfChunks, OfDomain, OfKey, OfName, OfNumber, OfPage, OfUpload, OfVersion,
    PartList, PartsAnswer, UploadsAnswer, VersionsAnswer, pack_chunks,
};
use crate::rpc::{MOST_ASKED, Name};
use crate::service::drive_lines;
use crate::store::{Storing, store_error, store_stripes};
use crate::stripe_writer::StripeWriter;
use crate::topology::Topology;
use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::{
    AccountRow, BucketConfigName, BucketConfigRow, BucketRow, ConfigKind, PartRow, UploadName, UploadRow, VersionRow,
    Versioning,
};
use codec::encrypt::{ChunkKey, DataKey};
use codec::frame::verify_stored;
use codec::id::{BucketId, ChunkId, DomainId, Epoch, Lsn};
use codec::level::FormatLevel;
use codec::stripe::FramePlace;
use prost::Message;
use std::sync::Arc;
use storage_node::stripe_io::{ReadOptions, read_frame};
use tokio::time::Instant;
use zeroize::Zeroize;

fn unreadable() -> LookupError {
    LookupError::Unavailable { reason: "an answer of metadata can't be read".to_owned() }
}

/// The first level at which there are domains of this purpose. A leader of a release before hears only whether it encrypts.
fn needed_for(purpose: &Purpose) -> FormatLevel {
    match purpose {
        Purpose::Plain | Purpose::Managed => FormatLevel::BEFORE,
        Purpose::Customer | Purpose::Kms(_) => FormatLevel::VERSIONS,
    }
}

fn domain_of(mut message: DomainMessage) -> Option<Arc<Domain>> {
    let chunk_key = ChunkKey::from_slice(&message.chunk_key);
    let data_key = match message.data_key.is_empty() {
        true => Some(None),
        false => DataKey::from_slice(&message.data_key).map(Some),
    };
    let node_key = match message.node_key.is_empty() {
        true => data_key.clone(),
        false => DataKey::from_slice(&message.node_key).map(Some),
    };
    message.chunk_key.zeroize();
    message.data_key.zeroize();
    message.node_key.zeroize();
    let purpose = Purpose::said(message.class, data_key.as_ref()?.is_some(), &message.key)?;
    let (id, account) = (DomainId(message.id), message.account);
    Some(Arc::new(Domain { id, account, purpose, chunk_key: chunk_key?, data_key: data_key?, node_key: node_key? }))
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
        let (needs, at) = (command.needs_level(), self.peers.level().get());
        if needs > at {
            return Err(Refusal::NeedsLevel { needs, at }.into());
        }
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

    /// Whether the leader may be of a release that knows of no versions and no configurations, and of no question for them. There are
    /// none in its cluster.
    fn is_before_versions(&self) -> bool {
        self.peers.level().get() < FormatLevel::VERSIONS
    }

    /// A bucket that keeps versions or has a configuration says that the cluster's level was raised. Were that heard of with the next
    /// session only, a policy that another gateway has just set would not be followed until then.
    fn learn_of(&self, bucket: &BucketRow) {
        if bucket.config_seq > 0 || bucket.versioning() != Versioning::Never {
            self.peers.level().raise(FormatLevel::VERSIONS);
        }
    }

    /// Keeps a domain, and returns it.
    pub(super) fn know(&self, domain: Arc<Domain>, asked: Instant) -> Arc<Domain> {
        // Whether a key of the key store may be used is asked each time: it may be disabled by the next request.
        if matches!(domain.purpose, Purpose::Kms(_)) {
            return domain;
        }
        self.domains.put((domain.account.clone(), domain.purpose.clone()), domain.clone(), asked);
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

    fn frame_version(&self) -> u8 {
        self.inner.peers.level().versions().frame
    }

    fn level(&self) -> FormatLevel {
        self.inner.peers.level().get()
    }

    async fn commit(&self, writer: Epoch, command: Command) -> Result<Outcome, CommitError> {
        self.inner.commit(writer, command).await
    }

    async fn bucket(&self, name: &str) -> Result<Option<BucketRow>, LookupError> {
        let found: MaybeBucket = self.inner.lookup(Name::Bucket, &OfName { name: name.to_owned() }).await?;
        found.row.iter().for_each(|row| self.inner.learn_of(row));
        Ok(found.row)
    }

    async fn buckets(&self, owner: &str) -> Result<Vec<BucketRow>, LookupError> {
        let found: BucketList = self.inner.lookup(Name::Buckets, &OfName { name: owner.to_owned() }).await?;
        found.rows.iter().for_each(|row| self.inner.learn_of(row));
        Ok(found.rows)
    }

    async fn current_version(&self, bucket: BucketId, key: &str) -> Result<Option<VersionRow>, LookupError> {
        let question = OfKey { bucket: bucket.0, key: key.to_owned() };
        let found: MaybeVersion = self.inner.lookup(Name::CurrentVersion, &question).await?;
        Ok(found.row)
    }

    async fn version(&self, bucket: BucketId, key: &str, id: &str) -> Result<Option<VersionRow>, LookupError> {
        if self.inner.is_before_versions() {
            return Ok(self.current_version(bucket, key).await?.filter(|version| version.version_id == id));
        }
        let question = OfVersion { bucket: bucket.0, key: key.to_owned(), id: id.to_owned(), max: 1 };
        let found: MaybeVersion = self.inner.lookup(Name::Version, &question).await?;
        Ok(found.row)
    }

    async fn newest_versions(&self, bucket: BucketId, key: &str, limit: usize) -> Result<Vec<VersionRow>, LookupError> {
        if self.inner.is_before_versions() {
            return Ok(self.current_version(bucket, key).await?.into_iter().take(limit).collect());
        }
        let max = limit.min(MAX_NEWEST) as u32;
        let question = OfVersion { bucket: bucket.0, key: key.to_owned(), id: String::new(), max };
        let found: VersionsAnswer = self.inner.lookup(Name::NewestVersions, &question).await?;
        Ok(found.rows)
    }

    async fn bucket_config(
        &self,
        bucket: BucketId,
        kind: ConfigKind,
        id: &str,
    ) -> Result<Option<BucketConfigRow>, LookupError> {
        if self.inner.is_before_versions() {
            return Ok(None);
        }
        let question = BucketConfigName { bucket: bucket.0, kind: kind.into(), id: id.to_owned() };
        let found: ConfigList = self.inner.lookup(Name::BucketConfig, &question).await?;
        Ok(found.rows.into_iter().next())
    }

    async fn bucket_configs(&self, bucket: BucketId, kind: ConfigKind) -> Result<Vec<BucketConfigRow>, LookupError> {
        if self.inner.is_before_versions() {
            return Ok(Vec::new());
        }
        let question = BucketConfigName { bucket: bucket.0, kind: kind.into(), id: String::new() };
        let found: ConfigList = self.inner.lookup(Name::BucketConfigs, &question).await?;
        Ok(found.rows)
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

    async fn signer(&self, access_key: &str, token: Option<&str>) -> Result<Signing, LookupError> {
        if self.inner.is_before_versions() {
            // There are no users, and a token is of nothing.
            let account = self.account_by_access_key(access_key).await?;
            return Ok(account.map_or(Signing::Unknown, |account| match token {
                Some(_) => Signing::InvalidToken,
                None => Signer::of_account(account.row.clone(), account.secret.clone()),
            }));
        }
        // No row has such a key, and no such token was ever given out: none of it is worth being remembered.
        if access_key.len() > LONGEST_ACCESS_KEY {
            return Ok(Signing::Unknown);
        }
        if token.is_some_and(|token| token.len() > LONGEST_TOKEN) {
            return Ok(Signing::InvalidToken);
        }
        let key = (access_key.to_owned(), token.map(str::to_owned));
        if let Some(known) = self.inner.signers.get(&key) {
            return Ok(known);
        }
        let asked = Instant::now();
        let question = OfSigner { access_key: key.0.clone(), token: key.1.clone() };
        let found: SigningMessage = self.inner.lookup(Name::Signer, &question).await?;
        let signing = found.value().ok_or_else(unreadable)?;
        self.inner.signers.put(key, signing.clone(), asked);
        Ok(signing)
    }

    async fn iam(&self, call: IamCall) -> Result<Value, IamFailure> {
        if self.inner.is_before_versions() {
            let (needs, at) = (FormatLevel::VERSIONS, self.inner.peers.level().get());
            return Err(CommitError::Refused(Refusal::NeedsLevel { needs, at }).into());
        }
        let answer: IamAnswer = self.inner.ask(Name::Iam, &IamQuestion::from(call)).await.map_err(Failed::commit)?;
        let value = answer.value();
        // Whoever has taken something away here sees at once that it is gone.
        self.inner.signers.clear();
        value
    }

    async fn account(&self, id: &str) -> Result<Option<AccountRow>, LookupError> {
        let found: MaybeAccount = self.inner.lookup(Name::Account, &OfName { name: id.to_owned() }).await?;
        Ok(found.row)
    }

    async fn account_by_email(&self, address: &str) -> Result<Option<AccountRow>, LookupError> {
        if self.inner.is_before_versions() {
            // No account has an address.
            return Ok(None);
        }
        let question = OfName { name: address.to_owned() };
        let found: MaybeAccount = self.inner.lookup(Name::AccountByEmail, &question).await?;
        Ok(found.row)
    }

    async fn domain(&self, account: &str, purpose: &Purpose) -> Result<Arc<Domain>, CommitError> {
        if let Some(known) = self.inner.domains.get(&(account.to_owned(), purpose.clone())) {
            return Ok(known);
        }
        let (needs, at) = (needed_for(purpose), self.inner.peers.level().get());
        if needs > at {
            return Err(Refusal::NeedsLevel { needs, at }.into());
        }
        let asked = Instant::now();
        let (encrypted, class, key) = (purpose.encrypts(), purpose.class().into(), purpose.key().to_owned());
        let question = OfDomain { account: account.to_owned(), encrypted, class, key };
        let found: DomainMessage = self.inner.ask(Name::Domain, &question).await.map_err(Failed::commit)?;
        // A leader of an earlier release knows one kind of encryption, and would give that for another.
        let domain = domain_of(found).filter(|domain| domain.purpose == *purpose);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Else objects would be stored under keys of the store's own where keys of the client or of the key store were asked for.
    #[test]
    fn a_leader_of_a_release_before_is_not_asked_for_an_encryption_that_it_does_not_know() {
        assert!(needed_for(&Purpose::Plain) <= FormatLevel::BEFORE);
        assert!(needed_for(&Purpose::Managed) <= FormatLevel::BEFORE);
        assert_eq!(needed_for(&Purpose::Customer), FormatLevel::VERSIONS);
        assert_eq!(needed_for(&Purpose::Kms("key".to_owned())), FormatLevel::VERSIONS);
    }
}
