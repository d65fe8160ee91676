//! The keys of dedup domains, by what the domain is for.
//!
//! Invariants:
//! * Whatever key a chunk's bytes are under, the nodes of a manifest are under one that the key-encryption keys alone unwrap. They
//!   list ids and lengths and no byte of an object. So whoever walks manifests (marks, fixity, repair) needs no client, and no key
//!   of the key store: what can't be read is never taken for what is damaged, or for what nobody needs.
//! * A domain for encrypted objects whose data key is not at hand ([`Domain::data_key`]) encodes nothing: see [`Domain::seals`].

use super::{KeyError, Keys};
use codec::effect::{DomainRow, ProtectionClass};
use codec::encrypt::{ChunkKey, DataKey};
use codec::id::DomainId;
use std::collections::HashMap;
use zeroize::Zeroizing;

/// What a dedup domain is for. Nothing is shared between two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Objects that are not encrypted.
    #[default]
    Plain,
    /// SSE-S3: under a data key of the domain.
    Managed,
    /// SSE-C: under keys of each object's own, which are under its client's key.
    Customer,
    /// SSE-KMS: under a data key of the domain, which is under this key of the key store.
    Kms(String),
}

impl Purpose {
    /// Its protection class, as rows say it.
    pub fn class(&self) -> ProtectionClass {
        match self {
            Purpose::Plain => ProtectionClass::Unspecified,
            Purpose::Managed => ProtectionClass::Managed,
            Purpose::Customer => ProtectionClass::Customer,
            Purpose::Kms(_) => ProtectionClass::Kms,
        }
    }

    /// The key of the key store.
    pub fn key(&self) -> &str {
        match self {
            Purpose::Kms(key) => key,
            _ => "",
        }
    }

    /// That of a class and key, as rows have them.
    pub fn of(class: ProtectionClass, key: &str) -> Purpose {
        match class {
            ProtectionClass::Unspecified => Purpose::Plain,
            ProtectionClass::Managed => Purpose::Managed,
            ProtectionClass::Customer => Purpose::Customer,
            ProtectionClass::Kms => Purpose::Kms(key.to_owned()),
        }
    }

    /// That of a class as a number, where 0 leaves it to `encrypted`. `None`: a later release's.
    pub(crate) fn said(class: i32, encrypted: bool, key: &str) -> Option<Purpose> {
        match ProtectionClass::try_from(class).ok()? {
            ProtectionClass::Unspecified if encrypted => Some(Purpose::Managed),
            class => Some(Purpose::of(class, key)),
        }
    }

    /// That of a domain.
    pub fn of_row(row: &DomainRow) -> Purpose {
        match row.class() {
            ProtectionClass::Unspecified if row.encrypted => Purpose::Managed,
            class => Purpose::of(class, &row.key),
        }
    }

    /// Objects of it are encrypted.
    pub fn encrypts(&self) -> bool {
        *self != Purpose::Plain
    }
}

/// A dedup domain with its keys in the clear.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its id.
    pub id: DomainId,
    /// The account whose it is.
    pub account: String,
    /// What it is for.
    pub purpose: Purpose,
    /// The key of its chunk ids. Under SSE-C that of manifest nodes alone.
    pub chunk_key: ChunkKey,
    /// The key of its chunks' frames; `None` for a plaintext domain, for SSE-C, and where the key store was not asked.
    pub data_key: Option<DataKey>,
    /// The key of the frames of manifest nodes; `None` for a plaintext domain.
    pub node_key: Option<DataKey>,
}

impl Domain {
    /// One whose chunks and manifest nodes are under the same keys, or under none.
    pub fn new(id: DomainId, account: String, chunk_key: ChunkKey, data_key: Option<DataKey>) -> Domain {
        let purpose = if data_key.is_some() { Purpose::Managed } else { Purpose::Plain };
        Domain { id, account, purpose, chunk_key, node_key: data_key.clone(), data_key }
    }

    /// Whether chunks can be stored in it as they should be: not in the clear where they are to be encrypted.
    pub fn seals(&self) -> bool {
        self.purpose.encrypts() == self.data_key.is_some()
    }

    /// The same domain for the chunks of one object, which has keys of its own.
    pub fn of_object(&self, chunk_key: ChunkKey, data_key: DataKey) -> Domain {
        Domain { chunk_key, data_key: Some(data_key), ..self.clone() }
    }
}

impl Keys {
    /// The row of a new dedup domain with new random keys, for [`crate::command::Command::PutDomain`], which gives the id. The
    /// data key of [`Purpose::Kms`] is left out: the key store wraps it.
    pub fn new_domain(&self, account: &str, purpose: &Purpose) -> Result<DomainRow, KeyError> {
        let chunk_key = ChunkKey::random()?;
        let wrapped_chunk_key = self.wrap(&domain_purpose("chunk", account, purpose), chunk_key.expose())?;
        let wrapped_data_key = match purpose {
            Purpose::Managed => self.wrap(&domain_purpose("data", account, purpose), DataKey::random()?.expose())?,
            _ => Vec::new(),
        };
        let class = match purpose.class() {
            // As it was said before there were classes.
            ProtectionClass::Managed => ProtectionClass::Unspecified,
            class => class,
        };
        Ok(DomainRow {
            account: account.to_owned(),
            encrypted: purpose.encrypts(),
            wrapped_chunk_key: wrapped_chunk_key.into(),
            wrapped_data_key: wrapped_data_key.into(),
            class: class.into(),
            key: purpose.key().to_owned(),
            ..DomainRow::default()
        })
    }

    /// The dedup domains of these rows that open with the keys that are here, for a walk over everything. Those that don't are left
    /// out (a start names them): what is under them counts as what can't be read, which holds that domain. Were it an error, one
    /// secret that is damaged, or under a key that was put away, would keep the whole cluster from giving any space back.
    pub(crate) fn open_domains(&self, rows: &[DomainRow]) -> HashMap<DomainId, Domain> {
        let opened = rows.iter().filter_map(|row| match self.unwrap_domain(row) {
            Ok(domain) => Some((domain.id, domain)),
            Err(error) => {
                tracing::debug!(%error, "a dedup domain is left out");
                None
            }
        });
        opened.collect()
    }

    /// A dedup domain with its keys, but for what the key store unwraps.
    pub fn unwrap_domain(&self, row: &DomainRow) -> Result<Domain, KeyError> {
        let purpose = Purpose::of_row(row);
        let what = format!("the chunk key of domain {}", row.id);
        let secret = self.unwrap(&what, &domain_purpose("chunk", &row.account, &purpose), &row.wrapped_chunk_key)?;
        let chunk_key = ChunkKey::from_slice(&secret).ok_or(KeyError::Secret(what))?;
        let data_key = match purpose {
            Purpose::Managed => {
                let what = format!("the data key of domain {}", row.id);
                let secret =
                    self.unwrap(&what, &domain_purpose("data", &row.account, &purpose), &row.wrapped_data_key)?;
                Some(DataKey::from_slice(&secret).ok_or(KeyError::Secret(what))?)
            }
            _ => None,
        };
        let node_key = match purpose {
            Purpose::Plain => None,
            Purpose::Managed => data_key.clone(),
            Purpose::Customer | Purpose::Kms(_) => Some(node_key(&chunk_key)),
        };
        Ok(Domain { id: DomainId(row.id), account: row.account.clone(), purpose, chunk_key, data_key, node_key })
    }
}

/// The key of manifest nodes where that of chunks is not always at hand.
fn node_key(chunk_key: &ChunkKey) -> DataKey {
    let key = Zeroizing::new(blake3::derive_key("stele 2026 manifest node key v1", chunk_key.expose()));
    DataKey::new(*key)
}

/// What a domain's secret is bound to: rows can't be swapped on media.
pub(crate) fn domain_purpose(kind: &str, account: &str, purpose: &Purpose) -> Vec<u8> {
    match purpose {
        Purpose::Plain | Purpose::Managed => {
            format!("stele 2026 domain {kind} key v1\0{}\0{account}", u8::from(purpose.encrypts())).into_bytes()
        }
        Purpose::Customer | Purpose::Kms(_) => {
            let class = purpose.class() as i32;
            format!("stele 2026 domain {kind} key v2\0{class}\0{account}\0{}", purpose.key()).into_bytes()
        }
    }
}
