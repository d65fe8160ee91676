//! Frames that outlived the entry that moved them.
//!
//! Sealing moves frames from the journal into stripes, and one `Seal` entry says so. When a loss is accepted that entry may be
//! among what is lost. The rows that are kept then place the frames in entries that were freed long ago, although the frames
//! lie whole in stripes that nothing names. They are looked for there, and stored once more in stripes of this start: the old
//! ones belong to a fenced epoch, and what such an epoch left uncommitted is collected one day (R9).
//!
//! A setting says up to which loss this was done, so a crash in between, or drives without room, cost another look at the next
//! start and nothing else. A chunk's place changes only where the old one can't be read, by the rule for chunks that are
//! stored twice.

use crate::client::CommitError;
use crate::command::{Command, NewChunk, NewFrame};
use crate::commit::{Asked, Committer};
use crate::index::{self, CHUNKS, IndexError, META, Overlay, View};
use crate::ledger;
use crate::seal::{NotReadBack, read_back};
use crate::service::Shared;
use crate::stripe_writer::{StoreError, StripeWriter};
use bytes::Bytes;
use codec::effect::{AcceptedLossRow, ChunkRow, SettingRow};
use codec::frame::{FrameError, MAX_HEADER, parse_header, verify_stored};
use codec::id::{ChunkId, DomainId, Epoch, StripeId};
use codec::stripe::StripeClass;
use std::collections::BTreeMap;
use storage_node::client::{ReadError, Reserve};
use storage_node::kv::Direction;
use storage_node::stripe_io::{ReadOptions, StripeLayout, read_range};

/// Up to which accepted loss frames were looked for: [`AcceptedLossRow::known`], in decimal.
const ADOPTED_SETTING: &str = "loss-adopted";

/// Why not all was looked for, or stored again. The next start tries again.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdoptError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A stripe could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stripe did not read back.
    #[error(transparent)]
    NotReadBack(#[from] NotReadBack),
    /// The chunks' new places were not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A drive has stripes of a later release.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A stripe holds frames of a later release, and what comes behind them is not known.
    #[error("stripe {stripe}, shard {shard}: {error}")]
    Later {
        /// The stripe.
        stripe: StripeId,
        /// Its shard.
        shard: u8,
        /// The first of them.
        error: FrameError,
    },
}

/// What adopting works with.
pub(super) struct Adopter<'a> {
    pub(super) shared: &'a Shared,
    pub(super) writer: &'a StripeWriter,
    pub(super) committer: &'a mut Committer,
    pub(super) epoch: Epoch,
}

/// Frames on their way into one stripe.
type Batch = Vec<(ChunkRow, Bytes)>;

impl Adopter<'_> {
    /// Looks for the frames of chunks that lie in entries that are gone, unless that was done since the last loss.
    pub(super) async fn adopt(mut self) -> Result<(), AdoptError> {
        let Some(known) = pending(&Overlay::new(&*self.shared.kv))? else { return Ok(()) };
        let mut lost = self.lost_chunks()?;
        let (wanted, mut adopted, mut later) = (lost.len(), 0, None);
        if wanted > 0 {
            tracing::warn!(chunks = wanted, "chunks lie in journal entries that are gone; looking for them in stripes");
            let kv = self.shared.kv.clone();
            let unknown = |id| matches!(index::stripe(&Overlay::new(&*kv), id), Ok(None));
            for layout in ledger::find_where(&*self.shared.node, StripeClass::Data, &unknown).await? {
                let found = self.frames(&layout, &mut lost, &mut later).await;
                adopted += found.len();
                self.store(found).await?;
            }
            tracing::warn!(adopted, lost = lost.len(), "chunks of lost journal entries");
        }
        // The search is not done, and the next start's program may read what this one can't.
        if let Some(later) = later {
            return Err(later);
        }
        let value = Bytes::from(known.to_string());
        self.commit(Command::PutSetting(SettingRow { name: ADOPTED_SETTING.to_owned(), value })).await
    }

    /// The chunks whose place is an entry that no drive holds.
    fn lost_chunks(&self) -> Result<BTreeMap<ChunkId, ChunkRow>, IndexError> {
        let mut lost = BTreeMap::new();
        let mut rows = self.shared.kv.scan(CHUNKS, &[], Direction::Forward)?;
        while let Some((key, value)) = rows.next()? {
            let row: ChunkRow = index::decode(CHUNKS, &key, value)?;
            let gone = row.place.and_then(|place| place.lsn()).is_some_and(|lsn| self.shared.map.get(lsn).is_none());
            if let Some(id) = row.chunk_id().filter(|_| gone) {
                lost.insert(id, row);
            }
        }
        Ok(lost)
    }

    /// The frames in a stripe that are wanted and whole; they are wanted no more. `later`: why some of it can't be told.
    async fn frames(
        &self,
        layout: &StripeLayout,
        lost: &mut BTreeMap<ChunkId, ChunkRow>,
        later: &mut Option<AdoptError>,
    ) -> Batch {
        let stripe = layout.descriptor.id;
        let mut found = Vec::new();
        for shard in layout.descriptor.data_present() {
            let whole = 0..layout.descriptor.shard_len(shard);
            match read_range(&*self.shared.node, layout, shard, whole, ReadOptions::default()).await {
                Ok(bytes) => {
                    if let Err(error) = take_frames(&bytes, lost, &mut found) {
                        *later = Some(AdoptError::Later { stripe, shard, error });
                    }
                }
                Err(error) => tracing::warn!(stripe = %layout.descriptor.id, shard, %error, "not looked at"),
            }
        }
        found
    }

    /// Stores frames in stripes of this epoch, reads them back, and makes them the chunks' places (R12).
    async fn store(&mut self, mut found: Batch) -> Result<(), AdoptError> {
        while !found.is_empty() {
            let topology = self.shared.topology(Reserve::Metadata).await?;
            let mut stripe = self.writer.open(self.writer.width(&topology)?, false);
            let mut inside = 0;
            while let Some((_, frame)) = found.get(inside).filter(|(_, frame)| stripe.fits(frame)) {
                stripe.add(frame.clone());
                inside += 1;
            }
            let stored = self.writer.store(stripe, StripeClass::Data, None, &topology, Reserve::Metadata).await?;
            read_back(&*self.shared.node, &stored, self.shared.map.patience().deadline).await?;
            let chunk = |((row, _), place): ((ChunkRow, Bytes), &codec::effect::Place)| {
                let shard = u8::try_from(place.shard).unwrap_or(u8::MAX);
                Some(NewChunk {
                    id: row.chunk_id()?,
                    domain: DomainId(row.domain),
                    plain_len: row.plain_len,
                    frame: NewFrame::InStripe { shard, offset: place.offset, len: place.len },
                    is_manifest: row.is_manifest,
                    // The row is known: what it lists is counted already.
                    children: Vec::new(),
                })
            };
            let rest = found.split_off(inside);
            let chunks = std::mem::replace(&mut found, rest).into_iter().zip(&stored.places).filter_map(chunk);
            self.commit(Command::CommitStripe { stripe: stored.row, chunks: chunks.collect() }).await?;
        }
        Ok(())
    }

    async fn commit(&mut self, command: Command) -> Result<(), AdoptError> {
        for answer in self.committer.commit(vec![Asked { writer: self.epoch, command, reply: None }]).await {
            answer?;
        }
        Ok(())
    }
}

/// Takes the wanted frames out of a data shard: whole frames, one behind the other. How long one of a later release is can't be
/// told, so what is behind it would be lost for good if the search counted as done (R16).
fn take_frames(shard: &Bytes, lost: &mut BTreeMap<ChunkId, ChunkRow>, found: &mut Batch) -> Result<(), FrameError> {
    let mut at: usize = 0;
    loop {
        let header = match parse_header(&shard[at..shard.len().min(at.saturating_add(MAX_HEADER))]) {
            Ok(header) => header,
            Err(error @ FrameError::Version(_)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let end = at.saturating_add(header.frame_len());
        if end > shard.len() {
            return Ok(());
        }
        let frame = shard.slice(at..end);
        let same = |row: &ChunkRow| row.domain == header.domain.0 && row.plain_len == header.plain_len;
        // Verified without keys: a frame names its chunk, and a reader computes the id of what it decodes.
        if lost.get(&header.id).is_some_and(same)
            && verify_stored(&frame).is_ok()
            && let Some(row) = lost.remove(&header.id)
        {
            found.push((row, frame));
        }
        at = end;
    }
}

/// The last accepted loss since which nothing was looked for.
fn pending(view: &dyn View) -> Result<Option<u64>, IndexError> {
    let mut known = None;
    for (key, value) in view.rows(META, b"loss", b"losss", usize::MAX)? {
        let row: AcceptedLossRow = index::decode(META, &key, value)?;
        known = known.max(Some(row.known));
    }
    let done = index::setting(view, ADOPTED_SETTING)?;
    // One that does not read is one that was never written.
    let done: u64 = done.and_then(|row| String::from_utf8_lossy(&row.value).parse().ok()).unwrap_or(0);
    Ok(known.filter(|known| *known > done))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use codec::frame::{ChunkKey, FIRST_VERSION, FrameSpec, chunk_id, encode};

    /// It was the end of the shard, and the frames behind it were lost for good.
    #[test]
    fn a_frame_of_a_later_release_is_not_the_end_of_a_shard() {
        let frames: Vec<Vec<u8>> = (1..4u8)
            .map(|n| {
                let plain = vec![n; 500];
                let id = chunk_id(&ChunkKey::new([7; 32]), &plain);
                let spec = FrameSpec { version: FIRST_VERSION, domain: DomainId(1), id, level: 1, data_key: None };
                encode(&spec, &plain).unwrap()
            })
            .collect();
        let taken = |frames: &[Vec<u8>]| {
            let (mut lost, mut found) = (BTreeMap::new(), Vec::new());
            for frame in frames {
                if let Ok(header) = parse_header(frame) {
                    let row = ChunkRow { domain: header.domain.0, plain_len: header.plain_len, ..ChunkRow::default() };
                    lost.insert(header.id, row);
                }
            }
            take_frames(&frames.concat().into(), &mut lost, &mut found).map(|()| found.len())
        };
        assert_eq!(taken(&frames), Ok(3));
        let mut later = frames.clone();
        later[1][4] = u8::MAX;
        assert_eq!(taken(&later), Err(FrameError::Version(u8::MAX)));
        later[1] = vec![0; 100];
        assert_eq!(taken(&later), Ok(1), "what is behind the last frame");
    }
}
