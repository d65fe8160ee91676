//! Metadata's index in a data directory. Disposable: the drives are the truth.

use metadata::start::IndexHome;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use storage_node::kv::{Kv, KvError, RocksKv, RocksOptions};

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

    /// Puts metadata's index aside and throws the node's away. Returns where the former is kept, if there was one.
    pub fn discard(&self) -> Result<Option<PathBuf>, KvError> {
        RocksKv::destroy(&self.node())?;
        if !self.metadata().exists() {
            return Ok(None);
        }
        self.put_aside().map(Some)
    }

    fn put_aside(&self) -> Result<PathBuf, KvError> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // A name that is taken would be replaced by the rename if it were empty, so it must be free.
        let free = (0..u32::MAX)
            .map(|n| self.root.join(format!("metadata.{seconds}.{n}")))
            .find(|aside| !aside.exists())
            .unwrap_or_else(|| self.root.join("metadata.old"));
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

    fn set_aside(&self) -> Result<String, KvError> {
        Ok(self.put_aside()?.display().to_string())
    }
}
