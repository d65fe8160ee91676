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
//! * Who tries keys is slowed down ([`sign_in`]).
//! * What an answer repeats of its request is bounded ([`sent`]).
//! * After the shutdown signal no new request starts, and those that run may finish for [`Limits::drain`].

mod accept;
mod cors;
mod domains;
pub(crate) mod form;
mod hoisted;
mod io;
mod lenient;
pub(crate) mod location;
mod logged;
mod numbers;
mod rest;
mod scope;
mod sent;
pub(crate) mod sign_in;
mod signed;
mod tls;
pub(crate) mod xml;

use crate::access_log::AccessLog;
use crate::auth::{Authenticator, Gatekeeper};
use crate::engine::Gateway;
use crate::iam::{self, Iam};
use crate::s3::request::query_pairs;
use crate::s3::service::Service;
use crate::s3::{answer, error};
use accept::Acceptor;
pub use accept::turn_all_away;
use bytes::Bytes;
pub use domains::Domains;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use io::{Activity, Busy, Counted, TimedIo};
use metadata::audit;
use metadata::client::MetadataClient;
use rest::Shared;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpResponse, S3Error, s3_error};
use sign_in::{Attempt, SignIns};
use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use storage_node::trace::{self, Trace};
use tls::Stream;
pub use tls::{Tls, TlsError, TlsFiles};
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
    /// Requests that were verified elsewhere: see `lenient` and `form`.
    mended: S3Service,
    meta: Arc<dyn MetadataClient>,
    iam: Arc<Iam>,
    sign_ins: Arc<SignIns>,
    origins: Arc<cors::Origins>,
    log: Arc<AccessLog>,
    domains: Domains,
    /// What is held of XML bodies, and of long answers to requests without one.
    held: Arc<xml::Held>,
    answers: Arc<xml::Held>,
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
    builder.set_route(lenient::Lenient::new(mended.clone()));
    let (meta, origins) = (Arc::clone(gateway.metadata()), Arc::new(cors::Origins::new()));
    let log = Arc::new(AccessLog::new(gateway));
    let iam = Arc::new(Iam::new(Arc::clone(&meta)));
    Front {
        s3: builder.build(),
        mended,
        meta,
        iam,
        sign_ins: Arc::default(),
        origins,
        log,
        domains,
        held: Arc::default(),
        answers: Arc::default(),
    }
}

fn builder(gateway: &Arc<Gateway>, domains: &Domains) -> S3ServiceBuilder {
    let mut config = S3Config::default();
    config.xml_max_body_size = MAX_XML;
    config.aws_chunked_stream_max_chunk_size = MAX_AWS_CHUNK;
    config.put_object_max_size = Some(crate::engine::MAX_SINGLE);
    // A signature made for another service must not open this one.
    config.sig_v4_allowed_services = vec!["s3".to_owned()];
    config.enable_sig_v2 = false;
    // Bodies go through the route (`lenient`, `hoisted`) to the second service, which has the limits of them.
    config.custom_route_max_body_size = None;
    // See `signed`.
    config.unsigned_amz_header_allowlist.push(signed::AMZ_DATE.to_owned());
    config.allow_post_signature = false;

    let mut builder = S3ServiceBuilder::new(Service::new(Arc::clone(gateway)));
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    // Without an authenticator s3s would skip the access check and let everybody in.
    builder.set_auth(Authenticator::new(Arc::clone(gateway.metadata())));
    builder.set_access(Gatekeeper::new(Arc::clone(gateway.metadata())));
    if !domains.is_empty() {
        builder.set_host(domains.clone());
    }
    builder
}

/// Who is at the other end of a request's connection: an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The socket's address. A proxy's, if there is one in between.
    pub address: SocketAddr,
    /// The version of TLS, `1.2` or `1.3`; `None`: plain HTTP.
    pub tls: Option<&'static str>,
}

/// Where S3 is served.
#[derive(Debug)]
pub struct Port {
    /// Where connections come from.
    pub listener: TcpListener,
    /// The certificate that they are shown; `None`: plain HTTP.
    pub tls: Option<Arc<Tls>>,
}

impl From<TcpListener> for Port {
    fn from(listener: TcpListener) -> Port {
        Port { listener, tls: None }
    }
}

/// Serves until `shutdown` is true (or its sender is gone), then drains.
pub async fn serve(
    port: impl Into<Port>,
    service: Front,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) -> Drained {
    let Port { listener, tls } = port.into();
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let (mut acceptor, mut starved) = (Acceptor::new(listener, tls.clone()), false);
    let turned_away = Arc::new(Semaphore::new(accept::TURNED_AWAY));
    let log = tokio::spawn(Arc::clone(&service.log).run(shutdown.clone()));
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
        let (service, stop, tls) = (service.clone(), shutdown.clone(), tls.clone());
        match slot {
            Some(slot) => connections.spawn(async move {
                secured(stream, tls, peer, service, limits, stop).await;
                drop(slot);
            }),
            None => {
                acceptor.one_too_many();
                // Waits for those before it, once they are many: they are gone in a moment.
                let turn = Arc::clone(&turned_away).acquire_owned().await;
                connections.spawn(async move {
                    accept::refuse(stream, tls.as_deref()).await;
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
    // What the last requests left, and no longer than what they had: a target that does not answer keeps nobody from ending.
    let _ended = tokio::time::timeout(limits.drain, async {
        let _ended = log.await;
        service.log.deliver(true).await;
    })
    .await;
    Drained { cut }
}

/// A connection from its first byte.
async fn secured(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    peer: SocketAddr,
    service: Front,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "TCP_NODELAY");
    }
    let stream = tokio::select! {
        stream = Stream::of(stream, tls.as_deref()) => stream,
        _ = shutdown.wait_for(|stop| *stop) => return,
    };
    match stream {
        Ok(stream) => connection(stream, peer, service, limits, shutdown).await,
        Err(error) => tracing::debug!(%error, %peer, "no TLS came about"),
    }
}

async fn connection(
    stream: Stream,
    peer: SocketAddr,
    service: Front,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) {
    let from = Peer { address: peer, tls: stream.version() };
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
                let mut req = req.map(|body| Counted::request(body, &activity));
                req.extensions_mut().insert(from);
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
    trace::scope(trace, audit::scope(traced(service, limits, req, trace.to_string()))).await
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
    let mut req = Request::from_parts(parts, body);
    let watched = logged::Watched::of(&service, &mut req, &id);
    let bucket = service.domains.target(&req).map(|(bucket, _)| bucket);
    let asked = cors::Asked::of(&method, req.headers(), bucket);
    // What follows the file of a form is nobody's business, and in the way of the next request.
    let is_form = form::is_form(&req);
    let around = service.clone();
    let peer = req.extensions().get::<Peer>().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.address.ip());
    let attempt = Attempt::new(Arc::clone(&service.sign_ins), peer);
    let answered = Arc::clone(&attempt).during(dispatch(service, limits.xml, req));
    let mut response = match tokio::time::timeout(limits.request, answered).await {
        Ok(response) => response,
        Err(_) => error_response(error::custom(
            "RequestTimeout",
            StatusCode::BAD_REQUEST,
            "The request took longer than a request may.",
        )),
    };
    let status = response.status();
    let told = response.body().bytes().filter(|_| status.is_client_error());
    attempt.note(status, told.as_deref(), Instant::now());
    sent::shorten(&mut response);
    identify(&mut response, &id);
    if let Some(asked) = asked.filter(|_| method != Method::OPTIONS) {
        around.origins.add(around.meta.as_ref(), &asked, &mut response).await;
    }
    if response.status() == StatusCode::OK && response.headers().contains_key(header::CONTENT_RANGE) {
        // `s3s` answers every HeadObject with 200, also one that describes a part of the object.
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if let Some(watched) = watched {
        response = watched.answered(&around, response).await;
    }
    let refused = response.status().is_client_error() || response.status().is_server_error();
    let left = (refused || is_form) && !rest.read(waits).await;
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
    sent::hold(&mut response, limits.xml);
    tracing::debug!(%method, path, status = response.status().as_u16(), took = ?started.elapsed(), "answered");
    response
}

async fn dispatch(service: Front, xml_limit: Duration, mut req: Request<Shared<Counted<Incoming>>>) -> HttpResponse {
    signed::tell(req.headers_mut());
    signed::order(req.uri_mut());
    if form::is_form(&req) {
        return form::upload(&service, xml_limit, req).await;
    }
    if req.method() == Method::OPTIONS {
        let bucket = service.domains.target(&req).map(|(bucket, _)| bucket);
        return match cors::Asked::of(req.method(), req.headers(), bucket) {
            Some(asked) => service.origins.preflight(service.meta.as_ref(), &asked).await,
            None => method_not_allowed("GET, HEAD, PUT, POST, DELETE"),
        };
    }
    if iam::is_for(&req) && service.domains.target(&req).is_none() {
        return service.iam.answer(req).await;
    }
    if let Some(allowed) = wrong_method(&req, &service.domains) {
        return method_not_allowed(allowed);
    }
    if let Some(refused) = numbers::refused(req.uri()) {
        return refused;
    }
    if let Some(refused) = scope::refused(req.headers(), req.uri()) {
        return refused;
    }
    let uri = req.uri().clone();
    if let Err(refused) = hoisted::tell(req.headers_mut(), &uri) {
        return error_response(refused);
    }
    let has_xml = has_xml(&req) || (req.method() == Method::PUT && service.domains.names_bucket(&req));
    if has_xml && req.body().size_hint().lower() > MAX_XML as u64 {
        return error_response(s3_error!(MaxMessageLengthExceeded, "Your request was too big."));
    }
    let held = if has_xml { &service.held } else { &service.answers };
    let watch = Arc::new(xml::Watch::new(Arc::clone(held)));
    if !has_xml && let Some(peer) = req.extensions().get::<Peer>() {
        // An answer that nobody signed for counts for where it goes, so that one who does not read it is in nobody else's way.
        watch.counts_for(&sign_in::counted(peer.address.ip()).to_string());
    }
    let mut req = if !has_xml {
        req.map(Body::http_body_unsync)
    } else {
        let said = hoisted::said(req.headers(), &uri).into_owned();
        match xml::watch(&said, has_query(&req, "uploadId"), xml_limit, &watch) {
            Ok(over) => req.map(|body| Body::http_body_unsync(over(body))),
            Err(refused) => return error_response(refused),
        }
    };
    req.extensions_mut().insert(Arc::clone(&watch));
    let answered = service.s3.call(req).await;
    if let Some(refused) = watch.take() {
        // s3s calls a body that can't be read an internal error; it was the client's.
        return error_response(refused);
    }
    match answered {
        Ok(response) if !has_xml && !sent::has_room(&response, &watch) => error_response(error::slow_down()),
        Ok(mut response) => {
            // The answer may be several times as long, see `sent`.
            response.extensions_mut().insert(watch);
            response
        }
        Err(failed) => error_response(error::internal(&failed)),
    }
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

/// What of an object is put as XML.
const XML_OF_OBJECTS: [&str; 5] = ["acl", "encryption", "legal-hold", "retention", "tagging"];

/// Requests with a short XML body. Other bodies are streamed, and their digests are the engine's business.
fn has_xml<B>(req: &Request<B>) -> bool {
    let of_object = || XML_OF_OBJECTS.iter().any(|name| has_query(req, name));
    req.method() == Method::POST || (req.method() == Method::PUT && of_object())
}

fn has_query<B>(req: &Request<B>, name: &str) -> bool {
    query_pairs(req.uri().query().unwrap_or_default()).iter().any(|(known, _)| known == name)
}

fn error_response(error: S3Error) -> HttpResponse {
    error::sayable(error).to_http_response().unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// The status of an answer, for operations that `s3s` answers with 200 whatever their handlers say.
#[derive(Clone, Copy, Debug)]
pub struct Status(pub StatusCode);

/// Puts the request's id into the answer's head, and into its body if that is an error.
fn identify(response: &mut HttpResponse, id: &str) {
    if let Some(Status(status)) = response.extensions().get().copied() {
        *response.status_mut() = status;
    }
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert("x-amz-request-id", value);
    }
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("Stele"));
    if let Some(date) = date_now() {
        response.headers_mut().insert(header::DATE, date);
    }
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return;
    }
    if response.body().bytes().is_some_and(|body| find(&body, b"<RequestId>").is_none()) {
        add_to_error(response, &format!("<RequestId>{id}</RequestId>"));
    }
}

/// The time of day for an answer. hyper's own line stays as it is once the clock is set back, until the clock is again where it was:
/// SDKs that correct their clocks by it would sign all that while with a time that is refused.
fn date_now() -> Option<HeaderValue> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    answer::http_date(u64::try_from(now.as_millis()).ok()?)
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
        // Without it hyper says the time that it was before the clock was set back.
        let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok()).expect("a date");
        assert!(date.ends_with(" GMT"), "{date}");
    }
}
