//! Writing a checkpoint of the index: every row as it is at one moment, into stripes, then one entry that names them.
//!
//! Nothing depends on a checkpoint but the time that a rebuild takes, so a crash at any point leaves orphan stripes and
//! nothing worse, and what fails is left for the next time.

use super::{SealError, Sealer};
use crate::checkpoint::{ROW_FAMILIES, family_number};
use crate::command::Command;
use crate::index::{self, META, Overlay};
use crate::stripe_writer::Stored;
use bytes::Bytes;
use codec::checkpoint::PieceWriter;
use codec::effect::{CheckpointRow, StripeName};
use codec::id::Lsn;
use codec::stripe::StripeClass;
use storage_node::client::Reserve;
use storage_node::kv::{Family, Kv};
use tokio::sync::mpsc;

/// Pieces that wait to be packed.
const AHEAD: usize = 4;

/// What a checkpoint came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The entry that it reflects.
    pub lsn: Lsn,
    /// Its rows.
    pub rows: u64,
    /// Its stripes.
    pub stripes: usize,
}

/// What the reading thread tells.
enum Step {
    /// The moment that the rows are of.
    At(Lsn),
    Piece(Bytes),
    /// All pieces were sent; so many rows.
    End(u64),
}

impl Sealer {
    /// Writes a checkpoint if at least `entries` entries came since the last one, and half as many as the index has rows:
    /// so that all checkpoints together cost no more than a few times what the journal does, however large the index is.
    pub async fn checkpoint_if_due(&self, entries: u64) -> Result<Option<CheckpointReport>, SealError> {
        let view = Overlay::new(&*self.shared.kv);
        let last = index::checkpoints(&view)?.last().map_or(0, |row| row.lsn);
        let since = index::applied(&view)?.0.0.saturating_sub(last);
        let due = since >= entries.max(self.shared.kv.stats().rows / 2);
        if due { self.checkpoint().await } else { Ok(None) }
    }

    /// Writes a checkpoint of the index as it is now. `None`: there is nothing since the last one.
    pub async fn checkpoint(&self) -> Result<Option<CheckpointReport>, SealError> {
        let _one_at_a_time = self.busy.lock().await;
        let _unfinished = self.writer.begin_work();
        let last = index::checkpoints(&Overlay::new(&*self.shared.kv))?.last().map_or(0, |row| row.lsn);
        let (steps, mut pieces) = mpsc::channel(AHEAD);
        let kv = self.shared.kv.clone();
        let reading = tokio::task::spawn_blocking(move || read_rows(&*kv, &steps));
        let Some(Step::At(lsn)) = pieces.recv().await else {
            reading.await.map_err(|_| SealError::Stopping)??;
            return Ok(None);
        };
        // The entry of the last checkpoint is itself newer than that checkpoint.
        if lsn.0 <= last.saturating_add(1) {
            return Ok(None);
        }
        let (stored, rows) = self.store_pieces(lsn, &mut pieces).await?;
        drop(pieces);
        reading.await.map_err(|_| SealError::Stopping)??;
        // Without its last piece it is not whole: the reader failed, and said why.
        let Some(rows) = rows else { return Err(SealError::Stopping) };
        let name = |stored: &Stored| {
            let id = stored.layout.descriptor.id;
            StripeName { epoch: id.epoch.0, counter: id.counter }
        };
        let row = CheckpointRow { lsn: lsn.0, rows, stripes: stored.iter().map(name).collect() };
        let report = CheckpointReport { lsn, rows, stripes: stored.len() };
        let stripes = stored.into_iter().map(|stored| stored.row).collect();
        self.commit(Command::PutCheckpoint { row, stripes }).await?;
        tracing::info!(%lsn, rows, stripes = report.stripes, "checkpoint of the index");
        Ok(Some(report))
    }

    /// Packs pieces into stripes until the end; the number of rows if the end came.
    async fn store_pieces(
        &self,
        lsn: Lsn,
        pieces: &mut mpsc::Receiver<Step>,
    ) -> Result<(Vec<Stored>, Option<u64>), SealError> {
        // Not the reserve: a checkpoint can be done without, and the journal can't.
        let mut topology = self.shared.topology(Reserve::Client).await?;
        self.leave_out_distrusted(&mut topology);
        let width = self.writer.width(&topology)?;
        let (mut all, mut rows) = (Vec::new(), None);
        let mut open = self.writer.open(width, true);
        loop {
            let step = pieces.recv().await;
            let full = matches!(&step, Some(Step::Piece(piece)) if !open.fits(piece));
            if (full || !matches!(step, Some(Step::Piece(_)))) && !open.is_empty() {
                let stripe = std::mem::replace(&mut open, self.writer.open(width, true));
                let (class, range) = (StripeClass::Checkpoint, Some((lsn, lsn)));
                let stored = self.writer.store(stripe, class, range, &topology, Reserve::Client).await?;
                self.verify(&stored).await?;
                all.push(stored);
            }
            match step {
                Some(Step::Piece(piece)) => open.add(piece),
                Some(Step::End(count)) => rows = Some(count),
                Some(Step::At(_)) => {}
                None => return Ok((all, rows)),
            }
        }
    }
}

/// Reads every row as of one moment and sends it in pieces. Ends early when nobody listens any more.
fn read_rows(kv: &dyn Kv, steps: &mpsc::Sender<Step>) -> Result<(), SealError> {
    // The row that says which moment it is comes from a scan of the same moment.
    let families: Vec<Family> = std::iter::once(META).chain(ROW_FAMILIES).collect();
    let mut scans = kv.scan_together(&families).map_err(index::IndexError::from)?.into_iter();
    let Some(mut meta) = scans.next() else { return Ok(()) };
    let (lsn, hash) = index::applied_in(&mut *meta)?;
    if steps.blocking_send(Step::At(lsn)).is_err() {
        return Ok(());
    }
    let (mut writer, mut rows) = (PieceWriter::new(lsn, hash), 0);
    for (family, mut scan) in ROW_FAMILIES.into_iter().zip(scans) {
        let number = family_number(family);
        while let Some((key, value)) = scan.next().map_err(index::IndexError::from)? {
            rows += 1;
            if let Some(piece) = writer.push(number, &key, &value)?
                && steps.blocking_send(Step::Piece(piece)).is_err()
            {
                return Ok(());
            }
        }
    }
    // Nobody listens: whoever asked has failed, and says so itself.
    let _unheard = steps.blocking_send(Step::Piece(writer.finish()));
    let _unheard = steps.blocking_send(Step::End(rows));
    Ok(())
}
