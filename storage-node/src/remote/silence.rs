//! How a node's drives are, also while the node gives no answer.
//!
//! Invariants:
//! * Whoever asks for the drives waits for [`Deadlines::prompt`](super::Deadlines::prompt) at most, and not at all while the
//!   node gives no answer: commits and stripes wait for whoever asks. One task goes on asking meanwhile.
//! * The drives of a node that gives no answer are stalled at once, so that nothing new is placed on them and reads go around
//!   them. They have failed when the node was silent for [`Deadlines::silent`](super::Deadlines::silent), and not before: what
//!   a node held is rebuilt, and verified when it is back, which takes days. One lost answer is no reason for it.

use super::link::Trouble;
use super::{Known, RemoteNode};
use crate::client::{DriveHealth, DriveStatus, STALLED_AFTER, WRITE_DEADLINE};
use crate::service::grants::MOST;
use crate::service::message::{DriveList, DriveMessage, GrantList, OfDrives};
use crate::service::method::Method;
use codec::id::DriveId;
use std::sync::Weak;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long after a question that had no answer a silent node is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Known {
    /// How long the node has given no answer, where that is longer than it is waited for.
    fn unanswered(&self, patience: Duration) -> Option<Duration> {
        // Whoever is told that nobody answers has nothing written or read there: as one who waited as long as for a write.
        let quiet = self.quiet.map(|since| since.elapsed().max(WRITE_DEADLINE));
        let late = || self.asked.map(|asked| asked.elapsed()).filter(|waited| *waited >= patience);
        quiet.or_else(|| late().map(|waited| waited.max(STALLED_AFTER)))
    }
}

impl RemoteNode {
    /// How long an answer is waited for. Of a node that has never answered nothing is known that could be told instead.
    fn patience(&self, known: &Known) -> Duration {
        if known.answered.is_some() { self.deadlines.prompt } else { self.deadlines.ask }
    }

    /// Whether the node gives no answer at all.
    pub(super) fn is_quiet(&self) -> bool {
        self.known().quiet.is_some()
    }

    /// Whether the node has not answered the last question for its drives.
    pub(super) fn is_silent(&self) -> bool {
        let known = self.known();
        known.silent || known.unanswered(self.patience(&known)).is_some()
    }

    /// Whether a drive lets something wait, or its node does.
    pub(super) fn waits(&self, drive: DriveId) -> bool {
        let known = self.known();
        let unanswered = known.unanswered(self.patience(&known)).is_some();
        known.drives.iter().any(|status| status.id == drive && (unanswered || status.waits(STALLED_AFTER)))
    }

    /// The drives, asked now; as they are known to be when the node does not answer soon.
    pub(super) async fn statuses(&self) -> Vec<DriveStatus> {
        let patience = {
            let known = self.known();
            let patience = self.patience(&known);
            if known.unanswered(patience).is_some() {
                return self.as_known(&known);
            }
            patience
        };
        if let Some(me) = self.me.upgrade() {
            // In a task, so that the answer is learned also when nobody waits for it any more.
            let asking = tokio::spawn(async move { me.ask_drives().await });
            if let Ok(Ok(Some(drives))) = timeout(patience, asking).await {
                return drives;
            }
        }
        self.as_known(&self.known())
    }

    /// Has one task ask whether the node answers at all, unless one does already.
    pub(super) fn look(&self) {
        let known = self.known();
        let nobody_asks = known.asked.is_none() && !known.probing;
        if let (true, Some(me)) = (nobody_asks, self.me.upgrade()) {
            tokio::spawn(async move { me.ask_drives().await });
        }
    }

    fn as_known(&self, known: &Known) -> Vec<DriveStatus> {
        let mut drives = known.drives.clone();
        let Some(waited) = known.unanswered(self.patience(known)) else { return drives };
        let failed = known.quiet.is_some_and(|since| since.elapsed() >= self.deadlines.silent);
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        for drive in &mut drives {
            drive.unanswered_ms = drive.unanswered_ms.max(waited_ms);
            if failed {
                let reason = format!("storage node {} can't be reached", self.target.node.name);
                drive.health = DriveHealth::Failed { reason };
            }
        }
        drives
    }

    /// The question, with the level, and what the node has not heard yet of what was granted.
    fn of_drives(&self) -> OfDrives {
        let known = self.known();
        let Some(epoch) = known.epoch else { return OfDrives::default() };
        let question = OfDrives { leader: epoch.0, level: self.target.level.get().0, ..OfDrives::default() };
        match known.grants.as_ref().filter(|grants| grants.version() != known.heard) {
            None => question,
            Some(many) if many.epochs().len() > MOST => {
                OfDrives { too_many: Some(GrantList::of_too_many(epoch, many)), ..question }
            }
            Some(grants) => OfDrives { grants: Some(GrantList::new(epoch, grants)), ..question },
        }
    }

    /// Asks, and takes in what comes of it.
    pub(super) async fn ask_drives(&self) -> Option<Vec<DriveStatus>> {
        let asked = Instant::now();
        self.known().asked.get_or_insert(asked);
        let answer = async {
            let list: DriveList = self.ask(Method::Drives, self.of_drives(), self.deadlines.ask).await?;
            let drives = self.read(list.drives.iter().cloned().map(DriveMessage::value).collect::<Option<Vec<_>>>())?;
            Ok::<_, Trouble>((list, drives))
        };
        match answer.await {
            Ok((list, drives)) => Some(self.learn(&list, drives, asked)),
            Err(_) => {
                self.has_no_answer(asked);
                None
            }
        }
    }

    fn has_no_answer(&self, asked: Instant) {
        let mut known = self.known();
        if known.answered.is_some_and(|answered| answered >= asked) {
            // A later question was answered.
            return;
        }
        known.silent = true;
        known.quiet.get_or_insert(asked);
        known.asked = None;
        if !std::mem::replace(&mut known.probing, true) {
            tokio::spawn(probe(self.me.clone()));
        }
    }
}

/// Asks until there is an answer.
async fn probe(node: Weak<RemoteNode>) {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        let Some(node) = node.upgrade() else { return };
        let _learned = node.ask_drives().await;
        // Under one lock: a question that has no answer from now on starts another task.
        let mut known = node.known();
        if known.quiet.is_none() {
            known.probing = false;
            return;
        }
    }
}
