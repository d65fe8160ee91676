//! Commands that work on a data directory whose server is stopped; each holds the directory's lock.

use crate::data_dir::{DataDir, DataDirError, write_durably};
use crate::index_home::Indexes;
use metadata::keys::{KeyError, Keys};
use std::path::{Path, PathBuf};
use storage_node::kv::KvError;
use zeroize::Zeroizing;

/// Why an offline command failed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// The indexes.
    #[error(transparent)]
    Index(#[from] KvError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Leaves no index for the next start, which rebuilds it from the drives. Metadata's old one is kept aside, its place
/// returned: it is the only witness of changes that the drives might have lost.
pub fn rebuild_index(root: &Path) -> Result<Option<PathBuf>, OfflineError> {
    let data = DataDir::open(root, false)?;
    Ok(Indexes::new(data.index_path()).discard()?)
}

/// Marks a loss as accepted: the next start acts on it.
pub fn accept_loss(root: &Path) -> Result<(), OfflineError> {
    let data = DataDir::open(root, false)?;
    Ok(write_durably(&data.accept_loss_path(), b"accepted\n", 0o644)?)
}

/// The key-encryption key in hex. Works beside a running server: it only reads.
pub fn export_key(root: &Path) -> Result<Zeroizing<String>, OfflineError> {
    let path = root.join("keys").join("kek");
    if !path.exists() && !root.join("config").exists() {
        return Err(DataDirError::NotSetUp(root.to_owned()).into());
    }
    let (keys, _created) = Keys::open(&path, false)?;
    Ok(keys.export())
}
