//! The files of the key-encryption keys.

use super::KeyError;
use codec::encrypt::KeyEncryptionKey;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

/// A new key in a file of its own.
pub(super) fn made(path: &Path) -> Result<KeyEncryptionKey, KeyError> {
    let kek = KeyEncryptionKey::random()?;
    create_key(path, &kek).map_err(|source| KeyError::File { path: path.to_owned(), source })?;
    Ok(kek)
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<KeyEncryptionKey>, KeyError> {
    match File::open(path) {
        Ok(file) => read_key(path, file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeyError::File { path: path.to_owned(), source }),
    }
}

fn read_key(path: &Path, mut file: File) -> Result<KeyEncryptionKey, KeyError> {
    let failed = |source| KeyError::File { path: path.to_owned(), source };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::TooOpen { path: path.to_owned(), mode });
    }
    // No longer than a key: a wrong path must not be read into memory whole.
    let mut text = Zeroizing::new(Vec::with_capacity(128));
    Read::by_ref(&mut file).take(128).read_to_end(&mut text).map_err(failed)?;
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim_ascii(), &mut key[..]).map_err(|_| KeyError::Malformed(path.to_owned()))?;
    Ok(KeyEncryptionKey::new(*key))
}

pub(super) fn create_key(path: &Path, kek: &KeyEncryptionKey) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    // Written aside and linked into place: a crash leaves a whole key or none, and an existing one is never replaced.
    let aside = path.with_extension("making");
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let mut text = hex::encode(kek.expose());
    text.push('\n');
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    text.zeroize();
    written?;
    std::fs::hard_link(&aside, path)?;
    std::fs::remove_file(&aside)?;
    File::open(directory)?.sync_all()
}
