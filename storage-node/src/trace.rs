//! One id for all that one request does, in whatever process it does it.
//!
//! A process that takes a request from outside gives it a [`Trace`] and runs it in [`scope`]. What the request asks of other
//! processes carries the id in the header [`HEADER`], and the process that answers runs in a scope of the same id. Log lines
//! written inside have it: `request{trace=...}`.
//!
//! A task that is spawned does not inherit the id, so work that belongs to a request is handed to a task through [`carry`]. Work
//! that serves many requests at once belongs to the one that began it, or to none.

use http::HeaderMap;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use tracing::Instrument;

/// The header of a call between two processes: the id in hex.
pub const HEADER: &str = "stele-trace";

tokio::task_local! {
    static CURRENT: Trace;
}

/// The id of a request: 16 random bytes. It names a request for people and decides nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Trace([u8; 16]);

impl Trace {
    /// Another one.
    pub fn random() -> Trace {
        let mut bytes = [0; 16];
        if getrandom::fill(&mut bytes).is_err() {
            // Names a request for people: less random is still better than no request.
            let (high, low) = bytes.split_at_mut(8);
            high.copy_from_slice(&RandomState::new().hash_one(0).to_le_bytes());
            low.copy_from_slice(&RandomState::new().hash_one(1).to_le_bytes());
        }
        Trace(bytes)
    }

    /// Reads what [`Display`](fmt::Display) writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Trace> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Trace(bytes))
    }

    /// The id that a request carries. One without, or with what is none, has none.
    pub fn of(headers: &HeaderMap) -> Option<Trace> {
        Trace::parse(headers.get(HEADER)?.to_str().ok()?)
    }
}

/// 32 hex digits, upper case as S3 writes the ids of requests.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode_upper(self.0))
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id of the request that the calling task works for.
pub fn current() -> Option<Trace> {
    CURRENT.try_with(|trace| *trace).ok()
}

/// Runs a future as work for the request `trace`.
pub fn scope<F: Future>(trace: Trace, future: F) -> impl Future<Output = F::Output> {
    // As an error, so that no filter takes the id from lines that are written.
    CURRENT.scope(trace, future).instrument(tracing::error_span!("request", %trace))
}

/// A future that works, wherever it is run, for the request for which the caller works now, if it does for one.
pub fn carry<F: Future>(future: F) -> impl Future<Output = F::Output> {
    within(current(), future)
}

/// [`scope`], if there is an id.
pub async fn within<F: Future>(trace: Option<Trace>, future: F) -> F::Output {
    match trace {
        Some(trace) => scope(trace, future).await,
        None => future.await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[test]
    fn an_id_comes_back_as_it_was_written_and_nothing_else_is_one() {
        let trace = Trace::random();
        assert_ne!(trace, Trace::random());
        assert_eq!(Trace::parse(&trace.to_string()), Some(trace));
        let long = format!("{trace}00");
        for text in ["", "00", &long, &long[..31], "zz345678901234567890123456789012"] {
            assert_eq!(Trace::parse(text), None, "{text}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(Trace::of(&headers), None);
        headers.insert(HEADER, trace.to_string().parse().unwrap());
        assert_eq!(Trace::of(&headers), Some(trace));
    }

    #[tokio::test]
    async fn a_task_works_for_the_request_only_if_it_is_told() {
        assert_eq!(current(), None);
        let trace = Trace::random();
        let within = scope(trace, async {
            let alone = tokio::spawn(async { current() }).await.unwrap();
            let carried = tokio::spawn(carry(async { current() })).await.unwrap();
            (current(), alone, carried)
        });
        assert_eq!(within.await, (Some(trace), None, Some(trace)));
        assert_eq!(carry(async { current() }).await, None);
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_are_logged_inside_have_the_id() {
        let written = Written::default();
        let lines = written.clone();
        let logs = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false);
        let logs = logs.with_writer(move || lines.clone()).finish();
        let trace = Trace::random();
        tracing::subscriber::with_default(logs, || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(scope(trace, async { tracing::warn!("inside") }));
            tracing::warn!("outside");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let of = |said: &str| text.lines().find(|line| line.contains(said)).unwrap().to_owned();
        assert!(of("inside").contains(&format!("trace={trace}")), "{text}");
        assert!(!of("outside").contains("trace="), "{text}");
    }
}
