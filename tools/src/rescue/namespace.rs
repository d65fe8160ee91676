//! The namespace as the entries leave it, in memory: which objects there are, and where their chunks lie.
//!
//! Rows are applied by the code that serves. Memory: about half a kilobyte for each object, chunk and stripe.

use super::chain::{Chain, Gap};
use codec::effect::{AcceptedLossRow, BucketRow, ChunkRow, DomainRow, Effect, EffectKind, KmsKeyRow};
use codec::id::{BucketId, ChunkId, DomainId, Lsn, StripeId};
use codec::journal::Entry;
use codec::stripe::StripeDescriptor;
use metadata::index::{self, BUCKETS, FAMILIES, IndexError, Overlay, View};
use metadata::keys::{KEY_CHECK_SETTING, KeyError, Keys};
use metadata::listing::{MAX_PAGE, VersionsPage, VersionsRequest};
use metadata::state::{self, ApplyError};
use storage_node::kv::memory::MemoryKv;
use storage_node::kv::{Kv, KvError};

/// Rows that are gathered before they go into the map.
const BATCH_ROWS: usize = 10_000;

/// Entries that verify and still can't be applied.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// An entry.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A row.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The map in memory.
    #[error(transparent)]
    Store(#[from] KvError),
}

/// All rows.
pub struct Namespace {
    kv: MemoryKv,
}

impl Namespace {
    /// Replays the chain. Returns what could not be read after all.
    pub fn replay(chain: &Chain<'_>) -> Result<(Namespace, Vec<Gap>), NamespaceError> {
        let kv = MemoryKv::new(&FAMILIES);
        let mut overlay = Overlay::new(&kv);
        let mut at = Lsn(0);
        let gaps = chain.replay(|entry| -> Result<(), NamespaceError> {
            apply(&mut overlay, at, entry)?;
            at = entry.lsn;
            if overlay.len() >= BATCH_ROWS {
                kv.write(std::mem::replace(&mut overlay, Overlay::new(&kv)).into_batch())?;
            }
            Ok(())
        })?;
        kv.write(overlay.into_batch())?;
        Ok((Namespace { kv }, gaps))
    }

    fn view(&self) -> Overlay<'_> {
        Overlay::new(&self.kv)
    }

    /// Every bucket, by name.
    pub fn buckets(&self) -> Result<Vec<BucketRow>, IndexError> {
        let (start, end) = (index::bucket_key(""), index::after_prefix(&index::bucket_key("")).unwrap_or_default());
        let rows = self.view().rows(BUCKETS, &start, &end, usize::MAX)?;
        rows.into_iter().map(|(key, value)| index::decode(BUCKETS, &key, value)).collect()
    }

    /// A page of a bucket's versions, delete markers included. `after`: [`VersionsPage::next`] of the page before.
    pub fn versions(
        &self,
        bucket: BucketId,
        prefix: &str,
        after: Option<(String, Option<String>)>,
    ) -> Result<VersionsPage, IndexError> {
        let (key_marker, version_marker) = after.unwrap_or_default();
        let (prefix, delimiter, max) = (prefix.to_owned(), String::new(), MAX_PAGE);
        let request = VersionsRequest { bucket, prefix, delimiter, key_marker, version_marker, max };
        metadata::listing::list_versions(&self.kv, &request)
    }

    /// A chunk.
    pub fn chunk(&self, id: ChunkId) -> Result<Option<ChunkRow>, IndexError> {
        index::chunk(&self.view(), id)
    }

    /// A stripe's descriptor, as it was committed.
    pub fn stripe(&self, id: StripeId) -> Result<Option<StripeDescriptor>, IndexError> {
        let row = index::stripe(&self.view(), id)?;
        Ok(row.and_then(|row| StripeDescriptor::parse(&row.descriptor).ok()))
    }

    /// A dedup domain.
    pub fn domain(&self, id: DomainId) -> Result<Option<DomainRow>, IndexError> {
        index::domain(&self.view(), id)
    }

    /// A key of the key store.
    pub fn kms_key(&self, id: &str) -> Result<Option<KmsKeyRow>, IndexError> {
        index::access::kms_key(&self.view(), id)
    }

    /// How many multipart uploads were open in a bucket.
    pub fn open_uploads(&self, bucket: BucketId) -> Result<usize, IndexError> {
        Ok(index::uploads(&self.view(), bucket, usize::MAX)?.len())
    }

    /// Refuses keys of which none is this cluster's: whatever one of them opens is rescued.
    pub fn check_key(&self, keys: &Keys) -> Result<Result<(), KeyError>, IndexError> {
        let setting = index::setting(&self.view(), KEY_CHECK_SETTING)?;
        Ok(setting.map_or(Ok(()), |setting| keys.opens(&setting)))
    }
}

/// Applies an entry. One that comes after a gap says so itself, in the way in which an accepted loss does: rows are whole,
/// so what comes after a gap is right whatever was in it.
fn apply(overlay: &mut Overlay<'_>, at: Lsn, entry: &Entry) -> Result<(), ApplyError> {
    let result = state::apply(overlay, entry.lsn, &entry.hash, &entry.effects);
    if !matches!(result, Err(ApplyError::Gap { .. })) || entry.lsn <= at {
        return result;
    }
    let loss = AcceptedLossRow { kept: at.0, known: entry.lsn.0.saturating_sub(1) };
    let mut effects = entry.effects.clone();
    effects.effects.insert(0, Effect { kind: Some(EffectKind::AcceptedLoss(loss)) });
    state::apply(overlay, entry.lsn, &entry.hash, &effects)
}
