//! What the access log says of a request: noted when it comes, and written when the last byte of its answer is gone.
//!
//! Invariant: a request that is not to be logged costs nothing but a few copied strings; its answer is not touched.

use super::{Front, Peer, hoisted};
use crate::access_log::line::{Line, operation};
use crate::access_log::{AccessLog, Slot, Target};
use crate::s3::request::{header, query_pairs};
use bytes::Bytes;
use codec::effect::BucketRow;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HOST, REFERER, USER_AGENT};
use http::{HeaderMap, Method, Request};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use s3s::{Body, HttpResponse};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// An answer waits so long to know whether it is to be logged.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request that may have to be logged.
#[derive(Debug)]
pub(super) struct Watched {
    bucket: String,
    slot: Arc<Slot>,
    started: Instant,
    method: Method,
    line: Line,
}

impl Watched {
    /// Notes what a request says. `None` where it names no bucket: then nobody could want it logged.
    pub(super) fn of<B>(front: &Front, req: &mut Request<B>, id: &str) -> Option<Watched> {
        let (bucket, key) = front.domains.target(req)?;
        let slot = Arc::new(Slot::default());
        req.extensions_mut().insert(Arc::clone(&slot));
        let (headers, uri) = (req.headers(), req.uri());
        let text = |name| header(headers, name).unwrap_or_default().to_owned();
        let query = query_pairs(uri.query().unwrap_or_default());
        let parameter = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let peer = req.extensions().get::<Peer>();
        let authentication = match parameter("X-Amz-Signature") {
            Some(_) => "QueryString",
            None if headers.contains_key(http::header::AUTHORIZATION) => "AuthHeader",
            None => "",
        };
        let copies = hoisted::said(headers, uri).contains_key("x-amz-copy-source");
        let line = Line {
            at_ms: jiff::Timestamp::now().as_millisecond(),
            address: peer.map(|peer| peer.address.ip().to_string()).unwrap_or_default(),
            request_id: id.to_owned(),
            operation: operation(req.method().as_str(), &query, copies, key.is_some()),
            key: key.unwrap_or_default(),
            request: format!("{} {} {:?}", req.method(), without_secrets(&uri.to_string()), req.version()),
            size: length(headers).filter(|_| req.method() == Method::PUT),
            // A page that was opened by a signed URL names it here.
            referer: without_secrets(header(headers, REFERER.as_str()).unwrap_or_default()),
            agent: text(USER_AGENT.as_str()),
            version: parameter("versionId").unwrap_or_default(),
            authentication,
            host: text(HOST.as_str()),
            tls: peer.and_then(|peer| peer.tls).map(|version| format!("TLSv{version}")).unwrap_or_default(),
            ..Line::default()
        };
        Some(Watched { bucket, slot, started: Instant::now(), method: req.method().clone(), line })
    }

    /// Has the request logged when its answer has been sent, if its bucket wants that.
    pub(super) async fn answered(self, front: &Front, response: HttpResponse) -> HttpResponse {
        let Some((bucket, target)) = tokio::time::timeout(PATIENCE, self.target(front)).await.ok().flatten() else {
            return response;
        };
        let Watched { slot, started, method, mut line, .. } = self;
        line.owner.clone_from(&bucket.owner);
        line.bucket.clone_from(&bucket.name);
        line.requester = slot.requester().to_owned();
        line.status = response.status().as_u16();
        line.turnaround_ms = millis(started);
        line.error = error_code(&response);
        if matches!(method, Method::GET | Method::HEAD) && response.status().is_success() {
            line.size = whole_length(response.headers());
        }
        let mut entry = Entry { log: Arc::clone(&front.log), bucket, target, line, started, sent: 0 };
        let length = response.headers().get(CONTENT_LENGTH).cloned();
        let (mut parts, body) = response.into_parts();
        // A body in memory is sent at once, and whoever looks into it later still can.
        if let Some(bytes) = body.bytes() {
            entry.sent = bytes.len() as u64;
            drop(entry);
            return HttpResponse::from_parts(parts, body);
        }
        if let Some(length) = length {
            parts.headers.insert(CONTENT_LENGTH, length);
        }
        HttpResponse::from_parts(parts, Body::http_body_unsync(Sent { body, entry }))
    }

    async fn target(&self, front: &Front) -> Option<(Arc<BucketRow>, Arc<Target>)> {
        let meta = front.meta.as_ref();
        let bucket = match self.slot.bucket() {
            Some(bucket) => bucket?,
            // It was refused before anybody looked.
            None => Arc::new(meta.bucket(&self.bucket).await.ok()??),
        };
        let target = front.log.target(meta, &bucket).await?;
        Some((bucket, target))
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    let decoded = header(headers, crate::s3::request::DECODED_LENGTH);
    decoded.or_else(|| header(headers, CONTENT_LENGTH.as_str())).and_then(|value| value.parse().ok())
}

/// The length of the object that an answer is about.
fn whole_length(headers: &HeaderMap) -> Option<u64> {
    match header(headers, CONTENT_RANGE.as_str()) {
        Some(range) => range.rsplit('/').next().and_then(|whole| whole.parse().ok()),
        None => header(headers, CONTENT_LENGTH.as_str()).and_then(|value| value.parse().ok()),
    }
}

/// Parameters of signed requests that say nothing by which anybody could do again what their sender did, or read what he stored.
const HARMLESS: [&str; 10] = [
    "x-amz-algorithm",
    "x-amz-checksum-algorithm",
    "x-amz-checksum-mode",
    "x-amz-content-sha256",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-signedheaders",
    "x-amz-user-agent",
];

/// A URL with which nobody can do again what its sender did: logs are read by others than those who signed. Whoever presigns has what
/// would be headers among the parameters, so the customer's own key of SSE-C may be there, and what is not known is not shown.
fn without_secrets(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let shown = |pair: &str| {
        let name = query_pairs(pair).first().map(|(name, _)| name.to_ascii_lowercase()).unwrap_or_default();
        let secret = name.starts_with("x-amz-") && !HARMLESS.contains(&name.as_str());
        match secret || name == "signature" {
            true => format!("{}=(hidden)", pair.split('=').next().unwrap_or_default()),
            false => pair.to_owned(),
        }
    };
    let shown: Vec<String> = query.split('&').map(shown).collect();
    format!("{path}?{}", shown.join("&"))
}

fn error_code(response: &HttpResponse) -> String {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return String::new();
    }
    let body = response.body().bytes().unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map(|(code, _)| code.to_owned()).unwrap_or_default()
}

/// A line that is written when this is dropped.
struct Entry {
    log: Arc<AccessLog>,
    bucket: Arc<BucketRow>,
    target: Arc<Target>,
    line: Line,
    started: Instant,
    sent: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.line.sent = (self.sent > 0).then_some(self.sent);
        self.line.total_ms = millis(self.started);
        self.log.add(&self.bucket, &self.target, &self.line);
    }
}

/// The body of an answer, counted. It is dropped when it is sent, or when its connection ends.
struct Sent {
    body: Body,
    entry: Entry,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = s3s::StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, s3s::StdError>>> {
        let polled = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &polled {
            self.entry.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_url_can_t_be_used_again() {
        let of = |target| without_secrets(target);
        assert_eq!(of("/b/k?a=b"), "/b/k?a=b");
        assert_eq!(
            of("/b/k?X-Amz-Date=1&X-Amz-Signature=00ff&X-Amz-Security-Token=t&x%2damz-signature=1&Signature=2&a"),
            "/b/k?X-Amz-Date=1&X-Amz-Signature=(hidden)&X-Amz-Security-Token=(hidden)&x%2damz-signature=(hidden)&\
             Signature=(hidden)&a"
        );
        assert_eq!(of("/b/k"), "/b/k");
        // SDKs move headers into the query when they presign: the key of SSE-C was in the log.
        assert_eq!(
            of("/b/k?x-amz-server-side-encryption-customer-key=qkKSQ%3D&x-amz-server-side-encryption-customer-key"),
            "/b/k?x-amz-server-side-encryption-customer-key=(hidden)&x-amz-server-side-encryption-customer-key=(hidden)"
        );
        assert_eq!(of("https://page/?x=1&X-Amz-Signature=0#there"), "https://page/?x=1&X-Amz-Signature=(hidden)");
    }

    #[test]
    fn lengths_of_objects() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            let pair = |(n, v): &(&'static str, &'static str)| {
                (http::HeaderName::from_static(n), http::HeaderValue::from_static(v))
            };
            pairs.iter().map(pair).collect()
        };
        assert_eq!(whole_length(&headers(&[("content-length", "5")])), Some(5));
        assert_eq!(whole_length(&headers(&[("content-length", "2"), ("content-range", "bytes 0-1/5")])), Some(5));
        assert_eq!(length(&headers(&[("content-length", "50"), ("x-amz-decoded-content-length", "5")])), Some(5));
    }
}
