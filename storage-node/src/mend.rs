//! Writes a segment's header again that has rotted, as long as the node still knows it.
//!
//! Block 0 is the only block that its node can restore by itself: it is a copy of what the index and the running process
//! have, and nobody else has it. Without it a loss of the index would cost every record of the segment.
//!
//! It is done by the drive's own thread, and only where it can do no harm: to a segment that is closed (the last one of data is
//! closed for it), whose file has had no failed write or sync (R6), and whose first record continues this header and no other
//! (R7).

use crate::client::WriteError;
use crate::disk::{Access, DiskError};
use crate::segment::{BLOCK_BYTES, Fault, read_record_header, seal_segment_header};
use crate::write::Writer;
use codec::segment::SegmentClass;

impl Writer {
    /// Restores block 0 of a segment. `false`: that is not possible, or not now.
    pub fn mend_header(&mut self, number: u64) -> Result<bool, WriteError> {
        self.check_writable()?;
        let Some(meta) = self.drive.segment(number) else { return Ok(false) };
        if self.free_work.struck.contains(&number) {
            return Ok(false);
        }
        let closed = match meta.class() {
            SegmentClass::Data => {
                // The last one may stay the last for years on a drive that nobody writes to.
                self.follow(number)?;
                self.drive.closed_length(number).is_some()
            }
            SegmentClass::Journal => self.drive.journal().get(number).is_some_and(|segment| segment.closed),
        };
        if !closed {
            return Ok(false);
        }
        let file = match self.drive.disk.open(&meta.path(), Access::ReadWrite) {
            Ok(file) => file,
            Err(DiskError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(self.judge(error.into())),
        };
        let start = meta.start();
        match read_record_header(&*file, &meta, start.block) {
            Ok(first) if start.check(&first).is_ok() => {}
            Ok(_) | Err(Fault::Block(_)) => return Ok(false),
            Err(Fault::Disk(error)) => return Err(self.judge(error.into())),
        }
        let block = seal_segment_header(&meta.header);
        debug_assert_eq!(block.len() as u64, BLOCK_BYTES);
        if let Err(error) = file.write_at(&block, 0).and_then(|()| file.sync_data()) {
            self.free_work.struck.insert(number);
            return Err(self.judge(error.into()));
        }
        tracing::info!(drive = %self.drive.identity.drive, segment = number, "a segment's header was written again");
        self.vouch().map(|()| true).map_err(|failure| self.judge(failure))
    }
}
