//! Metadata's index in a data directory. Disposable: the drives are the truth.
//!
//! An index that was put aside is another thing: it may be the only witness of changes that the drives have lost, and of two of
//! them the older one may be the better witness. So none is ever deleted here: they are listed, with why they are there.

use metadata::start::{IndexHome, PutAside};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use storage_node::kv::{Kv, KvError, RocksKv, RocksOptions};

/// Why an index is kept aside, as the end of its directory's name says.
const WHY: [(&str, &str); 3] =
    [("loss", "accepted loss"), ("rebuild", "rebuild-index"), ("other", "another cluster's")];

/// An index that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldIndex {
    /// Its directory.
    pub path: PathBuf,
    /// What its files take.
    pub bytes: u64,
    /// `accepted loss`, `rebuild-index`, `another cluster's`; empty when its name does not say.
    pub why: &'static str,
}

/// The indexes that were put aside, the oldest first. One that can't be read is left out.
pub fn old_indexes(root: &Path) -> Vec<OldIndex> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let old = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let rest = name.strip_prefix("metadata.")?;
        let why = WHY.iter().find(|(end, _)| rest.rsplit('.').next() == Some(end)).map_or("", |(_, why)| why);
        let files = std::fs::read_dir(entry.path()).ok()?.flatten();
        let bytes = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
        Some(OldIndex { path: entry.path(), bytes, why })
    });
    let mut old: Vec<OldIndex> = old.collect();
    old.sort_by(|a, b| a.path.cmp(&b.path));
    old
}

/// Two indexes side by side: metadata's and the node's.
#[derive(Debug)]
pub struct Indexes {
    root: PathBuf,
}

impl Indexes {
    /// Below `root`.
    pub fn new(root: PathBuf) -> Indexes {
        Indexes { root }
    }

    fn metadata(&self) -> PathBuf {
        self.root.join("metadata")
    }

    fn node(&self) -> PathBuf {
        self.root.join("node")
    }

    /// Opens the node's index. A damaged one is thrown away: it is rebuilt from the segments' headers.
    pub fn open_node(&self) -> Result<Arc<dyn Kv>, KvError> {
        make(&self.root)?;
        let families = storage_node::index::FAMILIES;
        match RocksKv::open(&self.node(), &families, RocksOptions::default()) {
            Err(KvError::Corrupt { path, detail }) => {
                tracing::warn!(path, detail, "the node's index is damaged; it is rebuilt from the drives");
                RocksKv::destroy(&self.node())?;
                Ok(Arc::new(RocksKv::open(&self.node(), &families, RocksOptions::default())?))
            }
            opened => Ok(Arc::new(opened?)),
        }
    }

    /// Metadata's index, if there is one and it opens.
    pub fn peek(&self) -> Option<Arc<dyn Kv>> {
        self.metadata().exists().then(|| IndexHome::open(self).ok()).flatten()
    }

    /// Puts metadata's index aside and throws the node's away. Returns where the former is kept, if there was one.
    pub fn discard(&self) -> Result<Option<PathBuf>, KvError> {
        RocksKv::destroy(&self.node())?;
        if !self.metadata().exists() {
            return Ok(None);
        }
        self.put_aside("rebuild").map(Some)
    }

    fn put_aside(&self, why: &str) -> Result<PathBuf, KvError> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // A name that is taken would be replaced by the rename if it were empty, so it must be free.
        let free = (0..u32::MAX)
            .map(|n| self.root.join(format!("metadata.{seconds}.{n}.{why}")))
            .find(|aside| !aside.exists())
            .unwrap_or_else(|| self.root.join(format!("metadata.old.{why}")));
        std::fs::rename(self.metadata(), &free).map_err(|error| failed(&self.metadata(), &error))?;
        // Were the new name lost in a power cut, the old index would be back in its place, beside drives that have gone on
        // without it.
        let synced = std::fs::File::open(&self.root).and_then(|root| root.sync_all());
        synced.map_err(|error| failed(&self.root, &error))?;
        Ok(free)
    }
}

fn failed(path: &Path, error: &std::io::Error) -> KvError {
    KvError::Io { path: path.display().to_string(), detail: error.to_string() }
}

fn make(path: &Path) -> Result<(), KvError> {
    std::fs::create_dir_all(path).map_err(|error| failed(path, &error))
}

impl IndexHome for Indexes {
    fn open(&self) -> Result<Arc<dyn Kv>, KvError> {
        make(&self.root)?;
        Ok(Arc::new(RocksKv::open(&self.metadata(), &metadata::index::FAMILIES, RocksOptions::default())?))
    }

    fn destroy(&self) -> Result<(), KvError> {
        RocksKv::destroy(&self.metadata())
    }

    fn set_aside(&self, why: PutAside) -> Result<String, KvError> {
        let why = match why {
            PutAside::Loss => "loss",
            PutAside::OtherCluster => "other",
        };
        Ok(self.put_aside(why)?.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_is_kept_and_listed_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("index");
        let indexes = Indexes::new(root.clone());
        let put = |why: &dyn Fn() -> String| {
            std::fs::create_dir_all(root.join("metadata")).unwrap();
            std::fs::write(root.join("metadata/1.sst"), [0; 100]).unwrap();
            PathBuf::from(why())
        };
        let loss = put(&|| indexes.set_aside(PutAside::Loss).unwrap());
        let mut paths = vec![(loss, "accepted loss")];
        paths.push((put(&|| indexes.set_aside(PutAside::OtherCluster).unwrap()), "another cluster's"));
        for _ in 0..3 {
            paths.push((put(&|| indexes.discard().unwrap().unwrap().display().to_string()), "rebuild-index"));
        }
        // As earlier versions named them.
        std::fs::create_dir_all(root.join("metadata.1700000000.0")).unwrap();
        std::fs::create_dir_all(root.join("node")).unwrap();
        let listed = old_indexes(&root);
        assert_eq!(listed.len(), 6, "{listed:?}");
        assert_eq!(listed[0], OldIndex { path: root.join("metadata.1700000000.0"), bytes: 0, why: "" });
        for (path, why) in paths {
            assert!(listed.contains(&OldIndex { path, bytes: 100, why }), "{listed:?}");
        }
    }
}
