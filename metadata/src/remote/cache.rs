//! What was asked for a moment ago.
//!
//! Invariant: no more than so many, however many keys are asked for, and nothing for longer than it may be believed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Values by key.
pub(super) struct Cache<K, V> {
    most: usize,
    /// How long a value is believed; `None`: it never changes.
    life: Option<Duration>,
    values: Mutex<Values<K, V>>,
}

struct Values<K, V> {
    known: HashMap<K, (Instant, V)>,
    /// What was asked for before this is not believed.
    since: Option<Instant>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    pub fn new(most: usize, life: Option<Duration>) -> Cache<K, V> {
        Cache { most, life, values: Mutex::new(Values { known: HashMap::new(), since: None }) }
    }

    fn values(&self) -> MutexGuard<'_, Values<K, V>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let values = self.values();
        let (asked, value) = values.known.get(key)?;
        self.life.is_none_or(|life| asked.elapsed() < life).then(|| value.clone())
    }

    /// Keeps a value that was asked for at `asked`.
    pub fn put(&self, key: K, value: V, asked: Instant) {
        let mut values = self.values();
        if values.since.is_some_and(|since| asked < since) {
            return;
        }
        let values = &mut values.known;
        if values.len() >= self.most {
            let life = self.life;
            values.retain(|_, (asked, _)| life.is_none_or(|life| asked.elapsed() < life));
            // All of them are in use: to begin anew costs each of them one question.
            if values.len() >= self.most {
                values.clear();
            }
        }
        values.insert(key, (asked, value));
    }

    /// Forgets everything, also what was asked for already and is not here yet.
    pub fn clear(&self) {
        let mut values = self.values();
        values.known.clear();
        values.since = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_so_many_and_for_no_longer_than_so_long() {
        let cache = Cache::new(3, Some(Duration::from_secs(1000)));
        for n in 0..10 {
            cache.put(n, n, Instant::now());
            assert!(cache.values().known.len() <= 3);
            assert_eq!(cache.get(&n), Some(n));
        }
        let before = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap_or_else(Instant::now);
        cache.put(9, 9, before(1001));
        assert_eq!(cache.get(&9), None);
        let lasting = Cache::new(3, None);
        lasting.put(1, 1, before(1001));
        assert_eq!(lasting.get(&1), Some(1));
        let asked = Instant::now();
        lasting.clear();
        assert_eq!(lasting.get(&1), None);
        lasting.put(1, 1, asked);
        assert_eq!(lasting.get(&1), None, "what was asked before was forgotten is not believed after");
        lasting.put(1, 1, Instant::now());
        assert_eq!(lasting.get(&1), Some(1));
    }
}
