//! What the tests of keeping share.

use codec::id::DriveId;
use storage_node::client::{DriveHealth, DriveStatus, Labels};

/// A healthy drive with room.
pub fn drive_status() -> DriveStatus {
    DriveStatus {
        id: DriveId([0; 16]),
        node: 0,
        labels: Labels::default(),
        path: String::new(),
        health: DriveHealth::Healthy,
        total: 1 << 40,
        free: 1 << 40,
        filesystem_id: 0,
        reserve: 0,
        data_segments: 0,
        journal_segments: 0,
        damaged: 0,
        p99_ms: None,
        errors: 0,
        opened: 1,
        unanswered_ms: 0,
    }
}
