//! How much of a drive's time repair may take. Pure: the time is an argument.
//!
//! Invariants
//! * What repair asks of a drive, in bytes at the drive's rate, never exceeds the share of the most urgent item that it was
//!   asked for, over any time longer than [`AHEAD`] items.
//! * A drive takes part in at most `per_drive` orders at a time, whatever the shares.

use codec::id::DriveId;
use std::collections::HashMap;

/// How many items of a drive's work may be begun before their time: an order needs a dozen drives at once, and would find
/// hardly ever all of them idle at the same moment.
const AHEAD: u64 = 4;

/// The drives' time.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Bytes per second that a drive gives when nobody else asks; 0: no limit.
    rate: u64,
    /// Most orders that a drive takes part in at a time.
    per_drive: u32,
    drives: HashMap<DriveId, Lane>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    running: u32,
    /// Until when the drive's share is used up, in milliseconds.
    used_ms: u64,
}

impl Lanes {
    /// Idle drives of this rate.
    pub fn new(rate: u64, per_drive: u32) -> Lanes {
        Lanes { rate, per_drive: per_drive.max(1), drives: HashMap::new() }
    }

    /// How long a drive is busy with this many bytes, stretched so that it is only `share` percent of its time.
    fn stretched_ms(&self, bytes: u64, share: u8) -> u64 {
        let busy = u128::from(bytes) * 1000 * 100;
        let per = u128::from(self.rate) * u128::from(share.clamp(1, 100));
        if per == 0 { 0 } else { u64::try_from(busy.div_ceil(per)).unwrap_or(u64::MAX) }
    }

    /// Takes the drives for an item, if all of them have time for it now; otherwise changes nothing.
    pub fn start(&mut self, work: &[(DriveId, u64)], share: u8, now_ms: u64) -> bool {
        let has_time = |(drive, bytes): &(DriveId, u64)| {
            let lane = self.drives.get(drive).copied().unwrap_or_default();
            let ahead = AHEAD.saturating_mul(self.stretched_ms(*bytes, share));
            lane.running < self.per_drive && lane.used_ms <= now_ms.saturating_add(ahead)
        };
        if !work.iter().all(has_time) {
            return false;
        }
        for (drive, bytes) in work {
            let takes = self.stretched_ms(*bytes, share);
            let lane = self.drives.entry(*drive).or_default();
            lane.running += 1;
            lane.used_ms = lane.used_ms.max(now_ms).saturating_add(takes);
        }
        true
    }

    /// Gives the drives of an item back.
    pub fn finish(&mut self, work: &[(DriveId, u64)]) {
        for (drive, _) in work {
            if let Some(lane) = self.drives.get_mut(drive) {
                lane.running = lane.running.saturating_sub(1);
            }
        }
    }

    /// Forgets drives that are idle and whose share is not used up.
    pub fn forget_idle(&mut self, now_ms: u64) {
        self.drives.retain(|_, lane| lane.running > 0 || lane.used_ms > now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn drive(n: u8) -> DriveId {
        DriveId([n; 16])
    }

    #[test]
    fn a_drive_gives_its_share_and_no_more() {
        for share in [10, 40, 70] {
            let mut lanes = Lanes::new(100 * MB, 4);
            let work = [(drive(1), 10 * MB), (drive(2), 10 * MB)];
            let started = (0..100_000u64)
                .filter(|now| {
                    let started = lanes.start(&work, share, *now);
                    if started {
                        lanes.finish(&work);
                    }
                    started
                })
                .count() as u64;
            // 100 seconds at 10 items a second, of which the share.
            let fair = 10 * u64::from(share);
            assert!((fair - 10..=fair + AHEAD + 1).contains(&started), "{started} at {share} %");
        }
    }

    #[test]
    fn an_item_takes_all_its_drives_or_none() {
        let mut lanes = Lanes::new(0, 1);
        assert!(lanes.start(&[(drive(1), 1), (drive(2), 1)], 70, 0));
        assert!(!lanes.start(&[(drive(2), 1), (drive(3), 1)], 70, 0));
        assert!(lanes.start(&[(drive(3), 1)], 70, 0), "drive 3 was not taken by the item that could not start");
        lanes.finish(&[(drive(1), 1), (drive(2), 1)]);
        assert!(lanes.start(&[(drive(2), 1)], 70, 0));
        lanes.forget_idle(1);
        assert_eq!(lanes.drives.len(), 2);
    }
}
