//! Temporary credentials: an access key that is in no row, its secret, and a token that says what it is.
//!
//! Invariants
//! * The secret is made of the access key by a key that never leaves metadata, so nobody can sign with an access key that was not
//!   given out; the token is sealed for its access key, so nobody can put another one beside it, or change what it says.
//! * A token says who took it, of what, and until when. Whether that one is still there, and what it may do, the rows say each time.
//! * What somebody has taken for himself ends with the access key that he took it with: who takes a key away that was stolen must not
//!   leave the thief a day and a half with what he made of it.

use crate::keys::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use codec::encrypt::{KeyEncryptionKey, WrapError};
use prost::Message;
use zeroize::Zeroizing;

/// What temporary access keys begin with, and no others.
pub const PREFIX: &str = "ASIA";

/// The longest token that is looked at, in bytes.
pub const LONGEST_TOKEN: usize = 8 << 10;
/// The longest access key that is looked for, in bytes.
pub const LONGEST_ACCESS_KEY: usize = 128;

/// What a token says.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Session {
    /// The account.
    #[prost(string, tag = "1")]
    pub account: String,
    /// The user that took it for itself; empty of a role's, and of an account's own.
    #[prost(string, tag = "2")]
    pub user: String,
    /// The role that was taken; empty of others.
    #[prost(string, tag = "3")]
    pub role: String,
    /// Unique id of the user or role: one that is made anew under the name is another one.
    #[prost(string, tag = "4")]
    pub holder: String,
    /// Its name, of a role's.
    #[prost(string, tag = "5")]
    pub name: String,
    /// The policy that it was begun with; empty without one.
    #[prost(string, tag = "6")]
    pub policy: String,
    /// When it was begun, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "7")]
    pub begun_ms: u64,
    /// When it ends, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "8")]
    pub ends_ms: u64,
    /// The access key that it was taken with; empty of a role's.
    #[prost(string, tag = "9")]
    pub access_key: String,
}

/// What temporary credentials are made of.
pub struct SessionKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey")
    }
}

impl SessionKey {
    /// With the bytes that all metadata nodes of the cluster have.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> SessionKey {
        SessionKey(bytes)
    }

    /// The access key of new temporary credentials, of random bytes.
    pub fn access_key(random: [u8; 8]) -> String {
        format!("{PREFIX}{}", hex::encode_upper(random))
    }

    /// The secret of a temporary access key.
    pub fn secret(&self, access_key: &str) -> Secret {
        let key = Zeroizing::new(blake3::derive_key("stele 2026 session secret v1", &self.0[..]));
        let hash = blake3::keyed_hash(&key, access_key.as_bytes());
        Secret::new(hex::encode(hash.as_bytes().first_chunk::<20>().unwrap_or(&[0; 20])))
    }

    /// The token of a temporary access key.
    ///
    /// # Errors
    /// Nothing can be sealed at present.
    pub fn seal(&self, access_key: &str, session: &Session) -> Result<String, WrapError> {
        let sealed = self.sealing().wrap(&purpose(access_key), &session.encode_to_vec())?;
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// What a token says; `None` of one that is not of this access key, or of none that was given out.
    pub fn open(&self, access_key: &str, token: &str) -> Option<Session> {
        if token.len() > LONGEST_TOKEN {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
        let said = self.sealing().unwrap(&purpose(access_key), &sealed).ok()?;
        Session::decode(&said[..]).ok()
    }

    fn sealing(&self) -> KeyEncryptionKey {
        KeyEncryptionKey::new(blake3::derive_key("stele 2026 session token v1", &self.0[..]))
    }
}

fn purpose(access_key: &str) -> Vec<u8> {
    format!("stele 2026 session v1\0{access_key}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SessionKey {
        SessionKey::new(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn a_token_opens_for_its_access_key_only_and_as_it_is() {
        let session = Session { account: "1".into(), role: "r".into(), ends_ms: 7, ..Session::default() };
        let (key, other) = (key(1), key(2));
        let token = key.seal("ASIA1", &session).unwrap();
        assert_eq!(key.open("ASIA1", &token), Some(session));
        assert_eq!(key.open("ASIA2", &token), None);
        assert_eq!(other.open("ASIA1", &token), None);
        for bad in
            ["", "x", &token[1..], &token[..token.len() - 2], &token.replace(&token[20..21], "!"), &"A".repeat(9000)]
        {
            assert_eq!(key.open("ASIA1", bad), None);
        }
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.open("ASIA1", std::str::from_utf8(&changed).unwrap()), None, "character {at}");
        }
    }

    #[test]
    fn secrets_differ_by_key_and_access_key() {
        let secret = |byte, access_key| key(byte).secret(access_key).expose().to_owned();
        assert_eq!(secret(1, "ASIA1"), secret(1, "ASIA1"));
        assert_ne!(secret(1, "ASIA1"), secret(1, "ASIA2"));
        assert_ne!(secret(1, "ASIA1"), secret(2, "ASIA1"));
        assert_eq!(secret(1, "ASIA1").len(), 40);
        assert!(SessionKey::access_key([7; 8]).starts_with(PREFIX));
    }
}
