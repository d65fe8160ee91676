//! The reserve: space that client frames never get (R14).
//!
//! It is a file, `reserve`, that is physically allocated, so that nobody else on the file system can take the space
//! either. When the journal, the ledger or a repair needs room and there is none, the file is shortened by as much.
//! Later, when there is room again, it is filled up. While it is short, client writes are refused as long as the free
//! space would not fill it up: so the reserve never comes back to them by way of a detour.
//!
//! Drives that share a file system share what is free on it, so what is missing is counted for all of them together
//! ([`Tally`]): space that the journal took from one drive's reserve must not go to clients by way of another drive.

use crate::client::Reserve;
use crate::disk::{Access, DiskError, DiskFile};
use crate::open::OpenDrive;
use crate::sabotage::Sabotage;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The name of the file, at the root of the drive.
pub(crate) const RESERVE_FILE: &str = "reserve";
/// Shortened and filled up in pieces of at least this many bytes.
const PIECE: u64 = 1 << 20;

/// One part in so many of the reserve is left free beside it: the index, which no reserve file can be given up for in
/// time, is often on the same file system.
const INDEX_PART: u64 = 8;

/// Of five parts of the reserve repair has two, the journal and the index one, and restriping the other two: it leaves as
/// many of them as this. Without the limit, rewriting half-dead stripes on a full cluster would take what repair needs to
/// save what is alive; without its part, such a cluster could never gather its holes into free space.
const NOT_FOR_RESTRIPE: (u64, u64) = (3, 5);

/// The reserves of all drives on one file system.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    wanted: AtomicU64,
    left: AtomicU64,
}

impl Tally {
    fn missing(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed).saturating_sub(self.left.load(Ordering::Relaxed))
    }

    /// What is kept free for the index.
    fn index_room(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed) / INDEX_PART
    }

    /// Bytes beyond which `who` takes nothing, of free space and reserve together.
    fn floor(&self, who: Reserve) -> u64 {
        let wanted = self.wanted.load(Ordering::Relaxed);
        match who {
            Reserve::Client => wanted.saturating_add(self.index_room()),
            Reserve::Restripe => wanted / NOT_FOR_RESTRIPE.1 * NOT_FOR_RESTRIPE.0 + self.index_room(),
            Reserve::Metadata => 0,
        }
    }
}

/// One drive's part of the [`Tally`] of its file system; taken out again when the drive is closed.
#[derive(Debug)]
pub(crate) struct ReserveShare {
    tally: Arc<Tally>,
    wanted: AtomicU64,
    left: AtomicU64,
}

impl ReserveShare {
    pub fn new(tally: Arc<Tally>) -> ReserveShare {
        ReserveShare { tally, wanted: AtomicU64::new(0), left: AtomicU64::new(0) }
    }

    /// Bytes of this drive's reserve that are physically allocated.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Bytes of this drive's reserve that are missing.
    fn own_missing(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed).saturating_sub(self.left())
    }

    /// Bytes that are missing in all reserves of the file system.
    pub fn missing(&self) -> u64 {
        self.tally.missing()
    }

    // Only the drive's thread changes the two, so the difference can't be counted twice.
    fn set_wanted(&self, wanted: u64) {
        let old = self.wanted.swap(wanted, Ordering::Relaxed);
        self.tally.wanted.fetch_add(wanted, Ordering::Relaxed);
        self.tally.wanted.fetch_sub(old, Ordering::Relaxed);
    }

    fn set_left(&self, left: u64) {
        let old = self.left.swap(left, Ordering::Relaxed);
        self.tally.left.fetch_add(left, Ordering::Relaxed);
        self.tally.left.fetch_sub(old, Ordering::Relaxed);
    }
}

impl Drop for ReserveShare {
    fn drop(&mut self) {
        self.set_wanted(0);
        self.set_left(0);
    }
}

/// A drive's reserve.
pub(crate) struct ReserveFile {
    /// In bytes; `None`: as much as there is.
    wanted: Option<u64>,
    file: Option<Arc<dyn DiskFile>>,
}

impl ReserveFile {
    pub fn new(wanted: Option<u64>) -> ReserveFile {
        ReserveFile { wanted, file: None }
    }

    /// Opens or creates the file and fills it up as far as there is room.
    pub fn open(&mut self, drive: &OpenDrive) -> Result<(), DiskError> {
        // Before anything can fail: what is missing counts from here on.
        drive.reserve.set_wanted(self.wanted.unwrap_or(0));
        let file = match drive.disk.open(RESERVE_FILE, Access::ReadWrite) {
            Err(DiskError::NotFound { .. }) if self.wanted.unwrap_or(0) == 0 => return Ok(()),
            Err(DiskError::NotFound { .. }) => drive.disk.create(RESERVE_FILE)?,
            other => other?,
        };
        let len = file.len()?;
        let wanted = self.wanted.unwrap_or(len);
        drive.reserve.set_wanted(wanted);
        if len > wanted {
            file.truncate(wanted)?;
        }
        drive.reserve.set_left(len.min(wanted));
        self.file = Some(file);
        self.fill(drive);
        Ok(())
    }

    /// Fills the reserve up with what is free. Not finding room is no error: clients are refused until it is full.
    pub fn fill(&mut self, drive: &OpenDrive) {
        let (Some(file), missing) = (&self.file, drive.reserve.own_missing()) else { return };
        let Ok(space) = drive.disk.space() else { return };
        let len = missing.min(space.free.saturating_sub(drive.reserve.tally.index_room()));
        if len == 0 {
            return;
        }
        let left = drive.reserve.left();
        match file.preallocate(left, len) {
            Ok(()) => drive.reserve.set_left(left + len),
            Err(error) => {
                tracing::warn!(%error, "the reserve could not be filled up");
                // A preallocation that ran out of space keeps what it got: all there was.
                let _kept = file.truncate(left);
            }
        }
    }

    /// Gives up at least `len` bytes of the reserve, or all that is left; `false` when nothing was left.
    fn release(&self, drive: &OpenDrive, len: u64) -> Result<bool, DiskError> {
        let left = drive.reserve.left();
        let Some(file) = self.file.as_ref().filter(|_| left > 0) else { return Ok(false) };
        let rest = left.saturating_sub(len.max(PIECE));
        file.truncate(rest)?;
        drive.reserve.set_left(rest);
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
        let (tally, unguarded) = (&drive.reserve.tally, drive.disk.sabotage().is(Sabotage::Reserve));
        if who != Reserve::Metadata && !unguarded {
            let there = drive.disk.space()?.free.saturating_add(tally.left.load(Ordering::Relaxed));
            if there < len.saturating_add(tally.floor(who)) {
                let path = drive.disk.path_hint();
                return Err(DiskError::Full { op: crate::disk::DiskOp::Preallocate, path });
            }
        }
        let may_release = who != Reserve::Client || unguarded;
        loop {
            match file.preallocate(offset, len) {
                Err(DiskError::Full { .. }) if may_release && self.release(drive, len)? => {}
                other => return other,
            }
        }
    }
}
