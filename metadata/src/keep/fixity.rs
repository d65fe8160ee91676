//! Fixity reports: for every object version, when each of its shards was last verified from the medium, and what that comes
//! to. Made from what the drives know of their own shards: no object is read, and none is sent anywhere.
//!
//! Invariants
//! * Page by page. What is held at a time is bounded by the page, whatever the bucket holds, and nothing is held between two
//!   pages: a page says where the next one begins.
//! * A report is no snapshot. Pages go through the versions in key order; each version is judged by the rows as they are when
//!   its page is made. What is put or deleted behind the report is not in it; what is put or deleted before it is, or is not.
//!   A version is never judged by the content of another one. What it names may move while it is looked at, and then it is
//!   looked at again; if it is gone by then, it is left out.
//! * Unknown is not missing (R13). A drive that can't be asked makes `unreachable` shards, and never a lost object. A shard
//!   that a drive does not have is only called missing after the stripe's row was read again and still named that drive:
//!   repair and reclaim move what the report looks at.

mod judge;
mod stripes;
mod walk;

pub use judge::{Outcome, Sum};
pub use stripes::{EntryFixity, ShardFixity, ShardState, StripeFixity};

use crate::client::LookupError;
use crate::index::{
    self, IndexError, OBJECTS, Overlay, View, after_prefix, bucket_objects, decode, escape_into, version_key,
};
use crate::service::Metadata;
use codec::effect::{ProtectionClass, VersionRow};
use codec::id::{BucketId, Lsn};
use std::time::{Duration, Instant};
use stripes::Stripes;

/// Most versions on a page, whatever was asked for.
pub const MAX_PAGE: usize = 500;
/// A page that lists more shards than this ends with the object that it is at.
const PAGE_SHARDS: usize = 16 << 10;
/// Shards that are listed one by one for one object. Of those beyond, only the counts and the oldest time are told.
pub const OBJECT_SHARDS: usize = 64 << 10;
/// A page that takes longer ends with the object that it is at, so that whoever asked sees progress.
const PAGE_TIME: Duration = Duration::from_secs(5);

/// Asks for a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FixityRequest {
    /// The bucket's name.
    pub bucket: String,
    /// Only keys that start so.
    pub prefix: String,
    /// [`FixityPage::next`] of the page before; `None` for the first.
    pub after: Option<FixityCursor>,
    /// Most versions; at most [`MAX_PAGE`] come.
    pub max: usize,
    /// Shards that were not verified since then, in milliseconds since the Unix epoch, are verified first; `None`: nothing is
    /// read for the report.
    pub verify_since: Option<u64>,
}

/// Where a page goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FixityCursor {
    /// The bucket that the report began with: a name may pass to another bucket.
    pub bucket: BucketId,
    /// The key of the last version that was looked at.
    pub key: String,
    /// That version.
    pub seq: Lsn,
}

/// A page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FixityPage {
    /// Versions by key, newest first. Delete markers, which have no bytes, are not among them.
    pub objects: Vec<ObjectFixity>,
    /// Where to go on; `None`: that was all.
    pub next: Option<FixityCursor>,
}

/// What is known of one version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectFixity {
    /// Its row: names, size, checksums. The manifest is taken out of it.
    pub version: VersionRow,
    /// Its entity tag is random, and no digest of its bytes: it is under a key of its client, or of the key store.
    pub random_tag: bool,
    /// Its stripes, with every shard, as far as they are listed ([`OBJECT_SHARDS`]).
    pub stripes: Vec<StripeFixity>,
    /// The journal entries that its chunks ride in until they are sealed.
    pub entries: Vec<EntryFixity>,
    /// Counts over all of its shards and journal copies, listed or not.
    pub sum: Sum,
    /// Why nothing better is known; empty when there is nothing to say.
    pub detail: String,
}

impl ObjectFixity {
    /// What it comes to.
    pub fn outcome(&self) -> Outcome {
        self.sum.outcome
    }
}

/// Why there is no page.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FixityError {
    /// There is no such bucket.
    #[error("there is no bucket {0}")]
    NoBucket(String),
    /// The bucket was deleted since the report began, and another one has its name: begin again.
    #[error("bucket {0} was deleted and created again since the report began")]
    OtherBucket(String),
    /// The index.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// Makes a page.
///
/// # Errors
/// The bucket or the index. What is wrong with a single object is in its entry.
pub async fn page(meta: &Metadata, request: &FixityRequest) -> Result<FixityPage, FixityError> {
    let began = Instant::now();
    let name = &request.bucket;
    let row = index::bucket(&Overlay::new(&**meta.kv()), name).map_err(lookup)?;
    let bucket = BucketId(row.ok_or_else(|| FixityError::NoBucket(name.clone()))?.id);
    if request.after.as_ref().is_some_and(|after| after.bucket != bucket) {
        return Err(FixityError::OtherBucket(name.clone()));
    }
    let max = request.max.clamp(1, MAX_PAGE);
    let mut rows = versions(meta, bucket, request, max).await?;
    let mut more = rows.len() == max;
    let mut stripes = Stripes::new(meta, request.verify_since).await;
    walk::prefetch(meta, &rows, &mut stripes, began + PAGE_TIME).await;
    let (mut page, mut last, mut listed) = (FixityPage::default(), None, 0);
    rows.reverse();
    while let Some(version) = rows.pop() {
        last = Some(FixityCursor { bucket, key: version.key.clone(), seq: Lsn(version.seq) });
        if let Some(mut object) = walk::object(meta, version, &mut stripes).await? {
            object.random_tag = has_random_tag(meta, &object.version).map_err(lookup)?;
            listed += object.stripes.iter().map(|stripe| stripe.shards.len()).sum::<usize>();
            page.objects.push(object);
        }
        if listed >= PAGE_SHARDS || began.elapsed() >= PAGE_TIME {
            more |= !rows.is_empty();
            break;
        }
    }
    page.next = last.filter(|_| more);
    Ok(page)
}

/// Whether a version's entity tag says nothing of its bytes. A digest that none is would be a false statement in a record that is kept
/// for ever.
fn has_random_tag(meta: &Metadata, version: &VersionRow) -> Result<bool, IndexError> {
    let Some(content) = version.content.as_ref().filter(|content| content.encrypted) else { return Ok(false) };
    let domain = index::domain(&Overlay::new(&**meta.kv()), content.domain_id())?;
    Ok(match domain.map(|domain| domain.class()) {
        Some(class) => matches!(class, ProtectionClass::Customer | ProtectionClass::Kms),
        // Nobody knows any more.
        None => true,
    })
}

fn lookup(error: IndexError) -> LookupError {
    match error {
        IndexError::Store(error) => LookupError::Unavailable { reason: error.to_string() },
        error @ IndexError::Damaged { .. } => LookupError::Damaged { reason: error.to_string() },
    }
}

/// The next versions. The cursor is a place among the rows, not a row: it does no harm if that row is gone.
async fn versions(
    meta: &Metadata,
    bucket: BucketId,
    request: &FixityRequest,
    max: usize,
) -> Result<Vec<VersionRow>, LookupError> {
    let mut start = bucket_objects(bucket);
    let mut end = start.clone();
    escape_into(&mut start, request.prefix.as_bytes());
    match after_prefix(request.prefix.as_bytes()) {
        Some(next) => escape_into(&mut end, &next),
        // The empty prefix: up to the next bucket.
        None => end.push(0xff),
    }
    if let Some(after) = &request.after {
        let mut past = version_key(bucket, &after.key, after.seq);
        past.push(0);
        start = start.max(past);
    }
    let kv = meta.kv().clone();
    // Rows that may have to come from the drive below the index: not on a thread that serves requests.
    let read = tokio::task::spawn_blocking(move || {
        let rows = Overlay::new(&*kv).rows(OBJECTS, &start, &end, max)?;
        rows.into_iter().map(|(key, value)| decode::<VersionRow>(OBJECTS, &key, value)).collect::<Result<Vec<_>, _>>()
    });
    read.await.map_err(|error| LookupError::Unavailable { reason: error.to_string() })?.map_err(lookup)
}
