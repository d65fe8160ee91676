//! Who a process is, as its certificate says: cluster, role and name, in one URI.
//!
//! Invariant: an identity is believed only when the certificate that names it was verified against the cluster's CA. What
//! an unverified certificate names is used for error messages and for nothing else.

use codec::id::ClusterId;
use rustls::pki_types::CertificateDer;
use std::fmt;

/// The scheme of the URI, and what comes before the cluster in it.
const SCHEME: &str = "stele://";

/// The domain under which certificates have their DNS names; nobody resolves it.
pub(crate) const DOMAIN: &str = "stele.internal";

/// Longest name, in bytes: that of a DNS label.
const MAX_NAME: usize = 63;

/// What a process may ask of a storage node follows from its role; see [`Method::allows`](super::method::Method::allows).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Writes and reads the bytes of clients.
    Gateway,
    /// Decides; the only one that may free.
    Metadata,
    /// Rebuilds and looks; may free nothing (R13).
    Repair,
    /// Serves drives, and reads and writes the drives of its peers when it rebuilds.
    StorageNode,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 4] = [Role::Gateway, Role::Metadata, Role::Repair, Role::StorageNode];

    /// Its name in certificates, logs and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Metadata => "metadata",
            Role::Repair => "repair",
            Role::StorageNode => "storage-node",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a process within its cluster and role: a DNS label of lower-case letters, digits and inner hyphens.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeName(String);

impl NodeName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<NodeName, IdentityError> {
        let label = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let good = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(label)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if good { Ok(NodeName(name.to_owned())) } else { Err(IdentityError::Name(name.to_owned())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a process is. Displayed as its URI, `stele://CLUSTER/ROLE/NAME`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// What it may do.
    pub role: Role,
    /// Which of its role it is.
    pub name: NodeName,
}

/// Why something names no identity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not a name.
    #[error("`{0}` is no name: 1 to 63 lower-case letters, digits and inner hyphens")]
    Name(String),
    /// Not the URI of an identity.
    #[error("`{0}` is not of the form stele://CLUSTER/ROLE/NAME")]
    Uri(String),
    /// A certificate without one.
    #[error("the certificate names no identity of a Stele cluster")]
    None,
    /// A certificate with more than one.
    #[error("the certificate names more than one identity")]
    Several,
    /// Not a certificate.
    #[error("the certificate can't be read: {0}")]
    Certificate(String),
}

impl Identity {
    /// Reads a URI, as [`Display`](fmt::Display) writes it and in no other form.
    pub fn parse(uri: &str) -> Result<Identity, IdentityError> {
        let malformed = || IdentityError::Uri(uri.to_owned());
        let mut parts = uri.strip_prefix(SCHEME).ok_or_else(malformed)?.split('/');
        let (Some(cluster), Some(role), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        let identity = Identity {
            cluster: parse_cluster(cluster).ok_or_else(malformed)?,
            role: Role::parse(role).ok_or_else(malformed)?,
            name: NodeName::new(name)?,
        };
        Ok(identity)
    }

    /// The DNS name of its certificate, which the name constraints of the cluster's CA cover.
    pub(crate) fn dns_name(&self) -> String {
        format!("{}.{}.{}.{DOMAIN}", self.name, self.role, self.cluster)
    }

    /// What a certificate names. Says nothing about who issued it.
    pub(crate) fn of_certificate(der: &CertificateDer<'_>) -> Result<Identity, IdentityError> {
        let parsed = webpki::EndEntityCert::try_from(der);
        let certificate = parsed.map_err(|error| IdentityError::Certificate(error.to_string()))?;
        let mut named = certificate.valid_uri_names().filter(|uri| uri.starts_with(SCHEME));
        match (named.next(), named.next()) {
            (Some(uri), None) => Identity::parse(uri),
            (None, _) => Err(IdentityError::None),
            (Some(_), Some(_)) => Err(IdentityError::Several),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.cluster, self.role, self.name)
    }
}

/// The URI of a cluster's CA.
pub(crate) fn ca_uri(cluster: ClusterId) -> String {
    format!("{SCHEME}{cluster}/ca")
}

/// The cluster of a CA certificate.
pub(crate) fn cluster_of_ca(der: &CertificateDer<'_>) -> Result<ClusterId, IdentityError> {
    let parsed = webpki::EndEntityCert::try_from(der);
    let certificate = parsed.map_err(|error| IdentityError::Certificate(error.to_string()))?;
    let mut named = certificate.valid_uri_names();
    let cluster = |uri: &str| parse_cluster(uri.strip_prefix(SCHEME)?.strip_suffix("/ca")?);
    named.find_map(cluster).ok_or(IdentityError::None)
}

/// The key of a certificate, as a DER SubjectPublicKeyInfo.
pub(crate) fn public_key_of(der: &CertificateDer<'_>) -> Result<Vec<u8>, IdentityError> {
    let parsed = webpki::EndEntityCert::try_from(der);
    let certificate = parsed.map_err(|error| IdentityError::Certificate(error.to_string()))?;
    Ok(certificate.subject_public_key_info().to_vec())
}

fn parse_cluster(text: &str) -> Option<ClusterId> {
    let cluster = ClusterId::from_slice(&hex::decode(text).ok()?)?;
    (cluster.to_string() == text).then_some(cluster)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_is_written_and_in_no_other_form() {
        for role in Role::ALL {
            let identity = Identity { cluster: ClusterId([0xab; 16]), role, name: NodeName::new("n-07").unwrap() };
            assert_eq!(Identity::parse(&identity.to_string()), Ok(identity));
        }
        let good = format!("stele://{}/gateway/g1", "ab".repeat(16));
        assert!(Identity::parse(&good).is_ok());
        let bad = [
            good.replace("stele", "spiffe"),
            good.replace("gateway", "root"),
            good.replace("ab", "AB"),
            good.replace("ab", "a"),
            format!("{good}/more"),
            good.replace("/g1", ""),
            good.replace("g1", "G1"),
            good.replace("g1", "-g1"),
            good.replace("g1", ""),
            good.replace("g1", &"g".repeat(64)),
            good.replace("g1", "../metadata"),
        ];
        for uri in bad {
            assert!(Identity::parse(&uri).is_err(), "{uri}");
        }
    }
}
