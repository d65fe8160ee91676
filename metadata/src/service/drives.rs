//! Changing the set of drives while the service runs: adding, emptying, removing.
//!
//! Order, and what a crash between two steps leaves:
//! * A new drive is opened by the node, then registered (the register on a majority of the drives), then becomes a row, and
//!   only then gets shards. A registered drive without a row gets one with the next start; one that is not registered is
//!   looked at by nobody.
//! * A drive that is emptied is a row that says so: the journal moves off it, new shards go elsewhere, and repair moves what is
//!   there. After a restart all of that goes on.
//! * A drive is removed by its row, once nothing is placed there any more or an operator has declared it lost. From then on
//!   what it holds never counts again. It leaves the register with the next look at the drives.

mod room;

use super::{CommitError, Metadata};
use crate::client::MetadataClient;
use crate::command::Command;
use crate::commit::Request;
use crate::fail_slow::Slow;
use crate::index::{self, IndexError, STRIPES};
use crate::journal::JournalStopped;
use crate::lookup::{self, Wounds};
use crate::topology::{self, Level};
use bytes::Bytes;
use codec::effect::{DriveRow, DriveState, StripeRow};
use codec::id::{DriveId, StripeId};
use codec::register::Register;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use storage_node::client::{DriveHealth, DriveStatus, STALLED_AFTER};
use storage_node::drive::{DriveError, ProbedDrive};
use storage_node::keep::ScrubStatus;
use storage_node::kv::{Direction, Kv};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What the rows place on a drive is counted again after this time, or ten times as long as counting took.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// How long a change of the drives waits for a drive to be closed and forgotten, before it leaves that to be done aside.
const FORGET_WAIT: Duration = Duration::from_secs(5);

/// Why the set of drives was not changed.
#[derive(Debug, thiserror::Error)]
pub enum DriveChangeError {
    /// No such drive.
    #[error("no drive {0} is registered")]
    Unknown(DriveId),
    /// It was removed; a drive that comes back is a new one, formatted anew.
    #[error("drive {0} was removed from this cluster and can't come back as it is")]
    Removed(DriveId),
    /// The directory is no drive of this cluster.
    #[error("the directory is no drive of this cluster")]
    NotADrive,
    /// The drive was opened, and can't be used.
    #[error("drive {drive} can't be used: {reason}")]
    Unusable {
        /// The drive.
        drive: DriveId,
        /// Why.
        reason: String,
    },
    /// A drive that does not answer can't be emptied.
    #[error("drive {0} does not answer, so nothing can be read from it: bring it back, or replace it")]
    Silent(DriveId),
    /// A drive that is not removed was seen there last: what is there now may be the directory that it is mounted on (R18).
    #[error(
        "drive {drive} was at {path} when it was last seen, and does not answer: mount it there for its node to open it, or put \
         another in its place (stele drive replace {drive} {path})"
    )]
    PlaceOf {
        /// The drive.
        drive: DriveId,
        /// Where it was, as node and path.
        path: String,
    },
    /// A drive that answers is not lost.
    #[error("drive {0} answers: drain it first")]
    NotLost(DriveId),
    /// The others are too few.
    #[error("{left} other drives take new shards, {needed} are needed: add a drive first")]
    TooFewDrives {
        /// Usable drives beside these.
        left: usize,
        /// k+m, or as many as the widest stripe or the journal needs.
        needed: usize,
    },
    /// By the rule of placement the others hold fewer shards of a stripe.
    #[error(
        "the other drives hold {left} shards of a stripe with no more than may be lost on one {level}, as the rule wants, and {needed} \
         are needed: add drives on another {level} first"
    )]
    Rule {
        /// The rule.
        level: Level,
        /// Shards of one stripe that the others hold by it.
        left: usize,
        /// k+m, or as many as the widest stripe has, or as fit by the rule now.
        needed: usize,
    },
    /// What is on the drive has no room on the others.
    #[error("{bytes} bytes are to be moved, the other drives have room for {room}{}: add a drive first", by_rule(*.level))]
    NoRoom {
        /// The rule.
        level: Level,
        /// Bytes on drives that are being emptied, these included.
        bytes: u64,
        /// Of these, how many find room elsewhere, where the rule lets them.
        room: u64,
    },
    /// Shards are still placed there.
    #[error("{shards} shards are still on drive {drive}: drain it, or wait until it is drained")]
    NotEmpty {
        /// The drive.
        drive: DriveId,
        /// How many.
        shards: u64,
    },
    /// It is not being emptied, so new shards may be on their way to it.
    #[error("drive {0} is in use: drain it first")]
    InUse(DriveId),
    /// It still keeps the journal.
    #[error("drive {0} still keeps the journal: wait a moment")]
    KeepsJournal(DriveId),
    /// Stripes that can't be read unless this drive comes back: elsewhere too few of their shards are known to be good.
    #[error(
        "{stripes} stripes can't be read without drive {drive}, as far as the others answer and are verified: it is not given up"
    )]
    LastHope {
        /// The drive.
        drive: DriveId,
        /// How many.
        stripes: u64,
    },
    /// Journal entries that too few other drives are known to have.
    #[error("drive {0} may alone hold journal entries that are not sealed (stele journal seal): it is not given up")]
    LastJournal(DriveId),
    /// Without this drive more than half of the registered ones would not be there, and no start would serve writes.
    #[error(
        "without drive {drive} {left} of {registered} registered drives would take writes, more than half are needed: first \
         bring back, or remove with --lost, {}", names(.dead)
    )]
    Majority {
        /// The drive.
        drive: DriveId,
        /// The others that take writes.
        left: usize,
        /// The others.
        registered: usize,
        /// Those that don't.
        dead: Vec<DriveId>,
    },
    /// What the drive holds could not be counted, so that nobody knows whether it is needed.
    #[error("what the drives hold could not be counted (the log says why): nothing is given up")]
    NotCounted,
    /// The node failed.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// The register was not written to enough drives.
    #[error(transparent)]
    Journal(#[from] JournalStopped),
    /// The change was not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

fn by_rule(level: Level) -> String {
    match level {
        Level::Drive => String::new(),
        level => format!(" where they may go: no more shards of a stripe than may be lost on one {level}"),
    }
}

fn names(drives: &[DriveId]) -> String {
    drives.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What the stripes' rows place on a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriveUse {
    /// Shards.
    pub shards: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Shards of the widest stripe among them.
    pub widest: usize,
    /// Stripes that the others can't give without this one, by the shards that are on drives which answer and not known to be
    /// bad, or not yet verified.
    pub needed: u64,
}

/// A drive, with all that is known of it.
#[derive(Clone, Debug)]
pub struct DriveDetail {
    /// Its identity.
    pub id: DriveId,
    /// Where it is, or was seen last.
    pub path: String,
    /// The number of its node; 0 on one machine.
    pub node: u32,
    /// `serving`, `read-only`, `absent`, `failed`, `draining`, `drained` or `removed`.
    pub state: &'static str,
    /// Why it is failed or read-only, or that it has not answered for a while; empty otherwise.
    pub reason: String,
    /// Whether it keeps the journal.
    pub journal: bool,
    /// As its node sees it.
    pub status: Option<DriveStatus>,
    /// Its scrub.
    pub scrub: Option<ScrubStatus>,
    /// It takes far longer than the others.
    pub slow: Option<Slow>,
    /// What is still placed there, while it is being emptied or after it was removed.
    pub left: Option<DriveUse>,
}

/// The last count of what the rows place on drives.
#[derive(Debug, Default)]
pub(super) struct LastCount(Option<(Instant, Arc<BTreeMap<DriveId, DriveUse>>)>);

/// Whoever has it changes the set of drives or of nodes; nobody else does meanwhile.
pub(super) type Turn<'a> = tokio::sync::MutexGuard<'a, ()>;

impl Metadata {
    /// Waits until nobody else changes the set of drives.
    pub(super) async fn turn(&self) -> Turn<'_> {
        self.changes.lock().await
    }

    /// Takes a drive into the cluster, formatted and of this cluster; from the answer on it gets new shards. Doing it again
    /// completes what was interrupted. Filling its reserve may take long.
    pub async fn add_drive(&self, probed: ProbedDrive) -> Result<DriveId, DriveChangeError> {
        let _turn = self.turn().await;
        self.writing()?;
        let drive = probed.identity.ok_or(DriveChangeError::NotADrive)?.drive;
        match self.drive_row(drive)? {
            Some(row) if row.state == DriveState::Removed as i32 => return Err(DriveChangeError::Removed(drive)),
            Some(_) => return Ok(drive),
            None => {}
        }
        if !self.node.drives().await.iter().any(|status| status.id == drive) {
            self.node.add_drive(probed).await?;
        }
        self.register_open(drive).await
    }

    /// Takes in a drive that a storage node has opened, as [`add_drive`](Self::add_drive) does. In the caller's turn, in which he
    /// has looked at the node's row.
    pub(super) async fn register(&self, drive: DriveId, _turn: &Turn<'_>) -> Result<DriveId, DriveChangeError> {
        self.writing()?;
        match self.drive_row(drive)? {
            Some(row) if row.state == DriveState::Removed as i32 => Err(DriveChangeError::Removed(drive)),
            Some(_) => Ok(drive),
            None => self.register_open(drive).await,
        }
    }

    /// The register, then the row.
    async fn register_open(&self, drive: DriveId) -> Result<DriveId, DriveChangeError> {
        let status = self.node.drives().await;
        // Its row would name no node: two shards of a stripe could lie together with it, and its node be removed under it.
        let Some(seen) = status.iter().find(|status| status.id == drive).cloned() else {
            let reason = "it was opened, and does not answer any more".to_owned();
            return Err(DriveChangeError::Unusable { drive, reason });
        };
        if let DriveHealth::ReadOnly { reason } | DriveHealth::Failed { reason } = seen.health {
            // One that a storage node has stays there, and may be asked for again.
            if seen.node == 0 {
                self.forget(drive).await?;
            }
            return Err(DriveChangeError::Unusable { drive, reason });
        }
        self.settle(status, Some(drive)).await?;
        let id = Bytes::copy_from_slice(drive.as_bytes());
        let row = DriveRow { id, state: DriveState::Active as i32, ..DriveRow::default() };
        self.put_row(topology::as_seen(&row, &seen)).await?;
        tracing::info!(%drive, "a drive was added");
        self.look_at_drives().await?;
        Ok(drive)
    }

    /// Begins to empty a drive: no new shards and no journal there, and repair moves what is there.
    pub async fn drain_drive(&self, drive: DriveId) -> Result<(), DriveChangeError> {
        self.drain_in(&self.turn().await, drive).await
    }

    pub(super) async fn drain_in(&self, _turn: &Turn<'_>, drive: DriveId) -> Result<(), DriveChangeError> {
        self.writing()?;
        let row = self.known_row(drive)?;
        if row.state == DriveState::Draining as i32 {
            return Ok(());
        }
        let status = self.node.drives().await;
        if !answers(&status, drive) {
            return Err(DriveChangeError::Silent(drive));
        }
        // Of a node that is being emptied it was looked at together.
        self.check_room(&status, &BTreeSet::from([drive])).await?;
        self.put_row(DriveRow { state: DriveState::Draining as i32, ..row }).await?;
        tracing::info!(%drive, "a drive is being emptied");
        self.look_at_drives().await
    }

    /// Whether drives can be emptied together.
    pub(super) async fn check_drain(&self, drives: &[DriveId]) -> Result<(), DriveChangeError> {
        let status = self.node.drives().await;
        if let Some(silent) = drives.iter().find(|drive| !answers(&status, **drive)) {
            return Err(DriveChangeError::Silent(*silent));
        }
        self.check_room(&status, &drives.iter().copied().collect()).await
    }

    /// Ends the emptying of a drive: it takes new shards again.
    pub async fn cancel_drain(&self, drive: DriveId) -> Result<(), DriveChangeError> {
        self.cancel_drain_in(&self.turn().await, drive).await
    }

    pub(super) async fn cancel_drain_in(&self, _turn: &Turn<'_>, drive: DriveId) -> Result<(), DriveChangeError> {
        self.writing()?;
        let row = self.known_row(drive)?;
        if row.state == DriveState::Draining as i32 {
            self.put_row(DriveRow { state: DriveState::Active as i32, ..row }).await?;
            tracing::info!(%drive, "a drive is not emptied any more");
        }
        self.look_at_drives().await
    }

    /// Removes a drive for good: one that is drained, or one that does not answer and on which nothing is placed any more.
    /// With `lost`, one that does not answer, whatever lay there: repair begins at once. What the drive holds never counts
    /// again.
    pub async fn remove_drive(&self, drive: DriveId, lost: bool) -> Result<(), DriveChangeError> {
        self.remove_in(&self.turn().await, drive, lost).await
    }

    pub(super) async fn remove_in(&self, _turn: &Turn<'_>, drive: DriveId, lost: bool) -> Result<(), DriveChangeError> {
        self.writing()?;
        let Some(row) = self.drive_row(drive)? else { return Err(DriveChangeError::Unknown(drive)) };
        if row.state != DriveState::Removed as i32 {
            self.check_removal(&row, drive, lost).await?;
            self.put_row(DriveRow { state: DriveState::Removed as i32, ..row }).await?;
            tracing::warn!(%drive, lost, "a drive was removed");
        }
        // The ensemble first: its tail is copied from whoever has it.
        let register = self.settle(self.node.drives().await, None).await?;
        if register.registered.contains(&drive) {
            tracing::warn!(%drive, "a removed drive is still registered; it is taken out when enough drives answer");
        }
        if self.node.drives().await.iter().any(|status| status.id == drive) {
            self.forget(drive).await?;
        }
        self.look_at_drives().await
    }

    /// Has the node forget a drive, and does not wait long for it: whoever is opening that drive has its turn first, for as long
    /// as it shows progress, and meanwhile no other drive could be added, drained or removed. What is not done when this process
    /// ends is done by the next start.
    async fn forget(&self, drive: DriveId) -> Result<(), DriveChangeError> {
        let node = self.node.clone();
        let forgetting = tokio::spawn(async move {
            let forgotten = node.forget_drive(drive).await;
            if let Err(error) = &forgotten {
                tracing::warn!(%drive, %error, "a drive that is none of the cluster's was not forgotten");
            }
            forgotten
        });
        match tokio::time::timeout(FORGET_WAIT, forgetting).await {
            Ok(Ok(forgotten)) => Ok(forgotten?),
            Ok(Err(_)) => Err(DriveError::Thread { drive }.into()),
            Err(_) => {
                tracing::warn!(%drive, "a drive is still being opened; it is closed and forgotten after that");
                Ok(())
            }
        }
    }

    /// Whether a drive that does not answer could be removed as lost now.
    pub async fn check_lost(&self, drive: DriveId) -> Result<(), DriveChangeError> {
        match self.drive_row(drive)? {
            None => Err(DriveChangeError::Unknown(drive)),
            Some(row) if row.state == DriveState::Removed as i32 => Ok(()),
            Some(row) => self.check_removal(&row, drive, true).await,
        }
    }

    /// All drives that ever were registered, by id.
    pub async fn drive_details(&self) -> Result<Vec<DriveDetail>, IndexError> {
        let rows = index::drives(&self.view())?;
        let status = self.node.drives().await;
        let scrub = self.node.scrub_status().await;
        let slow = self.shared.slow();
        let members = self.members();
        let counted = |row: &DriveRow| row.state != DriveState::Active as i32;
        // Where it could not be counted nothing is said of what is left: least of all that it is nothing.
        let count = if rows.iter().any(counted) { self.count(&status, false).await? } else { None };
        let detail = |row: &DriveRow| {
            let id = DriveId::from_slice(&row.id)?;
            let status = status.iter().find(|status| status.id == id).cloned();
            let is_draining = row.state == DriveState::Draining as i32;
            let left = count.as_ref().filter(|_| counted(row));
            let left = left.map(|count| count.get(&id).copied().unwrap_or_default());
            let journal = members.contains(&id);
            let (state, reason) = match status.as_ref().map(|status| &status.health) {
                _ if row.state == DriveState::Removed as i32 => ("removed", String::new()),
                None => ("absent", String::new()),
                Some(DriveHealth::Failed { reason }) => ("failed", reason.clone()),
                Some(_) if is_draining && !journal && left.is_some_and(|left| left.shards == 0) => {
                    ("drained", String::new())
                }
                Some(_) if is_draining => ("draining", String::new()),
                Some(DriveHealth::ReadOnly { reason }) => ("read-only", reason.clone()),
                Some(DriveHealth::Healthy) => {
                    let stalled = status.as_ref().filter(|status| status.waits(STALLED_AFTER));
                    ("serving", stalled.map_or_else(String::new, |status| no_answer(status.unanswered_ms)))
                }
            };
            let path = status.as_ref().map_or_else(|| row.path.clone(), |status| status.path.clone());
            let scrub = scrub.iter().find(|scrub| scrub.drive == id).cloned();
            Some(DriveDetail {
                id,
                path,
                node: status.as_ref().map_or(row.node, |status| status.node),
                state,
                reason,
                journal,
                status,
                scrub,
                slow: slow.slow().get(&id).copied(),
                left,
            })
        };
        Ok(rows.iter().filter_map(detail).collect())
    }

    fn members(&self) -> Vec<DriveId> {
        self.shared.volatile().register.as_ref().map(|register| register.members.clone()).unwrap_or_default()
    }

    pub(super) fn drive_row(&self, drive: DriveId) -> Result<Option<DriveRow>, IndexError> {
        index::drive(&self.view(), drive)
    }

    /// The row of a drive that is not removed.
    fn known_row(&self, drive: DriveId) -> Result<DriveRow, DriveChangeError> {
        match self.drive_row(drive)? {
            None => Err(DriveChangeError::Unknown(drive)),
            Some(row) if row.state == DriveState::Removed as i32 => Err(DriveChangeError::Removed(drive)),
            Some(row) => Ok(row),
        }
    }

    async fn put_row(&self, row: DriveRow) -> Result<(), CommitError> {
        self.commit(self.epoch(), Command::RegisterDrive(row)).await.map(drop)
    }

    async fn check_removal(&self, row: &DriveRow, drive: DriveId, lost: bool) -> Result<(), DriveChangeError> {
        let status = self.node.drives().await;
        let silent = !answers(&status, drive);
        if lost && !silent {
            return Err(DriveChangeError::NotLost(drive));
        }
        if !silent && row.state != DriveState::Draining as i32 {
            return Err(DriveChangeError::InUse(drive));
        }
        if !silent && self.members().contains(&drive) {
            return Err(DriveChangeError::KeepsJournal(drive));
        }
        let others = status.iter().filter(|other| other.id != drive && other.health == DriveHealth::Healthy).count();
        let needed = 1 + usize::from(self.geometry.m());
        if others < needed {
            return Err(DriveChangeError::TooFewDrives { left: others, needed });
        }
        if !silent {
            self.check_majority(&status, drive)?;
        }
        let wounds = self.shared.wounds();
        let is_lost = |other| !answers(&status, other) || wounds.unverified.contains_key(&other);
        let thin = || wounds.thin_entries.iter().any(|thin| self.shared.map.holds_any(drive, thin));
        if self.shared.map.is_last_holder(drive, &is_lost) || thin() {
            return Err(DriveChangeError::LastJournal(drive));
        }
        let count = self.count(&status, true).await?.ok_or(DriveChangeError::NotCounted)?;
        match count.get(&drive).copied().unwrap_or_default() {
            DriveUse { needed: stripes @ 1.., .. } => Err(DriveChangeError::LastHope { drive, stripes }),
            DriveUse { shards: shards @ 1.., .. } if !lost => Err(DriveChangeError::NotEmpty { drive, shards }),
            _ => Ok(()),
        }
    }

    /// Whether more than half of the drives that stay registered take writes without this one, which does. One that does not
    /// answer is missed already, and less so once it is not registered any more.
    fn check_majority(&self, status: &[DriveStatus], drive: DriveId) -> Result<(), DriveChangeError> {
        let Some(register) = self.shared.volatile().register.clone() else { return Ok(()) };
        let healthy = |id: &DriveId| status.iter().any(|s| s.id == *id && s.health == DriveHealth::Healthy);
        let others = register.registered.iter().copied().filter(|id| *id != drive);
        let (there, dead): (Vec<DriveId>, Vec<DriveId>) = others.partition(healthy);
        let (left, registered) = (there.len(), there.len() + dead.len());
        if left > registered / 2 {
            return Ok(());
        }
        Err(DriveChangeError::Majority { drive, left, registered, dead })
    }

    /// Asks the committer to register a drive, and to bring the ensemble in line with the drives and rows as they are.
    async fn settle(&self, status: Vec<DriveStatus>, add: Option<DriveId>) -> Result<Register, DriveChangeError> {
        let stopping = || CommitError::Unavailable { reason: "the service is stopping".to_owned() };
        let (reply, answer) = oneshot::channel();
        let request = Request::Drives { status, add, reply };
        self.writing()?.requests.send(request).await.map_err(|_| stopping())?;
        Ok(answer.await.map_err(|_| stopping())??)
    }

    /// What everybody knows of the drives is as they are now.
    async fn look_at_drives(&self) -> Result<(), DriveChangeError> {
        let status = self.node.drives().await;
        self.shared.set_drives(status.clone());
        self.settle(status, None).await?;
        if let Some(keeper) = self.keeper() {
            keeper.wake();
        }
        Ok(())
    }

    /// What the rows place on each drive; `None` when the thread that counts has ended. Reads all stripes' rows, unless that
    /// was done a moment ago and `now` is not said.
    async fn count(
        &self,
        status: &[DriveStatus],
        now: bool,
    ) -> Result<Option<Arc<BTreeMap<DriveId, DriveUse>>>, IndexError> {
        let mut last = self.counted.lock().await;
        if let Some((due, count)) = last.0.as_ref().filter(|(due, _)| !now && Instant::now() < *due) {
            tracing::trace!(?due, "counted a moment ago");
            return Ok(Some(count.clone()));
        }
        let begun = Instant::now();
        let answering: BTreeSet<DriveId> =
            status.iter().map(|status| status.id).filter(|drive| answers(status, *drive)).collect();
        let (kv, wounds) = (self.shared.kv.clone(), self.shared.wounds());
        let counting = tokio::task::spawn_blocking(move || count(&*kv, &answering, &wounds));
        let count = match counting.await {
            Ok(count) => Arc::new(count?),
            Err(error) => {
                tracing::error!(%error, "what the drives hold was not counted");
                return Ok(None);
            }
        };
        last.0 = Some((Instant::now() + COUNT_EVERY.max(10 * begun.elapsed()), count.clone()));
        Ok(Some(count))
    }
}

/// That a drive lets something wait for so long.
fn no_answer(ms: u64) -> String {
    format!("no answer for {} s", ms / 1000)
}

pub(super) fn answers(status: &[DriveStatus], drive: DriveId) -> bool {
    status.iter().any(|status| status.id == drive && !matches!(status.health, DriveHealth::Failed { .. }))
}

/// What the rows place on each drive. A row that does not decode is for the check of the rows to report.
fn count(
    kv: &dyn Kv,
    answering: &BTreeSet<DriveId>,
    wounds: &Wounds,
) -> Result<BTreeMap<DriveId, DriveUse>, IndexError> {
    let mut all: BTreeMap<DriveId, DriveUse> = BTreeMap::new();
    let mut rows = kv.scan(STRIPES, &[], Direction::Forward)?;
    while let Some((key, value)) = rows.next()? {
        let row = index::decode::<StripeRow>(STRIPES, &key, value).ok();
        let Some((id, row)) = StripeId::from_slice(&key).zip(row) else { continue };
        let Ok(descriptor) = lookup::descriptor(id, &row) else { continue };
        let placed: Vec<(u8, DriveId)> =
            (0..descriptor.width()).filter_map(|index| Some((index, row.drive(index)?))).collect();
        let is_good = |index: u8, drive: DriveId| answering.contains(&drive) && !wounds.has(id, index, drive);
        let good: Vec<DriveId> =
            placed.iter().filter(|(index, drive)| is_good(*index, *drive)).map(|(_, drive)| *drive).collect();
        let readable = |except: DriveId| good.iter().filter(|drive| **drive != except).count();
        for (index, drive) in &placed {
            let used = all.entry(*drive).or_default();
            used.shards += 1;
            used.bytes += u64::from(descriptor.shard_len(*index));
            used.widest = used.widest.max(placed.len());
            used.needed += u64::from(readable(*drive) < descriptor.data_present().len());
        }
    }
    Ok(all)
}
