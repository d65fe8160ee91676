//! The key-encryption key, and the secrets that it wraps: account secrets and the keys of dedup domains.
//!
//! The key lies in a file outside the drives, mode 0600: 32 bytes in hex and a line end. Without it no account can log in
//! and no encrypted object can be read, so a missing or different key is an error at start, never a reason to make a new
//! one: [`KeyCheck`] is the journaled setting by which a start can tell.

use bytes::Bytes;
use codec::effect::{AccountRow, DomainRow, ReplicationRow, SettingRow};
use codec::encrypt::{ChunkKey, DataKey, KeyEncryptionKey, RandomError, WrapError};
use codec::id::DomainId;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// Name of the setting that holds [`KeyCheck`].
pub const KEY_CHECK_SETTING: &str = "key-check";

const KEY_CHECK_PURPOSE: &[u8] = b"stele 2026 key check v1";
const KEY_CHECK_SECRET: &[u8] = b"this key unwraps";

/// What a start can't do about the key-encryption key, or about what it wraps.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file is missing though the cluster has secrets that were wrapped with it: bring it back from its export.
    #[error("the key file {0} is missing, and this cluster's secrets are wrapped with its key: restore it")]
    Missing(PathBuf),
    /// The file does not hold a key.
    #[error("the key file {0} does not hold 64 hex digits")]
    Malformed(PathBuf),
    /// Others than its owner may read the file.
    #[error("the key file {path} has mode {mode:o}: nobody but its owner may read it (chmod 600)")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file could not be read or written.
    #[error("the key file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is another cluster's key, or what it should unwrap is damaged.
    #[error("{what} does not unwrap: {source}")]
    Unwrap {
        /// What was to be unwrapped.
        what: String,
        /// Why.
        source: WrapError,
    },
    /// What was unwrapped is no secret of this kind.
    #[error("{0} is not a secret of its kind")]
    Secret(String),
    /// Nothing can be wrapped at present.
    #[error(transparent)]
    Wrap(#[from] WrapError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// An account, and its secret key in the clear: for the authentication of requests, never for a log.
#[derive(Debug)]
pub struct Account {
    /// The row.
    pub row: AccountRow,
    /// The secret key.
    pub secret: Secret,
}

/// A text that is wiped when dropped and shows nothing of itself in `Debug`.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// A dedup domain with its keys in the clear.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its id.
    pub id: DomainId,
    /// The account whose it is.
    pub account: String,
    /// The key of its chunk ids.
    pub chunk_key: ChunkKey,
    /// The key of its frames; `None` for a plaintext domain.
    pub data_key: Option<DataKey>,
}

/// The key-encryption key. Clones share it.
#[derive(Clone, Debug)]
pub struct Keys {
    kek: Arc<KeyEncryptionKey>,
}

impl Keys {
    /// With a key that is already at hand.
    pub fn new(kek: KeyEncryptionKey) -> Self {
        Keys { kek: Arc::new(kek) }
    }

    /// Reads the key file. With `first_start` a missing file is created, with a new random key: durable, file and
    /// directory synced, before it is used. Returns whether it was created.
    pub fn open(path: &Path, first_start: bool) -> Result<(Self, bool), KeyError> {
        match File::open(path) {
            Ok(file) => Ok((Self::new(read_key(path, file)?), false)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && first_start => {
                let kek = KeyEncryptionKey::random()?;
                create_key(path, &kek).map_err(|source| KeyError::File { path: path.to_owned(), source })?;
                Ok((Self::new(kek), true))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(KeyError::Missing(path.to_owned())),
            Err(source) => Err(KeyError::File { path: path.to_owned(), source }),
        }
    }

    /// The key in hex, for `stele key export`.
    pub fn export(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.kek.expose()))
    }

    /// The setting that is journaled at first start.
    pub fn check_setting(&self) -> Result<SettingRow, KeyError> {
        let value = self.kek.wrap(KEY_CHECK_PURPOSE, KEY_CHECK_SECRET)?;
        Ok(SettingRow { name: KEY_CHECK_SETTING.to_owned(), value: Bytes::from(value) })
    }

    /// Refuses a key that does not unwrap the journaled setting.
    pub fn check(&self, journaled: &SettingRow) -> Result<(), KeyError> {
        let secret = self.unwrap("the key check", KEY_CHECK_PURPOSE, &journaled.value)?;
        if secret[..] != *KEY_CHECK_SECRET {
            return Err(KeyError::Secret("the key check".to_owned()));
        }
        Ok(())
    }

    /// Wraps an account's secret key, for [`AccountRow::wrapped_secret`].
    pub fn wrap_account(&self, account: &str, secret: &Secret) -> Result<Bytes, KeyError> {
        Ok(self.kek.wrap(&account_purpose(account), secret.expose().as_bytes())?.into())
    }

    /// An account with its secret key.
    pub fn unwrap_account(&self, row: AccountRow) -> Result<Account, KeyError> {
        let what = || format!("the secret of account {}", row.id);
        let secret = self.unwrap(&what(), &account_purpose(&row.id), &row.wrapped_secret)?;
        let text = std::str::from_utf8(&secret).map_err(|_| KeyError::Secret(what()))?.to_owned();
        Ok(Account { secret: Secret::new(text), row })
    }

    /// Wraps the secret key of a replication's endpoint, for [`ReplicationRow::wrapped_secret`]. The row's bucket, endpoint, target
    /// and access key must be set: it opens for these only.
    pub fn wrap_replication(&self, row: &ReplicationRow, secret: &Secret) -> Result<Bytes, KeyError> {
        Ok(self.kek.wrap(&replication_purpose(row), secret.expose().as_bytes())?.into())
    }

    /// The secret key of a replication's endpoint.
    pub fn unwrap_replication(&self, row: &ReplicationRow) -> Result<Secret, KeyError> {
        let what = || format!("the replication secret of bucket {}", row.bucket);
        let secret = self.unwrap(&what(), &replication_purpose(row), &row.wrapped_secret)?;
        let text = std::str::from_utf8(&secret).map_err(|_| KeyError::Secret(what()))?.to_owned();
        Ok(Secret::new(text))
    }

    /// The row of a new dedup domain with new random keys, for [`crate::command::Command::PutDomain`], which gives the id.
    pub fn new_domain(&self, account: &str, encrypted: bool) -> Result<DomainRow, KeyError> {
        let chunk_key = ChunkKey::random()?;
        let wrapped_chunk_key = self.kek.wrap(&domain_purpose("chunk", account, encrypted), chunk_key.expose())?;
        let wrapped_data_key = match encrypted {
            true => self.kek.wrap(&domain_purpose("data", account, encrypted), DataKey::random()?.expose())?,
            false => Vec::new(),
        };
        Ok(DomainRow {
            id: 0,
            account: account.to_owned(),
            encrypted,
            wrapped_chunk_key: wrapped_chunk_key.into(),
            wrapped_data_key: wrapped_data_key.into(),
        })
    }

    /// A dedup domain with its keys.
    pub fn unwrap_domain(&self, row: &DomainRow) -> Result<Domain, KeyError> {
        let what = format!("the chunk key of domain {}", row.id);
        let purpose = domain_purpose("chunk", &row.account, row.encrypted);
        let secret = self.unwrap(&what, &purpose, &row.wrapped_chunk_key)?;
        let chunk_key = ChunkKey::from_slice(&secret).ok_or(KeyError::Secret(what))?;
        let data_key = if row.encrypted {
            let what = format!("the data key of domain {}", row.id);
            let purpose = domain_purpose("data", &row.account, row.encrypted);
            let secret = self.unwrap(&what, &purpose, &row.wrapped_data_key)?;
            Some(DataKey::from_slice(&secret).ok_or(KeyError::Secret(what))?)
        } else {
            None
        };
        Ok(Domain { id: DomainId(row.id), account: row.account.clone(), chunk_key, data_key })
    }

    fn unwrap(&self, what: &str, purpose: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        self.kek.unwrap(purpose, wrapped).map_err(|source| KeyError::Unwrap { what: what.to_owned(), source })
    }
}

// A wrapped secret opens only for the account and use that it was wrapped for: rows can't be swapped on media.
fn account_purpose(account: &str) -> Vec<u8> {
    format!("stele 2026 account secret v1\0{account}").into_bytes()
}

fn replication_purpose(row: &ReplicationRow) -> Vec<u8> {
    let ReplicationRow { bucket, endpoint, target, access_key, .. } = row;
    format!("stele 2026 replication secret v1\0{bucket}\0{endpoint}\0{target}\0{access_key}").into_bytes()
}

fn domain_purpose(kind: &str, account: &str, encrypted: bool) -> Vec<u8> {
    format!("stele 2026 domain {kind} key v1\0{}\0{account}", u8::from(encrypted)).into_bytes()
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

fn create_key(path: &Path, kek: &KeyEncryptionKey) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    // Written aside and linked into place: a crash leaves a whole key or none, and an existing one is never replaced.
    let aside = path.with_extension("new");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_file_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/kek");
        assert!(matches!(Keys::open(&path, false), Err(KeyError::Missing(_))));
        let (keys, created) = Keys::open(&path, true).unwrap();
        assert!(created);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (again, created) = Keys::open(&path, true).unwrap();
        assert!(!created);
        assert_eq!(keys.export(), again.export());
        again.check(&keys.check_setting().unwrap()).unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_open_or_malformed_key_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        std::fs::write(&path, "not a key").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Keys::open(&path, true), Err(KeyError::TooOpen { mode: 0o644, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Keys::open(&path, true), Err(KeyError::Malformed(_))));
    }

    #[test]
    fn another_key_does_not_unwrap() {
        let ours = Keys::new(KeyEncryptionKey::new([1; 32]));
        let theirs = Keys::new(KeyEncryptionKey::new([2; 32]));
        let setting = ours.check_setting().unwrap();
        assert!(matches!(theirs.check(&setting), Err(KeyError::Unwrap { .. })));
        let row = ours.new_domain("alice", true).unwrap();
        let domain = ours.unwrap_domain(&row).unwrap();
        assert!(domain.data_key.is_some());
        assert!(matches!(theirs.unwrap_domain(&row), Err(KeyError::Unwrap { .. })));
        let moved = DomainRow { account: "mallory".to_owned(), ..row };
        assert!(matches!(ours.unwrap_domain(&moved), Err(KeyError::Unwrap { .. })));
    }

    #[test]
    fn a_replication_secret_opens_for_its_endpoint_only() {
        let keys = Keys::new(KeyEncryptionKey::new([1; 32]));
        let mut row = ReplicationRow { bucket: 7, endpoint: "https://far".to_owned(), ..ReplicationRow::default() };
        row.wrapped_secret = keys.wrap_replication(&row, &Secret::new("s3cr3t".to_owned())).unwrap();
        assert!(!row.wrapped_secret.windows(6).any(|bytes| bytes == b"s3cr3t"));
        assert_eq!(keys.unwrap_replication(&row).unwrap().expose(), "s3cr3t");
        let moved = ReplicationRow { endpoint: "https://mallory".to_owned(), ..row.clone() };
        assert!(keys.unwrap_replication(&moved).is_err());
        assert!(keys.unwrap_replication(&ReplicationRow { bucket: 8, ..row }).is_err());
    }

    #[test]
    fn account_secrets_come_back() {
        let keys = Keys::new(KeyEncryptionKey::new([1; 32]));
        let secret = Secret::new("s3cr3t".to_owned());
        let wrapped_secret = keys.wrap_account("alice", &secret).unwrap();
        let row = AccountRow { id: "alice".to_owned(), wrapped_secret, ..AccountRow::default() };
        let account = keys.unwrap_account(row.clone()).unwrap();
        assert_eq!(account.secret.expose(), "s3cr3t");
        assert!(!format!("{account:?}").contains("s3cr3t"));
        let moved = AccountRow { id: "mallory".to_owned(), ..row };
        assert!(keys.unwrap_account(moved).is_err());
    }
}
