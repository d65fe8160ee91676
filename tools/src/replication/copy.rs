//! Making one key the same on both sides: its current version, or all of them where the rule says so ([`super::history`]).
//!
//! Invariants:
//! * What is copied is what the key is now, and it is done only up to the change that was known before it was looked up: a key
//!   that changes meanwhile waits on.
//! * First is looked at what is there, then this process makes sure that it still leads, then is looked at what is here. What
//!   is written names what was found there. So a leader that was superseded puts nothing older over what its successor has copied:
//!   either it learns that it does not lead, or the successor's copy comes after the look and the write is refused.
//! * While reclaim is held because what is known here may be older than what was (R10), only what is not there is created: the
//!   copy may be the last of a version whose entry was lost here.
//! * A key one of whose writes may still arrive is looked at once more when it can't any more ([`super::late`]).
//! * What is locked here is not deleted there: a delete marker that is put over a locked version hides it here, and would be the end
//!   of its copy there.
//! * Bytes come through the engine, so each was verified against its chunk's id, and they go out with their MD5: what is
//!   broken on the way is refused there.
//! * At most one part of each object is in memory, and all of them together in [`Room`].

use super::history::Known;
use super::late::Late;
use super::same;
use super::target::{Described, Far, Piece, Target, TargetError, Written};
use bytes::{Bytes, BytesMut};
use codec::effect::{Content, ReplicationRow, VersionRow};
use codec::id::BucketId;
use futures::{TryFutureExt, TryStreamExt};
use gateway::engine::Gateway;
use gateway::error::GetError;
use md5::{Digest, Md5};
use metadata::client::{LookupError, MAX_NEWEST, MetadataClient};
use metadata::index::{self, IndexError, Overlay, reclaim, replication, versions};
use metadata::keys::Purpose;
use metadata::lock;
use metadata::replica::{Leading, NotLeading};
use metadata::service::Metadata;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The largest part that is written as it came, and the largest object in one piece: then the copy has the same entity tag.
const LARGEST: u64 = 64 << 20;
/// What others are cut into, unless that would be too many.
const PART: u64 = 16 << 20;
/// Most parts of an object.
const MAX_PARTS: u64 = 10_000;
/// Bytes of one permit of [`Room::memory`].
const UNIT: u64 = 64 << 10;
/// Reading a part here may take so long, and a second more for each MiB.
const READ: Duration = Duration::from_secs(120);

/// How long it may take to learn whether this process still leads.
const LED: Duration = Duration::from_secs(30);

/// What all copies together may use.
pub(super) struct Room {
    /// Keys that are copied at once.
    keys: Semaphore,
    memory: Semaphore,
    units: u32,
}

impl Room {
    pub(super) fn new(keys: usize, memory: u64) -> Room {
        let units = u32::try_from(memory / UNIT).unwrap_or(u32::MAX);
        Room { keys: Semaphore::new(keys), memory: Semaphore::new(units as usize), units }
    }

    pub(super) async fn key(&self) -> Option<SemaphorePermit<'_>> {
        self.keys.acquire().await.ok()
    }

    /// A rule's share of it.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        let units = (self.units / 2).max(1);
        Share { room: Arc::clone(self), memory: Semaphore::new(units as usize), units }
    }
}

/// What one rule may use of a [`Room`]: half of the memory; of the turns it takes no more by itself. Without it one slow endpoint
/// would have all of it, and the copies to all others would stand still.
pub(super) struct Share {
    room: Arc<Room>,
    memory: Semaphore,
    units: u32,
}

impl Share {
    pub(super) async fn key(&self) -> Option<SemaphorePermit<'_>> {
        self.room.key().await
    }

    /// A part that is larger than all the share (of an object of more than 640 GiB) has it to itself.
    async fn bytes(&self, len: u64) -> Option<[SemaphorePermit<'_>; 2]> {
        let units = u32::try_from(len.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units);
        // In this order: whoever waits for its share holds nothing of what others could have.
        let own = self.memory.acquire_many(units).await.ok()?;
        Some([own, self.room.memory.acquire_many(units).await.ok()?])
    }
}

/// What came of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// It was copied.
    Put {
        /// Bytes.
        bytes: u64,
    },
    /// Some of its versions were.
    Versions {
        /// Copied, or given other tags.
        put: u64,
        /// Their bytes.
        bytes: u64,
        /// Deleted there, and delete markers that were put.
        deleted: u64,
    },
    /// It was deleted there.
    Deleted,
    /// There was nothing to do.
    Same,
}

/// A key that was made the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// The LSN of the last change that the copy has for sure.
    pub lsn: u64,
    pub copied: Copied,
    /// It is to be looked at once more, then: what was given up may arrive until then.
    pub again: Option<Instant>,
}

/// Why a key was not copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// The other side.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The other side refuses this key, and not the bucket.
    #[error(transparent)]
    OfThisKey(TargetError),
    /// The object can't be read here.
    #[error("it can't be read here: {0}")]
    Unreadable(GetError),
    /// Not now, for a reason on this side.
    #[error("not now: {0}")]
    Here(String),
    /// It has more versions than are kept in memory.
    #[error("it has more than {} versions", super::history::MOST)]
    TooMany,
    /// What is there may be newer than what is here.
    #[error("held until reclaim release: {0}")]
    Held(reclaim::Hold),
    /// It has changed while it was copied: it is begun anew.
    #[error("it changed while it was copied")]
    Superseded,
}

impl From<GetError> for CopyError {
    fn from(error: GetError) -> CopyError {
        match error {
            GetError::Busy | GetError::Unavailable(_) => CopyError::Here(error.to_string()),
            error => CopyError::Unreadable(error),
        }
    }
}

impl From<LookupError> for CopyError {
    fn from(error: LookupError) -> CopyError {
        CopyError::Here(error.to_string())
    }
}

impl From<NotLeading> for CopyError {
    fn from(error: NotLeading) -> CopyError {
        CopyError::Here(error.to_string())
    }
}

impl From<IndexError> for CopyError {
    fn from(error: IndexError) -> CopyError {
        CopyError::Here(error.to_string())
    }
}

/// What a copy needs.
pub(super) struct Copier {
    pub meta: Arc<Metadata>,
    pub leading: Arc<dyn Leading>,
    pub engine: Arc<Gateway>,
    pub target: Arc<Target>,
    pub room: Share,
    pub late: Arc<Late>,
    pub known: Arc<Known>,
    pub rule: ReplicationRow,
}

/// How an object is written.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Whole,
    /// In parts of these sizes. `as_here`: as it came, so that the entity tag becomes the same.
    Parts {
        sizes: Vec<u64>,
        as_here: bool,
    },
}

fn plan(content: &Content) -> Plan {
    if content.part_sizes.is_empty() && content.size <= LARGEST {
        return Plan::Whole;
    }
    if !content.part_sizes.is_empty() && content.part_sizes.iter().all(|size| *size <= LARGEST) {
        return Plan::Parts { sizes: content.part_sizes.clone(), as_here: true };
    }
    let part = PART.max(content.size.div_ceil(MAX_PARTS));
    let whole = usize::try_from(content.size / part).unwrap_or(usize::MAX);
    let mut sizes = vec![part; whole];
    sizes.extend(Some(content.size % part).filter(|rest| *rest > 0));
    Plan::Parts { sizes, as_here: false }
}

/// What is to be done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Delete,
    Put,
    /// Would put an older state over a newer one if what is here came from a state that has lost entries.
    Replacing,
}

/// What makes `found` what `current` is. `held`: of what is there nothing may be deleted or replaced.
fn step(current: Option<&VersionRow>, found: Option<&Far>, deletes: bool, held: bool) -> Step {
    match (current, found) {
        (None, Some(_)) if deletes && held => Step::Replacing,
        (None, Some(_)) if deletes => Step::Delete,
        (None, _) => Step::Nothing,
        (Some(version), Some(found)) if same::unlike_head(version, found).is_empty() => Step::Nothing,
        (Some(_), Some(_)) if held => Step::Replacing,
        (Some(_), _) => Step::Put,
    }
}

/// The MD5 that an entity tag is, if it is one.
fn md5_of(etag: &str) -> Option<[u8; 16]> {
    let mut md5 = [0; 16];
    hex::decode_to_slice(etag, &mut md5).ok().map(|()| md5)
}

impl Copier {
    pub(super) fn bucket(&self) -> BucketId {
        BucketId(self.rule.bucket)
    }

    /// The LSN of the last change of a key that waits.
    pub(super) fn changed(&self, key: &str) -> Result<Option<u64>, IndexError> {
        let view = Overlay::new(&**self.meta.kv());
        Ok(replication::waiting(&view, self.bucket(), key)?.map(|row| row.changed))
    }

    /// What a key is here, for whoever names no version.
    pub(super) async fn current(&self, key: &str) -> Result<Option<VersionRow>, LookupError> {
        let current = self.meta.current_version(self.bucket(), key).await?;
        Ok(current.filter(|version| !version.delete_marker))
    }

    /// Makes a key there what it is here; `None` when the key does not wait.
    pub(super) async fn copy(&self, key: &str) -> Result<Option<Done>, CopyError> {
        let Some(lsn) = self.changed(key)? else { return Ok(None) };
        if self.rule.versions {
            return match self.copy_versions(key, lsn).await {
                Err(CopyError::Target(error @ (TargetError::Denied(_) | TargetError::Busy(_)))) => {
                    Err(self.judged(error).await)
                }
                done => done.map(Some),
            };
        }
        // Before the look: what arrives after it must not be taken for what it saw.
        let looked = Instant::now();
        let found = match self.target.head(key, None).await {
            Err(error @ TargetError::Denied(_)) => return Err(self.judged(error).await),
            found => found?,
        };
        match self.make_same(key, found, lsn, looked).await {
            Err(CopyError::Target(error @ (TargetError::Denied(_) | TargetError::Busy(_)))) => {
                Err(self.judged(error).await)
            }
            done => done.map(Some),
        }
    }

    /// What is denied of one key may be allowed of every other one: none waits for it unless the bucket is closed, too.
    async fn judged(&self, error: TargetError) -> CopyError {
        self.target.look().await.map_or_else(CopyError::Target, |()| CopyError::OfThisKey(error))
    }

    /// Fails unless this process leads.
    pub(super) async fn leads(&self) -> Result<(), CopyError> {
        let led = tokio::time::timeout(LED, self.leading.linearizable()).await;
        Ok(led.map_err(|_| CopyError::Here("who leads is not known".to_owned()))??)
    }

    /// `found`: what is there; `looked`: when that was, or before.
    async fn make_same(&self, key: &str, found: Option<Far>, lsn: u64, looked: Instant) -> Result<Done, CopyError> {
        self.leads().await?;
        let current = self.current(key).await?;
        let hold = reclaim::unreleased(&Overlay::new(&**self.meta.kv()))?;
        // Where deletes are not copied it does not matter what comes of what is gone here.
        let again = match current {
            None if !self.rule.deletes => None,
            None => self.late.until(key, true, looked),
            Some(_) => self.late.until(key, false, looked),
        };
        let copied = match (step(current.as_ref(), found.as_ref(), self.rule.deletes, hold.is_some()), current, found) {
            (Step::Delete, _, Some(_)) if self.keeps_a_version::<CopyError>(key).await? => Copied::Same,
            (Step::Delete, _, Some(found)) => {
                self.answered(key, self.target.delete(key, &found).map_err(CopyError::from)).await?;
                Copied::Deleted
            }
            (Step::Put, Some(version), found) => {
                let (bytes, _) = self.answered(key, self.put(&version, found.as_ref(), lsn)).await?;
                Copied::Put { bytes }
            }
            // A row that went too early is never looked at again, and what was deleted here would be there for ever.
            (Step::Nothing, None, None) if self.rule.deletes && again.is_none() => {
                self.target.lacks(key).await?;
                Copied::Same
            }
            (Step::Nothing, Some(version), Some(found)) if same::has_tags(&version, &found) => match hold {
                Some(hold) => return Err(CopyError::Held(hold)),
                None => self.answered(key, self.same_tags(&version)).await?,
            },
            (Step::Replacing, _, _) => return Err(hold.map_or(CopyError::Superseded, CopyError::Held)),
            (Step::Nothing | Step::Delete | Step::Put, _, _) => Copied::Same,
        };
        Ok(Done { lsn, copied, again })
    }

    /// Waits for a write, and remembers it if nobody can say what comes of it.
    pub(super) async fn answered<T>(
        &self,
        key: &str,
        write: impl Future<Output = Result<T, CopyError>>,
    ) -> Result<T, CopyError> {
        let unanswered = self.late.writing(key);
        let result = write.await;
        if !matches!(result, Err(CopyError::Target(TargetError::Unreachable(_) | TargetError::Busy(_)))) {
            unanswered.answered();
        }
        result
    }

    /// Whether a version of a key that has none any more, for whoever names no version, is locked here.
    pub(super) async fn keeps_a_version<E>(&self, key: &str) -> Result<bool, E>
    where
        E: From<LookupError> + From<IndexError>,
    {
        let versions = self.meta.newest_versions(self.bucket(), key, MAX_NEWEST).await?;
        let view = Overlay::new(&**self.meta.kv());
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        for version in &versions {
            if lock::is_kept(&view, version, wall_ms)? {
                return Ok(true);
            }
        }
        // There are more than are looked at: in a bucket with Object Lock one of them may be.
        let locks = index::bucket_by_id(&view, self.bucket())?.is_some_and(|bucket| bucket.lock);
        Ok(locks && versions.len() == MAX_NEWEST)
    }

    /// Gives an object there the tags that it has here.
    async fn same_tags(&self, version: &VersionRow) -> Result<Copied, CopyError> {
        let here = same::tags_of(version);
        if self.target.tags(&version.key, None).await? == here {
            return Ok(Copied::Same);
        }
        self.target.set_tags(&version.key, None, &here).await?;
        Ok(Copied::Put { bytes: 0 })
    }

    /// Whether the entity tag goes along. With versions always: where the endpoint makes tags of its own (SSE-KMS), a copy that is not known
    /// for one would be put again and again, and each time be one more.
    fn marks(&self, marked: bool) -> bool {
        marked || self.rule.versions
    }

    /// What of a version goes along that says which one it is.
    fn name(&self, version: &VersionRow) -> Option<String> {
        self.rule.versions.then(|| versions::name_of(version))
    }

    /// Whether a version is still to be copied. `changed`: its key's last change that was known; where all versions are copied it does
    /// not matter that there is a newer one.
    fn wants(&self, version: &VersionRow, changed: u64) -> Result<bool, IndexError> {
        if self.rule.versions {
            return Ok(self.named(&version.key, &versions::name_of(version))?.is_some());
        }
        Ok(self.changed(&version.key)? == Some(changed))
    }

    /// Writes a version: its size, and what it came to there.
    pub(super) async fn put(
        &self,
        version: &VersionRow,
        found: Option<&Far>,
        changed: u64,
    ) -> Result<(u64, Written), CopyError> {
        let content =
            version.content.as_ref().ok_or_else(|| CopyError::Here("a version without content".to_owned()))?;
        let written = match plan(content) {
            Plan::Whole => self.put_whole(version, content, found).await?,
            Plan::Parts { sizes, as_here } => {
                // Uploads that were left: two of this process never have the same key.
                self.target.abort_others(&version.key).await;
                let upload = self
                    .target
                    .begin(&version.key, &Described::new(version, self.marks(!as_here), self.name(version)))
                    .await?;
                let written = self.put_parts(version, content, &upload, &sizes, found, changed).await;
                if written.is_err() {
                    self.target.abort(&version.key, &upload).await;
                }
                written?
            }
        };
        Ok((content.size, written))
    }

    async fn put_whole(
        &self,
        version: &VersionRow,
        content: &Content,
        found: Option<&Far>,
    ) -> Result<Written, CopyError> {
        let _room = self.room.bytes(content.size).await;
        let bytes = self.read(version, content, 0..content.size).await?;
        // Under SSE-KMS and SSE-C a tag looks like an MD5 and is none.
        let purpose = self.engine.purpose_of(content).await?;
        let tag = md5_of(&content.etag).filter(|_| matches!(purpose, Purpose::Plain | Purpose::Managed));
        let (piece, marked) = match tag {
            Some(md5) => (Piece { bytes, md5 }, false),
            None => (digested(bytes).await?, true),
        };
        let checksum = content.checksums.iter().find(|checksum| !checksum.composite);
        let what = Described::new(version, self.marks(marked), self.name(version));
        Ok(self.target.put(&version.key, &what, piece, checksum, found).await?)
    }

    async fn put_parts(
        &self,
        version: &VersionRow,
        content: &Content,
        upload: &str,
        sizes: &[u64],
        found: Option<&Far>,
        changed: u64,
    ) -> Result<Written, CopyError> {
        let (mut tags, mut at) = (Vec::with_capacity(sizes.len()), 0u64);
        for (size, number) in sizes.iter().zip(1..) {
            // The rest of a version that is gone is not worth sending.
            if !self.wants(version, changed)? {
                return Err(CopyError::Superseded);
            }
            let end = at.saturating_add(*size);
            let _room = self.room.bytes(*size).await;
            let piece = digested(self.read(version, content, at..end).await?).await?;
            tags.push(self.target.part(&version.key, upload, number, piece).await?);
            at = end;
        }
        if !self.wants(version, changed)? {
            return Err(CopyError::Superseded);
        }
        Ok(self.target.complete(&version.key, upload, tags, found).await?)
    }

    async fn read(&self, version: &VersionRow, content: &Content, range: Range<u64>) -> Result<Bytes, CopyError> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            // The last part of an upload may be empty, and no range of an object is.
            return Ok(Bytes::new());
        }
        let reading = async {
            let mut stream = self.engine.get(content, Some(range)).await?.bytes;
            let mut bytes = BytesMut::with_capacity(usize::try_from(len).unwrap_or(0));
            while let Some(piece) = stream.try_next().await? {
                bytes.extend_from_slice(&piece);
            }
            Ok::<_, GetError>(bytes.freeze())
        };
        let limit = READ + Duration::from_secs(len >> 20);
        let read = tokio::time::timeout(limit, reading).await;
        let read = read.map_err(|_| CopyError::Here("reading it takes too long".to_owned()))?;
        read.map_err(|error| {
            self.engine.read_alarm(&format!("bucket {}", version.bucket), &version.key).raise(&error);
            error.into()
        })
    }
}

/// Aside: a large part takes a tenth of a second.
async fn digested(bytes: Bytes) -> Result<Piece, CopyError> {
    let hashed = tokio::task::spawn_blocking(move || Piece { md5: Md5::digest(&bytes).into(), bytes });
    hashed.await.map_err(|error| CopyError::Here(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: u64, part_sizes: &[u64]) -> Content {
        Content { size, part_sizes: part_sizes.to_vec(), ..Content::default() }
    }

    #[test]
    fn objects_are_written_as_they_came_or_in_parts_that_fit() {
        const MIB: u64 = 1 << 20;
        assert_eq!(plan(&content(0, &[])), Plan::Whole);
        assert_eq!(plan(&content(LARGEST, &[])), Plan::Whole);
        let came = [LARGEST, 5 * MIB, 1];
        assert_eq!(plan(&content(1, &came)), Plan::Parts { sizes: came.to_vec(), as_here: true });
        let cut = |size, parts: &[u64]| match plan(&content(size, parts)) {
            Plan::Parts { sizes, as_here: false } => sizes,
            other => panic!("{other:?}"),
        };
        assert_eq!(cut(LARGEST + 1, &[]), [PART, PART, PART, PART, 1]);
        assert_eq!(cut(6 * LARGEST, &[5 * LARGEST, LARGEST]).len(), 24);
        let huge = cut(5 << 40, &[]);
        assert!(huge.len() as u64 <= MAX_PARTS && huge.iter().sum::<u64>() == 5 << 40);
    }

    /// After `journal accept-loss` the queue says what was last known here, and there may be what came after it.
    #[test]
    fn while_reclaim_is_held_only_what_is_not_there_is_created() {
        let version = |etag: &str| VersionRow {
            content: Some(Content { etag: etag.to_owned(), ..Content::default() }),
            ..VersionRow::default()
        };
        let (old, found) = (version("old"), Far { etag: "\"new\"".to_owned(), ..Far::default() });
        assert_eq!(step(None, Some(&found), true, false), Step::Delete);
        assert_eq!(step(None, Some(&found), true, true), Step::Replacing);
        assert_eq!(step(Some(&old), Some(&found), true, false), Step::Put);
        assert_eq!(step(Some(&old), Some(&found), true, true), Step::Replacing);
        assert_eq!(step(Some(&old), None, true, true), Step::Put);
        assert_eq!(step(None, Some(&found), false, true), Step::Nothing);
    }

    #[test]
    fn only_a_plain_md5_is_one() {
        assert!(md5_of("d41d8cd98f00b204e9800998ecf8427e").is_some());
        assert!(md5_of("d41d8cd98f00b204e9800998ecf8427e-2").is_none() && md5_of("").is_none());
    }

    #[tokio::test]
    async fn a_rule_has_half_of_the_room() {
        let room = Arc::new(Room::new(1, 1 << 20));
        let (slow, other) = (room.share(), room.share());
        let all = slow.bytes(5 << 30).await;
        assert!(all.is_some() && slow.memory.available_permits() == 0 && room.memory.available_permits() == 8);
        let waits = tokio::time::timeout(Duration::from_millis(1), slow.bytes(1)).await;
        assert!(waits.is_err());
        assert!(other.bytes(5 << 30).await.is_some(), "one slow endpoint has all the room");
        drop(all);
        assert_eq!((slow.memory.available_permits(), room.memory.available_permits()), (8, 16));
    }
}
