//! Writes a segment's header again that has rotted, as long as the node still knows it.
//!
//! Block 0 is the only block that its node can restore by itself: it is a copy of what the index and the running process
//! have, and nobody else has it. Without it a loss of the index would cost every record of the segment.
//!
//! It is done by the drive's own thread, and only where it can do no harm: to a segment that is closed (the last one of data is
//! closed for it), whose file has had no failed write or sync (R6), and whose records are this segment's and no other's (R7):
//! the first one continues this header; or, where that one has rotted as well, another one that the node knows to lie here
//! verifies under this header's seed, which has the random incarnation in it. Then the rest of the segment is as readable as
//! with a rotten first record alone, also for a start without an index. Where none verifies, nothing in the segment is of use
//! to anybody: what the index has in it is damaged and rebuilt elsewhere, and then the header is nobody's loss
//! (scrub/walk.rs).

use crate::client::WriteError;
use crate::disk::DiskFile;
use crate::disk::{Access, DiskError};
use crate::segment::{BLOCK_BYTES, Fault, SegmentMeta, read_record_header, seal_segment_header};
use crate::write::Writer;
use codec::segment::SegmentClass;

/// Records that are tried in place of a rotten first one.
const TRIES: usize = 64;

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
        match self.is_this_segment(&*file, &meta) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => return Err(self.judge(error.into())),
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

    /// Whether a file has records of this segment, and not of another one under its name.
    fn is_this_segment(&self, file: &dyn DiskFile, meta: &SegmentMeta) -> Result<bool, DiskError> {
        let start = meta.start();
        match read_record_header(file, meta, start.block) {
            Ok(first) => return Ok(start.check(&first).is_ok()),
            Err(Fault::Block(_)) => {}
            Err(Fault::Disk(error)) => return Err(error),
        }
        for block in self.known_records(meta).into_iter().filter(|block| *block > start.block).take(TRIES) {
            match read_record_header(file, meta, block) {
                Ok(_) => return Ok(true),
                Err(Fault::Block(_)) => {}
                Err(Fault::Disk(error)) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The blocks at which the node knows records of a segment.
    fn known_records(&self, meta: &SegmentMeta) -> Vec<u64> {
        let number = meta.header.number;
        match meta.class() {
            // An index that can't be read names none, and nothing is written.
            SegmentClass::Data => self.drive.shards_in(number).unwrap_or_default().into_keys().collect(),
            SegmentClass::Journal => {
                let journal = self.drive.journal();
                let records = journal.get(number).into_iter().flat_map(|segment| segment.records.iter());
                records.map(|record| record.block).collect()
            }
        }
    }
}
