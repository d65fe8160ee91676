//! XML bodies on their way to `s3s`: their digests, what it would misread, and their memory.
//!
//! `s3s` parses such a body (the keys to delete, the parts to complete) without comparing it to Content-MD5 or
//! x-amz-checksum-*, so a body damaged on its way could delete the wrong keys; and where it does compare, with the signed
//! SHA-256, it reports an internal error. This watches the body pass and remembers what was wrong with it.
//!
//! And `s3s` skips a CDATA section: `<Key>a<![CDATA[b]]></Key>` would be the key `a`, and another object would be deleted than
//! the one that was named. A body with one is refused.
//!
//! And `s3s` keeps such a body whole until it is parsed.
//!
//! Invariant: what is kept of all XML bodies together is at most [`MOST_HELD`], and [`SMALL`] for each connection besides.

use super::find;
use crate::digest::Digester;
use crate::engine::{Claim, Claims};
use crate::error::PutError;
use crate::s3::{error, request};
use bytes::Bytes;
use codec::effect::ChecksumAlgorithm;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use s3s::{S3Error, S3Result, StdError, s3_error};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// Most bytes of XML bodies in memory. Whoever sends more is asked to come back: without it, each connection could hold a body
/// of the largest size, and all of them tens of GiB.
const MOST_HELD: u64 = 128 << 20;
/// A body as small as this always has its place, whatever others hold.
const SMALL: u64 = 64 << 10;
/// What a piece of a body counts for at least, in bytes.
const LEAST_HELD: usize = 64;

/// The bytes of XML bodies in memory.
pub type Held = AtomicU64;

/// What becomes of one request's body.
#[derive(Debug)]
pub struct Watch {
    /// What was wrong with it.
    fault: Mutex<Option<S3Error>>,
    /// What is held of it.
    bytes: AtomicU64,
    /// What is held of all bodies.
    held: Arc<Held>,
}

impl Watch {
    /// `held` counts for all requests of a server. What this one holds, it holds as long as this lives.
    pub fn new(held: Arc<Held>) -> Watch {
        Watch { fault: Mutex::new(None), bytes: AtomicU64::new(0), held }
    }

    fn set(&self, error: S3Error) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// The fault, once.
    pub fn take(&self) -> Option<S3Error> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Counts what has come. `false`: there is no room for it.
    fn hold(&self, more: usize) -> bool {
        let more = more.max(LEAST_HELD) as u64;
        let own = self.bytes.fetch_add(more, Ordering::Relaxed) + more;
        let all = self.held.fetch_add(more, Ordering::Relaxed) + more;
        own <= SMALL || all <= MOST_HELD
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.held.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

/// The digests that a body must have.
#[derive(Debug)]
struct Expected {
    claims: Claims,
    /// x-amz-content-sha256, part of what was signed.
    payload: Option<Bytes>,
}

impl Expected {
    /// What `headers` say of the body; `None` where nothing is said. `of_object`: the checksum headers are those of the
    /// object that the request completes, not of the request's body.
    fn new(headers: &HeaderMap, of_object: bool) -> S3Result<Option<Expected>> {
        let payload = request::header(headers, "x-amz-content-sha256").unwrap_or_default();
        if payload.starts_with("STREAMING-") {
            return Ok(None);
        }
        let payload = hex::decode(payload).ok().filter(|raw| raw.len() == 32).map(Bytes::from);
        let md5 = request::digest_header(headers, "content-md5").map(request::md5_value).transpose()?;
        let mut checksums = Vec::new();
        for algorithm in request::ALGORITHMS.into_iter().filter(|_| !of_object) {
            if let Some(value) = request::digest_header(headers, &request::checksum_header(algorithm)) {
                checksums.push((algorithm, Claim::Value(request::checksum_value(algorithm, value)?)));
            }
        }
        if payload.is_none() && md5.is_none() && checksums.is_empty() {
            return Ok(None);
        }
        Ok(Some(Expected { claims: Claims { md5, checksums }, payload }))
    }

    fn digester(&self) -> Digester {
        let named = self.claims.checksums.iter().map(|(algorithm, _)| *algorithm);
        let payload = self.payload.iter().map(|_| ChecksumAlgorithm::Sha256);
        let mut wanted: Vec<_> = named.chain(payload).collect();
        wanted.sort_unstable();
        wanted.dedup();
        Digester::new(wanted)
    }

    fn verify(self, digester: Digester) -> Result<(), S3Error> {
        let digests = digester.finish();
        if let Some(payload) = &self.payload {
            let matches = |(algorithm, value): &(ChecksumAlgorithm, Bytes)| {
                *algorithm == ChecksumAlgorithm::Sha256 && value == payload
            };
            if !digests.checksums.iter().any(matches) {
                return Err(error::payload_hash());
            }
        }
        digests.verify(self.claims).map(drop).map_err(|error: PutError| error::put(error))
    }
}

/// The beginning of a CDATA section.
const CDATA: &[u8] = b"<![CDATA[";

/// Looks for a CDATA section in pieces of a body.
#[derive(Debug, Default)]
struct Sections {
    /// The last bytes of what was seen, fewer than [`CDATA`] has.
    end: Vec<u8>,
}

impl Sections {
    /// Whether one begins in what was seen by now.
    fn found(&mut self, piece: &[u8]) -> bool {
        let overlap = [&self.end, &piece[..piece.len().min(CDATA.len() - 1)]].concat();
        if find(piece, CDATA).is_some() || find(&overlap, CDATA).is_some() {
            return true;
        }
        let seen = if piece.len() < CDATA.len() { overlap.as_slice() } else { piece };
        self.end = seen[seen.len().saturating_sub(CDATA.len() - 1)..].to_vec();
        false
    }
}

/// A body that is compared with its digests as it passes.
pub struct WatchedBody<B> {
    body: B,
    sections: Sections,
    expected: Option<(Expected, Digester)>,
    watch: Arc<Watch>,
}

/// How to watch a body: [`WatchedBody`] over it. `Err` when what its headers say makes no sense.
pub fn watch<B>(
    headers: &HeaderMap,
    of_object: bool,
    watch: &Arc<Watch>,
) -> S3Result<impl FnOnce(B) -> WatchedBody<B> + use<B>> {
    let expected = Expected::new(headers, of_object)?;
    let watch = Arc::clone(watch);
    Ok(move |body| {
        let expected = expected.map(|expected| {
            let digester = expected.digester();
            (expected, digester)
        });
        WatchedBody { body, sections: Sections::default(), expected, watch }
    })
}

impl<B> WatchedBody<B> {
    /// A piece of the body, before it goes on.
    fn look_at(&mut self, data: &[u8]) -> S3Result<()> {
        if let Some((_, digester)) = &mut self.expected {
            digester.update(data);
        }
        if self.sections.found(data) {
            return Err(s3_error!(MalformedXML, "CDATA sections are not supported."));
        }
        if self.watch.hold(data.len()) { Ok(()) } else { Err(error::slow_down()) }
    }

    /// Compares the digests, once.
    fn judge(&mut self) -> Result<(), StdError> {
        let judged = self.expected.take().map(|(expected, digester)| expected.verify(digester));
        let Some(Err(error)) = judged else { return Ok(()) };
        self.watch.set(error);
        Err("the body's digest differs".into())
    }
}

impl<B> Body for WatchedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    // A piece keeps the buffer that it was read into, 8 KiB at least, and whoever collects the body keeps them all.
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let polled = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref()
                    && let Err(refused) = self.look_at(data)
                {
                    self.watch.set(refused);
                    return Poll::Ready(Some(Err("a body that is not taken".into())));
                }
                // Judged with the last frame: who counts on the announced length may end before it asks for more.
                match self.body.is_end_stream().then(|| self.judge()) {
                    Some(Err(error)) => Poll::Ready(Some(Err(error))),
                    _ => Poll::Ready(Some(Ok(frame.map_data(|data| Bytes::copy_from_slice(&data))))),
                }
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            None => match self.judge() {
                Ok(()) => Poll::Ready(None),
                Err(error) => Poll::Ready(Some(Err(error))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        // The end must be polled for, or the digests would never be compared.
        self.expected.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use http_body_util::{BodyExt, Full};

    async fn read(pairs: &[(&'static str, &'static str)], of_object: bool, body: &'static str) -> Option<String> {
        let headers: HeaderMap =
            pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
        let held = Arc::new(Held::default());
        let fault = Arc::new(Watch::new(Arc::clone(&held)));
        let watched = match watch(&headers, of_object, &fault) {
            Ok(over) => over(Full::new(Bytes::from_static(body.as_bytes()))),
            Err(refused) => return Some(refused.code().as_str().to_owned()),
        };
        let read = watched.collect().await;
        let fault = fault.take();
        assert_eq!(read.is_err(), fault.is_some());
        fault.map(|error| error.code().as_str().to_owned())
    }

    /// A hundred bodies of 8 MiB that were sent slowly took 700 MiB, and the next hundred as much again.
    #[test]
    fn bodies_are_held_within_a_limit() {
        let held = Arc::new(Held::default());
        let watch = || Watch::new(Arc::clone(&held));
        let large: Vec<Watch> = (0..16).map(|_| watch()).collect();
        assert!(large.iter().all(|watch| watch.hold(8 << 20)), "as many as there is room for");
        let (late, small) = (watch(), watch());
        assert!(small.hold(1 << 10) && small.hold(63 << 10), "a small one always");
        assert!(!late.hold(65 << 10), "and no other");
        drop((large, late));
        assert!(small.hold(8 << 20), "until there is room again");
        drop(small);
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn sections_are_found_wherever_the_pieces_end() {
        let body = b"<Key>a<![CDATA[b]]></Key>";
        for size in 1..=body.len() {
            let mut sections = Sections::default();
            assert!(body.chunks(size).any(|piece| sections.found(piece)), "pieces of {size}");
        }
        let mut sections = Sections::default();
        assert!(!b"<Key><! [CDATA[<![CDATA <![CDAT</Key>".chunks(3).any(|piece| sections.found(piece)));
    }

    #[tokio::test]
    async fn damaged_xml_bodies_are_refused() {
        const MD5_OF_A: &str = "DMF1ucDxtqgxw5niaXcmYQ==";
        const SHA256_OF_A: &str = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
        assert_eq!(read(&[("content-md5", MD5_OF_A)], false, "a").await, None);
        assert_eq!(read(&[("content-md5", MD5_OF_A)], false, "b").await.as_deref(), Some("BadDigest"));
        assert_eq!(read(&[("content-md5", "x")], false, "a").await.as_deref(), Some("InvalidDigest"));
        assert_eq!(read(&[("x-amz-checksum-crc32", "6Le+Qw==")], false, "a").await, None);
        assert_eq!(read(&[("x-amz-checksum-crc32", "6Le+Qw==")], false, "b").await.as_deref(), Some("BadDigest"));
        assert_eq!(
            read(&[("x-amz-checksum-crc32", "6Le+Qw==")], true, "b").await,
            None,
            "the object's, not the body's"
        );
        assert_eq!(read(&[("x-amz-content-sha256", SHA256_OF_A)], false, "a").await, None);
        let damaged = read(&[("x-amz-content-sha256", SHA256_OF_A)], false, "b").await;
        assert_eq!(damaged.as_deref(), Some("XAmzContentSHA256Mismatch"));
        assert_eq!(read(&[("x-amz-content-sha256", "UNSIGNED-PAYLOAD")], false, "b").await, None);
    }
}
