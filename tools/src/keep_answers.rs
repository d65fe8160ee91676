//! What the admin port says about keeping, and how it is put together. Times are milliseconds since the Unix epoch; 0: never.

use metadata::keep::lifecycle::{LifecycleReport, LifecycleStatus};
use metadata::keep::plan::{Plan, Wait, Waits};
use metadata::keep::reclaim::ReclaimStatus;
use metadata::keep::status::KeepStatus;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use storage_node::keep::{Finding, FindingKind, Medium, ScrubState, ScrubStatus, Subject};

/// Findings that one answer lists.
pub const MAX_FINDINGS: usize = 10_000;

/// `GET /v1/scrub`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubAnswer {
    /// All drives of the node.
    pub drives: Vec<ScrubDrive>,
}

/// A drive's scrub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubDrive {
    /// The drive.
    pub drive: String,
    /// `waiting`, `running`, `paused` or `stopped`.
    pub state: String,
    /// `direct` (O_DIRECT), or `dropped` (cached pages are dropped first).
    pub medium: String,
    /// When the pass in progress, or the last one, began.
    pub pass_began_ms: u64,
    /// When the last whole pass ended.
    pub last_pass_ms: u64,
    /// Bytes that the pass in progress has behind it.
    pub pass_bytes: u64,
    /// Bytes of segments on the drive.
    pub total_bytes: u64,
    /// Shards that were verified from the medium at least once.
    pub verified_shards: u64,
    /// Shards on the drive.
    pub shards: u64,
    /// When the shard that has waited longest was last verified, or written.
    pub oldest_ms: u64,
    /// Findings by kind; kinds without any are there with 0.
    pub findings: BTreeMap<String, u64>,
}

impl ScrubDrive {
    /// From the node's own.
    pub fn new(status: &ScrubStatus) -> ScrubDrive {
        let state = match status.state {
            ScrubState::Waiting => "waiting",
            ScrubState::Running => "running",
            ScrubState::Paused => "paused",
            ScrubState::Stopped => "stopped",
        };
        let medium = match status.medium {
            Medium::Direct => "direct",
            Medium::Dropped => "dropped",
        };
        let named = FindingKind::ALL.iter().zip(status.findings);
        ScrubDrive {
            drive: status.drive.to_string(),
            state: state.to_owned(),
            medium: medium.to_owned(),
            pass_began_ms: status.pass_began_ms,
            last_pass_ms: status.last_pass_ms,
            pass_bytes: status.pass_bytes,
            total_bytes: status.total_bytes,
            verified_shards: status.verified_shards,
            shards: status.shards,
            oldest_ms: status.oldest_ms,
            findings: named.map(|(kind, count)| (kind.name().to_owned(), count)).collect(),
        }
    }
}

/// `GET /v1/scrub/report`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingsAnswer {
    /// What is not as it should be, drive by drive.
    pub findings: Vec<FindingLine>,
    /// There are more than are listed.
    pub more: bool,
    /// Drives that could not be asked, and why.
    pub unasked: Vec<String>,
    /// Manifests that can't be read, when it was asked which objects depend on what: there may be more of them.
    #[serde(default)]
    pub unread_manifests: u64,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingLine {
    /// The drive.
    pub drive: String,
    /// The shard, the journal entries or the blocks.
    pub subject: String,
    /// What is wrong.
    pub kind: String,
    /// When it was first found.
    pub found_ms: u64,
    /// More for the operator.
    pub detail: String,
    /// Objects that depend on it, as BUCKET/KEY, up to the number asked for. Absent when it was not asked, or when nobody can
    /// say what was there.
    #[serde(default)]
    pub objects: Option<Vec<String>>,
    /// How many versions, and parts of open uploads, depend on it.
    #[serde(default)]
    pub object_count: Option<u64>,
}

impl FindingLine {
    /// From the node's own.
    pub fn new(finding: &Finding) -> FindingLine {
        let subject = match finding.subject {
            Subject::Shard(id) => format!("shard {id}"),
            Subject::Entries(first, last) => format!("journal entries {first} to {last}"),
            Subject::Blocks { segment, start, end } => format!("segment {segment}, blocks {start} to {end}"),
        };
        FindingLine {
            drive: finding.drive.to_string(),
            subject,
            kind: finding.kind.name().to_owned(),
            found_ms: finding.found_ms,
            detail: finding.detail.clone(),
            objects: None,
            object_count: None,
        }
    }
}

/// `GET /v1/repair`, and part of `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairAnswer {
    /// An operator has paused repair.
    pub paused: bool,
    /// Stripes that are not whole, by how many more shards they can lose. Negative: can't be read now.
    pub by_slack: Vec<SlackLine>,
    /// Of these, how many nothing can be done about for now.
    pub waiting: u64,
    /// What they wait for.
    #[serde(default)]
    pub waits: Vec<WaitLine>,
    /// Of these, how many are beyond repair unless drives come back.
    pub beyond: u64,
    /// How long the stripe that has been short of a shard for longest has been so, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// All stripes are being walked over: what is counted may not be all yet.
    pub walking: bool,
    /// All stripes were walked over since the start, and since a drive last went, came back or changed: that nothing else is
    /// short of a shard is known.
    #[serde(default)]
    pub whole_walk: bool,
    /// Stripes that the last whole walk met.
    pub stripes: u64,
    /// Shards rebuilt since the start.
    pub rebuilt_shards: u64,
    /// Bytes read for it.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Repairs that failed and were planned again.
    pub failed: u64,
    /// Stripes that are to be made narrower.
    pub narrower: u64,
    /// When the last inventory ended.
    pub inventory_ms: Option<u64>,
    /// Shards that it found wrong.
    pub inventory_found: u64,
    /// Shards that no row names.
    pub orphans: u64,
    /// Rows of the index that the last check found wrong.
    pub row_faults: Option<u64>,
    /// What somebody should look at, the worst first.
    pub alarms: Vec<String>,
}

/// Stripes of one slack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlackLine {
    /// How many more shards they can lose.
    pub slack: i32,
    /// How many they are.
    pub stripes: u64,
}

impl RepairAnswer {
    /// From the keeper's own.
    pub fn new(status: &KeepStatus) -> RepairAnswer {
        let inventory = status.inventory.as_ref();
        RepairAnswer {
            paused: status.repair_paused,
            by_slack: status
                .wounded
                .iter()
                .map(|(slack, stripes)| SlackLine { slack: *slack, stripes: *stripes })
                .collect(),
            waiting: status.waiting,
            waits: status.waits.iter().map(WaitLine::new).collect(),
            beyond: status.beyond,
            oldest_ms: status.oldest_repair_ms,
            walking: status.walk.running,
            whole_walk: status.walk.whole,
            stripes: status.walk.stripes,
            rebuilt_shards: status.totals.shards,
            read_bytes: status.totals.read,
            written_bytes: status.totals.written,
            failed: status.totals.failed,
            narrower: status.narrower,
            inventory_ms: inventory.map(|report| report.ended_ms),
            inventory_found: inventory.map_or(0, |report| report.found.iter().sum()),
            orphans: inventory.map_or(0, |report| report.orphans),
            row_faults: status.rows.as_ref().map(|(_, report)| report.faults),
            alarms: status.alarms.iter().map(ToString::to_string).collect(),
        }
    }

    /// Whether every stripe is known to be whole, and nothing is alarming.
    pub fn is_well(&self) -> bool {
        self.whole_walk && self.by_slack.is_empty() && self.alarms.is_empty()
    }
}

/// Stripes that wait for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitLine {
    /// Why they wait.
    pub why: String,
    /// How many they are.
    pub stripes: u64,
    /// Until when the first of them waits; absent: until something changes.
    pub until_ms: Option<u64>,
    /// Until when the last of them waits.
    pub last_ms: Option<u64>,
}

impl WaitLine {
    fn new(waits: &Waits) -> WaitLine {
        let Waits { why: first, stripes, until_ms } = *waits;
        WaitLine { why: why(first), stripes, until_ms: first.until_ms(), last_ms: until_ms }
    }
}

/// `GET /v1/repair/plan`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// To be rebuilt, the most endangered first.
    pub items: Vec<PlanItem>,
    /// How many are to be rebuilt after those.
    pub later: u64,
    /// Stripes to be made narrower, up to a thousand.
    pub narrower: Vec<String>,
    /// Left as they are for now: the most endangered first, up to a thousand.
    pub waiting: Vec<PlanWaiting>,
    /// All that wait, counted by reason.
    #[serde(default)]
    pub waits: Vec<WaitLine>,
    /// All stripes were walked over: nothing else is short of a shard.
    #[serde(default)]
    pub whole_walk: bool,
}

/// One stripe's repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanItem {
    /// The stripe.
    pub stripe: String,
    /// How many more shards it can lose now.
    pub slack: i32,
    /// Percent of drive time that it may take.
    pub share: u8,
    /// Bytes to be read.
    pub read_bytes: u64,
    /// Bytes to be written.
    pub write_bytes: u64,
    /// Indices of the shards, and the drives that they go to.
    pub targets: Vec<(u8, String)>,
}

/// A stripe that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanWaiting {
    /// The stripe.
    pub stripe: String,
    /// How many more shards it can lose now.
    pub slack: i32,
    /// Why it waits.
    pub why: String,
    /// Until when; absent: until something changes.
    #[serde(default)]
    pub until_ms: Option<u64>,
}

impl PlanAnswer {
    /// From the keeper's own.
    pub fn new(plan: &Plan, status: &KeepStatus) -> PlanAnswer {
        let items = plan.items.iter().map(|item| PlanItem {
            stripe: item.stripe.to_string(),
            slack: item.slack,
            share: item.share,
            read_bytes: item.read_bytes(),
            write_bytes: item.write_bytes(),
            targets: item.targets.iter().map(|target| (target.index, target.to.to_string())).collect(),
        });
        let waiting = plan.waiting.iter().map(|waiting| PlanWaiting {
            stripe: waiting.stripe.to_string(),
            slack: waiting.slack,
            why: why(waiting.why),
            until_ms: waiting.why.until_ms(),
        });
        PlanAnswer {
            items: items.collect(),
            later: plan.later as u64,
            narrower: plan.narrower.iter().map(ToString::to_string).collect(),
            waiting: waiting.collect(),
            waits: status.waits.iter().map(WaitLine::new).collect(),
            whole_walk: status.walk.whole,
        }
    }
}

fn why(wait: Wait) -> String {
    match wait {
        Wait::Grace { .. } => "its drive may answer again".to_owned(),
        Wait::Verify => "its drive is back and is being verified".to_owned(),
        Wait::Replacement { .. } => "no spare drive is left: a replacement is waited for".to_owned(),
        Wait::Again { .. } => "it was tried and came to nothing: it is tried again".to_owned(),
        Wait::TooFewDrives => "no spare drive is left, and too few for a narrower stripe".to_owned(),
        Wait::NoRoom => "no spare drive is left, and no room outside the reserve for a narrower stripe".to_owned(),
        Wait::NoSpare => "no other drive can take the shard of the drive that is being emptied".to_owned(),
        Wait::Beyond { lacking, may_return: true } => {
            format!("{lacking} shards too few; drives that don't answer have them")
        }
        Wait::Beyond { lacking, may_return: false } => format!("{lacking} shards too few"),
    }
}

/// `GET /v1/reclaim`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReclaimAnswer {
    /// Why nothing is deleted; absent when nothing holds it.
    pub held: Option<String>,
    /// Rounds since the start.
    pub rounds: u64,
    /// Bytes given back since the start.
    pub freed_bytes: u64,
    /// Dropped stripes that wait to be freed; at most 10,000 are counted.
    pub waiting: u64,
    /// Chunks that the last round deleted.
    pub deleted: u64,
    /// Frames that the last round moved into fuller stripes.
    pub moved: u64,
    /// Why the last round ended early; empty when it did not.
    pub error: String,
    /// Bytes of the shards of dropped stripes that wait to be freed.
    #[serde(default)]
    pub waiting_bytes: u64,
    /// Chunks that nobody names any more, and that wait for their grace or for a pass.
    #[serde(default)]
    pub condemned: u64,
    /// Bytes of their frames.
    #[serde(default)]
    pub condemned_bytes: u64,
    /// Time in which the server ran since the oldest of them was condemned, in milliseconds; 0 when there is none.
    #[serde(default)]
    pub oldest_condemned_ms: u64,
    /// When the last mark pass ended, in milliseconds since the Unix epoch; 0: none since the start.
    #[serde(default)]
    pub pass_ms: u64,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub pass_took_ms: u64,
    /// Stripes that are worth rewriting and wait, as far as the last round counted.
    #[serde(default)]
    pub backlog_stripes: u64,
    /// Bytes that may be freed in a day; absent: no limit.
    #[serde(default)]
    pub day_bytes: Option<u64>,
    /// Bytes of them that may be freed now; absent: no limit.
    #[serde(default)]
    pub day_left: Option<u64>,
    /// Bytes that compressing frames again, while their stripes were rewritten, has saved since the start.
    #[serde(default)]
    pub saved_bytes: u64,
    /// Manifests that the last pass could not read: their dedup domains give nothing back.
    #[serde(default)]
    pub unread_manifests: u64,
    /// Shards that could not be matched and were left alone since the start.
    #[serde(default)]
    pub refused: u64,
}

impl ReclaimAnswer {
    /// From the reclaimer's own.
    pub fn new(status: &ReclaimStatus) -> ReclaimAnswer {
        ReclaimAnswer {
            held: status.held.as_ref().map(ToString::to_string),
            rounds: status.rounds,
            freed_bytes: status.bytes,
            waiting: status.waiting as u64,
            deleted: status.last.deleted,
            moved: status.last.moved,
            error: status.error.clone(),
            waiting_bytes: status.waiting_bytes,
            condemned: status.condemned.chunks,
            condemned_bytes: status.condemned.bytes,
            oldest_condemned_ms: status.oldest_condemned_ms,
            pass_ms: status.pass_ms,
            pass_took_ms: status.pass_took_ms,
            backlog_stripes: status.last.backlog_stripes,
            day_bytes: (status.day_bytes < u64::MAX).then_some(status.day_bytes),
            day_left: (status.day_left < u64::MAX).then_some(status.day_left),
            saved_bytes: status.saved,
            unread_manifests: status.last.unread_manifests,
            refused: status.refused,
        }
    }
}

/// What the rules of buckets come to, in [`StatusAnswer`](crate::admin_client::StatusAnswer).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleAnswer {
    /// A pass over all buckets with rules is in progress.
    pub running: bool,
    /// Nothing is done by rules, because reclaim is held.
    pub held: bool,
    /// The day (UTC) of that pass, or of the last one; 0: there was none.
    pub day_ms: u64,
    /// When the last pass ended; 0: none has since the start.
    pub ended_ms: u64,
    /// What the pass in progress, or else the last one, has done since the start.
    pub pass: LifecycleDone,
    /// What all of them have done since the start, and restores.
    pub since_start: LifecycleDone,
    /// Why the last round ended early; empty if it did not.
    pub error: String,
    /// Buckets whose rules can't be followed: nothing is done in them. The first 100.
    pub unfollowed: Vec<UnfollowedLine>,
}

/// Numbers of versions, in [`LifecycleAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleDone {
    /// Were looked at.
    pub looked: u64,
    /// Current ones that expired, under a delete marker or for good.
    pub expired: u64,
    /// Others, and delete markers, that were deleted for good.
    pub deleted: u64,
    /// Moved to another storage class.
    pub moved: u64,
    /// Uploads that were given up.
    pub aborted: u64,
    /// Restored from the archive; a pass restores nothing.
    pub restored: u64,
    /// A lock keeps them, though a rule would have them gone.
    pub locked: u64,
    /// Had changed meanwhile: the next pass looks at them again.
    pub skipped: u64,
}

/// A bucket whose rules can't be followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfollowedLine {
    /// Its name.
    pub bucket: String,
    /// What is wrong with them.
    pub why: String,
}

impl LifecycleDone {
    fn new(report: &LifecycleReport) -> LifecycleDone {
        let LifecycleReport { looked, expired, deleted, moved, aborted, restored, locked, skipped, .. } = *report;
        LifecycleDone { looked, expired, deleted, moved, aborted, restored, locked, skipped }
    }

    /// Each by its name.
    pub fn each(&self) -> [(&'static str, u64); 8] {
        [
            ("looked", self.looked),
            ("expired", self.expired),
            ("deleted", self.deleted),
            ("moved", self.moved),
            ("aborted", self.aborted),
            ("restored", self.restored),
            ("locked", self.locked),
            ("skipped", self.skipped),
        ]
    }
}

impl LifecycleAnswer {
    /// From the lane's own.
    pub fn new(status: LifecycleStatus) -> LifecycleAnswer {
        let line = |of: metadata::keep::lifecycle::Unfollowed| UnfollowedLine { bucket: of.bucket, why: of.why };
        LifecycleAnswer {
            running: status.running,
            held: status.held,
            day_ms: status.day_ms,
            ended_ms: status.ended_ms,
            pass: LifecycleDone::new(&status.pass),
            since_start: LifecycleDone::new(&status.done),
            error: status.error,
            unfollowed: status.unfollowed.into_iter().map(line).collect(),
        }
    }

    /// What somebody should look at: one line, however many buckets there are.
    pub fn warning(&self) -> Option<String> {
        let first = self.unfollowed.first()?;
        let others = match self.unfollowed.len() - 1 {
            0 => String::new(),
            others => format!(", and {others} more: see stele status --json"),
        };
        let UnfollowedLine { bucket, why } = first;
        Some(format!("the lifecycle of bucket {bucket} can't be followed, nothing in it expires: {why}{others}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metadata::keep::status::{Alarm, WalkStatus};

    /// To a script that asks right after a start, "no stripe is short of a shard" must not be the answer of one who has not looked.
    #[test]
    fn all_is_well_only_after_somebody_has_looked() {
        let walked =
            |whole| KeepStatus { walk: WalkStatus { whole, ..WalkStatus::default() }, ..KeepStatus::default() };
        assert!(!RepairAnswer::new(&walked(false)).is_well());
        assert!(RepairAnswer::new(&walked(true)).is_well());
        let alarmed = KeepStatus { alarms: vec![Alarm::Overflowed], ..walked(true) };
        assert!(!RepairAnswer::new(&alarmed).is_well());
        let wounded = KeepStatus { wounded: [(1, 1)].into(), ..walked(true) };
        assert!(!RepairAnswer::new(&wounded).is_well());
    }

    #[test]
    fn rules_that_cannot_be_followed_are_one_warning() {
        let line = |bucket: &str| UnfollowedLine { bucket: bucket.to_owned(), why: "no such class".to_owned() };
        let of = |unfollowed| LifecycleAnswer { unfollowed, ..LifecycleAnswer::default() }.warning();
        assert_eq!(of(Vec::new()), None);
        let one = "the lifecycle of bucket a can't be followed, nothing in it expires: no such class";
        assert_eq!(of(vec![line("a")]).unwrap(), one);
        let two = of(vec![line("a"), line("b")]).unwrap();
        assert_eq!(two, format!("{one}, and 1 more: see stele status --json"));
    }
}
