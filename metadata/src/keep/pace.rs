//! Pacing what is done in nobody's hurry: so many bytes per second, counted from the beginning.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A rate that is kept on the average since it was made.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    began: Instant,
    spent: AtomicU64,
}

impl Pace {
    /// `rate` bytes per second; 0: no limit.
    pub fn new(rate: u64) -> Pace {
        Pace { rate, began: Instant::now(), spent: AtomicU64::new(0) }
    }

    /// Waits until `bytes` more are in time.
    pub async fn spend(&self, bytes: u64) {
        let spent = self.spent.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Some(ms) = spent.saturating_mul(1000).checked_div(self.rate) {
            tokio::time::sleep_until(self.began + Duration::from_millis(ms)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rate_is_kept_and_none_is_no_limit() {
        let (pace, began) = (Pace::new(1_000_000), Instant::now());
        for _ in 0..10 {
            pace.spend(20_000).await;
        }
        assert!(began.elapsed() >= Duration::from_millis(190));
        let began = Instant::now();
        Pace::new(0).spend(u64::MAX).await;
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
