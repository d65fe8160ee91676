//! The committer: one task through which every change goes.
//!
//! Invariants
//! * A batch is decided against the index and the effects decided before it, made durable on the 1+m members of the ensemble,
//!   applied to the index in one index batch, and then answered: in this order, and one batch at a time. So whoever was
//!   answered reads what was answered, and the index is never ahead of the media.
//! * Refusals are answered with the batch, too: they may rest on effects that were decided before them in it.
//! * After a failure of the journal or the index nothing more is decided: what was in flight is unknown, and says so. When the
//!   condition is over the batch in flight is finished, byte for byte, before anything else is decided.
//!
//! There is no timer: while a batch is being synced the next one gathers.
//!
//! So it is in a process that is all of metadata. Where metadata nodes agree on what happens, the order is another one
//! ([`agreed`]): agreed on, applied, journaled, answered.

use crate::client::CommitError;
use crate::command::{Command, NewChunk, NewFrame, Outcome, Refusal};
use crate::index::{self, Overlay};
use crate::journal::{Batch, BatchEntry, Journal, JournalStopped};
use crate::lookup::Losses;
use crate::service::Shared;
use crate::state::{self, ApplyError, At, DecideError};
use codec::effect::DriveState;
use codec::id::{DriveId, Epoch, Lsn};
use codec::journal::{encode_entry, parse_entry};
use codec::register::Register;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage_node::client::{DriveHealth, DriveStatus, Reserve};
use tokio::sync::{mpsc, oneshot};

mod agreed;

pub(crate) use agreed::Agreement;

/// Most commands in one batch.
const BATCH_COMMANDS: usize = 1024;
/// Free bytes that a member keeps beyond what a client's batch takes; below this a client's frames are refused (R14).
const JOURNAL_MARGIN: u64 = 4 << 20;
/// While there is no room, the drives are asked for it no more often than this.
const LOOK_AGAIN_MS: u64 = 1000;

/// So often a batch is decided anew because other entries came in between: members are not changed that fast.
const MISPLACED: u32 = 16;

/// What came of one command.
pub type Answer = Result<Outcome, CommitError>;

/// What can be asked of the committer.
#[derive(Debug)]
pub enum Request {
    /// Commit a command of a writer that holds this epoch.
    Commit(Epoch, Box<Command>, oneshot::Sender<Answer>),
    /// Look at the drives: replace members that take no writes.
    Check(Vec<DriveStatus>),
    /// Register a drive, if one is named, and look at the drives; answers the register after that.
    Drives {
        /// How they are.
        status: Vec<DriveStatus>,
        /// The new one.
        add: Option<DriveId>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Register, JournalStopped>>,
    },
    /// Close the open journal segments; answers the last LSN.
    CloseSegments(oneshot::Sender<Result<Lsn, JournalStopped>>),
    /// Finish what was asked before, and end.
    Stop,
}

/// The committer's state.
pub struct Committer {
    journal: Journal,
    shared: Arc<Shared>,
    max_batch: usize,
    /// Bytes that clients' entries may still take in the journal, as of the last check.
    room: u64,
    /// Bytes free on each drive, as of the last check.
    free: BTreeMap<DriveId, u64>,
    /// When it was looked for room because there seemed to be none; milliseconds of monotonic time.
    looked_ms: Option<u64>,
    losses: Losses,
    /// A batch whose commands were answered Unavailable: not known to be durable, or not applied.
    in_doubt: Option<Batch>,
    /// Of a leader, whose entries a majority of the metadata nodes agrees on.
    agreement: Option<Agreement>,
}

/// A command that waits for its batch.
#[derive(Debug)]
pub struct Asked {
    /// The epoch that the writer held when it began.
    pub writer: Epoch,
    /// What it asks for.
    pub command: Command,
    /// Where the answer goes; without it, [`Committer::commit`] returns it.
    pub reply: Option<oneshot::Sender<Answer>>,
}

/// Commands that are decided, and what came of it.
struct Deciding {
    entries: Vec<BatchEntry>,
    changes: storage_node::kv::KvBatch,
    decided: Vec<Decided>,
    /// What did not fit.
    rest: Vec<Asked>,
    reserve: Reserve,
    /// The index failed in the middle of it.
    spoiled: bool,
}

impl Deciding {
    fn new() -> Deciding {
        let (entries, changes, decided, rest) = Default::default();
        Deciding { entries, changes, decided, rest, reserve: Reserve::Metadata, spoiled: false }
    }
}

/// Why a command is not decided.
enum Undecided {
    /// The index has an entry that the journal does not have yet: it is decided again when it has.
    Overtaken,
    /// The index can't be gone on with.
    Stopped(JournalStopped),
}

/// A command in a batch, decided.
struct Decided {
    asked: Asked,
    answer: Answer,
    /// The entries of the batch that the answer rests on: so many of the first ones.
    rests_on: usize,
}

impl Decided {
    /// Answered without any entry.
    fn at_once(asked: Asked, answer: Answer) -> Decided {
        Decided { asked, answer, rests_on: 0 }
    }
}

fn reply(asked: Asked, answer: Answer, answers: &mut Vec<Answer>) {
    match asked.reply {
        // A caller that is gone does not want to know.
        Some(reply) => drop(reply.send(answer)),
        None => answers.push(answer),
    }
}

/// Nothing of a batch is known to have happened.
fn give_up(decided: &mut [Decided], why: &dyn std::fmt::Display) {
    for decided in decided {
        decided.answer = Err(CommitError::Unavailable { reason: why.to_string() });
    }
}

impl Committer {
    /// A committer that appends to `journal`; entries and batches are kept below `max_batch` bytes.
    pub fn new(journal: Journal, shared: Arc<Shared>, max_batch: usize) -> Committer {
        // A place in the journal before its first entry is a frame that was lost: never a hit.
        let thin_journal_below = shared.map.first().unwrap_or(journal.next_lsn());
        let losses = Losses { thin_journal_below, ..Losses::default() };
        Committer {
            journal,
            shared,
            max_batch,
            room: u64::MAX,
            free: BTreeMap::new(),
            looked_ms: None,
            losses,
            in_doubt: None,
            agreement: None,
        }
    }

    /// Serves requests until [`Request::Stop`], or until nobody can ask any more.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut pending = Vec::new();
        while let Some(first) = requests.recv().await {
            let (mut next, mut bytes) = (Some(first), 0);
            let mut then = None;
            while let Some(request) = next.take() {
                match request {
                    Request::Commit(writer, command, reply) => {
                        bytes += frame_bytes(&command);
                        pending.push(Asked { writer, command: *command, reply: Some(reply) });
                    }
                    other => then = Some(other),
                }
                if then.is_none() && bytes < self.max_batch && pending.len() < BATCH_COMMANDS {
                    next = requests.try_recv().ok();
                }
            }
            self.commit(std::mem::take(&mut pending)).await;
            match then {
                Some(Request::Stop) => return,
                Some(other) => self.manage(other).await,
                None => {}
            }
        }
    }

    async fn manage(&mut self, request: Request) {
        match request {
            Request::Check(drives) => self.check(&drives).await,
            Request::Drives { status, add, reply } => {
                let registered = match (add, self.journal.stopped()) {
                    (Some(drive), None) => self.journal.register_drive(drive).await,
                    (_, stopped) => stopped.cloned().map_or(Ok(()), Err),
                };
                self.check(&status).await;
                let _nobody_waits = reply.send(registered.map(|()| self.journal.register().clone()));
            }
            Request::CloseSegments(reply) => {
                let closed = match self.journal.stopped() {
                    Some(stopped) => Err(stopped.clone()),
                    None => self.journal.establish().await,
                };
                self.publish();
                let last = Lsn(self.journal.next_lsn().0.saturating_sub(1));
                // Nobody waits any more: nothing to tell.
                let _ = reply.send(closed.map(|()| last));
            }
            Request::Commit(..) | Request::Stop => {}
        }
    }

    /// Replaces members that take no writes or are leaving, and takes stock of the room and of what can't be read.
    pub async fn check(&mut self, drives: &[DriveStatus]) {
        let failed = drives.iter().filter(|d| matches!(d.health, DriveHealth::Failed { .. })).map(|d| d.id);
        let gone = self.journal.register().registered.iter().filter(|id| !drives.iter().any(|d| d.id == **id));
        let mut lost: BTreeSet<_> = failed.chain(gone.copied()).collect();
        let mut removed = Vec::new();
        match index::drives(&Overlay::new(&*self.shared.kv)) {
            Ok(rows) => {
                let with = |state: DriveState| {
                    let rows = rows.iter().filter(move |row| row.state == state as i32);
                    rows.filter_map(|row| DriveId::from_slice(&row.id))
                };
                removed.extend(with(DriveState::Removed));
                // A drive that was given up is asked by nobody, so it neither fails nor is missing; what lay there is lost all
                // the same, and must not be taken for stored by whoever brings it again.
                lost.extend(&removed);
                self.journal.set_leaving(with(DriveState::Draining).chain(removed.iter().copied()).collect());
            }
            Err(error) => tracing::warn!(%error, "drives that were given up can't be told from others"),
        }
        self.losses = Losses { drives: lost, ..self.losses.clone() };
        self.shared.set_losses(self.losses.clone());
        // Why it stopped is published, and was logged.
        if self.journal.stopped().is_some() {
            let _ = self.resume().await;
        } else if self.journal.check(drives).await.is_ok() && self.catch_up(Reserve::Metadata).await.is_ok() {
            self.unregister(&removed).await;
        }
        // Last: what counts is the room of those that are members now. A member that is gone has none.
        self.take_stock(drives);
        self.publish();
    }

    /// Takes drives that were given up out of the registered ones, so that they are not waited for when a majority is. What
    /// can't be done now is done by a later check, also after a restart in between.
    async fn unregister(&mut self, removed: &[DriveId]) {
        let registered = self.journal.register().registered.clone();
        for drive in removed.iter().filter(|drive| registered.contains(drive)) {
            if let Err(error) = self.journal.unregister_drive(*drive).await {
                tracing::warn!(%drive, %error, "a removed drive is still registered");
                return;
            }
        }
    }

    /// Looks at the drives again, once in [`LOOK_AGAIN_MS`] at most: room may have come back since the last check, and whoever
    /// made it would be told for as long as the interval of checks that the store is full.
    async fn finds_room(&mut self, needed: u64) -> bool {
        let now_ms = self.shared.clock.monotonic_ms();
        if self.looked_ms.is_some_and(|looked_ms| now_ms.saturating_sub(looked_ms) < LOOK_AGAIN_MS) {
            return false;
        }
        self.looked_ms = Some(now_ms);
        let drives = self.shared.node.drives().await;
        self.take_stock(&drives);
        self.room >= needed
    }

    fn take_stock(&mut self, drives: &[DriveStatus]) {
        self.free = drives.iter().map(|d| (d.id, d.free)).collect();
        self.room = self.members_room();
    }

    /// Bytes that the fullest member had free at the last check.
    fn members_room(&self) -> u64 {
        let free = |member: &DriveId| self.free.get(member).copied().unwrap_or(0);
        self.journal.register().members.iter().map(free).min().unwrap_or(0)
    }

    /// Serves writes again if what stopped them is over. What is in doubt comes first: to the journal, then to the index,
    /// before anything else is decided. So it happens as if it had been answered late.
    async fn resume(&mut self) -> Result<(), JournalStopped> {
        let in_doubt = self.in_doubt.take();
        let resumed = self.try_resume(in_doubt.as_ref()).await;
        if resumed.is_err() {
            self.in_doubt = in_doubt;
            return resumed;
        }
        tracing::info!(next = %self.journal.next_lsn(), "the journal goes on");
        self.shared.set_writable();
        Ok(())
    }

    async fn try_resume(&mut self, in_doubt: Option<&Batch>) -> Result<(), JournalStopped> {
        let Some(batch) = in_doubt else { return self.journal.resume(None).await };
        if self.agreement.is_some() {
            // The index has it; the end of the journal is found again with what follows.
            self.journal.resume(in_doubt).await?;
            self.journaled(batch);
            return Ok(());
        }
        if self.journal.is_durable(batch) {
            // The index first: while it does not take the batch nothing may be decided.
            self.apply_again(batch)?;
            return self.journal.resume(in_doubt).await;
        }
        self.journal.resume(in_doubt).await?;
        self.apply_again(batch).map_err(|stopped| self.journal.stop(stopped))
    }

    /// Applies the entries of a batch from their bytes.
    fn apply_again(&self, batch: &Batch) -> Result<(), JournalStopped> {
        let failed = |error: &dyn std::fmt::Display| JournalStopped::Index(error.to_string());
        let mut overlay = Overlay::new(&*self.shared.kv);
        // A write that was answered with an error may be there all the same.
        let (applied, _) = index::applied(&overlay).map_err(|error| failed(&error))?;
        for entry in batch.entries.iter().filter(|entry| entry.lsn > applied) {
            let entry = parse_entry(entry.bytes.clone()).map_err(|error| failed(&error))?;
            state::apply(&mut overlay, entry.lsn, &entry.hash, &entry.effects).map_err(|error| failed(&error))?;
        }
        self.shared.kv.write(overlay.into_batch()).map_err(|error| failed(&error))?;
        let last = batch.entries.last().map_or(Lsn(0), |entry| entry.lsn);
        self.shared.committed(last, batch.weight());
        Ok(())
    }

    /// Shows the ensemble, and whether the journal still takes anything.
    fn publish(&self) {
        self.shared.set_register(self.journal.register().clone());
        if let Some(stopped) = self.journal.stopped() {
            self.shared.set_read_only(stopped.to_string());
            if stopped.is_for_good() {
                self.shared.set_for_good();
            }
        }
    }

    /// Commits commands in one batch or more, and answers each.
    pub async fn commit(&mut self, mut commands: Vec<Asked>) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut in_vain = 0;
        while !commands.is_empty() {
            let (decided, rest) = self.one_batch(commands).await;
            commands = rest;
            in_vain = if decided.is_empty() { in_vain + 1 } else { 0 };
            for Decided { asked, answer, .. } in decided {
                reply(asked, answer, &mut answers);
            }
            if in_vain == MISPLACED {
                let reason = || "other entries came in between, again and again".to_owned();
                for asked in std::mem::take(&mut commands) {
                    reply(asked, Err(CommitError::Unavailable { reason: reason() }), &mut answers);
                }
            }
        }
        answers
    }

    /// Decides, journals, applies. What does not fit in the batch comes back, and so does what has to be decided again.
    async fn one_batch(&mut self, commands: Vec<Asked>) -> (Vec<Decided>, Vec<Asked>) {
        if self.journal.stopped().is_none()
            && let Err(adrift) = self.ready().await
        {
            let answer = || Err(CommitError::Unavailable { reason: adrift.to_string() });
            return (commands.into_iter().map(|asked| Decided::at_once(asked, answer())).collect(), Vec::new());
        }
        if let Some(stopped) = self.journal.stopped() {
            let reason = stopped.to_string();
            let answer = || Err(CommitError::ReadOnly { reason: reason.clone() });
            return (commands.into_iter().map(|asked| Decided::at_once(asked, answer())).collect(), Vec::new());
        }
        let kv = self.shared.kv.clone();
        let mut batch = self.decide_all(&*kv, commands).await;
        if batch.spoiled {
            self.publish();
            return (batch.decided, batch.rest);
        }
        if self.agreement.is_some() {
            self.agree_all(&mut batch).await;
        } else if !batch.entries.is_empty()
            && let Err(stopped) = self.make_durable(batch.entries, batch.changes, batch.reserve).await
        {
            self.publish();
            give_up(&mut batch.decided, &stopped);
        }
        (batch.decided, batch.rest)
    }

    /// Decides commands one after the other, until the batch is full.
    async fn decide_all(&mut self, kv: &dyn storage_node::kv::Kv, commands: Vec<Asked>) -> Deciding {
        let mut overlay = Overlay::new(kv);
        let mut batch = Deciding::new();
        let mut bytes = 0;
        let mut commands = commands.into_iter();
        for asked in commands.by_ref() {
            let frames = frame_bytes(&asked.command);
            if !batch.entries.is_empty() && bytes + frames > self.max_batch {
                batch.rest.push(asked);
                break;
            }
            if frames > 0 {
                batch.reserve = Reserve::Client;
                let needed = JOURNAL_MARGIN + (bytes + frames) as u64;
                if self.room < needed && !self.finds_room(needed).await {
                    batch.decided.push(Decided::at_once(asked, Err(CommitError::Full)));
                    continue;
                }
            }
            match self.decide(&mut overlay, asked.writer, &asked.command, &mut batch.entries) {
                Ok(answer) => batch.decided.push(Decided { asked, answer, rests_on: batch.entries.len() }),
                Err(Undecided::Overtaken) => {
                    batch.rest.push(asked);
                    break;
                }
                Err(Undecided::Stopped(stopped)) => {
                    // The overlay is half changed: nothing of this batch may go on.
                    let stopped = self.journal.stop(stopped);
                    batch.decided.push(Decided::at_once(asked, Err(CommitError::Full)));
                    give_up(&mut batch.decided, &stopped);
                    batch.rest.extend(commands);
                    batch.spoiled = true;
                    return batch;
                }
            };
            bytes = batch.entries.iter().map(|entry: &BatchEntry| entry.bytes.len()).sum();
        }
        batch.rest.extend(commands);
        self.room = self.room.saturating_sub(bytes as u64);
        batch.changes = overlay.into_batch();
        batch
    }

    /// Has the metadata nodes agree on a batch, and journals it. What follows an entry that is not in its place is decided again.
    async fn agree_all(&mut self, batch: &mut Deciding) {
        if batch.entries.is_empty() {
            if let Err(adrift) = self.confirm().await {
                give_up(&mut batch.decided, &adrift);
            }
            return;
        }
        let agreed = match self.agree(&batch.entries, batch.reserve).await {
            Ok(agreed) => agreed,
            Err(stopped) => {
                self.publish();
                return give_up(&mut batch.decided, &stopped);
            }
        };
        let stands = |decided: &Decided| agreed.done > 0 && decided.rests_on <= agreed.done;
        let (stands, mut others): (Vec<_>, Vec<_>) = std::mem::take(&mut batch.decided).into_iter().partition(stands);
        batch.decided = stands;
        if agreed.misplaced {
            let again = others.into_iter().map(|decided| decided.asked);
            batch.rest = again.chain(std::mem::take(&mut batch.rest)).collect();
        } else {
            give_up(&mut others, &agreed::Adrift);
            batch.decided.append(&mut others);
        }
    }

    /// Decides one command and encodes its entry. Its effects go into the overlay only if its entry goes into the batch.
    fn decide(
        &self,
        overlay: &mut Overlay<'_>,
        writer: Epoch,
        command: &Command,
        entries: &mut Vec<BatchEntry>,
    ) -> Result<Answer, Undecided> {
        let (lsn, prev_hash) = match entries.last() {
            Some(last) => (last.lsn.next(), last.hash),
            None => (self.journal.next_lsn(), self.journal.last_hash()),
        };
        let losses = Losses { wounds: self.shared.wounds(), ..self.losses.clone() };
        let sabotage = self.shared.sabotage.clone();
        let (wall_ms, level) = (self.shared.clock.wall_ms(), self.shared.level());
        let at = At { lsn, wall_ms, level, losses, sabotage };
        let decision = match state::decide(overlay, writer, command, &at) {
            Ok(decision) if decision.is_noop() => return Ok(Ok(decision.outcome)),
            Ok(decision) => decision,
            Err(DecideError::Refused(refusal)) => return Ok(Err(CommitError::Refused(refusal))),
            Err(DecideError::Index(error)) => return Ok(Err(CommitError::Unavailable { reason: error.to_string() })),
        };
        let epoch = self.journal.epoch();
        let encoded = match encode_entry(lsn, epoch, prev_hash, &decision.effects, &decision.frames) {
            Ok(encoded) if encoded.bytes.len() <= self.shared.max_entry => encoded,
            _ => return Ok(Err(CommitError::Refused(Refusal::TooLarge))),
        };
        state::apply(overlay, lsn, &encoded.hash, &decision.effects).map_err(|error| match error {
            // It was looked whether the index is where the journal is, and a change of members was applied since. A leader that
            // stopped for it would go on to lead, and refuse every write.
            ApplyError::Gap { applied, .. } if self.agreement.is_some() && applied >= lsn => Undecided::Overtaken,
            error => Undecided::Stopped(JournalStopped::Index(error.to_string())),
        })?;
        entries.push(BatchEntry { lsn, epoch, hash: encoded.hash, prev_hash, bytes: encoded.bytes });
        Ok(Ok(decision.outcome))
    }

    /// The order that makes an acknowledgement true: the journal first, then the index.
    async fn make_durable(
        &mut self,
        entries: Vec<BatchEntry>,
        changes: storage_node::kv::KvBatch,
        reserve: Reserve,
    ) -> Result<(), JournalStopped> {
        let batch = self.append(entries, reserve).await?;
        if let Err(error) = self.shared.kv.write(changes) {
            self.in_doubt = Some(batch);
            return Err(self.journal.stop(JournalStopped::Index(error.to_string())));
        }
        let last = self.journal.next_lsn().0.saturating_sub(1);
        self.shared.committed(Lsn(last), batch.weight());
        Ok(())
    }

    /// Brings entries to 1+m drives. What was not confirmed is in doubt, and the journal stops.
    async fn append(&mut self, entries: Vec<BatchEntry>, reserve: Reserve) -> Result<Batch, JournalStopped> {
        let batch = match Batch::new(entries) {
            Ok(batch) => batch,
            Err(error) => return Err(self.journal.stop(JournalStopped::Encode(error.to_string()))),
        };
        let sequence = self.journal.register().sequence;
        if let Err(stopped) = self.journal.append(&batch, reserve).await {
            self.in_doubt = Some(batch);
            return Err(stopped);
        }
        if self.journal.register().sequence != sequence {
            // The new member may be fuller than the old ones.
            self.room = self.room.min(self.members_room());
            self.publish();
        }
        Ok(batch)
    }
}

/// Bytes of clients' frames in a command: what the reserve is not for.
fn frame_bytes(command: &Command) -> usize {
    let inline = |chunks: &[NewChunk]| chunks.iter().map(inline_len).sum();
    match command {
        Command::CommitObject(c) => inline(&c.chunks),
        Command::CommitPart { chunks, .. } => inline(chunks),
        Command::CompleteUpload(c) => inline(&c.chunks),
        _ => 0,
    }
}

fn inline_len(chunk: &NewChunk) -> usize {
    if let NewFrame::Inline(frame) = &chunk.frame { frame.len() } else { 0 }
}
