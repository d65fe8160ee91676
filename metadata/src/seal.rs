//! Sealing: the closed part of the journal becomes stripes, and its segments are freed.
//!
//! Order (each step only after the one before is durable; a crash between any two leaves orphan stripes and nothing worse):
//! 1. frames that still lie in the journal are packed into data stripes, entries (without frame bytes) into ledger stripes;
//! 2. every shard is read back from its drive and compared with the hash in the descriptor;
//! 3. one `Seal` entry on 1+m drives names the stripes and moves each frame that is still where it was read (a frame that was
//!    moved or dropped meanwhile is left alone: its bytes in the stripe are dead);
//! 4. the map forgets the entries, so that a reader who comes late looks up again, and readers who came before are waited for;
//! 5. segments all of whose entries are sealed are freed on every drive.
//!
//! The `Seal` entry lies in a newer segment than what it seals, and is sealed by a later one.

use crate::client::CommitError;
use crate::command::{Command, Move, Outcome, Seal};
use crate::commit::Request;
use crate::index::{self, IndexError, Overlay, View};
use crate::journal::{JournalReadError, JournalStopped, read_in_time};
use crate::service::{Alarm, Shared};
use crate::stripe_writer::{OpenStripe, StoreError, Stored, StripeWriter};
use crate::topology::Topology;
use bytes::Bytes;
use codec::effect::{AcceptedLossRow, EffectKind, Place, SealedRow, StripeName};
use codec::id::{ChunkId, DriveId, Epoch, Lsn, ShardId};
use codec::journal::{Entry, JournalError, length_prefixed};
use codec::stripe::StripeClass;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use storage_node::client::{NodeClient, ReadError, Reserve, WRITE_DEADLINE, WriteError, in_time};
use storage_node::sabotage::Sabotage;
use tokio::sync::{Mutex, mpsc, oneshot};

/// Frames of one `Seal` entry; its moves take some 150 bytes each.
const PIECE_FRAMES: usize = 100_000;
/// Entries of one `Seal` entry.
const PIECE_ENTRIES: usize = 200_000;

mod checkpoint;

pub use checkpoint::CheckpointReport;

/// Why sealing stopped. The journal keeps what was not sealed; nothing is lost, and the next attempt begins again.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The service takes no writes.
    #[error("writes are not served: {0}")]
    ReadOnly(String),
    /// An entry can't be read.
    #[error(transparent)]
    Read(#[from] JournalReadError),
    /// An entry does not encode.
    #[error(transparent)]
    Encode(#[from] JournalError),
    /// A row does not fit a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] codec::checkpoint::CheckpointError),
    /// An entry's effects name a frame that is not in it.
    #[error("entry {0} names a frame outside its bytes")]
    BadEntry(Lsn),
    /// A stripe could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A shard did not come back as it was written.
    #[error(transparent)]
    Verify(#[from] NotReadBack),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The `Seal` entry was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The journal stopped.
    #[error(transparent)]
    Journal(#[from] JournalStopped),
    /// The committer has ended.
    #[error("the service is stopping")]
    Stopping,
}

/// A shard did not come back as it was written.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard} did not read back from drive {drive}: {error:?}")]
pub struct NotReadBack {
    /// The shard.
    pub shard: ShardId,
    /// The drive that took it.
    pub drive: DriveId,
    /// What came instead; `None` for other bytes.
    pub error: Option<ReadError>,
}

/// Reads every shard of a new stripe back from its drive, and compares it with the hash in the descriptor.
pub(crate) async fn read_back(node: &dyn NodeClient, stored: &Stored, limit: Duration) -> Result<(), NotReadBack> {
    let descriptor = &stored.layout.descriptor;
    for (index, drive) in (0u8..).zip(&stored.layout.drives) {
        let Some(drive) = *drive else { continue };
        let shard = ShardId { stripe: descriptor.id, index };
        let read = node.read_shard(drive, shard, descriptor.root(), 0..descriptor.shard_len(index));
        let error = match read_in_time(drive, limit, read).await {
            Ok(bytes) if descriptor.check_shard(index, &bytes).is_ok() => continue,
            Ok(_) => None,
            Err(error) => Some(error),
        };
        tracing::warn!(%drive, %shard, ?error, "a shard did not read back");
        return Err(NotReadBack { shard, drive, error });
    }
    Ok(())
}

impl SealError {
    /// Whether it is one entry that can't be sealed, and not the drives, the index or the service that are in the way.
    fn is_of_an_entry(&self) -> bool {
        matches!(self, SealError::Read(JournalReadError::NoCopy { .. }) | SealError::Encode(_) | SealError::BadEntry(_))
    }
}

/// What sealing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealReport {
    /// Everything up to here is sealed.
    pub upto: Lsn,
    /// Frames that moved into data stripes.
    pub moved: u64,
    /// Stripes written.
    pub stripes: u64,
    /// Journal segments freed.
    pub freed: u64,
}

/// Seals, one call at a time.
pub struct Sealer {
    shared: Arc<Shared>,
    writer: Arc<StripeWriter>,
    requests: mpsc::Sender<Request>,
    busy: Mutex<()>,
    /// The entry at which sealing stopped since no drive gives it.
    stuck: std::sync::Mutex<Option<Lsn>>,
    /// Drives that took a shard and did not give it back: left out as long as there are others, since every attempt that
    /// ends with one of them leaves stripes that nothing refers to.
    distrusted: std::sync::Mutex<BTreeSet<DriveId>>,
}

/// What is gathered for one `Seal` entry.
struct Piece {
    first: Lsn,
    last: Lsn,
    last_hash: [u8; 32],
    data: OpenStripe,
    /// Chunk and present place of each frame in `data`.
    in_data: Vec<(ChunkId, Place)>,
    ledger: OpenStripe,
    ledger_first: Lsn,
    stored: Vec<Stored>,
    ledger_stripes: Vec<StripeName>,
    moves: Vec<Move>,
    entries: usize,
}

impl Sealer {
    /// A sealer for one start.
    pub fn new(shared: Arc<Shared>, writer: Arc<StripeWriter>, requests: mpsc::Sender<Request>) -> Sealer {
        Sealer {
            shared,
            writer,
            requests,
            busy: Mutex::new(()),
            stuck: std::sync::Mutex::default(),
            distrusted: std::sync::Mutex::default(),
        }
    }

    /// Closes the open segments and seals everything that is in them now, up to an entry that no drive gives: what follows that
    /// one is on its 1+m drives, and stays there.
    pub async fn seal_now(&self) -> Result<SealReport, SealError> {
        let _one_at_a_time = self.busy.lock().await;
        let sealed = self.seal_all().await;
        match &sealed {
            Ok(_) => self.note_stuck(None),
            Err(error) if error.is_of_an_entry() => {
                self.note_stuck(self.shared.map.first().map(|lsn| (lsn, error.to_string())));
            }
            Err(_) => {}
        }
        sealed
    }

    fn stuck(&self) -> Option<Lsn> {
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_stuck(&self, stuck: Option<(Lsn, String)>) {
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = stuck.as_ref().map(|(lsn, _)| *lsn);
        let words = stuck.map(|(lsn, error)| {
            format!(
                "journal entry {lsn} can't be sealed, nor what follows it ({error}); it is kept. Bring back a drive that has a \
                 good copy: a restart without one serves reads only"
            )
        });
        self.shared.set_alarm(Alarm::Seal, words);
    }

    async fn seal_all(&self) -> Result<SealReport, SealError> {
        // While it lasts, closing segments would only leave more of them.
        if let Some(stuck) = self.stuck().filter(|stuck| self.shared.map.get(*stuck).is_some()) {
            self.shared.map.entry(&*self.shared.node, stuck).await?;
        }
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::CloseSegments(reply)).await.map_err(|_| SealError::Stopping)?;
        let upto = answer.await.map_err(|_| SealError::Stopping)??;
        let mut report = SealReport::default();
        loop {
            let lengths = self.shared.map.lengths(Lsn(0)..=upto);
            if lengths.is_empty() {
                report.upto = report.upto.max(upto);
                return Ok(report);
            }
            let _unfinished = self.writer.begin_work();
            let piece = self.gather(&lengths).await?;
            self.finish(piece, &mut report).await?;
        }
    }

    /// Step 1: reads entries, packs and writes stripes.
    async fn gather(&self, lengths: &[(Lsn, u32)]) -> Result<Piece, SealError> {
        let mut topology = self.shared.topology(Reserve::Metadata).await?;
        self.leave_out_distrusted(&mut topology);
        let width = self.writer.width(&topology)?;
        let first = lengths.first().map_or(Lsn(0), |(lsn, _)| *lsn);
        let mut piece = Piece {
            first,
            last: first,
            last_hash: [0; 32],
            data: self.writer.open(width, false),
            in_data: Vec::new(),
            ledger: self.writer.open(width, true),
            ledger_first: first,
            stored: Vec::new(),
            ledger_stripes: Vec::new(),
            moves: Vec::new(),
            entries: 0,
        };
        for (lsn, _) in lengths {
            let full = piece.entries >= PIECE_ENTRIES || piece.moves.len() + piece.in_data.len() >= PIECE_FRAMES;
            // A gap is where a loss was accepted: the entries of a ledger stripe are consecutive, so it ends there.
            let gap = piece.entries > 0 && *lsn != piece.last.next();
            if full || gap {
                break;
            }
            match self.add(&mut piece, *lsn, width, &topology).await {
                Ok(()) => {}
                // What comes before it is sealed; the next piece begins with it, and says so.
                Err(error) if error.is_of_an_entry() && piece.entries > 0 => break,
                Err(error) => return Err(error),
            }
        }
        self.store_data(&mut piece, width, &topology).await?;
        self.store_ledger(&mut piece, width, &topology).await?;
        Ok(piece)
    }

    async fn add(&self, piece: &mut Piece, lsn: Lsn, width: u8, topology: &Topology) -> Result<(), SealError> {
        let entry = self.shared.map.entry(&*self.shared.node, lsn).await?;
        self.add_frames(piece, &entry, width, topology).await?;
        self.add_entry(piece, &entry, width, topology).await
    }

    /// Takes drives that did not give back what they took for unusable, unless too few would be left: then they get another
    /// chance.
    pub(crate) fn leave_out_distrusted(&self, topology: &mut Topology) {
        let mut distrusted = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        if topology.clone().without(&distrusted).width(self.writer.geometry()).is_none() {
            distrusted.clear();
        }
        for drive in topology.drives.iter_mut().filter(|drive| distrusted.contains(&drive.id)) {
            drive.usable = false;
        }
    }

    /// Adds the frames that the index still places in this entry: those of Live and Condemned chunks.
    async fn add_frames(
        &self,
        piece: &mut Piece,
        entry: &Entry,
        width: u8,
        topology: &Topology,
    ) -> Result<(), SealError> {
        let mut here: BTreeMap<ChunkId, Place> = BTreeMap::new();
        for effect in &entry.effects.effects {
            if let Some(EffectKind::PutChunk(row)) = &effect.kind
                && let (Some(id), Some(place)) = (row.chunk_id(), row.place)
                && place.lsn() == Some(entry.lsn)
            {
                here.insert(id, place);
            }
        }
        for (id, place) in here {
            let row = index::chunk(&Overlay::new(&*self.shared.kv), id)?;
            if row.and_then(|row| row.place) != Some(place) {
                continue;
            }
            let start = place.offset as usize;
            let end = start.saturating_add(place.len as usize);
            if place.len == 0 || end > entry.bytes.len() {
                return Err(SealError::BadEntry(entry.lsn));
            }
            let frame = entry.bytes.slice(start..end);
            if !piece.data.fits(&frame) {
                self.store_data(piece, width, topology).await?;
            }
            // A copy: the slice would keep the whole entry in memory until the stripe is full.
            piece.data.add(Bytes::copy_from_slice(&frame));
            piece.in_data.push((id, place));
        }
        Ok(())
    }

    async fn add_entry(
        &self,
        piece: &mut Piece,
        entry: &Entry,
        width: u8,
        topology: &Topology,
    ) -> Result<(), SealError> {
        let bytes = length_prefixed(&entry.ledger_form())?;
        if !piece.ledger.fits(&bytes) {
            self.store_ledger(piece, width, topology).await?;
            piece.ledger_first = entry.lsn;
        }
        piece.ledger.add(bytes);
        (piece.last, piece.last_hash) = (entry.lsn, entry.hash);
        piece.entries += 1;
        Ok(())
    }

    async fn store_data(&self, piece: &mut Piece, width: u8, topology: &Topology) -> Result<(), SealError> {
        if piece.data.is_empty() {
            return Ok(());
        }
        let stripe = std::mem::replace(&mut piece.data, self.writer.open(width, false));
        let stored = self.writer.store(stripe, StripeClass::Data, None, topology, Reserve::Metadata).await?;
        self.verify(&stored).await?;
        for ((id, from), to) in piece.in_data.drain(..).zip(&stored.places) {
            piece.moves.push(Move { id, from, to: *to });
        }
        piece.stored.push(stored);
        Ok(())
    }

    async fn store_ledger(&self, piece: &mut Piece, width: u8, topology: &Topology) -> Result<(), SealError> {
        if piece.ledger.is_empty() {
            return Ok(());
        }
        let stripe = std::mem::replace(&mut piece.ledger, self.writer.open(width, true));
        let range = Some((piece.ledger_first, piece.last));
        let stored = self.writer.store(stripe, StripeClass::Ledger, range, topology, Reserve::Metadata).await?;
        self.verify(&stored).await?;
        let id = stored.layout.descriptor.id;
        piece.ledger_stripes.push(StripeName { epoch: id.epoch.0, counter: id.counter });
        piece.stored.push(stored);
        Ok(())
    }

    /// Step 2: reads every shard back from its drive.
    async fn verify(&self, stored: &Stored) -> Result<(), SealError> {
        if self.shared.sabotage.is(Sabotage::SealVerify) {
            return Ok(());
        }
        let limit = self.shared.map.patience().deadline;
        read_back(&*self.shared.node, stored, limit).await.inspect_err(|failed| {
            self.distrust(failed.drive);
        })?;
        Ok(())
    }

    /// Leaves a drive out of what is written from now on, since it did not give back what it took.
    pub(crate) fn distrust(&self, drive: DriveId) {
        self.distrusted.lock().unwrap_or_else(PoisonError::into_inner).insert(drive);
    }

    /// Steps 3 to 5.
    async fn finish(&self, piece: Piece, report: &mut SealReport) -> Result<(), SealError> {
        let (last, stripes) = (piece.last, piece.stored.len() as u64);
        let sealed = SealedRow {
            first: piece.first.0,
            last: last.0,
            stripes: piece.ledger_stripes,
            last_hash: Bytes::copy_from_slice(&piece.last_hash),
        };
        let rows = piece.stored.into_iter().map(|stored| stored.row).collect();
        let seal = Seal { sealed, stripes: rows, moves: piece.moves };
        if self.shared.sabotage.is(Sabotage::SealCommitFirst) {
            report.freed += self.free(last).await;
        }
        let outcome = self.commit(Command::Seal(seal)).await?;
        if let Outcome::Sealed { moved, .. } = outcome {
            report.moved += moved;
        }
        self.shared.map.forget_upto(last);
        self.shared.sealed(last);
        if !self.shared.sabotage.is(Sabotage::SealReaders) {
            // Fair, so this waits for the readers that came before and for no others.
            drop(self.shared.readers.write().await);
        }
        // After a power cut the index may be as old as its last sync. What it then lacks is read from the journal; were that
        // freed, from the ledger, for which every shard on every drive is looked at.
        let kv = self.shared.kv.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || kv.flush()).await {
            tracing::warn!(%error, "the index could not be made durable before journal segments are freed");
        }
        report.freed += self.free(last).await;
        report.stripes += stripes;
        report.upto = last;
        tracing::info!(upto = %last, stripes, freed = report.freed, "sealed");
        Ok(())
    }

    async fn commit(&self, command: Command) -> Result<Outcome, SealError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Commit(self.writer.epoch(), Box::new(command), reply);
        self.requests.send(request).await.map_err(|_| SealError::Stopping)?;
        Ok(answer.await.map_err(|_| SealError::Stopping)??)
    }

    /// Frees the closed segments whose entries are all sealed. What can't be freed now is freed by a later seal.
    async fn free(&self, sealed: Lsn) -> u64 {
        let node = &self.shared.node;
        let view = Overlay::new(&*self.shared.kv);
        let Ok(losses) = accepted_with_epochs(&view) else { return 0 };
        let mut freed = 0;
        for drive in node.drives().await {
            let listed = node.journal_segments(drive.id);
            let limit = self.shared.map.patience().deadline;
            let Ok(segments) = read_in_time(drive.id, limit, listed).await else { continue };
            for segment in segments {
                // An empty one counts by where it would have begun; one whose entries are hidden by damage stays.
                let last = segment.last.or((segment.damaged == 0).then_some(segment.head.first_lsn));
                if !segment.closed || last.is_none_or(|last| last > sealed) {
                    continue;
                }
                // Entries that were given up as lost came back with a drive: their LSNs are below what is sealed, but they
                // themselves are in no ledger, and this is the last copy of what they hold.
                let first = segment.first.unwrap_or(segment.head.first_lsn);
                let behind = |loss: &AcceptedLossRow| last.is_none_or(|last| last.0 > loss.kept);
                let given_up = |loss: &AcceptedLossRow| first.0 <= loss.known && behind(loss);
                // A loss may have been accepted for fewer entries than there were, when all drives that kept them were away:
                // their LSNs were given again, to other entries of later epochs. So with a history that went on elsewhere.
                let another = |loss: &AcceptedLossRow, accepted: Option<Epoch>| {
                    let older = segment.last_epoch.zip(accepted).is_some_and(|(epoch, accepted)| epoch < accepted);
                    older && behind(loss)
                };
                let foreign = segment.last_epoch.map_or(Ok(false), |epoch| index::reclaim::is_foreign(&view, epoch));
                if losses.iter().any(|(loss, accepted)| given_up(loss) || another(loss, *accepted))
                    || foreign.unwrap_or(true)
                {
                    continue;
                }
                // What damage hides may be a better copy of the entry that is missing than anybody else has.
                if segment.damaged > 0 && self.stuck().is_some() {
                    continue;
                }
                // One that answers too late has freed what is sealed: no harm.
                match in_time(drive.id, WRITE_DEADLINE, node.journal_free(drive.id, segment.number)).await {
                    Ok(()) => freed += 1,
                    Err(WriteError::ReadOnly { .. } | WriteError::DriveFailed { .. }) => break,
                    Err(error) => tracing::warn!(drive = %drive.id, segment = segment.number, %error, "not freed"),
                }
            }
        }
        freed
    }
}

/// Losses that were accepted, each with the first epoch of the history that went on without the lost entries.
pub(crate) fn accepted_with_epochs(view: &dyn View) -> Result<Vec<(AcceptedLossRow, Option<Epoch>)>, IndexError> {
    let losses = index::accepted_losses(view)?.into_iter();
    let with_epoch = |loss: AcceptedLossRow| {
        let epoch = index::reclaim::granted_behind(view, Lsn(loss.known))?;
        Ok((loss, epoch))
    };
    losses.map(with_epoch).collect()
}
