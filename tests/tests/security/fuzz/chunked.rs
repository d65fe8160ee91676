//! aws-chunked bodies that are signed as they should be, chunk by chunk, and then changed: what is taken is what was signed.
//!
//! Source: "Transferring payload in multiple chunks (chunked upload)" and "... with trailing headers", Amazon S3 API Reference.

use super::super::store::Store;
use super::{Fuzz, harmless, sha256};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tests::sigv4::{Ask, Scope, ask, mac, signing_key};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Signed,
    SignedTrailer,
    UnsignedTrailer,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Signed, Kind::SignedTrailer, Kind::UnsignedTrailer];

    fn name(self) -> &'static str {
        match self {
            Kind::Signed => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            Kind::SignedTrailer => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            Kind::UnsignedTrailer => "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        }
    }
}

/// A body in the pieces that it can be taken apart into: each chunk, and the lines of the trailer.
struct Body {
    chunks: Vec<Vec<u8>>,
    trailer: Vec<Vec<u8>>,
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        let end: &[u8] = b"\r\n";
        [self.chunks.concat(), self.trailer.concat(), end.to_vec()].concat()
    }
}

/// The request's own signature, the time and the day that it was signed for.
fn seed(request: &Ask) -> (String, String) {
    let header = |name: &str| request.headers.iter().find(|(n, _)| n == name).unwrap().1.clone();
    let signature = header("authorization").rsplit('=').next().unwrap().to_owned();
    (signature, header("x-amz-date"))
}

fn body(request: &Ask, secret: &str, kind: Kind, pieces: &[&[u8]]) -> Body {
    let (mut last, time) = seed(request);
    let scope = Scope::default();
    let key = signing_key(secret, &time[..8], &scope);
    let of = format!("{}/{}/{}/aws4_request", &time[..8], scope.region, scope.service);
    let mut chunks = Vec::new();
    for piece in pieces.iter().copied().chain([&[][..]]) {
        let mut chunk = format!("{:x}", piece.len()).into_bytes();
        if kind != Kind::UnsignedTrailer {
            let text = format!("AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{of}\n{last}\n{}\n{}", sha256(b""), sha256(piece));
            last = hex::encode(mac(&key, text.as_bytes()));
            chunk.extend_from_slice(format!(";chunk-signature={last}").as_bytes());
        }
        chunk.extend_from_slice(b"\r\n");
        if !piece.is_empty() {
            chunk.extend_from_slice(piece);
            chunk.extend_from_slice(b"\r\n");
        }
        chunks.push(chunk);
    }
    let mut trailer = Vec::new();
    if kind != Kind::Signed {
        let sum = BASE64.encode(digest::digest(&digest::SHA256, &pieces.concat()));
        trailer.push(format!("x-amz-checksum-sha256:{sum}\r\n").into_bytes());
        if kind == Kind::SignedTrailer {
            let said = sha256(format!("x-amz-checksum-sha256:{sum}\n").as_bytes());
            let text = format!("AWS4-HMAC-SHA256-TRAILER\n{time}\n{of}\n{last}\n{said}");
            let signature = hex::encode(mac(&key, text.as_bytes()));
            trailer.push(format!("x-amz-trailer-signature:{signature}\r\n").into_bytes());
        }
    }
    Body { chunks, trailer }
}

impl Fuzz {
    /// Some of the pieces in another order, twice, not at all, or of another body.
    fn rearranged(&mut self, pieces: &mut Vec<Vec<u8>>, others: &[Vec<u8>]) {
        if pieces.is_empty() {
            return;
        }
        let (at, to) = (self.below(pieces.len()), self.below(pieces.len()));
        match self.random.below(5) {
            0 => pieces.swap(at, to),
            1 => drop(pieces.remove(at)),
            2 => pieces.insert(to, pieces[at].clone()),
            3 if !others.is_empty() => pieces[at] = others[self.below(others.len())].clone(),
            _ => pieces[at] = self.changed(&pieces[at].clone()),
        }
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.random.below(n as u64)).unwrap()
    }
}

pub(super) async fn signed_chunks(mut fuzz: Fuzz) {
    let store = Store::start().await;
    store.bucket("vault").await;
    let (mut taken, mut refused) = (0, 0);
    while fuzz.goes_on_until(taken > 3 && refused > 3) {
        let kind = Kind::ALL[fuzz.below(3)];
        let meant: Vec<u8> = (0..fuzz.below(200)).map(|_| u8::try_from(fuzz.random.below(256)).unwrap()).collect();
        let pieces: Vec<&[u8]> = meant.chunks(1 + fuzz.below(80)).collect();
        let mut request = ask("PUT", "/vault/k")
            .header("x-amz-content-sha256", kind.name())
            .header("x-amz-decoded-content-length", &meant.len().to_string())
            .header("content-encoding", "aws-chunked");
        if kind != Kind::Signed {
            request = request.header("x-amz-trailer", "x-amz-checksum-sha256");
        }
        let mut request = request.signed(store.config.s3(), &store.office);
        let mut sent = body(&request, &store.office.secret, kind, &pieces);
        // Another body under the same key and the same request's signature: of it, no chunk but the first would do.
        let other = body(&request, &store.office.secret, kind, &[b"evil", b"worse"]);
        let well = sent.bytes();
        let bytes = match fuzz.random.below(6) {
            0 => well.clone(),
            1 => fuzz.changed(&well),
            2 | 3 => {
                fuzz.rearranged(&mut sent.chunks, &other.chunks);
                sent.bytes()
            }
            4 => {
                fuzz.rearranged(&mut sent.trailer, &other.trailer);
                sent.bytes()
            }
            _ => {
                fuzz.rearranged(&mut sent.chunks, &other.chunks);
                fuzz.rearranged(&mut sent.trailer, &other.trailer);
                sent.bytes()
            }
        };
        request.body = bytes;
        let status = harmless(&store, &mut fuzz, &request).await;
        let shown = || format!("seed {}: {kind:?}: {}", fuzz.seed, String::from_utf8_lossy(&request.body));
        assert!(status == 200 || request.body != well, "{}: {status}", shown());
        if status == 200 {
            taken += 1;
            assert_eq!(store.read("/vault/k").await, meant, "{}", shown());
        } else {
            refused += 1;
        }
    }
    assert!(taken > 3 && refused > 3, "{taken} taken, {refused} refused");
    store.end().await;
}
