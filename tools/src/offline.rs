//! Commands that work on a data directory whose server is stopped; each holds the directory's lock.

use crate::data_dir::{DataDir, DataDirError, write_durably};
use crate::index_home::Indexes;
use codec::level::{FormatLevel, TooNew};
use metadata::index::Overlay;
use metadata::keys::{KeyError, Keys, coming_path, second_path};
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
    /// There is a second key.
    #[error(
        "there are two keys already: {0} is the second one. To replace it, move it elsewhere while the server is stopped"
    )]
    TwoKeys(PathBuf),
    /// The index is of a later release: it is whole, and this one could not make another.
    #[error("nothing was changed: {0}")]
    TooNew(#[from] TooNew),
}

/// Leaves no index for the next start, which rebuilds it from the drives. Metadata's old one is kept aside, its place
/// returned: it is the only witness of changes that the drives might have lost.
pub fn rebuild_index(root: &Path) -> Result<Option<PathBuf>, OfflineError> {
    let data = DataDir::open(root, false)?;
    let indexes = Indexes::new(data.index_path());
    known_level(&indexes)?;
    Ok(indexes.discard()?)
}

/// Refuses an index of a format level that this program does not know. One that does not open says nothing, and is why somebody wants
/// another.
fn known_level(indexes: &Indexes) -> Result<(), TooNew> {
    let level = indexes.peek().and_then(|kv| metadata::index::level(&Overlay::new(&*kv)).ok());
    level.map_or(Ok(()), |row| TooNew::check(FormatLevel(row.level), &row.by))
}

/// Marks a loss as accepted: the next start acts on it.
pub fn accept_loss(root: &Path) -> Result<(), OfflineError> {
    let data = DataDir::open(root, false)?;
    Ok(write_durably(&data.accept_loss_path(), b"accepted\n", 0o644)?)
}

/// A key-encryption key in hex, the first or the second one. Works beside a running server: it only reads.
pub fn export_key(root: &Path, second: bool) -> Result<Zeroizing<String>, OfflineError> {
    let first = key_path(root)?;
    let path = if second { second_path(&first) } else { first.clone() };
    let (keys, _created) = Keys::open(&first, false)?;
    let found = keys.export().into_iter().find(|(file, _)| *file == path || second && *file == coming_path(&first));
    found.map(|(_, hex)| hex).ok_or(OfflineError::Key(KeyError::Missing(path)))
}

/// Makes a second key-encryption key, and returns its file. The next start wraps everything by it, too.
pub fn second_key(root: &Path) -> Result<PathBuf, OfflineError> {
    let first = key_path(root)?;
    // A key that is the only one that is left is another one's second, and not where a new one could stand beside it.
    if !first.exists() {
        return Err(KeyError::Missing(first).into());
    }
    Keys::make_second(&first)?.ok_or_else(|| OfflineError::TwoKeys(second_path(&first)))
}

fn key_path(root: &Path) -> Result<PathBuf, OfflineError> {
    let path = root.join("keys").join("kek");
    if !path.exists() && !root.join("config").exists() {
        return Err(DataDirError::NotSetUp(root.to_owned()).into());
    }
    Ok(path)
}
