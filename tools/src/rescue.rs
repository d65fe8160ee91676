//! `stele rescue`: objects straight from drive directories. The last resort, and the proof that the drives alone are enough.
//!
//! No index, no server, no lock, and nothing is written but the output: [`media`] scans the segments, [`chain`] puts journal
//! and ledger together, [`namespace`] replays them in memory, [`objects`] reads and verifies each object's chunks through
//! [`stripes`], and [`paths`] says where each goes. Whatever can't be read is reported and passed over.
//!
//! Memory: some half a kilobyte for each object, chunk and stripe of the whole cluster, about 60 bytes for each shard, and,
//! at a time, one ledger stripe or one chunk with the shards that it is decoded from. Objects are streamed.

pub mod chain;
pub mod media;
pub mod namespace;
pub mod objects;
pub mod paths;
pub mod print;
pub mod stripes;

use crate::progress::Progress;
use chain::{Chain, Gap};
use codec::effect::{BucketRow, VersionRow};
use codec::id::BucketId;
use codec::level::Later;
use media::{DriveReport, Media};
use metadata::index::IndexError;
use metadata::keys::{KeyError, Keys};
use namespace::{Namespace, NamespaceError};
use objects::{LostReason, Proof, Reader};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The list of all objects, in the output directory. No bucket can have this name: theirs are lower case.
pub const MANIFEST: &str = "MANIFEST.jsonl";
/// Versions that are not their key's latest, in the output directory: below it the bucket, the key, and the version's id. No bucket
/// can have this name either.
const VERSIONS: &str = "VERSIONS";
/// An object that is being written.
const PARTIAL: &str = "PARTIAL";
/// Objects that a report names; all are in [`MANIFEST`].
const MAX_NAMED: usize = 1000;

/// What to rescue.
#[derive(Clone, Debug)]
pub struct RescueOptions {
    /// The drives' directories.
    pub drives: Vec<PathBuf>,
    /// Where to: a directory that is empty, or not there yet.
    pub out: PathBuf,
    /// Only this bucket.
    pub bucket: Option<String>,
    /// Only keys that begin so.
    pub prefix: String,
    /// The key-encryption key.
    pub key_file: Option<PathBuf>,
}

/// Why nothing was rescued at all.
#[derive(Debug, thiserror::Error)]
pub enum RescueError {
    /// Nothing there.
    #[error("no segment could be read on any of the drives that were given")]
    NoDrives,
    /// Drives that don't belong together.
    #[error("the drives belong to different clusters ({0}): rescue one at a time")]
    Clusters(String),
    /// The output directory has something in it.
    #[error("{0} is not empty: rescue never writes over anything")]
    NotEmpty(PathBuf),
    /// The output would be written to a drive that is being rescued.
    #[error("{out} is on the drive {drive}: nothing is written there")]
    OnDrive {
        /// The output directory.
        out: PathBuf,
        /// The drive's directory.
        drive: PathBuf,
    },
    /// The output directory.
    #[error("{path}: {source}")]
    Out {
        /// What could not be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key file, or a key of another cluster.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Entries that can't be applied.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A row.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What is on the drives is of a later release.
    #[error("nothing was rescued: {0}")]
    Later(#[from] Later),
    /// No such bucket.
    #[error("there is no bucket {0} on these drives")]
    NoBucket(String),
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RescueReport {
    /// Everything that the drives' journal names was rescued, and the journal is whole.
    pub complete: bool,
    /// The drives.
    pub drives: Vec<DriveReport>,
    /// The last journal entry that was found.
    pub last_lsn: u64,
    /// Entries that nobody has: changes in them are lost, so objects may be missing, older than they were, or back again.
    pub gaps: Vec<Gap>,
    /// Other reasons to think that something is missing.
    pub doubts: Vec<String>,
    /// Journal records and ledger stripes that could not be read; others may have had the same entries.
    pub unreadable: Vec<String>,
    /// Versions written.
    pub rescued: u64,
    /// Of them, those that are not their key's latest.
    pub noncurrent: u64,
    /// Delete markers, which are listed only.
    pub delete_markers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them, those of which every chunk was verified by its keyed id.
    pub proved_by_chunk_ids: u64,
    /// Of them, those of which every chunk was, and whose entity tag or checksum is another than that of their bytes all the same.
    pub digest_differs: u64,
    /// Of them, those verified by frame hashes and entity tag or checksum.
    pub proved_by_digest: u64,
    /// Of them, those verified by frame hashes alone.
    pub proved_by_frames: u64,
    /// Versions under keys of their clients (SSE-C), which nobody else can read: left out, and not counted as lost.
    pub sealed: u64,
    /// Objects that were not rescued.
    pub lost: u64,
    /// The first thousand of them.
    pub lost_objects: Vec<LostObject>,
    /// Objects whose path differs from their key.
    pub renamed: u64,
    /// Multipart uploads that were never completed: their parts are not rescued, and are not counted as lost.
    pub open_uploads: u64,
}

/// An object that was not rescued.
#[derive(Clone, Debug, Serialize)]
pub struct LostObject {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its size, in bytes.
    pub size: u64,
    /// Why.
    pub reason: String,
}

/// A line of [`MANIFEST`].
#[derive(Serialize)]
struct Line<'a> {
    bucket: &'a str,
    key: &'a str,
    /// Its id; `null` for the null version.
    version: &'a str,
    /// It is its key's latest version.
    latest: bool,
    /// It has no bytes, and its key was deleted.
    delete_marker: bool,
    /// Below the output directory; absent for what was not rescued.
    path: Option<String>,
    size: u64,
    etag: &'a str,
    modified_ms: u64,
    content_type: &'a str,
    user: Vec<(&'a str, &'a str)>,
    tags: Vec<(&'a str, &'a str)>,
    /// Until when it was to be kept, in milliseconds since the Unix epoch.
    retain_until_ms: Option<u64>,
    legal_hold: bool,
    proof: Option<Proof>,
    lost: Option<String>,
}

fn version_name(version: &VersionRow) -> &str {
    if version.version_id.is_empty() { "null" } else { &version.version_id }
}

impl<'a> Line<'a> {
    fn of(version: &'a VersionRow) -> Line<'a> {
        let (size, etag) = version.content.as_ref().map_or((0, ""), |content| (content.size, content.etag.as_str()));
        let meta = version.meta.as_ref();
        Line {
            bucket: "",
            key: &version.key,
            version: version_name(version),
            latest: false,
            delete_marker: version.delete_marker,
            path: None,
            size,
            etag,
            modified_ms: version.modified_ms,
            content_type: meta.map_or("", |meta| meta.content_type.as_str()),
            user: meta.map_or_else(Vec::new, |m| m.user.iter().map(|u| (u.name.as_str(), u.value.as_str())).collect()),
            tags: version.tags.iter().map(|tag| (tag.key.as_str(), tag.value.as_str())).collect(),
            retain_until_ms: version.retention.as_ref().map(|retention| retention.until_ms),
            legal_hold: version.hold,
            proof: None,
            lost: None,
        }
    }
}

/// Rescues what there is to rescue; `progress` counts bytes of objects.
pub fn rescue(options: &RescueOptions, progress: &Progress) -> Result<RescueReport, RescueError> {
    stays_off_drives(options)?;
    let keys = match &options.key_file {
        Some(path) => Some(Keys::open(path, false)?.0),
        None => None,
    };
    progress.note("reading the drives' headers");
    let (media, drives) = Media::scan(&options.drives);
    if media.is_empty() {
        return Err(RescueError::NoDrives);
    }
    if media.clusters().len() > 1 {
        let names: Vec<String> = media.clusters().keys().map(ToString::to_string).collect();
        return Err(RescueError::Clusters(names.join(", ")));
    }
    progress.note("replaying the journal");
    let chain = Chain::build(&media)?;
    let (names, more_gaps) = Namespace::replay(&chain)?;
    let gaps: Vec<Gap> = chain.gaps.iter().copied().chain(more_gaps).collect();
    let mut doubts = media.tail_doubts();
    let checked = keys.as_ref().map_or(Ok(Ok(())), |keys| names.check_key(keys))?;
    match checked {
        Ok(()) => {}
        // What says that the keys were replaced may lie in a gap, and what is under them may not.
        Err(error) if !gaps.is_empty() => doubts.push(format!("the key may be another cluster's: {error}")),
        Err(error) => return Err(error.into()),
    }
    let mut report = RescueReport {
        drives,
        last_lsn: chain.last.0,
        gaps,
        doubts,
        unreadable: chain.unreadable.clone(),
        ..RescueReport::default()
    };
    let buckets = wanted_buckets(&names, options)?;
    let reader = Reader::new(&media, &chain, &names, keys.as_ref());
    let mut output = Output::create(&options.out)?;
    for bucket in &buckets {
        report.open_uploads += names.open_uploads(BucketId(bucket.id))? as u64;
        let mut after = None;
        loop {
            let page = names.versions(BucketId(bucket.id), &options.prefix, after)?;
            for (version, latest) in &page.versions {
                progress.note(&version.key);
                output.version(&reader, bucket, (version, *latest), &mut report)?;
                progress.set(report.bytes, 0);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    output.finish()?;
    report.complete =
        report.lost + report.digest_differs + report.sealed == 0 && report.gaps.is_empty() && report.doubts.is_empty();
    Ok(report)
}

/// The output is not below a drive, by whatever way it is named.
fn stays_off_drives(options: &RescueOptions) -> Result<(), RescueError> {
    let failed = |source| RescueError::Out { path: options.out.clone(), source };
    let out = std::path::absolute(&options.out).map_err(failed)?;
    // What is not there yet will be below what is.
    let existing = out.ancestors().find_map(|path| path.canonicalize().ok());
    for drive in &options.drives {
        if let Ok(root) = drive.canonicalize()
            && existing.as_ref().is_some_and(|path| path.starts_with(&root))
        {
            return Err(RescueError::OnDrive { out: options.out.clone(), drive: drive.clone() });
        }
    }
    Ok(())
}

fn wanted_buckets(names: &Namespace, options: &RescueOptions) -> Result<Vec<BucketRow>, RescueError> {
    let mut buckets = names.buckets()?;
    if let Some(wanted) = &options.bucket {
        buckets.retain(|bucket| bucket.name == *wanted);
        if buckets.is_empty() {
            return Err(RescueError::NoBucket(wanted.clone()));
        }
    }
    Ok(buckets)
}

/// The output directory.
struct Output {
    root: PathBuf,
    manifest: BufWriter<File>,
}

impl Output {
    fn create(root: &Path) -> Result<Output, RescueError> {
        let failed = |source| RescueError::Out { path: root.to_owned(), source };
        std::fs::create_dir_all(root).map_err(failed)?;
        // Nothing that is there already can be a link that leads elsewhere, or an object of another rescue.
        if std::fs::read_dir(root).map_err(failed)?.next().is_some() {
            return Err(RescueError::NotEmpty(root.to_owned()));
        }
        let manifest = File::create_new(root.join(MANIFEST)).map_err(failed)?;
        Ok(Output { root: root.to_owned(), manifest: BufWriter::new(manifest) })
    }

    fn version(
        &mut self,
        reader: &Reader<'_>,
        bucket: &BucketRow,
        (version, latest): (&VersionRow, bool),
        report: &mut RescueReport,
    ) -> Result<(), RescueError> {
        if version.delete_marker {
            report.delete_markers += 1;
            return self.list(&Line { bucket: &bucket.name, latest, ..Line::of(version) });
        }
        let size = version.content.as_ref().map_or(0, |content| content.size);
        let written = self.write(reader, &bucket.name, version, latest);
        let is_sealed = matches!(written, Err(LostReason::ClientsKey));
        let (path, proof, lost) = match &written {
            Ok((path, proof)) => (Some(path.clone()), Some(*proof), None),
            // Nothing that follows could be written either.
            Err(LostReason::Write(error)) if error.kind() == io::ErrorKind::StorageFull => {
                let source = io::Error::new(error.kind(), error.to_string());
                return Err(RescueError::Out { path: self.root.clone(), source });
            }
            Err(reason) => (None, None, Some(reason.to_string())),
        };
        match (&path, &lost) {
            (Some(path), _) => {
                report.rescued += 1;
                report.bytes += size;
                report.noncurrent += u64::from(!latest);
                report.renamed += u64::from(latest && *path != format!("{}/{}", bucket.name, version.key));
                match proof {
                    Some(Proof::ChunkIds) => report.proved_by_chunk_ids += 1,
                    Some(Proof::Differs) => report.digest_differs += 1,
                    Some(Proof::Digest) => report.proved_by_digest += 1,
                    Some(Proof::Frames) | None => report.proved_by_frames += 1,
                }
            }
            (None, _) if is_sealed => report.sealed += 1,
            (None, reason) => {
                report.lost += 1;
                if report.lost_objects.len() < MAX_NAMED {
                    let (bucket, key) = (bucket.name.clone(), version.key.clone());
                    let reason = reason.clone().unwrap_or_default();
                    report.lost_objects.push(LostObject { bucket, key, size, reason });
                }
            }
        }
        self.list(&Line { bucket: &bucket.name, latest, path, proof, lost, ..Line::of(version) })
    }

    fn list(&mut self, line: &Line<'_>) -> Result<(), RescueError> {
        let written = serde_json::to_writer(&mut self.manifest, line).map_err(io::Error::from);
        written.and_then(|()| self.manifest.write_all(b"\n")).map_err(|source| self.failed(MANIFEST, source))
    }

    fn failed(&self, name: &str, source: io::Error) -> RescueError {
        RescueError::Out { path: self.root.join(name), source }
    }

    /// Writes an object aside and gives it its name when all of it has been verified: never half an object.
    fn write(
        &self,
        reader: &Reader<'_>,
        bucket: &str,
        version: &VersionRow,
        latest: bool,
    ) -> Result<(String, Proof), LostReason> {
        let content = version.content.clone().unwrap_or_default();
        let partial = self.root.join(PARTIAL);
        let copied = File::create(&partial).map_err(LostReason::Write).and_then(|file| {
            let mut file = BufWriter::with_capacity(1 << 20, file);
            let proof = reader.copy(&content, &mut file)?;
            file.flush()?;
            Ok(proof)
        });
        let proof = match copied {
            Ok(proof) => proof,
            Err(error) => {
                // It is made again for the next object.
                drop(std::fs::remove_file(&partial));
                return Err(error);
            }
        };
        let (directory, name) = match latest {
            true => (self.root.join(paths::component(bucket)), version.key.clone()),
            false => (
                self.root.join(VERSIONS).join(paths::component(bucket)),
                format!("{}/{}", version.key, version_name(version)),
            ),
        };
        std::fs::create_dir_all(&directory)?;
        let place = paths::place(&directory, &name)?;
        std::fs::rename(&partial, &place)?;
        let below = place.strip_prefix(&self.root).unwrap_or(&place);
        Ok((below.display().to_string(), proof))
    }

    /// Everything is on the disk when this returns.
    fn finish(mut self) -> Result<(), RescueError> {
        self.manifest.flush().map_err(|source| self.failed(MANIFEST, source))?;
        let root = File::open(&self.root).map_err(|source| self.failed("", source))?;
        rustix::fs::syncfs(&root).map_err(|errno| self.failed("", errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_to_a_drive_that_is_rescued() {
        let dir = tempfile::tempdir().unwrap();
        let (drive, link) = (dir.path().join("drive"), dir.path().join("link"));
        std::fs::create_dir(&drive).unwrap();
        std::os::unix::fs::symlink(&drive, &link).unwrap();
        let options = |out: PathBuf| RescueOptions {
            drives: vec![drive.clone()],
            out,
            bucket: None,
            prefix: String::new(),
            key_file: None,
        };
        for out in [drive.clone(), drive.join("new/deep"), link.join("new")] {
            assert!(matches!(stays_off_drives(&options(out)), Err(RescueError::OnDrive { .. })));
        }
        assert!(stays_off_drives(&options(dir.path().join("drive-2/new"))).is_ok());
    }
}
