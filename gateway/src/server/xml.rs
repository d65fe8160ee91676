//! XML bodies on their way to `s3s`: their digests, what it would misread, and their memory.
//!
//! `s3s` parses such a body (the keys to delete, the parts to complete) without comparing it to Content-MD5 or
//! x-amz-checksum-*, so a body damaged on its way could delete the wrong keys; and where it does compare, with the signed
//! SHA-256, it reports an internal error. This watches the body pass and remembers what was wrong with it.
//!
//! And `s3s` skips a CDATA section: `<Key>a<![CDATA[b]]></Key>` would be the key `a`, and another object would be deleted than
//! the one that was named. A body with one is refused.
//!
//! And `s3s` takes control characters, as they are or by number, though XML 1.0 has no way to say them: what was stored with one could
//! never be told to anybody again, because no answer with one is sent. A body with one is refused.
//!
//! And `s3s` keeps such a body whole until it is parsed, whatever its pieces were, for as long as its client takes.
//!
//! Invariants:
//! * What is kept of all XML bodies together is at most [`LARGE`] and [`SMALL`] bytes, and of one account's a quarter of that. A
//!   byte is read only when `s3s` asks for it, which is after [`crate::auth`] has let the request through: those whom nothing lets in
//!   hold none, and those without an account hold one account's part together.
//! * The first [`BEGINNING`] bytes of a body count apart from the rest: a few large bodies do not keep small ones out.
//! * What is held of a body is held until its answer is sent, if that is long ([`super::sent`]).
//! * A body has come after [`Limits::xml`](super::Limits::xml), or goes on at [`SLOWEST`].

use super::find;
use crate::digest::Digester;
use crate::engine::{Claim, Claims};
use crate::error::PutError;
use crate::s3::{error, request};
use bytes::{Bytes, BytesMut};
use codec::effect::ChecksumAlgorithm;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use s3s::{S3Error, S3Result, StdError, s3_error};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Most bytes of XML bodies in memory, but for their beginnings. Whoever sends more is asked to come back: without it, each
/// connection could hold bodies of the largest size, and all of them tens of GiB.
const LARGE: u64 = 128 << 20;
/// Most bytes of the beginnings of XML bodies in memory. They are few for each request, but a connection has many at once.
const SMALL: u64 = 64 << 20;
/// What of a body counts as its beginning, in bytes: all of it, most often.
const BEGINNING: u64 = 64 << 10;
/// An account holds this part of either at most: one that sends slowly leaves room for the others.
const SHARE: u64 = 4;
/// Bytes a second at which a body may take longer than others.
pub(super) const SLOWEST: u64 = 16 << 10;
/// Pieces of a body are copied together up to this many bytes: a piece keeps the buffer that it was read into, 8 KiB at least,
/// and whoever collects the body keeps them all.
const GATHERED: usize = 16 << 10;
/// Most tags in a body: 10,000 parts with everything that S3 says of them. Parsed, an element takes some hundred bytes, however
/// short it was.
const MOST_TAGS: usize = 200_000;

/// The bytes of XML bodies in memory: those of beginnings, and the others.
#[derive(Debug, Default)]
pub struct Held(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: [u64; 2],
    /// By account. Those without any are not there.
    of: HashMap<String, [u64; 2]>,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All bytes that are held.
    #[cfg(test)]
    pub(super) fn all(&self) -> u64 {
        self.lock().all.iter().sum()
    }
}

/// How `bytes` of a body count.
fn counted(bytes: u64) -> [u64; 2] {
    let beginning = bytes.min(BEGINNING);
    [beginning, bytes - beginning]
}

/// What becomes of one request's body.
#[derive(Debug)]
pub struct Watch {
    state: Mutex<State>,
    /// What is held of all bodies.
    held: Arc<Held>,
}

#[derive(Debug, Default)]
struct State {
    /// What was wrong with it.
    fault: Option<S3Error>,
    /// Whose it is; nobody's before that is known, and then none of it has been read. What nobody signed is nobody's.
    account: String,
    /// What is held of it.
    bytes: u64,
}

impl Watch {
    /// `held` counts for all requests of a server. What this one holds, it holds as long as this lives.
    pub fn new(held: Arc<Held>) -> Watch {
        Watch { state: Mutex::default(), held }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, error: S3Error) {
        self.lock().fault = Some(error);
    }

    /// The fault, once.
    pub fn take(&self) -> Option<S3Error> {
        self.lock().fault.take()
    }

    /// The body counts for this account. To be said before it is read.
    pub fn counts_for(&self, account: &str) {
        self.lock().account = account.to_owned();
    }

    /// Counts what has come. `false`: there is no room for it, and it is not counted.
    pub(super) fn hold(&self, more: usize) -> bool {
        let mut state = self.lock();
        let (before, after) = (counted(state.bytes), counted(state.bytes + more as u64));
        let mut counts = self.held.lock();
        let own = counts.of.get(&state.account).copied().unwrap_or_default();
        let (mut all, mut of) = (counts.all, own);
        for (kind, most) in [SMALL, LARGE].into_iter().enumerate() {
            let more = after[kind] - before[kind];
            (all[kind], of[kind]) = (all[kind] + more, of[kind] + more);
            if more > 0 && (all[kind] > most || of[kind] > most / SHARE) {
                return false;
            }
        }
        counts.all = all;
        counts.of.insert(state.account.clone(), of);
        state.bytes += more as u64;
        true
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let state = std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut counts = self.held.lock();
        let Some(own) = counts.of.get(&state.account).copied() else { return };
        let bytes = counted(state.bytes);
        let less = |from: [u64; 2]| [from[0].saturating_sub(bytes[0]), from[1].saturating_sub(bytes[1])];
        counts.all = less(counts.all);
        match less(own) {
            [0, 0] => drop(counts.of.remove(&state.account)),
            left => drop(counts.of.insert(state.account, left)),
        }
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

/// Looks for characters that XML 1.0 does not have (W3C Recommendation, fifth edition, section 2.2, `Char`) in pieces of a body: as
/// they are, and by their numbers (section 4.1, `CharRef`). Surrogates need no look: they are neither UTF-8 nor a `char`.
#[derive(Debug, Default)]
struct Characters {
    reference: Reference,
    /// The two bytes before, U+FFFE and U+FFFF have three.
    before: [u8; 2],
}

/// How far a reference has come.
#[derive(Clone, Copy, Debug, Default)]
enum Reference {
    #[default]
    None,
    /// `&`
    Begun,
    /// `&#`
    Numbered,
    /// `&#x`
    Marked,
    /// `&#6`
    Decimal(u32),
    /// `&#x4`
    Hexadecimal(u32),
}

impl Reference {
    /// With one more byte; `Err` is the number of a reference that ended.
    fn next(self, byte: u8) -> Result<Reference, u32> {
        let digit = |radix| char::from(byte).to_digit(radix);
        let more = |number: u32, radix, digit| number.saturating_mul(radix).saturating_add(digit);
        Ok(match self {
            Reference::Decimal(number) | Reference::Hexadecimal(number) if byte == b';' => return Err(number),
            _ if byte == b'&' => Reference::Begun,
            Reference::Begun if byte == b'#' => Reference::Numbered,
            Reference::Numbered if byte == b'x' => Reference::Marked,
            Reference::Marked => digit(16).map_or(Reference::None, Reference::Hexadecimal),
            Reference::Numbered => digit(10).map_or(Reference::None, Reference::Decimal),
            Reference::Decimal(number) => {
                digit(10).map_or(Reference::None, |digit| Reference::Decimal(more(number, 10, digit)))
            }
            Reference::Hexadecimal(number) => {
                digit(16).map_or(Reference::None, |digit| Reference::Hexadecimal(more(number, 16, digit)))
            }
            Reference::None | Reference::Begun => Reference::None,
        })
    }
}

impl Characters {
    /// Whether all that was seen by now may be in XML.
    fn allowed(&mut self, piece: &[u8]) -> bool {
        piece.iter().all(|byte| {
            let (before, code) = (self.before, self.reference.next(*byte));
            self.before = [before[1], *byte];
            self.reference = code.unwrap_or_default();
            let raw = matches!((before, byte), ([0xef, 0xbf], 0xbe | 0xbf));
            let of_number = code.err().and_then(char::from_u32).is_some_and(|c| !request::is_sayable(c));
            !raw && !of_number && (!byte.is_ascii() || request::is_sayable(char::from(*byte)))
        })
    }
}

/// When a body must have come.
struct Patience {
    /// For all of a body that is slower than [`SLOWEST`].
    limit: Duration,
    /// Since the body is waited for; none before.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Patience {
    /// Nothing came just now, after `got` bytes: whether that is for too long.
    fn is_over(&mut self, got: u64, cx: &mut Context<'_>) -> bool {
        let limit = self.limit;
        let (since, sleep) = self.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(tokio::time::sleep_until(now + limit)))
        });
        let end = *since + limit + Duration::from_millis(got.saturating_mul(1000) / SLOWEST);
        if sleep.deadline() != end {
            sleep.as_mut().reset(end);
        }
        sleep.as_mut().poll(cx).is_ready()
    }
}

/// A body that is compared with its digests as it passes, and passes in large pieces.
pub struct WatchedBody<B> {
    body: B,
    sections: Sections,
    characters: Characters,
    expected: Option<(Expected, Digester)>,
    watch: Arc<Watch>,
    patience: Patience,
    gathered: BytesMut,
    got: u64,
    tags: usize,
}

/// How to watch a body: [`WatchedBody`] over it. `Err` when what its headers say makes no sense.
pub fn watch<B>(
    headers: &HeaderMap,
    of_object: bool,
    limit: Duration,
    watch: &Arc<Watch>,
) -> S3Result<impl FnOnce(B) -> WatchedBody<B> + use<B>> {
    let expected = Expected::new(headers, of_object)?;
    let watch = Arc::clone(watch);
    Ok(move |body| {
        let expected = expected.map(|expected| {
            let digester = expected.digester();
            (expected, digester)
        });
        WatchedBody {
            body,
            sections: Sections::default(),
            characters: Characters::default(),
            expected,
            watch,
            patience: Patience { limit, waiting: None },
            gathered: BytesMut::new(),
            got: 0,
            tags: 0,
        }
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
        if !self.characters.allowed(data) {
            return Err(s3_error!(MalformedXML, "The body has a control character, which XML does not allow."));
        }
        self.got += data.len() as u64;
        self.tags += data.iter().filter(|byte| **byte == b'<').count();
        if self.tags > MOST_TAGS {
            return Err(s3_error!(MalformedXML, "The body has more elements than any request needs."));
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

    /// Ends the body with what the client is told.
    fn refuse(&mut self, error: S3Error) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        self.watch.set(error);
        Poll::Ready(Some(Err("a body that is not taken".into())))
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
        while self.gathered.len() < GATHERED {
            let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) else {
                let got = self.got;
                return match self.patience.is_over(got, cx) {
                    true => self.refuse(error::too_slow()),
                    false => Poll::Pending,
                };
            };
            match polled {
                Some(Ok(frame)) => {
                    // Trailers of HTTP itself say nothing that anybody reads.
                    let Ok(data) = frame.into_data() else { continue };
                    if let Err(refused) = self.look_at(&data) {
                        return self.refuse(refused);
                    }
                    self.gathered.extend_from_slice(&data);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => break,
            }
            // Judged with the last frame: who counts on the announced length may end before it asks for more.
            if self.body.is_end_stream() {
                break;
            }
        }
        let ended = self.gathered.len() < GATHERED || self.body.is_end_stream();
        if ended && let Err(error) = self.judge() {
            return Poll::Ready(Some(Err(error)));
        }
        let piece = self.gathered.split().freeze();
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        // The end must be polled for, or the digests would never be compared.
        self.expected.is_none() && self.gathered.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (left, gathered) = (self.body.size_hint(), self.gathered.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(left.lower().saturating_add(gathered));
        if let Some(upper) = left.upper() {
            hint.set_upper(upper.saturating_add(gathered));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use http::{HeaderName, HeaderValue};
    use http_body_util::{BodyExt, Full};

    async fn read(pairs: &[(&'static str, &'static str)], of_object: bool, body: &'static str) -> Option<String> {
        let headers: HeaderMap =
            pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
        let fault = Arc::new(Watch::new(Arc::default()));
        let watched = match watch(&headers, of_object, Duration::from_secs(60), &fault) {
            Ok(over) => over(Full::new(Bytes::from_static(body.as_bytes()))),
            Err(refused) => return Some(refused.code().as_str().to_owned()),
        };
        let read = watched.collect().await;
        let fault = fault.take();
        assert_eq!(read.is_err(), fault.is_some());
        fault.map(|error| error.code().as_str().to_owned())
    }

    fn of(held: &Arc<Held>, account: &str) -> Watch {
        let watch = Watch::new(Arc::clone(held));
        watch.counts_for(account);
        watch
    }

    /// A hundred bodies of 8 MiB that were sent slowly took 700 MiB, and the next hundred as much again.
    #[test]
    fn bodies_are_held_within_a_limit() {
        let held = Arc::new(Held::default());
        let large: Vec<Watch> = (0..16).map(|n| of(&held, &(n % 4).to_string())).collect();
        assert!(large.iter().all(|watch| watch.hold(8 << 20)), "as many as there is room for");
        let (late, small) = (of(&held, "late"), of(&held, "late"));
        assert!(small.hold(1 << 10) && small.hold(63 << 10), "a small one all the same");
        assert!(late.hold(64 << 10) && !late.hold(2 << 20), "and no other");
        drop((large, late));
        assert!(small.hold(8 << 20), "until there is room again");
        drop(small);
        let counts = held.lock();
        assert!(counts.all == [0, 0] && counts.of.is_empty());
    }

    /// One account could hold all that there was, and keep everybody else's deletes out.
    #[test]
    fn an_account_holds_no_more_than_its_share() {
        let held = Arc::new(Held::default());
        let greedy: Vec<Watch> = (0..16).map(|_| of(&held, "greedy")).collect();
        assert_eq!(greedy.iter().filter(|watch| watch.hold(8 << 20)).count(), 4);
        assert!(of(&held, "modest").hold(8 << 20));
    }

    /// The beginning of each request's body always had its place: with 128 requests on each of 4096 connections, 32 GiB of it.
    #[test]
    fn many_small_bodies_are_held_within_a_limit() {
        let held = Arc::new(Held::default());
        let many = |account: &str| -> Vec<Watch> {
            (0..1000).map(|_| of(&held, account)).take_while(|watch| watch.hold(BEGINNING as usize)).collect()
        };
        let kept = ["a", "b", "c", "d", "e"].map(many);
        assert_eq!(kept.iter().map(Vec::len).collect::<Vec<_>>(), [256, 256, 256, 256, 0]);
    }

    type Pieces = Vec<Result<Frame<Bytes>, StdError>>;

    fn pieces(
        pieces: Pieces,
        watch: &Arc<Watch>,
        limit: Duration,
    ) -> WatchedBody<impl Body<Data = Bytes, Error = StdError>> {
        let body = http_body_util::StreamBody::new(futures::stream::iter(pieces));
        super::watch(&HeaderMap::new(), false, limit, watch).unwrap()(body)
    }

    /// Each piece of a byte counted as 64, and cost a hundred.
    #[tokio::test]
    async fn small_pieces_pass_as_large_ones() {
        let watch = Arc::new(of(&Arc::default(), "a"));
        let letter = |n: usize| b'a' + (n % 26) as u8;
        let bytes = (0..40_000).map(|n| Ok(Frame::data(Bytes::from(vec![letter(n)])))).collect();
        let mut body = pieces(bytes, &watch, Duration::from_secs(60));
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            seen.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(seen.iter().map(Bytes::len).collect::<Vec<_>>(), [GATHERED, GATHERED, 40_000 - 2 * GATHERED]);
        assert!(seen.concat().iter().enumerate().all(|(n, byte)| letter(n) == *byte));
        assert_eq!(watch.lock().bytes, 40_000);
    }

    /// 8 MiB of the shortest elements were 40 MiB when they were parsed, and counted as 8.
    #[tokio::test]
    async fn a_body_has_no_more_elements_than_any_request_needs() {
        let watch = Arc::new(of(&Arc::default(), "a"));
        let body = pieces(vec![Ok(Frame::data("<a>".repeat(MOST_TAGS + 1).into()))], &watch, Duration::from_secs(60));
        assert!(body.collect().await.is_err());
        assert_eq!(watch.take().unwrap().code().as_str(), "MalformedXML");
    }

    /// A body could come as slowly as its connection let it, 18 bytes a second, and hold what it held for days.
    #[tokio::test]
    async fn a_body_comes_in_time() {
        let read = async |every: u64, len: usize, limit: Duration| {
            let watch = Arc::new(of(&Arc::default(), "a"));
            let slow = futures::stream::iter(0..20).then(move |_| async move {
                tokio::time::sleep(Duration::from_millis(every)).await;
                Ok::<_, StdError>(Frame::data(Bytes::from(vec![b'x'; len])))
            });
            let body = http_body_util::StreamBody::new(Box::pin(slow));
            let body = super::watch(&HeaderMap::new(), false, limit, &watch).unwrap()(body);
            let read = body.collect().await.map(|read| read.to_bytes().len()).ok();
            (read, watch.take().map(|error| error.code().as_str().to_owned()))
        };
        let second = Duration::from_secs(1);
        assert_eq!(read(100, 10, second).await, (None, Some("RequestTimeout".to_owned())));
        assert_eq!(read(100, 50_000, second).await, (Some(1_000_000), None), "fast enough, however long it takes");
        assert_eq!(read(1, 10, 60 * second).await, (Some(200), None), "slow, and short enough");
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

    /// An origin with U+0001 was stored, and then no GetBucketCors could be answered; a method with one was a failure of the server's own.
    #[test]
    fn characters_that_xml_does_not_have_are_found_wherever_the_pieces_end() {
        let allowed = |body: &[u8], size: usize| {
            let mut characters = Characters::default();
            body.chunks(size).all(|piece| characters.allowed(piece))
        };
        let bad: [&[u8]; 9] = [
            b"<a>GE\x01</a>",
            b"<a>\x1f</a>",
            b"<a>\0</a>",
            b"<a>&#1;</a>",
            b"<a>&&#x01f;</a>",
            b"<a>&#x000000000000000001;</a>",
            b"<a>&#xFFFE;</a>",
            b"<a>&#65535;</a>",
            "<a>\u{ffff}</a>".as_bytes(),
        ];
        let good: [&[u8]; 7] = [
            b"<a>\t\r\n &#9;&#xa;&#xD;</a>",
            b"<a>&#65;&#x1F4A5;&amp;#1;</a>",
            b"<a>&#1</a>&#;&#x;1;",
            b"<a>&# 1;&#x 1;&1;</a>",
            b"<a>&#99999999999999999999;</a>",
            "<a>\u{fffd}\u{7f}\u{85}\u{1f4a5}</a>".as_bytes(),
            b"\xff\xfe\x80",
        ];
        for size in 1..20 {
            for body in bad {
                assert!(!allowed(body, size), "{:?} in pieces of {size}", String::from_utf8_lossy(body));
            }
            for body in good {
                assert!(allowed(body, size), "{:?} in pieces of {size}", String::from_utf8_lossy(body));
            }
        }
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
