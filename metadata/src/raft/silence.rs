//! A leader that nobody answers falls silent, so that those who hear it elect another.
//!
//! A leader that is heard and hears nobody commits nothing, and its heartbeats keep the others from an election: there would be no
//! service until somebody repaired the network. Raft has no rule of its own against that. The silence is on the way out
//! (`gate.rs`), because not only heartbeats count as signs of life: entries that were not acknowledged are sent again and again.
//!
//! Invariants
//! * Only liveness rests on this: a leader that spoke on could commit no more than one that is silent.
//! * A silence begins not before a follower that heard nothing would stand for election, so that a leader which is cut off both ways
//!   loses nothing by it. It ends with the leadership, or after a time in which the others had their election: a leader that
//!   could not be replaced, because the others were down, must find them when they are back.

use super::Peer;
use super::member::Timings;
use openraft::{RaftMetrics, ServerState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// A silence lasts this often the longest time that a node hears of no leader before it stands: it waits for up to twice that, and
/// one that lacks entries may stand first and has to fail.
const ELECTIONS: u32 = 4;

/// This leader keeps silent.
#[derive(Debug, thiserror::Error)]
#[error("this node leads and keeps silent: no majority has answered it for the time of an election")]
pub(super) struct Silent;

/// Whether a member sends what a leader sends.
#[derive(Clone, Debug, Default)]
pub(super) struct Silence {
    kept: Arc<AtomicBool>,
}

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// It speaks, and its term and the last answer, as far as it leads.
    Speaking(Option<(u64, Instant)>),
    /// It is silent in this term until then.
    Silent(u64, Instant),
}

impl Silence {
    /// Nothing is to be sent.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    /// Watches a member until its Raft ends.
    pub(super) async fn keep(self, metrics: watch::Receiver<RaftMetrics<u64, Peer>>, timings: Timings) {
        let mut phase = Phase::Speaking(None);
        let mut timer = interval(timings.heartbeat);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while metrics.has_changed().is_ok() {
            timer.tick().await;
            let (term, leads, unanswered) = {
                let now = metrics.borrow();
                (now.current_term, now.state == ServerState::Leader, now.millis_since_quorum_ack)
            };
            let before = matches!(phase, Phase::Silent(..));
            phase = next(phase, leads.then_some(term), unanswered, Instant::now(), &timings);
            let silent = matches!(phase, Phase::Silent(..));
            if silent != before {
                self.kept.store(silent, Ordering::Release);
                if silent {
                    tracing::warn!(
                        term,
                        "no majority answers this leader; it is silent, so that another can be elected"
                    );
                } else {
                    tracing::info!(term, leads, "the silence of this metadata node is over");
                }
            }
        }
    }
}

/// The phase after `before`, of a node that leads in a term or does not, and that a majority answered so many milliseconds ago, if
/// ever.
fn next(before: Phase, leads: Option<u64>, unanswered: Option<u64>, now: Instant, timings: &Timings) -> Phase {
    let Some(term) = leads else { return Phase::Speaking(None) };
    let since = match before {
        Phase::Silent(of, until) if of == term && now < until => return before,
        Phase::Speaking(Some((of, since))) if of == term => since,
        Phase::Silent(..) | Phase::Speaking(_) => now,
    };
    let answered = unanswered.and_then(|ms| now.checked_sub(Duration::from_millis(ms)));
    let since = answered.map_or(since, |at| at.max(since));
    if now.duration_since(since) > timings.election_min + timings.election_max {
        return Phase::Silent(term, now + ELECTIONS * timings.election_max);
    }
    Phase::Speaking(Some((term, since)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Falls silent when nobody answers, speaks again in the end, and at once when it leads no more or anew.
    #[test]
    fn a_leader_that_nobody_answers_is_silent_for_a_while() {
        let timings = Timings {
            election_min: Duration::from_secs(1),
            election_max: Duration::from_secs(2),
            ..Timings::default()
        };
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let step = |phase, leads, unanswered, seconds| next(phase, leads, unanswered, at(seconds), &timings);

        let answered = step(Phase::Speaking(None), Some(7), Some(0), 0);
        assert_eq!(answered, Phase::Speaking(Some((7, at(0)))));
        let patient = step(answered, Some(7), Some(3_000), 3);
        assert_eq!(patient, Phase::Speaking(Some((7, at(0)))));
        let silent = step(patient, Some(7), Some(4_000), 4);
        assert_eq!(silent, Phase::Silent(7, at(12)));
        let silent = step(silent, Some(7), Some(11_000), 11);
        assert_eq!(silent, Phase::Silent(7, at(12)));
        let again = step(silent, Some(7), Some(12_000), 12);
        assert_eq!(again, Phase::Speaking(Some((7, at(12)))));
        assert_eq!(step(again, Some(7), Some(16_000), 16), Phase::Silent(7, at(24)));

        assert_eq!(step(Phase::Silent(7, at(12)), None, None, 5), Phase::Speaking(None));
        let anew = step(Phase::Silent(7, at(12)), Some(9), None, 5);
        assert_eq!(anew, Phase::Speaking(Some((9, at(5)))));
        assert_eq!(step(anew, Some(9), None, 9), Phase::Silent(9, at(17)));
    }
}
