//! The cluster's own certificate authority: makes it, and issues a certificate for each process.
//!
//! Invariants:
//! * A CA belongs to one cluster, and its certificate says so; its name constraints forbid DNS names of any other.
//! * A certificate carries one identity and the uses of its role: a gateway's can't pose as a server.
//! * A private key is written with mode 0600 into a file that did not exist, and one that others may read is refused.

use super::identity::{DOMAIN, Identity, IdentityError, Role, ca_uri, cluster_of_ca, public_key_of};
use codec::id::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The CA's certificate, in the directory of the CA and in that of every process.
pub const CA_FILE: &str = "ca.pem";
/// The CA's private key. Only where certificates are issued.
pub const CA_KEY_FILE: &str = "ca-key.pem";
/// A process's certificate.
pub const CERTIFICATE_FILE: &str = "node.pem";
/// A process's private key.
pub const KEY_FILE: &str = "node-key.pem";

/// How long a CA is valid. Its end stops the whole cluster, so it is far off; what it issues can be short.
const CA_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// How far the clock of a process may be behind that of the machine that issues.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Longest file of certificates or keys, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Why a CA or a certificate was not made, or not read.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A file could not be read or written. An existing file is never replaced.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Others than its owner may read a private key: it counts as known to them. Issue another.
    #[error("{path} has mode {mode:o}; a private key must be readable by its owner only (0600)")]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file holds something else than it should.
    #[error("{path}: not a {what}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// A process of another cluster than the CA's.
    #[error("the CA is that of cluster {ca}, and the certificate is asked for cluster {asked}")]
    WrongCluster {
        /// The CA's.
        ca: ClusterId,
        /// The one asked for.
        asked: ClusterId,
    },
    /// The CA's certificate does not name a cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate could not be made.
    #[error("the certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// A cluster's CA, with its private key.
pub struct ClusterCa {
    cluster: ClusterId,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What [`ClusterCa::issue`] gives a process: its certificate, its private key and the CA's certificate, as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
    /// The CA's certificate.
    pub ca: String,
}

impl ClusterCa {
    /// Makes a CA for a cluster.
    pub fn create(cluster: ClusterId) -> Result<ClusterCa, IssueError> {
        let key = KeyPair::generate()?;
        let pem = ca_params(cluster)?.self_signed(&key)?.pem();
        Ok(ClusterCa { cluster, issuer: Issuer::new(ca_params(cluster)?, key), pem })
    }

    /// Reads a CA that [`Self::save`] wrote.
    pub fn load(dir: &Path) -> Result<ClusterCa, IssueError> {
        let (pem, key_pem) = (read_file(&dir.join(CA_FILE))?, read_key(&dir.join(CA_KEY_FILE))?);
        let malformed = |file: &str, what| IssueError::Malformed { path: dir.join(file), what };
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| malformed(CA_FILE, "certificate"))?;
        let cluster = cluster_of_ca(&der)?;
        let key = KeyPair::from_pem(&key_pem).map_err(|_| malformed(CA_KEY_FILE, "private key"))?;
        // What it would issue is refused by every process, and nobody would say why.
        if public_key_of(&der)? != key.subject_public_key_info() {
            return Err(malformed(CA_KEY_FILE, "key of the certificate beside it"));
        }
        Ok(ClusterCa { cluster, issuer: Issuer::new(ca_params(cluster)?, key), pem })
    }

    /// Writes certificate and key into a directory that has neither. One that has either is left as it is: a key that is kept
    /// elsewhere must not find another in its place.
    pub fn save(&self, dir: &Path) -> Result<(), IssueError> {
        let certificate = dir.join(CA_FILE);
        write_new(&certificate, &self.pem, 0o644)?;
        if let Err(error) = write_new(&dir.join(CA_KEY_FILE), &self.issuer.key().serialize_pem(), 0o600) {
            // Made just now, and of no use without its key.
            let _left = std::fs::remove_file(&certificate);
            return Err(error);
        }
        sync_dir(dir)
    }

    /// The cluster that it issues for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Issues a certificate, with a new key, valid from an hour ago for `validity`.
    pub fn issue(&self, identity: &Identity, validity: Duration) -> Result<Issued, IssueError> {
        if identity.cluster != self.cluster {
            return Err(IssueError::WrongCluster { ca: self.cluster, asked: identity.cluster });
        }
        let mut params = CertificateParams::new(vec![identity.dns_name()])?;
        params.subject_alt_names.push(SanType::URI(identity.to_string().try_into()?));
        params.distinguished_name = named(&format!("Stele {} {}", identity.role, identity.name));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match identity.role {
            Role::StorageNode | Role::Metadata => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Role::Gateway | Role::Repair => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        valid(&mut params, validity);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem(), ca: self.pem.clone() })
    }
}

impl Issued {
    /// Writes the three files into a directory that has none of them.
    pub fn save(&self, dir: &Path) -> Result<(), IssueError> {
        write_new(&dir.join(KEY_FILE), &self.key, 0o600)?;
        write_new(&dir.join(CERTIFICATE_FILE), &self.certificate, 0o644)?;
        write_new(&dir.join(CA_FILE), &self.ca, 0o644)?;
        sync_dir(dir)
    }
}

/// The same for every start, but for the dates, which an issuer's certificates do not repeat.
fn ca_params(cluster: ClusterId) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI(ca_uri(cluster).try_into()?));
    params.distinguished_name = named(&format!("Stele cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // URIs have no constraint: verifiers refuse a chain with one. The identity's cluster is compared instead.
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(format!("{cluster}.{DOMAIN}"))],
        excluded_subtrees: Vec::new(),
    });
    valid(&mut params, CA_VALIDITY);
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut out = DistinguishedName::new();
    out.push(DnType::CommonName, name);
    out
}

fn valid(params: &mut CertificateParams, validity: Duration) {
    let now = SystemTime::now();
    params.not_before = now.checked_sub(CLOCK_SKEW).unwrap_or(now).into();
    params.not_after = now.checked_add(validity).unwrap_or(now).into();
}

fn io_at(path: &Path) -> impl FnOnce(std::io::Error) -> IssueError {
    let path = path.to_owned();
    move |error| IssueError::Io { path, error }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), IssueError> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(io_at(path))?;
    // The mode above is cut by the umask; what must not be readable is so from the first moment on.
    file.set_permissions(PermissionsExt::from_mode(mode)).map_err(io_at(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_at(path))
}

fn sync_dir(dir: &Path) -> Result<(), IssueError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_at(dir))
}

/// Reads a file of certificates.
pub(crate) fn read_file(path: &Path) -> Result<String, IssueError> {
    let mut text = String::new();
    let file = File::open(path).map_err(io_at(path))?;
    file.take(MAX_FILE).read_to_string(&mut text).map_err(io_at(path))?;
    Ok(text)
}

/// Reads a private key, unless others may read it too.
pub(crate) fn read_key(path: &Path) -> Result<String, IssueError> {
    let mode = std::fs::metadata(path).map_err(io_at(path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IssueError::Exposed { path: path.to_owned(), mode });
    }
    read_file(path)
}
