//! Digests of XML bodies.
//!
//! `s3s` parses such a body (the keys to delete, the parts to complete) without comparing it to Content-MD5 or
//! x-amz-checksum-*, so a body damaged on its way could delete the wrong keys; and where it does compare, with the signed
//! SHA-256, it reports an internal error. This watches the body pass and remembers what was wrong with it.

use crate::digest::Digester;
use crate::engine::{Claim, Claims};
use crate::error::PutError;
use crate::s3::{error, request};
use bytes::Bytes;
use codec::effect::ChecksumAlgorithm;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use s3s::{S3Error, S3Result, StdError};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// What was wrong with a body, if anything.
#[derive(Debug, Default)]
pub struct Fault(Mutex<Option<S3Error>>);

impl Fault {
    fn set(&self, error: S3Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// The fault, once.
    pub fn take(&self) -> Option<S3Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
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

/// A body that is compared with its digests as it passes.
pub struct WatchedBody<B> {
    body: B,
    expected: Option<(Expected, Digester)>,
    fault: Arc<Fault>,
}

/// How to watch a body: [`WatchedBody`] over it. `Err` when what its headers say makes no sense.
pub fn watch<B>(
    headers: &HeaderMap,
    of_object: bool,
    fault: &Arc<Fault>,
) -> S3Result<impl FnOnce(B) -> WatchedBody<B> + use<B>> {
    let expected = Expected::new(headers, of_object)?;
    let fault = Arc::clone(fault);
    Ok(move |body| {
        let expected = expected.map(|expected| {
            let digester = expected.digester();
            (expected, digester)
        });
        WatchedBody { body, expected, fault }
    })
}

impl<B> WatchedBody<B> {
    /// Compares the digests, once.
    fn judge(&mut self) -> Result<(), StdError> {
        let judged = self.expected.take().map(|(expected, digester)| expected.verify(digester));
        let Some(Err(error)) = judged else { return Ok(()) };
        self.fault.set(error);
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

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let polled = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match polled {
            Some(Ok(frame)) => {
                if let (Some(data), Some((_, digester))) = (frame.data_ref(), &mut self.expected) {
                    digester.update(data);
                }
                // Judged with the last frame: who counts on the announced length may end before it asks for more.
                match self.body.is_end_stream().then(|| self.judge()) {
                    Some(Err(error)) => Poll::Ready(Some(Err(error))),
                    _ => Poll::Ready(Some(Ok(frame))),
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
        let fault = Arc::new(Fault::default());
        let watched = match watch(&headers, of_object, &fault) {
            Ok(over) => over(Full::new(Bytes::from_static(body.as_bytes()))),
            Err(refused) => return Some(refused.code().as_str().to_owned()),
        };
        let read = watched.collect().await;
        let fault = fault.take();
        assert_eq!(read.is_err(), fault.is_some());
        fault.map(|error| error.code().as_str().to_owned())
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
