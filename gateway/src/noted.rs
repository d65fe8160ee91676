//! What the log has been told already: a client that repeats a request every few seconds must not fill it.

use crate::error::GetError;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After so long a thing is news again.
const FRESH: Duration = Duration::from_secs(600);
/// The most things that are remembered. When so many are in trouble at once, one more line says nothing new.
const MOST: usize = 1024;

/// Things that were told lately.
#[derive(Debug, Default)]
pub struct Noted {
    told: Mutex<HashMap<String, Instant>>,
}

impl Noted {
    /// Whether `what` has not been told lately. From now on it has.
    pub fn is_news(&self, what: &str) -> bool {
        self.is_news_at(what, Instant::now())
    }

    fn is_news_at(&self, what: &str, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < FRESH;
        if told.get(what).is_some_and(fresh) {
            return false;
        }
        if told.len() >= MOST {
            told.retain(|_, at| fresh(at));
        }
        told.len() < MOST && told.insert(what.to_owned(), now).is_none_or(|before| !fresh(&before))
    }
}

/// Tells whoever operates this of an object that can't be read: once in a while, not at each of a client's tries.
#[derive(Debug)]
pub struct ReadAlarm {
    noted: Arc<Noted>,
    bucket: String,
    key: String,
}

impl ReadAlarm {
    /// For a key of the bucket of this name.
    pub fn new(noted: &Arc<Noted>, bucket: &str, key: &str) -> ReadAlarm {
        ReadAlarm { noted: Arc::clone(noted), bucket: bucket.to_owned(), key: key.to_owned() }
    }

    /// Logs a read that ended after its first byte: its client can't be told why.
    pub fn broke_off(&self, error: &GetError) {
        if let GetError::Unavailable(reason) = error {
            tracing::warn!(reason, bucket = self.bucket, key = self.key, "a read broke off");
        }
        self.raise(error);
    }

    /// Logs the failed read, if it says something about the object and is news.
    pub fn raise(&self, error: &GetError) {
        let (bucket, key) = (&self.bucket, &self.key);
        match error {
            // That its key is not there says nothing of the object.
            GetError::Range { .. } | GetError::Busy | GetError::Unavailable(_) => {}
            GetError::Key(_) | GetError::Kms { .. } => {}
            GetError::Unreachable(_) | GetError::Damaged { .. } | GetError::Manifest(_) => {
                if self.noted.is_news(&format!("{bucket}/{key}")) {
                    tracing::error!(%error, bucket, key, "an object can't be read (told once in ten minutes)");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_once_in_a_while() {
        let (noted, now) = (Noted::default(), Instant::now());
        assert!(noted.is_news_at("a", now) && noted.is_news_at("b", now));
        assert!(!noted.is_news_at("a", now + FRESH / 2));
        assert!(noted.is_news_at("a", now + FRESH));
        let many = (0..2 * MOST).filter(|n| noted.is_news_at(&n.to_string(), now + FRESH)).count();
        assert!(many < MOST && noted.is_news_at("c", now + 2 * FRESH));
    }
}
