//! What a put and a delete do to the versions of a key, by how its bucket keeps versions.
//!
//! Source: Amazon S3 User Guide, "Using versioning in S3 buckets", "Working with objects in a versioning-enabled bucket" and "...in a
//! versioning-suspended bucket", "Deleting object versions", "Working with delete markers"; API Reference, DeleteObject (conditions).
//!
//! Invariants:
//! * While versions are kept nothing is removed but by its version id.
//! * A key has one null version at most: what becomes the null version replaces the one that there was.
//! * Every removal is in [`Change::removes`], so whoever carries it out asks [`crate::lock::may_delete`] of it, and refuses all of the
//!   change if it may not be.

use crate::lifecycle::plan::Versioning;

/// What is known of a version, newest first in lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its id; empty for the null version.
    pub id: String,
    /// It is a delete marker.
    pub delete_marker: bool,
    /// Its entity tag, without quotes; empty for a delete marker.
    pub etag: String,
    /// Its bytes.
    pub size: u64,
    /// When it was put, in whole seconds since the Unix epoch, as Last-Modified shows it.
    pub modified_s: u64,
}

/// Which version a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// None.
    Current,
    /// `versionId=null`.
    Null,
    /// By its id.
    Id(&'a str),
}

/// Why a version id is none. S3: InvalidArgument, 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It is empty.
    #[error("Version id cannot be the empty string")]
    Empty,
    /// It can't be one of ours.
    #[error("Invalid version id specified")]
    Malformed,
}

/// Length of a version id.
const ID_LEN: usize = 32;

impl<'a> Named<'a> {
    /// Reads the parameter `versionId`.
    pub fn parse(text: Option<&'a str>) -> Result<Named<'a>, IdError> {
        let well_formed = |text: &str| text.len() == ID_LEN && text.bytes().all(|b| b.is_ascii_alphanumeric());
        match text {
            None => Ok(Named::Current),
            Some("") => Err(IdError::Empty),
            Some("null") => Ok(Named::Null),
            Some(id) if well_formed(id) => Ok(Named::Id(id)),
            Some(_) => Err(IdError::Malformed),
        }
    }

    /// Where it is among the versions of its key.
    pub fn find(self, versions: &[Version]) -> Option<usize> {
        match self {
            Named::Current => (!versions.is_empty()).then_some(0),
            Named::Null => null(versions),
            Named::Id(id) => versions.iter().position(|version| version.id == id),
        }
    }
}

fn null(versions: &[Version]) -> Option<usize> {
    versions.iter().position(|version| version.id.is_empty())
}

/// What is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// A version, or a delete marker, with an id of its own.
    WithId,
    /// The null version, or a null delete marker.
    Null,
}

/// What becomes of the versions of a key: all of it, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Which version goes, for good.
    pub removes: Option<usize>,
    /// What is added as the newest.
    pub adds: Option<Added>,
}

/// What a put, a copy or a completed upload does.
pub fn put(versions: &[Version], versioning: Versioning) -> Change {
    match versioning {
        Versioning::Enabled => Change { removes: None, adds: Some(Added::WithId) },
        Versioning::Never | Versioning::Suspended => Change { removes: null(versions), adds: Some(Added::Null) },
    }
}

/// What a delete does. Without versions, and of a version that is not there, it does nothing, and is no error.
pub fn delete(versions: &[Version], versioning: Versioning, named: Named<'_>) -> Change {
    match (named, versioning) {
        (Named::Current, Versioning::Never) => Change { removes: null(versions), adds: None },
        (Named::Current, Versioning::Enabled) => Change { removes: None, adds: Some(Added::WithId) },
        (Named::Current, Versioning::Suspended) => Change { removes: null(versions), adds: Some(Added::Null) },
        (named, _) => Change { removes: named.find(versions), adds: None },
    }
}

/// What must hold for a delete: all of it that is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition<'a> {
    /// If-Match: the entity tag without quotes, or `*` for any version.
    pub etag: Option<&'a str>,
    /// x-amz-if-match-last-modified-time, in whole seconds.
    pub modified_s: Option<u64>,
    /// x-amz-if-match-size.
    pub size: Option<u64>,
}

/// A condition does not hold. S3: PreconditionFailed, 412.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("At least one of the pre-conditions you specified did not hold")]
pub struct Failed;

/// Whether a delete may go on. Of what is not there no condition fails: it is gone, as was asked. A delete marker is there, and has
/// neither an entity tag nor a size; `*` holds of it.
pub fn check_delete(versions: &[Version], named: Named<'_>, condition: Condition<'_>) -> Result<(), Failed> {
    let Some(version) = named.find(versions).and_then(|at| versions.get(at)) else { return Ok(()) };
    let has = |wanted: u64, is: u64| !version.delete_marker && wanted == is;
    let etag = condition.etag.is_none_or(|wanted| wanted == "*" || (!version.delete_marker && wanted == version.etag));
    let time = condition.modified_s.is_none_or(|wanted| has(wanted, version.modified_s));
    let size = condition.size.is_none_or(|wanted| has(wanted, version.size));
    if etag && time && size { Ok(()) } else { Err(Failed) }
}

/// What a read finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The version at this place.
    Version(usize),
    /// There is no such key. S3: NoSuchKey, 404.
    NoKey,
    /// There is no such version. S3: NoSuchVersion, 404.
    NoVersion,
    /// The current version is a delete marker. S3: NoSuchKey, 404, with `x-amz-delete-marker: true` and its version id.
    Deleted(usize),
    /// A delete marker was named. S3: MethodNotAllowed, 405, with `x-amz-delete-marker: true`, `allow: DELETE` and Last-Modified.
    Marker(usize),
}

/// What a read finds.
pub fn read(versions: &[Version], named: Named<'_>) -> Found {
    let Some(at) = named.find(versions) else {
        return if named == Named::Current { Found::NoKey } else { Found::NoVersion };
    };
    let marker = versions.get(at).is_some_and(|version| version.delete_marker);
    match (marker, named) {
        (false, _) => Found::Version(at),
        (true, Named::Current) => Found::Deleted(at),
        (true, _) => Found::Marker(at),
    }
}

/// Why a bucket's versioning stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersioningError {
    /// Object Lock needs it. S3: InvalidBucketState, 409.
    #[error("An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.")]
    Locked,
}

/// Whether a bucket's versioning may become another one. It never becomes what it was before it was first set.
pub fn may_set(new_enabled: bool, lock: bool) -> Result<Versioning, VersioningError> {
    match (new_enabled, lock) {
        (true, _) => Ok(Versioning::Enabled),
        (false, true) => Err(VersioningError::Locked),
        (false, false) => Ok(Versioning::Suspended),
    }
}

#[cfg(test)]
#[path = "versions_tests.rs"]
mod tests;
