//! The accounts that a start brings along: the first one's credentials, and those of `--accounts FILE`.

use crate::data_dir::{DataDir, DataDirError, read_private, write_durably};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Id and name of the first account.
pub(crate) const FIRST: &str = "admin";

/// Why accounts can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The data directory refused something.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// A file can't be understood.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Only one of the two variables is set.
    #[error("STELE_ACCESS_KEY and STELE_SECRET_KEY must be set together")]
    HalfSet,
    /// A key that no client could use.
    #[error("{what} must have {min} to {max} characters{rule}")]
    Key {
        /// Whose key.
        what: String,
        /// Fewest characters.
        min: usize,
        /// Most characters.
        max: usize,
        /// What else must hold.
        rule: &'static str,
    },
}

/// An account to create or change.
#[derive(Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// The canonical id.
    pub id: String,
    /// A unique name.
    pub name: String,
    /// Shown in Owner.
    pub display_name: String,
    /// By which grants may name it; empty without one.
    pub email: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: Zeroizing<String>,
    /// More access keys of the account itself.
    pub keys: Vec<NewKey>,
    /// Its users.
    pub users: Vec<NewUser>,
    /// Ids of keys of the key store that it has.
    pub kms_keys: Vec<String>,
}

impl fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NewAccount { id, name, keys, users, .. } = self;
        f.debug_struct("NewAccount")
            .field("id", id)
            .field("name", name)
            .field("keys", keys)
            .field("users", users)
            .finish_non_exhaustive()
    }
}

/// An access key besides an account's first one.
#[derive(Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: Zeroizing<String>,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// A user of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    /// Its name.
    pub name: String,
    /// Its access keys.
    pub keys: Vec<NewKey>,
    /// What it may do: a policy in JSON.
    pub policy: Option<String>,
}

/// Whether clients can use an access key and its secret.
pub(crate) fn check_access_key(whose: &str, access_key: &str, secret_key: &str) -> Result<(), AccountsError> {
    let key = |what: &str, min, max, rule| AccountsError::Key { what: format!("{what} of {whose}"), min, max, rule };
    // A slash or an equals sign in it could not be told from the credential scope around it.
    let usable = access_key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
    if !(3..=128).contains(&access_key.len()) || !usable {
        return Err(key("the access key", 3, 128, ", letters, digits and -_.+ only"));
    }
    let printable = secret_key.bytes().all(|b| b.is_ascii_graphic());
    if !(8..=128).contains(&secret_key.len()) || !printable {
        return Err(key("the secret key", 8, 128, ", printable ASCII without spaces"));
    }
    Ok(())
}

impl NewAccount {
    /// Whether clients can use it.
    pub(crate) fn check(&self) -> Result<(), AccountsError> {
        let key = |what: &str, min, max, rule| AccountsError::Key {
            what: format!("{what} of account {}", self.name),
            min,
            max,
            rule,
        };
        check_access_key(&format!("account {}", self.name), &self.access_key, &self.secret_key)?;
        for key in self.keys.iter().chain(self.users.iter().flat_map(|user| &user.keys)) {
            check_access_key(&format!("account {}", self.name), &key.access_key, &key.secret_key)?;
        }
        if self.email.len() > 256 || self.email.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(key("the e-mail address", 0, 256, ", without white space"));
        }
        if self.name.is_empty() || self.id.is_empty() || self.name.len() > 256 || self.id.len() > 256 {
            return Err(key("the name and id", 1, 256, ""));
        }
        // They go to S3's answers, and XML can't hold these characters: no client could read its list of buckets.
        let is_plain = |text: &str| !text.chars().any(char::is_control);
        if self.display_name.len() > 256
            || ![&self.id, &self.name, &self.display_name].into_iter().all(|it| is_plain(it))
        {
            return Err(key("the name, id and display name", 1, 256, ", none of them a control character"));
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialsFile {
    access_key: String,
    secret_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountsFile {
    #[serde(default)]
    account: Vec<AccountEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountEntry {
    name: String,
    id: Option<String>,
    display_name: Option<String>,
    email: Option<String>,
    access_key: String,
    secret_key: String,
    #[serde(default)]
    key: Vec<KeyEntry>,
    #[serde(default)]
    user: Vec<UserEntry>,
    #[serde(default)]
    kms_keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    access_key: String,
    secret_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    name: String,
    access_key: String,
    secret_key: String,
    #[serde(default)]
    key: Vec<KeyEntry>,
    /// A policy in JSON, or the file that it is in.
    policy: Option<String>,
}

impl From<KeyEntry> for NewKey {
    fn from(entry: KeyEntry) -> NewKey {
        NewKey { access_key: entry.access_key, secret_key: Zeroizing::new(entry.secret_key) }
    }
}

/// Where the first account's secret was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Kept from an earlier start.
    Stored,
    /// From the environment.
    Given,
    /// Made now: it has to be shown once.
    Generated,
}

/// The first account. The environment wins over what an earlier start stored, so that a secret can be changed;
/// with neither, a new one is made.
pub fn first(data: &DataDir, env: impl Fn(&str) -> Option<String>) -> Result<(NewAccount, Origin), AccountsError> {
    let path = data.credentials_path();
    let stored = match read_private(&path) {
        Ok(text) => Some(parse_credentials(&path, &Zeroizing::new(text))?),
        Err(DataDirError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    let (credentials, origin) = match (set("STELE_ACCESS_KEY"), set("STELE_SECRET_KEY"), stored) {
        (Some(access_key), Some(secret_key), _) => (CredentialsFile { access_key, secret_key }, Origin::Given),
        (None, None, Some(stored)) => (stored, Origin::Stored),
        (None, None, None) => {
            let (access_key, secret_key) = generate().ok_or_else(|| no_random(&path))?;
            (CredentialsFile { access_key, secret_key: secret_key.to_string() }, Origin::Generated)
        }
        _ => return Err(AccountsError::HalfSet),
    };
    let account = NewAccount {
        id: FIRST.to_owned(),
        name: FIRST.to_owned(),
        display_name: FIRST.to_owned(),
        email: String::new(),
        access_key: credentials.access_key.clone(),
        secret_key: Zeroizing::new(credentials.secret_key.clone()),
        keys: Vec::new(),
        users: Vec::new(),
        kms_keys: Vec::new(),
    };
    account.check()?;
    if origin != Origin::Stored {
        let text = toml::to_string(&credentials)
            .map_err(|error| AccountsError::File { path: path.clone(), reason: error.to_string() })?;
        write_durably(&path, Zeroizing::new(text).as_bytes(), 0o600)?;
    }
    Ok((account, origin))
}

fn parse_credentials(path: &Path, text: &str) -> Result<CredentialsFile, AccountsError> {
    // The parser's own words could quote the line with the secret.
    toml::from_str(text).map_err(|_| AccountsError::File {
        path: path.to_owned(),
        reason: "it does not hold access_key and secret_key".to_owned(),
    })
}

fn no_random(path: &Path) -> AccountsError {
    AccountsError::File { path: path.to_owned(), reason: "the system has no random numbers for it".to_owned() }
}

/// An access key and a secret key that nobody has had; `None`: the system has no random numbers.
pub(crate) fn generate() -> Option<(String, Zeroizing<String>)> {
    let (mut access, mut secret) = ([0; 8], Zeroizing::new([0; 20]));
    getrandom::fill(&mut access).ok()?;
    getrandom::fill(&mut *secret).ok()?;
    Some((format!("STEL{}", hex::encode_upper(access)), Zeroizing::new(hex::encode(*secret))))
}

/// The accounts of a file. Like any file with secrets, nobody but its owner may read it.
pub fn from_file(path: &Path) -> Result<Vec<NewAccount>, AccountsError> {
    let wrong = |reason: String| AccountsError::File { path: path.to_owned(), reason };
    let text = read_private(path).map_err(|error| match error {
        DataDirError::Io { source, .. } => wrong(format!("the accounts can't be read: {source}")),
        other => other.into(),
    })?;
    let text = Zeroizing::new(text);
    let file: AccountsFile = toml::from_str(&text).map_err(|error| {
        let line =
            error.span().map_or(1, |span| 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count());
        wrong(format!(
            "line {line}: not an [[account]] with name, access_key and secret_key (if wanted: id, display_name, email, kms_keys, \
             [[account.key]] with access_key and secret_key, [[account.user]] with name, access_key, secret_key and policy)"
        ))
    })?;
    let mut seen = HashSet::new();
    file.account
        .into_iter()
        .map(|entry| {
            let account = entry.account(path)?;
            let keys = account.keys.iter().chain(account.users.iter().flat_map(|user| &user.keys));
            let keys = keys.map(|key| ("access_key", &key.access_key));
            let unique = [("name", &account.name), ("id", &account.id), ("access_key", &account.access_key)];
            for (what, value) in unique.into_iter().chain(keys) {
                if !seen.insert((what, value.clone())) {
                    return Err(wrong(format!("{what} {value} is there twice")));
                }
            }
            if account.id == FIRST || account.name == FIRST {
                return Err(wrong(format!(
                    "the account {FIRST} is the first one: it is set by STELE_ACCESS_KEY and STELE_SECRET_KEY"
                )));
            }
            account.check()?;
            Ok(account)
        })
        .collect()
}

impl AccountEntry {
    /// The account. `path`: of the file that it is in, beside which policies are looked for.
    fn account(self, path: &Path) -> Result<NewAccount, AccountsError> {
        let user = |entry: UserEntry| {
            let first = NewKey { access_key: entry.access_key, secret_key: Zeroizing::new(entry.secret_key) };
            let keys = [first].into_iter().chain(entry.key.into_iter().map(NewKey::from)).collect();
            let policy = entry.policy.map(|policy| policy_text(path, policy)).transpose()?;
            Ok(NewUser { name: entry.name, keys, policy })
        };
        Ok(NewAccount {
            id: self.id.unwrap_or_else(|| self.name.clone()),
            display_name: self.display_name.unwrap_or_else(|| self.name.clone()),
            name: self.name,
            email: self.email.unwrap_or_default(),
            access_key: self.access_key,
            secret_key: Zeroizing::new(self.secret_key),
            keys: self.key.into_iter().map(NewKey::from).collect(),
            users: self.user.into_iter().map(user).collect::<Result<_, AccountsError>>()?,
            kms_keys: self.kms_keys,
        })
    }
}

/// A policy, or the text of the file that it names.
fn policy_text(accounts: &Path, policy: String) -> Result<String, AccountsError> {
    if policy.trim_start().starts_with('{') {
        return Ok(policy);
    }
    let path = accounts.parent().unwrap_or(Path::new("")).join(&policy);
    std::fs::read_to_string(&path)
        .map_err(|source| AccountsError::File { path, reason: format!("the policy can't be read: {source}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn data() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data"), true).unwrap();
        (dir, data)
    }

    #[test]
    fn the_first_account_is_generated_once_and_can_be_given() {
        let (_dir, data) = data();
        let none = |_: &str| None;
        let (made, origin) = first(&data, none).unwrap();
        assert_eq!(origin, Origin::Generated);
        assert_eq!((made.access_key.len(), made.secret_key.len()), (20, 40));
        assert_eq!(first(&data, none).unwrap(), (made.clone(), Origin::Stored));
        let given = |name: &str| Some(if name == "STELE_ACCESS_KEY" { "AKGIVEN" } else { "given-secret" }.to_owned());
        let (account, origin) = first(&data, given).unwrap();
        assert_eq!((account.access_key.as_str(), origin), ("AKGIVEN", Origin::Given));
        assert_eq!(first(&data, none).unwrap(), (account, Origin::Stored));
        let half = |name: &str| (name == "STELE_ACCESS_KEY").then(|| "x".to_owned());
        assert!(matches!(first(&data, half), Err(AccountsError::HalfSet)));
        let mode = std::fs::metadata(data.credentials_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn account_files() {
        let (dir, _data) = data();
        let path = dir.path().join("accounts.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            from_file(&path)
        };
        let two = "[[account]]\nname = \"a\"\naccess_key = \"AKA\"\nsecret_key = \"secret-a\"\n\
                   [[account]]\nname = \"b\"\nid = \"42\"\ndisplay_name = \"Bee\"\naccess_key = \"AKB\"\nsecret_key = \"secret-b\"\n";
        let accounts = read(two).unwrap();
        assert_eq!(accounts.len(), 2);
        assert_eq!((accounts[1].id.as_str(), accounts[1].display_name.as_str()), ("42", "Bee"));
        let users = "[[account]]\nname = \"a\"\naccess_key = \"AKA\"\nsecret_key = \"secret-a\"\nemail = \"a@b\"\n\
                     kms_keys = [\"k\"]\n[[account.key]]\naccess_key = \"AKB\"\nsecret_key = \"secret-b\"\n\
                     [[account.user]]\nname = \"u\"\naccess_key = \"AKC\"\nsecret_key = \"secret-c\"\npolicy = \"p.json\"\n";
        assert!(read(users).is_err(), "the policy is not there");
        std::fs::write(dir.path().join("p.json"), "{}").unwrap();
        let account = read(users).unwrap().remove(0);
        assert_eq!((account.email.as_str(), account.kms_keys.as_slice()), ("a@b", &["k".to_owned()][..]));
        assert_eq!((account.keys.len(), account.users[0].keys.len()), (1, 1));
        assert_eq!(account.users[0].policy.as_deref(), Some("{}"));
        assert!(!format!("{account:?}").contains("secret-c"));
        assert!(read(&users.replace("AKC", "AKB")).unwrap_err().to_string().contains("twice"));
        assert!(read("").unwrap().is_empty());
        let error = read("[[account]]\nname = \"a\"\nacces_key = \"AKA\"\n").unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
        for bad in [
            "[[account]]\nname = \"a\"\naccess_key = \"AKA\"\n",
            "[[account]]\nname = \"a\"\naccess_key = \"A/A\"\nsecret_key = \"secret-a\"\n",
            "[[account]]\nname = \"a\"\naccess_key = \"AKA\"\nsecret_key = \"short\"\n",
            "[[account]]\nname = \"a\\u0007\"\naccess_key = \"AKA\"\nsecret_key = \"secret-a\"\n",
            "[[account]]\nname = \"a\"\ndisplay_name = \"a\\n\"\naccess_key = \"AKA\"\nsecret_key = \"secret-a\"\n",
            "[[account]]\nname = \"admin\"\naccess_key = \"AKA\"\nsecret_key = \"secret-a\"\n",
            &format!("{two}{two}"),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(!error.contains("secret-a"), "no secret in {error}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(from_file(&path).is_err());
    }
}
