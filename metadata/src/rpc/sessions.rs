//! Answers to who asks for a session: all gateways ask each second, and the same is true for all of them.
//!
//! A session is made at most a few times in a second, however many ask, and is sent to those that do not know it yet: with a thousand
//! drives it is a hundred kilobytes. What changes with every commit, and nothing else, is sent each time. It is older than without
//! that by [`LIFE`] at most, which is less than the pause of whoever asks.

use super::answer::Answer;
use super::message::SessionMessage;
use crate::index::IndexError;
use crate::service::Metadata;
use bytes::Bytes;
use prost::Message;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How long a session is answered with.
const LIFE: Duration = Duration::from_millis(200);
/// Bytes of the hash that a session is known by.
const MARK: usize = 16;

struct Made {
    /// Another service is over another index.
    of: Weak<Metadata>,
    at: Instant,
    whole: SessionMessage,
}

/// The session that was made last.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Option<Made>>);

impl Sessions {
    /// The answer to one who knows the session of this mark.
    pub(super) fn answer(&self, meta: &Arc<Metadata>, known: &[u8]) -> Result<Answer, IndexError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_young = |made: &&Made| std::ptr::eq(made.of.as_ptr(), Arc::as_ptr(meta)) && made.at.elapsed() < LIFE;
        if let Some(made) = last.as_ref().filter(is_young) {
            return Ok(Answer::done(&for_one(&made.whole, known)));
        }
        // Those who ask meanwhile wait for it, instead of making it, too.
        let (at, whole) = (Instant::now(), marked(meta.session()?.to_message()));
        let answer = Answer::done(&for_one(&whole, known));
        *last = Some(Made { of: Arc::downgrade(meta), at, whole });
        Ok(answer)
    }
}

/// The same, with the mark of all that does not change with every commit.
pub(super) fn marked(session: SessionMessage) -> SessionMessage {
    let steady = SessionMessage { applied: 0, sealed: 0, mark: Bytes::new(), ..session.clone() };
    let hash = blake3::hash(&steady.encode_to_vec());
    let mark = hash.as_bytes().get(..MARK).map(Bytes::copy_from_slice).unwrap_or_default();
    SessionMessage { mark, ..session }
}

/// What is sent to one who knows the session of this mark.
pub(super) fn for_one(whole: &SessionMessage, known: &[u8]) -> SessionMessage {
    if known.is_empty() || whole.mark != known {
        return whole.clone();
    }
    let SessionMessage { applied, sealed, ref mark, .. } = *whole;
    SessionMessage { applied, sealed, mark: mark.clone(), same: true, ..SessionMessage::default() }
}
