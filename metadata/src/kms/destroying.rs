//! Destroying keys of the key store: what needs one is looked for in the background, since that is a walk over everything that is
//! stored.
//!
//! Invariants:
//! * That a key is to be destroyed is journaled ([`KmsKeyState::PendingDeletion`]), and nothing new is committed under it from then on.
//!   So a search that a crash or a change of the leader cuts off begins again with the next service, and is never forgotten.
//! * A key that something needs goes back to [`KmsKeyState::Disabled`]. One that nothing needs is destroyed only if it was out of use
//!   all the time since the search began.

use crate::audit::AskedBy;
use crate::client::CommitError;
use crate::command::{Command, Refusal, SetKmsKey};
use crate::commit::Request;
use crate::index::{self, IndexError, OBJECTS, Overlay, UPLOADS, access as rows};
use crate::keys::Purpose;
use crate::service::Shared;
use codec::effect::{KmsKeyRow, KmsKeyState, ProtectionClass, UploadRow, VersionRow};
use codec::id::Epoch;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage_node::kv::{Direction, Kv};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

/// A search that failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(60);
/// Keys of which it is remembered what needs them.
const REMEMBERED: usize = 1000;

/// Why a key is still about to be destroyed.
#[derive(Debug, thiserror::Error)]
pub enum DestroyFailure {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The change was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
}

/// Destroys the keys that are to be destroyed, if nothing needs them.
pub struct Destroying {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    epoch: Epoch,
    asked: Notify,
    /// What needs a key, for people, by its name.
    needed: Mutex<BTreeMap<String, String>>,
}

impl fmt::Debug for Destroying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destroying").finish_non_exhaustive()
    }
}

impl Destroying {
    pub(crate) fn new(shared: Arc<Shared>, requests: mpsc::Sender<Request>, epoch: Epoch) -> Arc<Destroying> {
        Arc::new(Destroying { shared, requests, epoch, asked: Notify::new(), needed: Mutex::default() })
    }

    /// A key is to be destroyed.
    pub(crate) fn begin(&self, key: &str) {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.asked.notify_one();
    }

    /// What needed a key when it was last to be destroyed, for people; `None` where nothing did, or nobody remembers.
    pub fn needed_by(&self, key: &str) -> Option<String> {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Rounds, until the task is ended: one at first, for what a service before this one began.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            match self.round().await {
                Ok(()) => self.asked.notified().await,
                Err(DestroyFailure::Stopping) => return,
                Err(error) => {
                    tracing::warn!(%error, "a key of the key store is destroyed later");
                    // Asked meanwhile, or again in a while.
                    let _ = timeout(AGAIN, self.asked.notified()).await;
                }
            }
        }
    }

    /// Looks for what needs each key that is to be destroyed.
    pub(crate) async fn round(&self) -> Result<(), DestroyFailure> {
        let keys = rows::kms_keys(&Overlay::new(&*self.shared.kv))?;
        for key in keys.into_iter().filter(|key| key.state == KmsKeyState::PendingDeletion as i32) {
            self.destroy(key).await?;
        }
        Ok(())
    }

    async fn destroy(&self, row: KmsKeyRow) -> Result<(), DestroyFailure> {
        let (id, since) = (row.id.clone(), row.since);
        let (kv, key) = (self.shared.kv.clone(), row.clone());
        let search = tokio::task::spawn_blocking(move || needed_by(&*kv, &key));
        let needed = search.await.map_err(|_| DestroyFailure::Stopping)??;
        let state = if needed.is_some() { KmsKeyState::Disabled } else { KmsKeyState::Destroyed };
        match self.commit(SetKmsKey { id: id.clone(), state, since: Some(since) }).await {
            // It was enabled or disabled meanwhile: whoever did that wants it.
            Err(DestroyFailure::Commit(CommitError::Refused(Refusal::Kms { .. } | Refusal::KmsKeyInUse(_)))) => {
                return Ok(());
            }
            done => done?,
        }
        let Some(by) = needed else {
            tracing::warn!(key = id, account = row.account, "a key of the key store was destroyed");
            return Ok(());
        };
        tracing::warn!(key = id, by, "a key of the key store is needed and stays, disabled");
        let mut remembered = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            remembered.pop_first();
        }
        remembered.insert(id, by);
        Ok(())
    }

    async fn commit(&self, set: SetKmsKey) -> Result<(), DestroyFailure> {
        let command = Command::SetKmsKey(set);
        let told = self.shared.audit.about(&command, &Overlay::new(&*self.shared.kv));
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit(self.epoch, Box::new(command), reply);
        self.requests.send(request).await.map_err(|_| DestroyFailure::Stopping)?;
        let answer = answer.await.map_err(|_| DestroyFailure::Stopping)?;
        let by = AskedBy { by: "the search for what needs the key".to_owned(), ..AskedBy::default() };
        self.shared.note(told, &by, answer.as_ref().map_err(ToString::to_string));
        answer?;
        Ok(())
    }
}

/// The first thing that is under a key. A scan sees everything that was there when it began, and what is committed since the key is
/// pending deletion is not under it.
pub(crate) fn needed_by(kv: &dyn Kv, key: &KmsKeyRow) -> Result<Option<String>, IndexError> {
    let view = Overlay::new(kv);
    let mut names = HashMap::new();
    for bucket in index::buckets(&view)? {
        let default = bucket.encryption.as_ref();
        if default.is_some_and(|default| default.class() == ProtectionClass::Kms && default.key == key.id) {
            return Ok(Some(format!("it is the default of bucket {}", bucket.name)));
        }
        names.insert(bucket.id, bucket.name);
    }
    let Some(domain) = index::domain_of(&view, &key.account, &Purpose::Kms(key.id.clone()))? else {
        return Ok(None);
    };
    let name = |bucket: u64| names.get(&bucket).cloned().unwrap_or_else(|| format!("bucket {bucket}, which is gone,"));
    let mut versions = kv.scan(OBJECTS, &[], Direction::Forward)?;
    while let Some((row_key, value)) = versions.next()? {
        let row: VersionRow = index::decode(OBJECTS, &row_key, value)?;
        if row.content.is_some_and(|content| content.domain == domain.id) {
            return Ok(Some(format!("{}/{} is under it", name(row.bucket), row.key)));
        }
    }
    let mut uploads = kv.scan(UPLOADS, b"u", Direction::Forward)?;
    while let Some((row_key, value)) = uploads.next()?.filter(|(row_key, _)| row_key.first() == Some(&b'u')) {
        let row: UploadRow = index::decode(UPLOADS, &row_key, value)?;
        if row.domain == domain.id {
            let of = row.name.unwrap_or_default();
            return Ok(Some(format!("an open upload of {}/{} is under it", name(of.bucket), of.key)));
        }
    }
    Ok(None)
}
