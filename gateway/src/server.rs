//! The HTTP server: connections, their limits and their end. What a request means is [`crate::s3`]'s business.
//!
//! Invariants:
//! * At most [`Limits::connections`] are served; the next one waits a moment in the kernel's queue, and is then told to come
//!   back ([`accept`]).
//! * Nothing waits for ever: not for a connection while there are no descriptors ([`accept`]), not for a request's head ([`Limits::header_read`]), not on a connection that gets nowhere
//!   ([`Limits::idle`], or [`Limits::stall`] while a request runs), not on one request ([`Limits::request`], R9).
//! * A connection buffers little ([`BUFFER`]): what a slow client holds is counted where it is read ([`crate::budget`]).
//! * Every answer carries `x-amz-request-id`, and every error body names it. It is the request's [`Trace`]: log lines of this
//!   process and of others that worked for it have it.
//! * After the shutdown signal no new request starts, and those that run may finish for [`Limits::drain`].

mod accept;
mod io;
mod lenient;
mod rest;
mod scope;
pub(crate) mod xml;

use crate::auth::{Authenticator, Gatekeeper};
use crate::engine::Gateway;
use crate::s3::error;
use crate::s3::service::Service;
use accept::Acceptor;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use io::{Activity, Busy, Counted, TimedIo};
use rest::Shared;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::host::{DomainError, S3Host, VirtualHost};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpResponse, S3Error, S3Result, s3_error};
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage_node::trace::{self, Trace};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Most bytes of an aws-chunked body's chunk, which a signed body needs whole in memory.
const MAX_AWS_CHUNK: usize = 8 << 20;
/// Most bytes of an XML body: 1000 keys to delete or 10,000 parts to complete, generously.
const MAX_XML: usize = 8 << 20;

/// What a connection buffers of what it sends and receives, in bytes; a request's head is no longer than this.
const BUFFER: usize = 64 << 10;

/// A connection waits so long for others to end. Idle ones live for minutes, and a client without an answer can only wait.
const SLOT_PATIENCE: Duration = Duration::from_secs(1);
/// Connections that are being told to come back at once.
const TURNED_AWAY: usize = 64;

/// Most header lines of a request. S3 takes 8 KB of headers, and 2 KB of user metadata may be hundreds of small ones.
const HEADERS: usize = 512;

/// What connections and requests may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// For the head of a request, from the first wait for it.
    pub header_read: Duration,
    /// Without a request.
    pub idle: Duration,
    /// For an XML body, if it comes more slowly than 16 KiB/s.
    pub xml: Duration,
    /// With a request whose body, or whose answer's, moves less than 16 KiB in it.
    pub stall: Duration,
    /// For one request (R9: a request lives 12 hours at most).
    pub request: Duration,
    /// For running requests after the shutdown signal.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 4096,
            header_read: Duration::from_secs(60),
            idle: Duration::from_secs(120),
            xml: Duration::from_secs(60),
            stall: Duration::from_secs(900),
            request: Duration::from_secs(12 * 3600),
            drain: Duration::from_secs(30),
        }
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that still had a request when the time was up, and were cut.
    pub cut: usize,
}

/// The S3 service: what `s3s` makes of a request, with what it leaves to others before and after it.
#[derive(Clone)]
pub struct Front {
    s3: S3Service,
    domains: Domains,
    held: Arc<xml::Held>,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("domains", &self.domains).finish_non_exhaustive()
    }
}

/// Builds the S3 service.
pub fn service(gateway: &Arc<Gateway>, domains: Domains) -> Front {
    // Requests whose headers have to be mended come through it a second time, see `lenient`.
    let mended = builder(gateway, &domains).build();
    let mut builder = builder(gateway, &domains);
    builder.set_route(lenient::Lenient::new(mended));
    Front { s3: builder.build(), domains, held: Arc::default() }
}

fn builder(gateway: &Arc<Gateway>, domains: &Domains) -> S3ServiceBuilder {
    let mut config = S3Config::default();
    config.xml_max_body_size = MAX_XML;
    config.aws_chunked_stream_max_chunk_size = MAX_AWS_CHUNK;
    config.put_object_max_size = Some(crate::engine::MAX_SINGLE);
    // A signature made for another service must not open this one.
    config.sig_v4_allowed_services = vec!["s3".to_owned()];
    config.enable_sig_v2 = false;
    config.allow_post_signature = false;

    let mut builder = S3ServiceBuilder::new(Service::new(Arc::clone(gateway)));
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    // Without an authenticator s3s would skip the access check and let everybody in.
    builder.set_auth(Authenticator::new(Arc::clone(gateway.metadata())));
    builder.set_access(Gatekeeper::new(Arc::clone(gateway.metadata())));
    if !domains.0.is_empty() {
        builder.set_host(domains.clone());
    }
    builder
}

/// The names under which buckets are host names (`bucket.domain`); every other host is addressed by path.
#[derive(Clone, Debug, Default)]
pub struct Domains(Vec<String>);

impl Domains {
    /// Fails if a name is no domain, or if one lies below another.
    pub fn new(domains: &[String]) -> Result<Domains, DomainError> {
        // s3s knows what a domain is and that two of them must not overlap.
        if !domains.is_empty() {
            s3s::host::MultiDomain::new(domains)?;
        }
        Ok(Domains(domains.iter().map(|domain| domain.to_ascii_lowercase()).collect()))
    }
}

impl Domains {
    /// Whether a request names a bucket and nothing in it.
    fn names_bucket<B>(&self, req: &Request<B>) -> bool {
        let host = req.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| req.uri().authority().map(|authority| authority.as_str())).unwrap_or_default();
        let path = req.uri().path().trim_matches('/');
        match self.parse_host_header(host) {
            Ok(host) if host.bucket().is_some() => path.is_empty(),
            _ => !path.is_empty() && !path.contains('/'),
        }
    }
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.to_ascii_lowercase();
        for domain in &self.0 {
            if let Some(bucket) = name.strip_suffix(domain.as_str()).and_then(|rest| rest.strip_suffix('.'))
                && !bucket.is_empty()
            {
                return Ok(VirtualHost::new(domain.as_str()).with_bucket(bucket.to_owned()));
            }
        }
        Ok(VirtualHost::new(host))
    }
}

/// Serves until `shutdown` is true (or its sender is gone), then drains.
pub async fn serve(
    listener: TcpListener,
    service: Front,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) -> Drained {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let (mut acceptor, mut starved) = (Acceptor::new(listener), false);
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
    loop {
        let patience = if starved { Duration::ZERO } else { SLOT_PATIENCE };
        let slot = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            slot = tokio::time::timeout(patience, Arc::clone(&slots).acquire_owned()) => slot,
        };
        let (stream, peer) = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            accepted = acceptor.next() => accepted,
        };
        // The wait for somebody to come may have been long, and slots free since.
        let slot = slot.ok().and_then(Result::ok).or_else(|| Arc::clone(&slots).try_acquire_owned().ok());
        starved = slot.is_none();
        let (service, stop) = (service.clone(), shutdown.clone());
        match slot {
            Some(slot) => connections.spawn(async move {
                connection(stream, peer, service, limits, stop).await;
                drop(slot);
            }),
            None => {
                acceptor.one_too_many();
                // Waits for those before it, once they are many: they are gone in a moment.
                let turn = Arc::clone(&turned_away).acquire_owned().await;
                connections.spawn(async move {
                    accept::refuse(stream).await;
                    drop(turn);
                })
            }
        };
        while connections.try_join_next().is_some() {}
    }
    drop(acceptor);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let cut = match tokio::time::timeout(limits.drain, all_ended).await {
        Ok(()) => 0,
        Err(_) => connections.len(),
    };
    connections.shutdown().await;
    Drained { cut }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    service: Front,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "TCP_NODELAY");
    }
    let activity = Arc::new(Activity::new());
    let io = TokioIo::new(TimedIo::new(stream, Arc::clone(&activity)));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(limits.header_read).max_buf_size(BUFFER).max_headers(HEADERS);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(128).max_send_buf_size(BUFFER);
    let handler = {
        let activity = Arc::clone(&activity);
        service_fn(move |req| {
            let (service, activity) = (service.clone(), Arc::clone(&activity));
            async move {
                let _busy = Busy::new(&activity);
                let req = req.map(|body| Counted::request(body, &activity));
                let response = answer(service, limits, req).await;
                Ok::<_, Infallible>(response.map(|body| Counted::answer(body, &activity)))
            }
        })
    };
    let connection = builder.serve_connection(io, handler);
    tokio::pin!(connection);
    let mut draining = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, %peer, "connection ended");
                }
                return;
            }
            _ = shutdown.wait_for(|stop| *stop), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = activity.silent(limits.idle, limits.stall) => {
                tracing::debug!(%peer, "silent connection closed");
                return;
            }
        }
    }
}

/// What is done for a request, in whatever process, is logged with the id that its answer carries.
async fn answer(service: Front, limits: Limits, req: Request<Counted<Incoming>>) -> HttpResponse {
    let trace = Trace::random();
    trace::scope(trace, traced(service, limits, req, trace.to_string())).await
}

async fn traced(service: Front, limits: Limits, req: Request<Counted<Incoming>>, id: String) -> HttpResponse {
    let started = Instant::now();
    let (method, path, version) = (req.method().clone(), req.uri().path().to_owned(), req.version());
    let waits = req.headers().contains_key(header::EXPECT);
    // Nobody is told to continue with nothing. boto3 and `aws` then take the next answer on the connection for this one, and
    // wait a minute for its end: the connection is not used again.
    let unasked = waits && req.body().is_end_stream();
    let (parts, body) = req.into_parts();
    let (body, rest) = rest::split(body);
    let req = Request::from_parts(parts, body);
    let mut response = match tokio::time::timeout(limits.request, dispatch(service, limits.xml, req)).await {
        Ok(response) => response,
        Err(_) => error_response(error::custom(
            "RequestTimeout",
            StatusCode::BAD_REQUEST,
            "The request took longer than a request may.",
        )),
    };
    identify(&mut response, &id);
    if response.status() == StatusCode::OK && response.headers().contains_key(header::CONTENT_RANGE) {
        // `s3s` answers every HeadObject with 200, also one that describes a part of the object.
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let refused = response.status().is_client_error() || response.status().is_server_error();
    let left = refused && !rest.read(waits).await;
    if (left || unasked) && version <= http::Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if method == Method::HEAD {
        let length = response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::empty();
        if let Some(length) = length {
            response.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
    }
    tracing::debug!(%method, path, status = response.status().as_u16(), took = ?started.elapsed(), "answered");
    response
}

async fn dispatch(service: Front, xml_limit: Duration, req: Request<Shared<Counted<Incoming>>>) -> HttpResponse {
    if is_form(&req) {
        return error_response(error::not_implemented("PostObject"));
    }
    if let Some(allowed) = wrong_method(&req, &service.domains) {
        return method_not_allowed(allowed);
    }
    if let Some(refused) = scope::refused(req.headers(), req.uri()) {
        return refused;
    }
    let has_xml = has_xml(&req) || (req.method() == Method::PUT && service.domains.names_bucket(&req));
    if has_xml && req.body().size_hint().lower() > MAX_XML as u64 {
        return error_response(s3_error!(MaxMessageLengthExceeded, "Your request was too big."));
    }
    let watch = Arc::new(xml::Watch::new(Arc::clone(&service.held)));
    let req = if !has_xml {
        req.map(Body::http_body_unsync)
    } else {
        let mut req = match xml::watch(req.headers(), has_query(&req, "uploadId"), xml_limit, &watch) {
            Ok(over) => req.map(|body| Body::http_body_unsync(over(body))),
            Err(refused) => return error_response(refused),
        };
        req.extensions_mut().insert(Arc::clone(&watch));
        req
    };
    let answered = service.s3.call(req).await;
    if let Some(refused) = watch.take() {
        // s3s calls a body that can't be read an internal error; it was the client's.
        return error_response(refused);
    }
    match answered {
        Ok(response) => response,
        Err(failed) => error_response(error::internal(&failed)),
    }
}

/// A browser's form upload. Refused before its parts are parsed.
fn is_form<B>(req: &Request<B>) -> bool {
    let kind = req.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    req.method() == Method::POST && kind.trim_start().to_ascii_lowercase().starts_with("multipart/form-data")
}

/// The methods that there are for what a request names, if its own is none of them.
fn wrong_method<B>(req: &Request<B>, domains: &Domains) -> Option<&'static str> {
    let at_root = req.uri().path() == "/" && !domains.names_bucket(req);
    let bare = req.uri().query().unwrap_or_default().is_empty();
    match *req.method() {
        Method::PUT | Method::DELETE | Method::POST if at_root => Some("GET"),
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE => None,
        Method::POST if !bare => None,
        _ => Some("GET, HEAD, PUT, POST, DELETE"),
    }
}

fn method_not_allowed(allowed: &'static str) -> HttpResponse {
    let mut response =
        error_response(s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource."));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Requests with a short XML body. Other bodies are streamed, and their digests are the engine's business.
fn has_xml<B>(req: &Request<B>) -> bool {
    req.method() == Method::POST || (req.method() == Method::PUT && has_query(req, "encryption"))
}

fn has_query<B>(req: &Request<B>, name: &str) -> bool {
    let query = req.uri().query().unwrap_or_default();
    query.split('&').any(|pair| pair.split('=').next() == Some(name))
}

fn error_response(error: S3Error) -> HttpResponse {
    error.to_http_response().unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// Puts the request's id into the answer's head, and into its body if that is an error.
fn identify(response: &mut HttpResponse, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert("x-amz-request-id", value);
    }
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("Stele"));
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return;
    }
    if response.body().bytes().is_some_and(|body| find(&body, b"<RequestId>").is_none()) {
        add_to_error(response, &format!("<RequestId>{id}</RequestId>"));
    }
}

/// Puts an element into an answer's body, if that is an error.
fn add_to_error(response: &mut HttpResponse, element: &str) {
    let Some(body) = response.body().bytes() else { return };
    let Some(end) = find(&body, b"</Error>") else { return };
    let longer = [&body[..end], element.as_bytes(), &body[end..]].concat();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(Bytes::from(longer));
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_below_the_domains_are_buckets_and_others_are_not() {
        let domains = Domains::new(&["s3.example.org".to_owned()]).expect("a domain");
        let bucket = |host| domains.parse_host_header(host).ok().and_then(|v| v.bucket().map(str::to_owned));
        assert_eq!(bucket("docs.s3.example.org").as_deref(), Some("docs"));
        assert_eq!(bucket("Docs.S3.example.org:9000").as_deref(), Some("docs"));
        assert_eq!(bucket("a.b.s3.example.org").as_deref(), Some("a.b"));
        for path_style in ["s3.example.org", "localhost:9000", "evils3.example.org", "docs.other.org", "[::1]:9000"] {
            assert_eq!(bucket(path_style), None, "{path_style}");
        }
        assert!(Domains::new(&["not a domain".to_owned()]).is_err());
    }

    #[test]
    fn requests_that_name_a_bucket() {
        let domains = Domains::new(&["s3.example.org".to_owned()]).expect("a domain");
        let names = |host: &str, path: &str| {
            let req = Request::builder().uri(path).header(header::HOST, host).body(()).expect("a request");
            domains.names_bucket(&req)
        };
        assert!(
            names("localhost", "/docs") && names("localhost", "/docs/?location") && names("docs.s3.example.org", "/")
        );
        assert!(!names("localhost", "/docs/a") && !names("localhost", "/") && !names("docs.s3.example.org", "/a"));
    }

    #[test]
    fn methods_that_there_are() {
        let domains = Domains::new(&["s3.example.org".to_owned()]).expect("a domain");
        let allowed = |method: &str, host: &str, target: &str| {
            let req =
                Request::builder().method(method).uri(target).header(header::HOST, host).body(()).expect("a request");
            wrong_method(&req, &domains).is_none()
        };
        for (method, target) in
            [("GET", "/"), ("PUT", "/b"), ("POST", "/b?delete"), ("POST", "/b/k?uploads"), ("HEAD", "/b/k")]
        {
            assert!(allowed(method, "localhost", target), "{method} {target}");
        }
        assert!(allowed("PUT", "b.s3.example.org", "/"), "a bucket");
        for (method, target) in
            [("PUT", "/"), ("DELETE", "/?x"), ("POST", "/b/k"), ("PATCH", "/b/k"), ("OPTIONS", "/b?cors")]
        {
            assert!(!allowed(method, "localhost", target), "{method} {target}");
        }
    }

    #[test]
    fn every_error_names_its_request() {
        let mut response = error_response(error::no_such_key());
        identify(&mut response, "00000000000000AB");
        assert_eq!(
            response.headers().get("x-amz-request-id").map(HeaderValue::as_bytes),
            Some(&b"00000000000000AB"[..])
        );
        let body = response.body().bytes().expect("a body");
        let text = String::from_utf8_lossy(&body);
        assert!(
            text.contains("<Code>NoSuchKey</Code>") && text.contains("<RequestId>00000000000000AB</RequestId></Error>")
        );
    }
}
