//! What the other endpoint lists: objects, or all versions of them.

use super::{Target, TargetError, decoded, within};
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::EncodingType;
use std::cmp::Ordering;

/// Pages of a listing that show nothing and are passed over, of ten million deleted keys with Stele.
const EMPTY_PAGES: usize = 100;
/// Versions in a page of one key's: most keys have few, and what a longer page has more is of other keys.
const FEW: i32 = 20;

/// An object in a listing of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FarLine {
    pub key: String,
    pub size: u64,
    /// Without quotes.
    pub etag: String,
}

/// A version in a listing of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FarVersion {
    pub id: String,
    pub latest: bool,
    pub delete_marker: bool,
    pub size: u64,
    /// As sent, with its quotes.
    pub etag: String,
}

impl Target {
    /// All versions of a key from the oldest to the newest; `None` when they are more than `most`. Where a delete marker and a version are
    /// of the same second, which of them is older may be told wrongly, unless one of them is the latest.
    pub(crate) async fn versions(&self, key: &str, most: usize) -> Result<Option<Vec<FarVersion>>, TargetError> {
        let (mut found, mut max) = (Vec::<FarVersion>::new(), FEW);
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let request = self.client.list_object_versions().bucket(&self.bucket).prefix(key).max_keys(max);
            let request = request.encoding_type(EncodingType::Url);
            let request = request.set_key_marker(key_marker.clone()).set_version_id_marker(id_marker.clone());
            let page = within(0, request.send()).await?;
            let lines = version_lines(&page)?;
            let all = lines.len();
            for (_, version) in lines.into_iter().filter(|(name, _)| name == key) {
                // Of delete markers that lie together the newest stands for all: nothing here takes one away, so where versions come
                // and go they would grow beyond any bound.
                let hides = |above: &FarVersion| above.delete_marker && version.delete_marker;
                if !found.last().is_some_and(hides) {
                    found.push(version);
                }
            }
            if found.len() > most {
                return Ok(None);
            }
            let next = (next_key(&page)?, page.next_version_id_marker().map(str::to_owned));
            // What the key is a prefix of sorts behind it.
            let more = page.is_truncated() == Some(true) && next.0.as_deref() == Some(key);
            if !more {
                found.reverse();
                return Ok(Some(found));
            }
            if all == 0 || (next.0 == key_marker && next.1 == id_marker) {
                return Err(TargetError::Refused("a listing that does not go on".to_owned()));
            }
            (key_marker, id_marker) = next;
            max = 1000;
        }
    }

    /// A page of the keys behind one that have versions, and whether there is more.
    pub(crate) async fn keys_of_versions(&self, after: &str) -> Result<(Vec<String>, bool), TargetError> {
        let request = self.client.list_object_versions().bucket(&self.bucket).encoding_type(EncodingType::Url);
        let request = request.set_key_marker(Some(after.to_owned()).filter(|after| !after.is_empty()));
        let page = within(0, request.send()).await?;
        let mut keys: Vec<String> = version_lines(&page)?.into_iter().map(|(key, _)| key).collect();
        keys.dedup();
        Ok((keys, page.is_truncated() == Some(true)))
    }

    /// A page of the listing behind a key, and whether there is more. Pages that show nothing and go on are passed over: an endpoint
    /// that keeps versions may look at so many deleted keys and no more for one answer, as Stele does.
    pub(crate) async fn list(&self, after: &str) -> Result<(Vec<FarLine>, bool), TargetError> {
        let after = Some(after.to_owned()).filter(|after| !after.is_empty());
        let mut token = None;
        for _ in 0..EMPTY_PAGES {
            let request = self.client.list_objects_v2().bucket(&self.bucket).encoding_type(EncodingType::Url);
            let request = request.set_start_after(after.clone()).set_continuation_token(token.clone());
            let page = within(0, request.send()).await?;
            let more = page.is_truncated() == Some(true);
            let next = page.next_continuation_token().map(str::to_owned);
            if !page.contents().is_empty() || !more || next.is_none() || next == token {
                return Ok((lines(&page)?, more));
            }
            token = next;
        }
        Ok((Vec::new(), true))
    }
}

/// What a page lists.
fn lines(page: &ListObjectsV2Output) -> Result<Vec<FarLine>, TargetError> {
    let encoded = page.encoding_type() == Some(&EncodingType::Url);
    let mut lines = Vec::new();
    for object in page.contents() {
        let key = named(object.key().unwrap_or_default(), encoded)?;
        let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        lines.push(FarLine { key, size, etag: object.e_tag().unwrap_or_default().trim_matches('"').to_owned() });
    }
    Ok(lines)
}

fn named(name: &str, encoded: bool) -> Result<String, TargetError> {
    let plain = if encoded { decoded(name) } else { Some(name.to_owned()) };
    plain.ok_or_else(|| TargetError::Refused("a key that is no text".to_owned()))
}

/// A delete without an id would delete whatever is the current version.
fn version_id(id: Option<&str>) -> Result<String, TargetError> {
    let id = id.filter(|id| !id.is_empty()).map(str::to_owned);
    id.ok_or_else(|| TargetError::Refused("a listing of versions without their ids".to_owned()))
}

fn next_key(page: &ListObjectVersionsOutput) -> Result<Option<String>, TargetError> {
    let encoded = page.encoding_type() == Some(&EncodingType::Url);
    page.next_key_marker().map(|name| named(name, encoded)).transpose()
}

/// What a page lists: by key, newest first. Versions and delete markers come apart, and only their times say how they lie.
fn version_lines(page: &ListObjectVersionsOutput) -> Result<Vec<(String, FarVersion)>, TargetError> {
    let encoded = page.encoding_type() == Some(&EncodingType::Url);
    let at = |time: Option<&DateTime>| time.map_or((0, 0), |time| (time.secs(), time.subsec_nanos()));
    let mut lines = Vec::new();
    for version in page.versions() {
        let line = FarVersion {
            id: version_id(version.version_id())?,
            latest: version.is_latest() == Some(true),
            delete_marker: false,
            size: version.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            etag: version.e_tag().unwrap_or_default().to_owned(),
        };
        lines.push((named(version.key().unwrap_or_default(), encoded)?, at(version.last_modified()), line));
    }
    // As they come: two versions of the same time lie as they are listed.
    let mut markers = Vec::new();
    for marker in page.delete_markers() {
        let line = FarVersion {
            id: version_id(marker.version_id())?,
            latest: marker.is_latest() == Some(true),
            delete_marker: true,
            size: 0,
            etag: String::new(),
        };
        markers.push((named(marker.key().unwrap_or_default(), encoded)?, at(marker.last_modified()), line));
    }
    let (mut lines, mut markers) = (lines.into_iter().peekable(), markers.into_iter().peekable());
    let mut out = Vec::new();
    loop {
        let marker_first = match (lines.peek(), markers.peek()) {
            (None, None) => return Ok(out),
            (version, None) | (None, version) => version.is_some_and(|(_, _, line)| line.delete_marker),
            (Some((key, at, version)), Some((other, then, marker))) => match key.cmp(other) {
                Ordering::Equal => marker.latest || (!version.latest && then >= at),
                order => order.is_gt(),
            },
        };
        let next = if marker_first { markers.next() } else { lines.next() };
        out.extend(next.map(|(key, _, line)| (key, line)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They come in two lists, and only what is the latest is said.
    #[test]
    fn versions_and_delete_markers_lie_as_their_times_say() {
        use aws_sdk_s3::types::{DeleteMarkerEntry, ObjectVersion};
        let version = |key: &str, id: &str, at: i64, latest: bool| {
            let at = DateTime::from_secs(at);
            ObjectVersion::builder().key(key).version_id(id).last_modified(at).is_latest(latest).build()
        };
        let marker = |key: &str, id: &str, at: i64, latest: bool| {
            let at = DateTime::from_secs(at);
            DeleteMarkerEntry::builder().key(key).version_id(id).last_modified(at).is_latest(latest).build()
        };
        let page = ListObjectVersionsOutput::builder()
            .versions(version("a", "5", 9, true))
            .versions(version("a", "3", 7, false))
            .versions(version("a", "1", 7, false))
            .versions(version("c%20d", "2", 9, false))
            .delete_markers(marker("a", "4", 8, false))
            .delete_markers(marker("b", "2", 5, true))
            .delete_markers(marker("c%20d", "3", 9, true))
            .encoding_type(EncodingType::Url)
            .build();
        let lines = version_lines(&page).unwrap();
        let found: Vec<(&str, &str)> = lines.iter().map(|(key, line)| (key.as_str(), line.id.as_str())).collect();
        let wanted = [("a", "5"), ("a", "4"), ("a", "3"), ("a", "1"), ("b", "2"), ("c d", "3"), ("c d", "2")];
        assert_eq!(found, wanted);
        assert!(lines[1].1.delete_marker && lines[0].1.latest);
    }
}
