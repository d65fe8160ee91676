//! Would the tests notice if a safety step were missing? Each step is taken away, and something must go wrong.
//!
//! For each switch there is a scenario that passes with the step and fails without it: either the enumeration of crashes of
//! `crash_images`, ended at the first violation, or a story of its own where a crash alone is harmless because another copy,
//! another drive or a later check makes up for it.
#![allow(clippy::unwrap_used, missing_docs)]

mod bytes;
mod data;
mod drives;
mod journal;
mod keep;
mod rules;

use drives::{FAILED, MISSED};
use futures::future::{FutureExt, LocalBoxFuture};
use std::path::PathBuf;
use std::time::Instant;
use storage_node::sabotage::{Sabotage, SabotageSet};
use tests::crash::{Plan, Recording, enumerate};
use tests::oracle::Wrong;
use tests::workloads::{self, Death};
use tests::world::Shape;

/// A step that a scenario takes away when its moment has come (or never, to see that it passes).
#[derive(Clone)]
pub struct Switch {
    pub set: SabotageSet,
    step: Sabotage,
    armed: bool,
}

impl Switch {
    pub fn on(&self) {
        self.set.set(self.step, self.armed);
    }
}

pub type Story = fn(Switch) -> LocalBoxFuture<'static, Result<(), Wrong>>;
type Workload = fn(Shape) -> LocalBoxFuture<'static, Result<Recording, Wrong>>;

enum Scenario {
    /// Crashes of these workloads.
    Crashes(Vec<Workload>),
    /// A story.
    Story(Story),
    /// Tests of the crate that takes the step: what deletes and moves is planned and judged there, without a whole store.
    Crate,
}

/// A workload on the shape that it is given.
macro_rules! workload {
    ($shape:ident => $run:expr) => {{
        let workload: Workload = |$shape| async move { $run.await }.boxed_local();
        workload
    }};
}

/// A story by its name.
macro_rules! story {
    ($story:path) => {
        Scenario::Story(|switch| $story(switch).boxed_local())
    };
}

/// The scenario of each step. There is no catch-all: a new switch does not compile without one.
fn scenario(step: Sabotage) -> Scenario {
    let first_start = workload!(s => workloads::first_start(3, &s));
    let put_small = workload!(s => workloads::put_small(3, &s));
    let put_large = workload!(s => workloads::put_large(3, &s));
    let one_sync = workload!(s => workloads::ensemble_change(3, &s, Death::OneSync));
    let errors = workload!(s => workloads::ensemble_change(3, &s, Death::Errors));
    let sealing = workload!(s => workloads::sealing(3, &s));
    match step {
        Sabotage::DurableFileSync | Sabotage::DurableDirSync | Sabotage::DurableRename => {
            Scenario::Crashes(vec![first_start, errors])
        }
        Sabotage::RecordSync | Sabotage::SegmentDirSync => Scenario::Crashes(vec![put_small, put_large]),
        // The record's own sync covers the header as well, so nothing acknowledged is lost; but a crash before it can leave
        // records behind a header that is not there, which is then reported as bit rot.
        Sabotage::SegmentHeaderSync => Scenario::Crashes(vec![put_small, put_large, sealing]),
        Sabotage::FileIdentity => story!(drives::unlinked_segment),
        Sabotage::IdentityCheck => story!(drives::unlinked_segment),
        Sabotage::DirectoryIdentity => story!(drives::exchanged_directory),
        Sabotage::DriveLock => story!(drives::two_servers),
        Sabotage::FormatKnown => story!(drives::empty_directory_of_a_known_drive),
        Sabotage::Reserve => story!(drives::full_drives),
        Sabotage::Poison => Scenario::Crashes(vec![one_sync]),
        // One bad input is found by decoding again without it; two at once need what says which they are.
        Sabotage::BlockSeeds => story!(data::misdirected_blocks),
        Sabotage::VerifyBlocks => story!(data::rotten_blocks),
        Sabotage::StripeRoot => story!(data::shards_of_another_generation),
        Sabotage::SealVerify => story!(data::writes_lost_while_sealing),
        Sabotage::SealReaders => story!(data::segments_freed_under_a_reader),
        Sabotage::SealCommitFirst => Scenario::Crashes(vec![sealing]),
        Sabotage::Barriers => story!(data::rot_before_good_records),
        Sabotage::JournalAllMembers => Scenario::Crashes(vec![one_sync]),
        Sabotage::JournalBeforeAck => Scenario::Crashes(vec![put_small]),
        Sabotage::RegisterBeforeAck => story!(journal::change_that_nobody_knows_of),
        Sabotage::TailCopy => story!(journal::old_members_lost_after_a_change),
        Sabotage::TailByEpoch => story!(journal::longer_tail_of_an_older_epoch),
        Sabotage::RegisterMajority => story!(journal::old_members_alone),
        Sabotage::AbsenceCount => story!(journal::both_members_lost),
        Sabotage::IndexAhead => story!(journal::older_drives_under_a_newer_index),
        Sabotage::ReplayChain => story!(journal::index_of_another_history),
        Sabotage::StartEpochEntry => Scenario::Crashes(vec![put_small]),
        Sabotage::EpochFence => story!(rules::fenced_writer),
        Sabotage::ReviveCondemned => story!(rules::copy_of_what_was_deleted),
        Sabotage::MissingChunks => story!(rules::chunk_that_nobody_stored),
        Sabotage::CommitCondition => story!(rules::conditions),
        Sabotage::VersionLock => story!(rules::locked_version),
        Sabotage::SealCondition => story!(rules::seal_of_what_moved),
        Sabotage::RepairCondition => story!(rules::repair_of_what_moved),
        Sabotage::ClockMonotonic => story!(rules::clock_set_back),
        Sabotage::SteadyCatchUp => story!(keep::a_week_off),
        Sabotage::CatchUpBound => story!(keep::a_year_off),
        Sabotage::ScrubMedium => story!(keep::rot_below_the_cache),
        Sabotage::ScrubCursor => story!(keep::restart_during_a_pass),
        Sabotage::SelfTest => story!(bytes::start_with_a_wrong_erasure_code),
        Sabotage::FrameCheck => story!(bytes::encoder_that_errs),
        Sabotage::DomainKeysFirst => story!(bytes::first_object_of_a_domain),
        Sabotage::NewerRegister => story!(bytes::registers_of_a_newer_version),
        Sabotage::ChunkIdCheck => story!(bytes::frames_of_other_bytes),
        Sabotage::ReclaimHold
        | Sabotage::ReclaimGrace
        | Sabotage::ReclaimMark
        | Sabotage::ReclaimState
        | Sabotage::DropCheck
        | Sabotage::UnknownIsAbsent
        | Sabotage::FreeGrace
        | Sabotage::OrphanEpoch
        | Sabotage::RestripeVerify
        | Sabotage::RepairGrace
        | Sabotage::ReturnVerify
        | Sabotage::SuspectCheck
        | Sabotage::RebuildVerify
        | Sabotage::RegisterSettle
        | Sabotage::RegisterClaim
        | Sabotage::PurgeSealed
        | Sabotage::FreeHeaderCheck
        | Sabotage::FreeAuthority
        | Sabotage::FreeLog => Scenario::Crate,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// How often a story is told. Some stories must meet a moment, which a busy machine may miss: for a step that is missing until
/// somebody notices, and with the step taken, where once is enough, until the story says that it met it.
const TELLINGS: usize = 5;

/// Runs a scenario; gives the number of images and what went wrong.
fn play(step: Sabotage, armed: bool) -> (usize, Result<(), String>) {
    let mut played = play_once(step, armed);
    for _ in 1..TELLINGS {
        let told = if armed { noticed(&played.1) } else { !missed(&played.1) };
        if told || !matches!(scenario(step), Scenario::Story(_)) {
            break;
        }
        played = play_once(step, armed);
    }
    played
}

/// The sources in the crates that name this step, besides the list of switches: the tests that take it away, and the code
/// that takes it. That the tests notice is theirs to assert; that there are any, ours.
fn sources(step: Sabotage) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let name = format!("Sabotage::{step:?}");
    let names = |text: &str| text.split(&name).skip(1).any(|rest| !rest.starts_with(char::is_alphanumeric));
    let package = tests::process::package();
    let workspace = package.parent().unwrap();
    let mut left: Vec<PathBuf> = ["storage-node/src", "metadata/src"].map(|source| workspace.join(source)).into();
    let mut found = Vec::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_list = path.ends_with("storage-node/src/sabotage.rs");
            if !is_list && names(&std::fs::read_to_string(&path).unwrap()) {
                found.push(path.strip_prefix(workspace).unwrap().to_owned());
            }
        }
    }
    found.into_iter().partition(|path| path.iter().any(|part| part.to_string_lossy().starts_with("tests")))
}

/// What became of a step whose tests are elsewhere.
fn told_elsewhere(step: Sabotage) -> Result<(), String> {
    match sources(step) {
        (tests, _) if !tests.is_empty() => Err(format!("see {}", tests[0].display())),
        (_, code) if code.is_empty() => Err("nothing takes this step yet".to_owned()),
        _ => Ok(()),
    }
}

/// A story that comes to no end of its own says nothing about the step.
fn noticed(played: &Result<(), String>) -> bool {
    played.as_ref().is_err_and(|wrong| !wrong.starts_with(FAILED)) && !missed(played)
}

fn missed(played: &Result<(), String>) -> bool {
    played.as_ref().is_err_and(|wrong| wrong.starts_with(MISSED))
}

fn play_once(step: Sabotage, armed: bool) -> (usize, Result<(), String>) {
    let set = SabotageSet::default();
    match scenario(step) {
        Scenario::Story(story) => {
            let told = runtime().block_on(async {
                let story = story(Switch { set, step, armed });
                tokio::time::timeout(std::time::Duration::from_secs(180), story).await
            });
            let told = told.unwrap_or_else(|_| Err(Wrong::new("hangs", "")));
            (0, told.map_err(|wrong| wrong.to_string()))
        }
        Scenario::Crate => (0, if armed { told_elsewhere(step) } else { Ok(()) }),
        Scenario::Crashes(workloads) => {
            set.set(step, armed);
            let mut images = 0;
            for workload in workloads {
                let recording = match runtime().block_on(workload(Shape::small("1+1").sabotaged(set.clone()))) {
                    Ok(recording) => recording,
                    Err(wrong) => return (images, Err(wrong.to_string())),
                };
                // Without the switch crash_images looks at far more of the same.
                let plan = Plan { stop_at_first: true, ..Plan::distinct(if armed { 3000 } else { 150 }) };
                let report = enumerate(&recording, plan);
                images += report.distinct;
                if let Some(finding) = report.findings.first() {
                    return (images, Err(format!("{}: {finding}", recording.name)));
                }
            }
            (images, Ok(()))
        }
    }
}

/// The rules of docs/ARCHITECTURE.md, R1 to R18, that a step is there for, as the list of switches says.
fn rules_of_steps() -> Vec<(String, Vec<u32>)> {
    let package = tests::process::package();
    let list = package.parent().unwrap().join("storage-node/src/sabotage.rs");
    let text = std::fs::read_to_string(list).unwrap();
    let (_, list) = text.split_once("\nswitches! {\n").unwrap();
    let (list, _) = list.split_once("\n}\n").unwrap();
    let (mut steps, mut rules) = (Vec::new(), Vec::new());
    for line in list.lines().map(str::trim) {
        match line.strip_prefix("///") {
            Some(words) => {
                let named = words.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(|word| word.strip_prefix('R'));
                rules.extend(named.filter_map(|number| number.parse::<u32>().ok()));
            }
            None => steps.push((line.trim_end_matches(',').to_owned(), std::mem::take(&mut rules))),
        }
    }
    steps
}

/// A rule that no switch breaks is a rule of which nobody knows whether a test would notice.
#[test]
fn every_rule_has_a_step_that_can_be_taken_away() {
    let steps = rules_of_steps();
    assert_eq!(steps.len(), Sabotage::ALL.len(), "the list of switches was read as {steps:?}");
    let mut without = Vec::new();
    for rule in 1..=18 {
        let of_it: Vec<&str> =
            steps.iter().filter(|(_, rules)| rules.contains(&rule)).map(|(name, _)| name.as_str()).collect();
        println!("R{rule}: {}", of_it.join(", "));
        if of_it.is_empty() {
            without.push(rule);
        }
    }
    assert!(without.is_empty(), "no step is there for rules {without:?}");
}

#[test]
fn every_missing_safety_step_is_noticed() {
    let only = std::env::var("STELE_SABOTAGE_ONLY").ok();
    let (mut unnoticed, mut wrong) = (Vec::new(), Vec::new());
    for &step in Sabotage::ALL.iter().filter(|step| only.as_ref().is_none_or(|only| format!("{step:?}") == *only)) {
        let begin = Instant::now();
        let (_, with) = play(step, false);
        let (images, without) = play(step, true);
        let caught = match &without {
            Err(caught) if noticed(&without) => caught.chars().take(150).collect(),
            _ => format!("NOT NOTICED {without:?}"),
        };
        println!("{step:?} ({images} images, {:.1?}): {caught}", begin.elapsed());
        if let Err(error) = with {
            println!("    WRONG WITH THE STEP TAKEN: {error}");
            wrong.push((step, error));
        }
        if !noticed(&without) {
            unnoticed.push(step);
        }
    }
    assert!(wrong.is_empty(), "these fail although the step is taken: {wrong:?}");
    assert!(unnoticed.is_empty(), "nobody notices that these are missing: {unnoticed:?}");
}
