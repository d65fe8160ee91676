//! TLS on the S3 port: the certificate that clients are shown, and another one in its place without a restart.
//!
//! Invariants:
//! * A pair that does not fit (a chain and another's key) is never shown: the pair before it stays, until both files fit.
//! * There is no way from TLS to plain HTTP on a port: a handshake that fails ends the connection.
//! * A handshake takes [`HANDSHAKE`] at most, and a connection's slot while it lasts.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, ServerConfig};
use std::fmt;
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

/// For a client to end its handshake.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Longest PEM file, in bytes: a chain of certificates is a few KiB.
const MAX_PEM: u64 = 1 << 20;

/// Why a certificate can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner and its group may read the private key.
    #[error("{path} has mode {mode:o}: a private key that everybody may read is none (chmod 640)")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The PEM text does not hold what it should.
    #[error("{path} holds no {what} in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// The key is another's, or of a kind that TLS does not know.
    #[error("{certificate} and {key}: {source}")]
    Pair {
        /// The chain's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What TLS said.
        source: rustls::Error,
    },
    /// SIGHUP can't be waited for.
    #[error("signals: {0}")]
    Signal(io::Error),
}

/// The two files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and the root behind it, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// By what a changed file is known: a new one under the name, or a new length or time of the old one. The time of its attributes
/// counts as well: a key that everybody could read is refused, and may be read after a chmod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    inode: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    fn at(path: &Path) -> Option<Look> {
        let of = |is: Metadata| Look {
            inode: (is.dev(), is.ino()),
            len: is.len(),
            modified: (is.mtime(), is.mtime_nsec()),
            changed: (is.ctime(), is.ctime_nsec()),
        };
        std::fs::metadata(path).ok().map(of)
    }
}

/// What the port shows at present.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

/// The certificate of a port. Read anew when its files change ([`Tls::open`]).
pub struct Tls {
    files: TlsFiles,
    shown: Arc<Shown>,
    acceptor: TlsAcceptor,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads a certificate and its key, for TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1. They are read again whenever one of the files
    /// has changed, and at SIGHUP, until this is dropped. Call inside a runtime.
    ///
    /// Whoever replaces them writes two files one after the other: between the two they don't fit, and the old pair is shown.
    pub fn open(files: TlsFiles) -> Result<Arc<Tls>, TlsError> {
        let hangup = signal(SignalKind::hangup()).map_err(TlsError::Signal)?;
        let seen = look(&files);
        let tls = Self::load(files)?;
        tokio::spawn(follow(Arc::downgrade(&tls), hangup, seen));
        Ok(tls)
    }

    fn load(files: TlsFiles) -> Result<Arc<Tls>, TlsError> {
        let shown = Arc::new(Shown(RwLock::new(Arc::new(read(&files)?))));
        let pair = |source| TlsError::Pair { certificate: files.certificate.clone(), key: files.key.clone(), source };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(pair)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Arc::new(Tls { files, shown, acceptor }))
    }

    /// Reads both files again. Connections that there are go on with what they were shown.
    fn reload(&self) -> Result<(), TlsError> {
        let read = Arc::new(read(&self.files)?);
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// A client's handshake.
    async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long");
        let accepted = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await.map_err(late)?;
        accepted.map(|stream| Stream::Tls(Box::new(stream)))
    }
}

type Looks = (Option<Look>, Option<Look>);

fn look(files: &TlsFiles) -> Looks {
    (Look::at(&files.certificate), Look::at(&files.key))
}

async fn follow(tls: Weak<Tls>, mut hangup: Signal, seen: Looks) {
    let mut follower = Follower { seen, failed: None };
    loop {
        let told = tokio::select! {
            told = hangup.recv() => told.is_some(),
            () = tokio::time::sleep(LOOK) => false,
        };
        let Some(tls) = tls.upgrade() else { return };
        follower.step(&tls, told);
    }
}

/// What the files were when they were last read.
struct Follower {
    seen: Looks,
    /// As what they could not be read, since they could.
    failed: Option<Looks>,
}

impl Follower {
    /// Reads the files if they have changed since they were read, or if `told` to. What can't be read now is tried again the next time,
    /// whether the files change or not: it may have been for want of a file handle, and the certificate that is shown runs out.
    fn step(&mut self, tls: &Tls, told: bool) {
        // Before they are read: what changes while they are is seen the next time.
        let look = look(&tls.files);
        if !told && look == self.seen {
            return;
        }
        match tls.reload() {
            Ok(()) => {
                (self.seen, self.failed) = (look, None);
                tracing::info!(certificate = %tls.files.certificate.display(), "the certificate was read again");
            }
            Err(error) => {
                // Said once of what they are.
                if told || self.failed != Some(look) {
                    tracing::error!(%error, "the certificate could not be read again: the one before it is shown");
                }
                self.failed = Some(look);
            }
        }
    }
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let TlsFiles { certificate, key } = files;
    let pem = |path: &Path, what| TlsError::Pem { path: path.to_owned(), what };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text(certificate, false)?).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| pem(certificate, "certificate"))?;
    let secret = PrivateKeyDer::from_pem_slice(&text(key, true)?).map_err(|_| pem(key, "private key"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // Compares the two, so that half of a replaced pair is never shown.
    CertifiedKey::from_der(chain, secret, &provider).map_err(|source| TlsError::Pair {
        certificate: certificate.clone(),
        key: key.clone(),
        source,
    })
}

fn text(path: &Path, secret: bool) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if secret && mode & 0o007 != 0 {
        return Err(TlsError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_PEM).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// A connection, with TLS or without.
#[derive(Debug)]
pub(super) enum Stream {
    /// Without.
    Plain(TcpStream),
    /// With.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// A connection as it is, or after the handshake that it begins with.
    pub(super) async fn of(stream: TcpStream, tls: Option<&Tls>) -> io::Result<Stream> {
        match tls {
            Some(tls) => tls.accept(stream).await,
            None => Ok(Stream::Plain(stream)),
        }
    }

    /// The version of TLS, as policies name it.
    pub(super) fn version(&self) -> Option<&'static str> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => match stream.get_ref().1.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
                _ => Some("1.2"),
            },
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests;
