//! What can be set of keeping.

use super::plan::Policy;
use std::time::Duration;

/// How the keeper works. Times are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepConfig {
    /// How often a round of repair begins; `None`: only when it is asked for, and so with the inventory and the rows.
    pub every: Option<Duration>,
    /// Whom repair waits for, and its share of the drives' time.
    pub repair: Policy,
    /// Bytes per second that a drive gives when nobody else asks it, of which repair takes its share; 0: no limit.
    pub drive_rate: u64,
    /// Orders that one drive takes part in at a time.
    pub per_drive: u32,
    /// Orders that are carried out at a time, for each fifty drives; each holds the shards that it makes in memory.
    pub orders: usize,
    /// A round begins no order after this time.
    pub round_ms: u64,
    /// Stripes that one round looks at, for each fifty drives, and so with the items of its plan.
    pub window: usize,
    /// Rows that one round walks over in search of stripes on drives that are lost, back or being emptied.
    pub walk_rows: usize,
    /// All stripes are walked over again after this time.
    pub walk_every_ms: u64,
    /// Shards of a drive that is back which are verified in one round.
    pub verify_shards: usize,
    /// The inventory is taken this long after the one before.
    pub inventory_every_ms: u64,
    /// The rows are checked this long after the last time.
    pub rows_every_ms: u64,
    /// The first inventory and the first check of the rows are made this long after the start.
    pub first_after_ms: u64,
    /// Rows that the inventory and the check of the rows look at between two pauses.
    pub pause_rows: usize,
    /// How long they pause.
    pub pause: Duration,
}

/// Drives that one measure of orders, items and window is meant for.
const SCALE_DRIVES: usize = 50;

impl KeepConfig {
    /// For a cluster of so many drives. Without it a thousand drives would wait for the eight orders that suit a dozen, and
    /// a plan would end before most of them had anything to do.
    pub fn for_drives(self, drives: usize) -> KeepConfig {
        let scale = (drives / SCALE_DRIVES).max(1);
        let repair = Policy { items: self.repair.items.saturating_mul(scale), ..self.repair };
        let (orders, window) = (self.orders.saturating_mul(scale), self.window.saturating_mul(scale));
        KeepConfig { repair, orders, window, ..self }
    }
}

const HOUR_MS: u64 = 3_600_000;

impl Default for KeepConfig {
    fn default() -> KeepConfig {
        KeepConfig {
            every: Some(Duration::from_secs(5)),
            repair: Policy { items: 200, ..Policy::default() },
            drive_rate: 100_000_000,
            per_drive: 4,
            orders: 8,
            round_ms: 10_000,
            window: 500,
            walk_rows: 100_000,
            walk_every_ms: HOUR_MS,
            verify_shards: 64,
            inventory_every_ms: 24 * HOUR_MS,
            rows_every_ms: 7 * 24 * HOUR_MS,
            first_after_ms: 600_000,
            pause_rows: 2048,
            pause: Duration::from_millis(20),
        }
    }
}
