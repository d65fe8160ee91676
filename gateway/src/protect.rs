//! Under which keys the bytes of an object are stored and read.
//!
//! Invariants:
//! * A client's own key (SSE-C) is in memory while its request runs, and nowhere else: what is stored is what only it unwraps. A chunk
//!   under it is named by a key of its object alone, so it is never shared, and its name says nothing of its bytes.
//! * Manifest nodes are under keys that metadata has ([`metadata::keys::Domain::node_key`]): completing an upload and walking an
//!   object take no client's key.
//! * An object whose bytes are under another key than SSE-S3's has an entity tag that is no digest of its bytes.

use crate::engine::Gateway;
use crate::error::{GetError, PutError};
use codec::effect::{Content, ObjectKeyRow, UploadRow};
use codec::encrypt::{ChunkKey, DataKey, KeyEncryptionKey};
use codec::id::DomainId;
use metadata::client::{LookupError, MetadataClient};
use metadata::keys::{Domain, Purpose};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Length of an object's own keys, in bytes: of its chunks' names, and of their frames.
const OWN_KEYS: usize = 64;

/// How a new object is to be protected.
#[derive(Clone, Debug, Default)]
pub enum Protection {
    /// Not at all.
    #[default]
    Plain,
    /// SSE-S3.
    Managed,
    /// SSE-C.
    Customer(CustomerKey),
    /// SSE-KMS, by a key of the key store.
    Kms(String),
}

impl From<bool> for Protection {
    fn from(encrypt: bool) -> Protection {
        if encrypt { Protection::Managed } else { Protection::Plain }
    }
}

impl Protection {
    /// What its dedup domain is for.
    pub fn purpose(&self) -> Purpose {
        match self {
            Protection::Plain => Purpose::Plain,
            Protection::Managed => Purpose::Managed,
            Protection::Customer(_) => Purpose::Customer,
            Protection::Kms(key) => Purpose::Kms(key.clone()),
        }
    }
}

/// A client's key. It is wiped when dropped, and shows nothing of itself in `Debug`.
#[derive(Clone, Debug)]
pub struct CustomerKey(KeyEncryptionKey);

impl CustomerKey {
    /// The key with these bytes.
    pub fn new(key: &Zeroizing<[u8; 32]>) -> CustomerKey {
        CustomerKey(KeyEncryptionKey::new(**key))
    }

    /// New keys for one object of a domain, wrapped by this one.
    fn seal(&self, domain: &Domain) -> Result<(Domain, ObjectKeyRow), PutError> {
        let failed = |error: &dyn std::fmt::Display| PutError::Internal(error.to_string());
        let chunk_key = ChunkKey::random().map_err(|error| failed(&error))?;
        let data_key = DataKey::random().map_err(|error| failed(&error))?;
        let mut both = Zeroizing::new([0; OWN_KEYS]);
        both[..32].copy_from_slice(chunk_key.expose());
        both[32..].copy_from_slice(data_key.expose());
        let wrapped = self.0.wrap(&bound_to(domain.id), &both[..]).map_err(|error| failed(&error))?;
        Ok((domain.of_object(chunk_key, data_key), ObjectKeyRow { wrapped: wrapped.into() }))
    }

    /// The keys of an object. `None`: this is not the key that they were wrapped by.
    fn open(&self, domain: &Domain, sealed: &ObjectKeyRow) -> Option<Domain> {
        let both = self.0.unwrap(&bound_to(domain.id), &sealed.wrapped).ok()?;
        let (chunk_key, data_key) = both.split_at_checked(32)?;
        Some(domain.of_object(ChunkKey::from_slice(chunk_key)?, DataKey::from_slice(data_key)?))
    }

    /// Whether it is the key of an object.
    pub fn opens(&self, domain: DomainId, sealed: &ObjectKeyRow) -> bool {
        self.0.unwrap(&bound_to(domain), &sealed.wrapped).is_ok_and(|keys| keys.len() == OWN_KEYS)
    }
}

/// Wrapped keys are of one domain: they can't be passed off as another account's.
fn bound_to(domain: DomainId) -> Vec<u8> {
    format!("stele 2026 object keys v1\0{domain}").into_bytes()
}

/// The keys under which one object is stored.
#[derive(Clone, Debug)]
pub(crate) struct Under {
    /// For its chunks.
    pub(crate) chunks: Arc<Domain>,
    /// For the nodes of its manifest.
    pub(crate) nodes: Arc<Domain>,
    /// Its own keys, if it has any.
    pub(crate) sealed: Option<ObjectKeyRow>,
}

impl Under {
    fn shared(domain: Arc<Domain>) -> Under {
        Under { nodes: nodes(&domain), chunks: domain, sealed: None }
    }

    /// For a new object of an account.
    pub(crate) async fn new(gateway: &Gateway, account: &str, how: &Protection) -> Result<Under, PutError> {
        let domain = gateway.meta.domain(account, &how.purpose()).await?;
        let Protection::Customer(key) = how else { return Ok(Under::shared(domain)) };
        let (chunks, sealed) = key.seal(&domain)?;
        Ok(Under { nodes: nodes(&domain), chunks: Arc::new(chunks), sealed: Some(sealed) })
    }

    /// For a part of an upload.
    pub(crate) async fn of_upload(
        gateway: &Gateway,
        upload: &UploadRow,
        key: Option<&CustomerKey>,
    ) -> Result<Under, PutError> {
        let domain = gateway.meta.domain_by_id(DomainId(upload.domain)).await?;
        let chunks = open(&domain, upload.sealed.as_ref(), key)?;
        Ok(Under { nodes: nodes(&domain), chunks, sealed: upload.sealed.clone() })
    }

    /// For the manifest of a whole upload. Its chunks are there.
    pub(crate) async fn of_manifest(gateway: &Gateway, upload: &UploadRow) -> Result<Under, PutError> {
        let domain = gateway.meta.domain_by_id(DomainId(upload.domain)).await?;
        Ok(Under { sealed: upload.sealed.clone(), ..Under::shared(domain) })
    }

    /// For reading an object.
    pub(crate) async fn of_content(
        gateway: &Gateway,
        content: &Content,
        key: Option<&CustomerKey>,
    ) -> Result<Under, GetError> {
        let domain = gateway.meta.domain_by_id(content.domain_id()).await?;
        let chunks = open(&domain, content.sealed.as_ref(), key)?;
        Ok(Under { nodes: nodes(&domain), chunks, sealed: content.sealed.clone() })
    }

    /// Whether a content of `other` may be taken over as it is. What is under a client's key never is: the copy has another key, or
    /// at least other keys under it.
    pub(crate) fn shares(&self, content: &Content) -> bool {
        self.sealed.is_none() && content.sealed.is_none() && self.chunks.id == content.domain_id()
    }

    /// The entity tag of a body with this MD5, in hex.
    pub(crate) fn etag(&self, md5: String) -> Result<String, PutError> {
        match self.chunks.purpose {
            Purpose::Plain | Purpose::Managed => Ok(md5),
            Purpose::Customer | Purpose::Kms(_) => {
                let mut random = [0; 16];
                getrandom::fill(&mut random).map_err(|error| PutError::Internal(error.to_string()))?;
                Ok(hex::encode(random))
            }
        }
    }
}

/// A domain as the nodes of manifests are stored in it.
fn nodes(domain: &Arc<Domain>) -> Arc<Domain> {
    match domain.purpose {
        Purpose::Plain | Purpose::Managed => Arc::clone(domain),
        Purpose::Customer | Purpose::Kms(_) => {
            Arc::new(Domain { data_key: domain.node_key.clone(), ..Domain::clone(domain) })
        }
    }
}

fn open(
    domain: &Arc<Domain>,
    sealed: Option<&ObjectKeyRow>,
    key: Option<&CustomerKey>,
) -> Result<Arc<Domain>, WrongKey> {
    match (sealed, key) {
        (None, _) => Ok(Arc::clone(domain)),
        (Some(_), None) => Err(WrongKey::Missing),
        (Some(sealed), Some(key)) => key.open(domain, sealed).map(Arc::new).ok_or(WrongKey::Other),
    }
}

/// Why an object under a client's key is not read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongKey {
    /// The request has none.
    #[error("the object is under a key that the request does not have")]
    Missing,
    /// It is another one.
    #[error("this is not the key that the object is under")]
    Other,
}

impl Gateway {
    /// What an object is under. Says so, too, where the key store would not let it be read.
    pub async fn purpose_of(&self, content: &Content) -> Result<Purpose, LookupError> {
        self.purpose_in(content.domain_id(), content.encrypted).await
    }

    /// What everything is under that is stored in a domain; `encrypted`: as the row says that names it.
    pub async fn purpose_in(&self, domain: DomainId, encrypted: bool) -> Result<Purpose, LookupError> {
        purpose_in(self.meta.as_ref(), domain, encrypted).await
    }
}

/// [`Gateway::purpose_in`].
pub async fn purpose_in(meta: &dyn MetadataClient, domain: DomainId, encrypted: bool) -> Result<Purpose, LookupError> {
    if !encrypted {
        return Ok(Purpose::Plain);
    }
    match meta.domain_by_id(domain).await {
        Ok(domain) => Ok(domain.purpose.clone()),
        Err(LookupError::Kms { key, .. }) => Ok(Purpose::Kms(key)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> Domain {
        let keys = metadata::keys::Keys::new(KeyEncryptionKey::new([1; 32]));
        keys.unwrap_domain(&keys.new_domain("alice", &Purpose::Customer).unwrap()).unwrap()
    }

    #[test]
    fn only_the_clients_key_opens_and_two_objects_have_nothing_in_common() {
        let domain = domain();
        assert!(!domain.seals(), "without an object's keys nothing can be stored in it");
        let (ours, theirs) = (CustomerKey::new(&[2; 32].into()), CustomerKey::new(&[3; 32].into()));
        let (sealing, sealed) = ours.seal(&domain).unwrap();
        assert!(sealing.seals() && sealing.node_key.is_some());
        let opened = ours.open(&domain, &sealed).unwrap();
        assert_eq!(opened.chunk_key.expose(), sealing.chunk_key.expose());
        assert_eq!(opened.data_key.unwrap().expose(), sealing.data_key.as_ref().unwrap().expose());
        assert!(theirs.open(&domain, &sealed).is_none() && !theirs.opens(domain.id, &sealed));
        let moved = Domain { id: DomainId(9), ..domain.clone() };
        assert!(ours.open(&moved, &sealed).is_none() && ours.opens(domain.id, &sealed));
        let (again, _) = ours.seal(&domain).unwrap();
        assert_ne!(again.chunk_key.expose(), sealing.chunk_key.expose());
        assert!(!format!("{ours:?}").contains("2, 2"), "shows nothing");
    }

    #[test]
    fn nodes_are_under_what_metadata_has() {
        let domain = Arc::new(domain());
        let nodes = nodes(&domain);
        assert!(nodes.seals() && nodes.chunk_key.expose() == domain.chunk_key.expose());
        let (sealing, _) = CustomerKey::new(&[2; 32].into()).seal(&domain).unwrap();
        assert_ne!(nodes.data_key.as_ref().unwrap().expose(), sealing.data_key.unwrap().expose());
    }
}
