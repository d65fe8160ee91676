//! Reading a whole drive anew, at the order of whoever asks for it.

use crate::client::{Damage, Lost, ReadError};
use crate::open::{OpenDrive, add_scanned, costs_one_file};
use crate::segment::{ScanFrom, is_freed, scan};
use codec::segment::SegmentClass;
use std::sync::PoisonError;

/// See [`super::StorageNode::verify`].
pub(super) fn verify(open: &OpenDrive) -> Result<Vec<Damage>, ReadError> {
    let failed = |reason: String| ReadError::DriveFailed { drive: open.identity.drive, reason };
    let metas: Vec<_> = open.segments.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
    for (i, meta) in metas.iter().enumerate() {
        let number = meta.header.number;
        let next = metas[i + 1..].iter().find(|next| next.class() == meta.class());
        let said = next.and_then(|next| next.header.previous).filter(|closed| closed.number == number);
        let closed = said.or_else(|| open.closed_length(number));
        let row = open.index.segment(number).map_err(|error| failed(error.to_string()))?;
        let barrier = row.filter(|row| row.header == meta.header).map_or(0, |row| row.chain.block);
        let file = match open.files.get(&*open.disk, meta.class(), number) {
            Ok(file) => file,
            // A journal segment that was freed meanwhile.
            Err(_) if open.segment(number).is_none() => continue,
            Err(error) if costs_one_file(&error) || error.is_not_found() => {
                let lost = Damage { segment: number, block: 0, end_block: 1, what: Lost::Segment };
                open.set_damage(number, vec![lost]);
                continue;
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let from = ScanFrom { chain: meta.start(), barrier, closed, deep: true };
        let mut scanned = scan(&*file, meta, from, open.disk.sabotage()).map_err(|error| failed(error.to_string()))?;
        match (meta.class(), closed) {
            // What is behind the barrier of an open segment may be a group that is being written right now.
            (SegmentClass::Data, Some(_)) => {
                let _placing = open.placing();
                if open.segment(number).is_none() {
                    continue;
                }
                // What was freed since the scan passed by must not come back.
                scanned.records.retain(|found| !is_freed(&*file, found.block + 1).unwrap_or(false));
                add_scanned(open, meta, true, scanned).map_err(|error| failed(error.to_string()))?;
            }
            (SegmentClass::Data, None) => open.set_damage(number, scanned.damage),
            (SegmentClass::Journal, _) => {
                if let Some(segment) = open.journal().get_mut(number) {
                    segment.damage = scanned.damage;
                }
            }
        }
    }
    Ok(open.damaged())
}
