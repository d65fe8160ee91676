use super::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::os::unix::fs::OpenOptionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

fn write(path: &Path, text: &str, mode: u32) {
    use std::io::Write;
    let aside = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&aside).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::fs::rename(aside, path).unwrap();
}

struct Pair {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
}

fn pair() -> Pair {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
}

fn files(dir: &Path, pair: &Pair) -> TlsFiles {
    let files = TlsFiles { certificate: dir.join("s3.crt"), key: dir.join("s3.key") };
    write(&files.certificate, &pair.certificate, 0o644);
    write(&files.key, &pair.key, 0o600);
    files
}

/// What a client that trusts only `pair` makes of the port.
async fn meets(tls: &Arc<Tls>, pair: &Pair) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn({
        let tls = Arc::clone(tls);
        async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = Stream::of(stream, Some(&tls)).await?;
            assert_eq!(stream.version(), Some("1.3"));
            stream.write_all(b"hello").await?;
            stream.shutdown().await
        }
    });
    let mut roots = RootCertStore::empty();
    roots.add(pair.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(name, stream).await else { return false };
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    server.await.unwrap().unwrap();
    said == "hello"
}

#[tokio::test]
async fn another_certificate_is_shown_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (pair(), pair());
    let files = files(dir.path(), &first);
    let tls = Tls::open(files.clone()).unwrap();
    assert!(meets(&tls, &first).await && !meets(&tls, &second).await);
    // Half of a pair: whoever connects meanwhile is shown the old one, and not one that it can't prove.
    write(&files.certificate, &second.certificate, 0o644);
    assert!(matches!(tls.reload(), Err(TlsError::Pair { .. })));
    assert!(meets(&tls, &first).await);
    write(&files.key, &second.key, 0o600);
    let shown = async { while !meets(&tls, &second).await {} };
    tokio::time::timeout(20 * LOOK, shown).await.expect("the files are looked at");
    assert!(!meets(&tls, &first).await);
}

/// A script that moves the new files into place and sets their mode afterwards ended with the old certificate, months later with none
/// that was good.
#[tokio::test]
async fn what_could_not_be_read_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (pair(), pair());
    let files = files(dir.path(), &first);
    let tls = Tls::load(files.clone()).unwrap();
    let mut follower = Follower { seen: look(&files), failed: None };
    write(&files.certificate, &second.certificate, 0o644);
    write(&files.key, &second.key, 0o644);
    follower.step(&tls, false);
    assert!(meets(&tls, &first).await);
    // The same bytes, the same time of writing.
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    follower.step(&tls, false);
    assert!(meets(&tls, &second).await);
    // And one that nothing changes about: as without a file handle.
    let read = look(&files);
    follower.seen = (None, None);
    follower.step(&tls, false);
    assert!(follower.seen == read && follower.failed.is_none());
    std::fs::remove_file(&files.key).unwrap();
    follower.step(&tls, false);
    assert!(follower.seen == read && follower.failed.is_some(), "tried again the next time");
}

#[tokio::test]
async fn what_can_not_be_shown_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (pair(), pair());
    let files = files(dir.path(), &ours);
    let refused = || Tls::load(files.clone()).unwrap_err();
    write(&files.key, &ours.key, 0o644);
    assert!(matches!(refused(), TlsError::TooOpen { mode: 0o644, .. }));
    write(&files.key, &theirs.key, 0o600);
    assert!(matches!(refused(), TlsError::Pair { .. }));
    write(&files.key, "no key", 0o600);
    assert!(matches!(refused(), TlsError::Pem { what: "private key", .. }));
    write(&files.certificate, &ours.key, 0o644);
    assert!(matches!(refused(), TlsError::Pem { what: "certificate", .. }));
    std::fs::remove_file(&files.certificate).unwrap();
    assert!(matches!(refused(), TlsError::File { .. }));
}

/// A client of plain HTTP must not be served on a port whose clients count on TLS, and one that says nothing holds nothing.
#[tokio::test]
async fn there_is_no_way_round_the_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::load(files(dir.path(), &pair())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    assert!(Stream::of(stream, Some(&tls)).await.is_err());
}
