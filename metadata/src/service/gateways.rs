//! The service as gateways see it.

use super::telling::Telling;
use super::{Metadata, Writing};
use crate::client::{
    CommitError, FrameReadError, LookupError, MAX_NEWEST, MetadataClient, Mode, Status, StripeFrame, StripeShape,
};
use crate::command::{Command, Outcome, Refusal};
use crate::commit::Request;
use crate::epochs::EpochError;
use crate::iam::{IamCall, IamFailure, Signing, Value};
use crate::index::{self, IndexError, Overlay};
use crate::keys::{Account, Domain, KeyError, Purpose, domain_purpose};
use crate::kms::KmsError;
use crate::listing::{
    self, ListPage, ListRequest, PartsPage, PartsRequest, UploadsPage, UploadsRequest, VersionsPage, VersionsRequest,
};
use crate::lookup::{self, Hit, Located};
use crate::store::{Storing, store_error, store_stripes};
use crate::stripe_writer::StripeWriter;
use crate::topology::Topology;
use async_trait::async_trait;
use bytes::Bytes;
use codec::effect::{
    AccountRow, BucketConfigRow, BucketRow, ConfigKind, DomainRow, PartRow, UploadName, UploadRow, VersionRow,
};
use codec::encrypt::DataKey;
use codec::id::{BucketId, ChunkId, DomainId, DriveId, Epoch};
use codec::level::FormatLevel;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError};
use storage_node::client::Reserve;
use storage_node::kv::Kv;
use storage_node::sabotage::Sabotage;
use tokio::sync::oneshot;

/// So many rows are looked up where they are asked for: at some 5 microseconds each that is shorter than the way to another
/// thread and back is worth.
const FEW_ROWS: usize = 32;

fn lookup_error(error: IndexError) -> LookupError {
    match error {
        IndexError::Store(error) => LookupError::Unavailable { reason: error.to_string() },
        error @ IndexError::Damaged { .. } => LookupError::Damaged { reason: error.to_string() },
    }
}

fn unavailable(error: impl fmt::Display) -> CommitError {
    CommitError::Unavailable { reason: error.to_string() }
}

fn key_error(error: KeyError) -> LookupError {
    LookupError::Damaged { reason: error.to_string() }
}

impl Metadata {
    /// Reads what may take many rows, and so many waits for the drive below the index, on a thread that may wait: on one of the
    /// runtime's it would hold up every request that is served there.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Kv) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, LookupError> {
        let kv = self.shared.kv.clone();
        let reading = tokio::task::spawn_blocking(move || read(&*kv));
        match reading.await {
            Ok(result) => result.map_err(lookup_error),
            Err(error) => Err(LookupError::Unavailable { reason: error.to_string() }),
        }
    }

    fn cached_domain(&self, row: &DomainRow) -> Result<Arc<Domain>, KeyError> {
        let id = DomainId(row.id);
        if let Some(domain) = self.domains.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(domain.clone());
        }
        let domain = Arc::new(self.keys.unwrap_domain(row)?);
        self.domains.write().unwrap_or_else(PoisonError::into_inner).insert(id, domain.clone());
        Ok(domain)
    }

    /// A domain for whoever walks manifests: without what only the key store unwraps.
    pub(crate) fn structure(&self, id: DomainId) -> Result<Arc<Domain>, LookupError> {
        let row = index::domain(&self.view(), id).map_err(lookup_error)?;
        let row = row.ok_or_else(|| LookupError::Unknown { what: format!("dedup domain {id}") })?;
        self.cached_domain(&row).map_err(key_error)
    }

    /// A domain with all its keys. The key store is asked each time.
    async fn opened(&self, row: &DomainRow) -> Result<Arc<Domain>, KmsError> {
        let domain = self.cached_domain(row)?;
        let Purpose::Kms(key) = &domain.purpose else { return Ok(domain) };
        let bound = domain_purpose("data", &row.account, &domain.purpose);
        let secret = self.kms.unwrap(&row.account, key, &bound, &row.wrapped_data_key).await?;
        let data_key = DataKey::from_slice(&secret);
        let data_key = data_key.ok_or_else(|| KeyError::Secret(format!("the data key of domain {}", row.id)))?;
        Ok(Arc::new(Domain { data_key: Some(data_key), ..(*domain).clone() }))
    }

    async fn new_domain(&self, account: &str, purpose: &Purpose) -> Result<DomainRow, CommitError> {
        let mut row = self.keys.new_domain(account, purpose).map_err(unavailable)?;
        if let Purpose::Kms(key) = purpose {
            let data_key = DataKey::random().map_err(unavailable)?;
            let bound = domain_purpose("data", account, purpose);
            let wrapped = self.kms.wrap(account, key, &bound, data_key.expose()).await;
            row.wrapped_data_key = wrapped.map_err(|error| match error {
                KmsError::Key { key, fault } => Refusal::Kms { key, fault }.into(),
                other => unavailable(other),
            })?;
        }
        Ok(row)
    }

    /// The target for a shard's payload, in bytes; 0 while only reads are served.
    pub(crate) fn shard_target(&self) -> u32 {
        self.writing.as_ref().map_or(0, |writing| writing.stripes.shard_target())
    }

    /// Drives that are slow and get no new shards.
    pub(crate) fn spared(&self) -> BTreeSet<DriveId> {
        self.shared.slow().spared()
    }

    /// Grants a gateway an epoch of its own.
    pub(crate) async fn grant_epoch(&self, holder: String) -> Result<Epoch, CommitError> {
        match self.writing()?.epochs.grant(holder).await {
            Ok(epoch) => Ok(epoch),
            Err(EpochError::Commit(error)) => Err(error),
            Err(error) => Err(unavailable(error)),
        }
    }
}

impl Metadata {
    /// Takes an epoch for one that the service has asked for, and did not hear of.
    #[cfg(test)]
    pub(crate) fn proposed(&self, epoch: Epoch) {
        if let Some(writing) = &self.writing {
            writing.epochs.proposed.add(epoch);
        }
    }

    /// Refuses an epoch that is not a gateway's own. Were it let in, a stripe that it numbers in it would take the id of one that
    /// the epoch's holder is writing (R1). A gateway that lost its epoch takes another one, as after a fence.
    pub(crate) fn check_held(&self, holder: &str, epoch: Epoch) -> Result<(), CommitError> {
        let view = self.view();
        let held = index::reclaim::holder(&view, epoch).map_err(unavailable)?.is_some_and(|of| of == holder);
        if held || self.shared.sabotage.is(Sabotage::EpochFence) {
            return Ok(());
        }
        let current = index::epoch(&view).map_err(unavailable)?;
        Err(Refusal::Fenced { writer: epoch, current }.into())
    }
}

/// The service as it stores stripes itself.
struct Own<'a> {
    meta: &'a Metadata,
    writing: &'a Writing,
}

#[async_trait]
impl Storing for Own<'_> {
    fn stripes(&self) -> &StripeWriter {
        &self.writing.stripes
    }

    async fn topology(&self) -> Result<Topology, CommitError> {
        self.meta.shared.topology(Reserve::Client).await.map_err(unavailable)
    }

    async fn commit_stripe(&self, writer: Epoch, command: Command) -> Result<(), CommitError> {
        self.meta.commit(writer, command).await.map(drop)
    }
}

#[async_trait]
impl MetadataClient for Metadata {
    fn epoch(&self) -> Epoch {
        self.writing.as_ref().map_or(self.epoch, |writing| writing.stripes.epoch())
    }

    fn frame_version(&self) -> u8 {
        self.shared.level.versions().frame
    }

    fn level(&self) -> FormatLevel {
        self.shared.level()
    }

    async fn commit(&self, writer: Epoch, command: Command) -> Result<Outcome, CommitError> {
        let writing = self.writing()?;
        self.check_webhooks(&command)?;
        let told = self.shared.audit.about(&command, &self.view());
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit(writer, Box::new(command), reply);
        writing.requests.send(request).await.map_err(|_| unavailable("the service is stopping"))?;
        let telling = Telling::new(self.shared.clone(), told, answer);
        let outcome = telling.answer().await.ok_or_else(|| unavailable("the service is stopping"))??;
        if outcome == (Outcome::BucketDeleted { uploads_left: true }) {
            self.shared.wake_sweeper.notify_one();
        }
        Ok(outcome)
    }

    async fn bucket(&self, name: &str) -> Result<Option<BucketRow>, LookupError> {
        index::bucket(&self.view(), name).map_err(lookup_error)
    }

    async fn buckets(&self, owner: &str) -> Result<Vec<BucketRow>, LookupError> {
        let owner = owner.to_owned();
        self.apart(move |kv| index::buckets_of(&Overlay::new(kv), &owner)).await
    }

    async fn current_version(&self, bucket: BucketId, key: &str) -> Result<Option<VersionRow>, LookupError> {
        index::current_version(&self.view(), bucket, key).map_err(lookup_error)
    }

    async fn version(&self, bucket: BucketId, key: &str, id: &str) -> Result<Option<VersionRow>, LookupError> {
        index::versions::version(&self.view(), bucket, key, id).map_err(lookup_error)
    }

    async fn newest_versions(&self, bucket: BucketId, key: &str, limit: usize) -> Result<Vec<VersionRow>, LookupError> {
        let (key, limit) = (key.to_owned(), limit.min(MAX_NEWEST));
        self.apart(move |kv| index::versions::newest_versions(&Overlay::new(kv), bucket, &key, limit)).await
    }

    async fn bucket_config(
        &self,
        bucket: BucketId,
        kind: ConfigKind,
        id: &str,
    ) -> Result<Option<BucketConfigRow>, LookupError> {
        index::access::bucket_config(&self.view(), bucket, kind, id).map_err(lookup_error)
    }

    async fn bucket_configs(&self, bucket: BucketId, kind: ConfigKind) -> Result<Vec<BucketConfigRow>, LookupError> {
        self.apart(move |kv| index::access::bucket_configs(&Overlay::new(kv), bucket, kind)).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage, LookupError> {
        self.apart(move |kv| listing::list(kv, &request)).await
    }

    async fn list_versions(&self, request: VersionsRequest) -> Result<VersionsPage, LookupError> {
        self.apart(move |kv| listing::list_versions(kv, &request)).await
    }

    async fn list_uploads(&self, request: UploadsRequest) -> Result<UploadsPage, LookupError> {
        self.apart(move |kv| listing::list_uploads(kv, &request)).await
    }

    async fn list_parts(&self, request: PartsRequest) -> Result<Option<PartsPage>, LookupError> {
        self.apart(move |kv| listing::list_parts(kv, &request)).await
    }

    async fn upload(&self, name: &UploadName) -> Result<Option<UploadRow>, LookupError> {
        index::upload(&self.view(), name).map_err(lookup_error)
    }

    async fn parts(&self, upload: &UploadName, numbers: &[u32]) -> Result<Vec<Option<PartRow>>, LookupError> {
        let (upload, numbers) = (upload.clone(), numbers.to_vec());
        let read = move |kv: &dyn Kv| {
            let view = Overlay::new(kv);
            numbers.iter().map(|number| index::part(&view, &upload, *number)).collect()
        };
        self.apart(read).await
    }

    async fn signer(&self, access_key: &str, token: Option<&str>) -> Result<Signing, LookupError> {
        let unreadable = || LookupError::Damaged { reason: "who signs can't be read".to_owned() };
        let found = self.signing(access_key, token)?;
        let signing = found.value_by(|account, held| self.lately.held(access_key, account, held));
        signing.ok_or_else(unreadable)
    }

    async fn iam(&self, call: IamCall) -> Result<Value, IamFailure> {
        self.iam_call(call).await
    }

    async fn account_by_access_key(&self, access_key: &str) -> Result<Option<Arc<Account>>, LookupError> {
        let row = index::account_by_access_key(&self.view(), access_key).map_err(lookup_error)?;
        row.map(|row| self.keys.unwrap_account(row).map(Arc::new).map_err(key_error)).transpose()
    }

    async fn account(&self, id: &str) -> Result<Option<AccountRow>, LookupError> {
        index::account(&self.view(), id).map_err(lookup_error)
    }

    async fn account_by_email(&self, address: &str) -> Result<Option<AccountRow>, LookupError> {
        let accounts = index::accounts(&self.view()).map_err(lookup_error)?;
        let meant = |row: &AccountRow| !row.email.is_empty() && row.email.eq_ignore_ascii_case(address);
        let mut found = accounts.into_iter().filter(meant);
        Ok(found.next().filter(|_| found.next().is_none()))
    }

    async fn domain(&self, account: &str, purpose: &Purpose) -> Result<Arc<Domain>, CommitError> {
        let known = index::domain_of(&self.view(), account, purpose).map_err(unavailable)?;
        let row = match known {
            Some(row) => row,
            None => {
                let new = self.new_domain(account, purpose).await?;
                if self.shared.sabotage.is(Sabotage::DomainKeysFirst) {
                    return self.cached_domain(&DomainRow { id: u64::MAX, ..new }).map_err(unavailable);
                }
                match self.commit(self.epoch(), Command::PutDomain(new)).await? {
                    Outcome::Domain(row) => row,
                    other => return Err(unavailable(format!("PutDomain came to {other:?}"))),
                }
            }
        };
        self.opened(&row).await.map_err(|error| match error {
            KmsError::Key { key, fault } => Refusal::Kms { key, fault }.into(),
            other => unavailable(other),
        })
    }

    async fn domain_by_id(&self, id: DomainId) -> Result<Arc<Domain>, LookupError> {
        let row = index::domain(&self.view(), id).map_err(lookup_error)?;
        let row = row.ok_or_else(|| LookupError::Unknown { what: format!("dedup domain {id}") })?;
        self.opened(&row).await.map_err(|error| match error {
            KmsError::Key { key, fault } => LookupError::Kms { key, fault },
            KmsError::Unavailable(reason) => LookupError::Unavailable { reason },
            KmsError::Damaged(error) => key_error(error),
        })
    }

    async fn find_chunks(&self, domain: DomainId, ids: &[ChunkId]) -> Result<Vec<Option<Hit>>, LookupError> {
        let losses = self.shared.volatile().losses.clone();
        if ids.len() <= FEW_ROWS {
            return lookup::find_chunks(&self.view(), domain, ids, &losses).map_err(lookup_error);
        }
        let ids = ids.to_vec();
        self.apart(move |kv| lookup::find_chunks(&Overlay::new(kv), domain, &ids, &losses)).await
    }

    async fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Located>>, LookupError> {
        if ids.len() <= FEW_ROWS {
            return lookup::locate(&self.view(), ids).map_err(lookup_error);
        }
        let ids = ids.to_vec();
        self.apart(move |kv| lookup::locate(&Overlay::new(kv), &ids)).await
    }

    async fn read_frame(&self, chunk: &Located) -> Result<Bytes, FrameReadError> {
        let reason = match self.shared.read_at(chunk).await {
            Ok(bytes) => return Ok(bytes),
            Err(reason) => reason,
        };
        // A seal may have moved it between the lookup and the read.
        let again = self.locate(&[chunk.id]).await?.pop().flatten().ok_or(FrameReadError::Unknown(chunk.id))?;
        let reason = match again.place == chunk.place {
            true => reason,
            false => match self.shared.read_at(&again).await {
                Ok(bytes) => return Ok(bytes),
                Err(reason) => reason,
            },
        };
        Err(FrameReadError::Unreachable { id: chunk.id, reason })
    }

    fn stripe_shape(&self) -> Result<StripeShape, CommitError> {
        let writing = self.writing()?;
        let topology = self.shared.cached_topology(Reserve::Client).map_err(unavailable)?;
        let max_data_shards = writing.stripes.width(&topology).map_err(store_error)?;
        Ok(StripeShape { geometry: self.geometry, max_data_shards, shard_target: writing.stripes.shard_target() })
    }

    async fn store_stripe(&self, writer: Epoch, frames: Vec<StripeFrame>) -> Result<(), CommitError> {
        let own = Own { meta: self, writing: self.writing()? };
        store_stripes(&own, writer, frames).await
    }

    fn status(&self) -> Status {
        let (reason, ensemble, applied, sealed, drives) = {
            let volatile = self.shared.volatile();
            let ensemble = volatile.register.as_ref().map(|r| r.members.clone()).unwrap_or_default();
            (volatile.read_only.clone(), ensemble, volatile.applied, volatile.sealed, volatile.drives.clone())
        };
        let survives = self.survives(&ensemble);
        Status {
            mode: if reason.is_none() { Mode::Serving } else { Mode::ReadOnly },
            reason: reason.unwrap_or_default(),
            geometry: self.geometry,
            epoch: self.epoch(),
            applied,
            sealed,
            ensemble,
            drives: self.drive_lines(&drives),
            survives,
            warnings: self.warnings(),
        }
    }
}
