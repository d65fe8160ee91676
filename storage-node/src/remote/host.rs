//! A node in another process as metadata's: it is told to begin, and it may have been started anew since it was last asked.
//!
//! Invariants:
//! * How often a drive was opened only grows, though each start of the node's process counts from one: whoever compares must
//!   see that the drive was away. It does not grow because an answer was lost: the same process has held the drive all the
//!   time, and to verify all that is on it takes days.
//! * A node that has not begun in the epoch that it was to begin in is told again each time that it answers for its drives, by
//!   one caller at a time, for as long as this process leads ([`NodeHost::leave`]): afterwards it is still asked for its drives.

use super::RemoteNode;
use super::link::{ConnectError, Trouble};
use crate::client::{DriveStatus, NodeClient, WriteError};
use crate::drive::{DriveError, ProbedDrive, ProbedState};
use crate::host::{Grants, NodeHost, NodeSight};
use crate::remote::NodeAddress;
use crate::service::Refusal;
use crate::service::fault::Fault;
use crate::service::identity::NodeName;
use crate::service::message::{DriveList, Nothing, OfDrive, OfEpoch, OfPlace, Taken, drive_bytes, drive_id};
use crate::service::method::Method;
use async_trait::async_trait;
use codec::id::{DriveId, Epoch};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

impl RemoteNode {
    /// Takes in what a node says of its drives.
    pub(super) fn learn(&self, list: &DriveList, mut drives: Vec<DriveStatus>, asked: Instant) -> Vec<DriveStatus> {
        let mut known = self.known();
        let top = known.opened.1;
        if known.incarnation != list.incarnation {
            // Started anew: for whoever compares, each drive was opened once more than ever before.
            (known.incarnation, known.opened.0) = (list.incarnation, top);
        }
        drives.retain(|drive| !known.forgotten.contains(&drive.id));
        for drive in &mut drives {
            drive.node = self.number;
            drive.path = format!("{}:{}", self.target.node.name, drive.path);
            drive.filesystem_id = self.filesystem(drive.filesystem_id);
            drive.opened = drive.opened.saturating_add(known.opened.0);
            known.opened.1 = known.opened.1.max(drive.opened);
        }
        (known.silent, known.quiet, known.asked) = (false, None, None);
        known.answered = known.answered.max(Some(asked));
        known.highest = Some(Epoch(list.highest)).filter(|highest| highest.0 > 0);
        known.heard = list.granted;
        known.drives.clone_from(&drives);
        let due = known.epoch.filter(|epoch| epoch.0 != list.begun && !known.telling);
        if let (Some(epoch), Some(me)) = (due, self.me.upgrade()) {
            known.telling = true;
            // Aside: filling a reserve takes long, and whoever asks for the drives does not wait for it.
            tokio::spawn(async move { me.tell(epoch).await.ok() });
        }
        drives
    }

    /// File systems of different machines may have the same number.
    fn filesystem(&self, id: u64) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.target.node.name.as_str().as_bytes()).update(&id.to_le_bytes());
        let hash = hasher.finalize();
        hash.as_bytes().first_chunk().map_or(id, |bytes| u64::from_le_bytes(*bytes))
    }

    /// Tells the node to begin. An error is a refusal: the node has been told to begin in a higher epoch.
    async fn tell(&self, epoch: Epoch) -> Result<(), DriveError> {
        let question = OfEpoch { epoch: epoch.0, level: self.target.level.get().0 };
        let told = self.ask::<_, Nothing>(Method::Begin, question, self.deadlines.long).await;
        {
            let mut known = self.known();
            if known.epoch == Some(epoch) {
                known.telling = false;
                known.superseded = None;
                if let Err(Trouble::Refused(Refusal::Superseded, reason)) = &told {
                    known.superseded = Some((epoch, reason.clone()));
                }
            }
            // Otherwise a later start has begun meanwhile: what this one was answered says nothing about that one.
        }
        match told {
            Ok(_) => {
                tracing::info!(node = %self.target.node, %epoch, "a storage node has begun");
            }
            Err(Trouble::Refused(Refusal::Superseded, reason)) => {
                tracing::error!(node = %self.target.node, %epoch, reason, "a storage node refuses to begin");
                return Err(DriveError::NotBegun { node: self.target.node.name.to_string(), epoch, reason });
            }
            Err(_) => {
                tracing::warn!(node = %self.target.node, %epoch, problem = ?self.problem(), "a storage node has not begun")
            }
        }
        Ok(())
    }
}

#[async_trait]
impl NodeHost for RemoteNode {
    /// A node that does not answer is told when it is next asked for its drives and does, also after it was started anew. One
    /// that refuses is an error: nothing could be journaled there, and who went on would serve without its drives.
    async fn begin(&self, epoch: Epoch) -> Result<(), DriveError> {
        self.target.leads.store(epoch.0, Ordering::Release);
        {
            let mut known = self.known();
            if known.epoch != Some(epoch) {
                // Granted in another epoch: by an earlier service of this process.
                known.grants = None;
            }
            known.epoch = Some(epoch);
            known.superseded = None;
            known.telling = true;
        }
        self.tell(epoch).await
    }

    fn leave(&self) {
        let mut known = self.known();
        (known.epoch, known.grants, known.superseded, known.telling) = (None, None, None, false);
    }

    async fn granted(&self, grants: Arc<Grants>) {
        {
            let mut known = self.known();
            // Two are told at the same time: the one that was read first may come last.
            if known.grants.as_ref().is_none_or(|newest| newest.as_of() <= grants.as_of()) {
                known.grants = Some(grants);
            }
            if known.quiet.is_some() {
                return;
            }
        }
        // With the next question, in a task of its own: a node that is slow is told all the same.
        let Some(me) = self.me.upgrade() else { return };
        let telling = tokio::spawn(async move { me.ask_drives().await });
        if tokio::time::timeout(self.deadlines.prompt, telling).await.is_err() {
            tracing::warn!(node = %self.target.node, "a storage node has not heard yet which epochs were granted");
        }
    }

    async fn highest_epoch(&self) -> Option<Epoch> {
        let _now_known = self.drives().await;
        self.known().highest
    }

    async fn reopen(&self, drive: DriveId) -> Result<(), DriveError> {
        let opened = self.ask::<_, Nothing>(Method::Reopen, OfDrive::new(drive), self.deadlines.long).await;
        match opened {
            Ok(Nothing {}) => Ok(()),
            Err(Trouble::Fault(Fault::Write(WriteError::DriveFailed { reason, .. }))) => {
                let path = self.target.node.name.to_string();
                Err(DriveError::NotOurs { path, state: ProbedState::Damaged { reason } })
            }
            Err(Trouble::Fault(Fault::Write(WriteError::UnknownDrive(drive)))) => Err(DriveError::Unknown { drive }),
            Err(_) => Err(DriveError::Unreachable),
        }
    }

    async fn add_drive(&self, probed: ProbedDrive) -> Result<(), DriveError> {
        Err(DriveError::Elsewhere { path: probed.disk.path_hint() })
    }

    /// The node itself is not told: it keeps the directory until its configuration no longer names it.
    async fn forget_drive(&self, drive: DriveId) -> Result<(), DriveError> {
        let mut known = self.known();
        known.forgotten.insert(drive);
        known.drives.retain(|status| status.id != drive);
        known.scrubs.retain(|status| status.drive != drive);
        Ok(())
    }

    async fn stop(&self) {}

    async fn take_drive(&self, _node: &NodeName, path: &str, replaces: Option<DriveId>) -> Result<DriveId, DriveError> {
        let replaces = replaces.map(drive_bytes).unwrap_or_default();
        let question = OfPlace { path: path.to_owned(), replaces };
        // As long as a rebuild: a drive's reserve is filled before it is there.
        let answered = self.ask::<_, Taken>(Method::TakeDrive, question, self.deadlines.rebuild).await;
        let not_taken = |reason| DriveError::NotTaken { path: path.to_owned(), reason };
        match answered {
            Ok(taken) => drive_id(&taken.drive).ok_or_else(|| not_taken(taken.refused)),
            Err(Trouble::Refused(_, reason)) => Err(not_taken(reason)),
            Err(_) => Err(DriveError::Unreachable),
        }
    }

    fn nodes(&self) -> Vec<NodeSight> {
        let at = NodeAddress { name: self.target.node.name.clone(), address: self.target.address.clone() };
        let silent = self.is_silent();
        let known = self.known();
        let problem = match (&known.superseded, &known.problem) {
            (Some((_, reason)), _) => reason.clone(),
            (None, Some(problem)) if silent => problem.to_string(),
            _ => String::new(),
        };
        let other = silent && known.problem.as_ref().is_some_and(ConnectError::is_another);
        let release = self.control.linked().map(|link| link.release());
        let answered = known.answered;
        vec![NodeSight { at, number: self.number, silent, problem, answered, other, release }]
    }

    fn superseded(&self) -> Option<DriveError> {
        let (epoch, reason) = self.known().superseded.clone()?;
        Some(DriveError::NotBegun { node: self.target.node.name.to_string(), epoch, reason })
    }

    fn silent(&self) -> Vec<String> {
        self.is_silent().then(|| self.target.node.name.to_string()).into_iter().collect()
    }
}

/// The number of a node, for placement: from its name, so that it is the same for every metadata process and after every
/// start. Two names with one number count as one node, and get fewer shards of a stripe than they could.
pub(super) fn number_of(name: &NodeName) -> u32 {
    let hash = blake3::hash(name.as_str().as_bytes());
    hash.as_bytes().first_chunk().map_or(1, |bytes| u32::from_le_bytes(*bytes)).max(1)
}
