//! Mutual TLS with the cluster's CA: TLS 1.3 only, both sides show a certificate, none is trusted but the CA's.
//!
//! A client says which node it means, and takes no other; a node takes whom the CA vouches for, and decides by role what
//! they may do ([`Method::allows`](super::method::Method::allows)). There is no early data, so nothing can be sent again
//! by somebody on the way.

use super::identity::{Identity, IdentityError, Role, cluster_of_ca};
use super::issue::{CA_FILE, CERTIFICATE_FILE, IssueError, KEY_FILE, read_file, read_key};
use crate::level::CurrentLevel;
use codec::id::ClusterId;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig, SignatureScheme,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What both sides speak over TLS.
const ALPN: &[u8] = b"h2";

/// Why a process can't show who it is.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] IssueError),
    /// The PEM text does not hold what it should.
    #[error("no {0} in the PEM text")]
    Pem(&'static str),
    /// The certificate, or the CA's, names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate is of another cluster than the CA.
    #[error("the certificate is of cluster {certificate}, and the CA of cluster {ca}")]
    WrongCluster {
        /// The certificate's.
        certificate: ClusterId,
        /// The CA's.
        ca: ClusterId,
    },
    /// TLS does not take them: the key is another's, or the certificate can't be used.
    #[error("the certificate can't be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why TLS does not take a certificate, as far as somebody can do something about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// Another CA has issued it.
    Issuer,
    /// It has run out.
    Expired,
    /// It is not valid yet, or the clock is wrong.
    NotYet,
    /// The private key is another's.
    Key,
}

/// What an error of TLS over the own certificate means; `None`: something else.
pub fn unusable(error: &rustls::Error) -> Option<Unusable> {
    use rustls::Error;
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            Some(Unusable::Issuer)
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            Some(Unusable::Expired)
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            Some(Unusable::NotYet)
        }
        Error::InconsistentKeys(_) => Some(Unusable::Key),
        _ => None,
    }
}

/// Whom a client met instead of the node that it wanted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum WrongPeer {
    #[error("the node belongs to cluster {theirs}, not to {ours}")]
    Cluster { ours: ClusterId, theirs: ClusterId },
    #[error("the node is {theirs}, not {wanted}")]
    Node { wanted: Identity, theirs: Identity },
    #[error(transparent)]
    Nobody(IdentityError),
}

/// Who a process is, and the means to show it.
#[derive(Clone, Debug)]
pub struct Credentials {
    identity: Identity,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    level: CurrentLevel,
}

impl Credentials {
    /// Reads what [`Issued::save`](super::issue::Issued::save) wrote.
    pub fn load(dir: &Path) -> Result<Credentials, TlsError> {
        let key = read_key(&dir.join(KEY_FILE))?;
        Self::from_pem(&read_file(&dir.join(CA_FILE))?, &read_file(&dir.join(CERTIFICATE_FILE))?, &key)
    }

    /// Takes PEM texts: the CA's certificate, the own one, and its private key.
    pub fn from_pem(ca: &str, certificate: &str, key: &str) -> Result<Credentials, TlsError> {
        let credentials = Self::unchecked(ca, certificate, key)?;
        credentials.check_own()?;
        // A key that is not the certificate's is found here, and not by each port when it begins.
        credentials.server()?;
        Ok(credentials)
    }

    /// [`Self::from_pem`] for those whose own certificate need not be good.
    pub(crate) fn unchecked(ca: &str, certificate: &str, key: &str) -> Result<Credentials, TlsError> {
        let ca = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|_| TlsError::Pem("CA certificate"))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let chain = chain.map_err(|_| TlsError::Pem("certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsError::Pem("private key"))?;
        let identity = Identity::of_certificate(chain.first().ok_or(TlsError::Pem("certificate"))?)?;
        let cluster = cluster_of_ca(&ca)?;
        if identity.cluster != cluster {
            return Err(TlsError::WrongCluster { certificate: identity.cluster, ca: cluster });
        }
        let mut roots = RootCertStore::empty();
        roots.add(ca)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(Credentials {
            identity,
            chain,
            key: Arc::new(key),
            roots: Arc::new(roots),
            provider,
            level: CurrentLevel::default(),
        })
    }

    /// Who the process is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The format level by which the process writes, as it tells whoever it meets; the same for all clones of these credentials.
    pub fn level(&self) -> &CurrentLevel {
        &self.level
    }

    /// A certificate that has run out, or is of another CA, is found here rather than by each peer in turn.
    fn check_own(&self) -> Result<(), TlsError> {
        let [own, others @ ..] = self.chain.as_slice() else { return Err(TlsError::Pem("certificate")) };
        self.client_verifier()?.verify_client_cert(own, others, UnixTime::now())?;
        Ok(())
    }

    /// For how many more days the certificate is good, and the CA's with it; `most` if that is as long or longer. A process whose
    /// certificate runs out goes on over connections that it has, makes no other, and does not start again.
    pub fn days_left(&self, most: u32) -> u32 {
        let [own, others @ ..] = self.chain.as_slice() else { return 0 };
        let Ok(verifier) = self.client_verifier() else { return 0 };
        let now = UnixTime::now().as_secs();
        let is_good = |days: u32| {
            let then = Duration::from_secs(now.saturating_add(u64::from(days) * 86_400));
            verifier.verify_client_cert(own, others, UnixTime::since_unix_epoch(then)).is_ok()
        };
        // What has begun to be valid is so until it runs out, so there is one end to be found.
        let (mut good, mut bad) = (0, most.saturating_add(1));
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if is_good(middle) { good = middle } else { bad = middle }
        }
        good
    }

    fn client_verifier(&self) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
        let roots = Arc::clone(&self.roots);
        let built = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
        built.map_err(|error| TlsError::Tls(rustls::Error::General(error.to_string())))
    }

    /// For a process that is called.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = self.client_verifier()?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    /// For a process that calls `node`, and nobody else.
    pub(crate) fn client(&self, node: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
        let roots = Arc::clone(&self.roots);
        let built = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
        let inner = built.map_err(|error| TlsError::Tls(rustls::Error::General(error.to_string())))?;
        let verifier = NodeVerifier { inner, wanted: node.clone() };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    /// The storage node of that name in the own cluster.
    pub(crate) fn node(&self, name: &super::identity::NodeName) -> Identity {
        Identity { cluster: self.identity.cluster, role: Role::StorageNode, name: name.clone() }
    }
}

/// The usual verification of chain and DNS name, and then that of the identity. Adds, takes nothing away.
#[derive(Debug)]
struct NodeVerifier {
    inner: Arc<WebPkiServerVerifier>,
    wanted: Identity,
}

impl NodeVerifier {
    fn check_identity(&self, certificate: &CertificateDer<'_>) -> Result<(), WrongPeer> {
        let theirs = Identity::of_certificate(certificate).map_err(WrongPeer::Nobody)?;
        if theirs.cluster != self.wanted.cluster {
            return Err(WrongPeer::Cluster { ours: self.wanted.cluster, theirs: theirs.cluster });
        }
        if theirs != self.wanted {
            return Err(WrongPeer::Node { wanted: self.wanted.clone(), theirs });
        }
        Ok(())
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Before the chain, for the sake of the message: "another cluster" rather than "unknown issuer".
        self.check_identity(end_entity)
            .map_err(|wrong| CertificateError::Other(OtherError(Arc::new(wrong))))
            .map_err(rustls::Error::InvalidCertificate)?;
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
