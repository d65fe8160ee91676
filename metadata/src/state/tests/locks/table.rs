//! Every command there is: whether it is played here, or why it can't take anything from a version.
//!
//! A new command does not compile until it has a line, and one that is said to be played and never comes about fails the test.

use crate::command::Command;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Played, and changed something at least once in a run.
    Played,
    /// Played, and without effect in this world: everything is counted, and the level is raised already.
    Idle,
    /// Not played, and why.
    Cannot(&'static str),
}

use Part::{Cannot, Idle, Played};

macro_rules! commands {
    ($($name:ident: $part:expr,)*) => {
        pub(super) const ALL: &[(&str, Part)] = &[$((stringify!($name), $part),)*];

        pub(super) fn name_of(command: &Command) -> &'static str {
            match command {
                $(Command::$name { .. } => stringify!($name),)*
            }
        }
    };
}

/// Of a queue of what is still to be copied or told.
const QUEUE: &str = "changes a queue and its rule: no version, no chunk";
/// Of the topology.
const WHERE: &str =
    "says where drives and nodes are; where shards lie is in the stripes' rows, which it does not touch";

commands! {
    CreateBucket: Played,
    DeleteBucket: Played,
    ConfigureBucket: Played,
    ChangeBucket: Played,
    PutBucketConfig: Played,
    SetQuota: Played,
    CountUsage: Idle,
    CommitStripe: Played,
    CommitObject: Played,
    DeleteVersions: Played,
    ChangeVersion: Played,
    FollowRules: Played,
    DeleteObject: Played,
    DeleteObjects: Played,
    CreateUpload: Played,
    CommitPart: Played,
    CompleteUpload: Played,
    AbortUpload: Played,
    PutAccount: Played,
    CreateAccount: Played,
    ReplaceAccount: Played,
    DeleteAccount: Played,
    PutDomain: Played,
    CreateKmsKey: Played,
    SetKmsKey: Played,
    Rewrap: Played,
    PutSetting: Played,
    StartEpoch: Played,
    RenewEpoch: Played,
    GrantEpoch: Played,
    RegisterDrive: Played,
    SeeDrive: Cannot(WHERE),
    SettleCells: Cannot(WHERE),
    PutNode: Cannot(WHERE),
    RaiseLevel: Idle,
    ClockTick: Played,
    Seal: Played,
    MoveShards: Played,
    ReplaceLedger: Played,
    MoveFrames: Played,
    DeleteChunks: Played,
    SpareChunks: Played,
    RecountChunks: Played,
    CondemnChunks: Played,
    DropStripes: Played,
    StripesFreed: Played,
    HoldReclaim: Played,
    ReleaseReclaim: Played,
    PutCheckpoint: Played,
    SetReplication: Cannot(QUEUE),
    UnsetReplication: Cannot(QUEUE),
    PauseReplication: Cannot(QUEUE),
    WalkReplication: Cannot(QUEUE),
    QueueReplication: Cannot(QUEUE),
    Replicated: Cannot(QUEUE),
    NoticesDone: Cannot(QUEUE),
    LostNoticesSeen: Cannot(QUEUE),
    Iam: Cannot("says who may ask; whoever may is played as one who may all, and bypasses what can be bypassed"),
    AcceptLoss: Played,
}

/// How often each command changed something.
pub(super) type Seen = BTreeMap<&'static str, u64>;

/// Whether everything that is said to be played was.
pub(super) fn check(seen: &Seen) {
    for (name, part) in ALL {
        match part {
            Played => {
                assert!(seen.contains_key(name), "{name} is said to be played, and never changed anything: {seen:?}")
            }
            Idle | Cannot(_) => assert!(!seen.contains_key(name), "{name} is played, and {part:?}"),
        }
    }
}
