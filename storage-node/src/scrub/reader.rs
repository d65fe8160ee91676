//! Reads a segment from its medium in order, a window at a time, and says of each block whether it could be read.
//!
//! A window with a sector that can't be read is read again block by block, and so is what follows it for a window's
//! length: each such sector may cost a drive seconds, so no more of them are asked for than is needed.

use super::Halt;
use super::check::Bad;
use crate::disk::{Access, Disk, DiskError, DiskFile};
use crate::keep::{FindingKind, Medium};
use crate::sabotage::Sabotage;
use crate::segment::BLOCK_BYTES;
use codec::block::BLOCK;
use rustix::io::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Blocks that are read at a time.
const WINDOW: u64 = 256;
/// Errors that speak of this process and its machine, and not of the medium.
const NOT_THE_MEDIUM: [Errno; 6] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::INTR, Errno::NOBUFS];

/// Waits for as long as a read of so many bytes, which took so long, asks for; or says that there is something else to do.
pub(crate) trait Pace {
    /// Called after each read.
    fn spend(&mut self, bytes: u64, took: Duration) -> Result<(), Halt>;
}

/// What there is of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BlockState {
    /// Bytes, right or wrong.
    Read,
    /// The file ends before it.
    Absent,
    /// The drive answers with an error.
    Unreadable,
}

/// A segment's file, read in order.
#[derive(Debug)]
pub(crate) struct MediumReader {
    file: Arc<dyn DiskFile>,
    /// How it is read.
    pub medium: Medium,
    /// No block from here on is read.
    pub end: u64,
    window: Vec<u8>,
    first: u64,
    states: Vec<BlockState>,
    /// Up to this block, blocks are read one by one.
    careful_until: u64,
}

impl MediumReader {
    /// Opens a file, or says what is wrong with it.
    pub fn open(disk: &dyn Disk, path: &str, end: u64) -> Result<Result<MediumReader, Bad>, Halt> {
        let opened = match disk.sabotage().is(Sabotage::ScrubMedium) {
            false => disk.open_medium(path),
            true => disk.open(path, Access::Read).map(|file| (file, Medium::Dropped)),
        };
        let (file, medium) = match opened {
            Ok(opened) => opened,
            Err(DiskError::NotFound { .. }) => {
                return Ok(Err(Bad { kind: FindingKind::Missing, detail: format!("{path} is gone") }));
            }
            Err(error) if is_medium_error(&error) => {
                return Ok(Err(Bad { kind: FindingKind::Unreadable, detail: error.to_string() }));
            }
            Err(error) => return Err(error.into()),
        };
        let (window, states) = (Vec::new(), Vec::new());
        Ok(Ok(MediumReader { file, medium, end, window, first: 0, states, careful_until: 0 }))
    }

    /// The blocks from `number` on that are there without another read of the drive, at most `count` and at least one,
    /// all of one state.
    pub fn run(&mut self, number: u64, count: u64, pace: &mut dyn Pace) -> Result<(&[u8], BlockState), Halt> {
        if number < self.first || number >= self.first + self.states.len() as u64 {
            self.fetch(number, pace)?;
        }
        let at = (number - self.first) as usize;
        let state = self.states.get(at).copied().unwrap_or(BlockState::Absent);
        let most = usize::try_from(count.max(1)).unwrap_or(usize::MAX);
        let same = self.states[at..].iter().take(most).take_while(|s| **s == state).count();
        let run = self.window.get(at * BLOCK..(at + same) * BLOCK).unwrap_or_default();
        Ok((run, state))
    }

    /// One block.
    pub fn block(&mut self, number: u64, pace: &mut dyn Pace) -> Result<(&[u8], BlockState), Halt> {
        self.run(number, 1, pace)
    }

    /// One block as it is now, whatever was read before.
    pub fn block_anew(&mut self, number: u64, pace: &mut dyn Pace) -> Result<(&[u8], BlockState), Halt> {
        self.states.clear();
        self.careful_until = self.careful_until.max(number + 1);
        self.run(number, 1, pace)
    }

    fn fetch(&mut self, number: u64, pace: &mut dyn Pace) -> Result<(), Halt> {
        let wanted = if number < self.careful_until { 1 } else { WINDOW.min(self.end.saturating_sub(number)).max(1) };
        let began = Instant::now();
        let state = match self.read(number, wanted) {
            Err(_) if wanted > 1 => {
                self.careful_until = number + wanted;
                self.read(number, 1)
            }
            other => other,
        };
        let took = began.elapsed();
        match state {
            Ok(()) => {}
            Err(error) if is_medium_error(&error) => {
                self.window = vec![0; BLOCK];
                self.states = vec![BlockState::Unreadable];
            }
            Err(error) => return Err(error.into()),
        }
        self.first = number;
        pace.spend(self.states.len() as u64 * BLOCK_BYTES, took)
    }

    fn read(&mut self, number: u64, count: u64) -> Result<(), DiskError> {
        self.states.clear();
        self.window.resize((count * BLOCK_BYTES) as usize, 0);
        let mut filled = 0;
        while filled < self.window.len() {
            match self.file.read_at(&mut self.window[filled..], number * BLOCK_BYTES + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        let whole = filled / BLOCK;
        let state = |i| if i < whole { BlockState::Read } else { BlockState::Absent };
        self.states.extend((0..count as usize).map(state));
        Ok(())
    }
}

fn is_medium_error(error: &DiskError) -> bool {
    matches!(error, DiskError::Io { errno, .. } if !NOT_THE_MEDIUM.contains(errno))
}
