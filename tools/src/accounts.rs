//! The accounts that a start brings along: the first one's credentials, and those of `--accounts FILE`.

use crate::data_dir::{DataDir, DataDirError, random, read_private, write_durably};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Id and name of the first account.
const FIRST: &str = "admin";

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAccount {
    /// The canonical id.
    pub id: String,
    /// A unique name.
    pub name: String,
    /// Shown in Owner.
    pub display_name: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: Zeroizing<String>,
}

impl NewAccount {
    fn check(&self) -> Result<(), AccountsError> {
        let key = |what: &str, min, max, rule| AccountsError::Key {
            what: format!("{what} of account {}", self.name),
            min,
            max,
            rule,
        };
        // A slash or an equals sign in it could not be told from the credential scope around it.
        let usable = self.access_key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
        if !(3..=128).contains(&self.access_key.len()) || !usable {
            return Err(key("the access key", 3, 128, ", letters, digits and -_.+ only"));
        }
        let printable = self.secret_key.bytes().all(|b| b.is_ascii_graphic());
        if !(8..=128).contains(&self.secret_key.len()) || !printable {
            return Err(key("the secret key", 8, 128, ", printable ASCII without spaces"));
        }
        if self.name.is_empty() || self.id.is_empty() || self.name.len() > 256 || self.id.len() > 256 {
            return Err(key("the name and id", 1, 256, ""));
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
    access_key: String,
    secret_key: String,
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
        (None, None, None) => (generate(&path)?, Origin::Generated),
        _ => return Err(AccountsError::HalfSet),
    };
    let account = NewAccount {
        id: FIRST.to_owned(),
        name: FIRST.to_owned(),
        display_name: FIRST.to_owned(),
        access_key: credentials.access_key.clone(),
        secret_key: Zeroizing::new(credentials.secret_key.clone()),
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

fn generate(path: &Path) -> Result<CredentialsFile, AccountsError> {
    let access = hex::encode_upper(random::<8>(path)?);
    Ok(CredentialsFile { access_key: format!("STEL{access}"), secret_key: hex::encode(random::<20>(path)?) })
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
            "line {line}: not an [[account]] with name, access_key and secret_key (id and display_name if wanted)"
        ))
    })?;
    let mut seen = HashSet::new();
    file.account
        .into_iter()
        .map(|entry| {
            let id = entry.id.unwrap_or_else(|| entry.name.clone());
            let unique = [("name", &entry.name), ("id", &id), ("access_key", &entry.access_key)];
            for (what, value) in unique {
                if !seen.insert((what, value.clone())) {
                    return Err(wrong(format!("{what} {value} is there twice")));
                }
            }
            if id == FIRST || entry.name == FIRST {
                return Err(wrong(format!(
                    "the account {FIRST} is the first one: it is set by STELE_ACCESS_KEY and STELE_SECRET_KEY"
                )));
            }
            let account = NewAccount {
                display_name: entry.display_name.unwrap_or_else(|| entry.name.clone()),
                id,
                name: entry.name,
                access_key: entry.access_key,
                secret_key: Zeroizing::new(entry.secret_key),
            };
            account.check()?;
            Ok(account)
        })
        .collect()
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
        assert!(read("").unwrap().is_empty());
        let error = read("[[account]]\nname = \"a\"\nacces_key = \"AKA\"\n").unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
        for bad in [
            "[[account]]\nname = \"a\"\naccess_key = \"AKA\"\n",
            "[[account]]\nname = \"a\"\naccess_key = \"A/A\"\nsecret_key = \"secret-a\"\n",
            "[[account]]\nname = \"a\"\naccess_key = \"AKA\"\nsecret_key = \"short\"\n",
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
