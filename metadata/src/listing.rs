//! Pages of keys, versions, uploads and parts.
//!
//! A marker is a plain cut-off: what sorts after it (by UTF-8 bytes) is listed. So a marker inside a common prefix shows
//! that prefix as long as a key of it sorts after the marker. The exception is a marker that *is* a common prefix, which
//! is what a truncated page ends with: the prefix was shown, and its keys are passed over.
//!
//! Invariant: a page of keys looks at [`MAX_LOOKED`] rows beyond those that it shows, and then ends, be it empty: below a million delete
//! markers a page would take longer than anybody waits, and each retry begins anew. The versions below a key's newest are not read at all.

use crate::index::{
    self, IndexError, OBJECTS, Overlay, RowFault, UPLOADS, View, after_prefix, bucket_objects, bucket_uploads, damaged,
    decode, escape_into, unescape,
};
use bytes::Bytes;
use codec::effect::{PartRow, UploadName, UploadRow, VersionRow};
use codec::id::{BucketId, Lsn};
use storage_node::kv::{Direction, Family, Kv, KvIterator};

/// Most items on a page, whatever was asked for.
pub const MAX_PAGE: usize = 1000;

/// Most keys that a page of keys passes over because they are deleted.
pub const MAX_LOOKED: usize = 100_000;

/// Asks for keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// The bucket.
    pub bucket: BucketId,
    /// Only keys that start so.
    pub prefix: String,
    /// Keys that have this after the prefix are rolled up into one common prefix. Empty: no rolling up.
    pub delimiter: String,
    /// Only what sorts after this: `marker`, `start-after`, or [`ListPage::next`] of the page before. Empty: from the start.
    pub after: String,
    /// Most items (keys and common prefixes); at most [`MAX_PAGE`] come. Zero gives an empty page.
    pub max: usize,
}

/// A page of keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListPage {
    /// Current versions, in key order.
    pub objects: Vec<VersionRow>,
    /// Common prefixes, in order. Merged with `objects` by name they are the page's items.
    pub prefixes: Vec<String>,
    /// When there may be more: what the next request's `after` is to be. The last item's key or prefix, or a deleted key after it.
    pub next: Option<String>,
}

/// Asks for versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionsRequest {
    /// The bucket.
    pub bucket: BucketId,
    /// Only keys that start so.
    pub prefix: String,
    /// As in [`ListRequest`].
    pub delimiter: String,
    /// Only what sorts after this key (or after the version below, if one is given).
    pub key_marker: String,
    /// The version of `key_marker` to go on after, as S3 names it (`null` for the null version).
    pub version_marker: Option<String>,
    /// As in [`ListRequest`].
    pub max: usize,
}

/// A page of versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VersionsPage {
    /// Versions and delete markers by key, newest first, and whether each is the key's latest.
    pub versions: Vec<(VersionRow, bool)>,
    /// Common prefixes, in order.
    pub prefixes: Vec<String>,
    /// When there is more: key marker and version marker of the next request.
    pub next: Option<(String, Option<String>)>,
}

/// Asks for open uploads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadsRequest {
    /// The bucket.
    pub bucket: BucketId,
    /// Only keys that start so.
    pub prefix: String,
    /// As in [`ListRequest`].
    pub delimiter: String,
    /// Only uploads of keys that sort after this one (or of this one, after the upload below, if one is given).
    pub key_marker: String,
    /// The upload of `key_marker` to go on after. Without a key marker it is ignored, as in S3.
    pub upload_marker: String,
    /// As in [`ListRequest`].
    pub max: usize,
}

/// A page of open uploads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UploadsPage {
    /// Uploads by key, oldest first.
    pub uploads: Vec<UploadRow>,
    /// Common prefixes, in order.
    pub prefixes: Vec<String>,
    /// When there is more: key marker and upload marker of the next request.
    pub next: Option<(String, String)>,
}

/// Asks for an upload's parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartsRequest {
    /// The upload.
    pub upload: UploadName,
    /// Only parts with higher numbers.
    pub after: u32,
    /// As in [`ListRequest`].
    pub max: usize,
}

/// A page of parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartsPage {
    /// The upload.
    pub upload: UploadRow,
    /// Parts by number.
    pub parts: Vec<PartRow>,
    /// When there is more: the last number, to be the `after` of the next request.
    pub next: Option<u32>,
}

/// A page of current versions. Keys whose newest version is a delete marker are not there.
pub fn list(kv: &dyn Kv, request: &ListRequest) -> Result<ListPage, IndexError> {
    list_within(kv, request, MAX_LOOKED)
}

fn list_within(kv: &dyn Kv, request: &ListRequest, most: usize) -> Result<ListPage, IndexError> {
    let mut page = ListPage::default();
    let max = request.max.min(MAX_PAGE);
    if max == 0 {
        return Ok(page);
    }
    let base = bucket_objects(request.bucket);
    let mut walk = Walk::new(kv, OBJECTS, base, &request.prefix, &request.delimiter, Start::After(&request.after))?;
    walk.left = most;
    let mut last = String::new();
    while let Some(item) = walk.next(Wanted::Current)? {
        if page.objects.len() + page.prefixes.len() == max {
            page.next = Some(last);
            break;
        }
        match item {
            Item::Enough(after) => {
                page.next = Some(after);
                break;
            }
            Item::Prefix(prefix) => {
                last.clone_from(&prefix);
                page.prefixes.push(prefix);
            }
            Item::Row { key, version, .. } => {
                last = key;
                page.objects.extend(version.map(|version| listed(*version)));
            }
        }
    }
    Ok(page)
}

/// A page of versions.
pub fn list_versions(kv: &dyn Kv, request: &VersionsRequest) -> Result<VersionsPage, IndexError> {
    let mut page = VersionsPage::default();
    let max = request.max.min(MAX_PAGE);
    if max == 0 {
        return Ok(page);
    }
    let base = bucket_objects(request.bucket);
    let marker = marked_version(kv, request)?;
    let start = match marker {
        Some(seq) => Start::AfterVersion(&request.key_marker, seq),
        None => Start::After(&request.key_marker),
    };
    let mut walk = Walk::new(kv, OBJECTS, base, &request.prefix, &request.delimiter, start)?;
    let mut last = (String::new(), None);
    // Of the marker's key only what is the newest still is the latest: the marker may have been, and be gone.
    let mut newest_of = match marker {
        Some(seq) => index::current_version(&Overlay::new(kv), request.bucket, &request.key_marker)?
            .filter(|newest| newest.seq >= seq.0)
            .map(|newest| newest.key),
        None => None,
    };
    while let Some(item) = walk.next(Wanted::All)? {
        if page.versions.len() + page.prefixes.len() == max {
            page.next = Some(last);
            break;
        }
        match item {
            Item::Enough(_) => break,
            Item::Prefix(prefix) => {
                last = (prefix.clone(), None);
                page.prefixes.push(prefix);
            }
            Item::Row { key, version, .. } => {
                let latest = newest_of.as_ref() != Some(&key);
                last = (key.clone(), version.as_deref().map(version_name));
                page.versions.extend(version.map(|version| (listed(*version), latest)));
                newest_of = Some(key);
            }
        }
    }
    Ok(page)
}

/// A version as a page has it: without what is kept of its parts, which is most of some rows, and which no listing shows.
fn listed(mut version: VersionRow) -> VersionRow {
    if let Some(content) = &mut version.content {
        content.parts = Vec::new();
    }
    version
}

/// The `seq` of the version to go on after. Its id says it, so a page in the middle of a key with 100,000 versions begins there, and
/// not at the newest of them. `None`: to go on after the key. Where the null version that a page ended with was is known no more when it
/// is gone: the key is shown from its newest version on then, so that some come twice, and none is left out.
fn marked_version(kv: &dyn Kv, request: &VersionsRequest) -> Result<Option<Lsn>, IndexError> {
    let marker = request.version_marker.as_deref().filter(|_| !request.key_marker.is_empty());
    match marker {
        None => Ok(None),
        Some("null") => {
            let null = index::null_version(&Overlay::new(kv), request.bucket, &request.key_marker)?;
            Ok(Some(null.map_or(Lsn(u64::MAX), |version| Lsn(version.seq))))
        }
        Some(id) => Ok(index::versions::seq_of_id(id)),
    }
}

fn version_name(version: &VersionRow) -> String {
    if version.version_id.is_empty() { "null".to_owned() } else { version.version_id.clone() }
}

/// A page of open uploads.
pub fn list_uploads(kv: &dyn Kv, request: &UploadsRequest) -> Result<UploadsPage, IndexError> {
    let mut page = UploadsPage::default();
    let max = request.max.min(MAX_PAGE);
    if max == 0 {
        return Ok(page);
    }
    let base = bucket_uploads(request.bucket);
    let start = if request.key_marker.is_empty() || request.upload_marker.is_empty() {
        Start::After(&request.key_marker)
    } else {
        Start::AfterUpload(&request.key_marker, &request.upload_marker)
    };
    let mut walk = Walk::new(kv, UPLOADS, base, &request.prefix, &request.delimiter, start)?;
    let mut last = (String::new(), String::new());
    while let Some(item) = walk.next(Wanted::Undecoded)? {
        if page.uploads.len() + page.prefixes.len() == max {
            page.next = Some(last);
            break;
        }
        match item {
            Item::Enough(_) => break,
            Item::Prefix(prefix) => {
                last = (prefix.clone(), String::new());
                page.prefixes.push(prefix);
            }
            Item::Row { key, row, value, .. } => {
                let upload: UploadRow = decode(UPLOADS, &row, value)?;
                let name = upload.name.as_ref().ok_or_else(|| damaged(UPLOADS, &row, RowFault::Field))?;
                last = (key, name.upload_id.clone());
                page.uploads.push(upload);
            }
        }
    }
    Ok(page)
}

/// A page of parts; `None` when there is no such upload.
pub fn list_parts(kv: &dyn Kv, request: &PartsRequest) -> Result<Option<PartsPage>, IndexError> {
    let view = Overlay::new(kv);
    let Some(upload) = index::upload(&view, &request.upload)? else { return Ok(None) };
    let mut page = PartsPage { upload, ..PartsPage::default() };
    let max = request.max.min(MAX_PAGE);
    let Some(first) = request.after.checked_add(1).filter(|_| max > 0) else { return Ok(Some(page)) };
    let start = index::part_key(&request.upload, first);
    let mut end = index::upload_parts(&request.upload);
    end.extend_from_slice(&[0xff; 5]);
    let rows = view.rows(UPLOADS, &start, &end, max + 1)?;
    let more = rows.len() > max;
    for (key, value) in rows.into_iter().take(max) {
        page.parts.push(decode(UPLOADS, &key, value)?);
    }
    page.next = page.parts.last().map(|part| part.number).filter(|_| more);
    Ok(Some(page))
}

/// Where a walk begins, before the prefix is taken into account.
enum Start<'a> {
    /// After every row of this key, or of this common prefix. An empty key is the beginning.
    After(&'a str),
    /// After this version of this key.
    AfterVersion(&'a str, Lsn),
    /// After this upload of this key.
    AfterUpload(&'a str, &'a str),
}

/// Which rows a walk shows, and whether it decodes them as versions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The newest version of each key, unless it is a delete marker.
    Current,
    /// Every version.
    All,
    /// Every row, not decoded.
    Undecoded,
}

enum Item {
    /// As much was passed over as may be. All up to this key was shown, as far as there is something to show.
    Enough(String),
    Prefix(String),
    Row {
        key: String,
        row: Bytes,
        value: Bytes,
        version: Option<Box<VersionRow>>,
    },
}

/// A walk over a bucket's rows in key order that rolls keys up into common prefixes and seeks past each of them.
struct Walk<'a> {
    scan: Box<dyn KvIterator + 'a>,
    family: Family,
    base: Vec<u8>,
    prefix: &'a str,
    delimiter: &'a str,
    /// The key whose newest version was seen last.
    seen: Option<String>,
    /// So many deleted keys may still be passed over.
    left: usize,
}

impl<'a> Walk<'a> {
    fn new(
        kv: &'a dyn Kv,
        family: Family,
        base: Vec<u8>,
        prefix: &'a str,
        delimiter: &'a str,
        start: Start<'_>,
    ) -> Result<Self, IndexError> {
        let mut from = base.clone();
        escape_into(&mut from, prefix.as_bytes());
        from = from.max(start_row(&base, prefix, delimiter, start));
        let scan = kv.scan(family, &from, Direction::Forward)?;
        Ok(Walk { scan, family, base, prefix, delimiter, seen: None, left: usize::MAX })
    }

    fn next(&mut self, wanted: Wanted) -> Result<Option<Item>, IndexError> {
        loop {
            let Some((row, value)) = self.scan.next()? else { return Ok(None) };
            let Some(rest) = row.strip_prefix(&self.base[..]) else { return Ok(None) };
            let key = unescape(rest).and_then(|(key, _)| String::from_utf8(key).ok());
            let key = key.ok_or_else(|| damaged(self.family, &row, RowFault::Key))?;
            if !key.starts_with(self.prefix) {
                return Ok(None);
            }
            if wanted == Wanted::Current && self.seen.as_ref() == Some(&key) {
                // Its other versions, however many they are.
                self.scan.seek(&after_key(&self.base, &key));
                continue;
            }
            if self.left == 0
                && let Some(seen) = self.seen.clone().filter(|seen| self.is_marker(seen, &key))
            {
                return Ok(Some(Item::Enough(seen)));
            }
            let version: Option<Box<VersionRow>> = match wanted {
                Wanted::Undecoded => None,
                Wanted::Current | Wanted::All => Some(Box::new(decode(self.family, &row, value.clone())?)),
            };
            if wanted == Wanted::Current {
                self.seen = Some(key.clone());
                // A prefix under which everything is deleted is not shown either.
                if version.as_ref().is_some_and(|version| version.delete_marker) {
                    self.left = self.left.saturating_sub(1);
                    continue;
                }
            }
            if let Some(common) = common_prefix(&key, self.prefix, self.delimiter) {
                let next = past_prefix(&self.base, common);
                let common = common.to_owned();
                self.seen = Some(common.clone());
                self.scan.seek(&next);
                return Ok(Some(Item::Prefix(common)));
            }
            return Ok(Some(Item::Row { key, row, value, version }));
        }
    }

    /// Whether a page may end at `key`, and the next begin with `next`. A marker that is a common prefix says that all of it was shown.
    fn is_marker(&self, key: &str, next: &str) -> bool {
        common_prefix(key, self.prefix, self.delimiter) != Some(key) || !next.starts_with(key)
    }
}

/// The common prefix that `key` is rolled up into, if any.
fn common_prefix<'k>(key: &'k str, prefix: &str, delimiter: &str) -> Option<&'k str> {
    if delimiter.is_empty() {
        return None;
    }
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// The first row after every key that starts with `prefix`.
fn past_prefix(base: &[u8], prefix: &str) -> Vec<u8> {
    let mut out = base.to_vec();
    match after_prefix(prefix.as_bytes()) {
        Some(next) => escape_into(&mut out, &next),
        // UTF-8 has no byte 0xff, so this is the empty prefix, after which nothing comes.
        None => out.push(0xff),
    }
    out
}

/// After every row of a key. Its rows go on with 00 01, rows of keys that it is a proper prefix of with 00 ff or more than 00: 00 02 lies
/// between.
fn after_key(base: &[u8], key: &str) -> Vec<u8> {
    let mut out = base.to_vec();
    escape_into(&mut out, key.as_bytes());
    out.extend_from_slice(&[0, 2]);
    out
}

fn start_row(base: &[u8], prefix: &str, delimiter: &str, start: Start<'_>) -> Vec<u8> {
    let at = |key: &str| {
        let mut out = base.to_vec();
        escape_into(&mut out, key.as_bytes());
        out
    };
    match start {
        Start::After("") => base.to_vec(),
        Start::After(marker) => {
            if marker.starts_with(prefix) && common_prefix(marker, prefix, delimiter) == Some(marker) {
                return past_prefix(base, marker);
            }
            after_key(base, marker)
        }
        Start::AfterVersion(key, seq) => {
            let mut out = at(key);
            out.extend_from_slice(&[0, 1]);
            out.extend_from_slice(&(!seq.0).to_be_bytes());
            out.push(0);
            out
        }
        Start::AfterUpload(key, upload) => {
            let mut out = at(key);
            out.extend_from_slice(&[0, 1]);
            escape_into(&mut out, upload.as_bytes());
            out.extend_from_slice(&[0, 2]);
            out
        }
    }
}

#[cfg(test)]
mod tests;
