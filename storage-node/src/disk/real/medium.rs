//! Files that are read past the page cache, for scrub.
//!
//! With `O_DIRECT` the kernel wants offset, length and address aligned to the sector of the drive; everything here is
//! aligned to [`ALIGNMENT`], which no drive exceeds. Where a file system takes the flag and then refuses the reads, or
//! does not take it at all, the pages of a range are dropped before it is read: clean pages go, and what scrub reads was
//! synced before. A page that somebody has locked or mapped stays, so that is as far as the system complies.

use std::num::NonZeroU64;

use rustix::fs::Advice;
use rustix::io::Errno;

use super::super::{DiskError, DiskFile, DiskOp};
use super::{RealFile, retry};

/// What offsets, lengths and addresses of direct reads are multiples of, in bytes.
const ALIGNMENT: usize = 4096;

/// Bytes at an aligned address.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Aligned {
        let bytes = vec![0; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Aligned { bytes, start, len }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Whether direct reads of a file work: some file systems take the flag and refuse the reads.
pub(super) fn reads(file: &RealFile) -> bool {
    let mut first = Aligned::new(ALIGNMENT);
    !matches!(retry(|| rustix::io::pread(&file.fd, first.get_mut(), 0)), Err(Errno::INVAL | Errno::OPNOTSUPP))
}

fn read_only(file: &RealFile, op: DiskOp) -> DiskError {
    file.error(op, Errno::BADF)
}

/// A file opened with `O_DIRECT`.
#[derive(Debug)]
pub(super) struct DirectFile(pub RealFile);

impl DirectFile {
    /// Reads into aligned memory from an aligned offset; returns how much there was.
    fn read_aligned(&self, out: &mut Aligned, offset: u64) -> Result<usize, DiskError> {
        let len = self.0.len()?;
        let mut filled = 0;
        while filled < out.len && offset + (filled as u64) < len {
            let into = &mut out.get_mut()[filled..];
            match retry(|| rustix::io::pread(&self.0.fd, &mut *into, offset + filled as u64)) {
                Ok(0) => break,
                // Behind a piece that is no whole sector there is only the end of the file.
                Ok(n) if n % 512 != 0 => return Ok(filled + n),
                Ok(n) => filled += n,
                Err(errno) => return Err(self.0.error(DiskOp::Read, errno)),
            }
        }
        Ok(filled)
    }
}

impl DiskFile for DirectFile {
    fn write_at(&self, _bytes: &[u8], _offset: u64) -> Result<(), DiskError> {
        Err(read_only(&self.0, DiskOp::Write))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let unit = ALIGNMENT as u64;
        let first = offset / unit * unit;
        let skip = (offset - first) as usize;
        let mut aligned = Aligned::new((skip + buf.len()).next_multiple_of(ALIGNMENT));
        let there = self.read_aligned(&mut aligned, first)?;
        let len = there.saturating_sub(skip).min(buf.len());
        buf[..len].copy_from_slice(&aligned.get()[skip..skip + len]);
        Ok(len)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        Err(read_only(&self.0, DiskOp::SyncData))
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.0.len()
    }

    fn preallocate(&self, _offset: u64, _len: u64) -> Result<(), DiskError> {
        Err(read_only(&self.0, DiskOp::Preallocate))
    }

    fn punch(&self, _offset: u64, _len: u64) -> Result<(), DiskError> {
        Err(read_only(&self.0, DiskOp::Punch))
    }

    fn truncate(&self, _len: u64) -> Result<(), DiskError> {
        Err(read_only(&self.0, DiskOp::Truncate))
    }

    fn still_named(&self) -> Result<bool, DiskError> {
        self.0.still_named()
    }
}

/// A file whose cached pages are dropped before they are read.
#[derive(Debug)]
pub(super) struct DroppedFile(pub RealFile);

impl DiskFile for DroppedFile {
    fn write_at(&self, _bytes: &[u8], _offset: u64) -> Result<(), DiskError> {
        Err(read_only(&self.0, DiskOp::Write))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let unit = ALIGNMENT as u64;
        let first = offset / unit * unit;
        // A page is dropped only if all of it is in the range.
        let len = (offset + buf.len() as u64).next_multiple_of(unit) - first;
        if let Some(len) = NonZeroU64::new(len) {
            // Advice: a system that does not take it is one whose cache can't be passed.
            let _heard = rustix::fs::fadvise(&self.0.fd, first, Some(len), Advice::DontNeed);
        }
        self.0.read_at(buf, offset)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        Err(read_only(&self.0, DiskOp::SyncData))
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.0.len()
    }

    fn preallocate(&self, _offset: u64, _len: u64) -> Result<(), DiskError> {
        Err(read_only(&self.0, DiskOp::Preallocate))
    }

    fn punch(&self, _offset: u64, _len: u64) -> Result<(), DiskError> {
        Err(read_only(&self.0, DiskOp::Punch))
    }

    fn truncate(&self, _len: u64) -> Result<(), DiskError> {
        Err(read_only(&self.0, DiskOp::Truncate))
    }

    fn still_named(&self) -> Result<bool, DiskError> {
        self.0.still_named()
    }
}
