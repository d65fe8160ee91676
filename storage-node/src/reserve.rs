//! The reserve: space that client frames never get (R14).
//!
//! It is a file, `reserve`, that is physically allocated, so that nobody else on the file system can take the space
//! either. When the journal, the ledger or a repair needs room and there is none, the file is shortened by as much.
//! Later, when there is room again, it is filled up. While it is short, client writes are refused as long as the free
//! space would not fill it up: so the reserve never comes back to them by way of a detour.

use crate::client::Reserve;
use crate::disk::{Access, DiskError, DiskFile};
use crate::open::OpenDrive;
use crate::sabotage::Sabotage;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The name of the file, at the root of the drive.
pub(crate) const RESERVE_FILE: &str = "reserve";
/// Shortened and filled up in pieces of at least this many bytes.
const PIECE: u64 = 1 << 20;

/// One part in so many of the reserve is left free beside it: the index, which no reserve file can be given up for in
/// time, is often on the same file system.
const INDEX_PART: u64 = 8;

/// A drive's reserve.
pub(crate) struct ReserveFile {
    wanted: u64,
    file: Option<Arc<dyn DiskFile>>,
}

impl ReserveFile {
    pub fn new(wanted: u64) -> ReserveFile {
        ReserveFile { wanted, file: None }
    }

    /// Opens or creates the file and fills it up as far as there is room.
    pub fn open(&mut self, drive: &OpenDrive) -> Result<(), DiskError> {
        drive.reserve_wanted.store(self.wanted, Ordering::Relaxed);
        let file = match drive.disk.open(RESERVE_FILE, Access::ReadWrite) {
            Err(DiskError::NotFound { .. }) if self.wanted == 0 => return Ok(()),
            Err(DiskError::NotFound { .. }) => drive.disk.create(RESERVE_FILE)?,
            other => other?,
        };
        let len = file.len()?;
        if len > self.wanted {
            file.truncate(self.wanted)?;
        }
        drive.reserve_left.store(len.min(self.wanted), Ordering::Relaxed);
        self.file = Some(file);
        self.fill(drive);
        Ok(())
    }

    /// Fills the reserve up with what is free. Not finding room is no error: clients are refused until it is full.
    pub fn fill(&mut self, drive: &OpenDrive) {
        let (Some(file), missing) = (&self.file, drive.reserve_missing()) else { return };
        let Ok(space) = drive.disk.space() else { return };
        let len = missing.min(space.free.saturating_sub(self.wanted / INDEX_PART));
        if len == 0 {
            return;
        }
        let left = drive.reserve_left.load(Ordering::Relaxed);
        match file.preallocate(left, len) {
            Ok(()) => drive.reserve_left.store(left + len, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, "the reserve could not be filled up");
                // A preallocation that ran out of space keeps what it got: all there was.
                let _kept = file.truncate(left);
            }
        }
    }

    /// Gives up at least `len` bytes of the reserve, or all that is left; `false` when nothing was left.
    fn release(&self, drive: &OpenDrive, len: u64) -> Result<bool, DiskError> {
        let left = drive.reserve_left.load(Ordering::Relaxed);
        let Some(file) = self.file.as_ref().filter(|_| left > 0) else { return Ok(false) };
        let rest = left.saturating_sub(len.max(PIECE));
        file.truncate(rest)?;
        drive.reserve_left.store(rest, Ordering::Relaxed);
        Ok(true)
    }

    /// Gives up a piece of the reserve for something small of metadata's; `false` when nothing was left.
    pub fn give_up(&self, drive: &OpenDrive) -> Result<bool, DiskError> {
        self.release(drive, PIECE)
    }

    /// Preallocates for a segment, from the reserve if the writer may.
    pub fn preallocate(
        &self,
        drive: &OpenDrive,
        file: &dyn DiskFile,
        (offset, len): (u64, u64),
        who: Reserve,
    ) -> Result<(), DiskError> {
        if who == Reserve::Client && !drive.disk.sabotage().is(Sabotage::Reserve) {
            let free = drive.disk.space()?.free;
            if free < len.saturating_add(drive.reserve_missing()).saturating_add(self.wanted / INDEX_PART) {
                let path = drive.disk.path_hint();
                return Err(DiskError::Full { op: crate::disk::DiskOp::Preallocate, path });
            }
        }
        let may_release = who == Reserve::Metadata || drive.disk.sabotage().is(Sabotage::Reserve);
        loop {
            match file.preallocate(offset, len) {
                Err(DiskError::Full { .. }) if may_release && self.release(drive, len)? => {}
                other => return other,
            }
        }
    }
}
