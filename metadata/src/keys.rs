//! The key-encryption key, and the secrets that it wraps: account secrets and the keys of dedup domains.
//!
//! The key lies in a file outside the drives, mode 0600: 32 bytes in hex and a line end. Without it no account can log in
//! and no encrypted object can be read, so a missing or different key is an error at start, never a reason to make a new
//! one: [`KeyCheck`] is the journaled setting by which a start can tell.
//!
//! There may be two of them, in files side by side ([`second_path`]; either may be a link to another medium): then each secret is
//! wrapped by both, and either unwraps it. A start that lacks one of the two goes on with the other and says so. A third file
//! ([`former_path`]) may hold a key that one of them has replaced: it opens what is under it alone, and wraps nothing.

use crate::iam::session::SessionKey;
use bytes::Bytes;
use codec::effect::{AccessKeyRow, AccountRow, ReplicationRow, SettingRow};
use codec::encrypt::{KeyEncryptionKey, RandomError, WrapError, unwrap_any, wrap_twice};
use files::{made, read_if_there};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use zeroize::Zeroizing;

mod check;
mod domain;
mod files;
pub mod rewrap;

use check::KEY_CHECK_PURPOSE;
pub(crate) use domain::domain_purpose;
pub use domain::{Domain, Purpose};

/// Name of the setting that holds [`KeyCheck`].
pub const KEY_CHECK_SETTING: &str = "key-check";
/// Name of the setting that holds what temporary credentials are made of, wrapped.
pub(crate) const SESSION_SETTING: &str = "session-key";
const SESSION_PURPOSE: &[u8] = b"stele 2026 session key v2";

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
    /// The second key fits, and the first one does not.
    #[error(
        "the key in {0} is not this cluster's first key, and the second key fits: put back the file that belongs there (a metadata \
         node's is the same as its leader's), or move this one away, since one of the two is enough"
    )]
    First(PathBuf),
    /// The first key fits, and the second one does not.
    #[error(
        "the key in {file} is not this cluster's second key, and the first one fits: put back the file that belongs there (a metadata \
         node's is the same as its leader's), or move this one away, since one of the two is enough. If it took another key's place \
         and what says so was lost, call it {coming}: then everything is wrapped by it again"
    )]
    Second {
        /// Its file.
        file: PathBuf,
        /// What the file of a key is called that is to become the second one.
        coming: PathBuf,
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

/// The key-encryption keys. Clones share them.
#[derive(Clone, Debug)]
pub struct Keys(Arc<Both>);

#[derive(Debug)]
struct Both {
    /// One or two: the first one in front, if it is there.
    keys: Vec<KeyEncryptionKey>,
    /// Where the first one belongs; empty where keys are in no files.
    place: PathBuf,
    /// The files of those that are there.
    files: Vec<PathBuf>,
    /// One that was replaced.
    former: Option<KeyEncryptionKey>,
    /// Secrets may be wrapped by both: the cluster's format level allows what programs before it can't unwrap.
    twice: AtomicBool,
    /// What temporary credentials are made of, where it is journaled.
    session: OnceLock<Zeroizing<[u8; 32]>>,
}

/// Where the second key is, beside the first.
pub fn second_path(first: &Path) -> PathBuf {
    let mut name = first.file_name().unwrap_or_default().to_owned();
    name.push("2");
    first.with_file_name(name)
}

/// Where a second key is that is to take the place of another one. It is moved to [`second_path`] once everything is wrapped by it.
pub fn coming_path(first: &Path) -> PathBuf {
    second_path(first).with_extension("new")
}

/// Where a key may be that was replaced before everything that is under it was wrapped by its successor.
pub fn former_path(first: &Path) -> PathBuf {
    first.with_extension("old")
}

impl Keys {
    /// With a key that is already at hand.
    pub fn new(kek: KeyEncryptionKey) -> Self {
        Keys::of(PathBuf::new(), vec![(kek, PathBuf::new())], None)
    }

    fn of(place: PathBuf, keys: Vec<(KeyEncryptionKey, PathBuf)>, former: Option<KeyEncryptionKey>) -> Self {
        let (keys, files) = keys.into_iter().unzip();
        let (twice, session) = Default::default();
        Keys(Arc::new(Both { keys, place, files, former, twice, session }))
    }

    /// Reads the key files: the first one at `path`, and the second one if there is one. With `first_start` missing files are
    /// created, with new random keys: durable, files and directory synced, before they are used. Returns whether the first was
    /// created.
    pub fn open(path: &Path, first_start: bool) -> Result<(Self, bool), KeyError> {
        let (second_path, coming) = (second_path(path), coming_path(path));
        let (mut first, mut second) = (read_if_there(path)?, read_if_there(&second_path)?);
        let created = first.is_none() && first_start;
        if first_start {
            // The second one first: a start that is cut off between the two is a first start again, and makes the other.
            for (key, path) in [(&mut second, &second_path), (&mut first, &path.to_owned())] {
                if key.is_none() {
                    *key = Some(made(path)?);
                }
            }
        }
        let second = match second {
            Some(key) => Some((key, second_path)),
            None => read_if_there(&coming)?.map(|key| (key, coming)),
        };
        if first.is_none() && second.is_some() {
            tracing::warn!(file = %path.display(), "a key file is missing: the other key is used, and nothing is under both until it is back");
        }
        let first = first.map(|key| (key, path.to_owned()));
        let keys: Vec<_> = first.into_iter().chain(second).collect();
        if keys.is_empty() {
            return Err(KeyError::Missing(path.to_owned()));
        }
        Ok((Keys::of(path.to_owned(), keys, read_if_there(&former_path(path))?), created))
    }

    /// Makes a second key beside the first, which counts from the next start on. `None`: there is one already.
    pub fn make_second(path: &Path) -> Result<Option<PathBuf>, KeyError> {
        let (there, coming) = (second_path(path), coming_path(path));
        if there.exists() || coming.exists() {
            return Ok(None);
        }
        made(&coming)?;
        Ok(Some(coming))
    }

    /// Whether there are two keys.
    pub fn are_two(&self) -> bool {
        self.0.keys.len() > 1
    }

    /// From now on secrets are wrapped by both keys, if there are two.
    pub(crate) fn wrap_twice(&self) {
        self.0.twice.store(true, Ordering::Relaxed);
    }

    /// Everything is wrapped by a second key that was to take the place of another one: it has it now.
    pub(crate) fn second_has_come(&self) -> Result<(), KeyError> {
        let [first, second] = &self.0.files[..] else { return Ok(()) };
        let place = second_path(first);
        if first.as_os_str().is_empty() || *second == place || !second.exists() {
            return Ok(());
        }
        std::fs::rename(second, &place).map_err(|source| KeyError::File { path: place, source })
    }

    /// Whether each key unwraps a secret by itself.
    pub(crate) fn all_unwrap(&self, purpose: &[u8], wrapped: &[u8]) -> bool {
        self.0.keys.iter().all(|key| unwrap_any([key], purpose, wrapped).is_ok())
    }

    /// Where a key may be put that was replaced; empty where keys are in no files.
    pub(crate) fn former_place(&self) -> PathBuf {
        former_path(&self.0.place)
    }

    /// The keys in hex with the names of their files, the first one in front, for `stele key export`.
    pub fn export(&self) -> Vec<(PathBuf, Zeroizing<String>)> {
        let hex = |key: &KeyEncryptionKey| Zeroizing::new(hex::encode(key.expose()));
        self.0.files.iter().cloned().zip(self.0.keys.iter().map(hex)).collect()
    }

    /// The first key that is there.
    fn first(&self) -> &KeyEncryptionKey {
        // `of` is never given none.
        &self.0.keys[0]
    }

    /// Wraps an account's secret key, for [`AccountRow::wrapped_secret`].
    pub fn wrap_account(&self, account: &str, secret: &Secret) -> Result<Bytes, KeyError> {
        Ok(self.wrap(&account_purpose(account), secret.expose().as_bytes())?.into())
    }

    /// An account with its secret key.
    pub fn unwrap_account(&self, row: AccountRow) -> Result<Account, KeyError> {
        let what = || format!("the secret of account {}", row.id);
        let secret = self.unwrap(&what(), &account_purpose(&row.id), &row.wrapped_secret)?;
        let text = std::str::from_utf8(&secret).map_err(|_| KeyError::Secret(what()))?.to_owned();
        Ok(Account { secret: Secret::new(text), row })
    }

    /// Wraps the secret of an access key that is not an account's first one, for [`AccessKeyRow::wrapped_secret`].
    pub fn wrap_access_key(&self, account: &str, access_key: &str, secret: &Secret) -> Result<Bytes, KeyError> {
        Ok(self.wrap(&access_key_purpose(account, access_key), secret.expose().as_bytes())?.into())
    }

    /// The secret of an access key.
    pub fn unwrap_access_key(&self, row: &AccessKeyRow) -> Result<Secret, KeyError> {
        let what = || format!("the secret of access key {}", row.access_key);
        let secret = self.unwrap(&what(), &access_key_purpose(&row.account, &row.access_key), &row.wrapped_secret)?;
        let text = std::str::from_utf8(&secret).map_err(|_| KeyError::Secret(what()))?.to_owned();
        Ok(Secret::new(text))
    }

    /// What temporary credentials are made of: the same on all metadata nodes, and whichever of the two keys is there. Before there is
    /// a setting for it, it is made of the first key that is there.
    pub fn session_key(&self) -> Result<SessionKey, KeyError> {
        let made = || Zeroizing::new(blake3::derive_key("stele 2026 session key v1", self.first().expose()));
        Ok(SessionKey::new(self.0.session.get().cloned().unwrap_or_else(made)))
    }

    /// A new setting for [`Self::session_key`].
    pub(crate) fn new_session_setting(&self) -> Result<SettingRow, KeyError> {
        let value = self.wrap(SESSION_PURPOSE, KeyEncryptionKey::random()?.expose())?;
        Ok(SettingRow { name: SESSION_SETTING.to_owned(), value: value.into() })
    }

    /// From now on [`Self::session_key`] is what the setting says.
    pub(crate) fn take_session(&self, setting: &SettingRow) -> Result<(), KeyError> {
        let what = "the key of temporary credentials";
        let secret = self.unwrap(what, SESSION_PURPOSE, &setting.value)?;
        let secret: [u8; 32] = secret[..].try_into().map_err(|_| KeyError::Secret(what.to_owned()))?;
        // It is never another one.
        self.0.session.get_or_init(|| Zeroizing::new(secret));
        Ok(())
    }

    /// Wraps the secret key of a replication's endpoint, for [`ReplicationRow::wrapped_secret`]. The row's bucket, endpoint, target
    /// and access key must be set: it opens for these only.
    pub fn wrap_replication(&self, row: &ReplicationRow, secret: &Secret) -> Result<Bytes, KeyError> {
        Ok(self.wrap(&replication_purpose(row), secret.expose().as_bytes())?.into())
    }

    /// The secret key of a replication's endpoint.
    pub fn unwrap_replication(&self, row: &ReplicationRow) -> Result<Secret, KeyError> {
        let what = || format!("the replication secret of bucket {}", row.bucket);
        let secret = self.unwrap(&what(), &replication_purpose(row), &row.wrapped_secret)?;
        let text = std::str::from_utf8(&secret).map_err(|_| KeyError::Secret(what()))?.to_owned();
        Ok(Secret::new(text))
    }

    pub(crate) fn wrap(&self, purpose: &[u8], secret: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.0.keys[..] {
            [first, second] if self.0.twice.load(Ordering::Relaxed) => {
                Ok(wrap_twice([first, second], purpose, secret)?)
            }
            _ => Ok(self.first().wrap(purpose, secret)?),
        }
    }

    pub(crate) fn unwrap(&self, what: &str, purpose: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let keys = self.0.keys.iter().chain(&self.0.former);
        unwrap_any(keys, purpose, wrapped).map_err(|source| KeyError::Unwrap { what: what.to_owned(), source })
    }
}

// A wrapped secret opens only for the account and use that it was wrapped for: rows can't be swapped on media.
fn account_purpose(account: &str) -> Vec<u8> {
    format!("stele 2026 account secret v1\0{account}").into_bytes()
}

fn access_key_purpose(account: &str, access_key: &str) -> Vec<u8> {
    format!("stele 2026 access key secret v1\0{account}\0{access_key}").into_bytes()
}

fn replication_purpose(row: &ReplicationRow) -> Vec<u8> {
    let ReplicationRow { bucket, endpoint, target, access_key, .. } = row;
    format!("stele 2026 replication secret v1\0{bucket}\0{endpoint}\0{target}\0{access_key}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::effect::DomainRow;
    use std::os::unix::fs::PermissionsExt;

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
        let mut files: Vec<_> =
            std::fs::read_dir(path.parent().unwrap()).unwrap().map(|file| file.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["kek", "kek2"]);
    }

    /// Losing one of the two keys loses nothing, and a key that is another cluster's is no replacement.
    #[test]
    fn either_of_two_keys_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let (keys, _) = Keys::open(&path, true).unwrap();
        let single = keys.check_setting().unwrap();
        keys.wrap_twice();
        let (setting, row) = (keys.check_setting().unwrap(), keys.new_domain("alice", &Purpose::Managed).unwrap());
        for (gone, other) in [(path.clone(), second_path(&path)), (second_path(&path), path.clone())] {
            let text = std::fs::read(&gone).unwrap();
            std::fs::remove_file(&gone).unwrap();
            let (left, _) = Keys::open(&path, false).unwrap();
            left.check(&setting).unwrap();
            assert!(left.unwrap_domain(&row).is_ok() && !left.are_two(), "{} is enough", other.display());
            // Another cluster's in its place.
            files::create_key(&gone, &KeyEncryptionKey::new([9; 32])).unwrap();
            let refused = Keys::open(&path, false).unwrap().0.check(&setting);
            let named = match refused {
                Err(KeyError::First(file)) => file == path && gone == path,
                Err(KeyError::Second { file, coming }) => file == gone && coming == coming_path(&path) && gone != path,
                _ => false,
            };
            assert!(named, "{}", gone.display());
            std::fs::write(&gone, text).unwrap();
        }
        assert!(Keys::make_second(&path).unwrap().is_none());
        std::fs::remove_file(second_path(&path)).unwrap();
        let coming = Keys::make_second(&path).unwrap().unwrap();
        let (renewed, _) = Keys::open(&path, false).unwrap();
        renewed.check(&setting).unwrap();
        renewed.check(&single).unwrap();
        renewed.wrap_twice();
        assert!(!renewed.all_unwrap(KEY_CHECK_PURPOSE, &setting.value));
        assert!(renewed.all_unwrap(KEY_CHECK_PURPOSE, &renewed.check_setting().unwrap().value));
        renewed.second_has_come().unwrap();
        assert!(!coming.exists() && second_path(&path).exists());
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
        let row = ours.new_domain("alice", &Purpose::Managed).unwrap();
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
