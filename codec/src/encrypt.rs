//! Keys, the encryption of frames and the wrapping of secrets: AES-256-GCM of aws-lc.
//!
//! **Nonces.** GCM is broken by one nonce used twice under one key. Two different answers here:
//!
//! * *Frames* are many (10^9 and more under one data key), too many for random 96-bit nonces. So each frame has a key of its
//!   own, derived from the data key and a random 256-bit salt in the frame header; two salts never meet, each key encrypts
//!   one message, and the nonce is all zeros. Encoding the same chunk again draws another salt.
//! * *Wrapped secrets* are few: one or two per account and dedup domain. With a random 96-bit nonce each, a million of them
//!   under one key meet with probability 10^-17. Nothing else is ever encrypted under a key-encryption key.
//!
//! Secrets are wiped when dropped and show nothing of themselves in `Debug`; they have no `Display`.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::{ChunkId, DomainId};

/// Bytes that encryption adds: the authentication tag.
pub const TAG_LEN: usize = 16;
/// Bytes of a frame's salt.
pub const SALT_LEN: usize = 32;

const NONCE_LEN: usize = 12;
const WRAP_VERSION: u8 = 1;
/// A secret that is wrapped by two keys, each of which unwraps it.
const WRAP_TWICE: u8 = 2;

macro_rules! secret_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The key with these bytes. The caller wipes its own copy.
            pub fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Reads a key from a slice of exactly 32 bytes; `None` for any other length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// A new key from the system's random source.
            pub fn random() -> Result<Self, RandomError> {
                let mut key = Self([0; 32]);
                getrandom::fill(&mut key.0)?;
                Ok(key)
            }

            /// The bytes, for wrapping. Never log or copy them.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }
    };
}

secret_key!(
    /// The key of a dedup domain's chunk ids. Whoever has it can test whether the domain holds a given chunk.
    ChunkKey
);
secret_key!(
    /// The key of an encrypted dedup domain's frames.
    DataKey
);
secret_key!(
    /// Wraps all other secrets. Lies outside the drives; losing it loses accounts and encrypted objects.
    KeyEncryptionKey
);

/// The system's random source failed. Nothing can be encrypted until it works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no random bytes from the system: {0}")]
pub struct RandomError(#[from] getrandom::Error);

/// Why a frame's payload could not be encrypted or decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// The tag does not fit: another key, another domain, chunk or format, or damage.
    #[error("authentication failed: wrong key, wrong place or damage")]
    Forged,
    /// See [`RandomError`].
    #[error(transparent)]
    Random(#[from] RandomError),
    /// aws-lc refused, which it never does for inputs of our sizes.
    #[error("the cipher refused to work")]
    Refused,
}

/// Why a secret could not be wrapped or unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// Too short to be a wrapped secret.
    #[error("not a wrapped secret")]
    Malformed,
    /// Written by a newer version.
    #[error("wrapped secret of unknown version {0}: written by a newer Stele")]
    Version(u8),
    /// The tag does not fit.
    #[error("this is not the key-encryption key that the secret was wrapped with, or the secret is damaged")]
    WrongKey,
    /// See [`RandomError`].
    #[error(transparent)]
    Random(#[from] RandomError),
    /// aws-lc refused, which it never does for inputs of our sizes.
    #[error("the cipher refused to work")]
    Refused,
}

/// What a frame's ciphertext is bound to, so that it can't be passed off as another chunk's.
#[derive(Debug, Clone, Copy)]
pub struct FrameContext {
    /// The dedup domain.
    pub domain: DomainId,
    /// The chunk.
    pub id: ChunkId,
    /// The frame format's version.
    pub version: u8,
}

impl FrameContext {
    /// Additional data: domain (8, little endian), chunk id (32), version (1).
    fn additional_data(&self) -> [u8; 41] {
        let mut out = [0; 41];
        out[..8].copy_from_slice(&self.domain.0.to_le_bytes());
        out[8..40].copy_from_slice(self.id.as_bytes());
        out[40] = self.version;
        out
    }
}

/// A new salt for one frame.
pub(crate) fn random_salt() -> Result<[u8; SALT_LEN], RandomError> {
    let mut salt = [0; SALT_LEN];
    getrandom::fill(&mut salt)?;
    Ok(salt)
}

/// The key of one frame.
fn frame_cipher(key: &DataKey, salt: &[u8; SALT_LEN]) -> Result<LessSafeKey, CipherError> {
    let mut hasher = blake3::Hasher::new_derive_key("stele 2026 frame key v1");
    hasher.update(&key.0).update(salt);
    let frame_key = Zeroizing::new(*hasher.finalize().as_bytes());
    hasher.zeroize();
    cipher(&frame_key).ok_or(CipherError::Refused)
}

fn cipher(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

/// Encrypts in place and returns the tag.
///
/// The nonce is zero: `salt` must be fresh from [`random_salt`] for each call.
pub(crate) fn seal_frame(
    key: &DataKey,
    salt: &[u8; SALT_LEN],
    context: &FrameContext,
    payload: &mut [u8],
) -> Result<[u8; TAG_LEN], CipherError> {
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let tag = frame_cipher(key, salt)?
        .seal_in_place_separate_tag(nonce, Aad::from(context.additional_data()), payload)
        .map_err(|_| CipherError::Refused)?;
    tag.as_ref().try_into().map_err(|_| CipherError::Refused)
}

/// Verifies and decrypts ciphertext with its tag behind it.
pub(crate) fn open_frame(
    key: &DataKey,
    salt: &[u8; SALT_LEN],
    context: &FrameContext,
    stored: &[u8],
) -> Result<Vec<u8>, CipherError> {
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let mut buffer = stored.to_vec();
    let len = frame_cipher(key, salt)?
        .open_in_place(nonce, Aad::from(context.additional_data()), &mut buffer)
        .map_err(|_| CipherError::Forged)?
        .len();
    buffer.truncate(len);
    Ok(buffer)
}

impl KeyEncryptionKey {
    /// Wraps a secret: version (1), nonce (12), ciphertext, tag (16). `purpose` says what the secret is and whose, so that
    /// one wrapped secret can't stand in for another; it is not stored.
    pub fn wrap(&self, purpose: &[u8], secret: &[u8]) -> Result<Vec<u8>, WrapError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(RandomError)?;
        let mut out = Vec::with_capacity(1 + NONCE_LEN + secret.len() + TAG_LEN);
        out.push(WRAP_VERSION);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(secret);
        let tag = cipher(&self.0)
            .ok_or(WrapError::Refused)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(purpose),
                &mut out[1 + NONCE_LEN..],
            )
            .map_err(|_| WrapError::Refused)?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Unwraps what [`Self::wrap`] made with the same purpose.
    pub fn unwrap(&self, purpose: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrapError> {
        let (&version, rest) = wrapped.split_first().ok_or(WrapError::Malformed)?;
        if version != WRAP_VERSION {
            return Err(WrapError::Version(version));
        }
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(WrapError::Malformed)?;
        if sealed.len() < TAG_LEN {
            return Err(WrapError::Malformed);
        }
        let mut secret = Zeroizing::new(sealed.to_vec());
        let len = cipher(&self.0)
            .ok_or(WrapError::Refused)?
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(purpose), &mut secret)
            .map_err(|_| WrapError::WrongKey)?
            .len();
        secret.truncate(len);
        Ok(secret)
    }
}

/// Wraps a secret by two keys, either of which unwraps it: version (1), length of the first wrapping (2, little endian), the wrapping by
/// the first key, the wrapping by the second one, both as [`KeyEncryptionKey::wrap`] makes them.
pub fn wrap_twice(keys: [&KeyEncryptionKey; 2], purpose: &[u8], secret: &[u8]) -> Result<Vec<u8>, WrapError> {
    let (first, second) = (keys[0].wrap(purpose, secret)?, keys[1].wrap(purpose, secret)?);
    let len = u16::try_from(first.len()).map_err(|_| WrapError::Malformed)?;
    Ok([&[WRAP_TWICE], &len.to_le_bytes()[..], &first, &second].concat())
}

/// Whether a secret was wrapped by [`wrap_twice`].
pub fn is_wrapped_twice(wrapped: &[u8]) -> bool {
    wrapped.first() == Some(&WRAP_TWICE)
}

/// The wrappings of a secret that was wrapped once or twice.
fn wrappings(wrapped: &[u8]) -> Result<[Option<&[u8]>; 2], WrapError> {
    let Some((&WRAP_TWICE, rest)) = wrapped.split_first() else { return Ok([Some(wrapped), None]) };
    let (len, rest) = rest.split_first_chunk::<2>().ok_or(WrapError::Malformed)?;
    let (first, second) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))).ok_or(WrapError::Malformed)?;
    Ok([Some(first), Some(second)])
}

/// Unwraps a secret that was wrapped once or twice by the first of `keys` that does.
pub fn unwrap_any<'a>(
    keys: impl IntoIterator<Item = &'a KeyEncryptionKey>,
    purpose: &[u8],
    wrapped: &[u8],
) -> Result<Zeroizing<Vec<u8>>, WrapError> {
    let wrappings = wrappings(wrapped)?;
    let mut failed = WrapError::WrongKey;
    for key in keys {
        for wrapping in wrappings.into_iter().flatten() {
            match key.unwrap(purpose, wrapping) {
                Ok(secret) => return Ok(secret),
                // That it is of a later version, or no wrapped secret at all, says more than that this key does not fit.
                Err(WrapError::WrongKey) => {}
                Err(error) => failed = error,
            }
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests;
