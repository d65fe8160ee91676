//! What keeping tells an operator.

use super::inventory::InventoryReport;
use super::plan::Waits;
use super::rows::RowsReport;
use super::watch::Seen;
use codec::id::{DriveId, StripeId};
use std::collections::BTreeMap;
use storage_node::keep::ScrubStatus;

/// What repair has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Items that ended well.
    pub stripes: u64,
    /// Shards rebuilt.
    pub shards: u64,
    /// Shards that were good after all when they were looked at again.
    pub found_good: u64,
    /// Bytes read for it.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Shards that went to where they fail by themselves.
    pub apart: u64,
    /// Items that came to nothing, and were planned again.
    pub failed: u64,
}

/// How far the walk over all stripes is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkStatus {
    /// It is under way: what is counted is not all yet.
    pub running: bool,
    /// Stripes that the last whole walk met.
    pub stripes: u64,
    /// A whole walk has ended since the start, and since a drive last went, came back or changed: what is counted is all.
    pub whole: bool,
}

/// The state of keeping. Times are milliseconds since the Unix epoch on the keeper's clock, which runs evenly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeepStatus {
    /// When this was put together; 0 before the first round.
    pub now_ms: u64,
    /// An operator has paused repair.
    pub repair_paused: bool,
    /// Stripes that are not whole, by how many more shards they can lose. Negative: can't be read now.
    pub wounded: BTreeMap<i32, u64>,
    /// Of these, how many nothing can be done about for now.
    pub waiting: u64,
    /// What they wait for, and until when.
    pub waits: Vec<Waits>,
    /// Of these, how many are beyond repair unless drives come back.
    pub beyond: u64,
    /// More stripes are wounded than are tracked.
    pub overflowed: bool,
    /// How long the stripe that has been short of a shard for longest has been so. The most important figure there is.
    pub oldest_repair_ms: Option<u64>,
    /// The walk over all stripes.
    pub walk: WalkStatus,
    /// What repair did.
    pub totals: Totals,
    /// Stripes that have more shards on one node, in one rack, at one site than they may lose, though there are several: they were
    /// written when there was no better place. As the last whole walk found them, less those that were brought apart since.
    pub crowded: [u64; 3],
    /// Stripes that are to be made narrower, because no spare drive is left.
    pub narrower: u64,
    /// The drives.
    pub drives: BTreeMap<DriveId, Seen>,
    /// The last inventory that ended.
    pub inventory: Option<InventoryReport>,
    /// The last check of the rows that ended, and when.
    pub rows: Option<(u64, RowsReport)>,
    /// Scrub, drive by drive.
    pub scrub: Vec<ScrubStatus>,
    /// What somebody should look at.
    pub alarms: Vec<Alarm>,
}

/// Something that somebody should look at, the worst first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Alarm {
    /// Stripes can't be read.
    #[error("{stripes} stripes are short of too many shards to be read; nothing of them is freed")]
    Beyond {
        /// How many.
        stripes: u64,
    },
    /// Shards that were decoded from verified sources are not what the descriptor promises.
    #[error("stripe {0} decodes to other bytes than its descriptor names")]
    Inconsistent(StripeId),
    /// No room outside the reserve to make stripes narrower.
    #[error("{stripes} stripes have no spare drive and no room outside the reserve: add a drive")]
    NoRoom {
        /// How many.
        stripes: u64,
    },
    /// Too few drives.
    #[error("{stripes} stripes have no spare drive, and too few are left for narrower ones: add drives")]
    TooFewDrives {
        /// How many.
        stripes: u64,
    },
    /// Waiting for a replacement.
    #[error("{stripes} stripes wait for a replacement of a lost drive: no spare one is left")]
    NoSpare {
        /// How many.
        stripes: u64,
    },
    /// Journal copies that could not be mended.
    #[error("damaged journal entries on drive {drive} are not mended: {reason}")]
    Journal {
        /// The drive.
        drive: DriveId,
        /// Why.
        reason: String,
    },
    /// A drive that does not answer beyond the grace.
    #[error("drive {drive} has not answered for {for_ms} ms")]
    Silent {
        /// The drive.
        drive: DriveId,
        /// For how long.
        for_ms: u64,
    },
    /// The index's store is damaged: what can't be read is refused, and never guessed.
    #[error("the index is damaged: restart the server, and it is rebuilt from the drives ({reason})")]
    Index {
        /// The store's own words.
        reason: String,
    },
    /// Rows of the index are wrong.
    #[error("{faults} rows of the index are wrong: rebuild it")]
    Rows {
        /// How many.
        faults: u64,
    },
    /// More stripes are wounded than can be tracked.
    #[error("more stripes are wounded than are tracked; the rest follows when there is room")]
    Overflowed,
}
