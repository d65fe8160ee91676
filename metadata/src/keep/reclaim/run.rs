//! When rounds begin, and what does not wait for one.

use super::{Pace, ReclaimError, ReclaimReport, Reclaimer, Restriper, restripe};
use crate::keep::keeper::Keeper;
use crate::keep::restripe::Restriped;
use codec::id::StripeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::Reserve;
use tokio::time::Instant;

/// How often the keeper is asked for stripes that find no drive.
const NARROWER_EVERY: Duration = Duration::from_secs(60);
/// One that was rewritten, or could not be, is looked at again after this.
const NARROWER_AGAIN: Duration = Duration::from_secs(3600);
/// The first round after a start begins after this, and one after a round that ended early.
const FIRST_AFTER: Duration = Duration::from_secs(15 * 60);
/// When the day's allowance is used up: by then a twenty-fourth of it is there again.
const ALLOWANCE_AFTER: Duration = Duration::from_secs(3600);
/// Between two rounds that follow each other: a quarter of what a round takes, within these bounds, so that the index has some
/// rest from being walked over.
const BETWEEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// How long after a round the next one begins.
fn pause(round: &Result<ReclaimReport, ReclaimError>, took: Duration, every: Duration) -> Duration {
    match round {
        Err(_) => every.min(FIRST_AFTER),
        Ok(report) if report.allowance_used => every.min(ALLOWANCE_AFTER),
        Ok(report) if report.at_once => every.min((took / 4).clamp(BETWEEN.0, BETWEEN.1)),
        Ok(_) => every,
    }
}

impl Reclaimer {
    /// Rounds, one after the other, until the task is ended.
    pub async fn run(self: Arc<Self>) {
        let Some(every) = self.parts.config.every else { return };
        // The first round waits too, since a start has better things to do, but not for as long: a machine that is off every
        // night would never come to it.
        let mut wait = every.min(FIRST_AFTER);
        loop {
            // Woken early by a release, or not: the round is the same.
            let _ = tokio::time::timeout(wait, self.wake.notified()).await;
            let began = Instant::now();
            let round = self.round().await;
            wait = pause(&round, began.elapsed(), every);
            match round {
                Ok(report) if report == ReclaimReport::default() => {}
                Ok(report) => tracing::info!(?report, "reclaim"),
                Err(error) => {
                    tracing::warn!(%error, "reclaim ended early; nothing that it was not sure of was deleted")
                }
            }
        }
    }

    /// Rewrites these stripes, each for itself, as wide as the drives of now allow: for those that have lost shards and find no
    /// drive for them. Nothing is deleted by it, so it works while reclaim is held.
    pub async fn rewrite(&self, stripes: &[StripeId]) -> Result<Restriped, ReclaimError> {
        // Not behind a round, which may take hours: these are short of shards.
        let _one_at_a_time = self.narrower.lock().await;
        let pace = Pace::new(0);
        let restriper = self.restriper(&pace);
        let mut done = Restriped::default();
        for id in stripes {
            let group = restripe::Group { stripes: vec![*id], gains: true };
            done.add(&restriper.rewrite(&group).await?);
        }
        Ok(done)
    }

    /// Rewrites stripes at this pace.
    pub(crate) fn restriper<'a>(&'a self, pace: &'a Pace) -> Restriper<'a> {
        let (shared, writer, reserve) = (&*self.parts.shared, &*self.parts.stripes, Reserve::Restripe);
        Restriper { reclaimer: self, shared, writer, pace, recompress: None, wide: None, reserve }
    }

    /// Rewrites what the keeper finds no drive for, as soon as it says so: those stripes are short of shards.
    pub async fn run_narrower(self: Arc<Self>, keeper: Arc<Keeper>) {
        if self.parts.config.every.is_none() {
            return;
        }
        // They stay in the keeper's list until they are dropped, which takes until the next round.
        let mut tried: HashMap<StripeId, tokio::time::Instant> = HashMap::new();
        loop {
            tokio::time::sleep(NARROWER_EVERY).await;
            tried.retain(|_, at| at.elapsed() < NARROWER_AGAIN);
            let stripes: Vec<_> = keeper.narrower().into_iter().filter(|id| !tried.contains_key(id)).collect();
            if stripes.is_empty() {
                continue;
            }
            tried.extend(stripes.iter().map(|id| (*id, tokio::time::Instant::now())));
            match self.rewrite(&stripes).await {
                Ok(done) => {
                    tracing::info!(
                        stripes = stripes.len(),
                        moved = done.moved,
                        "stripes without a spare drive were rewritten"
                    )
                }
                Err(error) => tracing::warn!(%error, "stripes without a spare drive were not rewritten"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_came_to_a_limit_is_followed_at_once() {
        let (minute, every) = (Duration::from_secs(60), Duration::from_secs(6 * 3600));
        let report =
            |at_once, allowance_used| Ok(ReclaimReport { at_once, allowance_used, ..ReclaimReport::default() });
        assert_eq!(pause(&report(false, false), minute, every), every);
        assert_eq!(pause(&report(true, false), minute, every), minute / 4);
        assert_eq!(pause(&report(true, true), minute, every), ALLOWANCE_AFTER);
        assert_eq!(pause(&Err(ReclaimError::Stopping), minute, every), FIRST_AFTER);
        assert_eq!(pause(&report(true, false), minute, BETWEEN.0), BETWEEN.0);
    }
}
