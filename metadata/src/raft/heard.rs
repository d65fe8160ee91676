//! When each of the other metadata nodes last answered this one while it leads. An idle cluster writes nothing, so what a follower
//! lacks of the log tells nothing of one that is down; its answers to heartbeats do.
//!
//! Nothing rests on this but what operators are told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Numbers that are remembered: of more members than there are ever, those that were removed included.
const KEPT: usize = 64;

#[derive(Debug, Default)]
struct Answers {
    /// The term that this node leads in, and since when.
    leads: Option<(u64, Instant)>,
    last: BTreeMap<u64, Instant>,
}

/// The answers of the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<Mutex<Answers>>);

impl Heard {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has answered a call that only a leader makes, whatever it said.
    pub(super) fn answered(&self, node: u64) {
        self.answered_at(node, Instant::now());
    }

    fn answered_at(&self, node: u64, now: Instant) {
        let mut answers = self.answers();
        if answers.last.len() >= KEPT && !answers.last.contains_key(&node) {
            let oldest = answers.last.iter().min_by_key(|(_, at)| **at).map(|(node, _)| *node);
            oldest.map(|node| answers.last.remove(&node));
        }
        answers.last.insert(node, now);
    }

    /// This node leads in a term, or does not.
    pub(super) fn leads(&self, term: Option<u64>) {
        self.leads_at(term, Instant::now());
    }

    fn leads_at(&self, term: Option<u64>, now: Instant) {
        let mut answers = self.answers();
        if answers.leads.map(|(of, _)| of) != term {
            answers.leads = term.map(|term| (term, now));
        }
    }

    /// How long a node has given this leader no answer, counted from the beginning of its leadership at most: what it heard as
    /// an earlier leader says nothing, since another one was answered in between. `None`: this node does not lead.
    pub(super) fn silent(&self, node: u64) -> Option<Duration> {
        self.silent_at(node, Instant::now())
    }

    fn silent_at(&self, node: u64, now: Instant) -> Option<Duration> {
        let answers = self.answers();
        let (_, since) = answers.leads?;
        Some(now.duration_since(answers.last.get(&node).map_or(since, |at| since.max(*at))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_counted_from_the_last_answer_or_from_when_this_node_led() {
        let (heard, start) = (Heard::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let silent = |node, seconds| heard.silent_at(node, at(seconds)).map(|silent| silent.as_secs());
        heard.answered_at(2, at(0));
        assert_eq!(silent(2, 0), None, "who does not lead is not answered");
        heard.leads_at(Some(7), at(0));
        assert_eq!((silent(2, 5), silent(3, 5)), (Some(5), Some(5)));
        heard.answered_at(2, at(5));
        heard.leads_at(Some(7), at(5));
        assert_eq!((silent(2, 8), silent(3, 8)), (Some(3), Some(8)));
        heard.leads_at(None, at(8));
        heard.leads_at(Some(9), at(108));
        assert_eq!(silent(2, 109), Some(1), "another node was answered meanwhile");
        for node in 100..1000 {
            heard.answered_at(node, at(110));
        }
        assert_eq!(heard.answers().last.len(), KEPT);
    }
}
